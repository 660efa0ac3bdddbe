"""Starting the programs to be measured, knowing when they are ready, and reading what they cost from /proc.

Read proc(5) for the files. A program is measured with all its descendants, since ssh and others fork one process a
connection. It must not signal any process that it has not started itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")

READY_TIMEOUT = 10.0  # the slowest program here, Python with all its imports, takes one second
STOP_TIMEOUT = 3.0  # then it is killed: a program that cannot stop must not hold up the others
POLL_INTERVAL = 0.02

_LISTEN = "0A"  # TCP_LISTEN in the kernel's include/net/tcp_states.h, as /proc/net/tcp prints it


class StartError(Exception):
    """A program did not start or did not get ready; the text says which and what it said."""


@dataclass(frozen=True, slots=True)
class Usage:
    """cpu: user and system seconds so far, of living and of ended and collected processes. rss: resident bytes."""

    cpu: float
    rss: int


class Program:
    """One started program and all its descendants.

    name: for messages. argv: run as it is; its output goes to a file in folder. lines: its standard input and output
    are pipes, ``stdin`` and ``stdout``. environment: added to this process's, less the user's proxy settings. Raises
    StartError when there is no such program.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        folder: Path,
        *,
        lines: bool = False,
        environment: dict[str, str] | None = None,
        directory: Path | None = None,
    ) -> None:
        self.name = name
        self._log = folder / f"{name}.log"
        with self._log.open("wb") as log:
            try:
                self._process = subprocess.Popen(
                    list(argv),
                    stdin=subprocess.PIPE if lines else subprocess.DEVNULL,
                    stdout=subprocess.PIPE if lines else log,
                    stderr=log,
                    cwd=directory if directory is not None else folder,
                    env={**_clean_environment(), **(environment or {})},
                    preexec_fn=_end_with_parent,  # this process has one thread
                    start_new_session=True,
                )
            except FileNotFoundError:
                raise StartError(f"{name}: there is no program {argv[0]}") from None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def stdout(self) -> IO[bytes]:
        """Its standard output, when started with lines."""
        assert self._process.stdout is not None
        return self._process.stdout

    @property
    def stdin(self) -> IO[bytes]:
        """Its standard input, when started with lines."""
        assert self._process.stdin is not None
        return self._process.stdin

    def usage(self) -> Usage:
        """What it and its descendants use. Zeros once it has ended."""
        return tree_usage(self.pid)

    def wait_listening(self, port: int, protocol: str = "tcp", timeout: float = READY_TIMEOUT) -> None:
        """Wait until something listens on the port in the network namespace of this program.

        protocol: "tcp" or "udp". Nothing is connected, so the program sees no stray client. Raises StartError.
        """
        self.wait_until(lambda: self._listens(port, protocol), f"does not listen on {protocol} port {port}", timeout)

    def wait_until(self, condition: Callable[[], bool], otherwise: str, timeout: float = READY_TIMEOUT) -> None:
        """Poll the condition. Raises StartError with otherwise after timeout seconds, or when the program ends."""
        deadline = time.monotonic() + timeout
        while not condition():
            if self._process.poll() is not None:
                raise StartError(f"{self.name} ended with status {self._process.returncode}: {self.last_words()}")
            if time.monotonic() > deadline:
                raise StartError(f"{self.name} {otherwise} after {timeout:.0f} s: {self.last_words()}")
            time.sleep(POLL_INTERVAL)

    def _listens(self, port: int, protocol: str) -> bool:
        wanted = f":{port:04X}"
        for suffix in ("", "6"):
            try:
                lines = Path(f"/proc/{self.pid}/net/{protocol}{suffix}").read_text().splitlines()[1:]
            except OSError:
                continue  # it has ended, or there is no IPv6
            for line in lines:
                fields = line.split()
                if fields[1].endswith(wanted) and (protocol == "udp" or fields[3] == _LISTEN):
                    return True
        return False

    def output(self) -> bytes:
        """What it has written so far; without its standard output when started with lines."""
        return self._log.read_bytes()

    def last_words(self) -> str:
        """The last line it has written, for messages."""
        lines = self.output().decode(errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"

    def wait(self, timeout: float) -> int | None:
        """Wait for its end; its exit status, or None when it still runs after timeout seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def stop(self) -> None:
        """Ask it to end, then make it, with everything in its session that has stayed in its process group."""
        if self._process.poll() is None:
            self._process.terminate()
            if self.wait(STOP_TIMEOUT) is None:
                self._process.kill()
                self._process.wait()
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


def tree_usage(root: int) -> Usage:
    """What the process root and its living descendants use, with the ended ones that have been waited for."""
    cpu = 0
    pages = 0
    for pid in descendants(root):
        try:
            fields = _stat(pid)
        except OSError:
            continue  # it ended meanwhile; its parent has its times
        # proc_pid_stat(5): utime, stime, cutime, cstime are fields 14 to 17, rss is 24; the list begins with field 3.
        cpu += sum(int(value) for value in fields[11:15])
        pages += int(fields[21])
    return Usage(cpu / TICKS_PER_SECOND, pages * PAGE_SIZE)


def descendants(root: int) -> list[int]:
    """The process root and all that descend from it, as far as they live."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                children.setdefault(int(_stat(int(entry))[1]), []).append(int(entry))
            except OSError:
                continue
    found = [root]
    for pid in found:
        found.extend(children.get(pid, []))
    return found


def machine_cpu() -> tuple[float, float]:
    """CPU seconds over all cores since the machine's start: spent here on anything, and kept away by a hypervisor."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(value) for value in fields[:8])
    return (user + nice + system + irq + softirq) / TICKS_PER_SECOND, steal / TICKS_PER_SECOND


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM, address: str = "127.0.0.1") -> int:
    """A port that was free a moment ago."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((address, 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


def _stat(pid: int) -> list[str]:
    # The second field is the program's name in parentheses and may hold spaces and parentheses itself.
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()


def _clean_environment() -> dict[str, str]:
    # The user's own settings of the programs, and the proxies that they use, are no part of the measurement.
    return {
        name: value
        for name, value in os.environ.items()
        if not name.upper().startswith("QUICSOCKS_") and not name.upper().endswith("_PROXY")
    }


def _end_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG: nothing is left over after kill -9
