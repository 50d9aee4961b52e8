"""Keys of nodes: what is created can be used by Flower and OpenSSH, and everything else is refused."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from deepseek.federated.flower.node_keys import create_key, fingerprint_of_pem, read_private_key, read_public_key


def openssh(key: ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


def test_a_created_key_can_be_read_again(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "node"
    created = create_key(path)
    assert path.stat().st_mode & 0o777 == 0o600
    public = path.with_name("node.pub").read_bytes()
    assert public.startswith(b"ecdsa-sha2-nistp384 ")
    assert read_public_key(public) == created
    assert read_private_key(path)[1] == created
    assert fingerprint_of_pem(created.pem) == created.fingerprint
    assert len(created.fingerprint) == 64


def test_a_comment_and_line_ends_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    created = create_key(tmp_path / "node")
    assert read_public_key(f"{created.text} ana@hospital\r\n".encode()) == created


def test_an_existing_key_is_kept(tmp_path: Path) -> None:
    create_key(tmp_path / "node")
    before = (tmp_path / "node").read_bytes()
    with pytest.raises(AlreadyExists, match="exists already"):
        create_key(tmp_path / "node")
    assert (tmp_path / "node").read_bytes() == before


@pytest.mark.parametrize(
    ("key", "found"),
    [
        (openssh(ec.generate_private_key(ec.SECP256R1()).public_key()), "secp256r1"),
        (openssh(ec.generate_private_key(ec.SECP521R1()).public_key()), "secp521r1"),
        (openssh(ed25519.Ed25519PrivateKey.generate().public_key()), "ssh-ed25519"),
        (b"", "not an OpenSSH public key"),
        (b"\xff\x00", "not an OpenSSH public key"),
        (b"ecdsa-sha2-nistp384 AAAA", "not an OpenSSH public key"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----", "not an OpenSSH public key"),
        (b"ecdsa-sha2-nistp384 " + b"A" * 5000, "has 5020 bytes"),
    ],
    ids=["P-256", "P-521", "Ed25519", "empty", "binary", "truncated", "private", "long"],
)
def test_other_keys_are_refused(key: bytes, found: str) -> None:
    with pytest.raises(InvalidArgument, match=found) as caught:
        read_public_key(key, field="node.public_key")
    assert (caught.value.reason, caught.value.field) == ("BAD_NODE_KEY", "node.public_key")
    assert "ssh-keygen -t ecdsa -b 384" in caught.value.message


def test_two_keys_at_once_are_refused(tmp_path: Path) -> None:
    two = "\n".join(create_key(tmp_path / name).text for name in ("a", "b"))
    with pytest.raises(InvalidArgument):
        read_public_key(two.encode())


def test_other_private_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    with pytest.raises(FailedPrecondition, match="contains no private key"):
        read_private_key(path)
    other = ec.generate_private_key(ec.SECP256R1())
    path.write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    with pytest.raises(FailedPrecondition, match="no ECDSA P-384 key"):
        read_private_key(path)


def test_the_fingerprint_of_something_else_is_empty() -> None:
    assert fingerprint_of_pem(b"") == ""
