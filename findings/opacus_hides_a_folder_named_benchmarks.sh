#!/bin/sh
# Once opacus 1.6.0 is installed, Python no longer finds a project's own modules in a folder `benchmarks` or `examples`.
#
# The wheel of Opacus contains three top-level packages: `opacus`, and the `benchmarks` and `examples` of its own
# repository. A folder without `__init__.py` is a namespace package, and Python prefers any regular package on the
# search path to a namespace package, even if the folder comes first. The `benchmarks` of Opacus has an `__init__.py`.
# It therefore hides the folder, also if the program is started in the project's root with `python -m`. An
# `__init__.py` in the project's folder prevents this.
#
# Expected: `python -m benchmarks.speed` runs the project's module, before and after the installation. Observed: after
# the installation, Python reports "No module named benchmarks.speed".
# Exits with 1 if the result changes.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir -p "$folder/project/benchmarks"
echo 'print("found")' >"$folder/project/benchmarks/speed.py"
python3 -m pip install --quiet --disable-pip-version-check --no-deps --target "$folder/packages" opacus==1.6.0
speed() {
    (cd "$folder/project" && PYTHONPATH=$1 PYTHONDONTWRITEBYTECODE=1 python3 -m benchmarks.speed 2>&1) | tail -n 1
}
before=$(speed "")
after=$(speed "$folder/packages")
touch "$folder/project/benchmarks/__init__.py"
regular=$(speed "$folder/packages")
echo "top-level packages of opacus 1.6.0:" $(cat "$folder"/packages/opacus-1.6.0.dist-info/top_level.txt)
echo "python -m benchmarks.speed without opacus: $before"
echo "with opacus: ${after##*: }"
echo "with opacus and an __init__.py: $regular"
case $after in *"No module named benchmarks.speed"*) ;; *) exit 1 ;; esac
[ "$before" = found ] && [ "$regular" = found ]
