"""What makes two runs the same run: equal spec, equal data, equal code.

The fingerprint covers every source file that decides the weights, those of other packages' components included, and the
versions of the packages behind them. It is computed when a run is submitted, by reading files: nothing is imported.
Hardware is not part of it.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import deepseek
import kernels
from deepseek.training.runspec import Component, RunSpec

_TRAINING_PACKAGES = ("torch", "numpy", "pillow", "pyarrow", "safetensors")
_EXPORT_PACKAGES = ("torch", "onnx", "onnxruntime-gpu", "onnxruntime", "onnxscript")
_EXPORT_SOURCES = ("export.py", "packaging.py", "probing.py", "onnx_files.py")
_PARTS = ("components", "data", "models", "optim", "training")


def run_fingerprint(spec: RunSpec, dataset_manifest_sha256: str) -> str:
    """SHA-256 over the spec, with the data set named by its content, and the code that trains it.

    Args:
        spec: With defaults filled in.
        dataset_manifest_sha256: Digest of the data set version's manifest.

    Returns:
        64 hexadecimal digits.
    """
    identity = json.loads(spec.canonical())
    identity["dataset_version"] = dataset_manifest_sha256
    return _digest(
        {
            "spec": identity,
            "sources": _sources(excluded=_EXPORT_SOURCES),
            "packages": _versions(_TRAINING_PACKAGES),
            "components": _components(spec),
        }
    )


def export_fingerprint(options: dict[str, Any]) -> str:
    """SHA-256 over an export's options and the code that exports."""
    return _digest({"options": options, "sources": _sources(excluded=()), "packages": _versions(_EXPORT_PACKAGES)})


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _sources(*, excluded: Sequence[str]) -> dict[str, str]:
    library, kernel = Path(deepseek.__path__[0]), Path(kernels.__path__[0])
    places = [library / part for part in _PARTS] + [library / f"{part}.py" for part in _PARTS] + [kernel]
    return {
        path.relative_to(library.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for place in places
        for path in _python_files(place)
        if path.name not in excluded
    }


def _python_files(place: Path) -> Iterator[Path]:
    if place.is_dir():
        yield from sorted(place.rglob("*.py"))
    elif place.is_file():
        yield place


def _versions(packages: Iterable[str]) -> dict[str, str]:
    installed = {}
    for package in packages:
        try:
            installed[package] = version(package)
        except ModuleNotFoundError:  # PackageNotFoundError: one of several that can provide the same module
            continue
    return installed


def _components(spec: RunSpec) -> dict[str, list[Any]]:
    """Distribution and sources of each component, e.g. `{"deepseek.models:mine": ["my-models 1.2", {…}]}`."""
    used: list[tuple[str, Component]] = [
        ("deepseek.models", spec.model),
        ("deepseek.losses", spec.loss),
        ("deepseek.optimizers", spec.optimizer),
        ("deepseek.schedules", spec.schedule),
        *(("deepseek.metrics", metric) for metric in spec.metrics),
        *(("deepseek.encoders", mapping.encoder) for mapping in (*spec.inputs, spec.target)),
        *(("deepseek.augmentations", part) for mapping in spec.inputs for part in mapping.augmentations),
    ]
    found = {}
    for group, component in used:
        for entry_point in entry_points(group=group, name=component.name):
            if entry_point.dist is not None:
                distribution = f"{entry_point.dist.name} {entry_point.dist.version}"
                found[f"{group}:{component.name}"] = [distribution, _module_sources(entry_point.module)]
    return found


def _module_sources(module: str) -> dict[str, str]:
    """Digests of the Python files of a module's top-level module; the version alone does not tell what was edited."""
    top = module.partition(".")[0]
    spec = None if top == deepseek.__name__ else find_spec(top)  # ours are among the sources already
    if spec is None:
        return {}
    places = spec.submodule_search_locations or ([spec.origin] if spec.origin else [])
    return {
        path.relative_to(place.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for place in map(Path, places)
        for path in _python_files(place)
    }
