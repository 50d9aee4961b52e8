"""A node's data as a data set version of the node's own mesh, which is a real one."""

from pathlib import Path

import pytest

from common.errors import FailedPrecondition, InvalidArgument, NotFound
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.federated.node_data import open_data
from deepseek.federated.worker import Worker
from protos.privacy.v1 import privacy_pb2
from tests.deepseek.federated.pictures import FIELDS
from tests.deepseek.federated.pictures import samples as picture_samples
from tests.deepseek.federated.runs import prepared, request
from tests.harness.mesh import embedded_mesh

STORED = (Field("size", "number"), Field("kind", "label", labels=("c", "b", "a")), Field("note", "text"))
NEEDED = (Field("kind", "label", labels=("a", "b")), Field("size", "number"))


def test_a_version_is_read_with_the_labels_of_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [
        Sample(f"k{i}", "test" if i == 9 else "train", {"size": i / 2, "kind": "abc"[i % 3], "note": "n"})
        for i in range(10)
    ]
    with embedded_mesh(tmp_path / "home") as mesh:
        monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
        with mesh.connect() as client:
            version = client.datasets.upload("own", STORED, samples)
        for name in ("mesh:own:1", f"mesh:{version.name}"):
            data = open_data(name, NEEDED, "train", tmp_path / "work")
            assert data.manifest.fields == NEEDED
            assert (data.split, data.manifest.num_samples("train"), data.manifest.num_samples("test")) == (
                "train",
                6,
                1,
            )
            assert data.rejected == {"UNKNOWN_LABEL": 3}
        with pytest.raises(InvalidArgument, match=r"has no field weight \(number\), .* kind \(label\), note") as caught:
            open_data("mesh:own:1", (*NEEDED, Field("weight", "number")), "train", tmp_path / "work")
        assert (caught.value.reason, caught.value.field) == ("BAD_SCHEMA", "data")
        with pytest.raises(NotFound):
            open_data("mesh:own:2", NEEDED, "train", tmp_path / "work")


@pytest.mark.parametrize("unit", [privacy_pb2.UNIT_EXAMPLE, privacy_pb2.UNIT_CLIENT])
def test_a_version_whose_data_set_has_a_budget_is_refused_unless_the_owner_of_the_node_allows_it(
    unit: privacy_pb2.Unit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepared(tmp_path / "run")
    dp_sgd = {"noise_multiplier": 1.0, "max_grad_norm": 1.0, "expected_batch_size": 4, "sampling_rate": 0.5}
    with embedded_mesh(tmp_path / "home") as mesh:
        monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
        with mesh.connect() as client:
            client.datasets.upload("cards", FIELDS, picture_samples(16, "train", 1))
            client.budgets.create("other", dataset="datasets/cards2", unit=unit, epsilon=1, delta=1e-5)
            check = request(run.recipe, "mesh:cards:1", kind="evaluate", check=True)
            assert Worker(tmp_path)(check, run.initial)[0]["num_examples"] == 1
            client.budgets.create("cards", dataset="datasets/cards", unit=unit, epsilon=1, delta=1e-5)
        for header in (check, request(run.recipe, "mesh:cards:1", fit={"dp_sgd": dp_sgd})):
            with pytest.raises(
                FailedPrecondition, match="datasets/cards has the privacy budget budgets/cards"
            ) as caught:
                Worker(tmp_path)(header, run.initial)
            assert (caught.value.reason, caught.value.field) == ("DATASET_HAS_BUDGET", "data")
        allowed = {**check, "policy": {"ignore_budget": True}}
        worker = Worker(tmp_path)
        assert worker(allowed, run.initial)[0]["num_examples"] == 1
        with pytest.raises(FailedPrecondition):
            worker(check, run.initial)
