"""Evaluations of rows without a mesh: scores, files and pictures."""

import csv
import io
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.client.predictor import label_probabilities
from deepseek.contact_sheet import COLUMNS, TILE_PX
from deepseek.evaluation.figures import Array
from deepseek.evaluation.files import save
from deepseek.evaluation.pictures import MAX_CLASSES, comparison_figure, evaluation_figure
from deepseek.evaluation.results import Comparison, Evaluation
from deepseek.evaluation.scorers import (
    MAX_UNKNOWN_LABELS,
    ClassScorer,
    NumberScorer,
    Row,
    Scorer,
    TokenScorer,
    Worst,
)


def classes(labels: Sequence[str]) -> ClassScorer:
    return ClassScorer("y", labels, partial(label_probabilities, num_labels=len(labels)), field="label")


def picture() -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), 90).save(file, "PNG")
    return file.getvalue()


def evaluation(scorer: Scorer, rows: Sequence[tuple[Row, Array]], inputs: dict[str, Array] | None = None) -> Evaluation:
    worst = Worst(3)
    for row, output in rows:
        score = scorer.judge(row, {"y": output}, inputs or {})
        scorer.add(score)
        worst.add(score.judged.severity, score.judged)
    return Evaluation(
        version="models/m/versions/1",
        dataset_version="datasets/d/versions/2",
        split="test",
        target="label",
        task=scorer.task,
        runner="local",
        file="model.onnx",
        num_samples=len(rows),
        num_rows=scorer.num_rows,
        num_skipped=0,
        skipped=(),
        metrics=scorer.metrics(),
        labels=scorer.labels,
        confusion=scorer.confusion(),
        classes=scorer.classes(),
        worst=worst.items(),
        outcomes=scorer.outcomes(),
    )


UNSURE = [([0.5, 0.1, 0.4], "dog"), ([0.2, 0.2, 0.6], "dog"), ([0.4, 0.3, 0.3], "cat")]
"""Scores and targets: the first row has the higher loss, the second one the more confident mistake."""


def comparison(first: Evaluation, second: Evaluation) -> Comparison:
    return Comparison(first, second, "accuracy", 0.0, (0.0, 0.0), {}, None, 0, [])


def animals() -> Evaluation:
    shares = [(0.9, 0.1), (0.2, 0.8), (0.6, 0.4), (0.7, 0.3)]
    targets = ["cat", "dog", "dog", "fox"]  # the model does not know foxes
    image = picture()
    rows = [
        (Row(f"{i}.png", {"image": image, "label": target}, target), np.array(share))
        for i, (share, target) in enumerate(zip(shares, targets, strict=True))
    ]
    return evaluation(classes(["cat", "dog"]), rows)


def test_the_worst_rows_are_mistakes_only_the_most_confident_first(tmp_path: Path) -> None:
    found = animals()
    assert [row.key for row in found.worst] == ["3.png", "2.png"]
    assert (found.worst[1].predicted, found.worst[1].target) == ("cat", "dog")
    assert (found.worst[1].probability, found.worst[1].target_probability) == pytest.approx((0.6, 0.4))
    rows = [(Row(f"{i}", {}, target), np.array(share)) for i, (share, target) in enumerate(UNSURE)]
    assert [row.key for row in evaluation(classes(["cat", "dog", "fox"]), rows).worst] == ["1", "0"]
    save(found, tmp_path)
    right = evaluation(classes(["cat", "dog"]), [(Row("r.png", {"image": picture()}, "cat"), np.array([0.9, 0.1]))])
    assert "worst.png" not in [file.name for file in save(right, tmp_path)]
    assert not (tmp_path / "worst.png").exists()


def test_a_label_that_the_model_does_not_know_is_a_mistake() -> None:
    found = animals()
    assert list(found.labels) == ["cat", "dog", "fox"]
    assert found.confusion is not None
    assert found.confusion.tolist() == [[1, 0, 0], [1, 1, 0], [1, 0, 0]]
    assert found.metrics["accuracy"] == 0.5
    assert found.classes[2].support == 1


def test_an_evaluation_is_saved_as_pictures_tables_and_json(tmp_path: Path) -> None:
    files = save(animals(), tmp_path)
    names = ["evaluation.json", "confusion-matrix.png", "worst.png", "predictions.csv"]
    assert [file.name for file in files] == names
    assert json.loads(files[0].read_text(encoding="utf-8"))["metrics"]["accuracy"] == 0.5
    with Image.open(files[2]) as sheet:
        assert sheet.width == COLUMNS * TILE_PX
    with files[3].open(newline="", encoding="utf-8") as table:
        assert [row["key"] for row in csv.DictReader(table)] == ["3.png", "2.png", "1.png", "0.png"]


def test_of_many_labels_the_matrix_shows_those_with_most_mistakes(tmp_path: Path) -> None:
    labels = [f"label $ {i}" for i in range(MAX_CLASSES + 30)]
    size = len(labels)
    right = [(Row(f"r{i}", {}, labels[i]), np.eye(size)[i]) for i in range(size)]
    wrong = [(Row(f"w{i}", {}, labels[i]), np.eye(size)[i - 1]) for i in range(size - 10, size)]
    found = evaluation(classes(labels), [*right, *wrong])
    drawn = evaluation_figure(found).axes[0]
    shown = [text.get_text() for text in drawn.get_yticklabels()]
    assert len(shown) == MAX_CLASSES
    assert {label.replace("$", r"\$") for label in labels[-11:]} <= set(shown)


@pytest.mark.parametrize("labels", ["0123456789", "ab", [f"class {i}" for i in range(10)], [f"{i}" for i in range(40)]])
def test_no_part_of_the_picture_is_cut_off(labels: Sequence[str]) -> None:
    right = [(Row(label, {}, label), np.eye(len(labels))[i]) for i, label in enumerate(labels)]
    one = evaluation(classes(labels), right)
    for figure in (evaluation_figure(one), comparison_figure(comparison(one, one))):
        figure.savefig(io.BytesIO())
        drawn, (width, height) = figure.get_tightbbox(), figure.get_size_inches()
        assert 0 <= drawn.x0 < drawn.x1 <= width
        assert 0 <= drawn.y0 < drawn.y1 <= height


def test_numbers_are_judged_by_their_error(tmp_path: Path) -> None:
    rows = [(Row(str(i), {}, float(i)), np.array([i + error])) for i, error in enumerate((0.0, 2.0, -1.0))]
    found = evaluation(NumberScorer("y"), rows)
    assert found.metrics["mae"] == 1
    assert [(row.key, row.loss) for row in found.worst] == [("1", 2), ("2", 1), ("0", 0)]
    assert [file.name for file in save(found, tmp_path)] == ["evaluation.json", "predictions.png", "predictions.csv"]


def test_tokens_are_judged_without_the_padding(tmp_path: Path) -> None:
    logits = np.zeros((4, 4))
    logits[0, 3] = np.log(3)  # the second token is predicted with probability 1/2, the third with 1/4
    found = evaluation(TokenScorer("y", "text"), [(Row("a", {}, "abc"), logits)], {"text": np.array([2, 3, 2, 0])})
    assert found.metrics["num_tokens"] == 2
    assert found.metrics["perplexity"] == pytest.approx(np.sqrt(8))
    assert found.metrics["next_token_accuracy"] == 0.5
    assert [file.name for file in save(found, tmp_path)] == ["evaluation.json", "losses.png", "predictions.csv"]


def test_figures_that_json_cannot_express_are_null() -> None:
    found = evaluation(NumberScorer("y"), [(Row("a", {}, 1.0), np.array([2.0]))])
    assert found.to_json()["metrics"] == {"rmse": 1.0, "mae": 1.0, "r2": None}
    json.dumps(found.to_json(), allow_nan=False)


def test_several_numbers_per_sample_are_refused() -> None:
    with pytest.raises(FailedPrecondition, match="one number"):
        NumberScorer("y").judge(Row("a", {}, 1.0), {"y": np.zeros(3)}, {})


@pytest.mark.parametrize(
    ("scorer", "output", "tokens", "reason"),
    [
        (NumberScorer("y"), [np.nan], [], "NOT_FINITE"),
        (classes(["cat", "dog"]), [np.nan, 1], [], "NOT_FINITE"),
        (TokenScorer("y", "text"), [[np.nan] * 3] * 2, [1, 2], "NOT_FINITE"),
        (TokenScorer("y", "text"), [[0.0] * 3] * 2, [1, 0], "TOO_SHORT"),
    ],
)
def test_a_row_that_cannot_be_judged_leaves_no_trace(
    scorer: Scorer, output: list[float], tokens: list[int], reason: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        scorer.judge(Row("a", {}, "1"), {"y": np.array(output)}, {"text": np.array(tokens)})
    assert caught.value.reason == reason
    assert scorer.num_rows == 0


def test_a_field_with_too_many_labels_that_the_model_does_not_know_is_refused() -> None:
    scorer = classes(["cat", "dog"])
    scores = [scorer.judge(Row(str(i), {}, f"name {i}"), {"y": np.array([0.9, 0.1])}, {}) for i in range(1001)]
    for score in scores[:MAX_UNKNOWN_LABELS]:
        scorer.add(score)
    with pytest.raises(FailedPrecondition, match=r"'label' has over 1,000 labels.*'name 1000'.*--target") as caught:
        scorer.add(scores[-1])
    assert (caught.value.reason, caught.value.field) == ("UNSUITABLE_DATA", "--target")


def test_the_json_of_a_row_has_no_media(tmp_path: Path) -> None:
    values = {"images": [b"1", b"2"], "image": b"3", "names": ["x" * 600], "label": "cat"}
    found = evaluation(classes(["cat", "dog"]), [(Row("a", values, "cat"), np.array([0.1, 0.9]))])
    assert found.to_json()["worst"][0]["values"] == {"names": ["x" * 500], "label": "cat"}
    assert save(found, tmp_path)


def test_the_rows_of_a_sample_are_added_up() -> None:
    rows = [(Row(f"{sample}[{i}]", {}, 0.0, sample), np.array([float(i)])) for sample in "ba" for i in (1, 2)]
    outcomes = evaluation(NumberScorer("y"), rows).outcomes
    assert list(outcomes.samples) == ["b", "b", "a", "a"]
    assert outcomes.parts_of_samples().tolist() == [[5, 2], [5, 2]]
