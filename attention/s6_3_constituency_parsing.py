"""§6.3: l'analisi sintattica a costituenti, trattata come una traduzione.

La frase è la sorgente; la destinazione è il suo albero, scritto come successione di parentesi. Qui
ci sono l'albero, le due scritture, il ritorno da una successione qualsiasi a un albero, il voto con
cui si confrontano due alberi, la tabella 4.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal

from attention.s0_abstract import PERFECT, check_printed, require
from attention.s3_model_architecture import TransformerConfig


@dataclass(frozen=True)
class Tree:
    """Un albero sintattico: un'etichetta, e sotto altri alberi oppure una parola.

    Argomenti:
        label: l'etichetta del costituente, o la categoria della parola.
        children: i costituenti che lo compongono, in ordine.
        word: la parola, se è una foglia.

    Solleva:
        TypeError: se un figlio non è un albero, o un'etichetta non è una stringa.
        ValueError: se non ha né figli né parola, se ha gli uni e l'altra, se un'etichetta o una
            parola è vuota o contiene spazi o parentesi tonde.
    """

    label: str
    children: tuple["Tree", ...] = ()
    word: str = ""

    def __post_init__(self) -> None:
        check_symbol(self.label, "label")
        trees = all(isinstance(child, Tree) for child in self.children)
        require(trees, "children", self.children, "alberi", TypeError)
        if self.word != "":
            check_symbol(self.word, "word")
        leaf = "una parola e figli" if self.word else "né figli né parola"
        require(bool(self.children) != bool(self.word), "children", leaf, "figli oppure una parola")

    def __str__(self) -> str:
        """L'albero con le parentesi, su una riga, come nel Penn Treebank."""
        pieces = []
        for node, opening in walk(self):
            if node.word:
                pieces.append(f" ({node.label} {node.word})")
            else:
                pieces.append(f" ({node.label}" if opening else ")")
        return "".join(pieces).strip()

    @property
    def leaves(self) -> tuple["Tree", ...]:
        """Le foglie, da sinistra a destra."""
        return tuple(node for node, _ in walk(self) if node.word)

    @property
    def words(self) -> tuple[str, ...]:
        """La frase."""
        return tuple(leaf.word for leaf in self.leaves)


def check_symbol(text: object, argument: str) -> None:
    """Un'etichetta o una parola: una stringa, non vuota, senza spazi né parentesi."""
    if not isinstance(text, str):
        raise TypeError(f"{argument}: dato: {text!r}; atteso: una stringa")
    require(is_symbol(text), argument, f"«{text}»", "un testo senza spazi né parentesi, non vuoto")


SYMBOL = re.compile(r"[^\s()]+")
"""Ciò che può stare fra due parentesi: nessuno spazio, nessuna parentesi, almeno un segno."""


def is_symbol(text: str) -> bool:
    """Vero se un testo può essere un'etichetta o una parola."""
    return SYMBOL.fullmatch(text) is not None


def walk(tree: Tree) -> Iterator[tuple[Tree, bool]]:
    """I nodi, in profondità: un costituente due volte, aprendo (vero) e chiudendo (falso).

    Una foglia una volta sola. La pila è una lista: un albero profondo non esaurisce quella delle
    chiamate.
    """
    pending = [(tree, True)]
    while pending:
        node, opening = pending.pop()
        yield node, opening
        if opening and node.children:
            pending.append((node, False))
            pending.extend((child, True) for child in reversed(node.children))


ROOT = "TOP"
"""L'etichetta della radice: sta sopra ogni frase, perciò non si predice e non si conta."""


class Builder:
    """Un albero in costruzione: la pila dei costituenti aperti; in fondo sta la radice."""

    def __init__(self) -> None:
        self.open: list[tuple[str, list[Tree]]] = [(ROOT, [])]

    def begin(self, label: str) -> None:
        """Apre un costituente."""
        self.open.append((label, []))

    def leaf(self, tag: str, word: str) -> None:
        """Una parola, dentro l'ultimo costituente aperto."""
        self.add(Tree(tag, word=word))

    def end(self) -> None:
        """Chiude l'ultimo costituente aperto."""
        label, children = self.open.pop()
        self.add(Tree(label, tuple(children)))

    def add(self, tree: Tree) -> None:
        """Un albero finito, dentro l'ultimo costituente aperto."""
        self.open[-1][1].append(tree)

    @property
    def innermost(self) -> str:
        """L'etichetta dell'ultimo costituente aperto, vuota se non ce n'è."""
        return self.open[-1][0] if len(self.open) > 1 else ""

    @property
    def finished(self) -> list[Tree]:
        """Ciò che sta direttamente sotto la radice."""
        return self.open[0][1]


PIECES = re.compile(
    r"\(\s*(?P<tag>[^\s()]+)\s+(?P<word>[^\s()]+)\s*\)"
    r"|(?P<open>\(\s*(?P<label>[^\s()]*))"
    r"|(?P<close>\))"
    r"|(?P<stray>[^\s()]+)"
)
"""I pezzi di una scrittura con parentesi: foglia, apertura, chiusura, e ciò che non ci sta."""


def read_trees(text: str) -> list[Tree]:
    """Gli alberi di un testo scritto come il Penn Treebank, uno dopo l'altro, anche su più righe.

    La parentesi esterna senza etichetta, che là avvolge ogni frase, prende quella della radice.

    Solleva:
        ValueError: alla prima parentesi che non torna, con la sua riga.
    """
    builder = Builder()
    for piece in PIECES.finditer(text):
        line = text.count("\n", 0, piece.start()) + 1
        expected = refusal(piece, builder)
        require(not expected, "text", f"«{piece[0]}» alla riga {line}", expected)
        if piece["word"]:
            builder.leaf(piece["tag"], piece["word"])
        elif piece["open"]:
            builder.begin(piece["label"] or ROOT)
        else:
            builder.end()
    left = builder.innermost
    require(not left, "text", f"({left} ancora aperta alla fine", "tante chiuse quante aperte")
    return builder.finished


def refusal(piece: re.Match[str], builder: Builder) -> str:
    """Che cosa ci si aspettava al posto di un pezzo; nulla, se il pezzo va bene."""
    if piece["stray"]:
        return "una parola con la sua categoria, fra parentesi"
    if piece["open"] and not piece["label"] and builder.innermost:
        return "un'etichetta dopo la parentesi"
    if piece["close"] and not builder.innermost:
        return "una parentesi aperta da chiudere"
    if piece["close"] and not builder.open[-1][1]:
        return "almeno una parola prima di chiudere"
    return ""


def read_tree(text: str) -> Tree:
    """L'albero di un testo che ne contiene uno.

    Solleva:
        ValueError: come `read_trees`, o se gli alberi non sono uno.
    """
    trees = read_trees(text)
    require(len(trees) == 1, "text", f"{len(trees)} alberi", "un albero")
    return trees[0]


ANY = "XX"
"""La categoria che sta per tutte, quando a chi scrive l'albero non si chiedono le categorie."""


def linearize(tree: Tree) -> list[str]:
    """L'albero come successione di token, in profondità.

    Un costituente si apre con `(NP` e si chiude con `)NP`; ogni parola lascia al suo posto la
    categoria. Le parole non ci sono, perché chi legge le ha già; la radice nemmeno.
    """
    tokens = [
        node.label if node.word else f"{'(' if opening else ')'}{node.label}"
        for node, opening in walk(tree)
    ]
    return tokens[1:-1] if tree.label == ROOT and tree.children else tokens


def is_bracket(token: str) -> bool:
    """Vero se un token apre o chiude un costituente; gli altri stanno per una parola."""
    return token[:1] in ("(", ")")


def restore(tokens: Sequence[str], words: Sequence[str]) -> Tree:
    """L'inverso di `linearize`: l'albero, sotto la radice, dati i token e le parole.

    Argomenti:
        tokens: aperture, chiusure e posti per le parole.
        words: la frase.

    Solleva:
        ValueError: se le parentesi non tornano, se un costituente non ha parole, se i posti non
            sono quante le parole, se non ci sono parole.
    """
    check_words(words)
    builder, used = Builder(), 0
    for place, token in enumerate(tokens):
        given = f"«{token}» al posto {place}"
        if token.startswith("("):
            labelled = is_symbol(token[1:])
            require(labelled, "tokens", given, "un'etichetta dopo la parentesi")
            builder.begin(token[1:])
        elif token.startswith(")"):
            inner = builder.innermost
            expected = f"«){inner}»" if inner else "nessuna chiusura"
            require(inner != "" and token == f"){inner}", "tokens", given, expected)
            require(bool(builder.open[-1][1]), "tokens", given, "una parola prima di chiudere")
            builder.end()
        else:
            require(used < len(words), "tokens", given, f"posti per {len(words)} parole")
            builder.leaf(token, words[used])
            used += 1
    left = builder.innermost
    require(not left, "tokens", f"«({left}» ancora aperta alla fine", "tante chiuse quante aperte")
    require(used == len(words), "tokens", f"posti per {used} parole", f"per {len(words)}")
    return Tree(ROOT, tuple(builder.finished))


def check_words(words: Sequence[str]) -> None:
    """Una frase ha almeno una parola."""
    require(len(words) > 0, "words", "nessuna parola", "almeno una")


@dataclass(frozen=True)
class Repair:
    """Una successione rimessa in ordine.

    Argomenti:
        tokens: la successione, ora ben formata.
        notes: che cosa si è dovuto fare, in ordine; vuoto se era già a posto.
    """

    tokens: tuple[str, ...]
    notes: tuple[str, ...]


def repair(tokens: Iterable[str], n: int) -> Repair:
    """Rimette in ordine una successione qualsiasi, per una frase di n parole.

    Le regole, applicate da sinistra a destra:
    1. un token che non è né parentesi con etichetta né categoria si toglie;
    2. una chiusura senza la sua apertura si toglie; se l'apertura c'è ma non è l'ultima, prima si
       chiudono quelle più interne;
    3. un costituente senza parole si toglie;
    4. i posti oltre la n-esima parola si tolgono; quelli che mancano si aggiungono in fondo,
       dentro ciò che è ancora aperto;
    5. ciò che è ancora aperto alla fine si chiude.
    """
    mender = Mender(n)
    for token in tokens:
        mender.take(token)
    return mender.finish()


class Mender:
    """Il riparatore: ciò che ha già scritto, le aperture in attesa, le parole che mancano.

    Argomenti:
        n: quante parole ha la frase.
    """

    def __init__(self, n: int) -> None:
        self.missing = n
        self.tokens: list[str] = []
        self.open: list[tuple[str, int]] = []
        self.notes: list[str] = []

    def take(self, token: str) -> None:
        """Un token: si scrive, si corregge o si toglie."""
        label = token[1:] if is_bracket(token) else token
        if not is_symbol(label):
            self.drop(token)
        elif token.startswith("("):
            self.open.append((label, len(self.tokens)))
            self.tokens.append(token)
        elif token.startswith(")"):
            self.close(label)
        elif self.missing == 0:
            self.drop(token)
        else:
            self.missing -= 1
            self.tokens.append(token)

    def close(self, label: str) -> None:
        """Regola 2: chiude fino a quell'etichetta, se è aperta."""
        if label not in (it for it, _ in self.open):
            self.drop(f"){label}")
            return
        while self.open[-1][0] != label:
            self.notes.append(f"aggiunta ){self.open[-1][0]}")
            self.close_last()
        self.close_last()

    def close_last(self) -> None:
        """Chiude l'ultima apertura; regola 3, se dentro non c'è nulla la toglie."""
        label, start = self.open.pop()
        if len(self.tokens) == start + 1:
            self.tokens.pop()
            self.notes.append(f"tolta ({label} senza parole")
        else:
            self.tokens.append(f"){label}")

    def drop(self, token: str) -> None:
        """Un token che non si scrive."""
        self.notes.append(f"tolto {token}")

    def finish(self) -> Repair:
        """Regole 4 e 5: i posti che mancano, poi le chiusure che mancano."""
        self.notes += [f"aggiunto {ANY}"] * self.missing
        self.tokens += [ANY] * self.missing
        while self.open:
            self.notes.append(f"aggiunta ){self.open[-1][0]}")
            self.close_last()
        return Repair(tuple(self.tokens), tuple(self.notes))


def repaired_tree(tokens: Iterable[str], words: Sequence[str]) -> Tree:
    """L'albero di una successione qualsiasi: riparata, poi letta.

    Solleva:
        ValueError: se non ci sono parole.
    """
    check_words(words)
    return restore(repair(tokens, len(words)).tokens, words)


def anonymous(tree: Tree) -> Tree:
    """Lo stesso albero senza le categorie: ogni parola sotto `XX`."""
    tokens = [token if is_bracket(token) else ANY for token in linearize(tree)]
    return restore(tokens, tree.words)


TRACE = "-NONE-"
"""Nel Penn Treebank, la categoria dei segnaposto che non si pronunciano."""


def clean(tree: Tree) -> Tree:
    """Un albero del Penn Treebank come lo si usa per addestrare e misurare.

    Toglie i segnaposto, i costituenti che ne restano vuoti, e dalle etichette la funzione: da
    `NP-SBJ-1` resta `NP`.

    Solleva:
        ValueError: se senza segnaposto non resta nessuna parola.
    """
    tokens = []
    for node, opening in walk(tree):
        label = re.sub(r"(?<=[^-=])[-=].*", "", node.label)
        if not node.word:
            tokens.append(f"{'(' if opening else ')'}{label}")
        elif node.label != TRACE:
            tokens.append(node.label)
    words = [leaf.word for leaf in tree.leaves if leaf.label != TRACE]
    inside = tokens[1:-1] if tree.label == ROOT and tree.children else tokens
    return repaired_tree(inside, words)


PARSER = TransformerConfig(layers=4, d_model=1024, vocabulary=16_000)
"""Il modello di §6.3 ¶2, per il solo Wall Street Journal. Il dropout scelto non è pubblicato: qui
resta quello del base."""

SEMI_SUPERVISED = dataclasses.replace(PARSER, vocabulary=32_000)
"""Lo stesso, per i 17 milioni di frasi."""

BEAM = 21
"""§6.3 ¶3: quante ipotesi porta avanti la beam search."""

ALPHA = 0.3
"""§6.3 ¶3: l'esponente della penalità di lunghezza."""

EXTRA = 300
"""§6.3 ¶3: quanti token può avere l'albero più della frase."""


def most_constituents(extra: int) -> int:
    """Quanti costituenti può avere un albero, se l'uscita ha al più `extra` token più della frase.

    Un albero di n parole e c costituenti si scrive in n + 2c token, e uno chiude la successione:
    il numero delle parole se ne va.
    """
    return (extra - 1) // 2


PUNCTUATION = frozenset({",", ":", "``", "''", "."})
"""Le categorie della punteggiatura che il conto delle parentesi ignora."""

SAME = {"PRT": "ADVP"}
"""Le etichette che contano come un'altra."""


@dataclass(frozen=True)
class Score:
    """Quante parentesi sono giuste, su quante attese e quante date.

    Argomenti:
        matched: quelle che stanno in tutti e due gli alberi.
        expected: quelle dell'albero giusto.
        given: quelle dell'albero da giudicare.
    """

    matched: int
    expected: int
    given: int

    def __add__(self, other: "Score") -> "Score":
        """I conti di più frasi si sommano prima di dividere."""
        return Score(
            self.matched + other.matched,
            self.expected + other.expected,
            self.given + other.given,
        )

    @property
    def precision(self) -> float:
        """La quota delle date che sono giuste, da 0 a 100; 100 se non ne ha data nessuna."""
        return 100 * self.matched / self.given if self.given else 100.0

    @property
    def recall(self) -> float:
        """La quota delle attese che sono state trovate, da 0 a 100; 100 se non ce n'erano."""
        return 100 * self.matched / self.expected if self.expected else 100.0

    @property
    def f1(self) -> float:
        """La media armonica delle due: il doppio delle giuste, diviso per attese più date."""
        total = self.expected + self.given
        return 200 * self.matched / total if total else 100.0


def brackets(tree: Tree, skipped: frozenset[int] = frozenset()) -> Counter[tuple[str, int, int]]:
    """Le parentesi di un albero, con quante volte ciascuna: etichetta, prima parola, fine.

    Restano fuori la radice, le categorie delle parole e i costituenti che coprono solo parole
    saltate.

    Argomenti:
        tree: l'albero.
        skipped: i posti delle parole che non contano.
    """
    found: Counter[tuple[str, int, int]] = Counter()
    starts: list[int] = []
    place = counted = 0
    for node, opening in walk(tree):
        if node.word:
            counted += place not in skipped
            place += 1
        elif opening:
            starts.append(counted)
        elif (start := starts.pop()) < counted and node.label != ROOT:
            found[SAME.get(node.label, node.label), start, counted] += 1
    return found


def score(expected: Tree, given: Tree) -> Score:
    """Il confronto fra l'albero giusto e uno da giudicare, sulla stessa frase.

    Che cosa sia punteggiatura lo dicono le categorie dell'albero giusto.

    Solleva:
        ValueError: se le parole non sono le stesse.
    """
    same = expected.words == given.words
    require(same, "given", " ".join(given.words), " ".join(expected.words))
    tags = enumerate(leaf.label for leaf in expected.leaves)
    skipped = frozenset(place for place, tag in tags if tag in PUNCTUATION)
    right, judged = brackets(expected, skipped), brackets(given, skipped)
    return Score((right & judged).total(), right.total(), judged.total())


def corpus_score(pairs: Iterable[tuple[Tree, Tree]]) -> Score:
    """Il voto di un insieme di frasi, date come coppie (giusto, da giudicare)."""
    return sum((score(*pair) for pair in pairs), Score(0, 0, 0))


@dataclass(frozen=True)
class Result:
    """Una riga della tabella 4.

    Argomenti:
        parser: chi.
        reference: la voce della bibliografia; None per il modello dell'articolo.
        training: come è addestrato.
        f1: il voto sulla sezione 23 del Wall Street Journal.

    Solleva:
        TypeError, ValueError: se il voto non è decimale o è fuori intervallo.
    """

    parser: str
    reference: int | None
    training: str
    f1: Decimal

    def __post_init__(self) -> None:
        check_printed("f1", self.f1, PERFECT)


WSJ = "solo WSJ"
"""Il solo Wall Street Journal; l'articolo aggiunge «discriminativo»."""

SEMI = "semi-supervisionato"
"""Anche frasi annotate da altri programmi."""

MULTI = "più compiti"
"""Un modello solo per più compiti insieme."""

GENERATIVE = "generativo"
"""Un modello che dà una probabilità alla frase e all'albero, non all'albero data la frase."""

TABLE_4 = (
    Result("Vinyals e Kaiser e altri (2014)", 37, WSJ, Decimal("88.3")),
    Result("Petrov e altri (2006)", 29, WSJ, Decimal("90.4")),
    Result("Zhu e altri (2013)", 40, WSJ, Decimal("90.4")),
    Result("Dyer e altri (2016)", 8, WSJ, Decimal("91.7")),
    Result("Transformer (4 strati)", None, WSJ, Decimal("91.3")),
    Result("Zhu e altri (2013)", 40, SEMI, Decimal("91.3")),
    Result("Huang e Harper (2009)", 14, SEMI, Decimal("91.3")),
    Result("McClosky e altri (2006)", 26, SEMI, Decimal("92.1")),
    Result("Vinyals e Kaiser e altri (2014)", 37, SEMI, Decimal("92.1")),
    Result("Transformer (4 strati)", None, SEMI, Decimal("92.7")),
    Result("Luong e altri (2015)", 23, MULTI, Decimal("93.0")),
    Result("Dyer e altri (2016)", 8, GENERATIVE, Decimal("93.3")),
)
"""La tabella 4, riga per riga."""


def transformer(training: str) -> Result:
    """La riga del Transformer con quell'addestramento.

    Solleva:
        ValueError: se non c'è.
    """
    found = [it for it in TABLE_4 if it.reference is None and it.training == training]
    require(bool(found), "training", training, f"{WSJ} o {SEMI}")
    return found[0]


def above(result: Result) -> list[Result]:
    """Le righe della tabella con un voto più alto, tutte, comunque addestrate."""
    return [other for other in TABLE_4 if other.f1 > result.f1]
