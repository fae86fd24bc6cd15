"""Sommario: le tesi numeriche dell'articolo come dati, e i conti con cui si controllano.

Il sommario afferma; i numeri per verificarlo stanno altrove, nella tabella 2 di §6.1.
Perciò qui ci sono solo le affermazioni, e i risultati altrui si passano come argomento.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal

PERFECT = Decimal(100)
"""Il BLEU di una traduzione uguale al riferimento, parola per parola."""


def require(
    holds: bool, argument: str, given: object, expected: str, error: type[Exception] = ValueError
) -> None:
    """Solleva un errore che nomina l'argomento, ciò che è stato dato e ciò che era atteso."""
    if not holds:
        given = list(given) if isinstance(given, tuple) else given
        raise error(f"{argument}: dato: {given}; atteso: {expected}")


def check_printed(argument: str, value: Decimal | int, most: Decimal | None = None) -> None:
    """Un numero come è stampato: decimale esatto, maggiore di zero, al più `most`.

    Solleva:
        TypeError: se è un numero in virgola mobile, che le cifre stampate non le conserva.
        ValueError: se è fuori dall'intervallo.
    """
    exact = isinstance(value, Decimal | int)
    require(exact, argument, repr(value), "un Decimal o un intero", TypeError)
    require(value > 0, argument, value, "maggiore di 0")
    require(most is None or value <= most, argument, value, f"al più {most}")


@dataclass(frozen=True)
class Rival:
    """Un risultato già pubblicato su un compito, come lo riporta la tabella 2.

    Argomenti:
        model: il nome che gli dà la tabella.
        bleu: il suo BLEU.
        ensemble: vero se a tradurre sono più modelli insieme.
        flops: il costo di addestramento stampato, in FLOP; None se la casella è vuota.

    Solleva:
        TypeError, ValueError: se BLEU o costo non sono decimali o sono fuori intervallo.
    """

    model: str
    bleu: Decimal
    ensemble: bool
    flops: Decimal | None

    def __post_init__(self) -> None:
        check_printed("bleu", self.bleu, PERFECT)
        if self.flops is not None:
            check_printed("flops", self.flops)


@dataclass(frozen=True)
class Claim:
    """Una tesi: su questo compito tanti BLEU, oltre `more_than` sopra il migliore.

    Argomenti:
        task: il compito.
        bleu: il risultato dichiarato.
        more_than: il distacco dichiarato, da superare; 0 per un primato senza distacco.
        ensembles_too: vero se fra gli altri contano anche gli ensemble.

    Solleva:
        TypeError, ValueError: se il BLEU non è decimale o è fuori intervallo.
    """

    task: str
    bleu: Decimal
    more_than: Decimal
    ensembles_too: bool

    def __post_init__(self) -> None:
        check_printed("bleu", self.bleu, PERFECT)

    def best_rival(self, rivals: Sequence[Rival]) -> Rival:
        """Il migliore fra i risultati con cui la tesi si confronta.

        Solleva:
            ValueError: se non ne resta nessuno.
        """
        admitted = [rival for rival in rivals if self.ensembles_too or not rival.ensemble]
        require(bool(admitted), "rivals", "nessuno da confrontare", "almeno uno")
        return max(admitted, key=lambda rival: rival.bleu)

    def margin(self, rivals: Sequence[Rival]) -> Decimal:
        """Di quanti BLEU la tesi supera il migliore; negativo se sta sotto."""
        return self.bleu - self.best_rival(rivals).bleu

    def holds(self, rivals: Sequence[Rival]) -> bool:
        """Vero se il distacco è davvero maggiore di quello dichiarato."""
        return self.margin(rivals) > self.more_than


EN_DE = Claim("inglese–tedesco", Decimal("28.4"), Decimal(2), ensembles_too=True)
"""WMT 2014: oltre 2 BLEU sopra i migliori risultati esistenti, ensemble compresi."""

EN_FR = Claim("inglese–francese", Decimal("41.8"), Decimal(0), ensembles_too=False)
"""WMT 2014: il primato fra i modelli singoli, nella versione 7."""

EN_FR_FIRST_PRINTED = replace(EN_FR, bleu=Decimal("41.0"))
"""Lo stesso nella prima versione, negli atti di NIPS, e tuttora nel testo di §6.1."""


@dataclass(frozen=True)
class Training:
    """Un addestramento come lo dice il sommario: quanto è durato, su quante GPU.

    Argomenti:
        days: la durata in giorni.
        gpus: quante GPU hanno lavorato insieme.

    Solleva:
        TypeError, ValueError: se durata o GPU non sono esatte e maggiori di zero.
    """

    days: Decimal
    gpus: int

    def __post_init__(self) -> None:
        check_printed("days", self.days)
        check_printed("gpus", self.gpus)

    @property
    def gpu_hours(self) -> Decimal:
        """Le ore di una GPU sola che farebbero lo stesso lavoro."""
        return 24 * self.days * self.gpus

    def flops(self, tflops: Decimal) -> Decimal:
        """Il costo come lo stima la tabella 2: secondi × GPU × velocità di una GPU.

        È il lavoro di cui quelle GPU sarebbero capaci in quel tempo, non un conteggio.

        Argomenti:
            tflops: la velocità sostenuta di una GPU, in TFLOP/s (nota 5 di §6.1).

        Restituisce:
            FLOP.

        Solleva:
            TypeError, ValueError: se la velocità non è esatta e maggiore di zero.
        """
        check_printed("tflops", tflops)
        return 3600 * self.gpu_hours * tflops * 10**12


EN_FR_TRAINING = Training(Decimal("3.5"), 8)
"""Tre giorni e mezzo su otto GPU."""


def fraction_of_cost(flops: Decimal, rival: Rival) -> Decimal:
    """Quanta parte del costo di un altro: sotto 1 si è speso meno, sopra 1 di più.

    Solleva:
        TypeError, ValueError: se il costo non è esatto e maggiore di zero.
        ValueError: se di quell'altro il costo non è stampato.
    """
    check_printed("flops", flops)
    if rival.flops is None:
        raise ValueError(f"rival: dato: {rival.model}, senza costo; atteso: un costo")
    return flops / rival.flops
