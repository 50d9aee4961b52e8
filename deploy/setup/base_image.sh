#!/bin/sh
# Builds a base image without a registry: Debian with Python, as a tar file for `docker import`. Requires root.
#
#   deploy/setup/base_image.sh FILE
set -eu
file=$1
[ -s "$file" ] && exit 0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates \
    bookworm "$folder/root" >"$folder/log" 2>&1 \
    || { tail -20 "$folder/log" >&2; exit 1; }
tar --create --file="$folder/tar" --directory="$folder/root" --numeric-owner \
    --exclude='./var/cache/apt/*' --exclude='./var/lib/apt/lists/*' --exclude='./usr/share/doc/*' \
    --exclude='./usr/share/locale/*' --exclude='./usr/share/man/*' --exclude='./dev/*' --exclude='./proc/*' .
mkdir -p "$(dirname "$file")"
# The move is atomic, so the file is complete as soon as it exists.
cp "$folder/tar" "$file.$$"
mv "$file.$$" "$file"
