"""§3.1: le pile dell'encoder e del decoder.

Ogni sotto-strato è circondato da una connessione residua e seguito da una normalizzazione:
LayerNorm(x + Sublayer(x)). Lo strato dell'encoder ne ha due, quello del decoder tre. I sotto-strati
arrivano come argomenti: che cosa calcolano lo dicono le sezioni seguenti.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from attention.s0_abstract import require

EPSILON = 1e-6
"""Ciò che si aggiunge alla varianza. L'articolo non lo dice; è quello del codice pubblicato."""


def layer_norm(
    x: Float[Tensor, "*batch d_model"],
    gain: Float[Tensor, " d_model"],
    bias: Float[Tensor, " d_model"],
) -> Float[Tensor, "*batch d_model"]:
    """La normalizzazione di strato, passo per passo: media 0 e varianza 1 in ogni vettore.

    Argomenti:
        x: forma [..., d_model]; ogni vettore si normalizza per conto suo.
        gain: il fattore appreso di ogni componente, lungo d_model.
        bias: il termine appreso di ogni componente, lungo d_model.

    Restituisce:
        Forma [..., d_model].
    """
    centered = x - x.mean(dim=-1, keepdim=True)
    variance = centered.square().mean(dim=-1, keepdim=True)
    return gain * centered / (variance + EPSILON).sqrt() + bias


class LayerNorm(nn.Module):
    """La normalizzazione di strato con i suoi parametri, calcolata da un kernel solo.

    Argomenti:
        d_model: larghezza dei vettori.
    """

    def __init__(self, d_model: int):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(d_model))
        self.bias = nn.Parameter(torch.zeros(d_model))

    def forward(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """Gli stessi numeri di `layer_norm`, salvo l'arrotondamento.

        Solleva:
            ValueError: se x non è largo d_model.
        """
        width = self.gain.size(0)
        require(x.size(-1) == width, "x", f"larghezza {x.size(-1)}", f"{width}")
        return F.layer_norm(x, self.gain.shape, self.gain, self.bias, EPSILON)


class Dropout(nn.Dropout):
    """Il dropout di PyTorch, di cui §5.4 dirà il perché; su CPU, in una forma più svelta."""

    def forward(self, x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Azzera ogni numero con probabilità p, e divide per 1 − p quelli che restano.

        PyTorch su CPU estrae una prova di Bernoulli alla volta; un blocco di numeri uniformi da
        confrontare con p dice lo stesso e costa meno.
        """
        if not self.training or self.p == 0:
            return x
        if x.device.type != "cpu" or self.p == 1:
            return super().forward(x)
        kept = torch.rand(x.shape, device=x.device) >= self.p
        return x * kept.to(x.dtype).mul_(1 / (1 - self.p))


class AddAndNorm(nn.Module):
    """§3.1 ¶1: ciò che sta attorno a ogni sotto-strato, LayerNorm(x + Sublayer(x)).

    Sull'uscita del sotto-strato, prima della somma, agisce il dropout di §5.4.

    Argomenti:
        d_model: larghezza dei vettori.
        dropout: P_drop, la probabilità di azzerare un numero durante l'addestramento.
    """

    def __init__(self, d_model: int, dropout: float):
        super().__init__()
        self.dropout = Dropout(dropout)
        self.norm = LayerNorm(d_model)

    def forward(
        self,
        x: Float[Tensor, "*batch n d_model"],
        sublayer_output: Float[Tensor, "*batch n d_model"],
    ) -> Float[Tensor, "*batch n d_model"]:
        """La somma, poi la normalizzazione: post-norm, come nell'articolo.

        Solleva:
            ValueError: se il sotto-strato ha cambiato forma, o se x non è largo d_model.
        """
        given, expected = sublayer_output.shape, f"{list(x.shape)}, come x"
        require(given == x.shape, "sublayer_output", given, expected)
        return self.norm(x + self.dropout(sublayer_output))


@runtime_checkable
class AttentionSublayer(Protocol):
    """Ciò che §3.1 chiede a un'attenzione, chiunque la realizzi."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Tensor:
        """Ogni query guarda le key e riceve una media dei value."""

    def roles(self, x: Tensor, first: int, last: int) -> list[Tensor]:
        """Le proiezioni di x: 0 query, 1 key, 2 value, da `first` a `last` escluso."""

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """L'attenzione fra proiezioni già fatte."""


@runtime_checkable
class FeedForwardSublayer(Protocol):
    """Ciò che §3.1 chiede a una rete feed-forward."""

    def __call__(self, x: Tensor) -> Tensor:
        """La stessa trasformazione per ogni posizione."""


class EncoderLayer(nn.Module):
    """§3.1 ¶1: uno strato dell'encoder, auto-attenzione e poi feed-forward.

    Argomenti:
        self_attention: il primo sotto-strato.
        feed_forward: il secondo.
        d_model: larghezza dei vettori.
        dropout: P_drop.
    """

    def __init__(
        self,
        self_attention: AttentionSublayer,
        feed_forward: FeedForwardSublayer,
        d_model: int,
        dropout: float,
    ):
        super().__init__()
        self.self_attention = self_attention
        self.self_attention_norm = AddAndNorm(d_model, dropout)
        self.feed_forward = feed_forward
        self.feed_forward_norm = AddAndNorm(d_model, dropout)

    def forward(
        self,
        x: Float[Tensor, "*batch n d_model"],
        source_mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*batch n d_model"]:
        """Ogni posizione guarda tutte le altre, poi passa da sola per il feed-forward."""
        x = self.self_attention_norm(x, self.self_attention(x, x, x, source_mask))
        return self.feed_forward_norm(x, self.feed_forward(x))


@dataclass
class LayerCache:
    """Ciò che uno strato del decoder ha già calcolato e non ricalcola al token seguente.

    Argomenti:
        keys, values: quelli della destinazione, con il posto per i token ancora da generare.
        memory_keys, memory_values: quelli della sorgente, calcolati una volta.
    """

    keys: Float[Tensor, "*batch h capacity d_k"]
    values: Float[Tensor, "*batch h capacity d_v"]
    memory_keys: Float[Tensor, "*batch h n d_k"]
    memory_values: Float[Tensor, "*batch h n d_v"]


class DecoderLayer(nn.Module):
    """§3.1 ¶2: uno strato del decoder; fra i due sotto-strati ne entra un terzo.

    Argomenti:
        self_attention: il primo sotto-strato, che non guarda le posizioni seguenti.
        cross_attention: il secondo, che guarda l'uscita dell'encoder.
        feed_forward: il terzo.
        d_model: larghezza dei vettori.
        dropout: P_drop.
    """

    def __init__(
        self,
        self_attention: AttentionSublayer,
        cross_attention: AttentionSublayer,
        feed_forward: FeedForwardSublayer,
        d_model: int,
        dropout: float,
    ):
        super().__init__()
        self.self_attention = self_attention
        self.self_attention_norm = AddAndNorm(d_model, dropout)
        self.cross_attention = cross_attention
        self.cross_attention_norm = AddAndNorm(d_model, dropout)
        self.feed_forward = feed_forward
        self.feed_forward_norm = AddAndNorm(d_model, dropout)

    def forward(
        self,
        x: Float[Tensor, "*batch m d_model"],
        memory: Float[Tensor, "*batch n d_model"],
        source_mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*batch m d_model"]:
        """Guarda ciò che lo precede, poi la sorgente, poi passa per il feed-forward."""
        x = self.self_attention_norm(x, self.self_attention(x, x, x, causal=True))
        x = self.cross_attention_norm(x, self.cross_attention(x, memory, memory, source_mask))
        return self.feed_forward_norm(x, self.feed_forward(x))

    def new_cache(self, memory: Float[Tensor, "*batch n d_model"], capacity: int) -> LayerCache:
        """Una cache vuota per `capacity` token, con key e value della sorgente già pronti."""
        memory_keys, memory_values = self.cross_attention.roles(memory, 1, 3)
        rows = (*memory_keys.shape[:-2], capacity)
        keys = memory_keys.new_empty(*rows, memory_keys.size(-1))
        values = memory_values.new_empty(*rows, memory_values.size(-1))
        return LayerCache(keys, values, memory_keys.contiguous(), memory_values.contiguous())

    def step(
        self,
        x: Float[Tensor, "*batch k d_model"],
        position: int,
        cache: LayerCache,
        source_mask: Bool[Tensor, "..."] | None = None,
        past: Bool[Tensor, "*batch k known"] | None = None,
    ) -> Float[Tensor, "*batch k d_model"]:
        """`forward` per il solo token alla posizione `position`: gli altri sono nella cache.

        Le key e i value delle posizioni precedenti non cambiano, perché nessuna di esse guarda
        il token nuovo. Perciò basta aggiungere i suoi. I token che si contendono la posizione
        possono essere k, uno per ipotesi: allora la cache ha k posti per ogni posizione, e `past`
        è vero dove il passato è dell'ipotesi.

        Solleva:
            ValueError: se nella cache non c'è il posto per quella posizione.
        """
        k = x.size(-2)
        last = cache.keys.size(-2) // k - 1
        require(0 <= position <= last, "position", position, f"da 0 a {last}")
        query, key, value = self.self_attention.roles(x, 0, 3)
        cache.keys.narrow(-2, position * k, k).copy_(key)
        cache.values.narrow(-2, position * k, k).copy_(value)
        known = (position + 1) * k
        seen = self.self_attention.attend(
            query, cache.keys.narrow(-2, 0, known), cache.values.narrow(-2, 0, known), past
        )
        x = self.self_attention_norm(x, seen)
        (query,) = self.cross_attention.roles(x, 0, 1)
        seen = self.cross_attention.attend(
            query, cache.memory_keys, cache.memory_values, source_mask
        )
        x = self.cross_attention_norm(x, seen)
        return self.feed_forward_norm(x, self.feed_forward(x))


class Encoder(nn.Module):
    """§3.1 ¶1: una pila di N strati uguali nella forma, ciascuno con i suoi pesi.

    Argomenti:
        layers: gli strati, dal basso.

    Solleva:
        ValueError: se non ce n'è nessuno, o se lo stesso compare due volte.
    """

    def __init__(self, layers: Sequence[EncoderLayer]):
        super().__init__()
        self.layers = distinct(layers)

    def forward(
        self,
        x: Float[Tensor, "*batch n d_model"],
        source_mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*batch n d_model"]:
        """L'uscita di ogni strato è l'ingresso del successivo."""
        for layer in self.layers:
            x = layer(x, source_mask)
        return x


class Decoder(nn.Module):
    """§3.1 ¶2: una pila di N strati, ciascuno dei quali guarda la stessa memoria.

    Argomenti:
        layers: gli strati, dal basso.

    Solleva:
        ValueError: come `Encoder`.
    """

    def __init__(self, layers: Sequence[DecoderLayer]):
        super().__init__()
        self.layers = distinct(layers)

    def forward(
        self,
        x: Float[Tensor, "*batch m d_model"],
        memory: Float[Tensor, "*batch n d_model"],
        source_mask: Bool[Tensor, "..."] | None = None,
    ) -> Float[Tensor, "*batch m d_model"]:
        """La memoria è l'uscita dell'ultimo strato dell'encoder, e serve a tutti gli strati."""
        for layer in self.layers:
            x = layer(x, memory, source_mask)
        return x

    def new_cache(
        self, memory: Float[Tensor, "*batch n d_model"], capacity: int
    ) -> list[LayerCache]:
        """Una cache per strato."""
        layers = cast("list[DecoderLayer]", self.layers)
        return [layer.new_cache(memory, capacity) for layer in layers]

    def step(
        self,
        x: Float[Tensor, "*batch k d_model"],
        position: int,
        caches: Sequence[LayerCache],
        source_mask: Bool[Tensor, "..."] | None = None,
        past: Bool[Tensor, "*batch k known"] | None = None,
    ) -> Float[Tensor, "*batch k d_model"]:
        """`forward` per un token solo, dato ciò che la cache conserva degli altri.

        Solleva:
            ValueError: se le cache non sono una per strato, e come `DecoderLayer.step`.
        """
        layers = cast("list[DecoderLayer]", self.layers)
        same = len(caches) == len(layers)
        require(same, "caches", f"{len(caches)} cache", f"{len(layers)}, una per strato")
        for layer, cache in zip(layers, caches, strict=True):
            x = layer.step(x, position, cache, source_mask, past)
        return x


def distinct(layers: Sequence[nn.Module]) -> nn.ModuleList:
    """Gli strati di una pila: almeno uno, e nessuno ripetuto, perché i pesi sono di ciascuno."""
    require(len(layers) > 0, "layers", "nessuno strato", "almeno uno")
    different = len({id(layer) for layer in layers}) == len(layers)
    require(different, "layers", "uno strato ripetuto", "strati distinti")
    return nn.ModuleList(layers)
