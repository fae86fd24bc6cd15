"""§3.3, eq. (2): la rete feed-forward, posizione per posizione.

FFN(x) = max(0, xW_1 + b_1) W_2 + b_2: si allarga, si azzera ciò che è negativo, si torna alla
larghezza di prima. Ogni riga di x, cioè ogni posizione, passa per gli stessi pesi senza guardare
le altre. Tre forme, lo stesso significato: la formula, il modulo, le due convoluzioni.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from attention.s0_abstract import require
from attention.s3_2_2_multi_head import check_vectors, linear


def relu(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """max(0, x), numero per numero: i positivi passano, i negativi diventano zero."""
    return x.relu()


def feed_forward(
    x: Float[Tensor, "*batch n d_model"],
    w_1: Float[Tensor, "d_model d_ff"],
    b_1: Float[Tensor, " d_ff"],
    w_2: Float[Tensor, "d_ff d_model"],
    b_2: Float[Tensor, " d_model"],
) -> Float[Tensor, "*batch n d_model"]:
    """§3.3 ¶1, eq. (2) alla lettera: max(0, xW_1 + b_1) W_2 + b_2.

    Argomenti:
        x: una riga per posizione, forma [..., n, d_model].
        w_1: W_1, forma [d_model, d_ff].
        b_1: lungo d_ff.
        w_2: W_2, forma [d_ff, d_model].
        b_2: lungo d_model.

    Restituisce:
        Forma [..., n, d_model].
    """
    return relu(x @ w_1 + b_1) @ w_2 + b_2


class FeedForward(nn.Module):
    """§3.3: l'ultimo sotto-strato di ogni strato, con i suoi parametri.

    `w_1` e `w_2` sono conservate trasposte, una riga per uscita, come `torch.nn.Linear`: la W_1
    dell'articolo è `w_1.T`.

    Argomenti:
        d_model: larghezza in ingresso e in uscita.
        d_ff: larghezza interna.

    Solleva:
        ValueError: se una larghezza è minore di 1.
    """

    def __init__(self, d_model: int, d_ff: int):
        super().__init__()
        require(d_model >= 1, "d_model", d_model, "almeno 1")
        require(d_ff >= 1, "d_ff", d_ff, "almeno 1")
        self.w_1 = nn.Parameter(torch.empty(d_ff, d_model))
        self.b_1 = nn.Parameter(torch.empty(d_ff))
        self.w_2 = nn.Parameter(torch.empty(d_model, d_ff))
        self.b_2 = nn.Parameter(torch.empty(d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Valori iniziali: matrici uniformi con la varianza di Glorot, termini costanti zero.

        L'articolo non li dà; il codice pubblicato con l'articolo scala le matrici allo stesso
        modo, con la media fra ingressi e uscite.
        """
        for matrix in (self.w_1, self.w_2):
            nn.init.xavier_uniform_(matrix)
        for constant in (self.b_1, self.b_2):
            nn.init.zeros_(constant)

    def forward(self, x: Float[Tensor, "*batch n d_model"]) -> Float[Tensor, "*batch n d_model"]:
        """L'eq. (2) con i parametri del modulo.

        Argomenti:
            x: forma [..., n, d_model].

        Restituisce:
            Forma [..., n, d_model].

        Solleva:
            TypeError, ValueError: se x non è del tipo dei parametri, o non è largo d_model.
        """
        check_vectors(x, "x", self.w_1)
        return linear(relu(linear(x, self.w_1, self.b_1)), self.w_2, self.b_2)

    def as_convolutions(
        self, x: Float[Tensor, "batch n d_model"]
    ) -> Float[Tensor, "batch n d_model"]:
        """§3.3 ¶2: lo stesso calcolo come due convoluzioni con kernel di larghezza 1.

        Una convoluzione vuole i canali davanti alle posizioni: perciò le due trasposizioni.
        """
        hidden = relu(F.conv1d(x.mT, self.w_1.unsqueeze(-1), self.b_1))
        return F.conv1d(hidden, self.w_2.unsqueeze(-1), self.b_2).mT
