"""Shell completion of the names of resources and components, e.g. of models, runs and studies.

The names come from the running mesh. If it does not answer within half a second, or within the number of seconds in
`DEEPSEEK_COMPLETION_LIMIT_S`, nothing is suggested.
"""

import itertools
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import typer
from click.shell_completion import CompletionItem, add_completion_class
from typer._completion_classes import BashComplete

if TYPE_CHECKING:
    from deepseek.client import Mesh
    from deepseek.client.names import Collection

LIMIT_S = 0.5
"""Default maximum time to wait for the mesh, in seconds."""

_MAX_NAMES = 1000
_BASH_BREAKS = ":@"

Complete = Callable[[typer.Context, str], list[str]]


def _from_mesh(find: "Callable[[Mesh, typer.Context, str], Iterable[str]]") -> Complete:
    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        # Imported here, because the command line would start more slowly if they were imported at the top.
        from common import deadline
        from common.errors import MeshError
        from deepseek.client import connect

        try:
            with connect() as mesh, deadline.until(time.monotonic() + _limit_s()):
                names = (name for name in find(mesh, ctx, incomplete) if name.startswith(incomplete))
                return list(itertools.islice(names, _MAX_NAMES))
        except MeshError:
            return []

    return complete


def _limit_s() -> float:
    try:
        return float(os.environ["DEEPSEEK_COMPLETION_LIMIT_S"])
    except (KeyError, ValueError):
        return LIMIT_S


def _series(mesh: "Mesh", collection: "Collection") -> Iterator[str]:
    found = mesh.datasets.list() if collection == "datasets" else mesh.models.list()
    return (one.name.partition("/")[2] for one in found)


def _versions(mesh: "Mesh", collection: "Collection", incomplete: str) -> Iterator[str]:
    """Yields names of data sets or models; after `name:` its versions, and after `name@` its aliases."""
    series, separator, _ = re.match(r"([^:@]*)([:@]?)(.*)", incomplete, re.DOTALL).groups()  # type: ignore[union-attr]
    if separator == "@":
        yield from _aliases(mesh, collection, series)
    elif separator == ":":
        of = mesh.datasets.versions if collection == "datasets" else mesh.models.versions
        yield f"{series}:latest"
        yield from (f"{series}:{version.name.rpartition('/')[2]}" for version in of(series))
    else:
        yield from _series(mesh, collection)


def _aliases(mesh: "Mesh", collection: "Collection", series: str) -> Iterator[str]:
    from protos.registry.v1 import registry_pb2, registry_pb2_grpc

    stub = registry_pb2_grpc.RegistryServiceStub(mesh.channel("registry"))
    for alias in stub.ListAliases(registry_pb2.ListAliasesRequest(parent=f"{collection}/{series}")).aliases:
        yield f"{series}@{alias.name.rpartition('/')[2]}"


def _model_aliases(mesh: "Mesh", incomplete: str) -> Iterator[str]:
    """Yields names of models; after `name@` its aliases."""
    return _versions(mesh, "models", incomplete) if "@" in incomplete else _series(mesh, "models")


def _aliases_of_model(mesh: "Mesh", ctx: typer.Context) -> Iterator[str]:
    """Yields the aliases of the model that an earlier argument names."""
    return (alias.partition("@")[2] for alias in _aliases(mesh, "models", str(ctx.params.get("model") or "")))


def _references_of_model(mesh: "Mesh", ctx: typer.Context) -> Iterator[str]:
    """Yields the numbers and aliases of the versions of the model that an earlier argument names."""
    yield from (one.name.rpartition("/")[2] for one in mesh.models.versions(str(ctx.params.get("model") or "")))
    yield from _aliases_of_model(mesh, ctx)


def _served(mesh: "Mesh", incomplete: str) -> Iterator[str]:
    """Yields names of served models; after `name:` or `name@` the same as `_versions`."""
    if re.search("[:@]", incomplete):
        yield from _versions(mesh, "models", incomplete)
        return
    from protos.inference.v2 import inference_pb2, inference_pb2_grpc  # the client class would import NumPy

    stub = inference_pb2_grpc.GRPCInferenceServiceStub(mesh.channel("inference"))
    yield from (one.name for one in stub.RepositoryIndex(inference_pb2.RepositoryIndexRequest(ready=True)).models)


def _runs(mesh: "Mesh", incomplete: str) -> Iterator[str]:
    prefix = "runs/" if incomplete.startswith("runs/") else ""
    return (prefix + run.name.partition("/")[2] for run in mesh.runs.list())


def _federations(mesh: "Mesh") -> Iterator[str]:
    return (one.name.partition("/")[2] for one in mesh.federated.list())


def _members(mesh: "Mesh", incomplete: str, collection: str) -> Iterator[str]:
    """Yields names of federations; after `name/` the names of its nodes or runs."""
    federation, separator, _ = incomplete.partition("/")
    if not separator:
        yield from (f"{name}/" for name in _federations(mesh))
        return
    members = mesh.federated.nodes(federation) if collection == "nodes" else mesh.federated.runs(federation)
    yield from (f"{federation}/{one.name.rpartition('/')[2]}" for one in members)


def _budgets(mesh: "Mesh", incomplete: str) -> Iterator[str]:
    prefix = "budgets/" if incomplete.startswith("budgets/") else ""
    return (prefix + budget.name.partition("/")[2] for budget in mesh.budgets.list())


def _studies(mesh: "Mesh", incomplete: str) -> Iterator[str]:
    prefix = "studies/" if incomplete.startswith("studies/") else ""
    return (prefix + study.name.partition("/")[2] for study in mesh.studies.list())


def _components(ctx: typer.Context, incomplete: str) -> list[str]:
    from deepseek.components import REGISTRIES

    kind = ctx.params.get("kind")
    if not kind:
        return list(REGISTRIES)
    return REGISTRIES[kind].names() if kind in REGISTRIES else []


def _policies(ctx: typer.Context, incomplete: str) -> list[str]:
    from deepseek.components import POLICIES

    return [name for name in POLICIES.names() if name.startswith(incomplete)]


DATASET = _from_mesh(lambda mesh, ctx, incomplete: _series(mesh, "datasets"))
DATASET_VERSION = _from_mesh(lambda mesh, ctx, incomplete: _versions(mesh, "datasets", incomplete))
MODEL = _from_mesh(lambda mesh, ctx, incomplete: _series(mesh, "models"))
MODEL_VERSION = _from_mesh(lambda mesh, ctx, incomplete: _versions(mesh, "models", incomplete))
MODEL_ALIAS = _from_mesh(lambda mesh, ctx, incomplete: _model_aliases(mesh, incomplete))
ALIAS_OF_MODEL = _from_mesh(lambda mesh, ctx, incomplete: _aliases_of_model(mesh, ctx))
REFERENCE_OF_MODEL = _from_mesh(lambda mesh, ctx, incomplete: _references_of_model(mesh, ctx))
SERVED = _from_mesh(lambda mesh, ctx, incomplete: _served(mesh, incomplete))
RUN = _from_mesh(lambda mesh, ctx, incomplete: _runs(mesh, incomplete))
UPLOAD = _from_mesh(lambda mesh, ctx, incomplete: (upload.name for upload in mesh.datasets.uploads()))
FEDERATION = _from_mesh(lambda mesh, ctx, incomplete: _federations(mesh))
NODE = _from_mesh(lambda mesh, ctx, incomplete: _members(mesh, incomplete, "nodes"))
FEDERATED_RUN = _from_mesh(lambda mesh, ctx, incomplete: _members(mesh, incomplete, "runs"))
STUDY = _from_mesh(lambda mesh, ctx, incomplete: _studies(mesh, incomplete))
BUDGET = _from_mesh(lambda mesh, ctx, incomplete: _budgets(mesh, incomplete))
COMPONENT: Complete = _components
POLICY: Complete = _policies


class _Bash(BashComplete):
    """Completion for bash, which splits `colours:3`, `colours@champion` and `--dataset=colours` into several words."""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Returns the words before the cursor and the word at the cursor, both as the user typed them."""
        words = os.environ["COMP_WORDS"].split("\n")[: int(os.environ["COMP_CWORD"]) + 1]
        os.environ["COMP_WORDS"] = "\n".join(joined := _join(words))
        os.environ["COMP_CWORD"] = str(len(joined) - 1)
        args, self._incomplete = super().get_completion_args()
        return args, self._incomplete

    def format_completion(self, item: CompletionItem) -> str:
        """Returns a completion without the part of the word that bash keeps."""
        value = self._incomplete.partition("=")[2] if self._incomplete.startswith("--") else self._incomplete
        kept = max(value.rfind(separator) for separator in _BASH_BREAKS) + 1
        return str(item.value[kept:])


def _join(words: Iterable[str]) -> list[str]:
    joined: list[str] = []
    for word in words:
        before = joined[-1] if joined else ""
        is_option = before.startswith("--") and (word == "=" or before.endswith("="))
        if is_option or (before and word and (word in _BASH_BREAKS or before.endswith(tuple(_BASH_BREAKS)))):
            joined[-1] += word
        else:
            joined.append(word)
    return joined


def register_bash() -> None:
    """Makes completion for bash understand names with a colon or an at sign."""
    add_completion_class(_Bash, "bash")
