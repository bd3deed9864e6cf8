# `make help` lists the targets. Everything a target needs lies inside the clone: .venv and .typing are made here.

PYTHON ?= $(shell sh tools/find-python.sh)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DIRECTORY ?= demo-run
SECONDS ?= 60
MINUTES ?= 60
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --constraint constraints.txt
SUBPACKAGES := node gossip crypto topologies
TYPED := .typing:tests/gossip:tests/processes:tests/node:tests/fuzzing:tests/p2pfl/cli:tests/protocol:tools:benchmarks

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow fuzz mutants check format types .typing reproduce reproduce-full bench dist \
	scenarios months chaos soak foreign picture plots clean

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(READY)  ## make the virtual environment and install everything into it

$(READY): pyproject.toml constraints.txt tools/prerequisites.sh
	@sh tools/prerequisites.sh "$(PYTHON)"
	@echo "p2pfl: installing into $(VENV), minutes the first time"
	@"$(PYTHON)" -m venv $(VENV)
	@$(PIP) pip
	@$(PIP) --build-constraint constraints.txt --editable '.[dev]'
	@$(BIN)/python -m compileall -q p2pfl $(SUBPACKAGES)  # or four nodes that start at once each do it
	@touch $(READY)

demo: $(READY)  ## four hospitals, four daemons, one model: runs a real federation in DIRECTORY
	@$(BIN)/p2pfl demo --directory "$(DIRECTORY)"

test: $(READY)  ## run the test suite, a file at a time on every core
	@$(BIN)/python -m pytest -n logical --dist loadfile

test-slow: $(READY)  ## run the long tests as well
	@$(BIN)/python -m pytest -n logical --dist loadfile -m "slow or not slow"

fuzz: $(READY)  ## feed mutated inputs to every decoder for SECONDS; SEED repeats a run, KEEP=yes adds to the corpus
	@$(BIN)/python tests/fuzzing/run.py --seconds "$(SECONDS)" --seed "$(SEED)" $(if $(KEEP),--keep)

mutants: $(READY)  ## break the secure sum, and privacy, one thing at a time, and see that a test notices; PART=sum|privacy
	@$(BIN)/python tools/mutants.py $(if $(PART),--part "$(PART)")

check: $(READY) types  ## lint, format check and strict types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .

types: $(READY) .typing  ## strict type check (through the link tree that editors use too)
	@MYPYPATH=$(TYPED) $(BIN)/mypy --explicit-package-bases .typing/p2pfl
	@MYPYPATH=$(TYPED) $(BIN)/mypy --explicit-package-bases tests benchmarks tools

# The root folders are installed as p2pfl.node and so on; type checkers and editors do not follow that mapping,
# so this shows them the installed layout. CONTRIBUTING.md says how to point an editor at it.
# Made again each time: what is new is linked, what is gone is dropped.
.typing:
	@mkdir -p .typing/p2pfl
	@for file in p2pfl/*; do ln -sfn "../../$$file" ".typing/p2pfl/$$(basename "$$file")"; done
	@for folder in $(SUBPACKAGES); do ln -sfn "../../$$folder" ".typing/p2pfl/$$folder"; done
	@find -L .typing/p2pfl -maxdepth 1 -type l -delete

format: $(READY)  ## format the code and apply safe lint fixes
	@$(BIN)/ruff format . && $(BIN)/ruff check --fix .

reproduce: $(READY)  ## compute published results anew, in minutes; MNIST=DIR for those with pictures
	@PYTHONPATH=benchmarks $(BIN)/python -m reproduce $(if $(MNIST),--mnist "$(MNIST)")

reproduce-full: $(READY)  ## the same with every setting and seed, in less than an hour on two cores
	@PYTHONPATH=benchmarks $(BIN)/python -m reproduce --full $(if $(MNIST),--mnist "$(MNIST)")

bench: $(READY)  ## print the accuracy and speed tables
	@for script in $(filter-out benchmarks/soak.py,$(wildcard benchmarks/[a-z]*.py)); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

dist: $(READY)  ## build the wheel and the source distribution into dist/
	@$(BIN)/python -m build --quiet --dependency-constraints-txt constraints.txt --outdir dist .

scenarios: $(READY)  ## store the table of scenarios anew, against which tests and p2pfl simulate --scenarios compare
	@$(BIN)/p2pfl simulate --scenarios --json > p2pfl/data/scenarios/.new
	@mv p2pfl/data/scenarios/.new p2pfl/data/scenarios/baseline.json

months: $(READY)  ## ten thousand rounds with churn, a month of virtual time, in about twenty minutes
	@$(BIN)/python -m pytest -q -s -m slow tests/simulation/test_months.py

chaos: $(READY)  ## twelve real nodes, killed at random and started again, some minutes
	@$(BIN)/python -m pytest -q -s -m slow tests/processes/test_chaos.py

soak: $(READY)  ## real nodes with faults for MINUTES, an hour; fails if memory, files or tasks grow
	@$(BIN)/python benchmarks/soak.py --minutes "$(MINUTES)"

foreign: $(READY)  ## let js-libp2p from npm (pinned in tests/foreign) dial a node and speak the protocol with it
	@npm ci --prefix tests/foreign --no-audit --no-fund --loglevel error
	@$(BIN)/python -m pytest -q -m slow tests/foreign

picture: $(READY)  ## run the demo and draw what it printed into docs/demo.svg
	@$(BIN)/p2pfl demo --directory "$(DIRECTORY)" > "$(DIRECTORY).txt"
	@$(BIN)/python tools/picture.py "make demo" < "$(DIRECTORY).txt" > docs/demo.svg && rm "$(DIRECTORY).txt"

plots: $(READY)  ## run the commands below the plots of the guides, some minutes, and draw docs/plots/ again
	@$(BIN)/python tools/draw.py

clean:  ## remove what the targets made: environment, builds, caches, demo-run, reproduce-run
	@rm -rf $(VENV) .typing p2pfl_node.egg-info demo-run demo-run.txt reproduce-run tests/foreign/node_modules
	@rm -rf .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@rm -f dist/p2pfl_node-*; rmdir dist 2>/dev/null || true
	@find p2pfl $(SUBPACKAGES) tests benchmarks tools -name __pycache__ -type d -prune -exec rm -rf {} +
