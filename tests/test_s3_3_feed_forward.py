"""§3.3: l'eq. (2) contro i cicli, contro `torch.nn`, contro la matita; che cosa fa la ReLU."""

import ctypes
import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from attention import BASE, FeedForward, Transformer, TransformerConfig
from attention.s3_2_attention import dot_product, weighted_sum
from attention.s3_3_feed_forward import feed_forward, relu

SIZES = [
    pytest.param(5, 7, id="si allarga"),
    pytest.param(7, 3, id="si stringe"),
    pytest.param(1, 1, id="tutto 1"),
]


def random_module(d_model: int = 5, d_ff: int = 7, device: str = "cpu") -> FeedForward:
    """Un modulo in doppia precisione, con i termini costanti diversi da zero."""
    module = FeedForward(d_model, d_ff).to(device, torch.float64)
    nn.init.normal_(module.b_1)
    nn.init.normal_(module.b_2)
    return module


def random_rows(*shape: int, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, device=device)


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def size(module: nn.Module) -> int:
    """Quanti parametri ha un modulo."""
    return sum(parameter.numel() for parameter in module.parameters())


def loops(x: Tensor, w_1: Tensor, b_1: Tensor, w_2: Tensor, b_2: Tensor) -> Tensor:
    """L'eq. (2) con i cicli in chiaro, una posizione per volta, un numero per volta."""
    (d_model, d_ff), output = w_1.shape, torch.zeros_like(x)
    for i in range(len(x)):
        hidden = []
        for j in range(d_ff):
            total = b_1[j].item()
            for c in range(d_model):
                total += x[i, c].item() * w_1[c, j].item()
            hidden.append(total if total > 0 else 0.0)
        for c in range(d_model):
            output[i, c] = b_2[c] + sum(hidden[j] * w_2[j, c].item() for j in range(d_ff))
    return output


def of_the_paper(module: FeedForward) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """I parametri nell'orientamento dell'articolo: le matrici a destra del vettore riga."""
    return module.w_1.mT, module.b_1, module.w_2.mT, module.b_2


# ¶1: FFN(x) = max(0, xW_1 + b_1) W_2 + b_2


@pytest.mark.parametrize(("d_model", "d_ff"), SIZES)
def test_equation_2_equals_the_loops(d_model, d_ff):
    """§3.3 ¶1: la formula e il modulo danno i numeri dei cicli in chiaro."""
    module, x = random_module(d_model, d_ff), random_rows(11, d_model)
    expected = loops(x, *of_the_paper(module))
    assert_equal(feed_forward(x, *of_the_paper(module)), expected)
    assert_equal(module(x), expected)


@pytest.mark.parametrize(("d_model", "d_ff"), SIZES)
def test_equation_2_equals_two_linear_layers_with_a_relu_between(d_model, d_ff, device):
    """§3.3 ¶1: Linear, ReLU, Linear di `torch.nn`, con gli stessi parametri senza trasporre."""
    module = random_module(d_model, d_ff, device)
    first, second = nn.Linear(d_model, d_ff), nn.Linear(d_ff, d_model)
    twin = nn.Sequential(first, nn.ReLU(), second).to(module.w_1)
    with torch.no_grad():
        for parameter, ours in zip(twin.parameters(), module.parameters(), strict=True):
            parameter.copy_(ours)
    for batch in ((), (2,), (2, 3)):
        x = random_rows(*batch, 11, d_model, device=device)
        assert module(x).shape == x.shape
        assert_equal(module(x), twin(x))
        assert_equal(feed_forward(x, *of_the_paper(module)), twin(x))


def test_gradients_do_not_depend_on_the_form():
    """§3.3 ¶1: la formula e il modulo hanno le stesse derivate, e sono quelle numeriche."""
    module, x = random_module(), random_rows(2, 3, 5).requires_grad_()
    inputs = [x, *module.parameters()]
    ours = torch.autograd.grad(module(x).square().sum(), inputs)
    letter = feed_forward(x, *of_the_paper(module))
    for fused, expected in zip(
        ours, torch.autograd.grad(letter.square().sum(), inputs), strict=True
    ):
        assert_equal(fused, expected, 1e-10)
    assert torch.autograd.gradcheck(
        lambda *all_of_them: feed_forward(*all_of_them),
        [
            random_rows(3, 5).requires_grad_(),
            *(parameter.detach().clone().requires_grad_() for parameter in of_the_paper(module)),
        ],
    )


def test_the_input_is_not_overwritten():
    """§3.3 ¶1: x resta com'era, anche senza gradienti e con poche righe."""
    for dtype, rows in itertools.product((torch.float32, torch.float64), (1, 2, 11)):
        module, x = random_module().to(dtype), random_rows(rows, 5).to(dtype)
        before = x.clone()
        with torch.no_grad():
            module(x)
        assert x.equal(before)


@pytest.mark.parametrize("rows", [1, 2, 7, 11])
def test_few_rows_without_gradients_give_the_same_numbers(rows):
    """§3.3 ¶1: le poche righe di un passo di generazione, in FP32, danno quelle della formula."""
    module, x = random_module(), random_rows(rows, 5)
    expected = loops(x, *of_the_paper(module))
    with torch.no_grad():
        assert_equal(module.float()(x.float()).double(), expected, 1e-4)


X = torch.tensor([[2, -1, 0.5]], dtype=torch.float64)
W_1 = torch.tensor([[1, -1, 0, 1], [0, 1, 2, 1], [2, 0, 2, 0]], dtype=torch.float64)
B_1 = torch.tensor([-1, 1, 0, 0], dtype=torch.float64)
W_2 = torch.tensor([[1, 0, -1], [3, 1, 0], [0, -2, 1], [-1, 1, 2]], dtype=torch.float64)
B_2 = torch.tensor([0, 1, 0], dtype=torch.float64)


def test_feed_forward_by_hand():
    """§3.3 ¶1: x = [2, −1, 0.5], due unità accese e due spente: il caso a matita della pagina."""
    before = X @ W_1 + B_1
    assert before.tolist() == [[2, -2, -1, 1]]
    assert relu(before).tolist() == [[2, 0, 0, 1]]
    assert feed_forward(X, W_1, B_1, W_2, B_2).tolist() == [[1, 2, 0]]
    module = FeedForward(3, 4).double()
    with torch.no_grad():
        for parameter, ours in zip(of_the_paper(module), (W_1, B_1, W_2, B_2), strict=True):
            parameter.copy_(ours)
    assert module(X).tolist() == [[1, 2, 0]]
    assert module.as_convolutions(X[None]).tolist() == [[[1, 2, 0]]]


def test_the_sign_of_a_preactivation_is_a_choice_of_w_1():
    """B5: cambiando segno a W_1 e b_1 si accendono le altre unità; la differenza è lineare."""
    assert relu(X @ -W_1 - B_1).tolist() == [[0, 2, 1, 0]]
    assert feed_forward(X, -W_1, -B_1, W_2, B_2).tolist() == [[6, 1, 1]]
    module, x = random_module(), random_rows(11, 5)
    w_1, b_1, w_2, b_2 = of_the_paper(module)
    difference = module(x) - feed_forward(x, -w_1, -b_1, w_2, b_2)
    assert_equal(difference, (x @ w_1 + b_1) @ w_2)


def test_off_units_leave_an_exact_linear_map():
    """§3.3 ¶1: finché sono accese le stesse unità la rete è affine; nel caso a mano, questa."""
    on = torch.tensor([1, 0, 0, 1], dtype=torch.float64)
    slope = (W_1 * on) @ W_2
    assert slope.tolist() == [[0, 1, 1], [-1, 1, 2], [2, 0, -2]]
    assert ((B_1 * on) @ W_2 + B_2).tolist() == [-1, 1, 1]
    assert (X @ slope + torch.tensor([-1.0, 1, 1])).tolist() == [[1, 2, 0]]
    near = X + torch.tensor([0.1, 0.2, -0.1])
    assert (near @ W_1 + B_1 > 0).tolist() == [[True, False, False, True]]
    assert_equal(feed_forward(near, W_1, B_1, W_2, B_2), near @ slope + torch.tensor([-1.0, 1, 1]))


def test_four_units_in_three_dimensions_make_15_pieces():
    """§3.3 ¶1: quattro piani di ℝ³ fanno 1 + 4 + 6 + 4 = 15 regioni, ognuna con la sua pendenza."""
    points = torch.cat([scale * random_rows(50_000, 3) for scale in (1, 5, 50)])
    _, region = (points @ W_1 + B_1 > 0).unique(dim=0, return_inverse=True)
    found = [points[region == k][:1] for k in range(int(region.max()) + 1)]
    slopes = [
        torch.autograd.functional.jacobian(lambda x: feed_forward(x, W_1, B_1, W_2, B_2), point)
        for point in found
    ]
    distinct = {tuple(slope.flatten().tolist()) for slope in slopes}
    assert len(distinct) == len(found) == sum(math.comb(4, i) for i in range(4)) == 15


# La ReLU


@given(st.floats(allow_nan=False, width=64))
def test_relu_passes_the_positive_and_stops_the_negative(value):
    """D13: max(0, x) numero per numero, infiniti compresi."""
    assert relu(torch.tensor([value], dtype=torch.float64)).item() == (value if value > 0 else 0)


def test_relu_of_a_number_does_not_look_at_the_others():
    """D13: è una funzione di un numero: permutare i numeri permuta i risultati."""
    x, order = random_rows(3, 5), [4, 2, 0, 3, 1]
    assert relu(x[:, order]).equal(relu(x)[:, order])


def test_derivative_of_relu_is_one_or_zero():
    """D13: 1 dove passa, 0 dove ferma; nel modulo, in zero, la scelta è 0."""
    x = torch.tensor([-2, -1e-30, 1e-30, 3], dtype=torch.float64, requires_grad=True)
    relu(x).sum().backward()
    assert x.grad.tolist() == [0, 0, 1, 1]
    module = FeedForward(2, 3)
    module(torch.zeros(1, 2)).sum().backward()
    assert (module.b_1.grad == 0).all()
    assert (module.b_2.grad == 1).all()
    for function, choice in ((torch.relu, 0), (lambda zero: zero.clamp(min=0), 1)):
        assert torch.func.grad(function)(torch.tensor(0.0)).item() == choice


def test_relu_is_a_half_wave_rectifier_not_a_filter():
    """B5: di una sinusoide restano continua 1/π, fondamentale 1/2 e armoniche pari nuove."""
    n = 4096
    wave = torch.sin(2 * math.pi * torch.arange(n, dtype=torch.float64) / n)
    before, after = (torch.fft.rfft(signal).abs() / n for signal in (wave, relu(wave)))
    amplitude = torch.cat([after[:1], 2 * after[1:]])
    assert before[0] < 1e-12
    assert amplitude[0].item() == pytest.approx(1 / math.pi, abs=1e-6)
    assert amplitude[1].item() == pytest.approx(1 / 2, abs=1e-6)
    for even in (2, 4, 6, 8):
        expected = 2 / (math.pi * (even**2 - 1))
        assert amplitude[even].item() == pytest.approx(expected, abs=1e-6)
    assert (amplitude[3:9:2] < 1e-12).all()


def test_relu_on_the_bits_is_an_and_with_the_complemented_sign():
    """D13: in FP32, x AND NOT (bit di segno esteso a tutta la parola) è max(0, x)."""
    x = torch.cat([random_rows(1000).float(), torch.tensor([0.0, -0.0, math.inf, -math.inf])])
    bits = x.view(torch.int32)
    assert (bits & ~(bits >> 31)).view(torch.float32).equal(relu(x))


def test_half_of_the_preactivations_are_negative_at_the_start():
    """B5: W_1 è simmetrica attorno a zero: prima di ogni addestramento ne è negativa metà."""
    module, x = FeedForward(d_model=101, d_ff=1009), torch.randn(211, 101)
    negative = (x @ module.w_1.T + module.b_1 < 0).double().mean().item()
    assert negative == pytest.approx(0.5, abs=0.02)


def test_a_unit_off_for_every_position_gets_no_gradient():
    """D13: spenta dappertutto, un'unità non ha gradiente: né in W_1 e b_1, né nella riga di W_2."""
    module, x = random_module(d_model=5, d_ff=101), random_rows(7, 5)
    with torch.no_grad():
        module.b_1[:13] = -1000
    off = (x @ module.w_1.T + module.b_1 <= 0).all(dim=0)
    module(x).square().sum().backward()
    assert off[:13].all()
    assert not off.all()
    assert (module.w_1.grad == 0).all(dim=1).equal(off)
    assert (module.b_1.grad == 0).equal(off)
    assert (module.w_2.grad == 0).all(dim=0).equal(off)


# B8: perché ci vuole la ReLU


def test_two_linear_maps_without_relu_are_one():
    """B8: (xW_1 + b_1) W_2 + b_2 = x (W_1 W_2) + (b_1 W_2 + b_2), una matrice e un vettore soli."""
    module, x = random_module(d_model=5, d_ff=23), random_rows(11, 5)
    w_1, b_1, w_2, b_2 = of_the_paper(module)
    product, constant = w_1 @ w_2, b_1 @ w_2 + b_2
    assert product.shape == (5, 5)
    assert_equal((x @ w_1 + b_1) @ w_2 + b_2, x @ product + constant)
    assert (module(x) - (x @ product + constant)).abs().max() > 0.1


def test_with_the_relu_the_map_is_not_linear():
    """B8: una funzione affine manda il punto medio nel punto medio; questa no."""
    module, (a, b) = random_module(d_model=5, d_ff=23), random_rows(2, 11, 5)
    straight = (module(a) + module(b)) / 2
    assert (module((a + b) / 2) - straight).abs().max() > 0.1


# D12: a che cosa serve


def test_two_units_compute_xor():
    """D12: max(0, a + b) − 2 max(0, a + b − 1); una funzione affine non può, con quattro punti."""
    bits = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    w_1, b_1 = torch.ones(2, 2), torch.tensor([0.0, -1])
    w_2, b_2 = torch.tensor([[1.0, 0], [-2, 0]]), torch.zeros(2)
    assert feed_forward(bits, w_1, b_1, w_2, b_2)[:, 0].tolist() == [0, 1, 1, 0]
    affine = bits @ torch.randn(2, 2) + torch.randn(2)
    assert_equal(affine[0] + affine[3], affine[1] + affine[2], 1e-6)


def test_feed_forward_is_a_sum_of_rows_of_w_2_weighed_by_the_columns_of_w_1():
    """D12: la forma di §3.2, con key e value che sono parametri e pesi non normalizzati."""
    module, x = random_module(), random_rows(11, 5)
    keys, values = module.w_1.tolist(), module.w_2.mT.tolist()
    for row, output in zip(x, module(x), strict=True):
        scores = [dot_product(row.tolist(), key) for key in keys]
        weights = [max(0.0, s + b) for s, b in zip(scores, module.b_1.tolist(), strict=True)]
        memory = torch.tensor(weighted_sum(weights, values), dtype=torch.float64)
        assert_equal(output, memory + module.b_2)


def test_two_thirds_of_an_encoder_layer_and_half_of_a_decoder_layer():
    """D12: nel modello base, la parte di parametri che sta nel feed-forward."""
    with torch.device("meta"):
        model = Transformer(BASE)
    encoder, decoder = model.encoder.layers[0], model.decoder.layers[0]
    assert size(encoder) == 3_150_336
    assert size(decoder) == 4_199_936
    assert size(encoder.feed_forward) / size(encoder) == pytest.approx(2 / 3, abs=1e-3)
    assert size(decoder.feed_forward) / size(decoder) == pytest.approx(1 / 2, abs=1e-3)


# ¶1: a ogni posizione, separatamente e allo stesso modo


def test_every_position_is_transformed_separately():
    """§3.3 ¶1: l'uscita di una posizione dipende solo dal suo ingresso."""
    module, x = random_module(), random_rows(3, 5)
    jacobian = torch.autograd.functional.jacobian(module, x)
    for i, j in itertools.product(range(3), range(3)):
        assert (jacobian[i, :, j] != 0).any().item() == (i == j)


@given(st.permutations(range(7)))
def test_permuting_the_positions_permutes_the_outputs(order):
    """§3.3 ¶1: nessuna posizione ha un trattamento suo (T16)."""
    module, x = random_module(), random_rows(7, 5)
    assert_equal(module(x[order]), module(x)[order])


# ¶2: gli stessi pesi fra posizioni, altri fra strati


def test_the_same_parameters_serve_every_position():
    """§3.3 ¶2: il gradiente dei pesi è la somma di quelli delle posizioni, prese una per una."""
    module, x = random_module(), random_rows(7, 5)
    parameters = list(module.parameters())
    together = torch.autograd.grad(module(x).square().sum(), parameters)
    one_by_one = [torch.autograd.grad(module(row[None]).square().sum(), parameters) for row in x]
    for gradient, parts in zip(together, zip(*one_by_one, strict=True), strict=True):
        assert_equal(gradient, torch.stack(parts).sum(dim=0), 1e-10)


def test_every_layer_has_its_own_parameters():
    """§3.3 ¶2: dodici feed-forward nel modello base, nessuno dei quali divide la memoria (T17)."""
    model = Transformer(TransformerConfig(d_model=8, heads=2, d_ff=11, vocabulary=13))
    networks = [module for module in model.modules() if isinstance(module, FeedForward)]
    parameters = [parameter for network in networks for parameter in network.parameters()]
    assert len(networks) == 12
    assert len({parameter.data_ptr() for parameter in parameters}) == len(parameters) == 48
    assert not networks[0].w_1.equal(networks[1].w_1)


@pytest.mark.parametrize(("d_model", "d_ff"), SIZES)
def test_feed_forward_is_two_convolutions_of_kernel_1(d_model, d_ff, device):
    """§3.3 ¶2: le due convoluzioni danno il modulo, gradienti compresi (T16)."""
    module, x = random_module(d_model, d_ff, device), random_rows(2, 11, d_model, device=device)
    assert_equal(module.as_convolutions(x), module(x))
    parameters = list(module.parameters())
    ours = torch.autograd.grad(module.as_convolutions(x).square().sum(), parameters)
    theirs = torch.autograd.grad(module(x).square().sum(), parameters)
    for convolution, product in zip(ours, theirs, strict=True):
        assert_equal(convolution, product, 1e-9)


def test_a_wider_kernel_would_look_at_the_neighbours():
    """§3.3 ¶2: allargato a 3 il kernel del modulo, un'uscita dipende anche dalle due vicine."""
    module, x = random_module(), random_rows(1, 11, 5)

    def wide(rows, outer):
        taps = outer * torch.ones(7, 5, 3).double()
        taps[..., 1] = module.w_1.detach()
        hidden = relu(F.conv1d(rows.mT, taps, module.b_1, padding=1))
        return F.conv1d(hidden, module.w_2.unsqueeze(-1), module.b_2).mT

    def touched(layer):
        jacobian = torch.autograd.functional.jacobian(layer, x)[0, :, :, 0]
        return [j for j in range(11) if (jacobian[4, :, j] != 0).any()]

    assert_equal(wide(x, 0), module.as_convolutions(x))
    assert touched(module.as_convolutions) == [4]
    assert touched(lambda rows: wide(rows, 1)) == [3, 4, 5]


@pytest.mark.parametrize(
    ("d_model", "d_ff", "parameters"), [(512, 2048, 2_099_712), (768, 3072, 4_722_432)]
)
def test_parameters_of_base_and_of_the_reader(d_model, d_ff, parameters):
    """§3.3 ¶2: 512 → 2048 → 512, e i numeri del lettore; quattro tensori e nient'altro."""
    module = FeedForward(d_model, d_ff)
    shapes = {name: tuple(parameter.shape) for name, parameter in module.named_parameters()}
    assert shapes == {
        "w_1": (d_ff, d_model),
        "b_1": (d_ff,),
        "w_2": (d_model, d_ff),
        "b_2": (d_model,),
    }
    assert size(module) == parameters
    assert (BASE.d_model, BASE.d_ff) == (512, 2048)


def test_ten_tokens_cost_94_million_operations():
    """§3.3 ¶2: 2 · 10 · 768 · 3072 due volte, e la forma torna quella dell'ingresso."""
    module, x = FeedForward(768, 3072), torch.randn(10, 768)
    with FlopCounterMode(display=False) as counter:
        assert module(x).shape == (10, 768)
    assert counter.get_total_flops() == 94_371_840


# D15: da dove vengono i valori iniziali


def test_initial_values_follow_glorot():
    """D15: uniformi entro √(6 / (ingressi + uscite)); termini costanti zero."""
    module = FeedForward(d_model=37, d_ff=211)
    limit = math.sqrt(6 / (37 + 211))
    for matrix in (module.w_1.detach(), module.w_2.detach()):
        assert 0.98 * limit < matrix.abs().max() <= limit
        assert matrix.std() == pytest.approx(limit / math.sqrt(3), rel=0.05)
        assert matrix.mean() == pytest.approx(0, abs=limit / 20)
    assert (module.b_1 == 0).all()
    assert (module.b_2 == 0).all()


def test_reset_draws_every_parameter_again():
    """D15: dopo `reset_parameters` nulla resta di ciò che c'era."""
    module = FeedForward(d_model=5, d_ff=7)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(9)
    module.reset_parameters()
    assert all((parameter != 9).all() for parameter in module.parameters())
    assert (module.b_1 == 0).all()
    assert (module.b_2 == 0).all()


def test_linear_of_torch_starts_elsewhere():
    """B7: `torch.nn.Linear`: ±1/√ingressi, bias compreso; il nostro: Glorot, e bias zero."""
    theirs, ours = nn.Linear(768, 3072), FeedForward(768, 3072)
    limit, glorot = 1 / math.sqrt(768), math.sqrt(6 / (768 + 3072))
    for parameter in (theirs.weight.detach(), theirs.bias.detach()):
        assert 0.98 * limit < parameter.abs().max() <= limit
    assert limit < 0.98 * glorot < ours.w_1.detach().abs().max() <= glorot
    assert not ours.b_1.any()
    assert theirs.weight.shape == ours.w_1.shape == (3072, 768)


# B6: la stessa matrice, due letture


def test_the_stored_bytes_are_the_matrix_of_the_paper_by_columns():
    """B6: (3072, 768) per righe e (768, 3072) per colonne sono gli stessi byte."""
    module = FeedForward(768, 3072)
    w_1 = module.w_1.detach()
    assert w_1.is_contiguous()
    assert w_1.mT.shape == (768, 3072)
    assert w_1.mT.stride() == (1, 768)
    assert w_1.mT.data_ptr() == w_1.data_ptr()
    assert w_1.mT[5, 7].item() == w_1.flatten()[5 + 768 * 7].item()


def test_fortran_on_the_page(fortran, call_fortran):
    """§3.3 ¶1: l'eq. (2) in Fortran legge i parametri del modulo così come stanno in memoria."""
    module, x = random_module(d_model=5, d_ff=7), random_rows(11, 5)
    stored = [parameter.detach() for parameter in module.parameters()]
    y = torch.zeros(11, 5, dtype=torch.float64)
    call_fortran(fortran("s3_3_feed_forward").feed_forward, 11, 5, 7, x, *stored, y)
    assert_equal(y, loops(x, *of_the_paper(module)).detach())


def test_fortran_that_skips_the_off_units(fortran, call_fortran):
    """§3.3 ¶1: saltare le righe di W_2 delle unità spente non cambia nulla; il conto è quello."""
    module, x = random_module(d_model=5, d_ff=7), random_rows(11, 5)
    w_1, b_1, w_2, b_2 = (parameter.detach() for parameter in of_the_paper(module))
    hidden = (x @ w_1 + b_1).clamp(min=0)
    y, rows = torch.zeros(11, 5, dtype=torch.float64), w_2.contiguous()
    read = ctypes.c_int(0)
    routine = fortran("s3_3_feed_forward").skip_off_units
    call_fortran(
        lambda *passed: routine(*passed, ctypes.byref(read)), 11, 5, 7, hidden, rows, b_2, y
    )
    assert_equal(y, module(x).detach())
    assert read.value == (hidden > 0).sum().item() < 77


# Un modulo come gli altri


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_short_types_stay_close_to_double_precision(dtype, device):
    """Il modulo si converte come ogni altro; l'errore è qualche unità dell'ultima cifra."""
    module = random_module(11, 13, device).to(dtype)
    x = random_rows(2, 3, 11, device=device).to(dtype)
    output = module(x)
    exact = module.double()(x.double())
    assert output.dtype == dtype
    assert_equal(output.double(), exact, 8 * torch.finfo(dtype).eps * exact.abs().max().item())


def test_a_saved_module_reloads():
    """I parametri salvati si ricaricano in un modulo nuovo, che dà le stesse uscite."""
    (old, new), x = (random_module() for _ in range(2)), random_rows(3, 5)
    assert not old(x).equal(new(x))
    new.load_state_dict(old.state_dict())
    assert old(x).equal(new(x))


# Gli errori


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 7), "d_model: dato: 0; atteso: almeno 1"),
        ((-3, 7), "d_model: dato: -3; atteso: almeno 1"),
        ((5, 0), "d_ff: dato: 0; atteso: almeno 1"),
        ((5, -1), "d_ff: dato: -1; atteso: almeno 1"),
    ],
)
def test_wrong_sizes_are_refused(sizes, message):
    """Le due larghezze sono almeno 1."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        FeedForward(*sizes)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (torch.zeros(3, 4), ValueError, "x: dato: larghezza 4; atteso: 5"),
        (torch.zeros(2, 3, 7), ValueError, "x: dato: larghezza 7; atteso: 5"),
        (torch.zeros(5), ValueError, r"x: dato: \[5\]; atteso: almeno \[righe, colonne\]"),
        (
            torch.zeros(3, 5, dtype=torch.int64),
            TypeError,
            "x: dato: torch.int64; atteso: un tensore",
        ),
        (
            torch.zeros(3, 5).double(),
            TypeError,
            "x: dato: torch.float64; atteso: torch.float32, come i parametri del modulo",
        ),
        ([[1.0]], TypeError, "x: dato: list; atteso: un tensore di tipo"),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_wrong_inputs_are_refused(x, error, message):
    """Ogni errore nomina l'argomento, ciò che è stato dato e ciò che era atteso."""
    with pytest.raises(error, match=f"^{message}"):
        FeedForward(5, 7)(x)
