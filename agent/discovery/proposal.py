"""From what was heard to entries of a configuration: what to watch, how to read it, and what is left out and why."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING, Final

import msgspec

from agent.adapters.payload import Format, TimeUnit
from agent.discovery.exclusion import why_not
from agent.discovery.fields import FieldStatistics, Role
from agent.discovery.forms import TREES, Form, Kind
from agent.discovery.grouping import WILD, Group, Levels, Member, group_topics
from agent.discovery.separation import separate

if TYPE_CHECKING:
    from collections.abc import Hashable

    from agent.discovery.heard import Heard, TopicHeard

MAX_ENTRIES: Final = 100
MAX_CHANNELS_NAMED: Final = 40  # in `channels`; with more of them every number is watched but those ignored
_LONGEST_NAME: Final = 60
_PICTURE_EVERY_S: Final = 2.0
_SILENT_PERIODS: Final = 10
_NOT_IN_NAMES: Final = re.compile(r"[^\w.-]+")
_FORMATS: Final = {
    Kind.VALUE: Format.VALUE.value,
    Kind.JSON: Format.JSON.value,
    Kind.CSV: Format.CSV.value,
    Kind.MSGPACK: Format.MSGPACK.value,
    Kind.CBOR: Format.CBOR.value,
}
_NAMED: Final = TREES | {Kind.CSV}  # kinds whose fields have names
_PICTURES: Final = {Kind.PICTURE: "raw", Kind.JSON_PICTURE: "json"}
_BRACES: Final = "named with { or }, which the configuration keeps for placeholders"
_ONLY_KEPT: Final = "kept by the broker (retained); nothing new came while listening"


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
    """One entry of `streams`. `harmless` are topics that match although no number is in them."""

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

    @property
    def pattern(self) -> str:
        """Return the topic filter."""
        return "/".join(self.levels)

    @property
    def pictures(self) -> bool:
        """Tell whether it is a stream of pictures."""
        return self.form.kind in _PICTURES

    @property
    def format(self) -> str:
        """Return the configuration's word for how payloads are written."""
        return _FORMATS.get(self.form.kind) or _PICTURES[self.form.kind]

    @property
    def lanes(self) -> int:
        """Return how many channels are watched, of all its topics together."""
        watched = {one.name for one in self.fields if one.role.watched}
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


class LeftOut(msgspec.Struct):
    """Topics that no entry is made for, and why."""

    reason: str
    topics: list[TopicHeard]


class Proposal(msgspec.Struct):
    """All that is proposed."""

    entries: list[Entry]
    left_out: list[LeftOut]


def propose(heard: Heard, seconds: float, *, own_prefix: str, pictures: bool) -> Proposal:
    """Return what to configure after `seconds` of listening. `pictures`: what decodes them is installed."""
    usable: dict[Levels, TopicHeard] = {}
    others: dict[Levels, bool] = {}
    left: dict[str, list[TopicHeard]] = defaultdict(list)
    for topic in heard.topics.values():
        reason = why_not(topic.levels, own_prefix)
        harmless = False
        if reason is None:
            reason, harmless = _by_content(topic, pictures=pictures)
        if reason is None:
            usable[topic.levels] = topic
            continue
        left[reason].append(topic)
        if reason not in {_ONLY_KEPT, _BRACES}:
            others[topic.levels] = harmless
    groups, taken = separate(group_topics(_member(topic) for topic in usable.values()), others)
    kept = sorted(groups, key=lambda group: -sum(usable[one.levels].messages for one in group.members))[:MAX_ENTRIES]
    chosen = {id(group) for group in kept}
    names: set[str] = set()
    entries: list[Entry] = []
    for place, group in enumerate(groups):
        topics = sorted((usable[one.levels] for one in group.members), key=lambda one: one.topic)
        if id(group) in chosen:
            entries.append(_entry(group, topics, taken.get(place, []), seconds, names))
        else:
            left[f"too many to name one by one: more than {MAX_ENTRIES} entries"] += topics
    return Proposal(entries, [LeftOut(reason, topics) for reason, topics in left.items()])


def _by_content(topic: TopicHeard, *, pictures: bool) -> tuple[str | None, bool]:
    """Return why a topic is left out for what it carries, None if it is not, and whether a match does no harm."""
    form = topic.form
    if form is None:
        kinds = ", ".join(f"{one.kind.value} {count}" for one, count in topic.forms.most_common(3))
        return f"payloads of more than one kind ({kinds} times)" if len(
            topic.forms
        ) < 3 else "payloads of many kinds", False  # noqa: PLR2004
    if form.kind in _PICTURES:
        if not pictures:
            return "pictures, for which `pip install 'redshank[images]'` is needed", False
    elif form.kind not in _FORMATS:
        return form.kind.value, form.kind in {Kind.TEXT, Kind.NO_VALUE}
    elif not any(topic.role(name).watched for name in topic.fields):
        if topic.unseen:
            return "not looked into: too many fields were found before", False
        roles = {topic.role(name) for name in topic.fields} - {Role.TEXT}
        what = f"{form.kind.value} without anything worth watching"
        return (f"{what}: {', '.join(sorted(roles))}" if roles else what), not roles
    if topic.messages == 0:
        return _ONLY_KEPT, False
    if "{" in topic.topic or "}" in topic.topic:
        return _BRACES, False
    return None, False


def _member(topic: TopicHeard) -> Member:
    form = topic.form
    assert form is not None
    roles = {name: topic.role(name) for name in topic.fields}
    key: Hashable = form
    if form.kind is Kind.VALUE:
        key = (form, Role.COUNTER in roles.values())
    alike = frozenset(name for name, role in roles.items() if role not in {Role.TIME, Role.IDENTIFIER, Role.CLOCK})
    return Member(topic.levels, key, alike or frozenset([form.kind.value]))


def _entry(group: Group, topics: list[TopicHeard], harmless: list[Levels], seconds: float, names: set[str]) -> Entry:
    form = topics[0].form
    assert form is not None
    fields = _summaries(topics)
    watched = [one.name for one in fields if one.role.watched]
    reads_text = form.kind in TREES and any(one.role.watched and not one.statistics.numbers for one in fields)
    time = _own_time(topics, fields) if form.kind in _NAMED | {Kind.JSON_PICTURE} else None
    same = all(set(watched) <= topic.fields.keys() for topic in topics)
    addressable = all(one.statistics.addressable for one in fields if one.role.watched)
    channels: list[str] = []
    ignored: list[str] = []
    if form.kind in _NAMED:
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
        fields=[] if form.kind in _PICTURES else fields,
        harmless=harmless,
        channels=channels,
        ignored=ignored,
        counters=[one.name for one in fields if one.role is Role.COUNTER],
        time=time,
        text_numbers=reads_text,
        rate_per_s=sum(topic.messages for topic in topics) / seconds,
        period_s=median(periods) if periods else None,
    )


def _summaries(topics: list[TopicHeard]) -> list[FieldSummary]:
    """Return every field of the topics, those that are watched first."""
    merged: dict[str, FieldStatistics] = {}
    documents: dict[str, int] = defaultdict(int)
    carriers: dict[str, int] = defaultdict(int)
    for topic in topics:
        missing = sum(count for form, count in topic.forms.items() if form.kind is Kind.NO_VALUE)
        for name, field in topic.fields.items():
            merged.setdefault(name, FieldStatistics()).merge(field)
            documents[name] += topic.documents + missing
            carriers[name] += 1
    plain = topics[0].plain  # then all topics are of one role, each by its name
    found = [
        FieldSummary(
            name,
            topics[0].role(name) if plain else field.role(name),
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
