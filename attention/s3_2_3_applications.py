"""§3.2.3: i tre usi dell'attenzione nel modello, e le maschere.

Una maschera dice chi può guardare chi: vero = può guardare. Agisce sui punteggi, prima della
softmax, dove il divieto è −∞.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attention.s0_abstract import require
from attention.s3_2_1_scaled_dot_product import check_mask
from attention.s3_2_2_multi_head import MultiHeadAttention


def causal_mask(n: int, device: torch.device | None = None) -> Bool[Tensor, "{n} {n}"]:
    """§3.2.3 •c: la posizione i guarda le posizioni fino a i compresa.

    Argomenti:
        n: quante posizioni.
        device: dove costruirla.

    Restituisce:
        Forma [n, n]: vero sulla diagonale e sotto.

    Solleva:
        ValueError: se n è minore di 1.
    """
    require(n >= 1, "n", n, "almeno una posizione")
    return torch.ones(n, n, dtype=torch.bool, device=device).tril()


def padding_mask(tokens: Int[Tensor, "*batch n"], padding_id: int) -> Bool[Tensor, "*batch 1 n"]:
    """I token effettivi si possono guardare, il padding no: la stessa riga per ogni query.

    Argomenti:
        tokens: identificatori, forma [..., n].
        padding_id: l'identificatore del padding.

    Restituisce:
        Forma [..., 1, n], che si estende a [..., m, n] per qualunque m.

    Solleva:
        TypeError: se `tokens` non contiene interi.
    """
    kind = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
    integer = isinstance(tokens, Tensor) and not (
        tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool
    )
    require(integer, "tokens", kind, "un tensore di identificatori interi", TypeError)
    return (tokens != padding_id).unsqueeze(-2)


def encoder_decoder_attention(
    attention: MultiHeadAttention,
    target: Float[Tensor, "*batch m d_model"],
    memory: Float[Tensor, "*batch n d_model"],
    source_mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "*batch m d_model"]:
    """§3.2.3 •a: le query dal decoder, key e value dall'uscita dell'encoder.

    Argomenti:
        attention: l'attenzione a più teste del sotto-strato.
        target: l'uscita del sotto-strato precedente, l'auto-attenzione del decoder.
        memory: l'uscita dell'encoder.
        source_mask: la maschera di padding della sorgente.
    """
    return attention(target, memory, memory, source_mask)


def encoder_self_attention(
    attention: MultiHeadAttention,
    source: Float[Tensor, "*batch n d_model"],
    source_mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "*batch n d_model"]:
    """§3.2.3 •b: query, key e value dallo stesso posto; ogni posizione guarda tutte, sé compresa.

    Argomenti:
        attention: l'attenzione a più teste del sotto-strato.
        source: l'uscita dello strato precedente dell'encoder.
        source_mask: la maschera di padding della sorgente.
    """
    return attention(source, source, source, source_mask)


def decoder_self_attention(
    attention: MultiHeadAttention,
    target: Float[Tensor, "*batch m d_model"],
    target_mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "*batch m d_model"]:
    """§3.2.3 •c: query, key e value dallo stesso posto, ma nessuno guarda il futuro.

    Argomenti:
        attention: l'attenzione a più teste del sotto-strato.
        target: l'uscita dello strato precedente del decoder.
        target_mask: la maschera di padding della destinazione. Quando il padding sta in fondo non
            serve: le posizioni effettive non guardano comunque ciò che le segue.
    """
    if target_mask is None:
        return attention(target, target, target, causal=True)
    m = target.size(-2)
    check_mask(target_mask, (*target.shape[:-2], m, m))
    visible = causal_mask(m, target.device) & target_mask
    return attention(target, target, target, visible)
