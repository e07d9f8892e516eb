"""Secrets come from files that only we and our group may read, never from the configuration itself."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Final

from agent.errors import ConfigurationError, Problem

MAX_SECRET_BYTES: Final = 64 * 1024
_TOO_OPEN: Final = stat.S_IRWXO | stat.S_IWGRP  # systemd's credentials and root:redshank 640 are read by the group


def read_secret(path: str, where: str) -> bytes:
    """Return what a secret's file holds, whose mode was checked. `where` is the key that names it.

    Raises ConfigurationError, which never repeats anything of the secret.
    """
    try:
        with Path(path).open("rb") as file:
            _check_mode(os.fstat(file.fileno()).st_mode, path, where)
            content = file.read(MAX_SECRET_BYTES + 1)
    except (OSError, ValueError) as error:  # a path may hold what no path can hold
        why = getattr(error, "strerror", None) or str(error)
        raise _unusable(where, "a readable file", f"{path}: {why}") from None
    if len(content) > MAX_SECRET_BYTES:
        raise _unusable(where, f"at most {MAX_SECRET_BYTES} bytes", f"more in {path}")
    return content


def check_secret_file(path: str, where: str) -> None:
    """Raise ConfigurationError if there is such a file and others may read or change it."""
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError):
        return  # whoever opens it tells what is wrong
    _check_mode(mode, path, where)


def stamp(path: str) -> tuple[int, int, int] | None:
    """Return what changes when a file is written anew or replaced, None where there is none."""
    try:
        found = Path(path).stat()
    except (OSError, ValueError):
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


def _check_mode(mode: int, path: str, where: str) -> None:
    if stat.S_ISREG(mode) and mode & _TOO_OPEN:
        raise _unusable(
            where,
            "a file that others can neither read nor change",
            f"{path} with mode {mode & 0o777:o}",
            "chmod 600 it",
        )


def _unusable(where: str, expected: str, found: str, remedy: str = "") -> ConfigurationError:
    return ConfigurationError([Problem(where, expected, found, remedy)])
