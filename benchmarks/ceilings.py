"""I tetti: che cosa fa al meglio questa macchina, oggi, e che cosa dichiara la scheda tecnica.

Si misurano una volta per sessione: il prodotto di matrici più veloce in ogni formato, e la copia
di un blocco più grande di ogni cache. La scheda tecnica viene dalla tabella di `gpu_notes.sm_map`,
se il chip è fra quelli; se no, non si indovina.
"""

import statistics
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.stopwatch import DEVICE, Run, timed
from gpu_notes.sm_map import GPUS, Gpu, peak

FORMATS = {
    "FP32": torch.float32,
    "TF32": torch.float32,
    "FP16": torch.float16,
    "BF16": torch.bfloat16,
    "FP8": torch.float8_e4m3fn,
}
"""I formati degli operandi, con i nomi delle schede tecniche, e il tipo in cui stanno."""

GEMM_SIDES = {"cuda": (4096, 8192), "cpu": (1024, 2048)}
"""I lati delle matrici quadrate con cui si cerca il prodotto più veloce."""

COPIED = {"cuda": 2**30, "cpu": 2**28}
"""Quanti byte ha il blocco che si copia."""

REPETITIONS = 7
"""Quante volte si misura ogni tetto; vale la mediana."""

FIRST_CAPABILITY = {"TF32": (8, 0), "BF16": (8, 0), "FP8": (8, 9)}
"""La prima generazione di NVIDIA che moltiplica in un formato; gli altri li hanno tutte."""

BOOST = 1.5
"""Di quanto, al più, la frequenza massima di una scheda supera quella dei picchi dichiarati."""


EMULATED = {"FP32": {"TF32": 3, "BF16": 9}}
"""Quanti prodotti, sommati, ne imitano uno in un altro formato: sui Tensor Core, cuBLAS lo fa."""


def at_best(form: str, rates: Mapping[str, float]) -> float:
    """Il ritmo più alto in un formato, anche imitato, dati quelli di tutti; zero, se non si sa."""
    products = {form: 1, **EMULATED.get(form, {})}
    return max(rates.get(other, 0.0) / count for other, count in products.items())


@dataclass(frozen=True)
class Ceilings:
    """I tetti di una sessione.

    Argomenti:
        gemm: per ogni formato, FLOP al secondo del prodotto più veloce.
        sides: per ogni formato, il lato delle sue matrici.
        copy: byte al secondo di una copia, letti e scritti.
        chip: la scheda nella tabella delle GPU, se è riconosciuta.
        clocks: le frequenze, in MHz, e la potenza, in watt, lette durante un prodotto.
    """

    gemm: dict[str, float]
    sides: dict[str, int]
    copy: float
    chip: Gpu | None = None
    clocks: dict[str, float] = field(default_factory=dict)

    def published(self) -> dict[str, Any]:
        """I tetti come si scrivono nei risultati."""
        return {
            "gemm": {
                name: {"gflops": rate / 1e9, "size": self.sides[name], "datasheet": self.peak(name)}
                for name, rate in self.gemm.items()
            },
            "copy_gbs": self.copy / 1e9,
            "chip": self.chip and self.chip.name,
            "datasheet_gbs": self.chip and self.chip.bandwidth / 1e9,
            "clocks": self.clocks,
        }

    def boost(self, form: str) -> float:
        """Quante volte la frequenza di un picco dichiarato sta in quella massima; almeno una."""
        if self.chip is None:
            return 1.0
        declared = self.chip.clock if form == "FP32" else self.chip.tensor_clock
        return max(1.0, self.clocks.get("sm_max_mhz", 0.0) * 1e6 / declared)

    def fastest_clock(self, chip: Gpu) -> float:
        """Hz che gli SM di una scheda non superano: quelli letti o, se mancano, i più alti."""
        return self.clocks.get("sm_max_mhz", BOOST * chip.clock / 1e6) * 1e6

    def fastest(self, form: str) -> float | None:
        """GFLOP/s che in un formato il chip non supera, nemmeno imitandolo; niente, se non è noto.

        Zero, se quel formato non lo ha.
        """
        peaks = {it: peak * self.boost(it) for it in FORMATS if (peak := self.peak(it))}
        return None if self.chip is None else at_best(form, peaks)

    def peak(self, form: str) -> float | None:
        """GFLOP/s dichiarati in un formato; niente, se il chip non è nella tabella."""
        if self.chip is None or form not in {"FP32", *self.chip.tensor_fma}:
            return None
        return peak(self.chip, form) / 1e9


def measure() -> Ceilings:
    """Misura i tetti: pochi secondi."""
    found = {name: fastest_product(name) for name in measurable()}
    gemm = {name: rate for name, (rate, _) in found.items()}
    sides = {name: side for name, (_, side) in found.items()}
    return Ceilings(gemm, sides, copy_rate(), chip(), clocks())


def measurable() -> list[str]:
    """I formati che questa macchina moltiplica: su CPU, FP32 e BF16.

    Le GPU di AMD numerano le generazioni in un altro modo: nel dubbio, solo quelli di tutte.
    """
    if DEVICE == "cpu":
        return ["FP32", "BF16"]
    capability = (0, 0) if torch.version.hip else torch.cuda.get_device_capability()
    return [name for name in FORMATS if FIRST_CAPABILITY.get(name, (0, 0)) <= capability]


def fastest_product(form: str) -> tuple[float, int]:
    """FLOP al secondo del prodotto più veloce in un formato, e il lato delle sue matrici."""
    rates = {}
    for side in GEMM_SIDES[DEVICE]:
        with products_in(form):
            seconds = median(product(form, side))
        rates[side] = 2 * side**3 / seconds
    side = max(rates, key=rates.__getitem__)
    return rates[side], side


def product(form: str, side: int) -> Run:
    """Il prodotto di due matrici quadrate di numeri a caso."""
    a, b = torch.randn(2, side, side, device=DEVICE, dtype=torch.float32).to(FORMATS[form])
    if form == "FP8":
        return lambda: scaled_product(a, b.T)
    return lambda: a @ b


def scaled_product(a: Tensor, b: Tensor) -> Tensor:
    """Il prodotto in FP8: la prima matrice per righe, la seconda per colonne, uscita in BF16."""
    one = torch.ones((), device=a.device)
    return torch._scaled_mm(a, b, one, one, out_dtype=torch.bfloat16)


@contextmanager
def products_in(form: str) -> Iterator[None]:
    """Dentro, i prodotti FP32 su GPU si fanno in TF32 o, con ogni altro nome, in FP32."""
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision
    settings.fp32_precision = "tf32" if form == "TF32" else "ieee"
    try:
        yield
    finally:
        settings.fp32_precision = before


def copy_rate() -> float:
    """Byte al secondo, letti e scritti, copiando un blocco più grande di ogni cache."""
    source = torch.randn(COPIED[DEVICE] // 4, device=DEVICE, dtype=torch.float32)
    target = torch.empty_like(source)
    return 2 * COPIED[DEVICE] / median(lambda: target.copy_(source))


def median(run: Run) -> float:
    """I secondi mediani di una chiamata, dopo una di prova."""
    run()
    return statistics.median(timed(run) for _ in range(REPETITIONS))


def chip() -> Gpu | None:
    """La scheda nella tabella delle GPU; niente, se non è proprio una di quelle."""
    if DEVICE == "cpu":
        return None
    found = torch.cuda.get_device_properties()
    capability = f"{found.major}.{found.minor}"
    memory = found.total_memory / 1e9
    return recognized(found.name, capability, found.multi_processor_count, memory)


OTHER_CARDS = {
    *("PCIE", "NVL", "TI", "SUPER", "D", "LAPTOP", "MOBILE", "MAX", "MIG", "GRID"),
    *("32GB", "40GB", "64GB", "94GB", "96GB"),
}
"""Le parole che, accanto al nome di una scheda della tabella, ne fanno un'altra."""


def is_named(gpu: Gpu, name: str) -> bool:
    """Vero se un nome è proprio quello di una scheda, e non di una che ne porta anche il nome."""
    words = name.upper().replace("-", " ").split()
    return f" {gpu.name.upper()} " in f" {' '.join(words)} " and OTHER_CARDS.isdisjoint(words)


def recognized(name: str, capability: str, sms: int, memory_gb: float) -> Gpu | None:
    """La scheda della tabella con quel nome, se tornano anche generazione, SM e memoria.

    Lo stesso nome copre schede diverse: le H100 su PCIe hanno meno SM, le A100 da 40 GB una
    memoria più lenta, e lo dice una parola in più. Nel dubbio la scheda non è riconosciuta.
    """
    for gpu in GPUS:
        same_size = sms == gpu.sms and 0.9 < memory_gb / gpu.memory_gb < 1.1
        if is_named(gpu, name) and same_size and capability == gpu.capability:
            return gpu
    return None


CLOCKS = {
    "clocks.sm": "sm_mhz",
    "clocks.mem": "memory_mhz",
    "clocks.max.sm": "sm_max_mhz",
    "power.draw": "watt",
}
"""Che cosa si chiede a nvidia-smi, e come lo si chiama nei risultati."""


LOADED = 1.5
"""Da quanti secondi si moltiplica, quando si chiede: la potenza è la media dell'ultimo secondo."""

PATIENCE = 30.0
"""Dopo quanti secondi in tutto si rinuncia alla risposta."""


def clocks() -> dict[str, float]:
    """Frequenze e potenza, lette mentre la GPU moltiplica; niente, se non si possono leggere."""
    if DEVICE == "cpu":
        return {}
    run = product("BF16", max(GEMM_SIDES[DEVICE]))
    query = f"--query-gpu={','.join(CLOCKS)}"
    command = ["nvidia-smi", f"--id={card()}", query, "--format=csv,noheader,nounits"]
    start = time.perf_counter()
    while time.perf_counter() - start < LOADED:
        run()
        torch.cuda.synchronize()
    try:
        asked = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    except OSError:
        return {}
    while asked.poll() is None:
        if time.perf_counter() - start > PATIENCE:
            asked.kill()
        run()
        torch.cuda.synchronize()
    return read_clocks(asked.communicate()[0])


def card() -> str:
    """La scheda che si misura, come la chiama nvidia-smi: i suoi numeri non sono quelli di CUDA.

    nvidia-smi le elenca tutte, anche quelle che `CUDA_VISIBLE_DEVICES` nasconde.
    """
    return f"GPU-{torch.cuda.get_device_properties().uuid}"


def read_clocks(answer: str) -> dict[str, float]:
    """I numeri della prima riga di nvidia-smi; ciò che non è un numero si lascia fuori."""
    words = (answer.splitlines() or [""])[0].split(",")
    return {
        name: float(word)
        for name, word in zip(CLOCKS.values(), words, strict=False)
        if word.strip().replace(".", "", 1).isdigit()
    }
