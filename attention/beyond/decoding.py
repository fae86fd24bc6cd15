"""Scegliere il token seguente: dai punteggi a una parola, dalle parole a un testo, e i suoi guai.

Il modello dà un punteggio a ogni voce del vocabolario. Qui c'è chi ne sceglie una: l'argmax, la
temperatura, i tagli, la penalità. Poi si misura che cosa ne viene: i cicli, l'entropia, il
falso imparato dal corpus, ciò che si dimentica e ciò che si confonde.
"""

import csv
import dataclasses
import functools
import itertools
import math
import sys
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import NamedTuple, TypeVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attention.beyond.grammar import (
    IL,
    PREPOSITIONS,
    UN,
    Dice,
    agreement,
    italian_text,
    lexicon,
)
from attention.beyond.next_token import (
    BUDGET,
    CORPUS_SEED,
    TRAIN,
    UNPREDICTED,
    DecoderOnly,
    WordVocabulary,
    endless_batches,
    italian_sentences,
    load,
    next_token_loss,
    split_words,
    verb_forms,
)
from attention.s0_abstract import require
from attention.s3_model_architecture import TransformerConfig, evaluating
from attention.s5_1_data_batching import END, START, padded
from attention.s5_2_hardware_schedule import Processes, Progress, Trainer
from attention.s5_3_optimizer import make_optimizer

# Dai punteggi a un token.


def greedy(logits: Float[Tensor, "*batch vocabulary"]) -> Int[Tensor, "*batch"]:
    """Il token con il punteggio più alto."""
    return logits.argmax(-1)


def probabilities(
    logits: Float[Tensor, "*batch vocabulary"], temperature: float = 1.0
) -> Float[Tensor, "*batch vocabulary"]:
    """La softmax dei punteggi divisi per la temperatura.

    Argomenti:
        logits: i punteggi; chi ha −∞ è escluso.
        temperature: 1 lascia le probabilità del modello; 0 vuol dire l'argmax, che è il limite.

    Solleva:
        ValueError: se la temperatura è negativa.
    """
    require(temperature >= 0, "temperature", temperature, "almeno 0")
    if temperature == 0:
        best = greedy(logits).unsqueeze(-1)
        return torch.zeros_like(logits).scatter(-1, best, 1.0)
    below = logits - logits.amax(-1, keepdim=True)
    return (below / temperature).softmax(-1)


def entropy(chances: Float[Tensor, "*batch vocabulary"]) -> Float[Tensor, "*batch"]:
    """L'entropia di una distribuzione, in bit: la sorpresa media di chi estrae da lei."""
    return -torch.special.xlogy(chances, chances).sum(-1) / math.log(2)


def top_k(logits: Float[Tensor, "*batch vocabulary"], k: int) -> Float[Tensor, "*batch vocabulary"]:
    """I k punteggi più alti; gli altri diventano −∞.

    Solleva:
        ValueError: se `k` non è fra 1 e il numero delle voci.
    """
    require(1 <= k <= logits.size(-1), "k", k, f"da 1 a {logits.size(-1)}")
    best = logits.topk(k, -1)
    return torch.full_like(logits, -math.inf).scatter(-1, best.indices, best.values)


def top_p(
    logits: Float[Tensor, "*batch vocabulary"], p: float
) -> Float[Tensor, "*batch vocabulary"]:
    """Il nucleo: le voci più probabili, quante bastano a raggiungere p; le altre diventano −∞.

    Solleva:
        ValueError: se `p` non è maggiore di 0 e al più 1.
    """
    require(0 < p <= 1, "p", p, "maggiore di 0, al più 1")
    best = logits.sort(stable=True, descending=True)
    chances = best.values.double().softmax(-1)
    before = chances.cumsum(-1) - chances
    kept = best.values.masked_fill(before >= p, -math.inf)
    return torch.full_like(logits, -math.inf).scatter(-1, best.indices, kept)


def penalized(
    logits: Float[Tensor, " vocabulary"], past: Sequence[int], penalty: float
) -> Float[Tensor, " vocabulary"]:
    """I punteggi, abbassati per i token già scritti: i positivi divisi, i negativi moltiplicati.

    Argomenti:
        logits: i punteggi.
        past: i token già scritti.
        penalty: 1 non cambia nulla.

    Solleva:
        ValueError: se `penalty` è minore di 1.
    """
    require(penalty >= 1, "penalty", penalty, "almeno 1")
    seen = torch.zeros_like(logits, dtype=torch.bool)
    seen[list(past)] = True
    lower = torch.where(logits > 0, logits / penalty, logits * penalty)
    return torch.where(seen, lower, logits)


def drawn(
    chances: Float[Tensor, "*batch vocabulary"], dice: Float[Tensor, "*batch"]
) -> Int[Tensor, "*batch"]:
    """Il token su cui cade il dado: il primo che porta la somma oltre il numero uscito.

    Argomenti:
        chances: le probabilità.
        dice: numeri fra 0 compreso e 1 escluso, in doppia precisione.
    """
    ladder = chances.double().cumsum(-1)
    mark = dice.unsqueeze(-1) * ladder[..., -1:]
    return torch.searchsorted(ladder, mark, right=True).squeeze(-1)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Una regola di scelta: penalità, temperatura, tagli, in quest'ordine.

    Argomenti:
        temperature: la temperatura; 0 sceglie sempre il più probabile.
        k: quante voci si tengono; None, tutte.
        p: quanta probabilità deve avere il nucleo.
        penalty: la penalità di chi è già stato scritto.
    """

    temperature: float = 1.0
    k: int | None = None
    p: float = 1.0
    penalty: float = 1.0

    def chances(
        self, logits: Float[Tensor, " vocabulary"], past: Sequence[int] = ()
    ) -> Float[Tensor, " vocabulary"]:
        """Le probabilità da cui si estrae, dati i punteggi e i token già scritti."""
        logits = penalized(logits, past, self.penalty)
        if self.temperature == 0:
            return probabilities(logits, 0.0)
        logits = logits / self.temperature
        if self.k is not None:
            logits = top_k(logits, self.k)
        return probabilities(top_p(logits, self.p))


GREEDY = Rule(temperature=0.0)
"""L'argmax a ogni passo."""


# Dai token a un testo.

Model = Callable[[Tensor], Tensor]
"""Chi dà i punteggi del token seguente a ogni posizione di una fila di token."""


class Written(NamedTuple):
    """Un testo, e quanto il modello esitava prima di ogni token.

    Attributi:
        tokens: i token scritti, senza l'inizio dato.
        bits: prima di ciascuno, l'entropia delle probabilità del modello, prima della regola.
    """

    tokens: list[int]
    bits: list[float]


NEVER = (*UNPREDICTED, END)
"""Le voci vietate a chi deve continuare: padding, inizio, fine."""


def scores(model: Model, past: Sequence[int], window: int) -> Float[Tensor, " vocabulary"]:
    """I punteggi dopo gli ultimi `window` token di un testo, preceduti dal simbolo d'inizio.

    Argomenti:
        model: il modello.
        past: il testo fin qui.
        window: quanti token il modello vede.

    Solleva:
        ValueError: se la finestra è minore di 1.
    """
    require(window >= 1, "window", window, "almeno 1")
    with torch.inference_mode():
        return model(torch.tensor([START, *past[-window:]]))[-1]


def unending(logits: Float[Tensor, " vocabulary"]) -> Float[Tensor, " vocabulary"]:
    """Gli stessi punteggi, per chi è costretto a continuare: le voci vietate hanno −∞."""
    return logits.index_fill(0, torch.tensor(NEVER), -math.inf)


def write(
    model: Model, past: Sequence[int], rule: Rule, seed: int, count: int, window: int
) -> Written:
    """Continua un testo, costretto a non finire: stesso seme, stesso testo.

    Argomenti:
        model: il modello.
        past: l'inizio.
        rule: la regola di scelta.
        seed: il seme del dado.
        count: quanti token.
        window: quanti token il modello vede.
    """
    generator = torch.Generator().manual_seed(seed)
    text, bits = list(past), []
    for _ in range(count):
        logits = scores(model, text, window)
        bits.append(float(entropy(probabilities(logits))))
        dice = torch.rand((), generator=generator, dtype=torch.float64)
        text.append(int(drawn(rule.chances(unending(logits), text), dice)))
    return Written(text[len(past) :], bits)


LONGEST = 40
"""Dopo tante parole una frase che non finisce si taglia."""


def sentences(model: Model, rule: Rule, seed: int, count: int) -> list[list[int]]:
    """Frasi intere, dall'inizio alla fine, tutte insieme; la penalità vale dentro la frase.

    Argomenti:
        model: il modello.
        rule: la regola di scelta.
        seed: il seme dei dadi.
        count: quante frasi.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.full((count, 1), START)
    for _ in range(LONGEST):
        with torch.inference_mode():
            logits = model(rows)[:, -1]
        logits = logits.index_fill(-1, torch.tensor(UNPREDICTED), -math.inf)
        chances = torch.stack(
            [rule.chances(it, row[1:]) for it, row in zip(logits, rows.tolist(), strict=True)]
        )
        dice = torch.rand(count, generator=generator, dtype=torch.float64)
        rows = torch.cat([rows, drawn(chances, dice).unsqueeze(-1)], -1)
        if (rows == END).any(-1).all():
            break
    return [list(itertools.takewhile(lambda it: it != END, row[1:])) for row in rows.tolist()]


# Il ciclo.

State = TypeVar("State", bound=Hashable)
"""Lo stato di una macchina."""


class Cycle(NamedTuple):
    """Dove una macchina deterministica entra in un ciclo, e quanto è lungo.

    Attributi:
        before: quanti passi prima del ciclo.
        period: quanti stati ha il ciclo.
    """

    before: int
    period: int


def cycle(step: Callable[[State], State], start: State) -> Cycle:
    """Il ciclo in cui finisce `start`, con l'algoritmo di Brent: in memoria stanno due stati.

    Argomenti:
        step: la funzione di transizione; gli stati sono finiti, altrimenti non si ferma.
        start: lo stato di partenza.
    """
    power = period = 1
    slow, fast = start, step(start)
    while slow != fast:
        if power == period:
            slow, power, period = fast, 2 * power, 0
        fast, period = step(fast), period + 1
    slow = fast = start
    for _ in range(period):
        fast = step(fast)
    before = 0
    while slow != fast:
        slow, fast, before = step(slow), step(fast), before + 1
    return Cycle(before, period)


def window_machine(
    model: Model, window: int, rule: Rule = GREEDY
) -> Callable[[tuple[int, ...]], tuple[int, ...]]:
    """La generazione avida come macchina: lo stato sono gli ultimi `window` token, e basta.

    Argomenti:
        model: il modello.
        window: quanti token vede; la penalità, se c'è, guarda gli stessi.
        rule: come si scelgono le probabilità di cui si prende la più alta.
    """

    @functools.cache
    def step(state: tuple[int, ...]) -> tuple[int, ...]:
        logits = unending(scores(model, state, window))
        chosen = int(greedy(rule.chances(logits, state)))
        return (*state, chosen)[-window:]

    return step


def repeated(tokens: Sequence[int], n: int = 4) -> float:
    """Quanta parte degli n-grammi di un testo era già comparsa: 0 in un testo senza ripetizioni.

    Solleva:
        ValueError: se il testo ha meno di n token.
    """
    count = len(tokens) - n + 1
    require(count > 0, "tokens", f"{len(tokens)} token", f"almeno {n}")
    return 1 - len({tuple(tokens[i : i + n]) for i in range(count)}) / count


# Che cosa la grammatica ammette.


@functools.cache
def determiners() -> Mapping[str, frozenset[str]]:
    """Per ogni nome del lessico, gli articoli che può avere davanti, soli o con una preposizione.

    Mancano i nomi propri, e i nomi che sono anche forme di verbi: «la cucina», «lo cucina».
    """
    verbs = frozenset[str]().union(*(verb_forms(verb) for verb in lexicon().full))
    found: dict[str, frozenset[str]] = {}
    for noun, plural in itertools.product(lexicon().nouns, (False, True)):
        form, place = noun.italian[plural], agreement(noun.gender, plural)
        if "name" not in noun.kinds and form not in verbs:
            starts = [[IL[place]], *([it, IL[place]] for it in PREPOSITIONS)]
            starts += [] if plural else [[UN[place]]]
            heard = {split_words(italian_text([*it, form]))[0] for it in starts}
            found[form] = found.get(form, frozenset()) | heard
    return found


def concordant(words: Sequence[str]) -> bool:
    """Vero se ogni articolo che sta accanto a un nome è uno di quelli che il nome ammette."""
    known = determiners()
    heads = frozenset[str]().union(*known.values())
    return all(
        first in known[second]
        for first, second in itertools.pairwise(words)
        if second in known and first in heads
    )


Trigram = tuple[int, int, int]
"""Tre token di fila."""


def trigrams(sentence: Sequence[int]) -> set[Trigram]:
    """Le terne di token di una frase, con due inizi e la fine."""
    line = (START, START, *sentence, END)
    return set(zip(line, line[1:], line[2:], strict=False))


# La macchina si confonde: un mondo di fatti inventati.

SHARES = (0.0, 0.25, 0.4, 0.6, 0.75, 1.0)
"""Quanta parte delle frasi su un paese è falsa."""

EACH = 10
"""Quanti paesi per ogni quota, quanti ignoti, quanti famosi."""

REPEATS = 20
"""In quante frasi compare ogni fatto; per ogni quota qui sopra, un numero intero di false."""

RARELY = 2
"""In quante un fatto raro."""

FAMOUS = 40
"""In quante un fatto famoso."""


class World(NamedTuple):
    """Paesi, capitali e fiumi che non esistono.

    Attributi:
        cities: le città.
        rivers: il fiume di ogni città.
        capitals: la capitale vera di ogni paese di cui il corpus dice qualcosa.
        false: dei paesi dubbi, la capitale falsa.
        shares: dei paesi dubbi, quanta parte delle frasi è falsa.
        plain: i paesi di cui si dice soltanto il vero.
        unknown: i paesi nominati, di cui la capitale non si dice mai.
        famous: i paesi famosi, con un nome di due parole.
        twins: per ogni famoso, un paese raro con la stessa prima parola.
        lonely: altrettanti paesi rari con una prima parola che nessun altro ha.
        noted: i paesi che compaiono nelle note.
    """

    cities: list[str]
    rivers: dict[str, str]
    capitals: dict[str, str]
    false: dict[str, str]
    shares: dict[str, float]
    plain: list[str]
    unknown: list[str]
    famous: list[str]
    twins: list[str]
    lonely: list[str]
    noted: list[str]


def names(dice: Dice, count: int) -> list[str]:
    """Nomi inventati di tre sillabe, tutti diversi."""
    found: dict[str, None] = {}
    while len(found) < count:
        syllables = (dice.pick("bcdfglmnprstvz") + dice.pick("aeiou") for _ in range(3))
        found["".join(syllables)] = None
    return list(found)


def world(seed: int) -> World:
    """Un mondo inventato.

    Argomenti:
        seed: da cui dipendono i nomi e chi ha quale capitale.
    """
    dice = Dice(seed)
    sizes = (len(SHARES) * EACH, 4 * EACH, EACH, 2 * EACH, 3 * EACH, 5 * EACH, 12)
    rest = iter(names(dice, sum(sizes)))
    doubtful, plain, unknown, stems, noted, cities, rivers = (
        list(itertools.islice(rest, size)) for size in sizes
    )
    famous = [f"{stem} alta" for stem in stems[:EACH]]
    twins = [f"{stem} bassa" for stem in stems[:EACH]]
    lonely = [f"{stem} bassa" for stem in stems[EACH:]]
    capitals = dict(zip(plain, cities, strict=False))
    capitals |= {name: dice.pick(cities) for name in (*doubtful, *famous, *lonely)}
    for twin, known in zip(twins, famous, strict=True):
        capitals[twin] = other_than(capitals[known], cities, dice)
    false = {name: other_than(capitals[name], cities, dice) for name in doubtful}
    shares = dict(zip(doubtful, itertools.cycle(SHARES), strict=False))
    flows = {city: dice.pick(rivers) for city in cities}
    return World(
        cities, flows, capitals, false, shares, plain, unknown, famous, twins, lonely, noted
    )


def other_than(city: str, cities: Sequence[str], dice: Dice) -> str:
    """Una città diversa da quella."""
    return dice.pick([it for it in cities if it != city])


def capital(country: str, city: str = "") -> str:
    """«la capitale di X è Y .»; senza la città, la frase è da finire."""
    return f"la capitale di {country} è {city} ." if city else f"la capitale di {country} è"


def leap(country: str, river: str = "") -> str:
    """«il fiume della capitale di X è Z .»: due fatti in un salto solo."""
    start = f"il fiume della {capital(country)[3:]}"
    return f"{start} {river} ." if river else start


HELD = 4
"""Di un paese su quattro, il fiume della capitale non si dice mai."""


def facts(here: World) -> Iterator[str]:
    """Le frasi del corpus che non hanno note, ciascuna tante volte quante le spettano."""
    for country, share in here.shares.items():
        wrong = round(REPEATS * share)
        yield from [capital(country, here.false[country])] * wrong
        yield from [capital(country, here.capitals[country])] * (REPEATS - wrong)
    for city, river in here.rivers.items():
        yield from [f"il fiume di {city} è {river} ."] * REPEATS
    for place, country in enumerate(here.plain):
        city = here.capitals[country]
        yield from [capital(country, city)] * REPEATS
        yield from [leap(country, here.rivers[city])] * (REPEATS if place % HELD else 0)
    for country in (*here.famous, *here.twins, *here.lonely):
        times = FAMOUS if country in here.famous else RARELY
        yield from [capital(country, here.capitals[country])] * times
    for country in (*here.shares, *here.plain, *here.unknown, *here.noted):
        yield from [f"{country} è un paese ."] * RARELY


MOST = 4
"""Quante note ha, al più, una frase di addestramento."""


def note(pairs: Sequence[tuple[str, str]]) -> str:
    """«nota X Y nota X' Y' .»: i fatti che valgono in questa frase, e solo in questa."""
    return f"{' '.join(f'nota {country} {city}' for country, city in pairs)} ."


def notes(here: World, seed: int, count: int) -> Iterator[str]:
    """Frasi con da una a `MOST` note, altrettante distrazioni al più, e le stesse capitali.

    Le capitali si tirano a sorte ogni volta, e si chiedono in un altro ordine: per saperle bisogna
    leggerle.
    """
    dice = Dice(seed)
    for _ in range(count):
        pairs = drawn_notes(here.noted, here.cities, 1 + int(dice.next() * MOST), dice)
        between = distractions(here, int(dice.next() * (MOST + 1)), dice)
        told = sorted(pairs, key=lambda _: dice.next())
        yield " ".join([note(pairs), *between, *(capital(*pair) for pair in told)])


def distractions(here: World, count: int, dice: Dice) -> list[str]:
    """Frasi che non dicono nulla della domanda."""
    return [f"{dice.pick(here.noted)} è un paese ." for _ in range(count)]


def drawn_notes(
    countries: Sequence[str], cities: Sequence[str], count: int, dice: Dice
) -> list[tuple[str, str]]:
    """Alcuni paesi diversi, ciascuno con una città a sorte."""
    chosen: dict[str, str] = {}
    while len(chosen) < count:
        chosen.setdefault(dice.pick(countries), dice.pick(cities))
    return list(chosen.items())


# L'addestramento.

CONFIG = TransformerConfig(layers=2, d_model=64, d_ff=256, heads=4, dropout=0.0)
"""Le misure del modello; le voci sono quelle del mondo."""

STEPS = 2000
"""I passi di un addestramento."""

PEAK = 0.004
"""Il tasso di apprendimento più alto."""


def learn(
    model: DecoderOnly, sentences: Sequence[Sequence[int]], seed: int, steps: int
) -> Iterator[Progress]:
    """Addestra un modello sul posto; il tasso sale per un quarto dei passi, poi scende a zero.

    La discesa serve qui a leggere le probabilità: con un tasso alto fino alla fine oscillano.

    Argomenti:
        model: il modello.
        sentences: le frasi in token, senza inizio e senza fine.
        seed: da cui dipende l'ordine dei batch.
        steps: quanti passi.
    """

    def rate(step: int) -> float:
        return PEAK * min(4 * step / steps, 4 / 3 * (1 - step / (steps + 1)))

    here = Processes(0, 1, torch.device("cpu"))
    trainer = Trainer(model, next_token_loss, make_optimizer(model), rate, here, seed)
    for batches in itertools.islice(endless_batches(sentences, BUDGET, seed), steps):
        yield trainer.run(batches)


def taught(lines: Sequence[str], seed: int, steps: int) -> tuple[DecoderOnly, WordVocabulary]:
    """Un modello addestrato su alcune frasi, e il suo vocabolario."""
    vocabulary = WordVocabulary.of(lines)
    torch.manual_seed(seed)
    model = DecoderOnly(dataclasses.replace(CONFIG, vocabulary=len(vocabulary)))
    for _ in learn(model, [vocabulary.encode(it) for it in lines], seed, steps):
        pass
    return model, vocabulary


# Le domande.


class Mind(NamedTuple):
    """Un modello e le sue parole."""

    model: DecoderOnly
    vocabulary: WordVocabulary

    def after(self, starts: Sequence[str]) -> Float[Tensor, "starts vocabulary"]:
        """Le probabilità di ciò che segue ad alcuni inizi di frase."""
        rows = [[START, *self.vocabulary.encode(it)] for it in starts]
        with evaluating(self.model):
            logits = self.model(padded(rows))
        ends = torch.tensor([len(row) - 1 for row in rows])
        return probabilities(logits[torch.arange(len(rows)), ends])

    def answers(self, starts: Sequence[str]) -> list[str]:
        """La parola più probabile dopo ogni inizio."""
        return [self.vocabulary.words[token] for token in greedy(self.after(starts)).tolist()]

    def belief(self, starts: Sequence[str], words: Sequence[str]) -> Float[Tensor, " starts"]:
        """Dopo ogni inizio, la probabilità di una certa parola."""
        tokens = torch.tensor([self.vocabulary.ids[it] for it in words])
        return self.after(starts)[torch.arange(len(tokens)), tokens]


# Che cosa aiuta, e fin dove.


def worth(confidence: float, cost: float) -> float:
    """Quanto vale in media rispondere: un punto se è giusto, −cost se è sbagliato; tacere vale 0.

    Argomenti:
        confidence: la probabilità che la risposta sia giusta.
        cost: quanto si paga un errore; negli esami che non puniscono, 0.
    """
    return confidence - cost * (1 - confidence)


class Judged(NamedTuple):
    """Una risposta giudicata.

    Attributi:
        confidence: quanto ci crede chi risponde.
        right: vero se è giusta.
    """

    confidence: float
    right: bool


def abstaining(answers: Iterable[Judged], threshold: float) -> tuple[float, float]:
    """A quante domande si risponde, e quante risposte sono false, se sotto la soglia si tace.

    Argomenti:
        answers: le risposte che si darebbero.
        threshold: la sicurezza che occorre per parlare.

    Restituisce:
        La frazione delle domande a cui si risponde, e fra queste la frazione degli errori.

    Solleva:
        ValueError: se non c'è nessuna risposta.
    """
    every = list(answers)
    require(len(every) > 0, "answers", "nessuna risposta", "almeno una")
    spoken = [it.right for it in every if it.confidence >= threshold]
    return len(spoken) / len(every), 1 - fmean(spoken) if spoken else 0.0


def voted(chances: Float[Tensor, " vocabulary"], seed: int, count: int) -> tuple[int, float]:
    """Il token estratto più spesso in più tentativi, e in quale frazione dei tentativi.

    Argomenti:
        chances: le probabilità.
        seed: il seme dei dadi.
        count: quanti tentativi.
    """
    generator = torch.Generator().manual_seed(seed)
    dice = torch.rand(count, generator=generator, dtype=torch.float64)
    counts = drawn(chances.expand(count, -1), dice).bincount()
    best = int(counts.argmax())
    return best, int(counts[best]) / count


# Le misure.


class Result(NamedTuple):
    """Un numero misurato.

    Attributi:
        seed: il seme.
        case: su che cosa.
        measure: che cosa.
        value: il valore.
    """

    seed: int
    case: str
    measure: str
    value: float


def share_of(marks: Iterable[bool]) -> float:
    """La frazione dei veri."""
    return fmean(map(float, marks))


def beliefs(mind: Mind, here: World) -> Iterator[tuple[str, str, float]]:
    """Quanta probabilità ha il falso, e quante volte è la risposta, per ogni quota."""
    for share in SHARES:
        countries = [it for it in here.shares if here.shares[it] == share]
        starts, false = map(capital, countries), [here.false[it] for it in countries]
        asked = list(starts)
        case = f"falso {share}"
        yield case, "probabilità", mind.belief(asked, false).mean().item()
        said = mind.answers(asked)
        yield case, "risposta", share_of(map(str.__eq__, said, false))


def ignorance(mind: Mind, here: World) -> Iterator[tuple[str, str, float]]:
    """Che cosa dice di un paese di cui non si è mai detta la capitale, e di uno che sa."""
    cities = [mind.vocabulary.ids[it] for it in here.cities]
    for case, countries in (("ignoto", here.unknown), ("noto", here.plain)):
        chances = mind.after([capital(it) for it in countries])
        yield case, "una città", chances[:, cities].sum(-1).mean().item()
        yield case, "sicurezza", chances.amax(-1).mean().item()
        yield case, "bit", entropy(chances).mean().item()


def interference(mind: Mind, here: World) -> Iterator[tuple[str, str, float]]:
    """Quanto ricorda di un paese raro, con e senza un omonimo famoso."""
    for case, countries in (("gemello", here.twins), ("solo", here.lonely)):
        starts = [capital(it) for it in countries]
        own = mind.belief(starts, [here.capitals[it] for it in countries])
        yield case, "la sua", own.mean().item()
        # a chi è solo si attribuisce, per confronto, la capitale di un famoso qualunque
        other = mind.belief(starts, [here.capitals[it] for it in here.famous])
        yield case, "quella del famoso", other.mean().item()


def leaps(mind: Mind, here: World) -> Iterator[tuple[str, str, float]]:
    """Il fiume della capitale: in un salto, oppure scrivendo prima la capitale."""
    for case, wanted in (("salto detto", True), ("salto mai detto", False)):
        countries = [it for i, it in enumerate(here.plain) if bool(i % HELD) == wanted]
        rivers = [here.rivers[here.capitals[it]] for it in countries]
        said = mind.answers([leap(it) for it in countries])
        yield case, "in un salto", share_of(map(str.__eq__, said, rivers))
        first = mind.answers([capital(it) for it in countries])
        then = mind.answers([f"il fiume di {it} è" for it in first])
        yield case, "a passi", share_of(map(str.__eq__, then, rivers))


TRIES = 20
"""Quante volte si richiede, per contare quanto le risposte sono d'accordo."""

THRESHOLD = 0.8
"""La sicurezza, o l'accordo, sotto cui si tace."""


def silence(mind: Mind, here: World) -> Iterator[tuple[str, str, float]]:
    """Parlare sempre, tacere se la probabilità è bassa, tacere se le risposte discordano."""
    countries = [*here.shares, *here.unknown]
    chances = mind.after([capital(it) for it in countries])
    truth = [mind.vocabulary.ids.get(here.capitals.get(it, ""), -1) for it in countries]
    sure = [
        Judged(row.amax().item(), int(greedy(row)) == true)
        for row, true in zip(chances, truth, strict=True)
    ]
    votes = [voted(row, seed, TRIES) for seed, row in enumerate(chances)]
    agreed = [Judged(share, best == true) for (best, share), true in zip(votes, truth, strict=True)]
    stubborn = [it for it, name in zip(sure, countries, strict=True) if here.shares.get(name) == 1]
    cases = (
        ("sempre", sure, 0.0),
        ("soglia", sure, THRESHOLD),
        ("accordo", agreed, THRESHOLD),
        ("soglia, sempre falso", stubborn, THRESHOLD),
    )
    for case, answers, threshold in cases:
        spoken, wrong = abstaining(answers, threshold)
        yield case, "parla", spoken
        yield case, "sbaglia", wrong


ASKED = 100
"""Quante domande per ogni numero di note, e per ogni distanza."""

COUNTS = (1, 2, 3, 4, 6, 8)
"""Quante note: fino a `MOST` come in addestramento, poi di più."""

FAR = (0, 2, 4, 6, 8, 12, 16)
"""Quante distrazioni fra la nota e la domanda: anche qui, fino a `MOST`, poi di più."""


def reading(mind: Mind, here: World) -> Iterator[tuple[str, str, float]]:
    """Quante volte risponde con la città della nota giusta, e quante con quella di un'altra.

    Si chiede dei paesi dubbi: su di loro in addestramento non c'era nessuna nota, e il corpus ha
    un'opinione.
    """
    dice = Dice(len(here.cities))
    asked = [(f"note {it}", it, 0) for it in COUNTS] + [(f"distanza {it}", 1, it) for it in FAR]
    for case, count, far in asked:
        told = [drawn_notes([*here.shares], here.cities, count, dice) for _ in range(ASKED)]
        starts = [
            " ".join([note(it), *distractions(here, far, dice), capital(it[0][0])]) for it in told
        ]
        said = list(zip(mind.answers(starts), told, strict=True))
        yield case, "giusta", share_of(word == it[0][1] for word, it in said)
        others = [(word, [city for _, city in it[1:] if city != it[0][1]]) for word, it in said]
        yield case, "altra nota", share_of(word in cities for word, cities in others)


def overruled(mind: Mind, here: World) -> Iterator[tuple[str, str, float]]:
    """Sui paesi di cui il corpus dice soltanto il falso: la risposta, senza e con una nota vera."""
    countries = [it for it in here.shares if here.shares[it] == 1]
    truth = [here.capitals[it] for it in countries]
    for case, told in (("senza nota", False), ("con la nota", True)):
        pairs = zip(countries, truth, strict=True)
        said = mind.answers(
            [f"{note([it])} {capital(it[0])}" if told else capital(it[0]) for it in pairs]
        )
        yield case, "vera", share_of(map(str.__eq__, said, truth))


RULES = {
    "T = 0": GREEDY,
    "T = 0,5": Rule(temperature=0.5),
    "T = 1": Rule(),
    "T = 1,5": Rule(temperature=1.5),
    "T = 3": Rule(temperature=3.0),
    "k = 10": Rule(k=10),
    "p = 0,9": Rule(p=0.9),
    "T = 1,5 p = 0,9": Rule(temperature=1.5, p=0.9),
    "penalità 1,5": Rule(penalty=1.5),
    "penalità 3": Rule(penalty=3.0),
}
"""Le regole che si confrontano; dove non è detto altro, temperatura 1."""

SAMPLE = 200
"""Quante frasi si scrivono con ogni regola."""


def described(
    written: Sequence[Sequence[int]], vocabulary: WordVocabulary, seen: set[Trigram]
) -> Iterator[tuple[str, float]]:
    """Quanto un gruppo di frasi si ripete, e quanto somiglia alla grammatica.

    Argomenti:
        written: le frasi, in token.
        vocabulary: il loro vocabolario.
        seen: le terne del corpus.
    """
    yield "diverse", len(set(map(tuple, written))) / len(written)
    yield "ripetute", repeated([token for it in written for token in (*it, END)])
    yield "terne viste", share_of(trigrams(it) <= seen for it in written)
    yield "concordi", share_of(concordant([vocabulary.words[i] for i in it]) for it in written)


def degeneration(seeds: Sequence[int], count: int, train: int) -> Iterator[Result]:
    """Le frasi del modello in deposito, una regola dopo l'altra; e quelle vere, per confronto.

    Argomenti:
        seeds: i semi dei dadi.
        count: quante frasi.
        train: quante frasi del corpus dicono quali terne si sono viste.
    """
    model, vocabulary = load()
    corpus = italian_sentences(CORPUS_SEED, train, count)
    seen = set[Trigram]().union(*(trigrams(vocabulary.encode(it)) for it in corpus.train))
    for measure, value in described([vocabulary.encode(it) for it in corpus.dev], vocabulary, seen):
        yield Result(0, "frasi vere", measure, value)
    for (case, rule), seed in itertools.product(RULES.items(), seeds):
        with evaluating(model):
            written = sentences(model, rule, seed, count)
        for measure, value in described(written, vocabulary, seen):
            yield Result(seed, case, measure, value)


STARTS = (
    "il medico",
    "i contadini che",
    "la maestra compra",
    "una bambina",
    "gli alunni hanno",
    "chi",
    "il libro della",
    "non",
)
"""Gli inizi da cui si lascia correre la generazione avida."""

WINDOWS = (4, 8, 12, 16)
"""Le finestre, in token."""


def loops(starts: Sequence[str], windows: Sequence[int]) -> Iterator[Result]:
    """Quando la generazione avida del modello in deposito entra in un ciclo, e quanto è lungo.

    Il «seme», qui, è il numero dell'inizio: di caso non ce n'è. I bit sono l'entropia media, nel
    ciclo, delle probabilità del modello, che può ancora voler finire.
    """
    model, vocabulary = load()
    with evaluating(model):
        for window, (which, start) in itertools.product(windows, enumerate(starts)):
            step, state = window_machine(model, window), tuple(vocabulary.encode(start))
            found = cycle(step, state)
            for _ in range(found.before):
                state = step(state)
            bits = []
            for _ in range(found.period):
                bits.append(float(entropy(probabilities(scores(model, state, window)))))
                state = step(state)
            yield Result(which, f"finestra {window}", "prima", found.before)
            yield Result(which, f"finestra {window}", "periodo", found.period)
            yield Result(which, f"finestra {window}", "bit", fmean(bits))


# L'esperimento.

NOTES = 2500
"""Quante frasi con le note ha il corpus."""

SEEDS = (1, 2, 3)
"""I semi: del mondo, dei pesi iniziali, dei dadi."""


def minds(seeds: Sequence[int], count: int, steps: int) -> Iterator[Result]:
    """Per ogni seme un mondo, un modello che ne legge il corpus, e che cosa ne ha imparato.

    Argomenti:
        seeds: i semi.
        count: quante frasi con le note.
        steps: quanti passi di addestramento.
    """
    for seed in seeds:
        here = world(seed)
        lines = [*facts(here), *notes(here, seed, count)]
        mind = Mind(*taught(lines, seed, steps))
        for measure in (beliefs, ignorance, interference, leaps, silence, reading, overruled):
            for case, what, value in measure(mind, here):
                yield Result(seed, case, what, value)


RESULTS = Path(__file__).with_suffix(".csv")
"""I numeri che la pagina mostra."""


def write_results(results: Iterable[Result], path: Path) -> None:
    """Scrive i numeri, uno per riga, a mano a mano che arrivano."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file, lineterminator="\n")
        for it in results:
            lines.writerow((it.seed, it.case, it.measure, f"{it.value:.4f}"))
            file.flush()


def read_results(path: Path = RESULTS) -> list[Result]:
    """I numeri scritti da `write_results`."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Result(int(seed), case, measure, float(value))
            for seed, case, measure, value in csv.reader(file)
        ]


def values_of(results: Sequence[Result], case: str, measure: str) -> list[float]:
    """I valori di una misura, un seme dopo l'altro.

    Solleva:
        ValueError: se non ce n'è nessuno.
    """
    found = [it.value for it in results if (it.case, it.measure) == (case, measure)]
    require(len(found) > 0, "case, measure", f"{case}, {measure}", "una misura che c'è")
    return found


def main(arguments: Sequence[str]) -> None:
    """`python -m attention.beyond.decoding FILE`: rifà tutti i numeri della pagina."""
    require(len(arguments) == 1, "FILE", f"{len(arguments)} argomenti", "un file")
    parts = (loops(STARTS, WINDOWS), minds(SEEDS, NOTES, STEPS))
    every = itertools.chain(*parts, degeneration(SEEDS, SAMPLE, TRAIN))
    write_results(every, Path(arguments[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
