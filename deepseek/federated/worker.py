"""A node's worker: `python -m deepseek.federated.worker WORK_FOLDER`, which executes the tasks of the client app.

It keeps torch, the model of the recipe and the node's encoded data in memory between rounds. It serves requests over
the socket of `deepseek.federated.worker_link`, and ends after a time without requests, or when its SuperNode ends. A
reply of DP-SGD is stored before it is sent: its noise is drawn only once, so a request that is repeated does not
add to the privacy loss.
"""

import hashlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from common.errors import FailedPrecondition, InvalidArgument, MeshError
from common.files import disk_error, replace_file
from deepseek.data.datasets import EncodedDataset
from deepseek.federated import worker_link
from deepseek.federated.arrays import from_bytes, to_bytes
from deepseek.federated.fit_settings import FitSettings
from deepseek.federated.node_data import TENANT, NodeData, open_data
from deepseek.federated.node_policy import NodePolicy, StepCount
from deepseek.federated.product import product_version
from deepseek.federated.recipe import Recipe
from deepseek.federated.training import build_model, fit, restore_mappings
from deepseek.trainjob import json_values

Header = dict[str, Any]

_NUM_REPLIES = 8
_REPEATED = ("run", "round", "seed", "node", "recipe", "fit", "data")
"""Members of a header that are equal if a request is repeated."""


@dataclass(frozen=True)
class Session:
    """The objects of a run that every round uses.

    Attributes:
        recipe: Recipe of the run.
        model: Model of the recipe.
        dataset: The node's examples.
        data: Where the examples come from.
    """

    recipe: Recipe
    model: nn.Module
    dataset: EncodedDataset
    data: NodeData


class Worker:
    """Handles the requests of one node, one at a time. It keeps the session of the last run.

    Args:
        work_folder: Folder of the worker, which holds the imports of the node's data.
    """

    def __init__(self, work_folder: Path) -> None:
        self._folder = work_folder
        self._key = ""
        self._session: Session | None = None
        self._steps = StepCount(work_folder / "dp_steps")

    def __call__(self, header: Mapping[str, Any], arrays: bytes) -> tuple[Header, bytes]:
        """Handles a request.

        Args:
            header: `kind` is `fit` or `evaluate`; `run`, `recipe` and `data` are always needed, and to train, so are
                `fit`, `seed`, `round` (from 1) and `node`. `version` is that of the client app, and `policy` that of
                the node (`NodePolicy`).
            arrays: The global model, as safetensors.

        Returns:
            For `fit`, the header has `num_examples`, `metrics`, `train_s` and `load_s`, and the arrays are the update.
            For `evaluate`, the header of the request must have `check`. Nothing is evaluated: the reply only says that
            the node can take part, and has no arrays.

        Raises:
            FailedPrecondition: NODE_POLICY or DATASET_HAS_BUDGET if the node's policy does not allow the task.
            MeshError: The request, the data or the training failed.
        """
        kind = json_values.text(header.get("kind", ""), "kind")
        if kind not in ("fit", "evaluate"):
            raise InvalidArgument("BAD_VALUE", f"kind is {kind[:80]!r}; it must be fit or evaluate", field="kind")
        if kind == "evaluate" and not header.get("check"):
            raise InvalidArgument("BAD_VALUE", "nodes evaluate only while they train; set check", field="check")
        _check_version(header)
        settings = FitSettings.from_json(header.get("fit", {}))
        policy = NodePolicy.from_json(header.get("policy", {}))
        sealed = self._folder / "replies" / _key_of_reply(header, arrays)
        if kind == "fit" and settings.dp_sgd and (stored := _read_reply(sealed)):
            return stored
        policy.check(settings, self._steps.total)
        began = time.monotonic()
        session = self._open(header, policy)
        start = from_bytes(arrays, session.recipe.shapes)
        load_s = time.monotonic() - began
        if kind == "evaluate":
            # The data could be read, and the model built. The number of examples may be private.
            return {"num_examples": min(1, len(session.dataset)), "metrics": {}, "train_s": 0.0, "load_s": load_s}, b""
        if settings.dp_sgd:
            self._steps.add(settings.dp_steps)
        outcome = fit(
            session.model,
            session.recipe,
            session.dataset,
            start,
            settings,
            seed=json_values.integer(header.get("seed", 0), "seed"),
            round_number=json_values.integer(header.get("round", 1), "round"),
            node=json_values.text(header.get("node", ""), "node"),
        )
        reply = {
            "num_examples": outcome.num_examples,
            "metrics": {**outcome.metrics, **({} if settings.private else session.data.metrics)},
            "train_s": outcome.train_s,
            "load_s": load_s,
        }
        update = to_bytes(outcome.update)
        if settings.dp_sgd:
            _write_reply(sealed, reply, update)
        return reply, update

    def _open(self, header: Mapping[str, Any], policy: NodePolicy) -> Session:
        """Returns the session of a run, which is kept until that of another run is needed.

        The data of a run does not change while it is in memory, even if the source does.
        """
        document, source = header.get("recipe"), json_values.text(header.get("data", ""), "data")
        key = json.dumps([header.get("run"), document, source, policy.ignore_budget], sort_keys=True)
        if self._session is None or key != self._key:
            self._session = None  # frees its memory first
            recipe = Recipe.from_json(document)
            if not source:
                message = "the node has no data source; start it with a folder, a file or mesh:NAME:VERSION"
                raise InvalidArgument("MISSING_FIELD", message, field="data")
            data = open_data(
                source,
                recipe.fields,
                recipe.spec.train_split,
                self._folder / "data",
                ignore_budget=policy.ignore_budget,
            )
            mappings = restore_mappings(recipe)
            dataset = EncodedDataset(
                data.store, TENANT, data.manifest, data.split, mappings.inputs, mappings.target, augment=True
            )
            self._session, self._key = Session(recipe, build_model(recipe, mappings), dataset, data), key
        return self._session


def _key_of_reply(header: Mapping[str, Any], arrays: bytes) -> str:
    """Returns the name under which the reply to a request is stored."""
    digest = hashlib.sha256(json.dumps({name: header.get(name) for name in _REPEATED}, sort_keys=True).encode())
    digest.update(arrays)
    return digest.hexdigest()


def _write_reply(path: Path, header: Header, arrays: bytes) -> None:
    """Stores a reply durably before it is sent, and deletes all but the last replies."""
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        replace_file(path, json.dumps(header).encode() + b"\n" + arrays)
        others = sorted(path.parent.iterdir(), key=lambda one: one.stat().st_mtime_ns, reverse=True)
        for other in others[_NUM_REPLIES:]:
            other.unlink()
    except OSError as error:
        raise disk_error(error, path, "files of the worker") from error


def _read_reply(path: Path) -> tuple[Header, bytes] | None:
    try:
        text, _, arrays = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise disk_error(error, path, "files of the worker") from error
    return json.loads(text), arrays


def _check_version(header: Mapping[str, Any]) -> None:
    """Checks that the client app, which may have been updated since this process started, has the same version."""
    own, given = product_version(), json_values.text(header.get("version", ""), "version")
    if given not in ("", own):
        message = f"the client app has the version {given[:80]} and the worker {own}; restart the SuperNode"
        raise FailedPrecondition("WRONG_VERSION", message, field="version")


def main(argv: Sequence[str]) -> int:
    """Serves the requests of a work folder, and returns the exit code."""
    folder = Path(argv[0])
    try:
        worker_link.serve(folder, Worker(folder))
    except MeshError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
