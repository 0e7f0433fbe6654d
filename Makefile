# Every task of the project; each makes the environment it needs in .venv and reuses it.

VENV := .venv
BIN := $(VENV)/bin
DEMO := .demo
MODEL := models/cifar_resnet20.onnx
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Python 3.10 to 3.13 with venv and pip; `make PYTHON=/path/to/python test` names one.
CANDIDATES := $(PYTHON) python3 python3.13 python3.12 python3.11 python3.10 python
DISTILL_VENV := .venv-distill
# Pinned, so that an index of builds without CUDA has its say before the newest one with it.
TORCH := torch==2.13.0
SUITABLE := import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 14))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-distill check bench zoo new-rule catalogue wheel clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.ready ## optimize a real model, prove it, time it
	@mkdir -p $(DEMO)
	$(BIN)/onnxopt optimize $(MODEL) -o $(DEMO)/cifar_resnet20.onnx

test: $(VENV)/.ready-dev ## run all tests
	$(BIN)/python -m pytest

test-distill: $(DISTILL_VENV)/.ready ## test what needs torch, in an environment of its own
	$(DISTILL_VENV)/bin/python -m pytest tests/distill

check: $(VENV)/.ready-dev ## format, lint, types, tests, catalogue and wheel contents
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m onnxopt.catalogue --check rules/README.md
	$(BIN)/python -m pytest

bench: $(VENV)/.ready-bench ## SECTION=nodes, quantize, prune … or nothing: measure beside others
	$(BIN)/python -m tests.benchmarks $(SECTION)

zoo: $(VENV)/.ready-dev ## fetch more real models into .zoo
	$(BIN)/python models/fetch.py .zoo

new-rule: $(VENV)/.ready-dev ## NAME=fuse_silu: start a rule and its case file
	@$(BIN)/python tests/new_rule.py "$(NAME)"

catalogue: $(VENV)/.ready-dev ## write rules/README.md from the rules
	$(BIN)/python -m onnxopt.catalogue rules/README.md

wheel: $(VENV)/.ready-dev ## build dist/*.whl through the source distribution
	rm -rf build dist
	$(BIN)/python -m build --outdir dist

clean: ## remove the environment and everything built
	rm -rf $(VENV) $(DISTILL_VENV) $(DEMO) .bench .zoo build dist *.egg-info

$(BIN)/python:
	@for python in $(CANDIDATES); do \
	  if "$$python" -c '$(SUITABLE)' >/dev/null 2>&1; then found=$$python; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "onnxopt needs Python 3.10 to 3.13 with venv and pip (on Debian: apt install python3-venv)."; \
	  echo "If you have one elsewhere: make PYTHON=/path/to/python $(MAKECMDGOALS)"; exit 1; \
	fi; \
	echo "Making $(VENV) with $$("$$found" --version)"; "$$found" -m venv --clear $(VENV)

$(VENV)/.ready: pyproject.toml | $(BIN)/python
	@echo "Installing onnxopt into $(VENV)"
	@$(PIP) --editable . && touch $@

$(VENV)/.ready-%: pyproject.toml | $(BIN)/python
	@echo "Installing onnxopt with its $* tools into $(VENV)"
	@$(PIP) --editable '.[$*]' && touch $@ $(VENV)/.ready

$(DISTILL_VENV)/.ready: pyproject.toml | $(BIN)/python
	@echo "Installing onnxopt with torch into $(DISTILL_VENV)"
	@$(BIN)/python -m venv --clear $(DISTILL_VENV)
	@$(DISTILL_VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	  --editable '.[dev]' $(TORCH) && touch $@
