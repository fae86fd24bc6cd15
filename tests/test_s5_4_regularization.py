"""§5.4: dove agisce il dropout, che cosa chiede il label smoothing, e la perdita di un batch."""

import ctypes
import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from attention import (
    BASE,
    BIG,
    SharedEmbedding,
    Transformer,
    TransformerConfig,
    shift_right,
    sinusoids,
)
from attention.s3_1_encoder_decoder_stacks import AddAndNorm, Dropout, layer_norm
from attention.s5_1_data_batching import BUDGET, Batch
from attention.s5_2_hardware_schedule import BASE_SCHEDULE
from attention.s5_3_optimizer import learning_rate, make_optimizer, set_learning_rate
from attention.s5_4_regularization import (
    SMOOTHING,
    batch_loss,
    lowest_loss,
    perplexity,
    smoothed_target,
    token_losses,
)
from weave.house import ROOT


def tiny(**sizes) -> TransformerConfig:
    usual = {"layers": 2, "d_model": 6, "d_ff": 11, "heads": 3, "dropout": 0.0, "vocabulary": 13}
    return TransformerConfig(**{**usual, **sizes})


def random_model(config: TransformerConfig) -> Transformer:
    """In doppia precisione, con tutti i parametri casuali."""
    model = Transformer(config).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=float(name.endswith("gain")), std=0.5)
    return model


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def batch_of(*pairs: tuple[list[int], list[int]], padding: int = 0, extra: int = 0) -> Batch:
    """Frasi di lunghezze diverse, con `extra` posizioni di padding in più da ogni parte."""

    def rows(sentences: list[list[int]]) -> Tensor:
        longest = max(map(len, sentences)) + extra
        return torch.tensor([row + [padding] * (longest - len(row)) for row in sentences])

    sources, targets = zip(*pairs, strict=True)
    shifted = [[1, *target] for target in targets]
    return Batch(rows(sources), rows(shifted), rows([[*target, 2] for target in targets]))


PAIRS = (([3, 7, 5, 9], [8, 12]), ([4], [3, 9, 9, 11, 6]), ([12, 10, 6], [7, 3, 5]))
"""Tre frasi: 3, 6 e 4 token da indovinare, contando il simbolo di fine."""


# ¶2: il dropout residuo (T31)


def dropouts(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Dropout)]


def test_the_base_model_drops_a_tenth_and_the_big_one_three():
    """§5.4 ¶2: P_drop = 0,1 per il modello base; 0,3 per quello grande, tabella 3."""
    assert (BASE.dropout, BIG.dropout) == (0.1, 0.3)
    for p in (0.1, 0.3):
        assert {module.p for module in dropouts(Transformer(tiny(dropout=p)))} == {p}


def test_dropout_is_on_every_sub_layer_output_and_nowhere_inside():
    """§5.4 ¶2: un dropout per sotto-strato, 2 · 6 + 3 · 6 = 30, e uno per le somme in fondo."""
    with torch.device("meta"):
        model = Transformer(BASE)
    around = [module for module in model.modules() if isinstance(module, AddAndNorm)]
    assert len(around) == 30
    assert {*dropouts(model)} == {model.dropout, *(module.dropout for module in around)}


Call = tuple[tuple[Tensor, ...], Tensor]
"""Ciò che è entrato in un modulo e ciò che ne è uscito."""


def recorded(model: Transformer, batch: Batch) -> dict[str, list[Call]]:
    """Ogni chiamata di ogni modulo durante un `forward`."""
    found: dict[str, list[Call]] = {}

    def keep(name: str):
        return lambda _, given, result: found.setdefault(name, []).append((given, result))

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules()]
    model(batch.source, batch.target)
    for handle in handles:
        handle.remove()
    return found


def test_dropout_acts_on_the_sub_layer_output_before_sum_and_norm():
    """§5.4 ¶2, T31: in ogni sotto-strato, LayerNorm(x + dropout(Sublayer(x))), con la x intera."""
    model = random_model(tiny(dropout=0.4)).train()
    found = recorded(model, batch_of(*PAIRS))
    names = [name for name in found if name.endswith("_norm")]
    assert len(names) == 10
    for name in names:
        sublayer_output = found[name.removesuffix("_norm")][0][1]
        (into_dropout,), dropped = found[f"{name}.dropout"][0]
        assert into_dropout is sublayer_output
        zeros = dropped == 0
        assert 0 < zeros.sum() < zeros.numel()
        assert_equal(dropped, torch.where(zeros, 0, sublayer_output / 0.6))
        (x, _), result = found[name][0]
        norm = model.get_submodule(f"{name}.norm")
        assert_equal(result, layer_norm(x + dropped, norm.gain, norm.bias))


def test_dropout_acts_on_the_sums_at_the_bottom_of_both_stacks():
    """§5.4 ¶2, T31: √d_model · embedding + codifica, poi dropout, poi la pila: due volte."""
    model, batch = random_model(tiny(dropout=0.4)).train(), batch_of(*PAIRS)
    found = recorded(model, batch)
    sums = found["dropout"]
    assert len(sums) == 2
    for ((summed,), dropped), tokens in zip(sums, (batch.source, batch.target), strict=True):
        rows = math.sqrt(6) * model.embedding.weight[tokens]
        assert_equal(summed, rows + sinusoids(tokens.size(1), 6))
        zeros = dropped == 0
        assert 0 < zeros.sum() < zeros.numel()
        assert_equal(dropped, torch.where(zeros, 0, summed / 0.6))
    for (_, dropped), stack in zip(sums, ("encoder", "decoder"), strict=True):
        assert found[stack][0][0][0] is dropped


def test_a_pass_of_the_base_model_uses_dropout_32_times():
    """§5.4 ¶2: 30 uscite di sotto-strato e due somme."""
    model = random_model(tiny(layers=6, dropout=0.1)).train()
    found = recorded(model, batch_of(*PAIRS))
    assert sum(len(calls) for name, calls in found.items() if name.endswith("dropout")) == 32


def test_attention_weights_and_inner_units_are_not_dropped():
    """§5.4 ¶1: i pesi dell'attenzione e le unità interne, qui, non hanno dropout."""
    model = random_model(tiny(dropout=0.9)).train()
    layer, x = model.decoder.layers[0], torch.randn(2, 5, 6, dtype=torch.float64)
    for sublayer in (
        lambda: layer.self_attention(x, x, x, causal=True),
        lambda: layer.feed_forward(x),
    ):
        assert sublayer().equal(sublayer())


@pytest.mark.parametrize(("dropout", "training"), [(0.0, True), (0.4, False), (0.4, True)])
def test_without_dropout_or_in_use_the_model_is_deterministic(dropout, training):
    """§5.4 ¶2, T31: con P_drop = 0, o in eval, due passate sono uguali; altrimenti no."""
    model, batch = random_model(tiny(dropout=dropout)).train(training), batch_of(*PAIRS)
    once, twice = (model(batch.source, batch.target) for _ in range(2))
    assert once.equal(twice) == (dropout == 0 or not training)


@pytest.mark.parametrize("p", [0.1, 0.3])
def test_dropout_keeps_the_mean_and_adds_a_noise(p):
    """§5.4 ¶2, T31: media x, deviazione |x| √(p/(1 − p)): un terzo con 0,1, due terzi con 0,3."""
    drop, x = Dropout(p).train(), 3.0
    found = drop(torch.full((400_000,), x, dtype=torch.float64))
    assert found.mean().item() == pytest.approx(x, rel=0.01)
    assert found.std().item() == pytest.approx(x * math.sqrt(p / (1 - p)), rel=0.01)
    assert (found == 0).double().mean().item() == pytest.approx(p, rel=0.02)
    assert found.unique().tolist() == pytest.approx([0, x / (1 - p)])


def test_the_noise_is_a_third_with_a_tenth_and_two_thirds_with_three():
    """§5.4 ¶2: √(0,1/0,9) = 1/3, √(0,3/0,7) = 0,65."""
    for p, expected in ((0.1, 1 / 3), (0.3, 0.65)):
        found = Dropout(p).train()(torch.ones(400_000, dtype=torch.float64))
        assert found.std().item() == pytest.approx(expected, rel=0.015)


def test_scaling_in_training_or_in_use_is_the_same_on_average():
    """§5.4 ¶2: [33] moltiplica in uso per 1 − p; qui si divide in addestramento: la media è una."""
    p, x = 0.25, torch.randn(1009, dtype=torch.float64)
    ours = Dropout(p).train()(x.expand(4000, 1009))
    original = torch.where(ours == 0, 0, x)
    assert_equal(original / (1 - p), ours)
    noise = 6 * x.abs().max() * math.sqrt(p * (1 - p) / 4000)
    assert (original.mean(dim=0) - (1 - p) * x).abs().max() < noise
    assert (ours.mean(dim=0) - x).abs().max() < noise / (1 - p)
    assert_equal(Dropout(p).eval()(x), x, 0)


def test_the_average_of_many_dropped_models_is_not_the_model_in_use():
    """§5.4 ¶2: la media passa per funzioni non lineari: è vicina al modello intero, non uguale."""
    model, batch = Transformer(tiny(d_model=12, dropout=0.1)).double(), batch_of(*PAIRS)
    with torch.no_grad():
        whole = model.eval()(batch.source, batch.target).softmax(-1)
        model.train()
        some = torch.stack([model(batch.source, batch.target).softmax(-1) for _ in range(60)])
    mean = some.mean(dim=0)
    sampling = (some - mean).abs().mean() / math.sqrt(60)
    assert 2 * sampling < (mean - whole).abs().mean() < 0.6 * (some - whole).abs().mean()


# ¶3: il bersaglio livellato (T32)

fractions = st.floats(0, 0.99)


@given(st.integers(1, 50), st.data(), fractions)
def test_the_smoothed_target_sums_to_one(vocabulary, data, epsilon):
    """§5.4 ¶3, T32: 1 − ε + ε/V al token giusto, ε/V a ogni altro; in tutto 1."""
    token = data.draw(st.integers(0, vocabulary - 1))
    target = smoothed_target(token, vocabulary, epsilon)
    assert target.shape == (vocabulary,)
    assert target.dtype == torch.float64
    assert target.sum().item() == pytest.approx(1)
    for entry in range(vocabulary):
        expected = epsilon / vocabulary + (1 - epsilon if entry == token else 0)
        assert target[entry].item() == pytest.approx(expected, abs=1e-15)


def test_the_value_printed_is_one_tenth():
    """§5.4 ¶3: ε_ls = 0,1, e vale per tutte le funzioni se non si dice altro."""
    assert SMOOTHING == 0.1
    assert smoothed_target(3, 11).equal(smoothed_target(3, 11, 0.1))
    assert lowest_loss(11) == lowest_loss(11, 0.1)
    chosen, average = numbers(-1, -2), numbers(-3, -5)
    assert token_losses(chosen, average).equal(token_losses(chosen, average, 0.1))
    model, batch = random_model(tiny()), batch_of(*PAIRS)
    assert batch_loss(model, batch).smoothed.equal(batch_loss(model, batch, 0.1).smoothed)


def other_convention(vocabulary: int, epsilon: float) -> Tensor:
    """Il bersaglio del codice pubblicato: 1 − ε al token giusto, ε/(V − 1) agli altri."""
    target = torch.full((vocabulary,), epsilon / (vocabulary - 1), dtype=torch.float64)
    target[0] = 1 - epsilon
    return target


@given(st.integers(2, 60), st.floats(0, 0.9))
def test_the_two_conventions_are_one_with_another_epsilon(vocabulary, epsilon):
    """§5.4 ¶3: ε/(V − 1) con ε è ε/V con ε · V/(V − 1)."""
    stretched = epsilon * vocabulary / (vocabulary - 1)
    if stretched < 1:
        ours = smoothed_target(0, vocabulary, stretched)
        assert_equal(ours, other_convention(vocabulary, epsilon))


def test_the_lowest_loss_is_1_3769_nats_and_not_zero():
    """§5.4 ¶3, T32: con V = 37 000 e ε = 0,1: 1,37691; con ε/(V − 1), 1,37695, e^ = 3,963."""
    assert lowest_loss(37_000) == pytest.approx(1.37691, abs=5e-6)
    other = other_convention(37_000, 0.1)
    entropy = -(other * other.log()).sum().item()
    by_formula = -0.9 * math.log(0.9) - 0.1 * math.log(0.1 / 36_999)
    assert entropy == pytest.approx(by_formula, rel=1e-12)
    assert entropy == pytest.approx(1.37695, abs=5e-6)
    assert math.exp(entropy) == pytest.approx(3.963, abs=5e-4)
    assert lowest_loss(37_000, 0.1 * 37_000 / 36_999) == pytest.approx(entropy, rel=1e-12)


def test_without_smoothing_the_lowest_loss_is_zero():
    """§5.4 ¶3: 0 · log 0 conta zero; con una voce sola non c'è niente da livellare."""
    assert lowest_loss(37_000, 0.0) == 0
    assert lowest_loss(1, 0.3) == pytest.approx(0, abs=1e-15)


@given(st.integers(2, 20), fractions)
def test_no_model_goes_below_the_lowest_loss(vocabulary, epsilon):
    """§5.4 ¶3: l'entropia incrociata è minima quando il modello è il bersaglio."""
    logarithms = torch.randn(vocabulary, dtype=torch.float64).log_softmax(0)
    target = smoothed_target(1, vocabulary, epsilon)
    loss = token_losses(logarithms[1], logarithms.mean(), epsilon).item()
    assert loss == pytest.approx(-(target * logarithms).sum().item(), rel=1e-9)
    assert loss >= lowest_loss(vocabulary, epsilon) - 1e-12
    if epsilon > 0.01:
        perfect = target.log()
        reached = token_losses(perfect[1], perfect.mean(), epsilon).item()
        assert reached == pytest.approx(lowest_loss(vocabulary, epsilon), rel=1e-9)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.3])
def test_the_loss_of_a_token_is_that_of_torch(epsilon):
    """§5.4 ¶3: `cross_entropy` di PyTorch, che usa ε/V, con i soli due numeri di `score`."""
    logits, tokens = torch.randn(7, 11, dtype=torch.float64), torch.randint(11, (7,))
    logarithms = logits.log_softmax(-1)
    chosen = logarithms.gather(1, tokens[:, None])[:, 0]
    ours = token_losses(chosen, logarithms.mean(-1), epsilon)
    theirs = F.cross_entropy(logits, tokens, reduction="none", label_smoothing=epsilon)
    assert_equal(ours, theirs)


def test_the_gradient_is_the_model_minus_the_target():
    """§5.4 ¶3: rispetto ai punteggi, p − q: nullo quando il modello è il bersaglio."""
    logits = torch.randn(11, dtype=torch.float64, requires_grad=True)
    logarithms = logits.log_softmax(-1)
    token_losses(logarithms[3], logarithms.mean(), 0.2).backward()
    assert_equal(logits.grad, logarithms.exp().detach() - smoothed_target(3, 11, 0.2))


def descend(vocabulary: int, epsilon: float, count: int) -> Tensor:
    """I punteggi liberi di un solo esempio, dopo una lunga discesa del gradiente."""
    logits = torch.zeros(vocabulary, dtype=torch.float64)
    target = smoothed_target(0, vocabulary, epsilon)
    for _ in range(count):
        logits = logits - 2 * (logits.softmax(0) - target)
    return logits


def test_the_optimum_assigns_0_9_and_not_1():
    """§5.4 ¶3, T32: la probabilità giusta si ferma a 1 − ε + ε/V; senza livellamento va verso 1."""
    smoothed = descend(11, 0.1, 400)
    assert_equal(smoothed.softmax(0), smoothed_target(0, 11, 0.1), 1e-9)
    gap = (smoothed[0] - smoothed[1]).item()
    assert gap == pytest.approx(math.log(11 * 0.9 / 0.1 + 1), rel=1e-6)
    plain = [descend(11, 0.0, count).softmax(0)[0].item() for count in (40, 400, 4000)]
    assert 0.95 < plain[0] < plain[1] < plain[2] < 1
    assert smoothed_target(0, 37_000)[0].item() == pytest.approx(0.9, abs=1e-5)
    assert math.log(37_000 * 0.9 / 0.1 + 1) == pytest.approx(12.716, abs=5e-4)


def mean_loss(logs: Tensor, tokens: Tensor, epsilon: float = 0.0) -> Tensor:
    """La perdita media per token di chi dà a ogni token i logaritmi `logs`."""
    return token_losses(logs[tokens], logs.mean().expand(len(tokens)), epsilon).mean()


def fitted(tokens: Tensor, vocabulary: int, epsilon: float = 0.0) -> Tensor:
    """I logaritmi di un modello di soli punteggi liberi, addestrato su questi token."""
    logits = torch.zeros(vocabulary, dtype=torch.float64, requires_grad=True)
    for _ in range(4000):
        loss = mean_loss(logits.log_softmax(-1), tokens, epsilon)
        (slope,) = torch.autograd.grad(loss, logits)
        logits = (logits - 0.5 * slope).detach().requires_grad_()
    return logits.detach().log_softmax(-1)


def test_training_on_smoothed_targets_raises_the_perplexity():
    """§5.4 ¶3, T32: si addestra con e senza; chi livella paga, anche se la risposta è una sola."""
    for tokens in (torch.zeros(3).long(), torch.tensor([0] * 6 + [1] * 3 + [2])):
        plain, smoothed = (
            perplexity(-fitted(tokens, 5, epsilon)[tokens].sum().item(), len(tokens))
            for epsilon in (0.0, 0.1)
        )
        assert smoothed > 1.02 * plain
    assert perplexity(-math.log(0.9), 1) == pytest.approx(1.111, abs=5e-4)


def test_an_ambiguous_sentence_has_a_loss_nobody_can_go_below():
    """D30: con tre traduzioni possibili la perdita minima è l'entropia; la sicurezza costa."""
    truth = numbers(0.6, 0.3, 0.1)
    floor = torch.special.entr(truth).sum().item()
    assert floor == pytest.approx(0.898, abs=5e-4)
    tokens = torch.tensor([0] * 6 + [1] * 3 + [2])
    for model in (numbers(0.98, 0.01, 0.01), numbers(1, 1, 1) / 3, numbers(0.5, 0.4, 0.1)):
        assert mean_loss(model.log(), tokens).item() > floor + 0.02
    assert mean_loss(fitted(tokens, 3), tokens).item() == pytest.approx(floor, abs=1e-9)


def test_frequencies_are_the_best_table():
    """B12: fra le tabelle, una riga per contesto, la perdita minima è delle frequenze osservate."""
    for counts in ([5, 2, 1], [1, 1, 6]):
        tokens = torch.arange(3).repeat_interleave(torch.tensor(counts))
        assert_equal(fitted(tokens, 3).exp(), numbers(*counts) / len(tokens), 1e-9)


def test_a_matita_a_smoothed_loss():
    """A matita: V = 4, ε = 0,4: bersaglio 0,1 0,7 0,1 0,1; perdita 1,0373; gradiente 0 −2 1 1."""
    probabilities = numbers(0.1, 0.5, 0.2, 0.2)
    assert_equal(smoothed_target(1, 4, 0.4), numbers(0.1, 0.7, 0.1, 0.1))
    logits = numbers(1, 5, 2, 2).log().requires_grad_()
    logarithms = logits.log_softmax(0)
    assert_equal(logarithms.exp().detach(), probabilities)
    assert logarithms.mean().item() == pytest.approx(-1.5537, abs=5e-5)
    loss = token_losses(logarithms[1], logarithms.mean(), 0.4)
    loss.backward()
    assert loss.item() == pytest.approx(1.0373, abs=5e-5)
    assert_equal(logits.grad, numbers(0, -0.2, 0.1, 0.1))
    assert lowest_loss(4, 0.4) == pytest.approx(0.9404, abs=5e-5)


def test_a_matita_a_dropout(monkeypatch):
    """A matita: con P_drop = 0,2 cadono i numeri con estrazione sotto 0,2; gli altri × 1,25."""
    draws = torch.tensor([0.05, 0.3, 0.15, 0.9, 0.2])
    monkeypatch.setattr(torch, "rand", lambda *_, **__: draws)
    found = Dropout(0.2).train()(numbers(2, 4, 6, 8, 10))
    assert_equal(found, numbers(0, 5, 0, 10, 12.5), 1e-6)


# Quanti esempi


def test_the_base_model_guesses_two_and_a_half_billion_tokens():
    """B10: passi per token di destinazione; con 4,5 milioni di frasi, 556 token per frase."""
    guessed = BASE_SCHEDULE.steps * BUDGET
    assert guessed == 2_500_000_000
    assert round(guessed / 4_500_000) == 556


# La perplessità


@pytest.mark.parametrize(
    ("nats", "expected"), [(1.5933, 4.92), (1.5412, 4.67), (0.0, 1), (math.log(37_000), 37_000)]
)
def test_perplexity_is_the_exponential_of_the_mean(nats, expected):
    """§5.4 ¶3, T32: 4,92 sono 1,5933 nat a token; chi tira a caso fra V voci ha perplessità V."""
    assert perplexity(nats * 7, 7) == pytest.approx(expected, rel=1e-3)


def test_perplexity_is_infinite_rather_than_an_error():
    """Un modello che ha perso ogni misura si può ancora descrivere."""
    assert perplexity(1e6, 1) == math.inf
    assert perplexity(1e6, 10_000) == pytest.approx(math.exp(100))


# La perdita di un batch


def reference(model: Transformer, batch: Batch, epsilon: float) -> tuple[Tensor, Tensor, int]:
    """Le tre somme, con tutti i punteggi e la `cross_entropy` di PyTorch."""
    logits = model(batch.source, batch.target).flatten(0, 1)
    options = {"reduction": "sum", "ignore_index": model.config.padding_id}
    tokens = batch.expected.flatten()
    smoothed = F.cross_entropy(logits, tokens, label_smoothing=epsilon, **options)
    plain = F.cross_entropy(logits, tokens, **options)
    return smoothed, plain, int((tokens != model.config.padding_id).sum())


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.3])
def test_the_loss_of_a_batch_is_that_of_torch(epsilon):
    """§5.4 ¶3: le tre somme, e il gradiente di ogni parametro."""
    model, batch = random_model(tiny()), batch_of(*PAIRS)
    found = batch_loss(model, batch, epsilon)
    smoothed, plain, tokens = reference(model, batch, epsilon)
    assert_equal(found.smoothed, smoothed, 1e-10)
    assert_equal(found.plain, plain.detach(), 1e-10)
    assert found.tokens.item() == tokens == 13
    parameters = [*model.parameters()]
    ours, theirs = (torch.autograd.grad(loss, parameters) for loss in (found.smoothed, smoothed))
    for one, other in zip(ours, theirs, strict=True):
        assert_equal(one.to_dense(), other.to_dense(), 1e-10)


def test_the_plain_loss_has_no_gradient_and_ignores_the_smoothing():
    """§5.4 ¶3: la perplessità viene dalla perdita senza livellamento, che si guarda e basta."""
    model, batch = random_model(tiny()), batch_of(*PAIRS)
    found = [batch_loss(model, batch, epsilon) for epsilon in (0.0, 0.1, 0.5)]
    assert all(one.plain.equal(found[0].plain) for one in found)
    assert found[0].smoothed.item() == pytest.approx(found[0].plain.item())
    assert found[1].smoothed.item() != pytest.approx(found[1].plain.item())
    assert found[1].smoothed.requires_grad
    assert not found[1].plain.requires_grad
    assert not found[1].tokens.is_floating_point()
    assert [value.dim() for value in found[1]] == [0, 0, 0]


@pytest.mark.parametrize("padding", [0, 5])
def test_padding_never_counts(padding):
    """§5.4: con più padding, da una parte e dall'altra, le stesse somme e gli stessi gradienti."""
    model = random_model(tiny(padding_id=padding, vocabulary=17))
    pairs = [([14 if t == 5 else t for t in a], [14 if t == 5 else t for t in b]) for a, b in PAIRS]
    results, gradients = [], []
    for extra in (0, 3):
        found = batch_loss(model, batch_of(*pairs, padding=padding, extra=extra))
        results.append(found)
        model.zero_grad()
        found.smoothed.backward()
        gradients.append([value.grad.clone() for value in model.parameters()])
    assert results[0].tokens.item() == results[1].tokens.item() == 13
    assert_equal(results[0].smoothed, results[1].smoothed, 1e-10)
    assert_equal(results[0].plain, results[1].plain, 1e-10)
    for one, other in zip(*gradients, strict=True):
        assert_equal(one, other, 1e-10)


def gradients_of(model: Transformer, loss: Tensor) -> list[Tensor]:
    return [g.to_dense() for g in torch.autograd.grad(loss, [*model.parameters()])]


def test_unequal_batches_add_up_to_one():
    """§5.4: sommate e divise per tutti i token, le perdite di più batch sono quella di uno solo."""
    model = random_model(tiny())
    whole = batch_loss(model, batch_of(*PAIRS))
    expected = gradients_of(model, whole.smoothed / whole.tokens)
    parts = [batch_loss(model, batch_of(pair)) for pair in PAIRS]
    tokens = sum(part.tokens for part in parts)
    assert [part.tokens.item() for part in parts] == [3, 6, 4]
    assert tokens == whole.tokens
    for part in parts:
        (part.smoothed / tokens).backward()
    for value, wanted in zip(model.parameters(), expected, strict=True):
        assert_equal(value.grad, wanted, 1e-10)


def test_the_mean_of_the_means_is_another_loss():
    """§5.4: la media delle medie pesa di più i token dei batch corti."""
    model = random_model(tiny())
    parts = [batch_loss(model, batch_of(pair)) for pair in PAIRS]
    total = sum(part.smoothed for part in parts) / sum(part.tokens for part in parts)
    means = sum(part.smoothed / part.tokens for part in parts) / 3
    assert abs(total.item() - means.item()) > 1e-3
    weights = [1 / (3 * part.tokens.item()) for part in parts]
    assert weights == [1 / 9, 1 / 18, 1 / 12]


def test_no_matrix_of_rows_by_vocabulary_is_saved_for_the_gradient():
    """§5.4: PyTorch, da solo, ne terrebbe; qui ce n'è una sola, quella di §3.4, e poi nessuna."""
    model, batch = random_model(tiny(vocabulary=101)), batch_of(*PAIRS)

    def saved(compute) -> set[tuple[int, ...]]:
        shapes: set[tuple[int, ...]] = set()

        def pack(tensor: Tensor) -> Tensor:
            shapes.add(tuple(tensor.shape))
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            compute()
        return {shape for shape in shapes if shape[-1:] == (101,)}

    assert saved(lambda: batch_loss(model, batch)) == set()
    assert saved(lambda: reference(model, batch, 0.1)) != set()


def test_dropout_acts_in_training_and_not_in_evaluation():
    """§5.4 ¶2: in addestramento la perdita di un batch cambia a ogni chiamata, in uso no."""
    model, batch = random_model(tiny(dropout=0.3)), batch_of(*PAIRS)
    for training in (True, False):
        model.train(training)
        once, twice = (batch_loss(model, batch).smoothed for _ in range(2))
        assert once.equal(twice) == (not training)


# Gli errori


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: smoothed_target(11, 11), ValueError, "token: dato: 11; atteso: da 0 a 10"),
        (lambda: smoothed_target(12, 10), ValueError, "token: dato: 12; atteso: da 0 a 9"),
        (lambda: smoothed_target(-1, 11), ValueError, "token: dato: -1; atteso: almeno 0"),
        (lambda: smoothed_target(1.0, 11), TypeError, "token: dato: 1.0; atteso: un numero intero"),
        (lambda: smoothed_target(0, 0), ValueError, "vocabulary: dato: 0; atteso: almeno 1"),
        (lambda: lowest_loss(0), ValueError, "vocabulary: dato: 0; atteso: almeno 1"),
        (lambda: perplexity(1.0, 0), ValueError, "tokens: dato: 0; atteso: almeno 1"),
        (lambda: perplexity(1.0, 2.0), TypeError, "tokens: dato: 2.0; atteso: un numero intero"),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_wrong_tokens_and_sizes_are_refused(call, error, message):
    """Ogni errore nomina l'argomento, ciò che è stato dato e ciò che era atteso."""
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, 1.5, math.nan])
def test_impossible_smoothings_are_refused(epsilon):
    """Una frazione da 0 compreso a 1 escluso, ovunque la si dia."""
    model, batch, one = random_model(tiny()), batch_of(*PAIRS), numbers(-1)
    for call in (
        lambda: smoothed_target(0, 5, epsilon),
        lambda: lowest_loss(5, epsilon),
        lambda: token_losses(one, one, epsilon),
        lambda: batch_loss(model, batch, epsilon),
    ):
        with pytest.raises(
            ValueError, match=rf"^epsilon: dato: {epsilon}; atteso: da 0 compreso a 1"
        ):
            call()


# I disegni


def test_the_curves_of_the_drawing_are_the_loss():
    """Figura: la perdita secondo il vantaggio del token giusto, con V = 37 000, e il suo minimo."""
    text = (ROOT / "paper_it/figure/s5_4_smoothing.svg").read_text(encoding="utf-8")
    curves = re.findall(r'<path class="perdita" data-epsilon="([\d.]+)" d="M([\d. ]+)"', text)
    assert [float(epsilon) for epsilon, _ in curves] == [0, 0.1, 0.2]
    for label, path in curves:
        epsilon, values = float(label), [float(value) for value in path.split()]
        assert len(values) > 40
        for x, y in zip(values[::2], values[1::2], strict=True):
            gap = (x - 40) / 10
            total = math.log(math.exp(gap) + 36_999)
            chosen, average = gap - total, gap / 37_000 - total
            expected = token_losses(numbers(chosen), numbers(average), epsilon).item()
            assert y == pytest.approx(250 - 18 * expected, abs=0.2)
    lows = re.findall(
        r'<circle class="minimo" data-epsilon="([\d.]+)" cx="([\d.]+)" cy="([\d.]+)"', text
    )
    assert [float(epsilon) for epsilon, *_ in lows] == [0.1, 0.2]
    for label, x, y in lows:
        epsilon = float(label)
        best = math.log(37_000 * (1 - epsilon) / epsilon + 1)
        assert float(x) == pytest.approx(40 + 10 * best, abs=0.05)
        assert float(y) == pytest.approx(250 - 18 * lowest_loss(37_000, epsilon), abs=0.05)


# Il Fortran della pagina


def test_fortran_smoothed_loss(fortran, call_fortran):
    """Se vieni dal Fortran: perdita e gradiente di sette token, senza costruire il bersaglio."""
    routine = fortran("s5_4_regularization").smoothed_loss
    logits = torch.randn(7, 11, dtype=torch.float64, requires_grad=True)
    tokens = torch.randint(11, (7,))
    address = ctypes.c_void_p(tokens.data_ptr())
    loss, gradient = torch.zeros(7, dtype=torch.float64), torch.zeros(7, 11, dtype=torch.float64)
    call_fortran(
        lambda n, v, *rest: routine(n, v, address, *rest),
        7, 11, numbers(0.2), logits.detach(), loss, gradient,
    )  # fmt: skip
    expected = F.cross_entropy(logits, tokens, reduction="none", label_smoothing=0.2)
    assert_equal(loss, expected.detach())
    assert_equal(gradient, torch.autograd.grad(expected.sum(), logits)[0])


def test_fortran_dropout(fortran, call_fortran):
    """Se vieni dal Fortran: un numero uniforme per elemento, con gli stessi zeri di PyTorch."""
    routine = fortran("s5_4_regularization").dropout
    x, draws = torch.randn(2, 101, dtype=torch.float64).unbind()
    draws = torch.rand(101, dtype=torch.float64)
    y = torch.zeros(101, dtype=torch.float64)
    call_fortran(routine, 101, numbers(0.3), draws, x.contiguous(), y)
    assert_equal(y, torch.where(draws >= 0.3, x / 0.7, 0))


# Che l'embedding dia i due numeri


def test_the_model_gives_the_loss_what_it_needs_in_two_numbers():
    """§5.4 ¶3: `score` e `token_losses` insieme sono la perdita livellata di PyTorch."""
    table, hidden = SharedEmbedding(11, 5).double(), torch.randn(3, 5, dtype=torch.float64)
    tokens = torch.tensor([3, 0, 10])
    ours = token_losses(*table.score(hidden, tokens), 0.3)
    expected = F.cross_entropy(
        hidden @ table.weight.T, tokens, reduction="none", label_smoothing=0.3
    )
    assert_equal(ours, expected)


# Un modello che impara a memoria


def examples(count: int) -> Batch:
    """Frasi di cinque simboli da riscrivere al contrario."""
    source = torch.randint(3, 13, (count, 5))
    return Batch(source, shift_right(source.flip(-1), 1), source.flip(-1))


def train(seen: Batch, dropout: float, epsilon: float, seed: int) -> Transformer:
    torch.manual_seed(seed)
    model = Transformer(tiny(layers=1, d_model=32, d_ff=128, heads=4, dropout=dropout)).train()
    optimizer = make_optimizer(model)
    for step in range(1, 101):
        loss = batch_loss(model, seen, epsilon)
        optimizer.zero_grad()
        (loss.smoothed / loss.tokens).backward()
        set_learning_rate(optimizer, learning_rate(step, 32, 50))
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_dropout_and_smoothing_hold_back_a_model_that_learns_by_heart(seed):
    """§5.4: imparate 60 frasi, senza cure 400 nuove costano più che tirando a caso; con, meno."""
    seen, new = examples(60), examples(400)
    losses = []
    for dropout, epsilon in ((0.0, 0.0), (0.1, 0.1)):
        model = train(seen, dropout, epsilon, seed)
        with torch.no_grad():
            known, unknown = (batch_loss(model, batch) for batch in (seen, new))
        assert known.plain / known.tokens < 0.5
        losses.append((unknown.plain / unknown.tokens).item())
    assert losses[0] > losses[1] + 0.5
    assert losses[0] > math.log(10)
