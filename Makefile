# Two commands do everything: `make demo` (set up, run the embedded default to its report) and `make test` (set up, all tests).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PEERS := .venv-peers
PEERS_STAMP := $(PEERS)/.installed

SLURM_STAMP := $(VENV)/.installed-slurm

.PHONY: demo test lint peers test-peers test-slurm clean
.DEFAULT_GOAL := demo

demo: $(STAMP)
	$(BIN)/snakemake --cores all
	@echo "Open results/tiny/report/summary.html"

test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --durations=25 tests/unit
	$(BIN)/python -m pytest -v --durations=60 -n 2 --dist loadfile tests/workflow
	$(BIN)/python -m pytest -v --durations=20 tests/faults

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules workflow/Snakefile
	$(BIN)/snakemake --lint

# An exact torch is asked for by name, so that a local CPU build serves where there is one.
$(STAMP): pyproject.toml envs/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c envs/constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c envs/constraints.txt -e ".[test]"
	touch $@

# Every rule through a real SLURM that is started for it, as root on Debian or Ubuntu; elsewhere it says why it is left out.
test-slurm: $(SLURM_STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -v -rs --durations=0 tests/slurm

$(SLURM_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -c envs/constraints.txt -e ".[test,slurm]"
	touch $@

# sae-lens, eai-sparsify and dictionary-learning, in an environment of their own beside an editable install of ours.
peers: $(PEERS_STAMP)

test-peers: $(PEERS_STAMP)
	OMP_NUM_THREADS=1 $(PEERS)/bin/python -m pytest -q tests/peers

$(PEERS_STAMP): pyproject.toml envs/constraints.txt envs/peers.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet -c envs/constraints.txt torch==2.13.0
	$(PEERS)/bin/python -m pip install --quiet -c envs/constraints.txt -e ".[test]"
	$(PEERS)/bin/python -m pip install --quiet --no-deps -r envs/peers.txt
	touch $@

clean:
	rm -rf $(VENV) $(PEERS) .snakemake
