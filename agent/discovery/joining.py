"""Whether topics with one value each are better one stream: `{channel}` in place of the level that names the value."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING, Final

from agent.discovery.grouping import WILD

if TYPE_CHECKING:
    from agent.discovery.grouping import Group, Levels

MAX_JOINED: Final = 64  # channels of one stream
_FEWEST: Final = 2  # channels of a device, as a rule
_RECURRING: Final = 0.5  # share of the topics whose channel other devices have, too
_LEAST_LEVELS: Final = 3  # where there is one device only
_DIGITS: Final = re.compile(r"\d+")


def joined_level(group: Group) -> int | None:
    """Return which level names the channel, None if the topics are better watched one by one.

    Other devices must have the same channels; or it is the last level below one device, and its tokens do not number
    things that are alike (`t1`, `t2`).
    """
    if not group.wild:
        return None
    level = group.wild[-1]
    devices: dict[Levels, set[str]] = defaultdict(set)
    carriers: dict[str, int] = defaultdict(int)
    for member in group.members:
        devices[device_of(member.levels, level)].add(member.levels[level])
        carriers[member.levels[level]] += 1
    if not _FEWEST <= len(carriers) <= MAX_JOINED or len(group.members) < _FEWEST * len(devices):
        return None
    if len(devices) == 1:
        last = level == len(group.levels) - 1 and len(group.levels) >= _LEAST_LEVELS
        return level if last and len({_DIGITS.sub("", one) for one in carriers}) > len(carriers) / 2 else None
    shared = sum(count for count in carriers.values() if count > 1)
    return level if shared >= _RECURRING * len(group.members) else None


def device_of(levels: Levels, level: int) -> Levels:
    """Return a topic without its channel's name."""
    return (*levels[:level], WILD, *levels[level + 1 :])
