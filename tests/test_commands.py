"""I comandi: che cosa fanno da un clone appena fatto, e che cosa dicono se manca qualcosa.

Nulla viene installato: il clone è una cartella con i soli file che make legge, e i Python sono
finti. Uno si traveste (da vecchio, da incompleto), l'altro segna i comandi che riceve.
"""

import ast
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from weave.house import ROOT
from weave.prerequisites import busy_port

TESTS = "-m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder"
"""Il comando che `make test` dà a Python."""

pytestmark = pytest.mark.skipif(
    shutil.which("make") is None and "CI" not in os.environ, reason="make non c'è"
)

READ_BY_MAKE = ("Makefile", "pyproject.toml", "constraints.txt", "weave/prerequisites.py")

OLD = "sys.version_info = (3, 8, 18)"
WITHOUT_VENV = "sys.modules['ensurepip'] = None"


class Clone:
    """Un clone appena fatto, con un PATH in cui c'è soltanto ciò che il test ci mette."""

    def __init__(self, folder: Path):
        self.root = folder / "la casa"
        self.bin = folder / "bin"
        self.bin.mkdir()
        for name in READ_BY_MAKE:
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        for tool in ("cp", "mkdir", "rm", "touch"):
            (self.bin / tool).symlink_to(str(shutil.which(tool)))
        self.program("uname", "echo Linux")

    def program(self, name: str, script: str) -> None:
        """Mette nel PATH un programma scritto in sh."""
        path = self.bin / name
        path.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        path.chmod(0o755)

    def disguised_python(self, name: str, disguise: str) -> None:
        """Il Python di questi test, travestito prima di eseguire il file che gli danno."""
        execution = "sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')"
        code = f"import runpy, sys; {disguise}; {execution}"
        self.program(name, f'exec "{sys.executable}" -c "{code}" "$@"')

    def recording_python(self, name: str, index_status: int = 0) -> None:
        """Un Python che segna ciò che gli chiedono; l'indice CPU risponde come si vuole."""
        self.program(
            name,
            'echo "$*" >> comandi\n'
            'case "$*" in\n'
            '  "-m venv"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;\n'
            f"  *--index-url*) exit {index_status} ;;\n"
            "esac",
        )

    def make(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Lancia make senza nulla dell'ambiente di chi esegue i test."""
        return subprocess.run(
            [str(shutil.which("make")), *arguments],
            cwd=self.root,
            env={"PATH": str(self.bin), "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            encoding="utf-8",
        )

    def commands(self) -> list[str]:
        """Ciò che il Python che segna ha ricevuto finora; poi il foglio torna bianco."""
        sheet = self.root / "comandi"
        lines = sheet.read_text(encoding="utf-8").splitlines()
        sheet.unlink()
        return lines


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path)


def the_complaint(done: "subprocess.CompletedProcess[str]") -> str:
    """L'unica frase di un comando fallito, oltre a quella con cui make si ferma."""
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if not line.startswith("make")]
    assert len(lines) == 1, done.stderr
    return lines[0]


def test_an_old_python_says_which_one_is_needed(clone: Clone) -> None:
    clone.disguised_python("python3", OLD)
    complaint = the_complaint(clone.make("test"))
    assert "Serve Python 3.11" in complaint
    assert "alla versione 3.8" in complaint
    assert "PYTHON=" in complaint
    assert not (clone.root / ".venv").exists()


def test_a_python_without_venv_names_the_package_to_install(clone: Clone) -> None:
    clone.disguised_python("python3", WITHOUT_VENV)
    complaint = the_complaint(clone.make("serve"))
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert f"sudo apt install python{version}-venv" in complaint
    assert not (clone.root / ".venv").exists()


def test_without_python_the_sentence_says_to_install_it(clone: Clone) -> None:
    assert "installa Python 3.11 o successivo" in the_complaint(clone.make("test"))


@pytest.mark.parametrize("python3", [OLD, WITHOUT_VENV, "sys.exit(127)"])
def test_when_python3_is_not_enough_a_better_one_is_found(clone: Clone, python3: str) -> None:
    clone.disguised_python("python3", python3)
    clone.recording_python("python3.12")
    assert clone.make("test").returncode == 0
    assert "-m venv --clear .venv" in clone.commands()


def test_the_python_asked_for_is_the_one_used(clone: Clone) -> None:
    clone.disguised_python("python3", "sys.exit('non questo')")
    clone.recording_python("il-mio-python")
    assert clone.make("test", "PYTHON=il-mio-python").returncode == 0
    assert "-m venv --clear .venv" in clone.commands()


def test_the_first_run_installs_and_the_second_does_not(clone: Clone) -> None:
    clone.recording_python("python3")
    assert clone.make("test").returncode == 0
    *_, venv, torch, everything, compilers, tests = clone.commands()
    assert venv == "-m venv --clear .venv"
    assert "--index-url https://download.pytorch.org/whl/cpu" in torch
    assert everything == "-m pip install --constraint constraints.txt --editable .[dev]"
    assert compilers == "-m pip install --constraint constraints.txt --editable .[compilers]"
    assert tests == TESTS
    clone.make("test")
    assert clone.commands() == [TESTS]


@pytest.mark.parametrize("changed", ["pyproject.toml", "constraints.txt"])
def test_new_dependencies_rebuild_the_environment(clone: Clone, changed: str) -> None:
    clone.recording_python("python3")
    clone.make("test")
    clone.commands()
    built = (clone.root / ".venv" / "cpu").stat().st_mtime
    os.utime(clone.root / changed, (built + 10, built + 10))
    clone.make("test")
    assert "-m venv --clear .venv" in clone.commands()


def test_out_of_reach_cpu_index_falls_through_and_says_so(clone: Clone) -> None:
    clone.recording_python("python3", index_status=1)
    done = clone.make("test")
    assert done.returncode == 0
    assert "torch arriverà da PyPI" in done.stdout
    assert clone.commands()[-1] == TESTS


def test_cuda_is_asked_for_once_and_stays(clone: Clone) -> None:
    clone.recording_python("python3")
    clone.make("test", "CUDA=1")
    assert not any("--index-url" in command for command in clone.commands())
    clone.make("test")
    assert clone.commands() == [TESTS]


def test_macos_takes_torch_from_pypi(clone: Clone) -> None:
    clone.program("uname", "echo Darwin")
    clone.recording_python("python3")
    clone.make("test")
    assert not any("--index-url" in command for command in clone.commands())


def test_serve_shows_the_site_at_port_8000_of_this_machine(clone: Clone) -> None:
    clone.recording_python("python3")
    clone.make("serve")
    assert clone.commands()[-1] == "-m mkdocs serve --dev-addr 127.0.0.1:8000"


def test_bench_brings_the_peers_once_and_publishes(clone: Clone) -> None:
    clone.recording_python("python3")
    clone.make("bench")
    *_, peers, publish = clone.commands()
    assert peers == "-m pip install --constraint constraints.txt --editable .[peers]"
    assert publish == "-m benchmarks.publish"
    clone.make("bench")
    assert clone.commands() == ["-m benchmarks.publish"]


def test_a_busy_port_suggests_another(clone: Clone) -> None:
    (clone.root / ".venv" / "bin").mkdir(parents=True)
    (clone.root / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (clone.root / ".venv" / "cpu").touch()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        complaint = the_complaint(clone.make("serve", f"PORT={port}"))
    assert f"La porta {port} è già occupata" in complaint
    assert "make serve PORT=8001" in complaint
    assert busy_port(str(port)) == ""


@pytest.mark.parametrize("port", ["", "0", "65536", "-1", "ottomila", "²"])
def test_a_port_that_is_no_port_is_said_to_be_none(port: str) -> None:
    assert busy_port(port) == f"PORT={port} non è una porta: serve un numero fra 1 e 65535."


def test_make_alone_lists_every_command(clone: Clone) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = re.findall(r"^\.PHONY: (.+)$", makefile, flags=re.MULTILINE)[0].split()
    listed = re.findall(r"^make (\w+)  ", clone.make().stdout, flags=re.MULTILINE)
    assert sorted(listed) == sorted(set(targets) - {"help"})


def test_prerequisites_can_be_read_by_the_python_it_complains_about() -> None:
    source = (ROOT / "weave" / "prerequisites.py").read_text(encoding="utf-8")
    with pytest.raises(SyntaxError):
        ast.parse("match x:\n    case _: pass", feature_version=(3, 6))
    nodes = list(ast.walk(ast.parse(source, feature_version=(3, 6))))
    imports = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    assert imports == ["importlib.util", "socket", "sys"]
    assert not any(isinstance(node, ast.ImportFrom) for node in nodes)


def test_every_direct_dependency_has_its_tried_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[\[<>=]", asked)[0] for group in groups for asked in group}
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    assert pinned == names - {"attenzione"}
