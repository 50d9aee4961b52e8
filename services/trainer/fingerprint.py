"""Fingerprints of runs and exports. Runs with the same spec, data and code have the same fingerprint.

The fingerprint of a run covers every source file that affects the weights, including the files of components from other
packages. It also covers the versions of the packages that this code uses, but not the hardware. It is computed when the
run is submitted, by reading the files without importing them.
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
from common.errors import FailedPrecondition
from deepseek.components import RESTART
from deepseek.trainjob.runspec import RunSpec
from deepseek.trainjob.spec_parts import Component

_TRAINING_PACKAGES = ("torch", "numpy", "pillow", "pyarrow", "safetensors", "opacus")
_EXPORT_PACKAGES = ("torch", "onnx", "onnxruntime-gpu", "onnxruntime", "onnxscript")
_EXPORT_SOURCES = ("export_main.py", "export.py", "probing.py", "onnx_files.py", "onnx_operators.py", "tracing.py")
_IMPORT_SOURCES = ("import_main.py", "onnx_import.py", "onnx_bundle.py", "onnx_trial.py")
_PARTS = ("components", "data", "models", "optim", "privacy", "steering", "training", "trainjob")


def run_fingerprint(spec: RunSpec, dataset_manifest_sha256: str, init_manifest_sha256: str | None = None) -> str:
    """Returns the SHA-256 of a run's spec, data and training code. The digests of the manifests represent the data and
    the initial model.

    Args:
        spec: Spec with all defaults filled in.
        dataset_manifest_sha256: Digest of the data set version's manifest.
        init_manifest_sha256: Digest of the manifest of the model version from which the run starts, if there is one.

    Returns:
        64 hexadecimal digits.

    Raises:
        FailedPrecondition: COMPONENT_NOT_IMPORTABLE if the module of a component cannot be found.
    """
    identity = json.loads(spec.canonical())
    identity["dataset_version"] = dataset_manifest_sha256
    identity["init"] = init_manifest_sha256
    return _digest(
        {
            "spec": identity,
            "sources": _sources(excluded=(*_EXPORT_SOURCES, *_IMPORT_SOURCES)),
            "packages": _versions(_TRAINING_PACKAGES),
            "components": _components(spec),
        }
    )


def export_fingerprint(options: dict[str, Any]) -> str:
    """Returns the SHA-256 of the options of an export and of the exporting code."""
    return _digest(
        {"options": options, "sources": _sources(excluded=_IMPORT_SOURCES), "packages": _versions(_EXPORT_PACKAGES)}
    )


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
        except ModuleNotFoundError:  # not installed; another package may provide the same module
            continue
    return installed


def _components(spec: RunSpec) -> dict[str, list[Any]]:
    """Returns each component's distribution and sources, e.g. `{"deepseek.models:mine": ["my-models 1.2", {…}]}`."""
    used: list[tuple[str, Component]] = [
        ("deepseek.models", spec.model),
        ("deepseek.losses", spec.loss),
        ("deepseek.optimizers", spec.optimizer),
        ("deepseek.schedules", spec.schedule),
        ("deepseek.policies", spec.policy),
        *(("deepseek.metrics", metric) for metric in spec.metrics),
        *(("deepseek.encoders", mapping.encoder) for mapping in (*spec.inputs, spec.target)),
        *(("deepseek.augmentations", part) for mapping in spec.inputs for part in mapping.augmentations),
    ]
    found = {}
    for group, component in used:
        for entry_point in entry_points(group=group, name=component.name):
            if entry_point.dist is not None:
                distribution = f"{entry_point.dist.name} {entry_point.dist.version}"
                found[f"{group}:{component.name}"] = [distribution, _module_sources(component.name, entry_point.module)]
    return found


def _module_sources(name: str, module: str) -> dict[str, str]:
    """Returns the digests of all Python files in the top-level package of a component's module.

    The version of the package does not suffice, because files may be edited while the version stays the same.
    """
    top = module.partition(".")[0]
    if top == deepseek.__name__:  # the fingerprint covers these files already
        return {}
    spec = find_spec(top)
    if spec is None:
        message = f"the component {name!r} cannot be used, because the trainer finds no module {top!r}. {RESTART}"
        raise FailedPrecondition("COMPONENT_NOT_IMPORTABLE", message)
    places = spec.submodule_search_locations or ([spec.origin] if spec.origin else [])
    return {
        path.relative_to(place.parent).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for place in map(Path, places)
        for path in _python_files(place)
    }
