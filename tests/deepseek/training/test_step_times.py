import json
import math
import os
from pathlib import Path

import pytest
import torch

from deepseek.training import step_times
from deepseek.training.step_times import StepTimes, measure, of_this_host

MEASURED = StepTimes({"fp32": 0.001, "bf16": 0.004, "fp16": 0.009}, {"fp32": 0.002, "bf16": 0.002, "fp16": 0.008})


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Starts without measurements in this process, fakes them and counts them."""
    calls: list[int] = []

    def measured() -> StepTimes:
        calls.append(len(calls))
        return MEASURED

    step_times._of_this_host.cache_clear()
    monkeypatch.setattr(step_times, "measure", measured)
    yield calls
    step_times._of_this_host.cache_clear()


def test_ratios_are_means_of_both_operations_over_the_fastest_format() -> None:
    assert MEASURED.ratios == pytest.approx({"fp32": 1.0, "bf16": 2.0, "fp16": 6.0})
    assert MEASURED.fastest == "fp32"


def test_measuring_times_every_format_and_changes_no_state_of_torch() -> None:
    torch.manual_seed(3)
    expected, num_threads = torch.rand(2), torch.get_num_threads()
    torch.manual_seed(3)
    times = measure()
    assert torch.equal(torch.rand(2), expected)
    assert torch.get_num_threads() == num_threads
    for part in (times.convolution, times.matrix_product):
        assert set(part) == {"fp32", "bf16", "fp16"}
        assert all(0 < seconds < math.inf for seconds in part.values())


def test_a_host_is_measured_once(tmp_path: Path, forgotten: list[int]) -> None:
    first = of_this_host(tmp_path)
    step_times._of_this_host.cache_clear()  # as in another process
    assert of_this_host(tmp_path) == first == MEASURED
    assert len(forgotten) == 1
    assert (tmp_path / "step-times.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("changed", ["platform.node", "instruction_set", "torch.__version__"])
def test_what_another_host_or_torch_measured_is_kept_and_not_used(
    tmp_path: Path, forgotten: list[int], monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    of_this_host(tmp_path)
    step_times._of_this_host.cache_clear()
    replacement = "another" if changed == "torch.__version__" else lambda: "another"
    with monkeypatch.context() as there:
        there.setattr(f"deepseek.training.step_times.{changed}", replacement)
        of_this_host(tmp_path)
    assert len(forgotten) == 2
    step_times._of_this_host.cache_clear()
    of_this_host(tmp_path)
    assert len(forgotten) == 2


@pytest.mark.parametrize(
    "damage",
    [
        "",
        "{",
        "[]",
        '{"x": 1}',
        '{"KEY": {"convolution": {"fp32": 1.0}, "matrix_product": {}}}',
        '{"KEY": {"convolution": {"fp32": 1.0, "bf16": 0.0, "fp16": 1.0}, "matrix_product": {}}}',
        '{"KEY": {"convolution": {"fp32": 1.0, "bf16": NaN, "fp16": 1.0}, "matrix_product": {}}}',
    ],
)
def test_a_damaged_file_is_measured_again_and_replaced(tmp_path: Path, forgotten: list[int], damage: str) -> None:
    path = tmp_path / "step-times.json"
    of_this_host(tmp_path)
    (key,) = json.loads(path.read_text())
    path.write_text(damage.replace("KEY", key))
    step_times._of_this_host.cache_clear()
    assert of_this_host(tmp_path) == MEASURED
    assert len(forgotten) == 2
    assert set(json.loads(path.read_text())) == {key}


def test_the_file_keeps_the_newest_hosts(tmp_path: Path, forgotten: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(40):
        monkeypatch.setattr("deepseek.training.step_times.platform.node", lambda number=number: f"host-{number}")
        step_times._of_this_host.cache_clear()
        of_this_host(tmp_path)
    names = [key.partition(",")[0] for key in json.loads((tmp_path / "step-times.json").read_text())]
    assert names == [f"host-{number}" for number in range(8, 40)]


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert of_this_host(tmp_path / "file" / os.curdir / "cache") == MEASURED
