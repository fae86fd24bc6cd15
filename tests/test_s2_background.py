"""§2: gli strati fra due posizioni, contati a mano, con la visita e su strati veri."""

import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attention import attention_weights, scaled_dot_product_attention
from attention.s1_introduction import depth
from attention.s2_background import (
    Pattern,
    attention_hops,
    contiguous,
    contiguous_hops,
    dilated,
    dilated_hops,
    everywhere,
    hops,
    restricted,
    restricted_hops,
)
from attention.s4_why_self_attention import convolutional

STEM = "s2_background"

lengths = st.integers(1, 60)
kernels = st.integers(2, 11)


# I valori di riferimento, e la visita contro la formula chiusa


@pytest.mark.parametrize(
    ("n", "kernel", "layers"), [(64, 3, 32), (243, 3, 121), (1000, 3, 500), (1000, 7, 167)]
)
def test_contiguous_convolutions_need_a_number_of_layers_linear_in_the_distance(n, kernel, layers):
    """§2 ¶1 (T04): ⌈(n−1)/(k−1)⌉ strati: è la crescita lineare di ConvS2S."""
    assert contiguous_hops(n, kernel) == hops(n, contiguous(kernel)) == layers


@pytest.mark.parametrize(
    ("n", "kernel", "layers"), [(64, 3, 4), (243, 3, 5), (244, 3, 6), (256, 2, 8), (1000, 3, 7)]
)
def test_dilated_convolutions_need_a_logarithmic_number(n, kernel, layers):
    """§2 ¶1 (T04): ⌈log_k n⌉ strati, senza passare per i logaritmi: è il caso di ByteNet."""
    assert dilated_hops(n, kernel) == hops(n, dilated(kernel)) == layers


@pytest.mark.parametrize(
    ("n", "neighbourhood", "layers"), [(64, 8, 16), (128, 8, 32), (256, 8, 64), (256, 16, 32)]
)
def test_restricted_attention_is_linear_again(n, neighbourhood, layers):
    """§2 ¶1 (T04): ⌈(n−1)/(r/2)⌉ strati: chi guarda solo i vicini torna a camminare."""
    assert restricted_hops(n, neighbourhood) == hops(n, restricted(neighbourhood)) == layers


@pytest.mark.parametrize("n", [2, 3, 64, 1000])
def test_attention_needs_one_layer_at_any_distance(n):
    """§2 ¶1 (T04): un'operazione, a qualunque distanza."""
    assert attention_hops(n) == hops(n, everywhere(n)) == 1


@given(lengths, kernels)
def test_closed_forms_equal_the_search(n, width):
    """§2 ¶1: per ogni lunghezza e larghezza la formula dà quanto la visita."""
    assert contiguous_hops(n, width) == hops(n, contiguous(width))
    assert dilated_hops(n, width) == hops(n, dilated(width))
    assert restricted_hops(n, width) == hops(n, restricted(width))
    assert attention_hops(n) == hops(n, everywhere(n))


@given(lengths, kernels)
def test_closed_forms_are_ceilings(n, width):
    """§2 ¶1: le formule come le scrive la pagina, con la divisione e il logaritmo veri."""
    assert contiguous_hops(n, width) == math.ceil((n - 1) / (width - 1))
    assert restricted_hops(n, width) == math.ceil((n - 1) / (width // 2))
    layers = dilated_hops(n, width)
    assert width**layers >= n
    assert layers == 0 or width ** (layers - 1) < n


def test_single_position_is_already_there():
    """§2 ¶1: con una posizione sola non c'è distanza, e servono zero strati."""
    assert hops(1, contiguous(2)) == contiguous_hops(1, 2) == dilated_hops(1, 2) == 0
    assert restricted_hops(1, 2) == attention_hops(1) == 0


def test_growth_when_the_distance_doubles():
    """§2 ¶1: raddoppiando la distanza: il doppio, uno in più, il doppio, uguale."""
    assert contiguous_hops(2 * 512 + 1, 3) == 2 * contiguous_hops(512 + 1, 3)
    assert dilated_hops(2 * 512, 2) == dilated_hops(512, 2) + 1
    assert restricted_hops(2 * 512 + 1, 8) == 2 * restricted_hops(512 + 1, 8)
    assert attention_hops(2 * 512) == attention_hops(512)


def test_ten_positions_by_hand():
    """§2 ¶1: 10 posizioni, k = 3 e r = 4: gli insiemi della pagina, strato per strato."""
    assert [list(contiguous(3)(layer, 7)) for layer in (0, 4)] == [[5, 6, 7], [5, 6, 7]]
    assert [list(dilated(3)(layer, 20)) for layer in (0, 1, 2)] == [
        [18, 19, 20],
        [14, 17, 20],
        [2, 11, 20],
    ]
    assert list(restricted(4)(3, 7)) == [5, 6, 7, 8, 9]
    assert list(restricted(5)(0, 7)) == [5, 6, 7, 8, 9]
    assert list(everywhere(3)(5, 1)) == [0, 1, 2]
    reached = [{0}]
    for layer in range(5):
        reached.append(
            {i for i in range(10) if any(j in reached[-1] for j in contiguous(3)(layer, i))}
        )
    assert [max(informed) for informed in reached] == [0, 2, 4, 6, 8, 9]
    assert hops(10, contiguous(3)) == 5
    assert hops(10, dilated(3)) == 3
    assert hops(10, restricted(4)) == 5
    assert hops(10, everywhere(10)) == 1


# Le stesse cose, su strati veri


def layers_until_the_last_position_hears(n: int, layer) -> int:
    """Un impulso in posizione 0 attraversa strati veri, a pesi positivi, fino all'ultima."""
    signal = torch.zeros(n, dtype=torch.float64)
    signal[0] = 1
    count = 0
    while signal[-1] == 0:
        signal = layer(count, signal)
        count += 1
    return count


def causal_convolution(signal: Tensor, kernel: int, dilation: int) -> Tensor:
    weights = torch.full((1, 1, kernel), 1 / kernel, dtype=torch.float64)
    padded = F.pad(signal[None, None], ((kernel - 1) * dilation, 0))
    return F.conv1d(padded, weights, dilation=dilation)[0, 0]


def band_attention(signal: Tensor, reach: int) -> Tensor:
    """L'eq. (1) con una maschera a banda; query e key sono zero, perciò i pesi sono uguali."""
    n = len(signal)
    distance = (torch.arange(n)[:, None] - torch.arange(n)).abs()
    zeros = torch.zeros(n, 3, dtype=torch.float64)
    return scaled_dot_product_attention(zeros, zeros, signal[:, None], distance <= reach)[:, 0]


@pytest.mark.parametrize("n", [2, 7, 13, 29])
@pytest.mark.parametrize("width", [2, 3, 5])
def test_hops_are_those_of_real_layers(n, width):
    """§2 ¶1: `conv1d` di PyTorch e l'eq. (1) portano l'impulso in tanti strati quanti contati."""
    real = layers_until_the_last_position_hears
    assert real(n, lambda _, x: causal_convolution(x, width, 1)) == contiguous_hops(n, width)
    dilations = real(n, lambda layer, x: causal_convolution(x, width, width**layer))
    assert dilations == dilated_hops(n, width)
    assert real(n, lambda _, x: band_attention(x, width)) == restricted_hops(n, 2 * width)
    assert real(n, lambda _, x: band_attention(x, n)) == attention_hops(n)


def test_centred_convolution_reads_like_restricted_attention():
    """§2 ¶1: centrata, una finestra di 2s+1 avanza di s per strato, come r = 2s."""
    n, side = 29, 2

    def centred(_: int, signal: Tensor) -> Tensor:
        weights = torch.ones(1, 1, 2 * side + 1, dtype=torch.float64)
        return F.conv1d(signal[None, None], weights, padding=side)[0, 0]

    assert layers_until_the_last_position_hears(n, centred) == restricted_hops(n, 2 * side) == 14
    assert contiguous_hops(n, 2 * side + 1) == 7


def test_capped_dilations_grow_linearly():
    """§2 ¶1: con dilatazioni 1, 2, 4, 8, 16 ripetute, la crescita torna lineare."""

    def repeated(layer: int, i: int) -> range:
        dilation = 2 ** (layer % 5)
        return range(i - 2 * dilation, i + 1, dilation)

    cycle = 2 * (1 + 2 + 4 + 8 + 16)
    for cycles in (1, 2, 4, 8):
        assert hops(cycles * cycle + 1, repeated) == 5 * cycles
    assert dilated_hops(8 * cycle + 1, 3) == 6


def test_dilated_path_follows_the_digits_of_the_distance():
    """§2 ¶1: lo strato l avanza della cifra di peso k^l: 170 in base 2, 1000 in base 3."""
    for kernel, distance in ((2, 170), (3, 1000)):
        position, layer, pattern = 0, 0, dilated(kernel)
        while position < distance:
            digit = distance // kernel**layer % kernel
            before, position = position, position + digit * kernel**layer
            assert before in pattern(layer, position)
            layer += 1
        assert position == distance
        assert layer == dilated_hops(distance + 1, kernel)


def test_long_jumps_and_short_ones():
    """§2, esercizio: 999 = 31 · 32 + 7, cioè 31 salti lunghi e 7 corti."""
    assert hops(1000, lambda layer, i: (i, i - 1, i - 32)) == 31 + 7


@pytest.mark.parametrize(
    "pattern", [contiguous(3), dilated(3), restricted(4)], ids=["fila", "salti", "vicini"]
)
def test_layers_are_steps_of_the_dependency_graph(pattern):
    """§2 ¶1: nel grafo (§1) di tanti strati l'ultima legge la prima; con uno in meno, no."""
    n = 13
    layers = hops(n, pattern)
    for count, arrives in ((layers, True), (layers - 1, False)):
        graph = {
            (layer, i): [(layer - 1, j) for j in pattern(layer - 1, i) if 0 <= j < n]
            for layer in range(1, count + 1)
            for i in range(n)
        }
        assert depth(graph) == count
        reached = {(count, n - 1)}
        for _ in range(count):
            reached = {source for value in reached for source in graph[value]}
        assert ((0, 0) in reached) == arrives


# Il prezzo: la risoluzione effettiva


def test_equal_weights_cannot_tell_who_was_where():
    """§2 ¶1: con pesi uguali, scambiare due posizioni non cambia l'uscita di una testa."""
    query, equal = torch.randn(1, 3).double(), torch.randn(1, 3).double().expand(2, 3)
    values = torch.tensor([[4.0, 1], [8, 3]]).double()
    one, other = (scaled_dot_product_attention(query, equal, v) for v in (values, values.flip(0)))
    assert one.tolist() == other.tolist() == [[6, 2]]
    different = torch.randn(2, 3).double()
    one, other = (
        scaled_dot_product_attention(query, different, v) for v in (values, values.flip(0))
    )
    assert (one - other).abs().max() > 0.01


def test_a_convolution_keeps_apart_what_an_average_blends():
    """§2 ¶1: una matrice per scostamento mette i due valori in due componenti diverse."""
    values = torch.tensor([[4.0, 0], [8, 0]]).double()
    by_offset = torch.tensor([[[1.0, 0], [0, 0]], [[0, 1], [0, 0]]]).double()
    assert convolutional(values, by_offset)[-1].tolist() == [4, 8]
    for _ in range(11):
        query, keys = torch.randn(1, 3).double(), torch.randn(2, 3).double()
        (blended,) = scaled_dot_product_attention(query, keys, values)
        assert blended[1] == 0
        assert 4 <= blended[0] <= 8


def test_attention_weights_can_spread_over_many_positions():
    """§2 ¶1: con punteggi vicini i pesi si spargono; il numero efficace di posizioni è 1/Σp²."""
    scores = torch.tensor([[0.0], [0.1], [0.2], [0.1], [0.0]]).double()
    weights = attention_weights(torch.ones(1, 1).double(), scores)[0]
    assert 4.9 < 1 / weights.square().sum() < 5
    peaked = attention_weights(torch.full((1, 1), 100.0).double(), scores)[0]
    assert 1 < 1 / peaked.square().sum() < 1.1


def test_recurrent_attention_repeats_on_the_same_memory():
    """§2 ¶3: tre giri sulla stessa memoria: tanti passi quanti i giri, non le posizioni."""
    for n in (5, 13):
        memory = [("x", j) for j in range(n)]
        graph = {("u", turn): [("u", turn - 1), *memory] for turn in range(1, 4)}
        assert depth(graph) == 3


# Il Fortran della pagina


def test_fortran_on_the_page(fortran, call_fortran):
    """§2 ¶1: il ciclo della pagina è la `conv1d` causale, contigua e dilatata."""
    routine = fortran(STEM).convolve
    n, kernel = 13, 3
    x, w = torch.randn(n).double(), torch.randn(kernel).double()
    for gap in (1, 3, 7):
        z = torch.zeros(n).double()
        call_fortran(routine, n, kernel, gap, w, x, z)
        padded = F.pad(x[None, None], ((kernel - 1) * gap, 0))
        expected = F.conv1d(padded, w.flip(0)[None, None], dilation=gap)[0, 0]
        torch.testing.assert_close(z, expected, rtol=0, atol=1e-12)


def test_fortran_layers_carry_the_impulse_as_counted(fortran, call_fortran):
    """§2 ¶1: anche lì l'impulso arriva in ⌈(n−1)/(k−1)⌉ strati, o in ⌈log_k n⌉."""
    routine = fortran(STEM).convolve
    n, kernel = 29, 3
    w = torch.ones(kernel).double()

    def layer(gap: int, x: Tensor) -> Tensor:
        z = torch.zeros(n).double()
        call_fortran(routine, n, kernel, gap, w, x, z)
        return z

    real = layers_until_the_last_position_hears
    assert real(n, lambda _, x: layer(1, x)) == contiguous_hops(n, kernel)
    assert real(n, lambda count, x: layer(kernel**count, x)) == dilated_hops(n, kernel)


# Gli errori


def stuck(layer: int, i: int) -> range:
    return range(i, i + 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hops(0, everywhere(3)), "n: dato: 0; atteso: almeno 1"),
        (
            lambda: hops(5, stuck),
            "pattern: dato: dopo 5 strati non arriva; atteso: uno schema che si allarga",
        ),
        (lambda: contiguous(1), "kernel: dato: 1; atteso: almeno 2"),
        (lambda: dilated(1), "kernel: dato: 1; atteso: almeno 2"),
        (lambda: restricted(1), "neighbourhood: dato: 1; atteso: almeno 2"),
        (lambda: contiguous_hops(0, 3), "n: dato: 0; atteso: almeno 1"),
        (lambda: contiguous_hops(3, 1), "kernel: dato: 1; atteso: almeno 2"),
        (lambda: dilated_hops(0, 3), "n: dato: 0; atteso: almeno 1"),
        (lambda: dilated_hops(3, 1), "kernel: dato: 1; atteso: almeno 2"),
        (lambda: restricted_hops(0, 3), "n: dato: 0; atteso: almeno 1"),
        (lambda: restricted_hops(3, 1), "neighbourhood: dato: 1; atteso: almeno 2"),
        (lambda: attention_hops(0), "n: dato: 0; atteso: almeno 1"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    """Ogni errore nomina l'argomento, ciò che è stato dato e ciò che era atteso."""
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_last_allowed_layer_is_tried():
    """Gli strati concessi sono n: chi arriva proprio all'ultimo passa, chi arriva dopo no."""

    def only_at(late: int) -> Pattern:
        return lambda layer, i: range(0 if layer == late else i, i + 1)

    assert hops(5, only_at(4)) == 5
    with pytest.raises(ValueError, match="dopo 5 strati non arriva"):
        hops(5, only_at(5))
