"""Muon: il polinomio contro i valori singolari, il passo contro i conti, la ripresa bit per bit."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from attention import Transformer, TransformerConfig
from attention.beyond import muon
from attention.beyond.grammar import write_corpus
from attention.beyond.muon import (
    COEFFICIENTS,
    DECAY,
    EPSILON,
    MOMENTUM,
    ROUNDS,
    SIZE,
    Muon,
    falling_rate,
    inner_matrices,
    levelled,
)
from attention.command_line import SHIPPED, TOY, WORDS
from attention.s5_1_data_batching import (
    Batch,
    Corpus,
    Report,
    Vocabulary,
    collate,
    prepare,
    read_pairs,
)
from attention.s5_2_hardware_schedule import (
    Feed,
    Position,
    Processes,
    Trainer,
    read_checkpoint,
    restore,
    take_checkpoint,
    write_checkpoint,
)
from attention.s5_3_optimizer import make_optimizer, set_learning_rate
from attention.s5_4_regularization import batch_loss

SMALL = TransformerConfig(layers=1, d_model=8, d_ff=12, heads=2, dropout=0.0, vocabulary=13)


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def polynomial(value: float, rounds: int = ROUNDS) -> float:
    """Lo stesso polinomio, di un numero."""
    a, b, c = COEFFICIENTS
    for _ in range(rounds):
        value = a * value + b * value**3 + c * value**5
    return value


def built(rows: int, columns: int, stretches: list[float], seed: int = 1) -> tuple[Tensor, ...]:
    """U, i valori singolari dati e V: una matrice di cui si conosce la scomposizione."""
    generator = torch.Generator().manual_seed(seed)

    def turned(size: int) -> Tensor:
        square = torch.randn(size, size, generator=generator, dtype=torch.float64)
        return torch.linalg.qr(square).Q[:, : len(stretches)]

    return turned(rows), torch.tensor(stretches, dtype=torch.float64), turned(columns)


# Gli allungamenti


@pytest.mark.parametrize(("rows", "columns"), [(3, 3), (3, 7), (7, 3)])
def test_directions_stay_and_stretches_follow_the_polynomial(rows, columns):
    """Commento: le direzioni restano; ogni allungamento passa per il polinomio, da solo."""
    u, stretches, v = built(rows, columns, [5.0, 1.0, 0.25])
    length = stretches.norm().item() + EPSILON
    expected = torch.tensor([polynomial(it / length) for it in stretches.tolist()])
    assert_equal(levelled(u @ stretches.diag() @ v.T), u @ expected.double().diag() @ v.T, 1e-6)


def test_one_round_by_hand():
    """Matita: di diag(3, 4) la lunghezza è 5; 0,6 diventa 1,193 e 0,8 diventa 0,976."""
    found = levelled(torch.tensor([[3.0, 0.0], [0.0, 4.0]]).double(), rounds=1)
    assert found.diag().tolist() == pytest.approx([1.19326, 0.97648], abs=1e-5)
    assert found[0, 1] == found[1, 0] == 0


def test_a_matrix_as_short_as_epsilon_is_halved_by_it():
    """Lunga 10⁻⁷, si divide per il doppio: 0,3 e 0,4 al posto di 0,6 e 0,8."""
    short = 1e-7 * torch.tensor([[0.6, 0.0], [0.0, 0.8]]).double()
    assert levelled(short, rounds=1).diag().tolist() == pytest.approx(
        [polynomial(0.3, rounds=1), polynomial(0.4, rounds=1)]
    )


def test_a_hundredth_is_enough_to_come_near_one():
    """Commento: dopo cinque giri chi partiva da un centesimo o più è fra 0,68 e 1,13."""
    ends = [polynomial(thousandth / 10_000) for thousandth in range(100, 10_001)]
    assert (round(min(ends), 2), round(max(ends), 2)) == (0.68, 1.13)


def test_less_than_a_hundredth_is_not_enough():
    """Commento: un millesimo arriva a 0,47; ciò che è quasi nullo resta indietro."""
    assert polynomial(0.001) == pytest.approx(0.47, abs=0.005)
    assert polynomial(0.004) == pytest.approx(1.20, abs=0.005)  # il massimo della prima tabella


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_the_size_of_the_gradient_does_not_count(scale):
    """Commento: come in Adam, il gradiente dieci volte più lungo dà lo stesso spostamento."""
    matrix = torch.randn(4, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert_equal(levelled(scale * matrix), levelled(matrix), 2e-3 if scale < 1 else 1e-6)


def test_a_null_matrix_stays_null():
    assert levelled(torch.zeros(3, 5)).count_nonzero() == 0


def test_a_tall_matrix_costs_what_its_transpose_costs():
    """Commento: si lavora dal lato minore: gli stessi prodotti per una matrice alta o larga."""
    with FlopCounterMode(display=False) as tall:
        levelled(torch.ones(9, 2))
    with FlopCounterMode(display=False) as wide:
        levelled(torch.ones(2, 9))
    assert tall.get_total_flops() == wide.get_total_flops() == ROUNDS * (4 * 2**2 * 9 + 2 * 2**3)


def test_matrices_of_a_stack_do_not_mix():
    """Commento: una pila di matrici dà ciò che darebbero una per una."""
    stack = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    assert_equal(levelled(stack), torch.stack([levelled(it) for it in stack]))


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize("rounds", [0, -1, 2.0])
def test_wrong_rounds_are_refused(rounds):
    with pytest.raises((TypeError, ValueError), match="rounds: dato: "):
        levelled(torch.ones(2, 2), rounds)


def test_the_gradient_of_the_toy_has_one_long_direction(tmp_path):
    """Commento: la prima ha sette decimi dei quadrati; la mediana, meno di un quarantesimo."""
    model, batch = toy_and_its_sentences(tmp_path)
    batch_loss(model, batch).smoothed.backward()
    for matrix in inner_matrices(model):
        before = torch.linalg.svdvals(matrix.grad / matrix.grad.norm())
        after = torch.linalg.svdvals(levelled(matrix.grad))
        assert before[0].square() > 0.7
        assert before.median() < 1 / 40
        assert after.median() > 0.5 * after[0]
    outputs = [matrix for name, matrix in model.named_parameters() if name.endswith(".w_o")]
    late = [(torch.linalg.svdvals(levelled(w_o.grad)) < 0.5).sum().item() for w_o in outputs]
    assert (min(late), max(late)) == (pytest.approx(12, abs=1), pytest.approx(26, abs=1))


def toy_and_its_sentences(folder) -> tuple[Transformer, Batch]:
    """Il giocattolo ai pesi iniziali, e 64 coppie del suo corpus."""
    write_corpus(folder, seed=2017, train=64, test=1)
    pairs = [*read_pairs(str(folder / "train.de"), str(folder / "train.it"), Report())]
    vocabulary = Vocabulary.load(SHIPPED / "giocattolo" / WORDS)
    torch.manual_seed(1)
    model = Transformer(dataclasses.replace(TOY, vocabulary=len(vocabulary)))
    encoded = [(vocabulary.encode(german), vocabulary.encode(text)) for _, german, text in pairs]
    return model, collate(encoded)


# Il passo


def model_with_gradients(seed: int = 5) -> Transformer:
    """Un modello piccolo, con gradienti a caso."""
    torch.manual_seed(seed)
    model = Transformer(SMALL)
    new_gradients(model)
    return model


def new_gradients(model: nn.Module) -> None:
    """A ogni peso un altro gradiente."""
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)


def test_matrices_are_all_but_the_table():
    """Commento: le proiezioni e il feed-forward; non gli embedding, i bias, le norme."""
    model = Transformer(SMALL)
    named = {name for name, it in model.named_parameters() if it.dim() == 2}
    chosen = {id(it) for it in inner_matrices(model)}
    assert {n for n, it in model.named_parameters() if id(it) in chosen} == named - {
        "embedding.weight"
    }
    assert len(chosen) == 2 + 2 + 2 * 2 + 2


@pytest.fixture
def wanted(monkeypatch):
    """Le pile di matrici che ogni passo pareggia."""
    stacks: list[Tensor] = []
    monkeypatch.setattr(muon, "levelled", lambda stack: stacks.append(stack) or stack)
    return stacks


def test_today_s_gradient_counts_for_nineteen_hundredths(wanted):
    """Matita: 0,1 dalla media già aggiornata, per 0,9, più 0,1: la variante di Nesterov.

    Il giorno dopo ne resta 0,9 · 0,9 · 0,1.
    """
    layer = nn.Linear(5, 3, bias=False)
    optimizer, gradient = Muon(layer), torch.randn(3, 5)
    for today in (gradient, 0 * gradient):
        layer.weight.grad = today
        optimizer.step()
    assert_equal(torch.cat(wanted), torch.stack([0.19 * gradient, 0.081 * gradient]), 1e-6)


def test_matrices_of_the_same_shape_move_together(wanted):
    """Quelle uguali vanno in una pila sola, con gli stessi prodotti."""
    model = model_with_gradients()
    Muon(model).step()
    shapes = [tuple(it.shape) for it in inner_matrices(model)]
    assert len(wanted) == len(set(shapes))
    assert sorted(shapes) == [tuple(it.shape) for stack in wanted for it in stack]


def test_a_step_by_the_books():
    """Commento: per ogni matrice la media, Nesterov, il polinomio, 0,2 tassi di valore efficace."""
    model = model_with_gradients()
    optimizer = Muon(model)
    matrices = inner_matrices(model)
    means = [torch.zeros_like(it).double() for it in matrices]
    weights = [it.detach().double().clone() for it in matrices]
    for rate in (0.01, 0.02, 0.005):
        new_gradients(model)
        for place, matrix in enumerate(matrices):
            gradient = matrix.grad.double()
            means[place] = MOMENTUM * means[place] + (1 - MOMENTUM) * gradient
            wanted = MOMENTUM * means[place] + (1 - MOMENTUM) * gradient
            move = levelled(wanted) * SIZE * math.sqrt(max(matrix.shape))
            weights[place] = (1 - rate * DECAY) * weights[place] - rate * move
        set_learning_rate(optimizer, rate)
        optimizer.step()
    for matrix, expected in zip(matrices, weights, strict=True):
        assert_equal(matrix.detach().double(), expected, 1e-5)


def moved_by_muon_and_adam(decay: float = 0.0) -> tuple[Transformer, Transformer]:
    """Due modelli uguali dopo tre passi: uno con Muon; uno con Adam, e la tabella che decade."""
    ours, theirs = model_with_gradients(), model_with_gradients()
    both = Muon(ours), make_optimizer(theirs)
    for seed in range(3):
        with torch.no_grad():
            theirs.embedding.weight.mul_(1 - 0.01 * decay)
        for model, optimizer in zip((ours, theirs), both, strict=True):
            torch.manual_seed(seed)
            new_gradients(model)
            set_learning_rate(optimizer, 0.01)
            optimizer.step()
    return ours, theirs


def test_vectors_move_as_with_adam():
    """Commento: bias e norme si muovono, bit per bit, con l'Adam dell'articolo."""
    ours, theirs = moved_by_muon_and_adam()
    pairs = zip(ours.parameters(), theirs.parameters(), strict=True)
    assert all(torch.equal(it, other) == (it.dim() == 1) for it, other in pairs)


def test_the_table_moves_with_adam_and_decays():
    """Commento: prima perde la sua parte, poi si muove come dice Adam."""
    ours, theirs = moved_by_muon_and_adam(DECAY)
    assert_equal(ours.embedding.weight, theirs.embedding.weight, 1e-7)


def test_without_a_gradient_a_weight_fades():
    """Commento: con gradiente nullo, dopo n passi resta (1 − tasso · 0,2)ⁿ di una matrice."""
    model, same = model_with_gradients(), model_with_gradients()
    optimizer = Muon(model)
    set_learning_rate(optimizer, 0.5)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(20):
        optimizer.step()
    for matrix, before in zip(model.parameters(), same.parameters(), strict=True):
        left = 0.9**20 if before.dim() == 2 else 1.0
        torch.testing.assert_close(matrix, before * left, rtol=1e-5, atol=0)


def test_it_is_the_muon_of_pytorch():
    """Commento: PyTorch fa i prodotti in BF16; lo spostamento punta dalla stessa parte."""
    ours, theirs = model_with_gradients(), model_with_gradients()
    start = [it.detach().clone() for it in inner_matrices(ours)]
    library = torch.optim.Muon(
        inner_matrices(theirs),
        lr=0.01,
        weight_decay=DECAY,
        momentum=MOMENTUM,
        adjust_lr_fn="match_rms_adamw",
    )
    optimizer = Muon(ours)
    for seed in range(3):
        for model, it in ((ours, optimizer), (theirs, library)):
            torch.manual_seed(seed)
            new_gradients(model)
            set_learning_rate(it, 0.01)
            it.step()
    both = map(inner_matrices, (ours, theirs))
    for before, mine, other in zip(start, *both, strict=True):
        move, expected = ((it.detach() - before).flatten() for it in (mine, other))
        assert torch.cosine_similarity(move, expected, 0) > 0.999
        assert (move.norm() / expected.norm()).item() == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(("rows", "columns"), [(64, 64), (64, 256), (256, 64)])
def test_a_move_is_a_fifth_of_the_rate(rows, columns):
    """Commento: il valore efficace dello spostamento è 0,2 tassi, quale che sia la forma."""
    layer = nn.Linear(columns, rows)
    before = layer.weight.detach().clone()
    layer.weight.grad = torch.randn(rows, columns, generator=torch.Generator().manual_seed(6))
    optimizer = Muon(layer)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    size = (layer.weight - before).square().mean().sqrt().item()
    assert size / 0.1 == pytest.approx(SIZE, rel=0.2)


def test_who_has_no_gradient_does_not_move():
    model = model_with_gradients()
    still = inner_matrices(model)[0]
    still.grad = None
    before = still.detach().clone()
    optimizer = Muon(model)
    set_learning_rate(optimizer, 0.1)
    optimizer.step()
    assert torch.equal(still, before)
    assert not optimizer.state[still]


def test_forgetting_the_rate_moves_nothing():
    """Commento: il tasso nasce zero."""
    model, same = model_with_gradients(), model_with_gradients()
    Muon(model).step()
    pairs = zip(model.parameters(), same.parameters(), strict=True)
    assert all(torch.equal(it, other) for it, other in pairs)


def test_a_model_without_matrices_is_refused():
    with pytest.raises(ValueError, match="model: dato: nessuna matrice; atteso: almeno una"):
        Muon(nn.LayerNorm(4))


def test_a_matrix_keeps_one_number_per_weight():
    """Commento: una media, dove Adam ne tiene due."""
    model = model_with_gradients()
    optimizer = Muon(model)
    optimizer.step()
    matrices = inner_matrices(model)
    kept = sum(it.numel() for matrix in matrices for it in optimizer.state[matrix].values())
    assert kept - len(matrices) == sum(matrix.numel() for matrix in matrices)


def begin(data: Corpus, vocabulary: int, position: Position) -> tuple[Trainer, Feed]:
    """Un addestramento con Muon, da una posizione nei dati."""
    torch.manual_seed(7)
    model = Transformer(dataclasses.replace(SMALL, vocabulary=vocabulary))
    alone = Processes(0, 1, torch.device("cpu"))

    def rate(step: int) -> float:
        return falling_rate(step, 6, 2, 0.01)

    trainer = Trainer(model, batch_loss, Muon(model), rate, alone, 7)
    return trainer, Feed(data, 200, 7, alone, 1, position)


def run(trainer: Trainer, feed: Feed, steps: int) -> None:
    """Fino a quel passo."""
    while trainer.step < steps:
        trainer.run(feed.next_step())


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_a_training_resumed_anywhere_has_the_same_bits(tmp_path, stop):
    """Commento: la media di ogni matrice passa per il checkpoint, come le medie di Adam."""
    write_corpus(tmp_path, seed=2017, train=64, test=1)
    files = str(tmp_path / "train.de"), str(tmp_path / "train.it")
    vocabulary = Vocabulary.load(SHIPPED / "giocattolo" / WORDS)
    prepare(*files, tmp_path / "data", vocabulary, 64)
    data = Corpus(tmp_path / "data")
    whole, feed = begin(data, len(vocabulary), Position())
    run(whole, feed, 6)
    halved, feed = begin(data, len(vocabulary), Position())
    run(halved, feed, stop)
    found = read_checkpoint(write_checkpoint(tmp_path, take_checkpoint(halved, feed, {})))
    resumed, feed = begin(data, len(vocabulary), found.position)
    restore(found, resumed)
    run(resumed, feed, 6)
    pairs = zip(whole.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    first, second = (it.optimizer.state_dict()["state"] for it in (whole, resumed))
    assert first.keys() == second.keys()
    for index, ours in first.items():
        assert ours.keys() == second[index].keys()
        assert all(torch.equal(ours[name], second[index][name]) for name in ours)


# Il tasso


def test_the_rate_by_hand():
    """Matita: dieci passi, quattro in salita, retta da 40: 10, 18, 24, 28, poi giù di 4 in 4."""
    found = [falling_rate(step, 10, 4, 40.0) for step in range(1, 11)]
    assert found == pytest.approx([10, 18, 24, 28, 24, 20, 16, 12, 8, 4])


@pytest.mark.parametrize(
    ("step", "steps", "warmup", "message"),
    [
        (0, 10, 4, "step: dato: 0; atteso: almeno 1"),
        (11, 10, 4, "step: dato: 11; atteso: al più steps = 10"),
        (1, 0, 4, "steps: dato: 0; atteso: almeno 1"),
        (1, 10, 0, "warmup: dato: 0; atteso: almeno 1"),
    ],
)
def test_wrong_steps_are_refused(step, steps, warmup, message):
    with pytest.raises(ValueError, match=message):
        falling_rate(step, steps, warmup, 1.0)
