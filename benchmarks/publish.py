"""`python -m benchmarks.publish`: misura, e mette il risultato fra quelli pubblicati.

Il file prende posto solo quando la misura è finita, nella cartella della macchina. Se la misura si
ferma, le gare già fatte restano in un file parziale; `python -m benchmarks.publish --from FILE`
pubblica quello, o il file di un'altra macchina.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

from benchmarks import schema

ROOT = Path(__file__).parent.parent

RESULTS = ROOT / "benchmarks" / "results"
"""Dove stanno i risultati: una cartella per macchina, di solito un file per giorno."""

MEASURED = ROOT / ".benchmarks" / "measured.json"
"""Dove sta una misura prima di essere pubblicata."""


def place(measured: dict) -> Path:
    """Il posto di una misura: la macchina, poi il giorno.

    Un file dello stesso giorno si sostituisce solo con uno che ne rifà tutte le gare; se no quello
    nuovo gli sta accanto, con un numero: nessuna misura va perduta.

    Solleva:
        SchemaError: se la cartella è di un'altra macchina, o un suo file non è valido.
    """
    machine, day = measured["machine_info"], measured["datetime"][:10]
    folder = RESULTS / schema.slug(machine)
    for path in sorted(folder.glob("*.json")):
        other = schema.read(path)["machine_info"]
        schema.report(f"la misura per {folder.name}", list(schema.strange(machine, other)))
    names = itertools.chain([day], (f"{day}-{number}" for number in itertools.count(2)))
    targets = (folder / f"{name}.json" for name in names)
    return next(it for it in targets if not it.exists() or redone(it, measured))


def redone(published: Path, measured: dict) -> bool:
    """Vero se una misura ha tutte le gare di un file."""
    return contests_of(schema.read(published)) <= contests_of(measured)


def publish(source: Path) -> None:
    """Controlla un file e lo mette al suo posto, intero; quello di partenza non si tocca.

    Solleva:
        SchemaError: se il file non è valido, o la sua cartella è di un'altra macchina.
    """
    target = place(schema.read(source))
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".tmp")
    partial.write_bytes(source.read_bytes())
    os.replace(partial, target)
    print(f"Misure pubblicate in {target.relative_to(ROOT)}")


def contests_of(session: dict) -> set[tuple[str, ...]]:
    """Le gare di un file."""
    return {schema.identity(entry) for entry in session["benchmarks"]}


def measure(options: list[str]) -> int:
    """Esegue i benchmark e ne scrive il risultato in `MEASURED`; torna il loro esito."""
    MEASURED.parent.mkdir(exist_ok=True)
    partial = MEASURED.with_name(f"{MEASURED.name}.parziale")
    for file in (MEASURED, partial):
        file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "benchmarks", *options]
    try:
        outcome = subprocess.call([*command, f"--benchmark-json={MEASURED}"], cwd=ROOT)
    except KeyboardInterrupt:
        outcome = 1
    if not MEASURED.exists() and not partial.exists():
        print("Nessuna gara misurata.")
        return outcome or 1
    found = partial if partial.exists() else MEASURED
    if outcome:
        print(f"Misura non finita. Le gare già fatte sono in {found.relative_to(ROOT)}")
    return outcome


def main(*options: str) -> int:
    """Misura e pubblica, oppure pubblica il file che segue `--from`; torna l'esito."""
    given, *rest = options or ("",)
    if given == "--from" and len(rest) != 1:
        print(f"--from: dato: {len(rest)} file; atteso: uno", file=sys.stderr)
        return 2
    outcome = 0 if given == "--from" else measure(list(options))
    try:
        if not outcome:
            publish(Path(rest[0]) if given == "--from" else MEASURED)
    except schema.SchemaError as error:
        print(error, file=sys.stderr)
        return 1
    return outcome


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
