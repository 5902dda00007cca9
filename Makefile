# Everything a fresh machine needs: `make demo`, then `make test`.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1

# A C++ compiler for boards, of no system package: ops/cmake/zig.cmake.
ZIG := $(BIN)/python -c 'import os, ziglang; print(os.path.join(os.path.dirname(ziglang.__file__), "zig"))'

SOURCES := $(shell find ops/csrc -type f 2>/dev/null) ops/CMakeLists.txt pyproject.toml

.PHONY: demo test test-all test-arm test-large test-ort-matrix matrix lint format bench clean install cuda wheel

demo: $(VENV)/.installed
	$(BIN)/python -m examples.semantic_search
	$(BIN)/python -m examples.llm_generate

test: $(VENV)/.installed
	$(BIN)/python -m pytest -m "not large" -n 2 --dist loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-ort-matrix: $(VENV)/.installed
	$(BIN)/python -m pytest tests/test_ort_matrix.py $(PYTEST_ARGS)

# Every kind of artifact on every onnxruntime and onnxruntime-genai: the tables of README.md, "What runs
# where". Fetches 2 GB of wheels the first time.
matrix: $(VENV)/.installed
	$(BIN)/python tests/support_matrix/make_matrix.py $(MATRIX_ARGS)

# Arm kernels, and whole artifacts in a C++ program, under qemu: README, "On the device".
test-arm: $(VENV)/.installed
	$(BIN)/python -m pytest tests/test_arm_artifacts.py tests/ops/test_arm_kernels.py tests/test_cpp_app.py $(PYTEST_ARGS)

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
	find ops/csrc examples/cpp_app -name '*.cc' -o -name '*.h' -o -name '*.inc' -o -name '*.cu' | xargs $(BIN)/clang-format --dry-run --Werror

format: $(VENV)/.linters
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find ops/csrc examples/cpp_app -name '*.cc' -o -name '*.h' -o -name '*.inc' -o -name '*.cu' | xargs $(BIN)/clang-format -i

# The CUDA library: images for every GPU by NVRTC from PyPI, then the host's part for this machine and
# for aarch64, beside the CPU libraries. No GPU or toolkit is needed.
cuda: $(VENV)/.installed
	$(BIN)/python -m pip install -q 'nvidia-cuda-nvrtc==13.*' 'nvidia-cuda-nvrtc-cu12==12.6.*'
	$(BIN)/python ops/csrc/cuda/build_images.py -o build/cuda
	SKBUILD_CMAKE_DEFINE="SLC_ZIG=$$($(ZIG));SLC_CUDA_IMAGES=$(CURDIR)/build/cuda" \
	  $(BIN)/python -m pip install -q -e '.[export,test]'

# One wheel for x86-64 with the library for aarch64 inside, and the CUDA ones after `make cuda`; by zig, so
# that glibc 2.28 is enough for it.
wheel: $(VENV)/.installed
	SKBUILD_CMAKE_DEFINE="SLC_ZIG=$$($(ZIG));SLC_ZIG_CPU=$$(uname -m);CMAKE_TOOLCHAIN_FILE=$(CURDIR)/ops/cmake/zig.cmake;SLC_CUDA_IMAGES=$(wildcard $(CURDIR)/build/cuda)" \
	SKBUILD_BUILD_DIR=build/wheel $(BIN)/python -m pip wheel -q --no-deps -w dist .
	$(BIN)/python -m pip install -q wheel
	$(BIN)/python -m wheel tags --remove --platform-tag manylinux_2_28_$$(uname -m) dist/*-linux_$$(uname -m).whl

install: $(VENV)/.installed

$(VENV)/.installed: $(SOURCES) | $(VENV)/bin/python
	$(BIN)/python -m pip install -q 'ziglang==0.17.1'
	SKBUILD_CMAKE_DEFINE="SLC_ZIG=$$($(ZIG))" $(BIN)/python -m pip install -q -e '.[export,test]'
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
