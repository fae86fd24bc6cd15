"""I riquadri delle pagine, per `pymdownx.superfences`: codice, sorgenti interi, figure.

Un errore qui deve fermare la costruzione del sito: superfences inghiotte ogni eccezione tranne
`SuperFencesException`, perciò è questa che solleviamo.
"""

import re
from collections.abc import Callable
from functools import partial, wraps
from html import escape
from pathlib import Path
from typing import Any

from markdown import Markdown
from pymdownx.highlight import Highlight
from pymdownx.superfences import SuperFencesException

from weave.fragments import HEAD, Fragment, FragmentError, split_file
from weave.house import ROOT, page_url, source_url, triple_of

PLAIN = re.compile(r'<span class="[nw]">([^<]*)</span>')
"""Un nome o uno spazio del codice colorato."""

NUMBERED = 'class="linenos" data-linenos'
"""Un numero di riga: il foglio di stile guarda il solo attributo, e le righe sono ottantamila."""


def stopping(fence: Callable[..., str]) -> Callable[..., str]:
    """Un riquadro in cui ogni errore, anche imprevisto, ferma la costruzione e dice quale è."""

    @wraps(fence)
    def stopped(source: str, *rest: Any, **options: Any) -> str:
        try:
            return fence(source, *rest, **options)
        except SuperFencesException:
            raise
        except Exception as error:
            where = f"riquadro di `{fence.__name__}`, «{source.strip()}»"
            raise SuperFencesException(f"{where}: {type(error).__name__}: {error}") from error

    return stopped


@stopping
def codice(source: str, *_: Any, repository: str = "", **__: Any) -> str:
    """La definizione chiesta per nome, con il titolo legato al sorgente e ai test."""
    address = source.strip()
    module, _separator, name = address.partition(":")
    triple = triple_of(module)
    if triple is None or not (ROOT / triple.module_path).exists():
        raise SuperFencesException(f"riquadro «codice»: il modulo di «{address}» non esiste")
    fragment = _find(triple.module_path, name, address)
    up = _up(page_url(triple.page_path))
    links = [
        _source_link(triple.module_path, fragment, repository, up),
        f'<a href="{up}{source_url(triple.test_path)}">i suoi test</a>',
    ]
    return _figure(fragment, f"codice-{fragment.anchor}", " · ".join(links))


@stopping
def sorgente(source: str, *_: Any, **__: Any) -> str:
    """Un file Python intero (`file.py`) o una sua definizione (`file.py:nome`)."""
    name, separator, definition = source.strip().partition(":")
    path = Path(name)
    if not (ROOT / path).is_file():
        raise SuperFencesException(f"riquadro «sorgente»: il file «{path}» non esiste")
    if separator:
        fragment = _find(path, definition, source.strip())
    else:
        fragment = Fragment(HEAD, 1, (ROOT / path).read_text(encoding="utf-8"))
    return _figure(fragment, f"sorgente-{fragment.anchor}", f"<code>{path}</code>")


@stopping
def figura(source: str, *_: Any, **__: Any) -> str:
    """Un disegno SVG dentro la pagina: nella prima riga il file, poi la didascalia."""
    name, _newline, caption = source.strip().partition("\n")
    path = ROOT / name
    if path.suffix != ".svg" or not path.exists():
        raise SuperFencesException(f"riquadro «figura»: il disegno «{name}» non esiste")
    drawing = path.read_text(encoding="utf-8").strip()
    note = f"<figcaption>{escape(caption.strip())}</figcaption>" if caption else ""
    return f'<figure class="disegno">{drawing}{note}</figure>'


def linked_to(repository: str) -> Callable[..., str]:
    """Il riquadro «codice» con i titoli legati a un deposito pubblico invece che al sito."""
    return partial(codice, repository=repository)


def _find(path: Path, name: str, address: str) -> Fragment:
    try:
        fragments = split_file(ROOT / path)
    except FragmentError as error:
        raise SuperFencesException(f"{path}:{error.line}: {error}") from error
    for fragment in fragments:
        if fragment.name == name:
            return fragment
    raise SuperFencesException(f"«{address}»: in {path} non c'è una definizione con questo nome")


def _figure(fragment: Fragment, anchor: str, title: str) -> str:
    """Il codice colorato, con i numeri di riga veri; le righe vuote iniziali contate a parte.

    Nomi e spazi hanno il colore del testo: non serve dirlo parola per parola. Né serve a ogni riga
    dire due volte che ha un numero.
    """
    code = fragment.text[fragment.blank_lines :].rstrip("\n")
    first = fragment.line + fragment.blank_lines
    html = Highlight(Markdown(), linenums_style="pymdownx-inline", stripnl=False).highlight(
        code, "python", linestart=first, classes=[]
    )
    html = PLAIN.sub(r"\1", html).replace(NUMBERED, "data-linenos")
    return (
        f'<figure class="codice" id="{escape(anchor)}" data-blank-lines="{fragment.blank_lines}">'
        f"<figcaption>{title}</figcaption>{html}</figure>"
    )


def _source_link(path: Path, fragment: Fragment, repository: str, up: str) -> str:
    """Il titolo di un frammento: il suo nome, legato al deposito se c'è, se no al sito."""
    first = fragment.line + fragment.blank_lines
    if repository:
        url = f"{repository}/blob/main/{path.as_posix()}#L{first}-L{fragment.last_line}"
    else:
        url = f"{up}{source_url(path)}#{fragment.anchor}"
    return (
        f'<a href="{escape(url)}"><code>{path.as_posix()}</code></a> · '
        f"<strong>{escape(_label(fragment))}</strong> · righe {first}–{fragment.last_line}"
    )


def _label(fragment: Fragment) -> str:
    return "testa del modulo" if fragment.name == HEAD else fragment.name


def _up(url: str) -> str:
    return "../" * url.count("/")
