"""Le operazioni dell'articolo sulla H200: ciò che le pagine di §1 e §3 dicono, lo dicono i file."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from attention import Transformer, TransformerConfig
from attention.s3_1_encoder_decoder_stacks import layer_norm
from attention.s3_4_embeddings_softmax import in_cache
from attention.s3_5_positional_encoding import SinusoidalPositions

FP32 = "float32"
BF16 = "bfloat16"


def median(contest, who):
    return contest["contestants"][who]["median"]


def queueing(contest, who):
    return contest["contestants"][who]["queueing"]


def memory(contest, who):
    return contest["contestants"][who]["extra_bytes"]


def of_the_gemm(contest, who):
    return contest["contestants"][who]["gemm_fraction"]


def of_the_copy(contest, who):
    return contest["contestants"][who]["copy_fraction"]


def at_the_copy(contest, count=None):
    """I secondi che dei byte, o quelli della gara, chiedono alla banda della copia."""
    return (contest["bytes"] if count is None else count) / contest["copy_gbs"] / 1e9


class Operations(TorchDispatchMode):
    """Conta le operazioni di PyTorch che non cambiano solo forma."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


# §1.

CHAIN = "recurrence(Elman)"
HOISTED = "xW_x prima del ciclo"
LOOPS = (CHAIN, HOISTED, "nn.RNN")
ATTENTION = "MultiHeadAttention"


def test_a_chain_waits_for_the_cpu_at_every_step(h200):
    short, long = (h200["s1_introduction", f"n = {n}", FP32] for n in (10, 1024))
    assert median(long, ATTENTION) == pytest.approx(181e-6, rel=0.02)
    assert median(long, "nn.RNN") == pytest.approx(10.8e-3, rel=0.02)
    assert median(long, CHAIN) == pytest.approx(50.4e-3, rel=0.02)
    assert median(long, "nn.RNN") / median(long, ATTENTION) == pytest.approx(60, rel=0.02)
    assert median(long, CHAIN) / median(long, ATTENTION) == pytest.approx(278, rel=0.02)
    assert queueing(long, CHAIN) == pytest.approx(51.6e-3, rel=0.02)
    assert queueing(short, CHAIN) < 1e-3
    assert median(long, CHAIN) / 1024 == pytest.approx(49e-6, rel=0.02)
    assert median(short, CHAIN) / 10 == pytest.approx(14e-6, rel=0.04)
    half = h200["s1_introduction", "n = 1024", BF16]
    assert median(long, HOISTED) == pytest.approx(28.0e-3, rel=0.02)
    slower = [median(half, who) / median(long, who) for who in (HOISTED, CHAIN, "nn.RNN")]
    assert slower == pytest.approx([1.17, 1.24, 1.27], abs=0.01)
    assert median(half, ATTENTION) == pytest.approx(28e-6, rel=0.02)


def test_attention_is_ahead_far_less_when_nobody_waits(h200):
    """Con 10 posizioni la CPU ha finito entro gli 1,5 ms che la scheda passa a leggere."""
    few, many = (
        [h200["s1_introduction", f"n = {n}", it] for it in (FP32, BF16)] for n in (10, 1024)
    )

    def distances(found):
        ratios = [median(it, who) / median(it, ATTENTION) for it in found for who in LOOPS]
        return min(ratios), max(ratios)

    assert distances(many) == pytest.approx((60, 2200), rel=0.02)
    assert distances(few) == pytest.approx((3.7, 9.2), rel=0.02)
    assert all(queueing(it, who) < 1e-3 for it in few for who in (*LOOPS, ATTENTION))
    assert all(queueing(it, who) > median(it, who) > 5e-3 for it in many for who in LOOPS)


def test_the_recurrence_of_pytorch_is_not_fused_either(h200):
    """La CPU lavora più della scheda, e in proporzione ai passi."""
    short, long = (h200["s1_introduction", f"n = {n}", FP32] for n in (10, 1024))
    assert queueing(long, "nn.RNN") > median(long, "nn.RNN")
    assert queueing(long, "nn.RNN") / 1024 == pytest.approx(12e-6, rel=0.02)
    added = queueing(long, "nn.RNN") - queueing(short, "nn.RNN")
    assert added / 1014 == pytest.approx(12e-6, rel=0.05)


# §3.


def test_an_operation_of_generate_takes_25_microseconds(h200):
    """64 token da una frase di 64, encoder compreso: il conto dipende solo dagli strati."""
    config = TransformerConfig(layers=6, d_model=16, d_ff=32, heads=2, vocabulary=11)
    model = Transformer(config).double().eval()  # su CPU, in FP32, un'altra strada
    model.embedding.weight.data[config.end_id] = -100.0  # nessuna frase finisce prima
    source = torch.randint(3, config.vocabulary, (1, 64))
    with Operations() as counted:
        assert model.generate(source, extra=0).shape == (1, 64)
    per_token = counted.count / 64
    assert per_token == pytest.approx(130, rel=0.015)
    contest = h200["s6_1_decoding", "base, 1 frase", BF16]
    assert contest["us_per_token"]["Transformer.generate"] == pytest.approx(3300, rel=0.01)
    assert 3300 / per_token == pytest.approx(25, abs=0.8)


# §3.1.

NORM = "LayerNorm"
LETTER = "operazioni elementari"


def test_the_compiled_norm_reaches_the_copy_and_the_library_does_not(h200):
    many = h200["s3_1_layer_norm", "25000 × 1024", BF16]
    assert median(many, LETTER) == pytest.approx(335e-6, rel=0.02)
    assert median(many, NORM) == pytest.approx(62e-6, rel=0.02)
    assert median(many, NORM) == pytest.approx(median(many, "nn.LayerNorm"), rel=0.01)
    assert median(many, "torch.compile") == pytest.approx(26e-6, rel=0.02)
    assert of_the_copy(many, "torch.compile") == pytest.approx(0.90, abs=0.01)
    assert of_the_copy(many, NORM) == pytest.approx(0.39, abs=0.01)
    single = h200["s3_1_layer_norm", "25000 × 1024", FP32]
    assert of_the_copy(single, NORM) == pytest.approx(0.60, abs=0.01)


def test_ten_vectors_cost_a_kernel_and_not_their_bytes(h200):
    few = h200["s3_1_layer_norm", "10 × 768", FP32]
    assert at_the_copy(few) == pytest.approx(16e-9, rel=0.02)
    for who, card, cpu in ((NORM, 6.6e-6, 72e-6), (LETTER, 28.7e-6, 218e-6)):
        assert median(few, who) == pytest.approx(card, rel=0.02)
        assert queueing(few, who) == pytest.approx(cpu, rel=0.02)
    x, gain, bias = torch.randn(10, 768), torch.ones(768), torch.zeros(768)
    with Operations() as formula:
        layer_norm(x, gain, bias)
    assert formula.count == 9


LAYER = "EncoderLayer"
THEIRS = "nn.TransformerEncoderLayer"


def test_a_layer_loses_more_of_the_roof_where_products_are_faster(h200):
    single, half = (h200["s3_1_encoder_layer", "50×500, 512/8", it] for it in (FP32, BF16))
    assert half["gemm_gflops"] / single["gemm_gflops"] == pytest.approx(15, rel=0.03)
    for contest, ours, letter in ((single, 0.83, 0.66), (half, 0.46, 0.14)):
        assert of_the_gemm(contest, LAYER) == pytest.approx(ours, abs=0.006)
        assert of_the_gemm(contest, LETTER) == pytest.approx(letter, abs=0.006)
    assert median(half, LAYER) - median(half, THEIRS) == pytest.approx(45e-6, rel=0.02)
    assert memory(half, LAYER) == pytest.approx(230e6, rel=0.01)
    assert memory(half, THEIRS) == pytest.approx(154e6, rel=0.01)


def test_the_layer_of_the_reader_is_neither_arithmetic_nor_memory(h200):
    reader = h200["s3_1_encoder_layer", "1×10, 768/12", BF16]
    assert median(reader, LAYER) == pytest.approx(52e-6, rel=0.02)
    assert queueing(reader, LAYER) == pytest.approx(412e-6, rel=0.02)
    assert at_the_copy(reader) == pytest.approx(3.3e-6, rel=0.02)
    assert of_the_gemm(reader, LAYER) < 0.005


# §3.2.1.

FUSED = "fused_attention"
EQ_1 = "scaled_dot_product_attention"
PYTORCH = "F.scaled_dot_product_attention"


def test_fused_attention_is_eleven_times_faster_than_the_letter(h200):
    long = h200["s3_2_1_scaled_dot_product", "n = 8192", BF16]
    assert median(long, EQ_1) == pytest.approx(3.10e-3, rel=0.01)
    assert median(long, FUSED) == pytest.approx(0.29e-3, rel=0.02)
    assert median(long, EQ_1) / median(long, FUSED) == pytest.approx(11, rel=0.02)
    assert memory(long, EQ_1) == pytest.approx(2.15e9, rel=0.01)
    assert memory(long, FUSED) == pytest.approx(8.4e6, rel=0.01)
    assert long["contestants"][EQ_1]["gflops"] == pytest.approx(44e3, rel=0.02)
    intensity = 64 / 3  # d_k / 3, FLOP per byte
    assert intensity == pytest.approx(21.3, abs=0.05)
    assert intensity * long["copy_gbs"] == pytest.approx(92e3, rel=0.01)
    assert of_the_gemm(long, FUSED) == pytest.approx(0.62, abs=0.01)
    few = h200["s3_2_1_scaled_dot_product", "n = 10", BF16]
    assert median(few, FUSED) == pytest.approx(7.8e-6, rel=0.02)
    assert median(few, EQ_1) == pytest.approx(14.4e-6, rel=0.02)


def test_pytorch_takes_the_time_of_the_kernel_it_chooses(h200):
    half = h200["s3_2_1_scaled_dot_product", "n = 8192", BF16]
    assert median(half, PYTORCH) == pytest.approx(median(half, "cuDNN"), rel=0.001)
    for who, times in (("FlashAttention", 1.6), ("memory-efficient", 3.7), ("math", 32)):
        assert median(half, who) / median(half, PYTORCH) == pytest.approx(times, rel=0.02)
    single = h200["s3_2_1_scaled_dot_product", "n = 8192", FP32]
    assert not {"FlashAttention", "cuDNN"} & set(single["contestants"])
    assert median(single, PYTORCH) == pytest.approx(median(single, "memory-efficient"), rel=0.001)
    assert median(single, FUSED) == pytest.approx(4.00e-3, rel=0.01)
    assert of_the_gemm(single, FUSED) == pytest.approx(0.67, abs=0.01)
    assert median(single, EQ_1) == pytest.approx(6.68e-3, rel=0.01)


def test_causal_helps_the_fused_form_and_burdens_the_letter(h200):
    full, causal = (
        h200[group, "n = 8192", BF16] for group in ("s3_2_1_scaled_dot_product", "s3_2_1_causal")
    )
    assert median(causal, FUSED) == pytest.approx(0.195e-3, rel=0.02)
    assert median(causal, FUSED) < 0.7 * median(full, FUSED)
    assert median(causal, EQ_1) == pytest.approx(7.77e-3, rel=0.01)
    assert median(causal, EQ_1) > 2.5 * median(full, EQ_1)


@pytest.mark.parametrize(
    ("group", "fused", "letter"),
    [("s3_2_1_scaled_dot_product", 7.8e-6, 14.4e-6), ("s3_2_1_causal", 8.2e-6, 35.7e-6)],
)
def test_the_mask_burdens_only_the_letter_with_ten_tokens(group, fused, letter, h200):
    few = h200[group, "n = 10", BF16]
    assert median(few, FUSED) == pytest.approx(fused, rel=0.02)
    assert median(few, EQ_1) == pytest.approx(letter, rel=0.02)


def test_wider_heads_bring_cudnn_nearer_to_the_roof(h200):
    narrow, wide = (
        h200["beyond_flash_attention", f"n = 8192, d_k = {d_k}", BF16] for d_k in (64, 128)
    )
    assert of_the_gemm(narrow, "cuDNN") == pytest.approx(0.635, abs=0.01)
    assert of_the_gemm(wide, "cuDNN") == pytest.approx(0.87, abs=0.01)


# §3.2.2.

ONE_BY_ONE = "una testa alla volta"
UNFUSED = "softmax esplicita"
HEADS = "s3_2_2_multi_head"
TORCH = "nn.MultiheadAttention"


def test_one_product_beats_one_head_at_a_time(h200):
    """In BF16 è la CPU a fermare una testa alla volta; in FP32 no.

    Il confronto che isola le GEMM piccole è con chi usa anch'esso l'equazione (1) alla lettera.
    """
    single, half = (h200["s3_2_2_multi_head", "50×500, 512/8", it] for it in (FP32, BF16))
    assert median(half, ATTENTION) == pytest.approx(173e-6, rel=0.02)
    assert median(half, ONE_BY_ONE) == pytest.approx(2.60e-3, rel=0.02)
    assert median(half, ONE_BY_ONE) / median(half, ATTENTION) == pytest.approx(15, rel=0.02)
    assert queueing(half, ONE_BY_ONE) == pytest.approx(3.85e-3, rel=0.02)
    assert queueing(half, ONE_BY_ONE) > median(half, ONE_BY_ONE)
    assert queueing(single, ONE_BY_ONE) < median(single, ONE_BY_ONE)
    assert median(half, ONE_BY_ONE) / median(half, UNFUSED) == pytest.approx(3, rel=0.02)
    assert median(single, ONE_BY_ONE) / median(single, ATTENTION) == pytest.approx(1.7, rel=0.02)
    assert median(single, ONE_BY_ONE) / median(single, UNFUSED) == pytest.approx(1.3, rel=0.02)
    assert median(single, UNFUSED) / median(single, ATTENTION) == pytest.approx(1.3, rel=0.02)


def test_multi_head_is_level_with_torch_on_the_gpu(h200):
    found = [it for (group, *_), it in h200.items() if group == "s3_2_2_multi_head"]
    ratios = [median(it, ATTENTION) / median(it, TORCH) for it in found]
    assert len(ratios) == 8
    assert (min(ratios), max(ratios)) == pytest.approx((0.93, 1.03), abs=0.005)
    long = h200["s3_2_2_multi_head", "4×2048, 1024/16", BF16]
    assert median(long, ATTENTION) == pytest.approx(median(long, TORCH), rel=0.005)
    assert of_the_gemm(long, ATTENTION) == pytest.approx(0.69, abs=0.01)


def test_ten_tokens_occupy_the_card_for_18_microseconds(h200):
    reader = h200["s3_2_2_multi_head", "1×10, 768/12", BF16]
    assert median(reader, ATTENTION) == pytest.approx(18e-6, rel=0.02)
    assert queueing(reader, ATTENTION) == pytest.approx(271e-6, rel=0.02)
    assert at_the_copy(reader) == pytest.approx(1.1e-6, rel=0.02)


# §3.3.

NETWORK = "FeedForward"
BARE = "soli prodotti"
COMPILED = "torch.compile"


def test_ten_positions_are_not_bound_by_memory(h200):
    few = h200["s3_3_feed_forward", "10, 768/3072", BF16]
    assert few["bytes"] == pytest.approx(9.5e6, rel=0.01)
    assert at_the_copy(few) == pytest.approx(2.2e-6, rel=0.02)
    assert median(few, BARE) == pytest.approx(16e-6, rel=0.02)
    assert median(few, NETWORK) == pytest.approx(19e-6, rel=0.02)
    calls = [it for contest in h200.values() for it in contest["contestants"].values()]
    shortest = min(it["median"] for it in calls)
    assert shortest == pytest.approx(4e-6, rel=0.02)
    assert median(few, BARE) > 1.9 * (2 * shortest)


def test_the_missing_time_is_the_relu(h200):
    """Lo strato interno, 25 000 × 2048 in BF16, letto e riscritto."""
    many = h200["s3_3_feed_forward", "25000, 512/2048", BF16]
    assert of_the_gemm(many, BARE) == pytest.approx(0.87, abs=0.01)
    assert of_the_gemm(many, NETWORK) == pytest.approx(0.65, abs=0.01)
    inner = 25_000 * 2048 * 2
    assert inner == pytest.approx(102e6, rel=0.01)
    assert median(many, NETWORK) - median(many, BARE) == pytest.approx(51e-6, rel=0.02)
    assert at_the_copy(many, 2 * inner) == pytest.approx(48e-6, rel=0.02)
    assert median(many, "due convoluzioni") == pytest.approx(477e-6, rel=0.02)


def test_sums_of_the_letter_explain_its_loss_in_part(h200):
    """Le due somme dei termini costanti: alla copia no, al passo di quella di §3.5 sì."""
    many = h200["s3_3_feed_forward", "25000, 512/2048", BF16]
    lost = median(many, "eq. (2) alla lettera") - median(many, NETWORK)
    assert median(many, "eq. (2) alla lettera") == pytest.approx(364e-6, rel=0.02)
    assert lost == pytest.approx(158e-6, rel=0.01)
    sums = at_the_copy(many, 2 * 25_000 * (2048 + 512) * 2)
    assert sums == pytest.approx(60e-6, rel=0.01)
    assert sums < 0.4 * lost
    repeated = of_the_copy(h200[PLACES, "50×500, 512", BF16], READY)
    assert repeated == pytest.approx(0.36, abs=0.005)
    assert 1 < sums / repeated / lost < 1.1


def test_compiling_saves_the_memory_of_the_relu_and_not_its_time(h200):
    many = h200["s3_3_feed_forward", "25000, 512/2048", BF16]
    assert median(many, COMPILED) == pytest.approx(207e-6, rel=0.02)
    assert median(many, COMPILED) == pytest.approx(median(many, NETWORK), rel=0.005)
    assert memory(many, COMPILED) == pytest.approx(128e6, rel=0.01)
    assert memory(many, NETWORK) == pytest.approx(205e6, rel=0.01)


def test_in_single_precision_the_relu_hardly_counts(h200):
    single, half = (h200["s3_3_feed_forward", "25000, 512/2048", it] for it in (FP32, BF16))
    assert median(single, BARE) / median(half, BARE) == pytest.approx(14, rel=0.03)
    assert median(single, NETWORK) / median(single, BARE) == pytest.approx(1.04, abs=0.003)


# §3.4.

LOOKUP = "nn.Embedding"
CHECKED = "SharedEmbedding"


def test_the_check_of_the_tokens_costs_a_wait_and_not_a_reading(h200):
    cases = (("10 × 768", FP32, 138), ("10 × 768", BF16, 101), ("25000 × 512", BF16, 98))
    for label, dtype, more in cases:
        contest = h200["s3_4_embedding", label, dtype]
        added = median(contest, CHECKED) - median(contest, LOOKUP)
        assert added == pytest.approx(more * 1e-6, rel=0.02)
        ours = contest["contestants"][CHECKED]
        assert ours["iqr"] > 0.1 * ours["median"]
        assert queueing(contest, CHECKED) > 15 * queueing(contest, LOOKUP)


def test_sparse_rows_and_a_second_pass_stay_below_the_copy(h200):
    many = h200["s3_4_embedding", "25000 × 512", BF16]
    assert median(many, LOOKUP) == pytest.approx(33e-6, rel=0.02)
    assert of_the_copy(many, LOOKUP) == pytest.approx(0.37, abs=0.01)
    rows = 25_000 * 512 * 2
    assert memory(many, LOOKUP) == pytest.approx(2 * rows, rel=0.01)
    assert at_the_copy(many, 4 * rows) / median(many, LOOKUP) == pytest.approx(0.73, abs=0.01)


SCORE = "SharedEmbedding.score"
CROSS_ENTROPY = "F.cross_entropy"
SCORES = "soli punteggi"
OUTPUT = "s3_4_output_layer", "25000 × 512, V = 37000", BF16


def test_score_is_slower_by_operations_and_faster_compiled(h200):
    many = h200[OUTPUT]
    assert median(many, SCORES) == pytest.approx(1.49e-3, rel=0.01)
    assert of_the_gemm(many, SCORES) == pytest.approx(0.82, abs=0.01)
    assert median(many, CROSS_ENTROPY) == pytest.approx(3.48e-3, rel=0.01)
    assert median(many, SCORES) < median(many, CROSS_ENTROPY) / 2
    assert median(many, COMPILED) == pytest.approx(2.74e-3, rel=0.01)
    assert median(many, COMPILED) / median(many, CROSS_ENTROPY) == pytest.approx(0.79, abs=0.005)
    assert median(many, SCORE) == pytest.approx(11.4e-3, rel=0.01)
    assert 3.2 < median(many, SCORE) / median(many, CROSS_ENTROPY) < 3.4


def test_score_holds_the_matrix_and_two_copies_of_a_group(h200):
    """Sulla scheda il gruppo è di tante righe quante ne stanno in 2²⁸ numeri."""
    many, scores = h200[OUTPUT], 25_000 * 37_000
    groups = in_cache(torch.empty(25_000, 37_000, device="meta"))
    group = groups[0][0].numel()
    assert 2**28 - 37_000 < group <= 2**28
    assert 2 * scores == pytest.approx(1.85e9, rel=0.01)
    assert 2 * 4 * group == pytest.approx(2.15e9, rel=0.01)
    assert memory(many, SCORE) == pytest.approx(2 * scores + 2 * 4 * group, rel=0.001)
    assert memory(many, SCORE) == pytest.approx(4.00e9, rel=0.001)
    assert memory(many, CROSS_ENTROPY) == pytest.approx(2 * 2 * scores, rel=0.001)


def test_the_passes_of_score_are_most_of_its_time(h200):
    """Copia, massimo, media, softmax, il suo massimo, la riscrittura: byte per punteggio."""
    many, passes = h200[OUTPUT], (2 + 4) + 4 + 4 + (4 + 4) + 4 + (4 + 2)
    assert passes == 32
    least = at_the_copy(many, passes * 25_000 * 37_000)
    assert least == pytest.approx(6.9e-3, rel=0.01)
    assert least > 0.65 * (median(many, SCORE) - median(many, SCORES))


def test_scores_of_ten_tokens_are_a_reading_of_the_table(h200):
    few = h200["s3_4_output_layer", "10 × 768, V = 37000", BF16]
    assert median(few, SCORES) == pytest.approx(20e-6, rel=0.03)
    assert of_the_copy(few, SCORES) == pytest.approx(0.67, abs=0.01)
    assert median(few, SCORE) == pytest.approx(935e-6, rel=0.02)
    assert median(few, SCORE) > 10 * median(few, CROSS_ENTROPY)


# §3.5.

SINES = "SinusoidalPositions"
READY = "tabella già pronta"
PLACES = "s3_5_positional_encoding"


def test_sines_show_and_double_precision_is_a_small_part(h200):
    few, many = h200[PLACES, "1×10, 768", BF16], h200[PLACES, "50×500, 512", BF16]
    for contest, ours, ready in ((few, 36e-6, 4.2e-6), (many, 70e-6, 33e-6)):
        assert median(contest, SINES) == pytest.approx(ours, rel=0.02)
        assert median(contest, READY) == pytest.approx(ready, rel=0.02)
    for contest in (few, many, h200[PLACES, "1×10, 768", FP32]):
        again = median(contest, "ricalcolate in FP32")
        assert 5e-6 < median(contest, SINES) - again < 8.5e-6
        assert 24e-6 < again - median(contest, READY) < 29.5e-6
    assert of_the_copy(many, READY) == pytest.approx(0.36, abs=0.01)


@pytest.mark.parametrize(("dtype", "times"), [(BF16, 2), (FP32, 1)])
def test_positions_last_as_an_attention_or_two(dtype, times, h200):
    places, attention = h200[PLACES, "1×10, 768", dtype], h200[HEADS, "1×10, 768/12", dtype]
    assert median(places, SINES) / median(attention, ATTENTION) == pytest.approx(times, rel=0.03)


def test_positions_are_eleven_operations_instead_of_one():
    x = torch.randn(1, 10, 768, dtype=torch.bfloat16)
    positions = SinusoidalPositions(768)
    with Operations() as ours:
        positions(x)
    assert ours.count == 11


def test_compiled_positions_are_slower(h200):
    many = h200[PLACES, "50×500, 512", BF16]
    assert median(many, COMPILED) == pytest.approx(140e-6, rel=0.02)
    assert median(many, COMPILED) > 1.9 * median(many, SINES)
    assert many["flops"] == 12_800_000
    assert many["flops"] / many["shape"]["batch"] == 256_000
