"""A prepared federated run, and requests to its workers."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.artifacts import Artifact, open_store
from deepseek.federated.prepare import prepare
from deepseek.federated.recipe import Recipe
from tests.deepseek.federated.pictures import CNN, FIELDS, samples
from tests.deepseek.trainjob.jobs import events, write_job

STORE = ("dataset_manifest_sha256", "tenant", "store_url", "store_access_key_file", "store_secret_key_file")


@dataclass(frozen=True)
class Prepared:
    """A prepared run, as the coordinator stores it.

    Attributes:
        recipe: Recipe of the run.
        initial: Initial arrays, as safetensors.
        path: Job file of the preparation.
        reported: Events of the preparation.
    """

    recipe: Recipe
    initial: bytes
    path: Path
    reported: list[dict[str, Any]]


def prepared(folder: Path, *, fields: Any = FIELDS, make: Any = samples, **spec: Any) -> Prepared:
    """Prepares a run; `spec` differs from CNN."""
    folder.mkdir(exist_ok=True)
    path = write_job(folder, spec={**CNN, **spec}, fields=fields, make=make)
    recipe = prepare(path)
    finished = events(path)[-1]
    store, stored = open_store(f"file://{folder / 'store'}"), Artifact.from_json(finished["recipe"])
    assert Recipe.from_bytes(store.read("default", stored.sha256)) == recipe
    initial = store.read("default", Artifact.from_json(finished["arrays"]).sha256)
    return Prepared(recipe, initial, path, events(path))


def request(recipe: Recipe, data: Path | str, **header: Any) -> dict[str, Any]:
    """Header of a request to train; `header` overrides its members."""
    fixed = {"kind": "fit", "run": "r", "round": 1, "seed": 3, "node": "n", "fit": {"local_epochs": 1}, "version": ""}
    return {**fixed, "recipe": recipe.to_json(), "data": str(data), **header}
