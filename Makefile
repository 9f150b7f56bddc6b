# The two commands: `make demo` and `make test`. Both make the same environment in .venv first, and
# a second run reuses it. ARGS goes to the command: make demo ARGS=--exit, make test ARGS="-k gate".

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
# The bundled Redis has wheels for 3.11 and 3.12; on later Pythons it is built with a C compiler.
PYTHON ?= $(firstword $(foreach p,python3 python3.12 python3.11 python3.13 python3.14,\
	$(if $(shell $(p) -c 'import sys, venv, ensurepip; print(sys.version_info >= (3, 11) or "")' 2>/dev/null | grep True),$(p))))
ARGS ?=
# Tests wait for servers for a part of their time: one more than there are cores, and no more than the memory takes.
JOBS ?= $(shell cores=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); expr $$(( cores < 7 ? cores : 7 )) + 1)

.PHONY: help demo test lint reference clean

help: ## Show what there is to make
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: $(INSTALLED) ## Watch the whole loop turn on this machine (about 2 minutes after installing)
	@$(BIN)/understudy demo $(ARGS)

test: $(INSTALLED) ## Check style, types and everything else (about 13 minutes on two cores after installing; longer with ARGS=--thorough)
	@echo "== style and types (about 1 minute) =="
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@echo "== tests, with a real Redis, PostgreSQL and worker processes started by themselves (about 13 minutes on two cores, $(JOBS) at a time) =="
	@$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: $(INSTALLED) ## Mend what can be mended by itself, and show the rest
	@$(BIN)/ruff check --fix . ; $(BIN)/ruff format . ; $(BIN)/mypy

reference: $(INSTALLED) ## Write docs/cli.md and docs/rest.md anew, after a command or a route was changed
	@$(BIN)/python -m understudy.cli.reference > docs/cli.md
	@$(BIN)/python -m service.reference > docs/rest.md

clean: ## Remove the environment and what the demo left
	rm -rf $(VENV) understudy-demo

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or later with venv found; install one, or say make PYTHON=/path/to/python" >&2; exit 1; }
	@echo "== installing into $(VENV) with $$($(PYTHON) --version): about 3 minutes and 6 GB, most of it PyTorch's CUDA libraries =="
	@echo "   (log: $(VENV)/install.log)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]' > $(VENV)/install.log 2>&1 \
		|| { tail -30 $(VENV)/install.log >&2; exit 1; }
	@touch $(INSTALLED)
