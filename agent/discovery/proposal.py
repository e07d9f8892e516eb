"""From what was heard to a proposal: which topics are watched together, and which are left out and why."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final

import msgspec

from agent.discovery.entry import FORMATS, PICTURES, Entry, entry_of, sparkplug_entry
from agent.discovery.exclusion import why_not
from agent.discovery.fields import Role
from agent.discovery.forms import Kind
from agent.discovery.grouping import Group, Levels, Member, group_topics
from agent.discovery.joining import joined_level
from agent.discovery.separation import separate, undisturbed
from agent.discovery.sparkplug import FORM as SPARKPLUG
from agent.discovery.sparkplug import SparkplugHeard, by_group

if TYPE_CHECKING:
    from collections.abc import Hashable

    from agent.discovery.heard import Heard, TopicHeard

MAX_ENTRIES: Final = 100
_BRACES: Final = "named with { or }, which the configuration keeps for placeholders"
_ONLY_KEPT: Final = "kept by the broker (retained); nothing new came while listening"
_NEUTRAL: Final = frozenset({_ONLY_KEPT, _BRACES})  # why a topic is left out that a pattern may take all the same
_TOO_MANY: Final = f"too many to name one by one: more than {MAX_ENTRIES} entries"


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
    sorted_out = _SortedOut(heard, own_prefix, pictures=pictures)
    usable = sorted_out.usable
    groups, taken = separate(sorted_out.groups(), sorted_out.others)
    kept = sorted(groups, key=lambda group: -sum(usable[one.levels].messages for one in group.members))[:MAX_ENTRIES]
    chosen = {id(group) for group in kept}
    names: set[str] = set()
    entries: list[Entry] = []
    for place, group in enumerate(groups):
        topics = sorted((usable[one.levels] for one in group.members), key=lambda one: one.topic)
        if id(group) in chosen:
            entries.append(entry_of(group, topics, taken.get(place, []), seconds, names))
        else:
            sorted_out.left[_TOO_MANY] += topics
    for name, topics in sorted(by_group(sorted_out.sparkplug).items()):
        if "{" in name or "}" in name:
            sorted_out.left[_BRACES] += topics
        elif len(entries) < 2 * MAX_ENTRIES:
            entries.append(sparkplug_entry(name, topics, seconds, names))
        else:
            sorted_out.left[_TOO_MANY] += topics
    return Proposal(entries, [LeftOut(reason, topics) for reason, topics in sorted_out.left.items()])


class _SortedOut:
    """Topics by what becomes of them. `others`: those that no pattern may take, or may without harm."""

    def __init__(self, heard: Heard, own_prefix: str, *, pictures: bool) -> None:
        self.usable: dict[Levels, TopicHeard] = {}
        self.others: dict[Levels, bool] = {}
        self.left: dict[str, list[TopicHeard]] = defaultdict(list)
        self.sparkplug: list[TopicHeard] = []
        self._idle: dict[Levels, tuple[str, TopicHeard]] = {}  # plain numbers that say nothing, such as uptimes
        for topic in heard.topics.values():
            if SparkplugHeard.concerns(topic.topic):
                if topic.form == SPARKPLUG and (topic.unborn or any(topic.role(one).watched for one in topic.fields)):
                    self.sparkplug.append(topic)
                else:
                    self.left["below spBv1.0/, without a number worth watching"].append(topic)
                self.others[topic.levels] = False
                continue
            reason = why_not(topic.levels, own_prefix)
            by_name, harmless = reason is not None, False
            if reason is None:
                reason, harmless = _by_content(topic, pictures=pictures)
            if reason is None:
                self.usable[topic.levels] = topic
            elif not by_name and _kind(topic) is Kind.VALUE and reason not in _NEUTRAL:
                self._idle[topic.levels] = reason, topic
            else:
                self.left[reason].append(topic)
                if reason not in _NEUTRAL:
                    self.others[topic.levels] = harmless

    def groups(self) -> list[Group]:
        """Return the usable topics in groups; plain numbers of a device are joined where that is possible."""
        plain = {levels: topic for levels, topic in self.usable.items() if _kind(topic) is Kind.VALUE}
        foreign = self.others | dict.fromkeys(self.usable.keys() - plain.keys(), False)
        idle = {levels: topic for levels, (_, topic) in self._idle.items()}
        joined: list[Group] = []
        for group in undisturbed(group_topics(map(_plain_member, (plain | idle).values())), foreign):
            group.joined = joined_level(group)
            if group.joined is not None and any(one.levels in plain for one in group.members):
                joined.append(group)
        taken = {one.levels for group in joined for one in group.members}
        for levels, (reason, topic) in self._idle.items():
            if levels in taken:
                self.usable[levels] = topic  # its channel is ignored
            else:
                self.left[reason].append(topic)
                self.others[levels] = False
        rest = [topic for levels, topic in self.usable.items() if levels not in taken]
        return joined + group_topics(map(_member, rest))


def _kind(topic: TopicHeard) -> Kind | None:
    return None if topic.form is None else topic.form.kind


def _by_content(topic: TopicHeard, *, pictures: bool) -> tuple[str | None, bool]:
    """Return why a topic is left out for what it carries, None if it is not, and whether a match does no harm."""
    form = topic.form
    if form is None:
        kinds = ", ".join(f"{one.kind.value} {count}" for one, count in topic.forms.most_common(3))
        few = len(topic.forms) < 3  # noqa: PLR2004  else they are as many reasons as topics
        return (f"payloads of more than one kind ({kinds} times)" if few else "payloads of many kinds"), False
    if form.kind in PICTURES:
        if not pictures:
            return "pictures, for which `pip install 'redshank[images]'` is needed", False
    elif form.kind not in FORMATS:
        return form.kind.value, form.kind in {Kind.TEXT, Kind.NO_VALUE}
    elif not any(topic.role(name).watched for name in topic.fields):
        if topic.unseen:
            return "not looked into: too many fields were found before, or none that can be named", False
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


def _plain_member(topic: TopicHeard) -> Member:
    """Return a topic of plain numbers, whatever they count: joined, each channel has a role of its own."""
    return Member(topic.levels, (topic.form,), frozenset([Kind.VALUE.value]))
