// Lo stesso ciclo su numeri FP16. Due modi: accumulare in FP32, oppure in FP16 a coppie.
#include <cuda_fp16.h>

extern "C" __global__ void matmul_half(const __half *a, const __half *b, float *c, int n)
{
    int row = blockIdx.y * blockDim.y + threadIdx.y;
    int col = blockIdx.x * blockDim.x + threadIdx.x;
    float sum = 0;
#pragma unroll 1
    for (int k = 0; k < n; ++k)
        sum += __half2float(a[row * n + k]) * __half2float(b[k * n + col]);
    c[row * n + col] = sum;
}

// Ogni thread calcola due colonne vicine: una parola da 32 bit contiene due FP16.
extern "C" __global__ void matmul_half2(const __half *a, const __half2 *b, __half2 *c, int n)
{
    int row = blockIdx.y * blockDim.y + threadIdx.y;
    int pair = blockIdx.x * blockDim.x + threadIdx.x;
    __half2 sum = __float2half2_rn(0);
#pragma unroll 1
    for (int k = 0; k < n; ++k)
        sum = __hfma2(__half2half2(a[row * n + k]), b[k * (n / 2) + pair], sum);
    c[row * (n / 2) + pair] = sum;
}
