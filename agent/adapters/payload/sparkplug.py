"""Sparkplug B: what a message under `spBv1.0/` says depends on the birth certificates before it.

A node's names, aliases and datatypes are kept from one birth to the next, or to its death; sequence numbers tell what
was lost. Nothing here publishes anything: the agent is no host application.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Final

import msgspec

from agent.adapters.payload.compression import unpacker
from agent.adapters.payload.rejection import PayloadRejected, RejectReason
from agent.adapters.payload.settings import Compression
from agent.adapters.payload.sparkplug_wire import (
    BOOLEAN_VALUE,
    DOUBLE_VALUE,
    FLOAT_VALUE,
    INT_VALUE,
    LONG_VALUE,
    Metric,
    Payload,
    read_payload,
)
from agent.adapters.payload.tree import number, within

NAMESPACE: Final = "spBv1.0"
TYPE_LEVEL: Final = 2  # of a topic, from 0: the message's type
_NODE_LEVELS, _DEVICE_LEVELS = 4, 5
MAX_KNOWN: Final = 200_000  # metrics in all birth certificates together
MAX_AHEAD_S: Final = 3600.0
_GOOD: Final = 192  # OPC's quality, which Sparkplug has taken over
_BITS: Final = {1: 8, 2: 16, 3: 32, 4: 64, 5: 8, 6: 16, 7: 32, 8: 64}  # of the datatypes that are integers
_SIGNED: Final = (1, 2, 3, 4)
_FLOATS: Final = (9, 10)
_BOOLEAN: Final = 11
_INTEGERS: Final = (INT_VALUE, LONG_VALUE)
_DEATH_NUMBER: Final = "bdSeq"
_CONTROLS: Final = (_DEATH_NUMBER, "Node Control/", "Device Control/")


class MessageType(StrEnum):
    """The types of message that tell something of a node or a device."""

    NBIRTH = "NBIRTH"
    NDATA = "NDATA"
    NDEATH = "NDEATH"
    DBIRTH = "DBIRTH"
    DDATA = "DDATA"
    DDEATH = "DDEATH"


_TYPES: Final = frozenset(one.value for one in MessageType)
_BIRTHS: Final = (MessageType.NBIRTH, MessageType.DBIRTH)


class Address(msgspec.Struct, frozen=True):
    """Whom a message is about; `device` is empty for the node itself."""

    node: str
    device: str
    type: MessageType


class Reading(msgspec.Struct, frozen=True):
    """What a node or device reports: what has changed, and what has no value any more; at its birth, all it has."""

    at: float
    values: dict[str, float]
    gone: tuple[str, ...] = ()
    is_birth: bool = False


class Report(msgspec.Struct, frozen=True):
    """What one message reports, oldest first. `is_behind_gap`: others before it were lost."""

    readings: list[Reading]
    is_behind_gap: bool


class Certificate(msgspec.Struct):
    """What a birth says of its metrics: the datatype by name, and the name by alias."""

    types: dict[str, int]
    aliases: dict[int, str]


class Node(msgspec.Struct):
    """An edge node that lives. `devices` by name, the node itself under an empty one."""

    devices: dict[str, Certificate]
    death_number: int | None = None  # which death would be its own


def address(topic: str) -> Address | None:
    """Return whom a topic is about, None for commands, states of hosts, and what is no Sparkplug."""
    levels = topic.split("/")
    if levels[0] != NAMESPACE or len(levels) not in {_NODE_LEVELS, _DEVICE_LEVELS}:
        return None
    of_device = len(levels) == _DEVICE_LEVELS
    if levels[TYPE_LEVEL] not in _TYPES or (levels[TYPE_LEVEL][0] == "D") != of_device:
        return None
    _, group, kind, node, *device = levels
    return Address(f"{group}/{node}", device[0] if of_device else "", MessageType(kind))


def may_be_watched(pattern: str) -> bool:
    """Tell whether a topic filter lets births come together with the data that they explain."""
    levels = pattern.split("/")
    return levels[0] == NAMESPACE and (
        "#" in levels[1 : TYPE_LEVEL + 1] or levels[TYPE_LEVEL : TYPE_LEVEL + 1] == ["+"]
    )


class SparkplugNodes:
    """All edge nodes that are heard. `sees_all` tells whether every message of the node of a topic comes here.

    `changed` holds, by node, what is to be on disk so that a restart needs no births; None where nothing is any more.
    """

    def __init__(self, sees_all: Callable[[str], bool], max_nodes: int) -> None:
        self._sees_all, self._max_nodes = sees_all, max_nodes
        self._nodes: dict[str, Node] = {}
        self._next: dict[str, int] = {}  # sequence number, by node
        self._known = 0
        self.changed: dict[str, bytes | None] = {}

    def restore(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Take up the nodes of an earlier run; what cannot be read is left out."""
        for name, content in rows:
            try:
                self._nodes[name] = msgspec.msgpack.decode(content, type=Node)
            except msgspec.DecodeError:
                continue
            self._known += _size(self._nodes[name])

    def read(
        self,
        topic: str,
        content: bytes,
        received_at: float,
        max_bytes: int,
        compression: Compression = Compression.NONE,
    ) -> Report:
        """Return what a message reports. Raises PayloadRejected.

        DEATH, and NO_BIRTH where names are not known, are reasons of its own. A topic without an `address` is not for
        here.
        """
        whom = address(topic)
        assert whom is not None
        payload = read_payload(unpacker(compression, max_bytes)(content), max_bytes)
        if whom.type is MessageType.NDEATH:
            self._bury(whom, payload)
        if whom.type in _BIRTHS:
            self._bear(whom, payload)
        lost = self._follow(topic, whom, payload.seq)
        if whom.type is MessageType.DDEATH:
            self._forget_device(whom)
            raise PayloadRejected(RejectReason.DEATH)
        return Report(self._readings(whom, payload, received_at), lost)

    def _follow(self, topic: str, whom: Address, seq: int | None) -> bool:
        """Follow the node's sequence numbers, 0 to 255 over and over; tell whether some are missing."""
        if seq is None or whom.node not in self._nodes or not self._sees_all(topic):
            return False
        due = None if whom.type is MessageType.NBIRTH else self._next.get(whom.node)
        after = (seq + 1) % 256
        if due == after:
            raise PayloadRejected(RejectReason.DUPLICATE)
        self._next[whom.node] = after
        return due is not None and due != seq

    def _bear(self, whom: Address, payload: Payload) -> None:
        """Keep what a birth says of its metrics. With a node's birth its devices are dead until they are born."""
        made = Certificate({}, {})
        for metric in payload.metrics:
            if metric.name is None:
                continue
            made.types[metric.name] = metric.datatype or 0
            if metric.alias is not None:
                made.aliases[metric.alias] = metric.name
        before = self._nodes.get(whom.node)
        if whom.type is MessageType.NBIRTH:
            node = Node({whom.device: made}, _death_number(payload))
        elif before is None:
            node = Node({whom.device: made})
        else:
            node = Node({**before.devices, whom.device: made}, before.death_number)
        known = self._known - (_size(before) if before else 0) + _size(node)
        if known > MAX_KNOWN:
            raise PayloadRejected(RejectReason.TOO_MANY_ELEMENTS)
        if before is None and len(self._nodes) >= self._max_nodes:
            raise PayloadRejected(RejectReason.TOO_MANY_STREAMS)
        self._keep(whom.node, node, known)

    def _bury(self, whom: Address, payload: Payload) -> None:
        """Forget a node that has died. The death of an earlier session often comes behind the birth of the next."""
        node, which = self._nodes.get(whom.node), _death_number(payload)
        if node is not None and None not in {which, node.death_number} and which != node.death_number:
            raise PayloadRejected(RejectReason.LATE)
        self._next.pop(whom.node, None)
        if node is not None:
            self._known -= _size(node)
            del self._nodes[whom.node]
            self.changed[whom.node] = None
        raise PayloadRejected(RejectReason.DEATH)

    def _forget_device(self, whom: Address) -> None:
        node = self._nodes.get(whom.node)
        if node is not None and whom.device in node.devices:
            left = {name: one for name, one in node.devices.items() if name != whom.device}
            made = Node(left, node.death_number)
            self._keep(whom.node, made, self._known - _size(node) + _size(made))

    def _keep(self, name: str, node: Node, known: int) -> None:
        self._nodes[name], self._known = node, known
        self.changed[name] = msgspec.msgpack.encode(node)

    def _readings(self, whom: Address, payload: Payload, received_at: float) -> list[Reading]:
        """Return what the metrics report. One that comes several times, as of a buffer, begins another reading."""
        node = self._nodes.get(whom.node)
        certificate = (node.devices.get(whom.device) if node else None) or Certificate({}, {})
        reports: list[tuple[int, dict[str, float | None]]] = []
        unknown = old = False
        for metric in sorted(payload.metrics, key=lambda one: one.timestamp or 0):
            name = metric.name
            if name is None and metric.alias is not None:
                name = certificate.aliases.get(metric.alias)
            datatype = metric.datatype or certificate.types.get(name or "", 0)
            if name is None or (not datatype and metric.number in _INTEGERS):
                unknown = True  # an integer's sign is in its datatype
            elif metric.is_historical:
                old = True
            elif not name.startswith(_CONTROLS):
                missing = metric.is_null or _is_bad(metric)
                found = None if missing else _number_of(metric, datatype)
                if found is None and not missing:
                    continue  # no number
                if not reports or name in reports[-1][1]:
                    reports.append((0, {}))
                reports[-1][1][name] = found
                reports[-1] = (max(reports[-1][0], metric.timestamp or 0), reports[-1][1])
        if not reports:
            reason = RejectReason.NO_BIRTH if unknown else RejectReason.LATE if old else RejectReason.NO_VALUES
            raise PayloadRejected(reason)
        if len(reports) == 1 and payload.timestamp:
            reports = [(payload.timestamp, reports[0][1])]
        return [
            Reading(
                within(ms / 1000.0, received_at, MAX_AHEAD_S) if ms else received_at,
                {name: value for name, value in values.items() if value is not None},
                tuple(name for name, value in values.items() if value is None),
                whom.type in _BIRTHS and index == 0,
            )
            for index, (ms, values) in enumerate(reports)
        ]


def _number_of(metric: Metric, datatype: int) -> float | None:
    """Return a metric's value as a number, None if it is none."""
    if metric.number in _INTEGERS:
        value = metric.value
        bits = _BITS.get(datatype)
        if bits is None:
            return number(value, parse_text=False) if datatype in {*_FLOATS, _BOOLEAN} else None
        whole = int(value) & ((1 << bits) - 1)
        return float(whole - (1 << bits) if datatype in _SIGNED and whole >> (bits - 1) else whole)
    if metric.number in {FLOAT_VALUE, DOUBLE_VALUE, BOOLEAN_VALUE}:
        return number(metric.value, parse_text=False)
    return None


def _is_bad(metric: Metric) -> bool:
    """Tell whether the node itself does not trust the value."""
    return metric.quality is not None and metric.quality != _GOOD


def _death_number(payload: Payload) -> int | None:
    """Return which death a birth announces, or which one this is."""
    return next(
        (int(one.value) for one in payload.metrics if one.name == _DEATH_NUMBER and one.number in _INTEGERS), None
    )


def _size(node: Node) -> int:
    return sum(len(one.types) for one in node.devices.values())
