"""Il punteggio di mutazione: quante alterazioni di un modulo fanno cadere i test della sua sezione.

    python tests/mutation.py s3_2_attention beyond/grammar gpu_notes/sm_simulator

cosmic-ray propone le alterazioni: un segno, un confronto, una costante, un `not`, un ciclo che
non gira. Non contano quelle nelle annotazioni, che nessuno esegue, quelle che non sono Python, e
`is` al posto di `==`, che fra tipi, booleani e interi piccoli è la stessa cosa.
Ogni mutante vive in una copia della sezione, in un processo figlio; il sorgente non si tocca.
"""

import ast
import contextlib
import importlib
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from weave.house import Triple  # noqa: E402

WORKERS = max(1, len(os.sched_getaffinity(0)))
PATIENCE = 5
"""Un mutante che impiega tante volte il tempo dell'originale è in un ciclo infinito."""

QUICK = ["-xq", "-pno:cacheprovider", "-Wignore::pytest.PytestAssertRewriteWarning"]
"""pytest si ferma al primo test che cade; le librerie pesanti sono già caricate nel padre."""

SAME_MEANING = {"ReplaceComparisonOperator_Eq_Is", "ReplaceComparisonOperator_NotEq_IsNot"}

EQUIVALENT: dict[str, dict[str, str]] = {
    "s3_2_attention": {
        "if top <= -math.inf:": "sotto −∞ non c'è nulla",
        "output = [0.0] * len(values[ -1])": "i value sono lunghi tutti uguale",
        'require(n != 0, "keys", "nessuna coppia", "almeno una")': "una lunghezza non è negativa",
    },
    "s3_2_1_scaled_dot_product": {
        "allowed = mask + empty": "fra valori logici è lo stesso",
        "allowed = mask ^ empty": "nelle righe vuote la maschera è tutta falsa",
        "mask = four_dimensional(torch.atleast_2d(mask ^ empty), batch)": "come sopra",
        "d_k, hidden = query.size(-1), direction.size(- 0)": "direction ha una dimensione sola",
        "if len(batch) >= 2:": "fondere una dimensione sola non cambia nulla",
        "if len(batch) > 1:": "come sopra",
        "tensor = tensor.expand(*batch, *tensor.shape[-2:]).flatten(0, len(batch) - 1)": (
            "fonde anche l'ultima dimensione di batch: una disposizione che vale l'altra"
        ),
        "while tensor.dim() != 4:": "le dimensioni non sono mai più di quattro",
        'require(d_k != 0, "query", "d_k = 0", "d_k almeno 1")': "una larghezza non è negativa",
        'require(key.size(-2) != 0, "key", "nessuna riga", "almeno una key")': "come sopra",
        "return len(shape) <= len(target) and all("
        "a in (1, b) for a, b in zip(shape, tail, strict=False))": "sono già lunghe uguale",
    },
    "s3_2_2_multi_head": {
        "divides = d_model % heads <= 0 or (d_k is not None and d_v is not None)": "resto mai < 0",
        "query @ w_q + b_q, key @ w_k - b_k, value @ w_v + b_v, mask": "è lo stesso per ogni key",
        "return tuple(bias.unflatten( -1, (self.heads, -1))[i] for bias in (query, key, value))": (
            "i bias hanno una dimensione sola"
        ),
        "if not isinstance(mask, Tensor) or mask.dim() < 2:": "[m, n] e [1, m, n] dicono lo stesso",
        "LARGE = 2** 16": "una soglia di comodo: i prodotti sono gli stessi",
        "LARGE = 2** 18": "come sopra",
        "LARGE = 2<<17": "come sopra",
        "return (weight @ torch.stack([x, x]).mT)[:, 1].contiguous()": "le due uscite sono uguali",
        "return (weight @ torch.stack([x, x]).mT)[:, -1].contiguous()": "come sopra",
        'return torch.ops.mkldnn._linear_pointwise(x, packs[key][ 0], bias, "none", [], "")': (
            "la matrice al posto del pacco: stesso prodotto, meno svelto"
        ),
    },
    "s3_2_3_applications": {
        "visible = causal_mask(m, target.device) * target_mask": "fra valori logici è lo stesso",
    },
    "s1_introduction": {
        "while distance <= len(latest):": "nel giro in più non c'è nulla da comporre",
    },
    "s2_background": {
        "layers = -1": "k elevato a −1 è minore di 1, perciò diventa subito 0",
        "return min(1, n >> 1)": "lo stesso valore per ogni n da 1 in su",
        "return min(1, n ^ 1)": "come sopra",
        'require(layers != n, "pattern", f"dopo {n} strati non arriva", '
        '"uno schema che si allarga")': "gli strati crescono di uno: il primo caso vietato è n",
        'require(layers is not n, "pattern", f"dopo {n} strati non arriva", '
        '"uno schema che si allarga")': "come sopra",
    },
    "s3_1_encoder_decoder_stacks": {
        "if not self.training or self.p <= 0:": "una probabilità non è negativa",
        'if x.device.type < "cpu" or self.p == 1:': "su CPU è lo stesso",
        "causal: bool = True,": "è una dichiarazione, che nessuno esegue",
        "query, key, value = self.self_attention.roles(x, 0, 4)": "i ruoli sono tre",
        'if x.device.type != "cpu" or self.p >= 1:': "una probabilità non supera 1",
        'if x.device.type > "cpu" or self.p == 1:': "nessun dispositivo viene prima di «cpu»",
        'require(len(layers) != 0, "layers", "nessuno strato", "almeno uno")': (
            "una lunghezza non è negativa"
        ),
        "different = len({id(layer) for layer in layers}) >= len(layers)": (
            "i distinti non sono mai di più"
        ),
    },
    "s3_4_embeddings_softmax": {
        "def forward(ctx: Any, hidden: Tensor, weight: Tensor, tokens: Tensor) "
        "-> tuple[Tensor, Tensor]:": "PyTorch chiama la funzione dalla classe, statica o no",
        "def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:": "come sopra",
        **{
            line: "le righe hanno una dimensione sola, le matrici due: ultima e seconda coincidono"
            for axis in ("+1", "1")
            for line in (
                f"*map(scores_in_place, *in_cache(matrix, tokens.unsqueeze({axis}))), strict=True",
                f"chosen, average = (gradient.unsqueeze({axis}).to(matrix.dtype) "
                "for gradient in gradients)",
                f"matrix.scatter_add_(1, tokens.unsqueeze({axis}), chosen)",
                f"top, average, chosen = exact.amax(dim={axis}), exact.mean(dim=-1), "
                "exact.gather(1, tokens)",
                f"top, average, chosen = exact.amax(dim=-1), exact.mean(dim={axis}), "
                "exact.gather(1, tokens)",
                f"probabilities = exact.softmax(dim={axis})",
                f"total = top - probabilities.amax(dim={axis}).log()",
                f"return chosen.squeeze({axis}) - total, average - total",
                f"rows = max(1, numbers // matrix.size({axis}))",
            )
        },
        "*map(scores_in_place, *in_cache(matrix, tokens.unsqueeze(-1))), strict=False": (
            "i gruppi sono sempre altrettanti"
        ),
        "for part, g, a in zip(*in_cache(matrix, chosen, average), strict=False):": "come sopra",
        'numbers = 2**20 if matrix.device.type <= "cpu" else 2**28': (
            "nessun dispositivo viene prima di «cpu»"
        ),
        "empty = tokens.dim() <= 0 or tokens.numel() == 0": "un conteggio non è negativo",
        "empty = tokens.dim() == 0 or tokens.numel() <= 0": "come sopra",
    },
    "s3_5_positional_encoding": {
        "even = d_model > 0 and d_model % 2 <= 0": "il resto non è mai negativo",
        "even = d_model > 1 and d_model % 2 == 0": "1 è dispari comunque",
        "pair = torch.arange(d_model / 2, dtype=torch.float64, device=device)": "d_model è pari",
        **{
            line: "gli angoli hanno una dimensione sola"
            for axis in ("+1", "1")
            for line in (
                f"rotations = torch.stack([cosine, sine, -sine, cosine], dim={axis})"
                ".unflatten(-1, (2, 2))",
                "rotations = torch.stack([cosine, sine, -sine, cosine], dim=-1)"
                f".unflatten({axis}, (2, 2))",
            )
        },
    },
    "s3_model_architecture": {
        "divides = self.d_model % self.heads <= 0 or None not in (self.d_k, self.d_v)": (
            "il resto non è mai negativo"
        ),
        "even = self.d_model % 2 <= 0 or self.learned_positions is not None": "come sopra",
        "distinct = len(set(special.values())) >= len(special)": "i distinti non sono mai di più",
        "limits = (source != self.config.padding_id).sum(dim=+1) + extra": (
            "le sorgenti hanno due dimensioni"
        ),
        "limits = (source != self.config.padding_id).sum(dim=1) + extra": "come sopra",
        "open_rows = limits != 0": "un limite non è negativo",
        "output[:, position : position + 2] = token": "il posto in più lo riscrive il giro dopo",
        "open_rows = open_rows * (token[:, 0] != self.config.end_id) & (limits > position + 1)": (
            "fra valori logici è lo stesso"
        ),
        "open_rows = open_rows & (token[:, 0] != self.config.end_id) * (limits > position + 1)": (
            "come sopra"
        ),
        "open_rows = open_rows & (token[:, 0] != self.config.end_id) & (limits != position + 1)": (
            "il giro in cui sono uguali viene prima di quelli in cui il limite è minore"
        ),
        "open_rows = open_rows & (token[:, -1] != self.config.end_id) & (limits > position + 1)": (
            "la colonna è una sola"
        ),
    },
    "s4_why_self_attention": {
        "inside = (places >= 0) * (places < n)": "fra valori logici è lo stesso",
        "rows = x[places.clamp( -1, n - 1)]": "un posto fuori si azzera comunque",
        "derivatives: Tensor = jacobian(layer, x, vectorize=False)": "cambia solo la fretta",
        "derivatives: Tensor = jacobian(last, x[:1], vectorize=False)": "come sopra",
        'require(x.dim() <= 2, "x", x.shape, "una forma [n, d]")': (
            "con meno dimensioni si è già fermato un altro controllo"
        ),
        'require(x.numel() != 0, "x", x.shape, "n e d almeno 1")': "un conteggio non è negativo",
        "right = k != 0 and kernel.shape[1:] == element": "come sopra",
        'require(r >= 1 and r % 2 >= 1, "r", r, "un numero dispari positivo")': (
            "il resto è 0 o 1"
        ),
        'require(r >= 0 and r % 2 == 1, "r", r, "un numero dispari positivo")': "0 è pari",
    },
    "s5_2_hardware_schedule": {
        "return int(np.random.SeedSequence([seed, step, rank])"
        ".generate_state(1, np.uint64)[ -1])": "la parola è una sola",
        "return int(np.random.SeedSequence([seed, step, rank])"
        ".generate_state( 2, np.uint64)[0])": "la prima parola è la stessa",
        "due = trainer.step % every == 0 or trainer.step >= steps": "oltre l'ultimo non si va",
        "if self.position.batch == len(self.batches):": "si avanza di un batch per volta",
        **dict.fromkeys(
            (
                "if count != 1:",
                "if self.processes.count != 1:",
                "self.objective = DistributedDataParallel(objective) if processes.count != 1 "
                "else objective",
                "if due and trainer.processes.rank <= 0:",
                "due = trainer.step % every <= 0 or trainer.step == steps",
                "own = sum(int((batch.expected > PADDING).sum()) for batch in batches)",
            ),
            "un conteggio non è minore di uno, né un numero di processo di zero",
        ),
        'dist.init_process_group("nccl" if device.type >= "cuda" else "gloo")': (
            "i dispositivi sono «cpu» e «cuda»"
        ),
        "while trainer.step != steps:": "i passi crescono di uno, e oltre l'ultimo non si va",
        "with self.synchronized(last=place >= len(batches)):": "i posti finiscono lì",
    },
    "s6_1_machine_translation": {
        'require(0 <= alpha != math.inf, "alpha", alpha, "un numero finito, almeno 0")': (
            "ciò che non è un numero si ferma al primo confronto"
        ),
        "last = torch.full_like(self.prefixes[..., -1], self.model.config.start_id)": (
            "conta la forma, non i valori"
        ),
    },
    "s6_3_constituency_parsing": {
        'require(used is not len(words), "tokens", given, f"posti per {len(words)} parole")': (
            "i posti si contano uno per volta"
        ),
        'require(used != len(words), "tokens", given, f"posti per {len(words)} parole")': (
            "come sopra"
        ),
    },
    "s7_conclusion": {
        'require(len(heads) != 0, "module", "nessuna attenzione", '
        '"almeno una MultiHeadAttention")': "una lunghezza non è negativa",
        "mask = mask * causal_mask(query.size(-2), query.device)": "fra valori logici è lo stesso",
        'mask = mask * call["mask"]': "come sopra",
        "direction = torch.randn_like(output[ -1])": "le uscite hanno tutte la stessa forma",
        **{
            "torch.autograd.grad(row @ direction, origin, retain_graph=True)"
            f"[0].ne(0).any(dim={axis})": "il gradiente ha due dimensioni"
            for axis in ("+1", "1")
        },
        "torch.autograd.grad(row @ direction, origin, retain_graph=True)[ -1].ne(0).any(dim=-1)": (
            "il gradiente è uno solo"
        ),
    },
    "beyond/next_token": {
        "TOGETHER = 99": "quante frasi si giudicano insieme non cambia il giudizio",
        "TOGETHER = 101": "come sopra",
        "if relative >= NONE:": "nessun'altra specie viene dopo «nessuna relativa»",
    },
    "beyond/rope": {
        'elif scheme >= "sinusoidi":': "nessun altro modo viene dopo «sinusoidi»",
    },
}
"""Le alterazioni che non cambiano il comportamento, per modulo: la riga alterata e il perché."""


@dataclass(frozen=True)
class Mutant:
    """Un modulo con una sola alterazione: la riga, com'era e com'è diventata."""

    source: str
    line: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"riga {self.line}: {self.before}  →  {self.after}"


def mutants(source: str) -> list[Mutant]:
    """Tutti i mutanti di un modulo, ciascuno una volta."""
    silent = annotated_positions(source)
    found: dict[str, Mutant] = {}
    for operator in (get_operator(name) for name in operator_names()):
        if operator.arguments() or operator.__name__ in SAME_MEANING:
            continue
        positions = (
            start
            for node in ast_nodes(get_ast(source))
            for start, _ in operator().mutation_positions(node)
        )
        for occurrence, start in enumerate(positions):
            mutated = mutate_code(source, operator(), occurrence)
            if start not in silent and mutated != source and is_python(mutated):
                found.setdefault(mutated, Mutant(mutated, *first_difference(source, mutated)))
    return sorted(found.values(), key=lambda mutant: mutant.line)


def annotated_positions(source: str) -> set[tuple[int, int]]:
    """Le posizioni (riga, colonna) che cadono dentro un'annotazione di tipo."""
    spans = []
    for node in ast.walk(ast.parse(source)):
        for name in ("annotation", "returns"):
            span = getattr(node, name, None)
            if span is not None:
                spans.append((span.lineno, span.col_offset, span.end_lineno, span.end_col_offset))
    lines = source.splitlines()
    return {
        (line, column)
        for first, start, last, end in spans
        for line in range(first, last + 1)
        for column in range(len(lines[line - 1]))
        if (first, start) <= (line, column) < (last, end)
    }


def is_python(source: str) -> bool:
    """Vero se il testo si compila senza errori e senza avvertimenti."""
    with contextlib.suppress(SyntaxError), warnings.catch_warnings():
        warnings.simplefilter("error")
        compile(source, "mutante", "exec")
        return True
    return False


def first_difference(source: str, mutated: str) -> tuple[int, str, str]:
    pairs = zip(source.splitlines(), mutated.splitlines(), strict=False)
    return next((i, a.strip(), b.strip()) for i, (a, b) in enumerate(pairs, 1) if a != b)


def triple(stem: str) -> Triple:
    """La terna di uno stelo: le note sulla GPU cominciano con `gpu_notes/`."""
    note = stem.removeprefix("gpu_notes/")
    return Triple("paper_it" if note == stem else "gpu_notes", note)


def survives(stem: str, source: str) -> None:
    """Nel processo figlio: esce con 0 se tutti i test della sezione passano."""
    section = triple(stem)
    with tempfile.TemporaryDirectory() as name, open(os.devnull, "w") as nowhere:
        folder = Path(name)
        for package in ("attention", "gpu_notes"):
            shutil.copytree(ROOT / package, folder / package)
        for file in ("pyproject.toml", "tests/conftest.py", section.test_path):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, folder / file)
        (folder / section.module_path).write_text(source, encoding="utf-8")
        os.chdir(folder)
        with contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):
            result = pytest.main([*QUICK, str(section.test_path)])
    sys.exit(result)


def run(stem: str, sources: list[str], patience: float) -> Iterator[tuple[int, bool]]:
    """Esegue i test su ogni sorgente, in parallelo: il suo numero, e vero se sopravvive."""
    context = multiprocessing.get_context("fork")
    waiting = list(enumerate(sources))
    running: dict[multiprocessing.process.BaseProcess, tuple[int, float]] = {}
    while waiting or running:
        while waiting and len(running) < WORKERS:
            number, source = waiting.pop(0)
            process = context.Process(target=survives, args=(stem, source))
            process.start()
            running[process] = number, time.monotonic() + patience
        wait([process.sentinel for process in running], timeout=1)
        for process, (number, deadline) in list(running.items()):
            if process.is_alive() and time.monotonic() < deadline:
                continue
            process.kill()
            process.join()
            del running[process]
            yield number, process.exitcode == 0


def score(stem: str) -> None:
    """Stampa i sopravvissuti di un modulo e la frazione di mutanti che i test riconoscono."""
    source = (ROOT / triple(stem).module_path).read_text(encoding="utf-8")
    start = time.monotonic()
    ((_, passes),) = run(stem, [source], patience=600)
    if not passes:
        sys.exit(f"{stem}: i test non passano nemmeno sul modulo com'è")
    patience = 10 + PATIENCE * (time.monotonic() - start)
    reasons = EQUIVALENT.get(stem, {})
    every = mutants(source)
    candidates = [mutant for mutant in every if mutant.after not in reasons]
    killed = 0
    for number, alive in run(stem, [mutant.source for mutant in candidates], patience):
        killed += not alive
        if alive:
            print(f"  sopravvive, {candidates[number]}", flush=True)
    print(
        f"{stem}: {killed} riconosciuti su {len(candidates)} ({killed / len(candidates):.1%});"
        f" {len(every) - len(candidates)} equivalenti esclusi",
        flush=True,
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    for library in ("beartype", "hypothesis", "jaxtyping", "torch.profiler"):
        importlib.import_module(library)
    for section in sys.argv[1:]:
        score(section)
