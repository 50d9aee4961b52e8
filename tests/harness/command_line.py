"""The modules of the command line. `deepseek` imports most of them only when a command needs them."""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[2] / "deepseek" / "cli"
COMMAND_LINE = ", ".join(f"deepseek.cli.{path.stem}" for path in sorted(_FOLDER.glob("[!_]*.py")))
"""All modules, as in an import statement."""
