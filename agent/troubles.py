"""What is wrong around the agent, and mends itself when its cause goes. Said once when it begins, once when it ends."""

from __future__ import annotations

import logging
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.adapters.telemetry import Telemetry

logger = logging.getLogger(__name__)


class Trouble(StrEnum):
    """The closed set, as told by the metric, the agent's state and `redshank status`."""

    CLIENT_ID = "client_id"
    CLOCK = "clock"
    STATE_DIRECTORY = "state_directory"


WORDS = {
    Trouble.CLIENT_ID: "another client uses our MQTT client id, and the two throw each other out",
    Trouble.CLOCK: "this machine's clock shows a time that is past; alerts say so until it is set",
    Trouble.STATE_DIRECTORY: "the state directory cannot be written; what a restart would need is in memory alone",
}


class Troubles:
    """Which troubles there are now. The worker's."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._now: set[Trouble] = set()
        for one in Trouble:
            telemetry.trouble.labels(one.value).set(0)

    def note(self, trouble: Trouble, *, present: bool) -> None:
        """Say whether there is this trouble."""
        if present == (trouble in self._now):
            return
        self._telemetry.trouble.labels(trouble.value).set(float(present))
        if present:
            self._now.add(trouble)
            logger.error("trouble %s: %s; docs/reliability.md says what to do", trouble.value, WORDS[trouble])
        else:
            self._now.discard(trouble)
            logger.warning("trouble %s is over", trouble.value)

    @property
    def names(self) -> list[str]:
        """Return the troubles there are, sorted."""
        return sorted(one.value for one in self._now)
