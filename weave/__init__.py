"""Il telaio: mette sulle pagine il codice, definizione per definizione, e tiene il patto.

`fragments` divide un modulo in definizioni con un nome; `house` sa dove stanno pagine, moduli e
test; `fences` sono i riquadri delle pagine; `pact` controlla che ogni riga di codice stia su una
pagina, una volta; `glossary` segna i termini alla prima comparsa; `questions` raccoglie le domande
del lettore e le false credenze; `measurements` porta sulle pagine i risultati dei benchmark.
"""
