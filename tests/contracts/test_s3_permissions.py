"""A store in S3 whose keys have only the permissions in docs/operations.md, on a server that enforces policies."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from minio import Minio

from common.artifacts import ArtifactStore, s3
from common.errors import FailedPrecondition
from common.names import new_id
from tests.harness.servers import S3Server, seaweedfs

ROOT = Path(__file__).resolve().parents[2]
TEXT = "text/plain"
LARGE = b"0123456789abcdef" * (2 << 20)
"""Larger than one part of an upload."""


def documented() -> dict[str, Any]:
    """The policies of the documentation, by name."""
    section = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8").partition("## Permissions of S3 keys")[2]
    return {
        name: json.loads(policy) for name, policy in re.findall(r"^`(\w+)`:\n\n```json\n(.*?)```", section, re.M | re.S)
    }


def allowing(*statements: tuple[str, str]) -> dict[str, Any]:
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": [action], "Resource": [f"arn:aws:s3:::artifacts{path}"]}
            for action, path in statements
        ],
    }


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    policies = documented() | {
        "list": allowing(("s3:ListBucket", "")),
        "get": allowing(("s3:GetObject", "/*")),
        "locate": allowing(("s3:GetBucketLocation", ""), ("s3:ListBucket", "")),
    }
    assert list(policies) == ["read", "write", "collect", "list", "get", "locate"]
    with seaweedfs(policies) as server:
        yield server


def denied(store: ArtifactStore, call: Any) -> str:
    """The permission that a call lacks."""
    with pytest.raises(FailedPrecondition) as caught:
        call(store)
    assert (caught.value.reason, caught.value.field) == ("STORE_ACCESS_DENIED", "store")
    return caught.value.message.partition(" denies ")[2].partition(" ")[0]


@pytest.mark.parametrize("query", ["", "?region=us-east-1"])
def test_documented_keys_suffice_for_each_part(server: S3Server, query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read, write, collect = (server.open_as(name, query) for name in ("read", "write", "collect"))
    tenant = new_id()
    small, large = (write.put(tenant, content, TEXT) for content in (b"small", LARGE))
    assert write.put(tenant, b"small", TEXT) == small
    # The process that began to delete it was killed long ago.
    monkeypatch.setattr(s3, "NOTICE_S", 0)
    access, secret = (path.read_text().strip() for path in (server.access_key_file, server.secret_key_file))
    notice = f".expiring/{tenant}/{small.sha256}.gone"
    Minio(server.endpoint, access, secret, secure=False).put_object(server.bucket, notice, io.BytesIO(), 0)
    assert write.put(tenant, b"small", TEXT) == small
    monkeypatch.undo()

    for store in (read, write, collect):
        store.check()
        assert store.read(tenant, large.sha256) == LARGE
        assert not store.exists(tenant, "0" * 64)
        assert sorted(store.list(tenant)) == sorted([small.sha256, large.sha256])
        assert tenant in store.tenants()
    assert denied(read, lambda store: store.put(tenant, b"other", TEXT)) == "s3:PutObject"
    assert denied(write, lambda store: store.delete(tenant, small.sha256)) == "s3:DeleteObject"
    assert collect.expire(tenant, small.sha256, 1 << 60)
    assert not read.exists(tenant, small.sha256)


def test_a_missing_permission_is_named(server: S3Server) -> None:
    tenant, write = new_id(), server.open_as("write")
    sha256 = write.put(tenant, b"blob", TEXT).sha256
    for name, permission in (("list", "s3:GetObject"), ("locate", "s3:GetObject"), ("get", "s3:ListBucket")):
        store = server.open_as(name)
        if permission == "s3:GetObject":
            store.check()
            assert denied(store, lambda store: store.read(tenant, sha256)) == permission
            assert denied(store, lambda store: store.exists(tenant, sha256)) == permission
        else:
            assert store.read(tenant, sha256) == b"blob"
            assert denied(store, lambda store: store.check()) == permission
            assert denied(store, lambda store: list(store.list(tenant))) == permission
