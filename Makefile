# Everything a newcomer needs: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3.11
# What is installed already, else the CPU build.
DEVICE ?= $(or $(patsubst .venv/.torch-%,%,$(wildcard .venv/.torch-*)),cpu)
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
TORCH := $(shell sed -n 's/^torch==\([0-9.]*\).*/\1/p' $(LOCK))
PROTOS = $(shell find protos -name '*.proto')
BASELINE := protos/baseline.binpb
INSTALL = $(BIN)/uv pip install --quiet --python $(VENV) --constraint $(LOCK)

# Each service is a process of its own: without bytecode every one of them would compile all that it imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test check format protos baseline lock clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(VENV)/.demo ## Install, then run the main job: data in, a served model out
	$(BIN)/deepseek demo

test: $(VENV)/.dev ## Install what the tests need, then run them all
	deploy/setup/debian.sh
	deploy/setup/node.sh
	$(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder $(PYTEST_ARGS)

check: $(VENV)/.dev ## Check format, lint, types, contracts and generated code
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf breaking --against $(BASELINE)
	deploy/setup/protos.sh --check

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

protos: $(VENV)/.dev ## Generate Python from the contracts
	deploy/setup/protos.sh

baseline: $(VENV)/.dev ## Take the contracts as they stand for those of a release
	$(BIN)/buf build --exclude-source-info --output $(BASELINE)

lock: $(VENV)/.uv ## Lock all dependencies anew
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --upgrade \
		--no-emit-index-url --no-annotate --custom-compile-command "make lock" pyproject.toml --output-file $(LOCK)

clean: ## Remove the environment
	rm -rf $(VENV)

# The virtual environment, in layers: the installer, torch, the project with the extras that a target needs.
$(VENV)/.uv: $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(LOCK) uv
	touch $@

# The CPU build carries a local version label, which an index or a wheel folder known to pip may have; where none does,
# uv knows PyTorch's own index. DEVICE=cuda takes the default build.
$(VENV)/.torch-$(DEVICE): $(VENV)/.uv
ifeq ($(DEVICE),cpu)
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps "torch==$(TORCH)+cpu" 2>/dev/null \
		|| $(BIN)/uv pip install --quiet --python $(VENV) --no-deps --torch-backend cpu "torch==$(TORCH)"
else
	$(BIN)/uv pip install --quiet --python $(VENV) --reinstall-package torch --constraint $(LOCK) "torch==$(TORCH)"
endif
	rm -f $(VENV)/.torch-*
	touch $@

$(VENV)/.demo: $(VENV)/.torch-$(DEVICE) pyproject.toml
	$(INSTALL) --editable ".[demo]"
	touch $@

$(VENV)/.dev: $(VENV)/.torch-$(DEVICE) pyproject.toml
	$(INSTALL) --editable ".[dev]"
	touch $@ $(VENV)/.demo
