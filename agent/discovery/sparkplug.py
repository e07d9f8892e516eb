"""Sparkplug B: what its nodes and devices were heard to report, and the entry for each group of them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from agent.adapters.payload import PayloadRejected, RejectReason
from agent.adapters.payload.sparkplug import NAMESPACE, Address, SparkplugNodes, address
from agent.discovery.forms import Form, Kind

if TYPE_CHECKING:
    from agent.discovery.heard import TopicHeard
    from agent.ports import InboundMessage

FORM: Final = Form(Kind.SPARKPLUG)
_MAX_NODES: Final = 1000
_MAX_BYTES: Final = 16 << 20
_NOT_SPARKPLUG: Final = frozenset({RejectReason.MALFORMED, RejectReason.TOO_LARGE})


class SparkplugHeard:
    """Reads messages below `spBv1.0/` with the births before them; nothing else is read here."""

    def __init__(self) -> None:
        self._nodes = SparkplugNodes(lambda _: True, _MAX_NODES)

    @staticmethod
    def concerns(topic: str) -> bool:
        """Tell whether a topic is Sparkplug's."""
        return topic.startswith(f"{NAMESPACE}/")

    def take(self, heard: TopicHeard, message: InboundMessage) -> list[dict[str, float]]:
        """Return the readings of one message, and note in `heard` how it is written."""
        if address(message.topic) is None:
            return []
        try:
            report = self._nodes.read(message.topic, message.payload, message.received_at, _MAX_BYTES)
        except PayloadRejected as rejection:
            heard.forms[Form(Kind.BINARY) if rejection.reason in _NOT_SPARKPLUG else FORM] += 1
            heard.unborn += rejection.reason is RejectReason.NO_BIRTH
            return []
        finally:
            self._nodes.changed.clear()  # nothing is kept on disk
        heard.forms[FORM] += 1
        return [reading.values for reading in report.readings]


def by_group(topics: list[TopicHeard]) -> dict[str, list[TopicHeard]]:
    """Return topics of nodes and devices by Sparkplug's group."""
    found: dict[str, list[TopicHeard]] = defaultdict(list)
    for topic in topics:
        found[topic.levels[1]].append(topic)
    return dict(found)


def by_stream(topics: list[TopicHeard], watched: set[str]) -> dict[tuple[str, str], list[TopicHeard]]:
    """Return topics by node and device, those alone that report what is watched, or may do so once they are born."""
    found: dict[tuple[str, str], list[TopicHeard]] = defaultdict(list)
    for topic in topics:
        whom = _whom(topic)
        if topic.unborn or not watched.isdisjoint(topic.fields):
            found[whom.node, whom.device].append(topic)
    return dict(found)


def _whom(topic: TopicHeard) -> Address:
    whom = address(topic.topic)
    assert whom is not None
    return whom
