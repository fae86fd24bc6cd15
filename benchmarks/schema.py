"""Lo schema dei risultati: che cosa c'è in un file, di che tipo, e quali numeri devono tornare.

Un file può venire da un'altra macchina. Prima di pubblicarlo, e prima di metterlo su una pagina, lo
si controlla qui: ogni reclamo nomina il campo, dice che cosa contiene e che cosa era atteso.
"""

import datetime
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

CEILINGS_SINCE = datetime.date(2026, 11, 26)
"""Da questo giorno ogni sessione misura i tetti; i file di prima non li hanno."""

TOLERANCE = 1e-6
"""Di quanto, in proporzione, può scostarsi un numero ricavato da altri numeri del file."""

TOLD = 8
"""Quanti reclami si riportano per file: il primo di solito spiega gli altri."""


class SchemaError(ValueError):
    """Un file di risultati che non si può pubblicare."""


class Rule(Protocol):
    """Una regola: guarda un valore, e dà un reclamo per ogni cosa che non va."""

    def complaints(self, value: Any, where: str) -> Iterator[str]: ...


@dataclass(frozen=True)
class Leaf:
    """Un valore solo: che cosa è atteso, a parole, e come lo si riconosce."""

    expected: str
    holds: Callable[[Any], bool]

    def complaints(self, value: Any, where: str) -> Iterator[str]:
        if not self.holds(value):
            yield f"{where}: {shown(value)}; atteso {self.expected}"


@dataclass(frozen=True)
class OrNull:
    """Una regola, oppure `null`: la grandezza qui non ha senso, o non si conosce."""

    rule: Rule

    def complaints(self, value: Any, where: str) -> Iterator[str]:
        if value is not None:
            yield from self.rule.complaints(value, where)


@dataclass(frozen=True)
class Fields:
    """Un oggetto con campi dal nome noto: obbligatori, facoltativi; `closed` vieta gli altri."""

    required: Mapping[str, Rule]
    optional: Mapping[str, Rule] = field(default_factory=dict)
    closed: bool = False

    def complaints(self, value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{where}: {shown(value)}; atteso un oggetto con {', '.join(self.required)}"
            return
        known = {**self.optional, **self.required}
        for name in self.required:
            if name not in value:
                yield f"{under(where, name)}: manca"
        for name, found in value.items():
            if name in known:
                yield from known[name].complaints(found, under(where, name))
            elif self.closed:
                yield f"{under(where, name)}: campo in più; attesi solo {', '.join(known)}"


@dataclass(frozen=True)
class Each:
    """Un oggetto con nomi liberi, e una regola per ogni valore."""

    rule: Rule
    empty: bool = False

    def complaints(self, value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, dict) or not (value or self.empty):
            yield f"{where}: {shown(value)}; atteso un oggetto{'' if self.empty else ' non vuoto'}"
            return
        for name, found in value.items():
            yield from self.rule.complaints(found, f"{where}[{name}]")


@dataclass(frozen=True)
class Many:
    """Una lista non vuota, e una regola per ogni elemento."""

    rule: Rule

    def complaints(self, value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, list) or not value:
            yield f"{where}: {shown(value)}; attesa una lista non vuota"
            return
        for place, found in enumerate(value):
            yield from self.rule.complaints(found, f"{where}[{place}]")


def under(where: str, name: str) -> str:
    """L'indirizzo di un campo."""
    return f"{where}.{name}" if where else name


def shown(value: Any) -> str:
    """Un valore come sta nel file, accorciato."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def is_number(value: Any) -> bool:
    """Un numero finito; i valori di verità non lo sono."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def is_moment(value: Any) -> bool:
    """Una data con l'ora, come la scrive ISO 8601."""
    try:
        return isinstance(value, str) and "T" in value and bool(parsed(value))
    except ValueError:
        return False


def parsed(moment: str) -> datetime.datetime:
    """La data e l'ora scritte in un file."""
    return datetime.datetime.fromisoformat(moment)


# I mattoni.

TEXT = Leaf("un testo non vuoto", lambda value: isinstance(value, str) and bool(value.strip()))

FLAG = Leaf("true o false", lambda value: isinstance(value, bool))

POSITIVE = Leaf("un numero finito maggiore di 0", lambda value: is_number(value) and value > 0)

NOT_NEGATIVE = Leaf("un numero finito, almeno 0", lambda value: is_number(value) and value >= 0)

COUNT = Leaf(
    "un intero maggiore di 0",
    lambda value: isinstance(value, int) and not isinstance(value, bool) and value > 0,
)

WHOLE = Leaf(
    "un intero, almeno 0",
    lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= 0,
)

MOMENT = Leaf("una data ISO 8601 con l'ora", is_moment)

COMMIT = Leaf(
    "un commit, cioè almeno 7 cifre esadecimali, o «sconosciuto»",
    lambda value: (
        isinstance(value, str) and bool(re.fullmatch(r"[0-9a-f]{7,40}|sconosciuto", value))
    ),
)

DEVICE = Leaf("«cpu» o «cuda»", lambda value: value in ("cpu", "cuda"))

# Il file.

MACHINE = Fields(
    {
        "cpu": TEXT,
        "cores": COUNT,
        "threads": COUNT,
        "gpu": OrNull(TEXT),
        "driver": OrNull(TEXT),
        "system": TEXT,
        "python": TEXT,
        "packages": Each(OrNull(TEXT)),
    }
)
"""La macchina e le versioni; un pacchetto non installato ha `null`."""

SCORE = Fields(
    {
        "median": POSITIVE,
        "iqr": NOT_NEGATIVE,
        "gflops": OrNull(POSITIVE),
        "gemm_fraction": OrNull(POSITIVE),
        "ratio": POSITIVE,
        "extra_bytes": NOT_NEGATIVE,
    },
    {
        "format": TEXT,
        "gbs": OrNull(POSITIVE),
        "copy_fraction": OrNull(POSITIVE),
        "datasheet_fraction": OrNull(POSITIVE),
    },
)
"""Un concorrente: ritmi e frazioni sono `null` se fa un lavoro diverso da quello dichiarato."""

WITH_CEILINGS: dict[str, Rule] = {
    "copy_gbs": POSITIVE,
    "datasheet": OrNull(Fields({"gflops": OrNull(POSITIVE), "gbs": POSITIVE})),
}
"""I campi che una gara ha se la sua sessione ha misurato i tetti."""

CONTEST = Fields(
    {
        "device": DEVICE,
        "dtype": TEXT,
        "label": TEXT,
        "shape": Each(WHOLE),
        "flops": COUNT,
        "bytes": COUNT,
        "intensity": POSITIVE,
        "gemm_size": COUNT,
        "gemm_gflops": POSITIVE,
        "baseline": TEXT,
        "contestants": Each(SCORE),
    },
    {
        **WITH_CEILINGS,
        **dict.fromkeys(("tokens_per_second", "us_per_token", "hours"), Each(POSITIVE)),
    },
)
"""Una gara; un benchmark può aggiungere campi suoi."""

STATS = Fields(
    {
        **dict.fromkeys(("min", "median", "max"), POSITIVE),
        "iqr": NOT_NEGATIVE,
        "rounds": COUNT,
    },
    closed=True,
)
"""Le statistiche del primo concorrente; i singoli tempi non si pubblicano."""

ENTRY = Fields({"group": TEXT, "name": TEXT, "extra_info": CONTEST, "stats": STATS}, closed=True)
"""Una voce di pytest-benchmark, ridotta a ciò che si pubblica."""

CEILINGS = Fields(
    {
        "gemm": Each(Fields({"gflops": POSITIVE, "size": COUNT, "datasheet": OrNull(POSITIVE)})),
        "copy_gbs": POSITIVE,
        "chip": OrNull(TEXT),
        "datasheet_gbs": OrNull(POSITIVE),
        "clocks": Each(POSITIVE, empty=True),
    }
)
"""I tetti della sessione: misurati, e dichiarati se il chip è nella tabella delle GPU."""

SESSION = Fields(
    {
        "machine_info": MACHINE,
        "commit_info": Fields({"id": COMMIT, "modified": FLAG}),
        "datetime": MOMENT,
        "benchmarks": Many(ENTRY),
    },
    {"version": TEXT, "ceilings": CEILINGS},
)
"""Un file di risultati."""

# Ciò che un campo deve agli altri.

Pairs = Iterator[tuple[str, float | None, float | None]]
"""Un campo, il suo valore e quello che gli altri campi gli danno."""


def relations(session: dict[str, Any]) -> Iterator[str]:
    """Un reclamo per ogni numero che non torna con gli altri."""
    if "ceilings" not in session and parsed(session["datetime"]).date() >= CEILINGS_SINCE:
        yield f"ceilings: manca; i file dal {CEILINGS_SINCE:%d/%m/%Y} hanno i tetti misurati"
    for place, entry in enumerate(session["benchmarks"]):
        where, contest = f"benchmarks[{place}].extra_info", entry["extra_info"]
        absent = list(missing(contest, where)) if "ceilings" in session else []
        yield from absent
        if contest["device"] == "cuda" and not session["machine_info"]["gpu"]:
            yield f"{where}.device: «cuda», ma machine_info.gpu è null"
        if contest["baseline"] not in contest["contestants"]:
            yield f"{where}.baseline: {shown(contest['baseline'])}; atteso uno dei concorrenti"
        elif not absent:
            yield from untrue(contest, entry["stats"], session, where)


def untrue(
    contest: dict[str, Any], stats: dict[str, Any], session: dict[str, Any], where: str
) -> Iterator[str]:
    """I numeri di una gara che non sono quelli che gli altri danno."""
    for name, found, expected in [*of_contest(contest, stats), *of_scores(contest, session)]:
        if not agree(found, expected):
            yield f"{where}.{name}: {shown(found)}; dagli altri campi viene {shown(expected)}"


def missing(contest: dict[str, Any], where: str) -> Iterator[str]:
    """I campi che una sessione con i tetti deve avere, e non ha."""
    for name in sorted(WITH_CEILINGS.keys() - contest.keys()):
        yield f"{where}.{name}: manca"
    for contestant, score in contest["contestants"].items():
        for name in sorted(SCORE.optional.keys() - score.keys()):
            yield f"{where}.contestants[{contestant}].{name}: manca"


def of_contest(contest: dict[str, Any], stats: dict[str, Any]) -> Pairs:
    """I numeri della gara."""
    first, *_ = contest["contestants"]
    yield "intensity", contest["intensity"], contest["flops"] / contest["bytes"]
    median = contest["contestants"][first]["median"]
    yield f"contestants[{first}].median", median, stats["median"]


def of_scores(contest: dict[str, Any], session: dict[str, Any]) -> Pairs:
    """I numeri di ogni concorrente."""
    reference = contest["contestants"][contest["baseline"]]["median"]
    for contestant, score in contest["contestants"].items():
        seconds, same = score["median"], score["gflops"] is not None
        rate, traffic = contest["flops"] / seconds / 1e9, contest["bytes"] / seconds / 1e9
        expected = {
            "ratio": seconds / reference,
            "gflops": rate if same else None,
            "gemm_fraction": divided(rate, roof_of(contest, score, session)) if same else None,
        }
        if "copy_gbs" in contest:
            expected["gbs"] = traffic if same else None
            expected["copy_fraction"] = traffic / contest["copy_gbs"] if same else None
            declared = declared_for(contest, score, session)
            expected["datasheet_fraction"] = divided(rate, declared) if same else None
        for name, value in expected.items():
            yield f"contestants[{contestant}].{name}", score.get(name), value


def roof_of(
    contest: dict[str, Any], score: dict[str, Any], session: dict[str, Any]
) -> float | None:
    """I GFLOP/s misurati nel formato di un concorrente: nella gara, o una volta per sessione."""
    if score.get("format") in (None, usual_format(contest)):
        return contest["gemm_gflops"]
    found = session.get("ceilings", {}).get("gemm", {}).get(score["format"])
    return found and found["gflops"]


def declared_for(
    contest: dict[str, Any], score: dict[str, Any], session: dict[str, Any]
) -> float | None:
    """I GFLOP/s dichiarati nel formato di un concorrente, se il chip è noto."""
    if contest["datasheet"] is None:
        return None
    found = session.get("ceilings", {}).get("gemm", {}).get(score.get("format"))
    return found and found["datasheet"]


FORMATS = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16", "float8_e4m3fn": "FP8"}
"""Il formato in cui di solito si moltiplicano i numeri di un tipo."""


def usual_format(contest: dict[str, Any]) -> str:
    """Il formato dei prodotti di una gara, dove un concorrente non ne dice un altro."""
    return FORMATS.get(contest["dtype"], contest["dtype"])


def divided(number: float, by: float | None) -> float | None:
    """Il quoziente, se il divisore si conosce."""
    return None if by is None else number / by


def agree(found: float | None, expected: float | None) -> bool:
    """Vero se due numeri sono uguali, o se mancano tutti e due."""
    if found is None or expected is None:
        return found is expected
    return math.isclose(found, expected, rel_tol=TOLERANCE)


# L'uso.


def complaints(session: Any) -> list[str]:
    """Ogni reclamo su un file già letto; prima i campi, poi, se ci sono tutti, i loro rapporti."""
    found = [*SESSION.complaints(session, ""), *infinite(session)]
    return found or list(relations(session))


def infinite(value: Any, where: str = "") -> Iterator[str]:
    """Un reclamo per ogni numero che JSON non ha, anche nei campi che un benchmark aggiunge."""
    if isinstance(value, float) and not math.isfinite(value):
        yield f"{where}: {shown(value)}; atteso un numero finito"
    inside = value.items() if isinstance(value, dict) else ()
    for name, found in inside:
        yield from infinite(found, under(where, name))
    for place, found in enumerate(value if isinstance(value, list) else ()):
        yield from infinite(found, f"{where}[{place}]")


def check(session: Any, source: str = "risultati") -> None:
    """Controlla un file già letto.

    Argomenti:
        session: il contenuto del file.
        source: come chiamarlo nei reclami.

    Solleva:
        SchemaError: con i primi reclami, uno per riga.
    """
    report(source, complaints(session))


def read(path: Path) -> dict[str, Any]:
    """Legge e controlla un file di `results/`.

    Solleva:
        SchemaError: se non è JSON, o se non rispetta lo schema.
    """
    source = "/".join(path.parts[-4:])
    try:
        session = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SchemaError(f"{source}: non è un file JSON ({error})") from error
    check(session, source)
    return session


def misplaced(path: Path, session: dict[str, Any]) -> Iterator[str]:
    """Un reclamo se la cartella non ha il nome della macchina, o il file quello del giorno."""
    folder, day = slug(session["machine_info"]), session["datetime"][:10]
    if path.parent.name != folder:
        yield f"machine_info: la cartella si chiama «{path.parent.name}»; attesa «{folder}»"
    if path.stem != day:
        yield f"datetime: il file si chiama «{path.name}»; atteso «{day}.json»"


NOISE = r"\((r|tm)\)|\b(processor|cpu|gpu|with radeon.*|\d+-core)\b|@.*"
"""Le parole dei nomi commerciali che non distinguono una macchina."""


def slug(machine: dict[str, Any]) -> str:
    """Il nome di cartella di una macchina: per esempio `intel-xeon-2c-cpu`."""
    cpu = re.sub(NOISE, " ", machine["cpu"].lower())
    words = f"{cpu} {machine['cores']}c {machine['gpu'] or 'cpu'}"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def report(source: str, found: list[str]) -> None:
    """Solleva i reclami, se ce ne sono."""
    if found:
        rest = [f"e altri {len(found) - TOLD}"] if len(found) > TOLD else []
        lines = "\n  ".join([*found[:TOLD], *rest])
        raise SchemaError(f"{source}: non è un file di risultati valido\n  {lines}")
