# Two commands: `make demo` and `make test`. Everything is installed into $(VENV); nothing outside is touched.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= torch==2.13.0
# CPU=1 adds the public index of CPU builds (about 0.2 GB instead of 3 GB of CUDA packages on Linux).
CPU ?=
EXTRA_INDEX := $(if $(CPU),--extra-index-url https://download.pytorch.org/whl/cpu)

RUN := $(VENV)/bin
KEY := $(shell $(PYTHON) -c "import hashlib, sys; print(hashlib.sha256(b''.join(open(f, 'rb').read() for f in ('pyproject.toml', 'constraints.txt')) + sys.argv[1].encode()).hexdigest()[:12])" "$(TORCH)")
BASE := $(VENV)/base-$(KEY).stamp
DEV := $(VENV)/dev-$(KEY).stamp

# The libraries that models, adapters and tokenizers go to and come from live beside, so that `make test` needs none.
ECOSYSTEM ?= .venv-ecosystem
OTHERS := $(ECOSYSTEM)/others-$(KEY).stamp

.PHONY: help demo test test-pages test-slow test-ecosystem lint format docs bench clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: $(BASE)  ## the main job on real text: three methods against tuned AdamW at equal compute, with a report
	$(RUN)/isoflop demo

test: $(DEV)  ## lint, types, and every test but the slow ones and the pages
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy
	OMP_NUM_THREADS=1 $(RUN)/pytest -n 2 --dist worksteal --ignore tests/pages

test-pages: $(DEV)  ## every command, file and example of README, guides, CONTRIBUTING and examples/, as it stands there
	OMP_NUM_THREADS=1 $(RUN)/pytest -n 2 --dist worksteal tests/pages

test-slow: $(DEV)  ## the tests that take minutes (kill tests, coverage studies)
	OMP_NUM_THREADS=1 $(RUN)/pytest -n 2 --dist worksteal -m slow

test-ecosystem: $(OTHERS)  ## round trips with transformers, PEFT, lm_eval and trackers, in an environment of its own
	ISOFLOP_ECOSYSTEM=1 OMP_NUM_THREADS=1 $(ECOSYSTEM)/bin/pytest -n 2 --dist worksteal tests/ecosystem

lint: $(DEV)  ## ruff and mypy only
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

format: $(DEV)  ## let ruff mend what it can
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .

docs: $(DEV)  ## write what is generated (method cards, tables of optimizers, stubs)
	$(RUN)/python docs/generate.py

bench: $(DEV)  ## speed of our parts beside the peers' (wants a quiet machine and the extra `hf`)
	$(RUN)/python benchmarks/train_step.py

clean:  ## remove the environment and caches, not the runs
	rm -rf $(VENV) $(ECOSYSTEM) .mypy_cache .ruff_cache .pytest_cache .hypothesis build src/*.egg-info

$(BASE): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet $(EXTRA_INDEX) "$(TORCH)"
	$(RUN)/python -m pip install --quiet $(EXTRA_INDEX) -c constraints.txt -e .
	@touch $@

$(DEV): $(BASE)
	$(RUN)/python -m pip install --quiet $(EXTRA_INDEX) -c constraints.txt -e ".[dev]"
	@touch $@

$(OTHERS): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(ECOSYSTEM)
	$(ECOSYSTEM)/bin/python -m pip install --quiet $(EXTRA_INDEX) "$(TORCH)"
	$(ECOSYSTEM)/bin/python -m pip install --quiet $(EXTRA_INDEX) -c constraints.txt -e ".[ecosystem]"
	@touch $@
