"""Runs and their events as messages."""

from pathlib import Path
from typing import Any

import pytest

from common.jobs.history import RunEvent
from services.trainer.codec import event_to_proto


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("warning", {"message": "{path} is slow"}),
        ("state", {"state": "FAILED", "error": {"code": "INTERNAL", "reason": "X", "message": "{path} is slow"}}),
    ],
)
def test_events_name_no_path_of_the_server(tmp_path: Path, kind: str, payload: dict[str, Any]) -> None:
    for place in (payload, payload.get("error", {})):
        if "message" in place:
            place["message"] = place["message"].format(path=tmp_path / "log")
    message = event_to_proto(RunEvent(1, 0, kind, payload))
    assert "<path> is slow" in (message.warning.message, message.state.error.message)
