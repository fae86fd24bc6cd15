"""La rotazione contro i numeri complessi di Python, le velocità contro le formule, la prova."""

import cmath
import csv
import math
import re
import xml.etree.ElementTree as ET
from statistics import fmean

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from attention import MultiHeadAttention, sinusoids
from attention.beyond import rope
from attention.beyond.grammar import Dice, Writer, lexicon, split_of
from attention.beyond.rope import (
    ALPHA,
    BASES,
    BETA,
    DASHES,
    EXTRA,
    JUDGED,
    LENGTHS,
    LONGER,
    METHODS,
    RESULTS,
    REVIEW_RATE,
    SCHEMES,
    SEEDS,
    STEPS,
    TOKENS,
    TRAINED,
    WARMUP,
    Cell,
    PlacedAttention,
    Run,
    TextModel,
    apart,
    as_pairs,
    by_parts,
    cell,
    distance_penalty,
    experiment,
    interpolated,
    kept,
    lengthen,
    loss_at,
    loss_drawing,
    read_runs,
    relative_score,
    rotated,
    rotation_drawing,
    running_text,
    runs_after,
    runs_of,
    sharpening,
    slopes,
    speeds,
    stretched_base,
    study,
    trained,
    turns,
    wavelength_drawing,
)
from attention.command_line import SHIPPED, WORDS
from attention.s3_2_3_applications import causal_mask
from attention.s3_5_positional_encoding import LearnedPositions, frequencies, shift_matrix
from attention.s5_1_data_batching import Vocabulary
from attention.s5_3_optimizer import learning_rate

places = st.integers(0, 100_000)


def assert_equal(found: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)


def vectors(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def by_loops(x: Tensor, positions: list[int], omega: list[float]) -> Tensor:
    """La rotazione, una coppia per volta, con i numeri complessi di Python."""
    found = x.clone()
    for row, position in enumerate(positions):
        for pair, speed in enumerate(omega):
            real, imaginary = x[row, 2 * pair : 2 * pair + 2].tolist()
            hand = complex(real, imaginary) * cmath.exp(1j * position * speed)
            found[row, 2 * pair], found[row, 2 * pair + 1] = hand.real, hand.imag
    return found


# La rotazione


def test_speeds_are_those_of_the_sinusoids():
    """Con base 10000 sono le velocità di §3.5, qui della larghezza di una testa."""
    assert_equal(speeds(22), frequencies(22), 1e-15)
    for pair, found in enumerate(speeds(14, 500_000.0).tolist()):
        assert found == pytest.approx(500_000 ** (-2 * pair / 14), rel=1e-14)


def test_i_counts_pairs_not_components():
    """C17: la seconda coppia ha esponente −2/d_k, la terza −4/d_k."""
    assert speeds(64)[1].item() == pytest.approx(10000 ** (-2 / 64))
    assert speeds(64)[2].item() == pytest.approx(10000 ** (-4 / 64))
    assert len(speeds(64)) == 32


def test_wavelengths_of_a_head_of_64():
    """Da 2π a 2π · 10000^(62/64), cioè 47 117 posizioni."""
    waves = 2 * math.pi / speeds(64)
    assert waves[0].item() == pytest.approx(6.2832, abs=1e-4)
    assert waves[-1].item() == pytest.approx(2 * math.pi * 10000 ** (62 / 64))
    assert waves[-1].item() == pytest.approx(47_117, abs=1)


def test_neighbours_make_a_pair():
    """Le componenti 2i e 2i + 1 sono parte reale e immaginaria."""
    assert as_pairs(torch.tensor([1.0, 2.0, 3.0, 4.0])).tolist() == [1 + 2j, 3 + 4j]


def test_rotation_by_loops():
    """Ogni coppia è un numero complesso, moltiplicato per e^{i·pos·ω}."""
    x, positions = vectors(5, 6), [0, 1, 7, 1000, 3]
    omega = speeds(6)
    found = rotated(x, torch.tensor(positions), omega)
    assert_equal(found, by_loops(x, positions, omega.tolist()))


def test_rotation_of_every_head_and_sentence():
    """Le dimensioni davanti restano dove sono."""
    x, positions = vectors(2, 3, 5, 14), torch.arange(5)
    found = rotated(x, positions, speeds(14))
    for sentence in range(2):
        for head in range(3):
            alone = rotated(x[sentence, head], positions, speeds(14))
            assert_equal(found[sentence, head], alone)


def test_the_rotation_is_that_of_section_3_5():
    """È la matrice M di §3.5, che gira nell'altro verso perché lì il seno viene prima."""
    x = vectors(1, 10)
    for position in (0, 3, 41):
        found = rotated(x, torch.tensor([position]), speeds(10))
        assert_equal(found[0], shift_matrix(-position, 10) @ x[0])


def test_lengths_are_kept():
    """Una rotazione non cambia la lunghezza: né del vettore né di una coppia."""
    x = vectors(7, 22)
    found = rotated(x, torch.arange(100, 107), speeds(22))
    assert_equal(as_pairs(found).abs(), as_pairs(x).abs())


@given(places, places, places)
def test_a_score_depends_on_the_distance_alone(i, j, shift):
    """Per costruzione: (i, j) e (i + t, j + t) danno lo stesso punteggio, salvo l'ultima cifra."""
    query, key, omega = vectors(1, 64), vectors(1, 64), speeds(64)

    def score(first: int, second: int) -> float:
        q = rotated(query, torch.tensor([first]), omega)
        return (q @ rotated(key, torch.tensor([second]), omega).T).item()

    assert score(i, j) == pytest.approx(score(i + shift, j + shift), abs=1e-8)
    alone = relative_score(query[0], key[0], i - j, omega).item()
    assert score(i, j) == pytest.approx(alone, abs=1e-8)


def test_three_and_one_like_a_hundred_and_three_and_a_hundred_and_one():
    """C19: (3, 1) e (103, 101), a meno di 10⁻¹³."""
    query, key, omega = vectors(1, 64), vectors(1, 64), speeds(64)
    first, second = (
        rotated(query, torch.tensor([i]), omega) @ rotated(key, torch.tensor([j]), omega).T
        for i, j in ((3, 1), (103, 101))
    )
    assert abs((first - second).item()) < 1e-13
    assert first.item() != pytest.approx((query @ key.T).item(), abs=0.01)


def test_before_and_after_are_told_apart():
    """La distanza ha un segno: due posti più avanti non è due posti più indietro."""
    query, key, omega = vectors(64), vectors(64), speeds(64)
    gap = relative_score(query, key, 2, omega) - relative_score(query, key, -2, omega)
    assert abs(gap.item()) > 0.1


def test_other_positions_enter_as_absolute():
    """Non tutto ciò che si fa alle query è relativo: sommando le sinusoidi non lo è."""
    query, key, table = vectors(64), vectors(64), sinusoids(104, 64)
    near, far = (((query + table[i]) @ (key + table[j])).item() for i, j in ((3, 1), (103, 101)))
    assert abs(near - far) > 0.1


def test_rotation_by_hand():
    """A matita: due componenti, 30 gradi per posizione; (3, 1) e (7, 5) danno 1 + √3."""
    omega = torch.tensor([math.pi / 6], dtype=torch.float64)
    query = torch.tensor([[2.0, 0.0]], dtype=torch.float64)
    key = torch.tensor([[1.0, 1.0]], dtype=torch.float64)
    q, k = rotated(query, torch.tensor([3]), omega), rotated(key, torch.tensor([1]), omega)
    assert_equal(q, torch.tensor([[0.0, 2.0]]).double())
    assert_equal(k, torch.tensor([[3**0.5 - 1, 3**0.5 + 1]], dtype=torch.float64) / 2)
    assert (q @ k.T).item() == pytest.approx(1 + 3**0.5)
    q, k = rotated(query, torch.tensor([7]), omega), rotated(key, torch.tensor([5]), omega)
    assert (q @ k.T).item() == pytest.approx(1 + 3**0.5)
    assert relative_score(query[0], key[0], 2, omega).item() == pytest.approx(
        2 * 2**0.5 * math.cos(math.radians(15))
    )


def test_the_type_of_the_vectors_stays():
    """FP32 e BF16 tornano quelli che erano; l'angolo resta in doppia precisione."""
    x, far = vectors(1, 64), torch.tensor([100_003])
    exact = rotated(x, far, speeds(64))
    single, short = rotated(x.float(), far, speeds(64)), rotated(x.bfloat16(), far, speeds(64))
    assert single.dtype == torch.float32
    assert short.dtype == torch.bfloat16
    assert_equal(single.double(), exact, 1e-6)
    assert short.equal(rotated(x.bfloat16().double(), far, speeds(64)).bfloat16())


def test_bf16_leaves_the_score_slightly_absolute():
    """Arrotondare le componenti ruotate sposta il punteggio da un posto all'altro."""
    query, key, omega = vectors(1, 64), vectors(1, 64), speeds(64)
    exact, found = [], []
    for start in (0, 1000, 100_000):
        q = rotated(query, torch.tensor([start + 2]), omega)
        k = rotated(key, torch.tensor([start]), omega)
        exact.append((q @ k.T).item())
        found.append((q.bfloat16().double() @ k.bfloat16().double().T).item())
    assert max(exact) - min(exact) < 1e-9
    assert 1e-3 < max(found) - min(found) < 0.5


def test_bf16_angles_break_the_rotation():
    """Con l'angolo in BF16 la posizione 257 non esiste, e lontano l'errore è di tutto il giro."""
    omega = speeds(64)
    short = omega.bfloat16()

    def error(position: int) -> float:
        angle = (torch.tensor(position).bfloat16() * short).double()
        return (torch.polar(torch.ones(32).double(), angle - position * omega) - 1).abs().max()

    assert torch.tensor(257).bfloat16() == 256
    assert error(10) < 0.1
    assert error(100_003) > 1.5


def test_halves_are_neighbours_in_another_order():
    """Chi accoppia la prima metà con la seconda fa lo stesso conto, a componenti permutate."""
    query, key, rows, omega = vectors(5, 14), vectors(5, 14), torch.arange(5), speeds(14)
    order = torch.cat([torch.arange(0, 14, 2), torch.arange(1, 14, 2)])

    def by_halves(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=-1)
        angle = rows[:, None] * omega
        cosine, sine = angle.cos(), angle.sin()
        return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)

    scores = rotated(query, rows, omega) @ rotated(key, rows, omega).T
    assert_equal(by_halves(query[:, order]) @ by_halves(key[:, order]).T, scores)
    mixed = (by_halves(query) @ by_halves(key).T - scores).abs().max()
    assert mixed > 0.1


# Allungare


def test_turns_by_hand():
    """In 64 posizioni la coppia svelta fa dieci giri, una di 628 posizioni un decimo."""
    omega = torch.tensor([1.0, 0.01], dtype=torch.float64)
    found = turns(omega, 64)
    assert_equal(found, torch.tensor([10.185916, 0.101859]).double(), 1e-6)


def test_slow_pairs_never_turn_in_training():
    """Con d_k = 64 e 2048 posizioni, undici coppie su 32 non finiscono un giro."""
    assert (turns(speeds(64), 2048) < 1).sum().item() == 11
    assert (turns(speeds(64), 10) < 1).sum().item() == 30


def test_interpolation_reads_the_positions_in_between():
    """Velocità divise per 4: la posizione 20 gira come girava la 5."""
    x = vectors(1, 14)
    slow = rotated(x, torch.tensor([20]), interpolated(speeds(14), 4.0))
    assert_equal(slow, rotated(x, torch.tensor([5]), speeds(14)))


@pytest.mark.parametrize("d_k", [4, 14, 64])
def test_a_larger_base_slows_the_last_pair_and_not_the_first(d_k):
    """La base s^(d/(d−2)) volte più grande: la prima coppia resta, l'ultima è s volte più lenta."""
    plain, slow = speeds(d_k), speeds(d_k, stretched_base(d_k, 8.0))
    assert slow[0] == plain[0] == 1
    assert (plain[-1] / slow[-1]).item() == pytest.approx(8)
    slowed = plain / slow
    assert (slowed.diff() > 0).all()
    assert stretched_base(d_k, 1.0) == 10000
    assert stretched_base(d_k, 8.0, 100.0) == pytest.approx(stretched_base(d_k, 8.0) / 100)


def test_the_ramp_by_hand():
    """Niente fino a un giro, tutto da 32 in su, in proporzione in mezzo: a 16,5 giri metà."""
    omega = 2 * math.pi / 100 * torch.tensor([40.0, 32.0, 16.5, 1.0, 0.5]).double()
    assert (ALPHA, BETA) == (1, 32)
    assert_equal(kept(omega, 100), torch.tensor([1, 1, 0.5, 0, 0]).double())
    assert_equal(kept(omega, 100, 2.0), torch.tensor([1, 1, 1, 0, 0]).double())
    first, *others = kept(speeds(16), 64).tolist()  # la prova: interpolano tutte, o quasi
    assert first == pytest.approx(0.3, abs=0.01)
    assert max(others) < 0.1
    found = by_parts(omega, 8.0, 100) / omega
    assert_equal(found, torch.tensor([1, 1, 0.5 + 0.5 / 8, 1 / 8, 1 / 8]).double())
    assert_equal(by_parts(omega, 8.0, 100, 2.0)[2], omega[2])


def test_sharpening_by_hand():
    """√(1/t) = 0,1 ln s + 1: niente a lunghezza uguale, 1,81 volte a 32 volte tanto."""
    assert sharpening(1.0) == 1
    assert sharpening(math.e**10) == pytest.approx(4)
    assert sharpening(32.0) == pytest.approx(1.3465736**2)


def test_the_ramp_of_the_released_code_is_another():
    """La formula è lineare nei giri; il codice di gpt-oss nell'indice della coppia."""
    d_k, base, length, scale = 64, 150_000.0, 4096, 32.0
    omega = speeds(d_k, base)
    low, high = (
        d_k / 2 * math.log(length / (number * 2 * math.pi)) / math.log(base) for number in (32, 1)
    )
    keep = 1 - ((torch.arange(32).double() - low) / (high - low)).clamp(0, 1)
    released = (1 - keep) * omega / scale + keep * omega
    ours = by_parts(omega, scale, length)
    outside = (keep == 0) | (keep == 1)
    assert_equal(ours[outside], released[outside], 1e-15)
    assert 0 < (~outside).sum().item() == 9
    assert (ours[~outside] < released[~outside]).all()


def test_the_larger_base_of_today_s_models():
    """Con base 500 000 più coppie restano sotto il giro, a parità di finestra."""
    small, large = ((turns(speeds(64, base), 2048) < 1).sum().item() for base in (1e4, 5e5))
    assert small < large == 17
    assert [(turns(speeds(16, base), 64) < 1).sum().item() for base in BASES.values()] == [5, 6]


# L'altra via


def test_slopes_of_eight_heads():
    """Con 8 teste: 1/2, 1/4, …, 1/256."""
    assert_equal(slopes(8), torch.tensor([2.0**-n for n in range(1, 9)]).double())
    assert slopes(12)[0].item() == pytest.approx(2 ** (-2 / 3))
    assert slopes(12)[11].item() == slopes(1)[0].item() == 1 / 256


def test_penalty_by_loops():
    """Meno la distanza per la pendenza, uguale avanti e indietro."""
    found = distance_penalty(3, 5)
    for head in range(3):
        for i in range(5):
            for j in range(5):
                expected = -(2 ** (-8 * (head + 1) / 3)) * abs(i - j)
                assert found[head, i, j].item() == pytest.approx(expected)


# I modelli della prova


def placed(scheme: str) -> tuple[PlacedAttention, Tensor, Tensor, Tensor]:
    """Un'attenzione piccola, con query, key e value già proiettati."""
    part = PlacedAttention(12, 3, scheme).double()
    return part, *(vectors(2, 3, 5, 4) for _ in range(3))


def heads_by_loops(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """L'attenzione causale, una query per volta, con ciò che si somma ai punteggi."""
    found = torch.zeros_like(v)
    for i in range(q.size(-2)):
        scores = torch.stack([(q[..., i, :] * k[..., j, :]).sum(-1) / 2 for j in range(i + 1)], -1)
        weights = (scores + bias[..., i, : i + 1]).softmax(-1)
        found[..., i, :] = (weights[..., None] * v[..., : i + 1, :]).sum(-2)
    return found


@pytest.mark.parametrize("scheme", SCHEMES)
def test_attention_of_each_scheme_by_loops(scheme):
    """Chi ruota ruota query e key, ALiBi somma la penalità; gli altri nessuna delle due."""
    part, q, k, v = placed(scheme)
    bias = torch.zeros(3, 5, 5).double()
    rows = torch.arange(5)
    if scheme in BASES:
        omega = speeds(4, BASES[scheme])
        part.sharp = 1.5
        turned = rotated(q, rows, omega) * 1.5, rotated(k, rows, omega)
    else:
        turned = q, k
    if scheme == "ALiBi":
        bias = distance_penalty(3, 5)
    assert_equal(part.attend(q, k, v), part.combine(heads_by_loops(*turned, v, bias)))


def test_without_positions_it_is_multi_head_attention():
    """Lo schema «nessuna» è §3.2.2 con la maschera causale."""
    part, plain = PlacedAttention(12, 3, "nessuna"), MultiHeadAttention(12, 3)
    plain.load_state_dict(part.state_dict())
    x = torch.randn(2, 5, 12)
    assert_equal(part(x, x, x), plain(x, x, x, causal=True), 1e-6)
    assert_equal(part(x, x, x), plain(x, x, x, causal_mask(5)), 1e-6)


def test_the_embedding_of_a_token_is_the_same_at_3_and_at_30():
    """C8: con RoPE nello strato entra lo stesso vettore; con le sinusoidi no."""
    tokens = torch.full((1, 31), 7)
    for scheme, same in (("RoPE", True), ("ALiBi", True), ("sinusoidi", False), ("apprese", False)):
        model = TextModel(scheme, 11)
        entered = model.positions(model.embedding(tokens))[0]
        assert entered[3].equal(entered[30]) is same


def test_with_rotation_the_score_of_two_places_is_not_the_same():
    """C8: stesso token, altra distanza: nei punteggi la posizione c'è."""
    vector, omega = vectors(64), speeds(64)
    near, far = (relative_score(vector, vector, distance, omega) for distance in (3, 30))
    assert abs((near - far).item()) > 0.5


def test_the_model_is_small_and_causal():
    """Due strati da 64 con quattro teste; un token non cambia ciò che lo precede."""
    model = TextModel("RoPE", 11)
    assert [type(it) for it in model.attentions] == [PlacedAttention, PlacedAttention]
    assert [it.self_attention for it in model.stack.layers] == model.attentions
    assert (model.attentions[0].d_k, model.attentions[0].heads) == (16, 4)
    assert model.stack.layers[0].feed_forward.w_1.shape == (128, 64)
    first, second = torch.tensor([[1, 2, 3, 4, 5]]), torch.tensor([[1, 2, 3, 9, 5]])
    before, after = model(first), model(second)
    assert before.shape == (1, 5, 11)
    assert before[:, :3].equal(after[:, :3])
    assert not before[:, 3:].equal(after[:, 3:])


def test_learned_rows_beyond_training_never_move():
    """C16: una tabella appresa ha righe anche oltre, ma l'addestramento non le tocca."""
    torch.manual_seed(4)
    start = TextModel("apprese", 11).positions.table.detach().clone()
    model = trained("apprese", 4, torch.arange(300) % 11, 11, steps=2)
    assert isinstance(model.positions, LearnedPositions)
    assert model.positions.table.shape == (LENGTHS[-1], 64)
    assert model.positions.table[TRAINED:].equal(start[TRAINED:])
    assert not model.positions.table[:TRAINED].isclose(start[:TRAINED]).all(dim=-1).any()


def test_the_text_is_made_of_the_sentences_of_that_part():
    """Le frasi italiane della parte chiesta, una dopo l'altra, e solo quelle."""
    vocabulary = Vocabulary.load(SHIPPED / "giocattolo" / WORDS)
    writer, expected = Writer(lexicon(), Dice(5)), []
    while len(expected) < 3:
        pair = writer.pair()
        if split_of(pair) == "train":
            expected += [pair.italian]
    found = running_text(5, 3, "train", vocabulary)
    assert found.tolist() == [token for line in expected for token in vocabulary.encode(line)]
    assert not running_text(5, 3, "dev", vocabulary).equal(found)
    per_sentence = len(running_text(5, 200, "train", vocabulary)) / 200
    assert pytest.approx(7, abs=0.5) == TRAINED / per_sentence


def test_training_depends_on_the_seed_alone():
    """Con lo stesso seme gli stessi bit; con un altro seme, un altro modello."""
    text = torch.randint(11, (300,))
    first, again, other = (trained("RoPE", seed, text, 11, steps=2) for seed in (1, 1, 2))
    assert first.embedding.weight.equal(again.embedding.weight)
    assert not first.embedding.weight.equal(other.embedding.weight)


def test_the_sizes_of_the_page():
    """I numeri che la pagina dice a parole."""
    assert BASES == {"RoPE": 10_000, "RoPE 500k": 500_000}
    assert (TRAINED, LENGTHS, LONGER) == (64, (64, 80, 96, 128, 192, 256, 512), 256)
    assert (STEPS, EXTRA, TOKENS, WARMUP, REVIEW_RATE, JUDGED) == (600, 60, 1024, 200, 5e-4, 32)
    assert SEEDS == (1, 2, 3)


def test_training_is_study_at_the_rates_of_section_5_3():
    """Da capo: pesi del seme, poi i passi con il tasso di §5.3, dal primo."""
    text = torch.randint(11, (300,))
    torch.manual_seed(3)
    model = TextModel("RoPE", 11)
    study(model, text, TRAINED, [learning_rate(step, 64, 200) for step in (1, 2, 3)], 3)
    again = trained("RoPE", 3, text, 11, steps=3)
    assert model.embedding.weight.equal(again.embedding.weight)


def test_every_place_of_the_text_is_read(monkeypatch):
    """La prima finestra possibile e l'ultima capitano tutte e due."""
    seen = set()
    monkeypatch.setattr(
        TextModel, "hidden", lambda m, x: seen.update(x[:, 0].tolist()) or m.embedding(x)
    )
    study(TextModel("RoPE", 68), torch.arange(68), TRAINED, [0.0] * 10, 3)
    assert seen == {0, 1, 2, 3}


def test_a_step_reads_so_many_tokens(monkeypatch):
    """Ogni passo legge `TOKENS` token: più lunga è la finestra, meno finestre."""
    seen, forward = [], TextModel.hidden
    monkeypatch.setattr(TextModel, "hidden", lambda m, x: seen.append(x) or forward(m, x))
    text = torch.arange(2000)
    for length in (TRAINED, LONGER):
        study(TextModel("RoPE", 2000), text, length, [0.0], 3)
    assert [it.shape for it in seen] == [(16, 64), (4, 256)]
    assert all((it.diff(dim=1) == 1).all() for it in seen)


def test_a_small_training_learns():
    """Un testo che si ripete di quattro in quattro si impara in pochi passi, e si prevede."""
    text = torch.arange(700) % 4
    for scheme in ("RoPE", "ALiBi", "nessuna"):
        model = trained(scheme, 1, text, 4, steps=30)
        assert loss_at(model, text, TRAINED) < 0.5 < math.log(4)


def test_the_judgement_by_another_road():
    """Gli stessi token a ogni finestra; la media rifatta finestra per finestra."""
    text = torch.randint(11, (LENGTHS[-1] + 70,))
    model = TextModel("RoPE", 11)
    for length in (JUDGED, 80, 512):
        losses = []
        for end in (512, 544, 576):
            logits = model(text[end - length : end][None])[0].detach()
            right = text[end - length + 1 : end + 1]
            every = torch.nn.functional.cross_entropy(logits, right, reduction="none")
            losses += every[-32:].tolist()
        assert loss_at(model, text, length) == pytest.approx(sum(losses) / 96, rel=1e-5)


def test_lengthening_changes_speeds_and_nothing_else():
    """A finestra uguale non cambia nulla; a finestra doppia, ciò che ogni modo dice."""
    model, plain = TextModel("RoPE", 11), speeds(16)
    expected = {
        "com'è": (plain, 1.0),
        "interpolata": (plain / 2, 1.0),
        "base più grande": (speeds(16, 10000 * 2 ** (8 / 7)), 1.0),
        "a tratti": (by_parts(plain, 2.0, 64), sharpening(2.0)),
    }
    assert tuple(expected) == METHODS
    for method, (omega, sharp) in expected.items():
        lengthen(model, method, TRAINED)
        assert all(it.omega.equal(plain) and it.sharp == 1 for it in model.attentions)
        lengthen(model, method, 2 * TRAINED)
        for part in model.attentions:
            assert_equal(part.omega, omega, 1e-15)
            assert part.sharp == sharp


# I risultati


def test_runs_name_what_they_measure(monkeypatch):
    """Ogni misura porta il suo modo e la sua finestra; chi non è RoPE ne ha uno solo.

    Si ripassa a 256 token, con le velocità già cambiate, su un testo, e si giudica su un altro.
    """
    seen, studied = [], []
    learnt, text = torch.arange(700) % 11, torch.arange(600) % 11

    def judge(model, judged, length):
        assert judged is text
        seen.append((model.attentions[0].omega[-1].item(), length))
        return length / 7

    def review(model, known, length, rates, seed):
        assert known is learnt
        studied.append((model.attentions[0].omega[-1].item(), length, [*rates], seed))

    monkeypatch.setattr(rope, "loss_at", judge)
    monkeypatch.setattr(rope, "study", review)
    plain = runs_of(TextModel("ALiBi", 11), "ALiBi", 5, text)
    assert plain == [Run("ALiBi", "com'è", 0, 5, it, round(it / 7, 4)) for it in LENGTHS]
    seen.clear()
    model = TextModel("RoPE", 11)
    runs = runs_of(model, "RoPE", 6, text)
    assert [(it.method, it.length) for it in runs] == [(m, n) for m in METHODS for n in LENGTHS]
    lengthen(model, "interpolata", 512)
    assert seen[2 * 7 - 1] == (model.attentions[0].omega[-1].item(), 512)
    seen.clear()
    after = runs_after(model, 6, learnt, text, steps=3)
    assert after == [Run("RoPE", it, 3, 6, LONGER, round(LONGER / 7, 4)) for it in METHODS]
    assert seen[1] == (speeds(16)[-1].item() / 4, LONGER)
    assert studied == [(*it, [REVIEW_RATE] * 3, 6) for it in seen]


def test_a_review_leaves_the_model_as_it_was():
    """Il ripasso si fa su una copia; e cambia i pesi della copia."""
    text, model = torch.arange(600) % 11, TextModel("RoPE", 11)
    before = model.embedding.weight.detach().clone()
    none, some = (runs_after(model, 6, text, text, steps=it)[0].loss for it in (0, 2))
    assert model.embedding.weight.equal(before)
    assert none != some


def test_an_experiment_writes_every_run(tmp_path, monkeypatch):
    """Il file ha una riga per misura, con i semi e i passi chiesti; e si rilegge."""
    asked = []

    def train(scheme, seed, text, vocabulary, steps):
        asked.append((scheme, seed, vocabulary, steps, text.tolist()))
        return TextModel(scheme, 11)

    monkeypatch.setattr(rope, "trained", train)
    monkeypatch.setattr(rope, "loss_at", lambda model, text, length: text.sum().item())
    monkeypatch.setattr(rope, "study", lambda *_: None)
    threads = []
    monkeypatch.setattr(rope.torch, "set_num_threads", threads.append)
    kinds = {(1, 20_000, "train"): torch.tensor([3]), (2, 400, "dev"): torch.tensor([4])}
    monkeypatch.setattr(rope, "running_text", lambda *it: kinds[it[:3]])
    experiment(tmp_path / "runs.csv", seeds=(8, 9), steps=2)
    assert asked == [(scheme, seed, 4000, 2, [3]) for seed in (8, 9) for scheme in SCHEMES]
    assert threads == [1]
    runs = read_runs(tmp_path / "runs.csv")
    assert {it.loss for it in runs} == {4.0}
    assert Run("RoPE", "a tratti", EXTRA, 9, LONGER, 4.0) in runs
    assert len(runs) == 2 * (len(LENGTHS) * (len(SCHEMES) + 3) + 4)
    with (tmp_path / "runs.csv").open(newline="") as file:
        assert next(csv.reader(file)) == ["apprese", "com'è", "0", "8", "64", "4"]


def test_a_cell_by_hand():
    """La media, il minore e il maggiore delle sole misure chieste."""
    kinds = [("RoPE", "com'è", 0, 64), ("RoPE", "com'è", 100, 64), ("ALiBi", "com'è", 0, 64)]
    runs = [
        Run(a, b, c, seed, n, 10 * k + seed)
        for k, (a, b, c, n) in enumerate(kinds)
        for seed in (1, 2, 6)
    ]
    assert cell(runs, "RoPE", "com'è", 64) == Cell(3, 1, 6)
    assert cell(runs, "RoPE", "com'è", 64, 100) == Cell(13, 11, 16)
    assert cell(runs, "ALiBi", "com'è", 64) == Cell(23, 21, 26)


def test_published_results_are_whole():
    """Nel file ci sono tutti i modi, tutti i semi, tutte le finestre: e nient'altro."""
    runs = read_runs()
    expected = [(s, "com'è", 0, n) for s in SCHEMES for n in LENGTHS]
    expected += [("RoPE", m, 0, n) for m in METHODS[1:] for n in LENGTHS]
    expected += [("RoPE", m, EXTRA, LONGER) for m in METHODS]
    found = [(it.scheme, it.method, it.extra, it.length, it.seed) for it in runs]
    assert sorted(found) == sorted((*it, seed) for it in expected for seed in SEEDS)
    assert RESULTS.stat().st_size < 20_000


def less(first: list[float], second: list[float]) -> list[float]:
    """La differenza, seme per seme."""
    return [a - b for a, b in zip(first, second, strict=True)]


def test_trends_of_the_published_runs():
    """C18, C19: ciò che la pagina dice dei risultati, con le sue soglie, seme per seme."""
    of = {it[:5]: it.loss for it in read_runs()}

    def loss(scheme: str, length: int) -> list[float]:
        """La perdita di un modo com'è uscito dall'addestramento, seme per seme."""
        return [of[scheme, "com'è", 0, seed, length] for seed in SEEDS]

    def rise(scheme: str, length: int) -> list[float]:
        """Di quanto sale la perdita rispetto a quella di 64."""
        return less(loss(scheme, length), loss(scheme, TRAINED))

    def above(scheme: str, other: str, length: int) -> list[float]:
        """Di quanto un modo sta sopra un altro, alla stessa finestra."""
        return less(loss(scheme, length), loss(other, length))

    for scheme in ("apprese", "sinusoidi"):
        for rotating in BASES:
            gaps = above(scheme, rotating, 64)
            assert 0.09 < min(gaps) < max(gaps) < 0.2
        assert 0.2 < min(rise(scheme, 80)) < max(rise(scheme, 80)) < 0.45
    for rotating in BASES:
        assert 0.02 < min(above("ALiBi", rotating, 64)) < max(above("ALiBi", rotating, 64)) < 0.1
        gaps = above("nessuna", rotating, 64)
        assert 0.35 < min(gaps) < max(gaps) < 0.45
    assert min(less(rise("apprese", 80), rise("sinusoidi", 80))) > 0.05
    for length in (80, 96, 128, 192):
        assert min(above("apprese", "sinusoidi", length)) > 0.02
    gaps = above("apprese", "sinusoidi", 256)
    assert min(gaps) < 0 < max(gaps)
    assert max(rise("RoPE", 96)) < 0.02
    assert 0.2 < min(rise("RoPE", 128)) < max(rise("RoPE", 128)) < 0.35
    assert 1 < min(rise("RoPE", 256)) < max(rise("RoPE", 256)) < 1.3
    assert fmean(rise("RoPE", 256)) == pytest.approx(math.log(3), abs=0.1)
    assert all(abs(it) < 0.02 for length in LENGTHS for it in rise("ALiBi", length))
    for length in (64, 80):
        gaps = above("RoPE", "RoPE 500k", length)
        assert -0.01 < min(gaps) < 0 < max(gaps) < 0.01
    for length in LENGTHS[2:]:
        assert min(above("RoPE 500k", "RoPE", length)) > (0.01 if length < 512 else 0.004)
    assert 0.75 < min(rise("RoPE 500k", 128)) < max(rise("RoPE 500k", 128)) < 0.95
    assert fmean(rise("RoPE 500k", 128)) == pytest.approx(0.8, abs=0.05)
    assert 0.15 < min(rise("nessuna", 512)) < max(rise("nessuna", 512)) < 0.25


def test_trends_of_the_lengthened_runs():
    """Ciò che la pagina dice di chi si allunga, e dove il primo posto dipende dal seme."""
    of = {it[1:5]: it.loss for it in read_runs() if it.scheme == "RoPE"}

    def loss(method: str, length: int, extra: int) -> list[float]:
        """La perdita di un modo di allungare, seme per seme."""
        return [of[method, extra, seed, length] for seed in SEEDS]

    def rises(length: int, extra: int = 0) -> dict[str, list[float]]:
        """Di quanto sale, modo per modo, rispetto a quella di 64 prima di allungare."""
        return {it: less(loss(it, length, extra), loss("com'è", TRAINED, 0)) for it in METHODS}

    def best(found: dict[str, list[float]]) -> list[str]:
        """Il modo con la perdita minore, seme per seme."""
        return [min(METHODS, key=lambda it: found[it][n]) for n in range(len(SEEDS))]

    near, far, farther, reviewed = rises(128), rises(256), rises(512), rises(LONGER, EXTRA)
    assert set(best(near)) == {"base più grande"}
    assert 0 < min(near["base più grande"]) < max(near["base più grande"]) < 0.015
    assert fmean(near["interpolata"]) == pytest.approx(0.16, abs=0.01)
    assert max(less(near["interpolata"], near["com'è"])) < -0.05
    assert min(rises(80)["interpolata"]) > max(rises(80)["com'è"])
    assert sorted(best(far)) == ["a tratti", "a tratti", "base più grande"]
    assert 0.3 < min(far["base più grande"]) < max(far["base più grande"]) < 0.6
    assert fmean(far["base più grande"]) == pytest.approx(0.46, abs=0.01)
    gaps = sorted(less(far["base più grande"], far["a tratti"]))
    assert gaps[1:] == [pytest.approx(0.06, abs=0.005), pytest.approx(0.1, abs=0.006)]
    assert set(best(farther)) == {"a tratti"}
    assert min(reviewed["com'è"]) > 0
    for method in METHODS[1:]:
        assert max(reviewed[method]) < 0


# I disegni


def lines(picture: str, kind: str) -> list[list[float]]:
    """I numeri di ogni linea di una specie."""
    found = ET.fromstring(picture).iterfind(f".//{{*}}path[@class='{kind}']")
    return [
        [float(it) for it in line.get("d").strip("M").replace("V", " ").split()] for line in found
    ]


def texts(picture: str) -> list[str]:
    return [it.text for it in ET.fromstring(picture).iterfind(".//{*}text")]


def written(picture: str) -> list[tuple[str, float, float]]:
    """Ogni parola e dove sta."""
    found = ET.fromstring(picture).iterfind(".//{*}text")
    return [(it.text, float(it.get("x")), float(it.get("y"))) for it in found]


def size(picture: str) -> list[float]:
    return [float(it) for it in ET.fromstring(picture).get("viewBox").split()[2:]]


def hands(picture: str) -> list[tuple[float, float]]:
    """Le lancette, come differenza fra punta e centro; l'altezza cresce verso l'alto."""
    found = []
    for hand in ET.fromstring(picture).iterfind(".//{*}path"):
        origin, tip = (it.split() for it in hand.get("d")[1:].split("L"))
        found.append((float(tip[0]) - float(origin[0]), float(origin[1]) - float(tip[1])))
    return found


def test_hands_of_the_drawing_point_where_the_rotation_says():
    """Query e key ruotate; a distanza uguale l'angolo fra loro è lo stesso."""
    picture = rotation_drawing((1.0, 0.4), [(5, 2), (12, 9), (3, 3)], 0.7)
    found = hands(picture)
    expected = [(0, 0), (5, 2), (12, 9), (3, 3)]
    assert len(found) == 8
    angles = [math.atan2(up, across) for across, up in found]
    for row, (i, j) in enumerate(expected):
        q, k = angles[2 * row : 2 * row + 2]
        assert math.cos(q - 1.0 - 0.7 * i) == pytest.approx(1, abs=1e-5)
        assert math.cos(k - 0.4 - 0.7 * j) == pytest.approx(1, abs=1e-5)
    assert all(math.hypot(*it) == pytest.approx(40, abs=0.02) for it in found)
    assert [it for it in texts(picture) if len(it) > 1] == [
        "prima",
        "i = 5, j = 2",
        "i = 12, j = 9",
        "i = 3, j = 3",
    ]
    circles = [
        (float(it.get("cx")), float(it.get("cy")))
        for it in ET.fromstring(picture).iterfind(".//{*}circle")
    ]
    assert circles == [(70, 74), (200, 74), (330, 74), (70, 234)]
    widths = [it.get("stroke-width") for it in ET.fromstring(picture).iterfind(".//{*}path")]
    assert widths == ["3", "1.5"] * 4
    assert size(picture) == [400, 320]
    names = written(picture)
    for row, (x, y) in enumerate(circles):
        for hand, (name, across, down) in enumerate(names[3 * row : 3 * row + 2]):
            right, up = found[2 * row + hand]
            assert name == "qk"[hand]
            assert across == pytest.approx(x + right * 55 / 40, abs=0.02)
            assert down == pytest.approx(y + 4 - up * 55 / 40, abs=0.02)
        assert names[3 * row + 2][1:] == (x, y + 76)


def test_ticks_of_the_drawing_are_the_wavelengths():
    """Una tacca per coppia, dove sta il logaritmo della sua lunghezza d'onda."""
    omega = 2 * math.pi / torch.tensor([10.0, 1000.0, 100_000.0], dtype=torch.float64)
    picture = wavelength_drawing([("una", omega), ("due", omega / 10)], [(100, "qui")])
    decade = 380 / math.log10(4e5)
    ten = 10 + decade * math.log10(2)
    root = ET.fromstring(picture)
    for row, line in enumerate(root.iterfind(".//{*}path[@class='onde']")):
        starts = [it.split("v")[0].split() for it in line.get("d")[1:].split("M")]
        assert len(starts) == 3
        for number, (x, y) in enumerate(starts):
            assert float(x) == pytest.approx(ten + (2 * number + row) * decade, abs=0.06)
            assert float(y) == 52 + 46 * row
    dashed = root.find(".//{*}path[@stroke-dasharray]").get("d")
    assert float(dashed.split()[0][1:]) == pytest.approx(ten + decade, abs=0.06)
    assert dashed.split()[1] == "24V122"
    assert texts(picture) == ["qui", "una", "due", "10¹", "10²", "10³", "10⁴", "10⁵", "10⁶"]
    assert size(picture) == [400, 146]
    words = written(picture)
    assert words[0][1:] == pytest.approx((ten + decade, 16), abs=0.1)
    assert [it[1:] for it in words[1:3]] == [(10, 46), (10, 92)]
    for number, (_, x, y) in enumerate(words[3:]):
        assert (x, y) == pytest.approx((ten + number * decade, 138), abs=0.1)


def test_heights_are_kept_apart():
    """Chi è troppo vicino scende; l'ordine resta."""
    assert apart([10.0, 50.0, 12.0], 15.0) == [10, 50, 25]
    assert apart([30.0, 20.0, 10.0], 15.0) == [40, 25, 10]


def test_lines_of_the_loss_stand_where_the_numbers_say():
    """Un punto per finestra, alto quanto la media; una barra dal seme migliore al peggiore."""
    cells = [Cell(2.5 + n / 10, 2.4 + n / 10, 2.7 + n / 10) for n in range(7)]
    picture = loss_drawing([("una", cells), ("due", cells)])
    bars = lines(picture, "semi")
    assert len(bars) == 14
    for n, (length, bar) in enumerate(zip(LENGTHS, bars[:7], strict=True)):
        assert bar[0] == pytest.approx(40 + 90 * math.log2(length / 64), abs=0.06)
        assert bar[1:] == pytest.approx([263 - 13 * n, 224 - 13 * n], abs=0.06)
    first = ET.fromstring(picture).find(".//{*}polyline")
    points = [[float(it) for it in point.split(",")] for point in first.get("points").split()]
    assert points == [[bar[0], pytest.approx(bar[1] - 13, abs=0.06)] for bar in bars[:7]]
    assert first.get("stroke-dasharray") == DASHES[0]
    named = {it.text: float(it.get("y")) for it in ET.fromstring(picture).iterfind(".//{*}text")}
    assert (named["una"], named["due"]) == (176, 191)
    assert (named["2,5"], named["4,0"]) == (254, 59)
    assert size(picture) == [400, 296]
    assert [it for it in written(picture) if it[0] not in ("una", "due")] == [
        ("2,5", 34, 254),
        ("3,0", 34, 189),
        ("3,5", 34, 124),
        ("4,0", 34, 59),
        ("64", 40, 270),
        ("128", 130, 270),
        ("256", 220, 270),
        ("512", 310, 270),
        ("token di finestra", 175, 288),
    ]
    assert {it[1] for it in written(picture) if it[0] in ("una", "due")} == {316}
    rules = [it.get("d") for it in ET.fromstring(picture).iterfind(".//{*}path[@opacity]")]
    assert rules == [f"M40 {y}H310" for y in (250, 185, 120, 55)]
    assert len(set(DASHES)) == 6
    assert len(DASHES) == len(SCHEMES)


# Il Fortran della pagina


def test_fortran_on_the_page(fortran, call_fortran):
    """Se vieni dal Fortran: la stessa rotazione su COMPLEX, e DOT_PRODUCT che coniuga da sé."""
    library = fortran("beyond/rope")
    query, key, omega = vectors(11, 14), vectors(11, 14), speeds(14)
    q, k = query.clone(), key.clone()
    call_fortran(library.turn, 11, 7, omega, q)
    call_fortran(library.turn, 11, 7, omega, k)
    assert_equal(q, rotated(query, torch.arange(11), omega))
    scores = torch.zeros(11, 11, dtype=torch.float64)
    call_fortran(library.scores, 11, 7, q, k, scores)
    assert_equal(scores, q @ k.T)
    for i, j in ((3, 1), (10, 8), (2, 9)):
        assert scores[i, j].item() == pytest.approx(
            relative_score(query[i], key[j], i - j, omega).item()
        )


# Gli errori


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: speeds(7), "d_k: dato: 7; atteso: un numero pari, due componenti per coppia"),
        (lambda: speeds(0), "d_k: dato: 0; atteso: un numero pari, due componenti per coppia"),
        (lambda: speeds(-2), "d_k: dato: -2; atteso: un numero pari, due componenti per coppia"),
        (lambda: speeds(4, 1.0), "base: dato: 1.0; atteso: maggiore di 1"),
        (lambda: speeds(4, 0.5), "base: dato: 0.5; atteso: maggiore di 1"),
        (
            lambda: rotated(torch.zeros(3, 6), torch.arange(3), speeds(4)),
            "x: dato: larghezza 6; atteso: 4",
        ),
        (
            lambda: rotated(torch.zeros(3, 4), torch.arange(2), speeds(4)),
            "x: dato: 3 righe; atteso: 2, una per posizione",
        ),
        (lambda: interpolated(speeds(4), 0.5), "scale: dato: 0.5; atteso: almeno 1"),
        (lambda: stretched_base(2, 2.0), "d_k: dato: 2; atteso: almeno 4, due coppie"),
        (lambda: stretched_base(4, 0.5), "scale: dato: 0.5; atteso: almeno 1"),
        (lambda: kept(speeds(4), 64, 1.0), "beta: dato: 1.0; atteso: più di 1"),
        (lambda: kept(speeds(4), 64, 0.5), "beta: dato: 0.5; atteso: più di 1"),
        (lambda: sharpening(0.5), "scale: dato: 0.5; atteso: almeno 1"),
        (lambda: slopes(0), "heads: dato: 0; atteso: almeno 1"),
        (lambda: distance_penalty(2, 0), "n: dato: 0; atteso: almeno 1"),
        (
            lambda: TextModel("altro", 5),
            "scheme: dato: altro; atteso: uno fra apprese, sinusoidi, RoPE, RoPE 500k, ALiBi, "
            "nessuna",
        ),
        (
            lambda: lengthen(TextModel("RoPE", 5), "altro", 64),
            "method: dato: altro; atteso: uno fra com'è, interpolata, base più grande, a tratti",
        ),
        (
            lambda: loss_at(TextModel("RoPE", 5), torch.zeros(600).long(), 31),
            "length: dato: 31; atteso: da 32 a 512",
        ),
        (
            lambda: loss_at(TextModel("RoPE", 5), torch.zeros(600).long(), 513),
            "length: dato: 513; atteso: da 32 a 512",
        ),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_wrong_arguments_are_refused(call, message):
    """Ogni errore nomina l'argomento, ciò che è stato dato e ciò che era atteso."""
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        call()


@pytest.mark.usefixtures("our_own_errors")
def test_integers_do_not_rotate():
    """Ruotare interi li troncherebbe."""
    with pytest.raises(TypeError, match=r"^x: dato: torch.int64; atteso: un tensore"):
        rotated(torch.zeros(3, 4, dtype=torch.int64), torch.arange(3), speeds(4))


@pytest.mark.usefixtures("our_own_errors")
def test_a_missing_cell_is_said():
    """Una misura che non c'è non diventa una media vuota."""
    message = r"scheme, method, extra, length: dato: ['RoPE', \"com'è\", 0, 64]; atteso: una misura"
    with pytest.raises(ValueError, match="^" + re.escape(message.replace("\\", ""))):
        cell([], "RoPE", "com'è", 64)
