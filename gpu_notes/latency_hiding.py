"""Nascondere la latenza: quanto lavoro deve essere in corso perché nessuno resti ad aspettare.

Tre conti: i posti di emissione di uno scheduler, i byte in volo verso la memoria, i warp che uno
SM può tenere. E i programmi con cui il simulatore li mette alla prova.
"""

import math
from typing import NamedTuple

from attention.s0_abstract import require
from gpu_notes.memory_hierarchy import WORD, blocks_by_shared, warps_by_registers
from gpu_notes.sm_assembler import WIDTHS
from gpu_notes.sm_map import WARP, Gpu
from gpu_notes.sm_simulator import Parameters, Run


def issue_share(warps: int, instructions: int, cycles: float) -> float:
    """La frazione dei posti di uno scheduler che i warp riempiono: 1 se non resta mai a mani vuote.

    Argomenti:
        warps: quanti warp ha quello scheduler.
        instructions: quante istruzioni emette ciascuno prima di tornare al punto di partenza.
        cycles: quanti cicli gli ci vogliono, attese comprese, se è da solo.
    """
    return min(1.0, warps * instructions / cycles)


def warps_to_fill(instructions: int, cycles: float) -> int:
    """Quanti warp servono a uno scheduler per avere sempre qualcosa da emettere.

    Argomenti:
        instructions: come in `issue_share`.
        cycles: come in `issue_share`.
    """
    return math.ceil(cycles / instructions)


def ffma(chains: int, length: int) -> str:
    """Un programma di FFMA: tante catene indipendenti, alternate, ciascuna lunga `length`.

    Argomenti:
        chains: quante catene, da 1 a 200.
        length: quante FFMA per catena.

    Solleva:
        ValueError: se le catene non stanno nei registri.
    """
    require(1 <= chains <= 200, "chains", chains, "da 1 a 200")
    step = [f"FFMA R{chain}, R{chain}, 1.0, 1.0" for chain in range(chains)]
    return "\n".join(step * length + ["EXIT"])


class Trip(NamedTuple):
    """Il viaggio fino alla memoria principale e ritorno, misurato da altri su una scheda.

    Argomenti:
        card: la scheda.
        cycles: i cicli, con una catena di puntatori.
        clock: la frequenza a cui li si è contati, in Hz.
    """

    card: str
    cycles: float
    clock: float

    @property
    def seconds(self) -> float:
        """La durata del viaggio."""
        return self.cycles / self.clock


HOPPER_TRIP = Trip("H800 PCIe", 638, 1.755e9)
"""Dai microbenchmark HPMLL, che danno da 623 a 657 cicli secondo quanta memoria si percorre."""

AMPERE_TRIP = Trip("A100 PCIe", 553, 1.395e9)
"""Dalla stessa fonte: da 541 a 566 cicli."""


def in_flight(bandwidth: float, seconds: float) -> float:
    """Legge di Little: i byte in viaggio in ogni istante, se la banda è piena.

    Argomenti:
        bandwidth: byte al secondo.
        seconds: quanto dura il viaggio di un byte.
    """
    return bandwidth * seconds


def per_sm(gpu: Gpu, trip: Trip, sms: int = 0) -> float:
    """I byte che ogni SM deve tenere in viaggio perché la memoria del chip sia satura.

    Argomenti:
        gpu: una scheda della tabella.
        trip: la latenza.
        sms: quanti SM lavorano; 0 vuol dire tutti.
    """
    return in_flight(gpu.bandwidth, trip.seconds) / (sms or gpu.sms)


def offered(warps: int, width: int = 1, loads: int = 1) -> int:
    """I byte che un SM mette in viaggio, se ogni warp ha sempre le sue letture in corso.

    Argomenti:
        warps: i warp presenti.
        width: parole da 4 byte per corsia e per lettura: 1, 2 o 4.
        loads: letture indipendenti per warp.
    """
    return warps * WARP * WORD * width * loads


def warps_for_bandwidth(gpu: Gpu, trip: Trip, width: int = 1, loads: int = 1) -> int:
    """Quanti warp per SM servono a riempire la banda; può venire più di quanti ce ne stanno.

    Argomenti:
        gpu: una scheda della tabella.
        trip: la latenza.
        width: come in `offered`.
        loads: come in `offered`.
    """
    return math.ceil(per_sm(gpu, trip) / offered(1, width, loads))


def stream(width: int, loads: int, rounds: int, warps: int) -> str:
    """Un programma che legge memoria sempre nuova: per giro, `loads` letture e poi la loro somma.

    Argomenti:
        width: parole per corsia e per lettura: 1, 2 o 4.
        loads: letture indipendenti per giro, da 1 a 8.
        rounds: quanti giri.
        warps: con quanti warp lo si eseguirà; da qui la grandezza dell'array.

    Solleva:
        ValueError: se `width` o `loads` sono fuori dai limiti.
    """
    suffixes = {words: suffix for suffix, words in WIDTHS.items()}
    require(width in suffixes, "width", width, f"una fra {sorted(suffixes)}")
    require(1 <= loads <= 8, "loads", loads, "da 1 a 8")
    stride = offered(warps, width)
    rows = [f".global X {stride * loads * rounds // WORD}", f"MOV R1, {rounds}", "S2R R0, TID"]
    rows += [f"IMAD R0, R0, {WORD * width}, RZ", "giro: IADD R1, R1, -1"]
    for load in range(loads):
        rows.append(f"LDG{suffixes[width]} R{8 + 4 * load}, [R0+X+{stride * load}]")
    rows += [f"IADD R0, R0, {stride * loads}", "ISETP.GT P0, R1, 0"]
    rows += [f"FADD R2, R2, R{8 + 4 * load}" for load in range(loads)]
    return "\n".join([*rows, "@P0 BRA giro", "EXIT"])


def bandwidth(result: Run) -> float:
    """La banda raggiunta in un'esecuzione, in byte per ciclo: avvio e coda compresi."""
    return result.counts["byte da e per la memoria"] / result.cycles


def little(warps: int, width: int, loads: int, machine: Parameters) -> float:
    """La banda che la legge di Little concede, in byte per ciclo: i byte in volo per la latenza.

    Argomenti:
        warps: i warp presenti.
        width: come in `offered`.
        loads: come in `offered`.
        machine: i numeri del simulatore.
    """
    return min(machine.dram_bytes, offered(warps, width, loads) / machine.dram_latency)


class Occupancy(NamedTuple):
    """Quanti blocchi e quanti warp stanno insieme su un SM, e che cosa impedisce di più.

    Argomenti:
        blocks: i blocchi.
        warps: i warp.
        limits: quanti blocchi concederebbe ogni risorsa, da sola.
    """

    blocks: int
    warps: int
    limits: dict[str, int]

    @property
    def binding(self) -> list[str]:
        """Le risorse che finiscono per prime."""
        return [name for name, blocks in self.limits.items() if blocks == self.blocks]


def occupancy(gpu: Gpu, threads: int, registers: int, shared: int = 0) -> Occupancy:
    """L'occupazione di un SM: il minimo fra quattro risorse.

    Argomenti:
        gpu: una scheda della tabella.
        threads: thread per blocco, da 1 a 1024.
        registers: registri per thread, da 1 a 255.
        shared: byte di memoria condivisa per blocco.

    Solleva:
        ValueError: se un argomento è fuori dai limiti.
    """
    require(1 <= threads <= 1024, "threads", threads, "da 1 a 1024")
    each = math.ceil(threads / WARP)
    limits = {
        "warp": gpu.warps // each,
        "blocchi": gpu.blocks,
        "registri": warps_by_registers(registers) // each,
        "memoria condivisa": blocks_by_shared(gpu, shared),
    }
    blocks = min(limits.values())
    return Occupancy(blocks, blocks * each, limits)
