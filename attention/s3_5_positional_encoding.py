"""§3.5: la codifica posizionale, seno e coseno della posizione.

PE(pos, 2i) = sin(pos / 10000^(2i/d_model)), PE(pos, 2i+1) = cos dello stesso angolo. Ogni coppia
di componenti è la lancetta di un orologio: la prima fa un giro ogni 2π posizioni, l'ultima ogni
60 000 circa. Accanto, la variante appresa della tabella 3, riga (E).
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention.s0_abstract import require
from attention.s3_2_1_scaled_dot_product import check_float

WAVELENGTH_BASE = 10_000.0
"""Il 10000 dell'articolo: le lunghezze d'onda vanno da 2π verso 10000 · 2π."""


def frequencies(d_model: int, device: torch.device | None = None) -> Float[Tensor, " pairs"]:
    """Le velocità angolari ω_i = 10000^(−2i/d_model), in radianti per posizione.

    Argomenti:
        d_model: larghezza della codifica: due componenti per ogni frequenza.
        device: dove costruirle.

    Restituisce:
        d_model/2 numeri in doppia precisione, dal più grande, 1.

    Solleva:
        ValueError: se d_model non è pari e positivo.
    """
    even = d_model > 0 and d_model % 2 == 0
    require(even, "d_model", d_model, "un numero pari, due componenti per frequenza")
    pair = torch.arange(d_model // 2, dtype=torch.float64, device=device)
    return WAVELENGTH_BASE ** (-2 * pair / d_model)


def wavelengths(d_model: int) -> Float[Tensor, " pairs"]:
    """Dopo quante posizioni ogni sinusoide si ripete: λ_i = 2π / ω_i."""
    return 2 * math.pi / frequencies(d_model)


def sinusoids(
    length: int, d_model: int, start: int = 0, device: torch.device | None = None
) -> Float[Tensor, "length d_model"]:
    """§3.5 ¶2: la codifica delle posizioni start, …, start + length − 1.

    Argomenti:
        length: quante posizioni.
        d_model: larghezza, pari.
        start: la prima posizione; l'articolo conta da zero.
        device: dove costruirle.

    Restituisce:
        Forma [length, d_model], in doppia precisione, seno e coseno alternati.

    Solleva:
        ValueError: se d_model non è pari e positivo, o se `length` o `start` sono negativi.
    """
    require(length >= 0, "length", length, "almeno 0")
    require(start >= 0, "start", start, "almeno 0")
    position = torch.arange(start, start + length, dtype=torch.float64, device=device)
    angle = position[:, None] * frequencies(d_model, device)
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


def shift_matrix(offset: int, d_model: int) -> Float[Tensor, "d_model d_model"]:
    """§3.5 ¶3: la matrice M per cui PE(pos + offset) = M PE(pos), qualunque sia pos.

    È fatta di blocchi 2 × 2 sulla diagonale: la coppia i ruota dell'angolo offset · ω_i.

    Argomenti:
        offset: di quante posizioni spostarsi; anche negativo.
        d_model: larghezza, pari.

    Restituisce:
        Forma [d_model, d_model], in doppia precisione.
    """
    angle = offset * frequencies(d_model)
    sine, cosine = angle.sin(), angle.cos()
    rotations = torch.stack([cosine, sine, -sine, cosine], dim=-1).unflatten(-1, (2, 2))
    return torch.block_diag(*rotations)


class SinusoidalPositions(nn.Module):
    """La codifica dell'articolo nel modello: nessun parametro, nessuna lunghezza massima.

    Argomenti:
        d_model: larghezza, pari.

    Solleva:
        ValueError: se d_model non è pari e positivo.
    """

    def __init__(self, d_model: int):
        super().__init__()
        frequencies(d_model)
        self.d_model = d_model

    def forward(
        self, embeddings: Float[Tensor, "*batch n d_model"], start: int = 0
    ) -> Float[Tensor, "*batch n d_model"]:
        """§3.5 ¶1: gli embedding più la codifica delle loro posizioni, a partire da `start`.

        Solleva:
            TypeError, ValueError: se gli embedding non sono in virgola mobile, o non sono larghi
                d_model; se `start` è negativo.
        """
        check_embeddings(embeddings, self.d_model)
        table = sinusoids(embeddings.size(-2), self.d_model, start, embeddings.device)
        return embeddings + table.to(embeddings.dtype)


class LearnedPositions(nn.Module):
    """§3.5 ¶4: una riga appresa per ogni posizione, fino a `max_length`; oltre, non c'è riga.

    Argomenti:
        max_length: quante posizioni; l'articolo non dice quante ne avesse.
        d_model: larghezza.

    Solleva:
        ValueError: se una delle due misure è minore di 1.
    """

    def __init__(self, max_length: int, d_model: int):
        super().__init__()
        require(max_length >= 1, "max_length", max_length, "almeno una posizione")
        require(d_model >= 1, "d_model", d_model, "almeno 1")
        self.table = nn.Parameter(torch.empty(max_length, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Valori iniziali: normali, con lo stesso valore efficace delle sinusoidi, 1/√2."""
        nn.init.normal_(self.table, std=0.5**0.5)

    def forward(
        self, embeddings: Float[Tensor, "*batch n d_model"], start: int = 0
    ) -> Float[Tensor, "*batch n d_model"]:
        """Gli embedding più le righe delle loro posizioni, che cominciano da `start`.

        Solleva:
            TypeError, ValueError: come `SinusoidalPositions`; inoltre se una posizione non ha
                una riga.
        """
        check_embeddings(embeddings, self.table.size(1))
        require(start >= 0, "start", start, "almeno 0")
        stop, rows = start + embeddings.size(-2), self.table.size(0)
        require(stop <= rows, "embeddings", f"{stop} posizioni", f"al più {rows}, le righe apprese")
        return embeddings + self.table[start:stop]


def check_embeddings(embeddings: Tensor, width: int) -> None:
    """Vettori in virgola mobile, larghi quanto la codifica che vi si somma."""
    check_float(embeddings, "embeddings")
    given = embeddings.size(-1)
    require(given == width, "embeddings", f"larghezza {given}", f"{width}")
