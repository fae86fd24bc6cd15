"""I benchmark delle sezioni: il lavoro contato è quello vero, e chi gareggia calcola lo stesso."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from attention import READER, FeedForward, SharedEmbedding, Transformer, TransformerConfig
from attention.s3_1_encoder_decoder_stacks import LayerNorm, layer_norm
from attention.s3_5_positional_encoding import SinusoidalPositions
from attention.s3_model_architecture import make_encoder_layer
from benchmarks import bench_s1_introduction as introduction
from benchmarks import bench_s3_1_encoder_decoder_stacks as stacks
from benchmarks import bench_s3_2_1_scaled_dot_product as scaled
from benchmarks import bench_s3_2_2_multi_head as multi_head
from benchmarks import bench_s3_3_feed_forward as network
from benchmarks import bench_s3_4_embeddings_softmax as embeddings
from benchmarks import bench_s3_5_positional_encoding as positions
from benchmarks import bench_s3_forward as whole
from benchmarks import bench_s4_why_self_attention as why
from benchmarks import compiled as compiling
from benchmarks.honest_data import refuse_degenerate_data
from benchmarks.provenance import installed

SMALL = TransformerConfig(
    layers=2, d_model=26, d_ff=52, heads=13, dropout=0.0, vocabulary=101, padding_id=0
)
"""Un modello minimo, con le misure che le librerie di confronto accettano."""


@pytest.fixture(autouse=True)
def _inference():
    with torch.no_grad():
        yield


def counted_flops(run):
    """I prodotti di matrici che PyTorch conta; il kernel fuso per CPU non lo conta."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        run()
    return counter.get_total_flops()


class Elementary(TorchDispatchMode):
    """Conta le operazioni elementari: una per numero prodotto; una media ne fa una per addendo."""

    def __init__(self):
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        result = operation(*args, **(kwargs or {}))
        reduces = operation.overloadpacket == torch.ops.aten.mean
        self.operations += (args[0] if reduces else result).numel()
        return result


def elementary_operations(run):
    with Elementary() as counter:
        run()
    return counter.operations


def storage(*tensors):
    """I byte di più tensori."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def assert_same_function(contestants, *, besides=()):
    expected, *others = (run() for name, run in contestants.items() if name not in besides)
    assert len(others) >= 2
    for output in others:
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


# La normalizzazione.


def norm_case(rows, d, dtype=torch.float32):
    ours = LayerNorm(d).to(dtype)
    nn.init.normal_(ours.gain)
    nn.init.normal_(ours.bias)
    return ours, 3 * torch.randn(rows, d, dtype=dtype) + 1


def test_operations_of_the_normalization_are_those_of_the_formula():
    ours, x = norm_case(5, 13)
    counted = elementary_operations(lambda: layer_norm(x, ours.gain, ours.bias))
    assert stacks.norm_work(5, 13).flops == counted


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_of_the_normalization_are_input_parameters_and_output(dtype):
    ours, x = norm_case(5, 13, dtype)
    counted = storage(x, ours.gain, ours.bias, ours(x))
    assert stacks.norm_work(5, 13).traffic(dtype) == counted


def test_the_reader_normalizes_ten_vectors_with_53_780_operations_and_67_584_bytes():
    work = stacks.norm_work(10, 768)
    assert (work.flops, work.traffic(torch.float32)) == (53_780, 67_584)


def test_contestants_of_the_normalization_compute_the_same_function():
    assert_same_function(stacks.norm_contestants(*norm_case(5, 13)))


# Uno strato.


def layer_case(batch=3, n=7):
    ours = make_encoder_layer(SMALL).eval()
    return ours, torch.randn(batch, n, SMALL.d_model)


def test_flops_of_a_layer_are_those_pytorch_counts():
    ours, x = layer_case()
    assert stacks.layer_work(3, 7, SMALL).flops == counted_flops(lambda: ours(x))


def test_traffic_of_a_layer_is_input_weights_and_output():
    ours, x = layer_case()
    counted = storage(x, ours(x), *ours.parameters())
    assert stacks.layer_work(3, 7, SMALL).traffic(torch.float32) == counted


@pytest.mark.filterwarnings("ignore")
def test_contestants_of_a_layer_compute_the_same_function():
    contestants = stacks.layer_contestants(*layer_case())
    peers = ("x-transformers", "transformers")
    assert len(contestants) == 3 + sum(installed(peer) is not None for peer in peers)
    assert_same_function(contestants)


# La rete feed-forward.


def test_flops_of_the_network_are_those_pytorch_counts():
    ours, x = FeedForward(13, 35), torch.randn(1, 7, 13)
    assert network.work(7, 13, 35).flops == counted_flops(lambda: ours(x))
    bare = network.contestants(ours, x)[network.BARE]
    assert network.work(7, 13, 35).flops == counted_flops(bare)


def test_the_reader_makes_94_million_operations_in_the_network():
    assert network.work(10, READER.d_model, READER.d_ff).flops == 94_371_840
    assert (10, READER.d_model, READER.d_ff) in network.SIZES


def test_traffic_of_the_network_is_input_weights_and_output():
    ours, x = FeedForward(13, 35), torch.randn(1, 7, 13)
    counted = storage(x, ours(x), *ours.parameters())
    assert network.work(7, 13, 35).traffic(torch.float32) == counted


def test_contestants_of_the_network_compute_the_same_function():
    ours = FeedForward(13, 35)
    nn.init.normal_(ours.b_1)
    nn.init.normal_(ours.b_2)
    contestants = network.contestants(ours, torch.randn(1, 7, 13))
    assert_same_function(contestants, besides={network.BARE})
    assert not torch.allclose(contestants[network.BARE](), contestants["FeedForward"]())


# La tabella degli embedding e lo strato d'uscita.


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bytes_of_a_lookup_are_tokens_rows_read_and_rows_written(dtype):
    ours, tokens = SharedEmbedding(101, 13).to(dtype), torch.randperm(101)[:7]
    counted = storage(tokens, ours.weight[tokens], ours(tokens))
    assert embeddings.lookup_work(7, 13, dtype, 101).traffic(dtype) == counted


def test_the_reader_reads_ten_rows():
    work = embeddings.lookup_work(10, 768, torch.float32)
    assert (work.flops, work.traffic(torch.float32)) == (7680, 10 * (8 + 2 * 768 * 4))


def test_contestants_of_a_lookup_compute_the_same_function():
    ours, tokens = SharedEmbedding(101, 13), torch.randperm(101)[:7]
    assert_same_function(embeddings.lookup_contestants(ours, tokens))


def test_a_lookup_multiplies_no_matrices_except_with_indicators():
    ours, tokens = SharedEmbedding(101, 13), torch.randperm(101)[:7]
    flops = {
        name: counted_flops(run)
        for name, run in embeddings.lookup_contestants(ours, tokens).items()
    }
    assert flops.pop(embeddings.ONE_HOT) == 2 * 7 * 101 * 13
    assert set(flops.values()) == {0}


def loss_case():
    return SharedEmbedding(101, 13), torch.randn(7, 13), torch.randint(101, (7,))


def test_flops_of_the_output_layer_are_those_pytorch_counts():
    work = embeddings.loss_work(7, 13, torch.float32, 101)
    for run in embeddings.loss_contestants(*loss_case()).values():
        assert work.flops == counted_flops(run)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_traffic_of_the_output_layer_leaves_out_the_scores(dtype):
    ours, hidden, tokens = loss_case()
    counted = storage(hidden.to(dtype), ours.weight.to(dtype), tokens, torch.zeros((), dtype=dtype))
    assert embeddings.loss_work(7, 13, dtype, 101).traffic(dtype) == counted


def test_contestants_of_the_output_layer_find_the_same_loss():
    contestants = embeddings.loss_contestants(*loss_case())
    assert_same_function(contestants, besides={embeddings.LOGITS})
    assert contestants[embeddings.LOGITS]().shape == (7, 101)


# Le posizioni.


def test_work_of_the_positions_is_a_sum_per_number():
    ours, x = SinusoidalPositions(26), torch.randn(3, 7, 26)
    work = positions.work(3, 7, 26)
    ready = positions.contestants(ours, x)[positions.BASELINE]
    assert work.flops == elementary_operations(ready)
    assert work.traffic(torch.float32) == storage(x, ours(x))


def test_contestants_of_the_positions_compute_the_same_function():
    ours, x = SinusoidalPositions(26), torch.randn(3, 7, 26)
    assert_same_function(positions.contestants(ours, x), besides={positions.LEARNED})


# Il modello intero.


def whole_case(batch=3, n=7):
    return Transformer(SMALL).eval(), *torch.randint(3, SMALL.vocabulary, (2, batch, n))


def test_flops_of_the_forward_are_those_pytorch_counts():
    """Salvo le coppie vietate dalla causalità, che PyTorch conta e noi no."""
    ours, source, target = whole_case()
    forbidden = 4 * SMALL.layers * SMALL.d_model * 3 * 7 * 6 // 2
    counted = counted_flops(lambda: ours(source, target)) - forbidden
    assert whole.work("prova", SMALL, 3, 7, torch.float32).flops == counted


def test_traffic_of_the_forward_is_tokens_weights_and_scores():
    ours, source, target = whole_case()
    counted = storage(source, target, *ours.parameters(), ours(source, target))
    assert whole.work("prova", SMALL, 3, 7, torch.float32).traffic(torch.float32) == counted


@pytest.mark.filterwarnings("ignore")
def test_contestants_of_the_forward_compute_the_same_scores():
    contestants = whole.contestants(*whole_case())
    assert len(contestants) == 2 + (installed("transformers") is not None)
    expected, *others = (run() for run in contestants.values())
    for output in others:
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)


# Le realizzazioni dell'eq. (1) fra cui PyTorch sceglie.


def test_backends_that_exist_here_are_imposed_and_agree():
    q, k, v = torch.randn(3, 1, 2, 13, 16)
    found = dict(scaled.backends(q, k, v, causal=True))
    assert "math" in found
    expected = scaled.contestants(q, k, v, causal=True)["scaled_dot_product_attention"]()
    for run in found.values():
        torch.testing.assert_close(run(), expected)


def test_a_backend_that_does_not_exist_here_is_left_out():
    def refused():
        raise RuntimeError("No available kernel. Aborting execution.")

    assert scaled.works(lambda: None)
    assert not scaled.works(refused)


# La tabella 1.


def test_recurrences_stop_where_they_would_cost_seconds(monkeypatch):
    monkeypatch.setattr(why, "LONGEST", {why.LOOP: 4, why.RNN: 8})
    absent = {
        n: {why.LOOP, why.RNN} - why.contestants(torch.randn(n, 64)).keys() for n in (4, 8, 9)
    }
    assert absent == {4: set(), 8: {why.LOOP}, 9: {why.LOOP, why.RNN}}


# La forma compilata.


def test_nothing_is_compiled_on_cpu(monkeypatch):
    monkeypatch.setattr(compiling, "DEVICE", "cpu")
    assert compiling.compiled(torch.sin, torch.ones(3)) == {}


def test_a_compiled_contestant_has_already_run(monkeypatch):
    played = []

    def fake(function, **options):
        return lambda *arguments: played.append(arguments) or function(*arguments)

    monkeypatch.setattr(compiling, "DEVICE", "cuda")
    monkeypatch.setattr(torch, "compile", fake)
    found = compiling.compiled(torch.add, 2, 3)
    assert played == [(2, 3)]
    assert found["torch.compile"]() == 5


def test_what_does_not_compile_is_left_out_with_a_warning(monkeypatch):
    def fake(function, **options):
        raise RuntimeError("manca un compilatore\ndettagli")

    monkeypatch.setattr(compiling, "DEVICE", "cuda")
    monkeypatch.setattr(torch, "compile", fake)
    expected = "Non misurato torch.compile: RuntimeError: manca un compilatore$"
    with pytest.warns(UserWarning, match=expected):
        assert compiling.compiled(torch.sin, torch.ones(3)) == {}


# Le gare.

CONTESTS = {
    "§1": (introduction.test_forward, {"n": 5}, {"MultiHeadAttention"}),
    "§3.1, LayerNorm": (stacks.test_layer_norm, {"rows": 5, "d": 13}, set()),
    "§3.1, strato": (stacks.test_encoder_layer, {"batch": 1, "n": 5, "config": SMALL}, set()),
    "§3.2.1": (scaled.test_full, {"n": 5}, set()),
    "§3.2.1, causale": (scaled.test_causal, {"n": 5}, set()),
    "§3.2.2": (multi_head.test_forward, {"batch": 1, "n": 5, "d_model": 26, "heads": 13}, set()),
    "§3.3": (network.test_forward, {"n": 5, "d_model": 13, "d_ff": 35}, set()),
    "§3.4, lettura": (embeddings.test_embedding, {"n": 5, "d": 13}, {embeddings.ONE_HOT}),
    "§3.4, uscita": (embeddings.test_output_layer, {"n": 5, "d": 13}, set()),
    "§3.5": (positions.test_forward, {"batch": 1, "n": 5, "d": 26}, {positions.LEARNED}),
    "§3": (whole.test_forward, {"name": "prova", "config": SMALL, "batch": 1, "n": 5}, set()),
    "§4, n": (
        why.test_growth_with_n,
        {"n": 5},
        {"con le proiezioni", "ricorrente", "nn.RNN", "convoluzionale", "ristretta", "separabile"},
    ),
    "§4, d": (
        why.test_growth_with_d,
        {"d": 64},
        {"con le proiezioni", "ricorrente", "nn.RNN", "convoluzionale", "ristretta", "separabile"},
    ),
}
"""Per ogni gara: la funzione, misure piccole, e chi vi fa un lavoro diverso."""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CONTESTS)
def test_every_contest_declares_its_baseline_and_who_does_other_work(name):
    test, sizes, expected = CONTESTS[name]
    held = []

    def contest(contestants, baseline, work, different=()):
        held.append(work)
        assert baseline in contestants
        assert set(different) == expected
        assert set(different) < contestants.keys()
        assert next(iter(contestants)) not in different
        assert work.flops > 0
        for contestant, run in contestants.items():
            refuse_degenerate_data(contestant, run, contestant not in different)

    test(contest, dtype=torch.float32, **sizes)
    assert len(held) == 1
