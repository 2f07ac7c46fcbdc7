# Everything a newcomer needs: `make demo` builds and proves a small model, `make test` passes the tests.
# Locum runs from a virtual environment of its own with the versions in constraints.txt.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

# PyTorch's usual build for Linux carries gigabytes of CUDA; where no NVIDIA card could use it, its build for processors
# is taken from PyTorch's own index, and the usual one only where that cannot be reached.
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)
CPU_TORCH := $(shell test "$$(uname -s)" = Linux -a ! -e /proc/driver/nvidia/version && echo 'torch==$(TORCH)+cpu')

.PHONY: help demo test check optimised bench docs clean

help:
	@echo "make demo    build, prove and bundle a prompt-injection guard on real data (at most 6 minutes, install included)"
	@echo "make test    install what the tests need and run them (about 12 minutes on two cores after the downloads)"
	@echo "make check   lint, types, layers, budgets, generated documentation"
	@echo "make optimised  the tests of what must be refused, as python -O runs them"
	@echo "make bench   measure everything the README claims (hours; see bench/README.md)"
	@echo "make docs    write the generated documentation again"

$(VENV)/.demo: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	@echo "installing Locum with its training extra (several hundred MB the first time)…"
	@test -z "$(CPU_TORCH)" || $(PIP) -qq --retries 1 --no-deps --extra-index-url https://download.pytorch.org/whl/cpu '$(CPU_TORCH)' \
	  || echo "PyTorch's build for processors cannot be reached: taking the usual one, several GB"
	$(PIP) --editable '.[train]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	$(PIP) --editable '.[train,dev]'
	@touch $@

demo: $(VENV)/.demo
	$(BIN)/locum build examples/prompt-guard/task.yaml --out runs/prompt-guard

test: $(VENV)/.dev
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/python tools/check_budgets.py
	$(BIN)/python tools/write_docs.py --check

# python -O drops asserts in the code; pytest rewrites those of the tests, so they still count.
optimised: $(VENV)/.dev
	PYTHONOPTIMIZE=1 $(BIN)/python -m pytest -W "ignore:assertions not in test modules" --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder \
	  tests/schema tests/bundle/test_verify.py tests/bundle/test_operator_llm.py \
	  tests/data/test_faults.py tests/runtime/test_gguf_check.py tests/runtime/test_safetensors_check.py \
	  tests/runtime/test_model_files.py tests/runtime/test_grammar_check.py tests/sources/test_archive.py \
	  tests/sources/test_wheel.py tests/gateway/test_access.py tests/gateway/test_requests.py tests/cascade/test_policy.py

bench: $(VENV)/.dev
	$(BIN)/python bench/run_all.py

docs: $(VENV)/.dev
	$(BIN)/python tools/write_docs.py

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache
