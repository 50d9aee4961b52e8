"""The registry's resource names for watermarks, which contain the ids that marks carry."""


def watermark_name(watermark_id: int) -> str:
    """Returns the resource name of a watermark."""
    return f"watermarks/{watermark_id:012x}"


def parse_watermark_name(name: str) -> int:
    """Returns the id in the resource name of a watermark."""
    return int(name.removeprefix("watermarks/"), 16)
