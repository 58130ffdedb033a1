# Two commands: `make demo` shows what Podwall does, `make test` shows that it is right.
# Both install the Debian packages that they need (scripts/deps says which) and build.

CARGO ?= cargo
# Where cargo builds, as cargo itself asks.
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help demo test bench build lint fmt fuzz docs clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 10

demo: ## real packets through real policies, before and after, beside what the engine said
	@scripts/deps demo
	@$(CARGO) build --quiet --release -p podwall
	@exec $(TARGET)/release/podwall demo

test: ## everything that can be tested
	@scripts/deps test
	@scripts/test

bench: ## what policy costs, and all other figures of docs/performance.md (needs root; half an hour)
	@scripts/deps bench
	@scripts/bench

build: ## the program, in target/release/podwall
	@scripts/deps build
	$(CARGO) build --release -p podwall

lint: ## what CI says of style
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings

fmt: ## format the sources
	$(CARGO) fmt --all

fuzz: ## ten minutes of random input for each reader of input and the evaluator
	@scripts/fuzz

docs: ## man pages and completions, in target/docs
	$(CARGO) build --release -p podwall
	mkdir -p target/docs
	$(TARGET)/release/podwall man target/docs
	for shell in bash zsh fish; do $(TARGET)/release/podwall completions $$shell > target/docs/podwall.$$shell; done

clean: ## what was built
	$(CARGO) clean
