"""Every method of every contract declares who may call it."""

import importlib
from pathlib import Path

import pytest

from common.auth import Role
from common.auth.access import role_of_methods, unaudited_methods
from common.contracts import import_contracts
from protos.job.v1 import job_pb2

ROOT = Path(__file__).resolve().parents[3]
CONTRACTS = sorted(path.relative_to(ROOT) for path in (ROOT / "protos").rglob("*.proto"))


@pytest.mark.parametrize("contract", CONTRACTS, ids=str)
def test_every_method_declares_a_role(contract: Path) -> None:
    module = importlib.import_module(".".join(contract.with_suffix("").parts) + "_pb2")
    for service in module.DESCRIPTOR.services_by_name.values():
        roles = role_of_methods([service.full_name])
        assert {f"/{service.full_name}/{method.name}" for method in service.methods} < roles.keys()


def test_roles_are_what_the_contract_says() -> None:
    roles = role_of_methods([job_pb2.DESCRIPTOR.services_by_name["JobService"].full_name])
    assert roles["/deepseek.job.v1.JobService/GetJob"] is Role.READER
    assert roles["/deepseek.job.v1.JobService/CancelJob"] is Role.WRITER


def test_a_method_without_a_role_cannot_be_served() -> None:
    import grpc_health.v1.health_pb2  # noqa: F401  declares no roles, as any contract that is not ours

    with pytest.raises(ValueError, match="does not declare"):
        role_of_methods(["grpc.health.v1.Health"])


def test_only_the_frequent_calls_of_the_tuner_are_not_audited() -> None:
    found = {method for contract in import_contracts() for method in unaudited_methods([contract])}
    assert {method.rpartition("/")[2] for method in found} == {"AddMeasurement", "CheckEarlyStopping"}
    assert all(method.startswith("/deepseek.tuner.v1.TunerService/") for method in found)
