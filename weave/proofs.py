"""Gli indizi sui Tensor Core, sulle pagine: il riquadro `prove`.

Nel riquadro sta il nome di un gruppo di benchmark che li raccoglie. Per ogni gara fatta su GPU
escono una tabella, con tempo, ritmo, errore e verdetto di ogni formato, e gli indizi uno per uno,
in una parte che si apre.
"""

import re
from collections.abc import Iterator
from html import escape
from typing import Any

from pymdownx.superfences import SuperFencesException

from weave.fences import stopping
from weave.measurements import Session, declared, latest, provenance, reading
from weave.measurements.drawings import Contest
from weave.measurements.notation import decimal, duration

ABSENT = "<p>Non misurato su GPU.</p>"
"""Che cosa si scrive finché nessuno ha misurato."""

COLUMNS = ("formato", "tempo", "TFLOP/s", "del tetto", "errore", "Tensor Core")
"""Le colonne della tabella di una gara."""


@stopping
def prove(source: str, *_: Any, **__: Any) -> str:
    """Il riquadro: gli indizi più recenti di ogni macchina per un gruppo di benchmark."""
    group = source.strip()
    if group not in declared():
        known = ", ".join(declared())
        raise SuperFencesException(f"riquadro «prove»: «{group}» non esiste; i gruppi: {known}")
    return render(group, latest())


def render(group: str, sessions: list[Session]) -> str:
    """Le gare di ogni macchina che ha una GPU, ciascuna macchina con la sua provenienza."""
    pieces = []
    for session in sessions:
        with reading(session):
            shown = [contest_html(it, session) for it in proven(group, session)]
            origin = f"<p><small>{escape(explain(session))}</small></p>"
            pieces += ["\n".join(shown) + origin] if shown else []
    return "\n".join(pieces) or ABSENT


def proven(group: str, session: Session) -> list[Contest]:
    """Le gare di un gruppo in cui un verdetto c'è: quelle fatte su GPU."""
    contests = [entry["extra_info"] for entry in session["benchmarks"] if entry["group"] == group]
    return [
        contest
        for contest in contests
        if all("verdict" in found for found in contest.get("proofs", {"": {}}).values())
    ]


def contest_html(contest: Contest, session: Session) -> str:
    """Una gara: la tabella, poi gli indizi da aprire."""
    gpu = session["machine_info"]["gpu"]
    return (
        f'<figure class="disegno"><figcaption>{escape(f"{gpu}: {title(contest)}")}</figcaption>'
        f"{summary_table(contest)}"
        f"<details><summary>Gli indizi, {escape(contest['label'])}</summary>"
        f"{evidence_table(contest)}</details></figure>"
    )


def title(contest: Contest) -> str:
    """Le dimensioni: di un prodotto righe, profondità, colonne; di un'attenzione, le sue."""
    if "heads" in contest["shape"]:
        batch, heads, n, d = (contest["shape"][it] for it in ("batch", "heads", "n", "d"))
        return f"batch {batch}, {heads} teste, {n} posizioni, larghezza {d}"
    m, k, n = (contest["shape"][name] for name in "mkn")
    return f"{spaced(m)} righe, profondità {spaced(k)}, {spaced(n)} colonne"


def summary_table(contest: Contest) -> str:
    """Un formato per riga."""
    rows = (
        row(name, contest["contestants"][name], found) for name, found in contest["proofs"].items()
    )
    return table(COLUMNS, rows)


def row(name: str, score: dict[str, Any], found: dict[str, Any]) -> str:
    """Tempo, ritmo, frazione del tetto dello stesso formato, errore, verdetto."""
    rate = score["gflops"] / 1e3
    cells = (
        duration(score["median"]),
        decimal(rate, 0 if rate >= 100 else 1 if rate >= 10 else 2),
        f"{decimal(100 * score['gemm_fraction'], 0)}\u00a0%",
        scientific(found["error"]),
        f"<strong>{escape(found['verdict'])}</strong>",
    )
    return f'<tr><th scope="row">{escape(name)}</th>{cells_html(cells)}</tr>'


def evidence_table(contest: Contest) -> str:
    """Un indizio per riga, formato per formato."""
    return table(("formato", "indizio", "dice", "perché"), evidence_rows(contest))


def evidence_rows(contest: Contest) -> Iterator[str]:
    """Il verdetto di ogni formato, e sotto gli indizi da cui viene."""
    for name, found in contest["proofs"].items():
        head = f'<th scope="rowgroup" rowspan="{1 + len(found["evidence"])}">{escape(name)}</th>'
        told = (
            "<strong>verdetto</strong>",
            f"<strong>{escape(found['verdict'])}</strong>",
            escape(found["reason"]),
        )
        yield f"<tr>{head}{cells_html(told)}</tr>"
        for proof, evidence in found["evidence"].items():
            said = (escape(proof), escape(evidence["says"]), breakable(evidence["reason"]))
            yield f"<tr>{cells_html(said)}</tr>"


def breakable(text: str) -> str:
    """Un testo in cui i nomi lunghi dei kernel possono andare a capo, e i conteggi si leggono."""
    counts = re.sub(r"(?<![\w.,])\d{5,}(?![\w.,])", lambda found: spaced(int(found[0])), text)
    return re.sub(r"(_|::|,)(?=\w)", r"\1<wbr>", escape(counts))


def cells_html(cells: tuple[str, ...]) -> str:
    """Le caselle di una riga."""
    return "".join(f"<td>{cell}</td>" for cell in cells)


def table(heads: tuple[str, ...], rows: Iterator[str]) -> str:
    """Una tabella con l'intestazione."""
    names = "".join(f'<th scope="col">{head}</th>' for head in heads)
    return f"<table><thead><tr>{names}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def explain(session: Session) -> str:
    """Che cosa c'è nelle tabelle, e da dove viene."""
    return (
        "Tempo mediano di una chiamata; frazione di un grande prodotto di matrici quadrate nello "
        "stesso formato (in FP32 quello cronometrato negli stessi giri della gara, negli altri "
        "formati il tetto della sessione); errore relativo dal prodotto in FP64 dei numeri "
        "FP32 di partenza. " + provenance(session)
    )


def scientific(number: float) -> str:
    """Un numero come «2,9·10⁻⁴»."""
    mantissa, _, exponent = f"{number:.1e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.replace('.', ',')}·10{raised}"


def spaced(number: int) -> str:
    """Un intero con uno spazio fra le migliaia, da cinque cifre in su."""
    return f"{number:,}".replace(",", "\u202f") if number >= 10_000 else str(number)
