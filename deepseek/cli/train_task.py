"""`deepseek train --task`: derives a run spec from a data set, shows it and writes it to a file."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import AlreadyExists
from common.files import replace_file
from deepseek.cli.output import error_console, writing
from deepseek.client import Mesh
from deepseek.client.names import short_name
from deepseek.client.specs import derive_spec


def write_task_spec(
    mesh: Mesh,
    task: str,
    dataset: str,
    target: str,
    train_split: str,
    path: Path | None,
    *,
    epochs: int | None = None,
    policy: str = "",
    options: Sequence[str] = (),
) -> tuple[dict[str, Any], Path]:
    """Derives a run spec for a task, writes it to a file, and shows it on standard error.

    Args:
        mesh: The mesh that has the data set.
        task: A key of `deepseek.tasks.TASKS`.
        dataset: The data set version, as the user wrote it.
        target: Name of the field to predict; may be empty.
        train_split: Split to train on; may be empty.
        path: File for the spec; None means `<data set>.<task>.json` in the current folder.
        epochs: Number of epochs; None means the number that suits the task.
        policy: Name of a policy; empty for none.
        options: Options of `deepseek train` that register the result, for the command that trains the file.

    Returns:
        The spec and its file.

    Raises:
        AlreadyExists: SPEC_EXISTS if the file exists and differs from the spec.
        MeshError: Any error of `derive_spec` or `output.writing`.
    """
    from deepseek.tasks import left_out

    spec = derive_spec(mesh, task, dataset, target, train_split=train_split, epochs=epochs)
    if policy:
        spec["policy"] = {"name": policy}
    path = path or Path(f"{short_name(spec['dataset_version']).partition(':')[0]}.{task}.json")
    fields = mesh.datasets.manifest(mesh.datasets.version(spec["dataset_version"])).fields
    command = shlex.join(["deepseek", "train", str(path), *options])
    text = json.dumps(spec, indent=2, ensure_ascii=False) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") != text:
        message = f"{path} exists and is another spec; train it with `{command}`, or choose another --out"
        raise AlreadyExists("SPEC_EXISTS", message, field="--out")
    with writing(path, "--out"):
        replace_file(path, text.encode())
    error_console.print(text, end="", highlight=False, soft_wrap=True)
    error_console.print(f"wrote {path}; edit it and run `{command}`", highlight=False, soft_wrap=True)
    for note in left_out(task, spec, fields):
        error_console.print(f"note: {note}", highlight=False, soft_wrap=True)
    if share := spec.get("eval_share"):
        split = spec.get("train_split", "train")
        message = f"{share:.0%} of the split {split} is held out to choose the best epoch"
        error_console.print(f"note: there is no split validation, so {message}", soft_wrap=True)
    return spec, path
