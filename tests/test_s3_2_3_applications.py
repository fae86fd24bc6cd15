"""§3.2.3: i tre usi, le due maschere, e il futuro che non si vede."""

import pytest
import torch
from torch import Tensor

import attention as facade
from attention import (
    MultiHeadAttention,
    attention_weights,
    causal_mask,
    fused_attention,
    padding_mask,
    scaled_dot_product_attention,
)
from attention.s3_2_3_applications import (
    decoder_self_attention,
    encoder_decoder_attention,
    encoder_self_attention,
)

PADDING = 0


def random_module() -> MultiHeadAttention:
    return MultiHeadAttention(d_model=6, heads=3).double()


def random_rows(*shape: int) -> Tensor:
    return torch.randn(*shape, 6, dtype=torch.float64)


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def dependence(output: Tensor, source: Tensor) -> Tensor:
    """Elemento [i, j] vero se l'uscita i dipende dalla riga j di `source`: il gradiente non è 0."""
    rows = [torch.autograd.grad(row.sum(), source, retain_graph=True)[0] for row in output]
    return torch.stack([(gradient != 0).any(dim=-1) for gradient in rows])


# ¶1: gli strumenti, le maschere


def test_causal_mask_allows_the_position_itself_and_the_previous_ones(device):
    """§3.2.3 •c: vero dove la colonna non supera la riga, diagonale compresa."""
    triangle = [[True, False, False], [True, True, False], [True, True, True]]
    mask = causal_mask(3, torch.device(device))
    assert mask.tolist() == triangle
    assert mask.device.type == device
    assert mask.dtype == torch.bool
    assert causal_mask(1).tolist() == [[True]]
    assert causal_mask(10).sum() == 10 * 11 / 2


def test_padding_mask_is_one_row_for_every_query():
    """§3.2.3 ¶1: [..., n] identificatori, [..., 1, n] permessi: falso sul padding."""
    tokens = torch.tensor([[7, 4, 0, 0, 0], [3, 0, 9, 2, 0]])
    expected = [[[True, True, False, False, False]], [[True, False, True, True, False]]]
    assert padding_mask(tokens, PADDING).tolist() == expected
    assert padding_mask(tokens.int(), padding_id=7).sum() == 9
    assert padding_mask(tokens[0], PADDING).shape == (1, 5)


def test_both_masks_allow_where_both_allow():
    """§3.2.3 ¶1: le maschere si combinano con `&`; il padding in testa svuota delle righe."""
    trailing = causal_mask(4) & padding_mask(torch.tensor([7, 4, 0, 0]), PADDING)
    assert trailing.int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0]]
    leading = causal_mask(4) & padding_mask(torch.tensor([0, 0, 7, 4]), PADDING)
    assert leading.any(dim=-1).tolist() == [False, False, True, True]


# •a: attenzione encoder-decoder


def test_encoder_decoder_attention_asks_in_the_decoder_and_reads_in_the_encoder():
    """§3.2.3 •a: query dal decoder, key e value dall'uscita dell'encoder."""
    module, target, memory = random_module(), random_rows(2, 3), random_rows(2, 5)
    mask = padding_mask(torch.tensor([[7, 4, 9, 0, 0], [7, 4, 9, 2, 0]]), PADDING)
    for allowed in (None, mask):
        output = encoder_decoder_attention(module, target, memory, allowed)
        assert output.shape == (2, 3, 6)
        assert_equal(output, module.forward_by_head(target, memory, memory, allowed))


def test_every_decoder_position_sees_every_source_position():
    """§3.2.3 •a: pesi m×n tutti positivi, nessuna maschera causale, nessun token senza effetto."""
    module, target, memory = random_module(), random_rows(3), random_rows(5).requires_grad_()
    weights = module.weights(target, memory)
    assert weights.shape == (3, 3, 5)
    assert (weights > 0).all()
    assert dependence(encoder_decoder_attention(module, target, memory), memory).all()


# •b: auto-attenzione dell'encoder


def test_encoder_self_attention_asks_and_reads_in_the_same_place():
    """§3.2.3 •b: query, key e value dall'uscita dello strato precedente dell'encoder."""
    module, source = random_module(), random_rows(2, 5)
    mask = padding_mask(torch.tensor([[7, 4, 9, 0, 0], [7, 4, 9, 2, 0]]), PADDING)
    for allowed in (None, mask):
        output = encoder_self_attention(module, source, allowed)
        assert_equal(output, module.forward_by_head(source, source, source, allowed))


def test_every_encoder_position_sees_all_the_others():
    """§3.2.3 •b: ogni posizione guarda tutte le posizioni, prima e dopo di lei."""
    module, source = random_module(), random_rows(5).requires_grad_()
    assert dependence(encoder_self_attention(module, source), source).all()


def test_self_attention_scores_are_not_symmetric():
    """§3.2.3 •b: in ogni testa, dallo stesso vettore; simmetrici appena W^Q = W^K nel modulo."""
    module, source = random_module(), random_rows(5)

    def scores():
        query, key, _ = module.project(source, source, source)
        return query @ key.mT

    assert (scores() - scores().mT).abs().amax(dim=(-2, -1)).min() > 1e-3
    with torch.no_grad():
        w_q, w_k, _ = module.projections
        w_k.copy_(w_q)
    assert_equal(scores(), scores().mT)


# •c: auto-attenzione del decoder


def test_causal_weights_by_hand():
    """§3.2.3 •c: punteggi uguali; righe (1), (½, ½), (⅓, ⅓, ⅓); dopo la softmax, ⅓, ⅔, 1."""
    query = key = torch.zeros(3, 2, dtype=torch.float64)
    expected = torch.tensor([[6, 0, 0], [3, 3, 0], [2, 2, 2]]).double() / 6
    assert_equal(attention_weights(query, key, causal_mask(3)), expected)
    masked_after = attention_weights(query, key) * causal_mask(3)
    assert_equal(masked_after.sum(dim=-1), torch.tensor([1, 2, 3]).double() / 3)


def test_decoder_self_attention_is_causal_with_and_without_padding():
    """§3.2.3 •c: una maschera causale, e insieme quella di padding quando c'è."""
    module, target = random_module(), random_rows(2, 5)
    padding = padding_mask(torch.tensor([[0, 0, 7, 4, 9], [7, 4, 9, 2, 0]]), PADDING)
    triangle = torch.ones(5, 5).tril().bool()
    for allowed, visible in ((None, triangle), (padding, triangle & padding)):
        output = decoder_self_attention(module, target, allowed)
        assert_equal(output, module.forward_by_head(target, target, target, visible))


def test_future_weights_are_exactly_zero_and_rows_sum_to_one():
    """§3.2.3 •c: sopra la diagonale zero esatto, e ogni riga è ancora una media."""
    module, target = random_module(), random_rows(5)
    weights = module.weights(target, target, causal_mask(5))
    assert (weights.triu(1) == 0).all()
    assert (weights.tril() > 0).sum() == 3 * 15
    assert_equal(weights.sum(dim=-1), torch.ones(3, 5, dtype=torch.float64))


def test_no_gradient_comes_from_the_future():
    """§3.2.3 •c: la posizione i dipende dalle posizioni fino a i compresa, e solo da quelle."""
    module, target = random_module(), random_rows(5).requires_grad_()
    seen = dependence(decoder_self_attention(module, target), target)
    assert seen.equal(torch.ones(5, 5).tril().bool())


@pytest.mark.parametrize("form", ["letter", "fused"])
def test_gradients_to_future_keys_and_values_are_exactly_zero(form):
    """§3.2.3 •c: vale per le key e per i value presi ciascuno per sé, nelle due forme."""
    query, key, value = (random_rows(5).requires_grad_() for _ in range(3))
    if form == "fused":
        output = fused_attention(query, key, value, causal=True)
    else:
        output = scaled_dot_product_attention(query, key, value, causal_mask(5))
    assert dependence(output, value).equal(causal_mask(5))
    seen = dependence(output, key)
    seen[0, 0] = True  # con una sola key il peso è 1 qualunque essa sia
    assert seen.equal(causal_mask(5))


def test_a_prefix_gets_the_same_outputs_as_in_the_whole_sequence():
    """§3.2.3 •c: ciò che è scritto non cambia quando si aggiungono parole."""
    module, target = random_module(), random_rows(5)
    whole = decoder_self_attention(module, target)
    for length in range(1, 6):
        assert_equal(decoder_self_attention(module, target[:length]), whole[:length])


def test_masking_after_the_softmax_leaks_the_future():
    """§3.2.3 •c: azzerare dopo non basta; le righe non sommano a 1 e il denominatore tradisce."""
    query, key = random_rows(4), random_rows(4)
    changed = torch.cat([key[:3], 3 * query[1:2]])
    mask = causal_mask(4)
    before, after = (attention_weights(query, k, mask)[1] for k in (key, changed))
    assert after.equal(before)
    before, after = ((attention_weights(query, k) * mask)[1] for k in (key, changed))
    assert before.sum() < 0.99
    assert (after - before).abs().max() > 0.01


# Il padding


def lengthen(x: Tensor, side: str) -> tuple[Tensor, Tensor, slice]:
    """Allunga una frase con righe qualsiasi: la frase lunga, la maschera, dove sta la vera."""
    garbage = 100 * random_rows(2)
    n = x.size(-2)
    if side == "right":
        rows, tokens, real = [x, garbage], [1] * n + [PADDING] * 2, slice(0, n)
    else:
        rows, tokens, real = [garbage, x], [PADDING] * 2 + [1] * n, slice(2, None)
    return torch.cat(rows), padding_mask(torch.tensor(tokens), PADDING), real


sides = pytest.mark.parametrize("side", ["right", "left"])


@sides
def test_padding_never_changes_the_real_positions(side):
    """§3.2.3 ¶1: una frase dà lo stesso risultato da sola o allungata, nei tre usi."""
    module, source, target = random_module(), random_rows(5), random_rows(3)
    long_source, source_mask, real_source = lengthen(source, side)
    long_target, target_mask, real_target = lengthen(target, side)
    assert_equal(
        encoder_self_attention(module, long_source, source_mask)[real_source],
        encoder_self_attention(module, source),
    )
    assert_equal(
        encoder_decoder_attention(module, target, long_source, source_mask),
        encoder_decoder_attention(module, target, source),
    )
    assert_equal(
        decoder_self_attention(module, long_target, target_mask)[real_target],
        decoder_self_attention(module, target),
    )


def test_right_padding_needs_no_mask_in_the_decoder():
    """§3.2.3 •c: le posizioni vere non guardano comunque ciò che le segue."""
    module, target = random_module(), random_rows(3)
    padded, _, real = lengthen(target, "right")
    assert_equal(
        decoder_self_attention(module, padded)[real], decoder_self_attention(module, target)
    )


@sides
def test_only_left_padding_makes_empty_rows_and_they_give_zeros(side):
    """§3.2.3 •c: con il padding in testa le prime righe sono vuote: zeri, e nessun NaN."""
    module = random_module()
    target, mask, _ = lengthen(random_rows(3), side)
    target.requires_grad_()
    with torch.autograd.set_detect_anomaly(True):
        output = decoder_self_attention(module, target, mask)
        output.square().sum().backward()
    empty = (output == 0).all(dim=-1)
    assert empty.tolist() == [side == "left"] * 2 + [False] * 3
    assert all(parameter.grad.isfinite().all() for parameter in module.parameters())
    assert target.grad.isfinite().all()


# Gli errori


def test_causal_mask_needs_a_position():
    """n è almeno 1."""
    with pytest.raises(ValueError, match=r"^n: dato: 0; atteso: almeno una posizione$"):
        causal_mask(0)


@pytest.mark.parametrize(
    ("tokens", "given"),
    [
        ([7, 4], "list"),
        (torch.zeros(2), "torch.float32"),
        (torch.zeros(2, dtype=torch.bool), "torch.bool"),
        (torch.zeros(2, dtype=torch.complex64), "torch.complex64"),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_padding_mask_needs_integers(tokens, given):
    """Gli identificatori sono interi: un tensore d'altro tipo è un errore, e lo si dice."""
    message = f"^tokens: dato: {given}; atteso: un tensore di identificatori interi$"
    with pytest.raises(TypeError, match=message):
        padding_mask(tokens, PADDING)


@pytest.mark.usefixtures("our_own_errors")
def test_decoder_refuses_a_mask_of_numbers():
    """La maschera di padding si controlla prima di combinarla con quella causale."""
    message = r"^mask: dato: torch.float64; atteso: un tensore torch.bool \(vero = guarda\)$"
    with pytest.raises(TypeError, match=message):
        decoder_self_attention(random_module(), random_rows(5), random_rows(5)[:, :5])
    with pytest.raises(ValueError, match=r"^mask: dato: \[1, 3\]; atteso: .* \[5, 5\]$"):
        decoder_self_attention(random_module(), random_rows(5), causal_mask(3)[:1])


# Il Fortran della pagina


def test_fortran_on_the_page(fortran, call_fortran):
    """§3.2.3 •c: il ciclo che si ferma a i, com'è scritto sulla pagina, vale la maschera."""
    query, key, value = random_rows(5), random_rows(5), random_rows(5)
    output = torch.zeros(5, 6, dtype=torch.float64)
    routine = fortran("s3_2_3_applications").causal_attention
    call_fortran(routine, 5, 6, query, key, value, output)
    assert_equal(output, scaled_dot_product_attention(query, key, value, causal_mask(5)))


# La porta d'ingresso del pacchetto


def test_the_package_offers_exactly_these_names():
    """Chi usa l'edizione importa da `attention` questi nomi."""
    assert sorted(facade.__all__) == [
        "BASE",
        "BIG",
        "FeedForward",
        "MultiHeadAttention",
        "READER",
        "SharedEmbedding",
        "Transformer",
        "TransformerConfig",
        "attention_weights",
        "causal_mask",
        "fused_attention",
        "log_probabilities",
        "padding_mask",
        "scaled_dot_product_attention",
        "shift_right",
        "sinusoids",
    ]
    assert all(hasattr(facade, name) for name in facade.__all__)
