PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
BIN := $(VENV)/bin
PYTEST := OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest
WORKERS := -n 2 --dist loadfile

.PHONY: run test test-integration test-slow test-floor test-newest test-reporters test-gpu lint docs format bench help

help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: $(READY)  ## Train the embedded default, watch ICL rise and fall, write the report
	$(BIN)/hf-icl run default training.threads=2

test: $(READY)  ## Unit suite, offline, two minutes on two cores
	$(PYTEST) $(WORKERS) -q

test-integration: $(READY)  ## Trainings, processes, servers and pages as people have them; CI runs it after the unit suite
	$(PYTEST) $(WORKERS) -q -m "integration and not slow"

test-slow: $(READY)  ## What takes longer: real runs, environments of their own
	$(PYTEST) $(WORKERS) -q -m slow

test-gpu: $(READY)  ## What a GPU does against what a CPU does; needs one
	CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES:-0} $(PYTEST) -n 4 -q -m "" tests/test_gpu.py

docs: $(READY)  ## The documentation as a site, in site/; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lint: docs  ## Style, mistakes, the types of what users call, and the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## Rewrite the code in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## Speed of training, sampler and dataset builder; budgets against what is measured
	$(BIN)/python benchmarks/bench_training.py --json benchmarks/training.json
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_sampler.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_builder.py
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/bench_budget.py

$(READY): setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,lint]'
	touch $@

# The lowest versions that setup.cfg declares, in an environment of their own. What these older packages call in newer
# ones of their own choice (matplotlib in pyparsing, typer in click) may be deprecated there: reported, no error.
FLOOR := .venv-floor
$(FLOOR)/.ready: setup.cfg tests/floors.py
	test -x $(FLOOR)/bin/python || $(PYTHON) -m venv $(FLOOR)
	$(PYTHON) tests/floors.py setup.cfg > $(FLOOR)/floors.txt
	$(FLOOR)/bin/python -m pip install --quiet --constraint $(FLOOR)/floors.txt --editable '.[test]'
	touch $@

test-floor: $(FLOOR)/.ready  ## Both suites on the lowest versions that setup.cfg declares
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(FLOOR)/bin/python -m pytest $(WORKERS) -q -m "not slow" -W default::DeprecationWarning

# The newest versions that the ranges of setup.cfg allow, in an environment of their own: what users get from pip today.
NEWEST := .venv-newest
$(NEWEST)/.ready: setup.cfg
	test -x $(NEWEST)/bin/python || $(PYTHON) -m venv $(NEWEST)
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[test]'
	touch $@

test-newest: $(NEWEST)/.ready  ## Both suites on the newest versions that setup.cfg allows
	$(NEWEST)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[test]'
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(NEWEST)/bin/python -m pytest $(WORKERS) -q -m "not slow" -W default::DeprecationWarning -W default::FutureWarning

# trackio and wandb, in an environment of their own: trackio holds back what others may be newer of, such as pillow.
REPORTERS := .venv-reporters
$(REPORTERS)/.ready: setup.cfg
	test -x $(REPORTERS)/bin/python || $(PYTHON) -m venv $(REPORTERS)
	$(REPORTERS)/bin/python -m pip install --quiet --editable '.[test,reporters]'
	touch $@

test-reporters: $(REPORTERS)/.ready  ## What trackio and wandb write of a run
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(REPORTERS)/bin/python -m pytest -q -m "" tests/test_reporters.py
