"""Specs of common tasks, from schemas and samples."""

from typing import Any

import pytest

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.data.manifest import Field
from deepseek.tasks import EVAL_SHARE, TASKS, Sniffed, even_batch_size, left_out, task_spec, training_split
from deepseek.trainjob.held_out import held_out_indices
from deepseek.trainjob.runspec import RunSpec
from tests.deepseek.data.samples import sound_file
from tests.harness.images import image_file

LABEL = Field("kind", "label", labels=("a", "b"))
IMAGES = Sniffed([Field("picture", "image"), LABEL], [{"picture": image_file(1, (40, 30)), "kind": "a"}])
TABLE = Sniffed(
    [Field("x", "number"), Field("n", "integer"), Field("place", "label", labels=("p", "q")), LABEL],
    [{"x": 1.0, "n": 2, "place": "p", "kind": "a"}],
)
TEXTS = Sniffed([Field("line", "text"), LABEL], [{"line": "word " * 40, "kind": "b"}] * 9)
SOUNDS = Sniffed([Field("sound", "audio"), LABEL], [{"sound": sound_file(6000), "kind": "b"}])
DATA = {
    "image-classification": IMAGES,
    "tabular": TABLE,
    "text-classification": TEXTS,
    "audio-classification": SOUNDS,
    "language-model": TEXTS,
}


def spec_of(task: str, data: Sniffed, *, splits: tuple[str, ...] = ("train", "test"), target: str = "") -> Any:
    return task_spec(task, data, splits, dataset_version="datasets/d/versions/1", target=target)


def encoder(spec: Any) -> Any:
    return spec["inputs"][0]["encoder"]["params"]


@pytest.mark.parametrize("task", TASKS)
def test_the_spec_of_every_task_can_be_read(task: str) -> None:
    target = "kind" if task == "tabular" else ""
    spec = spec_of(task, DATA[task], splits=("train", "validation"), target=target)
    read = RunSpec.from_json(spec).with_defaults()
    assert (read.eval_split, read.dataset_version) == ("validation", "datasets/d/versions/1")
    assert read.early_stopping is not None


def test_encoders_fit_the_samples() -> None:
    assert encoder(spec_of("image-classification", IMAGES)) == {"size": 64, "mode": "RGB"}
    assert encoder(spec_of("text-classification", TEXTS))["length"] == 48
    assert encoder(spec_of("language-model", TEXTS))["length"] % 16 == 0
    assert encoder(spec_of("audio-classification", SOUNDS)) == {"sample_rate": 8000, "seconds": 1.0}


@pytest.mark.parametrize("largest", [1, 2, 16, 32, 64])
def test_no_batch_of_an_epoch_is_nearly_empty(largest: int) -> None:
    for num_samples in range(1, 20_000, 7):
        size = even_batch_size(num_samples, largest)
        last = num_samples % size or size
        assert largest / 2 <= size <= largest
        assert last >= min(num_samples, 0.4 * size), (num_samples, size)


@pytest.mark.parametrize("splits", [("train",), ("train", "validation")])
def test_the_batch_size_of_every_task_suits_the_samples_that_are_trained(splits: tuple[str, ...]) -> None:
    for task, data in DATA.items():
        target = "kind" if task == "tabular" else ""
        few = spec_of(task, Sniffed(data.fields, data.samples, num_train=10), splits=splits, target=target)
        spec = spec_of(task, Sniffed(data.fields, data.samples, num_train=998), splits=splits, target=target)
        num_trained = 998 - len(held_out_indices(RunSpec.from_json(spec), 998))
        assert spec["batch_size"] == even_batch_size(num_trained, few["batch_size"]), task


def test_long_texts_are_classified_by_their_words_alone_and_few_texts_are_seen_more_often() -> None:
    long = Sniffed(TEXTS.fields, [{"line": "word " * 900, "kind": "a"}] * 9, num_train=100_000)
    spec = spec_of("text-classification", long)
    assert (encoder(spec)["length"], spec["model"]["params"], spec["epochs"]) == (512, {"phrases": []}, 8)
    short = spec_of("text-classification", Sniffed(TEXTS.fields, TEXTS.samples, num_train=2000))
    assert ("params" in short["model"], short["epochs"]) == (False, 32)


def test_a_table_takes_all_columns_but_the_target() -> None:
    spec = spec_of("tabular", TABLE, target="kind")
    assert [one["field"] for one in spec["inputs"]] == ["x", "n", "place"]
    number = spec_of("tabular", TABLE, target="x")
    assert [one["field"] for one in number["inputs"]] == ["n", "place", "kind"]
    assert (number["loss"], number["select_metric"]) == ({"name": "mse"}, "rmse")
    assert number["model"]["params"] == {"offset": 1.0, "scale": 1.0}
    prices = Sniffed(TABLE.fields, [{**TABLE.samples[0], "x": 1000 * price} for price in (1, 2, 6)])
    assert spec_of("tabular", prices, target="x")["model"]["params"] == {"offset": 3000.0, "scale": 2160.0}


@pytest.mark.parametrize("splits", [("train", "test"), ("all",)])
def test_without_a_validation_split_a_share_of_the_training_split_selects(splits: tuple[str, ...]) -> None:
    spec = spec_of("image-classification", IMAGES, splits=splits)
    assert (spec.get("train_split", "train"), spec["eval_share"]) == (splits[0], EVAL_SHARE)
    assert "eval_split" not in spec
    assert {"select_metric", "early_stopping"} < set(spec)


@pytest.mark.parametrize("splits", [("test",), ("validation",), ("dev",), ("first", "second"), ("all", "test")])
def test_a_split_for_evaluation_or_an_unclear_one_is_not_trained_on(splits: tuple[str, ...]) -> None:
    with pytest.raises(InvalidArgument, match=rf"its splits are: {', '.join(splits)}; .*--train-split") as caught:
        spec_of("image-classification", IMAGES, splits=splits)
    assert (caught.value.reason, caught.value.field) == ("UNKNOWN_SPLIT", "train_split")
    assert training_split(splits, splits[0]) == splits[0]


def test_the_split_to_train_on_is_chosen_from_those_that_exist() -> None:
    spec = task_spec("image-classification", IMAGES, ("dev", "val"), dataset_version="d", train_split="val")
    assert (spec["train_split"], spec["eval_split"]) == ("val", "dev")
    with pytest.raises(InvalidArgument, match="no split 'all'; its splits are: test, train"):
        training_split(("train", "test"), "all")


def test_a_validation_split_selects() -> None:
    for splits, evaluated in ((("train", "test", "validation"), "validation"), (("train", "dev", "test"), "dev")):
        assert spec_of("image-classification", IMAGES, splits=splits)["eval_split"] == evaluated


def test_an_unknown_task_lists_the_tasks() -> None:
    with pytest.raises(InvalidArgument, match="image-classification, tabular") as caught:
        spec_of("segmentation", IMAGES)
    assert caught.value.reason == "UNKNOWN_TASK"


@pytest.mark.parametrize(
    ("task", "data", "words"),
    [
        ("image-classification", TABLE, "needs an image; the data set has the fields: x"),
        ("audio-classification", IMAGES, "needs a recording"),
        ("language-model", IMAGES, "needs a field of type text to predict"),
        ("tabular", Sniffed([LABEL], []), "besides the target 'kind'"),
        ("text-classification", Sniffed([Field("t", "text")], []), "needs a field of type label"),
        (
            "text-classification",
            Sniffed([Field("t", "text"), Field("y", "label", labels=("one",))], [{"t": "a", "y": "one"}]),
            "has only the class 'one'",
        ),
    ],
)
def test_unsuitable_data_is_told_what_is_missing(task: str, data: Sniffed, words: str) -> None:
    with pytest.raises(FailedPrecondition, match=words) as caught:
        spec_of(task, data)
    assert (caught.value.reason, caught.value.field) == ("UNSUITABLE_DATA", "dataset")


def test_the_target_must_be_clear() -> None:
    with pytest.raises(InvalidArgument, match="place, kind; choose one with --target") as caught:
        spec_of("tabular", Sniffed([Field("place", "label", labels=("p", "q")), LABEL], []))
    assert caught.value.reason == "AMBIGUOUS_TARGET"
    with pytest.raises(InvalidArgument, match="its fields are: picture"):
        spec_of("image-classification", IMAGES, target="colour")
    with pytest.raises(InvalidArgument, match="has the type image") as caught:
        spec_of("image-classification", IMAGES, target="picture")
    assert caught.value.reason == "WRONG_TYPE"


def test_columns_that_a_task_does_not_use_are_named() -> None:
    fields = [Field("x", "number"), Field("id", "text"), Field("tags", "text", repeated=True)]
    fields.append(Field("side", "label", labels=("a", "b")))
    spec = {"inputs": [{"field": "x"}], "target": {"field": "side"}}
    assert left_out("tabular", spec, fields) == [
        "the column id (text) is left out, because of its type; to use it, import the data again with "
        "--schema 'id:label'",
        "the column tags (list of text) is left out, because of its type",
    ]
    assert left_out("text-classification", spec, fields)[0] == "the spec does not use the field id (text)"
