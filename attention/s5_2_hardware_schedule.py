"""§5.2: l'addestramento, passo per passo, in un processo o in molti.

Un passo riceve dei batch, somma i gradienti, muove i pesi. Ciò che fa dipende solo dai pesi, dal
suo numero e dal seme: perciò un addestramento interrotto riprende dall'ultimo checkpoint e arriva
agli stessi bit di uno mai interrotto. La perdita, l'ottimizzatore e il tasso di apprendimento
arrivano come argomenti: sono delle sezioni seguenti.
"""

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from attention.s0_abstract import require
from attention.s3_model_architecture import check_size
from attention.s5_1_data_batching import PADDING, Batch, Corpus, collate, token_batches


@dataclass(frozen=True)
class Schedule:
    """§5.2 ¶1: quanti passi, e quanto dura ciascuno.

    Argomenti:
        seconds: la durata di un passo, in secondi.
        steps: quanti passi.
    """

    seconds: float
    steps: int

    @property
    def hours(self) -> float:
        """La durata dell'addestramento, in ore."""
        return self.seconds * self.steps / 3600


BASE_SCHEDULE = Schedule(0.4, 100_000)
"""Il modello base: circa 0,4 secondi a passo."""

BIG_SCHEDULE = Schedule(1.0, 300_000)
"""Il modello grande: 1 secondo a passo."""


# I processi.


@dataclass(frozen=True)
class Processes:
    """Quanti processi si dividono un passo, e quale è questo.

    Argomenti:
        rank: il numero di questo processo, da zero.
        count: quanti sono.
        device: il dispositivo su cui lavora questo.
    """

    rank: int
    count: int
    device: torch.device


TORCHRUN = (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
"""Le variabili con cui torchrun dice a un processo quale è, quanti sono, quale è sulla macchina; e
quanto valgono per chi è solo."""


@contextlib.contextmanager
def processes() -> Iterator[Processes]:
    """I processi avviati da torchrun, che si parlano con NCCL fra GPU e con Gloo fra CPU.

    Senza torchrun il processo è uno solo, e non c'è nessuno con cui parlare. Chi esce per un
    errore non si congeda dagli altri, che aspetterebbe invano: è torchrun a fermarli.

    Solleva:
        ValueError: se ci sono GPU, ma meno dei processi.
    """
    rank, count, local = (int(os.environ.get(name, alone)) for name, alone in TORCHRUN)
    device = torch.device("cpu")
    if torch.cuda.is_available():
        gpus = torch.cuda.device_count()
        require(local < gpus, "LOCAL_RANK", local, f"meno di {gpus}: un processo per GPU")
        device = torch.device("cuda", local)
        torch.cuda.set_device(device)
    if count > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield Processes(rank, count, device)
    if count > 1:
        dist.destroy_process_group()


# I dati.


@dataclass(frozen=True)
class Position:
    """Fin dove si sono letti i dati: quale giro del corpus, e quanti batch di quel giro."""

    epoch: int = 0
    batch: int = 0


class Feed:
    """I batch di ogni passo, in un ordine che dipende solo dal seme.

    Un passo ne prende `count` per ogni processo; finito un giro del corpus ne comincia un altro,
    mescolato in un altro modo.

    Argomenti:
        corpus: le frasi.
        budget: i token di un batch, da una parte e dall'altra.
        seed: da cui dipende l'ordine.
        processes: chi si divide i batch.
        count: quanti batch per processo a ogni passo.
        position: da dove cominciare.

    Solleva:
        TypeError, ValueError: se `count` non è un intero, almeno 1.
    """

    def __init__(
        self,
        corpus: Corpus,
        budget: int,
        seed: int,
        processes: Processes,
        count: int = 1,
        position: Position = Position(),
    ):
        check_size(count, "count")
        self.corpus, self.budget, self.seed = corpus, budget, seed
        self.processes, self.count, self.position = processes, count, position
        self.batches = self.shuffled(position.epoch)

    def shuffled(self, epoch: int) -> list[np.ndarray]:
        """I batch di un giro, ciascuno come indici di frasi."""
        lengths = self.corpus.source_lengths, self.corpus.target_lengths
        return token_batches(*lengths, self.budget, self.seed, epoch)

    def take(self) -> np.ndarray:
        """Il batch seguente, di chiunque sia."""
        if self.position.batch >= len(self.batches):
            self.position = Position(self.position.epoch + 1)
            self.batches = self.shuffled(self.position.epoch)
        taken = self.batches[self.position.batch]
        self.position = Position(self.position.epoch, self.position.batch + 1)
        return taken

    def next_step(self) -> list[Batch]:
        """I batch di questo processo per un passo: uno ogni tanti quanti sono i processi."""
        group = [self.take() for _ in range(self.count * self.processes.count)]
        mine = group[self.processes.rank :: self.processes.count]
        return [collate([self.corpus[int(i)] for i in batch]) for batch in mine]


# Il passo.


Losses = tuple[Tensor, Tensor, Tensor]
"""Somma delle perdite, somma dei −log p, numero di token: quelli effettivi, non il padding."""

Loss = Callable[[Any, Batch], Losses]
"""La perdita di un modello su un batch: la dà §5.4."""


class Objective(nn.Module):
    """Il modello con la sua perdita, come un modulo solo: ciò che DDP sa avvolgere."""

    def __init__(self, model: nn.Module, loss: Loss):
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Batch) -> Losses:
        """La perdita del batch."""
        return self.loss(self.model, batch)


@dataclass(frozen=True)
class Progress:
    """Ciò che si guarda di un passo.

    Argomenti:
        step: il suo numero, da 1.
        loss: la perdita media per token, quella che si minimizza.
        nll: la media di −log p per token, senza label smoothing.
        tokens: quanti token della destinazione, di tutti i processi.
        rate: il tasso di apprendimento.
        seconds: quanto è durato.
    """

    step: int
    loss: float
    nll: float
    tokens: int
    rate: float
    seconds: float


class Trainer:
    """Esegue i passi, da solo o con altri processi.

    Argomenti:
        model: il modello, già sul suo dispositivo.
        loss: la perdita.
        optimizer: muove i pesi.
        rate: il tasso di apprendimento di ogni passo, dal primo.
        processes: chi si divide un passo.
        seed: da cui dipende il dropout di ogni passo.
        dtype: il tipo dei prodotti; con BF16 i pesi restano in FP32.

    Solleva:
        TypeError, ValueError: se il seme non è un intero, almeno 0; se il tipo è un altro.
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        rate: Callable[[int], float],
        processes: Processes,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ):
        check_size(seed, "seed", lowest=0)
        known = dtype in (torch.float32, torch.bfloat16)
        require(known, "dtype", dtype, "torch.float32 o torch.bfloat16")
        self.model, self.optimizer, self.rate = model, optimizer, rate
        self.processes, self.seed, self.dtype = processes, seed, dtype
        objective = Objective(model, loss)
        self.objective = DistributedDataParallel(objective) if processes.count > 1 else objective
        self.step = 0

    def run(self, batches: Sequence[Batch]) -> Progress:
        """Un passo: in avanti e all'indietro su ogni batch, poi un solo movimento dei pesi.

        Solleva:
            FloatingPointError: se la perdita o un gradiente non è un numero finito; i pesi non si
                sono mossi.
        """
        start = time.perf_counter()
        step = self.step + 1
        torch.manual_seed(step_seed(self.seed, step, self.processes.rank))
        self.model.train()
        self.optimizer.zero_grad()
        loss, nll, tokens = self.gradients(batches)
        for name, value in (("loss", loss), ("gradient", self.gradient_norm())):
            given = f"{value} al passo {step}"
            require(math.isfinite(value), name, given, "un numero finito", FloatingPointError)
        rate = self.rate(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        self.step = step
        return Progress(step, loss, nll, tokens, rate, time.perf_counter() - start)

    def gradients(self, batches: Sequence[Batch]) -> tuple[float, float, int]:
        """I gradienti della perdita media su tutti i token del passo, di tutti i processi.

        DDP fa la media dei gradienti dei processi; la moltiplicazione per il loro numero ne rifà
        la somma. Così due processi danno i gradienti di uno che vede i batch di tutti e due.

        Restituisce:
            La perdita media, la media di −log p, il numero di token.
        """
        own = sum(int((batch.expected != PADDING).sum()) for batch in batches)
        tokens = self.sum_over_processes(torch.tensor(own)).item()
        sums = torch.zeros(2, dtype=torch.float64, device=self.processes.device)
        for place, batch in enumerate(batches, start=1):
            with self.synchronized(last=place == len(batches)):
                with self.autocast():
                    loss, nll, _ = self.objective(on_device(batch, self.processes.device))
                (loss * (self.processes.count / tokens)).backward()
            sums += torch.stack([loss.detach(), nll.detach()])
        loss, nll = (self.sum_over_processes(sums) / tokens).tolist()
        return loss, nll, int(tokens)

    def gradient_norm(self) -> float:
        """La lunghezza del gradiente, tutti i parametri insieme: finita solo se lo sono tutti."""
        gradients = (parameter.grad for parameter in self.model.parameters())
        return nn.utils.get_total_norm([it for it in gradients if it is not None]).item()

    def synchronized(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """I processi si scambiano i gradienti una volta per passo, con l'ultimo batch."""
        if last or not isinstance(self.objective, DistributedDataParallel):
            return contextlib.nullcontext()
        return self.objective.no_sync()

    def autocast(self) -> torch.autocast:
        """I prodotti nel tipo scelto."""
        reduced = self.dtype != torch.float32
        return torch.autocast(self.processes.device.type, self.dtype, enabled=reduced)

    def sum_over_processes(self, values: Tensor) -> Tensor:
        """La somma, su tutti i processi, di alcuni numeri."""
        total = values.to(self.processes.device)
        if self.processes.count > 1:
            dist.all_reduce(total)
        return total


def step_seed(seed: int, step: int, rank: int) -> int:
    """Il seme di un passo: non serve conservare lo stato del generatore, basta il numero del passo.

    Ogni processo ha il suo, perché il dropout di batch diversi sia diverso.
    """
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0])


def on_device(batch: Batch, device: torch.device) -> Batch:
    """Il batch dove lavora il modello."""
    return Batch(batch.source.to(device), batch.target.to(device), batch.expected.to(device))


# I checkpoint.


PATTERN = "checkpoint-{:08d}.safetensors"
"""Il nome di un checkpoint: il numero del passo, con gli zeri davanti."""

PARTIAL = ".partial"
"""La cartella di ciò che non è ancora intero."""


@dataclass(frozen=True)
class Checkpoint:
    """Tutto ciò che serve a riprendere.

    Argomenti:
        step: i passi già fatti.
        position: fin dove si sono letti i dati.
        tensors: i parametri del modello e le medie dell'ottimizzatore, per nome.
        notes: ciò che chi addestra vuole ritrovare: configurazione, ricetta, seme.
    """

    step: int
    position: Position
    tensors: dict[str, Tensor]
    notes: dict[str, Any]


def take_checkpoint(trainer: Trainer, feed: Feed, notes: dict[str, Any]) -> Checkpoint:
    """Una copia dello stato di un addestramento, fra un passo e l'altro."""
    tensors = {f"model.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    for index, state in trainer.optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": tensor for name, tensor in state.items()}
    copies = {
        name: tensor.detach().to("cpu", copy=True, memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    return Checkpoint(trainer.step, feed.position, copies, notes)


def restore(checkpoint: Checkpoint, trainer: Trainer) -> None:
    """Rimette modello e ottimizzatore com'erano; i dati riprendono da `checkpoint.position`.

    Solleva:
        ValueError: se il checkpoint è di un altro modello.
    """
    try:
        trainer.model.load_state_dict(part(checkpoint.tensors, "model."))
    except RuntimeError as error:
        given, expected = f"i pesi di un altro modello ({error})", "i pesi di questo"
        raise ValueError(f"checkpoint: dato: {given}; atteso: {expected}") from error
    states: dict[int, dict[str, Tensor]] = {}
    for name, tensor in part(checkpoint.tensors, "optimizer.").items():
        index, _, key = name.partition(".")
        states.setdefault(int(index), {})[key] = tensor.clone()
    groups = trainer.optimizer.state_dict()["param_groups"]
    trainer.optimizer.load_state_dict({"state": states, "param_groups": groups})
    trainer.step = checkpoint.step


def part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """I tensori il cui nome comincia così, con il resto del nome."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> Path:
    """Scrive un checkpoint; il file prende il suo nome solo quando è intero e sul disco.

    Solleva:
        OSError: se non si riesce a scrivere, per esempio perché il disco è pieno. I checkpoint di
            prima restano come sono.
    """
    target = folder / PATTERN.format(checkpoint.step)
    metadata = {
        "step": str(checkpoint.step),
        "position": json.dumps(vars(checkpoint.position)),
        "notes": json.dumps(checkpoint.notes),
    }
    metadata["digest"] = digest(metadata, checkpoint.tensors)
    try:
        with workshop(folder) as place:
            partial = place / target.name
            save_file(checkpoint.tensors, partial, metadata)
            flush(partial)
            os.replace(partial, target)
            flush(folder)
    except (OSError, SafetensorError) as error:
        size = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
        given, expected = f"{folder}, dove non si può scrivere ({error})", f"posto per {size} byte"
        raise OSError(f"folder: dato: {given}; atteso: {expected}") from error
    return target


@contextlib.contextmanager
def workshop(folder: Path) -> Iterator[Path]:
    """Una cartella per ciò che non è ancora intero: vuota all'inizio, tolta alla fine.

    Se il processo muore a metà resta, e la toglie chi riprende.
    """
    place = folder / PARTIAL
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def flush(path: Path) -> None:
    """Aspetta che un file, o i nomi in una cartella, siano sul disco."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def digest(metadata: dict[str, str], tensors: dict[str, Tensor]) -> str:
    """L'impronta di ciò che un checkpoint contiene: un bit che cambia la cambia."""
    found = hashlib.sha256()
    for name, text in sorted(metadata.items()):
        found.update(repr((name, text)).encode())
    for name, tensor in sorted(tensors.items()):
        found.update(repr((name, tensor.dtype, tensor.shape)).encode())
        found.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def read_checkpoint(path: Path) -> Checkpoint:
    """Il checkpoint scritto in un file. Nessun oggetto Python viene eseguito: solo numeri e testo.

    Solleva:
        ValueError: se il file è danneggiato, o non è un checkpoint.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata())
            written = metadata.pop("digest")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        intact = digest(metadata, tensors) == written
        position = Position(**json.loads(metadata["position"]))
        step, notes = int(metadata["step"]), json.loads(metadata["notes"])
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"path: dato: {path}; atteso: un checkpoint intero") from error
    require(intact, "path", f"{path}, danneggiato", "un checkpoint intero")
    return Checkpoint(step, position, tensors, notes)


def checkpoints(folder: Path) -> list[Path]:
    """I checkpoint di una cartella, dal più vecchio."""
    return sorted(folder.glob(f"checkpoint-{8 * '[0-9]'}.safetensors"))


def latest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """L'ultimo checkpoint intero, se c'è, e i reclami su quelli danneggiati venuti dopo."""
    complaints: list[str] = []
    for path in reversed(checkpoints(folder)):
        try:
            return read_checkpoint(path), complaints
        except ValueError as error:
            complaints.append(str(error))
    return None, complaints


def tidy(folder: Path, step: int, keep: int) -> None:
    """Toglie i checkpoint vecchi e i resti di chi è stato ucciso.

    Argomenti:
        folder: dove sono.
        step: il passo a cui si è; quelli di passi successivi non si contano e non si toccano.
        keep: quanti ne restano, da quello di `step` all'indietro.
    """
    shutil.rmtree(folder / PARTIAL, ignore_errors=True)
    written = [path for path in checkpoints(folder) if path.name <= PATTERN.format(step)]
    for path in written[:-keep]:
        path.unlink()


# L'addestramento.


def training(
    trainer: Trainer,
    feed: Feed,
    steps: int,
    folder: Path,
    every: int,
    keep: int,
    notes: dict[str, Any],
) -> Iterator[Progress]:
    """Dal passo in cui si è fino a `steps`, con un checkpoint ogni `every` passi e alla fine.

    Argomenti:
        trainer, feed: nuovi, oppure ripresi con `restore` e dalla posizione del checkpoint.
        steps: il numero dell'ultimo passo.
        folder: dove scrivere i checkpoint.
        every: ogni quanti passi.
        keep: quanti checkpoint conservare.
        notes: ciò che si vuole ritrovare nel checkpoint, da scrivere in JSON.

    Produce:
        Ciò che si guarda di ogni passo, dopo averlo fatto e, se tocca, messo al sicuro.

    Solleva:
        TypeError, ValueError: se `every` o `keep` non è un intero, almeno 1.
        OSError: se un checkpoint non si può scrivere.
        FloatingPointError: come `Trainer.run`.
    """
    check_size(every, "every")
    check_size(keep, "keep")
    writes = trainer.processes.rank == 0
    if writes:
        tidy(folder, trainer.step, keep)
    while trainer.step < steps:
        progress = trainer.run(feed.next_step())
        due = trainer.step % every == 0 or trainer.step == steps
        if due and writes:
            write_checkpoint(folder, take_checkpoint(trainer, feed, notes))
            tidy(folder, trainer.step, keep)
        yield progress
