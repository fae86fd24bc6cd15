"""La mappa di un SM, e la tabella delle GPU da cui le note prendono i numeri di macchina.

I valori sono quelli dichiarati; i picchi, invece, si ricalcolano dai pezzi: SM, operazioni per
ciclo, frequenza. Se un pezzo è sbagliato, il picco non torna.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from attention.s0_abstract import require

PARTITIONS = 4
"""Partizioni di un SM, ognuna con il suo scheduler di warp: da Volta (7.0) a Blackwell (12.0)."""

TENSOR_CORES = PARTITIONS
"""Tensor Core di un SM: uno per partizione, dalla A100 in poi."""

WARP = 32
"""Thread di un warp: uguale in tutte le GPU di NVIDIA prodotte finora."""

REGISTERS = 65_536
"""Registri da 32 bit in un SM."""

REGISTERS_PER_THREAD = 255
"""Quanti registri può avere al massimo un thread."""

SFU_LANES = 16
"""Corsie delle SFU in un SM: quattro per partizione."""

LDST_DRAWN: Mapping[str, int] = {"GA100": 32, "GA102": 16, "AD102": 16, "GH100": 32}
"""Unità LD/ST in un SM, chip per chip, come le ricordiamo dai disegni: da prendere con riserva."""


@dataclass(frozen=True)
class Gpu:
    """Una GPU di una certa scheda: quanti SM, che cosa c'è in ciascuno, quanta memoria attorno.

    Argomenti:
        name: il nome commerciale.
        chip: il nome del chip.
        year: l'anno di presentazione.
        capability: la *compute capability*, per esempio 9.0.
        sms: gli SM attivi.
        sms_on_chip: gli SM disegnati sul chip intero.
        fp32_lanes: corsie FP32 di un SM, i «CUDA core».
        int32_lanes: corsie intere di un SM.
        fp64_lanes: corsie FP64 di un SM, Tensor Core esclusi.
        tensor_generation: la generazione dei Tensor Core, quattro per SM.
        tensor_fma: moltiplica-e-accumula per ciclo e per SM dei Tensor Core, per formato, con
            accumulo in FP32.
        warps: quanti warp può tenere un SM.
        blocks: quanti blocchi può tenere un SM.
        l1_kib: KiB di cache L1 e memoria condivisa insieme, per SM.
        shared_kib: KiB di memoria condivisa che un solo blocco può chiedere.
        l2_mb: MB di cache L2.
        memory_gb: GB di memoria principale.
        bandwidth: byte al secondo della memoria principale.
        clock: Hz a cui sono dichiarati i picchi dei CUDA core.
        tensor_clock: Hz a cui sono dichiarati i picchi dei Tensor Core.
        declared: i picchi dichiarati, densi, in TFLOP/s per formato.
        doubtful: i campi su cui le fonti non concordano, o che non abbiamo potuto verificare,
            ciascuno con la ragione.
    """

    name: str
    chip: str
    year: int
    capability: str
    sms: int
    sms_on_chip: int
    fp32_lanes: int
    int32_lanes: int
    fp64_lanes: int
    tensor_generation: int
    tensor_fma: Mapping[str, int]
    warps: int
    blocks: int
    l1_kib: int
    shared_kib: int
    l2_mb: float
    memory_gb: int
    bandwidth: float
    clock: float
    tensor_clock: float
    declared: Mapping[str, float]
    doubtful: Mapping[str, str] = field(default_factory=dict)


def lanes_per_scheduler(gpu: Gpu) -> int:
    """Le corsie FP32 di una partizione: quante ne comanda un solo scheduler di warp."""
    return gpu.fp32_lanes // PARTITIONS


def cycles_per_fp32_instruction(gpu: Gpu) -> int:
    """Cicli in cui le corsie FP32 di una partizione smaltiscono un'istruzione di un warp."""
    return WARP // lanes_per_scheduler(gpu)


def issue_interval(lanes: int) -> int:
    """Ogni quanti cicli, in media, una partizione può mandare un'istruzione a quelle corsie.

    Argomenti:
        lanes: le corsie di un certo tipo in tutto l'SM, da 1 a 128.

    Solleva:
        ValueError: se le corsie non dividono i 128 thread che le quattro partizioni presentano.
    """
    threads = PARTITIONS * WARP
    fits = lanes > 0 and threads % lanes == 0
    require(fits, "lanes", lanes, f"un divisore di {threads}")
    return threads // lanes


def warps_per_scheduler(gpu: Gpu) -> int:
    """Quanti warp al massimo sono assegnati a uno scheduler, e a nessun altro."""
    return gpu.warps // PARTITIONS


def lanes_to_feed(schedulers: int) -> int:
    """Le corsie che servirebbero se ogni scheduler desse a ogni ciclo un'istruzione a un warp.

    Argomenti:
        schedulers: quanti scheduler, veri o supposti, in un SM.
    """
    return schedulers * WARP


A100 = Gpu(
    name="A100",
    chip="GA100",
    year=2020,
    capability="8.0",
    sms=108,
    sms_on_chip=128,
    fp32_lanes=64,
    int32_lanes=64,
    fp64_lanes=32,
    tensor_generation=3,
    tensor_fma={"TF32": 512, "FP16": 1024, "BF16": 1024},
    warps=64,
    blocks=32,
    l1_kib=192,
    shared_kib=163,
    l2_mb=40,
    memory_gb=80,
    bandwidth=2.039e12,
    clock=1.410e9,
    tensor_clock=1.410e9,
    declared={"FP32": 19.5, "TF32": 156, "FP16": 312, "BF16": 312},
)
"""Il cavallo da tiro degli anni 2020–2022, nella versione con 80 GB."""

RTX_3090 = Gpu(
    name="RTX 3090",
    chip="GA102",
    year=2020,
    capability="8.6",
    sms=82,
    sms_on_chip=84,
    fp32_lanes=128,
    int32_lanes=64,
    fp64_lanes=2,
    tensor_generation=3,
    tensor_fma={"TF32": 128, "FP16": 256, "BF16": 256},
    warps=48,
    blocks=16,
    l1_kib=128,
    shared_kib=99,
    l2_mb=6,
    memory_gb=24,
    bandwidth=0.936e12,
    clock=1.695e9,
    tensor_clock=1.695e9,
    declared={"FP32": 35.6, "TF32": 35.6, "FP16": 71.2, "BF16": 71.2},
    doubtful={
        "bandwidth": "non riscontrata su una fonte primaria",
        "clock": "non riscontrata su una fonte primaria; il picco torna",
        "tensor_clock": "presa uguale a quella dei CUDA core; il picco torna",
        "tensor_fma": "da una fonte terza; con accumulo in FP16 sarebbe il doppio",
    },
)
"""Ampere da gioco: stessa generazione della A100, altro SM."""

RTX_4090 = Gpu(
    name="RTX 4090",
    chip="AD102",
    year=2022,
    capability="8.9",
    sms=128,
    sms_on_chip=144,
    fp32_lanes=128,
    int32_lanes=64,
    fp64_lanes=2,
    tensor_generation=4,
    tensor_fma={"TF32": 128, "FP16": 256, "BF16": 256, "FP8": 512},
    warps=48,
    blocks=24,
    l1_kib=128,
    shared_kib=99,
    l2_mb=72,
    memory_gb=24,
    bandwidth=1.008e12,
    clock=2.520e9,
    tensor_clock=2.520e9,
    declared={"FP32": 82.6, "TF32": 82.6, "FP16": 165.2, "BF16": 165.2, "FP8": 330},
    doubtful={
        "clock": "non riscontrata su una fonte primaria; il picco torna",
        "tensor_clock": "presa uguale a quella dei CUDA core; il picco torna",
        "tensor_fma": "da una fonte terza; con accumulo in FP16 sarebbe il doppio",
        "declared": "il valore FP8 non è riscontrato su una fonte primaria",
    },
)
"""Ada da gioco."""

H100 = Gpu(
    name="H100",
    chip="GH100",
    year=2022,
    capability="9.0",
    sms=132,
    sms_on_chip=144,
    fp32_lanes=128,
    int32_lanes=64,
    fp64_lanes=64,
    tensor_generation=4,
    tensor_fma={"TF32": 1024, "FP16": 2048, "BF16": 2048, "FP8": 4096},
    warps=64,
    blocks=32,
    l1_kib=256,
    shared_kib=227,
    l2_mb=50,
    memory_gb=80,
    bandwidth=3.35e12,
    clock=1.98e9,
    tensor_clock=1.83e9,
    declared={"FP32": 66.9, "TF32": 494.7, "FP16": 989.4, "BF16": 989.4, "FP8": 1979},
    doubtful={
        "clock": "da una fonte terza; il picco torna",
        "tensor_clock": "da una fonte terza; il picco torna",
    },
)
"""Hopper, nella versione SXM."""

H200 = replace(H100, name="H200", year=2023, memory_gb=141, bandwidth=4.8e12)
"""Lo stesso chip della H100 con un'altra memoria: è la scheda dei conti di questa edizione."""

B200 = Gpu(
    name="B200",
    chip="GB100",
    year=2024,
    capability="10.0",
    sms=148,
    sms_on_chip=160,
    fp32_lanes=128,
    int32_lanes=64,
    fp64_lanes=64,
    tensor_generation=5,
    tensor_fma={"TF32": 2048, "FP16": 4096, "BF16": 4096, "FP8": 8192, "FP4": 16_384},
    warps=64,
    blocks=32,
    l1_kib=256,
    shared_kib=227,
    l2_mb=126,
    memory_gb=180,
    bandwidth=8.0e12,
    clock=1.98e9,
    tensor_clock=1.86e9,
    declared={"FP32": 75, "TF32": 1125, "FP16": 2250, "BF16": 2250, "FP8": 4500, "FP4": 9000},
    doubtful={
        "sms_on_chip": "non riscontrato",
        "memory_gb": "180 nei server HGX; altre configurazioni dichiarano di più",
        "bandwidth": "7,7 TB/s nei server HGX",
        "clock": "ricavata dal picco: lì il conto torna per costruzione",
        "tensor_clock": "ricavata dal picco: lì il conto torna per costruzione",
    },
)
"""Blackwell da calcolo: due chip in un solo contenitore, visti come una GPU sola."""

RTX_5090 = Gpu(
    name="RTX 5090",
    chip="GB202",
    year=2025,
    capability="12.0",
    sms=170,
    sms_on_chip=192,
    fp32_lanes=128,
    int32_lanes=64,
    fp64_lanes=2,
    tensor_generation=5,
    tensor_fma={"TF32": 128, "FP16": 256, "BF16": 256, "FP8": 512, "FP4": 2048},
    warps=48,
    blocks=24,
    l1_kib=128,
    shared_kib=99,
    l2_mb=96,
    memory_gb=32,
    bandwidth=1.792e12,
    clock=2.407e9,
    tensor_clock=2.407e9,
    declared={"FP32": 104.8, "TF32": 104.8, "FP16": 209.5, "BF16": 209.5, "FP8": 419, "FP4": 1676},
    doubtful={
        "int32_lanes": "64 nella guida CUDA, 128 unificate con le FP32 nel whitepaper",
        "l1_kib": "100 nella guida CUDA, 128 nel whitepaper",
        "l2_mb": "da una fonte terza",
        "tensor_fma": "da una fonte terza; con accumulo in FP16 sarebbe il doppio",
        "tensor_generation": "che i Tensor Core siano quattro per SM viene da una fonte terza",
    },
)
"""Blackwell da gioco."""

GPUS = (A100, RTX_3090, RTX_4090, H100, H200, B200, RTX_5090)
"""La tabella, per anno."""

SOURCES: Mapping[str, str] = {
    "year": "annunci di NVIDIA",
    "capability": "guida CUDA 13.1",
    "sms": "schede tecniche e whitepaper di NVIDIA",
    "sms_on_chip": "whitepaper di NVIDIA",
    "fp32_lanes": "guida CUDA 13.1, capitolo sulle compute capability",
    "int32_lanes": "guida CUDA 13.1, capitolo sulle compute capability",
    "fp64_lanes": "guida CUDA 13.1, capitolo sulle compute capability",
    "tensor_generation": "guida CUDA 13.1; whitepaper di NVIDIA",
    "tensor_fma": "tabelle di PyTorch 2.15 per A100, H100, B200; fonti terze per le GeForce",
    "warps": "guida CUDA 13.1, tabella dei limiti",
    "blocks": "guida CUDA 13.1, tabella dei limiti; cuda_occupancy.h",
    "l1_kib": "guida CUDA 13.1, capitolo sulle compute capability",
    "shared_kib": "guida CUDA 13.1, tabella dei limiti",
    "l2_mb": "schede tecniche di NVIDIA",
    "memory_gb": "schede tecniche di NVIDIA",
    "bandwidth": "schede tecniche di NVIDIA",
    "clock": "schede tecniche per A100 e RTX 5090; altrove la frequenza che dà il picco FP32",
    "tensor_clock": "come `clock`, con i picchi dei Tensor Core",
    "declared": "schede tecniche e whitepaper di NVIDIA, divisi per due dove c'è la sparsità",
}
"""Da dove viene ciascun campo; le eccezioni stanno in `Gpu.doubtful`."""


def fma_per_clock(gpu: Gpu, dtype: str) -> int:
    """Moltiplica-e-accumula per ciclo e per SM in un formato: FP32 sui CUDA core, il resto altrove.

    Argomenti:
        gpu: una scheda della tabella.
        dtype: «FP32», oppure un formato dei Tensor Core: «TF32», «FP16», «BF16», «FP8», «FP4».

    Solleva:
        ValueError: se quella scheda non ha quel formato.
    """
    rates = {"FP32": gpu.fp32_lanes, **gpu.tensor_fma}
    if dtype not in rates:
        raise ValueError(f"dtype: {dtype!r} non c'è sulla {gpu.name}; atteso uno fra {list(rates)}")
    return rates[dtype]


def fma_per_tensor_core(gpu: Gpu, dtype: str) -> int:
    """Moltiplica-e-accumula per ciclo di un solo Tensor Core, cioè di una partizione.

    Argomenti:
        gpu: una scheda della tabella.
        dtype: un formato dei Tensor Core.

    Solleva:
        ValueError: se i Tensor Core di quella scheda non hanno quel formato.
    """
    formats = gpu.tensor_fma
    require(dtype in formats, "dtype", repr(dtype), f"uno fra {list(formats)} sulla {gpu.name}")
    return formats[dtype] // TENSOR_CORES


def peak(gpu: Gpu, dtype: str) -> float:
    """FLOP al secondo che la GPU farebbe senza mai aspettare: SM · FMA · 2 · frequenza.

    Argomenti:
        gpu: una scheda della tabella.
        dtype: il formato, come in `fma_per_clock`.
    """
    clock = gpu.clock if dtype == "FP32" else gpu.tensor_clock
    return gpu.sms * fma_per_clock(gpu, dtype) * 2 * clock


SPARSITY = 2
"""Il fattore che le schede tecniche mettono davanti ai picchi dei Tensor Core."""


def printed_peak(gpu: Gpu, dtype: str) -> float:
    """Il picco stampato in grande: quello dei Tensor Core è raddoppiato dalla *sparsity*.

    Argomenti:
        gpu: una scheda della tabella.
        dtype: il formato, come in `fma_per_clock`.
    """
    return peak(gpu, dtype) * (1 if dtype == "FP32" else SPARSITY)


def knee(gpu: Gpu, dtype: str) -> float:
    """Il ginocchio: quanti FLOP per byte letto servono perché la memoria non faccia aspettare.

    Argomenti:
        gpu: una scheda della tabella.
        dtype: il formato, come in `fma_per_clock`.
    """
    return peak(gpu, dtype) / gpu.bandwidth
