"""I contatori della GPU: `ncu` esegue di nuovo le operazioni, e conta le istruzioni.

`ncu` è un programma a parte, chiede permessi che spesso mancano e fa girare ogni kernel più volte,
perciò lavora in un processo suo, una volta sola per tutte le operazioni: `python -m
benchmarks.counters CASI` le esegue in fila, ciascuna preceduta da un kernel che fa da segnale.
"""

import contextlib
import csv
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from benchmarks.stopwatch import Run

ROOT = Path(__file__).parent.parent
"""Da dove si esegue."""

CUDA_FOLDER = "/usr/local/cuda/bin"
"""Dove ncu sta di solito, se non è fra i comandi."""

METRICS = (
    r"regex:^sm__inst_executed_pipe_tensor[^.]*\.sum$",
    r"regex:^sm__pipe_tensor_cycles_active\.avg\.pct_of_peak_sustained_active$",
)
"""Quali contatori: i nomi cambiano con il chip, perciò si chiedono con un'espressione."""

OPTIONS = (
    *("--csv", "--page", "raw", "--print-units", "base"),
    *("--clock-control", "none", "--target-processes", "all", "--profile-from-start", "off"),
)
"""Il resto del comando: le frequenze si lasciano come sono, e si misura solo dove lo si chiede."""

PATIENCE = 30.0
"""Dopo quanti secondi le operazioni in fila smettono di cominciare."""

LIMIT = 60.0
"""Dopo quanti secondi ncu si ferma comunque."""

SIGNAL = "spin_kernel"
"""Il nome del kernel che precede ogni operazione: quello di `torch.cuda._sleep`."""

Counts = dict[str, float]
"""I contatori di un'operazione, sommati sui suoi kernel."""


class NoCountersError(RuntimeError):
    """I contatori non si possono leggere: dice perché."""


def count(cases: Sequence[str]) -> dict[str, Counts]:
    """I contatori di ogni operazione, per nome; se il tempo non basta mancano le ultime.

    Argomenti:
        cases: i nomi, come li intende `benchmarks.bench_tensor_cores.run_of`.

    Solleva:
        NoCountersError: se ncu non c'è, non ha il permesso, tarda o risponde altro.
    """
    program = shutil.which("ncu", path=f"{os.environ.get('PATH', '')}:{CUDA_FOLDER}")
    if program is None:
        raise NoCountersError("ncu non è installato")
    own = (sys.executable, "-m", "benchmarks.counters", json.dumps(list(cases)))
    answer = ask((program, *OPTIONS, "--metrics", ",".join(METRICS), *own), LIMIT)
    found = split(parse(answer))
    if not 0 < len(found) <= len(cases):
        raise NoCountersError(why(answer, len(found), len(cases)))
    return dict(zip(cases, found, strict=False))


def ask(command: Sequence[str], limit: float) -> str:
    """Ciò che il comando scrive; se tarda, si ferma lui e i processi che ha aperto."""
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **streams)
    try:
        return process.communicate(timeout=limit)[0]
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise NoCountersError(f"ncu non ha finito in {limit:.0f} secondi") from None


def why(answer: str, found: int, expected: int) -> str:
    """La ragione di una risposta che non va, con le parole di ncu quando ci sono."""
    if "ERR_NVGPUCTRPERM" in answer:
        return "ncu non ha il permesso di leggere i contatori (ERR_NVGPUCTRPERM)"
    errors = re.findall(r"==ERROR== (.+)", answer)
    said = f": {errors[0].strip()}" if errors else ""
    return f"ncu ha contato {found} operazioni su {expected}{said}"


def parse(answer: str) -> list[tuple[str, Counts]]:
    """I kernel, nell'ordine in cui sono partiti, ciascuno con i suoi contatori.

    Si leggono le due forme che ncu dà al CSV: una colonna per contatore, con una riga di unità
    sotto l'intestazione, oppure una riga per contatore.
    """
    lines = [line for line in answer.splitlines() if line.startswith('"')]
    kernels: dict[str, tuple[str, Counts]] = {}
    for row in csv.DictReader(lines):
        if not row.get("ID"):
            continue
        _, counts = kernels.setdefault(row["ID"], (row.get("Kernel Name") or "", {}))
        long = {row["Metric Name"]: row["Metric Value"]} if row.get("Metric Name") else row
        for name, text in long.items():
            if name and name.startswith("sm__") and (number := value(text)) is not None:
                counts[name] = number
    return list(kernels.values())


def value(text: str | None) -> float | None:
    """Un numero di ncu, che separa le migliaia con una virgola; niente, se non è un numero."""
    try:
        number = float((text or "").replace(",", ""))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def split(kernels: Iterable[tuple[str, Counts]]) -> list[Counts]:
    """I contatori sommati, un'operazione per volta: un segnale ne apre una nuova."""
    operations: list[list[Counts]] = []
    for name, counts in kernels:
        if SIGNAL in name:
            operations.append([])
        elif operations:
            operations[-1].append(counts)
    return [total(operation) for operation in operations]


def total(kernels: list[Counts]) -> Counts:
    """I contatori di un'operazione, dai suoi kernel: soltanto quelli che ncu dà di tutti.

    I conteggi si sommano; di una percentuale si tiene la più alta.
    """
    known = [name for name in (kernels or [{}])[0] if all(name in counts for counts in kernels)]
    return {
        name: (max if "pct" in name else sum)(counts[name] for counts in kernels) for name in known
    }


def play(run: Run) -> None:
    """Un'operazione sotto gli occhi di ncu: prima una a vuoto, poi il segnale e quella contata.

    Se l'operazione non riesce resta il solo segnale, e le altre tengono il loro posto.
    """
    try:
        run()
    except RuntimeError:
        run = torch.cuda.synchronize
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    torch.cuda._sleep(1)
    run()
    torch.cuda.synchronize()
    torch.cuda.profiler.stop()


def main(cases: str) -> None:
    """Esegue le operazioni in fila, finché c'è tempo."""
    from benchmarks.bench_tensor_cores import run_of

    torch.manual_seed(20170612)
    start = time.monotonic()
    with torch.no_grad():
        for case in json.loads(cases):
            if time.monotonic() - start > PATIENCE:
                break
            play(run_of(case))


if __name__ == "__main__":
    main(*sys.argv[1:])
