import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from deepseek.contact_sheet import COLUMNS, TEXT_PX, TILE_PX
from deepseek.demo.report import ROWS, write_contact_sheet, write_json, write_learning_curve
from deepseek.demo.serving import AnsweredQuestion, accuracy
from protos.trainer.v1 import trainer_pb2


def asked(count: int, *, wrong: int = 0) -> list[AnsweredQuestion]:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), "navy").save(buffer, "PNG")
    return [
        AnsweredQuestion(buffer.getvalue(), f"question {i}?", "yes", "no" if i < wrong else "yes", 0.001)
        for i in range(count)
    ]


def test_accuracy_is_the_share_of_right_answers() -> None:
    assert accuracy(asked(8, wrong=2)) == 0.75


def test_the_contact_sheet_shows_wrong_answers_first(tmp_path: Path) -> None:
    write_contact_sheet(tmp_path / "right.png", asked(40))
    write_contact_sheet(tmp_path / "wrong.png", asked(40, wrong=1))
    with Image.open(tmp_path / "right.png") as right, Image.open(tmp_path / "wrong.png") as wrong:
        assert right.size == wrong.size == (COLUMNS * TILE_PX, ROWS * (TILE_PX + TEXT_PX))
        differs = np.asarray(right.convert("RGB"), int) != np.asarray(wrong.convert("RGB"), int)
    first_tile = differs[: TILE_PX + TEXT_PX, :TILE_PX]
    assert first_tile.any()
    assert (np.asarray(right.size) > 0).all()


def test_the_learning_curve_is_a_picture(tmp_path: Path) -> None:
    events = [
        trainer_pb2.RunEvent(
            step=trainer_pb2.StepEvent(step=step, metrics=[trainer_pb2.MetricValue(name="loss", value=1 / step)])
        )
        for step in range(1, 10)
    ]
    events.append(
        trainer_pb2.RunEvent(
            evaluation=trainer_pb2.EvaluationEvent(
                step=9, metrics=[trainer_pb2.MetricValue(name="accuracy", value=0.9)]
            )
        )
    )
    write_learning_curve(tmp_path / "curve.png", events)
    with Image.open(tmp_path / "curve.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 10


def test_figures_are_written_as_they_are(tmp_path: Path) -> None:
    write_json(tmp_path / "report.json", {"a": 1.5, "b": None})
    assert json.loads((tmp_path / "report.json").read_text()) == {"a": 1.5, "b": None}
