# `make help` lists what there is. A new machine needs Python 3.11+, git, make and gcc.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= torch==2.13.0
export TOKENIZERS_PARALLELISM := false

.PHONY: help install dev setup-ci sweep slurm-demo soak test test-slow check format bench gpu-check data paper clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$(TORCH)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(VENV)/.installed ## .venv with the program
dev: $(VENV)/.installed-dev ## .venv with the program and what its tests need

SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)
SLURM := slurmctld slurmd slurm-client slurmdbd slurm-wlm-mysql-plugin mariadb-server-core mariadb-client-core

setup-ci: ## system packages that the slow tests need: a real Slurm, started by tests only (Debian, as root)
	@for program in slurmctld slurmdbd mariadbd; do \
	  PATH="$$PATH:/usr/sbin" command -v $$program >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then \
	  $(SUDO) apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -qq --no-install-recommends $(SLURM); fi

sweep: install ## the first sweep: two editors, three edit counts, eight tasks, a report; minutes
	$(BIN)/python launch.py -m editor=rome,memit num_edits=1,10,100

slurm-demo: dev ## watch the first sweep on a small Slurm of this machine's own: needs make setup-ci; minutes
	$(BIN)/python scripts/slurm_demo.py

test: dev ## the test suite without the slow part
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu" -q

test-slow: dev ## kills, processes, whole sweeps
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not gpu" -q

soak: dev ## 500 cells on a small Slurm with random kills: none lost, none twice; needs make setup-ci; a quarter of an hour
	$(BIN)/python scripts/soak.py

check: dev ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: dev ## rewrite the code in the project's format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: dev ## seconds per edit, tokens per second, peak memory; tasks against lm_eval.simple_evaluate
	$(BIN)/python scripts/bench.py
	$(BIN)/python scripts/bench_tasks.py

gpu-check: dev ## every editor on CUDA against the CPU, then large shapes; fails, and says so, without a GPU
	$(BIN)/python scripts/gpu_check.py --write

data: install ## bring data for machines without a network: make data TASK=paper8 MODEL=gpt2-xl DATASET=counterfact MOMENTS=quick [TO=FOLDER]
	$(BIN)/edit-sweeps data fetch $(addprefix --model ,$(MODEL)) $(addprefix --task ,$(TASK)) \
	  $(addprefix --dataset ,$(DATASET)) $(addprefix --moments ,$(MOMENTS)) $(addprefix --to ,$(TO))

paper: install ## the paper's figures, line by line, then tables: make paper MODEL=gpt2-xl [FIGURES=paper_sequential,rect] [OPTIONS="moments=quick"]
	$(BIN)/python scripts/paper.py run $(addprefix --model ,$(MODEL)) $(addprefix --figures ,$(FIGURES)) $(OPTIONS)

clean: ## caches; never outputs/
	rm -rf .mypy_cache .ruff_cache .pytest_cache .import_linter_cache build dist
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
