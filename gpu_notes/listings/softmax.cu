// La softmax di una riga di al più 32 numeri: un warp per riga, un numero per thread.
extern "C" __global__ void softmax(const float *scores, float *weights, int n)
{
    int lane = threadIdx.x, at = blockIdx.x * n + lane;
    float x = lane < n ? scores[at] : __int_as_float(0xff800000);
    float top = x;
    for (int far = 16; far > 0; far /= 2)
        top = fmaxf(top, __shfl_xor_sync(0xffffffff, top, far));
    float e = expf(x - top), sum = e;
    for (int far = 16; far > 0; far /= 2)
        sum += __shfl_xor_sync(0xffffffff, sum, far);
    if (lane < n)
        weights[at] = e / sum;
}
