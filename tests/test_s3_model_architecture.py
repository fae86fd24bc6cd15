"""§3: il modello intero contro i cicli, contro `torch.nn.Transformer`, contro la matita."""

import ctypes
import dataclasses
import itertools
import json
import math
import subprocess
import sys
from collections import Counter

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import embedding, log_softmax, nll_loss
from torch.utils.flop_counter import FlopCounterMode

from attention import (
    BASE,
    BIG,
    READER,
    FeedForward,
    MultiHeadAttention,
    SharedEmbedding,
    Transformer,
    TransformerConfig,
    log_probabilities,
    s3_2_2_multi_head,
    shift_right,
)
from attention.s3_1_encoder_decoder_stacks import AddAndNorm, DecoderLayer, EncoderLayer, LayerNorm
from attention.s3_2_2_multi_head import PACKS
from attention.s3_5_positional_encoding import LearnedPositions, SinusoidalPositions

PADDING = 0
START = 1
END = 2

SIZES = {
    "sinusoidi, d_k < d_v": {"d_model": 6, "heads": 3, "d_k": 5, "d_v": 7},
    "sinusoidi, d_k > d_v, bias": {"d_model": 4, "heads": 3, "d_k": 7, "d_v": 5, "bias": True},
    "posizioni apprese": {"d_model": 5, "heads": 2, "d_k": 3, "d_v": 7, "learned_positions": 7},
    "apprese e bias": {"d_model": 3, "heads": 3, "learned_positions": 7, "bias": True},
}
every_form = pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())


@pytest.fixture(autouse=True)
def _one_thread():
    """Con matrici così piccole due thread si aspettano più di quanto lavorino."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny(**sizes: object) -> TransformerConfig:
    """Una configurazione da provare: due strati, misure tutte diverse, niente dropout."""
    usual = {"layers": 2, "d_model": 6, "d_ff": 11, "heads": 3, "dropout": 0.0, "vocabulary": 13}
    return TransformerConfig(**{**usual, **sizes})


def random_model(config: TransformerConfig, device: str = "cpu") -> Transformer:
    """In doppia precisione, con tutti i parametri casuali: anche guadagni e termini costanti."""
    model = Transformer(config).to(device, torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(mean=float(name.endswith("gain")), std=0.5)
    return model


def sentences(*rows: list[int], device: str = "cpu") -> Tensor:
    """Un batch di frasi, con il padding in fondo alle più corte."""
    longest = max(map(len, rows))
    return torch.tensor([row + [PADDING] * (longest - len(row)) for row in rows], device=device)


def assert_equal(actual: Tensor, expected: Tensor, tolerance: float = 1e-12) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance)


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


# ¶1 e ¶2: il modello, scritto con i soli cicli

Rows = list[list[float]]


class Loops:
    """L'articolo, con liste e cicli: nessuna funzione di `attention`, di PyTorch solo i numeri."""

    def __init__(self, model: Transformer):
        self.config = model.config
        self.numbers = {name: tensor.tolist() for name, tensor in model.state_dict().items()}

    def forward(self, source: list[int], target: list[int]) -> Rows:
        """Una frase: da token a punteggi, posizione per posizione."""
        real = [token != PADDING for token in source]
        memory = self.embed(source, "source_positions.table")
        for layer in range(self.config.layers):
            memory = self.encoder_layer(f"encoder.layers.{layer}.", memory, real)
        x = self.embed(target, "target_positions.table")
        for layer in range(self.config.layers):
            x = self.decoder_layer(f"decoder.layers.{layer}.", x, memory, real)
        return matrix_product(x, self.numbers["embedding.weight"])

    def embed(self, tokens: list[int], table: str) -> Rows:
        """§3.4 e §3.5: la riga del token per √d_model, più la posizione."""
        d, rows = self.config.d_model, []
        for position, token in enumerate(tokens):
            row = []
            for c in range(d):
                if table in self.numbers:
                    place = self.numbers[table][position][c]
                else:
                    angle = position / 10000 ** ((c - c % 2) / d)
                    place = math.cos(angle) if c % 2 else math.sin(angle)
                row.append(self.numbers["embedding.weight"][token][c] * math.sqrt(d) + place)
            rows.append(row)
        return rows

    def encoder_layer(self, at: str, x: Rows, real: list[bool]) -> Rows:
        seen = self.multi_head(at + "self_attention.", x, x, lambda i, j: real[j])
        x = self.add_and_norm(at + "self_attention_norm.norm.", x, seen)
        return self.add_and_norm(at + "feed_forward_norm.norm.", x, self.feed_forward(at, x))

    def decoder_layer(self, at: str, x: Rows, memory: Rows, real: list[bool]) -> Rows:
        seen = self.multi_head(at + "self_attention.", x, x, lambda i, j: j <= i)
        x = self.add_and_norm(at + "self_attention_norm.norm.", x, seen)
        seen = self.multi_head(at + "cross_attention.", x, memory, lambda i, j: real[j])
        x = self.add_and_norm(at + "cross_attention_norm.norm.", x, seen)
        return self.add_and_norm(at + "feed_forward_norm.norm.", x, self.feed_forward(at, x))

    def multi_head(self, at: str, x: Rows, memory: Rows, may_look) -> Rows:
        """§3.2.2: le righe di w_qkv sono tutte le query, poi tutte le key, poi tutti i value."""
        c = self.config
        h = c.heads
        d_k = c.d_k or c.d_model // h
        d_v = c.d_v or c.d_model // h
        w, b = self.numbers[at + "w_qkv"], self.numbers.get(at + "b_qkv")
        everything = [matrix_product(rows, w, b) for rows in (x, memory)]
        joined = []
        for i in range(len(x)):
            row = []
            for head in range(h):
                scores = []
                for j in range(len(memory)):
                    total = 0.0
                    for e in range(d_k):
                        query = everything[0][i][head * d_k + e]
                        total += query * everything[1][j][(h + head) * d_k + e]
                    scores.append(total / math.sqrt(d_k) if may_look(i, j) else -math.inf)
                weights = softmax(scores)
                for e in range(d_v):
                    column = 2 * h * d_k + head * d_v + e
                    row.append(sum(p * value[column] for p, value in zip(weights, everything[1])))  # noqa: B905
            joined.append(row)
        return matrix_product(joined, self.numbers[at + "w_o"], self.numbers.get(at + "b_o"))

    def feed_forward(self, at: str, x: Rows) -> Rows:
        """§3.3, eq. (2)."""
        w_1, b_1, w_2, b_2 = (
            self.numbers[f"{at}feed_forward.{name}"] for name in ("w_1", "b_1", "w_2", "b_2")
        )
        hidden = [[max(0.0, number) for number in row] for row in matrix_product(x, w_1, b_1)]
        return matrix_product(hidden, w_2, b_2)

    def add_and_norm(self, at: str, x: Rows, output: Rows) -> Rows:
        """§3.1: la somma, poi media 0 e varianza 1, poi guadagno e termine costante."""
        gain, constant, rows = self.numbers[at + "gain"], self.numbers[at + "bias"], []
        for before, after in zip(x, output, strict=True):
            total = [a + b for a, b in zip(before, after, strict=True)]
            mean = sum(total) / len(total)
            variance = sum((number - mean) ** 2 for number in total) / len(total)
            scale = math.sqrt(variance + 1e-6)
            rows.append(
                [g * (t - mean) / scale + b for g, t, b in zip(gain, total, constant, strict=True)]
            )
        return rows


def matrix_product(rows: Rows, weight: Rows, constant: list[float] | None = None) -> Rows:
    """Una riga di `weight` per ogni uscita."""
    product = []
    for row in rows:
        outputs = []
        for k in range(len(weight)):
            total = constant[k] if constant else 0.0
            for e in range(len(row)):
                total += row[e] * weight[k][e]
            outputs.append(total)
        product.append(outputs)
    return product


def softmax(scores: list[float]) -> list[float]:
    exponentials = [math.exp(score - max(scores)) for score in scores]
    return [exponential / sum(exponentials) for exponential in exponentials]


@every_form
def test_the_whole_model_equals_plain_loops(sizes):
    """§3: dai token ai punteggi, padding compreso, come i cicli scritti leggendo l'articolo."""
    model = random_model(tiny(**sizes))
    loops = Loops(model)
    source = sentences([3, 12, 5, 3, 7], [8, 4, 2], [6])
    target = torch.tensor([[1, 9, 4, 0], [1, 5, 5, 12], [1, 0, 11, 3]])
    pairs = zip(source.tolist(), target.tolist(), strict=True)
    expected = torch.tensor([loops.forward(*pair) for pair in pairs], dtype=torch.float64)
    assert_equal(model(source, target), expected)
    assert_equal(model(source[0], target[0]), expected[0])
    assert_equal(model(source[:, None], target[:, None])[:, 0], expected)


@every_form
def test_gradients_are_those_of_finite_differences(sizes):
    """§3: il gradiente di ogni parametro, contro gli incrementi dei cicli in chiaro."""
    model = random_model(tiny(layers=1, **sizes))
    source, target = sentences([3, 12, 5], [8]), torch.tensor([[1, 9], [4, 0]])
    weights = torch.randn(2, 2, 13, dtype=torch.float64)

    def objective() -> float:
        loops = Loops(model)
        rows = [loops.forward(*pair) for pair in zip(source.tolist(), target.tolist(), strict=True)]
        return (torch.tensor(rows, dtype=torch.float64) * weights).sum().item()

    (model(source, target) * weights).sum().backward()
    for parameter in model.parameters():
        place = tuple(int(torch.randint(size, ())) for size in parameter.shape)
        values = []
        for step in (1e-6, -2e-6):
            with torch.no_grad():
                parameter[place] += step
            values.append(objective())
        with torch.no_grad():
            parameter[place] += 1e-6
        estimate = (values[0] - values[1]) / 2e-6
        assert parameter.grad[place].item() == pytest.approx(estimate, rel=1e-5, abs=1e-6)


# Contro torch.nn.Transformer


def torch_twin(model: Transformer) -> nn.Transformer:
    """Il Transformer di PyTorch con gli stessi pesi, senza le due normalizzazioni finali."""
    c = model.config
    twin = nn.Transformer(
        c.d_model, c.heads, c.layers, c.layers, c.d_ff, 0.0, layer_norm_eps=1e-6, batch_first=True
    ).to(model.embedding.weight)
    twin.encoder.norm = twin.decoder.norm = None
    for ours, theirs in twin_parameters(model, twin):
        with torch.no_grad():
            theirs.copy_(ours)
    return twin


def twin_parameters(model: Transformer, twin: nn.Transformer) -> list[tuple[Tensor, Tensor]]:
    """I parametri delle due pile, a coppie: nello stesso ordine, salvo le normalizzazioni."""
    pairs = []
    for ours, theirs in itertools.chain(
        zip(model.encoder.layers, twin.encoder.layers, strict=True),
        zip(model.decoder.layers, twin.decoder.layers, strict=True),
    ):
        attentions = [(ours.self_attention, theirs.self_attn)]
        norms = [(ours.self_attention_norm, theirs.norm1)]
        if isinstance(ours, DecoderLayer):
            attentions += [(ours.cross_attention, theirs.multihead_attn)]
            norms += [(ours.cross_attention_norm, theirs.norm2)]
        norms += [(ours.feed_forward_norm, getattr(theirs, f"norm{len(norms) + 1}"))]
        for a, b in attentions:
            pairs += [(a.w_qkv, b.in_proj_weight), (a.b_qkv, b.in_proj_bias)]
            pairs += [(a.w_o, b.out_proj.weight), (a.b_o, b.out_proj.bias)]
        for norm, b in norms:
            pairs += [(norm.norm.gain, b.weight), (norm.norm.bias, b.bias)]
        ffn = ours.feed_forward
        pairs += [(ffn.w_1, theirs.linear1.weight), (ffn.b_1, theirs.linear1.bias)]
        pairs += [(ffn.w_2, theirs.linear2.weight), (ffn.b_2, theirs.linear2.bias)]
    return pairs


def torch_log_probabilities(twin: nn.Transformer, table: Tensor, *sequences: Tensor) -> Tensor:
    """Embedding, posizioni e uscita scritti qui; le due pile sono di PyTorch."""
    source, target = sequences
    d, m = table.size(1), target.size(1)
    pairs = torch.arange(0, d, 2, dtype=torch.float64)
    angles = torch.arange(max(source.size(1), m))[:, None] / 10000 ** (pairs / d)
    encoding = torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).to(table)
    x, y = (
        embedding(tokens, table) * math.sqrt(d) + encoding[: tokens.size(1)] for tokens in sequences
    )
    padding = source == PADDING
    future = torch.ones(m, m, dtype=torch.bool, device=table.device).triu(1)
    output = twin(
        x, y, tgt_mask=future, src_key_padding_mask=padding, memory_key_padding_mask=padding
    )
    return log_softmax(output @ table.T, dim=-1)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str
)
def test_log_probabilities_and_gradients_equal_torch(dtype, tolerance, device):
    """§3: con gli stessi pesi, `torch.nn.Transformer` dà probabilità e gradienti uguali."""
    model = random_model(tiny(d_model=12, heads=2, d_ff=17, vocabulary=19, bias=True), device)
    model = model.to(dtype)
    twin, table = torch_twin(model), model.embedding.weight.detach().clone().requires_grad_()
    source = sentences([3, 18, 5, 3, 7], [8, 4, 2], device=device)
    target = torch.tensor([[1, 9, 4, 15], [1, 5, 5, 12]], device=device)
    wanted = torch.tensor([9, 4, 15, 2, 5, 5, 12, 2], device=device)
    ours = log_probabilities(model(source, target))
    theirs = torch_log_probabilities(twin, table, source, target)
    assert_equal(ours, theirs, tolerance)
    nll_loss(ours.flatten(0, 1), wanted).backward()
    nll_loss(theirs.flatten(0, 1), wanted).backward()
    assert_equal(model.embedding.weight.grad, table.grad, tolerance)
    for a, b in twin_parameters(model, twin):
        assert_equal(a.grad, b.grad, tolerance)


@every_form
def test_score_is_the_log_probability_of_the_wanted_tokens(sizes):
    """§3: `score` dà gli stessi numeri di `forward` e della softmax, e gli stessi gradienti."""
    model = random_model(tiny(**sizes))
    source, target = sentences([3, 12, 5], [8]), torch.tensor([[1, 9, 4, 6], [1, 5, 5, 12]])
    wanted = torch.tensor([[9, 4, 6, 2], [5, 5, 12, 2]])
    parameters = list(model.parameters())
    weights = torch.randn(2, 2, 4, dtype=torch.float64)

    logarithms = log_softmax(model(source, target), dim=-1)
    chosen = logarithms.gather(-1, wanted.unsqueeze(-1)).squeeze(-1)
    expected = torch.stack([chosen, logarithms.mean(dim=-1)])
    actual = torch.stack(model.score(source, target, wanted))
    assert_equal(actual, expected)
    ours = torch.autograd.grad((actual * weights).sum(), parameters)
    theirs = torch.autograd.grad((expected * weights).sum(), parameters)
    for a, b in zip(ours, theirs, strict=True):
        assert_equal(a, b, 1e-11)


# Le misure: BASE, BIG, i numeri del lettore, la tabella 3


PAPER = {
    "layers": 6,
    "d_k": None,
    "d_v": None,
    "dropout": 0.1,
    "vocabulary": 37_000,
    "learned_positions": None,
    "bias": False,
    "padding_id": 0,
    "start_id": 1,
    "end_id": 2,
}
"""Ciò che i tre modelli hanno in comune, salvo il dropout di quello grande."""


def on_paper(config: TransformerConfig) -> Transformer:
    """Il modello con le sue forme e nessun numero: contare non chiede memoria."""
    with torch.device("meta"):
        return Transformer(config)


@pytest.mark.parametrize(
    ("config", "fields", "parameters"),
    [
        pytest.param(BASE, {"d_model": 512, "d_ff": 2048, "heads": 8}, 63_045_632, id="base"),
        pytest.param(
            BIG,
            {"d_model": 1024, "d_ff": 4096, "heads": 16, "dropout": 0.3},
            214_171_648,
            id="big",
        ),
        pytest.param(
            READER, {"d_model": 768, "d_ff": 3072, "heads": 12}, 127_598_592, id="lettore"
        ),
    ],
)
def test_named_configurations_are_the_paper_s(config, fields, parameters):
    """§3 ¶2, tabella 3: le misure di BASE e BIG, i numeri del lettore, e quanti parametri fanno."""
    assert dataclasses.asdict(config) == PAPER | fields
    model = on_paper(config)
    assert count(model) == parameters
    attentions = [module for module in model.modules() if isinstance(module, MultiHeadAttention)]
    assert {(module.d_k, module.d_v) for module in attentions} == {(64, 64)}
    assert isinstance(model.source_positions, SinusoidalPositions)
    assert isinstance(model.target_positions, SinusoidalPositions)


def parameters_by_formula(c: TransformerConfig) -> int:
    """Una riga per voce: attenzioni, feed-forward, normalizzazioni, tabelle."""
    d, h = c.d_model, c.heads
    d_k, d_v = c.d_k or d // h, c.d_v or d // h
    attention = 2 * d * h * d_k + 2 * d * h * d_v + c.bias * (2 * h * d_k + h * d_v + d)
    feed_forward = 2 * d * c.d_ff + c.d_ff + d
    encoder_layer = attention + feed_forward + 2 * (2 * d)
    decoder_layer = 2 * attention + feed_forward + 3 * (2 * d)
    positions = 0 if c.learned_positions is None else 2 * c.learned_positions * d
    return c.layers * (encoder_layer + decoder_layer) + c.vocabulary * d + positions


TABLE_3 = [
    ("base", {}, 63_045_632, 65_126_400, 65),
    ("A, h = 1", {"heads": 1}, 63_045_632, 65_126_400, None),
    ("A, h = 4", {"heads": 4}, 63_045_632, 65_126_400, None),
    ("A, h = 16", {"heads": 16}, 63_045_632, 65_126_400, None),
    ("A, h = 32", {"heads": 32}, 63_045_632, 65_126_400, None),
    ("B, d_k = 16", {"d_k": 16, "d_v": 64}, 55_967_744, 58_034_688, 58),
    ("B, d_k = 32", {"d_k": 32}, 58_327_040, 60_398_592, 60),
    ("C, N = 2", {"layers": 2}, 33_644_544, 35_700_736, 36),
    ("C, N = 4", {"layers": 4}, 48_345_088, 50_413_568, 50),
    ("C, N = 8", {"layers": 8}, 77_746_176, 79_839_232, 80),
    ("C, d = 256", {"d_model": 256}, 26_816_512, 27_856_896, 28),
    ("C, d = 1024", {"d_model": 1024}, 163_815_424, 167_976_960, 168),
    ("C, d_ff = 1024", {"d_ff": 1024}, 50_450_432, 52_531_200, 53),
    ("C, d_ff = 4096", {"d_ff": 4096}, 88_236_032, 90_316_800, 90),
    ("big", {"d_model": 1024, "d_ff": 4096, "heads": 16}, 214_171_648, 218_333_184, None),
]


@pytest.mark.parametrize(
    ("changes", "ours", "released", "printed"),
    [row[1:] for row in TABLE_3],
    ids=[row[0] for row in TABLE_3],
)
def test_every_row_of_table_3_has_the_parameters_of_the_formula(changes, ours, released, printed):
    """§3 ¶2: 37 000 voci senza bias; 40 960, i bias e 32 righe in più, come nel primo codice."""
    as_printed = TransformerConfig(**changes)
    assert count(on_paper(as_printed)) == parameters_by_formula(as_printed) == ours
    as_released = dataclasses.replace(as_printed, vocabulary=40_960, bias=True)
    target_space = 32 * as_released.d_model
    assert parameters_by_formula(as_released) + target_space == released
    assert printed is None or round(released / 1e6) == printed
    assert printed is None or round(ours / 1e6) != printed


@pytest.mark.parametrize("layers", [1, 3])
@every_form
def test_tiny_models_too_have_the_parameters_of_the_formula(sizes, layers):
    """§3 ¶2: con d_k diversa da d_v, con i bias, con le posizioni apprese."""
    config = tiny(layers=layers, **sizes)
    assert count(Transformer(config)) == parameters_by_formula(config)


def test_parameters_of_base_by_hand():
    """«A matita»: 63 045 632 parametri, una riga alla volta."""
    model = on_paper(BASE)
    encoder, decoder = model.encoder.layers[0], model.decoder.layers[0]
    assert count(encoder.self_attention) == 4 * 512 * 512 == 1_048_576
    assert count(encoder.feed_forward) == 512 * 2048 + 2048 + 2048 * 512 + 512 == 2_099_712
    assert count(encoder.feed_forward_norm) == 2 * 512 == 1_024
    assert count(encoder) == 1_048_576 + 2_099_712 + 2 * 1_024 == 3_150_336
    assert count(decoder) == 2 * 1_048_576 + 2_099_712 + 3 * 1_024 == 4_199_936
    assert count(model.encoder) + count(model.decoder) == 6 * (3_150_336 + 4_199_936) == 44_101_632
    assert count(model.embedding) == 37_000 * 512 == 18_944_000
    assert count(model) == 44_101_632 + 18_944_000 == 63_045_632


def multiply_adds(c: TransformerConfig, n: int, m: int) -> int:
    """Le moltiplicazioni di una frase: proiezioni, attenzioni intere, feed-forward, uscita."""
    d, width = c.d_model, c.heads * (c.d_k or c.d_model // c.heads)
    encoder = 4 * n * d * width + 2 * n * n * width + 2 * n * d * c.d_ff
    decoder = 4 * m * d * width + 2 * m * m * width + 2 * m * d * c.d_ff
    between = 2 * m * d * width + 2 * n * d * width + 2 * m * n * width
    return c.layers * (encoder + decoder + between) + m * d * c.vocabulary


@pytest.mark.parametrize("sizes", [{}, {"d_k": 5, "d_v": 5, "layers": 3}], ids=str)
def test_multiply_adds_are_those_of_the_formula(sizes):
    """«Sulla GPU»: il conto della pagina, contro i prodotti eseguiti; all'indietro il doppio."""
    model = Transformer(tiny(**sizes))
    source, target = torch.full((2, 5), 3), torch.full((2, 7), 4)
    expected = 2 * 2 * multiply_adds(model.config, 5, 7)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as forward:
        logits = model(source, target)
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    assert forward.get_total_flops() == expected
    assert backward.get_total_flops() == 2 * expected


def test_base_has_18_attentions_12_feed_forwards_and_30_norms():
    """§3 ¶2, figura 1: sei strati per pila, due sotto-strati nell'encoder, tre nel decoder."""
    model = on_paper(BASE)
    kinds = Counter(type(module) for module in model.modules())
    assert kinds[MultiHeadAttention] == 18
    assert kinds[FeedForward] == 12
    assert kinds[LayerNorm] == kinds[AddAndNorm] == 30
    assert kinds[EncoderLayer] == kinds[DecoderLayer] == 6
    assert kinds[SharedEmbedding] == 1
    assert [type(layer) for layer in model.encoder.layers] == [EncoderLayer] * 6
    assert [type(layer) for layer in model.decoder.layers] == [DecoderLayer] * 6


def test_no_parameter_is_shared_except_the_embedding():
    """§3 ¶2: nessun parametro ha due nomi, né due la stessa memoria; una tabella per tre usi."""
    model = random_model(tiny(learned_positions=7))
    named = dict(model.named_parameters(remove_duplicate=False))
    assert len({id(parameter) for parameter in named.values()}) == len(named)
    assert len({parameter.data_ptr() for parameter in named.values()}) == len(named)
    assert [name for name, p in named.items() if 13 in p.shape] == ["embedding.weight"]


def test_new_layers_start_different():
    """§3 ¶2: gli strati sono uguali nella forma, non nei valori con cui nascono."""
    named = Transformer(tiny()).named_parameters(remove_duplicate=False)
    matrices = [parameter for name, parameter in named if ".w_" in name]
    assert len(matrices) == 2 * (2 + 2) + 2 * (4 + 2)
    for a, b in itertools.combinations(matrices, 2):
        assert not a.equal(b)


def test_both_stacks_may_learn_their_own_positions():
    """§3 ¶2, tabella 3 (E): due tabelle, una per pila, lunghe quanto si chiede."""
    model = Transformer(tiny(d_model=5, heads=5, learned_positions=11))
    assert isinstance(model.source_positions, LearnedPositions)
    assert model.source_positions.table.shape == model.target_positions.table.shape == (11, 5)
    assert model.source_positions.table is not model.target_positions.table


def test_configuration_cannot_change():
    """Una configurazione con un nome resta quella: per un'altra si fa una copia."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        BASE.layers = 7


# ¶1: la proprietà autoregressiva


def test_shift_right_by_hand():
    """§3 ¶1: alla posizione i sta y_{i−1}; davanti il simbolo d'inizio, l'ultima cade."""
    target = torch.tensor([[7, 8, 9], [4, 5, 6]])
    assert shift_right(target, 3).tolist() == [[3, 7, 8], [3, 4, 5]]
    assert shift_right(target[0], 1).tolist() == [1, 7, 8]
    assert shift_right(target[:, :1], 2).tolist() == [[2], [2]]
    assert shift_right(target.int(), 1).dtype == torch.int32


@every_form
def test_scores_at_i_depend_on_the_outputs_before_i_and_on_all_of_them(sizes):
    """§3 ¶1, T14: y_j cambia i punteggi dalla posizione j + 1 in poi, tutti, e nessun altro."""
    model = random_model(tiny(**sizes))
    source, y = sentences([3, 12, 5]), torch.tensor([[9, 4, 6, 5, 8]])
    before = model(source, shift_right(y, START))[0]
    for j in range(5):
        changed = y.clone()
        changed[0, j] = 11
        moved = (model(source, shift_right(changed, START))[0] - before).abs().amax(dim=1)
        assert (moved[: j + 1] == 0).all()
        assert (moved[j + 1 :] > 1e-6).all()


def test_mask_allows_up_to_i_and_the_shift_turns_it_into_less_than_i():
    """§3 ¶1: senza lo spostamento la posizione i vede y_i, il token che deve predire."""
    model = random_model(tiny())
    source, y = sentences([3, 12, 5]), torch.tensor([[9, 4, 6, 5, 8]])
    for j in range(5):
        changed = y.clone()
        changed[0, j] = 11
        moved = (model(source, changed)[0] - model(source, y)[0]).abs().amax(dim=1)
        assert (moved[:j] == 0).all()
        assert (moved[j:] > 1e-6).all()


@every_form
def test_every_output_depends_on_every_source_token(sizes):
    """§3 ¶1: la sorgente si guarda tutta, anche ciò che viene dopo."""
    model = random_model(tiny(**sizes))
    source, target = sentences([3, 12, 5, 7]), torch.tensor([[1, 9, 4]])
    before = model(source, target)[0]
    for j in range(4):
        changed = source.clone()
        changed[0, j] = 11
        assert ((model(changed, target)[0] - before).abs().amax(dim=1) > 1e-6).all()


@every_form
def test_padding_of_the_source_changes_nothing(sizes, device):
    """§3: una frase sola o in un batch con una più lunga dà gli stessi punteggi."""
    model = random_model(tiny(**sizes), device)
    source = sentences([3, 12, 5, 7, 9], [8, 4], device=device)
    target = torch.tensor([[1, 9, 4], [1, 7, 7]], device=device)
    together = model(source, target)
    assert_equal(model(source[:1], target[:1]), together[:1])
    assert_equal(model(source[1:, :2], target[1:]), together[1:])


def test_mask_is_built_only_when_there_is_padding():
    """§3: senza padding nessuna maschera; con il padding, vera sui token effettivi."""
    model = random_model(tiny())
    assert model.source_mask(sentences([3, 12], [5, 7])) is None
    mask = model.source_mask(sentences([3, 12, 4], [5]))
    assert mask.tolist() == [[[True, True, True]], [[True, False, False]]]
    other = random_model(tiny(padding_id=5, start_id=7))
    assert other.source_mask(torch.tensor([[3, 5, 0]])).tolist() == [[[True, False, True]]]
    memory, mask = model.encode(sentences([3, 12, 4], [5]))
    assert memory.shape == (2, 3, 6)
    assert mask.tolist() == [[[True, True, True]], [[True, False, False]]]


def test_z_has_length_n_and_y_length_m():
    """§3 ¶1: n vettori dall'encoder, m uscite dal decoder, che n e m siano o no uguali."""
    model = random_model(tiny())
    for n, m in ((5, 3), (1, 7), (7, 1)):
        source, target = torch.full((2, n), 4), torch.full((2, m), 5)
        assert model.encode(source)[0].shape == (2, n, 6)
        assert model.hidden(source, target).shape == (2, m, 6)
        assert model(source, target).shape == (2, m, 13)
        first, second = model.score(source, target, target)
        assert first.shape == second.shape == (2, m)


def test_every_decoder_layer_reads_the_top_of_the_encoder():
    """Figura 1: una linea sola, dalla cima dell'encoder alle attenzioni di tutti gli strati."""
    model = random_model(tiny(layers=3))
    tops, read = [], []
    model.encoder.layers[-1].register_forward_hook(lambda _, given, result: tops.append(result))
    for layer in model.decoder.layers:
        layer.cross_attention.register_forward_pre_hook(lambda _, given: read.append(given[1:3]))
    model(torch.tensor([[3, 4, 5]]), torch.tensor([[1, 9]]))
    assert len(read) == 3
    assert all(tensor is tops[0] for pair in read for tensor in pair)


# ¶1: un elemento alla volta


RAGGED = [[3, 5, 4, 7, 3], [7, 3], [4], [5, 5, 8]]
"""Quattro frasi di lunghezze diverse."""

MEMORIZED = [[9, "fine"], [8, 4, 4, "fine"], ["fine"], [3, 7, 8, 9, 10, 11, 12]]
"""Che cosa il modello impara a rispondere: presto, al limite, subito, mai la fine."""


def padded(rows: list[list[int]], padding: int) -> list[list[int]]:
    longest = max(map(len, rows))
    return [row + [padding] * (longest - len(row)) for row in rows]


def pupil(**sizes: object) -> tuple[Transformer, Tensor, list[list[int]]]:
    """Un modello addestrato, tutte le posizioni insieme, a rispondere quattro cose a memoria."""
    model = Transformer(tiny(**{"layers": 1, "d_model": 12, "d_ff": 31, **sizes})).double()
    c = model.config
    rows = [[c.end_id if token == "fine" else token for token in row] for row in MEMORIZED]
    source = torch.tensor(padded(RAGGED, c.padding_id))
    wanted = torch.tensor(padded(rows, c.padding_id))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(200):
        chosen, _ = model.score(source, shift_right(wanted, c.start_id), wanted)
        loss = -chosen[wanted != c.padding_id].sum()
        if loss < 0.5:
            return model, source, rows
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    raise AssertionError(f"dopo 200 passi la perdita è ancora {loss.item():.2f}")


def naive(model: Transformer, source: Tensor, extra: int) -> list[list[int]]:
    """Una frase alla volta, senza cache: a ogni token si rifà tutto il prefisso."""
    c, rows = model.config, []
    for sentence in source.tolist():
        real = [token for token in sentence if token != c.padding_id]
        prefix = [c.start_id]
        while len(prefix) <= len(real) + extra and c.end_id not in prefix:
            logits = model(torch.tensor([real]), torch.tensor([prefix]))
            prefix.append(int(logits[0, -1].argmax()))
        rows.append(prefix[1:])
    return rows


GENERATORS = pytest.mark.parametrize(
    "sizes",
    [
        pytest.param({"d_k": 5, "d_v": 7}, id="sinusoidi"),
        pytest.param({"d_model": 15, "learned_positions": 9, "bias": True}, id="apprese"),
        pytest.param({"padding_id": 1, "start_id": 2, "end_id": 6}, id="altri identificatori"),
    ],
)


@GENERATORS
def test_what_is_learned_in_parallel_is_generated_one_token_at_a_time(sizes):
    """§3 ¶1: addestrato su tutte le posizioni insieme, scrive da solo ciò che ha imparato.

    Ogni frase si ferma per conto suo: al simbolo di fine, o al limite; poi padding.
    """
    model, source, rows = pupil(**sizes)
    padding = model.config.padding_id
    for extra in (0, 1, 2, 3):
        limits = [len(sentence) + extra for sentence in RAGGED]
        expected = [row[:limit] for row, limit in zip(rows, limits, strict=True)]
        assert model.generate(source, extra).tolist() == padded(expected, padding)


@GENERATORS
def test_generation_with_cache_equals_the_naive_loop(sizes):
    """§3 ¶1: con la cache, in un batch, gli stessi token di un ciclo che rifà tutto ogni volta."""
    model, source, _ = pupil(**sizes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    for extra in (0, 1, 3):
        expected = padded(naive(model, source, extra), model.config.padding_id)
        assert model.generate(source, extra).tolist() == expected


@GENERATORS
def test_packed_weights_generate_the_same_tokens(sizes, monkeypatch):
    """§3 ¶1: chi genera impacchetta i pesi, se sono grandi, e sceglie gli stessi token."""
    model, source, _ = pupil(**sizes)
    model.float()
    expected = model.generate(source, 3)
    monkeypatch.setattr(s3_2_2_multi_head, "LARGE", 1)
    found = []
    model.embedding.register_forward_hook(lambda *_: found.append(PACKS.get()))
    assert model.generate(source, 3).equal(expected)
    assert all(packs is found[0] for packs in found)
    assert len(found[0]) > 0
    assert PACKS.get() is None


@every_form
def test_cached_scores_equal_those_of_the_whole_prefix(sizes):
    """§3 ¶1, T14: un passo con la cache dà la riga i di `forward` su tutto il prefisso."""
    model = random_model(tiny(**sizes))
    source, target = sentences([3, 12, 5], [8]), torch.tensor([[1, 9, 4, 7, 2], [1, 3, 3, 0, 11]])
    expected = model(source, target)
    memory, mask = model.encode(source)
    caches = model.decoder.new_cache(memory, 5)
    for i in range(5):
        assert_equal(
            model.next_logits(target[:, i : i + 1], i, caches, mask), expected[:, i : i + 1]
        )


def test_generation_without_padding_or_room():
    """§3 ¶1: senza padding; con una frase tutta di padding; con nessun posto per scrivere."""
    model, source, rows = pupil()
    assert model.generate(source[3:, :3]).tolist()[0][:7] == rows[3]
    assert model.generate(source[:1], 0).tolist() == [rows[0]]
    nothing = torch.zeros(1, 3, dtype=torch.long)
    assert model.generate(nothing, 0).shape == (1, 0)
    both = torch.cat([source[1:2, :3], nothing])
    assert model.generate(both, 0).tolist() == [rows[1][:2], [0, 0]]
    assert model.generate(source[1:2].int(), 3).dtype == torch.int32


def test_generation_may_write_fifty_tokens_more_than_its_source():
    """§3 ¶1, §6.1: se nulla la ferma prima, n + 50 token."""
    model = random_model(tiny())
    with torch.no_grad():
        model.embedding.weight[END] = 0
        norm = model.decoder.layers[-1].feed_forward_norm.norm
        norm.gain.zero_()
        norm.bias.copy_(model.embedding.weight[7])
        model.embedding.weight[7] *= 9
    assert model.generate(torch.tensor([[3, 4, 5]])).tolist() == [[7] * 53]


def test_generation_leaves_the_model_as_it_was():
    """§3 ¶1: niente dropout mentre genera; poi il modo di prima, anche dopo un errore."""
    model, source, _ = pupil(learned_positions=8)
    silent = model.generate(source, 3)
    noisy = same_weights(model, dropout=0.9)
    for training in (True, False):
        noisy.train(training)
        assert noisy.generate(source, 3).equal(silent)
        assert {module.training for module in noisy.modules()} == {training}
        with pytest.raises(ValueError, match=r"^embeddings: dato: 9 posizioni"):
            noisy.generate(source[-1:].repeat(1, 2)[:, :5].fill_(5), 5)
        assert noisy.training is training
    noisy.train()
    noisy.encoder.eval()
    noisy.generate(source, 3)
    assert noisy.training
    assert not any(module.training for module in noisy.encoder.modules())
    assert all(module.training for module in noisy.decoder.modules())


def same_weights(model: Transformer, **changes: object) -> Transformer:
    """Lo stesso modello con un'altra configurazione."""
    other = Transformer(dataclasses.replace(model.config, **changes)).double()
    other.load_state_dict(model.state_dict())
    return other


def test_generating_moves_no_parameter():
    """C9: in uso i pesi restano fermi, bit per bit, e la stessa domanda ha la stessa risposta."""
    model, source, _ = pupil(learned_positions=8)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    answers = [model.generate(source, 3) for _ in range(3)]
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(after[name].equal(weight) for name, weight in before.items())
    assert answers[0].equal(answers[1])
    assert answers[0].equal(answers[2])


def test_generation_keeps_no_gradients():
    """§3 ¶1: generare non prepara derivate, e il risultato è un tensore come gli altri."""
    model = random_model(tiny())
    enabled = []
    model.encoder.layers[0].register_forward_hook(
        lambda *_: enabled.append(torch.is_grad_enabled())
    )
    output = model.generate(torch.tensor([[3, 4, 5]]), 1)
    assert enabled == [False]
    assert not output.is_inference()
    output[0, 0] = 4
    model(output, output).sum().backward()


# §5.4 in anticipo: dove sta il dropout


def test_dropout_acts_on_sublayer_outputs_and_on_the_two_embedding_sums_only():
    """§3 ¶2: 30 uscite di sotto-strato e due somme; mai sui pesi di attenzione, mai nel FFN."""
    model = random_model(tiny(layers=6, dropout=0.5))
    drops = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assert len(drops) == 30 + 1
    assert {module.p for module in drops} == {0.5}
    inside = [
        module
        for norm in model.modules()
        if isinstance(norm, AddAndNorm)
        for module in [norm.dropout]
    ]
    assert set(drops) == {*inside, model.dropout}
    calls: Counter[nn.Module] = Counter()
    for module in drops:
        module.register_forward_hook(lambda module, *_: calls.update([module]))
    source = torch.tensor([[3, 4, 5]])
    assert not model(source, source).equal(model(source, source))
    assert calls == Counter(dict.fromkeys(inside, 2)) + Counter({model.dropout: 4})
    for layer in (*model.encoder.layers, *model.decoder.layers):
        x = torch.randn(1, 3, 6, dtype=torch.float64)
        assert layer.self_attention(x, x, x).equal(layer.self_attention(x, x, x))
        assert layer.feed_forward(x).equal(layer.feed_forward(x))


@every_form
def test_embeddings_and_positions_are_summed_then_dropped(sizes):
    """§3 ¶2: in fondo a ogni pila entra dropout(√d · embedding + posizione)."""
    model = random_model(tiny(**sizes, dropout=0.5))
    d, seen, entered = model.config.d_model, [], []
    model.dropout.register_forward_hook(lambda _, given, result: seen.append((*given, result)))
    for stack in (model.encoder, model.decoder):
        stack.register_forward_pre_hook(lambda _, given: entered.append(given[0]))
    source, target = sentences([3, 12, 5]), torch.tensor([[1, 9, 4, 7]])
    model(source, target)
    for (before, after), given, tokens, positions in zip(
        seen,
        entered,
        (source, target),
        (model.source_positions, model.target_positions),
        strict=True,
    ):
        vectors = model.embedding.weight[tokens] * math.sqrt(d)
        assert_equal(before, positions(vectors))
        assert given is after
        assert ((after == 0) | ((after - 2 * before).abs() < 1e-12)).all()
        assert (after == 0).any()


# Un modello come gli altri


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32], ids=str)
def test_short_types_stay_close_to_double_precision(dtype, device):
    """Il modello si converte come ogni altro; nessun NaN, nemmeno con una sorgente vuota."""
    model = random_model(tiny(d_model=16, heads=2, d_ff=31), device).to(dtype)
    source = sentences([3, 12, 5, 7], [8, 4], [], device=device)
    target = torch.tensor([[1, 9, 4], [1, 7, 0], [0, 0, 0]], device=device)
    logits = model(source, target)
    generated = model.generate(source, 2)
    exact = model.double()(source, target)
    assert logits.dtype == dtype
    assert_equal(logits.double(), exact, 40 * torch.finfo(dtype).eps * exact.abs().max().item())
    assert generated.shape[0] == 3


@pytest.mark.skipif(not torch.cuda.is_available(), reason="qui non c'è una GPU CUDA")
def test_on_a_gpu_a_step_can_be_recorded():
    """Avanti e indietro in un grafo: ripetuto con altri token, dà la loro perdita e i gradienti."""
    model = random_model(tiny(), "cuda").float()
    tokens = torch.randint(3, 11, (3, 2, 5), device="cuda")

    def step():
        model.zero_grad()
        chosen, _ = model.score(*tokens)
        loss = -chosen.mean()
        loss.backward()
        return loss.detach()

    aside = torch.cuda.Stream()
    with torch.cuda.stream(aside):
        step()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = step()
    tokens.copy_(torch.randint(3, 11, tokens.shape, device="cuda"))
    graph.replay()
    found = [loss.clone(), *(parameter.grad.clone() for parameter in model.parameters())]
    expected = [step(), *(parameter.grad for parameter in model.parameters())]
    for mine, theirs in zip(found, expected, strict=True):
        dense = theirs.to_dense() if theirs.is_sparse else theirs
        torch.testing.assert_close(mine, dense, rtol=1e-4, atol=1e-5)


@every_form
def test_no_mask_gives_nan(sizes):
    """Sorgenti tutte di padding, in testa o in mezzo: punteggi e gradienti restano finiti."""
    model = random_model(tiny(**sizes))
    source = torch.tensor([[0, 0, 0], [0, 3, 4], [3, 0, 4], [0, 0, 5]])
    logits = model(source, torch.tensor([[1, 3, 4], [0, 0, 0], [1, 0, 0], [5, 5, 5]]))
    logits.square().sum().backward()
    assert logits.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_autocast_computes_products_in_bfloat16(device):
    """Con autocast i prodotti sono in BF16; i parametri e i loro gradienti restano in FP32."""
    model = random_model(tiny(d_model=16, heads=2, d_ff=31, bias=True), device).float()
    source = sentences([3, 12, 5, 7], [8, 4], device=device)
    target = torch.tensor([[1, 9, 4], [1, 7, 5]], device=device)
    exact = model(source, target)
    with torch.autocast(device, torch.bfloat16):
        logits = model(source, target)
        chosen, average = model.score(source, target, target)
        model.generate(source, 1)
    assert logits.dtype == torch.bfloat16
    assert chosen.dtype == average.dtype == torch.float32
    assert_equal(logits.float(), exact, 0.1 * exact.abs().max().item())
    chosen.sum().backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


COMPILED = """
import torch
from attention import Transformer, TransformerConfig

torch.set_num_threads(1)
sizes = dict(layers=1, d_model=6, d_ff=11, heads=3, d_k=5, d_v=7, dropout=0.0, vocabulary=13)
model = Transformer(TransformerConfig(**sizes))
small = torch.tensor([[3, 4, 0], [3, 5, 6]]), torch.tensor([[1, 8], [1, 9]])
large = torch.tensor([[3, 4, 5, 6, 0]] * 3), torch.tensor([[1, 8, 9, 3]] * 3)
compiled = torch.compile(model, fullgraph=True, dynamic=True, backend="eager")
batch, n, m = (torch.export.Dim(name, min=2, max=64) for name in ("batch", "n", "m"))
exported = torch.export.export(
    model, small, dynamic_shapes=({0: batch, 1: n}, {0: batch, 1: m})
).module()
for source, target in (small, large):
    expected = model(source, target)
    torch.testing.assert_close(compiled(source, target), expected)
    torch.testing.assert_close(exported(source, target), expected)
"""


def test_model_compiles_whole_and_exports_with_any_batch_and_lengths():
    """`torch.compile` senza interruzioni del grafo, `torch.export` con dimensioni libere.

    In un altro processo: il controllo delle forme che i test aggiungono non è compilabile.
    """
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# Scrivere e rileggere


@every_form
def test_a_saved_model_reloads_with_its_configuration(sizes, tmp_path):
    """Parametri e configurazione tornano uguali, e il modello riletto dà gli stessi numeri."""
    model = random_model(tiny(**sizes)).float()
    path = tmp_path / "modello.safetensors"
    model.save(path)
    again = Transformer.load(str(path))
    assert again.config == model.config
    assert list(again.state_dict()) == list(model.state_dict())
    source, target = sentences([3, 12, 5]), torch.tensor([[1, 9]])
    assert again(source, target).equal(model(source, target))
    assert [file.name for file in tmp_path.iterdir()] == ["modello.safetensors"]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
def test_a_saved_model_reloads_with_its_type(dtype, tmp_path):
    """Nessuna cifra si perde: i parametri tornano nel tipo in cui erano, uguali bit per bit."""
    model = random_model(tiny()).to(dtype)
    model.save(tmp_path / "modello.safetensors")
    again = Transformer.load(tmp_path / "modello.safetensors").state_dict()
    for name, parameter in model.state_dict().items():
        assert again[name].dtype == dtype
        assert again[name].equal(parameter)


def test_the_saved_file_is_an_ordinary_safetensors(tmp_path):
    """Chi non ha questo modulo legge i parametri per nome, e la configurazione come JSON."""
    model = Transformer(tiny(bias=True))
    model.save(tmp_path / "a")
    with safe_open(tmp_path / "a", "pt") as file:
        assert json.loads(file.metadata()["config"]) == dataclasses.asdict(model.config)
        assert set(file.keys()) == set(model.state_dict())
        assert file.get_tensor("embedding.weight").equal(model.embedding.weight)


def test_an_interrupted_save_leaves_the_file_of_before(tmp_path, monkeypatch):
    """Finché il file nuovo non è intero, con quel nome c'è il vecchio."""
    old, new = Transformer(tiny()), Transformer(tiny())
    path = tmp_path / "modello"
    old.save(path)
    before = path.read_bytes()

    def cut(*_: object) -> None:
        raise OSError("disco pieno")

    for name in ("os.fsync", "os.replace"):
        with monkeypatch.context() as patch:
            patch.setattr(name, cut)
            with pytest.raises(OSError, match="disco pieno"):
                new.save(path)
        assert path.read_bytes() == before
    new.save(path)
    assert Transformer.load(path).embedding.weight.equal(new.embedding.weight)


def test_a_file_that_save_did_not_write_is_refused(tmp_path):
    """Danneggiato, estraneo, con altre misure, con parametri in meno: lo stesso errore."""
    model, path = Transformer(tiny()), tmp_path / "modello"
    model.save(path)
    whole, state = path.read_bytes(), model.state_dict()
    config = dataclasses.asdict(model.config)

    def written(tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> bytes:
        save_file(tensors, path, metadata)
        return path.read_bytes()

    wrong = [
        b"",
        b"testo qualsiasi, che non e' un modello",
        whole[: len(whole) // 2],
        whole[:-1],
        written(state, None),
        written(state, {"autore": "altri"}),
        written(state, {"config": "{"}),
        written(state, {"config": json.dumps(config | {"strati": 3})}),
        written(state, {"config": json.dumps(config | {"heads": 0})}),
        written(state, {"config": json.dumps(config | {"d_ff": 12})}),
        written({"embedding.weight": state["embedding.weight"]}, {"config": json.dumps(config)}),
    ]
    for content in wrong:
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"^path: dato: ") as complaint:
            Transformer.load(path)
        expected = "un modello scritto da Transformer.save"
        assert str(complaint.value) == f"path: dato: {path}; atteso: {expected}"


def test_a_missing_file_is_simply_missing(tmp_path):
    """Un file che non c'è è l'errore di Python, non un modello danneggiato."""
    with pytest.raises(FileNotFoundError):
        Transformer.load(tmp_path / "nulla")


# Gli errori


INTEGER = "atteso: un numero intero"
POSITIVE = "atteso: almeno 1"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        *(
            ({name: value}, error, f"{name}: dato: {value}; {expected}")
            for name in ("layers", "d_model", "d_ff", "heads", "vocabulary")
            for value, error, expected in (
                (0, ValueError, POSITIVE),
                (-2, ValueError, POSITIVE),
                (2.0, TypeError, INTEGER),
                (True, TypeError, INTEGER),
                (None, TypeError, INTEGER),
            )
        ),
        *(
            ({name: value}, error, f"{name}: dato: {value}; {expected}")
            for name in ("d_k", "d_v", "learned_positions")
            for value, error, expected in (
                (0, ValueError, POSITIVE),
                (2.0, TypeError, INTEGER),
                (True, TypeError, INTEGER),
            )
        ),
        ({"heads": 5}, ValueError, "d_model: dato: 6; atteso: un multiplo di heads = 5, oppure"),
        ({"heads": 5, "d_k": 2}, ValueError, "d_model: dato: 6; atteso: un multiplo di heads = 5"),
        ({"heads": 5, "d_v": 2}, ValueError, "d_model: dato: 6; atteso: un multiplo di heads = 5"),
        ({"d_model": 9}, ValueError, "d_model: dato: 9; atteso: un numero pari, con le sinusoidi"),
        ({"dropout": -0.1}, ValueError, "dropout: dato: -0.1; atteso: da 0 compreso a 1 escluso"),
        ({"dropout": 1.0}, ValueError, "dropout: dato: 1.0; atteso: da 0 compreso a 1 escluso"),
        ({"dropout": 2.0}, ValueError, "dropout: dato: 2.0; atteso: da 0 compreso a 1 escluso"),
        ({"dropout": math.nan}, ValueError, "dropout: dato: nan; atteso: da 0 compreso a 1"),
        ({"dropout": "0.1"}, TypeError, "dropout: dato: 0.1; atteso: un numero"),
        ({"dropout": None}, TypeError, "dropout: dato: None; atteso: un numero"),
        ({"bias": 1}, TypeError, "bias: dato: 1; atteso: True o False"),
        *(
            ({name: value}, error, f"{name}: dato: {value}; {expected}")
            for name in ("padding_id", "start_id", "end_id")
            for value, error, expected in (
                (-1, ValueError, "atteso: almeno 0"),
                (13, ValueError, "atteso: da 0 a 12"),
                (29, ValueError, "atteso: da 0 a 12"),
                (1.5, TypeError, INTEGER),
                (True, TypeError, INTEGER),
            )
        ),
        ({"vocabulary": 2}, ValueError, "end_id: dato: 2; atteso: da 0 a 1"),
        (
            {"end_id": 1},
            ValueError,
            r"padding_id, start_id, end_id: dato: \[0, 1, 1\]; atteso: tre token diversi",
        ),
        ({"start_id": 0}, ValueError, r"padding_id, start_id, end_id: dato: \[0, 0, 2\]"),
        ({"end_id": 0}, ValueError, r"padding_id, start_id, end_id: dato: \[0, 1, 0\]"),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_wrong_configurations_are_refused(changes, error, message):
    """Ogni errore nomina la misura, ciò che è stato dato e ciò che era atteso."""
    with pytest.raises(error, match=f"^{message}"):
        tiny(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"layers": 1, "d_ff": 1, "d_k": 1, "d_v": 1, "vocabulary": 3},
        {"heads": 1, "d_model": 1, "learned_positions": 1},
        {"heads": 5, "d_k": 2, "d_v": 3},
        {"dropout": 0.999},
        {"padding_id": 12, "start_id": 11, "end_id": 0},
    ],
)
def test_extreme_configurations_work(changes):
    """I valori agli estremi sono leciti, e il modello gira."""
    config = tiny(**changes)
    model = Transformer(config)
    source = torch.tensor([[config.end_id]])
    assert model(source, source).isfinite().all()


SOURCE = torch.tensor([[3, 4, 5], [6, 7, 0]])
TARGET = torch.tensor([[1, 4], [1, 5]])


@pytest.mark.parametrize(
    ("problem", "error", "message"),
    [
        ((SOURCE.double(), TARGET), TypeError, "source: dato: torch.float64; atteso: un tensore"),
        ((SOURCE, TARGET.bool()), TypeError, "target: dato: torch.bool; atteso: un tensore"),
        (([[3]], TARGET), TypeError, "source: dato: list; atteso: un tensore"),
        ((SOURCE, [[3]]), TypeError, "target: dato: list; atteso: un tensore"),
        ((SOURCE[:, :0], TARGET), ValueError, r"source: dato: \[2, 0\]; atteso: alm"),
        ((SOURCE, TARGET[:, :0]), ValueError, r"target: dato: \[2, 0\]; atteso: alm"),
        ((SOURCE, TARGET[:0]), ValueError, r"target: dato: \[0, 2\]; atteso: alm"),
        ((SOURCE + 6, TARGET), ValueError, "source: dato: il token 13; atteso: da 0 a 12"),
        ((SOURCE - 1, TARGET), ValueError, "source: dato: il token -1; atteso: da 0 a 12"),
        ((SOURCE, TARGET + 8), ValueError, "target: dato: il token 13; atteso: da 0 a 12"),
        ((SOURCE, TARGET - 2), ValueError, "target: dato: il token -1; atteso: da 0 a 12"),
        (
            (SOURCE, TARGET[:1]),
            ValueError,
            r"target: dato: un batch \[1\]; atteso: \[2\], come source",
        ),
        (
            (SOURCE[:1], TARGET),
            ValueError,
            r"target: dato: un batch \[2\]; atteso: \[1\], come source",
        ),
        (
            (SOURCE[None], TARGET),
            ValueError,
            r"target: dato: un batch \[2\]; atteso: \[1, 2\], come source",
        ),
        (
            (SOURCE, TARGET[None, None]),
            ValueError,
            r"target: dato: un batch \[1, 1, 2\]; atteso: \[2\], come source",
        ),
        (
            (SOURCE, TARGET[0]),
            ValueError,
            r"target: dato: un batch \[\]; atteso: \[2\], come source",
        ),
        ((SOURCE.repeat(1, 3), TARGET), ValueError, "embeddings: dato: 9 posizioni; atteso: al pi"),
        ((SOURCE, TARGET.repeat(1, 4)), ValueError, "embeddings: dato: 8 posizioni; atteso: al pi"),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_wrong_tokens_are_refused(problem, error, message):
    """`forward` e `score` controllano tutto prima di calcolare."""
    model = Transformer(tiny(learned_positions=7))
    with pytest.raises(error, match=f"^{message}"):
        model(*problem)
    with pytest.raises(error, match=f"^{message}"):
        model.score(*problem, problem[1])


def test_the_longest_sequences_of_learned_positions_are_accepted():
    """Con sette posizioni apprese, sette token sono ammessi e l'ottavo no."""
    model = Transformer(tiny(learned_positions=7))
    assert model(torch.full((1, 7), 3), torch.full((1, 7), 4)).shape == (1, 7, 13)
    assert model.generate(torch.full((1, 3), 3), 4).size(1) <= 7


@pytest.mark.parametrize(
    ("source", "extra", "error", "message"),
    [
        (SOURCE, -1, ValueError, "extra: dato: -1; atteso: almeno 0"),
        (SOURCE, 1.5, TypeError, "extra: dato: 1.5; atteso: un numero intero"),
        (SOURCE[0], 3, ValueError, r"source: dato: \[3\]; atteso: una forma \[batch, n\]"),
        (SOURCE[None], 3, ValueError, r"source: dato: \[1, 2, 3\]; atteso: una forma"),
        (SOURCE + 6, 3, ValueError, "source: dato: il token 13; atteso: da 0 a 12"),
        (SOURCE[:, :0], 3, ValueError, r"source: dato: \[2, 0\]; atteso: almeno"),
        (SOURCE.double(), 3, TypeError, "source: dato: torch.float64; atteso: un tensore"),
        ([[3]], 3, TypeError, "source: dato: list; atteso: un tensore"),
    ],
)
@pytest.mark.usefixtures("our_own_errors")
def test_wrong_requests_to_generate_are_refused(source, extra, error, message):
    """`generate` controlla la sorgente e il limite."""
    with pytest.raises(error, match=f"^{message}"):
        Transformer(tiny()).generate(source, extra)


# Il Fortran della pagina


def test_fortran_on_the_page_generates_with_our_model(fortran):
    """§3 ¶1: il ciclo in Fortran chiama il modello e rilegge ciò che ha scritto."""
    model, _, rows = pupil()
    c, lists = model.config, ctypes.POINTER(ctypes.c_int)

    @ctypes.CFUNCTYPE(None, ctypes.c_int, lists, ctypes.POINTER(ctypes.c_double))
    def scores_after(i, tokens, scores):
        logits = model(sentence, torch.tensor([tokens[:i]]))[0, -1]
        for voice, score in enumerate(logits.tolist()):
            scores[voice] = score

    routine = fortran("s3_model_architecture").greedy
    for given, row in zip(RAGGED, rows, strict=True):
        sentence, limit = torch.tensor([given]), len(given) + 3
        tokens, length = (ctypes.c_int * (limit + 1))(), ctypes.c_int()
        arguments = (c.vocabulary, limit, c.start_id, c.end_id, scores_after, tokens)
        routine(*arguments, ctypes.byref(length))
        assert tokens[: length.value + 1] == [c.start_id, *row[:limit]]
