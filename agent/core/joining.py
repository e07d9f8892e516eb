"""Values of one device that come one by one, put together to samples of all its channels. Time is an argument.

`ChannelJoin` is for channels that are published each by itself, `StandingValues` for senders that report only what has
changed, and say when they cannot.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from agent.core.types import Sample

_SMOOTH: Final = 16  # intervals that a usual one is the mean of, about
_SLACK: Final = 0.5  # intervals: what is a little late is not missing yet
_SLOW: Final = 1.5  # times the usual time between two samples: such a channel is not waited for
_WINDOW: Final = 0.5  # of the fastest channel's usual interval: what comes later belongs to the next sample


class Held(msgspec.Struct):
    """A channel's last value, and the usual interval between two of them, None before the second. Seconds."""

    value: float
    at: float
    interval_s: float | None = None


class ChannelJoin:
    """Makes samples of at most `max_channels` from rounds: what comes until each channel of the last round has come.

    A round also ends when a channel comes again, and after half of the usual interval of its fastest channel. A sample
    has the time of its newest value. A channel that has not come keeps its last value for `carry_limit` of its own
    usual intervals, so what comes more rarely than the others is not missing in between.
    """

    def __init__(self, carry_limit: int, max_channels: int) -> None:
        self._carry_limit, self._max_channels = carry_limit, max_channels
        self._held: dict[str, Held] = {}
        self._round: set[str] = set()
        self._expected: set[str] = set()  # channels that end the round when all have come
        self._begun_at = self._at = 0.0  # of the round: its first and its newest value
        self._row_at: float | None = None
        self._row_s: float | None = None  # between two samples, usually

    def push(self, at: float, values: dict[str, float]) -> list[Sample]:
        """Take values that came together; return the samples that are complete by now, at most two."""
        rows = []
        if self._round and (not self._round.isdisjoint(values) or at - self._begun_at > self._window_s()):
            rows.append(self._row())
        for name, value in values.items():
            held = self._held.get(name)
            if held is None:
                if len(self._held) == self._max_channels:
                    continue
                held = self._held[name] = Held(value, at)
            else:
                held.interval_s = _smoothed(held.interval_s, at - held.at)
                held.value, held.at = value, at
            if not self._round:
                self._begun_at = self._at = at
            self._round.add(name)
        self._at = max(self._at, at)
        if self._expected and self._expected <= self._round:
            rows.append(self._row())
        return rows

    def _window_s(self) -> float:
        known = [interval for name in self._round if (interval := self._held[name].interval_s) is not None]
        return _WINDOW * min(known) if known else float("inf")

    def _row(self) -> Sample:
        """End the round."""
        if self._row_at is not None:
            self._row_s = _smoothed(self._row_s, self._at - self._row_at)
        self._row_at = self._at
        row_s = self._row_s or 0.0
        values = {
            name: held.value for name, held in self._held.items() if name in self._round or self._is_fresh(held, row_s)
        }
        self._expected = {name for name in self._round if (self._held[name].interval_s or 0.0) <= _SLOW * row_s}
        self._round = set()
        return Sample(self._at, values)

    def _is_fresh(self, held: Held, row_s: float) -> bool:
        if not self._carry_limit:
            return False
        return abs(self._at - held.at) <= (self._carry_limit + _SLACK) * (held.interval_s or row_s)

    def snapshot(self) -> dict[str, Any]:
        """Return everything needed to go on as if never stopped."""
        return {
            "held": [[name, one.value, one.at, one.interval_s] for name, one in self._held.items()],
            "round": sorted(self._round),
            "expected": sorted(self._expected),
            "times": [self._begun_at, self._at, self._row_at, self._row_s],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._held = {name: Held(value, at, interval_s) for name, value, at, interval_s in state["held"]}
        self._round, self._expected = set(state["round"]), set(state["expected"])
        self._begun_at, self._at, self._row_at, self._row_s = state["times"]


class StandingValues:
    """Makes samples of reports on what has changed: what is not reported is as it was. Of at most `most` channels."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: dict[str, float] = {}

    def push(self, at: float, values: dict[str, float], gone: tuple[str, ...], *, anew: bool) -> Sample:
        """Take a report; `gone` have no value any more, and with `anew` nothing else has. The sample may be empty."""
        if anew:
            self._values.clear()
        for name in gone:
            self._values.pop(name, None)
        self._values.update(values)
        for name in list(self._values)[self._most :]:
            del self._values[name]
        return Sample(at, dict(self._values))

    def snapshot(self) -> dict[str, Any]:
        """Return everything needed to go on as if never stopped."""
        return {"standing": dict(self._values)}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        self._values = dict(state["standing"])


def _smoothed(usual_s: float | None, passed_s: float) -> float | None:
    """Return the usual interval after one more; one long silence changes little, and a clock set back nothing."""
    if passed_s <= 0.0:
        return usual_s
    if usual_s is None:
        return passed_s
    return usual_s + (min(passed_s, _SMOOTH * usual_s) - usual_s) / _SMOOTH
