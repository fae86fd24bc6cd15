"""La generazione senza la CPU in mezzo: gli stessi token, gli stessi indirizzi, nessuna domanda."""

import dataclasses
import math
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from attention import Transformer, TransformerConfig, s3_4_embeddings_softmax, s3_model_architecture
from attention.s3_1_encoder_decoder_stacks import AddAndNorm
from attention.s3_model_architecture import evaluating

tl = pytest.importorskip("triton.language", reason="manca Triton: pip install triton")
"""Dove Triton manca, questi test si saltano tutti."""

graphs = pytest.importorskip("attention.beyond.graph_decoding")

GraphDecoder = graphs.GraphDecoder

power_of_two = graphs.power_of_two

tile_rows = graphs.tile_rows

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="qui non c'è una GPU CUDA")

SIZES: dict[str, Any] = {"layers": 2, "d_model": 24, "d_ff": 40, "heads": 3, "vocabulary": 11}
"""Un modello minimo; con undici voci il simbolo di fine arriva spesso."""


@pytest.fixture
def quick(monkeypatch):
    """L'interprete somma e confronta vettori interi, invece di un numero alla volta."""
    monkeypatch.setattr(tl.standard, "_sum_combine", graphs.plus)
    monkeypatch.setattr(tl.standard, "_elementwise_max", graphs.larger)
    monkeypatch.setattr(graphs, "BLOCKS", 3)
    monkeypatch.setattr(graphs, "UNROLL", 2)


def make(seed: int, device: str = "cpu", **sizes: Any) -> Transformer:
    """Un modello a caso, con i pesi abbastanza grandi perché i token cambino."""
    torch.manual_seed(seed)
    model = Transformer(TransformerConfig(**{**SIZES, **sizes}))
    with torch.no_grad():
        for layer in model.decoder.layers:
            layer.feed_forward.b_1.normal_()
            layer.feed_forward.b_2.normal_()
            for norm in layer.modules():
                if isinstance(norm, AddAndNorm):
                    norm.norm.gain.add_(torch.randn_like(norm.norm.gain))
                    norm.norm.bias.normal_(std=0.2)
    return model.to(device)


def padded(model: Transformer, *lengths: int) -> Tensor:
    """Frasi a caso di queste lunghezze, con il padding in fondo."""
    config = model.config
    source = torch.randint(3, config.vocabulary, (len(lengths), max(lengths)))
    for row, length in zip(source, lengths, strict=True):
        row[length:] = config.padding_id
    return source.to(model.embedding.weight.device)


QUESTIONS = (torch.ops.aten._local_scalar_dense, torch.ops.aten.item, torch.ops.aten.is_nonzero)
"""Le operazioni che danno alla CPU un numero."""


class Questions(TorchDispatchMode):
    """Conta quante volte un numero passa dal dispositivo alla CPU."""

    asked = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.asked += operation.overloadpacket in QUESTIONS
        return operation(*args, **(kwargs or {}))


# Gli stessi token.


@pytest.mark.parametrize("seed", range(8))
def test_the_fixed_step_gives_the_tokens_of_generate(seed, device):
    model = make(seed, device)
    source = padded(model, 7, 5, 2)
    expected = model.generate(source, extra=9)
    assert torch.equal(GraphDecoder(model, 3, 7, 9).generate(source), expected)


def test_the_cases_above_end_early_and_late():
    """Se nessuna frase finisse, o se finissero tutte insieme, il test di sopra proverebbe poco."""
    widths, ends = set(), set()
    for seed in range(8):
        output = make(seed).generate(padded(make(seed), 7, 5, 2), extra=9)
        widths.add(output.size(1))
        ends.add(tuple((output != 0).sum(dim=-1).tolist()))
    assert widths == {14, 16}
    assert {(14, 14, 2), (16, 14, 11), (16, 1, 1)} <= ends


@pytest.mark.parametrize("sizes", [{}, {"d_k": 5, "d_v": 7}], ids=str)
def test_the_fixed_step_gives_the_scores_of_the_usual_one(sizes, monkeypatch):
    """Non soltanto il token più alto: tutti i punteggi, a ogni passo."""
    model = make(2, vocabulary=101, **sizes)
    source = padded(model, 7, 5, 2)
    found: list[Tensor] = []
    logits = model.embedding.logits

    def recorded(hidden: Tensor) -> Tensor:
        found.append(logits(hidden))
        return found[-1]

    decoder = GraphDecoder(model, 3, 7, 9)
    monkeypatch.setattr(model.embedding, "logits", recorded)
    model.generate(source, extra=9)
    usual, found = torch.stack(found), []
    decoder.generate(source)
    assert len(usual) == len(found) == 16
    torch.testing.assert_close(torch.stack(found), usual, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("extra", [0, 1, 9])
def test_the_limit_is_that_of_every_sentence(extra):
    model = make(1, vocabulary=101)
    source = padded(model, 7, 5, 2)
    expected = model.generate(source, extra=extra)
    assert torch.equal(GraphDecoder(model, 3, 7, extra).generate(source), expected)


@pytest.mark.parametrize(
    "sizes", [{"bias": True}, {"d_k": 5, "d_v": 7}, {"learned_positions": 15}], ids=str
)
def test_the_fixed_step_is_good_for_every_model(sizes):
    """Le posizioni apprese bastano appena: quelle dei passi in più non esistono."""
    model = make(3, vocabulary=101, **sizes)
    source = padded(model, 7, 4)
    expected = model.generate(source, extra=8)
    assert torch.equal(GraphDecoder(model, 2, 7, 8).generate(source), expected)


@pytest.mark.parametrize("fused", [False, True])
def test_nothing_remains_of_the_previous_sentence(fused, quick):
    """Padding, posizioni, key e value di prima: la seconda frase non li vede."""
    model = make(5, layers=1, d_model=16, heads=2)
    decoder = GraphDecoder(model, 1, 4, 0, fused=fused)
    for length in (3, 4, 2):
        source = F.pad(padded(model, length), (0, 4 - length))
        assert torch.equal(decoder.generate(source), model.generate(source, extra=0))


@pytest.mark.parametrize("fused", [False, True])
def test_not_even_a_nan_remains_of_the_previous_sentence(fused, quick):
    """Zero per NaN fa NaN: una posizione esclusa si vedrebbe."""
    model = make(5, layers=1, d_model=16, heads=2)
    decoder = GraphDecoder(model, 1, 4, 0, fused=fused)
    with torch.inference_mode():
        for cache in decoder.caches:
            cache.keys.fill_(math.nan)
            cache.values.fill_(math.nan)
    source = padded(model, 4)
    assert torch.equal(decoder.generate(source), model.generate(source, extra=0))


@pytest.mark.parametrize(("seed", "dtype"), [(3, torch.float32), (6, torch.bfloat16)], ids=str)
def test_our_kernels_give_the_tokens_of_generate(seed, dtype, quick):
    model = make(seed, d_model=16, heads=2, layers=2, d_ff=20, vocabulary=23).to(dtype)
    source = F.pad(padded(model, 3), (0, 1))
    expected = model.generate(source, extra=1)
    assert torch.equal(GraphDecoder(model, 1, 4, 1, fused=True).generate(source), expected)
    assert len(set(expected.flatten().tolist())) > 1


@NO_GPU
@pytest.mark.parametrize("early", [False, True])
def test_our_kernels_on_a_gpu_give_the_tokens_of_generate(early):
    if early and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("la GPU non permette di cominciare prima")
    model = make(3, "cuda", d_model=64, heads=2, d_ff=96, vocabulary=101)
    source = padded(model, 7)
    expected = model.generate(source, extra=20)
    decoder = GraphDecoder(model, 1, 7, 20, fused=True, early=early)
    assert torch.equal(decoder.generate(source), expected)


@pytest.mark.parametrize("places", [None, 24])
def test_weights_moved_after_building_are_the_ones_used(places, device):
    """Un passo di addestramento muove i pesi dove sono: anche le posizioni, se sono apprese."""
    model = make(3, device, vocabulary=101, learned_positions=places)
    decoder, source = GraphDecoder(model, 2, 7, 9), padded(model, 7, 5)
    before = decoder.generate(source)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * weight.std())
    after = model.generate(source, extra=9)
    assert torch.equal(decoder.generate(source), after)
    assert not torch.equal(before, after)


def test_weights_put_elsewhere_are_the_ones_used(device, monkeypatch):
    """Altri pesi ad altri indirizzi, poi di un altro tipo: un grafo già registrato non li legge."""
    model = make(3, device, vocabulary=101)
    prepared: list[list[Any]] = []
    prepare = GraphDecoder.prepare

    def counted(decoder: Any) -> None:
        prepare(decoder)
        prepared.append(decoder.whereabouts())

    monkeypatch.setattr(GraphDecoder, "prepare", counted)
    decoder, source = GraphDecoder(model, 2, 7, 9), padded(model, 7, 5)
    found = [decoder.generate(source)]
    model.load_state_dict(make(4, device, vocabulary=101).state_dict(), assign=True)
    for change in (lambda: None, model.double):
        change()
        for _ in range(2):
            found.append(decoder.generate(source))
            assert torch.equal(found[-1], model.generate(source, extra=9))
    assert not torch.equal(found[0], found[1])
    assert len(prepared) == 3
    assert prepared[-1] == decoder.whereabouts()


def test_dropout_and_modes_are_left_as_they_were():
    model = make(2).train()
    decoder = GraphDecoder(model, 1, 4, 1)
    source = padded(model, 4)
    assert torch.equal(decoder.generate(source), model.generate(source, extra=1))
    assert all(module.training for module in model.modules())


# Sempre gli stessi indirizzi, nessuna domanda.


def addresses(decoder: GraphDecoder) -> list[int]:
    """Dove stanno stato, cache e vettori."""
    tensors = [*vars(decoder.state).values(), *vars(decoder.buffers).values()]
    for cache in decoder.caches:
        tensors += vars(cache).values()
    return [
        tensor.data_ptr()
        for tensor in [*tensors, decoder.source, decoder.source_mask, decoder.table]
    ]


def test_addresses_never_change():
    model = make(4)
    decoder = GraphDecoder(model, 2, 6, 3)
    before = addresses(decoder)
    decoder.generate(padded(model, 6, 2))
    assert addresses(decoder) == before


def test_the_cpu_asks_nothing_while_tokens_are_generated():
    """`generate` invece domanda a ogni token se qualcuna è ancora aperta."""
    model = make(4, vocabulary=101)
    decoder = GraphDecoder(model, 2, 6, 3)
    source = padded(model, 6, 2)
    with graphs.evaluating(model):
        decoder.load(source)
        with Questions() as fixed:
            decoder.run()
        with Questions() as usual:
            model.greedy(source, 3)
    assert fixed.asked == 0
    assert usual.asked >= 9


def test_the_encoder_too_can_be_recorded(monkeypatch):
    """Dove non si può leggere, la CPU non chiede nulla; con o senza padding i token sono quelli."""
    model = make(4, vocabulary=101)
    decoder = GraphDecoder(model, 2, 6, 3)
    asked = []

    def blind() -> None:
        with monkeypatch.context() as patched:
            for place in (s3_model_architecture, s3_4_embeddings_softmax):
                patched.setattr(place, "is_readable", lambda tensor: False)
            with Questions() as questions:
                decoder.enter()
        asked.append(questions.asked)

    decoder.entry = SimpleNamespace(replay=blind)
    for source in (padded(model, 6, 2), torch.randint(3, 101, (2, 6))):
        assert torch.equal(decoder.generate(source), model.generate(source, extra=3))
    assert asked == [0, 0]


def test_the_run_before_recording_has_padding():
    """Così la prova passa per la maschera, che nel grafo c'è sempre."""
    decoder = GraphDecoder(make(4), 2, 6, 3)
    real = decoder.source != decoder.model.config.padding_id
    assert real.tolist() == [[True, *[False] * 5]] * 2


def test_the_graph_is_replayed_as_many_times_as_needed():
    """Diciassette token sono tre ripetizioni da otto; il posto c'è per ventiquattro."""
    decoder = GraphDecoder(make(4), 1, 6, 11)
    replays = []

    class Recorded:
        def replay(self) -> None:
            replays.append(decoder.state.position.item())
            decoder.steps()

    class Entered:
        def replay(self) -> None:
            replays.append("ingresso")
            decoder.enter()

    decoder.graph, decoder.entry = Recorded(), Entered()
    source = padded(decoder.model, 6)
    assert torch.equal(decoder.generate(source), decoder.model.generate(source, extra=11))
    assert replays == ["ingresso", 0, 8, 16]
    assert decoder.room == decoder.state.output.size(1) == decoder.caches[0].keys.size(-2) == 24


@torch.inference_mode()
def test_a_graph_is_recorded_after_a_real_run(monkeypatch):
    """Su CPU con una GPU finta: una volta si esegue, una si registra, e la posizione torna zero."""
    calls = []

    class Stream:
        def wait_stream(self, other: Any) -> None:
            calls.append("aspetta")

    class Context:
        def __init__(self, *_: Any):
            pass

        def __enter__(self) -> None:
            calls.append("dentro")

        def __exit__(self, *_: Any) -> None:
            calls.append("fuori")

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", Context)
    monkeypatch.setattr(torch.cuda, "graph", Context)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: "il grafo")
    decoder = GraphDecoder(make(4), 1, 6, 2)
    monkeypatch.setattr(
        decoder, "steps", lambda: calls.append(f"passi da {decoder.state.position.item()}")
    )
    decoder.state.position.fill_(8)
    assert decoder.record(decoder.steps) == "il grafo"
    aside = ["aspetta", "dentro", "passi da 8", "fuori", "aspetta"]
    assert calls == [*aside, "dentro", "passi da 0", "fuori"]


def test_on_a_gpu_both_graphs_are_recorded(monkeypatch):
    """Una GPU finta: l'ingresso e i passi, ciascuno nel suo grafo."""
    monkeypatch.setattr(GraphDecoder, "place", torch.device("cuda"))
    monkeypatch.setattr(GraphDecoder, "allocate", lambda decoder: None)
    monkeypatch.setattr(GraphDecoder, "record", lambda decoder, work: work.__name__)
    decoder = GraphDecoder(make(4), 1, 6, 2)
    assert (decoder.entry, decoder.graph) == ("enter", "steps")


# Cominciare prima.


def contents(decoder: Any) -> list[Tensor]:
    """Tutto ciò che un kernel può scrivere: stato, vettori, cache."""
    tensors = [*vars(decoder.state).values(), *vars(decoder.buffers).values()]
    for cache in decoder.caches:
        tensors += [cache.keys, cache.values]
    return tensors


def unwritten(now: Tensor, before: Tensor) -> Tensor:
    """Ciò che si leggerebbe prima che un kernel scriva: i numeri di prima, o NaN se sono reali."""
    stale = math.nan if now.is_floating_point() else before
    return now.where(now == before, stale)


def same(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Gli stessi numeri, NaN compresi."""
    pairs = zip(found, expected, strict=True)
    return all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs)


def fill(tensors: list[Tensor], values: list[Tensor]) -> None:
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value)


def test_nothing_is_read_or_written_before_its_turn(quick, monkeypatch):
    """Ogni kernel comincia quando il precedente non ha ancora scritto nulla.

    Ciò che il precedente scrive si nasconde, e `gdc_wait` lo mostra: chi lo leggesse prima
    troverebbe NaN, o il token di prima. Fino all'attesa nessuno scrive.
    """
    monkeypatch.setattr(graphs, "PART", 16)
    model = make(9, d_model=16, heads=2, layers=2, d_ff=20, vocabulary=101)
    source = padded(model, 4)
    expected = model.generate(source, extra=4)
    decoder = GraphDecoder(model, 1, 4, 4, fused=True)
    waited: list[str] = []
    memory = contents(decoder)
    before = [it.clone() for it in memory]

    def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        nonlocal before
        constants.pop("num_warps", None)
        now = [it.clone() for it in memory]
        hidden = [unwritten(*pair) for pair in zip(now, before, strict=True)]
        fill(memory, hidden)
        waiting = True

        def wait() -> None:
            nonlocal waiting
            if waiting:
                assert same(memory, hidden)
                fill(memory, now)
                waited.append(kernel.fn.__name__)
            waiting = False

        plain = graphs.interpreted(kernel)
        with monkeypatch.context() as patched:
            patched.setattr(graphs, "gdc_wait", wait)
            patched.setattr(graphs, "gdc_launch_dependents", lambda: None)
            plain[grid](*arguments, early=True, **constants)
        assert not waiting
        before = now

    monkeypatch.setattr(decoder, "launch", launch)
    assert torch.equal(decoder.generate(source), expected)
    assert len(set(expected.flatten().tolist())) > 2
    assert set(waited) == {
        f"{it}_kernel" for it in ("embed", "project", "attend", "vote", "choose")
    }


# I kernel, uno per uno.


def run(kernel: Any, grid: int, *arguments: Any, **constants: Any) -> None:
    graphs.interpreted(kernel)[(grid,)](*arguments, early=False, **constants)


def linear_case(rows: int, columns: int) -> dict[str, Tensor]:
    return {
        "x": torch.randn(columns) + 2,
        "weight": torch.randn(rows, columns),
        "bias": torch.randn(rows),
        "gain": torch.randn(columns),
        "shift": torch.randn(columns),
        "residual": torch.randn(rows),
    }


@pytest.mark.parametrize("tall", [1, 2, 8])
@pytest.mark.parametrize("parts", ["", "bias", "norm", "residual", "rectify", "all"])
def test_a_product_with_what_comes_before_and_after(parts, tall, quick):
    """LayerNorm, prodotto, termine costante, ReLU, residuo: come PyTorch, uno per uno e insieme."""
    rows, columns = 7, 11
    it = linear_case(rows, columns)
    use = {name: parts in (name, "all") for name in ("bias", "norm", "residual", "rectify")}
    x = it["x"]
    if use["norm"]:
        x = F.layer_norm(x, (columns,), it["gain"], it["shift"], 1e-6)
    expected = F.linear(x, it["weight"], it["bias"] if use["bias"] else None)
    expected = expected.relu() if use["rectify"] else expected
    expected = expected + it["residual"] if use["residual"] else expected
    output, normal = torch.full((rows,), math.nan), torch.full((columns,), math.nan)
    norms = (it["gain"], it["shift"], normal) if use["norm"] else (None, None, None)
    run(
        graphs.project_kernel,
        -(-rows // tall),
        *(it["x"], it["weight"], output),
        it["bias"] if use["bias"] else None,
        it["residual"] if use["residual"] else None,
        *norms,
        *(rows, columns, 1e-6),
        rectify=use["rectify"],
        tall=tall,
        block=16,
    )
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-5)
    if use["norm"]:
        torch.testing.assert_close(normal, x, rtol=1e-5, atol=1e-5)


def test_our_kernels_normalize_as_the_layers_do(quick):
    """Con una varianza di un milionesimo ε conta quanto lei."""
    model = make(3, d_model=16, heads=2)
    decoder = GraphDecoder(model, 1, 4, 2, fused=True)
    norm = model.decoder.layers[0].self_attention_norm
    x, weight, output = torch.randn(16) * 1e-3, torch.randn(5, 16), torch.zeros(5)
    with torch.inference_mode():
        decoder.project(x, weight, output, norm=norm)
        torch.testing.assert_close(output, weight @ norm.norm(x), rtol=1e-4, atol=1e-4)


def test_sum_and_maximum_are_those():
    """Senza la scorciatoia dell'interprete: le due operazioni, un numero alla volta."""
    x, output = torch.tensor([[-3.0, 5.0, 2.0]]), torch.zeros(1)
    run(
        graphs.project_kernel,
        1,
        *(torch.ones(3), x, output, None, None, None, None, None, 1, 3, 1e-6),
        rectify=False,
        tall=1,
        block=4,
    )
    assert output.item() == 4
    keys = torch.tensor([[[[100.0], [90.0]]]])
    query, seen = torch.ones(1), torch.zeros(1)
    mask = torch.zeros(2)
    values = torch.tensor([[[[7.0], [5.0]]]])
    run(
        graphs.attend_kernel,
        1,
        *(query, keys, values, None, None, mask, torch.tensor([0]), seen, 2, 1.0),
        width=1,
        block=2,
    )
    expected = torch.tensor([100.0, 90.0]).softmax(0) @ values.flatten()
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize("position", [0, 2, 5])
def test_the_new_token_enters_the_cache_and_sees_what_precedes(position, quick):
    """Oltre la posizione la cache può contenere qualunque cosa: qui NaN."""
    heads, room, width = 3, 6, 4
    known = torch.randn(2, heads, position + 1, width)
    keys, values = torch.full((2, 1, heads, room, width), math.nan)
    for cache, new in zip((keys, values), known, strict=True):
        cache[0, :, :position] = new[:, :position]
    query, seen = torch.randn(heads, width), torch.full((heads * width,), math.nan)
    fresh = [new[:, position].flatten().contiguous() for new in known]
    run(
        graphs.attend_kernel,
        heads,
        *(query, keys, values, *fresh, None, torch.tensor([position]), seen),
        *(room, width**-0.5),
        width=width,
        block=8,
    )
    expected = F.scaled_dot_product_attention(query[:, None], *known)
    torch.testing.assert_close(seen.view(heads, width), expected[:, 0])
    torch.testing.assert_close(keys[0, :, : position + 1], known[0])
    torch.testing.assert_close(values[0, :, : position + 1], known[1])
    assert keys[0, :, position + 1 :].isnan().all()


def test_the_source_is_seen_through_its_mask(quick):
    heads, n, width = 3, 5, 4
    keys, values = torch.randn(2, 1, heads, n, width)
    query, seen = torch.randn(heads, width), torch.full((heads * width,), math.nan)
    mask = torch.tensor([0.0, 0.0, -math.inf, 0.0, -math.inf])
    run(
        graphs.attend_kernel,
        heads,
        *(query, keys, values, None, None, mask, torch.tensor([1]), seen, n, 0.7),
        width=width,
        block=8,
    )
    expected = F.scaled_dot_product_attention(
        query[None, :, None], keys, values, mask[None, None, None], scale=0.7
    )
    torch.testing.assert_close(seen.view(heads, width), expected[0, :, 0])


def test_the_first_vector_is_the_row_times_the_root_plus_the_position(quick):
    weight, table, x = torch.randn(5, 6), torch.randn(4, 6), torch.full((6,), math.nan)
    numbers = (torch.tensor([[3]]), torch.tensor([2]), x, 6, 6**0.5)
    run(graphs.embed_kernel, 1, weight, table, *numbers, block=8)
    torch.testing.assert_close(x, weight[3] * 6**0.5 + table[2])


@pytest.mark.parametrize(
    ("limit", "is_open", "best", "chosen", "still_open"),
    [
        (9, True, 6, 6, True),
        (9, True, 2, 2, False),
        (4, True, 6, 6, False),
        (5, True, 6, 6, True),
        (9, False, 6, 0, False),
    ],
    ids=["in mezzo", "la fine", "il limite", "prima del limite", "già finita"],
)
@torch.inference_mode()
def test_choosing_is_the_same_in_both_ways(limit, is_open, best, chosen, still_open, quick):
    """Fra due punteggi uguali il primo; chi ha finito riceve padding; il limite è compreso."""
    model = make(1, d_model=16, heads=2, layers=1)
    for fused in (False, True):
        decoder = GraphDecoder(model, 1, 4, 6, fused=fused)
        state, config = decoder.state, model.config
        state.position.fill_(3)
        state.used.fill_(1)
        state.limits.fill_(limit)
        state.open.fill_(is_open)
        logits = torch.full((config.vocabulary,), -9.0)
        logits[[best, 9]] = -5.0  # chi oltre il vocabolario leggesse zeri li preferirebbe
        if fused:
            parts = (torch.full((3,), math.nan), torch.full((3,), -1, dtype=torch.int32))
            run(graphs.vote_kernel, 3, logits, *parts, config.vocabulary, block=4)
            tensors = (state.token, state.position, state.output, state.limits)
            numbers = (3, config.padding_id, config.end_id)
            run(
                graphs.choose_kernel,
                1,
                *(*parts, *tensors, state.open, state.used, *numbers),
                block=4,
            )
        else:
            decoder.choose(logits.argmax().view(1, 1))
        assert state.token.item() == state.output[0, 3].item() == chosen
        assert state.output.count_nonzero() == (chosen != 0)
        assert state.position.item() == 4
        assert state.used.item() == 1 + is_open
        assert state.open.item() is still_open


def test_a_token_is_eight_kernels_per_layer_and_four(monkeypatch):
    decoder = GraphDecoder(make(1, d_model=16, heads=2, layers=3), 1, 4, 6, fused=True)
    launched: list[Any] = []
    monkeypatch.setattr(decoder, "launch", lambda kernel, *_, **__: launched.append(kernel))
    decoder.fused_step()
    assert len(launched) == 8 * 3 + 4
    assert launched.count(graphs.attend_kernel) == 2 * 3
    assert launched.count(graphs.project_kernel) == 6 * 3 + 1


def test_a_token_reads_the_weights_counted_by_hand(monkeypatch):
    """14 d² per strato quando d_ff = 4d, e la tabella; in BF16 il modello base ne legge 82 MB."""
    sizes = {"d_model": 16, "d_ff": 64, "heads": 2, "layers": 3, "vocabulary": 101}
    decoder = GraphDecoder(make(1, **sizes), 1, 4, 6, fused=True)
    read: list[int] = []

    def launch(kernel: Any, _: Any, *arguments: Any, **__: Any) -> None:
        if kernel is graphs.project_kernel:
            read.append(arguments[1].numel())

    monkeypatch.setattr(decoder, "launch", launch)
    decoder.fused_step()
    assert sum(read) == 14 * 3 * 16**2 + 101 * 16
    base = 14 * 6 * 512**2 + 37_000 * 512
    assert round(base / 1e6) == 41
    assert round(2 * base / 1e6) == 82


@pytest.mark.parametrize(
    ("rows", "columns", "tall"),
    [(1536, 512, 8), (512, 512, 4), (2048, 512, 16), (512, 2048, 4), (37_000, 512, 16)],
)
def test_rows_of_a_block_of_the_base_model(rows, columns, tall):
    """Al più 8192 pesi per blocco, e almeno 128 blocchi."""
    assert tile_rows(rows, columns) == tall
    assert tall * columns <= 8192
    assert rows / tall >= 128


def test_a_block_has_a_row_even_when_it_is_long():
    assert tile_rows(7, 11) == tile_rows(1000, 16_384) == 1


def test_powers_of_two():
    assert [power_of_two(n) for n in (1, 2, 3, 4, 5, 64, 65)] == [1, 2, 4, 4, 8, 64, 128]


@pytest.fixture
def output_projection(tmp_path, monkeypatch):
    """Il prodotto per W_O del modello base, compilato per una H100: 4 righe di 512 pesi."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = graphs.project_kernel
    constants = {"bias": None, "residual": None, "gain": None, "shift": None, "normal": None}
    constants |= {"early": True, "rectify": False, "tall": 4, "block": 512}
    types = dict.fromkeys(kernel.arg_names, "*fp32") | dict.fromkeys(constants, "constexpr")
    types |= {"weight": "*bf16", "rows": "i32", "columns": "i32", "epsilon": "fp32"}
    aligned = [name for name, kind in types.items() if kind.startswith("*") or kind == "i32"]
    divisible = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    return triton.compile(
        ASTSource(kernel, types, constants, divisible),
        target=GPUTarget("cuda", 90, 32),
        options={"launch_pdl": True},
    )


def test_a_row_of_weights_is_shared_by_two_warps(output_projection):
    """Otto pesi contigui per thread, 256 per warp, due warp per riga; non i Tensor Core."""
    assert tile_rows(512, 512) == 4
    spread = "sizePerThread = [1, 8], threadsPerWarp = [1, 32], warpsPerCTA = [2, 2]"
    assert spread in output_projection.asm["ttgir"]
    wide = output_projection.asm["ptx"].partition("griddepcontrol.wait")[0].count("ld.global.v4")
    assert wide * 8 == 4 * 512 // 128
    assert "mma" not in output_projection.asm["ptx"]


def test_weights_are_asked_for_before_waiting(output_projection):
    """Nel codice per la GPU le letture dei pesi stanno prima dell'attesa, quelle di x dopo."""
    before, wait, after = output_projection.asm["ptx"].partition("griddepcontrol.wait")
    assert wait
    assert "ld.global" in before
    assert "st.global" not in before
    assert "griddepcontrol.launch_dependents" in after
    assert "ld.global" in after
    assert "st.global" in after


@pytest.mark.parametrize(("block", "warps"), [(128, 4), (256, 8)])
def test_the_cache_of_a_head_stays_in_the_registers(block, warps, tmp_path, monkeypatch):
    """Compilato per una H100: nessun registro versato, e il blocco intero sta in un SM."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from gpu_notes.sass_listing import disassemble

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    assert max(4, block * 64 // graphs.PER_WARP) == warps
    kernel = graphs.attend_kernel
    constants = {"mask": None, "early": True, "width": 64, "block": block}
    types = dict.fromkeys(kernel.arg_names, "*fp32") | dict.fromkeys(constants, "constexpr")
    types |= {"keys": "*bf16", "values": "*bf16", "position": "*i64"}
    types |= {"length": "i32", "scale": "fp32"}
    aligned = [name for name, kind in types.items() if kind.startswith("*")]
    divisible = {(kernel.arg_names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    binary = triton.compile(
        ASTSource(kernel, types, constants, divisible),
        target=GPUTarget("cuda", 90, 32),
        options={"launch_pdl": True, "num_warps": warps},
    )
    listing = disassemble(binary.asm["cubin"])
    registers, stack = map(int, re.search(r"REG:(\d+) STACK:(\d+)", listing).groups())
    assert stack == 0
    assert "STL" not in listing
    assert registers * 32 * warps <= 65536


def test_the_kernel_is_launched_with_the_warps_of_its_cache(monkeypatch):
    """Commento: quattro warp fino a 128 posizioni larghe 64, otto fino a 256."""
    asked: list[tuple[int, int]] = []

    def launch(self, kernel, grid, *arguments, num_warps=4, **constants):
        if kernel is graphs.attend_kernel:
            asked.append((constants["block"], num_warps))

    monkeypatch.setattr(GraphDecoder, "launch", launch)
    model = make(1, d_model=128, heads=2)
    for length in (100, 200):
        GraphDecoder(model, 1, length, 8, fused=True).fused_step()
    assert sorted(set(asked)) == [(128, 4), (256, 8)]


@pytest.mark.parametrize(
    ("place", "early", "expected"),
    [
        ("cuda", True, {"num_warps": 8, "launch_pdl": True, "early": True}),
        ("cuda", False, {"num_warps": 8, "early": False}),
        ("cpu", True, {"early": False}),
    ],
)
def test_only_a_gpu_begins_before(place, early, expected, monkeypatch):
    """Il permesso di cominciare prima va al kernel e al driver insieme; l'interprete non ne sa."""
    launched = []

    class Kernel:
        def __getitem__(self, grid):
            return lambda *arguments, **options: launched.append((grid, arguments, options))

    decoder = GraphDecoder(make(1, d_model=16, heads=2), 1, 4, 2, fused=True, early=early)
    monkeypatch.setattr(GraphDecoder, "place", torch.device(place))
    monkeypatch.setattr(graphs, "interpreted", lambda kernel: kernel)
    decoder.launch(Kernel(), (3,), "uno", num_warps=8, width=2)
    assert launched == [((3,), ("uno",), {**expected, "width": 2})]


def test_what_is_generated_can_be_changed():
    """Come da `Transformer.generate`: l'uscita è un tensore qualunque."""
    found = GraphDecoder(make(1), 1, 4, 2).generate(torch.tensor([[5, 6, 7, 8]]))
    found[0, 0] = 3
    assert found[0, 0] == 3


# Argomenti sbagliati.


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"rows": 0}, "rows: dato: 0; atteso: almeno 1"),
        ({"length": 0}, "length: dato: 0; atteso: almeno 1"),
        ({"extra": -1}, "extra: dato: -1; atteso: almeno 0"),
        ({"rows": 2, "fused": True}, "rows: dato: 2; atteso: 1, con fused=True"),
        (
            {"length": 2000, "extra": 49, "fused": True},
            "length, extra: dato: 2056 posti; atteso: al più 2048, con fused=True",
        ),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    usual: dict[str, Any] = {"rows": 1, "length": 4, "extra": 2}
    with pytest.raises(ValueError, match=f"^{message}$"):
        GraphDecoder(make(1), **{**usual, **sizes})


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"bias": True}, "model: dato: bias=True; atteso: attenzioni senza termini costanti"),
        ({"heads": 4}, r"model: dato: teste larghe \[6\]; atteso: d_k = d_v, una potenza di due"),
        ({"d_k": 4, "d_v": 8}, r"model: dato: teste larghe \[4, 8\]; atteso: d_k = d_v, una .*"),
    ],
)
def test_models_for_which_our_kernels_are_not_good_are_refused(sizes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        GraphDecoder(make(1, **sizes), 1, 4, 2, fused=True)


def test_wrong_sources_are_refused():
    decoder = GraphDecoder(make(1), 2, 4, 2)
    with pytest.raises(ValueError, match=r"^source: dato: \[2, 3\]; atteso: \[2, 4\]$"):
        decoder.generate(torch.ones(2, 3).long())
    with pytest.raises(ValueError, match=r"^source: dato: il token 11; atteso: da 0 a 10$"):
        decoder.generate(torch.full((2, 4), 11))
    empty = "source: dato: una frase di solo padding; atteso: almeno un token per frase"
    with pytest.raises(ValueError, match=f"^{empty}$"):
        decoder.generate(torch.tensor([[3, 4, 5, 6], [0, 0, 0, 0]]))


def test_configurations_are_untouched():
    model = make(1)
    before = dataclasses.asdict(model.config)
    GraphDecoder(model, 1, 4, 2)
    assert dataclasses.asdict(model.config) == before


class Count(TorchDispatchMode):
    """Conta le operazioni che non danno soltanto un altro nome, e le domande della CPU."""

    done = asked = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        views = [it.alias_info for it in operation._schema.returns]
        self.done += not any(it and not it.is_write for it in views)
        self.asked += operation.overloadpacket in (torch.ops.aten.item, torch.ops.aten.is_nonzero)
        return operation(*args, **(kwargs or {}))


def test_operations_of_a_token_with_six_layers(monkeypatch):
    """La tabella della pagina: il ciclo di §3, lo stesso passo a forme fissate, i nostri kernel."""
    torch.manual_seed(1)
    model = Transformer(TransformerConfig(d_model=32, d_ff=48, heads=2, vocabulary=101))
    source = torch.randint(3, 101, (1, 24))
    decoder = GraphDecoder(model, 1, 24, 0)
    with evaluating(model), Count() as usual:
        tokens = model.greedy(source, 0).size(1)
    with evaluating(model):
        decoder.load(source)
        with Count() as fixed:
            decoder.run()
    launched: list[Any] = []
    fused = GraphDecoder(model, 1, 24, 0, fused=True)
    monkeypatch.setattr(fused, "launch", lambda kernel, *_, **__: launched.append(kernel))
    fused.fused_step()
    assert tokens == decoder.room == 24
    assert usual.done / tokens == pytest.approx(131, abs=1)
    assert usual.asked / tokens == pytest.approx(3.2, abs=0.1)
    assert (round(fixed.done / decoder.room), fixed.asked, len(launched)) == (121, 0, 52)
