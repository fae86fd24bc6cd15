"""Le domande del lettore e le false credenze: le voci delle pagine, raccolte in un indice.

Una pagina risponde con una voce `- **[D28](#d28){ #d28 } domanda.** Risposta. Prova: [test](…)`.
Una pagina di docs/ le elenca nel riquadro `indice`, una riga per numero, con la pagina in cui la
risposta sta per intero; qui il riquadro diventa la domanda, l'inizio della risposta, gli indirizzi.
"""

import posixpath
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from markdown import Markdown
from markdown.extensions import Extension
from markdown.preprocessors import Preprocessor

from weave.fragments import FragmentError, split_file
from weave.house import ROOT, SHELVES
from weave.pact import Block, Complaint, blocks

ENTRY = re.compile(
    r"^- \*\*\[(?P<number>[ABCD]\d+)\]\(#(?P<link>\w+)\)\{ #(?P<anchor>\w+) \} "
    r"(?P<question>[^\n]+?)\*\* (?P<rest>\S.*?)(?=^- |^#|\Z)",
    re.MULTILINE | re.DOTALL,
)
"""Una voce: numero, àncora, domanda; il resto arriva fino alla voce seguente o a un titolo."""

ATTEMPT = re.compile(r"^- \*\*\[?[ABCD]\d+\b|\{ ?#[abcd]\d+\b", re.MULTILINE)
"""L'inizio di qualcosa che vuole essere una voce."""

TEST_LINK = re.compile(r"\[`(\w+)`\]\((?:\.\./)*sorgenti/(tests/[\w/]+)\.md#(\w+)\)")
"""La citazione di un test: il nome, il file senza estensione, l'àncora."""

ROW = re.compile(r"(?P<number>[ABCD]\d+) +(?P<page>\S+\.md)")
"""Una riga di un indice."""

FENCED = re.compile(r"^[ >]*(`{3,}|~{3,}).*?^[ >]*\1[`~]*[ ]*$", re.MULTILINE | re.DOTALL)

LENGTH = 400
"""Quanti caratteri, al più, di una risposta stanno nell'indice, se la prima frase è più corta."""


@dataclass(frozen=True)
class Entry:
    """La risposta di una pagina a una domanda, o il fatto che smentisce una credenza."""

    page: Path
    line: int
    number: str
    link: str
    anchor: str
    question: str
    answer: str
    proofs: tuple[tuple[str, str, str], ...]

    @property
    def url(self) -> str:
        """L'indirizzo della voce, come lo scrive una pagina che sta in docs/."""
        return f"{_site_path(self.page)}#{self.anchor}"


class MissingAnswerError(ValueError):
    """Un indice che chiede una risposta che non c'è: ferma la costruzione del sito."""


def pages(root: Path = ROOT) -> dict[Path, str]:
    """Il testo di ogni pagina della casa, con il suo percorso dalla radice."""
    files = chain.from_iterable((root / folder).rglob("*.md") for folder in (*SHELVES, "docs"))
    return {path.relative_to(root): path.read_text(encoding="utf-8") for path in sorted(files)}


def entries(page: Path, text: str) -> list[Entry]:
    """Le voci di una pagina, nell'ordine; i riquadri recintati non contano."""
    prose = _prose(text)
    return [
        Entry(
            page,
            _line(prose, found),
            found["number"],
            found["link"],
            found["anchor"],
            found["question"],
            " ".join(found["rest"].partition("\n\n")[0].split()),
            tuple(dict.fromkeys(TEST_LINK.findall(found["rest"]))),
        )
        for found in ENTRY.finditer(prose)
    ]


def rows(text: str) -> Iterator[tuple[int, str, re.Match[str] | None]]:
    """Le righe degli indici di una pagina: il numero di riga, il testo, che cosa vi si legge."""
    for block in _indexes(text):
        for line, row in enumerate(block.content.split("\n"), start=block.line + 1):
            yield line, row, ROW.fullmatch(row.strip())


def check_questions(root: Path = ROOT) -> list[Complaint]:
    """I reclami su voci e indici: ogni voce è in un indice, ha una prova, si legge."""
    texts = pages(root)
    found = [entry for page, text in texts.items() for entry in entries(page, text)]
    listed = _listed(texts)
    complaints = [
        Complaint(page.as_posix(), line, message)
        for page, text in texts.items()
        for line, message in chain(_unread(text), _wrong_rows(page, text, found, listed))
    ]
    for i, entry in enumerate(found):
        again = any((it.page, it.number) == (entry.page, entry.number) for it in found[:i])
        for message in _wrong_entry(entry, entry.number in listed, again, root):
            complaints.append(Complaint(entry.page.as_posix(), entry.line, message))
    return sorted(complaints, key=lambda it: (it.path, it.line))


def lost_test(shown: str, file: str, name: str, root: Path = ROOT) -> str:
    """Che cosa non va nella citazione di un test; nulla, se il collegamento arriva."""
    path = root / f"{file}.py"
    try:
        names = [fragment.name for fragment in split_file(path)] if path.exists() else []
    except FragmentError as error:
        return f"{file}.py:{error.line}: {error} (così i suoi test non hanno un indirizzo)"
    return "" if shown == name in names else f"{file}.py::{name}, citato come «{shown}», non esiste"


def opening(text: str) -> str:
    """L'inizio di una risposta: le frasi intere che ci stanno, senza le citazioni dei test."""
    text = re.sub(r" \((?:(?:, | e )?\[`test_\w+`\]\([^)]*\))+\)", "", text)
    taken = ""
    for sentence in _sentences(text):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", f"{taken} {sentence}")
        if taken and (len(plain) > LENGTH or re.match(r"Prov[ae]\b", sentence)):
            break
        taken = f"{taken} {sentence}".strip()
    return taken


def rebased(text: str, page: Path) -> str:
    """I collegamenti relativi di una pagina, riscritti per una pagina che sta in docs/."""
    here = _site_path(page)

    def moved(link: re.Match[str]) -> str:
        path, mark, anchor = link[1].partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), path)) if path else here
        return f"]({target}{mark}{anchor})"

    return re.sub(r"\]\((?!\w+:)([^)\s]+)\)", moved, text)


def listing(number: str, main: str, found: list[Entry], titles: dict[Path, str]) -> str:
    """Una domanda nell'indice, in Markdown: il titolo, l'inizio della risposta, gli indirizzi."""
    answers = sorted(
        (entry for entry in found if entry.number == number),
        key=lambda entry: entry.page.as_posix() != main,
    )
    if not answers or answers[0].page.as_posix() != main:
        raise MissingAnswerError(f"riquadro «indice»: «{main}» non risponde a {number}")
    first, *others = answers
    where = "; anche in " + ", ".join(_link(it, titles) for it in others) if others else ""
    proofs = dict.fromkeys(proof for entry in answers for proof in entry.proofs)
    tests = ", ".join(f"[`{name}`](sorgenti/{file}.md#{at})" for name, file, at in proofs)
    return (
        f'### <span class="numero">{number}</span> {rebased(first.question, first.page)} '
        f'{{ #{first.anchor} data-toc-label="{number}" }}\n\n'
        f"{rebased(opening(first.answer), first.page)}\n\n"
        f"Per intero in {_link(first, titles)}{where}.<br>Prova: {tests}.\n{{ .dove }}\n"
    )


class Indexes(Preprocessor):
    """Mette le domande al posto dei riquadri «indice», prima che Markdown legga la pagina."""

    def run(self, lines: list[str]) -> list[str]:
        """Le righe della pagina, con gli indici svolti."""
        indexes = _indexes("\n".join(lines))
        if not indexes:
            return lines
        texts = pages()
        found = [entry for page, it in texts.items() for entry in entries(page, it)]
        titles = {page: _title(it) for page, it in texts.items()}
        for block in reversed(indexes):
            asked = [ROW.fullmatch(row.strip()) for row in block.content.split("\n")]
            if None in asked:
                raise MissingAnswerError("riquadro «indice»: una riga non è «numero pagina.md»")
            woven = [listing(row["number"], row["page"], found, titles) for row in asked if row]
            lines[block.line - 1 : block.line + len(asked) + 1] = "\n".join(woven).split("\n")
        return lines


class IndexExtension(Extension):
    """L'estensione Markdown: svolge gli indici prima che i riquadri diventino HTML."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        md.preprocessors.register(Indexes(md), "indexes", 26)


def makeExtension(**options: object) -> IndexExtension:  # noqa: N802
    """Il nome che Python-Markdown cerca per caricare l'estensione."""
    return IndexExtension(**options)


def _unread(text: str) -> Iterator[tuple[int, str]]:
    """I punti di una pagina che vogliono essere una voce e non si leggono come tale."""
    prose = _prose(text)
    read = {_line(prose, found) for found in ENTRY.finditer(prose)}
    attempts = {_line(prose, found) for found in ATTEMPT.finditer(prose)}
    for line in sorted(attempts - read):
        yield (
            line,
            "questa voce non si legge: «- **[D1](#d1){ #d1 } La domanda?** La risposta.», un "
            "numero solo per voce",
        )


def _listed(texts: dict[Path, str]) -> dict[str, tuple[Path, int]]:
    """Dove ogni numero è elencato la prima volta: la pagina dell'indice e la riga."""
    places: dict[str, tuple[Path, int]] = {}
    for page, text in texts.items():
        for line, _, found in rows(text):
            if found:
                places.setdefault(found["number"], (page, line))
    return places


def _wrong_rows(
    page: Path, text: str, found: list[Entry], listed: dict[str, tuple[Path, int]]
) -> Iterator[tuple[int, str]]:
    """I reclami sulle righe degli indici di una pagina."""
    answered = {(entry.number, entry.page.as_posix()) for entry in found}
    for line, row, read in rows(text):
        if read is None:
            yield line, f"«{row}»: una riga di un indice è un numero e una pagina"
        elif listed[read["number"]] != (page, line):
            yield line, f"{read['number']} è già in un indice: togli una delle due righe"
        elif (read["number"], read["page"]) not in answered:
            yield line, f"«{read['page']}» non risponde a {read['number']}: aggiungi la voce"


def _wrong_entry(entry: Entry, listed: bool, again: bool, root: Path) -> Iterator[str]:
    """I reclami su una voce che si legge."""
    if not entry.anchor == entry.link == entry.number.lower():
        yield f"{entry.number} ha l'àncora #{entry.number.lower()}, fra parentesi e fra graffe"
    if again:
        yield f"{entry.number} ha già una voce su questa pagina"
    if not listed:
        yield f"{entry.number} non è in nessun indice: aggiungi la sua riga"
    if not entry.proofs:
        yield f"{entry.number} non cita una prova: aggiungi «Prova:» e il collegamento al test"
    yield from filter(None, (lost_test(*proof, root=root) for proof in entry.proofs))


def _sentences(text: str) -> Iterator[str]:
    """Le frasi di un testo; codice, formule, collegamenti, parentesi e citazioni non si tagliano.

    Un resto che annuncia un riquadro, con i due punti in fondo, non è una frase.
    """
    masked = text
    for whole in (r"`[^`]*`|\$[^$]*\$", r"\[[^\]]*\]\([^)]*\)", r"\([^()]*\)", r"«[^»]*»"):
        masked = re.sub(whole, lambda span: "X" * len(span[0]), masked)
    start = 0
    for end in re.finditer(r"[.?][*]*(?= +[^a-zà-ù ])|\Z", masked):
        sentence = text[start : end.end()].strip()
        start = end.end()
        if sentence and not sentence.endswith(":"):
            yield sentence


def _link(entry: Entry, titles: dict[Path, str]) -> str:
    return f"[{titles[entry.page]}]({entry.url})"


def _title(text: str) -> str:
    """Il titolo di una pagina, senza attributi."""
    found = re.search(r"^# (.+?)(?: \{.*\})?$", text, re.MULTILINE)
    return found[1] if found else ""


def _site_path(page: Path) -> str:
    """Il percorso di una pagina dalla radice del sito, dove docs/ non si vede."""
    return page.as_posix().removeprefix("docs/")


def _prose(text: str) -> str:
    """Una pagina senza i riquadri recintati; le righe restano quelle."""
    return FENCED.sub(lambda cut: "\n" * cut[0].count("\n"), text)


def _line(text: str, found: re.Match[str]) -> int:
    return text.count("\n", 0, found.start()) + 1


def _indexes(text: str) -> list[Block]:
    return [block for block in blocks(text) if block.language == "indice"]
