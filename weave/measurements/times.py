"""Tempi e memoria: una colonna per dimensione, una riga per concorrente."""

from collections.abc import Callable
from html import escape
from typing import Any

from matplotlib.axes import Axes

from weave.measurements.drawings import (
    INK,
    Contest,
    Parts,
    Quantity,
    by_dtype,
    contestants_in,
    count_contestants,
    html_table,
    logarithmic,
    strokes,
)
from weave.measurements.notation import (
    bandwidth,
    decimal,
    duration,
    percent,
    rate,
    size,
    span,
    thousands,
    three_digits,
)

Score = dict[str, Any]
"""Un concorrente in una gara."""


HEAD_START = 1.2e-3
"""Per quanti secondi, almeno, una H200 è occupata ad altro dopo che una chiamata comincia.

Chi torna più tardi può aver aspettato la scheda: il suo tempo non dice quanto ha accodato.
"""


def times_table(contests: list[Contest]) -> str:
    """I tempi di ogni concorrente, a ogni dimensione."""
    return by_label(contests, time_cell)


def memory_table(contests: list[Contest]) -> str:
    """La memoria di ogni concorrente, a ogni dimensione."""
    return by_label(contests, lambda score: size(score["extra_bytes"]))


def by_label(contests: list[Contest], cell: Any) -> str:
    """Una riga per concorrente, una colonna per dimensione; un trattino a chi non c'era."""
    heads = ["concorrente", *(escape(contest["label"]) for contest in contests)]
    rows = (
        (escape(name), [cell(found) if found else "–" for found in scores(contests, name)])
        for name in contestants_in(contests)
    )
    return html_table(heads, rows)


def scores(contests: list[Contest], name: str) -> list[Score | None]:
    """Ciò che un concorrente ha fatto in ogni gara."""
    return [contest["contestants"].get(name) for contest in contests]


def time_cell(score: Score) -> str:
    """Il tempo mediano; sotto, il rapporto con il riferimento e la frazione del tetto.

    Se la CPU impiega ad accodare più di quanto la GPU a eseguire, c'è anche quel tempo.
    """
    waiting = f"<br>CPU\u00a0{duration(score['queueing'])}" if is_late(score) else ""
    relative = f"×\u00a0{decimal(score['ratio'], 2)}{of_the_roof(score)}"
    return f"{duration(score['median'])}<br><small>{relative}{waiting}</small>"


def is_late(score: Score) -> bool:
    """Vero se si sa che la CPU impiega ad accodare più di quanto la GPU a eseguire."""
    queueing: float = score.get("queueing", 0.0)
    return bool(score["median"] < queueing < HEAD_START)


def of_the_roof(score: Score) -> str:
    """La frazione del tetto più vicino: il prodotto di matrici o, se è scritto, la copia."""
    product, copied = score["gemm_fraction"], score.get("copy_fraction")
    if product is None:
        return ""
    if copied is not None and copied > product:
        return f"\u00a0· {percent(copied)}\u00a0copia"
    return f"\u00a0·\u00a0{percent(product)}"


def explain_times(contests: list[Contest]) -> str:
    """Che cosa dicono disegno e tabella dei tempi."""
    rounds = [contest["rounds"] for contest in contests]
    ceilings = [1e9 * contest["gemm_gflops"] for contest in contests]
    copied = [1e9 * contest["copy_gbs"] for contest in contests if "copy_gbs" in contest]
    memory = f" oppure, dove è scritto, della copia, {span(copied, bandwidth)}" if copied else ""
    return (
        f"Tempo mediano di una chiamata su {span(rounds)} giri alternati; poi il rapporto con "
        f"{contests[0]['baseline']} (sotto 1 è più veloce) e, per chi fa il lavoro dichiarato, la "
        f"frazione del ritmo di un grande prodotto di matrici, {span(ceilings, rate)} nelle "
        f"stesse gare{memory}.{queueing_note(contests)}"
    )


def queueing_note(contests: list[Contest]) -> str:
    """Che cosa vuol dire «CPU» nella tabella, se c'è."""
    entries = [score for contest in contests for score in contest["contestants"].values()]
    late = any(is_late(score) for score in entries)
    return " «CPU»: quanto le serve per accodare la chiamata, se è di più." if late else ""


def explain_memory(contests: list[Contest]) -> str:
    """Che cosa dicono disegno e tabella della memoria."""
    return "Memoria allocata oltre agli ingressi, al culmine di una chiamata, uscita compresa."


def draw_times(axes: Axes, contests: list[Contest]) -> None:
    """Una riga per dimensione, un segno per concorrente: più a sinistra è più veloce."""
    axes.axvline(1, color=INK, linewidth=0.8)
    for name, style in strokes(contestants_in(contests)):
        found = [(row, score) for row, score in enumerate(scores(contests, name)) if score]
        ratios = [score["ratio"] for _, score in found]
        axes.plot(ratios, [row for row, _ in found], linestyle="", label=name, **style)
    axes.set_yticks(range(len(contests)), [contest["label"] for contest in contests])
    axes.set_ylim(len(contests) - 0.5, -0.5)
    axes.set_xscale("log")
    logarithmic(axes.xaxis)
    axes.set_xlabel(f"tempo rispetto a {contests[0]['baseline']}")
    axes.grid(axis="y", color=INK, alpha=0.2)


def draw_memory(axes: Axes, contests: list[Contest]) -> None:
    """Una riga per dimensione, un segno per concorrente: più a sinistra chiede meno memoria."""
    draw_marks(
        axes,
        contests,
        lambda contest, name: contest["contestants"].get(name, {}).get("extra_bytes", 0) / 1e6,
        "memoria in più, MB",
    )


def with_tokens(contests: list[Contest]) -> Parts:
    """Una figura per tipo, con le sole gare che contano i token."""
    return by_dtype([contest for contest in contests if "tokens_per_second" in contest])


def draw_tokens(axes: Axes, contests: list[Contest]) -> None:
    """Una riga per dimensione, un segno per concorrente: più a destra ne fa di più."""
    draw_marks(
        axes,
        contests,
        lambda contest, name: contest["tokens_per_second"].get(name, 0),
        "token al secondo",
    )


def draw_marks(
    axes: Axes, contests: list[Contest], number: Callable[[Contest, str], float], label: str
) -> None:
    """Una riga per gara, un segno per concorrente al suo numero; chi ha zero non si disegna."""
    for name, style in strokes(contestants_in(contests)):
        found = [(number(contest, name), row) for row, contest in enumerate(contests)]
        places, rows = [it for it, _ in found if it], [row for it, row in found if it]
        axes.plot(places, rows, linestyle="", label=name, **style)
    axes.set_yticks(range(len(contests)), [contest["label"] for contest in contests])
    axes.set_ylim(len(contests) - 0.5, -0.5)
    axes.set_xscale("log")
    logarithmic(axes.xaxis)
    axes.set_xlabel(label)
    axes.grid(axis="y", color=INK, alpha=0.2)


def tokens_table(contests: list[Contest]) -> str:
    """I token al secondo; sotto, ciò che ne viene."""
    heads = ["concorrente", *(escape(contest["label"]) for contest in contests)]
    rows = (
        (escape(name), [tokens_cell(contest, name) for contest in contests])
        for name in contestants_in(contests)
    )
    return html_table(heads, rows)


def tokens_cell(contest: Contest, name: str) -> str:
    """Il ritmo; sotto, il tempo di un token o le ore dell'addestramento intero, se ci sono.

    Il tempo è di un token per ogni frase: con più frasi se ne fanno altrettanti insieme.
    """
    found = contest["tokens_per_second"].get(name)
    if found is None:
        return "–"
    token, hours = (contest.get(key, {}).get(name) for key in ("us_per_token", "hours"))
    told = [f"{duration(token / 1e6)} {together(found * token / 1e6)}"] if token else []
    told += [f"{three_digits(hours)}\u00a0ore"] if hours else []
    small = f"<br><small>{'; '.join(told)}</small>" if told else ""
    return f"{thousands(found)}/s{small}"


def together(sentences: float) -> str:
    """Quanti token escono in quel tempo."""
    return "l'uno" if round(sentences) == 1 else f"ogni {sentences:.0f}"


def explain_tokens(contests: list[Contest]) -> str:
    """Che cosa dicono i token al secondo."""
    training = " Le ore sono quelle di tutti i passi dell'articolo, a questo ritmo."
    return "Token al secondo di ogni concorrente, dal tempo mediano di una chiamata." + (
        training if any("hours" in contest for contest in contests) else ""
    )


TIMES = Quantity(draw_times, times_table, explain_times, by_dtype, count_contestants)
"""«»: il tempo di una chiamata."""

TOKENS = Quantity(draw_tokens, tokens_table, explain_tokens, with_tokens, count_contestants)
"""«token»: i token al secondo, dove la gara li conta."""

MEMORY = Quantity(draw_memory, memory_table, explain_memory, by_dtype, count_contestants)
"""«memoria»: la memoria in più al culmine di una chiamata."""
