# From a bare clone (python3, make, g++): `make demo` trains the paper's sinusoid, `make test` runs every check.
# What takes more than a few seconds says so first, and about how long two cores need.
TORCH  ?= torch==2.13.0
VENV   ?= .venv
RUN    ?= runs/demo
# Where everything runs. A Python given on the command line (make ext PYTHON=...) is taken as it is, without set-up.
PYTHON  = $(VENV)/bin/python
BIN     = $(dir $(PYTHON))
has     = $(if $(filter file,$(origin PYTHON)),$(VENV)/.has-$(1))

# Two OpenMP runtimes in one process would otherwise spin against each other.
export OMP_WAIT_POLICY ?= PASSIVE
export GOMP_SPINCOUNT ?= 0

.PHONY: help demo test lint unit isas wide sanitize wheel bench ext format clean
.NOTPARALLEL:

help:
	@echo "make demo      train the paper's sinusoid experiment; table and figures in $(RUN)"
	@echo "make test      linters, types, sanitizers, all tests, those of the core on every instruction set"
	@echo "make wheel     build a wheel and try it in a fresh environment"
	@echo "make bench     compare with JAX, torch.compile, torch.func, learn2learn, ... in one run"
	@echo "make ext       build the C++ core in place; make ext PYTHON=python3 for a Python of your own"
	@echo "make format    format Python and C++"
	@echo "make clean     remove everything that was built or set up"

demo: $(call has,plots) ext
	@echo "== the paper's regression of sine waves: MAML, a pretrained network and the oracle; about 1 minute"
	@$(PYTHON) -m fastmaml reproduce sinusoid --out $(RUN)
	@echo "== look at $(RUN)/overview.png"

test: lint sanitize isas wide unit

# torch comes first and by exact version: asked for in any other way, pip may choose a build of several gigabytes.
$(VENV)/.has-torch:
	@echo "== setting up $(VENV): downloading torch (200 MB for CPUs) and what builds the core; about 1 minute"
	@python3 -m venv $(VENV)
	@$(PYTHON) -m pip install -q "$(TORCH)" numpy "setuptools>=77" cmake ninja pybind11
	@touch $@

# One stamp for each extra of pyproject.toml. The checkout itself is what is installed; `ext` compiles its core, where
# one can watch.
$(VENV)/.has-%: $(VENV)/.has-torch pyproject.toml setup.py
	@echo "== installing what fastmaml[$*] needs; about 1 minute"
	@FASTMAML_PURE_PYTHON=1 $(PYTHON) -m pip install -q --no-build-isolation -e ".[$*]"
	@touch $@

# ninja compiles what has changed, which is mostly nothing
ext: $(call has,plots)
	@ls fastmaml/_core*.so >/dev/null 2>&1 || echo "== compiling the C++ core; about 3 minutes"
	@$(PYTHON) setup.py -q build_ext --inplace

SOURCES = $(shell find csrc -name '*.h' -o -name '*.cpp' -o -name '*.inc')
lint: $(call has,test)
	$(PYTHON) -m ruff check .
	$(PYTHON) -m ruff format --check .
	$(PYTHON) -m mypy
	$(BIN)clang-format --dry-run -Werror $(SOURCES)

format: $(call has,test)
	$(PYTHON) -m ruff check --fix .
	$(PYTHON) -m ruff format .
	$(BIN)clang-format -i $(SOURCES)

unit: $(call has,test) ext
	$(PYTHON) -m pytest -q -n 2

# The core's tests with each instruction set forced that this processor has.
isas: $(call has,test) ext
	for isa in $$($(PYTHON) -c "from fastmaml import _core; print(*_core.supported_isas())"); do \
	  echo "FASTMAML_ISA=$$isa"; FASTMAML_ISA=$$isa $(PYTHON) -m pytest -q -n 2 tests/csrc || exit 1; done

# AVX-512's tiles and logic on any processor with AVX2: its vectors in two halves, and no other instruction set.
WIDE := build/wide
wide: $(call has,test) ext
	if $(PYTHON) -c "from fastmaml import _core; exit('avx2' not in _core.supported_isas())"; then \
	  FASTMAML_WIDE_ON_AVX2=1 $(PYTHON) setup.py -q build_ext --build-lib $(WIDE) && \
	  FASTMAML_CORE=$(abspath $(WIDE))/fastmaml $(PYTHON) -m pytest -q -n 2 -p no:cacheprovider tests/csrc; fi

# The core under AddressSanitizer and UBSan. What Python itself never frees is not its leak.
SANITIZED := build/sanitized
RUNTIMES   = $(foreach name,asan ubsan stdc++,$(shell $(CXX) -print-file-name=lib$(name).so))
sanitize: $(call has,test)
	FASTMAML_SANITIZE=1 $(PYTHON) setup.py -q build_ext --build-lib $(SANITIZED)
	LD_PRELOAD="$(RUNTIMES)" ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 \
	  FASTMAML_CORE=$(abspath $(SANITIZED))/fastmaml \
	  $(PYTHON) -m pytest -q -n 2 -p no:cacheprovider tests/csrc

# By way of the source archive, so that whatever is missing from that is found too.
wheel: $(call has,plots)
	rm -rf build/wheel
	$(PYTHON) setup.py -q sdist --dist-dir build/wheel
	$(PYTHON) -m pip wheel -q --no-deps --wheel-dir build/wheel build/wheel/fastmaml-*.tar.gz
	.ci/try-wheel build/wheel/fastmaml-*.whl "$(TORCH)"

bench: $(call has,bench) ext
	$(PYTHON) -m bench.cpu --patience 600
	$(PYTHON) -m bench.passes
	$(PYTHON) -m bench.memory

clean:
	rm -rf $(VENV) build dist *.egg-info fastmaml/_core*.so .pytest_cache .ruff_cache .mypy_cache .hypothesis
