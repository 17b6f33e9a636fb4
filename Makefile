# `make chat` talks to the shipped checkpoint, `make serve` serves it, `make test` runs all checks.
# All make their own virtual environment in .venv; nothing outside this folder is touched.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# constraints.txt pins what this repository is developed with, so that an installation never pulls another torch.
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt
SOURCES := engine niels_gpt sessions verifier tests tools bench examples

.PHONY: chat serve test check train format clean

# MODEL=NAME talks to a model that `niels-chat models get NAME` knows, fetched first if it is not there yet.
chat: $(VENV)/.chat
	@$(if $(MODEL),$(BIN)/niels-chat models get $(MODEL) >/dev/null)
	@$(BIN)/niels-chat $(if $(MODEL),--ckpt $(MODEL)) $(ARGS)

# Many container images forbid Python to store bytecode; each of the many processes below would compile it again.
test check: export PYTHONDONTWRITEBYTECODE :=

# The kernels are compiled once, next to the static checks, and not by every test process for itself: for this
# processor, and for those whose results must be the same. Then one process a core, one thread each: threads inside
# of processes that share the cores only wait for each other.
test: $(VENV)/.dev
	@$(BIN)/python -m tests.kernels.elsewhere & compiling=$$!; \
	$(MAKE) --no-print-directory check && wait $$compiling
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --quiet --numprocesses auto --maxprocesses 8 --dist worksteal $(ARGS)

check: $(VENV)/.dev
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/pyright
	$(BIN)/lint-imports --no-cache

serve: $(VENV)/.serve
	@$(BIN)/niels-serve $(ARGS)

# The shipped model in one run: dialogues, training, the file without the optimizer, its score. DEVICE=cuda takes some
# minutes on an NVIDIA GPU. A run that was stopped continues with ARGS="--resume $(RUN)/latest.pt"; ARGS="--steps 20"
# tries all of it in a few minutes.
RUN ?= runs/primer
DEVICE ?= cpu
train: $(VENV)/.dev data/primer.txt data/primer.generated.txt
	$(BIN)/python -m niels_gpt.train --config configs/primer.json --out $(RUN) --device $(DEVICE) $(ARGS)
	$(BIN)/python -m niels_gpt.train.strip_checkpoint --ckpt $(RUN)/latest.pt --bfloat16 \
	  --out $(RUN)/niels-gpt.pt --card $(RUN)/niels-gpt.json
	$(BIN)/python -m niels_gpt.train.evaluate --ckpt $(RUN)/niels-gpt.pt

# Both are made from the same facts; only the first, a tenth of the dialogues, is part of the repository.
data/primer.txt: | $(VENV)/.dev
	$(BIN)/python tools/generate_primer.py --out $@ --seed 42 --n-per-category 1000 --shuffle

data/primer.generated.txt: $(wildcard data/primer/*.json tools/*primer*.py) | $(VENV)/.dev
	$(BIN)/python tools/generate_primer.py --out $@ --seed 43 --n-per-category 12000 --shuffle

format: $(VENV)/.dev
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "niels-gpt needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." \
	         "Run: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Making a virtual environment in $(VENV)/"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.chat: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing what the chat needs (once, a few minutes: most of it is torch)"
	@$(PIP) --editable .
	@$(BIN)/python -m niels_gpt.decoding.compile
	@touch $@

$(VENV)/.serve: $(VENV)/.chat
	@echo "Installing what the server needs (once)"
	@$(PIP) --editable '.[serve]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing what the checks need (once, a few minutes: most of it is torch)"
	@$(PIP) --editable '.[dev]'
	@touch $@ $(VENV)/.chat $(VENV)/.serve
