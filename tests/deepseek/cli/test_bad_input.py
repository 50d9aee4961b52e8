"""Bad input on the command line: the code, a message that says what to do, and nothing half-registered."""

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.embedded import EmbeddedMesh
from tests.deepseek.cli.commands import assert_refused, deepseek
from tests.harness.images import image_file
from tests.harness.mesh import embedded_mesh

pytestmark = pytest.mark.slow

ROWS = "".join(f"k{i},{i},{'x' if i % 2 else 'y'}\n" for i in range(40))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, EmbeddedMesh]]:
    home: Path = tmp_path_factory.mktemp("bad") / "home"
    with embedded_mesh(home) as mesh:
        yield home, mesh


@pytest.fixture
def home(embedded: tuple[Path, EmbeddedMesh]) -> Path:
    return embedded[0]


def listed(home: Path, *arguments: str) -> Any:
    done = deepseek(home, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def names(home: Path) -> set[str]:
    """Names of all data sets and open uploads."""
    datasets = {one["name"] for one in listed(home, "dataset", "list")}
    return datasets | {one["name"] for one in listed(home, "dataset", "uploads")}


def cut_archive(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for i in range(20):
            for name, data in ((f"{i:02}.png", image_file(i)), (f"{i:02}.cls", str(i % 2).encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def one_class(path: Path) -> None:
    (path / "cat").mkdir(parents=True)
    for i in range(3):
        (path / "cat" / f"{i}.png").write_bytes(image_file(i))


@pytest.mark.parametrize(
    ("file", "text", "arguments", "reason", "place"),
    [
        (
            "ragged.csv",
            f"key,n,kind\n{ROWS}k50,1\nk51,1,x,9\n",
            (),
            "RAGGED_ROW",
            "ragged.csv:42 has 2 cells; the header",
        ),
        (
            "keys.csv",
            f"key,n,kind\n{ROWS}k3,5,x\n",
            ("--key", "key"),
            "DUPLICATE_KEY",
            "keys.csv:42: the key 'k3' occurs",
        ),
        ("mixed.csv", f"key,n,kind\n{ROWS}k50,many,x\n", (), "WRONG_TYPE", "mixed.csv:42"),
        ("cut.tar", "", (), "TRUNCATED_ARCHIVE", "cut.tar cannot be read to its end after"),
        ("one", "", (), "ONE_CLASS", "has only the class 'cat'; add others, or leave it out: --schema 'label:skip'"),
        ("none.csv", "", (), "BAD_SOURCE", "there is no file or folder"),
    ],
)
def test_a_bad_source_is_named_and_a_strict_import_registers_nothing(
    home: Path, tmp_path: Path, file: str, text: str, arguments: Sequence[str], reason: str, place: str
) -> None:
    path = tmp_path / file
    if text:
        path.write_text(text)
    elif file == "cut.tar":
        cut_archive(path)
    elif file == "one":
        one_class(path)
    before = names(home)
    done = deepseek(home, "dataset", "import", "bad", str(path), *arguments, "--strict", "--json")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"INVALID_ARGUMENT: {reason}" in done.stderr
    assert place in done.stderr.replace("\n", "")
    assert names(home) == before


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (("dataset", "import", "My Data", "."), "dataset"),
        (("dataset", "import", "datasets/a/versions/1", "."), "dataset"),
        (("dataset", "show", "models/m"), "dataset"),
        (("train", "spec.json", "--dataset", "a:first"), "--dataset"),
        (("train", "spec.json", "--model", "My Model"), "--model"),
        (("model", "delete", "m@champion"), "MODEL"),
    ],
)
def test_a_name_in_the_wrong_form_is_refused_before_work_starts(
    home: Path, tmp_path: Path, arguments: Sequence[str], field: str
) -> None:
    (tmp_path / "spec.json").write_text("{}")
    done = deepseek(home, *(str(tmp_path / one) if one == "spec.json" else one for one in arguments))
    assert_refused(done, "INVALID_ARGUMENT: BAD_NAME", field)


def test_a_target_with_one_class_is_refused_before_a_run_exists(
    embedded: tuple[Path, EmbeddedMesh], home: Path, tmp_path: Path
) -> None:
    fields = [Field("n", "integer"), Field("kind", "label", labels=("a",))]
    samples = [Sample(f"{i}", "train", {"n": i, "kind": "a"}) for i in range(8)]
    with embedded[1].connect() as mesh:
        mesh.datasets.upload("single", fields, samples)
    done = deepseek(home, "train", "--task", "tabular", "--dataset", "single", "--target", "kind")
    assert_refused(done, "FAILED_PRECONDITION: UNSUITABLE_DATA", "dataset")
    spec = {"model": {"name": "tabular"}, "inputs": [{"field": "n"}], "target": {"field": "kind"}}
    (tmp_path / "spec.json").write_text(json.dumps({**spec, "epochs": 1, "batch_size": 4}))
    done = deepseek(home, "train", str(tmp_path / "spec.json"), "--dataset", "single")
    assert_refused(done, "INVALID_ARGUMENT: BAD_VALUE", "spec.target.field")
    assert listed(home, "run", "list") == []


def test_a_label_that_only_the_test_split_has_is_noted(home: Path, tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_text("n,kind,part\n1,a,train\n2,b,train\n3,c,test\n")
    found = listed(
        home, "dataset", "import", "parts", str(tmp_path / "n.csv"), "--target", "kind", "--split-column", "part"
    )
    assert found["notes"] == ["the split train has no sample with the kind 'c'"]
