"""Un SM, un core di CPU, una TPU: i conti per ciclo, e un array sistolico simulato.

Le unità si confrontano in FLOP per ciclo, così la frequenza non entra. L'array sistolico è
simulato registro per registro: ogni cella legge solo i registri dei due vicini.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from attention.s0_abstract import require
from gpu_notes import sm_map

Matrix = Sequence[Sequence[float]]
"""Una matrice come righe di numeri."""


def vector_flops(units: int, bits: int, number_bits: int) -> int:
    """FLOP per ciclo delle unità vettoriali: un moltiplica-e-accumula per corsia, due FLOP.

    Argomenti:
        units: quante unità FMA possono partire in un ciclo.
        bits: la larghezza di ciascuna.
        number_bits: la larghezza di un numero.
    """
    require(bits % number_bits == 0, "number_bits", number_bits, f"un divisore di {bits}")
    return units * (bits // number_bits) * 2


def tile_flops(rows: int, columns: int, depth: int, cycles: int) -> float:
    """FLOP per ciclo di un'unità a piastrelle, che finisce un prodotto ogni `cycles` cicli.

    Argomenti:
        rows, columns, depth: la piastrella [rows, depth] per [depth, columns].
        cycles: ogni quanti cicli ne parte una.
    """
    return 2 * rows * columns * depth / cycles


def sm_flops(gpu: sm_map.Gpu, dtype: str) -> int:
    """FLOP per ciclo di un SM: FP32 sui CUDA core, gli altri formati sui Tensor Core."""
    return 2 * sm_map.fma_per_clock(gpu, dtype)


def warp_instructions(macs: int) -> int:
    """Istruzioni FMA di un warp per tanti moltiplica-e-accumula: 32 alla volta."""
    return -(-macs // sm_map.WARP)


@dataclass(frozen=True)
class Cells:
    """I registri dell'array alla fine di un ciclo, una riga di celle dopo l'altra.

    Argomenti:
        passing: il numero d'ingresso che ogni cella ha appena usato, e passerà a destra.
        sums: la somma parziale che ogni cella passerà in basso.
    """

    passing: Matrix
    sums: Matrix


def entering(a: Matrix, cycle: int) -> list[float]:
    """Che cosa entra da sinistra: alla riga k dell'array, la colonna k di A in ritardo di k."""
    depth = len(a[0])
    return [a[cycle - k][k] if 0 <= cycle - k < len(a) else 0 for k in range(depth)]


def step(weights: Matrix, cells: Cells, left: Sequence[float]) -> Cells:
    """Un ciclo: ogni cella prende da sinistra e dall'alto, moltiplica per il suo peso e somma.

    Argomenti:
        weights: i pesi, fermi nelle celle.
        cells: i registri alla fine del ciclo precedente.
        left: i numeri che entrano nella prima colonna.
    """
    passing = [[x, *row[:-1]] for x, row in zip(left, cells.passing, strict=True)]
    above = [[0] * len(weights[0]), *cells.sums[:-1]]
    sums = [
        [total + x * w for total, x, w in zip(*rows, strict=True)]
        for rows in zip(above, passing, weights, strict=True)
    ]
    return Cells(passing, sums)


def systolic_cycles(rows: int, depth: int, columns: int) -> int:
    """Cicli dal primo ingresso all'ultima uscita, con i pesi già nelle celle."""
    return rows + depth + columns - 2


def check_shapes(a: Matrix, b: Matrix) -> None:
    """Le due matrici sono rettangolari, non vuote, e il prodotto esiste.

    Solleva:
        ValueError: altrimenti, con il nome della matrice che non va.
    """
    for argument, matrix in (("a", a), ("b", b)):
        require(len(matrix) > 0, argument, "nessuna riga", "almeno una")
        widths = sorted({len(row) for row in matrix})
        require(len(widths) == 1, argument, f"righe lunghe {widths}", "righe lunghe uguale")
        require(widths[0] > 0, argument, "nessuna colonna", "almeno una")
    require(len(b) == len(a[0]), "b", f"{len(b)} righe", f"{len(a[0])}, le colonne di a")


def systolic_states(a: Matrix, b: Matrix) -> Iterator[Cells]:
    """I registri dell'array, ciclo per ciclo, mentre A attraversa i pesi B."""
    check_shapes(a, b)
    empty = [[0] * len(b[0])] * len(b)
    cells = Cells(empty, empty)
    for cycle in range(systolic_cycles(len(a), len(b), len(b[0]))):
        cells = step(b, cells, entering(a, cycle))
        yield cells


def systolic_product(a: Matrix, b: Matrix) -> list[list[float]]:
    """A · B, letto sul bordo inferiore dell'array man mano che esce.

    Argomenti:
        a: gli ingressi, una riga per token: attraversano l'array da sinistra.
        b: i pesi, fermi: un peso per cella.

    Solleva:
        ValueError: se le matrici non sono rettangolari, o il prodotto non esiste.
    """
    product: list[list[float]] = [[] for _ in a]
    for cycle, cells in enumerate(systolic_states(a, b)):
        for j, total in enumerate(cells.sums[-1]):
            row = cycle - (len(b) - 1) - j
            if 0 <= row < len(a):
                product[row].append(total)
    return product


def utilization(rows: int, depth: int, columns: int) -> float:
    """Che parte dei cicli una cella lavora: un prodotto per riga, e il resto è attesa."""
    return rows / systolic_cycles(rows, depth, columns)


TPU_V1_SIDE = 256
"""Il lato dell'array della prima TPU: 256 × 256 celle da 8 bit."""

TPU_V1_CLOCK = 700e6
"""Hz della prima TPU."""


def array_peak(side: int, clock: float, arrays: int = 1) -> float:
    """Operazioni al secondo di array quadrati sempre pieni: due per cella e per ciclo."""
    return arrays * side * side * 2 * clock
