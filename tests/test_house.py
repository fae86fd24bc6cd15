"""La casa: ogni terna è intera, ogni pagina ha la sua forma, ogni sezione rispetta il suo posto."""

import ast
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from mkdocs.utils import yaml_load

from weave.house import ROOT, SHELVES, Triple, companions, section_number, triple_of, triples
from weave.pact import check_companion, check_imports, check_triple
from weave.questions import TEST_LINK, lost_test

SECTIONS = [triple for triple in triples() if section_number(triple.stem)]

every_section = pytest.mark.parametrize("triple", SECTIONS, ids=lambda triple: triple.stem)

PARAGRAPHS = {
    "0": "1",
    "1": "1234",
    "2": "1234",
    "3": "12",
    "3.1": "12",
    "3.2": "1",
    "3.2.1": "1234",
    "3.2.2": "1234",
    "3.2.3": "1abc",
    "3.3": "12",
    "3.4": "1",
    "3.5": "1234",
    "4": "123456",
    "5": "1",
    "5.1": "1",
    "5.2": "1",
    "5.3": "12",
    "5.4": "123",
    "6.1": "1234",
    "6.2": "123",
    "6.3": "12345",
    "7": "12345",
    "a": "",
}
"""I capoversi dell'articolo, una lettera o cifra ciascuno: a, b, c sono i tre punti di §3.2.3; il
quinto di §7 sono i ringraziamenti."""

PARTS = {"5.1": ("5", "5.1")}
"""La §5 non ha una pagina sua: il suo capoverso apre quella della §5.1."""

EQUATIONS = {"3.2.1": ["1"], "3.3": ["2"], "5.3": ["3"]}
"""Le equazioni che l'articolo numera."""

ANATOMY = (
    "In breve",
    "Traduzione ragionata",
    "Simboli",
    "Con i numeri del lettore",
    "A matita",
    "Se vieni dal Fortran",
    "Sulla GPU",
    "Misure",
    "Che cosa prova il test",
    "Articolo ≠ codice",
    "Domande e false credenze",
    "Prova tu",
)
"""Le parti di una pagina, nell'ordine."""

MANDATORY = {
    "In breve",
    "Traduzione ragionata",
    "Simboli",
    "Con i numeri del lettore",
    "Che cosa prova il test",
}

BANNED = re.compile(r"\b(semplicemente|ovviamente|magia)\b", re.IGNORECASE)

EMOJI = re.compile("[\u2600-\u26ff\u2705\u2728\u274c\u2757\ufe0f\U0001f000-\U0001faff]")

NOT_PROSE = (
    r"^[ >]*(`{3,}|~{3,}).*?^[ >]*\1[`~]*[ ]*$",  # riquadri
    r"(`+)(?!`)[^\n]+?(?<!`)\1(?!`)",  # codice nella riga
    r"\$\$.+?\$\$|\$[^$\n]+\$",  # formule
    r"<!--.*?-->",
    r"!(?=\[)",  # immagini
    r"^!{3}(?= )",  # avvisi
)


def label(stem: str) -> str:
    """Come una pagina chiama la sua sezione."""
    number = section_number(stem)
    return {"0": "Sommario", "a": "Appendice"}.get(number, f"§{number}")


def page_of(triple: Triple) -> str:
    return (ROOT / triple.page_path).read_text(encoding="utf-8")


def prose(page: str) -> str:
    """Una pagina senza codice e senza formule; le righe restano quelle."""
    for pattern in NOT_PROSE:
        page = re.sub(
            pattern, lambda cut: "\n" * cut[0].count("\n"), page, flags=re.DOTALL | re.MULTILINE
        )
    return page


def no_complaints(found: list[str]) -> None:
    """Nessun reclamo; se ce ne sono, uno per riga, per intero."""
    if found:
        pytest.fail("\n".join(found), pytrace=False)


# Il patto.


@pytest.mark.parametrize("triple", triples(), ids=lambda triple: triple.stem)
def test_triple_is_whole_and_keeps_the_pact(triple: Triple) -> None:
    no_complaints([str(complaint) for complaint in check_triple(triple)])


@pytest.mark.parametrize("path", companions(), ids=str)
def test_page_without_a_module_keeps_the_pact(path: Path) -> None:
    no_complaints([str(complaint) for complaint in check_companion(path)])


def test_house_has_sections_to_check() -> None:
    numbers = [section_number(triple.stem) for triple in SECTIONS]
    assert {"3.2", "3.2.1", "3.2.2", "3.2.3"} <= set(numbers) <= set(PARAGRAPHS)
    assert len(numbers) == len(set(numbers))


# La legge degli import.


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("s3_2_1_scaled_dot_product", "from attention.s3_2_attention import require"),
        ("s3_2_attention", "from attention.s3_2_1_scaled_dot_product import attention_weights"),
        ("s3_model_architecture", "from attention import s3_5_positional_encoding"),
        ("s3_2_2_multi_head", "from . import s3_2_1_scaled_dot_product as equation"),
        ("s3_2_2_multi_head", "from .s3_2_1_scaled_dot_product import attention_weights"),
        ("s6_1_machine_translation", "import attention.s3_model_architecture"),
        ("s3_10_last", "import attention.s3_9_previous"),
        ("s1_introduction", "import attention.s0_abstract"),
        ("sa_attention_visualizations", "import attention.s7_conclusion"),
        ("beyond.rope", "from attention import MultiHeadAttention"),
        ("beyond.rope", "import attention.beyond.alibi"),
        ("s3_2_attention", "import math, torch.nn\nfrom collections.abc import Callable"),
        ("s3_2_attention", "import attentions, weaver"),
    ],
)
def test_section_may_import_what_the_paper_has_already_said(module: str, source: str) -> None:
    assert complaints_about(module, source) == []


@pytest.mark.parametrize(
    ("module", "source", "line", "name"),
    [
        ("s3_2_1_scaled_dot_product", "import attention.s3_2_2_multi_head", 1, "s3_2_2_multi_head"),
        ("s3_1_stacks", "from attention.s3_2_attention import require", 1, "s3_2_attention"),
        ("s3_1_stacks", "import attention.s3_10_other", 1, "s3_10_other"),
        ("s3_2_attention", "\nfrom attention import s3_3_feed_forward", 2, "s3_3_feed_forward"),
        ("s3_2_attention", "from . import s4_why_self_attention", 1, "s4_why_self_attention"),
        ("s3_2_attention", "from .s3_3_ffn import relu", 1, "s3_3_ffn"),
        ("s3_2_attention", "def f():\n    import attention.s7_conclusion", 2, "s7_conclusion"),
        ("s3_2_attention", "import attention.s3_2_attention", 1, "s3_2_attention"),
        ("s7_conclusion", "from attention import MultiHeadAttention", 1, "MultiHeadAttention"),
        ("s7_conclusion", "import attention.sa_visualizations", 1, "sa_visualizations"),
        ("s7_conclusion", "import attention.beyond.rope", 1, "beyond.rope"),
        ("sa_visualizations", "import attention.beyond.rope", 1, "beyond.rope"),
    ],
)
def test_section_may_not_import_what_comes_later(
    module: str, source: str, line: int, name: str
) -> None:
    (complaint,) = complaints_about(module, source)
    assert complaint.startswith(f"attention/{module}.py:{line}: «attention.{name}»")
    assert "lo riceve come argomento" in complaint


@pytest.mark.parametrize("source", ["import attention", "import weave.pact", "import tests.a as b"])
def test_section_imports_neither_the_facade_nor_the_tools(source: str) -> None:
    assert len(complaints_about("s7_conclusion", source)) == 1


def test_each_unlawful_import_is_a_complaint() -> None:
    source = "import attention.s4_a, math, attention.s5_1_b\nfrom attention.s6_1_c import d, e\n"
    assert len(complaints_about("s3_2_attention", source)) == 3


def complaints_about(module: str, source: str) -> list[str]:
    triple = triple_of(f"attention.{module}")
    assert triple is not None
    return [str(complaint) for complaint in check_imports(source, triple)]


# Il posto di ogni sezione.


@every_section
def test_module_says_its_section_and_its_equation(triple: Triple) -> None:
    source = (ROOT / triple.module_path).read_text(encoding="utf-8")
    first, *_ = (ast.get_docstring(ast.parse(source)) or "").split("\n")
    assert re.match(rf"{re.escape(label(triple.stem))}(?![\w.])", first), first
    numbered = EQUATIONS.get(section_number(triple.stem), [])
    assert re.findall(r"\beq\. \((\d)\)", first) == numbered


@every_section
def test_page_shows_the_equations_the_paper_numbers(triple: Triple) -> None:
    numbered = EQUATIONS.get(section_number(triple.stem), [])
    assert re.findall(r"\\tag\{(\d)\}", page_of(triple)) == numbered


@every_section
def test_page_title_says_its_section(triple: Triple) -> None:
    title, *_ = page_of(triple).split("\n")
    assert title.startswith(f"# {label(triple.stem)}"), title
    assert navigation()[triple.page_path.as_posix()] == title.removeprefix("# ")


def navigation() -> dict[str, str]:
    """Le pagine nella navigazione del sito, nell'ordine, con il loro titolo."""
    found: dict[str, str] = {}

    def visit(entries: list) -> None:
        for entry in entries:
            for title, content in entry.items():
                if isinstance(content, list):
                    visit(content)
                else:
                    found[content] = title

    visit(yaml_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    return found


def test_every_page_is_in_the_navigation() -> None:
    pages = [path.relative_to(ROOT) for shelf in SHELVES for path in (ROOT / shelf).rglob("*.md")]
    listed = [path for path in navigation() if path.partition("/")[0] in SHELVES]
    assert sorted(listed) == sorted(path.as_posix() for path in pages)


def test_reference_index_leads_to_every_interface() -> None:
    """Le pagine di riferimento non stanno nella barra: l'indice le elenca tutte."""
    folder = ROOT / "docs" / "riferimento"
    listed = re.findall(r"\]\(([\w/]+\.md)\)", (folder / "index.md").read_text(encoding="utf-8"))
    pages = {path.relative_to(folder).as_posix() for path in folder.rglob("*.md")} - {"index.md"}
    assert sorted(listed) == sorted(pages)


def test_navigation_follows_the_paper() -> None:
    pages = [triple.page_path for triple in triples() if triple.shelf == "paper_it"]
    sections = [page.as_posix() for page in pages if page.parent.name == "paper_it"]
    assert [path for path in navigation() if path in sections] == sections


def test_thread_lists_every_section_with_its_paragraphs() -> None:
    numbers = {"–": "0", "App.": "a"}
    rows = [
        [cell.strip() for cell in row.split("|")]
        for row in re.findall(
            r"^\| *((?:–|App\.|\d[\d.]*) *\|.+)\|$",
            (ROOT / "paper_it/index.md").read_text(encoding="utf-8"),
            flags=re.MULTILINE,
        )
    ]
    counted = {numbers.get(row[0], row[0]): row[4] for row in rows}
    assert counted == {number: str(len(marks) or "–") for number, marks in PARAGRAPHS.items()}
    linked = {numbers.get(row[0], row[0]) for row in rows if ".md" in row[2]}
    assert linked == {section_number(triple.stem) for triple in SECTIONS}


# I capoversi.


def test_paper_has_sixty_four_paragraphs() -> None:
    assert sum(map(len, PARAGRAPHS.values())) == 64


@every_section
def test_every_paragraph_of_the_paper_has_its_anchor(triple: Triple) -> None:
    assert openings(page_of(triple)) == expected_openings(triple.stem)


def openings(page: str) -> list[str]:
    """L'inizio di ogni capoverso tradotto, fino alla fine dell'ancora."""
    return re.findall(r"^.*?\.capoverso \}", page, flags=re.MULTILINE)


def expected_openings(stem: str) -> list[str]:
    own = section_number(stem)
    return [
        opening(label(stem) if number == own else f"§{number}", number, mark)
        for number in PARTS.get(own, (own,))
        for mark in PARAGRAPHS[number]
    ]


def opening(section: str, number: str, mark: str) -> str:
    anchor, sign = f"p-{number}-{mark}", "¶" if mark.isdigit() else "•"
    return f"> [{section} {sign}{mark}](#{anchor}){{ #{anchor} .capoverso }}"


def test_openings_are_read_from_the_text() -> None:
    page = "> [§3.4 ¶1](#p-3.4-1){ #p-3.4-1 .capoverso } Uno.\n\nUn commento.\n"
    assert openings(page) == expected_openings("s3_4_embeddings") == [page.partition(" Uno")[0]]
    assert [line.partition("]")[0] for line in expected_openings("s5_1_data")] == [
        "> [§5 ¶1",
        "> [§5.1 ¶1",
    ]
    assert (
        expected_openings("s3_2_3_uses")[-1] == "> [§3.2.3 •c](#p-3.2.3-c){ #p-3.2.3-c .capoverso }"
    )
    assert expected_openings("s0_abstract") == ["> [Sommario ¶1](#p-0-1){ #p-0-1 .capoverso }"]


# L'anatomia.


@every_section
def test_page_has_its_parts_in_order(triple: Triple) -> None:
    no_complaints(anatomy_complaints(page_of(triple)))


def headings(page: str) -> list[str]:
    found = re.findall(r"^## (.+?)(?: \{.*\})?$", prose(page), flags=re.MULTILINE)
    return [heading.removesuffix(" (o dall'assembler)") for heading in found]


def anatomy_complaints(page: str) -> list[str]:
    """Che cosa non va nei titoli di secondo livello di una pagina."""
    found = headings(page)
    return [
        *(f"«{it}» non è una delle parti di una pagina" for it in found if it not in ANATOMY),
        *(f"manca «{it}»" for it in ANATOMY if it in MANDATORY and it not in found),
        *(f"«{it}» è fuori posto" for it in misplaced([it for it in found if it in ANATOMY])),
    ]


def misplaced(parts: list[str]) -> list[str]:
    places = [ANATOMY.index(part) for part in parts]
    return [part for i, part in enumerate(parts) if i and places[i] <= max(places[:i])]


def test_thread_tells_the_parts_of_a_page() -> None:
    thread = (ROOT / "paper_it/index.md").read_text(encoding="utf-8")
    assert tuple(re.findall(r"^\d+\. \*\*(.+?)\*\*", thread, flags=re.MULTILINE)) == ANATOMY


SKELETON = "\n\n".join(f"## {part}" for part in ANATOMY)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("## Misure", ""),
        ("## Misure", "## Misure { #misure }\n\n### Su CPU"),
        ("dal Fortran", "dal Fortran (o dall'assembler)"),
    ],
)
def test_anatomy_allows_for_what_a_section_has_to_say(old: str, new: str) -> None:
    assert anatomy_complaints(SKELETON.replace(old, new)) == []


@pytest.mark.parametrize(
    ("old", "new", "complaints"),
    [
        ("## Misure", "## Tempi", ["«Tempi» non è una delle parti di una pagina"]),
        ("## Simboli", "### Simboli", ["manca «Simboli»"]),
        ("## Simboli", "```text\n## Simboli\n```", ["manca «Simboli»"]),
        ("## Simboli", "## Simboli\n\n## In breve", ["«In breve» è fuori posto"]),
        ("## Misure", "## A matita\n\n## Misure", ["«A matita» è fuori posto"]),
    ],
)
def test_anatomy_complains_about_what_is_wrong(old: str, new: str, complaints: list[str]) -> None:
    assert anatomy_complaints(SKELETON.replace(old, new)) == complaints


# Le prove citate.


@every_section
def test_every_claim_has_its_test_or_a_reason(triple: Triple) -> None:
    claims = claims_of(page_of(triple))
    assert any(TEST_LINK.search(proof) for _, proof in claims), "nessun test nella tabella"
    no_complaints([f"senza prova: {claim}" for claim, proof in claims if not is_proof(proof)])


def claims_of(page: str) -> list[tuple[str, str]]:
    """Le righe della tabella «Che cosa prova il test»: la tesi e la sua prova."""
    part = page.partition("## Che cosa prova il test\n")[2].partition("\n## ")[0]
    rows = [row.strip("|").split("|") for row in re.findall(r"^\|.+\|$", part, flags=re.MULTILINE)]
    return [(row[0].strip(), row[-1].strip()) for row in rows[2:]]


def is_proof(proof: str) -> bool:
    """Un test, o il motivo per cui non c'è: una parola sola non è un motivo."""
    return bool(TEST_LINK.search(proof)) or len(proof.split()) > 3


def test_claims_are_read_from_the_table() -> None:
    link = "[`test_a`](../sorgenti/tests/test_b.md#test_a)"
    page = (
        f"## Che cosa prova il test\n\n| Tesi | Test |\n|---|---|\n| Uno | {link} |\n| Due | – |\n"
    )
    claims = claims_of(f"{page}\n## Prova tu\n\n| Altro | Altro |\n")
    assert claims == [("Uno", link), ("Due", "–")]
    assert [is_proof(proof) for _, proof in claims] == [True, False]
    assert is_proof("è un risultato sperimentale: sta in §6.2")


TEXTS = sorted(
    path.relative_to(ROOT)
    for path in [
        *(path for folder in (*SHELVES, "docs") for path in (ROOT / folder).rglob("*.md")),
        *ROOT.glob("*.md"),
    ]
)

every_text = pytest.mark.parametrize("path", TEXTS, ids=str)


@every_text
def test_every_test_a_text_cites_exists(path: Path) -> None:
    text = (ROOT / path).read_text(encoding="utf-8")
    files = set(re.findall(r"\btests/[\w/]+\.py\b", text))
    absent = [f"«{name}» non esiste" for name in sorted(files) if not (ROOT / name).exists()]
    lost = [lost_test(*found.groups()) for found in TEST_LINK.finditer(text)]
    no_complaints([*absent, *sorted({complaint for complaint in lost if complaint})])


@pytest.mark.parametrize(
    "link",
    [
        ("test_nothing", "tests/test_house", "test_nothing"),
        ("test_other", "tests/test_house", "test_house_has_sections_to_check"),
        ("test_house_has_sections_to_check", "tests/nowhere", "test_house_has_sections_to_check"),
    ],
)
def test_lost_test_is_noticed(link: tuple[str, str, str]) -> None:
    assert lost_test(*link).startswith(f"{link[1]}.py::{link[2]}")
    name = "test_house_has_sections_to_check"
    assert lost_test(name, "tests/test_house", name) == ""


def test_test_without_an_address_is_noticed() -> None:
    assert lost_test("score", "tests/mutation", "score").startswith("tests/mutation.py:")


# La voce.


@pytest.mark.parametrize("path", [it for it in TEXTS if it.name != "CONTRIBUTING.md"], ids=str)
def test_texts_keep_a_sober_voice(path: Path) -> None:
    no_complaints(loud_lines((ROOT / path).read_text(encoding="utf-8")))


def loud_lines(page: str) -> list[str]:
    """Le righe di prosa con un esclamativo, un'emoji, una parola che la casa non usa."""
    return prose_lines(page, lambda line: "!" in line or BANNED.search(line) or EMOJI.search(line))


def prose_lines(page: str, found: Callable[[str], object]) -> list[str]:
    """Le righe di prosa in cui qualcosa si trova, con il loro numero."""
    lines = enumerate(prose(page).split("\n"), start=1)
    return [f"{number}: {line}" for number, line in lines if found(line)]


@pytest.mark.parametrize(
    "line",
    [
        "Ecco fatto!",
        "Basta Semplicemente leggere.",
        "È ovviamente così.",
        "Sembra magia.",
        "Sì ✅",
        "🚀",
    ],
)
def test_loud_line_is_noticed_wherever_it_is(line: str) -> None:
    page = f"# Titolo\n\n```fortran\nx = 1 ! nota\n```\n\n> {line}\n"
    assert loud_lines(page) == [f"7: > {line}"]


@every_text
def test_numbers_do_not_break_across_lines(path: Path) -> None:
    """Lo spazio fino fra le migliaia, quello che non si spezza prima di «%» e delle unità."""
    no_complaints(broken_numbers((ROOT / path).read_text(encoding="utf-8")))


def broken_numbers(page: str) -> list[str]:
    """Le righe di prosa con un numero che il browser può lasciare a metà in fondo alla riga."""
    return prose_lines(page, BREAKABLE.search)


UNITS = r"%|[mµn]s|[TG]FLOP/s|[TGM]B/s|[MG]Hz|W|[TGMKk]B"
BREAKABLE = re.compile(
    rf"(?<![\w.,\u202f])\d{{1,3}}(?:[ \u00a0]\d{{3}})+(?!\d)|\d (?:{UNITS})(?![\w/])"
)


def test_number_that_may_break_is_noticed() -> None:
    broken = [
        "circa 25 000 token",
        "le 37\u00a0000 voci",
        "−1 234 567",
        "il 12 % del tempo",
        "0,3 ms",
    ]
    assert broken_numbers("\n".join(broken)) == [f"{i}: {it}" for i, it in enumerate(broken, 1)]
    whole = "25\u202f000 token, 12\u00a0%, `25 000`, $25\\,000$, in FP32 362 volte, 4096 768, 12 We"
    assert broken_numbers(whole) == []


@pytest.mark.parametrize(
    "line",
    [
        "$\\mathrm{softmax}\\!(x)$ e $$a\\!b$$",
        "`a != b` e ``b ` ! c``",
        "![Un disegno](a.png)",
        "!!! note",
        "~~~fortran\n! semplicemente\n~~~",
        "> ```fortran\n> ! ovviamente\n> ```",
        "<!-- ! -->",
        "L'immagine, le magie, a → b ≠ c ✓",
    ],
)
def test_code_and_formulas_may_shout(line: str) -> None:
    assert loud_lines(f"Prosa.\n\n{line}\n\nProsa.") == []
