# Everyday commands. `make demo` and `make test` set themselves up on a machine with Python 3.11 or newer and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# what rounding may upset: run again by the arithmetic of processors without AVX-512, and of those without AVX2
NUMERICAL := tests/optim tests/attacks tests/analysis tests/transfer tests/training

.PHONY: demo test test-slow lint format venv clean

demo: $(INSTALLED)  ## the main job: six MNIST models, attacked once, shown to all
	$(BIN)/python sweeps/transfer_matrix.py --dataset mnist --models paper --split train --examples 1000 \
		--attack lbfgs --target random --out runs/demo

test: lint  ## lint, types, architecture, then the tests
	$(BIN)/pytest -q -m "not slow" -n 2 --dist loadfile --durations 20

test-slow: $(INSTALLED)  ## proofs that take minutes: clusters, chaos, whole data sets
	$(BIN)/pytest -q -m slow
	set -e; for capability in avx2 default; do ATEN_CPU_CAPABILITY=$$capability \
		$(BIN)/pytest -q -m "not slow" -n 2 --dist loadfile $(NUMERICAL); done

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

venv: $(INSTALLED)

# constraints.txt pins the versions that the published numbers were made with
$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find advlab benchmarks sweeps tests -name __pycache__ -prune -exec rm -rf {} +
