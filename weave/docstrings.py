"""Le docstring italiane per le pagine di riferimento: un'estensione di griffe.

Griffe legge le sezioni delle docstring con i titoli inglesi dello stile Google, e una voce per
nome. Qui si traducono i titoli, e una voce con più nomi diventa una voce per ciascuno.
"""

import re
from typing import Any

from griffe import Class, Extension, Object

TITLES = {
    "Argomenti:": "Args:",
    "Restituisce:": "Returns:",
    "Produce:": "Yields:",
    "Solleva:": "Raises:",
}
"""I titoli delle nostre docstring e quelli che griffe riconosce."""

FIELDS = "Attributes:"
"""Il titolo che griffe vuole per i campi di una `NamedTuple`."""

SEVERAL_NAMES = re.compile(r"^    (?P<names>\w+(?:, \w+)+):(?P<text>.*(?:\n {5,}\S.*)*)", re.M)
"""Una voce con più nomi (`query, key: come in ...`) e le righe su cui continua."""


class ItalianDocstrings(Extension):
    """Riscrive le docstring prima che griffe le divida in sezioni."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Griffe chiama qui ogni oggetto caricato."""
        if obj.docstring:
            docstring = in_google_style(obj.docstring.value)
            obj.docstring.value = docstring.replace("Args:", FIELDS) if is_tuple(obj) else docstring


def is_tuple(obj: Object) -> bool:
    """Vero per una `NamedTuple`, i cui argomenti per griffe sono attributi."""
    return isinstance(obj, Class) and any("NamedTuple" in str(base) for base in obj.bases)


def in_google_style(docstring: str) -> str:
    """La docstring con i titoli di sezione di griffe e un nome per voce."""
    lines = (TITLES.get(line, line) for line in docstring.splitlines())
    return SEVERAL_NAMES.sub(_one_each, "\n".join(lines))


def _one_each(entry: re.Match[str]) -> str:
    return "\n".join(f"    {name}:{entry['text']}" for name in entry["names"].split(", "))
