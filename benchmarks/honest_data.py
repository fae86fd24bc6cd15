"""Su che cosa si misura: una gara deve lavorare su numeri veri, a ogni chiamata, e tutta qui.

Su una GPU moltiplicare zeri consuma meno, e la frequenza resta più alta: lo stesso prodotto può
andare più in fretta. Prima della misura ogni concorrente gioca due volte osservato.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

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

LEAST = 0.95
"""Quale parte dei conti dichiarati devono fare almeno i prodotti: un riordino risparmia poco."""

SAME = 0.9
"""Quando tanti numeri su uno sono uguali, la matrice è come costante; la ReLU ne azzera metà."""


class DegenerateDataError(ValueError):
    """Un concorrente lavora su dati che ingannano la misura."""


class Watcher(TorchDispatchMode):
    """Guarda ogni operazione di una chiamata: quante, dove, e su quali numeri.

    Attributi:
        operations: quante operazioni di PyTorch.
        products: quante fra quelle di `PRODUCTS`.
        flops, uncounted: i conti dei prodotti, e quanti prodotti PyTorch non sa contare.
        types: i tipi degli operandi.
        numbers, constant: quanti numeri ha l'operando più grande di ogni prodotto, in tutto, e di
            quelli con un operando come costante; si contano se si guarda da vicino.
        elsewhere: quante operazioni su un altro dispositivo, o su un altro stream.
    """

    def __init__(self, closely: bool) -> None:
        super().__init__()
        self.here, self.closely = place(), closely
        self.operations = self.products = self.numbers = self.constant = self.elsewhere = 0
        self.flops = self.uncounted = 0
        self.types: set[torch.dtype] = set()
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
        output = operation(*args, **(kwargs or {}))
        if count := flop_registry.get(operation.overloadpacket):
            self.flops += count(*args, **(kwargs or {}), out_val=output)
            self.types |= {matrix.dtype for matrix in matrices(args)}
        elif operation.overloadpacket.__name__ in PRODUCTS:
            self.uncounted += 1
        return output

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
    """Vero se una matrice ripete una riga o una colonna sola, se quasi tutti i numeri di un
    campione sono uguali, o se qualcuno non è un numero finito.
    """
    if repeats(matrix):
        return True
    sample = sampled(matrix.detach()).float().flatten()
    if not sample.isfinite().all():
        return True
    return int((sample == sample.mode().values).sum()) > SAME * len(sample)


def repeats(matrix: Tensor) -> bool:
    """Vero se le righe, o le colonne, sono sempre gli stessi byte: un passo nullo in memoria."""
    sides = zip(matrix.shape[-2:], matrix.stride()[-2:], strict=True)
    return any(size > 1 and stride == 0 for size, stride in sides)


def sampled(matrix: Tensor) -> Tensor:
    """Una griglia di numeri presi da tutta la matrice, circa `SAMPLE` al più, senza copie."""
    side = round(SAMPLE ** (1 / matrix.dim()))
    return matrix[tuple(slice(None, None, -(-size // side)) for size in matrix.shape)]


def is_flat(output: Any) -> bool:
    """Vero se ogni matrice dell'uscita ha righe tutte uguali, come chi ha ingressi o pesi nulli.

    Vede anche ciò che si fa dentro un kernel solo, dove gli operandi non passano da PyTorch.
    """
    tensors = [it for it in tree_leaves(output) if isinstance(it, Tensor)]
    found = [it.detach().float() for it in tensors if it.is_floating_point() and it.dim() > 1]
    tall = [rows for rows in found if rows.size(-2) > 1]
    return bool(tall) and all(
        torch.allclose(rows, rows[..., :1, :].expand_as(rows), rtol=1e-4, equal_nan=True)
        for rows in tall
    )


@dataclass(frozen=True)
class Declared:
    """Ciò che un concorrente dice di fare.

    Argomenti:
        flops: quanti conti, nei prodotti; 0 se non ne fa.
        dtype: in quale tipo moltiplica; niente, se non lo dice.
        outside: vero se lavora fuori da PyTorch, in un grafo registrato o in un altro programma.
    """

    flops: int = 0
    dtype: torch.dtype | None = None
    outside: bool = False


def refuse_degenerate_data(
    name: str, run: Run, same: bool = True, declared: Declared | None = None
) -> None:
    """Due chiamate osservate: dati veri, il lavoro dichiarato tutt'e due le volte, un posto solo.

    Ciò che è compilato si osserva prima della compilazione, operazione per operazione. Di chi
    lavora fuori da PyTorch, o su un altro thread, non si vede nulla: lì restano i tempi
    impossibili.

    Argomenti:
        name: il nome del concorrente.
        run: la chiamata.
        same: se fa il lavoro dichiarato; di chi ne fa un altro i numeri non si guardano.
        declared: il lavoro dichiarato.

    Solleva:
        DegenerateDataError: se i dati sono costanti (un operando costante ogni tanto è normale: lo
            stato iniziale di una ricorrenza è zero), se la seconda volta il risultato era già
            pronto, se il lavoro è meno di quello dichiarato o in un tipo più corto, se qualcosa
            si fa su un altro stream o su un'altra scheda.
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
    if same and declared:
        refuse_less_work(name, seen, declared)
    if seen.elsewhere:
        refuse(
            name, "lavora su un altro stream o su un'altra scheda", "tutto sullo stream corrente"
        )


def refuse_less_work(name: str, seen: Watcher, declared: Declared) -> None:
    """Il lavoro visto è almeno quello dichiarato, nel tipo dichiarato.

    I conti si confrontano se PyTorch sa contare ogni prodotto che si è visto.
    """
    if seen.operations == 0 and not declared.outside:
        refuse(name, "nessuna operazione", "un lavoro, non un risultato già pronto")
    countable = seen.products and not seen.uncounted
    if countable and seen.flops < LEAST * declared.flops:
        refuse(name, f"{seen.flops} conti nei prodotti", f"almeno i {declared.flops} dichiarati")
    if declared.dtype and any(it.itemsize < declared.dtype.itemsize for it in seen.types):
        short = ", ".join(sorted(str(it) for it in seen.types))
        refuse(name, f"prodotti in {short}", f"in {declared.dtype}, il tipo dichiarato")


def refuse(name: str, given: str, expected: str) -> None:
    """Solleva `DegenerateDataError`."""
    raise DegenerateDataError(f"«{name}»: dato: {given}; atteso: {expected}")
