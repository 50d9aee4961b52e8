from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from common.errors import InvalidArgument
from deepseek.models import image_question
from tests.deepseek.models.onnx_export import export, run


def batch(num_images: int, num_questions: int, size: int = 64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(num_images * 100 + num_questions)
    return {
        "image": torch.randint(0, 256, (num_images, size, size, 3), dtype=torch.uint8, generator=generator),
        "question": torch.randint(0, 20, (num_images, num_questions, 16), generator=generator),
    }


@pytest.mark.parametrize(("num_images", "num_questions", "size"), [(1, 1, 64), (3, 7, 64), (2, 4, 33)])
def test_every_question_gets_a_score_for_every_answer(num_images: int, num_questions: int, size: int) -> None:
    logits = image_question(num_classes=5).eval()(**batch(num_images, num_questions, size))
    assert logits.shape == (num_images, num_questions, 5)


def test_an_image_is_encoded_once_for_all_of_its_questions() -> None:
    torch.manual_seed(0)
    model = image_question().eval()
    calls = []
    model.convolutions.register_forward_hook(lambda *_: calls.append(1))
    together = model(**batch(2, 6))
    assert len(calls) == 1
    data = batch(2, 6)
    alone = torch.stack([model(data["image"], data["question"][:, i : i + 1])[:, 0] for i in range(6)], 1)
    torch.testing.assert_close(together, alone)


def test_a_field_that_is_not_repeated_is_one_question_per_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, data = image_question().eval(), batch(3, 1)
    alone = {"image": data["image"], "question": data["question"][:, 0]}
    assert torch.equal(model(**alone), model(**data)[:, 0])
    images = torch.export.Dim("images")
    session = export(model, alone, {"image": {0: images}, "question": {0: images}}, tmp_path / "model.onnx")
    with torch.no_grad():
        np.testing.assert_allclose(run(session, alone), model(**alone).numpy(), atol=1e-4, rtol=0)


def test_padding_does_not_change_an_answer() -> None:
    model = image_question().eval()
    data = batch(1, 2)
    data["question"][..., 8:] = 0
    torch.testing.assert_close(model(**data), model(data["image"], data["question"][..., :8]))


def test_it_learns() -> None:
    torch.manual_seed(0)
    data = batch(16, 4)
    target = torch.randint(0, 3, (16, 4))
    model = image_question(num_classes=3, width=8, features=64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(40):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(**data)
        optimizer.zero_grad()
        F.cross_entropy(logits.float().flatten(0, 1), target.flatten()).backward()
        optimizer.step()
    assert (logits.argmax(-1) == target).float().mean() > 0.95


def test_the_onnx_graph_takes_any_number_of_images_and_questions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = image_question(width=8)
    with torch.no_grad():
        for _ in range(3):
            model(**batch(8, 4))  # changes the initial batch statistics
    images, questions = torch.export.Dim("images"), torch.export.Dim("questions")
    shapes: dict[str, Any] = {"image": {0: images}, "question": {0: images, 1: questions}}
    session = export(model, batch(2, 3), shapes, tmp_path / "model.onnx")
    kinds = {item.name: (item.type, item.shape) for item in session.get_inputs()}
    assert kinds["image"] == ("tensor(uint8)", ["images", 64, 64, 3])
    assert kinds["question"] == ("tensor(int64)", ["images", "questions", 16])
    for num_images, num_questions in [(1, 1), (1, 5), (5, 1), (7, 11), (2, 3)]:
        data = batch(num_images, num_questions)
        with torch.no_grad():
            expected = model(**data).numpy()
        np.testing.assert_allclose(run(session, data), expected, atol=1e-4, rtol=0)
    graph = onnx.load(tmp_path / "model.onnx").graph
    assert sum(node.op_type == "Conv" for node in graph.node) == 6
    assert not any(node.op_type == "BatchNormalization" for node in graph.node)


def test_gradients_have_the_layout_of_the_weights() -> None:
    model = image_question()
    model(**batch(2, 2)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride(), name


@pytest.mark.parametrize("name", ["vocabulary", "num_classes", "width", "features"])
def test_a_bad_size_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        image_question(**{name: 0})
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", name)
