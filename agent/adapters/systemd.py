"""Messages to systemd (sd_notify(3)): one datagram each, nothing where systemd did not start us."""

from __future__ import annotations

import os
import socket
from pathlib import Path


def notify(message: str) -> bool:
    """Send a message such as READY=1; return whether systemd is there to hear it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        try:
            channel.sendto(message.encode(), address)
        except OSError:
            return False
    return True


def watchdog_interval_s() -> float | None:
    """Return how often systemd wants to hear from us, halved as its manual advises, or None.

    WATCHDOG_PID, where it is set, says which process is meant: a child that inherited it is not.
    """
    text = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", "") not in ("", str(os.getpid())):
        return None
    return int(text) / 2e6 if text.isdecimal() and int(text) > 0 else None


def memory_max(root: Path = Path("/")) -> int | None:
    """Return how many bytes the service we are part of may take (cgroups(7), version 2), None where nothing says so."""
    try:
        group = next(
            line[3:] for line in (root / "proc/self/cgroup").read_text().splitlines() if line.startswith("0::")
        )
        text = (root / "sys/fs/cgroup" / group.lstrip("/") / "memory.max").read_text().strip()
    except (OSError, StopIteration):
        return None
    return int(text) if text.isdecimal() else None
