"""§5.4: la perdita con il label smoothing.

Alla risposta giusta si chiede una probabilità 1 − ε, e il resto si divide fra tutte le voci: il
modello impara a essere meno sicuro. L'altra regolarizzazione, il dropout residuo, sta dove agisce,
in §3.1 e in §3.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attention.s0_abstract import require
from attention.s3_model_architecture import Transformer, check_size
from attention.s5_1_data_batching import Batch

SMOOTHING = 0.1
"""ε_ls: la probabilità tolta al token giusto e divisa fra tutte le voci."""


def smoothed_target(
    token: int, vocabulary: int, epsilon: float = SMOOTHING
) -> Float[Tensor, " vocabulary"]:
    """§5.4 ¶3: la distribuzione che si chiede al modello: (1 − ε) · token + ε/V ovunque.

    Serve a dire che cosa si minimizza: durante l'addestramento nessuno la costruisce.

    Argomenti:
        token: quello giusto, da 0 a vocabulary − 1.
        vocabulary: V, quante voci.
        epsilon: ε_ls.

    Restituisce:
        V probabilità, in doppia precisione.

    Solleva:
        TypeError, ValueError: se il token non è nel vocabolario, o ε fra 0 e 1.
    """
    check_size(vocabulary, "vocabulary")
    check_size(token, "token", lowest=0)
    require(token < vocabulary, "token", token, f"da 0 a {vocabulary - 1}")
    check_smoothing(epsilon)
    target = torch.full((vocabulary,), epsilon / vocabulary, dtype=torch.float64)
    target[token] += 1 - epsilon
    return target


def check_smoothing(epsilon: float) -> None:
    """Una frazione: zero lascia la perdita com'è, uno cancellerebbe la risposta."""
    require(0 <= epsilon < 1, "epsilon", epsilon, "da 0 compreso a 1 escluso")


def lowest_loss(vocabulary: int, epsilon: float = SMOOTHING) -> float:
    """§5.4 ¶3: la perdita di un modello perfetto, l'entropia di `smoothed_target`, in nat.

    Solleva:
        TypeError, ValueError: come `smoothed_target`.
    """
    return torch.special.entr(smoothed_target(0, vocabulary, epsilon)).sum().item()


def token_losses(
    chosen: Float[Tensor, "*shape"],
    average: Float[Tensor, "*shape"],
    epsilon: float = SMOOTHING,
) -> Float[Tensor, "*shape"]:
    """§5.4 ¶3: l'entropia incrociata fra `smoothed_target` e il modello, token per token.

    Argomenti:
        chosen: log p del token giusto.
        average: la media di log p su tutto il vocabolario.
        epsilon: ε_ls.

    Restituisce:
        −(1 − ε) · chosen − ε · average, in nat.

    Solleva:
        ValueError: se ε non è fra 0 e 1.
    """
    check_smoothing(epsilon)
    return -(1 - epsilon) * chosen - epsilon * average


class BatchLoss(NamedTuple):
    """Ciò che un batch dà all'addestramento: somme, non medie, così i batch si sommano.

    Argomenti:
        smoothed: la somma delle perdite; di questa si fa la derivata.
        plain: la somma dei −log p del token giusto, senza label smoothing e senza derivata.
        tokens: quanti token, padding escluso.
    """

    smoothed: Float[Tensor, ""]
    plain: Float[Tensor, ""]
    tokens: Int[Tensor, ""]


def batch_loss(model: Transformer, batch: Batch, epsilon: float = SMOOTHING) -> BatchLoss:
    """La perdita di un modello su un batch; il padding non conta.

    Argomenti:
        model: il modello; con il dropout, se è in addestramento.
        batch: le frasi; `batch.expected` sono i token da indovinare.
        epsilon: ε_ls.

    Restituisce:
        Tre numeri, ciascuno in un tensore.

    Solleva:
        TypeError, ValueError: come `Transformer.score` e `token_losses`.
    """
    chosen, average = model.score(batch.source, batch.target, batch.expected)
    real = batch.expected != model.config.padding_id
    losses = token_losses(chosen, average, epsilon)
    plain = -chosen.detach()
    return BatchLoss(losses.where(real, 0).sum(), plain.where(real, 0).sum(), real.sum())


def perplexity(plain: float, tokens: int) -> float:
    """e elevato alla media di −log p: infinita, se trabocca.

    Argomenti:
        plain: la somma dei −log p, in nat, senza label smoothing.
        tokens: di quanti token, almeno 1.

    Solleva:
        TypeError, ValueError: se `tokens` non è un intero, almeno 1.
    """
    check_size(tokens, "tokens")
    return torch.tensor(plain / tokens, dtype=torch.float64).exp().item()
