# One image for both roles: a Redis by default, a Sentinel with SENTINEL=1. docs/deploy.md has the settings.
#
#   docker build -t consul-redis .
#   docker run -e CONSUL_HTTP_ADDR=consul:8500 consul-redis
#   docker run -e CONSUL_HTTP_ADDR=consul:8500 -e SENTINEL=1 consul-redis
ARG RUST_IMAGE=rust:1-bookworm
ARG REDIS_IMAGE=redis:7-bookworm

FROM ${RUST_IMAGE} AS build
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY benches benches
COPY consul consul
COPY core core
COPY src src
RUN cargo build --release --locked

# The servers are the official image's own; of its shell and its entrypoint nothing is used.
FROM ${REDIS_IMAGE}
COPY --from=build /src/target/release/consul-redis /usr/local/bin/consul-redis
COPY docker/redis.conf /etc/consul-redis/redis.conf
ENV CONSUL_REDIS_CONF_DIR=/etc/consul-redis
# The official image's user `redis`, by number, for those who check that it is not root.
USER 999:999
WORKDIR /data
VOLUME /data
EXPOSE 6379 26379
HEALTHCHECK --interval=5s --timeout=3s --start-period=60s --retries=3 CMD ["consul-redis", "health"]
ENTRYPOINT ["consul-redis", "exec", "--"]
CMD []
