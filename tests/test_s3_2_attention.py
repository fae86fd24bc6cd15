"""§3.2: la definizione con i cicli in chiaro, contro numeri fatti a mano e contro PyTorch."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from attention.s3_2_attention import (
    attend,
    attention_loops,
    dot_product,
    normalize,
    weighted_sum,
)

SCORES = st.lists(st.floats(-300, 300), min_size=1, max_size=7)


def random_rows(rows: int, columns: int) -> torch.Tensor:
    return torch.randn(rows, columns, dtype=torch.float64)


def random_problem() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """m = 3 query, n = 5 coppie, d_k = 7, d_v = 11: nessuna coppia di misure uguale."""
    return random_rows(3, 7), random_rows(5, 7), random_rows(5, 11)


# La definizione, fatta a mano


def test_case_by_hand():
    """§3.2 ¶1: punteggi ln 2, 0 e 0, pesi ½, ¼ e ¼, uscita (3, 3)."""
    query, keys = [1.0, 0.0], [[math.log(2), 5.0], [0.0, 7.0], [0.0, -1.0]]
    values = [[4.0, 0.0], [0.0, 8.0], [4.0, 4.0]]
    assert attend(query, keys, values, dot_product) == pytest.approx([3.0, 3.0], abs=1e-12)


def test_dot_product_is_the_sum_of_the_products():
    """§3.2 ¶1: una compatibilità possibile; 2·7 + 3·11 + 5·13 = 112."""
    assert dot_product([2.0, 3.0, 5.0], [7.0, 11.0, 13.0]) == 112.0


def test_weighted_sum_by_hand():
    """§3.2 ¶1: l'uscita è la somma pesata dei value, per pesi qualsiasi."""
    assert weighted_sum([2.0, -3.0], [[5.0, 7.0, 1.0], [1.0, 2.0, 0.0]]) == [7.0, 8.0, 2.0]
    assert weighted_sum([2.0], [[5.0, 7.0]]) == [10.0, 14.0]


# Dai punteggi ai pesi


@given(SCORES)
def test_weights_are_positive_and_sum_to_one(scores: list[float]):
    """§3.2 ¶1: con la softmax la somma pesata è una media pesata."""
    weights = normalize(scores)
    assert all(0 <= weight <= 1 for weight in weights)
    assert sum(weights) == pytest.approx(1.0, abs=1e-12)


@given(SCORES)
def test_normalize_is_the_softmax(scores: list[float]):
    """§3.2 ¶1: i pesi sono quelli della softmax di PyTorch."""
    expected = torch.tensor(scores, dtype=torch.float64).softmax(dim=0).tolist()
    assert normalize(scores) == pytest.approx(expected, abs=1e-12)


@given(SCORES, st.floats(-100, 100))
def test_adding_a_constant_to_every_score_changes_no_weight(scores: list[float], shift: float):
    """§3.2 ¶1: contano le differenze fra i punteggi; per questo si può togliere il massimo."""
    shifted = [score + shift for score in scores]
    assert normalize(shifted) == pytest.approx(normalize(scores), abs=1e-12)


def test_large_scores_do_not_overflow():
    """§3.2 ¶1: e⁷¹⁰ supera la doppia precisione; togliere il massimo lo evita."""
    assert normalize([1000.0, 0.0]) == [1.0, 0.0]
    assert normalize([1000.0, 1000.0]) == [0.5, 0.5]


def test_a_score_of_minus_infinity_weighs_zero():
    """§3.2 ¶1: il divieto è −∞; se è vietato tutto, i pesi sono tutti zero e non NaN."""
    assert normalize([0.0, -math.inf, math.log(3)]) == pytest.approx([0.25, 0.0, 0.75], abs=1e-12)
    assert normalize([-math.inf, -math.inf]) == [0.0, 0.0]


def test_one_more_pair_lowers_the_other_weights():
    """§3.2 ¶1: il peso dipende dalla sua key, ma anche da tutte le altre: c'è il denominatore."""
    alone, together = normalize([1.0, 2.0]), normalize([1.0, 2.0, -3.0])
    assert all(after < before for before, after in zip(alone, together, strict=False))


# Le proprietà dell'uscita


def test_loops_equal_torch():
    """§3.2 ¶1: m query, una dopo l'altra, danno il prodotto di matrici di PyTorch."""
    query, key, value = random_problem()
    output = attention_loops(query.tolist(), key.tolist(), value.tolist(), dot_product)
    expected = F.scaled_dot_product_attention(query, key, value, scale=1.0)
    assert output == [pytest.approx(row, abs=1e-12) for row in expected.tolist()]


def test_forbidden_pairs_weigh_nothing():
    """§3.2 ¶1: ogni query ha la sua riga di permessi; chi non ne ha nessuno riceve zeri."""
    query, key, value = random_problem()
    allowed = torch.tensor([[1, 0, 1, 0, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]).bool()
    output = attention_loops(
        query.tolist(), key.tolist(), value.tolist(), dot_product, allowed.tolist()
    )
    expected = F.scaled_dot_product_attention(query[:2], key, value, allowed[:2], scale=1.0)
    assert output[:2] == [pytest.approx(row, abs=1e-12) for row in expected.tolist()]
    assert output[2] == [0.0] * 11


def test_output_stays_in_the_convex_hull_of_the_values():
    """§3.2 ¶1: in qualunque direzione si guardi, l'uscita non va oltre il value più lontano."""
    query, key, value = random_problem()
    outputs = attention_loops(query.tolist(), key.tolist(), value.tolist(), dot_product)
    directions = random_rows(11, 100)
    reached = torch.tensor(outputs, dtype=torch.float64) @ directions
    farthest = (value @ directions).max(dim=0).values
    assert (reached <= farthest).all()


def test_permuting_the_pairs_changes_nothing():
    """§3.2 ¶1: le coppie key–value sono un insieme, il loro ordine non conta."""
    query, key, value = random_problem()
    order = [3, 0, 4, 1, 2]
    output = attention_loops(query.tolist(), key.tolist(), value.tolist(), dot_product)
    shuffled = attention_loops(
        query.tolist(), key[order].tolist(), value[order].tolist(), dot_product
    )
    assert shuffled == [pytest.approx(row, abs=1e-12) for row in output]


def test_permuting_the_queries_permutes_the_outputs():
    """§3.2 ¶1: nessuna query guarda il risultato di un'altra."""
    query, key, value = random_problem()
    output = attention_loops(query.tolist(), key.tolist(), value.tolist(), dot_product)
    turned = attention_loops(query[[2, 0, 1]].tolist(), key.tolist(), value.tolist(), dot_product)
    assert turned == [output[2], output[0], output[1]]


# La compatibilità è un argomento


def minus_half_squared_distance(query: list[float], key: list[float]) -> float:
    return -sum((q - k) ** 2 for q, k in zip(query, key, strict=True)) / 2


def test_compatibility_is_free():
    """§3.2 ¶1: qualunque funzione di query e key va bene; con una costante si fa la media."""
    values = [[2.0, 3.0], [5.0, 7.0], [11.0, 2.0]]
    output = attend([1.0], [[0.0], [1.0], [2.0]], values, lambda query, key: 13.0)
    assert output == pytest.approx([6.0, 4.0], abs=1e-12)


def test_distance_and_dot_product_agree_on_keys_of_equal_norm():
    """§3.2 ¶1: −|q−k|²/2 = q·k − |q|²/2 − |k|²/2, e una costante non cambia i pesi."""
    query, key, value = random_problem()
    key = F.normalize(key, dim=-1)
    problem = (query.tolist(), key.tolist(), value.tolist())
    by_distance = attention_loops(*problem, minus_half_squared_distance)
    by_product = attention_loops(*problem, dot_product)
    assert by_distance == [pytest.approx(row, abs=1e-12) for row in by_product]


# Gli errori


ONE = [1.0]
TWO = [1.0, 2.0]


@pytest.mark.parametrize(
    ("query", "keys", "values", "allowed", "message"),
    [
        (ONE, [], [], None, "keys: dato: nessuna coppia; atteso: almeno una"),
        (ONE, [ONE], [ONE, ONE], None, "values: dato: 2 value; atteso: 1, uno per key"),
        (ONE, [ONE, ONE], [ONE], None, "values: dato: 1 value; atteso: 2, uno per key"),
        (ONE, [ONE, TWO], [ONE, ONE], None, "key: dato: lunghezza 2; atteso: 1, come query"),
        (TWO, [TWO, ONE], [ONE, ONE], None, "key: dato: lunghezza 1; atteso: 2, come query"),
        (ONE, [ONE, ONE], [ONE, TWO], None, r"values\[1\]: dato: lunghezza 2; atteso: 1, come .*"),
        (ONE, [ONE, ONE], [TWO, ONE], None, r"values\[1\]: dato: lunghezza 1; atteso: 2, come .*"),
        (ONE, [ONE], [ONE], [True, True], "allowed: dato: 2 valori; atteso: 1, uno per key"),
        (ONE, [ONE, ONE], [ONE, ONE], [True], "allowed: dato: 1 valori; atteso: 2, uno per key"),
    ],
)
def test_wrong_pairs_are_refused(query, keys, values, allowed, message):
    """Le lunghezze devono accordarsi, e il messaggio dice quale non lo fa."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        attend(query, keys, values, dot_product, allowed)


@pytest.mark.parametrize("rows", [1, 3])
def test_permissions_need_one_row_per_query(rows):
    """`allowed` ha una riga per query, né meno né più."""
    message = f"^allowed: dato: {rows} righe; atteso: 2, una per query$"
    with pytest.raises(ValueError, match=message):
        attention_loops([ONE, ONE], [ONE], [ONE], dot_product, [[True]] * rows)


# Il Fortran della pagina


def test_fortran_on_the_page(fortran, call_fortran):
    """§3.2 ¶1: la definizione in Fortran, com'è scritta sulla pagina, dà gli stessi numeri."""
    query, key, value = random_problem()
    output = torch.zeros(3, 11, dtype=torch.float64)
    call_fortran(fortran("s3_2_attention").attend, 3, 5, 7, 11, query, key, value, output)
    expected = attention_loops(query.tolist(), key.tolist(), value.tolist(), dot_product)
    assert output.tolist() == [pytest.approx(row, abs=1e-12) for row in expected]


def test_fortran_is_compiled_and_called(compile_fortran, call_fortran):
    """Il meccanismo: due blocchi di testo, un intero per valore, un vettore per indirizzo."""
    library = compile_fortran(
        """
        subroutine double_it(n, x) bind(c, name="double_it")
          use iso_c_binding, only: c_int, c_double
          integer(c_int), value :: n
          real(c_double) :: x(n)
          x = 2 * x
        end subroutine
        """
    )
    x = torch.tensor([2.0, 3.0, 5.0], dtype=torch.float64)
    call_fortran(library.double_it, 2, x)
    assert x.tolist() == [4.0, 6.0, 5.0]
