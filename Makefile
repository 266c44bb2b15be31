# whyidle: `make demo` shows the main job, `make test` runs the suite; both set up what they need.
SHELL := /bin/bash
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
# What Debian 12 needs; python3-bpfcc is the BPF Compiler Collection for the distribution's Python.
PACKAGES := python3 python3-venv python3-dev python3-bpfcc libbpf1 gcc g++ make cmake ninja-build ca-certificates bubblewrap
WHYIDLE_CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/whyidle
export WHYIDLE_CACHE

SOAK_MINUTES ?= 60

# What only some targets need.
TEST_PACKAGES := systemd prometheus
SYSTEMD_PACKAGES := systemd systemd-sysv systemd-container
KERNEL_PACKAGES := qemu-system-x86 busybox-static kmod cpio zstd e2fsprogs

.PHONY: help setup demo demo-gpu test lint bench peers accuracy images install uninstall test-systemd kernels soak clean
.DEFAULT_GOAL := help

help: ## these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Debian packages, virtual environment, the llama-cpp-python wheel, the model

demo: setup ## observe the reference agent and print what its model was waiting for
	@agent/demo.sh

demo-gpu: setup ## the same on a simulated GPU that computes when the model does: NVML and llama.cpp side by side
	@agent/demo.sh --simulated-gpu

test: PACKAGES += $(TEST_PACKAGES)
test: setup ## lint, types, layers and the whole suite, with real eBPF when root
	@$(MAKE) --no-print-directory lint
	@$(BIN)/python -m tests.newer_python
	$(BIN)/pytest -q

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## the numbers of the README and benchmarks/RESULTS.md, measured here (about 30 minutes)
	$(BIN)/python -m benchmarks

peers: setup ## whyidle beside strace, perf, bcc, bpftrace and py-spy: the plot of the README (15 minutes, root)
	$(BIN)/python -m benchmarks.peers

accuracy: setup ## programs that know their own truth: precision, recall, seconds per state (3 minutes, root)
	$(BIN)/python -m tests.corpus

install: setup ## as a service of this host, under /opt/whyidle (root); over an earlier one: an upgrade
	@$(BIN)/whyidle install

uninstall: setup ## every trace of that service
	@$(BIN)/whyidle uninstall

# What makes images: whichever of the two is there.
ENGINE ?= $(shell command -v podman || echo docker)
images: ## the container images whyidle-agent and whyidle, by podman or docker
	$(ENGINE) build -f deploy/Containerfile --target agent -t whyidle-agent:0.1.0 -t whyidle-agent .
	$(ENGINE) build -f deploy/Containerfile --target whyidle -t whyidle:0.1.0 -t whyidle .

test-systemd: PACKAGES += $(SYSTEMD_PACKAGES)
test-systemd: setup ## the service under a real systemd, in a container: install, faults, upgrade, uninstall
	@tests/systemd/boot.sh

soak: setup ## an hour of a mixed load (SOAK_MINUTES=60): does the daemon grow? CSV, picture and verdict in out/soak (root)
	$(BIN)/python -m benchmarks.soak --minutes $(SOAK_MINUTES)

kernels: PACKAGES += $(KERNEL_PACKAGES)
kernels: setup ## the probe tests under other kernels, 5.10 to the newest, in qemu (30 minutes); README.md's table
	@$(BIN)/python -m tests.kernels

clean: ## remove what setup and the runs made (the wheel and the model stay in the cache)
	rm -rf $(VENV) out dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# Asks dpkg rather than keeping a stamp: a package removed since is noticed, and it takes 20 ms.
.PHONY: packages
packages:
	@missing=$$(for p in $(PACKAGES); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done | xargs); \
	if [ -n "$$missing" ]; then \
	  echo "==> Debian packages: $$missing"; \
	  if [ "$$(id -u)" != 0 ]; then echo "setup: run as root: apt-get install $$missing" >&2; exit 3; fi; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

$(VENV)/bin/python: | packages
	@echo "==> virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml agent/llama_wheel/build.sh $(VENV)/bin/python | packages
	@echo "==> llama-cpp-python wheel (built once, kept in $(WHYIDLE_CACHE))"
	@agent/llama_wheel/build.sh $(VENV)/bin/python >/dev/null
	@echo "==> Python packages"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --find-links "$(WHYIDLE_CACHE)/wheels" -e '.[agent,dev]'
	@echo "==> model"
	@$(BIN)/whyidle-agent model
	@touch $@
