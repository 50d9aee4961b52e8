"""Finds the served version that a user's name of a model means."""

from typing import TYPE_CHECKING

from common.errors import NotFound
from deepseek.client.names import served_version

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh


def served_number(mesh: "Mesh", model: str, *, field: str) -> tuple[str, str]:
    """Returns the id of a model and the number of its served version.

    Args:
        mesh: Mesh that serves the model.
        model: Name of the model, e.g. `digits`, or of a version that must be the served one, e.g. `digits@champion`.
        field: Name of the option or argument, for the error.

    Raises:
        InvalidArgument: BAD_NAME.
        NotFound: MODEL_NOT_LOADED if the model, or the named version of it, is not served; the registry's error if
            there is no such version.
    """
    name, _ = served_version(model, field=field)
    try:
        return name, mesh.inference.metadata(model).versions[0]
    except NotFound as error:
        if error.reason != "MODEL_NOT_LOADED":
            raise
        message = f"{error.message}; serve it with: deepseek model load {model}"
        raise NotFound(error.reason, message, field=field) from error
