# The same commands that people and CI call.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: test check demo clean

$(STAMP): pyproject.toml
	@echo "== setting up $(VENV) with $$($(PYTHON) --version)"
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev,litert]'
	@touch $@

test: $(STAMP)
	@echo "== running the tests"
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered

check: $(STAMP)
	@echo "== format, lint, types, layers"
	$(BIN)/ruff format --check agent converter tests
	$(BIN)/ruff check agent converter tests
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: $(STAMP)
	@echo "== the demo: this machine's own counters, a real disturbance, a real alert"
	$(BIN)/redshank demo

clean:
	rm -rf $(VENV) build dist *.egg-info
