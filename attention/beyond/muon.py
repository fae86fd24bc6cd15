"""Muon: muovere una matrice tutta insieme, di quanto basta in ogni direzione.

Adam muove ogni peso per conto suo. Una matrice però non è un mucchio di numeri: è una funzione, che
ruota e allunga i vettori, e il suo gradiente allunga molto poche direzioni e poco tutte le altre.
Muon pareggia gli allungamenti prima di muoversi. È il regime con cui il giocattolo si addestra in
circa tre minuti.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention.s0_abstract import require
from attention.s3_4_embeddings_softmax import SharedEmbedding
from attention.s3_model_architecture import check_size
from attention.s5_3_optimizer import BETAS
from attention.s5_3_optimizer import EPSILON as ADAM_EPSILON

# Gli allungamenti, pareggiati.

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c del polinomio ax + bx³ + cx⁵.

Ripetuto cinque volte, porta vicino a 1 i numeri da un centesimo in su.
"""

ROUNDS = 5
"""Quante volte si ripete."""

EPSILON = 1e-7
"""Ciò che si aggiunge alla lunghezza perché una matrice nulla non si divida per zero."""


def levelled(
    matrices: Float[Tensor, "*batch rows columns"], rounds: int = ROUNDS
) -> Float[Tensor, "*batch rows columns"]:
    """Le stesse matrici, con i valori singolari pareggiati: da un centesimo in su, vicino a 1.

    Con M = UΣVᵀ il polinomio di M, fatto di soli prodotti, è U(aΣ + bΣ³ + cΣ⁵)Vᵀ: le direzioni
    restano, gli allungamenti cambiano. Divisa prima per la sua lunghezza, M li ha fra 0 e 1. Ogni
    giro è X ← aX + (bG + cG²)X, con G = XXᵀ; `baddbmm` somma mentre moltiplica.

    Argomenti:
        matrices: quante se ne vuole, della stessa forma.
        rounds: quante volte si applica il polinomio.

    Solleva:
        TypeError, ValueError: se `rounds` non è un intero, almeno 1.
    """
    check_size(rounds, "rounds")
    a, b, c = COEFFICIENTS
    tall = matrices.size(-2) > matrices.size(-1)
    wide = matrices.mT if tall else matrices
    x = wide.reshape(-1, *wide.shape[-2:])
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + EPSILON)
    for _ in range(rounds):
        gram = x @ x.mT
        mixed = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, mixed, x, beta=a)
    x = x.reshape(wide.shape)
    return x.mT if tall else x


# L'ottimizzatore.

MOMENTUM = 0.9
"""Quanto resta, a ogni passo, della media dei gradienti di una matrice."""

SIZE = 0.2
"""Il valore efficace di uno spostamento, in tassi di apprendimento: circa quello di Adam."""


DECAY = 0.2
"""La frazione di sé che un peso perde a ogni passo, se il tasso è 1; in proporzione, se è meno."""


def inner_matrices(model: nn.Module) -> list[nn.Parameter]:
    """Le matrici da muovere con Muon: tutte, tranne le tabelle degli embedding.

    Una tabella tiene un vettore per riga, e ogni riga va per conto suo: la muove Adam.
    """
    tables = {id(it.weight) for it in model.modules() if isinstance(it, SharedEmbedding)}
    return [it for it in model.parameters() if it.dim() == 2 and id(it) not in tables]


class Muon(torch.optim.AdamW):
    """Muon per le matrici di un modello; per il resto, Adam con le costanti dell'articolo.

    Le matrici e le tabelle degli embedding, inoltre, decadono; i vettori no. Il tasso nasce zero,
    come quello di `make_optimizer`, ed è uno per tutti. Lo stato è quello di Adam per chi è mosso
    da Adam; per una matrice, la media dei suoi gradienti.

    Argomenti:
        model: il modello.

    Solleva:
        ValueError: se il modello non ha matrici da muovere.
    """

    def __init__(self, model: nn.Module):
        matrices = inner_matrices(model)
        require(len(matrices) > 0, "model", "nessuna matrice", "almeno una")
        chosen = {id(matrix) for matrix in matrices}
        others = [it for it in model.parameters() if id(it) not in chosen]
        groups: list[dict[str, Any]] = [
            {"params": matrices},
            {"params": [it for it in others if it.dim() == 2]},
            {"params": [it for it in others if it.dim() != 2], "weight_decay": 0.0},
        ]
        super().__init__(
            groups, lr=0.0, betas=BETAS, eps=ADAM_EPSILON, weight_decay=DECAY, fused=True
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Un passo: prima le matrici, poi, con il passo di Adam, il resto."""
        groups = self.param_groups
        matrices = [it for it in groups[0]["params"] if it.grad is not None]
        for _, group in itertools.groupby(sorted(matrices, key=shape), key=shape):
            self.move([*group], groups[0]["lr"])
        self.param_groups = groups[1:]
        super().step(closure)
        self.param_groups = groups

    def move(self, matrices: Sequence[nn.Parameter], rate: float) -> None:
        """Muove matrici della stessa forma.

        La media dei gradienti comprende già quello di oggi; lo si mescola un'altra volta, perché
        pesi di più: è il momento di Nesterov.
        """
        for matrix in matrices:
            if not self.state[matrix]:
                count, zero = torch.tensor(0.0), torch.zeros_like(matrix)
                self.state[matrix] = {"step": count, "momentum": zero}
        means = [self.state[matrix]["momentum"] for matrix in matrices]
        gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
        torch._foreach_lerp_(means, gradients, 1 - MOMENTUM)
        wanted = torch.stack(torch._foreach_lerp(gradients, means, MOMENTUM))
        distance = rate * SIZE * max(shape(matrices[0])) ** 0.5
        torch._foreach_mul_([*matrices], 1 - rate * DECAY)
        torch._foreach_sub_([*matrices], [*(distance * levelled(wanted))])


def shape(matrix: Tensor) -> tuple[int, ...]:
    """La forma di una matrice: quelle uguali si muovono insieme, con gli stessi prodotti."""
    return tuple(matrix.shape)


# Il tasso.


def falling_rate(step: int, steps: int, warmup: int, top: float) -> float:
    """Un tasso che sale per `warmup` passi, e scende in linea retta fino in fondo.

    La retta parte da `top` al primo passo; finché si sale, se ne prende una parte.

    Argomenti:
        step: il numero del passo, da 1 a `steps`.
        steps: l'ultimo passo; in quello seguente il tasso sarebbe zero.
        warmup: per quanti passi il tasso sale.
        top: il tasso da cui parte la retta; si raggiunge soltanto se `warmup` è 1.

    Solleva:
        TypeError, ValueError: se i primi tre non sono interi, almeno 1; se `step` viene dopo
            `steps`.
    """
    for name, value in (("step", step), ("steps", steps), ("warmup", warmup)):
        check_size(value, name)
    require(step <= steps, "step", step, f"al più steps = {steps}")
    return top * min(1.0, step / warmup) * (steps + 1 - step) / steps
