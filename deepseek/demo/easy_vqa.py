"""The easy-VQA data set (Victor Zhou, MIT licence) as samples: 5,000 drawn images with 48,248 questions.

One sample is one image with all of its questions and answers, so that a model encodes the image once for all of them.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from deepseek.data.manifest import Field
from deepseek.data.sample import Sample

DATASET = "easy-vqa"
"""Id of the data set and of the model in the registry."""


def fields() -> tuple[Field, ...]:
    """The columns: an image, its questions, their answers out of 13 labels."""
    import easy_vqa

    return (
        Field("image", "image", repeated=False, labels=()),
        Field("question", "text", repeated=True, labels=()),
        Field("answer", "label", repeated=True, labels=tuple(sorted(easy_vqa.get_answers()))),
    )


def samples() -> Iterator[Sample]:
    """Every image with its questions, in the order of the image numbers: 4,000 of split `train`, 1,000 of `test`."""
    import easy_vqa

    splits = {
        "train": (easy_vqa.get_train_image_paths, easy_vqa.get_train_questions),
        "test": (easy_vqa.get_test_image_paths, easy_vqa.get_test_questions),
    }
    for split, (get_paths, get_questions) in splits.items():
        questions, answers = defaultdict(list), defaultdict(list)
        for question, answer, image in zip(*get_questions(), strict=True):
            questions[image].append(question)
            answers[image].append(answer)
        for image, path in sorted(get_paths().items()):
            values = {"image": Path(path).read_bytes(), "question": questions[image], "answer": answers[image]}
            yield Sample(key=f"{split}/{image:04d}", split=split, values=values)
