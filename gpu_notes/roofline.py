"""Il roofline: quanti FLOP per byte offre un'operazione, e quanti ne chiede una macchina.

I conti suppongono che ogni operazione sia un kernel a sé, che legge ogni dato dalla memoria
principale una volta e vi scrive una volta il risultato. I tempi sono limiti inferiori: nessuno
è misurato.
"""

import math
from dataclasses import dataclass

from attention.s0_abstract import require
from gpu_notes import sm_map


@dataclass(frozen=True)
class Work:
    """Il lavoro di un'operazione.

    Argomenti:
        name: come si chiama nelle tabelle.
        flops: somme, prodotti e confronti.
        bytes: quanti byte passano almeno fra la memoria principale e le unità di calcolo.
        matrix: vero se è un prodotto di matrici, che può andare ai Tensor Core.
        exponentials: quante esponenziali, che vanno alle SFU.
    """

    name: str
    flops: float
    bytes: float
    matrix: bool = False
    exponentials: int = 0

    def __post_init__(self) -> None:
        """Un lavoro senza byte non ha un'intensità."""
        require(self.bytes > 0, "bytes", self.bytes, "maggiore di 0")

    @property
    def intensity(self) -> float:
        """L'intensità aritmetica: FLOP per byte."""
        return self.flops / self.bytes


@dataclass(frozen=True)
class Machine:
    """Ciò che il roofline sa di una macchina.

    Argomenti:
        name: come si chiama nelle tabelle.
        matrix_peak: FLOP al secondo nei prodotti di matrici.
        vector_peak: FLOP al secondo in tutto il resto.
        bandwidth: byte al secondo della memoria principale.
        exponential_peak: esponenziali al secondo; infinito se non hanno un'unità loro.
    """

    name: str
    matrix_peak: float
    vector_peak: float
    bandwidth: float
    exponential_peak: float = math.inf

    def peak(self, work: Work) -> float:
        """Il picco delle unità che fanno quel lavoro."""
        return self.matrix_peak if work.matrix else self.vector_peak


def from_gpu(gpu: sm_map.Gpu, dtype: str = "BF16") -> Machine:
    """Una GPU della tabella: prodotti in `dtype`, il resto in FP32, esponenziali sulle SFU."""
    return Machine(
        name=gpu.name,
        matrix_peak=sm_map.peak(gpu, dtype),
        vector_peak=sm_map.peak(gpu, "FP32"),
        bandwidth=gpu.bandwidth,
        exponential_peak=gpu.sms * sm_map.SFU_LANES * gpu.tensor_clock,
    )


def attainable(work: Work, peak: float, bandwidth: float) -> float:
    """Il tetto: FLOP al secondo che quel lavoro può raggiungere, al più.

    Argomenti:
        work: il lavoro.
        peak: FLOP al secondo delle unità che lo fanno.
        bandwidth: byte al secondo della memoria.
    """
    require(peak > 0, "peak", peak, "maggiore di 0")
    require(bandwidth > 0, "bandwidth", bandwidth, "maggiore di 0")
    return min(peak, work.intensity * bandwidth)


def time_limits(work: Work, machine: Machine) -> dict[str, float]:
    """I secondi che servono, da sole, alla memoria, all'aritmetica e alle esponenziali."""
    return {
        "memoria": work.bytes / machine.bandwidth,
        "aritmetica": work.flops / machine.peak(work),
        "esponenziali": work.exponentials / machine.exponential_peak,
    }


def time_bound(work: Work, machine: Machine) -> float:
    """Il tempo minimo, se tutto si sovrappone: comanda il più lento dei tre."""
    return max(time_limits(work, machine).values())


def is_memory_bound(work: Work, machine: Machine) -> bool:
    """Vero se a comandare è la memoria: sta a sinistra del ginocchio."""
    limits = time_limits(work, machine)
    return limits["memoria"] > max(limits["aritmetica"], limits["esponenziali"])


def axpy(n: int, size: float) -> Work:
    """BLAS di livello 1, y ← a·x + y: due letture e una scrittura ogni due FLOP."""
    return Work("AXPY", 2 * n, 3 * n * size)


def gemm(name: str, rows: int, depth: int, columns: int, size: float, copies: int = 1) -> Work:
    """BLAS di livello 3: [rows, depth] per [depth, columns], `copies` volte con altri dati.

    Con una riga sola è un prodotto vettore–matrice, cioè livello 2.

    Argomenti:
        name: come si chiama nelle tabelle.
        rows, depth, columns: le tre dimensioni.
        size: byte di un numero.
        copies: quanti prodotti uguali, ciascuno con le sue matrici.

    Solleva:
        ValueError: se una dimensione o il numero di copie è minore di 1.
    """
    for argument, given in (
        ("rows", rows),
        ("depth", depth),
        ("columns", columns),
        ("copies", copies),
    ):
        require(given >= 1, argument, given, "almeno 1")
    numbers = rows * depth + depth * columns + rows * columns
    flops = 2 * rows * depth * columns
    return Work(name, copies * flops, copies * numbers * size, matrix=True)


def half_rows(depth: int, columns: int) -> float:
    """Quante righe portano una GEMM a metà della sua intensità limite."""
    return depth * columns / (depth + columns)


def gemm_intensity(rows: float, depth: int, columns: int, size: float = 2) -> float:
    """La legge: AI(M) = (2/size) · M / (1 + M/M½), con M½ = `half_rows`."""
    return 2 / size * rows / (1 + rows / half_rows(depth, columns))


def crossing(knee: float, depth: int, columns: int, size: float = 2) -> float:
    """Quante righe servono perché la GEMM arrivi al ginocchio; infinito se non ci arriva mai.

    Argomenti:
        knee: FLOP per byte che la macchina chiede.
        depth, columns: le dimensioni della matrice dei pesi.
        size: byte di un numero.
    """
    wanted, half = knee * size / 2, half_rows(depth, columns)
    return wanted / (1 - wanted / half) if wanted < half else math.inf


@dataclass(frozen=True)
class Layer:
    """Le misure di uno strato.

    Argomenti:
        d_model: la larghezza del modello.
        heads: il numero di teste.
        d_ff: la larghezza interna del feed-forward.
        size: byte di un numero.
    """

    d_model: int
    heads: int
    d_ff: int
    size: float = 2

    def __post_init__(self) -> None:
        """Le teste si dividono la larghezza in parti uguali."""
        divides = self.heads >= 1 and self.d_model % self.heads == 0
        require(divides, "heads", self.heads, f"un divisore di d_model = {self.d_model}")

    @property
    def d_k(self) -> int:
        """La larghezza di una testa."""
        return self.d_model // self.heads


READER = Layer(d_model=768, heads=12, d_ff=3072)
"""Lo strato del lettore, in BF16."""


@dataclass(frozen=True)
class Batch:
    """Ciò che entra nello strato, tutto insieme.

    Argomenti:
        sequences: quante sequenze.
        queries: posizioni di ciascuna che si calcolano: tutte nell'encoder, una sola
            nel passo di un decoder.
        keys: posizioni che ognuna guarda; nel passo di un decoder, quelle nella
            KV cache più la propria.
    """

    sequences: int
    queries: int
    keys: int

    @property
    def tokens(self) -> int:
        """Le righe delle GEMM con i pesi."""
        return self.sequences * self.queries

    def scores(self, layer: Layer) -> int:
        """Quanti punteggi calcolano le teste."""
        return self.sequences * layer.heads * self.queries * self.keys


def encoder(sequences: int, length: int) -> Batch:
    """Un batch dell'encoder: ogni posizione guarda tutta la sua sequenza."""
    return Batch(sequences, length, length)


SOFTMAX_FLOPS = 6
"""Per ogni punteggio: la divisione per √d_k, il massimo, la sottrazione, l'esponenziale,
la somma, la divisione per la somma."""

NORM_FLOPS = 8
"""Per ogni numero: la somma del residuo, la media, lo scarto, il quadrato, la sua somma,
il prodotto per 1/σ, il guadagno, il termine costante."""


def literal_attention(batch: Batch, layer: Layer) -> list[Work]:
    """L'equazione (1) in tre kernel: i punteggi passano dalla memoria fra l'uno e l'altro."""
    copies, scores = batch.sequences * layer.heads, batch.scores(layer)
    return [
        gemm("QKᵀ", batch.queries, layer.d_k, batch.keys, layer.size, copies),
        Work("softmax", SOFTMAX_FLOPS * scores, 2 * scores * layer.size, exponentials=scores),
        gemm("PV", batch.queries, batch.keys, layer.d_k, layer.size, copies),
    ]


def fused_attention(batch: Batch, layer: Layer) -> Work:
    """L'equazione (1) in un kernel: dalla memoria passano solo Q, K, V e l'uscita.

    I FLOP sono quelli dei due prodotti; della softmax si contano le esponenziali.
    """
    scores = batch.scores(layer)
    numbers = 2 * batch.sequences * (batch.queries + batch.keys) * layer.d_model
    return Work("fusa", 4 * scores * layer.d_k, numbers * layer.size, True, scores)


def add_and_norm(batch: Batch, layer: Layer) -> Work:
    """LayerNorm(x + sotto-strato): due letture, una scrittura, guadagno e termine costante."""
    numbers = batch.tokens * layer.d_model
    moved = 3 * numbers + 2 * layer.d_model
    return Work("add&norm", NORM_FLOPS * numbers, moved * layer.size)


def relu(batch: Batch, layer: Layer) -> Work:
    """La ReLU come kernel a sé: un confronto, una lettura, una scrittura per numero."""
    numbers = batch.tokens * layer.d_ff
    return Work("ReLU", numbers, 2 * numbers * layer.size)


def layer_works(batch: Batch, layer: Layer, fused: bool = False) -> list[Work]:
    """Le operazioni di uno strato, nell'ordine in cui si eseguono.

    I termini costanti delle GEMM si sommano prima di scrivere l'uscita, e non sono contati.

    Argomenti:
        batch: che cosa entra.
        layer: le misure dello strato.
        fused: con l'attenzione in un kernel solo, invece che in tre.
    """
    n, d, f, size = batch.tokens, layer.d_model, layer.d_ff, layer.size
    attention = [fused_attention(batch, layer)] if fused else literal_attention(batch, layer)
    return [
        gemm("QKV", n, d, 3 * d, size),
        *attention,
        gemm("W_O", n, d, d, size),
        add_and_norm(batch, layer),
        gemm("Linear1", n, d, f, size),
        relu(batch, layer),
        gemm("Linear2", n, f, d, size),
        add_and_norm(batch, layer),
    ]
