"""The ledger of privacy budgets over gRPC, and its comparison with the audit log."""

import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from sqlalchemy import text

from common.channel import open_channel
from common.database import Database
from common.errors import DataLoss, FailedPrecondition, InvalidArgument
from protos.privacy.v1 import privacy_pb2 as pb
from protos.privacy.v1.privacy_pb2_grpc import PrivacyServiceStub
from tests.harness.in_process import service_in_process

ROUND = pb.Release(noise_multiplier=2.0, sampling_rate=0.1, count=1)


def create(ledger: PrivacyServiceStub) -> None:
    ledger.CreateBudget(
        pb.CreateBudgetRequest(
            budget_id="b", dataset="federations/f", unit=pb.UNIT_CLIENT, epsilon=3, delta=1e-6, request_id="r"
        )
    )


@contextmanager
def registry(folder: Path) -> Iterator[PrivacyServiceStub]:
    with service_in_process("registry", folder) as server, open_channel(server.address) as channel:
        yield PrivacyServiceStub(channel)


@pytest.fixture
def ledger(privacy: PrivacyServiceStub) -> PrivacyServiceStub:
    """A client of a real registry, which has a budget."""
    create(privacy)
    return privacy


def debit(ledger: PrivacyServiceStub, round: int, release: pb.Release = ROUND) -> pb.DebitResponse:
    request = pb.DebitRequest(
        budget="budgets/b", release=release, run="runs/r", round=round, request_id=f"runs/r/{round}"
    )
    response: pb.DebitResponse = ledger.Debit(request)
    return response


def verify(ledger: PrivacyServiceStub, *known: pb.Debit) -> pb.VerifyBudgetResponse:
    names = [pb.KnownDebit(name=one.name, sha256=one.sha256) for one in known]
    response: pb.VerifyBudgetResponse = ledger.VerifyBudget(
        pb.VerifyBudgetRequest(name="budgets/b", known_debits=names)
    )
    return response


def execute(folder: Path, *statements: str) -> None:
    """Changes the database of the running registry, as an intruder would."""
    (path,) = folder.rglob("registry.db")
    with closing(Database(f"sqlite:///{path}")) as database, database.transaction() as session:
        for statement in statements:
            session.execute(text(statement))


def test_a_budget_is_created_debited_listed_and_verified(ledger: PrivacyServiceStub) -> None:
    budget = ledger.GetBudget(pb.GetBudgetRequest(name="budgets/b")).budget
    assert (budget.dataset, budget.unit, budget.epsilon, budget.delta) == ("federations/f", pb.UNIT_CLIENT, 3, 1e-6)
    assert (budget.epsilon_spent, budget.epsilon_left, budget.num_debits) == (0, 3, 0)
    assert len(budget.head_sha256) == 64
    assert budget.HasField("create_time")

    preview = ledger.PreviewDebit(pb.PreviewDebitRequest(budget="budgets/b", release=ROUND))
    first, second = debit(ledger, 1), debit(ledger, 2)
    assert first.debit.epsilon_spent == preview.epsilon_after
    assert first.debit.previous_sha256 == budget.head_sha256
    assert (first.debit.name, first.debit.run, first.debit.round) == ("budgets/b/debits/1", "runs/r", 1)
    assert first.debit.release == ROUND
    assert second.debit.previous_sha256 == first.debit.sha256
    assert second.budget.head_sha256 == second.debit.sha256
    assert second.budget.epsilon_left == 3 - second.debit.epsilon_spent
    assert debit(ledger, 1).debit == first.debit

    page = ledger.ListDebits(pb.ListDebitsRequest(parent="budgets/b", page_size=1))
    assert list(page.debits) == [second.debit]
    rest = ledger.ListDebits(pb.ListDebitsRequest(parent="budgets/b", page_token=page.next_page_token))
    assert list(rest.debits) == [first.debit]
    assert list(ledger.ListBudgets(pb.ListBudgetsRequest()).budgets) == [second.budget]

    verified = verify(ledger, first.debit, second.debit)
    assert verified.budget == second.budget
    assert verified.epsilon_recomputed == second.budget.epsilon_spent
    assert verified.num_audited_debits == 2


def test_an_exhausted_budget_says_what_still_fits(ledger: PrivacyServiceStub) -> None:
    many = pb.Release(noise_multiplier=2.0, sampling_rate=0.1, count=1000)
    preview = ledger.PreviewDebit(pb.PreviewDebitRequest(budget="budgets/b", release=many))
    assert not preview.fits
    with pytest.raises(FailedPrecondition) as caught:
        debit(ledger, 1, many)
    assert (caught.value.reason, caught.value.field) == ("BUDGET_EXHAUSTED", "release")
    assert f"{preview.max_count} more such releases would fit" in caught.value.message
    assert debit(ledger, 2, pb.Release(noise_multiplier=2.0, sampling_rate=0.1, count=preview.max_count))


@pytest.mark.parametrize(
    ("release", "reason", "field"),
    [
        (pb.Release(), "BAD_RATE", "sampling_rate"),
        (pb.Release(noise_multiplier=0, sampling_rate=1, count=1), "BAD_NOISE", "noise_multiplier"),
        (pb.Release(noise_multiplier=-1, sampling_rate=1, count=1), "BAD_NOISE", "noise_multiplier"),
        (pb.Release(noise_multiplier=float("nan"), sampling_rate=1, count=1), "BAD_NOISE", "noise_multiplier"),
        (pb.Release(noise_multiplier=float("inf"), sampling_rate=1, count=1), "BAD_NOISE", "noise_multiplier"),
        (pb.Release(noise_multiplier=1, sampling_rate=0, count=1), "BAD_RATE", "sampling_rate"),
        (pb.Release(noise_multiplier=1, sampling_rate=1.1, count=1), "BAD_RATE", "sampling_rate"),
        (pb.Release(noise_multiplier=1, sampling_rate=1, count=0), "BAD_COUNT", "count"),
        (pb.Release(noise_multiplier=1, sampling_rate=1, count=-5), "BAD_COUNT", "count"),
        (pb.Release(noise_multiplier=1, sampling_rate=1, count=10_000_001), "BAD_COUNT", "count"),
    ],
)
def test_releases_whose_cost_is_not_defined_are_refused(
    ledger: PrivacyServiceStub, release: pb.Release, reason: str, field: str
) -> None:
    for call in (
        lambda: debit(ledger, 1, release),
        lambda: ledger.PreviewDebit(pb.PreviewDebitRequest(budget="budgets/b", release=release)),
    ):
        with pytest.raises(InvalidArgument) as caught:
            call()
        assert (caught.value.reason, caught.value.field) == (reason, f"release.{field}")


def test_the_audit_log_reveals_a_tail_that_was_cut_off(tmp_path: Path) -> None:
    """The registry is restarted, so that it does not remember the debit itself."""
    with registry(tmp_path) as ledger:
        create(ledger)
        kept, lost = debit(ledger, 1), debit(ledger, 2)
    cut_off(tmp_path, kept.debit)
    with registry(tmp_path) as ledger:
        for call in (lambda: verify(ledger), lambda: debit(ledger, 3), lambda: debit(ledger, 2)):
            with pytest.raises(DataLoss) as caught:
                call()
            assert caught.value.reason == "LEDGER_TAMPERED"
            assert "'budgets/b/debits/2' is missing; debits up to number 2 were acknowledged" in caught.value.message
        assert ledger.GetBudget(pb.GetBudgetRequest(name="budgets/b")).budget.num_debits == 1
    # Without the audit log, only a caller has a record of the debit.
    next(tmp_path.rglob("registry.jsonl")).unlink()
    with registry(tmp_path) as ledger:
        assert verify(ledger, kept.debit).num_audited_debits == 0
        with pytest.raises(DataLoss, match="'budgets/b/debits/2' is missing"):
            verify(ledger, lost.debit)


def test_the_audit_log_reveals_a_ledger_that_was_written_anew(tmp_path: Path) -> None:
    """The forged ledger is sound in itself, and has as many debits."""
    right, forged = tmp_path / "right", tmp_path / "forged"
    for folder, noise in ((right, 4.0), (forged, 50.0)):
        with registry(folder) as ledger:
            create(ledger)
            for number in (1, 2):
                debit(ledger, number, pb.Release(noise_multiplier=noise, sampling_rate=1.0, count=1))
    (database,) = right.rglob("registry.db")
    shutil.copy(next(forged.rglob("registry.db")), database)
    with registry(right) as ledger:
        for call in (lambda: verify(ledger), lambda: debit(ledger, 3)):
            with pytest.raises(DataLoss, match="'budgets/b/debits/1' is not the debit that was acknowledged") as caught:
                call()
            assert caught.value.reason == "LEDGER_TAMPERED"


def cut_off(folder: Path, kept: pb.Debit) -> None:
    execute(
        folder,
        "DELETE FROM requests WHERE request_id = 'runs/r/2'",
        "DELETE FROM debits WHERE number = 2",
        f"UPDATE budgets SET num_debits = 1, epsilon_spent = {kept.epsilon_spent!r}, head_sha256 = '{kept.sha256}'",
    )


def test_a_changed_row_is_named(ledger: PrivacyServiceStub, tmp_path: Path) -> None:
    for round in (1, 2, 3):
        debit(ledger, round)
    execute(tmp_path, "UPDATE debits SET noise_multiplier = 200 WHERE number = 2")
    with pytest.raises(DataLoss, match="'budgets/b/debits/2' was changed"):
        verify(ledger)
    with pytest.raises(DataLoss, match="'budgets/b/debits/2' was changed"):
        debit(ledger, 4)
