"""`python -m benchmarks.publish`: misura, e mette il risultato fra quelli pubblicati.

Il file prende posto solo quando la misura è finita, nella cartella della macchina.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks import schema

RESULTS = Path(__file__).parent / "results"
"""Dove stanno i risultati: una cartella per macchina, un file per giorno."""


def place(measured: dict) -> Path:
    """Il posto di una misura: la macchina, poi la data."""
    return RESULTS / schema.slug(measured["machine_info"]) / f"{measured['datetime'][:10]}.json"


def main() -> int:
    """Esegue i benchmark; torna il loro esito."""
    with tempfile.TemporaryDirectory(dir=RESULTS.parent) as folder:
        output = Path(folder, "measured.json")
        command = [sys.executable, "-m", "pytest", "benchmarks", f"--benchmark-json={output}"]
        outcome = subprocess.call([*command, *sys.argv[1:]], cwd=RESULTS.parent.parent)
        if outcome:
            return outcome
        target = place(schema.read(output))
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(output, target)
    print(f"Misure pubblicate in {target.relative_to(RESULTS.parent.parent)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
