"""Oltre l'articolo: una grammatica sincrona, che scrive la stessa frase in tedesco e in italiano.

Da un seme escono coppie di frasi corrette nelle due lingue, sempre le stesse. Le parole stanno in
`lexicon.toml`; qui stanno le regole. Nessuna frase è tradotta: ognuna nasce da una scelta sola,
letta due volte.
"""

import functools
import itertools
import os
import random
import re
import tomllib
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from attention.s0_abstract import require

T = TypeVar("T")
"""Un tipo qualsiasi: quello delle cose fra cui il dado sceglie."""


class Pair(NamedTuple):
    """Una frase nelle due lingue.

    Argomenti:
        german, italian: le due frasi.
        ambiguous: vero se il tedesco ammette anche un'altra traduzione.
        tags: le costruzioni che vi compaiono.
        combinations: gli incontri di parole, «aggettivo nome» o «verbo nome», in tedesco.
    """

    german: str
    italian: str
    ambiguous: bool
    tags: tuple[str, ...]
    combinations: tuple[str, ...]

    @property
    def length(self) -> int:
        """Le parole della frase tedesca."""
        return self.german.count(" ") + 1


class Words(NamedTuple):
    """Le parole di un pezzo di frase nelle due lingue."""

    german: list[str]
    italian: list[str]


class Dice:
    """Il caso: una successione di numeri fra 0 e 1, fissata dal seme.

    Della libreria si usa soltanto `random()`, l'unico metodo che Python promette di non cambiare
    da una versione all'altra.
    """

    def __init__(self, seed: int) -> None:
        self.next = random.Random(seed).random

    def chance(self, probability: float) -> bool:
        """Vero con la probabilità data."""
        return self.next() < probability

    def pick(self, choices: Sequence[T]) -> T:
        """Una delle scelte, tutte ugualmente probabili; chi pesa di più compare più volte."""
        return choices[int(self.next() * len(choices))]


# Il tedesco: casi, generi, desinenze.


class Case(IntEnum):
    """I quattro casi."""

    NOMINATIVE = 0
    ACCUSATIVE = 1
    DATIVE = 2
    GENITIVE = 3


Table = tuple[tuple[str, ...], ...]
"""Una tavola di forme: una riga per caso; colonne maschile, femminile, neutro, plurale."""


def table(*rows: str) -> Table:
    """Una tavola, scritta come nelle grammatiche; il trattino è la desinenza vuota."""
    return tuple(tuple(cell.strip("-") for cell in row.split()) for row in rows)


COLUMNS = "mfn"
"""I generi nell'ordine delle colonne; la quarta, il plurale, non distingue."""

FEMININE = 1
"""La colonna del femminile."""

NEUTER = 2
"""La colonna del neutro."""

PLURAL = 3
"""La colonna del plurale."""

ARTICLE = table("der die das die", "den die das die", "dem der dem den", "des der des der")
"""L'articolo determinativo: l'unica tavola da imparare a memoria, le altre le somigliano."""

RELATIVE = table("der die das die", "den die das die", "dem der dem denen")
"""Il pronome relativo: l'articolo, salvo il dativo plurale."""

PERSONAL = table("er sie es sie", "ihn sie es sie", "ihm ihr ihm ihnen")
"""Il pronome di terza persona."""

LIKE_DER = table("er e es e", "en e es e", "em er em en", "es er es er")
"""Le desinenze di «dieser», «jeder», «alle»: quelle dell'articolo."""

LIKE_EIN = table("- e - e", "en e - e", "em er em en", "es er es er")
"""Le desinenze di «ein», «kein», «mein»: come sopra, ma tre caselle sono nude."""

BARE = table("- - - -", "- - - -", "- - - -", "- - - -")
"""Chi non prende desinenze: i numerali."""

STRONG = table("er e es e", "en e es e", "em er em en", "en er en er")
"""L'aggettivo senza niente davanti: porta lui le desinenze dell'articolo."""

WEAK = table("e e e en", "en e e en", "en en en en", "en en en en")
"""L'aggettivo dopo un articolo che ha già detto tutto."""

MIXED = table("er e es en", "en e es en", "en en en en", "en en en en")
"""L'aggettivo dopo «ein»: forte dove «ein» è nudo, debole altrove."""


def with_stem(stem: str, endings: Table) -> Table:
    """Un tema davanti a ogni desinenza."""
    return tuple(tuple(stem + ending for ending in row) for row in endings)


class GermanNoun(NamedTuple):
    """Un nome tedesco: la colonna del suo genere, poi le forme del singolare e del plurale."""

    column: int
    singular: tuple[str, ...]
    plural: tuple[str, ...]


def german_noun(entry: str) -> GermanNoun:
    """Un nome dalle sue voci di dizionario: genere, nominativo, genitivo, plurale.

    Un maschile il cui genitivo è uguale al plurale in -n è debole: prende -n in tutti gli altri
    casi. Il dativo plurale aggiunge -n, se può.
    """
    gender, nominative, genitive, plural = entry.split()
    weak = gender == "m" and genitive == plural and plural.endswith("n")
    oblique = genitive if weak else nominative
    dative = plural if plural[-1] in "ns" else plural + "n"
    return GermanNoun(
        COLUMNS.index(gender),
        (nominative, oblique, oblique, genitive),
        (plural, plural, dative, plural),
    )


class GermanVerb(NamedTuple):
    """Un verbo tedesco.

    Argomenti:
        prefix: il prefisso separabile, o nulla.
        infinitive: l'infinito senza prefisso.
        present: il presente, da «ich» a «sie».
        past: il passato, singolare e plurale; «du» e «ihr» qui non lo usano.
        participle: il participio.
        auxiliary: il presente del suo ausiliare.
    """

    prefix: str
    infinitive: str
    present: tuple[str, ...]
    past: tuple[str, str]
    participle: str
    auxiliary: tuple[str, ...]


GERMAN_AUXILIARY = {
    "haben": ("habe", "hast", "hat", "haben", "habt", "haben"),
    "sein": ("bin", "bist", "ist", "sind", "seid", "sind"),
}
"""Il presente dei due ausiliari."""


def german_verb(entry: str, present: str | None = None) -> GermanVerb:
    """Un verbo dalle sue voci di dizionario: «auf·stehen steht stand gestanden sein»."""
    infinitive, he_reads, he_read, participle, auxiliary = entry.split()
    prefix, _, infinitive = infinitive.rpartition("·")
    return GermanVerb(
        prefix,
        infinitive,
        tuple(present.split()) if present else german_present(infinitive, he_reads),
        german_past(he_read),
        prefix + participle,
        GERMAN_AUXILIARY[auxiliary],
    )


def german_present(infinitive: str, he_reads: str) -> tuple[str, ...]:
    """Il presente: «du» ha la vocale di «er», le altre persone quella dell'infinito."""
    stem, changed = infinitive.removesuffix("en"), he_reads.removesuffix("t")
    thou = changed + ("t" if changed[-1] in "sß" else "st")
    you = stem + ("et" if stem[-1] in "td" else "t")
    return stem + "e", thou, he_reads, infinitive, you, infinitive


def german_past(he_read: str) -> tuple[str, str]:
    """Il passato: «las», «lasen»; «kaufte», «kauften»."""
    return he_read, he_read + ("n" if he_read.endswith("e") else "en")


CONTRACTIONS = {
    ("an", "dem"): "am",
    ("in", "dem"): "im",
    ("von", "dem"): "vom",
    ("zu", "dem"): "zum",
    ("zu", "der"): "zur",
}
"""Le preposizioni che si fondono con l'articolo."""


def german_preposition(preposition: str, words: list[str]) -> list[str]:
    """Una preposizione davanti a un gruppo, fusa con l'articolo se si usa."""
    fused = CONTRACTIONS.get((preposition, words[0]))
    return [fused, *words[1:]] if fused else [preposition, *words]


def german_text(words: list[str]) -> str:
    """Le parole in fila, con la maiuscola e senza spazi prima dei segni."""
    return punctuated(" ".join(words))


def punctuated(text: str) -> str:
    """Toglie lo spazio davanti ai segni, e la virgola davanti a un altro segno."""
    text = text.replace(" ,", ",").replace(" .", ".").replace(" ?", "?")
    text = text.replace(",,", ",").replace(",.", ".").replace(",?", "?")
    return text[0].upper() + text[1:]


# L'italiano: accordi, suoni, preposizioni articolate.


def agreement(gender: str, plural: bool) -> int:
    """Il posto di una forma fra maschile, femminile, maschili, femminili."""
    return 2 * plural + "mf".index(gender)


def four_forms(masculine: str, plural: str) -> tuple[str, str, str, str]:
    """Le quattro forme di un aggettivo o di un participio, dai due maschili."""
    if not masculine.endswith("o"):
        return masculine, masculine, plural, plural
    stem = masculine.removesuffix("o")
    return masculine, stem + "a", plural, stem + ("he" if stem[-1] in "cg" else "e")


IL = ("il", "la", "i", "le")
"""L'articolo determinativo davanti a consonante."""

UN = ("un", "una", "", "")
"""L'articolo indeterminativo davanti a consonante."""

PREPOSITIONS = {"di": "de", "a": "a", "da": "da", "in": "ne", "su": "su"}
"""Le preposizioni che si fondono con l'articolo, e il tema con cui lo fanno."""

FUSED = {"il": "l", "lo": "llo", "l'": "ll'", "la": "lla", "i": "i", "gli": "gli", "le": "lle"}
"""Ciò che di un articolo resta, dopo il tema."""

ARTICULATED = {
    (preposition, article): stem + ending
    for preposition, stem in PREPOSITIONS.items()
    for article, ending in FUSED.items()
}
"""Le preposizioni articolate: «di», «gli» diventa «degli»."""

ALLOMORPHS = {
    "il": ("lo", "l'"),
    "lo": ("lo", "l'"),
    "la": ("la", "l'"),
    "i": ("gli", "gli"),
    "un": ("uno", "un"),
    "una": ("una", "un'"),
    "nessun": ("nessuno", "nessun"),
    "nessuna": ("nessuna", "nessun'"),
    "questo": ("questo", "quest'"),
    "questa": ("questa", "quest'"),
    "bel": ("bello", "bell'"),
    "bei": ("begli", "begli"),
    "buon": ("buono", "buon"),
}
"""Le parole che guardano la seguente: la forma davanti a «studente» e quella davanti ad «amico».

«Lo» e «la» sono anche pronomi, e si elidono allo stesso modo: «l'ha vista».
"""

EUPHONIC = {"a": "aà", "e": "eè"}
"""Le parole che davanti a queste vocali prendono una «d»: «ad Anna», «ed è»."""

VOWELS = "aeiouàèéìòùh"
"""Le iniziali che chiedono l'elisione; l'acca è muta."""


def sound(word: str) -> int | None:
    """Come comincia una parola: 0 come «studente» o «zio», 1 come «amico», None come «cane»."""
    first, second = word[0].lower(), word[1:2]
    if first in VOWELS:
        return 1
    impure = first == "s" and second not in VOWELS
    return 0 if impure or first == "z" or word.startswith(("gn", "pn", "ps")) else None


def before(word: str, following: str) -> str:
    """Una parola come suona davanti a un'altra."""
    if word in ALLOMORPHS:
        form = sound(following)
        return word if form is None else ALLOMORPHS[word][form]
    return word + "d" if following[0].lower() in EUPHONIC.get(word, "") else word


def articulated(words: list[str]) -> list[str]:
    """Fonde le preposizioni con l'articolo che segue: «di», «gli» diventa «degli»."""
    fused: list[str] = []
    for word in words:
        joined = ARTICULATED.get((fused[-1], word)) if fused else None
        if joined:
            fused[-1] = joined
        else:
            fused.append(word)
    return fused


def italian_text(words: list[str]) -> str:
    """Le parole in fila: prima ognuna guarda la seguente, poi le preposizioni si fondono.

    Una preposizione articolata si fa dunque da due parole, e «dai», che è anche un verbo, resta
    com'è: «dai un libro».
    """
    heard = [before(word, following) for word, following in itertools.pairwise(words)]
    return punctuated(" ".join(articulated([*heard, words[-1]])).replace("' ", "'"))


SHORT = {"bello": "bel", "belli": "bei", "buono": "buon"}
"""Le forme che «bello» e «buono» prendono davanti al nome."""


class ItalianVerb(NamedTuple):
    """Un verbo italiano: infinito, presente, imperfetto, participio, ausiliare, se è riflessivo."""

    infinitive: str
    present: tuple[str, ...]
    past: tuple[str, ...]
    participle: tuple[str, str, str, str]
    essere: bool
    reflexive: bool


ENDINGS = {
    "are": "o i a iamo ate ano",
    "ere": "o i e iamo ete ono",
    "ire": "o i e iamo ite ono",
    "isc": "isco isci isce iamo ite iscono",
}
"""Il presente delle coniugazioni."""

AVERE = ("ho", "hai", "ha", "abbiamo", "avete", "hanno")
"""Il presente di «avere», ausiliare."""

ESSERE = ("sono", "sei", "è", "siamo", "siete", "sono")
"""Il presente di «essere», ausiliare."""

REFLEXIVE = ("mi", "ti", "si", "ci", "vi", "si")
"""Il pronome riflessivo di ogni persona."""


def italian_verb(entry: str, present: str | None = None, past: str | None = None) -> ItalianVerb:
    """Un verbo da infinito, participio e ausiliare: «leggere letto avere»; «isc», se serve."""
    infinitive, participle, auxiliary, *isc = entry.split()
    reflexive = infinitive.endswith("si")
    infinitive = infinitive.removesuffix("si") + "e" * reflexive
    return ItalianVerb(
        infinitive,
        tuple(present.split()) if present else italian_present(infinitive, bool(isc)),
        tuple(past.split()) if past else imperfect(infinitive),
        four_forms(participle, participle[:-1] + "i"),
        auxiliary == "essere",
        reflexive,
    )


def italian_present(infinitive: str, isc: bool) -> tuple[str, ...]:
    """Il presente regolare: «mando, mandi», «cerco, cerchi», «mangio, mangi», «pulisco»."""
    stem, conjugation = infinitive[:-3], infinitive[-3:]
    endings = ENDINGS["isc" if isc else conjugation].split()
    if conjugation != "are":
        return tuple(stem + ending for ending in endings)
    before_i = stem + "h" if stem[-1] in "cg" else stem.removesuffix("i")
    return tuple((before_i if ending[0] == "i" else stem) + ending for ending in endings)


def imperfect(infinitive: str) -> tuple[str, ...]:
    """L'imperfetto: «amavo», «vedevo», «dormivo»."""
    stem = infinitive.removesuffix("re")
    return tuple(stem + ending for ending in ("vo", "vi", "va", "vamo", "vate", "vano"))


def enclitic(infinitive: str, pronoun: str) -> str:
    """Il pronome attaccato all'infinito: «leggere», «lo» diventa «leggerlo»."""
    return infinitive.removesuffix("e") + pronoun if pronoun else infinitive


# Il lessico: il dizionario letto dal file.

PERSON = frozenset({"person"})
"""La classe delle persone."""

OWNER = frozenset({"adult", "kin"})
"""Le classi di chi possiede qualcosa."""

UNCOUNTED = frozenset({"name", "mass", "place", "single"})
"""Le classi di ciò che qui resta al singolare."""

TIMELESS = frozenset({"state", "still"})
"""I segni dei verbi che non accadono in un momento."""

UNWILLED = TIMELESS | {"mishap"}
"""I segni dei verbi che non si vogliono né si devono."""

LEADING = {("", ""), ("", "a"), ("mit", "con"), ("an", "a"), ("von", ""), ("auf", "")}
"""Le preposizioni, tedesca e italiana, che qui reggono un relativo o un interrogativo."""

SPEAKING = (0, 1, 3, 4)
"""Le persone di chi parla e di chi ascolta: nessuna delle due lingue ne dice il genere."""


class Noun(NamedTuple):
    """Un nome nelle due lingue.

    Argomenti:
        lemma: il nominativo tedesco, con cui lo si cerca.
        german: le forme tedesche.
        gender: il genere italiano, «m» o «f».
        italian: singolare e plurale italiani.
        kinds: le sue classi.
        at: le preposizioni con cui vi si sta, tedesca e italiana.
    """

    lemma: str
    german: GermanNoun
    gender: str
    italian: tuple[str, str]
    kinds: frozenset[str]
    at: tuple[str, str]


class Adjective(NamedTuple):
    """Un aggettivo nelle due lingue.

    Argomenti:
        german: la forma senza desinenza.
        stem: il tema che le prende.
        italian: le quattro forme.
        leading: le quattro forme davanti al nome; nulla per chi lo segue.
    """

    german: str
    stem: str
    italian: tuple[str, ...]
    leading: tuple[str, ...]


class Role(NamedTuple):
    """Il posto di un complemento: preposizione e caso in tedesco, preposizione in italiano.

    «@» sta per la preposizione con cui si sta nel luogo di cui si parla.
    """

    german: str
    case: Case
    italian: str
    kinds: frozenset[str]

    @property
    def direct(self) -> bool:
        """Vero per il complemento oggetto di tutte e due le lingue."""
        return self.case is Case.ACCUSATIVE and not self.german and not self.italian


class Verb(NamedTuple):
    """Un verbo nelle due lingue, con ciò che il suo significato ammette.

    Argomenti:
        lemma: l'infinito tedesco, con cui lo si cerca.
        german, italian: le forme.
        subject: le classi del soggetto.
        needs: i complementi, nell'ordine tedesco.
        may: le aggiunte.
        how: gli avverbi di modo.
        because: le qualità dell'oggetto che spiegano l'azione.
        marks: i segni del lessico.
    """

    lemma: str
    german: GermanVerb
    italian: ItalianVerb
    subject: frozenset[str]
    needs: tuple[Role, ...]
    may: tuple[Role, ...]
    how: tuple[Words, ...]
    because: frozenset[str]
    marks: frozenset[str]


class Modal(NamedTuple):
    """Un verbo modale: presente e passato tedeschi, verbo italiano, se rifiuta la negazione."""

    german: tuple[tuple[str, ...], tuple[str, ...]]
    italian: ItalianVerb
    refuses: bool


def read_words(entry: str) -> Words:
    """Un'espressione da una riga del lessico: «lange | a lungo»."""
    german, italian = entry.split("|")
    return Words(german.split(), italian.split())


def read_nouns(group: dict[str, Any]) -> Iterator[Noun]:
    """I nomi di un gruppo del lessico."""
    at_german, at_italian = group.get("at", "- -").split()
    for entry in group["words"]:
        german, italian, *more = entry.split("|")
        gender, singular, plural = italian.split()
        forms = german_noun(german)
        kinds = frozenset([*group["kinds"].split(), *"".join(more).split()])
        at = (at_german, at_italian)
        yield Noun(forms.singular[0], forms, gender, (singular, plural), kinds, at)


def read_adjective(entry: str, before_noun: bool) -> Adjective:
    """Un aggettivo da una riga del lessico: «hoch hoh | alto alti»."""
    german, italian = (side.split() for side in entry.split("|"))
    forms = four_forms(*italian)
    leading = tuple(SHORT.get(form, form) for form in forms) if before_noun else ()
    return Adjective(german[0], german[-1], forms, leading)


def read_role(roles: dict[str, list[str]], text: str) -> Role:
    """Un complemento: il nome del ruolo e le classi che ammette, «object food drink»."""
    name, *kinds = text.split()
    german, case, italian = roles[name]
    return Role(german, Case[case.upper()], italian, frozenset(kinds))


def read_verb(data: dict[str, Any], entry: dict[str, Any]) -> Verb:
    """Un verbo da una tabella del lessico."""
    return Verb(
        entry["german"].split()[0].replace("·", ""),
        german_verb(entry["german"], entry.get("german_present")),
        italian_verb(entry["italian"], entry.get("italian_present"), entry.get("italian_past")),
        frozenset(entry["subject"].split()),
        tuple(read_role(data["roles"], text) for text in entry.get("needs", ())),
        tuple(read_role(data["roles"], text) for text in entry.get("may", ())),
        tuple(read_words(data["manner"][name]) for name in entry.get("how", "").split()),
        frozenset(entry.get("because", "").split()),
        frozenset(entry.get("marks", "").split()),
    )


def read_modal(entry: dict[str, Any]) -> Modal:
    """Un modale da una tabella del lessico."""
    infinitive, *present = entry["italian"].split()
    he, they = german_past(entry["past"])
    return Modal(
        (tuple(entry["german"].split()), (he, he, he, they, they, they)),
        italian_verb(f"{infinitive} {infinitive} avere", " ".join(present)),
        entry.get("refuses", False),
    )


OWNING = re.compile(
    r"(?= (?:der|die|das)(?: [a-zäöüß]+en?){0,2} ([A-ZÄÖÜ]\w+)"
    r" [a-zß]*er(?: [a-zäöüß]+en)? ([A-ZÄÖÜ]\w+))"
)
"""Due nomi di seguito, di cui il secondo può essere un genitivo: «der alte Mann seiner Tochter»."""


class Lexicon:
    """Il dizionario, con gli elenchi fra cui chi scrive sceglie.

    Argomenti:
        data: il contenuto di `lexicon.toml`.
    """

    def __init__(self, data: dict[str, Any]) -> None:
        self.nouns = [noun for group in data["nouns"] for noun in read_nouns(group)]
        self.qualities = self.qualities_of(data["adjectives"])
        self.verbs = [read_verb(data, entry) for entry in data["verbs"]]
        self.modals = [read_modal(entry) for entry in data["modals"]]
        self.often = [read_words(entry) for entry in data["often"]]
        self.times = {
            name: [read_words(it) for it in data["times"][name]] for name in data["times"]
        }
        self.moods = {mark: words.split() for mark, words in data["moods"].items()}

    def qualities_of(self, groups: list[dict[str, Any]]) -> dict[str, list[Adjective]]:
        """Per ogni nome, gli aggettivi che se ne possono dire."""
        told: dict[str, list[Adjective]] = {noun.lemma: [] for noun in self.nouns}
        for group, noun in itertools.product(groups, self.nouns):
            if noun.kinds & set(group["of"].split()):
                before_noun = group.get("before", False)
                told[noun.lemma] += [read_adjective(it, before_noun) for it in group["words"]]
        return told

    @functools.cached_property
    def by_kind(self) -> dict[frozenset[str], list[Noun]]:
        """Per ogni insieme di classi che un verbo nomina, i nomi di almeno una."""
        named = {role.kinds for verb in self.verbs for role in (*verb.needs, *verb.may)}
        named |= {verb.subject for verb in self.verbs} | {PERSON, OWNER}
        return {kinds: [it for it in self.nouns if it.kinds & kinds] for kinds in named}

    @functools.cached_property
    def by_mark(self) -> dict[str, list[Verb]]:
        """Per ogni segno, i verbi che lo portano."""
        marks = {mark for verb in self.verbs for mark in verb.marks}
        return {mark: [it for it in self.verbs if mark in it.marks] for mark in marks}

    @functools.cached_property
    def full(self) -> list[Verb]:
        """I verbi che bastano a una frase: non «sein», né quelli che ne reggono un'altra."""
        return [it for it in self.verbs if not it.marks & {"copula", "that", "whether"}]

    @functools.cached_property
    def personal(self) -> list[Verb]:
        """Quelli che una persona può compiere."""
        return [verb for verb in self.full if verb.subject & PERSON]

    @functools.cached_property
    def copula(self) -> Verb:
        """«Sein», «essere»."""
        return self.by_mark["copula"][0]

    @functools.cached_property
    def described(self) -> list[Noun]:
        """I nomi di cui si può dire una qualità."""
        return [noun for noun in self.nouns if self.qualities[noun.lemma]]

    @functools.cached_property
    def leading(self) -> list[tuple[Verb, Role]]:
        """I complementi che possono diventare un pronome relativo."""
        return [
            (verb, role)
            for verb in self.full
            for role in verb.needs
            if (role.german, role.italian) in LEADING and not verb.marks & {"has", "consumes"}
        ]

    @functools.cached_property
    def askable(self) -> list[tuple[Verb, Role]]:
        """Quelli di cui si può chiedere «was», «wen», «mit wem»."""
        asked = [(verb, role) for verb, role in self.leading if role.direct or role.kinds & PERSON]
        return [(verb, role) for verb, role in asked if "vague" not in verb.marks]

    @functools.cached_property
    def circumstances(self) -> list[tuple[str, str, list[Verb]]]:
        """Gli avverbi interrogativi di luogo e di tempo, con i verbi adatti."""
        return [
            ("wo", "dove", self.by_mark["local"]),
            ("wann", "quando", [it for it in self.by_mark["event"] if not it.needs]),
        ]

    @functools.cached_property
    def deals(self) -> list[tuple[Verb, Verb, list[Noun]]]:
        """Un verbo con cui ci si procura una cosa, uno con cui la si usa, le cose adatte.

        Nessuno compra una borsa per aprirla.
        """
        found = []
        for get, use in itertools.product(self.by_mark["get"], self.by_mark["use"]):
            used = next(role for role in use.needs if role.direct)
            nouns = [it for it in self.by_kind[used.kinds] if it.kinds & get.needs[0].kinds]
            absurd = {"pay", "handle"} <= get.marks | use.marks
            found += [(get, use, nouns)] if nouns and not absurd else []
        return found

    @functools.cached_property
    def plans(self) -> list[tuple[Verb, Verb, list[Noun]]]:
        """Lo stesso, senza le cose che capitano: chi trova non trova apposta."""
        return [deal for deal in self.deals if "mishap" not in deal[0].marks]

    @functools.cached_property
    def reasons(self) -> list[tuple[Verb, Noun, Adjective]]:
        """Un verbo, una cosa, la sua qualità che spiega il verbo: «waschen Hemd schmutzig»."""
        return [
            (verb, noun, quality)
            for verb in self.verbs
            for noun in (self.by_kind[verb.needs[0].kinds] if verb.because else ())
            for quality in self.qualities[noun.lemma]
            if quality.german in verb.because
        ]

    @functools.cached_property
    def twins(self) -> list[tuple[Noun, Noun]]:
        """Le coppie di persone che in tedesco hanno nominativo e accusativo uguali."""
        people = [it for it in self.by_kind[PERSON] if not it.kinds & {"kin", "name"}]
        return list(itertools.permutations([it for it in people if it.german.column], 2))

    def subjects_for(self, noun: Noun) -> list[Verb]:
        """I verbi che questo nome può avere per soggetto."""
        return [verb for verb in self.full if verb.subject & noun.kinds]

    def places_for(self, noun: Noun) -> list[tuple[Verb, Role]]:
        """I complementi che questo nome può occupare in una frase relativa."""
        return [(verb, role) for verb, role in self.leading if role.kinds & noun.kinds]

    @functools.cached_property
    def columns(self) -> tuple[dict[str, set[int]], dict[str, int]]:
        """Le forme singolari dei nomi di persona e i nomi propri, con la colonna tedesca."""
        people: dict[str, set[int]] = {}
        names: dict[str, int] = {}
        for noun in self.by_kind[PERSON]:
            for form in noun.german.singular:
                if "name" in noun.kinds:
                    names[form] = noun.german.column
                else:
                    people.setdefault(form, set()).add(noun.german.column)
        return people, names

    def naming(self, german: Sequence[str]) -> bool:
        """Vero se un nome di persona incontra un nome proprio che potrebbe essere il suo.

        «Hat die Großmutter Maria die Berichte gegeben?» dice chi dà, o a chi? Un neutro, «das
        Kind», può chiamarsi in tutti i modi.
        """
        people, names = self.columns
        return any(
            word in people and name in names and {names[name], NEUTER} & people[word]
            for word, name in itertools.pairwise(german)
        )

    def owning(self, german: Sequence[str]) -> bool:
        """Vero se dopo una persona un dativo femminile potrebbe essere un genitivo.

        «Heute schreibt der Großvater seiner Tochter einen Brief»: a lei, o è il nonno di lei? In
        testa alla frase no: il verbo separa il soggetto dal dativo.
        """
        people, _ = self.columns
        found = OWNING.finditer(" ".join(german))
        return any(it[1] in people and FEMININE in people.get(it[2], ()) for it in found)

    def feeling(self, word: str) -> Adjective:
        """Uno stato d'animo, dal suo nome tedesco."""
        return next(it for it in self.qualities["Frau"] if it.german == word)


@functools.cache
def lexicon() -> Lexicon:
    """Il lessico della casa, letto una volta."""
    path = Path(__file__).with_name("lexicon.toml")
    return Lexicon(tomllib.loads(path.read_text(encoding="utf-8")))


# Il gruppo nominale.


class Determiner(NamedTuple):
    """Ciò che apre un gruppo nominale: un articolo, un possessivo, un numerale.

    Argomenti:
        german: le sue forme.
        endings: le desinenze degli aggettivi che lo seguono.
        italian: le parole italiane, ciascuna con le sue quattro forme.
        definite: vero se si sa di chi si parla.
        family: vero se con i nomi di parentela perde l'articolo: «mio padre».
    """

    german: Table
    endings: Table
    italian: tuple[tuple[str, ...], ...]
    definite: bool = False
    family: bool = False


def always(word: str) -> tuple[str, ...]:
    """Le quattro forme di una parola invariabile."""
    return word, word, word, word


def possessive(german: str, *italian: str) -> Determiner:
    """Un possessivo: in tedesco come «ein», in italiano dopo l'articolo."""
    return Determiner(
        with_stem(german, LIKE_EIN), MIXED, (IL, italian), True, "loro" not in italian
    )


def numeral(german: str, italian: str) -> Determiner:
    """Un numerale: non si declina, e lascia le desinenze forti all'aggettivo."""
    return Determiner(with_stem(german, BARE), STRONG, (always(italian),))


DETERMINERS = {
    "der": Determiner(ARTICLE, WEAK, (IL,), definite=True),
    "ein": Determiner(with_stem("ein", LIKE_EIN), MIXED, (UN,)),
    "dieser": Determiner(
        with_stem("dies", LIKE_DER), WEAK, (four_forms("questo", "questi"),), definite=True
    ),
    "jeder": Determiner(with_stem("jed", LIKE_DER), WEAK, (always("ogni"),)),
    "alle": Determiner(with_stem("all", LIKE_DER), WEAK, (four_forms("tutto", "tutti"), IL)),
    "viele": Determiner(with_stem("viel", LIKE_DER), STRONG, (four_forms("molto", "molti"),)),
    "einige": Determiner(with_stem("einig", LIKE_DER), STRONG, (four_forms("alcuno", "alcuni"),)),
    "zwei": numeral("zwei", "due"),
    "drei": numeral("drei", "tre"),
    "vier": numeral("vier", "quattro"),
    "fünf": numeral("fünf", "cinque"),
    "sechs": numeral("sechs", "sei"),
    "kein": Determiner(with_stem("kein", LIKE_EIN), MIXED, (("nessun", "nessuna", "", ""),)),
    "kein Wasser": Determiner(with_stem("kein", LIKE_EIN), MIXED, ()),
    "mein": possessive("mein", "mio", "mia", "miei", "mie"),
    "dein": possessive("dein", "tuo", "tua", "tuoi", "tue"),
    "unser": possessive("unser", "nostro", "nostra", "nostri", "nostre"),
    "sein": possessive("sein", "suo", "sua", "suoi", "sue"),
    "ihr": possessive("ihr", "suo", "sua", "suoi", "sue"),
    "ihr (plurale)": possessive("ihr", "loro", "loro", "loro", "loro"),
    "partitivo": Determiner(BARE, STRONG, (always("di"), IL)),
    "nome proprio": Determiner(BARE, STRONG, (), definite=True),
}
"""I determinanti, con il nome con cui qui li chiamiamo."""

POSSESSIVES = ("sein", "ihr", "sein", "ihr (plurale)")
"""Il possessivo di terza persona, per colonna del possessore: il tedesco ne guarda il genere."""


class NounPhrase(NamedTuple):
    """Un gruppo nominale: il materiale comune, che ogni lingua mette in fila a suo modo.

    Argomenti:
        opener: il nome del determinante.
        noun: il nome.
        plural: vero se è plurale.
        adjectives: gli aggettivi.
        after: ciò che segue, già detto nelle due lingue: un genitivo, una relativa.
    """

    opener: str
    noun: Noun
    plural: bool
    adjectives: tuple[Adjective, ...] = ()
    after: Words = Words([], [])

    @property
    def person(self) -> int:
        """La persona del verbo, da 0 a 5."""
        return 5 if self.plural else 2

    @property
    def column(self) -> int:
        """La colonna delle tavole tedesche."""
        return PLURAL if self.plural else self.noun.german.column

    @property
    def place(self) -> int:
        """Il posto fra le quattro forme italiane."""
        return agreement(self.noun.gender, self.plural)

    def german(self, case: Case) -> list[str]:
        """In tedesco: determinante, aggettivi con la loro desinenza, nome."""
        determiner, noun, column = DETERMINERS[self.opener], self.noun.german, self.column
        words = [determiner.german[case][column]]
        words += [it.stem + determiner.endings[case][column] for it in self.adjectives]
        words.append((noun.plural if self.plural else noun.singular)[case])
        return [*filter(None, words), *self.after.german]

    def italian(self) -> list[str]:
        """In italiano: determinante, aggettivi che precedono, nome, aggettivi che seguono."""
        determiner, place = DETERMINERS[self.opener], self.place
        bare = place < 2 and determiner.family and "kin" in self.noun.kinds
        words = [forms[place] for forms in determiner.italian[bare:]]
        words += [it.leading[place] for it in self.adjectives if it.leading]
        words.append(self.noun.italian[self.plural])
        words += [it.italian[place] for it in self.adjectives if not it.leading]
        return [*filter(None, words), *self.after.italian]


class Both(NamedTuple):
    """Due gruppi uniti da «und», «e»."""

    first: NounPhrase
    second: NounPhrase
    person: int = 5
    column: int = PLURAL

    @property
    def place(self) -> int:
        """Femminile soltanto se lo sono tutti e due."""
        return agreement(max(self.first.noun.gender, self.second.noun.gender), True)

    def german(self, case: Case) -> list[str]:
        """In tedesco."""
        return [*self.first.german(case), "und", *self.second.german(case)]

    def italian(self) -> list[str]:
        """In italiano."""
        return [*self.first.italian(), "e", *self.second.italian()]


class Pronoun(NamedTuple):
    """Un pronome.

    Argomenti:
        cases: nominativo, accusativo e dativo tedeschi.
        person: la persona del verbo.
        place: l'accordo italiano.
        direct, indirect: i clitici italiani, oggetto e termine.
        column: la colonna del suo possessivo, se è di terza persona.
        subject: il soggetto italiano, se si dice.
    """

    cases: tuple[str, str, str]
    person: int
    place: int
    direct: str
    indirect: str
    column: int = 0
    subject: tuple[str, ...] = ()

    def german(self, case: Case) -> list[str]:
        """In tedesco."""
        return [self.cases[case]]

    def italian(self) -> list[str]:
        """In italiano, da soggetto: quasi sempre nulla, perché basta il verbo."""
        return list(self.subject)


Participant = NounPhrase | Both | Pronoun
"""Chi prende parte a ciò che la frase dice."""

LO = ("lo", "la", "li", "le")
"""Il complemento oggetto, per accordo."""

GLI = ("gli", "le", "gli", "gli")
"""Il complemento di termine, per accordo."""


def third_person(column: int, place: int, *subject: str) -> Pronoun:
    """Il pronome di terza persona: il tedesco segue il suo genere, l'italiano il suo."""
    nominative, accusative, dative = (row[column] for row in PERSONAL)
    person = 5 if column == PLURAL else 2
    cases = (nominative, accusative, dative)
    return Pronoun(cases, person, place, LO[place], GLI[place], column, subject)


PRONOUNS = {
    "ich": Pronoun(("ich", "mich", "mir"), 0, 0, "mi", "mi"),
    "du": Pronoun(("du", "dich", "dir"), 1, 0, "ti", "ti"),
    "wir": Pronoun(("wir", "uns", "uns"), 3, 2, "ci", "ci"),
    "ihr": Pronoun(("ihr", "euch", "euch"), 4, 2, "vi", "vi"),
    "er": third_person(0, 0, "lui"),
    "sie": third_person(1, 1, "lei"),
    "sie (plurale)": third_person(PLURAL, 2),
    "Sie": third_person(1, 1, "Lei"),
    "wer": Pronoun(("wer", "wen", "wem"), 2, 0, "", "", 0, ("chi",)),
}
"""I pronomi. Di «er» e «sie» nessuno ha parlato prima, perciò l'italiano li dice."""

STRESSED = {"ich": "io", "du": "tu", "wir": "noi", "ihr": "voi"}
"""Chi parla e chi ascolta, quando si contrappongono a un altro soggetto: «ma voi comprate»."""


def is_person(who: Participant) -> bool:
    """Vero per chi può volere e possedere: non per un gatto, né per uno specchio."""
    return not isinstance(who, NounPhrase) or bool(who.noun.kinds & PERSON)


def again(who: Participant) -> Participant:
    """Come si riprende qualcuno appena nominato: con un pronome che in italiano non si dice."""
    if isinstance(who, Pronoun) and who.person in SPEAKING:
        return who._replace(subject=())
    return third_person(who.column, who.place)


# La frase.


class Tense(IntEnum):
    """I tempi: «liest», «las», «hat gelesen»."""

    PRESENT = 0
    PAST = 1
    PERFECT = 2


SILENCE = Words([], [])
"""Ciò che non si dice."""


class Clause(NamedTuple):
    """Una frase semplice prima che qualcuno la pronunci.

    Argomenti:
        subject: il soggetto.
        verb: il verbo.
        tense: il tempo tedesco.
        modal: il modale, se c'è.
        roles: i complementi, nell'ordine tedesco.
        extra: le aggiunte.
        predicate: l'aggettivo che si dice del soggetto.
        time, often, manner: gli avverbi.
        front: vero se il tempo apre la frase.
        negation: la negazione, se c'è: la parola tedesca e ciò che in italiano segue il verbo.
    """

    subject: Participant
    verb: Verb
    tense: Tense
    modal: Modal | None = None
    roles: tuple[tuple[Role, Participant], ...] = ()
    extra: tuple[tuple[Role, Participant], ...] = ()
    predicate: Adjective | None = None
    time: Words = SILENCE
    often: Words = SILENCE
    manner: Words = SILENCE
    front: bool = False
    negation: Words | None = None


def german_parts(clause: Clause) -> tuple[str, list[str]]:
    """La parentesi verbale: la forma coniugata, e ciò che nella principale va in fondo."""
    verb, person = clause.verb.german, clause.subject.person
    if clause.modal:
        return clause.modal.german[clause.tense][person], [verb.prefix + verb.infinitive]
    if clause.tense is Tense.PERFECT:
        return verb.auxiliary[person], [verb.participle]
    finite = verb.past[person // 3] if clause.tense is Tense.PAST else verb.present[person]
    return finite, [verb.prefix] if verb.prefix else []


def german_role(role: Role, who: Participant) -> list[str]:
    """Un complemento tedesco: nel suo caso, dopo la sua preposizione."""
    words, preposition = who.german(role.case), role.german
    if preposition == "@" and isinstance(who, NounPhrase):
        preposition = who.noun.at[0]
    return german_preposition(preposition, words) if preposition else words


def german_middle(clause: Clause) -> list[str]:
    """Il campo centrale, fra le due metà del verbo, dopo i pronomi.

    Un'aggiunta precede il complemento che il verbo chiede con una preposizione: «am Bahnhof auf
    seine Schwester warten».
    """
    objects: list[str] = []
    rest: list[str] = []
    for role, who in (*clause.extra, *clause.roles):
        part = rest if role.german else objects
        part += [] if isinstance(who, Pronoun) else german_role(role, who)
    return [
        *(() if clause.front else clause.time.german),
        *clause.often.german,
        *objects,
        *(clause.negation.german if clause.negation else ()),
        *clause.manner.german,
        *rest,
        *([clause.predicate.german] if clause.predicate else ()),
    ]


def german_pronouns(clause: Clause) -> list[str]:
    """I complementi che sono pronomi: vengono prima degli altri."""
    roles = [(role, who) for role, who in clause.roles if isinstance(who, Pronoun)]
    return [word for role, who in roles for word in german_role(role, who)]


def german_after_verb(clause: Clause, spoken: bool = True) -> list[str]:
    """Soggetto, pronomi, campo centrale; un nome cede il passo ai pronomi: «gefällt dir das Bett».

    Argomenti:
        clause: la frase.
        spoken: vero se il soggetto si dice.
    """
    subject = clause.subject.german(Case.NOMINATIVE) if spoken else []
    pronouns = german_pronouns(clause)
    first = isinstance(clause.subject, Pronoun)
    opening = [*subject, *pronouns] if first else [*pronouns, *subject]
    return [*opening, *german_middle(clause)]


def german_main(clause: Clause) -> list[str]:
    """La frase principale: il verbo al secondo posto."""
    finite, tail = german_parts(clause)
    if clause.front:
        return [*clause.time.german, finite, *german_after_verb(clause), *tail]
    subject = clause.subject.german(Case.NOMINATIVE)
    return [*subject, finite, *german_after_verb(clause, spoken=False), *tail]


def german_verb_first(clause: Clause) -> list[str]:
    """Il verbo in testa: le domande, e le principali di cui altro occupa il primo posto."""
    finite, tail = german_parts(clause)
    return [finite, *german_after_verb(clause), *tail]


def german_verb_last(clause: Clause, spoken: bool = True) -> list[str]:
    """La secondaria: il verbo in fondo, con il prefisso riattaccato; il soggetto, se si dice."""
    finite, tail = german_parts(clause)
    end = [tail[0] + finite] if tail == [clause.verb.german.prefix] else [*tail, finite]
    return [*german_after_verb(clause, spoken), *end]


def german_to(clause: Clause) -> list[str]:
    """L'infinito con «zu», che si infila dopo il prefisso: «aufzumachen»."""
    verb = clause.verb.german
    to = [f"{verb.prefix}zu{verb.infinitive}"] if verb.prefix else ["zu", verb.infinitive]
    return [*german_after_verb(clause, spoken=False), *to]


def german_same_subject(clause: Clause) -> list[str]:
    """La seconda metà di «nimmt … und isst …»: ausiliare e modale non si ripetono."""
    finite, tail = german_parts(clause)
    simple = clause.modal is None and clause.tense is not Tense.PERFECT
    return [*([finite] if simple else []), *german_after_verb(clause, spoken=False), *tail]


def italian_clitic(clause: Clause) -> str:
    """Il pronome che sta con il verbo: oggetto, termine o riflessivo; o nulla."""
    if clause.verb.italian.reflexive:
        return REFLEXIVE[clause.subject.person]
    for role, who in clause.roles:
        if isinstance(who, Pronoun):
            return who.indirect if role.italian else who.direct
    return ""


def italian_participle(clause: Clause) -> str:
    """Il participio: con «essere» segue il soggetto, con «avere» il clitico di terza persona."""
    verb = clause.verb.italian
    if verb.essere:
        return verb.participle[clause.subject.place]
    for role, who in clause.roles:
        if isinstance(who, Pronoun) and who.direct in LO and not role.italian:
            return verb.participle[who.place]
    return verb.participle[0]


def italian_group(clause: Clause) -> list[str]:
    """Il verbo con ciò che gli sta attaccato: «non l'ha mai vista», «vuole vederla»."""
    verb, person, clitic = clause.verb.italian, clause.subject.person, italian_clitic(clause)
    negation = clause.negation or SILENCE
    no, inside = ["non"] * (clause.negation is not None), [*negation.italian, *clause.often.italian]
    if clause.modal:
        modal = clause.modal.italian
        finite = (modal.past if clause.tense else modal.present)[person]
        return [*no, finite, *inside, enclitic(verb.infinitive, clitic)]
    opening = [*no, clitic] if clitic else no
    if clause.tense and "state" not in clause.verb.marks:
        auxiliary = (ESSERE if verb.essere else AVERE)[person]
        return [*opening, auxiliary, *inside, italian_participle(clause)]
    return [*opening, (verb.past if clause.tense else verb.present)[person], *inside]


def italian_role(role: Role, who: Participant) -> list[str]:
    """Un complemento italiano, dopo la sua preposizione: «nella casa bianca», ma «in casa»."""
    preposition = role.italian
    if preposition == "@" and isinstance(who, NounPhrase):
        preposition = who.noun.at[1]
        if "bare" in who.noun.kinds and who == NounPhrase("der", who.noun, False):
            return [preposition, who.noun.italian[0]]
    return [preposition, *who.italian()] if preposition else who.italian()


def is_long(who: Participant) -> bool:
    """Vero per un gruppo seguito da altro: in italiano si dice per ultimo."""
    return isinstance(who, NounPhrase) and bool(who.after.italian)


def italian_rest(clause: Clause) -> list[str]:
    """Ciò che segue il verbo: modo, oggetto, altri complementi, predicato, tempo, aggiunte.

    Se dopo il verbo c'è molto da dire, il tempo viene prima: «Regala oggi un libro alla zia».
    """
    full = [(role, who) for role, who in clause.roles if not isinstance(who, Pronoun)]
    full.sort(key=lambda pair: (is_long(pair[1]), bool(pair[0].italian)))
    crowded = len(full) + len(clause.extra) > 1 or any(is_long(who) for _, who in full)
    time = [] if clause.front else clause.time.italian
    return [
        *clause.manner.italian,
        *(time if crowded else ()),
        *(word for role, who in full for word in italian_role(role, who)),
        *([clause.predicate.italian[clause.subject.place]] if clause.predicate else ()),
        *(() if crowded else time),
        *(word for role, who in clause.extra for word in italian_role(role, who)),
    ]


def can_follow(who: Participant) -> bool:
    """Vero per un soggetto che può seguire il verbo: «nessuno», da lì, vorrebbe un «non»."""
    return isinstance(who, NounPhrase) and who.opener not in ("kein", "jeder")


def is_unknown(who: Participant) -> bool:
    """Vero per chi non si sa chi sia: «un medico», «quattro bambini»; non «tutti i bambini»."""
    if not isinstance(who, NounPhrase) or who.opener == "alle":
        return False
    return not DETERMINERS[who.opener].definite


def subject_follows(clause: Clause) -> bool:
    """Vero se l'italiano dice prima il verbo: «Oggi arriva il medico», «Ti piacciono tre libri».

    Con un modale no, se il soggetto non si sa chi sia: «Tre medici vogliono venire».
    """
    alone = all(isinstance(who, Pronoun) for _, who in clause.roles) and not clause.extra
    new = is_unknown(clause.subject) and clause.modal is None
    movable = clause.verb.italian.essere and can_follow(clause.subject)
    return alone and (clause.front or new) and movable


def italian_clause(clause: Clause, spoken: bool = True) -> list[str]:
    """La frase italiana: il tempo se la apre, il soggetto se si dice, il verbo, il resto."""
    time = clause.time.italian if clause.front else []
    if spoken and subject_follows(clause):
        return [*time, *italian_inverted(clause)]
    subject = clause.subject.italian() if spoken else []
    return [*time, *subject, *italian_group(clause), *italian_rest(clause)]


def italian_inverted(clause: Clause) -> list[str]:
    """Il soggetto dopo il verbo e il modo: «Con chi parla forte il medico?»."""
    opening = [*italian_group(clause), *clause.manner.italian]
    rest = italian_rest(clause._replace(manner=SILENCE))
    return [*opening, *clause.subject.italian(), *rest]


def italian_question(clause: Clause) -> list[str]:
    """Una domanda: una cosa segue il verbo, se con lui sta un pronome: «Ti piace il letto?»."""
    thing = can_follow(clause.subject) and not is_person(clause.subject)
    return italian_inverted(clause) if thing and italian_clitic(clause) else italian_clause(clause)


def italian_infinitive(clause: Clause) -> list[str]:
    """L'infinito con il suo pronome e il resto: «leggerlo in giardino»."""
    infinitive = enclitic(clause.verb.italian.infinitive, italian_clitic(clause))
    return [infinitive, *italian_rest(clause)]


def italian_same_subject(clause: Clause) -> list[str]:
    """La seconda metà di «prende … e mangia …»: il modale non si ripete, l'ausiliare sì."""
    return italian_infinitive(clause) if clause.modal else italian_clause(clause, spoken=False)


# Il periodo: più frasi insieme.


def subordinate(main: Clause, german: str, italian: str, then: Clause) -> Words:
    """Una principale e una secondaria: la congiunzione manda in fondo il verbo tedesco."""
    return Words(
        [*german_main(main), ",", german, *german_verb_last(then), "."],
        [*italian_clause(main), *italian.split(), *italian_clause(then), "."],
    )


def fronted(german: str, italian: str, first: Clause, main: Clause) -> Words:
    """La secondaria davanti: occupa il primo posto, e la principale comincia dal verbo."""
    return Words(
        [german, *german_verb_last(first), ",", *german_verb_first(main), "."],
        [italian, *italian_clause(first), ",", *italian_clause(main), "."],
    )


def sequence(first: Clause, then: Clause) -> Words:
    """Due principali con lo stesso soggetto, detto una volta."""
    return Words(
        [*german_main(first), "und", *german_same_subject(then), "."],
        [*italian_clause(first), "e", *italian_same_subject(then), "."],
    )


def aimed(main: Clause, aim: Clause) -> Words:
    """Una principale e il suo scopo: «um … zu», «per»."""
    return Words(
        [*german_main(main), ",", "um", *german_to(aim), "."],
        [*italian_clause(main), "per", *italian_infinitive(aim), "."],
    )


def relative_subject(who: NounPhrase, clause: Clause) -> Words:
    """Una relativa di cui il nome è il soggetto: «der … liest», «che legge …»."""
    pronoun = RELATIVE[Case.NOMINATIVE][who.column]
    return Words(
        [",", pronoun, *german_verb_last(clause, spoken=False), ","],
        ["che", *italian_clause(clause, spoken=False)],
    )


def relative_object(who: NounPhrase, role: Role, clause: Clause) -> Words:
    """Una relativa di cui il nome è un complemento: «den … liest», «con cui … parla».

    Un soggetto che non è una persona segue il verbo: «a cui piace il libro».
    """
    german = [role.german] if role.german else []
    pronoun = RELATIVE[role.case][who.column]
    italian = [role.italian, "cui"] if role.italian else ["che"]
    swapped = role.italian and can_follow(clause.subject) and not is_person(clause.subject)
    said = italian_inverted(clause) if swapped else italian_clause(clause)
    return Words([",", *german, pronoun, *german_verb_last(clause), ","], [*italian, *said])


def ends_with(clause: Clause, role: Role) -> bool:
    """Vero se in tedesco la frase finisce con questo complemento: poi può venire una relativa."""
    more = german_parts(clause)[1] or clause.negation or clause.extra or clause.manner.german
    return not more and not clause.time.german and role is clause.roles[-1][0]


def blurred(who: Participant, other: Participant, verb: Verb, role: Role) -> bool:
    """Vero se il tedesco non direbbe chi fa e chi subisce: «die Frau, die das Kind sieht».

    Soltanto il maschile singolare distingue il nominativo dall'accusativo, e non in un nome
    proprio. Se i due hanno anche lo stesso numero, e potrebbero scambiarsi le parti, la frase ha
    due sensi.
    """
    distinct = isinstance(other, Pronoun) or 0 in (who.column, other.column)
    named = isinstance(other, NounPhrase) and "name" in other.noun.kinds
    if not role.direct or who.person != other.person or who.column == 0 or (distinct and not named):
        return False
    parts = [it.first if isinstance(it, Both) else it for it in (who, other)]
    kinds = [it.noun.kinds for it in parts if isinstance(it, NounPhrase)]
    return all(it & verb.subject and it & role.kinds for it in kinds)


# Chi scrive: le scelte.


class Openers(NamedTuple):
    """I determinanti fra cui scegliere al singolare e al plurale, ripetuti quanto pesano.

    Argomenti:
        singular, plural: i determinanti.
        own: vero se ci può stare anche un possessivo.
    """

    singular: list[str]
    plural: list[str]
    own: bool = True


NUMERALS = ["zwei", "drei", "vier", "fünf", "sechs"]
"""I numerali, fra i determinanti."""

OPENERS = {
    "subject": Openers(
        ["der"] * 10 + ["ein", "dieser", "jeder", "kein"],
        ["der"] * 6 + [*NUMERALS, "viele", "alle"],
    ),
    "actor": Openers(["der"] * 6 + ["ein", "dieser"], ["der"] * 3 + NUMERALS),
    "object": Openers(
        ["der"] * 7 + ["ein"] * 5 + ["dieser"],
        ["der"] * 5 + ["partitivo"] * 5 + [*NUMERALS, "viele", "einige", "alle", "dieser"],
    ),
    "fresh": Openers(
        ["der"] * 6 + ["ein"] * 6, ["der"] * 4 + ["partitivo"] * 5 + [*NUMERALS, "viele"], own=False
    ),
    "mass": Openers(["der"] * 2 + ["partitivo"] * 3, [], own=False),
    "had": Openers(["ein"], NUMERALS, own=False),
    "other": Openers(["der"] * 6 + ["ein"] * 2 + ["dieser"], ["der"]),
    "known": Openers(["der"] * 6 + ["dieser"], ["der"] * 5 + ["dieser"]),
    "goal": Openers(["der"], [], own=False),
    "denied": Openers(["kein"], ["kein"], own=False),
}
"""I determinanti di ogni posto: il soggetto, ciò che si compra, ciò che si nega."""

TENSES = [Tense.PRESENT] * 4 + [Tense.PAST] * 3 + [Tense.PERFECT] * 3
"""I tempi, con i loro pesi."""

NEGATIONS = {
    "nicht": Words(["nicht"], []),
    "nicht mehr": Words(["nicht", "mehr"], ["più"]),
    "noch nicht": Words(["noch", "nicht"], ["ancora"]),
    "nie": Words(["nie"], ["mai"]),
}
"""Le negazioni: in italiano «non» precede il verbo, il resto lo segue."""

NEGATIONS_OF = {
    Tense.PRESENT: ["nicht", "nicht", "nicht mehr", "nie"],
    Tense.PAST: ["nicht", "nicht", "nie"],
    Tense.PERFECT: ["nicht", "nicht", "noch nicht", "nie"],
}
"""Quelle che stanno bene con ogni tempo."""

PERSONS = ["ich", "ich", "du", "wir", "ihr", "er", "er", "sie", "sie"]
"""I pronomi soggetto, con i loro pesi."""

SPEAKERS = list(STRESSED)
"""Quelli che restano quando «er» e «sie» farebbero pensare a qualcuno già nominato."""

GLADLY = Words(["gern"], ["volentieri"])
"""Ciò che non si dice con un modale: chi vuole, vuole già volentieri."""

VERY = Words(["sehr"], ["molto"])
"""Ciò che rafforza un aggettivo."""

ABSOLUTE = {"rot", "grün", "gelb", "blau", "weiß", "schwarz", "kaputt", "leer", "neu"}
"""Gli aggettivi che non ne hanno bisogno: un telefono non è «molto verde»."""

SIZES = {"klein", "groß", "schön"}
"""Gli aggettivi che ne ammettono un altro dopo il nome."""

STATEMENTS = (
    ["statement"] * 40
    + ["description"] * 9
    + ["mood"] * 5
    + ["reason"] * 3
    + ["wish"] * 3
    + ["sequel"] * 4
    + ["purpose"] * 3
    + ["errand"] * 2
    + ["meeting"] * 3
    + ["report"] * 3
    + ["doubt"] * 2
    + ["meanwhile"] * 2
    + ["when"] * 2
)
"""Le frasi che affermano, con i loro pesi."""

QUESTIONS = (
    ["question"] * 8
    + ["who_question"] * 2
    + ["object_question"] * 3
    + ["circumstance_question"] * 2
)
"""Le domande."""

SENTENCES = STATEMENTS + QUESTIONS + ["compound"] * 6 + ["formal", "unnamed", "speaker", "either"]
"""Tutte le frasi; le ultime quattro sono ambigue."""


class Writer:
    """Chi scrive: a ogni passo tira il dado fra ciò che il lessico ammette.

    Argomenti:
        words: il lessico.
        dice: il caso.
    """

    def __init__(self, words: Lexicon, dice: Dice) -> None:
        self.words, self.dice = words, dice
        self.combinations: set[str] = set()
        self.tags: set[str] = set()
        self.persons = PERSONS
        self.said: set[str] = set()
        self.contrast = False
        self.people: set[int] = set()
        self.owners: set[int] = set()

    def pair(self) -> Pair:
        """Una frase nuova, della lunghezza permessa e con un senso solo, o segnata."""
        self.combinations, self.tags, self.persons = set(), set(), PERSONS
        self.said, self.contrast = set(), False
        self.people, self.owners = set(), set()
        german, italian = self.part(SENTENCES)
        found = Pair(
            german_text(german),
            italian_text(italian),
            "ambiguous" in self.tags,
            tuple(sorted(self.tags)),
            tuple(sorted(self.combinations)),
        )
        fit = SHORTEST <= found.length <= LONGEST and self.is_clear(german)
        return found if fit else self.pair()

    def is_clear(self, german: Sequence[str]) -> bool:
        """Vero se non si scambia chi dà con chi riceve, né, in «ihr», una donna con più persone."""
        whose = bool(self.owners) and {FEMININE, PLURAL} <= self.people | self.owners
        return not (whose or self.words.naming(german) or self.words.owning(german))

    def part(self, kinds: Sequence[str]) -> Words:
        """Una frase di uno di questi tipi: il nome del tipo è quello del metodo."""
        kind = self.dice.pick(kinds)
        self.tags.add(kind)
        words: Words = getattr(self, kind)()
        return words

    # I nomi.

    def noun(self, kinds: frozenset[str], other: Participant | None = None) -> Noun:
        """Un nome di queste classi, diverso da quello dell'altro partecipante."""
        choices = self.words.by_kind[kinds]
        noun = self.dice.pick(choices)
        while isinstance(other, NounPhrase) and noun is other.noun and len(choices) > 1:
            noun = self.dice.pick(choices)
        return noun

    def phrase(
        self, noun: Noun, place: str, many: float = 0.2, qualities: float = 0.25
    ) -> NounPhrase:
        """Un gruppo per un posto; `many` e `qualities`: quanto spesso plurale, quanto aggettivi."""
        plural = self.plural(noun, many)
        opener = self.opener(noun, plural, OPENERS[place])
        plain = noun.kinds & {"kin", "name"}
        adjectives = () if plain else self.adjectives(noun, qualities)
        found = NounPhrase(opener, noun, plural, adjectives)
        if is_person(found):
            self.people.add(found.column)
        return found

    def plural(self, noun: Noun, probability: float) -> bool:
        """Un plurale, se il nome si conta; le scarpe sempre."""
        if "paired" in noun.kinds:
            return True
        return not noun.kinds & UNCOUNTED and self.dice.chance(probability)

    def opener(self, noun: Noun, plural: bool, openers: Openers) -> str:
        """Un determinante per questo nome; le scarpe non si contano, il mare è uno."""
        if "name" in noun.kinds:
            return "nome proprio"
        if "kin" in noun.kinds:
            return self.dice.pick(["mein", "mein", "dein", "unser", "der", "der"])
        if "own" in noun.kinds and openers.own and self.dice.chance(0.12):
            return self.dice.pick(["mein", "mein", "dein", "unser"])
        choice = self.dice.pick(openers.plural if plural else openers.singular)
        paired = "paired" in noun.kinds and choice in (*NUMERALS, "viele", "einige", "alle")
        if "sole" in noun.kinds or paired:
            return "der"
        return "kein Wasser" if choice == "kein" and "mass" in noun.kinds else choice

    def adjectives(self, noun: Noun, probability: float) -> tuple[Adjective, ...]:
        """Nessun aggettivo, uno, o due se in italiano stanno ai due lati del nome."""
        choices = self.words.qualities[noun.lemma]
        if not choices or not self.dice.chance(probability):
            return ()
        first, second = self.dice.pick(choices), self.dice.pick(choices)
        self.combinations.add(f"{first.german} {noun.lemma}")
        sides = first.german in SIZES and first.leading and not second.leading
        if not sides or self.dice.chance(0.6):
            return (first,)
        self.combinations.add(f"{second.german} {noun.lemma}")
        return first, second

    def subject(self, kinds: frozenset[str], other: Participant | None = None) -> Participant:
        """Un soggetto: un gruppo, due, o un pronome."""
        if kinds & PERSON:
            if self.dice.chance(0.15):
                return self.pronoun()
            if self.dice.chance(0.05):
                first = self.phrase(self.noun(PERSON), "known", 0.0, 0.0)
                return Both(first, self.phrase(self.noun(PERSON, first), "known", 0.0, 0.0))
        return self.phrase(self.noun(kinds, other), "subject")

    def actor(self) -> Participant:
        """Una persona che fa qualcosa."""
        if self.dice.chance(0.2):
            return self.pronoun()
        return self.phrase(self.noun(PERSON), "actor")

    def pronoun(self) -> Pronoun:
        """Un pronome soggetto; se si contrappone a un altro, l'italiano lo dice: «ma tu dormi»."""
        name = self.dice.pick(self.persons)
        self.said.add(name)
        if name == "sie":
            self.people.add(FEMININE)
        stressed = (STRESSED[name],) if self.contrast else PRONOUNS[name].subject
        return PRONOUNS[name]._replace(subject=stressed)

    def known(self, kinds: frozenset[str]) -> Participant:
        """Qualcuno di preciso: chi ascolta, o un gruppo con l'articolo."""
        if kinds & PERSON and self.dice.chance(0.4):
            return PRONOUNS[self.dice.pick(["du", "ihr"])]
        return self.phrase(self.noun(kinds), "known")

    # La frase semplice.

    def clause(
        self,
        verb: Verb,
        subject: Participant,
        missing: Role | None = None,
        positive: bool = False,
    ) -> Clause:
        """Una frase con questo verbo e questo soggetto.

        Argomenti:
            verb, subject: verbo e soggetto.
            missing: il complemento che non si dice.
            positive: vero se non si può negare.
        """
        return self.adorned(self.completed(self.begun(verb, subject, positive), missing))

    def begun(self, verb: Verb, subject: Participant, positive: bool = False) -> Clause:
        """Verbo e soggetto, con il tempo, il modale e la negazione; ancora senza complementi."""
        if "owned" in verb.marks and isinstance(subject, NounPhrase):
            subject = subject._replace(opener="der")
        tense = self.tense(verb, subject)
        clause = Clause(subject, verb, tense, self.modal(verb, subject, tense))
        return clause if positive else clause._replace(negation=self.negation(clause))

    def tense(self, verb: Verb, subject: Participant) -> Tense:
        """Un tempo che il verbo e la persona permettono.

        Il participio con «essere» vuole il genere del soggetto, e chi parla non lo dice; «du» e
        «ihr» al passato semplice non si usano.
        """
        state, speaking = "state" in verb.marks, subject.person in SPEAKING
        tense = self.dice.pick(TENSES)
        if (state and tense is Tense.PERFECT) or (speaking and tense is Tense.PAST):
            return Tense.PRESENT
        return Tense.PRESENT if speaking and (state or verb.italian.essere) else tense

    def modal(self, verb: Verb, subject: Participant, tense: Tense) -> Modal | None:
        """A volte un modale, se il soggetto può volere ciò che il verbo dice."""
        willing = is_person(subject) and not verb.marks & UNWILLED
        if not willing or tense is Tense.PERFECT or not self.dice.chance(0.2):
            return None
        return self.dice.pick(self.words.modals)

    def negation(self, clause: Clause) -> Words | None:
        """A volte una negazione, se il soggetto è qualcuno di preciso."""
        who, refused = clause.subject, clause.modal is not None and clause.modal.refuses
        precise = not isinstance(who, NounPhrase) or DETERMINERS[who.opener].definite
        if refused or not precise or not self.dice.chance(0.12):
            return None
        timeless = clause.verb.marks & TIMELESS
        return NEGATIONS["nicht" if timeless else self.dice.pick(NEGATIONS_OF[clause.tense])]

    def completed(self, clause: Clause, missing: Role | None = None) -> Clause:
        """Aggiunge i complementi che il verbo chiede."""
        place = self.object_place(clause)
        roles = tuple(
            (role, self.participant(role, clause, place))
            for role in clause.verb.needs
            if role is not missing
        )
        denied = any(isinstance(who, NounPhrase) and "kein" in who.opener for _, who in roles)
        return clause._replace(roles=roles, negation=SILENCE if denied else clause.negation)

    def object_place(self, clause: Clause) -> str:
        """Come si presenta l'oggetto: con «nicht» è noto, se no lo nega «kein»."""
        if clause.negation is not None:
            plain = clause.negation is NEGATIONS["nicht"]
            return "denied" if plain and self.dice.chance(0.4) else "known"
        nobody = isinstance(clause.subject, NounPhrase) and clause.subject.opener == "kein"
        if nobody or "dear" in clause.verb.marks:
            return "known"
        if "has" in clause.verb.marks:
            return "had"
        return "fresh" if "get" in clause.verb.marks else "object"

    def participant(self, role: Role, clause: Clause, place: str) -> Participant:
        """Chi occupa un complemento."""
        subject = clause.subject
        addressed = role.kinds & PERSON and not role.german and subject.person not in SPEAKING
        if addressed and self.dice.chance(0.1):
            self.tags.add("clitic")
            return PRONOUNS[self.dice.pick(["ich", "du", "wir"])]
        noun = self.noun(role.kinds, subject)
        self.combinations.add(f"{clause.verb.lemma} {noun.lemma}")
        if "goal" in role.kinds:
            return self.phrase(noun, "goal", 0.0)
        own = "own" in noun.kinds and OPENERS[place].own and is_person(subject)
        if own and self.dice.chance(0.15):
            return NounPhrase(self.possessive(subject), noun, self.plural(noun, 0.0))
        if not role.direct:
            place = "known" if clause.negation else "other"
            return self.phrase(noun, place, 0.1 * bool(role.kinds & PERSON))
        if "mass" in noun.kinds and place in ("object", "fresh"):
            place = "mass"
        return self.phrase(noun, place, 0.0 if "vague" in clause.verb.marks else 0.3, 0.35)

    def possessive(self, subject: Participant) -> str:
        """Il possessivo del soggetto; «euer» qui non si usa."""
        speakers = {0: "mein", 1: "dein", 3: "unser", 4: "mein"}
        if subject.person in speakers:
            return speakers[subject.person]
        if subject.column in (FEMININE, PLURAL):
            self.owners.add(subject.column)
        return POSSESSIVES[subject.column]

    def adorned(self, clause: Clause) -> Clause:
        """Aggiunge ciò che il verbo ammette: un'aggiunta, un avverbio.

        Ciò che capita non ha un giorno finché non è capitato: nessuno cade domani da una sedia.
        """
        verb, nicht = clause.verb, clause.negation in (None, NEGATIONS["nicht"])
        if verb.may and self.dice.chance(0.3):
            role = self.dice.pick(verb.may)
            who = self.phrase(
                self.noun(role.kinds, clause.subject),
                "known" if role.german == "ohne" else "other",
                0.05,
            )
            clause = clause._replace(extra=((role, who),))
        how = [it for it in verb.how if not clause.modal or it != GLADLY]
        if how and nicht and self.dice.chance(0.25):
            return clause._replace(manner=self.dice.pick(how))
        planned = clause.tense or "mishap" not in verb.marks
        if planned and not verb.marks & TIMELESS and nicht and self.dice.chance(0.25):
            return clause._replace(time=self.time(clause))
        plain = clause.modal is None and clause.negation is None
        often = plain and not clause.tense and "activity" in verb.marks
        if often and self.dice.chance(0.15):
            return clause._replace(often=self.dice.pick(self.words.often))
        return clause

    def time(self, clause: Clause) -> Words:
        """Un'espressione di tempo che si accorda con il verbo; l'abitudine non si nega."""
        if clause.tense:
            return self.dice.pick(self.words.times["past"])
        habit = self.words.times["habit"] if clause.negation is None else []
        return self.dice.pick(self.words.times["present"] + habit)

    # Ciò che segue un nome: di chi è, quale.

    def detailed(self, who: Participant, verb: Verb, last: bool) -> Participant:
        """A volte, dopo un gruppo, un genitivo; o una relativa, se è l'ultimo della sua parte."""
        if not isinstance(who, NounPhrase) or who.opener not in ("der", "ein"):
            return who
        owned = "own" in who.noun.kinds and "owned" not in verb.marks
        if owned and who.opener == "der" and self.dice.chance(0.1):
            return who._replace(after=self.genitive(who))
        if last and self.dice.chance(0.15):
            return who._replace(after=self.relative(who, verb))
        return who

    def genitive(self, who: NounPhrase) -> Words:
        """Il possessore: «des Lehrers», «del maestro»."""
        self.tags.add("genitive")
        owner = self.phrase(self.noun(OWNER, who), "known", 0.1, 0.0)
        return Words(owner.german(Case.GENITIVE), ["di", *owner.italian()])

    def relative(self, who: NounPhrase, verb: Verb) -> Words:
        """Una relativa con un altro verbo; nulla, se non si saprebbe chi fa e chi subisce."""
        self.tags.add("relative")
        before = self.persons, self.contrast
        self.persons, self.contrast = SPEAKERS, False
        subjects = [it for it in self.words.subjects_for(who.noun) if it is not verb]
        places = [it for it in self.words.places_for(who.noun) if it[0] is not verb]
        if subjects and (not places or self.dice.chance(0.5)):
            words = self.as_subject(who, self.dice.pick(subjects))
        else:
            words = self.as_object(who, *self.dice.pick(places)) if places else SILENCE
        self.persons, self.contrast = before
        return words

    def as_subject(self, who: NounPhrase, verb: Verb) -> Words:
        """Una relativa di cui il nome è il soggetto; senza tempo, che sembrerebbe dell'altra."""
        clause = self.clause(verb, who)._replace(time=SILENCE)
        if any(blurred(who, other, verb, role) for role, other in clause.roles):
            return SILENCE
        return relative_subject(who, clause)

    def as_object(self, who: NounPhrase, verb: Verb, role: Role) -> Words:
        """Una relativa di cui il nome è un complemento."""
        clause = self.clause(verb, self.subject(verb.subject, who), role)._replace(time=SILENCE)
        if blurred(who, clause.subject, verb, role):
            return SILENCE
        self.combinations.add(f"{verb.lemma} {who.noun.lemma}")
        return relative_object(who, role, clause)

    # Le frasi.

    def statement(self) -> Words:
        """«Der Lehrer, der im Dorf wohnt, liest heute das Buch.»

        In «Gestern sah sie die Frau» non si saprebbe chi vede: dopo il tempo «sie» non viene.
        """
        verb = self.dice.pick(self.words.full)
        clause = self.clause(verb, self.subject(verb.subject))
        clear = clause.time is not SILENCE and clause.subject != PRONOUNS["sie"]
        front = clear and self.dice.chance(0.6)
        subject = self.detailed(clause.subject, verb, last=True)
        roles = tuple(
            (role, self.detailed(who, verb, last=ends_with(clause, role)))
            for role, who in clause.roles
        )
        clause = clause._replace(subject=subject, roles=roles, front=front)
        return Words([*german_main(clause), "."], [*italian_clause(clause), "."])

    def description(self) -> Words:
        """«Die Äpfel sind nicht sehr süß.»"""
        noun = self.dice.pick(self.words.described)
        quality = self.dice.pick(self.words.qualities[noun.lemma])
        self.combinations.add(f"{quality.german} {noun.lemma}")
        tense = Tense.PAST if self.dice.chance(0.35) else Tense.PRESENT
        who, graded = self.phrase(noun, "known", qualities=0.0), quality.german not in ABSOLUTE
        clause = Clause(who, self.words.copula, tense, predicate=quality)
        clause = clause._replace(
            negation=NEGATIONS["nicht"] if self.dice.chance(0.15) else None,
            manner=VERY if graded and self.dice.chance(0.2) else SILENCE,
        )
        return Words([*german_main(clause), "."], [*italian_clause(clause), "."])

    def question(self) -> Words:
        """«Liest du das Buch?», «Warum liest du das Buch?»"""
        verb = self.dice.pick(self.words.full)
        clause = self.clause(verb, self.known(verb.subject))
        why = self.dice.chance(0.25)
        return Words(
            [*(["warum"] if why else []), *german_verb_first(clause), "?"],
            [*(["perché"] if why else []), *italian_question(clause), "?"],
        )

    def who_question(self) -> Words:
        """«Wer liest das Buch?»"""
        verb = self.dice.pick(self.words.personal)
        clause = self.clause(verb, PRONOUNS["wer"])
        return Words([*german_main(clause), "?"], [*italian_clause(clause), "?"])

    def object_question(self) -> Words:
        """«Was liest der Lehrer?», «Mit wem spricht er?»"""
        verb, role = self.dice.pick(self.words.askable)
        listening = len(verb.needs) > 1 and not role.direct
        subject = PRONOUNS["du"] if listening else self.known(verb.subject)
        clause = self.clause(verb, subject, role)
        person = role.kinds & PERSON
        german = [role.german, PRONOUNS["wer"].cases[role.case] if person else "was"]
        italian = [role.italian, *(["chi"] if person else ["che", "cosa"])]
        return Words(
            [*filter(None, german), *german_verb_first(clause), "?"],
            [*filter(None, italian), *italian_inverted(clause), "?"],
        )

    def circumstance_question(self) -> Words:
        """«Wo arbeitet der Lehrer?», «Wann kommt er an?»: dove non lavora, nessuno lo chiede."""
        german, italian, verbs = self.dice.pick(self.words.circumstances)
        verb = self.dice.pick(verbs)
        clause = self.completed(self.begun(verb, self.known(verb.subject), True))
        return Words(
            [german, *german_verb_first(clause), "?"], [italian, *italian_inverted(clause), "?"]
        )

    def mood(self) -> Words:
        """«Das Kind weint, weil es traurig ist», «Der Arzt arbeitet, obwohl er müde ist»."""
        mark = self.dice.pick(sorted(self.words.moods))
        verb, word = (
            self.dice.pick(self.words.by_mark[mark]),
            self.dice.pick(self.words.moods[mark]),
        )
        who = self.phrase(self.noun(verb.subject), "known", qualities=0.0)
        quality = self.words.feeling(word)
        self.combinations.add(f"{word} {who.noun.lemma}")
        clause = self.clause(verb, who, positive=mark != "effort")
        clause = clause._replace(modal=None, time=SILENCE, often=SILENCE)
        state = Tense.PAST if clause.tense else Tense.PRESENT
        feeling = Clause(again(who), self.words.copula, state, predicate=quality)
        if mark == "effort" and clause.negation is None:
            return subordinate(clause, "obwohl", "anche se", feeling)
        if mark == "effort":
            return subordinate(clause, "weil", "perché", feeling)
        if self.dice.chance(0.5):
            return subordinate(clause, "weil", "perché", feeling)
        first, main = feeling._replace(subject=who), clause._replace(subject=feeling.subject)
        return fronted("da", "siccome", first, main)

    def reason(self) -> Words:
        """«Der Mann wäscht das Hemd, weil es schmutzig ist.»"""
        verb, noun, quality = self.dice.pick(self.words.reasons)
        thing = self.phrase(noun, "known", 0.25, 0.0)
        subject = self.actor()
        while thing.column == subject.column and subject.person == thing.person:
            subject = self.actor()
        self.combinations |= {f"{verb.lemma} {noun.lemma}", f"{quality.german} {noun.lemma}"}
        tense = self.tense(verb, subject)
        first = Clause(subject, verb, tense, roles=((verb.needs[0], thing),))
        state = Tense.PAST if tense else Tense.PRESENT
        then = Clause(again(thing), self.words.copula, state, predicate=quality)
        return subordinate(first, "weil", "perché", then)

    def deal(self, deals: list[tuple[Verb, Verb, list[Noun]]]) -> tuple[Clause, Clause]:
        """Ci si procura una cosa, e ci si fa qualcosa: la seconda frase la riprende."""
        get, use, nouns = self.dice.pick(deals)
        noun, subject = self.dice.pick(nouns), self.actor()
        thing = self.phrase(noun, "mass" if "mass" in noun.kinds else "fresh")
        self.combinations |= {f"{verb.lemma} {noun.lemma}" for verb in (get, use)}
        self.tags.add("clitic")
        first = Clause(subject, get, self.tense(get, subject), roles=((get.needs[0], thing),))
        roles = tuple(
            (
                role,
                again(thing)
                if role.direct
                else self.phrase(self.noun(role.kinds, subject), "other"),
            )
            for role in use.needs
        )
        return first, Clause(again(subject), use, first.tense, roles=roles)

    def wish(self) -> Words:
        """«Die Frau kauft das Buch, weil sie es lesen will.»"""
        first, then = self.deal(self.words.plans)
        past = first.tense and then.subject.person not in SPEAKING
        then = then._replace(modal=self.words.modals[0], tense=Tense(bool(past)))
        return subordinate(first, "weil", "perché", then)

    def sequel(self) -> Words:
        """«Die Frau kauft das Buch und liest es.»"""
        return sequence(*self.deal(self.words.deals))

    def purpose(self) -> Words:
        """«Die Frau kauft das Buch, um es zu lesen.»"""
        return aimed(*self.deal(self.words.plans))

    def errand(self) -> Words:
        """«Die Frau geht zum Bahnhof, um ihren Bruder zu treffen.»"""
        verb = self.dice.pick(self.words.by_mark["going"])
        who = self.actor()
        while is_unknown(who):
            who = self.actor()
        going = self.clause(verb, who, positive=True)._replace(time=SILENCE, extra=())
        verb = self.dice.pick(self.words.by_mark["errand"])
        return aimed(going, self.completed(Clause(going.subject, verb, Tense.PRESENT)))

    def meeting(self) -> Words:
        """«Der Mann sieht die Frau und grüßt sie.»"""
        meet = self.dice.pick(self.words.by_mark["meet"])
        greet = self.dice.pick(self.words.by_mark["greet"])
        subject = self.actor()
        other = self.phrase(self.noun(PERSON, subject), "other")
        self.combinations |= {f"{verb.lemma} {other.noun.lemma}" for verb in (meet, greet)}
        self.tags.add("clitic")
        first = Clause(subject, meet, self.tense(meet, subject), roles=((meet.needs[0], other),))
        then = Clause(subject, greet, first.tense, roles=((greet.needs[0], again(other)),))
        return sequence(first, then)

    def report(self) -> Words:
        """«Der Lehrer weiß, dass die Studentin arbeitet.»"""
        main = Clause(self.actor(), self.dice.pick(self.words.by_mark["that"]), Tense.PRESENT)
        verb = self.dice.pick(self.words.full)
        says = "whether" not in main.verb.marks
        if says and verb.subject & PERSON and self.dice.chance(0.4):
            return subordinate(main, "dass", "che", self.clause(verb, again(main.subject)))
        return subordinate(main, "dass", "che", self.reported(main, verb, False))

    def doubt(self) -> Words:
        """«Der Lehrer fragt, ob der Zug ankommt», «Ich weiß nicht, ob …»."""
        verb = self.dice.pick(self.words.by_mark["whether"])
        negation = NEGATIONS["nicht"] if "that" in verb.marks else None
        main = Clause(self.actor(), verb, Tense.PRESENT, negation=negation)
        return subordinate(
            main, "ob", "se", self.reported(main, self.dice.pick(self.words.full), True)
        )

    def reported(self, main: Clause, verb: Verb, positive: bool) -> Clause:
        """Ciò che si sa, o si chiede, di qualcun altro."""
        subject = self.phrase(self.noun(verb.subject, main.subject), "actor")
        return self.clause(verb, subject, positive=positive)

    def meanwhile(self) -> Words:
        """«Die Frau arbeitet, während das Kind schläft.»"""
        first, second = self.two("activity", Tense.PRESENT)
        return subordinate(first, "während", "mentre", second)

    def when(self) -> Words:
        """«Als der Arzt ankam, weinte das Kind.»"""
        return fronted("als", "quando", *self.two("event", Tense.PAST))

    def two(self, mark: str, tense: Tense) -> tuple[Clause, Clause]:
        """Due persone diverse, ciascuna con un verbo di questo segno."""
        verbs = self.dice.pick(self.words.by_mark[mark]), self.dice.pick(self.words.by_mark[mark])
        one = self.phrase(self.noun(verbs[0].subject), "actor")
        other = self.phrase(self.noun(verbs[1].subject, one), "actor")
        first, second = Clause(one, verbs[0], tense), Clause(other, verbs[1], tense)
        return self.completed(first), self.completed(second)

    def compound(self) -> Words:
        """Due frasi qualsiasi unite da «und», «aber»."""
        first = self.part(STATEMENTS)
        self.persons, self.contrast = [it for it in SPEAKERS if it not in self.said], True
        second = self.part(STATEMENTS)
        german, italian = self.dice.pick([("und", "e"), ("aber", "ma")])
        return Words(
            [*first.german[:-1], ",", german, *second.german],
            [*first.italian[:-1], ",", italian, *second.italian],
        )

    # Ciò che il tedesco non decide.

    def formal(self) -> Words:
        """«Sie lesen das Buch»: loro, o Lei?"""
        self.tags.add("ambiguous")
        verb = self.dice.pick(self.words.personal)
        clause = self.clause(verb, PRONOUNS["wir"])
        german = german_main(clause._replace(subject=PRONOUNS["sie (plurale)"]))
        read = PRONOUNS[self.dice.pick(["sie (plurale)", "Sie"])]
        return Words([*german, "."], [*italian_clause(clause._replace(subject=read)), "."])

    def unnamed(self) -> Words:
        """«Sie hat ihn verlassen»: lui, o il paese in cui viveva?"""
        self.tags.add("ambiguous")
        verb = self.dice.pick(self.words.by_mark["whom"])
        column, place = self.dice.pick([(0, 0), (0, 1), (1, 0), (1, 1), (PLURAL, 2), (PLURAL, 3)])
        subject = PRONOUNS[self.dice.pick(PERSONS)]
        roles = ((verb.needs[0], third_person(column, place)),)
        clause = Clause(subject, verb, self.tense(verb, subject), roles=roles)
        return Words([*german_main(clause), "."], [*italian_clause(clause), "."])

    def speaker(self) -> Words:
        """«Ich bin müde»: stanco, o stanca?"""
        self.tags.add("ambiguous")
        who = PRONOUNS[self.dice.pick(["ich", "du", "wir"])]
        quality = self.words.feeling(self.dice.pick(self.words.moods["effort"]))
        who = who._replace(place=who.place + self.dice.pick([0, 1]))
        clause = Clause(who, self.words.copula, Tense.PRESENT, predicate=quality)
        return Words([*german_main(clause), "."], [*italian_clause(clause), "."])

    def either(self) -> Words:
        """«Ich kenne die Frau, die das Mädchen sieht»: chi vede chi?"""
        self.tags.add("ambiguous")
        know, see = (self.dice.pick(self.words.by_mark["whom"]) for _ in range(2))
        who, other = (NounPhrase("der", noun, False) for noun in self.dice.pick(self.words.twins))
        role = see.needs[0]
        acting = relative_subject(who, Clause(who, see, Tense.PRESENT, roles=((role, other),)))
        acted = relative_object(who, role, Clause(other, see, Tense.PRESENT))
        known = who._replace(after=self.dice.pick([acting, acted]))
        main = Clause(PRONOUNS["ich"], know, Tense.PRESENT, roles=((know.needs[0], known),))
        return Words([*german_main(main), "."], [*italian_clause(main), "."])


# Il corpus.

SHORTEST = 3
"""Le parole della frase più breve."""

LONGEST = 30
"""Le parole della frase più lunga."""

LONGEST_TRAINED = 12
"""Le parole della frase più lunga fra quelle con cui si addestra."""


def pairs(seed: int, count: int, split: str | None = None) -> Iterator[Pair]:
    """Le prime coppie che nascono dal seme.

    Argomenti:
        seed: il seme.
        count: quante.
        split: la parte da cui prenderle: vedi `split_of`; se manca, da tutte.
    """
    writer = Writer(lexicon(), Dice(seed))
    endless = (writer.pair() for _ in itertools.repeat(None))
    chosen = (pair for pair in endless if split in (None, split_of(pair)))
    return itertools.islice(chosen, count)


TWOFOLD = ("alt ", "gut ", "kurz ", "tragen ")
"""Le parole che l'italiano dice in più modi, secondo il nome: vecchio o anziano, buono o bravo,
portare o indossare.

Di un incontro mai visto nessuno saprebbe quale: i loro non si tengono da parte.
"""


def held_out(combination: str) -> bool:
    """Un incontro di parole su otto non si mostra mai in addestramento, sempre lo stesso."""
    return not combination.startswith(TWOFOLD) and zlib.crc32(combination.encode()) % 8 == 0


def split_of(pair: Pair) -> str | None:
    """La parte a cui una coppia appartiene: dipende dalle frasi e dagli incontri annotati.

    Fra gli incontri resta a volte quello di un pezzo scartato scrivendo. Una frase lunga con un
    incontro tenuto da parte proverebbe due cose insieme, e non sta da nessuna parte.

    Restituisce:
        «ambiguous», «heldout», «long», «dev», «train», o None.
    """
    if pair.ambiguous:
        return "ambiguous"
    new, long = any(map(held_out, pair.combinations)), pair.length > LONGEST_TRAINED
    if new or long:
        return None if new and long else "heldout" if new else "long"
    return "dev" if zlib.crc32(pair.german.encode()) % 50 == 0 else "train"


def write_corpus(folder: Path, seed: int, train: int, test: int) -> None:
    """Scrive il corpus: per ogni parte due file paralleli, una frase per riga, tutte diverse.

    Argomenti:
        folder: la cartella, che deve esserci.
        seed: il seme.
        train: quante coppie per addestrare.
        test: quante in ciascuna delle altre parti.

    Solleva:
        ValueError: se una quantità non è positiva o la cartella manca.
    """
    require(train > 0, "train", train, "almeno 1")
    require(test > 0, "test", test, "almeno 1")
    require(folder.is_dir(), "folder", folder, "una cartella che esiste")
    wanted = {"train": train} | dict.fromkeys(("dev", "heldout", "long", "ambiguous"), test)
    chosen: dict[str, dict[tuple[str, str], None]] = {name: {} for name in wanted}
    writer, counts = Writer(lexicon(), Dice(seed)), Counter[str]()
    while any(len(chosen[name]) < wanted[name] for name in wanted):
        pair = writer.pair()
        name = split_of(pair)
        if name and len(chosen[name]) < wanted[name]:
            if name == "train" and not is_useful(pair, counts, len(chosen["train"])):
                continue
            chosen[name][pair.german, pair.italian] = None
    for name, found in chosen.items():
        write_lines(folder / f"{name}.de", [german for german, _ in found])
        write_lines(folder / f"{name}.it", [italian for _, italian in found])


RARE = 1500
"""Una parola è rara finché sta in al più una frase su tante."""


def is_useful(pair: Pair, counts: Counter[str], sentences: int) -> bool:
    """Vero se la coppia ha almeno una parola rara; allora se ne contano le parole.

    Il caso ripete le parole comuni. Chi sceglie frasi che ne hanno una rara ne mostra di più con lo
    stesso numero di frasi.
    """
    words = {*pair.german.split(), *pair.italian.split()}
    rare = any(counts[word] * RARE <= sentences for word in words)
    if rare:
        counts.update(words)
    return rare


def write_lines(path: Path, lines: list[str]) -> None:
    """Scrive un file intero o nessuno: prima con un nome provvisorio, poi con il suo."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
    temporary.replace(path)
