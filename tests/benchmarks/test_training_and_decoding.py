"""Il passo da 25 000 token e la generazione: il lavoro contato è quello che si fa."""

import copy
import dataclasses
import subprocess
import sys
import types
from contextlib import nullcontext

import pytest
import torch
from torch.nn.attention import SDPBackend
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.flop_counter import FlopCounterMode

from attention import BASE, BIG, Transformer, TransformerConfig
from attention.s5_1_data_batching import Batch
from attention.s5_2_hardware_schedule import Processes, Trainer
from attention.s5_3_optimizer import make_optimizer
from attention.s5_4_regularization import batch_loss
from benchmarks import bench_s3_model_architecture as whole
from benchmarks import bench_s5_2_hardware_schedule as training
from benchmarks import bench_s6_1_decoding as decoding
from benchmarks import honest_data
from benchmarks.honest_data import Declared, DegenerateDataError, refuse_degenerate_data
from weave.house import ROOT

SMALL = TransformerConfig(layers=2, d_model=26, d_ff=35, heads=2, dropout=0.0, vocabulary=101)
"""Misure tutte diverse, senza dropout."""


@pytest.fixture
def short(monkeypatch):
    """Tre frasi di sette token."""
    monkeypatch.setattr(training, "BATCH", 3)
    monkeypatch.setattr(training, "LENGTH", 7)


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


# L'addestramento.


def test_a_step_has_about_25_000_tokens_in_whole_tiles_of_128():
    tokens = training.BATCH * training.LENGTH
    assert tokens == pytest.approx(25_000, rel=0.002)
    assert tokens % 128 == 0


def test_the_models_and_the_steps_are_those_of_the_article():
    assert training.SIZES == {"base": (BASE, 100_000), "grande": (BIG, 300_000)}
    assert BASE.vocabulary % 8 == 0


def test_flops_of_the_step_without_attention_are_its_products(short):
    """Ciò che resta sono i prodotti dentro le attenzioni: 2 · 2 · d per ogni coppia ammessa."""
    run = training.matrix_products(SMALL)
    pairs = 3 * (7 * 7 + 7 * 8 // 2 + 7 * 7)
    attentions = 3 * SMALL.layers * 4 * SMALL.d_model * pairs
    work = training.training_work("prova", SMALL)
    assert counted(run) == work.flops - attentions


def test_the_bare_products_are_98_operations_in_a_hundred():
    """Il limite del passo di otto frasi: mancano i prodotti dentro le attenzioni."""
    config = whole.base(37_000)
    rows = whole.BATCH * whole.LENGTH
    weights = sum(out * k * count for (out, k), count in whole.product_shapes(config).items())
    part = 3 * 2 * rows * weights / whole.training_work(config).flops
    assert 0.98 < part < 0.99


def test_traffic_is_what_adam_reads_and_writes():
    """Peso, gradiente e due medie letti; peso e due medie scritti; quattro byte ciascuno."""
    weights = sum(parameter.numel() for parameter in Transformer(SMALL).parameters())
    work = training.training_work("prova", SMALL)
    assert work.bytes == (4 + 3) * 4 * weights
    assert work.numbers * 4 == work.bytes


def test_the_step_moves_the_weights_as_the_trainer_does(short, monkeypatch):
    """Stessi batch, stesso autocast, stesso Adam: gli stessi pesi, a meno dell'ordine della media.

    Adam divide il gradiente per la sua grandezza: dove è quasi zero un arrotondamento può
    cambiarne il verso, perciò si guardano i gradienti, e i pesi nel complesso.
    """
    model = Transformer(SMALL)
    twin = copy.deepcopy(model)
    source, target, expected = training.sentences(SMALL)
    monkeypatch.setattr(training, "DEVICE", "cpu")
    training.training_step(model, source, target, expected)()
    trainer = Trainer(
        twin,
        batch_loss,
        make_optimizer(twin),
        lambda _: training.RATE,
        Processes(0, 1, torch.device("cpu")),
        dtype=torch.bfloat16,
    )
    trainer.run([Batch(source, target, expected)])
    for (name, ours), theirs in zip(model.named_parameters(), twin.parameters(), strict=True):
        error = (ours.grad - theirs.grad).norm() / theirs.grad.norm().clamp_min(1e-6)
        assert error < 0.02, name
        assert (ours - theirs).abs().mean() < 0.05 * training.RATE, name


def test_contestants_start_from_the_same_loss(short, monkeypatch):
    """Qui non si compila e non si registra; i soli prodotti non imparano."""
    monkeypatch.setattr(training, "recorded", lambda step: {training.RECORDED: step})
    monkeypatch.setattr(training, "SHORT_ATTENTION", SDPBackend.MATH)
    torch.manual_seed(3)
    runs = training.contestants(SMALL)
    ours = [training.RECORDED, training.COMPILED, "Transformer"]
    assert list(runs) == [*ours, whole.TORCH, training.PRODUCTS]
    with torch.compiler.set_stance("force_eager"):
        losses = [runs[name]().item() for name in ("Transformer", whole.TORCH, training.COMPILED)]
    assert losses == pytest.approx([losses[0]] * 3, rel=0.01)


def test_the_same_loss_in_parts_and_whole(short):
    """L'ingresso compilato a parte è quello di `Transformer.hidden`."""
    model = Transformer(SMALL)
    source, target, _ = training.sentences(SMALL)
    expected = model.hidden(source, target)
    vectors, others = training.entrance(model, source, target)
    torch.testing.assert_close(model.decoder(others, model.encoder(vectors)), expected)


PROGRAM = """
import copy, sys
import torch
from torch._dynamo.utils import counters
from attention import Transformer, TransformerConfig
from benchmarks import bench_s5_2_hardware_schedule as training

training.BATCH, training.LENGTH, training.DEVICE = 3, 7, "cpu"
torch.manual_seed(0)
config = TransformerConfig(layers=3, d_model=26, d_ff=35, heads=13, dropout=0.0, vocabulary=101)
eager = Transformer(config)
compiled = copy.deepcopy(eager)
training.compile_parts(compiled, backend="aot_eager")
tokens = training.sentences(config)

def gradients(model):
    model.zero_grad()
    loss = training.smoothed_loss(*model.score(*tokens))
    loss.backward()
    return [loss, *(parameter.grad for parameter in model.parameters())]

for one, other in zip(gradients(eager), gradients(compiled), strict=True):
    torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)
step = training.training_step(compiled, *tokens)
first = [step() for _ in range(4)]
assert first[3] < first[0]
assert not counters["graph_break"], counters["graph_break"]
print(counters["stats"]["unique_graphs"])

def question(*_):
    raise AssertionError("la CPU ha chiesto un numero alla GPU")

step = training.training_step(compiled, *(tokens + 1) % 101)
step()
torch.Tensor.item = torch.Tensor.__bool__ = torch.Tensor.tolist = question
step()
print(counters["stats"]["unique_graphs"])
"""


def test_four_parts_are_compiled_once_and_give_the_same_gradients():
    """Quattro in FP32, tre o quattro con autocast, e poi più nulla, con altri strati e token.

    L'ultimo passo non chiede numeri: è ciò che serve per registrarlo in un grafo.

    In un altro processo: il controllo delle forme che i test aggiungono non è compilabile.
    """
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["8", "8"]


def test_hours_are_the_steps_of_the_article_at_the_measured_pace():
    scores = {"uno": {"median": 0.036}, "due": {"median": 0.072}, training.PRODUCTS: {"median": 1}}
    found = training.schedule({"contestants": scores}, 100_000)
    assert found["hours"] == pytest.approx({"uno": 1.0, "due": 2.0})
    assert found["tokens_per_second"]["uno"] == pytest.approx(24_960 / 0.036)
    assert (found["steps"], found["tokens"]) == (100_000, 24_960)


# La generazione.


@pytest.mark.parametrize("rows", [1, 3])
def test_traffic_of_decoding_is_weights_per_token_and_the_caches(rows):
    """A ogni passo ogni strato rilegge key e value che ci sono; i pesi, una volta per token."""
    one, seen = whole.greedy_work(SMALL), 0
    for position in range(whole.LENGTH):
        seen += (position + 1) + whole.LENGTH
    caches = rows * SMALL.layers * 2 * SMALL.d_model * seen
    work = decoding.decoding_work("prova", SMALL, rows)
    assert work.numbers == one.numbers + caches
    assert work.flops == rows * one.flops
    assert work.label == {1: "prova, 1 frase", 3: "prova, 3 frasi"}[rows]


def test_beam_work_has_the_weights_of_one_sentence():
    work = decoding.beam_work(BASE, 4)
    assert work.flops == whole.products(BASE, 64, 256, 64)
    assert work.numbers == decoding.decoding_work("base", BASE, 4).numbers
    assert (work.shape["batch"], work.shape["beam"]) == (1, 4)


@torch.no_grad()
def test_the_model_of_the_contest_never_ends(monkeypatch):
    """Neppure con undici voci, dove la fine sarebbe la più alta una volta su undici."""
    config = dataclasses.replace(SMALL, vocabulary=11)
    for _ in range(5):
        model = decoding.endless(config, torch.float32)
        source = torch.randint(3, 11, (5, 9))
        assert model.generate(source, extra=20).shape == (5, 29)


@torch.no_grad()
def test_on_a_cpu_only_the_usual_loop_takes_part(monkeypatch):
    monkeypatch.setattr(decoding, "DEVICE", "cpu")
    assert list(decoding.contestants(SMALL, torch.float32, 2)) == [decoding.EAGER, decoding.READING]
    assert decoding.kinds() == [(torch.float32, "base", 1)]


@torch.no_grad()
@pytest.mark.parametrize(("rows", "capability"), [(1, (8, 0)), (1, (9, 0)), (2, (9, 0))])
def test_on_a_gpu_our_kernels_take_part_with_one_sentence(rows, capability, monkeypatch):
    """Una GPU finta: chi gareggia, con quali opzioni, e che ognuno generi la sua frase."""
    graph_decoding = pytest.importorskip("attention.beyond.graph_decoding")
    made = []

    def decoder(model, rows, length, extra, **options):
        made.append((rows, length, extra, options))
        return types.SimpleNamespace(generate=lambda source: options)

    monkeypatch.setattr(graph_decoding, "GraphDecoder", decoder)
    monkeypatch.setattr(decoding, "DEVICE", "cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    runs = decoding.graphs(Transformer(SMALL), torch.ones(rows, whole.LENGTH, dtype=torch.int64))
    ours = {"fused": True, "early": capability >= (9, 0)}
    expected = {decoding.OURS: ours, decoding.GRAPH: {}} if rows == 1 else {decoding.GRAPH: {}}
    assert {name: run() for name, run in runs.items()} == expected
    assert all(it[:3] == (rows, whole.LENGTH, 0) for it in made)
    full, half = torch.float32, torch.bfloat16
    monkeypatch.setattr(decoding, "DTYPES", [full, half])
    single = [(form, model, 1) for form in (full, half) for model in ("base", "grande")]
    assert decoding.kinds() == [*single, (half, "base", 64), (half, "grande", 64)]


def test_microseconds_per_token_and_tokens_per_second():
    found = decoding.per_token({"contestants": {"uno": {"median": 0.0064}}}, 3)
    assert found["us_per_token"] == pytest.approx({"uno": 100.0})
    assert found["tokens_per_second"] == pytest.approx({"uno": 30_000.0})


@pytest.mark.parametrize("rows", [1, 64])
def test_recorded_graphs_are_declared_outside(rows, monkeypatch):
    """Di un grafo ripetuto non si vede nessuna operazione: una gara che non lo sa lo rifiuta."""
    told = []
    monkeypatch.setattr(decoding, "contestants", lambda *_: {})
    benchmark = types.SimpleNamespace(extra_info={})
    decoding.test_decoding(
        benchmark, lambda *_, **named: told.append(named), torch.bfloat16, "base", rows
    )
    assert told == [{"different": [decoding.READING], "outside": [decoding.OURS, decoding.GRAPH]}]


@torch.no_grad()
@pytest.mark.parametrize("outside", [False, True])
def test_what_a_recorded_graph_does_is_not_seen(outside, monkeypatch):
    """Il grafo, con operazioni nascoste a chi guarda: passa soltanto se è dichiarato fuori."""
    graph_decoding = pytest.importorskip("attention.beyond.graph_decoding")
    for module in (decoding, honest_data):
        monkeypatch.setattr(module, "DEVICE", "cpu")
    decoder = graph_decoding.GraphDecoder(decoding.endless(SMALL, torch.float32), 2, 7, 0)

    def hidden(work):
        def replay():
            with _disable_current_modes():
                work()

        return types.SimpleNamespace(replay=replay)

    decoder.entry, decoder.graph = hidden(decoder.enter), hidden(decoder.steps)
    source = torch.randint(3, SMALL.vocabulary, (2, 7))
    work = decoding.decoding_work("prova", SMALL, 2)
    declared = Declared(work.flops, work.numbers, torch.float32, outside=outside)
    with nullcontext() if outside else pytest.raises(DegenerateDataError, match="letti e scritti"):
        refuse_degenerate_data("grafo", lambda: decoder.generate(source), True, declared)


def test_the_beam_contest_needs_neither_tokenizers_nor_safetensors(monkeypatch):
    """Nell'installazione spoglia non ci sono: la gara si gioca lo stesso."""
    for name in ("tokenizers", "safetensors"):
        monkeypatch.setitem(sys.modules, name, None)
    small = dataclasses.replace(
        decoding.BASE, layers=1, d_model=16, d_ff=16, heads=2, vocabulary=50
    )
    monkeypatch.setattr(decoding, "BASE", small)
    played = []

    def contest(runs, *rest, **named):
        played.extend(runs)
        runs["beam_search"]()

    try:
        decoding.test_beam_decoding(types.SimpleNamespace(extra_info={}), contest, torch.float32)
    except pytest.skip.Exception as skipped:
        pytest.fail(str(skipped))
    assert "beam_search" in played
