"""What is allowed but probably not meant: the warnings of `redshank check`."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING

from agent.core.calibration import beyond_support

if TYPE_CHECKING:
    from agent.config import Configuration


def warnings(configuration: Configuration) -> list[str]:
    """Return one sentence for each doubt."""
    found = []
    for stream in configuration.streams:
        budget = stream.alert.budget_for(stream.mode)
        period_s = stream.period_s or 1.0
        if beyond_support(budget.rate_per_decision(stream.stride * period_s)):
            found.append(
                f"stream {stream.name}: {budget.text} with a decision every {stream.stride * period_s:g} s is rarer "
                "than its past scores can support; raise stride, or allow more"
            )
    password = configuration.broker.password_file
    if password is not None:
        path = Path(password)
        if not path.is_file():
            found.append(f"broker.password_file {password}: no such file yet")
        elif path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            found.append(f"broker.password_file {password} can be read by others; chmod 600 it")
    return found
