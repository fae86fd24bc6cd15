"""§5.1: dai token sul disco alle matrici dei batch, un giro intero di un corpus.

Lo fa la CPU, anche se il modello sta su una GPU: questa intanto aspetta, perciò il tempo di un
batch dev'essere una piccola parte di un passo. Le frasi sono parole a caso, con le lunghezze della
pagina di §5.1. Non ci sono conti: di ogni concorrente si pubblica il solo tempo.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from benchmarks.contest import DEVICE, ONLY_FP32, Run, Work, clock

pytest.importorskip("tokenizers", reason="§5.1 importa tokenizers")

from attention.s5_1_data_batching import (
    BUDGET,
    END,
    PADDING,
    START,
    Batch,
    Corpus,
    Vocabulary,
    prepare,
    token_batches,
)
from attention.s5_2_hardware_schedule import Feed, Processes

pytestmark = pytest.mark.skipif(DEVICE == "cuda", reason="i batch li forma la CPU")

PAIRS = 20_000
"""Le coppie del corpus: bastano perché in un batch siano quasi tutte della stessa lunghezza."""

WORDS = 400
"""Le parole diverse, un token ciascuna."""

LOADER, COPY = "DataLoader di PyTorch", "copia dei batch già fatti"
"""Il riferimento, con gli stessi batch e nello stesso processo; e il meno che si possa fare."""

SEED = 1
"""Da cui dipende l'ordine."""


def invented(folder: Path) -> Corpus:
    """Un corpus preparato."""
    random = np.random.default_rng(0)
    lengths = np.clip(random.lognormal(3.1, 0.6, PAIRS), 1, 150)
    others = np.clip(lengths * random.normal(1, 0.15, PAIRS), 1, 200)
    files = folder / "source", folder / "target"
    for file, counts in zip(files, (lengths, others), strict=True):
        rows = (random.integers(WORDS, size=int(count)) for count in counts)
        text = "".join(" ".join(f"w{word}" for word in row) + "\n" for row in rows)
        file.write_text(text, encoding="utf-8")
    vocabulary = Vocabulary.train((f"w{word} w{word}" for word in range(WORDS)), 4 * WORDS)
    prepare(*files, folder / "data", vocabulary, 256)
    return Corpus(folder / "data")


def contestants(corpus: Corpus) -> dict[str, Run]:
    """Chi fa un giro, dall'ordine delle coppie all'ultimo batch; il primo è il nostro."""
    alone = Processes(0, 1, torch.device("cpu"))

    def ours() -> list[Batch]:
        feed = Feed(corpus, BUDGET, SEED, alone)
        return [batch for _ in feed.batches for batch in feed.next_step()]

    def loaded() -> list[Batch]:
        lengths = corpus.source_lengths, corpus.target_lengths
        order = [batch.tolist() for batch in token_batches(*lengths, BUDGET, SEED, 0)]
        return [*DataLoader(corpus, batch_sampler=order, collate_fn=stacked)]

    ready = [matrix for batch in ours() for matrix in vars(batch).values()]
    return {"Feed": ours, LOADER: loaded, COPY: lambda: [matrix.clone() for matrix in ready]}


def stacked(pairs: list[tuple[np.ndarray, np.ndarray]]) -> Batch:
    """Un batch, con il riempimento di PyTorch."""
    start, end = torch.tensor([START]), torch.tensor([END])
    sources, targets = (
        [torch.from_numpy(side.astype(np.int64)) for side in sides]
        for sides in zip(*pairs, strict=True)
    )
    inputs = [torch.cat([start, target]) for target in targets]
    expected = [torch.cat([target, end]) for target in targets]
    return Batch(
        *(
            pad_sequence(rows, batch_first=True, padding_value=PADDING)
            for rows in (sources, inputs, expected)
        )
    )


def round_work(batches: list[Batch]) -> Work:
    """Ogni posto delle tre matrici si scrive una volta, e il suo token, di 2 byte, si legge."""
    matrices = [matrix for batch in batches for matrix in vars(batch).values()]
    places = sum(matrix.numel() for matrix in matrices)
    return Work(
        label=f"{len(batches)} batch",
        shape={"budget": BUDGET, "pairs": PAIRS, "batches": len(batches)},
        flops=places,
        numbers=places,
        bytes=places * (matrices[0].itemsize + 2),
    )


@ONLY_FP32
@pytest.mark.skipif(DEVICE == "cuda", reason="i batch li forma la CPU")
@pytest.mark.benchmark(group="s5_1_feed", timer=clock)
def test_feed(contest, dtype, tmp_path):
    """Tutti i batch da circa 25 000 + 25 000 token di un corpus piccolo."""
    runs = contestants(invented(tmp_path))
    contest(runs, LOADER, round_work(runs[LOADER]()), different=runs)
