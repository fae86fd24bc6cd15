"""§3.3: la rete feed-forward, eq. (2).

Si contano i soli prodotti di matrici; il termine costante e la ReLU costano, ma non si contano.
Quanto costino lo dice l'ultimo concorrente, che esegue i due prodotti senza nulla in mezzo.
"""

import pytest
import torch
from torch import Tensor, nn

from attention import FeedForward
from attention.s3_3_feed_forward import feed_forward
from benchmarks.compiled import compiled
from benchmarks.contest import DEVICE, Run, Work, clock

BASELINE = "nn.Linear, nn.ReLU"
"""Il riferimento: i due strati lineari di PyTorch, con la ReLU fra loro e gli stessi pesi."""

BARE = "soli prodotti"
"""I due prodotti di matrici, senza termini costanti né ReLU: non è la stessa funzione."""

SIZES = {
    "cpu": [(10, 768, 3072), (512, 768, 3072)],
    "cuda": [(10, 768, 3072), (25_000, 512, 2048)],
}[DEVICE]
"""Posizioni, d_model, d_ff."""


def work(n: int, d_model: int, d_ff: int) -> Work:
    """Due prodotti: n × d_model per d_ff, e ritorno."""
    return Work(
        label=f"{n}, {d_model}/{d_ff}",
        shape={"n": n, "d_model": d_model, "d_ff": d_ff},
        flops=2 * 2 * n * d_model * d_ff,
        numbers=2 * n * d_model + 2 * d_model * d_ff + d_ff + d_model,
    )


def contestants(ours: FeedForward, x: Tensor) -> dict[str, Run]:
    """Chi gareggia; il primo è il nostro. Hanno tutti gli stessi pesi."""
    theirs = torch_network(ours)
    w_1, w_2 = ours.w_1.T, ours.w_2.T
    return {
        "FeedForward": lambda: ours(x),
        "eq. (2) alla lettera": lambda: feed_forward(x, w_1, ours.b_1, w_2, ours.b_2),
        "due convoluzioni": lambda: ours.as_convolutions(x),
        BASELINE: lambda: theirs(x),
        BARE: lambda: x @ w_1 @ w_2,
    }


def torch_network(ours: FeedForward) -> nn.Sequential:
    """La rete di PyTorch con i nostri pesi."""
    first, second = nn.Linear(*ours.w_1.T.shape), nn.Linear(*ours.w_2.T.shape)
    for layer, weight, bias in ((first, ours.w_1, ours.b_1), (second, ours.w_2, ours.b_2)):
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
    return nn.Sequential(first, nn.ReLU(), second).to(ours.w_1)


@pytest.mark.parametrize(("n", "d_model", "d_ff"), SIZES)
@pytest.mark.benchmark(group="s3_3_feed_forward", timer=clock)
def test_forward(contest, dtype, n, d_model, d_ff):
    """Una sequenza sola: posizioni di un batch o di una frase, alla rete non importa."""
    ours = FeedForward(d_model, d_ff).to(DEVICE, dtype)
    x = torch.randn(1, n, d_model, device=DEVICE, dtype=dtype)
    runs = contestants(ours, x)
    if dtype == torch.bfloat16 and (n, d_model, d_ff) == SIZES[-1]:
        runs |= compiled(ours, x)
    contest(runs, BASELINE, work(n, d_model, d_ff))
