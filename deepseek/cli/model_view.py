"""What `deepseek model show` shows about a version: as a document for programs, and as tables for people."""

from typing import Any

from common.errors import MeshError, NotFound
from deepseek.cli.guarantees import full_guarantee_text, guarantee_json
from deepseek.cli.output import console, print_table
from deepseek.cli.precision import ratios_text
from deepseek.client import Mesh
from deepseek.client.names import short_name
from deepseek.models.manifest import ModelFile, ModelManifest, TensorSpec
from protos.registry.v1 import registry_pb2

_MAX_LABELS_SHOWN = 5


def description(mesh: Mesh, version: registry_pb2.ModelVersion) -> dict[str, Any]:
    """Returns everything that is known about a version, as a JSON document."""
    manifest = mesh.models.manifest(version)
    model, number = version.name.split("/")[1::2]
    return {
        "version": version.name,
        "create_time": version.create_time.ToJsonString(),
        "model": manifest.model,
        "params": dict(manifest.params),
        "run": manifest.run,
        "sources": list(version.sources),
        "privacy": guarantee_json(version),
        "aliases": [alias.name for alias in mesh.models.aliases(model) if alias.version == version.name],
        "license": manifest.origin.license if manifest.origin else "",
        "metrics": {metric.name: metric.value for metric in version.metrics},
        "inputs": [_tensor(tensor) for tensor in manifest.inputs],
        "outputs": [_tensor(tensor) for tensor in manifest.outputs],
        "files": [_file(manifest, file) for file in manifest.files],
        "preferred": manifest.served,
        "served": served_file(mesh, model, number),
        "origin": manifest.origin.to_json() if manifest.origin else None,
        "precision": vars(manifest.precision) | {"ratios": dict(manifest.precision.ratios)}
        if manifest.precision
        else None,
    }


def served_file(mesh: Mesh, model: str, number: str) -> dict[str, str] | None:
    """Returns which file of a version is served where, and why; None if the version is not served.

    The member `error` replaces the others if the inference service does not respond.
    """
    try:
        metadata = mesh.inference.metadata(model, number)
    except NotFound:
        return None
    except MeshError as error:
        return {"error": error.message}
    names = ("file", "variant", "instruction_set", "reason")
    return {"service": "inference"} | {name: metadata.parameters[name].string_param for name in names}


def print_description(found: dict[str, Any]) -> None:
    """Prints the document of a version for people."""
    short = short_name(found["version"])
    console.print(short, style="bold", highlight=False)
    origin, precision = found["origin"], found["precision"]
    _print_line("registered", found["create_time"].replace("T", " ").partition(".")[0].removesuffix("Z") + " UTC")
    _print_line("model", " ".join([found["model"], *(f"{name}={value}" for name, value in found["params"].items())]))
    if origin:
        _print_line("imported from", f"{origin['file']}, sha256 {origin['sha256']}")
        _print_line("written by", origin["producer"])
        _print_line("opsets", ", ".join(f"{domain} {version}" for domain, version in origin["opsets"].items()))
        _print_line("operators", ", ".join(f"{name} {count}" for name, count in origin["operators"].items()))
        _print_line("batch sizes", _batch_text(found))
        _print_line("note", origin["note"])
    _print_line("license", found["license"] or ("unknown" if origin else ""))
    _print_line("run", found["run"])
    if precision:
        text = f"{precision['precision']} ({precision['reason']}){ratios_text(precision['ratios'])}"
        _print_line("trained in", f"{text} on {precision['instruction_set']}")
    _print_line("made from", ", ".join(found["sources"]))
    _print_line("metrics", ", ".join(f"{name} {value:.4f}" for name, value in found["metrics"].items()))
    _print_line("privacy", full_guarantee_text(found["privacy"]))
    _print_line("aliases", ", ".join(alias.rpartition("/")[2] for alias in found["aliases"]) or "none")
    _print_line("served", _served_text(found["served"], short))
    for remark in origin["remarks"] if origin else ():
        _print_line("remark", remark)
    console.print()
    tensors = [("input", one) for one in found["inputs"]] + [("output", one) for one in found["outputs"]]
    rows = [(one["name"], kind, one["datatype"], one["shape"], _meaning(one)) for kind, one in tensors]
    print_table(["tensor", "", "datatype", "shape", "meaning"], rows)
    console.print()
    headings = ["file", "variant", "bytes", "ms per request", "figure", ""]
    files = list(map(_file_row(found), found["files"]))
    kept = [i for i in range(len(headings)) if any(row[i] != "" for row in files)]
    print_table([headings[i] for i in kept], [[row[i] for i in kept] for row in files])


def _print_line(name: str, text: str) -> None:
    if text:
        console.print(f"  {name:<14} {text}", highlight=False, soft_wrap=True)


def _batch_text(found: dict[str, Any]) -> str:
    sizes = found["origin"]["batch_sizes"]
    return f"{sizes[0]} only" if len(sizes) == 1 else f"{', '.join(map(str, sizes))} tried"


def _served_text(served: dict[str, str] | None, short: str) -> str:
    if served is None:
        return f"no; serve it with `deepseek model load {short}`"
    if "error" in served:
        return f"unknown: {served['error']}"
    return f"{served['file']} by {served['service']} on {served['instruction_set']}: {served['reason']}"


def _tensor(tensor: TensorSpec) -> dict[str, Any]:
    return {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.shape),
        "field": tensor.field,
        "encoder": tensor.encoder.name if tensor.encoder else None,
        "labels": list(tensor.labels),
    }


def _meaning(tensor: dict[str, Any]) -> str:
    if tensor["encoder"]:
        return f"{tensor['encoder']} of the field {tensor['field']}"
    labels = tensor["labels"]
    rest = f" and {len(labels) - _MAX_LABELS_SHOWN} more" if len(labels) > _MAX_LABELS_SHOWN else ""
    return ", ".join(labels[:_MAX_LABELS_SHOWN]) + rest


def _file(manifest: ModelManifest, file: ModelFile) -> dict[str, Any]:
    measured = manifest.measurement(file.variant)
    return {
        "name": file.name,
        "variant": file.variant,
        "size_bytes": file.size_bytes,
        "sha256": file.sha256,
        "latency_ms": measured.latency_ms if measured else None,
        "metric": measured.metric if measured else None,
        "value": measured.value if measured else None,
        "loss": measured.loss if measured else None,
    }


def _file_row(found: dict[str, Any]) -> Any:
    """Returns a function that makes the row of a file."""
    served = found["served"] or {}

    def row(file: dict[str, Any]) -> tuple[object, ...]:
        latency = "" if file["latency_ms"] is None else f"{file['latency_ms']:.2f}"
        figure = "" if file["value"] is None else f"{file['metric']} {file['value']:.4f}"
        mark = "served" if file["name"] == served.get("file") else ""
        if not mark and file["name"] == found["preferred"]:
            mark = "preferred where it was exported" if file["latency_ms"] is not None else ""
        return (file["name"], file["variant"], file["size_bytes"], latency, figure, mark)

    return row
