"""sd_notify: what is sent, to paths and abstract names, and that nobody listening is fine."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from quicsocks.userspace.notify import Notifier


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener, str(tmp_path / "notify")


def test_messages(manager: tuple[socket.socket, str]) -> None:
    listener, path = manager
    with Notifier({"NOTIFY_SOCKET": path}) as notifier:
        assert notifier.active
        notifier.ready("listening\non 127.0.0.1")
        assert listener.recv(1000) == b"READY=1\nSTATUS=listening on 127.0.0.1"
        notifier.ready()
        assert listener.recv(1000) == b"READY=1"
        notifier.status("connected")
        assert listener.recv(1000) == b"STATUS=connected"
        notifier.alive()
        assert listener.recv(1000) == b"WATCHDOG=1"
        notifier.reloading()
        first, second = listener.recv(1000).split(b"\n")
        assert first == b"RELOADING=1"
        assert int(second.removeprefix(b"MONOTONIC_USEC=")) > 0
        notifier.stopping("bye")
        assert listener.recv(1000) == b"STOPPING=1\nSTATUS=bye"
    notifier.close()


def test_abstract_socket() -> None:
    name = f"quicsocks-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(b"\0" + name.encode())
        listener.settimeout(5)
        with Notifier({"NOTIFY_SOCKET": f"@{name}"}) as notifier:
            notifier.ready()
        assert listener.recv(100) == b"READY=1"


@pytest.mark.parametrize("value", ["", "@", "vsock:2:1", "relative"])
def test_unusable_addresses_are_nobody(value: str) -> None:
    with Notifier({"NOTIFY_SOCKET": value, "WATCHDOG_USEC": "1000000"}) as notifier:
        assert not notifier.active
        assert notifier.watchdog_interval == 0
        notifier.ready()


def test_a_manager_that_is_gone_stops_nothing(tmp_path: Path) -> None:
    with Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}) as notifier:
        notifier.ready()
        notifier.stopping()
        assert notifier.active


def test_a_manager_that_does_not_read_blocks_nothing(manager: tuple[socket.socket, str]) -> None:
    with Notifier({"NOTIFY_SOCKET": manager[1]}) as notifier:
        for _ in range(2000):
            notifier.status("x" * 500)
    assert manager[0].recv(1000).startswith(b"STATUS=")


@pytest.mark.parametrize(
    ("variables", "interval"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, 0.0),
        ({"WATCHDOG_USEC": "junk"}, 0.0),
        ({"WATCHDOG_USEC": "-5"}, 0.0),
        ({}, 0.0),
    ],
)
def test_watchdog(manager: tuple[socket.socket, str], variables: dict[str, str], interval: float) -> None:
    with Notifier({"NOTIFY_SOCKET": manager[1], **variables}) as notifier:
        assert notifier.watchdog_interval == interval


def test_children_do_not_speak_in_our_name(manager: tuple[socket.socket, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", manager[1])
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    with Notifier() as notifier:
        assert notifier.watchdog_interval == 0.5
        assert "NOTIFY_SOCKET" not in os.environ
        assert "WATCHDOG_USEC" not in os.environ
        notifier.ready()
    assert manager[0].recv(100) == b"READY=1"
