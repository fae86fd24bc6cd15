"""§3.4: gli embedding in ingresso e le probabilità in uscita, con una matrice sola.

La matrice ha una riga per ogni voce del vocabolario. In ingresso la riga di un token, moltiplicata
per √d_model, è il suo vettore; in uscita il prodotto scalare con ogni riga è il punteggio di ogni
possibile token seguente, e la softmax ne fa probabilità.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attention.s0_abstract import require
from attention.s3_2_2_multi_head import check_vectors, linear


class SharedEmbedding(nn.Module):
    """§3.4 ¶1: la matrice che fa da embedding di sorgente e destinazione, e da strato d'uscita.

    Argomenti:
        vocabulary: quante voci ha il vocabolario comune alle due lingue.
        d_model: larghezza dei vettori.

    Solleva:
        ValueError: se una delle due misure è minore di 1.
    """

    def __init__(self, vocabulary: int, d_model: int):
        super().__init__()
        require(vocabulary >= 1, "vocabulary", vocabulary, "almeno una voce")
        require(d_model >= 1, "d_model", d_model, "almeno 1")
        self.weight = nn.Parameter(torch.empty(vocabulary, d_model))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Valori iniziali: normali, con deviazione standard 1/√d_model.

        L'articolo non li dà; sono quelli del codice pubblicato con l'articolo. Moltiplicati per
        √d_model danno vettori di componenti con varianza 1; senza, punteggi con varianza 1.
        """
        nn.init.normal_(self.weight, std=self.weight.size(1) ** -0.5)

    def forward(
        self, tokens: Int[Tensor, "*batch n"], sparse: bool = False
    ) -> Float[Tensor, "*batch n d_model"]:
        """I vettori dei token: la riga di ciascuno, per √d_model.

        Argomenti:
            tokens: identificatori, da 0 a vocabulary − 1, forma [..., n].
            sparse: conserva, del gradiente, solo le righe lette: è ciò che conviene quando la
                matrice ne riceve anche uno intero, dallo strato d'uscita.

        Restituisce:
            Forma [..., n, d_model].

        Solleva:
            TypeError: se `tokens` non contiene interi.
            ValueError: se un identificatore non è nel vocabolario.
        """
        check_tokens(tokens, "tokens", self.weight.size(0))
        return F.embedding(tokens, self.weight, sparse=sparse) * math.sqrt(self.weight.size(1))

    def logits(
        self, hidden: Float[Tensor, "*batch m d_model"]
    ) -> Float[Tensor, "*batch m vocabulary"]:
        """La trasformazione lineare prima della softmax: il prodotto con ogni riga della matrice.

        Argomenti:
            hidden: l'uscita del decoder, forma [..., m, d_model].

        Restituisce:
            Un punteggio per ogni voce, forma [..., m, vocabulary].

        Solleva:
            TypeError, ValueError: se `hidden` non è del tipo della matrice, o non è largo d_model.
        """
        check_vectors(hidden, "hidden", self.weight)
        return linear(hidden, self.weight)

    def score(
        self, hidden: Float[Tensor, "*batch m d_model"], tokens: Int[Tensor, "*batch m"]
    ) -> tuple[Float[Tensor, "*batch m"], Float[Tensor, "*batch m"]]:
        """Quanto il modello si aspetta dei token dati: ciò che l'addestramento chiede alla softmax.

        Argomenti:
            hidden: l'uscita del decoder, forma [..., m, d_model].
            tokens: i token da valutare, forma [..., m].

        Restituisce:
            Il logaritmo della probabilità di ciascuno, e la media dei logaritmi su tutto il
            vocabolario (serve al label smoothing di §5.4), forma [..., m], in FP32 almeno.

        Solleva:
            TypeError, ValueError: come `logits`; inoltre se `tokens` non sono interi del
                vocabolario, uno per vettore.
        """
        check_vectors(hidden, "hidden", self.weight)
        check_tokens(tokens, "tokens", self.weight.size(0))
        same = hidden.shape[:-1] == tokens.shape
        require(same, "tokens", tokens.shape, f"{list(hidden.shape[:-1])}, uno per vettore")
        weight: Tensor = self.weight
        kind = hidden.device.type
        if torch.is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
            hidden, weight = hidden.to(dtype), weight.to(dtype)
        rows, column = hidden.flatten(0, -2), tokens.flatten()
        if torch.compiler.is_compiling():
            chosen, average = scores_to_compile(linear(rows, weight), column)
        else:
            chosen, average = TokenScores.apply(rows, weight, column)
        return chosen.view(tokens.shape), average.view(tokens.shape)


def log_probabilities(
    logits: Float[Tensor, "*batch m vocabulary"],
) -> Float[Tensor, "*batch m vocabulary"]:
    """I logaritmi delle probabilità del token seguente: la softmax lungo il vocabolario.

    Il logaritmo si calcola direttamente, in FP32 almeno: la probabilità di un token improbabile
    non si arrotonda a zero.
    """
    return logits.log_softmax(dim=-1, dtype=at_least_float32(logits.dtype))


class TokenScores(torch.autograd.Function):
    """`log_probabilities` di un token per riga e la loro media, tenendo una matrice sola.

    Scritta con le operazioni di PyTorch, la perdita tiene in memoria punteggi, logaritmi e
    gradienti: quattro matrici [righe, vocabulary]. Qui i punteggi diventano probabilità, e queste
    gradienti, nello stesso posto.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """I due risultati, riga per riga; i punteggi sono sostituiti dalle probabilità."""
        matrix = F.linear(hidden, weight)
        chosen, average = zip(
            *map(scores_in_place, *in_cache(matrix, tokens.unsqueeze(-1))), strict=True
        )
        ctx.save_for_backward(hidden, weight, tokens)
        ctx.matrix = matrix
        return torch.cat(chosen), torch.cat(average)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        """Con g e a i gradienti dei due risultati: g · token + a/V − (g + a) · probabilità."""
        if ctx.matrix is None:
            raise RuntimeError("score: il gradiente si può calcolare una volta sola")
        if torch.is_grad_enabled():
            raise RuntimeError("score: non ci sono derivate seconde; create_graph dev'essere False")
        hidden, weight, tokens = ctx.saved_tensors
        matrix, ctx.matrix = ctx.matrix, None
        chosen, average = (gradient.unsqueeze(-1).to(matrix.dtype) for gradient in gradients)
        for part, g, a in zip(*in_cache(matrix, chosen, average), strict=True):
            part.mul_(-(g + a)).add_(a / len(weight))
        matrix.scatter_add_(1, tokens.unsqueeze(-1), chosen)
        return matrix @ weight, matrix.mT @ hidden, None


def scores_in_place(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Il logaritmo di un token per riga e la media; al posto dei punteggi, le probabilità.

    Il logaritmo della somma degli esponenziali si ricava dalla probabilità più alta, che non è
    mai minore di 1/V: log Σ exp = massimo − log p.
    """
    exact = logits.to(at_least_float32(logits.dtype))
    top, average, chosen = exact.amax(dim=-1), exact.mean(dim=-1), exact.gather(1, tokens)
    probabilities = exact.softmax(dim=-1)
    total = top - probabilities.amax(dim=-1).log()
    logits.copy_(probabilities)
    return chosen.squeeze(-1) - total, average - total


def scores_to_compile(logits: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Gli stessi due numeri, scritti per `torch.compile`: ciò che va in un kernel lo decide lui.

    Il punteggio del token si sceglie con un confronto e una somma: la derivata di un indice
    sarebbe una scrittura sparsa, quella di un confronto entra nello stesso ciclo del resto.
    """
    exact = logits.to(at_least_float32(logits.dtype))
    voices = torch.arange(logits.size(-1), device=logits.device)
    chosen = exact.where(voices == tokens.unsqueeze(-1), 0).sum(dim=-1)
    total = exact.logsumexp(dim=-1)
    return chosen - total, exact.mean(dim=-1) - total


def in_cache(matrix: Tensor, *columns: Tensor) -> list[tuple[Tensor, ...]]:
    """Le stesse righe di più matrici, a gruppi che su una CPU restano nella cache."""
    numbers = 2**20 if matrix.device.type == "cpu" else 2**28
    rows = max(1, numbers // matrix.size(-1))
    return [part.split(rows) for part in (matrix, *columns)]


def at_least_float32(dtype: torch.dtype) -> torch.dtype:
    """Il tipo in cui si calcola un logaritmo: FP32, o FP64 se l'ingresso lo è."""
    return torch.promote_types(dtype, torch.float32)


def is_readable(tensor: Tensor) -> bool:
    """Vero se i valori si possono leggere subito.

    Leggerli obbliga una GPU a finire ciò che sta facendo: dentro `torch.compile` e `torch.export`,
    e mentre la GPU registra i comandi di un grafo, non si può.
    """
    if torch.compiler.is_compiling():
        return False
    return not (tensor.is_cuda and torch.cuda.is_current_stream_capturing())


def check_tokens(tokens: Tensor, argument: str, vocabulary: int) -> None:
    """Identificatori interi, tutti nel vocabolario, almeno uno per sequenza.

    Dove i valori non si possono leggere si controllano solo tipo e forma.
    """
    integer = isinstance(tokens, Tensor) and tokens.dtype in (torch.int32, torch.int64)
    kind = tokens.dtype if isinstance(tokens, Tensor) else type(tokens).__name__
    require(integer, argument, kind, "un tensore torch.int64 o torch.int32", TypeError)
    empty = tokens.dim() == 0 or tokens.numel() == 0
    require(not empty, argument, tokens.shape, "almeno una sequenza con almeno un token")
    if not is_readable(tokens):
        return
    lowest, highest = (extreme.item() for extreme in tokens.aminmax())
    wrong = lowest if lowest < 0 else highest
    in_range = lowest >= 0 and highest < vocabulary
    require(in_range, argument, f"il token {wrong}", f"da 0 a {vocabulary - 1}")
