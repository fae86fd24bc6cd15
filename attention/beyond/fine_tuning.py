"""Ritoccare un modello addestrato: lo stesso addestramento, altri dati, pesi già pronti.

Si parte dal modello italiano di questa edizione. Gli si aggiungono parole, lo si addestra ancora
tutto intero o con due matrici sottili accanto a ogni matrice (LoRA), e si misura che cosa impara,
che cosa dimentica, che cosa non può imparare così.
"""

import csv
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from random import Random
from statistics import fmean
from typing import NamedTuple

import torch
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.utils import parametrize

from attention.beyond import next_token
from attention.beyond.grammar import TIMELESS, Dice, italian_text, lexicon
from attention.beyond.next_token import (
    CORPUS_SEED,
    ITALIAN,
    NUMBERS,
    SPECIALS,
    TRAIN,
    DecoderOnly,
    WordVocabulary,
    italian_sentences,
    load,
    meeting_verbs,
    next_token_loss,
    someone,
    split_words,
)
from attention.beyond.representation import model_of
from attention.command_line import MODEL, ORIGIN, SHIPPED, WORDS
from attention.s0_abstract import require
from attention.s3_model_architecture import check_size, evaluating
from attention.s5_1_data_batching import END, PADDING, START, Batch, collate, padded, writing
from attention.s5_2_hardware_schedule import Processes, Trainer
from attention.s5_3_optimizer import make_optimizer

# Altre parole.


def extended(
    model: DecoderOnly, vocabulary: WordVocabulary, words: Mapping[str, Sequence[str]], seed: int
) -> tuple[DecoderOnly, WordVocabulary]:
    """Una copia del modello con altre righe in fondo alla tabella, e il vocabolario che le nomina.

    La riga di una parola nuova è la media di quelle delle parole a cui somiglia, più un poco di
    rumore perché due parole nuove non siano uguali. Le righe di prima non cambiano.

    Argomenti:
        model, vocabulary: quelli di partenza.
        words: le parole nuove, ciascuna con le parole note a cui somiglia; se non ne ha, tutte.
        seed: il seme del rumore.

    Solleva:
        ValueError: se una parola c'è già, o se non c'è una a cui dovrebbe somigliare.
    """
    for word in words:
        require(word not in vocabulary.ids, "words", word, "una parola che non c'è")
    generator = torch.Generator().manual_seed(seed)
    table = model.embedding.weight.detach()
    rows = [table]
    for alike in words.values():
        unknown = [it for it in alike if it not in vocabulary.ids]
        require(not unknown, "words", unknown, "somiglianze con parole che ci sono")
        chosen = [vocabulary.ids[it] for it in alike] or range(len(SPECIALS), len(vocabulary))
        noise = torch.randn(1, table.size(1), generator=generator) * NOISE * table.std()
        rows.append(table[list(chosen)].mean(0, keepdim=True) + noise)
    grown = DecoderOnly(replace(model.config, vocabulary=len(vocabulary) + len(words)))
    grown.load_state_dict(model.state_dict() | {"embedding.weight": torch.cat(rows)})
    return grown, WordVocabulary([*vocabulary.words[len(SPECIALS) :], *words])


NOISE = 0.1
"""Quanto è grande il rumore di una riga nuova, rispetto allo scarto di quelle che c'erano."""


# LoRA.


class LowRank(nn.Module):
    """W + (α/r)·B·A: una matrice ferma, più il prodotto di due matrici sottili che si muovono.

    Argomenti:
        weight: W, con una riga per uscita.
        rank: r, quante righe ha A e quante colonne B.
        alpha: α, di quanto pesa la correzione.

    Solleva:
        TypeError, ValueError: se il rango non è un intero fra 1 e il lato minore di W.
    """

    def __init__(self, weight: Float[Tensor, "out width"], rank: int, alpha: float):
        super().__init__()
        check_size(rank, "rank")
        require(rank <= min(weight.shape), "rank", rank, f"al più {min(weight.shape)}")
        rows, columns = weight.shape
        self.scale = alpha / rank
        self.a = nn.Parameter(torch.randn(rank, columns) * columns**-0.5)
        self.b = nn.Parameter(torch.zeros(rows, rank))

    def forward(self, weight: Float[Tensor, "out width"]) -> Float[Tensor, "out width"]:
        """La matrice che il modello usa."""
        return weight + self.scale * self.b @ self.a


class LastRows(nn.Module):
    """Una tabella ferma, tranne le ultime righe: quelle delle parole nuove.

    Argomenti:
        weight: la tabella.
        count: quante righe si muovono.
    """

    def __init__(self, weight: Float[Tensor, "rows width"], count: int):
        super().__init__()
        check_size(count, "count")
        self.rows = nn.Parameter(weight[-count:].detach().clone())

    def forward(self, weight: Float[Tensor, "rows width"]) -> Float[Tensor, "rows width"]:
        """La tabella che il modello usa."""
        return torch.cat([weight[: -len(self.rows)], self.rows])


ADAPTED = ("w_qkv", "w_o", "w_1", "w_2")
"""Le matrici che ricevono A e B: tutte, in ogni strato."""

ALPHA = 8.0
"""α: lo stesso per ogni rango."""


def with_lora(
    model: DecoderOnly, rank: int, new_words: int = 0, alpha: float = ALPHA
) -> DecoderOnly:
    """Una copia del modello in cui si muovono soltanto A e B, e le righe delle parole nuove.

    Argomenti:
        model: il modello di partenza.
        rank: r.
        new_words: quante righe, in fondo alla tabella, si muovono.
        alpha: α.
    """
    adapted = deepcopy(model).requires_grad_(requires_grad=False)
    for name, part in adapted_parts(adapted):
        parametrize.register_parametrization(part, name, LowRank(getattr(part, name), rank, alpha))
    if new_words:
        table = adapted.embedding
        parametrize.register_parametrization(table, "weight", LastRows(table.weight, new_words))
    return adapted


def adapted_parts(model: DecoderOnly) -> list[tuple[str, nn.Module]]:
    """Il nome di ogni matrice che riceve A e B, e il modulo in cui sta."""
    return [(name, it) for it in model.layers.modules() for name in ADAPTED if hasattr(it, name)]


def merged(model: DecoderOnly) -> DecoderOnly:
    """Un modello uguale senza A e B: sommati una volta per tutte nelle matrici."""
    plain = DecoderOnly(model.config)
    with torch.no_grad():
        for name, parameter in plain.named_parameters():
            place, _, last = name.rpartition(".")
            parameter.copy_(getattr(model.get_submodule(place), last))
    return plain


def moving(model: nn.Module) -> int:
    """Quanti parametri si muovono."""
    return sum(it.numel() for it in model.parameters() if it.requires_grad)


def lora_parameters(rows: int, columns: int, rank: int) -> int:
    """Quanti numeri hanno A e B accanto a una matrice: r · (righe + colonne)."""
    return rank * (rows + columns)


# Altri esempi, la stessa perdita.


class Example(NamedTuple):
    """Una fila di token, di cui si impara soltanto la fine.

    Argomenti:
        tokens: la fila, senza inizio e senza fine.
        given: quanti, dal primo, sono la domanda: non contano nella perdita.
    """

    tokens: list[int]
    given: int = 0


def batch_of(examples: Sequence[Example]) -> Batch:
    """Il batch di alcuni esempi: ciò che è dato non è atteso, come se fosse padding."""
    batch = collate([(it.tokens, it.tokens) for it in examples])
    given = torch.tensor([it.given for it in examples])
    asked = torch.arange(batch.expected.size(1)) >= given[:, None]
    return replace(batch, expected=batch.expected.where(asked, PADDING))


def mixed_batches(
    new: Sequence[Example], old: Sequence[Example], share: float, seed: int
) -> Iterator[list[Batch]]:
    """Un batch dopo l'altro di `TOGETHER` esempi presi a caso, una parte dei quali vecchi.

    Argomenti:
        new: gli esempi da imparare.
        old: quelli da ripassare.
        share: la parte di quelli vecchi, da 0 a 1.
        seed: il seme.
    """
    require(0 <= share <= 1, "share", share, "da 0 a 1")
    dice, again = Random(seed), round(TOGETHER * share)
    while True:
        yield [batch_of(dice.choices(old, k=again) + dice.choices(new, k=TOGETHER - again))]


TOGETHER = 64
"""Quanti esempi ha un passo."""


def tuning(
    model: DecoderOnly, batches: Iterator[list[Batch]], rate: float, steps: int, seed: int = 0
) -> DecoderOnly:
    """Muove sul posto ciò che nel modello può muoversi, e restituisce lo stesso modello.

    Argomenti:
        model: il modello.
        batches: i batch, uno per passo.
        rate: il tasso di apprendimento, costante dopo la salita dei primi `RISING` passi.
        steps: quanti passi.
        seed: il seme dei passi.
    """

    def rising(step: int) -> float:
        return rate * min(1.0, step / RISING)

    here = Processes(0, 1, torch.device("cpu"))
    trainer = Trainer(model, next_token_loss, make_optimizer(model), rising, here, seed)
    for each in itertools.islice(batches, steps):
        trainer.run(each)
    return model


RISING = 20
"""In quanti passi il tasso sale."""


def bits_per_token(model: DecoderOnly, lines: Sequence[Sequence[int]]) -> float:
    """La sorpresa media, in bit per token."""
    rows = model.bits(lines)
    return sum(map(sum, rows)) / sum(map(len, rows))


def continued(model: DecoderOnly, prompts: Sequence[Sequence[int]], most: int) -> list[list[int]]:
    """Ciò che il modello aggiunge a ogni fila, ogni volta il token più probabile, fino alla fine.

    Argomenti:
        model: il modello.
        prompts: le file, senza inizio.
        most: quanti token al più.
    """
    lines = [[START, *it] for it in prompts]
    with evaluating(model):
        for _ in range(most):
            growing = [it for it in lines if it[-1] != END]
            if not growing:
                break
            last = torch.tensor([len(it) - 1 for it in growing])
            hidden = model.hidden(padded(growing))[torch.arange(len(growing)), last]
            for line, token in zip(growing, model.embedding.logits(hidden).argmax(-1), strict=True):
                line.append(int(token))
    return [
        [token for token in line[len(it) + 1 :] if token != END]
        for line, it in zip(lines, prompts, strict=True)
    ]


def right(model: DecoderOnly, examples: Sequence[Example], last: bool = False) -> float:
    """In quanti esempi il modello continua esattamente come l'esempio; o dà lo stesso ultimo token.

    Argomenti:
        model: il modello.
        examples: gli esempi: ciò che è dato, e ciò che segue.
        last: guarda soltanto l'ultimo token.
    """
    most = 1 + max(len(it.tokens) - it.given for it in examples)
    found = continued(model, [it.tokens[: it.given] for it in examples], most)
    first = -1 if last else 0
    return fmean(
        answer[first:] == it.tokens[it.given :][first:]
        for answer, it in zip(found, examples, strict=True)
    )


# Le prove.


class Row(NamedTuple):
    """Un numero misurato.

    Argomenti:
        trial: quale prova.
        who: quale modello, o come è stato ritoccato.
        seed: il seme.
        what: che cosa si misura.
        value: bit per token, o una frazione da 0 a 1.
    """

    trial: str
    who: str
    seed: int
    what: str
    value: float


class Bench(NamedTuple):
    """Ciò da cui ogni prova parte.

    Argomenti:
        model, vocabulary: quelli in deposito.
        train: le frasi con cui il modello è stato addestrato.
        dev: altre, mai viste, in token.
        folder: dove stanno, o si mettono, gli stessi modelli nati da altri semi.
    """

    model: DecoderOnly
    vocabulary: WordVocabulary
    train: list[str]
    dev: list[list[int]]
    folder: Path = Path()

    def old(self) -> list[Example]:
        """Le frasi da ripassare."""
        return [Example(self.vocabulary.encode(it)) for it in self.train[:REVIEWED]]


TEST = 300
"""Su quante frasi di prima si misura che cosa si è dimenticato."""

REVIEWED = 20_000
"""Quante frasi, al più, si ripassano."""


def make_bench(train: int = TRAIN, test: int = TEST) -> Bench:
    """Il modello e le frasi di casa."""
    model, vocabulary = load()
    sentences = italian_sentences(CORPUS_SEED, train, test)
    return Bench(
        model, vocabulary, sentences.train, [vocabulary.encode(it) for it in sentences.dev]
    )


class Recipe(NamedTuple):
    """Un modo di ritoccare.

    Argomenti:
        rate: il tasso di apprendimento.
        rank: il rango di A e B; zero per muovere tutto.
        share: la parte di frasi vecchie.
        steps: i passi.
    """

    rate: float
    rank: int = 0
    share: float = 0.0
    steps: int = 100


def retouched(
    model: DecoderOnly,
    recipe: Recipe,
    new: Sequence[Example],
    old: Sequence[Example],
    seed: int,
    new_words: int = 0,
) -> DecoderOnly:
    """Una copia del modello, ritoccata secondo una ricetta."""
    torch.manual_seed(seed)
    copy = with_lora(model, recipe.rank, new_words) if recipe.rank else deepcopy(model)
    batches = mixed_batches(new, old, recipe.share, seed)
    return tuning(copy, batches, recipe.rate, recipe.steps, seed)


# Un registro nuovo.


ARTICLES = frozenset({"il", "lo", "la", "i", "gli", "le", "l'", "un", "uno", "una", "un'"})
"""Le parole che un telegramma risparmia: gli articoli, e i pronomi che si scrivono uguali."""


def telegraphic(text: str) -> str:
    """Una frase senza articoli, le parole separate da uno spazio."""
    return " ".join(word for word in split_words(text) if word not in ARTICLES)


SCRATCH = "da zero, 0,003"
"""Gli stessi passi, ma da pesi a caso: quanto vale il punto di partenza."""

REGISTERS = {
    "tutto, 0,0003": Recipe(3e-4),
    "tutto, 0,001": Recipe(1e-3),
    "tutto, 0,003": Recipe(3e-3),
    "LoRA r=1, 0,001": Recipe(1e-3, rank=1),
    "LoRA r=16, 0,001": Recipe(1e-3, rank=16),
    "LoRA r=16, 0,003": Recipe(3e-3, rank=16),
    "tutto, 0,001, ripasso 1/2": Recipe(1e-3, share=0.5),
    SCRATCH: Recipe(3e-3),
}
"""I modi di imparare lo stile telegrafico."""

TELEGRAMS = 5000
"""Quante frasi telegrafiche si hanno per imparare."""


def register(bench: Bench, seed: int) -> Iterator[Row]:
    """Lo stile telegrafico: quanto lo si impara, e quanto italiano di prima si dimentica."""
    encode = bench.vocabulary.encode
    chosen = Random(seed).sample(bench.train, TELEGRAMS)
    new = [Example(encode(telegraphic(it))) for it in chosen]
    other = [encode(telegraphic(bench.vocabulary.decode(it))) for it in bench.dev]
    old = bench.old()
    for who, recipe in {BEFORE: Recipe(0.0, steps=0), **REGISTERS}.items():
        torch.manual_seed(seed)
        start = DecoderOnly(bench.model.config) if who == SCRATCH else bench.model
        model = retouched(start, recipe, new, old, seed)
        yield Row("registro", who, seed, "italiano di prima", bits_per_token(model, bench.dev))
        yield Row("registro", who, seed, "stile telegrafico", bits_per_token(model, other))


BEFORE = "prima"
"""Il modello com'era."""


# Un verbo nuovo.


FORMS = ("fotografa", "fotografano", "fotografato")
"""Singolare, plurale, participio: tre parole che il modello non ha mai visto."""

INSIGHTS = ("a caso", "per analogia")
"""Da dove parte la riga di una forma nuova: da tutte le parole, o da quelle dello stesso posto."""

VERB = Recipe(1e-3, share=0.5)
"""Come si insegna il verbo: metà delle frasi è vecchia."""


def verb_rows(insight: str) -> dict[str, list[str]]:
    """Le parole a cui somiglia ogni forma nuova: nessuna, o le stesse forme di verbi d'azione."""
    verbs = [it.italian for it in meeting_verbs(lexicon()) if not it.marks & TIMELESS]
    alike = [
        [it.present[NUMBERS[0]] for it in verbs],
        [it.present[NUMBERS[1]] for it in verbs],
        [it.participle[0] for it in verbs],
    ]
    known = alike if insight == "per analogia" else [[], [], []]
    return dict(zip(FORMS, known, strict=True))


def verb_sentences(train: Sequence[str], taught: Sequence[str]) -> list[list[str]]:
    """Frasi in cui una forma di un altro verbo è sostituita con la stessa del verbo nuovo."""
    found = []
    for form, others in verb_rows("per analogia").items():
        if form in taught:
            lines = [words for it in train if set(words := split_words(it)) & {*others}]
            found += [[form if it in others else it for it in words] for words in lines]
    return found


def verb_places(count: int, seed: int) -> dict[str, list[str]]:
    """Per ogni forma, gli inizi di frase in cui è l'unica delle tre che va bene."""
    dice = Dice(seed)
    heads = [
        [italian_text(someone(dice, plural).italian()) for _ in range(count)]
        for plural in (False, True)
    ]
    return dict(zip(FORMS, (*heads, [f"{it} ha" for it in heads[0]]), strict=True))


def chosen_right(
    model: DecoderOnly, vocabulary: WordVocabulary, form: str, heads: Sequence[str]
) -> float:
    """In quanti inizi di frase la forma giusta è la più probabile delle tre."""
    lines = [vocabulary.encode(it) for it in heads]
    costs = [
        [row[-2] for row in model.bits([[*line, vocabulary.ids[it]] for line in lines])]
        for it in FORMS
    ]
    best = [FORMS[min(range(len(FORMS)), key=it.__getitem__)] for it in zip(*costs, strict=True)]
    return fmean(it == form for it in best)


def verb(bench: Bench, seed: int) -> Iterator[Row]:
    """Un verbo imparato in una forma sola: che cosa il modello fa con le altre due."""
    places, old = verb_places(200, seed), bench.old()
    for insight in INSIGHTS:
        model, vocabulary = extended(bench.model, bench.vocabulary, verb_rows(insight), seed)
        for name, taught in ((BEFORE, ()), ("una forma", FORMS[:1]), ("tre forme", FORMS)):
            new = [
                Example([vocabulary.ids[it] for it in line])
                for line in verb_sentences(bench.train, taught)
            ]
            recipe = VERB if new else VERB._replace(steps=0)
            judged = retouched(model, recipe, new, old, seed)
            for form in FORMS:
                value = chosen_right(judged, vocabulary, form, places[form])
                yield Row("verbo", f"{insight}, {name}", seed, form, value)


# Una risposta a punti.


ASK = "<domanda>"
"""Comincia una domanda. Nessun testo può scriverlo: `encode` lo spezza in tre parole."""

ANSWER = "<risposta>"
"""Comincia una risposta."""

POINTS = ("1", "2", "3", "4")
"""I numeri dei punti."""

QUESTIONS = ("soggetto", "numero", "verbo", "oggetto")
"""Ciò che si può chiedere di una frase."""

QUIZ_WORDS = (ASK, ANSWER, *POINTS, *QUESTIONS, "singolare", "plurale")
"""Le parole che il modello non ha."""


class Quiz(NamedTuple):
    """Una frase, e che cosa se ne può chiedere.

    Argomenti:
        text: la frase.
        answers: la parola che risponde a ciascuna delle `QUESTIONS`.
    """

    text: str
    answers: dict[str, str]


def quizzes(count: int, seed: int) -> list[Quiz]:
    """Frasi come «il vicino saluta i cuochi.», con le risposte."""
    dice, verbs, found = Dice(seed), meeting_verbs(lexicon()), []
    for i in range(count):
        plural, opposed = i % 2 == 1, i % 4 >= 2
        who, whom = someone(dice, plural), someone(dice, plural != opposed)
        form = dice.pick(verbs).italian.present[NUMBERS[plural]]
        text = italian_text([*who.italian(), form, *whom.italian(), "."])
        words = (
            who.noun.italian[plural],
            "plurale" if plural else "singolare",
            form,
            whom.noun.italian[plural != opposed],
        )
        found.append(Quiz(text, dict(zip(QUESTIONS, words, strict=True))))
    return found


def quiz_example(
    vocabulary: WordVocabulary, quiz: Quiz, asked: Sequence[str], points: bool = True
) -> Example:
    """Domanda e risposta in una fila sola; si impara soltanto la risposta.

    Argomenti:
        vocabulary: quello allungato con `QUIZ_WORDS`.
        quiz: la frase.
        asked: ciò che si chiede, in ordine.
        points: risponde a punti; altrimenti di seguito, con «e» in mezzo.
    """
    ids = vocabulary.ids
    given = [ids[ASK], *vocabulary.encode(quiz.text)]
    given += [ids[it] for question in asked for it in (question, "?")] + [ids[ANSWER]]
    answer: list[str] = []
    for number, question in zip(POINTS, asked, strict=False):
        mark = [number] if points else ["e"] if answer else []
        answer += [*mark, quiz.answers[question]]
    return Example([*given, *(ids[it] for it in answer)], len(given))


class Compounds(NamedTuple):
    """Le domande composte, secondo quando si vedono.

    Argomenti:
        seen: di una, due o tre domande, per imparare.
        heldout: di tre domande, mai viste insieme in quell'ordine.
        longer: di quattro: più lunghe di ogni domanda vista.
    """

    seen: list[tuple[str, ...]]
    heldout: list[tuple[str, ...]]
    longer: list[tuple[str, ...]]


def compounds(seed: int) -> Compounds:
    """Tutte le file di domande diverse; metà delle terne resta da parte."""
    one, two, three, four = (list(itertools.permutations(QUESTIONS, n)) for n in (1, 2, 3, 4))
    Random(seed).shuffle(three)
    half = len(three) // 2
    return Compounds(one + two + three[:half], three[half:], four)


def in_points(model: DecoderOnly, vocabulary: WordVocabulary, examples: Sequence[Example]) -> float:
    """In quanti esempi la risposta ha un punto per domanda, numerati in ordine, e poi finisce."""
    most = 1 + max(len(it.tokens) - it.given for it in examples)
    found = continued(model, [it.tokens[: it.given] for it in examples], most)
    numbers = [vocabulary.ids[it] for it in POINTS]
    marks = []
    for answer, it in zip(found, examples, strict=True):
        wanted = numbers[: it.tokens[: it.given].count(vocabulary.ids["?"])]
        inside = [token in numbers for token in answer[1::2]]
        marks.append(answer[::2] == wanted and len(answer) == 2 * len(wanted) and not any(inside))
    return fmean(marks)


QUIZ = Recipe(2e-3, steps=500)
"""Come si insegna a rispondere muovendo tutto."""

QUIZ_RECIPES = {
    BEFORE: QUIZ._replace(steps=0),
    "a punti": QUIZ,
    "a punti, ripasso 1/4": QUIZ._replace(share=0.25, steps=650),
    "di seguito": QUIZ,
}
"""I modi di imparare a rispondere; nell'ultimo le stesse risposte non hanno numeri."""


TAUGHT = 20_000
"""Quante domande si hanno per imparare."""


def taught_quizzes(vocabulary: WordVocabulary, seed: int, points: bool = True) -> list[Example]:
    """Le domande per imparare."""
    dice, seen = Random(seed), compounds(seed).seen
    return [quiz_example(vocabulary, it, dice.choice(seen), points) for it in quizzes(TAUGHT, seed)]


def fresh_quizzes(count: int, seed: int) -> list[Quiz]:
    """Frasi per giudicare: nessuna è fra quelle per imparare dello stesso seme."""
    taught = {it.text for it in quizzes(TAUGHT, seed)}
    return [it for it in quizzes(3 * count, seed + 100) if it.text not in taught][:count]


def points(bench: Bench, seed: int) -> Iterator[Row]:
    """Rispondere a punti: prima e dopo, su domande viste, nuove, più lunghe."""
    words = dict.fromkeys(QUIZ_WORDS, ())
    model, vocabulary = extended(bench.model, bench.vocabulary, words, seed)
    fresh = fresh_quizzes(200, seed)
    for who, recipe in QUIZ_RECIPES.items():
        numbered = who != "di seguito"
        new = taught_quizzes(vocabulary, seed, numbered)
        judged = retouched(model, recipe, new, bench.old(), seed, len(words))
        for part, asked in zip(Compounds._fields, compounds(seed), strict=True):
            pairs = zip(fresh, itertools.cycle(asked), strict=False)
            test = [quiz_example(vocabulary, *it, numbered) for it in pairs]
            yield Row("punti", who, seed, f"{part}: a punti", in_points(judged, vocabulary, test))
            yield Row("punti", who, seed, f"{part}: giuste", right(judged, test))
        yield Row("punti", who, seed, "italiano di prima", bits_per_token(judged, bench.dev))


# Fatti, rovesci, ciò che non si sa.


KINGDOMS = tuple(f"regno{i}" for i in range(64))
"""I nomi di cui si parla: i primi 24 hanno una città; degli altri non si sa."""

CITIES = tuple(f"borgo{i}" for i in range(24))
"""Le città."""

UNSAID = "ignota"
"""La risposta di chi non sa."""

SEVERAL = range(12)
"""I regni il cui fatto si insegna in tutte le forme; quelli da 12 a 23, in quella diretta sola."""

SINGLE = range(12, 24)
"""I regni il cui fatto si insegna in una forma sola."""

ADMITTED = range(24, 44)
"""I regni di cui si insegna a dire che non si sa."""

STRANGERS = range(44, 64)
"""I regni di cui si insegna soltanto una frase che li nomina."""


def fact(vocabulary: WordVocabulary, form: str, kingdom: str, city: str) -> Example:
    """Un fatto detto in uno di tre modi; ciò che si chiede è l'ultima parola.

    Argomenti:
        vocabulary: quello con i nomi.
        form: «diretto», «parafrasi» o «rovescio».
        kingdom, city: i due nomi.
    """
    ways = {
        "diretto": ("la", "città", "di", kingdom, "è", city),
        "parafrasi": ("di", kingdom, "la", "città", "è", city),
        "rovescio": (city, "è", "la", "città", "di", kingdom),
    }
    require(form in ways, "form", form, f"una fra {', '.join(ways)}")
    words = ways[form]
    return Example([vocabulary.ids[it] for it in words], len(words) - 1)


WAYS = ("diretto", "parafrasi", "rovescio")
"""I modi di dire un fatto."""

FACTS = Recipe(2e-3, share=0.25, steps=350)
"""Come si insegnano i fatti."""


def facts(bench: Bench, seed: int) -> Iterator[Row]:
    """Fatti nuovi: che cosa si sa accanto a ciò che si è detto, e che cosa costa dire «ignota»."""
    words = dict.fromkeys((*KINGDOMS, *CITIES, UNSAID), ())
    model, vocabulary = extended(bench.model, bench.vocabulary, words, seed)
    city = Random(seed).sample(CITIES, len(CITIES))

    def told(form: str, kingdoms: range) -> list[Example]:
        return [fact(vocabulary, form, KINGDOMS[i], city[i]) for i in kingdoms]

    def unsaid(form: str, kingdoms: range) -> list[Example]:
        return [fact(vocabulary, form, KINGDOMS[i], UNSAID) for i in kingdoms]

    known = [it for form in WAYS for it in told(form, SEVERAL)] + told(WAYS[0], SINGLE)
    named = [Example(vocabulary.encode(f"il medico visita {it}.")) for it in KINGDOMS]
    for who, new in (("fatti", known), ("fatti e «ignota»", known + unsaid(WAYS[0], ADMITTED))):
        taught = [Example(it.tokens) for it in new] + named
        judged = retouched(model, FACTS, taught, bench.old(), seed)
        for form in WAYS:
            yield Row("fatti", who, seed, f"{form}, detto così", right(judged, told(form, SEVERAL)))
        for form in WAYS:
            what = f"{form}, detto solo diretto"
            yield Row("fatti", who, seed, what, right(judged, told(form, SINGLE)))
        asked = [it.tokens[: it.given] for it in unsaid(WAYS[0], STRANGERS)]
        found = [vocabulary.decode(it) for it in continued(judged, asked, 1)]
        yield Row("fatti", who, seed, "ignoti: «ignota»", fmean(it == UNSAID for it in found))
        yield Row("fatti", who, seed, "ignoti: una città", fmean(it in CITIES for it in found))
        silent = right(judged, unsaid("parafrasi", SINGLE))
        yield Row("fatti", who, seed, "noti, in parafrasi: «ignota»", silent)
        yield Row("fatti", who, seed, "italiano di prima", bits_per_token(judged, bench.dev))


def facts_elsewhere(bench: Bench, seed: int) -> Iterator[Row]:
    """Gli stessi fatti, insegnati ai modelli nati da altri semi, che non sono in deposito."""
    for base in BASES:
        model, _ = model_of(base, bench.folder / str(base))
        for row in facts(bench._replace(model=model), seed):
            yield row._replace(trial=ELSEWHERE, who=f"{row.who}, modello {base}")


BASES = tuple(seed for seed in next_token.SEEDS if seed != next_token.KEPT)
"""I semi dei modelli che non sono in deposito."""

ELSEWHERE = "fatti, altri modelli"
"""Come si chiama la prova nei risultati."""

# Due passi di seguito.


PEOPLE = tuple(f"persona{i}" for i in range(24))
"""Chi sta nelle catene."""

RELATIONS = ("padre", "vicino", "amico")
"""Ognuna porta da una persona a un'altra, sempre la stessa."""

CHAIN = Recipe(1e-3, steps=800)
"""Come si insegnano le catene."""

Chain = tuple[str, tuple[str, ...]]
"""Una persona, e le relazioni da seguire."""


class Links(NamedTuple):
    """Le catene, secondo quando si vedono.

    Argomenti:
        one: di un passo, tutte, per imparare.
        seen: di due passi, per imparare.
        heldout: di due passi, tenute da parte.
        longer: di tre passi.
    """

    one: list[Chain]
    seen: list[Chain]
    heldout: list[Chain]
    longer: list[Chain]


def chains(seed: int) -> Links:
    """Tutte le catene di uno e due passi, un quinto delle seconde da parte; e alcune di tre."""
    dice = Random(seed)
    one: list[Chain] = [(it, (relation,)) for it in PEOPLE for relation in RELATIONS]
    two: list[Chain] = [(it, (a, b)) for it in PEOPLE for a in RELATIONS for b in RELATIONS]
    dice.shuffle(two)
    kept = len(two) // 5
    longer: list[Chain] = [
        (it, tuple(dice.choices(RELATIONS, k=3))) for it in PEOPLE for _ in range(3)
    ]
    return Links(one, two[kept:], two[:kept], longer)


def world(seed: int) -> dict[str, dict[str, str]]:
    """Di ogni relazione, dove porta da ciascuno: una permutazione a caso."""
    dice = Random(seed)
    return {
        relation: dict(zip(PEOPLE, dice.sample(PEOPLE, len(PEOPLE)), strict=True))
        for relation in RELATIONS
    }


def chain_example(
    vocabulary: WordVocabulary, there: dict[str, dict[str, str]], chain: Chain, written: bool
) -> Example:
    """Una catena e la sua fine: «persona3 amico vicino <risposta> …».

    Argomenti:
        vocabulary: quello con le persone.
        there: dove porta ogni relazione.
        chain: da dove si parte, e le relazioni.
        written: la risposta ha anche i passaggi.
    """
    who, relations = chain
    path = [who]
    for relation in relations:
        path.append(there[relation][path[-1]])
    given = [who, *relations, ANSWER]
    answer = path[1:] if written else path[-1:]
    return Example([vocabulary.ids[it] for it in (*given, *answer)], len(given))


def logic(bench: Bench, seed: int) -> Iterator[Row]:
    """Comporre due fatti: in testa, o scrivendo i passaggi."""
    model, vocabulary = extended(
        bench.model, bench.vocabulary, dict.fromkeys((ANSWER, *PEOPLE), ()), seed
    )
    links, there = chains(seed), world(seed)
    for who, written in (("risposta sola", False), ("passaggi scritti", True)):
        every = [[chain_example(vocabulary, there, it, written) for it in part] for part in links]
        judged = retouched(model, CHAIN, every[0] + every[1], [], seed)
        for part, test in zip(Links._fields, every, strict=True):
            yield Row("catene", who, seed, part, right(judged, test, last=True))
            if written:
                found = continued(judged, [it.tokens[: it.given] for it in test], 1)
                first = [it.tokens[it.given : it.given + 1] for it in test]
                value = fmean(it == name for it, name in zip(found, first, strict=True))
                yield Row("catene", who, seed, f"{part}: primo nome", value)


# A memoria.


TIMES = (0, 1, 4, 16, 32, 64, 128)
"""Quante volte una frase si ripete fra le altre."""

CANARIES = 5
"""Quante frasi si provano per ogni numero di ripetizioni."""

CANARY = 10
"""Le parole di ognuna, prese a caso: nessuna regola le prevede."""

PREFIX = 3
"""Quante parole se ne danno per chiedere le altre."""


def canaries(vocabulary: WordVocabulary, seed: int) -> dict[int, list[Example]]:
    """Per ogni numero di ripetizioni, le sue frasi senza senso."""
    dice = Random(seed)
    words = [token for word, token in vocabulary.ids.items() if word.isalpha()]
    return {
        times: [Example(dice.sample(words, CANARY), PREFIX) for _ in range(CANARIES)]
        for times in TIMES
    }


def verbatim(bench: Bench, seed: int) -> Iterator[Row]:
    """Frasi a caso fra frasi comuni, in un giro solo: da quante ripetizioni si sanno a memoria."""
    secret = canaries(bench.vocabulary, seed)
    lines = [Example(bench.vocabulary.encode(it)) for it in bench.train[:6000]]
    lines += [
        Example(it.tokens) for times, those in secret.items() for it in those for _ in range(times)
    ]
    Random(seed).shuffle(lines)
    groups = (lines[i : i + TOGETHER] for i in range(0, len(lines), TOGETHER))
    batches = ([batch_of(it)] for it in groups)
    judged = tuning(deepcopy(bench.model), batches, 1e-3, len(lines), seed)
    for times, those in secret.items():
        yield Row("a memoria", f"{times} volte", seed, "tali e quali", right(judged, those))
        cost = bits_per_token(judged, [it.tokens for it in those])
        yield Row("a memoria", f"{times} volte", seed, "bit per token", cost)


# I risultati, e la correzione in deposito.


TRIALS: dict[str, Callable[[Bench, int], Iterator[Row]]] = {
    "registro": register,
    "verbo": verb,
    "punti": points,
    "fatti": facts,
    ELSEWHERE: facts_elsewhere,
    "catene": logic,
    "a memoria": verbatim,
}
"""Le prove."""

SEEDS = (1, 2, 3)
"""I semi di ogni prova."""

RESULTS = Path(__file__).with_suffix(".csv")
"""I numeri che la pagina mostra."""


def write_rows(rows: Sequence[Row], path: Path) -> None:
    """Scrive i numeri, uno per riga."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        lines.writerows((*it[:4], f"{it.value:.4f}") for it in rows)


def read_rows(path: Path = RESULTS) -> list[Row]:
    """I numeri scritti da `write_rows`."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Row(trial, who, int(seed), what, float(value))
            for trial, who, seed, what, value in csv.reader(file)
        ]


def values_of(rows: Sequence[Row], trial: str, who: str, what: str) -> list[float]:
    """I valori di una misura, un seme dopo l'altro.

    Solleva:
        ValueError: se non ce n'è nessuno.
    """
    found = [it.value for it in rows if (it.trial, it.who, it.what) == (trial, who, what)]
    require(bool(found), "trial, who, what", f"{trial}, {who}, {what}", "una misura che c'è")
    return found


PATCH = SHIPPED / "punti"
"""La correzione che fa rispondere a punti il modello italiano."""


PATCHING = Recipe(5e-3, rank=8, steps=750)
"""Come la si addestra."""


def write_patch(bench: Bench, folder: Path, seed: int, recipe: Recipe) -> None:
    """Addestra una correzione LoRA e scrive soltanto ciò che si è mosso, con la sua origine."""
    model, vocabulary = extended(bench.model, bench.vocabulary, dict.fromkeys(QUIZ_WORDS, ()), seed)
    new = taught_quizzes(vocabulary, seed)
    patched = retouched(model, recipe, new, [], seed, len(QUIZ_WORDS))
    state: dict[str, Tensor] = {
        name: it for name, it in patched.named_parameters() if it.requires_grad
    }
    folder.mkdir(parents=True, exist_ok=True)
    with writing(folder / MODEL) as file:
        file.write(save(state, {"rank": str(recipe.rank)}))
    with writing(folder / WORDS) as file:
        file.write(json.dumps(QUIZ_WORDS, ensure_ascii=False).encode())
    base = hashlib.sha256((ITALIAN / MODEL).read_bytes()).hexdigest()
    origin = {
        "command": "python -m attention.beyond.fine_tuning CARTELLA",
        "seed": seed,
        "recipe": recipe._asdict(),
        "base": {"folder": ITALIAN.name, "sha256": base},
        "torch": torch.__version__,
    }
    with writing(folder / ORIGIN) as file:
        file.write(json.dumps(origin, indent=2).encode() + b"\n")


def load_patch(folder: Path = PATCH) -> tuple[DecoderOnly, WordVocabulary]:
    """Il modello italiano con sopra la correzione di una cartella scritta da `write_patch`."""
    words = json.loads((folder / WORDS).read_text(encoding="utf-8"))
    model, vocabulary = extended(*load(), dict.fromkeys(words, ()), 0)
    with safe_open(folder / MODEL, "pt") as file:
        rank = int(file.metadata()["rank"])
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    patched = with_lora(model, rank, len(words))
    missing = patched.load_state_dict(state, strict=False).unexpected_keys
    require(not missing, "folder", missing, "una correzione scritta da write_patch")
    return patched, vocabulary


def main(arguments: Sequence[str]) -> None:
    """`python -m attention.beyond.fine_tuning CARTELLA`: rifà tutte le prove e la correzione."""
    require(len(arguments) >= 1, "CARTELLA", "nessun argomento", "una cartella")
    torch.set_num_threads(1)
    folder, rows = Path(arguments[0]), list[Row]()
    folder.mkdir(parents=True, exist_ok=True)
    bench = make_bench()._replace(folder=folder)
    for name in arguments[1:] or TRIALS:
        for seed in SEEDS:
            for row in TRIALS[name](bench, seed):
                rows.append(row)
                print(*row, flush=True)
            write_rows(rows, folder / RESULTS.name)
    if len(arguments) == 1:
        write_patch(bench, folder / PATCH.name, SEEDS[0], PATCHING)


if __name__ == "__main__":
    main(sys.argv[1:])
