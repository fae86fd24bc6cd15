"""§4: la tabella 1 contro l'esecuzione contata, contro `torch.nn`, contro il grafo di §1."""

import math
import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from attention import MultiHeadAttention
from attention.s1_introduction import (
    attention_graph,
    convolution_graph,
    depth,
    recurrence_graph,
)
from attention.s2_background import hops
from attention.s3_2_1_scaled_dot_product import scaled_dot_product_attention
from attention.s3_2_attention import attention_loops, dot_product
from attention.s4_why_self_attention import (
    CONTIGUOUS_PATH,
    SEPARABLE_COMPLEXITY,
    TABLE_1,
    Layer,
    Meter,
    Sizes,
    attention_multiply_adds,
    cheaper_below,
    convolutional,
    far_gradient,
    feed_forward_multiply_adds,
    neighbours,
    pairs_in_reach,
    reads,
    recurrent,
    recurrent_multiply_adds,
    restricted_self_attention,
    self_attention,
    separable_convolutional,
)
from weave.house import ROOT

ATTENTION = TABLE_1[0]
RECURRENT = TABLE_1[1]
CONVOLUTIONAL = TABLE_1[2]
RESTRICTED = TABLE_1[3]


def random(*shape: int, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, device=device)


def sequence(n: int, d: int, device: str = "cpu") -> Tensor:
    """Una sequenza con vettori piccoli: nessun peso di attenzione va in underflow."""
    return random(n, d, device=device) / math.sqrt(d)


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def layers(sizes: Sizes, device: str = "cpu"):
    """Gli strati della tabella 1, nel suo ordine, e quello separabile, con parametri a caso."""
    d, k, r = sizes.d, sizes.k, sizes.r
    w_x, w_h = random(2, d, d, device=device) / math.sqrt(d)
    kernel = random(k, d, d, device=device)
    depthwise, pointwise = random(k, d, device=device), random(d, d, device=device)
    return {
        "auto-attenzione": self_attention,
        "ricorrente": lambda x: recurrent(x, w_x, w_h),
        "convoluzionale": lambda x: convolutional(x, kernel),
        "auto-attenzione ristretta": lambda x: restricted_self_attention(x, r),
        "separabile": lambda x: separable_convolutional(x, depthwise, pointwise),
    }


def metered(layer, x: Tensor) -> Meter:
    with torch.no_grad(), Meter() as meter:
        layer(x)
    return meter


def counted(run) -> int:
    """Le moltiplicazioni che conta PyTorch, con il suo contatore."""
    with FlopCounterMode(display=False) as counter:
        run()
    flops = counter.get_total_flops()
    assert flops % 2 == 0
    return flops // 2


# ¶1: strati da [n, d] a [n, d]


@pytest.mark.parametrize("name", layers(Sizes(3, 2, 2, 3)))
def test_every_layer_maps_n_vectors_to_n_vectors_of_the_same_width(name, device):
    """§4 ¶1: x_1…x_n e z_1…z_n, tutti in R^d."""
    for n in (1, 2, 11):
        layer = layers(Sizes(n, 7, 3, 5), device)[name]
        assert layer(sequence(n, 7, device)).shape == (n, 7)


def test_self_attention_equals_the_loops_without_projections():
    """§4 ¶1: query, key e value sono le x, come le conta la tabella 1."""
    x = random(7, 5)
    rows = x.tolist()
    expected = attention_loops(rows, rows, rows, lambda a, b: dot_product(a, b) / math.sqrt(5))
    assert_equal(self_attention(x), torch.tensor(expected, dtype=torch.float64))


def test_recurrent_equals_torch(device):
    """§4 ¶1: gli stati di `torch.nn.RNN` con le stesse matrici, senza termini costanti."""
    x, w_x, w_h = (random(*shape, device=device) for shape in ((7, 5), (5, 5), (5, 5)))
    twin = nn.RNN(5, 5, bias=False).to(x)
    with torch.no_grad():
        twin.weight_ih_l0.copy_(w_x.T)
        twin.weight_hh_l0.copy_(w_h.T)
        assert_equal(recurrent(x, w_x, w_h), twin(x)[0])


@pytest.mark.parametrize("dilation", [1, 2, 5])
@pytest.mark.parametrize("k", [1, 2, 3, 13])
def test_convolutional_equals_torch(k, dilation, device):
    """§4 ¶1: `conv1d` con zeri prima dell'inizio, anche con il kernel più lungo di n."""
    x, kernel = random(11, 5, device=device), random(k, 5, 5, device=device)
    padded = F.pad(x.T, ((k - 1) * dilation, 0))
    expected = F.conv1d(padded, kernel.permute(2, 1, 0), dilation=dilation).T
    assert_equal(convolutional(x, kernel, dilation), expected)


def test_convolutional_is_contiguous_unless_asked():
    """§4 ¶1: senza dilatazione le k righe sono vicine."""
    x, kernel = random(11, 5), random(3, 5, 5)
    assert_equal(convolutional(x, kernel), convolutional(x, kernel, 1))


def test_neighbours_say_where_the_sequence_ends():
    """§4 ¶1: fuori dalla sequenza zeri e falso, dentro le righe di x."""
    x = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    rows, inside = neighbours(x, torch.tensor([-1, 0, 2]))
    assert rows.tolist() == [
        [[0, 0], [1, 2], [5, 6]],
        [[1, 2], [3, 4], [0, 0]],
        [[3, 4], [5, 6], [0, 0]],
    ]
    assert inside.tolist() == [
        [False, True, True],
        [True, True, False],
        [True, True, False],
    ]


# ¶2: il costo e le operazioni sequenziali


def test_table_1_is_the_one_of_the_paper():
    """Tabella 1: quattro righe, con ciò che vi è scritto."""
    assert [
        (row.layer, row.complexity.text, row.sequential.text, row.path.text) for row in TABLE_1
    ] == [
        ("auto-attenzione", "O(n²·d)", "O(1)", "O(1)"),
        ("ricorrente", "O(n·d²)", "O(n)", "O(n)"),
        ("convoluzionale", "O(k·n·d²)", "O(1)", "O(log_k n)"),
        ("auto-attenzione ristretta", "O(r·n·d)", "O(1)", "O(n/r)"),
    ]
    assert CONTIGUOUS_PATH.text == "O(n/k)"
    assert SEPARABLE_COMPLEXITY.text == "O(k·n·d + n·d²)"


def test_growth_is_what_stands_inside_the_o():
    """Tabella 1: con n = 49, d = 3, k = 7, r = 5 le funzioni dentro la O valgono questi numeri."""
    sizes = Sizes(n=49, d=3, k=7, r=5)
    assert [row.complexity.growth(sizes) for row in TABLE_1] == [7203, 441, 3087, 735]
    assert [row.sequential.growth(sizes) for row in TABLE_1] == [1, 49, 1, 1]
    assert [row.path.growth(sizes) for row in TABLE_1] == [1, 49, pytest.approx(2), 9.8]
    assert CONTIGUOUS_PATH.growth(sizes) == 7
    assert CONTIGUOUS_PATH.growth(Sizes(n=49, d=3, k=5, r=7)) == 9.8
    assert SEPARABLE_COMPLEXITY.growth(sizes) == 1029 + 441


@pytest.mark.parametrize("sizes", [Sizes(11, 7, 3, 5), Sizes(2, 13, 5, 3), Sizes(17, 2, 7, 1)])
def test_exact_costs_are_those_counted_while_running(sizes):
    """T01: le moltiplicazioni della tabella sono quelle eseguite, contate in due modi."""
    x = sequence(sizes.n, sizes.d)
    every = layers(sizes)
    for order, layer in zip(
        [*(row.complexity for row in TABLE_1), SEPARABLE_COMPLEXITY], every.values(), strict=True
    ):
        assert metered(layer, x).multiply_adds == order.exact(sizes)
        with torch.no_grad():
            assert counted(lambda layer=layer: layer(x)) == order.exact(sizes)


def test_exact_costs_by_hand():
    """Tabella 1: con n = 11, d = 7, k = 3, r = 5, a mano."""
    sizes = Sizes(n=11, d=7, k=3, r=5)
    assert [row.complexity.exact(sizes) for row in TABLE_1] == [1694, 1078, 1617, 770]
    assert SEPARABLE_COMPLEXITY.exact(sizes) == 231 + 539


def test_the_table_cannot_be_changed():
    """Tabella 1: è un dato, nessuno la riscrive per strada."""
    for record, field in ((Sizes(2, 3, 5, 7), "n"), (ATTENTION, "layer"), (ATTENTION.path, "text")):
        with pytest.raises(FrozenInstanceError):
            setattr(record, field, None)


EXPONENTS = {
    "auto-attenzione": {"n": 2, "d": 1, "k": 0, "r": 0},
    "ricorrente": {"n": 1, "d": 2, "k": 0, "r": 0},
    "convoluzionale": {"n": 1, "d": 2, "k": 1, "r": 0},
    "auto-attenzione ristretta": {"n": 1, "d": 1, "k": 0, "r": 1},
}


@pytest.mark.parametrize("letter", ["n", "d", "k", "r"])
@pytest.mark.parametrize("name", EXPONENTS)
def test_counted_cost_grows_with_the_exponents_of_table_1(name, letter):
    """T01: triplicare n, d, k o r moltiplica le operazioni eseguite per 3 alla potenza giusta."""
    small = {"n": 5, "d": 4, "k": 2, "r": 3}
    large = {**small, letter: 3 * small[letter]}
    before, after = (
        metered(layers(Sizes(**sizes))[name], sequence(sizes["n"], sizes["d"])).multiply_adds
        for sizes in (small, large)
    )
    assert after == before * 3 ** EXPONENTS[name][letter]


@given(n=st.integers(1, 1000), d=st.integers(1, 1000), k=st.integers(2, 30), r=st.integers(2, 30))
def test_exact_costs_are_the_growth_times_a_constant(n, d, k, r):
    """Tabella 1: la costante che la O nasconde è 2, e 1 per la convoluzione."""
    sizes = Sizes(n, d, k, r)
    for row, constant in zip(TABLE_1, (2, 2, 1, 2), strict=True):
        assert row.complexity.exact(sizes) == constant * row.complexity.growth(sizes)


def test_chain_of_products_does_not_grow_except_in_the_recurrence():
    """T03: i prodotti che si aspettano sono 2, n, 1, 2 e, nella separabile, 2."""
    for n in (2, 5, 13):
        sizes = Sizes(n, 3, 2, 3)
        chains = [metered(layer, sequence(n, 3)).chain for layer in layers(sizes).values()]
        assert chains == [2, n, 1, 2, 2]
        assert [row.sequential.exact(sizes) for row in TABLE_1] == chains[:4]


def test_depth_of_the_dependency_graph():
    """T03: nel grafo di §1 l'attenzione è profonda 1, la convoluzione 1, la ricorrenza n."""
    for n in (1, 7, 64):
        assert depth(attention_graph(n)) == depth(convolution_graph(n, 3)) == 1
        assert depth(recurrence_graph(n)) == n == RECURRENT.sequential.growth(Sizes(n, 2, 3, 5))


def test_meter_counts_batches_and_follows_the_chain_through_copies():
    """§4 ¶2: un prodotto a lotti conta per tutti; viste, somme e copie portano la catena."""
    a, b, c = random(2, 3, 5), random(2, 5, 7), random(7, 11)
    with Meter() as meter:
        first = (a @ b).transpose(0, 1).clone() + 1
        assert (meter.multiply_adds, meter.chain) == (2 * 3 * 5 * 7, 1)
        random(3, 5) @ random(5, 2)
        assert (meter.multiply_adds, meter.chain) == (210 + 30, 1)
        torch.stack([first[0], torch.zeros_like(first[0])]).flatten(0, 1) @ c
    assert (meter.multiply_adds, meter.chain) == (240 + 4 * 7 * 11, 2)


def test_meter_starts_from_zero_and_ignores_what_is_not_a_product():
    """§4 ¶2: somme, esponenziali e operazioni con più risultati non sono prodotti di matrici."""
    with Meter() as meter:
        random(3, 5).exp().add(1).max(dim=0)
        assert (meter.multiply_adds, meter.chain) == (0, 0)
        random(3, 5) @ random(5, 2)
    assert (meter.multiply_adds, meter.chain) == (30, 1)


# ¶3: il cammino


def reach(i: int, j: int, name: str, sizes: Sizes) -> bool:
    """Se z_i legge x_j, secondo la definizione dello strato."""
    return {
        "auto-attenzione": True,
        "ricorrente": j <= i,
        "convoluzionale": i - sizes.k < j <= i,
        "auto-attenzione ristretta": abs(i - j) <= sizes.r // 2,
        "separabile": i - sizes.k < j <= i,
    }[name]


@pytest.mark.parametrize("name", layers(Sizes(3, 2, 2, 3)))
def test_every_output_reads_what_it_should(name):
    """§4 ¶3: le derivate diverse da zero sono quelle fra posizioni che lo strato collega."""
    sizes = Sizes(n=7, d=2, k=3, r=5)
    expected = [[reach(i, j, name, sizes) for j in range(7)] for i in range(7)]
    assert reads(layers(sizes)[name], sequence(7, 2)).tolist() == expected


def test_one_derivative_is_enough_to_depend():
    """§4 ¶3: basta che un canale di x_j arrivi a un canale di z_i."""
    x = random(3, 2)
    swap = torch.tensor([[0.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    assert reads(lambda x: x.flip(0) @ swap, x).tolist() == torch.eye(3).flip(0).bool().tolist()


def measured_hops(n: int, layer_at) -> int:
    """Gli strati che servono, se ogni strato legge ciò che i suoi gradienti dicono."""
    x, found = sequence(n, 2), {}

    def pattern(depth: int, i: int) -> list[int]:
        if depth not in found:
            found[depth] = reads(layer_at(depth), x)
        return found[depth][i].nonzero().flatten().tolist()

    return hops(n, pattern)


@pytest.mark.parametrize("n", [2, 5, 9, 14])
def test_paths_of_table_1_are_those_measured_on_the_layers(n):
    """T04: gli strati veri, impilati, collegano le estremità nel numero di strati calcolato."""
    sizes = Sizes(n, 2, 3, 5)
    kernel = random(3, 2, 2)
    measured = [
        measured_hops(n, lambda _: self_attention),
        measured_hops(n, lambda depth: lambda x: convolutional(x, kernel, 3**depth)),
        measured_hops(n, lambda _: lambda x: restricted_self_attention(x, 5)),
        measured_hops(n, lambda _: lambda x: convolutional(x, kernel)),
    ]
    expected = [ATTENTION.path, CONVOLUTIONAL.path, RESTRICTED.path, CONTIGUOUS_PATH]
    assert measured == [order.exact(sizes) for order in expected]


def test_path_through_the_recurrence_is_n_minus_one_steps():
    """T04: da h_1 a h_n ci sono n − 1 passi, uno per ogni stato in mezzo più l'ultimo."""
    for n in (1, 2, 11):
        steps = hops(n, lambda _, i: range(max(0, i - 1), i + 1))
        assert RECURRENT.path.exact(Sizes(n, 2, 3, 5)) == steps == n - 1


@pytest.mark.parametrize(
    ("n", "k", "contiguous", "dilated"),
    [(64, 3, 32, 4), (243, 3, 121, 5), (1000, 3, 500, 7), (256, 2, 255, 8)],
)
def test_contiguous_and_dilated_paths_by_hand(n, k, contiguous, dilated):
    """T04: ⌈(n−1)/(k−1)⌉ strati contigui, ⌈log_k n⌉ dilatati."""
    sizes = Sizes(n, 2, k, 5)
    assert CONTIGUOUS_PATH.exact(sizes) == contiguous
    assert CONVOLUTIONAL.path.exact(sizes) == dilated


@pytest.mark.parametrize(
    ("n", "r", "layers"), [(64, 9, 16), (128, 9, 32), (256, 9, 64), (256, 17, 32)]
)
def test_restricted_paths_by_hand(n, r, layers):
    """T04: ⌈(n−1)/((r−1)/2)⌉ strati: r = 9 è quattro posizioni per lato."""
    assert RESTRICTED.path.exact(Sizes(n, 2, 3, r)) == layers
    assert ATTENTION.path.exact(Sizes(n, 2, 3, r)) == 1


def test_far_gradient_is_the_norm_of_the_corner_of_the_jacobian():
    """§4 ¶3: ∂z_n/∂x_1 e nient'altro; per la ricorrenza è un prodotto di n matrici."""
    x, w_x, w_h = sequence(5, 3), random(3, 3), random(3, 3) / 3
    h = recurrent(x, w_x, w_h)
    product = w_x @ torch.diag(1 - h[0] ** 2)
    for state in h[1:]:
        product = product @ w_h @ torch.diag(1 - state**2)
    expected = product.square().sum().sqrt().item()
    assert far_gradient(lambda x: recurrent(x, w_x, w_h), x) == pytest.approx(expected, rel=1e-12)


def mean_log_gradient(make_layer: Callable[[], Layer], distances: list[int], draws: int) -> Tensor:
    """Il logaritmo del gradiente lontano a ogni distanza, in media su più strati a caso."""
    found = []
    for _ in range(draws):
        layer, x = make_layer(), random(1 + max(distances), 16)
        found.append([far_gradient(layer, x[: 1 + distance]) for distance in distances])
    return torch.tensor(found).log().mean(dim=0)


def test_signal_dies_or_explodes_along_the_recurrence_and_thins_out_in_attention():
    """§4 ¶3: nella ricorrenza la stessa quota a ogni passo; nell'attenzione pendenza −1."""

    def attention():
        module = MultiHeadAttention(16, 4).double()
        return lambda x: module(x, x, x)

    distances = [1, 4, 16, 64]
    places = torch.tensor([1.0 + distance for distance in distances]).log()
    places -= places.mean()
    slope = places @ mean_log_gradient(attention, distances, 40) / places.square().sum()
    assert slope.item() == pytest.approx(-1, abs=0.2)

    def recurrence(scale):
        w_x, w_h = (nn.init.orthogonal_(torch.empty(16, 16).double()) for _ in range(2))
        return lambda x: recurrent(x, w_x / 2, scale * w_h)

    for scale, dies in ((1.0, True), (2.5, False)):
        near, middle, far = mean_log_gradient(lambda s=scale: recurrence(s), [32, 64, 128], 12)
        per_step = (middle - near).item() / 32
        assert (per_step < 0) == dies
        assert (far - middle).item() / 64 == pytest.approx(per_step, rel=0.35)


def test_a_recurrence_can_be_made_to_carry_the_signal():
    """§4 ¶3: con una matrice ortogonale e stati piccoli il gradiente resta: conta anche W_h."""
    d = 16
    w_h = nn.init.orthogonal_(torch.empty(d, d).double())
    w_x = 1e-4 * nn.init.orthogonal_(torch.empty(d, d).double())
    x = random(65, d)
    near, far = (far_gradient(lambda x: recurrent(x, w_x, w_h), x[:n]) for n in (2, 65))
    assert far == pytest.approx(near, rel=1e-3)


# ¶4: n < d, e l'auto-attenzione ristretta


@given(n=st.integers(1, 2000), d=st.integers(1, 2000))
def test_attention_costs_less_than_the_recurrence_iff_n_is_less_than_d(n, d):
    """T02: 2n²d < 2nd² se e solo se n < d; uguali per n = d."""
    attention, recurrence = attention_multiply_adds(n, d), recurrent_multiply_adds(n, d)
    assert (attention < recurrence) == (n < d)
    assert (attention == recurrence) == (n == d)
    assert cheaper_below(d) == d


def test_costs_of_paragraph_4_are_those_of_table_1():
    """T02: le formule di ¶4 sono i numeri esatti delle prime due righe."""
    sizes = Sizes(11, 7, 3, 5)
    assert attention_multiply_adds(11, 7) == ATTENTION.complexity.exact(sizes) == 1694
    assert recurrent_multiply_adds(11, 7) == RECURRENT.complexity.exact(sizes) == 1078


@given(
    d=st.integers(1, 40),
    pairs=st.sampled_from([1, 2, 3, 4]),
    projections=st.booleans(),
)
def test_crossover_is_where_the_costs_cross(d, pairs, projections):
    """T02: con le proiezioni n < (c − 2)d: mai, per la ricorrenza semplice; n < d con la GRU."""
    limit = cheaper_below(d, pairs, projections)
    assert limit == {
        (1, False): d, (2, False): 2 * d, (3, False): 3 * d, (4, False): 4 * d,
        (1, True): 0, (2, True): 0, (3, True): d, (4, True): 2 * d,
    }[pairs, projections]  # fmt: skip
    for n in range(1, 4 * d + 3):
        cheaper = attention_multiply_adds(n, d, projections) < recurrent_multiply_adds(n, d, pairs)
        assert cheaper == (n < limit)


@pytest.mark.parametrize("heads", [1, 5])
def test_projections_add_four_n_d_squared(heads):
    """T02: con le quattro proiezioni, 2n²d + 4nd², quante che siano le teste; la catena è 4."""
    module = MultiHeadAttention(35, heads)
    x = torch.randn(11, 35)
    meter = metered(lambda x: module.forward_by_head(x, x, x), x)
    assert meter.multiply_adds == attention_multiply_adds(11, 35, projections=True) == 62_370
    assert meter.chain == 4


@pytest.mark.parametrize(("cell", "pairs"), [(nn.RNNCell, 1), (nn.GRUCell, 3), (nn.LSTMCell, 4)])
def test_gated_recurrences_cost_as_many_pairs_of_matrices_as_they_have(cell, pairs):
    """T02: GRU e LSTM hanno 3 e 4 coppie di matrici: lo conta PyTorch sulle sue celle."""
    n, d = 5, 7
    layer, x = cell(d, d), torch.randn(n, 1, d)

    def run() -> None:
        state = None
        for row in x:
            state = layer(row, state)

    with torch.no_grad():
        assert counted(run) == recurrent_multiply_adds(n, d, pairs) == 2 * pairs * n * d * d


def test_mixing_of_positions_alone_crosses_at_half_of_d():
    """T02: tolto W_x, che è una proiezione, restano 2n²d contro nd²: uguali per n = d/2."""
    n, d = 7, 14
    x, w_x, w_h = sequence(n, d), random(d, d), random(d, d)
    whole = metered(lambda x: recurrent(x, w_x, w_h), x).multiply_adds
    inputs = metered(lambda x: x @ w_x, x).multiply_adds
    assert whole - inputs == n * d**2 == attention_multiply_adds(n, d)


def test_restricted_attention_is_attention_under_a_band_mask(device):
    """§4 ¶4: gli stessi numeri della matrice n × n con una banda permessa, senza costruirla."""
    x = random(11, 7, device=device)
    places = torch.arange(11, device=device)
    for r in (1, 3, 7, 21, 31):
        band = (places[:, None] - places).abs() <= r // 2
        expected = scaled_dot_product_attention(x, x, x, band)
        assert_equal(restricted_self_attention(x, r), expected)


def test_a_neighbourhood_as_wide_as_the_sequence_restricts_nothing():
    """§4 ¶4: con r = 2n − 1 ogni posizione vede tutte le altre."""
    x = random(11, 7)
    assert_equal(restricted_self_attention(x, 21), self_attention(x))


@given(n=st.integers(1, 40), half=st.integers(0, 45))
def test_pairs_in_reach_are_those_of_the_band(n, half):
    """§4 ¶4: le coppie vere sono meno di r·n: ai bordi mancano h(h + 1), con h = (r − 1)/2."""
    r = 2 * half + 1
    pairs = sum(abs(i - j) <= half for i in range(n) for j in range(n))
    assert pairs_in_reach(n, r) == pairs
    if n >= half:
        assert pairs == r * n - half * (half + 1)


def test_restricted_attention_never_holds_n_by_n_numbers():
    """§4 ¶4: nessun prodotto dà una matrice n × n; il più grande ha n·r numeri, o n·d."""
    largest = 0

    class Largest(Meter):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
            nonlocal largest
            result = super().__torch_dispatch__(operation, types, args, kwargs)
            largest = max(largest, result.numel() if isinstance(result, Tensor) else 0)
            return result

    with Largest():
        restricted_self_attention(sequence(101, 2), 5)
    assert largest == 101 * 5 * 2


# ¶5: convoluzioni


def test_separable_convolution_equals_torch(device):
    """§4 ¶5: `conv1d` con un gruppo per canale, poi una matrice."""
    x, depthwise, pointwise = (random(*s, device=device) for s in ((11, 5), (3, 5), (5, 5)))
    padded = F.pad(x.T, (2, 0))
    channels = F.conv1d(padded, depthwise.T.unsqueeze(1), groups=5).T
    assert_equal(separable_convolutional(x, depthwise, pointwise), channels @ pointwise)


def test_separable_convolution_is_a_convolution_of_rank_one_per_tap():
    """§4 ¶5: la stessa funzione di una convoluzione intera con kernel diag(c_j) W."""
    x, depthwise, pointwise = random(11, 5), random(3, 5), random(5, 5)
    kernel = depthwise.unsqueeze(2) * pointwise
    assert_equal(separable_convolutional(x, depthwise, pointwise), convolutional(x, kernel))


@given(n=st.integers(1, 200), d=st.integers(1, 200))
def test_separable_convolution_as_long_as_the_sequence_costs_attention_plus_a_matrix(n, d):
    """T05: con k = n, n²d + nd²: la somma di O(n²·d) e di O(n·d²)."""
    sizes = Sizes(n, d, n, 1)
    assert SEPARABLE_COMPLEXITY.exact(sizes) == SEPARABLE_COMPLEXITY.growth(sizes)
    assert SEPARABLE_COMPLEXITY.growth(sizes) == ATTENTION.complexity.growth(sizes) + n * d**2


def test_what_the_equality_of_paragraph_5_leaves_out():
    """T05: base, n = 50: la separabile costa 14,4 milioni, attenzione e feed-forward 159,8."""
    assert SEPARABLE_COMPLEXITY.exact(Sizes(50, 512, 50, 1)) == 14_387_200
    attention = attention_multiply_adds(50, 512, projections=True)
    feed_forward = feed_forward_multiply_adds(50, 512, 2048)
    assert feed_forward == 8 * 50 * 512**2 == 104_857_600
    assert attention + feed_forward == 159_846_400


def test_feed_forward_cost_is_the_one_counted():
    """T05: due prodotti, d × d_ff e d_ff × d."""
    x, w_1, w_2 = random(5, 3), random(3, 11), random(11, 3)
    meter = metered(lambda x: (x @ w_1).relu() @ w_2, x)
    assert meter.multiply_adds == feed_forward_multiply_adds(5, 3, 11) == 330


def test_convolution_costs_k_times_the_recurrence_up_to_a_constant():
    """§4 ¶5: k·n·d² contro 2nd²: k nella O, k/2 contando, k/8 contro una LSTM."""
    for k in (1, 3, 8):
        sizes = Sizes(11, 7, k, 5)
        growth, exact = (
            CONVOLUTIONAL.complexity.growth(sizes) / RECURRENT.complexity.growth(sizes),
            CONVOLUTIONAL.complexity.exact(sizes) / RECURRENT.complexity.exact(sizes),
        )
        assert (growth, exact) == (k, k / 2)
        assert CONVOLUTIONAL.complexity.exact(sizes) / recurrent_multiply_adds(11, 7, 4) == k / 8


# La matita, i numeri del lettore, i passi di una macchina parallela


def test_four_positions_two_channels_by_hand():
    """A matita: n = 4, d = 2, k = 3, r = 3."""
    sizes = Sizes(n=4, d=2, k=3, r=3)
    assert [row.complexity.exact(sizes) for row in TABLE_1] == [64, 32, 48, 48]
    assert [row.sequential.exact(sizes) for row in TABLE_1] == [2, 4, 1, 2]
    assert [row.path.exact(sizes) for row in TABLE_1] == [1, 3, 2, 3]
    assert CONTIGUOUS_PATH.exact(sizes) == 2
    assert SEPARABLE_COMPLEXITY.exact(sizes) == 24 + 16
    assert pairs_in_reach(4, 3) == 10
    assert attention_multiply_adds(4, 2, projections=True) - attention_multiply_adds(4, 2) == 64
    x = sequence(4, 2)
    counts = [metered(layer, x).multiply_adds for layer in layers(sizes).values()]
    assert counts == [64, 32, 48, 48, 40]


def test_ten_tokens_768_wide():
    """Con i numeri del lettore: 153 600 per i punteggi, 23 592 960 per le proiezioni."""
    assert attention_multiply_adds(10, 768) == 153_600
    assert attention_multiply_adds(10, 768, projections=True) - 153_600 == 23_592_960
    assert recurrent_multiply_adds(10, 768) == 11_796_480
    assert cheaper_below(768) == 768


def tree(graph: dict, leaves: list, name: object) -> object:
    """Aggiunge al grafo una riduzione a coppie; restituisce il nome del risultato."""
    level = 0
    while len(leaves) > 1:
        pairs = [leaves[i : i + 2] for i in range(0, len(leaves), 2)]
        for i, pair in enumerate(pairs):
            if len(pair) == 2:
                graph[name, level, i] = pair
        leaves = [(name, level, i) if len(pair) == 2 else pair[0] for i, pair in enumerate(pairs)]
        level += 1
    return leaves[0]


def attention_steps(n: int, d: int) -> int:
    """La profondità di una riga dell'eq. (1), un'operazione fra due numeri per passo."""
    graph: dict = {}
    scores = []
    for j in range(n):
        products = [("prodotto", j, c) for c in range(d)]
        graph.update({product: [("x", 0), ("x", j)] for product in products})
        graph["punteggio", j] = [tree(graph, products, ("somma", j))]
        scores.append(("punteggio", j))
    top = tree(graph, scores, "massimo")
    for j in range(n):
        graph["differenza", j] = [("punteggio", j), top]
        graph["esponenziale", j] = [("differenza", j)]
    total = tree(graph, [("esponenziale", j) for j in range(n)], "totale")
    for j in range(n):
        graph["peso", j] = [("esponenziale", j), total]
        graph["pesato", j] = [("peso", j), ("x", j)]
    tree(graph, [("pesato", j) for j in range(n)], "uscita")
    return depth(graph)


def test_constant_sequential_operations_are_not_constant_time():
    """Falsa credenza: le riduzioni sono alberi, e un albero su n foglie è alto ⌈log₂ n⌉."""
    for n, d in ((2, 3), (5, 8), (64, 7), (100, 2)):
        heights = 3 * math.ceil(math.log2(n)) + math.ceil(math.log2(d))
        assert attention_steps(n, d) == heights + 6


# Il disegno


def test_drawing_of_the_costs_follows_the_formulas():
    """Ogni retta del disegno passa per i costi, in multipli di 2nd²; ogni incrocio è il limite."""
    text = (ROOT / "paper_it/figure/s4_costs.svg").read_text(encoding="utf-8")
    unit, left, bottom = 100, 48, 430
    height = 60
    ends = {
        name: tuple(map(float, numbers))
        for name, *numbers in re.findall(
            r'<path id="fig-costi-([a-z-]+)" d="M([\d.]+) ([\d.]+) ([\d.]+) ([\d.]+)"', text
        )
    }

    def cost(name: str, x: float) -> float:
        d = 200
        n = round(x * d)
        return {
            "punteggi": attention_multiply_adds(n, d),
            "intera": attention_multiply_adds(n, d, projections=True),
            "semplice": recurrent_multiply_adds(n, d),
            "gru": recurrent_multiply_adds(n, d, 3),
            "lstm": recurrent_multiply_adds(n, d, 4),
            "convoluzione": CONVOLUTIONAL.complexity.exact(Sizes(n, d, 3, 1)),
        }[name] / (2 * n * d**2)

    assert set(ends) == {"punteggi", "intera", "semplice", "gru", "lstm", "convoluzione"}
    for name, (x_0, y_0, x_1, y_1) in ends.items():
        slope = (y_1 - y_0) / (x_1 - x_0)
        for x in (0.5, 1, 2.5):
            y = y_0 + slope * (left + x * unit - x_0)
            assert (bottom - y) / height == pytest.approx(cost(name, x))
    crossings = {
        (float(x) - left) / unit
        for x in re.findall(r'<circle class="incrocio" cx="([\d.]+)"', text)
    }
    assert crossings == {cheaper_below(1), cheaper_below(1, 3, True), cheaper_below(1, 4, True)}


# Gli errori


X = torch.zeros(5, 3)
W = torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: self_attention([1.0]), TypeError, "x: dato: list; atteso: un tensore di tipo"),
        (lambda: self_attention(X.long()), TypeError, "x: dato: torch.int64; atteso: un tensore"),
        (lambda: self_attention(X[None]), ValueError, r"x: dato: \[1, 5, 3\]; atteso: una forma"),
        (lambda: self_attention(X[:0]), ValueError, r"x: dato: \[0, 3\]; atteso: n e d almeno 1"),
        (lambda: self_attention(X[:, :0]), ValueError, r"x: dato: \[5, 0\]; atteso: n e d almeno"),
        (lambda: recurrent(X[:0], W, W), ValueError, r"x: dato: \[0, 3\]; atteso: n e d almeno 1"),
        (lambda: recurrent(X, W[:2], W), ValueError, r"w_x: dato: \[2, 3\]; atteso: \[3, 3\]$"),
        (
            lambda: recurrent(X, torch.zeros(4, 3), W),
            ValueError,
            r"w_x: dato: \[4, 3\]; atteso: \[3, 3\]$",
        ),
        (lambda: recurrent(X, W, W[:, :2]), ValueError, r"w_h: dato: \[3, 2\]; atteso: \[3, 3\]$"),
        (
            lambda: recurrent(X, W.double(), W),
            TypeError,
            "w_x: dato: torch.float64; atteso: torch.float32, come x",
        ),
        (
            lambda: convolutional(X, W),
            ValueError,
            r"kernel: dato: \[3, 3\]; atteso: \[k, 3, 3\], con k almeno 1$",
        ),
        (
            lambda: convolutional(X, torch.zeros(0, 3, 3)),
            ValueError,
            r"kernel: dato: \[0, 3, 3\]; atteso: \[k, 3, 3\], con k almeno 1$",
        ),
        (
            lambda: convolutional(X, torch.zeros(2, 3, 4)),
            ValueError,
            r"kernel: dato: \[2, 3, 4\]; atteso: \[k, 3, 3\]",
        ),
        (
            lambda: convolutional(X, torch.zeros(2, 3, 3), 0),
            ValueError,
            "dilation: dato: 0; atteso: almeno 1$",
        ),
        (lambda: convolutional(X, W.half()), TypeError, "kernel: dato: torch.float16; atteso:"),
        (
            lambda: separable_convolutional(X, W[:, :2], W),
            ValueError,
            r"depthwise: dato: \[3, 2\]; atteso: \[k, 3\], con k almeno 1$",
        ),
        (
            lambda: separable_convolutional(X, W, W[:2]),
            ValueError,
            r"pointwise: dato: \[2, 3\]; atteso: \[3, 3\]$",
        ),
        (
            lambda: restricted_self_attention(X, 4),
            ValueError,
            "r: dato: 4; atteso: un numero dispari positivo$",
        ),
        (
            lambda: restricted_self_attention(X, -1),
            ValueError,
            "r: dato: -1; atteso: un numero dispari positivo$",
        ),
        (lambda: restricted_self_attention(X[0], 3), ValueError, r"x: dato: \[3\]; atteso: almeno"),
        (
            lambda: pairs_in_reach(5, 2),
            ValueError,
            "r: dato: 2; atteso: un numero dispari positivo$",
        ),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_wrong_arguments_are_refused_by_name(call, error, message):
    """Ogni errore nomina l'argomento, ciò che è stato dato e ciò che era atteso."""
    with pytest.raises(error, match=f"^{message}"):
        call()


def test_widths_of_one_are_fine():
    """I minimi ammessi: una posizione, un canale, un kernel di uno, un intorno di uno."""
    x = torch.tensor([[2.0]])
    assert convolutional(x, torch.tensor([[[3.0]]])).item() == 6
    assert separable_convolutional(x, torch.tensor([[3.0]]), torch.tensor([[5.0]])).item() == 30
    assert restricted_self_attention(x, 1).item() == 2


# Il Fortran della pagina


def test_fortran_on_the_page(fortran, call_fortran):
    """I quattro strati come cicli, scritti sulla pagina, danno i numeri del modulo."""
    page = fortran("s4_why_self_attention")
    n, d, k, r = 11, 5, 3, 7
    x, w_x, w_h, kernel = sequence(n, d), random(d, d), random(d, d), random(k, d, d)
    for routine, arguments, expected in (
        (page.self_attention, (n, d, x), self_attention(x)),
        (page.recurrent, (n, d, x, w_x, w_h), recurrent(x, w_x, w_h)),
        (page.convolutional, (n, d, k, x, kernel), convolutional(x, kernel)),
        (page.restricted, (n, d, r, x), restricted_self_attention(x, r)),
    ):
        z = torch.zeros(n, d, dtype=torch.float64)
        call_fortran(routine, *arguments, z)
        assert_equal(z, expected)
