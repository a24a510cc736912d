# Every target installs what it needs first. `make help` lists them.
PY := .venv/bin/python
BUILD ?= cpu
export PYTHON UV

.DEFAULT_GOAL := help
.PHONY: help install demo test check bench overhead load accept lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

install:  ## set up .venv from the hashed lock (BUILD=cuda for GPUs); a no-op when done
	@scripts/install.sh $(BUILD)

demo: install  ## start a small cluster, ingest Python's documentation, ask twice; the cluster stays up
	$(PY) -m mygo.cli demo $(ARGS)

test: install  ## unit tests, then the tests that start real engines and real clusters
	$(PY) -m pytest tests/unit -m "not engine and not ray and not gpu and not slow" \
		-n auto --maxprocesses 8 --dist worksteal --durations 8
	$(PY) -m pytest tests -m "(engine or ray) and not slow" --durations 12

check: install  ## lint, format, strict types, import contracts, architecture tests
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	.venv/bin/lint-imports
	$(PY) -m pytest tests/unit/test_architecture.py

accept: install  ## the acceptance run: exactness, routing, faults, bad input (tens of minutes)
	$(PY) -m benchmarks.accept

bench: install  ## vLLM, vLLM with prefix caching and MyGO on one trace, with a table and plots (ARGS=--full: all, hours)
	$(PY) -m benchmarks $(ARGS)

overhead: install  ## cost of the control plane per request, beside an empty Ray Serve app
	$(PY) -m benchmarks.overhead

load: install  ## load tests of a running cluster (URL=http://..., ARGS=--help), or without URL of an emulated one
	$(PY) -m benchmarks.load$(if $(URL), $(URL),.emulated) $(ARGS)

lock: install  ## resolve pyproject.toml into requirements/*.lock again (needs uv)
	scripts/lock.sh

clean:  ## remove .venv and every cache of the checkout (not models or data)
	rm -rf .venv build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
	find mygo tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
