SHELL = /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
BUILD_AND_PINS := requirements/create-venv.sh requirements/build.txt
PIP := -m pip --quiet --disable-pip-version-check
# Sources of our own carry no hash, so they are installed apart, and with nothing fetched for them.
PIP_OWN := install --no-deps --no-build-isolation

.PHONY: help
help: ## show this help
	@echo "make TARGET, where TARGET is one of:"
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '  %-14s %s\n' "$$name" "$$text"; \
	done

# --- Environments. A stamp tells that one is complete; a half-made one is finished by the next call.

.PHONY: setup setup-manager setup-deploy setup-test setup-fleet setup-fleet-programs
setup: .venv/complete ## create .venv with agent, manager and all development tools
	@:

.venv/complete: $(BUILD_AND_PINS) requirements/agent.txt requirements/manager.txt requirements/dev.txt \
		protocol/pyproject.toml agent/pyproject.toml manager/pyproject.toml
	@requirements/create-venv.sh .venv
	@echo "Installing the pinned packages into .venv"
	@$(BIN)/python $(PIP) install --require-hashes -r requirements/build.txt -r requirements/agent.txt \
		-r requirements/manager.txt -r requirements/dev.txt
	@echo "Installing protocol, agent and manager from this folder"
	@$(BIN)/python $(PIP) $(PIP_OWN) -e ./protocol -e ./agent -e ./manager
	@touch $@

setup-manager: manager/.venv/complete ## create manager/.venv with only what the manager needs
	@:

manager/.venv/complete: $(BUILD_AND_PINS) requirements/manager.txt protocol/pyproject.toml manager/pyproject.toml
	@requirements/create-venv.sh manager/.venv
	@echo "Installing the pinned packages into manager/.venv"
	@manager/.venv/bin/python $(PIP) install --require-hashes -r requirements/build.txt -r requirements/manager.txt
	@echo "Installing protocol and manager from this folder"
	@manager/.venv/bin/python $(PIP) $(PIP_OWN) -e ./protocol -e ./manager
	@touch $@

.venv-bench/complete: requirements/create-venv.sh requirements/bench.txt
	@requirements/create-venv.sh .venv-bench
	@echo "Installing the baseline of the benchmark into .venv-bench"
	@.venv-bench/bin/python $(PIP) install --require-hashes -r requirements/bench.txt
	@touch $@

.venv-tools/complete: requirements/create-venv.sh requirements/tools.txt
	@requirements/create-venv.sh .venv-tools
	@.venv-tools/bin/python $(PIP) install --require-hashes -r requirements/tools.txt
	@touch $@

setup-deploy: .venv-deploy/complete ## create .venv-deploy with Ansible and what lints roles and tests nodes
	@:

# The lab's root file system is made while Ansible is installed, and needs no more than this.
.venv-deploy/bin/python:
	@requirements/create-venv.sh .venv-deploy

.venv-deploy/complete: requirements/create-venv.sh requirements/deploy.txt | .venv-deploy/bin/python
	@requirements/create-venv.sh .venv-deploy
	@echo "Installing Ansible and its linters into .venv-deploy"
	@.venv-deploy/bin/python $(PIP) install --require-hashes -r requirements/deploy.txt
	@touch $@

# Programs that tests use, each with its Debian package.
TEST_PROGRAMS := knotd/knot ip/iproute2 mke2fs/e2fsprogs nft/nftables wg/wireguard-tools wireguard-go/wireguard-go
FLEET_PROGRAMS := ip/iproute2 mmdebstrap/mmdebstrap setpriv/util-linux ssh/openssh-client sysctl/procps \
	systemd-nspawn/systemd-container unshare/util-linux

setup-test: ## install the system packages that tests use (as root), or say what will be skipped
	@requirements/install-programs.sh "the tests" $(TEST_PROGRAMS)

KERNEL_PROGRAMS := qemu-system-x86_64/qemu-system-x86 mmdebstrap/mmdebstrap mke2fs/e2fsprogs
DEBIAN_PROGRAMS := mmdebstrap/mmdebstrap arch-test/arch-test qemu-aarch64-static/qemu-user-static

setup-fleet: setup-deploy setup-fleet-programs ## install what the lab of make fleet needs (as root)
	@:

setup-fleet-programs:
	@requirements/install-programs.sh "the lab" $(FLEET_PROGRAMS)

# --- Running it

.PHONY: demo run-manager
demo: setup ## show the main job on this machine: DNS, manager, agent, page; Ctrl-C ends it
	@exec $(BIN)/python demo/run.py

run-manager: setup-manager ## serve the manager on port 5086
	@exec manager/.venv/bin/kattila-manager serve

# --- Building it

PYTHONS := 3.11 3.12 3.13
ARCHES := amd64 arm64
.PHONY: build-agent build-manager
build-agent: setup ## agent/bin/agent-amd64 and agent-arm64: the agent as one file for each kind of machine
	@$(BIN)/python release/build_agent.py

build-manager: setup ## manager/bin/*.tar.gz, which install it offline: make build-manager PYTHONS=3.11 ARCHES=amd64
	@$(BIN)/python release/build_manager.py --pythons $(PYTHONS) --arches $(ARCHES)

# --- Checking it

.PHONY: check lint lint-deploy test test-kernel test-arm64 format bench-ingest bench-agent bench-spool
check: lint lint-deploy test fleet-test ## all that CI checks: linters, tests, and the lab where it can run

lint: setup ## ruff, mypy --strict, import contracts
	@echo "ruff"; $(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@echo "mypy"; $(BIN)/mypy
	@echo "import contracts"; $(BIN)/lint-imports --no-logo

# ansible-lint starts ansible, which it looks for on PATH.
DEPLOYED := $(wildcard roles playbooks inventory.example)
lint-deploy: setup-deploy ## yamllint and ansible-lint, profile production, over roles, playbooks, inventory.example
	@echo "yamllint"; .venv-deploy/bin/yamllint --strict $(DEPLOYED)
	@echo "ansible-lint"; PATH="$(CURDIR)/.venv-deploy/bin:$$PATH" ansible-lint --offline -q --strict --profile production $(DEPLOYED)

# Most tests wait more than they work. What one file makes for all its tests, as a mesh, is made once; the files keep their
# order, in which those that take long are not the last.
SIDE_BY_SIDE := -n 4 --dist loadfile --no-loadscope-reorder
test: setup setup-test ## all tests, four at a time; a part of them, one after another: make test ARGS="tests/protocol -k window"
	@$(BIN)/pytest $(if $(ARGS),$(ARGS),$(SIDE_BY_SIDE))

test-kernel: setup ## the netlink readers against kernel devices, in a virtual machine (as root, 4 minutes and more)
	@requirements/install-programs.sh "the virtual machine" $(KERNEL_PROGRAMS)
	@exec $(BIN)/python tests/kernel/run.py

test-arm64: setup ## what is built for nodes, on Debian 12 for arm64 and on Debian 13 (as root, 1 minute; the first time 4)
	@requirements/install-programs.sh "the root file systems" $(DEBIAN_PROGRAMS)
	@PYTHONPATH=release exec $(BIN)/python tests/debian/run.py

format: setup ## put the code into the one format, mend what ruff can mend
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

bench-ingest: setup .venv-bench/complete ## reports per second, beside the baseline, in one run
	@exec $(BIN)/python bench/ingest.py

bench-agent: setup ## what the agent costs a node, beside other agents where they are installed (as root)
	@exec $(BIN)/python bench/agent.py

bench-spool: setup ## what a day of reports that wait costs on disk, beside the same in SQLite
	@exec $(BIN)/python bench/spool.py

# --- The lab: nodes with systemd, SSH and WireGuard on this machine (tests/fleet)

FLEET := env PYTHONPATH=tests .venv-deploy/bin/python -m fleet
.PHONY: fleet fleet-down fleet-ssh fleet-run fleet-test build-for-fleet
fleet: setup-fleet ## boot a fleet of real nodes on this machine, and say how to go on (as root)
	@$(FLEET) up

fleet-down: setup-deploy ## remove every trace of the lab; its root file system stays for the next time
	@exec $(FLEET) down

fleet-ssh: ## a shell on a node of the lab: make fleet-ssh NODE=north-hub
	@exec $(FLEET) ssh $(NODE)

fleet-run: ## a command on the lab's control host: make fleet-run COMMAND="ansible all -m ansible.builtin.ping"
	@exec $(FLEET) run $(COMMAND)

fleet-test: setup-fleet-programs .venv-deploy/bin/python ## boot the lab anew, prove all that is promised of nodes, remove it (KEEP=1: let it stay); as root
	@reason=$$($(FLEET).prerequisites skip-reason) || exit; \
	if [ -n "$$reason" ]; then echo "fleet-test is skipped: $$reason"; \
	else $(MAKE) --no-print-directory -j3 setup-deploy fleet-root build-for-fleet && exec .venv-deploy/bin/pytest tests/fleet -v; fi

.PHONY: fleet-root
fleet-root: setup-fleet-programs .venv-deploy/bin/python
	@echo "Making the root file system of the nodes, once"; exec $(FLEET).prerequisites root

# Of the manager only what the lab's nodes take: their Python is Debian 12's.
build-for-fleet: build-agent
	@$(BIN)/python release/build_manager.py --pythons 3.11 --arches $$(dpkg --print-architecture)

# --- The promises about nodes, kept or not (tests/deploy)

.PHONY: verify
verify: setup-deploy ## is every node of a fleet as it was promised? make verify INVENTORY=inventory/hosts.yml
	@test -n "$(INVENTORY)" || { echo "Which fleet? make verify INVENTORY=inventory/hosts.yml" >&2; exit 2; }
	@PATH="$(CURDIR)/.venv-deploy/bin:$$PATH" exec .venv-deploy/bin/pytest tests/deploy --ansible-inventory="$(INVENTORY)" $(ARGS)

# --- Keeping it

.PHONY: docs requirements clean
docs: setup ## renew the generated parts of docs/: settings and database schema
	@$(BIN)/python docs/generate.py

# Relative to each other, the order matters: later ones are constrained by earlier ones.
requirements: .venv-tools/complete ## pin the newest versions of all dependencies, with hashes
	@for name in build install agent manager dev bench deploy tools; do \
		echo "requirements/$$name.txt"; \
		.venv-tools/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
			--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make requirements" \
			--no-emit-package kattila-protocol --no-emit-package kattila-agent --no-emit-package kattila-manager \
			--output-file requirements/$$name.txt requirements/$$name.in || exit; \
	done

clean: $(if $(wildcard tests/fleet/.lab),fleet-down) ## remove environments, caches, built things and ./kattila_manager.db with all its reports
	@rm -rf .venv .venv-bench .venv-deploy .venv-tools manager/.venv agent/bin manager/bin
	@rm -rf tests/debian/.cache tests/fleet/.cache tests/kernel/.cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	@rm -rf protocol/dist agent/dist manager/dist
	@rm -f kattila_manager.db kattila_manager.db-wal kattila_manager.db-shm
	@rm -f kattila_manager.db.lock kattila_manager.db.publishing kattila_manager.db.open kattila_manager.db.backup
	@find protocol agent manager tests demo bench docs release -name __pycache__ -type d -exec rm -rf {} + 2>/dev/null || true
