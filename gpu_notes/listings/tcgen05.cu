// Blackwell per centri di calcolo: un solo thread avvia il prodotto; il risultato resta in TMEM.
extern "C" __global__ void tcgen05(unsigned d, unsigned long long a, unsigned long long b,
                                   unsigned kind)
{
    if (threadIdx.x == 0)
        asm volatile("{ .reg .pred p; setp.ne.u32 p, 1, 0;"
                     " tcgen05.mma.cta_group::1.kind::f16 [%0], %1, %2, %3, p; }"
                     :: "r"(d), "l"(a), "l"(b), "r"(kind));
}
