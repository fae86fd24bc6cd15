"""I Tensor Core hanno lavorato? Cinque indizi, che non si fidano l'uno dell'altro, e un verdetto.

Ogni indizio dice «sì», «no» oppure «non dimostrato», con la ragione. Il verdetto è «sì» o «no»
solo se almeno uno lo dice e nessuno lo contraddice. Qui non c'è nulla che chieda una GPU: gli
indizi arrivano già raccolti, e si possono scrivere a mano.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gpu_notes.number_formats import FP32, TF32
from gpu_notes.sass_listing import TENSOR_CORE, census, parse
from gpu_notes.sm_map import Gpu, fma_per_clock

# Che cosa può dire un indizio, e un verdetto.

YES = "sì"

NO = "no"

UNPROVEN = "non dimostrato"

# I cinque indizi.

NAMES = "nomi dei kernel"

RATE = "ritmo"

COUNTERS = "contatori"

ERROR = "errore"

MACHINE_CODE = "codice macchina"


@dataclass(frozen=True)
class Evidence:
    """Ciò che dice un indizio.

    Argomenti:
        proof: quale indizio.
        says: «sì», «no» o «non dimostrato».
        reason: perché, con i numeri o i nomi che ha visto.
    """

    proof: str
    says: str
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Il verdetto su un'operazione.

    Argomenti:
        says: «sì», «no» o «non dimostrato».
        reason: chi lo dice, o chi contraddice chi.
    """

    says: str
    reason: str


def verdict(evidences: Iterable[Evidence]) -> Verdict:
    """Il verdetto: chi tace non conta, chi contraddice lo sospende."""
    said: dict[str, list[str]] = {YES: [], NO: [], UNPROVEN: []}
    for evidence in evidences:
        said[evidence.says].append(evidence.proof)
    yes, no = ", ".join(said[YES]), ", ".join(said[NO])
    if yes and no:
        return Verdict(UNPROVEN, f"si contraddicono: dicono sì {yes}; dicono no {no}")
    if yes:
        return Verdict(YES, f"lo dicono: {yes}")
    if no:
        return Verdict(NO, f"lo dicono: {no}")
    return Verdict(UNPROVEN, "nessun indizio decide")


# Primo indizio: i nomi dei kernel.

TENSOR = "Tensor Core"
"""Moltiplica matrici con i Tensor Core."""

CUDA_CORES = "CUDA core"
"""Moltiplica matrici, o matrice per vettore, senza."""

HELPER = "di servizio"
"""Non moltiplica matrici."""

UNKNOWN = "ignoto"
"""Dal solo nome non si può dire."""

TENSOR_NAMES = re.compile(
    r"(?<![a-z\d])[hsidcq](?:884|1688|8816|8832|16816|16832|16864|161616|161632)(?!\d)"  # h884
    r"|(?<![a-z\d])[hsidq]\d+x\d+x\d+(?:[a-z]*gemm|fprop|dgrad|wgrad)"  # s64x128x16gemm
    r"|tensorop(?!tion|er)|tensor\d+x\d+x\d+|tensor_?core"
    r"|(?<![a-z])[hidqob]mma(?![a-z])|(?<![a-z])[hiqb]?gmma|gmma(?:warp|_|\d)|wgmma|wmma"
    r"|tcgen05|utc\w*mma|(?<![a-z])umma|warpgroupsize"
    r"|mma_?sync|mma\.sync|m16n8k\d+|m8n8k\d+"
    r"|sm\d{2,3}_(?:mma_)?(?:\w+_)?\d+x\d+x\d+_[fs]\d+"  # gli atomi di CuTe
    r"|nvjet_"
    r"|xmma\w*_(?:bf16|f16|tf32|i8|e4m3|e5m2)\w*|xmma\w*_f32f32_tf32f32"
    r"|flash_(?:fwd|bwd)_kernel_traits|flash_fwd_(?:splitkv_)?kernel|flash_bwd_dq_dk_dv"
    r"|flashattn(?:fwd|bwd)sm\d+|flashattention(?:forward|backward)sm\d+"
    r"|cudnn_generated\w*sdpa|fmha_cutlass[fb]_(?:b?f16|f32)_\w*sm(?:8|9|1\d)\d"
    r"|fmha_cutlass[fb]_f16_\w*sm7\d"
)
"""I pezzi di nome che dicono Tensor Core: forma dell'istruzione, famiglia, libreria."""

CUDA_CORE_NAMES = re.compile(
    r"ffma|(?<![a-z])[hd]fma2?(?![a-z])|simt|dp4a"
    r"|(?<![a-z\d])g?[scz]gemm|(?<![a-z])scudnn"
    r"|(?:kepler|maxwell|pascal|volta|turing)_(?:\w+_)?[hd]gemm(?![a-z])|ampere_hgemm"
    r"|xmma\w*_f32f32_f32f32_f32"
    r"|gemv|gemmsn_|gemmk1_|gemm_kernel[12]x[12]|cublasdotparams"
    r"|fmha_cutlass[fb]_f32_\w*sm[567]\d|fmha_cutlass[fb]_b?f16_\w*sm[56]\d"
)
"""I pezzi di nome che dicono CUDA core. Prevalgono sulla sola parola «xmma»."""

HELPER_NAMES = re.compile(
    r"splitk_?reduce|reducesplitk|memcpy|memset"
    r"|flash_bwd_(?:dot_do_o|clear_dkvaccum|convert_dq|convert_dkv|preprocess)"
    r"|flash_fwd_splitkv_combine|flashattnfwdcombine|triton_(?:poi|per|red|for)_"
)
"""I kernel che preparano o raccolgono, senza moltiplicare matrici."""

HELPER_WORDS = re.compile(
    r"elementwise|reduce|softmax|norm|copy|cat(?:array|_)|index|gather|scatter|fill|dropout|embedding"
    r"|transpose|permute|sort|topk|nccl|bias|gelu|relu|silu|activation|random|distribution|philox"
    r"|cast|convert|nchwtonhwc|nhwctonchw|rope|rotary|scan|cumsum|arange|multi_tensor_apply|adam"
    r"|nll_loss|cross_entropy|argmax|spin_kernel|epilogue|triu_tril|where|mask|pad|quantize|zeros|amax"
)
"""Parole che bastano se il nome non parla anche di prodotti."""

PRODUCT_WORDS = re.compile(r"gemm|matmul|mm(?![a-z])|conv(?!ert)|atten|attn|fmha|linear|mlp|dot")
"""Parole che lasciano aperto il dubbio che il kernel moltiplichi matrici."""


def kind_of(kernel: str) -> str:
    """Che cosa dice il nome di un kernel; ciò che non si riconosce resta ignoto."""
    name = kernel.lower()
    if HELPER_NAMES.search(name):
        return HELPER
    tensor, cuda = TENSOR_NAMES.search(name), CUDA_CORE_NAMES.search(name)
    if tensor and cuda:
        return CUDA_CORES if tensor[0].startswith("xmma") else UNKNOWN
    if tensor or cuda:
        return TENSOR if tensor else CUDA_CORES
    own = own_name(name)
    return HELPER if HELPER_WORDS.search(own) and not PRODUCT_WORDS.search(own) else UNKNOWN


def own_name(kernel: str) -> str:
    """Il nome senza tipo, parametri e argomenti, che possono contenere qualunque parola."""
    plain = re.sub(r"\(anonymous namespace\)|<unnamed>", "", kernel)
    return re.split(r"[<(]", plain.removeprefix("void "), maxsplit=1)[0]


def from_kernel_names(names: Iterable[str]) -> Evidence:
    """L'indizio dei nomi: basta un kernel dei Tensor Core; per dire no devono parlare tutti.

    Argomenti:
        names: i nomi dei kernel di una chiamata, come li scrive il profiler.
    """
    kinds: dict[str, list[str]] = {TENSOR: [], CUDA_CORES: [], HELPER: [], UNKNOWN: []}
    for name in dict.fromkeys(names):
        kinds[kind_of(name)].append(name)
    products = kinds[TENSOR] + kinds[CUDA_CORES] + kinds[UNKNOWN]
    shown = "; ".join(f"{short(name)} ({kind_of(name)})" for name in products)
    if kinds[TENSOR]:
        return Evidence(NAMES, YES, shown)
    if not products:
        return Evidence(NAMES, UNPROVEN, "nessun kernel che moltiplichi matrici")
    return Evidence(NAMES, UNPROVEN if kinds[UNKNOWN] else NO, shown)


def short(name: str, most: int = 120) -> str:
    """Un nome, tagliato se è troppo lungo."""
    return name if len(name) <= most else name[: most - 1] + "…"


# Secondo indizio: il ritmo.

HALF_FMA = 256
"""Quante FMA fra numeri da 16 bit un SM fa al più in un ciclo, fuori dai Tensor Core."""

MARGIN = 1.02
"""Di quanto il ritmo deve superare il tetto: un cronometro ha i suoi errori."""


def cuda_core_ceiling(chip: Gpu, form: str, clock: float = 0.0) -> float:
    """FLOP al secondo che i CUDA core non possono superare.

    Con operandi da 32 bit è il picco FP32. Con operandi più stretti un SM può farne di più anche
    senza Tensor Core, due per corsia; la guida CUDA non ne concede più di `HALF_FMA`.

    Argomenti:
        chip: la scheda.
        form: il formato degli operandi: «FP32», «TF32», «BF16», «FP16», «FP8».
        clock: la frequenza massima in Hz, se si conosce e supera quella dichiarata.
    """
    lanes = chip.fp32_lanes if form in ("FP32", "TF32") else HALF_FMA
    return chip.sms * lanes * 2 * max(chip.clock, clock)


def same_rate(chip: Gpu, form: str) -> bool:
    """Vero se i Tensor Core, in quel formato, non vanno più in fretta del tetto dei CUDA core."""
    if form == "FP32":
        return False
    lanes = chip.fp32_lanes if form == "TF32" else HALF_FMA
    return fma_per_clock(chip, form) <= lanes


def from_rate(rate: float, ceiling: float | None, unreachable: bool = False) -> Evidence:
    """L'indizio del ritmo: sopra il tetto dei CUDA core è un sì, sotto non è nulla.

    Argomenti:
        rate: FLOP al secondo.
        ceiling: il tetto dei CUDA core; None se la scheda non si conosce.
        unreachable: vero se nemmeno i Tensor Core lo superano, come per il TF32 delle GeForce.
    """
    if ceiling is None:
        return Evidence(RATE, UNPROVEN, "il tetto dei CUDA core di questa macchina non è noto")
    told = f"{tera(rate)} TFLOP/s, il tetto dei CUDA core è {tera(ceiling)}"
    if rate > MARGIN * ceiling:
        return Evidence(RATE, YES, told)
    if unreachable:
        return Evidence(RATE, UNPROVEN, f"{told}, e i Tensor Core non hanno di più")
    return Evidence(RATE, UNPROVEN, f"{told}: sotto non prova nulla")


def tera(rate: float) -> str:
    """Un ritmo in TFLOP/s, con la virgola decimale e due cifre almeno."""
    value = rate / 1e12
    return f"{value:.{1 if value >= 10 else 2}f}".replace(".", ",")


# Terzo indizio: i contatori.

TENSOR_PIPE = "sm__inst_executed_pipe_tensor"
"""Il contatore delle istruzioni di warp dei Tensor Core; quelli più minuti cominciano così."""

PACKED_HALF = f"{TENSOR_PIPE}_op_hmma_type_hfma2"
"""Le `HFMA2.MMA`: passano per la stessa pipe ma non sono prodotti di matrici."""

LARGEST_HMMA = 16 * 8 * 32
"""Quante FMA fa al più una sola HMMA; le istruzioni più recenti ne fanno assai di più."""


def from_counters(
    values: Mapping[str, float] | None, missing: str = "", products: int = 0
) -> Evidence:
    """L'indizio dei contatori: quante istruzioni della pipe, e se bastano per il lavoro.

    Argomenti:
        values: i contatori di ncu sommati sui kernel dell'operazione; None se non si leggono.
        missing: perché non si leggono.
        products: quante moltiplicazioni l'operazione chiede; 0 se non si sa.
    """
    if values is None:
        return Evidence(COUNTERS, UNPROVEN, missing or "non letti")
    counts = instructions(values)
    if not counts:
        return Evidence(COUNTERS, UNPROVEN, "ncu non ha dato il conto delle istruzioni")
    told = ", ".join(f"{value:.0f} {name}" for name, value in counts.items() if value)
    told = (told or "0 istruzioni") + share(values)
    if not any(counts.values()):
        return Evidence(COUNTERS, NO, told)
    only_hmma = not any(value for name, value in counts.items() if name != "HMMA")
    if only_hmma and LARGEST_HMMA * counts["HMMA"] < products:
        return Evidence(COUNTERS, NO, f"{told}: troppo poche per {products} moltiplicazioni")
    return Evidence(COUNTERS, YES, told)


def instructions(values: Mapping[str, float]) -> dict[str, float]:
    """Le istruzioni di warp per operazione, senza le `HFMA2.MMA`; il resto del totale a parte."""
    plain = {name.removesuffix(".sum"): value for name, value in values.items()}
    packed = plain.get(PACKED_HALF, 0.0)
    counts = {
        name.removeprefix(f"{TENSOR_PIPE}_op_").upper(): value
        for name, value in plain.items()
        if name.startswith(f"{TENSOR_PIPE}_op_") and "_type_" not in name
    }
    if "HMMA" in counts:
        counts["HMMA"] = max(0.0, counts["HMMA"] - packed)
    if TENSOR_PIPE in plain:
        rest = plain[TENSOR_PIPE] - packed - sum(counts.values())
        counts["altre"] = max(0.0, rest)
    return counts


def share(values: Mapping[str, float]) -> str:
    """Per quanta parte del tempo la pipe ha lavorato, se ncu l'ha detto."""
    for name, value in values.items():
        if name.startswith("sm__pipe_tensor_cycles_active"):
            return f", pipe attiva per il {value:.1f} % dei cicli".replace(".", ",")
    return ""


# Quarto indizio: l'errore.

ROUNDED_PRODUCT = TF32.eps / math.sqrt(12) * math.sqrt(2)
"""L'errore relativo atteso se entrambi gli operandi passano per il TF32, a parte la mantissa.

Un arrotondamento sbaglia fino a mezzo passo, in modo uniforme: lo scarto tipico è il passo diviso
per la radice di 12. Due operandi, errori indipendenti: un fattore radice di 2.
"""

BAND = (0.25, 4.0)
"""Fra quali multipli di `ROUNDED_PRODUCT` si riconosce il TF32, arrotondato o troncato."""


def from_error(error: float, depth: int, form: str = "FP32") -> Evidence:
    """L'indizio dell'errore, su operandi FP32 presi a caso attorno a zero.

    Il TF32 esiste solo nei Tensor Core, dunque il suo errore è un sì, purché nessuno converta gli
    operandi in FP16, che ha la stessa mantissa. L'errore di FP32 invece non è un no: tre prodotti
    in TF32, o nove in BF16, sommati, lo imitano.

    Argomenti:
        error: norma della differenza dal prodotto in FP64, divisa per la norma del prodotto.
        depth: quanti prodotti si sommano per ogni elemento.
        form: il formato in cui gli operandi stanno in memoria, «FP32» o un altro.
    """
    told = f"errore relativo {scientific(error)}"
    if form not in ("FP32", "TF32"):
        reason = f"{told}: gli operandi erano già in {form}, chiunque li moltiplichi"
        return Evidence(ERROR, UNPROVEN, reason)
    if error < FP32.eps * math.sqrt(depth):
        reason = f"{told}, da FP32: esclude un prodotto solo in TF32, non tre sommati"
        return Evidence(ERROR, UNPROVEN, reason)
    if BAND[0] * ROUNDED_PRODUCT < error < BAND[1] * ROUNDED_PRODUCT:
        return Evidence(ERROR, YES, f"{told}, da TF32: i CUDA core non lo hanno")
    return Evidence(ERROR, UNPROVEN, f"{told}: né da FP32 né da TF32")


def scientific(number: float) -> str:
    """Un numero come «2,9·10⁻⁴»."""
    mantissa, _, exponent = f"{number:.1e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa.replace('.', ',')}·10{raised}"


# Quinto indizio: il codice macchina.


def from_machine_code(listing: str | None, missing: str = "") -> Evidence:
    """L'indizio del codice macchina: le istruzioni dei Tensor Core ci sono, o non ci sono.

    Argomenti:
        listing: il listing del kernel che ha girato; None se non lo abbiamo.
        missing: perché non lo abbiamo.
    """
    if listing is None:
        return Evidence(MACHINE_CODE, UNPROVEN, missing or "il kernel è di una libreria chiusa")
    found = census(it for kernel in parse(listing).values() for it in kernel)
    tensor = {name: count for name, count in found.items() if TENSOR_CORE.fullmatch(name)}
    if tensor:
        told = ", ".join(f"{count} {name}" for name, count in tensor.items())
        return Evidence(MACHINE_CODE, YES, told)
    return Evidence(
        MACHINE_CODE, NO, f"nessuna fra {found.total()} istruzioni, {found['FFMA']} FFMA"
    )
