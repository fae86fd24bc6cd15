"""I formati: ogni configurazione contro torch e ml_dtypes, gli arrotondamenti, il Fortran."""

import ctypes
import functools
import itertools
import math
import random
import re
from xml.etree import ElementTree

import ml_dtypes
import numpy as np
import pytest
import torch

from gpu_notes.number_formats import (
    BF16,
    E2M1,
    E4M3,
    E5M2,
    FORMATS,
    FP16,
    FP32,
    TF32,
    Format,
    add_up,
    away,
    decode,
    encode,
    exponents,
    feed_forward_in,
    fields,
    powers,
    product,
    quantize,
    quantize_blocks,
    relative_error,
    to_even,
    truncate,
)
from weave.house import ROOT
from weave.pact import blocks

PAGE = ROOT / "gpu_notes" / "number_formats.md"
FIGURE = ROOT / "gpu_notes" / "figure" / "number_formats.svg"
SVG = "{http://www.w3.org/2000/svg}"

TORCH = {
    "BF16": (torch.bfloat16, torch.int16),
    "FP16": (torch.float16, torch.int16),
    "E5M2": (torch.float8_e5m2, torch.uint8),
    "E4M3": (torch.float8_e4m3fn, torch.uint8),
}
NUMPY = {
    "BF16": (ml_dtypes.bfloat16, np.uint16),
    "FP16": (np.float16, np.uint16),
    "E5M2": (ml_dtypes.float8_e5m2, np.uint8),
    "E4M3": (ml_dtypes.float8_e4m3fn, np.uint8),
    "E2M1": (ml_dtypes.float4_e2m1fn, np.uint8),
}
SMALL = [BF16, FP16, E5M2, E4M3, E2M1]
"""I formati di cui si provano tutte le configurazioni."""

EVERY_FORMAT = pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
EVERY_SMALL = pytest.mark.parametrize("fmt", SMALL, ids=lambda fmt: fmt.name)


def numpy_decode(patterns: np.ndarray, fmt: Format) -> np.ndarray:
    kind, word = NUMPY[fmt.name]
    with np.errstate(invalid="ignore"):
        return patterns.astype(word).view(kind).astype(np.float64)


def numpy_encode(values: np.ndarray, fmt: Format) -> np.ndarray:
    kind, word = NUMPY[fmt.name]
    with np.errstate(over="ignore", invalid="ignore"):
        return values.astype(np.float32).astype(kind).view(word).astype(np.int64)


def torch_encode(values: np.ndarray, fmt: Format) -> np.ndarray:
    kind, word = TORCH[fmt.name]
    patterns = torch.from_numpy(values.astype(np.float32)).to(kind).view(word)
    return patterns.numpy().astype(np.int64) & (2 * fmt.magnitudes - 1)


def same(a: float, b: float) -> bool:
    """Uguali, segno dello zero compreso; due NaN sono uguali."""
    return (math.isnan(a) and math.isnan(b)) or (
        a == b and math.copysign(1, a) == math.copysign(1, b)
    )


@functools.cache
def decoded(fmt: Format) -> list[float]:
    """Tutte le configurazioni del formato, decodificate una volta sola."""
    return [decode(pattern, fmt) for pattern in range(2 * fmt.magnitudes)]


def finite_values(fmt: Format) -> np.ndarray:
    """Tutti i valori finiti non negativi, in ordine di configurazione."""
    return numpy_decode(np.arange(fmt.last_finite + 1), fmt)


def halfway(fmt: Format) -> np.ndarray:
    """Le mezzerie fra valori vicini, l'ultima oltre il massimo, e un soffio prima e dopo."""
    values = finite_values(fmt)
    beyond = 2 * values[-1] - values[-2]
    middle = ((values + np.append(values[1:], beyond)) / 2).astype(np.float32)
    up, down = np.float32(np.inf), np.float32(0)
    return np.concatenate([middle, np.nextafter(middle, up), np.nextafter(middle, down)])


def float32_bits(number: float) -> int:
    return int(np.float32(number).view(np.uint32))


def some_float32(count: int = 4000) -> list[float]:
    """REAL*4 con bit qualunque, più i casi limite; senza NaN."""
    generator = random.Random(7)
    words = [generator.getrandbits(32) for _ in range(count)]
    words += [w & 0xFFFFE000 | 0x1000 for w in words[:200]]  # mezzerie di TF32
    words += [w & 0xFFFF0000 | 0x8000 for w in words[:200]]  # mezzerie di BF16
    words += [0, 1, 0x7FFFFF, 0x800000, 0x7F7FFFFF, 0x7F800000, 0x7F7F8000, 0x7F7F7FFF]
    words += [0x7F7FF000, 0x7F7FEFFF, 0x3F801000, 0x00001000, 0x00008000, 0x00018000]
    words += [word | 0x80000000 for word in words[-14:]]
    values = np.array(words, dtype=np.uint32).view(np.float32)
    return [float(value) for value in values if not np.isnan(value)]


# La descrizione


@EVERY_FORMAT
def test_description_follows_the_rules(fmt):
    """Il bias è metà corsa dell'esponente; i NaN sono in fondo; i bit stanno nel contenitore."""
    assert fmt.bias == 2 ** (fmt.exponent_bits - 1) - 1
    assert fmt.bits == 1 + fmt.exponent_bits + fmt.mantissa_bits <= fmt.container


@EVERY_SMALL
def test_infinity_and_nan_are_at_the_end(fmt):
    """Dopo l'ultimo finito, prima l'infinito, se c'è, poi tutti i NaN; mai più di un infinito."""
    after = decoded(fmt)[fmt.last_finite + 1 : fmt.magnitudes]
    assert [math.isinf(value) for value in after] == [True] * fmt.infinities + [False] * fmt.nans
    assert sum(math.isnan(value) for value in after) == fmt.nans
    assert math.isfinite(decoded(fmt)[fmt.last_finite])


def test_who_follows_the_conventions_of_ieee():
    """Infinito, e NaN in tutto il resto dell'esponente di soli uno: E4M3 ed E2M1 no."""
    follows = [f.name for f in FORMATS if f.infinities and f.nans == 2**f.mantissa_bits - 1]
    assert follows == ["FP32", "TF32", "BF16", "FP16", "E5M2"]


def test_sizes_of_the_seven_formats():
    """Esponente, mantissa, bit che contano, contenitore: i numeri della pagina."""
    table = {f.name: (f.exponent_bits, f.mantissa_bits, f.bits, f.container) for f in FORMATS}
    assert table == {
        "FP32": (8, 23, 32, 32),
        "TF32": (8, 10, 19, 32),
        "BF16": (8, 7, 16, 16),
        "FP16": (5, 10, 16, 16),
        "E5M2": (5, 2, 8, 8),
        "E4M3": (4, 3, 8, 8),
        "E2M1": (2, 1, 4, 4),
    }


@pytest.mark.parametrize("fmt", [FP32, BF16, FP16, E5M2, E4M3], ids=lambda fmt: fmt.name)
def test_range_and_eps_equal_those_of_torch(fmt):
    info = torch.finfo(torch.float32 if fmt is FP32 else TORCH[fmt.name][0])
    assert (fmt.eps, fmt.largest, fmt.smallest_normal) == (info.eps, info.max, info.tiny)
    assert fmt.container == info.bits


@pytest.mark.parametrize("fmt", [FP32, *SMALL], ids=lambda fmt: fmt.name)
def test_range_and_eps_equal_those_of_ml_dtypes(fmt):
    info = ml_dtypes.finfo(np.float32 if fmt is FP32 else NUMPY[fmt.name][0])
    assert fmt.eps == float(info.eps)
    assert fmt.largest == float(info.max)
    assert fmt.smallest_normal == float(info.smallest_normal)
    assert fmt.smallest_subnormal == float(info.smallest_subnormal)


def test_tf32_has_the_range_of_fp32_and_the_step_of_fp16():
    """A17: eps come FP16, 8192 volte quello di FP32; esponente come FP32."""
    assert TF32.eps == FP16.eps == 8192 * FP32.eps
    assert TF32.smallest_normal == FP32.smallest_normal
    assert TF32.largest == float(np.uint32(0x7F7FE000).view(np.float32))


def test_bf16_is_eight_times_coarser_than_fp16_but_reaches_farther():
    """A15: non è più preciso, è più largo."""
    assert BF16.eps == 8 * FP16.eps
    assert BF16.largest > 5e33 * FP16.largest
    assert decode(encode(70_000, FP16), FP16) == math.inf
    assert decode(encode(70_000, BF16), BF16) == 70_144
    assert decode(encode(1e-8, FP16), FP16) == 0
    assert decode(encode(1e-8, BF16), BF16) == pytest.approx(1e-8, rel=BF16.eps / 2)


# Da bit a numero


@EVERY_SMALL
def test_decode_of_every_pattern_equals_ml_dtypes(fmt):
    patterns = np.arange(2 * fmt.magnitudes)
    expected = numpy_decode(patterns, fmt).tolist()
    assert all(map(same, decoded(fmt), expected))
    assert len(expected) == 2**fmt.bits


@pytest.mark.parametrize("fmt", [BF16, FP16, E5M2, E4M3], ids=lambda fmt: fmt.name)
def test_decode_of_every_pattern_equals_torch(fmt):
    kind, word = TORCH[fmt.name]
    expected = torch.arange(2 * fmt.magnitudes).to(word).view(kind).double().tolist()
    assert all(map(same, decoded(fmt), expected))


def test_decode_of_fp32_equals_numpy():
    for number in some_float32():
        assert same(decode(float32_bits(number), FP32), number)
    assert math.isnan(decode(0x7FC00000, FP32))
    assert math.isnan(decode(0x7F800001, FP32))


def test_tf32_is_the_upper_19_bits_of_fp32():
    """Lo stesso numero, con 13 zeri in fondo, letto come FP32."""
    generator = random.Random(3)
    for pattern in [generator.getrandbits(19) for _ in range(3000)]:
        assert same(decode(pattern, TF32), decode(pattern << 13, FP32))


def test_bf16_is_the_upper_half_of_fp32():
    """A16: è vero che sono i 16 bit alti; per tutte le configurazioni, NaN e infiniti compresi."""
    assert all(same(value, decode(p << 16, FP32)) for p, value in enumerate(decoded(BF16)))


def test_e5m2_is_the_upper_byte_of_fp16():
    assert all(same(decode(p, E5M2), decode(p << 8, FP16)) for p in range(1 << 8))


def test_a_bf16_word_read_as_fp16_is_another_number():
    """A16: stesso contenitore, altro numero: 1 in BF16 letto come FP16 fa 1,875."""
    assert encode(1, BF16) == 0x3F80
    assert decode(0x3F80, FP16) == 1.875


@EVERY_SMALL
def test_patterns_read_as_integers_are_in_order_of_value(fmt):
    values = decoded(fmt)[: fmt.last_finite + 1]
    assert all(low < high for low, high in itertools.pairwise(values))
    assert values[0] == 0
    assert values[1] == fmt.smallest_subnormal
    assert values[1 << fmt.mantissa_bits] == fmt.smallest_normal


def test_e2m1_has_fifteen_values():
    positive = [0, 0.5, 1, 1.5, 2, 3, 4, 6]
    assert [decode(pattern, E2M1) for pattern in range(8)] == positive
    assert len({decode(pattern, E2M1) for pattern in range(16)}) == 15


def test_fields_separate_sign_exponent_and_mantissa():
    assert fields(0x3DCD, BF16) == "0 01111011 1001101"
    assert fields(0x2E66, FP16) == "0 01011 1001100110"
    assert fields(0x9D, E4M3) == "1 0011 101"
    assert fields(0, FP32) == f"0 {'0' * 8} {'0' * 23}"
    assert fields(0b1011, E2M1) == "1 01 1"


@EVERY_FORMAT
@pytest.mark.parametrize("excess", [0, -1])
def test_wrong_patterns_are_refused(fmt, excess):
    pattern = 2 * fmt.magnitudes if excess == 0 else excess
    most = 2 * fmt.magnitudes - 1
    message = f"^pattern: dato: {pattern}; atteso: fra 0 e {most}, per {fmt.name}$"
    with pytest.raises(ValueError, match=message):
        decode(pattern, fmt)


# Da numero a bit


@EVERY_SMALL
def test_encode_gives_back_every_pattern(fmt):
    """Anche −0, i subnormali e gli infiniti; i NaN diventano quello di soli uno."""
    for pattern, value in enumerate(decoded(fmt)):
        expected = fmt.magnitudes - 1 if math.isnan(value) else pattern
        assert encode(value, fmt) == expected


@pytest.mark.parametrize("fmt", [BF16, FP16, E5M2, E4M3], ids=lambda fmt: fmt.name)
def test_ties_and_their_neighbours_round_as_in_torch(fmt):
    """Tutte le mezzerie, un REAL*4 prima e uno dopo; anche quella oltre il massimo."""
    values = halfway(fmt)
    if fmt is E4M3:  # oltre il massimo le versioni di PyTorch differiscono: NaN, o il massimo
        values = values[values <= 464]
    mine = [encode(value, fmt) for value in values.tolist()]
    assert_same_patterns(mine, torch_encode(values, fmt), fmt)


def test_beyond_448_whoever_converts_decides():
    """NaN per ml_dtypes; per PyTorch, secondo la versione, NaN o il massimo: le nostre due vie."""
    values = np.array([465.0, -500.0, 1e9, math.inf])
    assert_same_patterns([encode(v, E4M3) for v in values], numpy_encode(values, E4M3), E4M3)
    for value, theirs in zip(values.tolist(), torch_encode(values, E4M3).tolist(), strict=True):
        ours = [decode(encode(value, E4M3, saturate=way), E4M3) for way in (False, True)]
        assert any(same(decode(theirs, E4M3), mine) for mine in ours)


@EVERY_SMALL
def test_ties_and_their_neighbours_round_as_in_ml_dtypes(fmt):
    positive = halfway(fmt)
    values = np.concatenate([positive, -positive]) if fmt.bits <= 8 else -positive
    mine = [encode(value, fmt) for value in values.tolist()]
    assert_same_patterns(mine, numpy_encode(values, fmt), fmt)


def assert_same_patterns(mine: list[int], theirs: np.ndarray, fmt: Format) -> None:
    """Stessi bit; dove il risultato è un NaN, basta che lo sia."""
    for ours, other in zip(mine, theirs.tolist(), strict=True):
        assert ours == other or same(decode(ours, fmt), decode(other, fmt))


@EVERY_SMALL
def test_any_real_4_rounds_as_in_ml_dtypes(fmt):
    values = np.array(some_float32())
    if fmt is E2M1:
        values = np.clip(values, -100, 100)
    mine = [encode(value, fmt) for value in values.tolist()]
    assert_same_patterns(mine, numpy_encode(values, fmt), fmt)


def test_doubles_round_to_fp32_as_in_numpy():
    """Con le mezzerie, i subnormali e ciò che trabocca."""
    generator = random.Random(5)
    values = [
        math.ldexp(generator.uniform(-2, 2), generator.randint(-155, 129)) for _ in range(4000)
    ]
    values += [math.ldexp(2 * generator.getrandbits(23) + 2**24 + 1, k) for k in range(-150, 104)]
    values += [1.5 * 2.0**-149, 0.5 * 2.0**-149, 2.0**-150 * 1.01, FP32.largest * (1 + 2.0**-25)]
    with np.errstate(over="ignore"):
        for value in values:
            assert encode(value, FP32) == float32_bits(value)


def test_cvt_rna_adds_half_and_masks():
    """A17: `cvt.rna.tf32.f32`, cioè sommare 0x1000 e azzerare 13 bit."""
    for number in some_float32():
        if math.isfinite(number):
            word = (float32_bits(number) + 0x1000) & 0xFFFFE000
            assert encode(number, TF32, away) << 13 == word


def test_truncation_masks_thirteen_bits():
    for number in some_float32():
        word = float32_bits(number) & 0xFFFFE000
        assert encode(number, TF32, truncate) << 13 == word


def test_nearest_even_adds_half_less_one_and_the_last_bit():
    for number in some_float32():
        if math.isfinite(number):
            bits = float32_bits(number)
            assert encode(number, TF32) == (bits + 0xFFF + (bits >> 13 & 1)) >> 13
            assert encode(number, BF16) == (bits + 0x7FFF + (bits >> 16 & 1)) >> 16


def test_a_tie_in_tf32_has_three_answers():
    """A17: 1 + 2⁻¹¹ sta a metà fra 1 e 1 + 2⁻¹⁰; 1 + 3·2⁻¹¹ fra due valori, il pari è sopra."""
    low, high = 1 + 2.0**-11, 1 + 3 * 2.0**-11
    assert decode(encode(low, TF32, away), TF32) == 1 + 2.0**-10
    assert decode(encode(low, TF32, truncate), TF32) == 1.0
    assert decode(encode(low, TF32), TF32) == 1.0
    assert decode(encode(high, TF32), TF32) == 1 + 2.0**-9


def test_the_three_roundings():
    cases = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 3.25, 3.5)
    assert [to_even(case) for case in cases] == [0, 0, 0, 1, 1, 2, 2, 3, 4]
    assert [away(case) for case in cases] == [0, 0, 1, 1, 1, 2, 3, 3, 4]
    assert [truncate(case) for case in cases] == [0, 0, 0, 0, 1, 1, 2, 3, 3]


OVERFLOWS = [
    (70_000, FP16, math.inf, 65_504),
    (65_519.996, FP16, 65_504, 65_504),
    (65_520, FP16, math.inf, 65_504),
    (-math.inf, FP16, -math.inf, -65_504),
    (1e6, E5M2, math.inf, 57_344),
    (464, E4M3, 448, 448),
    (465, E4M3, math.nan, 448),
    (-465, E4M3, math.nan, -448),
    (math.inf, E4M3, math.nan, 448),
    (100, E2M1, 6, 6),
    (-math.inf, E2M1, -6, -6),
    (3.4e38, BF16, math.inf, BF16.largest),
    (1e39, FP32, math.inf, FP32.largest),
]


@pytest.mark.parametrize(("x", "fmt", "plain", "saturated"), OVERFLOWS)
def test_beyond_the_largest(x, fmt, plain, saturated):
    """Infinito per chi ce l'ha, NaN per E4M3, il massimo per E2M1; con `saturate`, il massimo."""
    assert same(decode(encode(x, fmt), fmt), plain)
    assert same(decode(encode(x, fmt, saturate=True), fmt), saturated)


def test_truncation_never_reaches_infinity_from_a_finite_number():
    """Come vuole IEEE 754 quando si arrotonda verso zero; l'infinito resta infinito."""
    assert decode(encode(70_000, FP16, rounding=truncate), FP16) == 65_504
    assert decode(encode(math.inf, FP16, truncate), FP16) == math.inf
    assert decode(encode(-1e39, TF32, truncate), TF32) == -TF32.largest
    assert decode(encode(70_000, FP16, away), FP16) == math.inf


def test_nan_has_a_place_in_all_formats_but_e2m1():
    canonical = {f.name: encode(math.nan, f) for f in FORMATS if f is not E2M1}
    assert canonical == {
        "FP32": 0x7FFFFFFF,
        "TF32": 0x3FFFF,
        "BF16": 0x7FFF,
        "FP16": 0x7FFF,
        "E5M2": 0x7F,
        "E4M3": 0x7F,
    }
    with pytest.raises(ValueError, match=r"^x: dato: nan; atteso: un numero: E2M1 non ha NaN$"):
        encode(math.nan, E2M1)


def test_one_tenth_by_hand():
    """A matita: 0,1 = 1,6 · 2⁻⁴, in BF16, FP16, E4M3, E2M1."""
    assert encode(0.1, BF16) == 0x3DCD
    assert decode(0x3DCD, BF16) == 205 / 2048
    assert encode(0.1, FP16) == 0x2E66
    assert encode(0.1, E4M3) == 0b0_0011_101
    assert decode(0b0_0011_101, E4M3) == 13 / 128
    assert encode(0.1, E2M1) == 0


def test_ties_by_hand_in_e4m3():
    """A matita: fra 16 e 18 il pari è 16, fra 18 e 20 è 20."""
    assert [decode(encode(x, E4M3), E4M3) for x in (17, 19, 17.001)] == [16, 20, 18]


def test_three_bf16_hold_one_fp32():
    """8 + 8 + 8 bit di precisione: la testa, il resto, il resto del resto."""
    for number in some_float32(500):
        if 2.0**-100 < abs(number) < BF16.largest:
            parts, rest = [], number
            for _ in range(3):
                parts.append(decode(encode(rest, BF16), BF16))
                rest -= parts[-1]
            assert math.fsum(parts) == number


# Somme


def test_the_sum_depends_on_the_order():
    """A18: gli stessi tre numeri, in FP32, danno due somme."""
    numbers = [2.0**24, 1.0, 1.0]
    assert add_up(numbers, FP32) == 2.0**24
    assert add_up(reversed(numbers), FP32) == 2.0**24 + 2


def test_add_up_rounds_after_every_addition_as_float32_does():
    generator = random.Random(11)
    numbers = [decode(encode(generator.gauss(0, 1), FP32), FP32) for _ in range(1000)]
    total = np.float32(0)
    for number in numbers:
        total += np.float32(number)
    assert add_up(numbers, FP32) == float(total)
    assert add_up(numbers, FP32) != add_up(sorted(numbers), FP32)


def test_ones_stop_adding_up_at_two_to_the_precision():
    """Sommare 3072 volte 1: il totale si ferma quando 1 vale metà dell'ultimo bit."""
    totals = {fmt.name: add_up([1.0] * 3072, fmt) for fmt in FORMATS}
    stops = {
        "FP32": 3072,
        "TF32": 2048,
        "BF16": 256,
        "FP16": 2048,
        "E5M2": 8,
        "E4M3": 16,
        "E2M1": 4,
    }
    assert totals == stops


@pytest.mark.parametrize("fmt", [f for f in FORMATS if f is not FP32], ids=lambda fmt: fmt.name)
def test_a_product_of_two_narrow_numbers_is_exact_in_fp32(fmt):
    """Due mantisse da 11 bit al più, con l'1 implicito: 22 bit, e FP32 ne ha 24."""
    generator = random.Random(13)
    for _ in range(300):
        a, b = (quantized(generator.uniform(1, 6), fmt) for _ in range(2))
        assert float(np.float32(a) * np.float32(b)) == a * b
    wide = 1 + FP32.eps
    assert float(np.float32(wide) * np.float32(wide)) != wide * wide


def quantized(number: float, fmt: Format) -> float:
    return decode(encode(number, fmt, saturate=True), fmt)


# Tensori


def test_exponents_and_powers_read_and_write_the_bits():
    x = torch.tensor([1.0, -1.5, 2.0, 0.75, -1e300, 2.0**-1000], dtype=torch.float64)
    expected = [math.frexp(value)[1] - 1 for value in x.tolist()]
    assert exponents(x).tolist() == expected
    assert powers(torch.tensor([0, 1, -1, 100, -149])).tolist() == [1, 2, 0.5, 2.0**100, 2.0**-149]
    assert exponents(torch.zeros(1, dtype=torch.float64)).item() == -1023


@EVERY_FORMAT
def test_quantize_equals_encode_then_decode(fmt):
    """Sugli stessi numeri, subnormali, mezzerie e traboccamenti compresi."""
    generator = random.Random(17)
    low, high = math.frexp(fmt.smallest_subnormal)[1], math.frexp(fmt.largest)[1]
    numbers = [
        math.ldexp(generator.uniform(-2, 2), generator.randint(low - 3, high + 1))
        for _ in range(2000)
    ]
    numbers += [k * fmt.smallest_subnormal / 2 for k in range(-40, 40)]
    numbers += [fmt.largest, -2 * fmt.largest, 0.0, -0.0]
    actual = quantize(torch.tensor(numbers, dtype=torch.float64), fmt).tolist()
    assert all(same(a, quantized(x, fmt)) for a, x in zip(actual, numbers, strict=True))


def test_quantize_wants_double_precision():
    message = r"^x: dato: torch.float32; atteso: torch.float64$"
    with pytest.raises(TypeError, match=message):
        quantize(torch.ones(2), BF16)


def test_blocks_share_a_scale_by_hand():
    """E2M1 a blocchi di 4: il più grande decide; il secondo blocco non risente del primo."""
    row = torch.tensor([[48.0, 20, 1, -7, 0.03, 0.01, 0, -0.02]], dtype=torch.float64)
    # primo blocco: 48 = 1,5 · 2⁵, scala 2³: 6; 2,5 → 2; 0,125 → 0; −0,875 → −1
    # secondo: 0,03 = 1,92 · 2⁻⁶, scala 2⁻⁸: 7,68 → 6; 2,56 → 3; 0; −5,12 → −6
    expected = [48, 16, 0, -8, 6 / 256, 3 / 256, 0, -6 / 256]
    assert quantize_blocks(row, E2M1, 4).tolist() == [expected]


@pytest.mark.parametrize("fmt", [E5M2, E4M3, E2M1], ids=lambda fmt: fmt.name)
def test_a_shared_scale_follows_the_size_of_the_numbers(fmt):
    """Moltiplicare tutto per 2³⁰ moltiplica il risultato per 2³⁰; senza scala no."""
    x = torch.randn(2, 3, 14, dtype=torch.float64)
    scaled = quantize_blocks(x * 2.0**30, fmt, 7)
    assert scaled.equal(quantize_blocks(x, fmt, 7) * 2.0**30)
    assert not quantize(x * 2.0**30, fmt).equal(quantize(x, fmt) * 2.0**30)


def test_blocks_of_zeros_and_the_smallest_scale():
    assert quantize_blocks(torch.zeros(2, 4, dtype=torch.float64), E2M1, 2).count_nonzero() == 0
    # sotto la scala minima 2⁻¹²⁷ restano i subnormali di E2M1: 0,5 · 2⁻¹²⁷
    tiny = torch.tensor([[2.0**-128, 2.0**-129]], dtype=torch.float64)
    assert quantize_blocks(tiny, E2M1, 2).tolist() == [[2.0**-128, 0.0]]


@pytest.mark.parametrize("block", [0, -2, 4])
def test_wrong_blocks_are_refused(block):
    message = rf"^block: dato: {block}; atteso: un divisore delle 6 colonne$"
    with pytest.raises(ValueError, match=message):
        quantize_blocks(torch.ones(2, 6, dtype=torch.float64), E2M1, block)


def test_product_rounds_the_operands_and_not_the_result():
    """Contro i cicli: operandi quantizzati, prodotti esatti, una riga di B per colonna."""
    a, b = (torch.randn(rows, 5, dtype=torch.float64) for rows in (2, 3))
    for fmt in (BF16, E4M3):
        for i, j in itertools.product(range(2), range(3)):
            pairs = zip(a[i].tolist(), b[j].tolist(), strict=True)
            exact = math.fsum(quantized(x, fmt) * quantized(y, fmt) for x, y in pairs)
            assert product(a, b, fmt)[i, j].item() == pytest.approx(exact, abs=1e-5)
    blocked = quantize_blocks(a, E2M1, 5) @ quantize_blocks(b, E2M1, 5).mT
    torch.testing.assert_close(product(a, b, E2M1, block=5), blocked, rtol=0, atol=1e-5)


def test_product_accumulates_in_fp32():
    """2²⁴ + 1 non esiste in FP32: l'uno in più si perde, in qualunque ordine."""
    a = torch.tensor([[4096.0, 1.0]], dtype=torch.float64)
    result = product(a, a, FP16)
    assert result.dtype == torch.float64
    assert result.item() == 2.0**24


def reader_network() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """I numeri del lettore: 10 token, 768 → 3072 → 768, matrici di Glorot."""
    limit = math.sqrt(6 / (768 + 3072))
    x = torch.randn(10, 768, dtype=torch.float64)
    w_1 = torch.empty(3072, 768, dtype=torch.float64).uniform_(-limit, limit)
    w_2 = torch.empty(768, 3072, dtype=torch.float64).uniform_(-limit, limit)
    return x, w_1, w_2


def test_error_of_the_feed_forward_in_every_format():
    """A15: l'errore segue eps, non il numero di bit del contenitore."""
    x, w_1, w_2 = reader_network()
    exact = (x @ w_1.mT).relu() @ w_2.mT
    error = {fmt.name: relative_error(feed_forward_in(fmt, x, w_1, w_2), exact) for fmt in FORMATS}
    assert 1e-8 < error["FP32"] < 1e-6
    for fmt in (TF32, FP16, BF16, E5M2, E4M3):
        assert 0.3 * fmt.eps < error[fmt.name] < 0.6 * fmt.eps
    assert error["TF32"] == pytest.approx(error["FP16"], rel=0.01)
    assert error["BF16"] == pytest.approx(8 * error["FP16"], rel=0.1)
    assert error["E2M1"] == 1  # tutti i pesi stanno sotto un quarto: diventano zero
    blocked = relative_error(feed_forward_in(E2M1, x, w_1, w_2, block=32), exact)
    assert 0.1 < blocked < 0.4


def test_relative_error_by_hand():
    exact = torch.tensor([3.0, 4.0])
    assert relative_error(torch.tensor([3.0, 4.5]), exact) == pytest.approx(0.1)


def test_loss_scaling_saves_the_gradients_of_fp16():
    """Un gradiente di 10⁻⁸ diventa zero in FP16; moltiplicato per 1024 no. In BF16 c'è già."""
    gradient, scale = 1e-8, 1024
    assert quantized(gradient, FP16) == 0
    assert quantized(gradient * scale, FP16) / scale == pytest.approx(gradient, rel=0.01)
    assert quantized(gradient, BF16) == pytest.approx(gradient, rel=BF16.eps / 2)


# La pagina


@pytest.fixture
def on_the_page(compile_fortran):
    """I riquadri Fortran della pagina, compilati insieme."""
    found = [b.content for b in blocks(PAGE.read_text(encoding="utf-8")) if b.language == "fortran"]
    assert found
    return compile_fortran("\n".join(found))


def test_fortran_rounds_to_bf16_and_tf32_with_integers(on_the_page):
    """Su bit qualunque e sui casi limite, gli stessi bit del modulo; i NaN restano NaN."""
    for routine in (on_the_page.bf16_bits, on_the_page.tf32_bits):
        routine.argtypes, routine.restype = [ctypes.c_float], ctypes.c_int32
    for number in some_float32():
        assert on_the_page.bf16_bits(number) == encode(number, BF16)
        assert on_the_page.tf32_bits(number) & 0xFFFFFFFF == encode(number, TF32, away) << 13
    for word in (0x7F800001, 0x7FFFFFFF, 0xFFC00000, 0xFFFFFFFF):
        nan = float(np.uint32(word).view(np.float32))
        assert math.isnan(decode(on_the_page.bf16_bits(nan), BF16))
        assert math.isnan(decode((on_the_page.tf32_bits(nan) & 0xFFFFFFFF) >> 13, TF32))


def test_fortran_sums_in_three_orders(on_the_page):
    """A18: REAL*4, tre ordini, tre somme; le stesse di `add_up`, bit per bit."""
    numbers = [decode(encode(1 / k, FP32), FP32) for k in range(1, 4097)]
    given = (ctypes.c_float * len(numbers))(*numbers)
    results = [ctypes.c_float() for _ in range(3)]
    on_the_page.three_sums(len(numbers), given, *map(ctypes.byref, results))
    lanes = [add_up(numbers[lane::32], FP32) for lane in range(32)]
    orders = [add_up(numbers, FP32), add_up(reversed(numbers), FP32), add_up(lanes, FP32)]
    assert [result.value for result in results] == orders
    assert len(set(orders)) == 3


def test_the_figure_draws_the_descriptions():
    """Nel disegno ogni bit è largo 10: le larghezze sono quelle delle descrizioni."""
    root = ElementTree.parse(FIGURE).getroot()
    rows = {group.get("data-format"): group for group in root.iter(f"{SVG}g")}
    for fmt in FORMATS:
        widths = {r.get("class"): float(r.get("width")) for r in rows[fmt.name].iter(f"{SVG}rect")}
        padding = fmt.container - fmt.bits
        expected = {"segno": 10, "esponente": 10 * fmt.exponent_bits}
        expected["mantissa"] = 10 * fmt.mantissa_bits
        assert widths == expected | ({"vuoto": 10 * padding} if padding else {})
        label = " ".join(rows[fmt.name].itertext())
        assert re.search(rf"{fmt.name}\s+1 \+ {fmt.exponent_bits} \+ {fmt.mantissa_bits}\b", label)
