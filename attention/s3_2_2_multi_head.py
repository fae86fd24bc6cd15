"""§3.2.2: l'attenzione a più teste.

MultiHead(Q, K, V) = Concat(head_1, …, head_h) W^O, con head_i = Attention(QW_i^Q, KW_i^K, VW_i^V).
Le h proiezioni dell'articolo stanno una sotto l'altra in un'unica matrice: così le si può leggere
una per una, come nella formula, o eseguire tutte con un solo prodotto di matrici. Ogni matrice W
è conservata trasposta, una riga per uscita: gli stessi byte della W dell'articolo in Fortran.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attention.s0_abstract import require
from attention.s3_2_1_scaled_dot_product import (
    attention_weights,
    check_float,
    check_problem,
    fused_kernel,
    scaled_dot_product_attention,
)


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
        rows = heads * (2 * self.d_k + self.d_v)
        self.w_qkv = nn.Parameter(torch.empty(rows, d_model))
        self.w_o = nn.Parameter(torch.empty(d_model, heads * self.d_v))
        self.b_qkv = nn.Parameter(torch.zeros(rows)) if bias else None
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
        return linear(heads.transpose(-3, -2).flatten(-2), self.w_o, self.b_o)

    @property
    def widths(self) -> list[int]:
        """Quante righe di `w_qkv` toccano a W^Q, a W^K e a W^V, di tutte le teste."""
        return [self.heads * self.d_k, self.heads * self.d_k, self.heads * self.d_v]

    @property
    def projections(self) -> tuple[Tensor, Tensor, Tensor]:
        """§3.2.2 ¶3: W^Q e W^K, forma [h, d_model, d_k], e W^V, forma [h, d_model, d_v]."""
        query, key, value = self.w_qkv.split(self.widths)
        return tuple(matrix.unflatten(0, (self.heads, -1)).mT for matrix in (query, key, value))

    def reset_parameters(self) -> None:
        """Valori iniziali: uniformi, con la varianza di Glorot per ognuna delle quattro matrici.

        L'articolo non li dà; il codice pubblicato con l'articolo scala allo stesso modo, con la
        media fra ingressi e uscite.
        """
        for matrix in (*self.w_qkv.split(self.widths), self.w_o):
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
        check_problem(query, key, value, mask, causal)
        return self.attend(q, k, v, mask, causal)

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
        """QW_i^Q, KW_i^K, VW_i^V per tutte le teste: tre matrici impilate, un prodotto solo.

        Quando i tre ingressi sono lo stesso tensore (auto-attenzione) basta un prodotto; quando
        lo sono key e value (attenzione encoder-decoder) ne bastano due.
        """
        self.check_inputs(query, key, value)
        if query is key and key is value:
            q, k, v = self.roles(query, 0, 3)
        elif key is value:
            q, k, v = *self.roles(query, 0, 1), *self.roles(key, 1, 3)
        else:
            q, k, v = *self.roles(query, 0, 1), *self.roles(key, 1, 2), *self.roles(value, 2, 3)
        return q, k, v

    def roles(self, x: Tensor, first: int, last: int) -> list[Tensor]:
        """I ruoli di x da `first` a `last` escluso, divisi in teste: 0 query, 1 key, 2 value."""
        weight: Tensor = self.w_qkv
        bias: Tensor | None = self.b_qkv
        if last - first < 3:
            rows = slice(sum(self.widths[:first]), sum(self.widths[:last]))
            weight, bias = weight[rows], None if bias is None else bias[rows]
        projected = linear(x, weight, bias)
        parts = projected.split_with_sizes(self.widths[first:last], dim=-1)
        return [split_heads(part, self.heads) for part in parts]

    def attend(
        self,
        query: Float[Tensor, "*batch h m d_k"],
        key: Float[Tensor, "*batch h n d_k"],
        value: Float[Tensor, "*batch h n d_v"],
        mask: Bool[Tensor, "..."] | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "*batch m d_model"]:
        """Da query, key e value già proiettati e già controllati: le h attenzioni, poi W^O."""
        batch = tuple(query.shape[:-2])
        return self.combine(fused_kernel(query, key, value, batch, over_heads(mask), causal))

    def weights(
        self,
        query: Float[Tensor, "*batch m d_model"],
        key: Float[Tensor, "*batch n d_model"],
        mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*batch h m n"]:
        """I pesi di ogni testa, da disegnare: calcolati quando servono, mai conservati."""
        self.check_inputs(query, key, key)
        (q,), (k,) = self.roles(query, 0, 1), self.roles(key, 1, 2)
        return attention_weights(q, k, over_heads(mask))

    def check_inputs(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        """I tre ingressi sono adatti alle proiezioni."""
        for tensor, argument in ((query, "query"), (key, "key"), (value, "value")):
            check_vectors(tensor, argument, self.w_qkv)


def check_vectors(vectors: Tensor, argument: str, weight: Tensor) -> None:
    """Vettori larghi quanto le righe dei pesi, e del loro tipo; con autocast decide PyTorch."""
    check_float(vectors, argument)
    given, width = vectors.size(-1), weight.size(-1)
    require(given == width, argument, f"larghezza {given}", f"{width}")
    same = vectors.dtype == weight.dtype or torch.is_autocast_enabled(vectors.device.type)
    expected = f"{weight.dtype}, come i parametri del modulo"
    require(same, argument, vectors.dtype, expected, TypeError)


def linear(
    x: Float[Tensor, "*batch columns"],
    weight: Float[Tensor, "rows columns"],
    bias: Float[Tensor, " rows"] | None = None,
) -> Float[Tensor, "*batch rows"]:
    """xW + b, con W conservata trasposta: una riga di `weight` per ogni uscita."""
    packs = None if torch.compiler.is_compiling() else PACKS.get()
    if packs is None or not is_packable(x, weight):
        return F.linear(x, weight, bias)
    key = (weight.data_ptr(), weight.shape)
    if key not in packs:
        packs[key] = weight, torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    return torch.ops.mkldnn._linear_pointwise(x, packs[key][1], bias, "none", [], "")


PACKS: ContextVar[dict[tuple[int, torch.Size], tuple[Tensor, Tensor]] | None] = ContextVar(
    "PACKS", default=None
)
"""Dentro `packed_weights`: da indirizzo e forma di una matrice, la matrice e il suo pacco."""

LARGE = 2**17
"""Quanti numeri ha almeno una matrice che conviene impacchettare: misurato."""


@contextmanager
def packed_weights() -> Iterator[None]:
    """Finché dura il blocco i pesi non cambiano: ogni matrice grande si impacchetta una volta.

    Il pacco è una copia nell'ordine in cui il prodotto la legge. Lo si fa al primo prodotto e lo
    si butta alla fine del blocco; intanto la memoria dei pesi raddoppia. Un blocco dentro un altro
    si serve dei pacchi di fuori.
    """
    outside = PACKS.get()
    token = PACKS.set({} if outside is None else outside)
    try:
        yield
    finally:
        PACKS.reset(token)


def is_packable(x: Tensor, weight: Tensor) -> bool:
    """Vero se oneDNN sa moltiplicare x per il pacco, e conviene: su CPU, in FP32, per l'uso."""
    plain = all(t.dtype == torch.float32 and t.device.type == "cpu" for t in (x, weight))
    large = weight.numel() >= LARGE and weight.is_contiguous()
    using = not torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")
    return plain and large and using and torch.backends.mkldnn.is_available()


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
