"""La mappa dell'SM: la tabella, i picchi rifatti dai pezzi, gli scheduler contati."""

from collections import defaultdict
from dataclasses import FrozenInstanceError, fields, replace
from xml.etree import ElementTree

import pytest

from gpu_notes import sm_map
from gpu_notes.sass_listing import parse, read
from gpu_notes.sm_map import (
    A100,
    B200,
    GPUS,
    H100,
    H200,
    LDST_DRAWN,
    PARTITIONS,
    REGISTERS,
    REGISTERS_PER_THREAD,
    RTX_3090,
    RTX_4090,
    RTX_5090,
    SFU_LANES,
    SOURCES,
    WARP,
    Gpu,
    cycles_per_fp32_instruction,
    fma_per_clock,
    fma_per_tensor_core,
    issue_interval,
    knee,
    lanes_per_scheduler,
    lanes_to_feed,
    peak,
    printed_peak,
    warps_per_scheduler,
)
from gpu_notes.sm_simulator import assemble, run
from weave.house import ROOT

GEFORCE = (RTX_3090, RTX_4090, RTX_5090)

CHECKED = """
name     chip  year cap  sms chip fp32 int fp64 gen warps blocks l1  shared l2  gb  GB/s MHz  tensor
A100     GA100 2020 8.0  108 128  64   64  32   3   64    32     192 163    40  80  2039 1410 1410
RTX_3090 GA102 2020 8.6  82  84   128  64  2    3   48    16     128 99     6   24  936  1695 1695
RTX_4090 AD102 2022 8.9  128 144  128  64  2    4   48    24     128 99     72  24  1008 2520 2520
H100     GH100 2022 9.0  132 144  128  64  64   4   64    32     256 227    50  80  3350 1980 1830
H200     GH100 2023 9.0  132 144  128  64  64   4   64    32     256 227    50  141 4800 1980 1830
B200     GB100 2024 10.0 148 160  128  64  64   5   64    32     256 227    126 180 8000 1980 1860
RTX_5090 GB202 2025 12.0 170 192  128  64  2    5   48    24     128 99     96  32  1792 2407 2407
"""
"""La tabella come fu controllata sulle fonti: chi cambia un valore deve cambiarlo due volte."""


def as_checked(gpu: Gpu) -> str:
    """Una scheda nella forma della tabella qui sopra."""
    cells = [gpu.name.replace(" ", "_"), gpu.chip, gpu.year, gpu.capability, gpu.sms]
    cells += [gpu.sms_on_chip, gpu.fp32_lanes, gpu.int32_lanes, gpu.fp64_lanes]
    cells += [gpu.tensor_generation, gpu.warps, gpu.blocks, gpu.l1_kib, gpu.shared_kib]
    cells += [gpu.l2_mb, gpu.memory_gb]
    rates = (gpu.bandwidth / 1e9, gpu.clock / 1e6, gpu.tensor_clock / 1e6)
    cells += [f"{rate:g}" for rate in rates]
    return " ".join(str(cell) for cell in cells)


# La tabella


def test_the_table_as_it_was_checked():
    """Ogni scheda, valore per valore, è quella controllata; l'ordine è per anno."""
    lines = CHECKED.split("\n")[2:-1]
    assert [as_checked(gpu) for gpu in GPUS] == [" ".join(line.split()) for line in lines]
    assert [gpu.year for gpu in GPUS] == sorted(gpu.year for gpu in GPUS)


def test_every_field_has_a_source_and_every_doubt_a_reason():
    """Le fonti coprono tutti i campi tranne i nomi; un dubbio è su un campo e ha una ragione."""
    names = {field.name for field in fields(Gpu)}
    assert set(SOURCES) == names - {"name", "chip", "doubtful"}
    for gpu in GPUS:
        assert set(gpu.doubtful) <= set(SOURCES)
        assert all(len(reason) > 10 for reason in gpu.doubtful.values())
    assert not A100.doubtful
    assert H200.doubtful == H100.doubtful
    assert "clock" in B200.doubtful
    assert "int32_lanes" in RTX_5090.doubtful


def test_a_card_cannot_be_changed_by_mistake():
    """Le schede sono costanti: per provarne un'altra si fa una copia con `replace`."""
    with pytest.raises(FrozenInstanceError):
        H100.sms = 1
    assert replace(H100, sms=1).sms == 1
    assert H100.sms == 132


def test_load_store_units_are_only_what_we_remember_of_the_drawings():
    """A6: sedici sulla RTX 3090, non quattro; dei chip Blackwell non diciamo nulla."""
    assert LDST_DRAWN == {"GA100": 32, "GA102": 16, "AD102": 16, "GH100": 32}
    assert {gpu.chip for gpu in GPUS} - set(LDST_DRAWN) == {"GB100", "GB202"}


def test_limits_agree_with_the_header_of_nvidia(with_nvidia_header):
    """Partizioni e blocchi per SM, scheda per scheda, come li calcola il file di NVIDIA."""
    body = "struct cudaOccDeviceProp p; int n;"
    for gpu in GPUS:
        major, minor = gpu.capability.split(".")
        body += f"p.computeMajor = {major}; p.computeMinor = {minor};"
        body += 'cudaOccSubPartitionsPerMultiprocessor(&n, &p); printf("%d ", n);'
        body += 'cudaOccMaxBlocksPerMultiprocessor(&n, &p); printf("%d ", n);'
    assert with_nvidia_header(body) == [
        number for gpu in GPUS for number in (PARTITIONS, gpu.blocks)
    ]


# Gli scheduler


def test_one_scheduler_per_cuda_core_would_make_the_peak_32_times_too_high():
    """D2, A5: quattro scheduler alimentano proprio le corsie che ci sono; 128, trentadue volte."""
    for gpu in (RTX_3090, RTX_4090, H100, B200, RTX_5090):
        assert lanes_to_feed(PARTITIONS) == gpu.fp32_lanes
        assert lanes_to_feed(gpu.fp32_lanes) == 32 * gpu.fp32_lanes
    assert lanes_to_feed(PARTITIONS) == 2 * A100.fp32_lanes
    supposed = H100.sms * lanes_to_feed(128) * 2 * H100.clock
    assert supposed / (H100.declared["FP32"] * 1e12) == pytest.approx(32, rel=0.01)


def test_a_warp_takes_as_many_cycles_as_its_threads_over_the_lanes():
    """Contato una corsia per volta: quattro partizioni, 32 thread ciascuna, le corsie divise."""
    for lanes in (2, 4, 16, 32, 64, 128):
        done, cycles = 0, 0
        while done < 4 * 32:
            done += lanes
            cycles += 1
        assert issue_interval(lanes) == cycles
    assert issue_interval(1) == 128
    assert issue_interval(SFU_LANES) == 8
    assert issue_interval(H100.int32_lanes) == 2
    assert [cycles_per_fp32_instruction(gpu) for gpu in (A100, H100)] == [2, 1]
    assert [lanes_per_scheduler(gpu) for gpu in (A100, H100, RTX_3090)] == [16, 32, 32]


def test_a_fifth_warp_has_no_scheduler_of_its_own():
    """D2, A5: nel simulatore quattro warp di FFMA vanno come uno; cinque, come otto, il doppio."""
    body = "\n".join(f"FFMA R{i % 8}, R10, R11, R{i % 8}" for i in range(200))
    program = assemble(f"{body}\nEXIT")
    cycles = {warps: run(program, warps, partitions=4).cycles for warps in (1, 2, 3, 4, 5, 8)}
    assert cycles[1] == cycles[2] == cycles[3] == cycles[4]
    assert cycles[5] == cycles[8] == pytest.approx(2 * cycles[4], rel=0.05)
    assert run(program, 4, partitions=1).cycles == pytest.approx(4 * cycles[4], rel=0.05)


@pytest.mark.parametrize("lanes", [0, -2, 3, 256])
def test_lanes_that_do_not_divide_the_threads_are_refused(lanes):
    """L'errore nomina l'argomento, il dato e l'atteso."""
    with pytest.raises(ValueError, match=f"^lanes: dato: {lanes}; atteso: un divisore di 128$"):
        issue_interval(lanes)


def test_an_sm_holds_64_or_48_warps_never_128():
    """A3: e ogni scheduler ne ha sedici, oppure dodici."""
    assert {gpu.name: gpu.warps for gpu in GPUS if gpu not in GEFORCE} == {
        "A100": 64,
        "H100": 64,
        "H200": 64,
        "B200": 64,
    }
    assert {gpu.warps for gpu in GEFORCE} == {48}
    assert [warps_per_scheduler(gpu) for gpu in (H100, RTX_4090)] == [16, 12]


def test_128_lanes_on_the_3090_and_64_on_the_a100():
    """A6: la stessa generazione, due SM diversi."""
    assert (RTX_3090.tensor_generation, A100.tensor_generation) == (3, 3)
    assert (RTX_3090.fp32_lanes, A100.fp32_lanes) == (128, 64)
    assert (RTX_3090.fp64_lanes, A100.fp64_lanes) == (2, 32)


# I picchi


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_every_declared_peak_comes_back(gpu):
    """SM · FMA · 2 · frequenza ridà ogni picco dichiarato, entro lo 0,3 %."""
    assert {"FP32", "TF32", "FP16", "BF16"} <= set(gpu.declared)
    assert set(gpu.declared) == {"FP32", *gpu.tensor_fma}
    for dtype, declared in gpu.declared.items():
        assert peak(gpu, dtype) == pytest.approx(declared * 1e12, rel=0.003)


def test_the_declared_peaks_are_the_published_ones():
    """I dichiarati sono numeri delle schede tecniche, non ricalcoli."""
    published = {
        "A100": (19.5, 156, 312),
        "RTX 3090": (35.6, 35.6, 71.2),
        "RTX 4090": (82.6, 82.6, 165.2),
        "H100": (66.9, 494.7, 989.4),
        "H200": (66.9, 494.7, 989.4),
        "B200": (75, 1125, 2250),
        "RTX 5090": (104.8, 104.8, 209.5),
    }
    for gpu in GPUS:
        fp32, tf32, half = published[gpu.name]
        assert gpu.declared["FP32"] == fp32
        assert gpu.declared["TF32"] == tf32
        assert gpu.declared["FP16"] == gpu.declared["BF16"] == half
    assert {g.name: g.declared["FP8"] for g in GPUS if "FP8" in g.declared} == {
        "RTX 4090": 330,
        "H100": 1979,
        "H200": 1979,
        "B200": 4500,
        "RTX 5090": 419,
    }
    assert {g.name: g.declared["FP4"] for g in GPUS if "FP4" in g.declared} == {
        "B200": 9000,
        "RTX 5090": 1676,
    }


def test_formats_stand_in_powers_of_two():
    """Metà dei bit, doppia portata: TF32 la metà di BF16, FP8 il doppio, quando ci sono."""
    for gpu in GPUS:
        half = fma_per_clock(gpu, "BF16")
        assert fma_per_clock(gpu, "FP16") == half == 2 * fma_per_clock(gpu, "TF32")
        assert gpu.tensor_fma.get("FP8", 2 * half) == 2 * half
    assert fma_per_clock(H100, "FP32") == 128
    assert [fma_per_clock(gpu, "FP4") for gpu in (B200, RTX_5090)] == [16_384, 2048]


def test_h100_needs_two_clocks():
    """Con una frequenza sola uno dei due picchi non torna; sulle GeForce ne basta una."""
    assert (H100.clock, H100.tensor_clock) == (1.98e9, 1.83e9)
    wrong = replace(H100, clock=H100.tensor_clock, tensor_clock=H100.clock)
    for dtype in ("FP32", "BF16"):
        assert peak(wrong, dtype) != pytest.approx(H100.declared[dtype] * 1e12, rel=0.05)
    for gpu in (A100, *GEFORCE):
        assert gpu.clock == gpu.tensor_clock


def test_the_printed_numbers_are_twice_the_dense_ones():
    """Le schede tecniche dell'H100 e dell'H200 stampano 989, 1979, 3958: con sparsity."""
    for gpu in (H100, H200):
        for dtype, printed in {"TF32": 989, "BF16": 1979, "FP8": 3958}.items():
            assert printed_peak(gpu, dtype) / 1e12 == pytest.approx(printed, abs=0.6)
        assert printed_peak(gpu, "FP32") == peak(gpu, "FP32")


def test_tf32_equals_fp32_on_geforce_cards():
    """A17: lì i Tensor Core in TF32 non vanno più in fretta dei CUDA core."""
    for gpu in GEFORCE:
        assert peak(gpu, "TF32") == peak(gpu, "FP32")
    assert peak(A100, "TF32") / peak(A100, "FP32") == pytest.approx(8)
    assert peak(H100, "TF32") / peak(H100, "FP32") == pytest.approx(8 * 1.83 / 1.98)


def test_cycles_of_an_mma_on_one_tensor_core():
    """2048 FMA: otto cicli sulla A100, quattro sulla H100, due sulla B200, 32 sulle GeForce."""
    cycles = {gpu.name: 2048 / fma_per_tensor_core(gpu, "BF16") for gpu in GPUS}
    assert cycles == {
        "A100": 8,
        "H100": 4,
        "H200": 4,
        "B200": 2,
        "RTX 3090": 32,
        "RTX 4090": 32,
        "RTX 5090": 32,
    }


def test_the_knee_is_peak_over_bandwidth():
    """FLOP per byte: 206 sulla H200, 295 sulla H100, che legge più piano."""
    assert knee(H200, "BF16") == pytest.approx(206, abs=0.5)
    assert knee(H100, "BF16") == pytest.approx(295, abs=0.5)
    assert knee(RTX_4090, "FP32") == pytest.approx(82, abs=0.5)


@pytest.mark.parametrize("function", [fma_per_clock, peak, printed_peak, knee])
def test_a_format_that_a_card_does_not_have_is_refused(function):
    """La A100 non ha FP8: l'errore dice che cosa ha."""
    with pytest.raises(
        ValueError, match=r"^dtype: 'FP8' non c'è sulla A100; atteso uno fra \['FP3"
    ):
        function(A100, "FP8")


def test_fp32_is_not_a_tensor_core_format():
    """FP32 si fa sulle corsie: al Tensor Core non si può chiedere."""
    message = r"^dtype: dato: 'FP32'; atteso: uno fra \['TF32', 'FP16', 'BF16'\] sulla A100$"
    with pytest.raises(ValueError, match=message):
        fma_per_tensor_core(A100, "FP32")


# A matita, e i conti della pagina


def test_the_four_sums_done_by_hand():
    """I quattro conti di «A matita»."""
    assert 132 * 128 * 2 == 33_792
    assert peak(H100, "FP32") == pytest.approx(33_792 * 1.98e9)
    assert 132 * 2048 * 2 == 540_672
    assert peak(H100, "BF16") == pytest.approx(540_672 * 1.83e9)
    assert cycles_per_fp32_instruction(A100) == 32 // (64 // 4) == 2
    assert REGISTERS * 4 == 262_144 == 256 * 1024
    assert REGISTERS // (64 * WARP) == 32


def test_constants_of_every_sm():
    """Quattro partizioni con un Tensor Core ciascuna, 32 thread per warp, 255 registri a thread.

    I Tensor Core si moltiplicano nei totali pubblicati. Il resto si legge nel codice macchina: gli
    scambi di una riduzione raggiungono ogni corsia, e il numero dopo l'ultimo registro è di RZ.
    """
    for gpu, published in ((A100, 432), (RTX_3090, 328), (RTX_4090, 512), (H100, 528)):
        assert gpu.sms * sm_map.TENSOR_CORES == published
    assert PARTITIONS == sm_map.TENSOR_CORES
    exchanges = [it for it in parse(read("softmax.sm_90"))["softmax"] if it.opcode == "SHFL"]
    assert sum({int(it.operands[3], 16) for it in exchanges}) == WARP - 1
    (wide,) = (it for it in parse(read("wgmma.sm_90a"))["wgmma"] if it.opcode == "HGMMA")
    assert (wide.operands[2], wide.word >> 64 & 255) == ("RZ", REGISTERS_PER_THREAD)


def test_the_chip_is_made_of_clusters_of_pairs():
    """Otto GPC da nove TPC da due SM: 144, come il chip intero; sulla H100 ne sono attivi 132."""
    assert H100.sms_on_chip == 8 * 9 * 2
    assert H100.sms == 66 * 2
    assert all(gpu.sms <= gpu.sms_on_chip for gpu in GPUS)


# Il disegno

DRAWING = ROOT / "gpu_notes" / "figure" / "sm_map_sm.svg"

SVG = "{http://www.w3.org/2000/svg}"


def test_the_drawing_has_a_tensor_core_in_every_partition():
    """D3: in ogni partizione uno scheduler, i registri, le corsie e un Tensor Core, sotto."""
    partitions = defaultdict(list)
    for text in ElementTree.parse(DRAWING).getroot().iter(f"{SVG}text"):
        x, y = float(text.get("x")), float(text.get("y"))
        partitions[x > 180, y > 340].append((y, text.text))
    per_sm = {"FP32": H100.fp32_lanes, "INT32": H100.int32_lanes, "FP64": H100.fp64_lanes}
    per_sm["SFU"] = SFU_LANES
    lanes = {f"{name}×{count // PARTITIONS}" for name, count in per_sm.items()}
    for place, drawn in partitions.items():
        labels = [label for _, label in sorted(drawn)]
        assert labels.count("Tensor Core") == sm_map.TENSOR_CORES // PARTITIONS == 1, place
        assert labels.count("scheduler di warp") == 1, place
        assert labels.index("scheduler di warp") < labels.index("Tensor Core"), place
        assert lanes <= {*labels}, place
        assert f"{REGISTERS // PARTITIONS} registri" in labels, place
    assert len(partitions) == PARTITIONS


def test_the_thickest_boxes_of_the_drawing_are_the_tensor_cores():
    """D3: la didascalia dice che si riconoscono dal bordo."""
    root = ElementTree.parse(DRAWING).getroot()
    widths = [
        (float(box.get("stroke-width", 1)), float(box.get("y")), float(box.get("height")))
        for box in root.iter(f"{SVG}rect")
    ]
    thickest = [(y, height) for width, y, height in widths if width == max(widths)[0]]
    names = [float(it.get("y")) for it in root.iter(f"{SVG}text") if it.text == "Tensor Core"]
    assert len(thickest) == len(names) == sm_map.TENSOR_CORES
    assert all(any(y < name < y + height for y, height in thickest) for name in names)
