"""Appendice: i pesi dell'attenzione, guardati.

Un peso dice quanto una posizione prende da un'altra. Qui i pesi si raccolgono da un modello mentre
legge una coppia di frasi, si disegnano, si confrontano con ciò che la grammatica lega; e si misura
che cosa sa fare il modello quando una testa non c'è più.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from html import escape
from itertools import groupby
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import one_hot

from attention.s0_abstract import require
from attention.s3_2_2_multi_head import MultiHeadAttention
from attention.s3_model_architecture import Transformer, evaluating
from attention.s5_1_data_batching import Batch, Vocabulary, collate
from attention.s5_4_regularization import batch_loss
from attention.s7_conclusion import inputs

PLACES = ("encoder", "decoder", "cross")
"""Dove sta un'attenzione: nell'encoder, nel decoder, fra il decoder e l'encoder."""


class Head(NamedTuple):
    """Una testa: il posto, lo strato dal basso, il numero; strati e teste si contano da zero."""

    place: str
    layer: int
    head: int


Maps = dict[tuple[str, int], Tensor]
"""Per ogni posto e strato, i pesi di tutte le teste: forma [h, m, n]."""


def attentions(model: Transformer) -> dict[tuple[str, int], MultiHeadAttention]:
    """Le attenzioni di un modello, per posto e per strato, nell'ordine in cui lavorano."""
    parts: dict[tuple[str, int], Any] = {}
    for number, layer in enumerate(model.encoder.layers):
        parts["encoder", number] = layer.self_attention
    for number, layer in enumerate(model.decoder.layers):
        parts["decoder", number] = layer.self_attention
        parts["cross", number] = layer.cross_attention
    return parts


def all_heads(model: Transformer) -> list[Head]:
    """Tutte le teste di un modello."""
    return [
        Head(place, layer, head)
        for (place, layer), part in attentions(model).items()
        for head in range(part.heads)
    ]


def attention_maps(model: Transformer, batch: Batch) -> Maps:
    """I pesi di ogni testa, mentre il modello legge una coppia di frasi.

    Il modello lavora come sempre, con il kernel fuso, che i pesi non li conserva; qui si
    ricalcolano dagli ingressi di ogni attenzione.

    Argomenti:
        model: il modello; si guarda com'è in uso, senza dropout.
        batch: una coppia sola.

    Solleva:
        ValueError: se le coppie non sono una.
    """
    require(len(batch.source) == 1, "batch", f"{len(batch.source)} coppie", "una")
    maps: Maps = {}

    def note(place: tuple[str, int], part: Any, args: Any, kwargs: Any) -> None:
        query, key, _, mask = inputs(part, args, kwargs)
        maps[place] = part.weights(query, key, mask).squeeze(0)

    with ExitStack() as hooks, evaluating(model):
        for place, part in attentions(model).items():
            hook = part.register_forward_pre_hook(partial(note, place), with_kwargs=True)
            hooks.enter_context(hook)
        model.hidden(batch.source, batch.target)
    return maps


# Dai token alle parole.


def word_groups(vocabulary: Vocabulary, text: str) -> list[tuple[str, int]]:
    """Le parole e i segni di un testo, ciascuno con il numero dei suoi token."""
    encoding = vocabulary.tokenizer.encode(text)
    spans = zip(encoding.word_ids, encoding.offsets, strict=True)
    grouped = [[span for _, span in group] for _, group in groupby(spans, key=lambda it: it[0])]
    return [(text[group[0][0] : group[-1][1]].strip(), len(group)) for group in grouped]


def by_word(
    weights: Float[Tensor, "*heads m n"], rows: Sequence[int], columns: Sequence[int]
) -> Float[Tensor, "*heads words others"]:
    """Dai pesi fra token ai pesi fra parole.

    Verso una parola va la somma di ciò che va ai suoi token; da una parola, la media di ciò che
    parte dai suoi. Così ogni riga somma ancora a 1.

    Argomenti:
        weights: i pesi fra token.
        rows, columns: di quanti token è fatta ogni parola, da una parte e dall'altra.
    """
    summed = [part.sum(dim=-1) for part in weights.split(list(columns), dim=-1)]
    towards = torch.stack(summed, dim=-1)
    return torch.stack([part.mean(dim=-2) for part in towards.split(list(rows), dim=-2)], dim=-2)


@dataclass(frozen=True)
class Reading:
    """Una coppia di frasi letta dal modello.

    Argomenti:
        source: le parole della sorgente.
        target: quelle che entrano nel decoder: il segno d'inizio, poi la frase d'arrivo.
        maps: i pesi fra parole.
    """

    source: list[str]
    target: list[str]
    maps: Maps

    def sides(self, place: str) -> tuple[list[str], list[str]]:
        """Le parole di chi guarda e quelle di chi è guardato."""
        looking = self.source if place == "encoder" else self.target
        return looking, self.target if place == "decoder" else self.source


BEGINNING = "⟨inizio⟩"
"""Come si scrive il segno d'inizio."""


def read(model: Transformer, vocabulary: Vocabulary, source: str, target: str) -> Reading:
    """Fa leggere al modello una coppia di frasi, e ne raccoglie i pesi fra parole.

    Solleva:
        ValueError: se la sorgente è vuota.
    """
    batch = collate([(vocabulary.encode(source), vocabulary.encode(target))])
    inside = word_groups(vocabulary, source)
    outside = [(BEGINNING, 1), *word_groups(vocabulary, target)]
    counts = {True: [count for _, count in inside], False: [count for _, count in outside]}
    maps = {
        (place, layer): by_word(weights, counts[place == "encoder"], counts[place != "decoder"])
        for (place, layer), weights in attention_maps(model, batch).items()
    }
    return Reading([word for word, _ in inside], [word for word, _ in outside], maps)


# I disegni.


CELL = 22.0
"""Il lato di una casella, in unità del disegno."""

LETTER = 8.0
"""Quanto si dà a una lettera; il corpo è 13."""

FAINT = 0.02
"""I pesi più piccoli non si disegnano."""

COLOURS = ("#4c78c8", "#d97b1e", "#2f9e5f", "#b0509c", "#c0443c", "#1d98a6", "#8a7a1f", "#7d63c4")
"""I colori delle teste, come nelle figure dell'articolo una testa ha un colore."""


def drawing(width: float, height: float, title: str, body: Iterable[str]) -> str:
    """Un disegno SVG con il suo titolo, che lo dice a chi non lo vede."""
    name = escape(title)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="100%" '
        f'style="max-width:{width:g}px" role="img" aria-label="{name}" fill="currentColor" '
        f'font-size="13"><title>{name}</title>{"".join(body)}</svg>'
    )


def label(x: float, y: float, text: str, anchor: str = "end", turned: bool = False) -> str:
    """Una parola; voltata, sale in obliquo."""
    turn = f' transform="rotate(-55 {x:g} {y:g})"' if turned else ""
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}"{turn}>{escape(text)}</text>'


def heat_map(
    weights: Float[Tensor, "m n"], rows: Sequence[str], columns: Sequence[str], title: str
) -> str:
    """I pesi di una testa: una casella per peso, più piena se è grande.

    Argomenti:
        weights: i pesi, ciascuno fra 0 e 1.
        rows: chi guarda.
        columns: chi è guardato.
        title: che cosa si vede.

    Restituisce:
        Il disegno, in SVG.

    Solleva:
        ValueError: se le parole non sono tante quante le righe e le colonne.
    """
    check_words(weights, rows, columns)
    left, top = longest(rows) + 10, longest(columns) * 0.82 + 10
    width, height = CELL * len(columns), CELL * len(rows)
    names = [label(left - 6, top + CELL * (i + 0.7), word) for i, word in enumerate(rows)]
    above = [
        label(left + CELL * (j + 0.6), top - 6, word, "start", turned=True)
        for j, word in enumerate(columns)
    ]
    size = f'width="{width:g}" height="{height:g}"'
    frame = f'<rect x="{left:g}" y="{top:g}" {size} fill="none" stroke="currentColor"/>'
    below = label(left + width / 2, top + height + 18, title, "middle")
    body = [*names, *above, frame, *cells(weights, left, top), below]
    return drawing(left + width + 40, top + height + 24, title, body)


def cells(weights: Float[Tensor, "m n"], left: float, top: float) -> Iterator[str]:
    """Le caselle dei pesi che si vedono."""
    side = f'width="{CELL - 2:g}" height="{CELL - 2:g}"'
    colour = 'fill="var(--md-accent-fg-color, #3f51b5)"'
    for i, j in (weights >= FAINT).nonzero().tolist():
        place = f'x="{left + CELL * j + 1:g}" y="{top + CELL * i + 1:g}"'
        yield f'<rect {place} {side} {colour} fill-opacity="{weights[i, j].item():.2f}"/>'


def threads(
    weights: Float[Tensor, "heads m n"], rows: Sequence[str], columns: Sequence[str], title: str
) -> str:
    """Come nelle figure 3–5 dell'articolo: un filo da chi guarda a chi è guardato.

    Un colore per testa; più il peso è grande, più il filo è spesso.

    Argomenti:
        weights: i pesi, ciascuno fra 0 e 1; per vederne pochi, gli altri a zero.
        rows: chi guarda, a sinistra.
        columns: chi è guardato, a destra.
        title: che cosa si vede.

    Solleva:
        ValueError: come `heat_map`.
    """
    check_words(weights[0], rows, columns)
    left, across = longest(rows) + 8, 190.0
    right = left + across
    body = [label(left - 6, CELL * (i + 1) + 4, word) for i, word in enumerate(rows)]
    body += [label(right + 6, CELL * (j + 1) + 4, word, "start") for j, word in enumerate(columns)]
    for head, i, j in (weights >= FAINT).nonzero().tolist():
        weight, colour = weights[head, i, j].item(), COLOURS[head % len(COLOURS)]
        ends = f'x1="{left:g}" y1="{CELL * (i + 1):g}" x2="{right:g}" y2="{CELL * (j + 1):g}"'
        look = f'stroke-width="{1 + 4 * weight:.1f}" stroke-opacity="{0.3 + 0.7 * weight:.2f}"'
        body.append(f'<line {ends} stroke="{colour}" {look}/>')
    height = CELL * (max(len(rows), len(columns)) + 1)
    return drawing(right + longest(columns) + 10, height, title, body)


def longest(words: Sequence[str]) -> float:
    """Lo spazio della parola più lunga."""
    return LETTER * max(map(len, words))


def check_words(weights: Tensor, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Una parola per riga e una per colonna."""
    shape = [*weights.shape]
    given = [len(rows), len(columns)]
    require(given == shape, "rows, columns", f"{given} parole", f"{shape}, come i pesi")


def text_table(
    weights: Float[Tensor, "m n"], rows: Sequence[str], columns: Sequence[str], title: str
) -> str:
    """Gli stessi pesi, in centesimi, in una tabella HTML: per chi il disegno non lo vede.

    Solleva:
        ValueError: come `heat_map`.
    """
    check_words(weights, rows, columns)
    head = "".join(f'<th scope="col">{escape(word)}</th>' for word in columns)
    lines = (
        f'<tr><th scope="row">{escape(word)}</th>'
        + "".join(f"<td>{100 * weight:.0f}</td>" for weight in row)
        + "</tr>"
        for word, row in zip(rows, weights.tolist(), strict=True)
    )
    return (
        f"<table><caption>{escape(title)}</caption><thead><tr><th>guarda</th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>"
    )


# Che cosa fa una testa.


Relation = Callable[[Sequence[str]], Bool[Tensor, "n n"]]
"""Data una frase, vero in (i, j) se la parola i è legata alla parola j."""


def at_distance(step: int) -> Relation:
    """La parola che sta `step` posti più avanti; con un numero negativo, più indietro."""

    def relation(words: Sequence[str]) -> Bool[Tensor, "n n"]:
        places = torch.arange(len(words))
        return places.unsqueeze(1) + step == places

    return relation


def closing(words: Sequence[str]) -> Bool[Tensor, "n n"]:
    """Il segno che chiude la frase."""
    return (torch.arange(len(words)) == len(words) - 1).expand(len(words), -1)


def penultimate(words: Sequence[str]) -> Bool[Tensor, "n n"]:
    """La parola prima del segno finale: il posto del participio, qualunque cosa vi stia."""
    return (torch.arange(len(words)) == len(words) - 2).expand(len(words), -1)


HAVE = frozenset(("habe", "hast", "hat", "haben", "habt"))
"""Il presente di «haben»."""


def bracket(words: Sequence[str]) -> Bool[Tensor, "n n"]:
    """Dall'ausiliare «haben» al participio che chiude la frase: in tedesco stanno lontani.

    Vale per le frasi senza virgole, finite da un punto, in cui dopo l'ausiliare non c'è un «und»,
    che può portare un secondo participio. Nelle altre non lega nulla, e nemmeno dove in fondo
    c'è «nicht»: là «haben» è il verbo, non l'ausiliare.
    """
    links = torch.zeros(len(words), len(words), dtype=torch.bool)
    simple = "," not in words and words[-1] == "." and len(words) > 3
    if simple and words[-2][:1].islower() and words[-2] != "nicht":
        for i, word in enumerate(words[:-2]):
            links[i, -2] = word in HAVE and "und" not in words[i:]
    return links


def auxiliary(words: Sequence[str]) -> Bool[Tensor, "n n"]:
    """Dal participio che chiude la frase al suo ausiliare: `bracket`, nell'altro verso."""
    return bracket(words).T


def noun_of(words: Sequence[str]) -> Bool[Tensor, "n n"]:
    """Da un articolo al nome che lo segue, anche se in mezzo c'è un aggettivo."""
    links = torch.zeros(len(words), len(words), dtype=torch.bool)
    for i, word in enumerate(words):
        if word.lower() in ARTICLES:
            nouns = (j for j in range(i + 1, len(words)) if words[j][:1].isupper())
            between = (j for j in range(i + 1, len(words)) if not words[j].isalpha())
            noun, stop = next(nouns, None), next(between, len(words))
            if noun is not None and noun < stop:
                links[i, noun] = True
    return links


ARTICLES = frozenset(
    ("der", "die", "das", "den", "dem", "des", "ein", "eine", "einen", "einem", "einer", "eines")
)
"""Gli articoli tedeschi; anche pronomi, che qui davanti a un nome non stanno."""

RELATIONS: dict[str, Relation] = {
    "parola precedente": at_distance(-1),
    "sé stessa": at_distance(0),
    "parola seguente": at_distance(1),
    "segno finale": closing,
    "penultimo posto": penultimate,
    "articolo → nome": noun_of,
    "haben → participio": bracket,
    "participio → haben": auxiliary,
}
"""Ciò che si cerca nelle teste dell'encoder: cinque posizioni e tre legami grammaticali."""


class Role(NamedTuple):
    """Quanto una testa segue un legame.

    Attributi:
        head: la testa.
        share: il peso medio che chi ha quel legame mette dove il legame porta.
        words: su quante parole si è misurato.
    """

    head: Head
    share: float
    words: int


def linked(readings: Sequence[Reading], relation: Relation) -> tuple[list[Tensor], int]:
    """I legami di ogni frase, e quante parole in tutto ne hanno uno.

    Solleva:
        ValueError: se non ne ha nessuna.
    """
    links = [relation(reading.source) for reading in readings]
    count = int(sum(link.any(dim=-1).sum() for link in links))
    require(count > 0, "readings", "nessuna frase con il legame", "almeno una")
    return links, count


def roles(readings: Sequence[Reading], relation: Relation) -> list[Role]:
    """Per ogni testa dell'encoder, quanto segue un legame; prima quella che lo segue di più.

    Solleva:
        ValueError: come `linked`.
    """
    links, count = linked(readings, relation)
    found = []
    for place, layer in readings[0].maps:
        if place == "encoder":
            followed = sum(
                (reading.maps[place, layer] * link).sum(dim=(-2, -1))
                for reading, link in zip(readings, links, strict=True)
            )
            shares = (torch.as_tensor(followed) / count).tolist()
            found += [Role(Head(place, layer, i), share, count) for i, share in enumerate(shares)]
    return sorted(found, key=lambda role: -role.share)


def sharpened(reading: Reading) -> Reading:
    """La stessa lettura, con tutto il peso di ogni parola su quella che ne riceveva di più.

    Con letture così `roles` non dà un peso medio: dà quante volte il massimo cade dove il legame
    porta.
    """
    maps = {
        place: one_hot(weights.argmax(dim=-1), weights.shape[-1]).float()
        for place, weights in reading.maps.items()
    }
    return replace(reading, maps=maps)


REACH = 8
"""Fin dove si cerca la distanza fissa che imita meglio un legame."""


def best_distance(readings: Sequence[Reading], relation: Relation) -> tuple[int, float]:
    """La distanza fissa che imita meglio un legame, e quante volte lo indovina.

    È il confronto necessario: una testa che segue un legame meno di quanto farebbe guardando
    sempre, per esempio, due parole più avanti, non ha mostrato di conoscere la grammatica.

    Solleva:
        ValueError: come `linked`.
    """
    links, count = linked(readings, relation)
    hits = {
        step: sum(
            int((link & at_distance(step)(reading.source)).sum())
            for reading, link in zip(readings, links, strict=True)
        )
        for step in range(-REACH, REACH + 1)
    }
    step = max(hits, key=lambda it: hits[it])
    return step, hits[step] / count


# Senza una testa.


@contextmanager
def without(model: Transformer, heads: Iterable[Head]) -> Iterator[None]:
    """Finché dura il blocco, alcune teste non danno nulla: le loro righe di W^O sono zero.

    Nessun altro numero cambia, e alla fine tornano i pesi di prima, agli stessi bit.

    Solleva:
        ValueError: se il modello non ha una di quelle teste.
    """
    parts = attentions(model)
    kept = {place: part.w_o.detach().clone() for place, part in parts.items()}
    present = set(all_heads(model))
    try:
        for head in heads:
            require(head in present, "heads", head, "teste del modello")
            part = parts[head.place, head.layer]
            with torch.no_grad():
                part.w_o[:, head.head * part.d_v : (head.head + 1) * part.d_v] = 0
        yield
    finally:
        with torch.no_grad():
            for place, part in parts.items():
                part.w_o.copy_(kept[place])


def loss_without(model: Transformer, batch: Batch, heads: Iterable[Head] = ()) -> float:
    """La media di −log p per token, in nat, senza alcune teste."""
    with without(model, heads), evaluating(model):
        losses = batch_loss(model, batch)
    return (losses.plain / losses.tokens).item()


def by_importance(model: Transformer, batch: Batch) -> list[tuple[Head, float]]:
    """Ogni testa con la perdita del modello a cui manca lei sola, dalla meno importante."""
    losses = [(head, loss_without(model, batch, [head])) for head in all_heads(model)]
    return sorted(losses, key=lambda pair: pair[1])


def pruned(model: Transformer, batch: Batch, order: Sequence[Head]) -> list[float]:
    """La perdita togliendo le prime 0, 1, 2, … teste di un ordine, fino a tutte.

    Se l'ordine viene da `by_importance`, conviene che venga da altre frasi: così il danno si
    giudica su ciò che non ha servito a scegliere.
    """
    return [loss_without(model, batch, order[:count]) for count in range(len(order) + 1)]
