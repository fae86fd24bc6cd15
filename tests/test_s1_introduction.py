"""§1: la ricorrenza contro i cicli e contro `torch.nn`, la catena contro il conto a mano."""

import itertools
import math
import re
import subprocess
from dataclasses import FrozenInstanceError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from attention.s1_introduction import (
    Elman,
    attention_graph,
    convolution_graph,
    depth,
    levels,
    linear_scan,
    recurrence,
    recurrence_graph,
    scan_graph,
    steps,
    widths,
)
from attention.s4_why_self_attention import convolutional, reads, recurrent, self_attention
from weave.house import ROOT
from weave.pact import blocks

STEM = "s1_introduction"

LENGTHS = [1, 2, 3, 5, 7, 11, 13]


def random_cell(d_in: int = 3, d: int = 5, device: str = "cpu") -> Elman:
    w_x, w_h, b = (torch.randn(size).double() for size in ((d_in, d), (d, d), (d,)))
    return Elman(w_x.to(device), w_h.to(device) / d**0.5, b.to(device))


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def ancestors(graph: dict, value: tuple) -> set:
    """Tutto ciò da cui un valore dipende, attraverso quanti passi si voglia."""
    found: set = set()
    waiting = [value]
    while waiting:
        for source in graph.get(waiting.pop(), ()):
            if source not in found:
                found.add(source)
                waiting.append(source)
    return found


# ¶1 e ¶2: h_t è funzione di h_{t−1} e dell'ingresso t


def test_every_state_comes_from_the_previous_one_and_its_input():
    """§1 ¶2: h_t = tanh(x_t W_x + h_{t−1} W_h + b), un elemento alla volta, con i cicli."""
    cell = random_cell()
    x, previous = torch.randn(7, 3).double(), torch.randn(5).double()
    states = recurrence(cell, previous, x)
    for t in range(7):
        expected = [
            math.tanh(
                sum(float(x[t, i] * cell.w_x[i, j]) for i in range(3))
                + sum(float(previous[i] * cell.w_h[i, j]) for i in range(5))
                + float(cell.b[j])
            )
            for j in range(5)
        ]
        assert_equal(states[t], torch.tensor(expected, dtype=torch.float64))
        previous = states[t]


def test_recurrence_equals_torch_rnn(device):
    """§1 ¶2: con gli stessi pesi, `torch.nn.RNN` dà gli stessi stati; conserva le trasposte."""
    cell, twin = random_cell(device=device), nn.RNN(3, 5, batch_first=True).double().to(device)
    x, h_0 = torch.randn(2, 7, 3).double().to(device), torch.randn(2, 5).double().to(device)
    with torch.no_grad():
        twin.weight_ih_l0.copy_(cell.w_x.T)
        twin.weight_hh_l0.copy_(cell.w_h.T)
        twin.bias_ih_l0.copy_(cell.b)
        twin.bias_hh_l0.zero_()
    assert_equal(recurrence(cell, h_0, x), twin(x, h_0[None])[0])


def test_any_step_fits_the_formula():
    """§1 ¶1: la rete con porte (GRU) è la stessa ricorrenza, con un altro passo f."""
    gru = nn.GRU(3, 5, batch_first=True).double()
    step = nn.GRUCell(3, 5).double()
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(step, name).copy_(getattr(gru, f"{name}_l0"))
    x, h_0 = torch.randn(2, 7, 3).double(), torch.randn(2, 5).double()
    assert_equal(recurrence(lambda h, x_t: step(x_t, h), h_0, x), gru(x, h_0[None])[0])


def test_lstm_is_a_recurrence_on_a_pair():
    """§1 ¶1: stato e memoria di una LSTM, affiancati, sono un vettore che fa da h_t."""
    lstm, step = nn.LSTM(3, 5, batch_first=True).double(), nn.LSTMCell(3, 5).double()
    with torch.no_grad():
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(step, name).copy_(getattr(lstm, f"{name}_l0"))
    x = torch.randn(2, 7, 3).double()

    def f(pair: Tensor, x_t: Tensor) -> Tensor:
        return torch.cat(step(x_t, pair.chunk(2, dim=-1)), dim=-1)

    states = recurrence(f, torch.zeros(2, 10).double(), x)
    assert_equal(states[..., :5], lstm(x)[0])


def test_the_step_is_the_same_at_every_position():
    """§1 ¶2: la funzione è una sola, e durante la sequenza le sue matrici non si sostituiscono."""
    cell = random_cell()
    with pytest.raises(FrozenInstanceError):
        cell.w_h = torch.zeros(5, 5)


def test_state_depends_on_the_inputs_up_to_its_position():
    """§1 ¶2: cambiare x_5 cambia h_5 e i seguenti; i precedenti restano gli stessi bit."""
    cell, x, h_0 = random_cell(), torch.randn(7, 3).double(), torch.zeros(5).double()
    before = recurrence(cell, h_0, x)
    changed = x.clone()
    changed[4] += 1
    after = recurrence(cell, h_0, changed)
    assert after[:4].equal(before[:4])
    assert ((after[4:] - before[4:]).abs().amax(dim=-1) > 1e-6).all()


def test_products_with_the_inputs_need_no_waiting():
    """§1 ¶2: x_t W_x si calcola per tutti i t in un prodotto; solo h_{t−1} W_h deve aspettare."""
    cell, x, h_0 = random_cell(), torch.randn(7, 3).double(), torch.zeros(5).double()
    ahead = x @ cell.w_x + cell.b
    states = recurrence(lambda h, ready: torch.tanh(ready + h @ cell.w_h), h_0, ahead)
    assert_equal(states, recurrence(cell, h_0, x))


def test_three_steps_by_hand():
    """§1 ¶2: W_h = ln 3, ingressi ½ ln 3, 0, ½ ln 3: gli stati ½, ½, ⅘ della pagina."""
    one, log3 = torch.ones(1, 1).double(), math.log(3)
    cell = Elman(one, log3 * one, torch.zeros(1).double())
    x = torch.tensor([[log3 / 2], [0], [log3 / 2]], dtype=torch.float64)
    states = recurrence(cell, torch.zeros(1).double(), x)
    assert_equal(states[:, 0], torch.tensor([1 / 2, 1 / 2, 4 / 5], dtype=torch.float64))
    steps_by_hand = torch.tensor([3 / 4, 3 / 4, 9 / 25], dtype=torch.float64) * log3
    assert_equal(cell.jacobian(states)[:, 0, 0], steps_by_hand)
    assert_equal(cell.chain(states)[0, 0], torch.tensor(log3**3 * 81 / 400, dtype=torch.float64))


# Il gradiente attraverso la catena


def test_jacobian_of_a_step_is_the_one_of_autograd():
    """§1 ¶2: ∂h_t/∂h_{t−1} = W_h diag(1 − h_t²); riga, la componente di partenza."""
    cell, h, x = random_cell(), torch.randn(5).double(), torch.randn(3).double()
    by_autograd = torch.autograd.functional.jacobian(lambda state: cell(state, x), h)
    assert_equal(cell.jacobian(cell(h, x)), by_autograd.T)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_gradient_through_the_chain_is_a_product_of_jacobians(n):
    """§1 ¶2: ∂h_n/∂h_0 è il prodotto di n matrici, una per passo, in quell'ordine."""
    cell, x, h_0 = random_cell(), torch.randn(n, 3).double(), torch.randn(5).double()
    by_autograd = torch.autograd.functional.jacobian(
        lambda start: recurrence(cell, start, x)[-1], h_0
    )
    assert_equal(cell.chain(recurrence(cell, h_0, x)), by_autograd.T)


@given(st.floats(0.1, 0.9))
def test_gradient_fades_when_every_step_shrinks(scale):
    """§1 ¶2: se la norma di W_h è s < 1, dopo n passi del gradiente resta al più sⁿ."""
    rotation = torch.linalg.qr(torch.randn(5, 5).double())[0]
    cell = Elman(torch.randn(3, 5).double(), scale * rotation, torch.randn(5).double())
    states = recurrence(cell, torch.zeros(5).double(), torch.randn(13, 3).double())
    norms = [torch.linalg.matrix_norm(cell.chain(states[:n]), 2).item() for n in (1, 13)]
    assert norms[0] <= scale * (1 + 1e-9)
    assert norms[1] <= scale**13 * (1 + 1e-9)


# ¶2: quanti passi, uno dopo l'altro


@pytest.mark.parametrize("n", LENGTHS)
def test_recurrence_takes_n_dependent_steps(n):
    """§1 ¶2 (T03): n passi per una ricorrenza di n posizioni, uno solo per l'attenzione."""
    assert depth(recurrence_graph(n)) == n
    assert depth(attention_graph(n)) == 1
    assert depth(convolution_graph(n, 3)) == 1


def test_long_chains_are_counted_without_recursion():
    """§1 ¶2: diecimila passi in fila, oltre ogni limite di ricorsione di Python."""
    assert depth(recurrence_graph(10_000)) == 10_000


def test_recurrence_depends_on_all_the_past():
    """§1 ¶2: nel grafo, h_t raggiunge h_0 e x_1 … x_t, e nessun ingresso seguente."""
    graph = recurrence_graph(7)
    assert graph["h", 5] == [("h", 4), ("x", 5)]
    inputs = {value for value in ancestors(graph, ("h", 5)) if value not in graph}
    assert inputs == {("h", 0), *(("x", t) for t in range(1, 6))}


def longest_chain(graph: dict, value: object) -> int:
    """La definizione, per ricorsione: un passo più la catena più lunga di ciò che serve."""
    if value not in graph:
        return 0
    return 1 + max((longest_chain(graph, source) for source in graph[value]), default=0)


@given(st.data())
def test_level_is_the_longest_chain_that_arrives_there(data):
    """§1 ¶2: su grafi qualsiasi, dati in ordine qualsiasi, il livello è la catena più lunga."""
    n = data.draw(st.integers(1, 7))
    edges = {
        i: data.draw(st.lists(st.integers(0, i - 1), unique=True, max_size=3)) if i else []
        for i in range(n)
    }
    inputs = data.draw(st.sets(st.integers(0, n - 1)))
    order = data.draw(st.permutations([i for i in range(n) if i not in inputs]))
    graph = {i: edges[i] for i in order}
    found = levels(graph)
    mentioned = set(order) | {source for i in order for source in edges[i]}
    assert found == {value: longest_chain(graph, value) for value in mentioned}
    assert depth(graph) == max(found.values(), default=0)
    assert sum(widths(graph)) == len(graph)


def test_depth_of_small_graphs_by_hand():
    """§1 ¶2: niente da calcolare, un valore senza dipendenze, due rami di lunghezza diversa."""
    assert depth({}) == 0
    assert widths({}) == []
    assert levels({"a": []}) == {"a": 1}
    assert levels({"c": ["b", "x"], "b": ["a"], "a": []}) == {"x": 0, "a": 1, "b": 2, "c": 3}
    assert widths({"c": ["b", "x"], "b": ["a"], "a": [], "d": ["x"]}) == [2, 1, 1]


@pytest.mark.parametrize("n", LENGTHS)
def test_one_value_per_step_against_all_at_once(n):
    """§1 ¶2: nella ricorrenza a ogni passo è pronto un valore, nell'attenzione tutti e n."""
    assert widths(recurrence_graph(n)) == [1] * n
    assert widths(attention_graph(n)) == [n]
    assert widths(convolution_graph(n, 3)) == [n]


def test_processors_do_not_shorten_a_chain():
    """§1 ¶2: alla ricorrenza un processore basta e mille non servono; l'attenzione li usa."""
    chain, all_at_once = recurrence_graph(11), attention_graph(11)
    assert [steps(chain, p) for p in (1, 2, 1000)] == [11, 11, 11]
    assert [steps(all_at_once, p) for p in (1, 2, 3, 11, 1000)] == [11, 6, 4, 1, 1]
    assert steps(scan_graph(5), 2) == 2 + 2 + 1


@given(st.integers(1, 40), st.integers(1, 50))
def test_steps_lie_between_depth_and_work(n, processors):
    """§1 ¶2: mai meno della catena né del lavoro diviso i processori, mai più della loro somma."""
    graph = scan_graph(n)
    least = max(depth(graph), math.ceil(len(graph) / processors))
    assert least <= steps(graph, processors) <= len(graph) / processors + depth(graph)


def layered_recurrence(layers: int, n: int) -> dict:
    """Più strati ricorrenti, uno sull'altro: ogni stato aspetta il vicino e quello di sotto."""
    return {
        (layer, t): [(layer, t - 1), (layer - 1, t)]
        for layer in range(1, layers + 1)
        for t in range(1, n + 1)
    }


def test_recurrent_layers_advance_as_a_wavefront():
    """§1 ¶2: N strati ricorrenti fanno n + N − 1 passi, e mai più di N stati insieme."""
    graph = layered_recurrence(3, 7)
    assert depth(graph) == 7 + 3 - 1
    assert widths(graph) == [1, 2, 3, 3, 3, 3, 3, 2, 1]


def test_reading_both_ways_adds_one_step():
    """§1, esercizio: due catene opposte e un'uscita che le legge entrambe: n + 1 passi."""
    n = 7
    graph = {
        **{("avanti", t): [("avanti", t - 1), ("x", t)] for t in range(1, n + 1)},
        **{("indietro", t): [("indietro", t + 1), ("x", t)] for t in range(1, n + 1)},
        **{("z", t): [("avanti", t), ("indietro", t)] for t in range(1, n + 1)},
    }
    assert depth(graph) == n + 1
    assert widths(graph) == [2, 2, 2, 2, 3, 4, 4, 2]


def test_stacked_attention_takes_as_many_steps_as_layers():
    """§1 ¶4: N strati di attenzione fanno N passi, qualunque sia n."""
    for n in (2, 13):
        stack = {
            (layer, i): [(layer - 1, j) for j in range(n)]
            for layer in range(1, 7)
            for i in range(n)
        }
        assert depth(stack) == 6


# La ricorrenza lineare, che si può spezzare


@given(st.integers(1, 13))
def test_linear_recurrence_equals_its_scan(n):
    """§1 ¶2: h_t = a_t h_{t−1} + b_t, a coppie, dà gli stessi numeri del ciclo."""
    a, b = torch.randn(2, 2, n, 3).double()
    h, expected = torch.zeros(2, 3).double(), []
    for t in range(n):
        h = a[:, t] * h + b[:, t]
        expected.append(h)
    assert_equal(linear_scan(a, b), torch.stack(expected, dim=1))


def test_scan_of_four_by_hand():
    """§1 ¶2: a = ½, b = 8, 4, 2, 4: gli stati 8, 8, 6, 7 della pagina."""
    a, b = torch.full((4, 1), 0.5), torch.tensor([[8.0], [4], [2], [4]])
    assert linear_scan(a, b).flatten().tolist() == [8, 8, 6, 7]


@pytest.mark.parametrize(("n", "rounds"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4)])
def test_scan_takes_log_n_steps(n, rounds):
    """§1 ¶2: ⌈log₂ n⌉ passi, contati sul grafo e sui giri che il codice fa."""
    assert depth(scan_graph(n)) == rounds
    calls = []
    a, b = torch.ones(2, n, 1)

    class Spy(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):
            calls.append(function)
            return function(*args, **(kwargs or {}))

    with Spy():
        linear_scan(a, b)
    assert calls.count(nn.functional.pad) == 2 * rounds


@pytest.mark.parametrize("n", [2, 5, 8, 13])
def test_scan_has_the_dependencies_of_the_chain(n):
    """§1 ¶2: più corta, ma non più ignorante: l'ultimo valore di t dipende da x_1 … x_t."""
    graph = scan_graph(n)
    assert sum(widths(graph)) == sum(n - 2**k for k in range(math.ceil(math.log2(n))))
    last = {("x", t): ("x", t) for t in range(1, n + 1)}
    latest = {1: ("x", 1)}
    for value in graph:
        _, distance, t = value
        if t not in latest or latest[t][1] == "x" or distance > latest[t][1]:
            latest[t] = value
    for t in range(2, n + 1):
        inputs = {value for value in ancestors(graph, latest[t]) if value in last}
        assert inputs == {("x", s) for s in range(1, t + 1)}
    assert all(len(sources) == 2 for sources in graph.values())


def test_tanh_of_tanh_is_not_of_the_same_form():
    """§1 ¶2: tolta una tanh, un passo di Elman è affine; due passi no; due passi lineari sì."""
    cell = Elman(*(torch.tensor(it).double() for it in ([[1.0]], [[2.0]], [0.5])))
    points = torch.linspace(-0.7, 0.7, 9).double()[:, None]
    states = recurrence(cell, points, torch.zeros(9, 2, 1).double()).atanh()
    slopes = states.diff(dim=0) / points.diff(dim=0)[:, None]
    assert_equal(slopes[:, 0], torch.full((8, 1), 2.0).double(), 1e-10)
    assert slopes[:, 1].max() > 2 * slopes[:, 1].min()
    a, b = torch.full((9, 3, 1), 2.0).double(), torch.full((9, 3, 1), 0.5).double()
    b[:, 0] = points
    twice = linear_scan(a, b)[:, 2]
    assert_equal(twice.diff(dim=0) / points.diff(dim=0), torch.full((8, 1), 4.0).double(), 1e-10)


# ¶3: l'attenzione


def test_attention_reads_every_input_and_no_other_output():
    """§1 ¶3: ogni uscita dipende da tutti gli ingressi, vicini e lontani, e solo da quelli."""
    graph = attention_graph(5)
    assert set(graph) == {("z", i) for i in range(1, 6)}
    assert all(list(sources) == [("x", j) for j in range(1, 6)] for sources in graph.values())


def test_convolution_reads_only_its_window():
    """§1 ¶3: le posizioni da i − k + 1 a i; all'inizio quelle che esistono."""
    graph = convolution_graph(5, 3)
    assert [[j for _, j in graph["z", i]] for i in range(1, 6)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [2, 3, 4],
        [3, 4, 5],
    ]
    assert {letter for sources in graph.values() for letter, _ in sources} == {"x"}
    assert depth(convolution_graph(5, 1)) == 1


def test_the_graphs_are_those_of_real_layers():
    """§1 ¶3: chi legge chi, nelle derivate degli strati veri, è ciò che dicono i grafi."""
    n, x = 7, torch.randn(7, 3, dtype=torch.float64)
    w_x, w_h = torch.randn(2, 3, 3, dtype=torch.float64) / 2
    kernel = torch.randn(3, 3, 3, dtype=torch.float64)
    for layer, graph, name in (
        (self_attention, attention_graph(n), "z"),
        (lambda it: recurrent(it, w_x, w_h), recurrence_graph(n), "h"),
        (lambda it: convolutional(it, kernel), convolution_graph(n, 3), "z"),
    ):
        seen = reads(layer, x)
        for i in range(n):
            inputs = {value for value in ancestors(graph, (name, i + 1)) if value[0] == "x"}
            assert inputs == {("x", j + 1) for j in range(n) if seen[i, j]}


# Il Fortran della pagina


def test_fortran_on_the_page(fortran, call_fortran):
    """§1 ¶2: la catena e la sua versione a coppie danno gli stessi numeri del modulo."""
    library = fortran(STEM)
    for n in (1, 2, 7, 13):
        a, b, x = torch.randn(3, n).double()
        chain, scan, alone = torch.zeros(3, n).double()
        call_fortran(library.chain, n, a, b, chain)
        call_fortran(library.scan, n, a, b, scan)
        call_fortran(library.alone, n, a, b, x, alone)
        expected = linear_scan(a[:, None], b[:, None])[:, 0]
        assert_equal(chain, expected)
        assert_equal(scan, expected)
        assert_equal(alone, a * x + b)


@pytest.mark.usefixtures("compile_fortran")
@pytest.mark.parametrize("licence", ["-O3", "-Ofast"])
def test_the_compiler_vectorises_only_independent_iterations(licence, tmp_path):
    """§1 ¶2: gfortran dichiara quali cicli ha vettorizzato: `alone` sì, `chain` no.

    Nemmeno quando può spostare le parentesi.
    """
    page = (ROOT / "paper_it" / f"{STEM}.md").read_text(encoding="utf-8")
    source = tmp_path / "page.f90"
    text = "\n".join(block.content for block in blocks(page) if block.language == "fortran")
    source.write_text(text, encoding="utf-8")
    command = ["gfortran", "-std=f2018", licence, "-fopt-info-vec-optimized", "-c", str(source)]
    done = subprocess.run(
        [*command, "-o", str(tmp_path / "page.o")], capture_output=True, text=True, check=True
    )
    lines = text.split("\n")
    starts = {
        match[1]: number
        for number, line in enumerate(lines, start=1)
        if (match := re.match(r"subroutine (\w+)\(", line))
    }
    ends = [n for n, line in enumerate(lines, start=1) if line.startswith("end subroutine")]
    vectorised = {
        int(n) for n in re.findall(r":(\d+):\d+: optimized: loop vectorized", done.stderr)
    }

    def was_vectorised(name: str) -> bool:
        end = next(n for n in ends if n > starts[name])
        return any(starts[name] < n < end for n in vectorised)

    assert was_vectorised("alone")
    assert was_vectorised("scan")
    assert not was_vectorised("chain")


# Gli errori


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: recurrence(random_cell(), torch.zeros(5).double(), torch.zeros(0, 3).double()),
            "x: dato: nessuna posizione; atteso: almeno una",
        ),
        (
            lambda: Elman(torch.zeros(3, 5), torch.zeros(5, 7), torch.zeros(5)),
            "w_h: dato: [5, 7]; atteso: [5, 5]",
        ),
        (
            lambda: Elman(torch.zeros(3, 7), torch.zeros(5, 5), torch.zeros(5)),
            "w_x: dato: [3, 7]; atteso: [d_in, 5], come w_h",
        ),
        (
            lambda: Elman(torch.zeros(3, 5), torch.zeros(5, 5), torch.zeros(7)),
            "b: dato: [7]; atteso: [5], come w_h",
        ),
        (
            lambda: Elman(torch.zeros(3, 5), torch.zeros(5, 3), torch.zeros(5)),
            "w_h: dato: [5, 3]; atteso: [5, 5]",
        ),
        (
            lambda: Elman(torch.zeros(3, 2), torch.zeros(5, 5), torch.zeros(5)),
            "w_x: dato: [3, 2]; atteso: [d_in, 5], come w_h",
        ),
        (
            lambda: Elman(torch.zeros(3, 5), torch.zeros(5, 5), torch.zeros(2)),
            "b: dato: [2]; atteso: [5], come w_h",
        ),
        (
            lambda: random_cell()(torch.zeros(2).double(), torch.zeros(3).double()),
            "h: dato: larghezza 2; atteso: 5",
        ),
        (
            lambda: random_cell()(torch.zeros(5).double(), torch.zeros(7).double()),
            "x: dato: larghezza 7; atteso: 3",
        ),
        (
            lambda: random_cell()(torch.zeros(7).double(), torch.zeros(3).double()),
            "h: dato: larghezza 7; atteso: 5",
        ),
        (
            lambda: random_cell()(torch.zeros(5).double(), torch.zeros(2).double()),
            "x: dato: larghezza 2; atteso: 3",
        ),
        (
            lambda: depth({"a": ["b"], "b": ["a"]}),
            "graph: dato: un ciclo, ['a', 'b', 'a']; atteso: un grafo senza cicli",
        ),
        (lambda: steps({}, 0), "processors: dato: 0; atteso: almeno 1"),
        (lambda: convolution_graph(3, 0), "kernel: dato: 0; atteso: almeno 1"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    """Ogni errore nomina l'argomento, ciò che è stato dato e ciò che era atteso."""
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


def test_smallest_sizes_are_accepted():
    """Una posizione, larghezza 1, un processore: i casi limite valgono."""
    one = torch.ones(1, 1)
    assert recurrence(Elman(one, one, one[0]), one[0], one).shape == (1, 1)
    assert steps(recurrence_graph(1), 1) == 1


def test_the_module_and_its_scan_agree_on_the_linear_case():
    """§1 ¶2: con a costante, la ricorrenza del modulo e il suo scan coincidono."""
    x = torch.randn(7, 5).double()
    chain = recurrence(lambda h, x_t: 0.9 * h + 0.1 * x_t, torch.zeros(5).double(), x)
    assert_equal(linear_scan(torch.full_like(x, 0.9), 0.1 * x), chain)
    pairs = itertools.pairwise([torch.zeros(5).double(), *chain])
    for (before, after), x_t in zip(pairs, x, strict=True):
        assert_equal(after, 0.9 * before + 0.1 * x_t)
