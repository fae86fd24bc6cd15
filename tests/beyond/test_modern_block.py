"""Lo strato di oggi: ogni cambiamento da solo, il decoder che ne nasce, i conti, la prova."""

import dataclasses
import itertools
import math
import re
from functools import partial
from statistics import fmean

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from attention.beyond import modern_block
from attention.beyond.modern_block import (
    ALONE,
    CHANGES,
    COLD,
    GPT_2,
    LADDER,
    LLAMA_3_8B,
    LLAMA_7B,
    MODELS,
    PAPER,
    RESULTS,
    RISING,
    SEEDS,
    SLOWER,
    STEPS,
    STOPS,
    TEST,
    TOKENS,
    TRAIN,
    VARIANTS,
    Block,
    GatedFeedForward,
    GroupedAttention,
    KeyValueCache,
    ModernConfig,
    ModernDecoder,
    RMSNorm,
    Run,
    attention_parameters,
    bits_drawing,
    cache_bytes,
    cell,
    changed,
    experiment,
    feed_forward_parameters,
    gate,
    gated_width,
    gradient_norms,
    group,
    layer_flops,
    layer_parameters,
    norm_parameters,
    parameters,
    rate,
    read_runs,
    rms_norm,
    swiglu,
    trained,
    write_run,
)
from attention.beyond.next_token import (
    CORPUS_SEED,
    DecoderOnly,
    WordVocabulary,
    endless_batches,
    italian_sentences,
    next_token_loss,
)
from attention.beyond.rope import Cell, relative_score, rotated, speeds
from attention.s3_1_encoder_decoder_stacks import EPSILON, EncoderLayer, LayerNorm, layer_norm
from attention.s3_2_2_multi_head import MultiHeadAttention
from attention.s3_2_3_applications import causal_mask
from attention.s3_3_feed_forward import FeedForward
from attention.s3_model_architecture import TransformerConfig
from attention.s5_2_hardware_schedule import Processes, Trainer
from attention.s5_3_optimizer import learning_rate, make_optimizer

SMALL = ModernConfig(
    layers=3, d_model=30, d_ff=14, heads=6, d_k=4, d_v=4, kv_heads=2, vocabulary=17
)
"""Un decoder di oggi, con misure tutte diverse."""

OLD = dataclasses.replace(SMALL, kv_heads=None, pre_norm=False, rms=False, gated=False, rope=None)
"""Le stesse misure nello stile dell'articolo."""


def built(config):
    """I parametri di un decoder costruito davvero, contati uno per uno senza occupare memoria."""
    with torch.device("meta"):
        return sum(it.numel() for it in ModernDecoder(config).parameters())


def shaken(module):
    """Lo stesso modulo con tutti i parametri presi a caso, anche quelli che nascono uno o zero."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) / math.sqrt(parameter.size(-1)))
    return module.double().eval()


# La norma.


def test_rms_norm_by_loops():
    x, gain = torch.randn(2, 3, 7, dtype=torch.float64), torch.randn(7, dtype=torch.float64)
    found = rms_norm(x, gain)
    for i in range(2):
        for j in range(3):
            row = x[i, j].tolist()
            root = math.sqrt(sum(it * it for it in row) / 7 + EPSILON)
            for k in range(7):
                assert found[i, j, k].item() == pytest.approx(gain[k].item() * row[k] / root)


def test_rms_norm_by_hand():
    """Il caso «A matita»: (1, 7, 5, 5) ha media dei quadrati 25."""
    found = rms_norm(
        torch.tensor([1.0, 7.0, 5.0, 5.0], dtype=torch.float64), torch.ones(4).double()
    )
    torch.testing.assert_close(
        found, torch.tensor([0.2, 1.4, 1.0, 1.0]).double(), rtol=1e-6, atol=0
    )
    normalized = torch.nn.functional.layer_norm(torch.tensor([1.0, 7.0, 5.0, 5.0]), (4,))
    assert [round(it, 2) for it in normalized.tolist()] == [-1.61, 1.15, 0.23, 0.23]


def test_rms_norm_module_equals_the_formula_and_torch():
    norm, x = shaken(RMSNorm(11)), torch.randn(5, 3, 11, dtype=torch.float64)
    torch.testing.assert_close(norm(x), rms_norm(x, norm.gain))
    theirs = nn.RMSNorm(11, eps=EPSILON).double()
    theirs.weight = norm.gain
    torch.testing.assert_close(norm(x), theirs(x))
    assert RMSNorm(5).gain.tolist() == [1.0] * 5
    assert [name for name, _ in norm.named_parameters()] == ["gain"]


def test_rms_norm_is_layer_norm_where_the_mean_is_zero():
    x, gain = torch.randn(5, 13, dtype=torch.float64), torch.randn(13, dtype=torch.float64)
    zero = torch.zeros(13, dtype=torch.float64)
    centered = x - x.mean(-1, keepdim=True)
    torch.testing.assert_close(rms_norm(centered, gain), layer_norm(centered, gain, zero))
    torch.testing.assert_close(rms_norm(centered, gain), layer_norm(x, gain, zero))
    assert (rms_norm(x, gain) - layer_norm(x, gain, zero)).abs().max() > 0.01


def test_rms_norm_forgets_the_length_and_not_the_offset():
    x, one = torch.randn(4, 13, dtype=torch.float64), torch.ones(13, dtype=torch.float64)
    torch.testing.assert_close(rms_norm(7 * x, one), rms_norm(x, one), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rms_norm(-x, one), -rms_norm(x, one))
    assert (rms_norm(x + 3, one) - rms_norm(x, one)).abs().max() > 0.1
    shifted = layer_norm(x + 3, one, 0 * one)
    torch.testing.assert_close(shifted, layer_norm(x, one, 0 * one))


def test_the_scale_of_rms_norm_can_wait_for_the_product():
    """Il guadagno entra nelle colonne di W, il fattore della riga si mette dopo."""
    x, gain = torch.randn(5, 11, dtype=torch.float64), torch.randn(11, dtype=torch.float64)
    weight = torch.randn(11, 3, dtype=torch.float64)
    scale = (x.square().mean(-1, keepdim=True) + EPSILON).rsqrt()
    torch.testing.assert_close(rms_norm(x, gain) @ weight, (x @ (gain[:, None] * weight)) * scale)


def test_norms_refuse_another_width(our_own_errors):
    with pytest.raises(ValueError, match="x: dato: larghezza 5; atteso: 7"):
        RMSNorm(7)(torch.randn(3, 5))


# Il feed-forward.


def test_swiglu_by_loops():
    x, w_1, w_3 = torch.randn(3, 5), torch.randn(5, 7), torch.randn(5, 7)
    w_2 = torch.randn(7, 5)
    found = swiglu(x, w_1, w_3, w_2)
    for row in range(3):
        inner = []
        for unit in range(7):
            a = sum((x[row, k] * w_1[k, unit]).item() for k in range(5))
            b = sum((x[row, k] * w_3[k, unit]).item() for k in range(5))
            inner.append(a / (1 + math.exp(-a)) * b)
        for column in range(5):
            wanted = sum(inner[unit] * w_2[unit, column].item() for unit in range(7))
            assert found[row, column].item() == pytest.approx(wanted, rel=1e-4, abs=1e-4)


def test_swiglu_by_hand():
    """Il caso «A matita»: la porta a 0 chiude, a ln 3 lascia passare tre quarti di ln 3."""
    one = torch.eye(1, dtype=torch.float64)
    x = torch.tensor([[0.0], [math.log(3)]], dtype=torch.float64)
    found = swiglu(x, one, 4 * one, one)
    wanted = 0.75 * math.log(3) * 4 * math.log(3)
    assert found.flatten().tolist() == pytest.approx([0, wanted])


def test_gated_module_equals_the_formula_and_has_no_constants():
    part, x = shaken(GatedFeedForward(5, 7)), torch.randn(2, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(part(x), swiglu(x, part.w_1.T, part.w_3.T, part.w_2.T))
    shapes = {name: tuple(it.shape) for name, it in part.named_parameters()}
    assert shapes == {"w_1": (7, 5), "w_3": (7, 5), "w_2": (5, 7)}
    assert part(0 * x).abs().max() == 0


def test_gated_weights_are_born_with_the_variance_of_glorot():
    part = GatedFeedForward(64, 192)
    for matrix in part.parameters():
        assert matrix.abs().max() <= math.sqrt(6 / 256)
        assert matrix.std().item() == pytest.approx(math.sqrt(2 / 256), rel=0.05)
    assert not part.w_1.equal(part.w_3)


def test_gated_module_refuses_what_does_not_fit(our_own_errors):
    with pytest.raises(ValueError, match="x: dato: larghezza 3; atteso: 5"):
        GatedFeedForward(5, 7)(torch.randn(2, 3))
    with pytest.raises(ValueError, match="d_model: dato: 0; atteso: almeno 1"):
        GatedFeedForward(0, 7)
    with pytest.raises(ValueError, match="d_ff: dato: 0; atteso: almeno 1"):
        GatedFeedForward(5, 0)


def test_two_thirds_of_3072_keep_the_parameters_exactly():
    assert gated_width(3072) == 2048
    matrices = 3 * 768 * gated_width(3072)
    assert matrices == 2 * 768 * 3072 == 4_718_592
    assert sum(it.numel() for it in GatedFeedForward(768, 2048).parameters()) == matrices
    plain = FeedForward(768, 3072)
    assert plain.w_1.numel() + plain.w_2.numel() == matrices


def test_widths_of_the_first_llama_are_two_thirds_rounded_to_256():
    """4d, due terzi, in su al multiplo di 256: le quattro taglie del 2023."""
    for name in ("LLaMA 7B", "LLaMA 13B", "LLaMA 33B", "LLaMA 65B"):
        config = MODELS[name]
        assert gated_width(4 * config.d_model, 256) == config.d_ff
    assert gated_width(10) == 7
    assert gated_width(9) == 6
    assert gated_width(1, 5) == 5
    for wrong in ((0, 1), (3, 0)):
        with pytest.raises(ValueError, match="atteso: almeno 1"):
            gated_width(*wrong)


# Le misure.


def test_configuration_starts_modern_and_without_groups():
    config = ModernConfig()
    assert (config.pre_norm, config.rms, config.gated, config.tied) == (True, True, True, True)
    assert (config.rope, config.dropout, config.experts) == (10000, 0, 1)
    assert config.groups == config.heads == 8
    assert config.width == 64
    assert (SMALL.groups, SMALL.width) == (2, 4)


def test_wrong_configurations_are_refused():
    with pytest.raises(ValueError, match="kv_heads: dato: 3; atteso: un divisore di heads = 8"):
        ModernConfig(kv_heads=3)
    with pytest.raises(ValueError, match="kv_heads: dato: 0; atteso: almeno 1"):
        ModernConfig(kv_heads=0)
    with pytest.raises(ValueError, match="experts: dato: 0; atteso: almeno 1"):
        ModernConfig(experts=0)
    with pytest.raises(ValueError, match="d_v: dato: 5; atteso: 4, come d_k"):
        dataclasses.replace(SMALL, d_v=5)
    with pytest.raises(ValueError, match=r"dropout: dato: 0\.1; atteso: 0: questi modelli"):
        ModernConfig(dropout=0.1)
    with pytest.raises(ValueError, match="d_model: dato: 30; atteso: un multiplo di heads = 8"):
        ModernConfig(d_model=30)


# L'attenzione a gruppi.


def as_multi_head(part, config):
    """L'attenzione di §3.2.2 con gli stessi pesi, key e value ripetuti per ogni query."""
    times = config.heads // config.groups
    wide = [
        it.unflatten(0, (config.groups, -1)).repeat_interleave(times, 0).flatten(0, 1)
        for it in (part.w_k, part.w_v)
    ]
    same = MultiHeadAttention(config.d_model, config.heads, config.width, config.width).double()
    same.w_qkv = nn.Parameter(torch.cat([part.w_q, *wide]).detach())
    same.w_o = nn.Parameter(part.w_o.detach())
    return same


@pytest.mark.parametrize("groups", [6, 3, 2, 1])
def test_grouped_attention_is_multi_head_with_keys_and_values_repeated(groups):
    """Sei gruppi: multi-head com'è nell'articolo; uno: multi-query."""
    config = dataclasses.replace(SMALL, kv_heads=groups, rope=None)
    part = shaken(GroupedAttention(config))
    x = torch.randn(2, 5, 30, dtype=torch.float64)
    same = as_multi_head(part, config)
    torch.testing.assert_close(part(x), same(x, x, x, causal=True))
    with torch.no_grad():
        torch.testing.assert_close(part(x), same.forward_by_head(x, x, x, causal_mask(5)))
    assert part.w_k.shape == part.w_v.shape == (4 * groups, 30)


def test_grouped_attention_with_rotation_by_loops():
    """Ogni punteggio è quello di `relative_score`, con la key del gruppo della sua query."""
    part, x = shaken(GroupedAttention(SMALL)), torch.randn(5, 30, dtype=torch.float64)
    omega, heads = speeds(4), []
    for head in range(6):
        shared = head // 3
        q = x @ part.w_q[4 * head : 4 * head + 4].T
        k = x @ part.w_k[4 * shared : 4 * shared + 4].T
        v = x @ part.w_v[4 * shared : 4 * shared + 4].T
        rows = []
        for i in range(5):
            scores = [relative_score(q[i], k[j], i - j, omega) / 2 for j in range(i + 1)]
            rows.append(torch.stack(scores).softmax(0) @ v[: i + 1])
        heads.append(torch.stack(rows))
    torch.testing.assert_close(part(x), torch.cat(heads, -1) @ part.w_o.T)


def test_biases_of_the_attention_are_added_to_every_projection():
    config = dataclasses.replace(OLD, bias=True, kv_heads=2)
    part, x = shaken(GroupedAttention(config)), torch.randn(3, 5, 30, dtype=torch.float64)
    sizes = [len(it) for it in part.biases]
    assert sizes == [24, 8, 8, 30]
    for place, projected in enumerate(part.project(x)):
        flat = projected.transpose(-3, -2).flatten(-2)
        weight = (part.w_q, part.w_k, part.w_v)[place]
        torch.testing.assert_close(flat, x @ weight.T + part.biases[place])
    heads = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    wanted = heads.transpose(1, 2).reshape(3, 5, 24) @ part.w_o.T + part.biases[3]
    torch.testing.assert_close(part.combine(heads), wanted)
    assert len(GroupedAttention(SMALL).biases) == 0
    assert all(it.abs().max() == 0 for it in GroupedAttention(config).biases)


def test_attention_weights_are_born_with_the_variance_of_glorot():
    part = GroupedAttention(ModernConfig(d_model=128, heads=8, kv_heads=2))
    for name, rows in {"w_q": 128, "w_k": 32, "w_v": 32, "w_o": 128}.items():
        matrix = getattr(part, name)
        assert matrix.std().item() == pytest.approx(math.sqrt(2 / (rows + 128)), rel=0.05)


def test_rotation_starts_from_the_place_it_is_told():
    part, x = shaken(GroupedAttention(SMALL)), torch.randn(2, 5, 30, dtype=torch.float64)
    assert part.project(x)[0].equal(part.project(x, 0)[0])
    query, key, value = part.project(x, 7)
    plain = shaken(GroupedAttention(dataclasses.replace(SMALL, rope=None)))
    plain.load_state_dict(part.state_dict())
    q, k, v = plain.project(x)
    places = torch.arange(7, 12)
    torch.testing.assert_close(query, rotated(q, places, speeds(4)))
    torch.testing.assert_close(key, rotated(k, places, speeds(4)))
    torch.testing.assert_close(value, v)
    other = GroupedAttention(dataclasses.replace(SMALL, rope=500.0))
    torch.testing.assert_close(other.omega, speeds(4, 500.0))


def test_attention_refuses_what_does_not_fit(our_own_errors):
    part = GroupedAttention(SMALL)
    with pytest.raises(ValueError, match="x: dato: larghezza 5; atteso: 30"):
        part(torch.randn(3, 5))
    cache = KeyValueCache(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4))
    for wrong in (-1, 3):
        with pytest.raises(ValueError, match=f"position: dato: {wrong}; atteso: da 0 a 2"):
            part.step(torch.randn(1, 1, 30), wrong, cache)


# Lo strato, e la pila.


def test_a_block_of_2017_is_the_encoder_layer_of_section_3_1():
    block = shaken(Block(OLD))
    layer = EncoderLayer(
        as_multi_head(block.attention, OLD), block.feed_forward, OLD.d_model, 0.0
    ).double()
    layer.self_attention_norm.norm = block.attention_norm
    layer.feed_forward_norm.norm = block.feed_forward_norm
    x = torch.randn(2, 5, 30, dtype=torch.float64)
    torch.testing.assert_close(block(x), layer(x, causal_mask(5)))


def test_a_block_of_today_line_by_line():
    block, x = shaken(Block(SMALL)), torch.randn(2, 5, 30, dtype=torch.float64)
    y = x + block.attention(rms_norm(x, block.attention_norm.gain))
    f = block.feed_forward
    normed = rms_norm(y, block.feed_forward_norm.gain)
    torch.testing.assert_close(block(x), y + swiglu(normed, f.w_1.T, f.w_3.T, f.w_2.T))


def test_each_field_changes_one_part():
    block = Block(SMALL)
    kinds = [type(it) for it in (block.attention_norm, block.feed_forward_norm, block.feed_forward)]
    assert kinds == [RMSNorm, RMSNorm, GatedFeedForward]
    block = Block(OLD)
    kinds = [type(it) for it in (block.attention_norm, block.feed_forward_norm, block.feed_forward)]
    assert kinds == [LayerNorm, LayerNorm, FeedForward]
    assert Block(SMALL).attention.omega is not None
    assert Block(OLD).attention.omega is None
    ends = {
        pre: type(ModernDecoder(dataclasses.replace(OLD, pre_norm=pre)).last_norm)
        for pre in (False, True)
    }
    assert ends == {False: nn.Identity, True: LayerNorm}
    assert type(ModernDecoder(SMALL).last_norm) is RMSNorm


def test_experts_and_gated_constants_are_counted_and_not_built():
    with pytest.raises(ValueError, match="experts: dato: 4; atteso: 1: di più si contano"):
        Block(dataclasses.replace(SMALL, experts=4))
    with pytest.raises(ValueError, match="bias, gated: dato: tutti e due; atteso: al più uno"):
        Block(dataclasses.replace(SMALL, bias=True))


def test_with_silent_sub_layers_pre_norm_is_the_identity_and_post_norm_is_not():
    """In pre-norm l'ingresso arriva in fondo com'era, e il gradiente torna tutto."""
    for pre in (True, False):
        config = dataclasses.replace(OLD, pre_norm=pre)
        layers = ModernDecoder(config).double().layers
        x = torch.randn(5, 30, dtype=torch.float64, requires_grad=True)
        y = x
        for layer in layers:
            nn.init.zeros_(layer.attention.w_o)
            nn.init.zeros_(layer.feed_forward.w_2)
            y = layer(y)
        weight = torch.randn(5, 30, dtype=torch.float64)
        (y * weight).sum().backward()
        assert y.equal(x) == pre
        assert x.grad.equal(weight) == pre


def test_last_gradient_falls_like_the_root_of_the_depth_in_pre_norm_only():
    """Xiong e altri, 2020: da 1 a 16 strati un quarto, contro circa lo stesso."""
    ratios = {}
    for pre in (True, False):
        base = dataclasses.replace(PAPER, vocabulary=100, pre_norm=pre)
        last = [
            sum(gradient_norms(dataclasses.replace(base, layers=depth), it)[-1] for it in range(4))
            for depth in (1, 16)
        ]
        ratios[pre] = last[1] / last[0]
    assert 0.15 < ratios[True] < 0.4
    assert 0.7 < ratios[False] < 1.4


def test_at_24_layers_of_post_norm_the_seed_decides_the_first_gradient():
    """Fra il seme minimo e il massimo: un fattore oltre dieci in post-norm, sotto due in pre."""
    spread = {}
    for pre in (True, False):
        config = dataclasses.replace(PAPER, layers=24, vocabulary=100, pre_norm=pre)
        first = [gradient_norms(config, seed)[0] for seed in range(5)]
        spread[pre] = max(first) / min(first)
    assert spread[True] < 2
    assert spread[False] > 10


def test_gradient_norms_are_those_of_the_loss():
    """La derivata lungo una direzione, con due passaggi in avanti, è quella del gradiente."""
    config = dataclasses.replace(SMALL, layers=2)
    found = gradient_norms(config, 5, n=7)
    torch.manual_seed(5)
    model = ModernDecoder(config)
    tokens, expected = torch.randint(17, (2, 7))
    logits = model.double()(tokens)
    loss = F.cross_entropy(logits, expected)
    weights = [it.feed_forward.w_2 for it in model.layers]
    wanted = [it.norm().item() for it in torch.autograd.grad(loss, weights)]
    assert found == pytest.approx(wanted, rel=1e-4)
    assert gradient_norms(config, 5) == gradient_norms(config, 5, 10) != found


def test_no_position_sees_what_follows():
    for config in (SMALL, OLD):
        model, tokens = shaken(ModernDecoder(config)), torch.randint(17, (2, 7))
        other = tokens.clone()
        other[:, 4] = (other[:, 4] + 1) % 17
        with torch.no_grad():
            before, after = model(tokens), model(other)
        torch.testing.assert_close(before[:, :4], after[:, :4], rtol=0, atol=1e-12)
        assert (before[:, 4:] - after[:, 4:]).abs().amin(-1).max() > 1e-6


def test_hidden_states_are_the_input_and_one_per_layer():
    model, tokens = shaken(ModernDecoder(SMALL)), torch.randint(17, (2, 5))
    states = model.hidden_states(tokens)
    x = model.embedding.weight[tokens] * math.sqrt(30)
    torch.testing.assert_close(states[0], x)
    for layer, state in zip(list(model.layers)[:-1], states[1:-1], strict=True):
        x = layer(x)
        torch.testing.assert_close(state, x)
    wanted = rms_norm(model.layers[-1](x), model.last_norm.gain)
    torch.testing.assert_close(states[-1], wanted)
    torch.testing.assert_close(model(tokens), wanted @ model.embedding.weight.T)


def test_old_positions_are_added_and_rotated_ones_are_not():
    tokens = torch.tensor([[3, 3]])
    old, new = ModernDecoder(OLD), ModernDecoder(SMALL)
    assert not old.embedded(tokens)[0, 0].equal(old.embedded(tokens)[0, 1])
    assert new.embedded(tokens)[0, 0].equal(new.embedded(tokens)[0, 1])
    torch.testing.assert_close(old.embedded(tokens)[:, 1:], old.embedded(tokens[:, 1:], 1))


def test_untied_tables_are_two():
    tied, loose = (ModernDecoder(dataclasses.replace(SMALL, tied=it)) for it in (True, False))
    assert tied.output is tied.embedding
    assert loose.output is not loose.embedding
    assert built(dataclasses.replace(SMALL, tied=False)) - built(SMALL) == 17 * 30
    tokens = torch.randint(17, (2, 5))
    with torch.no_grad():
        wanted = loose.hidden(tokens) @ loose.unembedding.weight.T
        torch.testing.assert_close(loose(tokens), wanted)
        known, mean = loose.score(tokens, tokens)
        logs = wanted.log_softmax(-1)
    torch.testing.assert_close(known, logs.gather(-1, tokens[..., None])[..., 0])
    torch.testing.assert_close(mean, logs.mean(-1))


def test_the_scores_betray_the_width():
    """C14: quanti punteggi si raccolgano, il loro rango è d_model; il vocabolario non c'entra."""
    config = dataclasses.replace(SMALL, vocabulary=97, tied=False)
    model = shaken(ModernDecoder(config))
    with torch.no_grad():
        scores = model(torch.randint(97, (30, 7))).flatten(0, 1)
    assert scores.shape == (210, 97)
    assert torch.linalg.matrix_rank(scores) == 30


@pytest.mark.parametrize("config", [SMALL, OLD, dataclasses.replace(SMALL, tied=False)])
def test_a_saved_decoder_comes_back_the_same(config, tmp_path):
    path, tokens = tmp_path / "modello", torch.randint(17, (2, 7))
    torch.manual_seed(5)
    model = shaken(ModernDecoder(config)).float()
    model.save(path)
    again = ModernDecoder.load(path)
    assert type(again) is ModernDecoder
    assert again.config == config
    with torch.no_grad():
        assert again(tokens).equal(model(tokens))


def test_load_refuses_what_save_did_not_write(tmp_path):
    """Né un file qualunque, né un decoder dell'altra pagina; chi manca resta un file che manca."""
    path = tmp_path / "altro"
    for write in (
        lambda: path.write_bytes(b"niente"),
        lambda: DecoderOnly(TransformerConfig(1, 8, 8, 2, dropout=0.0, vocabulary=17)).save(path),
    ):
        write()
        with pytest.raises(ValueError, match="un modello scritto da ModernDecoder"):
            ModernDecoder.load(path)
    with pytest.raises(FileNotFoundError):
        ModernDecoder.load(tmp_path / "nessuno")


@pytest.mark.parametrize("config", [SMALL, OLD, dataclasses.replace(SMALL, tied=False)])
def test_steps_with_the_cache_equal_the_whole_decoder(config):
    model, tokens = shaken(ModernDecoder(config)), torch.randint(17, (2, 7))
    with torch.no_grad():
        whole, caches = model(tokens), model.new_caches(2, 7)
        steps = [model.step(tokens[:, [i]], i, caches) for i in range(7)]
    torch.testing.assert_close(torch.cat(steps, 1), whole)


def test_keys_and_values_of_the_past_do_not_change():
    """B18: dopo ogni passo le righe già scritte sono identiche, bit per bit."""
    model, tokens = ModernDecoder(SMALL).eval(), torch.randint(17, (2, 7))
    caches, kept = model.new_caches(2, 7), []
    with torch.no_grad():
        for i in range(7):
            model.step(tokens[:, [i]], i, caches)
            for cache, before in zip(caches, kept, strict=False):
                assert cache.keys[:, :, :i].equal(before[0])
                assert cache.values[:, :, :i].equal(before[1])
            kept = [
                (it.keys[:, :, : i + 1].clone(), it.values[:, :, : i + 1].clone()) for it in caches
            ]


def test_the_cache_refuses_what_does_not_fit():
    model = ModernDecoder(SMALL)
    with pytest.raises(ValueError, match="caches: dato: 2 cache; atteso: 3, una per strato"):
        model.step(torch.tensor([[1]]), 0, model.new_caches(1, 2)[:2])
    for wrong in ({"batch": 0, "capacity": 2}, {"batch": 2, "capacity": 0}):
        with pytest.raises(ValueError, match="dato: 0; atteso: almeno 1"):
            model.new_caches(**wrong)
    with pytest.raises(ValueError, match="tokens: dato: il token 17; atteso: da 0 a 16"):
        model(torch.tensor([[17]]))


# I conti.


PUBLISHED = {
    "GPT-2 small": 124_439_808,
    "LLaMA 7B": 6_738_415_616,
    "LLaMA 13B": 13_015_864_320,
    "LLaMA 33B": 32_528_943_616,
    "LLaMA 65B": 65_285_660_672,
    "LLaMA 2 70B": 68_976_648_192,
    "LLaMA 3 8B": 8_030_261_248,
    "LLaMA 3 70B": 70_553_706_496,
    "LLaMA 3.1 405B": 405_853_388_800,
    "LLaMA 3.2 1B": 1_235_814_400,
    "LLaMA 3.2 3B": 3_212_749_824,
}
"""Quanti numeri contengono i pesi pubblicati."""


def test_parameters_of_the_published_models():
    assert {name: parameters(MODELS[name]) for name in PUBLISHED} == PUBLISHED
    assert MODELS["GPT-2 small"] is GPT_2
    assert MODELS["LLaMA 7B"] is LLAMA_7B
    assert MODELS["LLaMA 3 8B"] is LLAMA_3_8B


def test_sizes_of_gpt_2():
    """B13: quattro taglie; gli strati sono 24 soltanto con larghezza 1024."""
    sizes = {
        layers: parameters(
            dataclasses.replace(
                GPT_2, layers=layers, d_model=width, d_ff=4 * width, heads=width // 64
            )
        )
        for layers, width in ((12, 768), (24, 1024), (36, 1280), (48, 1600))
    }
    assert sizes == {12: 124_439_808, 24: 354_823_168, 36: 774_030_080, 48: 1_557_611_200}
    assert parameters(dataclasses.replace(GPT_2, layers=24)) == 209_494_272


def test_counting_equals_building():
    """Gli stessi numeri, contando i parametri dei modelli costruiti senza occupare memoria."""
    for name in PUBLISHED:
        assert built(MODELS[name]) == parameters(MODELS[name])
    for config in (SMALL, OLD, dataclasses.replace(SMALL, tied=False)):
        assert built(config) == parameters(config)
    layer = sum(it.numel() for it in Block(SMALL).parameters())
    assert layer == layer_parameters(SMALL)
    assert attention_parameters(SMALL) == 2 * 30 * 24 + 2 * 30 * 8
    assert feed_forward_parameters(SMALL) == 3 * 30 * 14
    assert feed_forward_parameters(OLD) == 2 * 30 * 14 + 14 + 30
    assert (norm_parameters(SMALL), norm_parameters(OLD)) == (30, 60)


def test_gpt_oss_has_116_829_156_672_parameters():
    """Le forme del codice pubblicato, sommate a parte: il nostro conto non ha i 64 sink."""
    d, queries, shared, experts, rows = 2880, 64 * 64, 8 * 64, 128, 201_088
    attention = d * (queries + 2 * shared) + queries + 2 * shared + queries * d + d
    router = experts * d + experts
    mixture = experts * (2 * d * d + 2 * d + d * d + d)
    total = 36 * (attention + 64 + router + mixture + 2 * d) + 2 * rows * d + d
    config = MODELS["gpt-oss-120b"]
    assert total == 116_829_156_672 == parameters(config) + 36 * 64
    active = attention + router + 4 * (mixture // experts) + 2 * d
    assert round((36 * active + rows * d) / 1e9, 2) == 5.13
    assert config.rope == 150_000


def test_bytes_of_gpt_oss_with_experts_in_four_bits():
    """C15: gli esperti in MXFP4, 4 bit e una scala di 8 ogni 32; il resto in BF16."""
    config = MODELS["gpt-oss-120b"]
    total = parameters(config) + 36 * 64
    experts = config.layers * config.experts * 3 * config.d_model * config.d_ff
    small = experts * (4 + 8 / 32) / 8 + (total - experts) * 2
    assert round(small / 2**30, 1) == 60.8
    assert round(2 * total / 2**30) == 218


def test_llama_3_has_no_13b():
    sizes = {name for name in MODELS if re.match(r"LLaMA 3[ .]", name)}
    assert sizes == {
        *("LLaMA 3 8B", "LLaMA 3 70B", "LLaMA 3.1 405B"),
        *("LLaMA 3.2 1B", "LLaMA 3.2 3B"),
    }
    assert [round(parameters(MODELS[it]) / 1e9, 1) for it in sorted(sizes)] == [
        70.6,
        8.0,
        405.9,
        1.2,
        3.2,
    ]
    for name in sizes:
        assert (MODELS[name].kv_heads, MODELS[name].rope) == (8, 500_000)


def test_thirteen_billion_parameters_take_26_gigabytes_and_not_40():
    numbers = parameters(MODELS["LLaMA 13B"])
    sizes = {bits: numbers * bits / 8 for bits in (32, 16, 8, 4)}
    assert [round(it / 1e9, 1) for it in sizes.values()] == [52.1, 26.0, 13.0, 6.5]
    assert round(sizes[16] / 2**30, 1) == 24.2
    assert round(16 * numbers / 1e9) == 208
    assert cache_bytes(MODELS["LLaMA 13B"], 1) == 819_200
    full = sizes[16] + cache_bytes(MODELS["LLaMA 13B"], 2048)
    assert round(full / 1e9, 1) == 27.7


def test_cache_bytes_are_those_of_a_real_cache():
    for dtype, bits in ((torch.float32, 32), (torch.bfloat16, 16), (torch.float64, 64)):
        model = ModernDecoder(SMALL).to(dtype)
        held = sum(it.nbytes for it in model.new_caches(3, 5))
        assert held == cache_bytes(SMALL, 15, bits) == 3 * 2 * 2 * 4 * 15 * bits // 8
        storage = sum(it.keys.untyped_storage().nbytes() for it in model.new_caches(3, 5))
        assert 2 * storage == held


def test_a_third_of_the_key_heads_is_a_third_of_the_cache():
    """Il lettore: 12 strati, 12 teste da 64, BF16."""
    reader = ModernConfig(layers=12, d_model=768, d_ff=2048, heads=12, vocabulary=50_257)
    assert cache_bytes(reader, 1) == 36_864
    assert cache_bytes(dataclasses.replace(reader, kv_heads=4), 1) == 12_288
    assert cache_bytes(dataclasses.replace(reader, kv_heads=1), 1) == 3072
    assert cache_bytes(reader, 10, 32) == 737_280


@pytest.mark.parametrize("config", [SMALL, OLD])
def test_layer_flops_are_those_torch_counts(config):
    block, x = Block(config), torch.randn(7, 30)
    with FlopCounterMode(display=False) as counter:
        block(x)
    assert counter.get_total_flops() == layer_flops(config, 7)


def test_one_layer_of_the_reader_in_both_styles():
    old = ModernConfig(
        d_model=768, d_ff=3072, heads=12, pre_norm=False, rms=False, gated=False, rope=None
    )
    new = ModernConfig(d_model=768, d_ff=2048, heads=12)
    assert layer_parameters(old) - layer_parameters(new) == 3072 + 768 + 2 * 768 == 5376
    assert layer_parameters(new) == 12 * 768**2 + 2 * 768 == 7_079_424
    assert layer_flops(old, 10) == layer_flops(new, 10) == 141_864_960
    grouped = dataclasses.replace(new, kv_heads=4)
    assert layer_parameters(new) - layer_parameters(grouped) == 2 * 768 * 8 * 64


# La prova.


def test_each_change_touches_its_fields():
    differences = {}
    for name in CHANGES:
        before, after = (dataclasses.asdict(it) for it in (PAPER, changed(PAPER, [name])))
        differences[name] = {key: after[key] for key in before if before[key] != after[key]}
    assert differences == {
        "pre-norm": {"pre_norm": True},
        "RMSNorm": {"rms": True},
        "SwiGLU": {"gated": True, "d_ff": 128},
        "RoPE": {"rope": 10000},
        "GQA": {"kv_heads": 2, "d_ff": 240},
    }
    modern = changed(PAPER, list(CHANGES))
    assert (modern.d_ff, modern.kv_heads) == (160, 2)
    with pytest.raises(ValueError, match="names: dato: MoE; atteso: nomi fra pre-norm, RMSNorm"):
        changed(PAPER, ["MoE"])


def test_every_variant_has_the_same_budget():
    """Le matrici hanno tutte gli stessi parametri; il resto sta sotto l'uno per cento."""
    start = dataclasses.replace(PAPER, vocabulary=1316)
    sizes = []
    for names, _ in VARIANTS:
        config = changed(start, names)
        with torch.device("meta"):
            model = ModernDecoder(config)
        sizes.append(parameters(config))
        assert sum(it.numel() for it in model.parameters() if it.dim() > 1) == 248_064
    assert max(sizes) / min(sizes) < 1.01
    assert group(gate(PAPER)) == gate(dataclasses.replace(group(PAPER), d_ff=240))


def test_rungs_add_one_change_at_a_time():
    assert LADDER[0] == ()
    for before, after in itertools.pairwise(LADDER):
        assert after[:-1] == before
    assert LADDER[-1] == tuple(CHANGES) == tuple(name for (name,) in ALONE)
    assert COLD == ((), ("pre-norm",))
    assert len(VARIANTS) == len(set(VARIANTS)) == 12
    assert {names for names, warm in VARIANTS if not warm} == set(COLD)


def test_without_warm_up_the_rate_starts_from_its_peak():
    for step in (1, 7, 40, 41, 90):
        assert rate(step, 64, 40, True) == SLOWER * learning_rate(step, 64, 40)
    assert rate(1, 64, 40, False) == rate(40, 64, 40, True)
    assert rate(40, 64, 40, True) == pytest.approx(64**-0.5 * 40**-0.5 / 2)
    assert rate(39, 64, 40, False) == rate(40, 64, 40, False) > rate(41, 64, 40, False)
    assert rate(90, 64, 40, False) == rate(90, 64, 40, True)


@pytest.fixture(scope="module")
def few():
    """Poche frasi della grammatica, in token, e quante voci hanno."""
    sentences = italian_sentences(5, 300, 20)
    vocabulary = WordVocabulary.of(sentences.train)
    return [vocabulary.encode(it) for it in sentences.train], len(vocabulary)


def test_a_small_training_learns_and_depends_on_the_seed_alone(few):
    tokens, voices = few
    config = dataclasses.replace(changed(PAPER, list(CHANGES)), layers=1, vocabulary=voices)
    torch.manual_seed(3)
    fresh = ModernDecoder(config).bits(tokens[:50])
    models = [list(trained(config, tokens, seed, True, [12], 5)) for seed in (3, 3, 4)]
    rows = [model.bits(tokens[:50]) for (model,) in models]
    assert rows[0] == rows[1] != rows[2]
    first, last = (sum(map(sum, it)) / sum(map(len, it)) for it in (fresh, rows[0]))
    assert last < first - 2
    (cold,) = trained(config, tokens, 3, False, [2], 5)
    (warm,) = trained(config, tokens, 3, True, [2], 5)
    assert not cold.embedding.weight.equal(warm.embedding.weight)


def test_a_stop_does_not_disturb_the_training(few):
    """Giudicare a metà strada non cambia i numeri della fine, e a metà si è a metà."""
    tokens, voices = few
    config = dataclasses.replace(PAPER, layers=1, vocabulary=voices)
    seen = [it.bits(tokens[:9]) for it in trained(config, tokens, 3, True, [2, 5], 5)]
    for place, steps in enumerate((2, 5)):
        (alone,) = trained(config, tokens, 3, True, [steps], 5)
        assert seen[place] == alone.bits(tokens[:9])
    assert seen[0] != seen[1]


def test_a_training_written_out(few):
    """Pesi e ordine dei batch dal seme, 320 token per passo, il tasso di `rate`."""
    tokens, voices = few
    config = dataclasses.replace(PAPER, layers=1, vocabulary=voices)
    for warm, steps in ((True, 3), (False, 2)):
        (found,) = trained(config, tokens, 3, warm, [steps], 5)
        torch.manual_seed(3)
        model = ModernDecoder(config)
        rates = partial(rate, d_model=64, rising=5, warm=warm)
        alone = Processes(0, 1, torch.device("cpu"))
        trainer = Trainer(model, next_token_loss, make_optimizer(model), rates, alone, 3)
        for batches in itertools.islice(endless_batches(tokens, 320, 3), steps):
            trainer.run(batches)
        assert all(map(torch.equal, found.parameters(), model.parameters()))


def test_the_whole_experiment_in_small(tmp_path, monkeypatch, capsys):
    """Ogni riga dice la sua variante, e la media su tutti i token delle frasi mai viste."""
    monkeypatch.setattr(modern_block, "VARIANTS", (((), True), (("SwiGLU", "GQA"), False)))
    monkeypatch.setattr(modern_block, "PAPER", dataclasses.replace(PAPER, layers=1))
    path, threads = tmp_path / "prova.csv", torch.get_num_threads()
    try:
        experiment(path, [6], [1, 2], 800)
        first = path.read_text(encoding="utf-8")
        experiment(path, [6, 7], [1, 2], 800)
    finally:
        torch.set_num_threads(threads)
    assert path.read_text(encoding="utf-8").startswith(first)
    runs = read_runs(path)
    keys = [it[:4] for it in runs]
    assert keys == [
        (names, warm, seed, steps)
        for seed in (6, 7)
        for names, warm in modern_block.VARIANTS
        for steps in (1, 2)
    ]
    sentences = italian_sentences(CORPUS_SEED, 800, TEST)
    vocabulary = WordVocabulary.of(sentences.train)
    learnt, judged = (
        [vocabulary.encode(it) for it in part] for part in (sentences.train, sentences.dev)
    )
    assert len({len(it) for it in judged}) > 1
    start = dataclasses.replace(modern_block.PAPER, vocabulary=len(vocabulary))
    for it in runs[:4]:
        (model,) = trained(changed(start, it.changes), learnt, it.seed, it.warm, [it.steps])
        assert it.bits == pytest.approx(fmean(itertools.chain(*model.bits(judged))), abs=1e-4)
    assert capsys.readouterr().out.count("\n") == 8


def test_runs_survive_the_file(tmp_path):
    path = tmp_path / "prova.csv"
    runs = [Run((), True, 1, STEPS, 3.25), Run(("pre-norm", "RMSNorm"), False, 2, 7, 4.5)]
    for run in runs:
        write_run(run, path)
    assert path.read_text() == ",1,1,600,3.2500\npre-norm + RMSNorm,0,2,7,4.5000\n"
    assert read_runs(path) == runs
    assert cell([*runs, runs[0]._replace(bits=3.75)], ()) == Cell(3.5, 3.25, 3.75)
    assert cell(runs, runs[1].changes, False, 7) == Cell(4.5, 4.5, 4.5)
    for wrong in ((False,), (True, 7)):
        with pytest.raises(ValueError, match="una variante misurata"):
            cell(runs, (), *wrong)


def test_published_results_are_whole():
    """Una misura per variante, per seme e per fermata, con le misure scritte nel modulo."""
    runs = read_runs()
    ways = itertools.product(VARIANTS, SEEDS, STOPS)
    wanted = {(names, warm, seed, steps) for (names, warm), seed, steps in ways}
    assert len(runs) == len(wanted)
    assert {it[:4] for it in runs} == wanted
    assert (STOPS, RISING, TOKENS, TRAIN, TEST) == ((300, 600), 120, 320, 20_000, 300)
    assert (STEPS, len(SEEDS)) == (600, 3)
    assert RESULTS.name == "modern_block.csv"


def test_trends_of_the_published_results():
    """I versi delle differenze che la pagina racconta, seme per seme."""
    runs = read_runs()
    bits = {it[:4]: it.bits for it in runs}

    def gains(before, after, warm=(True, True), steps=STEPS):
        pairs = (
            (bits[before, warm[0], it, steps], bits[after, warm[1], it, steps]) for it in SEEDS
        )
        return [one - other for one, other in pairs]

    def told(numbers):
        return tuple(round(it(numbers), 2) for it in (min, fmean, max))

    def spread(names, steps=STEPS):
        it = cell(runs, names, steps=steps)
        return it.highest - it.lowest

    paper, pre, rms, swiglu, rope, gqa = LADDER
    half = STOPS[0]
    assert told(gains(paper, pre)) == (0.22, 0.24, 0.28)
    assert told(gains(paper, pre, steps=half)) == (0.29, 0.35, 0.43)
    shrunk = 1 - fmean(gains(paper, pre)) / fmean(gains(paper, pre, steps=half))
    assert shrunk == pytest.approx(1 / 3, abs=0.03)
    for steps in STOPS:
        assert min(gains(paper, pre, steps=steps)) > 2 * max(gains(pre, gqa, steps=steps))
    assert told(gains(rms, swiglu)) == (0.02, 0.04, 0.05)
    assert round(fmean(gains(rms, swiglu, steps=half)), 2) == 0.09
    assert -0.02 < min(gains(pre, rms)) < 0 < max(gains(pre, rms)) < 0.02
    assert min(gains(swiglu, rope)) > 0
    assert told(gains(swiglu, rope)) == (0.00, 0.01, 0.03)
    assert told(gains(swiglu, rope, steps=half)) == (0.01, 0.03, 0.04)
    assert max(gains(swiglu, rope)) < spread(rope)
    assert told(gains(rope, gqa)) == (-0.05, -0.02, -0.01)
    assert told(gains(rope, gqa, steps=half)) == (-0.04, -0.03, -0.02)
    assert [round(spread(it), 2) for it in (rms, swiglu, rope, gqa)] == [0.06, 0.04, 0.04, 0.04]
    alone = (("SwiGLU", 0.105, 0.17), ("RoPE", 0.13, 0.21))
    for name, late, early in alone:
        assert min(gains(paper, (name,))) > 0.075
        assert fmean(gains(paper, (name,))) == pytest.approx(late, abs=0.002)
        assert fmean(gains(paper, (name,), steps=half)) == pytest.approx(early, abs=0.005)
    left = fmean(gains(rms, swiglu)) / fmean(gains(paper, ("SwiGLU",)))
    assert left == pytest.approx(2 / 5, abs=0.01)
    left = fmean(gains(swiglu, rope)) / fmean(gains(paper, ("RoPE",)))
    assert left == pytest.approx(1 / 12, abs=0.01)
    assert [it > 0 for it in gains(paper, ("RMSNorm",))].count(True) == 2
    assert told(gains(paper, ("GQA",))) == (-0.39, -0.25, -0.04)
    assert max(gains(paper, paper, (True, False))) < -2.5
    assert round(fmean(gains(paper, paper, (True, False))), 1) == -2.9
    *others, stuck = sorted(bits[paper, False, it, STEPS] for it in SEEDS)
    assert others == pytest.approx([6.7, 6.7], abs=0.1)
    assert 7.6 < stuck < 7.7
    assert stuck > max(bits[paper, False, it, half] for it in SEEDS)
    cold = gains(pre, pre, (True, False))
    assert told(cold)[::2] == (-0.03, 0.01)
    assert min(gains(pre, pre, (True, False), half)) > 0.02
    assert round(spread(paper, half), 2) == 0.13
    assert 0.035 < spread(pre, half) < 0.04
    assert round(spread(paper), 3) == 0.075
    assert 0.02 < spread(pre) < 0.025


# Il disegno, e la pagina.


def test_points_and_bars_of_the_drawing_stand_where_the_numbers_say():
    rows = [("uno", Cell(3.0, 2.95, 3.1)), ("due", Cell(3.5, 3.42, 3.58))]
    svg = bits_drawing(rows, "prova")
    assert 'viewBox="0 0 400 88"' in svg
    assert "<title>prova</title>" in svg

    def across(bits):
        return 130 + 250 * (bits - 2.9) / (3.6 - 2.9)

    dots = re.findall(r'<circle cx="([\d.]+)" cy="(\d+)" r="4"/>', svg)
    bars = re.findall(r'class="semi" d="M([\d.]+) (\d+)H([\d.]+)"', svg)
    for place, (_, it) in enumerate(rows):
        assert float(dots[place][0]) == pytest.approx(across(it.mean), abs=0.06)
        assert float(bars[place][0]) == pytest.approx(across(it.lowest), abs=0.06)
        assert float(bars[place][2]) == pytest.approx(across(it.highest), abs=0.06)
        assert int(dots[place][1]) == int(bars[place][1]) == 24 + 26 * place
    marks = re.findall(r'<path d="M([\d.]+) 8V62" stroke', svg)
    assert [float(it) for it in marks] == [130, 380]
    words = re.findall(r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)">([^<]+)', svg)
    assert words == [
        ("130", "80", "middle", "2,9"),
        ("380", "80", "middle", "3,6"),
        ("255", "80", "middle", "bit per token"),
        ("118", "28", "end", "uno"),
        ("118", "54", "end", "due"),
    ]


def test_fortran_on_the_page(fortran, call_fortran):
    library = fortran("beyond/modern_block")
    x, gain = torch.randn(5, 11).double(), torch.randn(11).double()
    y = torch.empty_like(x)
    call_fortran(library.rms_norm, 5, 11, x, gain, y)
    torch.testing.assert_close(y, rms_norm(x, gain))
    q, k = torch.randn(2, 3, 7).double(), torch.randn(2, 13, 7).double()
    s = torch.empty(2, 3, 13, dtype=torch.float64)
    call_fortran(library.group_scores, 2, 3, 13, 7, q, k, s)
    torch.testing.assert_close(s, q @ k.mT)
