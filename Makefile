SHELL = /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
BUILD_AND_PINS := requirements/create-venv.sh requirements/build.txt
PIP := -m pip --quiet --disable-pip-version-check
# Our own packages have no hash, so they are installed separately, without downloading anything.
PIP_OWN := install --no-deps --no-build-isolation

.PHONY: help
help: ## show this help
	@echo "Usage: make TARGET. Targets:"
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
		printf '  %-14s %s\n' "$$name" "$$text"; \
	done

# --- Environments. A stamp file marks a complete one; the next call finishes an incomplete one.

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
	@echo "Installing the benchmark's baseline into .venv-bench"
	@.venv-bench/bin/python $(PIP) install --require-hashes -r requirements/bench.txt
	@touch $@

.venv-tools/complete: requirements/create-venv.sh requirements/tools.txt
	@requirements/create-venv.sh .venv-tools
	@.venv-tools/bin/python $(PIP) install --require-hashes -r requirements/tools.txt
	@touch $@

setup-deploy: .venv-deploy/collections/complete ## create .venv-deploy with Ansible, its linters, the node checks and our collection
	@:

# Enough to make the lab's root file system while Ansible is being installed.
.venv-deploy/bin/python:
	@requirements/create-venv.sh .venv-deploy

.venv-deploy/complete: requirements/create-venv.sh requirements/deploy.txt | .venv-deploy/bin/python
	@requirements/create-venv.sh .venv-deploy
	@echo "Installing Ansible and its linters into .venv-deploy"
	@.venv-deploy/bin/python $(PIP) install --require-hashes -r requirements/deploy.txt
	@touch $@

# The playbooks use the collection's plugins by their full names, which only an installed collection has.
COLLECTION := galaxy.yml meta/runtime.yml README.md CHANGELOG.md LICENSE \
	$(shell find plugins roles playbooks inventory.example -type f -not -name '*.pyc')
.venv-deploy/collections/complete: .venv-deploy/complete $(COLLECTION)
	@echo "Installing the collection kattila.status into .venv-deploy"
	@rm -rf .venv-deploy/collections .venv-deploy/kattila-status-*.tar.gz
	@.venv-deploy/bin/ansible-galaxy collection build --output-path .venv-deploy . >/dev/null
	@.venv-deploy/bin/ansible-galaxy collection install --offline -p .venv-deploy/collections \
		.venv-deploy/kattila-status-*.tar.gz >/dev/null
	@touch $@

# Programs for the tests, each with its Debian package.
TEST_PROGRAMS := knotd/knot ip/iproute2 mke2fs/e2fsprogs nft/nftables wg/wireguard-tools wireguard-go/wireguard-go
FLEET_PROGRAMS := ip/iproute2 mmdebstrap/mmdebstrap setpriv/util-linux ssh/openssh-client sysctl/procps \
	systemd-nspawn/systemd-container unshare/util-linux

setup-test: ## install the Debian packages for the tests (as root), or list the missing ones
	@requirements/install-programs.sh "the tests" $(TEST_PROGRAMS)

KERNEL_PROGRAMS := qemu-system-x86_64/qemu-system-x86 mmdebstrap/mmdebstrap mke2fs/e2fsprogs
DEBIAN_PROGRAMS := mmdebstrap/mmdebstrap arch-test/arch-test qemu-aarch64-static/qemu-user-static

setup-fleet: setup-deploy setup-fleet-programs ## install the requirements of make fleet (as root)
	@:

setup-fleet-programs:
	@requirements/install-programs.sh "the lab" $(FLEET_PROGRAMS)

# --- Run

.PHONY: demo run-manager
demo: setup ## run DNS, manager, agent and page on this machine until Ctrl-C
	@exec $(BIN)/python demo/run.py

run-manager: setup-manager ## run the manager on port 5086
	@exec manager/.venv/bin/kattila-manager serve

# --- Build

PYTHONS := 3.11 3.12 3.13
ARCHES := amd64 arm64
.PHONY: build-agent build-manager
build-agent: setup ## build the agent as one file per architecture: agent/bin/agent-amd64 and agent-arm64
	@$(BIN)/python release/build_agent.py

build-manager: setup ## build offline installers in manager/bin: make build-manager PYTHONS=3.11 ARCHES=amd64
	@$(BIN)/python release/build_manager.py --pythons $(PYTHONS) --arches $(ARCHES)

# --- Check

.PHONY: check check-long lint lint-deploy test test-kernel test-arm64 format bench-ingest bench-agent bench-spool
CHECK := lint lint-deploy test fleet-test
check: $(CHECK) ## run all checks of CI: linters, tests with reduced counts, and the lab if it can run here

check-long: setup ## run check with full counts, test-kernel and test-arm64, and print a summary (as root)
	@exec $(BIN)/python tests/check_long.py $(CHECK) test-kernel test-arm64

lint: setup ## ruff, mypy --strict, import contracts, plain English
	@echo "ruff"; $(BIN)/ruff check --quiet . && $(BIN)/ruff format --quiet --check .
	@echo "mypy"; $(BIN)/mypy
	@echo "import contracts"; $(BIN)/lint-imports --no-logo
	@echo "plain English"; $(BIN)/python docs/plain_english.py

# ansible-lint needs ansible on PATH.
DEPLOYED := .ansible-lint galaxy.yml meta plugins roles playbooks inventory.example
lint-deploy: setup-deploy ## run yamllint and ansible-lint (profile production) on the collection
	@echo "yamllint"; .venv-deploy/bin/yamllint --strict $(DEPLOYED)
	@echo "ansible-lint"; PATH="$(CURDIR)/.venv-deploy/bin:$$PATH" ansible-lint -q $(DEPLOYED)

# Most tests mostly wait, so four run at a time. A file's tests stay in one process and share its fixtures. Files keep
# their order, because the slow ones are not the last.
SIDE_BY_SIDE := -n 4 --dist loadfile --no-loadscope-reorder
test: setup setup-test $(if $(wildcard .venv-deploy/complete),setup-deploy) ## run all tests, four at a time; or some, one at a time: make test ARGS="tests/protocol -k window"
	@$(BIN)/pytest $(if $(ARGS),$(ARGS),$(SIDE_BY_SIDE))

test-kernel: setup ## check the netlink readers against kernel devices in a virtual machine (as root, 4 minutes or more)
	@requirements/install-programs.sh "the virtual machine" $(KERNEL_PROGRAMS)
	@exec $(BIN)/python tests/kernel/run.py

test-arm64: setup ## check the built files on Debian 12 for arm64 and on Debian 13 (as root, 1 minute; first time 4)
	@requirements/install-programs.sh "the root file systems" $(DEBIAN_PROGRAMS)
	@PYTHONPATH=release exec $(BIN)/python tests/debian/run.py

format: setup ## format the code, and apply ruff's automatic fixes
	@$(BIN)/ruff check --quiet --fix-only .
	@$(BIN)/ruff format .

bench-ingest: setup .venv-bench/complete ## measure reports per second of the manager and of the baseline
	@exec $(BIN)/python bench/ingest.py

bench-agent: setup ## measure the agent's cost for a node, and of other agents if installed (as root)
	@PYTHONPATH=release exec $(BIN)/python bench/agent.py

bench-spool: setup ## measure the disk cost of a day of undelivered reports, and of the same in SQLite
	@exec $(BIN)/python bench/spool.py

# --- The lab: nodes with systemd, SSH and WireGuard on this machine (tests/fleet)

FLEET := env PYTHONPATH=tests .venv-deploy/bin/python -m fleet
.PHONY: fleet fleet-down fleet-ssh fleet-run fleet-test build-for-fleet
fleet: setup-fleet ## boot a fleet of real nodes on this machine, and show what to do next (as root)
	@$(FLEET) up

fleet-down: setup-deploy ## remove the lab except its root file system, which is reused
	@exec $(FLEET) down

fleet-ssh: ## open a shell on a node of the lab: make fleet-ssh NODE=north-hub
	@exec $(FLEET) ssh $(NODE)

fleet-run: ## run a command on the lab's control host: make fleet-run COMMAND="ansible all -m ansible.builtin.ping"
	@exec $(FLEET) run $(COMMAND)

fleet-test: setup-fleet-programs .venv-deploy/bin/python ## boot a new lab, test the rollout and all nodes, remove the lab (KEEP=1 keeps it); as root
	@reason=$$($(FLEET).prerequisites skip-reason) || exit; \
	if [ -n "$$reason" ]; then echo "fleet-test is skipped: $$reason"; \
	else $(MAKE) --no-print-directory -j3 setup-deploy fleet-root build-for-fleet && exec .venv-deploy/bin/pytest tests/fleet -v; fi

.PHONY: fleet-root
fleet-root: setup-fleet-programs .venv-deploy/bin/python
	@echo "Making the nodes' root file system (only once)"; exec $(FLEET).prerequisites root

# The lab's nodes have Debian 12's Python, so one tarball of the manager is enough.
build-for-fleet: build-agent
	@$(BIN)/python release/build_manager.py --pythons 3.11 --arches $$(dpkg --print-architecture)

# --- Checks on the nodes of a fleet (tests/deploy)

.PHONY: verify
verify: setup-deploy ## check every node of a fleet: make verify INVENTORY=inventory/hosts.yml
	@test -n "$(INVENTORY)" || { echo "no inventory: run make verify INVENTORY=inventory/hosts.yml" >&2; exit 2; }
	@PATH="$(CURDIR)/.venv-deploy/bin:$$PATH" exec .venv-deploy/bin/pytest tests/deploy --ansible-inventory="$(INVENTORY)" $(ARGS)

# --- Maintain

.PHONY: docs requirements clean
docs: setup ## renew the generated parts of docs/: settings and database schema
	@$(BIN)/python docs/generate.py

# The order matters: earlier files constrain later ones.
requirements: .venv-tools/complete ## pin the newest versions of all dependencies, with hashes
	@for name in build install agent manager dev bench deploy tools; do \
		echo "requirements/$$name.txt"; \
		.venv-tools/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 \
			--generate-hashes --no-emit-index-url --no-annotate --custom-compile-command "make requirements" \
			--no-emit-package kattila-protocol --no-emit-package kattila-agent --no-emit-package kattila-manager \
			--output-file requirements/$$name.txt requirements/$$name.in || exit; \
	done

clean: $(if $(wildcard tests/fleet/.lab),fleet-down) ## remove environments, caches, build output and ./kattila_manager.db with all its reports
	@rm -rf .venv .venv-bench .venv-deploy .venv-tools manager/.venv agent/bin manager/bin
	@rm -rf tests/debian/.cache tests/fleet/.cache tests/kernel/.cache .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage
	@rm -rf protocol/dist agent/dist manager/dist kattila-status-*.tar.gz
	@rm -f kattila_manager.db kattila_manager.db-wal kattila_manager.db-shm
	@rm -f kattila_manager.db.lock kattila_manager.db.publishing kattila_manager.db.open kattila_manager.db.backup
	@find protocol agent manager tests demo bench docs release -name __pycache__ -type d -exec rm -rf {} + 2>/dev/null || true
