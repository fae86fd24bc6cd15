"""Le pagine del modello, di §4, §5 e §6.1: ciò che dicono della H200 torna con le misure."""

import pytest

from attention import BASE, BIG
from attention.s4_why_self_attention import attention_multiply_adds
from benchmarks.bench_s3_model_architecture import on_meta, product_shapes, products
from benchmarks.bench_s5_2_hardware_schedule import PRODUCTS, RECORDED
from weave.measurements import EPYC, of_machine
from weave.measurements.goals import GPU_GOALS
from weave.measurements.growth import exponent

FP32 = "float32"
BF16 = "bfloat16"
LAYERS = ("convoluzionale", "ristretta", "separabile")
ATTENTION = "auto-attenzione"
PROJECTED = "con le proiezioni"
LOOP = "ricorrente"
RNN = "nn.RNN"
GENERATE = "Transformer.generate"
GRAPH = "grafo"
READING = "sola lettura dei pesi"


@pytest.fixture
def seconds(h200):
    """Il tempo mediano di un concorrente."""
    return lambda who, *key: h200[key]["contestants"][who]["median"]


@pytest.fixture
def queueing(h200):
    """Quanto la CPU impiega ad accodarlo."""
    return lambda who, *key: h200[key]["contestants"][who]["queueing"]


@pytest.fixture
def session(sessions):
    """I tetti della sessione da cui viene il passo da 25 000 token."""
    return sessions[0]["ceilings"]


def near(value, rel=0.02):
    return pytest.approx(value, rel=rel)


# §3.


def test_one_sentence_at_a_time_waits_for_the_cpu(h200, seconds):
    key = "s6_1_decoding", "base, 1 frase", BF16
    per_token = h200[key]["us_per_token"]
    assert per_token[READING] == near(26.5)
    assert per_token["grafo, kernel nostri"] == near(119)
    assert per_token[GENERATE] == near(3300)
    assert seconds(GRAPH, *key) < seconds(GENERATE, *key) / 8
    weights = 2 * 40_997_888 + 2 * 786_432  # i byte per token di un blocco di §3
    assert per_token[READING] * 4.8e6 / weights == near(1.5)


def test_many_sentences_share_the_launches(h200, seconds):
    one, many = (("s6_1_decoding", f"base, {rows}", BF16) for rows in ("1 frase", "64 frasi"))
    assert seconds(GENERATE, *many) / seconds(GENERATE, *one) == near(4 / 3)
    rates = [h200[key]["tokens_per_second"][GENERATE] for key in (one, many)]
    assert 46 < rates[1] / rates[0] < 50


def test_the_small_training_step_lasts_as_long_as_its_queueing(h200, seconds, queueing):
    large, small = (("s3_training_step", f"V = {count}", FP32) for count in (37_000, 8000))
    assert h200[small]["flops"] / h200[large]["flops"] == near(0.77)
    assert seconds("Transformer", *small) > seconds("Transformer", *large)
    for key in (large, small):
        for name in h200[key]["contestants"]:
            assert queueing(name, *key) == near(seconds(name, *key), 0.05)


def test_forward_of_big_keeps_the_card_busy_and_that_of_the_reader_does_not(h200, seconds):
    reader, base, big = (
        ("s3_forward", label, BF16) for label in ("lettore, 1×10", "base, 50×500", "big, 50×500")
    )
    assert 1350 < h200[base]["flops"] / h200[reader]["flops"] < 1400
    times = [1e3 * seconds("Transformer", *key) for key in (reader, base, big)]
    assert times == [near(13.1), near(12.2), near(23.0)]
    assert h200[big]["contestants"]["Transformer"]["gemm_fraction"] == near(0.64)
    assert seconds("Hugging Face Marian", *big) == near(25.6e-3)
    assert seconds("nn.Transformer", *big) == near(28.4e-3)
    spread = h200[big]["contestants"]["Transformer"]["iqr"] / seconds("Transformer", *big)
    assert spread < 0.05


# §4.


def growth(seconds, who, group, dtype, sizes):
    """Le dimensioni, ciascuna con il suo tempo."""
    letter = group[-1]
    return [(size, seconds(who, group, f"{letter} = {size}", dtype)) for size in sizes]


def test_growth_with_n_below_the_full_card_is_waiting(h200, seconds):
    """Le operazioni crescono di 16 volte almeno, il tempo quasi per nulla."""
    waiting = [(it, BF16, 4096) for it in (ATTENTION, PROJECTED, *LAYERS)]
    waiting += [(it, FP32, 4096) for it in LAYERS]
    waiting += [(ATTENTION, FP32, 1024), (PROJECTED, FP32, 1024)]
    for who, dtype, last in waiting:
        (_, before), (_, after) = growth(seconds, who, "s4_growth_n", dtype, (256, last))
        assert after / before < 1.4
    fitted = growth(seconds, "convoluzionale", "s4_growth_n", BF16, (1024, 4096, 16_384))
    assert exponent(fitted) < 0
    for dtype in (FP32, BF16):
        (_, before), (_, after) = growth(seconds, LOOP, "s4_growth_n", dtype, (256, 1024))
        assert after / before == near(4)


def test_the_last_convolution_is_probably_still_waiting(h200, seconds, queueing):
    """Alla scheda i suoi conti ne chiederebbero un decimo, e la CPU ci mette di più."""
    key = "s4_growth_n", "n = 16384", BF16
    last = h200[key]["contestants"]["convoluzionale"]
    assert last["median"] == near(320e-6)
    assert last["iqr"] / last["median"] == near(0.12, 0.03)
    flops = 2 * 3 * 16_384 * 512**2  # k · n · d²
    assert flops / h200[key]["gemm_gflops"] / 1e9 < last["median"] / 9
    for d in (512, 2048, 8192):
        queued = queueing("convoluzionale", "s4_growth_d", f"d = {d}", BF16)
        assert queued > max(400e-6, last["median"])


def test_attention_follows_the_square_where_the_card_is_full(h200, seconds):
    (_, before), (_, after) = growth(seconds, ATTENTION, "s4_growth_n", FP32, (4096, 16_384))
    assert after / before == near(13.8)
    key = "s4_growth_n", "n = 16384", FP32
    assert h200[key]["contestants"][ATTENTION]["gemm_fraction"] == near(0.88)
    shorter = h200["s4_growth_n", "n = 4096", FP32]["contestants"][ATTENTION]
    assert shorter["gemm_fraction"] == near(0.76)
    literal = [
        seconds("scaled_dot_product_attention", "s3_2_1_scaled_dot_product", f"n = {n}", BF16)
        for n in (2048, 8192)
    ]
    assert literal[1] / literal[0] == near(18.8)
    (_, before), (_, after) = growth(seconds, ATTENTION, "s4_growth_d", BF16, (512, 8192))
    assert after / before == near(2.2)


def test_recurrence_follows_the_steps_until_its_matrix_leaves_the_cache(h200, seconds, queueing):
    for who, step in ((LOOP, 33e-6), (RNN, 12.3e-6)):
        for d in (512, 2048):
            key = "s4_growth_d", f"d = {d}", BF16
            assert seconds(who, *key) / 512 == near(step, 0.03)
            assert queueing(who, *key) > seconds(who, *key)
    key = "s4_growth_d", "d = 8192", BF16
    for who in (LOOP, RNN):
        assert seconds(who, *key) / 512 == near(41e-6)
        assert queueing(who, *key) < seconds(who, *key)
    matrix = 8192**2 * 2
    assert matrix == near(134e6)
    rate = 512 * matrix / seconds(LOOP, *key)
    assert rate == near(3.3e12)
    assert rate / h200[key]["copy_gbs"] / 1e9 == near(0.75, 0.04)
    assert exponent(growth(seconds, LOOP, "s4_growth_d", BF16, (512, 2048, 8192))) == near(0.08)


def test_fewer_multiplications_are_not_less_time(h200, seconds):
    key = "s4_growth_d", "d = 8192", BF16
    assert seconds("separabile", *key) == near(336e-6)
    assert seconds("convoluzionale", *key) == near(335e-6)
    assert seconds("ristretta", *key) == near(488e-6)
    assert seconds(ATTENTION, *key) == near(42e-6)
    assert 11.5 < seconds("ristretta", *key) / seconds(ATTENTION, *key) < 12
    assert round(512 / 15) == 34  # n · n · d, contro r · n · d
    gathered = 2 * 512 * 15 * 8192 * 2  # le righe raccolte, e la copia con la maschera
    assert gathered == near(252e6, 0.002)
    assert h200[key]["contestants"]["ristretta"]["extra_bytes"] == near(gathered, 0.001)
    passing = 2 * gathered / h200[key]["copy_gbs"] / 1e9
    assert passing / seconds("ristretta", *key) == near(0.24)


def test_fused_attention_with_projections_beats_the_formula_alone(seconds):
    key = "s4_growth_n", "n = 16384", BF16
    assert seconds(PROJECTED, *key) == near(1.33e-3)
    assert seconds(ATTENTION, *key) == near(1.48e-3)
    work = attention_multiply_adds(16_384, 512, projections=True)
    assert work / attention_multiply_adds(16_384, 512) == near(1.06, 0.005)


# §5.


def test_forming_a_batch_is_a_small_part_of_the_step(seconds):
    key = "s5_2_training_25k", "base", BF16
    found = [
        entry["extra_info"]
        for session in of_machine(EPYC)
        for entry in session["benchmarks"]
        if entry["group"] == "s5_1_feed"
    ]
    assert found
    for contest in found:
        batch = contest["contestants"]["Feed"]["median"] / contest["shape"]["batches"]
        assert 1e-3 < batch < 1.5e-3
        assert batch / seconds(RECORDED, *key) == near(0.04, 0.1)


def test_the_first_product_of_the_feed_forward_with_many_rows_and_with_few(h200, seconds):
    key = "tensor_cores", "25000×768×3072", FP32
    assert seconds("BF16", *key) == near(167e-6)
    assert h200[key]["flops"] / 989.4e12 == near(119e-6)
    assert h200[key]["contestants"]["BF16"]["gemm_fraction"] == near(0.90)
    two = seconds("soli prodotti", "s3_3_feed_forward", "10, 768/3072", BF16)
    assert two == near(16e-6)
    reading = 2 * 2 * (10 * 768 + 768 * 3072 + 10 * 3072) / 4.8e12
    assert two / reading == near(8)


def test_the_step_of_the_paper_and_its_two_ceilings(h200, seconds, session):
    top = session["gemm"]["BF16"]["gflops"]
    goals = {it.label: it.limit for it in GPU_GOALS if it.group == "s5_2_training_25k"}
    assert goals == {"base": 0.38, "grande": 0.50}
    assert top == near(786e3)
    assert session["clocks"]["watt"] == near(688)
    for name, time, of_race, of_session in (
        ("base", 32.1e-3, 0.40, 0.38),
        ("grande", 72.8e-3, 0.735, 0.57),
    ):
        contest = h200["s5_2_training_25k", name, BF16]
        ours = contest["contestants"][RECORDED]
        assert ours["median"] == near(time)
        assert ours["gemm_fraction"] == near(of_race)
        assert ours["gflops"] / top == near(of_session)
        assert goals[name] <= ours["gflops"] / top
    assert h200["s5_2_training_25k", "grande", BF16]["gemm_gflops"] == near(605e3)


def test_base_meets_its_goal_within_the_uncertainty_of_the_ceiling(h200, before):
    highest = max(it["gemm_gflops"] for (*_, dtype), it in before.items() if dtype == BF16)
    assert highest == near(795e3, 0.001)
    rate = h200["s5_2_training_25k", "base", BF16]["contestants"][RECORDED]["gflops"]
    assert rate / highest == near(0.375, 0.003)
    grande = h200["s5_2_training_25k", "grande", BF16]["contestants"][RECORDED]["gflops"]
    assert grande / highest > 0.5


def without_attention(config, rows):
    """Le operazioni dei prodotti che «soli prodotti» esegue: quelli con i pesi."""
    shapes = product_shapes(config).items()
    return 3 * sum(2 * rows * out * depth * count for (out, depth), count in shapes)


def test_the_products_alone_outrun_the_ceiling_of_their_race(h200, seconds):
    key = "s5_2_training_25k", "grande", BF16
    rate = without_attention(BIG, h200[key]["tokens"]) / seconds(PRODUCTS, *key)
    assert rate == near(723e12)
    assert rate > 1.15e9 * h200[key]["gemm_gflops"]


def test_recording_and_compiling_the_step(seconds):
    base, big = (("s5_2_training_25k", name, BF16) for name in ("base", "grande"))
    compiled = "Transformer, compilato"
    assert seconds(compiled, *base) == near(54.9e-3)
    assert seconds("Transformer", *base) == near(70e-3)
    assert 1 - seconds(RECORDED, *base) / seconds(compiled, *base) == near(0.42)
    assert 1 - seconds(RECORDED, *big) / seconds(compiled, *big) == near(0.06, 0.1)
    assert 1 - seconds(compiled, *big) / seconds("Transformer", *big) == near(0.25)


def account(config, rows, gemm, copied):
    """I secondi dei prodotti e del resto, come li conta un blocco di §5.2."""
    d, layers = config.d_model, config.layers
    weights = sum(parameter.numel() for parameter in on_meta(config).parameters())
    numbers = 5 * layers * d * 34 + 2 * layers * config.d_ff * 10 + 3 * layers * d * 28
    moved = rows * (numbers + 12 * config.vocabulary) + 28 * weights
    return 3 * products(config, rows, rows, 64) / gemm, moved / copied


@pytest.mark.parametrize(
    ("name", "config", "expected", "whole", "alone"),
    [("base", BASE, 12.0, 21.2, 14.6), ("grande", BIG, 40.8, 57.2, 44.4)],
)
def test_the_step_is_longer_than_the_account(
    name, config, expected, whole, alone, h200, seconds, session
):
    key = "s5_2_training_25k", name, BF16
    ceilings = 1e9 * session["gemm"]["BF16"]["gflops"], 1e9 * session["copy_gbs"]
    assert ceilings[1] == near(4.26e12)
    rows = h200[key]["tokens"]
    computed, moved = account(config, rows, *ceilings)
    products_alone = without_attention(config, rows) / ceilings[0]
    assert 1e3 * products_alone == near(expected, 0.002)
    assert 1e3 * (computed + moved) == near(whole)
    assert 1e3 * seconds(PRODUCTS, *key) == near(alone)
    others = computed + moved - products_alone  # con le attenzioni, come nel passo
    assert 1.7 < (seconds(RECORDED, *key) - seconds(PRODUCTS, *key)) / others < 2


def test_hours_on_one_card_beside_eight(h200):
    for name, recorded, compiled, paper in (("base", 0.9, 1.5, 12), ("grande", 6.1, 6.5, 84)):
        hours = h200["s5_2_training_25k", name, BF16]["hours"]
        assert hours[RECORDED] == pytest.approx(recorded, abs=0.05)
        assert hours["Transformer, compilato"] == pytest.approx(compiled, abs=0.05)
        assert hours[RECORDED] < 8 * paper / 100


# §6.1.


def test_beam_search_waits_for_the_cpu_at_every_token(seconds):
    for dtype, beam, one, reading in ((BF16, 717, 475, 1.9), (FP32, 546, 375, 2.9)):
        key = "s6_1_decoding_beam", "base, 1 frase, 4 ipotesi", dtype
        times = [1e3 * seconds(who, *key) for who in ("beam_search", GENERATE, READING)]
        assert times == [near(beam), near(one), near(reading)]
        assert times[0] > 150 * times[2]


@pytest.mark.parametrize(("dtype", "first", "second"), [(BF16, 360, 211), (FP32, 362, 177)])
def test_the_wait_of_generation_changes_from_race_to_race(dtype, first, second, before, seconds):
    """Lo stesso `generate`: la stessa gara nelle due sessioni, e due gare nella prima."""
    key = "s6_1_decoding", "base, 1 frase", dtype
    assert 1e3 * before[key]["contestants"][GENERATE]["median"] == near(first, 0.003)
    assert 1e3 * seconds(GENERATE, *key) == near(second, 0.003)
    if dtype == BF16:
        beside = "s6_1_decoding_beam", "base, 1 frase, 4 ipotesi", dtype
        assert 1e3 * before[beside]["contestants"][GENERATE]["median"] == near(475, 0.003)


@pytest.mark.parametrize(
    ("dtype", "model", "one", "many", "times"),
    [
        (BF16, "base", 25, 31, 1.26),
        (BF16, "grande", 32, 42, 1.32),
        (FP32, "base", 31, 77, 2.5),
        (FP32, "grande", 36, 141, 3.9),
    ],
)
def test_recorded_rows_are_nearly_free_in_bf16_and_not_in_fp32(
    dtype, model, one, many, times, seconds
):
    key = "s6_1_decoding", f"{model}, 1 frase", dtype
    several = "s6_1_decoding", f"{model}, 64 frasi", dtype
    assert 1e3 * seconds(GRAPH, *key) == near(one, 0.015)
    assert 1e3 * seconds(GRAPH, *several) == near(many, 0.015)
    assert seconds(GRAPH, *several) / seconds(GRAPH, *key) == near(times, 0.01)


def test_the_graph_and_our_kernels_approach_the_reading(seconds, queueing):
    key = "s6_1_decoding", "base, 1 frase", BF16
    ours = "grafo, kernel nostri"
    times = [1e3 * seconds(who, *key) for who in (ours, READING)]
    assert times == [near(7.6), near(1.7)]
    for who in (ours, GRAPH, GENERATE):
        assert queueing(who, *key) > seconds(who, *key)  # la chiamata aspetta i suoi token


# Le pagine delle misure: le sezioni, il roofline.


def test_checks_of_the_fused_attention_cost_the_cpu_and_not_the_card(seconds, queueing):
    ours, direct = "fused_attention", "F.scaled_dot_product_attention"
    for group, checked, bare in (
        ("s3_2_1_scaled_dot_product", 151e-6, 71e-6),
        ("s3_2_1_causal", 61e-6, 31e-6),
    ):
        key = group, "n = 10", FP32
        assert seconds(ours, *key) == near(seconds(direct, *key))
        assert queueing(ours, *key) == near(checked)
        assert queueing(direct, *key) == near(bare)
        assert queueing(ours, *key) / queueing(direct, *key) == near(2, 0.08)


def test_the_causal_mask_spares_a_third_only_when_long(seconds):
    def ratio(n):
        groups = "s3_2_1_causal", "s3_2_1_scaled_dot_product"
        causal, whole = (seconds("fused_attention", it, f"n = {n}", BF16) for it in groups)
        return causal / whole

    assert ratio(8192) == near(0.68)
    assert ratio(2048) == near(1)


@pytest.mark.parametrize(("dtype", "part"), [(FP32, 0.04), (BF16, 0.25)])
def test_biases_and_relu_are_a_quarter_in_bf16(dtype, part, seconds):
    key = "s3_3_feed_forward", "25000, 512/2048", dtype
    assert 1 - seconds("soli prodotti", *key) / seconds("FeedForward", *key) == near(part, 0.05)


def test_the_embedding_waits_for_its_check(seconds):
    for label in ("10 × 768", "25000 × 512"):
        key = "s3_4_embedding", label, BF16
        assert seconds("SharedEmbedding", *key) > 3.5 * seconds("nn.Embedding", *key)


@pytest.mark.parametrize(("dtype", "times"), [(BF16, 10.8), (FP32, 1.67)])
def test_the_literal_formula_lies_lower_on_the_roofline(dtype, times, seconds):
    key = "s3_2_1_scaled_dot_product", "n = 8192", dtype
    literal, fused = "scaled_dot_product_attention", "fused_attention"
    assert seconds(literal, *key) / seconds(fused, *key) == near(times)
