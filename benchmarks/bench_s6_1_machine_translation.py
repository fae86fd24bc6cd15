"""§6.1: la generazione con la beam search, e quella di più frasi insieme, accanto alle librerie."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from attention import Transformer, TransformerConfig
from attention.s3_2_2_multi_head import packed_weights
from attention.s6_1_machine_translation import BEAM, beam_search
from benchmarks.bench_s3_model_architecture import (
    ANOTHER_PROCESS,
    LENGTH,
    READING,
    base,
    greedy_work,
    peers,
    products,
    weights_per_token,
)
from benchmarks.contest import DEVICE, ONLY_FP32, Run, Work, clock

pytestmark = [
    ONLY_FP32,
    pytest.mark.skipif(DEVICE == "cuda", reason="su GPU si genera in bench_s6_1_decoding.py"),
]
"""I modelli di queste gare stanno in FP32, e la macchina è una CPU."""

BATCH = 16
"""Le frasi che si generano insieme, ciascuna con il token più probabile."""


def beam_work(config: TransformerConfig) -> Work:
    """Una frase, `BEAM` ipotesi: le righe di ogni prodotto crescono, i pesi letti sono quelli."""
    return Work(
        label=f"1 frase, {BEAM} ipotesi",
        shape={"batch": 1, "beam": BEAM, "n": LENGTH, "m": LENGTH, "vocabulary": config.vocabulary},
        flops=products(config, LENGTH, BEAM * LENGTH, LENGTH),
        numbers=greedy_work(config).numbers,
    )


def batch_work(config: TransformerConfig) -> Work:
    """`BATCH` frasi insieme: anche qui i pesi si leggono una volta per token."""
    one = greedy_work(config)
    return Work(
        label=f"{BATCH} frasi, {LENGTH} token",
        shape={**one.shape, "batch": BATCH},
        flops=BATCH * one.flops,
        numbers=one.numbers,
    )


def contestants(config: TransformerConfig, folder: Path, batch: int, beam: int) -> dict[str, Run]:
    """Chi genera 64 token per frase, uno alla volta; il primo è il nostro."""
    ours = Transformer(config).to(DEVICE).eval()
    source = torch.randint(3, config.vocabulary, (batch, LENGTH), device=DEVICE)
    weights = torch.randn(weights_per_token(ours), device=DEVICE)
    generate = beamed if beam > 1 else greedy
    return {
        "Transformer": lambda: generate(ours, source),
        READING: lambda: [weights.sum() for _ in range(LENGTH)],
        **dict(peers(ours, source, folder, beam)),
    }


def beamed(model: Transformer, source: Tensor) -> Tensor:
    """Con la beam search dell'articolo, tanti token quanti quelli della sorgente."""
    found = [best.tokens for (best,) in beam_search(model, source, extra=0)]
    return whole(torch.tensor(found, device=source.device), model)


def greedy(model: Transformer, source: Tensor) -> Tensor:
    """Con il token più probabile, tanti token quanti quelli della sorgente."""
    return whole(model.generate(source, extra=0), model)


def whole(output: Tensor, model: Transformer) -> Tensor:
    """Gli stessi token, se nessuna frase è finita prima: agli altri si vieta di finire."""
    assert output.size(1) == LENGTH, "un simbolo di fine ha fermato la gara"
    assert (output != model.config.end_id).all(), "una frase è finita prima"
    return output


@pytest.mark.benchmark(group="s6_1_beam", timer=clock)
def test_beam_search(contest, dtype, tmp_path):
    """Una frase di 64 token, quattro ipotesi, 64 token generati, in FP32."""
    config = base(37_000)
    runs = contestants(config, tmp_path, 1, BEAM)
    with packed_weights():
        contest(
            runs,
            READING,
            beam_work(config),
            different=[READING],
            outside=[ANOTHER_PROCESS],
        )


@pytest.mark.benchmark(group="s6_1_greedy_batch", timer=clock)
def test_greedy_batch(contest, dtype, tmp_path):
    """Sedici frasi di 64 token, 64 token generati per ognuna, in FP32."""
    config = base(37_000)
    runs = contestants(config, tmp_path, BATCH, 1)
    with packed_weights():
        contest(
            runs,
            READING,
            batch_work(config),
            different=[READING],
            outside=[ANOTHER_PROCESS],
        )
