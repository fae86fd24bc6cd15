"""§7: «interamente sull'attenzione», con le prove che la tesi passa e quelle che non passerebbe."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from attention import FeedForward, MultiHeadAttention, Transformer, TransformerConfig
from attention.s4_why_self_attention import convolutional, recurrent
from attention.s7_conclusion import (
    FOREIGN,
    Trace,
    dependence,
    foreign,
    nobody,
    only_itself,
    restricted,
    sensed,
    trace,
)


@pytest.fixture(autouse=True)
def _one_thread():
    """Con matrici così piccole due thread si aspettano più di quanto lavorino."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def tiny_model(device: str = "cpu", **sizes: object) -> Transformer:
    """Due strati, misure tutte diverse, parametri casuali in doppia precisione."""
    usual = {"layers": 2, "d_model": 6, "d_ff": 11, "heads": 3, "d_k": 5, "d_v": 7}
    config = TransformerConfig(**{**usual, "vocabulary": 13, "dropout": 0.0, **sizes})
    return Transformer(config).to(device, torch.float64)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def assert_equal(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


# Le operazioni eseguite


def test_trace_counts_operations_and_the_longest_chain():
    """Due prodotti e una ReLU in fila; due prodotti indipendenti e una somma ne fanno due."""
    x, w = random(3, 5), random(5, 5)
    row = trace(lambda: torch.relu(x @ w) @ w)
    assert row.names == {"mm": 2, "relu": 1}
    assert row.chain == 3
    side_by_side = trace(lambda: x @ w + x @ w)
    assert side_by_side.names == {"mm": 2, "add": 1}
    assert side_by_side.chain == 2
    assert trace(lambda: None).chain == 0
    assert trace(lambda: None).names == {}


def test_trace_follows_lists_results_in_place_and_named_arguments():
    """La fila passa per `cat`, per ogni pezzo di `split`, per chi scrive sul posto, per nome."""
    x = random(4, 5)
    assert trace(lambda: torch.cat([x, x.exp().log()])).chain == 3
    assert trace(lambda: x.exp().split(2)[1].log()).chain == 3
    assert trace(lambda: x.exp().log_().exp()).chain == 3
    assert trace(lambda: torch.full_like(x.exp(), 2.0).log()).chain == 3
    with Trace() as observed:
        order = torch.arange(3).neg().abs()
        torch.ops.aten.searchsorted(torch.arange(3.0), torch.ones(2), sorter=order)
    assert observed.chain == 4


def test_trace_changes_no_number():
    """Guardare un calcolo non lo cambia."""
    model, tokens = tiny_model(), torch.tensor([[3, 5, 7]])
    with Trace():
        observed = model(tokens, tokens)
    assert observed.equal(model(tokens, tokens))


@pytest.mark.parametrize("bias", [False, True])
def test_the_model_executes_no_convolution_and_no_recurrence(bias):
    """§7 ¶1: né in addestramento, né in uso, né mentre genera."""
    model, tokens = tiny_model(bias=bias), torch.tensor([[3, 5, 7], [4, 4, 0]])
    training = trace(lambda: model.score(tokens, tokens, tokens)[0].sum().backward())
    with torch.inference_mode():
        use = trace(lambda: model(tokens, tokens))
    generation = trace(lambda: model.generate(tokens, 2))
    for observed in (training, use, generation):
        assert sum(observed.names.values()) > 50
        assert foreign(observed.names) == []


def test_foreign_recognises_convolutions_and_recurrent_kernels():
    """§7 ¶1: la prova saprebbe accorgersene: nn.Conv1d, nn.RNN, nn.LSTM, nn.GRU hanno un nome."""
    x = random(2, 3, 5)
    layers = {
        nn.Conv1d(3, 5, 3): "conv1d",
        nn.RNN(5, 3): "rnn_tanh",
        nn.LSTM(5, 3): "lstm",
        nn.GRU(5, 3): "gru",
    }
    for layer, name in layers.items():
        with torch.inference_mode(), Trace() as observed:
            layer.double()(x)
        assert foreign(observed.names) == [name]
    assert foreign(["mm", "lstm", "add", "lstm", "convolution"]) == ["convolution", "lstm"]
    assert FOREIGN == ("conv", "rnn", "lstm", "gru")


# Chi dipende da chi


def test_sensed_reads_the_pattern_of_a_known_matrix():
    """Le righe di Ax dipendono da quelle di x dove A non è zero, e da nessun'altra."""
    mixing = torch.tensor([[1.0, 0, 2, 0, 0], [0, 0, 0, 0, 0], [0, -3, 0, 0, 4]]).double()
    x = random(5, 7).requires_grad_()
    assert sensed((mixing @ x).square(), x).equal(mixing != 0)


def test_in_the_model_every_position_hears_those_it_should():
    """§7 ¶1: encoder tutte, decoder le precedenti e sé stessa, fra le due metà tutte."""
    found = dependence(tiny_model(), 5, 3)
    assert found.encoder.equal(torch.ones(5, 5).bool())
    assert found.decoder.equal(torch.ones(3, 3).tril().bool())
    assert found.between.equal(torch.ones(3, 5).bool())


@pytest.mark.parametrize("sizes", [{}, {"bias": True}, {"learned_positions": 7}], ids=str)
def test_only_attention_carries_information_between_positions(sizes, device):
    """§7 ¶1: con le stesse operazioni e gli stessi pesi, chi guarda solo sé sente solo sé."""
    model = tiny_model(device, **sizes)
    with restricted(model, only_itself):
        found = dependence(model, 5, 3)
    assert found.encoder.equal(torch.eye(5, device=device).bool())
    assert found.decoder.equal(torch.eye(3, device=device).bool())
    assert found.between.equal(torch.eye(3, 5, device=device).bool())


def test_without_looking_the_two_halves_do_not_talk():
    """§7 ¶1: spenta la sola attenzione encoder-decoder, della sorgente non arriva nulla."""
    model = tiny_model()
    between = nn.ModuleList(layer.cross_attention for layer in model.decoder.layers)
    with restricted(between, nobody):
        found = dependence(model, 5, 3)
    assert found.encoder.all()
    assert found.decoder.equal(torch.ones(3, 3).tril().bool())
    assert not found.between.any()
    with restricted(model, nobody):
        silent = dependence(model, 5, 3)
    assert silent.encoder.equal(torch.eye(5).bool())
    assert silent.decoder.equal(torch.eye(3).bool())
    assert not silent.between.any()


@pytest.mark.parametrize("kind", ["ricorrenza", "convoluzione"])
def test_a_hidden_recurrence_or_convolution_would_be_found(kind):
    """§7 ¶1: scritte a mano, con soli prodotti, non hanno un nome; le tradisce la dipendenza."""
    model = tiny_model()
    if kind == "ricorrenza":
        w_x, w_h = random(2, 6, 6)
        mixed, expected = (lambda x: recurrent(x, w_x, w_h)), torch.ones(5, 5).tril()
    else:
        kernel = random(2, 6, 6)
        expected = torch.eye(5) + torch.eye(5).roll(1, 0).tril(-1)
        mixed = lambda x: convolutional(x, kernel)  # noqa: E731
    model.encoder.layers[0].register_forward_hook(lambda _, given, result: result + mixed(result))
    tokens = torch.tensor([3, 5, 7])
    assert foreign(trace(lambda: model(tokens, tokens)).names) == []
    with restricted(model, only_itself):
        found = dependence(model, 5, 3)
    assert found.encoder.equal(expected.bool())


def test_convolutions_of_width_one_carry_nothing():
    """§7 ¶1, §3.3 ¶2: il nome «convoluzione» non basta a condannare: larga 1, non mescola."""
    layer = FeedForward(6, 11).double()
    x = random(5, 6).requires_grad_()
    observed = trace(lambda: layer.as_convolutions(x.unsqueeze(0)))
    assert foreign(observed.names) == ["convolution"]
    assert sensed(layer.as_convolutions(x.unsqueeze(0))[0], x).equal(torch.eye(5).bool())


def test_dependence_leaves_the_model_as_it_was():
    """Si guarda senza dropout; poi il modo di prima, e nessun gradiente nei parametri."""
    model = tiny_model(dropout=0.9)
    for training in (True, False):
        model.train(training)
        found = dependence(model, 5, 3)
        assert found.encoder.all()
        assert {part.training for part in model.modules()} == {training}
        assert all(parameter.grad is None for parameter in model.parameters())


def test_dependence_leaves_a_mixed_model_as_it_was():
    """Chi ha una parte in uso e il resto in addestramento ritrova ogni parte nel suo modo."""
    model = tiny_model().train()
    model.encoder.eval()
    modes = [part.training for part in model.modules()]
    dependence(model, 5, 3)
    assert [part.training for part in model.modules()] == modes


def test_what_was_seen_cannot_be_changed():
    """Il resoconto delle dipendenze è un dato: non si corregge."""
    found = dependence(tiny_model(), 2, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.encoder = found.decoder


def test_dependence_is_restored_even_after_an_error():
    """Un errore a metà non lascia il modello in un altro modo."""
    model = tiny_model(learned_positions=4).train()
    with pytest.raises(ValueError, match=r"^embeddings: dato: 5 posizioni"):
        dependence(model, 5, 3)
    assert model.training


# L'attenzione con lo sguardo limitato


def test_glances_by_hand():
    """Chi guarda solo sé: la diagonale; chi non guarda: tutto falso."""
    assert only_itself(2, 3).tolist() == [[True, False, False], [False, True, False]]
    assert nobody(2, 3).tolist() == [[False] * 3] * 2


def test_restricted_attention_is_attention_with_one_more_mask():
    """La maschera nuova si aggiunge alla causale e a quella di chi chiama, per posto o per nome."""
    attention = MultiHeadAttention(6, 3, d_k=5, d_v=7).double()
    x, memory = random(2, 5, 6), random(2, 3, 6)
    band = torch.ones(5, 5).tril(1).triu(-1).bool()
    padding = torch.tensor([[[True, True, False, True, False]], [[True, True, True, True, True]]])

    def glance(m: int, n: int) -> Tensor:
        return torch.ones(m, n).tril(1).triu(-1).bool()

    triangle = torch.ones(5, 5).tril().bool()
    with restricted(attention, glance):
        plain = attention(x, x, x)
        causal = attention(x, x, x, causal=True)
        by_place, by_name = attention(x, x, x, padding), attention(x, x, x, mask=padding)
        cross = attention(x, memory, memory)
    assert_equal(plain, attention.forward_by_head(x, x, x, band))
    assert_equal(causal, attention.forward_by_head(x, x, x, band & triangle))
    assert_equal(by_place, attention.forward_by_head(x, x, x, band & padding))
    assert by_name.equal(by_place)
    assert_equal(cross, attention.forward_by_head(x, memory, memory, glance(5, 3)))


def test_restriction_ends_with_its_block():
    """Finito il blocco, anche per un errore, l'attenzione torna a guardare."""
    model, tokens = tiny_model(), torch.tensor([[3, 5, 7]])
    before = model(tokens, tokens)
    with restricted(model, only_itself):
        assert not model(tokens, tokens).equal(before)
    assert model(tokens, tokens).equal(before)
    with pytest.raises(RuntimeError, match="a metà"), restricted(model, nobody):
        raise RuntimeError("a metà")
    assert model(tokens, tokens).equal(before)


def test_attention_that_looks_only_at_itself_is_a_matrix():
    """Con un solo posto da guardare il peso è 1: resta x W_V W_O, uguale per ogni posizione."""
    attention = MultiHeadAttention(6, 3, d_k=5, d_v=7).double()
    x = random(5, 6)
    w_v = attention.projections[2].transpose(0, 1).flatten(1)
    with restricted(attention, only_itself):
        output = attention(x, x, x)
    assert_equal(output, x @ w_v @ attention.w_o.T)
    with restricted(attention, nobody):
        assert (attention(x, x, x) == 0).all()


# La fila


def test_chain_of_the_model_does_not_grow_with_the_sentence():
    """§7 ¶1: quante operazioni si aspettano non dipende da quanto è lunga la frase.

    Addestrando su CPU le righe più corte di un registro hanno la softmax per esteso: la fila di una
    frase corta ha qualche operazione in più di quella di una lunga, non in meno.
    """
    model = tiny_model()

    def chain(n: int, m: int) -> int:
        tokens = torch.full((1, n), 3), torch.full((1, m), 4)
        return trace(lambda: model(*tokens)).chain

    assert chain(2, 2) == chain(3, 11) > chain(17, 20) == chain(25, 30) > 10
    with torch.no_grad():
        assert chain(2, 2) == chain(3, 11) == chain(17, 5) == chain(40, 33) > 10


def test_chain_grows_with_the_layers():
    """§7 ¶1: cresce invece con gli strati, ogni strato quanto il precedente."""
    tokens, models = torch.full((1, 3), 3), [tiny_model(layers=k) for k in (1, 2, 3)]
    chains = [trace(lambda model=model: model(tokens, tokens)).chain for model in models]
    assert chains[2] - chains[1] == chains[1] - chains[0] > 0


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_chain_of_recurrent_layers_grows_with_the_sentence(kind):
    """§7 ¶1: gli strati che l'articolo sostituisce; eseguiti passo per passo, n passi in fila."""
    layer = kind(6, 6).double()
    chains = [trace(lambda n=n: layer(random(n, 1, 6))).chain for n in (4, 8, 12)]
    assert chains[2] - chains[1] == chains[1] - chains[0] >= 4


def test_generation_is_still_one_step_after_another():
    """§7 ¶3: nella generazione la fila cresce con i token scritti: è ciò che resta da fare."""
    model = tiny_model()
    with torch.no_grad():
        model.embedding.weight[model.config.end_id] = 0
        norm = model.decoder.layers[-1].feed_forward_norm.norm
        norm.gain.zero_()
        norm.bias.copy_(model.embedding.weight[7])
    source = torch.full((1, 3), 3)
    chains = [trace(lambda extra=extra: model.generate(source, extra)).chain for extra in (1, 4, 7)]
    assert chains[2] - chains[1] == chains[1] - chains[0] >= 3 * 10


# Gli errori


@pytest.mark.parametrize(
    ("n", "m", "message"),
    [(0, 3, "n: dato: 0; atteso: almeno 1"), (3, 0, "m: dato: 0; atteso: almeno 1")],
)
def test_empty_sequences_are_refused(n, m, message):
    """Almeno una posizione da ogni parte; una basta."""
    with pytest.raises(ValueError, match=f"^{message}$"):
        dependence(tiny_model(), n, m)
    assert dependence(tiny_model(), 1, 1).between.tolist() == [[True]]


def test_a_module_without_attention_is_refused():
    """Non c'è nulla da limitare."""
    with (
        pytest.raises(ValueError, match=r"^module: dato: nessuna attenzione; atteso: almeno una"),
        restricted(FeedForward(3, 5), nobody),
    ):
        pass
