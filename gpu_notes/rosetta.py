"""L'eq. (1) e l'eq. (2) come kernel di Triton, accanto a Fortran, C e PyTorch.

Due kernel soli: l'attenzione con la softmax corretta strada facendo, e una GEMM con il suo
epilogo, che lanciata due volte è la rete feed-forward. Lo stesso testo si compila per una GPU e
si interpreta su CPU.
"""

# mypy: disable-error-code="untyped-decorator"

import math
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from triton.runtime.interpreter import InterpretedFunction

from attention.s0_abstract import require

ROWS = 16
"""Righe di una piastrella: quante ne prende un'istruzione `mma`."""


def tiles(count: int, tile: int) -> int:
    """Quante piastrelle lunghe `tile` coprono `count` elementi: l'ultima può sporgere."""
    return -(-count // tile)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """Esegue un kernel su una griglia di blocchi, dove stanno i dati.

    Sulla GPU il kernel si compila, la prima volta, e si accoda. In memoria centrale lo stesso
    testo si interpreta, un blocco dopo l'altro. Il compilatore può fondere a·b + c in una FMA.

    Argomenti:
        kernel: una funzione con il decoratore `triton.jit`.
        grid: quanti blocchi, per ogni asse.
        arguments: tensori e numeri, nell'ordine della firma; il primo dice dove stanno i dati.
        constants: gli argomenti che il compilatore conosce, per nome.
    """
    if not arguments[0].is_cuda:
        kernel = InterpretedFunction(kernel.fn)
    kernel[grid](*arguments, **constants, enable_fp_fusion=True)


@triton.jit
def larger(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """L'operazione con cui una riduzione trova il massimo."""
    return tl.maximum(a, b)


@triton.jit
def plus(a: tl.tensor, b: tl.tensor) -> tl.tensor:
    """L'operazione con cui una riduzione somma."""
    return a + b


@triton.jit
def attention_kernel(
    q: tl.tensor,  # real, intent(in)  :: q(d_k, m)
    k: tl.tensor,  # real, intent(in)  :: k(d_k, n)
    v: tl.tensor,  # real, intent(in)  :: v(d_v, n)
    o: tl.tensor,  # real, intent(out) :: o(d_v, m)
    m: int,
    n: int,
    d_k: int,
    d_v: int,
    scale: float,
    precision: tl.constexpr,
    rows: tl.constexpr,
    width: tl.constexpr,
) -> None:
    """L'eq. (1) per un blocco di query: le key passano a piastrelle, la softmax si corregge."""
    i = tl.program_id(0) * rows + tl.arange(0, rows)[:, None]
    c = tl.arange(0, width)[None, :]
    query = tl.load(q + i * d_k + c, (i < m) & (c < d_k), 0.0)
    top = tl.full((rows, 1), float("-inf"), tl.float32)
    total = tl.full((rows, 1), 0.0, tl.float32)
    output = tl.full((rows, width), 0.0, tl.float32)
    for first in range(0, n, rows):
        j = first + tl.arange(0, rows)[:, None]
        key = tl.load(k + j * d_k + c, (j < n) & (c < d_k), 0.0)
        value = tl.load(v + j * d_v + c, (j < n) & (c < d_v), 0.0)
        scores = tl.dot(query, tl.trans(key), input_precision=precision) * scale
        scores = tl.where(tl.trans(j) < n, scores, float("-inf"))
        higher = tl.maximum(top, tl.reduce(scores, 1, larger, keep_dims=True))
        shrink = tl.exp(top - higher)
        weights = tl.exp(scores - higher)
        total = total * shrink + tl.reduce(weights, 1, plus, keep_dims=True)
        output = output * shrink + tl.dot(weights, value, input_precision=precision)
        top = higher
    tl.store(o + i * d_v + c, output / total, (i < m) & (c < d_v))


def attention(
    query: Float[Tensor, "m d_k"],
    key: Float[Tensor, "n d_k"],
    value: Float[Tensor, "n d_v"],
    precision: str = "ieee",
) -> Float[Tensor, "m d_v"]:
    """L'eq. (1) per una testa, in un lancio: softmax(QKᵀ/√d_k) V.

    Argomenti:
        query: Q, forma [m, d_k].
        key: K, forma [n, d_k].
        value: V, forma [n, d_v].
        precision: «ieee» per prodotti in FP32, «tf32» per i Tensor Core di una GPU;
            l'interprete moltiplica sempre in FP32.

    Restituisce:
        Le uscite, forma [m, d_v].

    Solleva:
        TypeError: se un argomento non è un tensore FP32.
        ValueError: se una forma non si accorda, se le righe non sono contigue, o se `precision`
            non è una delle due.
    """
    check(query, "query", None, None)
    check(key, "key", None, query.size(1))
    check(value, "value", len(key), None)
    check_precision(precision)
    (m, d_k), (n, d_v) = query.shape, value.shape
    output = query.new_empty(m, d_v)
    numbers = (m, n, d_k, d_v, 1 / math.sqrt(d_k))
    shape = {"rows": ROWS, "width": triton.next_power_of_2(max(d_k, d_v, ROWS))}
    arguments = (query, key, value, output, *numbers)
    launch(attention_kernel, (tiles(m, ROWS),), *arguments, precision=precision, **shape)
    return output


COLUMNS = 128
"""Colonne d'uscita per blocco, nella GEMM."""

DEPTH = 64
"""Quanti addendi della somma interna un blocco carica per volta."""


@triton.jit
def linear_kernel(
    x: tl.tensor,  # real, intent(in)  :: x(d_in, n)
    w: tl.tensor,  # real, intent(in)  :: w(d_out, d_in)
    b: tl.tensor,  # real, intent(in)  :: b(d_out)
    y: tl.tensor,  # real, intent(out) :: y(d_out, n)
    n: int,
    d_in: int,
    d_out: int,
    rectify: tl.constexpr,
    precision: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    depth: tl.constexpr,
) -> None:
    """Una piastrella di x·W + b, con la ReLU se `rectify`."""
    i = tl.program_id(0) * rows + tl.arange(0, rows)[:, None]
    j = tl.program_id(1) * columns + tl.arange(0, columns)[None, :]
    total = tl.full((rows, columns), 0.0, tl.float32)
    for first in range(0, d_in, depth):
        c = first + tl.arange(0, depth)
        across, down = c[None, :], c[:, None]
        left = tl.load(x + i * d_in + across, (i < n) & (across < d_in), 0.0)
        right = tl.load(w + down * d_out + j, (down < d_in) & (j < d_out), 0.0)
        total += tl.dot(left, right, input_precision=precision)
    total += tl.load(b + j, j < d_out, 0.0)
    if rectify:
        total = tl.maximum(total, 0.0)
    tl.store(y + i * d_out + j, total, (i < n) & (j < d_out))


def linear(
    x: Float[Tensor, "n d_in"],
    w: Float[Tensor, "d_in d_out"],
    b: Float[Tensor, " d_out"],
    rectify: bool,
    precision: str,
) -> Float[Tensor, "n d_out"]:
    """Un lancio: x·W + b, un blocco per ogni piastrella dell'uscita."""
    n, (d_in, d_out) = len(x), w.shape
    y = x.new_empty(n, d_out)
    grid = (tiles(n, ROWS), tiles(d_out, COLUMNS))
    shape = {"rows": ROWS, "columns": COLUMNS, "depth": DEPTH}
    choices = {"rectify": rectify, "precision": precision}
    launch(linear_kernel, grid, x, w, b, y, n, d_in, d_out, **choices, **shape)
    return y


def feed_forward(
    x: Float[Tensor, "n d_model"],
    w_1: Float[Tensor, "d_model d_ff"],
    b_1: Float[Tensor, " d_ff"],
    w_2: Float[Tensor, "d_ff d_model"],
    b_2: Float[Tensor, " d_model"],
    precision: str = "ieee",
) -> Float[Tensor, "n d_model"]:
    """L'eq. (2) in due lanci: max(0, xW_1 + b_1) W_2 + b_2.

    Argomenti:
        x: una riga per posizione, forma [n, d_model].
        w_1, b_1, w_2, b_2: i parametri nell'orientamento dell'articolo.
        precision: come in `attention`.

    Restituisce:
        Forma [n, d_model].

    Solleva:
        TypeError, ValueError: come `attention`.
    """
    check(x, "x", None, None)
    check(w_1, "w_1", x.size(1), None)
    check(b_1, "b_1", w_1.size(1))
    check(w_2, "w_2", w_1.size(1), x.size(1))
    check(b_2, "b_2", x.size(1))
    check_precision(precision)
    hidden = linear(x, w_1, b_1, rectify=True, precision=precision)
    return linear(hidden, w_2, b_2, rectify=False, precision=precision)


def check(tensor: Tensor, argument: str, *shape: int | None) -> None:
    """Un tensore FP32, con le righe contigue e la forma data; None lascia libera una lunghezza."""
    kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
    require(kind == torch.float32, argument, kind, "un tensore torch.float32", TypeError)
    fits = tensor.dim() == len(shape) and all(
        size > 0 and wanted in (None, size)
        for size, wanted in zip(tensor.shape, shape, strict=True)
    )
    expected = ", ".join("almeno 1" if wanted is None else str(wanted) for wanted in shape)
    require(fits, argument, tensor.shape, f"una forma [{expected}]")
    steps = f"passi {tensor.stride()}"
    require(tensor.is_contiguous(), argument, steps, "righe contigue, una dopo l'altra")


def check_precision(precision: str) -> None:
    """Uno dei due modi di moltiplicare numeri FP32."""
    require(precision in ("ieee", "tf32"), "precision", repr(precision), "«ieee» o «tf32»")
