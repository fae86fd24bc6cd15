"""Oltre l'articolo: la posizione come rotazione (RoPE), e quanto lontano porta.

La query alla posizione i e la key alla posizione j ruotano, coppia per coppia, di un angolo
proporzionale al loro posto; nel prodotto scalare resta la differenza i − j. Poi i modi di
allungare un modello già addestrato, la via di ALiBi, e la prova: un modello piccolo che legge testi
più lunghi di quelli su cui ha imparato.
"""

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import torch
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from attention.beyond.grammar import Dice, Writer, lexicon, split_of
from attention.command_line import SHIPPED, WORDS
from attention.s0_abstract import require
from attention.s3_1_encoder_decoder_stacks import Encoder, EncoderLayer
from attention.s3_2_1_scaled_dot_product import check_float, masked_softmax
from attention.s3_2_2_multi_head import MultiHeadAttention
from attention.s3_2_3_applications import causal_mask
from attention.s3_3_feed_forward import FeedForward
from attention.s3_4_embeddings_softmax import SharedEmbedding
from attention.s3_5_positional_encoding import (
    WAVELENGTH_BASE,
    LearnedPositions,
    SinusoidalPositions,
)
from attention.s3_model_architecture import check_size, evaluating
from attention.s5_1_data_batching import Vocabulary
from attention.s5_3_optimizer import learning_rate, make_optimizer, set_learning_rate
from attention.sa_attention_visualizations import drawing, label

# La rotazione.


def speeds(d_k: int, base: float = WAVELENGTH_BASE) -> Float[Tensor, " pairs"]:
    """Le velocità angolari delle coppie di una testa: ω_i = base^(−2i/d_k), radianti per posizione.

    Argomenti:
        d_k: larghezza di query e key: due componenti per coppia.
        base: il 10000 di §3.5, o un altro numero maggiore di 1.

    Restituisce:
        d_k/2 numeri in doppia precisione, dal più grande, 1.

    Solleva:
        ValueError: se d_k non è pari e positivo, o se la base non è maggiore di 1.
    """
    require(d_k > 0 and d_k % 2 == 0, "d_k", d_k, "un numero pari, due componenti per coppia")
    require(base > 1, "base", base, "maggiore di 1")
    pair = torch.arange(d_k // 2, dtype=torch.float64)
    return base ** (-2 * pair / d_k)


def as_pairs(x: Float[Tensor, "*batch d_k"]) -> Complex[Tensor, "*batch pairs"]:
    """Ogni coppia di componenti vicine è un numero complesso: prima la parte reale."""
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())


def rotated(
    x: Float[Tensor, "*batch n d_k"],
    positions: Int[Tensor, " n"],
    omega: Float[Tensor, " pairs"],
) -> Float[Tensor, "*batch n d_k"]:
    """Ogni coppia per e^{i·pos·ω}: gira attorno all'origine di pos · ω radianti.

    Gli angoli nascono in doppia precisione; il prodotto si fa almeno in FP32, e solo il risultato
    torna al tipo di x.

    Argomenti:
        x: query o key, forma [..., n, d_k].
        positions: la posizione di ogni riga.
        omega: la velocità di ogni coppia.

    Solleva:
        TypeError: se x non è in virgola mobile.
        ValueError: se le coppie non sono tante quante le velocità, o le righe quante le posizioni.
    """
    check_float(x, "x")
    pairs, rows = omega.size(0), positions.size(0)
    require(x.size(-1) == 2 * pairs, "x", f"larghezza {x.size(-1)}", f"{2 * pairs}")
    require(x.size(-2) == rows, "x", f"{x.size(-2)} righe", f"{rows}, una per posizione")
    angle = positions[:, None] * omega
    wide = x if x.dtype == torch.float64 else x.float()
    hands = as_pairs(wide)
    turned = hands * torch.polar(torch.ones_like(angle), angle).to(hands.dtype)
    return torch.view_as_real(turned).flatten(-2).to(x.dtype)


def relative_score(
    query: Float[Tensor, " d_k"],
    key: Float[Tensor, " d_k"],
    distance: int,
    omega: Float[Tensor, " pairs"],
) -> Float[Tensor, ""]:
    """Il prodotto scalare dopo la rotazione, scritto senza posizioni: basta i − j.

    Ogni coppia dà |q||k| cos(φ + (i − j) ω), dove φ è l'angolo fra la sua query e la sua key.

    Argomenti:
        query, key: prima della rotazione.
        distance: i − j, dalla key alla query; può essere negativa.
        omega: la velocità di ogni coppia.
    """
    aligned = as_pairs(query) * as_pairs(key).conj()
    angle = distance * omega
    return (aligned * torch.polar(torch.ones_like(angle), angle)).real.sum()


def dial(x: float, y: float, angles: Sequence[float], names: Sequence[str]) -> Iterator[str]:
    """Un quadrante con le sue lancette; gli angoli si contano dall'asse orizzontale."""
    yield f'<circle cx="{x:g}" cy="{y:g}" r="44" fill="none" stroke="currentColor" opacity=".5"/>'
    for angle, name, width in zip(angles, names, (3, 1.5), strict=True):
        across, up = math.cos(angle), math.sin(angle)
        tip = f"{x + 40 * across:.2f} {y - 40 * up:.2f}"
        yield f'<path d="M{x:g} {y:g}L{tip}" stroke="currentColor" stroke-width="{width}"/>'
        yield label(x + 55 * across, y - 55 * up + 4, name, "middle")


def rotation_drawing(
    angles: tuple[float, float], places: Sequence[tuple[int, int]], omega: float
) -> str:
    """Una coppia di una query e di una key, in più posti alla stessa distanza.

    Argomenti:
        angles: la direzione della query e della key prima della rotazione, in radianti.
        places: coppie (i, j); un quadrante per ciascuna, dopo quello senza rotazione.
        omega: la velocità della coppia.
    """
    title = "Query e key ruotano con il loro posto; l'angolo fra loro dipende dalla distanza"
    body = [*dial(70.0, 74.0, angles, "qk"), label(70.0, 150.0, "prima", "middle")]
    for column, (i, j) in enumerate(places, start=1):
        turned = (angles[0] + i * omega, angles[1] + j * omega)
        x, y = 70.0 + 130 * (column % 3), 74.0 + 160 * (column // 3)
        body += [*dial(x, y, turned, "qk"), label(x, y + 76, f"i = {i}, j = {j}", "middle")]
    return drawing(400.0, 160.0 * (1 + len(places) // 3), title, body)


def turns(omega: Float[Tensor, " pairs"], length: int) -> Float[Tensor, " pairs"]:
    """Quanti giri fa ogni coppia in `length` posizioni: length · ω / 2π."""
    return length * omega / (2 * math.pi)


# Allungare.


def interpolated(omega: Float[Tensor, " pairs"], scale: float) -> Float[Tensor, " pairs"]:
    """L'interpolazione delle posizioni: pos/scale al posto di pos, cioè ogni velocità divisa.

    Argomenti:
        omega: le velocità con cui il modello è stato addestrato.
        scale: la lunghezza nuova diviso quella dell'addestramento, almeno 1.
    """
    require(scale >= 1, "scale", scale, "almeno 1")
    return omega / scale


def stretched_base(d_k: int, scale: float, base: float = WAVELENGTH_BASE) -> float:
    """La base per cui l'ultima coppia rallenta di `scale` e la prima resta com'è.

    Argomenti:
        d_k: larghezza di query e key, almeno 4.
        scale: come in `interpolated`.
        base: la base di partenza.
    """
    require(d_k >= 4, "d_k", d_k, "almeno 4, due coppie")
    require(scale >= 1, "scale", scale, "almeno 1")
    return base * scale ** (d_k / (d_k - 2))


ALPHA = 1.0
"""Sotto un giro in tutto l'addestramento, una coppia si interpola per intero."""

BETA = 32.0
"""Sopra 32 giri non si tocca. I due numeri sono quelli che gli autori di YaRN danno per LLaMA."""


def kept(
    omega: Float[Tensor, " pairs"], length: int, beta: float = BETA
) -> Float[Tensor, " pairs"]:
    """Quanto di ogni velocità resta com'era: γ, da 0 a 1, lineare nel numero dei giri.

    Argomenti:
        omega: le velocità.
        length: la lunghezza dell'addestramento.
        beta: i giri sopra i quali non si tocca nulla, più di `ALPHA`.
    """
    require(beta > ALPHA, "beta", beta, f"più di {ALPHA:g}")
    return ((turns(omega, length) - ALPHA) / (beta - ALPHA)).clamp(0, 1)


def by_parts(
    omega: Float[Tensor, " pairs"], scale: float, length: int, beta: float = BETA
) -> Float[Tensor, " pairs"]:
    """YaRN: (1 − γ) ω/scale + γ ω. Le coppie svelte restano, le lente si interpolano.

    Argomenti:
        omega, scale: come in `interpolated`.
        length, beta: come in `kept`.
    """
    keep = kept(omega, length, beta)
    return (1 - keep) * interpolated(omega, scale) + keep * omega


def sharpening(scale: float) -> float:
    """YaRN: il fattore 1/t dei punteggi, con √(1/t) = 0,1 ln(scale) + 1: la softmax più netta."""
    require(scale >= 1, "scale", scale, "almeno 1")
    return (0.1 * math.log(scale) + 1) ** 2


def wavelength_drawing(
    rows: Sequence[tuple[str, Float[Tensor, " pairs"]]], marks: Sequence[tuple[int, str]]
) -> str:
    """Una riga per ogni insieme di velocità, una tacca per lunghezza d'onda, in scala logaritmica.

    Argomenti:
        rows: il nome e le velocità.
        marks: le lunghezze da segnare con una linea verticale, ciascuna con il suo nome.
    """

    def across(length: float) -> float:
        return 10 + 380 * math.log10(length / 5) / math.log10(4e5)

    bottom = 30.0 + 46 * len(rows)
    body = []
    for length, name in marks:
        x = across(float(length))
        body += [f'<path d="M{x:.1f} 24V{bottom:g}" stroke="currentColor" stroke-dasharray="4 3"/>']
        body += [label(x, 16.0, name, "middle")]
    for row, (name, omega) in enumerate(rows):
        y = 46.0 + 46 * row
        body += [label(10.0, y, name, "start")]
        lines = "".join(f"M{across(2 * math.pi / it):.1f} {y + 6:g}v14" for it in omega.tolist())
        body += [f'<path class="onde" d="{lines}" stroke="currentColor" stroke-width="1.5"/>']
    for power in range(1, 7):
        body += [label(across(10.0**power), bottom + 16, f"10{'⁰¹²³⁴⁵⁶'[power]}", "middle")]
    return drawing(400.0, bottom + 24, "Le lunghezze d'onda delle coppie, in posizioni", body)


# L'altra via.


def slopes(heads: int) -> Float[Tensor, " h"]:
    """ALiBi: le pendenze delle teste, una progressione di primo termine e ragione 2^(−8/h)."""
    check_size(heads, "heads")
    return 2.0 ** (-8 * torch.arange(1, heads + 1, dtype=torch.float64) / heads)


def distance_penalty(heads: int, n: int) -> Float[Tensor, "h n n"]:
    """ALiBi: ciò che si somma ai punteggi, meno la distanza per la pendenza della testa."""
    check_size(n, "n")
    places = torch.arange(n, dtype=torch.float64)
    return -slopes(heads)[:, None, None] * (places[:, None] - places).abs()


# La prova.


SCHEMES = ("apprese", "sinusoidi", "RoPE", "RoPE 500k", "ALiBi", "nessuna")
"""I modi di dire la posizione che si confrontano; «nessuna» è la sola maschera causale."""

BASES = {"RoPE": WAVELENGTH_BASE, "RoPE 500k": 500_000.0}
"""La base di chi ruota; la seconda è quella di LLaMA 3."""

TRAINED = 64
"""La finestra dell'addestramento, in token."""

LENGTHS = (64, 80, 96, 128, 192, 256, 512)
"""Le finestre della prova; la prima è quella dell'addestramento."""


WIDTH = 64
"""d_model."""

HEADS = 4
"""h: la larghezza di una testa è 16, otto coppie."""

HIDDEN = 128
"""d_ff."""


class PlacedAttention(MultiHeadAttention):
    """Un'auto-attenzione causale in cui la posizione, se c'è, entra nei punteggi.

    Argomenti:
        d_model, heads: come in `MultiHeadAttention`.
        scheme: uno di `SCHEMES`; agiscono qui soltanto quelli di `BASES` e «ALiBi».

    Attributi:
        omega: le velocità della rotazione; si possono cambiare dopo l'addestramento.
        sharp: il fattore dei punteggi, `sharpening`.
    """

    def __init__(self, d_model: int, heads: int, scheme: str):
        super().__init__(d_model, heads)
        self.scheme = scheme
        self.omega = speeds(self.d_k, BASES.get(scheme, WAVELENGTH_BASE))
        self.sharp = 1.0

    def attend(
        self,
        query: Float[Tensor, "*batch h m d_k"],
        key: Float[Tensor, "*batch h n d_k"],
        value: Float[Tensor, "*batch h n d_v"],
        mask: Tensor | None = None,
        causal: bool = False,
    ) -> Float[Tensor, "*batch m d_model"]:
        """L'eq. (1) alla lettera, sempre causale, con la rotazione prima o la penalità dopo."""
        n = key.size(-2)
        if self.scheme in BASES:
            places = torch.arange(n)
            query = rotated(query, places, self.omega) * self.sharp
            key = rotated(key, places, self.omega)
        scores = query @ key.mT / math.sqrt(self.d_k)
        if self.scheme == "ALiBi":
            scores = scores + distance_penalty(self.heads, n).to(scores.dtype)
        return self.combine(masked_softmax(scores, causal_mask(n)) @ value)


class TextModel(nn.Module):
    """Un modello del linguaggio piccolo: due strati dell'encoder di §3.1, letti con la maschera.

    Argomenti:
        scheme: uno di `SCHEMES`.
        vocabulary: quante voci.
    """

    def __init__(self, scheme: str, vocabulary: int):
        super().__init__()
        require(scheme in SCHEMES, "scheme", scheme, f"uno fra {', '.join(SCHEMES)}")
        self.embedding = SharedEmbedding(vocabulary, WIDTH)
        self.positions: nn.Module = nn.Identity()
        if scheme == "apprese":
            self.positions = LearnedPositions(LENGTHS[-1], WIDTH)
        elif scheme == "sinusoidi":
            self.positions = SinusoidalPositions(WIDTH)
        parts = [PlacedAttention(WIDTH, HEADS, scheme) for _ in range(2)]
        self.attentions = parts
        layers = [EncoderLayer(it, FeedForward(WIDTH, HIDDEN), WIDTH, 0.0) for it in parts]
        self.stack = Encoder(layers)

    def hidden(self, tokens: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n d_model"]:
        """L'uscita degli strati, prima dei punteggi."""
        return self.stack(self.positions(self.embedding(tokens)))

    def forward(self, tokens: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n vocabulary"]:
        """I punteggi del token seguente, a ogni posizione."""
        return self.embedding.logits(self.hidden(tokens))


def running_text(
    seed: int, count: int, part: str, vocabulary: Vocabulary
) -> Int[Tensor, " tokens"]:
    """Frasi italiane della grammatica, una dopo l'altra: un testo solo, in token.

    Argomenti:
        seed: il seme della grammatica.
        count: quante frasi.
        part: di quale parte del corpus: «train» per imparare, «dev» per la prova.
        vocabulary: il vocabolario del giocattolo.
    """
    writer = Writer(lexicon(), Dice(seed))
    found: list[str] = []
    while len(found) < count:
        pair = writer.pair()
        if split_of(pair) == part:
            found.append(pair.italian)
    return torch.tensor([token for ids in vocabulary.encode_many(found) for token in ids])


STEPS = 600
"""I passi di un addestramento."""

TOKENS = 1024
"""I token di ogni passo: 16 finestre da 64, o 4 da 256."""

WARMUP = 200
"""In quanti passi il tasso di apprendimento sale."""


def study(
    model: TextModel,
    text: Int[Tensor, " tokens"],
    length: int,
    rates: Iterable[float],
    seed: int,
) -> None:
    """Addestra un modello su finestre prese a caso nel testo.

    Argomenti:
        model: il modello.
        text: il testo.
        length: la finestra, in token.
        rates: il tasso di apprendimento di ogni passo.
        seed: il seme delle finestre.
    """
    torch.manual_seed(seed)
    optimizer = make_optimizer(model)
    for rate in rates:
        set_learning_rate(optimizer, rate)
        first = torch.randint(len(text) - length, (TOKENS // length, 1))
        window = text[first + torch.arange(length + 1)]
        known, _ = model.embedding.score(model.hidden(window[:, :-1]), window[:, 1:])
        loss = -known.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def trained(
    scheme: str, seed: int, text: Int[Tensor, " tokens"], vocabulary: int, steps: int = STEPS
) -> TextModel:
    """Un modello addestrato da capo su finestre di `TRAINED` token.

    Argomenti:
        scheme: uno di `SCHEMES`.
        seed: da cui dipendono i pesi di partenza e le finestre.
        text: il testo.
        vocabulary: quante voci.
        steps: quanti passi.
    """
    torch.manual_seed(seed)
    model = TextModel(scheme, vocabulary)
    rates = (learning_rate(step, WIDTH, WARMUP) for step in range(1, steps + 1))
    study(model, text, TRAINED, rates, seed)
    return model


JUDGED = 32
"""Gli ultimi token di ogni finestra: solo su quelli si giudica."""


def loss_at(model: TextModel, text: Int[Tensor, " tokens"], length: int) -> float:
    """La media di −log p, in nat, sugli stessi token, letti con `length` token di finestra.

    Cambia soltanto quanto testo sta davanti: le finestre finiscono tutte negli stessi punti.
    """
    longest = LENGTHS[-1]
    require(JUDGED <= length <= longest, "length", length, f"da {JUDGED} a {longest}")
    ends = torch.arange(longest, len(text), JUDGED)
    window = text[ends[:, None] + torch.arange(-length, 1)]
    with evaluating(model):
        last = [model.hidden(it)[:, -JUDGED:] for it in window[:, :-1].split(8)]
        known, _ = model.embedding.score(torch.cat(last), window[:, -JUDGED:])
    return -known.mean().item()


METHODS = ("com'è", "interpolata", "base più grande", "a tratti")
"""Che cosa si fa alle velocità di un modello RoPE già addestrato, prima di leggere più lontano."""


def lengthen(model: TextModel, method: str, length: int) -> None:
    """Cambia le velocità di un modello RoPE per una finestra di `length` token; i pesi restano.

    Argomenti:
        model: il modello.
        method: uno di `METHODS`.
        length: la finestra nuova, almeno `TRAINED`.
    """
    require(method in METHODS, "method", method, f"uno fra {', '.join(METHODS)}")
    scale = length / TRAINED
    for part in model.attentions:
        plain = speeds(part.d_k)
        part.omega, part.sharp = plain, 1.0
        if method == "interpolata":
            part.omega = interpolated(plain, scale)
        elif method == "base più grande":
            part.omega = speeds(part.d_k, stretched_base(part.d_k, scale))
        elif method == "a tratti":
            part.omega, part.sharp = by_parts(plain, scale, TRAINED), sharpening(scale)


EXTRA = 60
"""I passi del ripasso: un decimo di quelli dell'addestramento."""

LONGER = 256
"""La finestra del ripasso: quattro volte quella dell'addestramento."""

REVIEW_RATE = 5e-4
"""Il tasso di apprendimento del ripasso, sempre lo stesso."""


class Run(NamedTuple):
    """Una misura: un modello, una finestra.

    Attributi:
        scheme: uno di `SCHEMES`.
        method: uno di `METHODS`; «com'è» per chi non è RoPE.
        extra: i passi di ripasso alla finestra lunga, 0 o `EXTRA`.
        seed: il seme dell'addestramento.
        length: la finestra, in token.
        loss: la media di −log p per token, in nat.
    """

    scheme: str
    method: str
    extra: int
    seed: int
    length: int
    loss: float


def runs_of(model: TextModel, scheme: str, seed: int, test: Int[Tensor, " tokens"]) -> list[Run]:
    """Le misure di un modello appena addestrato, a ogni finestra e, se è RoPE, in ogni modo."""
    found = []
    for method in METHODS if scheme == "RoPE" else METHODS[:1]:
        for length in LENGTHS:
            if scheme == "RoPE":
                lengthen(model, method, length)
            found.append(
                Run(scheme, method, 0, seed, length, round(loss_at(model, test, length), 4))
            )
    return found


def runs_after(
    model: TextModel,
    seed: int,
    text: Int[Tensor, " tokens"],
    test: Int[Tensor, " judged"],
    steps: int = EXTRA,
) -> list[Run]:
    """Le misure di un modello RoPE dopo un ripasso a `LONGER` token, in ogni modo."""
    found = []
    for method in METHODS:
        copy = deepcopy(model)
        lengthen(copy, method, LONGER)
        study(copy, text, LONGER, [REVIEW_RATE] * steps, seed)
        loss = round(loss_at(copy, test, LONGER), 4)
        found.append(Run("RoPE", method, steps, seed, LONGER, loss))
    return found


RESULTS = Path(__file__).with_suffix(".csv")
"""I risultati che la pagina mostra: una riga per misura."""


def read_runs(path: Path = RESULTS) -> list[Run]:
    """I risultati scritti da `experiment`."""
    with path.open(encoding="utf-8", newline="") as file:
        return [
            Run(scheme, method, int(extra), int(seed), int(length), float(loss))
            for scheme, method, extra, seed, length, loss in csv.reader(file)
        ]


class Cell(NamedTuple):
    """La media dei semi, e fin dove vanno il migliore e il peggiore."""

    mean: float
    lowest: float
    highest: float


def cell(runs: Sequence[Run], scheme: str, method: str, length: int, extra: int = 0) -> Cell:
    """Una casella della tabella: un modo, una finestra, tutti i semi."""
    wanted = (scheme, method, extra, length)
    found = [it.loss for it in runs if (it.scheme, it.method, it.extra, it.length) == wanted]
    require(bool(found), "scheme, method, extra, length", wanted, "una misura che c'è")
    return Cell(fmean(found), min(found), max(found))


DASHES = ("1 3", "6 3", "none", "12 3 2 3", "18 4", "3 5")
"""Il tratto di ogni linea, nell'ordine di `SCHEMES`."""


def apart(heights: Sequence[float], gap: float) -> list[float]:
    """Le stesse altezze, spinte in basso quanto basta perché distino almeno `gap`."""
    found = list(heights)
    order = sorted(range(len(found)), key=found.__getitem__)
    for above, here in pairwise(order):
        found[here] = max(found[here], found[above] + gap)
    return found


def loss_drawing(rows: Sequence[tuple[str, Sequence[Cell]]]) -> str:
    """La perdita di ogni modo contro la finestra, con una barra dal seme migliore al peggiore.

    Argomenti:
        rows: il nome, e una casella per ognuna delle `LENGTHS`.
    """

    def place(length: int, loss: float) -> tuple[float, float]:
        return 40 + 270 * math.log2(length / TRAINED) / 3, 250 - 130 * (loss - 2.5)

    body: list[str] = []
    for mark in (2.5, 3.0, 3.5, 4.0):
        y = place(TRAINED, mark)[1]
        body += [label(34.0, y + 4, f"{mark:.1f}".replace(".", ","))]
        body += [f'<path d="M40 {y:g}H310" stroke="currentColor" opacity=".2"/>']
    for length in (64, 128, 256, 512):
        body += [label(place(length, 0.0)[0], 270.0, str(length), "middle")]
    body += [label(175.0, 288.0, "token di finestra", "middle")]
    ends = apart([place(LENGTHS[-1], cells[-1].mean)[1] for _, cells in rows], 15.0)
    for (name, cells), end, dash in zip(rows, ends, DASHES, strict=False):
        points = [place(*it) for it in zip(LENGTHS, (it.mean for it in cells), strict=True)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        style = f'fill="none" stroke="currentColor" stroke-width="2" stroke-dasharray="{dash}"'
        body += [f'<polyline points="{line}" {style}/>', label(316.0, end + 4, name, "start")]
        for length, it in zip(LENGTHS, cells, strict=True):
            (x, low), (_, high) = place(length, it.lowest), place(length, it.highest)
            body += [
                f'<path class="semi" d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="currentColor"/>'
            ]
    title = "La perdita sugli ultimi token di finestre sempre più lunghe; addestramento a 64"
    return drawing(400.0, 296.0, title, body)


SEEDS = (1, 2, 3)
"""I semi degli addestramenti."""


def experiment(path: Path = RESULTS, seeds: Sequence[int] = SEEDS, steps: int = STEPS) -> None:
    """Addestra ogni modo con ogni seme, lo giudica a ogni finestra, e scrive il file."""
    torch.set_num_threads(1)
    vocabulary = Vocabulary.load(SHIPPED / "giocattolo" / WORDS)
    learnt = running_text(1, 20_000, "train", vocabulary)
    test = running_text(2, 400, "dev", vocabulary)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for seed in seeds:
            for scheme in SCHEMES:
                model = trained(scheme, seed, learnt, len(vocabulary), steps)
                writer.writerows(runs_of(model, scheme, seed, test))
                if scheme == "RoPE":
                    writer.writerows(runs_after(model, seed, learnt, test))
                file.flush()


if __name__ == "__main__":
    experiment()
