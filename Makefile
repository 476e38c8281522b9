# The one menu. `make` prints it.
.DEFAULT_GOAL := help
.PHONY: help need test test-core test-model tools e2e-control-plane check

help: ## print this menu
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

need:
	@for program in git cargo cc; do command -v $$program >/dev/null 2>&1 || \
	  { echo "meshrollout needs '$$program' on PATH, and it is not there: install it, then run make again" >&2; exit 1; }; done

test: need ## every test there is today, the same that CI runs (about three minutes with nothing cached)
	@echo "building and running the tests of the core and of the program; the first build fetches crates and takes about two minutes"
	cargo test --locked
	cargo check --locked -p meshrollout-core
	cargo check --locked --workspace --all-targets
	@echo "skipped: 1 scenario on a real control plane (make e2e-control-plane; builds its programs first, about 17 minutes). Not there yet: the operator, its scenarios and the demo (see README)"

test-core: need ## the core alone: units and decision stories, seconds
	cargo test --locked -p meshrollout-core

test-model: need ## the model check of the real decide; prints states, depth and properties
	cargo test --locked -p meshrollout-core --test model -- --nocapture

tools: ## the programs of a control plane, built once and cached (about 17 minutes on two cores)
	e2e/tools/build control-plane

e2e-control-plane: need tools ## the scenarios on a real control plane
	cargo test --locked -p meshrollout-e2e -- --nocapture

check: need ## formatting and lints, warnings are errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
