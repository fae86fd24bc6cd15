"""§6.2: la tabella 3 riscritta a mano, i conti dei parametri contro modelli veri, le tesi."""

import ctypes
import math
import re
from dataclasses import FrozenInstanceError, replace
from decimal import Decimal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from attention import BASE, BIG, MultiHeadAttention, Transformer, TransformerConfig
from attention.s6_2_model_variations import (
    BASE_ROW,
    BIG_ROW,
    CONVENTIONS,
    OUTCOMES,
    PAPER,
    POSITIONS,
    RELEASED,
    ROUNDED,
    TABLE_3,
    Convention,
    Row,
    attention_parameters,
    attention_work,
    complete,
    configuration,
    family,
    feed_forward_parameters,
    millions,
    nats,
    parameter_count,
    per_word,
    projection_widths,
    row,
    setbacks,
    vocabularies,
)
from weave.house import ROOT

PRINTED = """
base 6 512  2048 8  64  64  0.1 0.1 100K 4.92 25.8 65
A    . .    .    1  512 512 .   .   .    5.29 24.9 .
A    . .    .    4  128 128 .   .   .    5.00 25.5 .
A    . .    .    16 32  32  .   .   .    4.91 25.8 .
A    . .    .    32 16  16  .   .   .    5.01 25.4 .
B    . .    .    .  16  .   .   .   .    5.16 25.1 58
B    . .    .    .  32  .   .   .   .    5.01 25.4 60
C    2 .    .    .  .   .   .   .   .    6.11 23.7 36
C    4 .    .    .  .   .   .   .   .    5.19 25.3 50
C    8 .    .    .  .   .   .   .   .    4.88 25.5 80
C    . 256  .    .  32  32  .   .   .    5.75 24.5 28
C    . 1024 .    .  128 128 .   .   .    4.66 26.0 168
C    . .    1024 .  .   .   .   .   .    5.12 25.4 53
C    . .    4096 .  .   .   .   .   .    4.75 26.2 90
D    . .    .    .  .   .   0.0 .   .    5.77 24.6 .
D    . .    .    .  .   .   0.2 .   .    4.95 25.5 .
D    . .    .    .  .   .   .   0.0 .    4.67 25.3 .
D    . .    .    .  .   .   .   0.2 .    5.47 25.7 .
E    . .    .    .  .   .   .   .   .    4.92 25.7 .
big  6 1024 4096 16 .   .   0.3 .   300K 4.33 26.4 213
"""
"""La tabella 3, ricopiata casella per casella; un punto dove è in bianco."""

COLUMNS = ("layers", "d_model", "d_ff", "heads", "d_k", "d_v", "dropout", "smoothing", "steps")

AUDIT = """
base           63045632  65073152  65126400
d_k = 16       55967744  57995264  58034688
d_k = 32       58327040  60354560  60398592
N = 2          33644544  35672064  35700736
N = 4          48345088  50372608  50413568
N = 8          77746176  79773696  79839232
d_model = 256  26816512  27830272  27856896
d_model = 1024 163815424 167870464 167976960
d_ff = 1024    50450432  52477952  52531200
d_ff = 4096    88236032  90263552  90316800
big            214171648 218226688 218333184
"""
"""I conti fatti a parte, dalla formula: articolo, 40 960 voci, codice."""

every_row = pytest.mark.parametrize("variant", TABLE_3, ids=lambda it: it.name)
every_convention = pytest.mark.parametrize("convention", CONVENTIONS, ids=lambda it: it.name)


def cells(text: str) -> list[list[str]]:
    """Una tabella scritta a spazi, riga per riga."""
    return [line.split() for line in text.strip().splitlines()]


def audit() -> dict[str, list[int]]:
    """I conti di `AUDIT`, per nome di riga."""
    found = {}
    for line in AUDIT.strip().splitlines():
        *name, first, second, third = line.split()
        found[" ".join(name)] = [int(first), int(second), int(third)]
    return found


def on_meta(config: TransformerConfig) -> Transformer:
    """Un modello vero, con le forme e senza i numeri."""
    with torch.device("meta"):
        return Transformer(config)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# La tabella


def test_table_3_is_the_one_of_the_paper():
    """Ogni casella è quella stampata, e dove la tabella è in bianco non c'è nulla."""
    assert len(TABLE_3) == len(cells(PRINTED)) == 20
    for ours, (group, *values, perplexity, bleu, count) in zip(
        TABLE_3, cells(PRINTED), strict=True
    ):
        assert ours.group == group
        assert (str(ours.perplexity), str(ours.bleu)) == (perplexity, bleu)
        assert ours.millions == (None if count == "." else int(count))
        for name, value in zip(COLUMNS, values, strict=True):
            given = getattr(ours, name)
            assert str(given) == value.replace("K", "000").replace(".", "None", value == "."), name
        assert ours.learned_positions == (group == "E")


def test_only_the_base_row_has_no_blank_cell():
    """«I valori non elencati sono quelli del modello base»: la riga base li elenca tutti."""
    blank = {it.name: [name for name in COLUMNS if getattr(it, name) is None] for it in TABLE_3}
    assert [name for name, found in blank.items() if not found] == ["base"]


def test_blank_cells_take_the_value_of_the_base():
    """Le caselle piene restano; le vuote diventano quelle del base; i milioni no."""
    for ours in TABLE_3:
        full = complete(ours)
        for name in COLUMNS:
            given = getattr(ours, name)
            assert getattr(full, name) == (getattr(BASE_ROW, name) if given is None else given)
        kept = ("group", "name", "perplexity", "bleu", "millions", "learned_positions")
        assert all(getattr(full, name) == getattr(ours, name) for name in kept)
    assert complete(row("h = 1")).millions is None
    assert complete(BASE_ROW) == BASE_ROW


def test_every_row_has_its_name():
    """Un nome per riga, e con quello la si ritrova."""
    assert len({it.name for it in TABLE_3}) == 20
    assert all(row(it.name) is it for it in TABLE_3)
    assert (row("base"), row("big")) == (BASE_ROW, BIG_ROW)
    for ours in TABLE_3:
        sign = {"h": "heads", "N": "layers", "P_drop": "dropout", "ε_ls": "smoothing"}
        name, _, value = ours.name.partition(" = ")
        if value:
            assert str(getattr(ours, sign.get(name, name))) == value


def test_table_on_the_page_is_table_3():
    """La tabella che si legge sulla pagina ha gli stessi numeri, casella per casella."""
    page = (ROOT / "paper_it/s6_2_model_variations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (?:\([A-E]\)|base|big)[^|]*\|.+\|$", page, flags=re.MULTILINE)
    shown = [[cell.strip(" *()").replace(",", ".") for cell in it[1:-1].split("|")] for it in rows]
    expected = [
        ["" if cell == "." else cell.replace("K", "\u202f000") for cell in line]
        for line in cells(PRINTED)
    ]
    expected[18][0] = "E) embedding posizionali invece delle sinusoidi"
    assert shown == expected


# Le configurazioni


@every_row
def test_every_row_is_a_configuration(variant):
    """Le misure della riga, completate, e nient'altro di diverso dal base."""
    full, config = complete(variant), configuration(variant)
    for name in COLUMNS[:6]:
        assert getattr(config, name) == getattr(full, name)
    assert config.dropout == float(full.dropout)
    same = replace(config, **dict.fromkeys(("d_k", "d_v", "learned_positions")), dropout=0.1)
    sizes = {name: getattr(full, name) for name in COLUMNS[:4]}
    assert same == TransformerConfig(**sizes)
    assert config.learned_positions == (POSITIONS if variant.group == "E" else None)


def test_base_and_big_are_the_models_of_section_3():
    """Le due righe con un nome sono le configurazioni con lo stesso nome."""
    assert replace(configuration(BASE_ROW), d_k=None, d_v=None) == BASE
    assert replace(configuration(BIG_ROW), d_k=None, d_v=None) == BIG
    assert parameter_count(BASE) == parameter_count(configuration(BASE_ROW))
    assert parameter_count(BIG) == parameter_count(configuration(BIG_ROW))


def test_a_configuration_takes_vocabulary_and_biases():
    """Ciò che l'articolo non dice è un argomento, e senza dirlo vale come nel base."""
    config = configuration(row("d_k = 16"), vocabulary=97, bias=True)
    assert (config.vocabulary, config.bias) == (97, True)
    plain = configuration(row("d_k = 16"))
    assert (plain.vocabulary, plain.bias) == (37_000, False)


def test_positions_of_row_e_are_256_and_do_not_show():
    """Quante siano l'articolo non lo dice; con 256 il conto cresce di 2 · 256 · 512."""
    assert POSITIONS == 256
    extra = PAPER.count(row("posizioni apprese")) - PAPER.count(BASE_ROW)
    assert extra == 262_144
    assert millions(RELEASED.count(row("posizioni apprese"))) == 65


# I parametri


@every_convention
@every_row
def test_formula_counts_what_a_real_model_has(variant, convention):
    """Il modello costruito, parametro per parametro, e le righe del compito in più."""
    config = configuration(variant, convention.vocabulary, convention.bias)
    built = count(on_meta(config))
    assert parameter_count(config) == built
    task = nn.Embedding(max(convention.task_rows, 1), config.d_model, device="meta")
    assert convention.count(variant) == built + bool(convention.task_rows) * count(task)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("positions", [None, 7])
def test_formula_counts_models_of_coprime_sizes(bias, positions):
    """Con misure tutte diverse, nessun termine si può scambiare con un altro."""
    config = TransformerConfig(
        layers=3,
        d_model=26,
        d_ff=17,
        heads=5,
        d_k=7,
        d_v=11,
        vocabulary=97,
        learned_positions=positions,
        bias=bias,
    )
    model = on_meta(config)
    assert parameter_count(config) == count(model)
    assert attention_parameters(config) == count(model.encoder.layers[0].self_attention)
    assert feed_forward_parameters(config) == count(model.decoder.layers[0].feed_forward)
    assert projection_widths(config) == (35, 55)
    assert projection_widths(replace(BASE, heads=16, d_v=3)) == (512, 48)
    assert projection_widths(replace(BASE, heads=16, d_k=3)) == (48, 512)


def test_parameters_of_the_base_by_hand():
    """Uno strato dell'encoder, uno del decoder, le pile, la tabella: a mano."""
    attention = 4 * 512 * 512
    network = 512 * 2048 + 2048 + 2048 * 512 + 512
    encoder = attention + network + 2 * (512 + 512)
    decoder = 2 * attention + network + 3 * (512 + 512)
    assert (encoder, decoder) == (3_150_336, 4_199_936)
    assert 6 * (encoder + decoder) == 44_101_632
    assert parameter_count(BASE) == 44_101_632 + 37_000 * 512 == 63_045_632


def test_a_small_model_by_hand():
    """Il caso a matita della pagina: 358 parametri, 412 con i termini costanti."""
    config = TransformerConfig(
        layers=1, d_model=4, d_ff=5, heads=2, d_k=3, d_v=1, vocabulary=7, end_id=2
    )
    attention, network, norm = 24 + 24 + 8 + 8, 20 + 5 + 20 + 4, 4 + 4
    encoder, decoder = attention + network + 2 * norm, 2 * attention + network + 3 * norm
    assert (attention, network, norm, encoder, decoder) == (64, 49, 8, 129, 201)
    assert parameter_count(config) == 129 + 201 + 7 * 4 == 358
    assert count(on_meta(config)) == 358
    constants = 6 + 6 + 2 + 4
    with_bias = replace(config, bias=True)
    assert attention_parameters(with_bias) == 64 + constants == 82
    assert parameter_count(with_bias) == 358 + 3 * constants == 412


@pytest.mark.parametrize(("name", "expected"), audit().items())
def test_counts_are_those_of_the_audit(name, expected):
    """Fino all'unità, per i tre modi di contare."""
    assert [convention.count(row(name)) for convention in CONVENTIONS] == expected


def test_the_three_conventions_differ_by_what_they_say():
    """Vocabolario, termini costanti, righe del compito: ciascuno porta la sua parte."""
    base = [convention.count(BASE_ROW) for convention in CONVENTIONS]
    assert base[1] - base[0] == (40_960 - 37_000) * 512
    assert 40_960 == 40 * 1024
    biases = 18 * (512 + 512 + 512 + 512)
    assert base[2] - base[1] == biases + 32 * 512 == 53_248
    assert [it.vocabulary for it in CONVENTIONS] == [37_000, 40_960, 40_960]
    assert [it.bias for it in CONVENTIONS] == [False, False, True]
    assert [it.task_rows for it in CONVENTIONS] == [0, 0, 32]
    assert len({it.name for it in CONVENTIONS}) == 3
    assert (PAPER, ROUNDED, RELEASED) == CONVENTIONS


# Quali conti tornano


def test_outcomes_cover_the_rows_with_a_printed_count():
    """Undici righe stampano i milioni; per ognuna c'è l'esito atteso."""
    assert list(OUTCOMES) == [it.name for it in TABLE_3 if it.millions is not None]
    assert len(OUTCOMES) == 11
    with pytest.raises(TypeError):
        OUTCOMES["base"] = (True, True, True)


@pytest.mark.parametrize("name", OUTCOMES)
def test_every_row_agrees_exactly_where_the_table_of_outcomes_says(name):
    """L'esito calcolato è quello dichiarato, anche dove è un no."""
    found = tuple(convention.agrees(row(name)) for convention in CONVENTIONS)
    assert found == OUTCOMES[name]
    rounded = tuple(round(n / 1e6) == row(name).millions for n in audit()[name])
    assert rounded == found


def test_with_the_vocabulary_of_the_paper_no_row_agrees():
    """Con 37 000 voci il base e i suoi stanno da uno a quattro milioni sotto, il big uno sopra."""
    off = {name: row(name).millions - millions(n) for name, (n, _, _) in audit().items()}
    assert not any(PAPER.agrees(row(name)) for name in OUTCOMES)
    assert {name: gap for name, gap in off.items() if name == "big"} == {"big": -1}
    assert {gap for name, gap in off.items() if name != "big"} == {1, 2, 3, 4}


def test_released_code_matches_every_count_but_the_big_one():
    """Dieci su dieci con il codice; il big con nessuno."""
    matched = [name for name in OUTCOMES if RELEASED.agrees(row(name))]
    assert matched == [name for name in OUTCOMES if name != "big"]
    assert not any(convention.agrees(BIG_ROW) for convention in CONVENTIONS)


def test_inner_width_1024_needs_the_biases_of_the_attention():
    """53 milioni escono solo con i termini costanti: senza, 52,48; il compito non basta."""
    inner = row("d_ff = 1024")
    assert millions(ROUNDED.count(inner)) == 52
    assert not replace(ROUNDED, task_rows=32).agrees(inner)
    assert replace(RELEASED, task_rows=0).agrees(inner)


def test_no_vocabulary_agrees_with_every_row():
    """Le dieci righe chiedono circa 41 000 voci, il big circa 36 000: intervalli esatti."""
    for convention, others, big in (
        (PAPER, range(41_004, 41_209), range(35_368, 36_345)),
        (RELEASED, range(40_900, 41_129), range(35_264, 36_241)),
    ):
        found = {name: vocabularies(row(name), convention) for name in OUTCOMES}
        assert found.pop("big") == big
        start, stop = max(it.start for it in found.values()), min(it.stop for it in found.values())
        assert range(start, stop) == others
        assert big.stop <= start
    assert 40_960 in vocabularies(row("d_ff = 1024"), RELEASED)
    assert 40_960 not in vocabularies(row("d_ff = 1024"), ROUNDED)


@every_convention
@pytest.mark.parametrize("name", OUTCOMES)
def test_vocabularies_are_exactly_those_that_agree(name, convention):
    """Il primo e l'ultimo tornano, quello prima e quello dopo no."""
    found = vocabularies(row(name), convention)
    for size, agrees in (
        (found.start - 1, False),
        (found.start, True),
        (found.stop - 1, True),
        (found.stop, False),
    ):
        assert replace(convention, vocabulary=size).agrees(row(name)) == agrees


def test_separate_tables_are_ruled_out():
    """Con due tabelle il base avrebbe 82 milioni, con tre 101: la tabella è una."""
    table = 37_000 * 512
    assert [millions(parameter_count(BASE) + n * table) for n in (0, 1, 2)] == [63, 82, 101]


def test_easy_guesses_do_not_bring_the_big_model_to_213():
    """Più tabelle, due norme in più, value larghi come le key: da 214 non si scende."""
    count, config = PAPER.count(BIG_ROW), configuration(BIG_ROW)
    assert min(convention.count(BIG_ROW) for convention in CONVENTIONS) == count
    table = 37_000 * config.d_model
    assert [millions(count + n * table) for n in (0, 1, 2)] == [214, 252, 290]
    assert millions(count + 2 * 2 * config.d_model) == 214
    assert 2 * 2 * config.d_model == 4096
    assert PAPER.count(replace(BIG_ROW, d_v=config.d_k)) == count


def test_two_more_norms_would_not_show():
    """Le due normalizzazioni finali del pre-norm, 2048 parametri, non cambiano nessun milione."""
    for name, outcome in OUTCOMES.items():
        extra = 2 * 2 * configuration(row(name)).d_model
        assert (millions(RELEASED.count(row(name)) + extra) == row(name).millions) == outcome[2]
    assert 2 * 2 * 512 == 2048


def test_big_model_is_nearest_with_the_vocabulary_of_the_data():
    """Con 36 546 voci, che una fonte terza conta nei dati, 213,7: 213 solo troncando."""
    assert Convention("dati", 36_546, False, 0).count(BIG_ROW) == 213_706_752
    assert not Convention("dati", 36_546, False, 0).agrees(BIG_ROW)


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, 0), (499_999, 0), (500_000, 1), (1_499_999, 1), (1_500_000, 2), (65_126_400, 65)],
)
def test_millions_are_rounded_to_the_nearest(count, expected):
    """Il mezzo milione va in su."""
    assert millions(count) == expected


def test_rows_without_a_printed_count_do_not_agree():
    """Le righe A, D, E non stampano i milioni: non c'è con che cosa andare d'accordo."""
    silent = [it for it in TABLE_3 if it.millions is None]
    assert {it.group for it in silent} == {"A", "D", "E"}
    assert not any(RELEASED.agrees(it) for it in silent)
    for it in silent:
        message = f"^variant: dato: {it.name}, senza milioni; atteso: una riga che li ha$"
        with pytest.raises(ValueError, match=message):
            vocabularies(it, PAPER)


# Le righe (A): lo stesso calcolo


@every_convention
def test_rows_a_keep_width_and_parameters(convention):
    """h · d_k = h · d_v = 512 in tutte, perciò i parametri sono gli stessi, fino all'unità."""
    heads = family("A", "heads")
    assert [it.heads for it in heads] == [1, 4, 8, 16, 32]
    for it in heads:
        assert it.heads * it.d_k == it.heads * it.d_v == 512
        assert projection_widths(configuration(it)) == (512, 512)
        assert convention.count(it) == convention.count(BASE_ROW)


def test_rows_a_do_the_same_multiplications_and_more_exponentials():
    """Con n = 50, 54 988 800 moltiplicazioni con qualunque h; gli esponenziali sono h · n²."""
    for it in family("A", "heads"):
        config = configuration(it)
        assert attention_work(config, 50) == (54_988_800, it.heads * 2500)
        attention = MultiHeadAttention(512, config.heads, config.d_k, config.d_v, bias=False)
        x = torch.randn(1, 50, 512)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            attention.forward_by_head(x, x, x)
        assert counter.get_total_flops() == 2 * 54_988_800


@given(
    n=st.integers(1, 40),
    d_model=st.integers(1, 40),
    heads=st.integers(1, 9),
    d_k=st.integers(1, 20),
    d_v=st.integers(1, 20),
)
def test_attention_work_counts_projections_scores_and_sums(n, d_model, heads, d_k, d_v):
    """Quattro proiezioni, punteggi, somma pesata: contate una per una."""
    config = TransformerConfig(d_model=2 * d_model, heads=heads, d_k=d_k, d_v=d_v)
    d = 2 * d_model
    query = key = n * d * heads * d_k
    value = output = n * d * heads * d_v
    scores, sums = heads * n * n * d_k, heads * n * n * d_v
    work = query + key + value + output + scores + sums
    assert attention_work(config, n) == (work, heads * n * n)


# Le righe (B): i value restano larghi 64


def test_rows_b_narrow_the_keys_only():
    """Con i value larghi 64 i milioni tornano; restringendo anche quelli, no."""
    for it in TABLE_3:
        if it.group == "B":
            assert (configuration(it).d_v, it.d_v) == (64, None)
            assert RELEASED.agrees(it)
            narrow = replace(it, d_v=it.d_k)
            assert not any(convention.agrees(narrow) for convention in CONVENTIONS)
    both = [RELEASED.count(replace(row(f"d_k = {k}"), d_v=k)) for k in (16, 32)]
    assert [millions(n) for n in both] == [51, 56]


# Le tesi di ¶2 e ¶3


def scores(rows: list[Row]) -> list[str]:
    return [str(it.bleu) for it in rows]


def test_one_head_is_nine_tenths_below_the_best_and_too_many_are_worse_too():
    """25,8 − 24,9 = 0,9; con 32 teste 25,4, di nuovo sotto."""
    heads = family("A", "heads")
    assert scores(heads) == ["24.9", "25.5", "25.8", "25.8", "25.4"]
    best = max(it.bleu for it in heads)
    assert best - heads[0].bleu == Decimal("0.9")
    assert heads[-1].bleu < best


def test_the_table_does_not_say_that_eight_heads_are_best():
    """16 teste hanno lo stesso BLEU e una perplessità minore di un centesimo."""
    sixteen = row("h = 16")
    assert sixteen.bleu == BASE_ROW.bleu
    assert BASE_ROW.perplexity - sixteen.perplexity == Decimal("0.01")


def test_smaller_keys_are_worse_in_both_measures():
    """16, 32, 64: il BLEU sale e la perplessità scende."""
    keys = family("B", "d_k")
    assert [it.d_k for it in keys] == [16, 32, 64]
    assert setbacks(keys) == []
    assert scores(keys) == ["25.1", "25.4", "25.8"]


def test_bigger_is_better_except_for_eight_layers():
    """Ogni passo in su migliora le due misure, tranne da 6 a 8 strati: 25,5 contro 25,8."""
    assert setbacks(family("C", "layers")) == [("base", "N = 8", "BLEU")]
    assert setbacks(family("C", "d_model")) == []
    assert setbacks(family("C", "d_ff")) == []
    eight = row("N = 8")
    assert eight.perplexity < BASE_ROW.perplexity
    assert eight.bleu < BASE_ROW.bleu
    assert [it.layers for it in family("C", "layers")] == [2, 4, 6, 8]
    assert [it.d_model for it in family("C", "d_model")] == [256, 512, 1024]
    assert [it.d_ff for it in family("C", "d_ff")] == [1024, 2048, 4096]


def test_setbacks_name_the_measure_that_gets_worse():
    """Le due misure si guardano separatamente, e un pareggio non è un peggioramento."""
    low = replace(BASE_ROW, name="x", bleu=Decimal(20), perplexity=Decimal(5))
    high = replace(low, name="y", bleu=Decimal(19), perplexity=Decimal(6))
    assert setbacks([low, high]) == [("x", "y", "BLEU"), ("x", "y", "perplessità")]
    assert setbacks([high, low]) == []
    assert setbacks([low, replace(low, name="z")]) == []
    assert setbacks([low, replace(low, name="z", perplexity=Decimal(6))]) == [
        ("x", "z", "perplessità")
    ]


def test_without_dropout_only_two_rows_lose_more():
    """Senza dropout 1,2 BLEU in meno: nella tabella perdono di più N = 2 e d_model = 256 soltanto.

    Anche 0,2 ne toglie, 0,3: il valore di mezzo è il migliore dei tre.
    """
    losses = {it.name: BASE_ROW.bleu - it.bleu for it in TABLE_3}
    assert losses["P_drop = 0.0"] == Decimal("1.2")
    worst = sorted(losses, key=lambda name: -losses[name])[:4]
    assert worst == ["N = 2", "d_model = 256", "P_drop = 0.0", "h = 1"]
    assert losses["h = 1"] < losses["P_drop = 0.0"] < losses["d_model = 256"]
    dropout = family("D", "dropout")
    assert [str(it.dropout) for it in dropout] == ["0.0", "0.1", "0.2"]
    assert scores(dropout) == ["24.6", "25.8", "25.5"]
    assert [str(it.perplexity) for it in dropout] == ["5.77", "4.92", "4.95"]


def test_smoothing_hurts_perplexity_and_helps_the_score_up_to_a_point():
    """La perplessità sale sempre con ε_ls; il BLEU sale da 0 a 0,1 e poi scende di un decimo."""
    smoothing = family("D", "smoothing")
    assert [str(it.smoothing) for it in smoothing] == ["0.0", "0.1", "0.2"]
    assert [str(it.perplexity) for it in smoothing] == ["4.67", "4.92", "5.47"]
    assert scores(smoothing) == ["25.3", "25.8", "25.7"]


def test_learned_positions_are_nearly_the_same():
    """Stessa perplessità, un decimo di BLEU in meno."""
    learned = row("posizioni apprese")
    assert learned.perplexity == BASE_ROW.perplexity
    assert BASE_ROW.bleu - learned.bleu == Decimal("0.1")


def test_big_is_the_best_row_and_changes_five_things():
    """Il primo in tutte e due le misure; ma rispetto al base cambiano cinque caselle."""
    others = [it for it in TABLE_3 if it is not BIG_ROW]
    assert all(it.bleu < BIG_ROW.bleu and it.perplexity > BIG_ROW.perplexity for it in others)
    changed = [
        name for name in COLUMNS if getattr(complete(BIG_ROW), name) != getattr(BASE_ROW, name)
    ]
    assert changed == ["d_model", "d_ff", "heads", "dropout", "steps"]
    assert BIG_ROW.steps == 3 * BASE_ROW.steps


def test_the_best_of_these_scores_is_below_the_one_of_table_2():
    """26,4 qui, 28,4 là; 25,8 qui, 27,3 là: altre frasi, e qui nessuna media dei checkpoint."""
    assert max(it.bleu for it in TABLE_3) == Decimal("26.4") < Decimal("28.4")
    assert BASE_ROW.bleu < Decimal("27.3")


# La perplessità


def test_perplexity_is_the_exponential_of_the_error():
    """4,92 sono 1,5933 nat per word-piece; il gemello a 1 è 0."""
    assert nats(Decimal("4.92")) == pytest.approx(1.5933, abs=5e-5)
    assert math.exp(nats(Decimal("4.92"))) == pytest.approx(4.92, abs=1e-12)
    assert nats(Decimal(1)) == 0


def test_perplexity_per_word_is_that_of_its_pieces_multiplied():
    """Due pezzi per parola: 4,92 · 4,92; con un pezzo solo non cambia nulla."""
    assert per_word(Decimal("4.92"), 1.0) == pytest.approx(4.92, abs=1e-12)
    assert per_word(Decimal("4.92"), 2.0) == pytest.approx(4.92**2, abs=1e-11)
    assert per_word(Decimal("4.92"), 1.5) == pytest.approx(4.92 * 4.92**0.5, abs=1e-11)


def test_perplexity_per_word_of_real_pieces():
    """Tre parole di uno, due e tre pezzi: la media per parola e la potenza danno lo stesso."""
    pieces = [[0.5], [0.25, 0.125], [0.5, 0.5, 0.0625]]
    flat = [p for word in pieces for p in word]
    piece_error = -sum(map(math.log, flat)) / 6
    word_error = -sum(math.log(math.prod(word)) for word in pieces) / 3
    per_piece = Decimal(math.exp(piece_error))
    assert per_word(per_piece, 6 / 3) == pytest.approx(math.exp(word_error), rel=1e-12)


# Il disegno e il Fortran


def test_drawing_of_the_sizes_plots_the_table():
    """Ogni punto sta ai suoi milioni, in scala logaritmica, e al suo BLEU; le linee li uniscono."""

    def place(it: Row) -> tuple[float, float]:
        x = 40 + 310 * math.log10(it.millions / 25)
        return x, 30 + (26.5 - float(it.bleu)) * 80

    svg = (ROOT / "paper_it/figure/s6_2_sizes.svg").read_text(encoding="utf-8")
    circles = re.findall(r'<circle cx="([\d.]+)" cy="([\d.]+)"', svg)
    rows = [it for it in TABLE_3 if it.group in ("base", "C", "big")]
    assert len(circles) == len(rows) == 9
    lines = re.findall(r'class="famiglia" points="([^"]+)"', svg)
    drawn = [circles, *([tuple(it.split(",")) for it in line.split()] for line in lines)]
    families = [rows, *(family("C", cell) for cell in ("layers", "d_model", "d_ff"))]
    for points, expected in zip(drawn, families, strict=True):
        for (x, y), it in zip(points, expected, strict=True):
            assert (float(x), float(y)) == pytest.approx(place(it), abs=0.06)


def test_fortran_on_the_page(fortran):
    """La funzione Fortran della pagina conta come la formula, per ogni riga e modo di contare."""
    routine = fortran("s6_2_model_variations").parameter_count
    routine.restype = ctypes.c_int64
    for it in TABLE_3:
        for convention in CONVENTIONS:
            c = configuration(it, convention.vocabulary, convention.bias)
            sizes = (c.layers, c.d_model, c.d_ff, c.heads, c.d_k, c.d_v)
            rows = c.vocabulary + 2 * (c.learned_positions or 0) + convention.task_rows
            given = map(ctypes.c_int, (*sizes, rows, c.bias))
            assert routine(*given) == convention.count(it)


# Gli errori


def test_rows_cannot_be_changed():
    """Una riga stampata non si corregge: se ne scrive un'altra."""
    with pytest.raises(FrozenInstanceError):
        BASE_ROW.bleu = Decimal(99)
    with pytest.raises(FrozenInstanceError):
        PAPER.vocabulary = 1


@pytest.mark.usefixtures("our_own_errors")
@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (
            lambda: replace(BASE_ROW, bleu=Decimal(101)),
            ValueError,
            "bleu: dato: 101; atteso: al più 100",
        ),
        (
            lambda: replace(BASE_ROW, bleu=25.8),
            TypeError,
            "bleu: dato: 25.8; atteso: un Decimal o un intero",
        ),
        (
            lambda: replace(BASE_ROW, perplexity=Decimal(0)),
            ValueError,
            "perplexity: dato: 0; atteso: maggiore di 0",
        ),
        (lambda: row("h = 2"), ValueError, "name: dato: h = 2; atteso: base, h = 1, .* big"),
        (
            lambda: family("A", "layers"),
            ValueError,
            r"cell: dato: layers; atteso: una casella che le righe \(A\) cambiano",
        ),
        (lambda: attention_work(BASE, 0), ValueError, "n: dato: 0; atteso: almeno 1"),
        (lambda: attention_work(BASE, 1.5), TypeError, "n: dato: 1.5; atteso: un numero intero"),
        (lambda: per_word(Decimal(5), 0.5), ValueError, "pieces: dato: 0.5; atteso: almeno 1"),
    ],
)
def test_wrong_arguments_are_refused_by_name(build, error, message):
    """Ogni errore nomina argomento, dato e atteso."""
    with pytest.raises(error, match=f"^{message}$"):
        build()
