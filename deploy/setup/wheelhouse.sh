#!/bin/sh
# Fetches the wheels of the images into deploy/docker/wheelhouse, from which the images are then built offline.
# PyTorch's CPU build has a local version label. If pip's index does not provide it, set PIP_EXTRA_INDEX_URL to the
# index of PyTorch.
#
#   deploy/setup/wheelhouse.sh [REQUIREMENT...]    further wheels, at their locked versions
set -eu
cd "$(dirname "$0")/../.."
caches=${XDG_CACHE_HOME:-$HOME/.cache}/deepseek-mesh
mkdir -p "$caches"
folder=$(mktemp -d "$caches/wheels.XXXXXX")
trap 'rm -rf "$folder"' EXIT
# Direct dependencies at their locked versions; pip resolves the others, which depend on the build of PyTorch.
extras=$(.venv/bin/python -c 'from deepseek.services import SERVICES; print(*(f"--extra {name}" for name in SERVICES))')
# shellcheck disable=SC2086  # one word per flag and name
.venv/bin/uv pip compile --quiet --no-deps --no-strip-extras --python-version 3.11 --constraint requirements.lock \
    --no-annotate --no-header $extras --extra postgres \
    pyproject.toml --output-file "$folder/requirements.txt"
printf '%s\n' setuptools uv "$@" >> "$folder/requirements.txt"
cache=$caches/wheels-$(cat requirements.lock "$folder/requirements.txt" | sha256sum | cut -c 1-16)
fetch() {
    .venv/bin/pip download --quiet --disable-pip-version-check --only-binary :all: --dest "$folder" \
        --constraint requirements.lock "$@" 2>"$folder/log" || { cat "$folder/log" >&2; exit 1; }
}
if [ ! -d "$cache" ]; then
    fetch --no-deps "$(sed -n 's/^torch==\([0-9.]*\).*/torch==\1+cpu/p' requirements.lock)"
    fetch --find-links "$folder" --requirement "$folder/requirements.txt"
    mv "$folder" "$cache"
fi
rm -f deploy/docker/wheelhouse/*.whl
cp --link "$cache"/*.whl deploy/docker/wheelhouse/ 2>/dev/null || cp "$cache"/*.whl deploy/docker/wheelhouse/
