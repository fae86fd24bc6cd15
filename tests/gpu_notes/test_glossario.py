"""Le sigle: ogni sigla dell'edizione è nella tabella, una volta, e nessuna è di troppo."""

import re
from pathlib import Path

import pytest

from weave.house import ROOT
from weave.pact import FENCE

TABLE = ROOT / "gpu_notes" / "glossario.md"

PAGES = sorted(
    path
    for folder in ("paper_it", "gpu_notes", "docs")
    for path in (ROOT / folder).rglob("*.md")
    if path != TABLE and path.stem != "bibliografia" and "riferimento" not in path.parts
)

ACRONYM = re.compile(r"(?<![\w./-])[A-Z][A-Z0-9]+(?:-[A-Z]+)?(?![\w/-])")
"""Due o più maiuscole o cifre di seguito, la prima una maiuscola."""

CODES = re.compile(
    r"[ABCD]\d+"  # domande, credenze, ma anche schede: A100, B200
    r"|[RPUTLMKH]\d+|UR\d+|PT|RZ|RC"  # registri e predicati, livelli di cache, schede
    r"|E\d+M\d+|MXFP4|AVX2|DDR5|HBM2|INT32"  # formati, versioni di sigle che ci sono già
    r"|[KMGT]B|[MT]?FLOPS?|TOPS?"  # unità di misura
    r"|AI|CA|CC|BY|DO|DT|DC|DS|EQU|IV|JJ|NN|NP|OR|AND|NOT|PP|PV|SBAR|VB|VP|VL|VM|VP|LD|ST|QK|QKV"
    r"|XX|SA|OK|NO|SI|RO|USA|MIT|NASA|ACM|AGC|EVALB|NOP|NUL|SDK"
)
"""Ciò che si scrive maiuscolo e non è una sigla da spiegare: numeri di scheda, registri, unità,
etichette di alberi, parole chiave, licenze, nomi propri che la pagina spiega dove compaiono."""

NAMES = re.compile(
    r"FFMA|HMMA|BSSY|BSYNC|CONCURRENT|REAL|STREAM|YIELD|ILLIAC|CRAY|EPYC|HPMLL|SCILIB|COLING"
    r"|CBLAS|SGEMM|DGEMM|COMMON|PARAMETER|CALL|SYNC|COBOL|ALGOL|FORTRAN|TRANSFER|VMEM|IDX"
)
"""Nomi propri, istruzioni, parole del Fortran, routine."""


def prose(page: Path) -> str:
    """Il testo di una pagina senza riquadri, codice, formule, indirizzi."""
    kept: list[str] = []
    inside = ""
    for line in page.read_text(encoding="utf-8").splitlines():
        match = FENCE.match(line)
        if not inside and match:
            inside = match["marks"]
        elif inside and match and match["marks"].startswith(inside):
            inside = ""
        elif not inside:
            kept.append(line)
    text = "\n".join(kept)
    for pattern in (r"`[^`]*`", r"\$[^$]*\$", r"\]\([^)]*\)", r"\{[^}\n]*\}", r"https?://\S+"):
        text = re.sub(pattern, " ", text)
    return text


def entries() -> list[str]:
    rows = re.findall(r"^\| ([^|]+) \|", TABLE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [row for row in rows if row != "Sigla"]


def acronyms(page: Path) -> set[str]:
    found = set(ACRONYM.findall(prose(page)))
    return {name for name in found if not CODES.fullmatch(name) and not NAMES.fullmatch(name)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_acronym_of_a_page_is_explained(page: Path) -> None:
    """Nessuna pagina usa una sigla che la tabella non spiega."""
    assert sorted(acronyms(page) - set(entries())) == []


def test_every_entry_is_used() -> None:
    """La tabella non spiega sigle che l'edizione non usa, come parole intere."""
    words = {word for page in PAGES for word in re.findall(r"[\w-]+", page.read_text("utf-8"))}
    words |= {part for word in words for part in word.split("-")}
    assert [name for name in entries() if name not in words] == []


def test_entries_are_sorted_and_unique() -> None:
    """In ordine alfabetico, una volta ciascuna, con tre colonne piene."""
    names = entries()
    assert names == sorted(set(names))
    rows = [row for row in TABLE.read_text(encoding="utf-8").splitlines() if row.startswith("|")]
    assert all(len(cells := row.strip("| ").split(" | ")) == 3 and all(cells) for row in rows[2:])


def test_a_missing_acronym_is_noticed(tmp_path: Path) -> None:
    """Una sigla inventata in una pagina si vede; nel codice o in un indirizzo, no."""
    page = tmp_path / "page.md"
    page.write_text("Usa la ZQX, `ABC`, [x](https://a.b/DEF), $GHI$.\n\n```text\nJKL\n```\n")
    assert acronyms(page) == {"ZQX"}
