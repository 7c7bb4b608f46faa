# Packages, bill of materials, image and chart: what a release publishes, and a check of all of it that needs no account.

PYTHONS ?= python3.11 python3.12 python3.13 python3.14
VERSION ?=
ENGINE ?= $(firstword $(foreach engine,docker podman buildah,$(shell command -v $(engine))))
BASE ?=

RELEASE := $(VENV)/release/bin
ASKED = $(PYTHON) packaging/release.py show
NAMED = quotapool-$$($(ASKED) version)
IMAGE ?= quotapool:$(shell $(ASKED) version)
# When the newest change was made: two builds of the same sources are the same, to the byte.
SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y pyproject.toml)
dist compiled-wheel sbom: export SOURCE_DATE_EPOCH := $(SOURCE_DATE_EPOCH)

.PHONY: dist wheels sbom chart image workflows release-check try-tools check-python

dist: $(VENV)/.build ## Into dist: a wheel in plain Python and the source distribution
	rm -rf build dist proxy/quotapool.egg-info
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .
	$(BIN)/python setup.py --quiet sdist --dist-dir build
	mkdir build/sdist && tar -xzf build/*.tar.gz -C build/sdist
	tar --sort=name --mtime=@$(SOURCE_DATE_EPOCH) --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw \
	  -c -C build/sdist $(NAMED) | gzip -n9 > dist/$(NAMED).tar.gz
	rm -rf build

# Each Python compiles in an environment of its own. Then a fresh one has to choose the right wheel and answer a request.
WHEELS = for python in $(PYTHONS); do \
  version=$$($$python -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || \
    { echo "Skipped: $$python is not here."; continue; }; \
  $(MAKE) --no-print-directory PYTHON=$$python VENV=$(VENV)/wheels/$$version

wheels: dist ## The same, and a wheel compiled for each of PYTHONS; two minutes each
	@$(WHEELS) compiled-wheel || exit 1; done
	rm -rf build
	@$(WHEELS) try-wheel || exit 1; done
	@$(MAKE) --no-print-directory try-wheel WHEEL='dist/*-none-any.whl' KIND="pure Python"
	@ls -sh dist

# LDSHARED: Python's own would leave where Python lies in the library.
.PHONY: compiled-wheel try-wheel
compiled-wheel: $(VENV)/.build
	rm -rf build
	QUOTAPOOL_COMPILE=1 LDSHARED="$(CC) -shared -s" $(PIP) wheel --no-build-isolation --no-deps --wheel-dir build/wheel .
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist build/wheel/*.whl

WHEEL = quotapool
KIND = compiled
try-wheel: | $(BIN)/python
	rm -rf $(VENV)/fresh
	$(BIN)/python -m venv $(VENV)/fresh
	$(VENV)/fresh/bin/python -m pip --disable-pip-version-check --quiet $(LOCKED) -r requirements.txt
	$(VENV)/fresh/bin/python -m pip --disable-pip-version-check --quiet install --no-index --no-deps --find-links dist $(WHEEL)
	$(VENV)/fresh/bin/python -m tests.scenarios.installed "$(KIND)"

try-tools: dist $(VENV)/.release ## The wheel of dist by uvx, uv tool, pipx and pip, as users install it; prints how long each takes
	PATH="$(abspath $(RELEASE)):$$PATH" $(BIN)/python -m tests.scenarios.installers dist/*-none-any.whl

TRIED = $(abspath $(VENV))/pythons/$(notdir $(PYTHON))
check-python: dist ## The source distribution's own tests, but for slow ones, on another Python: PYTHON=python3.13
	rm -rf $(TRIED)/source && mkdir -p $(TRIED)/source
	tar -xzf dist/*.tar.gz --strip-components 1 -C $(TRIED)/source
	CI= $(MAKE) --no-print-directory -C $(TRIED)/source PYTHON=$(PYTHON) VENV=$(TRIED)/environment quick-tests
	rm -rf $(TRIED)/source

# Of the package as it was installed. Left out: what takes long and meets nothing in which one Python differs from another.
.PHONY: quick-tests
quick-tests: $(VENV)/.dev-installed
	$(BIN)/python -m pytest -o pythonpath=. -n auto --dist loadfile -m "not alone" $(addprefix --ignore tests/,$(SLOW)) tests
	$(BIN)/python -m pytest -o pythonpath=. tests/end_to_end/test_smoke.py tests/end_to_end/test_demo.py
SLOW = end_to_end benchmarks domain test_wheels.py test_release.py

$(VENV)/.dev-installed: requirements.txt requirements-dev.txt $(SOURCES) | $(BIN)/python
	$(PIP) $(LOCKED) -r requirements.txt
	$(PIP) $(LOCKED) -r requirements-dev.txt
	$(PIP) install --no-build-isolation --no-deps --force-reinstall .
	@touch $@

# Of an environment with the locked requirements and nothing else: it knows their licences and who needs whom.
sbom: dist $(VENV)/.release ## Into dist: a bill of materials (CycloneDX) of all that an installation brings
	rm -rf $(VENV)/shipped && $(BIN)/python -m venv --without-pip $(VENV)/shipped
	$(PIP) --python $(VENV)/shipped/bin/python $(LOCKED) -r requirements.txt
	$(PIP) --python $(VENV)/shipped/bin/python install --no-index --no-deps dist/*-none-any.whl
	$(RELEASE)/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --of JSON \
	  -o dist/$(NAMED).cdx.json $(VENV)/shipped/bin/python
	$(RELEASE)/python packaging/release.py sbom dist/$(NAMED).cdx.json
	rm -rf $(VENV)/shipped

chart: | $(BIN)/python ## Into dist: the Helm chart; takes helm
	@command -v helm >/dev/null || { echo "helm is not here: the chart cannot be packed." >&2; exit 1; }
	mkdir -p dist
	helm lint --quiet config/helm/quotapool
	helm package --destination dist config/helm/quotapool

# BASE: python@sha256:…, the digest that the tag in the Dockerfile has; a release fills it in.
image: ## The container image as quotapool:VERSION; takes docker, podman or buildah
	@[ -n "$(ENGINE)" ] || { echo "No docker, podman or buildah is here: the image cannot be built." >&2; exit 1; }
	$(ENGINE) build --tag $(IMAGE) $(if $(BASE),--build-arg PYTHON=$(BASE)) --build-arg VERSION=$$($(ASKED) version) \
	  --build-arg SOURCE=$$($(ASKED) source) --build-arg REVISION=$$(git rev-parse HEAD 2>/dev/null || echo unknown) .

workflows: $(VENV)/.release $(VENV)/.actionlint-if-possible ## What linters say of the workflows
	@if [ -x $(VENV)/actionlint ]; then $(VENV)/actionlint; fi
	$(RELEASE)/zizmor --offline --quiet --no-progress .github/workflows
	$(RELEASE)/cibuildwheel --platform linux --print-build-identifiers

# A dry run: every step of a release that needs no account. VERSION: the one that the tag names.
release-check: dist sbom workflows ## Build and check all that a release publishes; VERSION=1.2.3: as that release
	@if command -v helm >/dev/null; then $(MAKE) --no-print-directory chart; else echo "Going on without the chart: helm is not here."; fi
	$(RELEASE)/twine check --strict dist/*.whl dist/*.tar.gz
	$(BIN)/python packaging/release.py check $(if $(VERSION),--release $(VERSION))
	@ls -sh dist

$(VENV)/.release: requirements-release.txt | $(BIN)/python
	$(PYTHON) -m venv $(VENV)/release
	$(RELEASE)/python -m pip --disable-pip-version-check --quiet $(LOCKED) -r requirements-release.txt
	@touch $@

# A Go program. Whoever has no Go can do without it (CI cannot).
$(VENV)/actionlint: | $(BIN)/python
	GOBIN=$(abspath $(VENV)) go install github.com/rhysd/actionlint/cmd/actionlint@v1.7.12

.PHONY: $(VENV)/.actionlint-if-possible
$(VENV)/.actionlint-if-possible: | $(BIN)/python
	@$(MAKE) --no-print-directory $(VENV)/actionlint || { echo "Going on without actionlint, which takes Go."; [ -z "$(CI)" ]; }
