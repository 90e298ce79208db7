PYTHON ?= python3
VENV ?= .venv
BIN ?= $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help demo test check docs commands inputs formats pairs starter wheel notebook studio-test campaigns clean

help:
	@echo 'make demo       install mascot into $(VENV), teach the starter model a subject, write a report into runs/demo'
	@echo 'make test       install mascot and its tools into $(VENV), then everything that CI runs'
	@echo 'make check      the same without installing; BIN=folder/of/another/venv/bin to use that one'
	@echo 'make docs       the documentation as a site: site/index.html'
	@echo 'make commands   every command of the documentation that can run here (a quarter of an hour)'
	@echo 'make inputs     2,000 bad inputs at random, each refused in one sentence (about ten minutes)'
	@echo 'make formats    every layer of the real architectures through every adapter format (two minutes)'
	@echo 'make pairs      every method on every kind of base, stopped at each step, and in a new process (four minutes)'
	@echo 'make starter    every step of training the embedded base, at a tiny size (two minutes)'
	@echo 'make wheel      the wheel in a bare environment, and faults that the doctor must find (some minutes)'
	@echo 'make notebook   run the notebook, and kernels that train again and again (six minutes)'
	@echo 'make studio-test  the studio as a person uses it, in a browser (ten minutes); installs chromium where it may'
	@echo 'make campaigns  kills, full disks, little memory and crowds (an hour); see docs/reliability.md'
	@echo 'make clean      remove $(VENV), caches and builds; runs are kept'

# Installed once, and again when what is to be installed changes.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed-demo: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[trackers]'
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $(VENV)/installed-demo $@

$(VENV)/installed-notebook: $(VENV)/installed-dev
	$(VENV)/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,notebook]'
	@touch $@

demo: $(VENV)/installed-demo
	rm -rf runs/demo
	$(VENV)/bin/mascot train examples/mascot/photos --class-noun owl --out runs/demo

# The tests come last, so that their summary is the last line.
define checks
$(BIN)/ruff format --check .
$(BIN)/ruff check .
$(BIN)/pyright --pythonpath $(BIN)/python
PYTHONPATH=src $(BIN)/lint-imports
$(BIN)/python -m pytest
endef

test: $(VENV)/installed-dev
	$(checks)

check:
	$(checks)

docs: $(VENV)/installed-dev
	PYTHONPATH=src $(BIN)/python -m docs_site

commands: $(VENV)/installed-dev
	timeout 3600 $(BIN)/python -m pytest -m slow tests/documentation

inputs: $(VENV)/installed-dev
	timeout 2400 $(BIN)/python -m pytest -m slow tests/reliability/test_random_inputs.py

formats: $(VENV)/installed-dev
	timeout 1200 $(BIN)/python -m pytest -m slow tests/laws/test_formats.py tests/laws/test_transformer_formats.py

pairs: $(VENV)/installed-dev
	timeout 1800 $(BIN)/python -m pytest -m slow tests/laws/test_every_pair.py

starter: $(VENV)/installed-dev
	timeout 1200 $(BIN)/python -m pytest -m slow tests/starter_training

# The wheel's tests share one environment, so one process runs them.
wheel: $(VENV)/installed-dev
	timeout 1800 $(BIN)/python -m pytest -n 0 -m slow tests/installation/test_wheel.py
	timeout 1800 $(BIN)/python -m pytest -m slow tests/installation --ignore tests/installation/test_wheel.py

# The notebook alone takes less than four minutes on two idle cores.
notebook: $(VENV)/installed-notebook
	timeout 1200 $(BIN)/python -m pytest -m slow -n 0 tests/notebook tests/benchmarks/test_study.py
	rm -rf build/notebook && mkdir -p build/notebook && cp notebooks/mascot.ipynb build/notebook
	timeout 600 $(BIN)/python -m pytest -n 0 --nbmake --nbmake-timeout=240 build/notebook

# Without chromium, and without the permission to install it, the tests are skipped and say so.
studio-test: $(VENV)/installed-dev
	command -v chromium >/dev/null || apt-get install -y -qq chromium >/dev/null 2>&1 || echo 'chromium is missing: the tests in a browser are skipped'
	timeout 2400 $(BIN)/python -m pytest -n 0 -rs -m slow tests/studio

campaigns: $(VENV)/installed-dev
	$(BIN)/python -m pytest -m slow tests/reliability/test_kills.py tests/reliability/test_resources.py

clean:
	rm -rf $(VENV) build dist site .hypothesis .import_linter_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
