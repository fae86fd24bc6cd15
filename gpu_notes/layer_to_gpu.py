"""Dalla riga dell'articolo all'istruzione: uno strato del Transformer su una GPU, con i conti.

Formula, GEMM, griglia di blocchi, warp, `mma`, partizione: a ogni anello un conto. Le tempistiche
sono limiti inferiori calcolati dai valori dichiarati; nessuna è misurata.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

from attention.s0_abstract import require
from gpu_notes.roofline import READER, Batch, Layer, layer_works
from gpu_notes.sm_map import PARTITIONS, REGISTERS_PER_THREAD, WARP, Gpu
from gpu_notes.tensor_core import MMA_SHAPE, mma_count, owners


@dataclass(frozen=True)
class Product:
    """Una GEMM dello strato: [m, k] per [k, n], `copies` volte con dati diversi.

    Argomenti:
        name: come si chiama nelle tabelle.
        source: la formula dell'articolo da cui viene.
        m: righe, una per token.
        n: colonne.
        k: profondità, la dimensione su cui si somma.
        copies: quanti prodotti uguali; più di uno solo dentro le teste.
    """

    name: str
    source: str
    m: int
    n: int
    k: int
    copies: int = 1

    @property
    def macs(self) -> int:
        """Moltiplica-e-accumula utili."""
        return self.copies * self.m * self.n * self.k

    @property
    def mma(self) -> int:
        """Le `mma` m16n8k16 che bastano, resti compresi."""
        return self.copies * mma_count(self.m, self.n, self.k)

    @property
    def useful(self) -> float:
        """La frazione di moltiplica-e-accumula di quelle `mma` che serve a qualcosa."""
        return self.macs / (self.mma * math.prod(MMA_SHAPE))


def products(batch: Batch, layer: Layer = READER) -> list[Product]:
    """Le sei GEMM di uno strato di encoder, o di un passo di decoder con la cache.

    Argomenti:
        batch: quante sequenze, quante posizioni si calcolano, quante ognuna ne guarda.
        layer: le misure dello strato.
    """
    n, d, heads = batch.tokens, layer.d_model, batch.sequences * layer.heads
    return [
        Product("QKV", "QW^Q, KW^K, VW^V", n, 3 * d, d),
        Product("QKᵀ", "QKᵀ/√d_k", batch.queries, batch.keys, layer.d_k, heads),
        Product("PV", "softmax(…)V", batch.queries, layer.d_k, batch.keys, heads),
        Product("W_O", "Concat(…)W^O", n, d, d),
        Product("Linear1", "max(0, xW₁ + b₁)", n, layer.d_ff, d),
        Product("Linear2", "(…)W₂ + b₂", n, d, layer.d_ff),
    ]


def total_mma(batch: Batch, layer: Layer = READER) -> int:
    """Le `mma` di tutto lo strato."""
    return sum(product.mma for product in products(batch, layer))


@dataclass(frozen=True)
class Tiling:
    """Come un kernel divide una GEMM: la piastrella di un blocco, e i warp che se la spartiscono.

    Argomenti:
        rows: righe della piastrella di un blocco.
        columns: colonne.
        depth: quanta profondità si porta nella memoria condivisa per volta.
        warp_rows: i warp del blocco uno sotto l'altro.
        warp_columns: i warp del blocco uno accanto all'altro.
    """

    rows: int = 128
    columns: int = 128
    depth: int = 32
    warp_rows: int = 2
    warp_columns: int = 2

    def __post_init__(self) -> None:
        """La parte di ogni warp è fatta di piastrelle di `mma` intere."""
        m, n, k = MMA_SHAPE
        rows, columns = self.warp_rows * m, self.warp_columns * n
        require(self.rows % rows == 0, "rows", self.rows, f"un multiplo di {rows}")
        require(self.columns % columns == 0, "columns", self.columns, f"un multiplo di {columns}")
        require(self.depth % k == 0, "depth", self.depth, f"un multiplo di {k}")

    @property
    def warps(self) -> int:
        """I warp di un blocco."""
        return self.warp_rows * self.warp_columns

    @property
    def threads(self) -> int:
        """I thread di un blocco."""
        return WARP * self.warps

    @property
    def warp_shape(self) -> tuple[int, int]:
        """Righe e colonne che toccano a un warp."""
        return self.rows // self.warp_rows, self.columns // self.warp_columns


COMMON = Tiling()
"""Una piastrella 128 × 128 divisa fra quattro warp: una scelta comune, non l'unica."""


def blocks(product: Product, tiling: Tiling = COMMON) -> int:
    """Quanti blocchi ha la griglia: una piastrella ciascuno, i bordi arrotondati in su."""
    down = -(-product.m // tiling.rows)
    across = -(-product.n // tiling.columns)
    return product.copies * down * across


def busy_sms(product: Product, gpu: Gpu, tiling: Tiling = COMMON) -> int:
    """Gli SM che hanno almeno un blocco."""
    return min(blocks(product, tiling), gpu.sms)


def waves(product: Product, gpu: Gpu, tiling: Tiling = COMMON) -> int:
    """Quante ondate servono, con un blocco per SM alla volta."""
    return -(-blocks(product, tiling) // gpu.sms)


def mma_per_warp(product: Product, tiling: Tiling = COMMON) -> int:
    """Le `mma` che ogni warp esegue per la sua parte di piastrella, lungo tutta la profondità.

    Il kernel non guarda quante righe sono utili: calcola la piastrella intera.
    """
    rows, columns = tiling.warp_shape
    depth = -(-product.k // tiling.depth) * tiling.depth
    return mma_count(rows, columns, depth)


def issued_mma(product: Product, tiling: Tiling = COMMON) -> int:
    """Le `mma` che la griglia intera esegue, righe inutili comprese."""
    return blocks(product, tiling) * tiling.warps * mma_per_warp(product, tiling)


def accumulators(tiling: Tiling = COMMON) -> int:
    """I registri di ogni thread che tengono la parte di C del suo warp."""
    rows, columns = tiling.warp_shape
    return rows * columns // WARP


class Place(NamedTuple):
    """Chi calcola un elemento di una GEMM: dal blocco al registro.

    Attributi:
        block: la riga e la colonna del blocco nella griglia.
        warp: il warp nel blocco.
        partition: la partizione dell'SM in cui quel warp sta, se il blocco è solo.
        tile: la riga e la colonna della piastrella di `mma` nella parte del warp.
        lane: la corsia.
        item: quale dei quattro numeri di D che la corsia tiene in quella piastrella.
    """

    block: tuple[int, int]
    warp: int
    partition: int
    tile: tuple[int, int]
    lane: int
    item: int


def locate(row: int, column: int, tiling: Tiling = COMMON) -> Place:
    """Dove si calcola l'elemento (row, column) di una GEMM.

    Quoziente e resto, tre volte: per la piastrella del blocco, del warp, della `mma`. L'ultimo
    passo è la disposizione dei frammenti.
    """
    require(row >= 0, "row", row, "da 0 in su")
    require(column >= 0, "column", column, "da 0 in su")
    rows, columns = tiling.warp_shape
    block = (row // tiling.rows, column // tiling.columns)
    row, column = row % tiling.rows, column % tiling.columns
    warp = row // rows * tiling.warp_columns + column // columns
    row, column = row % rows, column % columns
    tile = (row // MMA_SHAPE[0], column // MMA_SHAPE[1])
    lane, item = owners("C")[row % MMA_SHAPE[0], column % MMA_SHAPE[1]]
    return Place(block, warp, warp % PARTITIONS, tile, lane, item)


def kernels(batch: Batch, layer: Layer = READER, fused: bool = True) -> int:
    """I lanci di uno strato, se ogni operazione è un kernel e la ReLU sta in coda a Linear1."""
    return sum(work.name != "ReLU" for work in layer_works(batch, layer, fused))


def weight_bytes(layer: Layer = READER) -> float:
    """I byte dei pesi di uno strato: quattro matrici d × d e due d × d_ff."""
    numbers = 4 * layer.d_model**2 + 2 * layer.d_model * layer.d_ff
    return numbers * layer.size


def warp_cycles(layer: Layer = READER) -> int:
    """I cicli minimi di un warp solo che faccia il feed-forward di un token: una FMA per ciclo."""
    return 2 * layer.d_model * layer.d_ff // WARP


def warp_register_bytes() -> int:
    """Quanti byte di registri può avere al massimo un warp."""
    return REGISTERS_PER_THREAD * WARP * 4


def model_bytes(parameters: float, bits: int) -> float:
    """La memoria dei soli pesi di un modello.

    Argomenti:
        parameters: quanti parametri ha.
        bits: quanti bit occupa ciascuno.
    """
    require(parameters > 0, "parameters", parameters, "maggiore di 0")
    require(bits > 0, "bits", bits, "maggiore di 0")
    return parameters * bits / 8
