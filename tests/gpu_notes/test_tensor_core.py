"""Le forme, i frammenti, il conto delle istruzioni, e una prova per ogni foglia dell'albero."""

import ctypes
import itertools
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from gpu_notes import sm_map
from gpu_notes.sass_listing import TENSOR_CORE, parse, read, uses_tensor_cores
from gpu_notes.tensor_core import (
    BITS,
    DEPTH_BITS,
    FRAGMENTS,
    GENERATIONS,
    MMA_SHAPE,
    TREE,
    WGMMA_COLUMNS,
    Question,
    Verdict,
    contributors,
    depth,
    efficient,
    fragment_drawing,
    leaves,
    mma,
    mma_count,
    outline,
    owners,
    scatter,
    tiled_product,
    tiles,
)
from weave.house import ROOT
from weave.pact import blocks


def integers(*shape):
    """Una matrice di interi piccoli: ogni ordine delle somme dà lo stesso risultato."""
    return np.random.default_rng(sum(shape)).integers(-8, 9, shape).astype(np.float32)


def gather(fragments):
    """La matrice D dai frammenti, con le regole scritte per esteso."""
    whole = np.empty((16, 8), np.float32)
    for lane in range(32):
        group, member = divmod(lane, 4)
        whole[group, 2 * member : 2 * member + 2] = fragments[lane, :2]
        whole[group + 8, 2 * member : 2 * member + 2] = fragments[lane, 2:]
    return whole


# Le forme.


def test_depth_times_bits_is_32_bytes():
    """Una riga di A occupa 32 byte in ogni formato: k16, k8, k32, k64, k4."""
    depths = {"FP64": 4, "TF32": 8, "FP16": 16, "BF16": 16, "FP8": 32, "INT8": 32, "FP4": 64}
    assert {number: depth(number) for number in BITS} == depths
    assert all(depth(number) * bits == DEPTH_BITS == 256 for number, bits in BITS.items())
    assert (16, 8, depth("FP16")) == MMA_SHAPE


def test_wgmma_widths_go_from_8_to_256_by_8():
    """m64n8k16, m64n16k16 … m64n256k16."""
    assert list(WGMMA_COLUMNS) == [8 * i for i in range(1, 33)]


HOMES = {"R": "registri", "gdesc": "condivisa", "tmem": "TMEM"}
"""Come il codice macchina scrive i posti di una matrice."""


def test_generations_agree_with_the_map_and_the_listings():
    """Per SM, anni e capacità come nella mappa; la profondità scritta è quella del formato.

    I posti di A e di D sono quelli dei listing; Volta e Turing, che non vi sono, come dichiarati.
    """
    by_capability = {it.capability: it for it in GENERATIONS}
    assert len(by_capability) == len(GENERATIONS) == 7
    for gpu in (sm_map.A100, sm_map.RTX_4090, sm_map.H100, sm_map.B200, sm_map.RTX_5090):
        assert by_capability[gpu.capability].per_sm == sm_map.TENSOR_CORES
        assert by_capability[gpu.capability].year == gpu.year
    assert [it.per_sm for it in GENERATIONS] == [8, 8, 4, 4, 4, 4, 4]
    assert [it.threads for it in GENERATIONS] == [8, 32, 32, 32, 128, 1, 32]
    added = ["FP16", "INT8, INT4, 1 bit", "BF16, TF32, FP64", "FP8", "FP8", "FP6, FP4", "FP6, FP4"]
    assert [it.formats for it in GENERATIONS] == added
    assert [it.year for it in GENERATIONS] == [2017, 2018, 2020, 2022, 2022, 2024, 2025]
    names = ["Volta", "Turing", "Ampere", "Ada", "Hopper", "Blackwell", "Blackwell"]
    assert [it.name for it in GENERATIONS] == names
    assert {it.capability: it.instruction for it in GENERATIONS} == {
        "7.0": "mma.sync m8n8k4",
        "7.5": "mma.sync m16n8k8",
        "8.0": f"mma.sync m16n8k{depth('FP16')}",
        "8.9": f"mma.sync m16n8k{depth('FP8')}",
        "9.0": f"wgmma m64nNk{depth('FP16')}",
        "10.0": "tcgen05.mma",
        "12.0": f"mma.sync m16n8k{depth('FP4')}",
    }
    seen = (("mma_formats.sm_80", 1, 0), ("wgmma.sm_90a", 1, 0), ("tcgen05.sm_100a", 0, 2))
    for capability, (listing, *places) in zip(("8.0", "9.0", "10.0"), seen, strict=True):
        every = itertools.chain(*parse(read(listing)).values())
        it = next(it for it in every if TENSOR_CORE.fullmatch(it.opcode))
        homes = [HOMES[re.match("R|[a-z]+", it.operands[place])[0]] for place in places]
        assert by_capability[capability].operands == " → ".join(dict.fromkeys(homes))
    by_warp = {it.operands for it in GENERATIONS if it.instruction.startswith("mma.sync")}
    assert by_warp == {"registri"}


# I frammenti.


@pytest.mark.parametrize("matrix", ["A", "B", "C"])
def test_fragments_are_bijections(matrix):
    """Ogni casella ha un thread e un posto, ogni thread lo stesso numero di caselle."""
    items, (rows, columns), place = FRAGMENTS[matrix]
    found = owners(matrix)
    assert set(found) == set(itertools.product(range(rows), range(columns)))
    assert set(found.values()) == set(itertools.product(range(32), range(items)))
    assert all(place(*owner) == where for where, owner in found.items())
    assert rows * columns == 32 * items


def test_fragments_are_the_layouts_of_cutlass():
    """La stessa cosa come passi di un indice, per colonne: i Layout (T32, V) di mma_traits_sm80."""
    a = {(t, v): 32 * (t % 4) + t // 4 + 16 * (v % 2) + 8 * (v // 2 % 2) + 128 * (v // 4)
         for t in range(32) for v in range(8)}  # fmt: skip
    b = {(t, v): 16 * (t % 4) + t // 4 + 8 * (v % 2) + 64 * (v // 2)
         for t in range(32) for v in range(4)}  # fmt: skip
    c = {(t, v): 32 * (t % 4) + t // 4 + 16 * (v % 2) + 8 * (v // 2)
         for t in range(32) for v in range(4)}  # fmt: skip
    assert {owner: row + 16 * k for (row, k), owner in owners("A").items()} == a
    assert {owner: column + 8 * k for (k, column), owner in owners("B").items()} == b
    assert {owner: row + 16 * column for (row, column), owner in owners("C").items()} == c


def test_place_by_hand():
    """Il caso a matita: A(9, 4) è del thread 6, posto 2; B(4, 1) ancora del 6; D(9, 1) del 4."""
    assert owners("A")[9, 4] == (6, 2)
    assert owners("B")[4, 1][0] == 6
    assert owners("C")[9, 1] == (4, 3)
    assert mma_count(10, 10, 64) == 8


def test_scatter_gives_every_thread_its_numbers():
    """I numeri di un thread sono quelli delle sue caselle; gli altri non ci sono."""
    values = np.arange(256, dtype=np.float32).reshape(16, 16)
    fragments = scatter("A", values)
    assert fragments.shape == (32, 8)
    assert fragments[5].tolist() == [18, 19, 146, 147, 26, 27, 154, 155]
    assert sorted(fragments.flatten()) == list(range(256))
    assert scatter("B", values[:, :8]).shape == scatter("C", values[:, :8]).shape == (32, 4)


def test_mma_is_the_product_plus_c():
    """Dai frammenti ai frammenti: D = A·B + C, in FP32 con k crescente; C non viene toccata."""
    a, b, c = integers(16, 16), integers(16, 8), integers(8, 16).T.copy()
    held = scatter("C", c)
    before = held.copy()
    assert np.array_equal(gather(mma(scatter("A", a), scatter("B", b), held)), a @ b + c)
    assert np.array_equal(held, before)
    x, y = (np.random.default_rng(7).normal(size=it.shape).astype(np.float32) for it in (a, b))
    in_order = c.copy()
    for k in range(16):
        in_order += np.outer(x[:, k], y[k])
    assert np.array_equal(gather(mma(scatter("A", x), scatter("B", y), held)), in_order)


def test_every_thread_needs_eleven_others_or_seven():
    """Quattro per le sue righe, due gruppi di quattro per le sue colonne; uno, se l'altro è suo."""
    assert contributors(5) == set(range(4, 16))
    assert contributors(0) == set(range(8))
    assert contributors(31) == set(range(24, 32))
    for lane in range(32):
        columns = {2 * (lane % 4), 2 * (lane % 4) + 1}
        expected = {4 * (lane // 4) + i for i in range(4)}
        expected |= {4 * column + i for column in columns for i in range(4)}
        assert contributors(lane) == expected
    assert sorted({len(contributors(lane)) for lane in range(32)}) == [8, 12]


@pytest.mark.parametrize(("matrix", "cells"), [("A", 256), ("B", 128), ("C", 128)])
def test_the_drawing_names_the_thread_of_every_cell(matrix, cells):
    """Una casella per numero, al suo posto; sono in evidenza quelle del thread chiesto."""
    svg = fragment_drawing(matrix, 5)
    boxes = re.findall(
        r'<rect x="(\d+)" y="(\d+)" width="22" height="22".*?fill-opacity="(.*?)"/>', svg
    )
    texts = re.findall(r'<text x="(\d+)" y="(\d+)" text-anchor="middle">(\d+)</text>', svg)
    assert len(boxes) == len(texts) == cells
    for (x, y, opacity), (text_x, text_y, text) in zip(boxes, texts, strict=True):
        column, row = (int(x) - 1) // 22, (int(y) - 1) // 22
        assert (int(x), int(y)) == (22 * column + 1, 22 * row + 1)
        assert (int(text_x), int(text_y)) == (22 * column + 12, 22 * row + 17)
        assert owners(matrix)[row, column][0] == int(text)
        assert opacity == ("0.35" if text == "5" else "0.0")
    rows, columns = FRAGMENTS[matrix].shape
    assert f'viewBox="0 0 {22 * columns + 2} {22 * rows + 2}"' in svg
    assert f"<title>{matrix}, {rows} righe e {columns} colonne" in svg


# Un prodotto intero.


@pytest.mark.parametrize(
    "sides", [(1, 1, 1), (16, 8, 16), (17, 9, 33), (10, 10, 64), (10, 64, 10), (31, 7, 47)]
)
def test_count_is_the_number_of_tiles(sides):
    """Il conto in forma chiusa è il numero delle piastrelle, e queste coprono tutto una volta."""
    m, n, k = sides
    found = list(tiles(*sides))
    assert mma_count(*sides) == len(found) == len(set(found))
    covered = np.zeros(sides, int)
    for row, column, start in found:
        covered[row : row + 16, column : column + 8, start : start + 16] += 1
    assert (covered == 1).all()
    by_loops = sum(1 for _ in range(0, m, 16) for _ in range(0, n, 8) for _ in range(0, k, 16))
    assert mma_count(*sides) == by_loops


def test_tiles_of_the_same_accumulator_follow_each_other():
    """La profondità scorre per ultima: una catena per ogni pezzo del risultato."""
    corners = [(0, 0), (0, 8), (16, 0), (16, 8)]
    assert list(tiles(17, 9, 32)) == [(*corner, start) for corner in corners for start in (0, 16)]


def test_one_layer_of_the_reader_is_55488_instructions():
    """13 824 + 96 + 96 + 4608 + 18 432 + 18 432; dodici strati, 665 856."""
    counts = [
        mma_count(10, 2304, 768),
        12 * mma_count(10, 10, 64),
        12 * mma_count(10, 64, 10),
        mma_count(10, 768, 768),
        mma_count(10, 3072, 768),
        mma_count(10, 768, 3072),
    ]
    assert counts == [13_824, 96, 96, 4_608, 18_432, 18_432]
    assert sum(counts) == 55_488
    assert 12 * sum(counts) == 665_856


@pytest.mark.parametrize("sides", [(17, 9, 33), (10, 5, 7), (16, 8, 16)])
def test_a_whole_product_made_of_mma(sides):
    """Bordi compresi; gli ingressi restano quelli."""
    m, n, k = sides
    a, b = integers(m, k), integers(k, n)
    copies = a.copy(), b.copy()
    result = tiled_product(a, b)
    assert result.shape == (m, n)
    assert np.array_equal(result, a @ b)
    assert np.array_equal(a, copies[0])
    assert np.array_equal(b, copies[1])


def test_fortran_on_the_page(compile_fortran):
    """Il Fortran della pagina fa il prodotto, con tante istruzioni quante la formula dice."""
    page = (ROOT / "gpu_notes" / "tensor_core.md").read_text(encoding="utf-8")
    (text,) = (it.content for it in blocks(page) if it.language == "fortran")
    m, n, k = 48, 24, 32
    a, b = (np.asfortranarray(integers(*shape)) for shape in ((m, k), (k, n)))
    c, issued = np.zeros((m, n), np.float32, order="F"), ctypes.c_int(0)
    pointers = [it.ctypes.data_as(ctypes.c_void_p) for it in (a, b, c)]
    compile_fortran(text).mma_tiles(m, n, k, *pointers, ctypes.byref(issued))
    assert np.array_equal(c, a @ b)
    assert issued.value == mma_count(m, n, k) == 18


def test_alignment_is_the_table_of_cublas():
    """8 e 64 in FP16, 4 e 32 in TF32, 16 e 128 in INT8, 2 e 16 in FP64; 50 257 no, 50 304 sì."""
    table = {"FP16": (8, 64), "TF32": (4, 32), "INT8": (16, 128), "FP64": (2, 16)}
    for number, (usual, a100) in table.items():
        assert [size for size in range(1, 2 * usual + 1) if efficient(size, number)] == [
            usual,
            2 * usual,
        ]
        assert efficient(a100, number, 128)
        assert not efficient(a100 // 2, number, 128)
    assert all(efficient(size, "BF16", 128) for size in (64, 768, 3072, 50_304))
    assert not efficient(50_257, "BF16")
    assert not efficient(10, "BF16")


# Chi decide.


def test_every_leaf_has_its_proof():
    """I listing, dei sorgenti giusti, dicono ciò che dice la foglia; PyTorch ha quelle opzioni."""
    found = dict(leaves(TREE))
    assert len(found) == 8
    shown = {path: {name.partition(".")[0] for name in it.listings} for path, it in found.items()}
    assert {path: stems for path, stems in shown.items() if stems} == {
        "tu → un ciclo su float": {"matmul_float"},
        "tu → un ciclo su FP16": {"matmul_half"},
        "tu → mma, wgmma o tcgen05": {"mma_formats", "wgmma", "tcgen05"},
        "tu → tl.dot, in Triton": {"tile"},
    }
    for path, verdict in found.items():
        proofs = (verdict.listings, verdict.setting, verdict.source)
        assert sum(bool(proof) for proof in proofs) == 1, path
        for name in verdict.listings:
            assert uses_tensor_cores(read(name)) == verdict.uses, (path, name)
        if verdict.setting:
            expression, value = verdict.setting
            assert eval(expression, {"torch": torch}) == value, path


def test_verdicts_of_the_tree():
    """Chi scrive un ciclo no, chi nomina l'istruzione sì; float32 dipende da chi chiama."""
    said = {path: verdict.uses for path, verdict in leaves(TREE)}
    assert said == {
        "tu → un ciclo su float": False,
        "tu → un ciclo su FP16": False,
        "tu → mma, wgmma o tcgen05": True,
        "tu → tl.dot, in Triton": True,
        "una libreria, con float32 → PyTorch, matmul": False,
        "una libreria, con float32 → PyTorch, convoluzione con cuDNN": True,
        "una libreria, con float32 → JAX": True,
        "una libreria, con FP16, BF16 o FP8": True,
    }


def test_outline_is_a_nested_list():
    """Un livello per bivio; dopo ogni verdetto, la sua prova."""
    inner = Question("Come?", {"bene": Verdict(True, "si vede", ("uno", "due"))})
    other = Verdict(False, "si legge", setting=("torch.x", 3))
    tree = Question("Chi?", {"io": inner, "tu": other, "lui": Verdict(True, "lo dice", source="S")})
    assert outline(tree) == (
        " *Chi?*\n"
        "- io → *Come?*\n"
        "    - bene → **sì**: si vede (`uno`, `due`)\n"
        "- tu → **no**: si legge (`torch.x`)\n"
        "- lui → **sì**: lo dice (S)"
    )
    assert [path for path, _ in leaves(tree)] == ["io → bene", "tu", "lui"]


def test_the_two_tf32_interfaces_do_not_mix():
    """Scrivere con la nuova e leggere con la vecchia solleva un errore; al contrario no."""
    program = (
        "import torch; b = torch.backends.cuda.matmul; b.allow_tf32 = True\n"
        "print(b.fp32_precision, torch.get_float32_matmul_precision())\n"
        "b.allow_tf32 = False; b.fp32_precision = 'tf32'\n"
        "try: b.allow_tf32\nexcept RuntimeError: print('errore')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["tf32", "high", "errore"], done.stderr


# Gli errori.


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: depth("FP12"), "number: dato: FP12; atteso: uno fra FP64, TF32, FP16"),
        (lambda: efficient(8, "FP12"), "number: dato: FP12; atteso: uno fra FP64, TF32, FP16"),
        (lambda: owners("E"), "matrix: dato: E; atteso: uno fra A, B, C$"),
        (lambda: scatter("E", integers(16, 8)), "matrix: dato: E; atteso: uno fra A, B, C$"),
        (lambda: scatter("A", integers(16, 8)), r"values: dato: \[16, 8\]; atteso: \[16, 16\]$"),
        (lambda: contributors(32), "lane: dato: 32; atteso: fra 0 e 31$"),
        (lambda: contributors(-1), "lane: dato: -1; atteso: fra 0 e 31$"),
        (lambda: fragment_drawing("A", 32), "lane: dato: 32; atteso: fra 0 e 31$"),
        (lambda: fragment_drawing("A", -1), "lane: dato: -1; atteso: fra 0 e 31$"),
        (lambda: mma_count(0, 1, 1), "m: dato: 0; atteso: almeno 1$"),
        (lambda: mma_count(1, 0, 1), "n: dato: 0; atteso: almeno 1$"),
        (lambda: mma_count(1, 1, -3), "k: dato: -3; atteso: almeno 1$"),
        (lambda: list(tiles(1, 1, 0)), "k: dato: 0; atteso: almeno 1$"),
        (
            lambda: tiled_product(integers(3, 5), integers(7, 2)),
            "b: dato: 7 righe; atteso: 5, quante le colonne di a$",
        ),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    """Ogni errore nomina l'argomento, ciò che è stato dato e ciò che era atteso."""
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


def test_first_and_last_thread_are_accepted():
    """Gli estremi dell'intervallo valgono."""
    for lane in (0, 31):
        assert lane in contributors(lane)
        assert "<svg" in fragment_drawing("C", lane)
