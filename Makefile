# The one menu. `make` prints it.
.DEFAULT_GOAL := help
.PHONY: help need test test-core test-model check

help: ## print this menu
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

need:
	@for program in git cargo cc; do command -v $$program >/dev/null 2>&1 || \
	  { echo "meshrollout needs '$$program' on PATH, and it is not there: install it, then run make again" >&2; exit 1; }; done

test: need ## every test there is today, the same that CI runs (about three minutes with nothing cached)
	@echo "building and running the tests of the core and of the program; the first build fetches crates and takes about two minutes"
	cargo test --locked
	cargo check --locked -p meshrollout-core
	cargo check --locked --workspace --all-targets
	@echo "not part of 'make test' yet: the control-plane scenarios and the demo (see README, 'What is not there yet')"

test-core: need ## the core alone: units and decision stories, seconds
	cargo test --locked -p meshrollout-core

test-model: need ## the model check of the real decide; prints states, depth and properties
	cargo test --locked -p meshrollout-core --test model -- --nocapture

check: need ## formatting and lints, warnings are errors
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
