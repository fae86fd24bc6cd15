"""Oltre l'articolo: il nostro kernel dell'eq. (1), nei due sensi, contro quelli di PyTorch.

Sempre 16 384 token e teste che insieme fanno 2 048 numeri; cambia la lunghezza delle sequenze in
cui i token si dividono. Soltanto su una GPU: su CPU il kernel si interpreta, e non si misura.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.contest import DEVICE, Run, Work, clock

OURS, BASELINE = "flash_attention", "FlashAttention-2"
"""Il nostro e il riferimento."""

BACKENDS = {
    BASELINE: SDPBackend.FLASH_ATTENTION,
    "cuDNN": SDPBackend.CUDNN_ATTENTION,
    "memory-efficient": SDPBackend.EFFICIENT_ATTENTION,
}
"""I kernel fusi di PyTorch, ciascuno imposto."""

TOKENS, HIDDEN = 16384, 2048
"""Quanti token in tutto, e quanti numeri per token, divisi fra le teste."""

LENGTHS, WIDTHS = (2048, 8192), (64, 128)
"""Le lunghezze delle sequenze e le larghezze delle teste."""

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Un modo di calcolare l'eq. (1)."""

every_case = pytest.mark.parametrize(
    ("n", "width", "causal"),
    [(n, width, causal) for width in WIDTHS for causal in (False, True) for n in LENGTHS],
)


pytestmark = pytest.mark.skipif(
    DEVICE == "cpu", reason="il kernel si misura su una GPU CUDA: su CPU lo si interpreta soltanto"
)


@pytest.fixture
def dtype() -> torch.dtype:
    """Il tipo per cui il kernel è scritto."""
    pytest.importorskip("triton")
    return torch.bfloat16


def work(n: int, width: int, causal: bool, backward: bool) -> Work:
    """Due prodotti in avanti, cinque all'indietro; con la maschera, solo le coppie permesse."""
    pairs = n * (n + 1) // 2 if causal else n * n
    sequences, heads = TOKENS // n, HIDDEN // width
    products, tensors = (5, 8) if backward else (2, 4)
    return Work(
        label=f"n = {n}, d_k = {width}{', causale' if causal else ''}",
        shape={"batch": sequences, "heads": heads, "n": n, "d_k": width, "causal": int(causal)},
        flops=2 * products * sequences * heads * pairs * width,
        numbers=tensors * TOKENS * HIDDEN,
    )


def ways(n: int, causal: bool) -> dict[str, Attention]:
    """Chi gareggia; il primo è il nostro."""
    from attention.beyond.flash_attention import flash_attention

    def imposed(backend: SDPBackend) -> Attention:
        def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

        return attention

    found = {OURS: lambda q, k, v: flash_attention(q, k, v, causal=causal)}
    found |= {name: imposed(backend) for name, backend in BACKENDS.items()}
    return found


def tensors(n: int, width: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Q, K, V e il gradiente dell'uscita, estratti a caso."""
    shape = (4, TOKENS // n, HIDDEN // width, n, width)
    return torch.randn(shape, device=DEVICE, dtype=dtype).unbind()


@every_case
@pytest.mark.benchmark(group="beyond_flash_attention", timer=clock)
def test_forward(contest, dtype, n, width, causal):
    """In avanti, senza gradienti."""
    q, k, v, _ = tensors(n, width, dtype)
    runs: dict[str, Run] = {
        name: lambda way=way: way(q, k, v) for name, way in ways(n, causal).items()
    }
    contest(runs, BASELINE, work(n, width, causal, backward=False), outside=[OURS])


@every_case
@pytest.mark.benchmark(group="beyond_flash_attention_backward", timer=clock)
def test_backward(contest, dtype, n, width, causal):
    """Soltanto all'indietro: il passo in avanti si fa una volta, prima."""
    *inputs, grad = tensors(n, width, dtype)
    inputs = [it.requires_grad_() for it in inputs]

    def backward(way: Attention) -> Run:
        with torch.enable_grad():
            output = way(*inputs)
        return lambda: torch.autograd.grad(output, inputs, grad, retain_graph=True)

    runs = {name: backward(way) for name, way in ways(n, causal).items()}
    contest(runs, BASELINE, work(n, width, causal, backward=True), outside=[OURS])
