"""Pictures for people, as PNG: the region that is looked at, heat over a picture, pictures side by side."""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np

from agent.adapters.picture_region import WHOLE, cut, to_pixels
from agent.adapters.pictures import PictureSettings, open_picture, picture_file, require_pillow
from agent.core.types import F32, U8

_LONGEST_SIDE: Final = 1600  # px
_GAP: Final = 8
_CAPTION: Final = 14
_PAPER: Final = (255, 255, 255)
_INK: Final = (20, 20, 20)
_REGION: Final = (255, 200, 0)
_IGNORED: Final = (220, 40, 140)
_DIMMED: Final = 0.35
# The upper part of matplotlib's inferno: lightness rises evenly, and it reads without telling red from green.
_COLOURS: Final = np.array(
    [(87, 16, 110), (136, 34, 106), (186, 54, 85), (227, 89, 51), (249, 140, 10), (249, 201, 50), (252, 255, 164)],
    dtype=np.float64,
)
_COOL: Final = 0.25  # heat below this is not shown
_WARM: Final = 0.6  # from here on it covers the picture most
_OPAQUE: Final = 0.7
_FADED: Final = 0.7  # how much of its own colour the picture loses, so that heat is the colour that is seen
_LUMA: Final = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def draw(content: bytes, settings: PictureSettings) -> bytes:
    """Return a picture file with its region, its tiles and what is ignored drawn over it, at most 1600 pixels wide.

    Raises PayloadRejected, and ConfigurationError if Pillow is not installed.
    """
    require_pillow()
    from PIL import Image, ImageDraw  # noqa: PLC0415  an extra

    picture = open_picture(picture_file(content), settings.max_pixels)
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    width, height = picture.size
    left, top, right, bottom = _rectangle(settings.region, width, height)
    inside = Image.new("L", picture.size, round(255 * _DIMMED))
    ImageDraw.Draw(inside).rectangle((left, top, right, bottom), fill=255)
    made = Image.composite(picture, Image.new("RGB", picture.size), inside)
    veil = made.copy()
    for polygon in settings.ignore:
        ImageDraw.Draw(veil).polygon(to_pixels(polygon, WHOLE, width, height), fill=_IGNORED)
    made = Image.blend(made, veil, 0.5)
    pen = ImageDraw.Draw(made)
    for polygon in settings.ignore:
        corners = to_pixels(polygon, WHOLE, width, height)
        pen.line([*corners, corners[0]], fill=_IGNORED, width=2)
    tiles = cut(settings.region, settings.tiles)
    for tile in tiles:
        box = _rectangle(tile.box, width, height)
        pen.rectangle(box, outline=_REGION, width=1)
        if len(tiles) > 1:
            _label(pen, (box[0] + 3, box[1] + 3), tile.name.removeprefix("tile "))
    pen.rectangle((left, top, right, bottom), outline=_REGION, width=3)
    return _png(made)


def heatmap_png(pixels: U8, heat: F32) -> bytes:
    """Return `pixels`, uint8 [height, width, 3], with heat over them: float32 [rows, columns], 0 to 1, any size.

    Heat is drawn smoothly (bicubic) in colours from purple to yellow, and not at all below a quarter; NaN is none. The
    picture's own colours are faded.
    """
    from PIL import Image  # noqa: PLC0415  an extra

    height, width = pixels.shape[:2]
    known = np.nan_to_num(heat, nan=0.0).astype(np.float32).clip(0.0, 1.0)
    smooth = np.asarray(Image.fromarray(known).resize((width, height), Image.Resampling.BICUBIC)).clip(0.0, 1.0)
    stops = np.linspace(_COOL, 1.0, len(_COLOURS))
    colour = np.stack([np.interp(smooth, stops, one) for one in _COLOURS.T], axis=-1)
    weight = ((smooth - _COOL) / (_WARM - _COOL)).clip(0.0, 1.0)[:, :, None] * _OPAQUE
    grey = pixels @ _LUMA
    ground = pixels * (1.0 - _FADED) + grey[:, :, None] * _FADED
    mixed = ground * (1.0 - weight) + colour * weight
    return _png(Image.fromarray(mixed.round().astype(np.uint8)))


def contact_sheet(images: list[tuple[str, U8]]) -> bytes:
    """Return pictures, each a caption and uint8 [height, width, 3], side by side; at least one."""
    from PIL import Image, ImageDraw, ImageFont  # noqa: PLC0415  an extra

    font = ImageFont.load_default(_CAPTION)
    line = 2 * _CAPTION
    width = sum(one.shape[1] for _, one in images) + _GAP * (len(images) + 1)
    sheet = Image.new("RGB", (width, max(one.shape[0] for _, one in images) + line + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    x = _GAP
    for caption, one in images:
        pen.text((x, line / 2), _shortened(caption, one.shape[1], font), fill=_INK, font=font, anchor="lm")
        sheet.paste(Image.fromarray(one), (x, line))
        x += one.shape[1] + _GAP
    return _png(sheet)


def _shortened(caption: str, width: int, font: Any) -> str:
    """Return as much of one line as fits into `width` pixels."""
    text = " ".join(caption.split())
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _rectangle(box: tuple[float, ...], width: int, height: int) -> tuple[int, int, int, int]:
    """Return the first and last pixels of a part of a picture."""
    left, top, right, bottom = box
    return int(left * width), int(top * height), max(0, int(right * width) - 1), max(0, int(bottom * height) - 1)


def _label(pen: Any, at: tuple[int, int], text: str) -> None:
    from PIL import ImageFont  # noqa: PLC0415  an extra

    font = ImageFont.load_default(_CAPTION)
    left, top, right, bottom = pen.textbbox(at, text, font=font)
    pen.rectangle((left - 2, top - 2, right + 2, bottom + 2), fill=_INK)
    pen.text(at, text, fill=_REGION, font=font)


def _png(picture: Any) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG")
    return out.getvalue()
