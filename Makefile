# vmheal. `make demo` shows the main job, `make test` proves it. `make help` lists the rest.
# Debian's own, which its packages here are for; another one: make PYTHON=python3.12 ...
PYTHON ?= /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
# The lab and the tests that start daemons need root.
ROOT := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=CI,KEEP)
SHELL := /bin/bash
# How often `make bench-loss` loses a host, and `make bench-pause` cuts a link.
RUNS ?= 10
# How many schedules of faults `make test` plays in virtual time.
SCHEDULES ?= 20000

.PHONY: help dev lint test test-fast new-site demo bench bench-exporter bench-webhook bench-loss bench-recovery bench-failover bench-pause bench-disk bench-scale bench-page soak-arbiter soak hunt dashboards pictures lock clean deb wheel reference sbom
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

dev: $(VENV)/.ready  ## the development environment .venv, with both programs in it

$(VENV)/.ready: requirements/dev.txt pyproject.toml tests/install-debian.sh
	@tests/install-debian.sh dev
	@echo "Making $(VENV) from requirements/dev.txt"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/dev.txt
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: test-packages test-contract
test-packages:
	@tests/install-debian.sh dev test

lint: dev  ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check --no-cache .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-fast: dev lint  ## the tests that start no daemon
	$(BIN)/pytest -m "not daemons and not lab and not drill and not bench and not abuse"

test: test-packages dev $(VENV)/.fuzz lint  ## fast tests first, then simulated schedules, real programs, the core drills on whole hosts
	$(BIN)/pytest -n 2 -m "not daemons and not lab and not drill and not bench and not abuse"
	$(BIN)/python -m tests.simulator.run --runs $(SCHEDULES)
	$(BIN)/python -m tests.api
	$(ROOT) $(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder -m "daemons"
	$(ROOT) $(BIN)/pytest -m "drill and core"

test-lab: test-packages dev  ## the lab's own tests, on whole hosts; the Debian packages in a new Debian
	$(ROOT) $(BIN)/pytest -m "lab" tests/lab tests/install

test-contract: test-packages dev  ## what the simulator's models say of DRBD and libvirt, against the real ones; half an hour
	$(BIN)/pytest -m "not daemons and not lab" tests/contract
	$(ROOT) $(BIN)/pytest -m "daemons or lab" tests/contract

drill: test-packages dev  ## one drill alone: make drill NAME=test_a_host_is_killed
	$(ROOT) $(BIN)/pytest -m "drill" -k "$(NAME)" tests/lab

new-site: test-packages dev  ## docs/first-steps.md, typed on bare hosts, up to a host kill
	$(ROOT) $(BIN)/pytest -m "drill" tests/lab/test_new_site.py

drills: test-packages dev  ## all faults on whole hosts; takes some hours
	$(ROOT) $(BIN)/pytest -m "drill"

EVENTS ?= 3
SECONDS ?= 3600
soak-arbiter: dev  ## search the arbiter further: EVENTS=3 SECONDS=3600, RULE="R6" takes a rule out
	$(BIN)/python -m tests.sim.search --no-stuck --events $(EVENTS) --seconds $(SECONDS) $(if $(RULE),--without "$(RULE)")

SEED ?= 1
soak: dev  ## schedules of faults by chance, in virtual time, for SECONDS=3600 from SEED=1 on; WITHOUT="..." takes something out
	$(BIN)/python -m tests.simulator.run --seed $(SEED) --seconds $(SECONDS) --reach $(if $(WITHOUT),--without "$(WITHOUT)")

.PHONY: fuzz api-test
api-test: $(VENV)/.fuzz  ## Schemathesis against the running actuator, by its own OpenAPI description
	$(BIN)/python -m tests.api $(SEED)

fuzz: SECONDS = 600
fuzz: $(VENV)/.fuzz  ## feed every parser what nobody should send, for SECONDS=600 in all, from SEED=1 on
	$(BIN)/python -m tests.fuzz --seconds $(SECONDS) --seed $(SEED)

$(VENV)/.fuzz: requirements/fuzz.txt $(VENV)/.ready
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/fuzz.txt
	@touch $@

hunt: dev  ## what keeps the promise is taken out, part by part: which schedule breaks it then?
	$(BIN)/python -m tests.simulator.hunt

demo: test-packages dev  ## the main job on whole hosts, told line by line; KEEP=1 leaves it running
	$(ROOT) $(BIN)/python -m tests.demo

bench: bench-exporter bench-webhook bench-loss bench-recovery  ## measure: what a scrape costs, how fast all answers

bench-exporter: test-packages dev
	@tests/install-debian.sh bench
	$(ROOT) $(BIN)/python -m tests.bench.exporter

bench-webhook: dev
	$(BIN)/python -m tests.bench.webhook

bench-loss: test-packages dev  ## lose a host with 20 VMs, DRBD replayed; RUNS=10 times with each proof; 20 minutes
	$(ROOT) $(BIN)/python -m tests.bench.loss --runs $(RUNS)

bench-recovery: test-packages dev
	$(ROOT) $(BIN)/python -m tests.bench.recovery

bench-failover: test-packages dev  ## kill a host with three VMs ten times, with AGENT=1 fenced; half an hour
	$(ROOT) $(BIN)/python -m tests.bench.failover $(if $(AGENT),--agent)

bench-pause: test-packages dev  ## cut a VM's replication link RUNS (10) times; takes a quarter of an hour
	$(ROOT) $(BIN)/python -m tests.bench.pause --runs $(RUNS)

bench-disk: test-packages dev  ## fio in a guest on LVM alone and on DRBD's protocols A, B, C; PICTURE=FILE.svg; half an hour and more
	@tests/install-debian.sh bench
	$(ROOT) $(BIN)/python -m tests.bench.disk $(if $(PICTURE),--picture $(PICTURE))

bench-scale: dev  ## how the actuator grows to 200 hosts with 4,000 VMs, a rack of them lost at once
	$(BIN)/python -m tests.bench.scale

.PHONY: security
security: test-packages dev  ## try everything that must not work, with the key and over the network; write the table of docs/security.md
	$(ROOT) $(BIN)/python -m tests.table

.PHONY: abuse
abuse: test-packages dev  ## what strangers and stolen tokens do over the network, the heavy load too; five minutes
	$(ROOT) $(BIN)/pytest -m "daemons or abuse" tests/network

reference: dev  ## write docs/configuration.md, dependencies.md, metrics.md, openapi.json, manual pages anew
	$(BIN)/python -m docs.reference

.PHONY: audit
audit: dev  ## known vulnerabilities of what is locked, asked of PyPI
	@test -x .cache/audit/bin/python || $(PYTHON) -m venv .cache/audit
	@.cache/audit/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/audit.txt
	$(BIN)/python -m docs.reference.audit .cache/audit/bin/pip-audit

sbom: dev  ## what the locked requirements put onto a host, with licences and hashes, into dist/
	@mkdir -p dist
	$(BIN)/python -m docs.reference.sbom dist/vmheal.cdx.json

deb: dev  ## Debian packages, for hosts without PyPI, into dist/
	$(BIN)/python .ci/deb dist

wheel: dev  ## the wheel and the sdist, into dist/
	$(BIN)/python -m build --no-isolation --outdir dist

bench-page: dev  ## how soon the status page answers with 200 hosts and 4,000 VMs
	$(BIN)/python -m tests.bench.page

dashboards: dev  ## write grafana/json anew from the code in grafana/
	$(BIN)/python -m grafana

pictures: test-packages dev  ## play for the dashboards and the status page, and draw docs/pictures from it
	@folder=$$(mktemp -d) && trap 'rm -rf $$folder' EXIT && \
	$(ROOT) $(BIN)/python -m tests.grafana.play $$folder && \
	$(ROOT) $(BIN)/python -m tests.grafana.pictures $$folder docs/pictures
	$(ROOT) $(BIN)/python -m tests.line.page docs/pictures

lock: dev  ## compile requirements/*.txt anew from requirements/*.in
	cd requirements && for name in exporter actuator dev fuzz audit; do \
	    ../$(BIN)/uv pip compile --quiet --upgrade --generate-hashes --python-version 3.11 \
	        --no-emit-index-url --no-emit-find-links --no-header --no-annotate $$name.in -o $$name.txt; done

clean:  ## remove what was built here (the lab's image cache too)
	rm -rf $(VENV) .cache dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
