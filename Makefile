# make demo: install and run the main job on real digits.  make test: install and run the tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test docs benchmark clean

demo: .venv/ready
	$(BIN)/python -m scoresde demo

test: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"
	$(BIN)/python -m pytest -n 2 --dist worksteal -m slow

docs: .venv/ready
	$(BIN)/python -m sphinx -q -W -b html docs docs/_build

benchmark: .venv/ready
	$(BIN)/python experiments/benchmark_solve.py

.venv/ready: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[test,bench]"
	touch $@

clean:
	rm -rf .venv
