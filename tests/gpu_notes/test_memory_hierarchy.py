"""La gerarchia di memoria: registri, blocchi, settori, banchi, contati in un altro modo."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpu_notes.memory_hierarchy import (
    BANKS,
    FFMA_LATENCY,
    HOPPER_PAPER,
    LINE,
    POINTER_CHASE,
    SECTOR,
    SHARED_LATENCY,
    Latency,
    allocated_registers,
    bank,
    blocks_by_shared,
    bytes_per_cycle,
    coalesce,
    column_major,
    conflict_degree,
    lost_ffma,
    register_bytes,
    resident_blocks,
    resident_warps,
    row_major,
    strided,
    warps_by_registers,
)
from gpu_notes.sm_map import A100, B200, GPUS, H100, H200, RTX_3090, RTX_4090
from weave.house import ROOT
from weave.pact import blocks

WIDTHS = (1, 2, 4, 8, 16)


# I registri


def test_registers_of_the_whole_chip():
    """A24: 132 · 65 536 · 4 byte sulla H100, 34,6 MB, due terzi della L2; per SM non meno di L1."""
    assert register_bytes(H100) == 132 * 65_536 * 4 == 34_603_008
    assert register_bytes(H100) / (H100.l2_mb * 1e6) == pytest.approx(0.69, abs=0.005)
    for gpu in GPUS:
        assert register_bytes(gpu) // gpu.sms == 256 * 1024 >= gpu.l1_kib * 1024


def test_registers_are_given_in_groups_of_eight_per_thread():
    """33 registri per thread ne occupano 40; il gruppo è 256 per warp."""
    for per_thread in range(1, 256):
        rounded = next(n for n in range(0, 300, 8) if n >= per_thread)
        assert allocated_registers(per_thread) == 32 * rounded


@pytest.mark.parametrize("gpu", [H100, RTX_4090], ids=lambda gpu: gpu.name)
def test_resident_warps_by_filling_the_partitions(gpu):
    """Si riempie una partizione un warp per volta, finché registri o posti finiscono."""
    for per_thread in range(1, 256):
        free, warps = 16_384, 0
        while free >= allocated_registers(per_thread):
            free -= allocated_registers(per_thread)
            warps += 1
        assert warps_by_registers(per_thread) == 4 * warps
        assert resident_warps(gpu, per_thread) == min(gpu.warps, 4 * warps)
    assert [resident_warps(H100, n) for n in (32, 40, 72, 255)] == [64, 48, 28, 8]
    assert isinstance(warps_by_registers(72), int)


@pytest.mark.parametrize("wrong", [0, -1, 256])
@pytest.mark.parametrize(
    "function",
    [
        allocated_registers,
        warps_by_registers,
        lambda n: resident_warps(H100, n),
        lambda n: resident_blocks(H100, 32, n),
    ],
)
def test_registers_outside_the_limits_are_refused(function, wrong):
    """Un thread ha da 1 a 255 registri."""
    with pytest.raises(ValueError, match=f"^per_thread: dato: {wrong}; atteso: da 1 a 255$"):
        function(wrong)


# I blocchi e la memoria condivisa


@pytest.mark.parametrize("gpu", [A100, RTX_3090, RTX_4090, H100, B200], ids=lambda gpu: gpu.name)
def test_resident_blocks_agree_with_the_header_of_nvidia(nvidia_occupancy, gpu):
    """Thread, registri e memoria condivisa: il limite è quello del file di NVIDIA."""
    cases = [(32, 16, 0), (96, 33, 0), (128, 168, 0), (256, 64, 1), (1024, 32, 0), (1024, 72, 0)]
    cases += [(32, 255, 0), (64, 40, 5000), (256, 96, 33_000), (160, 24, 129), (992, 40, 0)]
    cases += [(161, 16, 0), (100, 72, 0)]
    cases += [(32, 16, 1024 * gpu.shared_kib), (32, 16, 2048), (64, 20, 6 * 1024 + 1)]
    found = [blocks for blocks, _ in nvidia_occupancy(gpu, cases)]
    assert found == [resident_blocks(gpu, *case) for case in cases]


def test_resident_blocks_by_hand():
    """Il limite può venire da ciascuna delle quattro risorse."""
    assert resident_blocks(H100, 32, 16) == 32  # i posti di blocco
    assert resident_blocks(H100, 1024, 32) == 2  # i posti di warp
    assert resident_blocks(H100, 256, 255) == 1  # i registri: 8 warp
    assert resident_blocks(H100, 512, 255) == 0
    assert resident_blocks(H100, 256, 64, 100 * 1024) == 2  # la memoria condivisa
    assert resident_blocks(RTX_4090, 33, 16) == 24
    assert resident_blocks(H100, 1, 1) == 32


def test_shared_memory_is_divided_among_blocks():
    """A2: 228 KiB in tutto; a ogni blocco uno in più di quanti ne chiede, a gruppi di 128 B."""
    for kib in range(228):
        assert blocks_by_shared(H100, kib * 1024) == 228 // (kib + 1)
    assert blocks_by_shared(H100, 227 * 1024 + 1) == 0
    assert blocks_by_shared(H100, 113 * 1024) == 2
    assert blocks_by_shared(H100, 113 * 1024 + 1) == 1
    for size in (128, 384, 896, 1920, 2048):
        assert blocks_by_shared(H100, size) == 228 * 1024 // (1024 + size)
        assert blocks_by_shared(RTX_3090, size) == 100 * 1024 // (1024 + size)
    assert blocks_by_shared(RTX_3090, 1) == 100 * 1024 // (1024 + 128)
    assert blocks_by_shared(RTX_3090, 129) == 100 * 1024 // (1024 + 256)


def test_wrong_blocks_are_refused():
    """Da 1 a 1024 thread, e byte non negativi."""
    for threads in (0, 1025):
        with pytest.raises(ValueError, match=f"^threads: dato: {threads}; atteso: da 1 a 1024$"):
            resident_blocks(H100, threads, 32)
    with pytest.raises(ValueError, match=r"^shared: dato: -1; atteso: almeno 0 byte$"):
        blocks_by_shared(H100, -1)


# Le distanze e le bande


def test_latencies_are_the_published_ones():
    """I cicli riportati dalle due serie, una scheda per riga; la stessa scheda, numeri diversi."""
    assert (
        Latency("A100 PCIe", 32.7, 203, (541, 566)),
        Latency("H800 PCIe", 32.1, 264, (623, 657)),
        Latency("RTX 4090", 36.1, 285, (561, 572)),
    ) == POINTER_CHASE
    assert (
        Latency("A100 PCIe", 37.9, 261.5, (466.3, 466.3)),
        Latency("H800 PCIe", 40.7, 263.0, (478.8, 478.8)),
        Latency("RTX 4090", 43.4, 273.0, (541, 541)),
    ) == HOPPER_PAPER
    assert (SHARED_LATENCY, FFMA_LATENCY) == (29, 4)
    for chase, paper in zip(POINTER_CHASE, HOPPER_PAPER, strict=True):
        assert chase.card == paper.card
        assert chase.l1 < chase.l2 < chase.dram[0] < chase.dram[1]
        assert paper.dram[1] < chase.dram[0]


def test_lost_instructions_follow_the_lanes():
    """Sulla H100 una FFMA per ciclo e per partizione; sulla A100 una ogni due."""
    assert lost_ffma(H100, 640) == 640
    assert lost_ffma(A100, 640) == 320
    assert lost_ffma(A100, 33) == 16
    assert lost_ffma(H100, 32.7) == 32


def test_bytes_per_cycle_share_the_band_among_the_sms():
    """4,8 TB/s fra 132 SM a 1,83 GHz: venti byte per ciclo."""
    assert bytes_per_cycle(H200, 132 * 1.83e9) == pytest.approx(1)
    assert bytes_per_cycle(H200, H200.bandwidth) == pytest.approx(19.87, abs=0.005)


# I settori


warp_accesses = st.sampled_from(WIDTHS).flatmap(
    lambda width: st.tuples(
        st.just(width),
        st.lists(st.integers(0, 300).map(lambda n: n * width), min_size=1, max_size=32),
    )
)


@given(warp_accesses)
def test_sectors_counted_byte_by_byte(access):
    """Ogni byte chiesto sta in un settore e in una riga: contati uno per uno, sono quelli."""
    width, addresses = access
    touched = {byte for address in addresses for byte in range(address, address + width)}
    found = coalesce(addresses, width)
    assert found.sectors == sorted({byte // 32 for byte in touched})
    assert found.lines == sorted({byte // 128 for byte in touched})
    assert found.useful == len(touched)
    assert found.efficiency == len(touched) / (32 * len(found.sectors))


def test_strides_and_misalignment():
    """Parole da 4 byte: settori e righe secondo il passo, e spostando il primo indirizzo."""
    counts = {s: coalesce(strided(s)) for s in (0, 1, 2, 8, 32)}
    assert {s: len(found.sectors) for s, found in counts.items()} == {
        0: 1,
        1: 4,
        2: 8,
        8: 32,
        32: 32,
    }
    assert {s: len(found.lines) for s, found in counts.items()} == {0: 1, 1: 1, 2: 2, 8: 8, 32: 32}
    shifted = coalesce(strided(1, base=4))
    assert (len(shifted.sectors), len(shifted.lines), shifted.efficiency) == (5, 2, 0.8)
    wide = coalesce(strided(1, width=16), 16)
    assert (len(wide.sectors), len(wide.lines), wide.efficiency) == (16, 4, 1)


def test_strided_addresses_are_those_of_32_lanes():
    """La corsia t sta a base + larghezza · passo · t."""
    assert strided(3, width=8, base=16) == list(range(16, 16 + 32 * 24, 24))
    assert len(strided(1)) == 32
    assert strided(1)[:3] == [0, 4, 8]


def test_a_column_of_the_activations_wastes_fifteen_sixteenths():
    """10 × 768 in BF16: lungo la riga due settori pieni; lungo la colonna dieci, per 20 byte."""
    row = coalesce([2 * row_major(0, j, 768) for j in range(32)], 2)
    column = coalesce([2 * row_major(i, 0, 768) for i in range(10)], 2)
    assert (len(row.sectors), row.efficiency) == (2, 1)
    assert (len(column.sectors), column.efficiency) == (10, 1 / 16)


def test_layouts_are_those_of_torch_and_of_its_transpose():
    """Per righe è il posto in un tensore contiguo; per colonne, quello nella sua trasposta."""
    numbers = torch.arange(5 * 7)
    for i in range(5):
        for j in range(7):
            assert numbers.view(5, 7)[i, j] == row_major(i, j, columns=7)
            assert numbers.view(7, 5).T[i, j] == column_major(i, j, rows=5)


def test_the_inner_loop_of_the_fortran_is_the_warp(compile_fortran, call_fortran):
    """I primi 32 giri dei due DO sono le corsie: 8 settori con il primo indice dentro, o 32."""
    page = (ROOT / "gpu_notes" / "memory_hierarchy.md").read_text(encoding="utf-8")
    found = [block.content for block in blocks(page) if block.language == "fortran"]
    library = compile_fortran("\n".join(found))
    sectors = {}
    for name in ("first_index_inside", "second_index_inside"):
        visits = torch.full((67, 41), -1.0, dtype=torch.float64)
        call_fortran(getattr(library, name), 41, 67, visits)
        place = {int(visit): index for index, visit in enumerate(visits.flatten().tolist())}
        assert sorted(place) == list(range(41 * 67))
        sectors[name] = len(coalesce([8 * place[lane] for lane in range(32)], 8).sectors)
    assert sectors == {"first_index_inside": 8, "second_index_inside": 32}


# I banchi


def test_words_next_to_each_other_are_in_banks_next_to_each_other():
    """Il banco si ripete ogni 128 byte; i quattro byte di una parola stanno nello stesso."""
    assert [bank(4 * word) for word in range(64)] == [*range(32), *range(32)]
    assert [bank(byte) for byte in range(8)] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert (BANKS, SECTOR, LINE) == (32, 32, 128)


@pytest.mark.parametrize("stride", range(1, 70))
def test_conflict_degree_of_a_stride_is_its_common_divisor_with_32(stride):
    """Passi dispari: un turno; potenze di due: tanti turni quanto il passo, fino a 32."""
    assert conflict_degree(strided(stride)) == math.gcd(stride, 32)


@given(st.lists(st.integers(0, 200).map(lambda word: 4 * word), min_size=1, max_size=32))
def test_turns_of_banks_served_one_word_at_a_time(addresses):
    """A ogni turno ogni banco dà una parola a chi la vuole: si conta finché nessuno aspetta."""
    waiting, turns = list(addresses), 0
    while waiting:
        given_now = {}
        for address in waiting:
            given_now.setdefault(address % 128, address)
        waiting = [address for address in waiting if given_now[address % 128] != address]
        turns += 1
    assert conflict_degree(addresses) == turns


def test_the_same_word_is_broadcast():
    """Trentadue corsie sulla stessa parola, un turno; su due parole dello stesso banco, due."""
    assert conflict_degree([64] * 32) == 1
    assert conflict_degree([0] * 31 + [128]) == 2


def test_one_word_of_padding_frees_the_transposition():
    """Piastrella 32 × 32: colonna in 32 turni; con righe da 33, o con l'OR esclusivo, in uno."""
    for k in range(32):
        column = {p: [4 * row_major(i, k, p) for i in range(32)] for p in (32, 33)}
        row = [4 * row_major(k, j, 33) for j in range(32)]
        swizzled = [4 * (32 * i + (i ^ k)) for i in range(32)]
        degrees = [conflict_degree(a) for a in (column[32], column[33], row, swizzled)]
        assert degrees == [32, 1, 1, 1]


# Gli errori


@pytest.mark.parametrize(
    ("addresses", "width", "message"),
    [
        ([0], 3, "width: dato: 3; atteso: 1, 2, 4, 8 o 16 byte"),
        ([0], 32, "width: dato: 32; atteso: 1, 2, 4, 8 o 16 byte"),
        ([], 4, "addresses: dato: 0 indirizzi; atteso: da 1 a 32"),
        ([0] * 33, 4, "addresses: dato: 33 indirizzi; atteso: da 1 a 32"),
        ([0, 6, 7], 4, r"addresses: dato: \[6\]; atteso: multipli di 4 byte, da 0 in su"),
        ([8, -4], 4, r"addresses: dato: \[-4\]; atteso: multipli di 4 byte, da 0 in su"),
        ([24], 16, r"addresses: dato: \[24\]; atteso: multipli di 16 byte, da 0 in su"),
    ],
)
def test_wrong_accesses_are_refused(addresses, width, message):
    """Un indirizzo disallineato è un errore, come sulla GPU."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        coalesce(addresses, width)


def test_banks_want_aligned_words():
    """Un accesso alla memoria condivisa è di una parola."""
    with pytest.raises(ValueError, match=r"^addresses: dato: \[2\]; atteso: multipli di 4 byte"):
        conflict_degree([2])
    with pytest.raises(ValueError, match=r"^addresses: dato: 0 indirizzi; atteso: da 1 a 32$"):
        conflict_degree([])


# A matita, e i numeri del lettore


def test_the_five_sums_done_by_hand():
    """I cinque conti di «A matita»."""
    two = coalesce(strided(2))
    assert (max(strided(2)) + 3, len(two.sectors), len(two.lines)) == (251, 256 // 32, 2)
    assert (two.useful, two.efficiency) == (128, 0.5)
    shifted = strided(1, base=4)
    assert (min(shifted), max(shifted) + 3) == (4, 131)
    assert coalesce(shifted).sectors == [0, 1, 2, 3, 4]
    assert (bank(strided(2)[0]), bank(strided(2)[16])) == (0, 0)
    assert conflict_degree(strided(2)) == 2
    assert [bank(address) for address in strided(33)] == list(range(32))
    assert allocated_registers(72) == 72 * 32 == 2304 == 9 * 256
    assert resident_warps(H100, 72) == 4 * (16_384 // 2304) == 28


def test_the_weights_of_the_reader_fit_in_l2():
    """9,4 MB di pesi in BF16: cinque copie in 50 MB; le attivazioni, in un blocco."""
    weights = 2 * 768 * 3072 * 2
    assert weights == 9_437_184
    assert 50e6 // weights == H100.l2_mb * 1e6 // weights == 5
    assert 10 * 768 * 2 == 15_360 < H100.shared_kib * 1024
    assert 768 * 128 * 2 == 196_608 < H100.shared_kib * 1024
