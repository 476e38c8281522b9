# The one menu; `make` prints it.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test test-core test-model test-faults test-planted soak bench e2e-control-plane e2e-data-plane tools check deny image bless need-rust need-all

# LANES and THREADS say how much of e2e runs at one time; see e2e/run.
LOG = $(or $(CARGO_TARGET_DIR),target)/test.log

help: ## print this menu
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: need-all ## the story on a real control plane; as root with real sidecars, else (or SCRIPTED=1) without; KEEP=1 leaves it up
	@echo "what is missing is built first: the program, two minutes; the programs of a control plane, about 11 minutes, once"
	@e2e/tools/build control-plane > /dev/null
	@if [ "$$(id -u)" -eq 0 ] && [ -z "$(SCRIPTED)" ]; then e2e/tools/build data-plane > /dev/null; fi
	@cargo build --locked --quiet -p meshrollout -p meshrollout-e2e
	@cargo run --locked --quiet -p meshrollout-e2e -- demo

# What is built once gains nothing from being cut into pieces that can be built again.
test: export CARGO_INCREMENTAL ?= 0
test: export BEGUN := $(shell date +%s)
test: need-all ## everything, the same that CI runs
	@echo "1. the tests of the core and of the program: five minutes, most of them the first build"
	@echo "2. the programs of a control plane, from source: about 11 minutes on two idle cores, once; then cached outside this folder (or TOOLS=FOLDER)"
	@echo "3. the scenarios on real control planes, and beside them the model check: a quarter of an hour"
	@mkdir -p $(dir $(LOG)); : > $(LOG); status=0; \
	cargo test --locked --no-run --workspace --lib --bins --test '*' 2>&1 | tee -a $(LOG) || status=1; \
	cargo test --locked --no-fail-fast --workspace 2>&1 | tee -a $(LOG) || status=1; \
	cargo check --locked -p meshrollout-core || status=1; \
	{ e2e/tools/build control-plane && e2e/tools/build chart && e2e/tools/build truth && e2e/tools/build traces && e2e/run; } 2>&1 | tee -a $(LOG) || status=1; \
	tests/summary $(LOG) || status=1; \
	exit $$status

test-core: need-rust ## the core alone: units, stories, properties; seconds
	cargo test --locked -p meshrollout-core

test-model: need-rust ## the model check of the real decide; prints states, depth and properties
	cargo test --locked -p meshrollout-core --test model -- --nocapture

test-faults: need-all tools ## 500 fault schedules, a kill at every write, 200 leader swaps, the planted bugs; two hours
	@status=0; \
	SCHEDULES=500 cargo test --locked --workspace --test scenarios -- faults:: --nocapture || status=1; \
	WHOLE=1 CLUSTERS=4 cargo test --locked --workspace --test scenarios -- kills:: --nocapture || status=1; \
	SWAPS=200 CLUSTERS=4 cargo test --locked --workspace --test scenarios -- leaders:: --nocapture || status=1; \
	$(MAKE) --no-print-directory test-planted || status=1; \
	exit $$status

test-planted: need-all tools ## bugs planted in a copy of the program, each gate taken out among them, each to be found
	HUNT=1 cargo test --locked --workspace --test scenarios -- planted:: --nocapture

soak: need-all tools ## ten minutes at rest and ten under pod churn on 50 namespaces; prints requests, writes and memory
	SOAK=1 cargo test --locked --workspace --test scenarios -- soak:: --nocapture

bench: need-all tools ## preflight against istioctl analyze on the same files: time, peak memory, ratios; ten minutes with the first build
	@cargo build --locked --quiet --release -p meshrollout
	@e2e/bench $(or $(CARGO_TARGET_DIR),target)/release/meshrollout "$$(e2e/tools/build control-plane)/istioctl"

e2e-control-plane: need-all tools ## the scenarios on real control planes, and beside them the model check
	e2e/run

e2e-data-plane: need-all tools ## real sidecars, real clients, every request counted; as root
	e2e/run data_plane

tools: need-all ## the programs of a control plane, built once and cached; honours TOOLS=FOLDER
	@e2e/tools/build control-plane

check: need-rust ## formatting and lints, warnings are errors; and that each bug to plant still has its place
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --workspace --test scenarios --test model -- -D warnings
	cargo test --locked --quiet --workspace --test scenarios -- planted::

deny: need-all ## licences, bans and sources of what ships; five minutes with the first build of cargo-deny
	@"$$(e2e/tools/build deny)/cargo-deny" --config .deny.toml check licenses bans sources
	@echo "advisories: not asked, their database is a git repository of its own; with network: cargo deny --config .deny.toml check advisories"

image: need-all ## the image, without Docker, built twice to one digest; prints size, digest and the list of its parts; a quarter of an hour
	@.ci/image "$(or $(CARGO_TARGET_DIR),target)/image"

bless: need-all ## rewrite CRDs, the rendered chart and expected outputs; read the difference like code
	SNAPSHOTS=overwrite cargo test --locked
	charts/render > charts/.install.yaml && mv charts/.install.yaml charts/install.yaml
	charts/readme > charts/meshrollout/README.md

# TOOLS holds what go would build.
need-all: NEEDED = git cargo cc python3 $(if $(TOOLS),,go)
need-rust: NEEDED = git cargo cc
need-all need-rust:
	@missing=; for program in $(NEEDED); do command -v $$program >/dev/null || missing="$$missing $$program"; done; \
	if [ -n "$$missing" ]; then echo "not on PATH, please install:$$missing" >&2; exit 1; fi
