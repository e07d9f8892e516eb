"""One entry of the proposal: which fields of its topics are watched, and how they are read."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, Final

import msgspec

from agent.adapters.payload import Format, TimeUnit
from agent.adapters.payload.sparkplug import NAMESPACE
from agent.discovery.fields import FieldStatistics, Role
from agent.discovery.forms import TREES, Form, Kind
from agent.discovery.grouping import WILD, Group, Levels
from agent.discovery.joining import device_of
from agent.discovery.sparkplug import FORM as SPARKPLUG
from agent.discovery.sparkplug import by_stream
from agent.topic_pattern import CHANNEL, DEVICE

if TYPE_CHECKING:
    from agent.discovery.heard import TopicHeard

MAX_CHANNELS_NAMED: Final = 40  # in `channels`; with more of them every number is watched but those ignored
FORMATS: Final = {
    Kind.VALUE: Format.VALUE.value,
    Kind.JSON: Format.JSON.value,
    Kind.CSV: Format.CSV.value,
    Kind.MSGPACK: Format.MSGPACK.value,
    Kind.CBOR: Format.CBOR.value,
    Kind.SPARKPLUG: Format.SPARKPLUG.value,
}
PICTURES: Final = {Kind.PICTURE: "raw", Kind.JSON_PICTURE: "json"}
_NAMED: Final = TREES | {Kind.CSV}  # kinds whose fields have names
_LONGEST_NAME: Final = 60
_PICTURE_EVERY_S: Final = 2.0
_SILENT_PERIODS: Final = 10
_NOT_IN_NAMES: Final = re.compile(r"[^\w.-]+")


class FieldSummary(msgspec.Struct):
    """One field of an entry. `share` of the messages that it came with, in `topics` of the entry's topics."""

    name: str
    role: Role
    statistics: FieldStatistics
    share: float
    topics: int


class OwnTime(msgspec.Struct, frozen=True):
    """Where the readings' own time is."""

    path: str
    unit: TimeUnit


class Entry(msgspec.Struct):
    """One entry of `streams`. `harmless` are topics that match although no number is in them.

    `joined`: the level that names a channel, where topics are joined.
    """

    name: str
    levels: Levels
    form: Form
    topics: list[TopicHeard]
    fields: list[FieldSummary]
    harmless: list[Levels]
    channels: list[str]
    ignored: list[str]
    counters: list[str]
    time: OwnTime | None
    text_numbers: bool
    rate_per_s: float
    period_s: float | None
    joined: int | None = None
    unborn: int = 0  # messages of Sparkplug whose names were not known

    @property
    def pattern(self) -> str:
        """Return the topic as it is configured."""
        levels = list(self.levels)
        if self.joined is not None:
            levels[self.joined] = CHANNEL
            if levels.count(WILD) == 1:
                levels[levels.index(WILD)] = DEVICE
        return "/".join(levels)

    @property
    def watched(self) -> set[str]:
        """Return the fields, or channels, that are watched."""
        return {one.name for one in self.fields if one.role.watched}

    @property
    def streams(self) -> int:
        """Return how many streams its topics make."""
        if self.form.kind is Kind.SPARKPLUG:
            return len(by_stream(self.topics, self.watched))
        if self.joined is None:
            return len(self.topics)
        return len({device_of(heard.levels, self.joined) for heard in self.topics})

    @property
    def pictures(self) -> bool:
        """Tell whether it is a stream of pictures."""
        return self.form.kind in PICTURES

    @property
    def format(self) -> str:
        """Return the configuration's word for how payloads are written."""
        return FORMATS.get(self.form.kind) or PICTURES[self.form.kind]

    @property
    def lanes(self) -> int:
        """Return how many channels are watched, of all its topics together."""
        watched = self.watched
        if self.form.kind is Kind.SPARKPLUG:
            each = (set().union(*(one.fields for one in topics)) for topics in by_stream(self.topics, watched).values())
            return sum(max(1, len(watched & names)) for names in each)
        if self.joined is not None:
            return sum(heard.levels[self.joined] in watched for heard in self.topics)
        return sum(max(1, len(watched & heard.fields.keys())) for heard in self.topics)

    @property
    def every_s(self) -> float | None:
        """Return how often a picture is looked at, None: each one."""
        return _PICTURE_EVERY_S if self.pictures and (self.period_s or _PICTURE_EVERY_S) < _PICTURE_EVERY_S else None

    @property
    def silence_s(self) -> int | None:
        """Return after how long without a message a stream has fallen silent, s; None where that cannot be told."""
        return None if self.period_s is None else max(60, math.ceil(_SILENT_PERIODS * self.period_s / 60) * 60)

    @property
    def largest(self) -> int:
        """Return the largest payload, bytes."""
        return max(heard.largest for heard in self.topics)


def entry_of(group: Group, topics: list[TopicHeard], harmless: list[Levels], seconds: float, names: set[str]) -> Entry:
    """Return the entry of a group; its name is added to `names`. `harmless` are topics that match, too."""
    form = topics[0].form
    assert form is not None
    fields = _summaries(topics, group.joined)
    watched = [one.name for one in fields if one.role.watched]
    reads_text = form.kind in TREES and any(one.role.watched and not one.statistics.numbers for one in fields)
    time = _own_time(topics, fields) if form.kind in _NAMED | {Kind.JSON_PICTURE} else None
    same = all(set(watched) <= topic.fields.keys() for topic in topics)
    addressable = all(one.statistics.addressable for one in fields if one.role.watched)
    channels: list[str] = []
    ignored: list[str] = []
    if group.joined is not None:
        ignored = [one.name for one in fields if not one.role.watched]
    elif form.kind in _NAMED:
        unwatched = [one for one in fields if not one.role.watched and (time is None or one.name != time.path)]
        numeric = [
            one.name for one in unwatched if one.statistics.numbers or (reads_text and one.statistics.numeric_texts)
        ]
        if same and addressable and len(watched) <= MAX_CHANNELS_NAMED:
            channels = watched
        else:
            ignored = shortened(numeric, watched)
    periods = [topic.period_s for topic in topics if topic.period_s]
    return Entry(
        name=_name(group.levels, names),
        levels=group.levels,
        form=form,
        topics=topics,
        fields=[] if form.kind in PICTURES else fields,
        harmless=harmless,
        channels=channels,
        ignored=ignored,
        counters=[one.name for one in fields if one.role is Role.COUNTER],
        time=time,
        text_numbers=reads_text,
        rate_per_s=sum(topic.messages for topic in topics) / seconds,
        period_s=median(periods) if periods else None,
        joined=group.joined,
    )


def sparkplug_entry(name: str, topics: list[TopicHeard], seconds: float, names: set[str]) -> Entry:
    """Return the entry of all Sparkplug's nodes and devices of a group; its name is added to `names`."""
    fields = _summaries(topics, None)
    watched = [one.name for one in fields if one.role.watched]
    streams = by_stream(topics, set(watched))
    for one in fields:
        one.share, one.topics = 1.0, sum(any(one.name in heard.fields for heard in of) for of in streams.values())
    same = all(one.topics == len(streams) for one in fields if one.role.watched)
    named = watched if same and len(watched) <= MAX_CHANNELS_NAMED else []
    periods = [topic.period_s for topic in topics if topic.period_s and topic.levels[2].endswith("DATA")]
    return Entry(
        name=_name(("sparkplug", name), names),
        levels=(NAMESPACE, name, "#"),
        form=SPARKPLUG,
        topics=sorted(topics, key=lambda one: one.topic),
        fields=fields,
        harmless=[],
        channels=named,
        ignored=[] if named else [one.name for one in fields if not one.role.watched],
        counters=[one.name for one in fields if one.role is Role.COUNTER],
        time=None,
        text_numbers=False,
        rate_per_s=sum(topic.messages for topic in topics) / seconds,
        period_s=median(periods) if periods else None,
        unborn=sum(topic.unborn for topic in topics),
    )


def _summaries(topics: list[TopicHeard], joined: int | None) -> list[FieldSummary]:
    """Return every field of the topics, those that are watched first; of joined ones the channels."""
    merged: dict[str, FieldStatistics] = {}
    roles: dict[str, Role] = {}
    documents: dict[str, int] = defaultdict(int)
    carriers: dict[str, int] = defaultdict(int)
    for topic in topics:
        missing = sum(count for form, count in topic.forms.items() if form.kind is Kind.NO_VALUE)
        for own, field in topic.fields.items():
            name = own if joined is None else topic.levels[joined]
            role = topic.role(own)
            roles[name] = role if role.watched else roles.get(name, role)
            merged.setdefault(name, FieldStatistics()).merge(field)
            documents[name] += topic.documents + missing
            carriers[name] += 1
    plain = topics[0].plain  # the topic's name tells the role
    found = [
        FieldSummary(
            name,
            roles[name] if plain else field.role(name),
            field,
            field.seen / documents[name],
            carriers[name],
        )
        for name, field in merged.items()
    ]
    return sorted(found, key=lambda one: not one.role.watched)


def _own_time(topics: list[TopicHeard], fields: list[FieldSummary]) -> OwnTime | None:
    """Return where a time is that all messages have, that rises in each topic and is about that of arrival."""
    for one in fields:
        whole = all(one.name in topic.fields and topic.fields[one.name].seen == topic.documents > 1 for topic in topics)
        unit = one.statistics.time_unit
        if (
            one.role is Role.TIME
            and unit is not None
            and whole
            and one.statistics.addressable
            and one.statistics.tells_time
        ):
            return OwnTime(one.name, unit)
    return None


def shortened(names: list[str], kept: list[str]) -> list[str]:
    """Return paths that cover `names` and all below them, but none of `kept`: as short as possible."""
    found: list[str] = []
    for name in names:
        parts = name.split(".")
        for length in range(1, len(parts) + 1):
            prefix = ".".join(parts[:length])
            if not any(one == prefix or one.startswith(f"{prefix}.") for one in kept):
                break
        if prefix not in found:
            found.append(prefix)
    return found


def _name(levels: Levels, names: set[str]) -> str:
    """Return a name of the pattern's constant levels that no other entry has."""
    constant = "-".join(level for level in levels if level != WILD).lower()
    base = _NOT_IN_NAMES.sub("-", constant).strip("-.")[:_LONGEST_NAME] or "stream"
    name, number = base, 2
    while name in names:
        name, number = f"{base}-{number}", number + 1
    names.add(name)
    return name
