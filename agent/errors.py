"""The exception tree, sorted by when an error can happen: start, connect, run."""

from __future__ import annotations

import msgspec


class RedshankError(Exception):
    """Anything this program raises on purpose. Its text is fit to be shown to a user."""


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong with what the user gave us: where, what was expected and found, what to do."""

    where: str
    expected: str
    found: str
    remedy: str = ""

    def __str__(self) -> str:
        tail = f"; {self.remedy}" if self.remedy else ""
        return f"{self.where}: expected {self.expected}, found {self.found}{tail}"


class ConfigurationError(RedshankError):
    """The configuration cannot be used. Carries every problem found in one pass."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class BundleError(RedshankError):
    """An encoder bundle cannot be used: missing, corrupt, foreign, or too new for this runtime."""


class SigningError(RedshankError):
    """A bundle cannot be signed, or its signature not checked: no usable key, or a package is missing."""


class ListenError(RedshankError):
    """The address for metrics and health cannot be taken."""


class RemoteError(RedshankError):
    """The running agent cannot be asked, or does not answer."""


class BusyError(RemoteError):
    """The running agent is too busy to answer now."""


class StateError(RedshankError):
    """The state directory's database can be neither used nor replaced."""


class UnwritableError(StateError):
    """The state directory's database cannot be written, or not be opened, just now."""


class SnapshotError(RedshankError):
    """A snapshot cannot be resumed: corrupt, foreign, or of another schema version."""


class RefusedError(RedshankError):
    """The broker refused us for good (bad credentials) before any connection was made."""


class RecordingError(RedshankError):
    """A recording cannot be read."""
