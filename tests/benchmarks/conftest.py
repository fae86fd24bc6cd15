"""Sessioni di misura scritte a mano: nessun numero qui è stato misurato."""

import contextlib
import copy
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import schema
from gpu_notes.sm_map import H100
from weave.house import ROOT
from weave.measurements import BENCHMARKS, H200, of_machine
from weave.measurements.goals import found_in
from weave.pact import blocks

MACHINE = {
    "cpu": "Intel(R) Xeon(R) Processor",
    "cores": 2,
    "threads": 2,
    "gpu": None,
    "driver": None,
    "system": "Linux x86_64",
    "python": "3.11.7",
    "packages": {"torch": "2.13.0", "x-transformers": None},
}

FINTA = replace(
    H100,
    name="Finta",
    sms=100,
    clock=100e12 / (100 * 128 * 2),
    tensor_clock=1000e12 / (100 * 2048 * 2),
    bandwidth=4e12,
)
"""Una scheda che non c'è, dai picchi tondi: 100 TFLOP/s in FP32, 1000 in BF16, 4 TB/s."""


def contest(medians, baseline, flops, traffic, gemm, label="n = 10", shape=None, **more):
    """Le voci di una gara, con rapporti e frazioni calcolati dai tempi; i tetti in `more`."""
    copied, declared = more.get("copy_gbs"), more.get("datasheet")
    different, extra = more.get("different", ()), more.get("extra_bytes", {})

    def score(name, median):
        same = name not in different
        rate = flops / median / 1e9
        found = {
            "median": median,
            "iqr": 1e-5,
            "gflops": rate if same else None,
            "gemm_fraction": rate / gemm if same else None,
            "ratio": median / medians[baseline],
            "extra_bytes": extra.get(name, 26_880),
        }
        if copied:
            found |= {
                "format": {"float32": "FP32", "bfloat16": "BF16"}[more.get("dtype", "float32")],
                "gbs": traffic / median / 1e9 if same else None,
                "copy_fraction": traffic / median / 1e9 / copied if same else None,
                "datasheet_fraction": rate / declared["gflops"] if same and declared else None,
            }
        return found

    ceilings = {"copy_gbs": copied, "datasheet": declared} if copied else {}
    return {
        "device": more.get("device", "cpu"),
        "dtype": more.get("dtype", "float32"),
        "label": label,
        "shape": shape or {"n": 10},
        "flops": flops,
        "bytes": traffic,
        "intensity": flops / traffic,
        "gemm_size": 1024,
        "gemm_gflops": gemm,
        **ceilings,
        "baseline": baseline,
        "contestants": {name: score(name, median) for name, median in medians.items()},
    }


def session(entries, machine=MACHINE, moment="2026-06-12T10:00:00+00:00", **more):
    """Un file di risultati: un gruppo e una gara per voce."""
    return {
        "machine_info": copy.deepcopy(machine),
        "commit_info": {"id": "abc1234", "modified": True},
        "datetime": moment,
        **more,
        "benchmarks": [
            {
                "group": group,
                "name": f"test_{place}",
                "extra_info": found,
                "stats": {
                    "min": 1e-5,
                    "median": next(iter(found["contestants"].values()))["median"],
                    "iqr": 1e-5,
                    "max": 9.0,
                    "rounds": 7,
                },
            }
            for place, (group, found) in enumerate(entries)
        ],
    }


@pytest.fixture
def small():
    """Una sessione di CPU senza tetti, come le prime pubblicate: 2 GFLOP/s di prodotto."""
    medians = {"nostro": 0.000612, "altri": 0.0008}
    return session([("prova", contest(medians, "altri", 457_776, 45_000, 2.0))])


@pytest.fixture
def on_gpu(monkeypatch):
    """Una sessione di GPU con i tetti: numeri tondi, inventati, di `FINTA`, messa nella tabella.

    Copia 2000 GB/s su 4000 dichiarati; FP32 50 TFLOP/s su 100, BF16 400 su 1000.
    """
    monkeypatch.setattr(schema, "GPUS", (*schema.GPUS, FINTA))
    machine = {**MACHINE, "gpu": "Scheda Finta", "driver": "580.1"}
    ceilings = {
        "gemm": {
            "FP32": {"gflops": 50e3, "size": 4096, "datasheet": 100e3},
            "BF16": {"gflops": 400e3, "size": 8192, "datasheet": 1000e3},
        },
        "copy_gbs": 2000.0,
        "chip": "Finta",
        "datasheet_gbs": 4000.0,
        "clocks": {"sm_mhz": 1755.0, "watt": 612.4},
    }
    entries = [
        (
            "prova",
            contest(
                {"nostro": 1e-3, "altri": 2e-3, "diverso": 5e-4},
                "altri",
                flops,
                traffic,
                gemm,
                label=label,
                shape={"n": n},
                device="cuda",
                dtype=dtype,
                copy_gbs=2000.0,
                datasheet={"gflops": peak, "gbs": 4000.0},
                different=("diverso",),
            ),
        )
        for dtype, gemm, peak in (("float32", 40e3, 100e3), ("bfloat16", 320e3, 1000e3))
        for n, label, flops, traffic in (
            (10, "n = 10", 10**9, 10**9),
            (1000, "n = 1000", 2 * 10**10, 10**8),
        )
    ]
    return session(entries, machine, "2026-11-26T10:00:00+00:00", ceilings=ceilings)


@pytest.fixture
def growing():
    """Una sessione in cui i tempi sono potenze esatte: n² sopra 100, poi n; la memoria n³."""
    entries = [
        (
            "prova",
            contest(
                {"auto-attenzione": 1e-9 * n**2 if n > 100 else 1e-5, "nn.RNN": 3e-7 * n},
                "nn.RNN",
                n * n,
                8 * n * 512,
                100.0,
                label=f"n = {n}",
                shape={"n": n, "d": 512},
                extra_bytes={"auto-attenzione": n**3, "nn.RNN": 0},
            ),
        )
        for n in (10, 100, 1000, 2000, 8000)
    ]
    return session(entries)


@pytest.fixture
def drop(tmp_path):
    """Mette una sessione fra i risultati di una cartella di prova, come farebbe chi la riceve."""

    def put(found, name=None, folder=None):
        name = name or f"{found['datetime'][:10]}.json"
        path = put.folder / (folder or schema.slug(found["machine_info"])) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(found), encoding="utf-8")
        return path

    put.folder = Path(tmp_path, "results")
    return put


@pytest.fixture
def executed():
    """Ciò che stampa il blocco di una pagina in cui c'è quella riga, e in nessun altro.

    I nomi che i blocchi di prima hanno definito si danno in un dizionario, dove restano i suoi.
    """

    def run(page, line, names):
        text = (ROOT / page).read_text(encoding="utf-8")
        (code,) = [it.content for it in blocks(text) if line in it.content]
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(code, names)
        return printed.getvalue()

    return run


@pytest.fixture(scope="session")
def sessions():
    """Le due sessioni sull'H200, dalla prima."""
    folder = BENCHMARKS / "results" / H200
    return [schema.read(folder / name) for name in ("2026-11-27.json", "2026-11-27-2.json")]


def played(*sessions):
    """Le gare di più sessioni: gruppo, dimensione e tipo di numeri."""
    found = [it for session in sessions for it in found_in(session).items()]
    return {(group, label, dtype): contest for (group, label, _, dtype), contest in found}


@pytest.fixture(scope="session")
def before(sessions):
    """Le gare della prima sessione, anche quelle che la seconda ha rifatto."""
    return played(sessions[0])


@pytest.fixture(scope="session")
def after(sessions):
    """Le gare della seconda."""
    return played(sessions[1])


@pytest.fixture(scope="session")
def h200():
    """Le gare dell'H200 che le pagine mostrano."""
    return played(*of_machine(H200))
