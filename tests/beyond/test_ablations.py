"""Le varianti: ciascuna cambia una cosa sola, e il giudizio è quello che dice di essere."""

import dataclasses
import math
import re
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
import torch

from attention import Transformer, command_line
from attention.beyond import ablations
from attention.beyond.ablations import (
    RESULTS,
    STEPS,
    VARIANTS,
    WINDOW,
    Run,
    Variant,
    curve_drawing,
    exact_on,
    experiment,
    groups,
    loss_on,
    polyline,
    read_curve,
    read_runs,
    read_sentences,
    run,
    smoothed,
    table,
    trained,
    write_run,
)
from attention.beyond.grammar import write_corpus
from attention.command_line import CORPUS, DATA, RECIPES, SHIPPED, TOY, prepare_data
from attention.s3_model_architecture import evaluating, make_attention
from attention.s5_1_data_batching import END, Corpus, collate
from attention.s5_2_hardware_schedule import Feed, Processes, Progress, Trainer
from attention.s5_3_optimizer import learning_rate, make_optimizer
from attention.s5_4_regularization import batch_loss
from attention.s6_1_machine_translation import Hypothesis

TINY = dataclasses.replace(TOY, layers=1, d_model=16, d_ff=32, heads=2)

VARIANT = Variant("base", "minima", TINY)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Una cartella con poche frasi, preparata come quella del giocattolo."""
    recipe = dataclasses.replace(
        RECIPES["giocattolo"], config=TINY, vocabulary=400, budget=200, write=few
    )
    monkeypatch.setitem(RECIPES, "giocattolo", recipe)
    options = command_line.argparse.Namespace(recipe="giocattolo", seed=7, source=None, target=None)
    prepare_data(recipe, tmp_path, options)
    return tmp_path


def few(folder, seed):
    write_corpus(folder, seed, 60, 9)
    return folder / "train.de", folder / "train.it"


def test_a_variant_changes_one_thing():
    """Ogni riga differisce dalla prima in ciò che il suo nome dice, e in nient'altro."""

    def fields(variant):
        return dataclasses.asdict(variant.config) | {"epsilon": variant.epsilon}

    base, *others = VARIANTS
    assert (base.config, base.epsilon) == (TOY, 0.1)
    before, changes = fields(base), {}
    for variant in others:
        after = fields(variant)
        changes[variant.name] = {key: after[key] for key in after if after[key] != before[key]}
    assert changes == {
        "1 testa": {"heads": 1},
        "2 teste": {"heads": 2},
        "16 teste": {"heads": 16},
        "d_k = 4": {"d_k": 4},
        "1 strato": {"layers": 1},
        "d_ff = 64": {"d_ff": 64},
        "dropout 0,1": {"dropout": 0.1},
        "ε_ls = 0": {"epsilon": 0.0},
        "ε_ls = 0,2": {"epsilon": 0.2},
        "posizioni apprese": {"learned_positions": 64},
    }
    assert len(changes) == len(others)


def test_narrow_keys_leave_values_as_they_were():
    """Riga (B): cambia d_k, e la larghezza dei value resta quella."""
    (narrow,) = (variant for variant in VARIANTS if variant.row == "(B)")
    assert narrow.config.d_k == 4
    part = make_attention(narrow.config)
    assert (part.d_k, part.d_v) == (4, TOY.d_model // TOY.heads)


def test_training_depends_on_seed_and_variant_only(folder):
    """Con lo stesso seme gli stessi bit; con un altro, o con un altro ε, un altro modello."""
    first, _ = trained(VARIANT, folder, 1, steps=3)
    again, _ = trained(VARIANT, folder, 1, steps=3)
    assert first.embedding.weight.equal(again.embedding.weight)
    for other in (
        trained(VARIANT, folder, 2, steps=3),
        trained(VARIANT._replace(epsilon=0.0), folder, 1, steps=3),
        trained(VARIANT, folder, 1, steps=2),
    ):
        assert not first.embedding.weight.equal(other[0].embedding.weight)


def test_a_training_written_out(folder):
    """Pesi, batch e dropout dal seme; il tasso dell'eq. (3), che sale in 300 passi; 800 passi."""
    variant = Variant("(D)", "minima", dataclasses.replace(TINY, dropout=0.1), 0.2)
    found, vocabulary = trained(variant, folder, 5, steps=4)
    torch.manual_seed(5)
    model = Transformer(dataclasses.replace(variant.config, vocabulary=len(vocabulary)))
    alone = Processes(0, 1, torch.device("cpu"))
    trainer = Trainer(
        model,
        lambda model, batch: batch_loss(model, batch, 0.2),
        make_optimizer(model),
        lambda step: learning_rate(step, 16, 300),
        alone,
        5,
    )
    feed = Feed(Corpus(folder / DATA), 200, 5, alone)
    for _ in range(4):
        trainer.run(feed.next_step())
    assert all(map(torch.equal, found.parameters(), model.parameters()))
    assert STEPS == 800


def test_judgement_by_another_road(folder):
    """Perdita e traduzioni identiche, rifatte frase per frase; il dropout tace.

    Il modello è quello del deposito, che le frasi le sa; a due si dà un altro riferimento.
    """
    toy, vocabulary = command_line.load(SHIPPED / "giocattolo")
    model = Transformer(dataclasses.replace(toy.config, dropout=0.1))
    model.load_state_dict(toy.state_dict())
    sentences = [*read_sentences(folder, "heldout", vocabulary)]
    assert len(sentences) == 9
    for place in (2, 5):
        sentences[place] = sentences[place][0], sentences[place - 1][1]
    total = count = right = 0
    for pair in sentences:
        batch = collate([pair])
        with evaluating(model):
            logits = model(batch.source, batch.target)[0]
        total += torch.nn.functional.cross_entropy(
            logits, batch.expected[0], reduction="sum"
        ).item()
        count += batch.expected.numel()
        tokens = model.generate(batch.source)[0].tolist()
        right += vocabulary.decode(tokens) == vocabulary.decode(pair[1])
    assert loss_on(model, sentences) == pytest.approx(total / count, rel=1e-5)
    assert exact_on(model, sentences) == right / 9
    assert 0 < right < 9


def test_exact_counts_what_is_identical(folder, monkeypatch):
    """Identica vuol dire fino alla fine: un token in più, in meno o diverso, e non lo è più.

    Si prende ogni volta il token più probabile.
    """
    _, vocabulary = trained(VARIANT, folder, 1, steps=0)
    sentences = read_sentences(folder, "dev", vocabulary)
    answers = [[*target, END] for _, target in sentences]
    answers[1].pop()
    answers[2].insert(0, 7)
    answers[3][0] += 1
    found = iter([Hypothesis(tuple(tokens), -1.0, -1.0, True)] for tokens in answers)
    beams = []

    def search(model, source, beam):
        beams.append(beam)
        return [next(found) for _ in source]

    monkeypatch.setattr(ablations, "beam_search", search)
    assert exact_on(Transformer(VARIANT.config), sentences) == pytest.approx(6 / 9)
    assert beams == [1]


def test_groups_lose_nothing():
    sentences = [([i], [i]) for i in range(250)]
    parts = list(groups(sentences))
    assert [pair for part in parts for pair in part] == sentences
    assert [len(part) for part in parts] == [100, 100, 50]


def test_results_survive_the_file(tmp_path):
    """Ciò che si scrive si rilegge, anche con una virgola nel nome; un file che manca è vuoto."""
    path = tmp_path / "runs.csv"
    assert read_runs(path) == []
    rows = [Run("dropout 0,1", 3, 17, 0.25), Run("1 testa", 4, 18, 1.0)]
    for row in rows:
        write_run(row, path)
    assert read_runs(path) == rows


def test_table_by_hand():
    """Media, peggiore e migliore di due semi; le varianti nell'ordine di sempre."""
    runs = [
        Run(VARIANTS[2].name, 1, 10, 0.5),
        Run(VARIANTS[0].name, 1, 20, 0.25),
        Run(VARIANTS[0].name, 2, 20, 0.75),
        Run("un'altra cosa", 1, 1, 1.0),
    ]
    first, second = table(runs)
    assert tuple(first) == (VARIANTS[0], 20, 0.5, 0.25, 0.75)
    assert tuple(second) == (VARIANTS[2], 10, 0.5, 0.5, 0.5)


def test_an_experiment_takes_up_where_it_was(folder, monkeypatch):
    """Ogni variante con ogni seme, una volta sola, sui dati di `attention train giocattolo`."""
    monkeypatch.setattr(ablations, "VARIANTS", (VARIANT, VARIANT._replace(name="altra")))
    asked = []

    def fake(variant, folder, seed):
        asked.append((variant.name, seed))
        return Run(variant.name, seed, 1, 1.0)

    prepared = []
    monkeypatch.setattr(ablations, "run", fake)
    monkeypatch.setattr(ablations, "prepare_data", lambda *it: prepared.append(it))
    path = folder / "runs.csv"
    write_run(Run("altra", 1, 1, 1.0), path)
    experiment(folder, [1, 2], path)
    assert asked == [("minima", 1), ("minima", 2), ("altra", 2)]
    ((recipe, place, options),) = prepared
    assert (recipe, place, options.seed) == (RECIPES["giocattolo"], folder, 2017)
    assert {(it.variant, it.seed) for it in read_runs(path)} == {
        (name, seed) for name in ("minima", "altra") for seed in (1, 2)
    }


def test_a_run_is_trained_and_judged(folder):
    """Sulle frasi tenute da parte, dal tedesco all'italiano, con cinque cifre."""
    result = run(VARIANT, folder, 5, steps=2)
    assert (result.variant, result.seed) == ("minima", 5)
    model, vocabulary = trained(VARIANT, folder, 5, steps=2)
    assert result.parameters == sum(parameter.numel() for parameter in model.parameters())
    german, italian = (
        (folder / CORPUS / f"heldout.{language}").read_text(encoding="utf-8").splitlines()
        for language in ("de", "it")
    )
    pairs = zip(german, italian, strict=True)
    sentences = [(vocabulary.encode(source), vocabulary.encode(target)) for source, target in pairs]
    assert result.loss == round(loss_on(model, sentences), 5)


def test_published_results_are_whole():
    """Sulla pagina ci sono tutte le varianti, con almeno tre semi, gli stessi per tutte."""
    runs = read_runs(RESULTS)
    seeds = {
        variant.name: {it.seed for it in runs if it.variant == variant.name} for variant in VARIANTS
    }
    assert all(len(found) >= 3 for found in seeds.values())
    assert len({frozenset(found) for found in seeds.values()}) == 1
    assert len(runs) == sum(map(len, seeds.values()))
    assert all(math.isfinite(it.loss) for it in runs)
    rows = table(runs)
    sizes = {row.variant.name: row.parameters for row in rows}
    assert sizes["1 strato"] < sizes["il giocattolo"]
    assert sizes["1 testa"] == sizes["16 teste"] == sizes["il giocattolo"]


def worse_seeds(name):
    """Con quanti semi una variante è peggio del giocattolo dello stesso seme."""
    losses = {(it.variant, it.seed): it.loss for it in read_runs()}
    seeds = {seed for _, seed in losses}
    return sum(losses[name, seed] > losses["il giocattolo", seed] for seed in seeds), len(seeds)


def test_trends_of_the_published_runs():
    """Dove gli intervalli dei semi sono separati, dove si sovrappongono, e il verso di ognuno."""
    rows = {row.variant.name: row for row in table(read_runs())}
    toy = rows["il giocattolo"]
    assert rows["1 testa"].lowest > toy.highest
    assert rows["dropout 0,1"].highest < toy.lowest
    for name in ("2 teste", "16 teste", "d_k = 4", "1 strato", "d_ff = 64", "posizioni apprese"):
        assert rows[name].lowest < toy.highest, name
        assert rows[name].highest > toy.lowest, name
    for name in ("d_k = 4", "d_ff = 64"):
        assert worse_seeds(name) == (3, 3), name
    for name in ("1 strato", "2 teste"):
        assert worse_seeds(name) == (2, 3), name
    assert worse_seeds("posizioni apprese") == (1, 3)
    assert worse_seeds("16 teste") == (0, 3)
    floor = {epsilon: -math.log(1 - epsilon) for epsilon in (0, 0.1, 0.2)}
    bare = [
        rows["ε_ls = 0"].loss - floor[0],
        toy.loss - floor[0.1],
        rows["ε_ls = 0,2"].loss - floor[0.2],
    ]
    assert max(bare) - min(bare) < 2 * (toy.highest - toy.lowest)


# La curva.


CURVE = [Progress(step, 2.0, 8.0 / step, 100, step * 1e-4, 0.5) for step in range(1, 81)]


def test_the_curve_is_read_as_it_was_written(tmp_path):
    """Ciò che il comando scrive, qui si rilegge, con sei cifre."""
    path = tmp_path / "curve.csv"
    assert list(command_line.recorded(iter(CURVE), path, 0)) == CURVE
    found = read_curve(path)
    assert [it.step for it in found] == [it.step for it in CURVE]
    for one, other in zip(found, CURVE, strict=True):
        assert dataclasses.astuple(one) == pytest.approx(dataclasses.astuple(other), rel=1e-5)


def test_the_curve_of_the_toy_falls_and_then_bends():
    """Da 8,6 a meno di 0,5 intorno al massimo del tasso, sempre; poi sempre più adagio."""
    curve = read_curve(SHIPPED / "giocattolo" / command_line.CURVE)
    losses = smoothed([it.nll for it in curve], WINDOW)
    at = {step: losses[step // WINDOW] for step in (0, 100, 200, 300, 400, 500, 800)}
    falls = [before / after for before, after in pairwise(at.values())]
    assert min(falls) > 1.2
    assert [round(at[step], 1) for step in (0, 800)] == [8.6, 0.2]
    assert at[300] < 0.5
    assert round(losses[-1], 2) == 0.11
    assert at[0] - at[300] > 20 * (at[300] - at[800]) > 40 * (at[800] - losses[-1])
    rates = [it.rate for it in curve]
    assert rates.index(max(rates)) + 1 == RECIPES["giocattolo"].warmup


def test_means_of_groups_by_hand():
    assert smoothed([1.0, 3.0, 5.0, 7.0, 100.0], 2) == [2.0, 6.0]
    assert smoothed([1.0, 3.0], 1) == [1.0, 3.0]


def test_line_heights_are_logarithms():
    """Dal fondo alla cima di dieci in dieci: metà della strada è la radice."""
    text = "".join(polyline([1.0, 10.0, 100.0], 30.0, (1.0, 100.0)))
    (points,) = re.findall(r'points="([^"]+)"', text)
    assert points.split() == ["58.0,180.0", "229.0,105.0", "400.0,30.0"]
    marks = [float(it) for it in re.findall(r"M58 ([0-9.]+)H", text)]
    assert marks == [180.0, 30.0]
    small = "".join(polyline([1e-5, 1.0], 30.0, (1e-5, 1.0)))
    assert re.findall(r">([^<]+)</text>", small) == ["0,00001", "1"]


def test_drawing_has_loss_and_rate_of_every_window():
    """Due linee, un punto per gruppo di passi; il titolo lo dice a chi non vede."""
    root = ET.fromstring(curve_drawing(CURVE, "Una curva"))
    lines = root.findall("{http://www.w3.org/2000/svg}polyline")
    loss, rate = ([it.split(",") for it in line.get("points").split()] for line in lines)
    assert len(loss) == len(rate) == len(CURVE) // WINDOW
    assert [float(y) for _, y in loss] == sorted(float(y) for _, y in loss)
    assert [float(y) for _, y in rate] == sorted((float(y) for _, y in rate), reverse=True)
    assert root.get("aria-label") == "Una curva"
    words = [it.text for it in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "passo 80" in words
    with pytest.raises(ValueError, match="curve: dato: 39 passi; atteso: almeno 40"):
        curve_drawing(CURVE[:39], "Una curva")
