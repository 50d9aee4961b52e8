"""Checks an ONNX model that was made elsewhere, and writes it as the file and the manifest of a model version.

The work is split by stage: `onnx_bundle` merges external data and rewrites outputs, `onnx_trial` runs requests. The
files are hostile, so the process has no access to the store and limits its own memory; the trainer limits its time.
"""

import json
import resource
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from google.protobuf.message import DecodeError

from common.artifacts.blob import chunks_of, digest_of
from common.errors import InvalidArgument, MeshError
from deepseek.models.datatypes import ONNX_DATATYPES
from deepseek.models.manifest import ModelFile, ModelManifest, TensorSpec
from deepseek.models.origin import Origin
from deepseek.models.runtime_errors import LOAD_ERRORS, load_message
from deepseek.models.runtime_options import session_options
from deepseek.trainjob import onnx_bundle, onnx_trial
from deepseek.trainjob.jobfile import report

MODEL_FILE = "model.onnx"
MANIFEST_FILE = "manifest.json"
VARIANT = "onnx"
"""Variant of the only file of an imported version."""
_MEMORY_BYTES = 4 << 30
_MEMORY_PER_BYTE = 6
_MAX_OPERATORS_SHOWN = 20
_STANDARD = "ai.onnx"
_OFFICIAL_DOMAINS = ("", "ai.onnx.ml")


def limit_memory(path: Path) -> None:
    """Limits the address space of this process, relative to the size of the files in a job file."""
    size = sum(Path(file).stat().st_size for _, file in json.loads(path.read_text(encoding="utf-8"))["files"])
    limit = _MEMORY_BYTES + _MEMORY_PER_BYTE * size
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def import_model(path: Path) -> None:
    """Checks the model of a job file, and writes `model.onnx` and `manifest.json` to the job's directory.

    Args:
        path: Path of the job file. Its member `files` is a list of pairs of name and path; the graph comes first.
            `example` is the path of an example request, or null. `license` and `note` are texts; `labels` is a list.

    Raises:
        InvalidArgument: The model is refused; `TrainerService.ImportModel` documents the reasons.
    """
    job: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    directory = Path(job["dir"])
    (name, graph), *others = [(name, Path(file)) for name, file in job["files"]]
    report(directory, "progress", progress=0.1, message="reading the model")
    try:
        proto = onnx.ModelProto.FromString(graph.read_bytes())
    except DecodeError as error:
        message = f"{name} is not an ONNX file, or is damaged or cut off; send the .onnx file that a converter wrote"
        raise bad_model(message) from error
    if not proto.graph.node or not proto.opset_import:
        raise bad_model(f"{name} is not an ONNX model: it has no operators or states no operator set")
    _check_opsets(proto)
    remarks = onnx_bundle.embed(proto, dict(others))
    rewritten, labels = onnx_bundle.keep_tensors(proto)
    remarks += rewritten
    _check_operators(proto)
    try:
        onnx.checker.check_model(proto)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise bad_model(f"the graph is invalid: {_first_line(error)}") from error
    model = directory / MODEL_FILE
    model.write_bytes(proto.SerializeToString(deterministic=True) if remarks else graph.read_bytes())

    report(directory, "progress", progress=0.5, message="running requests")
    session = _open(model)
    sizes, found = onnx_trial.try_requests(session, Path(job["example"]) if job["example"] else None)
    outputs = session.get_outputs()
    if job["labels"]:
        labels[_labelled(outputs, len(job["labels"]))] = tuple(job["labels"])
    shapeless = {v.name for v in (*proto.graph.input, *proto.graph.output) if not v.type.tensor_type.HasField("shape")}
    sha256, size_bytes = digest_of(chunks_of(model))
    file = ModelFile(MODEL_FILE, VARIANT, sha256, size_bytes)
    manifest = ModelManifest(
        model="onnx",
        run="",
        dataset_version="",
        files=(file,),
        served=file.name,
        inputs=tuple(_tensor(node, shapeless) for node in session.get_inputs()),
        outputs=tuple(_tensor(node, shapeless, labels.get(node.name, ())) for node in outputs),
        origin=Origin(
            file=name.rpartition("/")[2],
            sha256=digest_of(chunks_of(graph))[0],
            producer=f"{proto.producer_name} {proto.producer_version}".strip()[:200],
            opsets={one.domain or _STANDARD: one.version for one in proto.opset_import},
            operators=dict(sorted(Counter(node.op_type for node in _nodes(proto)).items())),
            batch_sizes=sizes,
            license=job["license"] or _license(proto),
            note=job["note"],
            remarks=(*remarks, *found),
        ),
    )
    data = manifest.to_bytes()
    try:
        ModelManifest.from_bytes(data)
    except InvalidArgument as error:
        raise bad_model(f"the model cannot be described: {error.message}") from error
    (directory / MANIFEST_FILE).write_bytes(data)
    report(directory, "finished")


def _labelled(outputs: Sequence[Any], num_labels: int) -> str:
    """Returns the name of the output that can have labels; an output of unknown size is the second choice."""
    last: dict[str, Any] = {
        node.name: node.shape[-1] for node in outputs if node.shape and node.type.startswith("tensor(")
    }
    fitting = [name for name, size in last.items() if size == num_labels]
    fitting = fitting or [name for name, size in last.items() if not isinstance(size, int)]
    if len(fitting) == 1:
        return fitting[0]
    found = [f"{name!r} has {size if isinstance(size, int) else 'any number of'} scores" for name, size in last.items()]
    labels = f"the file has {num_labels} {'label' if num_labels == 1 else 'labels'}"
    if len(fitting) > 1:
        message = f"{labels}, which fit {len(fitting)} outputs: {', '.join(fitting)}; remove all but one from the model"
    elif found:
        message = f"{labels}, but the output {', '.join(found)}; write one label per score, in the order of the scores"
    else:
        message = f"{labels}, but no output has scores; import the model without labels"
    raise InvalidArgument("BAD_LABELS", message, field="labels")


def bad_model(message: str) -> MeshError:
    """Returns the error for a model that is invalid."""
    return InvalidArgument("BAD_MODEL", message, field="file")


def _check_opsets(proto: onnx.ModelProto) -> None:
    if proto.ir_version > onnx.IR_VERSION:
        message = f"the model's IR version is {proto.ir_version}; this server knows versions up to {onnx.IR_VERSION}. "
        raise InvalidArgument("UNSUPPORTED_OPSET", f"{message}Export it for an older ONNX", field="file")
    known = {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": _ml_opset_version()}
    for one in proto.opset_import:
        newest = known.get(_domain(one.domain), one.version)
        if one.version > newest:
            message = (
                f"the model uses opset {one.version} of {one.domain or _STANDARD}; this server knows opsets up to "
                f"{newest}. Export it with opset_version={newest} or lower"
            )
            raise InvalidArgument("UNSUPPORTED_OPSET", message, field="file")


def _domain(name: str) -> str:
    """Returns the name of a domain as the package `onnx` knows it: the standard domain has two names."""
    return "" if name == _STANDARD else name


def _ml_opset_version() -> int:
    return max(int(schema.since_version) for schema in onnx.defs.get_all_schemas() if schema.domain == "ai.onnx.ml")


def _check_operators(proto: onnx.ModelProto) -> None:
    versions = {_domain(one.domain): one.version for one in proto.opset_import}
    own = {(one.domain, one.name) for one in proto.functions}
    unknown = sorted(
        {
            node.op_type
            for node in _nodes(proto)
            if _domain(node.domain) in _OFFICIAL_DOMAINS
            and (node.domain, node.op_type) not in own
            and not onnx.defs.has(node.op_type, versions.get(_domain(node.domain), 1), _domain(node.domain))
        }
    )
    if unknown:
        shown = ", ".join(unknown[:_MAX_OPERATORS_SHOWN])
        raise InvalidArgument(
            "UNKNOWN_OPERATOR",
            f"the graph uses operators that ONNX does not define: {shown}. Convert the model without custom operators",
            field="file",
        )


def _open(model: Path) -> ort.InferenceSession:
    try:
        session = ort.InferenceSession(model, session_options(), providers=["CPUExecutionProvider"])
    except (*LOAD_ERRORS, MemoryError) as error:
        message = load_message(error)
        reason = "BAD_MODEL"
        if message.startswith(("it uses opset", "its IR version")):
            reason = "UNSUPPORTED_OPSET"
        elif "is not a registered function/op" in message or "No Op registered" in message:
            reason, message = "UNKNOWN_OPERATOR", f"{message}. Convert the model without custom operators"
        raise InvalidArgument(reason, f"ONNX Runtime cannot load the model: {message}", field="file") from error
    for node in (*session.get_inputs(), *session.get_outputs()):
        if node.type not in ONNX_DATATYPES:
            message = f"{node.name!r} has the type {node.type}; cast it inside the model, e.g. to float or float16"
            raise InvalidArgument("UNSUPPORTED_DATATYPE", message, field="file")
    return session


def _tensor(node: Any, shapeless: set[str], labels: tuple[str, ...] = ()) -> TensorSpec:
    dims = onnx_trial.shape_of(node)
    return TensorSpec(
        node.name, ONNX_DATATYPES[node.type], dims if dims or node.name not in shapeless else (-1,), labels=labels
    )


def _nodes(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """Returns all nodes, including those of subgraphs and functions."""
    found: list[onnx.NodeProto] = []
    lists = [proto.graph.node, *(function.node for function in proto.functions)]
    while lists:
        for node in lists.pop():
            found.append(node)
            for attribute in node.attribute:
                lists += [graph.node for graph in onnx_bundle.subgraphs(attribute)]
    return found


def _license(proto: onnx.ModelProto) -> str:
    return next((one.value[:4096] for one in proto.metadata_props if one.key.lower() in ("license", "licence")), "")


def _first_line(error: Exception) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:500]
