"""Dallo strato dell'articolo a quello di LLaMA, un cambiamento per volta.

La norma prima del sotto-strato invece che dopo la somma; una norma senza media; un feed-forward con
una porta; le posizioni come rotazione; meno key e value che query; nessun dropout. Ogni cambiamento
è un campo della configurazione, così lo stesso decoder è l'uno, l'altro, o una via di mezzo. Poi i
conti (parametri, byte, operazioni) e la prova: quanto vale ciascuno in un modello piccolo.
"""

import csv
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from attention.beyond.next_token import (
    CORPUS_SEED,
    DecoderOnly,
    WordVocabulary,
    endless_batches,
    italian_sentences,
    next_token_loss,
)
from attention.beyond.rope import Cell, rotated, speeds
from attention.s0_abstract import require
from attention.s3_1_encoder_decoder_stacks import EPSILON, LayerNorm, distinct
from attention.s3_2_1_scaled_dot_product import fused_kernel
from attention.s3_2_2_multi_head import check_vectors, linear, split_heads
from attention.s3_3_feed_forward import FeedForward
from attention.s3_4_embeddings_softmax import SharedEmbedding, check_tokens
from attention.s3_5_positional_encoding import WAVELENGTH_BASE
from attention.s3_model_architecture import TransformerConfig, check_size, make_positions
from attention.s5_2_hardware_schedule import Processes, Trainer
from attention.s5_3_optimizer import learning_rate, make_optimizer
from attention.sa_attention_visualizations import drawing, label

# La norma.


def rms_norm(
    x: Float[Tensor, "*batch d_model"], gain: Float[Tensor, " d_model"]
) -> Float[Tensor, "*batch d_model"]:
    """RMSNorm, passo per passo: ogni vettore diviso per il suo valore efficace.

    Argomenti:
        x: forma [..., d_model]; ogni vettore si normalizza per conto suo.
        gain: il fattore appreso di ogni componente.
    """
    mean_square = x.square().mean(dim=-1, keepdim=True)
    return gain * x / (mean_square + EPSILON).sqrt()


class RMSNorm(nn.Module):
    """La norma senza media, con il suo parametro, calcolata da un kernel solo.

    Argomenti:
        d_model: larghezza dei vettori.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(d_model))

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Gli stessi numeri di `rms_norm`, salvo l'arrotondamento.

        Solleva:
            ValueError: se x non è largo d_model.
        """
        width = self.gain.size(0)
        require(x.size(-1) == width, "x", f"larghezza {x.size(-1)}", f"{width}")
        return F.rms_norm(x, self.gain.shape, self.gain, EPSILON)


# Il feed-forward.


def swiglu(
    x: Float[Tensor, "*batch n d_model"],
    w_1: Float[Tensor, "d_model d_ff"],
    w_3: Float[Tensor, "d_model d_ff"],
    w_2: Float[Tensor, "d_ff d_model"],
) -> Float[Tensor, "*batch n d_model"]:
    """Il feed-forward con la porta, alla lettera: (silu(xW_1) ⊙ xW_3) W_2.

    silu(z) = z · σ(z), con σ la sigmoide: la ReLU con lo spigolo smussato.

    Argomenti:
        x: una riga per posizione, forma [..., n, d_model].
        w_1: la porta.
        w_3: ciò che la porta lascia passare.
        w_2: il ritorno a d_model.
    """
    gate = x @ w_1
    return ((gate * gate.sigmoid()) * (x @ w_3)) @ w_2


class GatedFeedForward(nn.Module):
    """Il feed-forward di LLaMA: tre matrici, nessun termine costante.

    Le matrici sono conservate trasposte, una riga per uscita, come in §3.3.

    Argomenti:
        d_model: larghezza in ingresso e in uscita.
        d_ff: larghezza interna.
    """

    def __init__(self, d_model: int, d_ff: int):
        super().__init__()
        check_size(d_model, "d_model")
        check_size(d_ff, "d_ff")
        self.w_1 = nn.Parameter(torch.empty(d_ff, d_model))
        self.w_3 = nn.Parameter(torch.empty(d_ff, d_model))
        self.w_2 = nn.Parameter(torch.empty(d_model, d_ff))
        for matrix in (self.w_1, self.w_3, self.w_2):
            nn.init.xavier_uniform_(matrix)

    def forward(self, x: Float[Tensor, "*batch n d_model"]) -> Float[Tensor, "*batch n d_model"]:
        """`swiglu` con i parametri del modulo.

        Solleva:
            TypeError, ValueError: se x non è del tipo dei parametri, o non è largo d_model.
        """
        check_vectors(x, "x", self.w_1)
        return linear(F.silu(linear(x, self.w_1)) * linear(x, self.w_3), self.w_2)


def gated_width(d_ff: int, multiple: int = 1) -> int:
    """La larghezza interna con la porta che lascia i parametri com'erano: due terzi di d_ff.

    Argomenti:
        d_ff: la larghezza del feed-forward senza porta.
        multiple: si arrotonda in su a un suo multiplo; LLaMA prende 256.
    """
    check_size(d_ff, "d_ff")
    check_size(multiple, "multiple")
    return -(-2 * d_ff // (3 * multiple)) * multiple


# Le misure.


@dataclass(frozen=True)
class ModernConfig(TransformerConfig):
    """Le misure di un decoder, con i cambiamenti uno per uno; di suo li ha tutti tranne GQA.

    Argomenti:
        kv_heads: g, quante teste di key e value; se manca, una per query, come nell'articolo.
        pre_norm: la norma prima di ogni sotto-strato, e una in fondo alla pila.
        rms: RMSNorm al posto di LayerNorm.
        gated: il feed-forward con la porta.
        rope: la base della rotazione; se manca, le posizioni si sommano come in §3.5.
        tied: la tabella d'uscita è quella d'ingresso, come in §3.4.
        experts: quanti feed-forward per strato; più di uno si conta, e non si costruisce.

    Solleva:
        TypeError, ValueError: come `TransformerConfig`; inoltre se le teste non si dividono in
            g gruppi, se d_v non è d_k, o se c'è del dropout.
    """

    dropout: float = 0.0
    kv_heads: int | None = None
    pre_norm: bool = True
    rms: bool = True
    gated: bool = True
    rope: float | None = WAVELENGTH_BASE
    tied: bool = True
    experts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_size(self.groups, "kv_heads")
        check_size(self.experts, "experts")
        divides = self.heads % self.groups == 0
        require(divides, "kv_heads", self.groups, f"un divisore di heads = {self.heads}")
        require(self.d_v in (None, self.width), "d_v", self.d_v, f"{self.width}, come d_k")
        require(self.dropout == 0, "dropout", self.dropout, "0: questi modelli non ne hanno")

    @property
    def groups(self) -> int:
        """g: quante key, e quanti value, ha una posizione in uno strato."""
        return self.heads if self.kv_heads is None else self.kv_heads

    @property
    def width(self) -> int:
        """d_k: la larghezza di una testa."""
        return self.d_model // self.heads if self.d_k is None else self.d_k


# L'attenzione a gruppi.


@dataclass
class KeyValueCache:
    """Key e value di uno strato, con il posto per quelli che verranno.

    Argomenti:
        keys, values: forma [..., g, capacity, d_k].
    """

    keys: Float[Tensor, "*batch g capacity d_k"]
    values: Float[Tensor, "*batch g capacity d_k"]

    @property
    def nbytes(self) -> int:
        """I byte che occupa."""
        return self.keys.nbytes + self.values.nbytes


class GroupedAttention(nn.Module):
    """L'auto-attenzione causale con g key e value per h query; con g = h è quella di §3.2.2.

    Argomenti:
        config: le misure; contano d_model, heads, d_k, kv_heads, rope, bias.
    """

    def __init__(self, config: ModernConfig):
        super().__init__()
        self.heads, self.groups = config.heads, config.groups
        self.omega = None if config.rope is None else speeds(config.width, config.rope)
        query, shared = config.heads * config.width, config.groups * config.width
        self.w_q = nn.Parameter(torch.empty(query, config.d_model))
        self.w_k = nn.Parameter(torch.empty(shared, config.d_model))
        self.w_v = nn.Parameter(torch.empty(shared, config.d_model))
        self.w_o = nn.Parameter(torch.empty(config.d_model, query))
        for matrix in (self.w_q, self.w_k, self.w_v, self.w_o):
            nn.init.xavier_uniform_(matrix)
        sizes = (query, shared, shared, config.d_model) if config.bias else ()
        self.biases = nn.ParameterList(torch.zeros(size) for size in sizes)

    def project(
        self, x: Float[Tensor, "*batch n d_model"], first: int = 0
    ) -> tuple[
        Float[Tensor, "*batch h n d_k"],
        Float[Tensor, "*batch g n d_k"],
        Float[Tensor, "*batch g n d_k"],
    ]:
        """Query, key e value delle posizioni da `first` in poi; le prime due già ruotate."""
        check_vectors(x, "x", self.w_q)
        weights, counts = (self.w_q, self.w_k, self.w_v), (self.heads, self.groups, self.groups)
        biases = [*self.biases][:3] or [None] * 3
        query, key, value = (
            split_heads(linear(x, weight, bias), count)
            for weight, bias, count in zip(weights, biases, counts, strict=True)
        )
        if self.omega is not None:
            places = torch.arange(first, first + x.size(-2))
            query, key = rotated(query, places, self.omega), rotated(key, places, self.omega)
        return query, key, value

    def forward(self, x: Float[Tensor, "*batch n d_model"]) -> Float[Tensor, "*batch n d_model"]:
        """Tutte le posizioni insieme: ogni key e ogni value ripetuti per le query del loro gruppo.

        Le query da i · h/g a (i + 1) · h/g escluso guardano la key i.
        """
        query, key, value = self.project(x)
        times = self.heads // self.groups
        key, value = (it.repeat_interleave(times, dim=-3) for it in (key, value))
        seen = fused_kernel(query, key, value, tuple(query.shape[:-2]), None, causal=True)
        return self.combine(seen)

    def combine(self, heads: Float[Tensor, "*batch h n d_k"]) -> Float[Tensor, "*batch n d_model"]:
        """Le teste una accanto all'altra, poi W^O."""
        bias = self.biases[3] if len(self.biases) else None
        return linear(heads.transpose(-3, -2).flatten(-2), self.w_o, bias)

    def step(
        self, x: Float[Tensor, "*batch 1 d_model"], position: int, cache: KeyValueCache
    ) -> Float[Tensor, "*batch 1 d_model"]:
        """`forward` per il solo token alla posizione `position`; gli altri sono nella cache.

        Qui nulla si ripete: le h/g query di un gruppo sono le righe di una matrice, e la tabella
        delle key si legge una volta per tutte.

        Solleva:
            ValueError: se nella cache non c'è il posto per quella posizione.
        """
        capacity = cache.keys.size(-2)
        require(0 <= position < capacity, "position", position, f"da 0 a {capacity - 1}")
        query, key, value = self.project(x, position)
        cache.keys.narrow(-2, position, 1).copy_(key)
        cache.values.narrow(-2, position, 1).copy_(value)
        keys, values = (it.narrow(-2, 0, position + 1) for it in (cache.keys, cache.values))
        rows = query.squeeze(-2).unflatten(-2, (self.groups, -1))
        seen = fused_kernel(rows, keys, values, tuple(rows.shape[:-2]), None, causal=False)
        return self.combine(seen.flatten(-3, -2).unsqueeze(-2))


# Lo strato, e la pila.


class Block(nn.Module):
    """Uno strato: attenzione e feed-forward, ciascuno con il residuo e la norma.

    Argomenti:
        config: le misure.

    Solleva:
        ValueError: se la configurazione ha più esperti, o termini costanti insieme alla porta.
    """

    def __init__(self, config: ModernConfig):
        super().__init__()
        require(config.experts == 1, "experts", config.experts, "1: di più si contano soltanto")
        plain = not (config.bias and config.gated)
        require(plain, "bias, gated", "tutti e due", "al più uno: qui la porta non ha costanti")
        norm = RMSNorm if config.rms else LayerNorm
        self.pre_norm = config.pre_norm
        self.attention = GroupedAttention(config)
        self.attention_norm = norm(config.d_model)
        feed_forward = GatedFeedForward if config.gated else FeedForward
        self.feed_forward = feed_forward(config.d_model, config.d_ff)
        self.feed_forward_norm = norm(config.d_model)

    def around(
        self,
        x: Float[Tensor, "*batch n d_model"],
        norm: nn.Module,
        sublayer: Callable[[Tensor], Tensor],
    ) -> Float[Tensor, "*batch n d_model"]:
        """Il residuo, con la norma dove la configurazione la vuole."""
        if self.pre_norm:
            return x + sublayer(norm(x))
        return cast(Tensor, norm(x + sublayer(x)))

    def forward(self, x: Float[Tensor, "*batch n d_model"]) -> Float[Tensor, "*batch n d_model"]:
        """I due sotto-strati, tutte le posizioni insieme."""
        x = self.around(x, self.attention_norm, self.attention)
        return self.around(x, self.feed_forward_norm, self.feed_forward)

    def step(
        self, x: Float[Tensor, "*batch 1 d_model"], position: int, cache: KeyValueCache
    ) -> Float[Tensor, "*batch 1 d_model"]:
        """`forward` per un token solo; vedi `GroupedAttention.step`."""

        def attention(y: Tensor) -> Tensor:
            return self.attention.step(y, position, cache)

        x = self.around(x, self.attention_norm, attention)
        return self.around(x, self.feed_forward_norm, self.feed_forward)


class ModernDecoder(DecoderOnly):
    """Il decoder che predice il token seguente, con gli strati di questa pagina.

    Argomenti:
        config: le misure; `layers` sono gli strati dell'unica pila.
    """

    config: ModernConfig
    configuration = ModernConfig

    def __init__(self, config: ModernConfig):
        nn.Module.__init__(self)
        self.config = config
        self.embedding = SharedEmbedding(config.vocabulary, config.d_model)
        if not config.tied:
            self.unembedding = SharedEmbedding(config.vocabulary, config.d_model)
        self.added = make_positions(config) if config.rope is None else None
        self.layers = distinct([Block(config) for _ in range(config.layers)])
        norm = RMSNorm if config.rms else LayerNorm
        self.last_norm = norm(config.d_model) if config.pre_norm else nn.Identity()

    @property
    def output(self) -> SharedEmbedding:
        """La tabella che dà i punteggi: quella d'ingresso, o una sua."""
        return self.embedding if self.config.tied else self.unembedding

    def forward(self, tokens: Int[Tensor, "*batch n"]) -> Float[Tensor, "*batch n vocabulary"]:
        """I punteggi del token seguente, dati quelli fino a ogni posizione compresa."""
        return self.output.logits(self.hidden(tokens))

    def score(
        self, tokens: Int[Tensor, "*batch n"], expected: Int[Tensor, "*batch n"]
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
        """log p di ogni token atteso, in nat, e la media di log p: vedi `SharedEmbedding.score`."""
        return self.output.score(self.hidden(tokens), expected)

    def embedded(
        self, tokens: Int[Tensor, "*batch n"], first: int = 0
    ) -> Float[Tensor, "*batch n d_model"]:
        """Ciò che entra nel primo strato; le posizioni si sommano solo se non ruotano."""
        vectors = self.embedding(tokens)
        return vectors if self.added is None else self.added(vectors, first)

    def hidden_states(
        self, tokens: Int[Tensor, "*batch n"]
    ) -> list[Float[Tensor, "*batch n d_model"]]:
        """Ciò che passa fra uno strato e l'altro; l'ultimo è dopo la norma in fondo alla pila."""
        check_tokens(tokens, "tokens", self.config.vocabulary)
        states = [self.embedded(tokens)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        states[-1] = self.last_norm(states[-1])
        return states

    def new_caches(self, batch: int, capacity: int) -> list[KeyValueCache]:
        """Una cache vuota per strato, del tipo dei parametri.

        Argomenti:
            batch: quante frasi insieme.
            capacity: per quanti token c'è posto.
        """
        check_size(batch, "batch")
        check_size(capacity, "capacity")
        shape = (batch, self.config.groups, capacity, self.config.width)
        new = self.embedding.weight.new_empty
        return [KeyValueCache(new(shape), new(shape)) for _ in self.layers]

    def step(
        self, token: Int[Tensor, "batch 1"], position: int, caches: Sequence[KeyValueCache]
    ) -> Float[Tensor, "batch 1 vocabulary"]:
        """I punteggi dopo il token alla posizione `position`; i precedenti sono nelle cache.

        Solleva:
            ValueError: se le cache non sono una per strato, o non hanno posto.
        """
        layers, given = cast("list[Block]", self.layers), f"{len(caches)} cache"
        same = len(caches) == len(layers)
        require(same, "caches", given, f"{len(layers)}, una per strato")
        x = self.embedded(token, position)
        for layer, cache in zip(layers, caches, strict=True):
            x = layer.step(x, position, cache)
        return self.output.logits(self.last_norm(x))


def gradient_norms(config: ModernConfig, seed: int, n: int = 10) -> list[float]:
    """Ai valori iniziali, la norma del gradiente di W_2 di ogni strato, dal primo all'ultimo.

    La perdita è quella vera, su n token e n risposte presi a caso.
    """
    torch.manual_seed(seed)
    model = ModernDecoder(config)
    tokens, expected = torch.randint(config.vocabulary, (2, n))
    known, _ = model.score(tokens, expected)
    (-known.mean()).backward()
    layers = cast("list[Block]", model.layers)
    return [cast(Tensor, it.feed_forward.w_2.grad).norm().item() for it in layers]


# I conti.


def norm_parameters(config: ModernConfig) -> int:
    """Quelli di una norma: il guadagno, e per LayerNorm anche il termine costante."""
    return config.d_model if config.rms else 2 * config.d_model


def attention_parameters(config: ModernConfig) -> int:
    """Quelli di un'attenzione: W^Q e W^O per h teste, W^K e W^V per g."""
    query, shared = config.heads * config.width, config.groups * config.width
    constants = query + 2 * shared + config.d_model if config.bias else 0
    return 2 * config.d_model * (query + shared) + constants


def feed_forward_parameters(config: ModernConfig) -> int:
    """Quelli dei feed-forward di uno strato; se sono più d'uno, anche di ciò che li sceglie."""
    matrices = 3 if config.gated else 2
    constants = (matrices - 1) * config.d_ff + config.d_model
    one = matrices * config.d_model * config.d_ff
    if config.bias or not config.gated:
        one += constants
    if config.experts == 1:
        return one
    chooser = (config.d_model + config.bias) * config.experts
    return config.experts * one + chooser


def layer_parameters(config: ModernConfig) -> int:
    """Quelli di uno strato intero."""
    parts = attention_parameters(config) + feed_forward_parameters(config)
    return parts + 2 * norm_parameters(config)


def parameters(config: ModernConfig) -> int:
    """Quanti parametri ha il decoder: le tabelle, gli strati, l'ultima norma."""
    tables = 1 if config.tied else 2
    rows = tables * config.vocabulary + (config.learned_positions or 0)
    last = norm_parameters(config) if config.pre_norm else 0
    return config.d_model * rows + config.layers * layer_parameters(config) + last


def cache_bytes(config: ModernConfig, tokens: int, bits: int = 16) -> int:
    """I byte di key e value di `tokens` token, in tutti gli strati.

    Argomenti:
        config: le misure.
        tokens: quanti token, di tutte le frasi insieme.
        bits: quelli di un numero.
    """
    return config.layers * 2 * config.groups * config.width * tokens * bits // 8


def layer_flops(config: ModernConfig, n: int) -> int:
    """Le operazioni dei prodotti di uno strato su n token: 2 per moltiplicazione e somma.

    I punteggi si contano tutti, anche quelli che la maschera toglie.
    """
    query, shared = config.heads * config.width, config.groups * config.width
    matrices = 3 if config.gated else 2
    weights = config.d_model * (2 * query + 2 * shared + matrices * config.d_ff)
    return 2 * n * weights + 4 * n * n * query


GPT_2 = ModernConfig(
    layers=12,
    d_model=768,
    d_ff=3072,
    heads=12,
    vocabulary=50_257,
    learned_positions=1024,
    bias=True,
    rms=False,
    gated=False,
    rope=None,
)
"""GPT-2 piccolo. Al posto della ReLU ha la GELU, che non ha parametri."""

LLAMA_7B = ModernConfig(
    layers=32, d_model=4096, d_ff=11_008, heads=32, vocabulary=32_000, tied=False
)
"""LLaMA 7B, la prima, del 2023."""

LLAMA_3_8B = dataclasses.replace(
    LLAMA_7B, d_ff=14_336, kv_heads=8, vocabulary=128_256, rope=500_000.0
)
"""LLaMA 3 8B, del 2024."""

MODELS = {
    "GPT-2 small": GPT_2,
    "LLaMA 7B": LLAMA_7B,
    "LLaMA 13B": dataclasses.replace(LLAMA_7B, layers=40, d_model=5120, d_ff=13_824, heads=40),
    "LLaMA 33B": dataclasses.replace(LLAMA_7B, layers=60, d_model=6656, d_ff=17_920, heads=52),
    "LLaMA 65B": dataclasses.replace(LLAMA_7B, layers=80, d_model=8192, d_ff=22_016, heads=64),
    "LLaMA 2 70B": dataclasses.replace(
        LLAMA_7B, layers=80, d_model=8192, d_ff=28_672, heads=64, kv_heads=8
    ),
    "LLaMA 3 8B": LLAMA_3_8B,
    "LLaMA 3 70B": dataclasses.replace(LLAMA_3_8B, layers=80, d_model=8192, d_ff=28_672, heads=64),
    "LLaMA 3.1 405B": dataclasses.replace(
        LLAMA_3_8B, layers=126, d_model=16_384, d_ff=53_248, heads=128
    ),
    "LLaMA 3.2 1B": dataclasses.replace(LLAMA_3_8B, layers=16, d_model=2048, d_ff=8192, tied=True),
    "LLaMA 3.2 3B": dataclasses.replace(
        LLAMA_3_8B, layers=28, d_model=3072, d_ff=8192, heads=24, tied=True
    ),
    "gpt-oss-120b": ModernConfig(
        layers=36,
        d_model=2880,
        d_ff=2880,
        heads=64,
        d_k=64,
        d_v=64,
        kv_heads=8,
        vocabulary=201_088,
        bias=True,
        rope=150_000.0,
        tied=False,
        experts=128,
    ),
}
"""Le misure pubblicate di alcuni modelli."""


# La prova.


def gate(config: ModernConfig) -> ModernConfig:
    """La stessa configurazione con la porta, a pari parametri nelle matrici."""
    return dataclasses.replace(config, gated=True, d_ff=gated_width(config.d_ff))


def group(config: ModernConfig) -> ModernConfig:
    """Un quarto di key e value; ciò che si toglie all'attenzione va al feed-forward."""
    fewer = config.heads // 4
    saved = 2 * (config.heads - fewer) * config.width
    more = saved // (3 if config.gated else 2)
    return dataclasses.replace(config, kv_heads=fewer, d_ff=config.d_ff + more)


CHANGES: dict[str, Callable[[ModernConfig], ModernConfig]] = {
    "pre-norm": lambda it: dataclasses.replace(it, pre_norm=True),
    "RMSNorm": lambda it: dataclasses.replace(it, rms=True),
    "SwiGLU": gate,
    "RoPE": lambda it: dataclasses.replace(it, rope=WAVELENGTH_BASE),
    "GQA": group,
}
"""I cambiamenti, nell'ordine della pagina."""

PAPER = ModernConfig(
    layers=4,
    d_model=64,
    d_ff=192,
    heads=8,
    pre_norm=False,
    rms=False,
    gated=False,
    rope=None,
)
"""Da dove si parte: lo strato dell'articolo, piccolo; le voci sono quelle che il corpus ha."""


def changed(config: ModernConfig, names: Sequence[str]) -> ModernConfig:
    """Una configurazione dopo alcuni cambiamenti, uno dopo l'altro.

    Argomenti:
        config: le misure di partenza.
        names: nomi di `CHANGES`.
    """
    for name in names:
        require(name in CHANGES, "names", name, f"nomi fra {', '.join(CHANGES)}")
        config = CHANGES[name](config)
    return config


STEPS = 600
"""I passi di un addestramento."""

STOPS = (STEPS // 2, STEPS)
"""Dopo quanti passi si giudica: a metà, e alla fine."""

RISING = 120
"""In quanti il tasso di apprendimento sale."""

TOKENS = 320
"""I token di un passo, padding compreso."""

SLOWER = 0.5
"""Quanto del tasso di §5.3 si prende: con il tasso intero lo strato dell'articolo fatica."""


def rate(step: int, d_model: int, rising: int, warm: bool) -> float:
    """La metà del tasso di §5.3; senza warmup si parte dal massimo, e poi si cala uguale.

    Argomenti:
        step: il passo, da 1.
        d_model, rising: come in `learning_rate`.
        warm: vero se il tasso sale.
    """
    return SLOWER * learning_rate(step if warm else max(step, rising), d_model, rising)


def trained(
    config: ModernConfig,
    sentences: Sequence[Sequence[int]],
    seed: int,
    warm: bool,
    stops: Sequence[int] = STOPS,
    rising: int = RISING,
) -> Iterator[ModernDecoder]:
    """Un decoder addestrato da capo: sempre lo stesso, restituito a ogni fermata.

    Argomenti:
        config: le misure.
        sentences: le frasi in token, senza inizio e senza fine.
        seed: da cui dipendono i pesi di partenza e l'ordine dei batch.
        warm, rising: come in `rate`.
        stops: dopo quanti passi ci si ferma, in ordine crescente.
    """
    torch.manual_seed(seed)
    model, here = ModernDecoder(config), Processes(0, 1, torch.device("cpu"))

    def rate_of(step: int) -> float:
        return rate(step, config.d_model, rising, warm)

    trainer = Trainer(model, next_token_loss, make_optimizer(model), rate_of, here, seed)
    for step, batches in enumerate(endless_batches(sentences, TOKENS, seed), 1):
        trainer.run(batches)
        if step in stops:
            yield model
        if step >= stops[-1]:
            return


class Run(NamedTuple):
    """Una misura.

    Argomenti:
        changes: i cambiamenti rispetto allo strato dell'articolo.
        warm: vero se il tasso saliva.
        seed: il seme.
        steps: dopo quanti passi si è giudicato.
        bits: la sorpresa media su frasi mai viste, in bit per token.
    """

    changes: tuple[str, ...]
    warm: bool
    seed: int
    steps: int
    bits: float


LADDER = tuple(tuple(CHANGES)[:count] for count in range(len(CHANGES) + 1))
"""I gradini: da nessun cambiamento a tutti, uno in più per volta."""

ALONE = tuple((name,) for name in CHANGES)
"""Un cambiamento solo, sullo strato dell'articolo."""

COLD = LADDER[:2]
"""Chi si addestra anche senza warmup."""

VARIANTS = (
    *((names, True) for names in dict.fromkeys(LADDER + ALONE)),
    *((names, False) for names in COLD),
)
"""Che cosa si addestra: i cambiamenti, e se il tasso sale."""

SEEDS = (1, 2, 3)
"""I semi."""

TRAIN = 20_000
"""Quante frasi per addestrare."""

TEST = 300
"""Quante per giudicare."""

RESULTS = Path(__file__).with_suffix(".csv")
"""I numeri che la pagina mostra."""


def experiment(
    path: Path = RESULTS,
    seeds: Sequence[int] = SEEDS,
    stops: Sequence[int] = STOPS,
    train: int = TRAIN,
) -> None:
    """Addestra ogni variante con ogni seme, la giudica a ogni fermata, e aggiunge righe al file.

    Ciò che nel file c'è già non si rifà.
    """
    torch.set_num_threads(1)
    sentences = italian_sentences(CORPUS_SEED, train, TEST)
    vocabulary = WordVocabulary.of(sentences.train)
    learnt, judged = ([vocabulary.encode(it) for it in part] for part in sentences[:2])
    start = dataclasses.replace(PAPER, vocabulary=len(vocabulary))
    done = {it[:4] for it in read_runs(path)} if path.exists() else set()
    for seed, (names, warm) in itertools.product(seeds, VARIANTS):
        missing = [it for it in stops if (names, warm, seed, it) not in done]
        if not missing:
            continue
        models = trained(changed(start, names), learnt, seed, warm, missing)
        for steps, model in zip(missing, models, strict=True):
            rows = model.bits(judged)
            bits = sum(map(sum, rows)) / sum(map(len, rows))
            write_run(Run(names, warm, seed, steps, bits), path)


def write_run(run: Run, path: Path = RESULTS) -> None:
    """Aggiunge una misura al file, e la stampa."""
    line = [" + ".join(run.changes), int(run.warm), run.seed, run.steps, f"{run.bits:.4f}"]
    with path.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerow(line)
    print(*line, sep=", ", flush=True)


def read_runs(path: Path = RESULTS) -> list[Run]:
    """Le misure scritte da `write_run`."""

    def changes(names: str) -> tuple[str, ...]:
        return tuple(filter(None, names.split(" + ")))

    with path.open(encoding="utf-8", newline="") as file:
        return [
            Run(changes(names), warm == "1", int(seed), int(steps), float(bits))
            for names, warm, seed, steps, bits in csv.reader(file)
        ]


def cell(
    runs: Sequence[Run], changes: tuple[str, ...], warm: bool = True, steps: int = STEPS
) -> Cell:
    """La media dei semi di una variante, e fin dove vanno il migliore e il peggiore.

    Solleva:
        ValueError: se di quella variante non c'è nessuna misura.
    """
    wanted = (changes, warm, steps)
    found = [it.bits for it in runs if (it.changes, it.warm, it.steps) == wanted]
    require(bool(found), "changes, warm, steps", wanted, "una variante misurata")
    return Cell(fmean(found), min(found), max(found))


def bits_drawing(rows: Sequence[tuple[str, Cell]], title: str) -> str:
    """Una riga per variante: un punto sulla media, una barra dal seme migliore al peggiore.

    Argomenti:
        rows: il nome e la casella, dall'alto.
        title: che cosa mostra.
    """
    least = math.floor(10 * min(it.lowest for _, it in rows))
    most = math.ceil(10 * max(it.highest for _, it in rows))

    def across(bits: float) -> float:
        return 130 + 250 * (10 * bits - least) / (most - least)

    bottom, body = 10.0 + 26 * len(rows), []
    for mark in (least, most):
        x = across(mark / 10)
        body += [f'<path d="M{x:g} 8V{bottom:g}" stroke="currentColor" opacity=".3"/>']
        body += [label(x, bottom + 18, f"{mark / 10:.1f}".replace(".", ","), "middle")]
    body += [label(255.0, bottom + 18, "bit per token", "middle")]
    for row, (name, it) in enumerate(rows):
        y, ends = 24.0 + 26 * row, f"M{across(it.lowest):.1f}"
        body += [label(118.0, y + 4, name)]
        body += [
            f'<path class="semi" d="{ends} {y:g}H{across(it.highest):.1f}" stroke="currentColor"/>'
        ]
        body += [f'<circle cx="{across(it.mean):.1f}" cy="{y:g}" r="4"/>']
    return drawing(400.0, bottom + 26, title, body)


if __name__ == "__main__":
    experiment()
