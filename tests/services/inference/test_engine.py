"""One model on ONNX Runtime."""

import gc
import multiprocessing
import os
import threading
import weakref
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from common.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from services.inference.engine import DTYPES, Engine, Mode
from tests.services.inference.models import (
    build,
    external_model,
    identity_model,
    question_model,
    relu_model,
    scale_model,
    tensor,
    unchecked,
)
from tests.services.inference.quantized import network, pixels


def open_engine(tmp_path: Path, model: bytes, **settings: Any) -> Engine:
    path = tmp_path / "model.onnx"
    path.write_bytes(model)
    engine = Engine(path, **settings)
    path.unlink()
    return engine


def question_inputs(n: int = 2, q: int = 3) -> dict[str, Any]:
    random = np.random.default_rng(1)
    return {
        "image": random.integers(0, 256, (n, 8, 8, 3), np.uint8),
        "question": random.integers(0, 32, (n, q, 4), np.int64),
        "note": np.array(["größe".encode(), b"", b"a\0b"], np.object_),
    }


def test_a_model_tells_what_it_takes_and_gives(tmp_path: Path) -> None:
    engine = open_engine(tmp_path, question_model())
    assert [(one.name, one.datatype, one.shape) for one in engine.inputs] == [
        ("image", "UINT8", (-1, 8, 8, 3)),
        ("question", "INT64", (-1, -1, 4)),
        ("note", "BYTES", (-1,)),
    ]
    assert [(one.name, one.datatype, one.shape) for one in engine.outputs] == [
        ("logits", "FP32", (-1, -1, 5)),
        ("echo", "BYTES", (-1,)),
    ]


def test_answers_are_those_of_the_bare_runtime_to_the_bit(tmp_path: Path) -> None:
    inputs = question_inputs()
    bare = onnxruntime.InferenceSession(question_model(), providers=["CPUExecutionProvider"])
    text = np.array([note.decode() for note in inputs["note"]], np.object_)
    expected = bare.run(["logits"], {**inputs, "note": text})[0]
    [(name, logits), (_, echo)] = open_engine(tmp_path, question_model()).run(inputs)
    assert name == "logits"
    assert logits.tobytes() == expected.tobytes()
    assert list(echo) == list(inputs["note"])


def test_only_the_outputs_asked_for_come_in_that_order(tmp_path: Path) -> None:
    engine = open_engine(tmp_path, question_model())
    assert [name for name, _ in engine.run(question_inputs(), ["echo"])] == ["echo"]
    assert [name for name, _ in engine.run(question_inputs(), ["echo", "logits"])] == ["echo", "logits"]


@pytest.mark.parametrize("datatype", sorted(set(DTYPES) - {"BYTES"}))
def test_every_datatype_passes_through(tmp_path: Path, datatype: str) -> None:
    dtype = DTYPES[datatype]
    engine = open_engine(tmp_path, identity_model(helper.np_dtype_to_tensor_dtype(dtype)))
    assert engine.inputs[0].datatype == datatype
    values = np.array([0, 1], dtype)
    values.flags.writeable = False
    [(_, result)] = engine.run({"x": values})
    assert result.dtype == dtype
    assert result.tobytes() == values.tobytes()


def test_not_a_number_is_a_number_to_the_model(tmp_path: Path) -> None:
    values = np.array([[np.nan, np.inf, -np.inf]], np.float32)
    [(_, result)] = open_engine(tmp_path, scale_model(1.0)).run({"x": values})
    assert result.tobytes() == values.tobytes()


def test_an_input_without_a_shape_takes_any_rank(tmp_path: Path) -> None:
    engine = open_engine(tmp_path, relu_model(None))
    assert [one.shape for one in (*engine.inputs, *engine.outputs)] == [(-1,), (-1,)]
    for shape in ((), (2,), (2, 5), (1, 0, 3, 1)):
        [(_, result)] = engine.run({"x": np.ones(shape, np.float32)})
        assert result.shape == shape


def test_a_scalar_takes_scalars_only(tmp_path: Path) -> None:
    engine = open_engine(tmp_path, relu_model(()))
    assert [one.shape for one in (*engine.inputs, *engine.outputs)] == [(), ()]
    with pytest.raises(InvalidArgument) as caught:
        engine.run({"x": np.ones(2, np.float32)})
    assert caught.value.field == "inputs[0].shape"


@pytest.mark.parametrize(
    "name", ["?", "None", "none", "-1", "unk__12", "unk", "Unknown", "DynamicDimension.0", "*", " ", "", None]
)
def test_placeholders_are_no_names_of_equal_sizes(tmp_path: Path, name: str | None) -> None:
    engine = open_engine(tmp_path, relu_model([name, name]))  # type: ignore[list-item]
    assert engine.inputs[0].dims == ("", "")
    [(_, result)] = engine.run({"x": np.ones((2, 5), np.float32)})
    assert result.shape == (2, 5)


@pytest.mark.parametrize("name", ["N", "batch", "unknown_batch", "none_of_these", "s0", "past_sequence_length + 1"])
def test_names_are_names_of_equal_sizes(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidArgument, match="must be equal"):
        open_engine(tmp_path, relu_model([name, name])).run({"x": np.ones((2, 5), np.float32)})


def offset_model(ir_version: int, opset: int) -> bytes:
    """y = x + offset, where offset is an input and has a value as well."""
    return unchecked(
        [helper.make_node("Add", ["x", "offset"], ["y"])],
        [tensor("x", TensorProto.FLOAT, ["n"]), tensor("offset", TensorProto.FLOAT, [1])],
        [tensor("y", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor("offset", TensorProto.FLOAT, [1], [1.0])],
        ir_version=ir_version,
        opset=opset,
    )


def test_an_initializer_that_is_an_input_may_be_given(tmp_path: Path) -> None:
    engine = open_engine(tmp_path, offset_model(ir_version=10, opset=21))
    x, offset = np.zeros(2, np.float32), np.full(1, 5, np.float32)
    assert [one.name for one in engine.inputs] == ["x"]
    assert engine.run({"x": x})[0][1].tolist() == [1, 1]
    assert engine.run({"x": x, "offset": offset})[0][1].tolist() == [5, 5]
    for wrong, field in ((np.zeros(2, np.float32), "inputs[1].shape"), (np.zeros(1), "inputs[1].datatype")):
        with pytest.raises(InvalidArgument) as caught:
            engine.run({"x": x, "offset": wrong})
        assert caught.value.field == field
    with pytest.raises(InvalidArgument, match="'x' is missing"):
        engine.run({"offset": offset})


def test_an_initializer_of_an_old_converter_is_a_constant(tmp_path: Path) -> None:
    """Before IR version 4 every initializer had to be listed as an input."""
    engine = open_engine(tmp_path, offset_model(ir_version=3, opset=7))
    x = np.zeros(2, np.float32)
    assert engine.run({"x": x})[0][1].tolist() == [1, 1]
    with pytest.raises(InvalidArgument, match="no input 'offset'"):
        engine.run({"x": x, "offset": np.zeros(1, np.float32)})


def zipmap_model() -> bytes:
    """A classifier's last node, as scikit-learn's converter writes it by default."""
    probability = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    rows = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, probability))
    nodes = [helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])]
    return unchecked(nodes, [tensor("x", TensorProto.FLOAT, ["n", 2])], [helper.make_value_info("y", rows)])


def optional_model() -> bytes:
    kind = helper.make_optional_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, ["n"]))
    nodes = [helper.make_node("OptionalGetElement", ["x"], ["y"])]
    return build(nodes, [helper.make_value_info("x", kind)], [tensor("y", TensorProto.FLOAT, ["n"])])


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (zipmap_model(), "'y' has the type seq.*'zipmap': False"),
        (optional_model(), "'x' has the type optional.*takes and returns tensors"),
        (identity_model(TensorProto.BFLOAT16), "bfloat16.*cast it"),
        (identity_model(TensorProto.FLOAT8E4M3FN), "float8e4m3fn.*cast it"),
    ],
    ids=["sequence", "optional", "bfloat16", "float8"],
)
def test_what_is_no_tensor_of_the_protocol_is_refused_with_how_to_convert(
    tmp_path: Path, model: bytes, words: str
) -> None:
    with pytest.raises(FailedPrecondition, match=words) as caught:
        open_engine(tmp_path, model)
    assert caught.value.reason == "UNSUPPORTED_DATATYPE"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (relu_model(["n"], ir_version=1000), r"IR version is 1000; ONNX Runtime [\d.]+ supports up to \d+"),
        (relu_model(["n"], opset=1000), r"uses opset 1000 of ai.onnx; .* Export it with opset_version=\d+"),
        (external_model(), r"weights are in another file .* Export it as one file"),
        (scale_model(2.0)[:-20], "cannot be loaded"),
    ],
    ids=["IR", "opset", "external data", "cut off"],
)
def test_a_model_of_other_tools_says_what_is_wrong_without_paths(tmp_path: Path, model: bytes, words: str) -> None:
    with pytest.raises(FailedPrecondition, match=words) as caught:
        open_engine(tmp_path, model)
    assert caught.value.reason == "MODEL_BROKEN"
    for path in (str(tmp_path), "/onnxruntime", ".cc:", ".h:"):
        assert path not in caught.value.message


def test_an_empty_batch_and_a_scalar_are_fine(tmp_path: Path) -> None:
    [(_, empty)] = open_engine(tmp_path, scale_model(2.0)).run({"x": np.zeros((0, 3), np.float32)})
    assert empty.shape == (0, 3)
    [(_, scalar)] = open_engine(tmp_path, identity_model(TensorProto.FLOAT, ())).run({"x": np.array(3, np.float32)})
    assert scalar == 3


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"image": None}, "inputs", "'image' is missing"),
        (
            {"extra": np.zeros(1, np.uint8)},
            "inputs[3].name",
            "no input 'extra'; its inputs are 'image', 'question', 'note'",
        ),
        ({"image": np.zeros((2, 8, 8, 3), np.int8)}, "inputs[0].datatype", "is INT8; the model expects UINT8"),
        ({"image": np.zeros((2, 8, 9, 3), np.uint8)}, "inputs[0].shape", r"expects \[-1, 8, 8, 3\]"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, "inputs[0].shape", r"has the shape \[8, 8, 3\]"),
        ({"question": np.zeros((3, 3, 4), np.int64)}, "inputs[1].shape", "of 'image' is 2; they must be equal"),
        ({"question": np.full((2, 3, 4), 32, np.int64)}, "inputs", "out of data bounds"),
        ({"note": np.array([b"\xff"], np.object_)}, "inputs[2]", "not UTF-8"),
    ],
)
def test_inputs_that_do_not_fit_are_refused_naming_the_field(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], change: dict[str, Any], field: str, words: str
) -> None:
    inputs = {name: array for name, array in {**question_inputs(), **change}.items() if array is not None}
    with pytest.raises(InvalidArgument, match=words) as caught:
        open_engine(tmp_path, question_model()).run(inputs)
    assert (caught.value.reason, caught.value.field) == ("BAD_INPUT", field)
    assert "/onnxruntime" not in caught.value.message
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("names", "field"), [(["none"], "outputs[0].name"), (["echo", "echo"], "outputs[1].name")])
def test_outputs_that_do_not_exist_or_repeat_are_refused(tmp_path: Path, names: list[str], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        open_engine(tmp_path, question_model()).run(question_inputs(), names)
    assert (caught.value.reason, caught.value.field) == ("BAD_INPUT", field)


@pytest.mark.parametrize("data", [b"", b"not a model", scale_model(1.0)[:-20]])
def test_what_is_no_model_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        open_engine(tmp_path, data)
    assert caught.value.reason == "MODEL_BROKEN"


def test_tensors_that_numpy_cannot_hold_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="bfloat16") as caught:
        open_engine(tmp_path, identity_model(TensorProto.BFLOAT16))
    assert caught.value.reason == "UNSUPPORTED_DATATYPE"


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="CUDA works here")
def test_a_device_that_does_not_work_is_refused_and_not_replaced(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        open_engine(tmp_path, scale_model(1.0), device="cuda")
    assert caught.value.reason == "DEVICE_UNAVAILABLE"


def test_threads_share_one_session(tmp_path: Path) -> None:
    engine = open_engine(tmp_path, scale_model(2.0))
    barrier = threading.Barrier(4)

    def run(seed: int) -> bool:
        barrier.wait()
        values = np.random.default_rng(seed).normal(size=(8, 3)).astype(np.float32)
        return all(np.array_equal(engine.run({"x": values})[0][1], 2 * values) for _ in range(50))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(run, range(4)))


def test_the_last_reference_frees_the_memory(tmp_path: Path) -> None:
    size = 16 << 20
    weight = helper.make_tensor("w", TensorProto.FLOAT, [size], np.ones(size, np.float32).tobytes(), raw=True)
    model = build(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        [tensor("x", TensorProto.FLOAT, [1])],
        [tensor("y", TensorProto.FLOAT, [size])],
        [weight],
    )
    path = tmp_path / "large.onnx"
    path.write_bytes(model)
    # A process of its own: in this one, earlier tests have left memory that is free but resident.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        loaded, left = pool.submit(memory_of_an_engine, path).result()
    assert loaded > 4 * size * 0.9
    assert left < loaded / 2


def memory_of_an_engine(path: Path) -> tuple[int, int]:
    """Returns by how many bytes this process has grown with an engine, and after its last reference is gone."""

    def resident_bytes() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = resident_bytes()
    engine = Engine(path)
    loaded = resident_bytes() - before
    freed = weakref.ref(engine)
    del engine
    gc.collect()
    assert freed() is None
    return loaded, resident_bytes() - before


def test_no_memory_is_not_the_fault_of_the_inputs(tmp_path: Path) -> None:
    model = build(
        [helper.make_node("ConstantOfShape", ["shape"], ["y"])],
        [tensor("shape", TensorProto.INT64, [1])],
        [tensor("y", TensorProto.FLOAT, ["n"])],
    )
    engine = open_engine(tmp_path, model)
    with pytest.raises(ResourceExhausted) as caught:
        engine.run({"shape": np.array([1 << 44])})
    assert caught.value.reason == "OUT_OF_MEMORY"
    with pytest.raises(InvalidArgument):
        engine.run({"shape": np.array([-3])})


@pytest.mark.parametrize("mode", ["fast", "exact", "plain"])
def test_each_mode_gives_the_answers_of_a_file_that_saturates_nowhere(mode: Mode, tmp_path: Path) -> None:
    model = network()
    request = {"pixels": pixels(3)[0]}
    [(_, expected)] = open_engine(tmp_path, model, mode="plain").run(request)
    [(_, found)] = open_engine(tmp_path, model, mode=mode).run(request)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
