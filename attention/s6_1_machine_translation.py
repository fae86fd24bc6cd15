"""§6.1: tradurre, e dire quanto bene e a quale costo.

La tabella 2 come dati. La beam search con la penalità di lunghezza di GNMT, e la media degli ultimi
checkpoint. I costi della tabella rifatti: secondi × GPU × velocità di una GPU. Il BLEU.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from attention.s0_abstract import EN_FR_TRAINING, Rival, Training, require
from attention.s3_1_encoder_decoder_stacks import LayerCache
from attention.s3_2_2_multi_head import packed_weights
from attention.s3_4_embeddings_softmax import at_least_float32, check_tokens, log_probabilities
from attention.s3_model_architecture import (
    Transformer,
    TransformerConfig,
    check_size,
    evaluating,
)

# La tabella 2.


@dataclass(frozen=True)
class Result:
    """Una riga della tabella 2: due lingue, due voti, due costi; None dove la casella è vuota.

    Argomenti:
        model: il nome che gli dà la tabella.
        ensemble: vero se a tradurre sono più modelli insieme.
        german, french: il BLEU dall'inglese al tedesco e al francese, su newstest2014.
        german_flops, french_flops: il costo di addestramento, in FLOP.
    """

    model: str
    ensemble: bool
    german: Decimal | None
    french: Decimal | None
    german_flops: Decimal | None
    french_flops: Decimal | None


def row(model: str, ensemble: bool, *cells: str) -> Result:
    """Una riga della tabella, con le caselle scritte come sono stampate; vuote, se lo sono."""
    return Result(model, ensemble, *(Decimal(cell) if cell else None for cell in cells))


TABLE_2 = (
    row("ByteNet", False, "23.75", "", "", ""),
    row("Deep-Att + PosUnk", False, "", "39.2", "", "1.0e20"),
    row("GNMT + RL", False, "24.6", "39.92", "2.3e19", "1.4e20"),
    row("ConvS2S", False, "25.16", "40.46", "9.6e18", "1.5e20"),
    row("MoE", False, "26.03", "40.56", "2.0e19", "1.2e20"),
    row("Deep-Att + PosUnk Ensemble", True, "", "40.4", "", "8.0e20"),
    row("GNMT + RL Ensemble", True, "26.30", "41.16", "1.8e20", "1.1e21"),
    row("ConvS2S Ensemble", True, "26.36", "41.29", "7.7e19", "1.2e21"),
    row("Transformer (base model)", False, "27.3", "38.1", "3.3e18", "3.3e18"),
    row("Transformer (big)", False, "28.4", "41.8", "2.3e19", "2.3e19"),
)
"""I risultati su newstest2014. Il costo dei due Transformer è stampato una volta sola per riga."""


def rivals(language: str) -> list[Rival]:
    """I risultati altrui in una lingua, come li vogliono le tesi del sommario.

    Argomenti:
        language: `german` o `french`.

    Solleva:
        ValueError: se la lingua non è una delle due.
    """
    require(language in ("german", "french"), "language", language, "german o french")
    found = []
    for result in TABLE_2:
        score, flops = getattr(result, language), getattr(result, f"{language}_flops")
        if score is not None and not result.model.startswith("Transformer"):
            found.append(Rival(result.model, score, result.ensemble, flops))
    return found


# La ricerca.


BEAM = 4
"""§6.1 ¶3: l'ampiezza, cioè quante ipotesi si portano avanti insieme."""

ALPHA = 0.6
"""§6.1 ¶3: l'esponente della penalità di lunghezza."""

EXTRA = 50
"""§6.1 ¶3: quanti token può avere un'uscita più della sua sorgente."""


def length_penalty(length: int, alpha: float) -> float:
    """La penalità di lunghezza di GNMT: ((5 + |Y|) / 6)^α.

    Argomenti:
        length: |Y|, i token dell'ipotesi, il simbolo di fine compreso.
        alpha: con 0 non c'è penalità; più è grande, più le ipotesi lunghe sono favorite.
    """
    return ((5 + length) / 6) ** alpha


@dataclass(frozen=True)
class Hypothesis:
    """Una traduzione possibile.

    Argomenti:
        tokens: i suoi token; l'ultimo è il simbolo di fine, se ci è arrivata.
        log_probability: la somma dei logaritmi delle loro probabilità.
        score: quella somma divisa per la penalità di lunghezza.
        finished: vero se è arrivata al simbolo di fine.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float
    finished: bool


def beam_search(
    model: Transformer,
    source: Int[Tensor, "batch n"],
    beam: int = BEAM,
    alpha: float = ALPHA,
    extra: int = EXTRA,
    n_best: int = 1,
) -> list[list[Hypothesis]]:
    """§6.1 ¶3: per ogni frase le traduzioni migliori che la ricerca trova.

    Argomenti:
        model: il modello.
        source: le frasi di partenza, forma [batch, n]; il padding in fondo.
        beam: quante ipotesi si portano avanti insieme; con 1 è la generazione di §3.
        alpha: l'esponente della penalità di lunghezza.
        extra: quanti token può avere un'uscita più della sua sorgente.
        n_best: quante traduzioni si vogliono, al più `beam`.

    Restituisce:
        Per ogni frase, al più `n_best` ipotesi, dalla migliore; prima quelle finite.

    Solleva:
        TypeError, ValueError: se i token non sono quelli che `Transformer.generate` accetta, o se
            una misura non può essere.
    """
    check_size(beam, "beam")
    check_size(extra, "extra", lowest=0)
    check_size(n_best, "n_best")
    require(n_best <= beam, "n_best", n_best, f"al più {beam}, come beam")
    require(isinstance(alpha, int | float), "alpha", alpha, "un numero", TypeError)
    require(0 <= alpha < math.inf, "alpha", alpha, "un numero finito, almeno 0")
    check_tokens(source, "source", model.config.vocabulary)
    require(source.dim() == 2, "source", source.shape, "una forma [batch, n]")
    with evaluating(model), packed_weights():
        return BeamSearch(model, source, beam, alpha, extra, n_best).run()


class BeamSearch:
    """La ricerca di più frasi insieme, ciascuna con i suoi `beam` posti.

    Un posto è di un'ipotesi aperta o di una finita: chi finisce tiene il suo, e le aperte restano
    in meno. La cache è della frase, e non si muove: ogni posizione vi ha un posto per ipotesi, e
    `past` dice quali sono del passato di ciascuna. Una frase conclusa lascia il batch.

    Argomenti:
        model: il modello, in uso e non in addestramento.
        source, beam, alpha, extra, n_best: come in `beam_search`.
    """

    def __init__(
        self,
        model: Transformer,
        source: Int[Tensor, "batch n"],
        beam: int,
        alpha: float,
        extra: int,
        n_best: int,
    ):
        self.model, self.beam, self.alpha, self.n_best = model, beam, alpha, n_best
        lengths = (source != model.config.padding_id).sum(dim=-1)
        self.limits = [length + extra for length in lengths.tolist()]
        self.open = list(range(len(source)))
        self.found: list[list[Hypothesis]] = [[] for _ in self.open]
        memory, self.mask = model.encode(source)
        longest = max(self.limits)
        self.caches = model.decoder.new_cache(memory, longest * beam)
        self.prefixes = source.new_zeros(len(source), beam, longest)
        self.past = self.prefixes.new_zeros(len(source), beam, longest * beam, dtype=torch.bool)
        dtype = at_least_float32(memory.dtype)
        self.scores = memory.new_full((len(source), beam), -math.inf, dtype=dtype)
        self.scores[:, 0] = 0  # all'inizio c'è un'ipotesi sola, quella vuota

    def run(self) -> list[list[Hypothesis]]:
        """Un passo dopo l'altro, finché una frase è aperta; poi le ipotesi, dalla migliore."""
        self.keep([row for row, limit in enumerate(self.limits) if limit > 0])
        position = 0
        while self.open:
            parents, tokens, scores = self.extend(position)
            ending = tokens == self.model.config.end_id
            self.collect(position, parents, scores.masked_fill(~ending, -math.inf))
            self.advance(position, parents, tokens, scores.masked_fill(ending, -math.inf))
            self.close(position)
            position += 1
        return [sorted(found, key=merit, reverse=True)[: self.n_best] for found in self.found]

    def extend(
        self, position: int
    ) -> tuple[
        Int[Tensor, "open beam"],
        Int[Tensor, "open beam"],
        Float[Tensor, "open beam"],
    ]:
        """Le continuazioni migliori di ogni frase aperta, una per ogni posto libero.

        Restituisce:
            Il posto dell'ipotesi da cui ciascuna viene, il token che aggiunge, la
            log-probabilità: dalla migliore, e −∞ dove il posto è di un'ipotesi finita.
        """
        if position == 0:
            last = torch.full_like(self.prefixes[..., 0], self.model.config.start_id)
        else:
            last = self.prefixes[..., position - 1]
        past = self.past[..., : (position + 1) * self.beam]
        past[..., -self.beam :] = torch.eye(self.beam, dtype=torch.bool, device=past.device)
        logits = self.model.next_logits(last, position, self.caches, self.mask, past)
        width = min(self.beam, logits.size(-1))
        best, tokens = log_probabilities(logits).topk(width, dim=-1)
        scores, order = (self.scores.unsqueeze(-1) + best).flatten(1).topk(self.beam, dim=-1)
        free = [self.beam - len(self.found[sentence]) for sentence in self.open]
        place = torch.arange(self.beam, device=scores.device)
        taken = place >= torch.tensor(free, device=scores.device).unsqueeze(-1)
        tokens = tokens.flatten(1).gather(1, order)
        return order // width, tokens, scores.masked_fill(taken, -math.inf)

    def collect(self, position: int, parents: Tensor, scores: Tensor) -> None:
        """Mette da parte le ipotesi che finiscono a questo passo."""
        for row, place in scores.isfinite().nonzero().tolist():
            prefix = self.prefixes[row, parents[row, place], :position].tolist()
            tokens = [*prefix, self.model.config.end_id]
            self.add(self.open[row], tokens, scores[row, place].item(), finished=True)

    def add(self, sentence: int, tokens: list[int], log_probability: float, finished: bool) -> None:
        """Un'ipotesi in più fra quelle trovate di una frase."""
        score = log_probability / length_penalty(len(tokens), self.alpha)
        self.found[sentence].append(Hypothesis(tuple(tokens), log_probability, score, finished))

    def advance(self, position: int, parents: Tensor, tokens: Tensor, scores: Tensor) -> None:
        """Le continuazioni che non finiscono sono le ipotesi aperte del passo seguente."""
        self.scores = scores
        rows = torch.arange(len(self.open), device=parents.device).unsqueeze(-1)
        self.prefixes, self.past = self.prefixes[rows, parents], self.past[rows, parents]
        self.prefixes[..., position] = tokens

    def close(self, position: int) -> None:
        """Toglie dal batch le frasi concluse: arrivate al limite, o già decise."""
        kept = []
        for row, scores in enumerate(self.scores.tolist()):
            sentence = self.open[row]
            if position + 1 == self.limits[sentence]:
                self.give_up(row, position)
            elif not self.is_settled(sentence, max(scores)):
                kept.append(row)
        self.keep(kept)

    def give_up(self, row: int, position: int) -> None:
        """Al limite le ipotesi ancora aperte si tengono come sono, dietro a quelle finite."""
        for place, score in enumerate(self.scores[row].tolist()):
            if score > -math.inf:
                prefix = self.prefixes[row, place, : position + 1].tolist()
                self.add(self.open[row], prefix, score, finished=False)

    def is_settled(self, sentence: int, best: float) -> bool:
        """La terminazione anticipata: vero se proseguire non può cambiare le `n_best` ipotesi.

        Argomenti:
            sentence: quale frase.
            best: la log-probabilità più alta fra le sue ipotesi aperte, −∞ se non ce n'è.
        """
        if best == -math.inf:
            return True
        scores = sorted((hypothesis.score for hypothesis in self.found[sentence]), reverse=True)
        return len(scores) >= self.n_best and self.bound(sentence, best) <= scores[self.n_best - 1]

    def bound(self, sentence: int, best: float) -> float:
        """Il punteggio che nessuna continuazione di un'ipotesi aperta può superare.

        La log-probabilità può solo calare, e il divisore è al più quello della lunghezza limite.
        """
        return best / length_penalty(self.limits[sentence], self.alpha)

    def keep(self, kept: list[int]) -> None:
        """Restringe il batch a queste frasi aperte."""
        if len(kept) == len(self.open):
            return
        self.open = [self.open[row] for row in kept]
        rows = torch.tensor(kept, dtype=torch.int64, device=self.scores.device)
        self.scores, self.prefixes = self.scores[rows], self.prefixes[rows]
        self.past = self.past[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        self.caches = [
            LayerCache(*(tensor[rows] for tensor in vars(cache).values())) for cache in self.caches
        ]


def merit(hypothesis: Hypothesis) -> tuple[bool, float]:
    """L'ordine delle ipotesi: prima le finite, poi il punteggio."""
    return hypothesis.finished, hypothesis.score


# La media dei checkpoint.


def average_checkpoints(paths: Sequence[Path]) -> Transformer:
    """§6.1 ¶3: il modello i cui parametri sono la media di quelli dei checkpoint, uno per uno.

    La somma è in doppia precisione; il tipo dei parametri resta quello dei checkpoint.

    Argomenti:
        paths: i checkpoint di uno stesso addestramento; l'articolo prende gli ultimi 5, o 20.

    Solleva:
        ValueError: se non ce n'è nessuno, se uno è danneggiato o di un altro modello.
    """
    require(len(paths) > 0, "paths", "nessun checkpoint", "almeno uno")
    model = checkpointed_model(paths[0])
    total = {name: tensor.double() for name, tensor in model.state_dict().items()}
    for path in paths[1:]:
        other = checkpointed_model(path)
        same = other.config == model.config
        require(same, "paths", f"{path}, di un altro modello", f"il modello di {paths[0]}")
        for name, tensor in other.state_dict().items():
            total[name] += tensor
    model.load_state_dict({name: tensor / len(paths) for name, tensor in total.items()})
    return model


def checkpointed_model(path: Path) -> Transformer:
    """Il modello di un checkpoint; la sua configurazione è l'annotazione `config`.

    Solleva:
        ValueError: se il file è danneggiato, o non è il checkpoint di un `Transformer`.
    """
    from attention.s5_2_hardware_schedule import part, read_checkpoint

    checkpoint = read_checkpoint(path)
    try:
        with torch.device("meta"):  # le forme; i numeri sono nel checkpoint
            model = Transformer(TransformerConfig(**checkpoint.notes["config"]))
        model.load_state_dict(part(checkpoint.tensors, "model."), assign=True)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"path: dato: {path}; atteso: un checkpoint di Transformer") from error
    return model


# I costi.


TFLOPS = {
    "K80": Decimal("2.8"),
    "K40": Decimal("3.7"),
    "M40": Decimal("6.0"),
    "P100": Decimal("9.5"),
}
"""Nota 5: la velocità sostenuta, in singola precisione, che gli autori stimano per ogni GPU."""


def cost(training: Training, gpu: str) -> Decimal:
    """§6.1 ¶4: durata × GPU × velocità stimata di una GPU, in FLOP.

    Argomenti:
        training: quanto è durato, su quante GPU.
        gpu: quale GPU, fra quelle della nota 5.

    Solleva:
        ValueError: se la nota 5 non dà la velocità di quella GPU.
    """
    require(gpu in TFLOPS, "gpu", gpu, ", ".join(TFLOPS))
    return training.flops(TFLOPS[gpu])


BASE_TRAINING = Training(Decimal("0.5"), 8)
"""Il modello base: dodici ore su otto P100."""

BIG_TRAINING = EN_FR_TRAINING
"""Il modello grande: per il tedesco la durata e le schede che il sommario dà per il francese."""


TRAININGS = {
    ("GNMT + RL", "german"): (Training(Decimal(1), 96), "K80"),
    ("GNMT + RL", "french"): (Training(Decimal(6), 96), "K80"),
    ("ConvS2S", "german"): (Training(Decimal("18.5"), 1), "M40"),
    ("ConvS2S", "french"): (Training(Decimal(37), 8), "M40"),
    ("MoE", "german"): (Training(Decimal(1), 64), "K40"),
    ("MoE", "french"): (Training(Decimal(6), 64), "K40"),
    ("Transformer (base model)", "german"): (BASE_TRAINING, "P100"),
    ("Transformer (big)", "german"): (BIG_TRAINING, "P100"),
    ("Transformer (big)", "french"): (BIG_TRAINING, "P100"),
}
"""Modello e lingua, poi durata, schede e tipo di scheda, dove si sanno.

GNMT e MoE vengono dall'articolo di MoE. ConvS2S è a memoria: lo sostiene solo il conto che torna.
"""


# Il voto.


@dataclass(frozen=True)
class Score:
    """Un BLEU, e la firma che dice come è stato calcolato.

    Argomenti:
        bleu: da 0 a 100.
        signature: la firma di sacrebleu: versione, tokenizzazione, riferimenti.
    """

    bleu: float
    signature: str


def bleu(translations: Sequence[str], references: Sequence[str]) -> Score:
    """Il BLEU di un insieme di traduzioni, calcolato da sacrebleu.

    Argomenti:
        translations: le traduzioni, una per frase.
        references: i riferimenti, nello stesso ordine.

    Solleva:
        TypeError: se al posto di un elenco c'è una frase sola.
        ValueError: se non ce n'è nessuna, o se i numeri sono diversi.
    """
    from sacrebleu.metrics.bleu import BLEU

    for name, given in (("translations", translations), ("references", references)):
        require(not isinstance(given, str), name, repr(given), "un elenco di frasi", TypeError)
    require(len(translations) > 0, "translations", "nessuna", "almeno una")
    same = len(translations) == len(references)
    require(same, "references", f"{len(references)}", f"{len(translations)}, uno per traduzione")
    metric = BLEU()
    found = metric.corpus_score(list(translations), [list(references)])
    return Score(found.score, str(metric.get_signature()))
