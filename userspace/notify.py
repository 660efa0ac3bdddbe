"""Telling a service manager how we are: sd_notify(3), without a library.

Datagrams of NAME=value lines to the unix socket named by NOTIFY_SOCKET. Without that variable every call does nothing;
a manager that does not listen must not stop the program, so errors in sending are ignored.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from types import TracebackType


class Notifier:
    """Sends notifications, when the environment names a socket for them.

    environ is read once. Without it the process's own environment is, and NOTIFY_SOCKET, WATCHDOG_USEC and
    WATCHDOG_PID are removed from it, so that no child process speaks in our name (as sd_notify's unset_environment
    does). A watchdog that is meant for another process is not ours.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        variables = os.environ if environ is None else environ
        self._address = _address(variables.get("NOTIFY_SOCKET", ""))
        self._socket: socket.socket | None = None
        self._watchdog = _watchdog_seconds(variables)
        if environ is None:
            for name in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"):
                os.environ.pop(name, None)

    @property
    def active(self) -> bool:
        """Whether anybody is told."""
        return self._address is not None

    @property
    def watchdog_interval(self) -> float:
        """Seconds between two ``alive`` calls, half of what the manager allows; 0 when it watches nothing."""
        return self._watchdog / 2 if self.active else 0.0

    def ready(self, status: str = "") -> None:
        """Start-up, or a reload, is complete."""
        self._send("READY=1", *_status_line(status))

    def status(self, text: str) -> None:
        """A line for ``systemctl status``."""
        self._send(*_status_line(text))

    def reloading(self) -> None:
        """A reload has begun; ``ready`` ends it. The time is what Type=notify-reload asks for."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self, status: str = "") -> None:
        """The program is on its way out."""
        self._send("STOPPING=1", *_status_line(status))

    def alive(self) -> None:
        """Feed the watchdog."""
        self._send("WATCHDOG=1")

    def close(self) -> None:
        """Give the socket back. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def __enter__(self) -> Notifier:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, *lines: str) -> None:
        if self._address is None or not lines:
            return
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
                self._socket.setblocking(False)
            self._socket.sendto("\n".join(lines).encode("utf-8", "replace"), self._address)
        except OSError:
            pass  # a manager that is gone or slow must not stop us


def _address(text: str) -> str | bytes | None:
    """A path, an abstract name (leading @ stands for NUL), or None for what we cannot use (vsock)."""
    if text.startswith("@") and len(text) > 1:
        return b"\0" + os.fsencode(text[1:])
    return text if text.startswith("/") else None


def _watchdog_seconds(environ: Mapping[str, str]) -> float:
    # sd_watchdog_enabled(3): WATCHDOG_PID, when set, must be ours.
    try:
        if int(environ.get("WATCHDOG_PID", os.getpid())) != os.getpid():
            return 0.0
        return max(0, int(environ.get("WATCHDOG_USEC", "0"))) / 1e6
    except ValueError:
        return 0.0


def _status_line(text: str) -> tuple[str, ...]:
    return (f"STATUS={' '.join(text.split())}",) if text else ()
