"""§6.1: la ricerca, contro l'albero intero e contro liste ordinate; la tabella 2, a mano."""

import contextlib
import ctypes
import dataclasses
import io
import itertools
import math
import re
from decimal import Decimal
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attention import (
    BASE,
    FeedForward,
    Transformer,
    TransformerConfig,
    log_probabilities,
    s3_2_2_multi_head,
)
from attention.command_line import RECIPES
from attention.s0_abstract import (
    EN_DE,
    EN_FR,
    EN_FR_FIRST_PRINTED,
    EN_FR_TRAINING,
    Claim,
    Rival,
    Training,
    fraction_of_cost,
)
from attention.s3_2_2_multi_head import PACKS
from attention.s5_2_hardware_schedule import (
    BASE_SCHEDULE,
    BIG_SCHEDULE,
    Checkpoint,
    Position,
    checkpoints,
    write_checkpoint,
)
from attention.s6_1_machine_translation import (
    ALPHA,
    BASE_TRAINING,
    BEAM,
    BIG_TRAINING,
    EXTRA,
    TABLE_2,
    TFLOPS,
    TRAININGS,
    BeamSearch,
    Hypothesis,
    Result,
    average_checkpoints,
    beam_search,
    bleu,
    checkpointed_model,
    cost,
    length_penalty,
    merit,
    rivals,
    row,
)
from benchmarks import bench_s3_model_architecture as model_bench
from benchmarks import bench_s6_1_machine_translation as bench
from benchmarks.provenance import installed
from weave.house import ROOT
from weave.pact import blocks

START = 1
"""Il simbolo d'inizio."""

END = 2
"""Il simbolo di fine."""


def spiky(seed: int = 0, device: str = "cpu", scale: float = 3.0, **sizes) -> Transformer:
    """Un modello piccolo con pesi grandi: probabilità diseguali, diverse a ogni passo."""
    torch.manual_seed(seed)
    usual = {"layers": 2, "d_model": 6, "d_ff": 11, "heads": 3, "dropout": 0.4, "vocabulary": 7}
    model = Transformer(TransformerConfig(**{**usual, **sizes})).to(device, torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(scale)
    return model.eval()


def ragged(*sentences: list[int], device: str = "cpu") -> Tensor:
    """Frasi di lunghezza diversa, con il padding in fondo."""
    width = max(map(len, sentences))
    rows = [[*sentence, *[0] * (width - len(sentence))] for sentence in sentences]
    return torch.tensor(rows, device=device)


SENTENCES = ([3, 5, 4, 6, 3], [4], [6, 3], [5, 5, 3, 4, 4, 6, 5])


@torch.no_grad()
def logarithms(model: Transformer, source: list[int], tokens: tuple[int, ...]) -> Tensor:
    """Le log-probabilità del token seguente dopo ogni prefisso, con una passata di `forward`."""
    target = torch.tensor([[START, *tokens]])
    return model(torch.tensor([source]), target)[0].double().log_softmax(dim=-1)


def log_probability(model: Transformer, source: list[int], tokens: tuple[int, ...]) -> float:
    """La log-probabilità di una sequenza, senza cache."""
    rows = logarithms(model, source, tokens[:-1])
    return sum(rows[i, token].item() for i, token in enumerate(tokens))


class Chain(Transformer):
    """Un modello finto: la probabilità del token seguente si legge in una tabella.

    `table[position][last]` è il dizionario delle probabilità; ciò che non c'è è impossibile, e dopo
    un token che non c'è si finisce. L'ultima posizione vale anche per le seguenti.
    """

    def __init__(self, *table: dict[int, dict[int, float]], vocabulary: int = 7):
        super().__init__(
            TransformerConfig(layers=1, d_model=2, d_ff=1, heads=1, vocabulary=vocabulary)
        )
        probabilities = torch.zeros(len(table), vocabulary, vocabulary)
        probabilities[:, :, END] = 1.0
        for position, rows in enumerate(table):
            for last, following in rows.items():
                probabilities[position, last, END] = 0.0
                for token, probability in following.items():
                    probabilities[position, last, token] = probability
        self.logarithms = probabilities.double().log()
        self.rows: list[int] = []

    def next_logits(self, token, position, caches, source_mask=None, past=None):
        self.rows.append(token.numel())
        return self.logarithms[min(position, len(self.logarithms) - 1)][token]


# La penalità di lunghezza


@pytest.mark.parametrize(
    ("length", "alpha", "value"),
    [(10, 0.6, 1.7329), (20, 0.6, 2.3544), (50, 0.6, 3.7786), (10, 0.3, 1.3164)],
)
def test_length_penalty_has_the_values_of_the_formula(length, alpha, value):
    """§6.1 ¶3, T35: ((5 + |Y|) / 6)^α, con i valori calcolati a parte."""
    assert length_penalty(length, alpha) == pytest.approx(value, abs=5e-5)
    by_gnmt = (5 + length) ** alpha / (5 + 1) ** alpha
    assert length_penalty(length, alpha) == pytest.approx(by_gnmt, rel=1e-14)


@given(st.integers(1, 500), st.floats(0, 3))
def test_without_exponent_there_is_no_penalty_and_a_token_alone_never_pays(length, alpha):
    """§6.1 ¶3: α = 0 dà 1 a ogni lunghezza, e |Y| = 1 dà 1 a ogni α; fra i due, cresce."""
    assert length_penalty(length, 0.0) == 1
    assert length_penalty(1, alpha) == 1
    assert length_penalty(length + 1, alpha) >= length_penalty(length, alpha) >= 1


CANDIDATES = st.lists(
    st.tuples(st.integers(1, 60), st.floats(-200, -0.01)), min_size=1, max_size=12
)
EXPONENTS = (0.0, 0.3, 0.6, 1.0, 2.0)


def chosen_length(candidates: list[tuple[int, float]], alpha: float) -> int:
    """La lunghezza del candidato con il punteggio più alto."""
    return max(candidates, key=lambda it: it[1] / length_penalty(it[0], alpha))[0]


@given(CANDIDATES)
def test_a_larger_exponent_never_shortens_the_choice(candidates):
    """§6.1 ¶3, T35: fra gli stessi candidati, alzando α la scelta può solo allungarsi."""
    lengths = [chosen_length(candidates, alpha) for alpha in EXPONENTS]
    assert lengths == sorted(lengths)


def test_the_exponent_moves_the_choice_of_the_search():
    """§6.1 ¶3: lo stesso nella ricerca, quando guarda tutto l'albero; e qualche volta si muove."""
    moved = 0
    for seed in range(12):
        model = spiky(seed, vocabulary=4)
        lengths = [
            len(beam_search(model, torch.tensor([[3]]), 256, alpha, extra=3)[0][0].tokens)
            for alpha in EXPONENTS
        ]
        assert lengths == sorted(lengths)
        moved += lengths[0] < lengths[-1]
    assert moved > 2


def test_the_constants_are_those_of_the_paragraph():
    """§6.1 ¶3: ampiezza 4, α = 0,6, la sorgente più 50; e sono i valori di partenza."""
    assert (BEAM, ALPHA, EXTRA) == (4, 0.6, 50)
    model, source = spiky(3), ragged(*SENTENCES)
    assert beam_search(model, source) == beam_search(model, source, 4, 0.6, 50, 1)


# La ricerca


@pytest.mark.parametrize("seed", range(8))
def test_a_beam_of_one_is_greedy(seed, device):
    """§6.1 ¶3, T35: con un posto solo, token per token la generazione di §3."""
    model, source = spiky(seed, device), ragged(*SENTENCES, device=device)
    greedy = model.generate(source, extra=6).tolist()
    found = beam_search(model, source, beam=1, extra=6)
    for written, (best,), sentence in zip(greedy, found, SENTENCES, strict=True):
        assert best.tokens == tuple(written[: len(best.tokens)])
        assert not any(written[len(best.tokens) :])
        assert best.finished == (best.tokens[-1] == END)
        assert best.finished or len(best.tokens) == len(sentence) + 6


def test_the_search_takes_its_three_tokens_from_the_configuration():
    """§6.1 ¶3: padding, inizio e fine sono quelli del modello, quali che siano."""
    padding, start, end, ended = 5, 6, 4, 0
    sentences = ([3, 1, 0, 2, 3], [2], [1, 3])
    source = torch.tensor([[*it, *[padding] * (5 - len(it))] for it in sentences])
    for seed in range(8):
        model = spiky(seed, padding_id=padding, start_id=start, end_id=end)
        greedy = model.generate(source, extra=6).tolist()
        alone = beam_search(model, source, beam=1, extra=6)
        for written, (best,) in zip(greedy, alone, strict=True):
            assert best.tokens == tuple(written[: len(best.tokens)])
        wide = beam_search(model, source, beam=3, extra=6, n_best=3)
        for sentence, found in zip(sentences * 2, alone + wide, strict=True):
            for it in found:
                read = torch.tensor([[start, *it.tokens[:-1]]])
                with torch.no_grad():
                    logs = model(torch.tensor([sentence]), read)[0].log_softmax(-1)
                exact = sum(logs[i, token].item() for i, token in enumerate(it.tokens))
                assert it.log_probability == pytest.approx(exact, abs=1e-10)
                assert it.finished == (it.tokens[-1] == end)
                assert it.finished or len(it.tokens) == len(sentence) + 6
        ended += sum(best.finished for (best,) in alone)
    assert 0 < ended < 24


@pytest.mark.parametrize("seed", range(4))
def test_packed_weights_find_the_same_hypotheses(seed, monkeypatch):
    """§6.1 ¶3: la ricerca impacchetta i pesi, se sono grandi, e trova le stesse ipotesi."""
    model, source = spiky(seed).float(), ragged(*SENTENCES)
    expected = beam_search(model, source, n_best=BEAM)
    monkeypatch.setattr(s3_2_2_multi_head, "LARGE", 1)
    found = []
    model.embedding.register_forward_hook(lambda *_: found.append(PACKS.get()))
    for straight, packed in zip(expected, beam_search(model, source, n_best=BEAM), strict=True):
        assert [it.tokens for it in packed] == [it.tokens for it in straight]
        assert [it.score for it in packed] == pytest.approx([it.score for it in straight], abs=1e-4)
    assert all(packs is found[0] for packs in found)
    assert len(found[0]) > 0
    assert PACKS.get() is None


def plain_beam(
    model: Transformer, source: list[int], beam: int, alpha: float, extra: int
) -> list[tuple[tuple[int, ...], float]]:
    """La ricerca con liste ordinate, senza cache, senza batch e senza fermarsi prima."""
    limit, paths, finished = len(source) + extra, [((), 0.0)], []
    while paths and len(paths[0][0]) < limit:
        longer = [
            (total + logarithm, (*tokens, v))
            for tokens, total in paths
            for v, logarithm in enumerate(logarithms(model, source, tokens)[-1].tolist())
        ]
        best = sorted(longer, reverse=True)[: beam - len(finished)]
        taken = [(tokens, total) for total, tokens in best]
        finished += [it for it in taken if it[0][-1] == END]
        paths = [it for it in taken if it[0][-1] != END]

    def score(it: tuple[tuple[int, ...], float]) -> float:
        return it[1] / length_penalty(len(it[0]), alpha)

    return sorted(finished, key=score, reverse=True) + sorted(paths, key=score, reverse=True)


@pytest.mark.parametrize("beam", [2, 3, 5])
@pytest.mark.parametrize("seed", range(4))
def test_the_search_is_the_one_with_sorted_lists(seed, beam):
    """§6.1 ¶3: stesse ipotesi, nello stesso ordine, di un ciclo che non ha cache né batch."""
    model, sentences = spiky(seed), SENTENCES[:3]
    found = beam_search(model, ragged(*sentences), beam, extra=3, n_best=beam)
    for hypotheses, sentence in zip(found, sentences, strict=True):
        expected = plain_beam(model, sentence, beam, ALPHA, extra=3)
        assert [it.tokens for it in hypotheses] == [tokens for tokens, _ in expected]
        for ours, (_, total) in zip(hypotheses, expected, strict=True):
            assert ours.log_probability == pytest.approx(total, abs=1e-10)


def every_sequence(model: Transformer, source: list[int], limit: int) -> list[Hypothesis]:
    """Tutte le sequenze di un albero profondo `limit`, finite e no, con il loro punteggio."""
    words = [token for token in range(model.config.vocabulary) if token != END]
    found = [
        (*prefix, END)
        for length in range(limit)
        for prefix in itertools.product(words, repeat=length)
    ]
    found += list(itertools.product(words, repeat=limit))
    hypotheses = []
    for tokens in found:
        total = log_probability(model, source, tokens)
        score = total / ((5 + len(tokens)) / 6) ** 0.6
        hypotheses.append(Hypothesis(tokens, total, score, tokens[-1] == END))
    return sorted(hypotheses, key=lambda it: (it.finished, it.score), reverse=True)


@pytest.mark.parametrize("seed", range(3))
def test_a_beam_as_wide_as_the_tree_is_exhaustive(seed):
    """§6.1 ¶3, T35: con V^L posti la migliore, e tutte le altre in ordine, sono quelle vere."""
    model = spiky(seed, vocabulary=4)
    expected = every_sequence(model, [3], limit=3)
    assert len(expected) == 1 + 3 + 9 + 27
    assert sum(math.exp(it.log_probability) for it in expected) == pytest.approx(1)
    (found,) = beam_search(model, torch.tensor([[3]]), 4**3, extra=2, n_best=4**3)
    assert [it.tokens for it in found] == [it.tokens for it in expected]
    assert [it.finished for it in found] == [it.finished for it in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.log_probability == pytest.approx(theirs.log_probability, abs=1e-10)
        assert ours.score == pytest.approx(theirs.score, abs=1e-10)
    ((best,),) = beam_search(model, torch.tensor([[3]]), 4**3, extra=2)
    assert best == found[0]


def test_a_narrow_beam_can_miss_the_best():
    """§6.1 ¶3: con meno posti dell'albero la ricerca non è esatta; e non va mai oltre l'ottimo."""
    missed = 0
    for seed in range(20):
        model = spiky(seed, vocabulary=5)
        narrow, wide = (
            merit(beam_search(model, torch.tensor([[3]]), beam, extra=3)[0][0])
            for beam in (2, 5**4)
        )
        assert narrow <= (wide[0], wide[1] + 1e-9)
        missed += narrow < (wide[0], wide[1] - 1e-9)
    assert 0 < missed < 20


def test_two_seats_can_do_worse_than_one():
    """§6.1 ¶3: i figli di una buona partenza sfrattano quelli dell'altra, che finivano meglio."""
    a, b, c, d, e = 3, 4, 5, 6, 7
    table = (
        {START: {a: 0.55, b: 0.45}},
        {a: {c: 0.36, d: 0.34, END: 0.30}, b: {e: 0.5, a: 0.5}},
        {
            c: {END: 1.0},
            e: {END: 0.3, a: 0.4, b: 0.3},
            a: {END: 0.3, a: 0.4, b: 0.3},
        },
    )
    found = [
        beam_search(Chain(*table, vocabulary=8), torch.tensor([[3]]), beam, 0.0)[0][0]
        for beam in (1, 2)
    ]
    assert found[0].tokens == (a, c, END)
    assert math.exp(found[0].log_probability) == pytest.approx(0.55 * 0.36)
    assert math.exp(found[1].log_probability) <= 0.45 * 0.5 * 0.4 < 0.55 * 0.36


LA = 3
"""La prima parola di «A matita»."""

GATTA = 4
"""La seconda."""

DORME = 5
"""La terza."""

BY_HAND = (
    {START: {GATTA: 0.45, LA: 0.40, DORME: 0.15}},
    {
        GATTA: {DORME: 0.40, END: 0.35, LA: 0.25},
        LA: {GATTA: 0.90, DORME: 0.10},
        DORME: {END: 1.0},
    },
    {
        GATTA: {END: 0.52, DORME: 0.48},
        DORME: {END: 0.70, LA: 0.20, GATTA: 0.10},
        LA: {GATTA: 1.0},
    },
    {DORME: {END: 1.0}, LA: {GATTA: 1.0}, GATTA: {END: 1.0}},
)
"""Le probabilità di «A matita»: per posizione e per ultima parola."""


def test_beam_search_by_hand():
    """§6.1 ¶3: avida 0,126; ampiezza 2, senza penalità 0,1872, con α = 0,6 0,1728: a matita."""
    model, source = Chain(*BY_HAND), torch.tensor([[3, 3, 3]])

    def search(beam: int, alpha: float) -> Hypothesis:
        return beam_search(model, source, beam, alpha)[0][0]

    greedy, short, long = search(1, 0.6), search(2, 0.0), search(2, 0.6)
    assert greedy.tokens == (GATTA, DORME, END)
    assert short.tokens == (LA, GATTA, END)
    assert long.tokens == (LA, GATTA, DORME, END)
    for found, product, factors in (
        (greedy, 0.126, (0.45, 0.40, 0.70)),
        (short, 0.1872, (0.40, 0.90, 0.52)),
        (long, 0.1728, (0.40, 0.90, 0.48)),
    ):
        assert math.exp(found.log_probability) == pytest.approx(product)
        assert math.prod(factors) == pytest.approx(product)
    assert length_penalty(3, 0.6) == pytest.approx(1.188, abs=5e-4)
    assert length_penalty(4, 0.6) == pytest.approx(1.275, abs=5e-4)
    (both,) = beam_search(model, source, 2, 0.6, n_best=2)
    assert [it.tokens for it in both] == [long.tokens, short.tokens]
    assert [round(it.score, 3) for it in both] == [-1.376, -1.410]
    assert [round(it.log_probability, 3) for it in both] == [-1.756, -1.676]


def test_early_termination_by_hand():
    """§6.1 ¶3: senza penalità si smette al passo 3, con α = 0,6 al passo 4, il limite è 53."""
    assert -1.756 / length_penalty(53, 0.6) == pytest.approx(-0.450, abs=5e-4)
    for alpha, steps in ((0.0, 3), (0.6, 4)):
        model = Chain(*BY_HAND)
        beam_search(model, torch.tensor([[3, 3, 3]]), 2, alpha)
        assert len(model.rows) == steps


def test_a_finished_hypothesis_keeps_its_seat():
    """§6.1 ¶3: chi finisce occupa un posto, e una delle aperte esce di scena per sempre."""
    third, fourth = 3, 4
    model = Chain(
        {START: {END: 0.5, third: 0.3, fourth: 0.2}},
        {third: {END: 0.1, third: 0.9}, fourth: {END: 1.0}},
    )
    source = torch.tensor([[3]])
    (two,) = beam_search(model, source, 2, 0.0, extra=2, n_best=2)
    assert [it.tokens for it in two] == [(END,), (third, third, third)]
    (three,) = beam_search(model, source, 3, 0.0, extra=2, n_best=3)
    assert [it.tokens for it in three] == [(END,), (fourth, END), (third, third, third)]
    assert [it.finished for it in three] == [True, True, False]


def test_finished_hypotheses_come_before_the_others():
    """§6.1 ¶3: prima chi è arrivato alla fine, poi il punteggio; una sola passata li ordina."""
    low = Hypothesis((3, END), -9.0, -9.0, True)
    high = Hypothesis((3, 4), -1.0, -1.0, False)
    higher = Hypothesis((END,), -0.5, -0.5, True)
    assert sorted([low, high, higher], key=merit, reverse=True) == [higher, low, high]


@pytest.mark.parametrize("extra", [0, 50, 300])
def test_an_output_has_at_most_the_tokens_of_its_source_plus_extra(extra):
    """§6.1 ¶3 e §6.3 ¶3: n + 50, n + 300, per ogni frase il suo n, padding escluso."""
    model = Chain({START: {3: 0.6, 4: 0.4}}, {3: {3: 0.6, 4: 0.4}, 4: {3: 0.6, 4: 0.4}})
    found = beam_search(model, ragged(*SENTENCES), 3, extra=extra, n_best=3)
    for hypotheses, sentence in zip(found, SENTENCES, strict=True):
        assert len(hypotheses) == min(3, 2 ** (len(sentence) + extra))
        for hypothesis in hypotheses:
            assert len(hypothesis.tokens) == len(sentence) + extra
            assert not hypothesis.finished


def test_a_sentence_of_padding_has_nothing_to_say():
    """Una frase vuota, e nessun token in più: nessuna ipotesi; le altre non se ne accorgono."""
    model = spiky(1)
    empty, (best,) = beam_search(model, ragged([], [3, 5]), extra=0)
    assert empty == []
    assert best.tokens == beam_search(model, torch.tensor([[3, 5]]), extra=0)[0][0].tokens
    ((alone,),) = beam_search(model, torch.tensor([[0, 0]]), extra=1)
    assert len(alone.tokens) == 1
    assert beam_search(model, torch.tensor([[0]]), extra=0) == [[]]


def test_fewer_sequences_than_seats():
    """Se le sequenze sono meno dei posti, si danno quelle che ci sono."""
    (found,) = beam_search(spiky(1, vocabulary=4), torch.tensor([[3]]), 9, extra=0, n_best=9)
    assert sorted(it.tokens for it in found) == [(0,), (1,), (2,), (3,)]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.0])
def test_early_termination_changes_nothing(seed, alpha, monkeypatch):
    """§6.1 ¶3, T35: fermarsi appena si può dà le stesse ipotesi, con le stesse somme."""
    model, source = spiky(seed, vocabulary=5, scale=1.5), ragged(*SENTENCES) % 5
    found = [beam_search(model, source, 4, alpha, 8, n_best) for n_best in (1, 2, 3, 4)]
    monkeypatch.setattr(BeamSearch, "bound", lambda *_: math.inf)
    for n_best, stopped in zip((1, 2, 3, 4), found, strict=True):
        whole = beam_search(model, source, 4, alpha, 8, n_best)
        for ours, theirs in zip(stopped, whole, strict=True):
            assert [it.tokens for it in ours] == [it.tokens for it in theirs]
            for a, b in zip(ours, theirs, strict=True):
                assert a.log_probability == pytest.approx(b.log_probability, abs=1e-10)


def test_early_termination_saves_steps(monkeypatch):
    """§6.1 ¶3: e di passi ne fa meno; con `n_best` più alto, qualcuno di più."""
    ending = {token: {3: 0.05, 4: 0.05, END: 0.9} for token in (START, 3, 4)}

    def steps(n_best: int) -> int:
        model = Chain(ending)
        beam_search(model, torch.tensor([[3]]), 3, 0.0, 20, n_best)
        return len(model.rows)

    assert [steps(n_best) for n_best in (1, 2, 3)] == [1, 2, 2]
    monkeypatch.setattr(BeamSearch, "bound", lambda *_: math.inf)
    assert steps(1) == 2


@pytest.mark.parametrize(
    ("scores", "best", "n_best", "settled"),
    [
        ((-1.0,), -2.0, 1, True),
        ((-1.0,), -1.0, 1, True),
        ((-1.0,), -0.9, 1, False),
        ((-1.0, -3.0), -2.0, 2, False),
        ((-3.0, -1.0), -3.0, 2, True),
        ((-1.0,), -5.0, 2, False),
        ((), -5.0, 1, False),
        ((), -math.inf, 1, True),
    ],
)
def test_a_sentence_is_settled_when_no_open_hypothesis_can_enter(scores, best, n_best, settled):
    """§6.1 ¶3: servono n_best ipotesi finite, e la peggiore di loro non dev'essere superabile."""
    search = BeamSearch(spiky(), torch.tensor([[3]]), 2, 0.0, 4, n_best)
    search.found[0] = [Hypothesis((END,), score, score, True) for score in scores]
    assert search.is_settled(0, best) is settled


def test_the_bound_divides_by_the_penalty_of_the_limit():
    """§6.1 ¶3: la log-probabilità può solo calare, il divisore arriva a quello di n + extra."""
    search = BeamSearch(spiky(), ragged([3], [3, 4, 5]), 2, 0.6, 50, 1)
    assert search.bound(0, -4.0) == pytest.approx(-4 / (56 / 6) ** 0.6)
    assert search.bound(1, -4.0) == pytest.approx(-4 / (58 / 6) ** 0.6)
    wide = length_penalty(25 + 50, 0.6) / length_penalty(26, 0.6)
    assert wide == pytest.approx((80 / 31) ** 0.6)
    assert round(wide, 2) == 1.77


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_gives_what_each_sentence_gives_alone(seed, device):
    """§6.1 ¶3: né le altre frasi né il padding cambiano le ipotesi."""
    model = spiky(seed, device)
    together = beam_search(model, ragged(*SENTENCES, device=device), 3, extra=6, n_best=3)
    padded = torch.nn.functional.pad(ragged(*SENTENCES, device=device), (0, 4))
    for others in (beam_search(model, padded, 3, extra=6, n_best=3), alone(model, device)):
        for ours, theirs in zip(together, others, strict=True):
            assert [it.tokens for it in ours] == [it.tokens for it in theirs]
            for a, b in zip(ours, theirs, strict=True):
                assert a.log_probability == pytest.approx(b.log_probability, abs=1e-10)


def alone(model: Transformer, device: str) -> list[list[Hypothesis]]:
    """La ricerca, una frase per volta."""
    sources = [torch.tensor([sentence], device=device) for sentence in SENTENCES]
    return [beam_search(model, it, 3, extra=6, n_best=3)[0] for it in sources]


def test_every_hypothesis_has_the_probability_of_a_whole_pass(monkeypatch):
    """§6.1 ¶3: ognuna guarda il suo passato: la somma è quella di `forward` sulla sequenza."""
    moves, advance = [], BeamSearch.advance

    def watched(self, position, parents, tokens, scores):
        moves.append(not parents.equal(torch.arange(5).expand_as(parents)))
        advance(self, position, parents, tokens, scores)

    monkeypatch.setattr(BeamSearch, "advance", watched)
    for seed in range(4):
        model = spiky(seed)
        found = beam_search(model, ragged(*SENTENCES), 5, extra=9, n_best=5)
        for hypotheses, sentence in zip(found, SENTENCES, strict=True):
            assert hypotheses
            for it in hypotheses:
                exact = log_probability(model, sentence, it.tokens)
                assert it.log_probability == pytest.approx(exact, abs=1e-10)
                penalty = ((5 + len(it.tokens)) / 6) ** 0.6
                assert it.score == pytest.approx(it.log_probability / penalty, rel=1e-12)
    assert any(moves)


def test_the_seats_of_a_sentence_share_the_source_and_the_cache_never_moves(monkeypatch):
    """§6.1 ¶3: key e value della sorgente una volta per frase; quelli scritti restano dove sono."""
    kept, extend = [], BeamSearch.extend

    def watched(self, position):
        found, cache = extend(self, position), self.caches[0]
        written = cache.keys[..., : (position + 1) * 5, :].clone()
        kept.append((cache.keys.data_ptr(), cache.memory_keys.shape, self.past.clone(), written))
        return found

    monkeypatch.setattr(BeamSearch, "extend", watched)
    beam_search(spiky(1), ragged([3, 5, 4], [6, 3, 4]), 5, 2.0, extra=4, n_best=5)
    kept = [it for it in kept if it[1][0] == 2]
    assert len(kept) > 3
    assert {(address, shape) for address, shape, *_ in kept} == {(kept[0][0], (2, 3, 3, 2))}
    last = kept[-1][-1]
    for step, (_, _, past, written) in enumerate(kept):
        assert written.equal(last[..., : (step + 1) * 5, :])
        assert (
            past.unflatten(-1, (-1, 5)).sum(-1).tolist()
            == [[[1] * (step + 1) + [0] * (6 - step)] * 5] * 2
        )


def test_the_source_is_read_once_and_finished_sentences_leave_the_batch(monkeypatch):
    """§6.1 ¶3: l'encoder gira una volta sola, e le righe di un passo calano con le frasi aperte."""
    model = Chain({START: {3: 1.0}}, {3: {3: 1.0}})
    calls, encode = [], model.encode

    def watched(source):
        calls.append(source.shape)
        return encode(source)

    monkeypatch.setattr(model, "encode", watched)
    beam_search(model, ragged([3], [3, 3, 3]), 2, extra=1)
    assert calls == [(2, 3)]
    assert model.rows == [4, 4, 2, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_short_types_search_too(dtype, device):
    """§6.1 ¶3: con parametri corti si sommano logaritmi in FP32, e le ipotesi sono buone."""
    model = spiky(2, device, scale=1.0).to(dtype)
    source = ragged(*SENTENCES, device=device)
    found = beam_search(model, source, 3, extra=3, n_best=3)
    exact = spiky(2, scale=1.0)
    exact.load_state_dict({name: value.cpu() for name, value in model.state_dict().items()})
    for hypotheses, sentence in zip(found, SENTENCES, strict=True):
        assert len(hypotheses) == 3
        for it in hypotheses:
            expected = log_probability(exact, sentence, it.tokens)
            tolerance = 8 * torch.finfo(dtype).eps * len(it.tokens)
            assert it.log_probability == pytest.approx(expected, abs=tolerance)


def test_sums_of_logarithms_are_in_single_precision_at_least():
    """§6.1 ¶3: FP32 per i tipi corti, doppia precisione per i modelli in doppia."""
    for dtype, expected in (
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        search = BeamSearch(spiky().to(dtype), torch.tensor([[3]]), 2, 0.6, 1, 1)
        assert search.scores.dtype == expected


def snapshot(model: Transformer) -> tuple:
    """Tutto ciò che una ricerca non deve toccare."""
    modes = [module.training for module in model.modules()]
    values = [(value.clone(), value.requires_grad, value.grad) for value in model.parameters()]
    return modes, values, torch.get_rng_state(), torch.is_grad_enabled()


def assert_untouched(before: tuple, after: tuple) -> None:
    assert before[0] == after[0]
    for (old, needed, gradient), (new, needs, now) in zip(before[1], after[1], strict=True):
        assert old.equal(new)
        assert needed == needs
        assert gradient is now is None
    assert before[2].equal(after[2])
    assert before[3] == after[3]


def test_a_search_leaves_the_model_as_it_was():
    """§6.1 ¶3: modi, pesi, gradienti e generatore casuale come prima; il dropout non agisce."""
    model, source = spiky(5), ragged(*SENTENCES)
    expected = beam_search(model, source)
    model.train()
    model.encoder.layers[0].eval()
    before = snapshot(model)
    assert beam_search(model, source) == expected
    assert_untouched(before, snapshot(model))


def test_a_search_that_fails_leaves_the_model_as_it_was():
    """§6.1 ¶3: anche quando le posizioni apprese non bastano, a metà della ricerca."""
    model = spiky(5, learned_positions=8).train()
    before = snapshot(model)
    never = [3] * 7
    with pytest.raises(ValueError, match=r"^embeddings: dato: 9 posizioni; atteso: al più 8"):
        beam_search(model, torch.tensor([never]), beam=40)
    assert_untouched(before, snapshot(model))


# Gli errori della ricerca


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"beam": 0}, ValueError, "beam: dato: 0; atteso: almeno 1"),
        ({"beam": 2.0}, TypeError, "beam: dato: 2.0; atteso: un numero intero"),
        ({"extra": -1}, ValueError, "extra: dato: -1; atteso: almeno 0"),
        ({"extra": None}, TypeError, "extra: dato: None; atteso: un numero intero"),
        ({"n_best": 0}, ValueError, "n_best: dato: 0; atteso: almeno 1"),
        ({"n_best": 5}, ValueError, "n_best: dato: 5; atteso: al più 4, come beam"),
        ({"beam": 2, "n_best": 3}, ValueError, "n_best: dato: 3; atteso: al più 2, come beam"),
        ({"alpha": -0.1}, ValueError, "alpha: dato: -0.1; atteso: un numero finito, almeno 0"),
        ({"alpha": math.nan}, ValueError, "alpha: dato: nan; atteso: un numero finito, almeno 0"),
        ({"alpha": math.inf}, ValueError, "alpha: dato: inf; atteso: un numero finito, almeno 0"),
        ({"alpha": "0,6"}, TypeError, "alpha: dato: 0,6; atteso: un numero"),
    ],
)
def test_wrong_measures_are_refused(arguments, error, message):
    """Ogni errore nomina l'argomento, ciò che è stato dato e ciò che era atteso."""
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        beam_search(spiky(), torch.tensor([[3]]), **arguments)


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (torch.tensor([3, 4]), ValueError, "source: dato: [2]; atteso: una forma [batch, n]"),
        (torch.tensor([[3, 7]]), ValueError, "source: dato: il token 7; atteso: da 0 a 6"),
        (torch.tensor([[-1]]), ValueError, "source: dato: il token -1; atteso: da 0 a 6"),
        (torch.ones(2, 0).long(), ValueError, "source: dato: [2, 0]; atteso: almeno una sequenza"),
        (torch.ones(1, 2), TypeError, "source: dato: torch.float32; atteso: un tensore"),
        ([[3]], TypeError, "source: dato: list; atteso: un tensore"),
    ],
)
def test_wrong_sources_are_refused(source, error, message):
    """La sorgente è una matrice di token del vocabolario."""
    with pytest.raises(error, match=f"^{re.escape(message)}"):
        beam_search(spiky(), source)


def test_the_smallest_measures_are_accepted():
    """Un posto, nessun token in più, nessuna penalità; e tante ipotesi quanti posti."""
    ((best,),) = beam_search(spiky(), torch.tensor([[3]]), 1, 0.0, 0, 1)
    assert len(best.tokens) == 1
    assert best.score == best.log_probability
    tokens = torch.tensor([[3]], dtype=torch.int32)
    assert len(beam_search(spiky(), tokens, 2, n_best=2)[0]) == 2


# La media dei checkpoint


def saved(folder: Path, step: int, model: Transformer, **notes) -> Path:
    """Un checkpoint di un modello, come lo scrive l'addestramento."""
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    tensors["optimizer.0.step"] = torch.tensor(float(step))
    tensors["optimizer.0.exp_avg"] = torch.full((3,), float(step))
    notes = {"config": dataclasses.asdict(model.config), **notes}
    return write_checkpoint(folder, Checkpoint(step, Position(), tensors, notes))


def test_the_average_is_element_by_element(tmp_path):
    """§6.1 ¶3, T34: ogni parametro è la media dei suoi valori; di tre checkpoint, e di uno."""
    models = [spiky(seed).float() for seed in range(3)]
    paths = [saved(tmp_path, step, model) for step, model in enumerate(models)]
    average = average_checkpoints(paths)
    assert average.config == models[0].config
    assert average.training
    for name, value in average.named_parameters():
        values = [dict(model.named_parameters())[name].detach().double() for model in models]
        expected = ((values[0] + values[1] + values[2]) / 3).float()
        assert value.requires_grad
        assert value.dtype == torch.float32
        assert value.equal(expected)
    for name, value in average_checkpoints(paths[1:2]).state_dict().items():
        assert value.equal(models[1].state_dict()[name])


def test_the_sum_is_in_double_precision(tmp_path):
    """§6.1 ¶3: 2²⁵ + 1 − 2²⁵ in FP32 farebbe zero; la media è un terzo, arrotondato una volta."""
    models = [spiky().float() for _ in range(3)]
    for model, value in zip(models, (2.0**25, 1.0, -(2.0**25)), strict=True):
        torch.nn.init.constant_(model.embedding.weight, value)
    paths = [saved(tmp_path, step, model) for step, model in enumerate(models)]
    weight = average_checkpoints(paths).embedding.weight.detach()
    assert weight.equal(torch.full_like(weight, 1 / 3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_the_average_has_the_type_of_the_checkpoints(dtype, tmp_path):
    """§6.1 ¶3: chi ha salvato in un tipo ritrova quel tipo."""
    models = [spiky(seed).to(dtype) for seed in range(2)]
    paths = [saved(tmp_path, step, model) for step, model in enumerate(models)]
    weight = average_checkpoints(paths).embedding.weight
    assert weight.dtype == dtype
    values = [model.embedding.weight.detach().double() for model in models]
    assert weight.equal((sum(values) / 2).to(dtype))


def test_the_average_of_a_linear_readout_is_the_average_of_the_predictions(tmp_path):
    """§6.1 ¶3, T34: dove il modello è lineare nei pesi le due medie coincidono; altrove no."""
    models = [spiky(seed) for seed in range(5)]
    paths = [saved(tmp_path, step, model) for step, model in enumerate(models)]
    average = average_checkpoints(paths).eval()
    hidden = torch.randn(4, 6, dtype=torch.float64)
    with torch.no_grad():
        readouts = torch.stack([model.embedding.logits(hidden) for model in models])
        torch.testing.assert_close(
            average.embedding.logits(hidden), readouts.mean(dim=0), rtol=0, atol=1e-12
        )
        source, target = torch.tensor([[3, 4]]), torch.tensor([[1, 5]])
        whole = torch.stack([model(source, target) for model in models]).mean(dim=0)
        assert (average(source, target) - whole).abs().max() > 0.1


def test_equal_functions_in_another_order_do_not_average():
    """§6.1 ¶3: due reti con le stesse unità in un altro ordine sono la stessa; la media, no."""
    one, other = FeedForward(6, 11).double(), FeedForward(6, 11).double()
    order = torch.randperm(11)
    with torch.no_grad():
        one.b_1.normal_()
        other.w_1.copy_(one.w_1[order])
        other.b_1.copy_(one.b_1[order])
        other.w_2.copy_(one.w_2[:, order])
        x = torch.randn(13, 6, dtype=torch.float64)
        torch.testing.assert_close(one(x), other(x), rtol=0, atol=1e-12)
        expected = one(x)
        for value, twin in zip(one.parameters(), other.parameters(), strict=True):
            value.lerp_(twin, 0.5)
        assert (one(x) - expected).abs().max() > 0.1


def test_the_last_checkpoints_are_those_of_the_highest_steps(tmp_path):
    """§6.1 ¶3, T34: gli ultimi 5 di 7, nell'ordine dei passi e non dei nomi scritti male."""
    models = [spiky(seed) for seed in range(7)]
    for step, model in zip((900, 1000, 100, 99, 10_000, 20_000, 5), models, strict=True):
        saved(tmp_path, step, model)
    average = average_checkpoints(checkpoints(tmp_path)[-5:])
    last = [models[i].embedding.weight.detach() for i in (0, 1, 2, 4, 5)]
    torch.testing.assert_close(average.embedding.weight.detach(), sum(last) / 5)


def test_five_checkpoints_span_forty_minutes():
    """§6.1 ¶3, T34: quattro intervalli di dieci minuti, circa 5600 passi da 0,432 secondi."""
    base, big = RECIPES["base"], RECIPES["big"]
    seconds = float(BASE_TRAINING.days) * 86_400 / BASE_SCHEDULE.steps
    assert seconds == pytest.approx(0.432)
    assert (base.keep - 1) * base.every == 5600
    assert (base.keep - 1) * base.every * seconds / 60 == pytest.approx(40, rel=0.02)
    assert (big.keep - 1) * big.every == 11_400
    assert (big.keep - 1) * big.every * BIG_SCHEDULE.seconds / 60 == 190


def test_checkpoints_of_another_model_are_refused(tmp_path):
    """§6.1 ¶3: si media lo stesso modello; l'errore dice quale file non va."""
    paths = [saved(tmp_path, 1, spiky()), saved(tmp_path, 2, spiky(heads=2))]
    message = f"paths: dato: {paths[1]}, di un altro modello; atteso: il modello di {paths[0]}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        average_checkpoints(paths)
    with pytest.raises(ValueError, match=r"^paths: dato: nessun checkpoint; atteso: almeno uno$"):
        average_checkpoints([])


def test_damaged_checkpoints_are_refused(tmp_path):
    """§6.1 ¶3: un bit cambiato, un file mozzo, un file d'altro genere."""
    good = saved(tmp_path, 1, spiky())
    flipped, cut, other = (tmp_path / name for name in ("flipped", "cut", "other"))
    data = bytearray(good.read_bytes())
    data[-5] ^= 1
    flipped.write_bytes(data)
    cut.write_bytes(good.read_bytes()[:-100])
    other.write_text("non sono un checkpoint")
    for path, given_text in ((flipped, f"{flipped}, danneggiato"), (cut, cut), (other, other)):
        with pytest.raises(ValueError, match=f"^path: dato: {re.escape(str(given_text))}; atteso"):
            average_checkpoints([good, path])


@pytest.mark.parametrize(
    "notes",
    [
        {"config": {"layers": "due"}},
        {"config": {"strati": 2}},
        {"config": {"layers": 1}},
        {"config": {"layers": 0}},
        {"config": None},
    ],
)
def test_a_checkpoint_of_something_else_is_refused(notes, tmp_path):
    """§6.1 ¶3: la configurazione annotata dev'essere quella di un Transformer, e dei suoi pesi."""
    path = saved(tmp_path, 1, spiky(), **notes)
    message = f"path: dato: {path}; atteso: un checkpoint di Transformer"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        checkpointed_model(path)


def test_a_checkpoint_without_configuration_is_refused(tmp_path):
    """§6.1 ¶3: senza l'annotazione `config` non si sa che modello è."""
    path = write_checkpoint(tmp_path, Checkpoint(1, Position(), {}, {}))
    with pytest.raises(ValueError, match=r"atteso: un checkpoint di Transformer$"):
        average_checkpoints([path])


# Il BLEU

CAT = ("il gatto dorme sul tappeto rosso", "il gatto dorme sul divano rosso")
DOOR = ("la porta era aperta tutta la notte", "la porta era rimasta aperta tutta la notte")
"""Le due frasi di «A matita» del sommario, traduzione e riferimento."""


def test_bleu_is_the_one_worked_out_by_hand_in_the_abstract():
    """§6.1: sacrebleu dà i voti del sommario, 53,7 e 51,5, e 52,9 per le due frasi insieme."""
    by_hand = 100 * math.exp(-1 / 13) * (12 / 13 * 8 / 11 * 5 / 9 * 2 / 7) ** 0.25
    both = bleu([CAT[0], DOOR[0]], [CAT[1], DOOR[1]])
    assert both.bleu == pytest.approx(by_hand)
    assert bleu([CAT[0]], [CAT[1]]).bleu == pytest.approx(100 * (1 / 12) ** 0.25)
    door = 100 * math.exp(-1 / 7) * (1 / 8) ** 0.25
    assert bleu([DOOR[0]], [DOOR[1]]).bleu == pytest.approx(door)
    assert [round(it, 1) for it in (by_hand, door)] == [52.9, 51.5]


def test_the_signature_says_how_the_score_was_computed():
    """§6.1: un riferimento per frase, maiuscole distinte, tokenizzazione 13a, e la versione."""
    signature = bleu([CAT[0]], [CAT[1]]).signature
    assert re.fullmatch(
        r"nrefs:1\|case:mixed\|eff:no\|tok:13a\|smooth:exp\|version:[\d.]+", signature
    )


def test_bleu_counts_pieces_of_text_not_of_vocabulary():
    """§6.1: lo stesso testo prende 100; il segno d'interpunzione conta come una parola."""
    assert bleu([CAT[1]], [CAT[1]]).bleu == pytest.approx(100)
    assert bleu([f"{CAT[1]}."], [f"{CAT[1]} ."]).bleu == pytest.approx(100)
    assert bleu(["Il gatto dorme sul divano rosso"], [CAT[1]]).bleu < 100


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize(
    ("translations", "references", "error", "message"),
    [
        ([], [], ValueError, "translations: dato: nessuna; atteso: almeno una"),
        (["a"], [], ValueError, "references: dato: 0; atteso: 1, uno per traduzione"),
        (["a"], ["a", "b"], ValueError, "references: dato: 2; atteso: 1, uno per traduzione"),
        ("ab", ["a"], TypeError, "translations: dato: 'ab'; atteso: un elenco di frasi"),
        (["a"], "a", TypeError, "references: dato: 'a'; atteso: un elenco di frasi"),
    ],
)
def test_wrong_texts_are_refused(translations, references, error, message):
    """Una frase per riferimento, e almeno una; una frase sola non è un elenco di frasi."""
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        bleu(translations, references)


# La tabella 2

PRINTED = """
ByteNet                    | 23.75 | –     | –      | –
Deep-Att + PosUnk          | –     | 39.2  | –      | 1.0e20
GNMT + RL                  | 24.6  | 39.92 | 2.3e19 | 1.4e20
ConvS2S                    | 25.16 | 40.46 | 9.6e18 | 1.5e20
MoE                        | 26.03 | 40.56 | 2.0e19 | 1.2e20
Deep-Att + PosUnk Ensemble | –     | 40.4  | –      | 8.0e20
GNMT + RL Ensemble         | 26.30 | 41.16 | 1.8e20 | 1.1e21
ConvS2S Ensemble           | 26.36 | 41.29 | 7.7e19 | 1.2e21
Transformer (base model)   | 27.3  | 38.1  | 3.3e18 | 3.3e18
Transformer (big)          | 28.4  | 41.8  | 2.3e19 | 2.3e19
"""
"""La tabella come è stampata: voti in tedesco e in francese, costi in tedesco e in francese."""

CELLS = {
    name: tuple(None if cell == "–" else Decimal(cell) for cell in cells)
    for name, *cells in (re.split(r" *\| *", line) for line in PRINTED.strip().splitlines())
}


def test_the_table_is_the_printed_one():
    """§6.1 ¶4, tabella 2: dieci righe, ogni casella con le cifre stampate."""
    assert [result.model for result in TABLE_2] == list(CELLS)
    for result in TABLE_2:
        cells = (result.german, result.french, result.german_flops, result.french_flops)
        assert cells == CELLS[result.model]
        assert [str(cell) for cell in cells[:2]] == [str(cell) for cell in CELLS[result.model][:2]]
        assert result.ensemble == result.model.endswith("Ensemble")


def test_a_row_is_written_as_it_is_printed():
    """§6.1 ¶4: una casella vuota è None, le altre decimali con le loro cifre."""
    assert row("x", True, "1.50", "", "2e18", "") == Result(
        "x", True, Decimal("1.50"), None, Decimal("2e18"), None
    )


def expected_rivals(score: int, flops: int) -> list[Rival]:
    """Le righe altrui che hanno un voto in quella lingua."""
    return [
        Rival(name, cells[score], name.endswith("Ensemble"), cells[flops])
        for name, cells in CELLS.items()
        if cells[score] is not None and "Transformer" not in name
    ]


def test_rivals_are_the_others_with_a_score_in_that_language():
    """§6.1 ¶1 e ¶2: sei in tedesco, sette in francese; i due Transformer no."""
    assert rivals("german") == expected_rivals(0, 2)
    assert rivals("french") == expected_rivals(1, 3)
    assert (len(rivals("german")), len(rivals("french"))) == (6, 7)
    for language in ("italian", "Transformer", ""):
        message = f"^language: dato: {language}; atteso: german o french$"
        with pytest.raises(ValueError, match=message):
            rivals(language)


# ¶1 e ¶2: le tesi (T36)

BASE_ROW = CELLS["Transformer (base model)"]
"""Il modello base nella tabella."""

BIG_ROW = CELLS["Transformer (big)"]
"""Il modello grande."""


def fractions(flops: Decimal, others: list[Rival]) -> dict[str, Decimal]:
    """La quota di ogni costo stampato, a due decimali."""
    return {it.model: round(fraction_of_cost(flops, it), 2) for it in others if it.flops}


def test_the_big_model_beats_everyone_in_german_by_more_than_two():
    """§6.1 ¶1: 28,4 supera il migliore, ensemble compresi, di 2,04."""
    assert EN_DE.bleu == BIG_ROW[0]
    assert EN_DE.holds(rivals("german"))
    assert EN_DE.margin(rivals("german")) == Decimal("2.04")


def test_the_base_model_beats_everyone_in_german():
    """§6.1 ¶1: 27,3 supera tutti, ensemble compresi, di 0,94."""
    claim = Claim("inglese–tedesco", BASE_ROW[0], Decimal(0), ensembles_too=True)
    assert claim.holds(rivals("german"))
    assert claim.margin(rivals("german")) == Decimal("0.94")


def test_the_base_model_costs_a_fraction_of_any_competitor_in_german():
    """§6.1 ¶1: al più un terzo abbondante, quello di ConvS2S; gli altri, da un sesto in giù."""
    assert fractions(BASE_ROW[2], rivals("german")) == {
        "GNMT + RL": Decimal("0.14"),
        "ConvS2S": Decimal("0.34"),
        "MoE": Decimal("0.16"),
        "GNMT + RL Ensemble": Decimal("0.02"),
        "ConvS2S Ensemble": Decimal("0.04"),
    }


def test_exception_the_base_model_is_below_every_rival_in_french():
    """§6.1 ¶1, eccezione: «supera tutti i modelli pubblicati» non vale in francese."""
    assert all(rival.bleu > BASE_ROW[1] for rival in rivals("french"))
    claim = Claim("inglese–francese", BASE_ROW[1], Decimal(0), ensembles_too=False)
    assert not claim.holds(rivals("french"))


def test_exception_the_cost_of_the_big_model_is_no_fraction_in_german():
    """§6.1 ¶1, eccezione: il big costa quanto GNMT e più di MoE e ConvS2S; meno degli ensemble."""
    assert fractions(BIG_ROW[2], rivals("german")) == {
        "GNMT + RL": Decimal("1.00"),
        "ConvS2S": Decimal("2.40"),
        "MoE": Decimal("1.15"),
        "GNMT + RL Ensemble": Decimal("0.13"),
        "ConvS2S Ensemble": Decimal("0.30"),
    }


def test_the_french_result_beats_every_single_model():
    """§6.1 ¶2: con 41,0 per 0,44, con il 41,8 della tabella per 1,24."""
    assert EN_FR_FIRST_PRINTED.margin(rivals("french")) == Decimal("0.44")
    assert EN_FR_FIRST_PRINTED.holds(rivals("french"))
    assert EN_FR.margin(rivals("french")) == Decimal("1.24")


def test_exception_paragraph_and_table_print_two_french_results():
    """§6.1 ¶2, eccezione: il capoverso dice 41,0 e la tabella 41,8; solo questo batte tutti."""
    assert EN_FR_FIRST_PRINTED.bleu == Decimal("41.0") != BIG_ROW[1] == EN_FR.bleu
    for claim, beats in ((EN_FR_FIRST_PRINTED, False), (EN_FR, True)):
        assert dataclasses.replace(claim, ensembles_too=True).holds(rivals("french")) is beats


def test_the_french_result_costs_less_than_a_quarter():
    """§6.1 ¶2: 0,19 di MoE, il migliore di prima; al più 0,23, quello di Deep-Att."""
    found = fractions(BIG_ROW[3], rivals("french"))
    assert EN_FR.best_rival(rivals("french")).model == "MoE"
    assert found["MoE"] == Decimal("0.19")
    assert max(found.values()) == found["Deep-Att + PosUnk"] == Decimal("0.23")


# ¶4: i costi (T27)


def two_digits(value: Decimal) -> Decimal:
    """Come stampa la tabella 2: due cifre significative."""
    return Decimal(f"{value:.1e}")


def printed_cost(model: str, language: str) -> Decimal:
    """Il costo stampato di una riga in una lingua."""
    return CELLS[model][2 if language == "german" else 3]


def test_note_5_gives_four_speeds():
    """§6.1 nota 5: 2,8, 3,7, 6,0 e 9,5 TFLOPS per K80, K40, M40 e P100."""
    assert {gpu: str(speed) for gpu, speed in TFLOPS.items()} == {
        "K80": "2.8",
        "K40": "3.7",
        "M40": "6.0",
        "P100": "9.5",
    }


@pytest.mark.parametrize(
    ("model", "language", "days", "gpus", "gpu", "product"),
    [
        ("Transformer (base model)", "german", "0.5", 8, "P100", "3.283e18"),
        ("Transformer (big)", "german", "3.5", 8, "P100", "2.298e19"),
        ("Transformer (big)", "french", "3.5", 8, "P100", "2.298e19"),
        ("GNMT + RL", "german", "1", 96, "K80", "2.322e19"),
        ("GNMT + RL", "french", "6", 96, "K80", "1.393e20"),
        ("MoE", "german", "1", 64, "K40", "2.046e19"),
        ("MoE", "french", "6", 64, "K40", "1.228e20"),
        ("ConvS2S", "german", "18.5", 1, "M40", "9.590e18"),
        ("ConvS2S", "french", "37", 8, "M40", "1.534e20"),
    ],
)
def test_time_by_gpus_by_speed_gives_the_printed_cost(model, language, days, gpus, gpu, product):
    """§6.1 ¶4, T27: secondi × GPU × TFLOPS, fino all'ultima cifra stampata."""
    assert TRAININGS[model, language] == (Training(Decimal(days), gpus), gpu)
    by_hand = Decimal(days) * 86_400 * gpus * TFLOPS[gpu] * 10**12
    found = cost(*TRAININGS[model, language])
    assert found == by_hand
    assert Decimal(f"{found:.3e}") == Decimal(product)
    assert two_digits(found) == printed_cost(model, language)


def test_only_deep_att_cannot_be_reconstructed():
    """§6.1 ¶4, T27: senza durata restano Deep-Att, gli ensemble, e il base in francese."""
    languages = {"german": 2, "french": 3}
    printed = {
        (name, language)
        for name, cells in CELLS.items()
        for language, column in languages.items()
        if cells[column] is not None
    }
    assert set(TRAININGS) < printed
    unknown = {(name, language) for name, language in printed - set(TRAININGS)}
    assert {name for name, _ in unknown if "Ensemble" not in name} == {
        "Deep-Att + PosUnk",
        "Transformer (base model)",
    }
    assert ("Transformer (base model)", "french") in unknown


@pytest.mark.parametrize(
    ("single", "languages"),
    [
        ("Deep-Att + PosUnk", ["french"]),
        ("GNMT + RL", ["german", "french"]),
        ("ConvS2S", ["german", "french"]),
    ],
)
def test_an_ensemble_costs_eight_times_a_single_model(single, languages):
    """§6.1 ¶4, T27: otto volte il costo stampato, arrotondato a due cifre."""
    found = {result.model: result for result in TABLE_2}
    one, many = found[single], found[f"{single} Ensemble"]
    assert (one.ensemble, many.ensemble) == (False, True)
    for language in ("german", "french"):
        alone, together = (getattr(it, f"{language}_flops") for it in (one, many))
        assert (alone is not None) == (together is not None) == (language in languages)
        assert alone is None or two_digits(8 * alone) == together


def test_exception_the_step_times_would_give_another_cost():
    """§6.1 ¶4, T27: 0,4 s per 100 000 passi sono 11,1 ore, e darebbero 3,04 · 10¹⁸."""
    hours = Decimal("0.4") * 100_000 / 3600
    assert round(hours, 1) == Decimal("11.1")
    found = cost(Training(hours / 24, 8), "P100")
    assert Decimal(f"{found:.2e}") == Decimal("3.04e18")
    assert two_digits(found) == Decimal("3.0e18") != printed_cost(*BASE_KEY)
    assert two_digits(cost(BASE_TRAINING, "P100")) == printed_cost(*BASE_KEY)


BASE_KEY = ("Transformer (base model)", "german")


def test_the_durations_are_those_of_the_text():
    """§6.1 ¶1: dodici ore (§5.2) e tre giorni e mezzo, su otto schede."""
    assert BASE_TRAINING.days * 24 == 12
    assert BIG_TRAINING.days == Decimal("3.5")
    assert BASE_TRAINING.gpus == BIG_TRAINING.gpus == 8
    assert BIG_TRAINING == EN_FR_TRAINING


def test_a_gpu_without_a_speed_is_refused():
    """§6.1 nota 5: quattro schede, e nessun'altra."""
    message = r"^gpu: dato: H100; atteso: K80, K40, M40, P100$"
    with pytest.raises(ValueError, match=message):
        cost(BASE_TRAINING, "H100")


# La pagina, i disegni, il Fortran


def text_of(name: str) -> str:
    return (ROOT / "paper_it" / name).read_text(encoding="utf-8")


def as_number(cell: str) -> Decimal | None:
    """Una casella della tabella scritta sulla pagina."""
    plain = re.sub(r"\\boldsymbol\{(.+)\}|[*$ ]", r"\1", cell).replace("{,}", ".").replace(",", ".")
    flops = re.fullmatch(r"([\d.]+)\\cdot10\^\{(\d+)\}", plain.replace(" ", ""))
    return Decimal(f"{flops[1]}e{flops[2]}" if flops else plain) if plain != "–" else None


def test_table_on_the_page_is_table_2():
    """Il primo blocco eseguito scrive la tabella stampata, con il suo neretto."""
    (code,) = [
        block.content
        for block in blocks(text_of("s6_1_machine_translation.md"))
        if "| Modello |" in block.content
    ]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, {})
    rows = [line.strip("| ").split(" | ") for line in printed.getvalue().splitlines()[2:]]
    assert {name: tuple(map(as_number, cells)) for name, *cells in rows} == CELLS
    bold = {
        as_number(cell)
        for row in rows
        for cell in row[1:]
        if cell.startswith(("**", r"$\boldsymbol"))
    }
    assert bold == {Decimal(cell) for cell in ("28.4", "41.29", "41.8", "3.3e18")}


def test_probabilities_on_the_page_are_those_by_hand():
    """La tabella di «A matita» è quella con cui si fa il conto."""
    part = text_of("s6_1_machine_translation.md").partition("## A matita")[2]
    names = {"inizio": START, "la": LA, "gatta": GATTA, "dorme": DORME}
    steps = r"^\| (\d) \| (inizio|la|gatta|dorme) \| (.+) \|$"
    rows = re.findall(steps, part, flags=re.MULTILINE)
    assert len(rows) == 6
    for step, last, cells in rows:
        numbers = [Decimal(cell.replace(",", ".").replace("–", "0")) for cell in cells.split(" | ")]
        expected = BY_HAND[int(step) - 1][names[last]]
        assert sum(numbers) == 1
        assert dict(zip((LA, GATTA, DORME, END), map(float, numbers), strict=True)) == {
            token: expected.get(token, 0.0) for token in (LA, GATTA, DORME, END)
        }


def test_the_tree_of_the_drawing_is_the_one_by_hand():
    """Ogni riquadro porta la probabilità della sua sequenza, e sono tenuti i due migliori."""
    drawing = text_of("figure/s6_1_tree.svg")
    texts = re.findall(r"<text[^>]*>([^<]+)</text>", drawing)[4:]
    numbers = [Decimal(number.replace(",", ".")) for number in texts[1::2]]
    shown = list(zip(texts[::2], numbers, strict=True))
    steps = (shown[:3], shown[3:8], shown[8:13], shown[13:])
    words = {"la": LA, "gatta": GATTA, "dorme": DORME, "fine": END}
    open_paths = [((START,), Decimal(1))]
    for position, nodes in enumerate(steps):
        grown = [
            ((*path, token), total * Decimal(str(probability)))
            for path, total in open_paths
            for token, probability in BY_HAND[position].get(path[-1], {}).items()
        ]
        assert sorted((words[word], number) for word, number in nodes) == sorted(
            (path[-1], total) for path, total in grown
        )
        best = sorted(grown, key=lambda it: it[1], reverse=True)[:2]
        open_paths = [it for it in best if it[0][-1] != END]
    assert drawing.count("<rect") == len(shown) == 14
    assert drawing.partition("fill-opacity")[2].count("<rect") == 2 + 2 + 2 + 1


def test_the_curves_of_the_drawing_are_the_penalty():
    """Ogni punto di ogni linea sta dove dice la formula; i quattro cerchi, sui valori citati."""
    drawing = text_of("figure/s6_1_penalty.svg")
    for alpha, last in ((0, 60), (0.3, 60), (0.6, 60), (1, 31)):
        (points,) = re.findall(rf'id="fig-penalita-{alpha}" d="M([\d. ]+)"', drawing)
        numbers = list(map(float, points.split()))
        expected = [
            value
            for length in range(1, last + 1)
            for value in (40 + 5 * length, 276 - 40 * length_penalty(length, float(alpha)))
        ]
        assert numbers == pytest.approx(expected, abs=0.006)
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', drawing)
    values = [((float(x) - 40) / 5, (276 - float(y)) / 40) for x, y in circles]
    quoted = [(10, 1.7329), (20, 2.3544), (50, 3.7786), (10, 1.3164)]
    for ours, theirs in zip(values, quoted, strict=True):
        assert ours == pytest.approx(theirs, abs=2e-4)


@pytest.mark.parametrize("seats", [1, 3, 4])
def test_fortran_on_the_page(seats, fortran):
    """§6.1 ¶3: la lista ordinata in Fortran sceglie le continuazioni che sceglie la ricerca."""
    routines, beam, vocabulary = fortran("s6_1_machine_translation"), 4, 101
    logp = log_probabilities(3 * torch.randn(beam, vocabulary, dtype=torch.float64))
    total = torch.tensor([-0.5, -1.5, -math.inf, -1.0], dtype=torch.float64)
    parent, token = torch.zeros(2, seats, dtype=torch.int64)
    best = torch.zeros(seats, dtype=torch.float64)
    tensors = (logp, total, parent, token, best)
    addresses = (ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors)
    routines.beam_step(*map(ctypes.c_int, (vocabulary, beam, seats)), *addresses)
    expected, order = (total[:, None] + logp).flatten().topk(seats)
    assert best.equal(expected)
    assert (parent * vocabulary + token).equal(order)
    routines.hypothesis_score.restype = ctypes.c_double
    score = routines.hypothesis_score(ctypes.c_double(-2.5), ctypes.c_int(7), ctypes.c_double(0.6))
    assert score == pytest.approx(-2.5 / length_penalty(7, 0.6), rel=1e-14)


# Le gare: i concorrenti, il lavoro


def small(**sizes) -> TransformerConfig:
    """Una configurazione minima per le gare."""
    usual = {"layers": 2, "d_model": 26, "d_ff": 35, "heads": 13, "dropout": 0.0}
    return TransformerConfig(**{**usual, "vocabulary": 1009, **sizes})


@torch.no_grad()
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("batch", "beam"), [(1, 4), (3, 1)])
def test_contestants_of_the_search_find_the_same_tokens(batch, beam, tmp_path):
    """Con gli stessi pesi, gli stessi 64 token, con la beam search e con più frasi insieme."""
    ours = Transformer(small()).eval()
    for matrix in (p for stack in (ours.encoder, ours.decoder) for p in stack.parameters()):
        matrix.mul_(5 if matrix.dim() == 2 else 1)
    source = torch.randint(3, 1009, (batch, model_bench.LENGTH))
    expected = (bench.beamed if beam > 1 else bench.greedy)(ours, source)
    assert expected.shape == (batch, model_bench.LENGTH)
    assert expected.unique().numel() > 2
    found = dict(model_bench.peers(ours, source, tmp_path, beam))
    present = (installed("transformers"), installed("ctranslate2") and bench.DEVICE == "cpu")
    assert len(found) == sum(map(bool, present))
    for name, run in found.items():
        assert run().equal(expected), name


@pytest.mark.parametrize(
    ("module", "contest"),
    [
        (model_bench, "test_greedy_decoding"),
        (bench, "test_beam_search"),
        (bench, "test_greedy_batch"),
    ],
)
def test_who_generates_in_another_process_is_declared(module, contest, tmp_path, monkeypatch):
    """Di un altro processo non si vede nulla: una gara che non lo sa rifiuta quel concorrente."""
    told = []
    for name in ("contestants", "generators"):
        monkeypatch.setattr(module, name, lambda *_: {}, raising=False)
    getattr(module, contest)(lambda *_, **named: told.append(named["outside"]), None, tmp_path)
    assert told == [[model_bench.ANOTHER_PROCESS]]


@pytest.mark.filterwarnings("ignore")
def test_each_contest_has_ours_the_reading_and_the_peers(tmp_path):
    """Il primo concorrente è il nostro, il secondo il limite; ciascuno gira da solo."""
    for batch, beam in ((1, 4), (2, 1)):
        torch.manual_seed(1)
        (folder := tmp_path / str(beam)).mkdir()
        runs = bench.contestants(small(), folder, batch, beam)
        assert list(runs)[:2] == ["Transformer", model_bench.READING]
        assert runs["Transformer"]().shape == (batch, model_bench.LENGTH)
        assert len(runs[model_bench.READING]()) == model_bench.LENGTH


def test_the_work_of_a_search_is_that_of_its_rows():
    """Le righe del decoder sono quattro volte tante, quelle dell'encoder no; i pesi gli stessi."""
    for config in (small(), BASE):
        one = model_bench.greedy_work(config)
        beam, batch = bench.beam_work(config), bench.batch_work(config)
        d, d_ff, n = config.d_model, config.d_ff, model_bench.LENGTH
        row = config.layers * (6 * d * d + 2 * d * d_ff + (n + 1) * d + 2 * n * d)
        assert beam.flops - one.flops == 2 * (BEAM - 1) * n * (row + d * config.vocabulary)
        assert batch.flops == bench.BATCH * one.flops
        assert beam.numbers == batch.numbers == one.numbers
        assert (beam.shape["batch"], beam.shape["beam"], batch.shape["batch"]) == (1, 4, 16)
        assert (beam.label, batch.label) == ("1 frase, 4 ipotesi", "16 frasi, 64 token")


def test_a_contest_in_which_a_sentence_ends_is_void():
    """Agli altri si vieta di finire: se il nostro finisce, la gara non vale."""
    model = Transformer(small())
    whole = torch.full((2, model_bench.LENGTH), 3)
    assert bench.whole(whole, model) is whole
    with pytest.raises(AssertionError, match=r"^un simbolo di fine ha fermato la gara"):
        bench.whole(whole[:, 1:], model)
    whole[1, 5] = END
    with pytest.raises(AssertionError, match=r"^una frase è finita prima"):
        bench.whole(whole, model)
