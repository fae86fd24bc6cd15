"""Il file che si pubblica: ciò che resta della misura, da quale macchina, da quale commit.

Nessun test cronometra: i tempi sono misure, e stanno in `benchmarks/results/`.
"""

import copy
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks import conftest as bench_conftest
from benchmarks import provenance, publish, schema
from benchmarks.ceilings import Ceilings
from weave.house import ROOT


def test_published_file_drops_single_times_options_and_failed_contests():
    stats = dict.fromkeys(bench_conftest.PUBLISHED_STATS, 2.0)
    entry = {
        "group": "g",
        "name": "n",
        "fullname": "percorso",
        "param": "64",
        "params": {"n": 64},
        "options": {"timer": "clock"},
        "extra_info": {"contestants": {}},
        "stats": {**stats, "data": [1.0, 2.0, 3.0], "iqr_outliers": 2.0},
    }
    failed = {**entry, "extra_info": {}}
    output = {"benchmarks": [entry, failed]}
    bench_conftest.pytest_benchmark_update_json(SimpleNamespace(stash={}), [], output)
    named = {"group": "g", "name": "n", "fullname": "percorso", "param": "64"}
    named |= {"params": {"n": "64"}}
    kept = {**named, "extra_info": {"contestants": {}}, "stats": stats}
    assert output == {"benchmarks": [kept]}


def test_published_file_holds_the_ceilings_of_its_session():
    found = Ceilings({"FP32": 2e11}, {"FP32": 1024}, 4e10)
    config = SimpleNamespace(stash={bench_conftest.CEILINGS: found})
    output = {"benchmarks": []}
    bench_conftest.pytest_benchmark_update_json(config, [], output)
    assert output["ceilings"] == {
        "gemm": {"FP32": {"gflops": 200.0, "size": 1024, "datasheet": None}},
        "copy_gbs": 40.0,
        "chip": None,
        "datasheet_gbs": None,
        "clocks": {},
    }


def test_machine_is_named_without_its_network_name(monkeypatch):
    known = {"brand_raw": "AMD EPYC", "family": 26, "model": 2}
    monkeypatch.setattr(provenance.cpuinfo, "get_cpu_info", lambda: known)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1_000_003)
    machine = provenance.machine.__wrapped__()
    assert (machine["cores"], machine["threads"]) == (os.cpu_count(), 1_000_003)
    assert machine["cpu"] == provenance.processor(known)
    assert set(machine) == {
        *("cpu", "cores", "threads", "gpu", "driver", "system", "python", "packages"),
    }
    assert machine["packages"]["torch"] == torch.__version__
    assert (machine["gpu"] is not None) == torch.cuda.is_available()


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("AMD EPYC", "AMD EPYC, famiglia 26, modello 2"),
        ("AMD EPYC 9654 96-Core Processor", "AMD EPYC 9654 96-Core Processor"),
        ("Xeon(R) CPU @ 2.20GHz", "Xeon(R) CPU @ 2.20GHz, famiglia 26, modello 2"),
        ("Core(TM) i7-8700 CPU @ 3.20GHz", "Core(TM) i7-8700 CPU @ 3.20GHz"),
    ],
)
def test_a_name_without_digits_says_family_and_model(name, shown):
    assert provenance.processor({"brand_raw": name, "family": 26, "model": 2}) == shown
    assert provenance.processor({"brand_raw": name}) == name


@pytest.mark.parametrize(
    ("cpu", "gpu", "name"),
    [
        ("AMD EPYC, famiglia 26, modello 2", None, "amd-epyc-famiglia-26-modello-2-2c-cpu"),
        ("Intel(R) Xeon(R) Processor", None, "intel-xeon-2c-cpu"),
        (
            "Xeon(R) CPU @ 2.20GHz, famiglia 6, modello 79",
            None,
            "xeon-famiglia-6-modello-79-2c-cpu",
        ),
        ("Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", None, "intel-core-i7-8700-2c-cpu"),
        ("AMD EPYC 9654 96-Core Processor", "NVIDIA H200", "amd-epyc-9654-2c-nvidia-h200"),
    ],
)
def test_slug_keeps_what_tells_machines_apart(cpu, gpu, name):
    assert schema.slug({"cpu": cpu, "cores": 2, "gpu": gpu}) == name


def test_commit_says_when_the_sources_were_modified(monkeypatch):
    answers = {"--show-toplevel": str(ROOT), "HEAD": "abc1234", ":!/benchmarks/results": " M a.py"}
    monkeypatch.setattr(provenance, "answer", lambda *command: answers[command[-1]])
    assert provenance.commit.__wrapped__() == {"id": "abc1234", "modified": True}
    answers[":!/benchmarks/results"] = ""
    assert provenance.commit.__wrapped__() == {"id": "abc1234", "modified": False}
    answers["--show-toplevel"] = str(
        ROOT.parent
    )  # i sorgenti sono una copia dentro un altro deposito
    assert provenance.commit.__wrapped__() == {"id": "sconosciuto", "modified": False}
    monkeypatch.setattr(provenance, "answer", lambda *_: None)
    assert provenance.commit.__wrapped__() == {"id": "sconosciuto", "modified": False}


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(bench_conftest, "DEVICE", "cpu")
    monkeypatch.setattr(
        bench_conftest, "installed", {"torch": "2.13.0", "triton": "3.7.1", "numpy": "2"}.get
    )
    assert list(bench_conftest.unmeasured()) == [
        "Non misurata la GPU: qui non c'è un dispositivo CUDA.",
        "Non misurato x-transformers: non installato.",
        "Non misurato transformers: non installato.",
        "Non misurato ctranslate2: non installato.",
    ]


@pytest.fixture
def fake_run(monkeypatch, tmp_path, small):
    """`publish.main` con un pytest finto, che scrive la misura e torna l'esito chiesto."""
    monkeypatch.setattr(publish, "ROOT", tmp_path)
    monkeypatch.setattr(publish, "RESULTS", tmp_path / "benchmarks" / "results")
    monkeypatch.setattr(publish, "MEASURED", tmp_path / ".benchmarks" / "measured.json")

    def run(outcome):
        def call(command, cwd):
            option = next(word for word in command if word.startswith("--benchmark-json="))
            target = Path(option.partition("=")[2])
            if outcome:
                target = target.with_name(f"{target.name}.parziale")
            target.write_text(json.dumps(small), encoding="utf-8")
            if outcome is KeyboardInterrupt:
                raise outcome
            return outcome

        monkeypatch.setattr(publish.subprocess, "call", call)
        return publish.main(), sorted((tmp_path / "benchmarks").rglob("*"))

    return run


PUBLISHED = Path("benchmarks", "results", "intel-xeon-2c-cpu", "2026-06-12.json")


def test_a_finished_run_is_published_under_its_machine_and_day(fake_run, small, tmp_path):
    outcome, files = fake_run(0)
    target = tmp_path / PUBLISHED
    assert (outcome, files) == (0, [*reversed(target.parents[:2]), target])
    assert json.loads(target.read_text(encoding="utf-8")) == small


@pytest.mark.parametrize("outcome", [1, KeyboardInterrupt])
def test_a_stopped_run_publishes_nothing_and_tells_where_the_rest_is(fake_run, outcome, capsys):
    assert fake_run(outcome) == (1, [])
    assert ".benchmarks/measured.json.parziale" in capsys.readouterr().out


@pytest.mark.usefixtures("fake_run")
def test_a_run_that_measures_nothing_does_not_publish_the_file_of_before(
    small, tmp_path, monkeypatch, capsys
):
    """Come con `--collect-only`; e chi chiede un altro file riceve quello di sempre."""
    before = tmp_path / ".benchmarks" / "measured.json"
    before.parent.mkdir()
    before.write_text(json.dumps(small), encoding="utf-8")
    asked = []
    monkeypatch.setattr(publish.subprocess, "call", lambda command, cwd: asked.extend(command) or 0)
    assert publish.main("--benchmark-json=altrove.json") == 1
    assert asked[-1] == f"--benchmark-json={before}"
    assert "Nessuna gara misurata" in capsys.readouterr().out
    assert not (tmp_path / "benchmarks").exists()


@pytest.mark.usefixtures("fake_run")
def test_a_file_from_elsewhere_is_checked_and_published(small, tmp_path):
    source = tmp_path / "altrove.json"
    source.write_text(json.dumps(small), encoding="utf-8")
    assert publish.main("--from", str(source)) == 0
    assert json.loads((tmp_path / PUBLISHED).read_text(encoding="utf-8")) == small
    assert source.exists()


@pytest.mark.usefixtures("fake_run")
def test_a_file_that_cannot_be_published_is_told_in_a_line(small, tmp_path, capsys):
    source = tmp_path / "altrove.json"
    source.write_text(json.dumps({**small, "datetime": "ieri"}), encoding="utf-8")
    for options, outcome, told in (
        ([str(source)], 1, 'datetime: "ieri"; atteso una data ISO'),
        ([str(tmp_path / "nessuno.json")], 1, "nessuno.json: non è un file JSON in UTF-8"),
        ([], 2, "--from: dato: 0 file; atteso: uno"),
    ):
        assert publish.main("--from", *options) == outcome
        assert told in capsys.readouterr().err


@pytest.mark.usefixtures("fake_run")
@pytest.mark.parametrize("other", [{"group": "altro"}, {"name": "n = 11"}])
def test_a_file_is_never_replaced_by_one_that_has_fewer_contests(small, tmp_path, other):
    source, whole = tmp_path / "altrove.json", copy.deepcopy(small)
    whole["benchmarks"].append(copy.deepcopy(small["benchmarks"][0]) | other)
    whole["benchmarks"][1]["extra_info"]["label"] = other.get("name", "n = 10")
    for found in (small, whole, whole):  # uno che ne ha di più, o gli stessi, prende il posto
        source.write_text(json.dumps(found), encoding="utf-8")
        publish.main("--from", str(source))
    first, second = tmp_path / PUBLISHED, tmp_path / PUBLISHED.with_stem("2026-06-12-2")
    assert not second.exists()
    for _ in range(2):  # uno che ne ha di meno gli sta accanto
        source.write_text(json.dumps(small), encoding="utf-8")
        publish.main("--from", str(source))
    assert json.loads(first.read_text(encoding="utf-8")) == whole
    assert json.loads(second.read_text(encoding="utf-8")) == small
    assert len(list(first.parent.iterdir())) == 2
    others = copy.deepcopy(whole)  # altrettante, ma non le stesse
    others["benchmarks"][1]["extra_info"]["label"] = "n = 12"
    source.write_text(json.dumps(others), encoding="utf-8")
    publish.main("--from", str(source))
    assert json.loads(first.read_text(encoding="utf-8")) == whole
    assert json.loads(second.read_text(encoding="utf-8")) == others


@pytest.mark.usefixtures("fake_run")
def test_a_folder_belongs_to_one_machine(small, tmp_path, capsys):
    """Due processori dal nome diverso, che nel nome della cartella diventano uguali."""
    source = tmp_path / "altrove.json"
    for cpu, outcome in (("Intel(R) Xeon(R) Processor", 0), ("Intel(R) Xeon(R) CPU @ 2.20GHz", 1)):
        machine = {**small["machine_info"], "cpu": cpu}
        source.write_text(json.dumps({**small, "machine_info": machine}), encoding="utf-8")
        assert publish.main("--from", str(source)) == outcome
    assert json.loads((tmp_path / PUBLISHED).read_text(encoding="utf-8")) == small
    told = capsys.readouterr().err
    assert 'machine_info.cpu: "Intel(R) Xeon(R) CPU @ 2.20GHz"; atteso "Intel(R) Xeon(R) P' in told


# Una sessione vera, fermata a metà.

KILLED = """
import os
import signal as signals
import pytest
import torch
from benchmarks.contest import Work, clock

signals.signal(2, signals.default_int_handler)  # anche se chi lancia i test lo ignora


@pytest.mark.benchmark(group="prova", timer=clock)
@pytest.mark.parametrize("place", range(3))
def test_product(benchmark, contest, monkeypatch, place):
    monkeypatch.setattr("benchmarks.contest.SECONDS", 0.01)
    signal = os.environ.get("KILL")
    if place == 2 and signal == "9":
        os.kill(os.getpid(), 9)
    a, b = torch.randn(2, 64, 64)
    work = Work(f"gara {place}", {"n": 64}, flops=2 * 64**3, numbers=3 * 64**2)

    def ours():
        if place == 2 and signal == "2" and benchmark.stats is not None:
            os.kill(os.getpid(), 2)  # il primo giro non è finito: di tempi non ce ne sono
        return a @ b

    contest({"noi": ours, "loro": lambda: a.mm(b)}, "loro", work)
"""


CONFTEST = """
from benchmarks.conftest import *
from benchmarks.conftest import _inference, _only_contests, _plain_settings
"""


def test_a_partial_file_goes_only_when_the_whole_one_is_newer(tmp_path):
    """Una sessione che non ha scritto nulla, come `--collect-only`, non toglie le gare salvate."""
    whole = tmp_path / "measured.json"
    partial = tmp_path / "measured.json.parziale"
    config = SimpleNamespace(getoption=lambda *_: whole)
    for file in (whole, partial):
        file.write_text("{}", encoding="utf-8")
    for moment, kept in ((1, True), (3, False)):
        os.utime(whole, (moment, moment))
        os.utime(partial, (2, 2))
        bench_conftest.pytest_unconfigure(config)
        assert partial.exists() is kept


@pytest.mark.parametrize("signal", ["9", "2", ""])
def test_a_killed_session_keeps_what_it_had_measured(signal, tmp_path):
    """Uccisa di colpo, o fermata da tastiera mentre misura; un file di prima non la inganna."""
    (tmp_path / "bench_killed.py").write_text(KILLED, encoding="utf-8")
    (tmp_path / "conftest.py").write_text(CONFTEST, encoding="utf-8")
    target = tmp_path / "measured.json"
    options = ("-q", "--rootdir", str(tmp_path))
    command = (sys.executable, "-m", "pytest", *options, f"--benchmark-json={target}")
    own = {name: it for name, it in os.environ.items() if not name.startswith("PYTEST_")}
    environment = {**own, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"KILL": signal}
    target.write_text("una misura di ieri", encoding="utf-8")
    ran = subprocess.run(
        [*command, str(tmp_path / "bench_killed.py")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    partial = tmp_path / "measured.json.parziale"
    killed = signal == "9"
    assert (ran.returncode == -9, partial.exists()) == (killed, killed), ran.stdout
    session = schema.read(partial if killed else target)
    assert [it["name"][-2] for it in session["benchmarks"]] == list("012")[: 2 if signal else 3]
    for entry in session["benchmarks"]:  # su CPU non si accoda nulla
        for score in entry["extra_info"]["contestants"].values():
            assert "queueing" not in score
