# Start with `make demo` and `make test`. `make help` lists all targets.
PYTHON ?= python3.11
# Default: the installed build of torch, or else the CPU build.
DEVICE ?= $(or $(patsubst .venv/.torch-%,%,$(wildcard .venv/.torch-*)),cpu)
VENV := .venv
BIN := $(VENV)/bin
LOCK := requirements.lock
TORCH := $(shell sed -n 's/^torch==\([0-9.]*\).*/\1/p' $(LOCK))
PROTOS = $(shell find protos -name '*.proto')
BASELINE := protos/baseline.binpb
INSTALL = $(BIN)/uv pip install --quiet --python $(VENV) --constraint $(LOCK)

# Services are separate processes. Without cached bytecode, each of them would compile all of its imports.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test check format protos stack spec figures baseline lock clean

help: ## List the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(VENV)/.demo ## Install, and run the main workflow from raw data to a served model
	$(BIN)/deepseek demo

test: $(VENV)/.dev ## Install the test dependencies and run all tests
	deploy/setup/debian.sh
	deploy/setup/node.sh
	$(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder $(PYTEST_ARGS)

check: $(VENV)/.dev ## Check format, lint, types, contracts, generated code and figures
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf breaking --against $(BASELINE)
	deploy/setup/protos.sh --check
	$(BIN)/python -m deploy.stack --check
	$(BIN)/python -m deploy.spec_tables --check
	$(BIN)/python -m benchmarks.figures --check

format: $(VENV)/.dev ## Format the code
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

protos: $(VENV)/.dev ## Generate Python from the contracts
	deploy/setup/protos.sh

stack: $(VENV)/.dev ## Render the files of the stack from the services' declarations
	$(BIN)/python -m deploy.stack

spec: $(VENV)/.dev ## Render the tables of the fields of a run spec in docs/spec.md
	$(BIN)/python -m deploy.spec_tables

figures: $(VENV)/.dev ## Render the tables of figures in the documentation
	$(BIN)/python -m benchmarks.figures

baseline: $(VENV)/.dev ## Record the current contracts as the baseline of a release
	$(BIN)/buf build --exclude-source-info --output $(BASELINE)

lock: $(VENV)/.uv ## Update the lock file to the newest versions
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --all-extras --upgrade \
		--no-emit-index-url --no-annotate --custom-compile-command "make lock" pyproject.toml --output-file $(LOCK)

clean: ## Remove the virtual environment
	rm -rf $(VENV)

# The virtual environment, in layers: the installer, torch, and the project with the extras that a target needs.
$(VENV)/.uv: $(LOCK)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint $(LOCK) uv
	touch $@

# The CPU build has a local version label (+cpu). If no index or wheel folder that pip is configured with has it, uv
# uses PyTorch's own index. DEVICE=cuda installs the default build.
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
