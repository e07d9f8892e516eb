"""Why a payload was dropped. Nothing that arrives raises anything but PayloadRejected."""

from __future__ import annotations

from enum import StrEnum


class RejectReason(StrEnum):
    """Why a payload was dropped; the closed set of the metric's label."""

    TOO_LARGE = "too_large"
    MALFORMED = "malformed"
    TOO_DEEP = "too_deep"
    TOO_MANY_ELEMENTS = "too_many_elements"
    TOO_MANY_SAMPLES = "too_many_samples"
    NO_VALUES = "no_values"
    TOO_MANY_CHANNELS = "too_many_channels"
    BAD_TIMESTAMP = "bad_timestamp"
    FUTURE = "future"
    RETAINED = "retained"
    TOO_MANY_STREAMS = "too_many_streams"
    DUPLICATE = "duplicate"
    LATE = "late"
    SURPLUS = "surplus"
    NO_CHANNEL = "no_channel"
    NO_BIRTH = "no_birth"
    DEATH = "death"
    SEQUENCE_GAP = "sequence_gap"


class PayloadRejected(Exception):  # noqa: N818  an outcome, caught where messages are handled, not an error of ours
    """The payload was dropped, for this reason."""

    def __init__(self, reason: RejectReason) -> None:
        super().__init__(reason.value)
        self.reason = reason
