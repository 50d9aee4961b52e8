"""The directory of an artifact store, seen from outside."""

from pathlib import Path


def damage_store(tmp_path: Path, sha256: str) -> None:
    """Overwrites a blob of the directory store in place."""
    [blob] = (tmp_path / "store").rglob(sha256)
    blob.chmod(0o644)
    blob.write_bytes(b"MODEL")


def digests(store: Path, tenant: str = "default") -> set[str]:
    """Digests of all blobs of a tenant."""
    return {path.name for path in store.glob(f"{tenant}/sha256/*/*")}
