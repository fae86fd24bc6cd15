"""L'appendice: i pesi raccolti sono quelli veri, i disegni li dicono, le teste tolte mancano."""

import dataclasses
import math
import xml.etree.ElementTree as ET

import pytest
import torch
from bs4 import BeautifulSoup

from attention import Transformer, TransformerConfig, attention_weights, causal_mask
from attention.beyond.grammar import pairs
from attention.command_line import SHIPPED, load
from attention.s3_model_architecture import evaluating
from attention.s5_1_data_batching import Vocabulary, collate
from attention.s6_1_machine_translation import beam_search
from attention.sa_attention_visualizations import (
    BEGINNING,
    CELL,
    COLOURS,
    FAINT,
    PLACES,
    RELATIONS,
    Head,
    Reading,
    all_heads,
    at_distance,
    attention_maps,
    attentions,
    auxiliary,
    best_distance,
    bracket,
    by_importance,
    by_word,
    closing,
    heat_map,
    loss_without,
    noun_of,
    penultimate,
    pruned,
    read,
    roles,
    sharpened,
    text_table,
    threads,
    without,
    word_groups,
)

CONFIG = TransformerConfig(layers=2, d_model=12, d_ff=31, heads=3, vocabulary=300, dropout=0.3)

SVG = "{http://www.w3.org/2000/svg}"

GERMAN = "Der alte Hund hat den Apfel gefressen."

ITALIAN = "Il vecchio cane ha mangiato la mela."


@pytest.fixture(scope="module")
def vocabulary():
    return Vocabulary.train([GERMAN, ITALIAN, GERMAN, ITALIAN], 300)


@pytest.fixture
def model():
    torch.manual_seed(7)
    return Transformer(CONFIG)


@pytest.fixture
def pair():
    return collate([([5, 9, 4, 8, 11], [6, 3, 10])])


@pytest.fixture
def batch():
    return collate([([5, 9, 4, 8, 11], [6, 3, 10]), ([7, 5], [4, 9, 12, 3]), ([8], [5])])


# I pesi.


def test_maps_have_one_matrix_per_head(model, pair):
    """Due strati, tre posti, tre teste; la forma è quella di chi guarda e di chi è guardato."""
    maps = attention_maps(model, pair)
    assert set(maps) == {(place, layer) for place in PLACES for layer in (0, 1)}
    for layer in (0, 1):
        assert maps["encoder", layer].shape == (3, 5, 5)
        assert maps["decoder", layer].shape == (3, 4, 4)
        assert maps["cross", layer].shape == (3, 4, 5)


def test_rows_sum_to_one_and_heads_differ(model, pair):
    """T40: ogni riga è una distribuzione, e due teste non sono la stessa."""
    for weights in attention_maps(model, pair).values():
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
        assert (weights >= 0).all()
        assert not torch.allclose(weights[0], weights[1], atol=1e-3)


def test_nobody_looks_ahead_in_the_decoder(model, pair):
    """La maschera causale è anche nei pesi che si disegnano."""
    maps = attention_maps(model, pair)
    future = ~causal_mask(4, torch.device("cpu"))
    for layer in (0, 1):
        assert maps["decoder", layer][:, future].eq(0).all()
        assert maps["encoder", layer].gt(0).all()
        assert maps["cross", layer].gt(0).all()


def test_first_layer_by_hand(model, pair):
    """I pesi del primo strato, rifatti dagli embedding con l'eq. (1)."""
    maps = attention_maps(model, pair)
    with evaluating(model):
        x = model.source_positions(model.embedding(pair.source))[0]
        part = model.encoder.layers[0].self_attention
        query, key, _ = part.projections
        for head in range(3):
            expected = attention_weights(x @ query[head], x @ key[head])
            torch.testing.assert_close(maps["encoder", 0][head], expected)


def test_collecting_changes_nothing(model, pair):
    """Il modello torna com'era: stesso modo, nessun gancio rimasto, stessi punteggi."""
    model.train()
    with evaluating(model):
        before = model(pair.source, pair.target)
    attention_maps(model, pair)
    assert model.training
    assert not any(part._forward_pre_hooks for part in model.modules())
    with evaluating(model):
        assert model(pair.source, pair.target).equal(before)


def test_dropout_does_not_reach_the_maps(model, pair):
    """Due volte gli stessi pesi, anche da un modello in addestramento."""
    model.train()
    first, second = attention_maps(model, pair), attention_maps(model, pair)
    assert all(first[place].equal(second[place]) for place in first)


def test_one_pair_at_a_time(model, batch):
    with pytest.raises(ValueError, match="batch: dato: 3 coppie; atteso: una"):
        attention_maps(model, batch)


def test_attentions_are_named_by_their_place(model):
    parts = attentions(model)
    assert parts["encoder", 1] is model.encoder.layers[1].self_attention
    assert parts["decoder", 0] is model.decoder.layers[0].self_attention
    assert parts["cross", 1] is model.decoder.layers[1].cross_attention
    assert len(all_heads(model)) == len(set(all_heads(model))) == 2 * 3 * 3
    assert Head("cross", 1, 2) in all_heads(model)


# Le parole.


def test_words_of_a_text_with_their_tokens(vocabulary):
    """Le parole rifanno il testo, i loro token sono tutti i token."""
    groups = word_groups(vocabulary, GERMAN)
    assert [word for word, _ in groups] == [*GERMAN[:-1].split(), "."]
    assert sum(count for _, count in groups) == len(vocabulary.encode(GERMAN))
    strange = word_groups(vocabulary, "Perché?")
    assert [word for word, _ in strange] == ["Perché", "?"]
    assert strange[0][1] == len(vocabulary.encode("Perché")) > 1


def test_from_tokens_to_words_by_hand():
    """Due parole, di due token e di uno: verso una si somma, da una si fa la media."""
    weights = torch.tensor([[0.5, 0.25, 0.25], [0.0, 0.5, 0.5], [0.125, 0.125, 0.75]])
    expected = torch.tensor([[0.625, 0.375], [0.25, 0.75]])
    assert by_word(weights, [2, 1], [2, 1]).equal(expected)
    both = by_word(torch.stack([weights, weights.flip(0)]), [1, 2], [3])
    assert both.shape == (2, 2, 1)
    assert both.eq(1).all()


def test_reading_has_words_on_every_side(model, vocabulary):
    """Righe e colonne sono parole: nel decoder comincia il segno d'inizio."""
    model = Transformer(dataclasses.replace(CONFIG, vocabulary=len(vocabulary)))
    reading = read(model, vocabulary, GERMAN, ITALIAN)
    assert reading.source == [*GERMAN[:-1].split(), "."]
    assert reading.target == [BEGINNING, *ITALIAN[:-1].split(), "."]
    for (place, _), weights in reading.maps.items():
        looking, looked = reading.sides(place)
        assert weights.shape == (3, len(looking), len(looked))
        torch.testing.assert_close(weights.sum(dim=-1), torch.ones(weights.shape[:-1]))
    assert reading.sides("cross") == (reading.target, reading.source)
    assert reading.sides("decoder") == (reading.target, reading.target)
    assert reading.sides("encoder") == (reading.source, reading.source)


# I disegni.


WEIGHTS = torch.tensor([[[0.75, 0.25, 0.0], [0.01, 0.0, 0.99]], [[0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]])

ROWS = ["io", "<tu>"]

COLUMNS = ["a", "b & c", "d"]


def test_heat_map_has_a_cell_per_visible_weight():
    """Ogni peso che si vede è una casella al suo posto, piena quanto vale."""
    for weights in WEIGHTS:
        root = ET.fromstring(heat_map(weights, ROWS, COLUMNS, "Una prova"))
        frame, *cells = root.iter(f"{SVG}rect")
        left, top = float(frame.get("x")), float(frame.get("y"))
        assert (float(frame.get("width")), float(frame.get("height"))) == (3 * CELL, 2 * CELL)
        visible = (weights >= FAINT).nonzero().tolist()
        assert len(cells) == len(visible)
        for cell, (i, j) in zip(cells, visible, strict=True):
            assert float(cell.get("x")) == left + CELL * j + 1
            assert float(cell.get("y")) == pytest.approx(top + CELL * i + 1, abs=0.01)
            assert float(cell.get("width")) == float(cell.get("height")) == CELL - 2
            assert float(cell.get("fill-opacity")) == round(weights[i, j].item(), 2)
        words = {it.text: it for it in root.iter(f"{SVG}text")}
        for i, word in enumerate(ROWS):
            assert top + CELL * i < float(words[word].get("y")) < top + CELL * (i + 1)
            assert float(words[word].get("x")) < left
        for j, word in enumerate(COLUMNS):
            assert left + CELL * j < float(words[word].get("x")) < left + CELL * (j + 1)
            assert float(words[word].get("y")) < top
            assert words[word].get("transform").startswith("rotate(-55 ")


def texts(root):
    """Le parole di un disegno: dove, da che parte, che cosa."""
    return [
        (float(it.get("x")), float(it.get("y")), it.get("text-anchor"), it.text)
        for it in root.iter(f"{SVG}text")
    ]


def test_heat_map_by_hand():
    """Due righe e tre colonne, al centesimo di unità: 8 per lettera, caselle di 22."""
    weights = torch.tensor([[0.5, 0.0, 0.02], [0.019, 1.0, 0.25]])
    root = ET.fromstring(heat_map(weights, ["io", "a"], ["b", "che", "tu"], "Prova"))
    assert root.get("viewBox") == "0 0 132 97.68"
    assert "max-width:132px" in root.get("style")
    assert texts(root) == [
        (20, 45.08, "end", "io"),
        (20, 67.08, "end", "a"),
        (39.2, 23.68, "start", "b"),
        (61.2, 23.68, "start", "che"),
        (83.2, 23.68, "start", "tu"),
        (59, 91.68, "middle", "Prova"),
    ]
    turns = [it.get("transform") for it in root.iter(f"{SVG}text")]
    turned = [f"rotate(-55 {x} 23.68)" for x in ("39.2", "61.2", "83.2")]
    assert turns == [None, None, *turned, None]
    sides = ("x", "y", "width", "height", "fill-opacity")
    assert [[it.get(side) for side in sides] for it in root.iter(f"{SVG}rect")] == [
        ["26", "29.68", "66", "44", None],
        ["27", "30.68", "20", "20", "0.50"],
        ["71", "30.68", "20", "20", "0.02"],
        ["49", "52.68", "20", "20", "1.00"],
        ["71", "52.68", "20", "20", "0.25"],
    ]


def test_threads_by_hand():
    """Lo stesso per i fili: 190 unità da una parola all'altra, da 1 a 5 di spessore."""
    weights = torch.zeros(9, 2, 3)
    weights[0, 0, 2], weights[8, 1, 0] = 0.5, 1.0
    root = ET.fromstring(threads(weights, ["io", "a"], ["b", "che", "tu"], "Prova"))
    assert root.get("viewBox") == "0 0 248 88"
    assert texts(root) == [
        (18, 26, "end", "io"),
        (18, 48, "end", "a"),
        (220, 26, "start", "b"),
        (220, 48, "start", "che"),
        (220, 70, "start", "tu"),
    ]
    ends = ("x1", "y1", "x2", "y2", "stroke", "stroke-width", "stroke-opacity")
    assert [[it.get(name) for name in ends] for it in root.iter(f"{SVG}line")] == [
        ["24", "22", "214", "66", COLOURS[0], "3.0", "0.65"],
        ["24", "44", "214", "22", COLOURS[0], "5.0", "1.00"],
    ]


def test_drawings_say_their_words_and_title():
    """Titolo e parole ci sono, con i segni di HTML al sicuro, e dentro il foglio."""
    for draw, weights in ((heat_map, WEIGHTS[0]), (threads, WEIGHTS)):
        root = ET.fromstring(draw(weights, ROWS, COLUMNS, "Pesi & teste"))
        assert root.get("aria-label") == root.find(f"{SVG}title").text == "Pesi & teste"
        words = [it.text for it in root.iter(f"{SVG}text")]
        assert words[:5] == [*ROWS, *COLUMNS]
        assert words[5:] == (["Pesi & teste"] if draw is heat_map else [])
        _, _, width, height = map(float, root.get("viewBox").split())
        for it in root.iter(f"{SVG}text"):
            assert 0 < float(it.get("x")) < width
            assert 0 < float(it.get("y")) <= height
        for it in root.iter(f"{SVG}rect"):
            assert float(it.get("x")) + float(it.get("width")) <= width
            assert float(it.get("y")) + float(it.get("height")) <= height


def test_threads_join_who_looks_to_who_is_looked_at():
    """Un filo per peso che si vede; il colore è della testa, lo spessore del peso."""
    root = ET.fromstring(threads(WEIGHTS, ROWS, COLUMNS, "Una prova"))
    lines = list(root.iter(f"{SVG}line"))
    visible = (WEIGHTS >= FAINT).nonzero().tolist()
    assert len(lines) == len(visible)
    words = {it.text: float(it.get("y")) - 4 for it in root.iter(f"{SVG}text")}
    for line, (head, i, j) in zip(lines, visible, strict=True):
        assert line.get("stroke") == COLOURS[head]
        assert float(line.get("y1")) == words[ROWS[i]]
        assert float(line.get("y2")) == words[COLUMNS[j]]
        weight = WEIGHTS[head, i, j].item()
        assert float(line.get("stroke-width")) == pytest.approx(1 + 4 * weight, abs=0.06)
        assert float(line.get("x1")) < float(line.get("x2"))


def test_table_says_the_same_numbers():
    """Chi il disegno non lo vede legge gli stessi pesi, in centesimi."""
    page = BeautifulSoup(text_table(WEIGHTS[0], ROWS, COLUMNS, "I pesi"), "html.parser")
    assert page.caption.get_text() == "I pesi"
    rows = [[cell.get_text() for cell in row.select("th, td")] for row in page.select("tr")]
    assert rows == [["guarda", *COLUMNS], ["io", "75", "25", "0"], ["<tu>", "1", "0", "99"]]


@pytest.mark.parametrize(
    ("draw", "weights"), [(heat_map, WEIGHTS[0]), (threads, WEIGHTS), (text_table, WEIGHTS[0])]
)
def test_words_must_be_as_many_as_weights(draw, weights):
    message = r"rows, columns: dato: \[3, 2\] parole; atteso: \[2, 3\], come i pesi"
    with pytest.raises(ValueError, match=message):
        draw(weights, COLUMNS, ROWS, "x")


# I ruoli.


def links(relation, text):
    words = text.split()
    return {(words[i], words[j]) for i, j in relation(words).nonzero().tolist()}


def test_relations_by_hand():
    """I legami che si cercano, su frasi piccole."""
    assert links(at_distance(-1), "a b c") == {("b", "a"), ("c", "b")}
    assert links(at_distance(2), "a b c") == {("a", "c")}
    assert links(at_distance(0), "a b") == {("a", "a"), ("b", "b")}
    assert links(closing, "a b .") == {("a", "."), ("b", "."), (".", ".")}
    assert links(penultimate, "a b .") == {("a", "b"), ("b", "b"), (".", "b")}
    assert links(bracket, "Anna hat den Apfel gegessen .") == {("hat", "gegessen")}
    for other in (
        "Anna hat einen Apfel .",
        "Hat Anna gegessen ?",
        "Anna hat , gegessen .",
        "Anna ist gegangen .",
        "hat es .",
        "Anna hat den Apfel gegessen !",
        "Anna hat den Apfel gegessen ?",
        "Anna hat Bier gekauft und es getrunken .",
        "Anna hat den Apfel nicht .",
        "Anna will den Apfel haben .",
        ".",
    ):
        assert links(bracket, other) == set()
    assert links(bracket, "Anna und Paul haben Bier getrunken .") == {("haben", "getrunken")}
    assert links(auxiliary, "Anna hat den Apfel gegessen .") == {("gegessen", "hat")}
    assert links(auxiliary, "Anna hat den Apfel nicht .") == set()
    assert links(noun_of, "Der alte Hund sieht eine Katze .") == {
        ("Der", "Hund"),
        ("eine", "Katze"),
    }
    assert links(noun_of, "Er hilft der , die Anna sieht") == {("die", "Anna")}
    assert links(noun_of, "das ist gut .") == set()


def made_reading(words, layers):
    """Una lettura con i pesi che si vogliono, per lo strato 0 e per lo strato 1."""
    maps = {("encoder", layer): torch.stack(heads) for layer, heads in enumerate(layers)}
    maps["decoder", 0] = torch.ones(1, 1, 1)
    return Reading(words, [BEGINNING], maps)


def test_roles_by_hand():
    """Una testa che guarda sempre indietro, una sempre sé stessa, una ovunque."""
    words = ["a", "b", "c", "d"]
    back = at_distance(-1)(words).float()
    back[0, 0] = 1
    own, flat = torch.eye(4), torch.full((4, 4), 0.25)
    reading = made_reading(words, [[own, flat], [back, flat]])
    found = roles([reading, reading], at_distance(-1))
    assert [tuple(role) for role in found] == [
        (Head("encoder", 1, 0), 1.0, 6),
        (Head("encoder", 0, 1), 0.25, 6),
        (Head("encoder", 1, 1), 0.25, 6),
        (Head("encoder", 0, 0), 0.0, 6),
    ]


def test_sharpened_readings_count_where_the_maximum_falls():
    """Alla parola di prima vanno in media 0,53, e il massimo ci cade due volte su tre."""
    weights = torch.tensor(
        [[1.0, 0.0, 0.0, 0.0], [0.6, 0.4, 0.0, 0.0], [0.1, 0.6, 0.3, 0.0], [0.0, 0.1, 0.4, 0.5]]
    )
    reading = made_reading(["a", "b", "c", "d"], [[weights, weights.flip(-1)]])
    sharp = sharpened(reading)
    before = at_distance(-1)
    first, second = roles([sharp], before)
    assert roles([reading], before)[0].share == pytest.approx((0.6 + 0.6 + 0.4) / 3)
    assert tuple(first) == (Head("encoder", 0, 0), pytest.approx(2 / 3), 3)
    assert tuple(second) == (Head("encoder", 0, 1), 0.0, 3)
    assert sharp.maps["encoder", 0].sum(dim=-1).eq(1).all()
    assert (sharp.source, sharp.target) == (reading.source, reading.target)


def test_best_distance_by_hand():
    """Il participio è due posti dopo in una frase, tre in due: la distanza migliore è tre."""
    sentences = (
        "Anna hat Brot gegessen .",
        "Anna hat viel Brot gegessen .",
        "Paul hat altes Brot gegessen .",
    )
    readings = [Reading(sentence.split(), [BEGINNING], {}) for sentence in sentences]
    step, share = best_distance(readings, bracket)
    assert step == 3
    assert share == pytest.approx(2 / 3)


def test_the_distance_is_sought_up_to_eight_places():
    """Otto posti avanti o indietro si trovano; nove, no."""
    readings = [Reading([f"w{i}" for i in range(20)], [BEGINNING], {})]
    assert best_distance(readings, at_distance(8)) == (8, 1.0)
    assert best_distance(readings, at_distance(-8)) == (-8, 1.0)
    for far in (9, -9):
        assert best_distance(readings, at_distance(far))[1] == 0


def test_a_relation_that_never_occurs_is_refused():
    reading = made_reading(["a", "b"], [[torch.eye(2)]])
    for search in (roles, best_distance):
        with pytest.raises(ValueError, match="nessuna frase con il legame; atteso: almeno una"):
            search([reading], bracket)


def test_relations_are_positions_and_grammar():
    assert set(RELATIONS) == {
        "parola precedente",
        "sé stessa",
        "parola seguente",
        "segno finale",
        "penultimo posto",
        "articolo → nome",
        "haben → participio",
        "participio → haben",
    }
    words = ["Der", "Hund", "hat", "geschlafen", "."]
    pairs = {name: relation(words).nonzero().tolist() for name, relation in RELATIONS.items()}
    assert pairs["parola precedente"] == [[1, 0], [2, 1], [3, 2], [4, 3]]
    assert pairs["parola seguente"] == [[0, 1], [1, 2], [2, 3], [3, 4]]
    assert pairs["sé stessa"] == [[i, i] for i in range(5)]
    assert pairs["segno finale"] == [[i, 4] for i in range(5)]
    assert pairs["penultimo posto"] == [[i, 3] for i in range(5)]
    assert pairs["articolo → nome"] == [[0, 1]]
    assert pairs["haben → participio"] == [[2, 3]]
    assert pairs["participio → haben"] == [[3, 2]]


# Senza una testa.


def test_a_missing_head_gives_nothing(model, pair):
    """Togliere una testa è sommare le altre sole: W^O righe per righe."""
    part = model.encoder.layers[1].self_attention
    x = torch.randn(5, 12)
    with torch.no_grad():
        heads = [part.head(i, x, x, x) for i in range(3)]
        heads[1] = torch.zeros_like(heads[1])
        expected = part.combine(torch.stack(heads))
        with without(model, [Head("encoder", 1, 1)]):
            torch.testing.assert_close(part(x, x, x), expected)


def test_weights_come_back_bit_for_bit(model, pair):
    """Anche se nel blocco qualcosa va storto."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with without(model, all_heads(model)):
        assert all(part.w_o.eq(0).all() for part in attentions(model).values())
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    with pytest.raises(RuntimeError, match="apposta"), without(model, all_heads(model)):
        raise RuntimeError("apposta")
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("head", [Head("encoder", 2, 0), Head("cross", 0, 3), Head("x", 0, 0)])
def test_only_heads_that_exist(model, head):
    message = r"^heads: dato: \[.*\]; atteso: teste del modello$"
    with pytest.raises(ValueError, match=message), without(model, [head]):
        pass


def test_heads_are_missing_while_generating_too(model):
    """Anche dalla strada con la cache: senza teste la sorgente non conta; con le teste, sì."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3)
    source = torch.randint(3, 300, (17, 3))

    def written():
        return {it.tokens for (it,) in beam_search(model, source, beam=1, extra=3)}

    assert len(written()) > 1
    with without(model, all_heads(model)):
        assert len(written()) == 1
    assert len(written()) > 1


def test_loss_without_heads(model, batch):
    """La perdita è la media di −log p; senza teste la sorgente non conta più."""
    with evaluating(model):
        logits = model(batch.source, batch.target)
    real = batch.expected != 0
    plain = torch.nn.functional.cross_entropy(logits[real], batch.expected[real]).item()
    assert loss_without(model, batch) == pytest.approx(plain, rel=1e-5)
    other = dataclasses.replace(batch, source=batch.source.flip(0))
    every = all_heads(model)
    assert loss_without(model, batch, every) == pytest.approx(loss_without(model, other, every))
    assert loss_without(model, batch) != pytest.approx(loss_without(model, other), rel=1e-4)


def test_importance_orders_heads_by_their_own_loss(model, batch):
    """Ogni testa con la perdita senza di lei, dalla più piccola."""
    found = by_importance(model, batch)
    losses = [loss for _, loss in found]
    assert losses == sorted(losses)
    assert {head for head, _ in found} == set(all_heads(model))
    for head, loss in found[:3]:
        assert loss == loss_without(model, batch, [head])


def test_pruning_goes_from_none_to_all(model, batch):
    """La prima è la perdita del modello intero, l'ultima quella senza teste; l'ordine è il dato."""
    order = all_heads(model)[::-1]
    losses = pruned(model, batch, order)
    assert len(losses) == len(order) + 1
    assert losses[0] == loss_without(model, batch)
    assert losses[2] == loss_without(model, batch, order[:2])
    assert losses[-1] == loss_without(model, batch, order)
    assert all(map(math.isfinite, losses))


# Il giocattolo di casa.


@pytest.fixture(scope="module")
def toy():
    return load(SHIPPED / "giocattolo")


@pytest.fixture(scope="module")
def readings(toy):
    return [read(*toy, it.german, it.italian) for it in pairs(5, 100, "heldout")]


def test_no_head_of_the_toy_keeps_to_its_neighbour(readings):
    """Nessuna guarda sempre una parola vicina: né per peso medio, né per dove cade il massimo."""
    sharp = [sharpened(it) for it in readings]
    for step, weight, often in ((-1, 0.3, 0.45), (0, 0.3, 0.4), (1, 0.5, 0.5)):
        assert roles(readings, at_distance(step))[0].share < weight
        assert roles(sharp, at_distance(step))[0].share < often


def test_a_head_of_the_toy_finds_the_noun_of_an_article(readings):
    """Peso e massimo superano la distanza fissa: sul nome vanno anche oltre un aggettivo."""
    sharp = [sharpened(it) for it in readings]
    step, fixed = best_distance(readings, noun_of)
    assert step == 1
    first, second = roles(readings, noun_of)[:2]
    assert first.head.layer == 1
    assert first.share > 6 * second.share
    assert first.share > fixed + 0.15
    most = roles(sharp, noun_of)[0]
    assert most.head == first.head == roles(readings, at_distance(1))[0].head
    assert most.share > 0.93

    def next_word(words):
        return noun_of(words) & at_distance(1)(words)

    def beyond_adjective(words):
        return noun_of(words) & ~at_distance(1)(words)

    for relation, often in ((next_word, 0.96), (beyond_adjective, 0.85)):
        best, other = roles(sharp, relation)[:2]
        assert other.words >= 30
        assert best.head == first.head
        assert best.share > max(often, 3 * other.share)


@pytest.fixture(scope="module")
def bracketed(toy):
    """Le coppie con il participio in fondo; non sono quelle su cui si è scelto che cosa cercare."""
    _, vocabulary = toy
    return [
        it
        for it in pairs(6, 1000, "heldout")
        if bracket([word for word, _ in word_groups(vocabulary, it.german)]).any()
    ]


@pytest.fixture(scope="module")
def rarer(toy, bracketed):
    return [read(*toy, it.german, it.italian) for it in bracketed]


def elsewhere(relation):
    """Verso lo stesso posto, da ogni parola che quel legame non ce l'ha."""

    def others(words):
        found = relation(words)
        return found.any(dim=0) & ~found.any(dim=1, keepdim=True)

    return others


def test_a_head_of_the_toy_goes_from_the_participle_to_its_auxiliary(rarer):
    """Figure 3–5: supera la distanza fissa, e da un'altra parola a «haben» non va."""
    fixed = best_distance(rarer, auxiliary)[1]
    first, second = roles(rarer, auxiliary)[:2]
    assert first.words >= 90
    assert first.share > max(0.4, 1.7 * second.share, 1.8 * fixed)
    most = roles([sharpened(it) for it in rarer], auxiliary)[0]
    assert most.head == first.head
    assert most.share > max(0.65, 3 * fixed)
    others = {it.head: it.share for it in roles(rarer, elsewhere(auxiliary))}
    assert first.share > 4 * others[first.head]


def test_from_the_auxiliary_to_its_participle_the_link_is_faint(rarer):
    """Il peso è quello della distanza fissa; il massimo la supera, ma non arriva a metà."""
    sharp = [sharpened(it) for it in rarer]
    fixed = best_distance(rarer, bracket)[1]
    first, second = roles(rarer, bracket)[:2]
    assert first.words >= 90
    assert 1.2 * second.share < first.share < 1.2 * fixed
    most, other = roles(sharp, bracket)[:2]
    assert most.head == first.head
    assert max(0.3, 1.5 * fixed, 2 * other.share) < most.share < 0.5
    others = {it.head: it.share for it in roles(sharp, elsewhere(bracket))}
    assert others[first.head] < 0.06
    back, second_back = roles(sharp, auxiliary)[:2]
    assert (second_back.head, second_back.share > 0.5) == (first.head, True)
    assert back.head != first.head


@pytest.fixture(scope="module")
def damage(toy, bracketed):
    """Di quanto cresce la perdita senza alcune teste, in parti della perdita intera."""
    model, vocabulary = toy
    batch = collate(
        [(vocabulary.encode(it.german), vocabulary.encode(it.italian)) for it in bracketed]
    )
    whole = loss_without(model, batch)
    return lambda *heads: loss_without(model, batch, heads) / whole - 1


def test_a_head_can_follow_a_link_and_not_be_missed(rarer, damage):
    """B4: delle due fra l'ausiliare e il participio si fa a meno, anche insieme."""
    to_have, to_participle = (roles(rarer, relation)[0].head for relation in (auxiliary, bracket))
    assert to_have != to_participle
    assert damage(to_have) < 0.04
    assert damage(to_participle) < 0.04
    assert damage(to_have, to_participle) < 0.05


def test_one_head_is_missed_more_than_the_rest_of_the_encoder(toy, readings, damage):
    """B4: è quella che va dall'articolo al nome; le altre sette insieme, meno della metà."""
    to_noun = roles(readings, noun_of)[0].head
    others = [it for it in all_heads(toy[0]) if it.place == "encoder" and it != to_noun]
    assert len(others) == 7
    assert damage(to_noun) > 1
    assert damage(to_noun) > 10 * max(map(damage, others))
    assert 0.1 < damage(*others) < damage(to_noun) / 2


def test_a_third_of_the_toy_s_heads_can_go(toy):
    """B4: molte teste si tolgono con poco danno; senza nessuna la traduzione è persa."""
    model, vocabulary = toy
    encoded = [
        (vocabulary.encode(it.german), vocabulary.encode(it.italian))
        for it in pairs(5, 300, "heldout")
    ]
    order = [head for head, _ in by_importance(model, collate(encoded[:150]))]
    losses = pruned(model, collate(encoded[150:]), order)
    assert len(losses) == 25
    assert losses[8] < 2.5 * losses[0]
    assert losses[24] > 20 * losses[0]
    assert set(order[-4:]) == {Head("cross", 1, head) for head in range(4)}
