from __future__ import annotations

import base64
import io
import json
import struct
import subprocess
import sys
import zlib
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from agent.adapters.payload import PayloadRejected, RejectReason, TimeSettings, TimeUnit
from agent.adapters.picture_region import NEUTRAL
from agent.adapters.pictures import (
    MOST_PIXELS,
    PictureDecoder,
    PictureFormat,
    PictureSettings,
    open_picture,
    picture_problems,
)
from agent.errors import ConfigurationError
from agent.settings_builder import Builder

NOW = 1_700_000_000.0
SIDE = 32
RED, BLUE, GREEN, WHITE = (230, 20, 20), (20, 20, 230), (20, 200, 20), (240, 240, 240)
MORE_THAN_PILLOW_LIKES = 20_000


def written(picture, kind="PNG", **options):
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def halves(left, right, size=(64, 48)):
    picture = Image.new("RGB", size, left)
    picture.paste(right, (size[0] // 2, 0, *size))
    return picture


def quarters(size=(64, 48)):
    picture = halves(RED, BLUE, size)
    picture.paste(GREEN, (0, size[1] // 2, size[0] // 2, size[1]))
    picture.paste(WHITE, (size[0] // 2, size[1] // 2, *size))
    return picture


@cache
def photograph(width, height):
    """Return a picture that has detail at every scale, as photographs have."""
    rng = np.random.default_rng(7)
    total = np.full((height, width, 3), 128.0)
    for cells in (2, 5, 12, 40, 120):
        noise = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += (np.asarray(noise.resize((width, height), Image.Resampling.BICUBIC)) - 128.0) * 0.5
    return Image.fromarray(total.clip(0, 255).astype(np.uint8))


def frames(payload, side=SIDE, limit=10_000_000, **options):
    return PictureDecoder(PictureSettings(**options), side, side, limit).decode(payload, NOW)


def pixels(payload, **options):
    (frame,) = frames(payload, **options)
    assert frame.pixels.shape == (options.get("side", SIDE), options.get("side", SIDE), 3)
    assert frame.pixels.dtype == np.uint8
    return frame.pixels


def reason(payload, **options):
    with pytest.raises(PayloadRejected) as caught:
        frames(payload, **options)
    return caught.value.reason


def assert_quarters(found, colours, tolerance=12.0):
    """Expect the colours in the middle of each quarter, those at the top first."""
    low, high = found.shape[0] // 8, found.shape[0] // 2 - found.shape[0] // 8
    near, far = slice(low, high), slice(-high, -low)
    for (rows, columns), colour in zip(((near, near), (near, far), (far, near), (far, far)), colours, strict=True):
        assert np.abs(found[rows, columns].reshape(-1, 3) - np.array(colour, dtype=float)).max() <= tolerance


def assert_halves(found, left, right, tolerance=12.0):
    assert_quarters(found, (left, right, left, right), tolerance)


@pytest.mark.parametrize(
    ("kind", "mode", "options"),
    [
        ("JPEG", "RGB", {"quality": 95}),
        ("JPEG", "RGB", {"quality": 95, "progressive": True, "subsampling": 2}),
        ("PNG", "RGB", {}),
        ("PNG", "P", {}),
        ("PNG", "RGBA", {}),
        ("WEBP", "RGB", {"lossless": True}),
        ("WEBP", "RGB", {"quality": 95}),
        ("WEBP", "RGBA", {"quality": 95}),
        ("GIF", "P", {}),
    ],
)
def test_colours_survive_each_format(kind, mode, options):
    picture = quarters().convert(mode, palette=Image.Palette.ADAPTIVE)
    assert_quarters(pixels(written(picture, kind, **options)), (RED, BLUE, GREEN, WHITE))


def test_inks_become_the_colours_that_they_print():
    inks = Image.new("CMYK", (64, 48), (0, 255, 255, 0))  # magenta and yellow are red
    inks.paste((255, 255, 0, 0), (32, 0, 64, 48))
    payload = written(inks, "JPEG", quality=95)
    assert b"Adobe" in payload  # whose CMYK is written inverted
    assert_halves(pixels(payload), (255, 0, 0), (0, 0, 255))


@pytest.mark.parametrize(("kind", "mode"), [("JPEG", "L"), ("PNG", "L"), ("PNG", "LA"), ("GIF", "L"), ("WEBP", "L")])
def test_grey_is_the_same_in_all_three_colours(kind, mode):
    found = pixels(written(halves((40,) * 3, (200,) * 3).convert(mode), kind))
    assert_halves(found, (40,) * 3, (200,) * 3, 3.0)


def test_one_bit_is_black_and_white():
    picture = halves((0,) * 3, (255,) * 3).convert("1")
    assert_halves(pixels(written(picture)), (0,) * 3, (255,) * 3, 0.0)


def test_sixteen_bits_are_scaled_not_clipped():
    grey = np.repeat(np.array([0, 300, 128 * 257, 65535], dtype=np.uint16), 16)[None].repeat(48, axis=0)
    found = pixels(written(Image.fromarray(grey)))
    assert [int(found[16, column, 0]) for column in (4, 12, 20, 28)] == [0, 1, 128, 255]


def clear_halves(mode):
    """Return red on the left, and on the right what cannot be seen through to a bit."""
    picture = halves(RED, BLUE).convert("RGBA")
    picture.paste((20, 20, 230, 0), (32, 0, 64, 48))
    return picture.convert(mode) if mode != "RGBA" else picture


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_what_is_transparent_is_grey(kind):
    assert_halves(pixels(written(clear_halves("RGBA"), kind)), RED, (NEUTRAL,) * 3)
    half = halves((255,) * 3, (255,) * 3).convert("RGBA")
    half.putalpha(128)
    assert_halves(pixels(written(half, kind)), (191,) * 3, (191,) * 3, 2.0)


@pytest.mark.parametrize(
    ("mode", "key"),
    [("RGB", BLUE), ("L", 29), ("P", 1), ("P", b"\xff\x00"), ("1", 0)],
    ids=["rgb", "l", "p", "ps", "1"],
)
def test_a_colour_that_means_transparent_is_grey(mode, key):
    if mode == "P":
        picture = Image.new("P", (64, 48), 0)
        picture.putpalette([*RED, *BLUE])
        picture.paste(1, (32, 0, 64, 48))
    else:
        picture = halves((255,) * 3, BLUE if mode == "RGB" else (29,) * 3).convert(mode, dither=Image.Dither.NONE)
    found = pixels(written(picture, transparency=key))
    left = RED if mode == "P" else (255,) * 3
    assert_halves(found, left, (NEUTRAL,) * 3, 0.0)


def test_transparency_of_gif_is_grey():
    picture = Image.new("P", (64, 48), 0)
    picture.putpalette([*RED, *BLUE])
    picture.paste(1, (32, 0, 64, 48))
    assert_halves(pixels(written(picture, "GIF", transparency=1)), RED, (NEUTRAL,) * 3, 0.0)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_many_pictures_the_first_counts(kind):
    options = {} if kind == "GIF" else {"lossless": True}
    payload = written(quarters(), kind, save_all=True, append_images=[halves(WHITE, RED)] * 2, duration=100, **options)
    assert_quarters(pixels(payload), (RED, BLUE, GREEN, WHITE))


def test_of_a_camera_file_with_several_pictures_the_first_counts():
    first = photograph(640, 480)
    payload = written(first, "MPO", save_all=True, append_images=[halves(WHITE, RED)], quality=95)
    assert Image.open(io.BytesIO(payload)).format == "MPO"
    expected = np.asarray(first.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(float)
    assert np.abs(pixels(payload) - expected).mean() < 3.0
    assert open_picture(payload, MOST_PIXELS, (300, 200)).size == (320, 240)


def turned(picture, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True}
    return written(picture, kind, exif=exif, **options)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_picture_that_lies_on_its_side_is_turned_upright(kind):
    stored = halves(BLUE, RED, (64, 48)).transpose(Image.Transpose.ROTATE_270)  # blue at the top
    found = pixels(turned(stored, 6, kind))  # 6: what is at the top is shown on the right
    assert_halves(found, RED, BLUE)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_every_orientation_is_that_of_exif(kind, orientation):
    payload = turned(quarters((640, 320)), orientation, kind)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(payload))).convert("RGB")
    assert open_picture(payload, MOST_PIXELS).size == upright.size
    expected = np.asarray(upright.resize((SIDE, SIDE), Image.Resampling.BILINEAR)).astype(float)
    assert_quarters(pixels(payload), [expected[row, column] for row in (8, 24) for column in (8, 24)])


@pytest.mark.parametrize("orientation", [0, 9, 60_000])
def test_an_orientation_that_does_not_exist_is_upright(orientation):
    assert_quarters(pixels(turned(quarters(), orientation, "JPEG")), (RED, BLUE, GREEN, WHITE))


BROKEN_EXIF = {
    "cut": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\xff" * 9,
    "nonsense": b"Exif\0\0nonsense",
    "text": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x026\0\0\0\0\0\0\0",
}


@pytest.mark.parametrize("exif", BROKEN_EXIF.values(), ids=BROKEN_EXIF)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_broken_exif_part_does_not_make_a_picture_useless(kind, exif):
    payload = written(quarters(), kind, quality=95, exif=exif)
    assert_quarters(pixels(payload), (RED, BLUE, GREEN, WHITE))


def test_a_large_jpeg_is_decoded_smaller_and_looks_nearly_the_same():
    photo = photograph(1600, 1200)
    payload = written(photo, "JPEG", quality=90)
    assert open_picture(payload, MOST_PIXELS, (224, 224)).size == (400, 300)  # an eighth is too small
    full = np.asarray(Image.open(io.BytesIO(payload)).resize((224, 224), Image.Resampling.BILINEAR), dtype=np.float64)
    found = pixels(payload, side=224)
    assert np.abs(found - full).mean() < 2.0
    assert np.abs(found - full).max() < 25.0


@pytest.mark.parametrize(
    ("needed", "size"), [((224.5, 160), (400, 300)), ((801, 500), (1600, 1200)), ((800, 600), (800, 600))]
)
def test_a_jpeg_is_never_decoded_smaller_than_needed(needed, size):
    assert open_picture(written(photograph(1600, 1200), "JPEG"), MOST_PIXELS, needed).size == size


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "P"), ("WEBP", "RGB")])
@pytest.mark.parametrize("orientation", [1, 6])
def test_any_other_large_picture_is_shrunk_and_looks_nearly_the_same(kind, mode, orientation):
    photo = photograph(1280, 960)
    if mode == "RGBA":
        photo = photo.copy()
        photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    payload = turned(photo.convert(mode), orientation, kind)
    needed, size = ((80, 60), (160, 120)) if orientation == 1 else ((60, 80), (120, 160))
    assert open_picture(payload, MOST_PIXELS, needed).size == size
    full = open_picture(payload, MOST_PIXELS)
    assert full.size == ((1280, 960) if orientation == 1 else (960, 1280))
    expected = np.asarray(full.resize((80, 80), Image.Resampling.BILINEAR), dtype=np.float64)
    assert np.abs(pixels(payload, side=80) - expected).max() < 8.0


@pytest.mark.parametrize(
    ("needed", "size"), [((2000, 80), (1332, 167)), ((100, 2000), (222, 1002)), ((334, 251), (1332, 1002))]
)
def test_width_and_height_are_shrunk_each_as_far_as_it_may_be(needed, size):
    assert open_picture(written(photograph(1332, 1002)), MOST_PIXELS, needed).size == size


def test_what_is_left_over_when_a_picture_is_shrunk_counts_too():
    picture = Image.new("RGB", (1333, 1001), RED)
    picture.paste(BLUE, (1332, 0, 1333, 1001))
    picture.paste(GREEN, (0, 1000, 1332, 1001))
    found = np.asarray(open_picture(written(picture), MOST_PIXELS, (100, 80)))
    assert found.shape == (167, 223, 3)
    assert (found[:-1, -1] == BLUE).all()
    assert (found[-1, :-1] != RED).any(axis=-1).all()
    assert (found[:-1, :-1] == RED).all()


def test_what_is_needed_is_counted_upright():
    payload = turned(photograph(1600, 1200), 6, "JPEG")  # 1200 x 1600 upright
    assert open_picture(payload, MOST_PIXELS, (600, 800)).size == (600, 800)
    assert open_picture(payload, MOST_PIXELS, (800, 600)).size == (1200, 1600)


def test_a_part_of_a_picture_is_decoded_as_fine_as_it_needs(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "agent.adapters.pictures.open_picture", lambda *given: asked.append(given[2]) or Image.new("RGB", (64, 48))
    )
    frames(b"", region=(0.25, 0.0, 0.75, 1.0), tiles=(3, 2), side=100)
    assert asked == [(600.0, 200.0)]


def png_header(width, height):
    """Return a PNG that ends where its pixels should begin."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    header = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + header + struct.pack(">I", 1000) + b"IDAT"


def test_too_many_pixels_are_told_from_the_header():
    assert reason(png_header(5000, 5001), max_pixels=25_000_000) is RejectReason.TOO_LARGE
    assert reason(png_header(5000, 5000), max_pixels=25_000_000) is RejectReason.MALFORMED  # nothing behind the header
    assert reason(png_header(MORE_THAN_PILLOW_LIKES, MORE_THAN_PILLOW_LIKES)) is RejectReason.TOO_LARGE
    assert reason(png_header(10_000, 10_000)) is RejectReason.TOO_LARGE  # Pillow only warns


def test_webp_may_have_a_quarter_of_the_pixels():
    payload = written(quarters(), "WEBP")
    assert frames(payload, max_pixels=64 * 48 * 4)
    assert reason(payload, max_pixels=64 * 48 * 4 - 1) is RejectReason.TOO_LARGE
    assert frames(written(quarters()), max_pixels=64 * 48)


def test_memory_that_is_not_there_is_a_picture_too_large(monkeypatch):
    def fail(*_args):
        raise MemoryError

    monkeypatch.setattr("agent.adapters.pictures._load", fail)
    assert reason(written(quarters())) is RejectReason.TOO_LARGE


def test_bytes_are_counted_before_anything_else():
    payload = written(quarters())
    assert reason(payload, limit=len(payload) - 1) is RejectReason.TOO_LARGE
    assert frames(payload, limit=len(payload))


@pytest.mark.parametrize("kind", ["BMP", "TIFF", "PPM", "ICO", "TGA", "JPEG2000"])
def test_other_formats_are_malformed(kind):
    assert reason(written(quarters(), kind)) is RejectReason.MALFORMED


@pytest.mark.parametrize("payload", [b"", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"\0" * 100, b"on", b"   "])
def test_what_is_no_picture_is_malformed(payload):
    assert reason(payload) is RejectReason.MALFORMED


KINDS = {
    "JPEG": {"quality": 60, "exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
    "PNG": {"transparency": (1, 2, 3)},
    "WEBP": {"quality": 50},
    "GIF": {"transparency": 3},
}


@cache
def sample(kind):
    options = KINDS[kind]
    return written(photograph(64, 48), kind, **options)


@cache
def small_decoder():
    return PictureDecoder(PictureSettings(max_pixels=1_000_000, ignore=(((0, 0), (0.5, 0), (0, 0.5)),)), 8, 8, 100_000)


def decoded_or_rejected(payload):
    try:
        (frame,) = small_decoder().decode(payload, NOW)
    except PayloadRejected:
        return False
    assert frame.pixels.shape == (8, 8, 3)
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_cut_off_is_rejected(kind):
    payload = sample(kind)
    assert decoded_or_rejected(payload)
    assert not any(decoded_or_rejected(payload[:length]) for length in range(0, len(payload) * 9 // 10, 7))
    for length in range(len(payload) * 9 // 10, len(payload)):
        decoded_or_rejected(payload[:length])  # what lacks only its end mark may count


@given(st.sampled_from(sorted(KINDS)), st.data())
@settings(max_examples=300, deadline=None)
def test_damaged_pictures_raise_nothing_else(kind, data):
    payload = bytearray(sample(kind))
    bits = st.integers(0, 8 * min(len(payload), 600) - 1) | st.integers(0, 8 * len(payload) - 1)
    for bit in data.draw(st.lists(bits, min_size=1, max_size=6)):
        payload[bit // 8] ^= 1 << bit % 8
    decoded_or_rejected(bytes(payload[: data.draw(st.none() | st.integers(0, len(payload)))]))


@given(
    st.sampled_from(
        [b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF\x40\0\0\0WEBPVP8 ", b"data:", b"/9j/"]
    ),
    st.binary(max_size=200),
)
@settings(max_examples=300, deadline=None)
def test_random_bytes_raise_nothing_else(start, rest):
    assert not decoded_or_rejected(start + rest)


TEXT = base64.b64encode(written(quarters())).decode()
LINES = "\n".join(TEXT[index : index + 76] for index in range(0, len(TEXT), 76))


@pytest.mark.parametrize(
    "payload",
    [
        TEXT,
        f"  {LINES}\r\n",
        f"data:image/png;base64,{TEXT}",
        f"DATA:image/png;name=a.png;BASE64,{LINES}",
        f"data:;base64,{TEXT}",
    ],
    ids=["base64", "lines", "url", "capitals", "short"],
)
def test_a_picture_as_text_counts_raw_and_in_json(payload):
    assert_quarters(pixels(payload.encode()), (RED, BLUE, GREEN, WHITE))
    document = json.dumps({"camera": [{"jpeg": payload}]}).encode()
    assert_quarters(pixels(document, format=PictureFormat.JSON, path="camera.0.jpeg"), (RED, BLUE, GREEN, WHITE))


@pytest.mark.parametrize("kind", KINDS)
def test_each_format_is_known_as_text(kind):
    assert np.array_equal(pixels(base64.b64encode(sample(kind))), pixels(sample(kind)))


@pytest.mark.parametrize("payload", [f"data:image/png,{TEXT}", "data:", TEXT[:-10], TEXT + "!", "data:a;base64,é"])
def test_broken_text_is_malformed(payload):
    assert reason(payload.encode()) is RejectReason.MALFORMED


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("{", RejectReason.MALFORMED),
        ('{"a": "\\ud800"}', RejectReason.MALFORMED),
        ('{"b": "x"}', RejectReason.NO_VALUES),
        ('{"a": null}', RejectReason.NO_VALUES),
        ('{"a": 7}', RejectReason.NO_VALUES),
        ('{"a": ""}', RejectReason.NO_VALUES),
        ('{"a": "ä"}', RejectReason.MALFORMED),
        ('{"a": "text"}', RejectReason.MALFORMED),
        ("[" * 10_000, RejectReason.TOO_DEEP),
    ],
)
def test_json_without_a_picture_has_its_reason(document, expected):
    assert reason(document.encode(), format=PictureFormat.JSON, path="a") is expected


def test_a_picture_has_the_time_of_its_message_or_of_its_arrival():
    timed = TimeSettings(path="meta.ts", unit=TimeUnit.MS)

    def at(written_time, **options):
        document = json.dumps({"image": TEXT, "meta": {"ts": written_time}}).encode()
        return frames(document, format=PictureFormat.JSON, path="image", **options)[0].at

    assert at(1_699_999_999_500) == NOW
    assert at(1_699_999_999_500, time=timed) == NOW - 0.5
    assert frames(written(quarters()))[0].at == NOW
    for written_time, expected in (("soon", RejectReason.BAD_TIMESTAMP), (1.8e12, RejectReason.FUTURE)):
        with pytest.raises(PayloadRejected) as caught:
            at(written_time, time=timed)
        assert caught.value.reason is expected


def test_only_the_region_is_looked_at():
    payload = written(quarters((640, 480)))
    assert_quarters(pixels(payload, region=(0.0, 0.0, 0.5, 0.5)), (RED,) * 4, 0.0)
    assert_quarters(pixels(payload, region=(0.5, 0.25, 1.0, 0.75)), (BLUE, BLUE, WHITE, WHITE))
    small = written(quarters((2, 2)))
    assert_quarters(pixels(small, region=(0.51, 0.51, 0.52, 0.52)), (WHITE,) * 4, 0.0)


def test_the_region_is_one_of_the_upright_picture():
    stored = quarters((640, 480)).transpose(Image.Transpose.ROTATE_90)
    payload = turned(stored, 6, "JPEG")  # turned by 90 degrees clockwise, it is upright again
    assert_quarters(pixels(payload, region=(0.0, 0.5, 0.5, 1.0)), (GREEN,) * 4)


def test_each_tile_is_a_frame_row_by_row():
    colours = np.arange(6, dtype=np.uint8) * 40
    picture = Image.fromarray(colours.reshape(2, 3)).resize((144, 64), Image.Resampling.NEAREST)
    decoder = PictureDecoder(PictureSettings(tiles=(3, 2)), 16, 24, 100_000)
    found = decoder.decode(written(picture), NOW)
    assert decoder.tiles == ("tile 1,1", "tile 2,1", "tile 3,1", "tile 1,2", "tile 2,2", "tile 3,2")
    assert decoder.ignored == (None,) * 6
    assert [frame.pixels.shape for frame in found] == [(16, 24, 3)] * 6
    assert [(frame.pixels.min(), frame.pixels.max()) for frame in found] == [(one, one) for one in colours]
    assert PictureDecoder(PictureSettings(), 16, 24, 100_000).tiles == ("picture",)


WEDGE = ((0.2, 0.1), (0.7, 0.3), (0.35, 0.8))


def within(size, polygon):
    """Return which pixels have their middle in a triangle, bool [height, width]."""
    x, y = (np.arange(size[0]) + 0.5) / size[0], (np.arange(size[1])[:, None] + 0.5) / size[1]
    turns = [
        (end[0] - begin[0]) * (y - begin[1]) - (end[1] - begin[1]) * (x - begin[0])
        for begin, end in zip(polygon, (*polygon[1:], polygon[0]), strict=True)
    ]
    return np.all([turn > 0 for turn in turns], axis=0)


@pytest.mark.parametrize("size", [(640, 480), (100, 75), (20, 30)])
def test_nothing_that_is_ignored_reaches_the_encoder(size):
    rng = np.random.default_rng(3)
    base = np.asarray(photograph(*size))
    hidden = within(size, WEDGE)
    assert hidden.any()
    changed = base.copy()
    changed[hidden] = rng.integers(0, 256, (int(hidden.sum()), 3))
    before, after = (pixels(written(Image.fromarray(one)), ignore=(WEDGE,), side=64) for one in (base, changed))
    assert np.array_equal(before, after)
    plain = (pixels(written(Image.fromarray(one)), side=64) for one in (base, changed))
    assert not np.array_equal(*plain)


def test_ignored_cells_are_grey_and_known_for_each_tile():
    decoder = PictureDecoder(PictureSettings(ignore=(WEDGE,), tiles=(2, 1), region=(0.0, 0.0, 1.0, 1.0)), 64, 64, 10**7)
    found = decoder.decode(written(photograph(640, 480)), NOW)
    for frame, ignored, left in zip(found, decoder.ignored, (0.0, 0.5), strict=True):
        assert (frame.pixels[ignored] == NEUTRAL).all()
        part = tuple((2 * (x - left), y) for x, y in WEDGE)
        assert ignored[within((64, 64), part)].all()
        assert (frame.pixels[~ignored] == NEUTRAL).all(axis=-1).mean() < 0.05


def test_a_tile_that_is_ignored_altogether_is_not_scored():
    right = ((0.5, 0.0), (1.0, 0.0), (1.0, 1.0), (0.5, 1.0))
    decoder = PictureDecoder(PictureSettings(ignore=(right,), tiles=(2, 1)), 16, 16, 10**6)
    assert decoder.tiles == ("tile 1,1",)
    assert_quarters(decoder.decode(written(halves(RED, BLUE)), NOW)[0].pixels[:, :12], (RED,) * 4, 0.0)
    with pytest.raises(ConfigurationError, match="something of the region is left"):
        PictureDecoder(PictureSettings(ignore=(right,), region=(0.6, 0.0, 1.0, 1.0)), 16, 16, 10**6)


def test_without_pillow_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ConfigurationError, match=r"pillow, found none; pip install 'redshank\[images\]'"):
        PictureDecoder(PictureSettings(), 8, 8, 10)


def test_pillow_is_loaded_only_with_a_decoder_and_never_all_of_it():
    program = """
import sys
from agent.adapters.pictures import PayloadRejected, PictureDecoder, PictureSettings
assert "PIL" not in sys.modules
decoder = PictureDecoder(PictureSettings(), 8, 8, 10**6)
try:
    decoder.decode(b"no picture", 1.0)
except PayloadRejected:
    print(*sys.modules)
"""
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert {"PIL.JpegImagePlugin", "PIL.WebPImagePlugin"} <= set(loaded)
    assert not {"PIL.IcoImagePlugin", "PIL.PsdImagePlugin", "PIL.EpsImagePlugin"} & set(loaded)


def test_settings_are_written_in_yaml_as_documented():
    builder = Builder(
        "file",
        b"""
format: json
path: image
time: {path: ts, unit: iso, zone: Europe/Berlin}
region: [0.1, 0.2, 0.9, 1]
ignore:
  - [[0.1, 0.2], [0.3, 0.2], [0.3, 0.4]]
  - [[0.5, 0.5], [0.7, 0.5], [0.7, 0.7], [0.5, 0.7]]
tiles: [3, 2]
max_pixels: 2000000
""",
    )
    made = builder.build(PictureSettings)
    assert builder.problems == []
    assert made.region == (0.1, 0.2, 0.9, 1.0)
    assert made.ignore[0] == ((0.1, 0.2), (0.3, 0.2), (0.3, 0.4))
    assert len(made.ignore[1]) == 4
    assert made.tiles == (3, 2)
    assert picture_problems(made) == []
    assert picture_problems(PictureSettings()) == []


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({"format": PictureFormat.JSON}, ["path"]),
        ({"path": "a"}, ["path"]),
        ({"time": TimeSettings(path="ts")}, ["time"]),
        ({"max_pixels": 0}, ["max_pixels"]),
        ({"max_pixels": MOST_PIXELS + 1}, ["max_pixels"]),
        ({"region": (0.5, 0.0, 0.4, 1.0), "tiles": (0, 1), "path": "a"}, ["region", "tiles", "path"]),
    ],
)
def test_what_is_wrong_with_settings_is_told_by_key(options, keys):
    assert [problem.where for problem in picture_problems(PictureSettings(**options))] == keys
