# From a bare clone (python3, make, g++): `make demo` trains the paper's sinusoid, `make test` runs every check.
PYTHON ?= python3
TORCH  ?= torch==2.13.0
VENV   ?= .venv
BIN    := $(VENV)/bin
RUN    ?= runs/demo
CORE   := $(wildcard csrc/*) CMakeLists.txt setup.py pyproject.toml
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0

.PHONY: help demo test lint unit isas sanitize wheel bench clean format
help:
	@echo "make demo      train the paper's sinusoid experiment; table and figure in $(RUN)"
	@echo "make test      linters, types, all tests on every instruction set, sanitizers"
	@echo "make wheel     build a wheel and try it in a fresh environment"
	@echo "make bench     compare with JAX, torch.compile, torch.func, learn2learn, ... in one run"
	@echo "make format    format Python and C++"
	@echo "make clean     remove everything that was built"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q "$(TORCH)" numpy setuptools wheel cmake ninja pybind11

$(VENV)/installed: $(BIN)/python $(CORE)
	$(BIN)/python -m pip install -q --no-build-isolation -e ".[plots]"
	@touch $@

$(VENV)/installed-test: $(VENV)/installed
	$(BIN)/python -m pip install -q --no-build-isolation -e ".[test]"
	@touch $@

demo: $(VENV)/installed
	$(BIN)/fastmaml reproduce sinusoid --only maml --out $(RUN)

test: lint unit isas sanitize
	@echo "all checks passed"

lint: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror csrc/*.h csrc/*.cpp

format: $(VENV)/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.h csrc/*.cpp

unit: $(VENV)/installed-test
	$(BIN)/python -m pytest -q -n 2

# The same parity tests with each instruction set forced (one that the processor lacks is skipped by name).
isas: $(VENV)/installed-test
	for isa in $$($(BIN)/python -c "from fastmaml import _core; print(*_core.supported_isas())"); do \
	  echo "FASTMAML_ISA=$$isa"; FASTMAML_ISA=$$isa $(BIN)/python -m pytest -q tests/csrc || exit 1; done

# The core under AddressSanitizer and UBSan: bugs of the core fail here, leaks of Python itself are not ours.
SANITIZED := build/sanitized
sanitize: $(VENV)/installed-test
	$(BIN)/cmake -S . -B $(SANITIZED) -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) \
	  -DPython_EXECUTABLE=$(abspath $(BIN)/python) -DFASTMAML_SANITIZE=ON \
	  -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) > /dev/null
	$(BIN)/cmake --build $(SANITIZED)
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  ASAN_OPTIONS=detect_leaks=0 FASTMAML_CORE=$(abspath $(SANITIZED)) \
	  $(BIN)/python -m pytest -q -p no:cacheprovider tests/csrc

wheel: $(VENV)/installed
	rm -rf build/wheel && mkdir -p build/wheel
	$(BIN)/python -m pip wheel -q --no-build-isolation --no-deps -w build/wheel .
	$(BIN)/python -m bench.try_wheel build/wheel/*.whl --torch "$(TORCH)"

bench: $(VENV)/installed
	$(BIN)/python -m pip install -q jax jaxlib && $(BIN)/python -m pip install -q --no-deps higher torchopt optree
	$(BIN)/python -m bench.cpu

clean:
	rm -rf $(VENV) build dist *.egg-info fastmaml/_core*.so .pytest_cache .ruff_cache .mypy_cache .hypothesis
