from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from common.errors import InvalidArgument
from deepseek.training.batches import Arguments, collate

CPU = torch.device("cpu")


class Listed(list[Any]):
    """A list is a data set."""


class ImageModel(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        return image


class PairModel(nn.Module):
    def forward(self, image: Tensor, question: Tensor, mask: Tensor | None = None) -> Tensor:
        return image


def test_fields_are_stacked_and_text_is_listed() -> None:
    sample = {"image": np.zeros((2, 3), np.uint8), "x": torch.ones(2), "text": "a", "label": 3, "rate": 0.5, "on": True}
    batch = collate(Listed([sample, sample]), [1, 0])
    assert {name: (value.dtype, tuple(value.shape)) for name, value in batch.items() if name != "text"} == {
        "image": (torch.uint8, (2, 2, 3)),
        "x": (torch.float32, (2, 2)),
        "label": (torch.int64, (2,)),
        "rate": (torch.float32, (2,)),
        "on": (torch.bool, (2,)),
    }
    assert batch["text"] == ["a", "a"]


def test_scalars_of_numpy_are_stacked_and_their_text_is_listed() -> None:
    sample = {"label": np.int64(3), "rate": np.float32(0.5), "on": np.bool_(True), "text": np.str_("a")}
    batch = collate(Listed([{**sample, "words": np.array(["b", "c"])}] * 2), [1, 0])
    assert {name: batch[name].dtype for name in ("label", "rate", "on")} == {
        "label": torch.int64,
        "rate": torch.float32,
        "on": torch.bool,
    }
    assert batch["text"] == ["a", "a"]
    assert [words.tolist() for words in batch["words"]] == [["b", "c"]] * 2


def test_a_pair_is_input_and_target() -> None:
    batch = collate(Listed([(torch.ones(2), 1)]), [0])
    arguments, target = Arguments(nn.Linear(2, 2), None, None).split(batch, CPU)
    assert arguments["input"].shape == (1, 2)
    assert target.tolist() == [1]


def test_a_data_set_may_collate_itself() -> None:
    class Own(Listed):
        def collate(self, samples: list[int]) -> dict[str, Tensor]:
            return {"sum": torch.tensor(sum(samples))}

    assert collate(Own([1, 2, 4]), [0, 2])["sum"].item() == 5


def test_shapes_that_differ_are_named() -> None:
    with pytest.raises(InvalidArgument, match=r"field 'x' .* \(2,\), \(3,\)"):
        collate(Listed([{"x": torch.ones(2)}, {"x": torch.ones(3)}]), [0, 1])
    with pytest.raises(InvalidArgument, match="not a str"):
        collate(Listed(["a"]), [0])


def test_a_model_gets_the_fields_that_its_signature_names() -> None:
    batch = {"image": torch.ones(1), "question": torch.ones(1), "weather": torch.ones(1), "answer": torch.tensor([2])}
    arguments, target = Arguments(PairModel(), None, None).split(batch, CPU)
    assert list(arguments) == ["image", "question"]
    assert target.item() == 2
    arguments, _ = Arguments(PairModel(), None, None).split({**batch, "mask": torch.ones(1)}, CPU)
    assert list(arguments) == ["image", "question", "mask"]


def test_the_only_tensor_goes_to_the_only_argument() -> None:
    arguments, _ = Arguments(ImageModel(), None, None).split(
        {"pixels": torch.ones(1), "caption": ["a"], "target": torch.ones(1)}, CPU
    )
    assert list(arguments) == ["image"]


def test_a_mapping_may_rename_and_choose() -> None:
    batch = {"photo": torch.ones(1), "text": torch.zeros(1), "label": torch.tensor([1])}
    arguments, target = Arguments(PairModel(), {"image": "photo", "question": "text"}, "label").split(batch, CPU)
    assert [value.item() for value in arguments.values()] == [1, 0]
    assert target.item() == 1


@pytest.mark.parametrize(
    ("batch", "field"),
    [
        ({"image": torch.ones(1), "target": torch.ones(1)}, "inputs"),
        ({"image": torch.ones(1), "question": torch.ones(1)}, "target"),
    ],
)
def test_a_field_that_is_missing_is_named_with_those_there_are(batch: dict[str, Tensor], field: str) -> None:
    with pytest.raises(InvalidArgument, match="they have: image, ") as caught:
        Arguments(PairModel(), None, None).split(batch, CPU)
    assert (caught.value.reason, caught.value.field) == ("MISSING_FIELD", field)
