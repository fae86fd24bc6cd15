"""CTranslate2 in un processo suo: `python -m benchmarks.ctranslate2_server CARTELLA THREAD`.

Legge una domanda per riga, in JSON: le frasi, tutte della stessa lunghezza, e quante ipotesi
portare avanti. Risponde con i token generati, tanti quanti quelli della sorgente. Nello stesso
processo di PyTorch no: i thread di CTranslate2 e i suoi finirebbero nello stesso OpenMP, che quando
conta più thread che core li addormenta a ogni ciclo parallelo, e i due si rallentano a vicenda.
"""

import json
import sys

from ctranslate2 import Translator


def main(folder: str, threads: str) -> None:
    """Risponde a ogni riga finché ce ne sono."""
    translator = Translator(folder, intra_threads=int(threads))
    for line in sys.stdin:
        sentences, beam = json.loads(line)
        length = len(sentences[0])
        limits = {"min_decoding_length": length, "max_decoding_length": length}
        found = translator.translate_batch(sentences, beam_size=beam, **limits)
        print(json.dumps([result.hypotheses[0] for result in found]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
