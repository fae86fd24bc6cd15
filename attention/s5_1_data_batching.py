"""§5.1: i dati di addestramento e i batch.

Due file di testo paralleli diventano, con un vocabolario di parti di parola comune alle due lingue,
lunghe file di numeri sul disco, che si leggono senza caricarle. Le coppie di frasi di lunghezza
simile si raccolgono in batch di tanti token da una parte e tanti dall'altra.
"""

import codecs
import contextlib
import gzip
import hashlib
import itertools
import json
import operator
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, SupportsIndex
from zlib import error as ZlibError

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm import tqdm

from attention.s0_abstract import require

FilePath = str | os.PathLike[str]
"""L'indirizzo di un file o di una cartella."""


# I due file paralleli.


LONGEST_LINE = 2**16
"""Quanti byte può avere una riga, fine compresa: oltre non è una frase, e non la si carica."""

GZIP = b"\x1f\x8b"
"""I primi due byte di un file compresso con gzip; un testo UTF-8 non può cominciare così."""


class Problem(NamedTuple):
    """Una riga che non si può usare, e perché.

    Argomenti:
        file: il file, come è stato dato.
        line: il numero della riga, da 1.
        what: che cosa non va.
    """

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}"


@dataclass
class Report:
    """Che cosa si è letto e che cosa no: ogni riga scartata ha qui il suo motivo.

    Argomenti:
        read: quante coppie di righe si sono lette.
        problems: le righe che non si possono usare, nell'ordine in cui si sono incontrate.
    """

    read: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def kept(self) -> int:
        """Quante coppie si possono usare: quelle lette, meno quelle con una riga sbagliata."""
        return self.read - len({it.line for it in self.problems if it.line <= self.read})

    def summary(self, most: int) -> str:
        """I conti, e al più `most` problemi, uno per riga; degli altri dice quanti sono."""
        shown = [str(problem) for problem in self.problems[:most]]
        hidden = len(self.problems) - len(shown)
        counts = f"coppie lette {self.read}, tenute {self.kept}, scartate {self.read - self.kept}"
        return "\n".join([counts, *shown, *([f"…e altri {hidden}"] if hidden else [])])

    def __str__(self) -> str:
        return self.summary(20)


def read_lines(path: FilePath, argument: str) -> Iterator[bytes]:
    """Le righe di un file, anche compresso con gzip, ciascuna con il suo fine riga.

    Solo `\\n` separa due righe. Di una riga troppo lunga si danno i primi `LONGEST_LINE` byte, e
    gli altri si saltano.

    Argomenti:
        path: il file.
        argument: il nome da dare al file in un messaggio d'errore.

    Solleva:
        ValueError: se il file non si può aprire, o se il gzip è troncato o guasto.
    """
    number = 0
    try:
        with open(path, "rb") as raw:
            file: Any = gzip.GzipFile(fileobj=raw) if raw.peek().startswith(GZIP) else raw
            while line := file.readline(LONGEST_LINE):
                number += 1
                marked = number == 1 and not is_cut(line)
                yield line.removeprefix(codecs.BOM_UTF8) if marked else line
                while is_cut(line):
                    line = file.readline(LONGEST_LINE)
    except (OSError, EOFError, ZlibError) as error:
        given = f"{os.fspath(path)}, che non si legge oltre la riga {number} ({error})"
        raise ValueError(f"{argument}: dato: {given}; atteso: un file di testo intero") from error


def is_cut(line: bytes) -> bool:
    """Vero se di una riga si è letto soltanto l'inizio."""
    return len(line) == LONGEST_LINE and not line.endswith(b"\n")


def understand(line: bytes) -> tuple[str, str]:
    """Il testo di una riga, senza fine riga, e che cosa non va: una stringa vuota se va bene."""
    if is_cut(line):
        return "", f"riga di {LONGEST_LINE} byte o più"
    try:
        text = line.removesuffix(b"\n").removesuffix(b"\r").decode()
    except UnicodeDecodeError as error:
        return "", f"non è UTF-8: il byte {error.start + 1} è 0x{line[error.start]:02x}"
    if "\0" in text:
        return "", "contiene un carattere NUL: il file è in UTF-16?"
    return text, "" if text.strip() else "riga vuota"


def read_pairs(
    source: FilePath, target: FilePath, report: Report
) -> Iterator[tuple[int, str, str]]:
    """Le coppie di frasi di due file paralleli, una frase per riga, senza caricarli.

    Argomenti:
        source, target: i due file di testo UTF-8, anche compressi con gzip.
        report: dove annotare le coppie lette e le righe che non si possono usare.

    Produce:
        Il numero della riga, da 1, e le due frasi.

    Solleva:
        ValueError: se un file non si può leggere fino in fondo.
    """
    names = os.fspath(source), os.fspath(target)
    both = itertools.zip_longest(read_lines(source, "source"), read_lines(target, "target"))
    for number, lines in enumerate(both, start=1):
        if None in lines:
            longer, shorter = names if lines[1] is None else names[::-1]
            extra = 1 + sum(1 for _ in both)
            what = f"senza una compagna in {shorter}, da questa riga in poi: {extra}"
            report.problems.append(Problem(longer, number, what))
            return
        report.read += 1
        texts, faults = zip(*map(understand, lines), strict=True)
        found = zip(names, faults, strict=True)
        report.problems += [Problem(name, number, fault) for name, fault in found if fault]
        if not any(faults):
            yield number, *texts


def sentences(source: FilePath, target: FilePath, every: int = 1) -> Iterator[str]:
    """Le frasi utilizzabili delle due lingue, una coppia ogni `every`: per formare il vocabolario.

    Solleva:
        ValueError: se un file non si può leggere fino in fondo, o se `every` è minore di 1.
    """
    require(every >= 1, "every", every, "almeno 1")
    for _, *pair in itertools.islice(read_pairs(source, target, Report()), 0, None, every):
        yield from pair


# Il vocabolario.


PADDING = 0
"""L'identificatore del padding."""

START = 1
"""L'identificatore dell'inizio, il primo ingresso del decoder."""

END = 2
"""L'identificatore della fine, l'ultimo token che il decoder deve dare."""

SPECIALS = ("<pad>", "<s>", "</s>")
"""I nomi dei tre, nell'ordine. Sono etichette: in un testo restano caratteri qualsiasi."""


Sentence = Sequence[int] | np.ndarray | Tensor
"""Una frase in token: una lista, un vettore letto dal disco, una riga di un batch."""


class Vocabulary:
    """§5.1 ¶1: il vocabolario di parti di parola, uno per le due lingue, formato con BPE.

    Le voci sono i tre segni speciali, i 256 byte, e le fusioni. Poiché ci sono tutti i byte, ogni
    testo si scrive in token, e dai token torna identico.

    Argomenti:
        tokenizer: quello della libreria, formato con `Vocabulary.train`.

    Solleva:
        ValueError: se mancano i segni speciali al loro posto o qualcuno dei 256 byte.
    """

    def __init__(self, tokenizer: Tokenizer):
        specials = tuple(tokenizer.id_to_token(token) for token in (PADDING, START, END))
        require(specials == SPECIALS, "tokenizer", specials, "<pad>, <s>, </s> come voci 0, 1, 2")
        missing = set(pre_tokenizers.ByteLevel.alphabet()) - tokenizer.get_vocab().keys()
        require(not missing, "tokenizer", f"{len(missing)} byte senza voce", "tutti i 256 byte")
        tokenizer.encode_special_tokens = True
        self.tokenizer = tokenizer

    def __len__(self) -> int:
        return self.tokenizer.get_vocab_size()

    @classmethod
    def train(cls, lines: Iterable[str], size: int) -> "Vocabulary":
        """Il vocabolario formato su alcune frasi, delle due lingue insieme.

        Si fondono le coppie più frequenti, finché si arriva a `size` voci o nessuna coppia compare
        due volte. La memoria cresce con le parole diverse, non con le righe.

        Argomenti:
            lines: le frasi, per esempio da `sentences`.
            size: quante voci, al più; l'articolo ne ha circa 37 000.

        Solleva:
            TypeError: se `lines` è una stringa sola.
            ValueError: se `size` non basta per i segni speciali e i 256 byte.
        """
        given = type(lines).__name__
        require(not isinstance(lines, str), "lines", given, "una successione di frasi", TypeError)
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        least = len(SPECIALS) + len(alphabet)
        require(size >= least, "size", size, f"almeno {least}: i segni speciali e i byte")
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=size,
            min_frequency=2,
            special_tokens=list(SPECIALS),
            initial_alphabet=alphabet,
            show_progress=False,
        )
        tokenizer.train_from_iterator(lines, trainer)
        return cls(tokenizer)

    def encode(self, text: str) -> list[int]:
        """I token di un testo, senza inizio e senza fine.

        Solleva:
            TypeError: se `text` non è una stringa.
            ValueError: se contiene mezzi caratteri (surrogati), che in UTF-8 non si scrivono.
        """
        require(isinstance(text, str), "text", type(text).__name__, "una stringa", TypeError)
        try:
            text.encode()
        except UnicodeEncodeError as error:
            given = f"il surrogato U+{ord(text[error.start]):04X}"
            raise ValueError(f"text: dato: {given}; atteso: caratteri Unicode interi") from error
        return self.tokenizer.encode(text).ids

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """I token di molti testi: gli stessi di `encode`, su tutti i core della macchina."""
        return [encoding.ids for encoding in self.tokenizer.encode_batch_fast(texts)]

    def decode(self, ids: Sentence) -> str:
        """Il testo di una fila di token, fino al primo segno di fine; gli altri segni si saltano.

        Una fila che non dà UTF-8, come quelle che può generare un modello, ha `�` dove non lo è.

        Solleva:
            ValueError: se un token non è nel vocabolario.
        """
        tokens = list(itertools.takewhile(lambda token: token != END, map(int, ids)))
        for token in tokens:
            inside = 0 <= token < len(self)
            require(inside, "ids", f"il token {token}", f"da 0 a {len(self) - 1}")
        return self.tokenizer.decode(tokens)

    def save(self, path: FilePath) -> None:
        """Scrive il vocabolario in un file JSON, che prende il suo nome solo quando è intero.

        Solleva:
            OSError: se il file non si può scrivere.
        """
        path = Path(path)
        with writable(path.parent), writing(path) as file:
            file.write(self.tokenizer.to_str().encode())

    @classmethod
    def load(cls, path: FilePath) -> "Vocabulary":
        """Il vocabolario scritto da `save`.

        Solleva:
            ValueError: se il file non c'è, è danneggiato, o non è un vocabolario.
        """
        try:
            return cls(Tokenizer.from_file(os.fspath(path)))
        except Exception as error:  # la libreria non solleva nulla di più preciso
            given = f"{os.fspath(path)} ({error})"
            expected = "un vocabolario scritto da Vocabulary.save"
            raise ValueError(f"path: dato: {given}; atteso: {expected}") from error


# La preparazione: dal testo ai numeri.


SIDES = ("source", "target")
"""Le due lingue, nell'ordine in cui compaiono ovunque."""

VOCABULARY = "vocabulary.json"
"""La copia del vocabolario che sta accanto ai token."""

FILES = (*(f"{side}.{part}" for side in SIDES for part in ("tokens", "offsets")), VOCABULARY)
"""I file di una cartella: per ogni lingua i token e gli indici, poi il vocabolario."""

INDEX = "corpus.json"
"""L'indice: l'impronta di ogni file. Si scrive per ultimo, quando gli altri sono interi."""

OFFSET = np.dtype("<i8")
"""Il tipo degli indici: 64 bit, il byte meno significativo per primo su ogni macchina."""

CHUNK = 2**19
"""Quanti caratteri, circa, si traducono in token per volta: da qui dipende la memoria."""


def token_type(vocabulary: Vocabulary) -> np.dtype[Any]:
    """Il tipo più corto che contiene tutti i token: 16 bit fino a 65 536 voci, poi 32."""
    return np.min_scalar_type(len(vocabulary) - 1).newbyteorder("<")


def to_disk(file: BinaryIO) -> None:
    """Ciò che si è scritto sta sul disco, e non più in memoria: se non ci sta, è un errore."""
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """Un file da scrivere, che prende il suo nome solo quando è intero e sul disco.

    Se qualcosa va storto non resta nulla, e il nome è ancora del file di prima, se c'era.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        with partial.open("wb") as file:
            yield file
            to_disk(file)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Una cartella in cui si scrive: si crea se manca, e chi non ci riesce lo dice.

    Solleva:
        OSError: se la cartella non si può creare, o un file non si può scrivere.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        given = f"{folder}, dove non si può scrivere ({error})"
        raise OSError(f"folder: dato: {given}; atteso: una cartella con spazio") from error


class Track:
    """Una lingua che si scrive: i token di tutte le frasi in fila, e dove ciascuna finisce.

    Argomenti:
        tokens: il file dei token.
        offsets: il file degli indici; il primo è zero.
        dtype: il tipo dei token.
    """

    def __init__(self, tokens: BinaryIO, offsets: BinaryIO, dtype: np.dtype[Any]):
        self.tokens, self.offsets, self.dtype = tokens, offsets, dtype
        self.end = 0
        self.offsets.write(np.zeros(1, OFFSET).tobytes())

    def append(self, sentences: Sequence[list[int]]) -> None:
        """Aggiunge in fondo alcune frasi, già in token."""
        ends = self.end + np.cumsum([len(sentence) for sentence in sentences], dtype=OFFSET)
        tokens = np.fromiter(itertools.chain.from_iterable(sentences), self.dtype)
        self.tokens.write(tokens.tobytes())
        self.offsets.write(ends.tobytes())
        self.end += len(tokens)


@contextlib.contextmanager
def tracks(folder: Path, dtype: np.dtype[Any]) -> Iterator[list[Track]]:
    """Le due lingue da scrivere: i quattro file prendono il loro nome alla fine, uno dopo l'altro.

    Un momento prima, quando sono tutti sul disco, la cartella perde l'indice: da lì fino al nuovo
    non è un corpus.
    """
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(writing(folder / name)) for name in FILES[:4]]
        yield [Track(files[i], files[i + 1], dtype) for i in (0, 2)]
        for file in files:
            to_disk(file)
        (folder / INDEX).unlink(missing_ok=True)


def encode_pairs(
    pairs: Sequence[tuple[int, str, str]],
    vocabulary: Vocabulary,
    max_length: int,
    names: tuple[str, str],
    report: Report,
) -> list[list[list[int]]]:
    """Alcune coppie in token, senza quelle troppo lunghe, che vanno nel rapporto.

    Argomenti:
        pairs: il numero di riga e le due frasi, da `read_pairs`.
        vocabulary: il vocabolario comune.
        max_length: la lunghezza massima, contando la fine nella destinazione.
        names: i nomi dei due file, per il rapporto.
        report: dove annotare le frasi troppo lunghe.

    Restituisce:
        Per ogni coppia tenuta, i token della sorgente e quelli della destinazione.
    """
    tokens = iter(vocabulary.encode_many([text for _, *texts in pairs for text in texts]))
    kept = []
    for number, *_ in pairs:
        pair = [next(tokens), next(tokens)]
        lengths = len(pair[0]), len(pair[1]) + 1
        found = [(name, n) for name, n in zip(names, lengths, strict=True) if n > max_length]
        report.problems += [
            Problem(it, number, f"{n} token, più di {max_length}") for it, n in found
        ]
        if not found:
            kept.append(pair)
    return kept


def chunks(pairs: Iterable[tuple[int, str, str]]) -> Iterator[list[tuple[int, str, str]]]:
    """Le coppie a gruppi di circa `CHUNK` caratteri."""
    chunk, size = [], 0
    for pair in pairs:
        chunk.append(pair)
        size += len(pair[1]) + len(pair[2])
        if size >= CHUNK:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def prepare(
    source: FilePath, target: FilePath, folder: FilePath, vocabulary: Vocabulary, max_length: int
) -> Report:
    """Traduce due file paralleli in token e li scrive in una cartella, che `Corpus` sa leggere.

    La memoria non dipende dalla lunghezza dei file. Accanto ai token resta `report.txt`, con tutti
    i problemi.

    Argomenti:
        source, target: i due file di testo, come in `read_pairs`.
        folder: la cartella, che si crea se manca; un corpus che vi sia già è sostituito alla fine.
        vocabulary: il vocabolario comune; una copia va nella cartella.
        max_length: la lunghezza massima di una frase in token, contando la fine nella
            destinazione. Una coppia con una frase più lunga si scarta, e il rapporto lo dice.

    Solleva:
        ValueError: se un file non si può leggere fino in fondo, o nessuna coppia si può usare.
        OSError: se nella cartella non si riesce a scrivere.
    """
    require(max_length >= 2, "max_length", max_length, "almeno 2")
    folder, names, report = Path(folder), (os.fspath(source), os.fspath(target)), Report()
    dtype, bar = token_type(vocabulary), tqdm(unit=" coppie", disable=None)
    with bar, writable(folder), tracks(folder, dtype) as both:
        for chunk in chunks(read_pairs(source, target, report)):
            kept = encode_pairs(chunk, vocabulary, max_length, names, report)
            for side, track in enumerate(both):
                track.append([pair[side] for pair in kept])
            bar.update(len(chunk))
        report.problems.sort(key=lambda problem: problem.line)
        require(report.kept >= 1, "source, target", report, "almeno una coppia da tenere")
    seal(folder, vocabulary, report)
    return report


def seal(folder: Path, vocabulary: Vocabulary, report: Report) -> None:
    """Ciò che si scrive quando i token sono al loro posto: vocabolario, rapporto, indice."""
    vocabulary.save(folder / VOCABULARY)
    digests = {name: digest(folder / name) for name in FILES}
    for name, text in (
        ("report.txt", report.summary(len(report.problems))),
        (INDEX, json.dumps(digests)),
    ):
        with writable(folder), writing(folder / name) as file:
            file.write(text.encode())


def digest(path: Path) -> str:
    """L'impronta SHA-256 di un file, letto a pezzi; una stringa vuota se il file non c'è."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# La lettura.


class Corpus:
    """Un corpus preparato: i file si leggono dove stanno, attraverso la memoria virtuale.

    Argomenti:
        folder: la cartella scritta da `prepare`.

    Attributi:
        vocabulary: il vocabolario con cui i token sono stati scritti.
        source_lengths: quanti token ha ogni frase della sorgente.
        target_lengths: quanti ne ha ogni frase della destinazione, fine compresa.

    Solleva:
        ValueError: se la cartella manca, se la preparazione non è finita, se un file è guasto.
    """

    def __init__(self, folder: FilePath):
        self.folder = Path(folder)
        check_folder(self.folder)
        self.vocabulary = Vocabulary.load(self.folder / VOCABULARY)
        dtype = token_type(self.vocabulary)
        self.tokens = [self.mapped(f"{side}.tokens", dtype) for side in SIDES]
        self.offsets = [self.mapped(f"{side}.offsets", OFFSET) for side in SIDES]
        self.source_lengths = np.diff(self.offsets[0])
        self.target_lengths = np.diff(self.offsets[1]) + 1

    def mapped(self, name: str, dtype: np.dtype[Any]) -> np.ndarray:
        """Un file visto come un vettore; sul disco, finché non se ne legge un pezzo."""
        return np.asarray(np.memmap(self.folder / name, dtype, "r"))

    def __len__(self) -> int:
        return len(self.source_lengths)

    def __getitem__(self, index: SupportsIndex) -> tuple[np.ndarray, np.ndarray]:
        """I token di una coppia, senza inizio e senza fine.

        Solleva:
            IndexError: se la coppia non esiste.
        """
        i = operator.index(index)
        require(0 <= i < len(self), "index", i, f"da 0 a {len(self) - 1}", IndexError)
        source, target = (
            tokens[offsets[i] : offsets[i + 1]]
            for tokens, offsets in zip(self.tokens, self.offsets, strict=True)
        )
        return source, target


def check_folder(folder: Path) -> None:
    """Una cartella scritta da `prepare`, tutta intera: ogni file ha l'impronta dell'indice.

    Solleva:
        ValueError: se la cartella o un file manca, o non è più come è stato scritto.
    """
    expected = "una cartella scritta da prepare"
    require(folder.is_dir(), "folder", f"{folder}, che non è una cartella", expected)
    index = folder / INDEX
    finished = f"{folder}, senza {INDEX}: la preparazione non è arrivata in fondo"
    require(index.is_file(), "folder", finished, f"{expected}; rifai la preparazione")
    try:
        digests = dict(json.loads(index.read_bytes()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"folder: dato: {index}, guasto; atteso: {expected}") from error
    for name in FILES:
        intact = digests.get(name) == digest(folder / name)
        require(intact, "folder", f"{folder / name}, mancante o guasto", expected)


# I batch.


BUDGET = 25_000
"""§5.1 ¶1: circa quanti token per batch dalla parte della sorgente, e quanti dall'altra."""


def token_batches(
    source_lengths: Int[np.ndarray, "pairs"],
    target_lengths: Int[np.ndarray, "pairs"],
    budget: int,
    seed: int,
    epoch: int,
) -> list[Int[np.ndarray, "_"]]:
    """§5.1 ¶1: le coppie raccolte in batch di lunghezza simile, in ordine sparso.

    Ogni coppia sta in un batch solo. In un batch, contando il padding, i token della sorgente
    sono al più `budget`, e così quelli della destinazione. Il risultato dipende solo dagli
    argomenti: ogni processo lo calcola per conto suo, e prende i batch che gli toccano.

    Argomenti:
        source_lengths, target_lengths: le lunghezze delle frasi, come le dà `Corpus`.
        budget: i token di un batch, da ciascuna parte; nell'articolo circa 25 000.
        seed, epoch: da che cosa dipende l'ordine: a ogni giro un altro.

    Restituisce:
        Per ogni batch, i numeri delle sue coppie.

    Solleva:
        ValueError: se le coppie mancano, o una frase è vuota o più lunga di `budget`.
    """
    check_lengths(source_lengths, target_lengths, budget)
    random = np.random.default_rng([seed, epoch])
    order = by_length(random.permutation(len(source_lengths)), source_lengths, target_lengths)
    batches = cut(order, source_lengths, target_lengths, budget)
    return [batches[i] for i in random.permutation(len(batches))]


def check_lengths(source_lengths: np.ndarray, target_lengths: np.ndarray, budget: int) -> None:
    """Lunghezze delle stesse coppie, ciascuna almeno 1 e non oltre il budget.

    Solleva:
        ValueError: altrimenti, con il numero della prima coppia sbagliata.
    """
    sizes = source_lengths.shape, target_lengths.shape
    require(sizes[0] == sizes[1], "target_lengths", sizes[1], f"{list(sizes[0])}, come la sorgente")
    require(len(source_lengths) >= 1, "source_lengths", "nessuna coppia", "almeno una")
    for side, lengths in zip(SIDES, (source_lengths, target_lengths), strict=True):
        wrong = np.flatnonzero(lengths != np.clip(lengths, 1, budget))
        if wrong.size:
            given = f"la coppia {wrong[0]}, lunga {lengths[wrong[0]]}"
            require(False, f"{side}_lengths", given, f"da 1 a {budget} token, il budget")


def by_length(
    order: Int[np.ndarray, "pairs"],
    source_lengths: Int[np.ndarray, "pairs"],
    target_lengths: Int[np.ndarray, "pairs"],
) -> Int[np.ndarray, "pairs"]:
    """Le coppie dalla più corta alla più lunga; quelle uguali restano nell'ordine in cui erano.

    Conta la frase più lunga delle due; a parità, la differenza: così in fila si somigliano da
    tutte e due le parti.
    """
    source, target = source_lengths[order], target_lengths[order]
    return order[np.lexsort((source - target, np.maximum(source, target)))]


def cut(
    order: Int[np.ndarray, "pairs"],
    source_lengths: Int[np.ndarray, "pairs"],
    target_lengths: Int[np.ndarray, "pairs"],
    budget: int,
) -> list[Int[np.ndarray, "_"]]:
    """Taglia una fila di coppie in batch, ciascuno il più lungo che il budget consente.

    Un batch di B frasi occupa B volte la più lunga, da ciascuna parte.
    """
    longest = np.maximum(source_lengths, target_lengths)[order]
    batches, start = [], 0
    while start < len(order):
        window = longest[start : start + budget]
        sizes = np.arange(1, len(window) + 1) * np.maximum.accumulate(window)
        stop = start + int(np.searchsorted(sizes, budget, side="right"))
        batches.append(order[start:stop])
        start = stop
    return batches


def padding_waste(
    batches: Sequence[Int[np.ndarray, "_"]],
    source_lengths: Int[np.ndarray, "pairs"],
    target_lengths: Int[np.ndarray, "pairs"],
) -> float:
    """La parte delle posizioni di questi batch che è solo padding, da 0 a 1."""
    tokens = places = 0
    for lengths in (source_lengths, target_lengths):
        tokens += sum(int(lengths[batch].sum()) for batch in batches)
        places += sum(len(batch) * int(lengths[batch].max()) for batch in batches)
    return 1 - tokens / places


@dataclass(frozen=True)
class Batch:
    """Un batch per il modello: tre matrici di token, una riga per coppia, riempite in fondo.

    Argomenti:
        source: le frasi di partenza.
        target: l'ingresso del decoder: l'inizio, poi la frase d'arrivo.
        expected: ciò che il decoder deve dare: la frase d'arrivo, poi la fine.
    """

    source: Int[Tensor, "batch n"]
    target: Int[Tensor, "batch m"]
    expected: Int[Tensor, "batch m"]


def collate(pairs: Sequence[tuple[Sentence, Sentence]]) -> Batch:
    """Il batch di alcune coppie di frasi in token, senza inizio e senza fine.

    Solleva:
        ValueError: se non c'è nessuna coppia, o una frase di partenza è vuota.
    """
    require(len(pairs) >= 1, "pairs", "nessuna coppia", "almeno una")
    for i, (sentence, _) in enumerate(pairs):
        require(len(sentence) >= 1, "pairs", f"la sorgente della coppia {i}, vuota", "un token")
    source, words = (padded(sentences) for sentences in zip(*pairs, strict=True))
    target = F.pad(words, (1, 0), value=START)
    expected = F.pad(words, (0, 1), value=PADDING)
    lengths = torch.tensor([len(sentence) for _, sentence in pairs])
    expected[torch.arange(len(pairs)), lengths] = END
    return Batch(source, target, expected)


def padded(sentences: Sequence[Sentence]) -> Int[Tensor, "batch n"]:
    """Più frasi in una matrice larga quanto la più lunga; in fondo alle altre, il padding."""
    matrix = np.full((len(sentences), max(map(len, sentences))), PADDING, np.int64)
    for row, sentence in zip(matrix, sentences, strict=True):
        row[: len(sentence)] = sentence
    return torch.from_numpy(matrix)
