from pathlib import Path

import pytest

from benchmarks import processors
from benchmarks.processors import Rounds, auto_round, earlier_code, networks, summary


def test_a_round_that_is_in_the_file_is_not_measured_again(tmp_path: Path) -> None:
    file, calls = tmp_path / "rounds.jsonl", []

    def work() -> dict[str, float]:
        calls.append(1)
        return {"ratio": 0.5}

    first = Rounds(file).measure("runs", 0, work)
    assert Rounds(file).measure("runs", 0, work) == first == {"part": "runs", "round": 0, "ratio": 0.5}
    assert len(calls) == 1
    Rounds(file).measure("runs", 1, work)
    assert len(calls) == 2


def test_figures_are_medians_of_the_rounds_and_null_where_nothing_was_measured() -> None:
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


def test_the_code_before_is_that_of_its_commit() -> None:
    with earlier_code() as code:
        spec = (code / "deepseek" / "demo" / "spec.json").read_text(encoding="utf-8")
        assert "PRECISION_BF16" in spec
    assert not code.exists()


def test_auto_is_timed_beside_every_format(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = networks()["encoder"]
    monkeypatch.setattr(processors, "networks", lambda: {"encoder": encoder})
    found = auto_round(1)
    assert found["encoder"] > 0
    assert {found["encoder_best"], found["encoder_auto"]} <= {"fp32", "bf16", "fp16"}
