"""I risultati dei benchmark sulle pagine: il riquadro `misura`, con disegno, tabella e provenienza.

Nel riquadro sta il nome di un gruppo di benchmark: per i tempi da solo, seguito da `memoria` per
la memoria in più. I numeri vengono dai file di `benchmarks/results/`, a ogni costruzione.
"""

import datetime
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from pymdownx.superfences import SuperFencesException

from weave.house import ROOT

BENCHMARKS = ROOT / "benchmarks"

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

Session = dict[str, Any]
"""Un file di risultati: la macchina, il commit, la data, le gare."""

Contest = dict[str, Any]
"""Una gara: il lavoro, il tetto, i concorrenti con i loro tempi."""


def misura(source: str, *_: Any, **__: Any) -> str:
    """Il riquadro: i risultati più recenti di ogni macchina per un gruppo di benchmark."""
    group, _space, quantity = source.strip().partition(" ")
    if group not in declared() or quantity not in DRAWINGS:
        raise SuperFencesException(
            f"riquadro «misura»: «{source.strip()}» non esiste; i gruppi sono "
            f"{', '.join(declared())}, seguiti da nulla o da «memoria»"
        )
    return render(group, quantity, latest())


def declared(folder: Path = BENCHMARKS) -> list[str]:
    """I gruppi che i benchmark dichiarano, misurati o no."""
    sources = (path.read_text(encoding="utf-8") for path in sorted(folder.glob("bench_*.py")))
    return [group for source in sources for group in re.findall(r'\bgroup="(\w+)"', source)]


def latest(folder: Path = BENCHMARKS / "results") -> list[Session]:
    """Per ogni macchina, il suo ultimo file di risultati."""
    newest: dict[Path, Session] = {}
    for path in sorted(folder.glob("*/*.json")):
        session = json.loads(path.read_text(encoding="utf-8"))
        known = newest.get(path.parent)
        if known is None or session["datetime"] > known["datetime"]:
            newest[path.parent] = session
    return list(newest.values())


def render(group: str, quantity: str, sessions: list[Session]) -> str:
    """Una figura per ogni macchina e per ogni tipo di numeri; che cosa non è stato misurato."""
    shown = [(session, contests) for session in sessions for contests in by_dtype(group, session)]
    figures = [
        figure(f"{group}-{quantity or 'tempi'}-{place}", quantity, session, contests)
        for place, (session, contests) in enumerate(shown)
    ]
    if not figures:
        return "<p>Non misurato, né su CPU né su GPU.</p>"
    on_gpu = any(contests[0]["device"] == "cuda" for _, contests in shown)
    return "\n".join([*figures, "" if on_gpu else "<p>Non misurato su GPU.</p>"])


def by_dtype(group: str, session: Session) -> Iterator[list[Contest]]:
    """Le gare di un gruppo, separate per tipo dei numeri."""
    contests = [
        {**contest["extra_info"], "rounds": contest["stats"]["rounds"]}
        for contest in session["benchmarks"]
        if contest["group"] == group
    ]
    for dtype in dict.fromkeys(contest["dtype"] for contest in contests):
        yield [contest for contest in contests if contest["dtype"] == dtype]


def figure(anchor: str, quantity: str, session: Session, contests: list[Contest]) -> str:
    """Il disegno, la tabella con gli stessi numeri, la didascalia con la provenienza."""
    draw, cell, explain = DRAWINGS[quantity]
    device, dtype = contests[0]["device"].upper(), contests[0]["dtype"]
    caption = f"{device}, {dtype}. {explain(contests)} {provenance(session)}"
    label = f"{explain(contests)} I numeri sono nella tabella che segue."
    return (
        f'<figure class="disegno">{svg(contests, draw, label, anchor)}{table(contests, cell)}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def table(contests: list[Contest], cell: Callable[[dict[str, float]], str]) -> str:
    """Una riga per concorrente, una colonna per dimensione."""
    heads = "".join(f'<th scope="col">{escape(contest["label"])}</th>' for contest in contests)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        + "".join(f"<td>{cell(contest['contestants'][name])}</td>" for contest in contests)
        + "</tr>"
        for name in contests[0]["contestants"]
    )
    return (
        f'<table><thead><tr><th scope="col">concorrente</th>{heads}</tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def time_cell(score: dict[str, float]) -> str:
    """Il tempo mediano; sotto, il rapporto con il riferimento e la frazione del tetto."""
    ratio, percent = decimal(score["ratio"], 2), decimal(100 * score["gemm_fraction"], 0)
    relative = f"× {ratio} · {percent} %".replace(" ", "\u00a0")
    return f"{duration(score['median'])}<br><small>{relative}</small>"


def memory_cell(score: dict[str, float]) -> str:
    """La memoria in più al culmine della chiamata."""
    return size(score["extra_bytes"])


def explain_times(contests: list[Contest]) -> str:
    """Che cosa dicono disegno e tabella dei tempi."""
    rounds = [contest["rounds"] for contest in contests]
    ceilings = [contest["gemm_gflops"] for contest in contests]
    return (
        f"Tempo mediano di una chiamata su {span(rounds)} giri alternati; poi il rapporto con "
        f"{contests[0]['baseline']} (sotto 1 è più veloce) e la frazione del ritmo di un grande "
        f"prodotto di matrici, {span(ceilings)} GFLOP/s nelle stesse gare."
    )


def explain_memory(contests: list[Contest]) -> str:
    """Che cosa dicono disegno e tabella della memoria."""
    return "Memoria allocata oltre agli ingressi, al culmine di una chiamata, uscita compresa."


def provenance(session: Session) -> str:
    """Macchina, versioni, commit e data, e chi mancava."""
    machine, commit = session["machine_info"], session["commit_info"]
    cpu = re.sub(r"\((R|TM)\)", "", machine["cpu"])
    gpu = f"{machine['gpu']} (driver {machine['driver']}), " if machine["gpu"] else ""
    packages = machine["packages"].items()
    versions = ", ".join(f"{name} {version}" for name, version in packages if version)
    absent = [name for name, version in packages if version is None]
    missing = f" Non installati, quindi non misurati: {', '.join(absent)}." if absent else ""
    modified = " (modificato)" if commit["modified"] else ""
    return (
        f"Macchina: {gpu}{cpu}, {machine['cores']} core, {machine['threads']} thread, "
        f"{machine['system']}. Python {machine['python']}, {versions}. "
        f"Commit {commit['id']}{modified}, {day(session['datetime'])}.{missing}"
    )


def svg(
    contests: list[Contest], draw: Callable[[Axes, list[Contest]], None], label: str, anchor: str
) -> str:
    """Il disegno come SVG da mettere in pagina: colori del testo, nessuna data, nomi suoi."""
    output = io.StringIO()
    with rc_context({**STYLE, "svg.hashsalt": anchor}):
        canvas = Figure(figsize=(5, 4.6), layout="constrained")
        axes = canvas.add_subplot()
        draw(axes, contests)
        canvas.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=1)
        canvas.savefig(output, format="svg", transparent=True, metadata={"Date": None})
    return inline(output.getvalue(), label, anchor)


def inline(drawing: str, label: str, prefix: str) -> str:
    """Un file SVG reso parte della pagina, senza nulla che tocchi il resto della pagina."""
    _opening, _tag, content = drawing.partition("<svg ")
    box = re.search(r'viewBox="[^"]*"', content)
    content = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", content, flags=re.DOTALL)
    content = re.sub(r'(\bid="|href="#|url\(#)', rf"\g<1>{prefix}-", content)
    content = re.sub(r"font-family: [^;\"]*", "font-family: var(--md-text-font-family)", content)
    return (
        f'<svg role="img" aria-label="{escape(label)}" {box and box[0]} width="480" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink" stroke-linejoin="round">'
        + content.partition(">")[2].replace(INK, "currentColor").strip()
    )


def draw_times(axes: Axes, contests: list[Contest]) -> None:
    """Una riga per dimensione, un segno per concorrente: più a sinistra è più veloce."""
    rows = range(len(contests))
    axes.axvline(1, color=INK, linewidth=0.8)
    for name, stroke in strokes(contests):
        ratios = [contest["contestants"][name]["ratio"] for contest in contests]
        axes.plot(ratios, rows, linestyle="", label=name, **stroke)
    axes.set_yticks(rows, [contest["label"] for contest in contests])
    axes.invert_yaxis()
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(LogLocator(base=2, numticks=6))
    axes.set_xlabel(f"tempo rispetto a {contests[0]['baseline']}")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda ratio, _: f"{ratio:g}".replace(".", ",")))
    axes.grid(axis="y", color=INK, alpha=0.2)


def draw_memory(axes: Axes, contests: list[Contest]) -> None:
    """Una linea per concorrente, scale logaritmiche: la pendenza è l'esponente della crescita."""
    lengths = [contest["shape"]["n"] for contest in contests]
    for name, stroke in strokes(contests):
        megabytes = [contest["contestants"][name]["extra_bytes"] / 1e6 for contest in contests]
        axes.plot(lengths, megabytes, label=name, **stroke)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(lengths, [str(n) for n in lengths])
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace(".", ",")))
    axes.set_xlabel("n, posizioni")
    axes.set_ylabel("memoria in più, MB")
    axes.grid(color=INK, alpha=0.2)


DRAWINGS: dict[str, tuple[Callable[..., None], Callable[..., str], Callable[..., str]]] = {
    "": (draw_times, time_cell, explain_times),
    "memoria": (draw_memory, memory_cell, explain_memory),
}
"""Per ogni grandezza: il disegno, la casella della tabella, la spiegazione."""


def strokes(contests: list[Contest]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Ogni concorrente con il suo tratto; il nostro è un anello, che non copre gli altri."""
    for place, name in enumerate(contests[0]["contestants"]):
        color, marker = STROKES[place % len(STROKES)]
        ring = {"markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.8, "zorder": 3}
        yield name, {"color": color, "marker": marker, **({"markersize": 6} if place else ring)}


def duration(seconds: float) -> str:
    """Un tempo con tre cifre: «612 µs», «7,49 ms», «1,10 s»."""
    for unit, length in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if seconds >= length or unit == "µs":
            break
    return f"{three_digits(seconds / length)}\u00a0{unit}"


def size(count: float) -> str:
    """Una quantità di memoria con tre cifre: «26,9 kB», «1,05 MB»."""
    for unit, length in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= length or unit == "kB":
            break
    return f"{three_digits(count / length)}\u00a0{unit}"


def three_digits(number: float) -> str:
    """Un numero con tre cifre significative."""
    return decimal(number, max(0, 2 - math.floor(math.log10(number))))


def decimal(number: float, places: int) -> str:
    """Un numero con la virgola decimale."""
    return f"{number:.{places}f}".replace(".", ",")


def span(numbers: list[float]) -> str:
    """Un intervallo, o un numero solo se gli estremi arrotondati coincidono."""
    low, high = decimal(min(numbers), 0), decimal(max(numbers), 0)
    return low if low == high else f"{low}–{high}"


def day(moment: str) -> str:
    """Una data all'italiana: «12/6/2017»."""
    date = datetime.datetime.fromisoformat(moment)
    return f"{date.day}/{date.month}/{date.year}"
