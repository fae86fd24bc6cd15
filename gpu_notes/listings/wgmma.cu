// Hopper: un gruppo di quattro warp, gli operandi in memoria condivisa detti da due descrittori.
extern "C" __global__ void wgmma(unsigned long long a, unsigned long long b, float4 *c)
{
    float4 D = {};
    asm volatile("wgmma.fence.sync.aligned;");
    asm volatile("wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16"
                 " {%0, %1, %2, %3}, %4, %5, 1, 1, 1, 0, 0;"
                 : "+f"(D.x), "+f"(D.y), "+f"(D.z), "+f"(D.w)
                 : "l"(a), "l"(b));
    asm volatile("wgmma.commit_group.sync.aligned;");
    asm volatile("wgmma.wait_group.sync.aligned 0;"
                 : "+f"(D.x), "+f"(D.y), "+f"(D.z), "+f"(D.w));
    c[threadIdx.x] = D;
}
