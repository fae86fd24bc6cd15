"""Che cosa serve prima di cominciare, e che cosa fare se manca.

`python weave/prerequisites.py` controlla il Python che lo esegue; con un numero di porta, che la
porta sia libera. Chi legge può avere un Python vecchio: per potersi lamentare, questo file resta
nella lingua di Python 3.6 e non importa nulla della casa.
"""

import importlib.util
import socket
import sys

OLDEST = (3, 11)
"""Il Python più vecchio con cui la casa si apre."""

HOST = "127.0.0.1"
"""Dove `make serve` mostra il sito: su questa macchina soltanto."""


def old_python(version: "tuple[int, int]", executable: str) -> str:
    """La frase per un Python troppo vecchio; vuota se il Python va bene."""
    if version >= OLDEST:
        return ""
    found, needed = ("{}.{}".format(*pair) for pair in (version, OLDEST))
    return (
        f"Serve Python {needed} o successivo, e {executable} è alla versione {found}: installane "
        f"uno recente, o di' dove si trova con «make serve PYTHON=/percorso/di/python{needed}»."
    )


def no_venv(version: "tuple[int, int]") -> str:
    """La frase per un Python che non sa creare ambienti virtuali; vuota se sa farlo."""
    if all(importlib.util.find_spec(module) for module in ("venv", "ensurepip")):
        return ""
    package = "python{}.{}-venv".format(*version)
    return (
        "A questo Python manca il modulo venv, con cui si crea l'ambiente di lavoro: su Debian e "
        f"Ubuntu si installa con «sudo apt install {package}»."
    )


def busy_port(port: str) -> str:
    """La frase per una porta che non si può aprire; vuota se la porta è libera."""
    if not (port.isdecimal() and 0 < int(port) < 65536):
        return f"PORT={port} non è una porta: serve un numero fra 1 e 65535."
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((HOST, int(port)))
        except OSError:
            return (
                f"La porta {port} è già occupata o riservata: ferma il programma che la usa, o "
                "scegline un'altra, per esempio «make serve PORT=8001»."
            )
    return ""


def main() -> int:
    """Scrive la prima mancanza, se c'è, e torna 1; altrimenti tace e torna 0."""
    version = (sys.version_info[0], sys.version_info[1])
    if len(sys.argv) > 1:
        complaint = busy_port(sys.argv[1])
    else:
        complaint = old_python(version, sys.executable) or no_venv(version)
    if complaint:
        print(complaint, file=sys.stderr)
    return 1 if complaint else 0


if __name__ == "__main__":
    sys.exit(main())
