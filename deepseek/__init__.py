"""DeepSeek Mesh as a Python library: trains models, reads data and models, and connects to a mesh.

Submodules are imported only when they are used, so that `import deepseek` and the command line start without torch.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek.client import Mesh, connect

__all__ = ["Mesh", "connect"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from deepseek import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
