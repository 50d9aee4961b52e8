"""What is special to each of the small built-in models. tests/deepseek/trainjob/test_built_in_models.py trains them."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import InvalidArgument
from deepseek import models
from deepseek.models.audio_net import LogMel, band_statistics, mel_filters
from deepseek.models.tabular_net import Standardise, TabularNet


@pytest.mark.parametrize("size", [1, 7, 28, 64])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_cnn_takes_images_of_any_size_in_colour_and_grey(size: int, channels: int) -> None:
    image = torch.randint(0, 256, (2, size, size, channels), dtype=torch.uint8)
    assert models.cnn(5, width=4).eval()(image).shape == (2, 5)


def test_a_grey_image_is_a_colour_image_of_three_equal_channels() -> None:
    model, grey = models.cnn(5, width=4).eval(), torch.randint(0, 256, (2, 9, 9, 1), dtype=torch.uint8)
    assert torch.equal(model(grey), model(grey.expand(2, 9, 9, 3)))


def test_padding_does_not_change_what_a_text_is_about() -> None:
    model = models.text_classifier(20, 3, width=8, phrases=()).eval()
    text = torch.tensor([[5, 6, 7]])
    padded = torch.tensor([[5, 6, 7, 0, 0, 0]])
    torch.testing.assert_close(model(text), model(padded))
    assert model(torch.zeros(1, 4, dtype=torch.int64)).isfinite().all()


def test_phrases_see_the_order_of_the_words_and_short_texts_have_phrases() -> None:
    model = models.text_classifier(20, 3, width=8).eval()
    assert not torch.equal(model(torch.tensor([[5, 6, 7]])), model(torch.tensor([[7, 6, 5]])))
    assert model(torch.tensor([[5]])).shape == (1, 3)


def rows() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "a": torch.randn(6, generator=generator) * 1000 + 5000,
        "b": torch.randint(0, 9, (6,), generator=generator),
        "c": torch.randint(0, 3, (6,), generator=generator),
        "d": torch.randint(0, 2, (6,), generator=generator),
    }


COLUMNS = {"a": 0, "c": 3, "b": 0, "d": 2}


def test_the_order_of_the_columns_does_not_matter() -> None:
    model = models.tabular(COLUMNS, 2).eval()
    backwards = dict(reversed(rows().items()))
    assert torch.equal(model(**rows()), model(**backwards))


def test_factors_are_the_products_of_all_pairs_of_columns() -> None:
    torch.manual_seed(0)
    model = models.tabular(COLUMNS, 2, factors=4, dropout=0.0).eval()
    plain = TabularNet(COLUMNS, 2, 64, 2, 0, 0.0).eval()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name in plain.state_dict()})
    batch = rows()
    batch["a"] /= 5000
    assert model.interaction is not None
    assert model.standardise is not None
    numbers = model.standardise(torch.stack([batch["a"], batch["b"].float()], 1))
    vectors = [numbers[:, i, None] * model.number_factors[i] for i in range(2)]
    vectors += [table(batch[name]) for table, name in zip(model.label_factors, ("c", "d"), strict=True)]
    pairs = sum(one * other for one, other in itertools.combinations(vectors, 2))
    assert isinstance(pairs, Tensor)
    torch.testing.assert_close(model(**batch), plain(**batch) + model.interaction(pairs))


@pytest.mark.parametrize("columns", [{"a": 0}, {"c": 3}])
@pytest.mark.parametrize("factors", [0, 2])
@pytest.mark.parametrize("depth", [0, 1])
def test_columns_of_one_kind_are_enough(columns: dict[str, int], factors: int, depth: int) -> None:
    batch = {name: values for name, values in rows().items() if name in columns}
    assert models.tabular(columns, 1, factors=factors, depth=depth)(**batch).shape == (6, 1)


def test_the_outputs_are_where_the_numbers_to_predict_are() -> None:
    torch.manual_seed(0)
    plain = models.tabular(COLUMNS, 1, dropout=0.0).eval()
    scaled = models.tabular(COLUMNS, 1, dropout=0.0, offset=14_000.0, scale=5000.0).eval()
    scaled.load_state_dict(plain.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        output, expected = scaled(**rows()), plain(**rows()) * 5000 + 14_000
    torch.testing.assert_close(output, expected)
    assert (output.dtype, output.shape) == (torch.float32, (6, 1))


def test_numbers_are_standardised_by_all_batches_so_far() -> None:
    values = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1e-4, 1.0, 1e5]) + 7
    values = torch.cat([values, torch.full((40, 1), 0.1)], 1)
    module = Standardise(4)
    for batch in values.split([1, 10, 20, 9]):
        found = module(batch)
    torch.testing.assert_close(module.mean, values.mean(0))
    torch.testing.assert_close(module.variance[:3], values.var(0, correction=0)[:3], rtol=1e-2, atol=0)
    assert torch.equal(module.eval()(values)[-9:], found)
    assert module(values)[:, 3].abs().max() < 1e-6
    torch.testing.assert_close(module(values)[:, 1:3].std(0, correction=0), torch.ones(2))


def test_other_columns_and_lists_are_refused() -> None:
    model = models.tabular({"a": 0}, 2)
    for batch, problem in (
        ({"b": torch.zeros(2)}, "the columns are b; the model expects a"),
        ({"a": torch.zeros(2, 3)}, r"the column a has the shape \(2, 3\)"),
    ):
        with pytest.raises(InvalidArgument, match=problem):
            model(**batch)


def test_a_tone_is_loudest_in_the_mel_band_of_its_frequency() -> None:
    rate, front_end = 8000, LogMel(8000, 40)
    time = torch.arange(rate) / rate
    filters = mel_filters(rate, 200, 40)
    for frequency in (440.0, 1000.0, 3000.0):
        spectrum = front_end(torch.sin(2 * torch.pi * frequency * time)[None])[0, :, 10:-10]
        expected = filters[:, round(frequency / (rate / 200))].argmax()
        assert (spectrum.argmax(0) == expected).all()


def test_the_spectrum_is_that_of_a_fast_fourier_transform() -> None:
    rate, num_mels = 8000, 20
    front_end = LogMel(rate, num_mels)
    audio = torch.randn(1, 1000, generator=torch.Generator().manual_seed(0))
    window = torch.hann_window(200, periodic=True)
    spectrum = torch.stft(
        torch.nn.functional.pad(audio, (100, 100)), 200, 80, window=window, center=False, return_complex=True
    )
    power = (spectrum.abs() * 2 / window.sum()).square()
    expected = (mel_filters(rate, 200, num_mels) @ power).clamp(min=1e-6).log()
    torch.testing.assert_close(front_end(audio), expected, atol=1e-3, rtol=1e-3)


def test_mel_filters_overlap_and_none_is_empty() -> None:
    filters = mel_filters(16000, 400, 64).numpy()
    centres = filters.argmax(1)
    assert (np.diff(centres) >= 0).all()
    assert (filters.sum(1) > 0).all()
    np.testing.assert_allclose(mel_filters(16000, 400, 20).numpy().sum(0)[10:160], 1, atol=1e-6)


def test_silence_around_a_sound_hardly_changes_its_statistics() -> None:
    front_end, sound = LogMel(8000, 40), torch.randn(1, 4000, generator=torch.Generator().manual_seed(0)) * 0.1
    found, floor = band_statistics(front_end(sound)), math.log(1e-6)
    padded = front_end(torch.nn.functional.pad(sound, (800, 12_000)))
    # Two more frames hold an edge of the sound. Counting the silence would move the means by more than 5.
    torch.testing.assert_close(band_statistics(padded)[:, :40], found[:, :40], atol=0.2, rtol=0)
    assert (padded.mean(2) - floor - found[:, :40]).abs().max() > 5
    bands = front_end(sound) - floor
    torch.testing.assert_close(found, torch.cat([bands.mean(2), bands.std(2, correction=0)], 1), atol=1e-3, rtol=0)


def test_the_statistics_of_a_faint_sound_are_close_to_those_of_silence() -> None:
    front_end, sound = LogMel(8000, 40), torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
    assert band_statistics(front_end(torch.zeros(1, 800))).abs().max() < 0.01
    faint = front_end(sound * 0.004)
    assert faint.max() > math.log(1e-6) + 1e-3
    assert band_statistics(faint)[:, :40].abs().max() < 1


@pytest.mark.parametrize("length", [1, 10, 1000])
def test_the_shortest_sound_has_an_answer(length: int) -> None:
    model = models.audio_classifier(3, 8000, width=4).eval()
    assert model(torch.zeros(2, length)).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_silence_and_noise_stay_finite_in_half_precision(dtype: torch.dtype) -> None:
    model = models.audio_classifier(3, 8000, width=4)
    with torch.autocast("cpu", dtype):
        found = model(torch.cat([torch.zeros(1, 800), torch.rand(1, 800) * 2 - 1]))
    assert found.isfinite().all()
    reference = LogMel(8000, 64)
    quiet = torch.randn(1, 800) * 1e-3
    with torch.autocast("cpu", dtype):
        found = reference(quiet)
    assert torch.equal(found, reference(quiet))


@pytest.mark.parametrize(
    ("build", "value"),
    [
        (lambda: models.cnn(2), torch.zeros(2, 3, 8, 8)),
        (lambda: models.cnn(2), torch.zeros(2, 8, 8, 4, dtype=torch.uint8)),
        (lambda: models.text_classifier(9, 2), torch.zeros(2, 3, 4, dtype=torch.int64)),
        (lambda: models.audio_classifier(2, 8000), torch.zeros(2, 9, dtype=torch.int64)),
    ],
)
def test_an_input_of_another_form_is_refused(build: Any, value: Tensor) -> None:
    with pytest.raises(InvalidArgument) as caught:
        build()(value)
    assert caught.value.reason == "WRONG_TYPE"


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: models.cnn(0), "num_classes"),
        (lambda: models.cnn(2, dropout=1.0), "dropout"),
        (lambda: models.resnet18(0), "num_classes"),
        (lambda: models.text_classifier(9, 2, phrases=(2, 0)), "phrases[1]"),
        (lambda: models.tabular({}, 2), "columns"),
        (lambda: models.tabular({"a": -1}, 2), "columns.a"),
        (lambda: models.tabular({"a": 0}, 2, depth=-1), "depth"),
        (lambda: models.tabular({"a": 0}, 1, scale=0.0), "scale"),
        (lambda: models.audio_classifier(2, 1), "sample_rate"),
        (lambda: models.transformer_lm(9, width=6), "width"),
    ],
)
def test_a_parameter_out_of_range_is_refused(build: Any, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        build()
    assert caught.value.field == field


@pytest.mark.parametrize("build", [models.cnn, models.resnet18, models.resnet50])
def test_with_group_normalization_a_sample_is_independent_of_its_batch(build: Any) -> None:
    model = build(num_classes=3, norm="group")
    model.requires_grad_(False).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.eval()
    image = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    torch.testing.assert_close(model(image)[:1], model(image[:1]), rtol=1e-4, atol=1e-4)
    assert all(tensor.is_floating_point() for tensor in model.state_dict().values())


def test_an_unknown_normalization_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="norm is 'layer'; it must be one of: batch, group"):
        models.cnn(3, norm="layer")
