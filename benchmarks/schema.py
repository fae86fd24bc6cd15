"""Lo schema dei risultati: i campi di un file, i numeri che devono tornare, quelli impossibili.

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

from benchmarks import tensor_cores
from benchmarks.ceilings import BOOST, Ceilings, is_named
from benchmarks.contest import (
    MARGIN,
    MIN_ROUNDS,
    ImpossibleTimeError,
    refuse_impossible_times,
)
from benchmarks.tensor_cores import Evidence
from gpu_notes.sm_map import GPUS, Gpu

FIRST_DAY = datetime.date(2026, 1, 1)
"""Prima di questo giorno qui non si misurava nulla."""

CEILINGS_SINCE = datetime.date(2026, 11, 26)
"""Da questo giorno ogni sessione misura i tetti; i file di prima non li hanno."""

MOST_ROUNDS = 10_000
"""Più giri di così una gara non ne fa."""

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
    """Un oggetto con nomi liberi, una regola per ogni valore e, se serve, una per ogni nome."""

    rule: Rule
    names: Rule | None = None

    def complaints(self, value: Any, where: str) -> Iterator[str]:
        if not isinstance(value, dict) or not value:
            yield f"{where}: {shown(value)}; atteso un oggetto non vuoto"
            return
        for name, found in value.items():
            if self.names:
                yield from self.names.complaints(name, f"{where}, un nome")
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


LARGEST = 10**30
"""Nessun intero di un file arriva fin qui: né byte, né operazioni."""


def is_number(value: Any) -> bool:
    """Un numero finito; i valori di verità non lo sono."""
    return is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def is_whole(value: Any) -> bool:
    """Un intero, non smisurato; i valori di verità non lo sono."""
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < LARGEST


def is_moment(value: Any) -> bool:
    """Una data con l'ora, come la scrive ISO 8601."""
    try:
        return bool(re.match(r"\d{4}-\d\d-\d\dT", value)) and bool(parsed(value))
    except (TypeError, ValueError):
        return False


def parsed(moment: str) -> datetime.datetime:
    """La data e l'ora scritte in un file; se non dicono il fuso, di Greenwich."""
    found = datetime.datetime.fromisoformat(moment)
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)


# I mattoni.

TEXT = Leaf(
    "un testo non vuoto, che UTF-8 sappia scrivere",
    lambda value: (
        isinstance(value, str) and bool(value.strip()) and not re.search("[\ud800-\udfff]", value)
    ),
)

FLAG = Leaf("true o false", lambda value: isinstance(value, bool))

POSITIVE = Leaf("un numero finito maggiore di 0", lambda value: is_number(value) and value > 0)

NOT_NEGATIVE = Leaf("un numero finito, almeno 0", lambda value: is_number(value) and value >= 0)


def within(low: float, high: float, unit: str) -> Leaf:
    """Un numero fra due estremi: fuori di lì l'unità è un'altra."""
    expected = f"un numero fra {low:g} e {high:g} {unit}"
    return Leaf(expected, lambda value: is_number(value) and low <= value <= high)


SECONDS = within(1e-9, 1e5, "secondi")

LONGEST = 200
"""Quanti caratteri ha al più un nome: sta in una tabella, o è il nome di una cartella."""

NAME = Leaf(
    f"un testo non vuoto, di caratteri che si vedono, al più {LONGEST}, senza < > | ` $",
    lambda value: (
        isinstance(value, str)
        and bool(value.strip())
        and len(value) <= LONGEST
        and value.isprintable()
        and not re.search(r"[<>|`$]", value)
    ),
)

COUNT = Leaf("un intero maggiore di 0", lambda value: is_whole(value) and value > 0)

WHOLE = Leaf("un intero, almeno 0", lambda value: is_whole(value) and value >= 0)

MEMORY = Leaf(
    "un intero di byte, fra 0 e 10¹³", lambda value: is_whole(value) and 0 <= value <= 1e13
)

MOMENT = Leaf("una data ISO 8601 con l'ora", is_moment)

COMMIT = Leaf(
    "un commit, cioè almeno 7 cifre esadecimali, o «sconosciuto»",
    lambda value: (
        isinstance(value, str) and bool(re.fullmatch(r"[0-9a-f]{7,40}|sconosciuto", value))
    ),
)

DEVICE = Leaf("«cpu» o «cuda»", lambda value: value in ("cpu", "cuda"))

FORMATS = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16", "float8_e4m3fn": "FP8"}
"""Il formato in cui di solito si moltiplicano i numeri di un tipo."""

DTYPE = Leaf(f"uno fra {', '.join(FORMATS)}", lambda value: str(value) in FORMATS)

# Il file.

MACHINE = Fields(
    {
        "cpu": NAME,
        "cores": COUNT,
        "threads": COUNT,
        "gpu": OrNull(NAME),
        "driver": OrNull(NAME),
        "system": NAME,
        "python": NAME,
        "packages": Each(OrNull(NAME), NAME),
    }
)
"""La macchina e le versioni; un pacchetto non installato ha `null`."""

SCORED_WITH_CEILINGS: dict[str, Rule] = {
    "format": NAME,
    "gbs": OrNull(POSITIVE),
    "copy_fraction": OrNull(POSITIVE),
    "datasheet_fraction": OrNull(POSITIVE),
}
"""I campi che un concorrente ha se la sua sessione ha misurato i tetti."""

SCORE = Fields(
    {
        "median": SECONDS,
        "iqr": within(0, 1e5, "secondi"),
        "gflops": OrNull(POSITIVE),
        "gemm_fraction": OrNull(POSITIVE),
        "ratio": POSITIVE,
        "extra_bytes": MEMORY,
    },
    {**SCORED_WITH_CEILINGS, "queueing": SECONDS},
)
"""Un concorrente: ritmi e frazioni sono `null` se fa un lavoro diverso da quello dichiarato.

Su GPU `queueing` sono i secondi che la CPU impiega ad accodare; le prime sessioni non l'hanno.
"""

WITH_CEILINGS: dict[str, Rule] = {
    "copy_gbs": POSITIVE,
    "datasheet": OrNull(Fields({"gflops": OrNull(POSITIVE), "gbs": POSITIVE})),
}
"""I campi che una gara ha se la sua sessione ha misurato i tetti."""

SAID = Leaf(
    "«sì», «no» o «non dimostrato»",
    lambda value: value in (tensor_cores.YES, tensor_cores.NO, tensor_cores.UNPROVEN),
)

ERRORS: dict[str, Rule] = dict.fromkeys(("error", "product_error"), within(0, 1, "in proporzione"))
"""Gli errori di un prodotto in un formato: da 1 in su non sarebbe più quel prodotto."""

JUDGED: dict[str, Rule] = {
    "verdict": SAID,
    "reason": TEXT,
    "evidence": Each(Fields({"says": SAID, "reason": TEXT}, closed=True)),
    "kernels": TEXT,
}
"""Ciò che, su GPU, si aggiunge: il verdetto sui Tensor Core, e gli indizi da cui viene."""

CONTEST = Fields(
    {
        "device": DEVICE,
        "dtype": DTYPE,
        "label": NAME,
        "shape": Each(WHOLE),
        "flops": COUNT,
        "bytes": COUNT,
        "intensity": POSITIVE,
        "gemm_size": COUNT,
        "gemm_gflops": POSITIVE,
        "baseline": NAME,
        "contestants": Each(SCORE, NAME),
    },
    {
        **WITH_CEILINGS,
        **dict.fromkeys(("tokens_per_second", "us_per_token", "hours"), Each(POSITIVE)),
        **dict.fromkeys(("tokens", "steps"), COUNT),
        "proofs": Each(Fields(ERRORS, JUDGED, closed=True)),
    },
)
"""Una gara; un benchmark può aggiungere campi suoi."""

STATS = Fields(
    {
        **dict.fromkeys(("min", "median", "max"), POSITIVE),
        "iqr": NOT_NEGATIVE,
        "rounds": COUNT,
    },
    {
        **dict.fromkeys(("mean", "ops"), POSITIVE),
        **dict.fromkeys(("q1", "q3", "ld15iqr", "hd15iqr"), POSITIVE),
        "stddev": NOT_NEGATIVE,
        "outliers": TEXT,
        "iterations": COUNT,
    },
    closed=True,
)
"""Le statistiche del primo concorrente; i singoli tempi non si pubblicano."""

ENTRY = Fields(
    {"group": NAME, "name": TEXT, "extra_info": CONTEST, "stats": STATS},
    {"fullname": TEXT, "param": OrNull(TEXT), "params": OrNull(Each(TEXT))},
    closed=True,
)
"""Una voce di pytest-benchmark, ridotta a ciò che si pubblica; i primi file hanno meno campi."""

CLOCKS: dict[str, Rule] = {
    **dict.fromkeys(("sm_mhz", "memory_mhz", "sm_max_mhz"), within(100, 1e4, "MHz")),
    "watt": within(1, 2000, "W"),
}
"""Le frequenze e la potenza, se si sono potute leggere."""

CEILINGS = Fields(
    {
        "gemm": Each(Fields({"gflops": POSITIVE, "size": COUNT, "datasheet": OrNull(POSITIVE)})),
        "copy_gbs": POSITIVE,
        "chip": OrNull(TEXT),
        "datasheet_gbs": OrNull(POSITIVE),
        "clocks": Fields({}, CLOCKS, closed=True),
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


def relations(session: dict[str, Any]) -> Iterator[str]:
    """Un reclamo per ogni cosa che non torna con le altre, o che non può essere."""
    yield from of_date(session)
    yield from of_ceilings(session)
    yield from repeated(session["benchmarks"])
    yield from of_shapes(session["benchmarks"])
    for place, entry in enumerate(session["benchmarks"]):
        where, contest = f"benchmarks[{place}].extra_info", entry["extra_info"]
        absent = list(missing(contest, where)) if "ceilings" in session else []
        yield from absent
        yield from of_stats(entry, f"benchmarks[{place}]")
        gpu = session["machine_info"]["gpu"]
        device = "«cpu», se machine_info.gpu è null" if gpu is None else "«cuda», se c'è una GPU"
        agreed = (contest["device"] == "cuda") == (gpu is not None)
        yield from unless(agreed, f"{where}.device", contest["device"], device)
        if contest["baseline"] not in contest["contestants"]:
            yield f"{where}.baseline: {shown(contest['baseline'])}; atteso uno dei concorrenti"
        elif not absent:
            yield from of_contest(entry, session, where)


def unless(holds: bool, where: str, found: Any, expected: str) -> Iterator[str]:
    """Un reclamo, se una cosa non sta come deve."""
    if not holds:
        yield f"{where}: {shown(found)}; atteso {expected}"


def of_date(session: dict[str, Any]) -> Iterator[str]:
    """La data non è futura, a meno di un giorno: i fusi orari; e decide se i tetti servono."""
    day, today = parsed(session["datetime"]).date(), datetime.date.today()
    near = FIRST_DAY <= day <= today + datetime.timedelta(days=1)
    expected = f"una data dal {FIRST_DAY:%d/%m/%Y}, e non futura; oggi è il {today:%d/%m/%Y}"
    yield from unless(near, "datetime", session["datetime"], expected)
    needed = day >= CEILINGS_SINCE or session["machine_info"]["gpu"] is not None
    if needed and "ceilings" not in session:
        yield (
            f"ceilings: manca; i file dal {CEILINGS_SINCE:%d/%m/%Y}, e tutti quelli di una GPU, "
            "hanno i tetti misurati"
        )


def identity(entry: dict[str, Any]) -> tuple[str, str, str, str]:
    """Quale gara è: gruppo, dimensione, dispositivo, tipo di numeri."""
    contest = entry["extra_info"]
    return entry["group"], contest["label"], contest["device"], contest["dtype"]


def repeated(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Una gara sta nel file una volta sola; quelle di una figura hanno lo stesso riferimento."""
    known: set[tuple[str, ...]] = set()
    baselines: dict[tuple[str, ...], str] = {}
    for place, entry in enumerate(entries):
        at, (group, label, *numbers) = f"benchmarks[{place}].extra_info", identity(entry)
        expected = f"una gara che nel gruppo «{group}» non ci sia già"
        yield from unless(identity(entry) not in known, f"{at}.label", label, expected)
        known.add(identity(entry))
        found = entry["extra_info"]["baseline"]
        first = baselines.setdefault((group, *numbers), found)
        expected = f"«{first}», come la prima gara del gruppo «{group}»"
        yield from unless(found == first, f"{at}.baseline", found, expected)


CHOICES = ("causal",)
"""Le dimensioni che sono un sì o un no: valgono anche 0."""


def of_shapes(entries: list[dict[str, Any]]) -> Iterator[str]:
    """Nessuna dimensione è zero, e le gare di un gruppo hanno le stesse dimensioni."""
    known: dict[str, dict[str, int]] = {}
    for place, entry in enumerate(entries):
        at, shape = f"benchmarks[{place}].extra_info.shape", entry["extra_info"]["shape"]
        first = known.setdefault(entry["group"], shape)
        expected = f"{', '.join(first)}, come la prima gara del gruppo «{entry['group']}»"
        yield from unless(shape.keys() == first.keys(), at, list(shape), expected)
        for name, size in shape.items():
            yield from unless(size > 0 or name in CHOICES, f"{at}[{name}]", size, "almeno 1")


def missing(contest: dict[str, Any], where: str) -> Iterator[str]:
    """I campi che una sessione con i tetti deve avere, e non ha."""
    for name in sorted(WITH_CEILINGS.keys() - contest.keys()):
        yield f"{where}.{name}: manca"
    for contestant, score in contest["contestants"].items():
        for name in sorted(SCORED_WITH_CEILINGS.keys() - score.keys()):
            yield f"{where}.contestants[{contestant}].{name}: manca"


INSIDE = ("median", "mean", "q1", "q3", "ld15iqr", "hd15iqr")
"""Le statistiche che stanno fra il tempo più breve e il più lungo."""


def of_stats(entry: dict[str, Any], where: str) -> Iterator[str]:
    """Le statistiche del primo concorrente: abbastanza giri, in ordine, larghe quanto lui.

    I quartili di pytest-benchmark stanno un poco più in fuori dei nostri: la nostra distanza non
    supera la sua, e ne è almeno metà, se non quando i giri divisi per quattro danno resto 1.
    """
    stats, (first, score) = entry["stats"], next(iter(entry["extra_info"]["contestants"].items()))
    rounds, middle, iqr = (stats[name] for name in ("rounds", "median", "iqr"))
    yield from between(MIN_ROUNDS, rounds, MOST_ROUNDS, f"{where}.stats.rounds", "giri")
    for name in (it for it in INSIDE if it in stats):
        at = f"{where}.stats.{name}"
        yield from between(stats["min"], stats[name], stats["max"], at, "min e max")
    slack, least = TOLERANCE * middle, 0.0 if rounds % 4 == 1 else iqr / 2
    widest = stats["max"] - stats["min"] + slack
    yield from between(0.0, iqr, widest, f"{where}.stats.iqr", "da max - min")
    at = f"{where}.extra_info.contestants[{first}].iqr"
    yield from between(least - slack, score["iqr"], iqr + slack, at, "da stats.iqr")


def between(low: float, found: float, high: float, where: str, source: str) -> Iterator[str]:
    """Un reclamo, se un numero non sta fra altri due."""
    expected = f"fra {shown(low)} e {shown(high)}, {source}"
    yield from unless(low <= found <= high, where, found, expected)


def of_contest(entry: dict[str, Any], session: dict[str, Any], where: str) -> Iterator[str]:
    """Una gara: i numeri che altri numeri danno, i ritmi impossibili, gli indizi."""
    contest = entry["extra_info"]
    yield from untrue(of_work(contest, entry["stats"]), f"{where}.")
    yield from untrue(of_roofs(contest, session), f"{where}.")
    yield from untrue(of_scores(contest, session), f"{where}.")
    yield from untrue(of_tokens(contest), f"{where}.")
    yield from of_hours(contest, where)
    yield from of_product(contest, where)
    proven = "proofs" in contest or not entry["group"].startswith("tensor_cores")
    wanted = "un oggetto con gli indizi, che in questo gruppo ogni gara su GPU ha"
    yield from unless(proven or contest["device"] == "cpu", f"{where}.proofs", None, wanted)
    yield from impossible(contest, session, where)
    yield from of_proofs(contest, session, where)


# I numeri ricavati.

Pairs = Iterator[tuple[str, float | None, float | None]]
"""Un campo, il suo valore e quello che gli altri campi gli danno."""


def untrue(pairs: Pairs, where: str) -> Iterator[str]:
    """I numeri che non sono quelli che gli altri danno."""
    for name, found, expected in pairs:
        if not agree(found, expected):
            yield f"{where}{name}: {shown(found)}; dagli altri campi viene {shown(expected)}"


def of_work(contest: dict[str, Any], stats: dict[str, Any]) -> Pairs:
    """Il lavoro, e il tempo del primo concorrente."""
    first, *_ = contest["contestants"]
    yield "intensity", contest["intensity"], contest["flops"] / contest["bytes"]
    median = contest["contestants"][first]["median"]
    yield f"contestants[{first}].median", median, stats["median"]


def of_hours(contest: dict[str, Any], where: str) -> Iterator[str]:
    """Le ore di un addestramento vengono dai suoi passi, e ci sono almeno per il primo."""
    if "hours" in contest:
        first, *_ = contest["contestants"]
        yield from unless("steps" in contest, f"{where}.steps", None, "i passi che fanno le ore")
        for name in ("hours", "tokens_per_second"):
            found = contest.get(name, {})
            yield from unless(first in found, f"{where}.{name}", list(found), f"almeno «{first}»")


def of_product(contest: dict[str, Any], where: str) -> Iterator[str]:
    """Di un prodotto di matrici, le dimensioni dicono il nome e le operazioni."""
    if contest["shape"].keys() == {"m", "k", "n"}:
        m, k, n = (contest["shape"][name] for name in "mkn")
        label, flops = f"{m}×{k}×{n}", 2 * m * k * n
        yield from unless(contest["label"] == label, f"{where}.label", contest["label"], label)
        yield from unless(contest["flops"] == flops, f"{where}.flops", contest["flops"], f"{flops}")


def of_roofs(contest: dict[str, Any], session: dict[str, Any]) -> Pairs:
    """I tetti che una gara ripete: la copia della sessione, e la scheda tecnica del chip."""
    chip, declared = chip_of(session), contest.get("datasheet") or {}
    peak = roofs_of(session).peak(usual_format(contest))
    yield "copy_gbs", contest.get("copy_gbs"), session.get("ceilings", {}).get("copy_gbs")
    yield "datasheet.gflops", declared.get("gflops"), peak
    yield "datasheet.gbs", declared.get("gbs"), chip.bandwidth / 1e9 if chip else None


def of_scores(contest: dict[str, Any], session: dict[str, Any]) -> Pairs:
    """I numeri di ogni concorrente."""
    ceilings = roofs_of(session)
    reference = contest["contestants"][contest["baseline"]]["median"]
    for contestant, score in contest["contestants"].items():
        seconds, same = score["median"], score["gflops"] is not None
        rate, traffic = contest["flops"] / seconds / 1e9, contest["bytes"] / seconds / 1e9
        expected = {
            "ratio": seconds / reference,
            "gflops": rate if same else None,
            "gemm_fraction": divided(rate, roof_of(contest, score, ceilings)) if same else None,
        }
        if "copy_gbs" in contest:
            expected["gbs"] = traffic if same else None
            expected["copy_fraction"] = traffic / contest["copy_gbs"] if same else None
            peak = ceilings.peak(format_of(contest, score))
            expected["datasheet_fraction"] = divided(rate, peak) if same else None
        for name, value in expected.items():
            yield f"contestants[{contestant}].{name}", score.get(name), value


def of_tokens(contest: dict[str, Any]) -> Pairs:
    """I token di una chiamata sono frasi per lunghezza: da lì e dal tempo, il resto."""
    shape = contest["shape"]
    batch, length = shape.get("batch", 0), shape.get("n", 0)
    if "tokens" in contest:
        yield "tokens", contest["tokens"], batch * length
    for name, score in contest["contestants"].items():
        seconds = score["median"]
        expected = {
            "tokens_per_second": batch * length / seconds,
            "us_per_token": divided(seconds * 1e6, length or None),
            "hours": contest.get("steps", 0) * seconds / 3600,
        }
        for quantity, value in expected.items():
            if name in contest.get(quantity, {}):
                yield f"{quantity}[{name}]", contest[quantity][name], value


def roof_of(contest: dict[str, Any], score: dict[str, Any], ceilings: Ceilings) -> float | None:
    """I GFLOP/s misurati nel formato di un concorrente: nella gara, o una volta per sessione."""
    form = format_of(contest, score)
    if form == usual_format(contest):
        return contest["gemm_gflops"]
    found = ceilings.gemm.get(form)
    return found and found / 1e9


def format_of(contest: dict[str, Any], score: dict[str, Any]) -> str:
    """Il formato dei prodotti di un concorrente: il suo, o il solito."""
    return score.get("format", usual_format(contest))


def usual_format(contest: dict[str, Any]) -> str:
    """Il formato dei prodotti di una gara, dove un concorrente non ne dice un altro."""
    return FORMATS[contest["dtype"]]


def divided(number: float, by: float | None) -> float | None:
    """Il quoziente, se il divisore si conosce."""
    return None if by is None else number / by


def agree(found: float | None, expected: float | None) -> bool:
    """Vero se due numeri sono uguali, o se mancano tutti e due."""
    if found is None or expected is None:
        return found is expected
    return math.isclose(found, expected, rel_tol=TOLERANCE)


# I tetti.

FASTEST_CORE = 1e4
"""GFLOP/s che un core di CPU non raggiunge: i più svelti, in BF16, ne fanno poche migliaia."""

FASTEST_GPU = 1e8
"""GFLOP/s che una GPU non raggiunge: le più svelte, in FP4, ne fanno un decimo."""

FASTEST_COPY = {True: 1e5, False: 1e4}
"""GB/s che nessuna memoria raggiunge: vero, quella di una GPU; falso, quella di una CPU."""

DRIFT = 4.0
"""Di quanto, al più, il prodotto di una gara supera il più veloce trovato dalla sessione."""


def chip_of(session: dict[str, Any]) -> Gpu | None:
    """La scheda che la sessione nomina, se è nella tabella e `machine_info` la conferma."""
    name, card = session.get("ceilings", {}).get("chip"), session["machine_info"]["gpu"] or ""
    return next((gpu for gpu in GPUS if gpu.name == name and is_named(gpu, card)), None)


def roofs_of(session: dict[str, Any]) -> Ceilings:
    """I tetti di una sessione, com'erano quando li ha misurati; vuoti, se non li ha."""
    found = session.get("ceilings", {"gemm": {}, "copy_gbs": 0.0, "clocks": {}})
    gemm = {form: product["gflops"] * 1e9 for form, product in found["gemm"].items()}
    sides = {form: product["size"] for form, product in found["gemm"].items()}
    return Ceilings(gemm, sides, found["copy_gbs"] * 1e9, chip_of(session), found["clocks"])


def of_ceilings(session: dict[str, Any]) -> Iterator[str]:
    """Il chip è della tabella, e da lì vengono i numeri dichiarati; i misurati non li superano."""
    if "ceilings" not in session:
        return
    found, ceilings, chip = session["ceilings"], roofs_of(session), chip_of(session)
    known = (found["chip"] is None) == (chip is None)
    expected = f"null, o una fra {', '.join(gpu.name for gpu in GPUS)} se è in machine_info.gpu"
    yield from unless(known, "ceilings.chip", found["chip"], expected)
    yield from untrue(of_datasheet(found, ceilings), "ceilings.")
    for form, product in found["gemm"].items():
        at = f"ceilings.gemm[{form}].gflops"
        yield from too_fast(product["gflops"], most(form, session), at, "GFLOP/s")
    widest = FASTEST_COPY[session["machine_info"]["gpu"] is not None]
    limit = MARGIN[True] * chip.bandwidth / 1e9 if chip else widest
    yield from too_fast(found["copy_gbs"], limit, "ceilings.copy_gbs", "GB/s")
    if chip:
        highest, limit = found["clocks"].get("sm_max_mhz", 0.0), BOOST * chip.clock / 1e6
        yield from too_fast(highest, limit, "ceilings.clocks[sm_max_mhz]", "MHz")


def of_datasheet(found: dict[str, Any], ceilings: Ceilings) -> Pairs:
    """Ciò che la tabella delle GPU dichiara del chip."""
    again = ceilings.published()
    yield "datasheet_gbs", found["datasheet_gbs"], again["datasheet_gbs"]
    for form, product in found["gemm"].items():
        yield f"gemm[{form}].datasheet", product["datasheet"], again["gemm"][form]["datasheet"]


def too_fast(found: float, limit: float, where: str, unit: str) -> Iterator[str]:
    """Un reclamo, se qualcosa va più in fretta di quanto la macchina possa."""
    yield from unless(found <= limit, where, found, f"al più {limit:.4g} {unit}")


def most(form: str, session: dict[str, Any]) -> float:
    """I GFLOP/s che su una macchina nessun prodotto può superare: zero, se il formato non c'è."""
    machine, declared = session["machine_info"], roofs_of(session).fastest(form)
    if declared is not None:
        return MARGIN[True] * declared
    return FASTEST_GPU if machine["gpu"] else machine["cores"] * FASTEST_CORE


def impossible(contest: dict[str, Any], session: dict[str, Any], where: str) -> Iterator[str]:
    """I ritmi che la gara stessa avrebbe rifiutato: il giudice è quello che ha lei.

    La gara il suo prodotto di matrici l'ha appena misurato; qui è un numero, e si guarda anche lui.
    """
    ceilings, usual = roofs_of(session), usual_format(contest)
    limit = min(most(usual, session), DRIFT * ceilings.gemm.get(usual, math.inf) / 1e9)
    product = contest["gemm_gflops"]
    yield from too_fast(product, limit, f"{where}.gemm_gflops", f"GFLOP/s in {usual}")
    judged = {name: {"format": usual, **score} for name, score in workers(contest)}
    try:
        refuse_impossible_times({**contest, "contestants": judged}, ceilings)
    except ImpossibleTimeError as error:
        yield f"{where}.contestants: {error}"


def workers(contest: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Chi fa il lavoro dichiarato.

    È chi ha un ritmo; ma le sessioni senza tetti ne davano uno a tutti, e lì si può dire soltanto
    del primo concorrente e del riferimento.
    """
    first, *_ = contest["contestants"]
    for name, score in contest["contestants"].items():
        known = "copy_gbs" in contest or name in (first, contest["baseline"])
        if known and score["gflops"] is not None:
            yield name, score


# Gli indizi sui Tensor Core.

PROOFS = (
    tensor_cores.NAMES,
    tensor_cores.RATE,
    tensor_cores.COUNTERS,
    tensor_cores.ERROR,
    tensor_cores.MACHINE_CODE,
)
"""Gli indizi che un verdetto ha sempre, anche quando tacciono."""


PROVEN_SHAPES = ({"m", "k", "n"}, {"batch", "heads", "n", "d"})
"""Le dimensioni di ciò che si giudica: un prodotto, o un'attenzione."""


def of_proofs(contest: dict[str, Any], session: dict[str, Any], where: str) -> Iterator[str]:
    """Chi ha degli indizi è in gara; su GPU, e solo lì, ha anche un verdetto."""
    judged, shape = contest["device"] == "cuda", contest["shape"].keys()
    if "proofs" in contest and not any(names <= shape for names in PROVEN_SHAPES):
        yield f"{where}.shape: {shown(list(shape))}; attesi m, k, n, oppure batch, heads, n, d"
        return
    wrong = "manca" if judged else "campo in più; il verdetto si dà su GPU"
    for name, found in contest.get("proofs", {}).items():
        at = f"{where}.proofs[{name}]"
        score = contest["contestants"].get(name, {})
        if score.get("gflops") is None or score["gemm_fraction"] is None:
            yield (
                f"{at}: atteso il nome di un concorrente che fa il lavoro dichiarato, in un "
                "formato di cui si è misurato il tetto"
            )
            continue
        most = (1 + TOLERANCE) * found["error"]
        yield from between(0.0, found["product_error"], most, f"{at}.product_error", "da error")
        misplaced = [field for field in JUDGED if (field in found) != judged]
        yield from (f"{at}.{field}: {wrong}" for field in misplaced)
        if judged and not misplaced:
            again = recomputed(found, contest, name, session)
            yield from of_verdict(found, again, at)
            yield from of_evidence(found, again, at)


def of_verdict(found: dict[str, Any], again: list[Evidence], where: str) -> Iterator[str]:
    """Il verdetto è quello che gli indizi danno; e non cade se chi taceva oggi parla."""
    written = [Evidence(proof, **it) for proof, it in found["evidence"].items()]
    expected = tensor_cores.verdict(written)
    for name, told in (("verdict", expected.says), ("reason", expected.reason)):
        yield from unless(
            found[name] == told, f"{where}.{name}", found[name], f"«{told}», come dagli indizi"
        )
    today = {evidence.proof: evidence for evidence in again}
    spoken = tensor_cores.verdict(
        today.get(it.proof, it) if it.says == tensor_cores.UNPROVEN else it for it in written
    )
    holds = found["verdict"] in (tensor_cores.UNPROVEN, spoken.says)
    yield from unless(
        holds, f"{where}.verdict", found["verdict"], f"«{spoken.says}»: {spoken.reason}"
    )


def of_evidence(found: dict[str, Any], again: list[Evidence], where: str) -> Iterator[str]:
    """Gli indizi ci sono tutti, e chi dice sì o no lo dice anche a rifarne il conto."""
    proofs, expected = list(found["evidence"]), ", ".join(PROOFS)
    yield from unless(sorted(proofs) == sorted(PROOFS), f"{where}.evidence", proofs, expected)
    for evidence in again:
        said = found["evidence"].get(evidence.proof, {}).get("says")
        holds = said in (None, tensor_cores.UNPROVEN, evidence.says)
        at = f"{where}.evidence[{evidence.proof}].says"
        yield from unless(holds, at, said, f"«{evidence.says}»: {evidence.reason}")


def recomputed(
    found: dict[str, Any], contest: dict[str, Any], name: str, session: dict[str, Any]
) -> list[Evidence]:
    """Gli indizi che il file basta a rifare, con le regole di oggi: nomi, ritmo, errore."""
    score, ceilings = contest["contestants"][name], roofs_of(session)
    form, chip = format_of(contest, score), ceilings.chip
    clock = ceilings.fastest_clock(chip) if chip else 0.0
    ceiling = tensor_cores.cuda_core_ceiling(chip, form, clock) if chip else None
    return [
        tensor_cores.from_kernel_names(found["kernels"].splitlines()),
        tensor_cores.from_rate(score["gflops"] * 1e9, ceiling),
        tensor_cores.from_error(found["error"], contest["shape"].get("k", 1), form),
    ]


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
        text = path.read_text(encoding="utf-8-sig")
        session = json.loads(text, object_pairs_hook=unrepeated)
    except (OSError, ValueError, RecursionError) as error:
        raise SchemaError(f"{source}: non è un file JSON in UTF-8 ({error})") from error
    check(session, source)
    return session


def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Un oggetto JSON; se una chiave c'è due volte non si sa quale valga."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"una chiave c'è due volte: {max(names, key=names.count)}")
    return found


def published(folder: Path) -> Iterator[dict[str, Any]]:
    """I file di una cartella di risultati, letti, ciascuno nella cartella della sua macchina.

    Solleva:
        SchemaError: se un file non è valido, o non è al suo posto.
    """
    machines: dict[Path, dict[str, Any]] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() or path.suffix.lower() == ".json":
            session = read(path)
            first = machines.setdefault(path.parent, session["machine_info"])
            wrong = [*misplaced(path, session, folder), *strange(session["machine_info"], first)]
            report("/".join(path.parts[-4:]), wrong)
            yield session


def misplaced(path: Path, session: dict[str, Any], results: Path) -> Iterator[str]:
    """Un reclamo se la cartella non ha il nome della macchina, o il file quello del giorno."""
    expected, day = slug(session["machine_info"]), session["datetime"][:10]
    found = path.parent.relative_to(results).as_posix()
    if found != expected:
        yield f"machine_info: la cartella è «{found}»; attesa «{expected}»"
    if not re.fullmatch(rf"{day}(-\d+)?\.json", path.name):
        yield f"datetime: il file si chiama «{path.name}»; atteso «{day}.json»"


def strange(machine: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    """Un reclamo per ogni parte che due macchine della stessa cartella non hanno uguale."""
    for part in ("cpu", "gpu", "system"):
        expected = f"{shown(other[part])}, come negli altri file della sua cartella"
        yield from unless(
            machine[part] == other[part], f"machine_info.{part}", machine[part], expected
        )


NOISE = r"\((r|tm)\)|\b(processor|cpu|gpu|with radeon.*|\d+-core)\b|@[^,]*"
"""Le parole dei nomi commerciali che non distinguono una macchina."""


def slug(machine: dict[str, Any]) -> str:
    """Il nome di cartella di una macchina: per esempio `intel-xeon-2c-cpu`."""
    cpu = re.sub(NOISE, " ", machine["cpu"].lower())
    words = f"{cpu} {machine['cores']}c {machine['gpu'] or 'cpu'}"
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def report(source: str, found: list[str]) -> None:
    """Solleva i reclami, se ce ne sono, in un testo che si può sempre scrivere."""
    if found:
        rest = [f"e altri {len(found) - TOLD}"] if len(found) > TOLD else []
        lines = "\n  ".join([*found[:TOLD], *rest])
        text = f"{source}: non è un file di risultati valido\n  {lines}"
        raise SchemaError(text.encode("utf-8", "backslashreplace").decode("utf-8"))
