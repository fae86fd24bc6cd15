"""Eq. (1) e (2) in cinque versioni: i riquadri della pagina compilati, i kernel interpretati."""

import ctypes
import math
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from attention.s3_2_1_scaled_dot_product import scaled_dot_product_attention
from attention.s3_3_feed_forward import feed_forward
from weave.house import ROOT
from weave.pact import blocks

HEADS = [
    pytest.param(10, 10, 64, 64, id="una testa del lettore"),
    pytest.param(7, 11, 5, 3, id="primi"),
    pytest.param(37, 53, 13, 19, id="primi, più piastrelle"),
    pytest.param(1, 1, 1, 1, id="tutto 1"),
    pytest.param(16, 32, 16, 32, id="multipli esatti"),
    pytest.param(17, 33, 67, 2, id="uno oltre il bordo"),
]
"""m, n, d_k, d_v."""

NETWORKS = [
    pytest.param(10, 768, 3072, id="i numeri del lettore"),
    pytest.param(7, 5, 11, id="primi"),
    pytest.param(37, 67, 131, id="primi, più piastrelle"),
    pytest.param(1, 1, 1, id="tutto 1"),
    pytest.param(16, 64, 128, id="multipli esatti"),
    pytest.param(17, 65, 129, id="uno oltre il bordo"),
]
"""n, d_model, d_ff."""

Compile = Callable[..., ctypes.CDLL]


def page(language: str) -> list[str]:
    """I riquadri di una lingua, nell'ordine della pagina."""
    text = (ROOT / "gpu_notes" / "rosetta.md").read_text(encoding="utf-8")
    return [block.content for block in blocks(text) if block.language == language]


FORTRAN = page("fortran")
CALLERS = [block for block in FORTRAN if not block.startswith("subroutine dgemm(")]


def missing(tool: str) -> None:
    """Ciò che manca fa saltare il test; in CI, dove deve esserci, lo fa cadere."""
    if "CI" in os.environ:
        pytest.fail(f"{tool} non c'è, e in CI deve esserci")
    pytest.skip(f"{tool} non c'è")


def compiled(command: list[str | Path]) -> str:
    """Esegue un compilatore; restituisce ciò che dice."""
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture
def compile_c(tmp_path: Path) -> Compile:
    """Una funzione che compila i riquadri C della pagina, insieme ad altre librerie."""
    if shutil.which("gcc") is None:
        missing("gcc")

    def compile_text(text: str, *libraries: str) -> ctypes.CDLL:
        source, library = tmp_path / "page.c", tmp_path / "page_c.so"
        source.write_text(text, encoding="utf-8")
        options = ["-std=c11", "-O2", "-Wall", "-Werror", "-shared", "-fPIC"]
        compiled(["gcc", *options, source, *libraries, "-lm", "-o", library])
        return ctypes.CDLL(str(library))

    return compile_text


LIBRARIES: dict[str, ctypes.CDLL] = {}
"""Il Fortran e il C della pagina, compilati una volta sola."""


@pytest.fixture
def tongues(compile_fortran: Compile, compile_c: Compile) -> Callable[[str], Callable[..., None]]:
    """Una funzione che, dal nome, dà una routine Fortran o C della pagina."""
    if not LIBRARIES:
        fortran = compile_fortran("\n".join(FORTRAN))
        LIBRARIES["c"] = compile_c("\n".join(page("c")), fortran._name)
        LIBRARIES["fortran"] = fortran
    fortran, c = LIBRARIES["fortran"], LIBRARIES["c"]
    return lambda name: getattr(fortran if hasattr(fortran, name) else c, name)


@pytest.fixture
def rosetta():
    """Il modulo della nota, dove c'è Triton."""
    try:
        import triton  # noqa: F401
    except ImportError:
        missing("triton")
    from gpu_notes import rosetta

    return rosetta


def head(m: int, n: int, d_k: int, d_v: int) -> list[Tensor]:
    """Q, K e V in doppia precisione, ma esatti anche in singola."""
    return [torch.randn(*shape).double() for shape in ((m, d_k), (n, d_k), (n, d_v))]


def network(n: int, d: int, f: int) -> list[Tensor]:
    """x, W_1, b_1, W_2 e b_2, come sopra; le matrici scalate perché l'uscita resti attorno a 1."""
    w_1, w_2 = torch.randn(d, f) / d**0.5, torch.randn(f, d) / f**0.5
    return [each.double() for each in (torch.randn(n, d), w_1, torch.randn(f), w_2, torch.randn(d))]


def single(tensors: list[Tensor], device: str = "cpu") -> list[Tensor]:
    return [tensor.float().to(device) for tensor in tensors]


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    torch.testing.assert_close(actual.cpu().double(), expected, rtol=0, atol=tolerance)


def sentinel(*shape: int) -> Tensor:
    """Un'uscita da riempire: ogni casella non scritta resta NaN."""
    return torch.full(shape, math.nan, dtype=torch.float64)


# Fortran, C, PyTorch: doppia precisione


@pytest.mark.parametrize("name", ["attention_loops", "attention_blas", "attention_c"])
@pytest.mark.parametrize(("m", "n", "d_k", "d_v"), HEADS)
def test_equation_1_is_the_same_in_fortran_c_and_pytorch(
    name, m, n, d_k, d_v, tongues, call_fortran
):
    """Eq. (1): i cicli, le BLAS e il C danno i numeri dell'edizione entro 1e-12."""
    q, k, v = head(m, n, d_k, d_v)
    output = sentinel(m, d_v)
    call_fortran(tongues(name), m, n, d_k, d_v, q, k, v, output)
    assert_equal(output, scaled_dot_product_attention(q, k, v), 1e-12)


@pytest.mark.parametrize("name", ["feed_forward_loops", "feed_forward_blas", "feed_forward_c"])
@pytest.mark.parametrize(("n", "d", "f"), NETWORKS)
def test_equation_2_is_the_same_in_fortran_c_and_pytorch(name, n, d, f, tongues, call_fortran):
    """Eq. (2): lo stesso, con la W_1 dell'articolo per righe, senza copiarla."""
    tensors = network(n, d, f)
    output = sentinel(n, d)
    call_fortran(tongues(name), n, d, f, *tensors, output)
    assert_equal(output, feed_forward(*tensors), 1e-12)


def test_do_concurrent_is_one_iteration_per_output(tongues, call_fortran):
    """x·W + b con un'iterazione per casella dell'uscita."""
    x, w, b, _, _ = network(7, 5, 11)
    output = sentinel(7, 11)
    call_fortran(tongues("linear_concurrent"), 7, 5, 11, x, w, b, output)
    assert_equal(output, x @ w + b, 1e-12)


# La memoria e le BLAS


def test_swapped_arguments_multiply_rows_without_moving_a_byte(tongues, call_fortran):
    """Cᵀ = BᵀAᵀ per colonne scrive gli stessi byte di C = AB per righe; A e B non si toccano."""
    a, b = head(3, 5, 7, 1)[0], head(3, 7, 5, 1)[1]
    before = [tensor.clone() for tensor in (a, b)]
    output = sentinel(3, 5)
    call_fortran(tongues("multiply_rows"), 3, 5, 7, a, b, output)
    assert_equal(output, a @ b, 1e-12)
    assert all(x.equal(y) for x, y in zip((a, b), before, strict=True))
    by_columns = output.flatten().as_strided((5, 3), (1, 5))
    assert_equal(by_columns, b.T @ a.T, 1e-12)
    assert by_columns.data_ptr() == output.data_ptr()


def test_row_major_memory_read_by_columns_is_the_transpose(compile_fortran, call_fortran):
    """a(i, j) del Fortran, dichiarata (3, 2), è a.T[i-1, j-1]: l'indirizzo (i-1) + (j-1)·3."""
    library = compile_fortran(
        'subroutine peek(rows, columns, a, i, j, value) bind(c, name="peek")\n'
        "  use iso_c_binding, only: c_int, c_double\n"
        "  integer(c_int), value :: rows, columns, i, j\n"
        "  real(c_double) :: a(rows, columns), value\n"
        "  value = a(i, j)\n"
        "end subroutine\n"
    )
    a = torch.tensor([[11, 12, 13], [21, 22, 23]], dtype=torch.float64)
    for i in (1, 2, 3):
        for j in (1, 2):
            value = torch.zeros(1, dtype=torch.float64)
            call_fortran(library.peek, 3, 2, a, i, j, value)
            assert value.item() == a.T[i - 1, j - 1] == a.flatten()[(i - 1) + (j - 1) * 3]


def dgemm(routine, trans: str, a: Tensor, b: Tensor, c: Tensor, alpha: float, beta: float) -> None:
    """Chiama DGEMM su tensori per colonne: ogni argomento per indirizzo, come fa il Fortran."""
    (m, n), k = c.T.shape, (a.T if trans[0] == "N" else a).size(1)
    sizes = [ctypes.byref(ctypes.c_int(value)) for value in (m, n, k)]
    steps = [ctypes.byref(ctypes.c_int(tensor.size(1))) for tensor in (a, b, c)]
    scales = [ctypes.byref(ctypes.c_double(value)) for value in (alpha, beta)]
    data = [ctypes.c_void_p(tensor.data_ptr()) for tensor in (a, b, c)]
    letters = [ctypes.c_char_p(letter.encode()) for letter in trans]
    lengths = [ctypes.c_size_t(1), ctypes.c_size_t(1)]
    routine(
        *letters, *sizes, scales[0], data[0], steps[0], data[1], steps[1],
        scales[1], data[2], steps[2], *lengths,
    )  # fmt: skip


@pytest.mark.parametrize("trans", ["NN", "NT", "TN", "TT"])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 0.0), (0.5, 1.0), (-2.0, 3.0)])
def test_dgemm_of_the_page_is_dgemm(trans, alpha, beta, tongues):
    """C = alpha op(A) op(B) + beta C; con beta = 0 ciò che c'era in C non conta, NaN compresi."""
    left = torch.randn(3, 7, dtype=torch.float64)
    right = torch.randn(7, 5, dtype=torch.float64)
    old = torch.randn(3, 5, dtype=torch.float64)
    expected = alpha * left @ right + (beta * old if beta else 0)
    a = (left.T if trans[0] == "N" else left).contiguous()
    b = (right.T if trans[1] == "N" else right).contiguous()
    c = (old.T if beta else old.T * math.nan).contiguous()
    dgemm(tongues("dgemm_"), trans, a, b, c, alpha, beta)
    assert_equal(c.T.contiguous(), expected, 1e-12)


def test_the_callers_work_with_the_blas_inside_pytorch(tmp_path, call_fortran):
    """Le stesse chiamate, senza la DGEMM della pagina: a rispondere è quella di una BLAS vera."""
    if shutil.which("gfortran") is None:
        missing("gfortran")
    blas = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    if not blas.exists() or not hasattr(ctypes.CDLL(str(blas)), "dgemm_"):
        pytest.skip("questo PyTorch non contiene una DGEMM da chiamare")
    source, library = tmp_path / "callers.f90", tmp_path / "callers.so"
    source.write_text("\n".join(CALLERS), encoding="utf-8")
    options = ["-std=f2018", "-O2", "-shared", "-fPIC"]
    compiled(["gfortran", *options, source, blas, "-o", library])
    routines = ctypes.CDLL(str(library))
    assert len(CALLERS) == len(FORTRAN) - 1
    q, k, v = head(7, 11, 5, 3)
    output = sentinel(7, 3)
    call_fortran(routines.attention_blas, 7, 11, 5, 3, q, k, v, output)
    assert_equal(output, scaled_dot_product_attention(q, k, v), 1e-12)
    tensors, output = network(7, 5, 11), sentinel(7, 5)
    call_fortran(routines.feed_forward_blas, 7, 5, 11, *tensors, output)
    assert_equal(output, feed_forward(*tensors), 1e-12)


# Che cosa fa il compilatore


def test_gfortran_vectorises_the_loop_over_j(tmp_path):
    """Il ciclo a passo 1 su j di feed_forward_loops diventa vettoriale."""
    if shutil.which("gfortran") is None:
        missing("gfortran")
    text = next(block for block in FORTRAN if "subroutine feed_forward_loops" in block)
    source = tmp_path / "loops.f90"
    source.write_text(text, encoding="utf-8")
    options = ["-std=f2018", "-O3", "-fopt-info-vec-optimized", "-c"]
    said = compiled(["gfortran", *options, source, "-o", tmp_path / "loops.o"])
    line = 1 + next(i for i, row in enumerate(text.splitlines()) if "do j = 1, f" in row)
    assert re.search(rf"loops\.f90:{line}:\d+: optimized: loop vectorized", said), said


DOT = """
function dot(n, x, y) bind(c, name="dot") result(s)
  use iso_c_binding, only: c_int, c_double
  integer(c_int), value, intent(in) :: n
  real(c_double), intent(in) :: x(n), y(n)
  real(c_double) :: s
  integer :: i
  s = 0
  do i = 1, n
    s = s + x(i) * y(i)
  end do
end function
"""


def test_gfortran_keeps_the_order_of_a_sum(tmp_path):
    """Con -O3 la somma è quella dei cicli, bit per bit; con un permesso l'ordine è un altro.

    Il permesso è la parte di -ffast-math che tocca l'ordine: l'opzione intera collega anche un
    codice d'avvio che, in una libreria, azzera i subnormali di tutto il processo.
    """
    if shutil.which("gfortran") is None:
        missing("gfortran")
    source = tmp_path / "dot.f90"
    source.write_text(DOT, encoding="utf-8")
    numbers = random.Random(0)
    x, y = ([numbers.gauss(0, 1) for _ in range(1009)] for _ in range(2))
    in_order = 0.0
    for a, b in zip(x, y, strict=True):
        in_order += a * b

    def run(*permission: str) -> float:
        library = tmp_path / f"dot{len(permission)}.so"
        options = ["-O3", "-ffp-contract=off", "-shared", "-fPIC", *permission]
        compiled(["gfortran", *options, source, "-o", library])
        dot = ctypes.CDLL(str(library)).dot
        dot.restype, array = ctypes.c_double, ctypes.c_double * 1009
        return dot(1009, array(*x), array(*y))

    permission = ("-fassociative-math", "-fno-signed-zeros", "-fno-trapping-math")
    assert run() == in_order
    assert run(*permission) != in_order
    assert run(*permission) == pytest.approx(in_order, abs=1e-10)


# Triton: singola precisione, interpretato (o compilato, dove c'è una GPU)


@pytest.mark.parametrize(("m", "n", "d_k", "d_v"), HEADS)
def test_triton_attention_has_the_numbers_of_pytorch(m, n, d_k, d_v, device, rosetta):
    """Eq. (1): entro 1e-5 dalla doppia precisione, per ogni lunghezza."""
    tensors = head(m, n, d_k, d_v)
    output = rosetta.attention(*single(tensors, device))
    assert output.dtype == torch.float32
    assert_equal(output, scaled_dot_product_attention(*tensors), 1e-5)


@pytest.mark.parametrize(("n", "d", "f"), NETWORKS)
def test_triton_feed_forward_has_the_numbers_of_pytorch(n, d, f, device, rosetta):
    """Eq. (2): lo stesso; la ReLU è del primo lancio e non del secondo."""
    tensors = network(n, d, f)
    output = rosetta.feed_forward(*single(tensors, device))
    assert output.dtype == torch.float32
    assert_equal(output, feed_forward(*tensors), 1e-5)
    assert n * d == 1 or (output < 0).any()


def test_online_softmax_by_hand(rosetta, tongues, call_fortran):
    """A matita: punteggi 0 e ln 3, pesi ¼ e ¾, uscita (3, 2); una key per piastrella, ripetuta."""
    q = torch.ones(1, 4, dtype=torch.float64)
    k = torch.tensor([[0.0, 0, 0, 0], [math.log(3), math.log(3), 0, 0]], dtype=torch.float64)
    v = torch.tensor([[0.0, 8], [4, 0]], dtype=torch.float64)
    k, v = (tensor.repeat_interleave(16, dim=0) for tensor in (k, v))
    expected = torch.tensor([[3.0, 2]], dtype=torch.float64)
    assert_equal(rosetta.attention(*single([q, k, v])), expected, 1e-6)
    assert_equal(scaled_dot_product_attention(q, k, v), expected, 1e-12)
    for name in ("attention_loops", "attention_blas", "attention_c"):
        output = sentinel(1, 2)
        call_fortran(tongues(name), 1, 32, 4, 2, q, k, v, output)
        assert_equal(output, expected, 1e-12)


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
@pytest.mark.parametrize("size", [1.0, 1000.0])
def test_the_running_maximum_may_rise_at_any_tile(order, size, rosetta):
    """Il massimo può stare nella prima, nell'ultima o in mezzo; e² ⁰⁰⁰ traboccherebbe."""
    q = torch.ones(3, 1, dtype=torch.float64)
    k = (size * torch.tensor(order, dtype=torch.float64)).repeat_interleave(16)[:, None]
    v = torch.randn(48, 5).double()
    expected = scaled_dot_product_attention(q, k, v)
    assert_equal(rosetta.attention(*single([q, k, v])), expected, 1e-5)


def test_all_scores_below_zero_do_not_meet_the_padding(rosetta):
    """Le key oltre il bordo valgono −∞, non zero: con punteggi a −50 lo zero vincerebbe."""
    q, k = -torch.ones(3, 1, dtype=torch.float64), torch.full((17, 1), 50.0, dtype=torch.float64)
    v = torch.randn(17, 5).double()
    expected = v.mean(dim=0).expand(3, 5)
    assert_equal(rosetta.attention(*single([q, k, v])), expected, 1e-5)


@pytest.fixture
def touched(rosetta, monkeypatch) -> dict[str, list[int]]:
    """Gli indirizzi che l'interprete legge e scrive, maschera compresa, nell'ordine."""
    from triton.runtime.interpreter import interpreter_builder

    seen: dict[str, list[int]] = {"load": [], "store": []}

    def spy(kind: str, mask_at: int) -> None:
        name = f"create_masked_{kind}"
        original = getattr(interpreter_builder, name)

        def wrapper(*arguments, **names):
            pointers, mask = arguments[0].data, arguments[mask_at].data
            seen[kind] += [int(p) for p, on in zip(pointers.flat, mask.flat, strict=True) if on]
            return original(*arguments, **names)

        monkeypatch.setattr(interpreter_builder, name, wrapper)

    spy("load", 1)
    spy("store", 2)
    return seen


def addresses(*tensors: Tensor) -> set[int]:
    """Gli indirizzi di tutti gli elementi."""
    return {t.data_ptr() + 4 * i for t in tensors for i in range(t.numel())}


@pytest.mark.parametrize("sizes", [(5, 7, 3, 2), (17, 33, 2, 19)])
def test_attention_touches_its_tensors_and_nothing_else(sizes, rosetta, touched):
    """Legge ogni Q, K e V, scrive ogni uscita una volta sola, e non esce dai bordi."""
    heads = single(head(*sizes))
    output = rosetta.attention(*heads)
    assert set(touched["load"]) == addresses(*heads)
    assert sorted(touched["store"]) == sorted(addresses(output))


@pytest.mark.parametrize("sizes", [(5, 7, 3), (17, 65, 130)])
def test_feed_forward_touches_its_tensors_and_nothing_else(sizes, rosetta, touched):
    """Lo stesso per i due lanci; lo strato interno è scritto dal primo e letto dal secondo."""
    rows = single(network(*sizes))
    inside = sizes[0] * sizes[2]
    output = rosetta.feed_forward(*rows)
    hidden = set(touched["store"][:inside])
    assert len(hidden) == inside
    assert set(touched["load"]) == addresses(*rows) | hidden
    assert sorted(touched["store"][inside:]) == sorted(addresses(output))


def test_grids_with_the_numbers_of_the_reader(rosetta, monkeypatch):
    """Un blocco per una testa, 24 e 6 per le due trasformazioni; 12 e 48 giri sulla somma."""
    grids, constants = [], []

    def launch(kernel, grid, *arguments, **names):
        grids.append(grid)
        constants.append(names)

    monkeypatch.setattr(rosetta, "launch", launch)
    rosetta.attention(*single(head(10, 10, 64, 64)))
    rosetta.feed_forward(*single(network(10, 768, 3072)))
    assert grids == [(1,), (1, 24), (1, 6)]
    assert constants[0] == {"precision": "ieee", "rows": 16, "width": 64}
    assert [c["rectify"] for c in constants[1:]] == [True, False]
    assert [(c["rows"], c["columns"], c["depth"]) for c in constants[1:]] == [(16, 128, 64)] * 2
    assert [768 // 64, 3072 // 64] == [12, 48]
    rosetta.attention(*single(head(97, 5, 3, 2)), precision="tf32")
    rosetta.feed_forward(*single(network(97, 5, 1009)), precision="tf32")
    assert grids[3:] == [(7,), (7, 8), (7, 1)]
    assert [c["precision"] for c in constants] == ["ieee"] * 3 + ["tf32"] * 3


@pytest.mark.parametrize(
    ("count", "tile", "expected"), [(1, 16, 1), (16, 16, 1), (17, 16, 2), (3072, 128, 24)]
)
def test_tiles_cover_the_edge(count, tile, expected, rosetta):
    """L'ultima piastrella può sporgere; una lunghezza esatta non ne vuole una in più."""
    assert rosetta.tiles(count, tile) == expected


def test_the_lines_of_the_tables_are_lines_of_the_code():
    """Ogni riga di codice delle due tavole sta in un riquadro della pagina o in un modulo."""
    text = (ROOT / "gpu_notes" / "rosetta.md").read_text(encoding="utf-8")
    modules = ("gpu_notes/rosetta", "attention/s3_2_1_scaled_dot_product")
    sources = [(ROOT / f"{m}.py").read_text() for m in (*modules, "attention/s3_3_feed_forward")]
    code = " ".join(" ".join([*FORTRAN, *page("c"), *sources]).split())
    cells = [row.split(" | ")[1] for row in text.splitlines() if "<br>" in row]
    assert len(cells) == 14
    spans = [span for cell in cells for span in re.findall("`([^`]+)`", cell)]
    assert len(spans) > 50
    for span in spans:
        assert span.removesuffix("…").strip() in code, span


def compile_for_gpu(kernel, numbers: dict[str, str], constants: dict[str, object]):
    """Compila un kernel per la compute capability 9.0, senza lanciarlo."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    types = {name: numbers.get(name, "*fp32") for name in names} | dict.fromkeys(
        constants, "constexpr"
    )
    return triton.compile(
        ASTSource(kernel, types, constants),
        target=GPUTarget("cuda", 90, 32),
        options={"enable_fp_fusion": True},
    )


@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_the_same_text_compiles_for_a_gpu(precision, rosetta, tmp_path, monkeypatch):
    """Codice macchina senza una GPU: FMA o mma secondo la precisione, shfl ed ex2, 4 warp."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tile = {"precision": precision, "rows": rosetta.ROWS}
    linear = {"rectify": True, "columns": 32, "depth": 16}
    sizes = dict.fromkeys(("m", "n", "d_k", "d_v", "d_in", "d_out"), "i32") | {"scale": "fp32"}
    binaries = [
        compile_for_gpu(rosetta.attention_kernel, sizes, tile | {"width": 64}),
        compile_for_gpu(rosetta.linear_kernel, sizes, tile | linear),
    ]
    for binary in binaries:
        ptx = binary.asm["ptx"]
        assert binary.asm["cubin"][:4] == b"\x7fELF"
        assert binary.metadata.num_warps == 4
        assert ("mma.sync.aligned.m16n8k8.row.col.f32.tf32" in ptx) == (precision == "tf32")
        assert "st.global" in ptx
    attention, network = (binary.asm["ptx"] for binary in binaries)
    for instruction in ("shfl.sync.bfly", "ex2.approx"):
        assert instruction in attention
        assert instruction not in network
    assert "max.f32" in network
    assert "threadsPerWarp = [1, 32]" in binaries[1].asm["ttgir"]
    threads, fma = 4 * 32, network.count("fma.rn.f32")
    assert fma == (16 * 32 * 16 // threads if precision == "ieee" else 0)
    both_products = 2 * 16 * 16 * 64 // threads
    assert (attention.count("fma.rn.f32") >= both_products) == (precision == "ieee")


def test_the_launch_asks_for_fused_multiply_add(rosetta):
    """Il permesso di fondere a·b + c accompagna ogni lancio, e la GPU dei dati decide."""
    calls = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **constants: calls.append((grid, arguments, constants))

    class OnTheGpu:
        is_cuda = True

    x = OnTheGpu()
    rosetta.launch(Kernel(), (2, 3), x, 5, rows=16)
    assert calls == [((2, 3), (x, 5), {"rows": 16, "enable_fp_fusion": True})]


# Gli errori


X = torch.ones(2, 3)


@pytest.mark.parametrize(
    ("name", "arguments", "error", "message"),
    [
        ("attention", (X.double(), X, X), TypeError,
         "query: dato: torch.float64; atteso: un tensore torch.float32"),
        ("attention", (X, [1.0], X), TypeError,
         "key: dato: list; atteso: un tensore torch.float32"),
        ("attention", (X[0], X, X), ValueError,
         "query: dato: [3]; atteso: una forma [almeno 1, almeno 1]"),
        ("attention", (X, torch.ones(5, 2), X), ValueError,
         "key: dato: [5, 2]; atteso: una forma [almeno 1, 3]"),
        ("attention", (X, X[:0], X), ValueError,
         "key: dato: [0, 3]; atteso: una forma [almeno 1, 3]"),
        ("attention", (X, X, torch.ones(5, 3)), ValueError,
         "value: dato: [5, 3]; atteso: una forma [2, almeno 1]"),
        ("attention", (X.T, X.T, X.T), ValueError,
         "query: dato: passi (1, 3); atteso: righe contigue, una dopo l'altra"),
        ("attention", (X, X, X, "fp8"), ValueError,
         "precision: dato: 'fp8'; atteso: «ieee» o «tf32»"),
        ("feed_forward", (X[0], X, X, X, X), ValueError,
         "x: dato: [3]; atteso: una forma [almeno 1, almeno 1]"),
        ("feed_forward", (X, X, X, X, X), ValueError,
         "w_1: dato: [2, 3]; atteso: una forma [3, almeno 1]"),
        ("feed_forward", (X, torch.ones(3, 5), X, X, X), ValueError,
         "b_1: dato: [2, 3]; atteso: una forma [5]"),
        ("feed_forward", (X, torch.ones(3, 5), torch.ones(5), torch.ones(5, 2), X), ValueError,
         "w_2: dato: [5, 2]; atteso: una forma [5, 3]"),
        ("feed_forward", (X, torch.ones(3, 5), torch.ones(5), torch.ones(5, 3), X), ValueError,
         "b_2: dato: [2, 3]; atteso: una forma [3]"),
        ("feed_forward", (X, torch.ones(3, 2), X[0, :2], X, X[0], "TF32"), ValueError,
         "precision: dato: 'TF32'; atteso: «ieee» o «tf32»"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(name, arguments, error, message, rosetta):
    """Ogni errore nomina l'argomento, ciò che è stato dato e ciò che era atteso."""
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        getattr(rosetta, name)(*arguments)
