"""§6.1: generare, quanto vicino al limite: i pesi, una volta per token.

Con una frase sola ogni prodotto è una matrice per un vettore, e il tempo minimo è quello di leggere
i pesi del decoder. Il modello non sceglie mai la fine: il suo punteggio è zero, e il più alto di
37 000 punteggi non lo è.
"""

from typing import Any

import pytest
import torch
from torch import Tensor

from attention import BASE, BIG, Transformer, TransformerConfig
from benchmarks.bench_s3_model_architecture import (
    LENGTH,
    READING,
    greedy_work,
    on_meta,
    products,
    weights_per_token,
)
from benchmarks.contest import DEVICE, DTYPES, ONE_DTYPE, Run, Work, clock
from benchmarks.provenance import installed

MODELS = {"base": BASE, "grande": BIG}
"""I due modelli dell'articolo."""

EAGER, GRAPH, OURS = "Transformer.generate", "grafo", "grafo, kernel nostri"
"""Chi gareggia: il ciclo di §3, lo stesso passo registrato, e registrato con i nostri kernel."""

HOPPER = (9, 0)
"""La prima generazione in cui un kernel può cominciare prima che finisca quello di prima."""


def decoding_work(name: str, config: TransformerConfig, rows: int) -> Work:
    """`rows` frasi di 64 token, 64 token per ognuna: i pesi una volta per token, le cache tutte.

    Al passo p ogni strato rilegge p + 1 key e value suoi, e i 64 della sorgente.
    """
    one = greedy_work(config)
    seen = LENGTH * (LENGTH + 1) // 2 + LENGTH * LENGTH
    return Work(
        label=f"{name}, {rows} " + ("frase" if rows == 1 else "frasi"),
        shape={"batch": rows, "n": LENGTH, "m": LENGTH, "vocabulary": config.vocabulary},
        flops=products(config, rows * LENGTH, rows * LENGTH, LENGTH),
        numbers=one.numbers + rows * config.layers * 2 * config.d_model * seen,
    )


def endless(config: TransformerConfig, dtype: torch.dtype) -> Transformer:
    """Un modello a caso che non sceglie mai la fine."""
    model = Transformer(config).to(DEVICE, dtype).eval()
    model.embedding.weight.data[config.end_id] = 0
    return model


def contestants(config: TransformerConfig, dtype: torch.dtype, rows: int) -> dict[str, Run]:
    """Chi genera; il primo è il nostro più svelto che qui si può eseguire."""
    model = endless(config, dtype)
    source = torch.randint(3, config.vocabulary, (rows, LENGTH), device=DEVICE)
    weights = torch.randn(weights_per_token(model), device=DEVICE, dtype=dtype)
    return {
        **graphs(model, source),
        EAGER: lambda: model.generate(source, extra=0),
        READING: lambda: [weights.sum() for _ in range(LENGTH)],
    }


def graphs(model: Transformer, source: Tensor) -> dict[str, Run]:
    """Il passo registrato: solo su GPU, e solo dove c'è Triton."""
    if DEVICE == "cpu" or installed("triton") is None:
        return {}
    from attention.beyond.graph_decoding import GraphDecoder

    ways: dict[str, dict[str, Any]] = {GRAPH: {}}
    if len(source) == 1:
        early = torch.cuda.get_device_capability() >= HOPPER
        ways = {OURS: {"fused": True, "early": early}, **ways}
    decoders = {
        name: GraphDecoder(model, len(source), LENGTH, 0, **options)
        for name, options in ways.items()
    }
    return {name: generating(decoder, source) for name, decoder in decoders.items()}


def generating(decoder: Any, source: Tensor) -> Run:
    """Una generazione intera, encoder compreso."""
    return lambda: decoder.generate(source)


def per_token(extra_info: dict[str, Any], rows: int) -> dict[str, Any]:
    """Dai tempi di una generazione: microsecondi per token di ogni frase, e token al secondo."""
    times = {name: it["median"] for name, it in extra_info["contestants"].items()}
    return {
        "us_per_token": {name: time / LENGTH * 1e6 for name, time in times.items()},
        "tokens_per_second": {name: rows * LENGTH / time for name, time in times.items()},
    }


def kinds() -> list[Any]:
    """Su GPU i due modelli, in ogni tipo con una frase e in BF16 con 64; su CPU il base con una."""
    if DEVICE == "cpu":
        return [(torch.float32, "base", 1)]
    single = [(dtype, name, 1) for dtype in DTYPES for name in MODELS]
    return [*single, *((DTYPES[-1], name, 64) for name in MODELS)]


@pytest.mark.parametrize(("dtype", "name", "rows"), kinds(), ids=str)
@pytest.mark.benchmark(group="s6_1_decoding", timer=clock)
def test_decoding(benchmark, contest, dtype, name, rows):
    """64 token per frase, sempre il più probabile, senza fermarsi prima."""
    config = MODELS[name]
    works = decoding_work(name, config, rows)
    runs = contestants(config, dtype, rows)
    contest(runs, READING, works, different=[READING], outside=[OURS, GRAPH])
    if "contestants" in benchmark.extra_info:
        benchmark.extra_info.update(per_token(benchmark.extra_info, rows))


def beam_work(config: TransformerConfig, beam: int) -> Work:
    """Una frase, `beam` ipotesi: gli stessi pesi, `beam` volte i conti e le cache del decoder."""
    one = decoding_work("base", config, beam)
    return Work(
        label=f"base, 1 frase, {beam} ipotesi",
        shape={**one.shape, "batch": 1, "beam": beam},
        flops=products(config, LENGTH, beam * LENGTH, LENGTH),
        numbers=one.numbers,
    )


@ONE_DTYPE
@pytest.mark.skipif(DEVICE == "cpu", reason="su CPU la beam search si misura in s6_1_beam")
@pytest.mark.benchmark(group="s6_1_decoding_beam", timer=clock)
def test_beam_decoding(benchmark, contest, dtype):
    """Una frase, quattro ipotesi, operazione per operazione: la CPU sta in mezzo a ogni token."""
    from attention.s6_1_machine_translation import BEAM, beam_search

    model = endless(BASE, dtype)
    source = torch.randint(3, BASE.vocabulary, (1, LENGTH), device=DEVICE)
    weights = torch.randn(weights_per_token(on_meta(BASE)), device=DEVICE, dtype=dtype)
    runs = {
        "beam_search": lambda: beam_search(model, source, extra=0),
        EAGER: lambda: model.generate(source, extra=0),
        READING: lambda: [weights.sum() for _ in range(LENGTH)],
    }
    contest(runs, READING, beam_work(BASE, BEAM), different=[EAGER, READING])
    if "contestants" in benchmark.extra_info:
        benchmark.extra_info.update(per_token(benchmark.extra_info, 1))
