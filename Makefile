# The environment is .venv in this folder; `make demo` sets it up and shows the whole story.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Without an NVIDIA GPU the constraint picks a CPU build of torch. CI sets another one: exact versions of everything.
CONSTRAINT ?= $(if $(shell command -v nvidia-smi),,-c constraints-cpu.txt)
# DeepSpeed builds its CPU optimizer with the environment's ninja.
export PATH := $(CURDIR)/$(BIN):$(PATH)

# One file, which `make test` leaves to `make cluster-test`.
CLUSTER_TESTS := tests/integration/test_slurm.py
CLUSTER_PACKAGES := slurm-wlm munge shellcheck

.PHONY: setup demo test cluster-test lint smollm2 lock clean

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints-cpu.txt constraints-ci.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11: make PYTHON=python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install $(CONSTRAINT) -e '.[dev]'
	@DS_ACCELERATOR=cpu TORCH_EXTENSIONS_DIR=$(CURDIR)/.venv/torch_extensions $(BIN)/python -c 'from deepspeed.ops.op_builder import CPUAdamBuilder as B; B().load()' \
		> .venv/cpu_adam.log 2>&1 || \
		echo "DeepSpeedCPUAdam does not build here (.venv/cpu_adam.log): runs on the CPU use the slower torch AdamW"
	@touch $@

demo: setup
	$(BIN)/altpo-ds demo

test: setup
	$(BIN)/python -m pytest --ignore=$(CLUSTER_TESTS)

# Jobs on a real Slurm cluster of two nodes on this machine. Installs Slurm where it may; else the tests are skipped.
cluster-test: setup
	@PATH=$$PATH:/usr/sbin; missing=; \
	for tool in slurmctld munged shellcheck; do command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	if [ "$$missing" ]; then \
		as_root=$$([ "$$(id -u)" = 0 ] || echo sudo -n); \
		{ $$as_root apt-get update -qq && \
			$$as_root apt-get install -y -qq --no-install-recommends $(CLUSTER_PACKAGES) >/dev/null; } || \
			echo "not here, and cannot be installed:$$missing (needs Debian's packages, and root or sudo without a password)"; \
	fi
	$(BIN)/python -m pytest -rs $(CLUSTER_TESTS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

smollm2: setup
	$(BIN)/python -m pip install --quiet $(CONSTRAINT) -e '.[smollm2]'
	$(BIN)/python -m altpo_ds.smollm2

# The versions that CI installs, anew from this environment; run the tests before.
lock: setup
	@{ echo "# The environment that the tests have passed in, exactly: .ci/run installs it. \`make lock\` writes this file."; \
		$(BIN)/python -m pip freeze --all --exclude-editable | sed -E '/ @ /d; /^pip==/d; s/\+[A-Za-z0-9.]+$$//'; } > constraints-ci.txt

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .hypothesis demo_out
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +
