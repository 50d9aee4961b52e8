"""Files with random damage give samples, rejections or a MeshError, and never another exception."""

import contextlib
import gzip
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common.errors import MeshError
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import open_source
from tests.deepseek.interchange.sources import FORMATS, PICTURES


@pytest.fixture(scope="module", params=["csv", "jsonl", "hugging face", "webdataset", "webdataset.gz"])
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = FORMATS[request.param](tmp_path_factory.mktemp("whole") / "data", PICTURES[:2])
    return place if place.is_file() else next(place.glob("train-*"))


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_damage_never_ends_in_an_unknown_error(whole: Path, data: st.DataObject) -> None:
    content = bytearray(whole.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        patch = data.draw(st.binary(min_size=1, max_size=16))
        match data.draw(st.sampled_from(["overwrite", "insert", "cut"])):
            case "overwrite":
                content[at : at + len(patch)] = patch
            case "insert":
                content[at:at] = patch
            case _:
                del content[max(1, at) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / whole.name
        path.write_bytes(content)
        with contextlib.suppress(MeshError):
            list(Import(open_source(str(path))))


def test_a_compressed_archive_cannot_fill_the_memory(tmp_path: Path) -> None:

    header = tarfile.TarInfo("x.png")
    header.size = 1 << 40
    with gzip.open(tmp_path / "bomb.tar.gz", "wb", compresslevel=1) as file:
        file.write(header.tobuf())
        for _ in range(64):
            file.write(bytes(1 << 20))
    with pytest.raises(MeshError) as error:
        Import(open_source(str(tmp_path / "bomb.tar.gz")))
    assert error.value.reason == "EMPTY_SOURCE"
    assert "TRUNCATED" in error.value.message or "cannot be read to its end" in error.value.message
