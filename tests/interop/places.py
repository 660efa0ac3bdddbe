"""Where programs run and sockets are opened: a network namespace made for this test run, or the machine's own network.

Read namespaces(7) and ip-netns(8) first. A socket belongs for ever to the namespace in which it was created, so the
tests hold sockets of several namespaces in one process: a throw-away thread enters the namespace (setns(2) acts on a
thread), makes the socket and ends. Nothing here may touch the machine's own interfaces, routes or firewall.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
NAMESPACE_FILES = Path("/run/netns")
NAMESPACE_ETC = Path("/etc/netns")
PREFIX = "qs"
COMMAND_TIMEOUT = 20.0


def ip(*arguments: str) -> str:
    """Run ip(8); raises RuntimeError with what it said when it fails."""
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


@dataclass(frozen=True, slots=True)
class Place:
    """One network. namespace: its name for ip-netns, None for the machine's own. label: for messages."""

    label: str
    namespace: str | None = None

    def inside(self, call: Callable[[], T]) -> T:
        """Run call in a thread that has entered the namespace; its result, or its exception."""
        if self.namespace is None:
            return call()
        results: list[T] = []
        errors: list[BaseException] = []
        descriptor = os.open(NAMESPACE_FILES / self.namespace, os.O_RDONLY | os.O_CLOEXEC)

        def work() -> None:
            try:
                if _libc().setns(descriptor, CLONE_NEWNET) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))
                results.append(call())
            except BaseException as error:
                errors.append(error)

        try:
            thread = threading.Thread(target=work, name=f"enter-{self.label}")
            thread.start()
            thread.join()
        finally:
            os.close(descriptor)
        if errors:
            raise errors[0]
        return results[0]

    def open_socket(
        self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, proto: int = 0
    ) -> socket.socket:
        """A new socket of this network."""
        return self.inside(lambda: socket.socket(family, kind, proto))

    def connect(self, host: str, port: int, timeout: float = 10.0) -> socket.socket:
        """A TCP connection from here to an address literal; the socket keeps the timeout."""
        sock = self.open_socket(_family(host))
        try:
            sock.settimeout(timeout)
            sock.connect((host, port))
        except BaseException:
            sock.close()
            raise
        return sock

    def listen(self, host: str, port: int = 0, backlog: int = 256) -> socket.socket:
        """A listening TCP socket here; port 0 chooses one."""
        sock = self.open_socket(_family(host))
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.settimeout(10.0)
            sock.bind((host, port))
            sock.listen(backlog)
        except BaseException:
            sock.close()
            raise
        return sock

    def free_port(self, host: str, kind: int = socket.SOCK_STREAM) -> int:
        """A port that was free a moment ago. In a namespace nobody else takes it."""
        with self.open_socket(_family(host), kind) as sock:
            sock.bind((host, 0))
            return int(sock.getsockname()[1])

    def enter(self) -> list[str]:
        """The words before a command line that runs it here, with mounts of its own."""
        if self.namespace is not None:
            return ["ip", "netns", "exec", self.namespace]
        if can_mount():
            return ["unshare", "--mount", "--propagation", "slave"]
        return []


class Namespaces:
    """Network namespaces of one test run, linked by veth pairs, all gone after ``close``.

    Their names carry the process ID of the run, so that runs side by side never meet and what a killed run left behind
    is swept by the next one.
    """

    def __init__(self) -> None:
        sweep()
        self._names: list[str] = []
        self._links = 0

    def add(self, label: str, nameserver: str | None = None) -> Place:
        """A new namespace with its loopback up. nameserver: the only resolver that programs in it know."""
        name = f"{PREFIX}{os.getpid()}-{label}"
        ip("netns", "add", name)
        self._names.append(name)
        ip("-n", name, "link", "set", "lo", "up")
        if nameserver is not None:
            folder = NAMESPACE_ETC / name
            folder.mkdir(parents=True)
            (folder / "resolv.conf").write_text(f"nameserver {nameserver}\noptions timeout:2 attempts:1\n")
        return Place(label, name)

    def link(self, left: Place, right: Place, addresses: Sequence[tuple[str, str]], device: str) -> None:
        """Join two namespaces by a veth pair called device at both ends. addresses: (left's, right's), with prefix."""
        assert left.namespace is not None
        assert right.namespace is not None
        ip("link", "add", device, "netns", left.namespace, "type", "veth", "peer", "name", device,
           "netns", right.namespace)  # fmt: skip
        for place, index in ((left.namespace, 0), (right.namespace, 1)):
            for pair in addresses:
                # Without duplicate address detection an IPv6 address would be usable only a second later.
                extra = ["nodad"] if ":" in pair[index] else []
                ip("-n", place, "addr", "add", pair[index], "dev", device, *extra)
            ip("-n", place, "link", "set", device, "up")

    def close(self) -> None:
        for name in reversed(self._names):
            _remove(name)
        self._names.clear()


def sweep() -> list[str]:
    """Remove namespaces whose test run is gone (killed before it could clean up). Returns their names."""
    removed = []
    for entry in sorted(NAMESPACE_FILES.glob(f"{PREFIX}*-*")) if NAMESPACE_FILES.is_dir() else []:
        owner = entry.name.removeprefix(PREFIX).split("-", 1)[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            _remove(entry.name)
            removed.append(entry.name)
    return removed


def why_no_namespaces() -> str | None:
    """None when namespaces can be made here, otherwise the reason for a skip."""
    if os.geteuid() != 0:
        return "making network namespaces needs root"
    if shutil.which("ip") is None:
        return "the ip program (Debian: iproute2) is missing"
    name = f"{PREFIX}{os.getpid()}-probe"
    try:
        ip("netns", "add", name)
        try:
            ip("link", "add", "probe0", "netns", name, "type", "veth", "peer", "name", "probe1", "netns", name)
            subprocess.run(["ip", "netns", "exec", name, "true"], check=True, capture_output=True, timeout=10)
        finally:
            _remove(name)
    except (RuntimeError, subprocess.SubprocessError) as error:
        return f"network namespaces are not to be had here: {error}"
    return None


_mounts: list[bool] = []


def can_mount() -> bool:
    """Whether a process of ours may have mounts of its own."""
    if not _mounts:
        words = ["unshare", "--mount", "--propagation", "slave", "sh", "-c", "mount -t tmpfs -o size=4k none /mnt"]
        allowed = os.geteuid() == 0 and shutil.which("unshare") is not None
        done = allowed and subprocess.run(words, capture_output=True, check=False, timeout=10).returncode == 0
        _mounts.append(bool(done))
    return _mounts[0]


def _remove(name: str) -> None:
    ip("netns", "del", name)
    shutil.rmtree(NAMESPACE_ETC / name, ignore_errors=True)


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
