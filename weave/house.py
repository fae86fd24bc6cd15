"""La casa: dove stanno pagine, moduli e test di ogni sezione, e i loro indirizzi sul sito."""

import math
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path(__file__).resolve().parent.parent

SHELVES = {"paper_it": "attention", "gpu_notes": "gpu_notes"}
"""Ogni cartella di pagine con il pacchetto dei suoi moduli."""

MODULE_IS_OPTIONAL = {"gpu_notes"}
"""Le cartelle in cui una pagina può non calcolare nulla, e allora non ha modulo né test."""

NOT_SECTIONS = {"index", "bibliografia", "glossario", "__init__"}
"""Le pagine che accompagnano le sezioni e non hanno un modulo, e i pacchetti."""

OPEN_CODE = ("attention", "gpu_notes", "weave", "tests", "benchmarks")
"""Le cartelle i cui sorgenti il sito mostra interi."""


@dataclass(frozen=True)
class Triple:
    """Una sezione: la pagina, il modulo che la realizza, il file dei suoi test."""

    shelf: str
    stem: str

    @property
    def package(self) -> str:
        return SHELVES[self.shelf]

    @property
    def module(self) -> str:
        return f"{self.package}.{self.stem.replace('/', '.')}"

    @property
    def page_path(self) -> Path:
        return Path(self.shelf, f"{self.stem}.md")

    @property
    def module_path(self) -> Path:
        return Path(self.package, f"{self.stem}.py")

    @property
    def test_path(self) -> Path:
        folder = PurePosixPath(self.stem).parent
        shelf = "gpu_notes" if self.shelf == "gpu_notes" else ""
        return Path("tests", shelf, folder, f"test_{PurePosixPath(self.stem).name}.py")


def triples(root: Path = ROOT) -> list[Triple]:
    """Tutte le sezioni della casa: ogni stelo che compare come pagina o come modulo."""
    found = []
    for shelf, package in SHELVES.items():
        pages = {_stem(path, root / shelf) for path in (root / shelf).rglob("*.md")}
        stems = {_stem(path, root / package) for path in (root / package).rglob("*.py")}
        if shelf not in MODULE_IS_OPTIONAL:
            stems |= pages
        sections = (stem for stem in stems if PurePosixPath(stem).name not in NOT_SECTIONS)
        found += [Triple(shelf, stem) for stem in sorted(sections, key=paper_order)]
    return found


def companions(root: Path = ROOT) -> list[Path]:
    """Le pagine senza modulo, relative alla radice: indici, glossario, note che non calcolano."""
    sections = {triple.page_path for triple in triples(root)}
    files = (path for folder in (*SHELVES, "docs") for path in (root / folder).rglob("*.md"))
    return sorted({path.relative_to(root) for path in files} - sections)


def triple_of(module: str) -> Triple | None:
    """La sezione di un modulo dato con il suo nome puntato, se è un modulo della casa."""
    package, _, stem = module.partition(".")
    for shelf, shelf_package in SHELVES.items():
        if package == shelf_package and stem:
            return Triple(shelf, stem.replace(".", "/"))
    return None


def section_number(stem: str) -> str:
    """Il numero di sezione che sta nello stelo: `s3_2_1_scaled_dot_product` è la 3.2.1."""
    match = re.match(r"s(\d+(?:_\d+)*|a)_", stem)
    return match.group(1).replace("_", ".") if match else ""


def source_url(path: Path | str) -> str:
    """L'indirizzo, dalla radice del sito, della pagina che mostra un sorgente intero."""
    return f"sorgenti/{Path(path).with_suffix('').as_posix()}/"


def page_url(page: Path | str) -> str:
    """L'indirizzo, dalla radice del sito, di una pagina della casa."""
    path = Path(page).with_suffix("")
    return f"{path.parent.as_posix()}/" if path.name == "index" else f"{path.as_posix()}/"


def sources(root: Path = ROOT) -> list[Path]:
    """I sorgenti Python che il sito mostra interi, relativi alla radice."""
    files = (path for folder in OPEN_CODE for path in (root / folder).rglob("*.py"))
    return sorted(path.relative_to(root) for path in files)


def paper_order(stem: str) -> tuple[bool, list[float], str]:
    """L'ordine dell'articolo: per numero di sezione, poi l'appendice; il resto in fondo."""
    number = section_number(stem)
    parts = [math.inf if part == "a" else int(part) for part in number.split(".") if part]
    return (not number, parts, stem)


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()
