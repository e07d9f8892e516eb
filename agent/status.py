"""What a running agent tells of itself at /status: made by the worker when somebody asks, between two batches."""

from __future__ import annotations

import heapq
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TYPE_CHECKING, Final

import msgspec

from agent.adapters.mqtt import Hearing
from agent.core.alerting import AlertKind, AlertState
from agent.core.types import StreamPhase
from agent.reload import ReloadResult

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from agent.stream import Stream

MAX_STREAMS: Final = 1000  # that are listed, those that want a look first


class LastAlert(msgspec.Struct, frozen=True):
    """The last alert of a stream that was raised: when it last began, changed or ended, s since the epoch."""

    kind: AlertKind
    firing: bool
    at: float


class StreamStatus(msgspec.Struct, frozen=True):
    """One stream. `rate` in messages per second; None is what is not known."""

    name: str
    phase: StreamPhase
    rate: float | None
    score: float | None
    p_value: float | None
    threshold: float | None
    last_alert: LastAlert | None
    learning_left_s: float | None
    reference_fill: int


class ConfigurationStatus(msgspec.Struct, frozen=True):
    """Which configuration is in force. `generation` counts from 1 at the start; `reloads` those that are done."""

    file: str
    generation: int
    loaded_at: float
    reloading: bool
    reloads: int
    last_reload: ReloadResult | None


class BrokerStatus(msgspec.Struct, frozen=True):
    """Where the broker is, whether it has accepted us, and whether it delivers what we send ourselves."""

    url: str
    connected: bool
    hearing: Hearing = Hearing.OFF


class Status(msgspec.Struct, frozen=True):
    """The whole answer. `streams` holds at most MAX_STREAMS of `streams_total`."""

    agent: str
    version: str
    at: float
    uptime_s: float
    configuration: ConfigurationStatus
    broker: BrokerStatus
    troubles: list[str]
    streams_total: int
    learning: int
    firing: int
    streams: list[StreamStatus]


class Question:
    """How other threads ask the worker, who alone may look at the streams; all who wait get the same answer."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: Future[Status] | None = None

    def ask(self, timeout_s: float) -> Status | None:
        """Return the worker's answer, None if it has no time."""
        with self._lock:
            if self._waiting is None:
                self._waiting = Future()
            waiting = self._waiting
        self._wake()
        try:
            return waiting.result(timeout_s)
        except FutureTimeoutError:
            return None

    def answer(self, make: Callable[[], Status]) -> None:
        """Answer, if somebody asks. Called by the worker."""
        if self._waiting is None:
            return
        with self._lock:
            waiting, self._waiting = self._waiting, None
        waiting.set_result(make())


def counted(streams: Iterable[Stream]) -> tuple[int, int]:
    """Return how many streams are learning, and of how many an alert fires."""
    learning = firing = 0
    for stream in streams:
        learning += stream.phase is StreamPhase.LEARNING
        firing += stream.firing
    return learning, firing


def stream_statuses(streams: Iterable[Stream], elapsed_s: float) -> list[StreamStatus]:
    """Return what is told of each stream, in the order in which they want a look; `elapsed_s` is a monotonic clock."""
    first = heapq.nsmallest(MAX_STREAMS, streams, key=lambda one: (_rank(one), one.name))
    return [_status(stream, elapsed_s) for stream in first]


def _rank(stream: Stream) -> int:
    return 0 if stream.firing else 1 if stream.phase is StreamPhase.LEARNING else 2


def _status(stream: Stream, elapsed_s: float) -> StreamStatus:
    found, left, rate = stream.assessment, stream.learning_left_s, stream.rate(elapsed_s)
    last = max(stream.alerts.values(), key=lambda one: (one.state is AlertState.FIRING, one.told_at))
    firing = last.state is AlertState.FIRING
    return StreamStatus(
        stream.name,
        stream.phase,
        None if rate is None else float(f"{rate:.3g}"),
        round(found.score, 3) if found else None,
        float(f"{found.p_value:.3g}") if found and found.p_value is not None else None,
        round(stream.budget.threshold, 3) if stream.learnt else None,
        LastAlert(last.kind, firing, last.told_at) if firing or last.told_at > 0 else None,
        None if left is None else round(left, 1),
        stream.reference_fill,
    )
