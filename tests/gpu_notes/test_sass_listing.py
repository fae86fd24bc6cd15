"""I listing conservati dicono ciò che la pagina ne dice, e gli strumenti li rifanno uguali."""

import math
import os
import re
import struct
from collections import Counter

import pytest

from gpu_notes import sass_listing
from gpu_notes.sass_listing import (
    LISTINGS,
    MAIN,
    RECIPES,
    TENSOR_CORE,
    TILE,
    WARPS,
    CompileError,
    Control,
    Instruction,
    MissingToolError,
    Recipe,
    annotate,
    build,
    census,
    compile_cuda,
    control,
    cuda_to_cubin,
    disassemble,
    main,
    make,
    nvidia_file,
    package,
    parse,
    parse_instruction,
    read,
    run_tool,
    text_of,
    tidy,
    triton_to_cubin,
    uses_tensor_cores,
)
from gpu_notes.tensor_core import mma_count

NAMES = [recipe.name.removesuffix(".sass") for recipe in RECIPES]
"""I listing della raccolta."""

FFMA = "/*0c00*/ FFMA R17, R4, R6, R17 ; /*004fd000000000110000000604117223*/"
"""La riga decodificata a matita sulla pagina."""


@pytest.fixture
def tools(monkeypatch, tmp_path):
    """Compilatori e disassemblatore; dove mancano il test si salta, in CI fallisce."""
    try:
        run_tool("nvdisasm", "--version")
        nvidia_file("cu*/lib/libnvrtc.so.*")
    except MissingToolError as error:
        if "CI" in os.environ:
            pytest.fail(f"{error}; in CI deve esserci")
        pytest.skip(str(error))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


def code(name, kernel=None):
    """Le istruzioni di un kernel di un listing; l'unico, se non se ne dice il nome."""
    kernels = parse(read(name))
    if kernel is None:
        (kernel,) = kernels
    return kernels[kernel]


def everything():
    """Tutte le istruzioni della raccolta, kernel per kernel."""
    for name in NAMES:
        for kernel, instructions in parse(read(name)).items():
            yield f"{name}:{kernel}", instructions


# La raccolta è quella che gli strumenti producono.


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_the_compiler_gives_the_same_words(recipe, tools):
    """Compilare di nuovo dà le stesse istruzioni: le parole di ogni kernel, in fila."""
    cubin = build(recipe)
    for instructions in parse(read(recipe.name.removesuffix(".sass"))).values():
        assert b"".join(it.word.to_bytes(16, "little") for it in instructions) in cubin


REBUILT = RECIPES if "CI" in os.environ else (Recipe("branch.cu", "sm_90"), *RECIPES[-4::3])
"""Quali listing rifare per intero: il disassemblatore impiega mezzo secondo per ciascuno."""


@pytest.mark.parametrize("recipe", REBUILT, ids=lambda recipe: recipe.name)
def test_listings_can_be_rebuilt_byte_by_byte(recipe, tools):
    """Compilare di nuovo dà lo stesso listing, testa compresa."""
    assert make(recipe) == (LISTINGS / recipe.name).read_text(encoding="utf-8")


def test_the_folder_holds_the_collection_and_nothing_else():
    """Ogni listing ha la sua ricetta, ogni ricetta un nome diverso e il suo sorgente; 300 KB."""
    files = {path.name: path for path in LISTINGS.glob("*.sass")}
    assert set(files) == {recipe.name for recipe in RECIPES}
    assert len(RECIPES) == len(files)
    sources = {path.name for path in LISTINGS.iterdir() if path.suffix in (".cu", ".triton")}
    assert sources == {recipe.source for recipe in RECIPES}
    assert sum(path.stat().st_size for path in files.values()) < 300_000


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_every_listing_says_who_made_it(recipe):
    """La testa dice sorgente, architettura, variante, comando e versioni."""
    first, command, made, _ = read(recipe.name.removesuffix(".sass")).split("\n", 3)
    assert first.split() == ["//", *filter(None, (recipe.source, recipe.arch, recipe.variant))]
    assert command == "// python -m gpu_notes.sass_listing"
    compiler = r"Triton 3\.\S+, col suo ptxas" if "triton" in recipe.source else r"NVRTC 13\.\d+"
    assert re.fullmatch(rf"// {compiler}; nvdisasm 13\.\d+", made)


def test_three_architectures_are_covered():
    """I programmi principali sono compilati per A100, H100 e RTX 5090."""
    assert MAIN == ("sm_80", "sm_90", "sm_120")
    for stem in ("matmul_float", "matmul_half", "softmax", "branch"):
        assert {f"{stem}.{arch}" for arch in MAIN} <= set(NAMES)


# Com'è fatta un'istruzione.


def test_an_instruction_is_read_field_by_field():
    """Indirizzo, guardia, nome, modificatori, operandi, parola."""
    word = "0000aa000c1e19000000000608047981"
    found = parse_instruction(f"  /*0b90*/ @!P0 LDG.E.64 R4, desc[UR4][R8.64+0x4] ; /*{word}*/")
    operands = ("R4", "desc[UR4][R8.64+0x4]")
    assert found == Instruction(0xB90, "@!P0", "LDG", ("E", "64"), operands, int(word, 16))
    assert text_of(found) == "@!P0  LDG.E.64 R4, desc[UR4][R8.64+0x4]"
    bare = parse_instruction("/*0010*/ EXIT ;")
    assert bare == Instruction(16, "", "EXIT", (), (), 0)
    assert text_of(bare) == "      EXIT"
    assert parse_instruction("/*01e0*/ BRA `(.L_x_7);").operands == ("`(.L_x_7)",)
    for line in (".L_x_4:", "matmul:", "// REG:10 STACK:0", ""):
        assert parse_instruction(line) is None


def test_no_line_of_the_collection_is_lost():
    """Ogni riga con un punto e virgola è un'istruzione letta, e il testo si ricompone."""
    for name in NAMES:
        lines = [line for line in read(name).splitlines() if line.startswith("/*")]
        found = [it for kernel in parse(read(name)).values() for it in kernel]
        assert len(lines) == len(found) > 10
        for line, it in zip(lines, found, strict=True):
            middle = line.partition("*/")[2].partition(";")[0]
            assert text_of(it).split() == middle.split()


def test_every_instruction_is_16_bytes_and_none_is_missing():
    """Indirizzi a passo 16 dal primo all'ultimo; ogni riga con i suoi 128 bit."""
    for where, instructions in everything():
        assert [it.address for it in instructions] == [16 * i for i in range(len(instructions))]
        assert all(it.word for it in instructions), where


def test_the_guard_is_in_bits_12_to_15():
    """Il predicato scritto è quello codificato: 0–6, 7 per PT, più 8 se negato."""
    seen = set()
    for where, instructions in everything():
        for it in instructions:
            number = it.predicate[-1:].replace("T", "7") or "7"
            expected = int(number) + 8 * ("!" in it.predicate)
            assert it.word >> 12 & 15 == expected, (where, it)
            seen.add(expected)
    assert {0, 1, 7, 8, 9} <= seen


def test_ffma_by_hand():
    """Il caso a matita: codice, guardia, registri, attese."""
    it = parse_instruction(FFMA)
    assert FFMA in read("matmul_float.sm_90")
    fields = [it.word >> first & mask for first, mask in ((0, 0xFFF), (12, 15), (16, 255))]
    assert fields == [0x223, 7, 17]
    assert [it.word >> first & 255 for first in (24, 32, 64)] == [4, 6, 17]
    assert it.operands == ("R17", "R4", "R6", "R17")
    assert control(it.word) == Control(stall=8, yields=0, sets=7, frees=7, waits=0b100, reuse=0)


def test_control_fields_do_not_overlap():
    """Un bit per volta: ciascun campo prende i suoi, e in tutto sono 21."""
    widths = (4, 1, 3, 3, 6, 4)
    bit = 105
    for field, width in enumerate(widths):
        for place in range(width):
            expected = [0] * 6
            expected[field] = 1 << place
            assert list(control(1 << bit)) == expected
            bit += 1
    assert bit == 126
    assert list(control(1 << 104 | 1 << 126)) == [0] * 6


def test_reuse_bits_agree_with_the_text():
    """Dove il testo dice `.reuse` i bit non sono zero, e altrove lo sono."""
    seen = Counter()
    for where, instructions in everything():
        for it in instructions:
            written = any(".reuse" in operand for operand in it.operands)
            assert written == (control(it.word).reuse != 0), (where, it)
            seen[written] += 1
    assert seen[True] > 100


def test_who_reads_a_loaded_register_waits_for_its_barrier():
    """In un tratto senza salti, chi usa il risultato di una LDG aspetta la barriera di quella."""
    checked = 0
    for where, instructions in everything():
        for i, load in enumerate(instructions):
            if load.opcode != "LDG":
                continue
            bit = 1 << control(load.word).sets
            assert bit < 1 << 6
            for it in instructions[i + 1 :]:
                waits = control(it.word).waits
                if it.opcode in ("BRA", "EXIT", "CALL", "BSYNC") or waits & bit:
                    break
                touched = " ".join(it.operands)
                assert not re.search(rf"\b{load.operands[0]}\b", touched), (where, it)
            checked += bool(waits & bit)
    assert checked > 200


# Chi usa i Tensor Core.


@pytest.mark.parametrize("arch", MAIN)
def test_scalar_loops_never_become_matrix_instructions(arch):
    """A9: ciclo in FP32, in FP16 con accumulo FP32, in FP16 a coppie: mai una `HMMA`."""
    for name in (f"matmul_float.{arch}", f"matmul_half.{arch}", f"softmax.{arch}"):
        assert not uses_tensor_cores(read(name))
    assert census(code(f"matmul_float.{arch}"))["FFMA"] >= 15
    half = census(code(f"matmul_half.{arch}", "matmul_half"), full=True)
    assert (half["HADD2.F32"], half["FFMA"]) == (2, 1)
    pairs = [it for it in code(f"matmul_half.{arch}", "matmul_half2") if it.opcode == "HFMA2"]
    assert [it for it in pairs if "H0_H0" in it.operands[1]]


@pytest.mark.parametrize(
    ("arch", "pieces"),
    [("sm_80", [16, 8, 4, 1]), ("sm_90", [16, 8, 4, 1]), ("sm_120", [8, 4, 3])],
)
def test_unrolled_loop_is_16_8_4_1(arch, pieces):
    """Le FFMA stanno nei pezzi dello srotolamento; su sm_120 gli ultimi due hanno un predicato."""
    blocks = re.split(r"\.L_x_\d+:|BRA", read(f"matmul_float.{arch}"))
    counts = [len(re.findall(r"\bFFMA\b", block)) for block in blocks]
    assert [count for count in counts if count] == pieces
    assert census(code(f"matmul_float.{arch}"))["FFMA"] == sum(pieces)


def test_hfma2_mma_is_not_a_tensor_core_instruction():
    """La trappola: nel ciclo scalare c'è, e scrive uno zero in un registro."""
    found = [it for it in code("matmul_half.sm_90", "matmul_half") if it.modifiers == ("MMA",)]
    assert {it.opcode for it in found} == {"HFMA2"}
    assert found[0].operands == ("R11", "-RZ", "RZ", "0", "0")
    line = "k:\n/*0000*/ HFMA2.MMA R28, -RZ, RZ, 0, 0 ;"
    assert not uses_tensor_cores(line)
    assert uses_tensor_cores(line.replace("HFMA2.MMA", "HMMA.16816.F32"))


def test_the_integer_4_is_written_as_a_half():
    """`HFMA2.MMA` con due FP16 immediati: i loro bit sono l'intero 4."""
    wanted = ("R8", "-RZ", "RZ", "0", "2.384185791015625e-07")
    (it,) = (it for it in code("matmul_float.sm_80") if it.operands == wanted)
    assert it.opcode == "HFMA2"
    assert struct.pack("<e", float(it.operands[-1])) == (4).to_bytes(2, "little")


def test_names_of_matrix_instructions():
    """Da Volta a Blackwell; nomi simili che non lo sono restano fuori."""
    yes = "HMMA IMMA DMMA QMMA OMMA BMMA HGMMA QGMMA IGMMA BGMMA UTCHMMA UTCQMMA UTCIMMA UTCOMMA"
    no = "HFMA2 MMA FFMA IMAD DMUL XHMMA HMMAX UTCBAR WARPGROUP"
    assert all(TENSOR_CORE.fullmatch(name) for name in yes.split())
    assert not any(TENSOR_CORE.fullmatch(name) for name in no.split())


@pytest.mark.parametrize("arch", ["sm_80", "sm_89", "sm_90", "sm_100", "sm_120"])
def test_one_mma_is_one_hmma(arch):
    """FP16, BF16 e TF32: una istruzione PTX, una istruzione di macchina, con la sua forma."""
    names = {"mma_f16": "16816.F32", "mma_bf16": "16816.F32.BF16", "mma_tf32": "1688.F32.TF32"}
    for kernel, modifiers in names.items():
        found = [it for it in code(f"mma_formats.{arch}", kernel) if it.opcode == "HMMA"]
        assert [".".join(it.modifiers) for it in found] == [modifiers]
    assert uses_tensor_cores(read(f"mma_formats.{arch}"))


@pytest.mark.parametrize("arch", MAIN)
def test_one_wmma_is_two_hmma(arch):
    """A7: 16×16×16 è la forma WMMA; le istruzioni sono due, 16×8×16, con la stessa A."""
    first, second = (it for it in code(f"wmma.{arch}") if TENSOR_CORE.match(it.opcode))
    for it in (first, second):
        assert (it.opcode, *it.modifiers) == ("HMMA", "16816", "F32")
    assert first.operands[1].removesuffix(".reuse") == second.operands[1]
    assert first.operands[2] != second.operands[2]


def test_fp8_mma_is_native_on_89_and_120_and_emulated_on_90_and_100():
    """E4M3: una QMMA, oppure dodici conversioni e due HMMA; su sm_80 il formato non c'è."""
    assert "mma_e4m3" not in parse(read("mma_formats.sm_80"))
    for arch in ("sm_89", "sm_120"):
        counts = census(code(f"mma_formats.{arch}", "mma_e4m3"))
        assert (counts["QMMA"], counts["F2FP"], counts["HMMA"]) == (1, 0, 0)
    for arch in ("sm_90", "sm_100"):
        counts = census(code(f"mma_formats.{arch}", "mma_e4m3"))
        assert (counts["QMMA"], counts["F2FP"], counts["HMMA"]) == (0, 12, 2)


def test_hopper_and_blackwell_have_instructions_for_more_than_a_warp():
    """`wgmma` è una HGMMA 64×8×16; `tcgen05.mma` è una UTCHMMA con il risultato in TMEM."""
    (wide,) = (it for it in code("wgmma.sm_90a") if TENSOR_CORE.match(it.opcode))
    assert (wide.opcode, *wide.modifiers) == ("HGMMA", "64x8x16", "F32", "BF16")
    (single,) = (it for it in code("tcgen05.sm_100a") if TENSOR_CORE.match(it.opcode))
    assert single.opcode == "UTCHMMA"
    assert any(operand.startswith("tmem") for operand in single.operands)


@pytest.mark.parametrize("numbers", ["bf16", "fp32"])
def test_tl_dot_uses_tensor_cores_and_tf32_for_float32(numbers):
    """`tl.dot` in FP32 è TF32; su sm_80 le mma sono quelle della formula, un quarto per warp."""
    found = census(code(f"tile.sm_80.{numbers}"), full=True)
    name = {"bf16": "HMMA.16816.F32.BF16", "fp32": "HMMA.1688.F32.TF32"}[numbers]
    halves = {"bf16": 1, "fp32": 2}[numbers]
    assert (TILE, WARPS) == ((64, 16), 4)
    assert found[name] * WARPS == halves * mma_count(TILE[0], TILE[0], TILE[1]) == halves * 32
    assert found["FFMA"] == 0
    wide = census(code(f"tile.sm_90.{numbers}"), full=True)
    shape = {"bf16": "64x64x16.F32.BF16", "fp32": "64x64x8.F32.TF32"}[numbers]
    assert wide[f"HGMMA.{shape}"] == halves


# Che cosa si vede negli altri programmi.


@pytest.mark.parametrize("arch", MAIN)
def test_softmax_has_one_exponential_and_ten_exchanges(arch):
    """Cinque scambi per il massimo, cinque per la somma, un `MUFU.EX2`."""
    counts = census(code(f"softmax.{arch}"), full=True)
    assert (counts["MUFU.EX2"], counts["SHFL.BFLY"], counts["FMNMX"]) == (1, 10, 5)


def test_the_instructions_of_expf_compute_the_exponential():
    """Le otto istruzioni, rifatte in Python con le costanti del listing, danno e alla x."""
    by_address = {it.address: it for it in code("softmax.sm_90")}
    bits = [int(by_address[at].operands[3], 16) for at in (0xF0, 0x1A0)]
    scale, span = struct.unpack("<2f", struct.pack("<2I", *bits))
    half, magic = float(by_address[0x1B0].operands[3]), float(by_address[0x1C0].operands[3])
    back = float(by_address[0x1D0].operands[2])
    log2_e, rest = (float(by_address[at].operands[2]) for at in (0x1E0, 0x1F0))
    for x in (-80.0, -3.25, -1e-3, 0.0, 0.5, 7.0, 60.0):
        shifted = math.floor(min(1.0, max(0.0, x * scale + half)) * span + magic)
        whole = shifted + back
        (mantissa,) = struct.unpack("<I", struct.pack("<f", shifted))
        (power,) = struct.unpack("<f", struct.pack("<I", mantissa << 23 & 0xFFFFFFFF))
        fraction = x * log2_e - whole + x * rest
        assert 0 <= fraction <= 1
        assert power * 2**fraction == pytest.approx(math.exp(x), rel=1e-6)


def test_a_predicate_reaches_its_branch_after_13_cycles():
    """Gli stall fra la ISETP che scrive P0 e la BRA che lo legge: 13, sparsi o in una volta."""
    loop = [it for it in code("matmul_float.sm_90") if 0xBD0 <= it.address < 0xC10]
    assert (loop[0].opcode, loop[0].operands[0]) == ("ISETP", "P0")
    assert sum(control(it.word).stall for it in loop) == 13
    alone = code("branch.sm_90")[0xA0 // 16]
    assert (alone.opcode, control(alone.word).stall) == ("ISETP", 13)


@pytest.mark.parametrize("arch", MAIN)
def test_a_call_keeps_its_return_address_in_a_register(arch):
    """La divisione difficile è una subroutine: prima della CALL, l'indirizzo di chi la segue."""
    instructions = code(f"softmax.{arch}")
    (call,) = (i for i, it in enumerate(instructions) if it.opcode == "CALL")
    back = instructions[call + 1].address
    register, address = instructions[call - 1].operands[:2]
    assert instructions[call - 1].opcode == "MOV"
    assert int(address, 16) == back
    assert any(it.opcode == "RET" for it in instructions[call:])
    assert register.startswith("R")


@pytest.mark.parametrize("arch", MAIN)
def test_divergent_branches_meet_where_the_code_says(arch):
    """A1: due BSSY, due BSYNC, sugli stessi registri; nel ciclo uniforme nessuna."""
    found = [(it.opcode, it.operands[0]) for it in code(f"branch.{arch}") if it.opcode[:2] == "BS"]
    assert sorted(found) == [("BSSY", "B0"), ("BSSY", "B1"), ("BSYNC", "B0"), ("BSYNC", "B1")]
    uniform = census(code(f"matmul_float.{arch}"))
    assert uniform["BSSY"] == uniform["BSYNC"] == 0


def test_nothing_is_pushed_or_popped():
    """A24: nessuna istruzione di pila; R1 si scrive una volta, o due quando serve spazio."""
    for where, instructions in everything():
        assert not {"PUSH", "POP"} & set(census(instructions))
        written = [it for it in instructions if it.operands[:1] == ("R1",)]
        assert len(written) == (2 if "r32" in where else 1), where


@pytest.mark.parametrize("arch", MAIN)
def test_spills_come_from_the_register_limit(arch):
    """A24: con 32 registri STL e LDL, senza limite nessuna; il lavoro è lo stesso."""
    tight, free = read(f"spill.{arch}.r32"), read("spill.sm_90")
    counts = census(parse(tight)["spill"])
    assert min(counts["STL"], counts["LDL"]) > 10
    registers, stack = re.search(r"// REG:(\d+) STACK:(\d+)", tight).groups()
    assert int(registers) <= 32
    assert int(stack) > 0
    loose = census(parse(free)["spill"])
    assert (loose["STL"], loose["LDL"]) == (0, 0)
    assert loose["FFMA"] == counts["FFMA"] == 24
    assert "STACK:0" in free
    assert int(re.search(r"REG:(\d+)", free)[1]) > 32


def test_what_mathematical_functions_become():
    """A11: quali funzioni passano dalla MUFU, e quali no."""
    expected = {
        "expf": {"EX2"}, "fast_expf": {"EX2"}, "logf": set(), "fast_logf": {"LG2"},
        "sinf": set(), "fast_sinf": {"SIN"}, "sqrtf": {"RSQ"}, "rsqrtf": {"RSQ"},
        "tanhf": {"EX2", "RCP"},
    }  # fmt: skip
    kernels = parse(read("math.sm_90"))
    for name, functions in expected.items():
        used = {it.modifiers[0] for it in kernels[f"k_{name}"] if it.opcode == "MUFU"}
        assert used == functions, name
    assert len(kernels) == len(expected)
    assert len(kernels["k_sinf"]) > 100 > 10 * len(kernels["k_fast_sinf"])


# Contare, commentare, riordinare.

SMALL = """\
one:
// REG:8 STACK:0
/*0000*/ MOV R1, RZ ;
.L_x_0:
/*0010*/ FADD.FTZ R1, R1, 1 ;
/*0020*/ FADD R1, R1, 2 ;

two:
/*0000*/ EXIT ;
"""
"""Due kernel inventati."""


def test_census_counts_names_with_or_without_modifiers():
    """Il conto per nome, e per nome intero."""
    kernels = parse(SMALL)
    assert list(kernels) == ["one", "two"]
    assert census(kernels["one"]) == {"MOV": 1, "FADD": 2}
    assert census(kernels["one"], full=True) == {"MOV": 1, "FADD.FTZ": 1, "FADD": 1}
    assert not uses_tensor_cores(SMALL)
    assert uses_tensor_cores(SMALL.replace("EXIT", "DMMA.8x8x4 R2, R4, R6, R2"))


def test_notes_stand_beside_their_instruction():
    """Dalla prima nota all'ultima, in colonna; le righe in mezzo restano senza."""
    notes = {"0000 MOV": "zero", "0020 FADD": "due"}
    lines = annotate(SMALL, "one", notes).split("\n")
    assert lines[0] == f"0000 {'      MOV R1, RZ':42s} zero"
    assert lines[1] == "0010       FADD.FTZ R1, R1, 1"
    assert lines[2] == f"0020 {'      FADD R1, R1, 2':42s} due"
    assert len(lines) == 3
    assert annotate(SMALL, "one", {"0010 FADD": "x"}).startswith("0010       FADD.FTZ")
    assert "\n" not in annotate(SMALL, "one", {"0010 FADD": "x"})


def test_tidy_drops_directives_and_padding_but_not_the_code():
    """Due righe di nvdisasm ne fanno una; le NOP in fondo vanno via, quelle in mezzo no."""
    low, high, nop = "0" * 15 + "a", "0" * 15 + "b", "0" * 15 + "c"
    raw = f"""\t.section\t.text.k,"ax"
\t.align 128
k:
.text.k:
        /*0000*/                   NOP ;             /* 0x{low} */
                                                     /* 0x{high} */
.L_x_0:
        /*0010*/              @!P0 EXIT ;            /* 0x{low} */
                                                     /* 0x{high} */
$__slow$_path:
        /*0020*/                   NOP;              /* 0x{nop} */
                                                     /* 0x{high} */
        /*0030*/                   NOP;              /* 0x{nop} */
                                                     /* 0x{high} */
.L_x_1:

//---- .text.j ----
.text.j:
        /*0000*/                   EXIT ;            /* 0x{low} */
                                                     /* 0x{high} */
        /*0010*/                   NOP;              /* 0x{nop} */
                                                     /* 0x{high} */
.L_x_2:
"""
    assert tidy(raw, {"k": "REG:8 STACK:0", "j": "REG:9 STACK:4"}) == (
        f"k:\n// REG:8 STACK:0\n/*0000*/ NOP ; /*{high}{low}*/\n.L_x_0:\n"
        f"/*0010*/ @!P0 EXIT ; /*{high}{low}*/\n$__slow$_path:\n.L_x_1:\n\n"
        f"j:\n// REG:9 STACK:4\n/*0000*/ EXIT ; /*{high}{low}*/\n.L_x_2:\n"
    )


# Gli errori.


def test_a_listing_without_kernels_is_refused():
    """Serve il nome di un kernel, e prima delle sue istruzioni."""
    with pytest.raises(ValueError, match=r"^listing: dato: nessun kernel; atteso: almeno una riga"):
        parse("// vuoto\n")
    with pytest.raises(ValueError, match=r"^listing: dato: /\*0000\*/ EXIT ;; atteso: prima il"):
        parse("/*0000*/ EXIT ;\nk:\n")


@pytest.mark.parametrize("word", [0, -1, 1 << 128])
def test_control_wants_a_word_of_128_bits(word):
    """Zero vuol dire che la riga non portava la parola."""
    with pytest.raises(ValueError, match=f"^word: dato: {word:#x}; atteso: una parola di 128 bit"):
        control(word)


def test_control_takes_the_whole_range():
    """La parola più piccola e la più grande."""
    assert control(1) == (0, 0, 0, 0, 0, 0)
    assert control((1 << 128) - 1) == (15, 1, 7, 7, 63, 15)


def test_notes_on_the_wrong_instruction_are_refused():
    """Se il listing cambia, il commento cade invece di mentire."""
    with pytest.raises(ValueError, match=r"^notes: dato: 0010 FMUL; atteso: 0010 FADD$"):
        annotate(SMALL, "one", {"0000 MOV": "", "0010 FMUL": ""})
    with pytest.raises(ValueError, match=r"^notes: dato: 0018 MOV; atteso: 0018 nessuna istruz"):
        annotate(SMALL, "one", {"0018 MOV": ""})
    with pytest.raises(ValueError, match=r"^kernel: dato: three; atteso: uno fra one, two$"):
        annotate(SMALL, "three", {"0000 MOV": ""})


def test_an_unknown_listing_is_refused():
    """Il messaggio elenca quelli che ci sono."""
    with pytest.raises(ValueError, match=r"^name: dato: mio; atteso: uno fra branch\.sm_120, "):
        read("mio")


@pytest.mark.parametrize("arch", ["90", "sm90", "sm_", "sm_90x", "compute_90"])
def test_a_wrong_architecture_is_refused(arch):
    """L'architettura si scrive come la scrive il compilatore."""
    with pytest.raises(ValueError, match=f"^arch: dato: {arch}; atteso: per esempio sm_90$"):
        cuda_to_cubin("", arch)


def test_disassemble_wants_an_elf_file():
    """Un file di codice macchina comincia con quattro byte noti."""
    with pytest.raises(ValueError, match=r"^cubin: dato: b'PTX '; atteso: un file ELF$"):
        disassemble(b"PTX e altro")


def test_wrong_cuda_shows_the_compiler_log(tools):
    """Un sorgente sbagliato: il messaggio del compilatore, con la riga."""
    with pytest.raises(
        CompileError, match=r"(?s)^source: NVRTC non lo compila per sm_80:\nk\.cu\(2"
    ) as it:
        compile_cuda("__global__ void k() {\n sbagliato; }", "sm_80")
    assert str(it.value).endswith('detected in the compilation of "k.cu".')


def test_options_reach_the_compiler(tools):
    """Una macro data come opzione cambia il codice."""
    source = 'extern "C" __global__ void k(int *x) { *x = ANSWER; }'
    first, second = (compile_cuda(source, "sm_90", [f"-DANSWER={n}"]) for n in (42, 43))
    assert first != second
    assert first == compile_cuda(source, "sm_90", ["-DANSWER=42"])


def test_a_broken_cubin_names_the_tool(tools):
    """Ciò che il disassemblatore non legge diventa un errore con il suo messaggio."""
    with pytest.raises(ValueError, match=r"^nvdisasm: dato: nvdisasm fatal"):
        disassemble(b"\x7fELF e poi niente")


def test_a_missing_package_says_how_to_install_it(monkeypatch, tmp_path):
    """Manca il pacchetto, il file nel pacchetto, o il programma: tre messaggi."""
    with pytest.raises(
        MissingToolError, match=r"^manca il pacchetto «non_c_e»: pip install triton"
    ):
        package("non_c_e")
    with pytest.raises(MissingToolError, match=r"^manca il pacchetto «json\.decoder»: pip"):
        package("json.decoder")
    assert package("json").name == "json"
    monkeypatch.setattr(sass_listing, "package", lambda name: tmp_path)
    with pytest.raises(MissingToolError, match=r"non c'è «cu\*/lib/x»: pip install nvidia-cuda"):
        nvidia_file("cu*/lib/x")
    with pytest.raises(MissingToolError, match=r"^non c'è .*nvidia/bin/nvdisasm: pip install tri"):
        run_tool("nvdisasm")


def test_the_newest_of_several_files_is_taken(monkeypatch, tmp_path):
    """Due versioni installate: si usa l'ultima in ordine di nome."""
    for version in ("cu12", "cu13"):
        (tmp_path / version).mkdir()
    monkeypatch.setattr(sass_listing, "package", lambda name: tmp_path)
    assert nvidia_file("cu*").name == "cu13"


def test_triton_is_asked_for_by_name(monkeypatch):
    """Senza Triton, l'errore è il nostro."""
    monkeypatch.setattr(sass_listing.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingToolError, match="manca il pacchetto «triton»"):
        triton_to_cubin(LISTINGS / "tile.triton", "sm_80", "bf16")


# Il comando.


def test_the_command_prints_a_listing(tools, tmp_path, capsys):
    """Con un sorgente, stampa il suo listing; l'architettura è sm_90 se non se ne dice un'altra."""
    source = tmp_path / "mio.cu"
    source.write_text('extern "C" __global__ void mio(float *x) { *x += 1; }')
    assert main([str(source)]) == 0
    printed = capsys.readouterr().out
    assert printed == compile_cuda(source.read_text(), "sm_90")
    assert main([str(source), "sm_80"]) == 0
    assert capsys.readouterr().out == compile_cuda(source.read_text(), "sm_80") != printed


def test_the_command_rebuilds_the_collection(monkeypatch, tmp_path, capsys):
    """Senza argomenti rifà ogni listing, nella cartella detta, e ne stampa il nome."""
    monkeypatch.setattr(sass_listing, "make", lambda recipe: f"// {recipe.arch}\n")
    assert main(["--folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.split() == [recipe.name for recipe in RECIPES]
    assert (tmp_path / "branch.sm_80.sass").read_text() == "// sm_80\n"
    assert main.__defaults__ == (None,)
    assert sass_listing.STATUS == 0


def test_the_command_reports_errors_in_a_line(tmp_path, capsys):
    """Un file che non c'è: un messaggio, e stato d'uscita 1."""
    assert main([str(tmp_path / "niente.cu")]) == 1
    assert "niente.cu" in capsys.readouterr().err


SHORT_ANSWERS = """
extern "C" __global__ void divide(int *x, int a, int b) { x[0] = a / b; }
extern "C" __global__ void store(int *x, int a, int b) { x[0] = a; }
extern "C" __global__ void clock(long long *x) { x[0] = clock64(); }
"""


@pytest.mark.parametrize("arch", ["sm_80", "sm_90", "sm_120"])
def test_integer_division_is_a_score_of_instructions_and_the_clock_is_one(tools, arch):
    """Una divisione intera si espande attorno a MUFU.RCP; il contatore dei cicli è CS2R."""
    kernels = parse(compile_cuda(SHORT_ANSWERS, arch))
    extra = len(kernels["divide"]) - len(kernels["store"])
    assert 20 <= extra <= 30
    assert "MUFU" in census(kernels["divide"])
    assert census(kernels["clock"])["CS2R"] == 1


def test_names_of_the_listings():
    """Sorgente, architettura, variante."""
    assert Recipe("spill.cu", "sm_80", "r32").name == "spill.sm_80.r32.sass"
    assert Recipe("tile.triton", "sm_90").name == "tile.sm_90.sass"
