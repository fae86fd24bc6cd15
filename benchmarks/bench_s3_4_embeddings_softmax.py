"""§3.4: la lettura della tabella degli embedding, e lo strato d'uscita con la sua perdita.

La lettura non ha prodotti di matrici: un'operazione per numero, la moltiplicazione per √d_model.
I byte sono esatti: i token, tutti diversi, sono interi di 8 byte; ognuno legge la sua riga e la
scrive moltiplicata. Dello strato d'uscita si conta il solo prodotto con la tabella: la softmax
costa, ma non si conta; i punteggi, che non sono un risultato, non sono fra i byte.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention import SharedEmbedding, log_probabilities
from benchmarks.compiled import compiled
from benchmarks.contest import DEVICE, DTYPES, Run, Work, clock

VOCABULARY = 37_000
"""Le voci del vocabolario comune dell'articolo."""

SMOOTHING = 0.1
"""Il label smoothing di §5.4, con ε/V su ogni voce."""

TOKEN_BYTES = 8
"""Un token è un intero di 64 bit."""

LOOKUP, LOSS = "nn.Embedding", "F.cross_entropy"
"""I riferimenti: la tabella e la perdita di PyTorch, con gli stessi pesi."""

ONE_HOT, LOGITS = "prodotto con vettori indicatori", "soli punteggi"
"""Chi fa altro: legge la tabella moltiplicandola tutta; si ferma prima della perdita."""

LOOKUPS = {
    "cpu": [(torch.float32, 10, 768), (torch.float32, 512, 768)],
    "cuda": [*((dtype, 10, 768) for dtype in DTYPES), (torch.bfloat16, 25_000, 512)],
}[DEVICE]
"""Tipo, token e larghezza di una lettura."""

LOSSES = {
    "cpu": [(torch.float32, 10, 768), (torch.float32, 64, 768)],
    "cuda": LOOKUPS,
}[DEVICE]
"""Tipo, token e larghezza di uno strato d'uscita."""


def lookup_work(n: int, d: int, dtype: torch.dtype, vocabulary: int = VOCABULARY) -> Work:
    """Una moltiplicazione per numero; token, righe lette, righe scritte."""
    return Work(
        label=f"{n} × {d}",
        shape={"n": n, "d_model": d, "vocabulary": vocabulary},
        flops=n * d,
        numbers=2 * n * d,
        bytes=2 * n * d * dtype.itemsize + TOKEN_BYTES * n,
    )


def lookup_contestants(ours: SharedEmbedding, tokens: Tensor) -> dict[str, Run]:
    """Chi legge la tabella; il primo è il nostro, e l'unico che controlla i token."""
    vocabulary, d = ours.weight.shape
    root = math.sqrt(d)
    theirs = nn.Embedding.from_pretrained(ours.weight)

    def one_hot() -> Tensor:
        indicators = ours.weight.new_zeros(len(tokens), vocabulary)
        return indicators.scatter_(1, tokens.unsqueeze(1), 1) @ ours.weight * root

    return {
        "SharedEmbedding": lambda: ours(tokens),
        "righe scelte per indice": lambda: ours.weight[tokens] * root,
        LOOKUP: lambda: theirs(tokens) * root,
        ONE_HOT: one_hot,
    }


@pytest.mark.parametrize(("dtype", "n", "d"), LOOKUPS, indirect=["dtype"], ids=str)
@pytest.mark.benchmark(group="s3_4_embedding", timer=clock)
def test_embedding(contest, dtype, n, d):
    """Token tutti diversi, sparsi nella tabella: nessuna riga si trova già in cache."""
    ours = table(d, dtype)
    tokens = torch.randperm(VOCABULARY, device=DEVICE)[:n]
    contest(lookup_contestants(ours, tokens), LOOKUP, lookup_work(n, d, dtype), {ONE_HOT})


def table(d: int, dtype: torch.dtype) -> SharedEmbedding:
    """La tabella dell'articolo, larga d."""
    with torch.device(DEVICE):
        return SharedEmbedding(VOCABULARY, d).to(dtype)


def loss_work(n: int, d: int, dtype: torch.dtype, vocabulary: int = VOCABULARY) -> Work:
    """Il prodotto con la tabella; vettori, tabella e token entrano, un numero esce."""
    numbers = n * d + vocabulary * d + 1
    return Work(
        label=f"{n} × {d}, V = {vocabulary}",
        shape={"n": n, "d_model": d, "vocabulary": vocabulary},
        flops=2 * n * d * vocabulary,
        numbers=numbers,
        bytes=numbers * dtype.itemsize + TOKEN_BYTES * n,
    )


def loss_contestants(ours: SharedEmbedding, hidden: Tensor, tokens: Tensor) -> dict[str, Run]:
    """Chi calcola la perdita media, in avanti; il primo è il nostro."""
    return {
        "SharedEmbedding.score": lambda: our_loss(ours, hidden, tokens),
        "log_probabilities": lambda: elementary_loss(hidden, ours.weight, tokens),
        LOSS: lambda: F.cross_entropy(
            F.linear(hidden, ours.weight), tokens, label_smoothing=SMOOTHING
        ),
        LOGITS: lambda: F.linear(hidden, ours.weight),
    }


def our_loss(ours: SharedEmbedding, hidden: Tensor, tokens: Tensor) -> Tensor:
    """La perdita con la funzione dell'addestramento, che tiene una sola matrice di punteggi."""
    chosen, average = ours.score(hidden, tokens)
    return -((1 - SMOOTHING) * chosen + SMOOTHING * average).mean()


def elementary_loss(hidden: Tensor, weight: Tensor, tokens: Tensor) -> Tensor:
    """La perdita un'operazione alla volta: punteggi, logaritmi, il token giusto, la media."""
    logs = log_probabilities(hidden @ weight.T)
    chosen = logs.gather(1, tokens.unsqueeze(1)).squeeze(1)
    return -((1 - SMOOTHING) * chosen + SMOOTHING * logs.mean(dim=-1)).mean()


@pytest.mark.parametrize(("dtype", "n", "d"), LOSSES, indirect=["dtype"], ids=str)
@pytest.mark.benchmark(group="s3_4_output_layer", timer=clock)
def test_output_layer(contest, dtype, n, d):
    """Dai vettori del decoder alla perdita, con il label smoothing dell'articolo."""
    ours = table(d, dtype)
    hidden = torch.randn(n, d, device=DEVICE, dtype=dtype)
    tokens = torch.randint(VOCABULARY, (n,), device=DEVICE)
    runs = loss_contestants(ours, hidden, tokens)
    if DEVICE == "cuda" and (dtype, n, d) == LOSSES[-1]:
        runs |= compiled(our_loss, ours, hidden, tokens)
    contest(runs, LOSS, loss_work(n, d, dtype))
