"""Every command and program in README, docs and examples runs as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import matplotlib
import pytest
from PIL import Image

from deepseek.client import MeshFile
from deepseek.embedded import stop_mesh
from tests.e2e.conftest import ROOT, Demo
from tests.harness.task_files import write_task_files
from tests.harness.task_media import write_task_media

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PAGES = sorted(p.relative_to(ROOT).as_posix() for p in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")))
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
SET_UP = ("make demo", "make test", "make demo DEVICE=cuda", ". .venv/bin/activate")


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(page: str) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def run(command: str, demo: Demo, folder: Path) -> None:
    for service, address in (("registry", "127.0.0.1:7001"), ("inference", "127.0.0.1:8001")):
        if address in command:
            here = MeshFile.read(demo.home.path / "mesh.json").services[service].address
            command = command.replace(address, here)
    command = command.replace("deepseek up", "deepseek up --free-ports")
    environment = {**demo.home.environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=environment, capture_output=True, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"


@pytest.fixture
def folder(demo: Demo) -> Path:
    """A folder as a newcomer has it: the demo's report, images with questions of their own, and a photograph."""
    place = demo.home.path.parent
    (place / "images").mkdir(exist_ok=True)
    for name, colour in (("red.png", "red"), ("blue.png", "blue")):
        Image.new("RGB", (64, 64), colour).save(place / "images" / name)
    (place / "questions.txt").write_text(
        "image\tquestion\tanswer\nred.png\twhat color is it?\tred\nblue.png\twhat color is it?\tblue\n",
        encoding="utf-8",
    )
    write_task_files(place)
    write_task_media(place)
    photo = Path(matplotlib.get_data_path(), "sample_data", "grace_hopper.jpg")
    (place / "photo.jpg").write_bytes(photo.read_bytes())
    for example in (ROOT / "docs" / "examples").glob("*"):
        (place / example.name).write_bytes(example.read_bytes())
    return place


@pytest.mark.usefixtures("running_mesh")
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page) or blocks(page, "python")])
def test_commands_and_programs_run_as_they_stand(page: str, demo: Demo, folder: Path) -> None:
    try:
        for line in commands(page):
            if line not in SET_UP and line != "deepseek down":
                run(line, demo, folder)
        for number, program in enumerate(blocks(page, "python")):
            path = folder / f"program{number}.py"
            path.write_text(program, encoding="utf-8")
            run(f"{sys.executable} {path.name}", demo, folder)
    finally:
        # Meshes that a page has started elsewhere, and did not come to stopping.
        for mesh_file in folder.glob("*/mesh.json"):
            if mesh_file.parent != demo.home.path:
                stop_mesh(mesh_file.parent)


@pytest.mark.usefixtures("running_mesh")
def test_the_example_programs_run(demo: Demo, folder: Path) -> None:
    for program in EXAMPLES:
        run(f"{sys.executable} {program}", demo, folder)


def test_the_set_up_commands_do_what_the_readme_says() -> None:
    plan = subprocess.run(
        ["make", "--dry-run", "demo", "test"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "deepseek demo" in plan
    assert "-m pytest" in plan


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        if not target.startswith("http"):
            assert ((ROOT / page).parent / target).exists(), f"{page} links to {target}"
