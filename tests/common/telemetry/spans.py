"""Reads what a trace file holds."""

import json
from pathlib import Path
from typing import Any


def read_spans(file: Path) -> list[dict[str, Any]]:
    """All spans of a file, each with the name of its service."""
    spans = []
    for line in file.read_text().splitlines():
        for resource in json.loads(line)["resourceSpans"]:
            service = resource["resource"]["attributes"][0]["value"]["stringValue"]
            spans += [{**span, "service": service} for scope in resource["scopeSpans"] for span in scope["spans"]]
    return spans
