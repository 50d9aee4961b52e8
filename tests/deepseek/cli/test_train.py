"""What `deepseek train` shows of a run."""

import json
import subprocess
import sys
from pathlib import Path

PROGRAM = """
from deepseek.cli.output import progress_bar
from deepseek.cli.train import show_run
from protos.trainer.v1 import trainer_pb2

with progress_bar() as bar:
    warning = trainer_pb2.WarningEvent(message="fp16 takes [3.1] times as long")
    precision = trainer_pb2.PrecisionEvent(precision="PRECISION_FP32", reason="PRECISION_REASON_FASTEST")
    precision.instruction_set = "avx2"
    precision.ratios.add(precision="PRECISION_FP32", ratio=1.0)
    precision.ratios.add(precision="PRECISION_BF16", ratio=9.77)
    show_run(bar, [trainer_pb2.RunEvent(warning=warning), trainer_pb2.RunEvent(precision=precision)])
"""


def test_warnings_and_the_precision_are_shown() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert "warning: fp16 takes [3.1] times as long" in done.stderr
    chosen = "precision: fp32, measured as the fastest; step time relative to fp32: 9.8x in bf16 (avx2)"
    assert chosen in done.stderr.splitlines()


READ = """
import json, sys
from pathlib import Path
from common.errors import InvalidArgument
from deepseek.cli.spec_files import read_spec

for name in sys.argv[1:]:
    try:
        print(json.dumps(read_spec(Path(name))))
    except InvalidArgument as error:
        print(json.dumps(f"{error.reason} {error.message}"))
"""


def read_specs(*paths: Path) -> list[object]:
    """For each file its content, or the reason and message of the error."""
    command = [sys.executable, "-c", READ, *map(str, paths)]
    return [json.loads(line) for line in subprocess.check_output(command, text=True).splitlines()]


def test_a_spec_is_read_as_editors_leave_it(tmp_path: Path) -> None:
    paths = []
    for name, content in (("spec.json", '{"epochs":\n 2}\n'), ("spec.toml", "# größe\nepochs = 2\n")):
        for number, end in enumerate(("\n", "\r\n", "\r")):
            for start in ("", "\ufeff"):
                paths.append(tmp_path / f"{len(start)}{number}{name}")
                paths[-1].write_bytes((start + content.replace("\n", end)).encode())
    assert read_specs(*paths) == [{"epochs": 2}] * 12


def test_a_spec_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    for name, form in (("spec.json", "JSON"), ("spec.toml", "TOML")):
        path = tmp_path / name
        path.write_text('{"epochs": 2}', encoding="utf-16")
        assert read_specs(path) == [f"BAD_SPEC_FILE {path} is UTF-16; save it as UTF-8"]
        path.write_text("größe = 2", encoding="latin-1")
        assert read_specs(path) == [f"BAD_SPEC_FILE {path} is not UTF-8 (byte 0xf6 in line 1); save it as UTF-8"]
        path.write_text("{")
        [error] = read_specs(path)
        assert str(error).startswith(f"BAD_SPEC_FILE {path} cannot be read as {form}: ")
