# The same commands that people and CI call.
PYTHON ?= python3
VENV ?= .venv
CONVERTER_VENV ?= .venv-converter
EXTRAS := dev,litert
CONVERTER_EXTRAS := converter,onnx,keras,dev
BIN := $(VENV)/bin
CONVERTER_BIN := $(CONVERTER_VENV)/bin
STAMP := $(VENV)/.installed
CONVERTER_STAMP := $(CONVERTER_VENV)/.installed
# Versions that CI was green with, where they are known for this Python; the newest where they are not.
CONSTRAINTS := $(wildcard deploy/constraints-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt)
# Empty: not measured, which is faster.
COVERAGE := --cov=agent --cov-report=term:skip-covered
CONVERTER_CONSTRAINTS := deploy/constraints-converter-3.11.txt

.PHONY: faults fuzz test test-converter test-packages check sbom demo demo-images bench soak deb lock clean

# $(call install,VENV,EXTRAS,CONSTRAINTS)
define install
	$(1)/bin/python -m pip install --quiet --upgrade $(addprefix --constraint ,$(3)) pip hatchling
	$(1)/bin/python -m pip install --quiet --no-build-isolation $(addprefix --constraint ,$(3)) --editable '.[$(2)]'
endef

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@echo "== setting up $(VENV) with $$($(PYTHON) --version)"
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(call install,$(VENV),$(EXTRAS),$(CONSTRAINTS))
	@touch $@

# TFLite's quantizer and tflite-runtime meet on Python 3.11 only.
$(CONVERTER_STAMP): pyproject.toml $(CONVERTER_CONSTRAINTS)
	@echo "== setting up $(CONVERTER_VENV): PyTorch, the converter and the quantizer; this takes minutes"
	@test -d $(CONVERTER_VENV) || { python=$$(.ci/find-python 3.11) && $$python -m venv $(CONVERTER_VENV); }
	$(call install,$(CONVERTER_VENV),$(CONVERTER_EXTRAS),$(CONVERTER_CONSTRAINTS))
	@touch $@

test: $(STAMP)
	@echo "== running the tests"
	COVERAGE_FILE=$(abspath $(VENV))/.coverage $(BIN)/python -m pytest -m "not converter and not bench" $(PYTEST_ARGS) $(COVERAGE)
	$(if $(COVERAGE),COVERAGE_FILE=$(abspath $(VENV))/.coverage $(BIN)/coverage report --include='agent/core/*' --fail-under=100)

test-converter: $(CONVERTER_STAMP)
	@echo "== running the converter's tests"
	COVERAGE_FILE=$(abspath $(CONVERTER_VENV))/.coverage $(CONVERTER_BIN)/python -m pytest tests/converter \
		--cov=converter --cov-report=term:skip-covered --cov-fail-under=90 $(PYTEST_ARGS)

check: $(STAMP)
	@echo "== format, lint, types, layers"
	$(BIN)/ruff format --check agent converter tests .ci
	$(BIN)/ruff check agent converter tests .ci
	$(BIN)/mypy
	$(BIN)/lint-imports

demo: $(STAMP)
	@echo "== the demo: this machine's own counters, a real disturbance, a real alert"
	$(BIN)/redshank demo

demo-images: $(STAMP)
	@echo "== the demo of pictures: a camera, something taken away, a real alert with its heatmap; about 45 s"
	$(BIN)/redshank demo --images

FUZZ_SECONDS ?= 60
fuzz: $(STAMP)
	@echo "== fuzzing each target for $(FUZZ_SECONDS) s; what is found is kept in .fuzz"
	$(BIN)/python -m pip install --quiet $(addprefix --constraint ,$(CONSTRAINTS)) --editable '.[fuzz]'
	$(BIN)/python -m tests.fuzz --seconds $(FUZZ_SECONDS) $(FUZZ_TARGETS)

bench: $(STAMP)
	@echo "== the daemon beside a bare subscriber; about two minutes"
	$(BIN)/python -m tests.benchmarks

faults: $(STAMP)
	@echo "== faults done to the agent, its broker and the network, and what they cost; about an hour"
	$(BIN)/python -m tests.faults $(FAULT_ARGS)

soak: $(STAMP)
	@echo "== weeks of compressed time: memory, files, threads, state, bytes written; an hour and a half of one core of a fast server"
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.benchmarks.soak

deb:
	@echo "== Debian packages in dist/, each in about a minute"
	for release in 12 13; do for architecture in amd64 arm64; do deploy/debian/build $$architecture $$release dist || exit 1; done; done

test-packages:
	.ci/packages

sbom:
	@echo "== what the agent consists of, in dist/, and its known weaknesses; about two minutes"
	.ci/sbom

# Run CI with what this writes before it is committed.
lock:
	.ci/lock

clean:
	rm -rf $(VENV) $(CONVERTER_VENV) dist
