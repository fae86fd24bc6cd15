"""§4: perché l'auto-attenzione, cioè la tabella 1, come funzioni che si eseguono e si contano.

Gli strati che l'articolo confronta portano x_1, …, x_n in z_1, …, z_n, vettori larghi d. Qui ci
sono tutti, senza nient'altro intorno; un contatore li guarda lavorare; la tabella è un dato, e
ogni sua casella ha accanto il numero esatto che la O nasconde.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.functional import jacobian
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from attention.s0_abstract import require
from attention.s1_introduction import recurrence
from attention.s2_background import (
    attention_hops,
    contiguous_hops,
    dilated_hops,
    restricted_hops,
)
from attention.s3_2_1_scaled_dot_product import (
    check_float,
    check_like,
    scaled_dot_product_attention,
)

Layer = Callable[[Tensor], Tensor]
"""§4 ¶1: uno strato; da x_1, …, x_n a z_1, …, z_n, forma [n, d] prima e dopo."""


def self_attention(x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """L'auto-attenzione come la conta la tabella 1: l'eq. (1) con Q = K = V = x, e basta.

    Solleva:
        TypeError, ValueError: se x non è un tensore [n, d] in virgola mobile.
    """
    check_sequence(x)
    return scaled_dot_product_attention(x, x, x)


def recurrent(
    x: Float[Tensor, "n d"], w_x: Float[Tensor, "d d"], w_h: Float[Tensor, "d d"]
) -> Float[Tensor, "n d"]:
    """La ricorrenza più semplice: h_t = tanh(x_t W_x + h_{t−1} W_h), con h_0 = 0.

    I prodotti x_t W_x non dipendono dallo stato: si fanno tutti insieme, prima. Restano in fila
    quelli per W_h.

    Argomenti:
        x: la sequenza, forma [n, d].
        w_x, w_h: le due matrici, forma [d, d].

    Restituisce:
        Gli stati h_1, …, h_n, forma [n, d].

    Solleva:
        TypeError, ValueError: se tipi e forme non si accordano.
    """
    d = check_sequence(x)
    check_shape(w_x, "w_x", x, (d, d))
    check_shape(w_h, "w_h", x, (d, d))
    return recurrence(lambda h, row: torch.tanh(row + h @ w_h), x.new_zeros(d), x @ w_x)


def convolutional(
    x: Float[Tensor, "n d"], kernel: Float[Tensor, "k d d"], dilation: int = 1
) -> Float[Tensor, "n d"]:
    """Una convoluzione causale: z_i somma k righe, l'ultima è x_i, ciascuna con la sua matrice.

    Argomenti:
        x: la sequenza, forma [n, d]; prima del suo inizio ci sono zeri.
        kernel: le k matrici, forma [k, d, d]; l'ultima è quella di x_i.
        dilation: la distanza fra due righe lette; 1 per la convoluzione contigua.

    Restituisce:
        Forma [n, d].

    Solleva:
        TypeError, ValueError: se tipi e forme non si accordano, o se la distanza è minore di 1.
    """
    d = check_sequence(x)
    k = check_kernel(kernel, x, (d, d))
    require(dilation >= 1, "dilation", dilation, "almeno 1")
    rows, _ = neighbours(x, dilation * torch.arange(1 - k, 1, device=x.device))
    return rows.flatten(1) @ kernel.flatten(0, 1)


def neighbours(
    x: Float[Tensor, "n d"], offsets: Int[Tensor, " k"]
) -> tuple[Float[Tensor, "n k d"], Bool[Tensor, "n k"]]:
    """Per ogni posizione i, le righe x_{i + spostamento}, e se la sequenza arriva fin là.

    Fuori dalla sequenza ci sono zeri.
    """
    n = x.size(0)
    places = torch.arange(n, device=x.device).unsqueeze(1) + offsets
    inside = (places >= 0) & (places < n)
    rows = x[places.clamp(0, n - 1)]
    return rows.masked_fill(~inside.unsqueeze(2), 0.0), inside


PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.bmm)
"""I prodotti di matrici che PyTorch esegue per `@`: uno, o uno per elemento del batch."""


class Meter(TorchDispatchMode):
    """§4 ¶2: guarda un calcolo mentre si esegue; conta i prodotti e la catena più lunga.

    Si usa con `with`. Conta ciò che viene davvero eseguito, un'operazione di PyTorch alla volta.

    Attributi:
        multiply_adds: le moltiplicazioni, con la loro somma, nei prodotti di matrici.
        chain: quanti prodotti di matrici, al più, hanno dovuto aspettarsi l'uno con l'altro.
    """

    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds = self.chain = 0
        self.waited = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self,
        operation: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = operation(*args, **(kwargs or {}))
        inputs = [leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)]
        chain = max((self.waited.get(tensor, 0) for tensor in inputs), default=0)
        if operation.overloadpacket in PRODUCTS:
            left, right = inputs
            self.multiply_adds += left.numel() * right.size(-1)
            chain += 1
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.waited[leaf] = chain
        self.chain = max(self.chain, chain)
        return result


def reads(layer: Layer, x: Float[Tensor, "n d"]) -> Bool[Tensor, "n n"]:
    """§4 ¶3: vero in (i, j) se z_i dipende da x_j, cioè se fra le derivate una non è zero."""
    derivatives: Tensor = jacobian(layer, x, vectorize=True)
    return (derivatives != 0).any(dim=3).any(dim=1)


def far_gradient(layer: Layer, x: Float[Tensor, "n d"]) -> float:
    """§4 ¶3: la norma di Frobenius di ∂z_n/∂x_1, le derivate fra le due posizioni più lontane."""

    def last(first: Tensor) -> Tensor:
        return layer(torch.cat([first, x[1:]]))[-1]

    derivatives: Tensor = jacobian(last, x[:1], vectorize=True)
    return derivatives.norm().item()


@dataclass(frozen=True)
class Sizes:
    """Le quattro lettere della tabella 1.

    Argomenti:
        n: lunghezza della sequenza.
        d: larghezza dei vettori.
        k: larghezza del kernel di convoluzione.
        r: ampiezza dell'intorno dell'auto-attenzione ristretta, un numero dispari.
    """

    n: int
    d: int
    k: int
    r: int


@dataclass(frozen=True)
class Order:
    """Una casella della tabella 1.

    Argomenti:
        text: ciò che vi è scritto.
        growth: la funzione dentro la O.
        exact: il numero che la O riassume, per gli strati di questo modulo.
    """

    text: str
    growth: Callable[[Sizes], float]
    exact: Callable[[Sizes], int]


@dataclass(frozen=True)
class Row:
    """Una riga della tabella 1.

    Argomenti:
        layer: il tipo di strato.
        complexity: il costo per strato; il numero esatto è in moltiplicazioni.
        sequential: le operazioni sequenziali; il numero esatto è la catena di prodotti.
        path: il cammino massimo; il numero esatto è in strati, o in passi della ricorrenza.
    """

    layer: str
    complexity: Order
    sequential: Order
    path: Order


TABLE_1 = (
    Row(
        layer="auto-attenzione",
        complexity=Order("O(n²·d)", lambda s: s.n**2 * s.d, lambda s: 2 * s.n**2 * s.d),
        sequential=Order("O(1)", lambda s: 1, lambda s: 2),
        path=Order("O(1)", lambda s: 1, lambda s: attention_hops(s.n)),
    ),
    Row(
        layer="ricorrente",
        complexity=Order("O(n·d²)", lambda s: s.n * s.d**2, lambda s: 2 * s.n * s.d**2),
        sequential=Order("O(n)", lambda s: s.n, lambda s: s.n),
        path=Order("O(n)", lambda s: s.n, lambda s: s.n - 1),
    ),
    Row(
        layer="convoluzionale",
        complexity=Order("O(k·n·d²)", lambda s: s.k * s.n * s.d**2, lambda s: s.k * s.n * s.d**2),
        sequential=Order("O(1)", lambda s: 1, lambda s: 1),
        path=Order("O(log_k n)", lambda s: math.log(s.n, s.k), lambda s: dilated_hops(s.n, s.k)),
    ),
    Row(
        layer="auto-attenzione ristretta",
        complexity=Order("O(r·n·d)", lambda s: s.r * s.n * s.d, lambda s: 2 * s.r * s.n * s.d),
        sequential=Order("O(1)", lambda s: 1, lambda s: 2),
        path=Order("O(n/r)", lambda s: s.n / s.r, lambda s: restricted_hops(s.n, s.r)),
    ),
)
"""La tabella 1, riga per riga."""


def recurrent_multiply_adds(n: int, d: int, pairs: int = 1) -> int:
    """§4 ¶4: una ricorrenza con tante coppie W_x, W_h: 1 la semplice, 3 una GRU, 4 una LSTM."""
    return 2 * pairs * n * d**2


def attention_multiply_adds(n: int, d: int, projections: bool = False) -> int:
    """§4 ¶4: punteggi e somma pesata; con le proiezioni, anche W^Q, W^K, W^V e W^O, d × d."""
    return 2 * n**2 * d + (4 * n * d**2 if projections else 0)


def cheaper_below(d: int, pairs: int = 1, projections: bool = False) -> int:
    """§4 ¶4: l'auto-attenzione costa meno di una ricorrenza per n minore di questo numero.

    Da 2n²d + 4nd² < 2cnd², dove il secondo termine c'è solo con le proiezioni: n < (c − 2)d,
    oppure n < cd, con c coppie di matrici. Zero: non costa meno per nessuna n.
    """
    spared = pairs - 2 if projections else pairs
    return max(0, spared * d)


def restricted_self_attention(x: Float[Tensor, "n d"], r: int) -> Float[Tensor, "n d"]:
    """§4 ¶4: ogni posizione guarda sé stessa e (r − 1)/2 posizioni per lato.

    Il costo è 2·r·n·d: per ogni posizione si raccolgono le sue r righe, e la matrice n × n non
    esiste mai. Ai bordi le righe che mancano si calcolano lo stesso, e una maschera le toglie.

    Argomenti:
        x: la sequenza, forma [n, d].
        r: ampiezza dell'intorno, dispari.

    Restituisce:
        Forma [n, d].

    Solleva:
        TypeError, ValueError: se x non è [n, d], o se r non è un numero dispari positivo.
    """
    check_sequence(x)
    check_odd(r)
    rows, inside = neighbours(x, torch.arange(-(r // 2), r // 2 + 1, device=x.device))
    return scaled_dot_product_attention(x.unsqueeze(1), rows, rows, inside.unsqueeze(1)).squeeze(1)


def pairs_in_reach(n: int, r: int) -> int:
    """§4 ¶4: quante coppie (i, j) distano al più (r − 1)/2: r·n, meno quelle oltre i bordi."""
    check_odd(r)
    return sum(min(i, r // 2) + 1 + min(n - 1 - i, r // 2) for i in range(n))


CONTIGUOUS_PATH = Order("O(n/k)", lambda s: s.n / s.k, lambda s: contiguous_hops(s.n, s.k))
"""§4 ¶5: il cammino massimo con convoluzioni contigue, che nella tabella 1 non c'è."""


def separable_convolutional(
    x: Float[Tensor, "n d"], depthwise: Float[Tensor, "k d"], pointwise: Float[Tensor, "d d"]
) -> Float[Tensor, "n d"]:
    """§4 ¶5: prima ogni canale lungo le posizioni, per conto suo; poi una matrice fra i canali.

    Argomenti:
        x: la sequenza, forma [n, d]; prima del suo inizio ci sono zeri.
        depthwise: k pesi per canale, forma [k, d]; l'ultima riga è quella di x_i.
        pointwise: la matrice che mescola i canali, forma [d, d].

    Restituisce:
        Forma [n, d].

    Solleva:
        TypeError, ValueError: se tipi e forme non si accordano.
    """
    d = check_sequence(x)
    k = check_kernel(depthwise, x, (d,), "depthwise")
    check_shape(pointwise, "pointwise", x, (d, d))
    rows, _ = neighbours(x, torch.arange(1 - k, 1, device=x.device))
    channels = rows.permute(2, 0, 1) @ depthwise.T.unsqueeze(2)
    return channels.squeeze(2).T @ pointwise


SEPARABLE_COMPLEXITY = Order(
    "O(k·n·d + n·d²)",
    lambda s: s.k * s.n * s.d + s.n * s.d**2,
    lambda s: s.k * s.n * s.d + s.n * s.d**2,
)
"""§4 ¶5: il costo di uno strato a convoluzioni separabili, che nella tabella 1 non c'è."""


def feed_forward_multiply_adds(n: int, d: int, d_ff: int) -> int:
    """§4 ¶5: le due matrici dell'eq. (2), d × d_ff e d_ff × d, su n posizioni."""
    return 2 * n * d * d_ff


def check_sequence(x: Tensor) -> int:
    """Una sequenza [n, d] in virgola mobile, con almeno una posizione. Restituisce d."""
    check_float(x, "x")
    require(x.dim() == 2, "x", x.shape, "una forma [n, d]")
    require(x.numel() > 0, "x", x.shape, "n e d almeno 1")
    return x.size(1)


def check_shape(tensor: Tensor, argument: str, x: Tensor, shape: tuple[int, ...]) -> None:
    """Un tensore del tipo di x, della forma voluta."""
    check_like(tensor, argument, x, "x")
    require(tensor.shape == shape, argument, tensor.shape, f"{list(shape)}")


def check_kernel(
    kernel: Tensor, x: Tensor, element: tuple[int, ...], argument: str = "kernel"
) -> int:
    """Un kernel del tipo di x: k elementi della forma voluta. Restituisce k."""
    check_like(kernel, argument, x, "x")
    k = kernel.size(0)
    expected = ["k", *map(str, element)]
    right = k > 0 and kernel.shape[1:] == element
    require(right, argument, kernel.shape, f"[{', '.join(expected)}], con k almeno 1")
    return k


def check_odd(r: int) -> None:
    """Un intorno centrato: tante posizioni a sinistra quante a destra, più la propria."""
    require(r >= 1 and r % 2 == 1, "r", r, "un numero dispari positivo")
