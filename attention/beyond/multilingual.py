"""Dove si incontrano due lingue: il giocattolo tedesco–italiano, guardato strato per strato.

Prima le parole: «Buch» e «libro» come vettori, in ogni punto del modello, e quanto sono vicini.
Poi che cosa li collega: una rotazione imparata da altre parole, il ponte che il modello si è
costruito, e l'innesto di una parola al posto di un'altra. Infine le frasi con due letture.
"""

import argparse
import csv
import itertools
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, cast

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from attention.beyond.ablations import SEED, VARIANTS, trained
from attention.beyond.grammar import (
    PRONOUNS,
    Case,
    Clause,
    Dice,
    Noun,
    NounPhrase,
    Tense,
    Words,
    Writer,
    german_main,
    german_text,
    italian_clause,
    italian_text,
    lexicon,
    relative_object,
    relative_subject,
    sequence,
    third_person,
)
from attention.command_line import RECIPES, prepare_data
from attention.s0_abstract import require
from attention.s3_1_encoder_decoder_stacks import DecoderLayer
from attention.s3_model_architecture import Transformer, evaluating
from attention.s5_1_data_batching import Batch, Vocabulary, collate, padded
from attention.s6_1_machine_translation import beam_search
from attention.sa_attention_visualizations import drawing, label

# Le parole.


class Word(NamedTuple):
    """Un nome che in tutte e due le lingue è un token solo, preceduto dallo spazio."""

    noun: Noun
    german: int
    italian: int


def translations(vocabulary: Vocabulary) -> list[Word]:
    """I nomi comuni che si possono confrontare token con token.

    Restano fuori i nomi propri, uguali nelle due lingue, e i maschili deboli («Student»), che
    all'accusativo hanno un altro token.
    """
    found = []
    for noun in lexicon().nouns:
        german = vocabulary.encode(f" {noun.german.singular[Case.ACCUSATIVE]}")
        italian = vocabulary.encode(f" {noun.italian[0]}")
        plain = noun.german.singular[Case.ACCUSATIVE] == noun.lemma and "name" not in noun.kinds
        if plain and len(german) == len(italian) == 1:
            found.append(Word(noun, german[0], italian[0]))
    return found


def carrier(noun: Noun) -> tuple[str, str]:
    """La frase in cui la parola si guarda: «Ich sehe jedes Buch.», «Vedo ogni libro.».

    «Ogni» non dice il genere: prima del nome, l'italiano non ha ancora rivelato nulla.
    """
    verb = next(it for it in lexicon().verbs if it.lemma == "sehen")
    seen = ((verb.needs[0], NounPhrase("jeder", noun, False)),)
    clause = Clause(PRONOUNS["ich"], verb, Tense.PRESENT, roles=seen)
    return german_text([*german_main(clause), "."]), italian_text([*italian_clause(clause), "."])


LOOSE = {"goods", "gift", "small", "own"}
"""Le classi del lessico troppo larghe per dire che due cose si somigliano."""


def alike(words: Sequence[Word]) -> Bool[Tensor, "words words"]:
    """Vero per due parole diverse con lo stesso genere in ogni lingua, e una classe in comune.

    Sono il controllo: se «Buch» fosse vicino a «libro» soltanto perché tutti e due sono oggetti di
    carta, sarebbe vicino quanto a ogni altra parola di questo tipo.
    """

    nouns = [word.noun for word in words]
    kinds = sorted({kind for noun in nouns for kind in noun.kinds - LOOSE})
    marks = torch.tensor([[float(kind in noun.kinds) for kind in kinds] for noun in nouns])
    forms = torch.tensor([[noun.german.column, "mf".index(noun.gender)] for noun in nouns])
    same = (forms.unsqueeze(1) == forms).all(-1)
    return same & (marks @ marks.mT > 0) & ~torch.eye(len(words), dtype=torch.bool)


# Le nuvole: un vettore per parola, in ogni punto del modello.


def states(model: Transformer, batch: Batch) -> tuple[list[Tensor], list[Tensor]]:
    """I vettori prima del primo strato e dopo ciascuno: dell'encoder, del decoder."""
    with evaluating(model):
        mask = model.source_mask(batch.source)
        source = [model.source_positions(model.embedding(batch.source))]
        for layer in model.encoder.layers:
            source.append(layer(source[-1], mask))
        target = [model.target_positions(model.embedding(batch.target))]
        for layer in model.decoder.layers:
            target.append(layer(target[-1], source[-1], mask))
    return source, target


class Clouds(NamedTuple):
    """Le parole viste in ogni punto: matrici con una riga per parola.

    Attributi:
        german, italian: le righe della tabella comune.
        encoder: alla posizione del nome tedesco; 0 è l'ingresso.
        reading: nel decoder, alla posizione che legge il nome italiano.
        writing: nel decoder, alla posizione precedente, che deve scriverlo.
    """

    german: Tensor
    italian: Tensor
    encoder: list[Tensor]
    reading: list[Tensor]
    writing: list[Tensor]


def clouds(model: Transformer, vocabulary: Vocabulary, words: Sequence[Word]) -> Clouds:
    """Un vettore per parola in ogni punto, ciascuna nella sua frase."""
    batch, german, italian = carriers(vocabulary, words)
    source, target = states(model, batch)
    rows, table = torch.arange(len(words)), model.embedding.weight.detach()
    return Clouds(
        table[[word.german for word in words]],
        table[[word.italian for word in words]],
        [layer[rows, german] for layer in source],
        [layer[rows, italian] for layer in target],
        [layer[rows, italian - 1] for layer in target],
    )


def carriers(
    vocabulary: Vocabulary, words: Sequence[Word]
) -> tuple[Batch, Int[Tensor, " words"], Int[Tensor, " words"]]:
    """Le frasi di tutte le parole, e dove sta il nome in ciascuna, nelle due lingue."""
    texts = [carrier(word.noun) for word in words]
    batch = collate([(vocabulary.encode(a), vocabulary.encode(b)) for a, b in texts])
    german = torch.tensor([word.german for word in words]).unsqueeze(-1)
    italian = torch.tensor([word.italian for word in words]).unsqueeze(-1)
    places = [(batch.source == german).int(), (batch.target == italian).int()]
    require(all(bool((it.sum(-1) == 1).all()) for it in places), "words", "altro", "`translations`")
    return batch, places[0].argmax(-1), places[1].argmax(-1)


# Quanto sono vicine.


def unit(cloud: Float[Tensor, "words d"], center: Float[Tensor, " d"]) -> Float[Tensor, "words d"]:
    """Le parole viste dal centro, tutte alla stessa distanza: restano le direzioni."""
    moved = cloud - center
    return moved / moved.norm(dim=-1, keepdim=True)


def cosines(
    german: Float[Tensor, "words d"], italian: Float[Tensor, "words d"]
) -> Float[Tensor, "words words"]:
    """Il coseno fra ogni parola tedesca e ogni italiana.

    Ciascuna è vista dal centro della sua lingua: così si toglie ciò che tutte le parole di una
    lingua hanno in comune.
    """
    return unit(german, german.mean(0)) @ unit(italian, italian.mean(0)).mT


def rotation(
    german: Float[Tensor, "words d"], italian: Float[Tensor, "words d"]
) -> Float[Tensor, "d d"]:
    """La rotazione, o riflessione, che porta meglio le prime sulle seconde (Procuste).

    È la matrice ortogonale più vicina a Σ gᵀ i: della sua scomposizione in valori singolari si
    tengono le due parti ortogonali.
    """
    left, _, right = torch.linalg.svd(german.mT @ italian)
    return left @ right


FOLDS = 5
"""In quanti gruppi si dividono le parole: a turno uno si prova, sugli altri si impara."""


def turned_cosines(
    german: Float[Tensor, "words d"], italian: Float[Tensor, "words d"]
) -> Float[Tensor, "words words"]:
    """Come `cosines`, dopo una rotazione imparata senza le parole che si provano."""
    group = torch.arange(len(german)) % FOLDS
    found = german.new_empty(len(german), len(german))
    for test in range(FOLDS):
        known = group != test
        here = unit(german, german[known].mean(0))
        there = unit(italian, italian[known].mean(0))
        found[~known] = here[~known] @ rotation(here[known], there[known]) @ there.mT
    return found


def is_nearest(table: Float[Tensor, "words words"]) -> Bool[Tensor, " words"]:
    """Vero se per una parola tedesca la più vicina delle italiane è la sua traduzione."""
    return table.argmax(-1) == torch.arange(len(table))


class Estimate(NamedTuple):
    """Una media, con l'intervallo al 95 % che verrebbe da altre parole così."""

    mean: float
    low: float
    high: float


SAMPLES = 2000
"""Quante volte si ripescano le parole per avere un intervallo."""


def estimate(values: Float[Tensor, " words"]) -> Estimate:
    """La media e il suo intervallo, ripescando le parole con reimmissione (bootstrap)."""
    known = values[~values.isnan()].double().numpy()
    require(len(known) > 0, "values", "nessun valore", "almeno uno")
    picked = np.random.default_rng(SEED).integers(len(known), size=(SAMPLES, len(known)))
    low, high = np.quantile(known[picked].mean(-1), (0.025, 0.975)).tolist()
    return Estimate(float(known.mean()), low, high)


def share(hits: Bool[Tensor, " words"]) -> Estimate:
    """Una frazione con l'intervallo di Wilson, che non si riduce a un punto per 0 o per 1."""
    n, k, z = len(hits), int(hits.sum()), 1.96
    middle = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return Estimate(k / n, middle - half, middle + half)


def mean_where(
    table: Float[Tensor, "words others"], chosen: Bool[Tensor, "words others"]
) -> Float[Tensor, " words"]:
    """Per ogni riga la media delle caselle scelte; NaN dove non ce n'è nessuna."""
    return (table * chosen).sum(-1) / chosen.sum(-1)


class Line(NamedTuple):
    """Due nuvole a confronto.

    Attributi:
        pairs: il coseno fra una parola e la sua traduzione.
        alike: fra una parola e le traduzioni di quelle che le somigliano.
        found: quante volte la più vicina è la traduzione.
        turned: lo stesso, dopo la rotazione imparata dalle altre parole.
    """

    pairs: Estimate
    alike: Estimate
    found: Estimate
    turned: Estimate


def compared(
    words: Sequence[Word], german: Float[Tensor, "words d"], italian: Float[Tensor, "words d"]
) -> Line:
    """Il confronto fra una nuvola tedesca e una italiana."""
    plain, turned = cosines(german, italian), turned_cosines(german, italian)
    return Line(
        estimate(plain.diag()),
        estimate(mean_where(plain, alike(words))),
        share(is_nearest(plain)),
        share(is_nearest(turned)),
    )


class Pull(NamedTuple):
    """Di quale genere parlano i vettori di una lingua.

    Attributi:
        italian: il coseno fra parole che hanno in comune solo il genere italiano.
        german: fra parole che hanno in comune solo il genere tedesco.
    """

    italian: Estimate
    german: Estimate


def gender_pull(words: Sequence[Word], cloud: Float[Tensor, "words d"]) -> Pull:
    """Quanto avvicina due parole un genere, e quanto l'altro."""
    italian = torch.tensor(["mf".index(word.noun.gender) for word in words])
    german = torch.tensor([word.noun.german.column for word in words])
    table = cosines(cloud, cloud)
    here = german.unsqueeze(-1) == german
    there = italian.unsqueeze(-1) == italian
    chosen = (there & ~here, here & ~there)
    return Pull(*(estimate(mean_where(table, it)) for it in chosen))


def places(model: Transformer, seen: Clouds) -> dict[str, tuple[Tensor, Tensor]]:
    """I punti in cui le due lingue si possono confrontare, dall'ingresso all'uscita."""
    last, layers = seen.encoder[-1], range(1, len(seen.encoder))
    return {
        "le due righe della tabella": (seen.german, seen.italian),
        **{
            f"encoder {i}, decoder {i} che legge": (seen.encoder[i], seen.reading[i])
            for i in layers
        },
        "uscita dell'encoder, riga": (last, seen.italian),
        **{f"ponte {i}, riga": (bridge(model, i, last), seen.italian) for i in layers},
        **{f"decoder {i} che scrive, riga": (seen.writing[i], seen.italian) for i in layers},
    }


def shared_tokens(vocabulary: Vocabulary, pairs: Sequence[tuple[str, str]]) -> set[int]:
    """I token che compaiono tanto nelle frasi tedesche quanto nelle italiane."""
    german, italian = (
        {token for pair in pairs for token in vocabulary.encode(pair[side])} for side in (0, 1)
    )
    return german & italian


# Che cosa le collega.


def bridge(
    model: Transformer, layer: int, memory: Float[Tensor, "words d"]
) -> Float[Tensor, "words d"]:
    """Ciò che uno strato del decoder riceve da una parola tedesca, se guarda soltanto quella.

    Con una posizione sola la softmax vale 1 qualunque sia la query: resta il prodotto per W^V e
    W^O, cioè una matrice fissa.

    Argomenti:
        model: il modello.
        layer: lo strato del decoder, da 1.
        memory: l'uscita dell'encoder alla posizione del nome.
    """
    layers = cast("list[DecoderLayer]", model.decoder.layers)
    require(1 <= layer <= len(layers), "layer", layer, f"da 1 a {len(layers)}")
    alone = memory.unsqueeze(-2)
    with evaluating(model):
        found: Tensor = layers[layer - 1].cross_attention(alone, alone, alone)
    return found.squeeze(-2)


def written(
    model: Transformer,
    batch: Batch,
    positions: Int[Tensor, " words"],
    memory: Float[Tensor, "words n d"],
) -> Int[Tensor, " words"]:
    """Il token più probabile a una posizione di ogni frase, data l'uscita dell'encoder."""
    with evaluating(model):
        vectors = model.embedding(batch.target)
        hidden = model.decode_vectors(vectors, memory, model.source_mask(batch.source))
        logits = model.embedding.logits(hidden[torch.arange(len(positions)), positions])
    return logits.argmax(-1)


def grafted(
    model: Transformer, vocabulary: Vocabulary, words: Sequence[Word], step: int
) -> Int[Tensor, " words"]:
    """Che cosa si scrive se il vettore del nome tedesco viene da un'altra frase.

    Argomenti:
        model, vocabulary, words: il modello e le parole.
        step: di quante parole più indietro, in giro, si prende il vettore; con 0 resta il suo.

    Restituisce:
        Per ogni frase il token scritto al posto del nome italiano.
    """
    batch, german, italian = carriers(vocabulary, words)
    memory = states(model, batch)[0][-1].clone()
    rows = torch.arange(len(words))
    memory[rows, german] = memory[rows, german].roll(step, 0)
    return written(model, batch, italian - 1, memory)


def reversed_reading(
    model: Transformer, vocabulary: Vocabulary, words: Sequence[Word]
) -> Int[Tensor, " words"]:
    """Che cosa si scrive al posto del nome se la sorgente è già la frase italiana."""
    italian = carriers(vocabulary, words)[2]
    texts = [vocabulary.encode(carrier(word.noun)[1]) for word in words]
    source = collate([(text, text) for text in texts])
    return written(model, source, italian - 1, states(model, source)[0][-1])


# La carta.


def plane(cloud: Float[Tensor, "words d"]) -> tuple[Float[Tensor, "words 2"], float]:
    """Le parole sul piano in cui sono più sparse (PCA), e quanta dispersione vi resta."""
    moved = (cloud - cloud.mean(0)).double().numpy()
    left, sizes, _ = np.linalg.svd(moved, full_matrices=False)
    shares = sizes**2 / (sizes**2).sum()
    return torch.from_numpy(left[:, :2] * sizes[:2]), float(shares[:2].sum())


Point = tuple[float, float]
"""Un punto della carta."""

Placed = tuple[str, Point, str, Point]
"""Una parola tedesca, il suo punto, la sua traduzione, il punto di questa."""


def placed(
    words: Sequence[Word], seen: Clouds, lemmas: Sequence[str], turn: bool
) -> tuple[list[Placed], float]:
    """Alcune parole sul loro piano, dalle righe della tabella.

    Argomenti:
        words, seen: le parole e le loro nuvole.
        lemmas: i nomi tedeschi da disegnare.
        turn: vero se le tedesche si ruotano, con la rotazione imparata da tutte le altre.

    Restituisce:
        Le coppie, e la parte della dispersione che il piano conserva.
    """
    shown = torch.tensor([word.noun.lemma in lemmas for word in words])
    here = unit(seen.german, seen.german[~shown].mean(0))
    there = unit(seen.italian, seen.italian[~shown].mean(0))
    if turn:
        here = here @ rotation(here[~shown], there[~shown])
    points, kept = plane(torch.cat([here[shown], there[shown]]))
    nouns = [word.noun for word in words if word.noun.lemma in lemmas]
    corners = [(x, y) for x, y in points.tolist()]
    ends = zip(nouns, corners[: len(nouns)], corners[len(nouns) :], strict=True)
    return [(noun.lemma, here, noun.italian[0], there) for noun, here, there in ends], kept


def chart(pairs: Sequence[Placed], title: str) -> str:
    """Coppie di parole, ciascuna unita da un segmento: piene le tedesche, vuote le italiane."""
    require(len(pairs) > 1, "pairs", f"{len(pairs)} coppie", "almeno due")
    every = [point for _, here, _, there in pairs for point in (here, there)]
    left, top = (min(point[axis] for point in every) for axis in (0, 1))
    wide, high = (max(point[axis] for point in every) for axis in (0, 1))
    scale = 280 / max(wide - left, high - top)
    body = []
    for german, here, italian, there in pairs:
        (x, y), (u, v) = (
            (40 + scale * (a - left), 24 + scale * (b - top)) for a, b in (here, there)
        )
        line = f'd="M{x:.1f} {y:.1f}L{u:.1f} {v:.1f}" stroke="currentColor" opacity=".35"'
        body.append(f'<path {line}/><circle cx="{x:.1f}" cy="{y:.1f}" r="4"/>')
        body.append(f'<circle cx="{u:.1f}" cy="{v:.1f}" r="4" fill="none" stroke="currentColor"/>')
        away = 12 if y <= v else -12
        body += [label(round(x, 0), round(y, 0) + 5 - away, german, "middle")]
        body += [label(round(u, 0), round(v, 0) + 5 + away, italian, "middle")]
    return drawing(360.0, 48 + scale * (high - top), title, body)


# Le frasi con due letture.


class Ambiguity(NamedTuple):
    """Una frase tedesca, e le frasi italiane che la traducono."""

    german: str
    readings: tuple[str, ...]


def ambiguity(*said: Words) -> Ambiguity:
    """Più letture di una frase: in tedesco sono la stessa."""
    german = {german_text([*it.german]) for it in said}
    require(len(german) == 1, "said", f"{len(german)} frasi tedesche", "una sola")
    return Ambiguity(german.pop(), tuple(italian_text([*it.italian]) for it in said))


def said(clause: Clause) -> Words:
    """Una frase principale nelle due lingue."""
    return Words([*german_main(clause), "."], [*italian_clause(clause), "."])


def unnamed() -> Iterator[Ambiguity]:
    """«Sie hat ihn verlassen»: ihn è qualcuno, o qualcosa, di cui non si è detto nulla.

    Mancano i verbi di stato, che l'italiano vuole all'imperfetto: «l'amava» non dice il genere.
    """
    verbs = [verb for verb in lexicon().by_mark["whom"] if "state" not in verb.marks]
    for verb, who in itertools.product(verbs, ("sie", "er")):
        clause = Clause(PRONOUNS[who], verb, Tense.PERFECT)
        objects = (third_person(0, place) for place in (0, 1))
        yield ambiguity(*(said(clause._replace(roles=((verb.needs[0], it),))) for it in objects))


def named() -> Iterator[Ambiguity]:
    """«Ich habe den Apfel gekauft und ihn gegessen»: lo stesso pronome, ma si sa di che cosa.

    La prima lettura è quella giusta; l'altra ha il participio dell'altro genere.
    """
    who = PRONOUNS["ich"]
    for get, use, nouns in lexicon().deals:
        for noun in nouns:
            if noun.german.column == 0 and len(use.needs) == 1 and "paired" not in noun.kinds:
                bought = ((get.needs[0], NounPhrase("der", noun, False)),)
                first = Clause(who, get, Tense.PERFECT, roles=bought)
                right = int(noun.gender == "f")
                objects = (third_person(0, place) for place in (right, 1 - right))
                then = Clause(who, use, Tense.PERFECT)
                yield ambiguity(
                    *(sequence(first, then._replace(roles=((use.needs[0], it),))) for it in objects)
                )


def formal(count: int = 40) -> Iterator[Ambiguity]:
    """«Sie lesen das Buch»: loro, oppure Lei."""
    writer = Writer(lexicon(), Dice(SEED))
    for _ in range(count):
        clause = writer.clause(writer.dice.pick(lexicon().personal), PRONOUNS["wir"])
        german = german_main(clause._replace(subject=PRONOUNS["sie (plurale)"]))
        read = (clause._replace(subject=PRONOUNS[who]) for who in ("sie (plurale)", "Sie"))
        yield ambiguity(*(Words([*german, "."], [*italian_clause(it), "."]) for it in read))


def either(count: int = 40) -> Iterator[Ambiguity]:
    """«Ich kenne die Frau, die das Mädchen sieht»: chi vede, e chi è vista."""
    dice, words = Dice(SEED), lexicon()
    for _ in range(count):
        know, see = (dice.pick(words.by_mark["whom"]) for _ in range(2))
        who, other = (NounPhrase("der", noun, False) for noun in dice.pick(words.twins))
        role = see.needs[0]
        acting = relative_subject(who, Clause(who, see, Tense.PRESENT, roles=((role, other),)))
        acted = relative_object(who, role, Clause(other, see, Tense.PRESENT))
        main = Clause(PRONOUNS["ich"], know, Tense.PRESENT)
        whom = ((know.needs[0], who._replace(after=it)) for it in (acting, acted))
        yield ambiguity(*(said(main._replace(roles=(it,))) for it in whom))


FAMILIES = {
    "ihn, senza chi": unnamed,
    "ihn, detto prima": named,
    "Sie: loro o Lei": formal,
    "chi vede chi": either,
}
"""Le famiglie di frasi; la seconda non è ambigua, e serve da confronto."""


def logs(
    model: Transformer, vocabulary: Vocabulary, german: str, italian: Sequence[str]
) -> Float[Tensor, " texts"]:
    """Il logaritmo della probabilità che il modello dà a ogni frase italiana, fine compresa.

    È la probabilità di *una* divisione in token, quella del vocabolario: è ciò che il modello
    ha visto in addestramento.
    """
    batch = collate([(vocabulary.encode(german), vocabulary.encode(text)) for text in italian])
    with evaluating(model):
        each = model.score(batch.source, batch.target, batch.expected)[0]
    return (each * (batch.expected != model.config.padding_id)).sum(-1)


class Judgement(NamedTuple):
    """Una famiglia di frasi giudicata.

    Attributi:
        sentences: quante.
        valid: quante volte ciò che il modello scrive è una delle letture.
        mass: la probabilità che dà alle letture, tutte insieme, in media.
        certain: quante volte una lettura ha almeno nove decimi di quella probabilità.
        first: quante volte la prima lettura è la più probabile delle due.
    """

    sentences: int
    valid: float
    mass: float
    certain: float
    first: float


def judged(model: Transformer, vocabulary: Vocabulary, family: Sequence[Ambiguity]) -> Judgement:
    """Che cosa fa il modello di una famiglia di frasi."""
    source = padded([vocabulary.encode(it.german) for it in family])
    found = beam_search(model, source)
    texts = [vocabulary.decode(hypotheses[0].tokens) for hypotheses in found]
    valid = [text in it.readings for text, it in zip(texts, family, strict=True)]
    each = torch.stack([logs(model, vocabulary, it.german, it.readings) for it in family]).double()
    shares = each.softmax(-1)
    return Judgement(
        len(family),
        fmean(valid),
        each.exp().sum(-1).mean().item(),
        (shares.amax(-1) >= 0.9).double().mean().item(),
        (shares.argmax(-1) == 0).double().mean().item(),
    )


# Con altri semi.


class Run(NamedTuple):
    """Un numero pubblicato: il seme, dove o su che cosa, il nome della misura, il valore."""

    seed: int
    what: str
    measure: str
    value: float


STEPS = 1200
"""I passi degli altri addestramenti: la metà di quelli del modello in deposito."""

RESULTS = Path(__file__).with_suffix(".csv")
"""I risultati degli altri semi."""


def measures(model: Transformer, vocabulary: Vocabulary) -> Iterator[tuple[str, str, float]]:
    """Le misure di un modello: i punti di confronto, l'innesto, le famiglie di frasi."""
    words = translations(vocabulary)
    for place, (german, italian) in places(model, clouds(model, vocabulary, words)).items():
        line = compared(words, german, italian)
        yield place, "pairs", line.pairs.mean
        yield place, "found", line.found.mean
        yield place, "turned", line.turned.mean
    own, step = torch.tensor([word.italian for word in words]), len(words) // 2
    graft = grafted(model, vocabulary, words, step) == own.roll(step)
    yield "innesto", "found", share(graft).mean
    read = reversed_reading(model, vocabulary, words) == own
    yield "sorgente in italiano", "found", share(read).mean
    for name, family in FAMILIES.items():
        found = judged(model, vocabulary, list(family()))
        yield name, "valid", found.valid
        yield name, "certain", found.certain
        yield name, "first", found.first


def read_runs(path: Path = RESULTS) -> list[Run]:
    """I risultati pubblicati."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Run(int(seed), what, measure, float(value))
            for seed, what, measure, value in csv.reader(file)
        ]


SEEDS = (1, 2, 3)
"""I loro semi."""


def experiment(
    folder: Path, path: Path = RESULTS, seeds: Sequence[int] = SEEDS, steps: int = STEPS
) -> None:
    """Addestra un giocattolo per seme, lo misura, e riscrive il file dei risultati."""
    options = argparse.Namespace(recipe="giocattolo", seed=SEED, source=None, target=None)
    prepare_data(RECIPES["giocattolo"], folder, options)
    found: list[Run] = []
    for seed in seeds:
        model, vocabulary = trained(VARIANTS[0], folder, seed, steps)
        for what, measure, value in measures(model, vocabulary):
            found.append(Run(seed, what, measure, round(value, 4)))
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(found)


def main(arguments: Sequence[str]) -> None:
    """`python -m attention.beyond.multilingual CARTELLA`: rifà i risultati degli altri semi."""
    require(len(arguments) == 1, "CARTELLA", f"{len(arguments)} argomenti", "una cartella")
    experiment(Path(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
