"""Markdown tables."""

from __future__ import annotations

from collections.abc import Iterable


def line(cells: Iterable[str]) -> str:
    """Return a line of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def table(header: list[str], rows: Iterable[list[str]]) -> str:
    """Return a whole table."""
    return "\n".join([line(header), line(["---"] * len(header)), *(line(row) for row in rows)])
