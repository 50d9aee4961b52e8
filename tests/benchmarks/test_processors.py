import pytest

from benchmarks import precision_times
from benchmarks.precision_times import auto_round, networks
from benchmarks.processors import earlier_code, summary


def test_figures_are_medians_of_the_rounds_or_null_if_nothing_was_measured() -> None:
    runs = [{"part": "runs", "round": i, "ratio": ratio} for i, ratio in enumerate((1.3, 0.9, 1.0))]
    auto = {"part": "auto", "round": 0, "resnet50": 1.01, "demo": 1.04, "encoder": 0.99}
    int8 = {"part": "int8", "round": 0, "wrong_files_served": 0, "files_loaded": 20}
    result = summary([*runs, auto, int8])
    assert result["two_runs_vs_sequential"] == 1.0
    assert result["two_runs_vs_sequential_interval"] == [0.9, 1.3]
    assert result["auto_vs_best"] == 1.04
    assert (result["wrong_files_served"], result["files_loaded"]) == (0, 20)
    for name in ("train_ratio_to_before", "demo_ratio_to_before", "int8_loss_points_native"):
        assert result[name] is None


def test_earlier_code_is_that_of_its_commit() -> None:
    with earlier_code() as code:
        spec = (code / "deepseek" / "demo" / "spec.json").read_text(encoding="utf-8")
        assert "PRECISION_BF16" in spec
    assert not code.exists()


def test_auto_is_compared_with_every_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = networks()["encoder"]
    monkeypatch.setattr(precision_times, "networks", lambda: {"encoder": encoder})
    found = auto_round(1)
    assert found["encoder"] > 0
    assert {found["encoder_best"], found["encoder_auto"]} <= {"fp32", "bf16", "fp16"}
