"""Which variant of an encoder, on which runtime and with how many threads: what `redshank encoders --write` found best.

The file lies in the state directory. What it says of another machine, of other runtimes or of another version of a
bundle is not heeded.
"""

from __future__ import annotations

import logging
import os
import platform
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Final

import msgspec

from agent.adapters.tflite import installed_runtimes
from agent.bundle import Bundle
from agent.encoder_trial import Trial, cores

logger = logging.getLogger(__name__)

SCHEMA: Final = 1
_NAME: Final = "encoders.json"
_MAX_BYTES: Final = 1_000_000
_MODEL: Final = Path("/proc/device-tree/model")
_PROCESSORS: Final = Path("/proc/cpuinfo")


class Choice(msgspec.Struct, frozen=True):
    """The best of a bundle, whose variants have the digests `variants`. `runtime` is with its version."""

    bundle: str
    variants: list[str]
    file: str
    runtime: str
    threads: int
    ms: float


class Measured(msgspec.Struct, frozen=True):
    """What was measured on a machine with these runtimes."""

    schema: int
    machine: str
    runtimes: list[str]
    choices: list[Choice]


def this_machine(model: Path = _MODEL, processors: Path = _PROCESSORS) -> str:
    """Return what kind of machine this is: two of a kind may share what one of them measured."""
    found = _line(model).rstrip("\0")
    if not found:
        named = (line.partition(":")[2].strip() for line in _lines(processors) if line.startswith("model name"))
        found = next(named, "unknown processor")
    return f"{platform.machine()}, {found}, {cores()} cores"


def best(trials: Iterable[Trial]) -> Trial | None:
    """Return the trial that is to be used, None if none came to anything.

    It is the one with the least milliseconds for each input of its largest call, times the square root of its threads:
    a second core has to make it 1.4 times as fast, because others want that core, and energy is used on both.
    """
    known = [(_cost(one), one) for one in trials if one.tried is not None]
    return min(known, key=lambda pair: pair[0])[1] if known else None


def _cost(trial: Trial) -> float:
    assert trial.tried is not None
    largest = trial.tried.calls[-1]
    return float(largest.median_ms / largest.batch * trial.threads**0.5)


def choice_of(bundle: Bundle, trial: Trial) -> Choice:
    """Return the choice of a trial that came to something."""
    assert trial.tried is not None
    largest = trial.tried.calls[-1]
    per_input_ms = round(largest.median_ms / largest.batch, 6)
    return Choice(bundle.manifest.name, _digests(bundle), trial.file, trial.tried.runtime, trial.threads, per_input_ms)


def prepare(directory: Path) -> None:
    """Make a state directory unless it is there, before minutes are spent on what is to be written to it.

    Raises OSError if it cannot be made, or nothing be written there.
    """
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    tempfile.TemporaryFile(dir=directory).close()


def write_choices(directory: Path, choices: list[Choice]) -> Path:
    """Write choices made here and now beside those of others that still hold; return the file. Raises OSError."""
    machine, runtimes = this_machine(), installed_runtimes()
    before = read_choices(directory)
    new = {one.bundle for one in choices}
    holds = before is not None and (before.machine, before.runtimes) == (machine, runtimes)
    kept = [] if before is None or not holds else before.choices
    kept = [one for one in kept if one.bundle not in new]
    content = msgspec.json.format(msgspec.json.encode(Measured(SCHEMA, machine, runtimes, kept + choices)))
    path = directory / _NAME
    handle, made = tempfile.mkstemp(dir=directory, prefix=f"{_NAME}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content + b"\n")
            os.fchmod(file.fileno(), 0o644)  # the agent may be another user than who measures
            os.fsync(file.fileno())
        Path(made).replace(path)
    except BaseException:
        Path(made).unlink(missing_ok=True)
        raise
    return path


def read_choices(directory: Path) -> Measured | None:
    """Return what is written down in a state directory, None if nothing is, or nothing that could be understood."""
    path = directory / _NAME
    try:
        with path.open("rb") as file:
            found = msgspec.json.decode(file.read(_MAX_BYTES), type=Measured)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s is not heeded: %s; `redshank encoders --write` writes it anew", path, error)
        return None
    if found.schema != SCHEMA:
        logger.warning("%s is not heeded: of schema %d; `redshank encoders --write` writes it anew", path, found.schema)
        return None
    return found


def chosen(measured: Measured | None, bundle: Bundle) -> Choice | None:
    """Return what was measured to be best for a bundle here; None, and a line in the log, if that no longer holds."""
    if measured is None:
        return None
    named = [one for one in measured.choices if one.bundle == bundle.manifest.name]
    if not named:
        return None
    stale = _stale(measured, bundle, named)
    if isinstance(stale, Choice):
        return stale
    logger.warning(
        "what was measured for encoder %s is not heeded: it is of %s; `redshank encoders --write` measures anew",
        bundle.manifest.name,
        stale,
    )
    return None


def _stale(measured: Measured, bundle: Bundle, named: list[Choice]) -> Choice | str:
    """Return the choice that holds, or what it is of that does not."""
    machine, runtimes = this_machine(), installed_runtimes()
    if measured.machine != machine:
        return f"another machine ({measured.machine}; this is {machine})"
    if measured.runtimes != runtimes:
        return f"other runtimes ({', '.join(measured.runtimes)}; here are {', '.join(runtimes)})"
    choice = next((one for one in named if one.variants == _digests(bundle)), None)
    if choice is None:
        return "another version of the bundle"
    variant = next((one for one in bundle.manifest.variants if one.file == choice.file), None)
    proven = variant is not None and choice.runtime in runtimes and choice.runtime.split()[0] in variant.runtimes
    if not proven or not 1 <= choice.threads <= cores():
        return f"what cannot be here: {choice.file} on {choice.runtime} with {choice.threads} threads"
    return choice


def _digests(bundle: Bundle) -> list[str]:
    return [one.sha256 for one in bundle.manifest.variants]


def _line(path: Path) -> str:
    return next(iter(_lines(path)), "")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
