#!/bin/sh
# Makes stand-ins for the public images that the Dockerfile and docker-compose.yml name, from Debian's packages, where no registry can be
# reached or none should be. They are called consul-redis-standin/..., so nothing is mistaken for the real ones, and stay for the next time.
#
#   scripts/images.sh PROGRAM    redis, consul, and a builder whose `cargo build` puts PROGRAM in place
#   scripts/images.sh clean      takes them all away again
#
# Needs Docker, apt-get and dpkg; neither root nor a chroot. What a stand-in cannot show: that PROGRAM compiles in the real builder.
set -eu
cd "$(dirname "$0")/.."
tools=$PWD/.tools
standin=consul-redis-standin
base=$standin/base:bookworm
# The servers, what they need, and a shell for the builder.
PACKAGES="base-files dash coreutils ca-certificates redis-server redis-sentinel"

say() { echo "images: $*"; }
fail() {
    echo "images: $1" >&2
    echo "hint: $2" >&2
    exit 69
}
exists() { docker image inspect "$1" >/dev/null 2>&1; }

# build TAG DIR: from a directory with a Dockerfile. The builder that every Docker has.
build() {
    DOCKER_BUILDKIT=0 docker build --quiet --tag "$1" "$2" >/dev/null 2>"$2.log" || {
        cat "$2.log" >&2
        fail "cannot build $1" "see above"
    }
}

# All packages with everything that they depend on, unpacked; no maintainer script runs.
make_base() {
    exists "$base" && return
    say "making $base from Debian's packages"
    apt=$tools/apt/images
    rm -rf "$apt"
    # shellcheck disable=SC2086
    scripts/debian-root.sh "$apt/root" $PACKAGES
    rm -rf "$apt/root/var/lib/dpkg"
    rm -rf "$apt/root/usr/share/doc" "$apt/root/usr/share/man" "$apt/root/usr/share/locale" "$apt/root/usr/share/info"
    # What the official images have, too.
    printf '%s\n' 'root:x:0:0:root:/root:/bin/sh' 'redis:x:999:999::/data:/usr/sbin/nologin' \
        'consul:x:100:1000::/consul:/usr/sbin/nologin' >"$apt/root/etc/passwd"
    printf '%s\n' 'root:x:0:' 'redis:x:999:' 'consul:x:1000:' >"$apt/root/etc/group"
    mkdir -p "$apt/root/data" "$apt/root/consul/data" "$apt/root/consul/config" "$apt/root/root" "$apt/root/tmp"
    chmod 1777 "$apt/root/tmp"
    (
        cd "$apt/root"
        tar -c --numeric-owner --owner=0 --group=0 --exclude=./data --exclude=./consul .
    ) >"$apt/base.tar"
    (
        cd "$apt/root"
        tar -r -f "$apt/base.tar" --numeric-owner --owner=999 --group=999 ./data
        tar -r -f "$apt/base.tar" --numeric-owner --owner=100 --group=1000 ./consul
    )
    docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
        "$apt/base.tar" "$base" >/dev/null
    rm -rf "$apt"
}

make_redis() {
    exists "$standin/redis:7-bookworm" && return
    dir=$(mktemp -d)
    printf '%s\n' "FROM $base" 'VOLUME /data' 'WORKDIR /data' 'EXPOSE 6379' 'CMD ["redis-server"]' >"$dir/Dockerfile"
    build "$standin/redis:7-bookworm" "$dir"
    rm -rf "$dir" "$dir.log"
}

# With the part of the official entrypoint that docker-compose.yml uses: `agent` gets its directories.
make_consul() {
    exists "$standin/consul:1" && return
    scripts/tools.sh servers
    consul=${CONSUL_BIN:-$(command -v consul || echo "$tools/root/usr/bin/consul")}
    dir=$(mktemp -d)
    cp -L "$consul" "$dir/consul"
    cat >"$dir/docker-entrypoint.sh" <<'END'
#!/bin/sh
set -e
if [ "$1" = agent ]; then
    shift
    set -- consul agent -data-dir=/consul/data -config-dir=/consul/config "$@"
fi
exec "$@"
END
    chmod +x "$dir/docker-entrypoint.sh" "$dir/consul"
    printf '%s\n' "FROM $base" 'COPY consul docker-entrypoint.sh /usr/local/bin/' 'USER 100:1000' 'VOLUME /consul/data' \
        'ENTRYPOINT ["docker-entrypoint.sh"]' 'CMD ["agent", "-dev", "-client", "0.0.0.0"]' >"$dir/Dockerfile"
    build "$standin/consul:1" "$dir"
    rm -rf "$dir" "$dir.log"
}

# `cargo build` with the result that this machine's cargo has had already.
make_rust() {
    dir=$(mktemp -d)
    cp -L "$1" "$dir/consul-redis"
    cat >"$dir/cargo" <<'END'
#!/bin/sh
set -e
[ "$1" = build ] && [ -f Cargo.toml ] && [ -f Cargo.lock ] && [ -f src/main.rs ]
mkdir -p target/release
cp /prebuilt/consul-redis target/release/consul-redis
END
    chmod +x "$dir/cargo"
    printf '%s\n' "FROM $base" 'COPY consul-redis /prebuilt/' 'COPY cargo /usr/local/bin/' >"$dir/Dockerfile"
    build "$standin/rust:1-bookworm" "$dir"
    rm -rf "$dir" "$dir.log"
}

case "${1:-}" in
'') fail "no program" "scripts/images.sh target/debug/consul-redis" ;;
clean)
    docker images --quiet --filter "reference=$standin/*" | sort -u | xargs -r docker rmi --force
    ;;
*)
    [ -x "$1" ] || fail "$1 is no program" "cargo build first"
    docker info >/dev/null 2>&1 || fail "no Docker answers" "start it, or run this where it is"
    make_base
    make_redis
    make_consul
    make_rust "$1"
    ;;
esac
