"""The lines that the README shows run as they stand, and go on to train."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deepseek.training.precision import SlowPrecisionWarning

LINES = """
from deepseek.training import MixedPrecisionTrainer
trainer = MixedPrecisionTrainer(model=resnet50(), optimizer=torch.optim.AdamW, precision='fp16')

from deepseek.data import MultiModalDataset
dataset = MultiModalDataset(image_dir='images/', text_file='questions.txt',
                            transform=transforms.Compose([Resize(224), ToTensor()]))

from deepseek.optim import OptimizerInterface
class CustomOptimizer(OptimizerInterface):
    def step(self, params, gradients): ...
"""
IMPORTS = """
import torch
from deepseek.models import resnet50
from deepseek.data import transforms, Resize, ToTensor
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "images").mkdir()
    # One image: a CPU takes its time for the gradients of convolutions in fp16.
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images" / "0.png")
    lines = ["image\tquestion\tanswer", "0.png\twhat colour is it?\tred"]
    (tmp_path / "questions.txt").write_text("\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_lines_run_and_go_on_to_train(folder: Path) -> None:
    names: dict[str, object] = {}
    exec(IMPORTS, names)
    with pytest.warns(SlowPrecisionWarning, match=r"times as long .* precision='auto'"):
        exec(LINES, names)
    trainer = names["trainer"]
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}  # type: ignore[attr-defined]
    result = trainer.fit(names["dataset"])  # type: ignore[attr-defined]
    assert result.step == 1
    # The first scale of 65536 may be too large for this model's gradients; then fp16 skips the step, as it should.
    changed = any(not torch.equal(value, before[name]) for name, value in trainer.model.named_parameters())  # type: ignore[attr-defined]
    assert changed is (result.num_skipped_steps == 0)


def test_the_custom_optimizer_of_the_lines_trains(folder: Path) -> None:
    names: dict[str, object] = {}
    exec(IMPORTS, names)
    with pytest.warns(SlowPrecisionWarning):
        exec(LINES, names)
    exec("trainer = MixedPrecisionTrainer(model=resnet50(), optimizer=CustomOptimizer)", names)
    result = names["trainer"].fit(names["dataset"], epochs=2)  # type: ignore[attr-defined]
    assert (result.step, result.num_skipped_steps) == (2, 0)
