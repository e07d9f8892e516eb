"""Pictures that tests look at: a scene seen by a camera whose pictures are never quite the same."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image, ImageDraw

from agent.adapters.tflite import load_picture_encoder
from agent.bundle import find_bundle

SIZE = (320, 240)


def scene(seed=0, change=None, *, light=1.0):
    """Return a picture, uint8 [240, 320, 3]: shelves and boxes; `change` draws on it."""
    rng = np.random.default_rng(seed)
    fixed = np.random.default_rng(99)
    picture = Image.new("RGB", SIZE, (90, 100, 110))
    pen = ImageDraw.Draw(picture)
    for _ in range(40):
        x, y = fixed.integers(0, SIZE[0]), fixed.integers(0, SIZE[1])
        wide, high = fixed.integers(10, 60, 2)
        colour = tuple(int(one) for one in fixed.integers(40, 200, 3))
        pen.rectangle((int(x), int(y), int(x + wide), int(y + high)), fill=colour)
    if change is not None:
        change(pen)
    dx, dy = rng.integers(-2, 3, 2)
    pixels = np.roll(np.asarray(picture, np.float32), (int(dy), int(dx)), (0, 1))
    noisy = light * (1 + rng.normal(0, 0.02)) * pixels + rng.normal(0, 4, pixels.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8)


def lorry(pen):
    """Draw what does not belong there."""
    pen.ellipse((150, 60, 260, 190), fill=(250, 30, 30))
    for step in range(8):
        pen.line((150, 60 + 16 * step, 260, 190 - 16 * step), fill=(255, 255, 0), width=3)


def encoded(pixels, kind="JPEG"):
    """Return a picture as a file's bytes."""
    made = io.BytesIO()
    Image.fromarray(pixels).save(made, kind, **({"quality": 90} if kind == "JPEG" else {}))
    return made.getvalue()


@cache
def encoder():
    """Return one variant on one runtime, whichever is fastest here: figures are the same everywhere."""
    return load_picture_encoder(find_bundle("efficientnet-lite0"), "ai-edge-litert", "efficientnet-lite0.int8.tflite")
