#!/bin/sh
# Generates Python code beside each .proto; with --check, compares it with the committed code instead.
set -eu
cd "$(dirname "$0")/../.."
out=.
if [ "${1:-}" = --check ]; then
    out=$(mktemp -d)
    trap 'rm -rf "$out"' EXIT
fi
.venv/bin/python -m grpc_tools.protoc -I. --python_out="$out" --pyi_out="$out" --grpc_python_out="$out" \
    $(find protos -name '*.proto' | sort)
# protos/inference/v2/own_pool.py explains why.
sed -i 's/^from google\.protobuf import descriptor_pool as/from protos.inference.v2 import own_pool as/' \
    "$out/protos/inference/v2/inference_pb2.py"
[ "$out" = . ] && exit 0
status=0
for file in $(cd "$out" && find protos -name '*.py*'; find protos -name '*_pb2*' -not -path '*/__pycache__/*'); do
    cmp -s "$out/$file" "$file" || { echo "$file does not match its .proto: run 'make protos'" >&2; status=1; }
done
exit $status
