"""Sommario: le tesi stampate, contro la tabella 2 riscritta qui a mano; un BLEU fatto a matita."""

import contextlib
import io
import math
import re
from collections import Counter
from dataclasses import FrozenInstanceError, replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention.s0_abstract import (
    EN_DE,
    EN_FR,
    EN_FR_FIRST_PRINTED,
    EN_FR_TRAINING,
    PERFECT,
    Claim,
    Rival,
    Training,
    check_printed,
    fraction_of_cost,
    require,
)
from attention.s6_1_machine_translation import TABLE_2, TFLOPS, TRAININGS
from weave.house import ROOT
from weave.pact import blocks

# Tabella 2: BLEU in tedesco e in francese, costo in tedesco e in francese

SINGLE = {
    "ByteNet": ("23.75", None, None, None),
    "Deep-Att + PosUnk": (None, "39.2", None, "1.0e20"),
    "GNMT + RL": ("24.6", "39.92", "2.3e19", "1.4e20"),
    "ConvS2S": ("25.16", "40.46", "9.6e18", "1.5e20"),
    "MoE": ("26.03", "40.56", "2.0e19", "1.2e20"),
}
ENSEMBLE = {
    "Deep-Att + PosUnk Ensemble": (None, "40.4", None, "8.0e20"),
    "GNMT + RL Ensemble": ("26.30", "41.16", "1.8e20", "1.1e21"),
    "ConvS2S Ensemble": ("26.36", "41.29", "7.7e19", "1.2e21"),
}
BASE = (Decimal("27.3"), Decimal("38.1"), Decimal("3.3e18"))
BIG = (Decimal("28.4"), Decimal("41.8"), Decimal("2.3e19"))

K80 = Decimal("2.8")
K40 = Decimal("3.7")
P100 = Decimal("9.5")
"""Nota 5 di §6.1: TFLOP/s sostenuti in precisione semplice."""


def column(number: int) -> list[Rival]:
    """I concorrenti in una lingua: 0 il tedesco, 1 il francese."""
    return [
        Rival(
            model,
            Decimal(cells[number]),
            model in ENSEMBLE,
            None if cells[number + 2] is None else Decimal(cells[number + 2]),
        )
        for model, cells in (SINGLE | ENSEMBLE).items()
        if cells[number] is not None
    ]


GERMAN = column(0)
FRENCH = column(1)


# Le tesi


def test_claims_say_what_the_abstract_says():
    """Sommario ¶1: i voti, il distacco, contro chi, la durata, le schede."""
    assert (EN_DE.task, EN_FR.task) == ("inglese–tedesco", "inglese–francese")
    assert (str(EN_DE.bleu), EN_DE.more_than, EN_DE.ensembles_too) == ("28.4", 2, True)
    assert (str(EN_FR.bleu), EN_FR.more_than, EN_FR.ensembles_too) == ("41.8", 0, False)
    assert replace(EN_FR_FIRST_PRINTED, bleu=EN_FR.bleu) == EN_FR
    assert str(EN_FR_FIRST_PRINTED.bleu) == "41.0"
    assert (str(EN_FR_TRAINING.days), EN_FR_TRAINING.gpus) == ("3.5", 8)
    assert (EN_DE.bleu, EN_FR.bleu) == BIG[:2]


def test_german_result_beats_everyone_by_more_than_two():
    """Sommario ¶1: 28,4 − 26,36 = 2,04; contro i modelli singoli, 28,4 − 26,03 = 2,37."""
    assert EN_DE.best_rival(GERMAN).model == "ConvS2S Ensemble"
    assert EN_DE.margin(GERMAN) == Decimal("2.04")
    assert EN_DE.holds(GERMAN)
    alone = replace(EN_DE, ensembles_too=False)
    assert alone.best_rival(GERMAN).model == "MoE"
    assert alone.margin(GERMAN) == Decimal("2.37")


def test_french_result_is_the_best_single_model():
    """Sommario ¶1: 41,8 − 40,56 = 1,24; il primato c'era anche con 41,0, per 0,44."""
    assert EN_FR.best_rival(FRENCH).model == "MoE"
    assert EN_FR.margin(FRENCH) == Decimal("1.24")
    assert EN_FR_FIRST_PRINTED.margin(FRENCH) == Decimal("0.44")
    assert EN_FR.holds(FRENCH)
    assert EN_FR_FIRST_PRINTED.holds(FRENCH)


def test_only_the_later_french_number_beats_the_ensembles_too():
    """Sommario ¶1, fra le versioni: 41,29 sta fra 41,0 e 41,8."""
    now = replace(EN_FR, ensembles_too=True)
    then = replace(EN_FR_FIRST_PRINTED, ensembles_too=True)
    assert now.best_rival(FRENCH).model == "ConvS2S Ensemble"
    assert (now.margin(FRENCH), then.margin(FRENCH)) == (Decimal("0.51"), Decimal("-0.29"))
    assert now.holds(FRENCH)
    assert not then.holds(FRENCH)


def test_base_model_is_superior_in_german_only():
    """Sommario ¶1, «questi modelli»: in francese il base sta sotto ogni altra riga."""
    german = replace(EN_DE, bleu=BASE[0], more_than=Decimal(0))
    assert german.margin(GERMAN) == Decimal("0.94")
    assert german.holds(GERMAN)
    assert all(rival.bleu > BASE[1] for rival in FRENCH)
    assert len(FRENCH) == 7


BLEUS = st.decimals("0.01", "100", places=2)
RIVALS = st.lists(st.builds(Rival, st.just("x"), BLEUS, st.booleans(), st.none()), min_size=1)


@given(RIVALS, BLEUS, st.booleans(), st.randoms())
def test_only_the_best_admitted_rival_counts(rivals, bleu, ensembles_too, random):
    """Sommario ¶1: l'ordine non conta; chi è ammesso e batte tutti gli altri, sì."""
    claim = Claim("x", bleu, Decimal(0), ensembles_too)
    rivals.append(Rival("uno solo", Decimal("0.01"), False, None))
    best = max(it.bleu for it in rivals if ensembles_too or it.ensemble is False)
    assert claim.best_rival(rivals).bleu == best
    assert claim.margin(rivals) + best == bleu
    assert claim.holds(rivals) == (bleu > best)
    random.shuffle(rivals)
    assert claim.best_rival(rivals).bleu == best


def test_a_margin_equal_to_the_threshold_is_not_enough():
    """Sommario ¶1: «oltre 2» vuol dire più di 2."""
    just = [Rival("x", Decimal("26.4"), True, None)]
    assert EN_DE.margin(just) == 2
    assert not EN_DE.holds(just)
    assert EN_DE.holds([replace(just[0], bleu=Decimal("26.39"))])


# Il costo


def two_digits(value: Decimal) -> Decimal:
    """Come stampa la tabella 2: due cifre significative."""
    return Decimal(f"{value:.1e}")


def test_three_days_and_a_half_on_eight_gpus():
    """Sommario ¶1: 3,5 · 24 · 8 = 672 ore di GPU; per 9,5 TFLOP/s, 22 982 400 · 10¹² FLOP."""
    assert EN_FR_TRAINING.gpu_hours == 672
    assert EN_FR_TRAINING.flops(P100) == Decimal(22_982_400) * 10**12
    assert two_digits(EN_FR_TRAINING.flops(P100)) == BIG[2]


@pytest.mark.parametrize(
    ("days", "gpus", "tflops", "printed"),
    [
        ("0.5", 8, P100, BASE[2]),
        ("1", 96, K80, Decimal(SINGLE["GNMT + RL"][2])),
        ("6", 96, K80, Decimal(SINGLE["GNMT + RL"][3])),
        ("1", 64, K40, Decimal(SINGLE["MoE"][2])),
        ("6", 64, K40, Decimal(SINGLE["MoE"][3])),
    ],
)
def test_product_of_time_and_capacity_gives_the_printed_costs(days, gpus, tflops, printed):
    """Sommario ¶1: durate e schede di GNMT e MoE sono quelle dell'articolo di MoE."""
    assert two_digits(Training(Decimal(days), gpus).flops(tflops)) == printed


@pytest.mark.parametrize(
    ("single", "german", "french"),
    [("Deep-Att + PosUnk", False, True), ("GNMT + RL", True, True), ("ConvS2S", True, True)],
)
def test_printed_ensembles_cost_eight_times_a_single_model(single, german, french):
    """Sommario ¶1, «ensemble»: in tabella il costo è otto volte quello del modello singolo."""
    table = {result.model: result for result in TABLE_2}
    one, many = table[single], table[f"{single} Ensemble"]
    for cost, there in (("german_flops", german), ("french_flops", french)):
        alone, together = getattr(one, cost), getattr(many, cost)
        assert (alone is not None) == there == (together is not None)
        if there:
            assert two_digits(8 * alone) == together


def test_step_times_give_the_durations():
    """Sommario ¶1 con §5.2: 300 000 s sono 3,47 giorni; 40 000 s sono 11,1 ore, e non 12."""
    big, base = Decimal(300_000) / 86_400, Decimal("0.4") * 100_000 / 86_400
    assert round(big, 2) == Decimal("3.47")
    assert round(base * 24, 1) == Decimal("11.1")
    assert two_digits(Training(base, 8).flops(P100)) == Decimal("3.0e18") != BASE[2]
    assert two_digits(Training(Decimal("0.5"), 8).flops(P100)) == BASE[2]


def fractions(cost: Decimal, rivals: list[Rival]) -> dict[str, Decimal]:
    """La quota di ogni costo stampato, a due decimali."""
    return {it.model: round(fraction_of_cost(cost, it), 2) for it in rivals if it.flops is not None}


def test_small_fraction_is_true_of_every_french_rival():
    """Sommario ¶1: nel caso meno favorevole 0,23; gli ensemble costano decine di volte tanto."""
    found = fractions(BIG[2], FRENCH)
    assert found == {
        "Deep-Att + PosUnk": Decimal("0.23"),
        "GNMT + RL": Decimal("0.16"),
        "ConvS2S": Decimal("0.15"),
        "MoE": Decimal("0.19"),
        "Deep-Att + PosUnk Ensemble": Decimal("0.03"),
        "GNMT + RL Ensemble": Decimal("0.02"),
        "ConvS2S Ensemble": Decimal("0.02"),
    }
    assert max(found.values()) < Decimal("0.25")


def test_in_german_the_big_model_is_cheaper_than_ensembles_only():
    """Sommario ¶1, per il tedesco: il big costa quanto i singoli o più; il base, un terzo."""
    big, base = fractions(BIG[2], GERMAN), fractions(BASE[2], GERMAN)
    assert big == {
        "GNMT + RL": Decimal("1.00"),
        "ConvS2S": Decimal("2.40"),
        "MoE": Decimal("1.15"),
        "GNMT + RL Ensemble": Decimal("0.13"),
        "ConvS2S Ensemble": Decimal("0.30"),
    }
    assert max(base.items(), key=lambda it: it[1]) == ("ConvS2S", Decimal("0.34"))


def test_less_time_is_true_of_the_gpus_and_not_always_of_the_clock():
    """Sommario ¶1: GNMT in tedesco, un giorno su 96 K80: prima, ma con 2304 ore di GPU.

    ConvS2S in tedesco ne avrebbe chieste 444, meno del modello grande, se su una M40.
    """
    gnmt = Training(Decimal(1), 96)
    assert gnmt.days < EN_FR_TRAINING.days
    assert gnmt.gpu_hours == 2304 > EN_FR_TRAINING.gpu_hours
    assert two_digits(gnmt.flops(K80)) == two_digits(EN_FR_TRAINING.flops(P100))
    conv, card = TRAININGS["ConvS2S", "german"]
    assert conv.gpu_hours == 444 < EN_FR_TRAINING.gpu_hours
    assert two_digits(conv.flops(TFLOPS[card])) == two_digits(Decimal("9.6e18"))


def test_counted_multiplications_are_two_fifths_of_the_capacity():
    """Sommario ¶1, «Sulla GPU»: sei FLOP per peso e per token, strato per strato."""
    d, inner = 1024, 4096
    square, rectangle = d * d, d * inner
    matrices = [4 * square, 2 * rectangle] * 6 + [8 * square, 2 * rectangle] * 6 + [32_000 * d]
    counted = 6 * sum(matrices) * 25_000 * 300_000
    assert sum(matrices) == 75_497_472 + 133_431_296
    assert round(counted / EN_FR_TRAINING.flops(P100), 2) == Decimal("0.41")


# Un BLEU a matita


def grams(words: list[str], n: int) -> Counter:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def matches(translation: str, reference: str) -> list[tuple[int, int]]:
    """Per n da 1 a 4: quanti gruppi si trovano nel riferimento, e quanti sono."""
    ours, theirs = translation.split(), reference.split()
    return [
        (sum((grams(ours, n) & grams(theirs, n)).values()), len(ours) - n + 1) for n in range(1, 5)
    ]


def bleu(pairs: list[tuple[str, str]]) -> float:
    """Papineni e altri, 2002: i conteggi si sommano su tutte le frasi, poi si divide."""
    counted = [matches(*pair) for pair in pairs]
    product = 1.0
    for n in range(4):
        product *= sum(it[n][0] for it in counted) / sum(it[n][1] for it in counted)
    c, r = (sum(len(pair[side].split()) for pair in pairs) for side in (0, 1))
    return 100 * min(1.0, math.exp(1 - r / c)) * product**0.25


CAT = ("il gatto dorme sul tappeto rosso", "il gatto dorme sul divano rosso")
DOOR = ("la porta era aperta tutta la notte", "la porta era rimasta aperta tutta la notte")


def test_bleu_of_two_sentences_by_hand():
    """Sommario ¶1: i numeri di «A matita», uno per uno."""
    assert matches(*CAT) == [(5, 6), (3, 5), (2, 4), (1, 3)]
    assert matches(*DOOR) == [(7, 7), (5, 6), (3, 5), (1, 4)]
    found = [Fraction(*it) for it in matches(*CAT)]
    assert math.prod(found) == Fraction(1, 12)
    assert round((1 / 12) ** 0.25, 3) == 0.537
    assert bleu([CAT]) == pytest.approx(100 * (1 / 12) ** 0.25)
    assert bleu([DOOR]) == pytest.approx(100 * math.exp(-1 / 7) * (1 / 8) ** 0.25)
    assert (round(math.exp(-1 / 7), 3), round(math.exp(-1 / 13), 3)) == (0.867, 0.926)
    together = 12 / 13 * 8 / 11 * 5 / 9 * 2 / 7
    assert bleu([CAT, DOOR]) == pytest.approx(100 * math.exp(-1 / 13) * together**0.25)
    shown = [bleu([CAT]), bleu([DOOR]), bleu([CAT, DOOR]), (bleu([CAT]) + bleu([DOOR])) / 2]
    assert [round(it, 1) for it in shown] == [53.7, 51.5, 52.9, 52.6]
    assert bleu([(CAT[1], CAT[1])]) == PERFECT


def test_bleu_counts_a_repeated_word_no_more_than_the_reference():
    """Sommario ¶1: ripetere «la» cinque volte ne vale due, quante ce ne sono."""
    assert matches("la la la la la", DOOR[1])[0] == (2, 5)


# La pagina, il disegno, la bibliografia


def text_of(name: str) -> str:
    return (ROOT / "paper_it" / name).read_text(encoding="utf-8")


def test_table_on_the_page_is_table_2():
    """Il primo blocco eseguito porta le stesse righe, e dà le stesse risposte."""
    (code,) = [it.content for it in blocks(text_of("s0_abstract.md")) if "TABLE_2 =" in it.content]
    names: dict = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    assert names["GERMAN"] == GERMAN
    assert names["FRENCH"] == FRENCH
    assert re.findall(r": ([+-]\d\.\d\d)$", printed.getvalue(), flags=re.MULTILINE) == (
        ["+2.37", "+2.04", "+1.24", "+0.51", "+0.44", "-0.29"]
    )
    assert printed.getvalue().count("tiene: True") == 3


def test_figure_plots_table_2():
    """Ogni punto del disegno sta dove dicono costo (in scala logaritmica) e BLEU."""
    points = [(it.flops, it.bleu, 34, 29.0) for it in GERMAN if it.flops is not None]
    points += [(it.flops, it.bleu, 312, 42.5) for it in FRENCH if it.flops is not None]
    for german, french, cost in (BASE, BIG):
        points += [(cost, german, 34, 29.0), (cost, french, 312, 42.5)]
    expected = [
        (40 + (math.log10(cost) - 18.25) * 310 / 3, top + (highest - float(score)) * 40)
        for cost, score, top, highest in points
    ]
    found = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', text_of("figure/s0_claims.svg"))
    drawn = [(float(x), float(y)) for x, y in found]
    assert len(drawn) == 16
    for ours, theirs in zip(sorted(drawn), sorted(expected), strict=True):
        assert ours == pytest.approx(theirs, abs=0.06)


def bibliography() -> list[list[str]]:
    """Le righe della tabella: numero, opera, numero negli atti, perché, dove."""
    rows = re.findall(r"^\| (\[\d+\]\(#bib.+)\|$", text_of("bibliografia.md"), flags=re.MULTILINE)
    return [[cell.strip() for cell in row.split(" | ")] for row in rows]


def test_bibliography_has_forty_works_in_order():
    """Le 40 voci della v7, ciascuna con la sua àncora e con almeno un luogo in cui è citata."""
    rows = bibliography()
    assert [row[0] for row in rows] == [f"[{n}](#bib-{n}){{ #bib-{n} }}" for n in range(1, 41)]
    assert all(len(row) == 5 for row in rows)
    assert all(re.search(r"§\d|tabella", row[4]) for row in rows)


def test_bibliography_says_where_each_work_is_cited():
    """La colonna *Dove* ha i capoversi delle pagine che citano la voce, tutti e soli."""
    cited = {n: set() for n in range(1, 41)}
    for page in sorted((ROOT / "paper_it").glob("s*.md")):
        for line in page.read_text(encoding="utf-8").splitlines():
            anchor = re.match(r"> .*?\]\(#(p-[^)]+)\)\{[^}]*\}(.*)", line)
            for numbers in re.findall(r"\[(\d[\d, ]*)\]", anchor[2] if anchor else ""):
                for n in map(int, numbers.split(",")):
                    cited[n].add(f"{page.name}#{anchor[1]}")
    assert cited == {
        n: set(re.findall(r"\]\(([^)]+)\)", row[4]))
        for n, row in zip(cited, bibliography(), strict=True)
    }


def test_works_missing_at_nips_are_those_of_the_parsing_section():
    """Gli atti ne hanno 32: le otto che mancano sono citate solo in §6.3 e nella tabella 4."""
    rows = bibliography()
    present = [int(row[2]) for row in rows if row[2] != "–"]
    assert sorted(present) == list(range(1, 33))
    missing = {int(re.findall(r"\d+", row[0])[0]) for row in rows if row[2] == "–"}
    assert missing == {8, 14, 23, 25, 26, 29, 37, 40}
    for row in rows:
        only_parsing = not re.search(r"§(?!6\.3)|tabella\s[123]", row[4])
        assert only_parsing == (row[2] == "–"), row[0]


# Gli errori


def test_an_error_names_argument_given_and_expected():
    """Ogni errore dell'edizione ha la stessa forma, e il tipo che gli si chiede."""
    with pytest.raises(ValueError, match=r"^n: dato: 3; atteso: almeno 5$"):
        require(False, "n", 3, "almeno 5")
    with pytest.raises(TypeError, match=r"^n: dato: tre; atteso: un numero$"):
        require(False, "n", "tre", "un numero", TypeError)
    with pytest.raises(ValueError, match=r"^x: dato: \[2, 3\]; atteso: una riga$"):
        require(False, "x", (2, 3), "una riga")
    require(True, "n", 3, "almeno 1")


def test_what_is_printed_cannot_be_changed():
    """Una tesi stampata non si corregge: se ne scrive un'altra, con `replace`."""
    for printed, name in ((GERMAN[0], "bleu"), (EN_DE, "bleu"), (EN_FR_TRAINING, "days")):
        with pytest.raises(FrozenInstanceError):
            setattr(printed, name, Decimal(1))


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Rival("x", Decimal(284), False, None), "bleu: dato: 284; atteso: al più 100"),
        (lambda: Rival("x", Decimal(0), False, None), "bleu: dato: 0; atteso: maggiore di 0"),
        (
            lambda: Rival("x", Decimal(1), False, Decimal(0)),
            "flops: dato: 0; atteso: maggiore di 0",
        ),
        (lambda: replace(EN_DE, bleu=Decimal("100.1")), "bleu: dato: 100.1; atteso: al più 100"),
        (lambda: replace(EN_DE, bleu=Decimal(-1)), "bleu: dato: -1; atteso: maggiore di 0"),
        (lambda: Training(Decimal(0), 8), "days: dato: 0; atteso: maggiore di 0"),
        (lambda: Training(Decimal(1), 0), "gpus: dato: 0; atteso: maggiore di 0"),
        (lambda: EN_FR_TRAINING.flops(Decimal(0)), "tflops: dato: 0; atteso: maggiore di 0"),
        (lambda: fraction_of_cost(Decimal(0), GERMAN[1]), "flops: dato: 0; atteso: maggiore di 0"),
    ],
)
def test_numbers_that_cannot_be_printed_are_refused(build, message):
    """Zero, un numero negativo, un voto sopra 100: l'errore dice quale argomento."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        build()


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize(
    ("build", "argument"),
    [
        (lambda: Rival("x", 28.5, False, None), "bleu"),
        (lambda: Rival("x", Decimal(28), False, 28.5), "flops"),
        (lambda: replace(EN_DE, bleu=28.5), "bleu"),
        (lambda: Training(28.5, 8), "days"),
        (lambda: Training(Decimal(1), 28.5), "gpus"),
        (lambda: EN_FR_TRAINING.flops(28.5), "tflops"),
        (lambda: fraction_of_cost(28.5, GERMAN[1]), "flops"),
    ],
)
def test_binary_floating_point_is_refused(build, argument):
    """In virgola mobile le cifre stampate si perdono: si chiede un Decimal."""
    message = f"^{argument}: dato: 28.5; atteso: un Decimal o un intero$"
    with pytest.raises(TypeError, match=message):
        build()


def test_limits_are_included():
    """100 è un BLEU possibile; senza un massimo dichiarato ogni numero positivo va bene."""
    assert PERFECT == 100
    assert Rival("x", Decimal(100), False, None).bleu == PERFECT
    assert replace(EN_DE, bleu=Decimal(100)).bleu == PERFECT
    check_printed("flops", Decimal("1e-30"))
    check_printed("flops", Decimal("1e30"))
    check_printed("gpus", 1)


@pytest.mark.parametrize("rivals", [[], [Rival("x", Decimal(30), True, None)]])
def test_a_claim_needs_someone_to_beat(rivals):
    """Un primato fra modelli singoli non si prova contro i soli ensemble, né contro nessuno."""
    message = "^rivals: dato: nessuno da confrontare; atteso: almeno uno$"
    for judge in (EN_FR.best_rival, EN_FR.margin, EN_FR.holds):
        with pytest.raises(ValueError, match=message):
            judge(rivals)


def test_a_cost_that_is_not_printed_cannot_be_compared():
    """ByteNet non ha un costo in tabella: la quota non esiste."""
    message = "^rival: dato: ByteNet, senza costo; atteso: un costo$"
    with pytest.raises(ValueError, match=message):
        fraction_of_cost(BIG[2], GERMAN[0])
