"""Su che cosa si misura: una gara deve lavorare su numeri veri, a ogni chiamata, e tutta qui.

Su una GPU moltiplicare zeri consuma meno, e la frequenza resta più alta: lo stesso prodotto può
andare più in fretta. Prima della misura ogni concorrente gioca due volte osservato.
"""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.stopwatch import DEVICE, Run

PRODUCTS = {
    "mm",
    "addmm",
    "mv",
    "addmv",
    "bmm",
    "baddbmm",
    "_scaled_mm",
    "convolution",
    "mkldnn_rnn_layer",
    "_cudnn_rnn",
    "_linear_pointwise",
    "_transformer_encoder_layer_fwd",
    "_native_multi_head_attention",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
}
"""Le operazioni di cui si guardano gli operandi: prodotti, convoluzioni, strati fusi.

Si riconoscono dal nome, perché non ogni PyTorch le ha tutte.
"""

SAMPLE = 1024
"""Quanti numeri di una matrice si guardano, al più."""

LOOKS = 64
"""Quante volte si guardano i prodotti che hanno le stesse forme: chi genera ne fa migliaia."""

SAME = 0.9
"""Quando tanti numeri su uno sono uguali, la matrice è come costante; la ReLU ne azzera metà."""


class DegenerateDataError(ValueError):
    """Un concorrente lavora su dati che ingannano la misura."""


class Watcher(TorchDispatchMode):
    """Guarda ogni operazione di una chiamata: quante, dove, e su quali numeri.

    Attributi:
        operations: quante operazioni di PyTorch.
        products: quante fra quelle di `PRODUCTS`.
        numbers, constant: quanti numeri ha l'operando più grande di ogni prodotto, in tutto, e di
            quelli con un operando come costante; si contano se si guarda da vicino.
        elsewhere: quante operazioni su un altro dispositivo, o su un altro stream.
    """

    def __init__(self, closely: bool) -> None:
        super().__init__()
        self.here, self.closely = place(), closely
        self.operations = self.products = self.numbers = self.constant = self.elsewhere = 0
        self.looks: Counter[Any] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        self.operations += 1
        self.elsewhere += place() != self.here
        if operation.overloadpacket.__name__ in PRODUCTS:
            self.products += 1
            if self.closely:
                self.look(list(matrices(args)))
        return operation(*args, **(kwargs or {}))

    def look(self, operands: list[Tensor]) -> None:
        """Gli operandi di un prodotto, un campione ciascuno; di forme già viste, fino a `LOOKS`."""
        shapes = tuple(matrix.shape for matrix in operands)
        self.looks[shapes] += 1
        if self.looks[shapes] > LOOKS:
            return
        size = max((matrix.numel() for matrix in operands), default=0)
        self.numbers += size
        self.constant += size * any(is_constant(matrix) for matrix in operands)


def place() -> Any:
    """Il dispositivo e lo stream su cui si accoda; su CPU non c'è da scegliere."""
    if DEVICE == "cpu":
        return None
    return torch.cuda.current_device(), torch.cuda.current_stream()


def matrices(arguments: Any) -> Iterator[Tensor]:
    """Gli operandi, fra i primi tre argomenti: dopo vengono le maschere.

    Hanno almeno due dimensioni: i termini costanti possono essere zero. In un pacco di oneDNN non
    si guarda.
    """
    for argument in arguments[:3]:
        plain = isinstance(argument, Tensor) and argument.layout == torch.strided
        if plain and argument.dim() >= 2 and argument.numel() > 1:
            yield argument


def is_constant(matrix: Tensor) -> bool:
    """Vero se quasi tutti i numeri di un campione sono uguali, o se non sono numeri."""
    sample = sampled(matrix.detach()).float().flatten()
    real = sample[~sample.isnan()]
    if 2 * len(real) < len(sample):
        return True
    return int((real == real.mode().values).sum()) > SAME * len(real)


def sampled(matrix: Tensor) -> Tensor:
    """Una griglia di numeri presi da tutta la matrice, circa `SAMPLE` al più, senza copie."""
    side = round(SAMPLE ** (1 / matrix.dim()))
    return matrix[tuple(slice(None, None, -(-size // side)) for size in matrix.shape)]


def is_flat(output: Any) -> bool:
    """Vero se l'uscita è una matrice di righe tutte uguali, come chi ha ingressi o pesi nulli.

    Vede anche ciò che si fa dentro un kernel solo, dove gli operandi non passano da PyTorch.
    """
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return False
    if output.dim() < 2 or output.size(-2) < 2:
        return False
    rows = output.detach().float()
    return torch.allclose(rows, rows[..., :1, :].expand_as(rows), rtol=1e-4)


def refuse_degenerate_data(name: str, run: Run, same: bool = True) -> None:
    """Due chiamate osservate: dati veri, lo stesso lavoro tutt'e due le volte, un posto solo.

    Ciò che è compilato si osserva prima della compilazione, operazione per operazione. Di chi
    lavora fuori da PyTorch, in un altro programma, non si vede nulla: lì restano i tempi
    impossibili.

    Argomenti:
        name: il nome del concorrente.
        run: la chiamata.
        same: se fa il lavoro dichiarato; di chi ne fa un altro i numeri non si guardano.

    Solleva:
        DegenerateDataError: se i dati sono costanti (un operando costante ogni tanto è normale: lo
            stato iniziale di una ricorrenza è zero), se la seconda volta il risultato era già
            pronto, se qualcosa si fa su un altro stream o su un'altra scheda.
    """
    with torch.compiler.set_stance("force_eager"):
        with Watcher(closely=same) as seen:
            output = run()
        with Watcher(closely=False) as again:
            run()
    expected = "numeri a caso, come quelli di un modello"
    if seen.constant and 2 * seen.constant >= seen.numbers:
        refuse(name, "la maggior parte dei prodotti ha un operando costante", expected)
    if same and is_flat(output):
        refuse(name, "le righe dell'uscita sono tutte uguali", expected)
    idle = seen.operations > 0 and again.operations == 0
    if idle or again.products < seen.products:
        refuse(name, "la seconda chiamata lavora meno della prima", "lo stesso lavoro ogni volta")
    if seen.elsewhere:
        refuse(
            name, "lavora su un altro stream o su un'altra scheda", "tutto sullo stream corrente"
        )


def refuse(name: str, given: str, expected: str) -> None:
    """Solleva `DegenerateDataError`."""
    raise DegenerateDataError(f"«{name}»: dato: {given}; atteso: {expected}")
