"""What is allowed but probably not meant: the warnings of `redshank check`."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Final

from agent.adapters.http import is_loopback
from agent.config import ImageSettings
from agent.core.budget import share
from agent.core.calibration import beyond_support

if TYPE_CHECKING:
    from agent.adapters.http import is_loopback
from agent.config import Configuration

_ABOUT_ALL: Final = 1.001  # times the agent's budget: rounding is no doubt


def warnings(configuration: Configuration) -> list[str]:
    """Return one sentence for each doubt."""
    found = [
        f"stream {stream.name}: of a shared subscription this agent gets a part of each stream's messages, unless the "
        "broker shares by topic; each agent learns from its part alone"
        for stream in configuration.streams
        if stream.topic.startswith("$share/")
    ]
    whole = configuration.agent.false_alarms
    stated_per_s = 0.0
    for stream in configuration.streams:
        if isinstance(stream, ImageSettings):
            interval_s = stream.every_s or 1.0
        else:
            interval_s = stream.stride * (stream.period_s or 1.0)
        budget = stream.alert.budget_for(stream.mode)
        if stream.alert.false_alarms is not None:
            stated_per_s += budget.rate_per_s(interval_s)
        elif whole is not None:
            budget = share(whole, len(configuration.streams))
        if beyond_support(budget.rate_per_decision(interval_s)):
            found.append(
                f"stream {stream.name}: {budget.text} with a decision every {interval_s:g} s is rarer "
                "than its past scores can support; raise stride, or allow more"
            )
    if whole is not None:
        times = stated_per_s / whole.rate_per_s(1.0)
        if times > _ABOUT_ALL:
            found.append(
                f"agent.false_alarms {whole.text}: the streams' own budgets allow {times:.3g} times as many; "
                "lower them, or raise it"
            )
    metrics = configuration.metrics
    if metrics.cert_file is None and not is_loopback(metrics.address[0]):
        found.append(f"metrics.listen {metrics.listen}: passwords and tokens come in clear text; set cert_file for TLS")
    password = configuration.broker.password_file
    if password is not None:
        path = Path(password)
        if not path.is_file():
            found.append(f"broker.password_file {password}: no such file yet")
        elif path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            found.append(f"broker.password_file {password} can be read by others; chmod 600 it")
    return found
