#!/bin/sh
# On processors without VNNI, ONNX Runtime 1.31.1 gives different answers for an int8 file with and without graph
# optimizations.
#
# The defaults of quantize_static (QDQ) give 8-bit weights. With graph optimizations, on x86-64 processors without VNNI,
# a quantized MatMul multiplies u8 by s8 with vpmaddubsw. This instruction adds two products in 16 bits, and the sum
# saturates. Without optimizations, the same file multiplies float32 numbers between QuantizeLinear and
# DequantizeLinear, so nothing saturates. Signed activations, the default of quantize_static, do not help: they give the
# same wrong answers as unsigned ones. 7-bit weights (reduce_range=True) help. A file that was verified on a processor
# with VNNI may therefore give wrong answers on another processor.
#
# Expected: the answers differ only by rounding. Observed on Haswell: an error of 33 %, or 0 % with reduce_range. The
# error is the root mean square of the difference, divided by the standard deviation of the answers.
# Exits with 1 if the result changes, and with 2 if no processor without VNNI is available or can be emulated.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --disable-pip-version-check --target "$folder" \
    onnxruntime==1.31.1 onnx==1.23.2 numpy==2.4.6
run=""
if grep -qw -e avx512_vnni -e avx_vnni /proc/cpuinfo; then
    run="qemu-x86_64 -cpu Haswell"
    command -v qemu-x86_64 >/dev/null || { echo "this processor has VNNI; install qemu-user" >&2; exit 2; }
fi
cat >"$folder/make.py" <<'PYTHON'
import sys

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

folder = sys.argv[1]
random = np.random.default_rng(0)
# Neighbouring inputs are equal and have equal weights, much like neighbouring pixels of an image.
weights = np.repeat(random.uniform(-1, 1, (32, 16)), 2, axis=0).astype(np.float32)
graph = helper.make_graph(
    [helper.make_node("MatMul", ["x", "w"], ["y"])],
    "product",
    [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 64])],
    [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 16])],
    [numpy_helper.from_array(weights, "w")],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
onnx.save(model, f"{folder}/float.onnx")
samples = np.repeat(random.uniform(0, 1, (64, 32)), 2, axis=1).astype(np.float32)
np.save(f"{folder}/samples.npy", samples)


class Samples(CalibrationDataReader):
    def __init__(self):
        self.batches = iter([{"x": samples}])

    def get_next(self):
        return next(self.batches, None)


for name, options in {
    "u8 s8": {"activation_type": QuantType.QUInt8},
    "s8 s8": {"activation_type": QuantType.QInt8},
    "u8 s7": {"activation_type": QuantType.QUInt8, "reduce_range": True},
}.items():
    quantize_static(
        f"{folder}/float.onnx",
        f"{folder}/{name}.onnx",
        Samples(),
        quant_format=QuantFormat.QDQ,
        weight_type=QuantType.QInt8,
        per_channel=True,
        **options,
    )
PYTHON
cat >"$folder/compare.py" <<'PYTHON'
import sys

import numpy as np
import onnxruntime as ort

folder = sys.argv[1]
samples = np.load(f"{folder}/samples.npy")


def answers(name, level):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.log_severity_level = 3
    session = ort.InferenceSession(f"{folder}/{name}.onnx", options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": samples})[0]


optimized, error = {}, {}
for name in ("u8 s8", "s8 s8", "u8 s7"):
    plain = answers(name, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    optimized[name] = answers(name, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    error[name] = round(float(np.sqrt(np.mean((optimized[name] - plain) ** 2)) / plain.std()), 3)
same = bool(np.array_equal(optimized["u8 s8"], optimized["s8 s8"]))
print("onnxruntime", ort.__version__, "error of optimized against unoptimized, by form:", error)
print("signed activations answer as unsigned ones:", same)
sys.exit(not (error["u8 s8"] > 0.1 and error["s8 s8"] > 0.1 and error["u8 s7"] < 0.01))
PYTHON
export PYTHONPATH="$folder"
python=$(python3 -c 'import sys; print(sys.executable)')
"$python" -W ignore "$folder/make.py" "$folder" 2>"$folder/errors" || { cat "$folder/errors" >&2; exit 1; }
# shellcheck disable=SC2086  # a command and its options
$run "$python" "$folder/compare.py" "$folder" 2>"$folder/errors" || { cat "$folder/errors" >&2; exit 1; }
