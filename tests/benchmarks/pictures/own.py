"""`python -m tests.benchmarks.pictures.own`: the Keras example of docs/own-encoder.md on MNIST.

Every second picture of the 10,000 trains the network, or gives the ranges of int8. Of the others, for each digit 300
are the reference; the rest of it and 50 of each other digit are scored. Needs `redshank[converter,keras]`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from agent.adapters.tflite import TfliteModel, load_picture_encoder
from agent.bundle import load_bundle
from tests.benchmarks.pictures.drive import Driver
from tests.benchmarks.pictures.ranking import features, rank
from tests.benchmarks.pictures.sets import Pictures, Scene, missing
from tests.benchmarks.tables import table
from tests.pages import OWN, commands_of, files_of, run

REFERENCES, OTHERS = 300, 50
RANGES = 80  # every so many of those for training


def build(images: np.ndarray, labels: np.ndarray, folder: Path) -> None:
    """Do in a folder what the page says, with these digits, uint8 [n, 28, 28], up to the bundle."""
    for name, content in files_of(OWN).items():
        (folder / name).write_text(content)
    np.savez(folder / "digits.npz", images=images, labels=labels)
    (folder / "normal").mkdir()
    for place in range(0, len(images), RANGES):
        Image.fromarray(images[place]).save(folder / "normal" / f"{place:05}.png")
    for words in commands_of(OWN)[1][:3]:
        run(words, folder)


def scenes(images: np.ndarray, labels: np.ndarray, side: int) -> list[Scene]:
    """Return a scene for each digit as the normal one."""
    pictures = Pictures(list(images), side)
    places = [np.flatnonzero(labels == digit).tolist() for digit in range(10)]
    made = []
    for digit, own in enumerate(places):
        odd = [place for other in range(10) if other != digit for place in places[other][:OTHERS]]
        made.append(Scene(f"digit {digit}", pictures, own[:REFERENCES], own[REFERENCES:], odd, []))
    return made


def ranked(model: TfliteModel, found: list[Scene], bar: tqdm) -> list[str]:
    """Return a row of the table: the mean AUROC by patches, as a whole, and by both."""
    rows = []
    for scene in found:
        driver = Driver(model)
        rows.append(rank(scene, driver, features(scene, driver, None, bar.update)))
    means = [f"{np.mean([row[name] for row in rows]):.3f}" for name in ("patches", "whole", "both")]
    return [model.name, model.runtime, *means, f"{1e3 * model.seconds_per_input(1):.2f}"]


def main() -> int:
    """Run and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.pictures.own", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with magnetic_tile and mnist")
    data = parser.parse_args().data
    problem = missing(data)
    if problem:
        print(problem, file=sys.stderr)
        return 2
    with np.load(data / "mnist" / "mnist_10k.npz") as file:
        images, labels = file["images"], file["labels"]
    with tempfile.TemporaryDirectory() as folder, tqdm(leave=False, unit=" pictures") as bar:
        build(images[::2], labels[::2], Path(folder))
        model = load_picture_encoder(load_bundle(Path(folder) / "digits"))
        row = ranked(model, scenes(images[1::2], labels[1::2], model.shape[0]), bar)
    print(table(["encoder", "runtime", "AUROC by patches", "as a whole", "both", "ms"], [row]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
