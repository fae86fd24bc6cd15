"""Il comando `attention`: addestrare, tradurre, valutare, analizzare.

Qui le sezioni si incontrano: i dati di §5.1, i passi di §5.2, il tasso di §5.3, la perdita
di §5.4, la ricerca di §6.1, gli alberi di §6.3. Ogni ricetta è un addestramento che ha un nome.
"""

import argparse
import contextlib
import csv
import dataclasses
import hashlib
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from tqdm import tqdm

import attention.s6_3_constituency_parsing as parsing
from attention.beyond.grammar import write_corpus
from attention.beyond.muon import Muon, falling_rate
from attention.beyond.treebank import treebank
from attention.s0_abstract import require
from attention.s3_2_2_multi_head import packed_weights
from attention.s3_model_architecture import BASE, BIG, READER, Transformer, TransformerConfig
from attention.s5_1_data_batching import (
    INDEX,
    Batch,
    Corpus,
    FilePath,
    Report,
    Vocabulary,
    padded,
    prepare,
    read_lines,
    read_pairs,
    sentences,
    writing,
)
from attention.s5_2_hardware_schedule import (
    Feed,
    Position,
    Processes,
    Progress,
    Trainer,
    checkpoints,
    latest,
    processes,
    restore,
    training,
)
from attention.s5_3_optimizer import learning_rate, make_optimizer
from attention.s5_4_regularization import SMOOTHING, BatchLoss, batch_loss
from attention.s6_1_machine_translation import (
    ALPHA,
    BEAM,
    EXTRA,
    average_checkpoints,
    beam_search,
    bleu,
)

# Le ricette.


Files = tuple[Path, Path]
"""I due file paralleli di un addestramento."""


def write_sentences(folder: Path, seed: int) -> Files:
    """Le coppie tedesco–italiano della grammatica: quelle da addestramento, e le altre parti."""
    write_corpus(folder, seed, 100_000, 500)
    return folder / "train.de", folder / "train.it"


def write_trees(folder: Path, seed: int) -> Files:
    """Gli alberi come file paralleli: da una parte le parole, dall'altra parentesi e categorie."""
    for part, trees in vars(treebank(seed, 8_000, 500, 500)).items():
        sides = {
            "words": (" ".join(tree.words) for tree in trees),
            "trees": (" ".join(parsing.linearize(tree)) for tree in trees),
        }
        for name, lines in sides.items():
            with writing(folder / f"{part}.{name}") as file:
                file.writelines(f"{line}\n".encode() for line in lines)
    return folder / "train.words", folder / "train.trees"


@dataclass(frozen=True)
class Recipe:
    """Un addestramento da rifare.

    Argomenti:
        config: le misure del modello; il vocabolario ha le voci che si riescono a formare.
        vocabulary: quante voci al più.
        budget: i token di un passo, da una parte e dall'altra, di tutti i processi insieme.
        steps: quanti passi.
        warmup: in quanti il tasso di apprendimento sale.
        every: ogni quanti passi un checkpoint.
        keep: quanti se ne conservano; alla fine se ne fa la media.
        top: il tasso da cui parte la retta che scende, di chi si muove con Muon; se manca, il
            regime è quello dell'articolo, §5.3.
        dtype: il tipo in cui si scrive il modello finito.
        write: chi scrive il corpus, se la ricetta ne ha uno suo.
    """

    config: TransformerConfig
    vocabulary: int
    budget: int
    steps: int
    warmup: int
    every: int
    keep: int
    write: Callable[[Path, int], Files] | None = None
    top: float | None = None
    dtype: torch.dtype = torch.float32


TOY = TransformerConfig(layers=2, d_model=96, d_ff=256, heads=4, dropout=0.0)
"""Un modello che su due core si addestra in minuti."""

PARSER = TransformerConfig(layers=2, d_model=64, d_ff=256, heads=4, dropout=0.0)
"""Uno più stretto, per gli alberi."""

RECIPES = {
    "giocattolo": Recipe(
        TOY, 4000, 1600, 2400, 250, 50, 4, write_sentences, top=0.007, dtype=torch.float16
    ),
    "alberi": Recipe(PARSER, 1000, 2000, 5000, 1000, 200, 10, write_trees),
    "lettore": Recipe(READER, 37_000, 25_000, 100_000, 4000, 1400, 5),
    "base": Recipe(BASE, 37_000, 25_000, 100_000, 4000, 1400, 5),
    "big": Recipe(BIG, 37_000, 25_000, 300_000, 4000, 600, 20),
    "big-francese": Recipe(
        dataclasses.replace(BIG, dropout=0.1), 32_000, 25_000, 300_000, 4000, 600, 20
    ),
}
"""Il giocattolo e gli alberi hanno il loro corpus; le altre lo chiedono. Un checkpoint ogni 1400
passi da 0,43 secondi, o 600 da 1 secondo, è uno ogni dieci minuti, come in §6.1."""


# L'addestramento.


@contextlib.contextmanager
def quick_products() -> Iterator[None]:
    """Dentro, sulla CPU, i prodotti li fa oneDNN, con le istruzioni più larghe che trova.

    PyTorch glieli affida soltanto se gli permette di accorciare i fattori a BF16. oneDNN lo fa dove
    la CPU ha unità di prodotto in BF16, come le AMX di Intel; altrove i prodotti restano in FP32.
    """
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before, products.fp32_precision = products.fp32_precision, "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


@quick_products()
def train(options: argparse.Namespace) -> None:
    """`attention train`: da una ricetta a un modello, anche riprendendo da dove si era."""
    recipe = RECIPES[options.recipe]
    recipe = dataclasses.replace(recipe, steps=options.steps or recipe.steps)
    folder = Path(options.folder)
    with processes() as group:
        if group.rank == 0:
            prepare_data(recipe, folder, options)
        wait_for_everyone(group)
        trainer, feed, notes = start(recipe, folder, group, options)
        steps = training(trainer, feed, recipe.steps, folder, recipe.every, recipe.keep, notes)
        if group.rank == 0:
            steps = recorded(steps, folder / CURVE, trainer.step)
        for _ in shown(steps, trainer.step, recipe.steps, quiet=group.rank > 0):
            pass
        if group.rank == 0:
            model = average_checkpoints(checkpoints(folder)[-recipe.keep :])
            model.to(recipe.dtype).save(folder / MODEL)
            print(f"Il modello è in {folder / MODEL}.", file=sys.stderr)


MODEL = "model.safetensors"
"""Nella cartella di un addestramento: il modello finito."""

WORDS = "vocabulary.json"
"""Il vocabolario."""

CURVE = "curve.csv"
"""La curva di apprendimento, una riga per passo."""

ORIGIN = "origin.json"
"""Da dove vengono: il comando, le impronte dei file, la versione di PyTorch."""

DATA = "data"
"""I dati in token."""

CORPUS = "corpus"
"""Il testo da cui vengono, quando è una ricetta a scriverlo."""

LONGEST = 256
"""I token di una frase, al più: di più lunghe, fra quelle da addestramento, ce n'è poche."""


def prepare_data(recipe: Recipe, folder: Path, options: argparse.Namespace) -> None:
    """Il vocabolario e i dati in token, se non ci sono già."""
    if (folder / DATA / INDEX).exists():
        return
    source, target = options.source, options.target
    if recipe.write is None:
        given = source is not None and target is not None
        require(given, "--source, --target", "nessun file", f"due file, per {options.recipe}")
    else:
        (folder / CORPUS).mkdir(parents=True, exist_ok=True)
        source, target = recipe.write(folder / CORPUS, options.seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_origin(folder / ORIGIN, options, (Path(source), Path(target)))
    vocabulary = Vocabulary.train(sentences(source, target, stride(source)), recipe.vocabulary)
    vocabulary.save(folder / WORDS)
    print(prepare(source, target, folder / DATA, vocabulary, LONGEST), file=sys.stderr)


SAMPLE = 250_000
"""Le coppie che bastano a formare il vocabolario: con di più cresce la memoria, per parole rare."""


def stride(source: FilePath) -> int:
    """Ogni quante coppie se ne prende una, perché siano al più `SAMPLE`."""
    pairs = sum(1 for _ in read_lines(source, "source"))
    return max(1, math.ceil(pairs / SAMPLE))


def write_origin(path: Path, options: argparse.Namespace, files: Files) -> None:
    """Scrive da dove viene un addestramento, perché si possa rifare o riconoscere."""
    origin = {
        "command": f"attention train {options.recipe} --seed {options.seed}",
        "corpus": {file.name: digest(file) for file in files},
        "torch": torch.__version__,
    }
    with writing(path) as file:
        file.write(json.dumps(origin, indent=2).encode() + b"\n")


def digest(path: Path) -> str:
    """Lo SHA-256 di un file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def wait_for_everyone(group: Processes) -> None:
    """I processi si aspettano: il primo prepara i dati, gli altri li leggono."""
    if group.count > 1:
        dist.barrier()


def start(
    recipe: Recipe, folder: Path, group: Processes, options: argparse.Namespace
) -> tuple[Trainer, Feed, dict[str, Any]]:
    """Modello, ottimizzatore e dati: nuovi, o quelli dell'ultimo checkpoint intero."""
    vocabulary = Vocabulary.load(folder / WORDS)
    budget = recipe.budget // (group.count * options.accumulate)
    config = dataclasses.replace(recipe.config, vocabulary=len(vocabulary))
    torch.manual_seed(options.seed)
    model = Transformer(config).to(group.device)
    trainer = Trainer(
        model,
        loss,
        *regime(recipe, model),
        group,
        options.seed,
        torch.bfloat16 if options.bfloat16 else torch.float32,
    )
    notes = {
        "config": dataclasses.asdict(config),
        "recipe": options.recipe,
        "seed": options.seed,
        "budget": budget,
    } | ({} if recipe.top is None else {"steps": recipe.steps})
    position = resume(trainer, folder, options.resume, notes)
    feed = Feed(Corpus(folder / DATA), budget, options.seed, group, options.accumulate, position)
    return trainer, feed, notes


def regime(
    recipe: Recipe, model: Transformer
) -> tuple[torch.optim.Optimizer, Callable[[int], float]]:
    """Chi muove i pesi, e il tasso di ogni passo: come nell'articolo, oppure Muon."""
    if recipe.top is None:
        width, warmup = model.config.d_model, recipe.warmup
        return make_optimizer(model), lambda step: learning_rate(step, width, warmup)
    steps, warmup, top = recipe.steps, recipe.warmup, recipe.top
    return Muon(model), lambda step: falling_rate(step, steps, warmup, top)


def loss(model: Transformer, batch: Batch) -> BatchLoss:
    """La perdita dell'articolo: label smoothing con ε = 0,1."""
    return batch_loss(model, batch, SMOOTHING)


def resume(trainer: Trainer, folder: Path, wanted: bool, notes: dict[str, Any]) -> Position:
    """Rimette tutto com'era nell'ultimo checkpoint intero, se si vuole riprendere.

    La ricetta, il seme e i token di un batch devono essere quelli di allora: la posizione nei dati
    conta i batch, e con altri batch non vorrebbe dire nulla. Se il tasso scende fino in fondo,
    anche i passi: con un altro fondo ogni tasso sarebbe stato un altro.
    """
    if not wanted:
        require(not checkpoints(folder), "--folder", f"{folder}, con dei checkpoint", "--resume")
        return Position()
    checkpoint, complaints = latest(folder)
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    if checkpoint is None:
        return Position()
    changed = [name for name in notes if checkpoint.notes.get(name) != notes[name]]
    given = ", ".join(f"{name} = {notes[name]}" for name in changed)
    before = ", ".join(f"{name} = {checkpoint.notes.get(name)}" for name in changed)
    require(not changed, "--resume", given, before)
    restore(checkpoint, trainer)
    return checkpoint.position


def recorded(progress: Iterable[Progress], path: Path, done: int) -> Iterator[Progress]:
    """I passi, ciascuno scritto anche come riga di un file CSV.

    Di ciò che il file ha già restano le righe fino al passo `done`: chi muore fra un checkpoint e
    l'altro lascia righe di passi che la ripresa rifà.
    """
    names = [field.name for field in dataclasses.fields(Progress)]
    lines = path.read_text("utf-8").splitlines(keepends=True)[1:] if path.exists() else []
    whole = (line for line in lines if line.endswith("\n"))
    with writing(path) as file:
        kept = (line for line in whole if int(line.partition(",")[0]) <= done)
        file.writelines(line.encode() for line in (",".join(names) + "\n", *kept))
    with path.open("a", encoding="utf-8", newline="", buffering=1) as file:
        table = csv.writer(file, lineterminator="\n")
        for step in progress:
            table.writerow(f"{value:.6g}" for value in dataclasses.astuple(step))
            yield step


def shown(progress: Iterable[Progress], done: int, steps: int, quiet: bool) -> Iterator[Progress]:
    """I passi con una barra: perdita, token al secondo, tasso, tempo che manca."""
    with tqdm(total=steps, initial=done, unit="passo", disable=quiet or None) as bar:
        for step in progress:
            bar.update()
            bar.set_postfix_str(
                f"perdita {step.loss:.3f}, {step.tokens / step.seconds:.0f} token/s, "
                f"lr {step.rate:.1e}"
            )
            yield step


# L'uso.


@packed_weights()
def translate(options: argparse.Namespace) -> None:
    """`attention translate`: una frase per riga, e per ciascuna una riga di traduzione."""
    model, vocabulary = load(options.model)
    for line in translations(model, vocabulary, sys.stdin, options):
        print(line, flush=True)


def load(folder: Path) -> tuple[Transformer, Vocabulary]:
    """Il modello, in FP32 e sulla GPU se c'è, e il vocabolario di un addestramento finito."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = Transformer.load(folder / MODEL).to(device, torch.float32)
    return model, Vocabulary.load(folder / WORDS)


SHIPPED = Path(__file__).parent / "models"
"""I modelli già addestrati che questa edizione porta con sé, ciascuno nella sua cartella."""


TOGETHER = 16
"""Quante frasi si traducono insieme."""


def translations(
    model: Transformer, vocabulary: Vocabulary, lines: Iterable[str], options: argparse.Namespace
) -> Iterator[str]:
    """Le traduzioni, nell'ordine delle frasi; di una riga vuota è vuota anche la traduzione."""
    for group in groups(line.strip() for line in lines):
        encoded = [vocabulary.encode(line) for line in group]
        found = iter(search(model, [tokens for tokens in encoded if tokens], options))
        yield from (vocabulary.decode(next(found)) if tokens else "" for tokens in encoded)


def groups(lines: Iterable[str]) -> Iterator[list[str]]:
    """Le righe a gruppi di `TOGETHER`."""
    group: list[str] = []
    for line in lines:
        group.append(line)
        if len(group) == TOGETHER:
            yield group
            group = []
    if group:
        yield group


def search(
    model: Transformer, encoded: list[list[int]], options: argparse.Namespace
) -> list[Sequence[int]]:
    """La traduzione migliore di ogni frase, in token."""
    if not encoded:
        return []
    source = padded(encoded).to(model.embedding.weight.device)
    found = beam_search(model, source, options.beam, options.alpha, options.extra)
    return [hypotheses[0].tokens for hypotheses in found]


@packed_weights()
def evaluate(options: argparse.Namespace) -> None:
    """`attention evaluate`: BLEU, con la sua firma, e quante traduzioni sono identiche."""
    model, vocabulary = load(options.model)
    report = Report()
    pairs = [pair for _, *pair in read_pairs(options.source, options.target, report)]
    require(len(pairs) > 0, "--source, --target", "nessuna coppia", "almeno una")
    sources, references = zip(*pairs, strict=True)
    found = list(translations(model, vocabulary, tqdm(sources, disable=None), options))
    score = bleu(found, references)
    same = sum(map(str.__eq__, found, references))
    print(f"BLEU {score.bleu:.2f}   {score.signature}")
    print(f"identiche al riferimento: {same} su {len(found)} ({same / len(found):.1%})")
    if report.problems:
        print(report, file=sys.stderr)


@packed_weights()
def parse(options: argparse.Namespace) -> None:
    """`attention parse`: una frase per riga, con spazi fra le parole; un albero per riga."""
    model, vocabulary = load(options.model)
    lines = [line.split() for line in sys.stdin]
    written = translations(model, vocabulary, map(" ".join, lines), options)
    for words, tokens in zip(lines, written, strict=True):
        print(parsing.repaired_tree(tokens.split(), words) if words else "", flush=True)


# La riga di comando.


class Usage(argparse.HelpFormatter):
    """L'uso in italiano, con le righe seguenti rientrate quanto la prima."""

    def add_usage(
        self, usage: Any, actions: Any, groups: Any, prefix: str | None = "uso: "
    ) -> None:
        super().add_usage(usage, actions, groups, prefix)


class Parser(argparse.ArgumentParser):
    """argparse in italiano."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=Usage, **options)

    def error(self, message: str) -> NoReturn:
        """Un argomento sbagliato: l'uso, il messaggio, e il codice 2."""
        self.print_usage(sys.stderr)
        for english, italian in ITALIAN.items():
            message = message.replace(english, italian)
        self.exit(2, f"{self.prog}: errore: {message}\n")


ITALIAN = {
    "the following arguments are required": "mancano",
    "unrecognized arguments": "argomenti sconosciuti",
    "invalid choice": "scelta sconosciuta",
    "choose from": "si può scegliere fra",
    "expected one argument": "vuole un valore",
    "invalid int value": "non è un intero",
    "invalid float value": "non è un numero",
    "argument ": "argomento ",
}
"""Le frasi di argparse, e le nostre."""


TRANSLATING = BEAM, ALPHA, EXTRA
"""Ampiezza, α e token in più: §6.1 ¶3."""

PARSING = parsing.BEAM, parsing.ALPHA, parsing.EXTRA
"""Gli stessi, per gli alberi: §6.3 ¶3."""


def command_line() -> Parser:
    """I quattro comandi e le loro opzioni."""
    parser = Parser(prog="attention", description="Addestra e usa un Transformer.", add_help=False)
    helped(parser)
    commands = parser.add_subparsers(
        title="comandi", dest="command", required=True, parser_class=Parser, metavar="COMANDO"
    )
    one = new_command(commands, "train", train, "addestra un modello secondo una ricetta")
    one.add_argument("recipe", choices=RECIPES, help="la ricetta")
    one.add_argument("--folder", required=True, help="la cartella di checkpoint e modello")
    one.add_argument("--source", help="le frasi di partenza, una per riga, anche .gz")
    one.add_argument("--target", help="le frasi di arrivo, una per riga, anche .gz")
    one.add_argument("--resume", action="store_true", help="riprende dall'ultimo checkpoint")
    one.add_argument("--seed", type=int, default=2017, help="il seme (2017)")
    one.add_argument("--steps", type=int, help="quanti passi, invece di quelli della ricetta")
    one.add_argument("--accumulate", type=int, default=1, help="in quanti batch si divide un passo")
    one.add_argument("--bfloat16", action="store_true", help="i prodotti in BF16")
    for name, function, what in (
        ("translate", translate, "traduce le frasi che riceve"),
        ("evaluate", evaluate, "confronta le traduzioni con i riferimenti"),
        ("parse", parse, "analizza le frasi che riceve"),
    ):
        using = new_command(commands, name, function, what)
        if name == "parse":
            searching(using, "alberi", *PARSING)
        else:
            searching(using, "giocattolo", *TRANSLATING)
        if name == "evaluate":
            using.add_argument("--source", required=True, help="le frasi di partenza")
            using.add_argument("--target", required=True, help="i riferimenti")
    return parser


def searching(parser: Parser, name: str, beam: int, alpha: float, extra: int) -> None:
    """Con quale modello si cerca, e come; se non si dice, con il modello `name` di casa."""
    for option, kind, default, what in (
        ("--model", Path, SHIPPED / name, "la cartella di un addestramento finito"),
        ("--beam", int, beam, "ampiezza della ricerca"),
        ("--alpha", float, alpha, "α"),
        ("--extra", int, extra, "token in più della sorgente"),
    ):
        shown = f"«{name}», quello di casa" if option == "--model" else default
        parser.add_argument(option, type=kind, default=default, help=f"{what} ({shown})")


def new_command(commands: Any, name: str, function: Callable[..., None], what: str) -> Parser:
    """Un comando con la sua funzione."""
    parser = commands.add_parser(
        name, help=what, description=f"{what.capitalize()}.", add_help=False
    )
    helped(parser)
    parser.set_defaults(function=function)
    return parser


def helped(parser: Parser) -> None:
    """L'aiuto, con i titoli in italiano."""
    parser._positionals.title, parser._optionals.title = "argomenti", "opzioni"
    parser.add_argument("-h", "--help", action="help", help="mostra questo aiuto")


def main(arguments: Sequence[str] | None = None) -> int:
    """Esegue un comando. Un errore di chi lo usa è una riga, non una traccia."""
    options = command_line().parse_args(arguments)
    try:
        options.function(options)
    except (ValueError, TypeError, OSError) as error:
        print(f"attention: {error}", file=sys.stderr)
        return 1
    return 0
