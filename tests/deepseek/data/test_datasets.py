from typing import Any

import numpy as np
import pytest
import torch

from common.errors import InvalidArgument
from deepseek.data.augmentations import RandomFlip
from deepseek.data.datasets import EncodedDataset, InputMapping, fit_encoders, read_samples
from deepseek.data.encoders import CharactersEncoder, ImageEncoder, LabelEncoder, NumberEncoder, WordsEncoder
from deepseek.data.manifest import DatasetManifest, Field
from deepseek.data.sample import Sample
from tests.deepseek.data.samples import FIELDS, ShardFolder, make_dataset, question_sample
from tests.harness.images import image_file


@pytest.fixture
def store() -> ShardFolder:
    return ShardFolder()


@pytest.fixture
def manifest(store: ShardFolder) -> DatasetManifest:
    return make_dataset(store, {"train": 12, "test": 4})


def mappings() -> tuple[list[InputMapping], InputMapping]:
    inputs = [
        InputMapping("image", "image", ImageEncoder(size=8), (RandomFlip(1.0),)),
        InputMapping("question", "question", WordsEncoder(length=6)),
    ]
    return inputs, InputMapping("answer", "", LabelEncoder())


def open_split(store: ShardFolder, manifest: DatasetManifest, split: str = "train", **options: Any) -> EncodedDataset:
    inputs, target = mappings()
    fit_encoders(store, "default", manifest, "train", [*inputs, target])
    return EncodedDataset(store, "default", manifest, split, inputs, target, **options)


def test_samples_are_encoded(store: ShardFolder, manifest: DatasetManifest) -> None:
    dataset = open_split(store, manifest)
    assert len(dataset) == 12
    assert dataset.inputs == ("image", "question")
    assert dataset.keys[3] == "train/0003"
    sample = dataset[2]
    assert np.array_equal(sample["image"], ImageEncoder(size=8).encode(image_file(2)))
    assert sample["question"].shape == (3, 6)
    assert sample["target"].tolist() == [2, 0, 1]
    assert np.array_equal(dataset[-1]["image"], dataset[11]["image"])
    with pytest.raises(IndexError):
        dataset[12]


def test_a_batch_pads_repeated_fields(store: ShardFolder, manifest: DatasetManifest) -> None:
    dataset = open_split(store, manifest)
    batch = dataset.collate([dataset[0], dataset[2]])
    assert batch["image"].shape == (2, 8, 8, 3)
    assert batch["image"].dtype == torch.uint8
    assert batch["question"].shape == (2, 3, 6)
    assert batch["question"][0, 1:].unique().tolist() == [0]
    assert batch["target"].tolist() == [[0, -1, -1], [2, 0, 1]]


def test_a_part_has_the_values_of_its_samples(store: ShardFolder, manifest: DatasetManifest) -> None:
    dataset = open_split(store, manifest)
    part = dataset.part([11, 0]).part([1])  # one question
    assert (part.keys, part.distinct("target").tolist()) == ([dataset.keys[0]], dataset[0]["target"].tolist())
    assert dataset.distinct("target").tolist() == [0, 1, 2]


def test_augmentations_are_applied_in_training_only(store: ShardFolder, manifest: DatasetManifest) -> None:
    plain, augmented = open_split(store, manifest), open_split(store, manifest, augment=True)
    expected = plain.collate([plain[1]])["image"].flip(2)
    assert torch.equal(augmented.collate([augmented[1]])["image"], expected)
    assert np.array_equal(augmented[1]["image"], plain[1]["image"])


def test_a_batch_owns_its_memory(store: ShardFolder, manifest: DatasetManifest) -> None:
    dataset = open_split(store, manifest)
    dataset.collate([dataset[0]])["image"].zero_()
    assert dataset[0]["image"].any()


@pytest.mark.parametrize("cache_bytes", [0, 500, 1000, 2000])
def test_what_does_not_fit_in_memory_is_read_from_a_file(
    store: ShardFolder, manifest: DatasetManifest, cache_bytes: int
) -> None:
    in_memory, on_disk = open_split(store, manifest), open_split(store, manifest, cache_bytes=cache_bytes)
    for index in range(12):
        for name, array in in_memory[index].items():
            assert np.array_equal(array, on_disk[index][name])
    assert isinstance(on_disk._columns["image"]._values, np.memmap)


def test_encoders_learn_from_the_training_split_alone(store: ShardFolder) -> None:
    def make(number: int, split: str) -> Sample:
        return Sample(f"{split}{number}", split, {"text": f"{split} word"})

    manifest = make_dataset(store, {"train": 3, "test": 3}, (Field("text", "text"),), make)
    encoder = WordsEncoder()
    fit_encoders(store, "default", manifest, "train", [InputMapping("text", "text", encoder)])
    assert encoder.tokens == ("train", "word")


def test_one_field_can_be_input_and_target(store: ShardFolder) -> None:
    def make(number: int, split: str) -> Sample:
        return Sample(f"{split}{number}", split, {"text": "abc" * number, "weight": number / 2})

    fields = (Field("text", "text"), Field("weight", "number"))
    manifest = make_dataset(store, {"train": 3}, fields, make)
    inputs = [
        InputMapping("text", "text", CharactersEncoder(length=4)),
        InputMapping("weight", "weight", NumberEncoder()),
    ]
    target = InputMapping("text", "", CharactersEncoder(length=4))
    fit_encoders(store, "default", manifest, "train", [*inputs, target])
    dataset = EncodedDataset(store, "default", manifest, "train", inputs, target)
    batch = dataset.collate([dataset[1], dataset[2]])
    assert torch.equal(batch["text"], batch["target"])
    assert batch["weight"].tolist() == [0.5, 1.0]


def test_samples_without_any_question_are_kept(store: ShardFolder) -> None:
    manifest = make_dataset(store, {"train": 3}, make=lambda n, split: question_sample(n, split, num_questions=0))
    dataset = open_split(store, manifest, cache_bytes=0)
    batch = dataset.collate([dataset[0], dataset[1]])
    assert batch["question"].shape == (2, 0, 6)
    assert batch["target"].shape == (2, 0)


def test_an_image_that_is_damaged_in_the_store_is_named(store: ShardFolder) -> None:
    def make(number: int, split: str) -> Sample:
        good = question_sample(number, split)
        return Sample(good.key, split, dict(good.values) | ({"image": b"no image"} if number == 2 else {}))

    with pytest.raises(InvalidArgument) as caught:
        open_split(store, make_dataset(store, {"train": 4}, make=make))
    assert caught.value.reason == "DAMAGED_IMAGE"
    assert caught.value.field == "samples[train/0002].image"


def test_a_split_or_field_that_does_not_exist_is_named(store: ShardFolder, manifest: DatasetManifest) -> None:
    with pytest.raises(InvalidArgument, match="no split 'validation'; its splits are: test, train"):
        open_split(store, manifest, "validation")
    with pytest.raises(InvalidArgument, match="no field 'caption'"):
        fit_encoders(store, "default", manifest, "train", [InputMapping("caption", "x", WordsEncoder())])


def test_an_empty_split_is_refused(store: ShardFolder) -> None:
    with pytest.raises(InvalidArgument) as caught:
        open_split(store, make_dataset(store, {"train": 2, "test": 0}), "test")
    assert caught.value.reason == "EMPTY_SPLIT"


def test_inputs_of_one_name_are_refused(store: ShardFolder, manifest: DatasetManifest) -> None:
    inputs, target = mappings()
    with pytest.raises(InvalidArgument) as caught:
        EncodedDataset(store, "default", manifest, "train", [inputs[0], inputs[0]], target)
    assert caught.value.field == "inputs"


def test_samples_are_read_in_order_from_all_shards(store: ShardFolder, manifest: DatasetManifest) -> None:
    keys = [sample.key for sample in read_samples(store, "default", manifest, "train")]
    assert keys == [f"train/{number:04d}" for number in range(12)]
    assert store.num_fetches == 3
    assert manifest.fields == FIELDS
