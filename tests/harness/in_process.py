"""One service of the mesh in the process of the test, on a free port."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from pathlib import Path

from common.config import ServiceSettings, load_settings
from common.server.process import open_service
from common.server.server import MeshServer


@contextmanager
def service_in_process(name: str, home: Path, **settings: object) -> Iterator[MeshServer]:
    """Serves until the block ends.

    Args:
        name: Name of the service.
        home: Its home directory.
        settings: Further settings, e.g. `registry`.
    """
    with ExitStack() as resources, open_service(settings_in(name, home, **settings), resources) as server:
        yield server


def settings_in(name: str, home: Path, **settings: object) -> ServiceSettings:
    """Returns the settings of a service on a free port."""
    module = import_module(f"services.{name}.settings")
    classes = [value for value in vars(module).values() if isinstance(value, type)]
    (cls,) = (value for value in classes if value.__module__ == module.__name__)
    flags = [part for key, value in settings.items() for part in (f"--{key.replace('_', '-')}", str(value))]
    loaded: ServiceSettings = load_settings(cls, ["--home", str(home), "--port", "0", *flags])
    return loaded
