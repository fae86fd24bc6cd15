"""§3.2.1, eq. (1): l'attenzione a prodotto scalare scalato.

Attention(Q, K, V) = softmax(QKᵀ/√d_k) V, per quante dimensioni di batch si vuole davanti. Tre
forme, lo stesso significato: i pesi da guardare, il prodotto alla lettera, il kernel fuso.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from attention.s0_abstract import require

FLOAT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""I tipi in virgola mobile con cui i prodotti di matrici sono definiti."""

FLOAT_TENSOR = "un tensore di tipo " + ", ".join(str(dtype) for dtype in FLOAT_DTYPES)
"""Come i messaggi d'errore descrivono un tensore in virgola mobile."""


def attention_weights(
    query: Float[Tensor, "*#batch m d_k"],
    key: Float[Tensor, "*#batch n d_k"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "... m n"]:
    """I pesi dell'eq. (1): softmax(QKᵀ/√d_k), con la softmax lungo le key.

    Argomenti:
        query: Q, forma [..., m, d_k].
        key: K, forma [..., n, d_k].
        mask: vero dove la query può guardare la key; si estende a [..., m, n].

    Restituisce:
        I pesi, forma [..., m, n]. Ogni riga somma a 1; una riga senza key permesse è tutta zero.

    Solleva:
        TypeError: se un argomento non è un tensore del tipo giusto.
        ValueError: se le forme non si accordano.
    """
    check_query_key(query, key)
    d_k = query.size(-1)
    scores = query @ key.transpose(-2, -1) / math.sqrt(d_k)
    if mask is None:
        return row_softmax(scores)
    check_mask(mask, scores.shape)
    return masked_softmax(scores, mask)


def scaled_dot_product_attention(
    query: Float[Tensor, "*#batch m d_k"],
    key: Float[Tensor, "*#batch n d_k"],
    value: Float[Tensor, "*#batch n d_v"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "... m d_v"]:
    """§3.2.1 ¶2, eq. (1) alla lettera: softmax(QKᵀ/√d_k) V.

    Argomenti:
        query: Q, forma [..., m, d_k].
        key: K, forma [..., n, d_k].
        value: V, forma [..., n, d_v].
        mask: vero dove la query può guardare la key; si estende a [..., m, n].

    Restituisce:
        Le uscite, forma [..., m, d_v]. Una query che non può guardare nulla riceve zeri.

    Solleva:
        TypeError: se un argomento non è un tensore del tipo giusto.
        ValueError: se le forme non si accordano.
    """
    check_value(key, value, check_query_key(query, key))
    return attention_weights(query, key, mask) @ value


def masked_softmax(
    scores: Float[Tensor, "*batch m n"], mask: Bool[Tensor, "..."]
) -> Float[Tensor, "*batch m n"]:
    """La softmax sulle sole posizioni permesse: alle altre il punteggio diventa −∞.

    Una riga senza posizioni permesse darebbe 0/0. La si calcola come se fosse tutta permessa e
    poi se ne azzerano i pesi: così sono zero anche i gradienti, e nessun passaggio dà NaN.
    """
    empty = ~mask.any(dim=-1, keepdim=True)
    allowed = mask | empty
    return row_softmax(scores.masked_fill(~allowed, -math.inf)).masked_fill(empty, 0.0)


REGISTER = 16
"""Quanti numeri in FP32 stanno in un registro da 512 bit."""


def row_softmax(scores: Float[Tensor, "*batch m n"]) -> Float[Tensor, "*batch m n"]:
    """La softmax lungo le key.

    Di righe più corte di un registro, sulla CPU, PyTorch fa gli esponenziali uno per volta: allora
    la si scrive per esteso, e gli esponenziali di righe diverse riempiono lo stesso registro.
    """
    full = scores.size(-1) >= REGISTER or scores.device.type != "cpu"
    if full or scores.size(-1) == 0 or scores.dtype.itemsize < 4:
        return scores.softmax(dim=-1)
    powers = (scores - scores.detach().amax(dim=-1, keepdim=True)).exp()
    return powers / powers.sum(dim=-1, keepdim=True)


def additive_weights(
    query: Float[Tensor, "*#batch m d_k"],
    key: Float[Tensor, "*#batch n d_k"],
    query_matrix: Float[Tensor, "d_k hidden"],
    key_matrix: Float[Tensor, "d_k hidden"],
    direction: Float[Tensor, " hidden"],
    mask: Bool[Tensor, "..."] | None = None,
) -> Float[Tensor, "... m n"]:
    """§3.2.1 ¶3: i pesi dell'attenzione additiva, una rete con un solo strato nascosto.

    Il punteggio di una coppia è direction · tanh(q W_q + k W_k). Fra la somma e la riduzione c'è
    una tangente iperbolica: scritta con tensori, tiene m × n × hidden numeri.

    Argomenti:
        query, key, mask: come in `attention_weights`.
        query_matrix: W_q, forma [d_k, hidden].
        key_matrix: W_k, forma [d_k, hidden].
        direction: il vettore che riduce lo strato nascosto a un punteggio, lungo hidden.

    Restituisce:
        I pesi, forma [..., m, n].

    Solleva:
        TypeError, ValueError: come `attention_weights`.
    """
    batch = check_query_key(query, key)
    vector = isinstance(direction, Tensor) and direction.dim() == 1
    require(vector, "direction", direction, "un vettore del tipo di query", TypeError)
    d_k, hidden = query.size(-1), direction.size(-1)
    for matrix, name in ((query_matrix, "query_matrix"), (key_matrix, "key_matrix")):
        check_like(matrix, name, query, "query")
        require(matrix.shape == (d_k, hidden), name, matrix.shape, f"{[d_k, hidden]}")
    query_part = (query @ query_matrix).unsqueeze(-2)
    key_part = (key @ key_matrix).unsqueeze(-3)
    scores = torch.tanh(query_part + key_part) @ direction
    if mask is None:
        return row_softmax(scores)
    check_mask(mask, (*batch, query.size(-2), key.size(-2)))
    return masked_softmax(scores, mask)


def fused_attention(
    query: Float[Tensor, "*#batch m d_k"],
    key: Float[Tensor, "*#batch n d_k"],
    value: Float[Tensor, "*#batch n d_v"],
    mask: Bool[Tensor, "..."] | None = None,
    causal: bool = False,
) -> Float[Tensor, "... m d_v"]:
    """L'eq. (1) con il kernel fuso di PyTorch, che non scrive mai in memoria i pesi [m, n].

    Sulla CPU vale per ogni tipo; su CUDA PyTorch ha kernel fusi per FP16, BF16 e FP32, non per
    la doppia precisione, che torna alla forma alla lettera.

    Argomenti:
        query, key, value, mask: come in `scaled_dot_product_attention`.
        causal: ogni posizione guarda sé stessa e le precedenti, senza costruire la maschera.

    Restituisce:
        Le uscite, forma [..., m, d_v], uguali a quelle alla lettera salvo l'arrotondamento.

    Solleva:
        TypeError, ValueError: come la forma alla lettera; inoltre se `causal` si accompagna a
            una maschera, o se con `causal` le query non sono tante quante le key.
    """
    batch = check_problem(query, key, value, mask, causal)
    return fused_kernel(query, key, value, batch, mask, causal)


def fused_kernel(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    batch: tuple[int, ...],
    mask: Tensor | None,
    causal: bool,
) -> Tensor:
    """Il kernel fuso, per argomenti già controllati; `batch` è il loro batch comune."""
    if is_short(query, key):
        return short_attention(query, key, value, mask, causal)
    empty = None
    if mask is not None:
        empty = ~mask.any(dim=-1, keepdim=True)
        mask = four_dimensional(torch.atleast_2d(mask | empty), batch)
    d_k, d_v = query.size(-1), value.size(-1)
    width = max(d_k, d_v)
    q, k, v = (spread(tensor, width, batch) for tensor in (query, key, value))
    scale = 1 / math.sqrt(d_k)
    output = F.scaled_dot_product_attention(q, k, v, mask, is_causal=causal, scale=scale)
    shape = (*batch, query.size(-2), d_v)
    if output.shape != shape:
        output = output[..., :d_v].reshape(shape)
    return output if empty is None else output.masked_fill(empty, 0.0)


SHORT = 1024
"""Fino a quanti pesi, per matrice, scriverli costa meno che farne a meno."""


def is_short(query: Tensor, key: Tensor) -> bool:
    """Vero per le frasi corte di un addestramento su CPU: con i gradienti, al più 32 × 32 pesi.

    Quanto siano corte si è misurato: lì il kernel fuso spende più a dividersi il lavoro che a
    farlo. In mezza precisione no: i punteggi sono al sicuro soltanto dentro il kernel.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return False
    few = query.size(-2) * key.size(-2) <= SHORT
    return few and query.dtype.itemsize >= 4 and query.device.type == "cpu"


def short_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool
) -> Tensor:
    """L'eq. (1) alla lettera, per argomenti già controllati."""
    scores = query @ key.mT / math.sqrt(query.size(-1))
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool).tril()
    weights = row_softmax(scores) if mask is None else masked_softmax(scores, mask)
    return weights @ value


def spread(tensor: Tensor, width: int, batch: tuple[int, ...]) -> Tensor:
    """Una matrice larga `width` per ogni elemento del batch, in quattro dimensioni."""
    if tensor.dim() == 4 and tensor.shape[:-2] == batch and tensor.size(-1) == width:
        return tensor
    return four_dimensional(widen(tensor, width).expand(*batch, -1, -1), batch)


def widen(tensor: Float[Tensor, "... rows columns"], width: int) -> Float[Tensor, "... rows wide"]:
    """Colonne di zeri fino a `width`: il kernel fuso vuole tre matrici della stessa larghezza.

    Colonne nulle non cambiano i prodotti scalari, e nell'uscita si tagliano via.
    """
    missing = width - tensor.size(-1)
    return F.pad(tensor, (0, missing)) if missing else tensor


def four_dimensional(tensor: Tensor, batch: tuple[int, ...]) -> Tensor:
    """Porta le dimensioni di batch a due, come le vuole il kernel fuso: [batch, teste, righe, ...].

    Quando sono di meno ne aggiunge di lunghe 1, senza copiare nulla.
    """
    if len(batch) > 2:
        tensor = tensor.expand(*batch, *tensor.shape[-2:]).flatten(0, len(batch) - 2)
    while tensor.dim() < 4:
        tensor = tensor.unsqueeze(0)
    return tensor


def check_problem(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool
) -> tuple[int, ...]:
    """Tutti gli argomenti del kernel fuso. Restituisce il batch comune."""
    batch = check_value(key, value, check_query_key(query, key))
    m, n = query.size(-2), key.size(-2)
    if mask is not None:
        given = "una maschera insieme a causal=True"
        require(not causal, "mask", given, "una delle due")
        check_mask(mask, (*batch, m, n))
    require(not causal or m == n, "causal", f"{m} query e {n} key", "tante query quante key")
    return batch


def check_query_key(query: Tensor, key: Tensor) -> tuple[int, ...]:
    """Query e key dello stesso tipo e della stessa larghezza. Restituisce il batch comune."""
    check_float(query, "query")
    check_like(key, "key", query, "query")
    d_k = query.size(-1)
    require(d_k > 0, "query", "d_k = 0", "d_k almeno 1")
    require(key.size(-1) == d_k, "key", f"larghezza {key.size(-1)}", f"{d_k}, come query")
    require(key.size(-2) > 0, "key", "nessuna riga", "almeno una key")
    return common_batch(query.shape[:-2], key, "key")


def check_value(key: Tensor, value: Tensor, batch: tuple[int, ...]) -> tuple[int, ...]:
    """Un value per ogni key. Restituisce il batch comune."""
    check_like(value, "value", key, "key")
    n = key.size(-2)
    require(value.size(-2) == n, "value", f"{value.size(-2)} righe", f"{n}, una per key")
    return common_batch(batch, value, "value")


def check_mask(mask: Tensor, shape: tuple[int, ...]) -> None:
    """La maschera è logica e si estende alla forma dei punteggi."""
    kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
    require(kind == torch.bool, "mask", kind, "un tensore torch.bool (vero = guarda)", TypeError)
    expected = f"una forma estendibile a {list(shape)}"
    require(extends_to(mask.shape, shape), "mask", mask.shape, expected)


def check_float(tensor: Tensor, argument: str) -> None:
    """Un tensore in virgola mobile con almeno righe e colonne."""
    kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
    require(kind in FLOAT_DTYPES, argument, kind, FLOAT_TENSOR, TypeError)
    require(tensor.dim() >= 2, argument, tensor.shape, "almeno [righe, colonne]")


def check_like(tensor: Tensor, argument: str, other: Tensor, other_argument: str) -> None:
    """Un tensore in virgola mobile, dello stesso tipo di un altro."""
    check_float(tensor, argument)
    expected = f"{other.dtype}, come {other_argument}"
    require(tensor.dtype == other.dtype, argument, tensor.dtype, expected, TypeError)


def common_batch(batch: tuple[int, ...], tensor: Tensor, argument: str) -> tuple[int, ...]:
    """Le dimensioni di batch comuni a `batch` e a un tensore, se si accordano."""
    if tensor.shape[:-2] == batch:
        return batch
    try:
        return torch.broadcast_shapes(batch, tensor.shape[:-2])
    except RuntimeError as error:
        given, expected = list(tensor.shape[:-2]), f"un batch che si accordi con {list(batch)}"
        raise ValueError(f"{argument}: dato: un batch {given}; atteso: {expected}") from error


def extends_to(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Vero se un tensore di forma `shape` si estende a `target` senza ingrandirlo."""
    tail = target[len(target) - len(shape) :]
    return len(shape) <= len(target) and all(a in (1, b) for a, b in zip(shape, tail, strict=True))
