from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from agent.adapters.payload import PayloadRejected
from agent.adapters.picture_drawing import contact_sheet, draw, heatmap_png
from agent.adapters.pictures import PictureSettings

YELLOW, PINK = np.array([255, 200, 0]), np.array([220, 40, 140])


def opened(content):
    picture = Image.open(io.BytesIO(content))
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    return np.asarray(picture).astype(int)


def plain(width, height, colour):
    out = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(out, "PNG")
    return out.getvalue()


def test_region_tiles_and_what_is_ignored_are_drawn_over_the_picture():
    ignored = ((0.6, 0.6), (0.8, 0.6), (0.8, 0.8), (0.6, 0.8))
    settings = PictureSettings(region=(0.25, 0.25, 1.0, 1.0), tiles=(3, 1), ignore=(ignored,))
    found = opened(draw(plain(400, 200, (100, 200, 100)), settings))
    assert found.shape == (200, 400, 3)
    assert np.abs(found[20, 20] - [35, 70, 35]).max() <= 1  # outside of the region
    assert (found[100, 150] == [100, 200, 100]).all()
    assert np.abs(found[140, 280] - (np.array([100, 200, 100]) + PINK) / 2).max() <= 1
    for column in (100, 200, 300, 399):
        assert (found[195, column] == YELLOW).all()
    assert (found[50, 250] == YELLOW).all()
    assert (found[55:70, 203:225] == [20, 20, 20]).all(axis=-1).any()  # the name's ground


def test_a_large_picture_is_drawn_smaller():
    assert opened(draw(plain(4000, 1000, (9, 9, 9)), PictureSettings())).shape == (400, 1600, 3)


def test_what_is_no_picture_is_not_drawn():
    with pytest.raises(PayloadRejected):
        draw(b"no picture", PictureSettings())


def test_heat_is_drawn_where_it_is_and_the_picture_stays_where_it_is_not():
    pixels = np.full((96, 128, 3), 100, dtype=np.uint8)
    heat = np.zeros((6, 8), dtype=np.float32)
    heat[2:4, 5:7] = 1.0
    found = opened(heatmap_png(pixels, heat))
    assert found.shape == (96, 128, 3)
    assert (found[:, :60] == 100).all()
    assert (found[80:] == 100).all()
    red, green, blue = found[48, 96]
    assert red > 200
    assert green > 190
    assert blue < 160


def test_hotter_is_lighter_and_what_is_cool_is_not_shown():
    pixels = np.full((40, 400, 3), 127, dtype=np.uint8)
    heat = np.linspace(0.0, 1.0, 50, dtype=np.float32)[None].repeat(5, axis=0)
    lightness = opened(heatmap_png(pixels, heat))[20] @ [0.299, 0.587, 0.114]
    assert np.abs(lightness[:95] - 127).max() < 1
    assert (np.diff(lightness[240:395:5]) > 0).all()
    assert lightness[395] > 190


def test_the_picture_under_heat_keeps_its_lightness_and_little_colour():
    pixels = np.full((8, 8, 3), (200, 50, 50), dtype=np.uint8)
    found = opened(heatmap_png(pixels, np.zeros((2, 2), dtype=np.float32)))[4, 4]
    assert found @ [0.299, 0.587, 0.114] == pytest.approx(pixels[0, 0] @ [0.299, 0.587, 0.114], abs=1)
    assert 20 < found[0] - found[1] < 60


def test_unknown_heat_is_none_and_heat_beyond_the_range_is_its_end():
    pixels = np.full((32, 32, 3), 80, dtype=np.uint8)
    unknown = np.full((4, 4), np.nan, dtype=np.float32)
    assert heatmap_png(pixels, unknown) == heatmap_png(pixels, np.zeros((4, 4), dtype=np.float32))
    most = heatmap_png(pixels, np.full((4, 4), 7.0, dtype=np.float32))
    assert most == heatmap_png(pixels, np.ones((4, 4), dtype=np.float32))
    assert most != heatmap_png(pixels, np.full((4, 4), -3.0, dtype=np.float32))


def test_pictures_stand_side_by_side_below_their_captions():
    first, second = np.full((50, 60, 3), 90, dtype=np.uint8), np.full((80, 100, 3), 200, dtype=np.uint8)
    found = opened(contact_sheet([("now", first), ("usual", second)]))
    assert found.shape == (28 + 80 + 8, 8 + 60 + 8 + 100 + 8, 3)
    assert (found[28:78, 8:68] == 90).all()
    assert (found[28:108, 76:176] == 200).all()
    assert (found[78:108, 8:68] == 255).all()
    for columns in (slice(8, 68), slice(76, 176)):
        assert found[:28, columns].min() < 60
    assert (found[:28, :8] == 255).all()


@pytest.mark.parametrize(
    "caption", ["a caption that is much too long for its picture", "two\nlines of caption", "Ünïcode ✓ \0"]
)
def test_a_caption_stays_above_its_own_picture(caption):
    picture = np.full((40, 80, 3), 90, dtype=np.uint8)
    found = opened(contact_sheet([(caption, picture), ("", picture)]))
    assert found[:28, 8:88].min() < 60
    assert (found[:5] == 255).all()  # one line
    assert (found[:28, 90:] == 255).all()
    assert (found[28:68, 8:88] == 90).all()
