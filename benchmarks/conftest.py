"""I benchmark si eseguono con `pytest benchmarks`; qui la gara diventa una misura pubblicabile."""

import gc
import json
import os
import statistics
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest_benchmark.logger import PytestBenchmarkWarning

from attention.s0_abstract import require
from benchmarks.ceilings import FORMATS, Ceilings, measure
from benchmarks.contest import (
    DEVICE,
    DTYPES,
    Noted,
    Run,
    Timing,
    Turns,
    Work,
    extra_bytes,
    gemm,
    refuse_impossible_times,
    verdict,
)
from benchmarks.honest_data import (
    Declared,
    fp32_is_plain,
    fp32_settings,
    refuse_degenerate_data,
)
from benchmarks.provenance import PACKAGES, commit, installed, machine
from benchmarks.stopwatch import clock, prepare

CEILING = "GEMM"
"""Il concorrente che fa da tetto."""

PUBLISHED_STATS = (
    *("min", "max", "mean", "stddev", "median", "iqr", "q1", "q3", "ld15iqr", "hd15iqr"),
    *("ops", "outliers", "rounds", "iterations"),
)
"""Le statistiche che si pubblicano: quante ne chiedono i confronti e gli istogrammi di
pytest-benchmark. I singoli tempi no."""

OVERRIDES = (
    "NVIDIA_TF32_OVERRIDE",
    "CUBLAS_EMULATE_SINGLE_PRECISION",
    "CUBLAS_EMULATION_STRATEGY",
)
"""Le variabili d'ambiente che cambiano i prodotti in FP32 di chiunque."""

VERDICTS = pytest.StashKey[list[dict[str, Any]]]()
"""I verdetti della sessione, per il riassunto."""

CEILINGS = pytest.StashKey[Ceilings]()
"""I tetti misurati nella sessione."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[VERDICTS] = []
    warnings.filterwarnings("default", category=PytestBenchmarkWarning)
    for warning in ("pytest_benchmark.logger.PytestBenchmarkWarning", "pytest.PytestCacheWarning"):
        config.addinivalue_line("filterwarnings", f"default::{warning}")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Un avviso di una libreria in gara non ferma la misura."""
    item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """Chi fallisce dopo la gara, per esempio mentre raccoglie gli indizi, non ha misure intere."""
    report = yield
    played = getattr(item, "funcargs", {}).get("benchmark")
    if played is not None and report.failed:
        played.has_error = True
    return report


@pytest.fixture(autouse=True)
def _only_contests(request: pytest.FixtureRequest) -> None:
    """Chi misura gioca una gara: fuori nessuno guarda i dati, né aspetta la GPU."""
    alone = "benchmark" in request.fixturenames and "contest" not in request.fixturenames
    require(not alone, "benchmark", "senza una gara", "la fixture `contest`")


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    """Si misura la sola inferenza, su numeri sempre uguali."""
    torch.manual_seed(20170612)
    with torch.no_grad():
        yield


@pytest.fixture(autouse=True)
def _plain_settings() -> None:
    """Prima di ogni gara, qualunque cosa abbia lasciato quella di prima."""
    plain_fp32()
    usual_threads()


def usual_threads() -> None:
    """I thread dell'inizio. Se sono già quelli non si tocca nulla.

    `set_num_threads`, anche con lo stesso numero, toglie a MKL la scelta di quanti usarne: i lavori
    più piccoli rallentano, fino al doppio.
    """
    if torch.get_num_threads() != machine()["threads"]:
        torch.set_num_threads(machine()["threads"])


def plain_fp32() -> None:
    """FP32 vuol dire FP32, qualunque cosa vogliano le variabili d'ambiente.

    cuDNN farebbe in TF32 convoluzioni e ricorrenze, se può; cuBLAS e oneDNN farebbero i prodotti in
    un tipo più corto, se glielo si è detto, oppure cuBLAS li imiterebbe con nove in BF16. Certe
    variabili comandano più di ogni programma: con quelle non si misura.
    """
    for settings in fp32_settings():
        settings.fp32_precision = "ieee"
    for name in OVERRIDES:
        override = os.environ.get(name, "0")
        require(override == "0", name, override, "0, o nulla")


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Su CPU fp32; su GPU anche bf16."""
    return request.param


@pytest.fixture(scope="session")
def ceilings(pytestconfig: pytest.Config) -> Callable[[], Ceilings]:
    """I tetti della sessione, misurati quando servono la prima volta."""

    def measured_once() -> Ceilings:
        if CEILINGS not in pytestconfig.stash:
            pytestconfig.stash[CEILINGS] = measure()
        return pytestconfig.stash[CEILINGS]

    return measured_once


@pytest.fixture
def contest(
    benchmark: Any,
    dtype: torch.dtype,
    ceilings: Callable[[], Ceilings],
    pytestconfig: pytest.Config,
) -> Callable[..., None]:
    """Una gara: il primo concorrente lo cronometra pytest-benchmark, gli altri giocano fra i giri.

    Tutti i rapporti della misura sono fra mediane della stessa gara, il tetto compreso. Chi fa un
    lavoro diverso da quello dichiarato sta in `different`: di lui si pubblica il solo tempo. Chi
    moltiplica in un formato che il tipo dei numeri non dice sta in `formats`, con il suo nome. Chi
    lavora fuori da PyTorch, dove non lo si vede, sta in `outside`: un grafo registrato, un kernel
    di Triton, un altro programma.
    """

    def hold(
        contestants: dict[str, Run],
        baseline: str,
        work: Work,
        different: Collection[str] = (),
        formats: Mapping[str, str] | None = None,
        outside: Collection[str] = (),
    ) -> None:
        timer = benchmark._timer
        require(timer is clock, "timer", timer, "benchmarks.stopwatch.clock, che aspetta la GPU")
        check_names(contestants, different=different, formats=formats or {}, outside=outside)

        def observe() -> None:
            for name, run in contestants.items():
                form = (formats or {}).get(name)
                declared = Declared(
                    flops=work.flops,
                    numbers=work.numbers,
                    dtype=FORMATS[form] if form else dtype,
                    shortened=form in ("TF32", "BF16"),
                    outside=name in outside,
                )
                refuse_degenerate_data(name, run, name not in different, declared)

        observe()
        noted = {name: Noted(run) for name, run in contestants.items()}
        (name, ours), *others = noted.items()
        if benchmark.disabled:
            benchmark(ours)
            return
        roofs = ceilings()
        extra = {name: extra_bytes(run) for name, run in contestants.items()}
        turns = Turns({**dict(others), CEILING: gemm(dtype)})

        def before_ours() -> None:
            turns.play()
            prepare(ours)

        with few_collections():
            rounds = turns.trial(ours)
            benchmark.pedantic(ours, setup=before_ours, rounds=rounds)
        observe()
        threads = torch.get_num_threads()
        require(threads == machine()["threads"], "threads", threads, "quanti prima della gara")
        require(fp32_is_plain(), "fp32_precision", "cambiata", "ieee, come prima della gara")
        times = {name: benchmark.stats.stats.data, **turns.times}
        timings = {name: Timing.of(times) for name, times in times.items()}
        ceiling = timings.pop(CEILING)
        queueing = {name: statistics.median(it.seconds) for name, it in noted.items()}
        measured = (work, dtype, baseline, timings, extra, ceiling, roofs)
        on_gpu = queueing if DEVICE == "cuda" else {}
        found = verdict(*measured, different, formats or {}, on_gpu)
        refuse_impossible_times(found, roofs)
        benchmark.extra_info.update(found)
        pytestconfig.stash[VERDICTS].append({"group": benchmark.group, **found})

    def hold_or_forget(*given: Any, **named: Any) -> None:
        try:
            hold(*given, **named)
        except BaseException:
            benchmark.has_error = True  # una gara a metà non ha misure da scrivere
            raise

    return hold_or_forget


def check_names(contestants: Mapping[str, Run], **named: Collection[str]) -> None:
    """Ogni nome è di un concorrente, e nessun concorrente prende quello del tetto.

    Chi lavora fuori da PyTorch può mancare: un'altra libreria, se non è installata.
    """
    require(CEILING not in contestants, "contestants", CEILING, "un nome diverso dal tetto")
    for argument, names in named.items():
        plain = not isinstance(names, str)
        require(plain, argument, repr(names), "più nomi, in una lista o un insieme", TypeError)
        unknown = argument != "outside" and ", ".join(sorted({*names} - {*contestants}))
        require(not unknown, argument, unknown, f"nomi fra {', '.join(contestants)}")


@contextmanager
def few_collections() -> Iterator[None]:
    """Dentro, chi raccoglie la memoria guarda soltanto gli oggetti nati durante la gara.

    Se no attraverserebbe a intervalli tutti quelli del programma, e il conto toccherebbe sempre
    allo stesso concorrente.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return machine()


def pytest_benchmark_generate_commit_info(config: pytest.Config) -> dict[str, Any]:
    return commit()


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]
) -> None:
    """Lascia solo ciò che si pubblica, e aggiunge i tetti: niente singoli tempi, niente opzioni.

    Una gara fallita a metà ha dei tempi ma non un verdetto: si lascia fuori.
    """
    if CEILINGS in config.stash:
        output_json["ceilings"] = config.stash[CEILINGS].published()
    output_json["benchmarks"] = [
        {
            **{name: entry[name] for name in ("group", "name", "fullname", "extra_info")},
            "param": entry["param"],
            "params": entry["params"] and {k: str(it) for k, it in entry["params"].items()},
            "stats": {name: entry["stats"][name] for name in PUBLISHED_STATS},
        }
        for entry in output_json["benchmarks"]
        if "contestants" in entry["extra_info"]
    ]


def pytest_runtest_teardown(item: pytest.Item) -> None:
    """Dopo ogni gara, ciò che si è misurato fin lì è già sul disco, accanto al file chiesto."""
    session = item.config._benchmarksession
    target = partial_file(item.config)
    if target is None or not session.benchmarks:
        return
    about = {"machine_info": machine(), "commit_info": commit()}
    several = {"config": item.config, "benchmarks": session.benchmarks}
    generate = item.config.hook.pytest_benchmark_generate_json
    found = generate(**several, include_data=False, **about)
    item.config.hook.pytest_benchmark_update_json(**several, output_json=found)
    write(target, found)


def partial_file(config: pytest.Config) -> Path | None:
    """Il file in cui crescono le misure, se se ne è chiesto uno con `--benchmark-json`."""
    asked = config.getoption("benchmark_json", None)
    if asked is None:
        return None
    path = (
        asked if isinstance(asked, Path) else asked.name
    )  # fino alla versione 5.2, un file aperto
    return Path(f"{path}.parziale")


def write(target: Path, found: dict[str, Any]) -> None:
    """Scrive un file intero, che prende il suo nome soltanto alla fine."""
    whole = target.with_name(f"{target.name}.tmp")
    whole.write_text(json.dumps(found, indent=1), encoding="utf-8")
    os.replace(whole, target)


def pytest_unconfigure(config: pytest.Config) -> None:
    """A misura finita il file chiesto è il più recente, e il parziale non serve più."""
    partial = partial_file(config)
    if partial and partial.exists():
        whole = partial.with_suffix("")
        if whole.exists() and whole.stat().st_mtime_ns >= partial.stat().st_mtime_ns:
            partial.unlink()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """I rapporti di ogni gara, i tetti, e ciò che qui non si è potuto misurare."""
    terminalreporter.section("rapporti con il riferimento, e frazione del tetto GEMM")
    for found in config.stash[VERDICTS]:
        terminalreporter.write_line(
            f"{found['group']}, {found['label']}, {found['device']} {found['dtype']}"
        )
        for name, score in found["contestants"].items():
            terminalreporter.write_line(f"    {name:32} {line(score)}")
    if CEILINGS in config.stash:
        for text in roof(config.stash[CEILINGS]):
            terminalreporter.write_line(text)
    for text in unmeasured():
        terminalreporter.write_line(text)


def line(score: dict[str, Any]) -> str:
    """Il tempo di un concorrente, il rapporto e, se il lavoro è quello, la frazione del tetto."""
    told = f"{score['median'] * 1e6:10.0f} µs   × {score['ratio']:.2f}"
    fraction = score["gemm_fraction"]
    return told if fraction is None else f"{told}   {fraction:6.1%}"


def roof(ceilings: Ceilings) -> Iterator[str]:
    """I tetti misurati, ciascuno accanto a quello dichiarato."""
    chip = ceilings.chip
    if DEVICE == "cuda" and chip is None:
        yield "Chip non riconosciuto: nessun confronto con la scheda tecnica."
    for name, rate in ceilings.gemm.items():
        peak = ceilings.peak(name)
        declared = f", {rate / peak / 1e9:.0%} del dichiarato" if peak else ""
        yield f"Tetto {name}: {rate / 1e9:.0f} GFLOP/s{declared}"
    declared = f", {ceilings.copy / chip.bandwidth:.0%} del dichiarato" if chip else ""
    yield f"Tetto della copia: {ceilings.copy / 1e9:.0f} GB/s{declared}"


def unmeasured() -> Iterator[str]:
    """Una riga per ogni cosa che su questa macchina manca."""
    if DEVICE == "cpu":
        yield "Non misurata la GPU: qui non c'è un dispositivo CUDA."
    for package in PACKAGES:
        if installed(package) is None:
            yield f"Non misurato {package}: non installato."
