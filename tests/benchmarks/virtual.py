"""The agent's own parts without a broker and without a clock: a second of traffic in as little time as it takes.

Pipeline, state directory and publications are the daemon's; the connection is a stand-in that takes every publication.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.adapters.mqtt import Ears, Topics
from agent.adapters.payload import RejectReason
from agent.adapters.store import Store
from agent.adapters.telemetry import Telemetry
from agent.app import BATCH, load_encoders, make_restore, with_defaults
from agent.pipeline import Outcome, Pipeline
from agent.ports import InboundMessage
from agent.publications import Publications
from agent.saving import save_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agent.config import Configuration
    from agent.stream import Stream


class TakesAll:
    """Takes the place of the connection."""

    connected = True
    ears = Ears(60.0)

    def __init__(self) -> None:
        self.published = 0
        self.published_bytes = 0

    def publish(self, topic: str, payload: bytes, **_: object) -> bool:
        self.published += 1
        self.published_bytes += len(topic) + len(payload)
        return True


class VirtualAgent:
    """One agent whose time is what it is told. `restore` takes the place of the state directory's snapshots."""

    def __init__(
        self, configuration: Configuration, restore: Callable[[Stream], Any] | None = None, encoders: Any = None
    ) -> None:
        self.configuration = configuration = with_defaults(configuration)
        agent = configuration.agent
        self.store = Store(Path(agent.state_dir))
        self.telemetry = Telemetry(agent.max_streams, agent.memory_limit_bytes, [one.value for one in RejectReason])
        self.encoders = encoders or load_encoders(configuration, self.store)
        topics = Topics(agent.topic_prefix, agent.id)
        self.pipeline = Pipeline(
            configuration, self.encoders, topics, self.telemetry, restore=restore or make_restore(self.store)
        )
        self.telemetry.watch(lambda: list(self.pipeline.streams.values()))
        self.mqtt = TakesAll()
        self.alerts = 0
        self.publications = Publications(
            configuration,
            topics,
            self.pipeline.streams,
            self.mqtt,  # type: ignore[arg-type]  a stand-in
            self.store,
            self.telemetry,
            None,
            self._on_disk,
            list,
        )

    @staticmethod
    def _on_disk(write: Callable[[], None]) -> bool:
        write()
        return True

    def take(self, messages: Sequence[InboundMessage]) -> None:
        """Process messages in batches as the worker does."""
        for first in range(0, len(messages), BATCH):
            batch = messages[first : first + BATCH]
            self._commit(self.pipeline.process(batch), batch[-1].received_at)

    def tick(self, now: float) -> None:
        """Do what the worker does each second."""
        self._commit(self.pipeline.tick(now, now, 0.0), now)
        self.telemetry.streams_max.set(self.pipeline.streams_max)
        self.publications.publish(now, now)

    def save(self, now: float, *, whole: bool) -> None:
        """Write the state as the worker does at each snapshot interval, or at the end."""
        save_all(self.store, self.pipeline, whole=whole, now=now)

    def _commit(self, outcome: Outcome, now: float) -> None:
        if outcome.alerts:
            self.store.commit(outcome.alerts, outcome.outbox)
            self.publications.told(outcome, now, now)
        if outcome.outbox:
            self.alerts += len(outcome.outbox)
            self.store.delivered([row.seq for row in self.store.outbox(0, 10_000)])
        self.publications.decided(outcome)

    def close(self) -> None:
        """Close the state directory."""
        self.store.close()
