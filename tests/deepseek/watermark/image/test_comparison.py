"""Pictures that compare an image with its marked copy, or show a region."""

import numpy as np

from deepseek.watermark.image.comparison import GAIN, mark_picture, region_picture
from deepseek.watermark.image.detector import Region
from tests.harness.images import photograph


def test_original_marked_image_and_amplified_difference_are_side_by_side() -> None:
    original = photograph(400, 480)
    marked = np.clip(original.astype(int) + 3, 0, 255).astype(np.uint8)
    sheet = np.asarray(mark_picture(original, marked, "marked"))
    panels = [sheet[28 : 28 + 480, left : left + 400] for left in (8, 416, 824)]
    assert (panels[0] == original).all()
    assert (panels[1] == marked).all()
    assert np.median(panels[2]) == 128 + 3 * GAIN
    assert sheet.shape == (28 + 480 + 8, 3 * 408 + 8, 3)


def test_a_frame_surrounds_the_region_and_nothing_else_changes() -> None:
    pixels = photograph(400, 480)
    framed = np.asarray(region_picture(pixels, Region(100, 50, 300, 450)))
    changed = (framed != pixels).any(-1)
    rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
    assert (rows[0], rows[-1] + 1, columns[0], columns[-1] + 1) == (50, 450, 100, 300)
    assert not changed[60:440, 110:290].any()
