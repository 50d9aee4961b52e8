from pathlib import Path

import numpy as np
import pytest
import torch

from common.errors import InvalidArgument
from deepseek.models import resnet18, resnet50
from tests.deepseek.models.onnx_export import export, run


def test_it_has_the_published_number_of_parameters() -> None:
    assert sum(parameter.numel() for parameter in resnet50().parameters()) == 25_557_032


def test_parameters_and_buffers_have_torchvisions_names() -> None:
    state = resnet50(10).state_dict()
    assert len(state) == 320
    assert state["layer2.0.downsample.0.weight"].shape == (512, 256, 1, 1)
    assert state["layer4.2.bn3.running_mean"].shape == (2048,)
    assert state["fc.weight"].shape == (10, 2048)


def test_the_3x3_convolution_has_the_stride() -> None:
    block = resnet50(2).layer2[0]
    assert block.conv1.stride == (1, 1)
    assert block.conv2.stride == (2, 2)


def test_bytes_are_normalised_in_the_graph() -> None:
    torch.manual_seed(0)
    model = resnet50(7).eval()
    pixels = torch.randint(0, 256, (2, 40, 36, 3), dtype=torch.uint8)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    floats = ((pixels / 255 - mean) / std).permute(0, 3, 1, 2)
    with torch.no_grad():
        torch.testing.assert_close(model(image=pixels), model(image=floats), atol=1e-4, rtol=1e-4)
        assert model(image=floats).shape == (2, 7)


def test_gradients_have_the_layout_of_the_weights() -> None:
    model = resnet50(2)
    model(torch.zeros(2, 32, 32, 3, dtype=torch.uint8)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride(), name


@pytest.mark.parametrize(
    "image", [torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.zeros(2, 8, 8, 3), torch.zeros(3, 8, 8)]
)
def test_an_image_of_another_form_is_refused(image: torch.Tensor) -> None:
    with pytest.raises(InvalidArgument) as caught:
        resnet50(2)(image)
    assert caught.value.field == "image"


def test_a_model_without_classes_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="at least 1"):
        resnet50(0)


def test_the_onnx_graph_takes_any_number_of_images(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = resnet50(5)
    example = {"image": torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)}
    session = export(model, example, {"image": {0: torch.export.Dim("images")}}, tmp_path / "model.onnx")
    for num_images in (1, 3):
        data = {"image": torch.randint(0, 256, (num_images, 32, 32, 3), dtype=torch.uint8)}
        with torch.no_grad():
            expected = model(**data).numpy()
        np.testing.assert_allclose(run(session, data), expected, atol=1e-4, rtol=1e-4)


def test_resnet18_has_the_published_form() -> None:
    state = resnet18().state_dict()
    assert sum(parameter.numel() for parameter in resnet18().parameters()) == 11_689_512
    assert len(state) == 122
    assert state["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert state["layer4.1.bn2.running_mean"].shape == (512,)
    assert "layer1.0.downsample.0.weight" not in state
