"""§5.2: le durate; un passo contro i conti a mano; molti processi contro uno; riprendere da morti.

`two_processes` e `siege` sono programmi a sé: addestramenti che i test dividono fra processi, o
uccidono.
"""

import ast
import dataclasses
import errno
import itertools
import json
import math
import os
import pickle
import random
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from attention import BASE, BIG, Transformer, TransformerConfig
from attention import s5_2_hardware_schedule as section
from attention.s5_1_data_batching import Batch, Corpus, Vocabulary, collate, prepare
from attention.s5_2_hardware_schedule import (
    BASE_SCHEDULE,
    BIG_SCHEDULE,
    Checkpoint,
    Feed,
    Position,
    Processes,
    Progress,
    Trainer,
    checkpoints,
    digest,
    latest,
    processes,
    read_checkpoint,
    restore,
    step_seed,
    take_checkpoint,
    tidy,
    training,
    write_checkpoint,
)
from attention.s5_3_optimizer import adam_update, learning_rate, make_optimizer
from attention.s5_4_regularization import batch_loss

ALONE = Processes(0, 1, torch.device("cpu"))

BUDGET = 40

SEED = 11


# Ciò che i test e il programma hanno in comune


def small(vocabulary: int, dropout: float = 0.0) -> Transformer:
    """Un modello minuscolo, in doppia precisione."""
    config = TransformerConfig(
        layers=1, d_model=6, d_ff=7, heads=2, dropout=dropout, vocabulary=vocabulary
    )
    return Transformer(config).double()


def rate(step: int) -> float:
    return learning_rate(step, 6, 3)


def trainer_of(model: Transformer, where: Processes = ALONE) -> Trainer:
    """La perdita di §5.4, l'Adam di §5.3, l'eq. (3)."""
    return Trainer(model, batch_loss, make_optimizer(model), rate, where, SEED)


def begin(corpus: Corpus, where: Processes = ALONE, count: int = 1) -> tuple[Trainer, Feed]:
    """Un addestramento nuovo, con dropout; i pesi nascono sempre gli stessi."""
    torch.manual_seed(3)
    model = small(len(corpus.vocabulary), dropout=0.3)
    return trainer_of(model, where), Feed(corpus, BUDGET, SEED, where, count)


def resume(
    corpus: Corpus, folder: Path, where: Processes = ALONE, count: int = 1
) -> tuple[Trainer, Feed]:
    """Lo stesso addestramento, con oggetti nuovi, dall'ultimo checkpoint intero."""
    trainer, feed = begin(corpus, where, count)
    found, _ = latest(folder)
    if found is None:
        return trainer, feed
    with torch.no_grad():
        for parameter in trainer.model.parameters():
            parameter.fill_(math.nan)
    restore(found, trainer)
    return trainer, Feed(corpus, BUDGET, SEED, where, count, found.position)


NOTES = {"seed": SEED}


def train(trainer: Trainer, feed: Feed, steps: int, folder: Path, every=1, keep=3):
    """Tutti i passi fino a `steps`: ciò che se ne è visto."""
    return [*training(trainer, feed, steps, folder, every, keep, NOTES)]


def written_digest(path: Path) -> str:
    """L'impronta scritta in un checkpoint intero."""
    read_checkpoint(path)
    with safe_open(path, "pt") as file:
        return file.metadata()["digest"]


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Modelli così piccoli su più thread vanno solo più piano; e l'ultima cifra può cambiare."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    """Ventitré coppie di frasi di lunghezze diverse."""
    folder = tmp_path_factory.mktemp("corpus")
    sources = [" ".join(["uno", "due", "tre"][: i % 3 + 1] * (i % 5 + 1)) for i in range(23)]
    targets = [" ".join(["ein", "zwei"][: i % 2 + 1] * (i % 4 + 1)) for i in range(23)]
    for name, lines in (("source", sources), ("target", targets)):
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    vocabulary = Vocabulary.train([*sources, *targets], 275)
    prepare(folder / "source", folder / "target", folder / "ready", vocabulary, 30)
    return Corpus(folder / "ready")


def some(corpus: Corpus, *indices: int) -> Batch:
    """Il batch di alcune frasi del corpus."""
    return collate([corpus[i] for i in indices])


def bits_of(trainer: Trainer, feed: Feed) -> str:
    """L'impronta di pesi e medie di Adam, passo e posizione compresi."""
    found = take_checkpoint(trainer, feed, {})
    return digest({"step": str(found.step), "position": str(found.position)}, found.tensors)


def gradients_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.grad.clone() for name, value in model.named_parameters()}


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=tolerance, atol=tolerance)


# ¶1: le durate


def test_durations_of_the_paper():
    """§5.2 ¶1, T28: 0,4 s per 100 000 fa 11,1 h; 1,0 s per 300 000 fa 3,47 giorni."""
    assert (BASE_SCHEDULE.seconds, BASE_SCHEDULE.steps) == (0.4, 100_000)
    assert (BIG_SCHEDULE.seconds, BIG_SCHEDULE.steps) == (1.0, 300_000)
    assert BASE_SCHEDULE.hours == pytest.approx(11 + 6 / 60 + 40 / 3600)
    assert BIG_SCHEDULE.hours == pytest.approx(3 * 24 + 11 + 20 / 60)
    assert BIG_SCHEDULE.hours / 24 == pytest.approx(3.47, abs=5e-3)


def test_twelve_hours_need_a_step_of_0_432_seconds():
    """§5.2 ¶1, T28: 12 ore non sono 0,4 s per passo; lo sono se 0,4 è arrotondato."""
    twelve = dataclasses.replace(BASE_SCHEDULE, seconds=0.432)
    assert twelve.hours == pytest.approx(12)
    assert round(twelve.seconds, 1) == BASE_SCHEDULE.seconds
    assert (12 - BASE_SCHEDULE.hours) * 60 == pytest.approx(53.3, abs=0.05)
    three_and_a_half_days = dataclasses.replace(BIG_SCHEDULE, seconds=1.008)
    assert three_and_a_half_days.hours == pytest.approx(84)


def test_table_2_counts_twelve_hours():
    """Commento: con 12 ore tornano i 3,3·10¹⁸ FLOP stampati, con 11,1 no."""
    flops = lambda hours: hours * 3600 * 8 * 9.5e12  # noqa: E731
    assert f"{flops(12):.1e}" == "3.3e+18"
    assert f"{flops(BASE_SCHEDULE.hours):.1e}" == "3.0e+18"
    assert f"{flops(84):.1e}" == "2.3e+19"
    assert f"{flops(BIG_SCHEDULE.hours):.1e}" == "2.3e+19"


def test_records_do_not_change():
    """Commento: durate, processi, posizioni, checkpoint: chi li vuole diversi ne fa una copia."""
    for record in (BASE_SCHEDULE, ALONE, Position(), Progress(1, 1.0, 1.0, 1, 1.0, 1.0), sample()):
        name = dataclasses.fields(record)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(record, name, getattr(record, name))


# Un passo


class Weight(nn.Module):
    """Un peso solo: la sua perdita su un token t è w · t, perciò la derivata è t."""

    def __init__(self, value: float = 1.0):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(value, dtype=torch.float64))


def weight_loss(model: Weight, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    tokens = batch.expected.double()
    return (model.w * tokens).sum(), tokens.square().sum(), (batch.expected != 0).sum()


def numbers(*rows: list[int]) -> Batch:
    """Un batch i cui token da indovinare sono questi."""
    tokens = torch.tensor(rows)
    return Batch(tokens, tokens, tokens)


def weight_trainer(where: Processes = ALONE, pace: float = 0.5) -> Trainer:
    model = Weight()
    optimizer = torch.optim.SGD(model.parameters(), lr=123.0)
    return Trainer(model, weight_loss, optimizer, lambda step: pace * step, where)


def test_a_matita_a_step_over_two_batches():
    """A matita: token 3, 1, 2 e 10: la derivata è 16/4 = 4, e il peso va da 1 a −1."""
    trainer = weight_trainer()
    start = time.perf_counter()
    progress = trainer.run([numbers([3, 1, 2]), numbers([10])])
    assert 0 < progress.seconds <= time.perf_counter() - start
    assert trainer.model.w.grad.item() == 4
    assert trainer.model.w.item() == -1
    assert (progress.step, progress.tokens, progress.rate) == (1, 4, 0.5)
    assert (progress.loss, progress.nll) == (4, 114 / 4)
    progress = trainer.run([numbers([5])])
    assert (progress.step, progress.rate, progress.loss) == (2, 1.0, -5)
    assert (trainer.step, trainer.model.w.item()) == (2, -6)


def test_the_mean_of_the_means_is_another_number():
    """A matita: (2 + 10)/2 = 6, non 4: un batch corto conterebbe come uno lungo."""
    means = []
    for batch in (numbers([3, 1, 2]), numbers([10])):
        trainer = weight_trainer()
        trainer.run([batch])
        means.append(trainer.model.w.grad.item())
    assert means == [2, 10]
    assert sum(means) / 2 == 6


def test_padding_is_not_counted():
    """Commento: si divide per i token effettivi; il padding non pesa."""
    progress = weight_trainer().run([numbers([5, 0, 0], [1, 2, 0])])
    assert progress.tokens == 3
    assert progress.loss == pytest.approx(8 / 3)


def test_the_same_batch_twice_counts_twice():
    """Commento: l'ultimo batch si riconosce dal posto, non dall'identità."""
    batch = numbers([3, 1, 2])
    progress = weight_trainer().run([batch, batch])
    assert progress.tokens == 6
    assert progress.loss == 2


def test_a_step_is_the_one_computed_by_hand(corpus):
    """Commento: seme, in avanti, all'indietro, Adam: due passi rifatti senza il modulo."""
    trainer, feed = begin(corpus)
    torch.manual_seed(3)
    model = small(len(corpus.vocabulary), dropout=0.3)
    state = {
        name: (value.detach().clone(), torch.zeros_like(value), torch.zeros_like(value))
        for name, value in model.named_parameters()
    }
    for step in (1, 2):
        (batch,) = feed.next_step()
        progress = trainer.run([batch])
        model.train()
        torch.manual_seed(step_seed(SEED, step, 0))
        loss, nll, tokens = batch_loss(model, batch)
        model.zero_grad()
        (loss / tokens).backward()
        for name, value in model.named_parameters():
            state[name] = adam_update(
                *state[name][:1], value.grad, *state[name][1:], step, rate(step)
            )
            value.data.copy_(state[name][0])
        assert progress.loss == pytest.approx((loss / tokens).item(), rel=1e-12)
        assert progress.nll == pytest.approx((nll / tokens).item(), rel=1e-12)
        assert (progress.tokens, progress.rate) == (int(tokens), rate(step))
        expected = {name: theta for name, (theta, _, _) in state.items()}
        found = {name: value.detach() for name, value in trainer.model.named_parameters()}
        assert_close(found, expected, 1e-10)


def test_unequal_batches_accumulated_are_one_big_batch(corpus):
    """Commento: cinque frasi insieme, o tre e due, o una per volta: gli stessi gradienti."""
    trainer = trainer_of(small(len(corpus.vocabulary)))
    found = []
    for groups in ([(0, 4, 8, 14, 22)], [(14, 0, 8), (4, 22)], [(0,), (4,), (8,), (14,), (22,)]):
        trainer.optimizer.zero_grad()
        means = trainer.gradients([some(corpus, *group) for group in groups])
        found.append((means, gradients_of(trainer.model)))
    (means, gradients), *others = found
    for other_means, other_gradients in others:
        assert other_means == pytest.approx(means, rel=1e-12)
        assert_close(other_gradients, gradients, 1e-12)
    assert max(value.abs().max() for value in gradients.values()) > 1e-3


def test_a_step_starts_from_clean_gradients_and_a_model_in_training(corpus):
    """Commento: resti di gradienti e un modello lasciato in uso non cambiano il passo."""
    found = []
    for dirty in (False, True):
        trainer, feed = begin(corpus)
        if dirty:
            trainer.model.eval()
            for value in trainer.model.parameters():
                value.grad = torch.full_like(value, 1e3)
        trainer.run(feed.next_step())
        assert trainer.model.training
        found.append(bits_of(trainer, feed))
    assert found[0] == found[1]


def test_the_rate_reaches_every_group_of_parameters():
    """Commento: il tasso del passo vale per tutti i pesi."""
    model = nn.ParameterList([nn.Parameter(torch.tensor(1.0)) for _ in range(2)])
    optimizer = torch.optim.SGD([{"params": [value]} for value in model], lr=9.0)

    def loss(model, batch):
        return model[0] + model[1], torch.zeros(()), torch.tensor(1)

    Trainer(model, loss, optimizer, lambda step: 0.25, ALONE).run([numbers([1])])
    assert [value.item() for value in model] == [0.75, 0.75]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_that_is_no_number_stops_before_moving_the_weights(value):
    """D19: l'addestramento si ferma, e il checkpoint di prima resta buono."""
    trainer = weight_trainer()
    trainer.run([numbers([1])])
    with torch.no_grad():
        trainer.model.w.fill_(value)
    with pytest.raises(
        FloatingPointError, match=f"^loss: dato: {value} al passo 2; atteso: un num"
    ):
        trainer.run([numbers([1])])
    assert trainer.step == 1
    assert trainer.model.w.item() == pytest.approx(value, nan_ok=True)


def test_a_gradient_that_is_no_number_stops_before_moving_the_weights():
    """Anche se la perdita è finita: √w in zero vale zero, e la sua derivata è infinita."""
    trainer = weight_trainer()
    trainer.objective.loss = lambda model, batch: (model.w.sqrt().sum(), model.w, torch.tensor(1))
    with torch.no_grad():
        trainer.model.w.zero_()
    with pytest.raises(
        FloatingPointError, match=r"^gradient: dato: inf al passo 1; atteso: un num"
    ):
        trainer.run([numbers([1])])
    assert trainer.step == 0
    assert trainer.model.w.item() == 0


def test_the_step_moves_a_model_towards_its_data(corpus):
    """Commento: trenta passi sulle stesse frasi, e la perdita scende."""
    trainer = trainer_of(small(len(corpus.vocabulary)))
    batch = some(corpus, 1, 5, 9)
    losses = [trainer.run([batch]).loss for _ in range(30)]
    assert losses[-1] < losses[0] / 2


# BF16


def test_with_bf16_products_are_short_and_weights_and_gradients_are_not():
    """Commento: autocast: prodotti in BF16, pesi e gradienti in FP32; senza, tutto in FP32."""
    seen = []

    def loss(model, batch):
        product = model(torch.ones(3, 5))
        seen.append((product.dtype, torch.is_autocast_enabled("cpu")))
        return product.float().sum(), torch.zeros(()), torch.tensor(1)

    for dtype in (torch.float32, torch.bfloat16):
        model = nn.Linear(5, 7)
        optimizer = torch.optim.SGD(model.parameters())
        trainer = Trainer(model, loss, optimizer, lambda step: 0.1, ALONE, dtype=dtype)
        trainer.run([numbers([1])])
        for value in model.parameters():
            assert value.dtype == value.grad.dtype == torch.float32
        assert not torch.is_autocast_enabled("cpu")
    assert seen == [(torch.float32, False), (torch.bfloat16, True)]


def test_bf16_gradients_are_close_to_those_of_fp32(corpus):
    """Commento: il modello intero, una volta per tipo: la perdita è la stessa entro l'1%."""
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(5)
        model = small(len(corpus.vocabulary)).float()
        optimizer = make_optimizer(model)
        trainer = Trainer(model, batch_loss, optimizer, rate, ALONE, SEED, dtype)
        found.append((trainer.run([some(corpus, 2, 3, 7)]).loss, gradients_of(model)))
    assert found[0][0] == pytest.approx(found[1][0], rel=0.01)
    assert found[0][0] != found[1][0]
    whole = [torch.cat([value.flatten() for value in gradients.values()]) for _, gradients in found]
    assert (whole[0] - whole[1]).norm() < 0.05 * whole[0].norm()


def test_a_weight_in_bf16_would_not_feel_small_moves():
    """Commento: accanto a 0,044 due numeri BF16 distano 2,4·10⁻⁴; meno della metà si perde."""
    weight = torch.tensor(0.044, dtype=torch.bfloat16)
    spacing = 2.0 ** (math.floor(math.log2(0.044)) - 7)
    assert spacing == pytest.approx(2.44e-4, rel=1e-3)
    rates = [learning_rate(step, BASE.d_model) for step in (1, 100, 650, 4000, 100_000)]
    assert [(weight - rate).item() != weight.item() for rate in rates] == [
        rate > spacing / 2 for rate in rates
    ]
    assert rates[0] < rates[1] < rates[2] < spacing / 2 < rates[4] < rates[3]
    assert learning_rate(698, BASE.d_model) < spacing / 2 < learning_rate(699, BASE.d_model)
    longest = [1.7 * learning_rate(step, BASE.d_model) for step in (411, 412)]  # §5.3
    assert longest[0] < spacing / 2 < longest[1]
    assert torch.tensor(0.044) - rates[0] < torch.tensor(0.044)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_types_are_refused(dtype):
    """FP16 chiederebbe di riscalare la perdita, e qui non c'è chi lo faccia."""
    model = Weight()
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(
        ValueError, match=rf"^dtype: dato: {dtype}; atteso: torch.float32 o torch.bf"
    ):
        Trainer(model, weight_loss, optimizer, rate, ALONE, dtype=dtype)


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize(("seed", "error"), [(-1, ValueError), (1.5, TypeError)])
def test_wrong_seeds_are_refused(seed, error):
    model = Weight()
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(error, match=rf"^seed: dato: {seed}; atteso: "):
        Trainer(model, weight_loss, optimizer, rate, ALONE, seed)


# Il seme di un passo


def test_every_step_and_every_process_has_its_own_seed():
    """Commento: nessuna coincidenza fra semi, passi e processi vicini; sempre lo stesso valore."""
    triples = [*itertools.product(range(5), range(1, 50), range(8))]
    seeds = [step_seed(*triple) for triple in triples]
    assert len(set(seeds)) == len(triples)
    assert seeds == [step_seed(*triple) for triple in triples]
    assert all(0 <= seed < 2**64 for seed in seeds)
    assert max(seeds) > 2**63
    for seed in (min(seeds), max(seeds)):
        torch.manual_seed(seed)


def test_the_seed_of_a_step_depends_on_seed_step_and_process(corpus):
    """Commento: cambiarne uno solo cambia il dropout."""
    masks = {}
    for seed, step, rank in ((11, 1, 0), (12, 1, 0), (11, 2, 0), (11, 1, 1)):
        torch.manual_seed(step_seed(seed, step, rank))
        masks[seed, step, rank] = tuple((torch.rand(40) < 0.5).tolist())
    assert len(set(masks.values())) == 4


def test_every_process_draws_its_own_dropout():
    """Commento: stesso passo, stesso batch, stessi pesi: un altro processo, altri zeri."""
    batch, losses = collate([([3, 4, 5], [6, 7]), ([8], [9, 10, 3])]), {}
    for rank in range(3):
        torch.manual_seed(3)
        model = small(13, dropout=0.3)
        torch.manual_seed(step_seed(SEED, 1, rank))
        loss, _, tokens = batch_loss(model.train(), batch)
        trainer = trainer_of(model, Processes(rank, 1, ALONE.device))
        losses[rank] = trainer.run([batch]).loss
        assert losses[rank] == pytest.approx((loss / tokens).item(), rel=1e-12)
    assert len(set(losses.values())) == 3


def test_unless_told_otherwise_the_seed_is_zero_and_a_step_has_one_batch(corpus):
    """Commento: chi non dice nulla ha il seme 0, un batch per passo, i prodotti in FP32."""
    model = small(len(corpus.vocabulary))
    trainer = Trainer(model, batch_loss, make_optimizer(model), rate, ALONE)
    assert (trainer.seed, trainer.dtype) == (0, torch.float32)
    assert len(Feed(corpus, BUDGET, SEED, ALONE).next_step()) == 1
    assert len(Feed(corpus, BUDGET, SEED, ALONE, 2).next_step()) == 2


def test_random_numbers_drawn_between_steps_change_nothing(corpus):
    """Commento: una valutazione fra un passo e l'altro, con dadi suoi, non sposta i bit."""
    found = []
    for disturbed in (False, True):
        trainer, feed = begin(corpus)
        for _ in range(3):
            if disturbed:
                torch.manual_seed(99)
                torch.rand(1000)
                trainer.model.eval()
            trainer.run(feed.next_step())
        found.append(bits_of(trainer, feed))
    assert found[0] == found[1]


def test_dropout_changes_from_step_to_step(corpus):
    """Commento: lo stesso batch, con i pesi fermi, dà a ogni passo un'altra perdita."""
    trainer, feed = begin(corpus)
    trainer.rate = lambda step: 0.0
    batches = feed.next_step()
    assert len({trainer.run(batches).loss for _ in range(4)}) == 4


# I dati


class Watched(Corpus):
    """Un corpus che ricorda quali frasi gli si chiedono."""

    def __init__(self, folder: Path):
        super().__init__(folder)
        self.asked: list[int] = []

    def __getitem__(self, index: int):
        self.asked.append(index)
        return super().__getitem__(index)


def fed(feed: Feed, steps: int) -> list[list[int]]:
    """Le frasi di ogni passo, nell'ordine."""
    found = []
    for _ in range(steps):
        feed.corpus.asked = []
        batches = feed.next_step()
        assert len(batches) == feed.count
        assert sum(len(batch.source) for batch in batches) == len(feed.corpus.asked)
        found.append(feed.corpus.asked)
    return found


@pytest.mark.parametrize(("ranks", "count"), [(1, 1), (1, 3), (2, 1), (2, 2), (3, 1), (5, 3)])
def test_every_epoch_visits_every_sentence_once_over_all_processes(corpus, ranks, count):
    """Commento: i batch dei processi, rimessi in fila, sono tre giri interi del corpus."""
    feeds = [
        Feed(Watched(corpus.folder), BUDGET, SEED, Processes(r, ranks, ALONE.device), count)
        for r in range(ranks)
    ]
    per_epoch = len(feeds[0].batches)
    steps = -(-3 * per_epoch // (ranks * count))
    seen: list[int] = []
    for step in range(steps):
        taken = [feed.next_step() for feed in feeds]
        for place in range(count):
            seen += [len(batches[place].source) for batches in taken]
        positions = {feed.position for feed in feeds}
        assert len(positions) == 1
        (position,) = positions
        assert position.epoch * per_epoch + position.batch == (step + 1) * ranks * count
    epochs = [feeds[0].shuffled(epoch) for epoch in range(4)]
    expected = [len(batch) for epoch in epochs for batch in epoch]
    assert seen == expected[: len(seen)]
    asked = sorted(i for feed in feeds for i in feed.corpus.asked)
    whole = [i for epoch in epochs for batch in epoch for i in batch][: len(asked)]
    assert asked == sorted(whole)
    assert sorted(whole[: 23 * 3]) == sorted(3 * [*range(23)])


def test_epochs_have_different_orders_and_a_step_may_straddle_two(corpus):
    """Commento: finito un giro, il passo si completa con l'inizio del seguente."""
    feed = Feed(Watched(corpus.folder), BUDGET, SEED, ALONE, count=2)
    first, second = (feed.shuffled(epoch) for epoch in (0, 1))
    assert len(first) % 2 == 1
    assert [*map(list, first)] != [*map(list, second)]
    steps = fed(feed, len(first) // 2 + 1)
    assert steps[-1] == [*first[-1], *second[0]]
    assert feed.position == Position(1, 1)


def test_a_step_takes_its_batches_in_turn(corpus):
    """Commento: con due processi e due batch ciascuno, al primo il primo e il terzo."""
    batches = Feed(corpus, BUDGET, SEED, ALONE).batches
    for rank in range(2):
        feed = Feed(Watched(corpus.folder), BUDGET, SEED, Processes(rank, 2, ALONE.device), 2)
        assert fed(feed, 1) == [[*batches[rank], *batches[rank + 2]]]


def test_the_order_depends_on_the_seed_only(corpus):
    """Commento: stesso seme, stesso ordine; un altro seme, un altro."""
    orders = [fed(Feed(Watched(corpus.folder), BUDGET, s, ALONE), 9) for s in (SEED, SEED, 12)]
    assert orders[0] == orders[1] != orders[2]


def test_feed_resumes_from_any_position(corpus):
    """Commento: dalla posizione dopo k passi, gli stessi passi di chi non si è fermato."""
    whole = Feed(Watched(corpus.folder), BUDGET, SEED, ALONE, count=2)
    positions, steps = [], []
    for _ in range(12):
        positions.append(whole.position)
        steps += fed(whole, 1)
    assert positions[0] == Position() == Position(0, 0)
    assert positions[-1].epoch >= 1
    for start, position in enumerate(positions):
        feed = Feed(Watched(corpus.folder), BUDGET, SEED, ALONE, 2, position)
        assert fed(feed, 12 - start) == steps[start:]


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize(("count", "error"), [(0, ValueError), (1.5, TypeError)])
def test_wrong_counts_are_refused(corpus, count, error):
    with pytest.raises(error, match=rf"^count: dato: {count}; atteso: "):
        Feed(corpus, BUDGET, SEED, ALONE, count)


# I processi


@pytest.fixture
def calls(monkeypatch) -> list[tuple]:
    """Ciò che si chiede alle librerie, scritto invece che fatto."""
    found: list[tuple] = []
    for owner, name in ((dist, "init_process_group"), (dist, "destroy_process_group")):
        monkeypatch.setattr(owner, name, lambda *given, name=name: found.append((name, *given)))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: found.append(("set", device)))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return found


def under_torchrun(monkeypatch, rank: int, count: int, local: int) -> None:
    for name, value in (("RANK", rank), ("WORLD_SIZE", count), ("LOCAL_RANK", local)):
        monkeypatch.setenv(name, str(value))


def test_without_torchrun_a_process_is_alone(calls):
    """Commento: uno solo, su CPU, e nessun gruppo da formare."""
    with processes() as here:
        assert here == ALONE
    assert calls == []


def test_torchrun_with_one_process_forms_no_group(calls, monkeypatch):
    under_torchrun(monkeypatch, 0, 1, 0)
    with processes() as here:
        assert here == ALONE
    assert calls == []


def test_torchrun_on_cpu_uses_gloo(calls, monkeypatch):
    """Commento: rango e numero dalle variabili di torchrun; il gruppo si forma e si scioglie."""
    under_torchrun(monkeypatch, 5, 7, 1)
    with processes() as here:
        assert here == Processes(5, 7, torch.device("cpu"))
        assert calls == [("init_process_group", "gloo")]
    assert calls[1:] == [("destroy_process_group",)]


def test_two_processes_form_a_group_too(calls, monkeypatch):
    """Due è il numero più piccolo di processi che si parlano."""
    under_torchrun(monkeypatch, 1, 2, 1)
    with processes() as here:
        assert here == Processes(1, 2, torch.device("cpu"))
    assert calls == [("init_process_group", "gloo"), ("destroy_process_group",)]


def test_torchrun_on_gpus_uses_nccl_and_one_gpu_each(calls, monkeypatch):
    """Commento: la GPU è quella del numero locale, non del rango."""
    under_torchrun(monkeypatch, 5, 7, 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    device = torch.device("cuda", 2)
    with processes() as here:
        assert here == Processes(5, 7, device)
    assert calls == [("set", device), ("init_process_group", "nccl"), ("destroy_process_group",)]


@pytest.mark.parametrize("local", [3, 5])
def test_more_processes_than_gpus_are_refused(calls, monkeypatch, local):
    under_torchrun(monkeypatch, local, 8, local)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    message = f"^LOCAL_RANK: dato: {local}; atteso: meno di 3: un processo per GPU$"
    with pytest.raises(ValueError, match=message), processes():
        pass
    assert calls == []


def test_one_who_leaves_by_an_error_does_not_wait_for_the_others(calls, monkeypatch):
    """Commento: il congedo è di chi arriva in fondo; gli altri li ferma torchrun."""
    under_torchrun(monkeypatch, 0, 2, 0)
    with pytest.raises(OSError, match=r"^disco$"), processes():
        raise OSError("disco")
    assert calls == [("init_process_group", "gloo")]


@pytest.fixture
def group() -> Iterator[None]:
    """Un gruppo vero, con un solo membro."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
def test_gradients_travel_once_per_step_with_the_last_batch():
    """Commento: con tre batch, i primi due si accumulano in casa."""
    shared = []

    def loss(model, batch):
        shared.append(trainer.objective.require_backward_grad_sync)
        return weight_loss(model, batch)

    model = Weight()
    optimizer = torch.optim.SGD(model.parameters())
    trainer = Trainer(model, loss, optimizer, rate, Processes(0, 2, ALONE.device))
    trainer.run([numbers([1]), numbers([2]), numbers([3])])
    assert shared == [False, False, True]
    assert trainer.model.w.grad.item() == 2 * 6 / 3  # due processi, di cui uno non c'è


# Due processi veri


def program(name: str) -> tuple[str, str]:
    """Gli argomenti con cui Python esegue una funzione di questo file."""
    here = Path(__file__)
    statements = (
        "import sys",
        f"sys.path.insert(0, {str(here.parent)!r})",
        f"from {here.stem} import {name}",
        f"{name}(*sys.argv[1:])",
    )
    return "-c", "; ".join(statements)


def launch(*arguments: object) -> str:
    """Esegue Python a parte, con il pacchetto che si sta provando."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(section.__file__).parent.parent),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def two_processes(corpus: str, folder: str) -> None:
    """Il programma di ciascuno dei due: tre passi senza dropout; poi sei, e sei interrotti."""
    data, out = Corpus(corpus), Path(folder)
    with processes() as here:
        torch.manual_seed(here.rank)
        trainer = trainer_of(small(len(data.vocabulary)), here)
        feed = Feed(data, BUDGET, SEED, here, count=2)
        seen = train(trainer, feed, 3, out / "three")
        tensors = take_checkpoint(trainer, feed, {}).tensors
        tensors |= {f"gradient.{n}": value for n, value in gradients_of(trainer.model).items()}
        save_file(tensors, out / f"{here.rank}.safetensors")
        rows = [(it.step, it.loss, it.nll, it.tokens) for it in seen]
        (out / f"{here.rank}.json").write_text(json.dumps(rows))
        train(*begin(data, here, 2), 6, out / "whole")
        train(*begin(data, here, 2), 4, out / "broken", every=3)
        dist.barrier()
        train(*resume(data, out / "broken", here, 2), 6, out / "broken")


@pytest.fixture(scope="module")
def together(corpus, tmp_path_factory) -> Path:
    """Ciò che due processi, avviati da torchrun, hanno scritto."""
    folder = tmp_path_factory.mktemp("together")
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2, "--no-python")
    launch(*torchrun, sys.executable, *program("two_processes"), corpus.folder, folder)
    return folder


def test_two_processes_give_the_gradients_of_one_with_twice_the_batches(corpus, together):
    """Commento: due processi con due batch sono uno con quattro, salvo arrotondamenti."""
    torch.manual_seed(0)  # i pesi da cui partono sono quelli del processo zero
    trainer = trainer_of(small(len(corpus.vocabulary)))
    feed = Feed(corpus, BUDGET, SEED, ALONE, count=4)
    seen = [trainer.run(feed.next_step()) for _ in range(3)]
    expected = take_checkpoint(trainer, feed, {}).tensors
    expected |= {f"gradient.{n}": value for n, value in gradients_of(trainer.model).items()}
    rows = [[it.step, it.loss, it.nll, it.tokens] for it in seen]
    for rank in range(2):
        assert_close(load_file(together / f"{rank}.safetensors"), expected, 1e-9)
        theirs = json.loads((together / f"{rank}.json").read_text())
        assert [*map(pytest.approx, rows)] == theirs


def test_processes_end_a_step_with_the_same_bits(together):
    """Commento: tutti ricevono la stessa somma, e i pesi restano gli stessi senza mandarli."""
    first, second = (load_file(together / f"{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys()
    assert all(tensor.equal(second[name]) for name, tensor in first.items())


def test_only_the_first_process_writes(corpus, together):
    """Commento: un checkpoint per volta, con il passo e la posizione di tutti."""
    three = checkpoints(together / "three")
    assert [read_checkpoint(path).step for path in three] == [1, 2, 3]
    position = read_checkpoint(three[-1]).position
    per_epoch = len(Feed(corpus, BUDGET, SEED, ALONE).batches)
    assert position.epoch * per_epoch + position.batch == 3 * 4


def test_two_processes_too_resume_bit_for_bit(together):
    """Commento: interrotti e ripresi, gli stessi bit, dropout compreso."""
    whole, broken = (checkpoints(together / name)[-1] for name in ("whole", "broken"))
    assert whole.name == broken.name == "checkpoint-00000006.safetensors"
    assert written_digest(whole) == written_digest(broken)


# Un checkpoint e il suo file


def sample(step: int = 7) -> Checkpoint:
    """Un checkpoint piccolo, con ogni genere di tensore."""
    tensors = {
        "model.w": torch.arange(6.0).reshape(2, 3),
        "model.short": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "optimizer.0.step": torch.tensor(float(step)),
        "optimizer.0.exp_avg": torch.full((2, 3), 1 / 3, dtype=torch.float64),
        "model.empty": torch.zeros(0, 5),
    }
    return Checkpoint(step, Position(2, 5), tensors, {"config": {"layers": 2}, "perché": ["è", 1]})


def assert_same(found: Checkpoint, expected: Checkpoint) -> None:
    assert (found.step, found.position) == (expected.step, expected.position)
    assert found.notes == expected.notes
    assert found.tensors.keys() == expected.tensors.keys()
    for name, tensor in found.tensors.items():
        assert tensor.dtype == expected.tensors[name].dtype
        assert tensor.equal(expected.tensors[name])


def test_a_checkpoint_reads_back_as_it_was(tmp_path):
    """Commento: passo, posizione, tensori con il loro tipo, note: tutto torna."""
    path = write_checkpoint(tmp_path / "new" / "folder", sample())
    assert path == tmp_path / "new" / "folder" / "checkpoint-00000007.safetensors"
    assert_same(read_checkpoint(path), sample())
    assert [*path.parent.iterdir()] == [path]


def test_a_checkpoint_is_an_ordinary_safetensors(tmp_path):
    """Commento: lo legge chiunque, senza questo programma."""
    path = write_checkpoint(tmp_path, sample())
    found = load_file(path)
    assert found["model.w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    with safe_open(path, "np") as file:
        assert file.metadata().keys() == {"step", "position", "notes", "digest"}


def test_a_checkpoint_holds_weights_both_averages_and_the_position(corpus):
    """Commento: tre numeri per peso, più i contatori: il triplo del modello."""
    trainer, feed = begin(corpus)
    trainer.run(feed.next_step())
    found = take_checkpoint(trainer, feed, {"seed": 1})
    names = dict(trainer.model.named_parameters())
    assert {n for n in found.tensors if n.startswith("model.")} == {f"model.{n}" for n in names}
    weights = sum(value.numel() for value in names.values())
    counters = len(names)
    assert sum(tensor.numel() for tensor in found.tensors.values()) == 3 * weights + counters
    assert (found.step, found.position, found.notes) == (1, feed.position, {"seed": 1})


def test_a_checkpoint_is_a_copy_and_can_be_restored_twice(corpus):
    """Commento: né i passi seguenti né chi riprende toccano ciò che è stato preso."""
    trainer, feed = begin(corpus)
    trainer.run(feed.next_step())
    found = take_checkpoint(trainer, feed, {})
    before = digest({}, found.tensors)
    trainer.run(feed.next_step())
    assert digest({}, found.tensors) == before
    expected = bits_of(trainer, feed)
    for _ in range(2):
        again, _ = begin(corpus)
        restore(found, again)
        feed = Feed(corpus, BUDGET, SEED, ALONE, 1, found.position)
        again.run(feed.next_step())
        assert digest({}, found.tensors) == before
        assert bits_of(again, feed) == expected


def test_matrices_stored_by_columns_are_saved_too(tmp_path, corpus):
    """Commento: nel file ogni tensore è per righe, comunque stia in memoria."""
    trainer, feed = begin(corpus)
    with torch.no_grad():
        weight = trainer.model.embedding.weight
        weight.set_(weight.T.contiguous().T)
    path = write_checkpoint(tmp_path, take_checkpoint(trainer, feed, {}))
    assert read_checkpoint(path).tensors["model.embedding.weight"].equal(weight)


def test_the_checkpoint_of_another_model_is_refused(corpus):
    """Riprendere con un'altra configurazione è un errore, detto in chiaro."""
    trainer, feed = begin(corpus)
    found = take_checkpoint(trainer, feed, {})
    other = trainer_of(small(len(corpus.vocabulary) + 1))
    message = (
        r"^checkpoint: dato: i pesi di un altro modello \((.|\n)+\); atteso: i pesi di questo$"
    )
    with pytest.raises(ValueError, match=message):
        restore(found, other)
    assert other.step == 0


def test_every_detail_enters_the_digest():
    """Commento: nome, tipo, forma, valore, testo: cambiarne uno cambia l'impronta."""
    w = torch.arange(6.0)
    variants = [
        ({}, {"w": w}),
        ({}, {"u": w}),
        ({}, {"w": w.reshape(2, 3)}),
        ({}, {"w": w.reshape(3, 2)}),
        ({}, {"w": w.view(torch.int32)}),
        ({}, {"w": w.double()}),
        ({}, {"w": torch.nextafter(w, w + 1)}),
        ({}, {"w": w, "u": w}),
        ({}, {"w": w, "u": torch.zeros(0)}),
        ({"step": "1"}, {"w": w}),
        ({"step": "2"}, {"w": w}),
        ({"stop": "1"}, {"w": w}),
    ]
    assert len({digest(*variant) for variant in variants}) == len(variants)
    assert digest({"a": "1", "b": "2"}, {"u": w, "w": w}) == digest(
        {"b": "2", "a": "1"}, {"w": w, "u": w}
    )


# La scrittura


@pytest.fixture
def ledger(monkeypatch, tmp_path) -> list[tuple[str, str]]:
    """Le operazioni sul disco, nell'ordine: che cosa, e su che cosa."""
    found: list[tuple[str, str]] = []

    def recorded(name: str, action: Callable) -> Callable:
        def act(*given):
            found.append((name, *(it.name for it in given if isinstance(it, Path))))
            return action(*given)

        return act

    monkeypatch.setattr(section, "save_file", recorded("save", section.save_file))
    monkeypatch.setattr(section, "flush", recorded("flush", section.flush))
    monkeypatch.setattr(os, "replace", recorded("replace", os.replace))
    return found


def test_a_file_gets_its_name_when_it_is_whole_and_on_the_disk(ledger, tmp_path):
    """Commento: si scrive a parte, si aspetta il disco, si ribattezza, si aspetta il disco."""
    path = write_checkpoint(tmp_path, sample())
    assert ledger == [
        ("save", path.name),
        ("flush", path.name),
        ("replace", path.name, path.name),
        ("flush", tmp_path.name),
    ]


def test_flush_waits_for_that_very_file_and_closes_it(monkeypatch, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"1")
    seen = []
    monkeypatch.setattr(os, "fsync", lambda fd: seen.append((fd, os.fstat(fd).st_ino)))
    for place in (path, tmp_path):
        section.flush(place)
        descriptor, inode = seen.pop()
        assert inode == place.stat().st_ino
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def failing_save(error: BaseException) -> Callable:
    """Una scrittura che si ferma a metà."""

    def save_half(tensors, path, metadata):
        whole = safetensors.torch.save(tensors, metadata)
        Path(path).write_bytes(whole[: len(whole) // 2])
        (Path(path).parent / ".tmpHalf").write_bytes(b"resti")
        raise error

    return save_half


FULL = OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_gives_a_clear_error_and_leaves_the_checkpoint_of_before(monkeypatch, tmp_path):
    """Commento: un nastro figlio riuscito male non tocca il padre, e non lascia resti."""
    before = write_checkpoint(tmp_path, sample(7))
    monkeypatch.setattr(section, "save_file", failing_save(FULL))
    message = (
        rf"^folder: dato: {tmp_path}, dove non si può scrivere \(\[Errno 28\] No space left on "
        r"device\); atteso: posto per 80 byte$"
    )
    for step in (8, 7):
        with pytest.raises(OSError, match=message):
            write_checkpoint(tmp_path, sample(step))
        assert [*tmp_path.iterdir()] == [before]
        assert_same(read_checkpoint(before), sample(7))


def test_a_file_that_cannot_grow_is_a_full_disk(tmp_path):
    """Commento: la stessa cosa con un limite vero, dato dal sistema operativo."""
    before = write_checkpoint(tmp_path, sample(7))
    big = dataclasses.replace(sample(8), tensors={"model.w": torch.zeros(5000)})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large.*; atteso: posto per 20000 byte$"):
            write_checkpoint(tmp_path, big)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [*tmp_path.iterdir()] == [before]
    assert_same(read_checkpoint(before), sample(7))


def test_a_folder_that_cannot_be_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match=rf"^folder: dato: {tmp_path}/file, dove non si può scrivere"):
        write_checkpoint(tmp_path / "file", sample())


def test_an_interruption_while_writing_leaves_no_remains(monkeypatch, tmp_path):
    """Commento: chi preme Ctrl-C durante la scrittura trova solo file interi."""
    before = write_checkpoint(tmp_path, sample(7))
    monkeypatch.setattr(section, "save_file", failing_save(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, sample(8))
    assert [*tmp_path.iterdir()] == [before]


def test_the_remains_of_a_killed_writing_go_with_the_next_one(tmp_path):
    """Commento: anche quelli che la libreria lascia con un nome suo."""
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / ".tmpXYZ").write_bytes(b"resti")
    path = write_checkpoint(tmp_path, sample())
    assert [*tmp_path.iterdir()] == [path]


# I danni


REFUSED = r"^path: dato: .+; atteso: un checkpoint intero$"


def refused(path: Path, content: bytes) -> bool:
    """Vero se quei byte, letti come checkpoint, danno il nostro errore."""
    path.write_bytes(content)
    try:
        read_checkpoint(path)
    except ValueError as error:
        return bool(re.match(REFUSED, str(error)))
    return False


def test_one_flipped_bit_anywhere_is_noticed(tmp_path):
    """Commento: ogni bit dell'intestazione e ogni bit dei dati, uno per volta."""
    tiny = Checkpoint(7, Position(2, 5), {"w": torch.tensor([1.5, -2.0])}, {"a": 1})
    whole = write_checkpoint(tmp_path, tiny).read_bytes()
    path = tmp_path / "damaged"
    assert not refused(path, whole)
    for bit in range(8 * len(whole)):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        assert refused(path, bytes(damaged)), bit


def test_a_truncated_file_is_noticed_wherever_it_ends(tmp_path):
    """Commento: da zero byte a tutti meno uno; e neppure se ne accettano di più."""
    whole = write_checkpoint(tmp_path, sample()).read_bytes()
    path = tmp_path / "damaged"
    assert all(refused(path, whole[:length]) for length in range(len(whole)))
    assert refused(path, whole + b"\0")


class Bomb:
    """Un oggetto che, se qualcuno lo apre, scrive un file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_refused_and_not_opened(tmp_path):
    """Commento: un file che contiene un programma non viene eseguito."""
    bomb = Bomb(tmp_path / "exploded")
    pickle.loads(pickle.dumps(bomb))
    assert bomb.path.exists()
    bomb.path.unlink()
    assert refused(tmp_path / "a", pickle.dumps(bomb))
    torch.save(bomb, tmp_path / "b")
    assert refused(tmp_path / "c", (tmp_path / "b").read_bytes())
    assert not bomb.path.exists()


def test_the_module_has_no_way_to_execute_a_file():
    """Commento: né pickle, né torch.load, né eval."""
    tree = ast.parse(Path(section.__file__).read_text(encoding="utf-8"))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)
              for alias in node.names}  # fmt: skip
    assert not names & {"pickle", "load", "eval", "exec", "compile", "import_module", "marshal"}


@pytest.mark.parametrize("metadata", [None, {}, {"step": "7", "position": "{}", "notes": "{}"}])
def test_other_safetensors_are_refused(tmp_path, metadata):
    save_file({"model.w": torch.zeros(3)}, tmp_path / "a", metadata)
    with pytest.raises(ValueError, match=REFUSED):
        read_checkpoint(tmp_path / "a")


@pytest.mark.parametrize(
    "change",
    [{"step": "sette"}, {"position": "[]"}, {"position": '{"page": 1}'}, {"notes": "{"}],
    ids=str,
)
def test_a_whole_file_that_says_nonsense_is_refused(tmp_path, change):
    """Commento: con l'impronta giusta e il testo sbagliato."""
    metadata = {"step": "7", "position": "{}", "notes": "{}"}
    for changes, ok in (({}, True), (change, False)):
        texts, tensors = metadata | changes, {"model.w": torch.zeros(3)}
        save_file(tensors, tmp_path / "a", texts | {"digest": digest(texts, tensors)})
        if ok:
            assert read_checkpoint(tmp_path / "a").position == Position()
        else:
            with pytest.raises(ValueError, match=REFUSED):
                read_checkpoint(tmp_path / "a")


def test_a_missing_checkpoint_is_simply_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_checkpoint(tmp_path / "nothing")


# Quale riprendere, quali tenere


def test_the_latest_whole_checkpoint_is_used_and_the_damaged_ones_are_named(tmp_path):
    """Commento: nonno, padre, figlio: si torna all'ultimo nastro che si legge."""
    paths = [write_checkpoint(tmp_path, sample(step)) for step in (9, 10, 100, 101)]
    paths[2].write_bytes(paths[2].read_bytes()[:-1])
    paths[3].write_bytes(b"")
    found, complaints = latest(tmp_path)
    assert_same(found, sample(10))
    assert [str(paths[3]) in complaints[0], str(paths[2]) in complaints[1]] == [True, True]
    assert len(complaints) == 2
    for path in paths[:2]:
        path.write_bytes(b"")
    found, complaints = latest(tmp_path)
    assert found is None
    assert len(complaints) == 4


def test_without_checkpoints_one_begins_from_the_beginning(tmp_path):
    """Commento: la cartella può mancare; gli altri file non contano."""
    assert latest(tmp_path / "absent") == (None, [])
    for name in ("checkpoint-best.safetensors", "checkpoint-1.safetensors", "model.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert latest(tmp_path) == (None, [])


@pytest.mark.parametrize(("keep", "left"), [(1, [5]), (2, [4, 5]), (5, [1, 2, 3, 4, 5]), (9, None)])
def test_tidy_keeps_the_last_ones(tmp_path, keep, left):
    """Commento: ne restano `keep`, i più nuovi; nient'altro si tocca."""
    for step in (1, 2, 3, 4, 5):
        write_checkpoint(tmp_path, sample(step))
    (tmp_path / "checkpoint-best.safetensors").write_bytes(b"")
    tidy(tmp_path, 5, keep)
    assert [read_checkpoint(path).step for path in checkpoints(tmp_path)] == (
        left or [1, 2, 3, 4, 5]
    )
    assert (tmp_path / "checkpoint-best.safetensors").exists()


def test_a_damaged_checkpoint_of_the_future_does_not_push_out_the_good_ones(tmp_path):
    """Commento: si contano quelli fino al nuovo, non quelli dopo."""
    paths = [write_checkpoint(tmp_path, sample(step)) for step in (1, 2, 3, 9)]
    paths[3].write_bytes(b"")
    tidy(tmp_path, 3, 2)
    assert checkpoints(tmp_path) == paths[1:]
    found, _ = latest(tmp_path)
    assert found.step == 3


# L'addestramento


def test_who_died_on_the_last_line_leaves_nothing_to_those_who_resume(corpus, tmp_path):
    """Commento: ucciso fra l'ultimo checkpoint e l'ultima pulizia: la finisce chi riprende."""
    train(*begin(corpus), 4, tmp_path, keep=4)
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "checkpoint-00000004.safetensors").write_bytes(b"resti")
    assert train(*resume(corpus, tmp_path), 4, tmp_path, keep=2) == []
    assert sorted(tmp_path.iterdir()) == checkpoints(tmp_path)
    assert [read_checkpoint(path).step for path in checkpoints(tmp_path)] == [3, 4]


def test_checkpoints_come_every_so_many_steps_and_at_the_end(corpus, tmp_path):
    """Commento: con 8 passi, uno ogni 3, i checkpoint sono 3, 6 e 8; ne restano due."""
    present = []
    trainer, feed = begin(corpus)
    for progress in training(trainer, feed, 8, tmp_path, every=3, keep=2, notes=NOTES):
        names = [int(path.name[11:19]) for path in checkpoints(tmp_path)]
        present.append((progress.step, names))
    assert present == [
        *((step, []) for step in (1, 2)),
        *((step, [3]) for step in (3, 4, 5)),
        *((step, [3, 6]) for step in (6, 7)),
        (8, [6, 8]),
    ]
    assert read_checkpoint(checkpoints(tmp_path)[-1]).notes == NOTES
    assert train(trainer, feed, 8, tmp_path) == []


def test_other_processes_do_not_write(corpus, tmp_path):
    trainer, feed = begin(corpus)
    trainer.processes = dataclasses.replace(ALONE, rank=1)
    assert len(train(trainer, feed, 2, tmp_path)) == 2
    assert [*tmp_path.iterdir()] == []


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize(
    ("every", "keep", "message"),
    [
        (0, 1, "every: dato: 0; atteso: almeno 1"),
        (1, 0, "keep: dato: 0; atteso: almeno 1"),
        (1.5, 1, "every: dato: 1.5; atteso: un numero intero"),
        (1, None, "keep: dato: None; atteso: un numero intero"),
    ],
)
def test_impossible_cadences_are_refused_before_the_first_step(
    corpus, tmp_path, every, keep, message
):
    trainer, feed = begin(corpus)
    with pytest.raises((ValueError, TypeError), match=f"^{message}$"):
        train(trainer, feed, 2, tmp_path, every, keep)
    assert trainer.step == 0


def test_a_full_disk_stops_the_training(corpus, tmp_path, monkeypatch):
    """Commento: meglio fermarsi che andare avanti senza rete; l'ultimo buono resta."""
    trainer, feed = begin(corpus)
    train(trainer, feed, 2, tmp_path)
    monkeypatch.setattr(section, "save_file", failing_save(FULL))
    with pytest.raises(OSError, match="dove non si può scrivere"):
        train(trainer, feed, 4, tmp_path)
    found, complaints = latest(tmp_path)
    assert (found.step, complaints) == (2, [])


# La ripresa


STEPS = 9
"""Abbastanza da passare da un giro del corpus al seguente."""


@pytest.fixture(scope="module")
def uninterrupted(corpus, tmp_path_factory) -> tuple[list[Progress], str]:
    """Un addestramento mai interrotto: ciò che se ne vede, e i suoi bit alla fine."""
    trainer, feed = begin(corpus)
    seen = train(trainer, feed, STEPS, tmp_path_factory.mktemp("uninterrupted"))
    assert feed.position.epoch >= 1
    return seen, bits_of(trainer, feed)


def shown(seen: Sequence[Progress]) -> list[Progress]:
    """Senza le durate, che non si ripetono."""
    return [dataclasses.replace(progress, seconds=0.0) for progress in seen]


@pytest.mark.parametrize("stop", range(1, STEPS))
def test_a_training_resumed_anywhere_has_the_same_bits(corpus, tmp_path, uninterrupted, stop):
    """Commento: perdite, tassi, pesi, medie di Adam, dati: uguali bit per bit, dropout compreso."""
    expected, bits = uninterrupted
    seen = train(*begin(corpus), stop, tmp_path)
    trainer, feed = resume(corpus, tmp_path)
    assert trainer.step == stop
    seen += train(trainer, feed, STEPS, tmp_path)
    assert shown(seen) == shown(expected)
    assert bits_of(trainer, feed) == bits


def test_a_training_interrupted_at_every_step_has_the_same_bits(corpus, tmp_path, uninterrupted):
    """Commento: otto interruzioni di fila."""
    expected, bits = uninterrupted
    seen = []
    for stop in range(1, STEPS + 1):
        trainer, feed = resume(corpus, tmp_path)
        seen += train(trainer, feed, stop, tmp_path)
    assert shown(seen) == shown(expected)
    assert bits_of(trainer, feed) == bits


def test_after_a_damaged_checkpoint_the_training_still_has_the_same_bits(
    corpus, tmp_path, uninterrupted
):
    """Commento: si riprende dal penultimo, e si arriva nello stesso punto."""
    _, bits = uninterrupted
    train(*begin(corpus), 5, tmp_path)
    newest = checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:-3])
    trainer, feed = resume(corpus, tmp_path)
    assert trainer.step == 4
    train(trainer, feed, STEPS, tmp_path)
    assert bits_of(trainer, feed) == bits


@pytest.mark.parametrize("forgotten", ["medie", "posizione", "passo"])
def test_weights_alone_are_not_enough_to_resume(corpus, tmp_path, uninterrupted, forgotten):
    """False credenze: senza le medie di Adam, la posizione o il passo si arriva altrove."""
    _, bits = uninterrupted
    train(*begin(corpus), 4, tmp_path)
    found, _ = latest(tmp_path)
    if forgotten == "medie":
        weights = {name: t for name, t in found.tensors.items() if name.startswith("model.")}
        found = dataclasses.replace(found, tensors=weights)
    if forgotten == "passo":
        found = dataclasses.replace(found, step=0)
    trainer, feed = begin(corpus)
    restore(found, trainer)
    if forgotten != "posizione":
        feed = Feed(corpus, BUDGET, SEED, ALONE, 1, found.position)
    for _ in range(4, STEPS):
        trainer.run(feed.next_step())
    trainer.step = STEPS
    feed.position = Feed(corpus, BUDGET, SEED, ALONE, 1, found.position).position
    assert bits_of(trainer, feed) != bits


# kill -9


SIEGE_STEPS = 30

KEPT = 3


def slow_save(tensors: dict[str, Tensor], path: Path, metadata: dict[str, str]) -> None:
    """Lo stesso file, scritto un pezzo alla volta."""
    whole = safetensors.torch.save(tensors, metadata)
    with open(path, "wb") as file:
        for start in range(0, len(whole), 1 + len(whole) // 8):
            file.write(whole[start : start + 1 + len(whole) // 8])
            file.flush()
            time.sleep(0.004)


def soldier(corpus: Corpus, folder: Path, slow: bool) -> int:
    """Un processo che addestra da dove si era; restituisce il suo numero."""
    number = os.fork()
    if number == 0:
        if slow:
            section.save_file = slow_save
        train(*resume(corpus, folder), SIEGE_STEPS, folder, keep=KEPT)
        os._exit(0)
    return number


def entries(folder: Path) -> list[str]:
    """I nomi in una cartella che un altro processo può togliere in qualunque istante."""
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def survives(number: int, until: Callable[[], bool]) -> bool:
    """Aspetta la condizione, poi kill -9; vero se il processo aveva già finito il suo lavoro."""
    while not until():
        done, status = os.waitpid(number, os.WNOHANG)
        if done:
            assert status == 0
            return True
        time.sleep(0.001)
    os.kill(number, signal.SIGKILL)
    _, status = os.waitpid(number, 0)
    return status != signal.SIGKILL


def siege(corpus: str, folder: str) -> None:
    """Il programma: un addestramento in pace, e uno ucciso molte volte, finché arriva in fondo.

    Si uccide a turno mentre un checkpoint è scritto a metà, e in un istante a caso, entro il tempo
    di qualche passo.
    """
    torch.set_num_threads(1)
    data, peace, war = Corpus(corpus), Path(folder, "peace"), Path(folder, "war")
    begin(data)  # carica le librerie una volta per tutti
    start = time.monotonic()
    assert survives(soldier(data, peace, slow=False), lambda: False)
    pace = (time.monotonic() - start) / SIEGE_STEPS
    dice, kills = random.Random(5), {"writing": 0, "chance": 0}
    for turn in itertools.count():
        before, end = checkpoints(war)[-1:], time.monotonic() + dice.uniform(0, 6 * pace)

        def writing(before=before) -> bool:
            """Ce n'è uno nuovo intero, e un altro a metà."""
            return checkpoints(war)[-1:] != before and any(entries(war / ".partial"))

        def chance(end=end) -> bool:
            return time.monotonic() > end

        kind = writing if turn % 2 == 0 else chance
        if survives(soldier(data, war, slow=kind is writing), kind):
            break
        kills[kind.__name__] += 1
    print(json.dumps(kills))


@pytest.fixture(scope="module")
def battlefield(corpus, tmp_path_factory) -> tuple[Path, dict[str, int]]:
    """Le due cartelle, e quante volte il secondo addestramento è stato ucciso."""
    folder = tmp_path_factory.mktemp("siege")
    return folder, json.loads(launch(*program("siege"), corpus.folder, folder))


def test_a_training_killed_many_times_ends_with_the_same_bits(battlefield):
    """Commento: kill -9 a caso e mentre si scrive: il risultato è quello di chi non muore mai."""
    folder, kills = battlefield
    assert min(kills.values()) >= 3
    peace, war = (checkpoints(folder / name) for name in ("peace", "war"))
    assert [path.name for path in peace] == [path.name for path in war]
    assert len(war) == KEPT
    assert [*map(written_digest, peace)] == [*map(written_digest, war)]
    assert read_checkpoint(war[-1]).step == SIEGE_STEPS


def test_a_training_killed_many_times_leaves_no_remains(battlefield):
    """Commento: alla fine ci sono solo i checkpoint."""
    folder, _ = battlefield
    assert sorted((folder / "war").iterdir()) == checkpoints(folder / "war")


# Le misure della pagina


def test_bytes_of_a_checkpoint_and_of_an_exchange():
    """Sulla GPU: 757 e 2570 MB a checkpoint; 441 MB mandati a ogni scambio; 3,4 GB da tenere."""
    with torch.device("meta"):
        base, big = (sum(p.numel() for p in Transformer(c).parameters()) for c in (BASE, BIG))
    assert round(3 * 4 * base / 1e6) == 757
    assert round(3 * 4 * big / 1e6) == 2570
    assert round(2 * 7 / 8 * 4 * base / 1e6) == 441
    assert round(4 * 4 * big / 1e9, 1) == 3.4


# Il Fortran della pagina


@pytest.mark.parametrize(("p", "n"), [(1, 5), (2, 7), (3, 11), (7, 5), (8, 64)])
def test_fortran_ring(fortran, call_fortran, p, n):
    """Se vieni dal Fortran: dopo 2(p − 1) turni ogni colonna è la somma, e sono tutte uguali."""
    given = torch.randn(p, n, dtype=torch.float64)
    found, sent = given.clone(), torch.zeros(p, dtype=torch.float64)
    call_fortran(fortran("s5_2_hardware_schedule").ring_allreduce, n, p, found, sent)
    assert all(column.equal(found[0]) for column in found)
    torch.testing.assert_close(found[0], given.sum(dim=0), rtol=1e-12, atol=1e-12)
    if n % p == 0:
        assert sent.tolist() == p * [2 * (p - 1) * n / p]
    assert sent.sum() == 2 * (p - 1) * n
