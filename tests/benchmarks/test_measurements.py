"""Le misure sulle pagine: disegni, tabelle e didascalie dicono i numeri dei file, e quelli soli."""

import copy
import math
import re
from pathlib import Path

import pytest
from matplotlib.figure import Figure
from pymdownx.superfences import SuperFencesException

from attention.s4_why_self_attention import TABLE_1, Sizes
from benchmarks import tensor_cores
from gpu_notes import roofline
from weave import measurements
from weave.house import ROOT
from weave.measurements import contests_of, declared, goals, latest, misura, render
from weave.measurements.bars import bars, draw_bars
from weave.measurements.bars import largest as largest_contests
from weave.measurements.drawings import INK, STROKES, stroke
from weave.measurements.goals import GOALS, GPU_GOALS, Goal, goals_table, summary
from weave.measurements.growth import counted, draw_growth, exponent, orders, series
from weave.measurements.growth import growing as growing_dimension
from weave.measurements.notation import bandwidth, duration, percent, rate, size, span
from weave.measurements.roofline import (
    Roof,
    by_format,
    draw_roofline,
    governs,
    ours_by_format,
    points,
    roofs,
)
from weave.measurements.times import draw_memory, draw_times, draw_tokens

GROUPS = sorted(declared())


def axes_with(draw):
    """Un paio d'assi su cui si è disegnato: se ne leggono le linee, senza passare dall'SVG."""
    axes = Figure().add_subplot()
    draw(axes)
    return axes


def line(axes, start):
    """I punti della linea la cui voce in legenda comincia così."""
    found = [drawn for drawn in axes.get_lines() if str(drawn.get_label()).startswith(start)]
    assert len(found) == 1
    return [tuple(map(float, point)) for point in found[0].get_xydata()]


def rows_of(html):
    """Le righe della prima tabella, casella per casella, senza segni."""
    table = html.replace("\u00a0", " ").partition("<tbody>")[2].partition("</tbody>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", table)
    cells = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    return [[re.sub(r"<[^>]*>", " ", cell).split() for cell in row] for row in cells]


# I tempi e la memoria.


def test_table_holds_the_numbers_of_the_file(small):
    html = render("prova", "", [small]).replace("\u00a0", " ")
    assert '<th scope="col">n = 10</th>' in html
    for name, cell in (
        ("nostro", "612 µs<br><small>× 0,77 · 37 %</small>"),
        ("altri", "800 µs<br><small>× 1,00 · 29 %</small>"),
    ):
        assert f'<tr><th scope="row">{name}</th><td>{cell}</td></tr>' in html


def test_who_does_other_work_has_no_fraction_and_memory_speaks_where_it_governs(on_gpu):
    html = render("prova", "", [on_gpu]).replace("\u00a0", " ")
    assert "<small>× 0,50 · 50 % copia</small>" in html  # 1000 GB/s su 2000
    assert "<small>× 0,50 · 50 %</small>" in html  # 20 TFLOP/s su 40
    assert "500 µs<br><small>× 0,25</small>" in html


def test_time_of_the_cpu_is_shown_only_where_it_is_longer(on_gpu):
    """Accodare in 1,1 ms ciò che la scheda fa in 1, e in 1 ciò che fa in 2; 3 ms sono attesa."""
    explained = "«CPU»: quanto le serve per accodare"
    assert explained not in render("prova", "", [on_gpu])
    contestants = on_gpu["benchmarks"][0]["extra_info"]["contestants"]
    for name, seconds in (("nostro", 1.1e-3), ("altri", 1e-3), ("diverso", 3e-3)):
        contestants[name]["queueing"] = seconds
    html = render("prova", "", [on_gpu]).replace("\u00a0", " ")
    assert html.count("<br>CPU") == 1
    assert "1,00 ms<br><small>× 0,50 · 50 % copia<br>CPU 1,10 ms</small>" in html
    assert explained in html


def test_memory_table_holds_the_bytes_of_the_file(small):
    html = render("prova", "memoria", [small]).replace("\u00a0", " ")
    assert '<tr><th scope="row">nostro</th><td>26,9 kB</td></tr>' in html


@pytest.mark.parametrize(
    ("draw", "place"),
    [(draw_times, 0.765), (draw_memory, 0.02688), (draw_tokens, 16_340.0)],
)
def test_marks_are_at_the_ratio_the_megabytes_and_the_tokens_of_the_file(small, draw, place):
    contests = contests_of("prova", small)
    contests[0]["tokens_per_second"] = {"nostro": 16_340.0}
    axes = axes_with(lambda axes: draw(axes, contests))
    assert line(axes, "nostro") == [(pytest.approx(place), 0)]


def test_a_contestant_who_was_not_in_every_contest_has_a_dash(growing):
    del growing["benchmarks"][4]["extra_info"]["contestants"]["auto-attenzione"]
    (first, *_), _second = rows_of(render("prova", "", [growing]))[:2]
    assert first == ["auto-attenzione"]
    assert rows_of(render("prova", "", [growing]))[0][5] == ["–"]
    assert rows_of(render("prova", "crescita", [growing]))[0][2] == ["–"]


def test_a_call_that_allocates_nothing_is_drawn_without_its_logarithm(growing):
    html = render("prova", "memoria", [growing]).replace("\u00a0", " ")
    assert "<td>0 kB</td>" in html


@pytest.mark.parametrize("group", GROUPS)
def test_published_numbers_reach_the_page(group):
    html = misura(group)
    entries = [entry for session in latest() for entry in session["benchmarks"]]
    published = [entry["extra_info"] for entry in entries if entry["group"] == group]
    assert published or "Non misurato, né su CPU né su GPU" in html
    for info in published:
        for score in info["contestants"].values():
            assert duration(score["median"]) in html


def test_tokens_per_second_are_those_of_the_file(on_gpu):
    first, second, *_ = on_gpu["benchmarks"]
    first["extra_info"] |= {
        "tokens_per_second": {"nostro": 81_612.4, "altri": 950.0},
        "us_per_token": {"nostro": 12.25, "altri": 4210.5},
        "hours": {"altri": 11.1},
    }
    html = render("prova", "token", [on_gpu])
    assert html.count("<figure") == 1  # le altre gare non contano token
    assert "<td>81\u202f612/s<br><small>12,2\u00a0µs l'uno</small></td>" in html
    assert "<td>950/s<br><small>4,21\u00a0ms ogni 4; 11,1\u00a0ore</small></td>" in html
    assert rows_of(html)[2] == [["diverso"], ["–"]]
    assert "di tutti i passi dell&#x27;articolo" in html
    del first["extra_info"]["hours"]
    assert "di tutti i passi" not in render("prova", "token", [on_gpu])
    assert render("prova", "token", [{**on_gpu, "benchmarks": [second]}]) == render("", "token", [])


# Il roofline.


def test_attainable_is_the_lower_of_the_two_lines():
    roof = Roof("prova", 100.0, 4.0)
    assert roof.knee == 25.0
    assert [roof.attainable(x) for x in (1.0, 25.0, 50.0)] == [4.0, 100.0, 100.0]
    flat = Roof("prova", 100.0, None)
    assert (flat.knee, flat.attainable(0.01)) == (None, 100.0)


def parts_of(session, split):
    return dict(split(contests_of("prova", session)))


def test_roofs_are_those_measured_in_the_session_and_those_of_the_datasheet(on_gpu):
    parts = parts_of(on_gpu, by_format)
    assert list(parts) == ["FP32", "BF16"]
    assert roofs(parts["FP32"]) == [
        Roof("misurato", 50e12, 2e12),
        Roof("scheda tecnica", 100e12, 4e12),
    ]
    assert roofs(parts["BF16"]) == [
        Roof("misurato", 400e12, 2e12),
        Roof("scheda tecnica", 1000e12, 4e12),
    ]


def test_a_session_without_ceilings_has_a_flat_roof_as_high_as_its_fastest_product(small):
    faster = {**small["benchmarks"][0], "group": "altro"}
    faster["extra_info"] = {**faster["extra_info"], "gemm_gflops": 3.0}
    small["benchmarks"].append(faster)
    assert roofs(parts_of(small, by_format)["FP32"]) == [Roof("misurato", 3e9, None)]
    html = render("prova", "roofline", [small])
    assert "banda non misurata" in html
    assert "senza la retta inclinata" in html


def test_points_are_intensity_and_rate_of_who_does_the_declared_work(on_gpu):
    found = points(parts_of(on_gpu, by_format)["FP32"])
    assert [(it.series, it.name, it.intensity, it.rate) for it in found] == [
        ("nostro", "n = 10", 1.0, pytest.approx(1e12)),
        ("altri", "n = 10", 1.0, pytest.approx(0.5e12)),
        ("nostro", "n = 1000", 200.0, pytest.approx(2e13)),
        ("altri", "n = 1000", 200.0, pytest.approx(1e13)),
    ]


def test_all_groups_together_show_only_our_contestant(on_gpu):
    found = points(parts_of(on_gpu, ours_by_format)["BF16"])
    assert [(it.series, it.rate) for it in found] == [
        ("prova", pytest.approx(1e12)),
        ("prova", pytest.approx(2e13)),
    ]


def test_roof_is_drawn_where_it_was_measured(on_gpu):
    part = parts_of(on_gpu, by_format)["FP32"]
    axes = axes_with(lambda axes: draw_roofline(axes, part))
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    left, right = axes.get_xlim()
    assert (left, right) == (0.5, 400.0)
    assert line(axes, "tetto misurato") == [(left, left * 2e12), (25.0, 50e12), (right, 50e12)]
    assert line(axes, "tetto scheda") == [(left, left * 4e12), (25.0, 100e12), (right, 100e12)]
    assert line(axes, "nostro") == [(1.0, pytest.approx(1e12)), (200.0, pytest.approx(2e13))]
    assert axes.get_ylabel() == "TFLOP/s"
    assert axes.yaxis.get_major_formatter()(1e14) == "100"
    dashes = {drawn.get_label()[:10]: drawn.get_linestyle() for drawn in axes.get_lines()[:2]}
    assert dashes == {"tetto misu": "-", "tetto sche": "--"}


def test_roofline_table_tells_who_governs_and_the_fraction_of_the_roof_there(on_gpu):
    rows = rows_of(render("prova", "roofline", [on_gpu]))
    assert rows[0] == [
        ["nostro,", "n", "=", "10"],
        ["1"],
        ["1,00", "TFLOP/s"],
        ["50", "%", "(memoria)"],  # 1 TFLOP/s su 1 · 2
        ["25", "%", "(memoria)"],
    ]
    assert rows[2][3:] == [["40", "%", "(aritmetica)"], ["20", "%", "(aritmetica)"]]
    assert (
        governs(points(parts_of(on_gpu, by_format)["FP32"])[0], Roof("", 1.0, 1.0)) == "aritmetica"
    )


def test_a_long_table_is_closed_and_a_short_one_is_open(on_gpu):
    assert "<details>" not in render("prova", "roofline", [on_gpu])
    on_gpu["benchmarks"] *= 4
    assert "<summary>I numeri delle 16 gare</summary>" in render("prova", "roofline", [on_gpu])


# Le barre.


def test_bars_are_those_of_the_contests_with_most_operations(on_gpu):
    kept = largest_contests(contests_of("prova", on_gpu))
    assert [(contest["dtype"], contest["label"]) for contest in kept] == [
        ("float32", "n = 1000"),
        ("bfloat16", "n = 1000"),
    ]
    assert [(name, form) for name, form, _ in bars(kept)] == [
        ("nostro", "FP32"),
        ("altri", "FP32"),
        ("nostro", "BF16"),
        ("altri", "BF16"),
    ]


def test_bars_are_as_long_as_the_fractions(on_gpu):
    kept = largest_contests(contests_of("prova", on_gpu))
    axes = axes_with(lambda axes: draw_bars(axes, kept))
    widths = [patch.get_width() for patch in axes.patches]
    assert widths == pytest.approx([50, 20, 25, 10, 6.25, 2, 3.125, 1])
    assert [patch.get_fill() for patch in axes.patches] == [True, False] * 4


def test_bars_table_holds_both_fractions(on_gpu, small):
    rows = rows_of(render("prova", "barre", [on_gpu]))
    assert rows[0] == [["nostro"], ["FP32"], ["20,0", "TFLOP/s"], ["50", "%"], ["20", "%"]]
    assert rows_of(render("prova", "barre", [small]))[0][3:] == [["37", "%"], ["–"]]


def test_a_group_where_nobody_has_a_fraction_has_no_bars(on_gpu):
    on_gpu["benchmarks"] = on_gpu["benchmarks"][:1]
    contestants = on_gpu["benchmarks"][0]["extra_info"]["contestants"]
    for name in ("nostro", "altri"):
        del contestants[name]
    assert render("prova", "barre", [on_gpu]) == render("altro", "barre", [on_gpu])


# La crescita.


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0, 3.0])
def test_exponent_of_a_power_is_the_power(power):
    values = [(n, 7.0 * n**power) for n in (2, 3, 11, 101)]
    assert exponent(values) == pytest.approx(power, abs=1e-12)


def test_exponent_is_fitted_on_the_three_largest():
    values = [(1, 100.0), (10, 100.0), (100, 1e4), (1000, 1e6), (10_000, 1e8)]
    assert exponent(values) == pytest.approx(2)
    assert exponent([(10, 1.0), (100, 1000.0)]) == pytest.approx(3)
    assert exponent([(10, 1.0)]) is None
    assert exponent([(10, 1.0), (10, 2.0)]) is None
    noisy = [(1, 1.0), (10, 10 * 2.0), (100, 100.0)]
    assert exponent(noisy) == pytest.approx(1)  # lo scarto del punto di mezzo non inclina la retta


def test_growth_table_holds_the_measured_exponent_beside_the_counted_one(growing):
    rows = rows_of(render("prova", "crescita", [growing]))
    assert rows == [
        [["auto-attenzione"], ["10,0", "µs"], ["64,0", "ms"], ["2,00"], ["2,00", "n²·d"]],
        [["nn.RNN"], ["3,00", "µs"], ["2,40", "ms"], ["1,00"], ["1,00", "n·d²"]],
    ]


def test_growth_of_memory_skips_who_allocates_nothing(growing):
    rows = rows_of(render("prova", "crescita memoria", [growing]))
    assert rows[0][1:4] == [["1,00", "kB"], ["512", "GB"], ["3,00"]]
    assert rows[1][1:4] == [["–"], ["–"], ["–"]]


def test_growth_of_one_size_has_no_exponent(growing):
    growing["benchmarks"] = growing["benchmarks"][:1]
    rows = rows_of(render("prova", "crescita", [growing]))
    assert rows[0] == [["auto-attenzione"], ["10,0", "µs"], ["–"]]


def test_lines_pass_through_the_measures_and_guides_have_their_slope(growing):
    contests = contests_of("prova", growing)
    axes = axes_with(lambda axes: draw_growth("median", 1e-3, "tempo, ms", axes, contests))
    assert growing_dimension(contests) == "n"
    drawn = line(axes, "nn.RNN")
    assert [x for x, _ in drawn] == [10, 100, 1000, 2000, 8000]
    assert [y for _, y in drawn] == pytest.approx([3e-3, 3e-2, 0.3, 0.6, 2.4])  # millisecondi
    for slope in (1, 2):
        (x_0, y_0), (x_1, y_1) = line(axes, f"pendenza {slope}")
        assert math.log(y_1 / y_0) / math.log(x_1 / x_0) == pytest.approx(slope)


def test_the_dimension_that_grows_is_the_one_that_changes(growing_d):
    contests = contests_of("prova", growing_d)
    assert growing_dimension(contests) == "d"
    both = [{"shape": {"batch": 8 // n, "n": n}} for n in (1, 2, 4)]
    assert growing_dimension(both) == "n"
    assert series(contests, "ricorrente", "median") == [(64, 1.0), (128, 4.0), (256, 16.0)]
    assert counted(contests, "ricorrente") == ("n·d²", pytest.approx(2))
    assert counted(contests, "sconosciuto") is None


@pytest.fixture
def growing_d(growing):
    entries = growing["benchmarks"][:3]
    for d, entry in zip((256, 64, 128), entries, strict=True):
        seconds = (d / 64) ** 2
        entry["extra_info"]["shape"] = {"n": 128, "d": d}
        entry["extra_info"]["contestants"] = {"ricorrente": {"median": seconds}}
    return {**growing, "benchmarks": entries}


def test_counted_exponents_are_those_of_table_1():
    by_layer = {row.layer: row.complexity for row in TABLE_1}
    for contestant, layer in (
        ("auto-attenzione", "auto-attenzione"),
        ("ricorrente", "ricorrente"),
        ("nn.RNN", "ricorrente"),
        ("convoluzionale", "convoluzionale"),
        ("ristretta", "auto-attenzione ristretta"),
    ):
        formula, count = orders()[contestant]
        assert f"O({formula})" == by_layer[layer].text
        assert count(7, 11) == by_layer[layer].growth(Sizes(n=7, d=11, k=3, r=15))
    _, projected = orders()["con le proiezioni"]
    _, separable = orders()["separabile"]
    assert projected(7, 11) == 2 * 7**2 * 11 + 4 * 7 * 11**2
    assert separable(7, 11) == 3 * 7 * 11 + 7 * 11**2


# I traguardi.


def test_a_goal_is_reached_on_its_side():
    faster = Goal("", "g", "l", "altri", 0.8)
    assert [faster.reached(found) for found in (0.79, 0.8, 0.81)] == [True, True, False]
    for roof in ("tetto GEMM", "banda della copia"):
        nearer = Goal("", "g", "l", roof, 0.8, "gemm_fraction")
        assert [nearer.reached(found) for found in (0.79, 0.8, 0.81)] == [False, True, True]


def test_goals_are_measured_between_contestants_of_the_same_contest(small):
    contest = small["benchmarks"][0]["extra_info"]
    assert Goal("", "g", "l", "altri", 1.0).measured(contest) == pytest.approx(0.765)
    assert Goal("", "g", "l", "altri", 1.0, "extra_bytes").measured(contest) == 1
    assert Goal("", "g", "l", "assente", 1.0).measured(contest) is None
    fraction = Goal("", "g", "l", "tetto GEMM", 1.0, "gemm_fraction").measured(contest)
    assert fraction == pytest.approx(0.374)


def test_table_of_goals_has_a_column_per_cpu_and_says_what_was_not_measured(small, on_gpu):
    goal = next(goal for goal in GOALS if goal.group == "s3_2_1_causal")
    entry = small["benchmarks"][0]
    entry["group"], entry["extra_info"]["label"] = goal.group, goal.label
    contestants = entry["extra_info"]["contestants"]
    contestants[goal.rival] = contestants.pop("altri")
    entry["extra_info"]["baseline"] = goal.rival
    html = goals_table([on_gpu, small], GOALS)
    assert html.count('<th scope="col">') == 4  # la GPU non ha la sua colonna
    rows = rows_of(html)
    assert len(rows) == len(GOALS)
    assert rows[GOALS.index(goal)][2:] == [["al", "più", "×", "0,62"], ["×", "0,77", "no"]]
    assert [row[3] for row in rows].count(["non", "misurato"]) == len(GOALS) - 1
    assert list(summary([small], GOALS)) == ["Intel(R) Xeon(R) Processor: 0 su 1 misurati."]
    assert goals_table([on_gpu], GOALS) == "<p>Non misurato su CPU.</p>"
    assert goals_table([small], GPU_GOALS) == "<p>Non misurato su GPU.</p>"


def test_goals_on_a_gpu_look_at_its_format_and_at_the_copy(on_gpu):
    entry = on_gpu["benchmarks"][0]
    entry["group"], entry["extra_info"]["label"] = "s6_1_decoding", "base, 1 frase"
    goal = next(it for it in GPU_GOALS if it.contest[:2] == ("s6_1_decoding", "base, 1 frase"))
    assert goal.place == ("cuda", "float32")
    row = rows_of(goals_table([on_gpu], GPU_GOALS))[GPU_GOALS.index(goal)]
    assert row[2:] == [["almeno", "50", "%"], ["50", "%", "raggiunto"]]
    assert list(summary([on_gpu], GPU_GOALS)) == ["Scheda Finta: 1 su 1 misurati."]
    entry["extra_info"]["dtype"] = "bfloat16"
    assert list(summary([on_gpu], (goal,))) == []


def test_goals_tell_only_the_files_they_come_from(on_gpu, small):
    """Un file della CPU con lo stesso gruppo non è l'origine dei traguardi su GPU, e viceversa."""
    for session in (on_gpu, small):
        session["benchmarks"][0]["group"] = "s6_1_decoding"
        session["benchmarks"][1:] = []
    small["commit_info"]["id"], on_gpu["commit_info"]["id"] = "c0c0c0c", "d0d0d0d"
    told = goals([on_gpu, small], GPU_GOALS)
    assert ("d0d0d0d" in told, "c0c0c0c" in told) == (True, False)
    small["benchmarks"][0]["group"] = "s3_2_1_causal"
    told = goals([on_gpu, small], GOALS)
    assert ("d0d0d0d" in told, "c0c0c0c" in told) == (False, True)
    small["benchmarks"][0]["group"] = "prova"
    assert "c0c0c0c" not in goals([on_gpu, small], GOALS)


def test_goals_name_groups_and_rivals_that_exist():
    known = {
        (entry["group"], entry["extra_info"]["label"], entry["extra_info"]["device"], name)
        for session in latest()
        for entry in session["benchmarks"]
        for name in (*entry["extra_info"]["contestants"], "tetto GEMM", "banda della copia")
    }
    measured = {(group, device) for group, _, device, _ in known}
    for goal in (*GOALS, *GPU_GOALS):
        device, _ = goal.place
        assert goal.group in GROUPS
        played = (goal.group, goal.label, device, goal.rival) in known
        assert played or (goal.group, device) not in measured


# La pagina.


def test_caption_gives_provenance_and_what_was_missing(small):
    caption = render("prova", "", [small]).partition("<figcaption>")[2]
    for piece in (
        "CPU, FP32",
        "Intel Xeon Processor, 2 core, 2 thread, Linux x86_64",
        "Python 3.11.7, torch 2.13.0.",
        "Commit abc1234 (modificato), 12/6/2026.",
        "Non installati, quindi non misurati: x-transformers.",
        "su 7 giri alternati",
        "2,00\u00a0GFLOP/s",
    ):
        assert piece in caption
    assert "Durante un grande prodotto" not in caption


def test_caption_of_a_gpu_gives_driver_and_clocks(on_gpu):
    html = render("prova", "", [on_gpu])
    assert html.count("<figure") == 2  # FP32 e BF16
    for piece in (
        "GPU, BF16",
        "Scheda Finta (driver 580.1), Intel Xeon",
        "Durante un grande prodotto: SM a 1755 MHz, 612 W.",
        "oppure, dove è scritto, della copia, 2,00\u00a0TB/s",
    ):
        assert piece in html


def test_the_roofline_of_a_cpu_has_the_fastest_product_of_all_its_sessions(
    monkeypatch, executed, small
):
    """Anche se la sessione più lenta è l'ultima che il blocco della pagina legge."""
    slower = copy.deepcopy(small)
    slower["benchmarks"][0]["extra_info"]["gemm_gflops"] = 1.0
    monkeypatch.setattr(measurements, "of_machine", lambda _: [small, slower])
    names = dict(vars(roofline))
    executed("gpu_notes/roofline.md", "CHANNEL = ", names)
    assert names["ceiling"] == 2e9


def test_the_page_on_rates_skips_what_a_session_does_not_have(monkeypatch, executed, sessions):
    """Le frequenze non lette, il nostro kernel che manca, o che non fa il lavoro."""
    found = copy.deepcopy(sessions)
    for session in found:
        session["ceilings"]["clocks"] = {}
        for entry in session["benchmarks"]:
            if entry["group"] == "beyond_flash_attention":
                del entry["extra_info"]["contestants"]["flash_attention"]
            if entry["group"] == "beyond_flash_attention_backward":
                entry["extra_info"]["contestants"]["flash_attention"]["gflops"] = None
    monkeypatch.setattr(measurements, "of_machine", lambda _: found)
    printed = executed("docs/misure_tensor_core.md", "roofs = roofs_of(", dict(vars(tensor_cores)))
    assert "prodotto, BF16" in printed
    assert "il tetto dei CUDA core è 100,4" in printed  # alla frequenza più alta che si suppone
    assert "attenzione" not in printed


HARDWARE = "paper_it/s5_2_hardware_schedule.md"


def test_the_page_on_hours_skips_what_a_session_does_not_have(monkeypatch, executed, sessions):
    found = copy.deepcopy(sessions[:1])
    steps = [it for it in found[0]["benchmarks"] if it["group"] == "s5_2_training_25k"]
    monkeypatch.setattr(measurements, "latest", lambda: found)
    assert executed(HARDWARE, "PAPER = {", {}).count("ritmo GEMM") == 2
    steps[0]["extra_info"]["label"] = "piccolo"
    first = next(iter(steps[1]["extra_info"]["contestants"].values()))
    first["gemm_fraction"] = None
    printed = executed(HARDWARE, "PAPER = {", {})
    assert "modello piccolo" not in printed
    assert "ritmo GEMM" not in printed
    assert "token al secondo per parte\n" in printed
    steps[1]["extra_info"]["label"] = "enorme"
    assert executed(HARDWARE, "PAPER = {", {}) == "non misurato su GPU\n"


@pytest.mark.parametrize("absent", ["vocabulary", "batch", "n", "gflops"])
def test_the_page_on_days_skips_what_a_session_does_not_have(monkeypatch, executed, absent):
    found = copy.deepcopy(measurements.of_machine(measurements.EPYC))
    monkeypatch.setattr(measurements, "latest", lambda: found)
    names = {}
    for line in ("def step_flops(", "PAPER = {"):
        executed(HARDWARE, line, names)
    assert "estrapolato" in executed(HARDWARE, "estrapolato due volte", names)
    for session in found:
        for entry in session["benchmarks"]:
            entry["extra_info"]["shape"].pop(absent, None)
            for score in entry["extra_info"]["contestants"].values():
                score |= {"gflops": None} if absent == "gflops" else {}
    assert executed(HARDWARE, "estrapolato due volte", names) == ""


def test_page_says_what_was_not_measured(small, on_gpu):
    assert "Non misurato su GPU." in render("prova", "", [small])
    assert "Non misurato su CPU." in render("prova", "", [on_gpu])
    both = render("prova", "", [small, on_gpu])
    assert "Non misurato" not in both
    names = re.findall(r'\bid="([^"]+)"', both)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    "request_", ["s3_2_2_multi_heads", "s3_2_2_multi_head tempo", "", "memoria", "roofline tutti"]
)
def test_unknown_measure_stops_the_build(request_):
    with pytest.raises(SuperFencesException, match="non esiste"):
        misura(request_)


def test_groups_are_those_the_benchmarks_declare(tmp_path):
    assert {"s3_2_1_scaled_dot_product", "s3_2_1_causal", "s3_training_step"} <= set(GROUPS)
    source = '@pytest.mark.benchmark(group="prova", timer=clock)\n'
    (tmp_path / "bench_prova.py").write_text(source * 2)
    assert declared(tmp_path) == ["prova"]


QUANTITIES = ["", "memoria", "roofline", "barre", "crescita", "crescita memoria"]


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_drawing_belongs_to_the_page(on_gpu, quantity):
    html = render("prova", quantity, [on_gpu])
    drawing = html[html.index("<svg") : html.index("</svg>")]
    assert re.match(r'<svg role="img" aria-label="[^"]{40,}" viewBox="0 0 [\d. ]+" width=', drawing)
    assert "currentColor" in drawing
    for foreign in (INK, "<metadata", "<style", "DejaVu", "#000000"):
        assert foreign not in drawing
    names = re.findall(r'\bid="([^"]+)"', drawing)
    assert len(names) == len(set(names))
    assert names
    assert set(re.findall(r'href="#([^"]+)"', drawing)) <= set(names)
    assert render("prova", quantity, [on_gpu]) == html


@pytest.mark.parametrize("quantity", QUANTITIES)
def test_every_column_has_a_heading_and_every_row_its_name(on_gpu, quantity):
    html = render("prova", quantity, [on_gpu])
    heads = re.search(r"<thead>(.*?)</thead>", html)[1]
    columns = re.findall(r'<th scope="col">([^<]+)</th>', heads)
    assert {len(row) for row in rows_of(html)} == {len(columns)}


def luminance(color):
    channels = (int(color[i : i + 2], 16) / 255 for i in (1, 3, 5))
    red, green, blue = (
        value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4
        for value in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("color", [color for color, _ in STROKES if color != INK])
def test_marks_stand_out_on_both_themes(color):
    css = Path("docs/assets/css/attenzione.css")
    text = (ROOT / css).read_text(encoding="utf-8")
    backgrounds = re.findall(r"--md-default-bg-color: (#\w{6})", text)
    assert len(backgrounds) == 2
    for background in backgrounds:
        dark, light = sorted((luminance(color), luminance(background)))
        assert (light + 0.05) / (dark + 0.05) >= 3


def test_forty_series_have_different_strokes():
    assert len({tuple(stroke(place).items()) for place in range(40)}) == 40


# I numeri.


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (3.2e-7, "0,320 µs"),
        (0.000612, "612 µs"),
        (0.00749, "7,49 ms"),
        (0.0739, "73,9 ms"),
        (0.0009996, "1,00 ms"),
        (1.104, "1,10 s"),
    ],
)
def test_durations_read_as_in_italian(seconds, text):
    assert duration(seconds) == text.replace(" ", "\u00a0")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 kB"), (26_880, "26,9 kB"), (1_048_588, "1,05 MB"), (1.5e9, "1,50 GB")],
)
def test_sizes_read_as_in_italian(count, text):
    assert size(count) == text.replace(" ", "\u00a0")


def test_rates_and_fractions_read_as_in_italian():
    assert rate(185.2e9) == "185\u00a0GFLOP/s"
    assert rate(1.2e12) == "1,20\u00a0TFLOP/s"
    assert bandwidth(41.25e9) == "41,2\u00a0GB/s"
    assert bandwidth(3.35e12) == "3,35\u00a0TB/s"
    assert [percent(it) for it in (0.374, 0.1, 0.0123, None)] == [
        *("37\u00a0%", "10\u00a0%", "1,2\u00a0%", "–"),
    ]
    assert (span([149.6, 150.2]), span([10.0, 20.0])) == ("150", "10–20")
    assert span([795e9, 773e9], rate) == "773–795\u00a0GFLOP/s"
    assert span([795e9, 1.2e12], rate) == "795\u00a0GFLOP/s–1,20\u00a0TFLOP/s"
    assert span([2e12, 2.001e12], bandwidth) == "2,00\u00a0TB/s"
