# Two commands for newcomers: `make demo` and `make test`. Everything is installed into .venv;
# only `make clients` has an environment of its own.

PYTHON ?= python3
VENV := .venv
CLIENTS := .venv-clients
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := core kernels plugins resolvers examples tests

MODEL := examples/demo/loramux-demo
ADAPTERS := examples/demo/adapters

.PHONY: help demo serve test clients coverage check lint types layers format bench clean

help: ## show what can be made
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(PIP_INSTALL) -e '.[test]'
	touch $@

demo: $(VENV)/installed ## serve the shipped model, ask for adapters nobody registered, print what happened
	$(BIN)/python examples/demo/show.py

serve: $(VENV)/installed ## the same server, left running
	PLUGINS=lora_filesystem_resolver LORAMUX_LORA_RESOLVER_CACHE_DIR=$(ADAPTERS) \
		$(BIN)/loramux serve $(MODEL) --served-model-name loramux-demo \
		--enable-lora --max-loras 8 --max-lora-rank 64

# Files of tests side by side; each process computes on one core.
test: check $(VENV)/installed-test ## all checks and all tests
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile

# LiteLLM pins the openai client lower than the rest does. Asked for together with it, the packages
# that use that client are resolved to versions that go with the pin.
$(CLIENTS)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt \
		-e '.[clients,test]'
	touch $@

clients: $(CLIENTS)/installed ## LangChain's and LiteLLM's clients against the server, in .venv-clients
	OMP_NUM_THREADS=1 $(CLIENTS)/bin/pytest tests/server/test_clients.py

coverage: $(VENV)/installed-test ## all tests, and which lines none of them runs
	$(BIN)/pytest --cov --cov-report=term:skip-covered

check: lint types layers ## style, types and the direction of imports

lint: $(VENV)/installed-test
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(VENV)/installed-test
	$(BIN)/mypy

layers: $(VENV)/installed-test
	PYTHONPATH=core:kernels:resolvers:plugins $(BIN)/lint-imports

format: $(VENV)/installed-test ## rewrite the code in the house style
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

bench: $(VENV)/installed-test ## what adapters cost, on a small random model
	$(BIN)/loramux bench

clean: ## remove everything that was installed or built
	rm -rf $(VENV) $(CLIENTS) dist build
