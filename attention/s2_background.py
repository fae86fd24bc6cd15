"""§2: quanti strati servono perché una posizione dipenda da un'altra, lontana.

Uno strato si descrive dicendo quali posizioni legge ogni posizione. Per quattro schemi
(convoluzione contigua, convoluzione dilatata, auto-attenzione ristretta, auto-attenzione) il conto
si fa due volte: portando avanti l'informazione uno strato alla volta, e con la formula chiusa.
"""

from collections.abc import Callable, Iterable

from attention.s0_abstract import require

Pattern = Callable[[int, int], Iterable[int]]
"""Uno schema: dallo strato (il primo è 0) e dalla posizione alle posizioni che questa legge."""


def hops(n: int, pattern: Pattern) -> int:
    """Quanti strati servono perché la posizione n−1 dipenda dalla posizione 0.

    Visita in ampiezza, uno strato per giro: dopo lo strato è informata ogni posizione che ne
    legge almeno una già informata.

    Argomenti:
        n: quante posizioni, contate da 0.
        pattern: che cosa legge ogni posizione in ogni strato. Le posizioni fuori da 0 … n−1 non
            esistono e non informano nessuno.

    Restituisce:
        Il numero di strati; 0 se la posizione è una sola.

    Solleva:
        ValueError: se n è minore di 1, o se n strati non bastano.
    """
    at_least(1, n, "n")
    informed, layers = {0}, 0
    while n - 1 not in informed:
        require(layers < n, "pattern", f"dopo {n} strati non arriva", "uno schema che si allarga")
        informed = {i for i in range(n) if not informed.isdisjoint(pattern(layers, i))}
        layers += 1
    return layers


def contiguous(kernel: int) -> Pattern:
    """Convoluzione causale di larghezza k: in ogni strato si legge da i−k+1 a i."""
    at_least(2, kernel, "kernel")
    return lambda layer, i: range(i - kernel + 1, i + 1)


def contiguous_hops(n: int, kernel: int) -> int:
    """⌈(n−1) / (k−1)⌉: ogni strato avanza di k−1 posizioni."""
    at_least(1, n, "n")
    at_least(2, kernel, "kernel")
    return -(-(n - 1) // (kernel - 1))


def dilated(kernel: int) -> Pattern:
    """Convoluzione causale dilatata: lo strato l legge k posizioni, a k^l l'una dall'altra."""
    at_least(2, kernel, "kernel")
    return lambda layer, i: range(i - (kernel - 1) * kernel**layer, i + 1, kernel**layer)


def dilated_hops(n: int, kernel: int) -> int:
    """⌈log_k n⌉, contato con gli interi: il primo L per cui k^L posizioni bastano."""
    at_least(1, n, "n")
    at_least(2, kernel, "kernel")
    layers = 0
    while kernel**layers < n:
        layers += 1
    return layers


def restricted(neighbourhood: int) -> Pattern:
    """Auto-attenzione ristretta all'intorno r: r/2 posizioni per lato, oltre alla propria.

    Se r è dispari i lati ne hanno (r−1)/2 ciascuno. È anche ciò che legge una convoluzione
    centrata di larghezza r+1 (r pari).
    """
    at_least(2, neighbourhood, "neighbourhood")
    return lambda layer, i: range(i - neighbourhood // 2, i + neighbourhood // 2 + 1)


def restricted_hops(n: int, neighbourhood: int) -> int:
    """⌈(n−1) / (r/2)⌉: ogni strato avanza di r/2 posizioni, o di (r−1)/2 se r è dispari."""
    at_least(1, n, "n")
    at_least(2, neighbourhood, "neighbourhood")
    return -(-(n - 1) // (neighbourhood // 2))


def everywhere(n: int) -> Pattern:
    """Auto-attenzione: in ogni strato ogni posizione legge tutte le n."""
    return lambda layer, i: range(n)


def attention_hops(n: int) -> int:
    """1, a qualunque distanza; 0 se la posizione è una sola, e distanza non c'è."""
    at_least(1, n, "n")
    return min(1, n - 1)


def at_least(lowest: int, given: int, argument: str) -> None:
    """Rifiuta un numero troppo piccolo."""
    require(given >= lowest, argument, given, f"almeno {lowest}")
