"""Payloads that hold a picture: bytes in, frames as an encoder takes them out. Pillow decodes; it is an extra.

Nothing that arrives raises anything but PayloadRejected.
"""

from __future__ import annotations

import base64
import io
import math
import warnings
from enum import StrEnum
from typing import Any, Final

import numpy as np

from agent.adapters.payload import PayloadRejected, RejectReason, TimeSettings, at_path, read_json, read_time
from agent.adapters.picture_region import (
    NEUTRAL,
    ONE_TILE,
    WHOLE,
    Polygon,
    Region,
    Tile,
    cut,
    hide,
    ignored_cells,
    region_problems,
)
from agent.core.types import U8, Bools, Frame, Settings
from agent.errors import ConfigurationError, Problem

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF")
MOST_PIXELS: Final = 150_000_000  # Pillow itself refuses more than 178,956,970
_BASE64_STARTS: Final = (b"/9j/", b"iVBORw0KGg", b"UklGR", b"R0lGOD")  # how the four formats begin in base64
_WHITE: Final = b" \t\r\n"
_ORIENTATION: Final = 0x0112  # EXIF 2.32, table 4
_SHARES: Final = {"WEBP": 0.25}  # of `max_pixels`: libwebp needs 16 bytes for each, the others 4 to 6
_BLOCK_BYTES: Final = 1 << 20  # in which Pillow takes memory for pictures
_KEPT_BLOCKS: Final = 4  # that it keeps for the next ones: pages that were given back have to be made anew
_STRIP: Final = 16  # rows that are made at once of a picture that is far larger than needed
_JPEG: Final = ("JPEG", "MPO")  # the second: JPEG with further pictures behind the first, as some cameras write it


class PictureFormat(StrEnum):
    """How a payload holds its picture."""

    RAW = "raw"
    JSON = "json"


class PictureSettings(Settings, frozen=True, kw_only=True):
    """How a stream's pictures are read, and what of them is looked at.

    `path` and `time` are for JSON. `region` is left, top, right, bottom, `ignore` a list of polygons, `tiles` columns
    and rows; all coordinates are shares of the upright picture.
    """

    format: PictureFormat = PictureFormat.RAW
    path: str = ""
    time: TimeSettings | None = None
    region: Region = WHOLE
    ignore: tuple[Polygon, ...] = ()
    tiles: tuple[int, ...] = ONE_TILE
    max_pixels: int = 20_000_000


def picture_problems(settings: PictureSettings) -> list[Problem]:
    """Return what types cannot say is wrong with these settings; `where` is the key."""
    problems = region_problems(settings.region, settings.ignore, settings.tiles)
    if settings.format is PictureFormat.JSON and not settings.path:
        problems.append(Problem("path", "where in the JSON the picture is, such as image", "none", "add `path:`"))
    if settings.format is not PictureFormat.JSON:
        if settings.path:
            problems.append(Problem("path", "none without format: json", repr(settings.path)))
        if settings.time is not None:
            problems.append(Problem("time", "none without format: json", "one", "the time of arrival counts"))
    if not 1 <= settings.max_pixels <= MOST_PIXELS:
        problems.append(Problem("max_pixels", f"1 to {MOST_PIXELS}", repr(settings.max_pixels)))
    return problems


def require_pillow() -> None:
    """Load Pillow, and have it keep a little memory. Raises ConfigurationError if it is not installed."""
    try:
        # With these four loaded, Pillow does not load its forty others when it meets something else.
        from PIL import (  # noqa: PLC0415  an extra
            GifImagePlugin,  # noqa: F401  as above
            Image,
            JpegImagePlugin,  # noqa: F401  as above
            PngImagePlugin,  # noqa: F401  as above
            WebPImagePlugin,  # noqa: F401  as above
        )
    except ImportError as error:
        raise ConfigurationError(
            [Problem("pictures", "the package pillow", "none", "pip install 'redshank[images]'")]
        ) from error
    Image.core.set_block_size(_BLOCK_BYTES)
    Image.core.set_blocks_max(_KEPT_BLOCKS)


class PictureDecoder:
    """Makes frames of a stream's payloads: one for each tile that is not ignored altogether.

    `tiles` names them, in the order of the frames; `places` are their columns and rows, from 0; `ignored` holds for
    each which cells of the encoder's input are ignored, bool [height, width], or None. Raises ConfigurationError if
    Pillow is not installed or nothing is left.
    """

    def __init__(self, settings: PictureSettings, height: int, width: int, max_bytes: int) -> None:
        require_pillow()
        self._settings = settings
        self._path = settings.path.split(".")
        self._time_path = settings.time.path.split(".") if settings.time else []
        self._size = (width, height)
        self._max_bytes = max_bytes
        left, top, right, bottom = settings.region
        columns, rows = settings.tiles
        self._needed = (width * columns / (right - left), height * rows / (bottom - top))
        self._parts: list[tuple[Tile, Bools | None]] = []
        self.places: list[tuple[int, int]] = []
        for index, tile in enumerate(cut(settings.region, settings.tiles)):
            ignored = ignored_cells(settings.ignore, tile.box, height, width)
            if not ignored.all():
                self._parts.append((tile, ignored if ignored.any() else None))
                self.places.append((index % columns, index // columns))
        if not self._parts:
            raise ConfigurationError([Problem("ignore", "that something of the region is left", "nothing")])
        self.tiles = tuple(tile.name for tile, _ in self._parts)
        self.ignored = tuple(ignored for _, ignored in self._parts)

    def decode(self, payload: bytes, received_at: float) -> list[Frame]:
        """Return a frame for each of `tiles`, not to be written to. Raises PayloadRejected.

        Each is stretched to the encoder's input, whatever its aspect ratio. What is ignored is grey: 127.
        """
        if len(payload) > self._max_bytes:
            raise PayloadRejected(RejectReason.TOO_LARGE)
        at, content = received_at, payload
        if self._settings.format is PictureFormat.JSON:
            document = read_json(payload)
            if self._settings.time is not None:
                at = read_time(self._settings.time, at_path(document, self._time_path), received_at)
            text = at_path(document, self._path)
            if not isinstance(text, str) or not text:
                raise PayloadRejected(RejectReason.NO_VALUES)
            content = text.encode("ascii", "replace")
        picture = open_picture(picture_file(content), self._settings.max_pixels, self._needed)
        hide(picture, self._settings.ignore)
        return [Frame(at, self._pixels(picture, tile.box, ignored)) for tile, ignored in self._parts]

    def _pixels(self, picture: Any, box: Region, ignored: Bools | None) -> U8:
        from PIL import Image  # noqa: PLC0415  an extra

        left, right = _whole(box[0], box[2], picture.width)
        top, bottom = _whole(box[1], box[3], picture.height)
        if (left, top, right, bottom) != (0, 0, *picture.size):
            picture = picture.crop((left, top, right, bottom))  # a filter would reach beyond it
        # Pillow's bilinear filter averages all that goes into a pixel; it is what encoders are calibrated with.
        pixels = np.asarray(picture.resize(self._size, Image.Resampling.BILINEAR))
        return pixels if ignored is None else np.where(ignored[:, :, None], np.uint8(NEUTRAL), pixels)


def _whole(begin: float, end: float, size: int) -> tuple[int, int]:
    """Return the whole pixels between two shares of a side: from, to; at least one."""
    first = min(round(begin * size), size - 1)
    return first, max(round(end * size), first + 1)


def picture_file(content: bytes) -> bytes:
    """Return a picture file that may be written as base64 or as a data URL (RFC 2397). Raises PayloadRejected."""
    content = content.lstrip(_WHITE)
    if content[:5].lower() == b"data:":
        head, _, content = content.partition(b",")
        if not head.lower().endswith(b";base64"):
            raise PayloadRejected(RejectReason.MALFORMED)
    elif not content.startswith(_BASE64_STARTS):
        return content
    try:
        return base64.b64decode(content.translate(None, _WHITE), validate=True)
    except ValueError:
        raise PayloadRejected(RejectReason.MALFORMED) from None


def open_picture(content: bytes, max_pixels: int, needed: tuple[float, float] | None = None) -> Any:
    """Return the first picture of a file as Pillow's, RGB and upright. Raises PayloadRejected.

    Where `needed` (width, height) is given, a JPEG that is at least twice as large is decoded at a half, a quarter or
    an eighth of its size, and what is then at least four times as wide or as high is shrunk, to no less than twice.
    Colour profiles are not heeded.
    """
    from PIL import Image  # noqa: PLC0415  an extra

    try:
        with warnings.catch_warnings(action="ignore"):  # of what is odd in a file
            return _load(content, max_pixels, needed)
    except PayloadRejected:
        raise
    except (Image.DecompressionBombError, MemoryError):
        raise PayloadRejected(RejectReason.TOO_LARGE) from None
    except Exception:  # noqa: BLE001  Pillow raises whatever its parsers stumble over: SyntaxError, struct.error ...
        raise PayloadRejected(RejectReason.MALFORMED) from None


def _load(content: bytes, max_pixels: int, needed: tuple[float, float] | None) -> Any:
    from PIL import Image  # noqa: PLC0415  an extra

    picture = Image.open(io.BytesIO(content), formats=FORMATS)
    if picture.width * picture.height > max_pixels * _SHARES.get(picture.format, 1.0):
        raise PayloadRejected(RejectReason.TOO_LARGE)
    if needed is not None and picture.format in _JPEG:
        picture.draft(None, _as_stored(needed, _orientation(picture)))
    picture.load()
    orientation = _orientation(picture)  # of a PNG, known only now
    width, height = _as_stored(needed, orientation) if needed is not None else picture.size
    return _upright(_shrunk(picture, picture.width // width // 2, picture.height // height // 2), orientation)


def _as_stored(upright: tuple[float, float], orientation: int) -> tuple[int, int]:
    width, height = (max(1, math.ceil(one)) for one in upright)
    return (height, width) if orientation > 4 else (width, height)  # noqa: PLR2004  5 to 8 swap rows and columns


def _shrunk(picture: Any, across: int, down: int) -> Any:
    """Return a picture as RGB, each pixel the mean of `across` x `down`: strip by strip, to need less memory."""
    from PIL import Image  # noqa: PLC0415  an extra

    if max(across, down) <= 1:
        return _rgb(picture)
    factors = max(1, across), max(1, down)
    made = Image.new("RGB", (-(-picture.width // factors[0]), -(-picture.height // factors[1])))
    for row in range(0, made.height, _STRIP):
        bottom = min(picture.height, (row + _STRIP) * factors[1])
        strip = picture.crop((0, row * factors[1], picture.width, bottom))
        made.paste(_rgb(strip).reduce(factors), (0, row))
    return made


def _rgb(picture: Any) -> Any:
    """Return a decoded picture as RGB; what is transparent stands before grey, and 16 bits become the upper 8."""
    from PIL import Image  # noqa: PLC0415  an extra

    if picture.mode.startswith("I"):  # 16 bit grey: `I;16`, before Pillow 11 `I`
        return Image.fromarray((np.asarray(picture).astype(np.int32) >> 8).astype(np.uint8)).convert("RGB")
    if picture.mode in ("LA", "PA", "RGBA") or "transparency" in picture.info:
        clear = picture.convert("RGBA")
        made = Image.new("RGB", clear.size, (NEUTRAL,) * 3)
        made.paste(clear, mask=clear.getchannel("A"))
        return made
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _orientation(picture: Any) -> int:
    """Return 1 to 8 as EXIF says, or 1 where that cannot be read."""
    try:
        found = picture.getexif().get(_ORIENTATION, 1)
    except Exception:  # noqa: BLE001  as above; what cameras write beside a picture does not make it useless
        return 1
    return found if isinstance(found, int) and 1 <= found <= 8 else 1  # noqa: PLR2004  as EXIF says


def _upright(picture: Any, orientation: int) -> Any:
    from PIL import Image  # noqa: PLC0415  an extra

    turn = Image.Transpose
    way = {
        2: turn.FLIP_LEFT_RIGHT,
        3: turn.ROTATE_180,
        4: turn.FLIP_TOP_BOTTOM,
        5: turn.TRANSPOSE,
        6: turn.ROTATE_270,
        7: turn.TRANSVERSE,
        8: turn.ROTATE_90,
    }.get(orientation)
    return picture if way is None else picture.transpose(way)
