# Two commands matter: `make demo` shows the main job, `make test` proves everything.
# Both get what they need into .tools (see scripts/tools.sh) and leave the system alone.

export PATH := $(CURDIR)/.tools/bin:$(PATH)
export RUST_BACKTRACE = 0
# Where scripts/tools.sh unpacks packages.
ROOT := $(CURDIR)/.tools/root
# Valkey in the place of Redis, and its Sentinel too.
VALKEY := REDIS_SERVER_BIN=$(ROOT)/usr/bin/valkey-server cargo nextest run --test e2e

.PHONY: help demo test test-compose test-valkey pictures docs check fmt race audit build deb

help:
	@echo 'make demo    kill a primary and see redis-primary.service.consul move (1 minute after the build)'
	@echo 'make test    everything: check, rules, simulation, real servers (a part also on Valkey), containers (about 35 minutes on 2 cores, the first time)'
	@echo 'make test-compose  docker-compose.yml on stand-ins for the public images; skipped, loudly, without Docker (5 minutes)'
	@echo 'make test-valkey   all scenarios on real servers, with Valkey 8 instead of Redis'
	@echo 'make pictures  docs/img: the status page after a failover (1 minute after the build)'
	@echo 'make docs    docs/config.md and the schema of the config file, from the definitions'
	@echo 'make check   format, clippy, cargo-deny (bans, licenses, sources)'
	@echo 'make fmt     format the code'
	@echo 'make race    the benchmark beside the peers (about 10 minutes): docs/race.md'
	@echo 'make audit   security advisories; needs the advisory database on the network'
	@echo 'make build   target/release/consul-redis'
	@echo 'make deb     a Debian package in target/package: docs/packages.md'

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
