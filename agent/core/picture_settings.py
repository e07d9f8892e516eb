"""What can be configured of pictures, and what one decision on a picture found."""

from __future__ import annotations

import msgspec

from agent.core.picture_patches import Position
from agent.core.types import F32, Duration, Mode, Settings


class PictureReferenceSettings(Settings, frozen=True):
    """Pictures kept per stream, and how many are learnt before the first decision counts."""

    size: int = 1000
    warm_up: int = 300


class PictureDetectorSettings(Settings, frozen=True):
    """What makes one detector of pictures differ from another.

    `position` says where in earlier pictures a patch is looked for. `adapt_after_s`: how long a changed scene must last
    before it is learnt; by default until nine of thirty pictures were refused.
    """

    mode: Mode = Mode.ADAPT
    position: Position = Position.ANYWHERE
    adapt_after_s: Duration = 0.0
    reference: PictureReferenceSettings = PictureReferenceSettings()


class PictureAssessment(msgspec.Struct, frozen=True):
    """What one decision found.

    `score` is -log10 of `p_value`. `part_scores` float32 [rows, columns] is each patch's share of the strangeness, in
    sum 1, 0 where ignored. `patch_score` and `pool_score` are what the p-value was made of: logarithms of distances,
    the latter NaN while fewer than MIN_PICTURES are known.
    """

    at: float
    score: float
    p_value: float
    part_scores: F32
    patch_score: float
    pool_score: float
    admitted: bool
