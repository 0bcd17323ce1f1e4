.PHONY: quickstart test lint type wheel check
PYTHON ?= python3
DIRS = core tokenizer generative ranking baselines eval

# Versions are those of constraints.txt. TORCH_INDEX chooses the build of torch, e.g.
#   make quickstart TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip  # dependency groups need pip >= 25.1
	.venv/bin/pip install --quiet --constraint constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	.venv/bin/pip install --quiet --constraint constraints.txt -e . --group dev
	touch $@

quickstart: .venv/ready  ## install, then the whole system on generated data
	.venv/bin/dasrec run configs/quickstart.yaml --out runs/quickstart

test: .venv/ready  ## install, then the tests
	.venv/bin/python -m pytest -q -m "not slow and not gpu"

lint: .venv/ready
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .

type: .venv/ready
	.venv/bin/mypy $(DIRS) tests benchmarks

wheel: .venv/ready
	rm -rf dist
	.venv/bin/python -m build
	.venv/bin/python tests/check_wheel.py dist/*.whl

check: lint type test wheel
