"""Un concorrente in più, su GPU: la stessa funzione dopo `torch.compile`.

Compilare costa secondi, perciò si prova una forma sola per file, dove c'è molto da fondere.
"""

import warnings
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.stopwatch import DEVICE, Run

NAME = "torch.compile"
"""Il nome del concorrente."""


def compiled(function: Callable[..., Any], *arguments: Any) -> dict[str, Run]:
    """Il concorrente compilato, già provato una volta; nessuno su CPU, o se non si compila.

    Argomenti:
        function: ciò che si compila.
        arguments: gli argomenti con cui lo si chiama; le forme sono fissate a queste.

    Restituisce:
        Un dizionario con una voce, o vuoto; se non si compila, un avviso dice perché.
    """
    if DEVICE == "cpu":
        return {}
    try:
        fast = torch.compile(function, dynamic=False, options={"compile_threads": 1})
        fast(*arguments)
    except Exception as error:
        reason = str(error).partition("\n")[0]
        warnings.warn(f"Non misurato {NAME}: {type(error).__name__}: {reason}", stacklevel=2)
        return {}
    return {NAME: lambda: fast(*arguments)}
