"""Runs `redshank run` under the restrictions of deploy/redshank.service, as far as they can be had without systemd.

Called by .ci/confined in a mount namespace of its own, as root. What systemd would do is read from the unit itself: the
filter of system calls and address families (through libseccomp), memory that cannot become executable. Besides: a file
system that is read-only but for the state directory, no home, an own /tmp and /dev, no capabilities, no new privileges,
another user. Then `preflight` shows that each of them holds, and the agent takes this process's place.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

NOBODY = 65534
PR_SET_NO_NEW_PRIVS, PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, PR_CAPBSET_DROP = 38, 65, 1, 24
ALLOW, ERRNO_EPERM = 0x7FFF0000, 0x00050000 | errno.EPERM
NOT_EQUAL, EQUAL = 1, 4
libc = ctypes.CDLL(None, use_errno=True)


class Comparison(ctypes.Structure):
    """libseccomp's struct scmp_arg_cmp."""

    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


def settings(unit: Path) -> dict[str, list[str]]:
    """Return what a unit says, by key."""
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", unit.read_text(), flags=re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def names_of(group: str) -> set[str]:
    """Return the system calls of a group, by systemd's own list."""
    if not group.startswith("@"):
        return {group}
    told = subprocess.run(
        ["systemd-analyze", "--no-pager", "syscall-filter", group], capture_output=True, text=True, check=True
    )
    lines = [line.strip() for line in told.stdout.splitlines()[1:]]
    return {name for line in lines if line and line[0] != "#" for name in names_of(line)}


def allowed(lines: list[str]) -> set[str]:
    """Return what remains of SystemCallFilter's lines; those that begin with ~ take away."""
    calls: set[str] = set()
    for line in lines:
        named = {name for group in line.removeprefix("~").split() for name in names_of(group)}
        calls = calls - named if line.startswith("~") else calls | named
    return calls


def load_filter(calls: set[str], families: list[str]) -> None:
    """Allow this process these system calls, and sockets of these families; all else fails with EPERM."""
    seccomp = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    seccomp.seccomp_init.restype = ctypes.c_void_p
    seccomp.seccomp_init.argtypes = [ctypes.c_uint32]
    context = ctypes.c_void_p(seccomp.seccomp_init(ERRNO_EPERM))
    for name in sorted(calls | {"execve"}):  # systemd's own exec comes before the filter counts; ours comes after
        number = seccomp.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            continue  # of another architecture
        if name == "socket":
            for family in families:
                only = Comparison(0, EQUAL, int(getattr(socket, family)), 0)
                assert seccomp.seccomp_rule_add_array(context, ALLOW, number, 1, ctypes.byref(only)) == 0
        else:
            assert seccomp.seccomp_rule_add_array(context, ALLOW, number, 0, None) == 0
    assert seccomp.seccomp_load(context) == 0, "the filter of system calls was not taken"


def prctl(*arguments: int) -> None:
    """Ask the kernel for a setting of this process, or fail."""
    padded = [*arguments, *[0] * (5 - len(arguments))]
    assert libc.prctl(*(ctypes.c_ulong(one) for one in padded)) == 0, (
        f"prctl {arguments}: {os.strerror(ctypes.get_errno())}"
    )


def mount(*words: object) -> None:
    """Mount something, or fail."""
    subprocess.run(["mount", "-n", *map(str, words)], check=True)


def confine_files(place: Path) -> None:
    """Let nothing be written but place/state, hide homes, and give an own /tmp and /dev.

    Interpreter, packages and source may lie in a home: they are seen at place/python, place/site and place/source.
    """
    devices = place / "dev"
    devices.mkdir()
    mount("-t", "tmpfs", "-o", "mode=755", "tmpfs", devices)
    for name in ("null", "zero", "full", "random", "urandom"):
        (devices / name).touch()
        mount("--bind", f"/dev/{name}", devices / name)
    told = subprocess.run(["findmnt", "-rno", "TARGET"], capture_output=True, text=True, check=True).stdout.split()
    for target in sorted(told, key=len):
        if not target.startswith(("/proc", "/dev", str(place))):
            mount("-o", "remount,bind,ro", target)
    mount("--bind", "/proc/sys", "/proc/sys")
    mount("-o", "remount,bind,ro", "/proc/sys")
    for name in ("python", "site", "source"):
        mount("-o", "remount,bind,ro", place / name)
    mount("--bind", place / "state", place / "state")
    mount("-o", "remount,bind,rw", place / "state")
    for home in ("/home", "/root"):
        mount("-t", "tmpfs", "-o", "mode=000,ro", "tmpfs", home)
    mount("-t", "tmpfs", "-o", "mode=1777", "tmpfs", "/tmp")
    mount("--move", devices, "/dev")


def give_up_rights() -> None:
    """Become nobody, without any capability now or later."""
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        prctl(PR_CAPBSET_DROP, capability)
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    prctl(PR_SET_NO_NEW_PRIVS, 1)


def refused(what: str, attempt: object) -> None:
    """End the program unless this is refused."""
    try:
        attempt()  # type: ignore[operator]
    except OSError as error:
        print(f"refused: {what} ({error.strerror or error})")
        return
    sys.exit(f"expected {what} to be refused, found that it is not")


def preflight(state: Path) -> None:
    """Show that the restrictions hold."""
    assert os.getresuid() == (NOBODY,) * 3
    status = Path("/proc/self/status").read_text()
    assert re.search(r"^CapEff:\s+0+$", status, flags=re.MULTILINE)
    assert re.search(r"^CapBnd:\s+0+$", status, flags=re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\s+1$", status, flags=re.MULTILINE)
    assert re.search(r"^Seccomp:\s+2$", status, flags=re.MULTILINE)
    for place in ("/etc", "/usr", "/var/lib", str(state.parent), str(state.parent / "source")):
        refused(f"a file in {place}", lambda place=place: (Path(place) / "redshank-was-here").write_text(""))
    everything = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    refused("memory to write and execute", lambda: mmap.mmap(-1, 4096, prot=everything))
    refused("a netlink socket", lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW))
    refused("a packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
    refused("a namespace", lambda: _checked(libc.unshare(0x10000000)))
    refused("another root directory", lambda: os.chroot("/"))
    refused("the kernel's log", lambda: _checked(libc.klogctl(3, None, 0)))
    (state / "may-be-written").write_text("")
    (state / "may-be-written").unlink()


def _checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def main() -> None:
    """Confine this process, and become the agent."""
    place, command = Path(sys.argv[1]), sys.argv[2:]
    said = settings(place / "source" / "deploy" / "redshank.service")
    assert said["NoNewPrivileges"] == ["yes"]
    assert said["CapabilityBoundingSet"] == [""]
    calls = allowed(said["SystemCallFilter"])
    confine_files(place)
    os.chdir("/")
    give_up_rights()
    if said.get("MemoryDenyWriteExecute") == ["yes"]:
        prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN)
    if said["RestrictNamespaces"] == ["yes"]:
        calls -= {"unshare", "setns"}
    families = said["RestrictAddressFamilies"][0].split()
    load_filter(calls, families)
    print(f"{len(calls)} system calls, {' '.join(families)}", flush=True)
    preflight(place / "state")
    sys.stdout.flush()
    with contextlib.suppress(FileNotFoundError):
        os.execv(command[0], command)
    sys.exit(f"{command[0]}: not found")


if __name__ == "__main__":
    main()
