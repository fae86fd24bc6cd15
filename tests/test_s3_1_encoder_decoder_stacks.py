"""§3.1: somma e normalizzazione, strati, pile; contro i cicli, `torch.nn`, la matita."""

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from attention import FeedForward, MultiHeadAttention
from attention.s3_1_encoder_decoder_stacks import (
    EPSILON,
    AddAndNorm,
    Decoder,
    DecoderLayer,
    Dropout,
    Encoder,
    EncoderLayer,
    LayerCache,
    LayerNorm,
    layer_norm,
)

WIDTH = 6
"""La larghezza degli strati di prova."""

HEADS = 3
"""Le loro teste."""

INNER = 11
"""La larghezza interna del loro feed-forward."""

batches = pytest.mark.parametrize("batch", [(), (2,), (2, 3)], ids=str)


def normal(*shape: int, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, device=device)


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def stirred(module: nn.Module, device: str = "cpu") -> nn.Module:
    """In doppia precisione, e con gain e bias che non sono più uno e zero."""
    module = module.to(device, torch.float64)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter))
    return module


def attention(bias: bool = False) -> MultiHeadAttention:
    return MultiHeadAttention(WIDTH, HEADS, bias=bias)


def encoder_layer(dropout: float = 0.0, bias: bool = False, device: str = "cpu") -> EncoderLayer:
    layer = EncoderLayer(attention(bias), FeedForward(WIDTH, INNER), WIDTH, dropout)
    return stirred(layer, device)


def decoder_layer(dropout: float = 0.0, bias: bool = False, device: str = "cpu") -> DecoderLayer:
    parts = attention(bias), attention(bias), FeedForward(WIDTH, INNER)
    return stirred(DecoderLayer(*parts, WIDTH, dropout), device)


class Silent(nn.Module):
    """Un sotto-strato che non dice nulla: zero, qualunque cosa riceva."""

    def forward(self, x: Tensor, *others: Tensor | None, causal: bool = False) -> Tensor:
        return torch.zeros_like(x)

    def roles(self, x: Tensor, first: int, last: int) -> list[Tensor]:
        return [x.unsqueeze(-3)] * (last - first)

    def attend(self, query: Tensor, *others: Tensor | None) -> Tensor:
        return torch.zeros_like(query.squeeze(-3))


# ¶1: la normalizzazione di strato


def by_the_loops(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """La normalizzazione in cicli: un vettore per volta, una componente per volta."""
    rows = x.reshape(-1, x.size(-1)).tolist()
    result = []
    for row in rows:
        mean = sum(row) / len(row)
        variance = sum((value - mean) ** 2 for value in row) / len(row)
        root = math.sqrt(variance + 0.000001)
        result.append([(value - mean) / root for value in row])
    return torch.tensor(result, dtype=torch.float64).reshape(x.shape) * gain + bias


@batches
def test_layer_norm_equals_the_loops_and_torch(batch, device):
    """§3.1 ¶1: la formula, il modulo, i cicli, `F.layer_norm` e `nn.LayerNorm` concordano."""
    x, gain, bias = normal(*batch, 7), normal(7), normal(7)
    module, twin = LayerNorm(7), nn.LayerNorm(7, eps=1e-6)
    for norm, scale, shift in ((module, module.gain, module.bias), (twin, twin.weight, twin.bias)):
        norm.to(device, torch.float64)
        with torch.no_grad():
            scale.copy_(gain)
            shift.copy_(bias)
    expected = by_the_loops(x, gain, bias)
    x, gain, bias = x.to(device), gain.to(device), bias.to(device)
    for computed in (
        layer_norm(x, gain, bias),
        module(x),
        twin(x),
        F.layer_norm(x, (7,), gain, bias, 1e-6),
    ):
        assert_equal(computed.cpu(), expected)


def test_layer_norm_by_hand():
    """§3.1 ¶1: (−1, 5, 5, 7) ha media 4 e varianza 9; il caso a matita della pagina."""
    x = torch.tensor([-1.0, 5, 5, 7], dtype=torch.float64)
    one, zero = torch.ones(4).double(), torch.zeros(4).double()
    by_hand = torch.tensor([-5, 1, 1, 3]).double() / math.sqrt(9.000001)
    assert_equal(layer_norm(x, one, zero), by_hand, 1e-15)
    assert_equal(by_hand, torch.tensor([-5, 1, 1, 3]).double() / 3, 1e-7)
    assert layer_norm(x.float(), one.float(), zero.float()).tolist() == pytest.approx(
        [-5 / 3, 1 / 3, 1 / 3, 1], rel=1e-7
    )
    gain, bias = torch.tensor([[3, 6, 9, 1], [1, -1, 0, 2]]).double()
    assert_equal(layer_norm(x, gain, bias), torch.tensor([-4, 1, 3, 3]).double(), 1e-6)


def test_epsilon_is_a_millionth_added_to_the_variance():
    """§3.1 ¶1: lo stesso vettore, mille volte più piccolo: ε pesa un nono della varianza."""
    assert EPSILON == 0.000001
    x = torch.tensor([-0.005, 0.001, 0.001, 0.003], dtype=torch.float64)
    by_hand = torch.tensor([-5, 1, 1, 3]).double() / math.sqrt(10)
    module = LayerNorm(4).double()
    for output in (layer_norm(x, module.gain, module.bias), module(x)):
        assert_equal(output, by_hand, 1e-12)
        assert output.square().mean().item() == pytest.approx(0.9, abs=1e-12)


def test_a_constant_vector_becomes_the_bias():
    """§3.1 ¶1: varianza zero; ε impedisce 0/0, e resta il bias."""
    gain, bias = normal(5), normal(5)
    assert layer_norm(torch.full((5,), 3.0).double(), gain, bias).equal(bias)


@batches
def test_every_vector_has_mean_zero_and_variance_one(batch):
    """§3.1 ¶1: con gain uno e bias zero, e a meno di ε: varianza σ²/(σ² + ε)."""
    x = 3 * normal(*batch, 5, 7) + 2
    output = LayerNorm(7).double()(x)
    expected = x.var(-1, correction=0) / (x.var(-1, correction=0) + 1e-6)
    assert_equal(output.mean(-1), torch.zeros(*batch, 5).double(), 1e-14)
    assert_equal(output.var(-1, correction=0), expected)


def test_the_variance_is_divided_by_the_width():
    """§3.1 ¶1: la varianza è quella divisa per d_model, non per d_model − 1."""
    output = LayerNorm(3).double()(normal(5, 3))
    assert_equal(output.square().sum(-1), torch.full((5,), 3.0).double(), 1e-4)


def test_every_vector_is_normalised_on_its_own():
    """§3.1 ¶1: il risultato di un vettore non dipende dai vettori vicini, né da quanti sono."""
    x = normal(2, 5, 7)
    norm = stirred(LayerNorm(7))
    together = norm(x)
    assert_equal(torch.stack([norm(row) for row in x.flatten(0, 1)]), together.flatten(0, 1))


@given(
    scale=st.floats(0.1, 100),
    offset=st.floats(-100, 100),
    seed=st.integers(0, 2**16),
)
def test_layer_norm_forgets_offset_and_length(scale, offset, seed):
    """§3.1 ¶1: a·x + c, con a > 0, dà lo stesso risultato di x: la lunghezza si perde."""
    x = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    norm = stirred(LayerNorm(7))
    size = norm.gain.abs().max().item() * 1e-3
    assert_equal(norm(scale * x + offset), norm(x), size)
    assert_equal(norm(-scale * x) - norm.bias, norm.bias - norm(x), size)


def test_gradient_of_layer_norm_ignores_offset_and_length():
    """§3.1 ¶1: il gradiente è ortogonale a (1, …, 1) e a x − media, e cala come 1/σ."""
    x, direction = normal(7), normal(7)
    norm = LayerNorm(7).double()
    gradients = []
    for scale in (1, 10):
        point = (scale * x).requires_grad_()
        (gradient,) = torch.autograd.grad(norm(point) @ direction, point)
        assert abs(gradient.sum().item()) < 1e-12
        assert abs((gradient @ (x - x.mean())).item()) < 1e-5
        gradients.append(gradient)
    assert_equal(gradients[0], 10 * gradients[1], 1e-4)


def test_gradients_of_layer_norm_are_those_of_the_formula():
    """§3.1 ¶1: rispetto al vettore, al gain e al bias, contro le differenze finite."""
    arguments = [normal(*shape).requires_grad_() for shape in ((2, 5), (5,), (5,))]
    assert torch.autograd.gradcheck(layer_norm, arguments)
    norm = stirred(LayerNorm(5))
    x = normal(2, 5).requires_grad_()
    ours = torch.autograd.grad(norm(x).square().sum(), [x, norm.gain, norm.bias])
    letter = layer_norm(x, norm.gain, norm.bias).square().sum()
    for fused, formula in zip(
        ours, torch.autograd.grad(letter, [x, norm.gain, norm.bias]), strict=True
    ):
        assert_equal(fused, formula, 1e-10)


def test_an_offset_of_ten_thousand_does_not_ruin_single_precision():
    """Se vieni dal Fortran: togliere prima la media salva le cifre, i quadrati no."""
    x = torch.randn(5, 768) + 10_000
    norm = LayerNorm(768)
    for output in (norm(x), layer_norm(x, norm.gain, norm.bias)):
        assert output.var(-1, correction=0).sub(1).abs().max() < 1e-3
    difference = x.square().mean(-1) - x.mean(-1).square()
    assert difference.sub(1).abs().max() > 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_layer_norm_in_short_types_is_as_good_as_the_type(dtype, device):
    """§3.1 ¶1: in mezza precisione l'errore è qualche unità dell'ultima cifra."""
    x = (3 * torch.randn(5, 768, device=device) + 2).to(dtype)
    norm = LayerNorm(768).to(device, dtype)
    exact = by_the_loops(x.double().cpu(), torch.ones(768), torch.zeros(768))
    assert norm(x).dtype == dtype
    assert_equal(norm(x).double().cpu(), exact, 8 * torch.finfo(dtype).eps)


def test_a_new_layer_norm_has_gain_one_and_bias_zero():
    """§3.1 ¶1: due parametri per componente, e all'inizio non fanno nulla."""
    norm = LayerNorm(7)
    assert [name for name, _ in norm.named_parameters()] == ["gain", "bias"]
    assert norm.gain.tolist() == [1] * 7
    assert norm.bias.tolist() == [0] * 7


# ¶1: LayerNorm(x + Sublayer(x))


def test_add_and_norm_by_hand():
    """§3.1 ¶1: (1, 4, 2, 5) + (−2, 1, 3, 2) = (−1, 5, 5, 7), poi si normalizza."""
    x = torch.tensor([[1, 4, 2, 5]]).double()
    said = torch.tensor([[-2, 1, 3, 2]]).double()
    around = AddAndNorm(4, 0.5).double().eval()
    assert_equal(around(x, said), torch.tensor([[-5, 1, 1, 3]]).double() / math.sqrt(9.000001))


@batches
def test_first_the_sum_then_the_norm(batch):
    """§3.1 ¶1: post-norm; né pre-norm, né la norma di uno solo dei due addendi."""
    x, said = 2 * normal(*batch, 5, 7) + 1, normal(*batch, 5, 7) - 3
    around = stirred(AddAndNorm(7, 0.5)).eval()
    gain, bias = around.norm.gain, around.norm.bias
    output = around(x, said)
    assert_equal(output, layer_norm(x + said, gain, bias))
    for other in (
        x + layer_norm(said, gain, bias),
        layer_norm(x, gain, bias) + said,
        layer_norm(x, gain, bias) + layer_norm(said, gain, bias),
        layer_norm(said, gain, bias),
    ):
        assert (output - other).abs().max() > 0.1


def test_post_norm_comes_out_normalised_and_pre_norm_does_not():
    """§3.1 ¶1: l'uscita di uno strato ha media 0 e varianza 1; in pre-norm la somma cresce."""
    layer = EncoderLayer(attention(), FeedForward(WIDTH, INNER), WIDTH, 0.0).double()
    x = 5 * normal(2, 7, WIDTH)
    post, pre = layer(x), pre_norm(layer, x)
    assert_equal(post.mean(-1), torch.zeros(2, 7).double(), 1e-14)
    assert_equal(post.var(-1, correction=0), torch.ones(2, 7).double(), 1e-4)
    assert (pre.var(-1, correction=0) - 1).abs().min() > 0.1


def pre_norm(layer: EncoderLayer, x: Tensor) -> Tensor:
    """Lo stesso strato con la normalizzazione all'ingresso dei sotto-strati."""
    y = layer.self_attention_norm.norm(x)
    x = x + layer.self_attention(y, y, y)
    return x + layer.feed_forward(layer.feed_forward_norm.norm(x))


def test_silent_sub_layers_leave_the_norm_of_the_input():
    """§3.1 ¶1 e ¶2: se i sotto-strati tacciono, x passa: resta la sua normalizzazione."""
    x, memory = normal(5, WIDTH), normal(7, WIDTH)
    once = LayerNorm(WIDTH).double()(x)
    encoder = EncoderLayer(Silent(), Silent(), WIDTH, 0.0).double()
    decoder = DecoderLayer(Silent(), Silent(), Silent(), WIDTH, 0.0).double()
    assert_equal(encoder(x), once, 1e-5)
    assert_equal(decoder(x, memory), once, 1e-5)


# ¶1: il dropout di §5.4, fra il sotto-strato e la somma


def test_dropout_touches_the_sub_layer_and_not_the_residual(device):
    """§5.4 ¶2: si azzera l'uscita del sotto-strato, prima della somma; x passa intero."""
    x, said = normal(5, 7, device=device), normal(5, 7, device=device)
    around = AddAndNorm(7, 0.4).to(device, torch.float64)
    torch.manual_seed(3)
    kept = around.dropout(said)
    assert 0 < (kept == 0).sum() < 35
    assert_equal(0.6 * kept[kept != 0], said[kept != 0])
    torch.manual_seed(3)
    assert_equal(around(x, said), around.norm(x + kept))


def test_dropout_by_hand(monkeypatch):
    """§5.4 ¶2: con P_drop = ¼ passa chi estrae almeno ¼, e passa diviso per ¾."""
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([0, 0.2, 0.25, 0.3, 0.99]))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        said = torch.tensor([3, 6, 9, -12, 15], dtype=dtype)
        output = Dropout(0.25)(said)
        assert output.dtype == dtype
        assert output.tolist() == pytest.approx([0, 0, 12, -16, 20], rel=torch.finfo(dtype).eps)


def test_what_survives_dropout_grows_and_the_mean_stays(device):
    """§5.4 ¶2: ogni numero si azzera con probabilità P_drop, e la media non cambia."""
    said = normal(7, device=device)
    output = Dropout(0.2)(said.expand(20_000, 7))
    assert (output == 0).double().mean().item() == pytest.approx(0.2, abs=0.01)
    assert_equal(output.mean(0), said, 0.03)


def test_dropout_zeroes_every_number_on_its_own(device):
    """§5.4 ¶2: zeri indipendenti lungo ogni asse: due vicini cadono insieme P_drop² volte."""
    fallen = (Dropout(0.3)(torch.ones(61, 67, 71, device=device)) == 0).double()
    assert fallen.mean().item() == pytest.approx(0.3, abs=0.005)
    for axis, size in enumerate(fallen.shape):
        one, other = fallen.narrow(axis, 0, size - 1), fallen.narrow(axis, 1, size - 1)
        assert (one * other).mean().item() == pytest.approx(0.3**2, abs=0.005)


def test_dropout_has_the_gradient_of_what_it_lets_through(device):
    """§5.4 ¶2: zero dove ha azzerato, 1 / (1 − P_drop) altrove."""
    said = normal(5, 7, device=device).requires_grad_()
    output = Dropout(0.4)(said)
    (gradient,) = torch.autograd.grad(output.sum(), said)
    assert_equal(gradient, (output != 0).double() / 0.6)


def test_dropout_in_use_or_at_zero_is_not_there():
    """§5.4 ¶2: in uso, o con P_drop = 0, passa lo stesso tensore e non si estrae nulla."""
    said, state = normal(5, 7), torch.get_rng_state()
    assert Dropout(0.4).eval()(said) is said
    assert Dropout(0.0)(said) is said
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_without_dropout_or_in_use_nothing_is_random(dropout):
    """§5.4 ¶2: con P_drop = 0, oppure in uso, due chiamate danno lo stesso; se no, no."""
    x, memory = normal(5, WIDTH), normal(7, WIDTH)
    for layer, arguments in (
        (encoder_layer(dropout), (x,)),
        (decoder_layer(dropout), (x, memory)),
    ):
        assert layer(*arguments).equal(layer(*arguments)) == (dropout == 0)
        layer.eval()
        assert layer(*arguments).equal(layer(*arguments))


def test_every_sub_layer_has_the_same_dropout():
    """§5.4 ¶2: due volte nello strato dell'encoder, tre in quello del decoder."""
    for layer, count in ((encoder_layer(0.3), 2), (decoder_layer(0.3), 3)):
        rates = [module.p for module in layer.modules() if isinstance(module, nn.Dropout)]
        assert rates == [0.3] * count


# ¶1: lo strato dell'encoder


@batches
@pytest.mark.parametrize("masked", [False, True])
def test_encoder_layer_is_two_sub_layers_in_a_row(batch, masked):
    """§3.1 ¶1: auto-attenzione, somma, norma; feed-forward, somma, norma. Scritto per esteso."""
    layer = encoder_layer()
    x = normal(*batch, 5, WIDTH)
    mask = torch.rand(*batch, 1, 5) < 0.6 if masked else None
    first = x + layer.self_attention.forward_by_head(x, x, x, mask)
    first = layer_norm(first, *layer.self_attention_norm.norm.parameters())
    second = first + layer.feed_forward(first)
    second = layer_norm(second, *layer.feed_forward_norm.norm.parameters())
    assert_equal(layer(x, mask), second)


def encoder_twin(layer: EncoderLayer) -> nn.TransformerEncoderLayer:
    """Lo strato di PyTorch con gli stessi pesi."""
    twin = nn.TransformerEncoderLayer(
        WIDTH, HEADS, INNER, dropout=0.0, layer_norm_eps=1e-6, batch_first=True
    ).to(layer.self_attention.w_o)
    with torch.no_grad():
        copy_attention(layer.self_attention, twin.self_attn)
        copy_rest(layer.feed_forward, twin)
        copy_norms([layer.self_attention_norm, layer.feed_forward_norm], [twin.norm1, twin.norm2])
    return twin


def copy_attention(ours: MultiHeadAttention, theirs: nn.MultiheadAttention) -> None:
    theirs.in_proj_weight.copy_(ours.w_qkv)
    theirs.in_proj_bias.copy_(ours.b_qkv)
    theirs.out_proj.weight.copy_(ours.w_o)
    theirs.out_proj.bias.copy_(ours.b_o)


def copy_rest(ours: FeedForward, theirs: nn.Module) -> None:
    for linear, weight, bias in (
        (theirs.linear1, ours.w_1, ours.b_1),
        (theirs.linear2, ours.w_2, ours.b_2),
    ):
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)


def copy_norms(ours: list[AddAndNorm], theirs: list[nn.LayerNorm]) -> None:
    for mine, norm in zip(ours, theirs, strict=True):
        norm.weight.copy_(mine.norm.gain)
        norm.bias.copy_(mine.norm.bias)


def test_encoder_layer_equals_torch(device):
    """§3.1 ¶1: gli stessi numeri di `nn.TransformerEncoderLayer`, con e senza padding."""
    layer = encoder_layer(bias=True, device=device)
    x, twin = normal(2, 5, WIDTH, device=device), encoder_twin(layer)
    visible = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], device=device).bool()
    assert_equal(layer(x), twin(x))
    assert_equal(layer(x, visible[:, None]), twin(x, src_key_padding_mask=~visible))


def test_encoder_layer_does_not_see_the_order():
    """§3.1 ¶1: senza posizioni, permutare i token permuta le uscite e basta."""
    layer, x, order = encoder_layer(), normal(5, WIDTH), [3, 0, 4, 1, 2]
    assert_equal(layer(x[order]), layer(x)[order])


# ¶2: lo strato del decoder


@batches
@pytest.mark.parametrize("masked", [False, True])
def test_decoder_layer_is_three_sub_layers_in_a_row(batch, masked):
    """§3.1 ¶2: l'attenzione all'encoder sta in mezzo; ognuno ha la sua somma e la sua norma."""
    layer = decoder_layer()
    x, memory = normal(*batch, 5, WIDTH), normal(*batch, 7, WIDTH)
    mask = torch.rand(*batch, 1, 7) < 0.6 if masked else None
    triangle = torch.ones(5, 5).tril().bool()
    y = x + layer.self_attention.forward_by_head(x, x, x, triangle)
    y = layer_norm(y, *layer.self_attention_norm.norm.parameters())
    y = y + layer.cross_attention.forward_by_head(y, memory, memory, mask)
    y = layer_norm(y, *layer.cross_attention_norm.norm.parameters())
    y = y + layer.feed_forward(y)
    y = layer_norm(y, *layer.feed_forward_norm.norm.parameters())
    assert_equal(layer(x, memory, mask), y)


def decoder_twin(layer: DecoderLayer) -> nn.TransformerDecoderLayer:
    """Lo strato di PyTorch con gli stessi pesi."""
    twin = nn.TransformerDecoderLayer(
        WIDTH, HEADS, INNER, dropout=0.0, layer_norm_eps=1e-6, batch_first=True
    ).to(layer.self_attention.w_o)
    with torch.no_grad():
        copy_attention(layer.self_attention, twin.self_attn)
        copy_attention(layer.cross_attention, twin.multihead_attn)
        copy_rest(layer.feed_forward, twin)
        ours = [layer.self_attention_norm, layer.cross_attention_norm, layer.feed_forward_norm]
        copy_norms(ours, [twin.norm1, twin.norm2, twin.norm3])
    return twin


def test_decoder_layer_equals_torch(device):
    """§3.1 ¶2: gli stessi numeri di `nn.TransformerDecoderLayer`, con e senza padding."""
    layer = decoder_layer(bias=True, device=device)
    x, memory = normal(2, 5, WIDTH, device=device), normal(2, 7, WIDTH, device=device)
    future = torch.ones(5, 5, device=device).tril().bool().logical_not()
    visible = torch.tensor([[1] * 7, [1] * 4 + [0] * 3], device=device).bool()
    twin = decoder_twin(layer)
    assert_equal(layer(x, memory), twin(x, memory, tgt_mask=future))
    expected = twin(x, memory, tgt_mask=future, memory_key_padding_mask=~visible)
    assert_equal(layer(x, memory, visible[:, None]), expected)


def test_layers_have_two_and_three_sub_layers():
    """§3.1 ¶1 e ¶2: due e tre; altrettante somme con normalizzazione."""
    for layer, names in (
        (encoder_layer(), ["self_attention", "feed_forward"]),
        (decoder_layer(), ["self_attention", "cross_attention", "feed_forward"]),
    ):
        children = [name for name, _ in layer.named_children()]
        assert children == [part for name in names for part in (name, f"{name}_norm")]
        norms = [module for module in layer.modules() if isinstance(module, LayerNorm)]
        assert len({id(norm.gain) for norm in norms}) == len(names)


def test_decoder_does_not_see_the_positions_that_follow():
    """§3.1 ¶2: cambiare x_j cambia le uscite da j in poi, e nessuna di quelle prima."""
    stack = Decoder([decoder_layer() for _ in range(2)])
    x, memory = normal(5, WIDTH), normal(7, WIDTH)
    before = stack(x, memory)
    for j in range(5):
        changed = x.clone()
        changed[j] += normal(WIDTH)
        moved = (stack(changed, memory) - before).abs().amax(-1)
        assert (moved[:j] < 1e-12).all()
        assert (moved[j:] > 1e-6).all()


def test_every_position_of_the_decoder_sees_the_whole_memory():
    """§3.1 ¶2: ogni uscita dipende da ogni vettore dell'encoder, se la maschera non lo vieta."""
    layer = decoder_layer()
    x, memory = normal(5, WIDTH), normal(7, WIDTH).requires_grad_()
    visible = torch.tensor([[1, 1, 0, 1, 1, 0, 1]]).bool()
    for mask, seen in ((None, [True] * 7), (visible, visible[0].tolist())):
        for i in range(5):
            (gradient,) = torch.autograd.grad(layer(x, memory, mask)[i].square().sum(), memory)
            assert gradient.ne(0).any(-1).tolist() == seen


def test_encoder_sees_before_and_after():
    """§3.1 ¶1: nell'encoder nulla è vietato, tranne ciò che vieta la maschera del padding."""
    layer, x = encoder_layer(), normal(5, WIDTH).requires_grad_()
    visible = torch.tensor([[1, 0, 1, 1, 0]]).bool()
    for mask in (None, visible):
        for i in range(5):
            (gradient,) = torch.autograd.grad(layer(x, mask)[i].square().sum(), x)
            seen = [mask is None or mask[0, j].item() or i == j for j in range(5)]
            assert gradient.ne(0).any(-1).tolist() == seen


# ¶2: la cache


def source_masks(batch: tuple[int, ...], n: int) -> Iterator[Tensor | None]:
    yield None
    yield torch.tensor([1, 0, 1, 1, 0, 1, 1]).bool()[:n]
    yield torch.rand(*batch, 1, n) < 0.7


@batches
def test_steps_with_the_cache_equal_the_whole_layer(batch, device):
    """§3.1 ¶2: un token alla volta, con la cache, si ottengono le uscite di `forward`."""
    layer = decoder_layer(device=device)
    x, memory = (normal(*batch, rows, WIDTH, device=device) for rows in (5, 7))
    for mask in source_masks(batch, 7):
        allowed = None if mask is None else mask.to(device)
        cache = layer.new_cache(memory, 5)
        cache.keys.fill_(math.nan)
        cache.values.fill_(math.nan)
        expected = layer(x, memory, allowed)
        for i in range(5):
            output = layer.step(x[..., i : i + 1, :], i, cache, allowed)
            assert_equal(output, expected[..., i : i + 1, :])


@batches
def test_tokens_that_contend_for_a_position_see_each_its_own_past(batch):
    """§3.1 ¶2: due ipotesi nella stessa cache danno ciò che ciascuna darebbe da sola."""
    layer, memory = decoder_layer(), normal(*batch, 7, WIDTH)
    first, second = normal(*batch, 3, WIDTH), normal(*batch, 3, WIDTH)
    second[..., 0, :] = first[..., 0, :]  # figlia della prima: il suo inizio è quello
    cache = layer.new_cache(memory, 6)
    cache.keys.fill_(math.nan)
    cache.values.fill_(math.nan)
    past = torch.tensor([[1, 0, 1, 0, 1, 0], [1, 0, 0, 1, 0, 1]]).bool().expand(*batch, 2, 6)
    for mask in (None, torch.rand(*batch, 1, 7) < 0.7):
        expected = torch.stack([layer(it, memory, mask) for it in (first, second)], dim=-2)
        for i in range(3):
            x = torch.stack([first[..., i, :], second[..., i, :]], dim=-2)
            known = torch.eye(2).bool() if i == 0 else past[..., : 2 * (i + 1)]
            output = layer.step(x, i, cache, mask, known.expand(*batch, 2, -1))
            assert_equal(output, expected[..., i, :, :])
    with pytest.raises(ValueError, match=r"^position: dato: 3; atteso: da 0 a 2$"):
        layer.step(x, 3, cache)


@batches
def test_tokens_that_contend_in_a_stack_see_each_its_own_past(batch):
    """§3.1 ¶2: lo stesso in una pila: ogni strato, non solo il primo, sa chi ha per antenati."""
    stack = Decoder([decoder_layer() for _ in range(3)])
    memory = normal(*batch, 7, WIDTH)
    first, second = normal(*batch, 3, WIDTH), normal(*batch, 3, WIDTH)
    second[..., 0, :] = first[..., 0, :]
    caches = stack.new_cache(memory, 6)
    past = torch.tensor([[1, 0, 1, 0, 1, 0], [1, 0, 0, 1, 0, 1]]).bool().expand(*batch, 2, 6)
    expected = torch.stack([stack(it, memory) for it in (first, second)], dim=-2)
    for i in range(3):
        x = torch.stack([first[..., i, :], second[..., i, :]], dim=-2)
        known = torch.eye(2).bool() if i == 0 else past[..., : 2 * (i + 1)]
        output = stack.step(x, i, caches, None, known.expand(*batch, 2, -1))
        assert_equal(output, expected[..., i, :, :])


@batches
def test_steps_of_the_stack_equal_the_whole_stack(batch):
    """§3.1 ¶2: lo stesso per la pila; ogni strato ha la sua cache."""
    stack = Decoder([decoder_layer() for _ in range(3)])
    x, memory = normal(*batch, 5, WIDTH), normal(*batch, 7, WIDTH)
    for mask in source_masks(batch, 7):
        caches = stack.new_cache(memory, 5)
        expected = stack(x, memory, mask)
        for i in range(5):
            output = stack.step(x[..., i : i + 1, :], i, caches, mask)
            assert_equal(output, expected[..., i : i + 1, :])


def test_keys_and_values_of_the_past_do_not_change():
    """§3.1 ¶2: un passo scrive solo il suo posto; prima e dopo resta ciò che c'era."""
    layer, x, memory = decoder_layer(), normal(5, WIDTH), normal(7, WIDTH)
    cache = layer.new_cache(memory, 5)
    cache.keys.zero_()
    cache.values.zero_()
    before = LayerCache(*(tensor.clone() for tensor in vars(cache).values()))
    layer.step(x[2:3], 2, cache)
    for name in ("keys", "values"):
        changed = (getattr(cache, name) != getattr(before, name)).flatten(0, 0).any(-1)
        assert changed.tolist() == [[False, False, True, False, False]] * HEADS
    assert cache.memory_keys.equal(before.memory_keys)
    assert cache.memory_values.equal(before.memory_values)


@batches
def test_cache_holds_the_projected_memory_and_room_for_the_target(batch):
    """§3.1 ¶2: le key e i value della sorgente si calcolano una volta, uguali a quelli interi."""
    narrow, wide = (MultiHeadAttention(WIDTH, HEADS, d_k=5, d_v=2) for _ in range(2))
    layer = stirred(DecoderLayer(narrow, wide, FeedForward(WIDTH, INNER), WIDTH, 0.0))
    memory = normal(*batch, 7, WIDTH)
    cache = layer.new_cache(memory, 11)
    _, keys, values = wide.project(memory, memory, memory)
    assert cache.keys.shape == (*batch, HEADS, 11, 5)
    assert cache.values.shape == (*batch, HEADS, 11, 2)
    assert_equal(cache.memory_keys, keys)
    assert_equal(cache.memory_values, values)


def test_a_token_of_the_small_gpt_2_takes_36_864_bytes_of_cache():
    """Domande, B18: 12 strati, key e value larghi 768, 2 byte l'uno; la sorgente non conta."""
    layer = DecoderLayer(
        MultiHeadAttention(768, 12), MultiHeadAttention(768, 12), Silent(), 768, 0.0
    ).bfloat16()
    cache = layer.new_cache(torch.zeros(1, 768, dtype=torch.bfloat16), 1)
    assert 12 * (cache.keys.nbytes + cache.values.nbytes) == 36_864


# Le pile


def all_parameters(stack: nn.Module) -> list[list[nn.Parameter]]:
    return [list(layer.parameters()) for layer in stack.layers]


@pytest.mark.parametrize("layer", [encoder_layer, decoder_layer])
def test_layers_are_identical_in_form_and_not_in_weights(layer):
    """§3.1: N = 6 strati con le stesse forme, e nessun parametro in comune."""
    stack = (Encoder if layer is encoder_layer else Decoder)([layer() for _ in range(6)])
    assert len(stack.layers) == 6
    parameters = all_parameters(stack)
    shapes = [[tuple(parameter.shape) for parameter in layer] for layer in parameters]
    assert shapes == [shapes[0]] * 6
    everything = [parameter for layer in parameters for parameter in layer]
    assert len({parameter.data_ptr() for parameter in everything}) == len(everything)
    assert len(everything) == len(list(stack.parameters()))
    matrices = [layer[0] for layer in parameters]
    assert not any(a.equal(b) for i, a in enumerate(matrices) for b in matrices[:i])


def test_a_stack_passes_each_output_to_the_next_layer():
    """§3.1: l'uscita di uno strato entra nel successivo; la memoria è la stessa per tutti."""
    x, memory = normal(5, WIDTH), normal(7, WIDTH)
    target_mask = torch.tensor([1, 1, 1, 0, 1]).bool()
    source_mask = torch.tensor([1, 0, 1, 1, 1, 1, 0]).bool()
    first, second, third = (encoder_layer() for _ in range(3))
    once = first(x, target_mask)
    assert_equal(
        Encoder([first, second, third])(x, target_mask),
        third(second(once, target_mask), target_mask),
    )
    first, second, third = (decoder_layer() for _ in range(3))
    once = first(x, memory, source_mask)
    expected = third(second(once, memory, source_mask), memory, source_mask)
    assert_equal(Decoder([first, second, third])(x, memory, source_mask), expected)


def test_the_gradient_reaches_every_parameter_of_every_layer():
    """§3.1: dall'uscita del decoder il gradiente arriva a tutti, encoder compreso."""
    encoder = Encoder([encoder_layer() for _ in range(2)])
    decoder = Decoder([decoder_layer() for _ in range(2)])
    output = decoder(normal(2, 5, WIDTH), encoder(normal(2, 7, WIDTH)))
    output.square().sum().backward()
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize(("stack", "layer"), [(Encoder, encoder_layer), (Decoder, decoder_layer)])
def test_a_stack_without_layers_or_with_a_repeated_one_is_refused(stack, layer):
    """§3.1: almeno uno strato, e nessuno ripetuto: i pesi sarebbero in comune."""
    with pytest.raises(ValueError, match=r"^layers: dato: nessuno strato; atteso: almeno uno$"):
        stack([])
    repeated = layer()
    message = r"^layers: dato: uno strato ripetuto; atteso: strati distinti$"
    with pytest.raises(ValueError, match=message):
        stack([repeated, layer(), repeated])
    assert len(stack([repeated]).layers) == 1


@pytest.mark.usefixtures("our_own_errors")
def test_vectors_of_the_wrong_shape_are_refused():
    """§3.1 ¶1: una somma fra forme diverse si estenderebbe in silenzio; qui è un errore."""
    x = torch.zeros(2, 5, WIDTH)
    with pytest.raises(ValueError, match=r"^x: dato: larghezza 5; atteso: 6$"):
        LayerNorm(WIDTH)(x[..., 1:])
    norm = AddAndNorm(WIDTH, 0.1)
    message = r"^sublayer_output: dato: \[2, 5, 1\]; atteso: \[2, 5, 6\], come x$"
    with pytest.raises(ValueError, match=message):
        norm(x, x[..., :1])
    with pytest.raises(ValueError, match=r"^sublayer_output: dato: \[1, 5, 6\]; atteso: "):
        norm(x, x[:1])


@pytest.mark.usefixtures("our_own_errors")
def test_a_step_outside_the_cache_is_refused():
    """§3.1: con posto per tre token, le posizioni vanno da 0 a 2; una cache per strato."""
    decoder = Decoder([decoder_layer() for _ in range(2)])
    caches = decoder.new_cache(normal(2, 7, WIDTH), 3)
    x = normal(2, 1, WIDTH)
    assert decoder.step(x, 2, caches).shape == x.shape
    for position in (-1, 3, 5):
        message = rf"^position: dato: {position}; atteso: da 0 a 2$"
        with pytest.raises(ValueError, match=message):
            decoder.step(x, position, caches)
    for wrong in (caches[:1], [*caches, caches[0]]):
        message = rf"^caches: dato: {len(wrong)} cache; atteso: 2, una per strato$"
        with pytest.raises(ValueError, match=message):
            decoder.step(x, 0, wrong)


def test_dropout_of_everything_leaves_nothing():
    """§5.4: con P = 1 resta zero; non si divide per 1 − P."""
    assert Dropout(1.0)(torch.ones(5)).equal(torch.zeros(5))


def test_a_cache_for_every_layer_and_no_more():
    """§3.1 ¶2: tante cache quanti strati, ciascuna di memoria sua."""
    stack = Decoder([decoder_layer() for _ in range(3)])
    memory, x = normal(7, WIDTH), normal(1, WIDTH)
    caches = stack.new_cache(memory, 5)
    assert len({cache.keys.data_ptr() for cache in caches}) == 3
    with pytest.raises(ValueError):  # noqa: PT011 - il messaggio è di zip
        stack.step(x, 0, caches[:2])


def test_a_saved_stack_reloads():
    """§3.1: i parametri salvati si ricaricano, e ridanno le stesse uscite."""
    old, new = (Encoder([encoder_layer() for _ in range(2)]) for _ in range(2))
    x = normal(5, WIDTH)
    assert not old(x).equal(new(x))
    new.load_state_dict(old.state_dict())
    assert old(x).equal(new(x))


def test_autocast_keeps_the_residual_in_full_precision(device):
    """§3.1 ¶1: i prodotti in BF16, la somma e la norma in FP32, come l'ingresso."""
    layer = encoder_layer(device=device).float()
    x = torch.randn(5, WIDTH, device=device)
    exact = layer(x)
    with torch.autocast(device, torch.bfloat16):
        output = layer(x)
    assert output.dtype == torch.float32
    assert_equal(output, exact, 0.1)


# I numeri del lettore


class MatrixProducts(TorchDispatchMode):
    """Per ogni prodotto di matrici eseguito: quanti, righe, colonne, profondità."""

    def __init__(self):
        super().__init__()
        self.found: list[tuple[int, int, int, int]] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        output = operation(*args, **(kwargs or {}))
        name = operation.overloadpacket
        if name in (torch.ops.aten.mm, torch.ops.aten.bmm, torch.ops.aten.addmm):
            left = args[1] if name == torch.ops.aten.addmm else args[0]
            count = output.size(0) if output.dim() == 3 else 1
            self.found.append((count, *output.shape[-2:], left.size(-1)))
        return output


def test_one_layer_of_the_reader_is_55_488_matrix_instructions():
    """Con i numeri del lettore: i prodotti che lo strato esegue davvero, contati da fuori."""
    layer = EncoderLayer(MultiHeadAttention(768, 12), FeedForward(768, 3072), 768, 0.0)
    x = torch.randn(10, 768)
    with sdpa_kernel(SDPBackend.MATH), MatrixProducts() as products:
        assert layer(x).shape == (10, 768)
    instructions = [
        count * math.ceil(rows / 16) * math.ceil(columns / 8) * math.ceil(depth / 16)
        for count, rows, columns, depth in products.found
    ]
    assert instructions == [13_824, 96, 96, 4_608, 18_432, 18_432]
    assert sum(instructions) == 55_488
    flops = sum(2 * math.prod(product) for product in products.found)
    assert flops == 141_864_960
    assert sum(parameter.numel() for parameter in layer.parameters()) == 7_084_800


def test_everything_between_sub_layers_is_as_wide_as_the_model():
    """§3.1 ¶1: tutti i sotto-strati danno d_model = 512 numeri per posizione: si può sommare."""
    encoder = EncoderLayer(MultiHeadAttention(512, 8), FeedForward(512, 2048), 512, 0.1)
    decoder = DecoderLayer(
        MultiHeadAttention(512, 8), MultiHeadAttention(512, 8), FeedForward(512, 2048), 512, 0.1
    )
    x, memory = torch.randn(2, 5, 512), torch.randn(2, 7, 512)
    seen = []
    for layer in (encoder, decoder):
        for module in layer.modules():
            if isinstance(module, MultiHeadAttention | FeedForward | AddAndNorm):
                module.register_forward_hook(lambda *call: seen.append(tuple(call[-1].shape)))
    encoder(x)
    decoder(x, memory)
    assert seen == [(2, 5, 512)] * 10
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 3_150_336
    assert sum(parameter.numel() for parameter in decoder.parameters()) == 4_199_936


# Perché non esplode


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


@pytest.mark.parametrize(("deviation", "power"), [(1.0, 34.6), (0.02, -6.15), (96**-0.5, 0.0)])
def test_without_norms_the_scale_of_the_weights_is_raised_to_the_depth(deviation, power):
    """D19: 24 matrici moltiplicano la scala per (σ√d)²⁴; con residuo e norma resta 1."""
    d, depth = 96, 24
    deviation *= math.sqrt(768 / d) if deviation != d**-0.5 else 1
    matrices = [deviation * normal(d, d) for _ in range(depth)]
    bare = normed = normal(11, d)
    add_and_norm = AddAndNorm(d, 0.0).double()
    for matrix in matrices:
        bare = bare @ matrix
        normed = add_and_norm(normed, normed @ matrix)
    assert math.log10(rms(bare)) == pytest.approx(power, abs=1)
    assert rms(normed) == pytest.approx(1, abs=1e-4)


def deep(depth: int, kind: str) -> tuple[float, float, float, float]:
    """Uscita, distanza fra i token, gradiente della prima e dell'ultima W_1, ai pesi iniziali."""
    width = 48
    torch.manual_seed(7)
    layers = [
        EncoderLayer(MultiHeadAttention(width, 3), FeedForward(width, 4 * width), width, 0.0)
        for _ in range(depth)
    ]
    x, direction = torch.randn(2, 5, 11, width).unbind()
    for layer in layers:
        norms = layer.self_attention_norm.norm, layer.feed_forward_norm.norm
        if kind == "post":
            x = layer(x)
        elif kind == "pre":
            x = pre_norm(layer, x)
        elif kind == "residual":
            x = x + layer.self_attention(x, x, x)
            x = x + layer.feed_forward(x)
        elif kind == "neither":
            x = layer.feed_forward(layer.self_attention(x, x, x))
        else:
            x = norms[0](layer.self_attention(x, x, x))
            x = norms[1](layer.feed_forward(x))
    size, spread = rms(x), rms(x - x.mean(-2, keepdim=True)) / rms(x)
    (F.layer_norm(x, (width,)) * direction).sum().backward()
    first, last = (layer.feed_forward.w_1.grad.norm().item() for layer in (layers[0], layers[-1]))
    return size, spread, first, last


def test_residual_alone_explodes_and_norm_alone_makes_the_tokens_equal():
    """D17: la norma tiene la scala, il residuo tiene le differenze: servono tutt'e due."""
    residual, norm, both = (deep(6, kind) for kind in ("residual", "norm", "post"))
    assert residual[0] > 3
    assert norm[0] == pytest.approx(1, abs=1e-3)
    assert norm[1] < 1e-4
    assert both[0] == pytest.approx(1, abs=1e-3)
    assert both[1] > 0.1
    assert residual[1] > 0.1
    assert residual[2] > 5 * residual[3]


def test_without_both_nothing_is_left_and_at_24_layers_only_pre_norm_keeps_tokens_apart():
    """La tabella, a 24 strati: l'uscita spenta, l'esplosione, i token che si avvicinano."""
    neither, residual, post, pre = (deep(24, it) for it in ("neither", "residual", "post", "pre"))
    assert neither[0] < 1e-3
    assert neither[1] < 1e-4
    assert residual[0] > 1e4
    assert residual[2] > 100 * deep(6, "residual")[2]
    assert post[1] < 0.01 < 0.1 < pre[1]


def test_post_norm_keeps_large_gradients_near_the_output_and_pre_norm_does_not():
    """Articolo ≠ codice: all'inizio l'ultimo strato riceve lo stesso in post-norm, meno in pre."""
    (*_, shallow), (*_, deeper) = deep(3, "post"), deep(24, "post")
    assert 0.7 < deeper / shallow < 1.4
    (*_, shallow), (*_, deeper) = deep(3, "pre"), deep(24, "pre")
    assert 0.2 < deeper / shallow < 0.5
    for kind in ("post", "pre"):
        *_, first, _ = deep(24, kind)
        *_, alone, _ = deep(1, kind)
        assert 0.4 < first / alone < 2.5


# Il Fortran della pagina


def test_fortran_on_the_page(fortran, call_fortran):
    """§3.1 ¶1: somma e normalizzazione in cicli DO danno i numeri del modulo."""
    around = stirred(AddAndNorm(7, 0.0))
    x, said = normal(5, 7), normal(5, 7)
    y = torch.zeros(5, 7, dtype=torch.float64)
    library = fortran("s3_1_encoder_decoder_stacks")
    gain, bias = around.norm.gain.detach(), around.norm.bias.detach()
    call_fortran(library.layer_norm, 5, 7, x, gain, bias, y)
    assert_equal(y, around.norm(x).detach())
    call_fortran(library.add_and_norm, 5, 7, x, said, gain, bias, y)
    assert_equal(y, around(x, said).detach())


def test_one_pass_variance_cancels_and_welford_does_not(fortran, call_fortran):
    """Se vieni dal Fortran: tre varianze in REAL*4 attorno a zero e attorno a 10 000."""
    library = fortran("s3_1_encoder_decoder_stacks")
    x = torch.randn(768).double()
    for offset, ruined in ((0, False), (10_000, True)):
        shifted = (x + offset).float().double()
        exact = shifted.var(correction=0).item()
        variances = torch.zeros(3, dtype=torch.float64)
        call_fortran(library.variances, 768, shifted, variances)
        two_passes, squares, welford = variances.tolist()
        assert two_passes == pytest.approx(exact, rel=1e-3)
        assert welford == pytest.approx(exact, rel=1e-2)
        assert (abs(squares - exact) > 0.5 * exact) == ruined
