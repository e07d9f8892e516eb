"""The scene that the demo of pictures looks at, made of a photograph that comes with matplotlib; and its camera.

The photograph is Grace Hopper's portrait, by the U.S. Navy, and in the public domain:
https://commons.wikimedia.org/wiki/File:Grace_Hopper.jpg. It is read as a file; matplotlib itself is not loaded.
"""

from __future__ import annotations

import io
from importlib.util import find_spec
from math import sin, tau
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from PIL import Image, ImageFilter

from agent.errors import RedshankError

if TYPE_CHECKING:
    from agent.core.types import F32

MARGIN: Final = 4  # pixels of the photograph that the camera does not see at each side
SHAKE: Final = 1.5  # pixels at most, each way
LIGHT: Final = 0.1  # brighter and darker by at most this share
LIGHT_PERIOD: Final = 80  # pictures
PLATE: Final = (70, 476, 176, 524)  # where it is: left, top, right, bottom
CLOTH: Final = (90, 420)  # plain cloth of the uniform: left, top
_PHOTOGRAPH: Final = "mpl-data/sample_data/grace_hopper.jpg"
_SEAM: Final = 3.0  # pixels over which the cloth passes into its surroundings
_GREY_NOISE, _COLOUR_NOISE = 4.0, 2.0  # of 255
_NOISES: Final = 16  # grains of noise, made once
_QUALITY: Final = 85


def photograph() -> Any:
    """Return the photograph as Pillow's. Raises RedshankError if it is not installed."""
    package = find_spec("matplotlib")
    folders = (package.submodule_search_locations if package is not None else None) or ["matplotlib"]
    path = Path(folders[0]) / _PHOTOGRAPH
    try:
        return Image.open(io.BytesIO(path.read_bytes())).convert("RGB")
    except OSError as error:
        raise RedshankError(
            f"{path}: expected the photograph that comes with matplotlib, found none ({error.strerror}); "
            "pip install 'redshank[demo]'"
        ) from error


def without_plate(scene: Any) -> Any:
    """Return the scene with cloth of the same photograph where the name plate was."""
    left, top, right, bottom = PLATE
    cloth = scene.crop((*CLOTH, CLOTH[0] + right - left, CLOTH[1] + bottom - top))
    seam = Image.new("L", cloth.size, 0)
    inner = round(_SEAM) + 1
    seam.paste(255, (inner, inner, cloth.width - inner, cloth.height - inner))
    made = scene.copy()
    made.paste(cloth, (left, top), seam.filter(ImageFilter.GaussianBlur(_SEAM)))
    return made


class Camera:
    """A fixed camera: it shakes a little, its sensor is noisy, and the light changes slowly."""

    def __init__(self, width: int, height: int, seed: int = 0) -> None:
        """Take pictures of a scene of this size."""
        self.size = (width - 2 * MARGIN, height - 2 * MARGIN)
        self.taken = 0
        self._rng = np.random.default_rng(seed)
        self._noises = [self._noise() for _ in range(_NOISES)]

    def _noise(self) -> F32:
        shape = (self.size[1], self.size[0])
        grey = self._rng.standard_normal((*shape, 1), np.float32) * _GREY_NOISE
        return grey + self._rng.standard_normal((*shape, 3), np.float32) * _COLOUR_NOISE

    def take(self, scene: Any) -> bytes:
        """Return the next picture, JPEG."""
        across, down = self._rng.uniform(-SHAKE, SHAKE, 2).tolist()
        place = (1.0, 0.0, MARGIN + across, 0.0, 1.0, MARGIN + down)
        seen = scene.transform(self.size, Image.Transform.AFFINE, place, Image.Resampling.BILINEAR)
        light = 1.0 + LIGHT * sin(tau * self.taken / LIGHT_PERIOD)
        noise = self._noises[int(self._rng.integers(_NOISES))]
        pixels = np.asarray(seen, np.float32) * light + np.roll(noise, int(self._rng.integers(self.size[1])), axis=0)
        self.taken += 1
        out = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=_QUALITY)
        return out.getvalue()
