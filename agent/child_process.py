"""Asks one of our modules in a process of its own: what a model does to it, it does not do to us."""

from __future__ import annotations

import subprocess
import sys
from typing import Final

from agent.errors import BundleError

# Of Debian's package, only the program itself knows where its modules are. Where memory is short this process is to
# end, not the agent; and what it ends of is told without a core file.
_PROGRAM: Final = """
import resource
import sys
from contextlib import suppress
from importlib import import_module
sys.path[:] = sys.argv[2:]
with suppress(OSError, ValueError):
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
    file.write("1000")
sys.exit(import_module(sys.argv[1]).main())
"""
_SAID_CHARACTERS: Final = 300  # of what a process that ended says last


def answer_of(module: str, ask: bytes, where: str, patience_s: float) -> bytes:
    """Return what a module's `main` writes to standard output when it is given `ask` on standard input.

    Raises BundleError, which begins with `where`, if it ends with anything but 0, or not in time: then it is killed.
    """
    try:
        done = subprocess.run(  # noqa: S603  our own program
            [sys.executable, "-c", _PROGRAM, module, *sys.path],
            input=ask,
            capture_output=True,
            check=False,
            timeout=patience_s,
        )
    except subprocess.TimeoutExpired as error:
        raise BundleError(f"{where}: expected an answer within {error.timeout:.0f} s, found none") from error
    except OSError as error:  # no memory, or no process left
        raise BundleError(f"{where}: expected a process to try it in, found none ({error.strerror})") from error
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-_SAID_CHARACTERS:]
        raise BundleError(f"{where}: its process ended with {done.returncode}: {said or 'without a word'}")
    return done.stdout
