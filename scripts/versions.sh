#!/bin/sh
# Scenarios of tests/e2e on the Redis and Valkey of .tools/versions (scripts/tools.sh versions puts them there), each server and its
# Sentinels, and on several Consuls: programs in CONSUL_BINS, or the usual one.
#
#   scripts/versions.sh list              the supported ones, the oldest of each family first
#   scripts/versions.sh run NAME ARG...   nextest with these arguments on one of them: run valkey-9.1 -E 'test(switch::)'
#   scripts/versions.sh row NAME [MODULE...]  all scenarios, or those of some modules of tests/e2e, on one and each Consul, noted for the table
#   scripts/versions.sh table             what was noted becomes README's table "Works with"
#   scripts/versions.sh all [MODULE...]   row for each supported one, then the table
set -eu
cd "$(dirname "$0")/.."
tools=$PWD/.tools
versions=$tools/versions
rows=target/versions
# What is older is not supported (.tools/versions has it all the same); src/lab/tools.rs has the same.
REDIS_MIN=6.0
VALKEY_MIN=8.0
FAMILIES="redis valkey"

fail() {
    echo "versions: $1" >&2
    echo "hint: $2" >&2
    exit 69
}

# family NAME: its supported versions, the oldest first.
family() {
    [ "$1" = redis ] && least=$REDIS_MIN || least=$VALKEY_MIN
    for dir in "$versions/$1"-*; do
        number=${dir##*-}
        [ ! -x "$dir/bin/redis-server" ] ||
            [ "$(printf '%s\n%s\n' "$least" "$number" | sort -V | head -n 1)" != "$least" ] || echo "$number"
    done | sort -V | sed "s/^/$1-/"
}

list() {
    for name in $FAMILIES; do family "$name"; done
}

# version_of PROGRAM: Redis 7.0.15, Valkey 9.1.2
version_of() {
    LD_LIBRARY_PATH=$tools/root/usr/lib/$(uname -m)-linux-gnu "$1" --version | sed -E 's/^([A-Za-z]+) server v=([0-9.]+).*/\1 \2/'
}

# run NAME ARG...
run() {
    server=$versions/$1/bin/redis-server
    [ -x "$server" ] || fail "there is no $1 in .tools/versions" "run scripts/tools.sh versions; there are: $(list | tr '\n' ' ')"
    shift
    REDIS_SERVER_BIN=$server cargo nextest run --test e2e "$@"
}

# scenarios [MODULE...]: nextest's filter for all, or for those of some modules.
scenarios() {
    [ $# -gt 0 ] || set -- '.*'
    # `make test` has its versions in on_versions::.
    printf '(%s) - test(on_versions::)' "$(printf 'test(/^%s::/) | ' "$@" | sed 's/ | $//')"
}

# row NAME [MODULE...]: fails when a scenario did.
row() {
    name=$1
    shift
    filter=$(scenarios "$@")
    [ $# -gt 0 ] && what=$(printf '%s, ' "$@" | sed 's/, $//') || what=all
    mkdir -p "$rows"
    well=0
    for consul in ${CONSUL_BINS:-usual}; do
        [ "$consul" != usual ] || consul=$(command -v consul || echo "$tools/root/usr/bin/consul")
        consul_version=$("$consul" version | sed -n '1s/^Consul v\([0-9.]*\).*/\1/p')
        log=$rows/$consul_version-$name.log
        # A second try would hide what fails now and then.
        CONSUL_BIN=$consul run "$name" --retries 0 -E "$filter" >"$log" 2>&1 || well=1
        cat "$log"
        summary=$(sed -n 's/.*Summary \[[^]]*\] *\([0-9]*\)[/0-9]* tests\{0,1\} run: \([0-9]*\) passed.*/\2 of \1/p' "$log" | tail -n 1)
        printf '| %s | Consul %s | %s | %s | %s |\n' "$(version_of "$versions/$name/bin/redis-server")" "$consul_version" \
            "$(date -u +%Y-%m-%d)" "$what" "${summary:-none}" >"$rows/$consul_version-$name.row"
    done
    return $well
}

table() {
    begin='<!-- scripts/versions.sh writes this table -->'
    end='<!-- until here -->'
    grep -qF "$begin" README.md || fail "README.md has no line $begin" "put it there, and $end"
    {
        sed "\\|$begin|q" README.md
        echo '| server and Sentinel | Consul | run on | scenarios | passed |'
        echo '|---|---|---|---|---|'
        for name in $(list); do cat "$rows"/*-"$name".row 2>/dev/null || true; done
        sed -n "\\|$end|,\$p" README.md
    } >"$rows/README.md"
    cp "$rows/README.md" README.md
}

# all [MODULE...]
all() {
    rm -rf "$rows"
    well=0
    for each in $(list); do (row "$each" "$@") || well=1; done
    table
    return $well
}

case "${1:-}" in
list | run | row | table | all) "$@" ;;
*) fail "unknown command '${1:-}'" "one of: list, run, row, table, all" ;;
esac
