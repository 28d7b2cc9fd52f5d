# Fleetmill: two commands do everything. Both need Python 3.11 or newer, git and make, and set up .venv themselves.
#   make demo    set up, then the main job: the loop turns, the fleet gets better    (DEMO_ARGS="--quick" for a minute)
#   make test    set up, then lint, types, architecture, docs and all tests
# Also: check (make test without what is slow), prove (the measured claims), engines (llama.cpp's server), clean.

PYTHON      ?= python3
JOBS        ?= 2
DEMO_ARGS   ?=
DEMO_EXTRAS := factory,train,sim,web
TEST_EXTRAS := $(DEMO_EXTRAS),serve,llm,dev
# PyTorch's own public index of CPU builds: asked only where CUDA libraries would be installed in vain.
# Empty: never. CUDA=1: take the CUDA build anyway.
export TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
export CUDA

LOCK        := --universal --generate-hashes --python-version 3.11 --no-header --no-annotate --quiet

VENV := .venv
BIN  := $(VENV)/bin
# A small process of a fleet gains nothing from many threads, and equal bytes need one.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test check prove clean lint types wheels architecture docs site lock release engines

demo: $(VENV)/.demo
	$(BIN)/fleetmill demo $(DEMO_ARGS)

test: $(VENV)/.test
	$(MAKE) --no-print-directory lint types wheels
	$(BIN)/pytest -n $(JOBS) --dist worksteal

check: $(VENV)/.test
	$(MAKE) --no-print-directory lint types
	$(BIN)/pytest -n $(JOBS) --dist worksteal -m "not slow"

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test
	$(BIN)/mypy

architecture: $(VENV)/.test
	$(BIN)/pytest tests/test_architecture.py

docs: $(VENV)/.test
	$(BIN)/python scripts/make_docs.py
	$(BIN)/pytest tests/docs

# The docs as a site in build/site; nothing is fetched.
site: $(VENV)/.test
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# What a release is built from: every file by digest. Needs uv; torch is left to constraints.txt, since its build depends on the machine.
lock:
	uv pip compile pyproject.toml --extra factory --extra sim --extra web -c constraints.txt $(LOCK) -o locks/factory.txt
	uv pip compile locks/release.in $(LOCK) -o locks/release.txt

# A wheel, its SBOM and their digests in dist/.
release:
	PYTHON="$(PYTHON)" sh scripts/make_release.sh dist

# Does the device's install resolve from wheels alone, for each Python and machine? 4: no index answers.
wheels: $(VENV)/.test
	$(BIN)/python scripts/check_device_wheels.py || [ $$? -eq 4 ]
	$(BIN)/python scripts/check_engine_wheels.py || [ $$? -eq 4 ]

prove: $(VENV)/.test
	@if [ -f scripts/prove.py ]; then $(BIN)/python scripts/prove.py; \
	else echo "prove: scripts/prove.py is missing: it will run the measured claims of README.md"; exit 1; fi

# llama.cpp's own server in build/engines, for the tests that serve a model with it: built once, in its own time (scripts/engines.sh).
engines: $(VENV)/.made
	PYTHON="$(BIN)/python" sh scripts/engines.sh build/engines

clean:
	rm -rf $(VENV) build dist demo-*/ .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -rf src/*.egg-info

$(VENV)/.made:
	PYTHON="$(PYTHON)" sh scripts/make_venv.sh $(VENV)
	@touch $@

$(VENV)/.demo: $(VENV)/.made pyproject.toml constraints.txt
	@$(BIN)/python scripts/plan_install.py --extras $(DEMO_EXTRAS) --flags $(VENV)/.flags
	$(BIN)/python -m pip install --quiet -c constraints.txt $$(cat $(VENV)/.flags) -e ".[$(DEMO_EXTRAS)]"
	@echo "$(DEMO_EXTRAS)" > $@

$(VENV)/.test: $(VENV)/.made pyproject.toml constraints.txt
	@$(BIN)/python scripts/plan_install.py --extras $(TEST_EXTRAS) --flags $(VENV)/.flags
	$(BIN)/python -m pip install --quiet -c constraints.txt $$(cat $(VENV)/.flags) -e ".[$(TEST_EXTRAS)]"
	@echo "$(TEST_EXTRAS)" > $@
	@touch $(VENV)/.demo
