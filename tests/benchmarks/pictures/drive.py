"""The detector and its encoder, as the agent runs them: light, encoder, score, learn."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from agent.adapters.tflite import TfliteModel, candidates
from agent.bundle import find_bundle
from agent.core.picture_patches import strangeness
from agent.core.picture_pool import pooled
from agent.core.picture_settings import PictureAssessment, PictureDetectorSettings
from agent.core.pictures import PictureDetector
from agent.core.types import F32, U8, Frame


def models() -> dict[str, TfliteModel]:
    """Return for each installed runtime the variant that is fastest on it here."""
    bundle = find_bundle("efficientnet-lite0")
    found: dict[str, TfliteModel] = {}
    for runtime, variant in candidates(bundle):
        made = TfliteModel(bundle, variant, runtime)
        before = found.get(runtime)
        if before is None or made.seconds_per_input(1) < before.seconds_per_input(1):
            found[runtime] = made
    return found


class Driver:
    """A detector that sees a picture a second, and how long it took for each."""

    def __init__(self, model: TfliteModel, settings: PictureDetectorSettings | None = None) -> None:
        self.model = model
        self.detector = PictureDetector(settings or PictureDetectorSettings(), list(model.output_shapes))
        self.seconds: list[float] = []
        self._at = 0.0

    def encode(self, pixels: U8) -> list[F32]:
        """Return the encoder's maps of a picture."""
        return self.run(self.detector.prepare(Frame(self._at, pixels)))

    def run(self, prepared: U8) -> list[F32]:
        """Return the encoder's maps of a picture whose light is left as it is."""
        return [one[0] for one in self.model.run(prepared[None])]

    def push(self, pixels: U8, outputs: list[F32] | None = None) -> PictureAssessment | None:
        """Let the detector see a picture."""
        made = self.encode(pixels) if outputs is None else outputs
        self._at += 1.0
        begun = perf_counter()
        found = self.detector.push(Frame(self._at, pixels), made)
        self.seconds.append(perf_counter() - begun)
        return found

    def look(self, outputs: list[F32]) -> tuple[float, float, float]:
        """Score maps without learning: by patches, as a whole (-inf where not known), and -log10 p of both."""
        maps = self.detector.layout.maps(outputs)
        _, (distances, _) = self.detector._compare(maps[-1])
        memory = self.detector.memory
        by_patches, as_a_whole = strangeness(distances), memory.pool_score(pooled(maps, self.detector.layout.sides))
        p_value = memory.scale.p_value(by_patches, as_a_whole)
        return by_patches, as_a_whole, -float(np.log10(p_value))
