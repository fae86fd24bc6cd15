"""Il roofline: i conti contro i cicli e contro PyTorch, i passaggi, le macchine storiche."""

import ctypes
import math
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from gpu_notes.roofline import (
    READER,
    Batch,
    Layer,
    Machine,
    Work,
    add_and_norm,
    attainable,
    axpy,
    crossing,
    encoder,
    from_gpu,
    fused_attention,
    gemm,
    gemm_intensity,
    half_rows,
    is_memory_bound,
    layer_works,
    literal_attention,
    relu,
    time_bound,
    time_limits,
)
from gpu_notes.sm_map import A100, B200, GPUS, H100, H200, RTX_4090, knee, peak
from weave.house import ROOT
from weave.pact import blocks

sizes = st.integers(min_value=1, max_value=5000)

WEIGHTS = ("QKV", "W_O", "Linear1", "Linear2")


def named(works: list[Work]) -> dict[str, Work]:
    return {work.name: work for work in works}


# Le due rette


def test_roof_is_the_lower_of_two_lines():
    """A sinistra del ginocchio la banda per l'intensità, a destra il picco; lì sono uguali."""
    at = [attainable(Work("", flops, 7), peak=30, bandwidth=5) for flops in (7, 21, 42, 84, 700)]
    assert at == [5, 15, 30, 30, 30]


def test_time_is_that_of_the_slowest():
    """Memoria, aritmetica, esponenziali: il tempo è il maggiore dei tre."""
    machine = Machine("", matrix_peak=30, vector_peak=10, bandwidth=5, exponential_peak=2)
    work = Work("", flops=60, bytes=35, exponentials=8)
    assert time_limits(work, machine) == {"memoria": 7, "aritmetica": 6, "esponenziali": 4}
    assert time_bound(work, machine) == 7
    assert is_memory_bound(work, machine)
    product = Work("", flops=60, bytes=35, matrix=True, exponentials=16)
    assert time_limits(product, machine) == {"memoria": 7, "aritmetica": 2, "esponenziali": 8}
    assert time_bound(product, machine) == 8
    assert not is_memory_bound(product, machine)
    assert not is_memory_bound(Work("", flops=70, bytes=35), machine)
    assert not is_memory_bound(Work("", flops=80, bytes=35), machine)


def test_a_machine_without_units_for_exponentials_never_waits_for_them():
    machine = Machine("", 30, 10, 5)
    assert time_limits(Work("", 1, 1, exponentials=10**9), machine)["esponenziali"] == 0
    assert Work("", 1, 1).exponentials == 0
    assert not Work("", 1, 1).matrix


@given(flops=sizes, moved=sizes, top=sizes, band=sizes)
def test_roof_and_time_say_the_same(flops, moved, top, band):
    """FLOP diviso tempo minimo è il tetto."""
    work, machine = Work("", flops, moved), Machine("", 1, top, band)
    assert flops / time_bound(work, machine) == pytest.approx(attainable(work, top, band))


@pytest.mark.parametrize("gpu", GPUS, ids=lambda gpu: gpu.name)
def test_a_gpu_of_the_table_becomes_a_machine(gpu):
    """Il ginocchio è quello della tabella; le SFU fanno 16 esponenziali per ciclo e per SM."""
    machine = from_gpu(gpu)
    assert machine.name == gpu.name
    assert machine.peak(Work("", 1, 1, matrix=True)) == peak(gpu, "BF16")
    assert machine.peak(Work("", 1, 1)) == peak(gpu, "FP32")
    assert machine.matrix_peak / machine.bandwidth == knee(gpu, "BF16")
    assert machine.exponential_peak == 16 * gpu.sms * gpu.tensor_clock
    assert from_gpu(gpu, "TF32").matrix_peak == peak(gpu, "TF32")


# Le BLAS e la legge della GEMM


def counted_by_loops(m: int, k: int, n: int) -> tuple[int, int]:
    """FLOP e numeri toccati da tre cicli, contati uno per uno."""
    flops, touched = 0, set()
    for i in range(m):
        for j in range(n):
            for p in range(k):
                touched |= {("a", i, p), ("b", p, j), ("c", i, j)}
                flops += 2
    return flops, len(touched)


def test_gemm_counts_what_the_loops_count():
    flops, numbers = counted_by_loops(3, 5, 7)
    work = gemm("prova", 3, 5, 7, size=2)
    assert (work.name, work.flops, work.bytes, work.matrix) == ("prova", flops, 2 * numbers, True)
    many = gemm("", 3, 5, 7, size=4, copies=11)
    assert (many.flops, many.bytes) == (11 * flops, 11 * 4 * numbers)
    assert gemm("", 1, 1, 1, 1, copies=1) == Work("", 2, 3, matrix=True)


def test_three_levels_of_blas():
    """In FP32: 1/6 e 1/2 quale che sia la taglia (il secondo come limite), n/6 per il livello 3."""
    assert axpy(1, 4).intensity == axpy(10**6, 4).intensity == pytest.approx(1 / 6)
    assert (axpy(7, 4).flops, axpy(7, 4).bytes, axpy(7, 4).matrix) == (14, 84, False)
    assert gemm("", 1, 3072, 3072, 4).intensity == pytest.approx(1 / 2, rel=1e-3)
    for n in (64, 768, 3072):
        assert gemm("", n, n, n, 4).intensity == pytest.approx(n / 6)


@given(m=sizes, k=sizes, n=sizes, size=st.sampled_from([0.5, 1, 2, 4, 8]))
def test_law_gives_the_counted_intensity(m, k, n, size):
    assert gemm_intensity(m, k, n, size) == pytest.approx(gemm("", m, k, n, size).intensity)


def test_weights_of_the_feed_forward_follow_614_4():
    """Le due matrici hanno la stessa legge, e a 614,4 righe l'intensità è metà del limite."""
    assert half_rows(768, 3072) == half_rows(3072, 768) == 614.4
    assert gemm_intensity(614.4, 768, 3072) == pytest.approx(614.4 / 2)
    for m, shown in ((1, "1.0"), (10, "9.8"), (64, "58.0"), (310, "206.0")):
        assert f"{m / (1 + m / 614.4):.1f}" == f"{gemm_intensity(m, 768, 3072):.1f}" == shown


def test_310_tokens_wait_and_311_do_not():
    """Il passaggio sull'H200, dalla formula e contando."""
    assert crossing(knee(H200, "BF16"), 768, 3072) == pytest.approx(310.2, abs=0.05)
    h200 = from_gpu(H200)
    for shape in ((768, 3072), (3072, 768)):
        waiting = [m for m in range(1, 700) if is_memory_bound(gemm("", m, *shape, 2), h200)]
        assert waiting == list(range(1, 311))


def test_fp8_weighs_half_and_runs_twice():
    """Esercizio 1: byte dimezzati, picco doppio, stesso numero di righe."""
    assert crossing(knee(H200, "FP8"), 768, 3072, size=1) == pytest.approx(
        crossing(knee(H200, "BF16"), 768, 3072)
    )


@given(knee_=st.floats(1, 500), k=sizes, n=sizes)
def test_at_the_crossing_the_intensity_is_the_knee(knee_, k, n):
    rows = crossing(knee_, k, n)
    if math.isfinite(rows):
        assert gemm_intensity(rows, k, n) == pytest.approx(knee_)
    else:
        assert gemm_intensity(10**9, k, n) <= knee_ * (1 + 1e-9)


def test_a_far_knee_is_never_reached():
    """Il limite è 2/size · K·N/(K+N); una testa da 64 non arriva a nessun ginocchio in BF16."""
    assert crossing(614.4, 768, 3072) == math.inf
    assert crossing(614.3, 768, 3072) < math.inf
    for gpu in GPUS:
        assert crossing(knee(gpu, "BF16"), 64, 10**9) == math.inf


def test_ten_gemv_read_the_weights_ten_times():
    """A21: stessi FLOP; i byte stanno come le intensità, 9,8 a 1,0."""
    apart, together = gemm("", 1, 768, 3072, 2, copies=10), gemm("", 10, 768, 3072, 2)
    assert apart.flops == together.flops == 2 * 10 * 768 * 3072
    assert f"{apart.intensity:.1f}" == "1.0"
    assert f"{together.intensity:.1f}" == "9.8"
    assert apart.bytes - together.bytes == 9 * 2 * 768 * 3072
    x, w = torch.randn(10, 768, dtype=torch.float64), torch.randn(768, 3072, dtype=torch.float64)
    torch.testing.assert_close(torch.stack([row @ w for row in x]), x @ w)


def test_fortran_reads_the_weights_once_or_once_per_token(
    compile_fortran: Callable[[str], ctypes.CDLL], call_fortran: Callable[..., None]
):
    """A21, sul Fortran della pagina: stesso risultato, m·k·n letture contro k·n."""
    page = (ROOT / "gpu_notes/roofline.md").read_text(encoding="utf-8")
    source = "\n".join(block.content for block in blocks(page) if block.language == "fortran")
    library = compile_fortran(source)
    x, w = torch.randn(11, 5, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    for routine, expected in ((library.one_gemv_per_token, 11 * 5 * 7), (library.one_gemm, 5 * 7)):
        y, read = torch.zeros(11, 7, dtype=torch.float64), ctypes.c_int(0)
        with_counter = with_reads(routine, read)
        call_fortran(with_counter, 11, 5, 7, x, w, y)
        torch.testing.assert_close(y, x @ w)
        assert read.value == expected


def with_reads(routine: Callable[..., None], read: ctypes.c_int) -> Callable[..., None]:
    """La routine con un ultimo argomento in più: il contatore."""
    return lambda *passed: routine(*passed, ctypes.byref(read))


# Ogni operazione di uno strato


def test_layer_flops_are_those_that_pytorch_counts():
    """I prodotti di uno strato, contro il contatore di PyTorch sul suo strato."""
    layer, batch = Layer(d_model=22, heads=2, d_ff=29), encoder(sequences=3, length=13)
    theirs = torch.nn.TransformerEncoderLayer(22, 2, 29, dropout=0.0, batch_first=True)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        theirs(torch.randn(3, 13, 22))
    for fused in (False, True):
        products = (work for work in layer_works(batch, layer, fused) if work.matrix)
        assert sum(work.flops for work in products) == counter.get_total_flops()


def test_every_operation_by_hand():
    """2 sequenze, 3 query, 5 key, 2 teste da 7, d_ff = 11, 4 byte."""
    layer, batch = Layer(d_model=14, heads=2, d_ff=11, size=4), Batch(2, 3, 5)
    assert (layer.d_k, batch.tokens, batch.scores(layer)) == (7, 6, 60)
    by_hand = {
        "QKV": (2 * 6 * 14 * 42, 4 * (6 * 14 + 14 * 42 + 6 * 42)),
        "QKᵀ": (2 * 60 * 7, 4 * 4 * (3 * 7 + 7 * 5 + 3 * 5)),
        "softmax": (6 * 60, 2 * 4 * 60),
        "PV": (2 * 60 * 7, 4 * 4 * (3 * 5 + 5 * 7 + 3 * 7)),
        "W_O": (2 * 6 * 14 * 14, 4 * (6 * 14 + 14 * 14 + 6 * 14)),
        "add&norm": (8 * 6 * 14, 4 * (3 * 6 * 14 + 2 * 14)),
        "Linear1": (2 * 6 * 14 * 11, 4 * (6 * 14 + 14 * 11 + 6 * 11)),
        "ReLU": (6 * 11, 4 * 2 * 6 * 11),
        "Linear2": (2 * 6 * 14 * 11, 4 * (6 * 11 + 11 * 14 + 6 * 14)),
    }
    works = layer_works(batch, layer)
    assert [work.name for work in works] == [*by_hand, "add&norm"]
    assert {w.name: (w.flops, w.bytes) for w in works} == by_hand
    assert works[5] == works[9] == add_and_norm(batch, layer)
    fused = layer_works(batch, layer, fused=True)
    assert fused == [works[0], fused_attention(batch, layer), *works[4:]]
    q_and_output, k_and_v = 2 * 2 * 3 * 14, 2 * 2 * 5 * 14
    assert fused[1] == Work("fusa", 4 * 60 * 7, 4 * (q_and_output + k_and_v), True, 60)


def test_products_go_to_the_tensor_cores_and_exponentials_to_the_sfu():
    works = named(layer_works(Batch(2, 3, 5), READER))
    assert {name for name, work in works.items() if work.matrix} == {*WEIGHTS, "QKᵀ", "PV"}
    exponentials = {name: w.exponentials for name, w in works.items() if w.exponentials}
    assert exponentials == {"softmax": 2 * 12 * 3 * 5}


def test_fusing_moves_fewer_bytes_for_the_same_products():
    """I byte risparmiati sono i punteggi: scritti, letti, riscritti, riletti."""
    batch = Batch(3, 5, 7)
    letter, fused = literal_attention(batch, READER), fused_attention(batch, READER)
    assert sum(work.flops for work in letter if work.matrix) == fused.flops
    saved = sum(work.bytes for work in letter) - fused.bytes
    assert saved == 4 * READER.size * batch.scores(READER)


def test_reader_layer_and_batches():
    assert Layer(768, 12, 3072, size=2) == READER
    assert READER.d_k == 64
    assert encoder(5, 7) == Batch(sequences=5, queries=7, keys=7)
    weights = sum(work.bytes for work in layer_works(Batch(1, 1, 1), READER) if work.matrix)
    assert weights == pytest.approx(14.2e6, rel=5e-3)


def test_who_waits_for_memory():
    """La tabella della pagina: chi comanda sull'H200 nei sei casi."""
    h200 = from_gpu(H200)

    def free(batch: Batch) -> set[str]:
        works = [*layer_works(batch, READER), fused_attention(batch, READER)]
        return {work.name for work in works if not is_memory_bound(work, h200)}

    assert free(encoder(1, 10)) == free(encoder(10, 31)) == set()
    assert free(encoder(8, 512)) == {*WEIGHTS, "fusa"}
    assert free(encoder(1000, 25)) == set(WEIGHTS)
    assert free(Batch(1, 1, 1024)) == free(Batch(64, 1, 1024)) == set()


def test_a_bigger_batch_does_not_help_the_cache():
    """L'intensità dei pesi cresce con le sequenze, quella dell'attenzione no; esercizio 2."""
    h200 = from_gpu(H200)
    for sequences in (1, 64, 1000):
        batch = Batch(sequences, 1, 1024)
        works = named(layer_works(batch, READER))
        assert works["Linear1"].intensity == pytest.approx(gemm_intensity(sequences, 768, 3072))
        assert fused_attention(batch, READER).intensity == pytest.approx(1, rel=2e-3)
        assert works["QKᵀ"].intensity == pytest.approx(1, rel=2e-2)

    def attention_prevails(sequences: int) -> bool:
        batch = Batch(sequences, 1, 1024)
        works = named(layer_works(batch, READER))
        weights = sum(time_bound(works[name], h200) for name in WEIGHTS)
        return time_bound(fused_attention(batch, READER), h200) > weights

    assert [attention_prevails(sequences) for sequences in (4, 5)] == [False, True]


def test_pointwise_operations_wait_everywhere():
    """add&norm, ReLU e softmax, come kernel a sé; con dieci token, ogni operazione."""
    for machine in map(from_gpu, GPUS):
        for batch in (encoder(1, 1), encoder(1000, 25), encoder(8, 512)):
            softmax = named(literal_attention(batch, READER))["softmax"]
            for work in (softmax, add_and_norm(batch, READER), relu(batch, READER)):
                assert is_memory_bound(work, machine)
        for fused in (False, True):
            works = layer_works(encoder(1, 10), READER, fused)
            assert all(is_memory_bound(work, machine) for work in works)


def test_exponentials_weigh_as_much_as_products():
    """A10: per punteggio 4·d_k FLOP e un'esponenziale; 256 FLOP di Tensor Core l'una su Hopper."""
    batch = encoder(8, 512)

    def ratio(gpu, layer):
        limits = time_limits(fused_attention(batch, layer), from_gpu(gpu))
        return limits["esponenziali"] / limits["aritmetica"]

    wide = Layer(d_model=768, heads=6, d_ff=3072)
    assert ratio(H100, READER) == pytest.approx(1)
    assert ratio(H200, READER) == pytest.approx(1)
    assert ratio(H200, wide) == pytest.approx(1 / 2)
    assert ratio(B200, READER) == pytest.approx(2)
    assert ratio(A100, READER) == pytest.approx(1 / 2)
    assert ratio(RTX_4090, READER) == pytest.approx(1 / 8)
    softmax = named(layer_works(batch, READER))["softmax"]
    assert is_memory_bound(softmax, from_gpu(H200))


# Le macchine storiche e la matita


def test_saxpy_on_a_cray():
    """Una parola per ciclo: un terzo del picco. Tre parole per ciclo: il picco."""
    saxpy = axpy(64, size=8)
    assert attainable(saxpy, 160e6, 8 * 80e6) == pytest.approx(160e6 / 3)
    clock = 1 / 9.5e-9
    assert attainable(saxpy, 2 * clock, 3 * 8 * clock) == pytest.approx(2 * clock)
    assert 2 * clock == pytest.approx(210e6, rel=5e-3)


def test_pencil_machine():
    """12 FLOP/s, 8 byte/s, pesi 4 × 4 da 2 byte: una riga 6 s, sei righe 16 s, una per volta 36."""
    machine = Machine("", 12, 12, 8)
    one, six = gemm("", 1, 4, 4, 2), gemm("", 6, 4, 4, 2)
    assert half_rows(4, 4) == 2
    assert (one.flops, one.bytes, six.flops, six.bytes) == (32, 48, 192, 128)
    assert gemm_intensity(1, 4, 4) == pytest.approx(2 / 3)
    assert (time_bound(one, machine), time_bound(six, machine)) == (6, 16)
    assert time_limits(one, machine)["aritmetica"] == pytest.approx(32 / 12)
    assert time_limits(six, machine)["memoria"] == time_limits(six, machine)["aritmetica"] == 16
    assert time_bound(gemm("", 1, 4, 4, 2, copies=6), machine) == 36
    assert crossing(12 / 8, 4, 4) == 6
    assert crossing(12 / 6, 4, 4) == math.inf


# Gli errori


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Work("", 1, 0), "bytes: dato: 0; atteso: maggiore di 0"),
        (lambda: Work("", 1, -1), "bytes: dato: -1; atteso: maggiore di 0"),
        (lambda: attainable(axpy(1, 4), 0, 1), "peak: dato: 0; atteso: maggiore di 0"),
        (lambda: attainable(axpy(1, 4), -1, 1), "peak: dato: -1; atteso: maggiore di 0"),
        (lambda: attainable(axpy(1, 4), 1, -1), "bandwidth: dato: -1; atteso: maggiore di 0"),
        (lambda: attainable(axpy(1, 4), 1, 0), "bandwidth: dato: 0; atteso: maggiore di 0"),
        (lambda: gemm("", 0, 1, 1, 2), "rows: dato: 0; atteso: almeno 1"),
        (lambda: gemm("", 1, 0, 1, 2), "depth: dato: 0; atteso: almeno 1"),
        (lambda: gemm("", 1, 1, -2, 2), "columns: dato: -2; atteso: almeno 1"),
        (lambda: gemm("", 1, 1, 1, 2, copies=0), "copies: dato: 0; atteso: almeno 1"),
        (lambda: Layer(10, 3, 7), "heads: dato: 3; atteso: un divisore di d_model = 10"),
        (lambda: Layer(10, 0, 7), "heads: dato: 0; atteso: un divisore di d_model = 10"),
        (lambda: Layer(10, -1, 7), "heads: dato: -1; atteso: un divisore di d_model = 10"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()


def test_records_do_not_change():
    """Un lavoro, una macchina, uno strato, un batch: si fanno nuovi, non si correggono."""
    for record in (Work("", 1, 1), Machine("", 1, 1, 1), READER, encoder(1, 1)):
        assert hash(record) == hash(replace(record))
        for field in fields(record):
            with pytest.raises(FrozenInstanceError):
                setattr(record, field.name, 2)


def test_smallest_arguments_are_accepted():
    assert Work("", 0, 0.5).intensity == 0
    assert attainable(axpy(1, 4), 0.5, 0.5) == pytest.approx(0.5 / 6)
    assert Layer(7, 1, 1).d_k == 7
