"""Su che cosa si misura: una gara deve lavorare su numeri veri, a ogni chiamata, e tutta qui.

Su una GPU moltiplicare zeri consuma meno, e la frequenza resta più alta: lo stesso prodotto può
andare più in fretta. Prima della misura ogni concorrente gioca due volte osservato.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from benchmarks.stopwatch import DEVICE, Run

FUSED = {
    "mkldnn_rnn_layer",
    "_cudnn_rnn",
    "_transformer_encoder_layer_fwd",
    "_native_multi_head_attention",
}
"""Gli strati fusi, di cui PyTorch non conta i conti; per nome, perché non ogni PyTorch li ha."""

COUNTS: dict[str, Callable[..., int]] = {
    "mv": lambda output, matrix, *_: 2 * matrix.numel(),
    "addmv": lambda output, start, matrix, *_: 2 * matrix.numel(),
    "_addmm_activation": lambda output, start, x, *_: 2 * x.size(-1) * output.numel(),
    "_linear_pointwise": lambda output, x, *_: 2 * x.numel() * output.size(-1),
    "_scaled_dot_product_flash_attention_for_cpu": (
        lambda output, *tensors: sdpa_flop_count(*(it.shape for it in tensors[:3]))
    ),
    "_scaled_dot_product_flash_attention_for_cpu_backward": (
        lambda output, *tensors: sdpa_backward_flop_count(*(it.shape for it in tensors[:4]))
    ),
}
"""I conti dei prodotti che PyTorch non conta, dall'uscita e dagli operandi."""

ADDS = {"addmm", "addmv", "baddbmm", "_addmm_activation"}
"""I prodotti che hanno per primo argomento ciò a cui si somma."""

INTEGERS = re.compile(r"^quantized|_int_mm|_weight_int")
"""I prodotti fra interi, che stanno al posto di quelli fra numeri: qui nessuno li dichiara."""

SAMPLE = 1024
"""Quanti numeri di una matrice si guardano, al più."""

CLOSED = {torch._mkldnn, torch.jagged}
"""Gli operandi di cui non si guardano i numeri; i soliti si guardano, quelli sparsi sono zeri."""

LOOKS = 64
"""Quante volte si guardano i prodotti che hanno le stesse forme: chi genera ne fa migliaia."""

LEAST = 0.95
"""Quale parte dei conti dichiarati devono fare almeno i prodotti: un riordino risparmia poco."""

MOVED = 0.75
"""Quale parte dei numeri dichiarati deve almeno passare per le operazioni."""

EACH = 8
"""Quanti conti si fanno, al più, per ogni numero che passa, senza prodotti: la LayerNorm, 3,5."""

SAME = 0.9
"""Quando tanti numeri su uno sono uguali, la matrice è come costante; la ReLU ne azzera metà."""

CLOSE = 1e-4
"""Di quanto, in proporzione, differiscono al più due numeri che si dicono uguali."""


class DegenerateDataError(ValueError):
    """Un concorrente lavora su dati che ingannano la misura."""


class Watcher(TorchDispatchMode):
    """Guarda ogni operazione di una chiamata: quante, dove, e su quali numeri.

    Attributi:
        operations: quante operazioni di PyTorch.
        products: quanti prodotti, convoluzioni, strati fusi.
        flops, uncounted: i loro conti, e di quanti non si sanno fare.
        moved: quanti numeri entrano ed escono, qui, dalle operazioni che non sono viste.
        types: i tipi degli operandi dei prodotti, e di ogni numero con la virgola.
        shortened: se un prodotto fra numeri FP32 poteva accorciarli.
        numbers, constant: quanti numeri ha l'operando più grande di ogni prodotto, in tutto, e di
            quelli con un operando come costante; si contano se si guarda da vicino.
        elsewhere: quante operazioni su un altro stream, e quanti prodotti su un altro dispositivo.
    """

    supports_higher_order_operators = True

    def __init__(self, closely: bool) -> None:
        super().__init__()
        self.here, self.device, self.closely = place(), device(), closely
        self.operations = self.products = self.numbers = self.constant = self.elsewhere = 0
        self.flops = self.uncounted = self.moved = 0
        self.shortened = False
        self.types: set[torch.dtype] = set()
        self.looks: Counter[Any] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        product = is_product(operation)
        if not product and isinstance(operation, OpOverload):
            with self:  # in inference_mode le operazioni composte arrivano intere
                output = operation.decompose(*args, **(kwargs or {}))
            if output is not NotImplemented:
                return output
        self.operations += 1
        self.elsewhere += place() != self.here
        if product:
            self.examine(operation, list(operands(operation, args)))
        output = operation(*args, **(kwargs or {}))
        tensors = [it for it in tree_leaves((args, output)) if isinstance(it, Tensor)]
        self.types |= {it.dtype for it in tensors if it.is_floating_point()}
        if moves(operation):
            self.moved += sum(it.numel() for it in tensors if it.device == self.device)
        if product:
            count = flops_of(operation, args, kwargs or {}, output)
            self.uncounted += count is None
            self.flops += count or 0
        return output

    def examine(self, operation: Any, matrices: list[Tensor]) -> None:
        """Un prodotto prima che si faccia: dove, in quale tipo e, da vicino, su quali numeri."""
        self.products += 1
        self.elsewhere += any(it.device != self.device for it in matrices)
        plain = not INTEGERS.search(str(operation))
        types = {it.dtype if plain and is_real(it) else torch.int8 for it in matrices}
        self.shortened |= torch.float32 in types and not fp32_is_plain()
        self.types |= types
        if self.closely:
            self.look([it for it in matrices if it.device == self.device])

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


def device() -> torch.device:
    """Dove devono stare gli operandi."""
    return torch.device(DEVICE, torch.cuda.current_device() if DEVICE == "cuda" else None)


def is_real(matrix: Tensor) -> bool:
    """Vero se i numeri hanno la virgola: gli interi, anche larghi, ne fanno le veci."""
    return matrix.is_floating_point() or matrix.is_complex()


def fp32_settings() -> tuple[Any, ...]:
    """Chi decide come si moltiplica in FP32: cuBLAS, cuDNN, oneDNN."""
    backends = torch.backends
    on_gpu = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    return *on_gpu, backends.mkldnn.matmul, backends.mkldnn.conv, backends.mkldnn.rnn


def fp32_is_plain() -> bool:
    """Vero se i prodotti in FP32 si fanno in FP32, senza accorciare gli operandi."""
    return all(it.fp32_precision == "ieee" for it in fp32_settings())


def is_product(operation: Any) -> bool:
    """Vero per prodotti, convoluzioni, strati fusi."""
    name = operation.overloadpacket.__name__
    known = operation.overloadpacket in flop_registry or name in COUNTS or name in FUSED
    return known or bool(INTEGERS.search(str(operation)))


def flops_of(operation: Any, args: Any, kwargs: Any, output: Any) -> int | None:
    """I conti di un prodotto; niente, se non si sanno fare."""
    name = operation.overloadpacket.__name__
    if name in COUNTS:
        return COUNTS[name](output, *args)
    count = flop_registry.get(operation.overloadpacket)
    try:
        return count and count(*args, **kwargs, out_val=output)
    except TypeError:  # una forma che il conteggio di PyTorch non prevede
        return None


def operands(operation: Any, args: Any) -> Iterator[Tensor]:
    """Gli operandi, fra i primi tre argomenti: dopo vengono le maschere.

    Ciò a cui si somma non è un operando, e può essere zero. Hanno almeno due dimensioni. In un
    pacco di oneDNN, o in un tensore annidato, non si guarda.
    """
    adds = operation.overloadpacket.__name__ in ADDS
    for argument in args[adds:3]:
        plain = isinstance(argument, Tensor) and argument.layout not in CLOSED
        if plain and not argument.is_nested and argument.dim() >= 2 and argument.numel() > 1:
            yield argument


def moves(operation: Any) -> bool:
    """Vero se un'operazione legge o scrive numeri: una vista non lo fa, né chi prende memoria."""
    aliases = [it.alias_info for it in operation._schema.returns]
    view = any(it is not None and not it.is_write for it in aliases)
    return not view and "empty" not in operation.overloadpacket.__name__


def is_constant(matrix: Tensor) -> bool:
    """Vero se una matrice ripete una riga o una colonna sola, se è sparsa, se quasi tutti i numeri
    di un campione sono uguali, o se qualcuno non è un numero finito.
    """
    if matrix.layout != torch.strided or repeats(matrix):
        return True
    sample = sampled(matrix.detach()).float().flatten()
    if not sample.isfinite().all():
        return True
    middle = sample.median().expand_as(sample)
    return int(sample.isclose(middle, rtol=CLOSE, atol=0.0).sum()) > SAME * len(sample)


def repeats(matrix: Tensor) -> bool:
    """Vero se le righe, o le colonne, sono tutte uguali, anche ricopiate una per una."""
    return any(it.size(-2) > 1 and is_row(it) for it in (matrix.detach(), matrix.detach().mT))


def sampled(matrix: Tensor) -> Tensor:
    """Una griglia di numeri presi da tutta la matrice, circa `SAMPLE` al più, senza copie."""
    side = round(SAMPLE ** (1 / matrix.dim()))
    return matrix[tuple(slice(None, None, -(-size // side)) for size in matrix.shape)]


def floating(output: Any) -> list[Tensor]:
    """I tensori di numeri con la virgola di un'uscita, se stanno in memoria come i soliti."""
    tensors = [it for it in tree_leaves(output) if isinstance(it, Tensor)]
    dense = [it for it in tensors if it.layout == torch.strided and not it.is_nested]
    dense = [it for it in dense if it.device.type != "meta"]
    return [it.detach() for it in dense if it.is_floating_point()]


def is_flat(output: Any) -> bool:
    """Vero se ogni matrice dell'uscita ha righe tutte uguali, come chi ha ingressi o pesi nulli.

    Vede anche ciò che si fa dentro un kernel solo, dove gli operandi non passano da PyTorch.
    """
    tall = [it for it in floating(output) if it.dim() > 1 and it.size(-2) > 1]
    return bool(tall) and all(is_row(it) for it in tall)


def is_row(matrix: Tensor) -> bool:
    """Vero se una matrice ripete una riga sola; si guarda tutta se un campione lo fa sospettare."""
    return same_rows(sampled(matrix)) and same_rows(matrix)


def same_rows(matrix: Tensor) -> bool:
    """Vero se le righe differiscono di meno di un decimillesimo."""
    rows = matrix.float()
    first = rows[..., :1, :].expand_as(rows)
    return torch.allclose(rows, first, rtol=CLOSE, atol=0.0, equal_nan=True)


@dataclass(frozen=True)
class Declared:
    """Ciò che un concorrente dice di fare.

    Argomenti:
        flops: quanti conti, nei prodotti; 0 se non ne fa.
        numbers: quanti numeri entrano ed escono almeno.
        dtype: in quale tipo moltiplica; niente, se non lo dice.
        shortened: vero se prima di moltiplicare accorcia i numeri FP32.
        outside: vero se lavora fuori da PyTorch, in un grafo registrato o in un altro programma.
    """

    flops: int = 0
    numbers: int = 0
    dtype: torch.dtype | None = None
    shortened: bool = False
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
    enough = declared and not again.uncounted and again.flops >= LEAST * declared.flops > 0
    if idle or (again.products < seen.products and not enough):
        refuse(name, "la seconda chiamata lavora meno della prima", "lo stesso lavoro ogni volta")
    if seen.elsewhere or again.elsewhere:
        refuse(
            name, "lavora su un altro stream o su un'altra scheda", "tutto sullo stream corrente"
        )
    seen.types |= {it.dtype for it in floating(output)}
    if same and declared:
        for call in (seen, again):
            refuse_less_work(name, call, declared)


def refuse_less_work(name: str, seen: Watcher, declared: Declared) -> None:
    """Il lavoro visto è almeno quello dichiarato, nel tipo dichiarato.

    I conti si confrontano se si sanno fare di ogni prodotto che si è visto; di chi non ne fa, con
    i numeri che ha letto e scritto.
    """
    if not declared.outside and seen.moved < MOVED * declared.numbers:
        expected = f"almeno i tre quarti dei {declared.numbers} dichiarati"
        refuse(name, f"{seen.moved} numeri letti e scritti", expected)
    most = seen.flops if seen.products else EACH * seen.moved
    countable = not seen.uncounted and (seen.products or not declared.outside)
    if countable and most < LEAST * declared.flops:
        given = f"{seen.flops} conti nei prodotti, {seen.moved} numeri letti e scritti"
        refuse(name, given, f"almeno i {declared.flops} conti dichiarati")
    if declared.dtype and any(it.itemsize < declared.dtype.itemsize for it in seen.types):
        short = ", ".join(sorted(str(it) for it in seen.types))
        refuse(name, f"numeri in {short}", f"in {declared.dtype}, il tipo dichiarato")
    if seen.shortened and not declared.shortened:
        refuse(name, "prodotti che accorciano i numeri FP32", "un formato dichiarato")


def refuse(name: str, given: str, expected: str) -> None:
    """Solleva `DegenerateDataError`."""
    raise DegenerateDataError(f"«{name}»: dato: {given}; atteso: {expected}")
