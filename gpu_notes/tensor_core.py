"""Il Tensor Core: un'istruzione che moltiplica piccole matrici, e chi decide di usarla.

D = A·B + C, con matrici di poche righe sparse nei registri di un warp. Qui ci sono le forme che
l'istruzione ha avuto, la disposizione dei frammenti nei 32 thread, il conto delle istruzioni che
un prodotto intero richiede, e l'albero delle decisioni: per ogni foglia, la sua prova.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from attention.s0_abstract import require
from attention.sa_attention_visualizations import drawing, label
from gpu_notes.sm_map import WARP

# Le forme.

MMA_SHAPE = (16, 8, 16)
"""Righe, colonne e profondità di una `mma.sync.m16n8k16`, la forma di FP16 e BF16."""

BITS: Mapping[str, int] = {
    "FP64": 64, "TF32": 32, "FP16": 16, "BF16": 16, "FP8": 8, "INT8": 8, "FP4": 4
}  # fmt: skip
"""Quanti bit occupa un numero nel registro; il TF32 ne usa 19 dei suoi 32."""

DEPTH_BITS = 256
"""La profondità di una `mma`, in bit: 32 byte di ogni riga di A, qualunque sia il formato."""


def depth(number: str) -> int:
    """La profondità k di una `mma`, e di una `wgmma`, per un formato.

    Solleva:
        ValueError: se il formato non è fra quelli di `BITS`.
    """
    require(number in BITS, "number", number, f"uno fra {', '.join(BITS)}")
    return DEPTH_BITS // BITS[number]


class Generation(NamedTuple):
    """Che cosa ha portato una generazione di Tensor Core.

    Attributi:
        name: il nome dell'architettura.
        year: l'anno.
        capability: la *compute capability* a cui appartiene l'istruzione.
        per_sm: quanti Tensor Core ha un SM.
        instruction: l'istruzione PTX nuova, con una forma tipica.
        threads: quanti thread la eseguono insieme.
        operands: dove stanno A e B, e dove va D.
        formats: i formati aggiunti.
    """

    name: str
    year: int
    capability: str
    per_sm: int
    instruction: str
    threads: int
    operands: str
    formats: str


GENERATIONS = (
    Generation("Volta", 2017, "7.0", 8, "mma.sync m8n8k4", 8, "registri", "FP16"),
    Generation("Turing", 2018, "7.5", 8, "mma.sync m16n8k8", 32, "registri", "INT8, INT4, 1 bit"),
    Generation("Ampere", 2020, "8.0", 4, "mma.sync m16n8k16", 32, "registri", "BF16, TF32, FP64"),
    Generation("Ada", 2022, "8.9", 4, "mma.sync m16n8k32", 32, "registri", "FP8"),
    Generation("Hopper", 2022, "9.0", 4, "wgmma m64nNk16", 128, "condivisa → registri", "FP8"),
    Generation("Blackwell", 2024, "10.0", 4, "tcgen05.mma", 1, "condivisa → TMEM", "FP6, FP4"),
    Generation("Blackwell", 2025, "12.0", 4, "mma.sync m16n8k64", 32, "registri", "FP6, FP4"),
)
"""Dalla PTX ISA 9.1 e dalle guide di NVIDIA per ciascuna architettura."""

WGMMA_COLUMNS = range(8, 257, 8)
"""Le larghezze N che una `wgmma.m64nNk16` ammette."""

# I frammenti.

Place = tuple[int, int]
"""Una riga e una colonna, da zero."""


def place_a(lane: int, item: int) -> Place:
    """Riga e colonna di A, 16×16, tenute da un thread: `item` va da 0 a 7, due per registro."""
    low, pair, right = item % 2, item // 2 % 2, item // 4
    return lane // 4 + 8 * pair, lane % 4 * 2 + low + 8 * right


def place_b(lane: int, item: int) -> Place:
    """Riga e colonna di B, 16×8: `item` va da 0 a 3, due per registro."""
    return lane % 4 * 2 + item % 2 + 8 * (item // 2), lane // 4


def place_c(lane: int, item: int) -> Place:
    """Riga e colonna di C e di D, 16×8: `item` va da 0 a 3, uno per registro."""
    return lane // 4 + 8 * (item // 2), lane % 4 * 2 + item % 2


class Fragment(NamedTuple):
    """Come una matrice si divide fra i 32 thread.

    Attributi:
        items: quanti numeri tiene ogni thread.
        shape: le righe e le colonne della matrice.
        place: dove sta il numero `item` del thread `lane`.
    """

    items: int
    shape: Place
    place: Callable[[int, int], Place]


FRAGMENTS: Mapping[str, Fragment] = {
    "A": Fragment(8, (16, 16), place_a),
    "B": Fragment(4, (16, 8), place_b),
    "C": Fragment(4, (16, 8), place_c),
}
"""Le tre disposizioni di `mma.m16n8k16`; D è come C."""


def owners(matrix: str) -> dict[Place, Place]:
    """Per ogni riga e colonna di A, B o C: quale thread la tiene, e in quale posto."""
    require(matrix in FRAGMENTS, "matrix", matrix, f"uno fra {', '.join(FRAGMENTS)}")
    items, _, place = FRAGMENTS[matrix]
    return {place(lane, item): (lane, item) for lane in range(WARP) for item in range(items)}


def fragment_drawing(matrix: str, lane: int) -> str:
    """Una matrice con scritto in ogni casella il thread che la tiene; uno è messo in evidenza.

    Argomenti:
        matrix: A, B o C.
        lane: il thread da evidenziare.
    """
    require(0 <= lane < WARP, "lane", lane, "fra 0 e 31")
    rows, columns = FRAGMENTS[matrix].shape
    side, body = 22, []
    for (row, column), (owner, _) in sorted(owners(matrix).items()):
        x, y = side * column + 1, side * row + 1
        opacity = 0.35 if owner == lane else 0.0
        body.append(
            f'<rect x="{x}" y="{y}" width="{side}" height="{side}" stroke="currentColor" '
            f'stroke-opacity=".4" fill-opacity="{opacity}"/>'
        )
        body.append(label(x + side / 2, y + 16.0, str(owner), "middle"))
    title = f"{matrix}, {rows} righe e {columns} colonne: in ogni casella il thread che la tiene"
    return drawing(side * columns + 2.0, side * rows + 2.0, title, body)


Numbers = NDArray[np.float32]
"""Una matrice, o i frammenti di una matrice: una riga per thread."""


def scatter(matrix: str, values: Numbers) -> Numbers:
    """Distribuisce A, B o C fra i thread: una riga per thread, i suoi numeri in fila."""
    require(matrix in FRAGMENTS, "matrix", matrix, f"uno fra {', '.join(FRAGMENTS)}")
    items, shape, _ = FRAGMENTS[matrix]
    require(values.shape == shape, "values", values.shape, f"{list(shape)}")
    fragments = np.zeros((WARP, items), np.float32)
    for place, owner in owners(matrix).items():
        fragments[owner] = values[place]
    return fragments


def mma(a: Numbers, b: Numbers, c: Numbers) -> Numbers:
    """Una `mma.m16n8k16` dai frammenti ai frammenti: D = A·B + C, un prodotto per volta.

    Ogni thread calcola i suoi quattro numeri di D, e per farlo legge frammenti di altri: è ciò che
    un thread da solo non può fare. Gli addendi sono presi con k crescente e sommati in FP32; la
    macchina vera non dice in che ordine li prende.
    """
    of_a, of_b = owners("A"), owners("B")
    d = c.copy()
    for lane in range(WARP):
        for item in range(4):
            row, column = place_c(lane, item)
            for k in range(16):
                d[lane, item] += a[of_a[row, k]] * b[of_b[k, column]]
    return d


def contributors(lane: int) -> set[int]:
    """I thread i cui frammenti di A o di B servono ai quattro numeri di D di un thread."""
    require(0 <= lane < WARP, "lane", lane, "fra 0 e 31")
    places = [place_c(lane, item) for item in range(FRAGMENTS["C"].items)]
    rows, columns = {row for row, _ in places}, {column for _, column in places}
    left = {owner for (row, _), (owner, _) in owners("A").items() if row in rows}
    right = {owner for (_, column), (owner, _) in owners("B").items() if column in columns}
    return left | right


# Un prodotto intero.


def tiles(m: int, n: int, k: int) -> Iterator[tuple[int, int, int]]:
    """Le piastrelle di un prodotto m×k per k×n: da quale riga, colonna e profondità comincia."""
    for name, side in zip("mnk", (m, n, k), strict=True):
        require(side >= 1, name, side, "almeno 1")
    for row in range(0, m, MMA_SHAPE[0]):
        for column in range(0, n, MMA_SHAPE[1]):
            for start in range(0, k, MMA_SHAPE[2]):
                yield row, column, start


def mma_count(m: int, n: int, k: int) -> int:
    """Quante `mma` di forma `MMA_SHAPE` servono a un prodotto m×k per k×n, resti compresi."""
    count = 1
    for name, side, tile in zip("mnk", (m, n, k), MMA_SHAPE, strict=True):
        require(side >= 1, name, side, "almeno 1")
        count *= -(-side // tile)
    return count


def tiled_product(a: Numbers, b: Numbers) -> Numbers:
    """Il prodotto fatto soltanto di `mma`: bordi riempiti di zeri, C di una è la D di un'altra."""
    (m, k), (rows, n) = a.shape, b.shape
    require(k == rows, "b", f"{rows} righe", f"{k}, quante le colonne di a")
    edges = [-(-side // tile) * tile for side, tile in zip((m, n, k), MMA_SHAPE, strict=True)]
    left = np.zeros((edges[0], edges[2]), np.float32)
    right = np.zeros((edges[2], edges[1]), np.float32)
    left[:m, :k], right[:k, :n] = a, b
    total = np.zeros((edges[0], edges[1]), np.float32)
    back = owners("C")
    for row, column, start in tiles(m, n, k):
        corner = total[row : row + 16, column : column + 8]
        first = scatter("A", left[row : row + 16, start : start + 16])
        second = scatter("B", right[start : start + 16, column : column + 8])
        d = mma(first, second, scatter("C", corner))
        for place, owner in back.items():
            corner[place] = d[owner]
    return total[:m, :n]


def efficient(size: int, number: str, boundary: int = 16) -> bool:
    """Se una dimensione, in un formato, è un multiplo intero di `boundary` byte.

    Argomenti:
        size: quanti numeri.
        number: il formato, come in `BITS`.
        boundary: 16 byte, o 128 per la A100.
    """
    require(number in BITS, "number", number, f"uno fra {', '.join(BITS)}")
    return size * BITS[number] % (8 * boundary) == 0


# Chi decide.


@dataclass(frozen=True)
class Verdict:
    """Una foglia dell'albero: se i Tensor Core lavorano, e come si sa.

    Argomenti:
        uses: sì o no.
        because: la ragione.
        listings: i listing di `sass_listing` che lo mostrano.
        setting: un'espressione di PyTorch e il valore che deve avere.
        source: la fonte, dove non c'è una prova che si esegue qui.
    """

    uses: bool
    because: str
    listings: tuple[str, ...] = ()
    setting: tuple[str, object] | None = None
    source: str = ""


@dataclass(frozen=True)
class Question:
    """Un bivio: la domanda, e per ogni risposta il bivio seguente o una foglia."""

    text: str
    answers: Mapping[str, "Question | Verdict"]


BY_HAND = Question(
    "Quale istruzione ha scritto?",
    {
        "un ciclo su float": Verdict(
            False,
            "il compilatore non riconosce un prodotto di matrici",
            ("matmul_float.sm_80", "matmul_float.sm_90", "matmul_float.sm_120"),
        ),
        "un ciclo su FP16": Verdict(
            False,
            "HFMA2 è una FMA per corsia, su due numeri, non un prodotto di matrici",
            ("matmul_half.sm_80", "matmul_half.sm_90", "matmul_half.sm_120"),
        ),
        "mma, wgmma o tcgen05": Verdict(
            True,
            "l'istruzione li nomina",
            ("mma_formats.sm_80", "mma_formats.sm_90", "wgmma.sm_90a", "tcgen05.sm_100a"),
        ),
        "tl.dot, in Triton": Verdict(
            True,
            "anche con float32, che diventa TF32 se non si chiede altro",
            ("tile.sm_80.bf16", "tile.sm_80.fp32", "tile.sm_90.bf16", "tile.sm_90.fp32"),
        ),
    },
)
"""Chi scrive il kernel decide con il nome dell'istruzione."""

FLOAT32 = Question(
    "Chi chiama la libreria?",
    {
        "PyTorch, matmul": Verdict(
            False,
            "chiede FP32 vero, finché nessuno cambia l'opzione",
            setting=("torch.get_float32_matmul_precision()", "highest"),
        ),
        "PyTorch, convoluzione con cuDNN": Verdict(
            True,
            "lì il TF32 è permesso, se nessuno lo vieta",
            setting=("torch.backends.cudnn.conv.fp32_precision", "tf32"),
        ),
        "JAX": Verdict(
            True,
            "la precisione predefinita lascia il TF32 alle schede recenti",
            source="documentazione di JAX, «Matmul precision»",
        ),
    },
)
"""Con ingressi a 32 bit decide un'opzione, e ogni libreria ha la sua."""

TREE = Question(
    "Chi ha scritto il kernel?",
    {
        "tu": BY_HAND,
        "una libreria, con float32": FLOAT32,
        "una libreria, con FP16, BF16 o FP8": Verdict(
            True,
            "salvo che la sua euristica scelga altro, per misure piccole o mal allineate",
            source="NVIDIA, Deep Learning Performance Guide, «Matrix Multiplication»",
        ),
    },
)
"""L'albero intero. «Il compilatore» non compare: non decide mai da solo."""


def leaves(node: Question | Verdict, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Verdict]]:
    """Le foglie dell'albero, ciascuna con le risposte che portano fin lì."""
    if isinstance(node, Verdict):
        yield " → ".join(path), node
    else:
        for answer, following in node.answers.items():
            yield from leaves(following, (*path, answer))


def outline(node: Question | Verdict, indent: int = 0) -> str:
    """L'albero come elenco di Markdown, un livello per bivio."""
    if isinstance(node, Verdict):
        proof = ", ".join(f"`{name}`" for name in node.listings)
        proof = proof or (f"`{node.setting[0]}`" if node.setting else node.source)
        return f" **{'sì' if node.uses else 'no'}**: {node.because} ({proof})"
    lines = [f" *{node.text}*"]
    for answer, following in node.answers.items():
        lines.append(f"{' ' * indent}- {answer} →{outline(following, indent + 4)}")
    return "\n".join(lines)
