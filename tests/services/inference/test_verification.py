"""Which file is served: by probes, by comparing graphs, by speed; on this processor and on one with AVX2 only."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantFormat

from common.errors import FailedPrecondition
from deepseek.models.manifest import ModelManifest
from deepseek.models.probes import Probes
from deepseek.processor import instruction_set, saturates
from services.inference.engine import Engine
from services.inference.verification import FileChoice, choose
from tests.harness.processors import Processor
from tests.services.inference.models import build, tensor
from tests.services.inference.quantized import (
    NEW,
    OLD,
    PIXELS,
    UNITS,
    Contents,
    Unit,
    answered,
    convolutional,
    dynamic,
    exported_before,
    network,
    new_version,
    old_version,
    operators,
    paced,
    probes_of,
    quantized,
    quantized_gemm,
    questions,
)

SLOW_FP32 = {"model.onnx": 0.01}
SLOW_INT8 = {"int8": 0.01}


def write(folder: Path, manifest: ModelManifest, contents: Contents, unit: Unit = PIXELS) -> None:
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    for name, data in contents.items():
        (folder / name).write_bytes(data)
    (folder / "truth.npz").write_bytes(probes_of(network(unit), unit).to_bytes())


def chosen(
    folder: Path, manifest: ModelManifest, contents: Contents, open_engine: Callable[..., Engine] = Engine
) -> FileChoice:
    write(folder, manifest, contents)
    probes = Probes.from_bytes(contents[manifest.probes]) if manifest.probes else None
    return choose(manifest, probes, lambda file: folder / file.name, open_engine)


def alone(manifest: ModelManifest) -> ModelManifest:
    """The version without its float32 file."""
    return replace(manifest, files=tuple(file for file in manifest.files if file.variant != "fp32"))


@pytest.mark.slow
@pytest.mark.parametrize("with_probes", [True, False])
def test_a_file_that_saturates_is_served_by_no_load(processor: Processor, with_probes: bool, tmp_path: Path) -> None:
    """The file was made with the options that versions had before weights had 7 bits."""
    write(tmp_path, *(new_version(OLD) if with_probes else old_version()))
    loads = json.loads(processor.python("-m", "tests.services.inference.loads", tmp_path, "3"))
    assert len(loads) == 3
    assert max(load["differing"] for load in loads) <= 0.02
    if processor.saturates:
        assert {load["variant"] for load in loads} == {"fp32"}
        assert all("int8 is not served" in load["reason"] for load in loads)


@pytest.mark.slow
def test_a_version_of_the_exporter_before_7_bits_is_served_right(processor: Processor, tmp_path: Path) -> None:
    manifest, contents = exported_before()
    write(tmp_path, manifest, contents)
    (tmp_path / "truth.npz").write_bytes(answered(contents["model.onnx"], questions()).to_bytes())
    loads = json.loads(processor.python("-m", "tests.services.inference.loads", tmp_path, "20"))
    assert [load["variant"] for load in loads] == ["fp32" if processor.saturates else "int8"] * 20
    assert max(load["differing"] for load in loads) <= loads[0]["expected"] + 0.01


@pytest.mark.slow
@pytest.mark.parametrize("unit", UNITS, ids=str)
def test_a_file_that_saturates_is_found_whatever_it_takes(processor: Processor, unit: Unit, tmp_path: Path) -> None:
    """Small numbers are all alike to an input that is quantized for large ones, and saturate nothing."""
    write(tmp_path, *old_version(unit=unit), unit)
    (load,) = json.loads(processor.python("-m", "tests.services.inference.loads", tmp_path, "1"))
    assert load["variant"] == ("fp32" if processor.saturates else "int8")
    assert load["differing"] <= 0.02


@pytest.mark.slow
def test_a_single_file_that_saturates_is_computed_more_precisely(processor: Processor, tmp_path: Path) -> None:
    manifest, contents = old_version()
    write(tmp_path, alone(manifest), contents)
    (load,) = json.loads(processor.python("-m", "tests.services.inference.loads", tmp_path, "1"))
    assert load["variant"] == "int8"
    assert load["differing"] <= 0.02
    if processor.saturates:
        assert load["mode"] in ("exact", "plain")


@pytest.mark.slow
@pytest.mark.parametrize("model", [dynamic, quantized_gemm])
def test_integer_operators_that_saturate_optimised_or_not_are_found_too(
    processor: Processor, model: Callable[[], bytes], tmp_path: Path
) -> None:
    """microsoft/onnxruntime#6004, #14642 and #16105: such operators saturate without optimizations as well."""
    manifest, contents = old_version()
    write(tmp_path, alone(manifest), contents | {"model.int8.onnx": model()})
    (load,) = json.loads(processor.python("-m", "tests.services.inference.loads", tmp_path, "1"))
    assert load["mode"] == ("exact" if processor.saturates else "fast")


@pytest.mark.slow
@pytest.mark.parametrize("per_channel", [False, True])
def test_operators_that_saturate_in_every_mode_are_served_as_float32(
    processor: Processor, per_channel: bool, tmp_path: Path
) -> None:
    manifest, contents = old_version()
    contents |= {"model.int8.onnx": operators(per_channel=per_channel)}
    write(tmp_path, alone(manifest), contents)
    (load,) = json.loads(processor.python("-m", "tests.services.inference.loads", tmp_path, "1"))
    assert load["mode"] == ("plain" if processor.saturates else "fast")
    assert load["differing"] <= 0.02
    write(tmp_path, manifest, contents)
    (load,) = json.loads(processor.python("-m", "tests.services.inference.loads", tmp_path, "1"))
    assert load["variant"] == ("fp32" if processor.saturates else "int8")


def test_a_file_that_cannot_be_computed_in_another_way_is_refused_where_it_may_saturate(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The runtime's own QLinearConv, in a file that was optimized and then saved."""
    manifest, contents = old_version()
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(quantized(convolutional(), OLD, QuantFormat.QOperator), options)
    optimized = {"model.int8.onnx": (tmp_path / "optimized.onnx").read_bytes()}
    assert b"com.microsoft" in optimized["model.int8.onnx"]
    if not saturates(instruction_set()):
        assert chosen(tmp_path, alone(manifest), contents | optimized).mode == "fast"
    monkeypatch.setattr("services.inference.verification.instruction_set", lambda: "avx2")
    with pytest.raises(FailedPrecondition, match="quantize the model in the QDQ format") as caught:
        chosen(tmp_path, alone(manifest), contents | optimized)
    assert caught.value.reason == "NO_FILE_AGREES"
    assert chosen(tmp_path, manifest, contents | optimized).file.variant == "fp32"


@pytest.mark.slow
def test_weights_of_seven_bits_saturate_nowhere(processor: Processor, tmp_path: Path) -> None:
    manifest, contents = old_version(NEW)
    write(tmp_path, alone(manifest), contents)
    (load,) = json.loads(processor.python("-m", "tests.services.inference.loads", tmp_path, "1"))
    assert (load["variant"], load["mode"]) == ("int8", "fast")
    assert load["differing"] <= 0.02


@pytest.mark.slow
def test_a_host_where_every_candidate_disagrees_serves_none(processor: Processor, tmp_path: Path) -> None:
    manifest, contents = new_version(OLD)
    wrong = Probes.from_bytes(contents["probes.npz"])
    contents["probes.npz"] = Probes(wrong.inputs, {"scores": -wrong.outputs["scores"]}).to_bytes()
    write(tmp_path, manifest, contents)
    (load,) = json.loads(processor.python("-m", "tests.services.inference.loads", tmp_path, "1"))
    assert load["error"] == "NO_FILE_AGREES"
    assert "fp32 is not served: it differs from the float32 answers to 64 probes by 100.00% here" in load["message"]


@pytest.mark.parametrize(
    ("delays_s", "loss", "variant", "why"),
    [
        (SLOW_FP32, 0.0, "int8", "times as fast as fp32"),
        (SLOW_INT8, 0.0, "fp32", "int8 is only"),
        (SLOW_FP32, 0.02, "fp32", "where it was exported, its accuracy of 0.8800 is 0.0200 worse"),
    ],
)
def test_the_fastest_that_agrees_is_served(
    delays_s: dict[str, float], loss: float, variant: str, why: str, tmp_path: Path
) -> None:
    choice = chosen(tmp_path, *new_version(loss=loss), paced(delays_s))
    assert (choice.file.variant, choice.mode) == (variant, "fast")
    assert why in choice.reason


@pytest.mark.parametrize("broken", ["model.int8.onnx", "model.onnx"])
def test_a_version_without_probes_of_which_one_file_opens_serves_that(broken: str, tmp_path: Path) -> None:
    manifest, contents = old_version(NEW)
    choice = chosen(tmp_path, manifest, contents | {broken: b"damaged"})
    assert choice.file.name == ({"model.int8.onnx", "model.onnx"} - {broken}).pop()
    with pytest.raises(FailedPrecondition, match="cannot be loaded"):
        chosen(tmp_path, manifest, contents | {"model.int8.onnx": b"damaged", "model.onnx": b"damaged"})


def test_a_file_that_opens_nowhere_leaves_the_other(tmp_path: Path) -> None:
    manifest, contents = new_version()
    choice = chosen(tmp_path, manifest, contents | {"model.int8.onnx": b"no model"}, paced(SLOW_FP32))
    assert choice.file.variant == "fp32"
    assert "int8 is not served: the model cannot be loaded" in choice.reason


def test_files_of_which_none_opens_are_refused_as_one_is(tmp_path: Path) -> None:
    manifest, contents = new_version()
    with pytest.raises(FailedPrecondition) as caught:
        chosen(tmp_path, manifest, contents | {"model.onnx": b"no model", "model.int8.onnx": b"no model"})
    assert caught.value.reason == "MODEL_BROKEN"


@pytest.mark.parametrize("field", ["inputs", "outputs"])
def test_probes_of_another_model_are_refused(field: str, tmp_path: Path) -> None:
    manifest, contents = new_version()
    good = Probes.from_bytes(contents["probes.npz"])
    contents["probes.npz"] = replace(good, **{field: {"other": next(iter(getattr(good, field).values()))}}).to_bytes()
    with pytest.raises(FailedPrecondition, match=r"no (in|out)put 'other'.* export the model again") as caught:
        chosen(tmp_path, manifest, contents)
    assert caught.value.reason == "BAD_PROBES"


def test_an_older_version_serves_what_it_was_promoted_to_if_that_is_right_here(tmp_path: Path) -> None:
    manifest, contents = old_version(NEW)
    choice = chosen(tmp_path, manifest, contents, paced(SLOW_INT8))
    assert (choice.file.variant, choice.mode) == ("int8", "fast")
    assert choice.reason == "computed in another way, its answers differ by 0.00%"


def test_a_file_without_8_bit_operators_needs_no_comparison(tmp_path: Path) -> None:
    manifest, contents = old_version()
    choice = chosen(tmp_path, replace(manifest, served="model.onnx"), contents)
    assert (choice.file.name, choice.reason) == ("model.onnx", "it is not quantized, so its accuracy needs no check")


@pytest.mark.parametrize(("here", "mode"), [("avx512_vnni", "fast"), ("avx2", "exact")])
def test_a_quantized_file_that_answers_at_random_is_served_unverified(
    here: str, mode: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("services.inference.verification.instruction_set", lambda: here)
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("QuantizeLinear", ["noise", "scale", "zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]),
    ]
    constants = [numpy_helper.from_array(np.float32(0.1), "scale"), numpy_helper.from_array(np.uint8(128), "zero")]
    ends = [tensor(name, TensorProto.FLOAT, ["n", 3]) for name in ("x", "y")]
    manifest, contents = old_version()
    model = build(nodes, ends[:1], ends[1:], constants)
    choice = chosen(tmp_path, alone(manifest), contents | {"model.int8.onnx": model})
    assert "could not be verified" in choice.reason
    assert choice.mode == mode
