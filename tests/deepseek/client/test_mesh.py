from pathlib import Path

import pytest

from common.errors import FailedPrecondition, InvalidArgument
from deepseek import connect
from deepseek.client import Mesh, MeshFile, ServiceAddress, StoreAddress


def test_a_mesh_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    file = MeshFile({"registry": ServiceAddress("127.0.0.1:1", 2)}, StoreAddress("file:///x"))
    file.write(tmp_path / "mesh.json")
    assert MeshFile.read(tmp_path / "mesh.json") == file
    assert [path.name for path in tmp_path.iterdir()] == ["mesh.json"]


def test_a_mesh_file_is_read_as_editors_leave_it(tmp_path: Path) -> None:
    path = tmp_path / "mesh.json"
    file = MeshFile({"registry": ServiceAddress("127.0.0.1:1")})
    file.write(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert MeshFile.read(path) == file
    path.write_text(path.read_text(encoding="utf-8-sig"), encoding="utf-16")
    with pytest.raises(InvalidArgument, match=r"mesh\.json is UTF-16; save it as UTF-8"):
        MeshFile.read(path)


def test_no_mesh_is_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        connect(tmp_path / "mesh.json")
    assert caught.value.reason == "MESH_NOT_FOUND"
    assert "deepseek up" in caught.value.message
    assert caught.value.__suppress_context__, "one traceback is enough"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"services": {"registry": 3}, "store": null}', '{"services": []}']
)
def test_a_file_that_is_no_mesh_file_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "mesh.json").write_text(content)
    with pytest.raises(InvalidArgument) as caught:
        connect(tmp_path / "mesh.json")
    assert caught.value.reason == "BAD_MESH_FILE"


def test_a_mesh_without_the_service_or_store_says_so() -> None:
    with Mesh(MeshFile({"registry": ServiceAddress("127.0.0.1:1")})) as mesh:
        with pytest.raises(FailedPrecondition, match="no trainer service; it has registry"):
            _ = mesh.runs
        with pytest.raises(FailedPrecondition, match="does not name the artifact store"):
            _ = mesh.store
