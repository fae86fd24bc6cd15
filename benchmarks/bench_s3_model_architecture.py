"""§3: il modello base intero, accanto a chi fa lo stesso lavoro: addestrarlo, farlo generare."""

import copy
import dataclasses
import json
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attention import BASE, Transformer, TransformerConfig, sinusoids
from attention.s3_2_2_multi_head import packed_weights
from benchmarks.contest import DEVICE, ONLY_FP32, Run, Work, clock
from benchmarks.provenance import installed

pytestmark = pytest.mark.skipif(
    DEVICE == "cuda",
    reason="su GPU il passo si misura in bench_s5_2_hardware_schedule.py, la generazione in "
    "bench_s6_1_decoding.py",
)
"""Otto frasi una GPU non le sente: il tempo sarebbe quello della CPU che accoda."""

BATCH, LENGTH = 8, 64
"""Frasi in un passo di addestramento, e token in ciascuna, da una parte e dall'altra."""

SMOOTHING = 0.1
"""Il label smoothing: la stessa perdita per tutti, con ε/V su ogni voce."""

TORCH, READING = "nn.Transformer", "sola lettura dei pesi"
"""I due riferimenti: il modello di PyTorch, e il limite di chi genera un token alla volta."""

ANOTHER_PROCESS = "CTranslate2"
"""Il concorrente che genera in un altro processo, dove non si vede che cosa fa."""

BARE_PRODUCTS = "soli prodotti di matrici"
"""Il limite che un passo può toccare: i suoi prodotti, senza nulla in mezzo."""

Logits = Callable[[Tensor, Tensor], Tensor]
"""Un modello: da sorgente e ingresso del decoder ai punteggi."""


def base(vocabulary: int) -> TransformerConfig:
    """Il modello base con un altro vocabolario.

    I termini costanti, che gli altri hanno sempre, qui non ci sono: negli altri partono da zero.
    """
    return dataclasses.replace(BASE, vocabulary=vocabulary)


def products(config: TransformerConfig, source: int, target: int, memory: int) -> int:
    """Le operazioni dei prodotti di matrici, in avanti, per `source` e `target` posizioni.

    `memory` è la lunghezza di una frase: quante key ha ogni attenzione.
    """
    d, d_ff = config.d_model, config.d_ff
    encoder = source * (4 * d * d + 2 * d * d_ff + 2 * memory * d)
    queries, keys = target * (6 * d * d + 2 * d * d_ff), 2 * source * d * d
    causal, cross = target * (memory + 1) * d, target * 2 * memory * d
    layers = config.layers * (encoder + queries + keys + causal + cross)
    return 2 * (layers + target * d * config.vocabulary)


# L'addestramento.


def training_work(config: TransformerConfig) -> Work:
    """Un passo: in avanti, e due volte tanto all'indietro. Pesi, gradienti, due medie di Adam."""
    positions = BATCH * LENGTH
    model = on_meta(config)
    return Work(
        label=f"V = {config.vocabulary}",
        shape={"batch": BATCH, "n": LENGTH, "m": LENGTH, "vocabulary": config.vocabulary},
        flops=3 * products(config, positions, positions, LENGTH),
        numbers=8 * sum(parameter.numel() for parameter in model.parameters()),
    )


def on_meta(config: TransformerConfig) -> Transformer:
    """Un modello senza numeri, per contare."""
    with torch.device("meta"):
        return Transformer(config)


def steps(config: TransformerConfig, dtype: torch.dtype) -> dict[str, Run]:
    """Chi si addestra; il primo è il nostro. Tutti con la stessa perdita e lo stesso Adam."""
    ours = Transformer(config).to(DEVICE, dtype)
    models: dict[str, tuple[nn.Module, Logits | None]] = {
        "Transformer": (ours, None),
        "Transformer, perdita di PyTorch": (
            copy.deepcopy(ours),
            Transformer.forward,
        ),
        TORCH: (torch_model(ours), TorchModel.forward),
    }
    if installed("transformers"):
        models["Hugging Face Marian"] = (marian_model(ours), marian_logits)
    tokens = torch.randint(3, config.vocabulary, (3, BATCH, LENGTH), device=DEVICE)
    return {name: training_step(*model, *tokens) for name, model in models.items()}


def training_step(
    model: nn.Module, logits: Any, source: Tensor, target: Tensor, expected: Tensor
) -> Run:
    """Un passo: gradienti azzerati, in avanti, all'indietro, Adam con le costanti dell'articolo.

    Senza `logits` la perdita è la nostra, con `Transformer.score`.
    """
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, (0.9, 0.98), 1e-9, fused=True)

    def loss() -> Tensor:
        if logits is None:
            chosen, average = model.score(source, target, expected)
            return -((1 - SMOOTHING) * chosen + SMOOTHING * average).mean()
        scores = logits(model, source, target).flatten(0, 1)
        return F.cross_entropy(scores, expected.flatten(), label_smoothing=SMOOTHING)

    def step() -> Tensor:
        with torch.enable_grad():
            optimizer.zero_grad(set_to_none=True)
            value = loss()
            value.backward()
            optimizer.step()
        return value.detach()

    return step


class TorchModel(nn.Module):
    """`torch.nn.Transformer` con ciò che gli manca: embedding condivisi e posizioni.

    E senza ciò che ha in più: un dropout sui pesi dell'attenzione e uno dopo la ReLU.
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary, config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.transformer = nn.Transformer(
            *(config.d_model, config.heads, config.layers, config.layers, config.d_ff),
            config.dropout,
            layer_norm_eps=1e-6,
            batch_first=True,
        )
        self.transformer.encoder.norm = self.transformer.decoder.norm = None
        for layer in (*self.transformer.encoder.layers, *self.transformer.decoder.layers):
            layer.dropout.p = 0.0
        for module in self.transformer.modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
        self.register_buffer("positions", sinusoids(512, config.d_model).float())

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        causal = nn.Transformer.generate_square_subsequent_mask(target.size(1), source.device)
        hidden = self.transformer(
            self.embed(source), self.embed(target), tgt_mask=causal, tgt_is_causal=True
        )
        return F.linear(hidden, self.embedding.weight)

    def embed(self, tokens: Tensor) -> Tensor:
        vectors = self.embedding(tokens) * self.config.d_model**0.5
        return self.dropout(vectors + self.positions[: tokens.size(1)].to(vectors.dtype))


@torch.no_grad()
def torch_model(ours: Transformer) -> TorchModel:
    """Il modello di PyTorch con i nostri pesi; i termini costanti che non abbiamo sono zero."""
    model = TorchModel(ours.config)
    model.embedding.weight.copy_(ours.embedding.weight)
    theirs = model.transformer
    for layer, twin in zip(ours.encoder.layers, theirs.encoder.layers, strict=True):
        copy_torch_attention(layer.self_attention, twin.self_attn)
        copy_feed_forward(layer, twin.linear1, twin.linear2, twin.norm1, twin.norm2)
    for layer, twin in zip(ours.decoder.layers, theirs.decoder.layers, strict=True):
        copy_torch_attention(layer.self_attention, twin.self_attn)
        copy_torch_attention(layer.cross_attention, twin.multihead_attn)
        copy_feed_forward(layer, twin.linear1, twin.linear2, twin.norm1, twin.norm3)
    return model.to(ours.embedding.weight)


def copy_torch_attention(ours: Any, theirs: nn.MultiheadAttention) -> None:
    """Le quattro matrici di un'attenzione."""
    theirs.in_proj_weight.copy_(ours.w_qkv)
    theirs.out_proj.weight.copy_(ours.w_o)


def copy_feed_forward(layer: Any, first: nn.Linear, second: nn.Linear, *norms: nn.Module) -> None:
    """Le due matrici di una rete feed-forward; le normalizzazioni sono già uno e zero."""
    first.weight.copy_(layer.feed_forward.w_1)
    second.weight.copy_(layer.feed_forward.w_2)
    first.bias.zero_()
    second.bias.zero_()


@torch.no_grad()
def marian_model(ours: Transformer) -> nn.Module:
    """Il modello di Hugging Face con i nostri pesi, e seno e coseno alternati come i nostri."""
    from transformers import MarianConfig, MarianMTModel

    config = ours.config
    model = MarianMTModel(
        MarianConfig(
            vocab_size=config.vocabulary,
            d_model=config.d_model,
            encoder_layers=config.layers,
            decoder_layers=config.layers,
            encoder_ffn_dim=config.d_ff,
            decoder_ffn_dim=config.d_ff,
            encoder_attention_heads=config.heads,
            decoder_attention_heads=config.heads,
            dropout=config.dropout,
            activation_function="relu",
            max_position_embeddings=512,
            scale_embedding=True,
            pad_token_id=config.padding_id,
            decoder_start_token_id=config.start_id,
            eos_token_id=config.end_id,
            forced_eos_token_id=None,
            attn_implementation="sdpa",
        )
    )
    model.model.shared.weight.copy_(ours.embedding.weight)
    model.final_logits_bias.zero_()
    for stack, layers in ((model.model.encoder, ours.encoder), (model.model.decoder, ours.decoder)):
        stack.embed_positions.weight.copy_(sinusoids(512, config.d_model))
        for layer, twin in zip(layers.layers, stack.layers, strict=True):
            copy_marian_layer(layer, twin)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-6
    return model.to(ours.embedding.weight)


def copy_marian_layer(ours: Any, theirs: Any) -> None:
    """Uno strato di Marian, dell'encoder o del decoder."""
    attentions = [(ours.self_attention, theirs.self_attn)]
    if hasattr(ours, "cross_attention"):
        attentions.append((ours.cross_attention, theirs.encoder_attn))
    for attention, twin in attentions:
        linears = (twin.q_proj, twin.k_proj, twin.v_proj, twin.out_proj)
        matrices = (*attention.w_qkv.split(attention.widths), attention.w_o)
        for linear, matrix in zip(linears, matrices, strict=True):
            linear.weight.copy_(matrix)
            linear.bias.zero_()
    copy_feed_forward(ours, theirs.fc1, theirs.fc2)


def marian_logits(model: nn.Module, source: Tensor, target: Tensor) -> Tensor:
    """I punteggi di Marian, senza cache."""
    return model(input_ids=source, decoder_input_ids=target, use_cache=False).logits


@pytest.mark.parametrize("vocabulary", [37_000, 8_000])
@pytest.mark.benchmark(group="s3_training_step", timer=clock)
def test_training_step(contest, dtype, vocabulary):
    """8 frasi di 64 token da una parte e dall'altra: in avanti, all'indietro, Adam."""
    config = base(vocabulary)
    contest(steps(config, dtype), TORCH, training_work(config))


@ONLY_FP32
@pytest.mark.benchmark(group="s3_training_autocast", timer=clock)
def test_training_step_with_autocast(contest, dtype):
    """Lo stesso passo con i prodotti in BF16, accanto a sé stesso in FP32."""
    config = base(8_000)
    tokens = torch.randint(3, config.vocabulary, (3, BATCH, LENGTH), device=DEVICE)
    run, plain = (training_step(Transformer(config).to(DEVICE), None, *tokens) for _ in range(2))

    def autocast() -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16):
            return run()

    contest(
        {"Transformer, BF16": autocast, "Transformer, FP32": plain},
        "Transformer, FP32",
        training_work(config),
        formats={"Transformer, BF16": "BF16"},
    )


def parts(config: TransformerConfig) -> dict[str, Run]:
    """Il passo intero e i suoi pezzi, ciascuno da solo: dove va il tempo, e quanto dista il limite.

    L'ultimo concorrente è il limite che si può toccare: i soli prodotti del passo con le matrici
    dei pesi, nelle loro forme, uno dopo l'altro, senza nulla in mezzo. Quelli delle attenzioni
    mancano, perciò il suo lavoro non è per intero quello del passo.
    """
    model = Transformer(config).to(DEVICE)
    source, target, expected = torch.randint(
        3, config.vocabulary, (3, BATCH, LENGTH), device=DEVICE
    )
    optimizer = torch.optim.Adam(model.parameters(), 1e-4, (0.9, 0.98), 1e-9, fused=True)
    hidden = torch.randn(BATCH * LENGTH, config.d_model, device=DEVICE)

    def forward() -> Tensor:
        with torch.enable_grad():
            chosen, average = model.score(source, target, expected)
            return -((1 - SMOOTHING) * chosen + SMOOTHING * average).mean()

    def both() -> None:
        optimizer.zero_grad(set_to_none=True)
        forward().backward()

    def output_layer() -> None:
        with torch.enable_grad():
            vectors = hidden.detach().requires_grad_()
            chosen, average = model.embedding.score(vectors, expected.flatten())
            torch.autograd.grad((chosen + average).sum(), [vectors, model.embedding.weight])

    def adam() -> None:
        if model.embedding.weight.grad is None:
            both()
        optimizer.step()

    return {
        "Transformer": training_step(model, None, source, target, expected),
        "in avanti": forward,
        "in avanti e all'indietro": both,
        "strato d'uscita e perdita": output_layer,
        "Adam": adam,
        BARE_PRODUCTS: matrix_products(config),
    }


def product_shapes(config: TransformerConfig) -> dict[tuple[int, int], int]:
    """Le matrici dei pesi di un passo, uscite per ingressi, e quante volte c'è ciascuna."""
    d, d_ff, n = config.d_model, config.d_ff, config.layers
    return {
        (3 * d, d): 2 * n,  # query, key e value di chi guarda sé stesso
        (2 * d, d): n,  # key e value della sorgente
        (d, d): 4 * n,  # la query della sorgente, e le tre W_O di un encoder e di un decoder
        (d_ff, d): 2 * n,
        (d, d_ff): 2 * n,
        (config.vocabulary, d): 1,
    }


def matrix_products(config: TransformerConfig) -> Run:
    """I prodotti di un passo, senza le attenzioni: ciascuno in avanti e due volte all'indietro."""
    rows = BATCH * LENGTH
    operands = [
        tuple(torch.randn(*shape, device=DEVICE) for shape in ((rows, k), (out, k), (rows, out)))
        for (out, k), count in product_shapes(config).items()
        for _ in range(count)
    ]

    def run() -> None:
        for x, weight, gradient in operands:
            _ = x @ weight.mT, gradient @ weight, gradient.mT @ x

    return run


@ONLY_FP32
@pytest.mark.benchmark(group="s3_training_parts", timer=clock)
def test_parts_of_a_training_step(contest, dtype):
    """Il passo con 37 000 voci, e i suoi pezzi."""
    config = base(37_000)
    runs = parts(config)
    whole, *pieces = runs
    contest(runs, whole, training_work(config), different=pieces)


# La generazione.


def greedy_work(config: TransformerConfig) -> Work:
    """Una frase: l'encoder una volta, poi un token alla volta, ognuno legge tutti i pesi."""
    model = on_meta(config)
    encoder = sum(parameter.numel() for parameter in model.encoder.parameters())
    return Work(
        label="1 frase, 64 token",
        shape={"batch": 1, "n": LENGTH, "m": LENGTH, "vocabulary": config.vocabulary},
        flops=products(config, LENGTH, LENGTH, LENGTH),
        numbers=encoder + LENGTH * weights_per_token(model),
    )


def weights_per_token(model: Transformer) -> int:
    """I pesi che un token generato deve leggere: il decoder e la matrice comune.

    Non le proiezioni di key e value della sorgente, che si fanno una volta per frase.
    """
    config = model.config
    decoder = sum(parameter.numel() for parameter in model.decoder.parameters())
    return decoder + model.embedding.weight.numel() - 2 * config.layers * config.d_model**2


def generators(config: TransformerConfig, folder: Path) -> dict[str, Run]:
    """Chi genera 64 token, uno alla volta; il primo è il nostro."""
    ours = Transformer(config).to(DEVICE).eval()
    source = torch.randint(3, config.vocabulary, (1, LENGTH), device=DEVICE)
    weights = torch.randn(weights_per_token(ours), device=DEVICE)
    return {
        "Transformer": lambda: never_ending(ours, source),
        READING: lambda: [weights.sum() for _ in range(LENGTH)],
        **dict(peers(ours, source, folder)),
    }


def never_ending(model: Transformer, source: Tensor) -> Tensor:
    """64 token dal nostro modello, qualunque cosa generi."""
    output = model.generate(source, extra=0)
    assert output.shape == source.shape, "un simbolo di fine ha fermato la gara"
    return output


def peers(
    ours: Transformer, source: Tensor, folder: Path, beam: int = 1
) -> Iterator[tuple[str, Run]]:
    """Le librerie che si misurano se sono installate; con `beam` maggiore di 1, la beam search."""
    if installed("transformers"):
        marian = marian_model(ours).eval()
        exactly = {"min_new_tokens": LENGTH, "max_new_tokens": LENGTH, "num_beams": beam}
        yield "Hugging Face Marian", lambda: marian.generate(source, **exactly)[:, 1:]
    if installed("ctranslate2") and DEVICE == "cpu":
        ctranslate2_model(ours, folder)
        sentences = [[str(token) for token in sentence] for sentence in source.tolist()]
        question, ask = json.dumps([sentences, beam]), ctranslate2_server(folder)
        yield ANOTHER_PROCESS, lambda: read_tokens(ask(question))


def read_tokens(answer: str) -> Tensor:
    """I token nella risposta di CTranslate2, una riga per frase."""
    return torch.tensor([[int(word) for word in sentence] for sentence in json.loads(answer)])


def ctranslate2_server(folder: Path) -> Callable[[str], str]:
    """Un processo con CTranslate2: da una riga di domanda a una riga di risposta."""
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "benchmarks.ctranslate2_server",
            folder,
            str(torch.get_num_threads()),
        ],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(question: str) -> str:
        print(question, file=server.stdin, flush=True)
        return server.stdout.readline()

    weakref.finalize(ask, stop, server)
    return ask


def stop(server: subprocess.Popen[str]) -> None:
    """Ferma il processo, e aspetta che si sia fermato."""
    server.kill()
    server.communicate()


def ctranslate2_model(ours: Transformer, folder: Path) -> None:
    """Scrive in una cartella il modello di CTranslate2 con i nostri pesi."""
    from ctranslate2.specs import TransformerSpec
    from ctranslate2.specs.common_spec import Activation

    config = ours.config
    spec = TransformerSpec.from_config(
        config.layers, config.heads, pre_norm=False, activation=Activation.RELU
    )
    spec.config.layer_norm_epsilon = 1e-6
    table = ours.embedding.weight.detach().numpy()
    for side, stack in ((spec.encoder, ours.encoder), (spec.decoder, ours.decoder)):
        embeddings = side.embeddings[0] if side is spec.encoder else side.embeddings
        embeddings.weight = table
        side.scale_embeddings = True
        side.position_encodings.encodings = sinusoids(512, config.d_model).float().numpy()
        for layer, twin in zip(stack.layers, side.layer, strict=True):
            copy_ctranslate2_layer(layer, twin)
    spec.decoder.projection.weight = table
    words = [str(token) for token in range(config.vocabulary)]
    words[config.start_id], words[config.end_id] = "<s>", "</s>"
    spec.register_source_vocabulary(words)
    spec.register_target_vocabulary(words)
    spec.config.add_source_eos = False
    spec.config.decoder_start_token = "<s>"
    spec.validate()
    spec.save(str(folder))


def copy_ctranslate2_layer(ours: Any, theirs: Any) -> None:
    """Uno strato di CTranslate2: le sue matrici sono [uscite, ingressi] come le nostre."""

    def fill(linear: Any, weight: Tensor, bias: Tensor | None = None) -> None:
        linear.weight = weight.detach().numpy()
        linear.bias = (weight.new_zeros(len(weight)) if bias is None else bias).detach().numpy()

    def norm(spec: Any, module: Any) -> None:
        spec.gamma, spec.beta = module.norm.gain.detach().numpy(), module.norm.bias.detach().numpy()

    own = ours.self_attention
    fill(theirs.self_attention.linear[0], own.w_qkv)
    fill(theirs.self_attention.linear[1], own.w_o)
    norm(theirs.self_attention.layer_norm, ours.self_attention_norm)
    if hasattr(ours, "cross_attention"):
        cross = ours.cross_attention
        query, memory = cross.w_qkv.split([cross.widths[0], sum(cross.widths[1:])])
        fill(theirs.attention.linear[0], query)
        fill(theirs.attention.linear[1], memory)
        fill(theirs.attention.linear[2], cross.w_o)
        norm(theirs.attention.layer_norm, ours.cross_attention_norm)
    fill(theirs.ffn.linear_0, ours.feed_forward.w_1, ours.feed_forward.b_1)
    fill(theirs.ffn.linear_1, ours.feed_forward.w_2, ours.feed_forward.b_2)
    norm(theirs.ffn.layer_norm, ours.feed_forward_norm)


@ONLY_FP32
@pytest.mark.benchmark(group="s3_greedy_decoding", timer=clock)
def test_greedy_decoding(contest, dtype, tmp_path):
    """Una frase di 64 token, 64 token generati, sempre il più probabile, in FP32."""
    config = base(37_000)
    with packed_weights():
        contest(
            generators(config, tmp_path),
            READING,
            greedy_work(config),
            different=[READING],
            outside=[ANOTHER_PROCESS],
        )
