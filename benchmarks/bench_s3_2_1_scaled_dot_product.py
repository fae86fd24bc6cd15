"""§3.2.1: l'eq. (1) alla lettera e con il kernel fuso, al crescere della lunghezza."""

import warnings
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention import causal_mask, fused_attention, scaled_dot_product_attention
from benchmarks.contest import DEVICE, Run, Work, clock

BASELINE = "F.scaled_dot_product_attention"
"""Il riferimento: la funzione di PyTorch che il kernel fuso usa."""

BACKENDS = {
    "FlashAttention": SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
"""Le realizzazioni fra cui, su GPU, quella funzione sceglie: qui ciascuna è imposta."""

LENGTHS = {"cpu": (10, 128, 512, 1024, 2048, 4096), "cuda": (10, 2048, 8192)}[DEVICE]
"""Le lunghezze della sequenza."""

HEADS, WIDTH = 8, 64
"""Le teste del modello base e la loro larghezza."""


def work(n: int, causal: bool) -> Work:
    """Due prodotti, QKᵀ e pesi per V; con la maschera causale, solo le coppie permesse."""
    pairs = n * (n + 1) // 2 if causal else n * n
    return Work(
        label=f"n = {n}",
        shape={"batch": 1, "heads": HEADS, "n": n, "d_k": WIDTH},
        flops=2 * 2 * HEADS * pairs * WIDTH,
        numbers=4 * HEADS * n * WIDTH,
    )


def contestants(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> dict[str, Run]:
    """Chi gareggia; il primo è il nostro. Alla lettera, la maschera causale va costruita prima."""
    mask = causal_mask(q.size(-2), q.device) if causal else None
    return {
        "fused_attention": lambda: fused_attention(q, k, v, causal=causal),
        "scaled_dot_product_attention": lambda: scaled_dot_product_attention(q, k, v, mask),
        BASELINE: lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal),
        **dict(backends(q, k, v, causal) if DEVICE == "cuda" else ()),
    }


def backends(q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Iterator[tuple[str, Run]]:
    """Le realizzazioni di PyTorch che per questi tensori esistono, ciascuna imposta."""

    def imposed(backend: SDPBackend) -> Run:
        def run() -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

        return run

    for name, backend in BACKENDS.items():
        if works(run := imposed(backend)):
            yield name, run


def works(run: Run) -> bool:
    """Vero se la chiamata riesce; PyTorch spiega con avvisi perché una realizzazione è esclusa."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            run()
        except RuntimeError:
            return False
    return True


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.benchmark(group="s3_2_1_scaled_dot_product", timer=clock)
def test_full(contest, dtype, n):
    """Ogni posizione guarda tutte le altre."""
    q, k, v = torch.randn(3, 1, HEADS, n, WIDTH, device=DEVICE, dtype=dtype)
    contest(contestants(q, k, v, causal=False), BASELINE, work(n, causal=False))


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.benchmark(group="s3_2_1_causal", timer=clock)
def test_causal(contest, dtype, n):
    """Ogni posizione guarda sé stessa e le precedenti."""
    q, k, v = torch.randn(3, 1, HEADS, n, WIDTH, device=DEVICE, dtype=dtype)
    contest(contestants(q, k, v, causal=True), BASELINE, work(n, causal=True))
