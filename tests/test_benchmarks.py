"""I benchmark: il lavoro contato è quello vero, la misura pubblicata è integra e sta sulla pagina.

Nessun test cronometra: i tempi sono misure, e stanno in `benchmarks/results/`.
"""

import copy
import json
import math
import re
from pathlib import Path

import pytest
import torch
from pymdownx.superfences import SuperFencesException
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attention import (
    BASE,
    MultiHeadAttention,
    Transformer,
    TransformerConfig,
    fused_attention,
    scaled_dot_product_attention,
)
from benchmarks import bench_s1_introduction as introduction
from benchmarks import bench_s3_2_1_scaled_dot_product as scaled
from benchmarks import bench_s3_2_2_multi_head as multi_head
from benchmarks import bench_s3_model_architecture as model
from benchmarks import bench_s4_why_self_attention as why
from benchmarks import conftest as bench_conftest
from benchmarks import contest, provenance, publish
from benchmarks.contest import Timing, Turns, Work, extra_bytes, highest_sum, verdict
from weave.house import ROOT
from weave.measurements import (
    BENCHMARKS,
    INK,
    STROKES,
    declared,
    duration,
    latest,
    misura,
    render,
    size,
)

FILES = sorted(BENCHMARKS.glob("results/*/*.json"))

GROUPS = set(declared())

DECODING = "s3_greedy_decoding"
"""La sola gara del modello intero che non addestra."""


@pytest.fixture(params=FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def session(request):
    return json.loads(request.param.read_text(encoding="utf-8"))


@pytest.fixture
def small():
    """Una misura scritta a mano, con numeri tondi: 2 Gflop al secondo di tetto."""
    score = {"iqr": 1e-5, "gflops": 0.5, "extra_bytes": 26_880}
    found = {
        "device": "cpu",
        "dtype": "float32",
        "label": "n = 10",
        "shape": {"n": 10},
        "gemm_gflops": 2.0,
        "baseline": "altri",
        "contestants": {
            "nostro": {**score, "median": 0.000612, "ratio": 0.971, "gemm_fraction": 0.374},
            "altri": {**score, "median": 1.104, "ratio": 1.0, "gemm_fraction": 0.253},
        },
    }
    return {
        "machine_info": {
            "cpu": "Intel(R) Xeon(R) Processor",
            "cores": 2,
            "threads": 2,
            "gpu": None,
            "driver": None,
            "system": "Linux x86_64",
            "python": "3.11.7",
            "packages": {"torch": "2.13.0", "x-transformers": None},
        },
        "commit_info": {"id": "abc1234", "modified": True},
        "datetime": "2026-06-12T10:00:00+00:00",
        "benchmarks": [{"group": "prova", "extra_info": found, "stats": {"rounds": 7}}],
    }


@pytest.fixture
def on_cpu(monkeypatch):
    """Le allocazioni si contano su CPU anche dove c'è una GPU."""
    monkeypatch.setattr(contest, "DEVICE", "cpu")


def counted_flops(run):
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def multi_head_case(batch, n, d_model, heads):
    return MultiHeadAttention(d_model, heads).eval(), torch.randn(batch, n, d_model)


# Il lavoro.


def test_flops_of_eq_1_are_those_pytorch_counts():
    q, k, v = torch.randn(3, 1, scaled.HEADS, 13, scaled.WIDTH)
    counted = counted_flops(lambda: scaled_dot_product_attention(q, k, v))
    assert scaled.work(13, causal=False).flops == counted


def test_causal_flops_count_only_the_allowed_pairs():
    pairs = sum(1 for i in range(13) for j in range(13) if j <= i)
    assert scaled.work(13, causal=True).flops == 4 * scaled.HEADS * scaled.WIDTH * pairs


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_flops_of_multi_head_are_those_pytorch_counts():
    ours, x = multi_head_case(3, 13, 35, 5)
    counted = counted_flops(multi_head.contestants(ours, x)["softmax esplicita"])
    assert multi_head.work(3, 13, 35, 5).flops == counted


def test_traffic_of_eq_1_is_inputs_and_output_once():
    q, k, v = torch.randn(3, 1, scaled.HEADS, 13, scaled.WIDTH)
    tensors = (q, k, v, fused_attention(q, k, v))
    assert scaled.work(13, causal=False).numbers == sum(tensor.numel() for tensor in tensors)


def test_traffic_of_multi_head_is_input_weights_and_output_once():
    ours, x = multi_head_case(3, 13, 35, 5)
    tensors = (x, ours(x, x, x), *ours.parameters())
    assert multi_head.work(3, 13, 35, 5).numbers == sum(tensor.numel() for tensor in tensors)


@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_contestants_of_eq_1_compute_the_same_function(causal):
    q, k, v = torch.randn(3, 1, scaled.HEADS, 13, scaled.WIDTH)
    expected, *others = (run() for run in scaled.contestants(q, k, v, causal).values())
    assert len(others) == 2
    for output in others:
        torch.testing.assert_close(output, expected)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
def test_contestants_of_multi_head_compute_the_same_function():
    ours, x = multi_head_case(3, 13, 35, 5)
    contestants = multi_head.contestants(ours, x)
    expected = ours(x, x, x)
    assert len(contestants) >= 5
    for name, run in contestants.items():
        torch.testing.assert_close(run(), expected, msg=lambda text, name=name: f"{name}: {text}")


def small_model(**sizes):
    """Una configurazione minima, con misure tutte diverse e senza dropout."""
    usual = {"layers": 2, "d_model": 26, "d_ff": 35, "heads": 13, "dropout": 0.0, "vocabulary": 101}
    return TransformerConfig(**{**usual, **sizes})


@torch.no_grad()
def test_flops_of_the_model_are_those_pytorch_counts():
    """Salvo le coppie vietate dalla causalità, che PyTorch conta e noi no."""
    config, batch, n = small_model(), 3, 7
    ours, tokens = Transformer(config).eval(), torch.full((batch, n), 4)
    with sdpa_kernel(SDPBackend.MATH):  # quelli del kernel fuso per CPU PyTorch non li conta
        counted = counted_flops(lambda: ours(tokens, tokens))
    forbidden = 4 * config.layers * config.d_model * batch * n * (n - 1) // 2
    assert model.products(config, batch * n, batch * n, n) == counted - forbidden
    assert model.training_work(config).flops == 3 * model.products(config, 512, 512, 64)


@torch.no_grad()
def test_bare_products_are_those_of_the_step():
    """I prodotti eseguiti da soli sono quelli del passo, salvo le attenzioni."""
    config, rows = small_model(), model.BATCH * model.LENGTH
    attentions = model.products(config, rows, rows, model.LENGTH)
    attentions -= model.products(config, rows, rows, 0) - 2 * config.layers * rows * config.d_model
    bare = counted_flops(model.matrix_products(config))
    assert bare == model.training_work(config).flops - 3 * attentions


@pytest.mark.filterwarnings("ignore")
def test_parts_of_a_step_run_alone(monkeypatch):
    """Ogni pezzo gira da solo, anche per primo."""
    for name in model.parts(small_model()):
        model.parts(small_model())[name]()


def test_a_generated_token_reads_the_decoder_and_the_shared_matrix():
    """Per strato: quattro matrici, più due delle quattro che guardano la sorgente, e il resto."""
    for config in (small_model(), BASE):
        d, d_ff = config.d_model, config.d_ff
        layer = (4 + 2) * d * d + 2 * d * d_ff + d_ff + d + 3 * 2 * d
        expected = config.layers * layer + config.vocabulary * d
        assert model.weights_per_token(model.on_meta(config)) == expected


@pytest.mark.filterwarnings("ignore")
def test_contestants_of_training_have_the_same_loss():
    """La prima perdita è la stessa per tutti; dopo un passo, per chi ha gli stessi parametri."""
    contestants = model.steps(small_model(), torch.float32)
    first, second = ([run().item() for run in contestants.values()] for _ in range(2))
    assert len(first) == 3 + bool(provenance.installed("transformers"))
    assert first == pytest.approx([first[0]] * len(first), rel=1e-5)
    assert second[1] == pytest.approx(second[0], rel=1e-5)
    assert second[0] < first[0]


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
def test_contestants_of_decoding_generate_the_same_tokens(tmp_path):
    """Con gli stessi pesi, gli stessi 64 token; i pesi sono grandi, per non averne uno solo."""
    ours = Transformer(small_model(vocabulary=1009)).eval()
    for matrix in (p for stack in (ours.encoder, ours.decoder) for p in stack.parameters()):
        matrix.mul_(5 if matrix.dim() == 2 else 1)
    source = torch.randint(3, 1009, (1, model.LENGTH))
    expected = model.never_ending(ours, source)
    assert expected.unique().numel() > 2
    for name, run in model.peers(ours, source, tmp_path):
        assert run().equal(expected), name


# La memoria: qui si contano allocazioni, non tempi.


@pytest.mark.usefixtures("on_cpu")
@torch.no_grad()
def test_extra_memory_of_the_letter_is_quadratic():
    used = []
    for n in (512, 1024):
        q, k, v = torch.randn(3, 1, 2, n, 16)
        used.append(extra_bytes(lambda q=q, k=k, v=v: scaled_dot_product_attention(q, k, v)))
    assert used[0] >= 2 * 512 * 512 * 4
    assert used[1] / used[0] == pytest.approx(4, rel=0.05)


@pytest.mark.usefixtures("on_cpu")
@torch.no_grad()
@pytest.mark.parametrize("causal", [False, True])
def test_extra_memory_of_the_fused_kernel_is_linear(causal):
    used = []
    for n in (1024, 2048, 4096):
        q, k, v = torch.randn(3, 1, 2, n, 16)
        used.append(extra_bytes(lambda q=q, k=k, v=v: fused_attention(q, k, v, causal=causal)))
    assert used[0] >= 2 * 1024 * 16 * 4
    assert used[2] - used[1] == pytest.approx(2 * (used[1] - used[0]), rel=0.05)


@pytest.mark.usefixtures("on_cpu")
@torch.no_grad()
def test_extra_memory_of_multi_head_is_linear():
    used = []
    for n in (1024, 2048, 4096):
        ours, x = multi_head_case(1, n, 32, 2)
        used.append(extra_bytes(lambda ours=ours, x=x: ours(x, x, x)))
    assert used[0] >= 1024 * 32 * 4
    assert used[2] - used[1] == pytest.approx(2 * (used[1] - used[0]), rel=0.05)


@pytest.mark.usefixtures("on_cpu")
@torch.no_grad()
def test_torch_layer_writes_all_the_weights_only_with_bias():
    ours, x = multi_head_case(1, 2048, 32, 2)
    weights = 2 * 2048 * 2048 * x.element_size()
    biased, unbiased = (multi_head.torch_layer(ours, bias) for bias in (True, False))
    assert extra_bytes(lambda: biased(x, x, x, need_weights=False)) > weights
    assert extra_bytes(lambda: unbiased(x, x, x, need_weights=False)) < weights / 4


@pytest.mark.usefixtures("on_cpu")
def test_extra_memory_counts_the_peak_and_not_the_sum():
    def run():
        for _ in range(5):
            torch.empty(1000, dtype=torch.float32)

    assert extra_bytes(run) == 4000


def test_highest_sum_of_gains_and_losses():
    assert highest_sum([3, -3, 5, -1, 2, -6]) == 6


# La gara.


def test_every_contestant_plays_every_round_and_the_first_rotates(monkeypatch):
    monkeypatch.setattr(contest, "WARM_UP", 0.0)
    played = []
    turns = Turns({name: lambda name=name: played.append(name) for name in "abc"})
    for _ in range(3):
        turns.play()
    assert "".join(played[::2]) == "abcbcacab"
    assert played[::2] == played[1::2]  # una chiamata a vuoto, una cronometrata
    assert {name: len(times) for name, times in turns.times.items()} == {"a": 3, "b": 3, "c": 3}
    turns.forget()
    assert not any(turns.times.values())


def test_timing_is_the_median_and_the_spread_of_the_middle_half():
    assert Timing.of([1.0, 9.0, 3.0, 2.0, 4.0]) == Timing(3.0, 2.0)


def test_rounds_fill_the_time_of_a_contest_within_limits():
    assert contest.rounds_for(contest.SECONDS / 20) == 20
    assert contest.rounds_for(contest.SECONDS) == contest.MIN_ROUNDS
    assert contest.rounds_for(1e-6) == contest.MAX_ROUNDS


def test_verdict_divides_by_the_ceiling_and_by_the_baseline(monkeypatch):
    monkeypatch.setattr(contest, "GEMM_SIZE", 100)
    found = verdict(
        Work("prova", {"n": 3}, flops=6_000_000, numbers=1500),
        torch.bfloat16,
        "altri",
        {"nostro": Timing(0.002, 0.0), "altri": Timing(0.008, 0.0)},
        {"nostro": 10, "altri": 20},
        Timing(0.0005, 0.0),
    )
    assert found["dtype"] == "bfloat16"
    assert found["bytes"] == 3000
    assert found["intensity"] == 2000
    assert found["gemm_gflops"] == pytest.approx(4.0)
    ours, others = found["contestants"]["nostro"], found["contestants"]["altri"]
    assert ours["gflops"] == pytest.approx(3.0)
    assert ours["gemm_fraction"] == pytest.approx(0.75)
    assert ours["ratio"] == pytest.approx(0.25)
    assert (others["ratio"], others["extra_bytes"]) == (1.0, 20)


# Il file che si pubblica.


def test_published_file_drops_single_times_and_options():
    stats = {"min": 1.0, "median": 2.0, "iqr": 0.5, "max": 3.0, "rounds": 7}
    entry = {
        "group": "g",
        "name": "n",
        "fullname": "percorso",
        "params": {},
        "options": {"timer": "clock"},
        "extra_info": {"flops": 1},
        "stats": {**stats, "data": [1.0, 2.0, 3.0], "mean": 2.0},
    }
    output = {"benchmarks": [entry]}
    bench_conftest.pytest_benchmark_update_json(None, [], output)
    kept = {"group": "g", "name": "n", "extra_info": {"flops": 1}, "stats": stats}
    assert output == {"benchmarks": [kept]}


def test_machine_is_named_without_its_network_name():
    machine = provenance.machine()
    assert set(machine) == {
        *("cpu", "cores", "threads", "gpu", "driver", "system", "python", "packages"),
    }
    assert machine["packages"]["torch"] == torch.__version__
    assert (machine["gpu"] is not None) == torch.cuda.is_available()


@pytest.mark.parametrize(
    ("cpu", "gpu", "name"),
    [
        ("Intel(R) Xeon(R) Processor", None, "intel-xeon-2c-cpu"),
        ("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", None, "intel-core-i7-8700-2c-cpu"),
        ("AMD EPYC 9654 96-Core Processor", "NVIDIA H200", "amd-epyc-9654-2c-nvidia-h200"),
    ],
)
def test_slug_keeps_what_tells_machines_apart(cpu, gpu, name):
    assert provenance.slug({"cpu": cpu, "cores": 2, "gpu": gpu}) == name


def test_commit_says_when_the_sources_were_modified(monkeypatch):
    answers = {"rev-parse": "abc1234", "status": " M attention/__init__.py"}
    monkeypatch.setattr(provenance, "answer", lambda git, command, *_: answers[command])
    assert provenance.commit() == {"id": "abc1234", "modified": True}
    monkeypatch.setattr(provenance, "answer", lambda *_: None)
    assert provenance.commit() == {"id": "sconosciuto", "modified": False}


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(bench_conftest, "DEVICE", "cpu")
    monkeypatch.setattr(bench_conftest, "installed", {"torch": "2.13.0", "numpy": "2"}.get)
    assert list(bench_conftest.unmeasured()) == [
        "Non misurata la GPU: qui non c'è un dispositivo CUDA.",
        "Non misurato x-transformers: non installato.",
        "Non misurato transformers: non installato.",
        "Non misurato ctranslate2: non installato.",
    ]


@pytest.fixture
def fake_run(monkeypatch, tmp_path, small):
    """`publish.main` con un pytest finto, che scrive la misura e torna l'esito chiesto."""

    def run(outcome):
        def call(command, cwd):
            option = next(word for word in command if word.startswith("--benchmark-json="))
            Path(option.partition("=")[2]).write_text(json.dumps(small), encoding="utf-8")
            return outcome

        monkeypatch.setattr(publish, "RESULTS", tmp_path / "benchmarks" / "results")
        monkeypatch.setattr(publish.subprocess, "call", call)
        monkeypatch.setattr(publish.sys, "argv", ["publish"])
        (tmp_path / "benchmarks").mkdir()
        return publish.main(), sorted((tmp_path / "benchmarks").rglob("*.json"))

    return run


def test_a_finished_run_is_published_under_its_machine_and_day(fake_run, small, tmp_path):
    outcome, files = fake_run(0)
    folder = tmp_path / "benchmarks" / "results" / "intel-xeon-2c-cpu"
    assert (outcome, files) == (0, [folder / "2026-06-12.json"])
    assert json.loads(files[0].read_text(encoding="utf-8")) == small


def test_a_failed_run_publishes_nothing(fake_run):
    assert fake_run(1) == (1, [])


# I file già pubblicati.


def test_results_are_published():
    assert FILES


def test_published_session_tells_where_it_comes_from(session):
    assert set(session["machine_info"]) == set(provenance.machine())
    assert set(session["machine_info"]["packages"]) <= set(provenance.PACKAGES)
    assert re.fullmatch(r"[0-9a-f]{7,}|sconosciuto", session["commit_info"]["id"])
    assert re.match(r"\d{4}-\d{2}-\d{2}T", session["datetime"])
    assert {entry["group"] for entry in session["benchmarks"]} <= GROUPS


def test_published_file_lies_in_the_folder_of_its_machine():
    for path in FILES:
        assert path == publish.place(json.loads(path.read_text(encoding="utf-8")))


def numbers_of(value):
    """Ogni numero di una misura; una lista sarebbe una raccolta di singoli tempi."""
    assert not isinstance(value, list)
    if isinstance(value, dict):
        return [number for item in value.values() for number in numbers_of(item)]
    return [value] if isinstance(value, int | float) else []


def test_published_numbers_are_finite_and_positive(session):
    for entry in session["benchmarks"]:
        assert set(entry) == {"group", "name", "extra_info", "stats"}
        assert set(entry["stats"]) == set(bench_conftest.PUBLISHED_STATS)
        numbers = numbers_of({**entry, "stats": {**entry["stats"], "iqr": 1}})
        assert len(numbers) > 20
        assert all(math.isfinite(number) and number > 0 for number in numbers)


def test_published_ratios_follow_from_times_work_and_ceiling(session):
    for entry in session["benchmarks"]:
        info = entry["extra_info"]
        contestants = info["contestants"]
        first = next(iter(contestants.values()))
        assert first["median"] == pytest.approx(entry["stats"]["median"])
        assert info["intensity"] == pytest.approx(info["flops"] / info["bytes"])
        for score in contestants.values():
            rate = info["flops"] / score["median"] / 1e9
            assert score["gflops"] == pytest.approx(rate)
            assert score["gemm_fraction"] == pytest.approx(rate / info["gemm_gflops"])
            reference = contestants[info["baseline"]]["median"]
            assert score["ratio"] == pytest.approx(score["median"] / reference)


def work_of(group, label, shape):
    """Il lavoro che i benchmark dichiarano oggi per una gara già pubblicata."""
    if group == "s1_introduction":
        return introduction.work(**shape)
    if group in ("s3_2_1_scaled_dot_product", "s3_2_1_causal"):
        return scaled.work(shape["n"], causal=group == "s3_2_1_causal")
    if group == "s3_2_2_multi_head":
        return multi_head.work(**shape)
    if group in ("s4_growth_n", "s4_growth_d"):
        return why.work(**shape, label=label)
    config = model.base(shape["vocabulary"])
    return model.greedy_work(config) if group == DECODING else model.training_work(config)


def test_published_work_is_the_work_of_the_formulas(session):
    for entry in session["benchmarks"]:
        info, shape = entry["extra_info"], entry["extra_info"]["shape"]
        work = work_of(entry["group"], info["label"], shape)
        width = {"float32": 4, "bfloat16": 2}[info["dtype"]]
        assert (work.label, work.flops) == (info["label"], info["flops"])
        assert work.numbers * width == info["bytes"]


# La pagina.


def test_table_holds_the_numbers_of_the_file(small):
    html = render("prova", "", [small]).replace("\u00a0", " ")
    assert '<th scope="col">n = 10</th>' in html
    for name, cell in (
        ("nostro", "612 µs<br><small>× 0,97 · 37 %</small>"),
        ("altri", "1,10 s<br><small>× 1,00 · 25 %</small>"),
    ):
        assert f'<tr><th scope="row">{name}</th><td>{cell}</td></tr>' in html


def test_memory_table_holds_the_bytes_of_the_file(small):
    html = render("prova", "memoria", [small]).replace("\u00a0", " ")
    assert '<tr><th scope="row">nostro</th><td>26,9 kB</td></tr>' in html


@pytest.mark.parametrize("group", sorted(GROUPS))
def test_published_numbers_reach_the_page(group):
    html = misura(group)
    entries = [entry for session in latest() for entry in session["benchmarks"]]
    published = [entry["extra_info"] for entry in entries if entry["group"] == group]
    assert published or "Non misurato, né su CPU né su GPU" in html
    for info in published:
        for score in info["contestants"].values():
            assert duration(score["median"]) in html


def test_caption_gives_provenance_and_what_was_missing(small):
    caption = render("prova", "", [small]).partition("<figcaption>")[2]
    for piece in (
        "CPU, float32",
        "Intel Xeon Processor, 2 core, 2 thread, Linux x86_64",
        "Python 3.11.7, torch 2.13.0.",
        "Commit abc1234 (modificato), 12/6/2026.",
        "Non installati, quindi non misurati: x-transformers.",
        "su 7 giri alternati",
        "2 GFLOP/s",
    ):
        assert piece in caption


def test_page_says_when_the_gpu_was_not_measured(small):
    on_gpu = copy.deepcopy(small)
    on_gpu["machine_info"] |= {"gpu": "NVIDIA H200", "driver": "580.1"}
    on_gpu["benchmarks"][0]["extra_info"]["device"] = "cuda"
    assert "Non misurato su GPU." in render("prova", "", [small])
    both = render("prova", "", [small, on_gpu])
    assert "Non misurato su GPU." not in both
    assert "NVIDIA H200 (driver 580.1), Intel Xeon" in both
    assert both.count("<figure") == 2
    names = re.findall(r'\bid="([^"]+)"', both)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("request_", ["s3_2_2_multi_heads", "s3_2_2_multi_head tempo", ""])
def test_unknown_measure_stops_the_build(request_):
    with pytest.raises(SuperFencesException, match="non esiste"):
        misura(request_)


def test_a_group_without_results_says_so(small):
    assert render("altro", "", []) == "<p>Non misurato, né su CPU né su GPU.</p>"
    assert render("altro", "", [small]) == render("altro", "", [])


def test_groups_are_those_the_benchmarks_declare(tmp_path):
    assert {"s3_2_1_scaled_dot_product", "s3_2_1_causal", "s3_training_step"} <= GROUPS
    (tmp_path / "bench_prova.py").write_text('@pytest.mark.benchmark(group="prova", timer=clock)')
    assert declared(tmp_path) == ["prova"]


def test_the_latest_file_of_each_machine_is_shown(tmp_path, small):
    for machine, day in (("a", "2026-06-12"), ("a", "2026-06-13"), ("b", "2026-06-11")):
        path = tmp_path / machine / f"{day}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({**small, "datetime": f"{day}T10:00:00+00:00"}))
    assert [session["datetime"][:10] for session in latest(tmp_path)] == [
        "2026-06-13",
        "2026-06-11",
    ]


@pytest.mark.parametrize("quantity", ["", "memoria"])
def test_drawing_belongs_to_the_page(small, quantity):
    html = render("prova", quantity, [small])
    drawing = html[html.index("<svg") : html.index("</svg>")]
    assert re.match(r'<svg role="img" aria-label="[^"]{40,}" viewBox="0 0 [\d. ]+" width=', drawing)
    assert "currentColor" in drawing
    for foreign in (INK, "<metadata", "<style", "DejaVu", "#000000"):
        assert foreign not in drawing
    names = re.findall(r'\bid="([^"]+)"', drawing)
    assert len(names) == len(set(names))
    assert names
    assert set(re.findall(r'href="#([^"]+)"', drawing)) <= set(names)
    assert render("prova", quantity, [small]) == html


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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.000612, "612 µs"), (0.00749, "7,49 ms"), (0.0739, "73,9 ms"), (1.104, "1,10 s")],
)
def test_durations_read_as_in_italian(seconds, text):
    assert duration(seconds) == text.replace(" ", "\u00a0")


@pytest.mark.parametrize(
    ("count", "text"), [(26_880, "26,9 kB"), (1_048_588, "1,05 MB"), (1.5e9, "1,50 GB")]
)
def test_sizes_read_as_in_italian(count, text):
    assert size(count) == text.replace(" ", "\u00a0")
