"""Modules that servers and the command line import must not load torch."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "module",
    [
        "deepseek.data", "deepseek.data.manifest", "deepseek.data.shards", "deepseek.data.encoders",
        "deepseek.data.media", "deepseek.models", "deepseek.models.manifest",
    ],
)  # fmt: skip
def test_a_module_of_the_servers_does_not_load_torch(module: str) -> None:
    program = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_the_readmes_imports_work() -> None:
    program = (
        "from deepseek.data import MultiModalDataset, Resize, ToTensor, transforms;"
        "from deepseek.models import resnet50;"
        "transforms.Compose([Resize(224), ToTensor()])"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
