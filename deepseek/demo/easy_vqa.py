"""The easy-VQA data set (Victor Zhou, MIT licence) as samples: 5,000 generated images with 48,248 questions.

Each sample is one image with all of the image's questions and answers. A model can therefore encode each image once for
all of its questions.
"""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from deepseek.data.manifest import Field
from deepseek.data.sample import Sample

DATASET = "easy-vqa"
"""Id of the data set, and also of the model that is trained on it."""


def fields() -> tuple[Field, ...]:
    """Returns the columns of the data set: an image, its questions, and one answer per question, out of 13 labels."""
    import easy_vqa

    return (
        Field("image", "image", repeated=False, labels=()),
        Field("question", "text", repeated=True, labels=()),
        Field("answer", "label", repeated=True, labels=tuple(sorted(easy_vqa.get_answers()))),
    )


def samples() -> Iterator[Sample]:
    """Yields one sample per image: first 4,000 in the split `train`, then 1,000 in the split `test`.

    Within a split, samples are ordered by the number of the image.
    """
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
