"""Il patto: ogni definizione di un modulo sta sulla sua pagina, una volta, nell'ordine del modulo.

E la legge degli import: una sezione usa solo ciò che l'articolo ha già detto. Ogni violazione è un
reclamo che dice il file, la riga e che cosa fare.
"""

import ast
import difflib
import importlib.util
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from weave.fragments import FragmentError, split_file
from weave.house import (
    OPEN_CODE,
    ROOT,
    SHELVES,
    Triple,
    companions,
    paper_order,
    section_number,
    triple_of,
    triples,
)

FENCE = re.compile(r"^(?P<indent>[ >]*)(?P<marks>`{3,}|~{3,})\s*(?P<info>[^`]*)$")

PYTHON = {"py", "py3", "pycon", "python", "python3"}
"""I nomi con cui un riquadro dice di contenere Python."""

EXECUTED = re.compile(r"\bexec=[\"']?(on|yes|true|1)\b")
"""L'opzione con cui markdown-exec esegue un riquadro."""

Problem = tuple[int, str]
"""La riga e la frase di un reclamo, prima di sapere in quale file."""


@dataclass(frozen=True)
class Complaint:
    """Un punto in cui il patto è rotto, e che cosa fare per ripararlo."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


@dataclass(frozen=True)
class Block:
    """Un riquadro recintato di una pagina: la riga, le parole dopo i segni, il contenuto."""

    line: int
    info: str
    content: str
    closed: bool = True

    @property
    def language(self) -> str:
        return re.split(r"[\s{}]", self.info.strip().lstrip("{. "), maxsplit=1)[0]


def blocks(page: str) -> list[Block]:
    """I riquadri recintati di una pagina Markdown, nell'ordine in cui compaiono."""
    found: list[Block] = []
    opening: tuple[int, str, str] | None = None
    content: list[str] = []
    for number, line in enumerate(page.splitlines(), start=1):
        match = FENCE.match(line)
        if opening is None and match:
            opening, content = (number, match["marks"], match["info"]), []
        elif opening and match and match["marks"].startswith(opening[1]) and not match["info"]:
            found.append(Block(opening[0], opening[2], "\n".join(content)))
            opening = None
        else:
            content.append(line)
    if opening:
        found.append(Block(opening[0], opening[2], "\n".join(content), closed=False))
    return found


def check_house(root: Path = ROOT) -> list[Complaint]:
    """I reclami di tutta la casa: terne, pagine senza modulo."""
    sections = (check_triple(triple, root) for triple in triples(root))
    others = (check_companion(path, root) for path in companions(root))
    return list(itertools.chain(*sections, *others))


def check_triple(triple: Triple, root: Path = ROOT) -> list[Complaint]:
    """I reclami di una sezione."""
    needed = [triple.page_path, triple.module_path, triple.test_path]
    absent = [path for path in needed if not (root / path).exists()]
    if absent:
        present = next(path for path in needed if path not in absent)
        lacking = ", ".join(path.as_posix() for path in absent)
        return _complaints(present, [(1, f"la terna è incompleta: aggiungi {lacking}")])
    module = root / triple.module_path
    try:
        names = [fragment.name for fragment in split_file(module)]
    except FragmentError as error:
        return _complaints(triple.module_path, [(error.line, str(error))])
    if not any(names):
        message = "il modulo non definisce nulla: scrivi il codice della sezione"
        return _complaints(triple.module_path, [(1, message)])
    page = (root / triple.page_path).read_text(encoding="utf-8")
    source = module.read_text(encoding="utf-8")
    return [*check_imports(source, triple), *check_page(page, names, triple)]


def check_companion(path: Path, root: Path = ROOT) -> list[Complaint]:
    """I reclami di una pagina senza modulo: può eseguire Python, non può tessere codice."""
    page = (root / path).read_text(encoding="utf-8")
    woven = [
        (block.line, "qui non si tesse codice, che sta già sulla sua pagina: togli il riquadro")
        for block in blocks(page)
        if block.language == "codice"
    ]
    return _complaints(path, _unclosed(page) or [*_foreign_python(page), *woven])


def check_page(page: str, names: list[str], triple: Triple) -> list[Complaint]:
    """I reclami di una pagina, dati i nomi delle definizioni del suo modulo."""
    wanted = [f"{triple.module}:{name}" if name else triple.module for name in names]
    broken = [*_foreign_python(page), *_broken_pact(page, wanted, triple.module)]
    return _complaints(triple.page_path, _unclosed(page) or broken)


def check_imports(source: str, triple: Triple) -> list[Complaint]:
    """I reclami sulla legge degli import: solo le proprie sottosezioni e le sezioni precedenti."""
    problems = [
        (
            line,
            f"«{name}» non si può importare qui: una sezione importa i moduli delle sue "
            "sottosezioni e delle sezioni che la precedono; il resto lo riceve come argomento",
        )
        for line, name in _imports(source, triple.module)
        if not _may_import(triple, name)
    ]
    return _complaints(triple.module_path, problems)


def _complaints(path: Path, problems: list[Problem]) -> list[Complaint]:
    return [Complaint(path.as_posix(), line, message) for line, message in sorted(problems)]


def _unclosed(page: str) -> list[Problem]:
    """Un riquadro mai chiuso inghiotte il resto della pagina: finché c'è, è il solo reclamo."""
    return [
        (block.line, "questo riquadro non si chiude: aggiungi la riga di chiusura")
        for block in blocks(page)
        if not block.closed
    ]


def _foreign_python(page: str) -> Iterator[Problem]:
    """Il codice Python scritto a mano sulla pagina, che nessuno esegue."""
    for block in blocks(page):
        if block.language.lower() in PYTHON and not EXECUTED.search(block.info):
            yield (
                block.line,
                'codice Python che nessuno esegue: aggiungi exec="on", o portalo nel modulo e '
                "chiedilo con un riquadro «codice»",
            )


def _broken_pact(page: str, wanted: list[str], module: str) -> Iterator[Problem]:
    """Le differenze fra le definizioni che la pagina chiede e quelle che il modulo ha."""
    first: dict[str, int] = {}
    wrong: list[Problem] = []
    for block in blocks(page):
        request = block.content.strip()
        if block.language == "codice" and request in wanted and request not in first:
            first[request] = block.line
        elif block.language == "codice":
            wrong.append((block.line, request))
    missing = [address for address in wanted if address not in first]
    for line, request in wrong:
        meant = _meant(line, request, first, wanted, missing)
        remedy = f"forse qui va «{meant}»" if meant else "togli il riquadro o correggi il nome"
        yield line, f"{_wrong(request, module, first)}: {remedy}"
        missing = [name for name in missing if name not in {meant, *request.splitlines()}]
    yield from (_absent(address, first, wanted, len(page.splitlines())) for address in missing)
    repeated = {request for _, request in wrong}
    yield from _out_of_order({name: first[name] for name in first if name not in repeated}, wanted)


def _meant(
    line: int, request: str, first: dict[str, int], wanted: list[str], missing: list[str]
) -> str | None:
    """La definizione mancante al posto di cui sta un riquadro sbagliato, se in quel punto manca."""
    before = [address for address, above in first.items() if above < line]
    start = wanted.index(before[-1]) + 1 if before else 0
    gap = itertools.takewhile(lambda address: address not in first, wanted[start:])
    here = [address for address in gap if address in missing]
    return next(iter(difflib.get_close_matches(request, here, n=1, cutoff=0)), None)


def _wrong(request: str, module: str, first: dict[str, int]) -> str:
    """Che cosa non va in un riquadro «codice» sbagliato."""
    if not request:
        return "il riquadro «codice» è vuoto"
    if "\n" in request:
        return "il riquadro «codice» chiede più di una riga, o il precedente non si chiude"
    if request in first:
        return f"«{request}» è già alla riga {first[request]}"
    if request.partition(":")[0] != module:
        return f"«{request}» non è di questa sezione, che tesse solo «{module}»"
    outer = request.rpartition(".")[0]
    if outer in first:
        return f"«{request}» non è una definizione a sé, e ciò che sta dentro «{outer}» è già lì"
    return f"«{request}» non esiste nel modulo"


def _absent(address: str, first: dict[str, int], wanted: list[str], end: int) -> Problem:
    """Una definizione che manca: la riga è quella del riquadro che deve venirle dopo, o la fine."""
    later = wanted[wanted.index(address) :]
    line = next((first[following] for following in later if following in first), end)
    return line, f"manca «{address}»: aggiungi qui il suo riquadro «codice»"


def _out_of_order(first: dict[str, int], wanted: list[str]) -> Iterator[Problem]:
    """La prima definizione che sulla pagina precede una che nel modulo viene prima di lei."""
    expected = [address for address in wanted if address in first]
    for found, due in zip(first, expected, strict=True):
        if found != due:
            yield (
                first[found],
                f"«{found}» viene prima di «{due}», ma nel modulo viene dopo: scambia i riquadri "
                "o le definizioni",
            )
            return


def _imports(source: str, module: str) -> Iterator[Problem]:
    """La riga e il nome puntato di ogni modulo importato, anche dentro le funzioni."""
    package = module.rpartition(".")[0]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            relative = "." * node.level + (node.module or "")
            name = importlib.util.resolve_name(relative, package)
            if triple_of(name):
                yield node.lineno, name
            else:
                yield from ((node.lineno, f"{name}.{alias.name}") for alias in node.names)


def _may_import(triple: Triple, name: str) -> bool:
    """Se la legge permette a un modulo di importarne un altro, dato con il suo nome puntato."""
    package = name.partition(".")[0]
    if package not in OPEN_CODE:
        return True
    own, other = section_number(triple.stem), triple_of(name)
    if not own or other is None:
        return not own and package in SHELVES.values()
    number = section_number(other.stem)
    earlier = paper_order(other.stem) < paper_order(triple.stem)
    return bool(number) and (number.startswith(f"{own}.") or earlier)
