"""Il warp: 32 thread, un'istruzione per volta, una maschera che dice chi la esegue.

Prima dove va a finire un thread: warp, corsia, blocco, SM. Poi quanto costa un warp i cui thread
non vanno d'accordo: il conto a mano, e i programmi per il simulatore che lo verificano.
"""

import heapq
from collections.abc import Sequence
from typing import NamedTuple

from attention.s0_abstract import require
from gpu_notes.sm_map import WARP
from gpu_notes.sm_simulator import Run


class Place(NamedTuple):
    """Il posto di un thread nel suo blocco: il warp, e la corsia dentro il warp."""

    warp: int
    lane: int


def linear(index: tuple[int, int, int], shape: tuple[int, int, int]) -> int:
    """Il numero di un thread nel blocco: x corre più in fretta, come il primo indice in Fortran.

    Argomenti:
        index: `threadIdx`, cioè (x, y, z), da 0.
        shape: `blockDim`, cioè quanti thread in x, y e z.

    Solleva:
        ValueError: se l'indice esce dal blocco.
    """
    inside = all(0 <= i < n for i, n in zip(index, shape, strict=True))
    require(inside, "index", index, f"da 0 a meno di {list(shape)}, componente per componente")
    x, y, z = index
    return x + shape[0] * (y + shape[1] * z)


def place(index: tuple[int, int, int], shape: tuple[int, int, int]) -> Place:
    """Il warp e la corsia di un thread: quoziente e resto del suo numero per 32.

    Argomenti:
        index: `threadIdx`, cioè (x, y, z).
        shape: `blockDim`.
    """
    return Place(*divmod(linear(index, shape), WARP))


def idle_lanes(threads: int) -> int:
    """Le corsie che un blocco di tanti thread lascia vuote, tutte nel suo ultimo warp."""
    require(threads >= 1, "threads", threads, "almeno 1")
    return -threads % WARP


def blocks_for(elements: int, threads: int) -> int:
    """Quanti blocchi da tanti thread servono per avere almeno un thread per elemento."""
    require(threads >= 1, "threads", threads, "almeno 1")
    return -(-elements // threads)


class Stay(NamedTuple):
    """Il soggiorno di un blocco: l'SM in cui entra, quando comincia e quando finisce."""

    block: int
    sm: int
    start: int
    end: int


def deal(durations: Sequence[int], sms: int, per_sm: int) -> list[Stay]:
    """Distribuisce i blocchi: ciascuno va nel primo posto che si libera, e vi resta.

    Argomenti:
        durations: quanto dura ogni blocco.
        sms: quanti SM.
        per_sm: quanti blocchi alla volta può tenere un SM.

    Solleva:
        ValueError: se non c'è nemmeno un posto.
    """
    require(sms >= 1, "sms", sms, "almeno 1")
    require(per_sm >= 1, "per_sm", per_sm, "almeno 1")
    free = [(0, slot, sm) for slot in range(per_sm) for sm in range(sms)]
    stays = []
    for block, duration in enumerate(durations):
        start, slot, sm = heapq.heappop(free)
        stays.append(Stay(block, sm, start, start + duration))
        heapq.heappush(free, (start + duration, slot, sm))
    return stays


def trace(result: Run, lanes: int = WARP) -> str:
    """Ogni emissione su una riga: il ciclo, le corsie accese (#) e spente (·), l'istruzione.

    Argomenti:
        result: un'esecuzione con un solo warp.
        lanes: quante corsie mostrare, dalla 0.

    Solleva:
        ValueError: se i warp sono più di uno.
    """
    require(result.warps == 1, "result", f"{result.warps} warp", "un solo warp")
    rows = []
    for event in result.events:
        picture = "".join("#" if event.mask >> lane & 1 else "·" for lane in range(lanes))
        code = " ".join(result.program.instructions[event.pc].text.split())
        rows.append(f"{event.cycle:5d}  {picture}  {code}")
    return "\n".join(rows)


def branch_cost(choices: Sequence[int], lengths: Sequence[int]) -> int:
    """Le istruzioni che un warp emette, se ogni corsia sceglie una strada: le strade scelte.

    Argomenti:
        choices: la strada di ogni corsia.
        lengths: quante istruzioni ha ciascuna strada.
    """
    return sum(lengths[way] for way in set(choices))


def select_cost(lengths: Sequence[int]) -> int:
    """Lo stesso con le guardie al posto dei salti: tutte le strade, scelte o no."""
    return sum(lengths)


def loop_cost(trips: Sequence[int]) -> int:
    """I giri che fa un warp le cui corsie ne vogliono ciascuna tanti: il massimo.

    Argomenti:
        trips: i giri che vuole ogni corsia.
    """
    return max(trips)


def loop_lanes(trips: Sequence[int]) -> float:
    """Quante corsie, in media, sono accese a ogni giro di un tale ciclo.

    Argomenti:
        trips: i giri che vuole ogni corsia.

    Solleva:
        ValueError: se nessuna corsia ne vuole.
    """
    require(max(trips) >= 1, "trips", tuple(trips), "almeno una corsia con almeno un giro")
    return sum(trips) / loop_cost(trips)


def active_lanes(result: Run, unit: str = "FP32") -> float:
    """Quante corsie, in media, erano accese nelle istruzioni di un'unità.

    Argomenti:
        result: un'esecuzione.
        unit: il nome dell'unità, come in `Run.by_unit`.

    Solleva:
        ValueError: se nessuna istruzione è andata a quell'unità.
    """
    code = result.program.instructions
    masks = [event.mask for event in result.events if code[event.pc].unit == unit]
    require(len(masks) > 0, "unit", unit, f"una fra {sorted(result.by_unit)}")
    return sum(mask.bit_count() for mask in masks) / len(masks)


STORE = """
unite:  BSYNC   B0
        SHL     R0, R0, 2
        STG     [R0+Y], R2
        EXIT
"""
"""La fine dei due programmi che seguono: ci si ritrova, e ogni corsia scrive il suo risultato."""


def paths(ways: int, work: int) -> str:
    """Un programma in cui la corsia l prende la strada l mod `ways`, lunga `work` FFMA.

    Argomenti:
        ways: quante strade, una potenza di 2 fino a 32.
        work: quante FFMA ha ciascuna; quelle della strada w sommano w + 1.

    Solleva:
        ValueError: se le strade non sono una potenza di 2 fino a 32.
    """
    require(ways in (1, 2, 4, 8, 16, 32), "ways", ways, "una potenza di 2 fino a 32")
    rows = [".global Y 32", ".output Y", "S2R R0, LANE", f"AND R1, R0, {ways - 1}"]
    rows += ["MOV R2, 0.0", "BSSY B0, unite"]
    for way in range(1, ways):
        rows += [f"ISETP.EQ P0, R1, {way}", f"@P0 BRA via{way}"]
    for way in range(ways):
        rows += [f"via{way}:", *[f"FFMA R2, R2, 1.0, {way + 1}.0"] * work, "BRA unite"]
    return "\n".join(rows) + STORE


def choice(work: int, lanes: int, guarded: bool) -> str:
    """Un if/else con due strade da `work` FFMA: le prime `lanes` corsie sommano 1, le altre −1.

    Argomenti:
        work: quante FFMA ha ogni strada.
        lanes: quante corsie prendono la prima.
        guarded: vero per le guardie, falso per il salto.
    """
    rows = [".global Y 32", ".output Y", "S2R R0, LANE", "MOV R2, 0.0"]
    rows += [f"ISETP.LT P0, R0, {lanes}", "BSSY B0, unite"]
    then, other = "FFMA R2, R2, 1.0, 1.0", "FFMA R2, R2, 1.0, -1.0"
    if guarded:
        rows += [f"@P0 {then}"] * work + [f"@!P0 {other}"] * work
    else:
        rows += ["@P0 BRA vero", *[other] * work, "BRA unite", "vero:", *[then] * work]
    return "\n".join(rows) + STORE
