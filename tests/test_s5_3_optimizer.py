"""§5.3: il tasso di apprendimento contro la formula e la matita; Adam contro i conti e PyTorch."""

import math
import re
from decimal import Decimal, getcontext

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attention import FeedForward, Transformer, TransformerConfig, shift_right
from attention.s5_3_optimizer import (
    BETAS,
    EPSILON,
    WARMUP,
    adam_update,
    learning_rate,
    make_optimizer,
    set_learning_rate,
)
from weave.house import ROOT

TORCH_BETAS = (0.9, 0.999)
"""I valori che propone [20], e da cui parte PyTorch."""

SMALL = TransformerConfig(layers=2, d_model=8, d_ff=11, heads=2, dropout=0.0, vocabulary=13)


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def moves(gradients: list[float], betas=BETAS, epsilon: float = 0.0) -> list[float]:
    """Di quanti tassi Adam sposta un peso, passo per passo, dati i suoi gradienti."""
    parameter, first, second = numbers(0), numbers(0), numbers(0)
    found = []
    for step, gradient in enumerate(gradients, 1):
        before = parameter
        parameter, first, second = adam_update(
            parameter, numbers(gradient), first, second, step, 1.0, betas, epsilon
        )
        found.append((before - parameter).item())
    return found


# ¶1 e ¶2: l'equazione (3)

steps = st.integers(1, 10**7)
sizes = st.integers(1, 10**5)


@given(steps, sizes, st.integers(1, 10**5))
def test_rate_is_equation_3_to_the_letter(step, d_model, warmup):
    """§5.3 ¶1: la formula, con 30 cifre decimali al posto di 16."""
    getcontext().prec = 30
    power = Decimal("-0.5")
    expected = Decimal(d_model) ** power * min(
        Decimal(step) ** power, step * Decimal(warmup) ** Decimal("-1.5")
    )
    assert learning_rate(step, d_model, warmup) == pytest.approx(float(expected), rel=1e-13)


@pytest.mark.parametrize(
    ("step", "d_model", "expected", "last_digit"),
    [
        (1, 512, 1.74693e-7, 1e-12),
        (2000, 512, 3.493856e-4, 1e-10),
        (4000, 512, 6.987712e-4, 1e-10),
        (16_000, 512, 3.493856e-4, 1e-10),
        (100_000, 512, 1.397542e-4, 1e-10),
        (4000, 1024, 4.941059e-4, 1e-10),
        (300_000, 1024, 5.70544e-5, 1e-10),
    ],
)
def test_rates_of_the_base_and_of_the_big_model(step, d_model, expected, last_digit):
    """§5.3 ¶1: le cifre calcolate a parte, con warmup_steps = 4000 e fino all'ultima."""
    assert learning_rate(step, d_model) == pytest.approx(expected, abs=0.5 * last_digit)


def test_the_constants_are_those_printed():
    """§5.3: β_1 = 0,9, β_2 = 0,98, ε = 10⁻⁹, warmup_steps = 4000."""
    assert BETAS == (0.9, 0.98)
    assert EPSILON == 1e-9
    assert WARMUP == 4000


@given(st.integers(1, WARMUP), sizes)
def test_until_warmup_the_rate_is_proportional_to_the_step(step, d_model):
    """§5.3 ¶2: per i primi warmup_steps passi cresce linearmente, da un passo a 4000."""
    first = learning_rate(1, d_model)
    assert learning_rate(step, d_model) == pytest.approx(step * first, rel=1e-13)


@given(st.integers(WARMUP, 10**6), st.integers(2, 9), sizes)
def test_after_warmup_the_rate_is_an_inverse_square_root(step, times, d_model):
    """§5.3 ¶2: su carta bilogaritmica, dopo warmup_steps, la pendenza è −0,5."""
    rise = math.log(learning_rate(step * times, d_model) / learning_rate(step, d_model))
    assert rise / math.log(times) == pytest.approx(-0.5, abs=1e-12)


@given(steps, st.integers(1, 10**5))
def test_the_two_branches_meet_at_warmup_and_nowhere_else(step, warmup):
    """§5.3 ¶1: prima del warmup il minimo è la retta, dopo è la radice; lì sono uguali."""
    rate = learning_rate(step, 1, warmup)
    rising, falling = step / (warmup * math.sqrt(warmup)), 1 / math.sqrt(step)
    assert rate == pytest.approx(rising if step <= warmup else falling, rel=1e-13)
    assert (rising < falling) == (step < warmup) or math.isclose(rising, falling)


def test_the_peak_is_one_over_the_root_of_width_times_warmup():
    """§5.3 ¶1: il massimo è al passo warmup_steps, e vale 1/√(d_model · warmup_steps)."""
    rates = [learning_rate(step, 7, 11) for step in range(1, 60)]
    assert rates.index(max(rates)) + 1 == 11
    assert max(rates) == pytest.approx(1 / math.sqrt(7 * 11))
    assert learning_rate(4000, 512) ** -2 == pytest.approx(2_048_000)


@given(st.integers(1, 200), st.integers(1, 20), sizes)
def test_a_step_of_the_rise_has_a_twin_in_the_fall(step, times, d_model):
    """§5.3 ¶1: i passi w/k e w·k² hanno lo stesso tasso: 2000 e 16 000, con w = 4000."""
    warmup = step * times
    rise, fall = (learning_rate(s, d_model, warmup) for s in (step, warmup * times**2))
    assert rise == pytest.approx(fall, rel=1e-13)
    assert 2000 * 2 == WARMUP == 16_000 // 2**2


@given(steps, st.integers(1, 1000), st.integers(1, 10**5))
def test_four_times_the_width_halves_every_rate(step, d_model, warmup):
    """§5.3 ¶1: la larghezza entra come radice, allo stesso modo in ogni passo."""
    narrow, wide = (learning_rate(step, width, warmup) for width in (d_model, 4 * d_model))
    assert wide == pytest.approx(narrow / 2, rel=1e-13)


def test_a_matita_the_rates():
    """A matita: d_model = 4 e warmup_steps = 4 danno 1/16, 1/8, 3/16, 1/4, poi 1/6, 1/8, 1/16."""
    by_hand = {1: 1 / 16, 2: 1 / 8, 3: 3 / 16, 4: 1 / 4, 9: 1 / 6, 16: 1 / 8, 64: 1 / 16}
    for step, expected in by_hand.items():
        assert learning_rate(step, 4, 4) == pytest.approx(expected, rel=1e-15)


def test_the_rates_of_a_whole_training_add_up_to_24():
    """Commento: un peso che tirasse sempre dalla stessa parte farebbe 23,8; 1,4 nel warmup."""
    groups = [50 * learning_rate(step, 512) for step in range(25, 100_000, 50)]
    assert sum(groups) == pytest.approx(23.76, abs=0.005)
    assert sum(groups[: 4000 // 50]) == pytest.approx(1.40, abs=0.005)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((0, 512), ValueError, "step: dato: 0; atteso: almeno 1"),
        ((-1, 512), ValueError, "step: dato: -1; atteso: almeno 1"),
        ((1, 0), ValueError, "d_model: dato: 0; atteso: almeno 1"),
        ((1, 512, 0), ValueError, "warmup: dato: 0; atteso: almeno 1"),
        ((1.5, 512), TypeError, "step: dato: 1.5; atteso: un numero intero"),
        ((1, 512.0), TypeError, "d_model: dato: 512.0; atteso: un numero intero"),
        ((1, 512, "4000"), TypeError, "warmup: dato: 4000; atteso: un numero intero"),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_step_zero_and_other_impossible_rates_are_refused(arguments, error, message):
    """§5.3 ¶1: a zero la formula divide per zero; i passi si contano da 1."""
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        learning_rate(*arguments)


# ¶1: Adam


def test_two_steps_by_the_closed_form():
    """§5.3 ¶1, T29: il primo passo è g/(|g| + ε), il secondo ha pesi 0,9 e 1 sopra 1,9."""
    g_1, g_2 = numbers(3, -2, 1e-9, 5), numbers(-7, -11, 2e-9, 0)
    start, rates = numbers(1, 2, 3, 4), (0.25, 0.5)
    zero = torch.zeros(4, dtype=torch.float64)
    one, first, second = adam_update(start, g_1, zero, zero, 1, rates[0])
    assert_equal(one, start - rates[0] * g_1 / (g_1.abs() + 1e-9))
    two, first, second = adam_update(one, g_2, first, second, 2, rates[1])
    size = ((0.98 * g_1**2 + g_2**2) / 1.98).sqrt()
    assert_equal(two, one - rates[1] * (0.9 * g_1 + g_2) / 1.9 / (size + 1e-9))
    assert_equal(first, 0.09 * g_1 + 0.1 * g_2)
    assert_equal(second, 0.0196 * g_1**2 + 0.02 * g_2**2)


def test_a_matita_two_steps_of_adam():
    """A matita: g = 3 e poi −3; la correzione la chiama −1/19, e θ va da 1 a 15/16 a 287/304."""
    theta, first, second = numbers(1), numbers(0), numbers(0)
    rates = [learning_rate(step, 4, 4) for step in (1, 2)]
    theta, first, second = adam_update(theta, numbers(3), first, second, 1, rates[0])
    assert_equal(torch.cat([theta, first, second]), numbers(15 / 16, 0.3, 0.18), 1e-10)
    theta, first, second = adam_update(theta, numbers(-3), first, second, 2, rates[1])
    assert_equal(torch.cat([theta, first, second]), numbers(287 / 304, -0.03, 0.3564), 1e-10)


@pytest.mark.parametrize(
    ("second_gradient", "expected"),
    [(1, 1), (-1, -1 / 19), (0, 0.6733), (10, 0.8033)],
)
def test_a_matita_the_second_step_depends_on_the_second_gradient(second_gradient, expected):
    """A matita: dopo un primo gradiente 1, di quanti tassi ci si muove al secondo passo."""
    assert moves([1, second_gradient])[1] == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("options", [{}, {"foreach": True}, {"fused": True}], ids=str)
@pytest.mark.parametrize("betas", [BETAS, TORCH_BETAS], ids=str)
def test_adam_is_that_of_torch(options, betas):
    """§5.3 ¶1: undici passi con gradienti e tassi diversi, come `torch.optim.Adam`."""
    ours = torch.randn(3, 5, dtype=torch.float64)
    theirs = torch.nn.Parameter(ours.clone())
    optimizer = torch.optim.Adam([theirs], lr=1, betas=betas, eps=0.03, **options)
    first = second = torch.zeros_like(ours)
    for step in range(1, 12):
        gradient, rate = torch.randn_like(ours), learning_rate(step, 7, 5)
        ours, first, second = adam_update(ours, gradient, first, second, step, rate, betas, 0.03)
        theirs.grad = gradient
        set_learning_rate(optimizer, rate)
        optimizer.step()
        assert_equal(theirs.detach(), ours)
    assert_equal(optimizer.state[theirs]["exp_avg"], first)
    assert_equal(optimizer.state[theirs]["exp_avg_sq"], second)


def test_the_arguments_of_an_update_are_left_alone():
    """Commento: `adam_update` non scrive sui suoi argomenti."""
    given_ones = [numbers(1, 2), numbers(3, 4), numbers(5, 6), numbers(7, 8)]
    copies = [tensor.clone() for tensor in given_ones]
    adam_update(*given_ones, 3, 0.1)
    for tensor, copy in zip(given_ones, copies, strict=True):
        assert tensor.equal(copy)


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=8), st.floats(1e-3, 1e3))
def test_the_scale_of_the_loss_does_not_matter(gradients, scale):
    """Commento: la perdita moltiplicata per una costante dà gli stessi spostamenti, se ε è zero."""
    gradients = [gradient + math.copysign(0.1, gradient) for gradient in gradients]
    scaled = moves([gradient * scale for gradient in gradients])
    assert scaled == pytest.approx(moves(gradients), rel=1e-9, abs=1e-12)


@given(st.floats(1e-6, 1e6), st.sampled_from([1, -1]), st.sampled_from([BETAS, TORCH_BETAS]))
def test_the_first_step_is_a_sign(size, sign, betas):
    """Commento: al primo passo ogni peso si muove di un tasso, nel verso opposto al gradiente."""
    (moved,) = moves([sign * size], betas, EPSILON)
    assert moved == pytest.approx(sign, abs=2e-3)


def test_a_constant_gradient_always_moves_one_rate():
    """Commento: grazie alla correzione della distorsione, dal primo passo all'ultimo."""
    assert moves([-3.0] * 50) == pytest.approx([-1] * 50, rel=1e-12)


def uncorrected(step: int, betas=BETAS) -> float:
    """Di quanti tassi muoverebbe un gradiente costante senza la correzione della distorsione."""
    return (1 - betas[0] ** step) / math.sqrt(1 - betas[1] ** step)


def test_without_correction_the_first_steps_would_have_the_wrong_size():
    """Commento: 0,71 al primo passo, 1,55 al quattordicesimo; con 0,999, 3,2 e fino a 6,6."""
    first = second = numbers(0)
    for step in range(1, 30):
        _, first, second = adam_update(numbers(0), numbers(5), first, second, step, 1.0)
        assert (first / second.sqrt()).item() == pytest.approx(uncorrected(step), rel=1e-12)
    found = [uncorrected(step) for step in range(1, 1000)]
    assert found[0] == pytest.approx(0.707, abs=5e-4)
    assert max(found) == found[13] == pytest.approx(1.554, abs=5e-4)
    found = [uncorrected(step, TORCH_BETAS) for step in range(1, 1000)]
    assert found[0] == pytest.approx(3.162, abs=5e-4)
    assert max(found) == pytest.approx(6.57, abs=5e-3)


def largest_move(step: int, betas=BETAS) -> float:
    """Il massimo di |m̂|/√v̂ a un passo, su tutti i gradienti possibili (Cauchy e Schwarz)."""
    beta_1, beta_2 = betas
    ratio = beta_1**2 / beta_2
    memory = (1 - beta_1) ** 2 / (1 - beta_2) * (1 - ratio**step) / (1 - ratio)
    return math.sqrt(memory * (1 - beta_2**step)) / (1 - beta_1**step)


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=12), st.sampled_from([BETAS, (0.9, 0.999)])
)
def test_no_gradient_moves_a_weight_more_than_the_bound(gradients, betas):
    """Commento: qualunque sia la successione dei gradienti, comprese quelle a zero."""
    found = moves(gradients, betas, EPSILON)
    for step, moved in enumerate(found, 1):
        assert abs(moved) <= largest_move(step, betas) * (1 + 1e-9)


@pytest.mark.parametrize(("betas", "limit"), [(BETAS, 1.698), (TORCH_BETAS, 7.270)], ids=str)
def test_the_bound_is_reached_and_is_1_7_rates(betas, limit):
    """Commento: la raggiunge un gradiente che cresce di β_2/β_1 a passo; con 0,999 è 7,3."""
    growing = [(betas[1] / betas[0]) ** step for step in range(40)]
    found = moves(growing, betas)
    assert found == pytest.approx([largest_move(step, betas) for step in range(1, 41)], rel=1e-12)
    bounds = [largest_move(step, betas) for step in range(1, 20_000)]
    assert max(bounds) == pytest.approx(limit, abs=5e-4)
    assert bounds[-1] == pytest.approx(max(bounds), rel=1e-6)


@pytest.mark.parametrize(
    ("betas", "at_once", "in_all"), [(BETAS, 0.707, 7.78), (TORCH_BETAS, 3.162, 31.8)], ids=str
)
def test_a_lonely_gradient_moves_0_7_rates_with_0_98_and_3_2_with_0_999(betas, at_once, in_all):
    """Commento: dopo lunghi zeri, (1 − β_1)/√(1 − β_2); poi l'inerzia, fino a 7,8 tassi o 31,8."""
    theta, first, second, found = numbers(0), numbers(0), numbers(0), []
    for age in range(400):
        gradient = numbers(1e4 if age == 0 else 0)
        theta, first, second = adam_update(theta, gradient, first, second, 10**5, 1.0, betas, 0.0)
        found.append(-theta.item())
    assert found[0] == pytest.approx((1 - betas[0]) / math.sqrt(1 - betas[1]), rel=1e-12)
    assert found[0] == pytest.approx(at_once, abs=5e-4)
    assert found[-1] == pytest.approx(in_all, abs=0.05)


def test_an_enormous_gradient_slows_its_weight_for_two_hundred_steps():
    """B11: dopo un gradiente cento volte il solito: a cento passi un quinto, a duecento metà."""
    first, second, moved = numbers(1), numbers(1), []
    for age in range(201):
        gradient = numbers(100 if age == 0 else 1)
        theta, first, second = adam_update(numbers(0), gradient, first, second, 10**6, 1.0)
        moved.append(-theta.item())
    assert moved[100] == pytest.approx(1 / 5, abs=0.02)
    assert moved[200] == pytest.approx(1 / 2, abs=0.05)


def noise(beta: float) -> float:
    """La varianza della media di numeri indipendenti di varianza 1: somma dei pesi al quadrato."""
    return sum(((1 - beta) * beta**age) ** 2 for age in range(40_000))


def test_a_gradient_that_changes_sign_at_random_moves_0_23_rates():
    """Commento: la media di un rumore ha varianza (1 − β_1)/(1 + β_1) = 1/19."""
    assert noise(BETAS[0]) == pytest.approx(1 / 19, rel=1e-9)
    signs = torch.where(torch.rand(4000) < 0.5, -1.0, 1.0).double().tolist()
    found = numbers(*moves(signs)[200:])
    assert found.square().mean().sqrt().item() == pytest.approx(19**-0.5, rel=0.05)


@pytest.mark.parametrize(
    ("betas", "half", "expected"), [(BETAS, 34.3, 0.142), (TORCH_BETAS, 692.8, 0.0316)], ids=str
)
def test_the_memory_is_50_steps_and_the_estimate_is_noisier(betas, half, expected):
    """Commento: metà del ricordo in 34 passi invece di 693; v̂ balla del 14% invece del 3%."""
    assert math.log(0.5) / math.log(betas[1]) == pytest.approx(half, abs=0.05)
    first, second, waited = numbers(0), numbers(1), 0
    while second.item() > 0.5:
        waited += 1
        _, first, second = adam_update(numbers(0), numbers(0), first, second, 1, 1.0, betas)
    assert waited == math.ceil(half)
    assert math.sqrt(2 * noise(betas[1])) == pytest.approx(expected, abs=5e-4)
    zero = torch.zeros(1000, dtype=torch.float64)
    first, second = zero, zero + 1
    for step in range(1, 6 * waited):
        gradient = torch.randn(1000, dtype=torch.float64)
        _, first, second = adam_update(zero, gradient, first, second, step, 1.0, betas)
    assert second.std().item() == pytest.approx(expected, rel=0.1)


@pytest.mark.parametrize(("betas", "expected"), [(BETAS, 300), (TORCH_BETAS, 6043)], ids=str)
def test_a_gradient_ten_times_smaller_is_believed_after_300_steps(betas, expected):
    """Commento: quando la taglia cala di dieci volte, i passi per tornare a 0,9 tassi."""
    theta, first, second, waited = numbers(0), numbers(0.1), numbers(1), 0
    while -theta.item() < 0.9:
        waited += 1
        theta, first, second = adam_update(
            numbers(0), numbers(0.1), first, second, 10**6, 1.0, betas, 0.0
        )
    assert waited == expected


# ¶1: ε


@pytest.mark.parametrize(
    ("gradient", "epsilon", "expected"),
    [
        (1e-9, 1e-9, 1 / 2),
        (1e-9, 1e-8, 1 / 11),
        (1e-8, 1e-9, 10 / 11),
        (1e-6, 1e-9, 1000 / 1001),
        (1e-11, 1e-9, 1 / 101),
    ],
)
def test_epsilon_halves_the_step_of_a_gradient_as_small_as_itself(gradient, epsilon, expected):
    """T29: con g = 10⁻⁹ il passo è metà con ε = 10⁻⁹, un undicesimo con 10⁻⁸."""
    assert moves([gradient], epsilon=epsilon) == pytest.approx([expected], rel=1e-9)


def test_a_weight_without_gradient_stays_where_it_is():
    """T29: zero su ε è zero; senza ε è zero su zero, e il peso è perduto."""
    assert moves([0.0, 0.0], epsilon=EPSILON) == [0, 0]
    assert math.isnan(moves([0.0])[0])


def test_half_precision_has_no_such_epsilon():
    """Commento: in FP16 ε è zero, e anche il quadrato di un decimillesimo; in BF16 no."""
    assert torch.tensor(EPSILON).half().item() == 0
    assert torch.tensor(1e-4).half().square().item() == 0
    assert torch.tensor(EPSILON).bfloat16().item() == pytest.approx(EPSILON, rel=2**-8)
    for dtype, lost in ((torch.float16, True), (torch.bfloat16, False)):
        zero, epsilon = torch.zeros(1, dtype=dtype), torch.tensor(EPSILON, dtype=dtype).item()
        moved, _, _ = adam_update(zero, zero, zero, zero, 1, 1.0, epsilon=epsilon)
        assert moved.isnan().all().item() is lost


def test_the_other_epsilon_is_seven_times_larger_at_the_first_step():
    """Articolo ≠ codice: α·√(1 − β_2^t)/(1 − β_1^t)·m/(√v + ε̂) è la nostra con ε̂/√(1 − β_2^t)."""
    gradient, first, second = numbers(2e-9), numbers(0), numbers(0)
    for step in (1, 2, 3):
        ours, new_first, new_second = adam_update(
            numbers(0), gradient, first, second, step, 1.0, BETAS, 1e-9 / math.sqrt(1 - 0.98**step)
        )
        rate = math.sqrt(1 - 0.98**step) / (1 - 0.9**step)
        theirs = -rate * new_first / (new_second.sqrt() + 1e-9)
        assert_equal(ours, theirs)
        first, second = new_first, new_second
    assert 1 / math.sqrt(1 - 0.98) == pytest.approx(7.07, abs=5e-3)


@pytest.mark.parametrize("step", [0, -3])
def test_an_update_has_a_step_number_from_1(step):
    """Al passo zero la correzione della distorsione divide per zero."""
    zero = numbers(0)
    with pytest.raises(ValueError, match=f"^step: dato: {step}; atteso: almeno 1$"):
        adam_update(zero, zero, zero, zero, step, 1.0)


# L'ottimizzatore del modello


def loss_of(model: Transformer) -> Tensor:
    """La perdita di due frasi, che in parte hanno gli stessi token."""
    device = model.embedding.weight.device
    source = torch.tensor([[3, 7, 5], [4, 3, 9]], device=device)
    wanted = torch.tensor([[8, 3, 2], [3, 12, 2]], device=device)
    chosen, _ = model.score(source, shift_right(wanted, 1), wanted)
    return -chosen.mean()


def test_the_optimizer_has_the_constants_of_the_paper():
    """§5.3 ¶1: Adam con quelle costanti, un kernel solo, nient'altro; tutti i parametri."""
    model = Transformer(SMALL)
    optimizer = make_optimizer(model)
    assert type(optimizer) is torch.optim.Adam
    (group,) = optimizer.param_groups
    assert group["betas"] == (0.9, 0.98)
    assert group["eps"] == 1e-9
    assert group["lr"] == 0
    assert group["fused"] is True
    assert group["weight_decay"] == 0
    assert not group["amsgrad"]
    assert [*map(id, group["params"])] == [*map(id, model.parameters())]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_optimizer_moves_a_model_as_the_formula_says(dtype, device):
    """§5.3 ¶1: tre passi del modello, ogni parametro come `adam_update`, tabella compresa."""
    model = Transformer(SMALL).to(device, dtype)
    optimizer = make_optimizer(model)
    expected = {
        name: (value.detach().clone(), torch.zeros_like(value), torch.zeros_like(value))
        for name, value in model.named_parameters()
    }
    for step in (1, 2, 3):
        rate = learning_rate(step, 8, 2)
        optimizer.zero_grad()
        loss_of(model).backward()
        set_learning_rate(optimizer, rate)
        optimizer.step()
        for name, value in model.named_parameters():
            theta, first, second = expected[name]
            expected[name] = adam_update(theta, value.grad, first, second, step, rate)
            tolerance = 1e-12 if dtype == torch.float64 else 1e-6
            assert_equal(value.detach(), expected[name][0], tolerance)


def test_forgetting_the_rate_moves_nothing():
    """Commento: il tasso nasce zero, e con zero nessun peso si muove."""
    model = Transformer(SMALL)
    before = [value.detach().clone() for value in model.parameters()]
    optimizer = make_optimizer(model)
    loss_of(model).backward()
    optimizer.step()
    assert all(old.equal(new) for old, new in zip(before, model.parameters(), strict=True))


def test_the_rate_reaches_every_group():
    """`set_learning_rate` vale per tutti i gruppi di parametri."""
    values = [torch.nn.Parameter(numbers(1)) for _ in range(2)]
    optimizer = torch.optim.SGD([{"params": [value]} for value in values], lr=1.0)
    set_learning_rate(optimizer, 0.25)
    for value in values:
        value.grad = numbers(2)
    optimizer.step()
    assert [value.item() for value in values] == [0.5, 0.5]
    set_learning_rate(optimizer, 0.0)
    assert [group["lr"] for group in optimizer.param_groups] == [0, 0]


@pytest.mark.parametrize("rate", [-1e-9, -1.0, math.inf, math.nan])
def test_impossible_rates_are_refused(rate):
    """Un tasso negativo, infinito o NaN non arriva ai pesi."""
    optimizer = make_optimizer(torch.nn.Linear(2, 3))
    with pytest.raises(
        ValueError, match=rf"^rate: dato: {rate}; atteso: un numero finito, almeno 0$"
    ):
        set_learning_rate(optimizer, rate)
    assert optimizer.param_groups[0]["lr"] == 0


def test_the_optimizer_keeps_two_numbers_per_weight():
    """Sulla GPU: due medie grandi come i pesi: 16 byte a peso in FP32 con pesi e gradienti."""
    model = Transformer(SMALL)
    optimizer = make_optimizer(model)
    loss_of(model).backward()
    optimizer.step()
    weights = sum(value.numel() for value in model.parameters())
    state = [
        tensor
        for value in model.parameters()
        for name, tensor in optimizer.state[value].items()
        if name != "step"
    ]
    assert sum(tensor.numel() for tensor in state) == 2 * weights
    assert {tensor.dtype for tensor in state} == {torch.float32}


# D15, D19: da dove si parte, e quanto lontano si va


def train(model: FeedForward, count: int) -> None:
    """Passi verso un bersaglio qualunque: conta solo che i gradienti non siano zero."""
    x, wanted = torch.randn(2, 17, 5, dtype=torch.float64)
    optimizer = make_optimizer(model)
    for step in range(1, count + 1):
        optimizer.zero_grad()
        (model(x) - wanted).square().sum().backward()
        set_learning_rate(optimizer, learning_rate(step, 5, 3))
        optimizer.step()


def test_units_born_equal_stay_equal():
    """D15: unità con gli stessi pesi ricevono lo stesso gradiente, e restano la stessa unità."""
    equal, different = FeedForward(5, 7).double(), FeedForward(5, 7).double()
    with torch.no_grad():
        equal.w_1[1:], equal.w_2[:, 1:] = equal.w_1[0], equal.w_2[:, :1]
    start = equal.w_1.detach().clone()
    for model in (equal, different):
        train(model, 20)
    assert_equal(equal.w_1[1:].detach(), equal.w_1[:1].detach().expand(6, 5))
    assert (equal.w_1 - start).abs().max() > 0.1
    assert torch.pdist(different.w_1.detach()).min() > 0.1


def test_full_rate_at_once_overshoots_and_the_warmup_rate_does_not():
    """D19: da un modello appena nato, in linea retta: con 1/4000 del massimo la perdita scende di
    quanto dice la derivata; con il massimo il passo esce da dove la derivata vale."""
    config = TransformerConfig(layers=6, d_model=32, d_ff=128, heads=4, dropout=0.0, vocabulary=50)
    model = Transformer(config).double()
    source, wanted = torch.randint(3, 50, (2, 8, 7))

    def loss() -> Tensor:
        return -model.score(source, shift_right(wanted, 1), wanted)[0].mean()

    loss().backward()
    before = loss().item()
    start = [value.detach().clone() for value in model.parameters()]
    slope = sum(value.grad.abs().sum().item() for value in model.parameters())
    obtained = []
    for step in (1, WARMUP):
        rate = learning_rate(step, 32)
        optimizer = make_optimizer(model)
        set_learning_rate(optimizer, rate)
        optimizer.step()
        with torch.no_grad():
            obtained.append((before - loss().item()) / (rate * slope))
            for value, old in zip(model.parameters(), start, strict=True):
                value.copy_(old)
    assert obtained[0] == pytest.approx(1, abs=0.05)
    assert obtained[1] < 0.5


# Il disegno


def curve(name: str) -> list[tuple[float, float]]:
    """I punti di una linea del disegno."""
    text = (ROOT / "paper_it/figure/s5_3_rate.svg").read_text(encoding="utf-8")
    (path,) = re.findall(rf'<path id="fig-tasso-{name}" d="M([\d. ]+)"', text)
    values = [float(value) for value in path.split()]
    return [*zip(values[::2], values[1::2], strict=True)]


@pytest.mark.parametrize(("name", "d_model"), [("base", 512), ("big", 1024)])
def test_the_drawing_follows_equation_3(name, d_model):
    """Figura: in alto assi lineari, 60 passi e 4,4 milionesimi a unità; in basso, logaritmi."""
    linear, logarithmic = curve(name), curve(f"{name}-log")
    assert len(linear) > 30
    assert len(logarithmic) == 3
    for x, y in linear[1:]:
        step = round((x - 50) * 20_000 / 300)
        assert 232 - y == pytest.approx(learning_rate(step, d_model) * 2.5e5, abs=0.06)
    for x, y in logarithmic:
        step = round(10 ** ((x - 50) / 53))
        expected = 500 - 45 * (math.log10(learning_rate(step, d_model)) + 7)
        assert y == pytest.approx(expected, abs=0.1)


# Il Fortran della pagina


def test_fortran_rates(fortran, call_fortran):
    """Se vieni dal Fortran: l'equazione (3) in un ciclo."""
    found = torch.zeros(37, dtype=torch.float64)
    call_fortran(fortran("s5_3_optimizer").rates, 37, 7, 11, found)
    assert_equal(found, numbers(*(learning_rate(step, 7, 11) for step in range(1, 38))), 1e-15)


def test_fortran_adam(fortran, call_fortran):
    """Se vieni dal Fortran: undici passi, sul posto, come `adam_update`."""
    routine = fortran("s5_3_optimizer").adam
    theta = torch.randn(13, dtype=torch.float64)
    first, second = torch.zeros(2, 13, dtype=torch.float64)
    expected = (theta.clone(), first.clone(), second.clone())
    for step in range(1, 12):
        gradient, rate = torch.randn_like(theta), learning_rate(step, 7, 5)
        expected = adam_update(expected[0], gradient, *expected[1:], step, rate)
        call_fortran(routine, 13, step, numbers(rate), gradient, theta, first, second)
        for ours, theirs in zip((theta, first, second), expected, strict=True):
            assert_equal(ours, theirs)


def test_a_constant_in_single_precision_is_off_by_a_millionth():
    """Se vieni dal Fortran: β_2 senza d0 sbaglia di due unità in 10⁸, e 1 − β_2 di una in 10⁶."""
    beta = BETAS[1]
    short = torch.tensor(beta, dtype=torch.float32).item()
    assert abs(short / beta - 1) == pytest.approx(2e-8, rel=0.05)
    assert abs((1 - short) / (1 - beta) - 1) == pytest.approx(9.5e-7, rel=0.01)
