"""La provenienza di una misura: su quale macchina, con quali versioni, da quale commit."""

import os
import platform
import re
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import cpuinfo
import torch

PACKAGES = ("torch", "triton", "numpy", "x-transformers", "transformers", "ctranslate2")
"""I pacchetti di cui si annota la versione."""

UNKNOWN = "sconosciuto"
"""Ciò che si scrive quando non si può sapere."""


@cache
def machine() -> dict[str, Any]:
    """La macchina e le versioni. Non il suo nome in rete, che non riguarda la misura."""
    found = {
        "cpu": processor(cpuinfo.get_cpu_info()),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": None,
        "driver": None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in PACKAGES},
    }
    if torch.cuda.is_available():
        query = ("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        driver = answer(*query) or UNKNOWN
        found |= {"gpu": torch.cuda.get_device_name(), "driver": driver.splitlines()[0]}
    return found


def processor(known: dict[str, Any]) -> str:
    """Il nome del processore. Se non ha cifre, come in molte macchine virtuali, non ne distingue
    uno dall'altro: vi si aggiungono famiglia e modello, quando si conoscono. La frequenza, dopo
    la chiocciola, non è un nome.
    """
    name = known.get("brand_raw", UNKNOWN)
    if re.search(r"\d", name.partition("@")[0]) or not {"family", "model"} <= known.keys():
        return name
    return f"{name}, famiglia {known['family']}, modello {known['model']}"


@cache
def commit() -> dict[str, Any]:
    """Il commit dei sorgenti, e se da allora sono stati modificati, o ve ne sono di nuovi.

    Dove i sorgenti sono una copia dentro un altro deposito, il commit non è il loro.
    """
    root = Path(__file__).parent.parent
    found = answer("git", "rev-parse", "--show-toplevel")
    if found is None or Path(found).resolve() != root.resolve():
        return {"id": UNKNOWN, "modified": False}
    changes = answer("git", "status", "--porcelain", "--", ":/", ":!/benchmarks/results")
    return {
        "id": answer("git", "rev-parse", "--short", "HEAD") or UNKNOWN,
        "modified": bool(changes),
    }


def installed(package: str) -> str | None:
    """La versione di un pacchetto, se è installato."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def answer(*command: str) -> str | None:
    """Ciò che un comando risponde, se c'è e riesce."""
    here = Path(__file__).parent
    try:
        done = subprocess.run(command, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()
