"""UpkeepService over a real server, with the registry as the service that hosts it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest

from common.channel import open_channel
from common.errors import DataLoss, FailedPrecondition, InvalidArgument
from deepseek.models.manifest import MEDIA_TYPE
from protos.privacy.v1 import privacy_pb2 as privacy
from protos.privacy.v1.privacy_pb2_grpc import PrivacyServiceStub
from protos.registry.v1 import registry_pb2 as registry
from protos.registry.v1.registry_pb2_grpc import RegistryServiceStub
from protos.upkeep.v1 import upkeep_pb2 as pb
from protos.upkeep.v1.upkeep_pb2_grpc import UpkeepServiceStub
from tests.harness.in_process import service_in_process


@contextmanager
def _served(home: Path) -> Iterator[grpc.Channel]:
    with service_in_process("registry", home) as server, open_channel(server.address) as channel:
        yield channel


@pytest.fixture
def old(tmp_path: Path) -> Iterator[grpc.Channel]:
    """A registry with three versions of a model."""
    with _served(tmp_path / "old") as channel:
        stub = RegistryServiceStub(channel)
        for number in range(3):
            manifest = {"sha256": f"{number:064x}", "size_bytes": 1, "media_type": MEDIA_TYPE}
            stub.CreateModelVersion(
                registry.CreateModelVersionRequest(parent="models/m", manifest=manifest, sources=["runs/r"])
            )
        yield channel


@pytest.fixture
def new(tmp_path: Path) -> Iterator[grpc.Channel]:
    with _served(tmp_path / "new") as channel:
        yield channel


def _exported(channel: grpc.Channel) -> list[bytes]:
    return [answer.data for answer in UpkeepServiceStub(channel).ExportState(pb.ExportStateRequest())]


def _import(channel: grpc.Channel, chunks: list[bytes]) -> int:
    requests = (pb.ImportStateRequest(data=chunk) for chunk in chunks)
    return UpkeepServiceStub(channel).ImportState(requests, timeout=60).num_rows


def test_a_state_that_went_out_and_in_answers_the_same(old: grpc.Channel, new: grpc.Channel) -> None:
    before = UpkeepServiceStub(old).GetState(pb.GetStateRequest())
    whole = b"".join(_exported(old))

    assert _import(new, [whole[start : start + 100] for start in range(0, len(whole), 100)]) == before.num_rows

    assert UpkeepServiceStub(new).GetState(pb.GetStateRequest()) == before
    assert (before.service, list(before.revisions)) == ("registry", ["audit_1", "jobs_2", "registry_4", "requests_1"])
    request = registry.ListModelVersionsRequest(parent="models/m")
    versions = [RegistryServiceStub(channel).ListModelVersions(request).model_versions for channel in (old, new)]
    assert len(versions[0]) == 3
    assert versions[0] == versions[1]


def test_an_exported_and_imported_ledger_can_be_debited(old: grpc.Channel, new: grpc.Channel) -> None:
    ledger, debits = PrivacyServiceStub(old), []
    ledger.CreateBudget(
        privacy.CreateBudgetRequest(budget_id="b", dataset="datasets/d", unit="UNIT_EXAMPLE", epsilon=3, delta=1e-5)
    )
    release = privacy.Release(noise_multiplier=2, sampling_rate=0.1, count=1)
    for channel, number in ((old, 1), (old, 2), (new, 3)):
        if channel is new:
            _import(new, _exported(old))
        request = privacy.DebitRequest(budget="budgets/b", release=release, run="runs/r", round=number)
        debits.append(PrivacyServiceStub(channel).Debit(request).debit)
    assert [debit.name for debit in debits] == [f"budgets/b/debits/{number}" for number in (1, 2, 3)]
    known = [privacy.KnownDebit(name=debit.name, sha256=debit.sha256) for debit in debits]
    verified = PrivacyServiceStub(new).VerifyBudget(privacy.VerifyBudgetRequest(name="budgets/b", known_debits=known))
    assert (verified.budget.num_debits, verified.num_audited_debits) == (3, 1)


def test_a_second_import_and_one_that_breaks_off_are_refused(old: grpc.Channel, new: grpc.Channel) -> None:
    whole = b"".join(_exported(old))
    with pytest.raises(DataLoss):
        _import(new, [whole[:-10]])
    _import(new, [whole])
    with pytest.raises(FailedPrecondition) as caught:
        _import(new, [whole])
    assert caught.value.reason == "STATE_NOT_EMPTY"


def test_references_are_listed(old: grpc.Channel) -> None:
    answers = UpkeepServiceStub(old).ListReferences(pb.ListReferencesRequest())
    listed = [(one.tenant, one.sha256, one.media_type) for answer in answers for one in answer.references]
    assert listed == [("default", f"{number:064x}", MEDIA_TYPE) for number in range(3)]


def test_a_collection_is_in_the_audit_log_by_tenant_and_figures(new: grpc.Channel, tmp_path: Path) -> None:
    stub, digests = UpkeepServiceStub(new), [f"{number:064x}" for number in range(3)]
    begun = stub.BeginCollection(pb.BeginCollectionRequest(parent="tenants/lab", digests=digests, num_bytes=42)).name
    ended = stub.EndCollection(pb.EndCollectionRequest(parent=begun, digests=digests[:2], num_bytes=40)).name
    with pytest.raises(InvalidArgument):
        stub.EndCollection(pb.EndCollectionRequest(parent=begun, digests=["?"], num_bytes=42))

    log = tmp_path / "new" / "audit" / "registry.jsonl"
    records = [json.loads(line) for line in log.read_text().splitlines()]
    method = "/deepseek.upkeep.v1.UpkeepService"
    assert [(record["what"], record["object"], record["outcome"]["code"]) for record in records] == [
        (f"{method}/BeginCollection", begun, "OK"),
        (f"{method}/EndCollection", ended, "OK"),
        (f"{method}/EndCollection", begun, "INVALID_ARGUMENT"),
    ]
    assert (begun[:24], begun[-17:]) == ("tenants/lab/collections/", "/blobs/3/bytes/42")
    assert ended.endswith("/blobs/2/bytes/40")
