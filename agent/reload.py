"""Reading the configuration anew: asked for by a signal, prepared in a thread of its own, applied by the worker.

What is in force is always one file as a whole: any problem leaves the old one.
"""

from __future__ import annotations

import logging
import threading
from enum import StrEnum
from time import monotonic_ns, time
from typing import TYPE_CHECKING, Final

import msgspec

from agent.adapters.http import MetricsSettings
from agent.adapters.systemd import notify
from agent.errors import BundleError, ConfigurationError, Problem, RedshankError
from agent.reconfiguration import EntryChange

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agent.adapters.telemetry import Telemetry
    from agent.bundle import Bundle
    from agent.config import Configuration
    from agent.ports import Encoder, PictureEncoder

logger = logging.getLogger(__name__)

MAX_PROBLEMS: Final = 100  # that are logged and told


class ReloadOutcome(StrEnum):
    """How a reload ended."""

    APPLIED = "applied"
    REFUSED = "refused"


class ReloadResult(msgspec.Struct, frozen=True):
    """What a reload led to: what became of each entry in `streams`, or why the old configuration is kept."""

    outcome: ReloadOutcome
    at: float
    problems: list[str] = []
    streams: list[EntryChange] = []
    reconnects: bool = False


class Prepared(msgspec.Struct):
    """A configuration that is ready to be applied. `choices` are answers that the state directory has to keep.

    `encoders` are those that were loaded, from `bundles`; `reused` names those that stay as they are in use.
    """

    configuration: Configuration
    encoders: Mapping[str, Encoder | PictureEncoder]
    choices: dict[str, str]
    bundles: dict[str, Bundle] = {}
    reused: frozenset[str] = frozenset()


class Reloader:
    """One reload at a time, and one more after it where that was asked for meanwhile.

    `prepare` reads and checks all; it raises RedshankError if the old configuration has to be kept. `wake` lets the
    worker look.
    """

    def __init__(self, prepare: Callable[[], Prepared], wake: Callable[[], None], telemetry: Telemetry) -> None:
        self.asked = False  # not an Event: this is set in a signal handler, which may wait for no lock
        self.generation, self.loaded_at = 1, time()
        self.done = 0
        self.last: ReloadResult | None = None
        self._prepare, self._wake, self._telemetry = prepare, wake, telemetry
        self._prepared: Prepared | None = None
        self._busy = False

    @property
    def reloading(self) -> bool:
        """Tell whether a reload is asked for or under way."""
        return self.asked or self._busy

    def look(self) -> None:
        """Begin a reload if one was asked for. Called in the main thread."""
        if self.asked and not self._busy:
            self._busy, self.asked = True, False
            notify(f"RELOADING=1\nMONOTONIC_USEC={monotonic_ns() // 1000}")
            threading.Thread(target=self._read, name="reload", daemon=True).start()

    def take(self) -> Prepared | None:
        """Return what is to be applied, if anything. Called by the worker, which must `apply` or `refuse` it."""
        taken, self._prepared = self._prepared, None
        return taken

    def apply(self, changes: list[EntryChange], *, reconnects: bool) -> None:
        """Note that the prepared configuration is in force."""
        self.generation += 1
        self.loaded_at = time()
        self._telemetry.configuration_loaded.set(self.loaded_at)
        logger.info("configuration %d is in force: %s", self.generation, "; ".join(map(str, changes)))
        self._finish(ReloadResult(ReloadOutcome.APPLIED, self.loaded_at, streams=changes, reconnects=reconnects))

    def refuse(self, error: Exception) -> None:
        """Note that the old configuration is kept, and why."""
        problems = list(map(str, error.problems)) if isinstance(error, ConfigurationError) else [str(error)]
        if isinstance(error, BundleError):
            self._telemetry.bundles_refused.inc()
        if len(problems) > MAX_PROBLEMS:
            problems[MAX_PROBLEMS:] = [f"and {len(problems) - MAX_PROBLEMS} more"]
        for problem in problems:
            logger.error("the configuration is kept as it was: %s", problem)
        self._finish(ReloadResult(ReloadOutcome.REFUSED, time(), problems))

    def _read(self) -> None:
        try:
            self._prepared = self._prepare()
        except RedshankError as error:
            self.refuse(error)
        except Exception as error:
            logger.exception("a bug in this program ended a reload")
            self.refuse(error)
        else:
            self._wake()

    def _finish(self, result: ReloadResult) -> None:
        self._telemetry.reloads.labels(result.outcome.value).inc()
        self._telemetry.reload_successful.set(float(result.outcome is ReloadOutcome.APPLIED))
        self.last = result
        self.done += 1
        self._busy = False
        notify("READY=1")


def fixed_problems(file: str, before: Configuration, after: Configuration) -> list[Problem]:
    """Return what differs that only a restart can change: what the agent is known by, and where it is found."""
    names = [("agent", name) for name in ("id", "state_dir", "topic_prefix")]
    names += [("metrics", name) for name in MetricsSettings.__struct_fields__]
    problems = []
    for section, key in names:
        old, new = getattr(getattr(before, section), key), getattr(getattr(after, section), key)
        if old != new:
            where = f"{file} {section}.{key}"
            problems.append(Problem(where, f"{old!r} as at the start", repr(new), "restart the agent to change it"))
    return problems
