"""Prints the wire contract of a generated module as JSON: `python dump_descriptors.py MODULE`."""

import importlib
import json
import sys
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor


def dump_message(message: Descriptor) -> dict[str, Any]:
    """Every field of a message, by name, with all that decides how it travels."""
    return {field.name: dump_field(field) for field in message.fields}


def dump_field(field: FieldDescriptor) -> dict[str, Any]:
    """What decides how a field travels."""
    return {
        "number": field.number,
        "type": field.type,
        "repeated": field.is_repeated,
        "message": field.message_type.full_name if field.message_type else None,
        "enum": field.enum_type.full_name if field.enum_type else None,
        "oneof": field.containing_oneof.name if field.containing_oneof else None,
    }


def walk(message: Descriptor, found: dict[str, Any]) -> None:
    """Adds a message and those nested in it."""
    found[message.full_name] = dump_message(message)
    for nested in message.nested_types:
        walk(nested, found)


def main(module: str) -> None:
    """Prints the messages and methods of a generated module."""
    file = importlib.import_module(module).DESCRIPTOR
    messages: dict[str, Any] = {}
    for message in file.message_types_by_name.values():
        walk(message, messages)
    methods = {
        f"/{service.full_name}/{method.name}": {
            "request": method.input_type.full_name,
            "response": method.output_type.full_name,
            "streams": [method.client_streaming, method.server_streaming],
        }
        for service in file.services_by_name.values()
        for method in service.methods
    }
    json.dump({"messages": messages, "methods": methods}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
