"""Oltre l'articolo: un piccolo treebank italiano, scritto da una grammatica.

Il Penn Treebank di §6.3 non si può distribuire. Qui una grammatica di poche pagine scrive quante
frasi si vogliono, ciascuna con il suo albero. A chi si attacca un sintagma preposizionale lo decide
il significato delle parole, secondo una tabella: perciò il compito si può imparare.
"""

import itertools
import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

from attention.s0_abstract import require
from attention.s3_model_architecture import check_size
from attention.s6_3_constituency_parsing import (
    PUNCTUATION,
    ROOT,
    Score,
    Tree,
    linearize,
    walk,
)


@dataclass(frozen=True)
class Noun:
    """Un nome.

    Argomenti:
        kind: la classe di significato, da cui dipende a che cosa può legarsi.
        gender: m o f.
        singular, plural: le due forme; plural è vuota per i nomi che non la usano.
    """

    kind: str
    gender: str
    singular: str
    plural: str


@dataclass(frozen=True)
class Verb:
    """Un verbo al presente, terza persona.

    Argomenti:
        kind: la classe di significato.
        singular, plural: le due forme.
        objects: le classi dei nomi che può avere per oggetto; vuota se non ne ha.
    """

    kind: str
    singular: str
    plural: str
    objects: tuple[str, ...]


@dataclass(frozen=True)
class Adjective:
    """Un aggettivo.

    Argomenti:
        forms: maschile e femminile singolari, maschile e femminile plurali.
        kinds: le classi dei nomi a cui si può dare.
    """

    forms: tuple[str, ...]
    kinds: frozenset[str]


def cards(deck: str) -> list[tuple[str, list[str]]]:
    """Un mazzo di schede, una per riga: ciò che sta prima dei due punti, e le voci dopo."""
    lines = (line.partition(":") for line in deck.strip().splitlines())
    return [(name.strip(), [it.strip() for it in items.split(",")]) for name, _, items in lines]


NOUN_CARDS = """
persona: m ragazzo ragazzi, f ragazza ragazze, m maestro maestri, f maestra maestre, m cuoco cuochi
persona: m marinaio marinai, m pittore pittori, f pittrice pittrici, m zio zii, f zia zie
persona: m studente studenti, f studentessa studentesse, m amico amici, f amica amiche
persona: m ingegnere ingegneri, f astronoma astronome, m scultore scultori, f sarta sarte
animale: m gatto gatti, m cane cani, m leone leoni, m uccello uccelli, m scoiattolo scoiattoli
cielo: f stella stelle, f cometa comete, m pianeta pianeti, f nuvola nuvole
barca: f nave navi, f barca barche, m veliero velieri, m traghetto traghetti
edificio: f casa case, m palazzo palazzi, f torre torri, m albergo alberghi
pianta: m albero alberi, m pino pini, f quercia querce, f rosa rose
scritto: f lettera lettere, f poesia poesie, m racconto racconti, m biglietto biglietti
lettura: m libro libri, m giornale giornali, m romanzo romanzi, m manuale manuali
cibo: f torta torte, f mela mele, m formaggio formaggi, m panino panini
superficie: m tavolo tavoli, f finestra finestre, m piatto piatti, m specchio specchi
macchina: f bicicletta biciclette, m orologio orologi, f lampada lampade, f sedia sedie
abito: f camicia camicie, f gonna gonne, m vestito vestiti, f giacca giacche
luogo: m giardino, f stanza, m museo, m cortile, m parco, m bosco, m prato, m salone
accessorio: m cappello cappelli, m ombrello ombrelli, m zaino zaini, f valigia valigie
ottica: m cannocchiale cannocchiali, m binocolo binocoli, m telescopio telescopi
luce: f lanterna lanterne, f candela candele, f torcia torce, f lente lenti
penna: f penna penne, f matita matite, m pennarello pennarelli, m pastello pastelli
lama: m coltello coltelli, m coltellino coltellini, f affettatrice affettatrici, f lama lame
panno: m straccio stracci, f spugna spugne, m panno panni, m asciugamano asciugamani
attrezzo: m martello martelli, m cacciavite cacciaviti, f pinza pinze, f tenaglia tenaglie
ornamento: m collare collari, m campanello campanelli, m nastro nastri, m fiocco fiocchi
recinto: f gabbia gabbie, m recinto recinti, f cesta ceste, m cesto cesti
armamento: f bandiera bandiere, f scialuppa scialuppe, f cabina cabine, m ponte ponti
esterno: m balcone balconi, f terrazza terrazze, m portico portici, m camino camini
segno: m timbro timbri, f dedica dediche, f sigla sigle, m disegno disegni
farcitura: f panna, f crema, f marmellata, m miele
parte: m bordo bordi, f cornice cornici, f maniglia maniglie, f decorazione decorazioni
rifinitura: f tasca tasche, m bottone bottoni, m cappuccio cappucci, f cintura cinture
materia: f fisica, f storia, f geografia, f chimica, f musica, f botanica
tessuto: f lana, f seta, m cotone, m velluto
materiale: m legno, m vetro, m ferro, m marmo
fantasia: f righe, m quadri, m fiori, m pallini
uso: f sera, m lavoro, m viaggio, f cerimonia
spinta: f vela, m vapore, m motore, m remi
"""
"""I nomi per classe: genere, singolare, plurale se si usa."""

VERB_CARDS = """
vedere persona animale cielo barca edificio pianta: osserva osservano, guarda guardano
vedere persona animale cielo barca edificio pianta: scruta scrutano, ammira ammirano
incontrare persona: saluta salutano, incontra incontrano, aspetta aspettano, invita invitano
disegnare persona animale barca edificio pianta: disegna disegnano, ritrae ritraggono
disegnare persona animale barca edificio pianta: abbozza abbozzano, dipinge dipingono
scrivere scritto: scrive scrivono, firma firmano, corregge correggono, copia copiano
tagliare cibo: taglia tagliano, affetta affettano, divide dividono, sminuzza sminuzzano
pulire superficie: pulisce puliscono, lava lavano, asciuga asciugano, lucida lucidano
riparare macchina: ripara riparano, smonta smontano, aggiusta aggiustano, monta montano
leggere lettura scritto: legge leggono, sfoglia sfogliano, consulta consultano, rilegge rileggono
comprare abito lettura cibo: compra comprano, riceve ricevono, ordina ordinano, ritira ritirano
regalare abito lettura cibo: regala regalano, presta prestano, mostra mostrano, porta portano
riposare: dorme dormono, riposa riposano, gioca giocano, corre corrono
lavorare: lavora lavorano, passeggia passeggiano, canta cantano, cena cenano
dire: dice dicono, racconta raccontano, ricorda ricordano, sostiene sostengono
"""
"""I verbi per classe, con le classi dei loro oggetti: singolare, plurale."""

ADJECTIVE_CARDS = """
persona animale: stanco stanca stanchi stanche, allegro allegra allegri allegre
persona animale: curioso curiosa curiosi curiose, giovane giovane giovani giovani
abito superficie macchina barca edificio accessorio: rosso rossa rossi rosse
abito superficie macchina barca edificio accessorio: grigio grigia grigi grigie
abito superficie macchina barca edificio accessorio lettura: nuovo nuova nuovi nuove
abito superficie macchina barca edificio accessorio lettura: antico antica antichi antiche
"""
"""Gli aggettivi per classi di nomi: maschile e femminile, singolari e plurali."""


@cache
def nouns(kind: str) -> tuple[Noun, ...]:
    """I nomi di una classe."""
    items = [item for name, items in cards(NOUN_CARDS) if name == kind for item in items]
    words = (f"{item} ".split(" ") for item in items)
    return tuple(Noun(kind, gender, one, many) for gender, one, many, *_ in words)


@cache
def verbs() -> tuple[Verb, ...]:
    """Tutti i verbi."""
    found: list[Verb] = []
    for name, items in cards(VERB_CARDS):
        kind, *objects = name.split()
        forms = (item.split() for item in items)
        found += [Verb(kind, one, many, tuple(objects)) for one, many in forms]
    return tuple(found)


@cache
def verb_kinds(subject: str) -> tuple[str, ...]:
    """Le classi dei verbi che una classe di soggetti può avere: un animale può solo riposare."""
    every = tuple(dict.fromkeys(verb.kind for verb in verbs()))
    return every if subject == "persona" else ("riposare",)


@cache
def adjectives(kind: str) -> tuple[Adjective, ...]:
    """Gli aggettivi che si possono dare ai nomi di una classe."""
    found = [
        Adjective(tuple(item.split()), frozenset(name.split()))
        for name, items in cards(ADJECTIVE_CARDS)
        for item in items
    ]
    return tuple(adjective for adjective in found if kind in adjective.kinds)


LINK_CARDS = """
con: persona accessorio, persona ottica, persona luce, persona penna, persona lama
con: persona panno, persona attrezzo, animale ornamento, barca armamento, edificio esterno
con: scritto segno, lettura segno, cibo farcitura, superficie parte, macchina parte
con: abito rifinitura, vedere ottica, vedere luce, leggere luce, luogo luce, disegnare penna
con: disegnare panno, scrivere penna, scrivere segno, tagliare lama, pulire panno
con: riparare attrezzo, incontrare accessorio, incontrare luce, incontrare panno
in: animale recinto, edificio luogo, pianta luogo, recinto luogo, incontrare luogo, scrivere luogo
in: tagliare luogo, leggere luogo, comprare luogo, riposare luogo, lavorare luogo
di: edificio persona, animale persona, barca persona, lettura persona, abito persona
di: macchina persona, recinto persona, lettura materia, abito tessuto, superficie materiale
di: barca materiale
a: abito fantasia, barca spinta, regalare persona
da: abito uso, comprare persona
"""
"""Per ogni preposizione, le classi che lega: prima il capo, poi il nome che lo segue."""

BARE = frozenset({"materia", "tessuto", "materiale", "fantasia", "uso", "spinta"})
"""Le classi dei nomi che dopo la preposizione non vogliono l'articolo."""


ORDER = ("di", "da", "a", "con", "in")
"""Le preposizioni nell'ordine in cui seguono un capo: «il gatto della sarta con il campanello»."""


@cache
def links() -> frozenset[tuple[str, str, str]]:
    """I legami possibili: classe del capo, preposizione, classe del nome."""
    return frozenset(
        (head, preposition, kind)
        for preposition, items in cards(LINK_CARDS)
        for head, kind in (item.split() for item in items)
    )


@cache
def links_of(kind: str) -> tuple[tuple[str, str, str], ...]:
    """I legami di cui una classe può essere il capo, sempre nello stesso ordine."""
    return tuple(sorted(link for link in links() if link[0] == kind))


def fits(head: Noun | Verb, preposition: str, noun: Noun) -> bool:
    """Vero se il significato permette di legare quel nome a quel capo."""
    return (head.kind, preposition, noun.kind) in links()


Pair = tuple[str, str, str]
"""Un legame fra parole: il capo, la preposizione, il nome, al singolare."""


@cache
def lexicon() -> dict[str, int]:
    """Il numero d'ordine di ogni parola che può stare in un legame."""
    kinds = dict.fromkeys(name for name, _ in cards(NOUN_CARDS))
    words = [noun.singular for kind in kinds for noun in nouns(kind)]
    return {word: place for place, word in enumerate([*words, *(it.singular for it in verbs())])}


def split_of(pair: Pair) -> str:
    """A quale parte del corpus un legame è riservato: train, dev o test.

    Due legami su dieci non si vedono mai in addestramento: il capo e il nome vi compaiono, ma con
    altri compagni della stessa classe.
    """
    head, _, noun = pair
    place = (lexicon()[head] + 3 * lexicon()[noun]) % 10
    return {0: "test", 1: "dev"}.get(place, "train")


def article(noun: Noun, plural: bool) -> str:
    """L'articolo determinativo: il, lo, l', i, gli, la, le."""
    word = noun.plural if plural else noun.singular
    vowel = word[0] in "aeiou"
    if noun.gender == "f":
        return "le" if plural else "l'" if vowel else "la"
    if vowel or is_impure(word):
        return "gli" if plural else "l'" if vowel else "lo"
    return "i" if plural else "il"


def is_impure(word: str) -> bool:
    """Vero se davanti alla parola il maschile vuole «lo»: s seguita da consonante, z, gn, ps."""
    return re.match(r"s[^aeiou]|z|gn|ps", word) is not None


def indefinite(noun: Noun) -> str:
    """L'articolo indeterminativo: un, uno, una, un'."""
    vowel = noun.singular[0] in "aeiou"
    if noun.gender == "f":
        return "un'" if vowel else "una"
    return "uno" if is_impure(noun.singular) else "un"


STEMS = {"di": "de", "a": "a", "da": "da", "in": "ne"}
"""Le preposizioni che si fondono con l'articolo, e che cosa ne resta."""

ENDINGS = {
    "il": "l",
    "lo": "llo",
    "l'": "ll'",
    "i": "i",
    "gli": "gli",
    "la": "lla",
    "le": "lle",
}
"""Che cosa resta dell'articolo fuso con la preposizione."""


Choice = TypeVar("Choice")
"""Il tipo di ciò che si sceglie a sorte."""

ANIMATE = {"persona", "animale"}
"""Le classi dei nomi che possono fare da soggetto."""

NARROW = {"incontrare", "tagliare"}
"""Le classi dei verbi che si dicono soltanto dei loro oggetti."""


def could_take(verb: Verb, noun: Noun) -> bool:
    """Vero se chi legge potrebbe prendere il nome per l'oggetto del verbo.

    Un martello si guarda, si compra, si smonta; non si saluta e non si affetta.
    """
    if noun.kind in verb.objects or verb.kind in {"vedere", "disegnare"}:
        return True
    return verb.kind not in NARROW and noun.kind not in ANIMATE | BARE


@dataclass(frozen=True)
class Group:
    """Un sintagma nominale mentre si scrive la frase.

    Argomenti:
        tree: il suo albero.
        heads: i nomi a cui un sintagma che segue si potrebbe legare.
        plural: vero se il verbo si accorda al plurale.
    """

    tree: Tree
    heads: tuple[Noun, ...]
    plural: bool


@dataclass(frozen=True)
class Example:
    """Una frase con il suo albero e i legami fra parole che contiene."""

    tree: Tree
    pairs: frozenset[Pair]

    @property
    def split(self) -> str:
        """La parte del corpus a cui appartiene; vuota se mescola legami di dev e di test."""
        reserved = {split_of(pair) for pair in self.pairs} - {"train"}
        return "" if len(reserved) > 1 else next(iter(reserved), "train")


SUBJECTS = ("persona", "persona", "persona", "persona", "animale")
"""Le classi fra cui si sceglie un soggetto: una volta su cinque è un animale."""


class Writer:
    """Scrive una frase: tira a sorte, e annota i legami che usa.

    Argomenti:
        rng: il generatore. Se ne usa soltanto `random()`, la cui successione Python garantisce.
    """

    def __init__(self, rng: random.Random):
        self.rng = rng
        self.pairs: set[Pair] = set()

    def chance(self, probability: float) -> bool:
        """Vero con quella probabilità."""
        return self.rng.random() < probability

    def pick(self, options: Sequence[Choice]) -> Choice:
        """Una delle scelte, tutte con la stessa probabilità."""
        return options[int(self.rng.random() * len(options))]

    def noun(self, kinds: Sequence[str]) -> tuple[Noun, bool]:
        """Un nome di una di quelle classi, e se è al plurale."""
        noun = self.pick(nouns(self.pick(kinds)))
        return noun, noun.plural != "" and self.chance(0.3)

    def determiner(self, noun: Noun, plural: bool) -> Tree:
        """L'articolo determinativo o indeterminativo, o un numero."""
        if self.chance(0.6) or not (plural or noun.plural):
            return Tree("DT", word=article(noun, plural))
        if plural:
            return Tree("CD", word=self.pick(("due", "tre", "quattro")))
        return Tree("DT", word=indefinite(noun))

    def simple(self, noun: Noun, plural: bool) -> Tree:
        """Determinante, nome, qualche volta un aggettivo."""
        return self.named(noun, plural, [self.determiner(noun, plural)])

    def named(self, noun: Noun, plural: bool, before: list[Tree]) -> Tree:
        """Un nome dopo ciò che lo precede, e qualche volta seguito da un aggettivo."""
        leaves = [*before, Tree("NN", word=noun.plural if plural else noun.singular)]
        options = adjectives(noun.kind)
        if options and self.chance(0.2):
            forms = self.pick(options).forms
            leaves.append(Tree("JJ", word=forms[2 * plural + (noun.gender == "f")]))
        return Tree("NP", tuple(leaves))

    def phrase(
        self, head: Noun | Verb, sites: Sequence[Noun | Verb], used: Sequence[str]
    ) -> tuple[Tree, str, Noun] | None:
        """Un sintagma legato a `head`, con la sua preposizione e il suo nome; None se non si può.

        Si può se, fra tutti i capi a cui la posizione permetterebbe di legarlo, il significato ne
        ammette uno solo.

        Argomenti:
            head: il capo.
            sites: tutti i capi visibili, `head` compreso.
            used: le preposizioni già usate con quel capo; questa le segue nell'ordine.
        """
        later = ORDER[1 + ORDER.index(used[-1]) :] if used else ORDER
        options = [link for link in links_of(head.kind) if link[1] in later]
        if not options:
            return None
        _, preposition, kind = self.pick(options)
        noun, plural = self.noun([kind])
        if [site for site in sites if fits(site, preposition, noun)] != [head]:
            return None
        self.pairs.add((head.singular, preposition, noun.singular))
        return self.prepositional(preposition, noun, plural), preposition, noun

    def prepositional(self, preposition: str, noun: Noun, plural: bool) -> Tree:
        """Preposizione e nome: nudo, o con l'articolo, che se può si fonde con la preposizione."""
        if noun.kind in BARE:
            leaves: list[Tree] = []
        elif preposition in STEMS:
            preposition = STEMS[preposition] + ENDINGS[article(noun, plural)]
            leaves = []
        else:
            leaves = [self.determiner(noun, plural)]
        return Tree("PP", (Tree("IN", word=preposition), self.named(noun, plural, leaves)))

    def nominal(self, kinds: Sequence[str], deep: bool, verb: Verb | None = None) -> Group:
        """Un sintagma nominale.

        Argomenti:
            kinds: le classi fra cui scegliere il nome.
            deep: vero se può contenere una relativa.
            verb: il verbo di cui è oggetto, che si vede anche da qui; None per un soggetto.
        """
        noun, plural = self.noun(kinds)
        parts = [self.simple(noun, plural)]
        phrases, heads = self.phrases(noun, [noun], (0.5, 0.3), verb)
        relative = self.relative(noun, plural, heads) if deep and self.chance(0.3) else None
        parts += [*phrases, *([relative] if relative else [])]
        tree = Tree("NP", tuple(parts)) if len(parts) > 1 else parts[0]
        return Group(tree, () if relative else tuple(heads), plural)

    def phrases(
        self,
        head: Noun | Verb,
        nouns_before: Sequence[Noun],
        chances: Sequence[float],
        verb: Verb | None,
    ) -> tuple[list[Tree], list[Noun]]:
        """I sintagmi preposizionali di un capo, ciascuno con la sua probabilità.

        Ci si ferma al primo che manca, e dopo il nome di una persona: ciò che segue potrebbe
        sembrare suo. Le preposizioni seguono `ORDER`, e nessuna si ripete.

        Argomenti:
            head: il capo.
            nouns_before: i nomi che precedono, e che si vedono.
            chances: le probabilità.
            verb: il verbo che si vede, se c'è.

        Restituisce:
            I sintagmi, e i nomi a cui ciò che segue si potrebbe legare.
        """
        trees: list[Tree] = []
        heads, used = list(nouns_before), list[str]()
        for probability in chances:
            sites: list[Noun | Verb] = [verb, *heads] if verb else [*heads]
            attached = self.phrase(head, sites, used) if self.chance(probability) else None
            if attached is None:
                break
            tree, preposition, noun = attached
            trees.append(tree)
            used.append(preposition)
            heads.append(noun)
            if noun.kind == "persona":
                break
        return trees, heads

    def relative(self, noun: Noun, plural: bool, heads: Sequence[Noun]) -> Tree | None:
        """Una frase relativa, se fra i nomi visibili soltanto `noun` può esserne l'antecedente."""
        if self.chance(0.5):
            if [head for head in heads if head.kind in ANIMATE] != [noun]:
                return None
            verb = self.verb(noun.kind, deep=False)
            clause = Tree("S", (self.verb_phrase(verb, plural, deep=False),))
        else:
            takers = [verb for verb in verbs() if noun.kind in verb.objects]
            if not takers:
                return None
            verb = self.pick(takers)
            if [head for head in heads if could_take(verb, head)] != [noun]:
                return None
            subject, several = self.noun(["persona"])
            form = Tree("VB", word=verb.plural if several else verb.singular)
            clause = Tree("S", (self.simple(subject, several), Tree("VP", (form,))))
        return Tree("SBAR", (Tree("WP", word="che"), clause))

    def verb(self, subject: str, deep: bool) -> Verb:
        """Un verbo che quella classe di soggetti può avere.

        Argomenti:
            subject: la classe del soggetto.
            deep: vero se può reggere un'altra frase.
        """
        kind = self.pick([kind for kind in verb_kinds(subject) if deep or kind != "dire"])
        return self.pick([it for it in verbs() if it.kind == kind])

    def verb_phrase(self, verb: Verb, plural: bool, deep: bool) -> Tree:
        """Un verbo con ciò che lo segue.

        Argomenti:
            verb: il verbo.
            plural: vero se il soggetto è al plurale.
            deep: vero se può contenere un'altra frase.
        """
        parts = [Tree("VB", word=verb.plural if plural else verb.singular)]
        if verb.kind == "dire":
            clause = Tree("S", self.clause(deep=False))
            return Tree("VP", (*parts, Tree("SBAR", (Tree("IN", word="che"), clause))))
        if self.chance(0.15):
            adverb = self.pick(("spesso", "volentieri", "sempre", "talvolta"))
            parts.append(Tree("ADVP", (Tree("RB", word=adverb),)))
        heads: tuple[Noun, ...] = ()
        if verb.objects:
            group = self.object(verb, deep)
            parts.append(group.tree)
            heads = group.heads
        if heads or not verb.objects:
            parts += self.phrases(verb, heads, (0.8, 0.4), verb)[0]
        return Tree("VP", tuple(parts))

    def object(self, verb: Verb, deep: bool) -> Group:
        """L'oggetto di un verbo: un sintagma nominale, o due coordinati."""
        if self.chance(0.12):
            return self.coordinated(verb.objects)
        return self.nominal(verb.objects, deep, verb)

    def coordinated(self, kinds: Sequence[str]) -> Group:
        """Due sintagmi nominali uniti da «e»; un aggettivo dopo il secondo sembrerebbe di tutti."""
        first, several = self.noun(kinds)
        others = [noun for kind in kinds for noun in nouns(kind) if noun != first]
        second, plural = self.pick(others), self.chance(0.3)
        left = self.simple(first, several)
        word = Tree("NN", word=second.plural if plural else second.singular)
        right = Tree("NP", (self.determiner(second, plural), word))
        return Group(Tree("NP", (left, Tree("CC", word="e"), right)), (first, second), plural=True)

    def clause(self, deep: bool) -> tuple[Tree, Tree]:
        """Soggetto e predicato."""
        kind = self.pick(SUBJECTS)
        subject = self.coordinated([kind]) if self.chance(0.12) else self.nominal([kind], deep)
        return subject.tree, self.predicate(kind, subject.plural, deep)

    def predicate(self, subject: str, plural: bool, deep: bool) -> Tree:
        """Un sintagma verbale, o due con verbi diversi.

        Il primo di due ha un oggetto e nessun'altra frase: in «gioca e corre nel cortile» il luogo
        sembrerebbe di entrambi. In fondo a «dice che» se ne trova uno solo.
        """
        if not (deep and subject == "persona" and self.chance(0.15)):
            return self.verb_phrase(self.verb(subject, deep), plural, deep)
        first, second = self.verb(subject, deep=False), self.verb(subject, deep)
        while not first.objects or second == first:
            first = self.verb(subject, deep=False)
        return Tree(
            "VP",
            (
                self.verb_phrase(first, plural, deep=False),
                Tree("CC", word="e"),
                self.verb_phrase(second, plural, deep),
            ),
        )

    def sentence(self) -> Tree:
        """Una frase intera: semplice, coordinata, o preceduta da una subordinata."""
        roll = self.rng.random()
        parts: tuple[Tree, ...] = self.clause(deep=roll >= 0.15)
        if roll < 0.15:
            joint = Tree("CC", word=self.pick(("e", "ma")))
            other = Tree("S", self.clause(deep=True))
            parts = (Tree("S", parts), Tree(",", word=","), joint, other)
        elif roll < 0.3:
            opening = Tree("IN", word=self.pick(("quando", "mentre", "se")))
            first = Tree("SBAR", (opening, Tree("S", self.clause(deep=False))))
            parts = (first, Tree(",", word=","), *parts)
        return Tree(ROOT, (Tree("S", (*parts, Tree(".", word="."))),))


SHORTEST = 5
"""Quante parole ha almeno una frase, senza contare la punteggiatura."""

LONGEST = 25
"""Quante ne ha al più."""


def compose(rng: random.Random) -> Example:
    """Una frase della lunghezza giusta, con i suoi legami."""
    while True:
        writer = Writer(rng)
        tree = writer.sentence()
        spoken = sum(leaf.label not in PUNCTUATION for leaf in tree.leaves)
        if SHORTEST <= spoken <= LONGEST:
            return Example(tree, frozenset(writer.pairs))


@dataclass(frozen=True)
class Treebank:
    """Le tre parti di un corpus di alberi.

    Argomenti:
        train: gli alberi per addestrare.
        dev: quelli per scegliere; in ognuno c'è almeno un legame che in train non c'è.
        test: quelli per il voto finale; lo stesso, con altri legami.
    """

    train: tuple[Tree, ...]
    dev: tuple[Tree, ...]
    test: tuple[Tree, ...]


def treebank(seed: int, train: int, dev: int, test: int) -> Treebank:
    """Un corpus di frasi tutte diverse, lo stesso per lo stesso seme.

    Chiederne di più allunga le parti, e non cambia ciò che c'era.

    Argomenti:
        seed: il seme.
        train, dev, test: quante frasi per parte.

    Solleva:
        TypeError, ValueError: se un numero non è intero, o è negativo.
    """
    sizes = {"train": train, "dev": dev, "test": test}
    for name, size in {"seed": seed, **sizes}.items():
        check_size(size, name, lowest=0)
    rng = random.Random(seed)
    found: dict[str, dict[tuple[str, ...], Tree]] = {name: {} for name in sizes}
    while any(len(found[name]) < size for name, size in sizes.items()):
        example = compose(rng)
        part = example.split
        if part and len(found[part]) < sizes[part]:
            found[part][example.tree.words] = example.tree
    return Treebank(*(tuple(part.values()) for part in found.values()))


def text(tree: Tree) -> str:
    """La frase come si scrive: iniziale maiuscola, niente spazio dopo l'apostrofo."""
    line = re.sub(r" (?=[.,])|(?<=') ", "", " ".join(tree.words))
    return line[0].upper() + line[1:]


def attachments(tree: Tree) -> set[tuple[int, str, int]]:
    """Di ogni sintagma preposizionale, dove comincia, e a quale costituente sta attaccato.

    Restituisce:
        Il posto della prima parola; l'etichetta e la prima parola del costituente che lo contiene.
    """
    found: set[tuple[int, str, int]] = set()
    inside: list[tuple[str, int]] = []
    place = 0
    for node, opening in walk(tree):
        if node.word:
            place += 1
        elif opening:
            if node.label == "PP" and inside:
                found.add((place, *inside[-1]))
            inside.append((node.label, place))
        else:
            inside.pop()
    return found


def attachment_score(expected: Tree, given: Tree) -> Score:
    """Quanti sintagmi preposizionali sono attaccati dove devono: il voto che F1 diluisce."""
    right, judged = attachments(expected), attachments(given)
    return Score(len(right & judged), len(right), len(judged))


class Symbols:
    """Un vocabolario di parole e di parentesi, comune alle due: l'embedding è uno solo.

    I primi tre numeri sono del padding, dell'inizio e della fine, come in `TransformerConfig`.

    Argomenti:
        trees: gli alberi da cui si prendono parole e token.
    """

    def __init__(self, trees: Iterable[Tree]):
        seen = {token for tree in trees for token in (*tree.words, *linearize(tree))}
        self.names = ("<pad>", "<s>", "</s>", *sorted(seen))
        self.numbers = {name: number for number, name in enumerate(self.names)}

    def __len__(self) -> int:
        """Quante voci, comprese le tre speciali."""
        return len(self.names)

    def encode(self, tokens: Iterable[str]) -> list[int]:
        """I numeri di una successione di parole o di token.

        Solleva:
            ValueError: se uno non è nel vocabolario.
        """
        tokens = list(tokens)
        unknown = [token for token in tokens if token not in self.numbers]
        require(not unknown, "tokens", " ".join(unknown), "parole e token del vocabolario")
        return [self.numbers[token] for token in tokens]

    def decode(self, numbers: Iterable[int]) -> list[str]:
        """Il contrario, fino alla fine; i numeri speciali non danno nulla."""
        names = itertools.takewhile(
            lambda name: name != "</s>", map(self.names.__getitem__, numbers)
        )
        return [name for name in names if name not in ("<pad>", "<s>")]
