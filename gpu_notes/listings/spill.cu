// 24 accumulatori per thread: stanno nei registri, se il limite dato al compilatore lo permette.
extern "C" __global__ void spill(const float *x, float *y, int n)
{
    float sum[24] = {};
    x += threadIdx.x * 64;
#pragma unroll 1
    for (int i = 0; i < n; ++i)
#pragma unroll
        for (int j = 0; j < 24; ++j)
            sum[j] += x[i] * x[i + j];
#pragma unroll
    for (int j = 0; j < 24; ++j)
        y[threadIdx.x * 24 + j] = sum[j];
}
