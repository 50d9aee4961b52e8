from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from common.errors import InvalidArgument
from deepseek.models import character_lm
from tests.deepseek.models.onnx_export import export, run


def test_a_position_sees_only_earlier_positions() -> None:
    torch.manual_seed(0)
    model = character_lm(vocabulary=20, width=32, depth=2).eval()
    text = torch.randint(0, 20, (2, 12))
    changed = text.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 20
    with torch.no_grad():
        before, after = model(text), model(changed)
    assert before.shape == (2, 12, 20)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert not torch.allclose(before[:, 7], after[:, 7])


def test_the_order_of_characters_matters() -> None:
    torch.manual_seed(0)
    model = character_lm(vocabulary=20, width=32, depth=2).eval()
    with torch.no_grad():
        assert not torch.allclose(model(torch.tensor([[3, 4, 5]]))[:, -1], model(torch.tensor([[4, 3, 5]]))[:, -1])


def test_an_untrained_model_predicts_all_tokens_equally() -> None:
    torch.manual_seed(0)
    text = torch.randint(0, 128, (8, 32))
    with torch.no_grad():
        loss = F.cross_entropy(character_lm()(text).flatten(0, 1), torch.randint(0, 128, (8 * 32,)))
    assert loss.item() == pytest.approx(np.log(128), abs=0.1)


def test_it_learns() -> None:
    torch.manual_seed(0)
    text = (torch.arange(16)[:, None] + torch.arange(24)[None, :] * 3) % 20
    model = character_lm(vocabulary=20, width=32, depth=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(text)
        loss = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.3


def test_the_onnx_graph_takes_any_number_of_texts(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = character_lm(vocabulary=20, width=32, depth=2)
    example = {"text": torch.randint(0, 20, (2, 12))}
    session = export(model, example, {"text": {0: torch.export.Dim("texts")}}, tmp_path / "model.onnx")
    for num_texts in (1, 5):
        data = {"text": torch.randint(0, 20, (num_texts, 12))}
        with torch.no_grad():
            expected = model(**data).numpy()
        np.testing.assert_allclose(run(session, data), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"vocabulary": 0}, "vocabulary"),
        ({"depth": 0}, "depth"),
        ({"width": 30, "num_heads": 4}, "width"),
        ({"dropout": 1.0}, "dropout"),
        ({"dropout": float("nan")}, "dropout"),
    ],
)
def test_a_bad_parameter_is_refused(params: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        character_lm(**params)
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", field)
