"""§3.5: la codifica posizionale contro i cicli, contro la matita, contro il modello intero."""

import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attention import (
    MultiHeadAttention,
    Transformer,
    TransformerConfig,
    attention_weights,
    sinusoids,
)
from attention.s3_5_positional_encoding import (
    LearnedPositions,
    SinusoidalPositions,
    frequencies,
    shift_matrix,
    wavelengths,
)
from weave.house import ROOT

SMALL = TransformerConfig(layers=2, d_model=6, d_ff=11, heads=3, vocabulary=23, dropout=0.0)
"""Un modello piccolo, senza dropout, per chiedergli che cosa fa dell'ordine."""

widths = st.sampled_from([2, 6, 10, 14, 22])
offsets = st.integers(-200, 200)


def by_loops(length: int, d_model: int, start: int = 0) -> Tensor:
    """La formula di ¶2, un numero per volta, con la libreria matematica di Python."""
    table = torch.zeros(length, d_model, dtype=torch.float64)
    for row in range(length):
        for i in range(d_model // 2):
            angle = (start + row) / 10000 ** (2 * i / d_model)
            table[row, 2 * i] = math.sin(angle)
            table[row, 2 * i + 1] = math.cos(angle)
    return table


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def small_model(**changes: int) -> Transformer:
    """Il modello piccolo in doppia precisione."""
    return Transformer(replace(SMALL, **changes)).double()


# ¶1: l'ordine va detto, e si dice sommando


def test_without_positions_the_encoder_only_permutes():
    """§3.5 ¶1: senza codifica, permutare i token permuta le uscite, e nient'altro."""
    model, vectors, order = small_model(), torch.randn(7, 6).double(), torch.randperm(7)
    assert_equal(model.encoder(vectors[order], None), model.encoder(vectors, None)[order])


def test_with_positions_the_order_matters():
    """§3.5 ¶1: con la codifica, gli stessi token in un altro ordine hanno un'altra uscita."""
    model, vectors, order = small_model(), torch.randn(7, 6).double(), [1, 0, 2, 3, 4, 5, 6]
    before = model.encoder(model.source_positions(vectors), None)
    after = model.encoder(model.source_positions(vectors[order]), None)
    assert ((after - before[order]).abs().amax(dim=-1) > 1e-3).all()


@pytest.mark.parametrize(("layers", "sees_the_order"), [(1, False), (2, True)])
def test_the_causal_mask_alone_tells_two_orders_apart(layers, sees_the_order):
    """Commento a ¶1: nel decoder, dal secondo strato, l'ultima uscita sa chi veniva prima."""
    model = small_model(layers=layers)
    memory, target = torch.randn(2, 5, 6).double()
    swapped = target[[1, 0, 2, 3, 4]]
    change = model.decoder(swapped, memory)[-1] - model.decoder(target, memory)[-1]
    assert (change.abs().max() > 1e-3) == sees_the_order
    assert (change.abs().max() < 1e-12) != sees_the_order


def test_encodings_are_added_at_the_bottom_of_both_stacks():
    """§3.5 ¶1: embedding più codifica, una volta per pila, prima del primo strato."""
    model = small_model()
    source, target = torch.tensor([5, 3, 19, 7, 11]), torch.tensor([1, 13, 3])
    memory = model.encoder(model.embedding(source) + by_loops(5, 6), None)
    output = model.decoder(model.embedding(target) + by_loops(3, 6), memory)
    assert_equal(model(source, target), model.embedding.logits(output))


@given(d_model=widths, n=st.integers(1, 7), start=st.integers(0, 50))
def test_encodings_have_the_width_of_the_embeddings(d_model, n, start):
    """§3.5 ¶1: la codifica è larga d_model, e si somma riga per riga, per ogni batch."""
    embeddings = torch.randn(3, 2, n, d_model, dtype=torch.float64)
    added = SinusoidalPositions(d_model)(embeddings, start)
    assert_equal(added, embeddings + by_loops(n, d_model, start))
    assert_equal(SinusoidalPositions(d_model)(embeddings), embeddings + by_loops(n, d_model))


def test_sinusoidal_positions_have_no_parameters():
    """Commento a ¶1: nulla da imparare e nulla da salvare."""
    module = SinusoidalPositions(6)
    assert list(module.parameters()) == list(module.buffers()) == []
    assert module.state_dict() == {}


# ¶2: la formula


@given(d_model=widths, length=st.integers(0, 13), start=st.integers(0, 3000))
def test_sinusoids_equal_the_loops(d_model, length, start):
    """§3.5 ¶2: seno alla componente 2i, coseno alla 2i + 1, dello stesso angolo."""
    table = sinusoids(length, d_model, start)
    assert table.dtype == torch.float64
    assert table.shape == (length, d_model)
    assert_equal(table, by_loops(length, d_model, start), 2e-12)


def test_positions_count_from_zero():
    """§3.5 ¶2: PE(0) = (0, 1, 0, 1, …)."""
    assert sinusoids(1, 10).tolist() == [[0, 1] * 5]


def test_four_components_four_positions_by_hand():
    """A matita: d_model = 4, velocità 1 e 1/100, posizioni da 0 a 3; poi la rotazione di 1."""
    by_hand = torch.tensor(
        [
            [0, 1, 0, 1],
            [0.8415, 0.5403, 0.0100, 1.0000],
            [0.9093, -0.4161, 0.0200, 0.9998],
            [0.1411, -0.9900, 0.0300, 0.9996],
        ]
    ).double()
    table = sinusoids(4, 4)
    assert_equal(table, by_hand, 5.1e-5)
    rotation = torch.tensor(
        [
            [0.5403, 0.8415, 0, 0],
            [-0.8415, 0.5403, 0, 0],
            [0, 0, 1.0000, 0.0100],
            [0, 0, -0.0100, 1.0000],
        ]
    ).double()
    assert_equal(shift_matrix(1, 4), rotation, 5.1e-5)
    assert_equal(by_hand[:-1] @ rotation.T, by_hand[1:], 3e-4)
    assert table[1] @ table[2] == pytest.approx(1.5403, abs=5e-5)
    assert table[2] @ table[3] == pytest.approx(1.5403, abs=5e-5)


@given(d_model=widths, start=st.integers(0, 10**6))
def test_every_encoding_has_the_same_length(d_model, start):
    """Commento a ¶2: la norma al quadrato è d_model/2 ovunque, nessun numero supera 1."""
    table = sinusoids(5, d_model, start)
    assert_equal(table.square().sum(dim=-1), torch.full((5,), d_model / 2).double(), 1e-12)
    assert table.abs().max() <= 1


@given(d_model=widths, k=st.integers(0, 300), first=st.integers(0, 900), other=st.integers(0, 900))
def test_similarity_of_two_positions_depends_on_their_distance(d_model, k, first, other):
    """Commento a ¶3: PE(p)·PE(p + k) è la somma dei cos(kω), qualunque sia p."""

    def similarity(p: int) -> float:
        return (sinusoids(1, d_model, p) @ sinusoids(1, d_model, p + k).T).item()

    expected = sum(math.cos(k * 10000 ** (-2 * i / d_model)) for i in range(d_model // 2))
    assert similarity(first) == pytest.approx(expected, abs=1e-10)
    assert similarity(first) == pytest.approx(similarity(other), abs=1e-10)


def test_similarity_is_not_monotonic():
    """Commento a ¶3: a 50 posizioni di distanza si somiglia meno che a 5, ma non sempre così."""
    similarity = sinusoids(1001, 768) @ sinusoids(1, 768).T
    assert similarity[50] < similarity[5] < similarity[0]
    assert (similarity.diff(dim=0) > 0).any()


def test_one_pair_alone_almost_returns_after_710_positions():
    """Commento a ¶3: 710 è quasi 113 giri di 2π; la coppia 0 si confonde, le altre no."""
    change = (sinusoids(1, 768, 710) - sinusoids(1, 768)).abs().flatten()
    assert 0 < change[:2].max() < 1e-4
    assert change.max() > 1
    everywhere = torch.pdist(sinusoids(1000, 768))
    assert everywhere.min() > 4


# ¶3: lunghezze d'onda


def test_i_counts_pairs_not_components():
    """§3.5 ¶3, C17: con i preso come componente si sbaglia fino a 1,8 e metà dei seni è nulla."""
    position, component = torch.arange(10).double()[:, None], torch.arange(768)
    angle = position * 10000 ** (-2 * component / 768)
    misread = torch.where(component % 2 == 0, angle.sin(), angle.cos())
    right = sinusoids(10, 768)
    assert (misread - right).abs().max() == pytest.approx(1.802, abs=5e-4)

    def still(table: Tensor) -> float:
        return (table[9, ::2].abs() < 1e-3).double().mean().item()

    assert still(misread) == pytest.approx(0.505, abs=1e-3)
    assert still(right) == pytest.approx(0.010, abs=1e-3)


@pytest.mark.parametrize("d_model", [2, 10, 512, 768])
def test_wavelengths_are_a_geometric_progression_from_two_pi(d_model):
    """§3.5 ¶3: la prima è 2π, e ciascuna è la precedente per 10000^(2/d_model)."""
    found = wavelengths(d_model)
    assert found.shape == (d_model // 2,)
    assert found[0].item() == 2 * math.pi
    assert found.dtype == frequencies(d_model).dtype == torch.float64
    expected = [2 * math.pi * 10000 ** (2 * i / d_model) for i in range(d_model // 2)]
    assert found.tolist() == pytest.approx(expected, rel=1e-14)
    slow = [2 * math.pi / wavelength for wavelength in expected]
    assert frequencies(d_model).tolist() == pytest.approx(slow, rel=1e-14)


def test_the_longest_wavelength_only_approaches_the_bound():
    """§3.5 ¶3: con d_model = 512 è 60 611,5, non 10000·2π = 62 831,9."""
    found = wavelengths(512)
    assert (found[1] / found[0]).item() == pytest.approx(1.036632928, abs=5e-10)
    assert found[-1].item() == pytest.approx(60_611.4772, abs=5e-5)
    longest = [wavelengths(d_model)[-1].item() for d_model in (4, 64, 512, 768, 8192)]
    assert longest == sorted(longest)
    assert 0.99 * 62_831.853 < longest[-1] < 62_831.853


def test_one_wavelength_after_the_component_repeats():
    """Commento a ¶3: λ è il periodo, in posizioni; la coppia i di d_model = 4 è di nuovo a 0."""
    turns = torch.arange(0, 5) * wavelengths(4)[:, None]
    angle = turns * frequencies(4)[:, None]
    assert_equal(angle.cos(), torch.ones(2, 5).double())


# ¶3: la traslazione è lineare


@given(d_model=widths, offset=offsets, start=st.integers(200, 2000))
def test_a_shift_is_a_rotation_that_ignores_the_position(d_model, offset, start):
    """§3.5 ¶3: PE(pos + k) = M_k PE(pos), con la stessa M_k per ogni pos."""
    moved = sinusoids(7, d_model, start + offset)
    assert_equal(sinusoids(7, d_model, start) @ shift_matrix(offset, d_model).T, moved, 2e-12)


def test_one_matrix_serves_two_thousand_positions():
    """§3.5 ¶3: d_model = 512, k = 7: un errore di 2·10⁻¹³ su 2000 posizioni."""
    table = sinusoids(2007, 512)
    assert_equal(table[:-7] @ shift_matrix(7, 512).T, table[7:], 5e-13)


@given(d_model=widths, offset=offsets)
def test_the_matrix_is_made_of_two_by_two_rotations(d_model, offset):
    """§3.5 ¶3: sulla diagonale (cos, sin; −sin, cos) di k·ω_i, zero altrove."""
    expected = torch.zeros(d_model, d_model, dtype=torch.float64)
    for i in range(d_model // 2):
        angle = offset * 10000 ** (-2 * i / d_model)
        expected[2 * i, 2 * i] = expected[2 * i + 1, 2 * i + 1] = math.cos(angle)
        expected[2 * i, 2 * i + 1] = math.sin(angle)
        expected[2 * i + 1, 2 * i] = -math.sin(angle)
    assert_equal(shift_matrix(offset, d_model), expected)


@given(d_model=widths, a=offsets, b=offsets)
def test_shifts_compose_like_integers(d_model, a, b):
    """§3.5 ¶3: M_a M_b = M_{a+b}, M_0 è l'identità, tornare indietro è trasporre."""
    assert_equal(
        shift_matrix(a, d_model) @ shift_matrix(b, d_model), shift_matrix(a + b, d_model), 1e-12
    )
    assert shift_matrix(0, d_model).equal(torch.eye(d_model).double())
    assert_equal(shift_matrix(-a, d_model), shift_matrix(a, d_model).T)


def numerical_rank(matrix: Tensor) -> int:
    """Quanti valori singolari non sono arrotondamento."""
    singular = torch.linalg.svdvals(matrix)
    return int((singular > 1e-9 * singular[0]).sum())


@pytest.mark.parametrize(
    ("components", "rank", "rank_with_shifted"),
    [
        pytest.param([0, 2], 2, 4, id="solo i seni"),
        pytest.param([1, 3], 2, 4, id="solo i coseni"),
        pytest.param([0, 1, 2, 3], 4, 4, id="seni e coseni"),
    ],
)
def test_sines_alone_cannot_be_shifted(components, rank, rank_with_shifted):
    """Commento a ¶3: se una matrice porta A in B, affiancare B ad A non alza il rango di A."""
    table = sinusoids(503, 4)[:, components]
    now, later = table[:-3], table[3:]
    assert numerical_rank(now) == rank
    assert numerical_rank(torch.cat([now, later], dim=1)) == rank_with_shifted


def test_with_sines_alone_position_zero_is_nothing():
    """Commento a ¶3: PE(0) sarebbe il vettore nullo, e nessuna matrice lo porta in PE(3)."""
    table = sinusoids(4, 4)[:, ::2]
    assert table[0].tolist() == [0, 0]
    assert table[3].norm() > 0.1


def test_least_squares_finds_another_matrix():
    """Commento a ¶3: 200 posizioni hanno rango 48: la stima è esatta lì e falsa altrove."""
    near, far = sinusoids(200, 128), sinusoids(200, 128, 1000)
    assert torch.linalg.matrix_rank(near).item() == 48
    guess = torch.linalg.lstsq(near[:-7], near[7:], driver="gelsd").solution
    assert_equal(near[:-7] @ guess, near[7:], 1e-10)
    assert (far[:-7] @ guess - far[7:]).abs().max() > 1
    assert_equal(far[:-7] @ shift_matrix(7, 128).T, far[7:])


@pytest.mark.parametrize("offset", [-3, -1, 0, 2, 5])
def test_a_head_can_look_at_a_fixed_offset(offset):
    """§3.5 ¶3: con W^Q fatta della rotazione, la testa da 64 guarda a distanza fissa."""
    table, sharpness = sinusoids(13, 768), 8
    query = sharpness * (table @ shift_matrix(offset, 768).T)[:, :64]
    weights = attention_weights(query, table[:, :64])
    rows = torch.arange(max(0, -offset), min(13, 13 - offset))
    assert (weights[rows, rows + offset] > 0.99).all()


# ¶4: appresi, e oltre la lunghezza dell'addestramento


@pytest.mark.parametrize("start", [10**6, 2**40])
def test_sinusoids_are_defined_at_any_position(start):
    """§3.5 ¶4: nessuna tabella finisce. Gli angoli della doppia precisione, invece, sì."""
    table = sinusoids(3, 10, start)
    assert table.isfinite().all()
    assert_equal(table, by_loops(3, 10, start), 4 * start * 2.0**-52)
    assert SinusoidalPositions(10)(torch.zeros(3, 10).double(), start).equal(table)


@pytest.mark.parametrize(
    ("shape", "start"), [((7, 3), 0), ((2, 5, 3), 0), ((5, 3), 2), ((1, 3), 6), ((4, 1, 3), 3)]
)
def test_learned_positions_add_their_rows(shape, start):
    """§3.5 ¶4: una riga per posizione, da `start`, uguale per tutto il batch."""
    module, embeddings = LearnedPositions(7, 3), torch.randn(shape)
    found = module(embeddings, start)
    assert found.shape == shape
    for row in range(shape[-2]):
        assert_equal(found[..., row, :], embeddings[..., row, :] + module.table[start + row])
    if start == 0:
        assert module(embeddings).equal(found)


def test_learned_positions_are_one_parameter():
    """§3.5 ¶4: si imparano: il gradiente arriva alle sole righe usate."""
    module = LearnedPositions(7, 3)
    assert [(name, tuple(it.shape)) for name, it in module.named_parameters()] == [
        ("table", (7, 3))
    ]
    module(torch.zeros(5, 2, 3), start=4).sum().backward()
    assert module.table.grad.tolist() == [[0] * 3] * 4 + [[5] * 3] * 2 + [[0] * 3]


def test_learned_positions_start_as_large_as_the_sinusoids():
    """Commento a ¶4: valore efficace 1/√2, come ogni riga di sinusoidi; media zero."""
    module = LearnedPositions(211, 101)
    with torch.no_grad():
        module.table.fill_(7)
    module.reset_parameters()
    assert module.table.square().mean().sqrt().item() == pytest.approx(0.5**0.5, rel=0.02)
    assert module.table.mean().item() == pytest.approx(0, abs=0.02)
    fresh = LearnedPositions(211, 101).table.square().mean().sqrt()
    assert fresh.item() == pytest.approx(
        sinusoids(211, 102).square().mean().sqrt().item(), rel=0.02
    )


def test_learned_positions_have_no_row_beyond_the_table():
    """§3.5 ¶4: il modello con cinque posizioni apprese rifiuta il sesto token; l'altro no."""
    six, five = torch.tensor([5, 3, 19, 7, 11, 2]), torch.tensor([1, 13, 3, 17, 5])
    message = "^embeddings: dato: 6 posizioni; atteso: al più 5, le righe apprese$"
    with pytest.raises(ValueError, match=message):
        small_model(learned_positions=5)(six, five)
    with pytest.raises(ValueError, match=message):
        small_model(learned_positions=5)(five, six)
    small_model(learned_positions=6)(six, six)
    small_model()(six, six)


# Quante cifre servono


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_only_the_result_is_rounded(dtype, device):
    """Commento a ¶2: anche a 100 000 l'errore è mezza unità dell'ultima cifra del tipo dato."""
    module, zero = SinusoidalPositions(22), torch.zeros(7, 22, dtype=dtype, device=device)
    found = module(zero, 100_000)
    assert found.dtype == dtype
    assert found.device.type == device
    error = torch.finfo(dtype).eps / 4
    assert_equal(found.double().cpu(), by_loops(7, 22, 100_000), error + 1e-10)


@pytest.mark.parametrize(
    ("dtype", "position", "wrong"),
    [
        (torch.float32, 100_000, 1e-3),
        (torch.float16, 1000, 0.1),
        (torch.bfloat16, 257, 0.5),
    ],
    ids=str,
)
def test_angles_need_a_long_mantissa(dtype, position, wrong):
    """Commento a ¶2: calcolare l'angolo nel tipo del modello, invece, costa cifre vere."""
    angle = torch.tensor([position]).to(dtype) * frequencies(768).to(dtype)
    assert (angle.sin().double() - sinusoids(1, 768, position)[0, ::2]).abs().max() > wrong


@pytest.mark.parametrize(
    ("dtype", "position"), [(torch.bfloat16, 257), (torch.float16, 2049)], ids=str
)
def test_short_types_cannot_even_count(dtype, position):
    """Commento a ¶2: 257 non esiste in BF16, 2049 in FP16; la codifica distingue le posizioni."""
    assert torch.tensor(position).to(dtype).item() == position - 1
    here, before = (
        SinusoidalPositions(6)(torch.zeros(1, 6, dtype=dtype), start)
        for start in (position, position - 1)
    )
    assert not here.equal(before)
    assert here.equal(sinusoids(1, 6, position).to(dtype))


def test_tables_are_built_where_they_are_asked():
    """Dispositivo: quello degli embedding, o quello chiesto."""
    assert frequencies(6, torch.device("meta")).is_meta
    assert sinusoids(5, 6, device=torch.device("meta")).is_meta
    assert SinusoidalPositions(6)(torch.zeros(5, 6, device="meta")).is_meta


# D34: come si fondono token e posizione


def test_a_projection_of_the_sum_is_the_sum_of_the_projections():
    """D34: W(e + p) = We + Wp: le proiezioni vedono due addendi separati."""
    module = MultiHeadAttention(d_model=10, heads=5).double()
    tokens, places = torch.randn(7, 10).double(), sinusoids(7, 10)
    summed = tokens + places
    for whole, token, place in zip(
        module.project(summed, summed, summed),
        module.project(tokens, tokens, tokens),
        module.project(places, places, places),
        strict=True,
    ):
        assert_equal(whole, token + place)


def test_a_score_splits_into_four_terms():
    """D34: contenuto–contenuto, contenuto–posizione e i due altri danno insieme il punteggio."""
    module = MultiHeadAttention(d_model=10, heads=5).double()
    w_q, w_k = module.projections[0][3], module.projections[1][3]
    tokens, places = torch.randn(7, 10).double(), sinusoids(7, 10)
    terms = [(a @ w_q) @ (b @ w_k).T for a in (tokens, places) for b in (tokens, places)]
    weights = (sum(terms) / math.sqrt(2)).softmax(dim=-1)
    assert_equal(weights, module.weights(tokens + places, tokens + places)[3])


def test_tokens_and_positions_are_nearly_orthogonal_when_wide():
    """D34: con vettori casuali il coseno fra token e posizione vale circa 1/√d_model."""
    for d_model in (4, 64, 768):
        tokens = torch.nn.functional.normalize(torch.randn(1000, d_model).double(), dim=-1)
        places = torch.nn.functional.normalize(sinusoids(50, d_model), dim=-1)
        typical = (tokens @ places.T).square().mean().sqrt().item()
        assert typical == pytest.approx(d_model**-0.5, rel=0.05)


@pytest.mark.parametrize(("d_model", "lowest", "highest"), [(4, 0, 0.3), (64, 1, 1), (768, 1, 1)])
def test_a_wide_sum_can_be_taken_apart(d_model, lowest, highest):
    """D34: dalla somma si ritrova il token, se lo spazio è largo; in 4 dimensioni no."""
    tokens, places = torch.randn(200, d_model).double(), sinusoids(50, d_model)
    scores = (tokens[:, None] + places) @ tokens.T - tokens.square().sum(dim=-1) / 2
    right = scores.argmax(dim=-1) == torch.arange(200)[:, None]
    assert lowest <= right.double().mean() <= highest


def test_a_wide_sum_still_tells_the_position():
    """D34: in 768 dimensioni la posizione letta dalla somma è giusta, o sbaglia di un posto."""
    tokens, places = torch.randn(200, 768).double(), sinusoids(50, 768)
    found = ((tokens[:, None] + places) @ places.T).argmax(dim=-1)
    error = (found - torch.arange(50)).abs()
    assert (error == 0).double().mean() > 0.95
    assert error.max() == 1


# Articolo ≠ codice


def concatenated(d_model: int) -> Tensor:
    """Prima tutti i seni, poi tutti i coseni: quale componente dell'articolo va in ogni posto."""
    return torch.cat([torch.arange(0, d_model, 2), torch.arange(1, d_model, 2)])


def test_the_concatenated_layout_permutes_the_channels():
    """Articolo ≠ codice: [seni ‖ coseni] sono le stesse colonne in un altro ordine."""
    angle = torch.arange(5)[:, None] * frequencies(10)
    assert_equal(
        torch.cat([angle.sin(), angle.cos()], dim=-1), sinusoids(5, 10)[:, concatenated(10)]
    )
    assert sorted(concatenated(10).tolist()) == list(range(10))


def test_permuted_weights_make_the_two_layouts_the_same_model():
    """Articolo ≠ codice: con pesi permutati allo stesso modo, le uscite sono permutate."""
    model, twin = small_model(d_k=5, d_v=7), small_model(d_k=5, d_v=7)
    order = concatenated(6)
    with torch.no_grad():
        pairs = zip(model.encoder.parameters(), twin.encoder.parameters(), strict=True)
        for weight, same in pairs:
            for axis, size in enumerate(weight.shape):
                weight = weight.index_select(axis, order) if size == 6 else weight
            same.copy_(weight)
    vectors = torch.randn(5, 6).double()
    ours = model.encoder(vectors + sinusoids(5, 6), None)
    theirs = twin.encoder(vectors[:, order] + sinusoids(5, 6)[:, order], None)
    assert_equal(theirs, ours[:, order])


def test_the_released_frequencies_reach_the_bound():
    """Articolo ≠ codice: con d/2 − 1 passi invece di d/2, l'ultima lunghezza è 10000·2π."""
    pairs = torch.arange(256).double()
    released = 10000 ** (-pairs / 255)
    assert (2 * math.pi / released[-1]).item() == pytest.approx(62_831.853, abs=5e-4)
    assert (released[0] / released[1]).item() == pytest.approx(10000 ** (1 / 255))
    torch.testing.assert_close(frequencies(512), 10000 ** (-pairs / 256), rtol=1e-14, atol=0)


# I disegni


def drawing(name: str) -> ET.Element:
    return ET.parse(ROOT / "paper_it/figure" / name).getroot()


def test_heat_map_is_the_table_of_the_module():
    """Figura: ogni casella, a quarti di unità, è la codifica di quella posizione."""
    drawn = torch.zeros(60, 32)
    for level in drawing("s3_5_waves.svg").iterfind(".//*[@class='livello']"):
        for run in level.get("d").split("M")[1:]:
            column, (first, length) = run.split()[0], run.split()[1].split("v")
            drawn[int(first) : int(first) + int(length), int(column)] = int(
                level.get("data-livello")
            )
    assert drawn.equal((4 * sinusoids(60, 32)).round().float())


def test_hands_of_the_drawing_point_where_the_encoding_says():
    """Figura: velocità del modulo; ascissa il seno, altezza il coseno della sua tabella."""
    hands = [*drawing("s3_5_hands.svg").iterfind(".//*[@data-pos]")]
    assert len(hands) == 12
    speeds = sorted({float(hand.get("data-omega")) for hand in hands}, reverse=True)
    assert speeds == pytest.approx(frequencies(8)[:3].tolist(), rel=1e-12)
    table = sinusoids(1 + max(int(hand.get("data-pos")) for hand in hands), 8)
    for hand in hands:
        origin, tip = (
            [float(number) for number in point.split()] for point in hand.get("d")[1:].split("L")
        )
        pair = 2 * speeds.index(float(hand.get("data-omega")))
        sine, cosine = table[int(hand.get("data-pos")), pair : pair + 2].tolist()
        assert tip[0] - origin[0] == pytest.approx(38 * sine, abs=0.02)
        assert origin[1] - tip[1] == pytest.approx(38 * cosine, abs=0.02)


# Il Fortran della pagina


def test_fortran_on_the_page(fortran, call_fortran):
    """Se vieni dal Fortran: la tabella dei due cicli è quella del modulo."""
    table = torch.zeros(211, 22, dtype=torch.float64)
    call_fortran(fortran("s3_5_positional_encoding").positions, 211, 22, table)
    assert_equal(table, sinusoids(211, 22), 1e-13)


def test_fortran_rotation_drifts_with_the_steps(fortran, call_fortran):
    """Se vieni dal Fortran: un prodotto complesso per passo; l'errore cresce con i passi."""
    table = torch.zeros(100_001, 22, dtype=torch.float64)
    call_fortran(fortran("s3_5_positional_encoding").rotate, 100_001, 22, table)
    error = (table - sinusoids(100_001, 22)).abs().amax(dim=-1)
    assert error[0] == 0
    assert error[:11].max() < 1e-14
    assert error[:1001].max() < 1e-12
    assert 1e-12 < error[-1000:].max() < 1e-10


# Gli errori


@pytest.mark.parametrize("d_model", [-2, 0, 1, 7])
@pytest.mark.parametrize(
    "make",
    [
        frequencies,
        wavelengths,
        SinusoidalPositions,
        lambda d: sinusoids(3, d),
        lambda d: shift_matrix(1, d),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_odd_widths_are_refused(make, d_model):
    """Due componenti per frequenza: d_model è pari e positivo."""
    message = f"^d_model: dato: {d_model}; atteso: un numero pari, due componenti per frequenza$"
    with pytest.raises(ValueError, match=message):
        make(d_model)


def test_smallest_sizes_are_accepted():
    """Due componenti, una posizione, anche nessuna: è poco, ma c'è."""
    assert sinusoids(0, 2).shape == (0, 2)
    assert SinusoidalPositions(2)(torch.zeros(1, 2)).tolist() == [[0, 1]]
    module = LearnedPositions(1, 1)
    assert module(torch.zeros(1, 1)).equal(module.table)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sinusoids(-1, 6), "length: dato: -1; atteso: almeno 0"),
        (lambda: sinusoids(3, 6, -2), "start: dato: -2; atteso: almeno 0"),
        (
            lambda: SinusoidalPositions(6)(torch.zeros(3, 6), -1),
            "start: dato: -1; atteso: almeno 0",
        ),
        (lambda: LearnedPositions(0, 6), "max_length: dato: 0; atteso: almeno una posizione"),
        (lambda: LearnedPositions(3, 0), "d_model: dato: 0; atteso: almeno 1"),
        (
            lambda: LearnedPositions(3, 6)(torch.zeros(2, 6), 2),
            "embeddings: dato: 4 posizioni; atteso: al più 3, le righe apprese",
        ),
        (
            lambda: LearnedPositions(3, 6)(torch.zeros(2, 6), -1),
            "start: dato: -1; atteso: almeno 0",
        ),
        (
            lambda: LearnedPositions(3, 6)(torch.zeros(2, 1)),
            "embeddings: dato: larghezza 1; atteso: 6",
        ),
        (
            lambda: SinusoidalPositions(6)(torch.zeros(2, 8)),
            "embeddings: dato: larghezza 8; atteso: 6",
        ),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_wrong_arguments_are_refused(call, message):
    """Ogni errore nomina l'argomento, ciò che è stato dato e ciò che era atteso."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        call()


@pytest.mark.parametrize("module", [SinusoidalPositions(6), LearnedPositions(3, 6)])
@pytest.mark.usefixtures("our_own_errors")
def test_integer_embeddings_are_refused(module):
    """Sommare sinusoidi a interi le troncherebbe a −1, 0 e 1."""
    with pytest.raises(TypeError, match=r"^embeddings: dato: torch.int64; atteso: un tensore"):
        module(torch.zeros(2, 6, dtype=torch.int64))
