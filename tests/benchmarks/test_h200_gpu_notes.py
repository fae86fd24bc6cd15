"""Le note sulla GPU: ciò che dicono delle misure su una H200."""

import re

import pytest
import torch

from gpu_notes.layer_to_gpu import Product
from gpu_notes.number_formats import (
    BF16,
    E4M3,
    FP16,
    TF32,
    Format,
    product,
    quantize,
    relative_error,
)
from gpu_notes.roofline import (
    READER,
    Batch,
    Layer,
    encoder,
    from_gpu,
    gemm,
    layer_works,
    time_bound,
)
from gpu_notes.sm_map import H200

BASE = Layer(512, 8, 2048)

DEPTH = 768

WIDE = 3072


@pytest.fixture
def ceilings(sessions):
    """I tetti delle due sessioni, la più recente per prima."""
    return [it["ceilings"] for it in reversed(sessions)]


def bound(layer: Layer, batch: Batch, *, relu: bool = True) -> float:
    """Il limite inferiore di uno strato, con l'attenzione fusa, ai valori dichiarati."""
    works = layer_works(batch, layer, fused=True)
    return sum(time_bound(it, from_gpu(H200)) for it in works if relu or it.name != "ReLU")


def linear1_bound(tokens: int) -> float:
    return time_bound(gemm("", tokens, DEPTH, WIDE, 2), from_gpu(H200))


def proofs(h200, group: str, label: str):
    return h200[group, label, "float32"]["proofs"]


def counted(proof) -> dict[str, int]:
    """Le istruzioni che ncu ha contato, per operazione."""
    found = re.findall(r"(\d+) (\w+MMA)\b", proof["evidence"]["contatori"]["reason"])
    return {operation: int(count) for count, operation in found}


def active(proof) -> float:
    """Per quanta parte dei cicli la pipe dei Tensor Core è attiva."""
    percent = re.search(r"([\d,]+)\s%", proof["evidence"]["contatori"]["reason"])[1]
    return float(percent.replace(",", ".")) / 100


# La nota d'insieme, la mappa, la memoria.


def test_literal_and_fused_attention_on_an_h200(h200):
    for n, letter, fused in ((10, 14.4e-6, 7.8e-6), (8192, 3100e-6, 286e-6)):
        it = h200["s3_2_1_scaled_dot_product", f"n = {n}", "bfloat16"]["contestants"]
        assert it["scaled_dot_product_attention"]["median"] == pytest.approx(letter, rel=0.02)
        assert it["fused_attention"]["median"] == pytest.approx(fused, rel=0.02)


def test_one_head_at_a_time_keeps_the_card_waiting(h200):
    """Con 10 token si vede la CPU; con 50 frasi da 500, in FP32, la scheda."""
    few = h200["s3_2_2_multi_head", "1×10, 768/12", "bfloat16"]["contestants"]
    one, all_ = few["una testa alla volta"], few["softmax esplicita"]
    assert one["queueing"] == pytest.approx(3.1e-3, rel=0.02)
    assert all_["queueing"] == pytest.approx(0.27e-3, rel=0.02)
    assert one["median"] > one["queueing"] / 2 > 10 * all_["median"]
    many = h200["s3_2_2_multi_head", "50×500, 512/8", "float32"]["contestants"]
    one, all_ = many["una testa alla volta"], many["softmax esplicita"]
    assert one["queueing"] < one["median"]
    assert one["median"] == pytest.approx(3.2e-3, rel=0.02)
    assert all_["median"] == pytest.approx(2.5e-3, rel=0.02)


def test_the_cpu_queues_a_layer_norm_in_ten_times_the_time_of_the_card(h200):
    it = h200["s3_1_layer_norm", "10 × 768", "bfloat16"]["contestants"]["LayerNorm"]
    assert it["queueing"] == pytest.approx(58e-6, rel=0.02)
    assert it["median"] == pytest.approx(6.1e-6, rel=0.02)


def test_copy_and_product_of_both_sessions(ceilings):
    copies = [it["copy_gbs"] for it in ceilings]
    assert copies == [pytest.approx(4290, rel=0.005), pytest.approx(4260, rel=0.005)]
    assert all(round(it / 4800, 2) == 0.89 for it in copies)
    products = [it["gemm"]["BF16"]["gflops"] for it in ceilings]
    assert products == [pytest.approx(781e3, rel=0.002), pytest.approx(786e3, rel=0.002)]


def test_the_card_slows_down_at_its_power_limit(ceilings):
    for it, mhz, watt in zip(ceilings, (1470, 1560), (689, 688), strict=True):
        clocks = it["clocks"]
        assert (clocks["sm_mhz"], round(clocks["watt"])) == (mhz, watt)
        assert clocks["sm_max_mhz"] == 1980
        assert clocks["sm_mhz"] * 1e6 < H200.tensor_clock < clocks["sm_max_mhz"] * 1e6


def test_feed_forward_of_ten_tokens_is_far_from_reading_its_weights(h200):
    it = h200["s3_3_feed_forward", "10, 768/3072", "bfloat16"]["contestants"]
    assert it["FeedForward"]["median"] == pytest.approx(19e-6, rel=0.02)
    assert it["soli prodotti"]["median"] == pytest.approx(16e-6, rel=0.02)
    assert 2 * 2 * DEPTH * WIDE / H200.bandwidth == pytest.approx(2e-6, rel=0.02)


# Il roofline.


@pytest.mark.parametrize(
    ("tokens", "limit", "measured", "times"),
    [
        (10, 1.0, 7.3, 7.3),
        (64, 1.1, 7.3, 6.7),
        (1024, 4.9, 12.6, 2.6),
        (8192, 39.1, 59.2, 1.5),
        (25_000, 119.2, 166.7, 1.4),
    ],
)
def test_linear1_against_its_bound(h200, tokens, limit, measured, times):
    contest = h200["tensor_cores", f"{tokens}×768×3072", "float32"]
    found = contest["contestants"]["BF16"]["median"]
    assert linear1_bound(tokens) * 1e6 == pytest.approx(limit, abs=0.06)
    assert found * 1e6 == pytest.approx(measured, abs=0.06)
    assert found / linear1_bound(tokens) == pytest.approx(times, abs=0.06)


def test_the_product_of_25000_tokens_is_at_nine_tenths_of_the_measured_peak(h200):
    it = h200["tensor_cores", "25000×768×3072", "float32"]["contestants"]["BF16"]
    assert it["gemm_fraction"] == pytest.approx(0.90, abs=0.005)


def test_linear1_of_ten_tokens_stays_far_below_its_share_of_the_peak(h200):
    peak = 2 * 10 * DEPTH * WIDE / from_gpu(H200).matrix_peak
    assert peak / linear1_bound(10) == pytest.approx(0.048, rel=0.01)
    ten = h200["tensor_cores", "10×768×3072", "float32"]["contestants"]["BF16"]
    assert ten["datasheet_fraction"] == pytest.approx(0.0065, rel=0.01)


def test_the_shortest_call_lasts_four_microseconds(h200):
    fastest = min(
        score["median"] for contest in h200.values() for score in contest["contestants"].values()
    )
    sums = h200["s3_5_positional_encoding", "1×10, 768", "float32"]["contestants"]
    assert fastest == sums["LearnedPositions"]["median"] == pytest.approx(4e-6, rel=0.02)
    assert 3 * 4 * 10 * 768 / H200.bandwidth == pytest.approx(0.02e-6, rel=0.05)


def test_a_layer_of_ten_tokens_takes_17_times_its_bound(h200):
    it = h200["s3_1_encoder_layer", "1×10, 768/12", "bfloat16"]["contestants"]["EncoderLayer"]
    assert it["median"] == pytest.approx(52e-6, rel=0.02)
    assert bound(READER, encoder(1, 10)) == pytest.approx(3.06e-6, rel=0.01)
    assert it["median"] / bound(READER, encoder(1, 10)) == pytest.approx(17, rel=0.02)
    assert it["queueing"] == pytest.approx(412e-6, rel=0.02)
    assert it["queueing"] / it["median"] == pytest.approx(8, rel=0.03)


def test_a_layer_of_25000_tokens_takes_twice_its_bound(h200):
    it = h200["s3_1_encoder_layer", "50×500, 512/8", "bfloat16"]["contestants"]
    limit = bound(BASE, encoder(50, 500))
    assert limit == pytest.approx(260e-6, rel=0.005)
    assert bound(BASE, encoder(50, 500), relu=False) == pytest.approx(217e-6, rel=0.005)
    assert it["EncoderLayer"]["median"] == pytest.approx(513e-6, rel=0.01)
    assert it["nn.TransformerEncoderLayer"]["median"] == pytest.approx(468e-6, rel=0.01)
    assert it["EncoderLayer"]["median"] / limit == pytest.approx(2.0, rel=0.02)


def test_a_compiled_layer_norm_is_at_nine_tenths_of_a_copy(h200):
    it = h200["s3_1_layer_norm", "25000 × 1024", "bfloat16"]["contestants"]
    assert it["torch.compile"]["copy_fraction"] == pytest.approx(0.90, abs=0.01)
    assert it["LayerNorm"]["copy_fraction"] == pytest.approx(0.39, abs=0.01)


@pytest.mark.parametrize(("mask", "least", "most"), [("", 1.17, 1.37), (", causale", 1.09, 1.31)])
def test_heads_of_128_run_faster_than_heads_of_64_in_every_kernel(h200, mask, least, most):
    narrow, wide = (
        h200["beyond_flash_attention", f"n = 8192, d_k = {d_k}{mask}", "bfloat16"]
        for d_k in (64, 128)
    )
    assert narrow["flops"] == wide["flops"]
    gains = [
        score["median"] / wide["contestants"][name]["median"]
        for name, score in narrow["contestants"].items()
    ]
    assert len(gains) == 4
    assert min(gains) == pytest.approx(least, abs=0.006)
    assert max(gains) == pytest.approx(most, abs=0.006)


# Dallo strato alla GPU, il Tensor Core, Rosetta.


def test_linear1_executes_the_mma_of_the_count(h200):
    """Piastrelle 64 × 8, con i pesi sulle righe: 96 blocchi, 48 passi, quattro warp."""
    proof = proofs(h200, "tensor_cores", "10×768×3072")["BF16"]
    assert proof["kernels"].startswith("nvjet_sm90_tst_64x8_")
    blocks = WIDE // 64 * 2
    assert blocks == 96
    assert counted(proof)["GMMA"] == blocks * DEPTH // 16 * 4 == 18_432
    assert counted(proof)["GMMA"] == Product("", "", 10, DEPTH, WIDE).mma
    assert active(proof) == pytest.approx(0.029)


def test_linear1_in_tf32_computes_64_rows_and_splits_the_depth(h200):
    proof = proofs(h200, "tensor_cores", "10×768×3072")["TF32"]
    assert "s1688gemm_64x64" in proof["kernels"]
    assert "splitKreduce_kernel" in proof["kernels"]
    needed = WIDE // 8 * DEPTH // 8
    assert counted(proof) == {"HMMA": 4 * needed}
    assert 4 * needed == 147_456


def test_ncu_counts_every_gmma_among_the_hmma_too(h200):
    found = [
        counted(proof)
        for (group, _label, _dtype), contest in h200.items()
        if group.startswith("tensor_cores")
        for proof in contest["proofs"].values()
    ]
    warpgroup = [it for it in found if "GMMA" in it]
    assert len(warpgroup) > 20
    assert all(it["GMMA"] == it["HMMA"] for it in warpgroup)


def test_products_in_fp32_execute_no_tensor_instruction(h200):
    found = [
        contest["proofs"][name]
        for (group, _label, _dtype), contest in h200.items()
        if group.startswith("tensor_cores")
        for name in ("FP32", "Triton ieee")
        if name in contest["proofs"]
    ]
    assert len(found) == 11
    for proof in found:
        assert proof["evidence"]["contatori"]["reason"].startswith("0 istruzioni")
        assert proof["verdict"] == "no"


ODD = {
    "8192×767×3072": "8192×768×3072",
    "8192×768×3071": "8192×768×3072",
    "4096×768×50257": "4096×768×50304",
}


def slowdowns(h200, form: str) -> list[float]:
    """Quante volte più lento è ogni prodotto non allineato del suo vicino."""
    times = [
        [
            h200["tensor_cores_alignment", it, "float32"]["contestants"][form]["median"]
            for it in pair
        ]
        for pair in ODD.items()
    ]
    return [odd / even for odd, even in times]


def test_an_odd_size_costs_three_times_in_tf32_and_up_to_eight_in_16_bits(h200):
    assert slowdowns(h200, "TF32") == pytest.approx([3, 3, 3], rel=0.06)
    half = slowdowns(h200, "FP16") + slowdowns(h200, "BF16")
    assert (min(half), max(half)) == (pytest.approx(5.5, rel=0.01), pytest.approx(7.7, rel=0.01))
    assert max(slowdowns(h200, "BF16")) == slowdowns(h200, "BF16")[2]
    assert slowdowns(h200, "FP32") == pytest.approx([1, 1, 1], abs=0.01)


def test_at_an_odd_size_16_bits_are_no_faster_than_tf32(h200):
    contests = [h200["tensor_cores_alignment", it, "float32"]["contestants"] for it in ODD]
    half = [
        it[form]["median"] / it["TF32"]["median"] for it in contests for form in ("FP16", "BF16")
    ]
    assert min(half) >= 1
    assert max(half) == pytest.approx(1.37, abs=0.005)


def test_an_odd_size_stays_on_tensor_cores_with_an_older_instruction(h200):
    for label in ODD:
        for form in ("TF32", "FP16", "BF16"):
            proof = proofs(h200, "tensor_cores_alignment", label)[form]
            assert proof["verdict"] == "sì"
            assert re.search(r"cutlass_(75|80)_tensorop_\w*s1688gemm", proof["kernels"])
            assert set(counted(proof)) == {"HMMA"}
    by_tiles = 8192 // 16 * (3072 // 8) * (768 // 8)
    for form in ("TF32", "FP16", "BF16"):
        proof = proofs(h200, "tensor_cores_alignment", "8192×767×3072")[form]
        assert counted(proof)["HMMA"] == by_tiles == 18_874_368


def test_the_kernel_of_rosetta_executes_the_mma_of_its_tiles(h200):
    found = proofs(h200, "tensor_cores_ours", "1024×768×3072")
    assert counted(found["Triton ieee"]) == {}
    assert counted(found["Triton tf32"]) == {"HMMA": 1024 // 16 * (WIDE // 8) * (DEPTH // 8)}
    assert counted(found["Triton tf32"])["HMMA"] == 2_359_296


def test_the_kernel_of_rosetta_is_slower_than_cublas(h200):
    ours = h200["tensor_cores_ours", "1024×768×3072", "float32"]["contestants"]
    theirs = h200["tensor_cores", "1024×768×3072", "float32"]["contestants"]
    for mine, micros, other, reference in (
        ("Triton ieee", 182, "FP32", 132),
        ("Triton tf32", 84, "TF32", 24),
    ):
        assert ours[mine]["median"] * 1e6 == pytest.approx(micros, rel=0.01)
        assert theirs[other]["median"] * 1e6 == pytest.approx(reference, rel=0.01)
        assert ours[mine]["iqr"] > 0.2 * ours[mine]["median"]


# I formati.


@pytest.fixture(scope="module")
def matrices():
    """Numeri a caso come quelli della gara: meno righe, la stessa profondità."""
    generator = torch.Generator().manual_seed(2017)
    x = torch.randn(64, DEPTH, generator=generator)
    w = torch.randn(WIDE, DEPTH, generator=generator) / DEPTH**0.5
    return x, w, x.double() @ w.double().T


def measured_error(h200, form: str, rows: int = 1024, group: str = "tensor_cores") -> float:
    return proofs(h200, group, f"{rows}×768×3072")[form]["error"]


@pytest.mark.parametrize(
    ("form", "numbers", "output", "error", "expected"),
    [
        ("TF32", TF32, None, 2.93e-4, 2.93e-4),
        ("FP16", FP16, FP16, 3.59e-4, 3.59e-4),
        ("BF16", BF16, BF16, 2.87e-3, 2.88e-3),
        ("FP8", E4M3, BF16, 3.75e-2, 3.76e-2),
    ],
)
def test_error_on_a_card_is_that_of_operands_and_output(
    h200, matrices, form: str, numbers: Format, output: Format | None, error: float, expected: float
):
    x, w, exact = matrices
    scales = [it.abs().max().double() / E4M3.largest if form == "FP8" else 1.0 for it in (x, w)]
    y = product(x.double() / scales[0], w.double() / scales[1], numbers).double()
    y = y * scales[0] * scales[1]
    computed = relative_error(y if output is None else quantize(y, output), exact)
    assert measured_error(h200, form) == pytest.approx(error, rel=0.002)
    assert computed == pytest.approx(expected, rel=0.002)
    assert computed == pytest.approx(measured_error(h200, form), rel=0.01)


def test_our_kernel_errs_like_truncation_and_cublas_like_rounding(h200, matrices):
    x, w, exact = matrices
    kept = [(it.view(torch.int32) & ~0x1FFF).view(torch.float32).double() for it in (x, w)]
    ours = measured_error(h200, "Triton tf32", group="tensor_cores_ours")
    assert ours == pytest.approx(7.70e-4, rel=0.002)
    assert relative_error(kept[0] @ kept[1].T, exact) == pytest.approx(7.70e-4, rel=0.002)
    assert ours / measured_error(h200, "TF32") == pytest.approx(2.6, rel=0.02)
    proof = proofs(h200, "tensor_cores", "1024×768×3072")["TF32"]
    assert "GMMA" in counted(proof)


def in_parts(x, w, parts: int):
    """Il prodotto in FP32, una FMA dopo l'altra, in `parts` somme che si uniscono a coppie."""
    left, right = x.T.double(), w.T.double()
    sums = []
    for part in range(parts):
        total = torch.zeros(len(x), len(w), dtype=torch.float32)
        for k in range(part, DEPTH, parts):
            total = (left[k][:, None] * right[k] + total.double()).float()
        sums.append(total)
    while len(sums) > 1:
        sums = [a + b for a, b in zip(sums[::2], sums[1::2], strict=True)]
    return sums[0]


@pytest.mark.parametrize(
    ("rows", "parts", "error", "expected", "within"),
    [(1024, 1, 4.94e-7, 4.98e-7, 0.01), (10, 32, 1.12e-7, 1.09e-7, 0.05)],
)
def test_error_in_fp32_is_that_of_the_order_of_the_sums(
    h200, matrices, rows, parts, error, expected, within
):
    """L'errore di una somma in fila con 1024 righe; con 10, quello di una trentina di parziali."""
    x, w, exact = matrices
    computed = relative_error(in_parts(x[:10], w, parts).double(), exact[:10])
    assert measured_error(h200, "FP32", rows) == pytest.approx(error, rel=0.005)
    assert computed == pytest.approx(expected, rel=0.005)
    assert computed == pytest.approx(measured_error(h200, "FP32", rows), rel=within)


def test_our_kernel_in_fp32_has_the_error_of_cublas_to_the_last_digit(h200):
    ours = measured_error(h200, "Triton ieee", group="tensor_cores_ours")
    assert ours == measured_error(h200, "FP32")
