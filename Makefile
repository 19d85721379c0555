# Commands for operators and developers. `make help` lists them.
# Every one sets up .venv first (tools/setup.sh), which takes no time once that is done.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules

# Ansible and Molecule start their helpers by name. pyenv's shims would answer to some of those names first.
export PATH := $(CURDIR)/.venv/bin:$(shell tr : '\n' <<<"$$PATH" | grep -v '/shims$$' | paste -sd :)
# Ansible's temporary files and caches stay in the checkout.
export ANSIBLE_HOME := $(CURDIR)/.ansible
# ssh's control sockets do not: their paths may have no more than 108 bytes, wherever the checkout lies.
export ANSIBLE_SSH_CONTROL_PATH_DIR := $(HOME)/.ansible/cp
export PYTHON

DEMO := inventory/demo/hosts.yml
INVENTORY ?= $(DEMO)
ifneq ($(filter inventory/demo inventory/demo/,$(INVENTORY)),)
override INVENTORY := $(DEMO)
endif
# The lab is built only for the demo: who names an inventory has machines.
needs_lab := $(if $(filter $(DEMO),$(INVENTORY)),lab)
playbook = ansible-playbook -i '$(INVENTORY)' $(if $(LIMIT),--limit '$(LIMIT)') $(ARGS)
lab = PYTHONPATH=tests python -m lab
BENCH ?= environments fleet scale pull rollout

.PHONY: help
help: ## list the targets
	@echo 'usage: make TARGET [NAME=VALUE ...]'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do printf '  %-12s %s\n' "$$name" "$$text"; done
	@echo
	@echo '  INVENTORY=PATH   the inventory to work on (default: $(DEMO), which brings its own nodes)'
	@echo '  LIMIT=PATTERN    only these hosts          ARGS="..."   more arguments for ansible-playbook, pytest or molecule'
	@echo '  SCENARIO=NAME    only this scenario        PYTHON=PATH  the Python that .venv is made with'
	@echo '  BENCH=NAME       only this benchmark, of benchmarks/NAME.py'

.PHONY: setup
setup: ## make .venv: Ansible and the tools, exactly as locked
	@tools/setup.sh

.PHONY: site
site: setup $(needs_lab) ## bring all nodes of an inventory to their desired state
	@$(playbook) playbooks/site.yml
	@$(if $(findstring --check,$(ARGS)),:,PYTHONPATH=tests python tools/next_steps.py '$(INVENTORY)')

.PHONY: check
check: setup ## say how far the nodes of an inventory are from their desired state
	@$(playbook) playbooks/check.yml

.PHONY: lab-packages
lab-packages: ## install the system packages that the lab needs
	@tools/lab_packages.sh

.PHONY: lab
lab: setup lab-packages ## start the demo's nodes: containers on this machine
	@$(lab) up --inventory $(DEMO)

.PHONY: lab-down
lab-down: setup ## stop and remove the demo's nodes
	@$(lab) down --inventory $(DEMO)

.PHONY: lint
lint: setup ## ruff, mypy, yamllint, changelog fragments, ansible-lint
	ruff check .
	ruff format --check .
	tools/typecheck.sh
	yamllint --strict .
	antsibull-changelog lint
	ansible-lint

.PHONY: unit
unit: setup ## the tests that need no node and little time
	pytest -m 'not slow' -n 2 $(ARGS) tests/unit

.PHONY: acceptance
acceptance: setup lab-packages ## what the project promises, tried on lab nodes: kills, drift, bad input
	pytest -m 'not slow' $(ARGS) tests/acceptance

.PHONY: test-slow
test-slow: setup lab-packages ## the tests that need many minutes each, which `make test` leaves out
	pytest -m slow $(ARGS) tests/unit tests/acceptance || { code=$$?; [ $$code = 5 ] && echo 'No test is marked as slow.' || exit $$code; }

.PHONY: docs-check
docs-check: setup ## every plugin and role is documented, and correctly
	python tools/docs_check.py
	antsibull-docs lint-collection-docs --plugin-docs --validate-collection-refs=all .

.PHONY: build
build: setup ## build the collection's archive
	@tools/build.sh

.PHONY: sanity
sanity: setup ## ansible-test sanity
	@tools/sanity.sh $(ARGS)

.PHONY: molecule
molecule: setup lab-packages ## test the roles on lab nodes, all scenarios or one
	molecule test $(if $(SCENARIO),--scenario-name '$(SCENARIO)',--all --report) $(ARGS)

.PHONY: test
test: setup ## everything, the quick parts first, up to the first failure
	@tools/run_steps.sh lint unit docs-check build sanity site check molecule acceptance

.PHONY: bench
bench: site ## what everything costs, in ratios; with CONDA_EXE=PATH beside that conda
	@for name in $(BENCH); do printf '\n== %s\n' "$$name"; PYTHONPATH=tests python "benchmarks/$$name.py" $(ARGS); done

.PHONY: lock
lock: setup ## lock requirements-dev.in for all supported Pythons (ARGS=--upgrade: newer versions)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url $(ARGS) --output-file requirements-dev.txt requirements-dev.in

.PHONY: clean
clean: ## remove .venv and all caches; the lab's nodes stay
	rm -rf .venv .cache .ansible .hypothesis
	find . -path ./.git -prune -o -name __pycache__ -type d -exec rm -rf {} +
