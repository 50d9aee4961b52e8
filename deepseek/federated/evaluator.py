"""The coordinator's evaluator: `python -m deepseek.federated.evaluator WORK_FOLDER`, a persistent child process.

It serves requests over the socket of `deepseek.federated.worker_link`. It evaluates arrays on the evaluation split of
the reference data, which it keeps in memory, and exports arrays as the files and the manifest of a model version, with
the code that exports runs of the trainer.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import nn

from common.artifacts import Artifact
from common.errors import InvalidArgument, MeshError
from common.processes import die_with_parent
from deepseek.data.datasets import EncodedDataset
from deepseek.federated import model_state, worker_link
from deepseek.federated.arrays import Arrays, from_bytes
from deepseek.federated.recipe import Recipe
from deepseek.federated.training import build_model, evaluate, restore_mappings
from deepseek.training import checkpoint
from deepseek.trainjob import export as exports
from deepseek.trainjob import json_values, pipeline
from deepseek.trainjob.jobfile import JobFile

Header = dict[str, Any]


_STORE = ("dataset_manifest_sha256", "tenant", "store_url", "store_access_key_file", "store_secret_key_file")
_JOB_MEMBERS = (*_STORE, "init_manifest_sha256")


@dataclass(frozen=True)
class _Session:
    """The model and the reference data of a run."""

    recipe: Recipe
    model: nn.Module
    evaluation: EncodedDataset


class Evaluator:
    """Handles the requests of a coordinator, one at a time. It keeps the session of the last run.

    Args:
        work_folder: Folder for files of exports.
    """

    def __init__(self, work_folder: Path) -> None:
        self._folder = work_folder
        self._key = ""
        self._session: _Session | None = None

    def __call__(self, header: Mapping[str, Any], arrays: bytes) -> tuple[Header, bytes]:
        """Handles a request.

        Args:
            header: `kind` is `evaluate` or `export`. `recipe` is the JSON form of the recipe. `job` has the members
                `dataset_manifest_sha256`, `tenant`, `store_url`, `store_access_key_file`, `store_secret_key_file` and,
                if the run has an initial model version, `init_manifest_sha256` of a job file. To export, `export` has
                `run` (the resource name that the manifest states) and `metrics` (of the model, by name).
            arrays: The model, as safetensors.

        Returns:
            For `evaluate`, the header has `metrics` and `num_examples`. For `export`, it has the descriptor `manifest`
            and the `metrics` for the registry. The arrays are empty.

        Raises:
            MeshError: The request is invalid, the store fails, or the model cannot be exported.
        """
        kind = json_values.text(header.get("kind", ""), "kind")
        if kind not in ("evaluate", "export"):
            raise InvalidArgument("BAD_VALUE", f"kind is {kind[:80]!r}; it must be evaluate or export", field="kind")
        document, options = header.get("recipe"), header.get("job", {})
        json_values.check_keys(options, dict.fromkeys(_JOB_MEMBERS), "job")
        if missing := [name for name in _STORE if name not in options]:
            raise InvalidArgument("MISSING_FIELD", f"{missing[0]} is missing", field=f"job.{missing[0]}")
        session = self._open(document, options)
        values = from_bytes(arrays, session.recipe.shapes)
        if kind == "evaluate":
            metrics = evaluate(session.model, session.recipe, session.evaluation, values)
            return {"metrics": metrics, "num_examples": len(session.evaluation)}, b""
        return self._export(session, options, header.get("export", {}), values), b""

    def _open(self, document: Any, options: Mapping[str, Any]) -> _Session:
        key = json.dumps([document, dict(options)], sort_keys=True)
        if self._session is None or key != self._key:
            self._session = None  # frees its memory first
            recipe = Recipe.from_json(document)
            mappings = restore_mappings(recipe)
            with self._job_file(recipe, options) as path:
                job = JobFile.open(path)
            evaluation = pipeline.open_evaluation(job, mappings)
            if evaluation is None:
                evaluation = pipeline.open_split(job, recipe.spec.train_split, mappings)
            self._session, self._key = _Session(recipe, build_model(recipe, mappings), evaluation), key
        return self._session

    def _export(self, session: _Session, options: Mapping[str, Any], export: Any, values: Arrays) -> Header:
        json_values.check_keys(export, dict.fromkeys(("run", "metrics")), "export")
        model_state.load_arrays(session.model, values)
        with self._job_file(session.recipe, options) as path:
            job = JobFile.open(path)
        # The additional entry keeps the file distinct from those of runs, which delete what they no longer need.
        state = {**checkpoint.model_state(session.model), "federated": True}
        weights = job.store.put(job.tenant, checkpoint.dumps(state), checkpoint.MEDIA_TYPE)
        more = {
            "checkpoint_sha256": weights.sha256,
            "run": json_values.text(export.get("run", ""), "export.run"),
            "metrics": dict(export.get("metrics", {})),
            "int8": False,
            "int8_max_loss": 0.0,
        }
        with self._job_file(session.recipe, {**options, **more}) as path:
            exports.export(path)
            lines = (path.parent / "events.jsonl").read_text(encoding="utf-8").splitlines()
        finished = json.loads(lines[-1])
        return {"manifest": Artifact.from_json(finished["manifest"]).to_json(), "metrics": finished["metrics"]}

    @contextmanager
    def _job_file(self, recipe: Recipe, options: Mapping[str, Any]) -> Iterator[Path]:
        """Writes a job file in a directory of its own, which is removed at the end of the `with` block."""
        with TemporaryDirectory(dir=self._folder, prefix="job-") as directory:
            path = Path(directory, "job.json")
            job = {"checkpoint_sha256": None, **options, "spec": recipe.spec.to_json(), "dir": directory}
            path.write_text(json.dumps(job), encoding="utf-8")
            yield path


def main(argv: Sequence[str]) -> int:
    """Serves the requests of a work folder, and returns the exit code."""
    die_with_parent()
    folder = Path(argv[0])
    try:
        worker_link.serve(folder, Evaluator(folder))
    except MeshError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
