"""Il giocattolo: come impara, e che cosa cambia se gli si cambia una cosa per volta.

È la prova della tabella 3 rifatta in casa: un modello piccolo, un compito piccolo, e per ogni riga
più addestramenti, che partono da numeri diversi. Si guarda il verso di una differenza, e se supera
quella fra un seme e l'altro.
"""

import argparse
import csv
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch

from attention.command_line import CORPUS, DATA, RECIPES, TOY, WORDS, prepare_data
from attention.s0_abstract import require
from attention.s3_model_architecture import Transformer, TransformerConfig, evaluating
from attention.s5_1_data_batching import END, Batch, Corpus, Report, Vocabulary, collate, read_pairs
from attention.s5_2_hardware_schedule import Feed, Processes, Progress, Trainer
from attention.s5_3_optimizer import learning_rate, make_optimizer
from attention.s5_4_regularization import SMOOTHING, BatchLoss, batch_loss
from attention.s6_1_machine_translation import beam_search
from attention.sa_attention_visualizations import drawing, label

# La curva.


def read_curve(path: Path) -> list[Progress]:
    """La curva di apprendimento scritta da `attention train`, un passo per riga."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Progress(
                int(row["step"]),
                float(row["loss"]),
                float(row["nll"]),
                int(row["tokens"]),
                float(row["rate"]),
                float(row["seconds"]),
            )
            for row in csv.DictReader(file)
        ]


def smoothed(values: Sequence[float], width: int) -> list[float]:
    """La media di ogni gruppo di `width` valori consecutivi; gli ultimi, se non bastano, no."""
    return [fmean(values[i : i + width]) for i in range(0, len(values) - width + 1, width)]


def polyline(values: Sequence[float], top: float, marks: Sequence[float]) -> Iterator[str]:
    """Una linea da sinistra a destra, in scala logaritmica, con le sue tacche.

    Argomenti:
        values: i valori, positivi.
        top: dove comincia il riquadro, dall'alto; è alto 150.
        marks: le tacche, in ordine; la prima è il fondo, l'ultima la cima.
    """
    low, high = math.log(marks[0]), math.log(marks[-1])

    def height(value: float) -> float:
        return top + 150 * (1 - (math.log(value) - low) / (high - low))

    for mark in marks:
        yield label(52.0, height(mark) + 4, f"{mark:.5f}".rstrip("0").rstrip(".").replace(".", ","))
        yield f'<path d="M58 {height(mark):.1f}H400" stroke="currentColor" opacity=".2"/>'
    width = 342 / (len(values) - 1)
    points = " ".join(f"{58 + i * width:.1f},{height(it):.1f}" for i, it in enumerate(values))
    style = 'fill="none" stroke="var(--md-accent-fg-color, #3f51b5)" stroke-width="2"'
    yield f'<polyline points="{points}" {style}/>'


WINDOW = 20
"""Su quanti passi si fa la media, nel disegno."""


def curve_drawing(curve: Sequence[Progress], title: str) -> str:
    """La perdita e il tasso di apprendimento, passo per passo, in SVG.

    Argomenti:
        curve: almeno due volte `WINDOW` passi.
        title: che cosa si vede.
    """
    require(len(curve) >= 2 * WINDOW, "curve", f"{len(curve)} passi", f"almeno {2 * WINDOW}")
    body = [label(58.0, 16.0, "−log p per token, in nat", "start")]
    body += polyline(smoothed([it.nll for it in curve], WINDOW), 28.0, (0.1, 0.3, 1.0, 3.0, 9.0))
    body += [label(58.0, 214.0, "tasso di apprendimento", "start")]
    body += polyline(smoothed([it.rate for it in curve], WINDOW), 226.0, (1e-5, 1e-4, 1e-3, 1e-2))
    body += [label(58.0, 398.0, "passo 1", "start"), label(400.0, 398.0, f"passo {curve[-1].step}")]
    return drawing(412.0, 406.0, title, body)


# Le varianti.


class Variant(NamedTuple):
    """Un modo di essere del giocattolo.

    Attributi:
        row: la riga della tabella 3 a cui somiglia.
        name: che cosa cambia.
        config: le misure.
        epsilon: ε_ls.
    """

    row: str
    name: str
    config: TransformerConfig
    epsilon: float = SMOOTHING


VARIANTS = (
    Variant("base", "il giocattolo", TOY),
    Variant("(A)", "1 testa", replace(TOY, heads=1)),
    Variant("(A)", "2 teste", replace(TOY, heads=2)),
    Variant("(A)", "16 teste", replace(TOY, heads=16)),
    Variant("(B)", "d_k = 4", replace(TOY, d_k=4)),
    Variant("(C)", "1 strato", replace(TOY, layers=1)),
    Variant("(C)", "d_ff = 64", replace(TOY, d_ff=64)),
    Variant("(D)", "dropout 0,1", replace(TOY, dropout=0.1)),
    Variant("(D)", "ε_ls = 0", TOY, 0.0),
    Variant("(D)", "ε_ls = 0,2", TOY, 0.2),
    Variant("(E)", "posizioni apprese", replace(TOY, learned_positions=64)),
)
"""Il giocattolo, e dieci modi di cambiarne una cosa sola."""

STEPS = 800
"""I passi di ogni addestramento: meno di quelli della ricetta, perché sono molti."""

WARMUP = 300
"""In quanti il tasso di apprendimento sale."""


def trained(
    variant: Variant, folder: Path, seed: int, steps: int = STEPS
) -> tuple[Transformer, Vocabulary]:
    """Un modello addestrato in una variante, sui dati di un addestramento del giocattolo.

    Argomenti:
        variant: la variante.
        folder: la cartella dell'addestramento.
        seed: da cui dipendono i pesi di partenza, l'ordine dei dati, il dropout.
        steps: quanti passi.
    """
    vocabulary = Vocabulary.load(folder / WORDS)
    alone = Processes(0, 1, torch.device("cpu"))
    torch.manual_seed(seed)
    model = Transformer(replace(variant.config, vocabulary=len(vocabulary)))

    def loss(model: Transformer, batch: Batch) -> BatchLoss:
        return batch_loss(model, batch, variant.epsilon)

    def rate(step: int) -> float:
        return learning_rate(step, model.config.d_model, WARMUP)

    trainer = Trainer(model, loss, make_optimizer(model), rate, alone, seed)
    feed = Feed(Corpus(folder / DATA), RECIPES["giocattolo"].budget, seed, alone)
    for _ in range(steps):
        trainer.run(feed.next_step())
    return model, vocabulary


Sentences = Sequence[tuple[list[int], list[int]]]
"""Coppie di frasi, in token."""


def read_sentences(folder: Path, part: str, vocabulary: Vocabulary) -> Sentences:
    """Le coppie di una parte del corpus che l'addestramento non ha visto."""
    german, italian = (str(folder / CORPUS / f"{part}.{language}") for language in ("de", "it"))
    return [
        (vocabulary.encode(source), vocabulary.encode(target))
        for _, source, target in read_pairs(german, italian, Report())
    ]


TOGETHER = 100
"""Quante frasi si giudicano insieme."""


def loss_on(model: Transformer, sentences: Sentences) -> float:
    """La media di −log p per token, in nat, senza label smoothing."""
    with evaluating(model):
        losses = [batch_loss(model, collate(group), 0.0) for group in groups(sentences)]
    return sum(it.plain.item() for it in losses) / sum(it.tokens.item() for it in losses)


def exact_on(model: Transformer, sentences: Sentences) -> float:
    """Quante frasi, da 0 a 1, si traducono identiche al riferimento, con l'ampiezza 1."""
    right = 0
    for group in groups(sentences):
        found = beam_search(model, collate(group).source, beam=1)
        right += sum(
            list(hypotheses[0].tokens) == [*target, END]
            for hypotheses, (_, target) in zip(found, group, strict=True)
        )
    return right / len(sentences)


def groups(sentences: Sentences) -> Iterator[Sentences]:
    """Le frasi a gruppi di `TOGETHER`."""
    for first in range(0, len(sentences), TOGETHER):
        yield sentences[first : first + TOGETHER]


class Run(NamedTuple):
    """Un addestramento e il suo giudizio.

    Attributi:
        variant: il nome della variante.
        seed: il seme.
        parameters: quanti parametri ha il modello.
        loss: la media di −log p per token, sulle frasi tenute da parte.
    """

    variant: str
    seed: int
    parameters: int
    loss: float


def run(variant: Variant, folder: Path, seed: int, steps: int = STEPS) -> Run:
    """Addestra una variante e la giudica sulle frasi tenute da parte."""
    model, vocabulary = trained(variant, folder, seed, steps)
    loss = loss_on(model, read_sentences(folder, "heldout", vocabulary))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return Run(variant.name, seed, parameters, round(loss, 5))


RESULTS = Path(__file__).with_suffix(".csv")
"""I risultati che la pagina mostra: una riga per addestramento."""


def read_runs(path: Path = RESULTS) -> list[Run]:
    """I risultati scritti finora; nessuno, se il file manca."""
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Run(name, int(seed), int(parameters), float(loss))
            for name, seed, parameters, loss in csv.reader(file)
        ]


def write_run(result: Run, path: Path = RESULTS) -> None:
    """Aggiunge una riga: anche da più processi insieme, ciascuno con i suoi semi."""
    line = io.StringIO()
    csv.writer(line, lineterminator="\n").writerow(result)
    with path.open("ab", buffering=0) as file:
        file.write(line.getvalue().encode())


class Row(NamedTuple):
    """Una riga della tabella: la media dei semi, e fin dove vanno il peggiore e il migliore."""

    variant: Variant
    parameters: int
    loss: float
    lowest: float
    highest: float


def table(runs: Sequence[Run]) -> list[Row]:
    """Le varianti con le loro medie, nell'ordine di `VARIANTS`; manca chi non ha risultati."""
    rows = []
    for variant in VARIANTS:
        mine = [it for it in runs if it.variant == variant.name]
        if mine:
            losses = [it.loss for it in mine]
            size = mine[0].parameters
            rows.append(Row(variant, size, fmean(losses), min(losses), max(losses)))
    return rows


SEED = 2017
"""Il seme del corpus: quello del comando `attention train giocattolo`."""


def experiment(folder: Path, seeds: Sequence[int], path: Path = RESULTS) -> None:
    """Tutte le varianti con tutti i semi; ciò che il file ha già non si rifà."""
    options = argparse.Namespace(recipe="giocattolo", seed=SEED, source=None, target=None)
    prepare_data(RECIPES["giocattolo"], folder, options)
    done = {(it.variant, it.seed) for it in read_runs(path)}
    for seed in seeds:
        for variant in VARIANTS:
            if (variant.name, seed) not in done:
                write_run(run(variant, folder, seed), path)
