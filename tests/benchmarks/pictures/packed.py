"""How odd fresh pictures look beside references that were packed: without loss, and as JPEG of some qualities.

`python -m tests.benchmarks.pictures.packed` prints a line for each: bytes of a picture, and how many of fresh ones of
the same scene get a p-value of at most 1 % and 10 %: why the agent keeps pictures without loss.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from agent.adapters.picture_files import pack, unpack
from agent.adapters.pictures import PictureDecoder
from agent.config import ImageSettings
from agent.core.picture_settings import PictureDetectorSettings, PictureReferenceSettings
from agent.core.pictures import PictureDetector
from agent.core.types import Frame, Mode
from tests.scenes import encoded, encoder, scene

REFERENCES, FRESH = 300, 500
QUALITIES = (None, 98, 95, 90, 80)


def packed(pixels, quality):
    """Return a picture as it is read again, and its size; None: as the agent keeps it, without loss."""
    if quality is None:
        content = pack(pixels)
        return unpack(content), len(content)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling=0)
    with Image.open(file) as again:
        return np.array(again.convert("RGB")), file.tell()


def shares(frames, quality):
    """Return the bytes of a packed picture, and the shares of fresh pictures with p <= .01 and p <= .1."""
    reference = PictureReferenceSettings(size=REFERENCES, warm_up=REFERENCES)
    detector = PictureDetector(PictureDetectorSettings(mode=Mode.FROZEN, reference=reference), encoder().output_shapes)
    size, found = 0, []
    for frame in frames:
        pixels = frame.pixels
        if detector.learning_left:
            pixels, each = packed(pixels, quality)
            size += each
        given = Frame(frame.at, pixels)
        made = detector.push(given, [one[0] for one in encoder().run(detector.prepare(given)[None])])
        if made is not None:
            found.append(made.p_value)
    return size / REFERENCES, np.mean(np.array(found) <= 0.01), np.mean(np.array(found) <= 0.1)


def main():
    """Print a line for each quality."""
    height, width, _ = encoder().shape
    decoder = PictureDecoder(ImageSettings(name="gate", topic="gate"), height, width, 1_000_000)
    frames = [decoder.decode(encoded(scene(number)), float(number))[0] for number in range(REFERENCES + FRESH)]
    print("quality  kB each  p <= .01  p <= .1")
    for quality in QUALITIES:
        size, rare, less_rare = shares(frames, quality)
        print(f"{quality or 'no loss':>7}  {size / 1000:7.1f}  {rare:8.3f}  {less_rare:7.3f}", flush=True)


if __name__ == "__main__":
    main()
