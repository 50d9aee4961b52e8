"""Draws contact sheets: pictures in rows, each with a caption and, if a model has judged it, a tick or a cross."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from deepseek.data.media import decode_image

TILE_PX, TEXT_PX, COLUMNS = 192, 64, 5
_MAX_LINES = 2
_TITLE_PX = 24


@dataclass(frozen=True)
class Tile:
    """One picture of a sheet.

    Attributes:
        image: PNG, JPEG or WebP file.
        caption: Text below the picture, shortened to two lines.
        title: Text below the caption, in a larger font.
        right: Whether the title is right, shown as a tick or a cross; None if there is nothing to judge.
        others: Further titles below, each with whether it is right.
    """

    image: bytes
    caption: str
    title: str = ""
    right: bool | None = None
    others: Sequence[tuple[str, bool | None]] = ()


def contact_sheet(tiles: Sequence[Tile]) -> Image.Image:
    """Returns the picture of the tiles, in rows of COLUMNS."""
    rows = -(-len(tiles) // COLUMNS)
    height = TILE_PX + TEXT_PX + _TITLE_PX * max((len(tile.others) for tile in tiles), default=0)
    sheet = Image.new("RGB", (COLUMNS * TILE_PX, max(1, rows) * height), "white")
    draw = ImageDraw.Draw(sheet)
    font, large = ImageFont.load_default(13), ImageFont.load_default(17)
    for index, tile in enumerate(tiles):
        left, top = index % COLUMNS * TILE_PX, index // COLUMNS * height
        picture = _fitted(decode_image(tile.image), TILE_PX - 8)
        sheet.paste(picture, (left + (TILE_PX - picture.width) // 2, top + (TILE_PX - picture.height) // 2))
        for line, text in enumerate(_wrap(draw, tile.caption, font, TILE_PX - 12)[:_MAX_LINES]):
            draw.text((left + 6, top + TILE_PX + line * 16), text, fill="black", font=font)
        for line, (title, right) in enumerate([(tile.title, tile.right), *tile.others]):
            _draw_title(draw, left + 6, top + TILE_PX + 36 + line * _TITLE_PX, _cut(draw, title, large), right, large)
    return sheet


def _fitted(image: Image.Image, side: int) -> Image.Image:
    """Returns an image whose longer side is `side`. Small images are magnified with visible pixels."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)


def _wrap(draw: ImageDraw.ImageDraw, text: str, font: Any, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font=font) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _cut(draw: ImageDraw.ImageDraw, text: str, font: Any) -> str:
    """Returns a text that fits below a tile, shortened with an ellipsis if necessary."""
    cut = text = text.partition("\n")[0][:80]
    while cut and draw.textlength(cut + "…" * (cut != text), font=font) > TILE_PX - 30:
        cut = cut[:-1]
    return cut + "…" * (cut != text)


def _draw_title(draw: ImageDraw.ImageDraw, x: int, y: int, title: str, right: bool | None, font: Any) -> None:
    colour = "black" if right is None else "#12703a" if right else "#b3261e"
    draw.text((x if right is None else x + 18, y), title, fill=colour, font=font)
    if right is not None:
        _draw_mark(draw, x, y + 4, right, colour)


def _draw_mark(draw: ImageDraw.ImageDraw, x: int, y: int, right: bool, colour: str) -> None:
    """Draws a tick if the title is right, otherwise a cross, for readers who cannot distinguish the colours."""
    if right:
        draw.line([(x, y + 7), (x + 4, y + 12), (x + 13, y)], fill=colour, width=3)
    else:
        draw.line([(x, y), (x + 12, y + 12)], fill=colour, width=3)
        draw.line([(x + 12, y), (x, y + 12)], fill=colour, width=3)
