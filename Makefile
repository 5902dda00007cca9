# Everything a fresh machine needs: `make demo`, then `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

SOURCES := $(shell find ops/csrc -type f 2>/dev/null) ops/CMakeLists.txt pyproject.toml

.PHONY: demo test test-all test-large test-ort-matrix lint format bench clean install cuda

demo: $(VENV)/.installed
	$(BIN)/python -m examples.semantic_search
	$(BIN)/python -m examples.llm_generate

test: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not large" -n 2 --dist loadfile $(PYTEST_ARGS)

test-ort-matrix: $(VENV)/.installed
	$(BIN)/python -m pytest tests/test_ort_matrix.py $(PYTEST_ARGS)

test-large: $(VENV)/.installed
	$(BIN)/python -m pytest -m large $(PYTEST_ARGS)

test-all: $(VENV)/.installed
	$(BIN)/python -m pytest $(PYTEST_ARGS)

bench: $(VENV)/.installed
	$(BIN)/python tests/bench/bench_kernels.py --build build/bench $(BENCH_ARGS)

# mypy wants the folders under the names they are imported by.
lint: $(VENV)/.linters
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	mkdir -p .mypy_path/slc && for d in compiler ops targets; do ln -sfn ../../$$d .mypy_path/slc/$$d; done
	$(BIN)/mypy
	find ops/csrc -name '*.cc' -o -name '*.h' -o -name '*.inc' -o -name '*.cu' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.linters
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find ops/csrc -name '*.cc' -o -name '*.h' -o -name '*.inc' -o -name '*.cu' | xargs $(BIN)/clang-format -i

# The CUDA library: images for every GPU by NVRTC from PyPI, then the host's part for this machine,
# beside the CPU library, and for aarch64 where there is a cross compiler. No GPU or toolkit is needed.
ARM_CXX := aarch64-linux-gnu-g++
cuda: $(VENV)/.installed
	$(BIN)/python -m pip install -q 'nvidia-cuda-nvrtc==13.*' 'nvidia-cuda-nvrtc-cu12==12.6.*'
	$(BIN)/python ops/csrc/cuda/build_images.py -o build/cuda
	SKBUILD_CMAKE_DEFINE="SLC_CUDA_IMAGES=$(CURDIR)/build/cuda" $(BIN)/python -m pip install -q -e '.[export,test]'
	if command -v $(ARM_CXX) >/dev/null; then \
	  cmake -S ops -B build/aarch64 -DSLC_CUDA_IMAGES=$(CURDIR)/build/cuda \
	    -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/ops/cmake/aarch64-linux-gnu.cmake && \
	  cmake --build build/aarch64 --parallel; \
	else echo "no $(ARM_CXX): nothing is built for aarch64"; fi

install: $(VENV)/.installed

$(VENV)/.installed: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/python -m pip install -q -e '.[export,test]'
	touch $@

$(VENV)/.linters: pyproject.toml | $(VENV)/.installed
	$(BIN)/python -m pip install -q 'clang-format>=18' 'mypy>=1.15' 'pre-commit>=4' 'ruff>=0.9'
	touch $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "slc needs Python 3.10 or newer: got $$($(PYTHON) -V); pass PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip

clean:
	rm -rf build $(VENV) .mypy_path .pytest_cache .ruff_cache .mypy_cache
