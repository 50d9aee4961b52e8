"""The networks of architecture search. tests/deepseek/trainjob/test_built_in_models.py trains and exports them."""

from typing import Any

import pytest
import torch

from common.errors import InvalidArgument
from deepseek import models
from tests.deepseek.nas.networks import STAGE

STAGES = [
    STAGE | {"pooling": "max", "depth": 2},
    STAGE | {"block": "separable", "expansion": 2, "squeeze": True, "pooling": "average", "kernel": 5},
    STAGE | {"expansion": 3, "pooling": "stride", "squeeze": True},
    STAGE | {"block": "separable", "skip": False, "kernel": 7},
]


@pytest.mark.parametrize("size", [1, 2, 7, 28, 33])
@pytest.mark.parametrize("head", [0, 12])
def test_a_network_takes_images_of_any_size(size: int, head: int) -> None:
    model = models.searched_cnn(5, 4, STAGES, head).eval()
    image = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    assert model(image).shape == (2, 5)
    grey = image[..., :1]
    assert torch.equal(model(grey), model(grey.expand(2, size, size, 3)))


def test_bytes_are_normalised_in_the_graph() -> None:
    model = models.searched_cnn(5, 4, STAGES, channels=1).eval()
    image = torch.randint(0, 256, (2, 9, 9, 1), dtype=torch.uint8)
    torch.testing.assert_close(model(image), model(image.permute(0, 3, 1, 2) / 127.5 - 1))


@pytest.mark.parametrize("pooling", ["stride", "max", "average"])
def test_every_kind_of_pooling_halves_the_sides_rounded_up(pooling: str) -> None:
    for size, expected in ((1, 1), (2, 1), (7, 4), (28, 14)):
        model = models.searched_cnn(5, 4, [STAGE | {"pooling": pooling}], channels=1).eval()
        assert model.stages(torch.zeros(1, 4, size, size)).shape[2:] == (expected, expected)


def test_average_pooling_ignores_the_border() -> None:
    model = models.searched_cnn(5, 4, [STAGE | {"pooling": "average"}], channels=1)
    assert torch.equal(model.stages[0][0](torch.ones(1, 4, 5, 5)), torch.ones(1, 4, 3, 3))


def test_only_a_stage_with_skips_adds_its_input() -> None:
    image = torch.rand(2, 1, 8, 8)
    outputs = []
    for skip in (True, False):
        torch.manual_seed(0)
        outputs.append(models.searched_cnn(5, 8, [STAGE | {"skip": skip}], channels=1).eval()(image))
    assert not torch.equal(*outputs)
    model = models.searched_cnn(5, 8, [STAGE | {"skip": True}], channels=1).eval()
    for parameter in model.stages.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.rand(1, 8, 4, 4)
    assert torch.equal(model.stages(x), x)


def test_with_group_normalization_a_sample_is_independent_of_its_batch() -> None:
    model = models.searched_cnn(3, 4, STAGES, 12, norm="group").train()
    image = torch.randint(0, 256, (3, 16, 16, 3), dtype=torch.uint8)
    torch.testing.assert_close(model(image)[:1], model(image[:1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("expansion", [1, 2])
@pytest.mark.parametrize("block", ["dense", "separable"])
def test_every_kind_of_block_can_be_trained(block: str, expansion: int, skip: bool) -> None:
    stage = STAGE | {"block": block, "expansion": expansion, "skip": skip, "depth": 2}
    for squeeze in (True, False):
        model = models.searched_cnn(3, 8, [stage | {"squeeze": squeeze}])
        model(torch.zeros(2, 8, 8, 3, dtype=torch.uint8)).sum().backward()


def test_gradients_have_the_layout_of_the_weights() -> None:
    model = models.searched_cnn(3, 4, STAGES, 12)
    model(torch.zeros(2, 16, 16, 3, dtype=torch.uint8)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.stride() == parameter.stride(), name


@pytest.mark.parametrize(
    "image", [torch.zeros(2, 8, 8, 4, dtype=torch.uint8), torch.zeros(2, 8, 8, 3), torch.zeros(8, 8, dtype=torch.uint8)]
)
def test_an_image_of_another_form_is_refused(image: torch.Tensor) -> None:
    with pytest.raises(InvalidArgument) as caught:
        models.searched_cnn(5, 4, STAGES)(image)
    assert (caught.value.reason, caught.value.field) == ("WRONG_TYPE", "image")


def searched_lm(**changes: Any) -> Any:
    layers = [{"heads": 2, "mlp_ratio": 1}, {"heads": 1, "mlp_ratio": 4}]
    return models.searched_transformer(**{"vocabulary": 11, "width": 8, "layers": layers, "dropout": 0.0, **changes})


def test_logits_depend_on_earlier_tokens_only() -> None:
    model = searched_lm().eval()
    text = torch.randint(0, 11, (2, 6))
    changed = text.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    before, after = model(text), model(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert not torch.allclose(before[:, 4:], after[:, 4:])


def test_layers_that_are_all_alike_make_a_transformer_lm() -> None:
    torch.manual_seed(0)
    ours = searched_lm(layers=[{"heads": 2, "mlp_ratio": 4}] * 2).eval()
    torch.manual_seed(0)
    theirs = models.transformer_lm(11, 8, 2, 2, 0.0).eval()
    text = torch.randint(0, 11, (2, 6))
    assert torch.equal(ours(text), theirs(text))
    assert ours.state_dict().keys() == theirs.state_dict().keys()
