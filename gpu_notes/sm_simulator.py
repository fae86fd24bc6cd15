"""L'SM in miniatura: esegue ciclo per ciclo i programmi del suo assemblatore.

Un warp è una fila di 32 corsie. A ogni ciclo lo scheduler di ciascuna partizione sceglie fra i
suoi warp uno che sia pronto, e ne emette un'istruzione; il risultato arriva dopo una latenza, e
chi lo aspetta resta fermo. Che cosa il modello lascia fuori è detto sulla pagina.
"""

import argparse
import functools
import math
import operator
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from attention.s0_abstract import require
from gpu_notes.sm_assembler import (
    ARITHMETIC,
    COMPARISON,
    HMMA,
    PT,
    RZ,
    WIDTHS,
    Array,
    Instruction,
    Operand,
    Program,
    ProgramError,
    Region,
    assemble,
)
from gpu_notes.sm_map import PARTITIONS, WARP
from gpu_notes.tensor_core import FRAGMENTS

FULL = (1 << WARP) - 1
"""La maschera con tutte le corsie accese: un bit per corsia, la corsia 0 è il bit più basso."""


@dataclass(frozen=True)
class Parameters:
    """I numeri della macchina, in cicli: si possono cambiare, e vedere che cosa succede.

    Argomenti:
        alu_latency: da un'istruzione aritmetica a quella che ne usa il risultato.
        sfu_latency: lo stesso per le funzioni speciali.
        mma_latency: lo stesso per il Tensor Core.
        shuffle_latency: lo stesso per lo scambio fra corsie.
        shared_latency: lo stesso per una lettura dalla memoria condivisa.
        l1_latency: lo stesso per una lettura che trova il dato in L1.
        dram_latency: lo stesso per una lettura che arriva alla memoria principale.
        dram_bytes: byte per ciclo che la memoria principale dà a questo SM.
        forward_progress: se un salto all'indietro cede il turno alle altre corsie del warp, come
            da Volta in poi; se no un ciclo che aspetta un'altra corsia non finisce.
        limit: cicli dopo i quali il programma è dichiarato senza fine.
    """

    alu_latency: int = 4
    sfu_latency: int = 18
    mma_latency: int = 33
    shuffle_latency: int = 23
    shared_latency: int = 29
    l1_latency: int = 32
    dram_latency: int = 640
    dram_bytes: float = 20.0
    forward_progress: bool = True
    limit: int = 10_000_000


INTERVAL = {"INT": 2, "FP32": 1, "SFU": 8, "TENSOR": 4, "MEM": 1, "CTRL": 1}
"""Per quanti cicli un'istruzione occupa la sua unità: 32 thread diviso le corsie di una partizione.

Il Tensor Core di Hopper fa 512 moltiplica-e-accumula per ciclo, e la piastrella ne chiede 2048. La
via della memoria è una per tutto l'SM: 128 byte per ciclo.
"""


@functools.lru_cache(maxsize=4096)
def lanes(mask: int) -> Array:
    """Una maschera come fila di 32 vero/falso."""
    return np.array([mask >> lane & 1 for lane in range(WARP)], dtype=bool)


def mask_of(flags: Array) -> int:
    """Una fila di vero/falso come maschera: il contrario di `lanes`."""
    return int.from_bytes(np.packbits(flags, bitorder="little").tobytes(), "little")


@functools.lru_cache(maxsize=4096)
def _constant(bits: int) -> Array:
    return np.full(WARP, bits, np.uint32)


@dataclass
class Group:
    """Le corsie di un warp che sono allo stesso punto: dove, quali, e se aspettano a un BSYNC."""

    pc: int
    mask: int
    waiting: int | None = None


class Warp:
    """Un warp: 255 registri da 32 corsie, i predicati, i gruppi in cui è diviso.

    `ready` è lo *scoreboard*: per ogni registro, il ciclo da cui il suo valore c'è. Gira sempre il
    primo gruppo; gli altri aspettano il turno, o una barriera di riconvergenza.
    """

    def __init__(self, index: int):
        self.index = index
        self.registers = np.zeros((RZ + 1, WARP), np.uint32)
        self.predicates = [0] * PT + [FULL]
        self.ready = [0] * (RZ + 1)
        self.predicate_ready = [0] * (PT + 1)
        self.groups = [Group(0, FULL)]
        self.convergence = [0] * 16
        self.free_at = 0
        self.earliest = 0
        self.at_barrier = False

    def read(self, operand: Operand, dtype: type[np.generic]) -> Array:
        """Una sorgente, vista come interi o come reali."""
        values = _constant(operand.value) if operand.kind == "#" else self.registers[operand.value]
        typed = values.view(dtype)
        return -typed if operand.negative else typed

    def write(self, register: int, values: Array, mask: int) -> None:
        """Scrive un registro nelle sole corsie accese."""
        if register != RZ:
            np.copyto(self.registers[register], values.view(np.uint32), where=lanes(mask))

    def guarded(self, instruction: Instruction) -> int:
        """Le corsie che eseguono davvero: quelle del gruppo che passano la guardia."""
        predicate = self.predicates[instruction.guard]
        chosen = ~predicate & FULL if instruction.guard_negated else predicate
        return self.groups[0].mask & chosen

    def wake(self, instruction: Instruction) -> None:
        """Il primo ciclo in cui l'istruzione può partire: tutto ciò che usa è arrivato."""
        used = (*instruction.reads, *instruction.writes)
        self.earliest = max(
            self.free_at,
            max((self.ready[register] for register in used), default=0),
            max(self.predicate_ready[p.value] for p in _predicates(instruction)),
        )

    def branch(self, taken: int, target: int, turns: bool) -> None:
        """Il gruppo salta, prosegue, o si divide in due: chi non salta gira per primo."""
        group = self.groups[0]
        back = target <= group.pc
        stay = group.mask & ~taken
        if taken and stay:
            self.groups.insert(1, Group(target, taken))
            group.mask = stay
        group.pc = group.pc + 1 if stay else target
        if back and not stay and turns:
            self.groups.append(self.groups.pop(0))
            self.choose()

    def exit(self, leaving: int) -> None:
        """Le corsie che finiscono; chi le aspettava a una barriera non le aspetta più."""
        group = self.groups[0]
        group.mask &= ~leaving
        group.pc += 1
        self.convergence = [waited & ~leaving for waited in self.convergence]
        if not group.mask:
            self.groups.pop(0)
        for barrier in range(len(self.convergence)):
            self.converge(barrier)
        self.choose()

    def wait(self, barrier: int) -> None:
        """BSYNC: il gruppo aspetta che arrivino tutte le corsie segnate da BSSY."""
        self.groups[0].waiting = barrier
        self.groups.append(self.groups.pop(0))
        self.converge(barrier)
        self.choose()

    def converge(self, barrier: int) -> None:
        """Se alla barriera ci sono tutti, i gruppi che vi aspettano tornano uno solo."""
        here = [group for group in self.groups if group.waiting == barrier]
        arrived = functools.reduce(operator.or_, (group.mask for group in here), 0)
        if here and arrived == self.convergence[barrier]:
            others = [group for group in self.groups if group.waiting != barrier]
            self.groups = [Group(here[0].pc + 1, arrived), *others]

    def choose(self) -> None:
        """Porta in testa il primo gruppo che non aspetta."""
        self.groups.sort(key=lambda group: group.waiting is not None)
        if self.groups and self.groups[0].waiting is not None:
            raise ProgramError(f"warp {self.index}: le corsie si aspettano a vicenda a due BSYNC")


def _predicates(instruction: Instruction) -> Iterator[Operand]:
    """I predicati da cui un'istruzione dipende: la guardia, e quello che scrive."""
    yield Operand("P", instruction.guard)
    yield from (operand for operand in instruction.operands if operand.kind == "P")


class Memory:
    """Una memoria a parole di 32 bit, con i suoi array: fuori da quelli non si legge e scrive."""

    def __init__(self, regions: Mapping[str, Region]):
        size = max((region.end for region in regions.values()), default=0) // 4
        self.words = np.zeros(size, np.uint32)
        self.owned = np.zeros(size, dtype=bool)
        for region in regions.values():
            first = region.start // 4
            self.owned[first : first + region.words] = True

    def places(self, warp: Warp, instruction: Instruction, mask: int, width: int) -> Array:
        """Gli indici di parola chiesti, una riga per corsia accesa e una colonna per parola."""
        operand = instruction.letter("m")
        address = warp.registers[operand.value].view(np.int32).astype(np.int64) + operand.offset
        address = address[lanes(mask)]
        wrong = address % (4 * width) != 0
        if wrong.any():
            cause = f"indirizzo {address[wrong][0]}: atteso un multiplo di {4 * width}"
            raise ProgramError.at(instruction.line, f"{instruction.text}: {cause}")
        places = address[:, None] // 4 + np.arange(width)
        outside = (places < 0) | (places >= len(self.words))
        outside |= ~self.owned[np.where(outside, 0, places)] if len(self.owned) else True
        if outside.any():
            lane = np.flatnonzero(lanes(mask))[outside.any(axis=1)][0]
            cause = f"la corsia {lane} del warp {warp.index} va fuori da ogni array"
            raise ProgramError.at(
                instruction.line, f"{instruction.text}: {cause}, al byte {4 * places[outside][0]}"
            )
        return places


def sectors(places: Array) -> set[int]:
    """I settori da 32 byte toccati da un accesso: l'unità con cui la memoria risponde."""
    return set((places.ravel() // 8).tolist())


def lines(places: Array) -> int:
    """Le righe da 128 byte toccate: se l'accesso è unito, una sola ogni 32 parole."""
    return len(set((places.ravel() // WARP).tolist()))


def bank_passes(places: Array) -> int:
    """I turni di una richiesta alla memoria condivisa: le parole del banco più richiesto."""
    banks = Counter(word % WARP for word in set(places.ravel().tolist()))
    return max(banks.values(), default=1)


class Issue(NamedTuple):
    """Un'emissione: il ciclo, il warp, l'istruzione, le corsie, e da quando i dati c'erano."""

    cycle: int
    warp: int
    pc: int
    mask: int
    data_ready: int


class Machine:
    """L'SM: i warp, le due memorie, le unità di ogni partizione, il tempo."""

    def __init__(self, program: Program, warps: int, partitions: int, parameters: Parameters):
        self.program = program
        self.parameters = parameters
        self.partitions = partitions
        self.warps = [Warp(index) for index in range(warps)]
        self.turns = [self.warps[first::partitions] for first in range(partitions)]
        self.memory = Memory(program.memory)
        self.shared = Memory(program.shared)
        self.free = {(p, unit): 0 for p in range(partitions) for unit in INTERVAL}
        self.arrivals: dict[int, int] = {}
        self.dram_free = 0.0
        self.counts: Counter[str] = Counter()
        self.events: list[Issue] = []

    def run(self) -> None:
        """Avanza finché c'è un warp vivo; i cicli in cui nessuno può partire si saltano."""
        now = 0
        with np.errstate(all="ignore"):
            while living := [warp for warp in self.warps if warp.groups]:
                if now > self.parameters.limit:
                    raise ProgramError(f"il programma non finisce in {self.parameters.limit} cicli")
                issued = [self.issue(partition, now) for partition in range(self.partitions)]
                now = now + 1 if any(issued) else self.next_cycle(living)

    def next_cycle(self, living: Sequence[Warp]) -> int:
        """Il primo ciclo, dopo questo, in cui qualcuno può partire."""
        waiting = [warp for warp in living if not warp.at_barrier]
        if not waiting:
            raise ProgramError("tutti i warp aspettano a BAR.SYNC: nessuno può più arrivare")
        return min(max(warp.earliest, self.unit_free(warp)) for warp in waiting)

    def instruction(self, warp: Warp) -> Instruction:
        return self.program.instructions[warp.groups[0].pc]

    def unit(self, warp: Warp) -> tuple[int, str]:
        """L'unità che serve alla prossima istruzione; quella della memoria è di tutto l'SM."""
        unit = self.instruction(warp).unit
        return (0 if unit == "MEM" else warp.index % self.partitions, unit)

    def unit_free(self, warp: Warp) -> int:
        return self.free[self.unit(warp)]

    def issue(self, partition: int, now: int) -> bool:
        """Lo scheduler di una partizione: il primo warp pronto, a turno. Vero se ha emesso."""
        queue = self.turns[partition]
        for place, warp in enumerate(queue):
            ready = warp.groups and not warp.at_barrier and warp.earliest <= now
            if ready and self.unit_free(warp) <= now:
                self.turns[partition] = queue[place + 1 :] + queue[: place + 1]
                self.execute(warp, now)
                return True
        return False

    def execute(self, warp: Warp, now: int) -> None:
        """Esegue un'istruzione: il valore subito, il suo arrivo quando la latenza è passata."""
        instruction = self.instruction(warp)
        mask = warp.guarded(instruction)
        self.events.append(Issue(now, warp.index, warp.groups[0].pc, mask, warp.earliest))
        self.free[self.unit(warp)] = now + INTERVAL[instruction.unit]
        handler = HANDLERS.get(instruction.name.split(".")[0], Machine.arithmetic)
        arrival = handler(self, warp, instruction, mask, now)
        for register in instruction.writes:
            warp.ready[register] = arrival
        if instruction.name not in FLOW:
            warp.groups[0].pc += 1
        if warp.groups and not warp.at_barrier:
            warp.wake(self.instruction(warp))

    def arithmetic(self, warp: Warp, instruction: Instruction, mask: int, now: int) -> int:
        """Una funzione delle sorgenti, corsia per corsia."""
        operation = ARITHMETIC[instruction.name]
        dtype = np.float32 if "f" in operation.signature else np.int32
        destination, *sources = instruction.operands
        values = operation.function(*(warp.read(operand, dtype) for operand in sources))
        warp.write(destination.value, values, mask)
        return now + self.latency(instruction)

    def latency(self, instruction: Instruction) -> int:
        special = instruction.unit == "SFU"
        return self.parameters.sfu_latency if special else self.parameters.alu_latency

    def compare(self, warp: Warp, instruction: Instruction, mask: int, now: int) -> int:
        """ISETP, FSETP: il predicato cambia nelle corsie accese, nelle altre resta."""
        dtype = np.float32 if instruction.unit == "FP32" else np.int32
        destination, *sources = instruction.operands
        relation = COMPARISON[instruction.name.split(".")[1]]
        found = mask_of(relation(*(warp.read(operand, dtype) for operand in sources)))
        kept = warp.predicates[destination.value] & ~mask
        warp.predicates[destination.value] = kept | found & mask
        arrival = now + self.parameters.alu_latency
        warp.predicate_ready[destination.value] = arrival
        return arrival

    def special(self, warp: Warp, instruction: Instruction, mask: int, now: int) -> int:
        """S2R: chi sono. La corsia, il warp, quanti warp, il thread."""
        lane = np.arange(WARP, dtype=np.uint32)
        whole = np.uint32(warp.index * WARP) + lane
        choices = (lane, _constant(warp.index), _constant(len(self.warps)), whole)
        destination, source = instruction.operands
        warp.write(destination.value, choices[source.value], mask)
        return now + self.parameters.alu_latency

    def shuffle(self, warp: Warp, instruction: Instruction, mask: int, now: int) -> int:
        """SHFL: ogni corsia legge un registro di un'altra, scelta con XOR (BFLY) o per numero."""
        destination, source, choice = instruction.operands
        selector = warp.read(choice, np.int32)
        crossed = instruction.name == "SHFL.BFLY"
        lane = np.arange(WARP) ^ selector if crossed else selector
        warp.write(destination.value, warp.registers[source.value][lane % WARP], mask)
        return now + self.parameters.shuffle_latency

    def matrix(self, warp: Warp, instruction: Instruction, mask: int, now: int) -> int:
        """HMMA: tutte le corsie insieme, ciascuna con il suo pezzo delle tre matrici."""
        if mask != FULL:
            raise ProgramError.at(instruction.line, f"{HMMA} vuole accese tutte le 32 corsie")
        d, a, b, c = (operand.value for operand in instruction.operands)
        left = tile(warp.registers[_span(a, 4)], "A", A_PLACES)
        right = tile(warp.registers[_span(b, 2)], "B", B_PLACES)
        old = warp.registers[_span(c, 4)].view(np.float32).T
        new = ((left @ right)[C_PLACES] + old).astype(np.float32).T.copy()
        for register, values in zip(_span(d, 4), new, strict=True):
            warp.write(register, values, mask)
        return now + self.parameters.mma_latency

    def load(self, warp: Warp, instruction: Instruction, mask: int, now: int) -> int:
        """LDG, LDS: da una memoria ai registri."""
        memory, arrival, places = self.reach(warp, instruction, mask, now)
        for register, column in zip(_span(*_words(instruction)), places.T, strict=True):
            values = np.zeros(WARP, np.uint32)
            values[lanes(mask)] = memory.words[column]
            warp.write(register, values, mask)
        return arrival

    def store(self, warp: Warp, instruction: Instruction, mask: int, now: int) -> int:
        """STG, STS: dai registri a una memoria. Nessuno aspetta la fine di una scrittura."""
        memory, arrival, places = self.reach(warp, instruction, mask, now)
        for register, column in zip(_span(*_words(instruction)), places.T, strict=True):
            memory.words[column] = warp.registers[register][lanes(mask)]
        return arrival

    def exchange(self, warp: Warp, instruction: Instruction, mask: int, now: int) -> int:
        """ATOM.EXCH: scambia registro e memoria, una corsia dopo l'altra."""
        memory, arrival, places = self.reach(warp, instruction, mask, now)
        destination, _address, source = instruction.operands
        values = np.zeros(WARP, np.uint32)
        for lane, place in zip(np.flatnonzero(lanes(mask)), places[:, 0], strict=True):
            values[lane] = memory.words[place]
            memory.words[place] = warp.registers[source.value][lane]
        warp.write(destination.value, values, mask)
        return arrival

    def reach(
        self, warp: Warp, instruction: Instruction, mask: int, now: int
    ) -> tuple[Memory, int, Array]:
        """La memoria, il ciclo d'arrivo, le parole: e quanto la via resta occupata."""
        shared = instruction.name[2] == "S"
        width = WIDTHS.get(instruction.name[3:], 1)
        memory = self.shared if shared else self.memory
        places = memory.places(warp, instruction, mask, width)
        loads = instruction.name.startswith(("LD", "ATOM"))
        passes = max(1, bank_passes(places) if shared else lines(places))
        self.free[0, "MEM"] = now + passes
        if shared:
            self.counts["turni di memoria condivisa"] += passes
            return memory, now + passes - 1 + self.parameters.shared_latency, places
        return memory, passes - 1 + self.travel(sectors(places), now, loads), places

    def travel(self, wanted: set[int], now: int, loads: bool) -> int:
        """Il ciclo in cui arriva l'ultimo settore: dalla L1 se c'è già, se no dalla memoria."""
        missing = wanted - self.arrivals.keys() if loads else wanted
        self.counts["settori da 32 byte"] += len(wanted)
        self.counts["byte da e per la memoria"] += 32 * len(missing)
        transfer = 32 / self.parameters.dram_bytes
        start = max(self.dram_free, now)
        self.dram_free = start + transfer * len(missing)
        if not loads:
            return now
        if missing:
            last = start + transfer * (len(missing) - 1)
            arrival = math.ceil(last) + self.parameters.dram_latency
            self.arrivals |= dict.fromkeys(missing, arrival)
        return max(now + self.parameters.l1_latency, *(self.arrivals[it] for it in wanted), now)

    def jump(self, warp: Warp, instruction: Instruction, mask: int, now: int) -> int:
        """BRA: le corsie accese saltano, le altre no."""
        turns = self.parameters.forward_progress
        warp.branch(mask, instruction.letter("l").value, turns)
        warp.free_at = now + self.parameters.alu_latency
        return now

    def mark(self, warp: Warp, instruction: Instruction, mask: int, now: int) -> int:
        """BSSY: segna chi c'è adesso, cioè chi il BSYNC dovrà aspettare."""
        barrier = instruction.letter("b").value
        if any(group.waiting == barrier for group in warp.groups):
            cause = f"BSSY B{barrier} mentre altre corsie aspettano già lì: portalo fuori dal ciclo"
            raise ProgramError.at(instruction.line, cause)
        warp.convergence[barrier] = warp.groups[0].mask
        return now

    def reconverge(self, warp: Warp, instruction: Instruction, mask: int, now: int) -> int:
        """BSYNC: aspetta i segnati."""
        barrier = instruction.letter("b").value
        if warp.groups[0].mask & ~warp.convergence[barrier]:
            raise ProgramError.at(instruction.line, f"BSYNC B{barrier} senza il suo BSSY")
        warp.wait(barrier)
        return now

    def barrier(self, warp: Warp, instruction: Instruction, mask: int, now: int) -> int:
        """BAR.SYNC: i warp del blocco si aspettano; l'ultimo che arriva li libera tutti."""
        if len(warp.groups) > 1:
            raise ProgramError.at(instruction.line, "BAR.SYNC con il warp diviso: prima BSYNC")
        warp.at_barrier = True
        self.release(now)
        return now

    def leave(self, warp: Warp, instruction: Instruction, mask: int, now: int) -> int:
        """EXIT: le corsie accese hanno finito."""
        warp.exit(mask)
        self.release(now)
        return now

    def release(self, now: int) -> None:
        """Se tutti i warp vivi sono alla barriera, ripartono."""
        living = [warp for warp in self.warps if warp.groups]
        if all(warp.at_barrier for warp in living):
            for warp in living:
                warp.at_barrier = False
                warp.free_at = now + self.parameters.alu_latency
                warp.earliest = warp.free_at

    def nothing(self, warp: Warp, instruction: Instruction, mask: int, now: int) -> int:
        """NOP: passa un ciclo."""
        return now


def _span(first: int, count: int) -> list[int]:
    """Registri di seguito; RZ vale zero in tutti i posti."""
    return [RZ] * count if first == RZ else list(range(first, first + count))


def _words(instruction: Instruction) -> tuple[int, int]:
    """Il primo registro di una lettura o di una scrittura, e quanti sono."""
    data = next(operand for operand in instruction.operands if operand.kind != "m")
    return data.value, WIDTHS[instruction.name[3:]]


def places_of(matrix: str) -> tuple[Array, Array]:
    """Le righe e le colonne di A, B o C che ogni corsia tiene, nell'ordine dei suoi registri."""
    items, _shape, place = FRAGMENTS[matrix]
    pairs = np.array([[place(lane, item) for item in range(items)] for lane in range(WARP)])
    return pairs[..., 0], pairs[..., 1]


A_PLACES = places_of("A")
"""Righe e colonne di A, due BF16 per registro."""

B_PLACES = places_of("B")
"""Righe e colonne di B, due BF16 per registro."""

C_PLACES = places_of("C")
"""Righe e colonne di C e di D, un FP32 per registro."""


def tile(registers: Array, matrix: str, places: tuple[Array, Array]) -> Array:
    """Una piastrella di BF16 dai registri di un warp: due numeri per registro e per corsia."""
    halves = np.stack([registers << 16, registers & 0xFFFF0000], axis=-1).view(np.float32)
    values = np.empty(FRAGMENTS[matrix].shape, np.float64)
    values[places] = halves.transpose(1, 0, 2).reshape(WARP, -1)
    return values


Handler = Callable[[Machine, Warp, Instruction, int, int], int]
"""Chi esegue un'istruzione: restituisce il ciclo in cui il risultato arriva, se ce n'è uno."""

HANDLERS: dict[str, Handler] = {
    "ISETP": Machine.compare,
    "FSETP": Machine.compare,
    "S2R": Machine.special,
    "SHFL": Machine.shuffle,
    "HMMA": Machine.matrix,
    "LDG": Machine.load,
    "LDS": Machine.load,
    "STG": Machine.store,
    "STS": Machine.store,
    "ATOM": Machine.exchange,
    "BRA": Machine.jump,
    "BSSY": Machine.mark,
    "BSYNC": Machine.reconverge,
    "BAR": Machine.barrier,
    "EXIT": Machine.leave,
    "NOP": Machine.nothing,
}
"""Chi esegue le istruzioni che non sono aritmetica."""

FLOW = {"BRA", "BSYNC", "EXIT"}
"""Le istruzioni che decidono da sé quale viene dopo."""


@dataclass(frozen=True)
class Run:
    """Un'esecuzione finita: la memoria com'è rimasta, chi ha emesso che cosa e quando."""

    program: Program
    warps: int
    partitions: int
    events: list[Issue]
    counts: Counter[str]
    words: Array

    @property
    def issued(self) -> int:
        """Istruzioni di warp emesse."""
        return len(self.events)

    @property
    def cycles(self) -> int:
        """I cicli dall'inizio all'ultima emissione, compresa."""
        return self.events[-1].cycle + 1

    @property
    def busy(self) -> float:
        """La frazione dei posti di emissione usati: uno per ciclo e per partizione."""
        return self.issued / (self.cycles * self.partitions)

    @property
    def by_unit(self) -> Counter[str]:
        """Istruzioni emesse, per unità."""
        code = self.program.instructions
        return Counter(code[event.pc].unit for event in self.events)

    def __getitem__(self, name: str) -> Array:
        """Un array globale come FP32, con la forma dichiarata."""
        region = self.program.memory[name]
        first = region.start // 4
        return self.words[first : first + region.words].view(np.float32).reshape(region.shape)


def run(
    program: Program,
    warps: int = 1,
    partitions: int = 1,
    data: Mapping[str, ArrayLike] | None = None,
    parameters: Parameters | None = None,
) -> Run:
    """Esegue un programma con un certo numero di warp.

    Argomenti:
        program: ciò che dà `assemble`.
        warps: quanti warp, al massimo 16 per partizione; il warp w sta nella partizione
            w mod partitions, e ci resta.
        partitions: quante partizioni dell'SM lavorano, da 1 a 4.
        data: i valori degli array globali; quelli che mancano hanno il loro valore iniziale.
        parameters: latenze e banda; se mancano, quelle di `Parameters`.

    Solleva:
        ValueError: se un argomento è fuori dai limiti, o un array non ha la forma dichiarata.
        ProgramError: se il programma sbaglia mentre gira, con la riga.
    """
    require(1 <= partitions <= PARTITIONS, "partitions", partitions, f"da 1 a {PARTITIONS}")
    most = 16 * partitions
    require(1 <= warps <= most, "warps", warps, f"da 1 a {most}, 16 per partizione")
    machine = Machine(program, warps, partitions, parameters or Parameters())
    _fill(machine.memory, program, data or {})
    machine.run()
    return Run(program, warps, partitions, machine.events, machine.counts, machine.memory.words)


def _fill(memory: Memory, program: Program, data: Mapping[str, ArrayLike]) -> None:
    """I valori di partenza della memoria globale."""
    unknown = [name for name in data if name not in program.memory]
    require(not unknown, "data", unknown, f"array del programma, che sono {list(program.memory)}")
    for name, region in program.memory.items():
        values = np.asarray(data[name]) if name in data else _start(region, program.initial[name])
        require(values.shape == region.shape, f"data[{name!r}]", values.shape, f"{[*region.shape]}")
        kind = np.int32 if np.issubdtype(values.dtype, np.integer) else np.float32
        first = region.start // 4
        memory.words[first : first + region.words] = values.astype(kind).ravel().view(np.uint32)


def _start(region: Region, initial: str) -> Array:
    """I valori iniziali dichiarati nel programma."""
    kind, _, seed = initial.partition(" ")
    if kind == "iota":
        return np.arange(region.words, dtype=np.float32).reshape(region.shape)
    if kind == "normal":
        return np.random.default_rng(int(seed)).normal(size=region.shape).astype(np.float32)
    return np.full(region.shape, float(kind), np.float32)


LETTERS = {"INT": "i", "FP32": "f", "SFU": "s", "MEM": "m", "TENSOR": "T", "CTRL": "c"}
"""Come si segna un'emissione sulla linea del tempo."""


def timeline(result: Run, first: int = 0, last: int = 100) -> str:
    """La linea del tempo: una riga per warp, una colonna per ciclo.

    Una lettera è un'emissione: i intero, f FP32, s SFU, m memoria, T Tensor Core, c controllo. Un
    punto è un ciclo in cui il warp aspetta un dato, o che un salto si compia; un trattino, uno in
    cui è pronto ma tocca a un altro o l'unità è occupata; una barra, uno alla barriera.

    Argomenti:
        result: un'esecuzione.
        first: il primo ciclo da mostrare.
        last: il ciclo dopo l'ultimo.
    """
    rows = [[" "] * (last - first) for _ in range(result.warps)]
    for cycle, warp, mark in marks(result):
        if first <= cycle < last:
            rows[warp][cycle - first] = mark
    return "\n".join(f"warp {warp:2d} {''.join(row).rstrip()}" for warp, row in enumerate(rows))


def marks(result: Run) -> Iterator[tuple[int, int, str]]:
    """I segni della linea del tempo: ciclo, warp, segno."""
    code = result.program.instructions
    before: dict[int, Issue] = {}
    for event in result.events:
        previous = before.get(event.warp)
        start = previous.cycle + 1 if previous else 0
        at_barrier = previous is not None and code[previous.pc].name == "BAR.SYNC"
        for cycle in range(start, event.cycle):
            waiting = "|" if at_barrier else "."
            yield cycle, event.warp, waiting if cycle < event.data_ready else "-"
        yield event.cycle, event.warp, LETTERS[code[event.pc].unit]
        before[event.warp] = event


COLOURS = {
    "i": "#7d7f86",
    "f": "#c8571b",
    "s": "#b0589a",
    "m": "#1f83b4",
    "T": "#2f9161",
    "c": "#9a7b12",
}
"""Il colore di ogni unità nel disegno; le attese sono righe sottili."""

NAMES = {
    "INT": "interi",
    "FP32": "FP32",
    "SFU": "SFU",
    "MEM": "memoria",
    "TENSOR": "Tensor Core",
    "CTRL": "controllo",
}
"""Come si chiamano le unità nella legenda."""


def timeline_svg(result: Run, title: str, first: int = 0, last: int = 100) -> str:
    """La stessa linea del tempo come disegno, con la legenda sotto.

    Argomenti:
        result: un'esecuzione.
        title: che cosa si vede, per chi non vede il disegno.
        first: il primo ciclo da mostrare.
        last: il ciclo dopo l'ultimo.
    """
    step = 460 / (last - first)
    shapes = [
        _mark(step * (cycle - first), 16 * warp, step * cycles, mark)
        for warp, cycle, mark, cycles in _stretches(result, first, last)
    ]
    height = 16 * result.warps
    used = [name for name in NAMES if name in result.by_unit]
    body = "".join([*shapes, *_ruler(first, last, step, height), *_legend(used, height + 26)])
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" role="img" font-size="12" fill="currentColor" '
        f'viewBox="-2 -4 470 {height + 37}"><title>{escape(title)}</title>{body}</svg>'
    )


def _stretches(result: Run, first: int, last: int) -> list[tuple[int, int, str, int]]:
    """Warp, primo ciclo, segno e durata: le attese uguali e consecutive sono una sola."""
    shown = ((warp, cycle, mark) for cycle, warp, mark in marks(result) if first <= cycle < last)
    found: list[tuple[int, int, str, int]] = []
    for warp, cycle, mark in sorted(shown):
        *before, cycles = found[-1] if found else (-1, 0, "", 0)
        if mark not in COLOURS and before == [warp, cycle - cycles, mark]:
            found[-1] = (warp, cycle - cycles, mark, cycles + 1)
        else:
            found.append((warp, cycle, mark, 1))
    return found


def _mark(x: float, y: float, width: float, mark: str) -> str:
    """Un rettangolo colorato per un'emissione, una riga per un'attesa."""
    if mark in COLOURS:
        size = f'width="{max(width, 1.2):.2f}" height="13"'
        return f'<rect x="{x:.2f}" y="{y + 1}" {size} fill="{COLOURS[mark]}"/>'
    opacity = {".": 0.25, "-": 0.7, "|": 0.5}[mark]
    size = f'width="{width:.2f}" height="1.5"'
    return f'<rect x="{x:.2f}" y="{y + 7}" {size} opacity="{opacity}"/>'


def _ruler(first: int, last: int, step: float, height: int) -> Iterator[str]:
    """I numeri dei cicli, una decina."""
    for cycle in range(first, last, max(1, round((last - first) / 10))):
        yield f'<text x="{step * (cycle - first):.1f}" y="{height + 9}">{cycle}</text>'


def _legend(units: Sequence[str], y: int) -> Iterator[str]:
    """I colori delle unità che il programma usa, in fila."""
    for place, unit in enumerate(units):
        x = 78 * place
        yield f'<rect x="{x}" y="{y - 8}" width="9" height="9" fill="{COLOURS[LETTERS[unit]]}"/>'
        yield f'<text x="{x + 12}" y="{y}">{NAMES[unit]}</text>'


def report(result: Run) -> str:
    """Che cosa è successo: cicli, istruzioni per unità, traffico, risultati."""
    units = ", ".join(f"{unit} {count}" for unit, count in result.by_unit.most_common())
    rows = [
        f"cicli: {result.cycles}",
        f"istruzioni di warp: {result.issued} ({units})",
        f"posti di emissione usati: {result.busy:.0%}",
        *(f"{name}: {count}" for name, count in result.counts.items()),
    ]
    with np.printoptions(precision=4, suppress=True, linewidth=100):
        rows += [f"{name} =\n{result[name]}" for name in result.program.outputs]
    return "\n".join(rows)


def save(path: Path, text: str) -> None:
    """Scrive un file intero o niente: prima con un altro nome, poi con il suo."""
    partial = path.with_name(f"{path.name}.parziale")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Il comando: assembla un file, lo esegue, stampa risultati e linea del tempo."""
    parser = argparse.ArgumentParser(
        prog="python -m gpu_notes.sm_simulator", description="Esegue un programma .sm."
    )
    parser.add_argument("program", type=Path, help="il file del programma")
    parser.add_argument("--warps", type=int, default=1, help="quanti warp (1)")
    parser.add_argument("--partitions", type=int, default=1, help="quante partizioni (1)")
    parser.add_argument("--cycles", type=int, default=100, help="cicli da disegnare (100)")
    parser.add_argument("--drawing", type=Path, help="scrive anche il disegno, in SVG")
    options = parser.parse_args(arguments)
    try:
        program = assemble(options.program.read_text(encoding="utf-8"))
        result = run(program, options.warps, options.partitions)
        last = max(1, min(options.cycles, result.cycles))
        if options.drawing:
            save(options.drawing, timeline_svg(result, str(options.program), last=last))
    except (OSError, ValueError) as error:
        print(f"{options.program}: {error}", file=sys.stderr)
        return 1
    print(report(result))
    print(timeline(result, last=last))
    return 0


if __name__ == "__main__":
    sys.exit(main())
