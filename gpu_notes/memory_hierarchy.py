"""La gerarchia di memoria: quanto è grande, quanto è lontana, e che cosa tocca un accesso.

Un warp presenta alla memoria fino a 32 indirizzi in una volta. Quanti settori di memoria globale
toccano, e quanti turni chiedono ai banchi della memoria condivisa, si conta dagli indirizzi.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

from attention.s0_abstract import require
from gpu_notes.sm_map import (
    PARTITIONS,
    REGISTERS,
    REGISTERS_PER_THREAD,
    WARP,
    Gpu,
    issue_interval,
)

WORD = 4
"""Byte di un registro, di una parola di banco, di un numero in FP32."""


def register_bytes(gpu: Gpu) -> int:
    """Byte di registri di tutto il chip."""
    return gpu.sms * REGISTERS * WORD


REGISTER_UNIT = 256
"""I registri si assegnano a un warp a gruppi di tanti: otto per thread."""


def allocated_registers(per_thread: int) -> int:
    """I registri che un warp occupa davvero, arrotondati al gruppo.

    Argomenti:
        per_thread: quanti registri per thread ha deciso il compilatore, da 1 a 255.

    Solleva:
        ValueError: se sono fuori da quell'intervallo.
    """
    fits = 1 <= per_thread <= REGISTERS_PER_THREAD
    require(fits, "per_thread", per_thread, f"da 1 a {REGISTERS_PER_THREAD}")
    groups = -(-per_thread * WARP // REGISTER_UNIT)
    return groups * REGISTER_UNIT


def warps_by_registers(per_thread: int) -> int:
    """Quanti warp stanno nei registri di un SM, una partizione per volta.

    Argomenti:
        per_thread: come in `allocated_registers`.
    """
    each = REGISTERS // PARTITIONS // allocated_registers(per_thread)
    return PARTITIONS * each


def resident_warps(gpu: Gpu, per_thread: int) -> int:
    """Quanti warp possono stare insieme su un SM, per i registri e per i posti che ha.

    Argomenti:
        gpu: una scheda della tabella.
        per_thread: come in `allocated_registers`.
    """
    return min(gpu.warps, warps_by_registers(per_thread))


SHARED_UNIT = 128
"""La memoria condivisa si assegna a un blocco a gruppi di tanti byte."""

SHARED_RESERVED = 1024
"""I byte di memoria condivisa che il sistema tiene per sé in ogni blocco."""


def blocks_by_shared(gpu: Gpu, shared: int) -> int:
    """In quanti blocchi si divide la memoria condivisa di un SM; 0 se uno solo non ci sta.

    Argomenti:
        gpu: una scheda della tabella.
        shared: i byte che ogni blocco chiede.

    Solleva:
        ValueError: se sono meno di zero.
    """
    require(shared >= 0, "shared", shared, "almeno 0 byte")
    store = gpu.shared_kib * 1024 + SHARED_RESERVED
    each = -(-shared // SHARED_UNIT) * SHARED_UNIT + SHARED_RESERVED
    return store // each


def resident_blocks(gpu: Gpu, threads: int, per_thread: int, shared: int = 0) -> int:
    """Quanti blocchi stanno insieme su un SM; 0 se neppure uno.

    Argomenti:
        gpu: una scheda della tabella.
        threads: i thread di un blocco, da 1 a 1024.
        per_thread: come in `allocated_registers`.
        shared: i byte di memoria condivisa di un blocco.

    Solleva:
        ValueError: se thread, registri o byte sono fuori dai limiti.
    """
    require(1 <= threads <= 1024, "threads", threads, "da 1 a 1024")
    warps = -(-threads // WARP)
    by_warps = resident_warps(gpu, per_thread) // warps
    return min(gpu.blocks, by_warps, blocks_by_shared(gpu, shared))


class Latency(NamedTuple):
    """Cicli da una lettura al suo risultato, su una scheda, secondo un metodo.

    Argomenti:
        card: la scheda su cui si è misurato.
        l1: il dato è nella cache L1.
        l2: il dato è nella cache L2, nella metà vicina se il metodo le distingue.
        dram: il dato viene dalla memoria principale; il più basso e il più alto dei valori dati.
    """

    card: str
    l1: float
    l2: float
    dram: tuple[float, float]


POINTER_CHASE = (
    Latency("A100 PCIe", 32.7, 203, (541, 566)),
    Latency("H800 PCIe", 32.1, 264, (623, 657)),
    Latency("RTX 4090", 36.1, 285, (561, 572)),
)
"""Catena di puntatori a caso, a 1395, 1755 e 2235 MHz: registri pubblici del deposito HPMLL."""

HOPPER_PAPER = (
    Latency("A100 PCIe", 37.9, 261.5, (466.3, 466.3)),
    Latency("H800 PCIe", 40.7, 263.0, (478.8, 478.8)),
    Latency("RTX 4090", 43.4, 273.0, (541, 541)),
)
"""Tabella IV di arXiv 2402.13499, altro metodo. Riscontrate solo L2 e DRAM di A100 e H800."""

SHARED_LATENCY = 29
"""Cicli di una lettura dalla memoria condivisa su A100 e H800, nella stessa tabella IV."""

FFMA_LATENCY = 4
"""Cicli da una FFMA a quella che ne usa il risultato: guida CUDA, per le compute capability 7.x."""


def lost_ffma(gpu: Gpu, cycles: float) -> int:
    """Le FFMA di warp che una partizione avrebbe emesso mentre un'attesa dura.

    Argomenti:
        gpu: una scheda della tabella.
        cycles: i cicli d'attesa.
    """
    return int(cycles // issue_interval(gpu.fp32_lanes))


def bytes_per_cycle(gpu: Gpu, speed: float) -> float:
    """Una banda del chip, divisa fra gli SM e per ciclo.

    Argomenti:
        gpu: una scheda della tabella; il ciclo è quello dei Tensor Core.
        speed: byte al secondo di tutto il chip.
    """
    return speed / (gpu.sms * gpu.tensor_clock)


SECTOR = 32
"""Byte di un settore: il meno che si chiede alla L2, e alla memoria dietro di lei."""

LINE = 128
"""Byte di una riga di cache: quattro settori."""


class Access(NamedTuple):
    """Che cosa tocca in memoria globale un'istruzione di un warp.

    Argomenti:
        sectors: i settori toccati, in ordine.
        lines: le righe di cache toccate, in ordine.
        useful: i byte chiesti, contati una volta.
    """

    sectors: list[int]
    lines: list[int]
    useful: int

    @property
    def efficiency(self) -> float:
        """I byte chiesti su quelli mossi: 1 quando i settori servono per intero."""
        return self.useful / (len(self.sectors) * SECTOR)


def check_warp(addresses: Sequence[int], width: int) -> None:
    """Controlla gli indirizzi di un warp: da 1 a 32, non negativi, multipli della larghezza.

    Solleva:
        ValueError: nominando l'argomento; un indirizzo disallineato è un errore anche sulla GPU.
    """
    require(width in (1, 2, 4, 8, 16), "width", width, "1, 2, 4, 8 o 16 byte")
    lanes = len(addresses)
    require(1 <= lanes <= WARP, "addresses", f"{lanes} indirizzi", f"da 1 a {WARP}")
    wrong = [address for address in addresses if address < 0 or address % width]
    require(not wrong, "addresses", wrong[:1], f"multipli di {width} byte, da 0 in su")


def coalesce(addresses: Sequence[int], width: int = WORD) -> Access:
    """I settori e le righe che gli indirizzi di un warp toccano in memoria globale.

    Argomenti:
        addresses: un indirizzo in byte per corsia accesa.
        width: i byte che ogni corsia legge o scrive.

    Solleva:
        ValueError: come in `check_warp`.
    """
    check_warp(addresses, width)
    sectors = {address // SECTOR for address in addresses}
    lines = {address // LINE for address in addresses}
    return Access(sorted(sectors), sorted(lines), width * len(set(addresses)))


def strided(stride: int, width: int = WORD, base: int = 0) -> list[int]:
    """Gli indirizzi di un warp in cui la corsia t prende l'elemento `stride` · t.

    Argomenti:
        stride: il passo, in elementi.
        width: i byte di un elemento.
        base: l'indirizzo del primo.
    """
    return [base + width * stride * lane for lane in range(WARP)]


def row_major(i: int, j: int, columns: int) -> int:
    """Il posto dell'elemento (i, j), contando da zero, se le righe sono contigue: C, PyTorch."""
    return i * columns + j


def column_major(i: int, j: int, rows: int) -> int:
    """Il posto dell'elemento (i, j), contando da zero, se le colonne sono contigue: Fortran."""
    return i + j * rows


BANKS = 32
"""I banchi della memoria condivisa, larghi una parola: 128 byte per ciclo."""


def bank(address: int) -> int:
    """Il banco di un indirizzo in byte: parole consecutive stanno in banchi consecutivi."""
    return address // WORD % BANKS


def conflict_degree(addresses: Sequence[int]) -> int:
    """In quanti turni la memoria condivisa serve un warp: 1 senza conflitti, al peggio 32.

    In ogni turno un banco dà una parola, e la dà a tutte le corsie che la vogliono.

    Argomenti:
        addresses: un indirizzo in byte per corsia accesa; ognuna chiede una parola.

    Solleva:
        ValueError: come in `check_warp`.
    """
    check_warp(addresses, WORD)
    wanted: dict[int, set[int]] = defaultdict(set)
    for address in addresses:
        wanted[bank(address)].add(address)
    return max(len(words) for words in wanted.values())
