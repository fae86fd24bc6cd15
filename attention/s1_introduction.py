"""§1: la ricorrenza, la catena dei suoi n passi e il grafo delle dipendenze di un calcolo.

Una rete ricorrente calcola lo stato h_t dal precedente e dall'ingresso x_t, una posizione dopo
l'altra. Quanto di un calcolo si possa eseguire insieme lo dice il grafo delle sue dipendenze: la
catena più lunga è il minor numero di passi, e aggiungere processori non l'accorcia.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping
from dataclasses import dataclass
from functools import reduce
from graphlib import CycleError, TopologicalSorter

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from attention.s0_abstract import require


def recurrence(
    f: Callable[[Tensor, Tensor], Tensor],
    h_0: Float[Tensor, "*batch d"],
    x: Float[Tensor, "*batch n d_in"],
) -> Float[Tensor, "*batch n d"]:
    """§1 ¶2: h_t = f(h_{t−1}, x_t), per t da 1 a n: ogni giro aspetta il precedente.

    Argomenti:
        f: il passo; riceve lo stato precedente e l'ingresso di una posizione.
        h_0: lo stato da cui si parte, forma [..., d].
        x: un ingresso per posizione, forma [..., n, d_in].

    Restituisce:
        Gli stati h_1 … h_n, forma [..., n, d].

    Solleva:
        ValueError: se non c'è nessuna posizione.
    """
    require(x.size(-2) >= 1, "x", "nessuna posizione", "almeno una")
    h, states = h_0, []
    for x_t in x.unbind(-2):
        h = f(h, x_t)
        states.append(h)
    return torch.stack(states, dim=-2)


@dataclass(frozen=True)
class Elman:
    """§1 ¶2: il passo più semplice, f(h, x) = tanh(x W_x + h W_h + b), della rete di Elman.

    Argomenti:
        w_x: forma [d_in, d].
        w_h: forma [d, d].
        b: forma [d].

    Solleva:
        ValueError: se le tre forme non si accordano.
    """

    w_x: Float[Tensor, "d_in d"]
    w_h: Float[Tensor, "d d"]
    b: Float[Tensor, " d"]

    def __post_init__(self) -> None:
        d = self.w_h.size(0)
        require(self.w_h.shape == (d, d), "w_h", list(self.w_h.shape), f"{[d, d]}")
        require(self.w_x.shape[1:] == (d,), "w_x", list(self.w_x.shape), f"[d_in, {d}], come w_h")
        require(self.b.shape == (d,), "b", list(self.b.shape), f"{[d]}, come w_h")

    def __call__(
        self, h: Float[Tensor, "*batch d"], x: Float[Tensor, "*batch d_in"]
    ) -> Float[Tensor, "*batch d"]:
        """Il passo: due prodotti vettore–matrice, la somma, la tangente iperbolica.

        Solleva:
            ValueError: se lo stato o l'ingresso non hanno la larghezza delle matrici.
        """
        for vector, argument, matrix in ((h, "h", self.w_h), (x, "x", self.w_x)):
            found, wanted = vector.size(-1), matrix.size(0)
            require(found == wanted, argument, f"larghezza {found}", f"{wanted}")
        return torch.tanh(x @ self.w_x + h @ self.w_h + self.b)

    def jacobian(self, h: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d d"]:
        """∂h_t / ∂h_{t−1} = W_h · diag(1 − h_t²): riga, la componente di partenza."""
        return self.w_h * (1 - h.square()).unsqueeze(-2)

    def chain(self, states: Float[Tensor, "n d"]) -> Float[Tensor, "d d"]:
        """∂h_n / ∂h_0: il prodotto degli n jacobiani, uno per passo, nell'ordine dei passi."""
        return reduce(torch.matmul, self.jacobian(states))


Graph = Mapping[Hashable, Collection[Hashable]]
"""Per ogni valore da calcolare, i valori che gli servono; quelli senza una voce sono ingressi."""


def levels(graph: Graph) -> dict[Hashable, int]:
    """Per ogni valore, il primo passo in cui può essere pronto; gli ingressi lo sono al passo 0.

    Solleva:
        ValueError: se un valore, attraverso altri, aspetta sé stesso.
    """
    level: dict[Hashable, int] = {}
    try:
        for value in TopologicalSorter(graph).static_order():
            awaited = (level[source] for source in graph.get(value, ()))
            level[value] = 1 + max(awaited, default=0) if value in graph else 0
    except CycleError as error:
        raise ValueError(
            f"graph: dato: un ciclo, {error.args[1]}; atteso: un grafo senza cicli"
        ) from error
    return level


def depth(graph: Graph) -> int:
    """La catena più lunga: il minor numero di passi, con tutti i processori che si vogliono.

    Argomenti:
        graph: per ogni valore da calcolare, quelli che gli servono. Un valore è qualunque cosa
            faccia da chiave, per esempio `("h", 3)`; quelli senza una voce sono ingressi.

    Restituisce:
        Quanti passi, uno dopo l'altro; 0 se non c'è nulla da calcolare.
    """
    return max(levels(graph).values(), default=0)


def widths(graph: Graph) -> list[int]:
    """Quanti valori si possono calcolare insieme a ogni passo, dal primo all'ultimo."""
    ready = Counter(levels(graph).values())
    return [ready[step] for step in range(1, depth(graph) + 1)]


def steps(graph: Graph, processors: int) -> int:
    """Quanti passi servono a un numero dato di processori, un livello del grafo alla volta.

    Con un processore solo sono tanti quanti i valori; con abbastanza processori, `depth(graph)`.

    Solleva:
        ValueError: se non c'è nemmeno un processore.
    """
    require(processors >= 1, "processors", processors, "almeno 1")
    return sum(-(-width // processors) for width in widths(graph))


def recurrence_graph(n: int) -> Graph:
    """§1 ¶2: h_t ha bisogno di h_{t−1} e di x_t. Gli stati stanno in fila."""
    return {("h", t): [("h", t - 1), ("x", t)] for t in range(1, n + 1)}


def linear_scan(
    a: Float[Tensor, "*batch n d"], b: Float[Tensor, "*batch n d"]
) -> Float[Tensor, "*batch n d"]:
    """h_t = a_t h_{t−1} + b_t con h_0 = 0, per tutti i t insieme, in ⌈log₂ n⌉ passi.

    Due passi di seguito, h → a h + b e poi h → a' h + b', sono un passo solo della stessa forma:
    h → a'a h + (a'b + b'). A ogni giro la coppia (a_t, b_t) si compone con quella che sta
    `distance` posizioni prima, che già ne riassume altrettante; prima dell'inizio c'è lo stato
    zero, cioè il passo (0, 0).
    """
    distance = 1
    while distance < a.size(-2):
        shift = (0, 0, distance, -distance)  # entrano zeri in testa, escono gli ultimi
        a, b = a * F.pad(a, shift), a * F.pad(b, shift) + b
        distance *= 2
    return b


def scan_graph(n: int) -> Graph:
    """Le dipendenze di `linear_scan`: ogni valore si compone con quello `distance` posti prima."""
    graph: dict[Hashable, list[Hashable]] = {}
    latest: list[Hashable] = [("x", t) for t in range(1, n + 1)]
    distance = 1
    while distance < len(latest):
        for t in reversed(range(distance, len(latest))):
            value = ("h", distance, t + 1)
            graph[value] = [latest[t - distance], latest[t]]
            latest[t] = value
        distance *= 2
    return graph


def attention_graph(n: int) -> Graph:
    """§1 ¶3: z_i ha bisogno di tutti gli ingressi, e di nessun'altra uscita."""
    inputs = [("x", j) for j in range(1, n + 1)]
    return {("z", i): inputs for i in range(1, n + 1)}


def convolution_graph(n: int, kernel: int) -> Graph:
    """Per confronto (§2): z_i ha bisogno dei k ingressi da i−k+1 a i, quelli che esistono.

    Solleva:
        ValueError: se la finestra è vuota.
    """
    require(kernel >= 1, "kernel", kernel, "almeno 1")
    return {
        ("z", i): [("x", j) for j in range(max(1, i - kernel + 1), i + 1)] for i in range(1, n + 1)
    }
