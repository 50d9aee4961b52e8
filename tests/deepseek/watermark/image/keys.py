"""Keys for the tests of image watermarks."""

from deepseek.watermark.keys import WatermarkKey, derive_key


def a_key(epoch: int = 0) -> WatermarkKey:
    """A key for images."""
    return derive_key(bytes(32), tenant="lab", modality="image", epoch=epoch)
