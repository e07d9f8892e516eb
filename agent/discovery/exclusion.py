"""Which topics carry no readings, told by their names: commands, configuration, availability, our own."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from agent.discovery.grouping import Levels

_COMMANDS: Final = frozenset({"set", "get", "cmnd", "cmd", "command", "commands", "rpc"})
_CONNECTED: Final = frozenset({"lwt", "availability", "available", "online", "connected", "will", "birth", "$state"})
_CONFIGURATION: Final = frozenset({"config", "configuration", "announce", "discovery", "info"})
_TASMOTA_ANSWER: Final = re.compile(r"[A-Z][A-Z0-9_]*")
_DISCOVERY_PREFIX: Final = "homeassistant"


def _command(levels: Levels) -> bool:
    if levels[-2:] == ("events", "rpc"):  # Shelly's notifications
        return False
    return any(level.lower() in _COMMANDS for level in levels[1:]) or levels[0] in {"cmnd", "cmd"}


def _answer(levels: Levels) -> bool:
    return "stat" in levels[:2] and _TASMOTA_ANSWER.fullmatch(levels[-1]) is not None


def _configuration(levels: Levels) -> bool:
    last = levels[-1].lower()
    if last in _CONFIGURATION or (levels[0] == _DISCOVERY_PREFIX and last == "status"):
        return True
    return "discovery" in levels[:2] or any(level.startswith("$") for level in levels)


def _bridge(levels: Levels) -> bool:
    return "bridge" in levels[1:2] and len(levels) > 2  # noqa: PLR2004  its own topics lie below it


def _connected(levels: Levels) -> bool:
    return levels[-1].lower() in _CONNECTED


def _log(levels: Levels) -> bool:
    return levels[-1].lower() in {"log", "logs", "logging", "debug"}


# In this order; the sentence says of a topic why it is left out.
RULES: Final[tuple[tuple[str, Callable[[Levels], bool]], ...]] = (
    ("commands to devices", _command),
    ("answers to commands", _answer),
    ("how a bridge itself is configured and does", _bridge),
    ("descriptions and configuration, not readings", _configuration),
    ("whether something is connected: `silence` notices what no longer speaks", _connected),
    ("log lines", _log),
)


def why_not(levels: Levels, own_prefix: str) -> str | None:
    """Return why a topic of this name is left out, None if it is not. `own_prefix` is agent.topic_prefix."""
    own = tuple(own_prefix.split("/"))
    if levels[: len(own)] == own:
        return "published by Redshank itself"
    return next((reason for reason, applies in RULES if applies(levels)), None)
