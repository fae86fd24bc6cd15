"""Il codice macchina di una GPU, scritto e letto senza una GPU.

Il compilatore (NVRTC, o Triton) e il disassemblatore (`nvdisasm`) sono programmi per CPU, e
arrivano con pip. I listing che ne escono stanno in `listings/`, accanto ai sorgenti; il comando
`python -m gpu_notes.sass_listing` li rifà tutti.
"""

import argparse
import ctypes
import importlib
import importlib.machinery
import importlib.metadata
import importlib.util
import re
import subprocess
import sys
import tempfile
import types
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from attention.s0_abstract import require
from gpu_notes.sm_map import WARP

LISTINGS = Path(__file__).parent / "listings"
"""La cartella dei sorgenti (`.cu`, `.triton`) e dei listing (`.sass`)."""

# Leggere un listing.


class Instruction(NamedTuple):
    """Un'istruzione SASS, cioè 128 bit.

    Attributi:
        address: la distanza in byte dall'inizio del kernel.
        predicate: la guardia, per esempio `@!P0`; vuota se l'istruzione si esegue sempre.
        opcode: il nome, senza ciò che segue il punto.
        modifiers: le parole dopo il nome, separate da punti.
        operands: gli operandi, la destinazione per prima.
        word: i 128 bit; zero se la riga non li porta.
    """

    address: int
    predicate: str
    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[str, ...]
    word: int


LINE = re.compile(
    r"/\*(?P<address>[0-9a-f]{4,})\*/\s+(?:(?P<predicate>@!?U?P\w)\s+)?"
    r"(?P<name>[A-Z][A-Z0-9_.a-z]*)\s*(?P<operands>[^;]*?)\s*;(?:\s*/\*(?P<word>[0-9a-f]{32})\*/)?"
)
"""Una riga: l'indirizzo, la guardia, il nome con i modificatori, gli operandi, i 128 bit."""


def parse_instruction(line: str) -> Instruction | None:
    """L'istruzione di una riga, o `None` se la riga è un'etichetta o un commento."""
    found = LINE.fullmatch(line.strip())
    if found is None:
        return None
    opcode, *modifiers = found["name"].split(".")
    operands = tuple(found["operands"].split(", ")) if found["operands"] else ()
    word = int(found["word"] or "0", 16)
    address, predicate = int(found["address"], 16), found["predicate"] or ""
    return Instruction(address, predicate, opcode, tuple(modifiers), operands, word)


def parse(listing: str) -> dict[str, list[Instruction]]:
    """Le istruzioni di ogni kernel di un listing: un kernel comincia da `nome:` a inizio riga."""
    kernels: dict[str, list[Instruction]] = {}
    for line in listing.splitlines():
        instruction = parse_instruction(line)
        if label := re.fullmatch(r"([A-Za-z_]\w*):", line):
            kernels[label[1]] = []
        elif instruction:
            require(bool(kernels), "listing", line.strip(), "prima il nome di un kernel")
            kernels[next(reversed(kernels))].append(instruction)
    require(bool(kernels), "listing", "nessun kernel", "almeno una riga `nome:`")
    return kernels


class Control(NamedTuple):
    """I 21 bit di un'istruzione che il listing non scrive: dicono quando può partire.

    Attributi:
        stall: quanti cicli lo scheduler aspetta prima dell'istruzione seguente dello stesso warp.
        yields: il bit che riguarda il passaggio a un altro warp, com'è nella parola.
        sets: la barriera (0–5) che scatta quando il risultato c'è; 7, nessuna.
        frees: la barriera che scatta quando gli operandi sono stati letti; 7, nessuna.
        waits: le barriere da aspettare prima di partire, un bit ciascuna.
        reuse: gli operandi da tenere a portata di mano per l'istruzione dopo, un bit ciascuno.
    """

    stall: int
    yields: int
    sets: int
    frees: int
    waits: int
    reuse: int


CONTROL = ((105, 4), (109, 1), (110, 3), (113, 3), (116, 6), (122, 4))
"""Da quale bit comincia ciascun campo di `Control`, e quanto è largo."""


def control(word: int) -> Control:
    """I bit di controllo di una parola di 128 bit, da Volta in poi."""
    require(0 < word < 1 << 128, "word", hex(word), "una parola di 128 bit, non nulla")
    return Control(*(word >> first & (1 << width) - 1 for first, width in CONTROL))


def annotate(listing: str, kernel: str, notes: Mapping[str, str]) -> str:
    """Un pezzo di kernel con i commenti accanto, dalla prima nota all'ultima.

    Argomenti:
        listing: il testo del listing.
        kernel: il nome del kernel.
        notes: per «indirizzo nome», per esempio `"0170 FFMA"`, il commento.

    Solleva:
        ValueError: se a quell'indirizzo c'è un'altra istruzione: il commento non varrebbe più.
    """
    wanted = {int(key.split()[0], 16): (key.split()[1], note) for key, note in notes.items()}
    kernels = parse(listing)
    require(kernel in kernels, "kernel", kernel, f"uno fra {', '.join(kernels)}")
    shown = [it for it in kernels[kernel] if min(wanted) <= it.address <= max(wanted)]
    found = {it.address: it.opcode for it in shown}
    for address, (opcode, _) in wanted.items():
        there = found.get(address, "nessuna istruzione")
        require(opcode == there, "notes", f"{address:04x} {opcode}", f"{address:04x} {there}")
    comments = [wanted.get(it.address, ("", ""))[1] for it in shown]
    lines = (
        f"{it.address:04x} {text_of(it):42s} {note}"
        for it, note in zip(shown, comments, strict=True)
    )
    return "\n".join(line.rstrip() for line in lines)


def text_of(it: Instruction) -> str:
    """L'istruzione come la scrive il disassemblatore, con la guardia in una colonna sua."""
    name = ".".join((it.opcode, *it.modifiers))
    return f"{it.predicate:5s} {name} {', '.join(it.operands)}".rstrip()


def census(instructions: Iterable[Instruction], *, full: bool = False) -> Counter[str]:
    """Quante volte compare ogni istruzione; con `full`, il nome porta i suoi modificatori."""
    if full:
        return Counter(".".join((it.opcode, *it.modifiers)) for it in instructions)
    return Counter(it.opcode for it in instructions)


TENSOR_CORE = re.compile(r"\b(?:[HIDQOB]MMA|[HIQB]GMMA|UTC\w*MMA)\b")
"""I nomi delle istruzioni dei Tensor Core. `HFMA2.MMA` non è fra loro: è una FMA su due FP16."""


def uses_tensor_cores(listing: str) -> bool:
    """Se in un listing c'è almeno un'istruzione dei Tensor Core."""
    return any(TENSOR_CORE.fullmatch(it.opcode) for its in parse(listing).values() for it in its)


# Scriverlo: dal sorgente al codice macchina.


class MissingToolError(RuntimeError):
    """Manca uno strumento: dice quale, e come installarlo."""


def package(name: str) -> Path:
    """La cartella di un pacchetto installato con pip, senza importarlo."""
    found = importlib.util.find_spec(name)
    if found is None or not found.submodule_search_locations:
        raise MissingToolError(
            f"manca il pacchetto «{name}»: "
            "pip install triton nvidia-cuda-nvrtc nvidia-cuda-runtime (solo Linux)"
        )
    return Path(next(iter(found.submodule_search_locations)))


def nvidia_file(pattern: str) -> Path:
    """Un file, o una cartella, fra i pacchetti pip di NVIDIA; se sono più d'uno, l'ultimo."""
    found = sorted(package("nvidia").glob(pattern))
    if not found:
        raise MissingToolError(
            f"in {package('nvidia')} non c'è «{pattern}»: "
            "pip install nvidia-cuda-nvrtc nvidia-cuda-runtime"
        )
    return found[-1]


def nvrtc() -> ctypes.CDLL:
    """Il compilatore, caricato dopo la libreria che cerca per nome e che pip gli mette accanto."""
    ctypes.CDLL(str(nvidia_file("cu*/lib/libnvrtc-builtins.so.*")))
    return ctypes.CDLL(str(nvidia_file("cu*/lib/libnvrtc.so.*")))


def run_tool(name: str, *arguments: str | Path) -> str:
    """Esegue `nvdisasm` o `cuobjdump`, che stanno dentro il pacchetto di Triton."""
    program = package("triton") / "backends" / "nvidia" / "bin" / name
    if not program.exists():
        raise MissingToolError(f"non c'è {program}: pip install triton")
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    require(done.returncode == 0, name, done.stderr.strip(), "un file che sappia leggere")
    return done.stdout


class CompileError(ValueError):
    """Il compilatore ha rifiutato il sorgente: il messaggio è il suo."""


def take(library: ctypes.CDLL, program: ctypes.c_void_p, what: str) -> bytes:
    """Ciò che NVRTC ha da dare di un programma: prima quanto è lungo, poi i byte."""
    size = ctypes.c_size_t()
    getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size))
    data = ctypes.create_string_buffer(size.value)
    getattr(library, f"nvrtcGet{what}")(program, data)
    return data.raw


def cuda_to_cubin(source: str, arch: str, options: Sequence[str] = ()) -> bytes:
    """Compila CUDA C per una architettura e dà il codice macchina, un file ELF.

    Argomenti:
        source: il testo del sorgente.
        arch: per esempio `"sm_90"`, o `"sm_90a"` per ciò che vale solo su quella.
        options: le altre opzioni di NVRTC.

    Solleva:
        CompileError: se il sorgente è sbagliato; il messaggio è quello del compilatore.
        MissingToolError: se NVRTC non è installato.
    """
    require(re.fullmatch(r"sm_\d+[af]?", arch) is not None, "arch", arch, "per esempio sm_90")
    library, program = nvrtc(), ctypes.c_void_p()
    library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"k.cu", 0, None, None)
    given = (f"--gpu-architecture={arch}", f"-I{nvidia_file('cu*/include')}", *options)
    strings = (ctypes.c_char_p * len(given))(*(it.encode() for it in given))
    failed = library.nvrtcCompileProgram(program, len(given), strings)
    result = take(library, program, "ProgramLog" if failed else "CUBIN")
    library.nvrtcDestroyProgram(ctypes.byref(program))
    if failed:
        log = result.rstrip(bytes(1)).decode().rstrip()
        raise CompileError(f"source: NVRTC non lo compila per {arch}:\n{log}")
    return result


def compile_cuda(source: str, arch: str, options: Sequence[str] = ()) -> str:
    """Il listing di un sorgente CUDA C: `cuda_to_cubin` e poi `disassemble`."""
    return disassemble(cuda_to_cubin(source, arch, options))


def disassemble(cubin: bytes) -> str:
    """Il listing di un file di codice macchina: una riga per istruzione, con i suoi 128 bit."""
    require(cubin[:4] == b"\x7fELF", "cubin", repr(cubin[:4]), "un file ELF")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = run_tool("nvdisasm", "--print-code", "--print-instruction-encoding", file.name)
        usage = run_tool("cuobjdump", "--dump-resource-usage", file.name)
    found = re.findall(r"Function (\w+):\s+(REG:\d+ STACK:\d+)", usage)
    return tidy(text, dict(found))


def tidy(text: str, usage: Mapping[str, str]) -> str:
    """Da ciò che scrive `nvdisasm` toglie direttive, spazi e le NOP in fondo a ogni kernel.

    Argomenti:
        text: due righe per istruzione, la seconda con gli altri 64 bit della parola.
        usage: registri e byte di pila di ogni kernel, da scrivere sotto il suo nome.
    """
    text = re.sub(r" */\* 0x(\w{16}) \*/\n\s*/\* 0x(\w{16}) \*/", r" /*\2\1*/", text)
    lines = []
    for line in text.splitlines():
        if start := re.match(r"\.text\.(\w+):", line):
            lines += ["", f"{start[1]}:", f"// {usage[start[1]]}"]
        elif re.match(r"(\.L_x_\d+|\$\S+):", line) or parse_instruction(line):
            lines.append(re.sub(r"\s+", " ", line.strip()))
    tidied = "\n".join(lines).lstrip("\n") + "\n"
    return re.sub(r"(/\*\w+\*/ NOP; \S+\n)+(\.L_x_\d+:\n(?:\n|\Z))", r"\2", tidied)


TILE = (64, 16)
"""La piastrella di `tile.triton`: 64 righe e 64 colonne di c, 16 prodotti per ciascun elemento."""

WARPS = 4
"""Quanti warp calcolano insieme una piastrella."""


def triton_to_cubin(path: Path, arch: str, numbers: str) -> bytes:
    """Compila il kernel `tile` di un file Triton per una architettura, senza avere la scheda.

    Argomenti:
        path: il file.
        arch: per esempio `"sm_90"`.
        numbers: il tipo di a e di b come lo scrive Triton, per esempio `"bf16"`.

    Solleva:
        MissingToolError: se Triton non è installato.
    """
    package("triton")
    compiler = importlib.import_module("triton.compiler")
    target = importlib.import_module("triton.backends.compiler").GPUTarget
    loader = importlib.machinery.SourceFileLoader(path.stem, str(path))
    module = types.ModuleType(path.stem)
    module.__file__ = str(path)
    loader.exec_module(module)
    signature = {"a": f"*{numbers}", "b": f"*{numbers}", "c": "*fp32"}
    signature |= dict.fromkeys(("SIDE", "DEEP"), "constexpr")
    aligned = {(i,): [["tt.divisibility", 16]] for i in range(3)}
    source = compiler.ASTSource(module.tile, signature, {(3,): TILE[0], (4,): TILE[1]}, aligned)
    options = {"num_warps": WARPS, "enable_fp_fusion": True}
    capability = int(arch.removeprefix("sm_"))
    return compiler.compile(source, target("cuda", capability, WARP), options).asm["cubin"]


# La raccolta.


class Recipe(NamedTuple):
    """Un listing della raccolta: da che cosa è fatto.

    Attributi:
        source: il file, in `listings/`.
        arch: per quale architettura.
        variant: `r32` limita i registri a 32 per thread; `bf16` e `fp32` sono i tipi di Triton.
    """

    source: str
    arch: str
    variant: str = ""

    @property
    def name(self) -> str:
        """Il nome del listing."""
        stem, _, _ = self.source.partition(".")
        return ".".join(filter(None, (stem, self.arch, self.variant, "sass")))


MAIN = ("sm_80", "sm_90", "sm_120")
"""A100; H100 e H200; RTX 5090."""

RECIPES = (
    *(Recipe("matmul_float.cu", arch) for arch in MAIN),
    *(Recipe("matmul_half.cu", arch) for arch in MAIN),
    *(Recipe("wmma.cu", arch) for arch in MAIN),
    *(Recipe("softmax.cu", arch) for arch in MAIN),
    *(Recipe("branch.cu", arch) for arch in MAIN),
    *(Recipe("spill.cu", arch, "r32") for arch in MAIN),
    Recipe("spill.cu", "sm_90"),
    Recipe("math.cu", "sm_90"),
    *(Recipe("mma_formats.cu", arch) for arch in ("sm_80", "sm_89", "sm_90", "sm_100", "sm_120")),
    Recipe("wgmma.cu", "sm_90a"),
    Recipe("tcgen05.cu", "sm_100a"),
    *(Recipe("tile.triton", arch, it) for arch in ("sm_80", "sm_90") for it in ("bf16", "fp32")),
)
"""Tutti i listing di `listings/`."""


def chain(recipe: Recipe) -> str:
    """Chi ha fatto un listing: compilatore, disassemblatore, versioni."""
    release = re.search(r"release ([\d.]+)", run_tool("nvdisasm", "--version"))
    assert release is not None
    if recipe.source.endswith(".cu"):
        major, minor = ctypes.c_int(), ctypes.c_int()
        library = ctypes.CDLL(str(nvidia_file("cu*/lib/libnvrtc.so.*")))
        library.nvrtcVersion(ctypes.byref(major), ctypes.byref(minor))
        made = f"NVRTC {major.value}.{minor.value}"
    else:
        made = f"Triton {importlib.metadata.version('triton')}, col suo ptxas"
    return f"{made}; nvdisasm {release[1]}"


def build(recipe: Recipe) -> bytes:
    """Il codice macchina di un listing, prima di disassemblarlo."""
    path = LISTINGS / recipe.source
    if path.suffix != ".cu":
        return triton_to_cubin(path, recipe.arch, recipe.variant)
    limit = re.fullmatch(r"r(\d+)", recipe.variant)
    options = [f"--maxrregcount={limit[1]}"] if limit else []
    return cuda_to_cubin(path.read_text(encoding="utf-8"), recipe.arch, options)


def make(recipe: Recipe) -> str:
    """Il listing, con in cima chi, come e per quale architettura."""
    what = " ".join((recipe.source, recipe.arch, recipe.variant)).strip()
    head = f"// {what}\n// python -m gpu_notes.sass_listing\n// {chain(recipe)}\n"
    return f"{head}\n{disassemble(build(recipe))}"


def read(name: str) -> str:
    """Un listing della raccolta, dal nome senza `.sass`; il file non serve rifarlo per leggerlo."""
    known = sorted(recipe.name.removesuffix(".sass") for recipe in RECIPES)
    require(name in known, "name", name, f"uno fra {', '.join(known)}")
    return (LISTINGS / f"{name}.sass").read_text(encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> int:
    """Rifà la raccolta dei listing, oppure stampa quello di un sorgente dato."""
    parser = argparse.ArgumentParser(
        prog="python -m gpu_notes.sass_listing", description=main.__doc__
    )
    parser.add_argument("source", nargs="?", type=Path, help="un file CUDA C; senza, tutti")
    parser.add_argument("arch", nargs="?", default="sm_90", help="per esempio sm_80 (sm_90)")
    parser.add_argument("--folder", type=Path, default=LISTINGS, help="dove scrivere la raccolta")
    given = parser.parse_args(arguments)
    try:
        if given.source:
            print(compile_cuda(given.source.read_text(encoding="utf-8"), given.arch), end="")
            return 0
        for recipe in RECIPES:
            (given.folder / recipe.name).write_text(make(recipe), encoding="utf-8")
            print(recipe.name)
    except (OSError, ValueError, MissingToolError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


STATUS = main() if __name__ == "__main__" else 0
"""Lo stato d'uscita: il comando parte solo con `python -m`, non quando si importa il modulo."""
