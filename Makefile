# Everything happens in .venv, which is made from python3 (3.11 or newer).
PYTHON ?= python3
export PIP_DISABLE_PIP_VERSION_CHECK := 1
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# The demo needs a third of what developers need; where theirs is installed, it has all of it.
DEMO := $(if $(wildcard $(STAMP)),$(STAMP),$(VENV)/.demo)

.PHONY: demo test check bench jaeger clean

demo: $(DEMO)  ## run real events through a real cascade on this machine
	$(BIN)/setsuden demo

test: $(STAMP)  ## run all tests
	$(BIN)/python -m pytest

check: $(STAMP)  ## format, lint, types, import contracts, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m setsuden.cli.export_schemas --check

bench: $(STAMP)  ## print every benchmark's JSON lines and keep them
	for script in agent site worker tracing energy models accounts; do \
	  $(BIN)/python benchmarks/$$script.py | tee -a benchmarks/results.jsonl || exit 1; done

jaeger:  ## build Jaeger once, into the user's cache folder (3 to 7 minutes)
	$(PYTHON) infra/jaeger/build.py

clean:  ## remove what make made
	rm -rf $(VENV) dist build setsuden-demo

$(STAMP): EXTRA := dev
$(VENV)/.demo: EXTRA := demo
$(STAMP) $(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRA)]'
	touch $@
