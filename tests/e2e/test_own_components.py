"""The package of docs/components.md, installed while a mesh runs, is trained, served and asked."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.conftest import ROOT, PluggedIn

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGE = (ROOT / "docs" / "components.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)


def install(packages: Path) -> None:
    """Installs the package of the page as pip does."""
    nets, encoders = blocks("python")
    [project] = [tomllib.loads(block) for block in blocks("toml")]
    (packages / "fruit").mkdir()
    (packages / "fruit" / "__init__.py").touch()
    (packages / "fruit" / "nets.py").write_text(nets)
    (packages / "fruit" / "encoders.py").write_text(encoders)
    info = packages / "fruit-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fruit\nVersion: 1.0\n")
    groups = project["project"]["entry-points"]
    lines = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in members.items()) for group, members in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(lines))


def write_fruit(folder: Path) -> None:
    """Writes the table: apples are red and heavy, plums dark and light."""
    rows = ["photo,weight,kind"]
    for number in range(32):
        kind = ("apple", "plum")[number % 2]
        Image.new("RGB", (24, 24), ((200, number, 0), (60, number, 80))[number % 2]).save(folder / f"{number}.png")
        rows.append(f"{number}.png,{(180, 40)[number % 2] + number},{kind}")
    (folder / "fruit.csv").write_text("\n".join(rows) + "\n")


def test_the_components_of_the_page_are_found_trained_and_served(tmp_path: Path) -> None:
    packages, folder = tmp_path / "packages", tmp_path / "folder"
    packages.mkdir()
    folder.mkdir()
    home = PluggedIn(folder / "home", packages=packages)
    write_fruit(folder)
    [spec] = blocks("json")
    (folder / "fruit.json").write_text(json.dumps({**json.loads(spec), "precision": "fp32"}))

    def command(*arguments: str, status: int = 0) -> str:
        done = home.run(*arguments, timeout_s=250)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout or done.stderr

    try:
        command("up", "--free-ports")
        command("dataset", "import", "fruit", "fruit.csv", "--target", "kind", "--test-share", "0.25")
        refused = command("train", "fruit.json", "--dataset", "fruit", status=1)
        assert "unknown model 'photo_and_weight'" in refused
        install(packages)
        assert "Number of features of a photo." in command("components", "model", "photo_and_weight")
        trained = json.loads(command("train", "fruit.json", "--dataset", "fruit", "--model", "fruit", "--json"))
        assert trained["metrics"]["accuracy"] > 0.9
        command("model", "load", "fruit")
        assert command("predict", "fruit", "photo=0.png", "weight=182").startswith("apple")
        assert command("predict", "fruit", "photo=1.png", "weight=41").startswith("plum")
    finally:
        command("down")


@pytest.mark.parametrize("program", blocks("py"))
def test_the_checks_without_a_mesh_pass(tmp_path: Path, program: str) -> None:
    install(tmp_path)
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_encoders_do_not_import_torch(tmp_path: Path) -> None:
    install(tmp_path)
    program = "import sys, fruit.encoders; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=False).returncode == 0
