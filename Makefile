# `make demo` and `make test` need nothing but Python 3.11 (to 3.13) and this file: they set everything up in .venv.

BIN := .venv/bin
READY := .venv/.ready

# Compiled modules are what makes a command start in tenths of a second.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo demo-rollout test check servers notebooks bench bench-arena lock audit clean

# Two candidates of the sample service under real load: a healthy one that is GO, and one that must not pass.
demo: $(READY)
	$(BIN)/evaluator demo
	@echo
	$(BIN)/evaluator demo --regression endpoint --seconds 30; test $$? -eq 1

# A candidate goes through test, pre-production and production; a bad one is back at the first stage that can see it.
# One of them: evaluator demo rollout --strategy blue_green --regression hang
demo-rollout: $(READY)
	$(BIN)/evaluator demo rollout
	@echo
	$(BIN)/evaluator demo rollout --regression production-errors

test: check servers
	$(BIN)/pytest --numprocesses 4 --dist loadscope --no-loadscope-reorder

servers:
	.ci/install-servers

check: $(READY)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# Each notebook and the script of its name: the newer one brings the other up to date.
notebooks: $(READY)
	$(BIN)/jupytext --sync notebooks/*.py

bench: $(READY)
	@set -e; for script in benchmarks/*.py; do $(BIN)/python $$script; done

# The judge and its peers on simulated releases; takes a night and can be interrupted. A quick one: ARGS=--quick
bench-arena: $(READY)
	.venv/bin/uv pip install --quiet --python .venv/bin/python --group arena
	PYTHONPATH=tests $(BIN)/python -m arena $(ARGS)

# The versions that development installs, after a change in pyproject.toml; the newest of all of them: ARGS=--upgrade
lock: $(READY)
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-emit-index-url \
		--no-emit-find-links --custom-compile-command 'make lock' --all-extras --group dev $(ARGS) \
		--output-file requirements-dev.lock pyproject.toml

# Known vulnerabilities of what the lock names; asks the advisory database on the network.
audit: $(READY)
	$(BIN)/uvx --quiet pip-audit --strict --require-hashes --disable-pip --requirement requirements-dev.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist demo
	find . -name __pycache__ -prune -exec rm -rf {} +

$(READY): pyproject.toml requirements-dev.lock .ci/install
	.ci/install
	touch $@
