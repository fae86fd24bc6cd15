// La piastrella dell'interfaccia WMMA, 16 × 16 × 16, scritta nell'assembler virtuale.
extern "C" __global__ void wmma(const float *a, const float *b, float *c)
{
    asm volatile("{ .reg .b32 A<8>, B<8>; .reg .f32 C<8>;"
        " wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {A0,A1,A2,A3,A4,A5,A6,A7}, [%0], 16;"
        " wmma.load.b.sync.aligned.col.m16n16k16.global.f16 {B0,B1,B2,B3,B4,B5,B6,B7}, [%1], 16;"
        " wmma.load.c.sync.aligned.row.m16n16k16.global.f32 {C0,C1,C2,C3,C4,C5,C6,C7}, [%2], 16;"
        " wmma.mma.sync.aligned.row.col.m16n16k16.f32.f32 {C0,C1,C2,C3,C4,C5,C6,C7},"
        " {A0,A1,A2,A3,A4,A5,A6,A7}, {B0,B1,B2,B3,B4,B5,B6,B7}, {C0,C1,C2,C3,C4,C5,C6,C7};"
        " wmma.store.d.sync.aligned.row.m16n16k16.global.f32 [%2], {C0,C1,C2,C3,C4,C5,C6,C7}, 16; }"
        :: "l"(a), "l"(b), "l"(c) : "memory");
}
