"""I benchmark si eseguono con `pytest benchmarks`; qui la gara diventa una misura pubblicabile."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from benchmarks.contest import (
    DEVICE,
    DTYPES,
    Run,
    Timing,
    Turns,
    Work,
    extra_bytes,
    gemm,
    rounds_for,
    timed,
    verdict,
    warm_up,
)
from benchmarks.provenance import PACKAGES, commit, installed, machine

CEILING = "GEMM"
"""Il concorrente che fa da tetto."""

PUBLISHED_STATS = ("min", "median", "iqr", "max", "rounds")
"""Le statistiche che si pubblicano; i singoli tempi no."""

VERDICTS = pytest.StashKey[list[dict[str, Any]]]()
"""I verdetti della sessione, per il riassunto."""


def pytest_configure(config: pytest.Config) -> None:
    config.stash[VERDICTS] = []


def pytest_itemcollected(item: pytest.Item) -> None:
    """Un avviso di una libreria in gara non ferma la misura."""
    item.add_marker(pytest.mark.filterwarnings("default"))


@pytest.fixture(autouse=True)
def _inference() -> Iterator[None]:
    """Si misura la sola inferenza, su numeri sempre uguali."""
    torch.manual_seed(20170612)
    with torch.no_grad():
        yield


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    """Su CPU fp32; su GPU anche bf16."""
    return request.param


@pytest.fixture
def contest(
    benchmark: Any, dtype: torch.dtype, pytestconfig: pytest.Config
) -> Callable[[dict[str, Run], str, Work], None]:
    """Una gara: il primo concorrente lo cronometra pytest-benchmark, gli altri giocano fra i giri.

    Tutti i rapporti della misura sono fra mediane della stessa gara, il tetto compreso.
    """

    def hold(contestants: dict[str, Run], baseline: str, work: Work) -> None:
        (name, ours), *others = contestants.items()
        if benchmark.disabled:
            for _, run in others:
                run()
            benchmark(ours)
            return
        extra = {name: extra_bytes(run) for name, run in contestants.items()}
        turns = Turns({**dict(others), CEILING: gemm(dtype)})

        def before_ours() -> None:
            turns.play()
            warm_up(ours)

        rounds = rounds_for(timed(before_ours))
        turns.forget()
        benchmark.pedantic(ours, setup=before_ours, rounds=rounds)
        times = {name: benchmark.stats.stats.data, **turns.times}
        timings = {name: Timing.of(times) for name, times in times.items()}
        ceiling = timings.pop(CEILING)
        found = verdict(work, dtype, baseline, timings, extra, ceiling)
        benchmark.extra_info.update(found)
        pytestconfig.stash[VERDICTS].append({"group": benchmark.group, **found})

    return hold


def pytest_benchmark_generate_machine_info(config: pytest.Config) -> dict[str, Any]:
    return machine()


def pytest_benchmark_generate_commit_info(config: pytest.Config) -> dict[str, Any]:
    return commit()


def pytest_benchmark_update_json(
    config: pytest.Config, benchmarks: list[Any], output_json: dict[str, Any]
) -> None:
    """Lascia solo ciò che si pubblica: niente singoli tempi, niente opzioni."""
    for entry in output_json["benchmarks"]:
        kept = {name: entry[name] for name in ("group", "name", "extra_info")}
        stats = {name: entry["stats"][name] for name in PUBLISHED_STATS}
        entry.clear()
        entry.update(kept, stats=stats)


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """I rapporti di ogni gara, e ciò che qui non si è potuto misurare."""
    terminalreporter.section("rapporti con il riferimento, e frazione del tetto GEMM")
    for found in config.stash[VERDICTS]:
        terminalreporter.write_line(
            f"{found['group']}, {found['label']}, {found['device']} {found['dtype']}"
        )
        for name, score in found["contestants"].items():
            terminalreporter.write_line(
                f"    {name:32} {score['median'] * 1e6:10.0f} µs   × {score['ratio']:.2f}"
                f"   {score['gemm_fraction']:6.1%}"
            )
    for line in unmeasured():
        terminalreporter.write_line(line)


def unmeasured() -> Iterator[str]:
    """Una riga per ogni cosa che su questa macchina manca."""
    if DEVICE == "cpu":
        yield "Non misurata la GPU: qui non c'è un dispositivo CUDA."
    for package in PACKAGES:
        if installed(package) is None:
            yield f"Non misurato {package}: non installato."
