#!/bin/sh
# Makes packages of a program that was built before: everything in them comes from this repository and from that program.
#
#   scripts/package.sh deb PROGRAM DIR [VERSION]    DIR/consul-redis_VERSION_ARCH.deb, by dpkg-deb
#   scripts/package.sh rpm PROGRAM DIR [VERSION]    DIR/consul-redis-VERSION.ARCH.rpm, by rpmbuild; PROGRAM is to be a static one
#   scripts/package.sh tar PROGRAM DIR              DIR/consul-redis-VERSION-ARCH-linux.tar.gz and its SHA256SUMS; PROGRAM is to be a static one
#
# Needs cargo (for the licences of what is built in), and for a .deb dpkg-deb, dpkg-shlibdeps (dpkg-dev) and strip (binutils);
# for an .rpm strip and rpmbuild (rpm), also that of `scripts/tools.sh rpm`.
# The same program gives the same bytes: times are SOURCE_DATE_EPOCH, or those of the last commit.
set -eu
umask 022
cd "$(dirname "$0")/.."

say() { echo "package: $*"; }
fail() {
    echo "package: $1" >&2
    echo "hint: $2" >&2
    exit 69
}
need() { command -v "$1" >/dev/null 2>&1 || fail "$1 is not here" "apt-get install $2"; }

# The licences of all crates that are built in, each text once: whoever hands on the program hands on these.
third_party() {
    sources=${CARGO_HOME:-$HOME/.cargo}/registry/src
    echo 'This program contains the following libraries, under the licences named. The texts follow.'
    echo
    cargo tree --locked --quiet --edges normal --prefix none --format '{p}|{l}' |
        sed -n 's/^\([^ ]*\) v\([^ |]*\)[^|]*|\(.*\)$/\1 \2  \3/p' | grep -v '^consul-redis ' | LC_ALL=C sort -u >"$work/crates"
    cat "$work/crates"
    : >"$work/texts"
    while read -r crate of _; do
        found=
        for file in "$sources"/*/"$crate-$of"/[Ll][Ii][Cc][Ee][Nn][CcSs][Ee]* "$sources"/*/"$crate-$of"/COPYING* \
            "$sources"/*/"$crate-$of"/NOTICE*; do
            [ -f "$file" ] || continue
            found=1
            printf '%s %s %s\n' "$(sha256sum <"$file" | cut -c 1-64)" "$crate-$of" "$file" >>"$work/texts"
        done
        # Some crates leave out the text that their licence is known by.
        [ -n "$found" ] || echo "$crate-$of: no text in its source; see the licence named above" >>"$work/without"
    done <"$work/crates"
    cut -d ' ' -f 1 "$work/texts" | LC_ALL=C sort -u | while read -r sum; do
        echo
        echo "---- $(grep "^$sum " "$work/texts" | cut -d ' ' -f 2 | LC_ALL=C sort -u | tr '\n' ' ')"
        cat "$(grep -m 1 "^$sum " "$work/texts" | cut -d ' ' -f 3)"
    done
    [ ! -f "$work/without" ] || cat "$work/without"
}

# What every package has besides the program, below $work.
gather() {
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.lock)}
    export SOURCE_DATE_EPOCH
    "$program" man "$work/man"
    mkdir -p "$work/completions"
    "$program" completions bash >"$work/completions/consul-redis"
    "$program" completions zsh >"$work/completions/_consul-redis"
    "$program" completions fish >"$work/completions/consul-redis.fish"
    third_party >"$work/third-party-licenses.txt"
    mkdir "$work/docs"
    cp docs/*.md docs/consul-redis.toml "$work/docs"
    cp -R docs/facts docs/schemas docs/how-to docs/tutorials "$work/docs"
    mkdir -p "$work/examples/consul" "$work/examples/systemd"
    install -m 644 consul/*.hcl consul/login* "$work/examples/consul"
    cp -R templates "$work/examples/templates"
    cp -R consul/templates "$work/examples/consul/templates"
    cp contrib/prometheus-rules.yml contrib/grafana-dashboard.json "$work/examples"
    cp contrib/systemd/templates.conf "$work/examples/systemd"
}

copyright() {
    echo 'consul-redis is under the MIT licence or the Apache licence, version 2.0 (/usr/share/common-licenses/Apache-2.0), at your choice.'
    echo 'The libraries in it: third-party-licenses.txt.gz beside this file.'
    echo
    cat LICENSE-MIT
}

# lay_out UNITS ZSH: $root is what a host gets, with systemd's units and zsh's completions where its distribution has them.
lay_out() {
    root=$work/root
    doc=$root/usr/share/doc/consul-redis
    mkdir -p "$doc"
    install -D -m 755 "$program" "$root/usr/bin/consul-redis"
    strip --strip-unneeded "$root/usr/bin/consul-redis"
    install -D -m 644 contrib/debian/consul-redis.toml "$root/etc/consul-redis/consul-redis.toml"
    for unit in consul-redis.service consul-redis@.service; do
        install -D -m 644 contrib/systemd/consul-redis.service "$root/$1/$unit"
    done
    install -D -m 644 -t "$root/usr/share/man/man1" "$work"/man/*.1
    gzip -9n "$root"/usr/share/man/man1/*.1
    install -D -m 644 "$work/completions/consul-redis" "$root/usr/share/bash-completion/completions/consul-redis"
    install -D -m 644 "$work/completions/_consul-redis" "$root/usr/share/zsh/$2/_consul-redis"
    install -D -m 644 "$work/completions/consul-redis.fish" "$root/usr/share/fish/vendor_completions.d/consul-redis.fish"
    cp -R README.md "$work"/docs/* "$doc"
    cp -R "$work/examples" "$doc/examples"
}

make_deb() {
    need dpkg-deb dpkg
    need dpkg-shlibdeps dpkg-dev
    need strip binutils
    gather
    lay_out lib/systemd/system vendor-completions
    mkdir "$root/DEBIAN"
    copyright >"$doc/copyright"
    gzip -9nc CHANGELOG.md >"$doc/changelog.gz"
    gzip -9nc "$work/third-party-licenses.txt" >"$doc/third-party-licenses.txt.gz"
    echo /etc/consul-redis/consul-redis.toml >"$root/DEBIAN/conffiles"
    for script in postinst prerm postrm; do
        install -m 755 "contrib/debian/$script" "$root/DEBIAN/$script"
    done
    (cd "$root" && find usr lib -type f -print0 | LC_ALL=C sort -z | xargs -0 md5sum >DEBIAN/md5sums)
    # It reads the name of a package from a source tree, and needs no more of one.
    mkdir "$work/debian"
    printf 'Source: consul-redis\n\nPackage: consul-redis\nArchitecture: any\n' >"$work/debian/control"
    depends=$(cd "$work" && dpkg-shlibdeps -O "$root/usr/bin/consul-redis" | sed -n 's/^shlibs:Depends=//p')
    cat >"$root/DEBIAN/control" <<CONTROL
Package: consul-redis
Version: $version
Architecture: $(dpkg --print-architecture)
Maintainer: ${DEB_MAINTAINER:-consul-redis packagers <consul-redis@packages.invalid>}
Installed-Size: $(du -k -s --apparent-size --exclude=DEBIAN "$root" | cut -f 1)
Depends: $depends, init-system-helpers (>= 1.52)
Recommends: ca-certificates
Section: database
Priority: optional
Description: keeps Consul pointing at the Redis writer
 It watches Redis Sentinel, and when that fails over it moves the names, keys and
 checks in Consul to the new primary, in one transaction and a few milliseconds
 after that can take writes. Any number of agents may run; none of them leads.
CONTROL
    find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    mkdir -p "$out"
    deb=$out/consul-redis_${version}_$(dpkg --print-architecture).deb
    dpkg-deb --root-owner-group --build "$root" "$deb" >/dev/null
    say "$deb"
}

# rpmbuild of the system, or of .tools with its own libraries and macros.
rpmbuild_here() {
    if command -v rpmbuild >/dev/null 2>&1; then
        rpmbuild "$@"
        return
    fi
    at=${RPM_ROOT:-$PWD/.tools/root}
    [ -x "$at/usr/bin/rpmbuild" ] || fail "rpmbuild is not here" "scripts/tools.sh rpm, or apt-get install rpm"
    LD_LIBRARY_PATH=$at/usr/lib/$(uname -m)-linux-gnu RPM_CONFIGDIR=$at/usr/lib/rpm "$at/usr/bin/rpmbuild" "$@"
}

make_rpm() {
    need strip binutils
    gather
    lay_out usr/lib/systemd/system site-functions
    licenses=$root/usr/share/licenses/consul-redis
    mkdir -p "$licenses" "$out"
    cp LICENSE-MIT LICENSE-APACHE "$work/third-party-licenses.txt" "$licenses"
    cp CHANGELOG.md "$doc"
    find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
    {
        cat <<SPEC
Name: consul-redis
Version: ${version%-*}
Release: ${version##*-}
Summary: Keeps Consul pointing at the Redis writer
License: MIT OR Apache-2.0
URL: $(sed -n 's/^homepage = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
AutoReqProv: no
Recommends: ca-certificates
%description
It watches Redis Sentinel, and when that fails over it moves the names, keys and
checks in Consul to the new primary, in one transaction and a few milliseconds
after that can take writes. Any number of agents may run; none of them leads.
%install
cp -a $root/. %{buildroot}
SPEC
        for script in post preun postun; do
            echo "%$script"
            cat "contrib/rpm/$script"
        done
        echo '%files'
        echo '%config(noreplace) /etc/consul-redis/consul-redis.toml'
        for own in etc/consul-redis usr/share/doc/consul-redis usr/share/licenses/consul-redis; do
            (cd "$root" && find "$own" -type d | sed 's|^|%dir /|')
        done
        (cd "$root" && find usr -type f | sed 's|^|/|') | LC_ALL=C sort
    } >"$work/consul-redis.spec"
    rpmbuild_here -bb --quiet --target "$(uname -m)-linux" --buildroot "$work/buildroot" \
        --define "_topdir $work/rpm" --define "_rpmdir $(realpath "$out")" --define "_dbpath $work/rpm/db" \
        --define '_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm' \
        --define '__os_install_post %{nil}' --define 'debug_package %{nil}' --define '_buildhost localhost' \
        --define "_binary_payload ${RPM_PAYLOAD:-w9.gzdio}" --define 'use_source_date_epoch_as_buildtime 1' --define '_build_id_links none' "$work/consul-redis.spec" >&2
    say "$out/consul-redis-$version.$(uname -m).rpm"
}

make_tar() {
    gather
    name=consul-redis-$version-$(uname -m)-linux
    root=$work/$name
    mkdir -p "$root"
    install -m 755 "$program" "$root/consul-redis"
    cp -R "$work/man" "$work/completions" "$work/docs" "$work/examples" "$root"
    cp README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$work/third-party-licenses.txt" "$root"
    install -D -m 644 contrib/systemd/consul-redis.service "$root/systemd/consul-redis.service"
    install -D -m 644 contrib/debian/consul-redis.toml "$root/consul-redis.toml"
    mkdir -p "$out"
    tar -C "$work" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" -c "$name" |
        gzip -9n >"$out/$name.tar.gz"
    (cd "$out" && sha256sum "$name".* >SHA256SUMS)
    say "$out/$name.tar.gz"
}

[ $# -ge 3 ] || fail "too few words" "scripts/package.sh deb|rpm|tar PROGRAM DIR"
program=$(realpath "$2")
[ -x "$program" ] || fail "$2 is no program" "make build"
out=$3
version=$("$program" --version | cut -d ' ' -f 2)
case "$1" in
deb)
    version=${4:-$version-1}
    make_deb
    ;;
rpm)
    version=${4:-$version-1}
    make_rpm
    ;;
tar) make_tar ;;
*) fail "unknown package '$1'" "one of: deb, rpm, tar" ;;
esac
