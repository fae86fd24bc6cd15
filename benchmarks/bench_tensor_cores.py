"""I Tensor Core: lo stesso prodotto in ogni formato, quanto sbaglia, quanto corre, e chi lo fa.

Il prodotto è quello di uno strato lineare, x·Wᵀ, con i pesi una riga per uscita. Di ogni formato
si pubblicano il tempo, l'errore e gli indizi raccolti da `benchmarks.tensor_cores`.
"""

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from benchmarks import counters, tensor_cores
from benchmarks.ceilings import FORMATS, Ceilings, measurable, products_in
from benchmarks.contest import DEVICE, Run, Work, clock
from benchmarks.tensor_cores import Evidence
from gpu_notes.number_formats import E4M3, relative_error
from gpu_notes.sass_listing import disassemble

BASELINE = "FP32"
"""Il riferimento: FP32 senza scorciatoie."""

SIZES = {
    "cpu": [(10, 768, 3072), (1024, 768, 3072)],
    "cuda": [(tokens, 768, 3072) for tokens in (10, 64, 1024, 8192, 25_000)],
}[DEVICE]
"""Righe, profondità, colonne: il primo strato feed-forward, dai 10 token del lettore in su."""

ALIGNMENTS = [
    (8192, 768, 3072),
    (8192, 767, 3072),
    (8192, 768, 3071),
    (4096, 768, 50_304),
    (4096, 768, 50_257),
]
"""Le stesse dimensioni con un numero in meno; i punteggi sul vocabolario di GPT-2, esatto e no."""

OURS = (1024, 768, 3072)
"""Le dimensioni del kernel nostro."""

FP8_STEP = 16
"""Di che cosa devono essere multiple profondità e colonne di un prodotto in FP8."""

COMPARED_ROWS = 64
"""Quante righe del risultato si confrontano con il prodotto in FP64."""

Size = tuple[int, int, int]
"""Righe, profondità, colonne."""


@pytest.fixture
def dtype() -> torch.dtype:
    """I formati gareggiano fra loro: la gara è una, e i numeri di partenza sono FP32."""
    return torch.float32


def work(m: int, k: int, n: int) -> Work:
    """Un prodotto m×k per k×n. I byte sono quelli del formato più stretto: un minimo per tutti."""
    narrow = 1 if fits_fp8(k, n) else 2
    return Work(
        label=f"{m}×{k}×{n}",
        shape={"m": m, "k": k, "n": n},
        flops=2 * m * k * n,
        numbers=m * k + k * n + m * n,
        bytes=narrow * (m * k + k * n) + 2 * m * n,
    )


def fits_fp8(k: int, n: int) -> bool:
    """Vero se profondità e colonne sono multiple di `FP8_STEP`."""
    return k % FP8_STEP == n % FP8_STEP == 0


def operands(m: int, k: int, n: int) -> tuple[Tensor, Tensor]:
    """Ingressi e pesi a caso, in FP32; i pesi hanno lo scarto di uno strato appena creato."""
    x, w = torch.randn(m, k, device=DEVICE), torch.randn(n, k, device=DEVICE)
    return x, w / k**0.5


class Stored(NamedTuple):
    """Una matrice nel suo formato; valgono i suoi numeri per la scala."""

    numbers: Tensor
    scale: Tensor

    def values(self) -> Tensor:
        """I valori, in FP64."""
        return self.numbers.double() * self.scale.double()


def stored(matrix: Tensor, form: str) -> Stored:
    """Una matrice FP32 portata in un formato; in FP8 con una scala, che usa tutto il suo campo."""
    scale = matrix.abs().max() / E4M3.largest if form == "FP8" else matrix.new_ones(())
    return Stored((matrix / scale).to(FORMATS[form]), scale)


def product(form: str, x: Stored, w: Stored) -> Run:
    """Il prodotto x·Wᵀ in un formato; il FP8 scrive l'uscita in BF16, gli altri nel loro tipo."""
    (a, scale_a), (b, scale_b) = x, w

    def in_fp8() -> Tensor:
        return torch._scaled_mm(a, b.T, scale_a, scale_b, out_dtype=torch.bfloat16)

    def plain() -> Tensor:
        with products_in(form):
            return a @ b.T

    return in_fp8 if form == "FP8" else plain


def errors(y: Tensor, x: Tensor, w: Tensor, kept: tuple[Stored, Stored]) -> dict[str, float]:
    """L'errore relativo rispetto ai numeri di partenza, e rispetto agli operandi già arrotondati.

    Il primo è quello che paga chi sceglie il formato; il secondo solo quello del prodotto e
    dell'uscita. Il confronto, in FP64, è su poche righe.
    """
    rows = torch.linspace(0, len(x) - 1, min(len(x), COMPARED_ROWS), device=x.device).long()
    exact = x[rows].double() @ w.double().T
    rounded = kept[0].values()[rows] @ kept[1].values().T
    found = y[rows].double()
    return {
        "error": relative_error(found, exact),
        "product_error": relative_error(found, rounded),
    }


def kernel_names(run: Run) -> list[str]:
    """I kernel di una chiamata, nell'ordine; su CPU nessuno."""
    if DEVICE == "cpu":
        return []
    run()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as recorded:
        run()
        torch.cuda.synchronize()
    events = [event for event in recorded.events() if event.device_type == DeviceType.CUDA]
    return [event.name for event in sorted(events, key=lambda event: event.time_range.start)]


def case_name(contestant: str, size: Size) -> str:
    """Il nome di un'operazione per `benchmarks.counters`."""
    return " ".join([contestant, *map(str, size)])


def run_of(case: str) -> Run:
    """L'operazione che porta quel nome, con operandi nuovi."""
    if case in (ATTENTION, SDPA):
        return attention_runs(torch.randn(3, *HEADS, device=DEVICE).unbind())[case]
    *words, m, k, n = case.split()
    contestant, size = " ".join(words), (int(m), int(k), int(n))
    x, w = operands(*size)
    if contestant in PRECISIONS:
        return our_runs(x, w)[contestant]
    return product(contestant, stored(x, contestant), stored(w, contestant))


def cases() -> list[str]:
    """Tutte le operazioni di cui si leggono i contatori, le più importanti per prime."""
    named = [case_name(form, size) for size in SIZES + ALIGNMENTS for form in forms(*size)]
    ours = [*(case_name(name, OURS) for name in PRECISIONS), ATTENTION, SDPA]
    return list(dict.fromkeys([*(ours if triton_is_installed() else []), *named]))


def forms(m: int, k: int, n: int) -> list[str]:
    """I formati in gara: quelli che la macchina ha, e che le dimensioni permettono."""
    return [form for form in measurable() if form != "FP8" or fits_fp8(k, n)]


@cache
def counted() -> Mapping[str, counters.Counts] | str:
    """I contatori di tutte le operazioni, letti una volta sola; se non si può, perché."""
    if DEVICE == "cpu":
        return "qui non c'è una GPU"
    try:
        return counters.count(cases())
    except counters.NoCountersError as error:
        return str(error)


def counter_evidence(case: str, products: int) -> Evidence:
    """L'indizio dei contatori per un'operazione."""
    found = counted()
    if isinstance(found, str):
        return tensor_cores.from_counters(None, found)
    late = "ncu non ha avuto il tempo di arrivare a questa operazione"
    return tensor_cores.from_counters(found.get(case), late, products)


def rate_evidence(form: str, rate: float, ceilings: Ceilings) -> Evidence:
    """L'indizio del ritmo, dalla scheda tecnica e dalla frequenza massima che la GPU dichiara."""
    chip = ceilings.chip
    if chip is None:
        return tensor_cores.from_rate(rate, None)
    ceiling = tensor_cores.cuda_core_ceiling(chip, form, ceilings.fastest_clock(chip))
    return tensor_cores.from_rate(rate, ceiling, tensor_cores.same_rate(chip, form))


class Seen(NamedTuple):
    """Un'operazione da giudicare.

    Attributi:
        case: il suo nome per `benchmarks.counters`.
        form: il formato degli operandi.
        products: quante moltiplicazioni chiede.
        depth: quanti prodotti si sommano per ogni elemento.
        run: la chiamata.
        code: l'indizio del codice macchina.
    """

    case: str
    form: str
    products: int
    depth: int
    run: Run
    code: Evidence = tensor_cores.from_machine_code(None)


def judged(seen: Seen, rate: float, found: dict[str, float], ceilings: Ceilings) -> dict[str, Any]:
    """Ciò che si pubblica di un'operazione: gli errori e, su GPU, indizi e verdetto.

    Argomenti:
        seen: l'operazione.
        rate: FLOP al secondo misurati.
        found: gli errori, come li dà `errors`.
        ceilings: i tetti della sessione.
    """
    names = kernel_names(seen.run)
    evidences = (
        tensor_cores.from_kernel_names(names),
        rate_evidence(seen.form, rate, ceilings),
        counter_evidence(seen.case, seen.products),
        tensor_cores.from_error(found["error"], seen.depth, seen.form),
        seen.code,
    )
    return {**found, **told(evidences, names)}


def told(evidences: Sequence[Evidence], names: Sequence[str]) -> dict[str, Any]:
    """Indizi e verdetto come si scrivono nei risultati."""
    found = tensor_cores.verdict(evidences)
    return {
        "verdict": found.says,
        "reason": found.reason,
        "evidence": {it.proof: {"says": it.says, "reason": it.reason} for it in evidences},
        "kernels": "\n".join(names) or "nessuno",
    }


def prove(form: str, size: Size, x: Tensor, w: Tensor, rate: float, ceilings: Ceilings) -> Any:
    """Ciò che si pubblica di un formato, oltre ai tempi; su CPU i soli errori."""
    kept, (m, k, n) = (stored(x, form), stored(w, form)), size
    run = product(form, *kept)
    found = errors(run(), x, w, kept)
    if DEVICE == "cpu":
        return found
    return judged(Seen(case_name(form, size), form, m * k * n, k, run), rate, found, ceilings)


def rate_of(benchmark: Any, contestant: str) -> float:
    """I FLOP al secondo di un concorrente nella gara appena finita."""
    return benchmark.extra_info["contestants"][contestant]["gflops"] * 1e9


def accepted(form: str, run: Run) -> bool:
    """Vero se la libreria accetta il prodotto; se no, un avviso dice che cosa ha risposto."""
    try:
        run()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(f"Non misurato {form}: {reason}", stacklevel=2)
        return False
    return True


def hold(contest: Any, benchmark: Any, ceilings: Callable[[], Ceilings], size: Size) -> None:
    """La gara fra i formati, e poi gli indizi."""
    x, w = operands(*size)
    runs = {form: product(form, stored(x, form), stored(w, form)) for form in forms(*size)}
    runs = {form: run for form, run in runs.items() if accepted(form, run)}
    contest(runs, BASELINE, work(*size), formats={form: form for form in runs})
    if not benchmark.disabled:
        benchmark.extra_info["proofs"] = {
            form: prove(form, size, x, w, rate_of(benchmark, form), ceilings()) for form in runs
        }


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.benchmark(group="tensor_cores", timer=clock)
def test_formats(contest, benchmark, ceilings, size):
    """Uno strato lineare, dai 10 token del lettore a 25 000."""
    hold(contest, benchmark, ceilings, size)


@pytest.mark.skipif(DEVICE == "cpu", reason="l'allineamento per i Tensor Core si misura su GPU")
@pytest.mark.parametrize("size", ALIGNMENTS, ids=str)
@pytest.mark.benchmark(group="tensor_cores_alignment", timer=clock)
def test_alignment(contest, benchmark, ceilings, size):
    """Un numero in meno in profondità, o nelle colonne."""
    hold(contest, benchmark, ceilings, size)


# I kernel nostri, di cui abbiamo anche il codice macchina.

PRECISIONS = {"Triton ieee": "FP32", "Triton tf32": "TF32"}
"""I due modi di `gpu_notes.rosetta.linear`, e il formato di ciascuno."""

HEADS = (1, 12, 1024, 64)
"""Batch, teste, posizioni, larghezza: le 12 teste del lettore, su una frase più lunga."""

ATTENTION = "flash_attention"
"""L'attenzione che abbiamo scritto noi."""

MODULE = "attention.beyond.flash_attention"
"""Il modulo in cui sta."""

SDPA = "F.scaled_dot_product_attention"
"""L'attenzione fusa di PyTorch."""


def triton_is_installed() -> bool:
    """Vero se i kernel nostri si possono eseguire."""
    return importlib.util.find_spec("triton") is not None


def our_runs(x: Tensor, w: Tensor) -> dict[str, Run]:
    """Lo stesso prodotto con il kernel di `gpu_notes.rosetta`, che vuole una colonna per uscita."""
    from gpu_notes.rosetta import linear

    rows, nothing = w.T.contiguous(), w.new_zeros(len(w))

    def with_precision(precision: str) -> Run:
        return lambda: linear(x, rows, nothing, rectify=False, precision=precision)

    return {name: with_precision(name.removeprefix("Triton ")) for name in PRECISIONS}


def attention_runs(heads: Sequence[Tensor]) -> dict[str, Run]:
    """L'eq. (1) in BF16, con il kernel nostro e con quello di PyTorch."""
    from attention.beyond.flash_attention import flash_attention

    q, k, v = (it.bfloat16() for it in heads)
    return {
        ATTENTION: lambda: flash_attention(q, k, v),
        SDPA: lambda: functional.scaled_dot_product_attention(q, k, v),
    }


class Watched:
    """Un kernel di Triton che, lanciato, lascia vedere ciò che è stato compilato."""

    def __init__(self, kernel: Any, compiled: list[Any]):
        self.kernel, self.compiled = kernel, compiled

    @property
    def fn(self) -> Any:
        """La funzione Python, che serve all'interprete."""
        return self.kernel.fn

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        def run(*arguments: Any, **constants: Any) -> None:
            self.compiled.append(self.kernel[grid](*arguments, **constants))

        return run


def listing_of(module: str, run: Run) -> str:
    """Il codice macchina dell'ultimo kernel che `run` lancia con la `launch` di un modulo."""
    place = importlib.import_module(module)
    launch, compiled = place.launch, []

    def watched(kernel: Any, *rest: Any, **constants: Any) -> None:
        launch(Watched(kernel, compiled), *rest, **constants)

    with mock.patch.object(place, "launch", watched):
        run()
    return disassemble(compiled[-1].asm["cubin"])


def code_of(module: str, run: Run) -> Evidence:
    """L'indizio del codice macchina; se il disassemblatore non c'è, lo dice."""
    try:
        return tensor_cores.from_machine_code(listing_of(module, run))
    except (RuntimeError, ValueError, OSError) as error:
        return tensor_cores.from_machine_code(None, f"listing non letto: {error}")


OURS_ON_GPU = pytest.mark.skipif(
    DEVICE == "cpu" or not triton_is_installed(),
    reason="i kernel di Triton si misurano su GPU, dove Triton è installato",
)


@OURS_ON_GPU
@pytest.mark.benchmark(group="tensor_cores_ours", timer=clock)
def test_our_product(contest, benchmark, ceilings):
    """Un prodotto che abbiamo scritto noi: qui gli indizi sono cinque."""
    x, w = operands(*OURS)
    runs, (m, k, n) = our_runs(x, w), OURS
    contest(runs, next(iter(runs)), work(*OURS), formats=PRECISIONS, outside=runs)
    if benchmark.disabled:
        return
    proofs, kept = {}, (stored(x, "FP32"), stored(w, "FP32"))
    for name, run in runs.items():
        code = code_of("gpu_notes.rosetta", run)
        seen = Seen(case_name(name, OURS), PRECISIONS[name], m * k * n, k, run, code)
        found = errors(run(), x, w, kept)
        proofs[name] = judged(seen, rate_of(benchmark, name), found, ceilings())
    benchmark.extra_info["proofs"] = proofs


def attention_work(batch: int, heads: int, n: int, d: int) -> Work:
    """L'eq. (1) su ogni coppia di posizioni, con ingressi e uscite in BF16."""
    numbers = 4 * batch * heads * n * d
    return Work(
        label=f"{batch}×{heads}×{n}×{d}",
        shape={"batch": batch, "heads": heads, "n": n, "d": d},
        flops=4 * batch * heads * n * n * d,
        numbers=numbers,
        bytes=2 * numbers,
    )


def attention_errors(y: Tensor, heads: Sequence[Tensor]) -> dict[str, float]:
    """Come `errors`, per l'attenzione: rispetto ai numeri di partenza, e a quelli in BF16."""
    wide = functional.scaled_dot_product_attention(*(it.double() for it in heads))
    kept = functional.scaled_dot_product_attention(*(it.bfloat16().double() for it in heads))
    return {
        "error": relative_error(y.double(), wide),
        "product_error": relative_error(y.double(), kept),
    }


@OURS_ON_GPU
@pytest.mark.benchmark(group="tensor_cores_attention", timer=clock)
def test_our_attention(contest, benchmark, ceilings):
    """L'attenzione fusa: la nostra, di cui si vede il codice, e quella di PyTorch."""
    heads = torch.randn(3, *HEADS, device=DEVICE).unbind()
    runs, declared = attention_runs(heads), attention_work(*HEADS)
    formats = dict.fromkeys(runs, "BF16")
    contest(runs, SDPA, declared, formats=formats, outside=[ATTENTION])
    if benchmark.disabled:
        return
    proofs = {}
    for name, run in runs.items():
        ours = name == ATTENTION
        code = code_of(MODULE, run) if ours else tensor_cores.from_machine_code(None)
        seen = Seen(name, "BF16", declared.flops // 2, HEADS[-1], run, code)
        found = attention_errors(run(), heads)
        proofs[name] = judged(seen, rate_of(benchmark, name), found, ceilings())
    benchmark.extra_info["proofs"] = proofs
