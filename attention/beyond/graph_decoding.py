"""Generare senza tornare alla CPU: un passo con le forme fissate, registrato e ripetuto.

Il passo di §3 cambia forma a ogni token, e dopo ogni token la CPU chiede alla GPU se ha finito.
Qui la cache è tutta allocata prima, la posizione è un numero in memoria della GPU, e anche la
scelta del token resta là: il passo diventa un elenco di comandi sempre uguale, che si registra una
volta e si ripete. Per una frase sola i comandi sono pochi kernel scritti apposta.
"""

# mypy: disable-error-code="untyped-decorator"

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast, no_type_check

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from jaxtyping import Bool, Float, Int
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.runtime.interpreter import InterpretedFunction

from attention.s0_abstract import require
from attention.s3_1_encoder_decoder_stacks import (
    EPSILON,
    AddAndNorm,
    DecoderLayer,
    LayerCache,
)
from attention.s3_2_2_multi_head import MultiHeadAttention
from attention.s3_4_embeddings_softmax import check_tokens
from attention.s3_model_architecture import Transformer, check_size, evaluating

UNROLL = 8
"""Quanti token genera una ripetizione del grafo."""


@dataclass
class State:
    """Ciò che un passo legge e cambia, tutto sul dispositivo, sempre agli stessi indirizzi.

    Argomenti:
        token: l'ultimo token di ogni frase, il prossimo ingresso del decoder.
        position: la posizione di quel token.
        output: i token generati finora, con il posto per tutti gli altri.
        limits: quanti token può avere ogni uscita.
        open: quali frasi non sono finite.
        used: quanti passi hanno trovato almeno una frase aperta.
    """

    token: Int[Tensor, "rows 1"]
    position: Int[Tensor, " one"]
    output: Int[Tensor, "rows room"]
    limits: Int[Tensor, " rows"]
    open: Bool[Tensor, " rows"]
    used: Int[Tensor, " one"]


class GraphDecoder:
    """La generazione di §3 per frasi di una forma fissata, sempre il token più probabile.

    Argomenti:
        model: il modello, già sul suo dispositivo; i pesi si leggono da dove sono, e se si
            spostano si registra da capo.
        rows: quante frasi insieme.
        length: quanto è lunga la matrice della sorgente, padding compreso.
        extra: quanti token può avere un'uscita più della sua sorgente.
        fused: i kernel scritti apposta, per una frase sola.
        early: un kernel comincia a leggere i suoi pesi mentre finisce quello di prima; solo con
            `fused`, su una GPU che lo permette.

    Solleva:
        TypeError, ValueError: se una misura non può essere, o se i kernel scritti apposta non
            valgono per quel modello.
    """

    def __init__(
        self,
        model: Transformer,
        rows: int,
        length: int,
        extra: int,
        fused: bool = False,
        early: bool = False,
    ):
        for name, size, lowest in (("rows", rows, 1), ("length", length, 1), ("extra", extra, 0)):
            check_size(size, name, lowest)
        self.model, self.rows, self.length, self.extra = model, rows, length, extra
        self.step = self.fused_step if fused else self.plain_step
        self.early = early
        self.capacity = length + extra
        self.room = -(-self.capacity // UNROLL) * UNROLL
        if fused:
            check_fusible(model, rows, self.room)
        self.prepare()

    @property
    def place(self) -> torch.device:
        """Il dispositivo, che è quello del modello."""
        return self.model.embedding.weight.device

    def allocate(self) -> None:
        """Tutta la memoria che serve, una volta: da qui in poi gli indirizzi non cambiano."""
        config, rows, room = self.model.config, self.rows, self.room
        weight = self.model.embedding.weight
        integers: dict[str, Any] = {"dtype": torch.int64, "device": self.place}
        self.source = torch.full((rows, self.length), config.padding_id, **integers)
        self.source[:, 0] = config.end_id  # per la prova che precede la registrazione
        self.state = State(
            token=torch.zeros(rows, 1, **integers),
            position=torch.zeros(1, **integers),
            output=torch.zeros(rows, room, **integers),
            limits=torch.zeros(rows, **integers),
            open=torch.zeros(rows, dtype=torch.bool, device=self.place),
            used=torch.zeros(1, **integers),
        )
        self.places = torch.arange(room, device=self.place)
        self.source_mask = weight.new_zeros(rows, 1, 1, self.length)
        self.table = weight.new_zeros(room, config.d_model)
        self.place_positions()
        memory = weight.new_zeros(rows, self.length, config.d_model)
        self.caches = self.model.decoder.new_cache(memory, room)
        self.buffers = Buffers.for_model(self.model)

    def place_positions(self) -> None:
        """La tabella delle posizioni, al suo indirizzo: se è appresa, un passo può averla mossa."""
        table = self.table[: self.capacity]
        table.copy_(self.model.target_positions(torch.zeros_like(table)[None])[0])

    def load(self, source: Int[Tensor, "rows length"]) -> None:
        """Le frasi, copiate agli indirizzi che i grafi conoscono; poi l'encoder."""
        self.source.copy_(source)
        self.play(self.entry, self.enter)

    def enter(self) -> None:
        """L'encoder, le posizioni e lo stato di partenza.

        Mentre si registra nessuno può chiedere se c'è padding: la maschera c'è sempre.
        """
        config, state, source = self.model.config, self.state, self.source
        if config.learned_positions:
            self.place_positions()
        memory, mask = self.model.encode(source)
        for new, cache in zip(self.model.decoder.new_cache(memory, 1), self.caches, strict=True):
            cache.keys.zero_()  # anche di un NaN non deve restare nulla
            cache.values.zero_()
            cache.memory_keys.copy_(new.memory_keys)
            cache.memory_values.copy_(new.memory_values)
        self.source_mask.zero_()
        if mask is not None:
            self.source_mask.masked_fill_(~mask.unsqueeze(1), -math.inf)
        state.limits.copy_((source != config.padding_id).sum(dim=-1) + self.extra)
        state.open.copy_(state.limits > 0)
        state.token.fill_(config.start_id)
        state.output.fill_(config.padding_id)
        state.position.zero_()
        state.used.zero_()

    def generate(self, source: Int[Tensor, "rows length"]) -> Int[Tensor, "rows m"]:
        """Gli stessi token di `Transformer.generate`, con lo stesso `extra`.

        Dopo i controlli la CPU accoda le ripetizioni, e aspetta una volta sola, alla fine.

        Argomenti:
            source: le frasi di partenza; il padding in fondo.

        Solleva:
            TypeError, ValueError: se i token non sono interi del vocabolario, se la forma è
                un'altra, se una frase è di solo padding.
        """
        check_tokens(source, "source", self.model.config.vocabulary)
        expected = [self.rows, self.length]
        require(list(source.shape) == expected, "source", source.shape, f"{expected}")
        real = bool((source != self.model.config.padding_id).any(dim=-1).all())
        require(real, "source", "una frase di solo padding", "almeno un token per frase")
        if self.whereabouts() != self.weights:
            self.prepare()
        with evaluating(self.model), torch.cuda.device_of(self.model.embedding.weight):
            self.load(source)
            self.run()
        return self.state.output[:, : int(self.state.used)].clone()

    def run(self) -> None:
        """Tutti i passi che possono servire, a gruppi di `UNROLL`."""
        for _ in range(self.room // UNROLL):
            self.play(self.graph, self.steps)

    def play(self, graph: Any, work: Callable[[], None]) -> None:
        """Ripete un grafo; dove non c'è, esegue il lavoro che conterrebbe."""
        if graph is None:
            work()
        else:
            graph.replay()

    def steps(self) -> None:
        """I passi di una ripetizione."""
        for _ in range(UNROLL):
            self.step()

    def record(self, work: Callable[[], None]) -> Any:
        """Registra un lavoro: il driver annota i comandi invece di mandarli.

        Prima lo si esegue una volta davvero, su uno stream a parte, perché ciò che si prepara al
        primo uso (kernel da compilare, aree di lavoro delle librerie) sia già pronto.
        """
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            work()
        torch.cuda.current_stream().wait_stream(aside)
        self.state.position.zero_()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        return graph

    def prepare(self) -> None:
        """Alloca e, su GPU, registra: con i pesi del modello dove sono adesso."""
        self.modules = list(self.model.modules())
        self.weights = self.whereabouts()
        with evaluating(self.model), torch.cuda.device_of(self.model.embedding.weight):
            self.allocate()
            on_gpu = self.place.type == "cuda"
            self.entry, self.graph = (
                self.record(work) if on_gpu else None for work in (self.enter, self.steps)
            )

    def whereabouts(self) -> list[tuple[int, torch.dtype]]:
        """L'indirizzo e il tipo di ogni peso: ciò che un grafo ha scritto nei suoi comandi.

        Lo si chiede a ogni generazione: dai moduli costa un quinto che da `model.parameters()`.
        """
        several = (module._parameters.values() for module in self.modules)
        weights = (it for some in several for it in some if it is not None)
        return [(it.data_ptr(), it.dtype) for it in weights]

    def plain_step(self) -> None:
        """Un token per ogni frase, con le operazioni di PyTorch."""
        state, weight = self.state, self.model.embedding.weight
        x = F.embedding(state.token, weight) * math.sqrt(weight.size(1))
        x = x + self.table.index_select(0, state.position)
        future = weight.new_zeros(self.room).masked_fill(self.places > state.position, -math.inf)
        layers = cast("list[DecoderLayer]", self.model.decoder.layers)
        for layer, cache in zip(layers, self.caches, strict=True):
            x = plain_layer(layer, cache, x, state.position, future, self.source_mask)
        self.choose(self.model.embedding.logits(x).argmax(dim=-1))

    def choose(self, best: Int[Tensor, "rows 1"]) -> None:
        """Il token scelto va nell'uscita, e si vede chi ha finito: le righe di `greedy`, §3."""
        state, config = self.state, self.model.config
        token = best.where(state.open.unsqueeze(-1), config.padding_id)
        state.output.index_copy_(1, state.position, token)
        state.used.add_(state.open.any())
        state.position.add_(1)
        state.token.copy_(token)
        state.open.logical_and_(token.squeeze(-1) != config.end_id)
        state.open.logical_and_(state.limits > state.position)

    def fused_step(self) -> None:
        """Un token di una frase sola: otto kernel per strato, più quattro."""
        model, state, it = self.model, self.state, self.buffers
        table, weight = self.table, model.embedding.weight
        width = weight.size(1)
        numbers = (table, state.token, state.position, it.x, width, math.sqrt(width))
        self.launch(embed_kernel, (1,), weight, *numbers, block=power_of_two(width))
        norm: AddAndNorm | None = None
        layers = cast("list[DecoderLayer]", model.decoder.layers)
        for layer, cache in zip(layers, self.caches, strict=True):
            norm = self.fused_layer(layer, cache, norm)
        self.project(it.raw, weight, it.logits, norm=norm)
        config = model.config
        parts = (it.best, it.places)
        self.launch(vote_kernel, (len(it.best),), it.logits, *parts, len(weight), block=PART)
        pointers = (*parts, state.token, state.position, state.output, state.limits)
        ends = (len(it.best), config.padding_id, config.end_id)
        block = power_of_two(len(it.best))
        self.launch(choose_kernel, (1,), *pointers, state.open, state.used, *ends, block=block)

    def fused_layer(
        self, layer: DecoderLayer, cache: LayerCache, norm: AddAndNorm | None
    ) -> AddAndNorm:
        """Uno strato; restituisce l'ultima normalizzazione, che farà il primo kernel seguente."""
        it = self.buffers
        own = cast("MultiHeadAttention", layer.self_attention)
        cross = cast("MultiHeadAttention", layer.cross_attention)
        network = cast("Any", layer.feed_forward)
        query, key, value = it.qkv.split(own.widths)
        self.project(it.x if norm is None else it.raw, own.w_qkv, it.qkv, norm=norm)
        self.attend(query, cache.keys, cache.values, fresh=(key, value))
        self.project(it.seen, own.w_o, it.raw, residual=it.x)
        self.project(it.raw, cross.w_qkv[: len(query)], query, norm=layer.self_attention_norm)
        self.attend(query, cache.memory_keys, cache.memory_values)
        self.project(it.seen, cross.w_o, it.raw, residual=it.x)
        norm = layer.cross_attention_norm
        self.project(it.raw, network.w_1, it.hidden, bias=network.b_1, norm=norm, rectify=True)
        self.project(it.hidden, network.w_2, it.raw, bias=network.b_2, residual=it.x)
        return layer.feed_forward_norm

    def project(
        self,
        source: Tensor,
        weight: Tensor,
        output: Tensor,
        bias: Tensor | None = None,
        norm: AddAndNorm | None = None,
        residual: Tensor | None = None,
        rectify: bool = False,
    ) -> None:
        """Un prodotto matrice per vettore, con ciò che lo precede e ciò che lo segue."""
        rows, columns = weight.shape
        block = power_of_two(columns)
        tall = tile_rows(rows, block)
        normal = (None, None, None) if norm is None else (norm.norm.gain, norm.norm.bias)
        pointers = (source, weight, output, bias, residual, *normal[:2])
        written = None if norm is None else self.buffers.x
        self.launch(
            project_kernel,
            (-(-rows // tall),),
            *pointers,
            written,
            rows,
            columns,
            EPSILON,
            rectify=rectify,
            tall=tall,
            block=block,
        )

    def attend(
        self,
        query: Tensor,
        keys: Tensor,
        values: Tensor,
        fresh: tuple[Tensor | None, Tensor | None] = (None, None),
    ) -> None:
        """Le teste di un'attenzione, una per blocco; con `fresh`, key e value del token nuovo."""
        _, heads, length, width = keys.shape
        mask = self.source_mask if fresh[0] is None else None
        self.launch(
            attend_kernel,
            (heads,),
            query,
            keys,
            values,
            *fresh,
            mask,
            self.state.position,
            self.buffers.seen,
            length,
            width**-0.5,
            num_warps=max(4, power_of_two(length) * width // PER_WARP),
            width=width,
            block=power_of_two(length),
        )

    def launch(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        *arguments: Any,
        num_warps: int = 4,
        **constants: Any,
    ) -> None:
        """Esegue un kernel dove sta il modello: su CPU lo stesso testo si interpreta."""
        early = self.early and self.place.type == "cuda"
        if self.place.type == "cuda":
            constants |= {"num_warps": num_warps} | ({"launch_pdl": True} if early else {})
        else:
            kernel = interpreted(kernel)
        kernel[grid](*arguments, early=early, **constants)


@functools.cache
def interpreted(kernel: Any) -> Any:
    """Lo stesso testo di un kernel, interpretato: lento, ma si prova anche dove non c'è una GPU."""
    return InterpretedFunction(kernel.fn)


def plain_layer(
    layer: DecoderLayer,
    cache: LayerCache,
    x: Float[Tensor, "rows 1 d_model"],
    position: Int[Tensor, " one"],
    future: Float[Tensor, " room"],
    source_mask: Float[Tensor, "rows 1 1 n"],
) -> Float[Tensor, "rows 1 d_model"]:
    """`DecoderLayer.step`, con la posizione sul dispositivo e l'attenzione su tutta la cache.

    Le maschere sono da sommare ai punteggi, 0 o −∞: la forma che il kernel fuso vuole. Quella
    logica la convertirebbe a ogni chiamata.
    """
    own = cast("MultiHeadAttention", layer.self_attention)
    cross = cast("MultiHeadAttention", layer.cross_attention)
    query, key, value = own.roles(x, 0, 3)
    cache.keys.index_copy_(-2, position, key)
    cache.values.index_copy_(-2, position, value)
    found = F.scaled_dot_product_attention(
        query, cache.keys, cache.values, future[None, None, None]
    )
    x = layer.self_attention_norm(x, own.combine(found))
    (query,) = cross.roles(x, 0, 1)
    memory = cache.memory_keys, cache.memory_values
    found = F.scaled_dot_product_attention(query, *memory, source_mask)
    x = layer.cross_attention_norm(x, cross.combine(found))
    return layer.feed_forward_norm(x, layer.feed_forward(x))


# I kernel di una frase sola.


@dataclass(frozen=True)
class Buffers:
    """I vettori che passano da un kernel all'altro, in FP32: poche centinaia di kB, sempre in L2.

    Argomenti:
        raw: la somma di un sotto-strato con il suo ingresso, non ancora normalizzata.
        x: la stessa, normalizzata: l'ingresso del sotto-strato seguente.
        qkv: query, key e value di tutte le teste.
        seen: l'uscita delle teste, una accanto all'altra.
        hidden: l'interno del feed-forward.
        logits: un punteggio per ogni voce del vocabolario.
        best, places: il più alto di ogni parte del vocabolario, e la sua voce.
    """

    raw: Float[Tensor, " d_model"]
    x: Float[Tensor, " d_model"]
    qkv: Float[Tensor, " rows"]
    seen: Float[Tensor, " columns"]
    hidden: Float[Tensor, " d_ff"]
    logits: Float[Tensor, " vocabulary"]
    best: Float[Tensor, " parts"]
    places: Int[Tensor, " parts"]

    @classmethod
    def for_model(cls, model: Transformer) -> "Buffers":
        """I vettori delle misure di un modello."""
        layer = cast("Any", model.decoder.layers[0])
        own, config = layer.self_attention, model.config
        sizes = (config.d_model, config.d_model, len(own.w_qkv), own.w_o.size(1))
        parts = -(-config.vocabulary // PART)
        device = model.embedding.weight.device
        vectors = [
            torch.zeros(size, dtype=torch.float32, device=device)
            for size in (*sizes, config.d_ff, config.vocabulary, parts)
        ]
        vectors.append(torch.zeros(parts, dtype=torch.int32, device=device))
        return cls(*vectors)


PART = 1024
"""Quanti punteggi guarda un blocco, quando si cerca il più alto."""

TILE = 8192
"""Quanti pesi legge un blocco, al più, se una riga non è più lunga."""

BLOCKS = 128
"""Quanti blocchi almeno, se le righe bastano: circa quanti gli SM di una H100."""


def tile_rows(rows: int, columns: int) -> int:
    """Quante righe di pesi prende un blocco: una potenza di due, almeno una."""
    most = max(1, min(TILE // columns, rows // BLOCKS))
    return power_of_two(most + 1) // 2


def power_of_two(number: int) -> int:
    """La più piccola potenza di due non minore."""
    return 1 << (number - 1).bit_length()


PER_WARP = 2048
"""Quanti numeri di una cache tiene un warp: 64 registri per thread per le key, 64 per i value."""


def check_fusible(model: Transformer, rows: int, room: int) -> None:
    """I kernel scritti apposta valgono per una frase, e per le attenzioni dell'articolo.

    Una testa sta nei registri di un SM, che sono 65 536: otto warp, fino a 255 registri per thread.
    """
    config = model.config
    require(rows == 1, "rows", rows, "1, con fused=True")
    require(not config.bias, "model", "bias=True", "attenzioni senza termini costanti")
    widths = {config.d_k or config.d_model // config.heads} | {
        config.d_v or config.d_model // config.heads
    }
    width = max(widths)
    same = len(widths) == 1 and power_of_two(width) == width
    require(same, "model", f"teste larghe {sorted(widths)}", "d_k = d_v, una potenza di due")
    places = 8 * PER_WARP // width
    given = f"{room} posti"
    require(room <= places, "length, extra", given, f"al più {places}, con fused=True")


@triton.jit
@no_type_check
def plus(a, b):
    """L'operazione con cui una riduzione somma."""
    return a + b


@triton.jit
@no_type_check
def larger(a, b):
    """L'operazione con cui una riduzione trova il massimo."""
    return tl.maximum(a, b)


@triton.jit
@no_type_check
def first_best(score, place, other_score, other_place):
    """Il più alto di due punteggi con il suo posto; fra due uguali, il primo posto."""
    other = (other_score > score) | ((other_score == score) & (other_place < place))
    return tl.where(other, other_score, score), tl.where(other, other_place, place)


@triton.jit
@no_type_check
def embed_kernel(
    weight, table, token, position, x, width, scale, early: tl.constexpr, block: tl.constexpr
):
    """§3.4 e §3.5: la riga del token, per √d_model, più quella della posizione."""
    if early:
        gdc_wait()
        gdc_launch_dependents()
    column = tl.arange(0, block)
    inside = column < width
    row = tl.load(weight + tl.load(token) * width + column, inside, 0.0).to(tl.float32)
    place = tl.load(table + tl.load(position) * width + column, inside, 0.0).to(tl.float32)
    tl.store(x + column, row * scale + place, inside)


@triton.jit
@no_type_check
def project_kernel(
    source,
    weight,
    output,
    bias,
    residual,
    gain,
    shift,
    normal,
    rows,
    columns,
    epsilon,
    early: tl.constexpr,
    rectify: tl.constexpr,
    tall: tl.constexpr,
    block: tl.constexpr,
):
    """Alcune righe di W · LayerNorm(x), più termine costante e residuo, con o senza ReLU.

    I parametri si chiedono per primi: non dipendono da nessuno, e sono quasi tutto il traffico.
    La normalizzazione la rifà ogni blocco, e il primo la scrive per chi ne farà il residuo.
    """
    row = tl.program_id(0) * tall + tl.arange(0, tall)
    column = tl.arange(0, block)
    inside = column < columns
    places = row[:, None] * columns + column[None, :]
    known = (row[:, None] < rows) & inside[None, :]
    matrix = tl.load(weight + places, known, 0.0).to(tl.float32)
    if gain is not None:
        factor = tl.load(gain + column, inside, 0.0).to(tl.float32)
        term = tl.load(shift + column, inside, 0.0).to(tl.float32)
    if bias is not None:
        constant = tl.load(bias + row, row < rows, 0.0).to(tl.float32)
    if early:
        gdc_wait()
        gdc_launch_dependents()
    x = tl.load(source + column, inside, 0.0)
    if residual is not None:
        before = tl.load(residual + row, row < rows, 0.0)
    if gain is not None:
        mean = tl.reduce(x, 0, plus) / columns
        centered = tl.where(inside, x - mean, 0.0)
        variance = tl.reduce(centered * centered, 0, plus) / columns
        x = centered / tl.sqrt(variance + epsilon) * factor + term
        if tl.program_id(0) == 0:
            tl.store(normal + column, x, inside)
    result = tl.reduce(matrix * x[None, :], 1, plus)
    if bias is not None:
        result += constant
    if rectify:
        result = tl.maximum(result, 0.0)
    if residual is not None:
        result += before
    tl.store(output + row, result, row < rows)


@triton.jit
@no_type_check
def attend_kernel(
    query,
    keys,
    values,
    fresh_key,
    fresh_value,
    mask,
    position,
    output,
    length,
    scale,
    early: tl.constexpr,
    width: tl.constexpr,
    block: tl.constexpr,
):
    """L'eq. (1) per una query di una testa; se c'è, il token nuovo entra prima nella cache.

    Prima di aspettare si può leggere ciò che il kernel precedente non scrive: la posizione, e
    tutta la cache, che a questo punto contiene i passi di prima.
    """
    head = tl.program_id(0)
    place = tl.arange(0, block)
    column = tl.arange(0, width)
    start = head * length * width
    cells = start + place[:, None] * width + column[None, :]
    if fresh_key is not None:
        now = tl.load(position)
        known = place < now
        allowed = place <= now
    else:
        known = place < length
        allowed = known & (tl.load(mask + place, known, 0.0) == 0)
    k = tl.load(keys + cells, known[:, None], 0.0).to(tl.float32)
    v = tl.load(values + cells, known[:, None], 0.0).to(tl.float32)
    if early:
        gdc_wait()
        gdc_launch_dependents()
    if fresh_key is not None:
        mine = head * width + column
        new_key = tl.load(fresh_key + mine).to(keys.dtype.element_ty)
        new_value = tl.load(fresh_value + mine).to(values.dtype.element_ty)
        tl.store(keys + start + now * width + column, new_key)
        tl.store(values + start + now * width + column, new_value)
        fresh = place == now
        k = tl.where(fresh[:, None], new_key.to(tl.float32)[None, :], k)
        v = tl.where(fresh[:, None], new_value.to(tl.float32)[None, :], v)
    q = tl.load(query + head * width + column)
    scores = tl.reduce(k * q[None, :], 1, plus) * scale
    scores = tl.where(allowed, scores, float("-inf"))
    weights = tl.exp(scores - tl.reduce(scores, 0, larger))
    weights = weights / tl.reduce(weights, 0, plus)
    tl.store(output + head * width + column, tl.reduce(v * weights[:, None], 0, plus))


@triton.jit
@no_type_check
def vote_kernel(logits, best, places, vocabulary, early: tl.constexpr, block: tl.constexpr):
    """Il punteggio più alto di una parte del vocabolario, e la sua voce."""
    if early:
        gdc_wait()
        gdc_launch_dependents()
    voice = tl.program_id(0) * block + tl.arange(0, block)
    scores = tl.load(logits + voice, voice < vocabulary, float("-inf"))
    score, place = tl.reduce((scores, voice), 0, first_best)
    tl.store(best + tl.program_id(0), score)
    tl.store(places + tl.program_id(0), place)


@triton.jit
@no_type_check
def choose_kernel(
    best,
    places,
    token,
    position,
    output,
    limits,
    is_open,
    used,
    parts,
    padding,
    end,
    early: tl.constexpr,
    block: tl.constexpr,
):
    """`choose` per una frase: il primo dei punteggi più alti, e lo stato che avanza."""
    if early:
        gdc_wait()
        gdc_launch_dependents()
    part = tl.arange(0, block)
    scores = tl.load(best + part, part < parts, float("-inf"))
    _, voice = tl.reduce((scores, tl.load(places + part, part < parts, 0)), 0, first_best)
    now = tl.load(position)
    going = tl.load(is_open)
    chosen = tl.where(going, voice.to(tl.int64), padding)
    tl.store(output + now, chosen)
    tl.store(token, chosen)
    tl.store(used, tl.load(used) + going.to(tl.int64))
    tl.store(position, now + 1)
    tl.store(is_open, going & (chosen != end) & (tl.load(limits) > now + 1))
