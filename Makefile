# `make run` and `make test` set everything up on a fresh machine with Python 3.11+; run again, they do not reinstall.
PYTHON ?= python3
BIN := .venv/bin
ARGS ?=

.PHONY: run test test-slow test-interop types mutants bench soak lock scoreboard notebooks lint clean

run: .venv/installed
	$(BIN)/toylab run iteration-head $(ARGS)

# Two processes on two cores: more threads of linear algebra would only wait for each other.
test test-slow soak: export OPENBLAS_NUM_THREADS := 1

test: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest -n 2 --dist worksteal

test-slow: .venv/installed-dev
	$(BIN)/pytest -n 2 -m slow

# Plants the faults of tests/mutants/, one at a time, and counts those that the tests catch; 17 minutes on two cores.
mutants: .venv/installed-dev
	$(BIN)/python -m tests.mutants.run $(ARGS)

# Our probes on models of other libraries, which are large: they are installed for this alone.
test-interop: .venv/installed-interop
	$(BIN)/pytest -m '' tests/model/test_interop.py tests/model/test_transformer_lens.py

# Do the annotations hold? Checks an installed copy: only there do tasks/ and probes/ lie where they are imported from.
types: .venv/installed-types
	rm -rf build/types build/lib
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target build/types .
	cp pyproject.toml build/types
	$(BIN)/pyright --project build/types --pythonpath $(abspath $(BIN)/python)

# How fast each part is, beside TransformerLens and torch's own encoder.
bench: .venv/installed-interop
	$(BIN)/toylab bench $(ARGS)

# The quick laws again, on examples drawn anew at every call.
soak: .venv/installed-dev
	$(BIN)/pytest -n 2 --hypothesis-profile=soak

# What will be judged at the default settings: written, and committed, before any seed is run.
lock: .venv/installed
	$(BIN)/python -m toylab.runs.lock

# The scoreboard of README.md, with shams; two and a half hours of processor time. No choice was made on these seeds.
SEEDS ?= 610 611 612 613 614 615 616 617 618 619
scoreboard: .venv/installed
	$(BIN)/toylab run iteration-head --parts pairs --seeds $(SEEDS) --sham --out runs/scoreboard/iteration-head
	$(BIN)/toylab run contextual-counting --seeds $(SEEDS) --sham --out runs/scoreboard/contextual-counting
	$(BIN)/toylab run safety-finetuning --seeds $(SEEDS) --sham --out runs/scoreboard/safety-finetuning
	$(BIN)/toylab run steering-vectors --seeds $(SEEDS) --sham --out runs/scoreboard/steering-vectors
	$(BIN)/python notebooks/scoreboard.py runs/scoreboard

lint: .venv/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebooks: .venv/installed-dev
	$(BIN)/python notebooks/execute.py $(ARGS)

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "toylab needs Python 3.11 or newer; try: make PYTHON=python3.12 run")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	touch $@

.venv/installed-dev: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv/installed-types: .venv/installed-interop
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[types]'
	touch $@

.venv/installed-interop: .venv/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[interop]'
	touch $@

clean:
	rm -rf .venv build dist *.egg-info
