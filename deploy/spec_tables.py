"""Tables of the fields of a run spec, in docs/spec.md: `python -m deploy.spec_tables [--check]`.

The page holds each table between two markers, `<!-- fields:MESSAGE -->` and `<!-- /fields -->`. Names, types and
meanings come from the contract and its comments; defaults come from the code that fills them in. With `--check`, the
program writes nothing, and fails if a table is out of date.
"""

import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

from common.errors import InvalidArgument
from deepseek.data.manifest import DEFAULT_ENCODERS
from deepseek.trainjob.runspec import RunSpec
from deepseek.trainjob.spec_parts import NO_COMPONENT, PRECISIONS, Component, DpSgdSpec, EarlyStopping, FieldMapping
from protos.trainer.v1 import trainer_pb2

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "spec.md"
CONTRACT = "protos/trainer/v1/trainer.proto"
_GOOGLE = Path(protoc.__file__).with_name("_proto")

_BLOCK = re.compile(r"<!-- fields:(\w+) -->\n.*?<!-- /fields -->", re.DOTALL)
_DEFAULT = re.compile(r"; default `\w+`(?=\.)")
_MESSAGES: dict[str, tuple[RunSpec, str, Mapping[str, Any]]] = {
    "RunSpec": (RunSpec(), "spec", vars(RunSpec().with_defaults())),
    "Component": (RunSpec(), "spec.model", vars(Component())),
    "FieldMapping": (RunSpec(inputs=(FieldMapping(),)), "spec.inputs[0]", vars(FieldMapping())),
    "DpSgd": (RunSpec(privacy=DpSgdSpec()), "spec.privacy", vars(DpSgdSpec())),
    "EarlyStopping": (RunSpec(early_stopping=EarlyStopping()), "spec.early_stopping", vars(EarlyStopping())),
}
"""For each message: a spec with such a message without any field, its path there, and the defaults of its fields."""


def render(page: str) -> str:
    """Returns the page with all its tables rendered.

    Raises:
        ValueError: The page names a table that does not exist.
    """
    comments = _comments()

    def block(match: re.Match[str]) -> str:
        name = match[1]
        if name == "encoders":
            lines = list(_encoders())
        elif name in _MESSAGES:
            lines = list(_message(name, comments))
        else:
            raise ValueError(f"unknown table '{name}'; known: encoders, {', '.join(_MESSAGES)}")
        return "\n".join([f"<!-- fields:{name} -->", *lines, "<!-- /fields -->"])

    return _BLOCK.sub(block, page)


def _message(name: str, comments: Mapping[str, str]) -> Iterator[str]:
    spec, path, defaults = _MESSAGES[name]
    message = trainer_pb2.DESCRIPTOR.message_types_by_name[name]
    assert list(defaults) == [field.name for field in message.fields], f"{name} differs from its dataclass"
    required = _required(spec, path)
    yield "| field | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for field in message.fields:
        default = _needed(field, required) or _shown(defaults[field.name])
        meaning = _DEFAULT.sub("", comments[f"{name}.{field.name}"]).replace("`RunSpec.", "`")
        yield f"| `{field.name}` | {_type(field)} | {default} | {meaning} |"


def _needed(field: FieldDescriptor, required: set[str]) -> str:
    """Returns that a field, or another member of its oneof, is required; empty if none of them is."""
    names = [one.name for one in field.containing_oneof.fields] if field.containing_oneof else [field.name]
    if not required.intersection(names):
        return ""
    return ", or ".join(["required", *(f"`{name}`" for name in names if name != field.name)])


def _encoders() -> Iterator[str]:
    yield "| type of the field | encoder |"
    yield "| --- | --- |"
    for field_type, encoder in DEFAULT_ENCODERS.items():
        yield f"| `{field_type}` | `{encoder}` |"


def _required(spec: RunSpec, path: str) -> set[str]:
    """Returns the names of the fields that a message must set."""
    try:
        spec.check()
    except InvalidArgument as error:
        found = [re.match(rf"{re.escape(path)}\.(\w+)", violation.field) for violation in error.violations]
        return {match[1] for match in found if match}
    return set()


def _type(field: FieldDescriptor) -> str:
    if field.enum_type:
        return ", ".join(f"`{name}`" for name in PRECISIONS)
    if field.message_type:
        name = field.message_type.name
        one = "object" if name == "Struct" else f"[{name}](#{name.lower()})"
    else:
        kinds = {field.CPPTYPE_STRING: "text", field.CPPTYPE_DOUBLE: "number"}
        one = kinds.get(field.cpp_type, "integer")
    return f"list of {one}" if field.is_repeated else one


def _shown(value: Any) -> str:
    if isinstance(value, Component):
        value = value.name
    if value is None or value in ("", (), {}, NO_COMPONENT):
        return "none"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def _comments() -> dict[str, str]:
    """Returns the comment of each field of the contract's messages, in one line, by `<message>.<field>`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "descriptors")
        arguments = [f"-I{ROOT}", f"-I{_GOOGLE}", f"--descriptor_set_out={out}", "--include_source_info", CONTRACT]
        if protoc.main(["protoc", *arguments]):
            raise RuntimeError(f"{CONTRACT} cannot be compiled")
        [file] = FileDescriptorSet.FromString(out.read_bytes()).file
    found = {}
    for location in file.source_code_info.location:
        if len(location.path) == 4 and (location.path[0], location.path[2]) == (4, 2):  # a field of a message
            message = file.message_type[location.path[1]]
            found[f"{message.name}.{message.field[location.path[3]].name}"] = " ".join(
                location.leading_comments.split()
            )
    return found


def main() -> int:
    """Writes the page or, with `--check`, checks it. Returns the program's exit status."""
    text = PAGE.read_text(encoding="utf-8")
    if (current := render(text)) == text:
        return 0
    name = PAGE.relative_to(ROOT)
    if "--check" in sys.argv[1:]:
        print(f"{name} does not match the contract: run 'make spec'", file=sys.stderr)
        return 1
    PAGE.write_text(current, encoding="utf-8")
    print(f"{name}: updated", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
