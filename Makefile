# Two commands do everything, set-up included: `make run` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PARALLEL := -n auto --maxprocesses 4 --dist loadfile
FROZEN := $(shell find galaxy_mail templates packaging -type f -not -name '*.pyc')

.PHONY: run unit test check format binary tools lock bench simulate mutants soak clean

run: $(READY)
	$(BIN)/galaxy-mail dev $(ARGS)

# Takes seconds. Builds and fetches nothing.
unit: $(READY)
	$(BIN)/python -m pytest $(PARALLEL) tests/unit $(ARGS)

test: $(READY) binary tools
	$(BIN)/python -m pytest $(PARALLEL) $(ARGS)

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.contracts.check
	$(BIN)/python -m tests.docs.check

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# More seeds than `make test` runs.
simulate: $(READY)
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),1000) $(ARGS)

# Each mutant of tests/mutants, which takes some minutes. `make test` tries a few of them for each commit.
mutants: $(READY)
	$(BIN)/python -m tests.mutants $(ARGS)

# What takes hours: 10,000 seeds, long chaos, every mutant.
soak: $(READY) tools
	$(BIN)/python -m tests.simulation --seeds $(or $(SEEDS),10000)
	GALAXY_CHAOS=full $(BIN)/python -m pytest tests/chaos
	$(BIN)/python -m tests.mutants
	$(BIN)/python -m tests.simulation.mutants

bench: $(READY)
	$(BIN)/python -m tests.bench $(ARGS)

# One executable with everything in it, and dist/root, the content of the image (packaging/README.md).
binary: dist/galaxy-mail

dist/galaxy-mail: $(READY) $(FROZEN)
	PYTHONHASHSEED=0 PYINSTALLER_CONFIG_DIR=build/pyinstaller $(BIN)/pyinstaller --noconfirm --log-level WARN \
		--distpath build/frozen --workpath build/pyinstaller packaging/galaxy-mail.spec
	$(BIN)/python packaging/image_root.py build/frozen/unpacked dist/root
	mv build/frozen/galaxy-mail $@

# Relays, promtool and spin. If they cannot be fetched, the tests that need them are skipped with the reason.
tools:
	@tests/relays/fetch || test $$? -eq 3
	@deploy/fetch-promtool || test $$? -eq 3
	@tests/models/fetch || test $$? -eq 3

# The lock names no index and no address; hashes identify what is installed.
lock: $(READY)
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --group dev --universal --generate-hashes \
		--no-emit-index-url --python-version 3.11 --custom-compile-command "make lock" -o requirements.lock

$(READY): pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit("Galaxy Mail needs Python 3.11 or later" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

clean:
	rm -rf $(VENV) dist build .relays .tools .dev .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
