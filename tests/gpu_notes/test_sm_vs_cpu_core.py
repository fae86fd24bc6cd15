"""I conti per ciclo, e l'array sistolico contro il prodotto vero, cella per cella."""

import ctypes
from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gpu_notes.sm_map import A100, GPUS, H200, fma_per_clock
from gpu_notes.sm_vs_cpu_core import (
    TPU_V1_CLOCK,
    TPU_V1_SIDE,
    Cells,
    array_peak,
    entering,
    sm_flops,
    step,
    systolic_cycles,
    systolic_product,
    systolic_states,
    tile_flops,
    utilization,
    vector_flops,
    warp_instructions,
)
from weave.house import ROOT
from weave.pact import blocks

SHAPES = [(3, 5, 7), (7, 3, 5), (5, 7, 3), (1, 5, 7), (3, 1, 7), (3, 5, 1), (1, 1, 1)]

A = [[1, 2], [3, 4]]
B = [[5, 6], [7, 8]]


def matrix(rows: int, columns: int) -> list[list[int]]:
    """Interi a caso, mai zero e quasi mai uguali."""
    return (torch.randint(10**4, (rows, columns)) + 1).tolist()


def loops(a: list[list[int]], b: list[list[int]]) -> list[list[int]]:
    return [[sum(row[p] * b[p][j] for p in range(len(b))) for j in range(len(b[0]))] for row in a]


# FLOP per ciclo


def test_flops_per_cycle_of_a_cpu_core():
    """AVX-512 e AMX, dai pezzi ai numeri dichiarati."""
    assert vector_flops(2, 512, 32) == 64
    assert isinstance(vector_flops(2, 512, 32), int)
    assert vector_flops(2, 256, 32) == 32
    assert vector_flops(1, 512, 64) == 16
    assert tile_flops(rows=16, columns=16, depth=32, cycles=16) == 1024
    assert tile_flops(rows=16, columns=16, depth=64, cycles=16) == 2048
    assert tile_flops(rows=3, columns=5, depth=7, cycles=2) == 105


def test_an_sm_is_worth_four_cores_per_cycle():
    """In FP32 contro due FMA da 512 bit, in BF16 contro AMX; la A100 due, la B200 il doppio."""
    assert sm_flops(H200, "FP32") == 256 == 4 * vector_flops(2, 512, 32)
    assert sm_flops(H200, "BF16") == 4096 == 4 * tile_flops(16, 16, 32, 16)
    assert (sm_flops(A100, "FP32"), sm_flops(A100, "BF16")) == (128, 2048)
    for gpu in GPUS:
        assert sm_flops(gpu, "BF16") == 2 * fma_per_clock(gpu, "BF16")


def test_one_token_is_147_456_warp_instructions():
    """A22: 4 718 592 MAC, 32 per istruzione; il resto occupa un'istruzione intera."""
    assert warp_instructions(2 * 768 * 3072) == 147_456
    assert [warp_instructions(macs) for macs in (0, 1, 32, 33, 64, 65)] == [0, 1, 1, 2, 2, 3]


# L'array sistolico


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_systolic_array_multiplies(m, k, n):
    a, b = matrix(m, k), matrix(k, n)
    assert systolic_product(a, b) == loops(a, b)
    assert systolic_product(a, b) == (torch.tensor(a) @ torch.tensor(b)).tolist()


@given(st.data())
def test_systolic_array_multiplies_any_numbers(data):
    m, k, n = (data.draw(st.integers(1, 5)) for _ in range(3))
    numbers = st.integers(-9, 9)
    a, b = (
        data.draw(st.lists(st.lists(numbers, min_size=c, max_size=c), min_size=r, max_size=r))
        for r, c in ((m, k), (k, n))
    )
    assert systolic_product(a, b) == loops(a, b)


@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_cycles_are_m_plus_k_plus_n_minus_two(m, k, n):
    """L'ultimo elemento esce all'ultimo ciclo, in fondo a destra, e prima non c'è."""
    a, b = matrix(m, k), matrix(k, n)
    *before, last = systolic_states(a, b)
    assert len(before) + 1 == m + k + n - 2
    assert len(before) + 1 == systolic_cycles(m, k, n)
    assert last.sums[-1][-1] == loops(a, b)[-1][-1]
    assert all(cells.sums[-1][-1] != loops(a, b)[-1][-1] for cells in before)


def test_each_cell_works_m_cycles():
    """La cella (k, j) usa la riga i di A al ciclo i + k + j; per il resto passa zeri."""
    m, k, n = 3, 5, 7
    a, b = matrix(m, k), matrix(k, n)
    for cycle, cells in enumerate(systolic_states(a, b)):
        for row in range(k):
            for column in range(n):
                i = cycle - row - column
                expected = a[i][row] if 0 <= i < m else 0
                assert cells.passing[row][column] == expected
    assert utilization(m, k, n) == m / (m + k + n - 2)


def test_inputs_enter_one_cycle_late_per_row():
    """Di sghembo: a sinistra la riga k dell'array riceve la colonna k di A, in ritardo di k."""
    a = [[1, 2, 3], [4, 5, 6]]
    entered = [entering(a, cycle) for cycle in range(5)]
    assert entered == [[1, 0, 0], [4, 2, 0], [0, 5, 3], [0, 0, 6], [0, 0, 0]]


def test_a_cell_sees_only_its_neighbours():
    """Il numero che passa arriva a destra, la somma in basso: nessun altro registro cambia."""
    k, n = 3, 5
    weights, left = matrix(k, n), matrix(1, k)[0]
    passing, sums = matrix(k, n), matrix(k, n)
    base = step(weights, Cells(passing, sums), left)
    passing[1][2] += 1
    moved = step(weights, Cells(passing, sums), left)
    assert differences(base.passing, moved.passing) == {(1, 3): 1}
    assert differences(base.sums, moved.sums) == {(1, 3): weights[1][3]}
    sums[1][2] += 1
    summed = step(weights, Cells(passing, sums), left)
    assert differences(moved.passing, summed.passing) == {}
    assert differences(moved.sums, summed.sums) == {(2, 2): 1}


def differences(a, b) -> dict[tuple[int, int], int]:
    """Dove due matrici sono diverse, e di quanto."""
    pairs = {(i, j): b[i][j] - a[i][j] for i in range(len(a)) for j in range(len(a[0]))}
    return {place: change for place, change in pairs.items() if change}


def test_two_by_two_by_hand():
    """«A matita»: quattro cicli, e il caso con i ruoli scambiati."""
    assert list(systolic_states(A, B)) == [
        Cells([[1, 0], [0, 0]], [[5, 0], [0, 0]]),
        Cells([[3, 1], [2, 0]], [[15, 6], [19, 0]]),
        Cells([[0, 3], [4, 2]], [[0, 18], [43, 22]]),
        Cells([[0, 0], [0, 4]], [[0, 0], [0, 50]]),
    ]
    assert systolic_product(A, B) == [[19, 22], [43, 50]]
    assert systolic_product([[5, 7], [6, 8]], [[1, 3], [2, 4]]) == [[19, 43], [22, 50]]


def test_fortran_on_the_page(
    compile_fortran: Callable[[str], ctypes.CDLL], call_fortran: Callable[..., None]
):
    """Le due righe di Fortran fanno, ciclo per ciclo, gli stessi registri."""
    page = (ROOT / "gpu_notes/sm_vs_cpu_core.md").read_text(encoding="utf-8")
    source = "\n".join(block.content for block in blocks(page) if block.language == "fortran")
    routine = compile_fortran(source).systolic_step
    a, b = matrix(3, 5), matrix(5, 7)
    passing, sums = (torch.zeros(7, 5, dtype=torch.float64) for _ in range(2))
    weights = torch.tensor(b, dtype=torch.float64).T.contiguous()
    for cycle, cells in enumerate(systolic_states(a, b)):
        left = torch.tensor(entering(a, cycle), dtype=torch.float64)
        call_fortran(routine, 5, 7, weights, left, passing, sums)
        assert passing.T.tolist() == cells.passing
        assert sums.T.tolist() == cells.sums


# Le TPU


def test_first_tpu_adds_up_to_92_tops():
    """65 536 celle, 700 MHz, due operazioni; il ginocchio in MAC per byte di pesi."""
    assert TPU_V1_SIDE**2 == 65_536
    assert array_peak(TPU_V1_SIDE, TPU_V1_CLOCK) == pytest.approx(91.75e12, rel=1e-4)
    knee = array_peak(TPU_V1_SIDE, TPU_V1_CLOCK) / 2 / 34e9
    assert knee == pytest.approx(1350, abs=5)
    assert utilization(10, 256, 256) == pytest.approx(10 / 520)


def test_published_peaks_of_later_tpus():
    """La frequenza che riporterebbe al picco: 1,5 GHz per la v5e, 3,5 per la v6e."""
    assert 197e12 / array_peak(128, 1, arrays=4) == pytest.approx(1.5e9, rel=5e-3)
    assert 918e12 / array_peak(256, 1, arrays=2) == pytest.approx(3.5e9, rel=5e-3)


# Gli errori


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        ([], [[1]], "a: dato: nessuna riga; atteso: almeno una"),
        ([[1]], [], "b: dato: nessuna riga; atteso: almeno una"),
        ([[]], [[1]], "a: dato: nessuna colonna; atteso: almeno una"),
        ([[1]], [[]], "b: dato: nessuna colonna; atteso: almeno una"),
        (
            [[1, 2], [3]],
            [[1]],
            r"a: dato: righe lunghe \[1, 2\]; atteso: righe lunghe uguale",
        ),
        (
            [[1, 2]],
            [[1, 2, 3], [3]],
            r"b: dato: righe lunghe \[1, 3\]; atteso: righe lunghe uguale",
        ),
        ([[1, 2]], [[1], [2], [3]], "b: dato: 3 righe; atteso: 2, le colonne di a"),
        ([[1, 2, 3]], [[1], [2]], "b: dato: 2 righe; atteso: 3, le colonne di a"),
    ],
)
def test_wrong_matrices_are_refused(a, b, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        systolic_product(a, b)


def test_a_number_must_divide_the_unit():
    with pytest.raises(ValueError, match=r"^number_bits: dato: 24; atteso: un divisore di 512$"):
        vector_flops(2, 512, 24)
