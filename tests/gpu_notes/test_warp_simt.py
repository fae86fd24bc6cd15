"""Il warp: dove va un thread, quanto costa una divergenza, che cosa cambia con i turni."""

import ctypes
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_notes.sass_listing import MissingToolError, compile_cuda, parse, read
from gpu_notes.sm_assembler import ProgramError
from gpu_notes.sm_simulator import Parameters, Run, assemble, run
from gpu_notes.warp_simt import (
    Stay,
    active_lanes,
    blocks_for,
    branch_cost,
    choice,
    deal,
    idle_lanes,
    linear,
    loop_cost,
    loop_lanes,
    paths,
    place,
    select_cost,
    trace,
)
from weave.house import ROOT
from weave.pact import blocks

PAGE = ROOT / "gpu_notes" / "warp_simt.md"
PROGRAMS = ROOT / "gpu_notes" / "programs"

PENCIL = np.tile(np.float32([3, -2, 5, -1]), 8)
"""Le quattro corsie di «A matita», ripetute otto volte."""


def text_of(name: str) -> str:
    return (PROGRAMS / f"{name}.sm").read_text(encoding="utf-8")


def run_text(text: str, **arguments) -> Run:
    return run(assemble(text), **arguments)


def two_ways(x: float) -> float:
    """L'if/else della pagina, un numero alla volta."""
    return x * x + 1 if x > 0 else -x


# Dove va un thread


def test_x_runs_fastest():
    """Contati uno per uno: prima x, poi y, poi z; 32 per warp."""
    shape = (5, 7, 3)
    counted = 0
    for z in range(shape[2]):
        for y in range(shape[1]):
            for x in range(shape[0]):
                assert linear((x, y, z), shape) == counted
                assert place((x, y, z), shape) == (counted // 32, counted % 32)
                counted += 1
    assert place((5, 2, 0), (16, 16, 1)).lane == 5
    assert place((5, 2, 0), (16, 16, 1)).warp == 1


@pytest.mark.parametrize("index", [(5, 0, 0), (0, 7, 0), (0, 0, 3), (6, 0, 0), (-1, 0, 0)])
def test_a_thread_outside_its_block_is_refused(index):
    """L'errore dice l'indice e la forma."""
    with pytest.raises(
        ValueError, match=r"^index: dato: \[.*\]; atteso: da 0 a meno di \[5, 7, 3\]"
    ):
        linear(index, (5, 7, 3))
    assert linear((4, 6, 2), (5, 7, 3)) == 5 * 7 * 3 - 1


def test_the_last_warp_is_filled_up_with_idle_lanes():
    """Thread e corsie vuote fanno un numero intero di warp, il più piccolo."""
    for threads in range(1, 200):
        idle = idle_lanes(threads)
        assert (threads + idle) % 32 == 0
        assert 0 <= idle < 32
    assert [idle_lanes(10), idle_lanes(100)] == [22, 28]


@pytest.mark.parametrize("call", [lambda: idle_lanes(0), lambda: blocks_for(5, 0)])
def test_a_block_without_threads_is_refused(call):
    with pytest.raises(ValueError, match=r"^threads: dato: 0; atteso: almeno 1$"):
        call()
    assert [idle_lanes(1), blocks_for(5, 1)] == [31, 5]


@given(elements=st.integers(0, 5000), threads=st.integers(1, 300))
def test_the_blocks_are_enough_and_not_one_too_many(elements, threads):
    blocks = blocks_for(elements, threads)
    assert blocks * threads >= elements
    assert blocks == 0 or (blocks - 1) * threads < elements


# Dove va un blocco


def test_blocks_take_the_first_free_place():
    """Due SM con un posto ciascuno; il terzo blocco va dove ci si libera prima, e non si sposta."""
    assert deal([3, 1, 1, 5, 1], sms=2, per_sm=1) == [
        Stay(0, 0, 0, 3),
        Stay(1, 1, 0, 1),
        Stay(2, 1, 1, 2),
        Stay(3, 1, 2, 7),
        Stay(4, 0, 3, 4),
    ]


def test_blocks_spread_over_the_sms_before_doubling_up():
    """Prima un blocco per SM, poi il secondo."""
    assert [stay.sm for stay in deal([1] * 7, sms=3, per_sm=2)] == [0, 1, 2, 0, 1, 2, 0]
    assert [stay.start for stay in deal([1] * 7, sms=3, per_sm=2)] == [0] * 6 + [1]


def test_one_block_too_many_doubles_the_time():
    """132 blocchi uguali su 132 SM in un tempo, 133 in due, 264 ancora in due."""
    ends = [max(stay.end for stay in deal([1] * n, 132, 1)) for n in (24, 132, 133, 264, 265)]
    assert ends == [1, 1, 2, 2, 3]
    assert len({stay.sm for stay in deal([1] * 24, 132, 1)}) == 24


@given(
    durations=st.lists(st.integers(1, 9), max_size=30),
    sms=st.integers(1, 5),
    slots=st.integers(1, 3),
)
def test_an_sm_never_holds_too_many_blocks(durations, sms, slots):
    """In ogni istante un SM ha al più i suoi posti, e nessun blocco aspetta se c'è posto."""
    stays = deal(durations, sms, slots)
    assert [stay.block for stay in stays] == list(range(len(durations)))
    assert [stay.end - stay.start for stay in stays] == durations
    for time in range(max((stay.end for stay in stays), default=0)):
        inside = Counter(stay.sm for stay in stays if stay.start <= time < stay.end)
        assert all(0 <= sm < sms and count <= slots for sm, count in inside.items())
        if any(stay.start > time for stay in stays):
            assert sum(inside.values()) == sms * slots


def test_no_sm_or_no_place_is_refused():
    with pytest.raises(ValueError, match=r"^sms: dato: 0; atteso: almeno 1$"):
        deal([1], 0, 1)
    with pytest.raises(ValueError, match=r"^per_sm: dato: 0; atteso: almeno 1$"):
        deal([1], 1, 0)


# Il salto e la guardia


def test_branch_and_guard_agree():
    """Stesso Y, quello del conto numero per numero; la guardia con meno istruzioni."""
    branch = run_text(text_of("if_else"), data={"X": PENCIL})
    guard = run_text(text_of("select"), data={"X": PENCIL})
    expected = [two_ways(x) for x in PENCIL]
    assert branch["Y"].tolist() == guard["Y"].tolist() == expected
    assert guard.issued < branch.issued


@pytest.mark.parametrize("lanes", [0, 1, 16, 31, 32])
@pytest.mark.parametrize("work", [1, 5, 17])
def test_a_branch_costs_the_ways_taken(lanes, work):
    """Le FFMA emesse sono quelle delle strade che almeno una corsia prende."""
    done = run_text(choice(work, lanes, guarded=False))
    choices = [0 if lane < lanes else 1 for lane in range(32)]
    assert done.by_unit["FP32"] == branch_cost(choices, [work, work])
    assert done["Y"].tolist() == [work if lane < lanes else -work for lane in range(32)]


def test_a_branch_cost_counts_each_way_once():
    assert branch_cost([0, 2, 2, 0], [3, 5, 7]) == 10
    assert branch_cost([1, 1, 1, 1], [3, 5, 7]) == 5


@pytest.mark.parametrize("lanes", [0, 16, 32])
def test_a_guard_costs_the_same_whoever_is_on(lanes):
    """Con la guardia si emettono tutte e due le strade, sempre, e negli stessi cicli."""
    done = run_text(choice(7, lanes, guarded=True))
    assert done.by_unit["FP32"] == select_cost([7, 7]) == 14
    assert done.cycles == run_text(choice(7, 5, guarded=True)).cycles
    assert done["Y"].tolist() == [7 if lane < lanes else -7 for lane in range(32)]


@pytest.mark.parametrize("work", [1, 2, 8, 32])
def test_the_guard_beats_only_the_branch_that_splits(work):
    """Strade corte: la guardia non perde. Lunghe: perde contro il salto che non divide."""
    cases = ((32, False), (16, False), (16, True))
    together, split, guard = (run_text(choice(work, *case)).cycles for case in cases)
    assert guard < split
    assert (guard > together) == (work > 1)


# I cicli


@pytest.mark.parametrize(
    "trips", [[31] * 32, list(range(32)), [1] * 31 + [31], [0] * 31 + [4], [2, 3, 5, 7] * 8]
)
def test_a_loop_costs_its_longest_lane(trips):
    """Le somme emesse sono quelle della corsia più lunga; le corsie accese, quelle previste."""
    done = run_text(text_of("trips"), data={"T": np.float32(trips)})
    assert done["Y"].tolist() == trips
    assert done.by_unit["FP32"] == loop_cost(trips) == max(trips)
    assert active_lanes(done) == pytest.approx(loop_lanes(trips))


def test_a_loop_that_nobody_wants_is_refused():
    with pytest.raises(ValueError, match=r"^trips: dato: \[0, 0\]; atteso: almeno una corsia"):
        loop_lanes([0, 0])
    assert loop_lanes([0, 1]) == 1


# Le strade


def test_cycles_are_linear_in_the_number_of_paths():
    """Da due strade in su ogni strada aggiunge gli stessi cicli; le corsie accese sono 32/k."""
    ways = [2, 4, 8, 16, 32]
    runs = {k: run_text(paths(k, 20)) for k in (1, *ways)}
    slopes = {(runs[2 * k].cycles - runs[k].cycles) / k for k in ways[:-1]}
    assert len(slopes) == 1
    assert runs[2].cycles - runs[1].cycles == pytest.approx(slopes.pop(), abs=4)
    for k, done in runs.items():
        assert active_lanes(done) == 32 / k
        assert done.by_unit["FP32"] == branch_cost([lane % k for lane in range(32)], [20] * k)
        assert done["Y"].tolist() == [20 * (lane % k + 1) for lane in range(32)]


def test_two_warps_on_two_ways_do_not_pay():
    """La divergenza è dentro il warp: due warp, ciascuno unito, emettono una strada a testa."""
    text = choice(9, 32, guarded=False).replace("S2R R0, LANE", "S2R R0, TID")
    done = run_text(text.replace(".global Y 32", ".global Y 64"), warps=2)
    assert done["Y"].tolist() == [9] * 32 + [-9] * 32
    assert done.by_unit["FP32"] == 2 * 9
    assert active_lanes(done) == 32


@pytest.mark.parametrize("ways", [0, 3, 64])
def test_a_number_of_ways_that_is_not_a_power_of_two_is_refused(ways):
    with pytest.raises(
        ValueError, match=f"^ways: dato: {ways}; atteso: una potenza di 2 fino a 32$"
    ):
        paths(ways, 1)


def test_lanes_of_a_unit_that_did_nothing_are_refused():
    with pytest.raises(
        ValueError, match=r"^unit: dato: TENSOR; atteso: una fra \['CTRL', 'FP32', "
    ):
        active_lanes(run_text(paths(1, 1)), "TENSOR")
    assert active_lanes(run_text(paths(1, 1)), "MEM") == 32


# La traccia, e la matita


def test_the_pencil_case():
    """I cinque conti di «A matita», e le maschere della traccia."""
    done = run_text(text_of("if_else"), data={"X": PENCIL})
    rows = [row.split(maxsplit=2) for row in trace(done, lanes=4).splitlines()]
    masks = {code: mask for _cycle, mask, code in rows}
    assert masks["FADD R2, RZ, -R1"] == masks["BRA unite"] == "·#·#"
    assert masks["FMUL R2, R1, R1"] == masks["FADD R2, R2, 1.0"] == "#·#·"
    assert masks["@P0 BRA vero"] == "#·#·"
    assert [mask for _cycle, mask, code in rows if code == "BSYNC B0"] == ["·#·#", "#·#·"]
    assert masks["STG [R0+Y], R2"] == "####"
    assert done["Y"][:4].tolist() == [10, 2, 26, 1]
    assert branch_cost([0, 1, 0, 1], [2, 2]) == 4

    together = run_text(text_of("if_else"), data={"X": np.abs(PENCIL)})
    assert done.issued - together.issued == 3
    assert "FADD R2, RZ" not in trace(together)
    assert trace(together).count("BSYNC") == 1

    assert loop_cost([3, 1, 4, 2]) == 4
    assert loop_lanes([3, 1, 4, 2]) == 2.5


def test_the_trace_tells_cycle_lanes_and_instruction():
    """Una riga per emissione, nell'ordine; 32 corsie se non si chiede altro."""
    done = run_text(choice(1, 3, guarded=True))
    rows = trace(done).splitlines()
    assert len(rows) == done.issued
    assert rows[0] == f"{0:5d}  {'#' * 32}  S2R R0, LANE"
    assert rows[4].split() == [
        str(done.events[4].cycle),
        "###" + "·" * 29,
        *["@P0", "FFMA", "R2,", "R2,", "1.0,", "1.0"],
    ]


def test_the_trace_of_more_warps_is_refused():
    two = run_text("EXIT", warps=2)
    with pytest.raises(ValueError, match=r"^result: dato: 2 warp; atteso: un solo warp$"):
        trace(two)
    assert trace(run_text("EXIT")).endswith("EXIT")


# Da Volta in poi

PASCAL = Parameters(forward_progress=False, limit=20_000)
"""Il warp segue una strada fino in fondo; e una pazienza corta."""


def test_the_lock_hangs_on_pascal_and_ends_from_volta_on():
    """A1: con i turni le 32 corsie entrano una per volta; senza, nessuna riapre."""
    with pytest.raises(ProgramError, match=r"^il programma non finisce in 20000 cicli$"):
        run_text(text_of("lock"), parameters=PASCAL)
    assert run_text(text_of("lock"))["S"].tolist() == [32]


def test_the_same_lock_written_otherwise_ends_even_on_pascal():
    """Con un salto solo, chi è entrato è chi non salta, e gira per primo: dipende dall'ordine."""
    text = text_of("lock").replace("@P0     BRA     entra", "@!P0    BRA     prova")
    text = text.replace("        BRA     prova ", "        NOP ").replace("entra:", "")
    done = run_text(text, parameters=PASCAL)
    assert done["S"].tolist() == [32]


def test_a_meeting_point_inside_the_lock_hangs_the_simulator():
    """BSYNC fra chi ha chiuso e chi deve riaprire: qui non finisce nemmeno con i turni."""
    text = text_of("lock").replace(
        "        MOV     R1, 1", "        MOV R1, 1\n        BSSY B0, entra"
    )
    text = text.replace("entra:  LDG", "entra:  BSYNC B0\n        LDG")
    with pytest.raises(ProgramError, match=r"^il programma non finisce"):
        run_text(text, parameters=Parameters(limit=20_000))


def test_without_a_meeting_point_half_the_lanes_read_zeros():
    """Con BSSY e BSYNC ognuna legge la vicina; senza, chi gira per primo legge zeri."""
    text = text_of("neighbours")
    assert run_text(text)["Y"].tolist() == [lane ^ 16 for lane in range(32)]
    apart = text.replace("BSSY    B0, unite", "NOP").replace("BSYNC   B0", "NOP")
    assert run_text(apart)["Y"].tolist() == [*range(16, 32), *[0] * 16]


# Il codice macchina vero


@pytest.mark.parametrize("arch", ["sm_80", "sm_90"])
def test_the_real_branch_meets_again(arch):
    """A1: ogni BSSY ha il suo BSYNC, con la stessa barriera, più avanti."""
    code = parse(read(f"branch.{arch}"))["branch"]
    marks = {it.operands[0]: it.address for it in code if it.opcode == "BSSY"}
    meets = {it.operands[0]: it.address for it in code if it.opcode == "BSYNC"}
    assert set(marks) == set(meets) == {"B0", "B1"}
    assert all(meets[barrier] > marks[barrier] for barrier in marks)
    assert marks["B0"] < marks["B1"] < meets["B1"] < meets["B0"]


def test_the_compiler_puts_a_yield_in_the_spin():
    """La serratura della pagina, compilata per sm_90: le istruzioni sono quelle mostrate."""
    shown = [b.content for b in blocks(PAGE.read_text(encoding="utf-8")) if b.language == "c"]
    assert len(shown) == 1
    try:
        code = parse(compile_cuda(shown[0], "sm_90"))["lock"]
    except MissingToolError as error:
        pytest.skip(str(error))
    first = next(place for place, it in enumerate(code) if it.opcode == "BSSY")
    last = next(place for place, it in enumerate(code) if it.opcode == "BSYNC")
    kept = [it.opcode for it in code[first : last + 1] if it.opcode not in ("LDC", "ULDC")]
    kept = [name for name in kept if name not in ("MOV", "IMAD", "HFMA2")]
    assert kept == ["BSSY", "YIELD", "ATOMG", "ISETP", "BRA", "BSYNC"]
    opener = [it for it in code[last:] if it.opcode == "ATOMG"]
    assert len(opener) == 1
    listing = next(
        b.content for b in blocks(PAGE.read_text(encoding="utf-8")) if "YIELD" in b.content
    )
    assert [w for w in listing.replace(".", " ").split() if w in kept] == kept


# Fortran


def test_fortran_where_and_merge_agree_with_the_warp(compile_fortran):
    """Le due routine della pagina danno l'Y del warp, e quello del conto."""
    text = PAGE.read_text(encoding="utf-8")
    library = compile_fortran("\n".join(b.content for b in blocks(text) if b.language == "fortran"))
    expected = run_text(text_of("if_else"), data={"X": PENCIL})["Y"]
    for routine in (library.two_ways, library.two_ways_merged):
        given_x, y = (ctypes.c_float * 32)(*PENCIL), (ctypes.c_float * 32)()
        routine(ctypes.c_int(32), given_x, y)
        assert list(y) == expected.tolist() == [two_ways(x) for x in PENCIL]


def test_every_program_of_the_page_is_printed_on_it():
    """I cinque programmi stanno nella cartella, e la pagina li stampa tutti."""
    text = PAGE.read_text(encoding="utf-8")
    for name in ("if_else", "select", "trips", "lock", "neighbours"):
        assert Path(PROGRAMS / f"{name}.sm").exists()
        assert f'"{name}.sm"' in text
