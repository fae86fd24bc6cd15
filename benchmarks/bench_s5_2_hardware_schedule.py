"""§5.2: il passo di addestramento con i batch dell'articolo, circa 25 000 token da ciascuna parte.

Solo su GPU. I prodotti sono in BF16 con l'autocast di `Trainer`; pesi, gradienti e Adam in FP32.
Le frasi sono di 64 token, come nei conti di §5.2: con una frase la lunghezza conta poco, perché i
prodotti fra query e key sono due operazioni su cento. Il vocabolario di 37 000 voci è già un
multiplo di 8, quanto basta ai Tensor Core.

Il bilancio su una H100, a 790 TFLOP/s e 3 TB/s, in millisecondi per passo (base, grande):
i prodotti 12 e 41; i numeri letti e scritti fra un prodotto e l'altro, attorno alle
normalizzazioni, ai dropout, alle ReLU e alle attenzioni, circa 8 e 17 se ogni catena di operazioni
è un kernel solo; i punteggi del vocabolario, sei passaggi su 1,85 GB, circa 4; Adam, 28 byte per
peso, 0,6 e 2. Scritte una per una, le stesse operazioni passano per la memoria il doppio delle
volte, e i punteggi il triplo: da qui la compilazione.
"""

import copy
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from attention import BASE, BIG, Transformer, TransformerConfig
from attention.s5_3_optimizer import make_optimizer, set_learning_rate
from benchmarks.bench_s3_model_architecture import (
    SMOOTHING,
    TORCH,
    TorchModel,
    on_meta,
    product_shapes,
    products,
    torch_model,
)
from benchmarks.contest import DEVICE, Run, Work, clock

BATCH, LENGTH = 390, 64
"""24 960 posizioni da una parte e dall'altra: 195 blocchi da 128 righe, senza un blocco scarso."""

SIZES = {"base": (BASE, 100_000), "grande": (BIG, 300_000)}
"""I due modelli dell'articolo, e i passi di §5.2."""

RECORDED, COMPILED, PRODUCTS = (
    "Transformer, compilato e registrato",
    "Transformer, compilato",
    "soli prodotti di matrici",
)
"""Il nostro passo più svelto, quello senza grafo, e il limite: i suoi prodotti, da soli."""

SHORT_ATTENTION = SDPBackend.EFFICIENT_ATTENTION
"""Il kernel di attenzione del passo compilato: con 64 posizioni è il più svelto dei tre fusi."""

RATE = 1e-4
"""Un tasso di apprendimento qualsiasi: il tempo non ne dipende."""


def training_work(name: str, config: TransformerConfig) -> Work:
    """Un passo: in avanti, e due volte tanto all'indietro.

    I byte sono quelli che Adam legge e scrive: peso, gradiente e due medie; tutto il resto
    dipende da come il passo è scritto.
    """
    positions = BATCH * LENGTH
    weights = sum(parameter.numel() for parameter in on_meta(config).parameters())
    return Work(
        label=name,
        shape={"batch": BATCH, "n": LENGTH, "m": LENGTH, "vocabulary": config.vocabulary},
        flops=3 * products(config, positions, positions, LENGTH),
        numbers=7 * weights,
        bytes=7 * weights * 4,
    )


def sentences(config: TransformerConfig) -> Tensor:
    """Sorgenti, ingressi del decoder, token da indovinare: a caso, senza riempimento."""
    return torch.randint(3, config.vocabulary, (3, BATCH, LENGTH), device=DEVICE)


def compile_parts(model: Transformer, **options: Any) -> None:
    """Compila l'ingresso, uno strato dell'encoder, uno del decoder, e l'uscita con la perdita.

    Gli strati di una pila hanno la stessa forma: il codice compilato per il primo vale per gli
    altri, e si aspetta per quattro parti invece che per quattordici. Fuori dalle parti compilate
    nessuno guarda i token: la CPU non aspetta la GPU, e il passo si può registrare.
    """
    for layer in (*model.encoder.layers, *model.decoder.layers):
        layer.compile(fullgraph=True, dynamic=False, **options)
    score = torch.compile(model.embedding.score, fullgraph=True, dynamic=False, **options)
    model.embedding.score = score
    enter = torch.compile(entrance, fullgraph=True, dynamic=False, **options)

    def hidden(source: Tensor, target: Tensor) -> Tensor:
        vectors, others = enter(model, source, target)
        return model.decoder(others, model.encoder(vectors))

    model.hidden = hidden


def entrance(model: Transformer, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Gli ingressi delle due pile: embedding, posizioni, dropout; le frasi non hanno padding."""
    both = model.embedding(torch.cat([source, target], dim=-1))
    vectors, others = both.split([source.size(-1), target.size(-1)], dim=-2)
    vectors, others = model.source_positions(vectors), model.target_positions(others)
    return model.dropout(vectors), model.dropout(others)


def training_step(model: Transformer, source: Tensor, target: Tensor, expected: Tensor) -> Run:
    """Il passo di `Trainer`: gradienti azzerati, in avanti con autocast, all'indietro, Adam."""
    return step_of(
        model, lambda: smoothed_loss(*model.score(source, target, expected)), torch.bfloat16
    )


def smoothed_loss(chosen: Tensor, average: Tensor) -> Tensor:
    """La perdita con il label smoothing, media per token."""
    return -((1 - SMOOTHING) * chosen + SMOOTHING * average).mean()


def peer_step(ours: Transformer, source: Tensor, target: Tensor, expected: Tensor) -> Run:
    """Lo stesso passo con il modello di PyTorch e la sua perdita."""
    model = torch_model(ours)

    def loss() -> Tensor:
        scores = TorchModel.forward(model, source, target).flatten(0, 1)
        return F.cross_entropy(scores, expected.flatten(), label_smoothing=SMOOTHING)

    return step_of(model, loss, torch.bfloat16)


def step_of(model: nn.Module, loss: Any, dtype: torch.dtype) -> Run:
    """Un passo di un modello, data la sua perdita; Adam tiene i suoi conti sulla GPU."""
    model.train()
    optimizer = make_optimizer(model)
    for group in optimizer.param_groups:
        group["capturable"] = True
    set_learning_rate(optimizer, RATE)

    def step() -> Tensor:
        with torch.enable_grad():
            optimizer.zero_grad()
            with torch.autocast(DEVICE, dtype):
                value = loss()
            value.backward()
            optimizer.step()
        return value.detach()

    return step


def with_short_attention(step: Run) -> Run:
    """Lo stesso passo, con il kernel di attenzione adatto a frasi corte."""

    def chosen() -> Any:
        with sdpa_kernel(SHORT_ATTENTION):
            return step()

    return chosen


def recorded(step: Run) -> dict[str, Run]:
    """Il passo registrato in un grafo CUDA: la CPU dà un ordine, la GPU ripete i mille lanci.

    Prima di registrare si prova, su un altro stream: ciò che si compila o si alloca la prima
    volta deve essere già a posto.

    Restituisce:
        Un dizionario con un concorrente; vuoto, con un avviso, se il passo non si registra.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(f"Non misurato «{RECORDED}»: {reason}", stacklevel=2)
        return {}
    return {RECORDED: graph.replay}


def matrix_products(config: TransformerConfig) -> Run:
    """I prodotti di un passo in BF16, senza le attenzioni e senza nulla in mezzo."""
    shapes = product_shapes(config)
    rows, options = BATCH * LENGTH, {"device": DEVICE, "dtype": torch.bfloat16}
    operands = {
        (out, k): [torch.randn(*size, **options) for size in ((rows, k), (out, k), (rows, out))]
        for out, k in shapes
    }

    def run() -> None:
        for shape, count in shapes.items():
            x, weight, gradient = operands[shape]
            for _ in range(count):
                _ = x @ weight.mT, gradient @ weight, gradient.mT @ x

    return run


def contestants(config: TransformerConfig) -> dict[str, Run]:
    """Chi fa il passo; il primo è il nostro più svelto.

    La compilazione riparte da zero: ciò che si è compilato prima, con altre forme, è di altri.
    """
    torch.compiler.reset()
    eager = Transformer(config).to(DEVICE)
    compiled = copy.deepcopy(eager)
    compiled.source_mask = lambda source: None  # riempimento non ce n'è: non lo si va a cercare
    compile_parts(compiled)
    tokens = sentences(config)
    step = with_short_attention(training_step(compiled, *tokens))
    return {
        **recorded(step),
        COMPILED: step,
        "Transformer": training_step(eager, *tokens),
        TORCH: peer_step(eager, *tokens),
        PRODUCTS: matrix_products(config),
    }


def schedule(extra_info: dict[str, Any], steps: int) -> dict[str, Any]:
    """Dai tempi di un passo: token al secondo da una parte, e le ore dell'addestramento intero."""
    seconds = {
        name: score["median"]
        for name, score in extra_info["contestants"].items()
        if name != PRODUCTS
    }
    return {
        "steps": steps,
        "tokens": BATCH * LENGTH,
        "tokens_per_second": {name: BATCH * LENGTH / time for name, time in seconds.items()},
        "hours": {name: steps * time / 3600 for name, time in seconds.items()},
    }


@pytest.mark.skipif(DEVICE == "cpu", reason="su CPU un passo da 25 000 token dura quasi un minuto")
@pytest.mark.parametrize("name", SIZES)
@pytest.mark.parametrize("dtype", [torch.bfloat16], ids=str)
@pytest.mark.benchmark(group="s5_2_training_25k", timer=clock)
def test_training_step_of_25_000_tokens(benchmark, contest, dtype, name):
    """390 frasi di 64 token da una parte e dall'altra: in avanti, all'indietro, Adam."""
    config, steps = SIZES[name]
    contest(
        contestants(config),
        TORCH,
        training_work(name, config),
        different=[PRODUCTS],
        outside=[RECORDED],
    )
    if "contestants" in benchmark.extra_info:
        benchmark.extra_info.update(schedule(benchmark.extra_info, steps))
