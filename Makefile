# Two commands matter: `make demo` shows the main job, `make test` proves everything.
# Both get what they need into .tools (see scripts/tools.sh) and leave the system alone.

export PATH := $(CURDIR)/.tools/bin:$(PATH)
export RUST_BACKTRACE = 0
# Where scripts/tools.sh unpacks packages.
ROOT := $(CURDIR)/.tools/root
# Valkey in the place of Redis, and its Sentinel too.
VALKEY := REDIS_SERVER_BIN=$(ROOT)/usr/bin/valkey-server cargo nextest run --test e2e

.PHONY: help demo test test-compose test-valkey pictures docs check fmt race audit build deb dist

help:
	@echo 'make demo    kill a primary and see redis-primary.service.consul move (1 minute after the build)'
	@echo 'make test    everything: check, rules, simulation, real servers (a part also on Valkey), containers (about 40 minutes on 2 cores, the first time)'
	@echo 'make test-compose  docker-compose.yml on stand-ins for the public images; skipped, loudly, without Docker (8 minutes)'
	@echo 'make test-valkey   all scenarios on real servers, with Valkey 8 instead of Redis'
	@echo 'make pictures  docs/img: the status page after a failover (1 minute after the build)'
	@echo 'make docs    docs/config.md and the schema of the config file, from the definitions'
	@echo 'make check   format, clippy, cargo-deny (bans, licenses, sources)'
	@echo 'make fmt     format the code'
	@echo 'make race    the benchmark beside the peers (about 10 minutes): docs/race.md'
	@echo 'make audit   security advisories; needs the advisory database on the network'
	@echo 'make build   target/release/consul-redis'
	@echo 'make deb     a Debian package in target/package: docs/packages.md'
	@echo 'make dist    a static program with its documents, checksums and an SBOM in target/package: docs/release.md'

demo:
	scripts/tools.sh servers
	cargo build --release
	target/release/consul-redis demo

test: check
	scripts/tools.sh tests
	scripts/tools.sh valkey
	cargo nextest run -E 'not binary(compose)'
	cargo test --doc
	$(VALKEY) -E 'test(switch::) | test(fencing::) | test(first_primary::) | test(switchover::)'
	$(MAKE) test-compose

test-compose:
	scripts/tools.sh servers
	cargo nextest run --test compose --no-capture

test-valkey:
	scripts/tools.sh tests
	scripts/tools.sh valkey
	$(VALKEY)

pictures:
	scripts/tools.sh page
	CONSUL_REDIS_PICTURES=docs/img cargo nextest run --test e2e a_failover_is_seen_without_a_reload

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
	cargo bench --bench race --bench switchover --bench reload --no-run
	PATH="$$PATH:$(ROOT)/usr/bin" LD_LIBRARY_PATH="$(ROOT)/usr/lib/$$(uname -m)-linux-gnu" \
		cargo bench --bench race --bench switchover --bench reload

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
NAME = consul-redis-$(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)-$(MACHINE)-linux

dist:
	scripts/tools.sh dist
	cargo rustc --release --locked -p consul-redis $(if $(HAS_MUSL),--target $(MUSL)) --bin consul-redis -- -C target-feature=+crt-static
	rm -rf target/package/$(NAME)* && mkdir -p target/package
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) cargo cyclonedx --quiet --format json --override-filename $(NAME).cdx
	rm -f core/$(NAME).cdx.json
	sed 's|file://$(CURDIR)|file:///consul-redis|g' $(NAME).cdx.json >target/package/$(NAME).cdx.json && rm $(NAME).cdx.json
	scripts/package.sh tar $(STATIC) target/package
	cargo nextest run --test dist
