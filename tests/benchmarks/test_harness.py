"""La misura non si lascia ingannare: né da chi non aspetta, né dalla cache, né dagli zeri.

Dove c'è una GPU le prove si fanno su quella; dove non c'è, su una GPU finta, una coda con
l'orologio suo. Nessun test giudica quanto va veloce qualcosa.
"""

import dataclasses
import gc
import json
import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from benchmarks import ceilings, contest, honest_data, stopwatch
from benchmarks import conftest as bench_conftest
from benchmarks.ceilings import Ceilings, products_in, recognized
from benchmarks.contest import (
    ImpossibleTimeError,
    Timing,
    Turns,
    Work,
    refuse_impossible_times,
    verdict,
)
from benchmarks.honest_data import DegenerateDataError, refuse_degenerate_data
from benchmarks.stopwatch import EventTimer
from gpu_notes.sm_map import A100, B200, GPUS, H100, H200, RTX_4090, RTX_5090, peak
from weave.house import ROOT

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="qui non c'è una GPU CUDA")


# Il cronometro della GPU, su una GPU finta.


class FakeGpu:
    """Una GPU con due code; i tempi sono in millisecondi, come quelli degli eventi."""

    def __init__(self):
        self.host = 0.0
        self.ends = {"questa": 0.0, "altra": 0.0}
        gpu = self

        class Event:
            def __init__(self, enable_timing):
                assert enable_timing

            def record(self):
                self.time = gpu.launch(0.0)

            def synchronize(self):
                gpu.host = max(gpu.host, self.time)

            def elapsed_time(self, other):
                return other.time - self.time

        self.Event = Event

    def launch(self, duration, queue="questa"):
        """Accoda un lavoro: alla CPU costa 5 µs, la GPU lo comincia appena può."""
        self.host += 0.005
        self.ends[queue] = max(self.ends[queue], self.host) + duration
        return self.ends[queue]

    def synchronize(self):
        self.host = max(self.host, *self.ends.values())


@pytest.fixture
def gpu(monkeypatch):
    fake = FakeGpu()
    monkeypatch.setattr(stopwatch.torch, "cuda", fake)
    monkeypatch.setattr(stopwatch, "clock", EventTimer())
    monkeypatch.setattr(stopwatch, "empty_cache", lambda: fake.launch(0.17))
    return fake


def test_work_nobody_waited_for_is_measured_to_its_end(gpu):
    assert stopwatch.timed(lambda: gpu.launch(3.0)) == pytest.approx(3e-3, abs=1e-5)


def test_work_waited_for_is_measured_once(gpu):
    def run():
        gpu.launch(3.0)
        gpu.synchronize()

    assert stopwatch.timed(run) == pytest.approx(3e-3, abs=2e-5)


def test_long_work_left_on_another_stream_is_counted(gpu):
    """Salvo ciò che si sovrappone allo svuotamento della cache: meno di due decimi di ms."""
    for long in (3.0, 0.5):
        seconds = stopwatch.timed(lambda long=long: gpu.launch(long, "altra"))
        assert long - 0.17 <= seconds * 1e3 <= long


def test_short_work_on_another_stream_escapes_the_timer(gpu):
    """Perciò chi lavora altrove è rifiutato prima: `test_work_elsewhere_is_refused`."""
    assert stopwatch.timed(lambda: gpu.launch(0.3, "altra")) == 0


def test_work_queued_before_is_not_counted(gpu):
    """Nemmeno se su un altro stream dura più a lungo: prima di cominciare si aspetta tutto."""
    gpu.launch(50.0)
    gpu.launch(80.0, "altra")
    assert stopwatch.timed(lambda: gpu.launch(3.0)) == pytest.approx(3e-3, abs=1e-5)


def test_launching_is_hidden_by_what_comes_before(gpu):
    """Dieci kernel da 10 µs: i lanci, 5 µs l'uno, si sovrappongono allo svuotamento della cache."""

    def run():
        for _ in range(10):
            gpu.launch(0.01)

    assert stopwatch.timed(run) == pytest.approx(100e-6, abs=1e-6)


def test_the_cache_is_emptied_before_every_timed_call(gpu, monkeypatch):
    order = []
    monkeypatch.setattr(stopwatch, "empty_cache", lambda: order.append("svuota"))
    for _ in range(2):
        stopwatch.timed(lambda: order.append("corri"))
    assert order == ["svuota", "corri"] * 2


def test_a_call_that_failed_leaves_the_timer_still(gpu):
    def broken():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        stopwatch.timed(broken)
    assert stopwatch.timed(lambda: gpu.launch(3.0)) == pytest.approx(3e-3, abs=1e-5)


def test_the_block_is_read_many_times_before_a_timed_call(monkeypatch):
    """A 8 TB/s, più di ogni scheda della tabella, sono ancora otto decimi di millisecondo."""
    reads = []
    monkeypatch.setattr(stopwatch, "sweep", lambda: SimpleNamespace(sum=lambda: reads.append(1)))
    stopwatch.empty_cache()
    assert len(reads) * stopwatch.SWEEP / 8e12 > 0.8e-3
    assert all(gpu.bandwidth <= 8e12 for gpu in GPUS)


def test_the_swept_block_is_larger_than_every_cache_of_the_table():
    assert 2 * max(gpu.l2_mb for gpu in GPUS) * 1e6 <= stopwatch.SWEEP


def test_on_a_cpu_a_call_is_repeated_before_it_is_timed(monkeypatch):
    """Per `WARM_UP` secondi, e almeno una volta: chi dura meno della metà, chi il triplo."""
    now, runs = [0.0], []
    monkeypatch.setattr(stopwatch, "clock", lambda: now[0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: now[0])
    for duration, repeated in ((stopwatch.WARM_UP / 2.5, 3), (3 * stopwatch.WARM_UP, 1)):
        runs.clear()

        def run(duration=duration):
            runs.append(duration)
            now[0] += duration

        assert stopwatch.timed(run) == pytest.approx(duration)
        assert len(runs) == repeated + 1


# Lo stesso cronometro, su una GPU vera.


@GPU
def test_on_a_gpu_work_nobody_waited_for_is_measured():
    torch.cuda._sleep(1000)
    cycles = 20_000_000  # almeno 5 ms, a meno di 4 GHz
    assert stopwatch.timed(lambda: torch.cuda._sleep(cycles)) > 5e-3


@GPU
def test_on_a_gpu_work_left_on_another_stream_is_counted_and_refused():
    aside = torch.cuda.Stream()
    x = torch.randn(8, 8, device="cuda")

    def run():
        with torch.cuda.stream(aside):
            torch.cuda._sleep(20_000_000)
            return x @ x

    run()
    assert stopwatch.timed(run) > 4.5e-3
    with pytest.raises(DegenerateDataError, match="un altro stream"):
        refuse_degenerate_data("altrove", run)


@GPU
def test_on_a_gpu_a_warm_cache_gives_no_advantage():
    """16 MB entrano nella L2: letti e riletti darebbero più della banda della memoria."""
    x = torch.randn(4_000_000, device="cuda")
    x.sum()
    fastest = min(stopwatch.timed(x.sum) for _ in range(20))
    found = ceilings.chip()
    limit = found.bandwidth if found else 1.2 * ceilings.copy_rate()
    assert x.nbytes / fastest < limit


# I tetti.


@pytest.mark.parametrize(
    ("name", "capability", "sms", "memory", "expected"),
    [
        ("NVIDIA H100 80GB HBM3", "9.0", 132, 85.0, H100),
        ("NVIDIA H200", "9.0", 132, 150.1, H200),
        ("NVIDIA A100-SXM4-80GB", "8.0", 108, 85.1, A100),
        ("NVIDIA GeForce RTX 4090", "8.9", 128, 25.2, RTX_4090),
        ("NVIDIA B200", "10.0", 148, 191.5, B200),
        ("NVIDIA H100 PCIe", "9.0", 114, 85.0, None),
        ("NVIDIA H100 NVL", "9.0", 132, 100.0, None),
        ("NVIDIA A100-SXM4-40GB", "8.0", 108, 42.4, None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", "8.9", 76, 17.1, None),
        ("NVIDIA GH200 480GB", "9.0", 132, 102.0, None),
        ("NVIDIA L40S", "8.9", 142, 47.8, None),
        ("NVIDIA H100", "9.0", 114, 85.0, None),
        ("NVIDIA H100", "9.0", 132, 64.0, None),
        ("NVIDIA H100", "8.9", 132, 85.0, None),
        ("NVIDIA A100 80GB PCIe", "8.0", 108, 85.1, None),
        ("NVIDIA A100-PCIE-80GB", "8.0", 108, 85.1, None),
        ("NVIDIA H200 NVL", "9.0", 132, 150.1, None),
        ("NVIDIA GeForce RTX 5090 D", "12.0", 170, 33.7, None),
        ("NVIDIA GeForce RTX 5090", "12.0", 170, 33.7, RTX_5090),
    ],
)
def test_a_chip_is_recognized_only_if_everything_agrees(name, capability, sms, memory, expected):
    assert recognized(name, capability, sms, memory) is expected


def test_the_clocks_are_the_numbers_of_the_first_line():
    answer = "1755, 2619, 1980, 687.41\n345, 2619, 1980, 70.00\n"
    assert ceilings.read_clocks(answer) == {
        "sm_mhz": 1755.0,
        "memory_mhz": 2619.0,
        "sm_max_mhz": 1980.0,
        "watt": 687.41,
    }
    assert ceilings.read_clocks("1755, [N/A], 1980, [N/A]") == {
        "sm_mhz": 1755.0,
        "sm_max_mhz": 1980.0,
    }
    assert ceilings.read_clocks("") == {}


@pytest.fixture
def smi(monkeypatch, tmp_path):
    """Un nvidia-smi finto, scritto per una prova, e una scheda che ha solo un nome."""

    def write(script):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(ceilings, "DEVICE", "cuda")
    monkeypatch.setattr(ceilings, "LOADED", 0.0)
    monkeypatch.setattr(ceilings, "product", lambda form, side: lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    properties = SimpleNamespace(uuid="0b-1")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: properties)
    return write


def test_the_clocks_are_those_of_the_card_measured(smi):
    """nvidia-smi mostra tutte le schede della macchina; CUDA può vederne soltanto la seconda."""
    smi(
        'case "$*" in *--id=GPU-0b-1*) ;; *) echo "345, 1593, 1980, 70.00" ;; esac\n'
        'echo "1755, 3201, 1980, 687.41"'
    )
    assert ceilings.clocks() == {
        "sm_mhz": 1755.0,
        "memory_mhz": 3201.0,
        "sm_max_mhz": 1980.0,
        "watt": 687.41,
    }


def test_a_card_that_does_not_answer_is_left(smi, monkeypatch):
    """Chi chiede le frequenze non aspetta per sempre, e non le inventa."""
    smi('sleep 1\necho "1755, 3201, 1980, 687.41"')
    monkeypatch.setattr(ceilings, "PATIENCE", 0.1)
    assert ceilings.clocks() == {}


@pytest.fixture
def quick(monkeypatch):
    """I tetti di una CPU, con matrici piccole: qui non conta quanto valgano."""
    monkeypatch.setattr(ceilings, "DEVICE", "cpu")
    monkeypatch.setattr(ceilings, "GEMM_SIDES", {"cpu": (16, 32)})
    monkeypatch.setattr(ceilings, "COPIED", {"cpu": 4096})


@pytest.mark.usefixtures("quick")
def test_ceilings_of_a_cpu_are_measured_and_have_no_datasheet():
    found = ceilings.measure()
    assert set(found.gemm) == {"FP32", "BF16"}
    assert all(rate > 0 for rate in (*found.gemm.values(), found.copy))
    assert set(found.sides.values()) <= {16, 32}
    assert (found.chip, found.clocks) == (None, {})
    published = found.published()
    assert published["gemm"]["FP32"]["datasheet"] is None
    assert published["copy_gbs"] == pytest.approx(found.copy / 1e9)


@pytest.mark.parametrize(
    ("capability", "hip", "expected"),
    [
        ((7, 0), None, ["FP32", "FP16"]),
        ((7, 5), None, ["FP32", "FP16"]),
        ((8, 0), None, ["FP32", "TF32", "FP16", "BF16"]),
        ((8, 9), None, ["FP32", "TF32", "FP16", "BF16", "FP8"]),
        ((9, 4), "6.2", ["FP32", "FP16"]),
    ],
)
def test_only_formats_that_the_chip_has_are_measured(monkeypatch, capability, hip, expected):
    monkeypatch.setattr(ceilings, "DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.version, "hip", hip)
    assert ceilings.measurable() == expected


@pytest.mark.usefixtures("quick")
def test_the_ceiling_is_the_fastest_size(monkeypatch):
    seconds = {16: 1.0, 32: 16.0}  # il lato 32 fa otto volte i conti in sedici volte il tempo
    monkeypatch.setattr(ceilings, "median", lambda run: seconds[run().size(0)])
    assert ceilings.fastest_product("FP32") == (2 * 16**3, 16)


def test_a_ceiling_is_the_median_after_a_call_that_does_not_count(monkeypatch):
    runs, seconds = [], iter([1.0, 2.0, 90.0, 3.0, 4.0, 5.0, 6.0])
    monkeypatch.setattr(ceilings, "timed", lambda run: next(seconds))
    assert ceilings.median(lambda: runs.append("di prova")) == 4.0
    assert runs == ["di prova"]


@pytest.mark.usefixtures("quick")
def test_a_copy_reads_and_writes(monkeypatch):
    copied = []
    monkeypatch.setattr(ceilings, "median", lambda run: copied.append(run()) or 0.5)
    assert ceilings.copy_rate() == 2 * 4096 / 0.5
    assert copied[0].nbytes == 4096


def test_datasheet_of_a_ceiling_is_that_of_its_format():
    known = Ceilings({"FP32": 5e13, "BF16": 7.9e14}, {"FP32": 8192, "BF16": 8192}, 3e12, H100)
    assert known.peak("BF16") == pytest.approx(peak(H100, "BF16") / 1e9)
    assert known.peak("TF32") == pytest.approx(peak(H100, "TF32") / 1e9)
    assert known.peak("FP4") is None
    assert known.published()["datasheet_gbs"] == 3350
    assert Ceilings({}, {}, 1.0).peak("FP32") is None


def test_precision_of_products_is_put_back():
    settings = torch.backends.cuda.matmul
    before = settings.fp32_precision

    def broken(form):
        with ceilings.products_in(form):
            raise KeyError(settings.fp32_precision)

    for form, expected in (("TF32", "tf32"), ("FP32", "ieee"), ("BF16", "ieee")):
        with pytest.raises(KeyError, match=expected):
            broken(form)
        assert settings.fp32_precision == before


@GPU
def test_eight_bit_products_are_right():
    if torch.cuda.get_device_capability() < ceilings.FIRST_CAPABILITY["FP8"]:
        pytest.skip("questa GPU non ha prodotti in FP8")
    a, b = torch.randn(2, 64, 64, device="cuda").to(torch.float8_e4m3fn)
    exact = a.double() @ b.double().T.T
    error = (ceilings.scaled_product(a, b.T.contiguous().T).double() - exact).norm()
    assert error / exact.norm() < 0.01


# La gara.


def test_the_ceiling_of_a_contest_is_a_product_of_random_matrices(monkeypatch):
    monkeypatch.setattr(contest, "DEVICE", "cpu")
    monkeypatch.setattr(contest, "GEMM_SIZES", {"cpu": {torch.float32: 16}})
    declared = honest_data.Declared(2 * 16**3, 3 * 16**2, torch.float32)
    refuse_degenerate_data("tetto", contest.gemm(torch.float32), declared=declared)


def test_extra_memory_on_a_gpu_is_what_the_call_adds_at_its_highest(monkeypatch):
    """Ciò che c'era prima non si conta, né il culmine di una chiamata di prima."""
    memory = {"now": 100, "peak": 900}

    def run():
        memory["peak"] = max(memory["peak"], 130)

    monkeypatch.setattr(contest, "DEVICE", "cuda")
    for name, answer in (
        ("synchronize", lambda: None),
        ("memory_allocated", lambda: memory["now"]),
        ("max_memory_allocated", lambda: memory["peak"]),
        ("reset_peak_memory_stats", lambda: memory.update(peak=memory["now"])),
    ):
        monkeypatch.setattr(torch.cuda, name, answer)
    assert contest.extra_bytes(run) == 30


def test_every_contestant_plays_every_round_and_the_first_rotates(monkeypatch):
    monkeypatch.setattr(stopwatch, "WARM_UP", 0.0)
    monkeypatch.setattr(stopwatch, "clock", time.perf_counter)
    played = []
    turns = Turns({name: lambda name=name: played.append(name) for name in "abc"})
    for _ in range(3):
        turns.play()
    assert "".join(played[::2]) == "abcbcacab"
    assert played[::2] == played[1::2]  # una chiamata a vuoto, una cronometrata
    assert {name: len(times) for name, times in turns.times.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_trial_round_decides_how_many_rounds_and_leaves_no_times(gpu, monkeypatch):
    """Conta il giro intero, non il solo primo concorrente: se gli altri sono lenti, meno giri."""
    monkeypatch.setattr(contest.time, "perf_counter", lambda: gpu.host / 1e3)
    monkeypatch.setattr(contest, "SECONDS", 1.0)
    slow, slower = (lambda: gpu.launch(20.0)), (lambda: gpu.launch(60.0))
    turns = Turns({"lento": slow, "più lento": slower})
    assert turns.trial(slow) == 9  # in un secondo, giri da poco più di 100 ms
    assert not any(turns.times.values())


def test_the_time_a_call_takes_to_return_is_noted(monkeypatch):
    moments = iter([1.0, 1.5, 4.0, 4.25])
    monkeypatch.setattr(contest.time, "perf_counter", lambda: next(moments))
    noted = contest.Noted(lambda: "uscita")
    assert [noted(), noted()] == ["uscita", "uscita"]
    assert noted.seconds == [0.5, 0.25]


def test_timing_is_the_median_and_the_spread_of_the_middle_half():
    assert Timing.of([1.0, 9.0, 3.0, 2.0, 4.0]) == Timing(3.0, 2.0)


def test_rounds_fill_the_time_of_a_contest_within_limits():
    assert contest.rounds_for(contest.SECONDS / 20) == 20
    assert contest.rounds_for(contest.SECONDS) == contest.MIN_ROUNDS
    assert contest.rounds_for(1e-6) == contest.MAX_ROUNDS


def test_verdict_divides_by_the_ceiling_and_by_the_baseline(monkeypatch):
    monkeypatch.setattr(contest, "gemm_size", lambda dtype: 100)
    found = verdict(
        Work("prova", {"n": 3}, flops=6_000_000, numbers=1500),
        torch.bfloat16,
        "altri",
        {"nostro": Timing(0.002, 0.0), "altri": Timing(0.008, 0.0)},
        {"nostro": 10, "altri": 20},
        Timing(0.0005, 0.0),
        Ceilings({"FP32": 1e9, "BF16": 1e9}, {"FP32": 8, "BF16": 8}, 3e6),
        queueing={"altri": 0.003},
    )
    assert found["dtype"] == "bfloat16"
    assert found["bytes"] == 3000
    assert found["intensity"] == 2000
    assert found["gemm_gflops"] == pytest.approx(4.0)
    ours, others = found["contestants"]["nostro"], found["contestants"]["altri"]
    assert ours["gflops"] == pytest.approx(3.0)
    assert ours["gemm_fraction"] == pytest.approx(0.75)
    assert ours["ratio"] == pytest.approx(0.25)
    assert ours["copy_fraction"] == pytest.approx(0.5)
    assert ours["datasheet_fraction"] is None
    assert (others["ratio"], others["extra_bytes"]) == (1.0, 20)
    assert others["queueing"] == 0.003
    assert "queueing" not in ours


# I dati.


@pytest.fixture(autouse=True)
def _data_on_a_cpu(request, monkeypatch):
    """Gli operandi di queste prove stanno su CPU, anche dove c'è una GPU."""
    if "on_a_gpu" not in request.node.name:
        monkeypatch.setattr(honest_data, "DEVICE", "cpu")


def matrix(*shape):
    return torch.randn(*shape)


def test_products_of_the_same_shapes_are_looked_at_a_few_times(monkeypatch):
    """Le forme nuove si guardano sempre; chi moltiplica solo zeri si vede lo stesso."""
    looked = []
    monkeypatch.setattr(honest_data, "is_constant", lambda matrix: looked.append(matrix.shape))
    a, b = matrix(8, 8), matrix(8, 3)

    def run():
        for _ in range(100):
            output = a @ a
        return output @ b

    refuse_degenerate_data("ripetuto", run)
    assert honest_data.LOOKS == 64
    assert len(looked) == 2 * 64 + 2
    monkeypatch.undo()
    zeros = torch.zeros(8, 8)
    with pytest.raises(DegenerateDataError):
        refuse_degenerate_data("bugiardo", lambda: [zeros @ a for _ in range(100)])


def test_products_of_zeros_are_refused():
    zeros = torch.zeros(8, 8)
    with pytest.raises(DegenerateDataError, match=r"^«bugiardo»: dato: la maggior .* atteso"):
        refuse_degenerate_data("bugiardo", lambda: zeros @ matrix(8, 8))


def test_products_of_ones_and_of_nothing_are_refused():
    """Anche se gli uno differiscono nell'ultima cifra; se un numero su dieci è un altro, no."""
    ones = torch.ones(32, 32)
    for constant in (ones, 1 + 1e-6 * matrix(32, 32), ones * float("nan")):
        with pytest.raises(DegenerateDataError):
            refuse_degenerate_data("bugiardo", lambda c=constant: matrix(8, 32) @ c)
    several = torch.where(torch.rand(32, 32) < 0.15, matrix(32, 32), ones)
    for honest in (several, 1 + 0.01 * matrix(32, 32)):
        refuse_degenerate_data("onesto", lambda it=honest: matrix(8, 32) @ it)


def test_a_product_of_one_number_that_is_not_finite_is_refused():
    for value in (float("nan"), float("inf")):
        spoiled = matrix(8, 8)
        spoiled[3, 4] = value
        with pytest.raises(DegenerateDataError):
            refuse_degenerate_data("bugiardo", lambda it=spoiled: matrix(8, 8) @ it)


def test_a_matrix_that_repeats_one_row_or_column_is_refused():
    """Numeri a caso, ma letti sempre dagli stessi byte, o ricopiati."""
    row, column = matrix(1, 8).expand(8, 8), matrix(8, 1).expand(8, 8)
    for repeated in (row, column, row.clone(), column.clone()):
        with pytest.raises(DegenerateDataError, match="operando costante"):
            refuse_degenerate_data("bugiardo", lambda it=repeated: it @ matrix(8, 8))
        with pytest.raises(DegenerateDataError, match="operando costante"):
            refuse_degenerate_data("bugiardo", lambda it=repeated: matrix(8, 8) @ it)
    refuse_degenerate_data("onesto", lambda: matrix(1, 8, 8).expand(3, 8, 8) @ matrix(3, 8, 8))
    refuse_degenerate_data("una riga", lambda: matrix(8).as_strided((1, 8), (0, 1)) @ matrix(8, 8))


def test_less_work_than_declared_is_refused():
    a, b = matrix(8, 8), matrix(8, 8)
    whole = honest_data.Declared(2 * 2 * 8**3, dtype=torch.float32)
    refuse_degenerate_data("onesto", lambda: (a @ b) @ b, declared=whole)
    refuse_degenerate_data("altro lavoro", lambda: a @ b, same=False, declared=whole)
    few = "1024 conti nei prodotti, 192 numeri letti e scritti; atteso: almeno i 2048 conti"
    with pytest.raises(DegenerateDataError, match=few):
        refuse_degenerate_data("a metà", lambda: a @ b, declared=whole)


def test_a_second_call_that_does_half_of_the_work_is_refused():
    """Gli stessi prodotti, ma più piccoli: il resto è rimasto dalla prima."""
    a, b, kept = matrix(8, 8), matrix(8, 8), []

    def run():
        kept[:] = [torch.cat([a[:4] @ b, kept[0][4:]])] if kept else [a @ b]
        return kept[0]

    declared = honest_data.Declared(2 * 8**3, dtype=torch.float32)
    with pytest.raises(DegenerateDataError, match="512 conti nei prodotti"):
        refuse_degenerate_data("a metà", run, declared=declared)


def test_who_makes_no_product_cannot_have_done_its_operations():
    """Una somma, o una copia del risultato, leggono e scrivono quanto il prodotto."""
    a, b = matrix(32, 32), matrix(32, 32)
    ready = a @ b
    declared = honest_data.Declared(2 * 32**3, 3 * 32**2, torch.float32)
    for run in (lambda: a + b, lambda: ready.clone() + ready):
        with pytest.raises(DegenerateDataError, match=r"0 conti nei prodotti, .* almeno i 65536"):
            refuse_degenerate_data("bugiardo", run, declared=declared)
    refuse_degenerate_data("a mano", lambda: (a[:, :, None] * b).sum(1), declared=declared)
    outside = dataclasses.replace(declared, outside=True)
    refuse_degenerate_data("fuori da PyTorch", lambda: a + b, declared=outside)
    norm = honest_data.Declared(32 * (7 * 32 + 2), 2 * 32**2, torch.float32)
    refuse_degenerate_data("onesto", lambda: F.layer_norm(a, (32,)), declared=norm)


def test_products_in_a_shorter_type_than_declared_are_refused():
    a, b = matrix(8, 8).bfloat16(), matrix(8, 8).bfloat16()
    for dtype in (torch.bfloat16, torch.float8_e4m3fn):
        declared = honest_data.Declared(2 * 8**3, dtype=dtype)
        refuse_degenerate_data("onesto", lambda: a @ b, declared=declared)
    declared = honest_data.Declared(1, dtype=torch.float32)
    vector = matrix(8).bfloat16()
    integers = (100 * matrix(32, 32)).to(torch.int8)
    short = {
        "prodotto": lambda: a @ b,
        "per un vettore": lambda: a @ vector,
        "attenzione": lambda: F.scaled_dot_product_attention(*[matrix(1, 8, 8).bfloat16()] * 3),
        "interi": lambda: torch._int_mm(integers, integers),
        "interi larghi": lambda: integers.int() @ integers.int(),
    }
    for name, run in short.items():
        with pytest.raises(DegenerateDataError, match=rf"«{name}»: dato: .*; atteso: in torch"):
            refuse_degenerate_data(name, run, declared=declared)


def test_numbers_in_a_shorter_type_than_declared_are_refused():
    """Anche senza prodotti, anche se il risultato torna largo, anche fuori da PyTorch."""
    a, b = matrix(8, 8).bfloat16(), matrix(8, 8).bfloat16()
    declared = honest_data.Declared(numbers=3 * 64, dtype=torch.float32)
    for run in (lambda: a + b, lambda: (a + b).float(), lambda: a.float() + b.float()):
        with pytest.raises(DegenerateDataError, match=r"bfloat16.*; atteso: in torch\.float32"):
            refuse_degenerate_data("corta", run, declared=declared)
    outside = dataclasses.replace(declared, outside=True)
    with pytest.raises(DegenerateDataError, match=r"bfloat16; atteso: in torch\.float32"):
        refuse_degenerate_data("già pronta", lambda: a, declared=outside)


def test_products_that_shorten_their_operands_have_to_say_so():
    """Il TF32 acceso dentro la chiamata, e spento prima che finisca."""
    a, b = matrix(8, 8), matrix(8, 8)

    def hidden():
        with products_in("TF32"):
            return a @ b

    declared = honest_data.Declared(2 * 8**3, dtype=torch.float32)
    with pytest.raises(DegenerateDataError, match="accorciano i numeri FP32"):
        refuse_degenerate_data("di nascosto", hidden, declared=declared)
    refuse_degenerate_data("onesto", lambda: a @ b, declared=declared)
    said = dataclasses.replace(declared, shortened=True)
    refuse_degenerate_data("detto", hidden, declared=said)


def test_products_that_cannot_be_counted_are_not_compared(monkeypatch):
    monkeypatch.setattr(honest_data, "flops_of", lambda *_: None)
    declared = honest_data.Declared(10**12, dtype=torch.float32)
    refuse_degenerate_data("non contato", lambda: matrix(8, 8) @ matrix(8, 8), declared=declared)


def test_every_product_of_ours_is_counted():
    """L'attenzione fusa per CPU, nei due sensi; una matrice per un vettore, o per un pacco."""
    pairs = 2 * 3 * 5 * 7  # batch, query, key, larghezza
    q, k, v = (matrix(2, 1, n, 7).requires_grad_() for n in (3, 5, 5))

    def both():
        with torch.enable_grad():
            return torch.autograd.grad(F.scaled_dot_product_attention(q, k, v).sum(), [q, k, v])

    weights, packed = matrix(5, 7), torch.ops.mkldnn._linear_pointwise
    pack = torch.ops.mkldnn._reorder_linear_weight(weights)
    for run, flops in (
        (both, 2 * (2 + 5) * pairs),
        (lambda: weights @ matrix(7), 2 * 5 * 7),
        (lambda: torch._addmm_activation(matrix(5), matrix(3, 7), weights.T), 2 * 3 * 5 * 7),
        (lambda: packed(matrix(3, 7), pack, None, "none", [], ""), 2 * 3 * 5 * 7),
    ):
        with honest_data.Watcher(closely=False) as seen:
            run()
        assert (seen.flops, seen.uncounted) == (flops, 0)


def test_who_does_less_than_it_says_has_to_say_that_it_works_elsewhere():
    """Un risultato già pronto, una vista, memoria e nient'altro, due righe invece di otto."""
    a, b = matrix(8, 8), matrix(8, 8)
    declared = honest_data.Declared(numbers=3 * 64)
    elsewhere = dataclasses.replace(declared, outside=True)
    for run, moved in (
        (lambda: a, 0),
        (lambda: a.view(4, 16), 0),
        (lambda: [torch.empty_like(a), a.new_empty(8, 8), torch.empty(8, 8)], 0),
        (lambda: a.clone(), 128),
        (lambda: a[:2] + b[:2], 48),
    ):
        with pytest.raises(DegenerateDataError, match=f"dato: {moved} numeri"):
            refuse_degenerate_data("meno", run, declared=declared)
        refuse_degenerate_data("fuori da PyTorch", run, declared=elsewhere)
    refuse_degenerate_data("onesto", lambda: a + b, declared=declared)


def test_products_that_inference_mode_leaves_whole_are_seen():
    """Come genera chi genera su GPU: `evaluating` apre inference_mode, e lì `linear` è una sola."""
    x, w = torch.randn(2, 64, 64)
    zeros = torch.zeros(64, 64)

    def chosen(weight, dtype=torch.float32):
        with torch.inference_mode():
            return F.linear(x.to(dtype), weight.to(dtype)).argmax(dim=-1)

    declared = honest_data.Declared(flops=2 * 64**3, dtype=torch.float32)
    refuse_degenerate_data("onesto", lambda: chosen(w), True, declared)
    with pytest.raises(DegenerateDataError, match="operando costante"):
        refuse_degenerate_data("zeri", lambda: chosen(zeros), True, declared)
    with pytest.raises(DegenerateDataError, match=r"torch\.bfloat16"):
        refuse_degenerate_data("corto", lambda: chosen(w, torch.bfloat16), True, declared)
    with pytest.raises(DegenerateDataError, match="conti nei prodotti"):
        refuse_degenerate_data("poco", lambda: chosen(w[:8]), True, declared)


def test_products_on_another_device_are_refused(monkeypatch):
    """Come chi ha scordato `device`: la scheda non fa nulla, e non la si può cronometrare."""
    a = matrix(8, 8)
    nothing = a.to("meta")
    with pytest.raises(DegenerateDataError, match="su un altro stream o su un'altra scheda"):
        refuse_degenerate_data("in nessun posto", lambda: nothing @ nothing)
    monkeypatch.setattr(honest_data, "device", lambda: torch.device("meta"))
    with pytest.raises(DegenerateDataError, match="su un altro stream o su un'altra scheda"):
        refuse_degenerate_data("altrove", lambda: a @ a)


def test_numbers_moved_on_another_device_are_not_counted(monkeypatch):
    """Chi non fa prodotti: una LayerNorm su CPU, in una gara della GPU."""
    declared = honest_data.Declared(numbers=128)
    nothing, a = matrix(8, 8).to("meta"), matrix(8, 8)
    for place, x in (("cpu", nothing), ("meta", a)):
        monkeypatch.setattr(honest_data, "device", lambda place=place: torch.device(place))
        with pytest.raises(DegenerateDataError, match="dato: 0 numeri letti e scritti"):
            refuse_degenerate_data("altrove", lambda x=x: F.layer_norm(x, (8,)), declared=declared)


def test_what_is_added_to_a_product_may_be_zero():
    zeros, a, b = torch.zeros(8, 8), matrix(8, 8), matrix(8, 8)
    refuse_degenerate_data("onesto", lambda: torch.addmm(zeros, a, b, beta=0))


@pytest.mark.parametrize(
    ("named", "error", "message"),
    [
        ({"different": "noi"}, TypeError, "different: dato: 'noi'; atteso: più nomi"),
        ({"different": ["x"]}, ValueError, "different: dato: x; atteso: nomi fra noi, loro"),
        ({"outside": "noi"}, TypeError, "outside: dato: 'noi'; atteso: più nomi"),
        ({"formats": {"loto": "BF16"}}, ValueError, "formats: dato: loto"),
    ],
)
def test_names_of_a_contest_are_those_of_its_contestants(named, error, message):
    contestants = dict.fromkeys(("noi", "loro"), lambda: None)
    named_well = {"different": ["loro"], "formats": {"noi": "BF16"}, "outside": ["non installato"]}
    bench_conftest.check_names(contestants, **named_well)
    with pytest.raises(error, match=message):
        bench_conftest.check_names(contestants, **named)
    with pytest.raises(ValueError, match="contestants: dato: GEMM"):
        bench_conftest.check_names({"GEMM": lambda: None})


def test_during_a_contest_the_collector_sees_only_what_is_born_in_it():
    with bench_conftest.few_collections():
        assert gc.get_freeze_count() > 10_000
    assert gc.get_freeze_count() == 0


def test_a_type_without_a_ceiling_is_refused():
    with pytest.raises(ValueError, match=r"dtype: dato: torch.complex64; atteso: uno fra torch"):
        contest.gemm_size(torch.complex64)


def test_small_numbers_are_not_equal_rows():
    refuse_degenerate_data("onesto", lambda: (matrix(8, 8) @ matrix(8, 8)) * 1e-12)


def test_a_table_made_by_the_first_call_is_accepted_if_the_rest_is_the_work_declared():
    table, a, b = [], matrix(8, 8), matrix(8, 8)

    def run():
        if not table:
            table.append(a @ a)
        return (a + table[0]) @ b

    declared = honest_data.Declared(2 * 8**3, dtype=torch.float32)
    refuse_degenerate_data("onesto", run, declared=declared)


def test_fused_attention_over_zeros_is_refused():
    zeros = torch.zeros(1, 2, 64, 16)
    run = torch.nn.functional.scaled_dot_product_attention
    with pytest.raises(DegenerateDataError):
        refuse_degenerate_data("bugiardo", lambda: run(zeros, zeros, zeros))


def test_a_layer_full_of_zeros_is_refused_also_in_training():
    layer = torch.nn.Linear(8, 8)
    torch.nn.init.zeros_(layer.weight)
    x = matrix(4, 8)
    with pytest.raises(DegenerateDataError):
        refuse_degenerate_data("bugiardo", lambda: layer(x).square().sum().backward())


def test_random_data_are_accepted_with_zero_biases_and_a_zero_start():
    weight, state, x = matrix(8, 8), torch.zeros(2, 8), matrix(2, 8)

    def recurrence():
        h = state
        for _ in range(5):
            h = torch.addmm(torch.zeros(8), h, weight) + x
        return h

    refuse_degenerate_data("onesto", recurrence)
    refuse_degenerate_data("senza prodotti", lambda: matrix(2, 8) + 1)
    refuse_degenerate_data("una riga", lambda: state[:1] + 1)
    refuse_degenerate_data("con la ReLU", lambda: matrix(8, 64).relu() @ matrix(64, 8))


def test_almost_all_zeros_are_refused():
    almost = matrix(64, 64) * (torch.rand(64, 64) < 0.03)
    with pytest.raises(DegenerateDataError, match="la maggior parte dei prodotti"):
        refuse_degenerate_data("bugiardo", lambda: almost @ matrix(64, 8))
    sparse = almost.to_sparse()
    with pytest.raises(DegenerateDataError, match="la maggior parte dei prodotti"):
        refuse_degenerate_data("sparso", lambda: sparse @ matrix(64, 8))
    half = matrix(64, 64) * (torch.rand(64, 64) < 0.3)
    refuse_degenerate_data("onesto", lambda: half @ matrix(64, 8))


def test_a_large_product_of_zeros_is_not_hidden_by_small_ones():
    """Conta l'operando più grande: qui gli zeri, per una matrice stretta."""
    zeros, narrow, small = torch.zeros(64, 64), matrix(64, 2), matrix(8, 8)

    def run():
        return [zeros @ narrow, small @ small, small @ small, small @ small]

    with pytest.raises(DegenerateDataError, match="la maggior parte dei prodotti"):
        refuse_degenerate_data("bugiardo", run)


def layers() -> list:
    """Strati che fanno tutto in un'operazione sola, o in un kernel che qui non si vede."""
    encoder = torch.nn.TransformerEncoderLayer(16, 2, 32, batch_first=True).eval()
    attention = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval()
    return [
        pytest.param(encoder, id="TransformerEncoderLayer"),
        pytest.param(lambda x: attention(x, x, x, need_weights=False)[0], id="MultiheadAttention"),
        pytest.param(lambda x: torch.nn.LSTM(16, 16).eval()(x)[0][..., :1, :1], id="LSTM"),
        pytest.param(lambda x: x.cumsum(dim=-1), id="senza prodotti"),
    ]


def test_rows_all_equal_are_seen_whoever_made_them():
    """Anche se il lavoro è fuori da PyTorch, o se le righe differiscono per l'ultima cifra."""
    row = matrix(1, 8).expand(5, 8)
    nearly = row * (1 + 1e-6 * torch.arange(5.0)[:, None])
    assert not torch.equal(nearly[0], nearly[1])
    other = row + matrix(5, 1)
    for output, flat in ((row, True), (nearly, True), (other, False), (row * float("nan"), True)):
        assert honest_data.is_flat(output) is flat
    for output, flat in (
        ((row, row), True),
        ({"uscita": row, "altra": other}, False),
        (None, False),
    ):
        assert honest_data.is_flat(output) is flat
    assert not honest_data.is_flat(row[:1])
    assert not honest_data.is_flat(torch.ones(5, 8, dtype=torch.int64))


@pytest.mark.parametrize("layer", layers())
def test_zeros_inside_a_fused_layer_are_seen(layer):
    with torch.no_grad():
        refuse_degenerate_data("onesto", lambda: layer(matrix(1, 6, 16)))
        with pytest.raises(DegenerateDataError):
            refuse_degenerate_data("bugiardo", lambda: layer(torch.zeros(1, 6, 16)))


def test_numbers_of_other_works_are_not_looked_at():
    """Il prodotto con vettori indicatori, quasi tutti zero, è un confronto che fa altro."""
    ones = torch.eye(64)
    with pytest.raises(DegenerateDataError):
        refuse_degenerate_data("indicatori", lambda: ones @ matrix(64, 8))
    refuse_degenerate_data("indicatori", lambda: ones @ matrix(64, 8), same=False)


def test_a_result_kept_from_the_first_call_is_refused():
    kept = []

    def run():
        if not kept:
            kept.append(matrix(8, 8) @ matrix(8, 8))
        return kept[0]

    with pytest.raises(DegenerateDataError, match="la seconda chiamata lavora meno della prima"):
        refuse_degenerate_data("bugiardo", run)

    def half():
        kept[1:] = kept[1:] or [matrix(8, 8) @ matrix(8, 8)]
        return kept[1] @ matrix(8, 8)

    with pytest.raises(DegenerateDataError, match="la seconda chiamata lavora meno della prima"):
        refuse_degenerate_data("a metà", half)

    sums = []

    def sum_of_rows():
        sums[:] = sums or [matrix(8, 8).cumsum(dim=-1)]
        return sums[0]

    with pytest.raises(DegenerateDataError, match="la seconda chiamata lavora meno della prima"):
        refuse_degenerate_data("senza prodotti", sum_of_rows)
    refuse_degenerate_data("fuori da PyTorch", lambda: None)


def test_work_elsewhere_is_refused(monkeypatch):
    """Un altro stream o un'altra scheda, anche per un'operazione sola, nell'una o nell'altra."""
    a, here = matrix(8, 8), ("scheda", "stream")
    for before in (1, 3):  # dove si è quando si comincia a guardare, e a ogni operazione
        where = iter([*[here] * before, ("scheda", "altro stream")])
        monkeypatch.setattr(honest_data, "place", lambda where=where: next(where, here))
        with pytest.raises(DegenerateDataError, match="un altro stream o su un'altra scheda"):
            refuse_degenerate_data("altrove", lambda: a @ a)


# I tempi impossibili.


def found(seconds, gpu=None, flops=10**12, numbers=10**9, **others):
    """Il verdetto su un concorrente che dichiara quel lavoro e ci mette quei secondi."""
    rates = {"FP32": 5e13, "BF16": 8e14}
    known = Ceilings(rates, dict.fromkeys(rates, 8192), 3e12, gpu)
    work = Work("prova", {"n": 1}, flops=flops, numbers=numbers)
    ceiling = Timing(2 * contest.gemm_size(torch.float32) ** 3 / 5e13, 0.0)
    timings, extra = {"nostro": Timing(seconds, 0.0)}, {"nostro": 0}
    return verdict(work, torch.float32, "nostro", timings, extra, ceiling, known, **others), known


def test_faster_than_the_datasheet_is_impossible():
    limit = 3e12 / peak(H100, "TF32")
    refuse_impossible_times(*found(limit, H100, numbers=1))
    with pytest.raises(ImpossibleTimeError, match=r"«nostro»: .* GFLOP/s in FP32"):
        refuse_impossible_times(*found(limit / 1.1, H100, numbers=1))


def test_a_chip_may_go_as_fast_as_its_highest_clock():
    """Una GeForce lavora oltre la frequenza dichiarata: il limite la segue."""
    declared = peak(RTX_4090, "BF16") / 1e9
    highest = {"sm_max_mhz": 1.1 * RTX_4090.tensor_clock / 1e6}
    for clocks, fits in (({}, False), (highest, True)):
        known = Ceilings({"BF16": 1.6e14}, {"BF16": 8192}, 9e11, RTX_4090, clocks)
        score = {"gflops": 1.09 * declared, "format": "BF16", "median": 1.0}
        result = {"contestants": {"nostro": score}, "gemm_gflops": declared, "bytes": 1}
        if fits:
            refuse_impossible_times(result, known)
        else:
            with pytest.raises(ImpossibleTimeError):
                refuse_impossible_times(result, known)
    assert Ceilings({}, {}, 1.0).boost("FP32") == 1
    assert known.boost("BF16") == pytest.approx(1.1)


def test_fp32_emulated_on_tensor_cores_is_possible():
    """Tre prodotti in TF32, o nove in BF16, valgono quanto uno: su A100 e B200 vanno di più."""
    for card, form, products in ((A100, "TF32", 3), (B200, "TF32", 3), (RTX_4090, "FP32", 1)):
        known = Ceilings({}, {}, 1.0, card)
        assert known.fastest("FP32") == pytest.approx(peak(card, form) / products / 1e9)
        assert known.fastest("BF16") == known.peak("BF16")
    assert ceilings.at_best("FP32", {"FP32": 5.0, "TF32": 12.0, "BF16": 54.0}) == 6.0
    assert ceilings.at_best("TF32", {"FP32": 5.0}) == 0.0
    refuse_impossible_times(*found(1e12 / 1.7e14))  # ignota, ma con BF16 a 800 TFLOP/s


def test_on_an_unknown_chip_four_times_the_measured_ceiling_is_impossible():
    limit = 9e12 / 8e14 / 4
    refuse_impossible_times(*found(limit * 1.01))
    with pytest.raises(ImpossibleTimeError):
        refuse_impossible_times(*found(limit * 0.99))


def test_reading_faster_than_the_memory_is_impossible_beyond_the_cache():
    limit = (4e9 - 50e6) / 3.35e12
    refuse_impossible_times(*found(limit, H100, flops=1))
    with pytest.raises(ImpossibleTimeError, match="GB/s dalla memoria"):
        refuse_impossible_times(*found(limit / 1.1, H100, flops=1))
    refuse_impossible_times(*found(1e-9, H100, flops=1, numbers=10_000_000))


def test_who_does_other_work_has_a_time_and_no_fractions():
    result, known = found(1e-9, different=["nostro"])
    score = result["contestants"]["nostro"]
    absent = ("gflops", "gbs", "gemm_fraction", "copy_fraction", "datasheet_fraction")
    assert [score[name] for name in absent] == [None] * 5
    assert score["median"] == 1e-9
    refuse_impossible_times(result, known)


def test_a_contestant_is_measured_against_the_ceiling_of_its_format():
    seconds = 1e12 / 4e14
    result, known = found(seconds, H100, numbers=1, formats={"nostro": "BF16"})
    score = result["contestants"]["nostro"]
    assert score["format"] == "BF16"
    assert score["gemm_fraction"] == pytest.approx(0.5)
    assert score["datasheet_fraction"] == pytest.approx(4e14 / peak(H100, "BF16"))
    refuse_impossible_times(result, known)


def test_bytes_are_compared_with_the_copy_and_with_the_datasheet():
    result, _ = found(4e9 / 1.5e12, H100, flops=1)
    score = result["contestants"]["nostro"]
    assert result["bytes"] == 4 * 10**9
    assert score["gbs"] == pytest.approx(1500)
    assert score["copy_fraction"] == pytest.approx(0.5)
    assert result["datasheet"] == {"gflops": pytest.approx(peak(H100, "FP32") / 1e9), "gbs": 3350}


def test_exact_bytes_replace_those_of_the_numbers():
    assert Work("a", {}, 1, 10).traffic(torch.bfloat16) == 20
    assert Work("a", {}, 1, 10, bytes=7).traffic(torch.bfloat16) == 7


# Una sessione vera di `pytest`, con dei bugiardi e un onesto.

LIARS = """
import time
from types import SimpleNamespace

import pytest
import torch
from benchmarks.contest import Work, clock

SIZE = 64
WORK = Work("prova", {"n": SIZE}, flops=10**15, numbers=SIZE)
HONEST = Work("prova", {"n": SIZE}, flops=2 * SIZE**3, numbers=3 * SIZE**2)


@pytest.mark.benchmark(group="prova", timer=clock)
def test_zeros(contest):
    a = torch.zeros(SIZE, SIZE)
    contest({"zeri": lambda: a @ a}, "zeri", HONEST)


@pytest.mark.benchmark(group="prova", timer=clock)
def test_remembered(contest):
    answer = torch.randn(SIZE, SIZE)
    contest({"ricordato": lambda: answer}, "ricordato", WORK)


@pytest.mark.benchmark(group="prova", timer=clock)
def test_fading(contest):
    a, faded = torch.randn(2, SIZE, SIZE)

    def fade():
        product = a @ faded
        faded.mul_(0.0 if calls[0] > 4 else 1.0)
        calls[0] += 1
        return product

    calls = [0]
    contest({"svanisce": fade}, "svanisce", HONEST)


@pytest.mark.benchmark(group="prova", timer=clock)
def test_careless(contest):
    a, b = torch.randn(2, SIZE, SIZE)

    def careless():
        torch.set_float32_matmul_precision("medium")
        return a @ b

    contest({"sbadato": careless}, "sbadato", HONEST)


@pytest.mark.benchmark(group="prova", timer=clock)
def test_crowded(contest):
    torch.set_num_threads(torch.get_num_threads() + 1)
    a, b = torch.randn(2, SIZE, SIZE)
    contest({"affollato": lambda: a @ b}, "affollato", HONEST)


def test_alone(benchmark):
    a = torch.zeros(SIZE, SIZE)
    benchmark(lambda: a @ a)


@pytest.mark.benchmark(group="prova", timer=time.process_time)
def test_hasty(contest):
    a, b = torch.randn(2, SIZE, SIZE)
    contest({"frettoloso": lambda: a @ b}, "frettoloso", HONEST)


@pytest.mark.benchmark(group="prova", timer=clock)
def test_honest(contest):
    a, b = torch.randn(2, SIZE, SIZE)
    c, d = a.bfloat16(), b.bfloat16()
    runs = {"onesto": lambda: a @ b, "in BF16": lambda: c @ d}
    contest(runs, "onesto", HONEST, formats={"in BF16": "BF16"})
"""

ONE = LIARS[: LIARS.index("@pytest")] + LIARS[LIARS.rindex("@pytest") :]
"""Il solo onesto."""


def test_a_session_stops_the_liars_and_keeps_the_honest(tmp_path):
    told = session(tmp_path, LIARS)
    assert "6 failed, 1 passed" in told, told
    assert "ValueError: threads: dato:" in told
    assert "1 error" in told
    assert "DegenerateDataError: «zeri»" in told
    assert "DegenerateDataError: «ricordato»: dato: 0 numeri" in told
    assert "DegenerateDataError: «svanisce»: dato: la maggior parte dei prodotti" in told
    assert "DegenerateDataError: «sbadato»: dato: prodotti che accorciano" in told
    assert "ValueError: benchmark: dato: senza una gara; atteso: la fixture `contest`" in told
    assert "ValueError: timer: dato:" in told


def test_a_session_is_compared_with_one_of_before(tmp_path):
    """`--benchmark-compare` legge il file che la sessione scrive; le gare sono le stesse."""
    saved = tmp_path / "prima.json"
    session(tmp_path, ONE, f"--benchmark-json={saved}")
    told = session(tmp_path, ONE, f"--benchmark-compare={saved}")
    assert "1 passed" in told, told
    assert "(NOW)" in told
    before = json.loads(saved.read_text(encoding="utf-8"))
    before["benchmarks"][0]["stats"]["median"] = 1e-9  # chiunque, adesso, è più lento
    saved.write_text(json.dumps(before), encoding="utf-8")
    options = (f"--benchmark-compare={saved}", "--benchmark-compare-fail=median:5%")
    told = session(tmp_path, ONE, *options)
    assert "Performance has regressed" in told, told


def test_nothing_to_compare_with_is_a_warning_and_not_an_error(tmp_path):
    """Anche qui, dove gli avvisi sono errori."""
    told = session(tmp_path, ONE, "-o", "filterwarnings=error", "--benchmark-compare=0001")
    assert "1 passed" in told, told
    assert "INTERNALERROR" not in told


LATE = (
    ONE
    + """

@pytest.mark.benchmark(group="prova", timer=clock)
def test_late(contest):
    a, b = torch.randn(2, SIZE, SIZE)
    contest({"tardi": lambda: a @ b}, "tardi", HONEST)
    raise IndexError("gli indizi")
"""
)


def test_a_contest_whose_test_fails_afterwards_is_not_written(tmp_path):
    saved = tmp_path / "misure.json"
    told = session(tmp_path, LATE, f"--benchmark-json={saved}")
    assert "1 failed, 1 passed" in told, told
    found = json.loads(saved.read_text(encoding="utf-8"))["benchmarks"]
    assert [entry["name"] for entry in found] == ["test_honest[torch.float32]"]


def test_an_old_package_of_nvidia_does_not_stop_the_session(tmp_path):
    """PyTorch importa pynvml; quello ritirato avvisa, e in casa gli avvisi sono errori."""
    code = "import warnings\nwarnings.warn('The pynvml package is deprecated.', FutureWarning, 2)\n"
    (tmp_path / "pynvml.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "benchmarks", "--collect-only", "-q"]
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert "tests collected" in done.stdout, done.stdout + done.stderr


def test_a_variable_that_forces_tf32_stops_the_session(tmp_path):
    """Comanda più del programma: i prodotti in FP32 non lo sarebbero."""
    assert "1 passed" in session(tmp_path, ONE, NVIDIA_TF32_OVERRIDE="0")
    told = session(tmp_path, ONE, NVIDIA_TF32_OVERRIDE="1")
    assert "ValueError: NVIDIA_TF32_OVERRIDE: dato: 1; atteso: 0, o nulla" in told


@pytest.mark.parametrize(
    ("name", "value"),
    [("CUBLAS_EMULATE_SINGLE_PRECISION", "1"), ("CUBLAS_EMULATION_STRATEGY", "eager")],
)
def test_a_variable_that_emulates_fp32_is_refused(monkeypatch, name, value):
    monkeypatch.setenv(name, "0")
    bench_conftest.plain_fp32()
    monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=f"{name}: dato: {value}; atteso: 0, o nulla"):
        bench_conftest.plain_fp32()


def test_threads_are_touched_only_when_they_have_changed(monkeypatch):
    """Chiedere di nuovo lo stesso numero cambierebbe i tempi: MKL non sceglierebbe più."""
    asked = []
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    threads = bench_conftest.machine()["threads"]
    for now, expected in ((threads, []), (threads + 1, [threads])):
        monkeypatch.setattr(torch, "get_num_threads", lambda now=now: now)
        bench_conftest.usual_threads()
        assert asked == expected


def test_fp32_is_fp32_whatever_was_asked_before():
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    bench_conftest.plain_fp32()
    assert torch.backends.cuda.matmul.fp32_precision == "ieee"
    assert torch.backends.cudnn.rnn.fp32_precision == "ieee"


@pytest.fixture(autouse=True)
def precision():
    """La precisione dei prodotti è quella di una gara, e alla fine torna com'era."""
    kinds = honest_data.fp32_settings()
    before = [it.fp32_precision for it in kinds]
    bench_conftest.plain_fp32()
    yield
    for it, value in zip(kinds, before, strict=True):
        it.fp32_precision = value


def session(folder, body, *options, **environment):
    """Ciò che scrive pytest, senza GPU, di un file di benchmark."""
    (folder / "bench_liars.py").write_text(body, encoding="utf-8")
    usual = ("-q", "-p", "benchmarks.conftest", "-p", "no:cacheprovider", "--rootdir", str(folder))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", *usual, *options, "bench_liars.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        env={**bench_environment(), "CUDA_VISIBLE_DEVICES": "", **environment},
    )
    return ran.stdout + ran.stderr


def bench_environment():
    """L'ambiente, senza ciò che è di questo pytest, con la casa fra i moduli che si trovano."""
    own = {name: it for name, it in os.environ.items() if not name.startswith("PYTEST_")}
    return {**own, "PYTHONPATH": str(ROOT)}


def test_summary_tells_ceilings_and_unknown_chips(monkeypatch):
    monkeypatch.setattr(bench_conftest, "DEVICE", "cuda")
    known = Ceilings({"BF16": 7.9e14}, {"BF16": 8192}, 3e12, H100)
    assert list(bench_conftest.roof(known)) == [
        "Tetto BF16: 790000 GFLOP/s, 80% del dichiarato",
        "Tetto della copia: 3000 GB/s, 90% del dichiarato",
    ]
    unknown = Ceilings({"BF16": 7.9e14}, {"BF16": 8192}, 3e12, None)
    assert list(bench_conftest.roof(unknown)) == [
        "Chip non riconosciuto: nessun confronto con la scheda tecnica.",
        "Tetto BF16: 790000 GFLOP/s",
        "Tetto della copia: 3000 GB/s",
    ]


def test_summary_leaves_out_the_fraction_of_other_works():
    score = {"median": 0.000612, "ratio": 0.97, "gemm_fraction": 0.5}
    assert bench_conftest.line(score).split() == ["612", "µs", "×", "0.97", "50.0%"]
    assert bench_conftest.line({**score, "gemm_fraction": None}).split() == [
        "612",
        "µs",
        "×",
        "0.97",
    ]
