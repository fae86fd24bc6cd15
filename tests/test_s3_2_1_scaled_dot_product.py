"""§3.2.1: l'eq. (1) contro i cicli di §3.2 e contro PyTorch, la radice, la forma fusa."""

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from jaxtyping import TypeCheckError
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from attention import (
    attention_weights,
    causal_mask,
    fused_attention,
    s3_2_1_scaled_dot_product,
    scaled_dot_product_attention,
)
from attention.s3_2_1_scaled_dot_product import REGISTER, additive_weights, row_softmax
from attention.s3_2_attention import attention_loops, dot_product

both_forms = pytest.mark.parametrize(
    "attention", [scaled_dot_product_attention, fused_attention], ids=["letter", "fused"]
)
every_dtype = pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str
)
leading_dimensions = pytest.mark.parametrize("batch", [(), (2,), (2, 3), (2, 1, 3), (2, 1, 3, 2)])


@pytest.fixture(params=[-1, 1024], ids=["kernel", "corte"])
def road(request, monkeypatch):
    """Le due strade della forma fusa: il kernel per ogni lunghezza, o la lettera per le corte."""
    monkeypatch.setattr(s3_2_1_scaled_dot_product, "SHORT", request.param)


both_roads = pytest.mark.usefixtures("road")


def random_problem(
    *batch: int, m: int = 3, n: int = 5, d_k: int = 7, d_v: int = 11, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key e value in doppia precisione; di regola nessuna coppia di misure uguale."""
    shapes = (*batch, m, d_k), (*batch, n, d_k), (*batch, n, d_v)
    query, key, value = (torch.randn(s, dtype=torch.float64, device=device) for s in shapes)
    return query, key, value


def by_loops(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None) -> Tensor:
    """L'eq. (1) con i cicli di §3.2: la compatibilità è il prodotto scalare diviso √d_k."""
    outputs = attention_loops(
        query.tolist(),
        key.tolist(),
        value.tolist(),
        lambda q, k: dot_product(q, k) / math.sqrt(len(q)),
        None if mask is None else mask.tolist(),
    )
    return torch.tensor(outputs, dtype=torch.float64, device=query.device)


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


class Operations(TorchDispatchMode):
    """Annota le operazioni eseguite, i loro ingressi e il tensore più grande che producono."""

    def __init__(self):
        super().__init__()
        self.seen: list[tuple[str, tuple]] = []
        self.largest = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        self.seen.append((str(operation.overloadpacket), args))
        result = operation(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        self.largest = max(self.largest, *(tensor.numel() for tensor in tensors))
        return result


# ¶1: prodotti scalari, divisione per √d_k, softmax


def test_case_by_hand():
    """§3.2.1 ¶1: 2 ln 3 diviso √4 è ln 3; pesi ¾ e ¼, uscita (3, 2)."""
    query = torch.ones(1, 4, dtype=torch.float64)
    key = torch.tensor([[math.log(3), math.log(3), 0, 0], [0, 0, 0, 0]], dtype=torch.float64)
    value = torch.tensor([[4, 0], [0, 8]], dtype=torch.float64)
    assert_equal(attention_weights(query, key), torch.tensor([[0.75, 0.25]]).double())
    assert_equal(scaled_dot_product_attention(query, key, value), torch.tensor([[3, 2]]).double())
    unscaled = attention_weights(query * 2, key)
    assert_equal(unscaled, torch.tensor([[0.9, 0.1]], dtype=torch.float64))


@given(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7))
def test_weights_are_positive_and_every_row_sums_to_one(m: int, n: int, d_k: int):
    """§3.2.1 ¶1: la softmax corre lungo le key, e nessun peso è nullo senza maschera."""
    query, key, _ = random_problem(m=m, n=n, d_k=d_k)
    weights = attention_weights(query, key)
    assert weights.shape == (m, n)
    assert (weights > 0).all()
    assert_equal(weights.sum(dim=-1), torch.ones(m, dtype=torch.float64))


def test_scaling_the_queries_first_is_the_same():
    """§3.2.1 ¶1: il codice pubblicato divide le query, l'articolo i punteggi: stessi pesi."""
    query, key, _ = random_problem()
    expected = ((query * 7**-0.5) @ key.T).softmax(dim=1)
    assert_equal(attention_weights(query, key), expected)


# ¶2: l'eq. (1)


@both_roads
@both_forms
def test_equation_1_equals_the_loops(attention, device):
    """§3.2.1 ¶2, eq. (1): le matrici danno i numeri dei cicli in chiaro, con d_v ≠ d_k."""
    query, key, value = random_problem(2, device=device)
    expected = [by_loops(query[b], key[b], value[b]) for b in range(2)]
    assert_equal(attention(query, key, value), torch.stack(expected))


@both_roads
@both_forms
def test_masked_equation_1_equals_the_loops(attention, device):
    """§3.2.1 fig. 2: vero vuol dire «può guardare»; una riga senza permessi riceve zeri."""
    query, key, value = random_problem(device=device)
    mask = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 0]]).bool().to(device)
    assert_equal(attention(query, key, value, mask), by_loops(query, key, value, mask))


def test_equation_1_equals_torch():
    """§3.2.1 ¶2, eq. (1): anche la funzione di PyTorch divide per √d_k."""
    problem = random_problem()
    assert_equal(scaled_dot_product_attention(*problem), F.scaled_dot_product_attention(*problem))


@both_roads
@both_forms
@pytest.mark.parametrize(("m", "n", "d_k", "d_v"), [(1, 1, 1, 1), (2, 3, 5, 7), (13, 11, 7, 2)])
def test_queries_keys_and_values_have_their_own_sizes(attention, m, n, d_k, d_v):
    """§3.2.1 ¶2: Q è m×d_k, K è n×d_k, V è n×d_v; il risultato è m×d_v."""
    problem = random_problem(m=m, n=n, d_k=d_k, d_v=d_v)
    assert attention(*problem).shape == (m, d_v)
    assert_equal(attention(*problem), by_loops(*problem))


@both_roads
@both_forms
def test_output_stays_in_the_convex_hull_of_the_values(attention):
    """§3.2.1 ¶2: in ogni direzione, l'uscita non va oltre il value più lontano."""
    query, key, value = random_problem()
    directions = torch.randn(11, 100, dtype=torch.float64)
    reached = attention(query, key, value) @ directions
    assert (reached <= (value @ directions).max(dim=0).values).all()


@both_roads
@both_forms
def test_permuting_the_pairs_changes_nothing(attention):
    """§3.2.1 ¶2: le coppie key–value sono un insieme, il loro ordine non conta."""
    query, key, value = random_problem()
    order = [3, 0, 4, 1, 2]
    shuffled = attention(query, key[order], value[order])
    assert_equal(shuffled, attention(query, key, value))


@both_roads
@both_forms
def test_permuting_the_queries_permutes_the_outputs(attention):
    """§3.2.1 ¶2: ogni riga del risultato dipende dalla sua query soltanto."""
    query, key, value = random_problem()
    order = [2, 0, 1]
    assert_equal(attention(query[order], key, value), attention(query, key, value)[order])


def test_transpose_moves_no_data():
    """§3.2.1 ¶2: la trasposta della formula cambia i passi di lettura, non sposta byte."""
    query, key, _ = random_problem()
    with Operations() as operations:
        attention_weights(query, key)
    (_, product_key), *others = [inputs for name, inputs in operations.seen if name == "aten.mm"]
    assert not others
    assert product_key.data_ptr() == key.data_ptr()
    assert product_key.stride() == key.stride()[::-1] == (1, 7)


# La maschera della figura 2


def test_forbidden_weights_are_exactly_zero_and_the_rest_sums_to_one():
    """§3.2.1 fig. 2: il divieto agisce prima della softmax, che si rifà sulle key permesse."""
    query, key, _ = random_problem()
    mask = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 1, 1, 1, 0]]).bool()
    weights = attention_weights(query, key, mask)
    assert (weights[~mask] == 0).all()
    assert (weights[mask] > 0).all()
    assert_equal(weights.sum(dim=-1), torch.ones(3, dtype=torch.float64))


@both_roads
@both_forms
@leading_dimensions
def test_a_mask_extends_over_the_dimensions_it_lacks(attention, batch, device):
    """§3.2.1 fig. 2: una maschera più piccola vale per tutte le righe, o per tutto il batch."""
    problem = random_problem(*batch, device=device)
    for shape in ((), (1,), (5,), (1, 5), (3, 1), (3, 5), (*batch, 1, 5), (*batch, 3, 5)):
        mask = torch.rand(shape, device=device) < 0.6
        whole = mask.expand(*batch, 3, 5)
        expected = scaled_dot_product_attention(*problem, whole)
        assert_equal(attention(*problem, mask), expected)


@both_roads
@both_forms
@every_dtype
def test_a_row_that_may_see_nothing_gives_zeros_and_no_nan(attention, dtype):
    """§3.2.1 fig. 2: chi non può guardare nulla riceve zeri, e zero è anche il suo gradiente."""
    problem = [tensor.to(dtype).requires_grad_() for tensor in random_problem()]
    query, key, value = problem
    mask = torch.tensor([[0, 0, 0, 0, 0], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]]).bool()
    with torch.autograd.set_detect_anomaly(True):
        output = attention(query, key, value, mask)
        output.square().sum().backward()
    assert (output[[0, 2]] == 0).all()
    assert (output[1] != 0).all()
    assert (query.grad[[0, 2]] == 0).all()
    assert (query.grad[1] != 0).all()
    assert all(tensor.grad.isfinite().all() for tensor in problem)
    assert (key.grad[2:] == 0).all()
    assert (value.grad[2:] == 0).all()


# ¶3: l'attenzione additiva, la rivale


def random_additive_network(d_k: int, hidden: int) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (d_k, hidden), (d_k, hidden), (hidden,)
    query_matrix, key_matrix, direction = (torch.randn(s, dtype=torch.float64) for s in shapes)
    return query_matrix, key_matrix, direction


@pytest.mark.parametrize("length", [1, 2, 12, REGISTER - 1, REGISTER, 40])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_softmax_of_a_short_row_is_the_same(length, scale):
    """Commento: per esteso o no, stessi pesi e stessi gradienti, anche di punteggi enormi."""
    generator = torch.Generator().manual_seed(length)
    scores = scale * torch.randn(3, 2, 5, length, generator=generator, dtype=torch.float64)
    weighing = torch.randn(scores.shape, generator=generator, dtype=torch.float64)
    found = []
    for softmax in (row_softmax, lambda it: it.softmax(-1)):
        leaf = scores.clone().requires_grad_()
        weights = softmax(leaf)
        (weights * weighing).sum().backward()
        found.append((weights.detach(), leaf.grad))
    for ours, theirs in zip(*found, strict=True):
        assert_equal(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_rows_are_left_to_the_library(dtype):
    """Commento: PyTorch, di un tipo corto, somma in FP32; per esteso si sommerebbe in quello."""
    scores = torch.randn(7, 12, generator=torch.Generator().manual_seed(1)).to(dtype)
    assert torch.equal(row_softmax(scores), scores.softmax(-1))


def test_additive_weights_equal_the_loops():
    """§3.2.1 ¶3: la compatibilità additiva è una rete con un solo strato nascosto."""
    query, key, _ = random_problem(2)
    w_q, w_k, direction = random_additive_network(d_k=7, hidden=2)
    mask = torch.rand(3, 5) < 0.6

    def compatibility(q: list[float], k: list[float]) -> float:
        q_vector, k_vector = torch.tensor([q, k], dtype=torch.float64)
        return (q_vector @ w_q + k_vector @ w_k).tanh().dot(direction).item()

    identity = torch.eye(5).tolist()
    for allowed in (None, mask):
        rows = None if allowed is None else allowed.tolist()
        expected = [
            attention_loops(query[b].tolist(), key[b].tolist(), identity, compatibility, rows)
            for b in range(2)
        ]
        weights = additive_weights(query, key, w_q, w_k, direction, allowed)
        assert_equal(weights, torch.tensor(expected, dtype=torch.float64))


def multiply_adds(function: Callable[..., Tensor], *arguments: Tensor) -> int:
    """Le moltiplicazioni con somma dei prodotti di matrici e dei prodotti matrice–vettore."""

    def matrix_vector(matrix: torch.Size, vector: torch.Size, **_: object) -> int:
        return 2 * math.prod(matrix)

    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.mv: matrix_vector})
    with counter:
        function(*arguments)
    return counter.get_total_flops() // 2


def test_additive_and_dot_product_cost_the_same_multiply_adds_per_pair():
    """§3.2.1 ¶3: complessità simile: d per coppia; all'additiva restano le due proiezioni."""
    m, n, d = 11, 13, 7
    query, key, _ = random_problem(m=m, n=n, d_k=d)
    network = random_additive_network(d_k=d, hidden=d)
    assert multiply_adds(attention_weights, query, key) == m * n * d
    assert multiply_adds(additive_weights, query, key, *network) == m * n * d + (m + n) * d * d


def test_additive_keeps_a_hidden_vector_for_every_pair():
    """§3.2.1 ¶3: il tensore più grande ha m·n·hidden numeri, contro m·n del prodotto scalare."""
    m, n, hidden = 11, 13, 5
    query, key, _ = random_problem(m=m, n=n)
    with Operations() as additive:
        additive_weights(query, key, *random_additive_network(d_k=7, hidden=hidden))
    with Operations() as dot:
        attention_weights(query, key)
    assert additive.largest == m * n * hidden
    assert dot.largest == m * n


# ¶3, un passo oltre: la forma fusa


@both_roads
@leading_dimensions
@every_dtype
@pytest.mark.parametrize(("d_k", "d_v"), [(7, 7), (7, 3), (3, 7)])
def test_fused_equals_the_letter(batch, dtype, d_k, d_v, device):
    """§3.2.1 ¶3: stessa formula, per ogni tipo, batch e larghezza, salvo l'arrotondamento."""
    query, key, value = (
        tensor.to(dtype) for tensor in random_problem(*batch, d_k=d_k, d_v=d_v, device=device)
    )
    mask = torch.rand(3, 5, device=device) < 0.6
    tolerance = 4 * torch.finfo(dtype).eps * value.abs().max().item()
    for allowed in (None, mask):
        fused = fused_attention(query, key, value, allowed)
        letter = scaled_dot_product_attention(query, key, value, allowed)
        assert fused.dtype == dtype
        assert fused.shape == (*batch, 3, d_v)
        assert_equal(fused, letter, tolerance)


@both_roads
@leading_dimensions
def test_fused_causal_equals_the_causal_mask(batch, device):
    """§3.2.1 ¶3: `causal=True` vale la maschera triangolare, senza costruirla."""
    problem = random_problem(*batch, m=5, device=device)
    expected = scaled_dot_product_attention(*problem, causal_mask(5, torch.device(device)))
    assert_equal(fused_attention(*problem, causal=True), expected)


@both_roads
@pytest.mark.parametrize("batches", [((2, 1), (3,), ()), ((), (2,), (2,)), ((), (), (2, 3))])
def test_fused_batches_extend_to_each_other(batches, device):
    """§3.2.1 ¶3: i batch di query, key e value si accordano come nei prodotti di matrici."""
    query, key, value = (
        random_problem(*batch, device=device)[role] for role, batch in enumerate(batches)
    )
    output = fused_attention(query, key, value)
    assert output.shape == (*torch.broadcast_shapes(*batches), 3, 11)
    assert_equal(output, scaled_dot_product_attention(query, key, value))


@both_roads
@both_forms
def test_nothing_in_nothing_out(attention):
    """§3.2.1 ¶2: un batch vuoto, o nessuna query, danno un'uscita vuota della forma giusta."""
    assert attention(*random_problem(0)).shape == (0, 3, 11)
    assert attention(*random_problem(2, m=0)).shape == (2, 0, 11)


@both_roads
@pytest.mark.parametrize("masked", ["no", "mask", "causal"])
def test_fused_gradients_equal_the_letter(masked, device):
    """§3.2.1 ¶3: anche i gradienti rispetto a query, key e value sono gli stessi."""
    problem = [tensor.requires_grad_() for tensor in random_problem(2, m=5, device=device)]
    mask = {
        "no": None,
        "mask": torch.rand(5, 5, device=device) < 0.6,
        "causal": causal_mask(5, torch.device(device)),
    }[masked]
    weights_of_the_sum = torch.randn(2, 5, 11, dtype=torch.float64, device=device)
    letter = scaled_dot_product_attention(*problem, mask)
    if masked == "causal":
        fused = fused_attention(*problem, causal=True)
    else:
        fused = fused_attention(*problem, mask)
    expected = torch.autograd.grad((letter * weights_of_the_sum).sum(), problem)
    actual = torch.autograd.grad((fused * weights_of_the_sum).sum(), problem)
    for ours, theirs in zip(actual, expected, strict=True):
        assert_equal(ours, theirs, 1e-10)


@pytest.mark.parametrize(
    ("m", "n", "short"), [(32, 32, True), (8, 128, True), (32, 33, False), (33, 32, False)]
)
def test_the_letter_serves_short_sentences_of_a_training(m, n, short):
    """§3.2.1 ¶3: su CPU, con i gradienti, fino a 32 × 32 pesi; altrimenti il kernel fuso."""
    problem = tuple(tensor.float() for tensor in random_problem(2, m=m, n=n))
    half = tuple(tensor.bfloat16() for tensor in problem)
    with Operations() as training:
        fused_attention(*problem)
    with Operations() as using, torch.no_grad():
        fused_attention(*problem)
    assert ("aten._softmax" in {name for name, _ in training.seen}) == short
    with Operations() as halved:
        fused_attention(*half)
    for other in (using, halved):
        assert "aten._softmax" not in {name for name, _ in other.seen}


def allocated_bytes(function: Callable[[], object]) -> int:
    """La somma dei byte che PyTorch chiede al sistema durante la chiamata."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as measured:
        function()
    events = measured.profiler.kineto_results.events()
    return sum(max(event.nbytes(), 0) for event in events if event.name() == "[memory]")


@pytest.mark.parametrize(
    ("batch", "d_k", "d_v", "mask", "causal"),
    [
        ((), 8, 8, False, False),
        ((2,), 8, 8, False, False),
        ((1, 2, 1, 1, 3), 8, 8, False, False),
        ((2,), 8, 3, False, False),
        ((2,), 3, 8, False, False),
        ((2,), 8, 8, True, False),
        ((2,), 8, 8, False, True),
    ],
)
def test_fused_memory_grows_with_n_and_the_letter_with_its_square(batch, d_k, d_v, mask, causal):
    """§3.2.1 ¶3: a n doppio la forma fusa chiede il doppio dei byte, la lettera il quadruplo."""

    def bytes_for(attention: Callable[..., Tensor], n: int, **options: bool) -> int:
        query, key, value = random_problem(*batch, m=n, n=n, d_k=d_k, d_v=d_v)
        padding = torch.arange(n) < n - 3 if mask else None
        return allocated_bytes(lambda: attention(query, key, value, padding, **options))

    fused = [bytes_for(fused_attention, n, causal=causal) for n in (1024, 2048)]
    letter = [bytes_for(scaled_dot_product_attention, n) for n in (1024, 2048)]
    assert fused[1] < 2.1 * fused[0]
    assert letter[1] > 3.9 * letter[0]


# ¶4 e nota 4: perché la radice


def dot_products(queries: Tensor, keys: Tensor) -> Tensor:
    """Il prodotto scalare di §3.2, una coppia di righe per volta."""
    pairs = zip(queries.tolist(), keys.tolist(), strict=True)
    return torch.tensor([dot_product(*pair) for pair in pairs], dtype=torch.float64)


@pytest.mark.parametrize("d_k", [4, 16, 64, 256, 1024])
def test_variance_of_dot_product_grows_with_d_k(d_k):
    """§3.2.1 nota 4: componenti indipendenti, media 0, varianza 1: q·k ha media 0, varianza d_k."""
    products = dot_products(*torch.randn(2, 4000, d_k, dtype=torch.float64))
    assert products.mean().abs() < 4 * math.sqrt(d_k / 4000)
    assert products.var() == pytest.approx(d_k, rel=0.1)


@pytest.mark.parametrize("d_k", [4, 16, 64, 256, 1024])
def test_scaled_scores_have_unit_variance_whatever_d_k(d_k):
    """§3.2.1 ¶4: dopo la divisione per √d_k lo scarto dei punteggi è 1, qualunque sia d_k."""
    query, key, _ = random_problem(2000, m=1, n=2, d_k=d_k)
    first, second = attention_weights(query, key).log().unbind(dim=-1)
    assert (first - second).var() / 2 == pytest.approx(1, rel=0.12)


def test_unit_variance_is_an_assumption():
    """§3.2.1 nota 4: senza le ipotesi il conto cambia: con k = q la media di q·k è d_k."""
    query = torch.randn(4000, 64, dtype=torch.float64)
    assert dot_products(query, query).mean() == pytest.approx(64, rel=0.02)
    repeated = torch.randn(2, 4000, 1, dtype=torch.float64).expand(2, 4000, 64)
    assert dot_products(*repeated).var() == pytest.approx(64**2, rel=0.2)
    wide = 3 * torch.randn(2, 4000, 64, dtype=torch.float64)
    assert dot_products(*wide).var() == pytest.approx(64 * 3**4, rel=0.1)


def rows_of_weights(d_k: int) -> tuple[Tensor, Tensor]:
    """400 righe di 64 pesi, senza la radice e con la radice, per query e key indipendenti."""
    query, key, _ = random_problem(400, m=1, n=64, d_k=d_k, d_v=1)
    unscaled = attention_weights(query * math.sqrt(d_k), key)
    return unscaled.squeeze(-2), attention_weights(query, key).squeeze(-2)


@pytest.mark.parametrize(("d_k", "largest"), [(16, 0.57), (64, 0.78), (256, 0.89), (1024, 0.95)])
def test_without_the_root_one_weight_takes_almost_all(d_k, largest):
    """§3.2.1 ¶4: il peso massimo tende a 1 senza la radice, e resta 0,11 con la radice."""
    unscaled, scaled = rows_of_weights(d_k)
    assert unscaled.max(dim=-1).values.mean() == pytest.approx(largest, abs=0.03)
    assert scaled.max(dim=-1).values.mean() == pytest.approx(0.11, abs=0.01)


@pytest.mark.parametrize(("d_k", "dead"), [(64, 1e-6), (512, 1e-18)])
def test_scaling_keeps_the_typical_gradient_alive(d_k, dead):
    """§3.2.1 ¶4: la mediana di p(1−p) crolla senza la radice; con la radice resta a 0,01."""
    unscaled, scaled = (weights * (1 - weights) for weights in rows_of_weights(d_k))
    assert unscaled.median() < dead
    assert scaled.median() == pytest.approx(0.01, abs=0.002)


def mean_jacobian_norm(weights: Tensor) -> Tensor:
    jacobian = torch.diag_embed(weights) - weights.unsqueeze(-1) * weights.unsqueeze(-2)
    return jacobian.flatten(-2).norm(dim=-1).mean()


def test_mean_jacobian_norm_is_not_the_witness_at_64():
    """§3.2.1 ¶4: la norma media è maggiore *senza* la radice a 64, minore a 256."""
    larger_without_the_root = [
        bool(mean_jacobian_norm(unscaled) > mean_jacobian_norm(scaled))
        for unscaled, scaled in map(rows_of_weights, (4, 16, 64, 256, 1024))
    ]
    assert larger_without_the_root == [True, True, True, False, False]


def gradient_towards_the_query(query: Tensor, key: Tensor, factor: float) -> Tensor:
    """La norma di ∂p/∂q, riga per riga, se i punteggi si moltiplicano per `factor`."""
    query = query.clone().requires_grad_()
    weights = attention_weights(factor * query, key).squeeze(-2)
    columns = [
        torch.autograd.grad(column.sum(), query, retain_graph=True)[0]
        for column in weights.unbind(-1)
    ]
    return torch.stack(columns).square().sum(dim=(0, -2, -1)).sqrt()


@pytest.mark.parametrize(("d_k", "larger_without_the_root"), [(64, True), (1024, False)])
def test_gradient_towards_the_query_dies_much_later(d_k, larger_without_the_root):
    """§3.2.1 ¶4: nella riga mediana, senza la radice è più grande a 64, e a 1024 è crollato."""
    query, key = (torch.randn(200, rows, d_k, dtype=torch.float64) for rows in (1, 64))
    unscaled = gradient_towards_the_query(query, key, math.sqrt(d_k)).median()
    scaled = gradient_towards_the_query(query, key, 1.0).median()
    assert bool(unscaled > 2 * scaled) is larger_without_the_root
    assert bool(unscaled < scaled / 2) is not larger_without_the_root


# I numeri di una macchina


@both_roads
@both_forms
@every_dtype
def test_half_precision_is_as_accurate_as_its_format_allows(attention, dtype, device):
    """§3.2.1 ¶2: l'errore sta sotto due unità dell'ultima cifra del value più grande."""
    problem = [tensor.to(dtype) for tensor in random_problem(2, m=11, n=13, device=device)]
    exact = scaled_dot_product_attention(*(tensor.double() for tensor in problem))
    bound = 2 * torch.finfo(dtype).eps * problem[2].abs().max().item()
    assert_equal(attention(*problem).double(), exact, bound)


def test_half_precision_overflows_only_to_the_letter():
    """Articolo ≠ codice: q·k = 102 400 supera 65 504, e la forma alla lettera divide dopo."""
    query = torch.full((1, 64), 40.0, dtype=torch.float16)
    value = torch.tensor([[3.0]], dtype=torch.float16)
    assert scaled_dot_product_attention(query, query, value).isnan().all()
    assert fused_attention(query, query, value).item() == 3.0


@both_roads
@both_forms
def test_large_scores_do_not_overflow(attention):
    """§3.2.1 ¶1: con punteggi di ±10⁴ in FP32 la softmax sceglie, e nulla diventa NaN."""
    query = torch.tensor([[100.0]], requires_grad=True)
    key, value = torch.tensor([[100.0], [-100.0]]), torch.tensor([[2.0, 3.0], [5.0, 7.0]])
    output = attention(query, key, value)
    output.sum().backward()
    assert output.tolist() == [[2.0, 3.0]]
    assert query.grad.tolist() == [[0.0]]


@both_roads
@both_forms
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_the_formula(attention, masked):
    """§3.2.1 ¶2: le derivate coincidono con i rapporti incrementali."""
    problem = [tensor.requires_grad_() for tensor in random_problem()]
    mask = torch.tensor([[1, 0, 1, 0, 0], [0, 0, 0, 0, 0], [0, 1, 1, 1, 0]]).bool()
    assert torch.autograd.gradcheck(
        lambda *tensors: attention(*tensors, mask if masked else None), problem
    )


# Gli errori


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.zeros(shape, dtype=dtype)


FLOATING = "un tensore di tipo torch.float16, torch.bfloat16, torch.float32, torch.float64"

WRONG_PROBLEMS = [
    ([1.0], zeros(2, 3), zeros(2, 5), f"TypeError query: dato: list; atteso: {FLOATING}"),
    (
        zeros(2, 3, dtype=torch.int64),
        zeros(2, 3),
        zeros(2, 5),
        f"TypeError query: dato: torch.int64; atteso: {FLOATING}",
    ),
    (zeros(2, 3), None, zeros(2, 5), f"TypeError key: dato: NoneType; atteso: {FLOATING}"),
    (zeros(2, 3), zeros(2, 3), 7, f"TypeError value: dato: int; atteso: {FLOATING}"),
    (
        zeros(2, 3),
        zeros(2, 3, dtype=torch.float64),
        zeros(2, 5, dtype=torch.float64),
        "TypeError key: dato: torch.float64; atteso: torch.float32, come query",
    ),
    (
        zeros(2, 3),
        zeros(2, 3),
        zeros(2, 5, dtype=torch.float16),
        "TypeError value: dato: torch.float16; atteso: torch.float32, come key",
    ),
    (
        zeros(3),
        zeros(2, 3),
        zeros(2, 5),
        "ValueError query: dato: [3]; atteso: almeno [righe, colonne]",
    ),
    (
        zeros(11, 2, 3),
        zeros(11, 2, 7),
        zeros(11, 2, 5),
        "ValueError key: dato: larghezza 7; atteso: 3, come query",
    ),
    (
        zeros(2, 0),
        zeros(2, 0),
        zeros(2, 5),
        "ValueError query: dato: d_k = 0; atteso: d_k almeno 1",
    ),
    (
        zeros(2, 3),
        zeros(0, 3),
        zeros(0, 5),
        "ValueError key: dato: nessuna riga; atteso: almeno una key",
    ),
    (
        zeros(2, 3),
        zeros(2, 3),
        zeros(7, 5),
        "ValueError value: dato: 7 righe; atteso: 2, una per key",
    ),
    (
        zeros(2, 3),
        zeros(2, 3),
        zeros(1, 5),
        "ValueError value: dato: 1 righe; atteso: 2, una per key",
    ),
    (
        zeros(11, 2, 3),
        zeros(7, 2, 3),
        zeros(7, 2, 5),
        "ValueError key: dato: un batch [7]; atteso: un batch che si accordi con [11]",
    ),
    (
        zeros(2, 3, 5, 7),
        zeros(2, 3, 7),
        zeros(2, 3, 11),
        "ValueError key: dato: un batch [2]; atteso: un batch che si accordi con [2, 3]",
    ),
    (
        zeros(7, 2, 3),
        zeros(7, 2, 3),
        zeros(11, 2, 5),
        "ValueError value: dato: un batch [11]; atteso: un batch che si accordi con [7]",
    ),
]


def complaint(function: Callable[..., object], *arguments: object, **options: object) -> str:
    """Il tipo e il messaggio dell'errore che la chiamata solleva."""
    with pytest.raises((TypeError, ValueError)) as raised:
        function(*arguments, **options)
    return f"{raised.type.__name__} {raised.value}"


@both_forms
@pytest.mark.parametrize(("query", "key", "value", "message"), WRONG_PROBLEMS)
@pytest.mark.usefixtures("our_own_errors")
def test_wrong_arguments_are_refused_by_name(attention, query, key, value, message):
    """Ogni errore nomina l'argomento, ciò che è stato dato e ciò che era atteso."""
    assert complaint(attention, query, key, value) == message


NOT_LOGICAL = "TypeError mask: dato: {}; atteso: un tensore torch.bool (vero = guarda)"
NOT_EXTENDABLE = "ValueError mask: dato: {}; atteso: una forma estendibile a {}"


@both_forms
@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (zeros(3, 5), NOT_LOGICAL.format("torch.float32")),
        ([True], NOT_LOGICAL.format("list")),
        (zeros(3).bool(), NOT_EXTENDABLE.format([3], [2, 3, 5])),
        (zeros(5, 3).bool(), NOT_EXTENDABLE.format([5, 3], [2, 3, 5])),
        (zeros(7, 3, 5).bool(), NOT_EXTENDABLE.format([7, 3, 5], [2, 3, 5])),
        (zeros(1, 2, 3, 5).bool(), NOT_EXTENDABLE.format([1, 2, 3, 5], [2, 3, 5])),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_wrong_masks_are_refused(attention, mask, message):
    """Una maschera è logica, e si estende ai punteggi senza ingrandirli."""
    assert complaint(attention, *random_problem(2), mask) == message


@pytest.mark.usefixtures("our_own_errors")
def test_additive_refuses_the_same_arguments():
    """L'attenzione additiva controlla query, key e maschera come quella a prodotto scalare."""
    network = random_additive_network(d_k=7, hidden=2)
    query, key, _ = random_problem()
    narrow = "ValueError key: dato: larghezza 2; atteso: 7, come query"
    assert complaint(additive_weights, query, key[:, :2], *network) == narrow
    w_q, w_k, direction = network
    for wrong in (w_k[:5], w_k.repeat(2, 1)):
        unequal = f"ValueError key_matrix: dato: [{len(wrong)}, 2]; atteso: [7, 2]"
        assert complaint(additive_weights, query, key, w_q, wrong, direction) == unequal
    integers = f"TypeError query_matrix: dato: torch.int64; atteso: {FLOATING}"
    assert complaint(additive_weights, query, key, w_q.long(), w_k, direction) == integers
    for wrong in (direction.tolist(), direction[None], direction[0]):
        refused = complaint(additive_weights, query, key, w_q, w_k, wrong)
        assert refused.startswith("TypeError direction: dato: ")
    turned = NOT_EXTENDABLE.format([5, 3], [3, 5])
    assert complaint(additive_weights, query, key, *network, zeros(5, 3).bool()) == turned


@pytest.mark.usefixtures("our_own_errors")
def test_causal_refuses_a_mask_and_unequal_lengths():
    """`causal` sta al posto della maschera, e chiede tante query quante key."""
    twice = "ValueError mask: dato: una maschera insieme a causal=True; atteso: una delle due"
    square = random_problem(m=5)
    assert complaint(fused_attention, *square, causal_mask(5), causal=True) == twice
    for m in (3, 7):
        unequal = f"ValueError causal: dato: {m} query e 5 key; atteso: tante query quante key"
        assert complaint(fused_attention, *random_problem(m=m), causal=True) == unequal


def test_shapes_in_the_signatures_are_enforced_here():
    """Nei test una forma che contraddice la firma si ferma prima ancora dei nostri controlli."""
    query, key, value = random_problem()
    with pytest.raises(TypeCheckError):
        scaled_dot_product_attention(query, key[:, :2], value)


# Il Fortran della pagina


@pytest.mark.parametrize("name", ["scaled_attention", "streaming_attention"])
def test_fortran_on_the_page(fortran, call_fortran, name):
    """§3.2.1 ¶2 e ¶3: per righe intere o una key per volta, il Fortran dà gli stessi numeri."""
    query, key, value = random_problem()
    output = torch.zeros(3, 11, dtype=torch.float64)
    routine = getattr(fortran("s3_2_1_scaled_dot_product"), name)
    call_fortran(routine, 3, 5, 7, 11, query, key, value, output)
    assert_equal(output, scaled_dot_product_attention(query, key, value))
