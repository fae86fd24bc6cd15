"""I termini del glossario: alla prima comparsa su una pagina, il significato in un suggerimento.

Il glossario è una tabella di `paper_it/glossario.md`: nella prima colonna il termine con le sue
forme, separate da virgole; nell'ultima il significato.
"""

import re
from pathlib import Path
from xml.etree.ElementTree import Element

from markdown import Markdown
from markdown.extensions.abbr import AbbrExtension
from markdown.treeprocessors import Treeprocessor

from weave.house import ROOT

GLOSSARY = ROOT / "paper_it" / "glossario.md"

PROSE = {"p", "li"}
"""Gli elementi in cui un termine si spiega: non titoli, tabelle o codice."""


def terms(path: Path = GLOSSARY) -> dict[str, str]:
    """Ogni forma di ogni termine, con il suo significato."""
    found: dict[str, str] = {}
    for row in re.findall(r"^\|(.+)\|$", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
        forms, *_, meaning = (_plain(cell) for cell in row.split("|"))
        if not set(forms) <= set("-: ") and forms != "Termine":
            found |= {form.strip(): meaning for form in forms.split(",")}
    return found


def _plain(cell: str) -> str:
    return re.sub(r"[*`_]|\{[^}]*\}", "", cell).strip()


class FirstUse(Treeprocessor):
    """Toglie i suggerimenti ripetuti, e quelli fuori dalla prosa."""

    def run(self, root: Element) -> None:
        self._visit(root, in_prose=False, seen=set())

    def _visit(self, element: Element, in_prose: bool, seen: set[str]) -> None:
        for child in list(element):
            if child.tag == "abbr":
                meaning = child.get("title", "")
                if not in_prose or meaning in seen:
                    _unwrap(element, child)
                seen |= {meaning} if in_prose else set()
            else:
                prose = child.tag in PROSE or (in_prose and child.tag not in {"a", "table", "code"})
                self._visit(child, prose, seen)


def _unwrap(parent: Element, child: Element) -> None:
    """Rimette il testo di un elemento dove stava, senza l'elemento."""
    text = (child.text or "") + (child.tail or "")
    index = list(parent).index(child)
    if index:
        parent[index - 1].tail = (parent[index - 1].tail or "") + text
    else:
        parent.text = (parent.text or "") + text
    parent.remove(child)


class GlossaryExtension(AbbrExtension):
    """L'estensione Markdown: riconosce i termini e ne tiene la prima comparsa."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802
        self.load_glossary(terms())
        super().extendMarkdown(md)
        md.treeprocessors.register(FirstUse(md), "first_use", 6)


def makeExtension(**options: object) -> GlossaryExtension:  # noqa: N802
    """Il nome che Python-Markdown cerca per caricare l'estensione."""
    return GlossaryExtension(**options)
