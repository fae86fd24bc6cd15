"""§3.5: le posizioni aggiunte agli embedding.

Un'operazione per numero, la somma. I byte sono quelli degli embedding, letti e scritti. La tabella
delle posizioni non è un ingresso, perché la formula la dà senza leggere nulla: chi la ricalcola
paga seni e coseni, chi la conserva la rilegge, e nessuno dei due costi è fra quelli contati.
"""

import math

import pytest
import torch
from torch import Tensor

from attention import sinusoids
from attention.s3_5_positional_encoding import (
    WAVELENGTH_BASE,
    LearnedPositions,
    SinusoidalPositions,
)
from benchmarks.compiled import compiled
from benchmarks.contest import DEVICE, DTYPES, Run, Work, clock

BASELINE = "tabella già pronta"
"""Il riferimento: la codifica calcolata una volta per tutte, nel tipo degli embedding."""

LEARNED = "LearnedPositions"
"""Le posizioni apprese della tabella 3, riga (E): un'altra funzione, la stessa somma."""

CASES = {
    "cpu": [(torch.float32, 1, 10, 768), (torch.float32, 1, 512, 768)],
    "cuda": [*((dtype, 1, 10, 768) for dtype in DTYPES), (torch.bfloat16, 50, 500, 512)],
}[DEVICE]
"""Tipo, batch, lunghezza, d_model."""


def work(batch: int, n: int, d: int) -> Work:
    """Una somma per numero; gli embedding si leggono e si riscrivono."""
    return Work(
        label=f"{batch}×{n}, {d}",
        shape={"batch": batch, "n": n, "d_model": d},
        flops=batch * n * d,
        numbers=2 * batch * n * d,
    )


def contestants(ours: SinusoidalPositions, x: Tensor) -> dict[str, Run]:
    """Chi aggiunge le posizioni; il primo è il nostro, che le ricalcola in doppia precisione."""
    n, d = x.shape[-2:]
    ready = sinusoids(n, d, device=x.device).to(x.dtype)
    learned = LearnedPositions(n, d).to(x)
    return {
        "SinusoidalPositions": lambda: ours(x),
        "ricalcolate in FP32": lambda: x + single_precision(n, d, x.device).to(x.dtype),
        BASELINE: lambda: x + ready,
        LEARNED: lambda: learned(x),
    }


def single_precision(n: int, d: int, device: torch.device) -> Tensor:
    """La formula in FP32, un'operazione alla volta: prima i seni, poi i coseni, al loro posto."""
    position = torch.arange(n, dtype=torch.float32, device=device).unsqueeze(1)
    pair = torch.arange(0, d, 2, dtype=torch.float32, device=device)
    angle = position * torch.exp(pair * (-math.log(WAVELENGTH_BASE) / d))
    table = torch.empty(n, d, device=device)
    table[:, 0::2] = angle.sin()
    table[:, 1::2] = angle.cos()
    return table


@pytest.mark.parametrize(("dtype", "batch", "n", "d"), CASES, indirect=["dtype"], ids=str)
@pytest.mark.benchmark(group="s3_5_positional_encoding", timer=clock)
def test_forward(contest, dtype, batch, n, d):
    """Gli embedding di un batch, a partire dalla posizione zero."""
    ours = SinusoidalPositions(d)
    x = torch.randn(batch, n, d, device=DEVICE, dtype=dtype)
    runs = contestants(ours, x)
    if DEVICE == "cuda" and (dtype, batch, n, d) == CASES[-1]:
        runs |= compiled(ours, x)
    contest(runs, BASELINE, work(batch, n, d), {LEARNED})
