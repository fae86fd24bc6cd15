"""`python -m weave`: controlla patto, domande e indici su tutta la casa, e stampa i reclami."""

import sys

from weave.pact import check_house
from weave.questions import check_questions


def main() -> int:
    """Stampa i reclami; torna 1 se ce ne sono."""
    complaints = [*check_house(), *check_questions()]
    for complaint in complaints:
        print(complaint)
    print(
        "Il patto è rotto." if complaints else "Il patto tiene: ogni definizione è su una pagina."
    )
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
