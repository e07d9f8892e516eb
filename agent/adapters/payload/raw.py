"""Payloads of bare binary numbers: a block of samples, such as an accelerometer's, with interleaved channels."""

from __future__ import annotations

from typing import Final

import numpy as np

from agent.adapters.payload.rejection import PayloadRejected, RejectReason
from agent.adapters.payload.settings import ByteOrder, PayloadSettings
from agent.adapters.payload.tree import LARGEST
from agent.core.types import F64, Sample

_SMOOTH: Final = 64  # blocks over which the difference between two clocks is spread, and an interval is averaged
_JITTER_S: Final = 0.5  # that a message may come early or late
_JITTER_SHARE: Final = 0.6  # the same, of a block's duration: a lost block is more


class BlockClock:
    """Gives the samples of block after block even times, although messages come when the network lets them.

    A block begins where the last one ended, and the time of arrival, that of a block's last sample, is followed slowly,
    unless the two are far apart: then a block was lost, and time jumps. Without a rate, in Hz, it is measured: the mean
    interval between messages for each sample in them.
    """

    def __init__(self, rate: float | None) -> None:
        self._step_s = None if rate is None else 1.0 / rate
        self._measured = rate is None
        self._end: float | None = None  # of the last block
        self._arrived_at = 0.0

    def times(self, count: int, arrived_at: float) -> F64:
        """Return the times of `count` samples, float64; only the last one's for a first block of unknown rate."""
        if self._measured and self._end is not None:
            step_s = max(0.0, arrived_at - self._arrived_at) / count
            if self._step_s is None:
                self._step_s = step_s
            elif step_s < 2.0 * self._step_s:  # nothing was lost
                self._step_s += (step_s - self._step_s) / _SMOOTH
        before, self._arrived_at = self._end, arrived_at
        if not self._step_s:  # nothing is known, or the first two came at once
            self._end, self._step_s = arrived_at, None
            return np.array([arrived_at])
        duration = count * self._step_s
        begin, end = arrived_at - duration, arrived_at
        if before is not None:
            error = arrived_at - (before + duration)
            if abs(error) <= max(_JITTER_S, _JITTER_SHARE * duration):
                begin, end = before, before + duration + error / _SMOOTH
        self._end = end
        return begin + np.arange(1, count + 1) * ((end - begin) / count)


class RawDecoder:
    """Decodes the blocks of one stream, which must come in order."""

    def __init__(self, settings: PayloadSettings) -> None:
        raw = settings.raw
        self._dtype = np.dtype(raw.dtype.value).newbyteorder("<" if raw.byte_order is ByteOrder.LITTLE else ">")
        self._skip_bytes = raw.skip_bytes
        self._names = settings.channels or ("value",)
        self._most = settings.max_samples
        self._clock = BlockClock(raw.sample_rate)

    def __call__(self, payload: bytes, received_at: float) -> list[Sample]:
        """Return the samples, oldest first. Raises PayloadRejected."""
        body, width = payload[self._skip_bytes :], len(self._names) * self._dtype.itemsize
        if not body or len(body) % width:
            raise PayloadRejected(RejectReason.MALFORMED)
        count = len(body) // width
        if count > self._most:
            raise PayloadRejected(RejectReason.TOO_MANY_SAMPLES)
        with np.errstate(invalid="ignore"):  # a NaN that signals is one like any other
            rows = np.frombuffer(body, self._dtype).astype(np.float64).reshape(count, -1)
        times = self._clock.times(count, received_at).tolist()
        rows = rows[-len(times) :]
        if bool((np.abs(rows) <= LARGEST).all()):
            return [
                Sample(at, dict(zip(self._names, row, strict=True)))
                for at, row in zip(times, rows.tolist(), strict=True)
            ]
        samples = []
        for at, row in zip(times, rows.tolist(), strict=True):
            values = {name: one for name, one in zip(self._names, row, strict=True) if abs(one) <= LARGEST}
            if values:
                samples.append(Sample(at, values))
        if not samples:
            raise PayloadRejected(RejectReason.NO_VALUES)
        return samples
