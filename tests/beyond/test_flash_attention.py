"""L'eq. (1) come kernel: interpretata su CPU, compilata per quattro GPU, eseguita dove una c'è."""

import math
import os
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from attention.s3_2_1_scaled_dot_product import scaled_dot_product_attention
from weave.house import ROOT
from weave.pact import blocks

PAGE = "beyond/flash_attention"

LENGTHS = [1, 3, 17, 64, 65, 130]
"""Sotto, sopra e sul bordo di una piastrella."""


@pytest.fixture
def flash():
    """Il modulo, dove c'è Triton."""
    try:
        import triton  # noqa: F401
    except ImportError:
        (pytest.fail if "CI" in os.environ else pytest.skip)("triton non c'è")
    from attention.beyond import flash_attention

    return flash_attention


@pytest.fixture
def small(flash, monkeypatch):
    """Una funzione che mette una piastrella piccola al posto di tutte: i giri diventano molti."""

    def choose(rows: int, columns: int) -> None:
        tiles = (flash.Tile(rows, columns, 4, 2),)
        for name, table in flash.HOPPER.items():
            monkeypatch.setitem(flash.HOPPER, name, dict.fromkeys(table, tiles))

    return choose


def problem(b: int, h: int, m: int, n: int, d: int) -> list[Tensor]:
    """Q, K, V e il gradiente dell'uscita in doppia precisione, esatti anche in BF16."""
    shapes = ((b, h, m, d), (b, h, n, d), (b, h, n, d), (b, h, m, d))
    return [torch.randn(shape).bfloat16().double() for shape in shapes]


def mask_of(m: int, n: int, causal: bool, lengths: list[int] | None = None) -> Tensor:
    """La stessa maschera, scritta per intero: [batch, 1, m, n]."""
    mask = torch.ones(1, 1, m, n, dtype=torch.bool)
    if causal:
        mask = mask.tril()
    if lengths is not None:
        mask = mask & (torch.arange(n) < torch.tensor(lengths)[:, None])[:, None, None, :]
    return mask


def oracle(tensors: list[Tensor], mask: Tensor) -> list[Tensor]:
    """L'uscita e i tre gradienti della forma alla lettera, in doppia precisione."""
    *inputs, grad = tensors
    inputs = [it.clone().requires_grad_() for it in inputs]
    output = scaled_dot_product_attention(*inputs, mask)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


def ours(flash, tensors: list[Tensor], causal: bool, lengths: list[int] | None = None):
    """Le stesse quattro cose dal kernel, nel tipo dei tensori dati."""
    *inputs, grad = tensors
    inputs = [it.detach().requires_grad_() for it in inputs]
    seen = None if lengths is None else torch.tensor(lengths, device=grad.device)
    function = flash.flash_attention
    if grad.dtype == torch.float32:
        function = flash.FlashAttention.apply
    output = function(*inputs, seen, causal)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


def assert_equal(results: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Ogni tensore entro la tolleranza, in proporzione al suo elemento più grande, o a 1."""
    for result, exact in zip(results, expected, strict=True):
        size = max(1.0, exact.abs().max().item())
        torch.testing.assert_close(
            result.double().cpu(), exact, rtol=0, atol=tolerance * size, equal_nan=False
        )


# Gli stessi numeri della doppia precisione


@pytest.mark.parametrize("causal", [False, True], ids=["intera", "causale"])
@pytest.mark.parametrize("length", LENGTHS)
def test_output_and_gradients_are_those_of_double_precision(length, causal, flash, small):
    """Interpretato in FP32, entro 1e-5, con piastrelle che il bordo taglia in due modi."""
    tensors = problem(1, 2, length, length, 64)
    expected = oracle(tensors, mask_of(length, length, causal))
    for rows, columns in ((16, 32), (32, 16)):
        small(rows, columns)
        assert_equal(ours(flash, [it.float() for it in tensors], causal), expected, 1e-5)


@pytest.mark.parametrize(("m", "n"), [(1, 130), (130, 1), (17, 65), (65, 17)])
def test_queries_and_keys_may_differ_in_number(m, n, flash, small):
    """L'attenzione fra encoder e decoder: m query, n key, due lunghezze qualunque."""
    small(16, 32)
    tensors = problem(2, 1, m, n, 128)
    expected = oracle(tensors, mask_of(m, n, causal=False))
    assert_equal(ours(flash, [it.float() for it in tensors], False), expected, 1e-5)


@pytest.mark.parametrize("causal", [False, True], ids=["intera", "causale"])
def test_keys_beyond_the_length_are_not_seen(causal, flash, small):
    """Una lunghezza per frase: zero, a metà di una piastrella, sul bordo, tutta, e oltre n."""
    small(16, 16)
    lengths = [0, 5, 32, 37, 99]
    tensors = problem(5, 2, 37, 37, 64)
    expected = oracle(tensors, mask_of(37, 37, causal, lengths))
    results = ours(flash, [it.float() for it in tensors], causal, lengths)
    assert_equal(results, expected, 1e-5)
    assert all(not it[0].any() for it in results)
    for grad in results[2:]:
        assert not grad[1, :, 5:].any()
        assert grad[1, :, :5].all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("width", [64, 128])
@pytest.mark.parametrize("causal", [False, True], ids=["intera", "causale"])
def test_half_precision_stays_within_its_rounding(dtype, width, causal, device, flash):
    """Con le piastrelle vere, e su una GPU con il kernel vero: lunghezze dispari, passi liberi."""
    m = n = 333 if device == "cuda" else 77
    if not causal:
        n -= 130 if device == "cuda" else 30
    lengths = [n - 7, 1]
    tensors = problem(2, 3, m, n, width)
    expected = oracle(tensors, mask_of(m, n, causal, lengths))
    given = [it.to(device, dtype).transpose(1, 2).contiguous().transpose(1, 2) for it in tensors]
    results = ours(flash, given, causal, lengths)
    assert all(it.dtype == dtype for it in results)
    assert_equal(results, expected, 4 * torch.finfo(dtype).eps)


def test_bf16_on_a_cpu_is_rounded_once(flash, small):
    """Su CPU il BF16 si calcola in FP32: gli stessi numeri, arrotondati, anche oltre 65 504."""
    small(16, 32)
    tensors = problem(2, 3, 17, 17, 64)
    tensors[2] *= 2**20
    exact = ours(flash, [it.float() for it in tensors], causal=True)
    found = ours(flash, [it.bfloat16() for it in tensors], causal=True)
    assert all(map(torch.equal, found, (it.bfloat16() for it in exact)))


@pytest.mark.parametrize("causal", [False, True], ids=["intera", "causale"])
def test_scores_may_be_huge(causal, flash, small):
    """Punteggi a migliaia: nessun esponenziale trabocca. In FP32, a 3 000, 1e-3 è un ulp o due."""
    small(16, 16)
    tensors = problem(1, 1, 40, 40, 64)
    tensors[0] *= 500
    expected = oracle(tensors, mask_of(40, 40, causal))
    assert expected[0].isfinite().all()
    assert_equal(ours(flash, [it.float() for it in tensors], causal), expected, 1e-3)


def test_scores_far_below_zero_do_not_meet_the_padding(flash, small):
    """Oltre il bordo c'è −∞, non lo zero che il TMA legge: con punteggi a −400 vincerebbe."""
    small(16, 16)
    tensors = problem(1, 1, 5, 19, 64)
    tensors[0][:], tensors[1][:] = -1.0, 50.0
    results = ours(flash, [it.float() for it in tensors], causal=False)
    assert_equal(results, oracle(tensors, mask_of(5, 19, causal=False)), 1e-5)
    mean = tensors[2].mean(2, keepdim=True)
    assert_equal(results[:1], [mean.expand(1, 1, 5, 64)], 1e-6)


# La disposizione in memoria


def fused(shape: torch.Size) -> Tensor:
    """Una fetta di un tensore [batch, righe, 3, teste, d], come la dà un'unica proiezione."""
    b, h, t, d = shape
    return torch.empty(b, t, 3, h, d)[:, :, 1].transpose(1, 2)


def odd_rows(shape: torch.Size) -> Tensor:
    """Righe a un passo dispari: ciascuna comincia a un indirizzo che il TMA non sa leggere."""
    *front, d = shape
    return torch.empty(*front, d + 1)[..., :d]


def shifted(shape: torch.Size) -> Tensor:
    """Un tensore contiguo che comincia 4 byte più in là."""
    return torch.empty(math.prod(shape) + 1)[1:].view(shape)


def columns_first(shape: torch.Size) -> Tensor:
    """Il passo 1 non è l'ultimo."""
    *front, t, d = shape
    return torch.empty(*front, d, t).mT


def every_other(shape: torch.Size) -> Tensor:
    """Un numero sì e uno no: tutti i passi sono multipli di 16 byte, ma l'ultimo non è 1."""
    *front, d = shape
    return torch.empty(*front, 2 * d)[..., ::2]


@pytest.mark.parametrize(
    ("layout", "copied"),
    [
        (fused, False),
        (odd_rows, True),
        (shifted, True),
        (columns_first, True),
        (every_other, True),
    ],
)
def test_strides_do_not_change_the_result(layout, copied, flash, small):
    """Fetta, passo dispari, base spostata, colonne prima, passo 2: i numeri del contiguo."""
    small(16, 16)
    tensors = [it.float() for it in problem(2, 3, 19, 19, 64)]
    expected = [it.double() for it in ours(flash, tensors, causal=True)]
    laid = [layout(it.shape).copy_(it) for it in tensors]
    assert all((flash.aligned(it) is it) != copied for it in laid)
    assert_equal(ours(flash, laid, causal=True), expected, 1e-6)


def test_what_the_tma_cannot_read_is_copied_with_good_strides(flash):
    """Passo zero; passo dispari su un lato lungo 1, che PyTorch chiama contiguo lo stesso."""
    repeated = torch.randn(1, 1, 5, 64).expand(2, 3, 5, 64)
    single = torch.randn(64 * 8).as_strided((1, 1, 5, 64), (7, 3, 64, 1))
    assert single.is_contiguous()
    for tensor in (repeated, single):
        copy = flash.aligned(tensor)
        assert copy.stride() == torch.empty(tensor.shape).stride()
        assert torch.equal(copy, tensor)
        flash.descriptor(copy, 16)
    half = torch.randn(2, 2, 3, 72).half()[..., :64]
    assert flash.aligned(half) is half


@pytest.mark.parametrize("steps", [0, 2])
def test_lengths_may_have_any_stride(steps, flash, small):
    """Le lunghezze si leggono una per frase, comunque stiano in memoria."""
    small(16, 32)
    q, k, v, _ = (it.half() for it in problem(3, 1, 9, 9, 64))
    numbers = torch.tensor([[1, 99], [8, 99], [4, 99]])
    lengths = numbers[:, 0] if steps else numbers[0, :1].expand(3)
    assert lengths.stride() == (steps,)
    found = flash.flash_attention(q, k, v, lengths)
    assert torch.equal(found, flash.flash_attention(q, k, v, lengths.clone()))


def test_second_derivatives_are_refused_and_not_forgotten(flash, small):
    """Non c'è un kernel per loro: meglio un errore che un gradiente senza un pezzo."""
    small(16, 32)
    q, k, v, _ = (it.half() for it in problem(1, 1, 5, 5, 64))
    q.requires_grad_()
    output = flash.flash_attention(q, k, v)
    with pytest.raises(RuntimeError, match=r"^create_graph: dato: True; atteso: False"):
        torch.autograd.grad(output.sum(), q, create_graph=True)


def test_gradient_of_a_sum_has_zero_strides_and_is_accepted(flash, small):
    """Il gradiente che arriva da `sum` è un solo 1 ripetuto."""
    small(16, 16)
    tensors = problem(1, 2, 17, 17, 64)
    tensors[3] = torch.ones(()).double().expand(1, 2, 17, 64)
    expected = oracle(tensors, mask_of(17, 17, causal=False))
    given = [it.float() for it in tensors[:3]] + [torch.ones(()).expand(1, 2, 17, 64)]
    assert_equal(ours(flash, given, causal=False), expected, 1e-5)


def test_output_keeps_the_layout_of_the_query(flash):
    """Da [batch, righe, teste, d] si torna a [batch, righe, teste · d] senza copiare."""
    q = torch.randn(2, 5, 3, 64, dtype=torch.float16).transpose(1, 2)
    output = flash.flash_attention(q, q, q)
    assert output.stride() == q.stride()
    assert output.transpose(1, 2).is_contiguous()


# Ciò che il kernel promette


def test_online_softmax_by_hand(flash, small):
    """A matita: esponenziali 1, 2 | 5 in due piastrelle, pesi 1/8, 2/8, 5/8, uscita (6, 7)."""
    small(16, 2)
    q, k, v = torch.zeros(1, 1, 1, 64), torch.zeros(1, 1, 3, 64), torch.zeros(1, 1, 3, 64)
    q[..., 0] = math.sqrt(64)
    k[0, 0, :, 0] = torch.tensor([1.0, 2, 5]).log()
    v[0, 0, :, :2] = torch.tensor([[8.0, 0], [0, 8], [8, 8]])
    output, logs = flash.forward(q, k, v, None, False, flash.Tile(16, 2, 4, 2))
    assert_equal([output[0, 0, 0, :2]], [torch.tensor([6.0, 7]).double()], 1e-6)
    assert math.isclose(logs[0, 0].item(), 8 * math.log(8), rel_tol=1e-6)


@pytest.mark.parametrize("causal", [False, True], ids=["intera", "causale"])
@pytest.mark.parametrize("length", [1, 17, 65])
def test_without_the_tma_the_numbers_are_the_same(length, causal, flash, small, monkeypatch):
    """Il descrittore fatto dal kernel e quello ricevuto dicono la stessa cosa, bit per bit."""
    small(16, 32)
    tensors = [it.half() for it in problem(2, 3, length, length, 64)]
    lengths = [length, -(-length // 2)]
    expected = ours(flash, tensors, causal, lengths)
    monkeypatch.setattr(flash, "has_tma", lambda tensor: False)
    for result, wanted in zip(ours(flash, tensors, causal, lengths), expected, strict=True):
        assert torch.equal(result, wanted)


@pytest.mark.parametrize("capability", [(8, 0), (8, 9), (9, 0), (12, 0)])
def test_the_tma_is_there_from_hopper_on(capability, flash, monkeypatch, our_own_errors):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    on_the_card = SimpleNamespace(is_cuda=True, device="scheda")
    assert flash.has_tma(on_the_card) == (capability >= (9, 0))
    assert flash.has_tma(torch.empty(1))


def test_what_is_remembered_grows_with_the_length_and_not_its_square(flash, small):
    """Fra i tensori salvati non ce n'è uno di m × n numeri."""
    small(16, 16)
    saved: list[int] = []

    def pack(tensor: Tensor) -> Tensor:
        saved.append(tensor.numel())
        return tensor

    q = torch.randn(1, 2, 130, 64, dtype=torch.float16, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda it: it):
        flash.flash_attention(q, q.detach(), q.detach())
    assert sorted(saved) == [2 * 132, *[q.numel()] * 4]


def test_forward_is_one_launch_and_backward_two(flash, small, monkeypatch):
    """Uno in avanti; all'indietro i prodotti interni e i tre gradienti insieme."""
    launches: list[str] = []
    original = flash.launch

    def launch(kernel, blocks, arguments, **constants):
        launches.append(f"{kernel.fn.__name__} {blocks}")
        original(kernel, blocks, arguments, **constants)

    monkeypatch.setattr(flash, "launch", launch)
    small(16, 32)
    ours(flash, [it.float() for it in problem(2, 3, 65, 33, 64)], causal=False)
    assert launches == ["forward_kernel 30", "inner_kernel 12", "backward_kernel 12"]


@pytest.fixture
def touched(flash, monkeypatch):
    """Una funzione che dà gli indirizzi letti, scritti e sommati dall'ultima volta, in ordine."""
    from triton.runtime.interpreter import interpreter_builder

    seen: dict[str, list[int]] = {"masked_load": [], "masked_store": [], "atomic_rmw": []}

    def spy(kind: str, pointers_at: int, mask_at: int) -> None:
        original = getattr(interpreter_builder, f"create_{kind}")

        def wrapper(*arguments, **names):
            pointers = arguments[pointers_at].data.ravel()
            mask = np.asarray(arguments[mask_at].data).ravel()
            seen[kind] += [int(p) for p, on in zip(pointers, mask, strict=True) if on]
            return original(*arguments, **names)

        monkeypatch.setattr(interpreter_builder, f"create_{kind}", wrapper)

    spy("masked_load", 0, 1)
    spy("masked_store", 0, 2)
    spy("atomic_rmw", 1, 3)

    def take() -> list[list[int]]:
        found = [sorted(places) for places in seen.values()]
        for places in seen.values():
            places.clear()
        return found

    return take


@pytest.fixture
def backward_arguments(flash, monkeypatch):
    """Gli argomenti di ogni lancio all'indietro, che `padded` può falsificare."""
    original, found = flash.launch, SimpleNamespace(all=[], padded=None)

    def launch(kernel, blocks, arguments, **constants):
        if kernel is flash.backward_kernel:
            found.all.append(arguments)
            padded = arguments[13] if found.padded is None else found.padded
            arguments = (*arguments[:13], padded, *arguments[14:])
        original(kernel, blocks, arguments, **constants)

    monkeypatch.setattr(flash, "launch", launch)
    return found


def test_it_touches_its_tensors_and_nothing_else(flash, touched, backward_arguments):
    """Legge tutto ciò che riceve e scrive ogni uscita una volta sola, senza uscire dai bordi.

    Le somme per il gradiente delle query le fa ogni piastrella di key, una volta per elemento.
    """
    tile = flash.Tile(16, 32, 4, 2)
    q, k, v, grad = (it.float() for it in problem(1, 2, 19, 35, 64))
    output, logs = flash.forward(q, k, v, None, False, tile)
    assert_touched(touched, [q, k, v], [output, logs[:, :19]])
    inner = flash.inner_products(output, grad, logs)
    assert_touched(touched, [output, grad], [inner[:, :19]])
    _, *others = flash.backward(q, k, v, grad, logs, inner, None, False, tile)
    (arguments,) = backward_arguments.all
    rows = logs[:, :19], inner[:, :19]
    assert_touched(touched, [q, k, v, grad, *rows], others, [arguments[6]] * 2)


def assert_touched(touched, read: list[Tensor], written: list[Tensor], added=()) -> None:
    """Letti per intero questi, scritti una volta questi, sommati questi; e null'altro."""
    loads, stores, sums = touched()
    assert set(loads) == set().union(*map(addresses, read))
    assert stores == sorted(place for it in written for place in addresses(it))
    assert sums == sorted(place for it in added for place in addresses(it))


def test_sums_are_found_beyond_two_to_the_31(flash, backward_arguments, monkeypatch):
    """Con 2²⁵ righe da 64 la seconda testa sta 2³¹ numeri più in là: si guarda dove si somma."""
    from triton.runtime.interpreter import interpreter_builder

    places: list[int] = []

    def look(operation, pointers, values, *_):
        places.append(int(pointers.data.min()))
        return values

    monkeypatch.setattr(interpreter_builder, "create_atomic_rmw", look)
    backward_arguments.padded = 2**25
    q, k, v, grad = (it.float() for it in problem(1, 2, 5, 5, 64))
    flash.backward(q, k, v, grad, *torch.zeros(2, 2, 8), None, False, flash.Tile(16, 16, 4, 2))
    (arguments,) = backward_arguments.all
    assert [place - arguments[6].data_ptr() for place in places] == [0, 4 * 2**31]


def addresses(tensor: Tensor) -> set[int]:
    """Gli indirizzi di tutti gli elementi, se sono FP32."""
    places = torch.zeros(tensor.shape, dtype=torch.int64)
    for axis, (size, step) in enumerate(zip(tensor.shape, tensor.stride(), strict=True)):
        places += (torch.arange(size) * step).view(-1, *[1] * (tensor.dim() - axis - 1))
    return {tensor.data_ptr() + 4 * place for place in places.flatten().tolist()}


# La scelta delle piastrelle


@pytest.mark.parametrize(
    ("causal", "lengths", "ahead", "back"),
    [
        (False, None, [4, 4, 4, 4], [4, 4, 4, 4]),
        (True, None, [4, 3, 2, 1], [4, 3, 2, 1]),
        (False, [17], [2, 2, 2, 2], [4, 4, 0, 0]),
    ],
)
def test_no_turn_above_the_diagonal_or_beyond_the_length(
    causal, lengths, ahead, back, flash, small, monkeypatch
):
    """64 query e 64 key a piastrelle di 16: due prodotti per giro in avanti, cinque indietro.

    I blocchi stanno nell'ordine in cui partono: con la maschera, chi ha più giri è il primo.
    """
    from triton.runtime.interpreter import interpreter_builder

    done, product = [], interpreter_builder.create_dot

    def counted(*arguments):
        done.append(interpreter_builder.grid_idx[0])
        return product(*arguments)

    monkeypatch.setattr(interpreter_builder, "create_dot", counted)
    small(16, 16)
    ours(flash, [it.float() for it in problem(1, 1, 64, 64, 64)], causal, lengths)
    found = [done.count(block) for block in range(4)]
    assert found == [2 * a + 5 * b for a, b in zip(ahead, back, strict=True)]


def test_a_compiled_program_goes_through_the_kernel_as_it_is(flash):
    query = torch.randn(1, 1, 5, 64).half()

    def program(query: Tensor) -> Tensor:
        return flash.flash_attention(query * 2, query, query) + 1

    assert torch.equal(torch.compile(program, backend="eager")(query), program(query))


@pytest.mark.parametrize("length", [-(2**63), -(2**31) - 1, -1, 2**31, 2**32 + 3, 2**63 - 1])
def test_lengths_of_any_size_are_understood(length, flash):
    """Un intero da 64 bit non si tronca: negativo è zero, oltre n è n."""
    tensors = [it.float() for it in problem(2, 1, 5, 5, 64)]
    seen = min(max(length, 0), 5)
    expected = [it.double() for it in ours(flash, tensors, False, [seen, 3])]
    assert_equal(ours(flash, tensors, False, [length, 3]), expected, 1e-6)


def test_the_fastest_tile_is_chosen_once_and_kept(flash, monkeypatch, our_own_errors):
    """La scelta dipende da scheda, verso, larghezza e causalità; mai dalla lunghezza."""

    class OnTheGpu:
        is_cuda = True

        def __init__(self, length: int, device: str, width: int):
            self.length, self.device, self.width = length, device, width

        def size(self, axis: int) -> int:
            return self.width if axis == -1 else self.length

    tried: list[flash.Tile] = []

    def do_bench(run, **_):
        tried.append(run())
        return {128: 2.0, 64: 1.0}[tried[-1].columns]

    fast, slow = flash.Tile(128, 64, 4, 3), flash.Tile(128, 128, 8, 3)
    monkeypatch.setattr(flash, "do_bench", do_bench)
    monkeypatch.setattr(flash, "CHOSEN", {})
    for name, table in flash.HOPPER.items():
        monkeypatch.setitem(flash.HOPPER, name, dict.fromkeys(table, (slow, fast)))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: recording)

    def choose(query: int, key: int, card="scheda", name="forward", d=64, causal=True):
        """La piastrella scelta per queste lunghezze."""
        sides = (OnTheGpu(it, card, d) for it in (query, key))
        return flash.tuned(name, *sides, causal, lambda tile: tile)

    recording = True
    assert choose(1024, 1024) == slow
    recording = False
    assert [choose(1023, 4096), choose(4096, 1023)] == [slow, slow]
    assert tried == []
    assert [choose(1024, 1024), choose(7, 7), choose(4096, 2048)] == [fast] * 3
    assert tried == [slow, fast]
    for other in ({"card": "altra"}, {"name": "backward"}, {"d": 128}, {"causal": False}):
        tried.clear()
        assert choose(7, 7, **other) == slow
        assert choose(1024, 1024, **other) == choose(7, 7, **other) == fast
        assert tried == [slow, fast]
    for capability, table in (
        ((8, 9), flash.AMPERE),
        ((12, 0), flash.AMPERE),
        ((10, 0), flash.AMPERE),
    ):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, it=capability: it)
        monkeypatch.setattr(flash, "CHOSEN", {})
        assert choose(7, 7) == table["forward"][64, True][0]


# Il codice macchina, senza una GPU


class Card:
    """Una scheda che non c'è: quanto basta a Triton per compilare ciò che le si lancerebbe."""

    def __init__(self, capability: int):
        from triton.backends.compiler import GPUTarget

        self.target = GPUTarget("cuda", capability, 32)

    def get_current_target(self):
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.fixture
def compiled(flash, monkeypatch, tmp_path):
    """Il codice macchina di un kernel con gli argomenti che riceve davvero, per una scheda."""
    from triton import JITFunction
    from triton.runtime import driver

    from gpu_notes.sass_listing import disassemble

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    programs: list = []

    def launch(kernel, blocks, arguments, **constants):
        whole = JITFunction(kernel.fn)
        programs.append(whole.warmup(*arguments, grid=(blocks,), **constants))

    def compile_for(capability, name, width, causal, tile, n: int = 1024, padded: bool = True):
        """Il listato, e i byte di memoria condivisa."""
        monkeypatch.setattr(driver, "_active", Card(capability))
        monkeypatch.setattr(flash, "launch", launch)
        monkeypatch.setattr(flash, "has_tma", lambda tensor: capability >= 90)
        query, key, value, grad = torch.empty(4, 2, 3, n, width, dtype=torch.bfloat16)
        lengths = torch.tensor([n, 1]) if padded else None
        logs = torch.empty(6, -(-n // 4) * 4)
        if name == "forward":
            flash.forward(query, key, value, lengths, causal, tile)
        elif name == "inner":
            flash.inner_products(query, grad, logs)
        else:
            several = (query, key, value, grad, logs, torch.empty_like(logs))
            flash.backward(*several, lengths, causal, tile)
        program = programs.pop()
        return disassemble(program.asm["cubin"]), program.metadata.shared

    return compile_for


def every_case() -> list:
    """Ogni piastrella delle due tabelle, con il verso, la larghezza, la causalità e la scheda."""
    try:
        from attention.beyond.flash_attention import AMPERE, HOPPER
    except ImportError:
        return []
    return [
        pytest.param(name, *case, tile, capability, id=f"{name}-{case}-{tuple(tile)}-{capability}")
        for capability, tables in ((90, HOPPER), (80, AMPERE), (100, AMPERE), (120, AMPERE))
        for name, table in tables.items()
        for case, tiles in table.items()
        for tile in tiles
    ]


@pytest.mark.parametrize("padded", [True, False], ids=["lunghezze", "intere"])
@pytest.mark.parametrize(("name", "width", "causal", "tile", "capability"), every_case())
def test_machine_code_uses_the_tensor_cores_and_spills_nothing(
    name, width, causal, tile, capability, padded, compiled
):
    """HGMMA su Hopper, UTCHMMA o HMMA sulla B200, HMMA altrove; niente pila, nulla di versato."""
    from gpu_notes.sass_listing import census, parse

    listing, shared = compiled(capability, name, width, causal, tile, padded=padded)
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", listing).groups())
    (instructions,) = parse(listing).values()
    count = census(instructions)
    assert stack == count["LDL"] == count["STL"] == 0
    assert registers * 32 * tile.warps <= 65536
    products = hgmma(name, width, tile)
    if capability == 90:
        assert count["HGMMA"] == products
        assert count["HMMA"] == 0
        assert shared <= 227 * 1024
    elif capability == 100:
        assert count["UTCHMMA"] + count["HMMA"] > 0
        assert count["HGMMA"] == 0
        assert shared <= 227 * 1024
    else:
        assert count["HGMMA"] == 0
        assert count["HMMA"] >= 32
        assert shared <= 99 * 1024
    assert (count["UTMALDG"] > 0) == (capability >= 90)
    assert count["MUFU"] >= tile.rows * tile.columns // (32 * tile.warps)
    assert any(re.fullmatch("REDG?", it) for it in count) == (name == "backward")


@pytest.mark.parametrize("n", [1, 100, 1024])
@pytest.mark.parametrize("name", ["forward", "inner", "backward"])
def test_before_hopper_numbers_are_read_sixteen_bytes_at_a_time(name, n, compiled, flash):
    """Su sm_80, qualunque sia la lunghezza: il kernel sa che le righe sono allineate."""
    from gpu_notes.sass_listing import parse

    listing, _ = compiled(80, name, 64, False, flash.Tile(32, 64, 8, 2), n)
    (instructions,) = parse(listing).values()
    accesses = [it for it in instructions if it.opcode in ("LDG", "LDGSTS", "STG")]
    assert any("128" in it.modifiers for it in accesses)
    assert not any("U16" in it.modifiers for it in accesses)


@pytest.mark.parametrize(("name", "expected"), [("forward", [0, 8, 12]), ("backward", [0, 0, 0])])
def test_before_hopper_the_next_tiles_travel_while_this_one_is_multiplied(
    name, expected, compiled, flash
):
    """Su sm_80, in avanti, le copie asincrone; all'indietro `stages` non cambia nulla."""
    from gpu_notes.sass_listing import census, parse

    copies = []
    for stages in (1, 2, 3):
        listing, _ = compiled(80, name, 64, False, flash.Tile(64, 64, 4, stages))
        (instructions,) = parse(listing).values()
        copies.append(census(instructions)["LDGSTS"])
    assert copies == expected


def test_one_turn_is_what_the_page_says(compiled, flash):
    """64 query per 128 key, d_k = 64: 4 + 8 HGMMA, 64 + 2 esponenziali, 8 SHFL, e le copie."""
    from gpu_notes.sass_listing import census, parse

    listing, _ = compiled(90, "forward", 64, False, flash.Tile(64, 128, 4, 2))
    (instructions,) = parse(listing).values()
    count = census(instructions, full=True)
    assert count["HGMMA.64x128x16.F32.BF16"] == 4
    assert count["HGMMA.64x64x16.F32.BF16"] == 8
    assert count["MUFU.EX2"] == 64 + 2
    assert count["SHFL.BFLY"] == 2 * 2 * 2
    assert count["UTMASTG.4D"] == 1


def hgmma(name: str, width: int, tile) -> int:
    """Le HGMMA di un giro, per warp: ogni prodotto è 64 righe per gruppo, 16 addendi per volta."""
    groups = tile.warps // 4
    if name == "forward":
        return max(1, tile.rows // 64 // groups) * (width + tile.columns) // 16
    down = max(1, tile.columns // 64 // groups) * 2 * (width + tile.rows) // 16
    return down + max(1, tile.rows // 64 // groups) * tile.columns // 16


# Il Fortran della pagina


def test_fortran_of_the_page_gives_the_same_numbers(fortran, call_fortran):
    """La versione a piastrelle, con una tessera che non divide n, e con la maschera causale."""
    library = fortran(PAGE)
    for m, n, causal in ((3, 7, 0), (11, 11, 1), (5, 4, 0)):
        q, k, v, _ = (it[0, 0].contiguous() for it in problem(1, 1, m, n, 64))
        output = torch.full((m, 64), math.nan, dtype=torch.float64)
        call_fortran(library.flash, m, n, 64, 4, causal, q, k, v, output)
        mask = mask_of(m, n, bool(causal))[0, 0]
        assert_equal([output], [scaled_dot_product_attention(q, k, v, mask)], 1e-12)


def test_page_shows_one_fortran_routine():
    """Il riquadro che il test precedente compila c'è, ed è uno."""
    text = (ROOT / "paper_it" / f"{PAGE}.md").read_text(encoding="utf-8")
    assert [block.language for block in blocks(text)].count("fortran") == 1


# Gli errori

X = torch.ones(2, 3, 5, 64, dtype=torch.float16)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((X.float(), X, X), TypeError,
         "query: dato: torch.float32; atteso: un tensore torch.bfloat16 o torch.float16"),
        ((X, [1.0], X), TypeError,
         "key: dato: list; atteso: un tensore torch.bfloat16 o torch.float16"),
        ((X[0], X, X), ValueError,
         "query: dato: [3, 5, 64]; atteso: una forma [almeno 1, almeno 1, almeno 1, almeno 1]"),
        ((X[..., :32], X, X), ValueError, "query: dato: d = 32; atteso: d fra 64, 128"),
        ((X, X[:1], X), ValueError,
         "key: dato: [1, 3, 5, 64]; atteso: una forma [2, 3, almeno 1, 64]"),
        ((X, X[:, :, :0], X), ValueError,
         "key: dato: [2, 3, 0, 64]; atteso: una forma [2, 3, almeno 1, 64]"),
        ((X, X, X[:, :, :4]), ValueError,
         "value: dato: [2, 3, 4, 64]; atteso: una forma [2, 3, 5, 64]"),
        ((X, X, X.bfloat16()), TypeError,
         "value: dato: torch.bfloat16; atteso: torch.float16, come query"),
        ((X, X.to("meta"), X), ValueError,
             "key: dato: torch.strided su meta; atteso: torch.strided, su CPU o su una GPU"),
        ((X, X, X, torch.ones(2)), TypeError,
         "lengths: dato: torch.float32; atteso: un tensore denso torch.int32 o torch.int64"),
        ((X, X, X, [5, 5]), TypeError,
             "lengths: dato: list; atteso: un tensore denso torch.int32 o torch.int64"),
            ((X, X, X, torch.ones(2, dtype=torch.int16)), TypeError,
             "lengths: dato: torch.int16; atteso: un tensore denso torch.int32 o torch.int64"),
            ((X.to("meta"),) * 3, ValueError,
             "query: dato: torch.strided su meta; atteso: torch.strided, su CPU o su una GPU"),
            ((X.to_sparse(), X, X), ValueError,
             "query: dato: torch.sparse_coo su cpu; atteso: torch.strided, su CPU o su una GPU"),
            ((X, X, X, None, torch.tensor(True)), TypeError,
             "causal: dato: tensor(True); atteso: True o False"),
        ((X, X, X, torch.ones(3, dtype=torch.int64)), ValueError,
         "lengths: dato: [3]; atteso: [2]"),
        ((X, X, X, torch.ones(2, dtype=torch.int32, device="meta")), ValueError,
         "lengths: dato: meta; atteso: cpu, come query"),
        ((X, X, X, None, None), TypeError, "causal: dato: None; atteso: True o False"),
        ((X[:, :, :4], X, X, None, True), ValueError,
         "causal: dato: 4 query e 5 key; atteso: tante query quante key"),
    ],
)  # fmt: skip
def test_wrong_arguments_are_refused(arguments, error, message, flash, our_own_errors):
    """Ogni errore nomina l'argomento, ciò che è stato dato e ciò che era atteso."""
    with pytest.raises(error, match=f"^{re.escape(message)}$"):
        flash.flash_attention(*arguments)
