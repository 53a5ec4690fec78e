# `make demo` and `make test` set up everything they need from nothing and are fast when nothing changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV := $(VENV)/.ready-dev
OLDEST_VENV := .venv-oldest
OLDEST_BIN := $(OLDEST_VENV)/bin
OLDEST := $(OLDEST_VENV)/.ready
export OMP_WAIT_POLICY := passive

.PHONY: demo demo-quick test test-quick test-oldest lint bench browser env clean

demo: $(READY)  ## run the embedded study and print the path of its report
	$(BIN)/sinkscope demo --out runs/demo

demo-quick: $(READY)  ## the same in two minutes with fewer units
	$(BIN)/sinkscope demo --quick --out runs/demo-quick

# Two halves side by side, one core each. In one the oldest versions come first, then the newest ones run the same
# tests; what they gave is shown when both halves are done.
test: export OMP_NUM_THREADS := 1
test: $(DEV) $(OLDEST) browser lint  ## everything, newest and oldest versions, under ten minutes on two cores
	@( $(MAKE) --no-print-directory test-oldest >$(OLDEST_VENV)/test.log 2>&1; oldest=$$?; \
	   $(BIN)/python -m pytest -q -rs -p no:cacheprovider tests/attention tests/models >$(VENV)/half.log 2>&1 && exit $$oldest ) & half=$$!; \
	  $(BIN)/python -m pytest -q --ignore=tests/attention --ignore=tests/models; rest=$$?; \
	  wait $$half || { tail -n 60 $(OLDEST_VENV)/test.log; tail -n 120 $(VENV)/half.log; rest=1; }; \
	  echo "attention and models: $$(tail -n 1 $(VENV)/half.log)"; \
	  echo "the same, oldest versions: $$(tail -n 1 $(OLDEST_VENV)/test.log)"; exit $$rest

# Two halves side by side; the zoo, embedded models, recipes, pages and docs are left to `make test`.
QUICK := $(BIN)/python -m pytest -q -p no:cacheprovider -m "not slow and not browser and not zoo"
test-quick: export OMP_NUM_THREADS := 1
test-quick: $(DEV)  ## under two minutes
	@$(QUICK) tests/attention tests/models >$(VENV)/quick.log 2>&1 & half=$$!; \
	  $(QUICK) tests/identity tests/metrics tests/prompts tests/stats tests/study tests/test_cli.py tests/test_house.py; rest=$$?; \
	  wait $$half || { tail -n 80 $(VENV)/quick.log; exit 1; }; \
	  echo "attention and models: $$(tail -n 1 $(VENV)/quick.log)"; exit $$rest

# What the oldest diffusers and transformers do not have is skipped, each with its reason.
test-oldest: $(OLDEST)  ## models and attention in the oldest versions that pyproject.toml allows
	SINKSCOPE_OLDEST=1 $(OLDEST_BIN)/python -m pytest -q -rs -m "not slow" tests/attention tests/models

lint: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

env: $(DEV)

# Torch first and alone, from the pin: asked for through a range it could bring CUDA packages along.
$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	touch $(READY)

# What only the tests need (a gigabyte, most of it Triton for its interpreter) is kept out of the demo's way.
$(DEV): $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $(DEV)

$(OLDEST): pyproject.toml constraints-oldest.txt
	test -x $(OLDEST_BIN)/python || $(PYTHON) -m venv $(OLDEST_VENV)
	$(OLDEST_BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' constraints-oldest.txt)"
	$(OLDEST_BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-oldest.txt -e . \
	  ftfy hypothesis peft pytest pytest-timeout sentencepiece protobuf
	touch $(OLDEST)

# The report is looked at in a real browser; without one that test says so and skips.
browser:
	@command -v chromium >/dev/null || (command -v apt-get >/dev/null && [ "$$(id -u)" = 0 ] \
	  && apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null) \
	  || echo "chromium is not here and cannot be installed: the browser tests will be skipped"

bench: $(READY)  ## what measuring and editing cost; rewrites the tables of docs/performance.md
	$(BIN)/python benchmarks/bench.py

clean:
	rm -rf $(VENV) $(OLDEST_VENV) runs .pytest_cache .mypy_cache .ruff_cache
