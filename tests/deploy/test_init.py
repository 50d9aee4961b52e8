"""What the stack's first container makes, and leaves alone when it runs again."""

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from deepseek.services import SERVICES

INIT = Path(__file__).parents[2] / "deploy" / "compose" / "init.py"


@pytest.fixture
def init(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The program, with its volumes in a folder."""
    spec = importlib.util.spec_from_file_location("compose_init", INIT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setenv("MESH_HOSTS", "mesh.example")
    for name in ("IDENTITY", "DATABASE", "STORE"):
        monkeypatch.setattr(module, name, tmp_path / name.lower())
        (tmp_path / name.lower()).mkdir()
    monkeypatch.setattr(module, "SECRETS", tmp_path)
    for service in SERVICES.values():
        if service.secrets:
            (tmp_path / service.name).mkdir()
    return module


def contents(folder: Path) -> dict[Path, bytes]:
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_second_start_changes_nothing(init: ModuleType, tmp_path: Path) -> None:
    init.make_secrets()
    made = contents(tmp_path)
    init.make_secrets()
    assert contents(tmp_path) == made
    assert all((tmp_path / "identity" / service / "cert.pem").exists() for service in SERVICES)
    assert len((tmp_path / "watermark" / "master").read_text().strip()) == 64


def test_an_older_stack_gets_certificates_for_what_is_new(init: ModuleType, tmp_path: Path) -> None:
    init.make_secrets()
    shutil.rmtree(tmp_path / "identity" / "watermark")
    before = contents(tmp_path)
    init.make_secrets()
    after = contents(tmp_path)
    assert {path: data for path, data in after.items() if path in before} == before
    assert {path.parent.name for path in after.keys() - before.keys()} == {"watermark"}


def test_secrets_are_for_their_owner_alone(init: ModuleType, tmp_path: Path) -> None:
    init.make_secrets()
    for path in (
        tmp_path / "watermark" / "master",
        tmp_path / "store" / "secret",
        tmp_path / "identity" / "ca.key.pem",
    ):
        assert path.stat().st_mode & 0o077 == 0
