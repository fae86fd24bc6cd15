"""Nascondere la latenza: i tre conti contro il simulatore, contro NVIDIA, contro la matita."""

import ctypes
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpu_notes.latency_hiding import (
    AMPERE_TRIP,
    HOPPER_TRIP,
    Occupancy,
    Trip,
    bandwidth,
    ffma,
    in_flight,
    issue_share,
    little,
    occupancy,
    offered,
    per_sm,
    stream,
    warps_for_bandwidth,
    warps_to_fill,
)
from gpu_notes.sm_map import A100, B200, GPUS, H100, H200, RTX_3090, RTX_4090
from gpu_notes.sm_simulator import Parameters, assemble, run
from weave.house import ROOT
from weave.pact import blocks

PAGE = ROOT / "gpu_notes" / "latency_hiding.md"
PROGRAMS = ROOT / "gpu_notes" / "programs"
MACHINE = Parameters()


def text_of(name: str) -> str:
    return (PROGRAMS / f"{name}.sm").read_text(encoding="utf-8")


# L'emissione


def test_an_independent_instruction_behind_a_stalled_one_waits_too():
    """In ordine: otto somme indipendenti costano solo se stanno dietro a chi aspetta."""
    head = ".global X 32\nS2R R0, LANE\nIMAD R0, R0, 4, RZ\nLDG R1, [R0+X]\n"
    use, other = "FADD R2, R1, 1.0\n", "FADD R3, R3, 1.0\n" * 8
    behind = run(assemble(head + use + other + "EXIT")).cycles
    before = run(assemble(head + other + use + "EXIT")).cycles
    alone = run(assemble(head + use + "EXIT")).cycles
    assert before == alone
    assert behind > alone + 7 * MACHINE.alu_latency


@pytest.mark.parametrize("chains", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("warps", [1, 2, 3, 4, 5])
def test_warps_times_chains_fill_the_scheduler(chains, warps):
    """La frazione prevista è quella del simulatore; al prodotto 4 lo scheduler è pieno."""
    done = run(assemble(ffma(chains, 60)), warps=warps)
    assert done.by_unit["FP32"] == warps * chains * 60
    assert done.busy == pytest.approx(issue_share(warps, chains, 4), abs=0.02)
    assert (issue_share(warps, chains, 4) == 1) == (warps * chains >= 4)


def test_the_file_is_one_chain_of_sixteen():
    """`ffma_chain.sm` fa ciò che fa il programma generato; il quinto warp non aggiunge nulla."""
    chain = assemble(text_of("ffma_chain"))
    written = [" ".join(it.text.replace("R1", "R0").split()) for it in chain.instructions]
    assert written == ffma(1, 16).splitlines()
    for warps in (1, 3, 4):
        assert run(chain, warps).cycles == run(assemble(ffma(1, 16)), warps).cycles
    four, five = run(chain, 4), run(chain, 5)
    assert four.busy == five.busy == 1
    assert five.cycles / four.cycles == 5 / 4


def test_every_chain_has_its_register():
    """Le catene si alternano, e nessuna istruzione dipende da quella subito prima."""
    program = assemble(ffma(3, 2))
    assert [i.writes for i in program.instructions[:-1]] == [(0,), (1,), (2,)] * 2
    assert all(i.reads[0] == i.writes[0] for i in program.instructions[:-1])


@given(instructions=st.integers(1, 50), cycles=st.integers(1, 2000))
def test_the_warps_to_fill_are_just_enough(instructions, cycles):
    warps = warps_to_fill(instructions, cycles)
    assert issue_share(warps, instructions, cycles) == 1
    assert issue_share(warps - 1, instructions, cycles) < 1


def test_thirteen_warps_are_an_eighth_of_a_scheduler():
    """13 warp × 4 istruzioni ogni 416 cicli: 12,5 %. Per riempirlo ce ne vogliono 104."""
    assert issue_share(13, 4, 416) == 0.125
    assert warps_to_fill(4, 416) == 104
    assert 4 * warps_to_fill(4, 416) == 416
    far = Parameters(dram_latency=400, dram_bytes=1e9)
    for warps in (1, 13, 16):
        done = run(assemble(text_of("sequence")), warps, parameters=far)
        useful = done.by_unit["MEM"] + done.by_unit["FP32"]
        assert useful == warps * 16
        assert useful / done.cycles == pytest.approx(warps * 4 / 416, rel=0.08)


@pytest.mark.parametrize("chains", [0, 201])
def test_chains_that_do_not_fit_the_registers_are_refused(chains):
    with pytest.raises(ValueError, match=rf"^chains: dato: {chains}; atteso: da 1 a 200$"):
        ffma(chains, 1)
    assert len(assemble(ffma(200, 1)).instructions) == 201


# Little


def test_little_s_law_on_a_queue_counted_by_hand():
    """Tre byte al secondo, cinque secondi di viaggio: contati uno per uno, sono quindici."""
    times = [k / 3 for k in range(300)]
    now = 50.0
    flying = sum(1 for start in times if start <= now < start + 5)
    assert in_flight(3, 5) == 15
    assert flying == pytest.approx(15, abs=1)


def test_64_warps_do_not_fill_the_memory_of_an_h200():
    """A4: 1,74 MB in volo, 13,2 KB per SM; 64 warp con una lettura da 4 byte ne fanno il 62 %."""
    assert HOPPER_TRIP.seconds == 638 / 1.755e9
    assert in_flight(4.8e12, HOPPER_TRIP.seconds) == pytest.approx(1.74e6, rel=0.005)
    assert per_sm(H200, HOPPER_TRIP) == pytest.approx(13.2e3, rel=0.005)
    assert offered(64) == 8192
    assert offered(64) / per_sm(H200, HOPPER_TRIP) == pytest.approx(0.62, abs=0.005)
    assert warps_for_bandwidth(H200, HOPPER_TRIP) == 104
    assert warps_for_bandwidth(H200, HOPPER_TRIP, width=2) == 52
    assert warps_for_bandwidth(H200, HOPPER_TRIP, width=4) == 26
    assert warps_for_bandwidth(H200, HOPPER_TRIP, loads=2) == 52


def test_an_a100_is_just_filled_by_its_64_warps():
    """A4: la stessa lettura, sulla A100, basta; il margine è piccolo, secondo la latenza presa."""
    assert AMPERE_TRIP.seconds == 553 / 1.395e9
    shares = [offered(64) / per_sm(A100, Trip("", cycles, 1.395e9)) for cycles in (541, 553, 566)]
    assert shares == pytest.approx([1.12, 1.09, 1.07], abs=0.006)
    assert warps_for_bandwidth(A100, AMPERE_TRIP) == 59 <= A100.warps


def test_the_published_trips_are_inside_their_ranges():
    assert (HOPPER_TRIP.card, AMPERE_TRIP.card) == ("H800 PCIe", "A100 PCIe")
    assert 623 <= HOPPER_TRIP.cycles <= 657
    assert 541 <= AMPERE_TRIP.cycles <= 566


def test_fewer_sms_must_keep_more_in_flight():
    """Con 24 SM su 132 ciascuno deve tenere in volo 5,5 volte tanto."""
    assert per_sm(H200, HOPPER_TRIP, sms=24) == pytest.approx(5.5 * per_sm(H200, HOPPER_TRIP))
    assert per_sm(H200, HOPPER_TRIP, sms=132) == per_sm(H200, HOPPER_TRIP)


# La banda nel simulatore


@pytest.mark.parametrize(("width", "loads"), [(1, 1), (1, 3), (2, 1), (4, 1), (2, 2)])
def test_every_byte_is_read_once(width, loads):
    """Il programma legge l'array intero, una volta, con le istruzioni che dice."""
    warps, rounds = 5, 3
    program = assemble(stream(width, loads, rounds, warps))
    done = run(program, warps, partitions=4)
    expected = 128 * width * loads * rounds * warps
    assert 4 * program.memory["X"].words == expected
    assert done.counts["byte da e per la memoria"] == expected
    assert done.by_unit["MEM"] == loads * rounds * warps
    assert done.by_unit["FP32"] == loads * rounds * warps
    assert bandwidth(done) == expected / done.cycles


def test_the_loads_of_a_round_do_not_wait_for_each_other():
    """Quattro letture indipendenti durano quanto una, o quasi; le somme vengono dopo."""
    one, four = (run(assemble(stream(1, loads, 1, 1))).cycles for loads in (1, 4))
    assert four < one + 40
    names = [i.name for i in assemble(stream(1, 3, 1, 1)).instructions]
    assert names.index("FADD") > max(k for k, name in enumerate(names) if name == "LDG")


def test_every_load_has_its_registers_and_its_sum():
    """Le letture di un giro vanno in registri separati, e ogni somma usa il primo dei suoi."""
    code = assemble(stream(4, 8, 1, 1)).instructions
    loads = [i.writes for i in code if i.name == "LDG.128"]
    sums = [i for i in code if i.name == "FADD"]
    assert len({register for written in loads for register in written} - {0, 1, 2}) == 8 * 4
    assert [(i.writes, i.reads) for i in sums] == [((2,), (2, first)) for first, *_ in loads]


@pytest.mark.parametrize(("width", "loads"), [(1, 1), (1, 2), (4, 1)])
def test_bandwidth_follows_the_bytes_in_flight(width, loads):
    """Mai sopra la retta di Little, e vicino; dove la retta è piatta, vicino al tetto."""
    reached = []
    for warps in (4, 16, 48):
        done = run(assemble(stream(width, loads, 5, warps)), warps, partitions=4)
        most = little(warps, width, loads, MACHINE)
        assert 0.75 * most < bandwidth(done) <= most
        reached.append(bandwidth(done))
    assert reached == sorted(reached)
    if width == 4:
        assert little(48, width, loads, MACHINE) == MACHINE.dram_bytes == 20


def test_the_law_in_the_simulator_by_hand():
    """64 warp, 4 byte, 640 cicli: 12,8 byte per ciclo; 100 warp ne farebbero 20, e non di più."""
    assert little(64, 1, 1, MACHINE) == 12.8
    assert little(100, 1, 1, MACHINE) == 20
    assert little(101, 1, 1, MACHINE) == 20
    assert little(25, 4, 1, MACHINE) == 20
    assert little(10, 1, 3, Parameters(dram_latency=320, dram_bytes=99)) == 12
    assert little(10, 1, 3, Parameters(dram_latency=320, dram_bytes=7)) == 7


def test_two_loads_are_worth_a_wide_one():
    """Due da 4 byte o una da 8: la stessa banda, entro il due per cento."""
    for warps in (4, 32):
        two, wide = (
            bandwidth(run(assemble(stream(*way, 4, warps)), warps, partitions=4))
            for way in ((1, 2), (2, 1))
        )
        assert two == pytest.approx(wide, rel=0.02)


def test_a_cache_beats_more_warps():
    """Otto warp sulle stesse righe ricevono più byte per ciclo di 64 su righe nuove.

    Dalla memoria quelle righe arrivano una volta sola.
    """
    text = stream(1, 1, 40, 8)
    assert "IADD R0, R0, 1024" in text
    again = run(assemble(text.replace("IADD R0, R0, 1024", "IADD R0, R0, 0")), 8, partitions=4)
    many = run(assemble(stream(1, 1, 4, 64)), 64, partitions=4)
    assert 40 * 8 * 128 / again.cycles > bandwidth(many)
    assert bandwidth(again) == 8 * 128 / again.cycles


def test_a_quarter_of_the_warps_receive_as_much():
    """Sedici warp con letture da 16 byte per corsia, o 64 con letture da 4: la stessa banda."""
    few, many = (
        bandwidth(run(assemble(stream(*way, 4, warps)), warps, partitions=4))
        for warps, way in ((16, (4, 1)), (64, (1, 1)))
    )
    assert (round(few, 1), round(many, 1)) == (10.6, 10.5)


def copies_in_turn(places: int, count: int) -> str:
    """Un programma per quattro warp: una copia parte quando è letta la precedente del suo posto."""
    rows = [f".global X {count * 64 * 128 // 2}", "S2R R0, TID", "IMAD R0, R0, 16, RZ"]
    for copy in range(count):
        own = [8 + 32 * (copy % places) + 4 * load for load in range(8)]
        rows += [*(f"FADD R2, R2, R{register}" for register in own), "BAR.SYNC"]
        for load, register in enumerate(own):
            rows.append(f"LDG.128 R{register}, [R0+X+{2048 * (8 * copy + load)}]")
    return "\n".join([*rows, "EXIT"])


def test_two_copies_in_turn_fill_the_bandwidth():
    """Una piastrella 64 × 128 in BF16 per volta: con un posto il 56 % della banda, con due tutta.

    Il posto sono i registri. Si contano sei copie in mezzo: senza la prima attesa e senza la coda.
    """
    transfer = 64 * 128 * 2 / MACHINE.dram_bytes
    assert transfer == pytest.approx(819, abs=0.5)
    shares = []
    for places in (1, 2):
        few, many = (run(assemble(copies_in_turn(places, n)), 4, partitions=4) for n in (4, 10))
        assert many.counts["byte da e per la memoria"] == 10 * 64 * 128 * 2
        shares.append(6 * transfer / (many.cycles - few.cycles))
    assert shares[0] == pytest.approx(transfer / (MACHINE.dram_latency + transfer), abs=0.005)
    assert shares == pytest.approx([0.56, 1.0], abs=0.005)


def test_the_stream_of_the_file_reads_it_all():
    """`stream.sm` con più warp fa prima, e legge sempre gli stessi 32 KB."""
    program = assemble(text_of("stream"))
    few, many = (run(program, warps, partitions=4) for warps in (8, 32))
    assert few.counts == many.counts
    assert few.counts["byte da e per la memoria"] == 4 * 8192
    assert 3 < few.cycles / many.cycles <= 4


@pytest.mark.parametrize(
    ("width", "loads", "message"),
    [
        (3, 1, r"^width: dato: 3; atteso: una fra \[1, 2, 4\]$"),
        (1, 0, r"^loads: dato: 0; atteso: da 1 a 8$"),
        (1, 9, r"^loads: dato: 9; atteso: da 1 a 8$"),
    ],
)
def test_a_stream_out_of_range_is_refused(width, loads, message):
    with pytest.raises(ValueError, match=message):
        stream(width, loads, 1, 1)
    assert assemble(stream(4, 8, 1, 1)).instructions[-1].name == "EXIT"


# L'occupazione

LIMITS = {"warp": 1, "registri": 2, "memoria condivisa": 4, "blocchi": 8}
"""Le risorse, e il bit con cui `cuda_occupancy.h` le nomina."""


CASES = [
    *itertools.product((32, 161, 256, 767, 1024), (16, 33, 64), (0, 5000, 40_000)),
    (128, 255, 100 * 1024 - 1024),
    (96, 168, 1),
    (31, 255, 0),
    (1, 1, 0),
]


@pytest.mark.parametrize("gpu", [A100, RTX_3090, RTX_4090, H100, B200], ids=lambda gpu: gpu.name)
def test_occupancy_agrees_with_the_header_of_nvidia(nvidia_occupancy, gpu):
    """Blocchi, e quali risorse li limitano, per una cinquantina di casi a scheda."""
    for case, (expected, factors) in zip(CASES, nvidia_occupancy(gpu, CASES), strict=True):
        found = occupancy(gpu, *case)
        assert found.blocks == expected, case
        assert sum(LIMITS[name] for name in found.binding) == factors & sum(LIMITS.values()), case
        assert found.warps == expected * -(-case[0] // 32)


def test_which_resource_runs_out():
    """I casi della pagina: warp e registri, solo registri, posti dei blocchi, memoria condivisa."""
    assert occupancy(H100, 256, 32) == Occupancy(8, 64, occupancy(H100, 256, 32).limits)
    assert occupancy(H100, 256, 32).binding == ["warp", "registri"]
    assert (occupancy(H100, 256, 33).warps, occupancy(H100, 256, 33).binding) == (48, ["registri"])
    assert (occupancy(H100, 32, 32).warps, occupancy(H100, 32, 32).binding) == (32, ["blocchi"])
    shared = occupancy(H100, 256, 32, 40 * 1024)
    assert (shared.warps, shared.binding) == (40, ["memoria condivisa"])
    assert occupancy(H100, 128, 255, 100 * 1024).warps == 8
    assert occupancy(RTX_4090, 1024, 32).limits["warp"] == 1
    assert list(shared.limits) == ["warp", "blocchi", "registri", "memoria condivisa"]
    assert occupancy(H100, 256, 32) == occupancy(H100, 256, 32, 0)
    assert occupancy(H100, 256, 32).limits["memoria condivisa"] == 228


def test_no_card_holds_128_warps():
    """A3: qualunque blocco, anche senza registri né memoria condivisa, 64 o 48 warp."""
    for gpu in GPUS:
        most = max(occupancy(gpu, threads, 1).warps for threads in range(32, 1025, 32))
        assert most == gpu.warps
        assert most in (48, 64)


@pytest.mark.parametrize("threads", [0, 1025])
def test_a_block_too_small_or_too_big_is_refused(threads):
    with pytest.raises(ValueError, match=rf"^threads: dato: {threads}; atteso: da 1 a 1024$"):
        occupancy(H100, threads, 32)
    assert occupancy(H100, 1024, 32).blocks == 2


# A matita, e le macchine della pagina


def test_the_pencil_sums():
    """I cinque conti di «A matita»."""
    assert issue_share(3, 1, 4) == 0.75
    assert issue_share(2, 2, 4) == 1
    assert issue_share(13, 4, 416) == 1 / 8
    assert in_flight(20, 640) == 12_800 == offered(100) == offered(25, width=4)
    assert offered(1) == 128
    found = occupancy(H100, 256, 64)
    assert (found.blocks, found.warps) == (4, 32)
    assert issue_share(10, 1, 10) == 1
    assert issue_share(1, 1, 10) == 0.1


def test_fortran_with_four_chains_sums_the_same(compile_fortran):
    """Su interi le due somme sono uguali; su numeri di grandezza diversa, l'ordine si vede."""
    text = PAGE.read_text(encoding="utf-8")
    library = compile_fortran("\n".join(b.content for b in blocks(text) if b.language == "fortran"))
    sums = {}
    for name in ("one_chain", "four_chains"):
        routine = getattr(library, name)
        routine.restype = ctypes.c_double
        for case, x in (("interi", range(1, 41)), ("lontani", [1e16, 1, -1e16, 1] * 5)):
            given_x, ones = (
                (ctypes.c_double * len(x))(*x),
                (ctypes.c_double * len(x))(*[1] * len(x)),
            )
            sums[name, case] = routine(ctypes.c_int(len(x)), given_x, ones)
    assert sums["one_chain", "interi"] == sums["four_chains", "interi"] == 820
    assert sums["one_chain", "lontani"] != sums["four_chains", "lontani"]
