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
from gpu_notes.sass_listing import TENSOR_CORE, census, parse, parse_instruction
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
    r"|nvjet_(?!(?:sm\d+_)?sss_(?!\w*tf32))"  # cuBLAS; con ingressi FP32, solo se dice TF32
    r"|xmma\w*(?:gemm|fprop|dgrad|wgrad)\w*_(?:bf16|f16|tf32|i8|e4m3|e5m2)|warpgroupsize"
    r"|(?<![a-z:])(?:bs)?(?:sp)?tensorop(?![a-z])|(?:opclass|mma)tensorop"  # CUTLASS
    r"|tensor\d+x\d+x\d+|deep_gemm(?:::|\d+)sm\d+_\w*gemm"
    r"|sm\d{2,3}_(?:sparse_)?\d+x\d+x(?:[4-9]|\d\d+)_[fs]\d+[a-z]+\d"  # CuTe: non le FMA, con K 1
    r"|sm1\d\d_(?:mma_\w+_[st]s(?![a-z])|(?:sparse_)?16x8x\d+_tn)"
    r"|(?<![a-z])[hidqob]mma(?![a-z])|wmma|mma_?sync|mma\.sync|m16n8k\d+|m8n8k\d+"  # un warp
    r"|(?<![a-z])[hiqb]?gmma|gmma(?:warp|_|\d)|wgmma"  # quattro warp
    r"|tcgen05|utc\w*mma|(?<![a-z])umma"  # Blackwell
    r"|(?<!no)(?<!no_)(?<!non_)(?<!without_)tensor_?core(?!s?[_=]*(?:off|false))"
    r"|flash_(?:fwd|bwd)_kernel_traits|flash_fwd_(?:splitkv_)?kernel(?:<|$)|flash_bwd_dq_dk_dv"
    r"|flashattn(?:fwd|bwd)sm\d+|flashattention(?:forward|backward)sm\d+|cudnn_generated\w*sdpa"
    r"|fmha_cutlass[fb]_(?:(?:b?f16|f32)_\w*sm(?:8|9|1\d)\d|f16_\w*sm7\d)"
)
"""I pezzi di nome che dicono Tensor Core: forma dell'istruzione, famiglia, libreria."""

CUDA_CORE_NAMES = re.compile(
    r"simt|dp4a|(?<![a-z])ffma(?![a-z])|xmma\w*_(?:[hd]fma|f32f32_f32f32_f32)"
    r"|(?:kepler|maxwell|pascal|volta|turing|ampere)_(?:\w+_)?g?[scz]gemm(?![a-z]|\w*tf32)"
    r"|(?:kepler|maxwell|pascal|volta|turing)_(?:\w+_)?[hd]gemm(?![a-z])"
    r"|(?<![a-z])scudnn|convolve_sgemm|magma_\w*[sc]gemm|[sc]gemm_\d+x\d+x\d+_[nt]{2}_vec"
    r"|sgemm_largek_lds|sm1\d\d_(?:2x1x1|1x2x1)_f32"
    r"|gemv2[nt]_kernel|gemvnsp_kernel|gemvx|cublasgemv|cublasdotparams"
    r"|gemmsn_|gemmk1_|gemm_kernel[12]x[12]_|sm[56]\d_xmma\w*(?:gemm|fprop|dgrad|wgrad)"
    r"|fmha_cutlass[fb]_f32_\w*sm[567]\d|fmha_cutlass[fb]_b?f16_\w*sm[56]\d"
)
"""I pezzi di nome che dicono CUDA core: famiglie di libreria, non parole che chiunque può usare.

Un kernel di Triton che si chiama `sgemm` può ben stare sui Tensor Core; `ampere_sgemm` no.
Prevalgono sulla sola parola «xmma».
"""

HELPER_NAMES = re.compile(
    r"splitk_?reduce|reducesplitk|gemm::split_k_kernel|cublaslt::epilogue|triton_(?:poi|for)_"
    r"|flash_bwd_(?:dot_do_o|clear_dkvaccum|convert_dq|convert_dkv|preprocess)"
    r"|computeb?offsetskernel|winogradforward(?:data|filter|output)"
    r"|flash_fwd_\w*combine|flashatt(?:n|ention)(?:fwd|forward)combine"
    r"|flashatt(?:n|ention)(?:bwd|backward)(?:pre|post)process"
)
"""I kernel che preparano o raccolgono, senza moltiplicare matrici, qualunque parola contengano."""

HELPER_WORDS = re.compile(
    r"at::native::|(?<![a-z])cub::|elementwise|reduce|softmax|norm|copy|memcpy|memset|(?<!pre)fill"
    r"|transpose|permute|sort|topk|nccl|multi_tensor_apply|spin_kernel|nchwtonhwc|nhwctonchw"
    r"|triton_(?:per|red)_"
)
"""Lavori interi, che bastano a dire «di servizio» se il nome non parla anche di prodotti.

Non vi stanno attivazioni, maschere, quantizzazioni: spesso sono fuse con un prodotto.
"""

PRODUCT_WORDS = re.compile(
    r"gemm|gemv|matmul|matvec|mm(?![a-z])|(?<!ga)mma|conv(?!ert)|fprop|dgrad|wgrad|dot|einsum|dense"
    r"|linear|proj|qk|(?<![a-z])pv|atten|attn|sdpa|fmha|mha|mla|flash|prefill|decode|chunk|head"
    r"|ffn|mlp|moe|expert|gate|lora|hadamard|triton_tem_"
)
"""Parole che lasciano aperto il dubbio che il kernel moltiplichi matrici."""

PREPARING_WORDS = re.compile(
    r"copy|memcpy|memset|(?<!pre)fill|cast|convert|quant|swizzle|shuffle|layout|reorder"
    r"|interleave(?!d)|pack|pad|scale(?!d)|transpose|transform(?!er)|prepare|preprocess|postprocess|alloc"
)
"""Parole di chi sistema i dati per altri: accanto, la sigla di un'istruzione dice solo per chi."""

WRAPPERS = re.compile(r"^(?:void |cutlass\w*::(?:device_kernel|kernel2?)<|(?:\w+::)*enable_\w+<)+")
"""Ciò che nel nome sta prima del kernel: il tipo, e gli involucri di CUTLASS."""


def kind_of(kernel: str) -> str:
    """Che cosa dice il nome di un kernel; ciò che non si riconosce resta ignoto.

    Che mestiere faccia lo dice il nome proprio; gli argomenti, al più, con quale istruzione.
    """
    name = kernel.lower()
    own = own_name(name)
    tensor, cuda = TENSOR_NAMES.search(name), CUDA_CORE_NAMES.search(name)
    if HELPER_NAMES.search(own):
        return UNKNOWN if TENSOR_NAMES.search(own) else HELPER
    if HELPER_WORDS.search(own) and not PRODUCT_WORDS.search(own):
        return UNKNOWN if tensor else HELPER
    if tensor and cuda:
        return CUDA_CORES if tensor[0].startswith("xmma") else UNKNOWN
    if tensor:
        return UNKNOWN if PREPARING_WORDS.search(own) else TENSOR
    return CUDA_CORES if cuda else UNKNOWN


def own_name(kernel: str) -> str:
    """Il nome senza involucri, parametri e argomenti, che possono contenere qualunque parola."""
    plain = re.sub(r"\(anonymous namespace\)|<unnamed>", "", kernel)
    return re.split(r"[<(]", WRAPPERS.sub("", plain), maxsplit=1)[0]


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

BY_OPERATION = re.compile(rf"{TENSOR_PIPE}_(?:op|subpipe)_[a-z]+")
"""I contatori per operazione; su Blackwell, per la parte della pipe da cui passano."""

OTHERS = "altre"
"""Le istruzioni del totale che nessun contatore per operazione ha visto."""

ALL = "in tutto"
"""Le istruzioni del totale, dove contatori per operazione non ce ne sono."""

LARGEST = {
    "DMMA": 16 * 8 * 16,
    "HMMA": 16 * 8 * 32,
    "GMMA": 64 * 256 * 64,
    "IMMA": 64 * 256 * 256,
    ALL: 16 * 8 * 32,
}
"""Quante FMA fa al più una sola istruzione, contando anche gli zeri che sa saltare.

Fra le IMMA ncu mette anche quelle di quattro warp, e quelle fra bit. Il totale da solo potrebbe
essere fatto di `HFMA2.MMA`: deve bastare come se fosse di HMMA.
"""

LARGEST_KNOWN = 256 * 256 * 128
"""Quante ne fa al più l'istruzione più grande che si conosca: due SM di Blackwell, in FP4."""


def from_counters(
    values: Mapping[str, float] | None, missing: str = "", products: int = 0
) -> Evidence:
    """L'indizio dei contatori: quante istruzioni della pipe, e se bastano per il lavoro.

    Per un no serve il totale: senza, potrebbe mancare il contatore di chi ha lavorato.

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
    partial = f"{TENSOR_PIPE}.sum" not in values
    if not any(counts.values()):
        unseen = partial or (busy(values) and not values.get(f"{PACKED_HALF}.sum"))
        return Evidence(COUNTERS, UNPROVEN if unseen else NO, told)
    if most_products(counts) >= products:
        return Evidence(COUNTERS, YES, told)
    unseen = partial or counts.get(OTHERS) or counts.get(ALL)
    few = f"{told}: troppo poche per {products} moltiplicazioni"
    return Evidence(COUNTERS, UNPROVEN if unseen else NO, few)


def instructions(values: Mapping[str, float]) -> dict[str, float]:
    """Le istruzioni di warp per operazione, senza le `HFMA2.MMA`; il resto del totale a parte.

    Su una H200 ncu conta ogni GMMA anche fra le HMMA: qui resta una volta sola.
    """
    plain = {name.removesuffix(".sum"): value for name, value in values.items()}
    packed = plain.get(PACKED_HALF, 0.0)
    counts = {
        name.removeprefix(f"{TENSOR_PIPE}_").removeprefix("op_").replace("_", " ").upper(): value
        for name, value in plain.items()
        if BY_OPERATION.fullmatch(name)
    }
    if "HMMA" in counts:
        counts["HMMA"] = max(0.0, counts["HMMA"] - packed - counts.get("GMMA", 0.0))
    if TENSOR_PIPE in plain:
        rest = plain[TENSOR_PIPE] - packed - sum(counts.values())
        counts[OTHERS if counts else ALL] = max(0.0, rest)
    return counts


def most_products(counts: Mapping[str, float]) -> float:
    """Quante moltiplicazioni possono aver fatto, al più, le istruzioni contate."""
    return sum(LARGEST.get(name, LARGEST_KNOWN) * count for name, count in counts.items())


def busy(values: Mapping[str, float]) -> float | None:
    """Per quanti cicli su cento la pipe ha lavorato; None se ncu non l'ha detto."""
    names = (name for name in values if name.startswith("sm__pipe_tensor_cycles_active"))
    return next((values[name] for name in names), None)


def share(values: Mapping[str, float]) -> str:
    """Lo stesso, a parole."""
    if (cycles := busy(values)) is None:
        return ""
    return f", pipe attiva per il {cycles:.1f} % dei cicli".replace(".", ",")


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
    if not math.isfinite(error):
        return Evidence(ERROR, UNPROVEN, "il risultato non è fatto di numeri finiti")
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

ADDRESS = re.compile(r"/\*[0-9a-f]{4,}\*/")
"""Come comincia la riga di un'istruzione."""


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
    if lines := unread(listing):
        return Evidence(MACHINE_CODE, UNPROVEN, f"righe non capite: {lines}")
    if not found:
        return Evidence(MACHINE_CODE, UNPROVEN, "il listing non contiene istruzioni")
    return Evidence(
        MACHINE_CODE, NO, f"nessuna fra {found.total()} istruzioni, {found['FFMA']} FFMA"
    )


def unread(listing: str) -> int:
    """Quante righe hanno l'indirizzo di un'istruzione, e poi qualcosa che non si sa leggere."""
    lines = (line.strip() for line in listing.splitlines())
    return sum(bool(ADDRESS.match(line)) and parse_instruction(line) is None for line in lines)
