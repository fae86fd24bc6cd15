"""§3: l'architettura del modello, encoder e decoder.

L'encoder porta i simboli x_1 … x_n in vettori z_1 … z_n; il decoder, dati questi, genera
y_1 … y_m un elemento alla volta, e ogni elemento generato torna in ingresso per il successivo. Le
parti vengono dalle sezioni §3.1–§3.5; qui si montano.
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from attention.s0_abstract import require
from attention.s3_1_encoder_decoder_stacks import (
    Decoder,
    DecoderLayer,
    Dropout,
    Encoder,
    EncoderLayer,
    LayerCache,
)
from attention.s3_2_2_multi_head import MultiHeadAttention, packed_weights
from attention.s3_2_3_applications import padding_mask
from attention.s3_3_feed_forward import FeedForward
from attention.s3_4_embeddings_softmax import SharedEmbedding, check_tokens, is_readable
from attention.s3_5_positional_encoding import LearnedPositions, SinusoidalPositions


@dataclass(frozen=True)
class TransformerConfig:
    """Le misure di un modello; i valori di partenza sono quelli del modello base dell'articolo.

    Argomenti:
        layers: N, gli strati di ogni pila.
        d_model: la larghezza dei vettori fra uno strato e l'altro.
        d_ff: la larghezza interna del feed-forward.
        heads: h, le teste di ogni attenzione.
        d_k: la larghezza di query e key in una testa; se manca, d_model / h.
        d_v: la larghezza dei value in una testa; se manca, d_model / h.
        dropout: P_drop.
        vocabulary: le voci del vocabolario comune; l'articolo ne dice circa 37 000.
        learned_positions: quante posizioni apprese al posto delle sinusoidi, tabella 3 (E).
        bias: i termini costanti nelle proiezioni, come nel primo codice pubblicato.
        padding_id, start_id, end_id: gli identificatori del padding, dell'inizio, della fine.

    Solleva:
        TypeError: se una misura non è del tipo giusto.
        ValueError: se la configurazione non può esistere.
    """

    layers: int = 6
    d_model: int = 512
    d_ff: int = 2048
    heads: int = 8
    d_k: int | None = None
    d_v: int | None = None
    dropout: float = 0.1
    vocabulary: int = 37_000
    learned_positions: int | None = None
    bias: bool = False
    padding_id: int = 0
    start_id: int = 1
    end_id: int = 2

    def __post_init__(self) -> None:
        for name in ("layers", "d_model", "d_ff", "heads", "vocabulary"):
            check_size(getattr(self, name), name)
        for name in ("d_k", "d_v", "learned_positions"):
            if getattr(self, name) is not None:
                check_size(getattr(self, name), name)
        divides = self.d_model % self.heads == 0 or None not in (self.d_k, self.d_v)
        multiple = f"un multiplo di heads = {self.heads}, oppure d_k e d_v"
        require(divides, "d_model", self.d_model, multiple)
        even = self.d_model % 2 == 0 or self.learned_positions is not None
        require(even, "d_model", self.d_model, "un numero pari, con le sinusoidi")
        real = isinstance(self.dropout, int | float)
        require(real, "dropout", self.dropout, "un numero", TypeError)
        require(0 <= self.dropout < 1, "dropout", self.dropout, "da 0 compreso a 1 escluso")
        require(isinstance(self.bias, bool), "bias", self.bias, "True o False", TypeError)
        special = {name: getattr(self, name) for name in ("padding_id", "start_id", "end_id")}
        for name, token in special.items():
            check_size(token, name, lowest=0)
            require(token < self.vocabulary, name, token, f"da 0 a {self.vocabulary - 1}")
        distinct = len(set(special.values())) == len(special)
        require(distinct, ", ".join(special), tuple(special.values()), "tre token diversi")


def check_size(value: Any, name: str, lowest: int = 1) -> None:
    """Una misura è un intero, almeno `lowest`."""
    integer = isinstance(value, int) and not isinstance(value, bool)
    require(integer, name, value, "un numero intero", TypeError)
    require(value >= lowest, name, value, f"almeno {lowest}")


BASE = TransformerConfig()
"""Il modello base dell'articolo, prima riga della tabella 3."""

BIG = TransformerConfig(d_model=1024, d_ff=4096, heads=16, dropout=0.3)
"""Il modello grande, ultima riga della tabella 3."""

READER = TransformerConfig(d_model=768, d_ff=3072, heads=12)
"""I numeri del lettore: 768, 12 teste da 64, 3072."""


def shift_right(target: Int[Tensor, "*batch m"], start_id: int) -> Int[Tensor, "*batch m"]:
    """Le uscite spostate a destra di un posto: davanti il simbolo d'inizio, l'ultima cade.

    Argomenti:
        target: le uscite desiderate y_1 … y_m.
        start_id: il simbolo d'inizio.

    Restituisce:
        L'ingresso del decoder: alla posizione i sta y_{i−1}.
    """
    start = torch.full_like(target[..., :1], start_id)
    return torch.cat([start, target[..., :-1]], dim=-1)


class Transformer(nn.Module):
    """§3: il modello intero.

    Argomenti:
        config: le misure, per esempio `BASE` o `BIG`.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.embedding = SharedEmbedding(config.vocabulary, config.d_model)
        self.source_positions = make_positions(config)
        self.target_positions = make_positions(config)
        self.dropout = Dropout(config.dropout)
        self.encoder = Encoder([make_encoder_layer(config) for _ in range(config.layers)])
        self.decoder = Decoder([make_decoder_layer(config) for _ in range(config.layers)])

    def forward(
        self, source: Int[Tensor, "*batch n"], target: Int[Tensor, "*batch m"]
    ) -> Float[Tensor, "*batch m vocabulary"]:
        """I punteggi del token seguente a ogni posizione della destinazione.

        Argomenti:
            source: la frase di partenza, forma [..., n]; il padding, se c'è, in fondo.
            target: l'ingresso del decoder, cioè le uscite già spostate a destra, forma [..., m].

        Restituisce:
            Forma [..., m, vocabulary]: il punteggio alla posizione i dipende da `source` e dai
            token di `target` fino a i compreso. Sulle posizioni di padding non vuol dire nulla.

        Solleva:
            TypeError, ValueError: se i token non sono interi del vocabolario, se una sequenza è
                vuota, se i due batch sono diversi, se le posizioni apprese non bastano.
        """
        return self.embedding.logits(self.hidden(source, target))

    def score(
        self,
        source: Int[Tensor, "*batch n"],
        target: Int[Tensor, "*batch m"],
        tokens: Int[Tensor, "*batch m"],
    ) -> tuple[Float[Tensor, "*batch m"], Float[Tensor, "*batch m"]]:
        """Come `forward`, ma solo ciò che serve all'addestramento: vedi `SharedEmbedding.score`."""
        return self.embedding.score(self.hidden(source, target), tokens)

    def hidden(
        self, source: Int[Tensor, "*batch n"], target: Int[Tensor, "*batch m"]
    ) -> Float[Tensor, "*batch m d_model"]:
        """L'uscita del decoder a ogni posizione, prima dello strato lineare.

        La tabella degli embedding si legge una volta per le due frasi: così anche il suo
        gradiente, grande quanto la tabella, si somma una volta sola.
        """
        self.check_pair(source, target)
        both = self.embedding(torch.cat([source, target], dim=-1), sparse=is_readable(source))
        source_vectors, target_vectors = both.split([source.size(-1), target.size(-1)], dim=-2)
        source_mask = self.source_mask(source)
        memory = self.encode_vectors(source_vectors, source_mask)
        return self.decode_vectors(target_vectors, memory, source_mask)

    def check_pair(self, source: Tensor, target: Tensor) -> None:
        """Token del vocabolario, e tante sorgenti quante destinazioni."""
        check_tokens(source, "source", self.config.vocabulary)
        check_tokens(target, "target", self.config.vocabulary)
        same = source.shape[:-1] == target.shape[:-1]
        expected = f"{list(source.shape[:-1])}, come source"
        require(same, "target", f"un batch {list(target.shape[:-1])}", expected)

    def encode(
        self, source: Int[Tensor, "*batch n"]
    ) -> tuple[Float[Tensor, "*batch n d_model"], Bool[Tensor, "*batch 1 n"] | None]:
        """Da x_1 … x_n a z_1 … z_n, con la maschera del padding."""
        source_mask = self.source_mask(source)
        return self.encode_vectors(self.embedding(source), source_mask), source_mask

    def encode_vectors(
        self,
        vectors: Float[Tensor, "*batch n d_model"],
        source_mask: Bool[Tensor, "*batch 1 n"] | None,
    ) -> Float[Tensor, "*batch n d_model"]:
        """Gli embedding della sorgente con le posizioni, il dropout, la pila dell'encoder."""
        return self.encoder(self.dropout(self.source_positions(vectors)), source_mask)

    def decode_vectors(
        self,
        vectors: Float[Tensor, "*batch m d_model"],
        memory: Float[Tensor, "*batch n d_model"],
        source_mask: Bool[Tensor, "*batch 1 n"] | None,
    ) -> Float[Tensor, "*batch m d_model"]:
        """Gli embedding della destinazione con le posizioni, il dropout, la pila del decoder."""
        return self.decoder(self.dropout(self.target_positions(vectors)), memory, source_mask)

    def source_mask(self, source: Int[Tensor, "*batch n"]) -> Bool[Tensor, "*batch 1 n"] | None:
        """La maschera del padding; nessuna, se non c'è padding: il kernel senza è più svelto."""
        mask = padding_mask(source, self.config.padding_id)
        return None if is_readable(mask) and mask.all() else mask

    def generate(self, source: Int[Tensor, "batch n"], extra: int = 50) -> Int[Tensor, "batch m"]:
        """§3 ¶1: genera un token alla volta, ogni volta il più probabile.

        Argomenti:
            source: le frasi di partenza, forma [batch, n]; il padding in fondo.
            extra: quanti token può avere un'uscita più della sua sorgente, come in §6.1.

        Restituisce:
            I token generati, senza il simbolo d'inizio: ogni riga finisce con il simbolo di fine,
            se è arrivato nel limite, e poi con padding.

        Solleva:
            TypeError, ValueError: come `forward`; inoltre se `source` non è una matrice, o se
                `extra` non è un intero, almeno 0.
        """
        check_size(extra, "extra", lowest=0)
        check_tokens(source, "source", self.config.vocabulary)
        require(source.dim() == 2, "source", source.shape, "una forma [batch, n]")
        with evaluating(self), packed_weights():
            output = self.greedy(source, extra)
        return output.clone()

    def greedy(self, source: Int[Tensor, "batch n"], extra: int) -> Int[Tensor, "batch m"]:
        """Il ciclo della generazione: una frase finita riceve padding finché finiscono le altre."""
        memory, source_mask = self.encode(source)
        limits = (source != self.config.padding_id).sum(dim=-1) + extra
        capacity = int(limits.max())
        caches = self.decoder.new_cache(memory, capacity)
        output = source.new_full((len(source), capacity), self.config.padding_id)
        token = torch.full_like(source[:, :1], self.config.start_id)
        open_rows = limits > 0
        for position in range(capacity):
            logits = self.next_logits(token, position, caches, source_mask)
            token = logits.argmax(dim=-1).where(open_rows[:, None], self.config.padding_id)
            output[:, position : position + 1] = token
            open_rows = open_rows & (token[:, 0] != self.config.end_id) & (limits > position + 1)
            if not open_rows.any():
                return output[:, : position + 1]
        return output

    def next_logits(
        self,
        token: Int[Tensor, "*batch k"],
        position: int,
        caches: list[LayerCache],
        source_mask: Bool[Tensor, "*batch 1 n"] | None = None,
        past: Bool[Tensor, "*batch k known"] | None = None,
    ) -> Float[Tensor, "*batch k vocabulary"]:
        """I punteggi del token seguente, dato quello alla posizione `position` e la cache.

        I token dati possono essere k, uno per ipotesi; di `past` dice `DecoderLayer.step`.
        """
        placed = self.target_positions(self.embedding(token).unsqueeze(-2), position).squeeze(-2)
        hidden = self.decoder.step(self.dropout(placed), position, caches, source_mask, past)
        return self.embedding.logits(hidden)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Scrive parametri e configurazione in un file safetensors.

        Il file prende il suo nome solo quando è intero: un'interruzione lascia quello di prima.
        """
        from safetensors.torch import save_file

        target = Path(path)
        partial = target.with_name(f".{target.name}.partial")
        metadata = {"config": json.dumps(dataclasses.asdict(self.config))}
        save_file(self.state_dict(), partial, metadata)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, target)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Transformer":
        """Il modello scritto da `save`, con la sua configurazione e il suo tipo.

        Solleva:
            ValueError: se il file non è stato scritto da `save`, o è danneggiato.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "pt") as file:
                config = json.loads((file.metadata() or {})["config"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                model = cls(TransformerConfig(**config)).to(state["embedding.weight"].dtype)
                model.load_state_dict(state)
        except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
            expected = "un modello scritto da Transformer.save"
            raise ValueError(f"path: dato: {os.fspath(path)}; atteso: {expected}") from error
        return model


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Il modello in uso, senza dropout né gradienti; poi ogni modulo torna al modo di prima."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def make_encoder_layer(config: TransformerConfig) -> EncoderLayer:
    """Uno strato dell'encoder, con i suoi parametri: due sotto-strati."""
    return EncoderLayer(
        make_attention(config), make_feed_forward(config), config.d_model, config.dropout
    )


def make_decoder_layer(config: TransformerConfig) -> DecoderLayer:
    """Uno strato del decoder, con i suoi parametri: tre sotto-strati."""
    return DecoderLayer(
        make_attention(config),
        make_attention(config),
        make_feed_forward(config),
        config.d_model,
        config.dropout,
    )


def make_attention(config: TransformerConfig) -> MultiHeadAttention:
    """Un'attenzione a più teste, §3.2.2."""
    return MultiHeadAttention(
        config.d_model, config.heads, config.d_k, config.d_v, bias=config.bias
    )


def make_feed_forward(config: TransformerConfig) -> FeedForward:
    """Una rete feed-forward, §3.3."""
    return FeedForward(config.d_model, config.d_ff)


def make_positions(config: TransformerConfig) -> SinusoidalPositions | LearnedPositions:
    """Le posizioni di una pila, §3.5: sinusoidi, o apprese se la configurazione dice quante."""
    if config.learned_positions is None:
        return SinusoidalPositions(config.d_model)
    return LearnedPositions(config.learned_positions, config.d_model)
