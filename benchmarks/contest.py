"""La gara: più modi di fare lo stesso lavoro, misurati a turno nella stessa esecuzione.

La velocità di una macchina cambia da un minuto all'altro, il rapporto fra due programmi molto
meno. Perciò a ogni giro tutti i concorrenti fanno una chiamata cronometrata, in ordine ruotato,
e fra loro c'è sempre un grande prodotto di matrici: il tetto, misurato nello stesso momento.
"""

import statistics
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch.autograd.profiler import profile

from attention.s0_abstract import require
from benchmarks.ceilings import FORMATS, Ceilings, at_best
from benchmarks.stopwatch import DEVICE, Run, clock, timed

__all__ = ["DEVICE", "ONE_DTYPE", "ONLY_FP32", "Run", "Work", "clock"]

DTYPES = [torch.float32, torch.bfloat16] if DEVICE == "cuda" else [torch.float32]
"""I tipi in cui si misura."""

ONLY_FP32 = pytest.mark.parametrize("dtype", [torch.float32], ids=str)
"""Per le gare di modelli che stanno comunque in FP32."""

ONE_DTYPE = pytest.mark.parametrize("dtype", DTYPES[-1:], ids=str)
"""Per le gare lunghe, che si giocano una volta sola: su GPU in BF16."""

GEMM_SIZES = {
    "cpu": {torch.float32: 1024},
    "cuda": {torch.float32: 4096, torch.bfloat16: 8192},
}
"""Il lato delle matrici quadrate con cui si misura il tetto di una gara, per tipo di numeri."""

SECONDS = 0.5 if DEVICE == "cuda" else 5.0
"""Quanto dura una gara, se i giri non sono troppo pochi o troppi."""

MIN_ROUNDS = 7
"""I giri di una gara lenta."""

MAX_ROUNDS = 50 if DEVICE == "cuda" else 100
"""I giri di una gara svelta."""

MARGIN = {True: 1.05, False: 4.0}
"""Di quanto un ritmo può superare il tetto prima che la misura sia giudicata impossibile.

Vero: il tetto è quello della scheda tecnica, alla frequenza massima della scheda. Falso: è quello
misurato, che un'altra libreria può superare: su una CPU di AMD, oneDNN va più del doppio di MKL.
"""


class ImpossibleTimeError(ValueError):
    """Un concorrente è più veloce di quanto la macchina possa essere."""


@dataclass(frozen=True)
class Work:
    """Il lavoro di una gara, uguale per tutti: quanti conti e quanti byte al minimo.

    Argomenti:
        label: il nome della dimensione, come compare nelle tabelle.
        shape: le dimensioni, ciascuna con il suo nome.
        flops: somme e prodotti che il risultato richiede.
        numbers: quanti numeri entrano ed escono almeno una volta: ingressi, pesi, uscite.
        bytes: i byte che entrano ed escono, dove non sono i numeri per la larghezza del tipo.
    """

    label: str
    shape: dict[str, int]
    flops: int
    numbers: int
    bytes: int | None = None

    def traffic(self, dtype: torch.dtype) -> int:
        """I byte che passano almeno fra memoria e unità di calcolo."""
        return self.numbers * dtype.itemsize if self.bytes is None else self.bytes


@dataclass(frozen=True)
class Timing:
    """I tempi di un concorrente, in secondi."""

    median: float
    iqr: float

    @classmethod
    def of(cls, times: list[float]) -> "Timing":
        low, middle, high = statistics.quantiles(times, n=4, method="inclusive")
        return cls(middle, high - low)


def gemm(dtype: torch.dtype) -> Run:
    """Il tetto: un prodotto fra grandi matrici quadrate."""
    side = gemm_size(dtype)
    a, b = torch.randn(2, side, side, device=DEVICE, dtype=dtype)
    return lambda: a @ b


def gemm_size(dtype: torch.dtype) -> int:
    """Il lato di quelle matrici."""
    expected = ", ".join(str(it) for it in GEMM_SIZES[DEVICE])
    require(dtype in GEMM_SIZES[DEVICE], "dtype", dtype, f"uno fra {expected}")
    return GEMM_SIZES[DEVICE][dtype]


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

    def trial(self, ours: Run) -> int:
        """Un giro di prova, di cui si buttano i tempi: quanti giri stanno in una gara.

        Lo misura l'orologio del sistema: il cronometro della GPU è occupato dalle chiamate.
        """
        start = time.perf_counter()
        self.play()
        timed(ours)
        seconds = time.perf_counter() - start
        for times in self.times.values():
            times.clear()
        return rounds_for(seconds)


class Noted:
    """Un concorrente di cui si annota quanto impiega la chiamata a tornare.

    Su GPU è il tempo che la CPU impiega ad accodare, se dentro non si aspetta la scheda.
    """

    def __init__(self, run: Run):
        self.run = run
        self.seconds: list[float] = []

    def __call__(self) -> Any:
        start = time.perf_counter()
        output = self.run()
        self.seconds.append(time.perf_counter() - start)
        return output


def rounds_for(seconds: float) -> int:
    """Quanti giri stanno nella durata di una gara, se uno dura `seconds`."""
    return max(MIN_ROUNDS, min(MAX_ROUNDS, int(SECONDS / seconds)))


def extra_bytes(run: Run) -> int:
    """La memoria in più, al culmine di una chiamata: ciò che si alloca, uscita compresa.

    La chiamata non dev'essere la prima, che può allocare ciò che resta.
    """
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
    results: Any = recorded.kineto_results
    events = [event for event in results.events() if event.name() == "[memory]"]
    return [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]


def highest_sum(changes: list[int]) -> int:
    """Il culmine di una somma che cresce e cala."""
    total = highest = 0
    for change in changes:
        total += change
        highest = max(highest, total)
    return highest


def format_of(dtype: torch.dtype) -> str:
    """Il nome di un tipo nelle schede tecniche: su GPU i prodotti FP32 si fanno senza TF32."""
    return next(name for name, it in FORMATS.items() if it == dtype)


def verdict(
    work: Work,
    dtype: torch.dtype,
    baseline: str,
    timings: dict[str, Timing],
    extra: dict[str, int],
    ceiling: Timing,
    ceilings: Ceilings,
    different: Collection[str] = (),
    formats: Mapping[str, str] = {},
    queueing: Mapping[str, float] = {},
) -> dict[str, Any]:
    """Ciò che di una gara si pubblica: il lavoro, i tetti e, per ognuno, tempi e rapporti."""
    traffic = work.traffic(dtype)
    usual = format_of(dtype)
    gemm_rate = 2 * gemm_size(dtype) ** 3 / ceiling.median
    rates = {**ceilings.gemm, usual: gemm_rate}
    chip = ceilings.chip

    def score(name: str, timing: Timing) -> dict[str, Any]:
        flops_rate, bytes_rate = work.flops / timing.median, traffic / timing.median
        form, same = formats.get(name, usual), name not in different
        peak = ceilings.peak(form)
        return {
            "median": timing.median,
            "iqr": timing.iqr,
            "ratio": timing.median / timings[baseline].median,
            "extra_bytes": extra[name],
            "format": form,
            "gflops": flops_rate / 1e9 if same else None,
            "gbs": bytes_rate / 1e9 if same else None,
            "gemm_fraction": flops_rate / rates[form] if same else None,
            "copy_fraction": bytes_rate / ceilings.copy if same else None,
            "datasheet_fraction": flops_rate / peak / 1e9 if same and peak else None,
            **({"queueing": queueing[name]} if name in queueing else {}),
        }

    return {
        "device": DEVICE,
        "dtype": str(dtype).removeprefix("torch."),
        "label": work.label,
        "shape": work.shape,
        "flops": work.flops,
        "bytes": traffic,
        "intensity": work.flops / traffic,
        "gemm_size": gemm_size(dtype),
        "gemm_gflops": gemm_rate / 1e9,
        "copy_gbs": ceilings.copy / 1e9,
        "datasheet": chip and {"gflops": ceilings.peak(usual), "gbs": chip.bandwidth / 1e9},
        "baseline": baseline,
        "contestants": {name: score(name, timing) for name, timing in timings.items()},
    }


def refuse_impossible_times(found: dict[str, Any], ceilings: Ceilings) -> None:
    """Chi supera un tetto non ha fatto il lavoro, o non lo si è aspettato.

    I byte si controllano solo dove la memoria si conosce, cioè su una scheda della tabella; ciò
    che sta nella cache L2 può non esservi ancora stato scritto.

    L'FP32 si può imitare con i Tensor Core: il suo tetto tiene conto anche di quelli.

    Solleva:
        ImpossibleTimeError: se il ritmo di un concorrente supera quello dichiarato del chip, alla
            frequenza più alta, o, se il chip non è noto, il quadruplo di quello misurato.
    """
    for name, score in found["contestants"].items():
        if score["gflops"] is None:
            continue
        declared = ceilings.fastest(score["format"])
        measured = max(at_best(score["format"], ceilings.gemm) / 1e9, found["gemm_gflops"])
        limit = MARGIN[bool(declared)] * (declared or measured)
        refuse_beyond(name, score["gflops"], limit, f"GFLOP/s in {score['format']}")
        if ceilings.chip:
            bandwidth = MARGIN[True] * ceilings.chip.bandwidth / 1e9
            through = (found["bytes"] - ceilings.chip.l2_mb * 1e6) / score["median"] / 1e9
            refuse_beyond(name, through, bandwidth, "GB/s dalla memoria")


def refuse_beyond(name: str, rate: float, limit: float, unit: str) -> None:
    """Solleva `ImpossibleTimeError` se un ritmo supera il suo limite."""
    if rate > limit:
        raise ImpossibleTimeError(
            f"«{name}»: {rate:.0f} {unit}, oltre il limite di {limit:.0f}; il lavoro dichiarato "
            "non è stato fatto, oppure non è stato misurato per intero"
        )
