"""L'assemblatore dell'SM in miniatura: le istruzioni, e le due passate che le traducono.

I nomi sono quelli del codice macchina vero, in forma ridotta: un'istruzione per riga, la guardia
davanti, il registro di arrivo per primo. L'aritmetica di ogni istruzione è qui; il tempo, e che
cosa un warp ne fa, sono nel simulatore.
"""

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from gpu_notes.sm_map import H200

Array = NDArray[Any]
"""Una fila di 32 numeri, uno per corsia: parole di 32 bit, viste come interi o come FP32."""

RZ = 255
"""Il registro che vale sempre zero; ciò che vi si scrive va perso."""

PT = 7
"""Il predicato sempre vero."""

GLOBAL_WORDS = 1 << 22
"""Parole di memoria globale: 16 MiB bastano per giocare."""

SHARED_WORDS = H200.shared_kib * 256
"""Parole di memoria condivisa che un blocco può avere."""


class Opcode(NamedTuple):
    """Un'istruzione: chi la esegue, e che operandi vuole, una lettera ciascuno.

    D registro di arrivo, P predicato di arrivo, r registro, i intero, f reale, x intero o reale,
    m indirizzo, l etichetta, b barriera di riconvergenza, s registro speciale.
    """

    unit: str
    signature: str


class Arithmetic(NamedTuple):
    """Un'istruzione che è una funzione delle sue sorgenti, corsia per corsia."""

    unit: str
    signature: str
    function: Callable[..., Array]


def fused_multiply_add(a: Array, b: Array, c: Array) -> Array:
    """a·b + c in FP32 con un arrotondamento solo, come FFMA.

    In FP64 il prodotto è esatto e la somma no. Se la somma è stata arrotondata, la si sposta sul
    vicino con l'ultimo bit dispari: il secondo arrotondamento, a FP32, dà allora il risultato che
    darebbe la somma esatta.
    """
    product = a.astype(np.float64) * b
    total = product + c
    part = total - product
    error = (product - (total - part)) + (c - part)
    even = total.view(np.int64) % 2 == 0
    nudge = np.isfinite(total) & (error != 0) & even
    return np.where(nudge, np.nextafter(total, np.copysign(np.inf, error)), total).astype(
        np.float32
    )


def to_bf16(x: Array) -> Array:
    """I 16 bit alti di un FP32, arrotondati al pari più vicino; i NaN restano NaN."""
    bits = x.view(np.uint32)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(x), bits >> 16 | 0x40, rounded).astype(np.uint32)


def pack_bf16(high: Array, low: Array) -> Array:
    """Due FP32 in una parola, come BF16: il secondo nella metà bassa."""
    return to_bf16(high) << 16 | to_bf16(low)


ARITHMETIC = {
    "MOV": Arithmetic("INT", "Dx", lambda a: a),
    "IADD": Arithmetic("INT", "Dii", operator.add),
    "IMAD": Arithmetic("INT", "Diii", lambda a, b, c: a * b + c),
    "SHL": Arithmetic("INT", "Dii", np.left_shift),
    "SHR": Arithmetic("INT", "Dii", np.right_shift),
    "AND": Arithmetic("INT", "Dii", np.bitwise_and),
    "XOR": Arithmetic("INT", "Dii", np.bitwise_xor),
    "FADD": Arithmetic("FP32", "Dff", operator.add),
    "FMUL": Arithmetic("FP32", "Dff", operator.mul),
    "FFMA": Arithmetic("FP32", "Dfff", fused_multiply_add),
    "FMAX": Arithmetic("FP32", "Dff", np.fmax),
    "FMIN": Arithmetic("FP32", "Dff", np.fmin),
    "F2FP.BF16": Arithmetic("FP32", "Dff", pack_bf16),
    "I2F": Arithmetic("SFU", "Di", lambda a: a.astype(np.float32)),
    "F2I": Arithmetic("SFU", "Df", lambda a: np.trunc(a).astype(np.int32)),
    "MUFU.EX2": Arithmetic("SFU", "Df", np.exp2),
    "MUFU.LG2": Arithmetic("SFU", "Df", np.log2),
    "MUFU.RCP": Arithmetic("SFU", "Df", np.reciprocal),
    "MUFU.RSQ": Arithmetic("SFU", "Df", lambda a: np.reciprocal(np.sqrt(a))),
    "MUFU.SIN": Arithmetic("SFU", "Df", np.sin),
    "MUFU.COS": Arithmetic("SFU", "Df", np.cos),
}
"""Le istruzioni aritmetiche. La lettera dice anche come leggere le sorgenti: interi o FP32."""

COMPARISON: dict[str, Callable[[Array, Array], Array]] = {
    "LT": np.less,
    "LE": np.less_equal,
    "GT": np.greater,
    "GE": np.greater_equal,
    "EQ": np.equal,
    "NE": np.not_equal,
}
"""I confronti di ISETP e FSETP."""

WIDTHS = {"": 1, ".64": 2, ".128": 4}
"""Parole per corsia di una lettura o di una scrittura, e di quanti registri si tratta."""

HMMA = "HMMA.16816.F32.BF16"
"""D = A·B + C su piastrelle 16 × 16 e 16 × 8 di BF16, con C e D in FP32: 4, 2, 4 e 4 registri."""

OPCODES = {
    **{name: Opcode(it.unit, it.signature) for name, it in ARITHMETIC.items()},
    **{f"ISETP.{relation}": Opcode("INT", "Pii") for relation in COMPARISON},
    **{f"FSETP.{relation}": Opcode("FP32", "Pff") for relation in COMPARISON},
    **{f"LDG{width}": Opcode("MEM", "Dm") for width in WIDTHS},
    **{f"LDS{width}": Opcode("MEM", "Dm") for width in WIDTHS},
    **{f"STG{width}": Opcode("MEM", "mr") for width in WIDTHS},
    **{f"STS{width}": Opcode("MEM", "mr") for width in WIDTHS},
    "ATOM.EXCH": Opcode("MEM", "Dmr"),
    "SHFL.BFLY": Opcode("MEM", "Dri"),
    "SHFL.IDX": Opcode("MEM", "Dri"),
    "S2R": Opcode("INT", "Ds"),
    HMMA: Opcode("TENSOR", "Drrr"),
    "BRA": Opcode("CTRL", "l"),
    "BSSY": Opcode("CTRL", "bl"),
    "BSYNC": Opcode("CTRL", "b"),
    "BAR.SYNC": Opcode("CTRL", ""),
    "EXIT": Opcode("CTRL", ""),
    "NOP": Opcode("CTRL", ""),
}
"""Tutte le istruzioni della macchina."""

SPECIAL = ("LANE", "WARP", "WARPS", "TID")
"""I registri speciali: la corsia, il warp, quanti warp ci sono, e 32 · warp + corsia."""


class ProgramError(ValueError):
    """Un programma sbagliato, o che sbaglia mentre gira: la frase dice la riga e la causa."""

    @classmethod
    def at(cls, line: int, cause: str) -> Self:
        return cls(f"riga {line}: {cause}")


class Operand(NamedTuple):
    """Un operando: la lettera del suo tipo, il valore, il segno meno, lo scostamento."""

    kind: str
    value: int
    negative: bool = False
    offset: int = 0


@dataclass(frozen=True)
class Instruction:
    """Un'istruzione assemblata: la guardia (@P0, @!P0), il nome, gli operandi, la riga."""

    line: int
    text: str
    name: str
    operands: tuple[Operand, ...]
    guard: int
    guard_negated: bool
    reads: tuple[int, ...]
    writes: tuple[int, ...]

    @property
    def unit(self) -> str:
        return OPCODES[self.name].unit

    def letter(self, kind: str) -> Operand:
        """Il primo operando di un certo tipo."""
        return next(operand for operand in self.operands if operand.kind == kind)


class Region(NamedTuple):
    """Un array dichiarato: dove comincia, in byte, e la sua forma."""

    start: int
    shape: tuple[int, ...]

    @property
    def words(self) -> int:
        return math.prod(self.shape)

    @property
    def end(self) -> int:
        """Il primo byte libero dopo l'array, allineato a 256 come fanno gli allocatori veri."""
        return -(-(self.start + 4 * self.words) // 256) * 256


@dataclass
class Program:
    """Un programma assemblato: istruzioni, etichette, array globali e condivisi, uscite."""

    instructions: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    constants: dict[str, int] = field(default_factory=dict)
    memory: dict[str, Region] = field(default_factory=dict)
    initial: dict[str, str] = field(default_factory=dict)
    shared: dict[str, Region] = field(default_factory=dict)
    outputs: list[str] = field(default_factory=list)

    def symbol(self, name: str) -> int | None:
        """Il valore di un nome: una costante, oppure l'indirizzo di un array."""
        regions = {**self.memory, **self.shared}
        return self.constants.get(name, regions[name].start if name in regions else None)


def assemble(text: str) -> Program:
    """Assembla un programma in due passate: prima etichette e direttive, poi le istruzioni.

    Argomenti:
        text: il sorgente, un'istruzione per riga; il punto e virgola apre un commento.

    Restituisce:
        Il programma, pronto per `run`.

    Solleva:
        ProgramError: con la riga e la causa, al primo errore.
    """
    program = Program()
    pending: list[tuple[int, str]] = []
    for line, raw in enumerate(text.splitlines(), start=1):
        code = raw.partition(";")[0].strip()
        label = re.match(r"(\w+):", code)
        if label:
            _add_label(program, line, label[1], len(pending))
            code = code[label.end() :].strip()
        if code.startswith("."):
            _directive(program, line, code.split())
        elif code:
            pending.append((line, code))
    program.instructions = [_instruction(program, line, code) for line, code in pending]
    _check(program, len(text.splitlines()))
    return program


def _add_label(program: Program, line: int, name: str, target: int) -> None:
    if name in program.labels:
        raise ProgramError.at(line, f"l'etichetta «{name}» c'è già")
    program.labels[name] = target


def _directive(program: Program, line: int, words: list[str]) -> None:
    """.const NOME valore · .global NOME forma [iniziale] · .shared NOME forma · .output NOME."""
    match words:
        case [".const", name, value] if (number := _integer(value)) is not None:
            _new_name(program, line, name)
            program.constants[name] = number
        case [".global", name, shape, *initial] if _is_shape(shape):
            _new_name(program, line, name)
            program.memory[name] = _region(line, program.memory, shape, GLOBAL_WORDS)
            program.initial[name] = _initial(line, " ".join(initial) or "0")
        case [".shared", name, shape] if _is_shape(shape):
            _new_name(program, line, name)
            program.shared[name] = _region(line, program.shared, shape, SHARED_WORDS)
        case [".output", name] if name in program.memory:
            program.outputs.append(name)
        case _:
            raise ProgramError.at(
                line,
                f"direttiva «{' '.join(words)}» non capita; attese: .const NOME intero, "
                ".global NOME 10x64 [numero | iota | normal seme], .shared NOME 32, "
                ".output NOME (di un array .global già dichiarato)",
            )


def _new_name(program: Program, line: int, name: str) -> None:
    if re.fullmatch(r"[RPB]\d+|RZ|PT|\d.*", name) or program.symbol(name) is not None:
        raise ProgramError.at(line, f"il nome «{name}» è già preso, o è di un registro")


def _integer(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None


def _is_shape(text: str) -> bool:
    return bool(re.fullmatch(r"[1-9]\d*(x[1-9]\d*)*", text))


def _region(line: int, others: Mapping[str, Region], shape: str, limit: int) -> Region:
    """L'array che segue gli altri; insieme non possono superare la memoria che c'è."""
    start = max((region.end for region in others.values()), default=0)
    region = Region(start, tuple(int(size) for size in shape.split("x")))
    if region.end > 4 * limit:
        raise ProgramError.at(line, f"array di forma {shape}: la memoria è di {limit} parole")
    return region


def _initial(line: int, text: str) -> str:
    """Il valore iniziale di un array: un numero, `iota` (0, 1, 2, …), `normal` con un seme."""
    if not re.fullmatch(r"iota|normal \d+|-?\d+(\.\d*)?", text):
        raise ProgramError.at(line, f"valore iniziale «{text}»: atteso un numero, iota o normal N")
    return text


GUARDED = re.compile(r"(?:@(!?)P([0-6])\s+)?(\S+)\s*(.*)")
"""La guardia, se c'è, il nome dell'istruzione, il resto."""


def _instruction(program: Program, line: int, code: str) -> Instruction:
    match = GUARDED.fullmatch(code)
    assert match
    negated, guard, name, rest = match.groups()
    if name.startswith("@"):
        raise ProgramError.at(line, f"guardia «{name}»: attesa @P0 … @P6, oppure @!P0 … @!P6")
    if name not in OPCODES:
        raise ProgramError.at(
            line, f"istruzione «{name}» sconosciuta; ci sono {', '.join(OPCODES)}"
        )
    texts = [part.strip() for part in rest.split(",")] if rest else []
    kinds = OPCODES[name].signature
    if len(texts) != len(kinds):
        raise ProgramError.at(line, f"{name} vuole {len(kinds)} operandi, qui sono {len(texts)}")
    operands = tuple(
        _operand(program, line, kind, text) for kind, text in zip(kinds, texts, strict=True)
    )
    number = PT if guard is None else int(guard)
    reads, writes = _registers(name, operands)
    for register in (*reads, *writes):
        if register >= RZ:
            raise ProgramError.at(line, f"{name} arriva oltre il registro R254")
    for operand, size in zip(operands, _sizes(name, operands), strict=True):
        if operand.kind in "Dr" and operand.value != RZ and operand.value % size:
            cause = f"{name}: R{operand.value} tiene {size} parole, atteso un multiplo di {size}"
            raise ProgramError.at(line, cause)
    return Instruction(line, code, name, operands, number, bool(negated), reads, writes)


EXPECTED = {
    "D": "un registro (R0 … R254, RZ)",
    "r": "un registro (R0 … R254, RZ)",
    "P": "un predicato (P0 … P6)",
    "i": "un registro, un intero o un nome",
    "f": "un registro o un numero con il punto",
    "x": "un registro, un numero o un nome",
    "m": "un indirizzo, come [R2+16] o [R2+NOME]",
    "l": "un'etichetta del programma",
    "b": "una barriera (B0 … B15)",
    "s": f"un registro speciale ({', '.join(SPECIAL)})",
}
"""Come si dice, in un messaggio, che cosa vuole ogni lettera."""


def _operand(program: Program, line: int, kind: str, text: str) -> Operand:
    """Un operando del tipo atteso, oppure un errore che dice che cosa ci voleva."""
    found: Operand | None
    match kind:
        case "i" | "f" | "x":
            found = _source(program, kind, text)
        case "m":
            found = _address(program, text)
        case _:
            value = _value(program, kind, text)
            found = None if value is None else Operand(kind, value)
    if found is None:
        raise ProgramError.at(line, f"operando «{text}»: ci vuole {EXPECTED[kind]}")
    return found


def _value(program: Program, kind: str, text: str) -> int | None:
    """Il numero di un operando che è soltanto un nome: registro, predicato, etichetta, barriera."""
    match kind:
        case "P":
            return _numbered(r"P([0-6])", text)
        case "b":
            return _numbered(r"B([0-9]|1[0-5])", text)
        case "l":
            return program.labels.get(text)
        case "s":
            return SPECIAL.index(text) if text in SPECIAL else None
    return _register(text)


def _numbered(pattern: str, text: str) -> int | None:
    match = re.fullmatch(pattern, text)
    return int(match[1]) if match else None


def _register(text: str) -> int | None:
    number = RZ if text == "RZ" else _numbered(r"R(\d+)", text)
    return number if text == "RZ" or number in range(RZ) else None


def _source(program: Program, kind: str, text: str) -> Operand | None:
    """Una sorgente: registro, anche con il meno davanti; intero o nome; reale."""
    register = _register(text.removeprefix("-"))
    if register is not None:
        return Operand("r" + kind, register, text.startswith("-"))
    if kind in "ix":
        number = _integer(text) if program.symbol(text) is None else program.symbol(text)
        if number is not None and -(2**31) <= number < 2**32:
            return Operand("#", number % 2**32)
    if kind in "fx" and re.fullmatch(r"-?(\d+\.\d*(e[+-]?\d+)?|inf)", text):
        return Operand("#", int(np.float32(text).view(np.uint32)))
    return None


def _address(program: Program, text: str) -> Operand | None:
    """Un indirizzo fra quadre: un registro e degli scostamenti, numeri o nomi, sommati."""
    match = re.fullmatch(r"\[(.+)\]", text)
    if not match:
        return None
    base, *others = re.split(r"\s*\+\s*", match[1])
    register = _register(base)
    offsets = others if register is not None else [base, *others]
    values = [
        _integer(part) if program.symbol(part) is None else program.symbol(part) for part in offsets
    ]
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    return Operand("m", RZ if register is None else register, offset=sum(known))


def _sizes(name: str, operands: Sequence[Operand]) -> tuple[int, ...]:
    """Quanti registri di seguito occupa ogni operando; i gruppi cominciano a un loro multiplo."""
    if name == HMMA:
        return (4, 4, 2, 4)
    width = WIDTHS[name[3:]] if name[:3] in ("LDG", "LDS", "STG", "STS") else 1
    return tuple(width if operand.kind in "Dr" else 1 for operand in operands)


def _registers(name: str, operands: Sequence[Operand]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """I registri che un'istruzione legge e quelli che scrive, RZ escluso."""
    reads: list[int] = []
    writes: list[int] = []
    for operand, size in zip(operands, _sizes(name, operands), strict=True):
        span = range(operand.value, operand.value + size) if operand.value != RZ else range(0)
        if operand.kind == "D":
            writes += span
        elif operand.kind[0] in "rm":
            reads += span
    return tuple(reads), tuple(writes)


def _check(program: Program, last: int) -> None:
    """Il programma finisce con EXIT o con un salto, e ogni BSSY porta al suo BSYNC."""
    code = program.instructions
    if not code or code[-1].name not in ("EXIT", "BRA") or code[-1].guard != PT:
        raise ProgramError.at(last, "il programma non finisce con EXIT o con un BRA senza guardia")
    for instruction in code:
        if instruction.name in ("BRA", "BSSY") and instruction.letter("l").value >= len(code):
            raise ProgramError.at(instruction.line, "l'etichetta non è davanti a un'istruzione")
        if instruction.name == "BSSY":
            barrier, target = instruction.operands
            there = code[target.value]
            if there.name != "BSYNC" or there.operands[0].value != barrier.value:
                raise ProgramError.at(
                    instruction.line, f"all'etichetta di BSSY non c'è BSYNC B{barrier.value}"
                )
