#!/bin/sh
# Installs missing Debian packages for the tests (a PostgreSQL server, a Docker engine with tools to build images, an
# emulator of other processors) if run as root. Otherwise, tests that need them are skipped with a message.
set -eu
packages="postgresql-15 debootstrap docker-compose prometheus"
# Emulates a processor without AVX-512.
[ "$(uname -m)" = x86_64 ] && packages="$packages qemu-user"
# Debian's Docker engine would replace an engine from another source.
command -v dockerd >/dev/null || packages="$packages docker.io iptables"
missing=""
for package in $packages; do
    dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed \
        || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests that need$missing will be skipped: install the missing packages, or run as root on Debian" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # one word per package
apt-get install -qq --yes --no-install-recommends $missing >/dev/null
