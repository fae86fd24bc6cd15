"""Il telaio: i frammenti ridanno il file, ogni modo di rompere il patto dà un solo reclamo."""

import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import markdown
import pytest
from bs4 import BeautifulSoup
from hypothesis import given
from hypothesis import strategies as st
from mkdocs.utils import yaml_load
from pymdownx.superfences import SuperFencesException

import weave.__main__
from weave import fences, glossary
from weave.fragments import HEAD, Fragment, FragmentError, split, split_file
from weave.glossary import GLOSSARY, terms
from weave.hooks import _blocks, on_pre_build
from weave.house import (
    ROOT,
    Triple,
    companions,
    page_url,
    section_number,
    source_url,
    sources,
    triple_of,
    triples,
)
from weave.pact import Complaint, blocks, check_house, check_page

# I frammenti.


def names_of(source: str) -> list[str]:
    return [fragment.name for fragment in split(source)]


def splits(path: Path) -> bool:
    try:
        return bool(split_file(ROOT / path))
    except FragmentError:
        return False


@pytest.mark.parametrize("path", [path for path in sources() if splits(path)], ids=str)
def test_fragments_of_every_source_give_the_file_back(path: Path) -> None:
    content = (ROOT / path).read_bytes()
    fragments = split_file(ROOT / path)
    assert "".join(fragment.text for fragment in fragments).encode() == content
    assert [fragment.line for fragment in fragments] == lines_before(fragments)


def lines_before(fragments: list[Fragment]) -> list[int]:
    ends = [fragment.last_line + 1 for fragment in fragments]
    return [1, *ends][: len(fragments)]


SAMPLE = '''"""Un modulo.

Con due righe.
"""

from dataclasses import dataclass
import math

# Un commento sulla costante.
SIZE = 3
"""La misura."""

WIDTH: int = (
    4
)


@dataclass(frozen=True)
class Shape:
    """Una forma."""

    side: int = SIZE
    """Il lato."""

    # Un commento sul metodo.
    @property
    def area(self) -> int:
        def square(x):
            return x * x

        return square(self.side)

    class Inner:
        # Un commento sul primo metodo.
        def first(self): ...

        def second(self): ...

    UNIT = "m"
    """L'unità."""

    async def wait(self): ...


class Bare(Exception): ...


@staticmethod
# Un commento fra i decoratori.
@(lambda f: f)
async def last():
    class Hidden:
        def method(self): ...

    return "fine"  # con un commento
'''

EXPECTED = {
    HEAD: ('"""Un modulo.', "import math"),
    "SIZE": ("# Un commento sulla costante.", '"""La misura."""'),
    "WIDTH": ("WIDTH: int = (", ")"),
    "Shape": ("@dataclass(frozen=True)", '    """Il lato."""'),
    "Shape.area": ("    # Un commento sul metodo.", "        return square(self.side)"),
    "Shape.Inner": ("    class Inner:", "    class Inner:"),
    "Shape.Inner.first": (
        "        # Un commento sul primo metodo.",
        "        def first(self): ...",
    ),
    "Shape.Inner.second": ("        def second(self): ...", "        def second(self): ..."),
    "Shape.UNIT": ('    UNIT = "m"', '    """L\'unità."""'),
    "Shape.wait": ("    async def wait(self): ...", "    async def wait(self): ..."),
    "Bare": ("class Bare(Exception): ...", "class Bare(Exception): ..."),
    "last": ("@staticmethod", '    return "fine"  # con un commento'),
}
"""Ogni frammento dell'esempio, con la sua prima e la sua ultima riga."""


def test_each_fragment_of_the_sample_has_its_lines() -> None:
    found = {
        fragment.name: (lines[0], lines[-1])
        for fragment in split(SAMPLE)
        if (lines := fragment.text.strip("\n").split("\n"))
    }
    assert found == EXPECTED
    assert list(found) == list(EXPECTED)


def test_line_numbers_of_a_fragment_are_those_of_the_file() -> None:
    lines = SAMPLE.split("\n")
    for fragment in split(SAMPLE):
        first, last = EXPECTED[fragment.name]
        assert lines[fragment.line + fragment.blank_lines - 1] == first
        assert lines[fragment.last_line - 1] == last


GAPS = st.sampled_from(["", "\n\n", "\n# nota\n", "# prima\n\n# seconda\n"])

LEAVES = (
    "NAME = 1\n",
    "NAME: int\n",
    'NAME = (\n    1,\n)\n"""Documentata."""\n',
    "NAME = '\f\u2028'\n\n'Documentata,\\\n\\\nsu tre righe.'\n",
    "def NAME(): ...\n",
    "async def NAME():\n    def inner(): ...\n    return inner  # fine\n",
    "@one\n# nota\n@two(\n    3,\n)\ndef NAME(): ...\n",
)

CLASS_HEADS = (
    "class NAME:\n",
    'class NAME(\n    Base,  # nota\n):\n    """Una classe."""\n',
    "@one\nclass NAME:\n    x: int = 0\n\n    y = 1\n    'Il campo.'\n",
)


@st.composite
def modules(draw: st.DrawFn) -> list[tuple[str, str]]:
    """Un modulo scelto a caso: i suoi frammenti, con il nome e il testo che devono avere."""
    found = [(HEAD, '"""Un modulo."""\n\nimport one\n')] if draw(st.booleans()) else []
    for name in "abcd"[: draw(st.integers(1, 4))]:
        if draw(st.booleans()):
            found.append((name, draw(GAPS) + named(draw(st.sampled_from(LEAVES)), name)))
        else:
            found.append((name, draw(GAPS) + named(draw(st.sampled_from(CLASS_HEADS)), name)))
            members = [LEAVES[-1], *draw(st.lists(st.sampled_from(LEAVES), max_size=3))]
            for member, leaf in zip("wxyz", members, strict=False):
                text = draw(GAPS) + named(leaf, member)
                found.append((f"{name}.{member}", indented(text)))
    return found


def named(template: str, name: str) -> str:
    return template.replace("NAME", name)


def indented(text: str) -> str:
    return re.sub(r"^(?=[^\n])", "    ", text, flags=re.MULTILINE)


@given(modules())
def test_fragments_of_any_module_are_its_definitions(module: list[tuple[str, str]]) -> None:
    source = "".join(text for _, text in module)
    assert [(fragment.name, fragment.text) for fragment in split(source)] == module


@pytest.mark.parametrize(
    ("source", "line", "words"),
    [
        ("A = 1\nprint(A)\n", 2, "senza nome"),
        ("A = 1\nA += 1\n", 2, "senza nome"),
        ("A = B = 1\n", 1, "più nomi"),
        ("A, B = 1, 2\n", 1, "più nomi"),
        ("import a\na.b = 1\n", 2, "senza nome"),
        ("class A:\n    def f(self): ...\n\n    print(1)\n", 4, "senza nome"),
        ("A = 1\nimport math\n", 2, "import fuori dalla testa"),
        ("import math\n\n'Un testo.'\n", 3, "non documenta nulla"),
        ("A = 1\n'Una.'\n'Due.'\n", 3, "non documenta nulla"),
        ("A = 1\n\n\ndef A(): ...\n", 4, "già definito alla riga 1"),
        ("class A:\n    def f(self): ...\n\n    @one\n    def f(self): ...\n", 4, "riga 2"),
        ("A = 1; B = 2\n", 1, "va a capo"),
        ("A = 1; B = (\n    2)\n", 1, "va a capo"),
        ("import math; A = 1\n", 1, "va a capo"),
        ("A = 1\n# in fondo\n", 2, "dopo l'ultima definizione"),
        ("A = 1\n\n", 2, "dopo l'ultima definizione"),
        ("# solo un commento\n", 1, "dopo l'ultima definizione"),
        ("A = 1\r\nB = 2\r\n", 1, "fine riga"),
        ("A = 1\nB = 2", 2, "fine riga"),
        ("A = 1\nB = = 2\n", 2, "non è Python valido"),
    ],
)
def test_what_cannot_be_split_says_where(source: str, line: int, words: str) -> None:
    with pytest.raises(FragmentError, match=words) as caught:
        split(source)
    assert caught.value.line == line


def test_start_from_the_command_line_has_a_name() -> None:
    """`if __name__ == "__main__":` è una definizione come le altre; un altro `if` non ha nome."""
    start = 'def main(): ...\n\n\nif __name__ == "__main__":\n    main()\n'
    assert [fragment.name for fragment in split(start)] == ["main", "__main__"]
    with pytest.raises(FragmentError, match="senza nome"):
        split(start.replace("__name__", "__file__"))


def test_file_is_read_without_translating_its_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "windows.py"
    path.write_bytes(b"A = 1\r\n")
    with pytest.raises(FragmentError, match="fine riga"):
        split_file(path)


# Il patto, rotto su una copia della casa.


class Copy:
    """La copia di una terna vera, che si può rompere."""

    def __init__(self, root: Path, triple: Triple):
        self.root, self.triple = root, triple
        for path in (triple.page_path, triple.module_path, triple.test_path):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, root / path)
        self.names = [fragment.name for fragment in split_file(root / triple.module_path)]

    def read(self, path: Path) -> str:
        return (self.root / path).read_text(encoding="utf-8")

    def edit(self, path: Path, change: Callable[[str], str]) -> None:
        old = self.read(path)
        new = change(old)
        assert new != old
        (self.root / path).write_text(new, encoding="utf-8")

    def on_page(self, change: Callable[[str], str]) -> None:
        self.edit(self.triple.page_path, change)

    def in_module(self, change: Callable[[str], str]) -> None:
        self.edit(self.triple.module_path, change)

    def address(self, index: int) -> str:
        name = self.names[index]
        return f"{self.triple.module}:{name}" if name else self.triple.module

    def fence(self, index: int) -> str:
        return fence(self.address(index))

    def line(self, text: str, path: Path | None = None) -> int:
        """La riga in cui comincia l'ultima comparsa di un testo."""
        content = self.read(path or self.triple.page_path)
        return content[: content.rindex(text)].count("\n") + 1

    def only_complaint(self) -> Complaint:
        complaints = check_house(self.root)
        assert len(complaints) == 1, [str(complaint) for complaint in complaints]
        return complaints[0]

    def expect(self, path: Path, line: int, *words: str) -> None:
        complaint = self.only_complaint()
        assert (complaint.path, complaint.line) == (path.as_posix(), line)
        assert [word for word in words if word not in complaint.message] == []


def fence(address: str) -> str:
    return f"```codice\n{address}\n```\n"


@pytest.fixture(params=["s3_2_1_scaled_dot_product", "s3_2_2_multi_head"])
def copy(request: pytest.FixtureRequest, tmp_path: Path) -> Copy:
    """Una sezione vera, di funzioni o con una classe, sola in una casa dove il patto tiene."""
    whole = Copy(tmp_path, Triple("paper_it", request.param))
    if broken := check_house(tmp_path):
        pytest.fail(f"la sezione vera rompe già il patto: {broken[0]}", pytrace=False)
    assert len(whole.names) > 4
    return whole


def test_missing_definition_is_asked_where_it_goes(copy: Copy) -> None:
    copy.on_page(lambda page: page.replace(copy.fence(2), ""))
    copy.expect(copy.triple.page_path, copy.line(copy.fence(3)), copy.address(2), "aggiungi qui")


def test_missing_last_definition_is_asked_at_the_end(copy: Copy) -> None:
    copy.on_page(lambda page: page.replace(copy.fence(-1), ""))
    end = copy.read(copy.triple.page_path).count("\n")
    copy.expect(copy.triple.page_path, end, copy.address(-1), "aggiungi qui")


def test_missing_head_is_asked_before_everything(copy: Copy) -> None:
    copy.on_page(lambda page: page.replace(copy.fence(0), ""))
    copy.expect(copy.triple.page_path, copy.line(copy.fence(1)), f"«{copy.triple.module}»")


@pytest.mark.parametrize("place", [0, 1, 2, 3])
def test_repeated_definition_is_one_complaint_wherever_it_is(copy: Copy, place: int) -> None:
    extra = copy.fence(2)
    copy.on_page(lambda page: page.replace(copy.fence(place), f"{extra}\n{copy.fence(place)}"))
    page = copy.read(copy.triple.page_path)
    first, second = (page[: found.start()].count("\n") + 1 for found in re.finditer(extra, page))
    copy.expect(copy.triple.page_path, second, f"è già alla riga {first}", "togli il riquadro")


def test_definition_pasted_over_another_names_both(copy: Copy) -> None:
    copy.on_page(lambda page: page.replace(copy.fence(3), copy.fence(2)))
    complaint = copy.only_complaint()
    assert f"«{copy.address(2)}» è già alla riga" in complaint.message
    assert f"forse qui va «{copy.address(3)}»" in complaint.message


def test_misspelt_name_suggests_the_right_one(copy: Copy) -> None:
    wrong = f"{copy.address(2)}x"
    copy.on_page(lambda page: page.replace(copy.fence(2), fence(wrong)))
    line = copy.line(fence(wrong))
    copy.expect(copy.triple.page_path, line, f"«{wrong}»", f"forse qui va «{copy.address(2)}»")


def test_emptied_fence_suggests_what_was_there(copy: Copy) -> None:
    copy.on_page(lambda page: page.replace(copy.fence(2), fence("")))
    line = copy.line(fence(""))
    copy.expect(copy.triple.page_path, line, "è vuoto", f"forse qui va «{copy.address(2)}»")


def test_two_swapped_definitions_are_one_complaint(copy: Copy) -> None:
    copy.on_page(lambda page: swapped(page, copy.fence(2), copy.fence(3)))
    copy.expect(
        copy.triple.page_path,
        copy.line(copy.fence(3)),
        f"«{copy.address(3)}» viene prima di «{copy.address(2)}»",
        "scambia",
    )


def swapped(text: str, one: str, other: str) -> str:
    return text.replace(one, "SCAMBIO").replace(other, one).replace("SCAMBIO", other)


EXTRA_FENCES = {
    "vuoto": ("", "è vuoto"),
    "nome inventato": ("{module}:nothing", "non esiste nel modulo"),
    "sezione precedente": ("attention.s1_other:thing", "non è di questa sezione"),
    "sezione seguente": ("attention.s9_other:thing", "non è di questa sezione"),
    "altro modulo": ("weave.pact:blocks", "non è di questa sezione"),
    "solo il nome": ("blocks", "non è di questa sezione"),
    "definizione interna": ("{name}.inner", "ciò che sta dentro «{name}» è già lì"),
    "due richieste": ("{name}\n{module}", "più di una riga"),
}


@pytest.mark.parametrize(("request_", "words"), EXTRA_FENCES.values(), ids=EXTRA_FENCES)
def test_extra_fence_is_one_complaint(copy: Copy, request_: str, words: str) -> None:
    fields = {"module": copy.triple.module, "name": copy.address(2)}
    extra = fence(request_.format(**fields))
    copy.on_page(lambda page: page.replace(copy.fence(2), f"{copy.fence(2)}\n{extra}"))
    line = copy.line(f"\n{extra}") + 1
    copy.expect(copy.triple.page_path, line, words.format(**fields), "togli il riquadro")


def test_unclosed_fence_is_one_complaint(copy: Copy) -> None:
    copy.on_page(lambda page: page.replace(copy.fence(2), copy.fence(2).removesuffix("```\n")))
    copy.expect(copy.triple.page_path, copy.line(f"```codice\n{copy.address(2)}\n"), "si chiude")


def test_fence_that_swallows_the_page_is_one_complaint(copy: Copy) -> None:
    copy.on_page(lambda page: page.replace(copy.fence(2), f"````text\n{copy.fence(2)}"))
    copy.expect(copy.triple.page_path, copy.line("````text"), "aggiungi la riga di chiusura")


@pytest.mark.parametrize("info", ["python", "py", "Python", "{.python}", 'python title="x"'])
def test_python_that_nobody_runs_is_one_complaint(copy: Copy, info: str) -> None:
    copy.on_page(lambda page: f"{page}\n```{info}\n1 + 1\n```\n")
    copy.expect(copy.triple.page_path, copy.line(f"```{info}\n1 + 1"), "nessuno esegue", "exec")


def test_executed_python_and_other_languages_are_welcome(copy: Copy) -> None:
    copy.on_page(
        lambda page: f'{page}\n```python exec="on"\n1\n```\n~~~fortran\n```python\nend\n~~~\n'
    )
    assert check_house(copy.root) == []


@pytest.mark.parametrize(
    ("added", "words"),
    [
        ("print(1)\n", "senza nome"),
        ("# in fondo\n", "dopo l'ultima definizione"),
        ("import math\n", "import fuori dalla testa"),
        ("FIRST = 1; SECOND = 2\n", "va a capo"),
        ("def broken(:\n", "non è Python valido"),
    ],
)
def test_spoilt_module_is_one_complaint(copy: Copy, added: str, words: str) -> None:
    copy.in_module(lambda source: source + added)
    copy.expect(copy.triple.module_path, copy.line(added, copy.triple.module_path), words)


def test_two_definitions_of_one_name_are_one_complaint(copy: Copy) -> None:
    name = next(name for name in copy.names if name and "." not in name)
    copy.in_module(lambda source: f"{source}{name} = 1\n")
    line = copy.line(f"\n{name} = 1\n", copy.triple.module_path) + 1
    copy.expect(copy.triple.module_path, line, f"«{name}» è già definito", "serve un altro nome")


def test_new_decorated_definition_must_reach_the_page(copy: Copy) -> None:
    copy.in_module(lambda source: f"{source}\n\n@staticmethod\ndef new() -> None: ...\n")
    end = copy.read(copy.triple.page_path).count("\n")
    copy.expect(copy.triple.page_path, end, f"manca «{copy.triple.module}:new»")


@pytest.mark.parametrize("source", ["", '"""Solo una docstring."""\n', "import math\n"])
def test_module_without_definitions_is_one_complaint(copy: Copy, source: str) -> None:
    copy.in_module(lambda _: source)
    copy.expect(copy.triple.module_path, 1, "non definisce nulla")


@pytest.mark.parametrize("part", ["page_path", "module_path", "test_path"])
def test_incomplete_triple_is_one_complaint(copy: Copy, part: str) -> None:
    absent = getattr(copy.triple, part)
    (copy.root / absent).unlink()
    if part == "test_path":
        copy.expect(copy.triple.page_path, 1, "la terna è incompleta", absent.as_posix())
    else:
        assert f"aggiungi {absent.as_posix()}" in copy.only_complaint().message


def test_unlawful_import_is_one_complaint(copy: Copy) -> None:
    copy.in_module(lambda source: f"{source}\n\ndef late() -> None:\n    import attention.s7_end\n")
    copy.on_page(lambda page: f"{page}\n{fence(f'{copy.triple.module}:late')}")
    line = copy.line("    import attention.s7_end", copy.triple.module_path)
    copy.expect(copy.triple.module_path, line, "«attention.s7_end»", "riceve come argomento")


def test_index_page_runs_its_python_and_weaves_nothing(copy: Copy) -> None:
    path = Path("paper_it", "index.md")
    (copy.root / path).write_text("# Il filo\n\n```python\n1\n```\n", encoding="utf-8")
    copy.expect(path, 3, "nessuno esegue")
    (copy.root / path).write_text(f"# Il filo\n\n{copy.fence(1)}", encoding="utf-8")
    copy.expect(path, 3, "qui non si tesse codice")


def test_gpu_note_may_have_no_module_but_a_module_has_its_triple(copy: Copy) -> None:
    folder = copy.root / "gpu_notes"
    folder.mkdir()
    (folder / "warp.md").write_text("# Warp\n", encoding="utf-8")
    assert check_house(copy.root) == []
    (folder / "warp.py").write_text("SIZE = 32\n", encoding="utf-8")
    copy.expect(Path("gpu_notes/warp.md"), 1, "aggiungi tests/gpu_notes/test_warp.py")


@given(modules(), st.data())
def test_any_single_error_on_a_page_is_one_complaint(
    module: list[tuple[str, str]], data: st.DataObject
) -> None:
    triple = Triple("paper_it", "s1_sample")
    names = [name for name, _ in module]
    asked = [f"{triple.module}:{name}" if name else triple.module for name in names]
    assert check_page("\n".join(map(fence, asked)), names, triple) == []
    place = data.draw(st.integers(0, len(asked) - 1))
    match data.draw(st.sampled_from(["remove", "repeat", "misspell", "swap"])):
        case "remove":
            broken = asked[:place] + asked[place + 1 :]
        case "repeat":
            copied = data.draw(st.sampled_from(asked))
            broken = [*asked[:place], copied, *asked[place:]]
        case "misspell":
            broken = [*asked[:place], f"{asked[place]}x", *asked[place + 1 :]]
        case "swap":
            other = data.draw(st.integers(0, len(asked) - 1).filter(lambda it: it != place))
            broken = list(asked)
            broken[place], broken[other] = asked[other], asked[place]
    complaints = check_page("\n".join(map(fence, broken)), names, triple)
    assert len(complaints) == 1, [str(complaint) for complaint in complaints]
    assert complaints[0].path == "paper_it/s1_sample.md"


def test_blocks_know_quotes_indents_and_longer_fences() -> None:
    page = '> ```text a="1"\n> uno\n> ```\n\n    ~~~~ {.due}\n    ```\n    ~~~\n    ~~~~\n'
    first, second = blocks(page)
    assert (first.line, first.language, first.closed) == (1, "text", True)
    assert (second.line, second.language) == (5, "due")
    assert second.content == "    ```\n    ~~~"


@pytest.mark.parametrize(
    ("complaints", "status", "said"),
    [([], 0, "Il patto tiene"), ([Complaint("a.md", 3, "manca")], 1, "a.md:3: manca\nIl patto è")],
)
def test_command_prints_the_complaints(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    complaints: list[Complaint],
    status: int,
    said: str,
) -> None:
    for found, silent in (("check_house", "check_questions"), ("check_questions", "check_house")):
        monkeypatch.setattr(weave.__main__, found, lambda: complaints)
        monkeypatch.setattr(weave.__main__, silent, list)
        assert weave.__main__.main() == status
        assert capsys.readouterr().out.startswith(said)


# I riquadri.


@pytest.fixture(scope="module")
def convert() -> Callable[[str], str]:
    """Da Markdown a HTML, con le estensioni e le opzioni del sito."""
    config = yaml_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    named = [
        item if isinstance(item, dict) else {item: {}} for item in config["markdown_extensions"]
    ]
    options = {name: options for item in named for name, options in item.items()}
    return markdown.Markdown(extensions=list(options), extension_configs=options).convert


@pytest.mark.parametrize("triple", triples(), ids=lambda triple: triple.stem)
def test_woven_fragments_give_the_module_back(
    convert: Callable[[str], str], triple: Triple
) -> None:
    fragments = split_file(ROOT / triple.module_path)
    asked = [f"{triple.module}:{it.name}" if it.name else triple.module for it in fragments]
    figures = BeautifulSoup(convert("\n".join(map(fence, asked))), "html.parser").select("figure")
    woven = [
        "\n" * int(it["data-blank-lines"]) + it.select_one("pre > code").text for it in figures
    ]
    assert woven == [fragment.text for fragment in fragments]


@pytest.mark.parametrize(
    ("language", "request_", "words"),
    [
        ("codice", "attention.s3_2_attention:nothing", "«attention.s3_2_attention:nothing»"),
        ("codice", "attention.s9_other:thing", "il modulo di «attention.s9_other:thing»"),
        ("codice", "weave.pact:blocks", "il modulo di «weave.pact:blocks»"),
        ("codice", "attention", "il modulo di «attention»"),
        ("codice", "", "il modulo di «»"),
        ("sorgente", "attention/nothing.py", "il file «attention/nothing.py» non esiste"),
        ("sorgente", "attention/s3_2_attention.py:nothing", "nothing"),
        ("figura", "paper_it/figure/nothing.svg", "il disegno «paper_it/figure/nothing.svg»"),
        ("figura", "pyproject.toml", "il disegno «pyproject.toml»"),
    ],
)
def test_wrong_fence_stops_the_site(
    convert: Callable[[str], str], language: str, request_: str, words: str
) -> None:
    with pytest.raises(SuperFencesException, match=re.escape(words)):
        convert(f"```{language}\n{request_}\n```\n")


@pytest.mark.parametrize("source", ["print(1)\n", "A = = 1\n", "A = 1\r\n"])
def test_module_that_cannot_be_split_stops_the_site(
    convert: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str
) -> None:
    (tmp_path / "attention").mkdir()
    (tmp_path / "attention" / "s1_sample.py").write_bytes(source.encode())
    monkeypatch.setattr(fences, "ROOT", tmp_path)
    with pytest.raises(SuperFencesException, match=r"attention/s1_sample\.py:1: "):
        convert(fence("attention.s1_sample:A"))


def test_an_error_nobody_foresaw_stops_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, convert: Callable[[str], str]
) -> None:
    (tmp_path / "a.py").write_bytes(b"\xff")
    monkeypatch.setattr(fences, "ROOT", tmp_path)
    with pytest.raises(
        SuperFencesException, match=r"riquadro di `sorgente`, «a\.py»: UnicodeDecode"
    ):
        convert("```sorgente\na.py\n```\n")


def test_title_of_a_fragment_leads_to_source_and_tests(convert: Callable[[str], str]) -> None:
    module, path = "attention.s3_2_attention", "attention/s3_2_attention.py"
    attend = next(it for it in split_file(ROOT / path) if it.name == "attend")
    page = BeautifulSoup(convert(fence(f"{module}:attend")), "html.parser")
    source, tests = page.select("figcaption a")
    assert source["href"] == "../../sorgenti/attention/s3_2_attention/#attend"
    assert tests["href"] == "../../sorgenti/tests/test_s3_2_attention/"
    first = attend.line + attend.blank_lines
    assert f"righe {first}–{attend.last_line}" in page.figcaption.text
    numbers = [span["data-linenos"].strip() for span in page.select("[data-linenos]")]
    assert numbers == [str(line) for line in range(first, attend.last_line + 1)]


def test_title_of_a_fragment_leads_to_the_public_repository() -> None:
    html = fences.linked_to("https://esempio.it/a")("attention.s3_2_attention:Vector")
    link = BeautifulSoup(html, "html.parser").select_one("figcaption a")
    start, end = re.fullmatch(
        r"https://esempio\.it/a/blob/main/attention/s3_2_attention\.py#L(\d+)-L(\d+)", link["href"]
    ).groups()
    lines = (ROOT / "attention/s3_2_attention.py").read_text(encoding="utf-8").splitlines()
    assert lines[int(start) - 1].startswith("Vector = ")
    assert lines[int(end)] == ""


def test_whole_source_is_shown_whole(convert: Callable[[str], str]) -> None:
    path = "weave/__main__.py"
    page = BeautifulSoup(convert(f"```sorgente\n{path}\n```\n"), "html.parser")
    assert page.select_one("pre > code").text == (ROOT / path).read_text("utf-8")


def test_figure_carries_its_caption(convert: Callable[[str], str]) -> None:
    drawing = next((ROOT / "paper_it/figure").glob("*.svg")).relative_to(ROOT)
    page = BeautifulSoup(convert(f"```figura\n{drawing}\nUno < due\n```\n"), "html.parser")
    assert page.select_one("figure.disegno > svg") is not None
    assert page.figcaption.text == "Uno < due"


# I sorgenti sul sito.


def test_source_page_has_a_title_for_every_definition() -> None:
    first, second, *_ = _blocks(Path("weave/docstrings.py"))
    assert first == ("## `testa del modulo` { #testa }\n\n```sorgente\nweave/docstrings.py:\n```\n")
    assert second == "## `TITLES` { #TITLES }\n\n```sorgente\nweave/docstrings.py:TITLES\n```\n"


def test_every_definition_of_a_source_has_an_address(convert: Callable[[str], str]) -> None:
    path = Path("attention/s3_2_2_multi_head.py")
    page = BeautifulSoup(convert("\n".join(_blocks(path))), "html.parser")
    fragments = split_file(ROOT / path)
    assert [title["id"] for title in page.select("h2")] == [it.anchor for it in fragments]
    assert {"testa", "MultiHeadAttention.init"} <= {it.anchor for it in fragments}


def test_source_that_cannot_be_split_is_shown_whole(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "free.py").write_text("print(1)\n", encoding="utf-8")
    monkeypatch.setattr("weave.hooks.ROOT", tmp_path)
    assert _blocks(Path("free.py")) == ["```sorgente\nfree.py\n```\n"]


def test_rebuilding_forgets_the_modules_of_the_house(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = ["attention", "attention.s1_sample", "gpu_notes.warp", "attentions", "math"]
    monkeypatch.setattr(sys, "modules", {name: ModuleType(name) for name in loaded})
    on_pre_build(config=None)
    assert list(sys.modules) == ["attentions", "math"]


# Il glossario.


def test_every_form_of_a_term_has_its_meaning(tmp_path: Path) -> None:
    path = tmp_path / "glossario.md"
    path.write_text(
        "Prosa.\n\n| Termine | Inglese | Significato |\n|:---|---|---:|\n"
        "| *testa*{ #testa }, teste | head | Una delle `h`. |\n| token | token | Un pezzo. |\n",
        encoding="utf-8",
    )
    meaning = "Una delle h."
    assert terms(path) == {"testa": meaning, "teste": meaning, "token": "Un pezzo."}


def test_every_row_of_the_glossary_is_read_once() -> None:
    rows = re.findall(r"^\| (?!Termine)(.+?) \|", GLOSSARY.read_text("utf-8"), flags=re.MULTILINE)
    forms = [form.strip() for row in rows for form in row.split(",")]
    assert len(rows) > 60
    assert sorted(terms()) == sorted(forms)
    assert all(meaning.endswith(".") for meaning in terms().values())


def explained(html: str) -> list[str]:
    """I termini con un suggerimento, ciascuno con l'elemento in cui sta."""
    found = BeautifulSoup(html, "html.parser").select("abbr[title]")
    return [f"{abbr.parent.name}: {abbr.text}" for abbr in found]


@pytest.fixture
def two_terms(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """Un Markdown con due soli termini nel glossario."""
    forms = {"testa": "Una di h.", "teste": "Una di h.", "token": "Un pezzo."}
    monkeypatch.setattr(glossary, "terms", lambda: forms)
    return markdown.Markdown(extensions=["tables", "weave.glossary"]).convert


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Il token e il token.", ["p: token"]),
        ("La testa e le teste.", ["p: testa"]),
        ("Le teste.\n\nLa testa e il token.", ["p: teste", "p: token"]),
        ("# Il token\n\nIl token.", ["p: token"]),
        ("[il token](#a), [*il token*](#a) e un token.", ["p: token"]),
        ("| token |\n|---|\n| token |\n\nUn token.", ["p: token"]),
        ("`token` e *un token*.", ["em: token"]),
        ("- Un token.\n\n> Una testa.", ["li: token", "p: testa"]),
        ("Tokenizzare non è un tokenista.", []),
    ],
)
def test_term_is_explained_at_its_first_use_in_prose(
    two_terms: Callable[[str], str], text: str, expected: list[str]
) -> None:
    assert explained(two_terms(text)) == expected


def test_every_page_starts_its_explanations_afresh(two_terms: Callable[[str], str]) -> None:
    assert explained(two_terms("Un token.")) == explained(two_terms("Un token.")) == ["p: token"]


def test_words_stay_when_the_hint_goes(two_terms: Callable[[str], str]) -> None:
    html = two_terms(
        "## A token b *c* *d* *e* token f token g\n\nUn token, *due* token, tre token."
    )
    assert BeautifulSoup(html, "html.parser").get_text() == (
        "A token b c d e token f token g\nUn token, due token, tre token."
    )


# La casa.


@pytest.mark.parametrize(
    ("triple", "module", "paths"),
    [
        (
            Triple("paper_it", "s3_3_ffn"),
            "attention.s3_3_ffn",
            ["paper_it/s3_3_ffn.md", "attention/s3_3_ffn.py", "tests/test_s3_3_ffn.py"],
        ),
        (
            Triple("paper_it", "beyond/rope"),
            "attention.beyond.rope",
            ["paper_it/beyond/rope.md", "attention/beyond/rope.py", "tests/beyond/test_rope.py"],
        ),
        (
            Triple("gpu_notes", "warp"),
            "gpu_notes.warp",
            ["gpu_notes/warp.md", "gpu_notes/warp.py", "tests/gpu_notes/test_warp.py"],
        ),
    ],
    ids=str,
)
def test_three_files_of_a_section(triple: Triple, module: str, paths: list[str]) -> None:
    found = (triple.page_path, triple.module_path, triple.test_path)
    assert [path.as_posix() for path in found] == paths
    assert triple.module == module
    assert triple_of(module) == triple


@pytest.mark.parametrize("module", ["attention", "weave.pact", "benchmarks.a", "math", ""])
def test_what_is_not_a_section_has_no_triple(module: str) -> None:
    assert triple_of(module) is None


@pytest.mark.parametrize(
    ("stem", "number"),
    [
        ("s0_abstract", "0"),
        ("s3_2_1_scaled_dot_product", "3.2.1"),
        ("s4_why_self_attention", "4"),
        ("sa_attention_visualizations", "a"),
        ("beyond/rope", ""),
        ("summary", ""),
    ],
)
def test_section_number_is_in_the_stem(stem: str, number: str) -> None:
    assert section_number(stem) == number


def test_sections_come_in_the_order_of_the_paper(tmp_path: Path) -> None:
    modules = ["s0_a", "s1_b", "s3_c", "s3_1_d", "s3_2_e", "s3_2_1_f"]
    pages = ["s3_10_g", "s4_h", "sa_i", "beyond/j"]
    files = [f"attention/{stem}.py" for stem in modules] + [f"paper_it/{stem}.md" for stem in pages]
    for name in sorted(files):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "attention/beyond").mkdir()
    for name in ("attention/__init__.py", "attention/beyond/__init__.py", "paper_it/index.md"):
        (tmp_path / name).touch()
    assert [triple.stem for triple in triples(tmp_path)] == modules + pages
    assert companions(tmp_path) == [Path("paper_it/index.md")]


@pytest.mark.parametrize(
    ("path", "page", "source"),
    [
        ("paper_it/s3_c.md", "paper_it/s3_c/", "sorgenti/paper_it/s3_c/"),
        ("paper_it/index.md", "paper_it/", "sorgenti/paper_it/index/"),
    ],
)
def test_addresses_on_the_site(path: str, page: str, source: str) -> None:
    assert page_url(path) == page
    assert source_url(path) == source


def test_shown_sources_are_the_python_files_of_the_house(tmp_path: Path) -> None:
    for name in ("weave/a.py", "attention/beyond/b.py", "site/c.py", "tests/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [path.as_posix() for path in sources(tmp_path)] == [
        "attention/beyond/b.py",
        "weave/a.py",
    ]
