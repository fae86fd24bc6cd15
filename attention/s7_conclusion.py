"""§7: la tesi «interamente sull'attenzione», controllata sul modello che la sostiene.

Tre controlli, ciascuno su ciò che il modello esegue e non su ciò che dichiara: quali operazioni
compie, quali posizioni dipendono da quali quando l'attenzione non può più guardarsi intorno,
quanto è lunga la fila di operazioni che si aspettano l'una con l'altra.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from attention.s0_abstract import require
from attention.s3_2_2_multi_head import MultiHeadAttention
from attention.s3_2_3_applications import causal_mask
from attention.s3_model_architecture import Transformer


class Trace(TorchDispatchMode):
    """§7 ¶1: le operazioni che un calcolo esegue, e la fila più lunga.

    Si usa con `with`. Sta fra PyTorch e le sue operazioni, come un tracciatore di istruzioni.

    Attributi:
        names: quante volte è stata eseguita ogni operazione, per nome.
        chain: quante operazioni, al più, hanno dovuto aspettarsi l'una con l'altra.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()
        self.chain = 0
        self.waited = WeakIdKeyDictionary()

    def __torch_dispatch__(
        self,
        operation: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        result = operation(*args, **given)
        self.names[operation.overloadpacket.__name__] += 1
        inputs = [leaf for leaf in tree_leaves((args, given)) if isinstance(leaf, Tensor)]
        chain = 1 + max((self.waited.get(tensor, 0) for tensor in inputs), default=0)
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.waited[leaf] = chain
        self.chain = max(self.chain, chain)
        return result


def trace(run: Callable[[], object]) -> Trace:
    """Esegue `run` sotto il tracciatore, e lo restituisce."""
    with Trace() as observed:
        run()
    return observed


FOREIGN = ("conv", "rnn", "lstm", "gru")
"""Come PyTorch chiama le operazioni degli strati che l'articolo dice di non usare."""


def foreign(names: Iterable[str]) -> list[str]:
    """§7 ¶1: quali operazioni sono convoluzioni o ricorrenze, a giudicare dal nome."""
    return sorted({name for name in names if any(part in name for part in FOREIGN)})


Glance = Callable[[int, int], Tensor]
"""Chi può guardare chi: da m query e n key alla maschera logica [m, n]."""


def only_itself(m: int, n: int) -> Bool[Tensor, "{m} {n}"]:
    """La posizione i guarda la posizione i, e nessun'altra."""
    return torch.eye(m, n, dtype=torch.bool)


def nobody(m: int, n: int) -> Bool[Tensor, "{m} {n}"]:
    """Nessuna posizione guarda nulla: l'attenzione risponde zero."""
    return torch.zeros(m, n, dtype=torch.bool)


def inputs(
    part: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Query, key, value e maschera di una chiamata all'attenzione; la causale, se c'è, è dentro."""
    call = inspect.signature(part.forward).bind(*args, **kwargs).arguments
    query, mask = call["query"], call.get("mask")
    if call.get("causal"):
        causal = causal_mask(query.size(-2), query.device)
        mask = causal if mask is None else causal & mask
    return query, call["key"], call["value"], mask


@contextmanager
def restricted(module: nn.Module, glance: Glance) -> Iterator[None]:
    """Finché dura il blocco, ogni attenzione dentro `module` guarda soltanto dove `glance` dice.

    Il resto non cambia: stessi pesi, stesse operazioni. Le maschere che c'erano restano, e
    quella nuova si aggiunge. Vale per le chiamate al modulo intero, non per `generate`.

    Argomenti:
        module: un modello, o una sua parte.
        glance: per esempio `only_itself`.

    Solleva:
        ValueError: se in `module` non c'è nessuna attenzione.
    """
    heads = [part for part in module.modules() if isinstance(part, MultiHeadAttention)]
    require(len(heads) > 0, "module", "nessuna attenzione", "almeno una MultiHeadAttention")

    def limit(part: nn.Module, args: Any, kwargs: Any) -> tuple[Any, dict[str, Any]]:
        query, key, value, mask = inputs(part, args, kwargs)
        allowed = glance(query.size(-2), key.size(-2)).to(query.device)
        return (query, key, value, allowed if mask is None else allowed & mask), {}

    hooks = [part.register_forward_pre_hook(limit, with_kwargs=True) for part in heads]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(frozen=True)
class Dependence:
    """§7 ¶1: chi dipende da chi; vero in (i, j) se la posizione i risente della posizione j.

    Argomenti:
        encoder: z_i da x_j, forma [n, n].
        decoder: l'uscita i del decoder dal suo ingresso j, forma [m, m].
        between: l'uscita i del decoder da x_j, forma [m, n].
    """

    encoder: Bool[Tensor, "n n"]
    decoder: Bool[Tensor, "m m"]
    between: Bool[Tensor, "m n"]


def dependence(model: Transformer, n: int, m: int) -> Dependence:
    """§7 ¶1: le dipendenze fra posizioni, lette nelle derivate del modello intero.

    Gli ingressi sono vettori casuali al posto degli embedding, che stanno ciascuno nella sua
    posizione; le derivate sono quelle di ogni uscita lungo una direzione a caso. Una derivata
    che è zero qui lo è esattamente. Una dipendenza che c'è la annulla solo una coincidenza, oppure
    una ReLU spenta su questi ingressi, se passa soltanto da lì.

    Argomenti:
        model: il modello; si guarda com'è in uso, senza dropout.
        n, m: quante posizioni, da una parte e dall'altra.

    Solleva:
        ValueError: se n o m è minore di 1.
    """
    require(n >= 1, "n", n, "almeno 1")
    require(m >= 1, "m", m, "almeno 1")
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        like = model.embedding.weight
        source, target = (like.new_empty(rows, like.size(1)).normal_() for rows in (n, m))
        source, target = source.requires_grad_(), target.requires_grad_()
        memory = model.encode_vectors(source, None)
        output = model.decode_vectors(target, memory, None)
        return Dependence(sensed(memory, source), sensed(output, target), sensed(output, source))
    finally:
        for part, training in modes:
            part.training = training


def sensed(
    output: Float[Tensor, "rows d"], origin: Float[Tensor, "columns d"]
) -> Bool[Tensor, "rows columns"]:
    """Vero in (i, j) se la riga i di `output` cambia quando cambia la riga j di `origin`."""
    direction = torch.randn_like(output[0])
    rows = [
        torch.autograd.grad(row @ direction, origin, retain_graph=True)[0].ne(0).any(dim=-1)
        for row in output
    ]
    return torch.stack(rows)
