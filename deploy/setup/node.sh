#!/bin/sh
# Installs the locked packages of the client in tests/e2e/node, if node and npm are installed. Otherwise, the test that
# needs them is skipped with a message.
set -eu
cd "$(dirname "$0")/../../tests/e2e/node"
# A copy of the lock file records what was installed last.
cmp -s package-lock.json node_modules/.installed.json && exit 0
skipped="the test of a client in another language will be skipped"
if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "$skipped: install node and npm" >&2
    exit 0
fi
npm ci --silent --no-audit --no-fund --ignore-scripts \
    || { echo "$skipped: npm cannot install its packages" >&2; exit 0; }
cp package-lock.json node_modules/.installed.json
