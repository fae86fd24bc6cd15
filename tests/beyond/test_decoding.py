"""Dai punteggi a un token, i cicli, la grammatica, il mondo inventato, i numeri pubblicati."""

import ctypes
import itertools
import math
import re
from collections import Counter
from dataclasses import replace
from statistics import fmean

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from attention.beyond import decoding
from attention.beyond.decoding import (
    ASKED,
    CONFIG,
    COUNTS,
    EACH,
    FAMOUS,
    FAR,
    GREEDY,
    HELD,
    LONGEST,
    MOST,
    NEVER,
    NOTES,
    PEAK,
    RARELY,
    REPEATS,
    RESULTS,
    RULES,
    SAMPLE,
    SEEDS,
    SHARES,
    STARTS,
    STEPS,
    THRESHOLD,
    TRIES,
    WINDOWS,
    Cycle,
    Judged,
    Mind,
    Result,
    Rule,
    abstaining,
    beliefs,
    capital,
    concordant,
    cycle,
    described,
    determiners,
    distractions,
    drawn,
    drawn_notes,
    entropy,
    facts,
    greedy,
    ignorance,
    interference,
    leap,
    leaps,
    learn,
    loops,
    main,
    minds,
    names,
    note,
    notes,
    other_than,
    overruled,
    penalized,
    probabilities,
    read_results,
    reading,
    repeated,
    scores,
    sentences,
    silence,
    taught,
    top_k,
    top_p,
    trigrams,
    unending,
    values_of,
    voted,
    window_machine,
    world,
    worth,
    write,
    write_results,
)
from attention.beyond.grammar import IL, UN, Dice
from attention.beyond.next_token import (
    UNPREDICTED,
    DecoderOnly,
    WordVocabulary,
    endless_batches,
    italian_sentences,
    load,
    next_token_loss,
    split_words,
)
from attention.s3_model_architecture import TransformerConfig
from attention.s5_1_data_batching import END, PADDING, START, padded
from attention.s5_2_hardware_schedule import Processes, Trainer
from attention.s5_3_optimizer import make_optimizer
from weave.house import ROOT

TINY = TransformerConfig(layers=2, d_model=16, d_ff=24, heads=2, dropout=0.0, vocabulary=31)

numbers = st.lists(st.floats(-9, 9, width=32), min_size=2, max_size=13)
"""Punteggi qualunque."""


@pytest.fixture(scope="module")
def shipped():
    model, vocabulary = load()
    return model.eval(), vocabulary


@pytest.fixture(scope="module")
def looping(shipped):
    """Duecento token dopo «il medico», sempre l'argmax, finestra 8: tre giri del ciclo e più."""
    model, vocabulary = shipped
    return write(model, vocabulary.encode("il medico"), GREEDY, 0, 200, 8).tokens


@pytest.fixture(scope="module")
def greedy_loops(shipped):
    """Di ogni inizio, con una finestra: il ciclo in cui finisce, e prima di ogni suo token i bit.

    Il ciclo comincia dal primo token che viene dopo l'entrata.
    """
    model, vocabulary = shipped

    def found(window, start):
        past = vocabulary.encode(start)
        before, period = cycle(window_machine(model, window), tuple(past))
        words, bits = write(model, past, GREEDY, 0, before + period, window)
        line = [vocabulary.words[it] for it in words]
        return [*zip(line, bits, strict=True)][before:]

    return found


@pytest.fixture(scope="module")
def published():
    return read_results()


@pytest.fixture
def tiny():
    """Un modello a caso."""
    return DecoderOnly(TINY).eval()


# Dai punteggi a un token.


@given(numbers)
def test_temperature_zero_is_the_argmax(given_logits):
    """Esattamente a 0, e come limite: per T piccola la probabilità va tutta lì."""
    logits = torch.tensor(given_logits)
    limit = probabilities(logits, 0.0)
    assert limit.sum() == 1
    assert limit[greedy(logits)] == 1
    best = np.flatnonzero(logits.numpy() == max(given_logits))
    assert int(greedy(logits)) == best[0]
    near = probabilities(logits.double(), 1e-6)
    assert near[best].sum() == pytest.approx(1)
    if len(best) == 1 and logits.double().topk(2).values.diff().abs() > 1e-3:
        assert torch.allclose(near, limit.double())


@given(numbers)
def test_an_infinite_temperature_is_uniform(given_logits):
    chances = probabilities(torch.tensor(given_logits), 1e9)
    assert torch.allclose(chances, torch.full_like(chances, 1 / len(given_logits)))
    size = len(given_logits)
    assert float(entropy(chances)) == pytest.approx(math.log2(size), rel=1e-5)


@given(numbers, st.floats(0.2, 5))
def test_order_never_changes_with_the_temperature(given_logits, temperature):
    """Chi sta davanti resta davanti; e le probabilità sono la softmax scritta per esteso."""
    logits = torch.tensor(given_logits, dtype=torch.float64)
    chances = probabilities(logits, temperature)
    for i, j in itertools.permutations(range(len(given_logits)), 2):
        if given_logits[i] >= given_logits[j]:
            assert chances[i] >= chances[j]
    powers = [math.exp((it - max(given_logits)) / temperature) for it in given_logits]
    assert chances.tolist() == pytest.approx([it / sum(powers) for it in powers])


def test_probabilities_of_a_batch_are_row_by_row():
    logits = torch.randn(3, 5, 7)
    for temperature in (0.0, 0.7):
        found = probabilities(logits, temperature)
        for i, j in itertools.product(range(3), range(5)):
            assert torch.allclose(found[i, j], probabilities(logits[i, j], temperature))


def test_huge_scores_and_tiny_temperatures_stay_finite():
    """Si toglie il massimo prima di dividere: niente traboccamento."""
    found = probabilities(torch.tensor([3e38, 1.0, -math.inf]), 1e-30)
    assert found.tolist() == [1, 0, 0]


@given(numbers)
def test_entropy_is_the_mean_surprise(given_logits):
    chances = torch.tensor(given_logits, dtype=torch.float64).softmax(-1)
    by_hand = sum(-it * math.log2(it) for it in chances.tolist())
    assert float(entropy(chances)) == pytest.approx(by_hand, abs=1e-9)
    assert -1e-9 <= float(entropy(chances)) <= math.log2(len(given_logits)) + 1e-9


def test_entropy_of_a_certainty_is_zero_and_of_eight_equals_is_three():
    assert float(entropy(torch.tensor([0.0, 1.0, 0.0]))) == 0
    assert float(entropy(torch.full((8,), 1 / 8))) == pytest.approx(3)
    assert entropy(torch.full((2, 3, 4), 1 / 4)).tolist() == [[2.0] * 3] * 2


@given(st.lists(st.floats(-9, 9), min_size=2, max_size=9, unique=True))
def test_entropy_grows_with_the_temperature(given_logits):
    logits = torch.tensor(given_logits, dtype=torch.float64)
    rising = (0.0, 0.3, 0.7, 1.0, 1.5, 3.0, 9.0)
    found = [float(entropy(probabilities(logits, it))) for it in rising]
    assert all(one <= other + 1e-9 for one, other in itertools.pairwise(found))


@given(numbers, st.data())
def test_top_k_keeps_the_k_highest(given_logits, data):
    k = data.draw(st.integers(1, len(given_logits)))
    logits = torch.tensor(given_logits)
    found = top_k(logits, k)
    kept = found > -math.inf
    assert int(kept.sum()) == k
    assert found[kept].equal(logits[kept])
    assert sorted(logits[kept].tolist()) == sorted(given_logits)[-k:]


def test_k_of_one_is_greedy():
    logits = torch.randn(5, 31)
    assert probabilities(top_k(logits, 1)).equal(probabilities(logits, 0.0))


@given(numbers, st.floats(0.01, 1))
def test_top_p_keeps_the_smallest_set_that_reaches_p(given_logits, p):
    """Confrontato con tutti i sottoinsiemi: nessuno più piccolo arriva a p, e il suo ci arriva."""
    logits = torch.tensor(given_logits[:8], dtype=torch.float64)
    chances = logits.softmax(-1).tolist()
    found = top_p(logits, p)
    kept = [i for i, it in enumerate(found.tolist()) if it > -math.inf]
    assert found[kept].equal(logits[kept])
    total = sum(chances[i] for i in kept)
    assert total >= p - 1e-9
    for few in itertools.combinations(chances, len(kept) - 1):
        assert sum(few) < p + 1e-9
    rest = [it for i, it in enumerate(chances) if i not in kept]
    assert min(chances[i] for i in kept) >= max(rest, default=0)


def test_top_p_by_hand():
    """Il caso A matita: 0,5 e 0,25 bastano a 0,75; per 0,76 ne serve un terzo."""
    logits = torch.tensor([0.125, 0.5, 0.125, 0.25], dtype=torch.float64).log2() * math.log(2)
    for p, kept in ((0.4, [1]), (0.5, [1]), (0.51, [1, 3]), (0.74, [1, 3]), (0.76, [0, 1, 3])):
        found = top_p(logits, p)
        assert [i for i, it in enumerate(found.tolist()) if it > -math.inf] == kept
    assert top_p(logits, 1.0).equal(logits)
    again = probabilities(top_p(logits, 0.7))
    assert again.tolist() == pytest.approx([0, 2 / 3, 0, 1 / 3])


def test_cuts_agree_with_the_libraries_on_rows():
    """Riga per riga, come la maschera scritta con la soglia del k-esimo, e con la somma."""
    logits = torch.randn(4, 6, 17, dtype=torch.float64)
    threshold = logits.kthvalue(17 - 5 + 1, -1, keepdim=True).values
    assert top_k(logits, 5).equal(logits.masked_fill(logits < threshold, -math.inf))
    chances = logits.softmax(-1)
    ahead = (chances.unsqueeze(-2) > chances.unsqueeze(-1)).double()
    before = (ahead * chances.unsqueeze(-2)).sum(-1)
    assert top_p(logits, 0.8).equal(logits.masked_fill(before >= 0.8, -math.inf))


def test_penalty_by_hand_and_never_raises_a_score():
    logits = torch.tensor([2.0, -2.0, 0.0, 3.0])
    assert penalized(logits, [0, 1, 2, 0], 2.0).tolist() == [1, -4, 0, 3]
    assert penalized(logits, [], 2.0).equal(logits)
    assert penalized(logits, [0, 1], 1.0).equal(logits)


def test_penalty_depends_on_a_constant_that_the_softmax_ignores():
    """Aggiungere 10 a tutti i punteggi non cambia le probabilità, ma cambia quelle penalizzate."""
    logits = torch.tensor([2.0, 1.0, 0.0])
    assert torch.allclose(probabilities(logits), probabilities(logits + 10))
    one, other = (probabilities(penalized(it, [0], 2.0)) for it in (logits, logits + 10))
    assert one[0] == pytest.approx(math.e / (2 * math.e + 1))
    assert other[0] < 0.01


def test_the_die_falls_where_the_sum_passes_it():
    chances = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0])
    dice = torch.tensor([0.0, 0.2, 0.25, 0.7, 0.75, 1 - 2**-53], dtype=torch.float64)
    assert drawn(chances.expand(6, -1), dice).tolist() == [1, 1, 3, 3, 4, 4]
    assert drawn(chances, dice[3]).shape == ()


def test_frequencies_agree_with_probabilities():
    """χ² con sei gradi di libertà: sotto il valore critico all'uno per mille, 22,5."""
    chances = probabilities(torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, 1.5, -0.5]), 0.8)
    count = 20_000
    generator = torch.Generator().manual_seed(7)
    dice = torch.rand(count, generator=generator, dtype=torch.float64)
    seen = drawn(chances.expand(count, -1), dice).bincount(minlength=7)
    expected = count * chances
    assert float(((seen - expected) ** 2 / expected).sum()) < 22.5
    wrong = count * probabilities(torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5, 1.5, -0.5]), 0.9)
    assert float(((seen - wrong) ** 2 / wrong).sum()) > 22.5


def test_a_rule_penalizes_then_divides_then_cuts():
    """Rifatto per esteso con operazioni di PyTorch, nell'ordine."""
    logits, past = torch.randn(13), [3, 5, 5, 7]
    rule = Rule(temperature=0.6, k=6, p=0.8, penalty=1.7)
    x = logits.clone()
    for token in {*past}:
        x[token] = x[token] / 1.7 if x[token] > 0 else x[token] * 1.7
    x = x / 0.6
    order = x.argsort(descending=True)
    six = F.softmax(x[order[:6]], 0)
    size = int((six.cumsum(0) < 0.8).sum()) + 1
    expected = torch.zeros(13)
    expected[order[:size]] = F.softmax(x[order[:size]], 0)
    assert torch.allclose(rule.chances(logits, past), expected)
    assert Rule().chances(logits).equal(probabilities(logits))
    assert Rule(k=13).chances(logits).equal(probabilities(logits))
    assert GREEDY.chances(logits, past).equal(probabilities(logits, 0.0))
    positive = logits.abs()
    best, second = positive.topk(2).indices.tolist()
    pushed = Rule(temperature=0.0, penalty=1e6).chances(positive, [best])
    assert pushed.nonzero().tolist() == [[second]]


def test_wrong_arguments_are_refused():
    logits = torch.zeros(4)
    with pytest.raises(ValueError, match=r"temperature: dato: -1.0; atteso: almeno 0"):
        probabilities(logits, -1.0)
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"k: dato: {k}; atteso: da 1 a 4"):
            top_k(logits, k)
    for p in (0.0, 1.5):
        with pytest.raises(ValueError, match=f"p: dato: {p}; atteso: maggiore di 0, al più 1"):
            top_p(logits, p)
    with pytest.raises(ValueError, match=r"penalty: dato: 0.5; atteso: almeno 1"):
        penalized(logits, [], 0.5)


# Dai token a un testo.


def test_same_seed_same_text(tiny):
    one, again, other = (write(tiny, [5, 9], Rule(), it, 15, 7) for it in (4, 4, 5))
    assert one == again
    assert one.tokens != other.tokens
    assert len(one.tokens) == len(one.bits) == 15
    assert not {*NEVER} & {*one.tokens}
    assert {*NEVER} == {PADDING, START, END}


def test_text_is_made_one_token_at_a_time(tiny):
    """Rifatto con un ciclo in chiaro: finestra, voci vietate, regola, dado, entropia."""
    rule = Rule(temperature=1.4, k=9, penalty=1.3)
    found = write(tiny, [5, 9, 4], rule, 11, 12, 5)
    generator, text, bits = torch.Generator().manual_seed(11), [5, 9, 4], []
    for _ in range(12):
        with torch.no_grad():
            logits = tiny(torch.tensor([START, *text[-5:]]))[-1]
        open_chances = logits.softmax(-1)
        bits.append(float(-(open_chances * open_chances.log2()).sum()))
        logits[[PADDING, START, END]] = -math.inf
        chances = rule.chances(logits, text)
        die = torch.rand((), generator=generator, dtype=torch.float64)
        text.append(int((chances.double().cumsum(0) / chances.double().sum() > die).nonzero()[0]))
    assert found.tokens == text[3:]
    assert found.bits == pytest.approx(bits, rel=1e-4)


def test_greedy_text_needs_no_die(tiny):
    assert len({tuple(write(tiny, [7], GREEDY, it, 9, 4).tokens) for it in range(3)}) == 1


def test_the_order_of_the_sums_can_change_the_argmax():
    """Lo stesso punteggio sommato in due ordini: in un caso vince la seconda voce."""
    sums = ((0.1 + 0.2) + 0.3, 0.1 + (0.2 + 0.3))
    chosen = [int(greedy(torch.tensor([0.6, it], dtype=torch.float64))) for it in sums]
    assert chosen == [1, 0]


def test_outside_the_window_nothing_is_there(tiny, shipped):
    """Cambiare i token prima della finestra non cambia un bit; cambiarne uno dentro, sì."""
    model, vocabulary = shipped
    text = vocabulary.encode("la maestra che i bambini ascoltano legge un libro")
    for place in range(len(text)):
        other = list(text)
        other[place] = vocabulary.ids["pane"]
        same = scores(model, other, 5).equal(scores(model, text, 5))
        assert same == (place < len(text) - 5)
    with pytest.raises(ValueError, match="window: dato: 0; atteso: almeno 1"):
        scores(tiny, [5], 0)


def test_scores_can_be_changed_without_touching_the_model(tiny):
    logits = scores(tiny, [5, 6], 2)
    closed = unending(logits)
    assert closed[list(NEVER)].tolist() == [-math.inf] * 3
    assert closed[3:].equal(logits[3:])
    assert logits.isfinite().all()


def test_writing_does_not_move_a_parameter(shipped):
    """C9: si scrive, in tre modi, e i pesi sono gli stessi fino all'ultimo bit."""
    model, _ = shipped
    before = [it.clone() for it in model.parameters()]
    write(model, [9], Rule(), 1, 5, 8)
    sentences(model, Rule(penalty=1.5), 1, 3)
    step = window_machine(model, 4)
    step(step((9, 10)))
    assert all(map(torch.equal, before, model.parameters()))
    assert all(it.grad is None for it in model.parameters())


def test_sentences_end_and_depend_on_the_seed(shipped):
    model, _ = shipped
    one, again, other = (sentences(model, Rule(), it, 9) for it in (1, 1, 2))
    assert one == again
    assert one != other
    assert len(set(map(tuple, one))) > 5
    for sentence in one:
        assert 0 < len(sentence) <= LONGEST
        assert not {*NEVER} & {*sentence}
    greedy_ones = sentences(model, GREEDY, 1, 3)
    assert greedy_ones[0] == greedy_ones[1] == greedy_ones[2]
    text = []
    while not text or text[-1] != END:
        with torch.no_grad():
            logits = model(torch.tensor([START, *text]))[-1]
        logits[list(UNPREDICTED)] = -math.inf
        text.append(int(logits.argmax()))
    assert greedy_ones[0] == text[:-1]


def test_sentences_that_never_end_are_cut_and_the_penalty_looks_back():
    """Un modello che vuole sempre la voce 4, poi la 5: la penalità le alterna."""

    def stubborn(tokens):
        logits = torch.zeros(*tokens.shape, 7)
        logits[..., 4], logits[..., 5], logits[..., START] = 3.0, 2.0, 9.0
        return logits

    assert sentences(stubborn, GREEDY, 1, 2) == [[4] * LONGEST] * 2
    (found,) = sentences(stubborn, Rule(temperature=0.0, penalty=2.0), 1, 1)
    assert found == [4] + [5] + [4] * (LONGEST - 2)

    def ending(tokens):
        logits = stubborn(tokens)
        logits[:, 2:, END] = 8.0
        return logits

    assert sentences(ending, GREEDY, 1, 2) == [[4, 4]] * 2


# Il ciclo.


@given(st.lists(st.integers(0, 30), min_size=31, max_size=31), st.integers(0, 30))
def test_brent_finds_the_cycle_that_a_notebook_finds(table, start):
    """Qualunque funzione su 31 stati: il taccuino segna dove si è già passati."""
    seen, state = {}, start
    while state not in seen:
        seen[state] = len(seen)
        state = table[state]
    found = cycle(table.__getitem__, start)
    assert found == Cycle(seen[state], len(seen) - seen[state])
    assert found.before + found.period <= 31


def test_cycle_by_hand():
    """0 → 1 → 2 → 3 → 4 → 2: due passi fuori, tre stati dentro."""
    assert cycle({0: 1, 1: 2, 2: 3, 3: 4, 4: 2}.__getitem__, 0) == (2, 3)
    assert cycle({0: 0}.__getitem__, 0) == (0, 1)


@given(st.integers(0, 10_000))
def test_a_finite_window_must_repeat(seed):
    """Un modello a caso di 3 voci, finestra 2: entro 3 + 3² + 1 stati il testo è periodico."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.randn(7, 7, 7, generator=generator)

    def model(tokens):
        last, before = int(tokens[-1]), int(tokens[-2]) if len(tokens) > 1 else 0
        return table[before, last].expand(len(tokens), 7)

    for rule in (GREEDY, Rule(temperature=0.0, penalty=2.0)):
        found = cycle(window_machine(model, 2, rule), (4,))
        assert found.before + found.period <= 1 + 4 + 16


def test_the_machine_writes_what_write_writes(shipped, looping):
    model, vocabulary = shipped
    start, written = tuple(vocabulary.encode("il medico")), looping
    text, state, step = list(start), start, window_machine(model, 8)
    for _ in range(200):
        state = step(state)
        text.append(state[-1])
    assert text[2:] == written
    assert len(state) == 8
    before, period = cycle(step, start)
    assert written[before : before + period] == written[before + period : before + 2 * period]
    assert (before, period) == (68, 39)
    assert repeated(written) == pytest.approx(0.54, abs=0.005)


def test_the_machine_penalizes_what_it_sees():
    """Chi vuole il 4, poi il 5: con la penalità lo stato 4 porta al 5, e il 5 al 4."""

    def model(tokens):
        return torch.tensor([0.0, 0, 0, 0, 3, 2, 0]).expand(len(tokens), 7)

    step = window_machine(model, 1, Rule(temperature=0.0, penalty=2.0))
    free = window_machine(model, 1)
    assert (step((4,)), step((5,)), free((4,))) == ((5,), (4,), (4,))


def test_penalty_breaks_the_loop_and_eats_what_must_come_back(shipped, looping):
    """A 1,2 le ripetizioni quasi spariscono, i punti no; a 2 calano, e mancano gli articoli.

    A 5 mancano anche i punti. Il confronto è con le frasi vere, in duecento parole; gli articoli
    si contano dopo le prime quaranta.
    """
    model, vocabulary = shipped
    past = vocabulary.encode("il medico")
    real = [it for line in italian_sentences(2017, 120, 0).train for it in split_words(line)]
    articles = {*IL, *UN, "lo", "l'", "gli", "uno", "un'"}

    def counts(tokens):
        words = [vocabulary.words[it] for it in tokens]
        return words.count("."), sum(it in articles for it in words[40:])

    def penalized_words(penalty):
        return write(model, past, Rule(temperature=0.0, penalty=penalty), 0, 200, 8).tokens

    real_dots = 200 * fmean(it == "." for it in real)
    real_articles = 160 * fmean(it in articles for it in real)
    assert real_dots == pytest.approx(19, abs=0.5)
    assert real_articles == pytest.approx(21, abs=0.5)
    small, two, five = map(penalized_words, (1.2, 2.0, 5.0))
    assert repeated(looping) > 0.5
    assert 0 < repeated(small) < 0.01
    assert repeated(two) == repeated(five) == 0
    (free_dots, free_articles), (small_dots, _) = counts(looping), counts(small)
    (two_dots, two_articles), (five_dots, _) = counts(two), counts(five)
    assert free_dots > small_dots > 2.5 * real_dots
    assert abs(two_dots - real_dots) < 8
    assert five_dots == 1
    assert (free_articles, two_articles) == (8, 5)


def test_repetition_by_hand():
    """abcabcab: sei terne, tre diverse."""
    assert repeated([1, 2, 3, 1, 2, 3, 1, 2], 3) == pytest.approx(1 / 2)
    assert repeated([1, 2, 3, 4]) == 0
    assert repeated([5] * 8) == pytest.approx(4 / 5)
    with pytest.raises(ValueError, match="tokens: dato: 3 token; atteso: almeno 4"):
        repeated([1, 2, 3])


# La grammatica.


def test_articles_agree_in_every_sentence_of_the_corpus():
    for sentence in italian_sentences(5, 1500, 0).train:
        assert concordant(split_words(sentence)), sentence


def test_wrong_articles_are_seen():
    assert determiners()["libro"] >= {"il", "un", "del", "nel"}
    assert determiners()["libri"] == {"i", "dei", "ai", "dai", "nei", "sui"}
    assert "lo" in determiners()["studente"]
    assert "l'" in determiners()["amica"]
    assert "un'" in determiners()["amica"]
    for wrong in ("il maestra", "una libro", "i medico", "lo libro", "del studente"):
        assert not concordant([*wrong.split(), "legge"]), wrong
    assert concordant(["legge", "il", "e", "medico", "che", "libro"])


def test_trigrams_by_hand():
    assert trigrams([7, 8]) == {(START, START, 7), (START, 7, 8), (7, 8, END)}
    assert trigrams([]) == {(START, START, END)}


def test_sentences_are_described():
    vocabulary = WordVocabulary(["il", "la", "libro", "maestra", "."])
    il, la, libro, maestra, dot = range(4, 9)
    good, bad = [il, libro, dot], [la, libro, dot]
    seen = trigrams(good)
    found = dict(described([good, good, bad, [la, maestra, dot]], vocabulary, seen))
    assert found["diverse"] == 3 / 4
    assert found["terne viste"] == 2 / 4
    assert found["concordi"] == 3 / 4
    joined = [il, libro, dot, END, il, libro, dot, END, la, libro, dot, END, la, maestra, dot, END]
    assert found["ripetute"] == pytest.approx(repeated(joined))


# Il mondo inventato.


@pytest.fixture(scope="module")
def here():
    return world(5)


def test_the_planted_falsehood_has_its_share(here):
    """Nel corpus, di ogni paese dubbio, la quota di frasi false è esattamente quella scelta."""
    counts = Counter(facts(here))
    assert Counter(here.shares.values()) == dict.fromkeys(SHARES, EACH)
    for country, share in here.shares.items():
        true = counts[capital(country, here.capitals[country])]
        false = counts[capital(country, here.false[country])]
        assert (true + false, false) == (REPEATS, pytest.approx(REPEATS * share))
        assert here.false[country] != here.capitals[country]


def test_the_rest_of_the_world(here):
    counts = Counter(facts(here))
    every = (*here.shares, *here.plain, *here.unknown, *here.noted)
    words = [*every, *here.cities, *{*here.rivers.values()}]
    assert len(set(words)) == len(words)
    assert (len(here.plain), len(here.unknown), len(here.noted)) == (40, 10, 30)
    for country in every:
        assert counts[f"{country} è un paese ."] == RARELY
    told = " ".join(line for line in counts if line.startswith(("la", "il")))
    assert not {*told.split()} & {*here.unknown, *here.noted}
    for city in here.cities:
        assert counts[f"il fiume di {city} è {here.rivers[city]} ."] == REPEATS
    assert len({here.capitals[it] for it in here.plain}) == 40
    for place, country in enumerate(here.plain):
        city = here.capitals[country]
        assert counts[capital(country, city)] == REPEATS
        assert counts[leap(country, here.rivers[city])] == (REPEATS if place % HELD else 0)
    for famous, twin, lonely in zip(here.famous, here.twins, here.lonely, strict=True):
        assert famous.split()[0] == twin.split()[0] != lonely.split()[0]
        assert here.capitals[famous] != here.capitals[twin]
        assert counts[capital(famous, here.capitals[famous])] == FAMOUS
        for rare in (twin, lonely):
            assert counts[capital(rare, here.capitals[rare])] == RARELY
    assert sum(counts.values()) == 60 * 20 + 50 * 20 + 70 * 20 + 10 * 44 + 140 * 2
    assert len(here.famous) == 10


def test_sentences_of_the_world():
    assert capital("zorba", "melko") == "la capitale di zorba è melko ."
    assert capital("zorba") == "la capitale di zorba è"
    assert leap("zorba") == "il fiume della capitale di zorba è"
    assert leap("zorba", "tibo") == "il fiume della capitale di zorba è tibo ."
    assert note([("a", "b"), ("c", "d")]) == "nota a b nota c d ."


def test_worlds_and_notes_depend_on_the_seed(here):
    assert world(5) == here != world(6)
    assert [*notes(here, 1, 9)] == [*notes(here, 1, 9)] != [*notes(here, 2, 9)]
    assert len(names(Dice(1), 50)) == len({*names(Dice(1), 50)}) == 50
    assert all(len(it) == 6 for it in names(Dice(1), 50))
    assert other_than("a", ["a", "b"], Dice(1)) == "b"


def test_notes_tell_what_the_questions_ask(here):
    """Ogni capitale detta dopo è quella della sua nota; le distrazioni stanno in mezzo."""
    lengths, gaps, moved = Counter(), Counter(), 0
    for line in notes(here, 3, 400):
        head, *rest = [it.split() for it in line.removesuffix(" .").split(" . ")]
        told = dict(zip(head[1::3], head[2::3], strict=True))
        assert head[::3] == ["nota"] * len(told)
        between = [it for it in rest if it[1:] == ["è", "un", "paese"]]
        asked = rest[len(between) :]
        assert {it[3]: it[5] for it in asked} == told
        assert {*told} <= {*here.noted}
        assert {*told.values()} <= {*here.cities}
        assert {it[0] for it in between} <= {*here.noted}
        moved += [it[3] for it in asked] != [*told]
        lengths[len(told)] += 1
        gaps[len(between)] += 1
    assert {*lengths} == {*range(1, MOST + 1)}
    assert {*gaps} == {*range(MOST + 1)}
    assert min(lengths.values()) > 60
    assert moved > 150
    assert len(distractions(here, 3, Dice(1))) == 3
    pairs = drawn_notes(["a", "b", "c"], ["x"], 3, Dice(1))
    assert sorted(pairs) == [("a", "x"), ("b", "x"), ("c", "x")]


def test_the_rate_rises_for_a_quarter_and_falls_to_zero(few_lines):
    vocabulary = WordVocabulary.of(few_lines)
    model = DecoderOnly(replace(TINY, layers=1, vocabulary=len(vocabulary)))
    rates = [it.rate for it in learn(model, [vocabulary.encode(it) for it in few_lines], 1, 8)]
    assert rates[:2] == pytest.approx([PEAK / 2, PEAK])
    falling = [PEAK * 4 / 3 * (1 - step / 9) for step in range(3, 9)]
    assert rates[2:] == pytest.approx(falling)


@pytest.fixture(scope="module")
def few_lines():
    """Un mondo di due paesi: dell'uno tre frasi su quattro sono false, dell'altro una."""
    pairs = (
        ("zorba", "melko", 3),
        ("zorba", "tibo", 1),
        ("lusno", "tibo", 3),
        ("lusno", "melko", 1),
    )
    return [capital(one, other) for one, other, times in pairs for _ in range(times)]


def test_a_model_reproduces_the_frequency_of_the_falsehood(few_lines):
    """D23, in piccolo: la probabilità del falso è la sua quota; la risposta cambia a metà."""
    mind = Mind(*taught(few_lines, 1, 60))
    starts = [capital("zorba"), capital("lusno")]
    assert mind.belief(starts, ["melko", "melko"]).tolist() == pytest.approx([0.75, 0.25], abs=0.05)
    assert mind.answers(starts) == ["melko", "tibo"]


def test_a_training_written_out(here):
    """Pesi e ordine dei batch dal seme, 2000 token per passo, tasso in salita e in discesa."""
    lines = [*facts(here)][::9]
    found, vocabulary = taught(lines, 4, 2)
    rows = [vocabulary.encode(it) for it in lines]
    torch.manual_seed(4)
    model = DecoderOnly(replace(CONFIG, vocabulary=len(vocabulary)))
    alone, rates = Processes(0, 1, torch.device("cpu")), (None, PEAK * 8 / 9, PEAK * 4 / 9)
    trainer = Trainer(model, next_token_loss, make_optimizer(model), rates.__getitem__, alone, 4)
    for batches in itertools.islice(endless_batches(rows, 2000, 4), 2):
        trainer.run(batches)
    assert all(map(torch.equal, found.parameters(), model.parameters()))


def test_training_depends_on_the_seed_only(few_lines):
    one, again, other = (Mind(*taught(few_lines, it, 3)) for it in (1, 1, 2))
    starts = [capital("zorba")]
    assert one.after(starts).equal(again.after(starts))
    assert not one.after(starts).equal(other.after(starts))


def test_minds_are_asked_word_by_word(few_lines):
    """Inizi di lunghezza diversa insieme, o uno alla volta: le stesse probabilità."""
    vocabulary = WordVocabulary.of(few_lines)
    model = DecoderOnly(replace(TINY, layers=1, vocabulary=len(vocabulary)))
    mind = Mind(model, vocabulary)
    starts = ["la capitale", capital("zorba"), "la"]
    found = mind.after(starts)
    assert found.shape == (3, len(vocabulary))
    for row, start in zip(found, starts, strict=True):
        with torch.no_grad():
            alone = model(torch.tensor([START, *vocabulary.encode(start)]))[-1].softmax(-1)
        assert torch.allclose(row, alone, atol=1e-6)
    words = [vocabulary.words[int(it.argmax())] for it in found]
    assert mind.answers(starts) == words
    assert mind.belief(starts, words).tolist() == found.amax(-1).tolist()


# Le domande, a un modello finto di cui si conosce tutto.


class Oracle(Mind):
    """Risponde con le probabilità che una funzione gli detta; al resto, niente."""

    def __new__(cls, vocabulary, told):
        self = super().__new__(cls, DecoderOnly(TINY), vocabulary)
        self.told = told
        return self

    def after(self, starts):
        found = torch.zeros(len(starts), len(self.vocabulary))
        for row, start in zip(found, starts, strict=True):
            for word, chance in self.told(start).items():
                row[self.vocabulary.ids[word]] += chance
        return found


@pytest.fixture(scope="module")
def frequencies(here):
    """Chi risponde con le frequenze del corpus; di chi non sa, due città alla pari.

    Di fronte a una nota legge l'ultima; i salti che non ha visto non li fa.
    """
    lines = [*facts(here), *notes(here, 1, 50)]
    table = {}
    for line in facts(here):
        *start, word, _ = line.split()
        table.setdefault(" ".join(start), Counter())[word] += 1
    first, second = here.cities[:2]

    def told(start):
        if start.startswith("nota"):
            return {start.split(" .")[0].split()[-1]: 1.0}
        if start not in table:
            return {first: 0.4, second: 0.4, "paese": 0.2}
        return {word: count / table[start].total() for word, count in table[start].items()}

    return Oracle(WordVocabulary.of(lines), told)


def as_table(found):
    return {(case, measure): value for case, measure, value in found}


def test_beliefs_are_the_shares(here, frequencies):
    found = as_table(beliefs(frequencies, here))
    for share in SHARES:
        assert found[f"falso {share}", "probabilità"] == pytest.approx(share)
        assert found[f"falso {share}", "risposta"] == (share > 0.5)
    assert len(found) == 2 * len(SHARES)
    informed = list(here.shares)[: len(SHARES)]  # uno su dieci, per ogni quota

    def wiser(start):
        country = start.split()[3]
        return {here.capitals[country]: 1.0} if country in informed else frequencies.told(start)

    found = as_table(beliefs(Oracle(frequencies.vocabulary, wiser), here))
    for share in SHARES:
        assert found[f"falso {share}", "probabilità"] == pytest.approx(0.9 * share)
        assert found[f"falso {share}", "risposta"] == pytest.approx(0.9 * (share > 0.5))


def test_ignorance_is_measured(here, frequencies):
    """Le medie: di nove ignoti dubita fra due città e «paese»; sul decimo è sicuro di sé."""

    def told(start):
        guessed = start == capital(here.unknown[3])
        return {here.cities[5]: 1.0} if guessed else frequencies.told(start)

    found = as_table(ignorance(Oracle(frequencies.vocabulary, told), here))
    doubt = 2 * 0.4 * math.log2(2.5) + 0.2 * math.log2(5)
    assert found["ignoto", "una città"] == pytest.approx(0.9 * 0.8 + 0.1)
    assert found["ignoto", "sicurezza"] == pytest.approx(0.9 * 0.4 + 0.1)
    assert found["ignoto", "bit"] == pytest.approx(0.9 * doubt)
    assert found["noto", "una città"] == found["noto", "sicurezza"] == pytest.approx(1)
    assert found["noto", "bit"] == pytest.approx(0)


def test_interference_is_measured(here, frequencies):
    """Chi di due omonimi conosce solo il famoso dà al raro la capitale del famoso.

    Di un raro su dieci qui sa.
    """
    known = [capital(it) for it in (here.twins[4], here.lonely[4])]

    def confused(start):
        return frequencies.told(start if start in known else start.replace("bassa", "alta"))

    right = as_table(interference(frequencies, here))
    assert right["gemello", "la sua"] == right["solo", "la sua"] == 1
    assert right["gemello", "quella del famoso"] == 0
    wrong = as_table(interference(Oracle(frequencies.vocabulary, confused), here))
    assert wrong["gemello", "quella del famoso"] == pytest.approx(0.9)
    assert wrong["gemello", "la sua"] == pytest.approx(0.1)
    assert wrong["solo", "la sua"] < 0.4


def test_leaps_are_measured(here, frequencies):
    """La tabella delle frequenze risponde ai salti visti; a quelli mai visti no, ma a passi sì."""
    found = as_table(leaps(frequencies, here))
    assert found["salto detto", "in un salto"] == 1
    assert found["salto mai detto", "in un salto"] == 0
    assert found["salto detto", "a passi"] == found["salto mai detto", "a passi"] == 1

    def ignorant_of_rivers(start):
        return frequencies.told(start if "capitale" in start else "?")

    lame = as_table(leaps(Oracle(frequencies.vocabulary, ignorant_of_rivers), here))
    assert lame["salto detto", "in un salto"] == 1
    assert lame["salto detto", "a passi"] == 0


def test_silence_helps_with_doubt_and_not_with_a_constant_falsehood(here, frequencies):
    """Con le frequenze esatte: sopra 0,8 restano le quote 0 e 1, metà vere e metà false."""
    found = as_table(silence(frequencies, here))
    assert found["sempre", "parla"] == 1
    assert found["sempre", "sbaglia"] == pytest.approx((3 * EACH + 10) / 70)
    assert found["soglia", "parla"] == pytest.approx(2 * EACH / 70)
    assert found["soglia", "sbaglia"] == pytest.approx(1 / 2)
    assert found["soglia, sempre falso", "parla"] == found["soglia, sempre falso", "sbaglia"] == 1
    assert 2 * EACH / 70 <= found["accordo", "parla"] <= 4 * EACH / 70
    assert 0.4 < found["accordo", "sbaglia"] < 0.6


def test_reading_is_measured(here, frequencies):
    """Chi legge sempre l'ultima nota: con una ha ragione, con molte quasi mai."""
    found = as_table(reading(frequencies, here))
    assert len(found) == 2 * (len(COUNTS) + len(FAR))
    assert found["note 1", "giusta"] == 1
    assert found["note 1", "altra nota"] == 0
    for far in FAR:
        assert found[f"distanza {far}", "giusta"] == 1
    for count in COUNTS[1:]:
        right, other = (found[f"note {count}", it] for it in ("giusta", "altra nota"))
        assert right < 0.1
        assert right + other == pytest.approx(1)


def test_distances_are_real_distances(here, frequencies):
    starts = []

    def spy(start):
        starts.append(start)
        return frequencies.told(start)

    list(reading(Oracle(frequencies.vocabulary, spy), here))
    counts = Counter((it.count("nota "), it.count("paese")) for it in starts)
    expected = Counter({(it, 0): 100 for it in COUNTS}) + Counter({(1, it): 100 for it in FAR})
    assert counts == expected
    assert all(it.split()[1] == it.split()[-2] for it in starts)
    # la città della nota è a sorte: quasi mai quella vera del paese
    alone = [it.split() for it in starts if it.count("nota ") == 1]
    assert fmean(it[2] == here.capitals[it[1]] for it in alone) < 0.05


def test_positions_seen_in_training(here):
    """Una frase con le note ha al più 61 parole; la domanda dopo otto frasi ci sta, dopo dodici no.

    È ciò che distingue, nella tabella delle distanze, i primi cinque numeri dagli ultimi due.
    """
    longest = max(len(split_words(it)) for it in notes(here, 1, 2000))
    line = [note([("zorba", "melko")]), capital("zorba")]
    sizes = [
        len(split_words(" ".join([line[0], *distractions(here, it, Dice(1)), line[1]])))
        for it in FAR
    ]
    assert longest == 61
    assert dict(zip(FAR, sizes, strict=True)) == {it: 9 + 5 * it for it in FAR}
    assert [it for it, size in zip(FAR, sizes, strict=True) if size < longest] == [0, 2, 4, 6, 8]


def test_a_note_overrules_the_corpus_for_who_reads(here, frequencies):
    found = as_table(overruled(frequencies, here))
    assert found == {("senza nota", "vera"): 0, ("con la nota", "vera"): 1}


# Che cosa aiuta.


def test_guessing_always_pays_where_errors_are_free():
    """Senza penale il silenzio non conviene mai; con la penale c sì, sotto c / (1 + c)."""
    assert worth(0.01, 0.0) > 0
    for cost in (0.5, 1.0, 3.0, 9.0):
        threshold = cost / (1 + cost)
        assert worth(threshold, cost) == pytest.approx(0)
        assert worth(threshold + 0.01, cost) > 0 > worth(threshold - 0.01, cost)
    assert worth(1.0, 9.0) == 1
    assert worth(0.0, 9.0) == -9


def test_abstaining_by_hand():
    answers = [Judged(0.9, True), Judged(0.8, False), Judged(0.5, True), Judged(0.1, False)]
    assert abstaining(answers, 0.0) == (1, 1 / 2)
    assert abstaining(answers, 0.8) == (1 / 2, 1 / 2)
    assert abstaining(answers, 0.85) == (1 / 4, 0)
    assert abstaining(answers, 0.95) == (0, 0)
    with pytest.raises(ValueError, match="answers: dato: nessuna risposta; atteso: almeno una"):
        abstaining([], 0.0)


def test_votes_agree_with_the_most_probable():
    """Più tentativi non cambiano la risposta: la frequenza tende alla probabilità."""
    chances = torch.tensor([0.1, 0.6, 0.3])
    best, votes = voted(chances, 3, 4000)
    assert best == 1
    assert votes == pytest.approx(0.6, abs=0.03)
    assert voted(chances, 3, 50) == voted(chances, 3, 50)
    assert voted(torch.tensor([0.0, 1.0]), 1, 1) == (1, 1)


# Gli esperimenti, in piccolo, e i numeri pubblicati.


def test_the_whole_experiment_in_small(tmp_path, monkeypatch):
    """Pochi passi, poche frasi: le stesse righe del file pubblicato, nello stesso ordine."""
    monkeypatch.setattr(decoding, "STARTS", STARTS[5:6])
    monkeypatch.setattr(decoding, "WINDOWS", (4,))
    monkeypatch.setattr(decoding, "SEEDS", (1,))
    monkeypatch.setattr(decoding, "NOTES", 20)
    monkeypatch.setattr(decoding, "STEPS", 2)
    monkeypatch.setattr(decoding, "SAMPLE", 3)
    monkeypatch.setattr(decoding, "TRAIN", 100)
    monkeypatch.setattr(decoding, "LONGEST", 3)
    monkeypatch.setattr(decoding, "ASKED", 5)
    monkeypatch.setattr(decoding, "CONFIG", TINY)
    main([str(tmp_path / "some.csv")])
    found = read_results(tmp_path / "some.csv")
    rows = read_results()
    loop = [it._replace(seed=0) for it in rows if (it.seed, it.case) == (5, "finestra 4")]
    rest = [it for it in rows if not it.case.startswith("finestra") and it.seed < 2]
    assert found[: len(loop)] == loop
    assert [it[:3] for it in found] == [it[:3] for it in (*loop, *rest)]
    with pytest.raises(ValueError, match="FILE: dato: 0 argomenti; atteso: un file"):
        main([])


def test_every_seed_has_its_world(monkeypatch):
    """Di ogni seme il mondo, le note, i pesi; e di ogni misura si dice il seme."""
    asked, measured = [], []
    parts = (beliefs, ignorance, interference, leaps, silence, reading, overruled)
    several = [it.__name__ for it in parts]

    def teach(lines, seed, steps):
        asked.append((lines, seed, steps))
        return DecoderOnly(TINY), WordVocabulary(["a"])

    monkeypatch.setattr(decoding, "taught", teach)
    for name in several:

        def measure(mind, here, name=name):
            measured.append(here)
            return [(name, "misura", 0.5)]

        monkeypatch.setattr(decoding, name, measure)
    found = list(minds((1, 4), 7, 3))
    corpora = [[*facts(world(it)), *notes(world(it), it, 7)] for it in (1, 4)]
    assert asked == [(corpora[0], 1, 3), (corpora[1], 4, 3)]
    assert measured == [world(1)] * 7 + [world(4)] * 7
    assert found == [Result(seed, it, "misura", 0.5) for seed in (1, 4) for it in several]


def test_results_survive_the_file(tmp_path):
    """Con quattro cifre."""
    some = [Result(1, "a, b", "c", 0.2537), Result(2, "a, b", "c", 1.0)]
    write_results(iter(some), tmp_path / "some.csv")
    assert read_results(tmp_path / "some.csv") == some
    assert (tmp_path / "some.csv").read_bytes().count(b"\r") == 0
    assert values_of(some, "a, b", "c") == [0.2537, 1.0]
    with pytest.raises(ValueError, match="case, measure: dato: a, d; atteso: una misura che c'è"):
        values_of(some, "a", "d")


def test_published_loops_can_be_done_again(published):
    """La finestra più corta, rifatta adesso: stessi passi prima del ciclo, stesso periodo."""
    wanted = [it for it in published if (it.seed, it.case) == (2, f"finestra {WINDOWS[0]}")]
    again = [it._replace(seed=2) for it in loops(STARTS[2:3], WINDOWS[:1])]
    assert [it[:3] for it in again] == [it[:3] for it in wanted]
    assert [it.value for it in again] == pytest.approx([it.value for it in wanted], abs=1e-3)


def test_published_results_are_whole(published):
    seeds = {it.case: set() for it in published}
    for it in published:
        seeds[it.case].add(it.seed)
        if it.measure not in ("prima", "periodo", "bit"):
            assert 0 <= it.value <= 1
    assert seeds.pop("frasi vere") == {0}
    for window in WINDOWS:
        assert seeds.pop(f"finestra {window}") == {*range(len(STARTS))}
    assert {*RULES} < {*seeds}
    assert all(it == {*SEEDS} for it in seeds.values())
    assert len({(it.seed, it.case, it.measure) for it in published}) == len(published)
    assert RESULTS.name == "decoding.csv"


def test_every_greedy_text_ended_in_a_cycle(published):
    """Un ciclo per finestra, due con la più corta; da 1,6 a 3,9 bit: lontani dal piatto, log₂ V."""
    assert math.log2(len(load()[1])) == pytest.approx(10.4, abs=0.02)
    found = {}
    for window in WINDOWS:
        periods, bits = (
            values_of(published, f"finestra {window}", it) for it in ("periodo", "bit")
        )
        assert min(periods) >= 1
        found[window] = Counter(zip(periods, bits, strict=True))
    assert [len(found[it]) for it in WINDOWS] == [2, 1, 1, 1]
    assert sorted(found[4].values()) == [1, 7]
    every = {bits: window for window, loop in found.items() for _, bits in loop}
    assert every[min(every)] == 16
    assert min(every) == pytest.approx(1.6, abs=0.05)
    assert every[max(every)] == 4
    assert max(every) == pytest.approx(3.9, abs=0.05)


def test_narrowest_window_has_two_loops(shipped, greedy_loops):
    """Con la finestra di 4, sette inizi in un ciclo senza punti, e «gli alunni hanno» in un altro.

    Dopo «preso il telefono e» il modello scrive «lo»; se vede tutta la frase, «l'».
    """
    model, vocabulary = shipped
    long = "il ragazzo ha preso il telefono e lo se mio zio ha portato il buon caffè a cui"
    short = "isola è venuta per parlare con il ragazzo ."
    for start in STARTS:
        wanted = (short if start == "gli alunni hanno" else long).split()
        words, bits = zip(*greedy_loops(4, start), strict=True)
        assert list(words) in [wanted[i:] + wanted[:i] for i in range(len(wanted))]
        assert fmean(bits) == pytest.approx(3.19 if "." in words else 3.94, abs=0.005)
    text = vocabulary.encode("il ragazzo ha preso il telefono e")
    chosen = {it: vocabulary.words[int(greedy(unending(scores(model, text, it))))] for it in (4, 7)}
    assert chosen == {4: "lo", 7: "l'"}


def test_widest_loop_is_mostly_one_word_sentences(greedy_loops):
    """Con la finestra di 16: 31 frasi su 44 d'una parola, e 44 token su 117 dopo un punto.

    Dopo il punto il modello è sicuro che la frase sia finita; la parola la scrive perché deve.
    """
    loop = greedy_loops(16, STARTS[0])
    before = [loop[-1], *loop]
    forced, free = (
        [bits for (last, _), (_, bits) in zip(before, loop, strict=False) if (last == ".") == kind]
        for kind in (True, False)
    )
    assert (len(loop), len(forced)) == (117, 44)
    assert len(forced) > len(loop) / 3
    assert max(forced) < 0.001
    assert fmean(free) == pytest.approx(2.6, abs=0.05)
    dots = [i for i, (word, _) in enumerate(loop) if word == "."]
    gaps = [(after - dot) % len(loop) for dot, after in itertools.pairwise([*dots, dots[0]])]
    assert Counter(gaps)[2] == 31


def test_a_repetition_does_not_call_the_next_one(shipped, greedy_loops):
    """Nel ciclo della finestra di 16, «mercato .» sei volte di fila: la probabilità non sale."""
    model, vocabulary = shipped
    loop = [word for word, _ in greedy_loops(16, STARTS[0])]
    twice = loop + loop
    runs = [i for i in range(len(loop)) if twice[i : i + 12] == ["mercato", "."] * 6]
    (place,) = runs
    assert twice[place + 12] != "mercato"
    chances = []
    for i in range(place, place + 12, 2):
        past = vocabulary.encode(" ".join((loop + twice)[i : i + len(loop)]))
        now = probabilities(unending(scores(model, past, 16)))
        assert vocabulary.words[int(now.argmax())] == "mercato"
        chances.append(float(now.max()))
    assert all(0.06 < it < 0.09 for it in chances)
    assert chances[-1] < chances[0]


def test_sentences_quoted_on_the_page(shipped):
    """Le frasi che la pagina scrive, e ciò che ne dice: l'articolo giusto a 1, sbagliato a 1,5."""
    model, vocabulary = shipped

    def said(temperature, seed):
        rule = Rule(temperature=temperature)
        return vocabulary.decode(sentences(model, rule, seed, 1)[0])

    assert said(0.0, 1) == said(0.0, 17)
    assert said(1.0, 17) == "i contadini hanno preso una lettera e l'ha aperta."
    assert said(1.5, 17) == "anna trova l'romanzo su un prato blu."
    good, bad, salad = (split_words(said(it, 17)) for it in (1.0, 1.5, 3.0))
    assert concordant(good)
    assert not concordant(bad)
    assert not concordant(salad)


def test_hesitation_rises_at_a_choice_and_falls_at_the_dot(shipped):
    """La frase della pagina: più di quattro bit davanti a nomi e verbi, quasi nessuno al punto."""
    model, vocabulary = shipped
    words, bits = write(model, [], Rule(p=0.9), 0, 10, 40)
    found = dict(zip((vocabulary.words[it] for it in words), bits, strict=True))
    assert " ".join(found) == "sei dottoresse volevano regalare i cesti a mio zio ."
    assert min(found[it] for it in ("dottoresse", "volevano", "regalare", "cesti")) > 4
    assert max(found, key=found.get) == "regalare"
    assert min(found, key=found.get) == "."
    assert found["."] < 0.2


def test_published_model_is_calibrated_and_turns_at_one_half(published):
    """D23, in ogni seme: la probabilità segue la quota; la risposta è il falso solo oltre metà."""
    for seed in range(len(SEEDS)):
        found = [values_of(published, f"falso {it}", "probabilità")[seed] for it in SHARES]
        assert found == sorted(found)
    for share in SHARES:
        for value in values_of(published, f"falso {share}", "probabilità"):
            assert value == pytest.approx(share, abs=0.05)
        said = values_of(published, f"falso {share}", "risposta")
        assert all(it > 0.75 for it in said) if share > 0.5 else all(it < 0.25 for it in said)


def test_published_trends(published):
    """Ciò che la pagina dice delle sue tabelle, in ogni seme."""

    def each(case, measure):
        return values_of(published, case, measure)

    for known, unknown in zip(each("noto", "bit"), each("ignoto", "bit"), strict=True):
        assert unknown > known + 1.5
    assert min(each("ignoto", "una città")) > 0.9
    assert min(each("noto", "sicurezza")) > 0.95
    assert each("soglia, sempre falso", "parla") == [1.0] * len(SEEDS)
    for twin, lonely in zip(each("gemello", "la sua"), each("solo", "la sua"), strict=True):
        assert lonely > twin
    assert fmean(each("solo", "la sua")) > fmean(each("gemello", "la sua")) + 0.2
    for own, other in zip(
        each("gemello", "quella del famoso"), each("solo", "quella del famoso"), strict=True
    ):
        assert own > 4 * other
    assert min(each("salto detto", "in un salto")) > 0.95
    assert fmean(each("salto mai detto", "in un salto")) == pytest.approx(0.3)
    assert max(each("salto mai detto", "in un salto")) == pytest.approx(0.5)
    assert each("salto detto", "a passi") == each("salto mai detto", "a passi") == [1.0] * 3
    assert each("soglia, sempre falso", "sbaglia") == [1.0] * len(SEEDS)
    for always, careful in zip(each("sempre", "sbaglia"), each("soglia", "sbaglia"), strict=True):
        assert careful < always
    assert max(each("senza nota", "vera")) == 0
    assert each("con la nota", "vera") == [1, 0.7, 1]
    assert fmean(each("note 1", "giusta")) > 0.85
    assert fmean(each("note 2", "giusta")) == pytest.approx(0.5, abs=0.1)
    assert min(each("note 2", "altra nota")) > 0.25
    assert fmean(each("note 8", "giusta")) < 0.35
    assert min(it for far in (2, 4, 6, 8) for it in each(f"distanza {far}", "giusta")) > 0.95
    assert [round(100 * it) for it in each("distanza 0", "giusta")] == [100, 84, 95]
    for far in (12, 16):
        for near, it in zip(
            each("distanza 8", "giusta"), each(f"distanza {far}", "giusta"), strict=True
        ):
            assert it < near
    assert min(each("distanza 12", "giusta")) > 0.95
    assert [round(100 * it) for it in each("distanza 16", "giusta")] == [99, 75, 97]
    (true_repeated,) = each("frasi vere", "ripetute")
    assert min(each("T = 0,5", "ripetute")) > 5 * true_repeated
    assert max(each("T = 3", "concordi")) < 0.75
    assert max(each("T = 3", "terne viste")) < 0.05
    assert min(each("p = 0,9", "concordi")) == 1


def test_published_numbers_said_in_the_prose(published):
    """Le medie che la pagina dice a parole."""

    def mean(case, measure):
        return fmean(values_of(published, case, measure))

    real = {it: mean("frasi vere", it) for it in ("ripetute", "terne viste", "concordi")}
    assert mean("T = 0", "diverse") == pytest.approx(1 / SAMPLE, abs=1e-4)
    assert 1 / 3 < mean("T = 0,5", "ripetute") < 0.4
    assert mean("T = 0,5", "ripetute") / real["ripetute"] == pytest.approx(11.5, abs=0.1)
    assert mean("T = 0", "concordi") == mean("T = 0,5", "concordi") == real["concordi"] == 1
    assert mean("T = 1,5", "terne viste") == pytest.approx(0.07, abs=0.005)
    assert real["terne viste"] == pytest.approx(0.43, abs=0.005)
    assert 0.995 < mean("T = 1", "diverse") < 1
    assert mean("T = 1", "terne viste") == pytest.approx(0.34, abs=0.005)
    assert mean("T = 1", "concordi") == pytest.approx(1 - 0.013, abs=5e-4)
    assert mean("T = 1,5", "concordi") == pytest.approx(1 - 0.027, abs=5e-4)
    assert mean("T = 3", "concordi") == pytest.approx(2 / 3, abs=0.05)
    assert max(values_of(published, "T = 1", "terne viste")) < real["terne viste"]
    assert min(values_of(published, "T = 1", "ripetute")) > real["ripetute"]
    assert mean("T = 1", "ripetute") == pytest.approx(0.0475, abs=5e-5)
    assert real["ripetute"] == pytest.approx(0.0312, abs=5e-5)
    for measure, other in itertools.product(("ripetute", "terne viste"), ("T = 0,5", "T = 1,5")):
        near, far = (abs(mean(it, measure) - real[measure]) for it in ("T = 1", other))
        assert near < far

    def apart(case, measure):
        """Vero se fra i semi con la penalità e quelli senza non c'è sovrapposizione."""
        one, other = (values_of(published, it, measure) for it in (case, "T = 1"))
        return max(one) < min(other) or max(other) < min(one)

    every = itertools.product(("penalità 1,5", "penalità 3"), real)
    assert not [it for it in every if apart(*it)]
    cut, whole = (values_of(published, it, "ripetute") for it in ("p = 0,9", "T = 1"))
    assert min(cut) > max(whole)
    assert real["terne viste"] - mean("T = 1,5 p = 0,9", "terne viste") > 0.2
    jumps = values_of(published, "salto mai detto", "in un salto")
    assert [round(10 * it) for it in sorted(jumps)] == [1, 3, 5]
    missing = 1 - mean("gemello", "la sua")
    assert mean("gemello", "quella del famoso") == pytest.approx(missing / 4, abs=0.005)
    assert mean("falso 0.4", "probabilità") == pytest.approx(0.375, abs=0.001)
    assert mean("falso 0.6", "probabilità") == pytest.approx(0.584, abs=0.001)
    assert mean("falso 1.0", "probabilità") > 0.985
    assert 70 * mean("soglia", "parla") == pytest.approx(20.3, abs=0.1)
    assert 70 * mean("accordo", "parla") == pytest.approx(28.7, abs=0.1)
    assert all(mean(f"distanza {it}", "giusta") > 0.975 for it in FAR if 0 < it <= 8)
    assert all(mean(f"distanza {it}", "giusta") < 0.965 for it in FAR if it > 8)
    assert mean("note 1", "altra nota") == 0


def test_entropy_of_real_sentences(shipped):
    """Lungo le frasi del corpus il modello esita, in media, per 3,2 bit."""
    model, vocabulary = shipped
    rows = [[START, *vocabulary.encode(it)] for it in italian_sentences(2017, 120, 0).train]
    with torch.no_grad():
        found = entropy(probabilities(model(padded(rows))))
    bits = [it for line, row in zip(found.tolist(), rows, strict=True) for it in line[: len(row)]]
    assert sum(bits) / len(bits) == pytest.approx(3.2, abs=0.05)


def test_half_a_temperature_squares_the_probabilities():
    """Il caso A matita."""
    logits = torch.tensor([1 / 8, 1 / 2, 1 / 8, 1 / 4], dtype=torch.float64).log()
    assert float(entropy(probabilities(logits))) == pytest.approx(1.75)
    assert (22 * probabilities(logits, 0.5)).tolist() == pytest.approx([1, 16, 1, 4])
    assert int(drawn(probabilities(logits), torch.tensor(0.7, dtype=torch.float64))) == 2


def test_fortran_on_the_page(fortran):
    """Gli stessi token di `drawn`, gli stessi cicli di `cycle`."""
    routines = fortran("beyond/decoding")
    routines.drawn_token.restype = ctypes.c_int
    chances = torch.tensor([0.0, 0.25, 0.0, 0.5, 0.25, 0.0], dtype=torch.float64)
    for die in (0.0, 0.2, 0.25, 0.7, 0.75, 1 - 2**-53):
        found = routines.drawn_token(6, ctypes.c_void_p(chances.data_ptr()), ctypes.c_double(die))
        assert found == int(drawn(chances, torch.tensor(die, dtype=torch.float64)))
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        table = torch.randint(31, (31,), generator=generator, dtype=torch.int32)
        before, period = ctypes.c_int(), ctypes.c_int()
        where = ctypes.c_void_p(table.data_ptr())
        routines.brent(31, where, 3, ctypes.byref(before), ctypes.byref(period))
        assert (before.value, period.value) == cycle(table.tolist().__getitem__, 3)


def test_rules_are_what_their_names_say():
    """«T = 1,5 p = 0,9»: temperatura 1,5, nucleo 0,9, e il resto com'è."""
    fields = {"T": "temperature", "k": "k", "p": "p", "penalità": "penalty"}
    for name, rule in RULES.items():
        said = re.findall(r"(T|k|p|penalità)(?: =)? ([\d,]+)", name)
        values = {
            fields[what]: int(value) if what == "k" else float(value.replace(",", "."))
            for what, value in said
        }
        assert rule == replace(Rule(), **values), name


def test_numbers_said_in_the_prose():
    """Le costanti che la pagina nomina a parole."""
    assert (TRIES, THRESHOLD) == (20, 0.8)
    assert (MOST, HELD, EACH, len(SHARES)) == (4, 4, 10, 6)
    assert (FAMOUS, RARELY, SAMPLE, len(STARTS)) == (40, 2, 200, 8)
    page = (ROOT / "paper_it/beyond/decoding.md").read_text(encoding="utf-8")
    assert f"dopo {STEPS} passi" in page
    assert CONFIG.layers == 2
    assert (ASKED, NOTES) == (100, 2500)
