"""Finds and sends the files of an ONNX model: the graph, and the files that hold its external data."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from common.artifacts.blob import chunks_of
from common.errors import InvalidArgument
from deepseek.models.onnx_wire import external_locations
from protos.trainer.v1 import trainer_pb2

_SUFFIX = ".onnx"
_EXAMPLE = "example.npz"


def model_files(path: Path) -> list[tuple[str, Path]]:
    """Returns the files of a model, with their names relative to the folder of the graph. The graph comes first.

    Args:
        path: An ONNX file, or a folder that contains exactly one.

    Raises:
        InvalidArgument: NOT_FOUND if there is no such file, MANY_FILES if a folder contains several models, BAD_MODEL
            if the file is not an ONNX file, BAD_PATH if the model's external data is outside of its folder, or
            MISSING_FILE if external data is missing.
    """
    graph = _graph(path)
    try:
        locations = external_locations(graph)
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        message = f"{graph} is not an ONNX file, or is damaged or cut off; pass the .onnx file that a converter wrote"
        raise InvalidArgument("BAD_MODEL", message, field="file") from error
    # Two locations may name the same file, e.g. `x` and `./x`. Files are sent by their shortest names.
    data = {str(PurePosixPath(location)): _beside(graph, location) for location in locations}
    return [(graph.name, graph), *data.items()]


def messages(
    files: Sequence[tuple[str, Path]],
    first: trainer_pb2.ImportModelRequest,
    example: Path | None,
    on_bytes: Callable[[int, int], None] | None,
) -> Iterator[trainer_pb2.ImportModelRequest]:
    """Yields the messages that send files.

    Args:
        files: Files, as `model_files` returns them.
        first: Message that begins the stream; it names no file yet.
        example: File with an example request, if any.
        on_bytes: Called with the number of bytes sent so far and the total.
    """
    total, sent = sum(path.stat().st_size for _, path in files), 0
    for name, path in [*files, *([(_EXAMPLE, example)] if example else [])]:
        offset, begins = 0, name
        for chunk in chunks_of(path):
            request = trainer_pb2.ImportModelRequest(file=begins, offset=offset, data=chunk)
            request.MergeFrom(first)
            yield request
            first, begins = trainer_pb2.ImportModelRequest(), ""
            offset += len(chunk)
            sent += len(chunk)
            if on_bytes:
                on_bytes(min(sent, total), total)


def _graph(path: Path) -> Path:
    if path.is_file():
        return path
    if not path.is_dir():
        raise InvalidArgument("NOT_FOUND", f"{path} does not exist; pass an .onnx file or its folder", field="file")
    found = sorted(path.rglob(f"*{_SUFFIX}"))
    if not found:
        raise InvalidArgument("NOT_FOUND", f"the folder {path} contains no {_SUFFIX} file", field="file")
    if len(found) > 1:
        names = ", ".join(str(one.relative_to(path)) for one in found[:10])
        message = f"the folder {path} contains {len(found)} models: {names}. Pass one of these files"
        raise InvalidArgument("MANY_FILES", message, field="file")
    return found[0]


def _beside(graph: Path, location: str) -> Path:
    """Returns the path of a file with external data. The location comes from the model, which may be hostile."""
    folder = graph.parent.resolve()
    path = folder / location
    if not location or "\0" in location or not path.resolve().is_relative_to(folder):
        message = (
            f"the model's data is in {location[:200]!r}, outside of the folder of {graph.name}. No file is read "
            "there; put the data beside the model"
        )
        raise InvalidArgument("BAD_PATH", message, field="file")
    if not path.is_file():
        message = f"the model's data is in {location[:200]!r}, which is missing in {folder}; put this file there"
        raise InvalidArgument("MISSING_FILE", message, field="file")
    return path
