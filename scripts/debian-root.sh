#!/bin/sh
# Unpacks Debian packages, with everything that they depend on, below a directory: a clean system to make images of, or to install
# packages into. No maintainer script runs, and neither root nor a chroot is needed; dpkg in there takes all of it for installed.
#
#   scripts/debian-root.sh DIR PACKAGE...
set -eu
cd "$(dirname "$0")/.."
RELEASE=bookworm

fail() {
    echo "debian-root: $1" >&2
    echo "hint: $2" >&2
    exit 69
}

[ $# -ge 2 ] || fail "too few words" "scripts/debian-root.sh DIR PACKAGE..."
command -v apt-get >/dev/null 2>&1 || fail "apt-get is not here" "run this on Debian"
mkdir -p "$1"
root=$(realpath "$1")
shift
apt=$(mktemp -d)
trap 'rm -rf "$apt"' EXIT
mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
run() {
    apt-get -qq -o Debug::NoLocking=1 -o APT::Sandbox::User="$(id -un)" \
        -o Dir::State::Lists="$apt/lists" -o Dir::Cache="$apt/cache" "$@"
}
# The system's own lists may be empty, as in a container image.
run update
mirror=$(run indextargets --format '$(REPO_URI)' "Codename: $RELEASE" | head -n 1)
[ -n "$mirror" ] || fail "apt has no mirror of Debian $RELEASE configured" "run this on Debian $RELEASE"
: >"$apt/status"
run -o Dir::State::status="$apt/status" --yes --no-install-recommends --download-only install "$@" >/dev/null
# As Debian installs it: one /usr.
for dir in bin sbin lib lib64; do
    mkdir -p "$root/usr/$dir"
    [ -e "$root/$dir" ] || ln -s "usr/$dir" "$root/$dir"
done
database=$root/var/lib/dpkg
mkdir -p "$database/info" "$database/updates" "$database/triggers"
: >"$database/available"
# Names of files of a package that may be there for two architectures have the architecture in them.
echo 1 >"$database/info/format"
for package in "$apt"/cache/archives/*.deb; do
    dpkg-deb --fsys-tarfile "$package" | tar -x --no-same-owner --keep-directory-symlink -C "$root"
    name=$(dpkg-deb --field "$package" Package)
    [ "$(dpkg-deb --field "$package" Multi-Arch)" != same ] || name=$name:$(dpkg-deb --field "$package" Architecture)
    dpkg-deb --fsys-tarfile "$package" | tar -t | sed 's|^\.||; s|/$||; s|^$|/.|' >"$database/info/$name.list"
    dpkg-deb --ctrl-tarfile "$package" | tar -x -O ./md5sums >"$database/info/$name.md5sums" 2>/dev/null || true
    {
        dpkg-deb --field "$package" | sed '1a Status: install ok installed'
        echo
    } >>"$database/status"
done
