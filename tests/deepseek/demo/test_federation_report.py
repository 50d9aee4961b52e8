"""The plot of the federated demo."""

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from deepseek.demo.federation_report import CAPTION, draw_rounds, write_rounds
from protos.federated.v1 import federated_pb2 as pb
from protos.trainer.v1 import trainer_pb2


def rounds(accuracies: Sequence[float], spent: Sequence[float] = ()) -> list[pb.Round]:
    made = []
    for number, accuracy in enumerate(accuracies, start=1):
        metrics = [
            trainer_pb2.MetricValue(name=name, value=value) for name, value in (("loss", 1), ("accuracy", accuracy))
        ]
        made.append(pb.Round(round=number, metrics=metrics, epsilon_spent=spent[number - 1] if spent else None))
    return made


PLAIN = rounds([0.6, 0.8, 0.95])
PRIVATE = rounds([0.5, 0.7, 0.65], [1.0, 1.5, 2.0])


def test_both_curves_begin_with_the_start_model_and_a_caption_explains_noise() -> None:
    figure = draw_rounds(0.4, PLAIN, PRIVATE, 3.0)
    above, below = figure.axes
    curves = {line.get_label(): [list(map(float, line.get_data()[i])) for i in (0, 1)] for line in above.lines}
    assert curves == {
        "without privacy": [[0, 1, 2, 3], [0.4, 0.6, 0.8, 0.95]],
        "with privacy": [[0, 1, 2, 3], [0.4, 0.5, 0.7, 0.65]],
        "model at the start": [[0], [0.4]],
    }
    assert list(below.lines[0].get_ydata()) == [0, 1, 1.5, 2]
    assert figure.get_supxlabel() == CAPTION


def test_the_picture_has_its_size(tmp_path: Path) -> None:
    write_rounds(tmp_path / "rounds.png", 0.4, PLAIN, PRIVATE, 3.0)
    with Image.open(tmp_path / "rounds.png") as picture:
        assert picture.size == (960, 720)
