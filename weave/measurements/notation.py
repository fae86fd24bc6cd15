"""I numeri come si scrivono in italiano: tempi, memoria, ritmi, date."""

import datetime
import math
from collections.abc import Callable


def duration(seconds: float) -> str:
    """Un tempo con tre cifre: «612 µs», «7,49 ms», «1,10 s»."""
    return with_unit(seconds, (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)))


def size(count: float) -> str:
    """Una quantità di memoria con tre cifre: «26,9 kB», «1,05 MB»."""
    return with_unit(count, (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)))


def rate(flops: float) -> str:
    """Un ritmo, dato in operazioni al secondo: «185 GFLOP/s», «1,20 TFLOP/s»."""
    return with_unit(flops, (("TFLOP/s", 1e12), ("GFLOP/s", 1e9)))


def bandwidth(count: float) -> str:
    """Una banda, data in byte al secondo: «41,2 GB/s», «3,35 TB/s»."""
    return with_unit(count, (("TB/s", 1e12), ("GB/s", 1e9)))


def with_unit(number: float, units: tuple[tuple[str, float], ...]) -> str:
    """Un numero nella prima unità che non lo rende minore di 1, o nell'ultima."""
    rounded = float(f"{number:.3g}")
    unit, length = next((pair for pair in units if rounded >= pair[1]), units[-1])
    return f"{three_digits(rounded / length)}\u00a0{unit}"


def three_digits(number: float) -> str:
    """Un numero con tre cifre significative."""
    return decimal(number, max(0, 2 - math.floor(math.log10(number)))) if number else "0"


def decimal(number: float, places: int) -> str:
    """Un numero con la virgola decimale."""
    return f"{number:.{places}f}".replace(".", ",")


def thousands(number: float) -> str:
    """Un numero intero, con lo spazio fino ogni tre cifre: «81 600»."""
    return f"{number:,.0f}".replace(",", "\u202f")


def percent(fraction: float | None) -> str:
    """Una frazione in centesimi: «37 %»; un trattino, se non c'è."""
    if fraction is None:
        return "–"
    return f"{decimal(100 * fraction, 0 if fraction >= 0.1 else 1)}\u00a0%"


def tick(number: float) -> str:
    """Un numero sotto un asse: senza zeri inutili, con la virgola."""
    return f"{number:.12g}".replace(".", ",")


def whole(number: float) -> str:
    """Un numero arrotondato all'intero."""
    return decimal(number, 0)


def span(numbers: list[float], written: Callable[[float], str] = whole) -> str:
    """Un intervallo, con l'unità una volta sola; un numero solo se gli estremi coincidono."""
    low, high = written(min(numbers)), written(max(numbers))
    if low == high:
        return low
    number, space, unit = low.partition("\u00a0")
    return f"{number if high.endswith(space + unit) else low}–{high}"


def day(moment: str) -> str:
    """Una data all'italiana: «12/6/2017»."""
    date = datetime.datetime.fromisoformat(moment)
    return f"{date.day}/{date.month}/{date.year}"
