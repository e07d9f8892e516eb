"""Patterns that match only what they are meant for: split where they would catch other topics, and put in order."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Final, TypeAlias

from agent.discovery.grouping import WILD, Group, Levels

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Ordered: TypeAlias = list[Group]

_TOLERATED_SHARE: Final = 0.25  # of a pattern's topics: so many others may be without a number
_TOLERATED_FROM: Final = 8  # topics; fewer are named one by one


def separate(groups: Iterable[Group], others: Mapping[Levels, bool]) -> tuple[Ordered, dict[int, list[Levels]]]:
    """Return groups of which none takes what is not its own, in the order in which they must stand.

    `others` are the topics that are left out, and whether it does no harm to match them: their payloads hold no number.
    Also returned, by the group's place: the harmless topics that its pattern matches all the same.
    """
    current = in_order(groups)
    while True:
        taken = _taken(current, others)
        split: list[Group] = []
        changed = False
        for place, group in enumerate(current):
            foreign = taken.get(place, [])
            if not foreign or _tolerable(group, foreign, others):
                split.append(group)
            else:
                split += _split(group, foreign)
                changed = True
        if not changed:
            return current, taken
        current = in_order(split)


def undisturbed(groups: Iterable[Group], others: Mapping[Levels, bool]) -> list[Group]:
    """Return the groups whose patterns take nothing else, but what does no harm."""
    current = in_order(groups)
    taken = _taken(current, others)
    return [
        group
        for place, group in enumerate(current)
        if place not in taken or all(others.get(one, False) for one in taken[place])
    ]


def in_order(groups: Iterable[Group]) -> Ordered:
    """Return the more special patterns first: the agent takes the first that matches."""
    return sorted(groups, key=lambda group: (len(group.wild), [-one for one in group.wild], group.levels))


def matches(pattern: Levels, levels: Levels) -> bool:
    """Tell whether a pattern of this many levels matches a topic of as many."""
    return all(one in (WILD, level) for one, level in zip(pattern, levels, strict=True))


def _taken(groups: Ordered, others: Mapping[Levels, bool]) -> dict[int, list[Levels]]:
    """Return for each group which topics it would take that are not its own."""
    exact = {group.levels for group in groups if not group.wild}
    wild: dict[int, list[tuple[int, Group]]] = defaultdict(list)
    for place, group in enumerate(groups):
        if group.wild:
            wild[len(group.levels)].append((place, group))
    own = {member.levels: place for place, group in enumerate(groups) for member in group.members}
    taken: dict[int, list[Levels]] = defaultdict(list)
    for levels in [*own, *others]:
        if levels in exact:
            continue
        for place, group in wild[len(levels)]:
            if matches(group.levels, levels):
                if own.get(levels) != place:
                    taken[place].append(levels)
                break
    return taken


def _tolerable(group: Group, foreign: list[Levels], others: Mapping[Levels, bool]) -> bool:
    count = len(group.members)
    few = group.joined is not None or (count >= _TOLERATED_FROM and len(foreign) <= _TOLERATED_SHARE * count)
    return few and all(others.get(levels, False) for levels in foreign)


def _split(group: Group, foreign: list[Levels]) -> list[Group]:
    """Return the group's parts by the tokens of one level: one that tells it from foreign topics, with few tokens."""
    best: tuple[bool, int, int] | None = None
    for level in group.wild:
        tokens = {member.levels[level] for member in group.members}
        mixed = any(levels[level] in tokens for levels in foreign)
        best = min(best or (mixed, len(tokens), level), (mixed, len(tokens), level))
    assert best is not None  # without a wildcard it takes nothing foreign
    level = best[2]
    parts: dict[str, Group] = {}
    for member in group.members:
        token = member.levels[level]
        if token not in parts:
            kept = None if level == group.joined else group.joined
            parts[token] = Group((*group.levels[:level], token, *group.levels[level + 1 :]), [], frozenset(), kept)
        part = parts[token]
        part.members.append(member)
        part.fields |= member.fields
    return [_narrowed(part) for part in parts.values()]


def _narrowed(group: Group) -> Group:
    """Return the group without the wildcards for which only one token stands."""
    tokens = [{member.levels[level] for member in group.members} for level in range(len(group.levels))]
    group.levels = tuple(
        next(iter(one)) if len(one) == 1 and level != group.joined else WILD for level, one in enumerate(tokens)
    )
    return group
