"""La crescita: tempo o memoria contro n o d, con l'esponente misurato accanto a quello contato.

In scala doppiamente logaritmica una potenza è una retta, e la pendenza è l'esponente. Si adatta ai
punti più grandi: dove le dimensioni sono piccole si misura il costo di cominciare.
"""

import math
from collections.abc import Callable, Iterator
from functools import partial
from html import escape

from matplotlib.axes import Axes
from matplotlib.ticker import NullLocator

from weave.measurements.drawings import (
    INK,
    Contest,
    Quantity,
    by_dtype,
    contestants_in,
    count_contestants,
    html_table,
    logarithmic,
    strokes,
)
from weave.measurements.notation import decimal, duration, size

FITTED = 3
"""Quanti punti, i più grandi, danno l'esponente."""

Series = list[tuple[int, float]]
"""Le dimensioni crescenti, ciascuna con il suo valore."""


def growing(contests: list[Contest]) -> str:
    """Il nome della dimensione che cambia da una gara all'altra; n, se fra le altre c'è n."""
    names = [
        name
        for name in contests[0]["shape"]
        if len({contest["shape"].get(name) for contest in contests}) > 1
    ]
    return "n" if "n" in names else (names or list(contests[0]["shape"]))[0]


def series(contests: list[Contest], name: str, field: str) -> Series:
    """I valori di un concorrente, per dimensione; gli zeri non hanno logaritmo, e si saltano."""
    variable = growing(contests)
    return sorted(
        (contest["shape"][variable], contest["contestants"][name][field])
        for contest in contests
        if name in contest["contestants"] and contest["contestants"][name][field] > 0
    )


def exponent(values: Series) -> float | None:
    """La pendenza dei minimi quadrati fra i logaritmi, sui punti più grandi.

    Restituisce:
        L'esponente; niente, se le dimensioni diverse sono meno di due.
    """
    last = [(math.log(x), math.log(y)) for x, y in values[-FITTED:]]
    if len(last) < 2:
        return None
    center_x, center_y = (sum(numbers) / len(last) for numbers in zip(*last, strict=True))
    spread = sum((x - center_x) ** 2 for x, _ in last)
    if not spread:
        return None
    return sum((x - center_x) * (y - center_y) for x, y in last) / spread


Count = Callable[[int, int], float]
"""Le moltiplicazioni di uno strato, in funzione di n e d."""


def orders() -> dict[str, tuple[str, Count]]:
    """Di ogni strato, che cosa sta nella O e la sua funzione, dalla tabella 1 di §4.

    I nomi sono quelli dei concorrenti; k e r non contano per l'esponente.
    """
    from attention.s4_why_self_attention import TABLE_1, Sizes, attention_multiply_adds

    def order(layer: str) -> tuple[str, Count]:
        cell = next(row for row in TABLE_1 if row.layer == layer).complexity
        return cell.text[2:-1], lambda n, d: cell.growth(Sizes(n=n, d=d, k=3, r=15))

    return {
        "auto-attenzione": order("auto-attenzione"),
        "con le proiezioni": (
            "n²·d + 2·n·d²",
            lambda n, d: attention_multiply_adds(n, d, projections=True),
        ),
        "ricorrente": order("ricorrente"),
        "nn.RNN": order("ricorrente"),
        "convoluzionale": order("convoluzionale"),
        "ristretta": order("auto-attenzione ristretta"),
        "separabile": ("k·n·d + n·d²", lambda n, d: 3 * n * d + n * d**2),
    }


def counted(contests: list[Contest], name: str) -> tuple[str, float] | None:
    """La formula di §4 e il suo esponente alle stesse dimensioni; niente, per gli altri."""
    shapes = [contest["shape"] for contest in contests if name in contest["contestants"]]
    if name not in orders() or not all({"n", "d"} == shape.keys() for shape in shapes):
        return None
    variable = growing(contests)
    formula, count = orders()[name]
    slope = exponent(sorted((shape[variable], count(shape["n"], shape["d"])) for shape in shapes))
    return None if slope is None else (formula, slope)


def draw_growth(field: str, unit: float, axis: str, axes: Axes, contests: list[Contest]) -> None:
    """Una linea per concorrente; tratteggiate e sottili, le pendenze 1 e 2."""
    variable = growing(contests)
    sizes = sorted({contest["shape"][variable] for contest in contests})
    for name, style in strokes(contestants_in(contests)):
        values = series(contests, name, field)
        heights = [y / unit for _, y in values]
        axes.plot([x for x, _ in values], heights, label=name, linewidth=1.1, **style)
    axes.set_xscale("log")
    axes.set_yscale("log")
    guides(axes, sizes)
    axes.set_xticks(sizes, [str(x) for x in sizes])
    axes.xaxis.set_minor_locator(NullLocator())
    logarithmic(axes.yaxis)
    axes.set_xlabel(variable)
    axes.set_ylabel(axis)
    axes.grid(color=INK, alpha=0.2)


def guides(axes: Axes, sizes: list[int]) -> None:
    """Due rette di confronto che partono dall'angolo in basso a sinistra dei dati."""
    low, high = axes.get_ylim()
    for slope, style in ((1, ":"), (2, "--")):
        ends = [sizes[0], sizes[-1]]
        heights = [low, low * (sizes[-1] / sizes[0]) ** slope]
        axes.plot(ends, heights, style, color=INK, linewidth=0.8, label=f"pendenza {slope}")
    axes.set_ylim(low, high)


def growth_table(field: str, cell: Callable[[float], str], contests: list[Contest]) -> str:
    """I valori alle dimensioni estreme, l'esponente misurato e, se si conosce, quello contato."""
    variable = growing(contests)
    sizes = sorted({contest["shape"][variable] for contest in contests})
    known = any(counted(contests, name) for name in contestants_in(contests))
    heads = [
        "concorrente",
        *(f"{variable} = {x}" for x in dict.fromkeys((sizes[0], sizes[-1]))),
        "esponente misurato",
        *(["esponente contato"] if known else []),
    ]
    return html_table(heads, growth_rows(field, cell, contests, known))


def growth_rows(
    field: str, cell: Callable[[float], str], contests: list[Contest], known: bool
) -> Iterator[tuple[str, list[str]]]:
    """Una riga per concorrente."""
    variable = growing(contests)
    sizes = sorted({contest["shape"][variable] for contest in contests})
    for name in contestants_in(contests):
        values = series(contests, name, field)
        found = dict(values)
        ends = dict.fromkeys((sizes[0], sizes[-1]))
        yield (
            escape(name),
            [
                *(cell(found[x]) if x in found else "–" for x in ends),
                signed(exponent(values)),
                *([beside(counted(contests, name))] if known else []),
            ],
        )


def beside(found: tuple[str, float] | None) -> str:
    """L'esponente contato, e sotto la formula."""
    return "–" if found is None else f"{signed(found[1])}<br><small>{escape(found[0])}</small>"


def signed(number: float | None) -> str:
    """Un esponente, con due cifre dopo la virgola."""
    return "–" if number is None else decimal(number, 2).replace("-", "−")


def explain_growth(what: str, contests: list[Contest]) -> str:
    """Che cosa dicono le pendenze."""
    variable = growing(contests)
    sizes = sorted({contest["shape"][variable] for contest in contests})[-FITTED:]
    return (
        f"{what} al crescere di {variable}, scale logaritmiche. L'esponente misurato è la pendenza "
        f"dei minimi quadrati sui tre punti più grandi, al più {variable} = "
        f"{', '.join(map(str, sizes))}: chi si ferma prima, sui suoi. Quello contato, dove c'è, è "
        "la pendenza delle moltiplicazioni di §4 alle stesse dimensioni."
    )


def legend(contests: list[Contest]) -> int:
    """Le righe della legenda: i concorrenti e le due rette."""
    return count_contestants(contests) + 2


GROWTH = Quantity(
    partial(draw_growth, "median", 1e-3, "tempo, ms"),
    partial(growth_table, "median", duration),
    partial(explain_growth, "Tempo mediano di una chiamata"),
    by_dtype,
    legend,
)
"""«crescita»: il tempo."""

MEMORY_GROWTH = Quantity(
    partial(draw_growth, "extra_bytes", 1e6, "memoria in più, MB"),
    partial(growth_table, "extra_bytes", size),
    partial(explain_growth, "Memoria in più al culmine di una chiamata"),
    by_dtype,
    legend,
)
"""«crescita memoria»: la memoria."""
