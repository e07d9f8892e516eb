"""The table of a run, in text and Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.faults.trial import Episode

_HEAD = (
    "fault", "times", "published", "lost", "lost by the broker", "twice",
    "alerts expected", "lost", "false", "ready, s",
)  # fmt: skip
_SUMS = ("published", "lost", "lost_by_broker", "duplicated", "alerts_expected", "alerts_lost", "alerts_false")


def rows(episodes: list[Episode]) -> list[tuple[str, ...]]:
    """Return a row of each fault, in order of name, and one of all; `ready` is median and maximum."""
    names = sorted({one.fault for one in episodes})
    made = [_row(name, [one for one in episodes if one.fault == name]) for name in names]
    return [*made, _row("**all**", episodes)]


def markdown(episodes: list[Episode]) -> str:
    """Return the table."""
    lines = ["| " + " | ".join(_HEAD) + " |", "|---" + "|---:" * (len(_HEAD) - 1) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows(episodes))]) + "\n"


def _row(name: str, episodes: list[Episode]) -> tuple[str, ...]:
    took = sorted(one.ready_s for one in episodes)
    sums = [sum(getattr(one, field) for one in episodes) for field in _SUMS]
    return (name, str(len(episodes)), *(f"{one:,}" for one in sums), f"{took[len(took) // 2]:.1f}, {took[-1]:.1f}")
