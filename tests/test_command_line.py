"""Il comando `attention`: da due file di testo a un modello che traduce, riprende, analizza."""

import dataclasses
import hashlib
import io
import json
import re
from argparse import Namespace
from pathlib import Path

import pytest
import torch

from attention import Transformer, command_line
from attention.beyond.grammar import write_corpus
from attention.beyond.muon import Muon, falling_rate
from attention.beyond.treebank import attachment_score, treebank
from attention.command_line import (
    CURVE,
    MODEL,
    ORIGIN,
    RECIPES,
    SHIPPED,
    TOGETHER,
    WORDS,
    Recipe,
    digest,
    groups,
    load,
    main,
    prepare_data,
    quick_products,
    regime,
    stride,
    translations,
    write_origin,
)
from attention.s3_2_2_multi_head import PACKS
from attention.s5_1_data_batching import Vocabulary, sentences
from attention.s5_2_hardware_schedule import checkpoints, read_checkpoint
from attention.s5_3_optimizer import learning_rate
from attention.s6_1_machine_translation import ALPHA, BEAM, EXTRA, average_checkpoints, beam_search
from attention.s6_3_constituency_parsing import Score, corpus_score, read_tree, repaired_tree

TINY = dataclasses.replace(
    RECIPES["base"].config, layers=1, d_model=16, d_ff=32, heads=2, dropout=0.1
)

PAIRS = [("uno due", "bir iki"), ("due uno", "iki bir"), ("uno", "bir"), ("due due", "iki iki")]


@pytest.fixture
def small(monkeypatch):
    """Una ricetta minima, con il nome di una vera."""
    recipe = Recipe(TINY, 300, 400, 6, 4, 2, 2)
    monkeypatch.setitem(RECIPES, "base", recipe)
    monkeypatch.setitem(RECIPES, "alberi", dataclasses.replace(recipe, write=write_few_trees))
    return recipe


def write_few_trees(folder, seed):
    """Come `write_trees`, con venti alberi soltanto."""
    whole = command_line.treebank
    command_line.treebank = lambda seed, train, *rest: whole(seed, 20, *rest)
    try:
        return command_line.write_trees(folder, seed)
    finally:
        command_line.treebank = whole


@pytest.fixture
def files(tmp_path):
    """Due file paralleli: la porta non chiede quali lingue siano."""
    for name, column in (("source.txt", 0), ("target.txt", 1)):
        text = "".join(f"{pair[column]}\n" for pair in PAIRS)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return [f"--{side}={tmp_path / f'{side}.txt'}" for side in ("source", "target")]


def train(folder, *options, recipe="base"):
    return main(["train", recipe, f"--folder={folder}", *options])


def use(monkeypatch, capsys, command, folder, lines, *options):
    """Ciò che un comando scrive, data una riga per frase."""
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
    capsys.readouterr()
    assert main([command, f"--model={folder}", "--extra=5", *options]) == 0
    return capsys.readouterr().out.splitlines()


@pytest.mark.usefixtures("small")
def test_two_text_files_become_a_model_that_translates(tmp_path, files, monkeypatch, capsys):
    """Un comando addestra, un altro traduce: una riga per riga, anche vuota."""
    assert train(tmp_path / "run", *files) == 0
    folder = tmp_path / "run"
    assert [path.name for path in checkpoints(folder)] == [
        "checkpoint-00000004.safetensors",
        "checkpoint-00000006.safetensors",
    ]
    lines = use(monkeypatch, capsys, "translate", folder, ["uno", "", "due uno"])
    assert len(lines) == 3
    assert lines[1] == ""
    alone = use(monkeypatch, capsys, "translate", folder, ["due uno"])
    assert alone == lines[2:]


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("command", ["translate", "parse"])
def test_weights_are_packed_once_a_command(command, tmp_path, files, monkeypatch, capsys):
    """§3.2.2: i gruppi di frasi di un comando si servono degli stessi pacchi."""
    train(tmp_path, *files)
    found = []

    def spy(*problem):
        found.append(PACKS.get())
        return beam_search(*problem)

    monkeypatch.setattr(command_line, "beam_search", spy)
    monkeypatch.setattr(command_line, "TOGETHER", 1)
    use(monkeypatch, capsys, command, tmp_path, ["uno", "due uno"])
    assert len(found) == 2
    assert found[0] is not None
    assert found[0] is found[1]


@pytest.mark.usefixtures("small")
def test_the_model_is_the_mean_of_the_last_checkpoints(tmp_path, files):
    """§6.1 ¶3: nel modello finito c'è la media degli ultimi checkpoint."""
    train(tmp_path, *files)
    model = Transformer.load(tmp_path / MODEL)
    tensors = [read_checkpoint(path).tensors for path in checkpoints(tmp_path)]
    for name, parameter in model.state_dict().items():
        mean = sum(found[f"model.{name}"].double() for found in tensors) / len(tensors)
        torch.testing.assert_close(parameter.double(), mean, rtol=0, atol=1e-7)


@pytest.mark.usefixtures("small")
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, files, capsys):
    """Fermato al passo 2 e ripreso, arriva agli stessi bit; senza --resume, si ferma prima."""
    train(tmp_path / "whole", *files)
    train(tmp_path / "halves", *files, "--steps=2")
    assert train(tmp_path / "halves", *files) == 1
    assert "--resume" in capsys.readouterr().err
    assert train(tmp_path / "halves", *files, "--resume") == 0
    whole, halves = (Transformer.load(tmp_path / name / MODEL) for name in ("whole", "halves"))
    for name, parameter in whole.state_dict().items():
        assert parameter.equal(halves.state_dict()[name])


@pytest.mark.usefixtures("small")
def test_evaluation_prints_bleu_with_its_signature(tmp_path, files, capsys):
    """BLEU e traduzioni identiche; i numeri sono quelli di sacrebleu."""
    train(tmp_path / "run", *files)
    capsys.readouterr()
    assert main(["evaluate", f"--model={tmp_path / 'run'}", *files]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("BLEU ")
    assert "version:" in first
    assert second.startswith("identiche al riferimento: ")
    assert " su 4 " in second


@pytest.mark.usefixtures("small")
def test_whatever_the_model_writes_becomes_a_tree(tmp_path, monkeypatch, capsys):
    """§6.3: un modello che non ha imparato scrive parentesi a caso; l'albero ha le parole date."""
    assert train(tmp_path, recipe="alberi") == 0
    lines = use(monkeypatch, capsys, "parse", tmp_path, ["il gatto dorme .", "", "Marta ride"])
    assert read_tree(lines[0]).words == ("il", "gatto", "dorme", ".")
    assert lines[1] == ""
    assert read_tree(lines[2]).words == ("Marta", "ride")


@pytest.mark.usefixtures("small")
def test_wrong_uses_are_one_italian_line(tmp_path, capsys):
    """Una riga che dice che cosa, mai una traccia; a chi scrive male il comando, prima l'uso."""
    assert train(tmp_path) == 1
    assert capsys.readouterr().err == (
        "attention: --source, --target: dato: nessun file; atteso: due file, per base\n"
    )
    for arguments, command, message in (
        ([], "attention", "mancano: COMANDO"),
        (["train", "nulla", "--folder=x"], "attention train", "scelta sconosciuta: 'nulla'"),
        (["train", "base"], "attention train", "mancano: --folder"),
        (["translate", "--beam=due"], "attention translate", "non è un intero: 'due'"),
        (["translate", "--bem=2"], "attention", "argomenti sconosciuti: --bem=2"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == 2
        usage, *more, error = capsys.readouterr().err.splitlines()
        assert usage.startswith(f"uso: {command} [-h] ")
        assert all(re.match(" {" + str(len(f"uso: {command} ")) + r"}\S", line) for line in more)
        assert error.startswith(f"{command}: errore: ")
        assert message in error
    assert main(["translate", f"--model={tmp_path / 'nulla'}"]) == 1
    (error,) = capsys.readouterr().err.splitlines()
    assert error.startswith("attention: ")


@pytest.mark.parametrize("command", [[], ["train"], ["translate"], ["evaluate"], ["parse"]])
def test_help_is_in_italian(command, capsys):
    """`--help` non ha parole inglesi di argparse."""
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith("uso: attention")
    for english in ("usage", "options:", "positional", "show this help"):
        assert english not in text


def test_recipes_are_the_paper_s():
    """§5 e §6.1: passi, warmup, token, checkpoint ogni dieci minuti, media di 5 o di 20."""
    base, big = RECIPES["base"], RECIPES["big"]
    assert (base.config.d_model, big.config.d_model) == (512, 1024)
    assert (base.steps, big.steps) == (100_000, 300_000)
    assert {base.warmup, big.warmup} == {4000}
    assert {base.budget, big.budget} == {25_000}
    assert (base.keep, big.keep) == (5, 20)
    assert (base.vocabulary, big.vocabulary) == (37_000, 37_000)
    assert (base.config.dropout, big.config.dropout) == (0.1, 0.3)
    assert base.every * 0.432 == pytest.approx(600, rel=0.02)
    assert big.every * 1.0 == 600
    french = RECIPES["big-francese"]
    assert french.config == dataclasses.replace(big.config, dropout=0.1)
    assert french.vocabulary == 32_000
    assert dataclasses.replace(french, config=big.config, vocabulary=37_000) == big


def test_searches_are_the_paper_s():
    """§6.1 ¶3 e §6.3 ¶3: ampiezza, α e limite di lunghezza, se non si chiede altro."""
    parser = command_line.command_line()
    translating = parser.parse_args(["translate"])
    assert (translating.beam, translating.alpha, translating.extra) == (BEAM, ALPHA, EXTRA)
    assert (BEAM, ALPHA, EXTRA) == (4, 0.6, 50)
    parsing = parser.parse_args(["parse"])
    assert (parsing.beam, parsing.alpha, parsing.extra) == (21, 0.3, 300)


@pytest.mark.usefixtures("small")
def test_the_curve_has_one_line_per_step(tmp_path, files):
    """Una riga per passo, anche dopo una ripresa; ciò che la ripresa rifà non resta due volte."""
    train(tmp_path, *files, "--steps=4")
    lines = (tmp_path / CURVE).read_text().splitlines()
    assert lines[0] == "step,loss,nll,tokens,rate,seconds"
    assert [line.split(",")[0] for line in lines[1:]] == ["1", "2", "3", "4"]
    with (tmp_path / CURVE).open("a") as file:
        file.write("5,1,1,1,1,1\n6,1,1")
    train(tmp_path, *files, "--resume")
    again = (tmp_path / CURVE).read_text().splitlines()
    assert again[:5] == lines
    assert [line.split(",")[0] for line in again[1:]] == ["1", "2", "3", "4", "5", "6"]
    assert again[5] != "5,1,1,1,1,1"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("option", "given", "before"),
    [("--seed=5", "seed = 5", "seed = 2017"), ("--accumulate=2", "budget = 200", "budget = 400")],
)
def test_only_the_same_run_is_resumed(tmp_path, files, capsys, option, given, before):
    """Con altri batch la posizione nei dati non vorrebbe dire nulla."""
    train(tmp_path, *files, "--steps=2")
    capsys.readouterr()
    assert train(tmp_path, *files, option, "--resume") == 1
    message = f"attention: --resume: dato: {given}; atteso: {before}\n"
    assert capsys.readouterr().err.endswith(message)


def test_a_falling_rate_is_resumed_with_the_same_steps(tmp_path, files, monkeypatch, capsys):
    """Con un altro fondo ogni tasso sarebbe stato un altro; con lo stesso, si riprende."""
    falling = Recipe(TINY, 300, 400, 6, 4, 2, 2, top=0.01, dtype=torch.float16)
    monkeypatch.setitem(RECIPES, "base", falling)
    train(tmp_path, *files, "--steps=2")
    capsys.readouterr()
    assert train(tmp_path, *files, "--resume") == 1
    message = "attention: --resume: dato: steps = 6; atteso: steps = 2\n"
    assert capsys.readouterr().err.endswith(message)
    assert train(tmp_path, *files, "--steps=2", "--resume") == 0


def test_the_toy_moves_with_muon_and_the_others_as_in_the_paper():
    """Il giocattolo: Muon, e un tasso che scende fino in fondo; gli altri: Adam, e l'eq. (3)."""
    model = Transformer(TINY)
    for name, recipe in RECIPES.items():
        optimizer, rate = regime(recipe, model)
        rates = [rate(1), rate(recipe.warmup), rate(recipe.steps)]
        assert isinstance(optimizer, Muon) == (name == "giocattolo") == (recipe.top is not None)
        limits = (1, recipe.warmup, recipe.steps)
        if recipe.top is None:
            assert rates == [learning_rate(step, 16, recipe.warmup) for step in limits]
        else:
            shape = recipe.steps, recipe.warmup, recipe.top
            assert rates == [falling_rate(step, *shape) for step in limits]


def test_a_recipe_chooses_the_type_of_its_model(tmp_path, files, monkeypatch):
    """Si addestra in FP32; il modello finito, se la ricetta lo chiede, si scrive più corto."""
    for name, dtype in (("short", torch.float16), ("long", torch.float32)):
        monkeypatch.setitem(RECIPES, "base", Recipe(TINY, 300, 400, 2, 4, 2, 2, dtype=dtype))
        train(tmp_path / name, *files)
        written = Transformer.load(tmp_path / name / MODEL)
        assert {it.dtype for it in written.parameters()} == {dtype}
        mean = average_checkpoints(checkpoints(tmp_path / name)).to(dtype)
        for ours, theirs in zip(written.parameters(), mean.parameters(), strict=True):
            assert torch.equal(ours, theirs)
        assert {it.dtype for it in load(tmp_path / name)[0].parameters()} == {torch.float32}


@pytest.fixture
def products():
    """L'impostazione dei prodotti, che alla fine torna com'era."""
    found = torch.backends.mkldnn.matmul
    before, found.fp32_precision = found.fp32_precision, "ieee"
    yield found
    found.fp32_precision = before


def test_quick_products_are_quick_inside_only(tmp_path, products):
    """L'impostazione torna quella di prima, anche dopo un errore; e i prodotti sono giusti."""
    left, right = torch.randn(80, 96), torch.randn(96, 300)
    with quick_products():
        assert products.fp32_precision == "bf16"
        found = left @ right
    assert products.fp32_precision == "ieee"
    exact = left.double() @ right.double()
    torch.testing.assert_close(found.double(), exact, rtol=0.02, atol=0.5)
    with pytest.raises(ValueError, match="train: dato: 0"):
        quick_products()(write_corpus)(tmp_path, 1, 0, 1)
    assert products.fp32_precision == "ieee"


@pytest.mark.parametrize("count", [0, 1, TOGETHER, TOGETHER + 1, 3 * TOGETHER])
def test_groups_lose_no_line(count):
    """Le righe vanno a gruppi di sedici, nell'ordine."""
    lines = [str(number) for number in range(count)]
    found = list(groups(lines))
    assert [line for group in found for line in group] == lines
    assert all(len(group) == TOGETHER for group in found[:-1])


# I modelli di casa.

EXACT = 0.985
"""Quante traduzioni di incontri mai visti devono restare identiche al riferimento.

Poche frasi meno di quante sono: fra due traduzioni che si equivalgono un altro processore può
scegliere l'altra.
"""


def shipped_origin(name):
    return json.loads((SHIPPED / name / ORIGIN).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["giocattolo", "alberi"])
def test_shipped_models_are_small_and_say_where_they_come_from(name):
    """Meno di un milione di parametri, meno di due milioni di byte; il comando, e la curva."""
    model, vocabulary = load(SHIPPED / name)
    assert sum(parameter.numel() for parameter in model.parameters()) < 1_000_000
    assert (SHIPPED / name / MODEL).stat().st_size < 2_000_000
    assert model.config.vocabulary == len(vocabulary)
    assert shipped_origin(name)["command"] == f"attention train {name} --seed 2017"
    steps = (SHIPPED / name / CURVE).read_text(encoding="utf-8").splitlines()[1:]
    assert len(steps) == RECIPES[name].steps


@pytest.mark.usefixtures("our_own_errors")
def test_the_shipped_toy_still_translates(tmp_path, monkeypatch, capsys):
    """Le frasi con incontri mai visti, cinquecento; e senza --model si usa lui."""
    write_corpus(tmp_path, 2017, 1, 500)
    files = [f"--{side}={tmp_path / name}" for side, name in SIDES]
    assert main(["evaluate", *files]) == 0
    same = capsys.readouterr().out.splitlines()[1]
    assert float(same.partition("(")[2].partition("%")[0]) >= 100 * EXACT
    monkeypatch.setattr("sys.stdin", io.StringIO("Der Hund schläft.\n"))
    assert main(["translate"]) == 0
    assert capsys.readouterr().out == "Il cane dorme.\n"


SIDES = (("source", "heldout.de"), ("target", "heldout.it"))


@pytest.mark.usefixtures("our_own_errors")
def test_the_shipped_toy_s_corpus_can_be_written_again(tmp_path):
    """Le impronte annotate accanto al modello sono quelle del corpus che la ricetta scrive oggi."""
    files = command_line.write_sentences(tmp_path, 2017)
    assert {file.name: digest(file) for file in files} == shipped_origin("giocattolo")["corpus"]


@pytest.mark.usefixtures("our_own_errors")
def test_the_shipped_parser_s_corpus_can_be_written_again(tmp_path):
    """Lo stesso per gli alberi: chi cambia il treebank deve riaddestrare."""
    files = command_line.write_trees(tmp_path, 2017)
    assert {file.name: digest(file) for file in files} == shipped_origin("alberi")["corpus"]


@pytest.mark.usefixtures("our_own_errors")
def test_the_shipped_parser_still_parses(tmp_path):
    """§6.3: F1 sopra 95 e attacchi giusti sopra 90, su frasi con legami mai visti."""
    trees = treebank(2017, 1, 1, 60).test
    model, vocabulary = load(SHIPPED / "alberi")
    options = Namespace(beam=4, alpha=0.3, extra=300)
    written = translations(model, vocabulary, [" ".join(tree.words) for tree in trees], options)
    given = [
        repaired_tree(line.split(), tree.words) for line, tree in zip(written, trees, strict=True)
    ]
    pairs = list(zip(trees, given, strict=True))
    attached = sum((attachment_score(*pair) for pair in pairs), Score(0, 0, 0))
    assert corpus_score(pairs).f1 > 95
    assert attached.recall > 90


@pytest.mark.parametrize(("sample", "every"), [(15, 3), (44, 2), (45, 1), (250_000, 1)])
def test_a_large_corpus_lends_a_sample_to_the_vocabulary(tmp_path, monkeypatch, sample, every):
    """§5.1: di 45 coppie, al più `SAMPLE`, prese a intervalli uguali."""
    text = tmp_path / "testo.it"
    text.write_text("".join(f"frase{n} " * 9 + "\n" for n in range(45)), encoding="utf-8")
    options = Namespace(source=str(text), target=str(text), seed=1, recipe="base")
    monkeypatch.setattr(command_line, "SAMPLE", sample)
    prepare_data(RECIPES["base"], tmp_path / "cartella", options)
    found = Vocabulary.load(tmp_path / "cartella" / WORDS)
    expected = Vocabulary.train(sentences(text, text, every), RECIPES["base"].vocabulary)
    assert found.tokenizer.get_vocab() == expected.tokenizer.get_vocab()
    assert stride(text) == every


def test_origin_names_the_files_and_the_command(tmp_path, files):
    """Il comando, le impronte dei file, la versione: ciò che serve a riconoscere un modello."""
    options = Namespace(recipe="base", seed=5)
    paths = [Path(file.partition("=")[2]) for file in files]
    write_origin(tmp_path / ORIGIN, options, tuple(paths))
    origin = json.loads((tmp_path / ORIGIN).read_text(encoding="utf-8"))
    assert origin == {
        "command": "attention train base --seed 5",
        "corpus": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in paths},
        "torch": torch.__version__,
    }
