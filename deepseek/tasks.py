"""Run specs for common tasks, derived from the schema and a few samples of a data set.

A spec is a starting point: a small model, a metric that suits the task, and early stopping. Users edit it and train it
again with `deepseek train SPEC`.
"""

import math
import statistics
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.data.manifest import Field

NUM_SNIFFED = 64
"""Number of samples that are enough to choose the sizes of encoders."""
SNIFFED_AMONG = 2048
"""The sniffed samples are spread evenly over this many samples, because class folders are stored class by class."""
MAX_SNIFFED_BYTES = 32 << 20
"""Size of the samples among which the sniffed samples are chosen."""

_SELECTION_SPLITS = ("validation", "valid", "val", "dev", "eval")
"""Splits on which a model is evaluated and selected, the most suitable first; `test` must not select a model."""
EVALUATION_SPLITS = ("test", *_SELECTION_SPLITS)
"""Splits on which a trained model is judged, the most suitable first: no choice in training depends on `test`."""
EVAL_SHARE = 0.1
"""Share of the training split on which a model is evaluated and selected if there is no such split."""

_IMAGE_SIZES = (32, 64, 128, 224)
_MAX_SECONDS = 4.0
_MAX_WORDS = 512
_MAX_PHRASED_WORDS = 128
"""Maximum number of words of a text for which phrases are worth the time; the words of longer texts show the topic."""
_MIN_TEXT_EPOCHS, _MAX_TEXT_EPOCHS = 8, 60
_MIN_TEXTS_SEEN = 64_000
_MAX_CHARACTERS = 256


@dataclass(frozen=True)
class Sniffed:
    """What a task needs to know about a data set.

    Attributes:
        fields: Schema.
        samples: Values of a few samples; see `Sample.values`.
        num_train: Number of samples in the split that trains; 0 if unknown.
    """

    fields: Sequence[Field]
    samples: Sequence[Mapping[str, Any]]
    num_train: int = 0

    def values(self, name: str) -> list[Any]:
        """Returns the values of a field that is not repeated."""
        return [sample[name] for sample in self.samples]


def task_spec(
    task: str,
    sniffed: Sniffed,
    splits: Collection[str],
    *,
    dataset_version: str,
    target: str = "",
    train_split: str = "",
    epochs: int | None = None,
) -> dict[str, Any]:
    """Returns a run spec for a task, in the JSON form of `deepseek.trainer.v1.RunSpec`.

    Args:
        task: A key of `TASKS`.
        sniffed: The data set.
        splits: Names of the data set's splits.
        dataset_version: Name of the version to train on.
        target: Name of the field to predict; may be empty if only one field can be the target.
        train_split: Split to train on; empty as in `training_split`.
        epochs: Number of epochs; None means the number that suits the task.

    Raises:
        InvalidArgument: UNKNOWN_TASK; UNKNOWN_FIELD; AMBIGUOUS_TARGET if several fields can be the target; an error of
            `training_split`.
        FailedPrecondition: UNSUITABLE_DATA if the data set lacks a field that the task needs, or its target has only
            one class.
    """
    if task not in TASKS:
        message = f"there is no task {task[:80]!r}; the tasks are: {', '.join(TASKS)}"
        raise InvalidArgument("UNKNOWN_TASK", message, field="task")
    spec: dict[str, Any] = {"dataset_version": dataset_version, **TASKS[task](sniffed, target)}
    if epochs:
        spec |= _duration(epochs)
    split = training_split(splits, train_split)
    if split != "train":
        spec["train_split"] = split
    evaluated = next((name for name in _SELECTION_SPLITS if name in splits and name != split), "")
    if evaluated:
        spec["eval_split"] = evaluated
    else:
        spec["eval_share"] = EVAL_SHARE
    spec["batch_size"] = even_batch_size(_num_trained(sniffed.num_train, spec), spec["batch_size"])
    return spec


def even_batch_size(num_samples: int, largest: int) -> int:
    """Returns a batch size whose last batch in an epoch is well filled, so that no step trains on only a few samples.

    The statistics of batch normalization are useless in a batch of two samples, and such a step disturbs training. With
    several ranks, every batch is divided among them, the last one as evenly as the others.

    Args:
        num_samples: Number of samples per epoch; 0 if unknown.
        largest: Largest batch size. The result is the largest size from half of it that fills the last batch to at
            least three quarters; if there is none, the size that fills it best.

    >>> even_batch_size(898, 64), 898 % 64, 898 % 60
    (60, 2, 58)
    """
    if num_samples <= largest:
        return largest
    sizes = range(largest, max(0, largest // 2 - 1), -1)
    return max(sizes, key=lambda size: min(0.75, ((num_samples - 1) % size + 1) / size))


def _num_trained(num_samples: int, spec: Mapping[str, Any]) -> int:
    """Returns how many samples of the training split are not held out; see `deepseek.trainjob.held_out`."""
    share = spec.get("eval_share", 0)
    return num_samples - max(1, round(share * num_samples)) if share and num_samples > 1 else num_samples


def training_split(splits: Collection[str], chosen: str = "") -> str:
    """Returns the split to train on.

    Args:
        splits: Names of a data set's splits.
        chosen: The split that the user chose; if empty, it is `train` or the only split, unless models are judged on
            splits of that name.

    Raises:
        InvalidArgument: UNKNOWN_SPLIT if there is no such split, or none is chosen and none is clear.
    """
    names = ", ".join(sorted(splits))
    if chosen and chosen not in splits:
        message = f"the data set has no split {chosen[:80]!r}; its splits are: {names}"
        raise InvalidArgument("UNKNOWN_SPLIT", message, field="train_split")
    if chosen or "train" in splits:
        return chosen or "train"
    if len(splits) == 1 and names not in EVALUATION_SPLITS:
        return names
    message = f"the data set has no split 'train'; its splits are: {names}; choose the one to train on with"
    raise InvalidArgument("UNKNOWN_SPLIT", f"{message} --train-split", field="train_split")


def _image_classification(sniffed: Sniffed, target: str) -> dict[str, Any]:
    from deepseek.data.media import open_image

    image = _only(sniffed.fields, ("image",), "an image")
    label = _target(sniffed, ("label",), target)
    sides, modes = [], set()
    for data in sniffed.values(image.name):
        with open_image(data) as opened:
            sides.append(max(opened.size))
            modes.add(opened.mode)
    longest = sorted(sides)[len(sides) // 2]
    size = next((size for size in _IMAGE_SIZES if longest <= size), _IMAGE_SIZES[-1])
    mode = "L" if modes <= {"1", "L", "I;16"} else "RGB"
    mapping = {
        "field": image.name,
        "input": "image",
        "encoder": {"name": "image", "params": {"size": size, "mode": mode}},
        "augmentations": [{"name": "random_crop", "params": {"padding": max(1, size // 16)}}],
    }
    return {"model": {"name": "cnn"}, "inputs": [mapping], **_classes(label, epochs=20, batch_size=64, lr=0.002)}


def _tabular(sniffed: Sniffed, target: str) -> dict[str, Any]:
    label = _target(sniffed, ("label", "number", "integer"), target)
    columns = [
        {"field": one.name}
        for one in sniffed.fields
        if one.type in ("number", "integer", "label") and one != label and not one.repeated
    ]
    if not columns:
        raise _unsuitable(sniffed.fields, f"a column of numbers, integers or labels besides the target {label.name!r}")
    spec = {"model": {"name": "tabular"}, "inputs": columns}
    if label.type == "label":
        return {**spec, **_classes(label, epochs=100, batch_size=32, lr=0.003)}
    return {
        **spec,
        "model": {"name": "tabular", "params": _typical(sniffed.values(label.name))},
        "target": {"field": label.name, "encoder": {"name": "number"}},
        "loss": {"name": "mse"},
        "metrics": [{"name": "rmse"}, {"name": "mae"}, {"name": "r2"}],
        "select_metric": "rmse",
        **_training(epochs=100, batch_size=32, lr=0.003),
    }


def _typical(numbers: Sequence[float]) -> dict[str, float]:
    """Returns the mean and the standard deviation of numbers to predict, to three digits of the deviation.

    A network learns numbers with mean 0 and deviation 1 fastest. The model uses these values to rescale its outputs.

    >>> _typical([1000, 2000, 6000])
    {'offset': 3000.0, 'scale': 2160.0}
    """
    scale = (statistics.pstdev(numbers) if numbers else 0.0) or 1.0
    digits = 2 - math.floor(math.log10(scale))
    return {"offset": round(float(statistics.fmean(numbers or [0])), digits), "scale": round(scale, digits)}


def _text_classification(sniffed: Sniffed, target: str) -> dict[str, Any]:
    text = _only(sniffed.fields, ("text",), "a text")
    label = _target(sniffed, ("label",), target)
    longest = _most(sorted(len(value.split()) for value in sniffed.values(text.name)))
    length = min(_MAX_WORDS, max(16, 16 * math.ceil(longest / 16)))
    encoder = {"name": "words", "params": {"length": length, "vocabulary": 20_000}}
    mapping = {"field": text.name, "input": "text", "encoder": encoder}
    model: dict[str, Any] = {"name": "text_classifier"}
    if length > _MAX_PHRASED_WORDS:
        model["params"] = {"phrases": []}
    # Each word has its own parameters, and only the texts with this word train them. A small data set therefore gets
    # more epochs.
    epochs = min(_MAX_TEXT_EPOCHS, max(_MIN_TEXT_EPOCHS, math.ceil(_MIN_TEXTS_SEEN / max(1, sniffed.num_train))))
    return {"model": model, "inputs": [mapping], **_classes(label, epochs=epochs, batch_size=32, lr=0.002)}


def _audio_classification(sniffed: Sniffed, target: str) -> dict[str, Any]:
    from deepseek.data.media import decode_audio

    audio = _only(sniffed.fields, ("audio",), "a recording")
    label = _target(sniffed, ("label",), target)
    decoded = [decode_audio(data) for data in sniffed.values(audio.name)]
    durations = sorted(len(frames) / rate for frames, rate in decoded)
    seconds = min(_MAX_SECONDS, max(0.5, math.ceil(2 * _most(durations)) / 2))
    rate = min(16_000, max(rate for _, rate in decoded))
    mapping = {
        "field": audio.name,
        "input": "audio",
        "encoder": {"name": "audio", "params": {"sample_rate": rate, "seconds": seconds}},
        "augmentations": [{"name": "time_shift"}],
    }
    model = {"name": "audio_classifier"}
    return {"model": model, "inputs": [mapping], **_classes(label, epochs=20, batch_size=32, lr=0.005)}


def _language_model(sniffed: Sniffed, target: str) -> dict[str, Any]:
    text = _target(sniffed, ("text",), target)
    longest = _most(sorted(map(len, sniffed.values(text.name))))
    length = min(_MAX_CHARACTERS, max(16, 16 * math.ceil(longest / 16)))
    encoder = {"name": "characters", "params": {"length": length, "vocabulary": 256}}
    return {
        "model": {"name": "transformer_lm", "params": {"depth": 2, "dropout": 0.0}},  # small data, two cores
        "inputs": [{"field": text.name, "input": "text", "encoder": encoder}],
        "target": {"field": text.name, "encoder": encoder},
        "loss": {"name": "next_token_cross_entropy"},
        "metrics": [{"name": "next_token_accuracy"}, {"name": "perplexity"}],
        **_training(epochs=20, batch_size=16, lr=0.003),
    }


TASKS: Mapping[str, Callable[[Sniffed, str], dict[str, Any]]] = {
    "image-classification": _image_classification,
    "tabular": _tabular,
    "text-classification": _text_classification,
    "audio-classification": _audio_classification,
    "language-model": _language_model,
}
"""The tasks by name. Each function returns the members of the spec that depend on the fields of the data set."""


def _classes(label: Field, *, epochs: int, batch_size: int, lr: float) -> dict[str, Any]:
    """Returns the members of a spec that predicts a class."""
    if len(label.labels) < 2:
        message = f"the field {label.name!r} has only the class {label.labels[0]!r}; a classifier needs two or more"
        raise FailedPrecondition("UNSUITABLE_DATA", message, field="dataset")
    return {
        "target": {"field": label.name},
        "metrics": [{"name": "accuracy"}, {"name": "f1"}],
        "select_metric": "accuracy",
        **_training(epochs=epochs, batch_size=batch_size, lr=lr),
    }


def _training(*, epochs: int, batch_size: int, lr: float) -> dict[str, Any]:
    return {
        "optimizer": {"name": "adamw", "params": {"lr": lr}},
        "schedule": {"name": "one_cycle"},
        "batch_size": batch_size,
        **_duration(epochs),
    }


def _duration(epochs: int) -> dict[str, Any]:
    return {"epochs": epochs, "early_stopping": {"patience": max(4, epochs // 4)}}


def _most(ascending: Sequence[float]) -> float:
    """Returns the value that 95 % of the values do not exceed, so that a few long samples do not slow down training."""
    return ascending[math.ceil(0.95 * len(ascending)) - 1]


def _only(fields: Sequence[Field], types: Sequence[str], what: str) -> Field:
    """Returns the first field of a type that is not repeated."""
    for field in fields:
        if field.type in types and not field.repeated:
            return field
    raise _unsuitable(fields, what)


def _target(sniffed: Sniffed, types: Sequence[str], name: str) -> Field:
    suitable = [field for field in sniffed.fields if field.type in types and not field.repeated]
    if name:
        named = next((field for field in sniffed.fields if field.name == name), None)
        if named is None:
            message = f"the data set has no field {name[:80]!r}; its fields are: {', '.join(map(str, sniffed.fields))}"
            raise InvalidArgument("UNKNOWN_FIELD", message, field="target")
        if named not in suitable:
            message = f"the field {name!r} has the type {named.type}; this task predicts a field of type"
            raise InvalidArgument("WRONG_TYPE", f"{message} {' or '.join(types)}", field="target")
        return named
    labels = [field for field in suitable if field.type == types[0]]
    if len(labels) == 1:
        return labels[0]
    if not suitable:
        raise _unsuitable(sniffed.fields, f"a field of type {' or '.join(types)} to predict")
    message = (
        f"several fields can be predicted: {', '.join(field.name for field in suitable)}; choose one with --target"
    )
    raise InvalidArgument("AMBIGUOUS_TARGET", message, field="target")


def _unsuitable(fields: Sequence[Field], what: str) -> FailedPrecondition:
    message = f"this task needs {what}; the data set has the fields: {', '.join(map(str, fields))}"
    return FailedPrecondition("UNSUITABLE_DATA", message, field="dataset")


def left_out(task: str, spec: Mapping[str, Any], fields: Sequence[Field]) -> list[str]:
    """Returns a sentence about each field of a data set that a task's spec does not use."""
    used = {mapping["field"] for mapping in (*spec["inputs"], spec["target"])}
    notes = []
    for field in fields:
        if field.name not in used and task != "tabular":
            notes.append(f"the spec does not use the field {field}")
        elif field.name not in used:
            is_text = field.type == "text" and not field.repeated
            how = f"; to use it, import the data again with --schema '{field.name}:label'" if is_text else ""
            notes.append(f"the column {field} is left out, because of its type{how}")
    return notes
