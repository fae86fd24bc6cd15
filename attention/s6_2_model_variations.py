"""§6.2: le varianti del modello, cioè la tabella 3 come dati, come configurazioni e come conti.

Ogni riga cambia qualcosa del modello base; ciò che lascia in bianco resta come nel base. Da una
riga viene una configurazione, e da questa il numero dei parametri fino all'unità. Se i milioni
stampati tornino, e con quale modo di contare, lo dice una tabella anch'essa.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from types import MappingProxyType

from attention.s0_abstract import PERFECT, check_printed, require
from attention.s3_model_architecture import BASE, TransformerConfig, check_size


@dataclass(frozen=True)
class Row:
    """Una riga della tabella 3; None dove la casella è in bianco.

    Argomenti:
        group: base, A, B, C, D, E o big.
        name: che cosa cambia, come lo chiama l'articolo.
        perplexity: la perplessità per word-piece, su newstest2013.
        bleu: il BLEU su newstest2013.
        millions: i milioni di parametri stampati.
        layers, d_model, d_ff, heads, d_k, d_v: le misure di `TransformerConfig`.
        dropout: P_drop.
        smoothing: ε_ls.
        steps: i passi di addestramento.
        learned_positions: vero se le posizioni sono apprese, non sinusoidi.

    Solleva:
        TypeError, ValueError: se perplessità o BLEU non sono decimali o sono fuori intervallo.
    """

    group: str
    name: str
    perplexity: Decimal
    bleu: Decimal
    millions: int | None = None
    layers: int | None = None
    d_model: int | None = None
    d_ff: int | None = None
    heads: int | None = None
    d_k: int | None = None
    d_v: int | None = None
    dropout: Decimal | None = None
    smoothing: Decimal | None = None
    steps: int | None = None
    learned_positions: bool = False

    def __post_init__(self) -> None:
        check_printed("perplexity", self.perplexity)
        check_printed("bleu", self.bleu, PERFECT)


BASE_ROW = Row(
    "base",
    "base",
    Decimal("4.92"),
    Decimal("25.8"),
    millions=65,
    layers=6,
    d_model=512,
    d_ff=2048,
    heads=8,
    d_k=64,
    d_v=64,
    dropout=Decimal("0.1"),
    smoothing=Decimal("0.1"),
    steps=100_000,
)
"""Il modello base: la sola riga senza caselle in bianco."""

BIG_ROW = Row(
    "big",
    "big",
    Decimal("4.33"),
    Decimal("26.4"),
    millions=213,
    layers=6,
    d_model=1024,
    d_ff=4096,
    heads=16,
    dropout=Decimal("0.3"),
    steps=300_000,
)
"""Il modello grande: quattro misure cambiate insieme, e il triplo dei passi."""

TABLE_3 = (
    BASE_ROW,
    Row("A", "h = 1", Decimal("5.29"), Decimal("24.9"), heads=1, d_k=512, d_v=512),
    Row("A", "h = 4", Decimal("5.00"), Decimal("25.5"), heads=4, d_k=128, d_v=128),
    Row("A", "h = 16", Decimal("4.91"), Decimal("25.8"), heads=16, d_k=32, d_v=32),
    Row("A", "h = 32", Decimal("5.01"), Decimal("25.4"), heads=32, d_k=16, d_v=16),
    Row("B", "d_k = 16", Decimal("5.16"), Decimal("25.1"), 58, d_k=16),
    Row("B", "d_k = 32", Decimal("5.01"), Decimal("25.4"), 60, d_k=32),
    Row("C", "N = 2", Decimal("6.11"), Decimal("23.7"), 36, layers=2),
    Row("C", "N = 4", Decimal("5.19"), Decimal("25.3"), 50, layers=4),
    Row("C", "N = 8", Decimal("4.88"), Decimal("25.5"), 80, layers=8),
    Row("C", "d_model = 256", Decimal("5.75"), Decimal("24.5"), 28, d_model=256, d_k=32, d_v=32),
    Row(
        "C", "d_model = 1024", Decimal("4.66"), Decimal("26.0"), 168, d_model=1024, d_k=128, d_v=128
    ),
    Row("C", "d_ff = 1024", Decimal("5.12"), Decimal("25.4"), 53, d_ff=1024),
    Row("C", "d_ff = 4096", Decimal("4.75"), Decimal("26.2"), 90, d_ff=4096),
    Row("D", "P_drop = 0.0", Decimal("5.77"), Decimal("24.6"), dropout=Decimal("0.0")),
    Row("D", "P_drop = 0.2", Decimal("4.95"), Decimal("25.5"), dropout=Decimal("0.2")),
    Row("D", "ε_ls = 0.0", Decimal("4.67"), Decimal("25.3"), smoothing=Decimal("0.0")),
    Row("D", "ε_ls = 0.2", Decimal("5.47"), Decimal("25.7"), smoothing=Decimal("0.2")),
    Row("E", "posizioni apprese", Decimal("4.92"), Decimal("25.7"), learned_positions=True),
    BIG_ROW,
)
"""La tabella 3, riga per riga: inglese–tedesco, insieme di sviluppo newstest2013."""


def row(name: str) -> Row:
    """La riga con quel nome.

    Solleva:
        ValueError: se non c'è.
    """
    found = {it.name: it for it in TABLE_3}
    require(name in found, "name", name, ", ".join(found))
    return found[name]


def complete(variant: Row) -> Row:
    """Una riga senza caselle in bianco: quelle vuote prendono il valore del base.

    I milioni no: sono un risultato, e dove la tabella non li stampa restano None.
    """
    blank = {
        field.name: getattr(BASE_ROW, field.name)
        for field in dataclasses.fields(Row)
        if field.name != "millions" and getattr(variant, field.name) is None
    }
    return dataclasses.replace(variant, **blank)


POSITIONS = 256
"""Quante posizioni nella riga (E): l'articolo non lo dice; è la lunghezza massima di una frase nel
primo codice pubblicato."""


def configuration(
    variant: Row, vocabulary: int = BASE.vocabulary, bias: bool = False
) -> TransformerConfig:
    """La configurazione di una riga.

    ε_ls e i passi non sono misure del modello: restano nella riga.

    Argomenti:
        variant: la riga.
        vocabulary: le voci del vocabolario comune.
        bias: i termini costanti nelle proiezioni dell'attenzione.
    """
    full = complete(variant)
    names = ("layers", "d_model", "d_ff", "heads", "d_k", "d_v")
    return TransformerConfig(
        **{name: getattr(full, name) for name in names},
        dropout=float(full.dropout or 0),
        vocabulary=vocabulary,
        learned_positions=POSITIONS if variant.learned_positions else None,
        bias=bias,
    )


def attention_parameters(config: TransformerConfig) -> int:
    """Un'attenzione a più teste: W^Q e W^K, W^V e W^O, e i termini costanti se ci sono."""
    keys, values = projection_widths(config)
    matrices = config.d_model * (2 * keys + 2 * values)
    return matrices + (2 * keys + values + config.d_model if config.bias else 0)


def projection_widths(config: TransformerConfig) -> tuple[int, int]:
    """h·d_k e h·d_v: quanto sono larghe insieme le teste, dalla parte delle key e dei value."""
    width = config.d_model // config.heads
    return config.heads * (config.d_k or width), config.heads * (config.d_v or width)


def feed_forward_parameters(config: TransformerConfig) -> int:
    """Una rete feed-forward: due matrici e due termini costanti."""
    return 2 * config.d_model * config.d_ff + config.d_ff + config.d_model


def parameter_count(config: TransformerConfig) -> int:
    """Tutti i parametri di un modello, fino all'unità.

    Uno strato dell'encoder ha un'attenzione, una rete e due normalizzazioni; uno del decoder ne
    ha due, una e tre. La tabella degli embedding è una sola; le sinusoidi non hanno parametri, le
    posizioni apprese hanno una tabella per pila.
    """
    attention, network = attention_parameters(config), feed_forward_parameters(config)
    norm = 2 * config.d_model
    layer = (attention + network + 2 * norm) + (2 * attention + network + 3 * norm)
    rows = config.vocabulary + 2 * (config.learned_positions or 0)
    return config.layers * layer + rows * config.d_model


@dataclass(frozen=True)
class Convention:
    """Un modo di contare: ciò che l'articolo non dice, o dice e non torna.

    Argomenti:
        name: come lo chiamiamo.
        vocabulary: le voci del vocabolario.
        bias: se le proiezioni dell'attenzione hanno i termini costanti.
        task_rows: le righe di una tabella larga d_model che l'articolo non ha: nel codice
            pubblicato, l'embedding del compito d'arrivo (target space).
    """

    name: str
    vocabulary: int
    bias: bool
    task_rows: int

    def count(self, variant: Row) -> int:
        """I parametri di una riga, contati così."""
        config = configuration(variant, self.vocabulary, self.bias)
        return parameter_count(config) + self.task_rows * config.d_model

    def agrees(self, variant: Row) -> bool:
        """Vero se il conto, arrotondato al milione, è quello stampato; falso se non è stampato."""
        return millions(self.count(variant)) == variant.millions


def millions(count: int) -> int:
    """Un conto arrotondato al milione più vicino."""
    return (count + 500_000) // 1_000_000


PAPER = Convention("articolo", 37_000, bias=False, task_rows=0)
"""Ciò che l'articolo dice: circa 37 000 voci, nessun termine costante nell'eq. di MultiHead."""

ROUNDED = Convention("40 960 voci", 40_960, bias=False, task_rows=0)
"""Lo stesso modello con il vocabolario che dichiara il codice pubblicato: 40 · 1024."""

RELEASED = Convention("codice", 40_960, bias=True, task_rows=32)
"""Il primo codice pubblicato: anche i termini costanti e i 32 vettori dei compiti d'arrivo."""

CONVENTIONS = (PAPER, ROUNDED, RELEASED)
"""I tre modi di contare, ciascuno più vicino del precedente al primo codice pubblicato."""

OUTCOMES: Mapping[str, tuple[bool, bool, bool]] = MappingProxyType(
    {
        "base": (False, True, True),
        "d_k = 16": (False, True, True),
        "d_k = 32": (False, True, True),
        "N = 2": (False, True, True),
        "N = 4": (False, True, True),
        "N = 8": (False, True, True),
        "d_model = 256": (False, True, True),
        "d_model = 1024": (False, True, True),
        "d_ff = 1024": (False, False, True),
        "d_ff = 4096": (False, True, True),
        "big": (False, False, False),
    }
)
"""Per ogni riga con un conto stampato, se i tre modi di contare, nell'ordine, lo ritrovano."""


def vocabularies(variant: Row, convention: Convention) -> range:
    """I vocabolari con cui il conto di una riga sarebbe quello stampato.

    Argomenti:
        variant: la riga.
        convention: come contare tutto il resto.

    Solleva:
        ValueError: se la tabella non stampa i milioni di quella riga.
    """
    if variant.millions is None:
        raise ValueError(
            f"variant: dato: {variant.name}, senza milioni; atteso: una riga che li ha"
        )
    width = configuration(variant).d_model
    rest = convention.count(variant) - convention.vocabulary * width
    lowest = variant.millions * 1_000_000 - 500_000 - rest
    return range(-(-lowest // width), -(-(lowest + 1_000_000) // width))


def family(group: str, cell: str) -> list[Row]:
    """Il base e le righe di un gruppo che cambiano una stessa casella, dal valore più piccolo.

    Solleva:
        ValueError: se in quel gruppo nessuna riga la cambia.
    """
    changed = [it for it in TABLE_3 if it.group == group and getattr(it, cell) is not None]
    require(bool(changed), "cell", cell, f"una casella che le righe ({group}) cambiano")
    return sorted([BASE_ROW, *changed], key=lambda it: getattr(it, cell))


def attention_work(config: TransformerConfig, n: int) -> tuple[int, int]:
    """Il lavoro di un'auto-attenzione su n posizioni: le moltiplicazioni e gli esponenziali.

    Le moltiplicazioni sono quelle delle quattro proiezioni, dei punteggi e della somma pesata;
    gli esponenziali, quelli della softmax, uno per testa e per coppia di posizioni.
    """
    check_size(n, "n")
    keys, values = projection_widths(config)
    width = keys + values
    return 2 * n * config.d_model * width + n**2 * width, config.heads * n**2


def setbacks(rows: list[Row]) -> list[tuple[str, str, str]]:
    """Dove «più grande è meglio» non vale: due righe in fila, e la misura che peggiora."""
    return [
        (small.name, large.name, measure)
        for small, large in itertools.pairwise(rows)
        for measure, worse in (
            ("BLEU", large.bleu < small.bleu),
            ("perplessità", large.perplexity > small.perplexity),
        )
        if worse
    ]


def nats(perplexity: Decimal) -> float:
    """La media di −ln p per token di cui una perplessità è l'esponenziale, in nat."""
    return math.log(perplexity)


def per_word(perplexity: Decimal, pieces: float) -> float:
    """La perplessità per parola, se una parola è fatta in media di tanti pezzi.

    La probabilità di una parola è il prodotto di quelle dei suoi pezzi: i −ln p si sommano, e la
    perplessità si eleva.

    Solleva:
        ValueError: se i pezzi per parola sono meno di 1.
    """
    require(pieces >= 1, "pieces", pieces, "almeno 1")
    return math.exp(pieces * nats(perplexity))
