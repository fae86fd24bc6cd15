"""§4: gli strati della tabella 1 cronometrati, al crescere di n con d fissa e di d con n fissa.

Non fanno lo stesso lavoro: è ciò che si vuol vedere. Il lavoro dichiarato è quello
dell'auto-attenzione come la conta la tabella 1; degli altri si pubblicano soltanto tempo e
memoria. Un esponente si legge dove il lavoro riempie la macchina: perciò su GPU le misure sono
più grandi, e le ricorrenze, che riempirla non possono, si fermano prima.
"""

import pytest
import torch
from torch import nn

from attention import MultiHeadAttention
from attention.s4_why_self_attention import (
    attention_multiply_adds,
    convolutional,
    recurrent,
    restricted_self_attention,
    self_attention,
    separable_convolutional,
)
from benchmarks.contest import DEVICE, ONE_DTYPE, Run, Work, clock

pytestmark = ONE_DTYPE

BASELINE = "auto-attenzione"
"""Il riferimento: la prima riga della tabella 1."""

LOOP, RNN = "ricorrente", "nn.RNN"
"""La nostra ricorrenza, un giro di Python per posizione, e quella di PyTorch."""

LENGTHS = {"cpu": (16, 64, 256, 1024, 4096), "cuda": (256, 1024, 4096, 16_384)}[DEVICE]
"""Le lunghezze della sequenza, con la larghezza del modello base."""

LONGEST = {"cpu": {}, "cuda": {LOOP: 1024, RNN: 4096}}[DEVICE]
"""Fino a quale lunghezza si misura chi fa un passo dopo l'altro."""

WIDTHS = {"cpu": (64, 128, 256, 512, 1024, 2048), "cuda": (512, 2048, 8192)}[DEVICE]
"""Le larghezze, con una sequenza lunga FIXED_LENGTH."""

FIXED_WIDTH, FIXED_LENGTH = 512, {"cpu": 128, "cuda": 512}[DEVICE]
"""La larghezza mentre cresce n, la lunghezza mentre cresce d."""

KERNEL, NEIGHBOURHOOD, HEAD = 3, 15, 64
"""La k e la r della tabella 1, e la larghezza di una testa."""


def work(n: int, d: int, label: str) -> Work:
    """I due prodotti dell'auto-attenzione; x entra, z esce."""
    return Work(
        label=label,
        shape={"n": n, "d": d},
        flops=2 * attention_multiply_adds(n, d),
        numbers=2 * n * d,
    )


def contestants(x: torch.Tensor) -> dict[str, Run]:
    """Gli strati della tabella 1 e i loro vicini; la ricorrenza anche come la esegue PyTorch."""
    n, d = x.shape
    weights = torch.randn(2 + KERNEL, d, d, device=x.device, dtype=x.dtype) / d**0.5
    depthwise = torch.randn(KERNEL, d, device=x.device, dtype=x.dtype)
    w_x, w_h, kernel = weights[0], weights[1], weights[2:]
    with torch.device(x.device):
        rnn = torch_recurrence(w_x, w_h)
        heads = MultiHeadAttention(d, d // HEAD).to(x.dtype).eval()
    runs = {
        BASELINE: lambda: self_attention(x),
        "con le proiezioni": lambda: heads(x, x, x),
        LOOP: lambda: recurrent(x, w_x, w_h),
        RNN: lambda: rnn(x)[0],
        "convoluzionale": lambda: convolutional(x, kernel),
        "ristretta": lambda: restricted_self_attention(x, NEIGHBOURHOOD),
        "separabile": lambda: separable_convolutional(x, depthwise, w_x),
    }
    return {name: run for name, run in runs.items() if n <= LONGEST.get(name, n)}


def torch_recurrence(w_x: torch.Tensor, w_h: torch.Tensor) -> nn.RNN:
    """La ricorrenza di PyTorch con le stesse matrici, senza termini costanti."""
    layer = nn.RNN(w_x.size(0), w_h.size(0), bias=False).to(w_x).eval()
    layer.weight_ih_l0.data.copy_(w_x.T)
    layer.weight_hh_l0.data.copy_(w_h.T)
    return layer


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.benchmark(group="s4_growth_n", timer=clock)
def test_growth_with_n(contest, dtype, n):
    """d = 512: la prima riga cresce con n², le altre con n."""
    x = torch.randn(n, FIXED_WIDTH, device=DEVICE, dtype=dtype)
    runs = contestants(x)
    contest(runs, BASELINE, work(n, FIXED_WIDTH, f"n = {n}"), runs.keys() - {BASELINE})


@pytest.mark.parametrize("d", WIDTHS)
@pytest.mark.benchmark(group="s4_growth_d", timer=clock)
def test_growth_with_d(contest, dtype, d):
    """n fissa: le due righe di attenzione crescono con d, le altre con d²."""
    x = torch.randn(FIXED_LENGTH, d, device=DEVICE, dtype=dtype)
    runs = contestants(x)
    contest(runs, BASELINE, work(FIXED_LENGTH, d, f"d = {d}"), runs.keys() - {BASELINE})
