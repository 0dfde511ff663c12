# `make demo`: install, plan with the weights that ship, run the recipe for a few minutes. `make test`: the whole test-suite.
# TORCH chooses PyTorch's build, e.g. make demo TORCH="torch==2.13.0 --index-url <PyTorch's CUDA index>".
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TORCH ?= $(shell grep '^torch==' constraints.txt)
DEMO ?= runs/demo
EPISODES ?= 12
PLAN := --planner cem --episodes $(EPISODES) --out $(DEMO)/vp2

.PHONY: demo test install clean

demo: install
	$(BIN)/python experiments/vp2_eval.py $(PLAN)
	$(BIN)/python experiments/train_world_model.py --out $(DEMO)/train --warmup.steps 160 --joint.steps 160 --adapter.steps 80 --adapter-fit.steps 1000 \
		--loop.watch-every 40
	@# Nothing is left to play: the same command prints its table again, last.
	@$(BIN)/python experiments/vp2_eval.py $(PLAN)

test: install
	$(BIN)/python -m pytest

install: $(VENV)/.installed

# PyTorch first and by itself: everything after it finds it installed and leaves the choice of build alone.
$(VENV)/.installed: setup.cfg constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: Python 3.11 or newer is needed, $(PYTHON) is `$(PYTHON) --version`"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	grep -v '^torch==' constraints.txt > $(VENV)/constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c $(VENV)/constraints.txt -e ".[libero,data,test]"
	@$(BIN)/python -c 'from colaworld.envs.quiet import check_graphics; from colaworld.experiments.cli import main; main(check_graphics)'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
