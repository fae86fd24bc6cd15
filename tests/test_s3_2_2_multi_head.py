"""§3.2.2: le teste contro la formula, contro `torch.nn.MultiheadAttention`, contro la matita."""

import math
import re
from xml.etree import ElementTree

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from attention import (
    BASE,
    MultiHeadAttention,
    Transformer,
    attention_weights,
    s3_2_2_multi_head,
    scaled_dot_product_attention,
)
from attention.s3_2_2_multi_head import LARGE, PACKS, linear, packed_weights
from weave.house import ROOT

SIZES = [
    pytest.param({"d_model": 6, "heads": 3}, id="d_k = d_v = d_model / h"),
    pytest.param({"d_model": 5, "heads": 3, "d_k": 7, "d_v": 2}, id="d_k > d_v"),
    pytest.param({"d_model": 5, "heads": 2, "d_k": 3, "d_v": 11}, id="d_k < d_v"),
    pytest.param({"d_model": 1, "heads": 1}, id="tutto 1"),
]
with_and_without_bias = pytest.mark.parametrize("bias", [False, True])
inputs = pytest.mark.parametrize("roles", ["self", "cross", "three"])


def random_module(device: str = "cpu", **sizes: int) -> MultiHeadAttention:
    """Un modulo in doppia precisione; i bias, se ci sono, non sono zero."""
    module = MultiHeadAttention(**sizes).to(device, torch.float64)
    for bias in (module.b_qkv, module.b_o):
        if bias is not None:
            nn.init.normal_(bias)
    return module


def random_inputs(
    roles: str, d_model: int, *batch: int, device: str = "cpu"
) -> tuple[Tensor, Tensor, Tensor]:
    """Tre ingressi; nell'auto-attenzione lo stesso, in quella encoder-decoder key = value."""
    query, key, value = (
        torch.randn(*batch, rows, d_model, dtype=torch.float64, device=device) for rows in (3, 5, 5)
    )
    return {"self": (key, key, key), "cross": (query, key, key), "three": (query, key, value)}[
        roles
    ]


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


# ¶1: h proiezioni, h attenzioni


@with_and_without_bias
@pytest.mark.parametrize("sizes", SIZES)
def test_a_head_is_attention_between_its_own_columns(sizes, bias):
    """§3.2.2 ¶1: la testa i usa le sue colonne di W^Q, W^K e W^V, e nessun'altra."""
    module = random_module(**sizes, bias=bias)
    h, d_k, d_v = module.heads, module.d_k, module.d_v
    query, key, value = random_inputs("three", module.d_model)
    constants = torch.zeros(h * (2 * d_k + d_v)).double() if module.b_qkv is None else module.b_qkv
    for i in range(h):
        q = slice(i * d_k, (i + 1) * d_k)
        k = slice((h + i) * d_k, (h + i + 1) * d_k)
        v = slice(2 * h * d_k + i * d_v, 2 * h * d_k + (i + 1) * d_v)
        expected = scaled_dot_product_attention(
            query @ module.w_qkv[q].T + constants[q],
            key @ module.w_qkv[k].T + constants[k],
            value @ module.w_qkv[v].T + constants[v],
        )
        assert_equal(module.head(i, query, key, value), expected)


def test_every_head_reads_the_whole_vector():
    """§3.2.2 ¶1: l'uscita di ogni testa dipende da tutte le componenti d'ingresso."""
    module = random_module(d_model=6, heads=3)
    x = random_inputs("self", 6)[0].requires_grad_()
    for i in range(3):
        (gradient,) = torch.autograd.grad(module.head(i, x, x, x).square().sum(), x)
        assert (gradient != 0).all()


# ¶2: MultiHead(Q, K, V) = Concat(head_1, …, head_h) W^O


@with_and_without_bias
@inputs
@pytest.mark.parametrize("sizes", SIZES)
def test_one_product_equals_one_product_per_head(sizes, roles, bias, device):
    """§3.2.2 ¶2: le matrici affiancate e il kernel fuso danno la formula, testa per testa."""
    module = random_module(device, **sizes, bias=bias)
    for batch in ((), (2, 3)):
        problem = random_inputs(roles, module.d_model, *batch, device=device)
        n = problem[0].size(-2)
        masks = (None, torch.rand(n, 5) < 0.6, torch.rand(5) < 0.6, torch.rand(*batch, 1, 5) < 0.6)
        for mask in masks:
            allowed = None if mask is None else mask.to(device)
            expected = module.forward_by_head(*problem, allowed)
            assert expected.shape == problem[0].shape
            assert_equal(module(*problem, allowed), expected)


@with_and_without_bias
@inputs
@pytest.mark.parametrize("sizes", SIZES)
@torch.no_grad()
def test_in_use_too_one_product_equals_one_product_per_head(sizes, roles, bias, device):
    """§3.2.2 ¶2: senza gradienti lavora il kernel fuso: gli stessi numeri, con ogni maschera."""
    module = random_module(device, **sizes, bias=bias)
    for batch in ((), (2,), (2, 3), (2, 1, 3)):
        problem = random_inputs(roles, module.d_model, *batch, device=device)
        n = problem[0].size(-2)
        some = torch.rand(n, 5) < 0.6
        some[0] = False
        for mask in (None, some, torch.rand(5) < 0.6, torch.rand(*batch, 1, 5) < 0.6):
            allowed = None if mask is None else mask.to(device)
            expected = module.forward_by_head(*problem, allowed)
            assert_equal(module(*problem, allowed), expected)
        if n == 5:
            triangle = torch.ones(5, 5, device=device).tril().bool()
            expected = module.forward_by_head(*problem, triangle)
            assert_equal(module(*problem, causal=True), expected)


def test_a_bias_on_the_keys_changes_nothing():
    """§3.2.2 ¶2: è la stessa costante su tutti i punteggi di una query, e la softmax la toglie."""
    module = random_module(d_model=6, heads=3, bias=True)
    problem = random_inputs("three", 6)
    before = module(*problem)
    with torch.no_grad():
        module.b_qkv[6:12] = 0
    assert_equal(module(*problem), before)


@with_and_without_bias
@inputs
def test_gradients_do_not_depend_on_the_form(roles, bias):
    """§3.2.2 ¶2: le due forme hanno anche gli stessi gradienti, parametro per parametro."""
    module = random_module(d_model=5, heads=3, d_k=7, d_v=2, bias=bias)
    problem = random_inputs(roles, 5)
    parameters = list(module.parameters())
    ours = torch.autograd.grad(module(*problem).square().sum(), parameters)
    theirs = torch.autograd.grad(module.forward_by_head(*problem).square().sum(), parameters)
    for fused, letter in zip(ours, theirs, strict=True):
        assert_equal(fused, letter, 1e-10)


def torch_twin(module: MultiHeadAttention) -> nn.MultiheadAttention:
    """Il modulo di PyTorch con gli stessi pesi; `torch.nn` conserva le trasposte."""
    twin = nn.MultiheadAttention(
        module.d_model, module.heads, bias=module.b_o is not None, batch_first=True
    ).to(module.w_o)
    with torch.no_grad():
        twin.in_proj_weight.copy_(module.w_qkv)
        twin.out_proj.weight.copy_(module.w_o)
        if module.b_qkv is not None:
            twin.in_proj_bias.copy_(module.b_qkv)
            twin.out_proj.bias.copy_(module.b_o)
    return twin


@with_and_without_bias
@inputs
def test_multi_head_equals_torch(roles, bias, device):
    """§3.2.2 ¶2: con gli stessi pesi, `torch.nn.MultiheadAttention` dà uscite e pesi uguali."""
    module = random_module(device, d_model=6, heads=3, bias=bias)
    problem = random_inputs(roles, 6, 2, device=device)
    mask = torch.rand(problem[0].size(-2), 5, device=device) < 0.6
    mask[:, 0] = True
    twin = torch_twin(module)
    for allowed in (None, mask):
        forbidden = None if allowed is None else ~allowed
        output, weights = twin(*problem, attn_mask=forbidden, average_attn_weights=False)
        assert_equal(module(*problem, allowed), output)
        with torch.no_grad():
            assert_equal(module(*problem, allowed), output)
        assert_equal(module.weights(*problem[:2], allowed), weights)


def test_one_head_with_identity_projections_is_attention():
    """§3.2.2 ¶2: con h = 1 e matrici identità non resta che l'eq. (1)."""
    module = random_module(d_model=5, heads=1)
    problem = random_inputs("three", 5)
    with torch.no_grad():
        module.w_qkv.copy_(torch.eye(5).repeat(3, 1))
        module.w_o.copy_(torch.eye(5))
    assert_equal(module(*problem), scaled_dot_product_attention(*problem))


def test_two_heads_two_tokens_by_hand():
    """§3.2.2 ¶2: pesi ¾ e ¼, W^O che fa somma e differenza: il caso a matita della pagina."""
    x = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0]], dtype=torch.float64)
    first, second = torch.eye(4).double().split(2, dim=1)
    c = math.sqrt(2) * math.log(3)
    module = random_module(d_model=4, heads=2)
    with torch.no_grad():
        columns = [c * first, -c * second, first, second, first, 2 * second]
        module.w_qkv.copy_(torch.cat(columns, dim=1).T)
        module.w_o.copy_(torch.tensor([[1, 0, 1, 0], [0, 1, 0, 1], [1, 0, -1, 0], [0, 1, 0, -1]]).T)
    weights = torch.tensor([[[3, 1], [1, 3]], [[1, 3], [3, 1]]]).double() / 4
    outputs = torch.tensor([[9, 3, -3, -1], [3, 9, -1, -3]]).double() / 4
    assert_equal(module.weights(x, x), weights)
    assert_equal(module.head(0, x, x, x), torch.tensor([[3, 1], [1, 3]]).double() / 4)
    assert_equal(module.head(1, x, x, x), torch.tensor([[3, 1], [1, 3]]).double() / 2)
    assert_equal(module(x, x, x), outputs)


def test_two_heads_recover_what_one_head_averages():
    """§3.2.2 ¶2: da una media i due value non si ricavano; due teste li rendono entrambi."""
    query, key, value = random_inputs("three", 7)
    p, q = attention_weights(query[:1], key[:2])[0]
    other = value[:2] + torch.stack([q, -p])[:, None]
    one_head = scaled_dot_product_attention(query[:1], key[:2], value[:2])
    assert_equal(scaled_dot_product_attention(query[:1], key[:2], other), one_head)

    content = torch.randn(10, 1, dtype=torch.float64)
    tokens = torch.cat([torch.eye(10, dtype=torch.float64), content], dim=1)
    module = random_module(d_model=11, heads=2, d_k=10, d_v=1)
    with torch.no_grad():
        module.w_qkv.zero_()
        w_q, w_k, w_v = module.projections
        w_q[0, :10, 2] = 1000
        w_q[1, :10, 7] = 1000
        w_k[:, :10] = torch.eye(10)
        w_v[:, 10] = 1
        module.w_o.copy_(torch.eye(11, 2))
    assert_equal(module(tokens, tokens, tokens)[:, :2], content[[2, 7]].T.expand(10, 2))


def test_concat_times_w_o_is_a_sum_over_heads():
    """§3.2.2 ¶2: W^O tagliata in blocchi traduce ogni testa e somma le traduzioni."""
    module = random_module(d_model=5, heads=3, d_k=7, d_v=2)
    problem = random_inputs("three", 5)
    blocks = module.w_o.T.split(2)
    contributions = [module.head(i, *problem) @ blocks[i] for i in range(3)]
    assert_equal(module(*problem), sum(contributions))


def test_heads_are_interchangeable():
    """§3.2.2 ¶2: scambiare due teste, insieme ai loro blocchi di W^O, non cambia nulla."""
    module = random_module(d_model=5, heads=3, d_k=7, d_v=2)
    problem = random_inputs("three", 5)
    before, order = module(*problem), [2, 0, 1]
    with torch.no_grad():
        for matrices in module.projections:
            matrices.copy_(matrices[order].clone())
        blocks = module.w_o.T.unflatten(0, (3, 2))
        blocks.copy_(blocks[order].clone())
    assert_equal(module(*problem), before)


def test_causal_is_passed_to_every_head():
    """§3.2.2 ¶2: `causal=True` vale la maschera triangolare per tutte le teste."""
    module = random_module(d_model=6, heads=3)
    problem = random_inputs("self", 6, 2)
    triangle = torch.ones(5, 5).tril().bool()
    assert_equal(module(*problem, causal=True), module.forward_by_head(*problem, triangle))


# I pesi da guardare


@with_and_without_bias
def test_weights_are_those_of_each_head(bias):
    """§3.2.2 ¶2: per ogni testa, la softmax fra le sue query e le sue key."""
    module = random_module(d_model=5, heads=3, d_k=7, d_v=2, bias=bias)
    query, key, _ = random_inputs("three", 5, 2)
    mask = torch.rand(2, 3, 5) < 0.6
    weights = module.weights(query, key, mask)
    assert weights.shape == (2, 3, 3, 5)
    w_q, w_k, _ = module.projections
    for i in range(3):
        b_q, b_k, _ = module.head_bias(i)
        expected = attention_weights(query @ w_q[i] + b_q, key @ w_k[i] + b_k, mask)
        assert_equal(weights[:, i], expected)


def test_nothing_is_stored_in_the_module():
    """§3.2.2 ¶2: il modulo dopo una chiamata è quello di prima: né pesi né uscite conservati."""
    module = random_module(d_model=6, heads=3, bias=True)
    problem = random_inputs("three", 6)
    attributes = {name: id(value) for name, value in vars(module).items()}
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    module(*problem)
    module.weights(*problem[:2])
    assert {name: id(value) for name, value in vars(module).items()} == attributes
    assert list(module.state_dict()) == list(state) == ["w_qkv", "w_o", "b_qkv", "b_o"]
    assert all(tensor.equal(state[name]) for name, tensor in module.state_dict().items())
    assert not list(module.buffers())


# ¶3: le matrici


@pytest.mark.parametrize("sizes", SIZES)
def test_projections_have_the_shapes_of_the_paper(sizes):
    """§3.2.2 ¶3: W_i^Q e W_i^K sono d_model×d_k, W_i^V d_model×d_v, W^O h·d_v×d_model."""
    module = random_module(**sizes)
    h, d_k, d_v, d_model = module.heads, module.d_k, module.d_v, module.d_model
    assert [tuple(matrix.shape) for matrix in module.projections] == [
        (h, d_model, d_k),
        (h, d_model, d_k),
        (h, d_model, d_v),
    ]
    assert module.w_o.shape == (d_model, h * d_v)


def test_the_formula_has_no_bias():
    """§3.2.2 ¶3: senza chiederli, termini costanti non ce ne sono; con `bias` sono due vettori."""
    without = MultiHeadAttention(d_model=6, heads=3)
    assert [name for name, _ in without.named_parameters()] == ["w_qkv", "w_o"]
    assert all(zero.item() == 0 for zero in without.head_bias(0))
    with_bias = MultiHeadAttention(d_model=6, heads=3, d_k=5, d_v=7, bias=True)
    assert with_bias.b_qkv.shape == (3 * (5 + 5 + 7),)
    assert with_bias.b_o.shape == (6,)


def test_the_bias_of_the_keys_changes_nothing():
    """Articolo ≠ codice: q·(k + b) aggiunge q·b a tutti i punteggi della riga; quelli di Q no."""
    module, inputs = random_module(d_model=6, heads=3, bias=True), random_inputs("three", 6)
    before = module(*inputs)
    query, key, _ = module.b_qkv.detach().split(module.widths)
    key += 3
    torch.testing.assert_close(module(*inputs), before, rtol=0, atol=1e-12)
    query += 3
    assert (module(*inputs) - before).abs().max() > 1e-3


def test_queries_keys_and_values_are_not_parameters():
    """§3.2.2 ¶3: i parametri sono due matrici; Q, K e V si ricalcolano a ogni ingresso."""
    module = MultiHeadAttention(d_model=6, heads=3).double()
    assert list(dict(module.named_parameters())) == ["w_qkv", "w_o"]
    x = random_inputs("self", 6)[0]
    for once, twice in zip(
        module.project(x, x, x), module.project(x * 2, x * 2, x * 2), strict=True
    ):
        assert not once.is_leaf
        assert_equal(twice, once * 2)


def test_initial_values_follow_glorot_matrix_by_matrix():
    """§3.2.2 ¶3: uniformi entro √(6 / (ingressi + uscite)) di ciascuna matrice; bias zero."""
    module = MultiHeadAttention(d_model=30, heads=3, d_k=11, d_v=53, bias=True)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7)
    module.reset_parameters()
    for matrix in (*module.w_qkv.detach().split([33, 33, 159]), module.w_o.detach()):
        limit = math.sqrt(6 / sum(matrix.shape))
        assert 0.98 * limit < matrix.abs().max() <= limit
        assert matrix.std() == pytest.approx(limit / math.sqrt(3), rel=0.05)
    assert (module.b_qkv == 0).all()
    assert (module.b_o == 0).all()


def test_a_new_module_is_already_initialised():
    """§3.2.2 ¶3: i valori iniziali sono finiti e diversi fra loro, i bias zero."""
    module = MultiHeadAttention(d_model=30, heads=3, bias=True)
    assert 0 < module.w_qkv.abs().max() < 1
    assert 0 < module.w_o.abs().max() < 1
    assert (module.b_qkv == 0).all()
    assert (module.b_o == 0).all()


# ¶4: h = 8, d_k = d_v = 64, e il costo


def test_base_model_has_eight_heads_of_64():
    """§3.2.2 ¶4: nel modello base h = 8 e d_k = d_v = d_model / h = 64, in ogni attenzione."""
    with torch.device("meta"):
        model = Transformer(BASE)
    attentions = [it for it in model.modules() if isinstance(it, MultiHeadAttention)]
    assert len(attentions) == 18
    for it in attentions:
        assert (it.d_model, it.heads, it.d_k, it.d_v) == (512, 8, 64, 64)
        assert it.w_o.shape == (512, 8 * 64)


@pytest.mark.parametrize("heads", [1, 4, 8, 16, 32])
def test_parameters_and_multiply_adds_do_not_depend_on_the_heads(heads):
    """§3.2.2 ¶4: con h·d_k = 512 e n = 50, sempre 4·512² parametri e 54 988 800 prodotti."""
    module = MultiHeadAttention(d_model=512, heads=heads)
    x = torch.randn(50, 512)
    with FlopCounterMode(display=False) as counter:
        module.forward_by_head(x, x, x)
    assert sum(parameter.numel() for parameter in module.parameters()) == 4 * 512**2
    assert counter.get_total_flops() == 2 * 54_988_800


@pytest.mark.parametrize(("d_k", "parameters"), [(16, 655_360), (32, 786_432), (64, 1_048_576)])
def test_parameters_with_narrower_keys(d_k, parameters):
    """§3.2.2 ¶4: con d_k = 16 o 32 e d_v = 64, come nelle righe (B) della tabella 3."""
    module = MultiHeadAttention(d_model=512, heads=8, d_k=d_k, d_v=64)
    assert sum(parameter.numel() for parameter in module.parameters()) == parameters


class MatrixProducts(TorchDispatchMode):
    """I prodotti di matrici eseguiti, ciascuno con le forme dei due operandi."""

    def __init__(self):
        super().__init__()
        self.left_operands, self.right_operands = [], []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.bmm):
            self.left_operands.append(tuple(args[0].shape))
            self.right_operands.append(tuple(args[1].shape))
        return operation(*args, **(kwargs or {}))


@pytest.mark.parametrize(("roles", "products"), [("self", 1), ("cross", 2), ("three", 3)])
def test_as_many_products_as_distinct_inputs(roles, products):
    """§3.2.2 ¶4: l'auto-attenzione proietta query, key e value con un prodotto solo."""
    module = random_module(d_model=6, heads=3)
    problem = random_inputs(roles, 6)
    with MatrixProducts() as executed:
        module.project(*problem)
    assert len(executed.right_operands) == products


def test_twelve_heads_are_four_products():
    """A20: 10 × 768 per 768 × 2304; poi dodici QKᵀ in una chiamata, dodici PV, e W^O."""
    module, x = MultiHeadAttention(768, 12), torch.randn(10, 768)
    with MatrixProducts() as executed:
        module(x, x, x)
    assert list(zip(executed.left_operands, executed.right_operands, strict=True)) == [
        ((10, 768), (768, 2304)),
        ((12, 10, 64), (12, 64, 10)),
        ((12, 10, 10), (12, 10, 64)),
        ((10, 768), (768, 768)),
    ]


@pytest.fixture
def packs(monkeypatch):
    """Dentro il blocco, quando conviene impacchettare anche la matrice più piccola."""
    monkeypatch.setattr(s3_2_2_multi_head, "LARGE", 1)
    with packed_weights():
        yield PACKS.get()


@pytest.mark.parametrize("columns", [1, 6, 2051])
@pytest.mark.parametrize("batch", [(), (0,), (1,), (1, 1), (2,), (2, 3), (17,)])
@with_and_without_bias
@torch.no_grad()
def test_packed_product_is_the_straight_one(batch, columns, bias, packs):
    """Commento: con i pesi impacchettati l'uscita è la stessa, anche con un'altra x."""
    weight, constant = torch.randn(7, columns), torch.randn(7) if bias else None
    for x in (torch.randn(*batch, columns), torch.randn(3, 2 * columns)[:, ::2]):
        exact = x.double() @ weight.double().T + (0 if constant is None else constant.double())
        output = linear(x, weight, constant)
        torch.testing.assert_close(output.double(), exact, rtol=0, atol=2e-6 * columns**0.5 * 4)
        assert output.is_contiguous()
    assert len(packs) == 1


def test_weights_are_packed_only_for_inference_on_cpu_in_fp32(packs):
    """Commento: con altri tipi o macchine, autocast o gradienti il prodotto è quello solito."""
    weight = torch.randn(7, 6)
    with torch.no_grad():
        linear(torch.randn(1, 6).double(), weight.double())
        with torch.autocast("cpu", torch.bfloat16):
            assert linear(torch.randn(1, 6), weight).dtype == torch.bfloat16
        linear(torch.randn(1, 6, device="meta"), weight.to("meta"))
    assert linear(torch.randn(1, 6), weight.requires_grad_()).requires_grad
    assert packs == {}
    with torch.no_grad():
        linear(torch.randn(2, 6), weight)
    assert len(packs) == 1


@torch.no_grad()
def test_weights_are_packed_only_if_large_and_in_order():
    """Commento: una matrice piccola non rende la copia, e una trasposta non è quella dei pesi."""
    x, side = torch.randn(2, 512), LARGE // 512
    weight = torch.randn(side, 512)
    linear(x, weight)
    assert PACKS.get() is None
    with packed_weights():
        linear(x, weight[1:])
        assert PACKS.get() == {}
        linear(x, weight)
        assert len(PACKS.get()) == 1
    with packed_weights():
        square = torch.randn(512, 512)
        for matrix in (square, square.T):
            exact = x.double() @ matrix.double().T
            torch.testing.assert_close(linear(x, matrix).double(), exact, rtol=0, atol=1e-3)
        assert len(PACKS.get()) == 1


@torch.no_grad()
def test_a_matrix_is_packed_once_until_the_end_of_the_block(packs):
    """Commento: una copia per matrice e per gruppo di righe, comune ai blocchi di dentro."""
    x, weight = torch.randn(2, 6), torch.randn(8, 6)
    whole = linear(x, weight)
    with packed_weights():
        parts = [linear(x, weight[rows]) for rows in (slice(3), slice(3, 8))]
        before = list(packs.values())
        linear(x, weight[:3])
    assert_equal(torch.cat(parts, dim=-1), whole, 1e-5)
    assert len(packs) == 3
    assert all(a is b for a, b in zip(before, packs.values(), strict=True))


@torch.no_grad()
def test_packs_end_with_their_block(monkeypatch):
    """Commento: i pesi si possono cambiare fra un blocco e l'altro, anche dopo un errore."""
    monkeypatch.setattr(s3_2_2_multi_head, "LARGE", 1)
    x, weight = torch.ones(2, 6), torch.ones(3, 6)
    for value in (1.0, 2.0):
        weight.fill_(value)
        with packed_weights():
            assert (linear(x, weight) == 6 * value).all()
        assert PACKS.get() is None
    with pytest.raises(TypeCheckError), packed_weights():
        linear(torch.ones(2, 5), weight)
    assert PACKS.get() is None


@torch.no_grad()
def test_a_matrix_that_dies_does_not_lend_its_pack(packs):
    """Commento: finché dura il blocco l'indirizzo di una matrice impacchettata non è di altre."""
    x = torch.ones(2, 64)
    for value in range(20):
        assert (linear(x, torch.full((64, 64), float(value))) == 64 * value).all()
    assert len(packs) == 20


def test_768_wide_with_12_heads():
    """§3.2.2 ¶4: 10 token, 12 teste: O è 10×64 per testa, W^O 768×768, 4·768² parametri."""
    module = MultiHeadAttention(d_model=768, heads=12)
    x = torch.randn(10, 768)
    assert module.head(0, x, x, x).shape == (10, 64)
    assert module.w_o.shape == (768, 768)
    assert module(x, x, x).shape == (10, 768)
    assert sum(parameter.numel() for parameter in module.parameters()) == 2_359_296


def test_the_arrows_carry_the_shapes_of_the_module():
    """§3.2.2 ¶4: ogni misura scritta nel disegno è quella di un tensore del modulo."""
    drawing = ElementTree.parse(ROOT / "paper_it/figure/s3_2_2_flow.svg").getroot()
    found = {"".join(it.itertext()) for it in drawing.iter("{http://www.w3.org/2000/svg}text")}
    module, x = MultiHeadAttention(d_model=768, heads=12), torch.randn(10, 768)
    q, k, v = module.roles(x, 0, 3)
    weights, output = module.weights(x, x), module(x, x, x)
    wide = x @ module.w_qkv.T
    sizes = {f"{it.size(1)} × {it.size(0)}" for it in (module.w_qkv, module.w_o)}
    sizes |= {f"ingresso {list(x.shape)}", f"uscita {list(output.shape)}", str(list(wide.shape))}
    for letter, role, part in zip("QKV", (q, k, v), wide.chunk(3, -1), strict=True):
        sizes |= {f"{letter} {list(part.shape)}", f"{letter}i {list(role.shape[1:])}"}
    head = module.head(0, x, x, x)
    sizes |= {f"Oi {list(head.shape)}", f"{len(q)} uscite {list(head.shape)}"}
    sizes |= {f"pesi {list(weights.shape[1:])}", f"× {len(weights)}", f"Concat: O {list(x.shape)}"}
    sizes |= {f"Oi: {head.size(1)} colonne", f"{head.size(1)} righe", f"{head.size(1)} colonne"}
    assert sizes <= found
    written = {text for text in found if re.search(r"\d", text)}
    assert written - sizes == {"softmax(Qi Kiᵀ / √64)", "12 contributi, sommati"}


# Un modulo come gli altri


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_short_types_stay_close_to_double_precision(dtype, device):
    """Il modulo si converte come ogni altro; l'errore è qualche unità dell'ultima cifra."""
    module = random_module(device, d_model=12, heads=3, bias=True).to(dtype)
    problem = [tensor.to(dtype) for tensor in random_inputs("three", 12, 2, device=device)]
    output = module(*problem)
    exact = module.double()(*(tensor.double() for tensor in problem))
    assert output.dtype == dtype
    assert_equal(output.double(), exact, 8 * torch.finfo(dtype).eps * exact.abs().max().item())


@with_and_without_bias
def test_autocast_chains_two_modules(bias, device):
    """Con autocast i prodotti sono in BF16, e l'uscita di un modulo entra nel successivo."""
    first, second = (
        random_module(device, d_model=12, heads=3, bias=bias).float() for _ in range(2)
    )
    x = random_inputs("self", 12, device=device)[0].float()
    exact = first(x, x, x)
    exact = second(exact, exact, exact)
    with torch.autocast(device, torch.bfloat16):
        assert first.project(x, x, x)[0].dtype == torch.bfloat16
        output = first(x, x, x)
        output = second(output, output, output)
    assert_equal(output.float(), exact, 0.05 * exact.abs().max().item())


def test_a_saved_module_reloads():
    """I parametri salvati si ricaricano in un modulo nuovo, che dà le stesse uscite."""
    old, new = (random_module(d_model=6, heads=3, bias=True) for _ in range(2))
    problem = random_inputs("three", 6)
    assert not old(*problem).equal(new(*problem))
    new.load_state_dict(old.state_dict())
    assert old(*problem).equal(new(*problem))


# Gli errori


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"d_model": 6, "heads": 0}, "heads: dato: 0; atteso: almeno una testa"),
        ({"d_model": 10, "heads": 3}, "d_model: dato: 10; atteso: un multiplo di heads = 3"),
        ({"d_model": 10, "heads": 3, "d_k": 2}, "d_model: dato: 10; atteso: un multiplo di heads"),
        ({"d_model": 10, "heads": 3, "d_v": 2}, "d_model: dato: 10; atteso: un multiplo di heads"),
        ({"d_model": 0, "heads": 1}, "d_model: dato: 0; atteso: almeno 1"),
        ({"d_model": 6, "heads": 3, "d_k": 0}, "d_k: dato: 0; atteso: almeno 1"),
        ({"d_model": 6, "heads": 3, "d_v": -2}, "d_v: dato: -2; atteso: almeno 1"),
    ],
)
def test_wrong_sizes_are_refused(sizes, message):
    """Larghezze e teste sono almeno 1; d_model si divide per h, se d_k e d_v mancano."""
    with pytest.raises(ValueError, match=f"^{message}"):
        MultiHeadAttention(**sizes)


@pytest.mark.parametrize("i", [-1, 4, 5])
def test_a_head_that_is_not_there_is_refused(i):
    """Le teste si contano da 0 a h − 1."""
    module = random_module(d_model=4, heads=4)
    with pytest.raises(ValueError, match=f"^i: dato: {i}; atteso: da 0 a 3$"):
        module.head(i, *random_inputs("three", 4))


X = torch.zeros(2, 5, 6)
LIKE_THE_WEIGHTS = "atteso: torch.float32, come i parametri del modulo"


@pytest.mark.parametrize(
    ("problem", "error", "message"),
    [
        ((X[..., :4], X, X), ValueError, "query: dato: larghezza 4; atteso: 6"),
        ((torch.zeros(2, 5, 7), X, X), ValueError, "query: dato: larghezza 7; atteso: 6"),
        ((X, X[..., :4], X), ValueError, "key: dato: larghezza 4; atteso: 6"),
        ((X, X, X[..., :4]), ValueError, "value: dato: larghezza 4; atteso: 6"),
        ((X, X.double(), X), TypeError, f"key: dato: torch.float64; {LIKE_THE_WEIGHTS}"),
        ((X, X, X.half()), TypeError, f"value: dato: torch.float16; {LIKE_THE_WEIGHTS}"),
        ((X.long(), X, X), TypeError, "query: dato: torch.int64; atteso: un tensore di tipo"),
        (([1.0], X, X), TypeError, "query: dato: list; atteso: un tensore di tipo"),
        ((X[0, 0], X, X), ValueError, r"query: dato: \[6\]; atteso: almeno \[righe, colonne\]"),
        ((X, X, X[:, :3]), ValueError, "value: dato: 3 righe; atteso: 5, una per key"),
        ((X, torch.zeros(3, 5, 6), X), ValueError, r"key: dato: un batch \[3\]"),
        ((X, X, X, [True]), TypeError, "mask: dato: list; atteso: un tensore torch.bool"),
        ((X, X, X, X), TypeError, "mask: dato: torch.float32; atteso: un tensore torch.bool"),
        (
            (X, X, X, torch.ones(7, 5).bool()),
            ValueError,
            r"mask: dato: \[7, 5\]; atteso: una forma",
        ),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_wrong_inputs_are_refused(problem, error, message):
    """Ogni errore nomina l'argomento, ciò che è stato dato e ciò che era atteso."""
    with pytest.raises(error, match=f"^{message}"):
        MultiHeadAttention(d_model=6, heads=3)(*problem)


@pytest.mark.usefixtures("our_own_errors")
def test_weights_and_heads_refuse_wrong_inputs_too():
    """Anche chi chiede solo i pesi, o una testa sola, sa quale argomento è sbagliato."""
    module = MultiHeadAttention(d_model=6, heads=3)
    for argument, call in (
        ("query", lambda it: module.weights(it, X)),
        ("key", lambda it: module.weights(X, it)),
        ("query", lambda it: module.head(0, it, X, X)),
        ("key", lambda it: module.head(0, X, it, X)),
        ("value", lambda it: module.head(0, X, X, it)),
    ):
        with pytest.raises(ValueError, match=f"^{argument}: dato: larghezza 4; atteso: 6$"):
            call(X[..., :4])
        with pytest.raises(
            TypeError, match=f"^{argument}: dato: torch.float64; {LIKE_THE_WEIGHTS}"
        ):
            call(X.double())


# Il Fortran della pagina


def test_fortran_on_the_page(fortran, call_fortran):
    """§3.2.2 ¶1: y = xW in Fortran, com'è scritta sulla pagina, proietta tutte le teste."""
    module = random_module(d_model=5, heads=3, d_k=7, d_v=2)
    x = random_inputs("self", 5)[0]
    y = torch.zeros(5, 48, dtype=torch.float64)
    routine = fortran("s3_2_2_multi_head").project
    call_fortran(routine, 5, 5, 48, x, module.w_qkv.detach(), y)
    q, k, v = (part.transpose(0, 1).flatten(1) for part in module.project(x, x, x))
    assert_equal(y, torch.cat([q, k, v], dim=1).detach())
