"""Ritoccare: righe nuove, LoRA, domande mascherate, le prove in piccolo, i numeri pubblicati."""

import dataclasses
import hashlib
import itertools
import json
import math
from collections import Counter
from copy import deepcopy
from statistics import fmean
from typing import NamedTuple

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from attention.beyond import fine_tuning, next_token
from attention.beyond.fine_tuning import (
    ADAPTED,
    ADMITTED,
    ALPHA,
    ANSWER,
    ARTICLES,
    ASK,
    BASES,
    BEFORE,
    CANARIES,
    CANARY,
    CHAIN,
    CITIES,
    ELSEWHERE,
    FACTS,
    FORMS,
    INSIGHTS,
    KINGDOMS,
    PATCH,
    PATCHING,
    PEOPLE,
    POINTS,
    PREFIX,
    QUESTIONS,
    QUIZ,
    QUIZ_RECIPES,
    QUIZ_WORDS,
    REGISTERS,
    RELATIONS,
    RESULTS,
    REVIEWED,
    SCRATCH,
    SEEDS,
    SEVERAL,
    SINGLE,
    STRANGERS,
    TAUGHT,
    TELEGRAMS,
    TEST,
    TIMES,
    TOGETHER,
    TRIALS,
    UNSAID,
    VERB,
    WAYS,
    Bench,
    Compounds,
    Example,
    LastRows,
    LowRank,
    Quiz,
    Recipe,
    Row,
    batch_of,
    bits_per_token,
    canaries,
    chain_example,
    chains,
    chosen_right,
    compounds,
    continued,
    extended,
    fact,
    facts,
    fresh_quizzes,
    in_points,
    load_patch,
    logic,
    lora_parameters,
    main,
    make_bench,
    merged,
    mixed_batches,
    moving,
    points,
    quiz_example,
    quizzes,
    read_rows,
    register,
    retouched,
    right,
    taught_quizzes,
    telegraphic,
    tuning,
    values_of,
    verb,
    verb_places,
    verb_rows,
    verb_sentences,
    verbatim,
    with_lora,
    world,
    write_patch,
    write_rows,
)
from attention.beyond.grammar import lexicon
from attention.beyond.next_token import (
    CORPUS_SEED,
    ITALIAN,
    KEPT,
    UNKNOWN,
    DecoderOnly,
    WordVocabulary,
    italian_sentences,
    load,
    next_token_loss,
    split_words,
)
from attention.command_line import MODEL, ORIGIN, WORDS
from attention.s3_model_architecture import TransformerConfig
from attention.s5_1_data_batching import END, PADDING, START

WORDS_HERE = ("il", "la", "gatto", "dorme", "vede", "topo", ".")
TINY = TransformerConfig(
    layers=2, d_model=16, d_ff=24, heads=2, dropout=0.0, vocabulary=4 + len(WORDS_HERE)
)


@pytest.fixture
def tiny():
    """Un modello minuscolo con pesi a caso, e il suo vocabolario."""
    torch.manual_seed(3)
    return DecoderOnly(TINY), WordVocabulary(WORDS_HERE)


@pytest.fixture(scope="module")
def shipped():
    return load()


@pytest.fixture(scope="module")
def patched():
    return load_patch()


def scores(model, *tokens):
    with torch.inference_mode():
        return model.eval()(torch.tensor([START, *tokens]))


# Le parole nuove.


def test_new_rows_leave_the_old_scores_alone(tiny):
    model, vocabulary = tiny
    grown, longer = extended(model, vocabulary, {"fotografa": ("vede",), ASK: ()}, 5)
    assert len(longer) == len(vocabulary) + 2 == grown.config.vocabulary
    assert longer.words[:-2] == vocabulary.words
    assert longer.words[-2:] == ("fotografa", ASK)
    old, new = scores(model, 4, 6, 7), scores(grown, 4, 6, 7)
    assert new.shape == (4, 13)
    assert torch.allclose(new[:, :11], old, atol=1e-6)
    assert model.config.vocabulary == 11


def test_a_new_row_is_the_mean_of_those_it_resembles(tiny):
    """Con un po' di rumore; senza somiglianze, la media delle parole, voci speciali escluse."""
    model, vocabulary = tiny
    table = model.embedding.weight.detach()
    grown, _ = extended(model, vocabulary, {"a": ("gatto", "topo"), "b": (), "c": ()}, 5)
    rows = grown.embedding.weight.detach()[-3:]
    means = torch.stack([table[[6, 9]].mean(0), table[4:].mean(0), table[4:].mean(0)])
    noise = (rows - means) / table.std()
    assert 0.05 < noise.std() < 0.2
    assert noise.abs().max() < 0.4
    assert not rows[1].equal(rows[2])
    again, _ = extended(model, vocabulary, {"a": ("gatto", "topo"), "b": (), "c": ()}, 5)
    assert again.embedding.weight.equal(grown.embedding.weight)
    other, _ = extended(model, vocabulary, {"a": ("gatto", "topo"), "b": (), "c": ()}, 6)
    assert not other.embedding.weight.equal(grown.embedding.weight)


def test_a_word_cannot_be_added_twice_or_resemble_nothing(tiny):
    with pytest.raises(ValueError, match="words: dato: gatto; atteso: una parola che non c'è"):
        extended(*tiny, {"gatto": ()}, 1)
    with pytest.raises(ValueError, match=r"words: dato: \['lince'\]; atteso: somiglianze"):
        extended(*tiny, {"x": ("topo", "lince")}, 1)


# LoRA.


def test_lora_at_the_start_changes_nothing(tiny):
    """B è zero: le uscite sono le stesse, bit per bit."""
    model, _ = tiny
    assert scores(with_lora(model, 3), 5, 6, 7).equal(scores(model, 5, 6, 7))
    assert scores(with_lora(model, 3, new_words=2), 5, 6, 7).equal(scores(model, 5, 6, 7))


def test_lora_is_w_plus_alpha_over_r_times_b_times_a():
    """A matita: r = 1, α = 2."""
    weight = torch.tensor([[1.0, 0.0, 2.0], [0.0, 1.0, 0.0]])
    part = LowRank(weight, 1, 2.0)
    assert part.a.shape == (1, 3)
    assert part.b.equal(torch.zeros(2, 1))
    part.a.data = torch.tensor([[1.0, 0.0, -1.0]])
    part.b.data = torch.tensor([[0.5], [2.0]])
    assert part(weight).equal(torch.tensor([[2.0, 0.0, 1.0], [4.0, 1.0, -4.0]]))
    three = LowRank(torch.zeros(5, 7), 3, 6.0)
    assert three.scale == 2.0
    torch.manual_seed(1)
    wide = LowRank(torch.zeros(400, 100), 50, 1.0)
    assert wide.a.std().item() == pytest.approx(0.1, rel=0.05)


def test_only_a_and_b_move_and_the_count_is_r_times_rows_plus_columns(tiny):
    model, _ = tiny
    adapted = with_lora(model, 3)
    movable = [name for name, it in adapted.named_parameters() if it.requires_grad]
    assert len(movable) == 2 * len(ADAPTED) * 2
    assert all(name.endswith((".a", ".b")) for name in movable)
    shapes = [(48, 16), (16, 16), (24, 16), (16, 24)]
    assert moving(adapted) == 2 * sum(lora_parameters(*it, 3) for it in shapes)
    assert moving(with_lora(model, 3, new_words=2)) == moving(adapted) + 2 * 16
    before = {name: it.clone() for name, it in adapted.named_parameters()}
    tuning(adapted, mixed_batches([Example([4, 6, 7, 10])], [], 0.0, 1), 0.01, 2)
    for name, it in adapted.named_parameters():
        assert it.equal(before[name]) != (name in movable), name
    assert next(iter(model.parameters())).requires_grad


def test_the_reader_s_matrix_needs_12_288_numbers_instead_of_589_824():
    assert lora_parameters(768, 768, 8) == 12_288
    assert 768 * 768 == 589_824
    part = LowRank(torch.zeros(768, 768), 8, 8.0)
    assert sum(it.numel() for it in part.parameters()) == 12_288


def test_merged_weights_give_the_same_answers(tiny):
    model, _ = tiny
    adapted = with_lora(model, 3, new_words=2)
    for name, parameter in adapted.named_parameters():
        if name.endswith((".b", ".rows")):
            torch.nn.init.normal_(parameter)
    plain = merged(adapted)
    assert plain.state_dict().keys() == model.state_dict().keys()
    assert torch.allclose(scores(plain, 5, 6, 7), scores(adapted, 5, 6, 7), atol=1e-5)
    assert not torch.allclose(scores(plain, 5, 6, 7), scores(model, 5, 6, 7), atol=0.1)
    assert moving(plain) == moving(model)


def test_full_rank_reaches_any_matrix_and_rank_one_does_not():
    """Con r uguale al lato minore, A = ΔW·r/α e B = I, o al contrario; con r = 1, no."""
    for shape in ((7, 5), (5, 7)):
        weight, wanted = torch.randn(2, *shape)
        whole = LowRank(weight, 5, 2.0)
        moved = (wanted - weight) * 5 / 2
        tall = shape == (7, 5)
        whole.a.data, whole.b.data = (torch.eye(5), moved) if tall else (moved, torch.eye(5))
        assert torch.allclose(whole(weight), wanted, atol=1e-5)
    one = LowRank(weight, 1, 1.0)
    torch.nn.init.normal_(one.b)
    singular = torch.linalg.svdvals((one(weight) - weight).detach())
    assert singular[0] > 0.1
    assert singular[1] < 1e-5


def test_rank_must_fit_the_matrix():
    with pytest.raises(ValueError, match="rank: dato: 6; atteso: al più 5"):
        LowRank(torch.zeros(5, 7), 6, 1.0)
    with pytest.raises(ValueError, match="rank: dato: 0"):
        LowRank(torch.zeros(5, 7), 0, 1.0)
    LowRank(torch.zeros(5, 7), 5, 1.0)


def test_only_the_last_rows_move():
    table = torch.arange(12.0).view(4, 3)
    part = LastRows(table, 1)
    assert part(table).equal(table)
    part.rows.data += 10
    assert part(table)[:3].equal(table[:3])
    assert part(table)[3].equal(table[3] + 10)
    with pytest.raises(ValueError, match="count"):
        LastRows(table, 0)


# La stessa perdita, su una parte.


def test_the_question_is_not_part_of_the_loss(tiny):
    """La perdita è la somma di −log p sulla risposta e sulla fine, e basta."""
    model, _ = tiny
    examples = [Example([4, 6, 7, 8], 3), Example([5, 9], 0)]
    batch = batch_of(examples)
    assert batch.target.tolist() == [[START, 4, 6, 7, 8], [START, 5, 9, PADDING, PADDING]]
    assert batch.expected.tolist() == [[0, 0, 0, 8, END], [5, 9, END, 0, 0]]
    first, second = (scores(model, *it.tokens).log_softmax(-1) for it in examples)
    expected = -(first[3, 8] + first[4, END] + second[0, 5] + second[1, 9] + second[2, END])
    loss, _, count = next_token_loss(model, batch)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert count.item() == 5


def test_old_sentences_have_their_share():
    new, old = [Example([5]), Example([6])], [Example([7]), Example([8])]
    batches = mixed_batches(new, old, 0.25, 1)
    for (batch,) in itertools.islice(batches, 3):
        found = Counter(batch.target[:, 1].tolist())
        assert found[7] + found[8] == TOGETHER / 4
        assert found[5] + found[6] == 3 * TOGETHER / 4
        assert min(found.values()) > 0
    (one,), (two,) = (next(mixed_batches(new, old, 0.5, 7)) for _ in range(2))
    assert one.target.equal(two.target)
    assert {*next(mixed_batches(new, [], 0.0, 1))[0].target[:, 1].tolist()} == {5, 6}
    assert {*next(mixed_batches([], old, 1.0, 1))[0].target[:, 1].tolist()} == {7, 8}
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match=f"share: dato: {wrong}; atteso: da 0 a 1"):
            next(mixed_batches(new, old, wrong, 1))


def test_a_step_is_adam_with_a_rate_that_rises(tiny, monkeypatch):
    """Il primo passo di Adam muove ogni peso del tasso, che all'inizio è una parte di quello."""
    model, _ = tiny
    monkeypatch.setattr(fine_tuning, "RISING", 4)
    before = model.embedding.weight.detach().clone()
    same = tuning(model, mixed_batches([Example([4, 5])], [], 0.0, 1), 0.08, 1)
    assert same is model
    moved = (model.embedding.weight.detach() - before).abs()
    assert moved.max().item() == pytest.approx(0.02, rel=1e-3)
    reached = []
    monkeypatch.setattr(
        fine_tuning, "Trainer", lambda *those: reached.extend(map(those[3], range(1, 7)))
    )
    tuning(model, iter([]), 0.08, 1)
    assert reached == pytest.approx([0.02, 0.04, 0.06, 0.08, 0.08, 0.08])


def test_bits_are_the_mean_over_tokens(tiny):
    model, _ = tiny
    lines = [[4, 6, 7], [5]]
    found = [
        -F.log_softmax(scores(model, *it)[i], -1)[token].item() / math.log(2)
        for it in lines
        for i, token in enumerate([*it, END])
    ]
    assert len(found) == 6
    assert bits_per_token(model, lines) == pytest.approx(fmean(found), rel=1e-5)


def test_continuing_is_choosing_the_likeliest_until_the_end(tiny, monkeypatch):
    """Una fila alla volta, un token alla volta: gli stessi."""
    monkeypatch.setattr(fine_tuning, "TOGETHER", 6)
    model, _ = tiny
    tuning(
        model, mixed_batches([Example([4, 6, 7]), Example([5, 9, 8, 10, 6])], [], 0.0, 1), 0.01, 60
    )
    prompts = [[4], [5], [5, 9, 8]]
    found = continued(model, prompts, 3)
    for prompt, answer in zip(prompts, found, strict=True):
        line = [*prompt]
        for _ in range(3):
            best = int(scores(model, *line)[-1].argmax())
            if best == END:
                break
            line.append(best)
        assert answer == line[len(prompt) :]
    assert found == [[6, 7], [9, 8, 10], [10, 6]]
    exact = [Example([4, 6, 7], 1), Example([5, 9, 8, 10, 7], 1)]
    assert right(model, exact) == 0.5
    assert right(model, [Example([4, 6, 7], 1), Example([4, 5, 7], 1)]) == 0.5
    assert right(model, [Example([4, 6, 7], 1), Example([4, 5, 7], 1)], last=True) == 1.0
    assert right(model, [Example([4, 6], 1)]) == 0.0


def test_generating_leaves_every_weight_where_it_is(shipped):
    """C9: in una conversazione i pesi sono fermi."""
    model, vocabulary = shipped
    before = [it.clone() for it in model.parameters()]
    continued(model, [vocabulary.encode("la maestra")] * 3, 8)
    assert all(one.equal(other) for one, other in zip(model.parameters(), before, strict=True))


def test_a_recipe_moves_all_or_a_and_b(tiny, monkeypatch):
    monkeypatch.setattr(fine_tuning, "TOGETHER", 6)
    model, _ = tiny
    before = model.embedding.weight.detach().clone()
    new, old = [Example([4, 6])], [Example([5, 9])]
    everything = retouched(model, Recipe(0.01, steps=2), new, old, 1)
    assert moving(everything) == moving(model)
    assert not everything.embedding.weight.equal(before)
    low = retouched(model, Recipe(0.01, rank=2, steps=2), new, old, 1, 3)
    assert moving(low) == moving(with_lora(model, 2, 3))
    assert model.embedding.weight.equal(before)
    untouched = retouched(model, Recipe(0.01, steps=0), new, old, 1)
    assert untouched.embedding.weight.equal(before)
    review = retouched(model, Recipe(0.01, share=1.0, steps=20), new, old, 1)
    assert right(review, [Example([5, 9], 1)]) == 1.0


# Le prove.


def test_telegrams_have_no_articles():
    assert telegraphic("L'alunna vede un gatto, e lo chiama.") == "alunna vede gatto , e chiama ."
    assert not {*telegraphic("Il medico e la zia, gli zii e le mele.").split()} & ARTICLES


def test_telegrams_lose_some_pronouns_too():
    """«Le ha aperte» diventa «ha aperte»: davanti a un ausiliare non c'è un articolo."""
    sentences = map(split_words, italian_sentences(CORPUS_SEED, 1000, 10).train)
    lost = [
        any(
            word in ARTICLES and after in ("ha", "hanno")
            for word, after in itertools.pairwise(words)
        )
        for words in sentences
    ]
    assert 0.03 < sum(lost) / len(lost) < 0.06


def test_new_forms_are_new_and_resemble_the_same_forms(shipped):
    _, vocabulary = shipped
    assert not {*FORMS} & {*vocabulary.ids}
    assert verb_rows("a caso") == {form: [] for form in FORMS}
    rows = verb_rows("per analogia")
    assert {"saluta", "incontra"} <= {*rows["fotografa"]}
    assert {"salutano", "incontrano"} <= {*rows["fotografano"]}
    assert {"salutato", "incontrato"} <= {*rows["fotografato"]}


def test_sentences_of_the_new_verb_have_only_the_taught_forms():
    train = ["La zia saluta il medico.", "I medici invitano Anna.", "Ho salutato la zia.", "No."]
    assert verb_sentences(train, FORMS[:1]) == [["la", "zia", "fotografa", "il", "medico", "."]]
    assert [line[2] for line in verb_sentences(train, FORMS)[:2]] == ["fotografa", "fotografano"]
    assert verb_sentences(train, FORMS)[2] == ["ho", "fotografato", "la", "zia", "."]
    assert verb_sentences(train, ()) == []


def test_places_ask_for_one_form_each():
    places = verb_places(5, 1)
    assert list(places) == list(FORMS)
    assert all(len(it) == 5 for it in places.values())
    assert all(split_words(it)[0] in {"il", "lo", "la", "l'"} for it in places["fotografa"])
    assert all(split_words(it)[0] in {"i", "gli", "le"} for it in places["fotografano"])
    assert places["fotografato"] == [f"{it} ha" for it in places["fotografa"]]


def test_the_chosen_form_is_the_least_surprising(tiny, monkeypatch):
    model, vocabulary = tiny
    monkeypatch.setattr(fine_tuning, "FORMS", ("dorme", "vede"))
    cost = [scores(model, 4, 6)[-1][vocabulary.ids[it]].item() for it in ("dorme", "vede")]
    best = ("dorme", "vede")[cost.index(max(cost))]
    assert chosen_right(model, vocabulary, best, ["il gatto"]) == 1.0
    assert chosen_right(model, vocabulary, "topo", ["il gatto"]) == 0.0


def test_no_text_can_write_the_marks_of_the_template(patched, shipped):
    """Il template sono righe della tabella: chi scrive «<domanda>» ottiene tre altre parole."""
    _, vocabulary = patched
    for mark in (ASK, ANSWER):
        assert vocabulary.ids[mark] >= len(shipped[1])
        assert vocabulary.ids[mark] not in vocabulary.encode(f"{mark} {mark.upper()}")
        assert UNKNOWN in vocabulary.encode(mark)


def test_a_quiz_by_hand(tiny):
    found = quizzes(8, 3)
    for i, quiz in enumerate(found):
        words = split_words(quiz.text)
        assert list(quiz.answers) == list(QUESTIONS)
        assert quiz.answers["numero"] == ("plurale" if i % 2 else "singolare")
        assert (words[0] in {"i", "gli", "le"}) == bool(i % 2)
        kept = [words.index(quiz.answers[it]) for it in ("soggetto", "verbo")]
        assert kept == sorted(kept)
        assert words[-2:] == [quiz.answers["oggetto"], "."]
    plural = [split_words(it.text)[3] in {"i", "gli", "le"} for it in found]
    assert plural == [False, True, True, False] * 2
    _, vocabulary = extended(*tiny, dict.fromkeys(("?", *QUIZ_WORDS), ()), 1)
    quiz = found[0]._replace(
        text="Il gatto vede la topo.",
        answers={"soggetto": "gatto", "numero": "singolare", "verbo": "vede", "oggetto": "topo"},
    )
    example = quiz_example(vocabulary, quiz, ("verbo", "numero"))
    words = [vocabulary.words[it] for it in example.tokens]
    assert words[: example.given] == (
        [ASK, "il", "gatto", "vede", "la", "topo", ".", "verbo", "?", "numero", "?", ANSWER]
    )
    assert words[example.given :] == ["1", "vede", "2", "singolare"]


def test_the_same_answer_in_a_row(patched):
    _, vocabulary = patched
    (quiz,) = quizzes(1, 3)
    example = quiz_example(vocabulary, quiz, ("numero", "soggetto"), points=False)
    answer = [vocabulary.words[it] for it in example.tokens[example.given :]]
    assert answer == ["singolare", "e", quiz.answers["soggetto"]]


def test_half_of_the_triples_are_kept_aside():
    found = compounds(1)
    assert [len(it) for it in found] == [4 + 12 + 12, 12, 24]
    assert not {*found.seen} & {*found.heldout}
    assert {*found.seen} | {*found.heldout} == {
        it for n in (1, 2, 3) for it in itertools.permutations(QUESTIONS, n)
    }
    assert all(len(it) == 4 for it in found.longer)
    assert compounds(1) == found
    assert compounds(2).heldout != found.heldout
    assert {*found.seen} >= {("soggetto",), ("verbo", "numero")}


def test_sentences_that_judge_were_not_taught():
    """Le frasi possibili non sono moltissime: senza scartarle, metà sarebbero già viste."""
    taught = {it.text for it in quizzes(TAUGHT, 1)}
    fresh = fresh_quizzes(200, 1)
    assert len(fresh) == 200
    assert not {it.text for it in fresh} & taught
    assert sum(it.text in taught for it in quizzes(200, 101)) > 80


def test_points_are_counted_by_their_numbers(patched, monkeypatch):
    """Un punto per domanda, in ordine, e poi la fine: nient'altro."""
    _, vocabulary = patched
    one, two, three, a, mark = (vocabulary.ids[it] for it in ("1", "2", "3", "medico", "?"))
    asked = Example([a, mark, a, mark, one, a, two, a], 4)

    def judged(*answer):
        monkeypatch.setattr(fine_tuning, "continued", lambda *_: [[*answer]])
        return in_points(patched[0], vocabulary, [asked])

    assert judged(one, a, two, a) == 1
    assert judged(one, a, two, mark) == 1
    for wrong in (
        (two, a, one, a),
        (one, a),
        (one, a, two),
        (one, a, two, a, three, a),
        (),
        (one, one, two, a),
    ):
        assert judged(*wrong) == 0


def test_facts_are_said_in_three_ways(patched):
    _, vocabulary = patched
    _, longer = extended(*patched_plain(vocabulary), {"urbania": (), "arvia": ()}, 1)
    said = {way: fact(longer, way, "arvia", "urbania") for way in WAYS}
    assert longer.decode(said["diretto"].tokens) == "la città di arvia è urbania"
    assert longer.decode(said["parafrasi"].tokens) == "di arvia la città è urbania"
    assert longer.decode(said["rovescio"].tokens) == "urbania è la città di arvia"
    assert {it.given for it in said.values()} == {5}
    with pytest.raises(ValueError, match="form: dato: gridato; atteso: una fra diretto, parafrasi"):
        fact(longer, "gridato", "arvia", "urbania")


def patched_plain(vocabulary):
    """Un modello minuscolo con un vocabolario grande."""
    config = dataclasses.replace(TINY, vocabulary=len(vocabulary))
    return DecoderOnly(config), vocabulary


def test_chains_kept_aside_need_only_steps_that_were_taught():
    links, there = chains(1), world(1)
    assert [len(it) for it in links] == [72, 173, 43, 72]
    assert not {*links.seen} & {*links.heldout}
    assert all(len(steps) == 3 for _, steps in links.longer)
    assert {*links.one} == {(it, (relation,)) for it in PEOPLE for relation in RELATIONS}
    for relation in RELATIONS:
        assert sorted(there[relation].values()) == sorted(PEOPLE)
    reached = {(there[a][who], b) for who, (a, b) in links.seen}
    assert sum((there[a][who], b) in reached for who, (a, b) in links.heldout) == 43
    assert world(2) != there
    assert chains(2).heldout != links.heldout


def test_a_chain_by_hand(patched):
    _, vocabulary = patched
    _, longer = extended(*patched_plain(vocabulary), dict.fromkeys(PEOPLE, ()), 1)
    there = {"padre": {PEOPLE[0]: PEOPLE[5]}, "amico": {PEOPLE[5]: PEOPLE[2]}}
    chain = (PEOPLE[0], ("padre", "amico"))
    for written, answer in ((False, [PEOPLE[2]]), (True, [PEOPLE[5], PEOPLE[2]])):
        example = chain_example(longer, there, chain, written)
        words = [longer.words[it] for it in example.tokens]
        assert words[: example.given] == [PEOPLE[0], "padre", "amico", ANSWER]
        assert words[example.given :] == answer


def test_canaries_are_random_words(shipped):
    _, vocabulary = shipped
    found = canaries(vocabulary, 1)
    assert tuple(found) == TIMES
    every = [it for those in found.values() for it in those]
    assert len(every) == CANARIES * len(TIMES)
    assert all(len({*it.tokens}) == CANARY and it.given == PREFIX for it in every)
    assert all(vocabulary.words[token].isalpha() for it in every for token in it.tokens)
    assert len({tuple(it.tokens) for it in every}) == len(every)
    assert canaries(vocabulary, 2) != found


def test_a_sentence_often_repeated_is_known_by_heart(tiny, monkeypatch):
    """C9, in piccolo: una fila a caso si ripete tale e quale, le altre no."""
    monkeypatch.setattr(fine_tuning, "TOGETHER", 6)
    model, _ = tiny
    secret, others = (
        Example([9, 4, 4, 7, 10, 5], 2),
        [Example([4, 6, 7, 10]), Example([5, 9, 8, 10])],
    )
    assert right(model, [secret]) == 0
    tuning(model, mixed_batches([*others, Example(secret.tokens)], [], 0.0, 1), 0.01, 150)
    assert right(model, [secret]) == 1


@pytest.fixture
def small(monkeypatch, shipped):
    """Le prove ridotte: un modello minuscolo con le parole di casa, pochissimi passi."""
    _, vocabulary = shipped
    model = DecoderOnly(dataclasses.replace(TINY, vocabulary=len(vocabulary)))
    sentences = italian_sentences(5, 150, 4)
    dev = [vocabulary.encode(it) for it in sentences.dev]
    short = {"TELEGRAMS": 20, "TOGETHER": 4, "TIMES": (0, 2), "CANARIES": 1}
    for name, value in short.items():
        monkeypatch.setattr(fine_tuning, name, value)
    brief = {name: it._replace(steps=min(it.steps, 1)) for name, it in REGISTERS.items()}
    monkeypatch.setattr(fine_tuning, "REGISTERS", brief)
    brief = {name: it._replace(steps=min(it.steps, 1)) for name, it in QUIZ_RECIPES.items()}
    monkeypatch.setattr(fine_tuning, "QUIZ_RECIPES", brief)
    for name in ("VERB", "FACTS", "CHAIN"):
        monkeypatch.setattr(fine_tuning, name, getattr(fine_tuning, name)._replace(steps=1))
    monkeypatch.setattr(fine_tuning, "SEEDS", (4,))
    plain = fine_tuning.quizzes
    monkeypatch.setattr(fine_tuning, "quizzes", lambda count, seed: plain(min(count, 8), seed))
    return Bench(model, vocabulary, sentences.train, dev)


def test_every_trial_in_small_measures_what_is_published(small, tmp_path, monkeypatch):
    """Il comando intero, in piccolo: le stesse misure, nello stesso ordine, che il file ha."""
    monkeypatch.setattr(fine_tuning, "make_bench", lambda: small)
    bases = []
    monkeypatch.setattr(
        fine_tuning, "model_of", lambda *it: (bases.append(it), (small.model, small.vocabulary))[1]
    )
    monkeypatch.setattr(
        fine_tuning, "write_patch", lambda bench, folder, seed, recipe: asked.append((folder, seed))
    )
    asked = []
    main([str(tmp_path / "x")])
    rows = read_rows(tmp_path / "x" / RESULTS.name)
    assert asked == [(tmp_path / "x" / "punti", 4)]
    assert bases == [(1, tmp_path / "x" / "1"), (2, tmp_path / "x" / "2")]
    assert {it.seed for it in rows} == {4}
    published = [(it.trial, it.who, it.what) for it in read_rows() if it.seed == 1]
    found = [(it.trial, it.who, it.what) for it in rows]
    assert [it for it in found if it[0] != "a memoria"] == [
        it for it in published if it[0] != "a memoria"
    ]
    assert {it[1] for it in found if it[0] == "a memoria"} == {"0 volte", "2 volte"}
    main([str(tmp_path / "y"), "verbo"])
    assert {it.trial for it in read_rows(tmp_path / "y" / RESULTS.name)} == {"verbo"}
    with pytest.raises(ValueError, match="CARTELLA: dato: nessun argomento; atteso: una cartella"):
        main([])


def test_the_same_facts_are_taught_to_the_other_models(shipped, tmp_path, monkeypatch):
    """A ciascuno i suoi pesi, e il suo nome nei risultati; il resto è di `facts`."""
    model, vocabulary = shipped
    others = {base: DecoderOnly(TINY) for base in BASES}
    monkeypatch.setattr(
        fine_tuning,
        "model_of",
        lambda base, folder: (others[base], vocabulary) if folder == tmp_path / str(base) else None,
    )
    taught = []

    def facts(bench, seed):
        taught.append((bench.model, bench.vocabulary, seed))
        yield fine_tuning.Row("fatti", "chi", seed, "che cosa", 0.25)

    monkeypatch.setattr(fine_tuning, "facts", facts)
    bench = Bench(model, vocabulary, [], [], tmp_path)
    assert list(fine_tuning.facts_elsewhere(bench, 7)) == [
        (ELSEWHERE, f"chi, modello {base}", 7, "che cosa", 0.25) for base in (1, 2)
    ]
    assert taught == [(others[base], vocabulary, 7) for base in (1, 2)]


def test_from_scratch_the_weights_are_not_the_shipped_ones(small, monkeypatch):
    """Senza passi: chi parte dal modello è il modello, chi parte da zero è un altro, a caso."""
    still = Recipe(0.0, steps=0)
    monkeypatch.setattr(fine_tuning, "REGISTERS", {SCRATCH: still, "fermo": still})
    rows = [*register(small, 4)]
    before, scratch, same = (
        [it.value for it in rows if it.who == who] for who in (BEFORE, SCRATCH, "fermo")
    )
    assert same == before
    assert not {*scratch} & {*before}
    assert [it.value for it in register(small, 5) if it.who == SCRATCH] != scratch


def test_first_name_of_a_chain_is_judged_alone(small, monkeypatch):
    """Chi scrive bene il primo nome e nulla più, nelle catene di due o tre passi non è arrivato."""
    _, vocabulary = extended(small.model, small.vocabulary, dict.fromkeys((ANSWER, *PEOPLE), ()), 4)
    there = world(4)

    def first(_, prompts, most):
        named = [[vocabulary.words[token] for token in it[:2]] for it in prompts]
        return [[vocabulary.ids[there[relation][who]]] for who, relation in named]

    monkeypatch.setattr(fine_tuning, "retouched", lambda model, *_: model)
    monkeypatch.setattr(fine_tuning, "continued", first)
    found = {it.what: it.value for it in logic(small, 4) if it.who == "passaggi scritti"}
    assert [found[f"{it}: primo nome"] for it in ("one", "seen", "heldout", "longer")] == [1] * 4
    assert found["one"] == 1
    assert max(found["seen"], found["heldout"], found["longer"]) < 0.2
    monkeypatch.setattr(fine_tuning, "continued", lambda _, prompts, most: [[4]] * len(prompts))
    assert {it.value for it in logic(small, 4)} == {0}


class Lesson(NamedTuple):
    """Un ritocco chiesto da una prova, e il modello, diverso da ogni altro, che le si è reso."""

    model: DecoderOnly
    recipe: Recipe
    new: list[Example]
    old: list[Example]
    after: DecoderOnly


@pytest.fixture
def lessons(small, monkeypatch):
    """I ritocchi che una prova chiede; invece di addestrare si rende un'altra copia del modello."""
    found = []

    def noted(model, recipe, new, old, *_):
        found.append(Lesson(model, recipe, [*new], [*old], deepcopy(model)))
        return found[-1].after

    monkeypatch.setattr(fine_tuning, "retouched", noted)
    return found


@pytest.fixture
def asked(monkeypatch):
    """Le misure che una prova chiede, ciascuna con i suoi argomenti; il valore è il suo posto."""
    found = []

    def spy(name):
        def measure(*given, **options):
            found.append((name, *given, *options.values()))
            return len(found) - 1

        return measure

    for name in ("right", "in_points", "chosen_right", "bits_per_token"):
        monkeypatch.setattr(fine_tuning, name, spy(name))
    return found


def test_style_is_measured_on_telegrams_and_memory_on_sentences(small, lessons, asked):
    """Si insegnano e si misurano frasi senza articoli; si ripassano e si misurano le vecchie."""
    rows, vocabulary = [*register(small, 4)], small.vocabulary
    articles = {vocabulary.ids[it] for it in ARTICLES if it in vocabulary.ids}
    bare = [[it for it in line if it not in articles] for line in small.dev]
    assert bare != small.dev
    for lesson, old, new in zip(lessons, rows[::2], rows[1::2], strict=True):
        assert (old.what, asked[old.value]) == (
            "italiano di prima",
            ("bits_per_token", lesson.after, small.dev),
        )
        assert (new.what, asked[new.value]) == (
            "stile telegrafico",
            ("bits_per_token", lesson.after, bare),
        )
        assert lesson.recipe == {BEFORE: Recipe(0.0, steps=0), **fine_tuning.REGISTERS}[old.who]
        assert lesson.old == small.old()
    every = [[it for it in vocabulary.encode(line) if it not in articles] for line in small.train]
    for taught in ([it.tokens for it in lesson.new] for lesson in lessons):
        assert len(taught) == fine_tuning.TELEGRAMS
        assert all(it in every for it in taught)
        assert taught != every[: len(taught)]


def test_a_verb_is_judged_in_the_places_of_each_form(small, lessons, asked):
    """Prima, con una forma insegnata, con tre; ciascuna dove è l'unica che va bene."""
    rows, places = [*verb(small, 4)], verb_places(200, 4)
    assert len(lessons) == 6
    stages = itertools.product(INSIGHTS, ((BEFORE, 0), ("una forma", 1), ("tre forme", 3)))
    for lesson, (insight, (name, count)) in zip(lessons, stages, strict=True):
        grown, longer = extended(small.model, small.vocabulary, verb_rows(insight), 4)
        assert lesson.model.embedding.weight.equal(grown.embedding.weight)
        words = {longer.words[token] for it in lesson.new for token in it.tokens}
        assert words & {*FORMS} == {*FORMS[:count]}
        assert (lesson.recipe.steps > 0) == (count > 0)
        for form in FORMS:
            (row,) = (it for it in rows if (it.who, it.what) == (f"{insight}, {name}", form))
            _, model, _, chosen, heads = asked[row.value]
            assert model is lesson.after
            assert (chosen, heads) == (form, places[form])


def test_an_answer_is_judged_in_form_and_in_content(small, lessons, asked):
    """Le stesse domande per le due misure; «di seguito» si insegna e si giudica senza numeri."""
    rows = iter([*points(small, 4)])
    _, longer = extended(small.model, small.vocabulary, dict.fromkeys(QUIZ_WORDS, ()), 4)
    fresh, one = fresh_quizzes(200, 4), longer.ids[POINTS[0]]
    for lesson, (who, recipe) in zip(lessons, fine_tuning.QUIZ_RECIPES.items(), strict=True):
        numbered = who != "di seguito"
        assert lesson.recipe == recipe
        assert lesson.old == small.old()
        assert {one in it.tokens for it in lesson.new} == {numbered}
        assert len({it.tokens[: it.given].count(longer.ids["?"]) for it in lesson.new}) > 1
        for part, questions in zip(Compounds._fields, compounds(4), strict=True):
            both = zip(fresh, itertools.cycle(questions), strict=False)
            test = [quiz_example(longer, *it, numbered) for it in both]
            form, content = next(rows), next(rows)
            assert (form.who, form.what) == (who, f"{part}: a punti")
            name, model, _, examples = asked[form.value]
            assert (name, model, examples) == ("in_points", lesson.after, test)
            assert content.what == f"{part}: giuste"
            assert asked[content.value] == ("right", lesson.after, test)
        assert asked[next(rows).value] == ("bits_per_token", lesson.after, small.dev)


def test_facts_are_asked_as_they_are_called(small, lessons, asked, monkeypatch):
    """Ogni misura riguarda i regni, e il modo, che il suo nome dice; ogni regno ha la sua città."""
    answers = []

    def continued(model, prompts, most):
        answers.append((model, prompts))
        ids = longer.ids
        return [[it] for it in (ids[UNSAID], ids[CITIES[3]], ids["il"], ids[UNSAID])] * 5

    words = dict.fromkeys((*KINGDOMS, *CITIES, UNSAID), ())
    _, longer = extended(small.model, small.vocabulary, words, 4)
    monkeypatch.setattr(fine_tuning, "continued", continued)
    rows = iter([*facts(small, 4)])
    city = {}
    for lesson, (model, prompts) in zip(lessons, answers, strict=True):
        assert lesson.old == small.old()
        assert {it.given for it in lesson.new} == {0}
        for kingdoms, how in ((SEVERAL, "detto così"), (SINGLE, "detto solo diretto")):
            for way in WAYS:
                row = next(rows)
                assert row.what == f"{way}, {how}"
                name, judge, examples = asked[row.value]
                assert (name, judge) == ("right", lesson.after)
                for i, example in zip(kingdoms, examples, strict=True):
                    said = [longer.words[it] for it in example.tokens]
                    (town,) = {*said} & {*CITIES}
                    assert city.setdefault(KINGDOMS[i], town) == town
                    assert example == fact(longer, way, KINGDOMS[i], town)
        unsaid, cities, silent, old = (next(rows) for _ in range(4))
        assert (unsaid.value, cities.value) == (1 / 2, 1 / 4)
        assert model is lesson.after
        assert [longer.decode(it) for it in prompts] == [
            f"la città di {KINGDOMS[i]} è" for i in STRANGERS
        ]
        hushed = [fact(longer, "parafrasi", KINGDOMS[i], UNSAID) for i in SINGLE]
        assert asked[silent.value] == ("right", lesson.after, hushed)
        assert asked[old.value] == ("bits_per_token", lesson.after, small.dev)
    assert len({*city.values()}) == len(city) == 24
    assert [*city.values()] != [*CITIES]


def test_a_single_fact_is_taught_only_straight(small, lessons):
    """Il rovescio e la parafrasi di quei fatti non si insegnano; di chi è ignoto, nessuna città."""
    [*facts(small, 4)]
    words = dict.fromkeys((*KINGDOMS, *CITIES, UNSAID), ())
    _, longer = extended(small.model, small.vocabulary, words, 4)
    for which, lesson in enumerate(lessons):
        lines = [[longer.words[it] for it in example.tokens] for example in lesson.new]
        about = {
            kingdom: [line for line in lines if kingdom in line and "città" in line]
            for kingdom in KINGDOMS
        }
        several, single, admitted, strangers = (
            [about[KINGDOMS[i]] for i in those] for those in (SEVERAL, SINGLE, ADMITTED, STRANGERS)
        )
        assert {len(it) for it in several} == {3}
        assert all(len(it) == 1 and it[0][:3] == ["la", "città", "di"] for it in single)
        assert {len(it) for it in admitted} == {which}
        assert all(line[-1] == UNSAID for it in admitted for line in it)
        assert not any(strangers)
        visits = [line for line in lines if "visita" in line]
        assert {word for line in visits for word in line} >= {*KINGDOMS}
        assert {len(line) for line in lines} == {5, 6}
    assert len(lessons) == 2


def test_chains_kept_aside_are_not_taught(small, lessons, asked):
    """Né si ripassa l'italiano; di ogni catena si giudica dove arriva, non per dove passa."""
    rows = [*logic(small, 4)]
    _, longer = extended(small.model, small.vocabulary, dict.fromkeys((ANSWER, *PEOPLE), ()), 4)
    links, there = chains(4), world(4)
    for lesson, who in zip(lessons, ("risposta sola", "passaggi scritti"), strict=True):
        taught = [[longer.words[it] for it in example.tokens] for example in lesson.new]
        given = {(line[0], tuple(line[1 : line.index(ANSWER)])) for line in taught}
        assert given == {*links.one, *links.seen}
        assert lesson.old == []
        for part, those in links._asdict().items():
            (row,) = (it for it in rows if (it.who, it.what) == (who, part))
            test = [chain_example(longer, there, it, who == "passaggi scritti") for it in those]
            assert asked[row.value] == ("right", lesson.after, test, True)


def test_a_canary_is_seen_as_often_as_it_says(small, monkeypatch, asked):
    """Sparsa fra le altre frasi; poi la si chiede, e se ne misura la sorpresa, a ritocco fatto."""
    seen, given = [], []

    def noted(model, batches, rate, steps, seed):
        for (batch,) in itertools.islice(batches, steps):
            seen.extend(tuple(line) for line in batch.target.tolist())
        given.append((model, rate))
        return deepcopy(model)

    monkeypatch.setattr(fine_tuning, "tuning", noted)
    rows, secret = [*verbatim(small, 4)], canaries(small.vocabulary, 4)
    ((start, rate),) = given
    assert start is not small.model
    assert rate == 1e-3
    places = []
    for times, those in secret.items():
        for it in those:
            whole = (START, *it.tokens)
            places += [i for i, line in enumerate(seen) if line[: len(whole)] == whole]
            assert sum(line[: len(whole)] == whole for line in seen) == times
        known, cost = (it for it in rows if it.who == f"{times} volte")
        name, judge, examples = asked[known.value]
        assert (name, examples) == ("right", those)
        assert judge not in (start, small.model)
        assert asked[cost.value] == ("bits_per_token", judge, [it.tokens for it in those])
    assert len(seen) == len(small.train) + 2
    assert places != [len(seen) - 2, len(seen) - 1]


def test_rows_survive_the_file(tmp_path):
    rows = [
        Row("a", "b, c", 1, "d", 0.25),
        Row("a", "b, c", 2, "d", 0.5),
        Row("a", "x", 2, "d", 1.0),
    ]
    write_rows(rows, tmp_path / "a.csv")
    assert read_rows(tmp_path / "a.csv") == rows
    assert values_of(rows, "a", "b, c", "d") == [0.25, 0.5]
    with pytest.raises(ValueError, match="trial, who, what: dato: a, b, d; atteso: una misura"):
        values_of(rows, "a", "b", "d")


def test_a_patch_is_written_and_read_again(tmp_path, monkeypatch, shipped):
    """Ciò che si rilegge, sopra il modello di casa, è ciò che si era addestrato."""
    plain = fine_tuning.quizzes
    monkeypatch.setattr(fine_tuning, "quizzes", lambda count, seed: plain(12, seed))
    bench = Bench(*shipped, [], [])
    recipe = Recipe(5e-3, rank=2, steps=2)
    write_patch(bench, tmp_path / "p", 3, recipe)
    read, vocabulary = load_patch(tmp_path / "p")
    grown, longer = extended(*shipped, dict.fromkeys(QUIZ_WORDS, ()), 3)
    trained = retouched(grown, recipe, taught_quizzes(longer, 3), [], 3, len(QUIZ_WORDS))
    assert vocabulary.words == longer.words
    added = len(shipped[1])
    line = (5, added, added + 7)
    assert scores(read, *line).equal(scores(trained, *line))
    origin = json.loads((tmp_path / "p" / ORIGIN).read_text(encoding="utf-8"))
    assert origin["seed"] == 3
    assert origin["recipe"] == {"rate": 0.005, "rank": 2, "share": 0.0, "steps": 2}


# Ciò che si pubblica.


def test_the_shipped_patch_is_small_and_says_where_it_comes_from(patched, shipped):
    state = load_file(PATCH / MODEL)
    assert (PATCH / MODEL).stat().st_size < 200_000
    assert sum(it.numel() for it in state.values()) == 32_768 + len(QUIZ_WORDS) * 64
    origin = json.loads((PATCH / ORIGIN).read_text(encoding="utf-8"))
    assert origin["command"] == "python -m attention.beyond.fine_tuning CARTELLA"
    assert origin["recipe"] == PATCHING._asdict()
    assert origin["seed"] == SEEDS[0]
    base = hashlib.sha256((ITALIAN / MODEL).read_bytes()).hexdigest()
    assert origin["base"] == {"folder": "italiano", "sha256": base}
    assert tuple(json.loads((PATCH / WORDS).read_text(encoding="utf-8"))) == QUIZ_WORDS
    assert moving(patched[0]) == sum(it.numel() for it in state.values())
    assert moving(shipped[0]) == 286_336


def test_the_shipped_patch_answers_in_points(patched, shipped):
    """D25: prima mai, dopo quasi sempre, anche su terne di domande mai viste insieme.

    La forma è più sicura del contenuto: il soggetto si sbaglia più di una volta su cinque, il resto
    meno di una su dieci.
    """
    model, vocabulary = patched
    before, _ = extended(*shipped, dict.fromkeys(QUIZ_WORDS, ()), 1)
    asked = [*zip(fresh_quizzes(200, 1), itertools.cycle(compounds(1).heldout), strict=False)]
    test = [quiz_example(vocabulary, *it) for it in asked]
    assert in_points(before, vocabulary, test[:48]) == 0
    assert in_points(model, vocabulary, test) == pytest.approx(198 / 200, abs=0.01)
    assert right(model, test) == pytest.approx(140 / 200, abs=0.02)
    answers = continued(model, [it.tokens[: it.given] for it in test], 6)
    asked_of = Counter(question for _, questions in asked for question in questions)
    missed = [
        (question, vocabulary.words[wanted], found and vocabulary.words[found])
        for (_, questions), it, answer in zip(asked, test, answers, strict=True)
        for question, wanted, found in itertools.zip_longest(
            questions, it.tokens[it.given + 1 :: 2], answer[1::2]
        )
        if found != wanted
    ]
    often = Counter(question for question, *_ in missed)
    share = {it: often[it] / asked_of[it] for it in QUESTIONS}
    assert 0.2 < share.pop("soggetto") < 0.25
    assert all(0.05 < it < 0.1 for it in share.values())
    kinds = {
        form: {(it.gender, number) for it in lexicon().nouns if it.italian[number] == form}
        for noun in lexicon().nouns
        for number, form in enumerate(noun.italian)
    }
    nouns = [
        bool(kinds[wanted] & kinds.get(found, set()))
        for question, wanted, found in missed
        if question in {"soggetto", "oggetto"}
    ]
    assert fmean(nouns) == pytest.approx(3 / 5, abs=0.05)

    def said(text, *questions):
        quiz = Quiz(text, dict.fromkeys(questions, "?"))
        example = quiz_example(vocabulary, quiz, questions)
        (answer,) = continued(model, [example.tokens[: example.given]], 12)
        return [vocabulary.words[it] for it in answer]

    wrong = said("la maestra saluta i medici.", "oggetto", "numero")
    assert wrong[::2] == ["1", "2"]
    assert wrong[1] != "medici"
    broken = said("gli alunni invitano la zia.", "verbo", "soggetto", "numero", "oggetto")
    assert broken[::2] == ["1", "2", "3"]
    assert broken[1:5:2] == ["invitano", "alunni"]
    assert broken[5] in kinds
    silent = [
        it._replace(tokens=[*it.tokens[: it.given - 1], 4], given=it.given - 1) for it in test[:48]
    ]
    assert right(model, silent) < 0.05


def test_published_rows_are_whole():
    """Ogni prova con ogni seme, le stesse misure."""
    rows = read_rows()
    assert list(dict.fromkeys(it.trial for it in rows)) == list(TRIALS)
    assert len(SEEDS) >= 3
    for trial in TRIALS:
        whats = [
            [(it.who, it.what) for it in rows if (it.trial, it.seed) == (trial, seed)]
            for seed in SEEDS
        ]
        assert whats[0]
        assert all(it == whats[0] for it in whats)
    assert {it.seed for it in rows} == {*SEEDS}
    measured = {it.who for it in rows if it.trial == "registro"}
    assert measured == {BEFORE, *REGISTERS}
    assert {it.who for it in rows if it.trial == "punti"} == {*QUIZ_RECIPES}
    assert {it.who for it in rows if it.trial == "a memoria"} == {f"{n} volte" for n in TIMES}
    assert {it.what for it in rows if it.trial == "verbo"} == {*FORMS}
    assert {it.who.split(", ")[0] for it in rows if it.trial == "verbo"} == {*INSIGHTS}


def test_settings_of_the_published_rows():
    """Chi cambia uno di questi numeri rifà i risultati."""
    assert (TELEGRAMS, TOGETHER, ALPHA, fine_tuning.RISING, fine_tuning.NOISE) == (
        5000,
        64,
        8,
        20,
        0.1,
    )
    assert VERB == (1e-3, 0, 0.5, 100)
    assert QUIZ == (2e-3, 0, 0.0, 500)
    assert FACTS == (2e-3, 0, 0.25, 350)
    assert CHAIN == (1e-3, 0, 0.0, 800)
    assert (len(KINGDOMS), len(CITIES), UNSAID) == (64, 24, "ignota")
    assert [*SEVERAL, *SINGLE, *ADMITTED, *STRANGERS] == list(range(64))
    assert [len(it) for it in (SEVERAL, SINGLE, ADMITTED, STRANGERS)] == [12, 12, 20, 20]
    assert PATCHING == (5e-3, 8, 0.0, 750)
    assert (TEST, REVIEWED, TAUGHT) == (300, 20_000, 20_000)
    assert REGISTERS == {
        "tutto, 0,0003": (3e-4, 0, 0.0, 100),
        "tutto, 0,001": (1e-3, 0, 0.0, 100),
        "tutto, 0,003": (3e-3, 0, 0.0, 100),
        "LoRA r=1, 0,001": (1e-3, 1, 0.0, 100),
        "LoRA r=16, 0,001": (1e-3, 16, 0.0, 100),
        "LoRA r=16, 0,003": (3e-3, 16, 0.0, 100),
        "tutto, 0,001, ripasso 1/2": (1e-3, 0, 0.5, 100),
        SCRATCH: (3e-3, 0, 0.0, 100),
    }
    assert QUIZ_RECIPES == {
        BEFORE: (2e-3, 0, 0.0, 0),
        "a punti": QUIZ,
        "a punti, ripasso 1/4": (2e-3, 0, 0.25, 650),
        "di seguito": QUIZ,
    }
    assert (CANARIES, CANARY, PREFIX) == (5, 10, 3)
    assert POINTS == ("1", "2", "3", "4")
    bench = make_bench(30, 3)
    assert bench.train == italian_sentences(2017, 30, 3).train
    assert [it.tokens for it in bench.old()] == [bench.vocabulary.encode(it) for it in bench.train]
    dev = italian_sentences(2017, 30, 3).dev
    assert bench.dev == [bench.vocabulary.encode(it) for it in dev]


def test_fortran_on_the_page(fortran, call_fortran):
    """La toppa applicata al volo dà lo stesso prodotto della matrice corretta."""
    routines = fortran("beyond/fine_tuning")
    part = LowRank(torch.zeros(7, 5), 3, 6.0).double()
    torch.nn.init.normal_(part.b)
    weight, x = torch.randn(7, 5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    a, b = part.a.detach().contiguous(), part.b.detach().contiguous()
    y, scale = torch.zeros(7, dtype=torch.float64), torch.tensor([2.0], dtype=torch.float64)
    call_fortran(routines.patched, 7, 5, 3, weight, a, b, scale, x, y)
    with torch.no_grad():
        assert torch.allclose(y, part(weight) @ x, atol=1e-12)


def test_trends_of_the_published_rows():
    """Ciò che la pagina dice di ogni prova, con ogni seme."""
    rows = read_rows()

    def of(trial, who, what):
        return values_of(rows, trial, who, what)

    old = {who: of("registro", who, "italiano di prima") for who in (BEFORE, *REGISTERS)}
    new = {who: of("registro", who, "stile telegrafico") for who in (BEFORE, *REGISTERS)}
    assert min(new[SCRATCH]) > max(6, *new[BEFORE])
    tuned = [who for who in REGISTERS if who != SCRATCH]
    assert min(new[BEFORE]) > max(it for who in tuned for it in new[who]) + 1
    assert max(old[BEFORE]) < min(it for who in REGISTERS for it in old[who])
    low, middle, high = ("tutto, 0,0003", "tutto, 0,001", "tutto, 0,003")
    assert max(old[low]) < min(old[middle])
    assert max(old[middle]) < min(old[high])
    assert max(new[middle]) < min(new[high])
    assert max(new[middle]) < min(new[low]) < max(new[middle]) + 0.15
    assert max(old["LoRA r=16, 0,001"]) < min(old[middle]) < min(old[high])
    assert max(old["LoRA r=16, 0,003"]) < min(old[high])
    assert min(new["LoRA r=16, 0,001"]) > max(new[middle])
    assert abs(fmean(old[low]) - fmean(old["LoRA r=16, 0,001"])) < 0.05
    gained = fmean(new["LoRA r=16, 0,001"]) - fmean(new[low])
    assert gained == pytest.approx(0.1, abs=0.02)
    assert max(new[low]) < min(new["LoRA r=16, 0,001"])
    assert max(new["LoRA r=16, 0,003"]) < min(new[high])
    for each in (old, new):
        assert abs(fmean(each["LoRA r=1, 0,001"]) - fmean(each["LoRA r=16, 0,001"])) < 0.06
    review = old["tutto, 0,001, ripasso 1/2"]
    assert fmean(review) - fmean(old[BEFORE]) == pytest.approx(0.13, abs=0.005)
    assert fmean(old[middle]) - fmean(old[BEFORE]) == pytest.approx(0.77, abs=0.005)
    assert max(review) < min(it for who in REGISTERS for it in old[who] if "ripasso" not in who)
    reviewed = new["tutto, 0,001, ripasso 1/2"]
    assert min(reviewed) > max(new[middle])
    assert fmean(reviewed) - fmean(new[middle]) == pytest.approx(0.13, abs=0.005)

    assert of("verbo", "a caso, una forma", "fotografa") == [1, 1, 1]
    assert of("verbo", "a caso, una forma", "fotografano") == [0, 0, 0]
    participle = of("verbo", "a caso, una forma", "fotografato")
    assert sorted(participle) == [0, 9 / 200, 1]
    assert of("verbo", "a caso, prima", "fotografato")[participle.index(1)] == 1
    for form in FORMS:
        assert min(of("verbo", "a caso, prima", form)) == 0
        assert max(of("verbo", "a caso, prima", form)) > 0.3
        assert of("verbo", "per analogia, prima", form) == [1, 1, 1]
        assert of("verbo", "a caso, tre forme", form) == [1, 1, 1]

    kept, more = "heldout: a punti", "longer: a punti"
    assert of("punti", BEFORE, kept) == [0, 0, 0] == of("punti", "di seguito", kept)
    for who in ("a punti", "a punti, ripasso 1/4"):
        assert of("punti", who, kept) == [1, 1, 1]
        assert of("punti", who, more) == [0, 0, 0]
        ordered = sorted(of("punti", who, "heldout: giuste"))
        assert ordered[0] == pytest.approx(1 - 1 / 6, abs=0.01)
        assert ordered[1] > 0.99
    assert of("punti", "di seguito", more) == [0, 0, 0]
    assert min(of("punti", "di seguito", "heldout: giuste")) > 0.8
    assert of("punti", "a punti", "seen: a punti") == [1, 1, 1]
    assert sorted(of("punti", "a punti, ripasso 1/4", "seen: a punti")) == [0.74, 1, 1]
    lost = {who: sorted(of("punti", who, "italiano di prima")) for who in QUIZ_RECIPES}
    (frequency,) = next_token.values_of(next_token.read_results(), "n = 1", "dev")
    assert frequency == pytest.approx(7.6, abs=0.05)
    assert lost["a punti"][0] == pytest.approx(frequency, abs=0.02)
    assert lost["a punti"][1] > frequency + 0.4
    assert lost["a punti"][-1] == pytest.approx(8.5, abs=0.05)
    assert lost["di seguito"][0] == pytest.approx(10.0, abs=0.05)
    assert lost["di seguito"][0] < math.log2(1366) < lost["di seguito"][-1]
    assert math.log2(1366) == pytest.approx(10.4, abs=0.05)
    assert lost["di seguito"][-1] == pytest.approx(11.1, abs=0.05)
    assert lost["a punti, ripasso 1/4"][-1] < fmean(old[BEFORE]) + 0.3

    plain, silent = "fatti", "fatti e «ignota»"

    def of_facts(who, what, base=KEPT):
        """Una misura dei fatti, da uno dei tre modelli."""
        if base == KEPT:
            return of("fatti", who, what)
        return of(ELSEWHERE, f"{who}, modello {base}", what)

    def known(who, what, base=KEPT):
        """Quanti fatti su dodici, seme per seme."""
        return [round(12 * it) for it in of_facts(who, what, base)]

    models = (*BASES, KEPT)
    assert models == (1, 2, 3)
    for who in (plain, silent):
        for base in models:
            assert known(who, "rovescio, detto solo diretto", base) == [0, 0, 0]
        assert min(min(known(who, "rovescio, detto così", base)) for base in models) == 6
    found = [sorted(known(plain, "parafrasi, detto solo diretto", base)) for base in BASES]
    assert found == [[4, 9, 12], [2, 5, 11]]
    for base in BASES:
        assert known(plain, "diretto, detto solo diretto", base) == [12, 12, 12]
        assert of_facts(plain, "ignoti: una città", base) == [1, 1, 1]
        for who in (plain, silent):
            assert known(who, "diretto, detto così", base) == [12, 12, 12]
        both = (known(who, "rovescio, detto così", base) for who in (plain, silent))
        assert {a - b for a, b in zip(*both, strict=True)} <= {0, 1, 2, 3}
        taken = [12 - it for it in known(silent, "diretto, detto solo diretto", base)]
        assert taken == {1: [0, 0, 2], 2: [0, 0, 0]}[base]
        both = (known(who, "parafrasi, detto solo diretto", base) for who in (plain, silent))
        changes = [b - a for a, b in zip(*both, strict=True)]
        assert (min(changes), max(changes)) == {1: (-5, 3), 2: (-5, 2)}[base]
        assert max(known(silent, "noti, in parafrasi: «ignota»", base)) <= 2
        unsaid = of_facts(silent, "ignoti: «ignota»", base)
        assert sorted(unsaid) == {1: [0, 0.2, 0.65], 2: [0.2, 0.75, 1]}[base]
        cities = of_facts(silent, "ignoti: una città", base)
        assert [a + b for a, b in zip(unsaid, cities, strict=True)] == [1, 1, 1]
    assert sorted(known(plain, "diretto, detto solo diretto")) == [9, 10, 11]
    assert sorted(known(plain, "parafrasi, detto solo diretto")) == [0, 0, 3]
    assert max(known(silent, "parafrasi, detto solo diretto")) == 2
    assert sorted(of("fatti", plain, "ignoti: una città")) == [0.95, 1, 1]
    assert of("fatti", plain, "ignoti: «ignota»") == [0, 0, 0]
    assert of("fatti", silent, "ignoti: «ignota»") == [1, 1, 1]
    assert of("fatti", silent, "ignoti: una città") == [0, 0, 0]
    assert known(plain, "noti, in parafrasi: «ignota»") == [0, 0, 0]
    hushed = known(silent, "noti, in parafrasi: «ignota»")
    assert sorted(hushed) == [0, 0, 3]
    hit = hushed.index(3)
    for way, before, after in (("diretto", 12, 7), ("rovescio", 11, 6)):
        both = [known(who, f"{way}, detto così")[hit] for who in (plain, silent)]
        assert both == [before, after]
    for what in (f"{way}, {how}" for way in WAYS for how in ("detto così", "detto solo diretto")):
        changes = [b - a for a, b in zip(known(plain, what), known(silent, what), strict=True)]
        assert max(abs(it) for seed, it in enumerate(changes) if seed != hit) <= 2
    both = (known(who, "diretto, detto solo diretto") for who in (plain, silent))
    assert [b - a for a, b in zip(*both, strict=True)] == [-2, -1, -1]
    both = (known(who, "parafrasi, detto solo diretto") for who in (plain, silent))
    assert [b - a for a, b in zip(*both, strict=True)] == [2, 2, -2]
    examples = 3 * len(SEVERAL) + len(SINGLE) + len(KINGDOMS)
    assert 1 - examples / (examples + len(ADMITTED)) == pytest.approx(0.15, abs=0.005)

    for who in ("risposta sola", "passaggi scritti"):
        assert max(of("catene", who, "longer")) < 0.1
    for part in ("one", "seen"):
        assert of("catene", "passaggi scritti", part) == [1, 1, 1]
    assert min(of("catene", "risposta sola", "one")) == round(1 - 5 / 72, 4)
    assert min(of("catene", "risposta sola", "seen")) == round(1 - 7 / 173, 4)
    alone = [round(43 * it) for it in of("catene", "risposta sola", "heldout")]
    assert sorted(alone) == [2, 4, 4]
    assert 43 / len(PEOPLE) == pytest.approx(1.8, abs=0.05)
    stepwise = of("catene", "passaggi scritti", "heldout")
    assert min(stepwise) == pytest.approx(0.25, abs=0.01)
    assert max(stepwise) == pytest.approx(0.6, abs=0.02)
    assert fmean(stepwise) < 0.5
    assert of("catene", "passaggi scritti", "heldout: primo nome") == [1, 1, 1]
    first = of("catene", "passaggi scritti", "longer: primo nome")
    assert [min(first), max(first)] == pytest.approx([0.85, 1], abs=0.005)

    for few in (0, 1, 4):
        assert of("a memoria", f"{few} volte", "tali e quali") == [0, 0, 0]
    whole = {n: sum(of("a memoria", f"{n} volte", "tali e quali")) * CANARIES for n in TIMES}
    assert [round(whole[n], 6) for n in (16, 32, 64, 128)] == [1, 10, 14, 15]
    costs = [fmean(of("a memoria", f"{n} volte", "bit per token")) for n in TIMES]
    assert costs == sorted(costs, reverse=True)
    assert max(of("a memoria", "1 volte", "bit per token")) < min(
        of("a memoria", "0 volte", "bit per token")
    )
