"""§5.1: file paralleli, vocabolario, cartella dei token, batch; contro cicli in chiaro."""

import ctypes
import dataclasses
import errno
import functools
import gzip
import itertools
import json
import os
import re
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from attention import Transformer, TransformerConfig, shift_right
from attention import s5_1_data_batching as section
from attention.s5_1_data_batching import (
    BUDGET,
    CHUNK,
    END,
    FILES,
    INDEX,
    LONGEST_LINE,
    PADDING,
    SPECIALS,
    START,
    Corpus,
    Problem,
    Report,
    Vocabulary,
    by_length,
    check_lengths,
    chunks,
    collate,
    cut,
    digest,
    padding_waste,
    prepare,
    read_lines,
    read_pairs,
    sentences,
    token_batches,
    token_type,
    tracks,
    understand,
    writing,
)
from attention.s5_2_hardware_schedule import Feed, Processes
from benchmarks import bench_s5_1_data_batching as bench
from weave.house import ROOT

GERMAN = ["Der Hund schläft.", "Die Katze sieht den Hund.", "Das Haus ist alt.", "Ja."]
ITALIAN = ["Il cane dorme.", "Il gatto vede il cane.", "La casa è vecchia.", "Sì, certo."]


@pytest.fixture
def write(tmp_path):
    """Scrive un file di byte, o di righe, e ne dà l'indirizzo."""

    def write_file(name: str, content: bytes | list[str]) -> Path:
        if isinstance(content, list):
            content = "".join(f"{line}\n" for line in content).encode()
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write_file


@pytest.fixture
def files(write):
    """Due file paralleli di quattro frasi."""
    return write("de.txt", GERMAN), write("it.txt", ITALIAN)


def texts(source: Path, target: Path) -> tuple[list[tuple[int, str, str]], Report]:
    """Le coppie di due file, e il rapporto."""
    report = Report()
    return list(read_pairs(source, target, report)), report


@functools.cache
def trained(size: int = 300) -> Vocabulary:
    """Un vocabolario sulle frasi di questo file."""
    return Vocabulary.train(2 * (GERMAN + ITALIAN), size)


# I due file paralleli.


@pytest.mark.parametrize("packed", [(False, False), (True, False), (True, True)])
def test_pairs_are_the_lines_with_the_same_number(write, packed):
    """§5.1 ¶1: la riga i di un file traduce la riga i dell'altro; gzip si riconosce da sé."""
    contents = ["".join(f"{line}\n" for line in lines).encode() for lines in (GERMAN, ITALIAN)]
    paths = [
        write(f"{i}.txt", gzip.compress(content) if pack else content)
        for i, (content, pack) in enumerate(zip(contents, packed, strict=True))
    ]
    found, report = texts(*paths)
    assert found == [(i + 1, GERMAN[i], ITALIAN[i]) for i in range(4)]
    assert (report.read, report.kept, report.problems) == (4, 4, [])


def test_only_a_newline_ends_a_line(write):
    """§5.1 ¶1: gli altri separatori di Unicode stanno dentro la frase; `splitlines` sfaserebbe."""
    odd = "".join(f"a{mark}b" for mark in "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r") + "c"
    assert len(odd.splitlines()) == 10
    found, report = texts(write("s", [odd, "due"]), write("t", ["uno", "zwei"]))
    assert found == [(1, odd, "uno"), (2, "due", "zwei")]
    assert not report.problems


def test_line_ends_and_byte_order_marks_are_not_part_of_a_sentence(write):
    """§5.1 ¶1: CRLF come LF; un BOM in testa al file si toglie, altrove è un carattere."""
    bom = "\ufeff"
    source = write("s", f"{bom}uno\r\n{bom}due\r\ntre\r\r\nquattro\r".encode())
    found, _ = texts(source, write("t", ["1", "2", "3", "4"]))
    assert [text for _, text, _ in found] == ["uno", f"{bom}due", "tre\r", "quattro"]


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_the_last_line_may_lack_its_newline(write, end):
    """§5.1 ¶1: il fine riga in fondo al file è facoltativo, e da solo non fa una riga."""
    found, report = texts(write("s", b"uno\ndue" + end), write("t", b"a\nb"))
    assert found == [(1, "uno", "a"), (2, "due", "b")]
    assert report.read == 2


def test_a_sentence_passes_as_it_is(write):
    """§5.1 ¶1: gli spazi attorno e dentro una frase non si toccano."""
    found, _ = texts(write("s", ["  due  spazi\t"]), write("t", ["x"]))
    assert found == [(1, "  due  spazi\t", "x")]


WRONG = {
    b"": "riga vuota",
    b"\r": "riga vuota",
    " \t\u2028\u00a0".encode(): "riga vuota",
    b"caff\xe8": "non è UTF-8: il byte 5 è 0xe8",
    b"\xff": "non è UTF-8: il byte 1 è 0xff",
    b"a\0b": "contiene un carattere NUL: il file è in UTF-16?",
}
"""Righe che non si possono usare, e che cosa ne dice il rapporto."""


@pytest.mark.parametrize("side", [0, 1])
def test_every_line_that_cannot_be_used_is_reported(write, side):
    """§5.1 ¶1: file, numero e motivo di ogni riga; nulla si scarta in silenzio."""
    wrong = b"".join(b"buona\n" + line + b"\n" for line in WRONG)
    good = b"".join(f"{i}\n".encode() for i in range(2 * len(WRONG)))
    paths = [write("uno", [wrong, good][side]), write("due", [good, wrong][side])]
    found, report = texts(*paths)
    assert [number for number, *_ in found] == [1, 3, 5, 7, 9, 11]
    bad = os.fspath(paths[side])
    assert report.problems == [
        Problem(bad, 2 * i + 2, what) for i, what in enumerate(WRONG.values())
    ]
    assert (report.read, report.kept) == (12, 6)


def test_a_pair_with_two_faults_is_lost_once(write):
    """§5.1 ¶1: due reclami, una coppia sola in meno."""
    found, report = texts(write("s", b"\nuno\n"), write("t", b"\xff\nuno\n"))
    assert [number for number, *_ in found] == [2]
    assert [problem.line for problem in report.problems] == [1, 1]
    assert (report.read, report.kept) == (2, 1)


@pytest.mark.parametrize("longer", [0, 1])
def test_files_of_unequal_length_are_reported(write, longer):
    """§5.1 ¶1: quale file ha righe in più, da dove, quante; le coppie prima restano."""
    paths = write("s", ["a", "b"]), write("t", ["a", "b"])
    with paths[longer].open("a") as file:
        file.write("c\n\nd\n")
    found, report = texts(*paths)
    assert [number for number, *_ in found] == [1, 2]
    other = os.fspath(paths[1 - longer])
    what = f"senza una compagna in {other}, da questa riga in poi: 3"
    assert report.problems == [Problem(os.fspath(paths[longer]), 3, what)]
    assert (report.read, report.kept) == (2, 2)


@pytest.mark.parametrize(
    ("size", "usable"),
    [
        (LONGEST_LINE - 1, True),
        (LONGEST_LINE, False),
        (LONGEST_LINE + 1, False),
        (2 * LONGEST_LINE - 1, False),
        (2 * LONGEST_LINE, False),
        (5 * LONGEST_LINE + 7, False),
    ],
)
@pytest.mark.parametrize("end", [b"\n", b""])
def test_a_line_too_long_is_skipped_without_losing_the_count(write, size, usable, end):
    """§5.1 ¶1: una riga smisurata non si carica intera, e le seguenti tengono il loro numero."""
    tail = end + b"dopo\n" if end else b""
    source = write("s", b"prima\n" + b"x" * size + tail)
    other = write("z", gzip.compress(source.read_bytes()))
    assert list(read_lines(other, "source")) == list(read_lines(source, "source"))
    lines = list(read_lines(source, "source"))
    assert all(len(line) <= LONGEST_LINE for line in lines)
    found, report = texts(source, write("t", ["1", "2", "3"][: len(lines)]))
    numbers = [1, 2, 3][: len(lines)]
    assert [number for number, *_ in found] == [it for it in numbers if usable or it != 2]
    expected = [] if usable else [(2, "riga di 65536 byte o più")]
    assert [(problem.line, problem.what) for problem in report.problems] == expected


def test_a_first_line_too_long_is_too_long_with_a_byte_order_mark_too(write):
    """§5.1 ¶1: il BOM non fa passare per intera una riga di cui si è letto l'inizio."""
    long = b"\xef\xbb\xbf" + b"x" * LONGEST_LINE
    found, report = texts(write("s", long + b"\ndopo\n"), write("t", ["1", "2"]))
    assert found == [(2, "dopo", "2")]
    assert [problem.what for problem in report.problems] == ["riga di 65536 byte o più"]


def test_files_that_do_not_read_to_the_end_are_refused(write, files, tmp_path):
    """§5.1 ¶1: assenti, cartelle, gzip troncati o guasti: si dice quale e dove, e ci si ferma."""
    data = gzip.compress(b"uno\ndue\n" * 5000)
    middle = len(data) // 2
    broken = {
        tmp_path / "assente": "No such file",
        tmp_path: "Is a directory",
        write("corto.gz", data[:-9]): "end-of-stream",
        write("testa.gz", data[:10]): "end-of-stream",
        write("somma.gz", data[:-8] + bytes(4) + data[-4:]): "CRC check failed",
        write("dentro.gz", data[:middle] + b"\xff" * 20 + data[middle + 20 :]): "",
    }
    for path, why in broken.items():
        for name, pair in (("source", (path, files[1])), ("target", (files[0], path))):
            message = f"^{name}: dato: {re.escape(os.fspath(path))}, che non si legge oltre la riga"
            with pytest.raises(ValueError, match=message) as caught:
                texts(*pair)
            assert why in str(caught.value)
            assert str(caught.value).endswith("; atteso: un file di testo intero")


def test_a_truncated_gzip_says_how_far_it_could_be_read(write):
    """§5.1 ¶1: il numero nel messaggio è quello dell'ultima riga letta."""
    lines = [str(np.random.default_rng(i).integers(10**9)) for i in range(5000)]
    data = gzip.compress("".join(f"{line}\n" for line in lines).encode())
    read = []
    lines_read = read_lines(write("s.gz", data[: len(data) // 2]), "source")
    with pytest.raises(ValueError, match="oltre la riga") as caught:
        read.extend(lines_read)
    assert 0 < len(read) < 5000
    assert f"oltre la riga {len(read)} (" in str(caught.value)


def test_an_empty_file_has_no_lines(write):
    """§5.1 ¶1: né coppie né problemi."""
    found, report = texts(write("s", b""), write("t", b""))
    assert (found, report.read, report.problems) == ([], 0, [])


def test_files_are_read_as_a_stream(write):
    """§5.1 ¶1: la prima coppia arriva prima che si sia letto il resto, che pure è guasto."""
    data = gzip.compress("".join(f"{i}\n" for i in range(50_000)).encode())
    pairs = read_pairs(write("s.gz", data[:-100]), write("t.gz", data), Report())
    assert next(pairs) == (1, "0", "0")
    with pytest.raises(ValueError, match=r"^source: "):
        list(pairs)


def test_the_report_tells_counts_and_problems():
    """§5.1 ¶1: i conti in testa; i primi problemi, e quanti altri ce ne sono."""
    report = Report(read=30, problems=[Problem("a.txt", i, "riga vuota") for i in range(1, 26)])
    lines = str(report).split("\n")
    assert lines[0] == "coppie lette 30, tenute 5, scartate 25"
    assert lines[1:21] == [f"a.txt:{i}: riga vuota" for i in range(1, 21)]
    assert lines[21:] == ["…e altri 5"]
    assert report.summary(24).split("\n")[-1] == "…e altri 1"
    assert report.summary(25).split("\n")[-1] == "a.txt:25: riga vuota"
    assert str(Report(read=2)) == "coppie lette 2, tenute 2, scartate 0"


def test_sentences_take_one_pair_in_every_few(write):
    """§5.1 ¶1: le due lingue restano in parti uguali; gli scarti non contano."""
    source = write("s", ["a1", "", "a3", "a4", "a5"])
    target = write("t", ["b1", "b2", "b3", "b4", "b5"])
    assert list(sentences(source, target)) == ["a1", "b1", "a3", "b3", "a4", "b4", "a5", "b5"]
    assert list(sentences(source, target, every=2)) == ["a1", "b1", "a4", "b4"]
    assert list(sentences(source, target, every=1)) == list(sentences(source, target))
    with pytest.raises(ValueError, match=r"^every: dato: 0; atteso: almeno 1$"):
        list(sentences(source, target, every=0))


# Il vocabolario.


def learned(words: list[str], merges: int) -> list[tuple[bytes, bytes]]:
    """BPE scritta come la si spiega: si conta ogni coppia, si fonde la più frequente, da capo.

    A parità di conti vince la coppia con i numeri di voce più piccoli, come nella libreria.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    order = {byte: i for i, byte in enumerate(sorted(alphabet))}
    names = {bytes([b]): order[byte_symbol(b)] for b in range(256)}
    pieces = [[bytes([b]) for b in word.encode()] for word in words]
    found = []
    for _ in range(merges):
        counts = Counter(pair for word in pieces for pair in itertools.pairwise(word))
        pair = max(counts, key=lambda pair: (counts[pair], -names[pair[0]], -names[pair[1]]))
        found.append(pair)
        names[b"".join(pair)] = len(names)
        pieces = [merged(word, pair) for word in pieces]
    return found


def byte_symbol(byte: int) -> str:
    """Il carattere con cui la libreria mostra un byte: sé stesso, se si stampa."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return chr(byte) if byte in printable else chr(256 + others.index(byte))


def merged(word: list[bytes], pair: tuple[bytes, bytes]) -> list[bytes]:
    """Una parola in cui ogni coppia come quella data è diventata un pezzo solo, da sinistra."""
    found: list[bytes] = []
    for piece in word:
        if found and (found[-1], piece) == pair:
            found[-1] += piece
        else:
            found.append(piece)
    return found


def pieces(vocabulary: Vocabulary, ids: list[int]) -> list[bytes]:
    """I byte di ogni token, uno per uno."""
    back = {byte_symbol(b): b for b in range(256)}
    return [bytes(back[c] for c in vocabulary.tokenizer.id_to_token(i)) for i in ids]


WORDS = [
    *("casa", "case", "casale", "casetta", "rosa", "rose", "rosato", "gatto", "gatti", "gatta"),
    *("matto", "piatto", "dato", "date", "prato", "Haus", "Hauses", "Häuser", "Hund", "Hunde"),
    *("Hündin", "Katze", "Katzen", "Buch", "Bücher", "Mädchen", "gehen", "gegangen", "perché"),
]
"""Parole su cui formare un vocabolario; ciascuna si ripete da una a cinque volte."""


def repeated() -> list[str]:
    return [word for i, word in enumerate(WORDS) for _ in range(1 + i * 7 % 5)]


def test_the_vocabulary_is_learned_by_merging_the_most_frequent_pair():
    """§5.1 ¶1: le voci dopo i byte sono le fusioni, nell'ordine dell'algoritmo scritto a mano."""
    words = repeated()
    vocabulary = Vocabulary.train(words, 259 + 40)
    expected = [b"".join(pair) for pair in learned(words, 40)]
    assert pieces(vocabulary, list(range(259, 299))) == expected


def test_encoding_applies_the_merges_in_their_order():
    """§5.1 ¶1: una parola mai vista si spezza in byte e si rifondono le coppie, dalla prima."""
    words = repeated()
    vocabulary, merges = Vocabulary.train(words, 259 + 40), learned(words, 40)
    for word in ("casata", "rosette", "Hundehaus", "piattino", "Bücherei", "perciò", "日本"):
        expected = [bytes([b]) for b in word.encode()]
        for pair in merges:
            expected = merged(expected, pair)
        assert pieces(vocabulary, vocabulary.encode(word)) == expected


BY_HAND = {"gatto": 5, "gatti": 3, "matto": 2, "piatto": 4, "dato": 2}
"""Le parole di «A matita», e quante volte compaiono."""


def test_merges_by_hand():
    """§5.1 ¶1: at, att, atto, gatto: le quattro fusioni del caso a matita, con i loro conti."""
    words = [word for word, count in BY_HAND.items() for _ in range(count)]
    vocabulary = Vocabulary.train(words, 259 + 4)
    assert pieces(vocabulary, [259, 260, 261, 262]) == [b"at", b"att", b"atto", b"gatto"]
    now = [[bytes([b]) for b in word.encode()] for word in words]
    for pair, count, second in (
        ((b"a", b"t"), 16, 14),
        ((b"at", b"t"), 14, 11),
        ((b"att", b"o"), 11, 8),
        ((b"g", b"atto"), 5, 4),
    ):
        counts = Counter(two for word in now for two in itertools.pairwise(word))
        assert counts.most_common(1) == [(pair, count)]
        assert counts.most_common(2)[1][1] == second
        now = [merged(word, pair) for word in now]
    split = {
        word: [piece.decode() for piece in pieces(vocabulary, vocabulary.encode(word))]
        for word in ("gatto", "gatta", "patto", "ratti")
    }
    assert split == {
        "gatto": ["gatto"],
        "gatta": ["g", "att", "a"],
        "patto": ["p", "atto"],
        "ratti": ["r", "att", "i"],
    }


def test_training_twice_gives_the_same_vocabulary():
    """§5.1 ¶1: stesse frasi, stesso vocabolario."""
    assert trained().tokenizer.to_str() == trained.__wrapped__().tokenizer.to_str()


def test_the_size_is_the_one_asked_for_or_what_the_text_allows():
    """§5.1 ¶1: né una voce di più; e si smette quando nessuna coppia compare due volte."""
    for size in (259, 260, 277, 300):
        assert len(trained(size)) == size
    small = Vocabulary.train(["ab ab", "cd"], 1000)
    assert len(small) == 260
    assert pieces(small, [259]) == [b"ab"]
    with pytest.raises(ValueError, match=r"^size: dato: 258; atteso: almeno 259: "):
        trained(258)
    with pytest.raises(TypeError, match=r"^lines: dato: str; atteso: una successione di frasi$"):
        Vocabulary.train("una frase sola", 300)


def test_specials_are_the_first_three_entries():
    """§5.1 ¶1: 0 riempie, 1 comincia, 2 finisce, come nella configurazione del modello."""
    config, tokenizer = TransformerConfig(), trained().tokenizer
    assert (config.padding_id, config.start_id, config.end_id) == (PADDING, START, END)
    assert (PADDING, START, END) == (0, 1, 2)
    assert [tokenizer.token_to_id(name) for name in SPECIALS] == [0, 1, 2]


def test_the_vocabulary_is_shared_by_the_two_languages(write, tmp_path):
    """§5.1 ¶1: un vocabolario solo, formato su tutte e due: lo stesso nome è lo stesso token."""
    source = write("s", 2 * ["Das Hotel in Roma.", "Hallo Welt."])
    target = write("t", 2 * ["Un hotel a Roma.", "Ciao mondo."])
    vocabulary = Vocabulary.train(sentences(source, target), 400)
    for word in (" Roma", " Welt", " mondo"):
        assert len(vocabulary.encode(word)) == 1
    prepare(source, target, tmp_path / "corpus", vocabulary, 64)
    german, italian = Corpus(tmp_path / "corpus")[0]
    (rome,) = vocabulary.encode(" Roma")
    assert rome in german
    assert rome in italian


@given(st.text())
def test_any_text_comes_back_identical(text):
    """§5.1 ¶1: nessun carattere è sconosciuto: ci sono tutti i 256 byte."""
    vocabulary = trained()
    ids = vocabulary.encode(text)
    assert vocabulary.decode(ids) == text
    assert not {PADDING, START, END} & set(ids)
    assert ids == vocabulary.encode_many([text, "altro"])[0]


def test_without_merges_a_token_is_a_byte():
    """§5.1 ¶1: con 259 voci una frase è lunga quanto i suoi byte; poi si accorcia."""
    text = "Il gatto è già a casa."
    assert len(trained(259).encode(text)) == len(text.encode()) == 24
    lengths = [
        sum(map(len, trained(size).encode_many(GERMAN + ITALIAN))) for size in (259, 280, 300)
    ]
    assert lengths[0] > lengths[1] > lengths[2]


@pytest.mark.parametrize("name", SPECIALS)
def test_the_name_of_a_special_in_a_text_is_plain_text(name, tmp_path):
    """§5.1 ¶1: chi scrive «</s>» in una frase non la fa finire, nemmeno dopo aver riletto."""
    trained().save(tmp_path / "v.json")
    for vocabulary in (trained(), Vocabulary.load(tmp_path / "v.json")):
        for ids in (vocabulary.encode(f"a{name}b"), *vocabulary.encode_many([f"a{name}b"])):
            assert min(ids) > END
            assert vocabulary.decode(ids) == f"a{name}b"


def test_decoding_stops_at_the_end_and_skips_the_other_specials():
    """§5.1 ¶1: il padding e l'inizio non sono testo; dopo la fine non si legge."""
    vocabulary = trained()
    cane = vocabulary.encode("cane")
    assert vocabulary.decode([START, *cane, END, *cane, PADDING, 10**6]) == "cane"
    assert vocabulary.decode([PADDING, *cane, PADDING]) == "cane"
    assert vocabulary.decode(torch.tensor([1, *cane, 2])) == "cane"
    assert vocabulary.decode([]) == ""


def test_half_a_character_is_shown_as_such():
    """§5.1 ¶1: un modello può scrivere mezzo carattere; la lettura non si ferma."""
    vocabulary = trained(259)
    first, _ = vocabulary.encode("è")
    assert vocabulary.decode([*vocabulary.encode("a"), first, *vocabulary.encode("b")]) == "a�b"


def test_wrong_tokens_and_texts_are_refused():
    """§5.1 ¶1: gli errori dicono argomento, dato e atteso."""
    vocabulary = trained(300)
    assert isinstance(vocabulary.decode([299]), str)
    for token in (300, -1):
        with pytest.raises(ValueError, match=rf"^ids: dato: il token {token}; atteso: da 0 a 299$"):
            vocabulary.decode([5, token])
    with pytest.raises(ValueError, match=r"^text: dato: il surrogato U\+D83D; atteso: caratteri"):
        vocabulary.encode("a\ud83d")


@pytest.mark.usefixtures("our_own_errors")
def test_only_strings_become_tokens():
    """§5.1 ¶1: un testo è una stringa."""
    with pytest.raises(TypeError, match=r"^text: dato: bytes; atteso: una stringa$"):
        trained().encode(b"ja")


def test_a_saved_vocabulary_is_the_same(tmp_path):
    """§5.1 ¶1: riletto, dà gli stessi token, e lo stesso file."""
    vocabulary = trained()
    vocabulary.save(tmp_path / "v.json")
    again = Vocabulary.load(tmp_path / "v.json")
    assert len(again) == len(vocabulary) == 300
    for text in (*GERMAN, *ITALIAN, "日本 🙂"):
        assert again.encode(text) == vocabulary.encode(text)
        assert again.decode(again.encode(text)) == text
    again.save(tmp_path / "w.json")
    assert (tmp_path / "v.json").read_bytes() == (tmp_path / "w.json").read_bytes()


def other_tokenizer(names: list[str]) -> Tokenizer:
    """Un tokenizer qualsiasi, con le voci date."""
    return Tokenizer(models.BPE(vocab={name: i for i, name in enumerate(names)}, merges=[]))


def test_files_that_are_not_a_vocabulary_are_refused(write, tmp_path):
    """§5.1 ¶1: assenti, guasti, di un altro programma."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    swapped = other_tokenizer(["<s>", "<pad>", "</s>", *alphabet])
    short = other_tokenizer([*SPECIALS, *alphabet[1:]])
    for path, why in (
        (tmp_path / "assente", "No such file"),
        (write("guasto", b'{"version": "1.0"'), ""),
        (write("altro", swapped.to_str().encode()), "<pad>, <s>, </s> come voci 0, 1, 2"),
        (write("corto", short.to_str().encode()), "1 byte senza voce"),
    ):
        message = rf"^path: dato: {re.escape(os.fspath(path))} \(.*\); atteso: un vocabolario"
        with pytest.raises(ValueError, match=message) as caught:
            Vocabulary.load(path)
        assert why in str(caught.value)


# La preparazione e la lettura.


def test_a_prepared_corpus_gives_back_every_sentence(files, tmp_path):
    """§5.1 ¶1: dai token tornano le frasi; le lunghezze contano la fine della destinazione."""
    vocabulary = trained()
    report = prepare(*files, tmp_path / "corpus", vocabulary, 64)
    corpus = Corpus(tmp_path / "corpus")
    assert (report.read, report.kept, report.problems) == (4, 4, [])
    assert len(corpus) == 4
    for i, pair in enumerate(zip(GERMAN, ITALIAN, strict=True)):
        source, target = corpus[i]
        assert (vocabulary.decode(source), vocabulary.decode(target)) == pair
        assert source.tolist() == vocabulary.encode(pair[0])
        assert corpus.source_lengths[i] == len(source)
        assert corpus.target_lengths[i] == len(target) + 1
    assert corpus.vocabulary.tokenizer.to_str() == vocabulary.tokenizer.to_str()
    assert len(list(corpus)) == 4


def test_the_tokens_lie_one_after_the_other(files, tmp_path):
    """§5.1 ¶1: token a 16 bit e indici a 64, il byte meno significativo per primo."""
    vocabulary, folder = trained(), tmp_path / "corpus"
    prepare(*files, folder, vocabulary, 64)
    for side, lines in (("source", GERMAN), ("target", ITALIAN)):
        rows = [vocabulary.encode(line) for line in lines]
        tokens = b"".join(token.to_bytes(2, "little") for row in rows for token in row)
        assert (folder / f"{side}.tokens").read_bytes() == tokens
        offsets = [0, *itertools.accumulate(len(row) for row in rows)]
        expected = b"".join(offset.to_bytes(8, "little") for offset in offsets)
        assert (folder / f"{side}.offsets").read_bytes() == expected


def test_the_corpus_is_read_where_it_lies(files, tmp_path):
    """§5.1 ¶1: i vettori sono finestre sui file, in sola lettura: la memoria non cresce."""
    prepare(*files, tmp_path / "corpus", trained(), 64)
    corpus = Corpus(tmp_path / "corpus")
    for array in (*corpus.tokens, *corpus.offsets):
        assert isinstance(array.base, np.memmap)
        assert not array.flags.writeable
    assert np.shares_memory(corpus[2][0], corpus.tokens[0])


@pytest.mark.parametrize(("size", "expected"), [(300, "<u2"), (2**16, "<u2"), (2**16 + 1, "<u4")])
def test_a_token_takes_two_bytes_up_to_65536_entries(files, tmp_path, size, expected):
    """§5.1 ¶1: il tipo più corto che basta, scelto dal vocabolario."""
    names = [*SPECIALS, *pre_tokenizers.ByteLevel.alphabet()]
    tokenizer = other_tokenizer([*names, *(f"voce {i}" for i in range(size - len(names)))])
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    vocabulary = Vocabulary(tokenizer)
    assert len(vocabulary) == size
    assert token_type(vocabulary).str == expected
    prepare(*files, tmp_path / "corpus", vocabulary, 64)
    source, target = Corpus(tmp_path / "corpus")[1]
    assert source.dtype.str == expected
    assert (vocabulary.decode(source), vocabulary.decode(target)) == (GERMAN[1], ITALIAN[1])


def test_sentences_too_long_are_reported_not_cut(write, tmp_path):
    """§5.1 ¶1: una frase oltre il limite toglie la sua coppia; la fine conta nella destinazione."""
    vocabulary = trained(259)
    source = write("s", ["a" * 7, "a" * 8, "a", "a", "", "a" * 9])
    target = write("t", ["b", "b", "b" * 6, "b" * 7, "b" * 9, "b" * 9])
    report = prepare(source, target, tmp_path / "corpus", vocabulary, 7)
    assert [str(problem) for problem in report.problems] == [
        f"{source}:2: 8 token, più di 7",
        f"{target}:4: 8 token, più di 7",
        f"{source}:5: riga vuota",
        f"{source}:6: 9 token, più di 7",
        f"{target}:6: 10 token, più di 7",
    ]
    assert (report.read, report.kept) == (6, 2)
    corpus = Corpus(tmp_path / "corpus")
    assert corpus.source_lengths.tolist() == [7, 1]
    assert corpus.target_lengths.tolist() == [2, 7]


def test_the_report_stays_beside_the_tokens(write, tmp_path):
    """§5.1 ¶1: nel file ci sono tutti i problemi, anche quelli che a schermo non si mostrano."""
    source, target = write("s", ["", *"a" * 50]), write("t", [*"b" * 30, *[""] * 21])
    report = prepare(source, target, tmp_path / "corpus", trained(259), 9)
    assert (report.read, report.kept, len(report.problems)) == (51, 29, 22)
    written = (tmp_path / "corpus" / "report.txt").read_text().split("\n")
    assert written == [
        "coppie lette 51, tenute 29, scartate 22",
        f"{source}:1: riga vuota",
        *(f"{target}:{i}: riga vuota" for i in range(31, 52)),
    ]


def test_groups_do_not_change_the_result(files, tmp_path, monkeypatch):
    """§5.1 ¶1: si traduce a gruppi, e i file sono gli stessi."""
    prepare(*files, tmp_path / "uno", trained(), 64)
    monkeypatch.setattr(section, "CHUNK", 20)
    prepare(*files, tmp_path / "molti", trained(), 64)
    for name in (*FILES, INDEX):
        assert (tmp_path / "uno" / name).read_bytes() == (tmp_path / "molti" / name).read_bytes()


def test_groups_are_of_so_many_characters(monkeypatch):
    """§5.1 ¶1: un gruppo si chiude appena i suoi caratteri, delle due lingue, sono abbastanza."""
    assert CHUNK == 524_288
    monkeypatch.setattr(section, "CHUNK", 10)
    pairs = [
        (1, "aaaa", "bbbbb"),
        (2, "c", ""),
        (3, "d" * 30, "e"),
        (4, "ffff", "gggggg"),
        (5, "h", "i"),
    ]
    assert list(chunks(pairs)) == [pairs[:2], pairs[2:3], pairs[3:4], pairs[4:]]
    assert list(chunks(pairs[:2])) == [pairs[:2]]
    assert list(chunks([])) == []


def test_a_corpus_needs_at_least_one_pair(write, tmp_path):
    """§5.1 ¶1: se non si può usare nulla lo si dice, con il rapporto; la cartella non vale."""
    source, target = write("s", [""]), write("t", ["b"])
    with pytest.raises(ValueError, match=r"^source, target: dato: coppie lette 1, tenute 0") as it:
        prepare(source, target, tmp_path / "corpus", trained(259), 9)
    assert f"{source}:1: riga vuota; atteso: almeno una coppia da tenere" in str(it.value)
    assert list((tmp_path / "corpus").iterdir()) == []
    with pytest.raises(ValueError, match=r"^max_length: dato: 1; atteso: almeno 2$"):
        prepare(source, target, tmp_path / "corpus", trained(259), 1)


def test_the_shortest_limit_holds_one_token(write, tmp_path):
    """§5.1 ¶1: con limite 2 la destinazione ha un token e la fine."""
    report = prepare(write("s", ["ab"]), write("t", ["c"]), tmp_path / "c", trained(259), 2)
    assert (report.kept, Corpus(tmp_path / "c").target_lengths.tolist()) == (1, [2])


def test_nothing_is_printed(files, tmp_path, capfd):
    """§5.1 ¶1: l'avanzamento si mostra solo su un terminale."""
    prepare(*files, tmp_path / "corpus", trained.__wrapped__(), 64)
    assert capfd.readouterr() == ("", "")


def test_nothing_partial_remains(files, tmp_path):
    """§5.1 ¶1: in fondo ci sono i file con il loro nome, e nessun altro."""
    prepare(*files, tmp_path / "a" / "b", trained(), 64)
    names = {path.name for path in (tmp_path / "a" / "b").iterdir()}
    assert names == {*FILES, INDEX, "report.txt"}


def test_every_file_reaches_the_disk_before_taking_its_name(files, tmp_path, monkeypatch):
    """§5.1 ¶1: prima la scrittura vera, poi il nome; l'indice per ultimo, e prima si toglie."""
    events = []
    fsync, replace, unlink = os.fsync, os.replace, Path.unlink

    def note_fsync(descriptor):
        events.append(("disco", Path(os.readlink(f"/proc/self/fd/{descriptor}")).name))
        fsync(descriptor)

    def note_replace(old, new):
        events.append(("nome", Path(old).name, Path(new).name))
        replace(old, new)

    def note_unlink(path, **options):
        events.append(("via", path.name))
        unlink(path, **options)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    monkeypatch.setattr(Path, "unlink", note_unlink)
    prepare(*files, tmp_path / "corpus", trained(), 64)
    named = [event[2] for event in events if event[0] == "nome"]
    assert sorted(named) == sorted([*FILES, INDEX, "report.txt"])
    assert named[-1] == INDEX
    for name in named:
        partial = f".{name}.partial"
        assert events.index(("disco", partial)) < events.index(("nome", partial, name))
    first = min(events.index(("nome", f".{name}.partial", name)) for name in FILES)
    assert events.index(("via", INDEX)) < first


@pytest.mark.parametrize("last", range(8))
def test_an_interruption_leaves_the_old_corpus_or_none(files, write, tmp_path, monkeypatch, last):
    """§5.1 ¶1: ovunque ci si fermi, la cartella è il corpus di prima, o dice che non lo è."""
    folder, vocabulary = tmp_path / "corpus", trained()
    prepare(write("s", ["vecchio"]), write("t", ["alt"]), folder, vocabulary, 64)
    replace, done = os.replace, []

    def stop(old, new):
        if len(done) == last:
            raise KeyboardInterrupt
        done.append(new)
        replace(old, new)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stop)
        if last < 7:
            with pytest.raises(KeyboardInterrupt):
                prepare(*files, folder, vocabulary, 64)
        else:
            prepare(*files, folder, vocabulary, 64)
    assert not list(folder.glob("*.partial"))
    if last < 7:
        with pytest.raises(ValueError, match=r"senza corpus.json: la preparazione non è arrivata"):
            Corpus(folder)
    prepare(*files, folder, vocabulary, 64)
    assert len(Corpus(folder)) == 4


def test_an_error_while_reading_leaves_the_old_corpus(files, write, tmp_path):
    """§5.1 ¶1: un file guasto si scopre leggendo, quando ancora nulla è stato sostituito."""
    folder = tmp_path / "corpus"
    prepare(*files, folder, trained(), 64)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    broken = write("b.gz", gzip.compress(b"a\n" * 1000)[:-9])
    with pytest.raises(ValueError, match=r"^target: dato: .*b\.gz, che non si legge"):
        prepare(files[0], broken, folder, trained(), 64)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len(Corpus(folder)) == 4


@pytest.mark.parametrize("written", range(4))
def test_a_full_disk_leaves_the_old_corpus(files, write, tmp_path, monkeypatch, written):
    """§5.1 ¶1: lo spazio finisce mentre un file scende sul disco; il corpus di prima c'è ancora."""
    folder = tmp_path / "corpus"
    prepare(*files, folder, trained(), 64)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    calls = []

    def full(number):
        calls.append(number)
        if len(calls) > written:
            raise OSError(errno.ENOSPC, "spazio esaurito")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="spazio esaurito"):
        prepare(write("s", ["nuovo"]), write("t", ["neu"]), folder, trained(), 64)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert len(Corpus(folder)) == 4


def test_a_corpus_open_elsewhere_survives_a_new_preparation(files, write, tmp_path):
    """§5.1 ¶1: chi sta leggendo continua a leggere i file di prima."""
    folder, vocabulary = tmp_path / "corpus", trained()
    prepare(*files, folder, vocabulary, 64)
    old = Corpus(folder)
    prepare(write("s", ["nuovo"]), write("t", ["neu"]), folder, vocabulary, 64)
    assert vocabulary.decode(old[3][0]) == GERMAN[3]
    assert vocabulary.decode(Corpus(folder)[0][0]) == "nuovo"


def test_a_folder_that_cannot_be_written_is_named(files, write, tmp_path, monkeypatch):
    """§5.1 ¶1: un file al posto della cartella, il disco pieno."""
    path = write("file", b"")
    message = rf"^folder: dato: {re.escape(os.fspath(path))}, dove non si può scrivere \(.+\); "
    with pytest.raises(OSError, match=message):
        prepare(*files, path, trained(), 64)

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"^folder: dato: .*No space left.*; atteso: una cartella"):
        prepare(*files, tmp_path / "pieno", trained(), 64)
    with pytest.raises(OSError, match=r"^folder: dato: .*pieno, dove non si può scrivere"):
        trained().save(tmp_path / "pieno" / "v.json")
    assert list((tmp_path / "pieno").iterdir()) == []


def test_an_interrupted_write_keeps_the_old_file(tmp_path):
    """§5.1 ¶1: il nome resta al file di prima, finché il nuovo non è intero."""
    path = tmp_path / "file"
    path.write_bytes(b"vecchio")

    def half():
        with writing(path) as file:
            file.write(b"nuo")
            raise RuntimeError("a metà")

    with pytest.raises(RuntimeError, match="a metà"):
        half()
    assert path.read_bytes() == b"vecchio"
    assert list(tmp_path.iterdir()) == [path]
    with writing(path) as file:
        file.write(b"nuovo")
    assert path.read_bytes() == b"nuovo"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["missing", "short", "bit"])
def test_a_damaged_file_is_named(files, tmp_path, name, damage):
    """§5.1 ¶1: assente, troncato di un byte, con un bit cambiato."""
    folder = tmp_path / "corpus"
    prepare(*files, folder, trained(), 64)
    data = bytearray((folder / name).read_bytes())
    if damage == "missing":
        (folder / name).unlink()
    else:
        data[len(data) // 2] ^= damage == "bit"
        (folder / name).write_bytes(data[:-1] if damage == "short" else data)
    path = re.escape(os.fspath(folder / name))
    message = rf"^folder: dato: {path}, mancante o guasto; atteso: una cartella scritta da prepare$"
    with pytest.raises(ValueError, match=message):
        Corpus(folder)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"3", b'"ab"', b"\xff", b"null"])
def test_a_damaged_index_is_named(files, tmp_path, content):
    """§5.1 ¶1: un indice che non è un indice."""
    folder = tmp_path / "corpus"
    prepare(*files, folder, trained(), 64)
    (folder / INDEX).write_bytes(content)
    with pytest.raises(
        ValueError, match=r"^folder: dato: .*corpus\.json, guasto; atteso: una cart"
    ):
        Corpus(folder)


def test_an_index_that_says_less_is_not_enough(files, tmp_path):
    """§5.1 ¶1: un'impronta che manca vale come un'impronta sbagliata, anche se manca il file."""
    folder = tmp_path / "corpus"
    prepare(*files, folder, trained(), 64)
    digests = json.loads((folder / INDEX).read_text())
    assert list(digests) == list(FILES)
    (folder / INDEX).write_text(json.dumps({**digests, "source.tokens": None}))
    (folder / "source.tokens").unlink()
    with pytest.raises(ValueError, match=r"source\.tokens, mancante o guasto"):
        Corpus(folder)
    (folder / INDEX).write_text("{}")
    with pytest.raises(ValueError, match=r"source\.tokens, mancante o guasto"):
        Corpus(folder)


def test_a_folder_that_is_not_a_corpus_is_named(write, tmp_path):
    """§5.1 ¶1: un indirizzo sbagliato, una cartella qualsiasi."""
    for path in (tmp_path / "assente", write("file", b"")):
        message = rf"^folder: dato: {re.escape(os.fspath(path))}, che non è una cartella; atteso: "
        with pytest.raises(ValueError, match=message):
            Corpus(path)
    with pytest.raises(ValueError, match=r"senza corpus\.json: .*; atteso: .*; rifai la prepara"):
        Corpus(tmp_path)


def test_the_digest_is_of_the_content(write):
    """§5.1 ¶1: SHA-256, noto per la stringa vuota e per «abc»."""
    assert digest(write("v", b"")).startswith("e3b0c44298fc1c149afbf4c8996fb924")
    assert digest(write("abc", b"abc")).startswith("ba7816bf8f01cfea414140de5dae2223")


def test_pairs_that_do_not_exist_are_refused(files, tmp_path):
    """§5.1 ¶1: da 0 alla penultima; un indice negativo non conta dalla fine."""
    prepare(*files, tmp_path / "corpus", trained(), 64)
    corpus = Corpus(tmp_path / "corpus")
    assert len(corpus[np.int64(0)]) == len(corpus[3]) == 2
    for index in (-1, 4, 9):
        with pytest.raises(IndexError, match=rf"^index: dato: {index}; atteso: da 0 a 3$"):
            corpus[index]


# I batch.


def lengths(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Lunghezze sparse di frasi che si somigliano a due a due."""
    random = np.random.default_rng(seed)
    source = np.clip(random.lognormal(2.5, 0.7, count), 1, 90).astype(int)
    return source, np.clip(source + random.integers(-4, 8, count), 1, 97)


def room(batch: np.ndarray, sizes: np.ndarray) -> int:
    """I posti che un batch occupa da una parte: righe per la più lunga."""
    return len(batch) * max(int(sizes[i]) for i in batch)


@given(st.lists(st.tuples(st.integers(1, 13), st.integers(1, 13)), min_size=1), st.integers(13, 97))
def test_every_pair_is_in_one_batch_within_the_budget(pairs, budget):
    """§5.1 ¶1, T33: ogni coppia una volta sola; i posti, padding compreso, entro il budget."""
    source, target = (np.array(side) for side in zip(*pairs, strict=True))
    batches = token_batches(source, target, budget, seed=5, epoch=3)
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(pairs)))
    for batch in batches:
        assert len(batch) >= 1
        assert room(batch, source) <= budget
        assert room(batch, target) <= budget


def test_the_budget_can_be_filled_exactly():
    """§5.1 ¶1, T33: il budget è compreso: due frasi da 5 stanno in 10, tre no; e così una da 10."""
    fives = np.full(7, 5)
    sizes = sorted(len(batch) for batch in token_batches(fives, fives, 10, 0, 0))
    assert sizes == [1, 2, 2, 2]
    tens = np.full(3, 10)
    assert [len(batch) for batch in token_batches(tens, tens, 10, 0, 0)] == [1, 1, 1]
    assert [len(batch) for batch in token_batches(fives, np.full(7, 1), 35, 0, 0)] == [7]


def test_a_batch_is_as_large_as_it_can_be():
    """§5.1 ¶1: in fila, la coppia che segue un batch non ci starebbe."""
    source, target = lengths(1009)
    order = by_length(np.arange(1009), source, target)
    batches = cut(order, source, target, 211)
    assert np.concatenate(batches).tolist() == order.tolist()
    for batch, following in itertools.pairwise(batches):
        longer = [*batch, following[0]]
        assert max(room(longer, source), room(longer, target)) > 211


def test_pairs_are_sorted_by_the_longer_sentence_then_by_the_difference():
    """§5.1 ¶1: per la più lunga delle due, poi per la differenza; le uguali come erano."""
    source, target = lengths(503)
    order = np.random.default_rng(1).permutation(503)
    expected = sorted(
        order.tolist(), key=lambda i: (max(source[i], target[i]), source[i] - target[i])
    )
    assert by_length(order, source, target).tolist() == expected


@pytest.mark.parametrize("budget", [97, 397, 2003])
def test_bucketing_wastes_less_than_random_batches(budget):
    """§5.1 ¶1, T33: per lunghezza, il padding è una piccola parte di quello a caso."""
    source, target = lengths(5003)
    batches = token_batches(source, target, budget, seed=0, epoch=0)
    shuffled = cut(np.random.default_rng(2).permutation(5003), source, target, budget)
    waste = [padding_waste(it, source, target) for it in (batches, shuffled)]
    assert waste[0] < waste[1] / 3
    assert len(batches) < len(shuffled)


def test_waste_is_the_part_of_the_places_that_holds_padding():
    """§5.1 ¶1, T33: contata posto per posto nelle matrici di `collate`."""
    source, target = lengths(211)
    batches = token_batches(source, target, 300, seed=0, epoch=0)
    places = empty = 0
    for batch in batches:
        built = collate([([7] * source[i], [9] * (target[i] - 1)) for i in batch])
        for matrix in (built.source, built.expected):
            places += matrix.numel()
            empty += (matrix == PADDING).sum().item()
    assert padding_waste(batches, source, target) == pytest.approx(empty / places, abs=1e-12)
    same = np.full(5, 3)
    assert padding_waste([np.arange(5)], same, same) == 0


SOURCE_BY_HAND = np.array([2, 5, 3, 2, 4, 5])
TARGET_BY_HAND = np.array([3, 4, 3, 2, 6, 5])


def test_batches_by_hand():
    """§5.1 ¶1: sei coppie, budget 12: 4 posti sprecati su 48; nell'ordine del file, 8 su 52."""
    pair = SOURCE_BY_HAND, TARGET_BY_HAND
    order = by_length(np.arange(6), *pair)
    assert order.tolist() == [3, 0, 2, 5, 1, 4]
    batches = cut(order, *pair, 12)
    assert [batch.tolist() for batch in batches] == [[3, 0, 2], [5, 1], [4]]
    assert padding_waste(batches, *pair) == pytest.approx(4 / 48, abs=1e-15)
    plain = cut(np.arange(6), *pair, 12)
    assert [batch.tolist() for batch in plain] == [[0, 1], [2, 3], [4, 5]]
    assert padding_waste(plain, *pair) == pytest.approx(8 / 52, abs=1e-15)


def as_lists(batches: list[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def test_the_order_depends_only_on_seed_and_epoch():
    """§5.1 ¶1: rifatto, è lo stesso; con un altro seme o a un altro giro, un altro."""
    pair = lengths(503)
    first = as_lists(token_batches(*pair, 211, seed=3, epoch=1))
    assert as_lists(token_batches(*pair, 211, seed=3, epoch=1)) == first
    for seed, epoch in ((3, 2), (4, 1), (1, 3)):
        other = as_lists(token_batches(*pair, 211, seed, epoch))
        assert other != first
        assert sorted(map(sorted, other)) != sorted(map(sorted, first))


def test_batches_come_in_shuffled_order():
    """§5.1 ¶1: le frasi corte non vengono tutte prima: l'ordine dei batch è mescolato."""
    source, target = lengths(5003)
    batches = token_batches(source, target, 211, seed=0, epoch=0)
    longest = np.array([max(source[batch].max(), target[batch].max()) for batch in batches])
    rising = (np.diff(longest) >= 0).mean()
    assert 0.4 < rising < 0.6
    assert abs(np.corrcoef(longest, np.arange(len(longest)))[0, 1]) < 0.1


def test_processes_share_the_same_list(tmp_path):
    """Commento: i batch di tre processi, rimessi in fila, sono la lista; nessuno due volte."""
    lines = [f"{'a' * (1 + i % 5)}{i}" for i in range(23)]
    for name in ("s", "t"):
        (tmp_path / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    vocabulary = Vocabulary.train(lines, 259)
    prepare(tmp_path / "s", tmp_path / "t", tmp_path / "c", vocabulary, 30)
    corpus = Corpus(tmp_path / "c")

    def feed(rank: int, count: int) -> Feed:
        return Feed(corpus, 20, 3, Processes(rank, count, torch.device("cpu")))

    whole = [[corpus[int(i)][0].tolist() for i in batch] for batch in feed(0, 1).batches]
    assert len(whole) >= 6
    feeds = [feed(rank, 3) for rank in range(3)]
    dealt = [
        [[token for token in row if token != PADDING] for row in batch.source.tolist()]
        for _ in range(len(whole) // 3)
        for one in feeds
        for batch in one.next_step()
    ]
    assert dealt == whole[: len(dealt)]
    assert len(dealt) == len(whole) // 3 * 3


def test_the_budget_of_the_paper():
    """§5.1 ¶1: circa 25 000 token di sorgente e circa 25 000 di destinazione."""
    assert BUDGET == 25_000
    source, target = lengths(100_003)
    batches = token_batches(source, target, BUDGET, seed=0, epoch=0)
    filled = [max(room(batch, source), room(batch, target)) for batch in batches]
    assert max(filled) <= BUDGET
    assert sorted(filled)[1] > 0.9 * BUDGET


@pytest.mark.usefixtures("our_own_errors")
def test_wrong_lengths_are_refused():
    """§5.1 ¶1: una coppia che non sta nel budget si nomina, e così liste vuote o diverse."""
    good = np.array([3, 11, 1])
    for source, target, message in (
        (np.array([3, 12, 1]), good, "source_lengths: dato: la coppia 1, lunga 12; atteso: da 1 a"),
        (
            good,
            np.array([3, 4, 0]),
            "target_lengths: dato: la coppia 2, lunga 0; atteso: da 1 a 11",
        ),
        (good, np.array([12, 13, 5]), "target_lengths: dato: la coppia 0, lunga 12; atteso: da"),
        (good, good[:2], r"target_lengths: dato: \[2\]; atteso: \[3\], come la sorgente$"),
        (good[:0], good[:0], "source_lengths: dato: nessuna coppia; atteso: almeno una$"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            token_batches(source, target, 11, 0, 0)
    check_lengths(good, good, 11)


def test_a_batch_for_the_model_is_three_matrices():
    """§5.1 ¶1: l'inizio in testa all'ingresso, la fine in coda all'atteso."""
    batch = collate([([7, 8, 9], [5]), ([6], [4, 3, 8, 7])])
    assert batch.source.tolist() == [[7, 8, 9], [6, 0, 0]]
    assert batch.target.tolist() == [[1, 5, 0, 0, 0], [1, 4, 3, 8, 7]]
    assert batch.expected.tolist() == [[5, 2, 0, 0, 0], [4, 3, 8, 7, 2]]
    assert {matrix.dtype for matrix in vars(batch).values()} == {torch.int64}


def test_a_batch_does_not_change():
    """§5.1 ¶1: le tre matrici vanno insieme, e una sola non si sostituisce."""
    batch = collate([([7], [5])])
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.source = batch.target


def test_the_decoder_reads_what_it_must_write_shifted_by_one():
    """§5.1 ¶1: riga per riga, l'ingresso è `shift_right` dell'atteso, come in §3."""
    batch = collate([([7], [5, 9]), ([6], [4, 3, 8]), ([6, 6], [])])
    for target, expected in zip(batch.target, batch.expected, strict=True):
        length = (expected != PADDING).sum()
        assert target[:length].equal(shift_right(expected[:length], START))
        assert not target[length:].any()
        assert expected[length - 1] == END


def test_batches_are_built_from_the_corpus(files, tmp_path):
    """§5.1 ¶1: dal disco alle matrici: i token a 16 bit diventano gli interi del modello."""
    vocabulary = trained()
    prepare(*files, tmp_path / "corpus", vocabulary, 64)
    corpus = Corpus(tmp_path / "corpus")
    (batch,) = token_batches(corpus.source_lengths, corpus.target_lengths, 500, 0, 0)
    built = collate([corpus[int(i)] for i in batch])
    assert built.source.shape == (4, corpus.source_lengths.max())
    assert built.expected.shape == (4, corpus.target_lengths.max())
    assert [vocabulary.decode(row) for row in built.source] == [GERMAN[i] for i in batch]
    assert [vocabulary.decode(row) for row in built.expected] == [ITALIAN[i] for i in batch]


def test_padding_changes_no_score():
    """§5.1 ¶1: il padding costa tempo, e non cambia i risultati."""
    torch.manual_seed(3)
    config = TransformerConfig(layers=2, d_model=8, d_ff=11, heads=2, dropout=0.0, vocabulary=13)
    model = Transformer(config).double().eval()
    pairs = [([7, 8, 9, 10, 11], [5]), ([6], [4, 3, 8, 7]), ([5, 6], [12, 3])]
    batch = collate(pairs)
    together, _ = model.score(batch.source, batch.target, batch.expected)
    for row, pair in enumerate(pairs):
        alone = collate([pair])
        score, _ = model.score(alone.source, alone.target, alone.expected)
        torch.testing.assert_close(together[row, : len(pair[1]) + 1], score[0], rtol=0, atol=1e-12)


def test_batches_without_sentences_are_refused():
    """§5.1 ¶1: serve una coppia, e ogni frase di partenza ha almeno un token."""
    with pytest.raises(ValueError, match=r"^pairs: dato: nessuna coppia; atteso: almeno una$"):
        collate([])
    with pytest.raises(ValueError, match=r"^pairs: dato: la sorgente della coppia 1, vuota; att"):
        collate([([5], [5]), ([], [5])])


# I disegni e il Fortran della pagina.


def drawing(name: str) -> ElementTree.Element:
    return ElementTree.parse(ROOT / "paper_it" / "figure" / name).getroot()


def test_the_drawing_of_the_padding_is_the_case_by_hand():
    """Figura: caselle piene e tratteggiate, per batch e per parte, sono quelle del modulo."""
    svg = "{http://www.w3.org/2000/svg}"
    pair = SOURCE_BY_HAND, TARGET_BY_HAND
    orders = {"file": np.arange(6), "lengths": by_length(np.arange(6), *pair)}
    for name, order in orders.items():
        group = next(it for it in drawing("s5_1_padding.svg").iter() if it.get("class") == name)
        found = {
            (side.get("class"), int(side.get("data-batch"))): Counter(
                (int(it.get("data-pair")), it.get("class")) for it in side.iter(f"{svg}rect")
            )
            for side in group.iter(f"{svg}g")
            if side.get("data-batch")
        }
        for k, batch in enumerate(cut(order, *pair, 12)):
            for side, sizes in zip(("source", "target"), pair, strict=True):
                expected = Counter()
                for i in batch.tolist():
                    expected[i, "token"] = sizes[i]
                    expected[i, "padding"] = sizes[batch].max() - sizes[i]
                assert +found.pop((side, k)) == +expected
        assert not found


def test_the_drawing_of_the_layout_has_the_right_offsets(tmp_path):
    """Figura: gli indici scritti sono quelli che il modulo dà alle lunghezze disegnate."""
    root = drawing("s5_1_layout.svg")
    cells = [int(it.get("data-frase")) for it in root.iter() if it.get("class") == "cella"]
    written = [int(it.text) for it in root.iter() if it.get("class") == "indice"]
    assert cells == sorted(cells)
    with tracks(tmp_path, np.dtype("<u2")) as (source, _):
        source.append([[3] * length for length in Counter(cells).values()])
    assert written == np.fromfile(tmp_path / FILES[1], "<i8").tolist()


def test_fortran_on_the_page(fortran, files, tmp_path):
    """§5.1 ¶1: una frase letta dal file, e un batch impaccato, come `Corpus` e `collate`."""
    routines, folder = fortran("s5_1_data_batching"), tmp_path / "corpus"
    prepare(*files, folder, trained(), 64)
    corpus = Corpus(folder)
    name = os.fsencode(folder)
    for record in range(4):
        words, count = np.zeros(64, np.int32), ctypes.c_int()
        routines.read_record(
            name, len(name), record, 64, words.ctypes.data_as(ctypes.c_void_p), ctypes.byref(count)
        )
        assert words[: count.value].tolist() == corpus[record][0].tolist()

    chosen = np.array([2, 0, 3], np.int32)
    width = int(corpus.source_lengths[chosen].max())
    batch = np.full((3, width), -1, np.int64)
    tokens, offsets = (np.ascontiguousarray(side[0]) for side in (corpus.tokens, corpus.offsets))
    routines.pack(
        3, width, *(it.ctypes.data_as(ctypes.c_void_p) for it in (tokens, offsets, chosen, batch))
    )
    expected = collate([corpus[int(i)] for i in chosen]).source
    assert torch.from_numpy(batch).equal(expected)


def test_fortran_reads_tokens_without_a_sign(fortran):
    """§5.1 ¶1: sopra 32 767 una mezza parola con il segno sarebbe negativa."""
    routines = fortran("s5_1_data_batching")
    tokens, offsets = np.array([5, 40_000, 65_535], np.uint16), np.array([0, 3], np.int64)
    chosen, batch = np.zeros(1, np.int32), np.zeros((1, 4), np.int64)
    routines.pack(
        1, 4, *(it.ctypes.data_as(ctypes.c_void_p) for it in (tokens, offsets, chosen, batch))
    )
    assert batch.tolist() == [[5, 40_000, 65_535, 0]]


def test_understanding_a_line_gives_a_text_or_a_fault():
    """§5.1 ¶1: mai tutti e due, salvo la riga vuota, che è solo spazi."""
    assert understand(b"ja\n") == ("ja", "")
    assert understand(b"\xe8\n")[0] == ""
    assert understand(b"a\0\n")[0] == ""


# Le misure


def test_contestants_of_the_round_form_the_same_batches(tmp_path, monkeypatch):
    """Misure: il nostro giro, il caricatore di PyTorch e la copia danno le stesse matrici."""
    monkeypatch.setattr(bench, "PAIRS", 300)
    monkeypatch.setattr(bench, "BUDGET", 500)
    corpus = bench.invented(tmp_path)
    runs = bench.contestants(corpus)
    ours, theirs = runs["Feed"](), runs[bench.LOADER]()
    assert len(ours) > 3
    flat = [matrix for batch in ours for matrix in vars(batch).values()]
    others = [matrix for batch in theirs for matrix in vars(batch).values()]
    for matrices in (others, runs[bench.COPY]()):
        assert all(map(torch.equal, flat, matrices))
        assert len(matrices) == len(flat)
    assert sum(len(batch.source) for batch in ours) == len(corpus)
    work = bench.round_work(ours)
    assert work.label == f"{len(ours)} batch"
    assert work.numbers == sum(map(torch.numel, flat))
    assert work.bytes == 10 * work.numbers
