"""Oltre l'articolo: l'eq. (1) come kernel di Triton, nei due sensi, senza scrivere mai i pesi.

Un blocco di thread prende una piastrella di query e fa passare key e value a piastrelle; la
softmax si corregge strada facendo. All'indietro i pesi si ricalcolano. Lo stesso testo si compila
per una GPU e si interpreta su CPU.
"""

# mypy: disable-error-code="untyped-decorator"

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Integer
from torch import Tensor
from triton.language.standard import _elementwise_max as larger
from triton.language.standard import _sum_combine as plus
from triton.runtime.interpreter import InterpretedFunction
from triton.testing import do_bench
from triton.tools.tensor_descriptor import TensorDescriptor

from attention.s0_abstract import require

Output = TypeVar("Output")
"""Ciò che un lancio restituisce: un tensore, o più d'uno."""

WIDTHS = (64, 128)
"""Le larghezze di una testa: quelle dell'articolo e dei modelli che l'hanno seguito."""

DTYPES = (torch.bfloat16, torch.float16)
"""I tipi a 16 bit: i Tensor Core li moltiplicano e sommano i prodotti in FP32."""


class Tile(NamedTuple):
    """Come un blocco di thread si divide il lavoro.

    Attributi:
        rows: quante query per piastrella.
        columns: quante key per piastrella.
        warps: i warp del blocco; quattro fanno un gruppo, che esegue insieme una WGMMA.
        stages: quante piastrelle in viaggio verso la memoria condivisa, quella in uso compresa.
    """

    rows: int
    columns: int
    warps: int
    stages: int


Table = dict[tuple[int, bool], tuple[Tile, ...]]
"""Per larghezza e causalità, le piastrelle da provare: la prima è quella di partenza."""

HOPPER: dict[str, Table] = {
    "forward": {
        (64, False): (Tile(64, 128, 4, 2), Tile(64, 64, 4, 3)),
        (64, True): (Tile(64, 128, 4, 2), Tile(64, 64, 4, 3)),
        (128, False): (Tile(128, 64, 4, 2), Tile(64, 64, 4, 3)),
        (128, True): (Tile(64, 64, 4, 3), Tile(128, 64, 4, 2)),
    },
    "backward": {
        (64, False): (Tile(128, 64, 4, 2),),
        (64, True): (Tile(64, 64, 4, 3),),
        (128, False): (Tile(64, 128, 8, 3),),
        (128, True): (Tile(64, 128, 8, 2),),
    },
}
"""Per la compute capability 9: le copie le fa il TMA, i prodotti un gruppo di warp insieme."""

AMPERE: dict[str, Table] = {
    "forward": {
        (64, False): (Tile(64, 64, 8, 2), Tile(128, 32, 8, 3), Tile(128, 128, 8, 2)),
        (64, True): (Tile(128, 64, 8, 3), Tile(64, 64, 4, 3)),
        (128, False): (Tile(128, 64, 8, 2), Tile(64, 64, 4, 2)),
        (128, True): (Tile(64, 64, 4, 2), Tile(64, 64, 8, 2)),
    },
    "backward": {
        (64, False): (Tile(32, 128, 8, 2),),
        (64, True): (Tile(32, 64, 8, 2),),
        (128, False): (Tile(32, 64, 8, 2),),
        (128, True): (Tile(32, 64, 8, 2),),
    },
}
"""Per le altre, dove un risultato sta nei registri di chi lo calcola, e la memoria condivisa di
un blocco arriva in alcune a 99 KiB."""

LARGE = (9,)
"""Le compute capability per cui è `HOPPER`. La 10 ha altrettanta memoria condivisa, ma lì Triton
tiene i risultati nella TMEM, che all'indietro, con d = 128, non basta."""


class DopeVector(NamedTuple):
    """Un array come lo descrive un compilatore Fortran: dove comincia, i lati, i passi.

    È ciò che resta di un descrittore del TMA dove il TMA non c'è: il kernel se ne fa uno per sé.
    """

    base: Tensor
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@triton.jit
@no_type_check
def forward_kernel(
    query: tl.tensor_descriptor,  # real, intent(in)  :: q(d, m, heads, batch)
    key: tl.tensor_descriptor,  # real, intent(in)  :: k(d, n, heads, batch)
    value: tl.tensor_descriptor,  # real, intent(in)  :: v(d, n, heads, batch)
    output: tl.tensor_descriptor,  # real, intent(out) :: o(d, m, heads, batch)
    logs: tl.tensor,  # real, intent(out) :: logs(pitch, heads·batch)
    lengths: tl.tensor,  # integer, intent(in) :: lengths(batch), o nulla
    heads: int,
    m: int,
    n: int,
    pitch: int,
    scale: float,
    causal: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    width: tl.constexpr,
) -> None:
    """L'eq. (1) per una piastrella di query: un giro per ogni piastrella di key."""
    if not isinstance(query, tl.tensor_descriptor):
        query = tl.make_tensor_descriptor(*query, [1, 1, rows, width])
        key = tl.make_tensor_descriptor(*key, [1, 1, columns, width])
        value = tl.make_tensor_descriptor(*value, [1, 1, columns, width])
        output = tl.make_tensor_descriptor(*output, [1, 1, rows, width])
    count = (m + rows - 1) // rows
    pair = tl.program_id(0) // count
    row = tl.program_id(0) % count * rows
    if causal:
        row = (count - 1) * rows - row
    b = pair // heads
    h = pair % heads
    end = n
    if lengths is not None:
        end = tl.minimum(n, tl.maximum(0, tl.load(lengths + b))).to(tl.int32)
    whole = end // columns * columns
    i = row + tl.arange(0, rows)
    last = i * 0 + end - 1
    if causal:
        whole = tl.minimum(whole, row // columns * columns)
        last = tl.minimum(last, i)
        end = tl.minimum(end, row + rows)
    q = query.load([b, h, row, 0]).reshape(rows, width)
    top = tl.full((rows,), float("-inf"), tl.float32)
    total = tl.full((rows,), 0.0, tl.float32)
    sums = tl.full((rows, width), 0.0, tl.float32)
    for first in tl.range(0, end, columns):
        k = key.load([b, h, first, 0]).reshape(columns, width)
        scores = tl.dot(q, tl.trans(k))
        if first >= whole:
            j = first + tl.arange(0, columns)
            scores = tl.where(j[None, :] <= last[:, None], scores, float("-inf"))
        higher = tl.maximum(top, tl.reduce(scores, 1, larger) * scale)
        weights = tl.exp2(scores * scale - higher[:, None])
        shrink = tl.exp2(top - higher)
        sums = sums * shrink[:, None]
        v = value.load([b, h, first, 0]).reshape(columns, width)
        sums = tl.dot(weights.to(v.dtype), v, sums)
        total = total * shrink + tl.reduce(weights, 1, plus)
        top = higher
    total = tl.where(total > 0, total, 1.0)
    result = (sums / total[:, None]).to(q.dtype).reshape(1, 1, rows, width)
    output.store([b, h, row, 0], result)
    tl.store(logs + pair * pitch + i, (top + tl.log2(total)) / scale, i < m)


@triton.jit
@no_type_check
def inner_kernel(
    output: tl.tensor_descriptor,  # real, intent(in)  :: o(d, m, heads, batch)
    grad: tl.tensor_descriptor,  # real, intent(in)  :: g(d, m, heads, batch)
    inner: tl.tensor,  # real, intent(out) :: inner(pitch, heads·batch)
    heads: int,
    m: int,
    pitch: int,
    rows: tl.constexpr,
    width: tl.constexpr,
) -> None:
    """Per ogni query il prodotto scalare fra l'uscita e il suo gradiente."""
    if not isinstance(output, tl.tensor_descriptor):
        output = tl.make_tensor_descriptor(*output, [1, 1, rows, width])
        grad = tl.make_tensor_descriptor(*grad, [1, 1, rows, width])
    count = (m + rows - 1) // rows
    pair = tl.program_id(0) // count
    row = tl.program_id(0) % count * rows
    b = pair // heads
    h = pair % heads
    o = output.load([b, h, row, 0]).reshape(rows, width).to(tl.float32)
    g = grad.load([b, h, row, 0]).reshape(rows, width).to(tl.float32)
    i = row + tl.arange(0, rows)
    tl.store(inner + pair * pitch + i, tl.reduce(o * g, 1, plus), i < m)


@triton.jit
@no_type_check
def backward_kernel(
    query: tl.tensor_descriptor,  # real, intent(in)  :: q(d, m, heads, batch)
    key: tl.tensor_descriptor,  # real, intent(in)  :: k(d, n, heads, batch)
    value: tl.tensor_descriptor,  # real, intent(in)  :: v(d, n, heads, batch)
    grad: tl.tensor_descriptor,  # real, intent(in)  :: g(d, m, heads, batch)
    logs: tl.tensor_descriptor,  # real, intent(in)  :: logs(m, heads·batch)
    inner: tl.tensor_descriptor,  # real, intent(in)  :: inner(m, heads·batch)
    grad_query: tl.tensor,  # real, intent(inout) :: dq(d, padded, heads·batch)
    grad_key: tl.tensor_descriptor,  # real, intent(out) :: dk(d, n, heads, batch)
    grad_value: tl.tensor_descriptor,  # real, intent(out) :: dv(d, n, heads, batch)
    lengths: tl.tensor,  # integer, intent(in) :: lengths(batch), o nulla
    heads: int,
    m: int,
    n: int,
    padded: int,
    scale: float,
    root: float,
    causal: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    width: tl.constexpr,
) -> None:
    """I gradienti per una piastrella di key: un giro per ogni piastrella di query."""
    if not isinstance(query, tl.tensor_descriptor):
        query = tl.make_tensor_descriptor(*query, [1, 1, rows, width])
        key = tl.make_tensor_descriptor(*key, [1, 1, columns, width])
        value = tl.make_tensor_descriptor(*value, [1, 1, columns, width])
        grad = tl.make_tensor_descriptor(*grad, [1, 1, rows, width])
        logs = tl.make_tensor_descriptor(*logs, [1, rows])
        inner = tl.make_tensor_descriptor(*inner, [1, rows])
        grad_key = tl.make_tensor_descriptor(*grad_key, [1, 1, columns, width])
        grad_value = tl.make_tensor_descriptor(*grad_value, [1, 1, columns, width])
    count = (n + columns - 1) // columns
    pair = tl.program_id(0) // count
    column = tl.program_id(0) % count * columns
    b = pair // heads
    h = pair % heads
    end = n
    if lengths is not None:
        end = tl.minimum(n, tl.maximum(0, tl.load(lengths + b))).to(tl.int32)
    begin = 0
    if causal:
        begin = column // rows * rows
    if column >= end:
        begin = m
    bias = tl.where(column + tl.arange(0, columns) < end, 0.0, float("-inf"))
    k = key.load([b, h, column, 0]).reshape(columns, width)
    v = value.load([b, h, column, 0]).reshape(columns, width)
    d_key = tl.full((columns, width), 0.0, tl.float32)
    d_value = tl.full((columns, width), 0.0, tl.float32)
    for first in tl.range(begin, m, rows):
        q = query.load([b, h, first, 0]).reshape(rows, width)
        g = grad.load([b, h, first, 0]).reshape(rows, width)
        start = bias[:, None] - logs.load([pair, first]).reshape(1, rows)
        if causal and first - column < columns:
            j = tl.arange(0, columns)[:, None] + (column - first)
            start = tl.where(j > tl.arange(0, rows)[None, :], float("-inf"), start)
        weights = tl.exp2(tl.dot(k, tl.trans(q), start) * scale)
        d_value = tl.dot(weights.to(g.dtype), g, d_value)
        start = tl.broadcast_to(-inner.load([pair, first]).reshape(1, rows), (columns, rows))
        d_weights = tl.dot(v, tl.trans(g), start)
        d_scores = (weights * d_weights).to(q.dtype)
        d_key = tl.dot(d_scores, q, d_key)
        d_query = tl.dot(tl.trans(d_scores), k)
        base = grad_query + (pair.to(tl.int64) * padded + first) * width
        place = tl.arange(0, rows)[:, None] * width + tl.arange(0, width)[None, :]
        tl.atomic_add(base + place, d_query, sem="relaxed")
    d_key = (d_key * root).to(k.dtype).reshape(1, 1, columns, width)
    grad_key.store([b, h, column, 0], d_key)
    grad_value.store([b, h, column, 0], d_value.to(k.dtype).reshape(1, 1, columns, width))


def launch(kernel: Any, blocks: int, arguments: tuple[Any, ...], **constants: Any) -> None:
    """Esegue un kernel su tanti blocchi, dove stanno i dati: la GPU lo compila, la CPU lo legge.

    Argomenti:
        kernel: una funzione con il decoratore `triton.jit`.
        blocks: quanti blocchi di thread.
        arguments: descrittori, tensori e numeri, nell'ordine della firma; il primo è un
            descrittore, e dice dove stanno i dati.
        constants: gli argomenti che il compilatore conosce, e le sue opzioni, per nome.
    """
    if not arguments[0].base.is_cuda:
        kernel = InterpretedFunction(kernel.fn)
    kernel[(blocks,)](*arguments, **constants)


def has_tma(tensor: Tensor) -> bool:
    """Se chi lavora su un tensore ha il TMA: le schede dalla 9.0 in poi, e l'interprete."""
    return not tensor.is_cuda or torch.cuda.get_device_capability(tensor.device) >= (9, 0)


def described(
    tensor: Tensor, shape: Sequence[int], strides: Sequence[int], block: list[int]
) -> TensorDescriptor | DopeVector:
    """Un array a blocchi: oltre i lati una lettura dà zeri, una scrittura non lascia traccia."""
    if has_tma(tensor):
        return TensorDescriptor(tensor, list(shape), list(strides), block)
    return DopeVector(tensor, tuple(shape), tuple(strides))


def descriptor(tensor: Tensor, rows: int) -> TensorDescriptor | DopeVector:
    """Un tensore [batch, teste, righe, d], a piastrelle di `rows` righe."""
    return described(tensor, tensor.shape, tensor.stride(), [1, 1, rows, tensor.size(-1)])


def row_descriptor(tensor: Tensor, m: int, rows: int) -> TensorDescriptor | DopeVector:
    """I primi `m` numeri di ogni riga, a pezzi di `rows`."""
    return described(tensor, (len(tensor), m), (tensor.stride(0), 1), [1, rows])


def constants(tile: Tile) -> dict[str, int]:
    """Una piastrella come la vuole un lancio: due costanti del kernel, due opzioni di Triton."""
    rows, columns, warps, stages = tile
    return {"rows": rows, "columns": columns, "num_warps": warps, "num_stages": stages}


def forward(
    query: Tensor, key: Tensor, value: Tensor, lengths: Tensor | None, causal: bool, tile: Tile
) -> tuple[Tensor, Tensor]:
    """Un lancio: le uscite e, per ogni query, il logaritmo della somma degli esponenziali.

    Il logaritmo è diviso per la scala, cioè nell'unità dei prodotti scalari; le sue righe, una
    per testa, cominciano ogni 4 numeri, perché il TMA vuole passi di 16 byte.
    """
    (batch, heads, m, width), n = query.shape, key.size(2)
    output, pitch = torch.empty_like(query), -(-m // 4) * 4
    logs = query.new_empty(batch * heads, pitch, dtype=torch.float32)
    arguments = (
        *(descriptor(query, tile.rows), descriptor(key, tile.columns)),
        *(descriptor(value, tile.columns), descriptor(output, tile.rows)),
        *(logs, lengths, heads, m, n, pitch, math.log2(math.e) / math.sqrt(width)),
    )
    blocks = batch * heads * triton.cdiv(m, tile.rows)
    launch(forward_kernel, blocks, arguments, causal=causal, width=width, **constants(tile))
    return output, logs


INNER_ROWS = 64
"""Quante query per blocco nel lancio che prepara i gradienti."""


def inner_products(output: Tensor, grad: Tensor, logs: Tensor) -> Tensor:
    """Un lancio: uscita · gradiente per ogni query, con le righe disposte come `logs`."""
    (batch, heads, m, width), inner = output.shape, torch.empty_like(logs)
    tensors = (descriptor(output, INNER_ROWS), descriptor(grad, INNER_ROWS), inner)
    blocks = batch * heads * triton.cdiv(m, INNER_ROWS)
    arguments = (*tensors, heads, m, logs.size(1))
    launch(inner_kernel, blocks, arguments, rows=INNER_ROWS, width=width)
    return inner


def backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad: Tensor,
    logs: Tensor,
    inner: Tensor,
    lengths: Tensor | None,
    causal: bool,
    tile: Tile,
) -> tuple[Tensor, Tensor, Tensor]:
    """Un lancio: i tre gradienti. Quello delle query si accumula in FP32, da blocchi diversi.

    Le sue righe sono quante ne coprono le piastrelle: oltre l'ultima query si somma zero, e non
    serve confrontare.
    """
    (batch, heads, m, width), n = query.shape, key.size(2)
    padded = triton.cdiv(m, tile.rows) * tile.rows
    sums = query.new_zeros(batch, heads, padded, width, dtype=torch.float32)
    d_query, d_key, d_value = (torch.empty_like(it) for it in (query, key, value))
    root = 1 / math.sqrt(width)
    arguments = (
        *(descriptor(query, tile.rows), descriptor(key, tile.columns)),
        *(descriptor(value, tile.columns), descriptor(grad, tile.rows)),
        *(row_descriptor(it, m, tile.rows) for it in (logs, inner)),
        *(sums, descriptor(d_key, tile.columns), descriptor(d_value, tile.columns)),
        *(lengths, heads, m, n, padded, math.log2(math.e) * root, root),
    )
    blocks = batch * heads * triton.cdiv(n, tile.columns)
    launch(backward_kernel, blocks, arguments, causal=causal, width=width, **constants(tile))
    return torch.mul(sums[:, :, :m], root, out=d_query), d_key, d_value


CHOSEN: dict[tuple[Any, ...], Tile] = {}
"""Le piastrelle scelte finora, per scheda, kernel, larghezza e causalità."""

WORTH = 1024
"""Sotto quante query o key non si sceglie: il tempo lo fanno i lanci, non le piastrelle."""


def tuned(
    name: str, query: Tensor, key: Tensor, causal: bool, run: Callable[[Tile], Output]
) -> Output:
    """Esegue `run` con la piastrella migliore: la prima volta, su una GPU, le prova tutte.

    La scelta non dipende dalle lunghezze: una frase più lunga non fa ricominciare. Mentre la GPU
    registra i comandi di un grafo non si prova nulla.
    """
    shape = (query.size(-1), causal)
    large = not query.is_cuda or torch.cuda.get_device_capability(query.device)[0] in LARGE
    tiles = (HOPPER if large else AMPERE)[name][shape]
    case = (query.device, name, *shape)
    if case not in CHOSEN:
        few = min(query.size(-2), key.size(-2)) < WORTH
        if few or len(tiles) == 1 or not query.is_cuda or torch.cuda.is_current_stream_capturing():
            return run(tiles[0])
        times = {tile: do_bench(partial(run, tile), warmup=5, rep=20) for tile in tiles}
        CHOSEN[case] = min(times, key=times.__getitem__)
    return run(CHOSEN[case])


class FlashAttention(torch.autograd.Function):
    """Il nodo del grafo: in avanti si ricordano Q, K, V, l'uscita e i logaritmi, non i pesi."""

    @staticmethod
    def forward(
        context: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lengths: Tensor | None,
        causal: bool,
    ) -> Tensor:
        """L'eq. (1), un lancio."""
        query, key, value = (aligned(it) for it in (query, key, value))

        def run(tile: Tile) -> tuple[Tensor, Tensor]:
            return forward(query, key, value, lengths, causal, tile)

        output, logs = tuned("forward", query, key, causal, run)
        context.save_for_backward(query, key, value, output, logs, lengths)
        context.causal = causal
        return output

    @staticmethod
    def backward(context: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """I gradienti di Q, K e V: due lanci; quello di Q si azzera prima e si converte dopo.

        Solleva:
            RuntimeError: se si chiede di poter derivare anche questi: non c'è un kernel per farlo.
        """
        second, expected = torch.is_grad_enabled(), "False: niente derivate seconde"
        require(not second, "create_graph", second, expected, RuntimeError)
        query, key, value, output, logs, lengths = context.saved_tensors
        grad, causal = aligned(grads[0]), context.causal
        inner = inner_products(output, grad, logs)

        def run(tile: Tile) -> tuple[Tensor, Tensor, Tensor]:
            return backward(query, key, value, grad, logs, inner, lengths, causal, tile)

        return *tuned("backward", query, key, causal, run), None, None


def aligned(tensor: Tensor) -> Tensor:
    """Il tensore, o una copia se il TMA non saprebbe leggerlo.

    Il TMA vuole righe contigue, che comincino tutte a un multiplo di 16 byte, e un passo vero
    fra l'una e l'altra: un tensore ripetuto con passo zero si copia.
    """
    steps = tensor.stride()[:-1]
    fits = tensor.stride(-1) == 1 and tensor.data_ptr() % 16 == 0
    if fits and all(step > 0 and step * tensor.itemsize % 16 == 0 for step in steps):
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


@torch.compiler.disable
def flash_attention(
    query: Float[Tensor, "batch heads m d"],
    key: Float[Tensor, "batch heads n d"],
    value: Float[Tensor, "batch heads n d"],
    lengths: Integer[Tensor, " batch"] | None = None,
    causal: bool = False,
) -> Float[Tensor, "batch heads m d"]:
    """L'eq. (1), con i suoi gradienti, in memoria proporzionale alla lunghezza.

    Argomenti:
        query: Q, forma [batch, teste, m, d]; d è 64 o 128. I passi sono liberi.
        key, value: K e V, forma [batch, teste, n, d].
        lengths: quante key di ogni frase si guardano, forma [batch]; le altre sono padding, e
            devono contenere numeri finiti. Le query non si accorciano: chi ha imbottito anche
            loro trascuri quelle righe. Senza, si guardano tutte.
        causal: la query i guarda le key da 0 a i; le query devono essere tante quante le key.

    Restituisce:
        Le uscite, nella forma di `query` e con i lati nello stesso ordine in memoria, dense; in
        ordine di riga, se le query si sono dovute copiare. Una query senza key riceve zeri.

    Solleva:
        TypeError: se un argomento non è un tensore del tipo giusto, o `causal` non è un booleano.
        ValueError: se le forme non si accordano, se d non è 64 o 128, se i tensori stanno su
            dispositivi diversi, non sono su CPU o su una GPU o non sono densi, o se con `causal` le
            query non sono tante quante le key.
    """
    check(query, "query", None, None, None, None)
    batch, heads, m, width = query.shape
    require(width in WIDTHS, "query", f"d = {width}", f"d fra {', '.join(map(str, WIDTHS))}")
    check(key, "key", batch, heads, None, width)
    check(value, "value", batch, heads, key.size(2), width)
    for tensor, name in ((key, "key"), (value, "value")):
        check_like(tensor, name, query)
    if lengths is not None:
        check_lengths(lengths, query)
        lengths = lengths.contiguous()
    require(isinstance(causal, bool), "causal", repr(causal), "True o False", TypeError)
    n = key.size(2)
    require(not causal or m == n, "causal", f"{m} query e {n} key", "tante query quante key")
    if query.is_cuda or query.dtype == torch.float16:
        with torch.cuda.device_of(query):
            return FlashAttention.apply(query, key, value, lengths, causal)
    wide = (it.float() for it in (query, key, value))
    return FlashAttention.apply(*wide, lengths, causal).to(query.dtype)


def check(tensor: Tensor, argument: str, *shape: int | None) -> None:
    """Un tensore in mezza precisione, non vuoto, della forma data; None lascia libero un lato."""
    kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
    expected = " o ".join(f"torch.{name}" for name in ("bfloat16", "float16"))
    require(kind in DTYPES, argument, kind, f"un tensore {expected}", TypeError)
    stored = tensor.layout == torch.strided and tensor.device.type in ("cpu", "cuda")
    given = f"{tensor.layout} su {tensor.device}"
    require(stored, argument, given, "torch.strided, su CPU o su una GPU")
    fits = tensor.dim() == len(shape) and all(
        size > 0 and wanted in (None, size)
        for size, wanted in zip(tensor.shape, shape, strict=True)
    )
    sizes = ", ".join("almeno 1" if wanted is None else str(wanted) for wanted in shape)
    require(fits, argument, tensor.shape, f"una forma [{sizes}]")


def check_like(tensor: Tensor, argument: str, query: Tensor) -> None:
    """Stesso tipo e stesso dispositivo delle query."""
    require(
        tensor.dtype == query.dtype, argument, tensor.dtype, f"{query.dtype}, come query", TypeError
    )
    expected = f"{query.device}, come query"
    require(tensor.device == query.device, argument, tensor.device, expected)


def check_lengths(lengths: Tensor, query: Tensor) -> None:
    """Un intero per ogni frase, dove stanno le query. I valori non si guardano: sono sulla GPU."""
    dense = isinstance(lengths, Tensor) and lengths.layout == torch.strided
    kind = lengths.dtype if dense else type(lengths).__name__
    expected = "un tensore denso torch.int32 o torch.int64"
    require(kind in (torch.int32, torch.int64), "lengths", kind, expected, TypeError)
    require(lengths.shape == query.shape[:1], "lengths", lengths.shape, f"[{len(query)}]")
    expected = f"{query.device}, come query"
    require(lengths.device == query.device, "lengths", lengths.device, expected)
