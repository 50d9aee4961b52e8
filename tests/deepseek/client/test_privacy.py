"""The client of privacy budgets, against a real registry."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from deepseek.client import Mesh, MeshFile, ServiceAddress
from protos.privacy.v1 import privacy_pb2
from tests.harness.in_process import service_in_process

ROUND = privacy_pb2.Release(noise_multiplier=2, sampling_rate=0.1, count=1)


@pytest.fixture
def mesh(tmp_path: Path) -> Iterator[Mesh]:
    """A mesh that consists of a registry with the budget `clinics`."""
    with (
        service_in_process("registry", tmp_path) as server,
        Mesh(MeshFile({"registry": ServiceAddress(server.address)})) as mesh,
    ):
        mesh.budgets.create(
            "clinics", dataset="federations/clinics", unit=privacy_pb2.UNIT_CLIENT, epsilon=3, delta=1e-6
        )
        yield mesh


def test_a_budget_is_debited_until_it_is_spent(mesh: Mesh) -> None:
    preview = mesh.budgets.preview("clinics", ROUND)
    rest = privacy_pb2.Release(noise_multiplier=2, sampling_rate=0.1, count=preview.max_count - 1)
    first = mesh.budgets.debit("clinics", ROUND, run="runs/r", round=1, request_id="1")
    assert mesh.budgets.debit("budgets/clinics", ROUND, run="runs/r", round=1, request_id="1") == first
    second = mesh.budgets.debit("clinics", rest, run="runs/r", round=2)
    with pytest.raises(FailedPrecondition, match="no more such releases would fit"):
        mesh.budgets.debit("clinics", ROUND, run="runs/r", round=3)
    assert list(mesh.budgets.debits("clinics")) == [second.debit, first.debit]
    assert mesh.budgets.get("clinics") == second.budget
    assert list(mesh.budgets.list()) == [second.budget]
    assert list(mesh.budgets.list(datasets=["federations/clinics"])) == [second.budget]
    assert not list(mesh.budgets.list(datasets=["datasets/clinics"]))
    known = [(first.debit.name, first.debit.sha256)]
    verified = mesh.budgets.verify("clinics", known)
    assert (verified.budget, verified.num_audited_debits) == (second.budget, 2)
    assert verified.epsilon_recomputed == second.budget.epsilon_spent <= 3
    with pytest.raises(DataLoss, match="is not the debit that was acknowledged"):
        mesh.budgets.verify("clinics", [*known, (first.debit.name, "0" * 64)])


def test_each_debit_without_a_request_id_is_one_of_its_own(mesh: Mesh) -> None:
    names = [mesh.budgets.debit("clinics", ROUND, run="runs/r").debit.name for _ in range(2)]
    assert names == ["budgets/clinics/debits/1", "budgets/clinics/debits/2"]


def test_names_are_checked_before_the_call(mesh: Mesh) -> None:
    for name in ("", "models/m", "budgets/a/b", "Clinics"):
        with pytest.raises(InvalidArgument) as caught:
            mesh.budgets.get(name)
        assert (caught.value.reason, caught.value.field) == ("BAD_NAME", "budget")
    with pytest.raises(NotFound):
        mesh.budgets.get("clinic")
