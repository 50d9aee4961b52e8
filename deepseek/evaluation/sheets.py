"""Contact sheets of the worst predictions, and of the samples on which two versions disagree."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from common.errors import MeshError
from deepseek.contact_sheet import Tile, contact_sheet
from deepseek.data.media import decode_image
from deepseek.evaluation.results import Comparison, Judged


def worst_sheet(worst: Sequence[Judged]) -> Image.Image | None:
    """Returns the sheet of the worst rows, each with its prediction and its target; None if a row has no image."""
    tiles = []
    for one in worst:
        image = _image(one.values)
        if image is None:
            return None
        title, right = _verdict(one)
        truth = [(f"{_text(one.target)}{_share(one.target_probability)}", True if one.right is not None else None)]
        tiles.append(Tile(image, _caption(one), title, right, truth if not one.right else ()))
    return contact_sheet(tiles) if tiles else None


def disagreement_sheet(comparison: Comparison) -> Image.Image | None:
    """Returns the sheet of the disagreements, with the first version's prediction above that of the second version.

    Returns None if a row has no image.
    """
    tiles = []
    for one in comparison.disagreements:
        image = _image(one.first.values)
        if image is None:
            return None
        title, right = _verdict(one.first)
        other, other_right = _verdict(one.second)
        caption = f"true: {_text(one.first.target)}, {_caption(one.first)}"
        tiles.append(Tile(image, caption, f"A {title}", right, [(f"B {other}", other_right)]))
    return contact_sheet(tiles) if tiles else None


def _verdict(one: Judged) -> tuple[str, bool | None]:
    return f"{_text(one.predicted)}{_share(one.probability)}", one.right


def _share(probability: float) -> str:
    if math.isnan(probability):
        return ""
    return " <1%" if probability < 0.005 else " >99%" if probability > 0.995 else f" {probability:.0%}"


def _text(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _image(values: Mapping[str, Any]) -> bytes | None:
    """Returns the first value that is an image; None if no value is an image."""
    for value in values.values():
        if isinstance(value, bytes):
            try:
                decode_image(value)
            except MeshError:
                continue
            return value
    return None


def _caption(one: Judged) -> str:
    """Returns the texts of a row, except its target; if there are none, returns its key."""
    texts = [value for value in one.values.values() if isinstance(value, str) and value != one.target]
    return " ".join(texts) or one.key
