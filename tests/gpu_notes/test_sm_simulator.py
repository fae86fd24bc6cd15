"""L'SM in miniatura: i risultati sono giusti, e i cicli sono quelli contati a mano."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from gpu_notes.memory_hierarchy import coalesce, conflict_degree, strided
from gpu_notes.sm_assembler import ProgramError, assemble
from gpu_notes.sm_simulator import (
    Parameters,
    Run,
    bank_passes,
    lanes,
    lines,
    main,
    marks,
    mask_of,
    report,
    run,
    sectors,
    timeline,
    timeline_svg,
)
from weave.house import ROOT

PROGRAMS = ROOT / "gpu_notes" / "programs"

SHAPES = [(1, 1), (3, 1), (10, 1), (16, 1), (4, 4), (10, 4), (11, 3)]
"""Quanti warp e quante partizioni: da pochi, che fanno più giri, a più del necessario."""


def source(name: str) -> str:
    return (PROGRAMS / f"{name}.sm").read_text(encoding="utf-8")


def values(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def issues(code: str, warps: int = 1, partitions: int = 1, **parameters: object) -> list[int]:
    """I cicli di emissione del warp 0."""
    result = run(assemble(code), warps, partitions, parameters=Parameters(**parameters))
    return [event.cycle for event in result.events if event.warp == 0]


def lane_values(code: str, **arguments: object) -> list[float]:
    """Che cosa resta in R1, un numero per corsia, dopo un pezzo di programma."""
    text = f".global X 32\nS2R R0, LANE\nSHL R31, R0, 2\n{code}\nSTG [R31+X], R1\nEXIT"
    return run(assemble(text), **arguments)["X"].tolist()


# I risultati dei programmi.


@pytest.mark.parametrize(("warps", "partitions"), SHAPES)
def test_vector_add_equals_torch(warps: int, partitions: int) -> None:
    """Z = X + Y, con quanti warp si vuole."""
    x, y = values(1, 1000), values(2, 1000)
    result = run(assemble(source("vector_add")), warps, partitions, {"X": x, "Y": y})
    assert (result["Z"] == (torch.tensor(x) + torch.tensor(y)).numpy()).all()


@pytest.mark.parametrize(("warps", "partitions"), SHAPES)
def test_reduction_equals_torch(warps: int, partitions: int) -> None:
    """La somma di mille numeri, in un ordine che dipende dai warp."""
    x = values(3, 1000)
    result = run(assemble(source("reduction")), warps, partitions, {"X": x})
    exact = torch.tensor(x).double().sum().item()
    assert result["S"][0] == pytest.approx(exact, abs=1e-4)


def test_the_order_of_a_sum_depends_on_the_warps() -> None:
    """Con un altro numero di warp la somma ha un altro ordine, e può avere un altro ultimo bit."""
    x = values(3, 1000)
    program = assemble(source("reduction"))
    assert len({run(program, warps, 1, {"X": x})["S"][0] for warps in (1, 2, 5, 16)}) > 1


@pytest.mark.parametrize(("warps", "partitions"), SHAPES)
def test_softmax_equals_torch(warps: int, partitions: int) -> None:
    """La softmax delle righe, anche con numeri grandi."""
    x = 30 * values(4, 10, 10)
    result = run(assemble(source("softmax")), warps, partitions, {"X": x})
    expected = torch.softmax(torch.tensor(x), dim=-1).numpy()
    np.testing.assert_allclose(result["Y"], expected, rtol=3e-6, atol=1e-12)


@pytest.mark.parametrize(("warps", "partitions"), SHAPES)
def test_product_on_cuda_cores_equals_torch(warps: int, partitions: int) -> None:
    """Il prodotto 16 × 16 × 16 con FFMA."""
    a, b = values(5, 16, 16), values(6, 16, 16)
    result = run(assemble(source("product_ffma")), warps, partitions, {"A": a, "B": b})
    expected = (torch.tensor(a).double() @ torch.tensor(b).double()).numpy()
    np.testing.assert_allclose(result["C"], expected, atol=1e-5)


def test_product_on_tensor_cores_equals_torch() -> None:
    """Lo stesso con due HMMA: uguale al prodotto degli stessi numeri ridotti a BF16."""
    a, b = values(5, 16, 16), values(6, 16, 16)
    result = run(assemble(source("product_mma")), data={"A": a, "B": b})
    left, right = (torch.tensor(x).bfloat16().double() for x in (a, b))
    np.testing.assert_allclose(result["C"], (left @ right).numpy(), atol=1e-5)
    assert np.abs(result["C"] - a @ b).max() > 1e-3


@pytest.mark.parametrize(("warps", "partitions"), SHAPES)
def test_attention_equals_torch(warps: int, partitions: int) -> None:
    """L'equazione (1) per una testa: 10 token, larghezza 64."""
    q, k, v = (values(seed, 10, 64) for seed in (7, 8, 9))
    data = {"Q": q, "K": k, "V": v}
    result = run(assemble(source("attention")), warps, partitions, data)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(torch.tensor(x).double() for x in (q, k, v))
    )
    np.testing.assert_allclose(result["OUT"], expected.numpy(), atol=2e-6)


@pytest.mark.parametrize(("warps", "partitions"), SHAPES)
def test_feed_forward_equals_torch(warps: int, partitions: int) -> None:
    """L'equazione (2) in piccolo: 16 → 64 → 16, sul Tensor Core, con la barriera in mezzo."""
    shapes = {"X": (16, 16), "W1": (16, 64), "BIAS1": (64,), "W2": (64, 16), "BIAS2": (16,)}
    data = {name: values(place, *shape) for place, (name, shape) in enumerate(shapes.items())}
    result = run(assemble(source("feed_forward")), warps, partitions, data)
    x, w_1, w_2 = (torch.tensor(data[name]).bfloat16().double() for name in ("X", "W1", "W2"))
    b_1, b_2 = (torch.tensor(data[name]).double() for name in ("BIAS1", "BIAS2"))
    hidden = torch.relu(x @ w_1 + b_1).float().bfloat16().double()
    np.testing.assert_allclose(result["Y"], (hidden @ w_2 + b_2).numpy(), atol=1e-4)
    assert result.by_unit["TENSOR"] == 16


def test_two_instructions_do_the_work_of_thousands_of_lanes() -> None:
    """16 × 16 × 16 = 4096 moltiplica-e-accumula: 128 FFMA di warp, oppure 2 HMMA."""
    ffma = run(assemble(source("product_ffma")), 8)
    hmma = run(assemble(source("product_mma")))
    assert ffma.by_unit["FP32"] == 16**3 // 32
    names = [hmma.program.instructions[event.pc].name for event in hmma.events]
    assert sum(name.startswith("HMMA") for name in names) == 2


# Il tempo, contato a mano.


def test_a_dependent_instruction_waits_four_cycles() -> None:
    """Emissione al ciclo 0; chi usa il risultato parte al 4; chi non lo usa, al ciclo dopo."""
    assert issues("FADD R1, R2, R3\nFADD R4, R1, R1\nFADD R5, R6, R6\nEXIT") == [0, 4, 5, 6]


@pytest.mark.parametrize(
    ("code", "latency"),
    [
        ("FFMA R1, R2, R3, R4\nFADD R5, R1, R1", 4),
        ("IADD R1, R2, 1\nIADD R5, R1, 1", 4),
        ("S2R R1, LANE\nIADD R5, R1, 1", 4),
        ("MUFU.EX2 R1, R2\nFADD R5, R1, R1", 18),
        ("SHFL.BFLY R1, R2, 1\nFADD R5, R1, R1", 23),
        ("LDS R1, [S]\nFADD R5, R1, R1", 29),
        ("LDG R1, [X]\nFADD R5, R1, R1", 640),
        ("HMMA.16816.F32.BF16 R8, R4, R4, R4\nFADD R5, R11, R11", 33),
        ("ISETP.LT P0, R1, R2\n@P0 FADD R5, R6, R6", 4),
        ("LDG R1, [X]\nMOV R1, 0", 640),
        ("ATOM.EXCH R1, [X], R2\nFADD R5, R1, R1", 640),
        ("BRA qui\nqui: NOP", 4),
        ("ISETP.LT P0, R1, R1\n@P0 BRA qui\nqui: NOP", 4),
    ],
)
def test_latencies(code: str, latency: int) -> None:
    """Quanto passa fra un'istruzione e la prima che ne usa il risultato, o lo riscrive.

    Dopo un salto, la prima che segue, anche se non si salta.
    """
    *_, first, second, _exit = issues(f".global X 32\n.shared S 32\n{code}\nEXIT")
    assert second - first == latency


def test_latencies_are_parameters() -> None:
    """Cambiare un parametro cambia il tempo, e soltanto quello."""
    code = "MUFU.EX2 R1, R2\nFADD R5, R1, R1\nEXIT"
    assert issues(code, sfu_latency=7)[1] == 7
    assert issues(code, alu_latency=9)[1] == 18
    with pytest.raises(dataclasses.FrozenInstanceError):
        Parameters().alu_latency = 3


@pytest.mark.parametrize(
    ("code", "interval"),
    [
        ("FADD R{0}, R0, R0", 1),
        ("IADD R{0}, R0, R0", 2),
        ("MUFU.EX2 R{0}, R0", 8),
        ("HMMA.16816.F32.BF16 R{0}, R0, R0, R0", 4),
        ("LDS R{0}, [S]", 1),
    ],
)
def test_units_accept_a_warp_every_few_cycles(code: str, interval: int) -> None:
    """32 thread su 32, 16 o 4 corsie: un'istruzione occupa l'unità per 1, 2, 8 cicli."""
    body = "\n".join(code.format(20 + 4 * place) for place in range(4))
    cycles = issues(f".shared S 32\n{body}\nEXIT")
    assert cycles[:4] == [0, interval, 2 * interval, 3 * interval]


def test_a_second_read_hits_the_cache() -> None:
    """Ciò che si è già letto costa la latenza della L1, se è già arrivato."""
    code = ".global X 32\nLDG R1, [X]\nIADD R2, R1, R1\nLDG R3, [X]\nIADD R4, R3, R3\nEXIT"
    assert issues(code) == [0, 640, 641, 641 + 32, 642 + 32]


def test_a_read_of_data_on_the_way_waits_for_them() -> None:
    """Chi legge un settore già chiesto aspetta che arrivi, e non lo chiede di nuovo."""
    code = ".global X 32\nLDG R1, [X]\nLDG R3, [X]\nIADD R4, R3, R3\nEXIT"
    result = run(assemble(code))
    assert [event.cycle for event in result.events] == [0, 1, 640, 641]
    assert result.counts["byte da e per la memoria"] == 32


def test_a_write_does_not_fill_the_cache() -> None:
    """Una scrittura va in memoria, non la aspetta nessuno e non lascia nulla in L1."""
    code = ".global X 32\nSTG [X], R1\nLDG R3, [X]\nIADD R4, R3, R3\nEXIT"
    assert issues(code)[:2] == [0, 1]
    assert issues(code)[2] > 640


FFMA_CHAIN = "\n".join(["FFMA R1, R1, R2, R3"] * 100) + "\nEXIT"


@pytest.mark.parametrize(
    ("warps", "per_cycle"), [(1, 1 / 4), (2, 2 / 4), (3, 3 / 4), (4, 1), (5, 1)]
)
def test_four_warps_hide_the_arithmetic_latency(warps: int, per_cycle: float) -> None:
    """Con una catena di FFMA dipendenti servono quattro warp perché lo scheduler emetta sempre."""
    result = run(assemble(FFMA_CHAIN), warps)
    assert result.busy == pytest.approx(per_cycle, rel=0.03)


def test_a_partition_keeps_its_warps() -> None:
    """Quattro warp su quattro partizioni non si intralciano: ognuno ha il suo scheduler."""
    alone = run(assemble(FFMA_CHAIN), 1, 1).cycles
    assert run(assemble(FFMA_CHAIN), 4, 4).cycles == alone
    independent = "\n".join(f"FADD R{20 + place}, R0, R0" for place in range(40)) + "\nEXIT"
    assert run(assemble(independent), 2, 2).cycles == 41
    assert run(assemble(independent), 2, 1).cycles == 82


def test_the_scheduler_takes_turns() -> None:
    """Tre warp sempre pronti si alternano."""
    result = run(assemble("FADD R1, R0, R0\nFADD R2, R0, R0\nFADD R3, R0, R0\nEXIT"), 3)
    assert [event.warp for event in result.events] == [0, 1, 2] * 4


def test_the_memory_path_is_shared_by_the_partitions() -> None:
    """La via della memoria è una per tutto l'SM: due partizioni si mettono in fila."""
    code = ".shared S 1024\nS2R R0, LANE\nSHL R1, R0, 7\nLDS R2, [R1+S]\nLDS R3, [R1+S]\nEXIT"
    alone = run(assemble(code), 1, 1).cycles
    assert run(assemble(code), 2, 2).cycles > alone + 30


def test_memory_gives_twenty_bytes_per_cycle() -> None:
    """Oltre una certa richiesta, il tempo lo dà la banda: 128 byte ogni 6,4 cicli."""
    loads = "\n".join(f"LDG R{4 + place}, [R1+{128 * place}]" for place in range(100))
    code = f".global X 3200\nS2R R0, LANE\nSHL R1, R0, 2\n{loads}\nFADD R0, R103, R103\nEXIT"
    result = run(assemble(code))
    assert result.counts["byte da e per la memoria"] == 12_800
    waiting = result.events[-2].cycle - result.events[2].cycle
    assert waiting == pytest.approx(640 + 12_800 / 20, abs=3)


def test_little_s_law() -> None:
    """Con un solo carico per warp, 64 warp non riempiono la banda: 64 · 128 / 640 byte a ciclo."""
    code = """
        .global X 65536
        S2R R0, TID
        SHL R1, R0, 2
        MOV R2, 0
giro:   LDG R3, [R1+X]
        FADD R4, R3, R4
        IADD R1, R1, 8192
        IADD R2, R2, 1
        ISETP.LT P0, R2, 32
@P0     BRA giro
        EXIT"""
    result = run(assemble(code), 64, 4)
    rate = result.counts["byte da e per la memoria"] / result.cycles
    assert rate == pytest.approx(64 * 128 / 640, rel=0.07)
    assert rate / 20 == pytest.approx(0.62, abs=0.03)


# La memoria.


@pytest.mark.parametrize(
    ("stride", "touched", "rows"), [(1, 4, 1), (2, 8, 2), (8, 32, 8), (32, 32, 32), (0, 1, 1)]
)
def test_coalescing(stride: int, touched: int, rows: int) -> None:
    """Trentadue letture vicine toccano 4 settori e una riga; lontane, fino a 32 e 32."""
    places = np.arange(32)[:, None] * stride
    assert (len(sectors(places)), lines(places)) == (touched, rows)


@pytest.mark.parametrize(
    ("stride", "passes"), [(0, 1), (1, 1), (2, 2), (4, 4), (16, 16), (32, 32), (33, 1)]
)
def test_bank_conflicts(stride: int, passes: int) -> None:
    """Parole diverse nello stesso banco si leggono una per turno; la stessa parola, insieme."""
    assert bank_passes(np.arange(32)[:, None] * stride) == passes


def test_a_conflict_costs_its_passes() -> None:
    """Un conflitto a 32 vie ritarda il dato di 31 cicli, e tiene occupata la via per 32."""
    code = """
        .shared S 1024
        S2R R0, LANE
        SHL R1, R0, {}
        LDS R2, [R1]
        LDS R3, [R1]
        FADD R4, R2, R2
        EXIT"""
    free, clash = (issues(code.format(shift)) for shift in (2, 7))
    assert free[3] - free[2] == 1
    assert clash[3] - clash[2] == 32
    assert (free[4] - free[2], clash[4] - clash[2]) == (29, 29 + 31)


def test_wide_loads_bring_adjacent_words() -> None:
    """LDG.128 porta quattro parole di seguito per corsia, STG.64 ne scrive due."""
    code = """
        .global A 128 iota
        .global B 64
        S2R R0, LANE
        SHL R1, R0, 4
        SHL R2, R0, 3
        LDG.128 R4, [R1+A]
        STG.64 [R2+B], R6
        EXIT"""
    result = run(assemble(code))
    assert result["B"].tolist() == [4 * (i // 2) + 2 + i % 2 for i in range(64)]
    assert result.counts["settori da 32 byte"] == 16 + 8


def test_shared_memory_is_another_memory() -> None:
    """Lo stesso indirizzo in memoria globale e condivisa è un'altra parola."""
    code = """.shared S 32
MOV R2, 7.0
STS [S], R2
MOV R1, 0.0
LDG R1, [X]
LDS R3, [S]
FADD R1, R1, R3"""
    assert lane_values(code) == [7.0] * 32


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("LDG R1, [X+128]", "riga 2: LDG R1, [X+128]: la corsia 0 del warp 0 va fuori"),
        ("LDG R1, [X+128]", "al byte 128"),
        ("LDG R1, [X+-4]", "va fuori da ogni array, al byte -4"),
        ("LDG R1, [X+256]", "va fuori da ogni array, al byte 256"),
        ("STG.64 [X+1024], R2", "va fuori da ogni array, al byte 1024"),
        ("LDG R1, [X+2]", "indirizzo 2: atteso un multiplo di 4"),
        ("LDG.64 R2, [X+4]", "indirizzo 4: atteso un multiplo di 8"),
        ("LDS R1, [0]", "va fuori da ogni array"),
        ("S2R R0, LANE\nSHL R0, R0, 3\nLDG R1, [R0]", "la corsia 16 del warp 0 va fuori"),
        ("STG.128 [X+112], R0\nSTG.128 [X+128], R0", "riga 3: STG.128 [X+128], R0"),
    ],
)
def test_memory_errors_name_line_lane_and_byte(code: str, cause: str) -> None:
    """Un accesso fuori dagli array, o non allineato, si ferma e dice chi e dove."""
    with pytest.raises(ProgramError) as error:
        run(assemble(f".global X 32\n{code}\nEXIT"))
    assert cause in str(error.value)


@pytest.mark.parametrize("stride", [0, 1, 2, 3, 8, 31, 32, 33])
def test_counts_agree_with_the_note_on_memory(stride: int) -> None:
    """Settori, righe e turni sono quelli della nota sulla gerarchia di memoria."""
    places = np.arange(32)[:, None] * stride
    addresses = strided(stride)
    access = coalesce(addresses)
    assert (len(sectors(places)), lines(places)) == (len(access.sectors), len(access.lines))
    assert bank_passes(places) == conflict_degree(addresses)


# Corsie, maschere, divergenza.


def test_masks_and_lanes_are_inverse() -> None:
    """La corsia i è il bit i."""
    for mask in (0, 1, 1 << 31, 0b1011, 2**32 - 1, 0xDEADBEEF):
        assert mask_of(lanes(mask)) == mask
        assert [bool(mask >> lane & 1) for lane in range(32)] == lanes(mask).tolist()


def test_lanes_turned_off_keep_their_values() -> None:
    """Un'istruzione con la guardia tocca soltanto le corsie accese."""
    code = "MOV R1, 1.0\nISETP.LT P0, R0, 5\n@P0 MOV R1, 2.0\n@!P0 FADD R1, R1, 2.0"
    assert lane_values(code) == [2.0] * 5 + [3.0] * 27


def test_a_guarded_comparison_keeps_the_other_lanes() -> None:
    """Anche un confronto con la guardia cambia il predicato nelle sole corsie accese."""
    code = """MOV R1, 0.0
ISETP.LT P0, R0, 8
ISETP.LT P1, R0, 16
@P0 ISETP.GE P1, R0, 4
@P1 MOV R1, 1.0"""
    assert lane_values(code) == [0.0] * 4 + [1.0] * 12 + [0.0] * 16


def test_float_comparison_and_negated_source() -> None:
    """FSETP confronta reali, e il meno davanti a una sorgente vale anche lì."""
    code = "I2F R2, R0\nMOV R1, 0.0\nFSETP.LE P0, -R2, -3.5\n@P0 MOV R1, 1.0"
    assert lane_values(code) == [0.0] * 4 + [1.0] * 28


def test_the_last_register_works() -> None:
    """I registri sono 255: R254 si scrive, si aspetta e si legge come gli altri."""
    assert lane_values("MOV R254, 3.0\nFADD R1, R254, R254") == [6.0] * 32
    assert issues("MUFU.EX2 R254, R2\nFADD R5, R254, R1\nEXIT")[1] == 18


def test_zero_register_stays_zero() -> None:
    """Scrivere RZ non lo cambia."""
    assert lane_values("MOV RZ, 5\nIADD R2, RZ, 0\nI2F R1, R2") == [0.0] * 32


def test_zero_register_in_wide_and_matrix_instructions() -> None:
    """RZ vale zero in tutte le sue parole, anche come matrice; ciò che vi si scrive va perso."""
    code = """
        .global X 128 1.0
        .global Y 128 1.0
        S2R R0, LANE
        SHL R1, R0, 4
        LDG.128 RZ, [R1+X]
        STG.64 [R1+X], RZ
        MOV R4, 2.0
        MOV R5, 2.0
        MOV R6, 2.0
        MOV R7, 2.0
        HMMA.16816.F32.BF16 R8, RZ, RZ, R4
        HMMA.16816.F32.BF16 RZ, R4, R4, R4
        HMMA.16816.F32.BF16 R12, R4, R4, RZ
        FADD R8, R8, RZ
        STG.128 [R1+Y], R8
        EXIT"""
    result = run(assemble(code))
    assert result["X"].reshape(32, 4).tolist() == [[0.0, 0.0, 1.0, 1.0]] * 32
    assert result["Y"].tolist() == [2.0] * 128


def test_who_am_i() -> None:
    """LANE, WARP, WARPS, TID."""
    code = """
        .global X 4x96
        S2R R0, TID
        SHL R1, R0, 2
        S2R R2, LANE
        S2R R3, WARP
        S2R R4, WARPS
        I2F R2, R2
        I2F R3, R3
        I2F R4, R4
        I2F R0, R0
        STG [R1+X], R2
        STG [R1+X+384], R3
        STG [R1+X+768], R4
        STG [R1+X+1152], R0
        EXIT"""
    found = run(assemble(code), 3, 2)["X"]
    thread = np.arange(96)
    assert (found == np.stack([thread % 32, thread // 32, 0 * thread + 3, thread])).all()


def test_butterfly_and_indexed_shuffles() -> None:
    """BFLY legge dalla corsia XOR, IDX dalla corsia detta, anche diversa per ciascuna."""
    assert lane_values("I2F R2, R0\nSHFL.BFLY R1, R2, 5") == [float(i ^ 5) for i in range(32)]
    assert lane_values("I2F R2, R0\nSHFL.IDX R1, R2, 3") == [3.0] * 32
    code = "I2F R2, R0\nIMAD R3, R0, 7, 1\nSHFL.IDX R1, R2, R3"
    assert lane_values(code) == [float((7 * i + 1) % 32) for i in range(32)]


PATHS = """ISETP.LT P0, R0, 10
BSSY B0, insieme
@P0 BRA altra
MOV R1, 1.0
BRA insieme
altra: MOV R1, 2.0
insieme: BSYNC B0
FADD R1, R1, 10.0"""


def test_both_sides_of_a_branch_run_one_after_the_other() -> None:
    """Le due strade si eseguono una dopo l'altra, poi il warp torna intero."""
    assert lane_values(PATHS) == [12.0] * 10 + [11.0] * 22
    program = assemble(
        f".global X 32\nS2R R0, LANE\nSHL R31, R0, 2\n{PATHS}\nSTG [R31+X], R1\nEXIT"
    )
    result = run(program)
    masks = {program.instructions[event.pc].text: event.mask for event in result.events}
    assert masks["MOV R1, 1.0"] == 2**32 - 2**10
    assert masks["MOV R1, 2.0"] == 2**10 - 1
    assert masks["FADD R1, R1, 10.0"] == 2**32 - 1


def test_a_uniform_branch_runs_one_side_only() -> None:
    """Se tutte le corsie vanno dalla stessa parte, l'altra non si esegue."""
    code = PATHS.replace("R0, 10", "R0, 32")
    result = run(assemble(f"S2R R0, LANE\n{code}\nEXIT"))
    texts = [result.program.instructions[event.pc].text for event in result.events]
    assert "MOV R1, 1.0" not in texts
    assert texts.count("MOV R1, 2.0") == 1


def test_a_loop_lasts_as_long_as_its_slowest_lane() -> None:
    """Ogni corsia conta fino al suo numero; il warp gira finché ce n'è una."""
    code = """MOV R1, 0.0
MOV R2, 0
BSSY B0, fuori
giro: ISETP.GE P0, R2, R0
@P0 BRA fuori
FADD R1, R1, 1.0
IADD R2, R2, 1
BRA giro
fuori: BSYNC B0"""
    assert lane_values(code) == [float(i) for i in range(32)]


LOCK = """
        .global LOCK 1
        .global TOTAL 1
        S2R R0, LANE
        ISETP.LT P1, R0, 4
        MOV R1, 1
        BSSY B0, fine
@!P1    BRA fine
prova:  ATOM.EXCH R2, [LOCK], R1
        ISETP.NE P0, R2, 0
@P0     BRA prova
        LDG R3, [TOTAL]
        FADD R3, R3, 1.0
        STG [TOTAL], R3
        STG [LOCK], RZ
fine:   BSYNC B0
        EXIT"""


def test_a_lock_between_lanes_ends_with_forward_progress() -> None:
    """Da Volta in poi chi aspetta cede il turno: ogni corsia prende il lucchetto, una per volta."""
    assert run(assemble(LOCK))["TOTAL"][0] == 4


def test_a_lock_between_lanes_never_ends_without_it() -> None:
    """Senza, chi aspetta gira per sempre, e chi ha il lucchetto non va avanti."""
    spin = LOCK.replace("@P0     BRA prova", "@!P0    BRA preso\n        BRA prova\npreso:  NOP")
    assert run(assemble(spin))["TOTAL"][0] == 4
    with pytest.raises(ProgramError, match="non finisce in 20000 cicli"):
        run(assemble(spin), parameters=Parameters(forward_progress=False, limit=20_000))


def test_leaving_lanes_are_not_waited_for() -> None:
    """Chi esce dal programma non viene aspettato alla barriera di riconvergenza."""
    code = """BSSY B0, insieme
ISETP.LT P0, R0, 9
@P0 EXIT
MOV R1, 3.0
insieme: BSYNC B0"""
    assert lane_values(code) == [0.0] * 9 + [3.0] * 23


def test_exit_in_a_branch_releases_those_who_wait() -> None:
    """Se l'ultimo atteso esce invece di arrivare, chi aspetta riparte."""
    code = """BSSY B0, insieme
MOV R1, 3.0
ISETP.LT P0, R0, 9
@!P0 BRA insieme
EXIT
insieme: BSYNC B0"""
    assert lane_values(code) == [0.0] * 9 + [3.0] * 23
    later = code.replace("@!P0 BRA insieme\nEXIT", "@P0 BRA esce\nBRA insieme\nesce: EXIT")
    assert lane_values(later) == [0.0] * 9 + [3.0] * 23


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        ("BSYNC B3", "riga 2: BSYNC B3 senza il suo BSSY"),
        (
            "giro: BSSY B0, fuori\nISETP.LT P0, R0, 9\n@P0 BRA fuori\nIADD R0, R0, -9\nBRA giro\n"
            "fuori: BSYNC B0",
            "riga 2: BSSY B0 mentre altre corsie aspettano già lì",
        ),
        (
            "BSSY B0, a\nBSSY B1, b\nISETP.LT P0, R0, 9\n@P0 BRA a\nBRA b\n"
            "a: BSYNC B0\nb: BSYNC B1",
            "le corsie si aspettano a vicenda",
        ),
        ("ISETP.LT P0, R0, 9\n@P0 BRA qui\nNOP\nqui: BAR.SYNC", "BAR.SYNC con il warp diviso"),
        ("ISETP.LT P0, R0, 9\n@P0 HMMA.16816.F32.BF16 R8, R4, R4, R4", "accese tutte le 32 corsie"),
        ("qui: NOP\nBRA qui", "non finisce in 5000 cicli"),
    ],
)
def test_errors_while_running(code: str, cause: str) -> None:
    """Gli errori che si vedono soltanto eseguendo: la riga e la causa."""
    with pytest.raises(ProgramError) as error:
        run(assemble(f"S2R R0, LANE\n{code}\nEXIT"), parameters=Parameters(limit=5000))
    assert cause in str(error.value)


# La barriera del blocco.


BARRIER = """
        .shared S 32
        .global X 2
        S2R R0, WARP
        SHL R1, R0, 2
        ISETP.EQ P0, R0, 0
@P0     LDG R9, [X]
@P0     FADD R9, R9, 1.0
        MOV R2, 5.0
        STS [R1+S], R2
        BAR.SYNC
        XOR R1, R1, 4
        LDS R3, [R1+S]
        XOR R1, R1, 4
        STG [R1+X], R3
        EXIT"""


def test_a_barrier_waits_for_every_warp() -> None:
    """Nessuno passa prima dell'ultimo, e ciò che gli altri hanno scritto c'è."""
    result = run(assemble(BARRIER), 2)
    code = result.program.instructions
    arrivals = [e.cycle for e in result.events if code[e.pc].name == "BAR.SYNC"]
    after = [e.cycle for e in result.events if code[e.pc].text.startswith("XOR R1")]
    assert min(after) == max(arrivals) + 4
    assert max(arrivals) > 640 > min(arrivals)
    assert result["X"].tolist() == [5.0, 5.0]


def test_a_barrier_does_not_wait_for_those_who_left() -> None:
    """Un warp uscito non viene aspettato, neppure se esce per ultimo."""
    code = "S2R R0, WARP\nISETP.EQ P0, R0, 1\n@P0 EXIT\nBAR.SYNC\nNOP\nEXIT"
    assert run(assemble(code), 3).events[-1].warp in (0, 2)
    late = code.replace("@P0 EXIT", "@P0 MUFU.EX2 R1, R2\n@P0 FADD R1, R1, R1\n@P0 EXIT")
    assert run(assemble(late), 3).cycles < 60


# Gli argomenti, i resoconti, il comando.


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"warps": 0}, "warps: dato: 0; atteso: da 1 a 16"),
        ({"warps": 17}, "warps: dato: 17; atteso: da 1 a 16"),
        ({"warps": 65, "partitions": 4}, "warps: dato: 65; atteso: da 1 a 64"),
        ({"partitions": 5}, "partitions: dato: 5; atteso: da 1 a 4"),
        ({"partitions": 0}, "partitions: dato: 0; atteso: da 1 a 4"),
        ({"data": {"Z": [1.0]}}, "data: dato: ['Z']; atteso: array del programma, che sono ['X']"),
        ({"data": {"X": [1.0]}}, "data['X']: dato: [1]; atteso: [2]"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, object], cause: str) -> None:
    """Un argomento sbagliato riceve il suo nome, ciò che è stato dato, ciò che si aspettava."""
    with pytest.raises(ValueError, match=r"^(warps|partitions|data)") as error:
        run(assemble(".global X 2\nEXIT"), **arguments)
    assert cause in str(error.value)


def test_initial_values_are_those_declared() -> None:
    """iota, un numero, una gaussiana con il suo seme; gli interi dati restano interi."""
    program = assemble(
        ".global A 3 iota\n.global B 2 -1.5\n.global C 2x2 normal 7\n.global D 2\nEXIT"
    )
    result = run(program, data={"D": np.array([1, -1])})
    assert result["A"].tolist() == [0, 1, 2]
    assert result["B"].tolist() == [-1.5, -1.5]
    expected = np.random.default_rng(7).normal(size=(2, 2)).astype(np.float32)
    assert (result["C"] == expected).all()
    assert result["D"].view(np.int32).tolist() == [1, -1]


def small() -> Run:
    return run(assemble("FADD R1, R2, R3\nFADD R4, R1, R1\nBAR.SYNC\nIADD R5, R4, 1\nEXIT"), 2)


def test_timeline_by_hand() -> None:
    """Due warp: emissioni, attese di un dato, attese del turno, attese alla barriera."""
    assert timeline(small()).splitlines() == [
        "warp  0 f...f-c||||ic",
        "warp  1 -f...f-c|||--ic",
    ]


def test_timeline_can_show_a_window() -> None:
    """Si può guardare un tratto solo."""
    assert timeline(small(), 4, 6).splitlines() == ["warp  0 f-", "warp  1 .f"]
    assert timeline(small(), 3, 8).splitlines() == ["warp  0 .f-c|", "warp  1 ..f-c"]
    long = run(assemble(FFMA_CHAIN))
    assert timeline(long) == timeline(long, 0, 100) != timeline(long, 0, 101)


def test_marks_cover_every_cycle_of_a_warp() -> None:
    """Fino alla sua ultima emissione ogni warp ha un segno per ciclo, e uno solo."""
    result = run(assemble(source("softmax")), 5, 2)
    found = list(marks(result))
    for warp in range(5):
        cycles = [cycle for cycle, owner, _mark in found if owner == warp]
        assert cycles == list(range(len(cycles)))


def test_drawing_has_a_title_and_a_rectangle_per_stretch() -> None:
    """Il disegno dice che cosa mostra, non perde emissioni, e spiega i tre colori che usa."""
    drawing = timeline_svg(small(), "due warp & una barriera", last=12)
    assert "<title>due warp &amp; una barriera</title>" in drawing
    assert timeline(small(), 0, 12).splitlines() == ["warp  0 f...f-c||||i", "warp  1 -f...f-c|||-"]
    assert drawing.count("<rect") == (7 + 8) + 3  # f ... f - c |||| i, e - f ... f - c ||| -


def test_a_long_wait_is_one_rectangle() -> None:
    """Cento cicli d'attesa non sono cento rettangoli, e coprono la stessa larghezza."""
    result = run(assemble(source("softmax")), 5, 2)
    shown = list(marks(result))
    drawing = timeline_svg(result, "", last=result.cycles)
    assert drawing.count("<rect") < len(shown) / 2
    lines = re.findall(r'width="([\d.]+)" height="1.5"', drawing)
    waits = sum(mark in ".-|" for _cycle, _warp, mark in shown)
    assert sum(map(float, lines)) == pytest.approx(460 / result.cycles * waits, rel=0.01)


def test_drawing_by_hand() -> None:
    """Dodici cicli larghi 460: ogni segno al suo posto, i numeri sotto, la legenda in fila."""
    drawing = timeline_svg(small(), "due warp", last=12)
    for piece in (
        'viewBox="-2 -4 470 69"',
        '<rect x="0.00" y="1" width="38.33" height="13" fill="#c8571b"/>',
        '<rect x="0.00" y="23" width="38.33" height="1.5" opacity="0.7"/>',
        '<rect x="38.33" y="7" width="115.00" height="1.5" opacity="0.25"/>',
        '<rect x="268.33" y="7" width="153.33" height="1.5" opacity="0.5"/>',
        '<text x="38.3" y="41">1</text>',
        '<rect x="0" y="50" width="9" height="9" fill="#7d7f86"/><text x="12" y="58">interi</text>',
        '<rect x="78" y="50" width="9" height="9" fill="#c8571b"/><text x="90" y="58">FP32</text>',
        '<rect x="156" y="50" width="9" height="9" fill="#9a7b12"/><text x="168" y="58">controllo',
    ):
        assert piece in drawing


def test_drawing_scales_with_the_window() -> None:
    """Un numero ogni decimo della finestra, che di solito è di cento cicli; niente sparisce."""
    drawing = timeline_svg(small(), "due warp")
    assert drawing == timeline_svg(small(), "due warp", first=0, last=100)
    assert drawing.count("<text") == 10 + 3
    assert '<text x="46.0" y="41">10</text>' in drawing
    assert 'width="1.20"' in timeline_svg(small(), "due warp", last=1000)
    assert timeline(small()) == timeline(small(), 0, 100)
    later = timeline_svg(small(), "due warp", first=4, last=16)
    assert '<rect x="0.00" y="1" width="38.33" height="13" fill="#c8571b"/>' in later
    assert '<text x="0.0" y="41">4</text>' in later


def test_counts_of_a_run() -> None:
    """Cicli, istruzioni, unità, posti usati."""
    result = small()
    assert (result.issued, result.cycles) == (10, result.events[-1].cycle + 1)
    assert result.by_unit == {"FP32": 4, "CTRL": 4, "INT": 2}
    assert result.busy == result.issued / result.cycles
    assert run(assemble(FFMA_CHAIN), 2, 2).busy == pytest.approx(0.25, rel=0.05)


def test_report_says_what_happened() -> None:
    """Il resoconto dà cicli, istruzioni, traffico e le uscite dichiarate."""
    result = run(assemble(source("product_mma")))
    text = report(result)
    assert f"cicli: {result.cycles}" in text
    assert "TENSOR 2" in text
    assert "byte da e per la memoria: 3072" in text
    assert "C =" in text


def test_command_runs_a_program(capsys: pytest.CaptureFixture[str]) -> None:
    """Il comando esegue un file e stampa resoconto e linea del tempo."""
    assert main([str(PROGRAMS / "softmax.sm"), "--warps", "10", "--cycles", "50"]) == 0
    printed = capsys.readouterr().out
    assert "Y =" in printed
    assert f"cicli: {run(assemble(source('softmax')), 10, 1).cycles}\n" in printed
    assert printed.splitlines()[-1].startswith("warp  9 ")
    assert max(len(row) for row in printed.splitlines()[-10:]) <= 8 + 50


def test_command_draws_the_timeline(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    """Con --drawing il comando scrive il disegno, e non lascia file a metà."""
    drawing = tmp_path / "tempo.svg"
    assert main([str(PROGRAMS / "softmax.sm"), "--cycles", "40", "--drawing", str(drawing)]) == 0
    result = run(assemble(source("softmax")))
    assert drawing.read_text(encoding="utf-8") == timeline_svg(
        result, str(PROGRAMS / "softmax.sm"), last=40
    )
    assert list(tmp_path.iterdir()) == [drawing]
    assert main([str(PROGRAMS / "softmax.sm"), "--drawing", str(tmp_path / "manca" / "x")]) == 1
    assert "manca" in capsys.readouterr().err


def test_command_reports_errors(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    """Un errore esce in una riga, con il file, la riga e la causa, e il codice 1."""
    wrong = tmp_path / "mio.sm"
    wrong.write_text("NOP\nBOH\nEXIT", encoding="utf-8")
    assert main([str(wrong)]) == 1
    assert f"{wrong}: riga 2: istruzione «BOH» sconosciuta" in capsys.readouterr().err
    assert main([str(tmp_path / "manca.sm")]) == 1
    assert main([str(PROGRAMS / "softmax.sm"), "--warps", "40"]) == 1
