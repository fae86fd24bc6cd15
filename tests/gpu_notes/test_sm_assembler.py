"""L'assemblatore dell'SM in miniatura: che cosa capisce, che cosa rifiuta, e come lo dice."""

import math
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpu_notes.sm_assembler import (
    ARITHMETIC,
    COMPARISON,
    HMMA,
    OPCODES,
    PT,
    RZ,
    Instruction,
    ProgramError,
    assemble,
    fused_multiply_add,
    pack_bf16,
    to_bf16,
)
from weave.house import ROOT

PROGRAMS = sorted((ROOT / "gpu_notes" / "programs").glob("*.sm"))


def one(code: str, before: str = "") -> Instruction:
    """L'istruzione che sta da sola in un programma."""
    return assemble(f"{before}\n{code}\nEXIT").instructions[0]


def row(*values: float) -> np.ndarray:
    return np.array(values, np.float32)


def nearest(exact: Fraction) -> float:
    """L'FP32 più vicino a una frazione: fra i due che la stringono, o il pari se è a metà."""
    guess = np.float32(float(exact))
    around = [
        np.nextafter(guess, np.float32(-np.inf)),
        guess,
        np.nextafter(guess, np.float32(np.inf)),
    ]
    return min(
        (float(x) for x in around),
        key=lambda x: (abs(Fraction(x) - exact), int(np.float32(x).view(np.uint32)) % 2),
    )


small = st.floats(-1e6, 1e6, width=32).filter(lambda x: x == 0 or abs(x) > 1e-6)


@given(small, small, small)
def test_ffma_rounds_once(a: float, b: float, c: float) -> None:
    """FFMA arrotonda una volta sola: il risultato è l'FP32 più vicino al valore esatto."""
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    assert fused_multiply_add(row(a), row(b), row(c))[0] == nearest(exact)


def test_rounding_twice_would_be_wrong() -> None:
    """Con due arrotondamenti, uno a FP64 e uno a FP32, l'ultimo bit a volte è un altro."""
    a, b = row(2**-12 * (1 + 2**-15)), row(2**-12 * (1 - 2**-15))
    c = row(1 + 2**-23)
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    once = fused_multiply_add(a, b, c)
    assert once[0] == nearest(Fraction(float(a[0])) * Fraction(float(b[0])) + Fraction(float(c[0])))
    assert once[0] == c[0]
    assert twice[0] > once[0]


def test_ffma_sends_exact_ties_to_the_even_neighbour() -> None:
    """Una somma esattamente a metà fra due FP32 va al pari: una volta in giù, una in su."""
    half = row(2**-12)
    assert fused_multiply_add(half, half, row(1.0))[0] == 1.0
    assert fused_multiply_add(half, half, row(1 + 2**-23))[0] == 1 + 2**-22
    assert fused_multiply_add(half, -half, row(-1.0))[0] == -1.0


def test_ffma_rounds_once_near_every_kind_of_tie() -> None:
    """Somme vicinissime alla metà fra due FP32: sopra, sotto, con resti più piccoli di un FP64."""
    generator = np.random.default_rng(11)
    for _ in range(3000):
        step = int(generator.integers(1, 1500)) * 2**-23
        exponent, sign = int(generator.integers(-20, 20)), int(generator.choice([-1, 1]))
        a, b = row((1 + step) * 2.0**exponent), row(sign * (1 - step) * 2.0**-24)
        c = row(float(generator.choice([-1, 1])) * generator.uniform(1, 2) * 2.0**exponent)
        exact = Fraction(float(a[0])) * Fraction(float(b[0])) + Fraction(float(c[0]))
        assert fused_multiply_add(a, b, c)[0] == nearest(exact)


def test_ffma_is_not_a_product_and_a_sum() -> None:
    """Prodotto e somma separati arrotondano due volte: qui perdono tutto il risultato."""
    a = row(1 + 2**-12)
    product = (a * a).astype(np.float32)
    assert (product - product)[0] == 0
    assert fused_multiply_add(a, a, -product)[0] == 2**-24


def test_ffma_keeps_infinities_and_nan() -> None:
    """Infiniti e NaN passano, e il superamento del massimo dà infinito."""
    with np.errstate(all="ignore"):
        found = fused_multiply_add(row(np.inf, np.inf, 3e38), row(2, 0, 10), row(1, 1, 0))
    assert found[0] == np.inf
    assert np.isnan(found[1])
    assert found[2] == np.inf


def test_bf16_rounding_is_torch_s() -> None:
    """I BF16 sono quelli di PyTorch, infiniti compresi, e un NaN resta un NaN."""
    torch.manual_seed(3)
    x = torch.cat([torch.randn(500), torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 3.4e38])])
    ties = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8)])
    x = torch.cat([x, ties])
    ours = to_bf16(x.numpy()).astype(np.uint16)
    assert (ours == x.bfloat16().view(torch.uint16).numpy()).all()
    nan = to_bf16(np.array([0x7F800001, 0xFFFFFFFF, 0x7F810000], np.uint32).view(np.float32))
    assert nan.tolist() == [0x7FC0, 0xFFFF, 0x7FC1]


def test_packing_puts_the_second_number_low() -> None:
    """F2FP mette il primo operando nella metà alta e il secondo in quella bassa."""
    assert pack_bf16(row(1.0), row(-2.0))[0] == 0x3F80C000


@pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.stem)
def test_every_program_assembles(path) -> None:
    """I programmi dell'edizione si assemblano tutti."""
    assert assemble(path.read_text(encoding="utf-8")).instructions


def test_labels_may_come_later() -> None:
    """Due passate: un salto può andare a un'etichetta che non si è ancora letta."""
    program = assemble("BRA fine\nNOP\nfine: EXIT\nEXIT")
    assert program.instructions[0].operands[0].value == 2
    assert program.labels == {"fine": 2}


def test_a_label_may_stand_alone() -> None:
    """Un'etichetta su una riga sua vale per l'istruzione che segue."""
    assert assemble("NOP\nqui:\n; niente\nEXIT\nBRA qui").labels == {"qui": 1}


def test_arrays_follow_each_other_on_256_bytes() -> None:
    """Ogni array comincia a un multiplo di 256 byte, dopo il precedente."""
    program = assemble(".global A 3x5\n.global B 65\n.global C 1\n.shared D 7\n.shared E 2\nEXIT")
    assert [program.symbol(name) for name in "ABCDE"] == [0, 256, 768, 0, 256]
    assert program.memory["A"].shape == (3, 5)
    assert program.memory["A"].words == 15


def test_names_are_numbers() -> None:
    """Una costante e un array si usano come interi; negli indirizzi si sommano."""
    before = ".const PASSO 12\n.global A 8\n.global B 8"
    assert one("IADD R1, R2, PASSO", before).operands[2].value == 12
    assert one("MOV R1, B", before).operands[1].value == 256
    assert one("LDG R1, [R2+B+8]", before).operands[1].offset == 264
    assert one("LDG R1, [B]", before).operands[1].value == RZ
    assert one("LDG R1, [R9]", before).operands[1] == ("m", 9, False, 0)


def test_numbers_are_bits() -> None:
    """Un intero è in complemento a due, un reale è il suo FP32."""
    assert one("IADD R1, R2, -1").operands[2].value == 0xFFFFFFFF
    assert one("IADD R1, R2, 0x10").operands[2].value == 16
    assert one("FADD R1, R2, 1.0").operands[2].value == 0x3F800000
    assert one("FADD R1, R2, -2.5e-1").operands[2].value == 0xBE800000
    assert one("MOV R1, -inf").operands[1].value == 0xFF800000
    assert one("MOV R1, 3").operands[1].value == 3
    assert one("MOV R1, 4294967295").operands[1].value == 0xFFFFFFFF
    assert one("MOV R1, -2147483648").operands[1].value == 0x80000000


def test_an_assembled_instruction_does_not_change() -> None:
    """Un'istruzione è un valore; un operando senza altro non ha segno né scostamento."""
    with pytest.raises(FrozenInstanceError):
        one("NOP").line = 7
    assert one("S2R R3, LANE").operands[0] == ("D", 3, False, 0)


def test_a_minus_belongs_to_a_source() -> None:
    """Davanti a una sorgente il meno cambia segno; il registro resta quello."""
    first, second = one("FADD R1, R2, -R3").operands[1:]
    assert (first.value, first.negative) == (2, False)
    assert (second.value, second.negative) == (3, True)


def test_guards() -> None:
    """La guardia è un predicato, diritto o negato; senza guardia vale il predicato vero."""
    assert (one("NOP").guard, one("NOP").guard_negated) == (PT, False)
    assert (one("@P3 NOP").guard, one("@P3 NOP").guard_negated) == (3, False)
    assert (one("@!P6 NOP").guard, one("@!P6 NOP").guard_negated) == (6, True)


def test_wide_accesses_touch_several_registers() -> None:
    """.64 e .128 leggono o scrivono due e quattro registri di seguito."""
    assert one("LDG R8, [R2]").writes == (8,)
    assert one("LDG.64 R8, [R2]").writes == (8, 9)
    assert one("LDS.128 R8, [R2]").writes == (8, 9, 10, 11)
    assert one("STG.128 [R2], R8").reads == (2, 8, 9, 10, 11)
    assert one("STS [R2], RZ").reads == (2,)
    assert one("ATOM.EXCH R1, [R2], R3").reads == (2, 3)
    assert one("ATOM.EXCH R1, [R2], R3").writes == (1,)


def test_a_matrix_instruction_uses_fourteen_registers() -> None:
    """HMMA legge 4 + 2 + 4 registri e ne scrive 4."""
    instruction = one(f"{HMMA} R24, R12, R16, R20")
    assert instruction.reads == (12, 13, 14, 15, 16, 17, 20, 21, 22, 23)
    assert instruction.writes == (24, 25, 26, 27)
    assert instruction.unit == "TENSOR"


def test_special_numbers_are_those_of_the_machine_code() -> None:
    """RZ è il registro 255 e PT il predicato 7, come nel SASS; R254 e P6 sono gli ultimi veri."""
    assert (RZ, PT) == (255, 7)
    assert one("IADD R254, R253, R0").writes == (254,)
    assert one("ISETP.LT P6, R0, R1").operands[0].value == 6
    names = ("LANE", "WARP", "WARPS", "TID")
    assert [one(f"S2R R0, {name}").operands[1].value for name in names] == [0, 1, 2, 3]


def test_zero_register_is_neither_read_nor_written() -> None:
    """RZ non fa aspettare nessuno: non compare fra i registri usati."""
    instruction = one("IADD RZ, RZ, R4")
    assert (instruction.reads, instruction.writes) == ((4,), ())


def test_comments_and_blank_lines_are_nothing() -> None:
    """Dal punto e virgola in poi la riga non conta, ma il numero di riga resta quello del file."""
    program = assemble("; testa\n\n  NOP ; qui\nEXIT")
    assert [instruction.line for instruction in program.instructions] == [3, 4]
    assert program.instructions[0].text == "NOP"


UNITS = {
    "INT": "MOV IADD IMAD SHL SHR AND XOR ISETP S2R",
    "FP32": "FADD FMUL FFMA FMAX FMIN FSETP F2FP",
    "SFU": "MUFU I2F F2I",
    "TENSOR": "HMMA",
    "MEM": "LDG LDS STG STS ATOM SHFL",
    "CTRL": "BRA BSSY BSYNC BAR EXIT NOP",
}
"""Chi esegue che cosa: il nome fino al primo punto."""


@pytest.mark.parametrize("name", sorted(OPCODES))
def test_every_opcode_has_a_known_unit_and_letters(name: str) -> None:
    """Ogni istruzione va alla sua unità, e vuole operandi di tipo noto."""
    assert name.partition(".")[0] in UNITS[OPCODES[name].unit].split()
    assert set(OPCODES[name].signature) <= set("DPrifxmlbs")


ORACLES = {
    "MOV": lambda a: a,
    "IADD": lambda a, b: a + b,
    "IMAD": lambda a, b, c: a * b + c,
    "SHL": lambda a, b: a * 2**b,
    "SHR": lambda a, b: a // 2**b,
    "AND": lambda a, b: a & b,
    "XOR": lambda a, b: a ^ b,
    "FADD": lambda a, b: a + b,
    "FMUL": lambda a, b: a * b,
    "FFMA": lambda a, b, c: a * b + c,
    "FMAX": max,
    "FMIN": min,
    "I2F": float,
    "F2I": int,
    "MUFU.EX2": lambda a: 2.0**a,
    "MUFU.LG2": math.log2,
    "MUFU.RCP": lambda a: 1 / a,
    "MUFU.RSQ": lambda a: a**-0.5,
    "MUFU.SIN": math.sin,
    "MUFU.COS": math.cos,
}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", sorted(ORACLES))
def test_arithmetic_is_what_its_name_says(name: str, sign: int) -> None:
    """Ogni istruzione aritmetica fa ciò che dice il nome, su numeri scelti a mano, anche negativi.

    Dei reali il primo resta positivo: è l'argomento dei logaritmi e delle radici.
    """
    whole = "f" not in ARITHMETIC[name].signature
    values = [sign * 11, 3, sign * 5] if whole else [2.75, sign * 3.5, sign * 1.25]
    count = len(ARITHMETIC[name].signature) - 1
    sources = [np.array([value], np.int32 if whole else np.float32) for value in values[:count]]
    found = ARITHMETIC[name].function(*sources)
    assert found[0] == pytest.approx(ORACLES[name](*values[:count]), rel=1e-6)
    assert found.dtype.itemsize == 4


def test_all_arithmetic_has_an_oracle() -> None:
    """Nessuna istruzione aritmetica è senza prova."""
    assert set(ORACLES) | {"F2FP.BF16"} == set(ARITHMETIC)


def test_comparisons_are_six() -> None:
    """I sei confronti, su minore, uguale, maggiore."""
    a, b = row(1, 2, 3), row(2, 2, 2)
    truth = {"LT": "100", "LE": "110", "GT": "001", "GE": "011", "EQ": "010", "NE": "101"}
    found = {name: "".join(str(int(x)) for x in test(a, b)) for name, test in COMPARISON.items()}
    assert found == truth


def test_conversion_to_integer_truncates() -> None:
    """F2I toglie i decimali verso lo zero, come INT del Fortran."""
    assert ARITHMETIC["F2I"].function(row(2.9, -2.9)).tolist() == [2, -2]


@pytest.mark.parametrize(
    ("text", "line", "cause"),
    [
        ("NOP", 1, "non finisce con EXIT"),
        ("", 0, "non finisce con EXIT"),
        ("NOP\n@P0 EXIT", 2, "non finisce con EXIT"),
        ("EXIT\nBOH R1", 2, "«BOH» sconosciuta"),
        ("@P7 EXIT", 1, "guardia «@P7»"),
        ("FADD R1, R2\nEXIT", 1, "vuole 3 operandi, qui sono 2"),
        ("EXIT R1", 1, "vuole 0 operandi, qui sono 1"),
        ("FADD R1, R2, 1\nEXIT", 1, "«1»: ci vuole un registro o un numero con il punto"),
        ("IADD R1, R2, 1.5\nEXIT", 1, "«1.5»: ci vuole un registro, un intero o un nome"),
        ("IADD R1, R2, 4294967296\nEXIT", 1, "«4294967296»"),
        ("IADD R1, R2, 4294967297\nEXIT", 1, "«4294967297»"),
        ("IADD R1, R2, -2147483649\nEXIT", 1, "«-2147483649»"),
        ("MOV R256, 1\nEXIT", 1, "«R256»: ci vuole un registro"),
        ("MOV R255, 1\nEXIT", 1, "«R255»: ci vuole un registro"),
        ("ISETP.LT P7, R1, R2\nEXIT", 1, "«P7»: ci vuole un predicato"),
        ("LDG R1, R2\nEXIT", 1, "«R2»: ci vuole un indirizzo"),
        ("LDG R1, [R2+BOH]\nEXIT", 1, "«[R2+BOH]»: ci vuole un indirizzo"),
        ("LDG.128 R252, [R2]\nEXIT", 1, "oltre il registro R254"),
        ("LDG.128 R2, [R4]\nEXIT", 1, "R2 tiene 4 parole, atteso un multiplo di 4"),
        ("STS.64 [R4], R3\nEXIT", 1, "R3 tiene 2 parole, atteso un multiplo di 2"),
        (f"{HMMA} R8, R4, R3, R8\nEXIT", 1, "R3 tiene 2 parole, atteso un multiplo di 2"),
        ("BRA altrove\nEXIT", 1, "«altrove»: ci vuole un'etichetta"),
        ("BSYNC B16\nEXIT", 1, "«B16»: ci vuole una barriera"),
        ("S2R R0, ORA\nEXIT", 1, "«ORA»: ci vuole un registro speciale"),
        ("SHFL.BFLY R1, 2, 1\nEXIT", 1, "«2»: ci vuole un registro"),
        ("qui: NOP\nqui: EXIT", 2, "l'etichetta «qui» c'è già"),
        ("EXIT\nBRA fine\nfine:", 2, "non è davanti a un'istruzione"),
        ("BSSY B0, qui\nqui: BSYNC B1\nEXIT", 1, "non c'è BSYNC B0"),
        ("BSSY B0, qui\nqui: EXIT", 1, "non c'è BSYNC B0"),
        ("BSSY B2, qui\nqui: BSYNC B1\nEXIT", 1, "non c'è BSYNC B2"),
        (".const A uno\nEXIT", 1, "direttiva «.const A uno» non capita"),
        (".global A 0\nEXIT", 1, "direttiva «.global A 0» non capita"),
        (".global A 2x\nEXIT", 1, "non capita"),
        (".shared A 2 1.0\nEXIT", 1, "non capita"),
        (".output A\nEXIT", 1, "non capita"),
        (".global A 2 caso\nEXIT", 1, "valore iniziale «caso»"),
        (".global A 2\n.const A 1\nEXIT", 2, "«A» è già preso"),
        (".global R1 2\nEXIT", 1, "«R1» è già preso"),
        (".global 1x 2\nEXIT", 1, "«1x» è già preso"),
        (".global A 5000000\nEXIT", 1, "la memoria è di 4194304 parole"),
        (".shared A 58113\nEXIT", 1, "la memoria è di 58112 parole"),
    ],
)
def test_errors_name_the_line_and_the_cause(text: str, line: int, cause: str) -> None:
    """Un programma sbagliato riceve la riga e la causa."""
    with pytest.raises(ProgramError) as error:
        assemble(text)
    assert str(error.value).startswith(f"riga {line}: ")
    assert cause in str(error.value)


def test_a_branch_without_guard_may_end_the_program() -> None:
    """L'ultima istruzione può essere un salto: il flusso non esce mai dal fondo."""
    assert len(assemble("qui: NOP\nBRA qui").instructions) == 2


def test_largest_shared_array_fits() -> None:
    """Un blocco può avere 227 KiB di memoria condivisa, e non una parola di più."""
    assert assemble(".shared A 58112\nEXIT").shared["A"].words * 4 == 227 * 1024


def test_initial_values() -> None:
    """Un array può partire da un numero, da 0, 1, 2, …, o da una gaussiana con un seme."""
    program = assemble(
        ".global A 2 -1.5\n.global B 2 iota\n.global C 2 normal 7\n.global D 1\nEXIT"
    )
    assert program.initial == {"A": "-1.5", "B": "iota", "C": "normal 7", "D": "0"}
