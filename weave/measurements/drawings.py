"""I disegni: SVG che stanno in pagina, leggibili sul chiaro e sullo scuro; e le tabelle."""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

from benchmarks.schema import usual_format
from weave.measurements.notation import tick

INK = "#010203"
"""Il colore che nel disegno sta per quello del testo."""

STROKES = [
    (INK, "o"),
    ("#c8571b", "s"),
    ("#1f83b4", "^"),
    ("#b0589a", "D"),
    ("#2f9161", "v"),
    ("#9a7b12", "P"),
    ("#7d7f86", "X"),
]
"""Colore e segno di ogni concorrente: si leggono sul chiaro e sullo scuro, il nostro per primo."""

STYLE: Any = {
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "font.size": 10.5,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
"""Lo stile dei disegni: fondo trasparente, testo che resta testo."""

Contest = dict[str, Any]
"""Una gara: il lavoro, il tetto, i concorrenti con i loro tempi."""

Parts = Iterator[tuple[str, list[Contest]]]
"""Le gare di una sessione divise per figura, ciascuna con il suo titolo."""


@dataclass(frozen=True)
class Quantity:
    """Una grandezza che si può chiedere a un riquadro.

    Argomenti:
        draw: il disegno; niente, se basta la tabella.
        table: la tabella con gli stessi numeri.
        explain: che cosa dicono l'uno e l'altra.
        parts: le figure in cui si dividono le gare di una sessione.
        entries: quante righe ha la legenda.
    """

    draw: Callable[[Axes, list[Contest]], None]
    table: Callable[[list[Contest]], str]
    explain: Callable[[list[Contest]], str]
    parts: Callable[[list[Contest]], Parts]
    entries: Callable[[list[Contest]], int]


def by_dtype(contests: list[Contest]) -> Parts:
    """Una figura per tipo dei numeri; per titolo, il formato in cui di solito si moltiplicano."""
    for form in dict.fromkeys(usual_format(contest) for contest in contests):
        yield form, [contest for contest in contests if usual_format(contest) == form]


def contestants_in(contests: list[Contest]) -> list[str]:
    """I concorrenti di più gare, nell'ordine in cui compaiono: non tutte le hanno tutti."""
    return list(dict.fromkeys(name for contest in contests for name in contest["contestants"]))


def count_contestants(contests: list[Contest]) -> int:
    """Le righe della legenda, dove ogni concorrente ne ha una."""
    return len(contestants_in(contests))


def logarithmic(axis: Axis, unit: float = 1.0) -> None:
    """Le tacche di un asse logaritmico già disegnato: almeno tre, anche se i numeri sono vicini.

    Si prova con le potenze di dieci, poi con 1, 2 e 5, infine a passo uguale.

    Argomenti:
        axis: l'asse.
        unit: l'unità in cui si scrivono i numeri.
    """
    low, high = axis.get_view_interval()
    locators = (
        LogLocator(numticks=7),
        LogLocator(subs=(1, 2, 5), numticks=7),
        MaxNLocator(6, steps=[1, 2, 5, 10]),
    )
    enough = (
        locator
        for locator in locators
        if sum(low <= place <= high for place in locator.tick_values(low, high)) >= 3
    )
    axis.set_major_locator(next(enough, locators[-1]))
    axis.set_major_formatter(FuncFormatter(lambda number, _: tick(number / unit)))
    axis.set_minor_locator(NullLocator())


def stroke(place: int) -> dict[str, Any]:
    """Colore e segno: finiti i colori si ricomincia, con segni diversi."""
    turn, color = divmod(place, len(STROKES))
    return {"color": STROKES[color][0], "marker": STROKES[(color + turn) % len(STROKES)][1]}


def strokes(names: Iterable[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ogni concorrente con il suo tratto; il nostro è un anello, che non copre gli altri."""
    for place, name in enumerate(names):
        ring = {"markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.8, "zorder": 3}
        yield name, {**stroke(place), **({"markersize": 6} if place else ring)}


def svg(draw: Callable[[Axes], None], label: str, anchor: str, entries: int = 7) -> str:
    """Il disegno come SVG da mettere in pagina: colori del testo, nessuna data, nomi suoi.

    Argomenti:
        draw: disegna su un paio d'assi.
        label: che cosa si vede, per chi non lo vede.
        anchor: il prefisso dei nomi, unico nella pagina.
        entries: le righe della legenda; il disegno cresce con loro.
    """
    output = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": anchor}):
        canvas = Figure(figsize=(5, max(4.6, 3.4 + 0.25 * entries)), layout="constrained")
        axes = canvas.add_subplot()
        draw(axes)
        canvas.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=1)
        canvas.savefig(output, format="svg", transparent=True, metadata={"Date": None})
    return inline(output.getvalue(), label, anchor)


def inline(drawing: str, label: str, prefix: str) -> str:
    """Un file SVG reso parte della pagina, senza nulla che tocchi il resto della pagina."""
    _opening, _tag, content = drawing.partition("<svg ")
    box = re.search(r'viewBox="[^"]*"', content)
    content = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", content, flags=re.DOTALL)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', content))
    content = re.sub(r' id="([^"]*)"', lambda name: name[0] if name[1] in used else "", content)
    content = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", content)
    content = re.sub(r"font-family: [^;\"]*", "font-family: var(--md-text-font-family)", content)
    return (
        f'<svg role="img" aria-label="{escape(label)}" {box and box[0]} width="480" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" stroke-linejoin="round">'
        + content.partition(">")[2].replace(INK, "currentColor").strip()
    )


def html_table(heads: Iterable[str], rows: Iterable[tuple[str, Iterable[str]]]) -> str:
    """Una tabella: le intestazioni, poi per ogni riga il suo nome e le caselle, già in HTML."""
    header = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        for name, cells in rows
    )
    return f"<table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table>"
