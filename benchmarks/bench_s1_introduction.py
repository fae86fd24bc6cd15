"""§1: la ricorrenza, un passo dopo l'altro, accanto a un'attenzione lunga altrettanto."""

import pytest
import torch
from torch import nn

from attention import MultiHeadAttention
from attention.s1_introduction import Elman, recurrence
from benchmarks.contest import DEVICE, Run, Work, clock

BASELINE = "nn.RNN"
"""Il riferimento: la ricorrenza di PyTorch, con gli stessi pesi."""

ATTENTION = "MultiHeadAttention"
"""Chi fa un altro lavoro: la stessa sequenza, senza ricorrenza."""

LENGTHS = {"cpu": (10, 32, 128, 512, 1024), "cuda": (10, 1024)}[DEVICE]
"""Le lunghezze della sequenza."""

WIDTH, HEADS = 512, 8
"""La larghezza del modello base e le sue teste."""


def work(n: int, d: int) -> Work:
    """Il lavoro della ricorrenza: due prodotti vettore–matrice per posizione.

    L'attenzione ne ha un altro, maggiore: quattro proiezioni e due prodotti lunghi n.
    """
    return Work(
        label=f"n = {n}",
        shape={"n": n, "d": d},
        flops=4 * n * d**2,
        numbers=2 * n * d + 2 * d**2 + d,
    )


def contestants(cell: Elman, attention: MultiHeadAttention, x: torch.Tensor) -> dict[str, Run]:
    """Chi gareggia: tre ricorrenze uguali, la nostra per prima, e un'attenzione."""
    h_0 = x.new_zeros(x.size(0), x.size(-1))
    layer = torch_layer(cell)

    def products_ahead() -> torch.Tensor:
        ahead = x @ cell.w_x + cell.b
        return recurrence(lambda h, ready: torch.tanh(torch.addmm(ready, h, cell.w_h)), h_0, ahead)

    return {
        "recurrence(Elman)": lambda: recurrence(cell, h_0, x),
        "xW_x prima del ciclo": products_ahead,
        BASELINE: lambda: layer(x)[0],
        ATTENTION: lambda: attention(x, x, x),
    }


def torch_layer(cell: Elman) -> nn.RNN:
    """La ricorrenza di PyTorch con i nostri pesi."""
    layer = nn.RNN(*cell.w_x.shape, batch_first=True).to(cell.w_x)
    layer.weight_ih_l0.copy_(cell.w_x.T)
    layer.weight_hh_l0.copy_(cell.w_h.T)
    layer.bias_ih_l0.copy_(cell.b)
    layer.bias_hh_l0.zero_()
    return layer


def random_cell(width: int, dtype: torch.dtype) -> Elman:
    """Un passo con matrici che non fanno crescere lo stato."""
    w_x, w_h = torch.randn(2, width, width, device=DEVICE, dtype=dtype) / width**0.5
    return Elman(w_x, w_h, torch.zeros(width, device=DEVICE, dtype=dtype))


@pytest.mark.parametrize("n", LENGTHS)
@pytest.mark.benchmark(group="s1_introduction", timer=clock)
def test_forward(contest, dtype, n):
    """Una sequenza sola: dentro un esempio non c'è un batch dietro cui nascondere l'attesa."""
    attention = MultiHeadAttention(WIDTH, HEADS).to(DEVICE, dtype).eval()
    x = torch.randn(1, n, WIDTH, device=DEVICE, dtype=dtype)
    runs = contestants(random_cell(WIDTH, dtype), attention, x)
    contest(runs, BASELINE, work(n, WIDTH), {ATTENTION})
