"""Il cronometro: quanto dura una chiamata, su CPU e su GPU.

Su CPU è l'orologio del sistema, e la chiamata si misura a caldo. Su GPU il lavoro è soltanto
accodato quando la chiamata torna, perciò il tempo lo prende la GPU stessa, con due eventi messi
in coda prima e dopo; e si misura a freddo, con la cache L2 svuotata. Quanto la CPU impiega ad
accodare è un altro tempo, e si annota a parte.
"""

import time
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

Run = Callable[[], Any]
"""Ciò che si misura: una chiamata senza argomenti."""

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""Si misura la GPU se c'è, se no la CPU."""

WARM_UP = 0.002
"""Su CPU, per quanti secondi si chiama a vuoto prima di ogni chiamata cronometrata."""

SWEEP = 512 * 2**20
"""Su GPU, quanti byte si leggono per svuotare la cache: parecchie volte la L2 più grande."""

SWEEPS = 12
"""Quante volte si leggono: con 4 TB/s è un millesimo e mezzo, in cui la CPU accoda la chiamata."""

LATE = 200e-6
"""Su GPU, dopo quanti secondi dalla fine apparente si dice che altro lavoro continuava."""


class EventTimer:
    """Il cronometro della GPU: alla prima chiamata parte e dà 0, alla seconda dà i secondi passati.

    È la forma che pytest-benchmark chiede a un orologio: sottrae la prima lettura dalla seconda.
    Fra le due non si aspetta la GPU, così il lancio di un kernel si sovrappone a ciò che lo
    precede in coda. Alla fine invece la si aspetta tutta, su ogni stream: chi avesse lasciato
    altrove più di `LATE` secondi di lavoro se li vede contare. Chi ne lasciasse meno, o su
    un'altra scheda, è rifiutato prima della misura, da `honest_data`.
    """

    def __init__(self) -> None:
        self.start: Any = None

    def __call__(self) -> float:
        now = self.mark()
        if self.start is None:
            self.start = now
            return 0.0
        start = self.forget()
        torch.cuda.synchronize()
        drained = self.mark()
        drained.synchronize()
        end = drained if now.elapsed_time(drained) > LATE * 1e3 else now
        return start.elapsed_time(end) / 1e3

    def mark(self) -> Any:
        """Un evento in coda."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def forget(self) -> Any:
        """Torna fermo; dà l'evento da cui era partito."""
        start, self.start = self.start, None
        return start


clock: Callable[[], float] = EventTimer() if DEVICE == "cuda" else time.perf_counter
"""L'orologio delle misure: due letture, e la differenza è la durata in secondi."""


@cache
def sweep() -> Tensor:
    """Il blocco di memoria che si legge per svuotare la cache."""
    return torch.ones(SWEEP // 4, device=DEVICE, dtype=torch.float32)


def empty_cache() -> None:
    """Accoda le letture di un blocco più grande della L2: ciò che c'era prima ne esce.

    Si legge e non si scrive: le righe scritte tornerebbero in memoria durante la misura. Basterebbe
    una volta; ma intanto che la GPU legge, la CPU ha il tempo di accodare ciò che si misura, e i
    suoi ritardi non si contano. Chi le chiede di più la vede aspettare, come in un programma vero.
    """
    for _ in range(SWEEPS):
        sweep().sum()


def prepare(run: Run) -> None:
    """Prima di una chiamata cronometrata: su CPU la si ripete a vuoto, su GPU si va a freddo."""
    if isinstance(clock, EventTimer):
        torch.cuda.synchronize()
        clock.forget()
        empty_cache()
        return
    start = time.perf_counter()
    run()
    while time.perf_counter() - start < WARM_UP:
        run()


def timed(run: Run) -> float:
    """I secondi di una chiamata."""
    prepare(run)
    start = clock()
    run()
    return clock() - start
