"""JSON documents that are whole but for some places, and some that no reader should take for long."""

import json
from typing import Any

from hypothesis import strategies as st

from tests.fuzz.messages import HOSTILE_TEXTS

MAX_CHANGES = 3

_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.sampled_from(HOSTILE_TEXTS)
    | st.text(max_size=10)
)
VALUES = st.recursive(
    _LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
"""Any JSON value, with infinities and lone surrogates, which only Python writes."""


def nested(num_levels: int) -> str:
    """An array in an array in an array."""
    return "[" * num_levels + "]" * num_levels


@st.composite
def documents(draw: st.DrawFn, valid: Any) -> bytes:
    """A valid document in which some values are others, gone, or there twice; or one that is no such thing at all."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.sampled_from([b"", b"\xff\xfe", b"{", b"NaN", b"9" * 5000, b'{"a":1,"a":2}', b"\x00"]))
    document = json.loads(json.dumps(valid))
    for _ in range(draw(st.integers(1, MAX_CHANGES))):
        places = list(_places(document))
        if not places:
            break
        holder, key = places[draw(st.integers(0, len(places) - 1))]
        match draw(st.integers(0, 4)):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, list):
                holder.append(holder[key])
            case 1:
                holder[draw(st.text(max_size=5))] = holder[key]
            case _:
                holder[key] = draw(VALUES)
    return json.dumps(document, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")


def _places(value: Any) -> Any:
    """Every place in a document, as what holds it and under which key."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(items):
        yield value, key
        yield from _places(child)
