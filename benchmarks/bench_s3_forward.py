"""§3: il modello intero in avanti, dai token ai punteggi: quello del lettore, il base, il big.

Si contano i soli prodotti di matrici, e con la maschera causale soltanto le coppie permesse. I
byte sono i token, interi di 8 byte, i pesi letti una volta, i punteggi scritti.
"""

import pytest
import torch
from torch import Tensor

from attention import BASE, BIG, READER, Transformer, TransformerConfig
from benchmarks.bench_s3_model_architecture import (
    TORCH,
    marian_logits,
    marian_model,
    on_meta,
    products,
    torch_model,
)
from benchmarks.contest import DEVICE, Run, Work, clock
from benchmarks.provenance import installed

FP32, BF16 = torch.float32, torch.bfloat16

CASES = {
    "cpu": [
        (FP32, "lettore", READER, 1, 10),
        (FP32, "base", BASE, 1, 64),
        (FP32, "big", BIG, 1, 32),
    ],
    "cuda": [
        (BF16, "lettore", READER, 1, 10),
        (BF16, "base", BASE, 50, 500),
        (BF16, "big", BIG, 50, 500),
    ],
}[DEVICE]
"""Tipo, nome, misure del modello, frasi e token in ciascuna, da una parte e dall'altra."""

TOKEN_BYTES = 8
"""Un token è un intero di 64 bit."""


def work(name: str, config: TransformerConfig, batch: int, n: int, dtype: torch.dtype) -> Work:
    """Le due pile e lo strato d'uscita, con sorgente e destinazione lunghe uguale."""
    positions = batch * n
    weights = sum(parameter.numel() for parameter in on_meta(config).parameters())
    numbers = weights + positions * config.vocabulary
    return Work(
        label=f"{name}, {batch}×{n}",
        shape={
            **{"batch": batch, "n": n, "m": n, "layers": config.layers},
            **{"d_model": config.d_model, "vocabulary": config.vocabulary},
        },
        flops=products(config, positions, positions, n),
        numbers=numbers,
        bytes=numbers * dtype.itemsize + 2 * positions * TOKEN_BYTES,
    )


def contestants(ours: Transformer, source: Tensor, target: Tensor) -> dict[str, Run]:
    """Chi gareggia; il primo è il nostro. Hanno tutti gli stessi pesi: la stessa funzione."""
    with torch.device(source.device):
        theirs = torch_model(ours).eval()
        marian = marian_model(ours).eval() if installed("transformers") else None
    found: dict[str, Run] = {
        "Transformer": lambda: ours(source, target),
        TORCH: lambda: theirs(source, target),
    }
    if marian is not None:
        found["Hugging Face Marian"] = lambda: marian_logits(marian, source, target)
    return found


@pytest.mark.parametrize(
    ("dtype", "name", "config", "batch", "n"),
    CASES,
    indirect=["dtype"],
    ids=[f"{dtype}-{name}" for dtype, name, *_ in CASES],
)
@pytest.mark.benchmark(group="s3_forward", timer=clock)
def test_forward(contest, dtype, name, config, batch, n):
    """Frasi di token a caso, tutte della stessa lunghezza: nessun riempimento."""
    with torch.device(DEVICE):
        ours = Transformer(config).to(dtype).eval()
    source, target = torch.randint(3, config.vocabulary, (2, batch, n), device=DEVICE)
    contest(contestants(ours, source, target), TORCH, work(name, config, batch, n, dtype))
