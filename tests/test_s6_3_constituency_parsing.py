"""§6.3: alberi e successioni contro regole scritte a parte; F1 a mano; la tabella 4."""

import ctypes
import re
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from decimal import Decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attention import BASE, Transformer
from attention.s6_2_model_variations import parameter_count
from attention.s6_3_constituency_parsing import (
    ALPHA,
    ANY,
    BEAM,
    EXTRA,
    GENERATIVE,
    MULTI,
    PARSER,
    PUNCTUATION,
    ROOT,
    SEMI,
    SEMI_SUPERVISED,
    TABLE_4,
    TRACE,
    WSJ,
    Builder,
    Repair,
    Result,
    Score,
    Tree,
    above,
    anonymous,
    brackets,
    clean,
    corpus_score,
    is_bracket,
    is_symbol,
    linearize,
    most_constituents,
    read_tree,
    read_trees,
    repair,
    repaired_tree,
    restore,
    score,
    transformer,
    walk,
)
from weave.house import ROOT as HOUSE

PAGE = HOUSE / "paper_it/s6_3_constituency_parsing.md"

JOHN = "(TOP (S (NP (NNP John)) (VP (VBZ has) (NP (DT a) (NN dog))) (. .)))"
"""L'esempio di [37]."""

SHIP = (
    "(TOP (S (NP (DT il) (NN ragazzo)) (VP (VB osserva) (NP (DT la) (NN nave))"
    " (PP (IN con) (NP (DT il) (NN cannocchiale)))) (. .)))"
)
"""Il caso a matita: il sintagma preposizionale è legato al verbo."""

SHIP_WRONG = (
    "(TOP (S (NP (DT il) (NN ragazzo)) (VP (VB osserva) (NP (NP (DT la) (NN nave))"
    " (PP (IN con) (NP (DT il) (NN cannocchiale))))) (. .)))"
)
"""Lo stesso, legato alla nave."""

LABELS = st.sampled_from(["S", "NP", "VP", "PP", "SBAR"])
TAGS = st.sampled_from(["NN", "VB", "DT", "XX", ".", ","])
WORDS = st.sampled_from(["il", "gatto", "dorme", "l'", ".", "«", "XX"])
LEAVES = st.builds(lambda tag, word: Tree(tag, word=word), TAGS, WORDS)
NODES = st.recursive(
    LEAVES,
    lambda below: st.builds(Tree, LABELS, st.lists(below, min_size=1, max_size=4).map(tuple)),
    max_leaves=12,
)
TREES = st.lists(NODES, min_size=1, max_size=3).map(lambda found: Tree(ROOT, tuple(found)))
"""Alberi qualsiasi, sotto la radice."""

TOKENS = st.lists(
    st.sampled_from(
        ["(S", "(NP", "(VP", ")S", ")NP", ")VP", "XX", "NN", "(", ")", "", "a b", "x("]
    ),
    max_size=25,
)
"""Successioni qualsiasi, anche con token impossibili."""


def is_well_formed(tokens: tuple[str, ...], n: int) -> bool:
    """L'oracolo: si cancellano i costituenti più interni finché si può; devono restare parole."""
    line = "".join(f"{token} " if is_bracket(token) else "• " for token in tokens)
    symbols = all(re.fullmatch(r"[()]?[^\s()]+", token) for token in tokens)
    if line.count("•") != n or not symbols:
        return False
    before = ""
    while before != line:
        before, line = line, re.sub(r"\((\S+) (?:• |◦ )+\)\1 ", "◦ ", line)
    return re.fullmatch(r"(?:• |◦ )+", line) is not None


def spans(node: Tree, start: int = 0) -> tuple[int, list[tuple[str, int, int]]]:
    """L'oracolo delle parentesi: una ricorsione, senza togliere nulla."""
    if node.word:
        return start + 1, []
    end, found = start, []
    for child in node.children:
        end, inner = spans(child, end)
        found += inner
    return end, [*found, (node.label, start, end)]


def attempt(run):
    """Ciò che una funzione dà, o None e il suo errore."""
    try:
        return run(), ""
    except ValueError as error:
        return None, str(error)


# L'albero


def test_a_tree_is_read_and_written_with_parentheses():
    """La scrittura del Penn Treebank, su una riga."""
    tree = read_tree(JOHN)
    assert str(tree) == JOHN
    assert tree.words == ("John", "has", "a", "dog", ".")
    assert [leaf.label for leaf in tree.leaves] == ["NNP", "VBZ", "DT", "NN", "."]
    assert tree.children[0].children[0] == Tree("NP", (Tree("NNP", word="John"),))
    assert ROOT == tree.label == "TOP"


@given(TREES)
def test_reading_what_was_written_gives_the_same_tree(tree):
    """Scrivere e rileggere non cambia nulla."""
    assert read_tree(str(tree)) == tree


@given(st.lists(TREES, max_size=4))
def test_trees_are_read_one_after_the_other(trees):
    """Su più righe, con rientri, senza spazi fra le parentesi."""
    text = "\n\n".join(str(tree).replace(" (", "\n   (").replace(" (", "(") for tree in trees)
    assert read_trees(text) == trees


def test_outer_parenthesis_without_a_label_is_the_root():
    """Nei file del Penn Treebank la parentesi esterna non ha etichetta."""
    text = "( (S (NP (NN gatto)) (VP (VB dorme))) )"
    assert str(read_tree(text)) == "(TOP (S (NP (NN gatto)) (VP (VB dorme))))"
    assert read_trees(f"{text}\n{text}") == [read_tree(text)] * 2


@given(TREES)
def test_walk_opens_and_closes_every_constituent_once(tree):
    """In profondità, da sinistra: ogni apertura ha la sua chiusura, le foglie passano una volta."""
    opened: list[Tree] = []
    leaves = []
    for node, opening in walk(tree):
        if node.word:
            assert opening
            leaves.append(node)
        elif opening:
            opened.append(node)
        else:
            assert opened.pop() is node
    assert not opened
    assert tuple(leaves) == tree.leaves


def test_a_tree_cannot_be_changed():
    """Un albero è un valore: uguale a un altro con lo stesso contenuto, e immutabile."""
    tree = read_tree(JOHN)
    with pytest.raises(FrozenInstanceError):
        tree.label = "S"
    assert tree == read_tree(JOHN)
    assert len({tree, read_tree(JOHN)}) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("(S (NN a)", r"«?\(S ancora aperta alla fine; atteso: tante chiuse quante aperte"),
        (
            "(S\n(NN a)))",
            r"«\)» alla riga 2; atteso: una parentesi aperta da chiudere",
        ),
        ("(S\n\n(NP))", r"«\)» alla riga 3; atteso: almeno una parola prima di chiudere"),
        ("gatto", "«gatto» alla riga 1; atteso: una parola con la sua categoria, fra parentesi"),
        ("(S (NN a b))", "«a» alla riga 1; atteso: una parola con la sua categoria.*"),
        ("(S (NP (NN a)) b)", "«b» alla riga 1; atteso: una parola con la sua categoria.*"),
        ("(S ((NN a)))", r"«\(» alla riga 1; atteso: un'etichetta dopo la parentesi"),
        ("()", r"«\)» alla riga 1; atteso: almeno una parola prima di chiudere"),
        ("", "0 alberi; atteso: un albero"),
        ("(NN a) (NN b)", "2 alberi; atteso: un albero"),
    ],
)
def test_wrong_parentheses_are_refused_with_their_line(text, message):
    """L'errore dice che cosa, dove, e che cosa ci si aspettava."""
    with pytest.raises(ValueError, match=f"^text: dato: {message}$"):
        read_tree(text)


@given(st.text(alphabet="() NPab\n", max_size=40))
def test_any_text_is_read_or_refused(text):
    """Qualunque testo dà degli alberi o un errore nostro, e ciò che dà si riscrive e si rilegge."""
    trees, complaint = attempt(lambda: read_trees(text))
    if trees is None:
        assert complaint.startswith("text: dato: ")
    else:
        assert read_trees("\n".join(map(str, trees))) == trees
        letters = re.sub(r"[\s()]", "", text)
        assert re.sub(r"[\s()]", "", "".join(map(str, trees))).replace("TOP", "") == letters


# Da albero a successione


def test_linearization_of_the_example():
    """Chiusure con l'etichetta, una categoria per parola, nessuna radice."""
    tokens = "(S (NP NNP )NP (VP VBZ (NP DT NN )NP )VP . )S"
    assert linearize(read_tree(JOHN)) == tokens.split()
    anonymized = "(S (NP XX )NP (VP XX (NP XX XX )NP )VP XX )S"
    assert linearize(anonymous(read_tree(JOHN))) == anonymized.split()
    assert ANY == "XX"


@given(TREES)
def test_restoring_a_linearized_tree_gives_it_back(tree):
    """L'andata e il ritorno, con le categorie e senza."""
    assert restore(linearize(tree), tree.words) == tree
    bare = anonymous(tree)
    assert restore(linearize(bare), tree.words) == bare
    assert bare.words == tree.words
    assert {leaf.label for leaf in bare.leaves} == {"XX"}
    assert brackets(bare) == brackets(tree)


@given(TREES)
def test_length_is_words_plus_twice_the_constituents(tree):
    """n + 2c: è ciò che decide quanto spazio serve all'uscita."""
    constituents = sum(opening and not node.word for node, opening in walk(tree)) - 1
    assert len(linearize(tree)) == len(tree.words) + 2 * constituents


def test_only_the_outermost_root_is_left_out():
    """Un albero senza radice si scrive intero, e tornando la riceve; una foglia resta foglia."""
    tree = read_tree("(S (TOP (NN a)))")
    assert linearize(tree) == ["(S", "(TOP", "NN", ")TOP", ")S"]
    assert restore(linearize(tree), ["a"]) == Tree(ROOT, (tree,))
    assert linearize(Tree("NN", word="a")) == ["NN"]
    assert linearize(Tree(ROOT, word="a")) == [ROOT]
    assert restore(["NN"], ["a"]) == Tree(ROOT, (Tree("NN", word="a"),))


@pytest.mark.parametrize(
    ("tokens", "words", "message"),
    [
        ("(S XX", "a", r"tokens: dato: «\(S» ancora aperta alla fine; atteso: tante chiuse.*"),
        ("XX )S", "a", r"tokens: dato: «\)S» al posto 1; atteso: nessuna chiusura"),
        ("(S XX )NP", "a", r"tokens: dato: «\)NP» al posto 2; atteso: «\)S»"),
        ("(S (NP )NP XX )S", "a", r"tokens: dato: «\)NP» al posto 2; atteso: una parola.*"),
        ("(S XX XX )S", "a", "tokens: dato: «XX» al posto 2; atteso: posti per 1 parole"),
        ("(S XX )S", "a b", "tokens: dato: posti per 1 parole; atteso: per 2"),
        ("", "a", "tokens: dato: posti per 0 parole; atteso: per 1"),
        ("(S XX )S", "", "words: dato: nessuna parola; atteso: almeno una"),
        ("( XX )", "a", r"tokens: dato: «\(» al posto 0; atteso: un'etichetta dopo.*"),
        ("(S( XX )S(", "a", r"tokens: dato: «\(S\(» al posto 0; atteso: un'etichetta dopo.*"),
        ("(S x( )S", "a", r"label: dato: «x\(»; atteso: un testo senza spazi né parentesi.*"),
    ],
)
def test_malformed_sequences_are_refused(tokens, words, message):
    """Sbilanciata, chiusa con un'altra etichetta, vuota, con parole di troppo o di meno."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        restore(tokens.split(), words.split())


@given(TOKENS, st.integers(0, 6))
def test_any_sequence_is_restored_or_refused(tokens, n):
    """Se torna un albero la successione era ben formata; se no, l'errore è nostro."""
    tree, complaint = attempt(lambda: restore(tokens, ["w"] * n))
    assert (tree is not None) == is_well_formed(tuple(tokens), n)
    if tree is None:
        assert re.match(r"(tokens|words|label): dato: ", complaint)
    else:
        assert linearize(tree) == tokens


# La riparazione


@given(TOKENS, st.integers(1, 6))
def test_any_sequence_is_repaired_into_a_tree(tokens, n):
    """Sempre ben formata, con i posti giusti; ripararla di nuovo non cambia nulla."""
    mended = repair(tokens, n)
    assert is_well_formed(mended.tokens, n)
    assert repair(mended.tokens, n) == replace(mended, notes=())
    assert (mended.tokens == tuple(tokens)) == (mended.notes == ())
    tree = repaired_tree(tokens, ["w"] * n)
    assert tree.words == ("w",) * n
    assert tuple(linearize(tree)) == mended.tokens


@given(TOKENS, st.integers(1, 6))
def test_repair_never_opens_a_constituent(tokens, n):
    """Le aperture che restano c'erano tutte, e nello stesso ordine."""
    kept = [token for token in repair(tokens, n).tokens if token.startswith("(")]
    remaining = iter(tokens)
    assert all(token in remaining for token in kept)


@given(TREES)
def test_what_is_well_formed_is_left_alone(tree):
    """Nessuna nota, nessun cambiamento."""
    tokens = linearize(tree)
    assert repair(tokens, len(tree.words)) == Repair(tuple(tokens), ())


@pytest.mark.parametrize(
    ("tokens", "n", "mended", "notes"),
    [
        ("(S XX ( ) )S", 1, "(S XX )S", ["tolto (", "tolto )"]),
        (")S (S XX )VP )S", 1, "(S XX )S", ["tolto )S", "tolto )VP"]),
        ("(S (NP XX (PP XX )S", 2, "(S (NP XX (PP XX )PP )NP )S", ["aggiunta )PP", "aggiunta )NP"]),
        ("(S (NP )NP XX )S", 1, "(S XX )S", ["tolta (NP senza parole"]),
        ("(S (NP (PP )NP XX )S", 1, "(S XX )S", None),
        ("(S XX NN )S", 1, "(S XX )S", ["tolto NN"]),
        ("(S (NP NN )NP (VP", 3, "(S (NP NN )NP (VP XX XX )VP )S", None),
        ("(S NN )S", 3, "(S NN )S XX XX", ["aggiunto XX", "aggiunto XX"]),
        ("(S (VP XX", 1, "(S (VP XX )VP )S", ["aggiunta )VP", "aggiunta )S"]),
        ("(S XX (NP", 1, "(S XX )S", ["aggiunta )NP", "tolta (NP senza parole", "aggiunta )S"]),
        ("", 2, "XX XX", ["aggiunto XX", "aggiunto XX"]),
        ("(S XX )S (S XX )S", 2, "(S XX )S (S XX )S", []),
    ],
)
def test_every_rule_of_repair(tokens, n, mended, notes):
    """Le cinque regole, una per una e insieme, con le note che lasciano."""
    found = repair(tokens.split(), n)
    assert found.tokens == tuple(mended.split())
    if notes is not None:
        assert list(found.notes) == notes


def test_repair_tells_its_changes_in_order():
    """Le note sono quelle del tragitto, dalla prima correzione all'ultima."""
    found = repair(["(S", "(NP", "(PP", ")NP", "x(", ")VP", "XX"], 2)
    assert found.tokens == ("(S", "XX", "XX", ")S")
    assert found.notes == (
        "aggiunta )PP",
        "tolta (PP senza parole",
        "tolta (NP senza parole",
        "tolto x(",
        "tolto )VP",
        "aggiunto XX",
        "aggiunta )S",
    )


def test_a_very_deep_sequence_does_not_exhaust_the_stack():
    """Tremila aperture di seguito: si leggono, si scrivono, si contano."""
    deep = ["(S"] * 3_000 + ["XX"]
    tree = repaired_tree(deep, ["a"])
    assert brackets(tree) == Counter({("S", 0, 1): 3_000})
    assert len(str(tree)) == len("(TOP (XX a))") + 3_000 * len(" (S)")
    assert tree.words == ("a",)


def test_a_sentence_without_words_is_refused():
    """Nessun albero senza parole, nemmeno riparando."""
    with pytest.raises(ValueError, match=r"^words: dato: nessuna parola; atteso: almeno una$"):
        repaired_tree(["(S", ")S"], [])


# Il Penn Treebank


def test_traces_and_functions_are_cleaned():
    """Via i segnaposto, i costituenti rimasti vuoti, e la funzione dopo il trattino."""
    raw = read_tree(
        "( (S (NP-SBJ-1 (NNP John)) (VP (VBD reported)"
        " (SBAR (-NONE- 0) (S (-NONE- *T*-1)))) (-LRB- -LRB-) (NP=2 (NN a)) (. .)) )"
    )
    assert str(clean(raw)) == (
        "(TOP (S (NP (NNP John)) (VP (VBD reported)) (-LRB- -LRB-) (NP (NN a)) (. .)))"
    )
    assert TRACE == "-NONE-"


@given(TREES)
def test_a_clean_tree_is_left_alone(tree):
    """Senza segnaposto e senza trattini non cambia nulla."""
    assert clean(tree) == tree


def test_a_clean_tree_has_a_root_and_keeps_odd_labels():
    """Un albero senza radice la riceve; un'etichetta che comincia con un trattino resta."""
    assert str(clean(read_tree("(NP-TMP (NN a))"))) == "(TOP (NP (NN a)))"
    assert str(clean(read_tree("(-X-Y (NN-1 a))"))) == "(TOP (-X (NN-1 a)))"
    assert clean(Tree("NN", word="a")) == Tree(ROOT, (Tree("NN", word="a"),))
    with pytest.raises(ValueError, match=r"^words: dato: nessuna parola; atteso: almeno una$"):
        clean(read_tree("(S (-NONE- 0))"))


# Il voto


def test_wrong_attachment_by_hand():
    """Una parentesi di troppo: 6 giuste su 6 attese e 7 date; 85,7, 100, e F1 = 12/13."""
    expected, given = read_tree(SHIP), read_tree(SHIP_WRONG)
    found = score(expected, given)
    assert found == Score(matched=6, expected=6, given=7)
    assert found.precision == pytest.approx(600 / 7)
    assert found.recall == 100
    assert found.f1 == pytest.approx(1200 / 13)
    back = score(given, expected)
    assert (back.precision, back.recall, back.f1) == (found.recall, found.precision, found.f1)


def test_wrong_label_by_hand():
    """«il gatto» chiamato VP: due parentesi giuste su tre, da tutte e due le parti."""
    expected = read_tree("(TOP (S (NP (DT il) (NN gatto)) (VP (VB dorme))))")
    given = read_tree("(TOP (S (VP (DT il) (NN gatto)) (VP (VB dorme))))")
    assert brackets(expected) == {("S", 0, 3): 1, ("NP", 0, 2): 1, ("VP", 2, 3): 1}
    assert score(expected, given) == Score(2, 3, 3)
    assert score(expected, given).f1 == pytest.approx(200 / 3)


def test_repeated_brackets_by_hand():
    """Due NP sulle stesse parole: chi ne dà una ha tutta la precisione e metà del richiamo."""
    twice = read_tree("(TOP (NP (NP (DT il) (NN gatto))))")
    once = read_tree("(TOP (NP (DT il) (NN gatto)))")
    assert brackets(twice) == {("NP", 0, 2): 2}
    found = score(twice, once)
    assert found == Score(1, 2, 1)
    assert (found.precision, found.recall) == (100, 50)
    assert score(once, twice) == Score(1, 1, 2)


def test_punctuation_by_hand():
    """Dove si attacchi una virgola non conta; contano le altre parole, rinumerate senza di lei."""
    expected = read_tree("(TOP (S (NP (NN sì)) (, ,) (VP (VB dorme)) (. .)))")
    given = read_tree("(TOP (S (NP (NN sì) (XX ,)) (VP (VB dorme) (XX .))))")
    assert score(expected, given) == Score(3, 3, 3)
    assert score(given, expected) == Score(1, 3, 3)
    assert brackets(expected, frozenset({1, 3})) == {
        ("S", 0, 2): 1,
        ("NP", 0, 1): 1,
        ("VP", 1, 2): 1,
    }
    assert {",", ".", ":", "``", "''"} == PUNCTUATION


def test_a_constituent_of_punctuation_alone_does_not_count():
    """Copre zero parole: sparisce con loro."""
    tree = read_tree("(TOP (S (NP (NN a)) (X (. .))))")
    assert score(tree, tree) == Score(2, 2, 2)
    assert brackets(tree) == {("S", 0, 2): 1, ("NP", 0, 1): 1, ("X", 1, 2): 1}


def test_particles_count_as_adverbs():
    """PRT e ADVP sono la stessa etichetta, da tutte e due le parti."""
    particle = read_tree("(TOP (S (PRT (RP up))))")
    adverb = read_tree("(TOP (S (ADVP (RB up))))")
    assert score(particle, adverb) == score(adverb, particle) == Score(2, 2, 2)


@given(TREES)
def test_brackets_are_those_of_the_recursion_without_root_and_categories(tree):
    """Etichetta, prima parola, fine: come le conta una ricorsione."""
    _, found = spans(tree)
    assert brackets(tree) == Counter(it for it in found if it[0] != ROOT)


@given(TREES)
def test_a_tree_is_right_against_itself(tree):
    """Voto pieno contro sé stesso, anche senza categorie."""
    assert score(tree, tree).f1 == score(tree, anonymous(tree)).f1 == 100


@given(TREES, TOKENS)
def test_f1_is_the_harmonic_mean_of_precision_and_recall(tree, tokens):
    """Contro un'uscita qualsiasi, riparata: fra 0 e 100, e la media armonica delle altre due."""
    found = score(tree, repaired_tree(tokens, tree.words))
    assert 0 <= found.matched <= min(found.expected, found.given)
    total = found.precision + found.recall
    harmonic = 2 * found.precision * found.recall / total if total else 0
    assert found.f1 == pytest.approx(harmonic)


def test_scores_of_nothing():
    """Chi non dice nulla non sbaglia, e non trova nulla: 100 di precisione, 0 di richiamo."""
    silent = Score(0, 3, 0)
    assert (silent.precision, silent.recall, silent.f1) == (100, 0, 0)
    noisy = Score(0, 0, 3)
    assert (noisy.precision, noisy.recall, noisy.f1) == (0, 100, 0)
    empty = Score(0, 0, 0)
    assert (empty.precision, empty.recall, empty.f1) == (100, 100, 100)


def test_score_of_a_corpus_adds_the_counts():
    """Si sommano i conti, non i voti: 8 giuste, 9 attese, 10 date, F1 84,2; la media è 79,5."""
    first = read_tree(SHIP), read_tree(SHIP_WRONG)
    second = (
        read_tree("(TOP (S (NP (DT il) (NN gatto)) (VP (VB dorme))))"),
        read_tree("(TOP (S (VP (DT il) (NN gatto)) (VP (VB dorme))))"),
    )
    assert corpus_score([first, second]) == Score(8, 9, 10)
    assert corpus_score([first, second]).f1 == pytest.approx(1600 / 19)
    assert (score(*first).f1 + score(*second).f1) / 2 == pytest.approx(79.49, abs=0.005)
    assert corpus_score([]) == Score(0, 0, 0)


def test_other_words_cannot_be_judged():
    """Due alberi di frasi diverse non si confrontano."""
    with pytest.raises(ValueError, match=r"^given: dato: a c; atteso: a b$"):
        score(read_tree("(S (X a) (X b))"), read_tree("(S (X a) (X c))"))


# Il modello


def test_the_parser_is_the_one_of_section_6_3():
    """Quattro strati, 1024, 16 000 o 32 000 voci; il resto come nel base."""
    assert (PARSER.layers, PARSER.d_model, PARSER.vocabulary) == (4, 1024, 16_000)
    assert replace(PARSER, layers=6, d_model=512, vocabulary=37_000) == BASE
    assert replace(SEMI_SUPERVISED, vocabulary=16_000) == PARSER
    assert SEMI_SUPERVISED.vocabulary == 32_000
    assert (BEAM, ALPHA, EXTRA) == (21, 0.3, 300)


def test_the_parser_has_about_a_hundred_million_parameters():
    """100,3 milioni con una tabella sola; 116,7 con 32 000 voci. L'articolo non li dà."""
    assert parameter_count(PARSER) == 100_335_616
    assert parameter_count(replace(PARSER, d_ff=4096)) == 133_906_432
    with torch.device("meta"):
        model = Transformer(PARSER)
    assert sum(parameter.numel() for parameter in model.parameters()) == 100_335_616
    assert model.encoder.layers[0].self_attention.heads == 8
    assert parameter_count(SEMI_SUPERVISED) == 100_335_616 + 16_000 * 1024


@pytest.mark.parametrize(("extra", "most"), [(300, 149), (50, 24), (1, 0), (2, 0), (3, 1)])
def test_room_for_constituents_does_not_depend_on_the_words(extra, most):
    """n + 2c token e uno di fine stanno in n + extra: 149 costituenti con 300, 24 con 50."""
    assert most_constituents(extra) == most
    for n in (1, 40):
        assert n + 2 * most + 1 <= n + extra < n + 2 * (most + 1) + 1


def test_output_is_longer_than_the_input():
    """«Molto più lunga»: cinque parole danno tredici token, otto e il punto ne danno ventuno."""
    assert len(linearize(read_tree(JOHN))) == 5 + 2 * 4 == 13
    assert len(linearize(read_tree(SHIP))) == 9 + 2 * 6 == 21


# La tabella 4

PRINTED = """
37 88.3 solo WSJ
29 90.4 solo WSJ
40 90.4 solo WSJ
8  91.7 solo WSJ
.  91.3 solo WSJ
40 91.3 semi-supervisionato
14 91.3 semi-supervisionato
26 92.1 semi-supervisionato
37 92.1 semi-supervisionato
.  92.7 semi-supervisionato
23 93.0 più compiti
8  93.3 generativo
"""
"""La tabella 4, ricopiata: voce della bibliografia, F1, addestramento."""


def test_table_4_is_the_one_of_the_paper():
    """Dodici righe, nell'ordine."""
    expected = [line.split(maxsplit=2) for line in PRINTED.strip().splitlines()]
    found = [[str(it.reference or "."), str(it.f1), it.training] for it in TABLE_4]
    assert found == expected
    names = {it.reference: it.parser for it in TABLE_4}
    assert len(names) == 8
    assert names[8].startswith("Dyer")
    assert names[None] == "Transformer (4 strati)"


def test_table_on_the_page_is_table_4():
    """La tabella che si legge sulla pagina ha le stesse righe."""
    page = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (.+?) \| (.+?) \| (\d\d,\d) \|$", page, flags=re.MULTILINE)
    shown = [
        (re.sub(r"\*\*| \[\[\d+\]\]\(.+?\)", "", name), training, value.replace(",", "."))
        for name, training, value in rows
    ]
    assert shown == [(it.parser, it.training, str(it.f1)) for it in TABLE_4]
    cited = [re.findall(r"bib-(\d+)", name) for name, _, _ in rows]
    assert cited == [[str(it.reference)] if it.reference else [] for it in TABLE_4]


def test_transformer_is_above_every_semi_supervised_row():
    """92,7 supera 91,3, 91,3, 92,1 e 92,1."""
    others = [it for it in TABLE_4 if it.training == SEMI and it.reference]
    assert len(others) == 4
    assert all(it.f1 < transformer(SEMI).f1 for it in others)


def test_two_rows_stay_above_and_the_text_excepts_one():
    """¶4 eccettua la sola RNN Grammar, 93,3; ma anche Luong, 93,0, sta sopra 92,7."""
    found = above(transformer(SEMI))
    assert [(it.reference, str(it.f1)) for it in found] == [(23, "93.0"), (8, "93.3")]
    excepted = [it for it in found if it.reference != 8]
    assert [it.training for it in excepted] == [MULTI]
    assert [it.training for it in found if it.reference == 8] == [GENERATIVE]


def test_with_wsj_only_the_rnn_grammar_stays_ahead():
    """91,3 supera tutti gli altri di quella parte tranne 91,7, ancora della RNN Grammar."""
    rivals = [it for it in TABLE_4 if it.training == WSJ and it.reference]
    ahead = [it.reference for it in rivals if it.f1 > transformer(WSJ).f1]
    assert ahead == [8]
    assert len(rivals) == 4


def test_with_wsj_only_it_beats_the_berkeley_parser_and_the_rnn_does_not():
    """¶5: 91,3 contro 90,4; la sequenza-a-sequenza ricorrente di [37] si ferma a 88,3."""
    wsj = {it.reference: it.f1 for it in TABLE_4 if it.training == WSJ}
    assert wsj[None] - wsj[29] == Decimal("0.9")
    assert wsj[37] < wsj[29] < wsj[None]
    assert wsj[None] - wsj[37] == Decimal("3.0")


def test_more_data_helps_by_more_than_a_point():
    """Da 91,3 a 92,7 il Transformer; da 88,3 a 92,1 il modello ricorrente."""
    assert transformer(SEMI).f1 - transformer(WSJ).f1 == Decimal("1.4")
    vinyals = [it.f1 for it in TABLE_4 if it.reference == 37]
    assert vinyals[1] - vinyals[0] == Decimal("3.8")


def test_results_cannot_be_changed():
    """Una riga stampata non si corregge."""
    with pytest.raises(FrozenInstanceError):
        TABLE_4[0].f1 = Decimal(99)


def test_drawing_of_the_brackets_shows_the_two_analyses():
    """Le parentesi del disegno, riga per riga, sono quelle dei due alberi, e una sola è in più."""
    svg = (HOUSE / "paper_it/figure/s6_3_brackets.svg").read_text(encoding="utf-8")
    drawn = []
    for name in ("verbo", "nome"):
        panel = svg.partition(f'id="fig-parentesi-{name}"')[2].partition("</g>")[0]
        marks = re.findall(r'd="M\d+ (\d+)H\d+V(\d+)H\d+".*?>(\w+)</text>', panel)
        drawn.append(
            Counter((label, (int(a) - 47) // 26, (int(b) - 41) // 26) for a, b, label in marks)
        )
    period = frozenset({8})
    assert drawn == [brackets(read_tree(text), period) for text in (SHIP, SHIP_WRONG)]
    assert drawn[1] - drawn[0] == {("NP", 3, 8): 1}
    shown = re.findall(r'text-anchor="end">(\w+)</text>', svg)
    assert tuple(shown) == read_tree(SHIP).words[:8]


# Il Fortran


@given(TREES)
def test_fortran_on_the_page_counts_the_same_brackets(tree):
    """La pila della pagina, compilata: le stesse parentesi, o −1 se la successione non torna."""
    labels = ["S", "NP", "VP", "PP", "SBAR"]
    numbers = [
        (labels.index(token[1:]) + 1) * (1 if token[0] == "(" else -1) if is_bracket(token) else 0
        for token in linearize(tree)
    ]
    found = compiled()(numbers)
    ours = [(labels[label - 1], start, end) for label, start, end in found]
    assert Counter(ours) == brackets(tree)


@given(st.lists(st.integers(-2, 2), max_size=12))
def test_fortran_refuses_what_the_oracle_refuses(numbers):
    """0 è una parola, k apre, −k chiude: chi non torna dà −1."""
    names = ["S", "NP"]
    tokens = tuple("XX" if k == 0 else ("(" if k > 0 else ")") + names[abs(k) - 1] for k in numbers)
    good = is_well_formed(tokens, numbers.count(0)) if 0 in numbers else not numbers
    assert (compiled()(numbers) is not None) == good


ROUTINE: dict[str, object] = {}
"""La routine compilata una volta per tutte: Hypothesis la chiama molte volte."""


@pytest.fixture(autouse=True)
def _compiled(request):
    """Compila il Fortran della pagina per i test che lo chiamano."""
    if "fortran" in request.node.name and not ROUTINE:
        ROUTINE["spans"] = request.getfixturevalue("fortran")("s6_3_constituency_parsing").spans


def compiled():
    """Una funzione: dai numeri dei token alle parentesi, o None."""

    def call(numbers: list[int]) -> list[tuple[int, int, int]] | None:
        n = len(numbers)
        tokens = (ctypes.c_int * max(n, 1))(*numbers)
        found = (ctypes.c_int * (3 * max(n, 1)))()
        count = ctypes.c_int()
        ROUTINE["spans"](ctypes.c_int(n), tokens, ctypes.byref(count), found)
        if count.value < 0:
            return None
        return [tuple(found[3 * i : 3 * i + 3]) for i in range(count.value)]

    return call


# Gli errori


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Tree("", word="a"), ValueError, "label: dato: «»; atteso: un testo senza.*"),
        (lambda: Tree("N P", word="a"), ValueError, "label: dato: «N P»; atteso: .*non vuoto"),
        (lambda: Tree("NN", word="a("), ValueError, r"word: dato: «a\(»; atteso: .*"),
        (lambda: Tree(3, word="a"), TypeError, "label: dato: 3; atteso: una stringa"),
        (lambda: Tree("NN", word=3), TypeError, "word: dato: 3; atteso: una stringa"),
        (
            lambda: Tree("NN"),
            ValueError,
            "children: dato: né figli né parola; atteso: figli oppure una parola",
        ),
        (
            lambda: Tree("NN", (Tree("NN", word="a"),), "a"),
            ValueError,
            "children: dato: una parola e figli; atteso: figli oppure una parola",
        ),
        (lambda: Tree("NP", ("a",)), TypeError, r"children: dato: \['a'\]; atteso: alberi"),
        (
            lambda: transformer(MULTI),
            ValueError,
            "training: dato: più compiti; atteso: solo WSJ o semi-supervisionato",
        ),
        (
            lambda: Result("x", 1, WSJ, Decimal(101)),
            ValueError,
            "f1: dato: 101; atteso: al più 100",
        ),
        (
            lambda: Result("x", 1, WSJ, 91.3),
            TypeError,
            "f1: dato: 91.3; atteso: un Decimal o un intero",
        ),
    ],
)
def test_wrong_arguments_are_refused_by_name(build, error, message):
    """Ogni errore nomina argomento, dato e atteso."""
    with pytest.raises(error, match=f"^{message}$"):
        build()


@pytest.mark.parametrize(
    ("text", "good"), [("NP", True), ("l'", True), ("", False), ("a b", False), ("(", False)]
)
def test_symbols_have_no_spaces_and_no_parentheses(text, good):
    """Un'etichetta o una parola, e ciò che non può esserlo."""
    assert is_symbol(text) == good


def test_a_builder_starts_with_the_root_alone():
    """Nulla di aperto, nulla di finito."""
    builder = Builder()
    assert (builder.innermost, builder.finished) == ("", [])
    builder.begin("S")
    assert builder.innermost == "S"
