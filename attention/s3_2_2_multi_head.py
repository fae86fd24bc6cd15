"""§3.2.2: l'attenzione a più teste.

MultiHead(Q, K, V) = Concat(head_1, …, head_h) W^O, con head_i = Attention(QW_i^Q, KW_i^K, VW_i^V).
Le h proiezioni dell'articolo sono fette di colonne di un'unica matrice: così le si può leggere
una per una, come nella formula, o eseguire tutte con un solo prodotto di matrici.
"""

import itertools

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attention.s3_2_1_scaled_dot_product import (
    attention_weights,
    check_float,
    check_problem,
    fused_kernel,
    scaled_dot_product_attention,
)
from attention.s3_2_attention import require


class MultiHeadAttention(nn.Module):
    """§3.2.2: h attenzioni in parallelo, ciascuna nel suo sottospazio, ricomposte da W^O.

    Argomenti:
        d_model: larghezza dei vettori in ingresso e in uscita.
        heads: h, quante teste.
        d_k: larghezza di query e key in una testa; se manca, d_model / h.
        d_v: larghezza dei value in una testa; se manca, d_model / h.
        bias: aggiunge un bias a ogni proiezione, come il codice pubblicato con l'articolo; la
            formula non ne ha.

    Solleva:
        ValueError: se una larghezza o il numero di teste è minore di 1, o se d_model non è
            divisibile per h quando d_k o d_v mancano.
    """

    def __init__(
        self,
        d_model: int,
        heads: int,
        d_k: int | None = None,
        d_v: int | None = None,
        *,
        bias: bool = False,
    ):
        super().__init__()
        require(heads >= 1, "heads", heads, "almeno una testa")
        divides = d_model % heads == 0 or (d_k is not None and d_v is not None)
        require(divides, "d_model", d_model, f"un multiplo di heads = {heads}, oppure d_k e d_v")
        self.d_model, self.heads = d_model, heads
        self.d_k = d_model // heads if d_k is None else d_k
        self.d_v = d_model // heads if d_v is None else d_v
        for name in ("d_model", "d_k", "d_v"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "almeno 1")
        columns = heads * (2 * self.d_k + self.d_v)
        self.w_qkv = nn.Parameter(torch.empty(d_model, columns))
        self.w_o = nn.Parameter(torch.empty(heads * self.d_v, d_model))
        self.b_qkv = nn.Parameter(torch.zeros(columns)) if bias else None
        self.b_o = nn.Parameter(torch.zeros(d_model)) if bias else None
        self.reset_parameters()

    def head(
        self,
        i: int,
        query: Float[Tensor, "*batch m d_model"],
        key: Float[Tensor, "*batch n d_model"],
        value: Float[Tensor, "*batch n d_model"],
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*batch m d_v"]:
        """head_i = Attention(QW_i^Q, KW_i^K, VW_i^V), la formula alla lettera; i parte da zero.

        Solleva:
            ValueError: se non c'è una testa numero i.
        """
        require(0 <= i < self.heads, "i", i, f"da 0 a {self.heads - 1}")
        self.check_inputs(query, key, value)
        w_q, w_k, w_v = (matrix[i] for matrix in self.projections)
        b_q, b_k, b_v = self.head_bias(i)
        return scaled_dot_product_attention(
            query @ w_q + b_q, key @ w_k + b_k, value @ w_v + b_v, mask
        )

    def head_bias(self, i: int) -> tuple[Tensor, Tensor, Tensor]:
        """I bias della testa i; zero se il modulo non ne ha."""
        if self.b_qkv is None:
            zero = self.w_qkv.new_zeros(())
            return zero, zero, zero
        query, key, value = self.b_qkv.split(self.widths)
        return tuple(bias.unflatten(0, (self.heads, -1))[i] for bias in (query, key, value))

    def forward_by_head(
        self,
        query: Float[Tensor, "*batch m d_model"],
        key: Float[Tensor, "*batch n d_model"],
        value: Float[Tensor, "*batch n d_model"],
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*batch m d_model"]:
        """MultiHead come la scrive l'articolo: una testa dopo l'altra, poi Concat e W^O."""
        heads = [self.head(i, query, key, value, mask) for i in range(self.heads)]
        return self.combine(torch.stack(heads, dim=-3))

    def combine(self, heads: Float[Tensor, "*batch h m d_v"]) -> Float[Tensor, "*batch m d_model"]:
        """Concat(head_1, …, head_h) W^O: le teste una accanto all'altra, poi l'ultimo prodotto."""
        output = heads.transpose(-3, -2).flatten(-2) @ self.w_o
        return output if self.b_o is None else output + self.b_o

    @property
    def widths(self) -> list[int]:
        """Quante colonne di `w_qkv` toccano a W^Q, a W^K e a W^V, di tutte le teste."""
        return [self.heads * self.d_k, self.heads * self.d_k, self.heads * self.d_v]

    @property
    def projections(self) -> tuple[Tensor, Tensor, Tensor]:
        """§3.2.2 ¶3: W^Q e W^K, forma [h, d_model, d_k], e W^V, forma [h, d_model, d_v]."""
        query, key, value = self.w_qkv.split(self.widths, dim=1)
        return tuple(
            matrix.unflatten(1, (self.heads, -1)).movedim(1, 0) for matrix in (query, key, value)
        )

    def reset_parameters(self) -> None:
        """Valori iniziali: uniformi, con la varianza di Glorot per ognuna delle quattro matrici.

        L'articolo non li dà; il codice pubblicato con l'articolo scala allo stesso modo, con la
        media fra ingressi e uscite.
        """
        for matrix in (*self.w_qkv.split(self.widths, dim=1), self.w_o):
            nn.init.xavier_uniform_(matrix)
        for bias in (self.b_qkv, self.b_o):
            if bias is not None:
                nn.init.zeros_(bias)

    def forward(
        self,
        query: Float[Tensor, "*batch m d_model"],
        key: Float[Tensor, "*batch n d_model"],
        value: Float[Tensor, "*batch n d_model"],
        mask: Bool[Tensor, "..."] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "*batch m d_model"]:
        """§3.2.2 ¶2: MultiHead(Q, K, V), con un prodotto per le proiezioni e il kernel fuso.

        Argomenti:
            query: forma [..., m, d_model].
            key, value: forma [..., n, d_model].
            mask: vero dove la query può guardare la key, uguale per tutte le teste; si estende
                a [..., m, n].
            causal: come in `fused_attention`.

        Restituisce:
            Forma [..., m, d_model].

        Solleva:
            TypeError, ValueError: se tipo o larghezza di un ingresso non sono quelli attesi.
        """
        q, k, v = self.project(query, key, value)
        batch = check_problem(query, key, value, mask, causal)
        heads = fused_kernel(q, k, v, (*batch, self.heads), over_heads(mask), causal)
        return self.combine(heads)

    def project(
        self,
        query: Float[Tensor, "*batch m d_model"],
        key: Float[Tensor, "*batch n d_model"],
        value: Float[Tensor, "*batch n d_model"],
    ) -> tuple[
        Float[Tensor, "*batch h m d_k"],
        Float[Tensor, "*batch h n d_k"],
        Float[Tensor, "*batch h n d_v"],
    ]:
        """QW_i^Q, KW_i^K, VW_i^V per tutte le teste: tre matrici affiancate, un prodotto solo.

        Quando i tre ingressi sono lo stesso tensore (auto-attenzione) basta un prodotto; quando
        lo sono key e value (attenzione encoder-decoder) ne bastano due.
        """
        self.check_inputs(query, key, value)
        q_end, k_end, end = itertools.accumulate(self.widths)
        if query is key and key is value:
            parts = self.columns(query, 0, end).split_with_sizes(self.widths, dim=-1)
        elif key is value:
            pair = self.columns(key, q_end, end).split_with_sizes(self.widths[1:], dim=-1)
            parts = (self.columns(query, 0, q_end), *pair)
        else:
            parts = (
                self.columns(query, 0, q_end),
                self.columns(key, q_end, k_end),
                self.columns(value, k_end, end),
            )
        q, k, v = (split_heads(part, self.heads) for part in parts)
        return q, k, v

    def columns(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Il prodotto con le colonne di `w_qkv` da `start` a `stop`."""
        projected = x @ self.w_qkv[:, start:stop]
        return projected if self.b_qkv is None else projected + self.b_qkv[start:stop]

    def weights(
        self,
        query: Float[Tensor, "*batch m d_model"],
        key: Float[Tensor, "*batch n d_model"],
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*batch h m n"]:
        """I pesi di ogni testa, da disegnare: calcolati quando servono, mai conservati."""
        self.check_inputs(query, key, key)
        width = self.heads * self.d_k
        q = split_heads(self.columns(query, 0, width), self.heads)
        k = split_heads(self.columns(key, width, 2 * width), self.heads)
        return attention_weights(q, k, over_heads(mask))

    def check_inputs(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """Gli ingressi sono larghi d_model e del tipo dei pesi; con autocast decide PyTorch."""
        width, dtype = self.d_model, self.w_qkv.dtype
        like_parameters = f"{dtype}, come i parametri del modulo"
        for tensor, argument in ((query, "query"), (key, "key"), (value, "value")):
            check_float(tensor, argument)
            require(tensor.size(-1) == width, argument, f"larghezza {tensor.size(-1)}", f"{width}")
            same = tensor.dtype == dtype or torch.is_autocast_enabled(tensor.device.type)
            require(same, argument, tensor.dtype, like_parameters, TypeError)


def split_heads(
    x: Float[Tensor, "*batch rows columns"], heads: int
) -> Float[Tensor, "*batch h rows width"]:
    """Da h gruppi di colonne affiancati a h matrici: nessun numero si muove, cambia il passo."""
    return x.unflatten(-1, (heads, -1)).transpose(-3, -2)


def over_heads(mask: Bool[Tensor, "..."] | None) -> Bool[Tensor, "..."] | None:
    """La stessa maschera per tutte le teste: una dimensione lunga 1 dove stanno le teste."""
    if not isinstance(mask, Tensor) or mask.dim() < 3:
        return mask
    return mask.unsqueeze(-3)
