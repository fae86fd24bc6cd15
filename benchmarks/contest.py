"""La gara: più modi di fare lo stesso lavoro, misurati a turno nella stessa esecuzione.

La velocità di una macchina cambia da un minuto all'altro, il rapporto fra due programmi molto
meno. Perciò a ogni giro tutti i concorrenti fanno una chiamata cronometrata, in ordine ruotato,
e fra loro c'è sempre un grande prodotto di matrici: il tetto, misurato nello stesso momento.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.profiler import profile

Run = Callable[[], Any]
"""Un concorrente: una chiamata senza argomenti."""

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Si misura la GPU se c'è, se no la CPU."""

DTYPES = [torch.float32, torch.bfloat16] if DEVICE == "cuda" else [torch.float32]
"""I tipi in cui si misura."""

GEMM_SIZE = 8192 if DEVICE == "cuda" else 1024
"""Il lato delle matrici quadrate con cui si misura il tetto."""

SECONDS = 5.0
"""Quanto dura una gara, se i giri non sono troppo pochi o troppi."""

MIN_ROUNDS = 7
"""I giri di una gara lenta."""

MAX_ROUNDS = 100
"""I giri di una gara svelta."""

WARM_UP = 0.002
"""Per quanti secondi si chiama a vuoto, prima di ogni chiamata cronometrata."""


@dataclass(frozen=True)
class Work:
    """Il lavoro di una gara, uguale per tutti: quanti conti e quanti byte al minimo.

    Argomenti:
        label: il nome della dimensione, come compare nelle tabelle.
        shape: le dimensioni, ciascuna con il suo nome.
        flops: somme e prodotti che il risultato richiede.
        numbers: quanti numeri entrano ed escono almeno una volta: ingressi, pesi, uscite.
    """

    label: str
    shape: dict[str, int]
    flops: int
    numbers: int


@dataclass(frozen=True)
class Timing:
    """I tempi di un concorrente, in secondi."""

    median: float
    iqr: float

    @classmethod
    def of(cls, times: list[float]) -> "Timing":
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
        return cls(middle, high - low)


def clock() -> float:
    """I secondi, letti quando il lavoro già chiesto alla GPU è finito."""
    if DEVICE == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def warm_up(run: Run) -> None:
    """Una o più chiamate a vuoto: codice e pesi tornano nelle cache dopo il turno degli altri."""
    start = clock()
    run()
    while clock() - start < WARM_UP:
        run()


def timed(run: Run) -> float:
    """I secondi di una chiamata."""
    warm_up(run)
    start = clock()
    run()
    return clock() - start


def gemm(dtype: torch.dtype) -> Run:
    """Il tetto: un prodotto fra grandi matrici quadrate."""
    a, b = torch.randn(2, GEMM_SIZE, GEMM_SIZE, device=DEVICE, dtype=dtype)
    return lambda: a @ b


class Turns:
    """I turni degli altri: a ogni giro una chiamata cronometrata ciascuno, in ordine ruotato."""

    def __init__(self, runs: dict[str, Run]):
        self.runs = runs
        self.times: dict[str, list[float]] = {name: [] for name in runs}

    def play(self) -> None:
        """Un giro; il giro dopo comincia dal concorrente successivo."""
        for name, run in self.runs.items():
            self.times[name].append(timed(run))
        first = next(iter(self.runs))
        self.runs[first] = self.runs.pop(first)

    def forget(self) -> None:
        """Butta i tempi presi finora: erano di prova."""
        for times in self.times.values():
            times.clear()


def rounds_for(seconds: float) -> int:
    """Quanti giri stanno nella durata di una gara, se uno dura `seconds`."""
    return max(MIN_ROUNDS, min(MAX_ROUNDS, int(SECONDS / seconds)))


def extra_bytes(run: Run) -> int:
    """La memoria in più, al culmine di una chiamata: ciò che si alloca, uscita compresa."""
    run()
    if DEVICE == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        return torch.cuda.max_memory_allocated() - before
    with profile(profile_memory=True) as recorded:
        run()
    return highest_sum(allocations(recorded))


def allocations(recorded: profile) -> list[int]:
    """I byte presi (positivi) e resi (negativi) durante una registrazione, in ordine di tempo."""
    events = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def highest_sum(changes: list[int]) -> int:
    """Il culmine di una somma che cresce e cala."""
    total = highest = 0
    for change in changes:
        total += change
        highest = max(highest, total)
    return highest


def verdict(
    work: Work,
    dtype: torch.dtype,
    baseline: str,
    timings: dict[str, Timing],
    extra: dict[str, int],
    ceiling: Timing,
) -> dict[str, Any]:
    """Ciò che di una gara si pubblica: il lavoro, il tetto e, per ognuno, tempo e rapporti."""
    name = str(dtype).removeprefix("torch.")
    traffic = work.numbers * dtype.itemsize
    gemm_rate = 2 * GEMM_SIZE**3 / ceiling.median
    return {
        "device": DEVICE,
        "dtype": name,
        "label": work.label,
        "shape": work.shape,
        "flops": work.flops,
        "bytes": traffic,
        "intensity": work.flops / traffic,
        "gemm_size": GEMM_SIZE,
        "gemm_gflops": gemm_rate / 1e9,
        "baseline": baseline,
        "contestants": {
            contestant: {
                "median": timing.median,
                "iqr": timing.iqr,
                "gflops": work.flops / timing.median / 1e9,
                "gemm_fraction": work.flops / timing.median / gemm_rate,
                "ratio": timing.median / timings[baseline].median,
                "extra_bytes": extra[contestant],
            }
            for contestant, timing in timings.items()
        },
    }
