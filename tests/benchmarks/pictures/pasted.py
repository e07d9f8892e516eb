"""`python -m tests.benchmarks.pictures.pasted`: where is heat, by defects that are pasted on normal pictures.

A fifth of the reference is held out, the rest is streamed through the detector. Each kind of defect is put on held-out
pictures at random places; nothing of the tested pictures or their masks is seen. What heat is made of is chosen by it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from agent.core.types import F32, F64, U8, Bools
from tests.benchmarks.pictures.drive import Driver, models
from tests.benchmarks.pictures.measures import auroc, enlarged
from tests.benchmarks.pictures.sets import SIDE, Scene, digits, missing, tiles
from tests.benchmarks.tables import table

KINDS = ("spot", "scar", "piece", "contrast", "brightness", "texture", "noise")
EACH = 40  # of a kind
_HELD = 5  # every so many pictures one is held out
_DIGITS = (3, 8)
_STEP = 4  # pixels; masks are ranked at every so many


def pasted(kind: str, picture: U8, other: U8, rng: np.random.Generator) -> tuple[U8, Bools]:
    """Return a picture, uint8 [SIDE, SIDE, 3], with a defect, of `other` where it needs one, and its mask."""
    before = picture.astype(np.float32)
    if kind in {"spot", "scar"}:
        mask = _drawn(kind, rng)
        after = before + _soft(mask, 1.0) * rng.choice([-1, 1]) * rng.uniform(25, 80)
    elif kind == "piece":
        (width, height), mask = rng.integers(14, 70, 2), np.zeros((SIDE, SIDE), np.bool_)
        (right, down), (x, y) = rng.integers(0, SIDE - 70, 2), rng.integers(0, SIDE - 70, 2)
        mask[down : down + height, right : right + width] = True
        piece = other[y : y + height, x : x + width].astype(np.float32)
        after = before.copy()
        after[mask] = ((piece - piece.mean()) * rng.uniform(0.6, 1.6) + piece.mean()).reshape(-1, 3)
    else:
        mask = _region(rng)
        share = _soft(mask, 3.0)
        after = before * (1.0 - share) + _altered(kind, picture, other, rng) * share
    return np.clip(np.rint(after), 0, 255).astype(np.uint8), mask


def _altered(kind: str, picture: U8, other: U8, rng: np.random.Generator) -> F32:
    before, flat = picture.astype(np.float32), _blurred(picture)
    if kind == "contrast":
        return flat + (before - flat) * np.float32(rng.choice([0.3, 0.5, 1.8, 2.5]))
    if kind == "brightness":
        return before + np.float32(rng.choice([-1, 1]) * rng.uniform(15, 45))
    if kind == "texture":
        turned = np.ascontiguousarray(np.rot90(other, rng.integers(1, 4)))
        return flat + (turned - _blurred(turned)) * np.float32(rng.uniform(1.0, 1.8))
    return before + rng.normal(0, rng.uniform(8, 25), (SIDE, SIDE, 1)).astype(np.float32)


def _drawn(kind: str, rng: np.random.Generator) -> Bools:
    canvas = Image.new("L", (SIDE, SIDE))
    draw = ImageDraw.Draw(canvas)
    x, y = rng.uniform(20, SIDE - 20, 2)
    if kind == "spot":
        a, b = rng.uniform(4, 16, 2)
        draw.ellipse([x - a, y - b, x + a, y + b], fill=255)
    else:
        turn, points = rng.uniform(0, 2 * np.pi), [(x, y)]
        for _ in range(rng.integers(3, 9)):
            turn += rng.normal(0, 0.4)
            x, y = x + 12 * np.cos(turn), y + 12 * np.sin(turn)
            points.append((x, y))
        draw.line(points, fill=255, width=int(rng.integers(2, 6)))
    return np.asarray(canvas) > 0


def _region(rng: np.random.Generator) -> Bools:
    """Return an irregular region of 3 to 40 % of a picture."""
    cells = int(rng.integers(3, 6))
    coarse = Image.fromarray(rng.normal(size=(cells, cells)).astype(np.float32))
    smooth = np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return np.asarray(smooth > np.quantile(smooth, 1.0 - rng.uniform(0.03, 0.4)))


def _soft(mask: Bools, deviation: float) -> F32:
    image = Image.fromarray((mask * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(deviation))
    return np.asarray(image, np.float32)[..., None] / np.float32(255)


def _blurred(picture: U8) -> F32:
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(6)), np.float32)


def ranked(scene: Scene, driver: Driver, rng: np.random.Generator) -> dict[str, float]:
    """Return the AUROC of pixels by kind, their mean, and that of all at once."""
    held = scene.reference[::_HELD]
    known = [place for number, place in enumerate(scene.reference) if number % _HELD]
    for place in known:
        driver.push(scene.pictures[place])

    def heat(picture: U8) -> F64:
        return enlarged(driver.detector.heat(driver.encode(picture)), SIDE // _STEP)

    clean = np.array([heat(scene.pictures[place]) for place in held]).ravel()
    hot, cold, found = [], [clean], {}
    for kind in KINDS:
        made = [
            pasted(kind, scene.pictures[int(rng.choice(held))], scene.pictures[int(rng.choice(known))], rng)
            for _ in range(EACH)
        ]
        heats = np.array([heat(picture) for picture, _ in made])
        masks = np.array([mask[_STEP // 2 :: _STEP, _STEP // 2 :: _STEP] for _, mask in made])
        found[kind] = auroc(np.concatenate([clean, heats[~masks]]), heats[masks])
        hot.append(heats[masks])
        cold.append(heats[~masks])
    return {
        **found,
        "mean": float(np.mean(list(found.values()))),
        "all at once": auroc(np.concatenate(cold), np.concatenate(hot)),
    }


def main() -> int:
    """Run and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pictures.pasted", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with magnetic_tile and mnist")
    wanted = parser.parse_args()
    problem = missing(wanted.data)
    if problem:
        print(problem, file=sys.stderr)
        return 2
    model = min(models().values(), key=lambda one: one.seconds_per_input(1))
    scenes = [tiles(wanted.data), *(digits(wanted.data)[digit] for digit in _DIGITS)]
    found = {scene.name: ranked(scene, Driver(model), np.random.default_rng(0)) for scene in scenes}
    rows = [[name, *(f"{value:.3f}" for value in by_kind.values())] for name, by_kind in found.items()]
    print(f"Pixel AUROC of pasted defects ({model.runtime})", table(["set", *found["tile"]], rows), sep="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
