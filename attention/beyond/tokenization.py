"""Oltre l'articolo: la byte-pair encoding da capo, e quanti token costa un testo.

Prima l'algoritmo: come si imparano le fusioni, come si applicano, che cosa non garantiscono. Poi i
vocabolari veri di GPT-2, GPT-4 e GPT-4o, ridotti alle voci che servono ai testi di casa. Infine le
misure: quanti token costa una frase nelle varie lingue, e dove cadono i tagli dentro le parole.
"""

import argparse
import base64
import csv
import functools
import hashlib
import itertools
import json
import statistics
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Regex, pre_tokenizers

from attention.beyond.grammar import lexicon, pairs
from attention.s0_abstract import require
from attention.s5_1_data_batching import SPECIALS, Vocabulary

Pieces = tuple[bytes, ...]
"""Una parola divisa: i byte di ogni pezzo, nell'ordine."""

Pair = tuple[bytes, bytes]
"""Due pezzi vicini."""


# Le parole, e da che cosa si parte.


GPT2_SPLIT = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Dove GPT-2, e il vocabolario di casa, separano le parole: lo spazio sta con la seguente."""


@functools.cache
def cutter(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Chi separa le parole: la libreria, perché `re` di Python non conosce `\\p{L}`, «lettera»."""
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def split(text: str, pattern: str = GPT2_SPLIT) -> list[str]:
    """Le parole di un testo, in fila: rimesse insieme lo ridanno identico.

    Nessuna fusione passerà da una parola alla vicina.

    Argomenti:
        text: il testo.
        pattern: l'espressione regolare di ciò che è una parola.

    Solleva:
        TypeError: se `text` non è una stringa.
    """
    require(isinstance(text, str), "text", type(text).__name__, "una stringa", TypeError)
    return [word for word, _ in cutter(pattern).pre_tokenize_str(text)]


PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
"""I byte che, letti in Latin-1, lasciano un segno sulla carta."""

BYTES: Pieces = tuple(bytes([byte]) for byte in [*PRINTABLE, *sorted({*range(256)} - {*PRINTABLE})])
"""I 256 byte nell'ordine in cui GPT-2, e la libreria, li numerano: prima quelli stampabili."""


def as_bytes(word: str) -> Pieces:
    """Una parola, un byte per pezzo: «è» sono due."""
    return tuple(bytes([byte]) for byte in word.encode())


def as_characters(word: str) -> Pieces:
    """Una parola, un carattere per pezzo: «è» è uno."""
    return tuple(character.encode() for character in word)


# Imparare le fusioni.


def count_pairs(words: Iterable[tuple[Pieces, int]]) -> Counter[Pair]:
    """Quante volte compare ogni coppia di pezzi vicini, in parole che compaiono tante volte."""
    found: Counter[Pair] = Counter()
    for pieces, times in words:
        for pair in itertools.pairwise(pieces):
            found[pair] += times
    return found


def merged(pieces: Pieces, pair: Pair) -> Pieces:
    """Una parola con ogni comparsa della coppia fusa in un pezzo, da sinistra a destra."""
    found: list[bytes] = []
    last = None
    for piece in pieces:
        if (last, piece) == pair:
            found[-1] += piece
            last = None
        else:
            found.append(piece)
            last = piece
    return tuple(found)


def most_frequent(counts: Mapping[Pair, int], numbers: Mapping[bytes, int]) -> Pair | None:
    """La coppia da fondere, o None se nessuna compare almeno due volte.

    Fra coppie ugualmente frequenti vince quella con i numeri più piccoli, prima il sinistro poi il
    destro: lo stesso pareggio della libreria.
    """
    often = [pair for pair, times in counts.items() if times >= 2]
    return min(often, key=lambda it: (-counts[it], numbers[it[0]], numbers[it[1]]), default=None)


def learn(words: Mapping[Pieces, int], alphabet: Sequence[bytes], merges: int) -> list[Pair]:
    """Le fusioni, nell'ordine: a ogni passo la coppia più frequente diventa un pezzo.

    Argomenti:
        words: le parole divise, ciascuna con quante volte compare.
        alphabet: i pezzi di partenza, nell'ordine dei loro numeri.
        merges: quante fusioni, al più.

    Solleva:
        ValueError: se `merges` è negativo, o se una parola ha un pezzo fuori dall'alfabeto.
    """
    require(merges >= 0, "merges", merges, "almeno 0")
    numbers = {piece: number for number, piece in enumerate(alphabet)}
    strangers = {piece for pieces in words for piece in pieces} - numbers.keys()
    require(not strangers, "words", sorted(strangers), "pezzi dell'alfabeto")
    current, learned = list(words.items()), list[Pair]()
    while len(learned) < merges:
        best = most_frequent(count_pairs(current), numbers)
        if best is None:
            break
        learned.append(best)
        numbers.setdefault(best[0] + best[1], len(numbers))
        current = [(merged(pieces, best), times) for pieces, times in current]
    return learned


# Applicarle.


def ranks_of(alphabet: Sequence[bytes], merges: Iterable[Pair]) -> dict[bytes, int]:
    """La tavola delle precedenze: ogni voce con il suo numero, l'alfabeto e poi le fusioni."""
    entries = [*alphabet, *(left + right for left, right in merges)]
    return {entry: rank for rank, entry in enumerate(entries)}


def steps(pieces: Pieces, ranks: Mapping[bytes, int]) -> Iterator[Pieces]:
    """Una parola come si ricompone: a ogni passo la fusione nata per prima, la più a sinistra."""
    while True:
        yield pieces
        joined = [left + right for left, right in itertools.pairwise(pieces)]
        known = [(ranks[piece], place) for place, piece in enumerate(joined) if piece in ranks]
        if not known:
            return
        _, place = min(known)
        pieces = (*pieces[:place], joined[place], *pieces[place + 2 :])


def apply(pieces: Pieces, ranks: Mapping[bytes, int]) -> Pieces:
    """Una parola divisa nei suoi token: l'ultimo dei passi."""
    *_, last = steps(pieces, ranks)
    return last


# Altri modi di dividere con lo stesso vocabolario.


def longest_first(word: bytes, ranks: Mapping[bytes, int]) -> Pieces:
    """Da sinistra, ogni volta la voce più lunga che comincia lì: come legge LZW.

    Solleva:
        ValueError: se un byte della parola non è una voce.
    """
    found: list[bytes] = []
    while word:
        ends = (end for end in range(len(word), 0, -1) if word[:end] in ranks)
        end = next(ends, 0)
        require(end > 0, "word", word, "byte che siano voci")
        found.append(word[:end])
        word = word[end:]
    return tuple(found)


def fewest(word: bytes, ranks: Mapping[bytes, int]) -> Pieces:
    """La divisione con meno pezzi, per programmazione dinamica sui prefissi.

    Solleva:
        ValueError: se la parola non si può scrivere con le voci che ci sono.
    """
    best: list[Pieces | None] = [()]
    for end in range(1, len(word) + 1):
        ways = [
            (*before, word[start:end])
            for start, before in enumerate(best)
            if before is not None and word[start:end] in ranks
        ]
        best.append(min(ways, key=len, default=None))
    pieces = best[-1]
    require(pieces is not None, "word", word, "byte che siano voci")
    return pieces or ()


# Un vocabolario da usare.


class Encoding(NamedTuple):
    """Un vocabolario: come si separano le parole, e la tavola delle precedenze.

    Argomenti:
        name: il suo nome.
        pattern: l'espressione regolare che separa le parole.
        size: quante voci ha in tutto, compresi i segni speciali.
        ranks: le sue voci, o l'estratto che ne abbiamo.
        covered: le parole a cui l'estratto basta; None se le voci ci sono tutte.
    """

    name: str
    pattern: str
    size: int
    ranks: Mapping[bytes, int]
    covered: frozenset[str] | None = None

    def pieces(self, text: str) -> list[bytes]:
        """I token di un testo, come byte.

        Solleva:
            ValueError: se una parola è fuori dall'estratto: la divisione potrebbe essere sbagliata.
        """
        words = split(text, self.pattern)
        strange = [it for it in words if self.covered is not None and it not in self.covered]
        require(not strange, "text", strange, f"parole dell'estratto di {self.name}")
        return [piece for word in words for piece in apply(as_bytes(word), self.ranks)]

    def encode(self, text: str) -> list[int]:
        """Gli identificatori dei token di un testo."""
        return [self.ranks[piece] for piece in self.pieces(text)]

    def decode(self, ids: Iterable[int]) -> str:
        """Il testo di una fila di identificatori: una tavola, letta all'indietro.

        Solleva:
            ValueError: se un identificatore non è nella tavola.
        """
        entries = {rank: piece for piece, rank in self.ranks.items()}
        found = [(entries.get(token), token) for token in ids]
        for piece, token in found:
            require(piece is not None, "ids", token, f"identificatori di {self.name}")
        return b"".join(piece or b"" for piece, _ in found).decode(errors="replace")

    def shown(self, text: str) -> str:
        """I token separati da una barra; lo spazio come punto, i byte spaiati come `\\xc3`."""
        pieces = (piece.decode(errors="backslashreplace") for piece in self.pieces(text))
        return "|".join(pieces).replace(" ", "·")


def house_encoding(texts: Iterable[str], size: int) -> Encoding:
    """Il vocabolario che si impara da alcuni testi, un byte per pezzo.

    Argomenti:
        texts: i testi.
        size: quante voci, al più; 256 sono i byte.

    Solleva:
        ValueError: se `size` è minore di 256.
    """
    require(size >= len(BYTES), "size", size, f"almeno {len(BYTES)}, i byte")
    counts = Counter(word for text in texts for word in split(text))
    words = {as_bytes(word): times for word, times in counts.items()}
    ranks = ranks_of(BYTES, learn(words, BYTES, size - len(BYTES)))
    return Encoding("casa", GPT2_SPLIT, len(ranks), ranks)


def from_library(vocabulary: Vocabulary) -> Encoding:
    """La tavola di un vocabolario formato dalla libreria, senza i segni speciali."""
    letters = dict(zip(sorted(pre_tokenizers.ByteLevel.alphabet()), BYTES, strict=True))
    numbers = vocabulary.tokenizer.get_vocab()
    entries = sorted(numbers.keys() - {*SPECIALS}, key=numbers.__getitem__)
    written = [b"".join(letters[letter] for letter in entry) for entry in entries]
    ranks = {entry: rank for rank, entry in enumerate(written)}
    return Encoding("casa", GPT2_SPLIT, len(ranks), ranks)


# I vocabolari veri, in estratto.


TEXTS = Path(__file__).with_name("tokenization.toml")
"""Le frasi parallele e gli esempi."""

EXCERPTS = Path(__file__).with_name("tokenization.json")
"""Gli estratti dei vocabolari."""

PUBLISHED = {"gpt2": 50257, "cl100k_base": 100277, "o200k_base": 200019}
"""Tre vocabolari pubblicati, e quante voci dichiarano."""

SEED = 2017
"""Il seme delle frasi della grammatica che l'estratto copre."""

SENTENCES = 300
"""Quante."""


@functools.cache
def texts() -> dict[str, Any]:
    """Le frasi e gli esempi, letti dal file."""
    return tomllib.loads(TEXTS.read_text(encoding="utf-8"))


@functools.cache
def samples() -> tuple[str, ...]:
    """Tutti i testi che un estratto deve saper dividere."""
    known = texts()
    ours = [it for pair in pairs(SEED, SENTENCES) for it in (pair.german, pair.italian)]
    translated = itertools.chain.from_iterable(known["sentences"].values())
    return (*known["examples"], *translated, *ours, *(f" {form}" for form in morpheme_cuts()))


def read_ranks(path: Path) -> tuple[str, dict[bytes, int]]:
    """Un vocabolario intero, da un file del pacchetto js-tiktoken.

    Le voci stanno in base64, a righe: un segno, il numero della prima, e poi le altre di seguito.

    Restituisce:
        L'espressione regolare delle parole, e la tavola.

    Solleva:
        ValueError: se il file non è così fatto.
    """
    text = path.read_text(encoding="utf-8")
    try:
        data = json.loads(text[text.index("{") : text.rindex("}") + 1])
        ranks = dict[bytes, int]()
        for line in data["bpe_ranks"].splitlines():
            _, first, *entries = line.split()
            ranks |= {base64.b64decode(it): int(first) + n for n, it in enumerate(entries)}
        return data["pat_str"], ranks
    except (ValueError, KeyError) as error:
        expected = "un file dist/ranks/*.cjs di js-tiktoken"
        raise ValueError(f"path: dato: {path} ({error}); atteso: {expected}") from error


def excerpt(ranks: Mapping[bytes, int], words: Iterable[str]) -> dict[bytes, int]:
    """Le voci che servono a certe parole: i byte, e ogni pezzo di una di loro.

    Dividere una parola vuol dire cercare nella tavola soltanto pezzi di quella parola: l'estratto
    dà perciò la stessa divisione della tavola intera.
    """
    needed = {*BYTES}
    for word in {it.encode() for it in words}:
        places = itertools.combinations(range(len(word) + 1), 2)
        needed |= {word[start:end] for start, end in places}
    return {piece: ranks[piece] for piece in sorted(needed & ranks.keys(), key=ranks.__getitem__)}


def fingerprint(words: Iterable[str]) -> str:
    """L'impronta di un insieme di parole: un'altra, se ne cambia una sola."""
    return hashlib.sha256("\n".join(sorted({*words})).encode()).hexdigest()


def write_excerpts(folder: Path, path: Path = EXCERPTS) -> None:
    """Scrive gli estratti, dai vocabolari interi che stanno in una cartella.

    Argomenti:
        folder: la cartella `dist/ranks` di js-tiktoken.
        path: il file da scrivere.
    """
    found = {}
    for name in PUBLISHED:
        pattern, ranks = read_ranks(folder / f"{name}.cjs")
        words = {word for text in samples() for word in split(text, pattern)}
        kept = {it.decode("latin-1"): rank for it, rank in excerpt(ranks, words).items()}
        found[name] = {
            "pattern": pattern,
            "entries": len(ranks),
            "words": fingerprint(words),
            "ranks": kept,
        }
    text = json.dumps(found, ensure_ascii=True, separators=(",", ":"))
    path.write_text(text + "\n", encoding="utf-8", newline="\n")


@functools.cache
def published(name: str) -> Encoding:
    """Un vocabolario pubblicato, in estratto.

    Solleva:
        ValueError: se non è uno di `PUBLISHED`; se l'estratto è di altri testi, e va riscritto.
    """
    require(name in PUBLISHED, "name", name, f"uno fra {', '.join(PUBLISHED)}")
    data = json.loads(EXCERPTS.read_text(encoding="utf-8"))[name]
    words = frozenset(word for text in samples() for word in split(text, data["pattern"]))
    same = data["words"] == fingerprint(words)
    require(same, "EXCERPTS", EXCERPTS.name, "un estratto di questi testi; si riscrive con --ranks")
    ranks = {piece.encode("latin-1"): rank for piece, rank in data["ranks"].items()}
    return Encoding(name, data["pattern"], PUBLISHED[name], ranks, words)


# Dove cadono i tagli.


SHORTEST_STEM = 3
"""Le lettere del tema più corto di cui ci si fida."""


def paradigms() -> Iterator[tuple[str, ...]]:
    """Le forme italiane di ogni parola del lessico: nomi, aggettivi, verbi, participi."""
    words = lexicon()
    yield from (noun.italian for noun in words.nouns)
    yield from (it.italian for told in words.qualities.values() for it in told)
    for verb in words.verbs:
        yield (verb.italian.infinitive, *verb.italian.present, *verb.italian.past)
        yield verb.italian.participle


def common_start(forms: Iterable[str]) -> str:
    """Le lettere con cui tutte le forme cominciano."""
    columns = itertools.takewhile(lambda letters: len({*letters}) == 1, zip(*forms, strict=False))
    return "".join(letters[0] for letters in columns)


@functools.cache
def morpheme_cuts() -> dict[str, frozenset[int]]:
    """Per ogni forma, dopo quanti byte finisce il tema e comincia la desinenza.

    Il tema è ciò che tutte le forme della parola hanno in comune all'inizio: «vecchi» in
    «vecchio, vecchia, vecchi, vecchie». Una forma senza desinenza non c'è; una che appartiene a
    due parole può avere due tagli.
    """
    found: dict[str, frozenset[int]] = {}
    for forms in paradigms():
        stem = common_start(forms)
        for form in forms:
            if len(stem) >= SHORTEST_STEM and form != stem:
                found[form] = found.get(form, frozenset()) | {len(stem.encode())}
    return dict(sorted(found.items()))


def inner_cuts(pieces: Iterable[bytes]) -> set[int]:
    """I posti, in byte dall'inizio della parola senza il suo spazio, dove finisce un token."""
    *ends, _ = itertools.accumulate(map(len, pieces))
    return {end - 1 for end in ends} - {0}


class Cuts(NamedTuple):
    """Il conto dei tagli su un elenco di forme.

    Argomenti:
        forms: quante forme.
        whole: quante sono un token solo.
        cut: quanti tagli, in tutto.
        right: quante forme ne hanno uno fra il tema e la desinenza.
        chance: quante ne avrebbero, in media, se gli stessi tagli cadessero a caso.
        consonants: quanti pezzi delle forme tagliate non hanno una vocale.
        pieces: quanti pezzi hanno le forme tagliate.
    """

    forms: int
    whole: int
    cut: int
    right: int
    chance: float
    consonants: int
    pieces: int


VOWELS = frozenset("aeiouàèéìòù")
"""Le vocali: senza almeno una, in italiano, non c'è sillaba."""


def judged(encoding: Encoding, forms: Mapping[str, frozenset[int]]) -> Cuts:
    """I tagli che un vocabolario fa nelle forme, confrontati con quelli fra tema e desinenza.

    A caso: se una parola di $n$ byte ha $k$ tagli su $n - 1$ posti, e il posto giusto è uno, la
    probabilità di prenderlo è $k / (n - 1)$.
    """
    tokens = {form: encoding.pieces(f" {form}") for form in forms}
    cuts = {form: inner_cuts(pieces) for form, pieces in tokens.items()}
    split_up = [form for form in forms if cuts[form]]
    parts = [it.decode(errors="replace").strip() for form in split_up for it in tokens[form]]
    parts = [part for part in parts if part]
    return Cuts(
        len(forms),
        len(forms) - len(split_up),
        sum(map(len, cuts.values())),
        sum(bool(cuts[form] & forms[form]) for form in split_up),
        sum(len(cuts[form]) / (len(form.encode()) - 1) for form in split_up),
        sum(not VOWELS & {*part} for part in parts),
        len(parts),
    )


# Le prove: vocabolari di casa, con più semi.


RESULTS = Path(__file__).with_name("tokenization.csv")
"""I risultati, una riga per misura e per seme."""

SEEDS = (1, 2, 3)
"""I semi."""

TRAINING = 1500
"""Quante frasi per formare un vocabolario."""

TESTING = 200
"""Quante coppie per misurarlo: sono le stesse per tutti, quelle del seme `SEED`."""

SHARES = (10, 50, 90)
"""Quante frasi italiane su cento, le altre tedesche."""

SIZES = (400, 800, 1600)
"""Quante voci."""


class Result(NamedTuple):
    """Una misura: quale, in che condizione, con che seme, quanto."""

    measure: str
    setting: int
    seed: int
    value: float


def trained(seed: int, share: int, size: int) -> Encoding:
    """Un vocabolario di casa, formato dalla libreria su frasi di un seme.

    Argomenti:
        seed: il seme delle frasi.
        share: quante italiane su cento, a decine.
        size: quante voci, senza i segni speciali.
    """
    lines = [
        pair.italian if place % 10 * 10 < share else pair.german
        for place, pair in enumerate(pairs(seed, TRAINING))
    ]
    return from_library(Vocabulary.train(lines, size + len(SPECIALS)))


def costs(seed: int, share: int) -> Iterator[Result]:
    """Quanti token per frase, in tedesco e in italiano, con poco o tanto italiano nel corpus."""
    encoding = trained(seed, share, SIZES[1])
    for side in ("german", "italian"):
        lines = [getattr(pair, side) for pair in pairs(SEED, TESTING)]
        yield Result(
            f"token per frase, {side}",
            share,
            seed,
            statistics.mean(len(encoding.pieces(line)) for line in lines),
        )


def boundaries(seed: int, size: int) -> Iterator[Result]:
    """Quante forme del lessico sono intere, e quante delle altre sono tagliate al posto giusto."""
    found = judged(trained(seed, 100, size), morpheme_cuts())
    split_up = found.forms - found.whole
    yield Result("forme intere su cento", size, seed, 100 * found.whole / found.forms)
    yield Result("tagli giusti su cento", size, seed, 100 * found.right / split_up)
    yield Result("tagli giusti a caso", size, seed, 100 * found.chance / split_up)


def experiment(path: Path = RESULTS) -> None:
    """Rifà tutte le prove e ne scrive i risultati."""
    found = [it for share in SHARES for seed in SEEDS for it in costs(seed, share)]
    found += [it for size in SIZES for seed in SEEDS for it in boundaries(seed, size)]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows((*it[:3], f"{it.value:.4f}") for it in found)


def read_results(path: Path = RESULTS) -> dict[tuple[str, int], list[float]]:
    """I risultati scritti: per ogni misura e condizione, un valore per seme."""
    found: dict[tuple[str, int], list[float]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for measure, setting, _, value in csv.reader(file):
            found.setdefault((measure, int(setting)), []).append(float(value))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Rifà i risultati delle prove; con `--ranks`, anche gli estratti dei vocabolari."""
    parser = argparse.ArgumentParser(description="Rifà i file di questa pagina.")
    parser.add_argument("--ranks", type=Path, help="la cartella dist/ranks di js-tiktoken")
    given = parser.parse_args(arguments)
    if given.ranks:
        write_excerpts(given.ranks)
    experiment()


if __name__ == "__main__":
    main()
