"""The command line as a process."""

import os
import subprocess
import sys
from pathlib import Path


def deepseek(home: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [Path(sys.executable).with_name("deepseek"), *arguments],
        env={**os.environ, "DEEPSEEK_HOME": str(home), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def succeeded(home: Path, *arguments: str) -> str:
    """Standard output of a command, which must succeed."""
    done = deepseek(home, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_refused(done: "subprocess.CompletedProcess[str]", error: str, field: str) -> None:
    assert done.returncode == 1
    assert f"  {error}\n  field: {field}\n" in done.stderr
    assert "Traceback" not in done.stderr


def completed(home: Path, *words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Completes the last word as bash does."""
    return subprocess.run(
        [Path(sys.executable).with_name("deepseek")],
        env={
            **os.environ,
            "DEEPSEEK_HOME": str(home),
            "DEEPSEEK_COMPLETION_LIMIT_S": "30",
            "_DEEPSEEK_COMPLETE": "complete_bash",
            "COMP_WORDS": "\n".join(("deepseek", *words)),
            "COMP_CWORD": str(len(words)),
            **environment,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )


def suggested(home: Path, *words: str) -> list[str]:
    """The words that the shell would suggest."""
    return completed(home, *words).stdout.split()
