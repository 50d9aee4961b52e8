"""Finds the served version that a user's name of a model means."""

from difflib import get_close_matches
from typing import TYPE_CHECKING

from common.errors import MeshError, NotFound
from deepseek.client.names import served_version

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh

_MAX_SHOWN = 20


def served_number(mesh: "Mesh", model: str, *, field: str) -> tuple[str, str]:
    """Returns the id of a model and the number of its served version.

    Args:
        mesh: Mesh that serves the model.
        model: Name of the model, e.g. `digits`, or of a version that must be the served one, e.g. `digits@champion`.
        field: Name of the option or argument, for the error.

    Raises:
        InvalidArgument: BAD_NAME.
        NotFound: MODEL_NOT_LOADED if the model, or the named version of it, is not served; MODEL_NOT_FOUND if there is
            no such model; the registry's error if there is no such version.
    """
    name, _ = served_version(model, field=field)
    try:
        return name, mesh.inference.metadata(model).versions[0]
    except NotFound as error:
        if error.reason != "MODEL_NOT_LOADED":
            raise
        _check_exists(mesh, name, model, field)
        what = error.message if error.field == "model_version" else f"the model {name!r} is not served"
        raise NotFound(error.reason, f"{what}; serve it with: deepseek model load {model}", field=field) from error


def _check_exists(mesh: "Mesh", name: str, model: str, field: str) -> None:
    """Checks that the registry has a model, and the version of it that the user named.

    Raises:
        NotFound: MODEL_NOT_FOUND, or the registry's error if there is no such version.
    """
    try:
        known = [one.name.partition("/")[2] for one in mesh.models.list()]
    except MeshError:  # e.g. a caller who may send requests, but not list models
        return
    if name in known:
        try:
            mesh.models.version(model)
        except NotFound as error:
            raise NotFound(error.reason, error.message, field=field) from error
        return
    alike = get_close_matches(name, known, 1)
    shown = ", ".join(known[:_MAX_SHOWN]) + (f" and {len(known) - _MAX_SHOWN} more" if len(known) > _MAX_SHOWN else "")
    hint = f"did you mean {alike[0]!r}? Models: {shown}" if alike else f"models: {shown}" if known else "there are none"
    raise NotFound("MODEL_NOT_FOUND", f"there is no model {name!r}; {hint}", field=field)
