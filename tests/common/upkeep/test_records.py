"""What is kept of garbage collections, and what is not believed."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pytest

from common.errors import FailedPrecondition, InvalidArgument, Unavailable
from common.upkeep.records import MAX_DIGESTS, CollectionRecords

LONGEST_NAME = 256
"""What the audit log keeps of a name."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit" / "collections"


@pytest.fixture
def records(folder: Path) -> CollectionRecords:
    return CollectionRecords(folder)


def digests(number: int) -> list[str]:
    return [f"{i:064x}" for i in range(number)]


def listed(folder: Path, tenant: str) -> dict[str, list[str]]:
    """The lists of a tenant by their names."""
    return {path.name: path.read_text().split() for path in folder.glob(f"{tenant}/sha256/*/*")}


def test_a_list_is_named_by_its_digest_beside_tenant_and_figures(records: CollectionRecords, folder: Path) -> None:
    name = records.begin("tenants/lab", reversed(digests(3)), 42)
    (sha256,) = listed(folder, "lab")
    assert name == f"tenants/lab/collections/{sha256}/blobs/3/bytes/42"
    assert listed(folder, "lab")[sha256] == digests(3)
    content = "".join(f"{one}\n" for one in digests(3))
    assert sha256 == hashlib.sha256(content.encode()).hexdigest()


def test_if_all_went_as_announced_one_list_tells_it(records: CollectionRecords, folder: Path) -> None:
    begun = records.begin("tenants/lab", digests(3), 42)
    assert records.begin("tenants/lab", [*digests(3), *digests(1)], 42) == begun
    (sha256,) = listed(folder, "lab")
    assert records.end(begun, digests(3), 42) == f"tenants/lab/collections/{sha256}/gone/{sha256}/blobs/3/bytes/42"
    assert len(listed(folder, "lab")) == 1


@pytest.mark.parametrize("gone", [digests(2), []])
def test_what_stayed_is_not_told_to_be_gone(records: CollectionRecords, folder: Path, gone: Sequence[str]) -> None:
    begun = records.begin("tenants/lab", digests(3), 42)
    ended = records.end(begun, gone, 4)
    assert ended.startswith(f"{begun.partition('/blobs/')[0]}/gone/")
    assert ended.endswith(f"/blobs/{len(gone)}/bytes/4")
    assert sorted(listed(folder, "lab").values()) == sorted([list(gone), digests(3)])


def test_no_name_is_longer_than_the_audit_log_keeps(records: CollectionRecords) -> None:
    begun = records.begin(f"tenants/{'t' * 63}", digests(MAX_DIGESTS), (1 << 63) - 1)
    assert len(records.end(begun, digests(MAX_DIGESTS), (1 << 63) - 1)) <= LONGEST_NAME


@pytest.mark.parametrize(
    ("parent", "listing", "num_bytes", "reason"),
    [
        ("", digests(1), 1, "BAD_NAME"),
        ("lab", digests(1), 1, "BAD_NAME"),
        ("tenants/../x", digests(1), 1, "BAD_NAME"),
        ("tenants/lab", ["x" * 1000], 1, "BAD_DIGEST"),
        ("tenants/lab", ["A" * 64], 1, "BAD_DIGEST"),
        ("tenants/lab", digests(MAX_DIGESTS + 1), 1, "BAD_VALUE"),
        ("tenants/lab", digests(1), -1, "BAD_VALUE"),
    ],
)
def test_nonsense_is_not_announced(
    records: CollectionRecords, folder: Path, parent: str, listing: Sequence[str], num_bytes: int, reason: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        records.begin(parent, listing, num_bytes)
    assert caught.value.reason == reason
    assert not list(folder.glob("*/sha256"))


def test_nothing_has_gone_of_what_is_no_collection(records: CollectionRecords) -> None:
    begun = records.begin("tenants/lab", digests(3), 42)
    for parent, listing, reason in (
        (begun, ["x" * 1000], "BAD_DIGEST"),
        ("tenants/lab", digests(1), "BAD_NAME"),
        (begun.replace("/lab/", "/../"), digests(1), "BAD_NAME"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            records.end(parent, listing, 1)
        assert caught.value.reason == reason


def test_an_end_is_taken_by_whoever_did_not_take_the_beginning(records: CollectionRecords, tmp_path: Path) -> None:
    begun = records.begin("tenants/lab", digests(3), 42)
    other = CollectionRecords(tmp_path / "other")
    assert other.end(begun, digests(3), 42) == records.end(begun, digests(3), 42)
    assert list(listed(tmp_path / "other", "lab").values()) == [digests(3)]


@pytest.mark.faults
def test_what_cannot_be_written_is_not_announced(records: CollectionRecords, folder: Path) -> None:
    folder.rmdir()
    folder.write_text("in the way")
    with pytest.raises((Unavailable, FailedPrecondition)):
        records.begin("tenants/lab", digests(1), 1)
