"""The topics of this agent, named here and nowhere else."""

from __future__ import annotations

import re

import msgspec

_RESERVED = re.compile(r"[%/+#\x00-\x1f\x7f-\x9f]")


def escape(text: str) -> str:
    """Return `text` as one topic level: `%`, `/`, `+`, `#` and control characters become `%XX`.

    Injective: two different texts never share a level.
    """
    return _RESERVED.sub(lambda found: f"%{ord(found[0]):02X}", text)


class Topics(msgspec.Struct, frozen=True):
    """Builds every topic that this agent publishes to or takes commands from.

    `stream` arguments are the stream's published name, already escaped level by level.
    """

    prefix: str
    agent_id: str

    @property
    def root(self) -> str:
        """Return the part all our topics begin with, trailing slash included."""
        return f"{self.prefix}/{escape(self.agent_id)}/"

    @property
    def status(self) -> str:
        """Return where `online` and `offline` are published, retained."""
        return f"{self.root}status"

    @property
    def command(self) -> str:
        """Return where commands are taken from, if they are enabled."""
        return f"{self.root}command"

    @property
    def echo(self) -> str:
        """Return where we publish what only we read, to know that the broker delivers."""
        return f"{self.root}echo"

    @property
    def reply(self) -> str:
        """Return where commands are answered."""
        return f"{self.root}reply"

    @property
    def agent_state(self) -> str:
        """Return where the agent's own state is published, retained."""
        return f"{self.root}state"

    def state(self, stream: str) -> str:
        """Return where the stream's state is published, retained."""
        return f"{self.root}{stream}/state"

    def alert(self, stream: str) -> str:
        """Return where the stream's alerts are published."""
        return f"{self.root}{stream}/alert"

    def score(self, stream: str) -> str:
        """Return where the stream's scores are published, if asked for."""
        return f"{self.root}{stream}/score"

    def heatmap(self, stream: str) -> str:
        """Return where the picture of an image stream's last alert is published, retained."""
        return f"{self.root}{stream}/heatmap"
