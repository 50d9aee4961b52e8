"""The file of the master key."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import FailedPrecondition
from services.watermark.master_key import make_master_key, read_master_key


def written(path: Path, content: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_raw_bytes_and_hexadecimal_digits_are_taken(tmp_path: Path) -> None:
    key = os.urandom(32)
    assert read_master_key(written(tmp_path / "raw", key)) == key
    assert read_master_key(written(tmp_path / "hex", key.hex().encode() + b"\n", 0o400)) == key
    edited = b"\xef\xbb\xbf" + key.hex().encode() + b"\r\n"
    assert read_master_key(written(tmp_path / "edited", edited)) == key
    longer = os.urandom(64) + b"\n"
    assert read_master_key(written(tmp_path / "longer", longer)) == longer


def test_a_key_that_is_made_is_its_owners_alone_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "master"
    make_master_key(path)
    key = read_master_key(path)
    assert len(key) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    make_master_key(path)
    assert read_master_key(path) == key
    assert [one.name for one in tmp_path.iterdir()] == ["master"]


def test_of_processes_that_make_one_at_once_one_wins(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from services.watermark.master_key import make_master_key, read_master_key
print("ready", flush=True)
sys.stdin.read(1)
make_master_key(Path(sys.argv[1]))
print(read_master_key(Path(sys.argv[1])).hex())
"""
    path = tmp_path / "master"
    command = [sys.executable, "-c", program, str(path)]
    both = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ})
        for _ in range(2)
    ]
    for process in both:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in both:
        assert process.stdin is not None
        process.stdin.write("!")
        process.stdin.flush()
    made = {process.communicate(timeout=30)[0].strip() for process in both}
    assert made == {read_master_key(path).hex()}
    assert [one.name for one in tmp_path.iterdir()] == ["master"]


def test_what_lies_where_a_key_is_made_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "target"
    (tmp_path / ".tmp-00").symlink_to(target)
    monkeypatch.setattr("services.watermark.master_key.secrets.token_hex", lambda num_bytes: "00")
    with pytest.raises(FailedPrecondition, match="cannot be created"):
        make_master_key(tmp_path / "master")
    assert not target.exists()
    assert not (tmp_path / "master").exists()


@pytest.mark.parametrize(
    ("content", "mode", "says"),
    [
        (b"ab" * 31, 0o600, "31 bytes; a master key has at least 32"),
        (b"", 0o600, "has 0 bytes"),
        (os.urandom(31) + b"\xff", 0o640, "run `chmod 600"),
        (b"ab" * 32, 0o604, "run `chmod 600"),
        (bytes(5000), 0o600, "not a master key"),
    ],
    ids=["short", "empty", "group", "others", "long"],
)
def test_a_file_that_will_not_do_says_what_to_do(tmp_path: Path, content: bytes, mode: int, says: str) -> None:
    with pytest.raises(FailedPrecondition, match=says) as caught:
        read_master_key(written(tmp_path / "master", content, mode))
    assert (caught.value.reason, caught.value.field) == ("BAD_MASTER_KEY", "master_key_file")
    assert str(tmp_path / "master") in caught.value.message


def test_a_file_that_is_not_there_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        FailedPrecondition, match="does not exist; restore the master key, or create the first one with"
    ):
        read_master_key(tmp_path / "master")
    with pytest.raises(FailedPrecondition, match="cannot be read"):
        read_master_key(tmp_path)
    with pytest.raises(FailedPrecondition, match="cannot be created"):
        make_master_key(tmp_path / "nowhere" / "master")
