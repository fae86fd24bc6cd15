"""Le barre: quanta parte del tetto raggiunge ogni concorrente, e quanta della scheda tecnica."""

from html import escape

from matplotlib.axes import Axes

from benchmarks.schema import usual_format
from weave.measurements.drawings import INK, STROKES, Contest, Parts, Quantity, html_table
from weave.measurements.notation import percent, rate
from weave.measurements.times import Score


def together(contests: list[Contest]) -> Parts:
    """Tutti i tipi in una figura: le barre servono a metterli accanto."""
    kept = largest(contests)
    if any(bars([contest]) for contest in kept):
        yield ", ".join(dict.fromkeys(usual_format(contest) for contest in kept)), kept


def largest(contests: list[Contest]) -> list[Contest]:
    """Per ogni tipo, le gare con più operazioni: lì conta il ritmo, e non il costo di partire."""
    most: dict[str, int] = {}
    for contest in contests:
        most[contest["dtype"]] = max(most.get(contest["dtype"], 0), contest["flops"])
    return [contest for contest in contests if contest["flops"] == most[contest["dtype"]]]


Bar = tuple[str, str, Score]
"""Il nome di una barra, il suo formato, i numeri del concorrente."""


def bars(contests: list[Contest]) -> list[Bar]:
    """Una barra per concorrente che fa il lavoro dichiarato, gara per gara."""
    several = len({contest["label"] for contest in contests}) > 1
    return [
        (
            f"{name}, {contest['label']}" if several else name,
            score.get("format") or usual_format(contest),
            score,
        )
        for contest in contests
        for name, score in contest["contestants"].items()
        if score["gemm_fraction"] is not None
    ]


def draw_bars(axes: Axes, contests: list[Contest]) -> None:
    """Barra piena: frazione del tetto misurato. Contorno sotto: frazione della scheda tecnica."""
    found = bars(contests)
    colors = dict(zip(dict.fromkeys(form for _, form, _ in found), STROKES[1:], strict=False))
    told = set()
    for row, (_, form, score) in enumerate(found):
        color, _ = colors[form]
        label = None if form in told else f"{form}, del tetto misurato"
        told.add(form)
        axes.barh(row - 0.18, 100 * score["gemm_fraction"], 0.36, color=color, label=label)
        if score.get("datasheet_fraction") is not None:
            first = "della scheda tecnica" not in told
            told.add("della scheda tecnica")
            axes.barh(
                row + 0.18,
                100 * score["datasheet_fraction"],
                0.3,
                fill=False,
                edgecolor=INK,
                label="della scheda tecnica" if first else None,
            )
    axes.axvline(100, color=INK, linewidth=0.8)
    axes.set_yticks(range(len(found)), [f"{name}\n{form}" for name, form, _ in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.tick_params(axis="y", labelsize=8.5)
    axes.set_xlabel("frazione, %")


def bars_table(contests: list[Contest]) -> str:
    """Le stesse frazioni, con il ritmo."""
    heads = ["concorrente", "formato", "ritmo", "del tetto misurato", "della scheda tecnica"]
    rows = (
        (
            escape(name),
            [
                escape(form),
                rate(score["gflops"] * 1e9),
                percent(score["gemm_fraction"]),
                percent(score.get("datasheet_fraction")),
            ],
        )
        for name, form, score in bars(contests)
    )
    return html_table(heads, rows)


def explain_bars(contests: list[Contest]) -> str:
    """Quali gare si vedono, e rispetto a che cosa."""
    labels = ", ".join(dict.fromkeys(contest["label"] for contest in contests))
    return (
        f"Le gare con più operazioni, tipo per tipo: {labels}. Barra piena: frazione di un grande "
        "prodotto di matrici nello stesso formato, misurato nella gara o, per gli altri formati, "
        "nella sessione. Contorno: frazione del picco dichiarato, dove il chip è noto. Chi fa un "
        "altro lavoro non ha frazioni, e non compare."
    )


def legend(contests: list[Contest]) -> int:
    """L'altezza del disegno: due righe di legenda per ogni barra, per dare aria ai nomi."""
    return 2 * len(bars(contests)) + len({form for _, form, _ in bars(contests)})


BARS = Quantity(draw_bars, bars_table, explain_bars, together, legend)
"""«barre»: le frazioni del tetto e della scheda tecnica."""
