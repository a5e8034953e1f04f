# Two commands matter: `make demo` shows the main job, `make test` proves everything.
# Both get what they need into .tools (see scripts/tools.sh) and leave the system alone.

export PATH := $(CURDIR)/.tools/bin:$(PATH)
export RUST_BACKTRACE = 0
# Where scripts/tools.sh unpacks packages.
ROOT := $(CURDIR)/.tools/root
QUICK := kind(lib) | binary(rules) | binary(sim) | binary(cluster_sim) - test(contract) | binary(docs) | binary(book) | binary(cli) \
	| test(=switch::the_name_follows_the_writer_at_level_promotion)

.PHONY: help demo test quick test-compose test-versions pictures docs book check fmt race scale chaos audit build deb rpm dist owner

help:
	@echo 'make demo    kill a primary and see redis-primary.service.consul move (half a minute after the build)'
	@echo 'make test    everything: check, rules, simulation, real servers of several versions, containers (45 minutes on 2 cores after the build)'
	@echo 'make quick   the inner loop: rules, a tenth of the simulation, units, documents, one real failover (90 seconds after the build)'
	@echo 'make test-compose   docker-compose.yml on stand-ins for the public images; skipped, loudly, without Docker (8 minutes)'
	@echo 'make test-versions  all scenarios on each Redis and Valkey of Debian, and README says so; MODULES="switch relocated" for some, CONSUL_BINS for several Consuls'
	@echo 'make pictures  docs/img: the status page after a failover (1 minute after the build)'
	@echo 'make docs    docs/config.md, the schema of the config file and the figures of docs/guarantees.md, findings, metrics, names and exit codes, from the definitions'
	@echo 'make book    target/book/html: docs/ as a searchable site, by mdBook'
	@echo 'make check   format, clippy, cargo-deny (bans, licenses, sources)'
	@echo 'make fmt     format the code'
	@echo 'make race    the benchmark beside the peers (about 45 minutes): docs/race.md'
	@echo 'make scale   very many groups on one agent (10 minutes): docs/scale.md'
	@echo 'make chaos   faults drawn from a seed, on real servers, and a checker: FAULTS=200 SEED=1 LEVEL=promotion MODE=node; docs/chaos.md'
	@echo 'make audit   security advisories; needs the advisory database on the network'
	@echo 'make build   target/release/consul-redis'
	@echo 'make deb     a Debian package in target/package: docs/packages.md'
	@echo 'make rpm     an RPM package of the static program in target/package'
	@echo 'make owner   sets the account that the repository is at: NAME=account'
	@echo 'make dist    a static program with its documents, checksums and an SBOM in target/package: docs/release.md'

# Built as the tests are: a release, whole-program optimised, takes minutes more and shows the same.
demo:
	scripts/tools.sh servers
	cargo build
	target/debug/consul-redis demo

test: check
	scripts/tools.sh tests
	TMPDIR=$$(scripts/scratch.sh) cargo nextest run
	cargo test --doc

quick:
	scripts/tools.sh servers
	CONSUL_REDIS_HISTORIES=200 cargo nextest run -E '$(QUICK)'

test-compose:
	scripts/tools.sh servers
	cargo nextest run --test compose --no-capture

test-versions:
	scripts/tools.sh tests
	scripts/versions.sh all $(MODULES)

pictures:
	scripts/tools.sh page
	CONSUL_REDIS_PICTURES=docs/img cargo nextest run --test e2e a_failover_is_seen_without_a_reload

book:
	scripts/tools.sh book
	scripts/book.sh

# The account that the repository is at: `make owner NAME=account`.
owner:
	@test -n '$(NAME)' || { echo 'hint: make owner NAME=account' >&2; exit 64; }
	sed -i 's|https://github.com/[^/]*/consul-redis|https://github.com/$(NAME)/consul-redis|' Cargo.toml
	sed -i 's|^\* @.*|* @$(NAME)|' .github/CODEOWNERS

docs:
	CONSUL_REDIS_DOCS=write cargo nextest run --test book

check:
	scripts/tools.sh deny
	cargo fmt --check
	cargo clippy --all-targets -- -D warnings
	cargo deny --log-level error check bans licenses sources

fmt:
	cargo fmt

race:
	scripts/tools.sh race
	cargo bench --bench race --bench switchover --bench deaths --bench cluster --bench reload --no-run
	PATH="$$PATH:$(ROOT)/usr/bin" LD_LIBRARY_PATH="$(ROOT)/usr/lib/$$(uname -m)-linux-gnu" \
		cargo bench --bench race --bench switchover --bench deaths --bench cluster --bench reload

scale:
	scripts/tools.sh servers
	cargo bench --bench scale

# Not by nextest, which ends what takes long. SHRINK=1 looks for the faults that matter, ROUND=n does that round alone.
FAULTS ?= 200
SEED ?= 1
LEVEL ?= promotion
MODE ?= node
chaos:
	scripts/tools.sh chaos
	CHAOS_FAULTS='$(FAULTS)' CHAOS_SEED='$(SEED)' CHAOS_LEVEL='$(LEVEL)' CHAOS_MODE='$(MODE)' CHAOS_ROUND='$(ROUND)' \
		CHAOS_SHRINK='$(SHRINK)' CHAOS_GO_ON='$(GO_ON)' CHAOS_KEEP=1 \
		cargo test --test chaos what_is_promised -- --nocapture

audit:
	scripts/tools.sh deny
	cargo deny check advisories

build:
	cargo build --release

deb: build
	scripts/package.sh deb target/release/consul-redis target/package

# Linked statically: with musl where rustup has its target, else with glibc, and then all libraries are those of `make build`.
# The SBOM does not say which directory it was made in.
MACHINE = $(shell uname -m)
MUSL = $(MACHINE)-unknown-linux-musl
HAS_MUSL = $(wildcard $(shell rustc --print sysroot)/lib/rustlib/$(MUSL))
STATIC = $(if $(HAS_MUSL),target/$(MUSL)/release,target/release)/consul-redis
BUILD_STATIC = cargo rustc --release --locked -p consul-redis $(if $(HAS_MUSL),--target $(MUSL)) --bin consul-redis -- -C target-feature=+crt-static
NAME = consul-redis-$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)-$(MACHINE)-linux

# One for all distributions: it needs no library of theirs.
rpm:
	scripts/tools.sh rpm
	$(BUILD_STATIC)
	scripts/package.sh rpm $(STATIC) target/package

dist:
	scripts/tools.sh dist
	$(BUILD_STATIC)
	rm -rf target/package/$(NAME)* && mkdir -p target/package
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) cargo cyclonedx --quiet --format json --override-filename $(NAME).cdx
	rm -f core/$(NAME).cdx.json
	sed 's|file://$(CURDIR)|file:///consul-redis|g' $(NAME).cdx.json >target/package/$(NAME).cdx.json && rm $(NAME).cdx.json
	scripts/package.sh tar $(STATIC) target/package
	cargo nextest run --test dist
