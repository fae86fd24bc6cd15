"""§3.2.2: uno strato di attenzione a più teste, in avanti; il prodotto con i pesi impacchettati."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from attention import MultiHeadAttention, scaled_dot_product_attention
from attention.s3_2_2_multi_head import linear, packed_weights
from benchmarks.contest import DEVICE, ONLY_FP32, Run, Work, clock
from benchmarks.provenance import installed

BASELINE = "nn.MultiheadAttention"
"""Il riferimento: lo strato di PyTorch come lo si crea di solito, senza chiedere i pesi."""

SIZES = {
    "cpu": [
        (1, 10, 768, 12),
        (1, 10, 512, 8),
        (64, 10, 512, 8),
        (8, 128, 512, 8),
        (2, 512, 512, 8),
        (1, 2048, 512, 8),
    ],
    "cuda": [(1, 10, 768, 12), (8, 128, 512, 8), (50, 500, 512, 8), (4, 2048, 1024, 16)],
}[DEVICE]
"""Batch, lunghezza, d_model, teste: su GPU il lettore, e quanto basta a riempirla."""


def work(batch: int, n: int, d_model: int, heads: int) -> Work:
    """Quattro proiezioni d_model × d_model e, fra loro, i due prodotti dell'eq. (1)."""
    positions = batch * n
    return Work(
        label=f"{batch}×{n}, {d_model}/{heads}",
        shape={"batch": batch, "n": n, "d_model": d_model, "heads": heads},
        flops=8 * positions * d_model**2 + 4 * positions * n * d_model,
        numbers=2 * positions * d_model + 4 * d_model**2,
    )


def contestants(ours: MultiHeadAttention, x: torch.Tensor) -> dict[str, Run]:
    """Chi gareggia; il primo è il nostro. Hanno tutti gli stessi pesi: la stessa funzione."""
    unbiased, biased = (torch_layer(ours, bias) for bias in (False, True))
    return {
        "MultiHeadAttention": lambda: ours(x, x, x),
        "una testa alla volta": lambda: ours.forward_by_head(x, x, x),
        "softmax esplicita": lambda: ours.combine(
            scaled_dot_product_attention(*ours.project(x, x, x))
        ),
        BASELINE: lambda: biased(x, x, x, need_weights=False)[0],
        f"{BASELINE}(bias=False)": lambda: unbiased(x, x, x, need_weights=False)[0],
        **dict(peers(ours, x)),
    }


def peers(ours: MultiHeadAttention, x: torch.Tensor) -> Iterator[tuple[str, Run]]:
    """Le librerie che si misurano se sono installate."""
    if installed("x-transformers"):
        layer = x_transformers_layer(ours)
        yield "x-transformers", lambda: layer(x)
    if installed("transformers"):
        marian = marian_layer(ours)
        yield "Hugging Face Marian", lambda: marian(x)[0]


def torch_layer(ours: MultiHeadAttention, bias: bool) -> nn.MultiheadAttention:
    """Lo strato di PyTorch con i nostri pesi; i termini costanti, se li ha, sono zero."""
    layer = nn.MultiheadAttention(ours.d_model, ours.heads, bias=bias, batch_first=True)
    layer.in_proj_weight.copy_(ours.w_qkv)
    layer.out_proj.weight.copy_(ours.w_o)
    return like(ours, layer)


def x_transformers_layer(ours: MultiHeadAttention) -> nn.Module:
    """Lo strato di x-transformers, con il kernel fuso e i nostri pesi."""
    from x_transformers.x_transformers import Attention

    layer = Attention(ours.d_model, heads=ours.heads, dim_head=ours.d_k, flash=True)
    copy_projections(ours, layer.to_q, layer.to_k, layer.to_v, layer.to_out)
    return like(ours, layer)


def marian_layer(ours: MultiHeadAttention) -> nn.Module:
    """Lo strato di Hugging Face Marian, con il kernel fuso e i nostri pesi."""
    from transformers.models.marian.modeling_marian import MarianAttention, MarianConfig

    config = MarianConfig(attn_implementation="sdpa")
    layer = MarianAttention(ours.d_model, ours.heads, config=config)
    copy_projections(ours, layer.q_proj, layer.k_proj, layer.v_proj, layer.out_proj)
    return like(ours, layer)


def copy_projections(ours: MultiHeadAttention, *layers: nn.Linear) -> None:
    """Le nostre W^Q, W^K, W^V e W^O in quattro strati lineari, senza termine costante."""
    for layer, matrix in zip(layers, (*ours.w_qkv.split(ours.widths), ours.w_o), strict=True):
        layer.weight.copy_(matrix)
        if layer.bias is not None:
            layer.bias.zero_()


def like(ours: MultiHeadAttention, layer: Any) -> Any:
    """Lo strato dove sta il nostro, del suo tipo, pronto per l'inferenza."""
    return layer.to(ours.w_qkv.device, ours.w_qkv.dtype).eval()


@pytest.mark.parametrize(("batch", "n", "d_model", "heads"), SIZES)
@pytest.mark.benchmark(group="s3_2_2_multi_head", timer=clock)
def test_forward(contest, dtype, batch, n, d_model, heads):
    """Auto-attenzione senza maschera: query, key e value sono lo stesso tensore."""
    ours = MultiHeadAttention(d_model, heads).to(DEVICE, dtype).eval()
    x = torch.randn(batch, n, d_model, device=DEVICE, dtype=dtype)
    contest(contestants(ours, x), BASELINE, work(batch, n, d_model, heads))


PLAIN, READING = "F.linear", "sola lettura dei pesi"
"""Il riferimento: il prodotto con la matrice com'è. E chi la legge soltanto."""

VOCABULARY, WIDTH = 37_000, 512
"""La matrice comune del modello base."""


def packed_work(rows: int) -> Work:
    """Un prodotto: `rows` vettori e la matrice entrano, i punteggi escono."""
    return Work(
        label=f"{rows} × {WIDTH}, V = {VOCABULARY}",
        shape={"rows": rows, "d_model": WIDTH, "vocabulary": VOCABULARY},
        flops=2 * rows * WIDTH * VOCABULARY,
        numbers=rows * WIDTH + WIDTH * VOCABULARY + rows * VOCABULARY,
    )


@ONLY_FP32
@pytest.mark.skipif(DEVICE == "cuda", reason="si impacchettano soltanto i pesi di una CPU")
@pytest.mark.parametrize("rows", [1, 4, 16])
@pytest.mark.benchmark(group="s3_2_2_packed_weights", timer=clock)
def test_packed_weights(contest, dtype, rows):
    """Le righe di un token: una frase, quattro ipotesi, sedici frasi."""
    x, weight = torch.randn(rows, WIDTH), torch.randn(VOCABULARY, WIDTH)
    runs = {
        "linear in packed_weights": lambda: linear(x, weight),
        PLAIN: lambda: F.linear(x, weight),
        READING: lambda: weight.sum(),
    }
    with packed_weights():
        contest(runs, PLAIN, packed_work(rows), different=[READING])
