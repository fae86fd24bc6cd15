"""La pagina della H200: ciò che dice nel testo torna con i file pubblicati."""

import statistics

import pytest

from gpu_notes.sm_map import H200, fma_per_clock
from weave import measurements
from weave.measurements.goals import GPU_GOALS, found_in

FUSED = "flash_attention"


def spread(found, shared):
    """Le distanze fra i quartili, sulla mediana, di chi occupa la scheda per meno di 0,2 ms."""
    return [
        score["iqr"] / score["median"]
        for key, contest in found.items()
        if key in shared
        for name, score in contest["contestants"].items()
        if shared[key]["contestants"][name]["median"] < 0.2e-3
    ]


def test_short_calls_were_waiting_in_the_first_session(before, after):
    """Il tempo di prima è dell'ordine di quello della CPU; la formula alla lettera non cambia."""
    for group, label, who in (
        ("s3_2_2_multi_head", "1×10, 768/12", "MultiHeadAttention"),
        ("s3_2_2_multi_head", "50×500, 512/8", "MultiHeadAttention"),
    ):
        key = group, label, "bfloat16"
        old, new = before[key]["contestants"][who], after[key]["contestants"][who]
        assert new["queueing"] > 2 * new["median"]
        assert old["median"] > 2 * new["median"]
    key = "s3_2_1_scaled_dot_product", "n = 8192", "bfloat16"
    old, new = (it[key]["contestants"]["scaled_dot_product_attention"] for it in (before, after))
    assert old["median"] == pytest.approx(new["median"], rel=0.07)
    assert new["queueing"] < new["median"] / 10


def test_the_second_session_is_steady(before, after):
    shared = {key: it for key, it in after.items() if key in before}
    assert statistics.median(spread(before, shared)) == pytest.approx(0.30, abs=0.005)
    second = spread(after, shared)
    assert statistics.median(second) < 0.025
    assert sum(it < 0.07 for it in second) > 0.9 * len(second)


def test_ceilings_and_their_ratios(sessions):
    for session in sessions:
        found = session["ceilings"]
        gemm = {form: it["gflops"] for form, it in found["gemm"].items()}
        assert all(it["gflops"] < 0.85 * it["datasheet"] for it in found["gemm"].values())
        assert found["copy_gbs"] < 0.9 * found["datasheet_gbs"]
        assert gemm["TF32"] / gemm["FP32"] == pytest.approx(8, abs=0.2)
        assert gemm["BF16"] / gemm["TF32"] == pytest.approx(1.92, abs=0.03)


def test_power_is_near_its_limit_and_the_clock_is_low(sessions):
    slowed, peaks, rates = [], [], []
    for session in sessions:
        clocks = session["ceilings"]["clocks"]
        assert 685 < clocks["watt"] < 700
        slowed.append(1 - clocks["sm_mhz"] / clocks["sm_max_mhz"])
        peaks.append(H200.sms * 2 * fma_per_clock(H200, "BF16") * clocks["sm_mhz"] / 1e6)
        rates.append(session["ceilings"]["gemm"]["BF16"]["gflops"] / 1e3)
    assert slowed == pytest.approx([0.21, 0.26], abs=0.005)
    assert peaks == pytest.approx([843, 795], abs=1)
    assert peaks[0] / peaks[1] == pytest.approx(1.06, abs=0.005)
    assert 1 < rates[0] / rates[1] < 1.01


def test_with_ten_tokens_the_cpu_works_much_longer(h200):
    for group, label, who, least in (
        ("s3_1_layer_norm", "10 × 768", "LayerNorm", 9),
        ("s3_3_feed_forward", "10, 768/3072", "FeedForward", 4.5),
        ("s3_2_2_multi_head", "1×10, 768/12", "MultiHeadAttention", 14),
        ("s3_1_encoder_layer", "1×10, 768/12", "EncoderLayer", 7.5),
    ):
        it = h200[group, label, "bfloat16"]["contestants"][who]
        assert it["queueing"] > least * it["median"]


def test_the_cpu_changed_speed_by_itself_and_the_card_did_not(before, after):
    both = before, after
    key = "s6_1_decoding", "base, 1 frase", "float32"
    loop = [it[key]["contestants"]["Transformer.generate"]["median"] for it in both]
    assert loop == pytest.approx([0.362, 0.177], rel=0.01)
    key = "s3_2_1_scaled_dot_product", "n = 8192", "float32"
    card = [it[key]["contestants"]["scaled_dot_product_attention"]["median"] for it in both]
    assert card == pytest.approx([6.79e-3, 6.68e-3], abs=1e-5)


def products(found):
    """I ritmi del prodotto in BF16 nelle gare di una sessione, dal più lento, in TFLOP/s."""
    return sorted(
        it["gemm_gflops"] / 1e3 for (_, _, dtype), it in found.items() if dtype == "bfloat16"
    )


def test_the_ceiling_of_a_contest_was_unsteady_in_the_first_session(before, after):
    first, second = products(before), products(after)
    assert first[:2] == pytest.approx([605, 685], abs=1)
    assert first[-1] == pytest.approx(795.5, abs=0.5)
    assert [second[0], second[-1]] == pytest.approx([778, 787], abs=1)


def test_training_beside_every_ceiling(h200, before, sessions):
    tops = [sessions[0]["ceilings"]["gemm"]["BF16"]["gflops"], products(before)[-1] * 1e3]
    base, big = (
        next(iter(h200["s5_2_training_25k", model, "bfloat16"]["contestants"].values()))
        for model in ("base", "grande")
    )
    assert min(big["gemm_fraction"], *(big["gflops"] / top for top in tops)) > 0.55
    assert base["gemm_fraction"] == pytest.approx(0.396, abs=0.001)
    assert [round(100 * base["gflops"] / top, 1) for top in tops] == [38.0, 37.6]
    assert [round(100 * it["datasheet_fraction"]) for it in (base, big)] == [30, 45]


def test_the_graph_is_worth_much_for_base_and_little_for_big(h200):
    saved = []
    for model in ("base", "grande"):
        recorded, compiled, *_ = h200["s5_2_training_25k", model, "bfloat16"][
            "contestants"
        ].values()
        saved.append(1 - recorded["median"] / compiled["median"])
    assert saved == pytest.approx([0.42, 0.06], abs=0.01)


def test_every_kernel_of_a_token_costs_two_microseconds(h200):
    fractions = {}
    for model in ("base", "grande"):
        for dtype in ("float32", "bfloat16"):
            contest = h200["s6_1_decoding", f"{model}, 1 frase", dtype]
            ours = contest["contestants"]["grafo, kernel nostri"]
            beyond = ours["median"] / 64 * (1 - ours["copy_fraction"]) / 52
            assert beyond == pytest.approx(2e-6, rel=0.11)
            fractions[model, dtype] = ours["copy_fraction"]
            plain = contest["contestants"]["grafo"]
            beyond = plain["median"] / 64 * (1 - plain["copy_fraction"]) / 121
            assert 3e-6 < beyond < 3.8e-6
    assert max(fractions, key=fractions.__getitem__) == ("grande", "float32")
    declared = fractions["grande", "float32"] * 4.2917 / 4.8
    assert declared == pytest.approx(0.486, abs=0.001)
    assert fractions["grande", "float32"] == pytest.approx(0.54, abs=0.005)
    assert fractions["base", "bfloat16"] == pytest.approx(0.16, abs=0.005)


def test_worth_of_the_graph(h200):
    """Con una frase e con 64: il ciclo di §3 sul grafo, il grafo sui kernel nostri."""
    worth: dict[tuple[int, str], list[float]] = {}
    ours = []
    for (group, _, dtype), contest in h200.items():
        if group != "s6_1_decoding":
            continue
        times = {name: it["median"] for name, it in contest["contestants"].items()}
        rows = contest["shape"]["batch"]
        one = worth.setdefault((rows, dtype if rows > 1 else ""), [])
        one.append(times["Transformer.generate"] / times["grafo"])
        if rows == 1:
            ours.append(times["grafo"] / times["grafo, kernel nostri"])
    assert [min(worth[1, ""]), max(worth[1, ""])] == pytest.approx([4.7, 8.6], abs=0.06)
    assert sorted(worth[64, "float32"]) == pytest.approx([1.7, 2.7], abs=0.06)
    assert sorted(worth[64, "bfloat16"]) == pytest.approx([6.6, 9.0], abs=0.06)
    assert [min(ours), max(ours)] == pytest.approx([2.6, 3.6], abs=0.06)
    several, single = (
        h200["s6_1_decoding", f"base, {rows}", "bfloat16"]["contestants"]["grafo"]["median"]
        for rows in ("64 frasi", "1 frase")
    )
    assert [several, single] == pytest.approx([31e-3, 25e-3], abs=0.5e-3)


def test_recording_the_encoder_too_made_a_sentence_shorter(before, after):
    key = "s6_1_decoding", "base, 1 frase", "float32"
    first, second = (
        it[key]["contestants"]["grafo, kernel nostri"]["median"] for it in (before, after)
    )
    assert (first, second) == pytest.approx((14.7e-3, 8.5e-3), rel=0.01)


def ratios(h200, group, rival, width="d_k"):
    """Dal più breve al più lungo, i tempi del nostro kernel divisi per quelli di un altro."""
    found = [
        contest["contestants"][FUSED]["median"] / contest["contestants"][rival]["median"]
        for (name, label, _), contest in h200.items()
        if name == group and width in label
    ]
    assert len(found) == (8 if width == "d_k" else 4)
    return sorted(found)


def test_attention_beside_the_kernels_of_pytorch(h200):
    forward, backward = "beyond_flash_attention", "beyond_flash_attention_backward"
    least, *_, most = ratios(h200, forward, "FlashAttention-2")
    assert (least, most) == pytest.approx((0.63, 0.72), abs=0.005)
    least, *_, most = ratios(h200, forward, "cuDNN", "d_k = 64")
    assert 1 < least < most < 1.09
    least, *_, most = ratios(h200, forward, "cuDNN", "d_k = 128")
    assert (least, most) == pytest.approx((1.15, 1.23), abs=0.005)
    least, *_, most = ratios(h200, backward, "FlashAttention-2")
    assert (least, most) == pytest.approx((0.81, 1.0), abs=0.005)
    least, *_, most = ratios(h200, backward, "cuDNN")
    assert (1 / most, 1 / least) == pytest.approx((0.58, 0.68), abs=0.005)


def test_our_kernel_beside_a_big_product(h200):
    """Frazione del prodotto, e confronto con il kernel che tiene poca memoria."""
    best: dict[tuple[int, bool], float] = {}
    for (group, label, _), contest in h200.items():
        if group == "beyond_flash_attention":
            kind = contest["shape"]["d_k"], "causale" in label
            fraction = contest["contestants"][FUSED]["gemm_fraction"]
            best[kind] = max(best.get(kind, 0), fraction)
    expected = {(128, False): 0.72, (64, False): 0.60, (128, True): 0.66, (64, True): 0.57}
    assert best == pytest.approx(expected, abs=0.005)
    backward = "beyond_flash_attention_backward"
    fractions = [
        contest["contestants"][FUSED]["gemm_fraction"]
        for (group, *_), contest in h200.items()
        if group == backward
    ]
    assert [min(fractions), max(fractions)] == pytest.approx([0.29, 0.43], abs=0.005)
    least, *_, most = ratios(h200, "beyond_flash_attention", "memory-efficient")
    assert 2.8 < 1 / most < 1 / least < 3.5
    least, *_, most = ratios(h200, backward, "memory-efficient")
    assert 2.35 < 1 / most < 1 / least < 2.71


def test_our_kernel_takes_long_to_queue(h200):
    for (group, *_), contest in h200.items():
        if group == "beyond_flash_attention":
            ours, *others = (it["queueing"] for it in contest["contestants"].values())
            assert 0.29e-3 < ours < 0.47e-3
            assert all(2 < ours / it < 5 for it in others)
            late = contest["contestants"][FUSED]["median"] < ours
            assert late == (contest["shape"]["causal"] and contest["shape"]["n"] == 2048)


def test_which_goals_are_missed():
    """Venti su cinquantaquattro: dodici con cuDNN, tre con FlashAttention-2, cinque frazioni."""
    found: dict = {}
    for session in measurements.of_machine(measurements.H200):
        found |= found_in(session)
    missed = [goal for goal in GPU_GOALS if not goal.reached(goal.measured(found[goal.contest]))]
    rivals = [goal.rival for goal in missed]
    assert (len(GPU_GOALS), len(missed)) == (54, 20)
    counts = {rival: rivals.count(rival) for rival in rivals}
    assert counts == {
        **{"cuDNN": 12, "FlashAttention-2": 3, "tetto GEMM": 2, "banda della copia": 3},
    }
    backward = {goal for goal in missed if goal.group == "beyond_flash_attention_backward"}
    assert {it.rival for it in set(missed) - backward} == {"cuDNN", "banda della copia"}
    masked = [it.label for it in backward if it.rival == "tetto GEMM"]
    assert sorted(masked) == [f"n = {n}, d_k = 64, causale" for n in (2048, 8192)]
