"""bench/emulator.py with real namespaces and devices. Needs root; skipped with the reason otherwise."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench import emulator
from bench.emulator import EmulatedPath, EmulatorUnavailable, End
from bench.path_model import LinkSettings

needs_root = pytest.mark.skipif(emulator.unavailable() is not None, reason=str(emulator.unavailable()))


@contextmanager
def sockets(left: End, right: End, family: socket.AddressFamily) -> Iterator[tuple[socket.socket, socket.socket]]:
    """A UDP socket at each end, connected to each other."""
    addresses = [end.address if family == socket.AF_INET else end.address6 for end in (left, right)]
    made = []
    for end, address in zip((left, right), addresses, strict=True):
        with end.entered():
            sock = socket.socket(family, socket.SOCK_DGRAM)
        sock.bind((address, 7000))
        sock.settimeout(5)
        made.append(sock)
    try:
        made[0].connect((addresses[1], 7000))
        made[1].connect((addresses[0], 7000))
        yield made[0], made[1]
    finally:
        for sock in made:
            sock.close()


@needs_root
@pytest.mark.netns
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_packets_cross_in_both_directions_after_the_delay(family: socket.AddressFamily) -> None:
    with EmulatedPath(delay=0.03) as path, sockets(path.left, path.right, family) as (left, right):
        begin = time.monotonic()
        left.send(b"ping")
        assert right.recv(100) == b"ping"
        right.send(b"pong")
        assert left.recv(100) == b"pong"
        assert time.monotonic() - begin >= 0.06
        seen = path.statistics()
        assert (seen.forward.packets_out, seen.back.packets_out, seen.write_errors) == (1, 1, 0)


@needs_root
@pytest.mark.netns
def test_a_dark_path_carries_nothing_until_it_is_light_again() -> None:
    with EmulatedPath() as path, sockets(path.left, path.right, socket.AF_INET) as (left, right):
        path.change(loss=1.0, direction="forward")
        left.send(b"lost")
        right.send(b"other direction")
        assert left.recv(100) == b"other direction"
        path.change(loss=0.0)
        left.send(b"found")
        assert right.recv(100) == b"found"
        assert path.statistics().forward.lost == 1


@needs_root
@pytest.mark.netns
def test_the_two_directions_can_differ() -> None:
    with (
        EmulatedPath(loss=1.0, back=LinkSettings()) as path,
        sockets(path.left, path.right, socket.AF_INET) as (left, right),
    ):
        left.send(b"lost")
        right.send(b"kept")
        assert left.recv(100) == b"kept"
        assert path.statistics().back.lost == 0


@needs_root
@pytest.mark.netns
def test_programs_run_inside_and_see_nothing_else() -> None:
    with EmulatedPath() as path:
        shown = path.left.run(["ip", "-o", "link"], capture_output=True, text=True).stdout
        assert len(shown.splitlines()) == 2
        assert "path0" in shown
        here = os.stat("/proc/self/ns/net").st_ino
        inside = path.right.run(["stat", "-Lc", "%i", "/proc/self/ns/net"], capture_output=True, text=True).stdout
        assert int(inside) != here
        with path.left.entered():
            assert os.stat("/proc/thread-self/ns/net").st_ino not in (here, int(inside))
        assert os.stat("/proc/thread-self/ns/net").st_ino == here


@needs_root
@pytest.mark.netns
def test_nothing_is_left_after_closing() -> None:
    before = len(os.listdir("/proc/self/fd"))
    with EmulatedPath() as path:
        worker = path._worker
        assert worker is not None
    assert worker.returncode == 0
    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(RuntimeError, match="context manager"):
        path.statistics()


@needs_root
@pytest.mark.netns
def test_an_unusable_request_is_an_error_with_its_reason() -> None:
    with (
        pytest.raises(EmulatorUnavailable, match="tcp_congestion_control to nonesuch"),
        EmulatedPath(congestion_control="nonesuch"),
    ):
        pass
    with EmulatedPath() as path:
        with pytest.raises(ValueError, match="loss is 2"):
            path.change(loss=2.0)
        with pytest.raises(ValueError, match="give forward, back or both"):
            path.change(loss=0.0, direction="sideways")
        assert path.statistics().forward.lost == 0  # it still answers


def test_without_root_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(EmulatorUnavailable, match="needs root"), EmulatedPath():
        pass


def test_bad_settings_are_refused_before_anything_is_made() -> None:
    with pytest.raises(ValueError, match="loss is 3"):
        EmulatedPath(loss=3)
    with pytest.raises(ValueError, match="mtu is 100"):
        EmulatedPath(mtu=100)
