"""Dentro il vettore: che cosa c'è in una posizione, e come si costruisce strato dopo strato.

Si guarda il modello italiano che predice la parola seguente. Prima il flusso, cioè il vettore che
ogni sotto-strato legge e a cui aggiunge; poi che cosa ogni profondità predirebbe; poi le sonde, che
dicono che cosa si può leggere in un vettore, e gli interventi, che dicono che cosa il modello usa.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from attention.beyond.grammar import Dice, Noun, italian_text, lexicon, pairs
from attention.beyond.multilingual import FOLDS
from attention.beyond.next_token import (
    KEPT,
    NUMBERS,
    SEEDS,
    STEPS,
    SUBJECTS,
    DecoderOnly,
    Result,
    WordVocabulary,
    agreeing_verbs,
    learning,
    load,
    make_bench,
    split_words,
    write_results,
)
from attention.command_line import MODEL
from attention.s0_abstract import require
from attention.s3_1_encoder_decoder_stacks import (
    EPSILON,
    AddAndNorm,
    AttentionSublayer,
    EncoderLayer,
    LayerNorm,
)
from attention.s3_2_2_multi_head import linear
from attention.s3_2_3_applications import causal_mask
from attention.s3_3_feed_forward import FeedForward, relu
from attention.s3_4_embeddings_softmax import log_probabilities
from attention.s3_model_architecture import TransformerConfig, evaluating
from attention.s5_1_data_batching import END, PADDING, START, padded
from attention.sa_attention_visualizations import drawing, label

# Il flusso.

Sublayer = tuple[AddAndNorm, Callable[[Tensor], Tensor]]
"""Un sotto-strato: ciò che gli sta attorno, e la routine che legge il flusso e rende un addendo."""


def looking(attention: AttentionSublayer, mask: Tensor | None, x: Tensor) -> Tensor:
    """L'attenzione di un vettore per posizione verso le posizioni che la maschera permette."""
    return attention(x, x, x, mask)


def sublayers(model: DecoderOnly, mask: Tensor | None = None) -> list[Sublayer]:
    """I sotto-strati nell'ordine in cui lavorano: attenzione, feed-forward, e da capo."""
    found: list[Sublayer] = []
    for layer in cast("list[EncoderLayer]", model.layers):
        found.append((layer.self_attention_norm, partial(looking, layer.self_attention, mask)))
        found.append((layer.feed_forward_norm, layer.feed_forward))
    return found


class Trace(NamedTuple):
    """Un passaggio del modello, conservato.

    Attributi:
        states: il flusso prima del primo sotto-strato e dopo ciascuno.
        added: ciò che ogni sotto-strato vi aggiunge.
    """

    states: list[Tensor]
    added: list[Tensor]


def trace(model: DecoderOnly, tokens: Int[Tensor, "*batch n"], causal: bool = True) -> Trace:
    """Ripercorre il modello un sotto-strato alla volta.

    Argomenti:
        model: il modello.
        tokens: il simbolo d'inizio, poi la frase.
        causal: se falso si toglie la maschera, e ogni posizione guarda tutte le altre.
    """
    mask = causal_mask(tokens.size(-1), tokens.device) if causal else None
    added: list[Tensor] = []
    with evaluating(model):
        states = [model.positions(model.embedding(tokens))]
        for around, sublayer in sublayers(model, mask):
            added.append(sublayer(states[-1]))
            states.append(around(states[-1], added[-1]))
    return Trace(states, added)


def through(
    norm: LayerNorm, total: Float[Tensor, "*rows d"], part: Float[Tensor, "*rows d"]
) -> Float[Tensor, "*rows d"]:
    """Che cosa resta di un addendo quando si normalizza la somma di cui fa parte.

    La deviazione standard è quella della somma. Tenuta ferma quella, la normalizzazione è lineare:
    toglie la media, divide, moltiplica per il gain.

    Argomenti:
        norm: la normalizzazione.
        total: la somma.
        part: l'addendo.
    """
    deviation = (total.var(-1, unbiased=False, keepdim=True) + EPSILON).sqrt()
    return norm.gain * (part - part.mean(-1, keepdim=True)) / deviation


def contributions(
    model: DecoderOnly, tokens: Int[Tensor, "*batch n"], found: Trace
) -> Float[Tensor, "parts *batch n d"]:
    """L'ultimo stato come somma di contributi, uno per chi ha scritto nel flusso.

    Restituisce:
        Nell'ordine di `part_names`: la parola, la posizione, ogni sotto-strato, e i termini
        costanti delle normalizzazioni. Ciascuno è come arriva in fondo.
    """
    with evaluating(model):
        word = model.embedding(tokens)
        parts = [word, found.states[0] - word]
        constants = torch.zeros_like(word)
        steps = zip(sublayers(model), found.states[:-1], found.added, strict=True)
        for (around, _), state, new in steps:
            carry = partial(through, around.norm, state + new)
            parts = [carry(it) for it in (*parts, new)]
            constants = carry(constants) + around.norm.bias
        return torch.stack([*parts, constants])


def part_names(layers: int) -> list[str]:
    """I nomi dei contributi."""
    named = [f"{who} {i}" for i in range(1, layers + 1) for who in ("attenzione", "feed-forward")]
    return ["parola", "posizione", *named, "costanti"]


# La lente.


class Reading(NamedTuple):
    """Un testo letto: una riga per parola, tutte le frasi una dopo l'altra.

    Attributi:
        states: i vettori prima del primo strato e dopo ciascuno.
        read: la parola appena letta.
        following: quella che viene dopo.
    """

    states: list[Tensor]
    read: Tensor
    following: Tensor


def reading(model: DecoderOnly, vocabulary: WordVocabulary, texts: Sequence[str]) -> Reading:
    """Legge alcune frasi; ogni parola, e l'inizio, dà una riga."""
    sentences = [vocabulary.encode(text) for text in texts]
    read = padded([[START, *it] for it in sentences])
    following = padded([[*it, END] for it in sentences])
    with evaluating(model):
        states = model.hidden_states(read)
    real = following != PADDING
    return Reading([it[real] for it in states], read[real], following[real])


class Lens(NamedTuple):
    """Che cosa si predirebbe fermandosi a una profondità.

    Attributi:
        rank: il posto della parola giusta, mediano; 1 è il primo.
        bits: la sorpresa media per la parola giusta.
        entropy: l'incertezza media della predizione, in bit.
        divergence: quanto la predizione dista dall'ultima (Kullback–Leibler), in bit.
        echo: quante volte la più probabile è la parola appena letta.
    """

    rank: float
    bits: float
    entropy: float
    divergence: float
    echo: float


def predictions(
    model: DecoderOnly, vectors: Float[Tensor, "rows d"]
) -> Float[Tensor, "rows vocabulary"]:
    """I logaritmi delle probabilità, leggendo dei vettori come se fossero dell'ultimo strato."""
    with evaluating(model):
        return log_probabilities(model.embedding.logits(vectors))


def lens(model: DecoderOnly, seen: Reading, vectors: Float[Tensor, "rows d"]) -> Lens:
    """Che cosa predicono dei vettori di una profondità, accanto a ciò che predirà l'ultima."""
    last, logs = predictions(model, seen.states[-1]), predictions(model, vectors)
    right = logs.gather(-1, seen.following.unsqueeze(-1))
    return Lens(
        ((logs > right).sum(-1) + 1).double().median().item(),
        -right.mean().item() / math.log(2),
        -(logs.exp() * logs).sum(-1).mean().item() / math.log(2),
        (last.exp() * (last - logs)).sum(-1).mean().item() / math.log(2),
        (logs.argmax(-1) == seen.read).double().mean().item(),
    )


def tuned(
    known: Float[Tensor, "rows d"], final: Float[Tensor, "rows d"], new: Float[Tensor, "others d"]
) -> Float[Tensor, "others d"]:
    """Traduce dei vettori nelle coordinate dell'ultimo strato, con i minimi quadrati.

    Argomenti:
        known: vettori di una profondità.
        final: quelli in cui si sono trasformati, all'ultimo strato.
        new: altri vettori della stessa profondità.
    """
    one, other = (F.pad(it, (0, 1), value=1.0) for it in (known, new))
    return other @ torch.linalg.lstsq(one, final).solution


def some_texts(count: int, seed: int, split: str) -> list[str]:
    """Frasi della grammatica, da una delle parti di `split_of`."""
    return [pair.italian for pair in pairs(seed, count, split)]


# Le frasi da sondare.


class Prefix(NamedTuple):
    """L'inizio di una frase, fino al verbo escluso.

    Attributi:
        text: le parole.
        noun: il soggetto.
        plural: se è plurale.
        other: se è plurale l'altro nome, quando c'è.
    """

    text: str
    noun: Noun
    plural: bool
    other: bool


def prefixes(kind: str, count: int, seed: int, swap: bool = False) -> list[Prefix]:
    """Inizi di frase con un soggetto di una specie: metà singolari, metà con l'altro discorde.

    Argomenti:
        kind: una delle `SUBJECTS`.
        count: quanti; un multiplo di quattro.
        seed: il seme.
        swap: se vero il soggetto ha l'altro numero, e tutte le altre scelte sono le stesse.
    """
    require(kind in SUBJECTS, "kind", kind, ", ".join(SUBJECTS))
    require(count % 4 == 0, "count", count, "un multiplo di quattro")
    found = []
    for i in range(count):
        first, other = i % 2 == 1, (i % 2 == 1) != (i % 4 >= 2)
        plural = first != swap
        subject = SUBJECTS[kind](Dice(seed + i), plural, other)
        words = split_words(italian_text([*subject.italian(), "."]))
        found.append(Prefix(" ".join(words[:-1]), subject.noun, plural, other))
    return found


def signs(values: Sequence[bool]) -> Float[Tensor, " values"]:
    """Più uno per il vero, meno uno per il falso."""
    return 2 * torch.tensor(values).double() - 1


NOUN = 2
"""Dove sta il nome del soggetto: dopo l'inizio e l'articolo."""

PRONOUN = NOUN + 1
"""Dove sta il «che» della relativa: dopo il nome."""


class Bank(NamedTuple):
    """Inizi di frase letti dal modello, con le etichette che dà la grammatica.

    Attributi:
        trace: il passaggio del modello.
        tokens: gli inizi di frase, in token.
        last: la posizione dell'ultima parola, quella che deve predire il verbo.
        number, gender, other: +1 per plurale, femminile, altro nome plurale; −1 altrimenti.
        nouns: il soggetto di ciascuno.
    """

    trace: Trace
    tokens: Tensor
    last: Tensor
    number: Tensor
    gender: Tensor
    other: Tensor
    nouns: list[str]

    def at(self, layer: int, positions: Int[Tensor, " rows"] | int) -> Float[Tensor, "rows d"]:
        """I vettori dopo uno strato, da 0, a una posizione per frase."""
        return self.trace.states[2 * layer][torch.arange(len(self.nouns)), positions]


def bank(model: DecoderOnly, vocabulary: WordVocabulary, found: Sequence[Prefix]) -> Bank:
    """Fa leggere al modello degli inizi di frase."""
    sentences = [[START, *vocabulary.encode(it.text)] for it in found]
    tokens = padded(sentences)
    return Bank(
        trace(model, tokens),
        tokens,
        torch.tensor([len(it) - 1 for it in sentences]),
        signs([it.plural for it in found]),
        signs([it.noun.gender == "f" for it in found]),
        signs([it.other for it in found]),
        [it.noun.lemma for it in found],
    )


# Le sonde.


class Probe(NamedTuple):
    """Una sonda lineare: una direzione e una soglia.

    Attributi:
        direction: la direzione lungo cui si misura.
        offset: quanto si aggiunge alla misura; il segno della somma è la risposta.
    """

    direction: Tensor
    offset: Tensor

    def __call__(self, x: Float[Tensor, "rows d"]) -> Float[Tensor, " rows"]:
        """La risposta: positiva da una parte del piano, negativa dall'altra."""
        return x @ self.direction + self.offset


Fit = Callable[[Tensor, Tensor], Probe]
"""Un modo di ricavare una sonda da vettori ed etichette."""

DAMPING = 0.01
"""Lo smorzamento della sonda, per vettore."""


def ridge(x: Float[Tensor, "rows d"], y: Float[Tensor, " rows"]) -> Probe:
    """Minimi quadrati smorzati, in forma chiusa: la sonda che sfrutta tutte le coordinate insieme.

    Le coordinate si portano prima a media zero e deviazione uno, perché lo smorzamento le tratti
    alla pari. Una coordinata ferma resta ferma.
    """
    center, spread = x.mean(0), x.std(0).clamp(min=1e-6)
    z = (x - center) / spread
    damped = z.mT @ z + DAMPING * len(x) * torch.eye(x.size(1), dtype=x.dtype)
    direction = torch.linalg.solve(damped, z.mT @ (y - y.mean())) / spread
    return Probe(direction, y.mean() - center @ direction)


def means(x: Float[Tensor, "rows d"], y: Float[Tensor, " rows"]) -> Probe:
    """La differenza fra le medie delle due classi; la soglia è a metà strada."""
    one, other = x[y > 0].mean(0), x[y < 0].mean(0)
    return Probe(one - other, -(one + other) @ (one - other) / 2)


def coordinate(x: Float[Tensor, "rows d"], y: Float[Tensor, " rows"]) -> Probe:
    """La sola coordinata che sulle frasi date indovina di più, con la soglia fra le due medie."""
    one, other = x[y > 0].mean(0), x[y < 0].mean(0)
    sides = (x - (one + other) / 2) * (one - other).sign()
    best = int(((sides > 0) == (y > 0).unsqueeze(-1)).sum(0).argmax())
    direction = torch.zeros_like(one)
    direction[best] = (one - other)[best].sign()
    return Probe(direction, -(direction @ (one + other)) / 2)


def folds(nouns: Sequence[str]) -> Int[Tensor, " rows"]:
    """A quale gruppo va ciascuno: chi ha lo stesso nome sta nello stesso."""
    order = {noun: i for i, noun in enumerate(sorted(set(nouns)))}
    return torch.tensor([order[noun] % FOLDS for noun in nouns])


def held_out(
    x: Float[Tensor, "rows d"], y: Float[Tensor, " rows"], nouns: Sequence[str], fit: Fit
) -> Float[Tensor, " rows"]:
    """Le risposte di sonde che non hanno mai visto il nome su cui rispondono.

    Argomenti:
        x, y: i vettori e le etichette.
        nouns: il nome di ciascun vettore; i nomi si dividono in `FOLDS` gruppi.
        fit: come si ricava la sonda.
    """
    group, found = folds(nouns), torch.zeros_like(y)
    for test in range(FOLDS):
        known = group != test
        found[~known] = fit(x[known], y[known])(x[~known])
    return found


def accuracy(scores: Float[Tensor, " rows"], y: Float[Tensor, " rows"]) -> float:
    """Quante volte la risposta ha il segno dell'etichetta."""
    return ((scores > 0) == (y > 0)).double().mean().item()


def majority(y: Float[Tensor, " rows"]) -> float:
    """Quante ne indovina chi dice sempre l'etichetta più frequente."""
    return max((y > 0).double().mean().item(), (y < 0).double().mean().item())


def shuffled(y: Shaped[Tensor, " rows"], seed: int) -> Shaped[Tensor, " rows"]:
    """Le stesse etichette, assegnate a caso: una sonda onesta qui non trova nulla."""
    return y[torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))]


def untrained(config: TransformerConfig, seed: int) -> DecoderOnly:
    """Lo stesso modello prima dell'addestramento, in doppia precisione."""
    torch.manual_seed(seed)
    return DecoderOnly(config).double()


# Gli interventi.


def toward_plural(model: DecoderOnly, vocabulary: WordVocabulary) -> Float[Tensor, " d"]:
    """La direzione d'uscita dell'accordo: righe dei verbi plurali meno righe dei singolari.

    Il prodotto con l'ultimo stato è la differenza fra i punteggi delle due forme, in media su
    tutti i verbi: positiva se il modello preferisce il plurale.
    """
    forms = (tuple(it.italian.present[i] for i in NUMBERS) for it in agreeing_verbs(lexicon()))
    both = [it for it in forms if vocabulary.ids.keys() >= {*it}]
    table = model.embedding.weight.detach()
    one, other = (table[[vocabulary.ids[word] for word in it]] for it in zip(*both, strict=True))
    return (other - one).mean(0)


def swaps(
    x: Float[Tensor, "rows d"], y: Float[Tensor, " rows"], nouns: Sequence[str]
) -> Float[Tensor, "rows d"]:
    """Lo spostamento che porta ogni vettore verso l'altra classe: la differenza delle medie.

    Le medie sono quelle degli altri nomi.
    """
    group, found = folds(nouns), torch.zeros_like(x)
    for test in range(FOLDS):
        known = group != test
        found[~known] = -y[~known].outer(means(x[known], y[known]).direction)
    return found


def astray(steps: Float[Tensor, "rows d"], seed: int) -> Float[Tensor, "rows d"]:
    """Spostamenti lunghi uguali, in direzioni a caso: il controllo."""
    dice = torch.Generator().manual_seed(seed)
    found = torch.randn(steps.shape, generator=dice, dtype=steps.dtype)
    return found * steps.norm(dim=-1, keepdim=True) / found.norm(dim=-1, keepdim=True)


def resume(
    model: DecoderOnly, state: Float[Tensor, "*batch n d"], layer: int
) -> Float[Tensor, "*batch n d"]:
    """L'ultimo stato, ripartendo da quello dopo uno strato."""
    require(0 <= layer <= len(model.layers), "layer", layer, f"da 0 a {len(model.layers)}")
    with evaluating(model):
        mask = causal_mask(state.size(-2), state.device)
        for it in list(model.layers)[layer:]:
            state = it(state, mask)
    return state


def pushed(
    model: DecoderOnly,
    seen: Bank,
    layer: int,
    positions: Int[Tensor, " rows"] | int,
    steps: Float[Tensor, "rows d"],
) -> Float[Tensor, "rows d"]:
    """L'ultimo stato dell'ultima parola, se dopo uno strato si sposta il vettore di una posizione.

    Argomenti:
        model, seen: il modello, e le frasi che ha letto.
        layer: dopo quale strato; 0 è l'ingresso.
        positions: dove, in ogni frase.
        steps: di quanto.
    """
    state, rows = seen.trace.states[2 * layer].clone(), torch.arange(len(seen.nouns))
    state[rows, positions] += steps
    return resume(model, state, layer)[rows, seen.last]


def grafted(
    model: DecoderOnly, seen: Bank, twins: Bank, layer: int, positions: Sequence[int]
) -> Float[Tensor, "rows d"]:
    """L'ultimo stato dell'ultima parola, con alcuni vettori presi dalle frasi gemelle.

    Argomenti:
        model, seen, twins: il modello, le frasi, le gemelle: stesse posizioni, altro numero.
        layer: dopo quale strato; 0 è l'ingresso.
        positions: quali posizioni, le stesse in tutte le frasi.
    """
    state, rows = seen.trace.states[2 * layer].clone(), torch.arange(len(seen.nouns))
    state[:, list(positions)] = twins.trace.states[2 * layer][:, list(positions)]
    return resume(model, state, layer)[rows, seen.last]


def flipped(before: Float[Tensor, " rows"], after: Float[Tensor, " rows"]) -> float:
    """Quante volte il modello ha cambiato numero."""
    return ((before > 0) != (after > 0)).double().mean().item()


# Una coordinata, un neurone, una direzione.


class Rows(NamedTuple):
    """Le righe della tabella degli embedding che sono nomi, e che cosa il lessico ne dice.

    Attributi:
        vectors: le righe.
        labels: per ogni tratto, +1 o −1: «plurale», «femminile», «persona».
        nouns: il nome di ciascuna.
    """

    vectors: Tensor
    labels: dict[str, Tensor]
    nouns: list[str]


def noun_rows(model: DecoderOnly, vocabulary: WordVocabulary) -> Rows:
    """Le forme singolari e plurali dei nomi comuni che il vocabolario ha e che sono diverse."""
    found = [
        (vocabulary.ids[form], plural, noun)
        for noun in lexicon().nouns
        for plural, form in enumerate(noun.italian)
        if "name" not in noun.kinds and len({*noun.italian}) > 1 and form in vocabulary.ids
    ]
    labels = {
        "plurale": signs([bool(plural) for _, plural, _ in found]),
        "femminile": signs([noun.gender == "f" for _, _, noun in found]),
        "persona": signs(["person" in noun.kinds for _, _, noun in found]),
    }
    table = model.embedding.weight.detach()
    return Rows(table[[row for row, _, _ in found]], labels, [it.lemma for _, _, it in found])


def turned(x: Float[Tensor, "rows d"], seed: int) -> Float[Tensor, "rows d"]:
    """Gli stessi vettori, visti da assi a caso: una rotazione non toglie né aggiunge nulla."""
    dice = torch.Generator().manual_seed(seed)
    width = x.size(-1)
    return x @ torch.linalg.qr(torch.randn(width, width, generator=dice, dtype=x.dtype))[0]


def neurons(part: FeedForward, x: Float[Tensor, "rows d"]) -> Float[Tensor, "rows d_ff"]:
    """I numeri dentro un feed-forward, dopo la ReLU."""
    with evaluating(part):
        return relu(linear(x, part.w_1, part.b_1))


def telling(active: Float[Tensor, "rows d_ff"], y: Float[Tensor, " rows"]) -> Int[Tensor, " d_ff"]:
    """I neuroni in ordine, da quello che distingue di più le due classi.

    Si guarda quanto distano le due medie, in deviazioni standard.
    """
    gaps = active[y > 0].mean(0) - active[y < 0].mean(0)
    return (gaps.abs() / active.std(0).clamp(min=1e-6)).argsort(descending=True)


def silenced(
    layer: EncoderLayer, x: Float[Tensor, "rows d"], chosen: Int[Tensor, " chosen"]
) -> Float[Tensor, "rows d"]:
    """L'uscita di uno strato se alcuni neuroni danno sempre il loro valore medio.

    Argomenti:
        layer: lo strato.
        x: gli ingressi del suo feed-forward.
        chosen: i neuroni da fermare.
    """
    part = cast("FeedForward", layer.feed_forward)
    active = neurons(part, x).clone()
    active[:, chosen] = active[:, chosen].mean(0)
    with evaluating(layer):
        found: Tensor = layer.feed_forward_norm(x, linear(active, part.w_2, part.b_2))
    return found


def welch(count: int, width: int) -> float:
    """Il limite di Welch: quanto devono somigliarsi due fra `count` direzioni.

    Restituisce:
        Un coseno, in valore assoluto: comunque si scelgano, una coppia ne ha uno almeno così.

    Solleva:
        ValueError: se le direzioni non sono più delle coordinate, o le coordinate sono meno di una.
    """
    require(width >= 1, "width", width, "almeno 1")
    require(count > width, "count", count, f"più di width = {width}")
    return math.sqrt((count - width) / (width * (count - 1)))


# I disegni.


class Line(NamedTuple):
    """Una linea del grafico: il nome, un valore per strato, il tratteggio; vuoto se continua."""

    name: str
    values: Sequence[float]
    dashes: str = ""


def comma(value: float) -> str:
    """Un numero con la virgola decimale."""
    return f"{value:g}".replace(".", ",")


def layers_drawing(lines: Sequence[Line], ticks: Sequence[float], title: str) -> str:
    """Alcune misure strato per strato, in SVG.

    Argomenti:
        lines: le linee, tutte con tanti valori quanti sono gli strati, più uno per l'ingresso.
        ticks: i valori da segnare; il primo e l'ultimo sono i bordi.
        title: che cosa si vede.
    """
    lengths = {len(it.values) for it in lines}
    require(len(lengths) == 1, "lines", f"lunghezze {sorted(lengths)}", "una lunghezza sola")
    last = lengths.pop() - 1
    low, high = ticks[0], ticks[-1]

    def place(i: int, value: float) -> str:
        return f"{50 + 300 * i / last:.1f},{190 - 170 * (value - low) / (high - low):.1f}"

    body = [label(42.0, 194 - 170 * (it - low) / (high - low), comma(it)) for it in ticks]
    body += [label(50 + 300 * i / last, 208.0, str(i), "middle") for i in range(last + 1)]
    body.append(label(200.0, 224.0, "strato (0: l'ingresso)", "middle"))
    body.append('<path d="M50 20V190H350" stroke="currentColor" fill="none" opacity=".4"/>')
    for i, line in enumerate(lines):
        style = f'stroke="currentColor" stroke-width="2" stroke-dasharray="{line.dashes}"'
        points = " ".join(place(*it) for it in enumerate(line.values))
        y = 244 + 18 * i
        body.append(f'<polyline points="{points}" fill="none" {style}/>')
        body.append(f'<path d="M50 {y}H90" {style}/>')
        body.append(label(98.0, y + 4.0, line.name, "start"))
    return drawing(370.0, 240.0 + 18 * len(lines), title, body)


def lens_drawing(
    rows: Sequence[str], cells: Sequence[Sequence[tuple[str, float]]], title: str
) -> str:
    """La lente su una frase: una riga per parola letta, una colonna per strato.

    Argomenti:
        rows: le parole lette.
        cells: per ogni riga e strato, la parola più probabile e la sua probabilità.
        title: che cosa si vede.
    """
    require(len(rows) == len(cells), "cells", f"{len(cells)} righe", f"{len(rows)}")
    width = len(cells[0])
    body = [label(99.5 + 70 * j, 16.0, str(j), "middle") for j in range(width)]
    for i, (word, line) in enumerate(zip(rows, cells, strict=True)):
        y = 24 + 28 * i
        body.append(label(60.0, y + 17.0, word))
        for j, (top, p) in enumerate(line):
            box = f'x="{66 + 70 * j}" y="{y}" width="67" height="25"'
            body.append(f'<rect {box} opacity="{0.04 + 0.3 * p:.2f}"/>')
            body.append(label(99.5 + 70 * j, y + 17.0, top, "middle"))
    return drawing(66.0 + 70 * width, 28.0 + 28 * len(rows), title, body)


# Con altri semi.

COUNT = 400
"""Quanti inizi di frase per specie."""

PREFIX_SEED = 11
"""Il loro seme."""

KINDS = ("che subisce", "che fa")
"""Le specie di soggetto sondate: quelle in cui fra soggetto e verbo c'è dell'altro."""

LENS_SEED = 99
"""Il seme delle frasi su cui si punta la lente; quelle con cui la si tara hanno il seguente."""

LENS_TEXTS = 300
"""Quante frasi; per tararla, il doppio."""

RESULTS = Path(__file__).with_suffix(".csv")
"""I numeri di tutti i semi."""


def measures(
    model: DecoderOnly, vocabulary: WordVocabulary, seed: int
) -> Iterator[tuple[str, str, float]]:
    """Le misure di un modello: a chi o dove, che cosa, quanto.

    Argomenti:
        model: il modello, in doppia precisione.
        vocabulary: il suo vocabolario.
        seed: il seme del modello non addestrato che gli sta accanto.
    """
    blank, toward = untrained(model.config, seed), toward_plural(model, vocabulary)
    for kind in KINDS:
        found = prefixes(kind, COUNT, PREFIX_SEED)
        seen, other = bank(model, vocabulary, found), bank(blank, vocabulary, found)
        twins = bank(model, vocabulary, prefixes(kind, COUNT, PREFIX_SEED, swap=True))
        for what, value in (
            *probed(seen, other),
            *moved(model, seen, twins, toward),
            *halted(model, seen, toward),
        ):
            yield kind, what, value
    yield from focused(model, vocabulary)
    for what, value in crowded(model, vocabulary):
        yield "tabella", what, value


def probed(seen: Bank, blank: Bank) -> Iterator[tuple[str, float]]:
    """Le sonde sull'ultima parola, strato per strato, con i controlli."""
    for layer in range(len(seen.trace.states) // 2 + 1):
        x, untaught = (it.at(layer, it.last) for it in (seen, blank))
        y, nouns = seen.number, seen.nouns
        yield f"numero {layer}", accuracy(held_out(x, y, nouns, ridge), y)
        yield f"numero, non addestrato {layer}", accuracy(held_out(untaught, y, nouns, ridge), y)
        mixed = shuffled(y, layer)
        yield f"numero, mescolato {layer}", accuracy(held_out(x, mixed, nouns, ridge), mixed)
        yield f"genere {layer}", accuracy(held_out(x, seen.gender, nouns, ridge), seen.gender)


GRAFTS = {
    "articolo": (NOUN - 1,),
    "articolo e nome": (NOUN - 1, NOUN),
    "articolo, nome e che": (NOUN - 1, NOUN, PRONOUN),
}
"""Quali posizioni si innestano insieme, dall'articolo al «che»."""


def moved(
    model: DecoderOnly, seen: Bank, twins: Bank, toward: Float[Tensor, " d"]
) -> Iterator[tuple[str, float]]:
    """Quante volte si accorda bene, e quante cambia numero se si sposta un vettore."""
    before = seen.at(len(model.layers), seen.last) @ toward
    yield "accordo", accuracy(before, seen.number)
    places: dict[str, Tensor | int] = {
        "sul nome": NOUN,
        "sul che": PRONOUN,
        "in fondo": seen.last,
    }
    for layer in range(len(model.layers) + 1):
        for where, positions in places.items():
            here = seen.at(layer, positions)
            steps = swaps(here, seen.number, seen.nouns)
            graft = twins.at(layer, positions) - here
            for name, it in (("", steps), (", a caso", astray(steps, layer)), (", innesto", graft)):
                after = pushed(model, seen, layer, positions, it) @ toward
                yield f"{where}{name} {layer}", flipped(before, after)
        for name, parts in GRAFTS.items():
            after = grafted(model, seen, twins, layer, parts) @ toward
            yield f"{name}, innesto {layer}", flipped(before, after)


STOPPED = (1, 8, 32, 64)
"""Quanti neuroni si fermano."""


def halted(
    model: DecoderOnly, seen: Bank, toward: Float[Tensor, " d"]
) -> Iterator[tuple[str, float]]:
    """L'ultimo feed-forward: che cosa legge un neurone solo, e come ci si accorda senza alcuni."""
    layer = cast("EncoderLayer", model.layers[-1])
    x = seen.trace.states[-2][torch.arange(len(seen.nouns)), seen.last]
    active = neurons(cast("FeedForward", layer.feed_forward), x)
    alone = held_out(active, seen.number, seen.nouns, coordinate)
    yield "un neurone", accuracy(alone, seen.number)
    order, wild = telling(active, seen.number), shuffled(torch.arange(active.size(-1)), 0)
    for count in STOPPED:
        for name, it in (("fermi", order), ("fermi, a caso", wild)):
            after = silenced(layer, x, it[:count]) @ toward
            yield f"{name} {count}", accuracy(after, seen.number)


def focused(model: DecoderOnly, vocabulary: WordVocabulary) -> Iterator[tuple[str, str, float]]:
    """La lente a ogni profondità, com'è e tarata su altre frasi."""
    seen = reading(model, vocabulary, some_texts(LENS_TEXTS, LENS_SEED, "heldout"))
    other = reading(model, vocabulary, some_texts(2 * LENS_TEXTS, LENS_SEED + 1, "train"))
    for layer, (x, known) in enumerate(zip(seen.states, other.states, strict=True)):
        for who, vectors in (("lente", x), ("lente tarata", tuned(known, other.states[-1], x))):
            for what, value in lens(model, seen, vectors)._asdict().items():
                yield who, f"{what} {layer}", value


ROTATIONS = 10
"""Quante rotazioni a caso, per gli assi con cui si confrontano le coordinate."""


def crowded(model: DecoderOnly, vocabulary: WordVocabulary) -> Iterator[tuple[str, float]]:
    """Nella tabella: una direzione, la migliore coordinata, la migliore di assi a caso."""
    rows = noun_rows(model, vocabulary)
    for name, y in rows.labels.items():

        def mark(x: Tensor, fit: Fit, y: Tensor = y) -> float:
            return accuracy(held_out(x, y, rows.nouns, fit), y)

        yield f"{name}, direzione", mark(rows.vectors, means)
        yield f"{name}, coordinata", mark(rows.vectors, coordinate)
        wild = [mark(turned(rows.vectors, seed), coordinate) for seed in range(ROTATIONS)]
        yield f"{name}, asse a caso", fmean(wild)


def model_of(seed: int, folder: Path) -> tuple[DecoderOnly, WordVocabulary]:
    """Il modello di un seme: quello in deposito, uno già nella cartella, o uno nuovo."""
    if seed == KEPT:
        return load()
    if not (folder / MODEL).exists():
        list(learning(make_bench(), folder, seed, STEPS))
    return load(folder)


def experiment(folder: Path, path: Path = RESULTS, seeds: Sequence[int] = SEEDS) -> None:
    """Misura un modello per seme, addestrando quelli che mancano, e riscrive i risultati."""
    found = []
    for seed in seeds:
        model, vocabulary = model_of(seed, folder / str(seed))
        for who, what, value in measures(model.double(), vocabulary, seed):
            found.append(Result(who, seed, what, value))
    write_results(found, path)


def main(arguments: Sequence[str]) -> None:
    """`python -m attention.beyond.representation CARTELLA`: rifà i numeri di tutti i semi."""
    require(len(arguments) == 1, "CARTELLA", f"{len(arguments)} argomenti", "una cartella")
    experiment(Path(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
