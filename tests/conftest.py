"""Ciò che i test hanno in comune: le forme controllate, il caso ripetibile, le schede, il Fortran.

Le forme scritte nelle firme di `attention` sono controllate a ogni chiamata: jaxtyping le legge
e beartype le verifica. Il gancio va messo prima che il pacchetto venga importato.
"""

import ctypes
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings
from jaxtyping import config, install_import_hook

from weave.house import ROOT
from weave.pact import blocks

install_import_hook(["attention"], "beartype.beartype")

settings.register_profile("casa", max_examples=30, derandomize=True, deadline=None, database=None)
settings.load_profile("casa")

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="qui non c'è una GPU CUDA")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Le prove del sito, che sono le più lunghe, cominciano per prime: le altre vanno accanto."""
    items.sort(key=lambda item: item.path.stem != "test_site")


@pytest.fixture(autouse=True)
def _repeatable() -> None:
    """Ogni test comincia dallo stesso punto della successione casuale."""
    torch.manual_seed(20170612)


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=NO_GPU)])
def device(request: pytest.FixtureRequest) -> str:
    """Il calcolo dà gli stessi numeri su CPU e, dove c'è, su GPU."""
    return request.param


@pytest.fixture
def our_own_errors() -> Iterator[None]:
    """Spegne il controllo delle forme: a rispondere devono essere i nostri messaggi."""
    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture
def compile_fortran(tmp_path: Path) -> Callable[[str], ctypes.CDLL]:
    """Una funzione che compila un testo Fortran e ne carica le routine."""
    if shutil.which("gfortran") is None:
        if "CI" in os.environ:
            pytest.fail("gfortran non c'è, e in CI deve esserci")
        pytest.skip("gfortran non c'è: il Fortran delle pagine resta da compilare")

    def compile_text(text: str) -> ctypes.CDLL:
        source, library = tmp_path / "page.f90", tmp_path / "page.so"
        source.write_text(text, encoding="utf-8")
        command = ["gfortran", "-std=f2018", "-O2", "-shared", "-fPIC", source, "-o", library]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return ctypes.CDLL(str(library))

    return compile_text


@pytest.fixture
def with_nvidia_header(tmp_path: Path) -> Callable[[str], list[int]]:
    """Una funzione che esegue un testo C con `cuda_occupancy.h` e legge i numeri che stampa."""
    triton = importlib.util.find_spec("triton")
    if triton is None or triton.origin is None or shutil.which("gcc") is None:
        reason = "mancano cuda_occupancy.h (è nel pacchetto triton) o gcc"
        (pytest.fail if "CI" in os.environ else pytest.skip)(reason)
    folder = Path(triton.origin).parent / "backends" / "nvidia" / "include"

    def execute(body: str) -> list[int]:
        source, program = tmp_path / "limits.c", tmp_path / "limits"
        heads = "#include <stdio.h>\n#include <cuda_occupancy.h>\n"
        source.write_text(f"{heads}int main(void) {{ {body} }}\n", encoding="utf-8")
        subprocess.run(["gcc", "-w", f"-I{folder}", source, "-o", program], check=True)
        done = subprocess.run([program], check=True, capture_output=True, text=True)
        return [int(word) for word in done.stdout.split()]

    return execute


@pytest.fixture
def nvidia_occupancy(
    with_nvidia_header: Callable[[str], list[int]],
) -> Callable[[Any, list[tuple[int, int, int]]], list[tuple[int, int]]]:
    """Blocchi presenti e risorse che li limitano, per terne (thread, registri, byte condivisi)."""

    def ask(gpu: Any, cases: list[tuple[int, int, int]]) -> list[tuple[int, int]]:
        major, minor = gpu.capability.split(".")
        shared = gpu.shared_kib * 1024
        body = f"""
            struct cudaOccDeviceProp p = {{{major}, {minor}, 1024, {32 * gpu.warps}, 65536, 65536,
                                          32, 49152, {shared + 1024}, 1, {shared}, 1024}};
            struct cudaOccDeviceState s = {{0}};
            s.carveoutConfig = SHAREDMEM_CARVEOUT_MAX_SHARED;"""
        for threads, registers, size in cases:
            body += f"""{{
                struct cudaOccFuncAttributes f = {{1024, {registers}, 0}};
                struct cudaOccResult r;
                f.shmemLimitConfig = FUNC_SHMEM_LIMIT_OPTIN;
                f.maxDynamicSharedSizeBytes = {size};
                f.numBlockBarriers = 1;
                if (cudaOccMaxActiveBlocksPerMultiprocessor(&r, &p, &f, &s, {threads}, {size}))
                    return 1;
                printf("%d %u ", r.activeBlocksPerMultiprocessor, r.limitingFactors);
            }}"""
        numbers = with_nvidia_header(body)
        return list(zip(numbers[::2], numbers[1::2], strict=True))

    return ask


@pytest.fixture
def fortran(compile_fortran: Callable[[str], ctypes.CDLL]) -> Callable[[str], ctypes.CDLL]:
    """Una funzione che compila insieme i riquadri Fortran di una pagina."""

    def compile_page(stem: str) -> ctypes.CDLL:
        page = (ROOT / "paper_it" / f"{stem}.md").read_text(encoding="utf-8")
        found = [block.content for block in blocks(page) if block.language == "fortran"]
        assert found, f"paper_it/{stem}.md non ha riquadri Fortran"
        return compile_fortran("\n".join(found))

    return compile_page


@pytest.fixture
def call_fortran() -> Callable[..., None]:
    """Chiama una routine: gli interi per valore, i tensori in doppia precisione per indirizzo."""

    def call(routine: Callable[..., None], *arguments: int | torch.Tensor) -> None:
        passed: list[ctypes.c_int | ctypes.c_void_p] = []
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                assert argument.dtype == torch.float64
                assert argument.is_contiguous()
                passed.append(ctypes.c_void_p(argument.data_ptr()))
            else:
                passed.append(ctypes.c_int(argument))
        routine(*passed)

    return call
