"""§5.3, eq. (3): come si muovono i pesi, Adam e il suo tasso di apprendimento.

Adam ricorda, per ogni peso, due medie del suo gradiente: da che parte tira, e quanto è grande di
solito. Il rapporto non dipende dalla scala della perdita; di quanto ci si muove lo dice il tasso
di apprendimento, che cresce in proporzione al passo e poi cala come l'inverso della sua radice.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from attention.s0_abstract import require
from attention.s3_model_architecture import check_size

BETAS = (0.9, 0.98)
"""β_1 e β_2: quanto resta, a ogni passo, delle due medie di Adam."""

EPSILON = 1e-9
"""ε: ciò che Adam aggiunge alla radice perché non si divida per zero."""


def adam_update(
    parameter: Float[Tensor, "*shape"],
    gradient: Float[Tensor, "*shape"],
    first: Float[Tensor, "*shape"],
    second: Float[Tensor, "*shape"],
    step: int,
    rate: float,
    betas: tuple[float, float] = BETAS,
    epsilon: float = EPSILON,
) -> tuple[Float[Tensor, "*shape"], Float[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """§5.3 ¶1: un passo di Adam, una riga per ogni riga dell'algoritmo di [20].

    Argomenti:
        parameter: θ, i pesi prima del passo.
        gradient: g, la derivata della perdita rispetto a ciascuno.
        first: m, la media dei gradienti; prima del primo passo, zero.
        second: v, la media dei loro quadrati; prima del primo passo, zero.
        step: t, il numero del passo, da 1.
        rate: il tasso di apprendimento di questo passo.
        betas: β_1 e β_2, ciascuno da 0 a 1 escluso.
        epsilon: ε.

    Restituisce:
        θ, m e v dopo il passo, della stessa forma.

    Solleva:
        TypeError, ValueError: se `step` non è un intero, almeno 1.
    """
    check_size(step, "step")
    beta_1, beta_2 = betas
    first = beta_1 * first + (1 - beta_1) * gradient
    second = beta_2 * second + (1 - beta_2) * gradient.square()
    direction = first / (1 - beta_1**step)
    size = (second / (1 - beta_2**step)).sqrt()
    return parameter - rate * direction / (size + epsilon), first, second


WARMUP = 4000
"""warmup_steps: per quanti passi il tasso cresce."""


def learning_rate(step: int, d_model: int, warmup: int = WARMUP) -> float:
    """§5.3 ¶1, eq. (3): d_model^−0,5 · min(step^−0,5, step · warmup^−1,5).

    Argomenti:
        step: il numero del passo, da 1: a zero la formula non ha valore.
        d_model: la larghezza del modello.
        warmup: per quanti passi il tasso cresce.

    Restituisce:
        Il tasso di apprendimento di quel passo.

    Solleva:
        TypeError, ValueError: se uno dei tre non è un intero, almeno 1.
    """
    for name, value in (("step", step), ("d_model", d_model), ("warmup", warmup)):
        check_size(value, name)
    rising, falling = step * warmup**-1.5, step**-0.5
    return d_model**-0.5 * min(falling, rising)


def make_optimizer(model: nn.Module) -> torch.optim.Adam:
    """L'Adam di PyTorch con le costanti dell'articolo, in un kernel solo per tutti i pesi.

    Il tasso nasce zero: chi dimentica di metterlo, a ogni passo, non muove nulla e se ne accorge.
    """
    return torch.optim.Adam(model.parameters(), lr=0.0, betas=BETAS, eps=EPSILON, fused=True)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Il tasso del prossimo passo, per tutti i pesi.

    Solleva:
        ValueError: se il tasso è negativo, infinito o non è un numero.
    """
    require(0 <= rate < math.inf, "rate", rate, "un numero finito, almeno 0")
    for group in optimizer.param_groups:
        group["lr"] = rate
