"""§3.2.2: l'attenzione a più teste.

MultiHead(Q, K, V) = Concat(head_1, …, head_h) W^O, con head_i = Attention(QW_i^Q, KW_i^K, VW_i^V).
Le h proiezioni dell'articolo stanno una sotto l'altra in un'unica matrice: così le si può leggere
una per una, come nella formula, o eseguire tutte con un solo prodotto di matrici. Ogni matrice W
è conservata trasposta, una riga per uscita: gli stessi byte della W dell'articolo in Fortran.
"""

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
    if is_slim(x, weight):
        product = slim_product(x.reshape(-1, x.size(-1)), weight).view(*x.shape[:-1], -1)
        return product if bias is None else product + bias
    return F.linear(x, weight, bias)


def is_slim(x: Tensor, weight: Tensor) -> bool:
    """Vero per le poche righe di un passo di generazione: su CPU, in FP32, senza gradienti.

    Quante siano poche si è misurato: fino a 4, e fino a 10 se la matrice non sta nella cache.
    """
    if torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    few = 4 if weight.numel() < 2**22 else 10
    plain = x.dtype == torch.float32 and x.device.type == "cpu"
    return plain and 0 < x.numel() <= few * x.size(-1) and not torch.is_autocast_enabled("cpu")


LONG = 2048
"""Da quante colonne una riga è lunga: 8192 byte, cioè due pagine di memoria fra una e l'altra."""

PARTS = 8
"""In quante parti si divide una matrice con le righe lunghe: i core che la leggono insieme."""


def slim_product(
    x: Float[Tensor, "few columns"], weight: Float[Tensor, "rows columns"]
) -> Float[Tensor, "few rows"]:
    """xW con gli operandi scambiati, (Wᵀxᵀ)ᵀ: per poche righe le BLAS lo fanno più in fretta.

    Il tempo è quello di leggere la matrice, e il prodotto diritto la legge male: con un core solo.
    Lo scambiato vuole almeno due colonne: una riga sola si raddoppia, o si piega a metà se è lunga.
    Più righe lunghe si moltiplicano diritte, ma per `PARTS` parti della matrice insieme.
    """
    few, columns = x.shape
    if few > 1 and columns >= LONG and len(weight) % PARTS == 0:
        parts = torch.bmm(x.expand(PARTS, -1, -1), weight.unflatten(0, (PARTS, -1)).mT)
        return parts.transpose(0, 1).reshape(few, -1)
    if few > 1:
        return (weight @ x.mT).mT.contiguous()
    if columns < LONG or columns % 2:
        return (weight @ torch.cat([x, x]).mT)[:, :1].mT.contiguous()
    halves = weight.reshape(-1, columns // 2) @ x.view(2, -1).mT
    return halves.view(-1, 2, 2).diagonal(dim1=1, dim2=2).sum(dim=-1).unsqueeze(0)


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
