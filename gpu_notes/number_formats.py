"""I formati in virgola mobile che una GPU moltiplica, bit per bit: da FP32 a FP4.

Un formato è una descrizione di poche righe. Codificatore e decodificatore sono gli stessi per
tutti, perché le configurazioni, lette come interi, stanno già in ordine di valore: zero,
subnormali, normali, infinito, NaN. Poi gli stessi formati su tensori interi, per un prodotto di
matrici con gli operandi stretti e le somme in FP32.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from attention.s0_abstract import require


@dataclass(frozen=True)
class Format:
    """Un formato: un bit di segno, poi l'esponente, poi la mantissa.

    Argomenti:
        name: il nome d'uso.
        exponent_bits: quanti bit di esponente.
        mantissa_bits: quanti bit di mantissa scritti, senza l'1 implicito.
        bias: quanto si sottrae all'esponente scritto.
        infinities: vero se dopo l'ultimo numero finito c'è l'infinito.
        nans: quante configurazioni per segno, in fondo alla fila, sono NaN.
        container: i bit che un numero occupa, riempimento compreso.
    """

    name: str
    exponent_bits: int
    mantissa_bits: int
    bias: int
    infinities: bool
    nans: int
    container: int

    @property
    def magnitudes(self) -> int:
        """Quante configurazioni senza il segno: il bit di segno vale questo numero."""
        return 1 << (self.exponent_bits + self.mantissa_bits)

    @property
    def bits(self) -> int:
        """Quanti bit portano significato: segno, esponente, mantissa."""
        return 1 + self.exponent_bits + self.mantissa_bits

    @property
    def last_finite(self) -> int:
        """L'ultima configurazione finita positiva: dopo vengono l'infinito, se c'è, e i NaN."""
        return self.magnitudes - 1 - self.nans - self.infinities

    @property
    def eps(self) -> float:
        """La distanza fra 1 e il numero seguente."""
        return math.ldexp(1.0, -self.mantissa_bits)

    @property
    def smallest_normal(self) -> float:
        """Il più piccolo numero con l'1 implicito: esponente scritto 1, mantissa zero."""
        return math.ldexp(1.0, 1 - self.bias)

    @property
    def smallest_subnormal(self) -> float:
        """Il più piccolo numero maggiore di zero: l'ultimo bit della mantissa, da solo."""
        return self.smallest_normal * self.eps

    @property
    def largest(self) -> float:
        """Il più grande numero finito."""
        return decode(self.last_finite, self)


FP32 = Format("FP32", 8, 23, 127, infinities=True, nans=2**23 - 1, container=32)
"""IEEE 754 binary32: il REAL*4 del Fortran sulle macchine di oggi."""

TF32 = Format("TF32", 8, 10, 127, infinities=True, nans=2**10 - 1, container=32)
"""L'esponente di FP32 con la mantissa di FP16: 19 bit che contano, in una parola da 32."""

BF16 = Format("BF16", 8, 7, 127, infinities=True, nans=2**7 - 1, container=16)
"""I 16 bit alti di FP32."""

FP16 = Format("FP16", 5, 10, 15, infinities=True, nans=2**10 - 1, container=16)
"""IEEE 754 binary16."""

E5M2 = Format("E5M2", 5, 2, 15, infinities=True, nans=2**2 - 1, container=8)
"""FP8 largo: gli 8 bit alti di FP16."""

E4M3 = Format("E4M3", 4, 3, 7, infinities=False, nans=1, container=8)
"""FP8 fine: nessun infinito, un solo NaN per segno. Le librerie lo chiamano `e4m3fn`."""

E2M1 = Format("E2M1", 2, 1, 1, infinities=False, nans=0, container=4)
"""FP4: quindici valori, né infiniti né NaN."""

FORMATS = (FP32, TF32, BF16, FP16, E5M2, E4M3, E2M1)
"""Dal più largo al più stretto."""


def decode(pattern: int, fmt: Format) -> float:
    """Il valore esatto di una configurazione di bit.

    Argomenti:
        pattern: i bit del numero, senza riempimento.
        fmt: il formato.

    Restituisce:
        Il valore, che per ognuno di questi formati sta in un `float` senza arrotondamento.

    Solleva:
        ValueError: se `pattern` ha più bit del formato, o è negativo.
    """
    most = 2 * fmt.magnitudes - 1
    require(0 <= pattern <= most, "pattern", pattern, f"fra 0 e {most}, per {fmt.name}")
    negative, magnitude = divmod(pattern, fmt.magnitudes)
    exponent, fraction = divmod(magnitude, 1 << fmt.mantissa_bits)
    if magnitude > fmt.last_finite + fmt.infinities:
        value = math.nan
    elif magnitude > fmt.last_finite:
        value = math.inf
    elif exponent == 0:
        value = math.ldexp(fraction, 1 - fmt.bias - fmt.mantissa_bits)
    else:
        whole = (1 << fmt.mantissa_bits) + fraction
        value = math.ldexp(whole, exponent - fmt.bias - fmt.mantissa_bits)
    return -value if negative else value


def fields(pattern: int, fmt: Format) -> str:
    """I bit di una configurazione, con uno spazio fra segno, esponente e mantissa."""
    text = f"{pattern:0{fmt.bits}b}"
    return f"{text[0]} {text[1 : 1 + fmt.exponent_bits]} {text[1 + fmt.exponent_bits :]}"


Rounding = Callable[[float], int]
"""Da un numero non negativo di unità dell'ultimo bit a un numero intero."""


def to_even(units: float) -> int:
    """Al più vicino; a metà strada, al pari: il modo di IEEE 754 e delle librerie."""
    below = math.floor(units)
    rest = units - below
    return below + (rest > 0.5 or (rest == 0.5 and below % 2 == 1))


def away(units: float) -> int:
    """Al più vicino; a metà strada, lontano da zero: il modo `rna` di `cvt.rna.tf32.f32`."""
    below = math.floor(units)
    return below + (units - below >= 0.5)


def truncate(units: float) -> int:
    """Verso zero: i bit di troppo cadono."""
    return math.floor(units)


def nearest_magnitude(size: float, fmt: Format, rounding: Rounding) -> int:
    """La configurazione, senza segno, in cui cade un numero finito non negativo.

    Può superare `last_finite`: il conto va avanti come se l'esponente non finisse mai.
    """
    lowest = 1 - fmt.bias
    exponent = max(math.frexp(size)[1] - 1, lowest) if size > 0 else lowest
    units = rounding(math.ldexp(size, fmt.mantissa_bits - exponent))
    return ((exponent + fmt.bias - 1) << fmt.mantissa_bits) + units


def encode(x: float, fmt: Format, rounding: Rounding = to_even, *, saturate: bool = False) -> int:
    """La configurazione di bit che rappresenta `x`, arrotondato una volta sola.

    Oltre il massimo si finisce sulla configurazione che segue l'ultima finita: infinito per chi
    ce l'ha, NaN per E4M3. Con `saturate`, con `truncate`, e sempre in E2M1, si resta sul massimo.

    Argomenti:
        x: il numero.
        fmt: il formato.
        rounding: `to_even`, `away` o `truncate`.
        saturate: vero per fermarsi al massimo finito, infinito compreso.

    Restituisce:
        I bit, senza riempimento. Un NaN diventa tutti uno, con il segno zero.

    Solleva:
        ValueError: se `x` è NaN e il formato non ne ha.
    """
    if math.isnan(x):
        require(fmt.nans > 0, "x", x, f"un numero: {fmt.name} non ha NaN")
        return fmt.magnitudes - 1
    finite = not math.isinf(x)
    stops = saturate or (finite and rounding is truncate) or fmt.nans == 0
    ceiling = fmt.last_finite if stops else fmt.last_finite + 1
    magnitude = nearest_magnitude(abs(x), fmt, rounding) if finite else ceiling
    sign = fmt.magnitudes if math.copysign(1.0, x) < 0 else 0
    return sign + min(magnitude, ceiling)


def add_up(numbers: Iterable[float], fmt: Format) -> float:
    """La somma in quest'ordine, arrotondata al formato dopo ogni addizione.

    L'addizione intermedia è in doppia precisione: con 53 bit, più del doppio dei 24 di FP32 più
    due, arrotondare due volte dà lo stesso risultato che arrotondare una volta.
    """
    total = 0.0
    for number in numbers:
        total = decode(encode(total + number, fmt), fmt)
    return total


DOUBLE_BIAS = 1023
"""Il bias di FP64, il formato in cui si fanno i conti sui tensori."""

DOUBLE_MANTISSA = 52
"""I bit di mantissa di FP64."""


def exponents(x: Tensor) -> Tensor:
    """L'esponente di ogni numero, letto dai bit di FP64; per lo zero, il più piccolo che c'è."""
    return (x.abs().view(torch.int64) >> DOUBLE_MANTISSA) - DOUBLE_BIAS


def powers(exponent: Tensor) -> Tensor:
    """2 elevato a ogni esponente, scritto direttamente nei bit di FP64."""
    return ((exponent + DOUBLE_BIAS) << DOUBLE_MANTISSA).view(torch.float64)


def quantize(x: Tensor, fmt: Format) -> Tensor:
    """Ogni numero portato al valore più vicino del formato; oltre il massimo, al massimo.

    Argomenti:
        x: numeri finiti in FP64.
        fmt: il formato.

    Restituisce:
        I valori arrotondati, ancora in FP64.

    Solleva:
        TypeError: se x non è in FP64.
    """
    require(x.dtype == torch.float64, "x", x.dtype, "torch.float64", TypeError)
    step = powers(exponents(x).clamp(min=1 - fmt.bias) - fmt.mantissa_bits)
    return ((x / step).round() * step).clamp(-fmt.largest, fmt.largest)


SMALLEST_SCALE = -127
"""La scala più piccola che si scrive in E8M0, un byte di solo esponente: 2^-127."""


def quantize_blocks(x: Tensor, fmt: Format, block: int) -> Tensor:
    """Come `quantize`, con una scala, potenza di 2, per ogni `block` numeri di una riga.

    La scala porta l'esponente del più grande del blocco su quello del massimo del formato, come
    nei formati MX dell'Open Compute Project.

    Argomenti:
        x: forma [..., righe, colonne], in FP64.
        fmt: il formato degli elementi.
        block: quanti numeri dividono una scala; divide il numero delle colonne.

    Restituisce:
        I valori arrotondati e riportati alla loro grandezza.

    Solleva:
        ValueError: se le colonne non si dividono in blocchi.
    """
    columns = x.size(-1)
    divides = block > 0 and columns % block == 0
    require(divides, "block", block, f"un divisore delle {columns} colonne")
    blocks = x.unflatten(-1, (-1, block))
    top = math.frexp(fmt.largest)[1] - 1
    shared = exponents(blocks.abs().amax(dim=-1, keepdim=True)) - top
    scale = powers(shared.clamp(min=SMALLEST_SCALE))
    return (quantize(blocks / scale, fmt) * scale).flatten(-2)


def product(a: Tensor, b: Tensor, fmt: Format, block: int | None = None) -> Tensor:
    """A per la trasposta di B: operandi nel formato, somme in FP32.

    Argomenti:
        a: forma [n, k], in FP64.
        b: forma [m, k], in FP64: una riga per ogni colonna del risultato.
        fmt: il formato degli operandi.
        block: quanti numeri di una riga dividono una scala; None per nessuna scala.

    Restituisce:
        Forma [n, m], valori FP32 conservati in FP64.
    """

    def narrow(x: Tensor) -> Tensor:
        return quantize(x, fmt) if block is None else quantize_blocks(x, fmt, block)

    return (narrow(a).float() @ narrow(b).float().mT).double()


def feed_forward_in(
    fmt: Format, x: Tensor, w_1: Tensor, w_2: Tensor, block: int | None = None
) -> Tensor:
    """L'eq. (2) dell'articolo senza bias, con gli operandi di ogni prodotto nel formato dato.

    Argomenti:
        fmt: il formato di x, dei pesi e dello strato interno.
        x: forma [n, d_model], in FP64.
        w_1: forma [d_ff, d_model].
        w_2: forma [d_model, d_ff].
        block: come in `product`.

    Restituisce:
        Forma [n, d_model], in FP64.
    """
    return product(product(x, w_1, fmt, block).relu(), w_2, fmt, block)


def relative_error(actual: Tensor, exact: Tensor) -> float:
    """La norma della differenza divisa per la norma del valore esatto."""
    return ((actual - exact).norm() / exact.norm()).item()
