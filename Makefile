# I comandi della casa. `make` da solo li elenca; ognuno prepara prima l'ambiente che gli serve.

# Il primo Python che basta. Se nessuno basta, python3: sarà lui a dire che cosa manca.
PYTHON ?= $(firstword $(foreach python,python3 python3.13 python3.12 python3.11,\
	$(if $(shell $(python) weave/prerequisites.py 2>/dev/null && echo basta),$(python))) python3)
PORT ?= 8000

# L'ambiente è per CPU, salvo CUDA=1; resta poi quello che è, fino a `make clean`.
BUILD := $(if $(filter 1,$(CUDA))$(wildcard .venv/cuda),cuda,cpu)
READY := .venv/$(BUILD)
RUN := .venv/bin/python -m

export NO_MKDOCS_2_WARNING := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help serve test site check bench clean

help:
	@echo "make serve   mostra il sito su http://127.0.0.1:8000 e lo ricostruisce a ogni modifica"
	@echo "make test    esegue tutti i test"
	@echo "make check   stile, tipi, patto fra pagine e codice, costruzione stretta del sito"
	@echo "make site    costruisce il sito in site/, senza tollerare avvisi"
	@echo "make bench   esegue i benchmark e ne pubblica i risultati in benchmarks/results/"
	@echo "make clean   toglie tutto ciò che make ha prodotto, ambiente compreso"
	@echo
	@echo "PORT=8001    un'altra porta per il sito"
	@echo "CUDA=1       PyTorch con CUDA invece che per CPU"
	@echo "PYTHON=...   il Python con cui creare l'ambiente, se quello trovato non va"

serve: $(READY)
	@.venv/bin/python weave/prerequisites.py $(PORT)
	$(RUN) mkdocs serve --dev-addr 127.0.0.1:$(PORT)

# Un file di test per volta su ogni core, fino a quattro, con un thread ciascuno.
test: .venv/compilers
	OMP_NUM_THREADS=1 $(RUN) pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

site: $(READY)
	$(RUN) mkdocs build --strict

check: $(READY)
	$(RUN) ruff check
	$(RUN) ruff format --check
	$(RUN) mypy
	$(RUN) weave
	$(RUN) mkdocs build --strict

bench: .venv/peers
	$(RUN) benchmarks.publish

clean:
	rm -rf .venv build site *.egg-info .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Da PyPI, su Linux, torch arriva con alcuni GB di CUDA: chi non lo chiede prova prima l'indice
# delle versioni per CPU. Se l'indice non risponde, provvede il passo seguente.
CPU_INDEX := https://download.pytorch.org/whl/cpu

$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || \
		{ echo "Non trovo Python: installa Python 3.11 o successivo (https://www.python.org)." >&2; exit 1; }
	@$(PYTHON) weave/prerequisites.py
	@echo "Preparo l'ambiente in .venv: una volta sola, circa 1,6 GB e uno o due minuti."
	@$(PYTHON) -m venv --clear .venv
ifeq ($(BUILD)-$(shell uname -s),cpu-Linux)
	@$(RUN) pip install --no-deps --timeout 10 --retries 1 --index-url $(CPU_INDEX) \
		--constraint constraints.txt torch 2>/dev/null || \
		echo "L'indice CPU di PyTorch non risponde: torch arriverà da PyPI, forse con CUDA."
endif
	@$(RUN) pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

# I compilatori per GPU, che servono solo ai test: altri 900 MB, su Linux.
.venv/compilers: $(READY)
	@$(RUN) pip install --constraint constraints.txt --editable '.[compilers]'
	@touch $@

# Le librerie con cui i benchmark si confrontano.
.venv/peers: $(READY)
	@$(RUN) pip install --constraint constraints.txt --editable '.[peers]'
	@touch $@
