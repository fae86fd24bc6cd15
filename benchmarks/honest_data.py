"""Su che cosa si misura: i prodotti di una gara devono lavorare su numeri veri.

Su una GPU moltiplicare zeri consuma meno, e la frequenza resta più alta: lo stesso prodotto può
andare più in fretta. Prima della misura ogni concorrente gioca una volta osservato.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.stopwatch import Run

aten = torch.ops.aten

PRODUCTS = {
    aten.mm,
    aten.addmm,
    aten.bmm,
    aten.baddbmm,
    aten._scaled_mm,
    aten.convolution,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_efficient_attention,
    aten._scaled_dot_product_cudnn_attention,
}
"""Le operazioni di cui si guardano gli operandi: prodotti, convoluzioni, attenzioni fuse."""


class DegenerateDataError(ValueError):
    """Un concorrente lavora su dati che ingannano la misura."""


class Watcher(TorchDispatchMode):
    """Guarda gli operandi di ogni prodotto: quanti prodotti, e quanti su una matrice costante."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0
        self.constant = 0

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if operation.overloadpacket in PRODUCTS:
            self.products += 1
            self.constant += any(is_constant(matrix) for matrix in matrices(args))
        return operation(*args, **(kwargs or {}))


def matrices(arguments: Any) -> Iterator[Tensor]:
    """Gli operandi con almeno due dimensioni: i termini costanti possono essere zero."""
    for argument in arguments:
        if isinstance(argument, Tensor) and argument.dim() >= 2 and argument.numel() > 1:
            yield argument


def is_constant(matrix: Tensor) -> bool:
    """Vero se tutti i numeri sono uguali, o se non sono numeri."""
    numbers = matrix.detach().float()
    return not bool(numbers.max() > numbers.min())


def refuse_degenerate_data(name: str, run: Run) -> None:
    """Una chiamata osservata: se metà dei prodotti ha un operando costante, non è una misura.

    Ciò che è compilato si osserva prima della compilazione, operazione per operazione.

    Argomenti:
        name: il nome del concorrente.
        run: la chiamata.

    Solleva:
        DegenerateDataError: se i dati sono costanti. Un operando costante ogni tanto è normale:
            lo stato iniziale di una ricorrenza è zero.
    """
    with torch.compiler.set_stance("force_eager"), Watcher() as seen:
        run()
    if seen.products and 2 * seen.constant >= seen.products:
        raise DegenerateDataError(
            f"«{name}»: {seen.constant} prodotti su {seen.products} hanno un operando costante, "
            "per esempio tutto zero; atteso: numeri a caso, come quelli di un modello"
        )
