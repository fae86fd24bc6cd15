"""La catena: formula, GEMM, griglia, warp, mma, partizione. Ogni conto rifatto in altro modo."""

import itertools
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from attention import FeedForward, MultiHeadAttention
from attention.s3_1_encoder_decoder_stacks import EncoderLayer
from gpu_notes.layer_to_gpu import (
    COMMON,
    Product,
    Tiling,
    accumulators,
    blocks,
    busy_sms,
    issued_mma,
    kernels,
    locate,
    mma_per_warp,
    model_bytes,
    products,
    total_mma,
    warp_cycles,
    warp_register_bytes,
    waves,
    weight_bytes,
)
from gpu_notes.roofline import (
    READER,
    Batch,
    Layer,
    crossing,
    encoder,
    from_gpu,
    time_bound,
    time_limits,
)
from gpu_notes.roofline import layer_works as works
from gpu_notes.sm_map import A100, H200, knee
from gpu_notes.tensor_core import mma, scatter

TEN = encoder(1, 10)

WIDE = Tiling(rows=64, columns=96, depth=16, warp_rows=2, warp_columns=3)
"""Un'altra divisione: sei warp, una parte 32 × 32 ciascuno."""


def named(batch: Batch, name: str, layer: Layer = READER) -> Product:
    return next(product for product in products(batch, layer) if product.name == name)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("QKV", 13_824),
        ("QKᵀ", 96),
        ("PV", 96),
        ("W_O", 4_608),
        ("Linear1", 18_432),
        ("Linear2", 18_432),
    ],
)
def test_mma_of_each_product_with_ten_tokens(name: str, count: int) -> None:
    """Con 10 token: 13 824 mma per QKV, 18 432 per ciascuna delle due matrici larghe."""
    assert named(TEN, name).mma == count


def test_mma_of_the_layer_and_of_twelve_layers() -> None:
    """55 488 mma per strato, 665 856 per dodici."""
    assert total_mma(TEN) == 55_488
    assert 12 * total_mma(TEN) == 665_856


@pytest.mark.parametrize("batch", [TEN, encoder(3, 7), Batch(2, 1, 37)])
def test_mma_counted_tile_by_tile(batch: Batch) -> None:
    """Lo stesso conto, una piastrella alla volta: ogni mma copre 16 righe, 8 colonne, 16 di k."""
    layer = Layer(d_model=48, heads=3, d_ff=80)
    for product in products(batch, layer):
        spans = (range(0, product.m, 16), range(0, product.n, 8), range(0, product.k, 16))
        assert product.mma == product.copies * sum(1 for _ in itertools.product(*spans))


def test_products_do_the_multiplications_of_the_layer() -> None:
    """I moltiplica-e-accumula delle sei GEMM sono quelli che conta PyTorch sul nostro strato."""
    layer = Layer(d_model=48, heads=3, d_ff=80)
    ours = EncoderLayer(MultiHeadAttention(48, 3), FeedForward(48, 80), 48, 0.0).eval()
    letter, counter = sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False)
    with torch.no_grad(), letter, counter:
        ours(torch.randn(5, 7, 48))
    batch = encoder(5, 7)
    assert 2 * sum(product.macs for product in products(batch, layer)) == counter.get_total_flops()
    weights = sum(p.numel() for p in ours.parameters() if p.dim() == 2)
    assert weight_bytes(layer) == 2 * weights
    assert weight_bytes(replace(layer, size=4)) == 4 * weights


def test_heads_are_separate_products() -> None:
    """Le teste non si fondono: un prodotto ciascuna, per ogni sequenza."""
    assert named(encoder(5, 10), "QKᵀ").copies == 60
    assert named(encoder(5, 10), "QKV").copies == 1
    shape = named(Batch(2, 1, 37), "PV")
    assert (shape.m, shape.n, shape.k) == (1, 64, 37)
    shape = named(Batch(2, 1, 37), "QKᵀ")
    assert (shape.m, shape.n, shape.k) == (1, 37, 64)


def test_ten_rows_waste_six_of_sixteen() -> None:
    """Dieci righe in piastrelle da sedici: il 62,5 % del lavoro serve; per PV anche k è dieci."""
    assert named(TEN, "Linear1").useful == 10 / 16
    assert named(Batch(1, 1, 100), "Linear1").useful == 1 / 16
    assert named(TEN, "PV").useful == (10 / 16) ** 2
    assert named(encoder(1, 4096), "Linear1").useful == 1


@pytest.mark.parametrize(
    ("tokens", "name", "grid", "busy", "rounds"),
    [
        (10, "Linear1", 24, 24, 1),
        (10, "Linear2", 6, 6, 1),
        (10, "QKV", 18, 18, 1),
        (10, "QKᵀ", 12, 12, 1),
        (129, "Linear1", 48, 48, 1),
        (4096, "Linear1", 768, 132, 6),
    ],
)
def test_grid(tokens: int, name: str, grid: int, busy: int, rounds: int) -> None:
    """Con piastrelle 128 × 128, Linear1 su 10 token ha 24 blocchi: 24 SM su 132."""
    product = named(encoder(1, tokens), name)
    assert blocks(product) == grid
    assert busy_sms(product, H200) == busy
    assert waves(product, H200) == rounds


def test_fewer_sms_take_more_waves() -> None:
    """Gli stessi 768 blocchi su 108 SM vogliono otto ondate; piastrelle più piccole, ancora di più.

    Le 64 × 96 sono 64 per 32, cioè 2048 blocchi; con 100 righe e 200 colonne, 2 per 3.
    """
    product = named(encoder(1, 4096), "Linear1")
    assert (busy_sms(product, A100), waves(product, A100)) == (108, 8)
    assert (busy_sms(product, A100, WIDE), waves(product, A100, WIDE)) == (108, 19)
    assert busy_sms(Product("", "", 100, 200, 33), A100, WIDE) == 6


def test_a_kernel_computes_whole_tiles() -> None:
    """Con 10 righe su 128 il kernel esegue 8 volte le mma che basterebbero."""
    product = named(TEN, "Linear1")
    assert issued_mma(product) == 8 * product.mma
    full = named(encoder(1, 4096), "Linear1")
    assert issued_mma(full) == full.mma
    covered = (2 * 64) * (3 * 96) * (3 * 16)
    assert issued_mma(Product("", "", 100, 200, 33), WIDE) == covered // (16 * 8 * 16)


def test_work_of_one_warp() -> None:
    """Ogni warp ha 64 × 64 elementi: 4 · 8 piastrelle, 48 passi lungo k = 768."""
    assert COMMON.warp_shape == (64, 64)
    assert (COMMON.warps, COMMON.threads) == (4, 128)
    assert mma_per_warp(named(TEN, "Linear1")) == 4 * 8 * 48
    assert mma_per_warp(named(TEN, "QKᵀ")) == 4 * 8 * 4
    assert mma_per_warp(Product("", "", 128, 128, 33)) == 4 * 8 * 4
    assert (WIDE.warps, WIDE.warp_shape) == (6, (32, 32))
    assert mma_per_warp(Product("", "", 64, 96, 16), WIDE) == 2 * 4
    assert accumulators() == 128
    assert accumulators(WIDE) == 32


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rows": 24}, "rows: dato: 24; atteso: un multiplo di 32"),
        ({"columns": 8}, "columns: dato: 8; atteso: un multiplo di 16"),
        ({"depth": 8}, "depth: dato: 8; atteso: un multiplo di 16"),
    ],
)
def test_tiles_are_made_of_whole_mma(arguments: dict[str, int], message: str) -> None:
    """Una piastrella che non si divide in mma intere è rifiutata."""
    with pytest.raises(ValueError, match=message):
        Tiling(**arguments)


def test_every_element_has_one_place() -> None:
    """Due elementi diversi non hanno mai lo stesso posto, e ogni posto ha un elemento."""
    tiling = Tiling(rows=32, columns=48, depth=16, warp_rows=2, warp_columns=3)
    found = {locate(row, column, tiling) for row in range(64) for column in range(96)}
    assert len(found) == 64 * 96
    assert {place.block for place in found} == set(itertools.product(range(2), range(2)))
    assert {place.warp for place in found} == set(range(6))
    assert {place.tile for place in found} == {(0, 0), (0, 1)}
    assert {(place.lane, place.item) for place in found} == set(
        itertools.product(range(32), range(4))
    )
    assert all(place.partition == place.warp % 4 for place in found)


def test_the_place_of_one_element_by_hand() -> None:
    """Riga 3, colonna 1000 di Linear1: blocco 7, warp 1, piastrella 5, corsia 12, primo numero."""
    place = locate(3, 1000)
    assert place.block == (0, 7)
    assert place.warp == place.partition == 1
    assert place.tile == (0, 5)
    assert (place.lane, place.item) == (12, 0)


@pytest.mark.parametrize(("row", "column"), [(3, 1000), (9, 5), (0, 3071), (7, 1535)])
def test_following_the_place_gives_the_number(row: int, column: int) -> None:
    """Eseguire quelle 48 mma, e leggere quel registro, dà l'elemento del prodotto."""
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(10, 768, generator=generator).bfloat16().float().numpy()
    w = torch.randn(768, 3072, generator=generator).bfloat16().float().numpy()
    place = locate(row, column)
    top = place.tile[0] * 16 + place.warp // 2 * 64 + place.block[0] * 128
    left = place.tile[1] * 8 + place.warp % 2 * 64 + place.block[1] * 128
    padded = np.zeros((128, 768), np.float32)
    padded[:10] = x
    d = np.zeros((32, 4), np.float32)
    for start in range(0, 768, 16):
        a = padded[top : top + 16, start : start + 16]
        b = w[start : start + 16, left : left + 8]
        d = mma(scatter("A", a), scatter("B", b), d)
    exact = x[row].astype(np.float64) @ w[:, column].astype(np.float64)
    assert d[place.lane, place.item] == pytest.approx(exact, abs=1e-3)


@pytest.mark.parametrize(
    ("row", "column", "name"), [(-1, 0, "row: dato: -1"), (0, -2, "column: dato: -2")]
)
def test_places_start_from_zero(row: int, column: int, name: str) -> None:
    """Righe e colonne negative sono rifiutate per nome."""
    with pytest.raises(ValueError, match=name):
        locate(row, column)


def test_a_layer_is_seven_kernels() -> None:
    """QKV, attenzione fusa, W_O, add&norm, Linear1, Linear2, add&norm; alla lettera due in più."""
    assert kernels(TEN) == 7
    assert kernels(TEN, fused=False) == 9


def test_ten_tokens_wait_for_memory_and_twenty_five_thousand_do_not() -> None:
    """Con 10 token ogni GEMM con i pesi aspetta la memoria; con 25 000 nessuna."""
    machine = from_gpu(H200)
    for batch, waits in ((TEN, True), (encoder(50, 500), False)):
        for work in works(batch, READER, fused=True):
            if work.name in ("QKV", "W_O", "Linear1", "Linear2"):
                limits = time_limits(work, machine)
                assert (limits["memoria"] > limits["aritmetica"]) is waits


def test_tensor_cores_are_still_for_most_of_a_layer_of_ten_tokens() -> None:
    """Le mma dello strato, al picco, prendono l'8 % del limite: per il 92 stanno ferme."""
    machine = from_gpu(H200)
    busy = total_mma(TEN) * 2 * 16 * 8 * 16 / machine.matrix_peak
    kernels = [it for it in works(TEN, READER, fused=True) if it.name != "ReLU"]
    whole = sum(time_bound(it, machine) for it in kernels)
    assert 1 - busy / whole == pytest.approx(0.92, abs=0.005)


def test_three_hundred_and_ten_tokens_reach_the_knee() -> None:
    """Linear1 diventa un lavoro d'aritmetica da circa 310 token, sull'H200 in BF16."""
    assert crossing(knee(H200, "BF16"), 768, 3072) == pytest.approx(310, abs=1)


def test_a_decoder_step_reads_all_the_weights_for_one_row() -> None:
    """Un passo con la cache fa le stesse mma dei pesi, con una riga utile su sedici."""
    step = Batch(1, 1, 1000)
    for name in ("QKV", "W_O", "Linear1", "Linear2"):
        assert named(step, name).mma == named(TEN, name).mma
        assert named(step, name).macs * 10 == named(TEN, name).macs


def test_one_warp_cannot_do_a_feed_forward() -> None:
    """147 456 FMA di warp, almeno 74 µs, e 9,4 MB di pesi contro 33 KB di registri (A22)."""
    assert warp_cycles() == 147_456
    assert warp_cycles() / H200.clock > 74e-6
    attention = READER.size * 4 * 768**2
    feed_forward = weight_bytes() - attention
    assert feed_forward == 9_437_184
    assert warp_register_bytes() == 255 * 32 * 4
    assert feed_forward > 280 * warp_register_bytes()


def test_thirteen_billion_parameters_take_twenty_six_gigabytes() -> None:
    """13,0 miliardi di parametri: 26 GB a 16 bit, 52 a 32, 13 a 8, 6,5 a 4; non 40 (A25)."""
    sizes = [model_bytes(13.0e9, bits) / 1e9 for bits in (32, 16, 8, 4)]
    assert sizes == [52, 26, 13, 6.5]
    assert model_bytes(13.0e9, 16) / 2**30 == pytest.approx(24.2, abs=0.05)


@pytest.mark.parametrize(("parameters", "bits", "name"), [(0, 16, "parameters"), (1, 0, "bits")])
def test_a_model_has_parameters_and_bits(parameters: float, bits: int, name: str) -> None:
    """Zero parametri o zero bit sono un errore, non una memoria vuota."""
    with pytest.raises(ValueError, match=name):
        model_bytes(parameters, bits)


def test_numbers_of_a_product_do_not_change() -> None:
    """Un prodotto e una divisione in piastrelle sono valori: non si modificano."""
    for value, name in ((named(TEN, "QKV"), "m"), (COMMON, "rows")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, 1)
