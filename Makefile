.PHONY: quickstart test lint type wheel
PYTHON ?= python3
DIRS = core tokenizer generative ranking baselines eval
.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --upgrade pip  # dependency groups need pip >= 25.1
	.venv/bin/pip install --quiet --constraint constraints.txt -e . --group dev
	touch $@
quickstart: .venv/ready  # command 1 of the README
	.venv/bin/dasrec run configs/quickstart.yaml --out runs/quickstart
test: .venv/ready        # command 2 of the README, and what .ci/run calls
	.venv/bin/python -m pytest -m "not slow and not gpu"
lint: .venv/ready ; .venv/bin/ruff check . && .venv/bin/ruff format --check .
type: .venv/ready ; .venv/bin/mypy $(DIRS) tests
wheel: .venv/ready ; rm -rf dist && .venv/bin/python -m build && .venv/bin/python tests/check_wheel.py dist/*.whl
