"""Frammenti: un modulo Python diviso in definizioni con un nome, senza segni nel codice.

Un frammento è la testa del modulo (docstring e import), la testa di una classe, un metodo, una
funzione o una costante. Ogni frammento comincia dove finisce il precedente: insieme ridanno il
file byte per byte, per costruzione. I commenti sopra una definizione le appartengono.
"""

import ast
import functools
import io
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HEAD = ""
"""Il nome della testa del modulo: si chiede con il solo nome del modulo, senza due punti."""

Unit = tuple[str, int, int]
"""Una definizione prima di essere ritagliata: il nome, la prima e l'ultima riga (da 1)."""


@dataclass(frozen=True)
class Fragment:
    """Una definizione con il suo nome, la prima riga (da 1) e il testo esatto."""

    name: str
    line: int
    text: str

    @property
    def anchor(self) -> str:
        """Il nome come àncora di una pagina: `__init__` senza ciò che in Markdown è grassetto."""
        return self.name.replace("__", "") or "testa"

    @property
    def blank_lines(self) -> int:
        """Quante righe vuote separano il frammento dal precedente."""
        return len(self.text) - len(self.text.lstrip("\n"))

    @property
    def last_line(self) -> int:
        """L'ultima riga del frammento, contata dall'inizio del file."""
        return self.line + self.text.count("\n") - 1


class FragmentError(ValueError):
    """Un punto del modulo che non si lascia dividere in definizioni con un nome."""

    def __init__(self, line: int, message: str):
        super().__init__(message)
        self.line = line


def split_file(path: Path) -> list[Fragment]:
    """I frammenti di un file, letto senza tradurre i fine riga."""
    return split(path.read_bytes().decode())


def split(source: str) -> list[Fragment]:
    """Divide il sorgente di un modulo nei suoi frammenti, nell'ordine del file.

    Una pagina chiede lo stesso modulo decine di volte: un testo già diviso non si divide di nuovo.

    Solleva:
        FragmentError: se il sorgente non è Python valido o non ha fine riga Unix; se
            un'istruzione non ha nome; se due definizioni hanno lo stesso nome o stanno sulla
            stessa riga; se resta del testo dopo l'ultima definizione.
    """
    return list(_split(source))


@functools.lru_cache(maxsize=64)
def _split(source: str) -> tuple[Fragment, ...]:
    lines = _lines(source)
    fragments: list[Fragment] = []
    seen: dict[str, int] = {}
    start = 1
    for name, first, last in _units(_parse(source), lines):
        if name in seen:
            raise FragmentError(
                first, f"«{name}» è già definito alla riga {seen[name]}: serve un altro nome"
            )
        if first < start:
            raise FragmentError(
                first, f"«{name}» comincia sulla riga di un'altra definizione: va a capo"
            )
        seen[name] = first
        fragments.append(Fragment(name, start, "".join(lines[start - 1 : last])))
        start = last + 1
    if start <= len(lines):
        raise FragmentError(
            start, "c'è del testo dopo l'ultima definizione: va spostato prima, o tolto"
        )
    return tuple(fragments)


def _lines(source: str) -> list[str]:
    """Le righe del sorgente, ciascuna con il suo fine riga, che dev'essere «\\n»."""
    lines = io.StringIO(source).readlines()
    for number, line in enumerate(lines, start=1):
        if "\r" in line or not line.endswith("\n"):
            raise FragmentError(
                number,
                "ogni riga, anche l'ultima, finisce con il solo «\\n»: correggi il fine riga",
            )
    return lines


def _parse(source: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise FragmentError(
            error.lineno or 1, f"non è Python valido ({error.msg}): correggi la riga"
        ) from error


def _units(module: ast.Module, lines: list[str]) -> Iterator[Unit]:
    """Le unità del modulo, nell'ordine del file."""
    head = _head_length(module.body)
    if head:
        yield HEAD, 1, _end(module.body[head - 1])
    yield from _definitions(module.body[head:], lines, prefix="")


def _head_length(body: list[ast.stmt]) -> int:
    """Quante istruzioni formano la testa: la docstring e gli import che la seguono."""
    count = 0
    for statement in body:
        opening_docstring = count == 0 and _is_docstring(statement)
        if not opening_docstring and not isinstance(statement, ast.Import | ast.ImportFrom):
            break
        count += 1
    return count


def _definitions(body: list[ast.stmt], lines: list[str], prefix: str) -> Iterator[Unit]:
    """Le definizioni di un corpo; una costante tiene con sé la docstring che la segue."""
    documented = False
    for statement, following in itertools.zip_longest(body, body[1:]):
        name = _name(statement)
        if documented:
            documented = False
        elif isinstance(statement, ast.ClassDef):
            yield from _class(statement, lines, prefix + statement.name)
        elif name is not None:
            documented = not _opens(statement) and _is_docstring(following)
            yield prefix + name, _start(statement), _end(following if documented else statement)
        else:
            raise FragmentError(statement.lineno, _nameless(statement))


def _class(statement: ast.ClassDef, lines: list[str], name: str) -> Iterator[Unit]:
    """La testa della classe, fino al primo metodo, poi i suoi membri uno per uno."""
    members = statement.body
    first = next((i for i, member in enumerate(members) if _opens(member)), len(members))
    if first:
        head_end = _end(members[first - 1])
    else:
        head_end = _start(members[0]) - 1
        while _is_blank_or_comment(lines[head_end - 1]):
            head_end -= 1
    yield name, _start(statement), head_end
    yield from _definitions(members[first:], lines, prefix=f"{name}.")


def _name(statement: ast.stmt) -> str | None:
    """Il nome che un'istruzione definisce, se ne definisce uno solo.

    L'avvio da riga di comando, `if __name__ == "__main__":`, si chiama `__main__`.
    """
    match statement:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
            return name
        case ast.If(test=ast.Compare(left=ast.Name(id="__name__"))):
            return "__main__"
    return None


def _nameless(statement: ast.stmt) -> str:
    """Che cosa fare di un'istruzione che non definisce un nome."""
    match statement:
        case ast.Import() | ast.ImportFrom():
            return "un import fuori dalla testa: portalo in cima al modulo, con gli altri"
        case ast.Assign(targets=[_, _, *_] | [ast.Tuple()]):
            return "più nomi in una sola assegnazione: scrivi una riga per ogni costante"
        case ast.Expr(value=ast.Constant(value=str())):
            return "un testo che non documenta nulla: mettilo dopo una costante, o in una docstring"
    return "un'istruzione senza nome: mettila in una funzione, o dalle il nome di una costante"


def _opens(statement: ast.stmt) -> bool:
    """Vero se l'istruzione apre un frammento proprio dentro una classe."""
    return isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)


def _is_docstring(statement: ast.stmt | None) -> bool:
    match statement:
        case ast.Expr(value=ast.Constant(value=str())):
            return True
    return False


def _is_blank_or_comment(line: str) -> bool:
    return not line.partition("#")[0].strip()


def _start(statement: ast.stmt) -> int:
    """La prima riga di un'istruzione, decoratori compresi."""
    decorators = getattr(statement, "decorator_list", [])
    return min([statement.lineno, *(decorator.lineno for decorator in decorators)])


def _end(statement: ast.stmt) -> int:
    return statement.end_lineno or statement.lineno
