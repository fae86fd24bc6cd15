"""I risultati dei benchmark sulle pagine: il riquadro `misura`, con disegno, tabella e provenienza.

Nel riquadro sta il nome di un gruppo di benchmark, e poi che cosa se ne vuole vedere: nulla per i
tempi, `memoria`, `token`, `roofline`, `barre`, `crescita`, `crescita memoria`. Senza gruppo,
`roofline` li mostra tutti; `traguardi` e `traguardi gpu` li confrontano con ciò che ci eravamo
proposti. I numeri vengono dai file di `benchmarks/results/`, a ogni costruzione: qui non si misura
nulla.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any

from pymdownx.superfences import SuperFencesException

from benchmarks.schema import identity, parsed, published, slug, usual_format
from weave.fences import stopping
from weave.house import ROOT
from weave.measurements.bars import BARS
from weave.measurements.drawings import Contest, Quantity, svg
from weave.measurements.goals import GOALS, GPU_GOALS, Goal, goals_table, plays_on, summary
from weave.measurements.growth import GROWTH, MEMORY_GROWTH
from weave.measurements.notation import day, decimal
from weave.measurements.roofline import ALL, ROOFLINE
from weave.measurements.times import MEMORY, TIMES, TOKENS

BENCHMARKS = ROOT / "benchmarks"

H200 = "intel-xeon-famiglia-6-modello-207-16c-nvidia-h200"
"""La macchina con una GPU di cui le pagine discutono i numeri."""

EPYC = "amd-epyc-famiglia-26-modello-2-2c-cpu"
"""La macchina senza GPU di cui le pagine discutono i numeri."""

DEVICES = {"cpu": "CPU", "cuda": "GPU"}
"""Il nome di un dispositivo nei testi."""

Session = dict[str, Any]
"""Un file di risultati: la macchina, il commit, la data, le gare."""

QUANTITIES: dict[str, Quantity] = {
    "": TIMES,
    "memoria": MEMORY,
    "token": TOKENS,
    "roofline": ROOFLINE,
    "barre": BARS,
    "crescita": GROWTH,
    "crescita memoria": MEMORY_GROWTH,
}
"""Ciò che si può chiedere di un gruppo."""

TARGETS = {"traguardi": GOALS, "traguardi gpu": GPU_GOALS}
"""I traguardi, secondo dove si misurano."""


@stopping
def misura(source: str, *_: Any, **__: Any) -> str:
    """Il riquadro: di ogni macchina, i risultati più recenti di ogni gara."""
    asked = source.strip()
    group, _space, quantity = asked.partition(" ")
    if asked in TARGETS:
        return goals(latest(), TARGETS[asked])
    if asked == "roofline":
        return render("", "roofline", latest())
    if group in declared() and quantity in QUANTITIES:
        return render(group, quantity, latest())
    kinds = ", ".join(f"«{kind}»" for kind in QUANTITIES if kind)
    raise SuperFencesException(
        f"riquadro «misura»: «{asked}» non esiste; i gruppi sono {', '.join(declared())}, seguiti "
        f"da nulla o da {kinds}; senza gruppo, «roofline», «traguardi» e «traguardi gpu»"
    )


def declared(folder: Path = BENCHMARKS) -> list[str]:
    """I gruppi che i benchmark dichiarano, misurati o no."""
    sources = (path.read_text(encoding="utf-8") for path in sorted(folder.glob("bench_*.py")))
    found = [group for source in sources for group in re.findall(r'\bgroup="(\w+)"', source)]
    return list(dict.fromkeys(found))


def latest(folder: Path = BENCHMARKS / "results") -> list[Session]:
    """Di ogni macchina e di ogni gara, il file più recente; le macchine con una GPU per prime.

    Restituisce:
        I file da mostrare, ciascuno con le sole gare di cui non c'è una misura più recente: chi
        ne rifà alcune non nasconde le altre.

    Solleva:
        SchemaError: se un file, anche non l'ultimo, non rispetta lo schema.
    """
    machines = groupby(published(folder), key=lambda session: slug(session["machine_info"]))
    found = [session for _, sessions in machines for session in unsurpassed(sessions)]
    return sorted(found, key=lambda session: session["machine_info"]["gpu"] is None)


def of_machine(name: str) -> list[Session]:
    """I file da mostrare di una macchina sola, dal più recente.

    Argomenti:
        name: il nome della sua cartella.
    """
    return [session for session in latest() if slug(session["machine_info"]) == name]


def unsurpassed(sessions: Iterator[Session]) -> Iterator[Session]:
    """Le sessioni di una macchina, dall'ultima, ognuna con le sole gare che dopo non ci sono."""
    known: set[tuple[str, ...]] = set()
    for session in sorted(sessions, key=lambda it: parsed(it["datetime"]), reverse=True):
        kept = [entry for entry in session["benchmarks"] if identity(entry) not in known]
        known |= {identity(entry) for entry in kept}
        if kept:
            yield {**session, "benchmarks": kept}


def render(group: str, quantity: str, sessions: list[Session]) -> str:
    """Le figure di ogni macchina; che cosa non è stato misurato. Senza gruppo, tutti i gruppi."""
    kind = QUANTITIES[quantity] if group else ALL
    name = f"{group or 'tutti'}-{quantity.replace(' ', '-') or 'tempi'}"
    figures: list[str] = []
    devices = set()
    for session in sessions:
        with reading(session):
            for title, part in kind.parts(contests_of(group, session)):
                figures.append(figure(f"{name}-{len(figures)}", kind, session, title, part))
                devices.add(part[0]["device"])
    return "\n".join([*figures, *unmeasured(devices)])


@contextmanager
def reading(session: Session) -> Iterator[None]:
    """Qui dentro, un errore dice di quale macchina e di che giorno sono i numeri."""
    try:
        yield
    except Exception as error:
        whose = f"{slug(session['machine_info'])}, {session['datetime'][:10]}"
        raise ValueError(f"{whose}: {type(error).__name__}: {error}") from error


def unmeasured(devices: set[str]) -> list[str]:
    """Una riga per ciò che nessuna macchina ha misurato."""
    if not devices:
        return ["<p>Non misurato, né su CPU né su GPU.</p>"]
    return [f"<p>Non misurato su {DEVICES[it]}.</p>" for it in DEVICES if it not in devices]


def contests_of(group: str, session: Session) -> list[Contest]:
    """Le gare di un gruppo, o di tutti, con ciò che serve sapere della sessione."""
    return [
        {
            **entry["extra_info"],
            "group": entry["group"],
            "rounds": entry["stats"]["rounds"],
            "ceilings": session.get("ceilings"),
            "products": fastest(session),
        }
        for entry in session["benchmarks"]
        if group in ("", entry["group"])
    ]


def fastest(session: Session) -> dict[str, float]:
    """Per ogni formato, i GFLOP/s del prodotto più veloce, fra i tetti e nelle gare."""
    ceilings = session.get("ceilings") or {"gemm": {}}
    found = {form: product["gflops"] for form, product in ceilings["gemm"].items()}
    for entry in session["benchmarks"]:
        form, rate = usual_format(entry["extra_info"]), entry["extra_info"]["gemm_gflops"]
        found[form] = max(found.get(form, 0.0), rate)
    return found


def figure(
    anchor: str, kind: Quantity, session: Session, title: str, contests: list[Contest]
) -> str:
    """Il disegno, la tabella con gli stessi numeri, la didascalia con la provenienza."""
    explained = kind.explain(contests)
    device = DEVICES[contests[0]["device"]]
    caption = f"{device}, {title}. {explained} {provenance(session)}"
    label = f"{explained} I numeri sono nella tabella che segue."
    drawing = svg(lambda axes: kind.draw(axes, contests), label, anchor, kind.entries(contests))
    return (
        f'<figure class="disegno">{drawing}{kind.table(contests)}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def goals(sessions: list[Session], wanted: tuple[Goal, ...]) -> str:
    """La tabella dei traguardi, quanti ne raggiunge ogni macchina, e da dove vengono i numeri."""
    device, _ = wanted[0].place
    machines = together([session for session in sessions if plays_on(session, device)])
    told = " ".join(["Traguardi raggiunti.", *summary(machines, wanted)])
    groups = {goal.group for goal in wanted}
    shown = [
        session
        for session in sessions
        if plays_on(session, device) and groups & {it["group"] for it in session["benchmarks"]}
    ]
    origins = " ".join(provenance(session) for session in shown)
    return (
        f'<figure class="disegno">{goals_table(machines, wanted)}'
        f"<figcaption>{escape(f'{told} {origins}')}</figcaption></figure>"
    )


def together(sessions: list[Session]) -> list[Session]:
    """Una sessione per macchina, con le gare di tutti i suoi file."""
    machines: dict[str, Session] = {}
    for session in sessions:
        first = machines.setdefault(slug(session["machine_info"]), {**session, "benchmarks": []})
        first["benchmarks"] += session["benchmarks"]
    return list(machines.values())


def provenance(session: Session) -> str:
    """Macchina, frequenze, versioni, commit e data, e chi mancava."""
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
        f"{machine['system']}. {clocks(session)}Python {machine['python']}, {versions}. "
        f"Commit {commit['id']}{modified}, {day(session['datetime'])}.{missing}"
    )


CLOCKS = {
    "sm_mhz": "SM a {} MHz",
    "sm_max_mhz": "massimo {} MHz",
    "memory_mhz": "memoria a {} MHz",
    "watt": "{} W",
}
"""Le frequenze e la potenza di una sessione, come si leggono nella didascalia."""


def clocks(session: Session) -> str:
    """Le frequenze lette durante un grande prodotto di matrici, se si sono potute leggere."""
    found = (session.get("ceilings") or {}).get("clocks", {})
    told = [text.format(decimal(found[name], 0)) for name, text in CLOCKS.items() if name in found]
    return f"Durante un grande prodotto: {', '.join(told)}. " if told else ""
