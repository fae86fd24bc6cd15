"""Domande e false credenze: ogni numero ha una risposta, un posto e una prova che esiste."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

import markdown
import pytest
from bs4 import BeautifulSoup
from mkdocs.utils import yaml_load

from weave.house import ROOT
from weave.questions import (
    LENGTH,
    TEST_LINK,
    Entry,
    Indexes,
    MissingAnswerError,
    check_questions,
    entries,
    listing,
    lost_test,
    opening,
    pages,
    rebased,
    rows,
)

QUESTIONS, BELIEFS = Path("docs/domande.md"), Path("docs/credenze.md")

PROMISES = 15
"""Schemi e simulazioni che erano stati offerti."""


def numbers(letter: str, last: int, without: tuple[int, ...] = ()) -> list[str]:
    return [f"{letter}{i}" for i in range(1, last + 1) if i not in without]


# La casa.


def test_every_question_has_its_answer_and_its_proof() -> None:
    if complaints := check_questions():
        pytest.fail("\n".join(map(str, complaints)), pytrace=False)


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (QUESTIONS, numbers("D", 36)),
        (BELIEFS, numbers("A", 25) + numbers("B", 20) + numbers("C", 19, without=(3, 10))),
    ],
)
def test_the_indexes_hold_every_number_in_order(page: Path, expected: list[str]) -> None:
    read = [row for _, _, row in rows(pages()[page])]
    assert [row["number"] for row in read if row] == expected


def test_every_promise_has_its_place_and_its_proof() -> None:
    text = pages()[QUESTIONS]
    promises = re.findall(r"^- (.+)$", text.partition("{ #promesse }")[2], re.MULTILINE)
    assert len(promises) == PROMISES
    for promise in promises:
        places = re.findall(r"\]\(([\w/]+\.md)#[\w-]+\)", promise.partition(" Prova: ")[0])
        assert places, promise
        assert [it for it in places if not (ROOT / it).is_file()] == [], promise
        proofs = TEST_LINK.findall(promise)
        assert proofs, promise
        assert [it for it in proofs if lost_test(*it)] == [], promise


def test_the_front_page_and_the_navigation_lead_to_both_indexes() -> None:
    front = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:")[2]
    for page in (QUESTIONS, BELIEFS):
        assert f"]({page.name})" in front
        assert f": {page.name}\n" in navigation


# Le voci di una pagina.

LINK = "[`test_a`](../sorgenti/tests/test_a.md#test_a)"

PAGE = f"""# §9 Una pagina {{ #pagina }}

## Domande

- **[D1](#d1){{ #d1 }} Che cos'è?** È questo,
  e quello. Prova: {LINK}, {LINK}.
- **«Senza numero».** No. [`test_z`](../sorgenti/tests/test_z.md#test_z)
- **[A2](#a2){{ #a2 }} «Una *falsa* credenza».** No.

```text
- **[D8](#d8){{ #d8 }} Non qui?** No.
```

Prova: [`test_b`](../sorgenti/tests/b/test_b.md#test_b).

- **[B3](#b3){{ #b3 }} «Un'altra».** Nemmeno.

### Fuori

[`test_c`](../sorgenti/tests/test_c.md#test_c)
"""


def test_entries_are_read_with_line_question_answer_and_proofs() -> None:
    path = Path("paper_it/a.md")
    d1, a2, b3 = entries(path, PAGE)
    assert d1 == Entry(
        path,
        5,
        "D1",
        "d1",
        "d1",
        "Che cos'è?",
        f"È questo, e quello. Prova: {LINK}, {LINK}.",
        (("test_a", "tests/test_a", "test_a"),),
    )
    assert (a2.line, a2.question, a2.answer) == (8, "«Una *falsa* credenza».", "No.")
    assert a2.proofs == (("test_b", "tests/b/test_b", "test_b"),)
    assert (b3.line, b3.number, b3.proofs) == (16, "B3", ())


@pytest.mark.parametrize(
    ("page", "url"),
    [
        ("paper_it/beyond/rope.md", "paper_it/beyond/rope.md#d1"),
        ("docs/misure.md", "misure.md#d1"),
    ],
)
def test_an_entry_has_its_address(page: str, url: str) -> None:
    assert Entry(Path(page), 1, "D1", "d1", "d1", "", "", ()).url == url


def test_an_entry_does_not_change() -> None:
    entry, *_ = entries(Path("paper_it/a.md"), PAGE)
    with pytest.raises(dataclasses.FrozenInstanceError):
        entry.number = "D2"


# I reclami.

INDEX = "# Domande\n\n```indice\nD1 paper_it/a.md\n  A2  paper_it/a.md\n```\n"

ANSWERS = f"""# Una pagina

- **[D1](#d1){{ #d1 }} Che cosa?** Questo. {LINK}
- **[A2](#a2){{ #a2 }} «Quello».** No. {LINK}
"""


class LittleHouse:
    """Una casa di due pagine e un test, da guastare."""

    def __init__(self, root: Path):
        self.root = root
        files = {
            "docs/domande.md": INDEX,
            "paper_it/a.md": ANSWERS,
            "gpu_notes/b.md": "# B\n",
            "tests/test_a.py": "def test_a():\n    pass\n\n\ndef test_b():\n    pass\n",
        }
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text, encoding="utf-8")

    def change(self, name: str, old: str, new: str) -> None:
        text = (self.root / name).read_text(encoding="utf-8")
        assert old in text
        (self.root / name).write_text(text.replace(old, new, 1), encoding="utf-8")

    @property
    def complaints(self) -> list[str]:
        return [str(complaint) for complaint in check_questions(self.root)]


@pytest.fixture
def house(tmp_path: Path) -> LittleHouse:
    return LittleHouse(tmp_path)


def test_the_little_house_is_in_order(house: LittleHouse) -> None:
    assert house.complaints == []


@pytest.mark.parametrize(
    ("name", "old", "new", "place", "words"),
    [
        ("paper_it/a.md", f"Questo. {LINK}", "Questo.", "paper_it/a.md:3", "non cita una prova"),
        ("paper_it/a.md", "[`test_a`]", "[`test_b`]", "paper_it/a.md:3", "citato come «test_b»"),
        ("paper_it/a.md", "md#test_a", "md#test_b", "paper_it/a.md:3", "py::test_b, citato"),
        ("paper_it/a.md", "md#test_a", "md#test_c", "paper_it/a.md:3", "py::test_c, citato"),
        ("paper_it/a.md", "tests/test_a.md", "tests/b.md", "paper_it/a.md:3", "tests/b.py::"),
        ("tests/test_a.py", "test_a", "test_c", "paper_it/a.md:3", "non esiste"),
        ("tests/test_a.py", "pass\n", "pass\nprint()\n", "paper_it/a.md:3", "tests/test_a.py:3:"),
        ("paper_it/a.md", "{ #d1 }", "{ #d7 }", "paper_it/a.md:3", "ha l'àncora #d1"),
        ("paper_it/a.md", "{ #d1 }", "{ #d0 }", "paper_it/a.md:3", "ha l'àncora #d1"),
        ("paper_it/a.md", "(#d1)", "(#d7)", "paper_it/a.md:3", "ha l'àncora #d1"),
        ("paper_it/a.md", "(#d1)", "(#d0)", "paper_it/a.md:3", "ha l'àncora #d1"),
        ("paper_it/a.md", "(#d1){ #d1 }", "(#d7){ #d7 }", "paper_it/a.md:3", "àncora #d1"),
        ("paper_it/a.md", "(#d1){ #d1 }", "(#d0){ #d0 }", "paper_it/a.md:3", "àncora #d1"),
        ("docs/domande.md", "D1 paper_it/a.md\n", "", "paper_it/a.md:3", "D1 non è in nessun"),
        ("docs/domande.md", "D1", "D1:", "docs/domande.md:4", "«D1: paper_it/a.md»: una riga"),
        ("docs/domande.md", "  A2", "\n  A2", "docs/domande.md:5", "«»: una riga"),
        ("docs/domande.md", "  A2  ", "D1 b\n  A2  ", "docs/domande.md:5", "«D1 b»: una riga"),
        ("docs/domande.md", "it/a.md", "it/b.md", "docs/domande.md:4", "«paper_it/b.md» non ri"),
        ("docs/domande.md", "```\n", "D4 paper_it/a.md\n```\n", "docs/domande.md:6", "D4: aggi"),
        ("docs/domande.md", "```\n", "D1 paper_it/a.md\n```\n", "docs/domande.md:6", "D1 è già"),
    ],
)
def test_each_fault_is_a_complaint_where_it_is(
    house: LittleHouse, name: str, old: str, new: str, place: str, words: str
) -> None:
    house.change(name, old, new)
    found = house.complaints
    assert found
    assert found[0].startswith(f"{place}: "), found
    assert words in found[0], found
    assert all(place.partition(":")[0] in it or "nessun indice" in it for it in found)


@pytest.mark.parametrize(
    "line",
    [
        "- **[D1](#d1){#d1} Che cosa?** Questo.",
        "- **D1, che cosa?** Questo.",
        "- **[D1] Che cosa?** Questo.",
        "- **[D1](#d1){ #d1 } Che cosa?**",
        "- **[D1](#d1){ #d1 }** Questo.",
        "Una parola [D1](#d1){ #d1 } di passaggio.",
        "  - **[D1](#d1){ #d1 } Che cosa?** Questo.",
        "## Titolo { #d1 }",
    ],
)
def test_what_wants_to_be_an_entry_and_cannot_be_read_is_a_complaint(
    house: LittleHouse, line: str
) -> None:
    house.change("gpu_notes/b.md", "# B\n", f"# B\n\n{line}\n")
    (complaint,) = house.complaints
    assert complaint.startswith("gpu_notes/b.md:3: questa voce non si legge")


@pytest.mark.parametrize(
    "text",
    [
        "```markdown\n- **[D9](#d9){ #d9 } Che cosa?** Questo.\n```",
        "Si veda [D1](a.md#d1), e **D1**.",
        "- **Direct3D 9** no, **[Dati](#dati){ #dati }** nemmeno.",
        "- **[A](#a){ #a }** una lettera sola.",
    ],
)
def test_what_is_not_an_entry_is_left_alone(house: LittleHouse, text: str) -> None:
    house.change("gpu_notes/b.md", "# B\n", f"# B\n\n{text}\n")
    assert house.complaints == []


def test_two_pages_may_answer_and_one_page_answers_once(house: LittleHouse) -> None:
    again = f"- **[D1](#d1){{ #d1 }} E qui?** Anche. {LINK}\n"
    house.change("gpu_notes/b.md", "# B\n", f"# B\n\n{again}")
    assert house.complaints == []
    house.change("paper_it/a.md", "- **[A2]", f"{again}- **[A2]")
    assert house.complaints == ["paper_it/a.md:4: D1 ha già una voce su questa pagina"]


def test_two_indexes_do_not_share_a_number(house: LittleHouse) -> None:
    (house.root / "docs/credenze.md").write_text(INDEX.replace("D1 paper_it/a.md\n", ""), "utf-8")
    assert house.complaints == [
        "docs/domande.md:5: A2 è già in un indice: togli una delle due righe"
    ]


def test_complaints_come_by_page_and_line(house: LittleHouse) -> None:
    house.change("paper_it/a.md", f"No. {LINK}", "No.")
    house.change("paper_it/a.md", "# Una pagina\n", "# Una pagina { #d1 }\n")
    house.change("docs/domande.md", "```\n", "D4 paper_it/a.md\n```\n")
    places = [complaint.split(": ")[0] for complaint in house.complaints]
    assert places == ["docs/domande.md:6", "paper_it/a.md:1", "paper_it/a.md:4"]


# L'inizio di una risposta.

LONG = "X" * LENGTH


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Sì. E poi.", "Sì. E poi."),
        ("Sì.", "Sì."),
        ("Senza punto", "Senza punto"),
        (f"Sì. {LONG}.", "Sì."),
        (f"{LONG}{LONG}. Altro.", f"{LONG}{LONG}."),
        (f"Sì. {LONG[4:]}", f"Sì. {LONG[4:]}"),
        (f"Sì. {LONG[3:]}", "Sì."),
        (f"Sì. [{LONG[8:]}](indirizzo lungo). No.", f"Sì. [{LONG[8:]}](indirizzo lungo)."),
        (f"No. Prova: {LINK}.", "No."),
        (f"No. Prove: {LINK}. E altro.", "No."),
        ("Provato. Provando.", "Provato. Provando."),
        (f"No ({LINK}), mai ({LINK}, {LINK} e {LINK}).", "No, mai."),
        ("Vale 1.5. Sì.", "Vale 1.5. Sì."),
        ("Uno. `a. B` (c. D) [e. F](g) «h. I» $j. K$. Fine", "Uno. `a. B` (c. D) [e. F](g) "
         "«h. I» $j. K$. Fine"),
        ("Come? Così. *Sempre.* Sì", "Come? Così. *Sempre.* Sì"),
        ("Sì. Lo mostra il blocco:", "Sì."),
    ],
)  # fmt: skip
def test_an_opening_is_made_of_whole_sentences(text: str, expected: str) -> None:
    assert opening(text) == expected


@pytest.mark.parametrize(
    "whole",
    ["`a. B`", "$a. B$", "[a. B](c)", "(a. B)", "«a. B»", "(`a`. [B](c. D))", "cm. e"],
)
def test_a_sentence_is_not_cut_inside_something(whole: str) -> None:
    """Ciò che segue il punto non entrerebbe: se si tagliasse lì, resterebbe metà."""
    text = f"Uno {whole} {LONG.lower()}."
    assert opening(text) == text


@pytest.mark.parametrize("end", [".", "?", ".*", ".**"])
@pytest.mark.parametrize("start", ["Due", "«Due", "`due`", "$due$", "[due](e)", "2", "È"])
def test_a_sentence_ends_before_a_capital_or_a_sign(end: str, start: str) -> None:
    assert opening(f"Uno{end} {start} {LONG}.") == f"Uno{end}"


# I collegamenti.


@pytest.mark.parametrize(
    ("page", "link", "expected"),
    [
        ("paper_it/a.md", "#qui", "paper_it/a.md#qui"),
        ("paper_it/a.md", "b.md", "paper_it/b.md"),
        ("paper_it/beyond/a.md", "../s1.md#p-1-1", "paper_it/s1.md#p-1-1"),
        ("paper_it/beyond/a.md", "../../gpu_notes/b.md", "gpu_notes/b.md"),
        ("gpu_notes/a.md", "../misure.md#x", "misure.md#x"),
        ("docs/misure.md", "gpu_notes/b.md", "gpu_notes/b.md"),
        ("docs/misure.md", "#x", "misure.md#x"),
        ("gpu_notes/a.md", "https://esempio.it/a#b", "https://esempio.it/a#b"),
    ],
)
def test_links_are_rewritten_for_the_index(page: str, link: str, expected: str) -> None:
    text = "[uno]({}) e [`due`]({})."
    assert rebased(text.format(link, link), Path(page)) == text.format(expected, expected)


# L'indice.

HERE, THERE = Path("paper_it/beyond/a.md"), Path("gpu_notes/b.md")

TITLES = {HERE: "La A", THERE: "La B"}

PROOFS = (("test_a", "tests/beyond/test_a", "test_a"), ("test_b", "tests/test_b", "test_b"))

FOUND = [
    Entry(THERE, 3, "D1", "d1", "d1", "Di nuovo?", "Anche.", PROOFS[1:]),
    Entry(HERE, 5, "D1", "d1", "d1", "Che [cosa](#x)?", "Si veda [qui](../s1.md).", PROOFS),
    Entry(HERE, 6, "D2", "d2", "d2", "Altro?", "Altro.", PROOFS[:1]),
]


def test_a_question_is_listed_with_its_main_answer_first() -> None:
    assert listing("D1", HERE.as_posix(), FOUND, TITLES) == (
        '### <span class="numero">D1</span> Che [cosa](paper_it/beyond/a.md#x)? '
        '{ #d1 data-toc-label="D1" }\n\nSi veda [qui](paper_it/s1.md).\n\n'
        "Per intero in [La A](paper_it/beyond/a.md#d1); anche in [La B](gpu_notes/b.md#d1).<br>"
        "Prova: [`test_a`](sorgenti/tests/beyond/test_a.md#test_a), "
        "[`test_b`](sorgenti/tests/test_b.md#test_b).\n{ .dove }\n"
    )
    assert "Per intero in [La A](paper_it/beyond/a.md#d2).<br>" in listing(
        "D2", HERE.as_posix(), FOUND, TITLES
    )


def test_the_others_follow_in_the_order_they_come() -> None:
    """La pagina principale va in testa, che venga prima, in mezzo o dopo le altre."""
    names = ("a.md", "m.md", "z.md")
    found = [Entry(Path(it), 1, "D1", "d1", "d1", "Sì?", "Sì.", PROOFS) for it in names]
    titles = {Path(it): it for it in names}
    for main, order in (("a.md", "amz"), ("m.md", "maz"), ("z.md", "zam")):
        shown = listing("D1", main, found, titles)
        assert re.findall(r"\[(\w)\.md\]", shown) == [*order]


@pytest.mark.parametrize(
    ("number", "page"),
    [("D2", THERE), ("D3", HERE), ("D1", Path("c.md")), ("D1", Path("z.md"))],
)
def test_a_page_that_does_not_answer_cannot_be_listed(number: str, page: Path) -> None:
    with pytest.raises(MissingAnswerError, match=f"«{page.as_posix()}» non risponde a {number}"):
        listing(number, page.as_posix(), FOUND, TITLES)


@pytest.fixture(scope="module")
def convert() -> Callable[[str], BeautifulSoup]:
    """Da Markdown a HTML, con le estensioni del sito."""
    config = yaml_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = [it if isinstance(it, dict) else {it: {}} for it in config["markdown_extensions"]]
    options = {name: given for item in named for name, given in item.items()}

    def converted(text: str) -> BeautifulSoup:
        html = markdown.Markdown(extensions=list(options), extension_configs=options).convert(text)
        return BeautifulSoup(html, "html.parser")

    return converted


def test_the_fence_becomes_headings_answers_and_links(
    convert: Callable[[str], BeautifulSoup],
) -> None:
    page = convert(
        "# Titolo\n\n```indice\nD13 paper_it/s3_3_feed_forward.md\n"
        "  D17  paper_it/s3_1_encoder_decoder_stacks.md\n```\n\nIn mezzo.\n\n"
        "```indice\nB8 paper_it/s3_3_feed_forward.md\n```\n\nDopo.\n"
    )
    assert [heading["id"] for heading in page.select("h3")] == ["d13", "d17", "b8"]
    assert [it.get_text() for it in page.select("h3 .numero")] == ["D13", "D17", "B8"]
    where = page.select("p.dove")
    assert [it.select_one("a")["href"].partition("#")[2] for it in where] == ["d13", "d17", "b8"]
    title = "§3.3 Reti feed-forward posizione per posizione"
    assert where[0].select_one("a").get_text() == title
    assert all("/test_s3_" in it.select("a")[-1]["href"] for it in where)
    order = [it.get_text() for it in page.select("p") if it.get_text() in ("In mezzo.", "Dopo.")]
    assert order == ["In mezzo.", "Dopo."]
    assert page.get_text().index("In mezzo.") < page.get_text().index("B8")
    assert page.select("pre, code.indice") == []


@pytest.mark.parametrize("rest", ["", "D13\n", "D13 paper_it/s3_3_feed_forward.md, D14\n"])
def test_a_row_that_cannot_be_read_stops_the_site(
    convert: Callable[[str], BeautifulSoup], rest: str
) -> None:
    with pytest.raises(MissingAnswerError, match=r"una riga non è «numero pagina\.md»"):
        convert(f"```indice\n{rest}```\n")


def test_only_the_fence_is_replaced_and_nothing_around_it() -> None:
    asked = ["B8 paper_it/s3_3_feed_forward.md", "D13 paper_it/s3_3_feed_forward.md"]
    lines = ["```c", "", "```", "```indice", *asked, "```", "Tre.", "", "Quattro."]
    woven = Indexes(markdown.Markdown()).run(list(lines))
    assert woven[:3] == lines[:3]
    assert woven[3].startswith('### <span class="numero">B8</span>')
    assert woven[-4:] == ["", "Tre.", "", "Quattro."]
    assert woven[-5] == "{ .dove }"
    assert not any("```" in line for line in woven[3:])


def test_an_index_shown_as_an_example_stays_as_it_is() -> None:
    lines = ["````markdown", "```indice", "D13 a.md", "```", "````", "", "L'indice."]
    assert Indexes(markdown.Markdown()).run(list(lines)) == lines


def test_the_toc_of_an_index_has_the_numbers(convert: Callable[[str], BeautifulSoup]) -> None:
    converter = markdown.Markdown(extensions=["attr_list", "toc", "weave.questions"])
    converter.convert("## Gruppo\n\n```indice\nD13 paper_it/s3_3_feed_forward.md\n```\n")
    (group,) = converter.toc_tokens
    assert [child["name"] for child in group["children"]] == ["D13"]
