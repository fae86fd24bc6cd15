"""§3.2 Attenzione: la definizione, con i cicli in chiaro.

Una funzione di attenzione riceve una query e un insieme di coppie key–value e restituisce la
somma dei value, ciascuno con un peso che misura quanto la query è compatibile con la sua key.
Qui non c'è nessuna libreria: liste, cicli e somme in doppia precisione, come in Fortran. È la
forma lenta e leggibile con cui le sezioni seguenti confrontano i loro risultati.
"""

import math
from collections.abc import Callable, Sequence

from attention.s0_abstract import require

Vector = Sequence[float]
"""Un vettore di numeri in doppia precisione."""

Matrix = Sequence[Vector]
"""Una successione di vettori: una riga per ogni posizione."""

Compatibility = Callable[[Vector, Vector], float]
"""Una funzione di compatibilità: da una query e una key a un punteggio."""


def dot_product(query: Vector, key: Vector) -> float:
    """La compatibilità più semplice: il prodotto scalare fra query e key, lunghe entrambe d_k.

    Solleva:
        ValueError: se le due lunghezze non sono uguali.
    """
    require(len(key) == len(query), "key", f"lunghezza {len(key)}", f"{len(query)}, come query")
    total = 0.0
    for k in range(len(query)):
        total += query[k] * key[k]
    return total


def normalize(scores: Vector) -> list[float]:
    """Da punteggi qualsiasi a pesi non negativi che sommano a 1: la softmax.

    Un punteggio −∞ riceve peso zero. Se sono tutti −∞ non c'è nulla da pesare e i pesi sono
    tutti zero. Sottrarre il massimo non cambia il risultato ed evita che l'esponenziale trabocchi.
    """
    top = max(scores)
    if top == -math.inf:
        return [0.0 for _ in scores]
    exponentials = [math.exp(score - top) for score in scores]
    total = sum(exponentials)
    return [exponential / total for exponential in exponentials]


def weighted_sum(weights: Vector, values: Matrix) -> list[float]:
    """L'uscita dell'attenzione: la somma dei value, ciascuno moltiplicato per il suo peso."""
    output = [0.0] * len(values[0])
    for j in range(len(values)):
        for c in range(len(output)):
            output[c] += weights[j] * values[j][c]
    return output


def attend(
    query: Vector,
    keys: Matrix,
    values: Matrix,
    compatibility: Compatibility,
    allowed: Sequence[bool] | None = None,
) -> list[float]:
    """§3.2 ¶1: una query, n coppie key–value, un'uscita.

    Argomenti:
        query: vettore lungo d_k.
        keys: n vettori; quanto lunghi, dipende dalla funzione di compatibilità.
        values: n vettori lunghi d_v, uno per ogni key.
        compatibility: la funzione che dà il punteggio di una coppia (query, key).
        allowed: per ogni coppia, vero se la query può guardarla; senza, può guardarle tutte.

    Restituisce:
        Un vettore lungo d_v.

    Solleva:
        ValueError: se non ci sono coppie, o se le lunghezze non si accordano.
    """
    _check_pairs(keys, values, allowed)
    scores = []
    for j in range(len(keys)):
        visible = allowed is None or allowed[j]
        scores.append(compatibility(query, keys[j]) if visible else -math.inf)
    return weighted_sum(normalize(scores), values)


def attention_loops(
    queries: Matrix,
    keys: Matrix,
    values: Matrix,
    compatibility: Compatibility,
    allowed: Sequence[Sequence[bool]] | None = None,
) -> list[list[float]]:
    """L'attenzione di m query, una dopo l'altra: nessuna guarda il risultato delle altre.

    Argomenti:
        queries: m vettori lunghi d_k.
        keys: n vettori lunghi d_k.
        values: n vettori lunghi d_v.
        compatibility: la funzione che dà il punteggio di una coppia (query, key).
        allowed: m righe di n valori logici; vero dove la query i può guardare la coppia j.

    Restituisce:
        m vettori lunghi d_v.

    Solleva:
        ValueError: se `allowed` non ha una riga per ogni query, e nei casi di `attend`.
    """
    if allowed is not None:
        require(
            len(allowed) == len(queries),
            "allowed",
            f"{len(allowed)} righe",
            f"{len(queries)}, una per query",
        )
    outputs = []
    for i in range(len(queries)):
        row = None if allowed is None else allowed[i]
        outputs.append(attend(queries[i], keys, values, compatibility, row))
    return outputs


def _check_pairs(keys: Matrix, values: Matrix, allowed: Sequence[bool] | None) -> None:
    """Almeno una coppia, tanti value quante key, tutti della stessa lunghezza."""
    n = len(keys)
    require(n > 0, "keys", "nessuna coppia", "almeno una")
    require(len(values) == n, "values", f"{len(values)} value", f"{n}, uno per key")
    for j, value in enumerate(values):
        d_v = len(values[0])
        require(
            len(value) == d_v, f"values[{j}]", f"lunghezza {len(value)}", f"{d_v}, come values[0]"
        )
    if allowed is not None:
        require(len(allowed) == n, "allowed", f"{len(allowed)} valori", f"{n}, uno per key")
