// Una funzione per kernel: in quali istruzioni si traduce?
#define KERNEL(name, expression) \
    extern "C" __global__ void k_##name(float *y) { float x = *y; *y = expression; }

KERNEL(expf, expf(x))
KERNEL(fast_expf, __expf(x))
KERNEL(logf, logf(x))
KERNEL(fast_logf, __logf(x))
KERNEL(sinf, sinf(x))
KERNEL(fast_sinf, __sinf(x))
KERNEL(sqrtf, sqrtf(x))
KERNEL(rsqrtf, rsqrtf(x))
KERNEL(tanhf, tanhf(x))
