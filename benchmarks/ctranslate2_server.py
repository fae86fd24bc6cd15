"""CTranslate2 in un processo suo: `python -m benchmarks.ctranslate2_server CARTELLA THREAD`.

Legge una frase per riga, in JSON, e risponde con i token generati. Nello stesso processo di
PyTorch no: i thread di CTranslate2 e i suoi finirebbero nello stesso OpenMP, che quando conta più
thread che core li addormenta a ogni ciclo parallelo, e i due si rallentano a vicenda.
"""

import json
import sys

from ctranslate2 import Translator


def main(folder: str, threads: str) -> None:
    """Risponde a ogni riga finché ce ne sono."""
    translator = Translator(folder, intra_threads=int(threads))
    for line in sys.stdin:
        words = json.loads(line)
        limits = {"min_decoding_length": len(words), "max_decoding_length": len(words)}
        (found,) = translator.translate_batch([words], beam_size=1, **limits)
        print(json.dumps(found.hypotheses[0]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
