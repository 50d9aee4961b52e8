"""Rewrites the graph of an imported model: one file without external data, whose outputs are all tensors."""

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import onnx
from google.protobuf.message import Message

from common.errors import InvalidArgument

MAX_BYTES = (2 << 30) - (1 << 20)
"""Maximum size of a merged file, in bytes: protobuf cannot encode more than 2 GiB."""


def subgraphs(attribute: onnx.AttributeProto) -> list[onnx.GraphProto]:
    """Returns the graphs that an attribute of a node holds."""
    return [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]


def embed(proto: onnx.ModelProto, files: Mapping[str, Path]) -> list[str]:
    """Moves external data into the model.

    Args:
        proto: The model; it is changed.
        files: Path of each file with external data, by the name that it has relative to the model's folder. A location
            in the model is only looked up here; it is never used as a path.

    Returns:
        Remarks for people; empty if the model has no external data.

    Raises:
        InvalidArgument: BAD_PATH, MISSING_FILE, BAD_MODEL or TOO_LARGE.
    """
    size, used = proto.ByteSize(), set[str]()
    for tensor in _tensors(proto):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        entries = {entry.key: entry.value for entry in tensor.external_data}
        location = entries.get("location", "")
        name = str(PurePosixPath(location))
        path = files.get(name)
        if path is None:
            raise _no_file(tensor.name, location)
        try:
            offset = int(entries.get("offset", 0))
            length = int(entries.get("length", path.stat().st_size - offset))
        except ValueError:
            offset = length = -1
        if not 0 <= offset <= offset + length <= path.stat().st_size:
            message = (
                f"the data of {tensor.name!r} lies outside of {location!r}, which has {path.stat().st_size} bytes; "
                "the file is incomplete or belongs to another model"
            )
            raise InvalidArgument("BAD_MODEL", message, field="file")
        size += length
        if size > MAX_BYTES:
            message = (
                f"the model has more than {MAX_BYTES} bytes with its external data; larger models are not accepted"
            )
            raise InvalidArgument("TOO_LARGE", message, field="file")
        with path.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        tensor.ClearField("data_location")
        del tensor.external_data[:]
        used.add(name)
    return [f"external data was merged into the file: {', '.join(sorted(used))}"] if used else []


def keep_tensors(proto: onnx.ModelProto) -> tuple[list[str], dict[str, tuple[str, ...]]]:
    """Removes the outputs that are not tensors, e.g. the maps that scikit-learn's ZipMap makes.

    An output of a ZipMap is replaced by the tensor from which it is made.

    Args:
        proto: The model; it is changed.

    Returns:
        remarks: A sentence for each removed output.
        labels: Labels of the last axis of tensors that replace outputs of a ZipMap, by the tensor's name.

    Raises:
        InvalidArgument: UNSUPPORTED_DATATYPE if an input is no tensor, or if no output is left.
    """
    graph = proto.graph
    for given in graph.input:
        if _kind(given) != "tensor_type":
            message = f"the input {given.name!r} is no tensor; convert the model so that its inputs are tensors"
            raise InvalidArgument("UNSUPPORTED_DATATYPE", message, field="file")
    made_by = {name: node for node in graph.node for name in node.output}
    remarks: list[str] = []
    labels: dict[str, tuple[str, ...]] = {}
    kept = [output for output in graph.output if _kind(output) == "tensor_type"]
    for output in graph.output:
        if _kind(output) == "tensor_type":
            continue
        remark = f"the output {output.name!r} is no tensor and was left out"
        node = made_by.get(output.name)
        if node is not None and node.op_type == "ZipMap" and node.input:
            tensor, classes = node.input[0], _classes(node)
            labels[tensor] = classes
            if tensor not in {one.name for one in kept}:
                shape = [None, len(classes)] if classes else None
                kept.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, shape))
            remark += f"; the tensor {tensor!r}, from which ZipMap makes it, is an output instead"
        remarks.append(remark)
    if not kept:
        message = "the model has no output that is a tensor; convert it, e.g. with options={'zipmap': False}"
        raise InvalidArgument("UNSUPPORTED_DATATYPE", message, field="file")
    if remarks:
        del graph.output[:]
        graph.output.extend(kept)
        _prune(graph)
    return remarks, labels


def _kind(value: onnx.ValueInfoProto) -> str:
    """Returns the kind of a value's type. ONNX Runtime infers a type that the model does not state."""
    return value.type.WhichOneof("value") or "tensor_type"


def _classes(node: onnx.NodeProto) -> tuple[str, ...]:
    for attribute in node.attribute:
        if attribute.name == "classlabels_strings":
            return tuple(text.decode("utf-8", "replace") for text in attribute.strings)
        if attribute.name == "classlabels_int64s":
            return tuple(map(str, attribute.ints))
    return ()


def _prune(graph: onnx.GraphProto) -> None:
    """Removes the nodes on which no output depends."""
    needed = {output.name for output in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed & set(node.output):
            kept.append(node)
            needed |= set(_names_used(node))
    kept.reverse()
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in kept]
    del graph.node[:]
    graph.node.extend(copies)


def _names_used(node: onnx.NodeProto) -> Iterator[str]:
    nodes = [node]
    while nodes:
        one = nodes.pop()
        yield from one.input
        for attribute in one.attribute:
            for graph in subgraphs(attribute):
                nodes += graph.node
                yield from (output.name for output in graph.output)


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yields every tensor of a model, wherever it is: the runtime would read the external data of one left out."""
    messages: list[Message] = [proto]
    while messages:
        message = messages.pop()
        if isinstance(message, onnx.TensorProto):
            yield message
            continue
        for field, value in message.ListFields():
            if field.message_type:
                messages += [value] if isinstance(value, Message) else value


def _no_file(tensor: str, location: str) -> InvalidArgument:
    if location.startswith("/") or ".." in location.split("/") or "\\" in location or not location:
        message = (
            f"the data of {tensor!r} is in {location[:200]!r}, outside of the model's folder; "
            "save the model with its data beside it"
        )
        return InvalidArgument("BAD_PATH", message, field="file")
    message = f"the data of {tensor!r} is in the file {location[:200]!r}, which was not sent; put it beside the model"
    return InvalidArgument("MISSING_FILE", message, field="file")
