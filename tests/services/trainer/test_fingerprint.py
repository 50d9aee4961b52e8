"""What makes two runs the same run."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import deepseek
import kernels
from common.errors import FailedPrecondition
from deepseek.trainjob.runspec import RunSpec
from deepseek.trainjob.spec_parts import Component
from services.trainer.fingerprint import export_fingerprint, run_fingerprint

SPEC = RunSpec(
    dataset_version="datasets/d/versions/1",
    model=Component("image_question", {"width": 4.0}),
    loss=Component("cross_entropy"),
    optimizer=Component("adamw"),
    schedule=Component("constant"),
    epochs=1,
    batch_size=8,
)


def test_equal_specs_on_equal_data_are_the_same_run() -> None:
    other = replace(SPEC, model=Component("image_question", {"width": 4}), dataset_version="datasets/e/versions/7")
    assert run_fingerprint(SPEC, "a" * 64) == run_fingerprint(other, "a" * 64)


def test_other_data_or_another_spec_is_another_run() -> None:
    fingerprints = {
        run_fingerprint(SPEC, "a" * 64),
        run_fingerprint(SPEC, "b" * 64),
        run_fingerprint(replace(SPEC, seed=1), "a" * 64),
        run_fingerprint(replace(SPEC, model=Component("image_question", {"width": 8})), "a" * 64),
        run_fingerprint(replace(SPEC, num_workers=2), "a" * 64),
    }
    assert len(fingerprints) == 5


@pytest.mark.parametrize("module", ["my_nets", "my_nets.big"])
def test_an_edit_of_ones_own_model_makes_another_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    info = tmp_path / "my_nets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-nets\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[deepseek.models]\nmine = {module}:Net\n")
    source = tmp_path / "my_nets.py"
    if "." in module:
        source = tmp_path / "my_nets" / "layers" / "block.py"
        source.parent.mkdir(parents=True)
    source.write_text("raise ImportError('a server imports no model')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = replace(SPEC, model=Component("mine"))
    before = run_fingerprint(spec, "a" * 64)
    assert run_fingerprint(spec, "a" * 64) == before
    source.write_text("raise ImportError('edited')\n")
    assert run_fingerprint(spec, "a" * 64) != before


def test_a_component_whose_module_cannot_be_found_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `pip install --editable` while the trainer runs: edits of this component would go unnoticed."""
    info = tmp_path / "my_nets-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-nets\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[deepseek.models]\nmine = my_absent_nets:Net\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(FailedPrecondition, match=r"finds no module 'my_absent_nets'.*deepseek down && deepseek up"):
        run_fingerprint(replace(SPEC, model=Component("mine")), "a" * 64)


@pytest.mark.parametrize(
    ("source", "makes_another_run", "makes_another_export"),
    [
        ("training/step.py", True, True),
        ("trainjob/pipeline.py", True, True),
        ("trainjob/export.py", False, True),
        ("trainjob/onnx_operators.py", False, True),
        ("trainjob/tracing.py", False, True),
        ("trainjob/onnx_import.py", False, False),
    ],
)
def test_an_edit_of_our_code_makes_another_run_or_export_if_it_trains_or_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, makes_another_run: bool, makes_another_export: bool
) -> None:
    for package in (deepseek, kernels):
        copy = tmp_path / package.__name__
        shutil.copytree(package.__path__[0], copy, ignore=shutil.ignore_patterns("__pycache__"))
        monkeypatch.setattr(package, "__path__", [str(copy)])
    run, export = run_fingerprint(SPEC, "a" * 64), export_fingerprint({})
    with (tmp_path / "deepseek" / source).open("a") as file:
        file.write("# edited\n")
    assert (run_fingerprint(SPEC, "a" * 64) != run) == makes_another_run
    assert (export_fingerprint({}) != export) == makes_another_export


def test_options_make_another_export() -> None:
    assert export_fingerprint({"int8": True}) == export_fingerprint({"int8": True})
    assert export_fingerprint({"int8": True}) != export_fingerprint({"int8": False})
