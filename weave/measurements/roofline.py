"""Il roofline: ogni gara come un punto, sotto il tetto misurato nella stessa sessione.

In orizzontale l'intensità, operazioni per byte; in verticale il ritmo raggiunto. Il tetto sale con
la banda della copia fino al ginocchio, poi è piatto al ritmo del prodotto di matrici più veloce.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from matplotlib.axes import Axes

from benchmarks.schema import usual_format
from weave.measurements.drawings import (
    INK,
    Contest,
    Parts,
    Quantity,
    html_table,
    logarithmic,
    strokes,
)
from weave.measurements.notation import bandwidth, percent, rate, tick

TERA = 1e13
"""Da che tetto in su si disegna in TFLOP/s."""


@dataclass(frozen=True)
class Roof:
    """Un tetto: FLOP al secondo, e byte al secondo se la banda si conosce."""

    name: str
    peak: float
    bandwidth: float | None

    def attainable(self, intensity: float) -> float:
        """Il ritmo che, a quella intensità, non si può superare."""
        if self.bandwidth is None:
            return self.peak
        return min(self.peak, intensity * self.bandwidth)

    @property
    def knee(self) -> float | None:
        """L'intensità a cui la memoria smette di comandare."""
        return None if self.bandwidth is None else self.peak / self.bandwidth


@dataclass(frozen=True)
class Point:
    """Un concorrente in una gara: intensità, in FLOP per byte, e ritmo, in FLOP al secondo."""

    series: str
    name: str
    intensity: float
    rate: float


def formats_of(contest: Contest) -> dict[str, str]:
    """Il formato in cui moltiplica ogni concorrente che fa il lavoro dichiarato."""
    return {
        name: score.get("format") or usual_format(contest)
        for name, score in contest["contestants"].items()
        if score["gemm_fraction"] is not None
    }


def by_format(contests: list[Contest]) -> Parts:
    """Una figura per formato: ogni formato ha il suo tetto."""
    found = dict.fromkeys(form for contest in contests for form in formats_of(contest).values())
    for form in found:
        chosen = [only(contest, form) for contest in contests]
        yield form, [contest for contest in chosen if contest["contestants"]]


def only(contest: Contest, form: str) -> Contest:
    """Una gara con i soli concorrenti che moltiplicano in un formato."""
    formats = formats_of(contest)
    kept = {
        name: score for name, score in contest["contestants"].items() if formats.get(name) == form
    }
    return {**contest, "format": form, "contestants": kept}


def ours_by_format(contests: list[Contest]) -> Parts:
    """Come `by_format`, ma di ogni gara resta soltanto il primo concorrente, il nostro."""
    yield from by_format([ours(contest) for contest in contests])


def ours(contest: Contest) -> Contest:
    """Una gara con il solo primo concorrente."""
    first = next(iter(contest["contestants"]))
    alone = {first: contest["contestants"][first]}
    return {**contest, "contestants": alone, "series": contest["group"]}


def points(contests: list[Contest]) -> list[Point]:
    """Un punto per concorrente e per gara; la serie è il concorrente, o il gruppo."""
    return [
        Point(
            series=contest.get("series", name),
            name=contest["label"],
            intensity=contest["intensity"],
            rate=score["gflops"] * 1e9,
        )
        for contest in contests
        for name, score in contest["contestants"].items()
    ]


def roofs(contests: list[Contest]) -> list[Roof]:
    """Il tetto misurato in quel formato; poi quello della scheda tecnica, se il chip è noto."""
    form, ceilings = contests[0]["format"], contests[0]["ceilings"] or {}
    found = ceilings.get("gemm", {}).get(form)
    measured = contests[0]["products"][form]
    copied = ceilings.get("copy_gbs")
    result = [Roof("misurato", measured * 1e9, copied and copied * 1e9)]
    declared = ceilings.get("datasheet_gbs")
    if found and found["datasheet"] and declared:
        result.append(Roof("scheda tecnica", found["datasheet"] * 1e9, declared * 1e9))
    return result


def draw_roofline(axes: Axes, contests: list[Contest]) -> None:
    """I tetti, continui se misurati e tratteggiati se dichiarati, e sotto i punti."""
    placed, known = points(contests), roofs(contests)
    knees = [roof.knee for roof in known if roof.knee]
    intensities = [point.intensity for point in placed] + knees
    left, right = min(intensities) / 2, max(intensities) * 2
    for roof, line in zip(known, ("-", "--"), strict=False):
        corners = sorted({left, *([roof.knee] if roof.knee else []), right})
        heights = [roof.attainable(intensity) for intensity in corners]
        axes.plot(corners, heights, line, color=INK, linewidth=1.2, label=described(roof))
    for series, style in strokes(dict.fromkeys(point.series for point in placed)):
        mine = [point for point in placed if point.series == series]
        rates = [point.rate for point in mine]
        axes.plot([p.intensity for p in mine], rates, linestyle="", label=series, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(left, right)
    low, high = axes.get_ylim()
    axes.set_ylim(low, high * 1.5)
    axes.set_xlabel("intensità, FLOP per byte")
    unit, length = ("TFLOP/s", 1e12) if known[0].peak >= TERA else ("GFLOP/s", 1e9)
    axes.set_ylabel(unit)
    logarithmic(axes.xaxis)
    logarithmic(axes.yaxis, length)
    axes.grid(color=INK, alpha=0.2)


def described(roof: Roof) -> str:
    """Il tetto nella legenda: i suoi due numeri."""
    slope = f"; copia, {bandwidth(roof.bandwidth)}" if roof.bandwidth else "; banda non misurata"
    return f"tetto {roof.name}: {rate(roof.peak)}{slope}"


def roofline_table(contests: list[Contest]) -> str:
    """Gli stessi punti: intensità, ritmo, e quanta parte di ogni tetto; chiusa, se è lunga."""
    known = roofs(contests)
    heads = ["gara", "FLOP/byte", "ritmo", *(f"tetto {roof.name}" for roof in known)]
    rows = [(escape(f"{p.series}, {p.name}"), cells(p, known)) for p in points(contests)]
    table = html_table(heads, rows)
    if len(rows) <= 12:
        return table
    return f"<details><summary>I numeri delle {len(rows)} gare</summary>{table}</details>"


def cells(point: Point, known: list[Roof]) -> Iterator[str]:
    """Le caselle di un punto; accanto alla frazione, chi comanda a quella intensità."""
    yield three_significant(point.intensity)
    yield rate(point.rate)
    for roof in known:
        limit = "" if roof.knee is None else f" ({governs(point, roof)})"
        yield f"{percent(point.rate / roof.attainable(point.intensity))}{limit}"


def governs(point: Point, roof: Roof) -> str:
    """Chi fissa il tetto a quell'intensità."""
    return "memoria" if roof.knee and point.intensity < roof.knee else "aritmetica"


def three_significant(number: float) -> str:
    """Un'intensità: «0,25», «170»."""
    return tick(float(f"{number:.3g}"))


def explain_roofline(contests: list[Contest]) -> str:
    """Che cosa dicono i punti e i tetti."""
    known = roofs(contests)
    copied = (
        "e, inclinata, la copia di un blocco più grande di ogni cache"
        if known[0].bandwidth
        else "senza la retta inclinata, perché la banda non fu misurata"
    )
    declared = "; tratteggiato, il tetto della scheda tecnica" if len(known) > 1 else ""
    return (
        "Ritmo raggiunto contro intensità. La linea continua è il tetto misurato nella stessa "
        f"sessione: in alto il prodotto di matrici più veloce, {copied}{declared}. Nella tabella, "
        "la frazione del tetto che vale a quella intensità."
    )


def legend(contests: list[Contest]) -> int:
    """Le righe della legenda: una per serie, una per tetto."""
    return len({point.series for point in points(contests)}) + len(roofs(contests))


ROOFLINE = Quantity(draw_roofline, roofline_table, explain_roofline, by_format, legend)
"""«roofline»: i concorrenti di un gruppo."""

ALL = Quantity(draw_roofline, roofline_table, explain_roofline, ours_by_format, legend)
"""«roofline» da solo: tutti i gruppi di una macchina, il nostro concorrente di ogni gara."""
