// Una istruzione mma per formato. I frammenti arrivano già disposti: ogni thread legge i suoi.
#define FRAGMENTS int lane = threadIdx.x; uint4 A = a[lane]; uint2 B = b[lane]
#define MMA(name, instruction) \
extern "C" __global__ void name(const uint4 *a, const uint2 *b, float4 *c) \
{ FRAGMENTS; float4 D = c[lane]; \
  asm volatile("mma.sync.aligned." instruction \
      " {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};" \
      : "+f"(D.x), "+f"(D.y), "+f"(D.z), "+f"(D.w) \
      : "r"(A.x), "r"(A.y), "r"(A.z), "r"(A.w), "r"(B.x), "r"(B.y)); \
  c[lane] = D; }

MMA(mma_f16, "m16n8k16.row.col.f32.f16.f16.f32")
MMA(mma_bf16, "m16n8k16.row.col.f32.bf16.bf16.f32")
MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#if __CUDA_ARCH__ >= 890
MMA(mma_e4m3, "m16n8k32.row.col.f32.e4m3.e4m3.f32")
#endif
