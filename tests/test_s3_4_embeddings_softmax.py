"""§3.4: una matrice per tre usi, contro tre copie; la softmax e la perdita, contro la matita."""

import ctypes
import math
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from attention import (
    BASE,
    SharedEmbedding,
    Transformer,
    TransformerConfig,
    log_probabilities,
    sinusoids,
)
from attention.s3_4_embeddings_softmax import (
    TokenScores,
    at_least_float32,
    check_tokens,
    in_cache,
    is_readable,
    scores_in_place,
    scores_to_compile,
)

SMALL = TransformerConfig(layers=2, d_model=8, d_ff=11, heads=2, dropout=0.0, vocabulary=13)


def random_module(vocabulary: int = 11, d_model: int = 5, device: str = "cpu") -> SharedEmbedding:
    return SharedEmbedding(vocabulary, d_model).to(device, torch.float64)


def random_rows(*shape: int, device: str = "cpu") -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, device=device)


def rms(x: Tensor) -> float:
    """Il valore efficace: la radice della media dei quadrati."""
    return x.detach().double().square().mean().sqrt().item()


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


# ¶1: la tabella degli embedding


def test_an_embedding_is_a_row_times_the_root_of_d_model(device):
    """§3.4 ¶1: il vettore di un token è la sua riga, componente per componente, per √d_model."""
    module = random_module(device=device)
    tokens = torch.tensor([[3, 0, 10], [10, 7, 3]], device=device)
    vectors = module(tokens)
    assert vectors.shape == (2, 3, 5)
    for b in range(2):
        for i in range(3):
            for c in range(5):
                expected = module.weight[tokens[b, i], c].item() * math.sqrt(5)
                assert vectors[b, i, c].item() == pytest.approx(expected, rel=1e-14)


def test_an_embedding_is_a_one_hot_row_times_the_matrix():
    """§3.4 ¶1: leggere una riga e moltiplicare un vettore di soli zeri e un 1 è lo stesso."""
    module, tokens = random_module(), torch.tensor([3, 0, 10, 3])
    one_hot = F.one_hot(tokens, 11).double()
    assert_equal(module(tokens), one_hot @ module.weight * math.sqrt(5))


def test_the_same_token_has_the_same_vector_wherever_it_is():
    """§3.4 ¶1: la tabella non sa nulla della posizione: quella si somma dopo, in §3.5."""
    vectors = random_module()(torch.tensor([3, 0, 10, 3]))
    assert vectors[0].equal(vectors[3])
    assert not vectors[0].equal(vectors[1])


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_identifiers_may_be_of_32_or_64_bits(dtype):
    """§3.4 ¶1: gli identificatori sono interi di 32 o di 64 bit, e danno gli stessi numeri."""
    module, tokens = random_module(), torch.tensor([[3, 0, 10]], dtype=dtype)
    assert module(tokens).equal(module(tokens.long()))
    hidden = random_rows(1, 3, 5)
    for ours, expected in zip(
        module.score(hidden, tokens), module.score(hidden, tokens.long()), strict=True
    ):
        assert ours.equal(expected)


# ¶1: il fattore √d_model


def test_the_root_brings_the_embeddings_from_0_0442_to_1():
    """§3.4 ¶1: con N(0, 1/√d) il valore efficace passa da 0,0442 a 1; la posizione ha 0,7071."""
    module, tokens = SharedEmbedding(1009, 512), torch.arange(1009)
    assert rms(module.weight) == pytest.approx(0.0442, abs=2e-4)
    assert rms(module(tokens)) == pytest.approx(1, abs=5e-3)
    assert rms(sinusoids(101, 512)) == pytest.approx(math.sqrt(0.5), abs=1e-12)


def test_without_the_root_the_position_would_weigh_16_times_the_token():
    """§3.4 ¶1: √512/√2 = 16 fra i valori efficaci; con il fattore, 0,71."""
    assert math.sqrt(512) * math.sqrt(0.5) == pytest.approx(16)
    module = SharedEmbedding(1009, 512)
    assert rms(sinusoids(101, 512)) / rms(module.weight) == pytest.approx(16, abs=0.1)


def test_scores_start_with_unit_variance_only_with_the_small_rows():
    """§3.4 ¶1: da un vettore normalizzato, std 1 con le righe piccole e √d con le righe grandi."""
    module = SharedEmbedding(4001, 512)
    hidden = F.layer_norm(torch.randn(7, 512), (512,))
    assert module.logits(hidden).std().item() == pytest.approx(1, abs=0.03)
    large = (module.weight * math.sqrt(512)).detach()
    assert (hidden @ large.T).std().item() == pytest.approx(math.sqrt(512), rel=0.03)


def test_initial_values_are_normal_with_deviation_one_over_the_root():
    """§3.4 ¶1: media zero, deviazione 1/√d_model, code da normale; `reset_parameters` riestrae."""
    module = SharedEmbedding(1009, 37)
    for _ in range(2):
        scaled = module.weight.detach() * math.sqrt(37)
        assert scaled.mean().item() == pytest.approx(0, abs=0.02)
        assert scaled.std().item() == pytest.approx(1, abs=0.02)
        assert (scaled.abs() > 2).double().mean().item() == pytest.approx(0.0455, abs=0.005)
        with torch.no_grad():
            module.weight.fill_(9)
        module.reset_parameters()


# ¶1: la trasformazione lineare e la softmax


def test_a_logit_is_a_dot_product_with_a_row(device):
    """§3.4 ¶1: il punteggio di una voce è il prodotto scalare con la sua riga, senza √d_model."""
    module, hidden = random_module(device=device), random_rows(2, 3, 5, device=device)
    logits = module.logits(hidden)
    assert logits.shape == (2, 3, 11)
    for b in range(2):
        for i in range(3):
            for v in range(11):
                expected = sum((hidden[b, i, c] * module.weight[v, c]).item() for c in range(5))
                assert logits[b, i, v].item() == pytest.approx(expected, abs=1e-12)


def test_a_linear_layer_of_torch_can_hold_the_same_matrix():
    """§3.4 ¶1: `nn.Linear` senza bias conserva proprio [voci, d_model]: nulla si traspone."""
    module, twin = random_module(), nn.Linear(5, 11, bias=False).double()
    twin.weight = module.weight
    hidden = random_rows(3, 5)
    assert_equal(module.logits(hidden), twin(hidden))


def test_probabilities_are_the_softmax_over_the_vocabulary():
    """§3.4 ¶1: esponenziali divisi per la loro somma, lungo l'ultimo asse; sommano a 1."""
    logits = random_rows(2, 3, 11)
    expected = logits.exp() / logits.exp().sum(dim=2, keepdim=True)
    probabilities = log_probabilities(logits).exp()
    assert_equal(probabilities, expected)
    assert_equal(probabilities.sum(dim=-1), torch.ones(2, 3).double())


@given(st.floats(-300, 300))
def test_adding_a_constant_to_every_score_changes_no_probability(constant):
    """§3.4 ¶1: della softmax contano solo le differenze fra i punteggi."""
    logits = random_rows(3, 11)
    assert_equal(log_probabilities(logits + constant), log_probabilities(logits), 1e-10)


def test_an_improbable_token_keeps_its_logarithm():
    """§3.4 ¶1: a −200 la probabilità in FP32 è zero, ma il logaritmo calcolato direttamente no."""
    logits = torch.tensor([[0.0, -200.0]])
    assert logits.softmax(dim=-1)[0, 1].log().item() == -math.inf
    assert log_probabilities(logits)[0, 1].item() == -200
    assert log_probabilities(torch.tensor([[1e4, 0.0]])).tolist() == [[0, -1e4]]


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_logarithms_are_in_single_precision_at_least(dtype, expected):
    """§3.4 ¶1: da tipi corti si esce in FP32, dalla doppia precisione in doppia."""
    assert at_least_float32(dtype) == expected
    logits = random_rows(3, 11).to(dtype)
    logarithms = log_probabilities(logits)
    assert logarithms.dtype == expected
    exact = log_probabilities(logits.double())
    assert_equal(
        logarithms.double(), exact, 4 * torch.finfo(expected).eps * exact.abs().max().item()
    )


def test_scores_differ_from_logarithms_by_one_number_per_row():
    """§3.4 ¶1: log-softmax toglie a tutti i punteggi di una riga lo stesso numero."""
    logits = random_rows(3, 11)
    removed = logits - log_probabilities(logits)
    assert_equal(removed, torch.logsumexp(logits, dim=1, keepdim=True).expand(3, 11))


E_BY_HAND = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0], [2, 0, 1, 0]], dtype=torch.float64)


def by_hand() -> SharedEmbedding:
    """La tabella di «A matita»: tre voci larghe 4."""
    module = random_module(3, 4)
    with torch.no_grad():
        module.weight.copy_(E_BY_HAND)
    return module


def test_embeddings_and_probabilities_by_hand():
    """§3.4 ¶1: √4 = 2; da h = (ln 2, 0, 0, 0), probabilità 2/7, 1/7, 4/7: il caso a matita."""
    module = by_hand()
    assert module(torch.tensor([2, 0, 2])).tolist() == [[4, 0, 2, 0], [2, 0, 0, 2], [4, 0, 2, 0]]
    hidden = torch.tensor([[math.log(2), 0, 0, 0]], dtype=torch.float64)
    logits = module.logits(hidden)
    assert_equal(logits, torch.tensor([[1.0, 0, 2]]).double() * math.log(2))
    expected = torch.tensor([[2.0, 1, 4]]).double() / 7
    assert_equal(log_probabilities(logits).exp(), expected)
    chosen, average = module.score(hidden, torch.tensor([2]))
    assert chosen.item() == pytest.approx(math.log(4 / 7))
    assert average.item() == pytest.approx(math.log(2 / 7))


def test_gradients_by_hand():
    """§3.4 ¶1: la perdita muove ogni riga di p − 1[bersaglio]; la lettura, solo le righe lette."""
    module, hidden = by_hand(), torch.tensor([[math.log(2), 0, 0, 0]], dtype=torch.float64)
    chosen, _ = module.score(hidden, torch.tensor([2]))
    (gradient,) = torch.autograd.grad(-chosen.sum(), module.weight)
    expected = torch.zeros(3, 4).double()
    expected[:, 0] = torch.tensor([2.0, 1, -3]).double() / 7 * math.log(2)
    assert_equal(gradient, expected)
    module(torch.tensor([2, 0, 2])).sum().backward()
    assert module.weight.grad.to_dense().tolist() == [[2] * 4, [0] * 4, [4] * 4]


# ¶1: una matrice sola (T18)


def test_the_model_has_one_table_and_one_storage():
    """§3.4 ¶1: un solo parametro largo quanto il vocabolario, uno solo nel file dei pesi."""
    model = Transformer(SMALL)
    tables = [name for name, value in model.named_parameters() if 13 in value.shape]
    assert tables == ["embedding.weight"]
    assert [name for name, value in model.state_dict().items() if 13 in value.shape] == tables


def test_changing_a_row_changes_all_three_uses():
    """§3.4 ¶1: la riga di un token serve alla sorgente, alla destinazione e al suo punteggio."""
    model, token = Transformer(SMALL).double().eval(), 7
    source, target = torch.tensor([[3, token, 5]]), torch.tensor([[1, token]])
    without = torch.tensor([[3, 4, 5]]), torch.tensor([[1, 4]])

    def uses() -> tuple[Tensor, Tensor, Tensor]:
        return (
            model.hidden(source, without[1]),
            model.hidden(without[0], target)[:, 1],
            model(*without)[..., token],
        )

    before = uses()
    with torch.no_grad():
        model.embedding.weight[token] += random_rows(8)
    for old, new in zip(before, uses(), strict=True):
        assert (new - old).abs().max() > 1e-3


def test_a_constant_added_to_a_row_leaves_its_score_at_the_start():
    """§3.4 ¶1: finché bias è zero, LayerNorm dà vettori a somma zero: una costante non si vede."""
    model = Transformer(SMALL).double().eval()
    source, target = torch.tensor([[3, 4, 5]]), torch.tensor([[1, 4]])
    before = model(source, target)
    with torch.no_grad():
        model.embedding.weight[7] += 0.3
    assert_equal(model(source, target), before)


def test_a_decoder_that_did_nothing_would_repeat_the_token_it_read():
    """§3.4 ¶1: con una matrice sola, ogni riga ha il punteggio massimo con sé stessa."""
    module, tokens = SharedEmbedding(1009, 512), torch.arange(1009)
    assert module.logits(module(tokens)).argmax(dim=-1).equal(tokens)


def untied_logits(
    model: Transformer, tables: list[SharedEmbedding], source: Tensor, target: Tensor
) -> Tensor:
    """Lo stesso modello con una tabella per uso: sorgente, destinazione, uscita."""
    for_source, for_target, for_output = tables
    mask = model.source_mask(source)
    memory = model.encode_vectors(for_source(source), mask)
    return for_output.logits(model.decode_vectors(for_target(target), memory, mask))


def test_the_gradient_of_the_shared_matrix_is_the_sum_of_the_three_uses():
    """§3.4 ¶1, T18: con tre copie, gli stessi punteggi, e gradienti che sommati lo danno."""
    model = Transformer(SMALL).double().eval()
    source, target = (
        torch.tensor([[3, 7, 5, 7], [4, 12, 0, 0]]),
        torch.tensor([[1, 9, 3], [1, 7, 6]]),
    )
    wanted = torch.tensor([[9, 3, 2], [7, 6, 2]])
    tables = [random_module(13, 8) for _ in range(3)]
    for table in tables:
        table.load_state_dict(model.embedding.state_dict())

    def loss(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), wanted.flatten())

    tied, untied = model(source, target), untied_logits(model, tables, source, target)
    assert_equal(tied, untied)
    (shared,) = torch.autograd.grad(loss(tied), model.embedding.weight)
    separate = torch.autograd.grad(loss(untied), [table.weight for table in tables])
    dense = [gradient.to_dense() for gradient in separate]
    assert_equal(shared.to_dense(), sum(dense), 1e-12)
    rows = [set(gradient.abs().sum(dim=1).nonzero().flatten().tolist()) for gradient in dense]
    assert rows[0] == {3, 4, 5, 7, 12}
    assert rows[1] == {1, 3, 6, 7, 9}
    assert rows[2] == set(range(13))


def test_the_input_gradient_can_hold_only_the_rows_that_were_read():
    """§3.4 ¶1: un token ripetuto somma i suoi contributi; il gradiente è sparso se lo si chiede."""
    module, tokens = random_module(), torch.tensor([[3, 0, 3], [10, 3, 0]])
    upstream = random_rows(2, 3, 5)
    (sparse,) = torch.autograd.grad((module(tokens, sparse=True) * upstream).sum(), module.weight)
    assert sparse.is_sparse
    expected = torch.zeros(11, 5).double()
    for b in range(2):
        for i in range(3):
            expected[tokens[b, i]] += upstream[b, i] * math.sqrt(5)
    assert_equal(sparse.to_dense(), expected)
    (dense,) = torch.autograd.grad((module(tokens) * upstream).sum(), module.weight)
    assert not dense.is_sparse
    assert_equal(dense, expected)


def test_one_table_instead_of_three_saves_38_million_parameters():
    """§3.4 ¶1: 37 000 × 512 una volta: 63,0 milioni; tre volte: 100,9."""
    with torch.device("meta"):
        model = Transformer(BASE)
    assert model.embedding.weight.shape == (37_000, 512)
    assert model.embedding.weight.numel() == 18_944_000
    shared = sum(parameter.numel() for parameter in model.parameters())
    assert shared == 63_045_632
    assert shared + 2 * 18_944_000 == 100_933_632


# B9: identificatori, parametri, attivazioni


def test_a_step_moves_the_rows_and_never_the_identifiers():
    """B9: l'addestramento corregge le righe della tabella; gli interi restano quelli."""
    model = Transformer(SMALL).double()
    source, target = torch.tensor([[3, 7, 5]]), torch.tensor([[1, 9]])
    copies = source.clone(), target.clone()
    rows = model.embedding.weight.detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    chosen, _ = model.score(source, target, torch.tensor([[9, 2]]))
    (-chosen.sum()).backward()
    optimizer.step()
    assert source.equal(copies[0])
    assert target.equal(copies[1])
    assert not source.is_floating_point()
    assert (model.embedding.weight.detach() != rows).any(dim=1).all()


def test_keys_and_values_are_no_parameters_of_the_model():
    """B9: fra i parametri ci sono E, W^Q, W^K, W^V, W^O, W_1, W_2, bias e guadagni; nient'altro."""
    kinds = {name.rpartition(".")[2] for name, _ in Transformer(SMALL).named_parameters()}
    assert kinds == {"weight", "w_qkv", "w_o", "w_1", "b_1", "w_2", "b_2", "gain", "bias"}
    model = Transformer(SMALL).double().eval()
    layer = model.encoder.layers[0].self_attention
    keys = [layer.roles(model.embedding(torch.tensor([[3, token]])), 1, 2)[0] for token in (4, 5)]
    assert not keys[0].equal(keys[1])


# Ciò che l'addestramento chiede alla softmax


def reference(module: SharedEmbedding, hidden: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """`score` con le operazioni di PyTorch: tutti i logaritmi, poi quello che serve."""
    logarithms = (hidden @ module.weight.T).log_softmax(dim=-1)
    return logarithms.gather(-1, tokens[..., None]).squeeze(-1), logarithms.mean(dim=-1)


@pytest.mark.parametrize("batch", [(7,), (2, 7), (2, 3, 7)], ids=str)
def test_score_is_the_logarithm_of_the_token_and_the_mean_of_all(batch, device):
    """§3.4 ¶1: i numeri di `log_probabilities`, e gli stessi gradienti, con pesi qualsiasi."""
    module, hidden = random_module(device=device), random_rows(*batch, 5, device=device)
    hidden.requires_grad_()
    tokens = torch.randint(11, batch, device=device)
    weights = random_rows(2, *batch, device=device)
    ours, expected = module.score(hidden, tokens), reference(module, hidden, tokens)
    gradients = []
    for pair in (ours, expected):
        total = sum((w * result).sum() for w, result in zip(weights, pair, strict=True))
        gradients.append(torch.autograd.grad(total, [hidden, module.weight]))
    for actual, wanted in zip((*ours, *gradients[0]), (*expected, *gradients[1]), strict=True):
        assert actual.shape == wanted.shape
        assert_equal(actual, wanted)


def test_the_formula_to_compile_has_the_same_numbers_and_gradients():
    """§3.4 ¶1: il confronto al posto dell'indice sceglie lo stesso punteggio, anche enorme."""
    logits = torch.cat([random_rows(3, 11), 1000 * random_rows(2, 11)]).requires_grad_()
    tokens, weights = torch.tensor([3, 0, 10, 5, 5]), random_rows(2, 5)
    logarithms = logits.log_softmax(dim=-1)
    expected = logarithms.gather(1, tokens[:, None])[:, 0], logarithms.mean(dim=-1)
    gradients = []
    for pair in (scores_to_compile(logits, tokens), expected):
        for actual, wanted in zip(pair, expected, strict=True):
            assert_equal(actual, wanted)
        total = sum((w * result).sum() for w, result in zip(weights, pair, strict=True))
        gradients += torch.autograd.grad(total, logits, retain_graph=True)
    assert_equal(*gradients)


def test_the_formula_to_compile_is_in_single_precision_at_least():
    short = random_rows(3, 11).bfloat16()
    found = scores_to_compile(short, torch.tensor([3, 0, 10]))
    for actual, wanted in zip(
        found, scores_to_compile(short.float(), torch.tensor([3, 0, 10])), strict=True
    ):
        assert actual.dtype == torch.float32
        assert torch.equal(actual, wanted)


COMPILED = """
import torch
from attention import SharedEmbedding

torch.manual_seed(0)
module = SharedEmbedding(11, 5)
compiled = torch.compile(module.score, fullgraph=True, backend="aot_eager")
hidden, tokens = torch.randn(2, 3, 5, requires_grad=True), torch.randint(11, (2, 3))
results = []
for score in (module.score, compiled):
    chosen, average = score(hidden, tokens)
    total = (chosen - 0.3 * average).sum()
    results.append((chosen, average, *torch.autograd.grad(total, [hidden, module.weight])))
for one, other in zip(*results, strict=True):
    torch.testing.assert_close(one, other)
"""


def test_score_compiles_whole():
    """In un altro processo: il controllo delle forme che i test aggiungono non è compilabile."""
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_score_has_the_numerical_derivatives():
    """§3.4 ¶1: il gradiente scritto a mano è quello delle differenze finite."""
    tokens, step = torch.tensor([3, 0, 4]), 1e-6
    inputs = [random_rows(3, 2).requires_grad_(), random_rows(5, 2).requires_grad_()]

    def total() -> Tensor:
        chosen, average = TokenScores.apply(*inputs, tokens)
        return (chosen * torch.tensor([1.0, -2, 3])).sum() + average.square().sum()

    for tensor, gradient in zip(inputs, torch.autograd.grad(total(), inputs), strict=True):
        for place in range(tensor.numel()):
            sides = []
            for sign in (1, -2):
                with torch.no_grad():
                    tensor.view(-1)[place] += sign * step
                    sides.append(total().item())
            with torch.no_grad():
                tensor.view(-1)[place] += step
            slope = (sides[0] - sides[1]) / (2 * step)
            assert gradient.flatten()[place].item() == pytest.approx(slope, abs=1e-6)


def test_score_keeps_one_matrix_and_gives_its_gradient_once():
    """§3.4 ¶1: la stessa memoria è punteggi, poi probabilità, poi gradiente; dopo, non c'è più."""
    module, hidden = random_module(), random_rows(3, 5)
    chosen, _ = module.score(hidden, torch.tensor([3, 0, 10]))
    saved = chosen.grad_fn.next_functions[0][0]
    assert_equal(saved.matrix, (hidden @ module.weight.T).softmax(dim=-1).detach())
    chosen.sum().backward(retain_graph=True)
    assert saved.matrix is None
    with pytest.raises(
        RuntimeError, match=r"^score: il gradiente si può calcolare una volta sola$"
    ):
        chosen.sum().backward()


def test_second_derivatives_of_score_are_refused():
    """§3.4 ¶1: la matrice non ricorda da dove viene: un gradiente del gradiente sarebbe monco."""
    module, hidden = random_module(), random_rows(3, 5)
    chosen, _ = module.score(hidden, torch.tensor([3, 0, 10]))
    with pytest.raises(RuntimeError, match=r"^score: non ci sono derivate seconde; create_graph"):
        torch.autograd.grad(chosen.sum(), module.weight, create_graph=True)


def test_scores_are_replaced_by_probabilities():
    """§3.4 ¶1: al posto dei punteggi restano le probabilità, anche di punteggi enormi."""
    logits = torch.cat([random_rows(3, 11), 1000 * random_rows(2, 11), random_rows(1, 11) - 5000])
    tokens = torch.randint(11, (6, 1))
    expected, probabilities = logits.log_softmax(dim=1), logits.softmax(dim=1)
    chosen, average = scores_in_place(logits, tokens)
    assert_equal(chosen, expected.gather(1, tokens)[:, 0], 1e-9)
    assert_equal(average, expected.mean(dim=1), 1e-9)
    assert_equal(logits, probabilities)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_score_of_short_types_is_in_single_precision(dtype, device):
    """§3.4 ¶1: con parametri corti i due logaritmi escono in FP32."""
    module = random_module(101, 16, device).to(dtype)
    hidden = random_rows(7, 16, device=device).to(dtype)
    tokens = torch.randint(101, (7,), device=device)
    chosen, average = module.score(hidden, tokens)
    assert chosen.dtype == average.dtype == torch.float32
    exact = reference(module.double(), hidden.double(), tokens)
    for short, expected in zip((chosen, average), exact, strict=True):
        assert_equal(short.double(), expected, 8 * torch.finfo(dtype).eps * 6)


def test_score_with_autocast_multiplies_in_the_short_type(device):
    """§3.4 ¶1: con autocast il prodotto è in BF16, i logaritmi in FP32, i gradienti in FP32."""
    module = random_module(101, 16, device).float()
    hidden = random_rows(7, 16, device=device).float().requires_grad_()
    tokens = torch.randint(101, (7,), device=device)
    short, rounded = SharedEmbedding(101, 16).to(device, torch.bfloat16), hidden.bfloat16()
    short.load_state_dict(module.state_dict())
    expected = short.score(rounded, tokens)
    with torch.autocast(device, torch.bfloat16):
        actual = module.score(hidden, tokens)
    for ours, theirs in zip(actual, expected, strict=True):
        assert ours.dtype == torch.float32
        assert ours.equal(theirs)
    actual[0].sum().backward()
    assert module.weight.grad.dtype == hidden.grad.dtype == torch.float32
    exact = torch.autograd.grad(reference(module, hidden, tokens)[0].sum(), hidden)[0]
    assert_equal(hidden.grad, exact, 0.05)


def test_rows_are_grouped_so_that_a_group_stays_in_cache():
    """§3.4 ¶1: 2²⁰ numeri per gruppo su CPU, 2²⁸ altrove, almeno una riga."""
    number = torch.zeros(1)
    groups = in_cache(number.expand(9, 2**18), number.expand(9, 1))
    assert [[part.shape for part in parts] for parts in groups] == [
        [(4, 2**18), (4, 2**18), (1, 2**18)],
        [(4, 1), (4, 1), (1, 1)],
    ]
    assert [len(part) for part in in_cache(number.expand(3, 2**21))[0]] == [1, 1, 1]
    assert [len(part) for part in in_cache(number.expand(3, 2**19 + 1))[0]] == [1, 1, 1]
    elsewhere = torch.empty(2**10 + 1, 2**18, device="meta")
    assert [len(part) for part in in_cache(elsewhere)[0]] == [2**10, 1]


def test_the_groups_do_not_change_the_result():
    """§3.4 ¶1: con una riga per gruppo, i numeri e i gradienti di una volta sola."""
    module, hidden = random_module(2**19 + 1, 2), random_rows(3, 2).requires_grad_()
    tokens = torch.tensor([7, 2**19, 0])
    actual, expected = module.score(hidden, tokens), reference(module, hidden, tokens)
    gradients = [torch.autograd.grad((c * 2 - a).sum(), hidden) for c, a in (actual, expected)]
    for ours, theirs in zip((*actual, *gradients[0]), (*expected, *gradients[1]), strict=True):
        assert_equal(ours, theirs, 1e-9)


# Gli errori


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 5), "vocabulary: dato: 0; atteso: almeno una voce"),
        ((-1, 5), "vocabulary: dato: -1; atteso: almeno una voce"),
        ((11, 0), "d_model: dato: 0; atteso: almeno 1"),
        ((11, -2), "d_model: dato: -2; atteso: almeno 1"),
    ],
)
def test_wrong_sizes_are_refused(sizes, message):
    """Vocabolario e larghezza sono almeno 1; uno basta."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        SharedEmbedding(*sizes)
    assert SharedEmbedding(1, 1).weight.shape == (1, 1)


INTEGERS = "atteso: un tensore torch.int64 o torch.int32"
AT_LEAST_ONE = "atteso: almeno una sequenza con almeno un token"


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (torch.tensor([3, 11]), ValueError, "words: dato: il token 11; atteso: da 0 a 10"),
        (torch.tensor([0, 99]), ValueError, "words: dato: il token 99; atteso: da 0 a 10"),
        (torch.tensor([3, -1]), ValueError, "words: dato: il token -1; atteso: da 0 a 10"),
        (torch.tensor([-2, 99]), ValueError, "words: dato: il token -2; atteso: da 0 a 10"),
        (torch.tensor([], dtype=torch.int64), ValueError, rf"words: dato: \[0\]; {AT_LEAST_ONE}"),
        (torch.ones(2, 0).long(), ValueError, rf"words: dato: \[2, 0\]; {AT_LEAST_ONE}"),
        (torch.tensor(3), ValueError, rf"words: dato: \[\]; {AT_LEAST_ONE}"),
        (torch.tensor([3.0]), TypeError, f"words: dato: torch.float32; {INTEGERS}"),
        (torch.tensor([True]), TypeError, f"words: dato: torch.bool; {INTEGERS}"),
        (torch.tensor([3], dtype=torch.uint8), TypeError, f"words: dato: torch.uint8; {INTEGERS}"),
        ([3, 4], TypeError, f"words: dato: list; {INTEGERS}"),
        (3, TypeError, f"words: dato: int; {INTEGERS}"),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_wrong_tokens_are_refused(tokens, error, message):
    """Ogni errore nomina l'argomento, ciò che è stato dato e ciò che era atteso."""
    with pytest.raises(error, match=f"^{message}$"):
        check_tokens(tokens, "words", 11)


@pytest.mark.parametrize("tokens", [[0], [10], [[0, 10], [10, 0]]], ids=str)
def test_the_first_and_the_last_token_are_accepted(tokens):
    """Gli estremi 0 e vocabulary − 1 appartengono al vocabolario."""
    for dtype in (torch.int32, torch.int64):
        check_tokens(torch.tensor(tokens, dtype=dtype), "words", 11)
    with pytest.raises(ValueError, match=r"^words: dato: il token 10; atteso: da 0 a 9$"):
        check_tokens(torch.tensor([10]), "words", 10)


def test_while_compiling_only_type_and_shape_are_checked(monkeypatch):
    """Guardare i valori fermerebbe la GPU: dentro la compilazione non si guardano."""
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    check_tokens(torch.tensor([99]), "words", 11)
    with pytest.raises(ValueError, match=r"^words: dato: \[0\]"):
        check_tokens(torch.tensor([], dtype=torch.int64), "words", 11)
    with pytest.raises(TypeError, match=r"^words: dato: torch\.float64"):
        check_tokens(torch.zeros(3).double(), "words", 11)


@pytest.mark.usefixtures("our_own_errors")
def test_while_a_gpu_records_values_are_not_read(monkeypatch):
    """Leggerli fermerebbe la GPU, e la registrazione con lei; su CPU non si registra."""
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert is_readable(torch.tensor([1]))
    assert not is_readable(SimpleNamespace(is_cuda=True))
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert is_readable(SimpleNamespace(is_cuda=True))


@pytest.mark.usefixtures("our_own_errors")
def test_the_module_refuses_wrong_tokens_by_name():
    """Chi legge la tabella e chi valuta un token controllano gli identificatori."""
    module = SharedEmbedding(11, 5)
    message = r"^tokens: dato: il token 11; atteso: da 0 a 10$"
    with pytest.raises(ValueError, match=message):
        module(torch.tensor([11]))
    with pytest.raises(ValueError, match=message):
        module.score(torch.zeros(1, 5), torch.tensor([11]))
    message = r"^tokens: dato: \[2, 5\]; atteso: \[2, 3\], uno per vettore$"
    with pytest.raises(ValueError, match=message):
        module.score(torch.zeros(2, 3, 5), torch.ones(2, 5).long())
    with pytest.raises(ValueError, match=r"^tokens: dato: \[1\]; atteso: \[3\], uno per vettore$"):
        module.score(torch.zeros(3, 5), torch.tensor([1]))


@pytest.mark.parametrize(
    ("hidden", "error", "message"),
    [
        (torch.zeros(3, 4), ValueError, "hidden: dato: larghezza 4; atteso: 5"),
        (torch.zeros(2, 3, 7), ValueError, "hidden: dato: larghezza 7; atteso: 5"),
        (torch.zeros(5), ValueError, r"hidden: dato: \[5\]; atteso: almeno \[righe, colonne\]"),
        (torch.ones(3, 5).long(), TypeError, "hidden: dato: torch.int64; atteso: un tensore"),
        (torch.ones(3, 5).half(), TypeError, "hidden: dato: torch.float16; atteso: torch.float32"),
        ([[1.0]], TypeError, "hidden: dato: list; atteso: un tensore di tipo"),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_wrong_hidden_vectors_are_refused(hidden, error, message):
    """L'uscita del decoder è in virgola mobile e larga d_model."""
    with pytest.raises(error, match=f"^{message}"):
        SharedEmbedding(11, 5).logits(hidden)
    with pytest.raises(error, match=f"^{message}"):
        SharedEmbedding(11, 5).score(hidden, torch.tensor([3]))


# Il Fortran della pagina


def test_fortran_on_the_page(fortran, call_fortran):
    """§3.4 ¶1: lettura, gradiente e logaritmi in Fortran, dalla stessa tabella, come il modulo."""
    routines, module = fortran("s3_4_embeddings_softmax"), random_module()
    tokens, table = torch.tensor([3, 0, 10, 3]), module.weight.detach()
    upstream, hidden = random_rows(4, 5), random_rows(4, 5)
    address = ctypes.c_void_p(tokens.data_ptr())

    x = torch.zeros(4, 5, dtype=torch.float64)
    call_fortran(
        lambda n, d, v, *rest: routines.gather(n, d, v, address, *rest), 4, 5, 11, table, x
    )
    assert_equal(x, module(tokens).detach())

    gradient = torch.zeros(11, 5, dtype=torch.float64)
    call_fortran(
        lambda n, d, v, *rest: routines.scatter_add(n, d, v, address, *rest),
        4,
        5,
        11,
        upstream,
        gradient,
    )
    (expected,) = torch.autograd.grad((module(tokens) * upstream).sum(), module.weight)
    assert_equal(gradient, expected.to_dense())

    logarithms = torch.zeros(4, 11, dtype=torch.float64)
    call_fortran(routines.next_token, 4, 5, 11, hidden, table, logarithms)
    assert_equal(logarithms, log_probabilities(module.logits(hidden)).detach())
