// Due strade, ognuna con un ciclo che dura quanto dice il dato: i 32 thread di un warp divergono.
extern "C" __global__ void branch(const int *times, float *x)
{
    int n = times[threadIdx.x];
    float v = x[threadIdx.x];
    if (n > 0)
#pragma unroll 1
        for (int t = 0; t < n; ++t)
            v = v * v + 1;
    else
#pragma unroll 1
        for (int t = 0; t > n; --t)
            v = v * v - 1;
    x[threadIdx.x] = v;
}
