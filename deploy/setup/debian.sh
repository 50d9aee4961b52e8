#!/bin/sh
# Installs missing Debian packages that tests use (a PostgreSQL server, a Docker engine with tools to build images, an
# emulator of other processors), if we have the rights. Otherwise, tests that need them are skipped and say so.
set -eu
packages="postgresql-15 debootstrap docker-compose prometheus"
# Emulates a processor without AVX-512.
[ "$(uname -m)" = x86_64 ] && packages="$packages qemu-user"
# Debian's engine would drive out one that came from elsewhere.
command -v dockerd >/dev/null || packages="$packages docker.io iptables"
missing=""
for package in $packages; do
    dpkg-query --show --showformat='${db:Status-Status}\n' "$package" 2>/dev/null | grep -qx installed || missing="$missing $package"
done
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
    echo "tests of$missing will be skipped: install it, or run as root on Debian" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
# shellcheck disable=SC2086  # one word a package
apt-get install -qq --yes --no-install-recommends $missing >/dev/null
