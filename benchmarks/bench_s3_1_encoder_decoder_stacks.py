"""§3.1: la normalizzazione di strato da sola, e uno strato intero dell'encoder.

La normalizzazione non ha prodotti di matrici. Le sue operazioni sono quelle elementari della
formula passo per passo: una per ogni somma, differenza, prodotto, divisione, radice. I byte sono
esatti: x si legge una volta, l'uscita si scrive una volta, più i due vettori di parametri. Dello
strato si contano soltanto i prodotti di matrici, come nelle altre gare.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from attention import BASE, READER, TransformerConfig, scaled_dot_product_attention
from attention.s3_1_encoder_decoder_stacks import EPSILON, EncoderLayer, LayerNorm, layer_norm
from attention.s3_3_feed_forward import feed_forward
from attention.s3_model_architecture import make_encoder_layer
from benchmarks.bench_s3_2_2_multi_head import copy_projections
from benchmarks.bench_s3_model_architecture import (
    copy_feed_forward,
    copy_marian_layer,
    copy_torch_attention,
)
from benchmarks.compiled import compiled
from benchmarks.contest import DEVICE, Run, Work, clock
from benchmarks.provenance import installed

NORM, LAYER = "nn.LayerNorm", "nn.TransformerEncoderLayer"
"""I riferimenti: la normalizzazione e lo strato di PyTorch, con gli stessi pesi."""

LETTER = "operazioni elementari"
"""La stessa funzione scritta con le operazioni di PyTorch, una per segno della formula."""

VECTORS = {"cpu": [(10, 768), (512, 768)], "cuda": [(10, 768), (25_000, 1024)]}[DEVICE]
"""Quanti vettori si normalizzano, e quanto sono larghi."""

STACKS = {
    "cpu": [(1, 10, READER), (1, 512, BASE)],
    "cuda": [(1, 10, READER), (50, 500, BASE)],
}[DEVICE]
"""Batch, lunghezza e misure di uno strato."""


def norm_work(rows: int, d: int) -> Work:
    """Per vettore: media, differenze, quadrati, varianza, due prodotti e una somma; due numeri."""
    return Work(
        label=f"{rows} × {d}",
        shape={"rows": rows, "d_model": d},
        flops=rows * (7 * d + 2),
        numbers=2 * rows * d + 2 * d,
    )


def norm_contestants(ours: LayerNorm, x: Tensor) -> dict[str, Run]:
    """Chi normalizza; il primo è il nostro. Guadagno e termine costante sono gli stessi."""
    theirs = nn.LayerNorm(x.size(-1), EPSILON).to(x)
    theirs.weight.copy_(ours.gain)
    theirs.bias.copy_(ours.bias)
    return {
        "LayerNorm": lambda: ours(x),
        LETTER: lambda: layer_norm(x, ours.gain, ours.bias),
        NORM: lambda: theirs(x),
    }


@pytest.mark.parametrize(("rows", "d"), VECTORS)
@pytest.mark.benchmark(group="s3_1_layer_norm", timer=clock)
def test_layer_norm(contest, dtype, rows, d):
    """Vettori a caso, con media e varianza che la normalizzazione deve togliere."""
    ours = LayerNorm(d).to(DEVICE, dtype)
    nn.init.normal_(ours.gain)
    nn.init.normal_(ours.bias)
    x = 3 * torch.randn(rows, d, device=DEVICE, dtype=dtype) + 1
    runs = norm_contestants(ours, x)
    if dtype == torch.bfloat16 and (rows, d) == VECTORS[-1]:
        runs |= compiled(layer_norm, x, ours.gain, ours.bias)
    contest(runs, NORM, norm_work(rows, d))


def layer_work(batch: int, n: int, config: TransformerConfig) -> Work:
    """Quattro proiezioni, i due prodotti dell'eq. (1), i due della rete feed-forward."""
    d, d_ff, positions = config.d_model, config.d_ff, batch * n
    matrices = 4 * d * d + 2 * d * d_ff
    return Work(
        label=f"{batch}×{n}, {d}/{config.heads}",
        shape={"batch": batch, "n": n, "d_model": d, "heads": config.heads, "d_ff": d_ff},
        flops=2 * positions * (matrices + 2 * n * d),
        numbers=2 * positions * d + matrices + d_ff + 5 * d,
    )


def layer_contestants(ours: EncoderLayer, x: Tensor) -> dict[str, Run]:
    """Chi gareggia; il primo è il nostro. Hanno tutti gli stessi pesi: la stessa funzione."""
    theirs = torch_layer(ours)
    return {
        "EncoderLayer": lambda: ours(x),
        LETTER: lambda: by_the_letter(ours, x),
        LAYER: lambda: theirs(x),
        **dict(peers(ours, x)),
    }


def by_the_letter(layer: EncoderLayer, x: Tensor) -> Tensor:
    """Lo stesso strato con l'eq. (1), l'eq. (2) e la normalizzazione scritte passo per passo."""
    own, network = layer.self_attention, layer.feed_forward
    seen = own.combine(scaled_dot_product_attention(*own.project(x, x, x)))
    x = normalized(layer.self_attention_norm.norm, x + seen)
    inner = feed_forward(x, network.w_1.T, network.b_1, network.w_2.T, network.b_2)
    return normalized(layer.feed_forward_norm.norm, x + inner)


def normalized(norm: LayerNorm, x: Tensor) -> Tensor:
    """La normalizzazione passo per passo, con i parametri di una fatta."""
    return layer_norm(x, norm.gain, norm.bias)


def peers(ours: EncoderLayer, x: Tensor) -> Iterator[tuple[str, Run]]:
    """Le librerie che si misurano se sono installate."""
    if installed("x-transformers"):
        layer = x_transformers_layer(ours)
        yield "x-transformers", lambda: layer(x)
    if installed("transformers"):
        marian = marian_layer(ours)
        yield "Hugging Face Marian", lambda: marian(x, None)


def torch_layer(ours: EncoderLayer) -> nn.TransformerEncoderLayer:
    """Lo strato di PyTorch con i nostri pesi; i termini costanti che non abbiamo sono zero."""
    d_ff, d_model = ours.feed_forward.w_1.shape
    layer = nn.TransformerEncoderLayer(
        *(d_model, ours.self_attention.heads, d_ff, 0.0), layer_norm_eps=EPSILON, batch_first=True
    )
    copy_torch_attention(ours.self_attention, layer.self_attn)
    copy_feed_forward(ours, layer.linear1, layer.linear2)
    return layer.to(ours.feed_forward.w_1).eval()


def x_transformers_layer(ours: EncoderLayer) -> nn.Module:
    """Una pila di x-transformers di uno strato, con la normalizzazione dopo e i nostri pesi."""
    from x_transformers import Encoder

    d_ff, d_model = ours.feed_forward.w_1.shape
    stack = Encoder(
        dim=d_model,
        depth=1,
        heads=ours.self_attention.heads,
        attn_dim_head=ours.self_attention.d_k,
        attn_flash=True,
        pre_norm=False,
        ff_mult=d_ff / d_model,
        ff_custom_activation=nn.ReLU(),
    )
    (_, attention, _), (_, network, _) = stack.layers
    roles = (attention.to_q, attention.to_k, attention.to_v, attention.to_out)
    copy_projections(ours.self_attention, *roles)
    (first, _), _, second = network.ff
    copy_feed_forward(ours, first, second)
    for norm in stack.modules():
        if isinstance(norm, nn.LayerNorm):
            norm.eps = EPSILON
    return stack.to(ours.feed_forward.w_1).eval()


def marian_layer(ours: EncoderLayer) -> nn.Module:
    """Lo strato di Hugging Face Marian con i nostri pesi."""
    from transformers.models.marian.modeling_marian import MarianConfig, MarianEncoderLayer

    d_ff, d_model = ours.feed_forward.w_1.shape
    config = MarianConfig(
        d_model=d_model,
        encoder_ffn_dim=d_ff,
        encoder_attention_heads=ours.self_attention.heads,
        activation_function="relu",
        attn_implementation="sdpa",
    )
    layer = MarianEncoderLayer(config)
    copy_marian_layer(ours, layer)
    for norm in (layer.self_attn_layer_norm, layer.final_layer_norm):
        norm.eps = EPSILON
    return layer.to(ours.feed_forward.w_1).eval()


@pytest.mark.parametrize(("batch", "n", "config"), STACKS, ids=["lettore", "base"])
@pytest.mark.benchmark(group="s3_1_encoder_layer", timer=clock)
def test_encoder_layer(contest, dtype, batch, n, config):
    """Uno strato dell'encoder in uso, senza maschera e senza dropout."""
    ours = make_encoder_layer(config).to(DEVICE, dtype).eval()
    x = torch.randn(batch, n, config.d_model, device=DEVICE, dtype=dtype)
    contest(layer_contestants(ours, x), LAYER, layer_work(batch, n, config))
