"""A network path on one machine: two network namespaces, and between them delay, loss, a rate and a queue.

For kernels without netem. Each namespace has a TUN device; one process (emulator_worker.py) holds both and carries
the packets through the model of path_model.py. Needs root, which it says with ``EmulatorUnavailable``. The benchmark
and the tests use it::

    with EmulatedPath(delay=0.05, loss=0.005, rate=100e6) as path:
        path.left.run(["curl", f"http://{path.right.address}/"])
        path.change(loss=1.0)          # the path goes dark
        print(path.statistics().forward.lost)

The namespaces have no name and no other way out: they vanish with the last process and descriptor in them, also after
``kill -9``. This module must not be needed by anything that is installed.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from bench.path_model import LinkSettings, LinkStatistics

ROOT = Path(__file__).resolve().parent.parent

# Making two namespaces takes 50 ms; a machine that needs this long is not one to measure on.
START_TIMEOUT = 20.0

CLONE_NEWNET = 0x40000000


class EmulatorUnavailable(Exception):
    """This machine or this user cannot have an emulated path; the text says why and what to do."""


@dataclass(frozen=True, slots=True)
class PathStatistics:
    """forward: from left to right. back: from right to left. write_errors: packets a device refused.
    cpu_seconds: what the emulator itself has used."""

    forward: LinkStatistics
    back: LinkStatistics
    write_errors: int
    cpu_seconds: float


class End:
    """One end of the path: a network namespace with one interface, ``path0``, and its loopback.

    address, address6: its addresses as text. Works until the path is closed.
    """

    def __init__(self, address: str, address6: str, namespace: int) -> None:
        self.address = address
        self.address6 = address6
        self._namespace = namespace

    def argv(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs argv in this namespace; for starting it by any other means than ``popen``.

        The process that argv starts has the id of the one started: nsenter(1) replaces itself.
        """
        return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self._namespace}", "--", *argv]

    def run(self, argv: Sequence[str], **options: Any) -> subprocess.CompletedProcess[Any]:
        """``subprocess.run`` in this namespace."""
        return subprocess.run(self.argv(argv), **{"check": False, **options})

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
        """``subprocess.Popen`` in this namespace."""
        return subprocess.Popen(self.argv(argv), **options)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Stand in this namespace with the calling thread: sockets made meanwhile belong to it for good."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _setns(self._namespace)
            try:
                yield
            finally:
                _setns(home)
        finally:
            os.close(home)


class EmulatedPath:
    """A path between ``left`` and ``right``; a context manager, made on entry and gone on exit.

    delay, jitter, loss, duplicate, rate, queue: as in ``LinkSettings``, for each direction. back: other settings for
    the direction from right to left. mtu: of both devices, bytes, 576 to 65535. seed: repeats the same losses for the
    same packets. congestion_control: the kernel's for TCP at both ends, e.g. "reno"; None for the machine's own.
    A namespace may only have those in /proc/sys/net/ipv4/tcp_allowed_congestion_control.

    Raises ValueError for bad settings, EmulatorUnavailable on entry when there can be no path.
    """

    left: End
    right: End

    def __init__(
        self,
        *,
        delay: float = 0.0,
        loss: float = 0.0,
        rate: float | None = None,
        queue: int | None = None,
        jitter: float = 0.0,
        duplicate: float = 0.0,
        back: LinkSettings | None = None,
        mtu: int = 1500,
        seed: int = 1,
        congestion_control: str | None = None,
    ) -> None:
        forward = LinkSettings(delay, jitter, loss, duplicate, rate, queue)
        if not 576 <= mtu <= 65535:
            raise ValueError(f"mtu is {mtu}: give bytes from 576 to 65535")
        self.settings = (forward, back if back is not None else forward)
        self._request = {
            "ends": [
                {"address": "10.77.0.1", "peer": "10.77.0.2", "address6": "fd77::1", "peer6": "fd77::2"},
                {"address": "10.77.0.2", "peer": "10.77.0.1", "address6": "fd77::2", "peer6": "fd77::1"},
            ],
            "settings": [asdict(settings) for settings in self.settings],
            "mtu": mtu,
            "seed": seed,
            "congestion_control": congestion_control,
        }
        self._worker: subprocess.Popen[bytes] | None = None
        self._namespaces: list[int] = []

    def __enter__(self) -> EmulatedPath:
        if reason := unavailable():
            raise EmulatorUnavailable(reason)
        self._worker = subprocess.Popen(
            [sys.executable, "-m", "bench.emulator_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            cwd=ROOT,
        )
        try:
            answer = self._ask(self._request)
            for number in (answer["left"], answer["right"]):
                path = f"/proc/{self._worker.pid}/fd/{number}"
                self._namespaces.append(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except BaseException:
            self.close()
            raise
        ends = self._request["ends"]
        assert isinstance(ends, list)
        self.left, self.right = (
            End(end["address"], end["address6"], namespace)
            for end, namespace in zip(ends, self._namespaces, strict=True)
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def change(self, *, direction: str = "both", **values: float | None) -> None:
        """Let other settings hold from now on, e.g. ``change(loss=1.0)``; the others stay as they are.

        direction: "forward" (left to right), "back" or "both". Packets on the way are not touched. Raises ValueError.
        """
        if direction not in ("forward", "back", "both"):
            raise ValueError(f"direction is {direction}: give forward, back or both")
        changes = [values if direction in ("both", side) else {} for side in ("forward", "back")]
        try:
            self._ask({"change": changes})
        except EmulatorUnavailable as error:
            raise ValueError(str(error)) from None

    def statistics(self) -> PathStatistics:
        """What has happened on the path so far."""
        answer = self._ask({"statistics": True})
        forward, back = (LinkStatistics(**link) for link in answer["links"])
        return PathStatistics(forward, back, answer["write_errors"], answer["cpu_seconds"])

    def close(self) -> None:
        """End the path. The processes still in its namespaces stay alive and are cut off."""
        for namespace in self._namespaces:
            os.close(namespace)
        self._namespaces.clear()
        if self._worker is None:
            return
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        self._worker.stdin.close()
        try:
            self._worker.wait(5)
        except subprocess.TimeoutExpired:
            self._worker.kill()
            self._worker.wait()
        self._worker.stdout.close()
        self._worker = None

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._worker is None:
            raise RuntimeError("the path is not open: use it as a context manager")
        assert self._worker.stdin is not None
        assert self._worker.stdout is not None
        try:
            self._worker.stdin.write(json.dumps(request).encode() + b"\n")
        except BrokenPipeError:
            raise EmulatorUnavailable("the emulator's process has ended") from None
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._worker.stdout], [], [], START_TIMEOUT)
            data = os.read(self._worker.stdout.fileno(), 65536) if ready else b""
            if not data:
                raise EmulatorUnavailable("the emulator's process does not answer")
            line += data
        answer = json.loads(line)
        assert isinstance(answer, dict)
        if "error" in answer:
            raise EmulatorUnavailable(answer["error"])
        return answer


def unavailable() -> str | None:
    """Why there can be no emulated path here, with what to do about it; None when nothing speaks against it."""
    if sys.platform != "linux":
        return "an emulated path needs Linux"
    if os.geteuid() != 0:
        return "an emulated path needs root, for two network namespaces and their TUN devices: run it with sudo"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "an emulated path needs /dev/net/tun: load the kernel's module tun, or give the device to this container"
    for program, package in (("nsenter", "util-linux"), ("ip", "iproute2")):
        if shutil.which(program) is None:
            return f"an emulated path needs the program {program}: install {package}"
    return None


def _setns(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
