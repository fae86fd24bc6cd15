"""I traguardi: che cosa ci eravamo proposti, accanto a che cosa si è misurato.

Sono rapporti fra due concorrenti della stessa gara, perché quelli passano da una macchina
all'altra; oppure frazioni di un tetto. Quelli su CPU vengono da misure preliminari, fatte su
un'altra CPU prima di scrivere questo codice, con le stesse librerie e con un primo modello
provvisorio; quelli su GPU li abbiamo scelti guardando che cosa permette una scheda Hopper.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from typing import Any

from benchmarks.schema import identity
from weave.measurements.drawings import Contest, html_table
from weave.measurements.notation import decimal, percent

CEILING = "tetto GEMM"
"""Il confronto che non è con un concorrente, ma con il grande prodotto di matrici."""

COPY = "banda della copia"
"""Il confronto con la copia di un grande blocco."""

BESIDE = {"extra_bytes": "{}, memoria in più"}
"""Il confronto come si scrive nella tabella: dove non è detto altro, è fra due tempi."""


@dataclass(frozen=True)
class Goal:
    """Un traguardo.

    Argomenti:
        what: il lavoro, in parole.
        group: il gruppo dei benchmark.
        label: la dimensione, come nelle tabelle.
        rival: con chi ci si confronta; `CEILING` e `COPY` sono tetti.
        limit: il nostro diviso il suo, al più; per un tetto, la frazione, almeno.
        quantity: il campo dei risultati: tempo, memoria, o frazione di un tetto.
        place: dispositivo e tipo di numeri.
    """

    what: str
    group: str
    label: str
    rival: str
    limit: float
    quantity: str = "median"
    place: tuple[str, str] = ("cpu", "float32")

    @property
    def contest(self) -> tuple[str, ...]:
        """La gara in cui si misura."""
        return (self.group, self.label, *self.place)

    def measured(self, contest: Contest) -> float | None:
        """Il nostro diviso il suo, o la nostra frazione del tetto; niente, se il rivale mancava."""
        contestants: dict[str, Any] = contest["contestants"]
        ours = next(iter(contestants.values()))
        if self.rival in (CEILING, COPY):
            fraction: float | None = ours[self.quantity]
            return fraction
        if self.rival not in contestants or not contestants[self.rival][self.quantity]:
            return None
        ratio: float = ours[self.quantity] / contestants[self.rival][self.quantity]
        return ratio

    def reached(self, found: float) -> bool:
        """Se la misura sta dalla parte giusta."""
        return found >= self.limit if self.rival in (CEILING, COPY) else found <= self.limit


def layers() -> Iterator[Goal]:
    """Uno strato di attenzione: il vantaggio che sugli altri aveva il modello provvisorio."""
    rivals = (
        "softmax esplicita",
        "nn.MultiheadAttention",
        "Hugging Face Marian",
        "x-transformers",
    )
    times = {
        "1×10, 768/12": (1.05, 0.97, 1.09, 1.19),
        "1×10, 512/8": (1.03, 0.96, 1.08, 1.21),
        "64×10, 512/8": (0.96, 0.98, 1.01, 1.04),
        "8×128, 512/8": (1.06, 1.03, 1.03, 1.06),
        "2×512, 512/8": (1.44, 1.03, 1.01, 1.05),
        "1×2048, 512/8": (2.79, 1.65, 1.04, 1.03),
    }
    for label, theirs in times.items():
        for rival, time in zip(rivals, theirs, strict=True):
            yield Goal("Uno strato di attenzione", "s3_2_2_multi_head", label, rival, 1 / time)


def lengths() -> Iterator[Goal]:
    """Il kernel fuso accanto alla formula alla lettera, con la maschera causale."""
    for n, time in ((512, 1.6), (1024, 6.4), (2048, 7.5), (4096, 8.1)):
        rival = "scaled_dot_product_attention"
        yield Goal("Attenzione causale", "s3_2_1_causal", f"n = {n}", rival, 1 / time)


STEP = ("Un passo di addestramento", "s3_training_step")
"""Il lavoro e il gruppo del passo."""

MODEL = (
    Goal(*STEP, "V = 37000", "nn.Transformer", 0.82),
    Goal(*STEP, "V = 37000", "Hugging Face Marian", 0.90),
    Goal(*STEP, "V = 37000", "nn.Transformer", 0.80, "extra_bytes"),
    Goal(*STEP, "V = 37000", CEILING, 0.78, "gemm_fraction"),
    Goal(*STEP, "V = 8000", "nn.Transformer", 1 / 1.18),
    Goal(*STEP, "V = 8000", "Hugging Face Marian", 1 / 1.03),
    Goal(*STEP, "V = 8000", CEILING, 0.82, "gemm_fraction"),
    Goal(
        "Lo stesso passo in BF16",
        "s3_training_autocast",
        "V = 8000",
        "Transformer, FP32",
        1 / 2.3,
    ),
)
"""L'addestramento del modello base."""

DECODING = (
    Goal("Generare", "s3_greedy_decoding", "1 frase, 64 token", "CTranslate2", 1.0),
    Goal("Generare", "s3_greedy_decoding", "1 frase, 64 token", "Hugging Face Marian", 1 / 1.7),
    Goal("Generare", "s3_greedy_decoding", "1 frase, 64 token", "sola lettura dei pesi", 1 / 0.45),
    Goal("Beam search", "s6_1_beam", "1 frase, 4 ipotesi", "CTranslate2", 1.0),
    Goal("Beam search", "s6_1_beam", "1 frase, 4 ipotesi", "Hugging Face Marian", 42 / 48),
    Goal("Generare", "s6_1_greedy_batch", "16 frasi, 64 token", "CTranslate2", 498 / 590),
    Goal("Generare", "s6_1_greedy_batch", "16 frasi, 64 token", "Hugging Face Marian", 571 / 590),
)
"""La generazione, con il modello base."""

GOALS = (*layers(), *lengths(), *MODEL, *DECODING)
"""Quelli su CPU, nell'ordine della tabella."""

ON_GPU = {"FP32": ("cuda", "float32"), "BF16": ("cuda", "bfloat16")}
"""Dove si misurano quelli su GPU, secondo il formato."""


def paper_steps() -> Iterator[Goal]:
    """Il passo da 25 000 token: quanto del prodotto di matrici si riesce a tenere."""
    for model, least in (("base", 0.38), ("grande", 0.50)):
        step = ("Un passo da 25 000 token", "s5_2_training_25k", model)
        yield Goal(*step, CEILING, least, "gemm_fraction", ON_GPU["BF16"])


def kernel() -> Iterator[Goal]:
    """Il kernel di attenzione nei due versi, accanto al tetto e ai due migliori di PyTorch."""
    forward = {(64, ""): 0.50, (128, ""): 0.58, (64, ", causale"): 0.45, (128, ", causale"): 0.45}
    ways = {
        "in avanti": ("beyond_flash_attention", forward),
        "all'indietro": ("beyond_flash_attention_backward", dict.fromkeys(forward, 0.35)),
    }
    for way, (group, least) in ways.items():
        for (width, mask), fraction in least.items():
            for n in (2048, 8192):
                job = (f"Attenzione {way}", group, f"n = {n}, d_k = {width}{mask}")
                yield Goal(*job, CEILING, fraction, "gemm_fraction", ON_GPU["BF16"])
                yield Goal(*job, "FlashAttention-2", 1 / 1.1, place=ON_GPU["BF16"])
                yield Goal(*job, "cuDNN", 1 / 0.9, place=ON_GPU["BF16"])


def one_sentence() -> Iterator[Goal]:
    """Generare una frase sola: quanto della banda della memoria."""
    for model in ("base", "grande"):
        for form, place in ON_GPU.items():
            job = (f"Generare, in {form}", "s6_1_decoding", f"{model}, 1 frase")
            yield Goal(*job, COPY, 0.50, "copy_fraction", place)


GPU_GOALS = (*paper_steps(), *kernel(), *one_sentence())
"""Quelli su GPU."""


def goals_table(sessions: list[dict[str, Any]], goals: tuple[Goal, ...]) -> str:
    """Una riga per traguardo, una colonna per macchina che ne ha misurato qualcuno."""
    device, _ = goals[0].place
    machines = [session for session in sessions if plays_on(session, device)]
    if not machines:
        return f"<p>Non misurato su {device.replace('cuda', 'gpu').upper()}.</p>"
    names = (escape(name_of(session)) for session in machines)
    heads = ["lavoro", "accanto a", "traguardo", *names]
    return html_table(heads, (goal_row(goal, machines) for goal in goals))


def plays_on(session: dict[str, Any], device: str) -> bool:
    """Vero se una sessione ha gare su quel dispositivo."""
    return any(entry["extra_info"]["device"] == device for entry in session["benchmarks"])


def name_of(session: dict[str, Any]) -> str:
    """La scheda o, se non c'è, il processore."""
    machine = session["machine_info"]
    name: str = machine["gpu"] or machine["cpu"]
    return name


def found_in(session: dict[str, Any]) -> dict[tuple[str, ...], Contest]:
    """Le gare, per gruppo, dimensione, dispositivo e tipo di numeri."""
    return {identity(entry): entry["extra_info"] for entry in session["benchmarks"]}


def goal_row(goal: Goal, machines: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """Il traguardo, e per ogni macchina la misura con il suo esito."""
    cells = [outcome(goal, found_in(machine).get(goal.contest)) for machine in machines]
    name = f"{escape(goal.what)}<br><small>{escape(goal.label)}</small>"
    sign = "almeno" if goal.rival in (CEILING, COPY) else "al più"
    written = f"{sign} {told(goal, goal.limit)}"
    return name, [escape(BESIDE.get(goal.quantity, "{}").format(goal.rival)), written, *cells]


def outcome(goal: Goal, contest: Contest | None) -> str:
    """La misura, e se il traguardo è raggiunto."""
    found = goal.measured(contest) if contest else None
    if found is None:
        return "non misurato"
    return f"{told(goal, found)}<br><small>{'raggiunto' if goal.reached(found) else 'no'}</small>"


def told(goal: Goal, number: float) -> str:
    """Un rapporto, o una frazione del tetto."""
    return percent(number) if goal.rival in (CEILING, COPY) else f"×\u00a0{decimal(number, 2)}"


def summary(sessions: list[dict[str, Any]], goals: tuple[Goal, ...]) -> Iterator[str]:
    """Per ogni macchina, quanti traguardi raggiunti sui misurati."""
    for session in sessions:
        contests = found_in(session)
        pairs = [(goal, contests.get(goal.contest)) for goal in goals]
        values = [(goal, goal.measured(contest)) for goal, contest in pairs if contest]
        known = [(goal, value) for goal, value in values if value is not None]
        reached = sum(goal.reached(value) for goal, value in known)
        if known:
            yield f"{name_of(session)}: {reached} su {len(known)} misurati."
