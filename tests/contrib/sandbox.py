"""Runs a program under a unit's settings without systemd: as nobody, with the unit's filters, on a read-only file system.

``Sandbox.start`` translates a ``Unit`` into what Spawner (tests/interop) and confine.py do. What only a service manager
does is played: NOTIFY_SOCKET, WATCHDOG_USEC, STATE_DIRECTORY and RUNTIME_DIRECTORY.
"""

from __future__ import annotations

import ctypes.util
import json
import resource
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path

from tests.contrib.units import Unit
from tests.interop.places import Place, can_mount
from tests.interop.processes import Process, Spawner, as_nobody

CONFINE = Path(__file__).with_name("confine.py")
HERE = Place("this machine")
READY_TIMEOUT = 20.0


def why_not() -> str | None:
    """None when units can be played here, otherwise the reason for a skip."""
    if not as_nobody() or not can_mount():
        return "needs root, setpriv and mounts of one's own"
    if shutil.which("systemd-analyze") is None:
        return "systemd-analyze is missing"
    if ctypes.util.find_library("seccomp") is None:
        return "libseccomp is missing"
    return None


@cache
def _groups() -> dict[str, list[str]]:
    """systemd's groups of system calls: each with its members, which may be groups."""
    printed = subprocess.run(
        ["systemd-analyze", "syscall-filter", "--no-pager"], capture_output=True, text=True, check=True, timeout=30
    ).stdout
    groups: dict[str, list[str]] = {}
    members: list[str] = []
    for line in printed.splitlines():
        if line.startswith("@"):
            members = groups.setdefault(line.strip(), [])
        elif line.startswith("    ") and not line.strip().startswith("#"):
            members.append(line.strip())
    return groups


def expand(words: Iterable[str]) -> set[str]:
    """The system calls that words and the groups among them name."""
    found: set[str] = set()
    for word in words:
        found |= expand(_groups()[word]) if word.startswith("@") else {word}
    return found


def allowed_syscalls(unit: Unit) -> set[str]:
    """SystemCallFilter= in its order: lines add, and with a tilde take away (systemd.exec(5))."""
    # Always there, whatever the unit says: systemd's own default, and what it takes to execute the program.
    allowed = expand(["@default", "execve"])
    for line in unit.all("SystemCallFilter"):
        if line.startswith("~"):
            allowed -= expand(line[1:].split())
        else:
            allowed |= expand(line.split())
    if unit.is_on("RestrictNamespaces"):
        allowed -= {"unshare", "setns"}
    return allowed


def plan_of(unit: Unit) -> str:
    """For confine.py."""
    families = [getattr(socket, name) for name in unit.one("RestrictAddressFamilies").split()]
    return json.dumps({
        "syscalls": sorted(allowed_syscalls(unit)),
        "families": [int(family) for family in families],
        "deny_write_execute": unit.is_on("MemoryDenyWriteExecute"),
        "core": int(unit.one("LimitCORE")),
        "files": descriptors(unit),
        "umask": int(unit.one("UMask"), 8),
    })  # fmt: skip


def descriptors(unit: Unit) -> int:
    """LimitNOFILE=, or what this machine's root may have when that is less."""
    given = unit.all("LimitNOFILE")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(int(given[0]), most) if given else most


class Manager:
    """A NOTIFY_SOCKET with what has been said on it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        path.chmod(0o777)
        self._socket.settimeout(READY_TIMEOUT)
        self.heard: list[str] = []

    def wait_for(self, word: str, process: Process) -> str:
        """The next line that begins with word."""
        while True:
            try:
                lines = self._socket.recv(4096).decode().splitlines()
            except TimeoutError:
                raise AssertionError(
                    f"{process.name} did not say {word}; it said {self.heard}:\n{process.output}"
                ) from None
            self.heard += lines
            for line in lines:
                if line.startswith(word):
                    return line

    def close(self) -> None:
        self._socket.close()


class Sandbox:
    """Folders and processes of units that are played; all gone after ``close``."""

    def __init__(self, tmp: Path) -> None:
        self.tmp = tmp
        tmp.chmod(0o755)
        self.spawner = Spawner(tmp)
        self._managers: list[Manager] = []

    def folder(self, name: str) -> Path:
        path = self.tmp / name
        path.mkdir(mode=0o700)
        return self.spawner.give(path)

    def manager(self, name: str) -> Manager:
        manager = Manager(self.tmp / f"{name}.notify")
        self._managers.append(manager)
        return manager

    def confined(self, unit: Unit, argv: Sequence[str | Path]) -> list[str]:
        return [sys.executable, "-I", str(CONFINE), plan_of(unit), *map(str, argv)]

    def start(
        self,
        unit: Unit,
        argv: Sequence[str | Path],
        *,
        name: str,
        writable: Sequence[Path] = (),
        env: Mapping[str, str] | None = None,
    ) -> Process:
        """Run argv as the unit's main process. writable: all that it can write to."""
        words = self.confined(unit, argv)
        return self.spawner.start(HERE, words, name=name, env=env, read_only=writable, files=descriptors(unit))

    def close(self) -> None:
        self.spawner.close()
        for manager in self._managers:
            manager.close()
