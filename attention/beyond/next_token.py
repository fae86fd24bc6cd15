"""Predire il token seguente: un Transformer di solo decoder, e ciò che impara.

Le parti sono quelle dell'edizione, montate in un altro modo: strati con due sotto-strati, come
nell'encoder, e la maschera causale, come nel decoder. L'unico compito è dire, a ogni posizione,
quale parola viene dopo. Accanto, i modelli a n-grammi, che rispondono alla stessa domanda contando.
"""

import csv
import dataclasses
import hashlib
import itertools
import json
import math
import os
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from attention.beyond.grammar import (
    GLI,
    IL,
    LO,
    Clause,
    Dice,
    Lexicon,
    Noun,
    NounPhrase,
    Tense,
    Verb,
    Writer,
    agreement,
    enclitic,
    italian_text,
    lexicon,
    relative_object,
    relative_subject,
    split_of,
)
from attention.command_line import CURVE, MODEL, ORIGIN, SHIPPED, WORDS, recorded
from attention.s0_abstract import require
from attention.s3_1_encoder_decoder_stacks import Dropout, distinct
from attention.s3_2_3_applications import causal_mask
from attention.s3_4_embeddings_softmax import SharedEmbedding, check_tokens
from attention.s3_model_architecture import (
    TransformerConfig,
    evaluating,
    make_encoder_layer,
    make_positions,
)
from attention.s5_1_data_batching import (
    END,
    PADDING,
    START,
    Batch,
    Sentence,
    collate,
    padded,
    token_batches,
    writing,
)
from attention.s5_2_hardware_schedule import Processes, Progress, Trainer
from attention.s5_3_optimizer import learning_rate, make_optimizer
from attention.s5_4_regularization import BatchLoss

# Le parole.

UNKNOWN = 3
"""L'identificatore di una parola che il vocabolario non ha."""

SPECIALS = ("<pad>", "<s>", "</s>", "<unk>")
"""Le prime quattro voci: padding, inizio, fine, parola ignota."""

WORD = re.compile(r"\w+'?|[^\w\s]")
"""Una parola, con il suo apostrofo se ne ha uno; oppure un segno di punteggiatura."""


def split_words(text: str) -> list[str]:
    """Le parole di un testo, minuscole; la punteggiatura conta come parola."""
    return WORD.findall(text.lower())


class WordVocabulary:
    """Un vocabolario di parole intere.

    Argomenti:
        words: le parole, senza le quattro voci speciali; nell'ordine dei loro identificatori.

    Solleva:
        ValueError: se una parola è ripetuta, o è una delle voci speciali.
    """

    def __init__(self, words: Sequence[str]):
        self.words = (*SPECIALS, *words)
        self.ids = {word: token for token, word in enumerate(self.words)}
        repeated = len(self.words) - len(self.ids)
        require(repeated == 0, "words", f"{repeated} ripetizioni", "parole tutte diverse")

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def of(cls, sentences: Iterable[str]) -> "WordVocabulary":
        """Le parole di alcune frasi, dalla più frequente; a pari merito, in ordine alfabetico."""
        counts = Counter(word for sentence in sentences for word in split_words(sentence))
        return cls(sorted(counts, key=lambda word: (-counts[word], word)))

    def encode(self, text: str) -> list[int]:
        """Gli identificatori delle parole di un testo, senza inizio e senza fine."""
        return [self.ids.get(word, UNKNOWN) for word in split_words(text)]

    def decode(self, tokens: Sentence) -> str:
        """Le parole di una fila di token fino alla fine; inizio e padding si saltano.

        Solleva:
            ValueError: se un token non è nel vocabolario.
        """
        found = []
        for token in map(int, tokens):
            inside = 0 <= token < len(self)
            require(inside, "tokens", f"il token {token}", f"da 0 a {len(self) - 1}")
            if token == END:
                break
            if token not in (PADDING, START):
                found.append(self.words[token])
        return re.sub(r" (?=[.,?])|(?<=') ", "", " ".join(found))

    def save(self, path: Path) -> None:
        """Scrive le parole in un file JSON."""
        with writing(path) as file:
            file.write(json.dumps(self.words[len(SPECIALS) :], ensure_ascii=False).encode())

    @classmethod
    def load(cls, path: Path) -> "WordVocabulary":
        """Il vocabolario scritto da `save`."""
        return cls(json.loads(path.read_text(encoding="utf-8")))


# Le frasi.


class Sentences(NamedTuple):
    """Le frasi italiane della grammatica, divise come in `split_of`.

    Argomenti:
        train: quelle con cui si addestra.
        dev: dello stesso genere, mai viste.
        heldout: con un incontro di parole mai visto.
        long: da frasi tedesche più lunghe di ogni frase tedesca vista.
    """

    train: list[str]
    dev: list[str]
    heldout: list[str]
    long: list[str]


def italian_sentences(seed: int, train: int, test: int) -> Sentences:
    """Le prime frasi che nascono da un seme; in ogni prova al più `test`, assenti da `train`.

    Argomenti:
        seed: il seme.
        train: quante frasi per addestrare: anche ripetute, come nascono.
        test: quante, al più, in ciascuna delle altre parti.

    Solleva:
        ValueError: se `train` è minore di 1.
    """
    require(train >= 1, "train", train, "almeno 1")
    writer = Writer(lexicon(), Dice(seed))
    parts: dict[str, list[str]] = {name: [] for name in Sentences._fields}
    while len(parts["train"]) < train:
        pair = writer.pair()
        parts.get(split_of(pair) or "", []).append(pair.italian)
    seen = set(parts["train"])
    others = (
        [it for it in dict.fromkeys(parts[name]) if it not in seen][:test]
        for name in Sentences._fields[1:]
    )
    return Sentences(parts["train"], *others)


# Il modello.


class DecoderOnly(nn.Module):
    """Un Transformer di solo decoder: a ogni posizione, i punteggi del token seguente.

    Argomenti:
        config: le misure; `layers` sono gli strati dell'unica pila.
    """

    configuration: ClassVar[type[Any]] = TransformerConfig

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.embedding = SharedEmbedding(config.vocabulary, config.d_model)
        self.positions = make_positions(config)
        self.dropout = Dropout(config.dropout)
        self.layers = distinct([make_encoder_layer(config) for _ in range(config.layers)])

    def forward(self, tokens: Int[Tensor, "*batch n"]) -> Float[Tensor, "*batch n vocabulary"]:
        """I punteggi del token seguente, dati quelli fino a ogni posizione compresa.

        Argomenti:
            tokens: il simbolo d'inizio, poi la frase; il padding, se c'è, in fondo.

        Restituisce:
            Forma [..., n, vocabulary]. Sulle posizioni di padding non vuol dire nulla.

        Solleva:
            TypeError, ValueError: se i token non sono interi del vocabolario.
        """
        return self.embedding.logits(self.hidden(tokens))

    def score(
        self, tokens: Int[Tensor, "*batch n"], expected: Int[Tensor, "*batch n"]
    ) -> tuple[Float[Tensor, "*batch n"], Float[Tensor, "*batch n"]]:
        """log p di ogni token atteso, in nat, e la media di log p: vedi `SharedEmbedding.score`."""
        return self.embedding.score(self.hidden(tokens), expected)

    def hidden(self, tokens: Int[Tensor, "*batch n"]) -> Float[Tensor, "*batch n d_model"]:
        """L'uscita dell'ultimo strato."""
        return self.hidden_states(tokens)[-1]

    def hidden_states(
        self, tokens: Int[Tensor, "*batch n"]
    ) -> list[Float[Tensor, "*batch n d_model"]]:
        """Ciò che passa fra uno strato e l'altro: prima l'ingresso, poi l'uscita di ogni strato.

        Nessuna maschera di padding: il padding sta in fondo, e nessuno guarda avanti.
        """
        check_tokens(tokens, "tokens", self.config.vocabulary)
        mask = causal_mask(tokens.size(-1), tokens.device)
        states = [self.dropout(self.positions(self.embedding(tokens)))]
        for layer in self.layers:
            states.append(layer(states[-1], mask))
        return states

    def bits(self, sentences: Sequence[Sequence[int]]) -> list[list[float]]:
        """La sorpresa di ogni token di alcune frasi, in bit: −log₂ p, dato ciò che lo precede.

        Argomenti:
            sentences: le frasi, senza inizio e senza fine.

        Restituisce:
            Per ogni frase un numero per token, più uno per la fine.
        """
        found = []
        with evaluating(self):
            for first in range(0, len(sentences), TOGETHER):
                group = sentences[first : first + TOGETHER]
                expected = padded([[*it, END] for it in group])
                chosen, _ = self.score(padded([[START, *it] for it in group]), expected)
                rows = (-chosen.double() / math.log(2)).tolist()
                found += [row[: len(it) + 1] for row, it in zip(rows, group, strict=True)]
        return found

    def save(self, path: Path) -> None:
        """Scrive parametri e configurazione in un file safetensors."""
        metadata = {"config": json.dumps(dataclasses.asdict(self.config))}
        with writing(path) as file:
            file.write(save(self.state_dict(), metadata))

    @classmethod
    def load(cls, path: Path) -> "DecoderOnly":
        """Il modello scritto da `save`.

        Solleva:
            ValueError: se il file non è stato scritto da `save`, o è danneggiato.
        """
        try:
            with safe_open(path, "pt") as file:
                config = json.loads((file.metadata() or {})["config"])
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            model = cls(cls.configuration(**config))
            model.load_state_dict(state)
        except (SafetensorError, KeyError, RuntimeError, TypeError, ValueError) as error:
            expected = f"un modello scritto da {cls.__name__}.save"
            raise ValueError(f"path: dato: {os.fspath(path)}; atteso: {expected}") from error
        return model


TOGETHER = 100
"""Quante frasi si giudicano insieme."""


# Gli n-grammi.

Level = dict[tuple[int, ...], Counter[int]]
"""Per ogni contesto, quante volte lo segue ciascun token."""


class KneserNey:
    """Un modello a n-grammi con il lisciamento di Kneser e Ney, interpolato.

    Argomenti:
        sentences: le frasi in token, senza inizio e senza fine.
        order: n: si guardano gli n − 1 token precedenti.
        vocabulary: quante voci si possono predire.

    Solleva:
        ValueError: se `order` o `vocabulary` è minore di 1.
    """

    def __init__(self, sentences: Iterable[Sequence[int]], order: int, vocabulary: int):
        require(order >= 1, "order", order, "almeno 1")
        require(vocabulary >= 1, "vocabulary", vocabulary, "almeno 1")
        self.order, self.vocabulary = order, vocabulary
        counts: Level = defaultdict(Counter)
        for sentence in sentences:
            line = (*[START] * (order - 1), *sentence, END)
            for end in range(order - 1, len(line)):
                counts[line[end - order + 1 : end]][line[end]] += 1
        self.levels = [counts]
        while len(self.levels) < order:
            self.levels.append(continuations(self.levels[-1]))
        self.discounts = [discount(level) for level in self.levels]

    def probability(self, context: Sequence[int], token: int) -> float:
        """La probabilità di un token dopo un contesto, di cui contano gli ultimi n − 1."""
        line = (*[START] * (self.order - 1), *context)
        last = line[len(line) - self.order + 1 :]
        found = 1 / self.vocabulary
        for level in range(self.order - 1, -1, -1):
            counts = self.levels[level].get(last[level:])
            if counts:
                taken = self.discounts[level]
                kept = max(counts[token] - taken, 0.0)
                found = (kept + taken * len(counts) * found) / counts.total()
        return found

    def bits(self, sentences: Sequence[Sequence[int]]) -> list[list[float]]:
        """Come `DecoderOnly.bits`."""
        return [
            [-math.log2(self.probability(it[:end], token)) for end, token in enumerate((*it, END))]
            for it in sentences
        ]


def continuations(level: Level) -> Level:
    """Il livello sotto: di un token dopo un contesto si contano le parole diverse che precedono.

    È l'idea di Kneser e Ney: chi compare in molti contesti è una buona scommessa in uno nuovo; chi
    è frequente in un contesto solo, no.
    """
    below: Level = defaultdict(Counter)
    for context, counts in level.items():
        for token in counts:
            below[context[1:]][token] += 1
    return below


def discount(level: Level) -> float:
    """Quanto togliere a ogni conto: n₁ / (n₁ + 2 n₂), dagli n-grammi visti una e due volte."""
    seen = Counter(count for counts in level.values() for count in counts.values())
    once, twice = seen[1], seen[2]
    return once / (once + 2 * twice) if once else 0.5


# Le prove: due frasi uguali fino all'ultima parola.


class Contrast(NamedTuple):
    """Due inizi di frase che differiscono nell'ultima parola: una va bene, l'altra no.

    Argomenti:
        kind: di quale prova fa parte.
        right, wrong: i due inizi.
    """

    kind: str
    right: str
    wrong: str


def preferred(
    bits: Callable[[Sequence[Sequence[int]]], list[list[float]]],
    vocabulary: WordVocabulary,
    contrasts: Sequence[Contrast],
) -> list[bool]:
    """Di ogni coppia, vero se l'ultima parola giusta sorprende meno di quella sbagliata.

    Argomenti:
        bits: il metodo `bits` di un modello, o di un n-gramma.
        vocabulary: il vocabolario comune.
        contrasts: le coppie.
    """
    right = bits([vocabulary.encode(it.right) for it in contrasts])
    wrong = bits([vocabulary.encode(it.wrong) for it in contrasts])
    return [one[-2] < other[-2] for one, other in zip(right, wrong, strict=True)]


NONE = "nessuna relativa"
"""Il soggetto da solo."""

NUMBERS = (2, 5)
"""La terza persona, singolare e plurale, nelle coniugazioni della grammatica."""


def agreement_contrasts(seed: int, count: int) -> list[Contrast]:
    """L'accordo fra soggetto e verbo, con in mezzo niente, una relativa, due.

    Metà dei soggetti è singolare. Nella relativa c'è un altro nome: metà delle volte ha lo stesso
    numero del soggetto («concorde»), metà l'altro («discorde»).

    Argomenti:
        seed: il seme.
        count: quante coppie per ogni specie di soggetto; un multiplo di quattro.
    """
    require(count % 4 == 0, "count", count, "un multiplo di quattro")
    dice, verbs = Dice(seed), agreeing_verbs(lexicon())
    found = []
    for kind, build in SUBJECTS.items():
        for i in range(count):
            plural, opposed = i % 2 == 1, i % 4 >= 2
            subject = build(dice, plural, plural != opposed)
            forms = dice.pick(verbs).italian.present
            start = " ".join(split_words(italian_text([*subject.italian(), "."]))[:-1])
            right, wrong = (f"{start} {forms[NUMBERS[it]]}" for it in (plural, not plural))
            found.append(Contrast(kind_of(kind, opposed), right, wrong))
    return found


def kind_of(relative: str, opposed: bool) -> str:
    """Il nome di una prova; senza relativa, nessun altro nome può essere discorde."""
    if relative == NONE:
        return relative
    return f"{relative}, {'discorde' if opposed else 'concorde'}"


def agreeing_verbs(words: Lexicon) -> list[Verb]:
    """I verbi di persona che si dicono con una parola sola."""
    return [verb for verb in words.personal if not verb.italian.reflexive]


def meeting_verbs(words: Lexicon) -> list[Verb]:
    """Quelli che una persona compie su un'altra: «conosce», «invita»."""
    return [
        verb
        for verb in agreeing_verbs(words)
        if len(verb.needs) == 1 and verb.needs[0].direct and verb.needs[0].kinds & {"person"}
    ]


def someone(dice: Dice, plural: bool) -> NounPhrase:
    """Una persona che si può contare, con il suo articolo."""
    people = [
        noun
        for noun in lexicon().nouns
        if "person" in noun.kinds and not noun.kinds & {"kin", "name", "single"}
    ]
    return NounPhrase("der", dice.pick(people), plural)


def alone(dice: Dice, plural: bool, other: bool) -> NounPhrase:
    """«Il medico»: nessun altro."""
    return someone(dice, plural)


def acting(dice: Dice, plural: bool, other: bool) -> NounPhrase:
    """«Il medico che conosce le maestre»: il numero è anche nel verbo della relativa."""
    return who_acts(dice, someone(dice, plural), someone(dice, other))


def acted_on(dice: Dice, plural: bool, other: bool) -> NounPhrase:
    """«Il medico che le maestre conoscono»: il numero è soltanto nel nome lontano."""
    who, verb = someone(dice, plural), dice.pick(meeting_verbs(lexicon()))
    clause = Clause(someone(dice, other), verb, Tense.PRESENT)
    return who._replace(after=relative_object(who, verb.needs[0], clause))


def nested(dice: Dice, plural: bool, other: bool) -> NounPhrase:
    """«Il medico che conosce le maestre che invitano le zie»: nel corpus non capita mai."""
    inner = who_acts(dice, someone(dice, other), someone(dice, other))
    return who_acts(dice, someone(dice, plural), inner)


def who_acts(dice: Dice, who: NounPhrase, other: NounPhrase) -> NounPhrase:
    """Il primo, con una relativa in cui fa qualcosa al secondo."""
    verb = dice.pick(meeting_verbs(lexicon()))
    clause = Clause(who, verb, Tense.PRESENT, roles=((verb.needs[0], other),))
    return who._replace(after=relative_subject(who, clause))


SUBJECTS: dict[str, Callable[[Dice, bool, bool], NounPhrase]] = {
    NONE: alone,
    "che fa": acting,
    "che subisce": acted_on,
    "due relative": nested,
}
"""Le specie di soggetto: quale relativa hanno."""


NOVEL = "incontri nuovi"
"""La prova degli incontri di parole mai visti."""

RIVALS = 3
"""Quanti nomi che non vanno si oppongono a uno che va."""


def novel_contrasts(train: Sequence[str]) -> list[Contrast]:
    """Un verbo con un oggetto che ammette, e con uno che non ammette: mai visti insieme.

    Nessuna frase di `train` contiene una forma del verbo e una dei due nomi: contando le parole
    che stanno insieme non si distinguono. A ogni nome che va bene se ne oppongono tre, con lo
    stesso articolo e la frequenza più vicina che si trovi.

    Argomenti:
        train: le frasi con cui si è addestrato.
    """
    company, counts = companions(train)
    things = [it for it in lexicon().nouns if is_thing(it) and counts[it.italian[0]] > 0]
    articles = {it.italian[0]: article(it) for it in things}
    subjects, found = itertools.cycle(("la maestra", "il medico", "lo studente")), []
    for verb in (it for it in agreeing_verbs(lexicon()) if is_transitive(it)):
        met, classes = set[str]().union(*(company[it] for it in verb_forms(verb))), admitted(verb)
        strangers = [it for it in things if not met & {*it.italian}]
        for noun in (it for it in strangers if it.kinds & classes):
            wanted = articles[noun.italian[0]]
            rivals = [
                it
                for it in strangers
                if not it.kinds & classes and articles[it.italian[0]] == wanted
            ]
            rivals.sort(key=lambda it: unlike(it, noun, counts))
            for rival in rivals[:RIVALS]:
                start = f"{next(subjects)} {verb.italian.present[2]} {wanted}"
                texts = (f"{start} {it.italian[0]}" for it in (noun, rival))
                found.append(Contrast(NOVEL, *texts))
    return found


def companions(train: Sequence[str]) -> tuple[dict[str, set[str]], Counter[str]]:
    """Per ogni parola, quelle che stanno con lei in qualche frase; e quante volte compare."""
    company: defaultdict[str, set[str]] = defaultdict(set)
    counts = Counter[str]()
    for sentence in train:
        words = split_words(sentence)
        counts.update(words)
        for word in words:
            company[word].update(words)
    return company, counts


def is_transitive(verb: Verb) -> bool:
    """Vero se il verbo chiede un complemento oggetto e nient'altro."""
    return len(verb.needs) == 1 and verb.needs[0].direct and "vague" not in verb.marks


def is_thing(noun: Noun) -> bool:
    """Vero per un nome comune che si conta."""
    return not noun.kinds & {"name", "kin", "paired"}


def verb_forms(verb: Verb) -> set[str]:
    """Le forme di un verbo italiano che la grammatica può scrivere."""
    forms, pronouns = verb.italian, ("", *LO, *GLI, "mi", "ti", "ci", "vi")
    joined = (enclitic(forms.infinitive, pronoun) for pronoun in pronouns)
    return {*forms.present, *forms.past, *forms.participle, *joined}


def admitted(verb: Verb) -> frozenset[str]:
    """Le classi di oggetti che il verbo italiano ammette, anche se traduce più verbi tedeschi."""
    same = (it for it in lexicon().full if it.italian.infinitive == verb.italian.infinitive)
    return frozenset().union(*(role.kinds for it in same for role in it.needs if role.direct))


def article(noun: Noun) -> str:
    """L'articolo determinativo singolare che il nome vuole: «il», «lo», «l'», «la»."""
    return split_words(italian_text([IL[agreement(noun.gender, False)], noun.italian[0]]))[0]


def unlike(noun: Noun, other: Noun, counts: Counter[str]) -> float:
    """Quanto due nomi differiscono per frequenza, in scala logaritmica."""
    return abs(math.log(counts[noun.italian[0]] / counts[other.italian[0]]))


# L'addestramento.

CONFIG = TransformerConfig(layers=4, d_model=64, d_ff=256, heads=4, dropout=0.0)
"""Le misure del modello; le voci sono quelle che il corpus ha."""

BUDGET = 2000
"""I token di un passo, padding compreso."""

STEPS = 2400
"""I passi."""

RISING = 800
"""In quanti il tasso di apprendimento sale."""


def next_token_loss(model: DecoderOnly, batch: Batch) -> BatchLoss:
    """L'entropia incrociata di un batch, in nat; di `batch.source` non ci si cura."""
    chosen, _ = model.score(batch.target, batch.expected)
    real = batch.expected != PADDING
    total = -chosen.where(real, 0).sum()
    return BatchLoss(total, total.detach(), real.sum())


def endless_batches(
    sentences: Sequence[Sequence[int]], budget: int, seed: int
) -> Iterator[list[Batch]]:
    """I batch di un giro dopo l'altro, ogni volta in un altro ordine."""
    lengths = np.array([len(sentence) + 1 for sentence in sentences])
    for epoch in itertools.count():
        for rows in token_batches(lengths, lengths, budget, seed, epoch):
            yield [collate([(sentences[i], sentences[i]) for i in rows])]


def training(
    model: DecoderOnly,
    sentences: Sequence[Sequence[int]],
    seed: int,
    steps: int,
    rising: int = RISING,
) -> Iterator[Progress]:
    """Addestra un modello sul posto, un passo per volta.

    Argomenti:
        model: il modello.
        sentences: le frasi in token, senza inizio e senza fine.
        seed: da cui dipende l'ordine dei batch.
        steps: quanti passi.
        rising: in quanti il tasso di apprendimento sale.
    """

    def rate(step: int) -> float:
        return learning_rate(step, model.config.d_model, rising)

    here = Processes(0, 1, torch.device("cpu"))
    trainer = Trainer(model, next_token_loss, make_optimizer(model), rate, here, seed)
    for batches in itertools.islice(endless_batches(sentences, BUDGET, seed), steps):
        yield trainer.run(batches)


# Il giudizio.


class Result(NamedTuple):
    """Un numero misurato.

    Argomenti:
        who: chi si giudica: «modello», o l'ordine dell'n-gramma.
        seed: da quale seme è nato il modello; zero per gli n-grammi, che non ne hanno.
        what: una parte del corpus, o una specie di coppia.
        value: bit per token sulla parte; oppure, delle coppie, la frazione giusta.
    """

    who: str
    seed: int
    what: str
    value: float


class Bench(NamedTuple):
    """Ciò che serve a una prova: le frasi, le parole, le coppie."""

    sentences: Sentences
    vocabulary: WordVocabulary
    contrasts: list[Contrast]


def judged(predictor: DecoderOnly | KneserNey, bench: Bench) -> dict[str, float]:
    """Bit per token su ogni parte di prova, e quante coppie giuste di ogni specie."""
    found, vocabulary = {}, bench.vocabulary
    for part in Sentences._fields[1:]:
        rows = predictor.bits([vocabulary.encode(it) for it in getattr(bench.sentences, part)])
        found[part] = sum(map(sum, rows)) / sum(map(len, rows))
    marks = defaultdict(list)
    right = preferred(predictor.bits, vocabulary, bench.contrasts)
    for contrast, mark in zip(bench.contrasts, right, strict=True):
        marks[contrast.kind].append(mark)
    return found | {kind: sum(it) / len(it) for kind, it in marks.items()}


ORDERS = range(1, 6)
"""Gli ordini degli n-grammi con cui ci si confronta."""

CORPUS_SEED = 2017
"""Il seme delle frasi."""

TRAIN = 100_000
"""Quante frasi per addestrare."""

TEST = 1000
"""Quante in ogni parte di prova."""

PAIRS_SEED = 7
"""Il seme delle coppie."""

PAIRS = 200
"""Quante coppie per ogni specie di soggetto."""

RESULTS = Path(__file__).with_suffix(".csv")
"""I numeri che la pagina mostra."""


UNPREDICTED = (PADDING, START)
"""Le voci che nessuno deve predire."""

MINE = "modello"
"""Il Transformer, fra chi si giudica."""


def make_bench() -> Bench:
    """Le frasi, le parole e le coppie di casa."""
    sentences = italian_sentences(CORPUS_SEED, TRAIN, TEST)
    contrasts = agreement_contrasts(PAIRS_SEED, PAIRS) + novel_contrasts(sentences.train)
    return Bench(sentences, WordVocabulary.of(sentences.train), contrasts)


def counting(bench: Bench) -> Iterator[Result]:
    """Il giudizio degli n-grammi di ogni ordine."""
    vocabulary = bench.vocabulary
    tokens = [vocabulary.encode(it) for it in bench.sentences.train]
    for order in ORDERS:
        counted = KneserNey(tokens, order, len(vocabulary) - len(UNPREDICTED))
        for what, value in judged(counted, bench).items():
            yield Result(f"n = {order}", 0, what, value)


def learning(bench: Bench, folder: Path, seed: int, steps: int) -> Iterator[Result]:
    """Addestra un modello, lo scrive in una cartella con la sua origine, e lo giudica."""
    train, vocabulary = bench.sentences.train, bench.vocabulary
    folder.mkdir(parents=True, exist_ok=True)
    tokens = [vocabulary.encode(it) for it in train]
    torch.manual_seed(seed)
    model = DecoderOnly(dataclasses.replace(CONFIG, vocabulary=len(vocabulary)))
    for _ in recorded(training(model, tokens, seed, steps), folder / CURVE, 0):
        pass
    model.save(folder / MODEL)
    vocabulary.save(folder / WORDS)
    write_origin(folder / ORIGIN, seed, train)
    for what, value in judged(model, bench).items():
        yield Result(MINE, seed, what, value)


def write_origin(path: Path, seed: int, train: Sequence[str]) -> None:
    """Da dove viene il modello: il comando, il seme, l'impronta delle frasi e delle prime mille."""
    origin = {
        "command": "python -m attention.beyond.next_token CARTELLA",
        "seed": seed,
        "corpus": {"train": digest(train), "train[:1000]": digest(train[:1000])},
        "sentences": len(train),
        "tokens": sum(len(split_words(it)) + 1 for it in train),
        "torch": torch.__version__,
    }
    with writing(path) as file:
        file.write(json.dumps(origin, indent=2).encode() + b"\n")


def digest(sentences: Sequence[str]) -> str:
    """Lo SHA-256 di alcune frasi, una per riga."""
    return hashlib.sha256("".join(f"{it}\n" for it in sentences).encode()).hexdigest()


def write_results(results: Sequence[Result], path: Path) -> None:
    """Scrive i numeri, uno per riga."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerows((it.who, it.seed, it.what, f"{it.value:.5f}") for it in results)


def read_results(path: Path = RESULTS) -> list[Result]:
    """I numeri scritti da `write_results`."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Result(who, int(seed), what, float(value))
            for who, seed, what, value in csv.reader(file)
        ]


def values_of(results: Sequence[Result], who: str, what: str) -> list[float]:
    """I valori di una misura, un seme dopo l'altro.

    Solleva:
        ValueError: se non ce n'è nessuno.
    """
    found = [it.value for it in results if (it.who, it.what) == (who, what)]
    require(len(found) > 0, "who, what", f"{who}, {what}", "una misura che c'è")
    return found


ITALIAN = SHIPPED / "italiano"
"""Il modello già addestrato che questa edizione porta con sé."""


def load(folder: Path = ITALIAN) -> tuple[DecoderOnly, WordVocabulary]:
    """Il modello e il vocabolario di una cartella scritta da `learning`."""
    return DecoderOnly.load(folder / MODEL), WordVocabulary.load(folder / WORDS)


SEEDS = (1, 2, 3)
"""I semi dei modelli."""

KEPT = 3
"""Il seme di quello che si conserva, scelto a risultati visti: il migliore dopo «che subisce»."""


def main(arguments: Sequence[str]) -> None:
    """`python -m attention.beyond.next_token CARTELLA`: rifà tutto, una cartella per seme."""
    require(len(arguments) == 1, "CARTELLA", f"{len(arguments)} argomenti", "una cartella")
    folder, bench = Path(arguments[0]), make_bench()
    results = list(counting(bench))
    for seed in SEEDS:
        results += learning(bench, folder / str(seed), seed, STEPS)
    write_results(results, folder / RESULTS.name)


if __name__ == "__main__":
    main(sys.argv[1:])
