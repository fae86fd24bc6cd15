"""Dentro il vettore: il flusso, la lente, le sonde, gli interventi, le coordinate."""

import ctypes
import dataclasses
import itertools
import math
import re
from statistics import fmean
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
import torch.nn.functional as F

from attention.beyond import next_token, representation
from attention.beyond.grammar import lexicon, pairs, split_of
from attention.beyond.next_token import (
    KEPT,
    SEEDS,
    DecoderOnly,
    Result,
    agreeing_verbs,
    load,
    read_results,
    split_words,
    values_of,
)
from attention.beyond.representation import (
    COUNT,
    DAMPING,
    FOLDS,
    KINDS,
    LENS_SEED,
    LENS_TEXTS,
    NOUN,
    PREFIX_SEED,
    PRONOUN,
    RESULTS,
    STOPPED,
    Line,
    Probe,
    Trace,
    accuracy,
    astray,
    bank,
    contributions,
    coordinate,
    crowded,
    experiment,
    flipped,
    folds,
    grafted,
    held_out,
    layers_drawing,
    lens,
    lens_drawing,
    main,
    majority,
    means,
    measures,
    model_of,
    neurons,
    noun_rows,
    part_names,
    prefixes,
    pushed,
    reading,
    resume,
    ridge,
    shuffled,
    signs,
    silenced,
    some_texts,
    sublayers,
    swaps,
    telling,
    through,
    toward_plural,
    trace,
    tuned,
    turned,
    untrained,
    welch,
)
from attention.command_line import MODEL
from attention.s3_1_encoder_decoder_stacks import EPSILON, AddAndNorm, LayerNorm, layer_norm
from attention.s3_2_3_applications import causal_mask
from attention.s3_model_architecture import READER, TransformerConfig
from attention.s5_1_data_batching import END, PADDING, START

TINY = TransformerConfig(layers=2, d_model=12, d_ff=20, heads=3, dropout=0.0, vocabulary=31)


@pytest.fixture(scope="module")
def shipped():
    """Il modello del deposito, in doppia precisione."""
    model, vocabulary = load()
    return model.double(), vocabulary


@pytest.fixture(scope="module")
def seen(shipped):
    """Duecento inizi di frase con il soggetto lontano dal verbo."""
    return bank(*shipped, prefixes("che subisce", 200, PREFIX_SEED))


@pytest.fixture(scope="module")
def twins(shipped):
    """Gli stessi, con il soggetto dell'altro numero."""
    return bank(*shipped, prefixes("che subisce", 200, PREFIX_SEED, swap=True))


@pytest.fixture
def tiny():
    """Un modello piccolo, con gain e bias qualsiasi."""
    model = DecoderOnly(TINY).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=0.3, std=0.5)
    return model


# Il flusso.


def test_trace_is_the_model_one_sublayer_at_a_time(tiny):
    """Ogni due sotto-strati si ritrova l'uscita di uno strato; fra due stati, somma e norma."""
    tokens = torch.randint(31, (2, 7))
    found = trace(tiny, tokens)
    assert len(found.states) == 5
    assert len(found.added) == 4
    with torch.no_grad():
        expected = tiny.hidden_states(tokens)
        assert len(expected) == 3
        for mine, theirs in zip(found.states[::2], expected, strict=True):
            assert torch.allclose(mine, theirs, atol=1e-12)
        first = tiny.layers[0]
        x, mask = expected[0], causal_mask(7)
        assert torch.allclose(found.added[0], first.self_attention(x, x, x, mask), atol=1e-12)
        assert torch.allclose(found.added[1], first.feed_forward(found.states[1]), atol=1e-12)


@pytest.mark.parametrize("text", ["il medico che le maestre conoscono", "leggo un libro"])
def test_the_stream_is_the_sum_of_what_each_routine_wrote(shipped, text):
    """I contributi, sommati, danno l'ultimo stato a meno dell'arrotondamento: nulla è perso."""
    model, vocabulary = shipped
    tokens = torch.tensor([START, *vocabulary.encode(text)])
    found = trace(model, tokens)
    parts = contributions(model, tokens, found)
    assert parts.shape == (11, len(tokens), 64)
    assert (parts.sum(0) - found.states[-1]).abs().max() < 1e-12
    toward = toward_plural(model, vocabulary)
    assert torch.allclose((parts @ toward).sum(0), found.states[-1] @ toward, atol=1e-12)


def test_the_last_feed_forward_writes_most_of_the_agreement(shipped, seen):
    """Nel modello del deposito, dove non sbaglia; se accanto al verbo c'è l'altro numero, il totale
    va di poco dalla parte sbagliata, e vi tirano più di tutti gli ultimi due feed-forward."""
    model, vocabulary = shipped
    toward, names = toward_plural(model, vocabulary), part_names(4)
    near = bank(model, vocabulary, prefixes("che fa", 200, PREFIX_SEED))
    for found in (seen, near):
        parts = contributions(model, found.tokens, found.trace)[:, torch.arange(200), found.last]
        scores = parts @ toward * found.number
        for chosen in (found.number == found.other, found.number != found.other):
            line = dict(zip(names, scores[:, chosen].mean(-1).tolist(), strict=True))
            total, right = sum(line.values()), (scores[:, chosen].sum(0) > 0).double().mean()
            if found is seen or chosen.equal(found.number == found.other):
                assert 0.825 < line["feed-forward 4"] / total < 0.875
                assert total > 3
                assert line["attenzione 4"] > 0.35
                assert right == 1
            else:
                assert right.item() == pytest.approx(0.29, abs=0.02)
                assert -0.6 < total < -0.45
                assert all(it < 0.005 for it in line.values())
                assert sorted(line, key=line.__getitem__)[:2] == [
                    "feed-forward 4",
                    "feed-forward 3",
                ]


def test_contributions_keep_their_order_and_their_author(tiny):
    """Ogni contributo, rifatto da capo: si spinge il solo addendo attraverso le norme seguenti."""
    tokens = torch.randint(31, (6,))
    found = trace(tiny, tokens)
    parts = contributions(tiny, tokens, found)
    assert torch.allclose(parts.sum(0), found.states[-1], atol=1e-10)
    norms = [
        it.norm
        for layer in tiny.layers
        for it in (layer.self_attention_norm, layer.feed_forward_norm)
    ]
    totals = [state + new for state, new in zip(found.states, found.added, strict=False)]
    with torch.no_grad():
        word = tiny.embedding(tokens)
        sources = [(word, 0), (found.states[0] - word, 0)]
        sources += [(new, i) for i, new in enumerate(found.added)]
        for part, (vector, first) in zip(parts[:-1], sources, strict=True):
            for norm, total in zip(norms[first:], totals[first:], strict=True):
                sigma = (total.var(-1, correction=0, keepdim=True) + 1e-6) ** 0.5
                vector = norm.gain * (vector - vector.mean(-1, keepdim=True)) / sigma
            assert torch.allclose(part, vector, atol=1e-10)


def test_the_agreement_needs_the_last_two_attentions(shipped, seen):
    """Se la quarta attenzione aggiunge zero si dice sempre il singolare. Senza la terza, o senza
    l'ultimo feed-forward, va bene due volte su tre; senza la prima o la seconda, quasi sempre.
    """
    model, vocabulary = shipped
    toward, rows = toward_plural(model, vocabulary), torch.arange(200)
    mask = causal_mask(seen.tokens.size(-1))
    marks = []
    for dropped in (None, 0, 2, 4, 7, 6):
        state = seen.trace.states[0]
        with torch.no_grad():
            for i, (around, sublayer) in enumerate(sublayers(model, mask)):
                added = sublayer(state)
                state = around(state, torch.zeros_like(added) if i == dropped else added)
        marks.append(accuracy(state[rows, seen.last] @ toward, seen.number))
    assert marks[0] == 1
    assert marks[1:] == pytest.approx([1, 0.965, 0.66, 0.665, 0.5], abs=0.01)


def test_old_contributions_arrive_shrunk(shipped, seen):
    """Quanto è lungo ciò che si scrive, e quanto ne arriva in fondo."""
    model, _ = shipped
    rows = torch.arange(200)
    parts = contributions(model, seen.tokens, seen.trace)[:, rows, seen.last]
    arrived = dict(zip(part_names(4), parts.norm(dim=-1).mean(-1).tolist(), strict=True))
    first, *_, last = (it[rows, seen.last].norm(dim=-1).mean().item() for it in seen.trace.added)
    assert [first, last] == pytest.approx([4.4, 19.3], abs=0.05)
    assert arrived["attenzione 1"] == pytest.approx(0.05, abs=0.005)
    assert arrived["feed-forward 4"] == pytest.approx(9.0, abs=0.05)


def test_names_of_the_parts():
    assert part_names(2) == [
        "parola",
        "posizione",
        "attenzione 1",
        "feed-forward 1",
        "attenzione 2",
        "feed-forward 2",
        "costanti",
    ]


def test_a_sum_normalised_by_hand():
    """Parola (4, 8, 8, 12) più addendo (−1, 1, 1, −1): media 8, scarto 3."""
    norm = LayerNorm(4).double()
    word, added = torch.tensor([[4.0, 8, 8, 12], [-1, 1, 1, -1]]).double()
    total = word + added
    assert total.tolist() == [3, 9, 9, 11]
    with torch.no_grad():
        one, other = through(norm, total, word), through(norm, total, added)
        expected = norm(total)
    assert torch.allclose(3 * one, torch.tensor([-4.0, 0, 0, 4]).double(), atol=1e-6)
    assert torch.allclose(3 * other, torch.tensor([-1.0, 1, 1, -1]).double(), atol=1e-6)
    assert torch.allclose(one + other, expected, atol=1e-12)


def test_a_constant_bias_is_carried_and_never_lost():
    """Con parola e addendi nulli resta soltanto ciò che viene dai bias."""
    model = DecoderOnly(TINY).double()
    for layer in model.layers:
        for around in (layer.self_attention_norm, layer.feed_forward_norm):
            torch.nn.init.normal_(around.norm.bias)
            torch.nn.init.normal_(around.norm.gain)
    tokens = torch.tensor([START, 5, 6])
    found = trace(model, tokens)
    constants = contributions(model, tokens, found)[-1]
    bias = model.layers[-1].feed_forward_norm.norm.bias
    assert not torch.allclose(constants, bias.expand_as(constants), atol=1e-3)
    flat = Trace(found.states, found.added)
    for layer in model.layers[:1]:
        torch.nn.init.zeros_(layer.self_attention_norm.norm.bias)
        torch.nn.init.zeros_(layer.feed_forward_norm.norm.bias)
    torch.nn.init.zeros_(model.layers[1].self_attention_norm.norm.bias)
    constants = contributions(model, tokens, flat)[-1]
    assert torch.allclose(constants, bias.expand_as(constants), atol=1e-12)


def test_normalisation_does_not_correct_an_error():
    """La norma toglie media e scala, e basta: un errore di un decimo esce di un decimo."""
    norm = LayerNorm(64).double()
    x, error = torch.randn(2, 5, 64, dtype=torch.float64)
    x, error = (it - it.mean(-1, keepdim=True) for it in (x, error))
    error -= x * (error * x).sum(-1, keepdim=True) / x.square().sum(-1, keepdim=True)
    error *= 0.1 * x.norm(dim=-1, keepdim=True) / error.norm(dim=-1, keepdim=True)
    with torch.no_grad():
        assert torch.allclose(norm(7 * x + 3), norm(x), atol=1e-5)
        clean, dirty = norm(x), norm(x + error)
    kept = (dirty * clean).sum(-1, keepdim=True) / clean.square().sum(-1, keepdim=True)
    left = dirty - kept * clean
    share = left.norm(dim=-1) / (kept * clean).norm(dim=-1)
    assert torch.allclose(share, torch.full_like(share, 0.1), atol=1e-6)
    assert F.cosine_similarity(left, error, dim=-1).min() > 1 - 1e-9


def test_a_vector_does_not_see_what_follows(shipped):
    """Con e senza il seguito gli stati sono gli stessi, sotto-strato per sotto-strato."""
    model, vocabulary = shipped
    short = [START, *vocabulary.encode("i contadini che il bambino")]
    long = [*short, *vocabulary.encode("vede partono domani .")]
    one, other = (trace(model, torch.tensor(it)) for it in (short, long))
    assert len(one.states) == 9
    for mine, theirs in zip(one.states, other.states, strict=True):
        assert (mine - theirs[: len(short)]).abs().max() < 1e-12


def test_without_the_mask_a_vector_sees_what_follows(shipped):
    """Tolta la maschera cambiano tutti gli stati, tranne l'ingresso, che è di ciascuna parola."""
    model, vocabulary = shipped
    short = [START, *vocabulary.encode("i contadini che il bambino")]
    long = [*short, *vocabulary.encode("vede partono domani .")]
    one, other = (trace(model, torch.tensor(it), causal=False) for it in (short, long))
    differences = [
        (mine - theirs[: len(short)]).abs().amax(-1)
        for mine, theirs in zip(one.states, other.states, strict=True)
    ]
    assert differences[0].max() < 1e-12
    assert all(bool((it > 0.02).all()) for it in differences[1:])


# La lente.


def test_reading_puts_every_word_on_a_row(shipped):
    model, vocabulary = shipped
    texts = ["il medico legge .", "parto"]
    found = reading(model, vocabulary, texts)
    first, second = (vocabulary.encode(it) for it in texts)
    assert found.read.tolist() == [START, *first, START, *second]
    assert found.following.tolist() == [*first, END, *second, END]
    assert len(found.states) == 5
    with torch.no_grad():
        alone = model.hidden_states(torch.tensor([START, *second]))
    for mine, theirs in zip(found.states, alone, strict=True):
        assert torch.allclose(mine[5:], theirs, atol=1e-12)


def test_lens_by_hand(shipped):
    """Posto, bit, incertezza e distanza, con cicli in chiaro."""
    model, vocabulary = shipped
    found = reading(model, vocabulary, ["la maestra legge il libro ."])
    vectors = found.states[3]
    mine = lens(model, found, vectors)
    table = model.embedding.weight.detach()
    ranks, bits, entropy, far, echo = [], [], [], [], []
    for row, last, read, right in zip(
        vectors, found.states[-1], found.read.tolist(), found.following.tolist(), strict=True
    ):
        p, q = (torch.softmax(table @ it, 0) for it in (row, last))
        ranks.append(1 + sum(1 for it in p if it > p[right]))
        bits.append(-math.log2(p[right]))
        entropy.append(-sum(it * math.log2(it) for it in p.tolist()))
        far.append(sum(b * math.log2(b / a) for a, b in zip(p.tolist(), q.tolist(), strict=True)))
        echo.append(p.argmax().item() == read)
    assert mine.rank == sorted(ranks)[(len(ranks) - 1) // 2]
    assert mine.bits == pytest.approx(fmean(bits))
    assert mine.entropy == pytest.approx(fmean(entropy))
    assert mine.divergence == pytest.approx(fmean(far))
    assert mine.echo == pytest.approx(fmean(echo))


def test_the_lens_at_the_end_is_the_model(shipped):
    model, vocabulary = shipped
    texts = ["la maestra legge il libro .", "il medico parte ."]
    found = reading(model, vocabulary, texts)
    last = lens(model, found, found.states[-1])
    rows = model.bits([vocabulary.encode(it) for it in texts])
    assert last.bits == pytest.approx(fmean([*rows[0], *rows[1]]))
    assert last.divergence == pytest.approx(0, abs=1e-12)


def test_the_lens_at_the_entrance_repeats_the_word_just_read(shipped):
    """La tabella è la stessa in ingresso e in uscita: il vettore d'ingresso somiglia a sé."""
    model, vocabulary = shipped
    found = reading(model, vocabulary, some_texts(30, LENS_SEED, "heldout"))
    assert lens(model, found, found.states[0]).echo > 0.8
    assert lens(model, found, found.states[-1]).echo < 0.05


def test_the_tuned_lens_is_an_affine_map():
    """Ritrova una trasformazione lineare con una costante, su vettori mai visti."""
    known, new = torch.randn(50, 7, dtype=torch.float64), torch.randn(5, 7, dtype=torch.float64)
    matrix, constant = torch.randn(7, 7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    found = tuned(known, known @ matrix + constant, new)
    assert torch.allclose(found, new @ matrix + constant, atol=1e-10)


def test_texts_come_from_the_part_asked():
    """Le prime cinque, in italiano, fra tutte le frasi che nascono dal seme."""
    for part, seed in (("heldout", 3), ("train", 4)):
        born = [it.italian for it in pairs(seed, 200) if split_of(it) == part]
        assert some_texts(5, seed, part) == born[:5]


# Le frasi da sondare.


@pytest.mark.parametrize("kind", KINDS)
def test_prefixes_have_the_labels_of_the_grammar(kind):
    """Il secondo nome e il primo articolo dicono i due numeri; metà e metà, incrociati."""
    found = prefixes(kind, 40, 5)
    cells = [(it.plural, it.other) for it in found]
    assert all(cells.count(pair) == 10 for pair in [(a, b) for a in (0, 1) for b in (0, 1)])
    nouns = {form: plural for noun in lexicon().nouns for plural, form in enumerate(noun.italian)}
    for it in found:
        words = split_words(it.text)
        assert words[1] == it.noun.italian[it.plural]
        assert words[2] == "che"
        others = [word for word in words[3:] if word in nouns]
        assert it.other in {bool(nouns[word]) for word in others}
        assert words[-1] != "."


def test_twins_differ_in_the_number_of_the_subject_only():
    one, other = (prefixes("che subisce", 40, 5, swap=it) for it in (False, True))
    for a, b in zip(one, other, strict=True):
        assert a.noun == b.noun
        assert a.plural is not b.plural
        assert a.other == b.other
        assert split_words(a.text)[2:] == split_words(b.text)[2:]
        assert split_words(a.text)[1] != split_words(b.text)[1]


def test_prefixes_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="kind: dato: che dorme; atteso: nessuna relativa, che fa"):
        prefixes("che dorme", 4, 1)
    with pytest.raises(ValueError, match="count: dato: 6; atteso: un multiplo di quattro"):
        prefixes("che fa", 6, 1)


def test_signs():
    assert signs([True, False, True]).tolist() == [1, -1, 1]
    assert signs([True]).dtype == torch.float64


def test_a_bank_knows_where_the_words_are(shipped):
    model, vocabulary = shipped
    found = prefixes("che fa", 12, 8)
    mine = bank(model, vocabulary, found)
    rows = torch.arange(12)
    for it, token in zip(found, mine.tokens[rows, NOUN].tolist(), strict=True):
        assert vocabulary.words[token] == it.noun.italian[it.plural]
    assert {vocabulary.words[it] for it in mine.tokens[rows, PRONOUN].tolist()} == {"che"}
    for it, token in zip(found, mine.tokens[rows, mine.last].tolist(), strict=True):
        assert vocabulary.words[token] == split_words(it.text)[-1]
    assert mine.tokens[0, 0] == START
    assert mine.number.tolist() == [1 if it.plural else -1 for it in found]
    assert mine.other.tolist() == [1 if it.other else -1 for it in found]
    assert mine.gender.tolist() == [1 if it.noun.gender == "f" else -1 for it in found]
    assert mine.nouns == [it.noun.lemma for it in found]
    with torch.no_grad():
        states = model.hidden_states(mine.tokens)
    assert torch.allclose(mine.at(3, mine.last), states[3][rows, mine.last], atol=1e-12)
    assert torch.allclose(mine.at(0, NOUN), states[0][:, 2], atol=1e-12)


# Le sonde.


def test_a_probe_is_a_direction_and_a_threshold():
    probe = Probe(torch.tensor([1.0, -2.0]), torch.tensor(0.5))
    assert probe(torch.tensor([[3.0, 1.0], [0.0, 1.0]])).tolist() == [1.5, -1.5]


def test_ridge_equals_least_squares_with_extra_rows():
    """Lo smorzamento è come aggiungere righe √λ I con etichetta zero."""
    x = torch.randn(40, 7, dtype=torch.float64) * torch.arange(1, 8) + 3
    y = signs([bool(it) for it in torch.randint(2, (40,))])
    x[:, 2] = 5.0
    z = (x - x.mean(0)) / x.std(0).clamp(min=1e-6)
    extra = math.sqrt(DAMPING * 40) * torch.eye(7, dtype=torch.float64)
    rows = torch.cat([z, extra]), torch.cat([y - y.mean(), torch.zeros(7, dtype=torch.float64)])
    weights = torch.linalg.lstsq(rows[0], rows[1].unsqueeze(-1)).solution.squeeze(-1)
    new = torch.randn(6, 7, dtype=torch.float64)
    new[:, 2] = 5.0
    expected = ((new - x.mean(0)) / x.std(0).clamp(min=1e-6)) @ weights + y.mean()
    assert torch.allclose(ridge(x, y)(new), expected, atol=1e-8)


def test_means_by_hand():
    """Medie (4, 1) e (0, 1): direzione (4, 0), soglia a 2 sul primo asse."""
    x = torch.tensor([[3.0, 0], [5, 2], [1, 1], [-1, 1]]).double()
    probe = means(x, signs([True, True, False, False]))
    assert probe.direction.tolist() == [4, 0]
    assert probe(torch.tensor([[2.0, 9], [3, 0]]).double()).tolist() == [0, 4]


def test_the_best_coordinate_by_hand():
    """Il primo asse sbaglia una volta, il secondo mai, e al contrario; il terzo non dice nulla."""
    x = torch.tensor(
        [[3.0, -2, 1], [5, -4, 2], [-9, -3, 3], [1, 1, 2], [-1, 3, 1], [0, 5, 3]]
    ).double()
    probe = coordinate(x, signs([True] * 3 + [False] * 3))
    assert probe.direction.tolist() == [0, -1, 0]
    assert probe.offset == 0
    assert (probe(x) > 0).tolist() == [True] * 3 + [False] * 3


def test_folds_keep_a_noun_together():
    group = folds(["b", "a", "b", "c", "d", "e", "f", "a"])
    assert group.tolist() == [1, 0, 1, 2, 3, 4, 0, 0]
    assert FOLDS == 5


def test_a_probe_never_answers_about_a_noun_it_has_seen():
    nouns = [f"n{i % 7}" for i in range(28)]
    x = torch.arange(28, dtype=torch.float64).unsqueeze(-1)
    y = signs([i % 2 == 0 for i in range(28)])
    given = []

    def fit(known, labels):
        assert labels.tolist() == y[known[:, 0].long()].tolist()
        seen = {nouns[int(i)] for i in known[:, 0]}
        given.append(seen)
        return lambda new: torch.tensor([nouns[int(i)] not in seen for i in new[:, 0]]).double()

    assert held_out(x, y, nouns, fit).tolist() == [1] * 28
    assert len(given) == FOLDS
    assert all(0 < len(it) < 7 for it in given)


def test_accuracy_and_majority_by_hand():
    scores, y = torch.tensor([0.5, -2.0, 3.0, -0.1]).double(), signs([True, False, False, False])
    assert accuracy(scores, y) == 0.75
    assert majority(y) == majority(-y) == 0.75


def test_shuffled_labels_are_the_same_labels_elsewhere():
    y = signs([i < 10 for i in range(50)])
    mixed = shuffled(y, 3)
    assert mixed.sum() == y.sum()
    assert not mixed.equal(y)
    assert mixed.equal(shuffled(y, 3))
    assert not mixed.equal(shuffled(y, 4))


def test_an_untrained_model_is_random_and_repeatable():
    one, again, other = (untrained(TINY, seed) for seed in (1, 1, 2))
    assert one.embedding.weight.dtype == torch.float64
    assert one.embedding.weight.equal(again.embedding.weight)
    assert not one.embedding.weight.equal(other.embedding.weight)


def test_the_number_arrives_at_the_last_word_from_elsewhere(seen):
    """Nell'ingresso non c'è; dopo il secondo strato una sonda lo legge, su nomi mai sondati."""
    y = seen.number
    marks = [accuracy(held_out(seen.at(i, seen.last), y, seen.nouns, ridge), y) for i in range(5)]
    assert max(marks[:2]) < 0.6
    assert marks[2] > 0.85
    assert min(marks[3:]) > 0.97
    mixed = shuffled(y, 1)
    assert accuracy(held_out(seen.at(3, seen.last), mixed, seen.nouns, ridge), mixed) < 0.62


# Gli interventi.


def test_toward_plural_is_the_mean_difference_of_the_scores(shipped):
    model, vocabulary = shipped
    state = torch.randn(64, dtype=torch.float64)
    with torch.no_grad():
        scores = dict(
            zip(vocabulary.words, model.embedding.logits(state[None])[0].tolist(), strict=True)
        )
    forms = [it.italian.present for it in agreeing_verbs(lexicon())]
    found = [
        scores[it[5]] - scores[it[2]]
        for it in forms
        if it[2] in scores and it[5] in scores and it[2] != it[5]
    ]
    assert len(found) > 50
    assert (state @ toward_plural(model, vocabulary)).item() == pytest.approx(fmean(found))


def test_swaps_are_the_distance_between_the_other_nouns_classes():
    nouns = [f"n{i % 10}" for i in range(40)]
    y = signs([i < 20 for i in range(40)])
    x = torch.randn(40, 3, dtype=torch.float64)
    found = swaps(x, y, nouns)
    group = folds(nouns)
    for row in range(40):
        others = group != group[row]
        plural, singular = (x[others & (y == it)].mean(0) for it in (1, -1))
        assert torch.allclose(found[row], (singular - plural) * y[row], atol=1e-12)


def test_astray_steps_are_as_long_and_go_elsewhere():
    steps = torch.randn(30, 64, dtype=torch.float64) * torch.arange(1, 31).unsqueeze(-1)
    found = astray(steps, 5)
    assert torch.allclose(found.norm(dim=-1), steps.norm(dim=-1))
    assert F.cosine_similarity(found, steps).abs().max() < 0.6
    assert found.equal(astray(steps, 5))
    assert not found.equal(astray(steps, 6))


def test_resuming_from_any_layer_gives_the_same_end(tiny):
    tokens = torch.randint(31, (3, 6))
    found = trace(tiny, tokens)
    for layer in range(3):
        assert torch.allclose(
            resume(tiny, found.states[2 * layer], layer), found.states[-1], atol=1e-10
        )
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=f"layer: dato: {wrong}; atteso: da 0 a 2"):
            resume(tiny, found.states[0], wrong)


def test_pushing_moves_one_vector_of_each_sentence(shipped, seen):
    """Uno spostamento nullo non cambia nulla; uno vero è quello rifatto a mano."""
    model, _ = shipped
    rows = torch.arange(200)
    still = pushed(model, seen, 2, NOUN, torch.zeros(200, 64, dtype=torch.float64))
    assert torch.allclose(still, seen.at(4, seen.last), atol=1e-12)
    steps = torch.randn(200, 64, dtype=torch.float64)
    after = pushed(model, seen, 1, seen.last, steps)
    state = seen.trace.states[2].clone()
    for row in range(200):
        state[row, seen.last[row]] += steps[row]
    with torch.no_grad():
        for layer in model.layers[1:]:
            state = layer(state, causal_mask(state.size(1)))
    assert torch.allclose(after, state[rows, seen.last], atol=1e-10)
    assert seen.at(1, seen.last).equal(seen.trace.states[2][rows, seen.last])


def test_grafting_the_subject_at_the_entrance_is_reading_the_twin(shipped, seen, twins):
    """All'ingresso le gemelle differiscono nell'articolo e nel nome, e in nient'altro."""
    model, _ = shipped
    found = grafted(model, seen, twins, 0, (1, NOUN))
    assert torch.allclose(found, twins.at(4, twins.last), atol=1e-12)
    one = grafted(model, seen, twins, 2, (NOUN,))
    step = twins.at(2, NOUN) - seen.at(2, NOUN)
    assert torch.allclose(one, pushed(model, seen, 2, NOUN, step), atol=1e-10)
    assert torch.allclose(grafted(model, seen, twins, 3, ()), seen.at(4, seen.last), atol=1e-12)


def test_flipped_by_hand():
    before, after = torch.tensor([1.0, 2, -1, -3]).double(), torch.tensor([-1.0, 2, 1, -2]).double()
    assert flipped(before, after) == 0.5


def way(seen, twins, after, toward):
    """Quanta parte della strada verso il punteggio della frase gemella si è fatta, in media."""
    before, other = seen.at(4, seen.last) @ toward, twins.at(4, twins.last) @ toward
    return (
        ((before - after) * seen.number).mean() / ((before - other) * seen.number).mean()
    ).item()


def test_the_number_moves_to_the_pronoun(shipped, seen, twins):
    """Dopo il secondo strato decidono articolo e nome; dopo il terzo il «che»; insieme, sempre."""
    model, vocabulary = shipped
    toward = toward_plural(model, vocabulary)
    before = seen.at(4, seen.last) @ toward

    def changed(layer, *positions):
        return flipped(before, grafted(model, seen, twins, layer, positions) @ toward)

    assert changed(2, 1, NOUN) > 0.95
    assert changed(2, PRONOUN) < 0.05
    assert changed(3, 1, NOUN) < 0.1
    assert changed(3, PRONOUN) > 0.9
    assert min(changed(layer, 1, NOUN, PRONOUN) for layer in range(4)) > 0.97


def test_a_probe_reads_what_the_model_does_not_use(shipped, seen, twins):
    """Dopo lo strato 3 la sonda legge il numero in fondo, sul nome e sul «che»; innestato quello
    opposto, il verbo cambia soltanto nell'ultimo caso."""
    model, vocabulary = shipped
    toward = toward_plural(model, vocabulary)
    before = seen.at(4, seen.last) @ toward
    found = []
    for where in (seen.last, NOUN, PRONOUN):
        here = seen.at(3, where)
        readable = held_out(here, seen.number, seen.nouns, ridge)
        assert accuracy(readable, seen.number) > 0.98
        after = pushed(model, seen, 3, where, twins.at(3, where) - here) @ toward
        found.append((flipped(before, after), way(seen, twins, after, toward)))
    (last, short), (noun, shorter), (pronoun, _) = found
    assert max(last, noun) < 0.005
    assert [short, shorter] == pytest.approx([0.05, 0.1], abs=0.01)
    assert pronoun > 0.9


def test_one_direction_does_what_the_whole_vector_does(shipped, seen, twins):
    """Sul «che», spostarsi lungo una direzione sola vale quanto cambiare tutto il vettore; lo
    stesso spostamento a caso non vale nulla."""
    model, vocabulary = shipped
    toward = toward_plural(model, vocabulary)
    before = seen.at(4, seen.last) @ toward
    steps = swaps(seen.at(3, PRONOUN), seen.number, seen.nouns)
    graft = twins.at(3, PRONOUN) - seen.at(3, PRONOUN)
    along, whole, lost, half = (
        pushed(model, seen, 3, PRONOUN, it) @ toward
        for it in (steps, graft, astray(steps, 0), steps / 2)
    )
    assert min(flipped(before, along), flipped(before, whole)) > 0.9
    assert flipped(along, whole) == pytest.approx(11 / 200, abs=0.01)
    for after in (along, whole):
        assert way(seen, twins, after, toward) == pytest.approx(0.7, abs=0.02)
    assert flipped(before, lost) < 0.05
    assert way(seen, twins, lost, toward) < 0.07
    assert flipped(before, half) == pytest.approx(0.15, abs=0.02)


def test_the_direction_of_the_plural_depends_on_the_place(shipped, seen):
    """Gira da uno strato e da una parola all'altra, e l'ultimo strato ne scrive una diversa."""
    model, vocabulary = shipped
    toward, rows = toward_plural(model, vocabulary), noun_rows(model, vocabulary)
    table = means(rows.vectors, rows.labels["plurale"]).direction
    noun = [means(seen.at(i, NOUN), seen.number).direction for i in range(5)]
    last = [means(seen.at(i, seen.last), seen.number).direction for i in range(5)]
    pronoun = means(seen.at(3, PRONOUN), seen.number).direction

    def near(one, other):
        return F.cosine_similarity(one, other, dim=0).item()

    assert near(table, noun[0]) > 0.85
    assert 0.3 < near(noun[0], noun[3]) < 0.45
    assert 0.5 < near(noun[3], pronoun) < 0.7
    assert 0.3 < near(pronoun, last[3]) < 0.5
    assert 0.05 < near(last[3], last[4]) < 0.15
    assert near(last[4], toward) > 0.89


# Una coordinata, un neurone, una direzione.


def test_rows_of_the_table_and_their_labels(shipped):
    model, vocabulary = shipped
    rows = noun_rows(model, vocabulary)
    assert rows.labels.keys() == {"plurale", "femminile", "persona"}
    assert len(rows.vectors) == len(rows.nouns) > 200
    by_row = {tuple(row.tolist()): i for i, row in enumerate(rows.vectors)}
    known = {
        "maestre": (1, 1, 1),
        "medico": (-1, -1, 1),
        "libri": (1, -1, -1),
        "porta": (-1, 1, -1),
    }
    for word, labels in known.items():
        i = by_row[tuple(model.embedding.weight[vocabulary.ids[word]].tolist())]
        assert tuple(int(it[i]) for it in rows.labels.values()) == labels
    absent = {it for noun in lexicon().nouns if "name" in noun.kinds for it in noun.italian}
    same = {noun.italian[0] for noun in lexicon().nouns if len({*noun.italian}) == 1}
    assert same & vocabulary.ids.keys()
    absent |= same
    for word in absent & vocabulary.ids.keys():
        assert tuple(model.embedding.weight[vocabulary.ids[word]].tolist()) not in by_row


def test_a_direction_reads_what_no_coordinate_reads_as_well(shipped):
    """Genere, numero e persona di nomi mai sondati: una direzione quasi sempre, una coordinata no;
    e la migliore vale poco più del migliore di altrettanti assi a caso."""
    marks = dict(crowded(*shipped))
    assert len(marks) == 9
    for name in ("plurale", "femminile", "persona"):
        assert marks[f"{name}, direzione"] > 0.97
        assert marks[f"{name}, coordinata"] < 0.92
        assert abs(marks[f"{name}, coordinata"] - marks[f"{name}, asse a caso"]) < 0.1


def test_turning_changes_the_axes_and_nothing_else():
    x = torch.randn(9, 7, dtype=torch.float64)
    found = turned(x, 2)
    assert torch.allclose(found @ found.mT, x @ x.mT, atol=1e-12)
    assert not torch.allclose(found, x)
    assert found.equal(turned(x, 2))
    assert not found.equal(turned(x, 3))


def test_neurons_are_inside_the_feed_forward(tiny):
    part, x = tiny.layers[0].feed_forward, torch.randn(4, 12, dtype=torch.float64)
    found = neurons(part, x)
    assert found.shape == (4, 20)
    with torch.no_grad():
        assert torch.allclose(found, (x @ part.w_1.mT + part.b_1).clamp(min=0), atol=1e-12)
        assert torch.allclose(found @ part.w_2.mT + part.b_2, part(x), atol=1e-12)


def test_telling_neurons_come_first():
    """Distanze fra le medie 2, 4 e 0; in deviazioni standard vince la prima, che oscilla meno."""
    active = torch.tensor([[3.0, 9, 1, 5], [3.1, 1, 2, 5], [1, 5, 1, 5], [1.1, -3, 2, 5]]).double()
    order = telling(active, signs([True, True, False, False]))
    assert order[:2].tolist() == [0, 1]
    assert (
        telling(active * torch.tensor([-9.0, 1, 1, 1]), signs([True, True, False, False]))[0] == 0
    )


def test_silencing_no_neuron_changes_nothing_and_silencing_one_fixes_it(tiny):
    layer, x = tiny.layers[1], torch.randn(5, 12, dtype=torch.float64)
    none = torch.tensor([], dtype=torch.long)
    with torch.no_grad():
        whole = layer.feed_forward_norm(x, layer.feed_forward(x))
        assert torch.allclose(silenced(layer, x, none), whole, atol=1e-12)
        active = neurons(layer.feed_forward, x).clone()
        active[:, 3] = active[:, 3].mean()
        part = layer.feed_forward
        expected = layer.feed_forward_norm(x, active @ part.w_2.mT + part.b_2)
        assert torch.allclose(silenced(layer, x, torch.tensor([3])), expected, atol=1e-12)


def test_one_neuron_reads_the_number_and_is_not_indispensable(shipped, seen):
    """Nell'ultimo feed-forward tre neuroni, ciascuno da solo, leggono il numero con un errore solo,
    e fermarli non cambia i verbi; a fermarne 32 sbagliano solo i plurali."""
    model, vocabulary = shipped
    layer, rows = model.layers[-1], torch.arange(200)
    x = seen.trace.states[-2][rows, seen.last]
    toward, active = toward_plural(model, vocabulary), neurons(layer.feed_forward, x)
    assert accuracy(held_out(active, seen.number, seen.nouns, coordinate), seen.number) > 0.98
    alone = torch.tensor(
        [
            accuracy(held_out(it.unsqueeze(-1), seen.number, seen.nouns, coordinate), seen.number)
            for it in active.mT
        ]
    )
    best = (alone > 0.99).nonzero().flatten()
    assert alone[best].tolist() == pytest.approx([0.995] * 3)
    assert (alone > 0.905).sum() == 14
    order = telling(active, seen.number)
    assert {*order[:3].tolist()} == {*best.tolist()}
    assert accuracy(silenced(layer, x, best) @ toward, seen.number) == 1
    after = silenced(layer, x, order[:32]) @ toward
    wrong = (after > 0) != (seen.number > 0)
    assert wrong.double().mean().item() == pytest.approx(0.21, abs=0.02)
    assert bool((seen.number[wrong] > 0).all())


def test_welch_by_hand():
    """Tre direzioni nel piano: al meglio a 120°, coseno un mezzo. E nessuna scelta fa di meno."""
    assert welch(3, 2) == 0.5
    assert welch(4, 3) == pytest.approx(1 / 3)
    for count, width in ((10, 4), (40, 7)):
        points = F.normalize(torch.randn(count, width, dtype=torch.float64), dim=-1)
        cosines = (points @ points.mT).fill_diagonal_(0)
        assert cosines.abs().max() >= welch(count, width)
    with pytest.raises(ValueError, match="count: dato: 5; atteso: più di width = 5"):
        welch(5, 5)
    with pytest.raises(ValueError, match="width: dato: 0; atteso: almeno 1"):
        welch(5, 0)
    assert welch(2, 1) == 1


def test_there_are_more_words_than_right_angles(shipped):
    """1366 righe in 64 coordinate: qualche coppia deve somigliarsi almeno quanto dice Welch."""
    model, _ = shipped
    rows = F.normalize(model.embedding.weight.detach(), dim=-1)
    assert rows.shape == (1366, 64)
    assert (rows @ rows.mT).fill_diagonal_(0).abs().max() >= welch(*rows.shape)


# I disegni.


def test_layers_drawing_puts_values_where_they_belong():
    lines = [Line("su", (0.0, 0.5, 1.0)), Line("giù & su", (1.0, 0.0, 0.25), "4 3")]
    text = layers_drawing(lines, (0.0, 0.5, 1.0), "Una prova")
    root = ElementTree.fromstring(text)
    found = [it for it in root.iter() if it.tag.endswith("polyline")]
    points = [
        [tuple(map(float, point.split(","))) for point in it.attrib["points"].split()]
        for it in found
    ]
    assert points[0] == [(50.0, 190.0), (200.0, 105.0), (350.0, 20.0)]
    assert points[1] == [(50.0, 20.0), (200.0, 190.0), (350.0, 147.5)]
    assert [it.attrib["stroke-dasharray"] for it in found] == ["", "4 3"]
    words = [it.text for it in root.iter() if it.tag.endswith("text")]
    assert words[:6] == ["0", "0,5", "1", "0", "1", "2"]
    assert words[-2:] == ["su", "giù & su"]
    labels = [it.attrib for it in root.iter() if it.tag.endswith("text")]
    assert [(float(it["x"]), float(it["y"])) for it in labels] == [
        (42, 194),
        (42, 109),
        (42, 24),
        (50, 208),
        (200, 208),
        (350, 208),
        (200, 224),
        (98, 248),
        (98, 266),
    ]
    assert root.attrib["viewBox"] == "0 0 370 276"
    with pytest.raises(ValueError, match=re.escape("lines: dato: lunghezze [2, 3]; atteso: una")):
        layers_drawing([Line("a", (0.0, 1.0)), Line("b", (0.0, 1.0, 2.0))], (0.0, 1.0), "x")


def test_layers_drawing_can_start_elsewhere_than_zero():
    text = layers_drawing([Line("a", (2.0, 6.0))], (2.0, 6.0), "x")
    assert 'points="50.0,190.0 350.0,20.0"' in text


def test_lens_drawing_has_a_box_for_every_layer():
    text = lens_drawing(["a", "b"], [[("x", 0.0), ("y", 1.0)], [("z", 0.5), ("w", 0.1)]], "t")
    root = ElementTree.fromstring(text)
    boxes = [it.attrib for it in root.iter() if it.tag.endswith("rect")]
    assert [it["opacity"] for it in boxes] == ["0.04", "0.34", "0.19", "0.07"]
    assert [(it["x"], it["y"]) for it in boxes] == [
        ("66", "24"),
        ("136", "24"),
        ("66", "52"),
        ("136", "52"),
    ]
    labels = [it for it in root.iter() if it.tag.endswith("text")]
    assert [it.text for it in labels] == ["0", "1", "a", "x", "y", "b", "z", "w"]
    places = [(float(it.attrib["x"]), float(it.attrib["y"])) for it in labels]
    assert places[:5] == [(99.5, 16), (169.5, 16), (60, 41), (99.5, 41), (169.5, 41)]
    assert root.attrib["viewBox"] == "0 0 206 84"
    with pytest.raises(ValueError, match="cells: dato: 1 righe; atteso: 2"):
        lens_drawing(["a", "b"], [[("x", 0.0)]], "t")


# Le domande sui numeri.


@pytest.mark.parametrize(
    ("layers", "width", "expected"),
    [
        (12, 768, 124_439_808),
        (24, 1024, 354_823_168),
        (36, 1280, 774_030_080),
        (48, 1600, 1_557_611_200),
    ],
)
def test_the_number_of_layers_decides_the_number_of_parameters(layers, width, expected):
    """Le quattro taglie di GPT-2, contate dalle forme; con 768 e 24 strati non tornerebbero."""

    def total(layers):
        with torch.device("meta"):
            config = dataclasses.replace(
                READER,
                layers=layers,
                d_model=width,
                d_ff=4 * width,
                heads=width // 64,
                vocabulary=50_257,
            )
            counted = sum(it.numel() for it in DecoderOnly(config).parameters())
        return counted + 1024 * width + layers * 4 * width + 2 * width

    assert total(layers) == expected
    assert total(24) == expected if layers == 24 else total(24) != expected
    assert total(24) - total(12) == 12 * (12 * width * width + 13 * width)


def test_the_target_of_a_piece_is_the_next_piece():
    """«I|eri| pi|ove|va| forte»: dopo « pi» si addestra « ove», non « forte»."""
    pieces = ["I", "eri", " pi", "ove", "va", " forte", " in", " città"]
    ids = list(range(4, 12))
    (batch,) = next(next_token.endless_batches([ids], 20, seed=1))
    read, following = batch.target[0], batch.expected[0]
    assert read.tolist() == [START, *ids]
    place = read.tolist().index(ids[pieces.index(" pi")])
    assert following[place] == ids[pieces.index("ove")]
    assert PADDING not in following


# Con altri semi.


@pytest.fixture(scope="module")
def published():
    return read_results(RESULTS)


def test_published_results_are_whole(published):
    """Ogni misura c'è una volta per seme; le misure sono quelle che il codice fa."""
    wanted = {("accordo", kind) for kind in KINDS}
    names = ("numero", "numero, non addestrato", "numero, mescolato", "genere")
    where = ("sul nome", "sul che", "in fondo")
    places = [f"{a}{b}" for a in where for b in ("", ", a caso", ", innesto")]
    wanted |= {(f"{it} {i}", kind) for it in (*names, *places) for i in range(5) for kind in KINDS}
    grafts = ("articolo", "articolo e nome", "articolo, nome e che")
    wanted |= {(f"{it}, innesto {i}", kind) for it in grafts for i in range(5) for kind in KINDS}
    wanted |= {("un neurone", kind) for kind in KINDS}
    wanted |= {(f"fermi{b} {n}", kind) for b in ("", ", a caso") for n in STOPPED for kind in KINDS}
    fields = ("rank", "bits", "entropy", "divergence", "echo")
    wanted |= {
        (f"{it} {i}", w) for it in fields for i in range(5) for w in ("lente", "lente tarata")
    }
    hows = ("direzione", "coordinata", "asse a caso")
    wanted |= {(f"{a}, {b}", "tabella") for a in ("plurale", "femminile", "persona") for b in hows}
    for seed in SEEDS:
        mine = [(it.what, it.who) for it in published if it.seed == seed]
        assert len(mine) == len(set(mine))
        assert set(mine) == wanted
    assert len(published) == len(wanted) * len(SEEDS)


def test_trends_of_the_published_results(published):
    """Ciò che la pagina racconta vale per ciascuno dei tre semi."""

    def of(who, what, layers=range(5)):
        rows = [values_of(published, who, f"{what} {layer}") for layer in layers]
        return [list(it) for it in zip(*rows, strict=True)]

    far, near = "che subisce", "che fa"
    for number, untaught, mixed, gender in zip(
        *(
            of(far, it)
            for it in ("numero", "numero, non addestrato", "numero, mescolato", "genere")
        ),
        strict=True,
    ):
        assert max(number[:2]) < 0.6
        assert min(number[2:]) > 0.9
        assert max(mixed) < 0.62
        assert all(it > 0.6 for it in untaught[1:])
        assert all(a < b for a, b in zip(untaught[2:], number[2:], strict=True))
        assert max(gender[:2]) < 0.62
        assert 0.6 < gender[2] < number[2]
        assert gender[3] > 0.8
    for both, every, bottom, whole in zip(
        *(of(far, f"{it}, innesto") for it in ("articolo e nome", "articolo, nome e che")),
        *(of(far, f"in fondo{it}") for it in ("", ", innesto")),
        strict=True,
    ):
        assert both[0] == every[0] == whole[4] > 0.7
        assert both[2] > both[0] - 0.13
        assert all(abs(it - every[0]) < 0.035 for it in every[:4])
        assert both[4] == every[4] == 0
        assert max(*bottom[:4], *whole[:4]) < 0.05
        assert bottom[4] > 0.6
    for where in ("sul nome", "sul che"):
        for seed, along, lost, graft in zip(
            SEEDS, *(of(far, f"{where}{it}") for it in ("", ", a caso", ", innesto")), strict=True
        ):
            apart = [b - a for a, b in zip(along, graft, strict=True)]
            if (where, seed) == ("sul nome", 3):
                assert apart.pop(0) == pytest.approx(0.085)
            assert all(abs(it) < 0.0201 for it in apart)
            assert max(lost) < 0.07
            assert along[4] == graft[4] == lost[4] == 0
    names, articles, pronouns, both, most = (
        [it for (it,) in of(far, f"{name}, innesto", [3])]
        for name in ("sul nome", "articolo", "sul che", "articolo e nome", "articolo, nome e che")
    )
    assert articles[0] > most[0] / 2 > 0.4
    assert names[0] < 0.05 < 0.1 < pronouns[0] < 0.2
    assert 0.2 < most[0] - both[0] < 0.3
    assert both[1] > names[1] > 0.8 > 0.1 > max(articles[1], pronouns[1])
    assert pronouns[2] > 0.9 > 0.05 > max(names[2], articles[2], both[2])
    agreed = values_of(published, far, "accordo")
    assert min(agreed) > 0.85
    assert agreed[2] == max(agreed) == 1
    assert min(values_of(published, far, "un neurone")) > 0.98
    assert sorted(values_of(published, near, "un neurone")) == [0.815, 0.84, 0.9025]
    lost = {
        what: [a - b for a, b in zip(agreed, values_of(published, far, what), strict=True)]
        for what in ("fermi 1", "fermi 8", "fermi, a caso 64")
    }
    assert lost["fermi 1"] == pytest.approx([0.0075, 0.0125, 0], abs=0.001)
    assert lost["fermi 8"] == pytest.approx([0.185, 0.4, 0], abs=0.001)
    assert lost["fermi, a caso 64"] == pytest.approx([0.0925, 0.025, 0], abs=0.001)
    readable = [it for (it,) in of(near, "numero", [3])]
    for agrees, reads in zip(values_of(published, near, "accordo"), readable, strict=True):
        assert agrees + 0.2 < reads
        assert reads > 0.94
    assert 0.5 < values_of(published, near, "accordo")[1] < 0.55
    for plain, fitted in zip(of("lente", "bits"), of("lente tarata", "bits"), strict=True):
        assert all(a > b + 1 for a, b in zip(plain[:4], fitted[:4], strict=True))
        assert all(b + 0.25 < a < b + 0.65 for a, b in itertools.pairwise(fitted))
    counts = read_results(next_token.RESULTS)
    (singles,), (couples,) = (values_of(counts, f"n = {n}", "heldout") for n in (1, 2))
    assert all(couples < bits[0] < singles - 2 for bits in of("lente tarata", "bits"))
    for kind, expected in ((far, [0.05, 0.0275, 0.01]), (near, [0.01, -0.0075, -0.05])):
        both = (values_of(counts, "modello", f"{kind}, {it}") for it in ("concorde", "discorde"))
        apart = [
            whole - fmean(halves)
            for whole, *halves in zip(values_of(published, kind, "accordo"), *both, strict=True)
        ]
        assert apart == pytest.approx(expected, abs=1e-6)
    for echo, rank in zip(of("lente", "echo"), of("lente", "rank"), strict=True):
        assert echo[0] > 0.79
        assert echo[4] < 0.05
        assert rank[0] > 300
    assert all(it[0] < 3 for it in of("lente", "entropy"))
    assert all(it[4] == 0 for it in of("lente tarata", "divergence"))
    gains = {name: [] for name in ("plurale", "femminile", "persona")}
    for name in gains:
        for direction, alone, turn in zip(
            *(
                values_of(published, "tabella", f"{name}, {it}")
                for it in ("direzione", "coordinata", "asse a caso")
            ),
            strict=True,
        ):
            assert direction > 0.95
            assert alone + 0.1 < direction
            gains[name].append(alone - turn)
    assert gains["femminile"] == pytest.approx([0.137, 0.08, -0.023], abs=0.002)
    assert all(-0.02 < it < 0.08 for name in ("plurale", "persona") for it in gains[name])


def test_the_shipped_model_still_measures_as_published(shipped, published):
    """Le misure rapide, rifatte da capo, sono quelle pubblicate per il suo seme."""
    model, vocabulary = shipped
    mine = {(it.who, it.what): it.value for it in published if it.seed == KEPT}
    for what, value in crowded(model, vocabulary):
        assert mine["tabella", what] == pytest.approx(value, abs=0.006)
    found = bank(model, vocabulary, prefixes("che subisce", COUNT, PREFIX_SEED))
    x = held_out(found.at(3, found.last), found.number, found.nouns, ridge)
    assert mine["che subisce", "numero 3"] == pytest.approx(accuracy(x, found.number), abs=0.006)
    toward = toward_plural(model, vocabulary)
    before = found.at(4, found.last) @ toward
    assert mine["che subisce", "accordo"] == pytest.approx(
        accuracy(before, found.number), abs=0.006
    )
    texts = reading(model, vocabulary, some_texts(LENS_TEXTS, LENS_SEED, "heldout"))
    plain = lens(model, texts, texts.states[3])
    assert mine["lente", "bits 3"] == pytest.approx(plain.bits, abs=1e-4)
    steps = swaps(found.at(3, PRONOUN), found.number, found.nouns)
    after = pushed(model, found, 3, PRONOUN, steps) @ toward
    assert mine["che subisce", "sul che 3"] == pytest.approx(flipped(before, after), abs=0.006)


def test_measures_are_probes_pushes_lens_and_table(shipped, monkeypatch):
    """Le stesse misure, rifatte una per una su poche frasi."""
    model, vocabulary = shipped
    for name, value in {"COUNT": 20, "LENS_TEXTS": 12, "KINDS": ("che fa",)}.items():
        monkeypatch.setattr(representation, name, value)
    mine = {(who, what): value for who, what, value in measures(model, vocabulary, 6)}
    found = prefixes("che fa", 20, PREFIX_SEED)
    seen, blank = (
        bank(model, vocabulary, found),
        bank(untrained(model.config, 6), vocabulary, found),
    )
    twins = bank(model, vocabulary, prefixes("che fa", 20, PREFIX_SEED, swap=True))
    toward = toward_plural(model, vocabulary)
    before = seen.at(4, seen.last) @ toward
    assert mine["che fa", "accordo"] == accuracy(before, seen.number)
    for layer in (0, 4):
        x, y = seen.at(layer, seen.last), seen.number
        other, mixed = blank.at(layer, blank.last), shuffled(y, layer)
        for name, vectors, labels in (
            ("numero", x, y),
            ("numero, non addestrato", other, y),
            ("numero, mescolato", x, mixed),
            ("genere", x, seen.gender),
        ):
            expected = accuracy(held_out(vectors, labels, seen.nouns, ridge), labels)
            assert mine["che fa", f"{name} {layer}"] == expected
    noun = torch.full_like(seen.last, NOUN)
    for where, positions in (("sul nome", noun), ("sul che", noun + 1), ("in fondo", seen.last)):
        steps = swaps(seen.at(2, positions), seen.number, seen.nouns)
        graft = twins.at(2, positions) - seen.at(2, positions)
        for name, it in (("", steps), (", a caso", astray(steps, 2)), (", innesto", graft)):
            after = pushed(model, seen, 2, positions, it) @ toward
            assert mine["che fa", f"{where}{name} 2"] == flipped(before, after)
    for name, parts in (
        ("articolo", (1,)),
        ("articolo e nome", (1, 2)),
        ("articolo, nome e che", (1, 2, 3)),
    ):
        after = grafted(model, seen, twins, 2, parts) @ toward
        assert mine["che fa", f"{name}, innesto 2"] == flipped(before, after)
    layer, x = model.layers[-1], seen.trace.states[-2][torch.arange(20), seen.last]
    active = neurons(layer.feed_forward, x)
    alone = held_out(active, seen.number, seen.nouns, coordinate)
    assert mine["che fa", "un neurone"] == accuracy(alone, seen.number)
    for name, order in (
        ("fermi", telling(active, seen.number)),
        ("fermi, a caso", shuffled(torch.arange(256), 0)),
    ):
        expected = accuracy(silenced(layer, x, order[:8]) @ toward, seen.number)
        assert mine["che fa", f"{name} 8"] == expected
    texts = some_texts(12, LENS_SEED, "heldout")
    seen_texts = reading(model, vocabulary, texts)
    other = reading(model, vocabulary, some_texts(24, LENS_SEED + 1, "train"))
    plain = lens(model, seen_texts, seen_texts.states[1])
    assert mine["lente", "bits 1"] == pytest.approx(plain.bits)
    assert mine["lente", "rank 1"] == pytest.approx(plain.rank)
    fitted = lens(model, seen_texts, tuned(other.states[1], other.states[-1], seen_texts.states[1]))
    assert mine["lente tarata", "divergence 1"] == pytest.approx(fitted.divergence)
    assert (
        mine["tabella", "plurale, direzione"]
        == dict(crowded(model, vocabulary))["plurale, direzione"]
    )


def test_a_model_is_loaded_if_there_is_one_and_trained_if_not(monkeypatch, tmp_path, shipped):
    model, vocabulary = shipped
    asked = []

    def learning(bench, folder, seed, steps):
        asked.append((bench, folder, seed, steps))
        folder.mkdir()
        model.save(folder / MODEL)
        vocabulary.save(folder / "vocabulary.json")
        yield Result("modello", seed, "dev", 1.0)

    monkeypatch.setattr(representation, "learning", learning)
    monkeypatch.setattr(representation, "make_bench", lambda: "banco")
    assert model_of(KEPT, tmp_path / "x")[0].config == model.config
    assert asked == []
    for _ in range(2):
        found, words = model_of(7, tmp_path / "7")
        assert torch.allclose(found.embedding.weight, model.embedding.weight.float())
        assert words.words == vocabulary.words
    assert asked == [("banco", tmp_path / "7", 7, representation.STEPS)]


def test_an_experiment_measures_every_seed_and_writes(monkeypatch, tmp_path):
    asked = []

    def model_for(seed, folder):
        asked.append((seed, folder))
        return SimpleNamespace(double=lambda: seed), "parole"

    monkeypatch.setattr(representation, "model_of", model_for)
    monkeypatch.setattr(
        representation, "measures", lambda model, words, seed: [(words, f"x{seed}", model / 8)]
    )
    experiment(tmp_path, tmp_path / "r.csv", (4, 5))
    assert asked == [(4, tmp_path / "4"), (5, tmp_path / "5")]
    assert read_results(tmp_path / "r.csv") == [
        Result("parole", 4, "x4", 0.5),
        Result("parole", 5, "x5", 0.625),
    ]


def test_the_command_wants_a_folder(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(representation, "experiment", asked.append)
    main([str(tmp_path)])
    assert asked == [tmp_path]
    with pytest.raises(ValueError, match="CARTELLA: dato: 0 argomenti; atteso: una cartella"):
        main([])


def test_fortran_on_the_page(fortran, call_fortran):
    """L'area comune dopo due routine è quella di AddAndNorm applicato due volte."""
    routines = fortran("beyond/representation")
    stream = (ctypes.c_double * 640).in_dll(routines, "stream_")
    x = torch.randn(10, 64, dtype=torch.float64)
    stream[:] = x.flatten().tolist()
    around = AddAndNorm(64, 0.0).double()
    torch.nn.init.normal_(around.norm.gain)
    torch.nn.init.normal_(around.norm.bias)
    gain, bias = around.norm.gain.detach(), around.norm.bias.detach()
    for _ in range(2):
        added = torch.randn(10, 64, dtype=torch.float64)
        call_fortran(routines.add_and_norm, added, gain, bias)
        with torch.no_grad():
            x = around(x, added)
    found = torch.tensor(list(stream), dtype=torch.float64).view(10, 64)
    assert torch.allclose(found, x, atol=1e-12)
    assert EPSILON == 1e-6
    assert torch.allclose(layer_norm(x, gain, bias), around.norm(x).detach(), atol=1e-12)
