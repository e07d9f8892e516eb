"""The rolling, bounded set of embeddings regarded as normal, and who may enter it."""

from __future__ import annotations

from agent.core.types import Settings


class ReferenceSettings(Settings):
    """Windows kept per stream, and how many are learnt before the first decision counts."""

    size: int = 1000
    warm_up: int = 600
