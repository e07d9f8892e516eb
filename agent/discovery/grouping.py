"""From many topics to few patterns: which levels of a topic name one of many like it.

A level is replaced by `+` where its tokens are interchangeable: they stand in the same contexts (what is left of the
topic without them), and what is carried there has fields in common. `SENSOR` and `STATE` of `tele/+/SENSOR` and
`tele/+/STATE` share their contexts, but no field; the devices' names share both. Tokens that are alike are so
everywhere.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Final, TypeAlias

import msgspec

if TYPE_CHECKING:
    from collections.abc import Iterable

Levels: TypeAlias = tuple[str, ...]

WILD: Final = "+"
_LEAST_ALIKE: Final = 0.1  # shared fields, of the fewer
_LEAST_SHARED: Final = 0.5  # shared contexts, of the fewer
_CLUSTERS_TRIED: Final = 16
_SAFE_CONSTANTS: Final = 2  # with so many constant levels, a topic may begin with a wildcard more easily
_LEAST_SAME: Final = 0.2


class Member(msgspec.Struct, frozen=True):
    """One topic to be grouped; only topics of equal `key` share a group. `fields` are the names that it carries."""

    levels: Levels
    key: Hashable
    fields: frozenset[str]


class Group(msgspec.Struct):
    """Topics under one pattern. `joined`: the wildcard level that names a channel of one stream, if there is one."""

    levels: Levels
    members: list[Member]
    fields: frozenset[str]
    joined: int | None = None

    @property
    def wild(self) -> list[int]:
        """Return which levels are wildcards."""
        return [index for index, level in enumerate(self.levels) if level == WILD]


class _Cluster:
    """Tokens of one level that are taken for one another."""

    def __init__(self) -> None:
        self.groups: dict[Levels, list[Group]] = defaultdict(list)  # by context
        self.fields: dict[Levels, frozenset[str]] = {}
        self.raw: set[Levels] = set()  # of first levels: contexts of the topics themselves
        self.tokens = 0

    def add(self, profile: dict[Levels, Group], raw: set[Levels]) -> None:
        self.tokens += 1
        self.raw |= raw
        for context, group in profile.items():
            self.groups[context].append(group)
            self.fields[context] = self.fields.get(context, frozenset()) | group.fields


def group_topics(members: Iterable[Member]) -> list[Group]:
    """Return the groups of all topics, each in exactly one."""
    by_kind: dict[Hashable, list[Group]] = defaultdict(list)
    for member in members:
        by_kind[(len(member.levels), member.key)].append(Group(member.levels, [member], member.fields))
    found: list[Group] = []
    for groups in by_kind.values():
        depth = len(groups[0].levels)
        before = len(groups) + 1
        current = groups
        while len(current) < before:
            before = len(current)
            for level in range(depth - 1, -1, -1):
                current = _merged(current, level)
        found += current
    return found


def _merged(groups: list[Group], level: int) -> list[Group]:
    """Return the groups after those that differ only in tokens of one level that are alike were joined."""
    profiles: dict[str, dict[Levels, Group]] = defaultdict(dict)
    for group in groups:
        profiles[group.levels[level]][_without(group.levels, level)] = group
    clusters: list[_Cluster] = []
    at: dict[Levels, list[_Cluster]] = defaultdict(list)
    for _, profile in sorted(profiles.items()):
        below = (member for group in profile.values() for member in group.members if level == 0)
        raw = {_without(member.levels, level) for member in below}
        cluster = _alike(profile, raw, at, level)
        if cluster is None:
            cluster = _Cluster()
            clusters.append(cluster)
        for context in profile:
            if cluster not in at[context]:
                at[context].append(cluster)
        cluster.add(profile, raw)
    made: list[Group] = []
    for cluster in clusters:
        for context, same in cluster.groups.items():
            made.append(same[0] if cluster.tokens == 1 else _joined(same, context, level))
    return made


def _alike(
    profile: dict[Levels, Group], raw: set[Levels], at: dict[Levels, list[_Cluster]], level: int
) -> _Cluster | None:
    """Return the cluster that a token belongs to, None if it is like no other."""
    tried: list[_Cluster] = []
    for context in profile:
        tried += [one for one in at[context][-_CLUSTERS_TRIED:] if one not in tried]
        if len(tried) > _CLUSTERS_TRIED:
            break
    best: tuple[float, _Cluster] | None = None
    for cluster in tried:
        shared = [context for context in profile if context in cluster.fields]
        constants = min(sum(one != WILD for one in context) for context in shared)
        if constants == 0 or len(shared) < _LEAST_SHARED * min(len(profile), len(cluster.fields)):
            continue
        if level == 0 and not _same_below(raw, cluster.raw, constants):
            continue
        alike = sum(_overlap(profile[one].fields, cluster.fields[one]) for one in shared) / len(shared)
        if alike >= _LEAST_ALIKE and (best is None or alike > best[0]):
            best = alike, cluster
    return None if best is None else best[1]


def _same_below(some: set[Levels], others: set[Levels], constants: int) -> bool:
    """Tell whether enough of the same lies below two first levels, so that `+` may stand for both."""
    shared = len(some & others)
    if constants >= _SAFE_CONSTANTS:
        return shared >= _LEAST_SAME * min(len(some), len(others))
    return shared >= _LEAST_SHARED * len(some | others)


def _joined(groups: list[Group], context: Levels, level: int) -> Group:
    members = [member for group in groups for member in group.members]
    fields: frozenset[str] = frozenset().union(*(group.fields for group in groups))
    return Group((*context[:level], WILD, *context[level:]), members, fields)


def _without(levels: Levels, index: int) -> Levels:
    return levels[:index] + levels[index + 1 :]


def _overlap(some: frozenset[str], others: frozenset[str]) -> float:
    return len(some & others) / max(1, min(len(some), len(others)))
