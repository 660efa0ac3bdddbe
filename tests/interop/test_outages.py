"""The tunnel breaks: the wire is cut, the concentrator is restarted or killed, or was never there."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.interop.dialogue import http_connect, receive, socks5, wait_reset
from tests.interop.processes import Process
from tests.interop.proxies import Quicsocks
from tests.interop.system import CLIENT_V4, DEVICE, NAME, ORIGIN_V4, System

pytestmark = [pytest.mark.netns, pytest.mark.programs]

SECOND_V4 = "10.71.1.9"
"""Another address in the client's network."""
BACK = 5.0
"""Seconds after the concentrator is up again within which requests succeed."""
WAIT = 10.0
"""Seconds that a request waits for the tunnel."""
NOTICED = 45.0
"""Seconds within which a dead connection is noticed: the idle timeout of 30 s, and what a loaded machine adds."""


@pytest.fixture
def fresh(system: System) -> Iterator[Quicsocks]:
    """Ours, for one test that breaks it."""
    running = Quicsocks(system)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def answers(proxy: Quicsocks, timeout: float = WAIT + 5) -> bool:
    """Whether a request through the tunnel succeeds."""
    with proxy.connect(timeout) as sock:
        if socks5(sock, ORIGIN_V4, 80).code != 0:
            return False
        sock.sendall(f"HEAD /1k HTTP/1.0\r\nHost: {NAME}\r\n\r\n".encode())
        return sock.recv(12) == b"HTTP/1.1 200"


def back_after(proxy: Quicsocks, began: float) -> float:
    """Seconds from began until a request has succeeded."""
    while not answers(proxy):
        assert time.monotonic() - began < 30, proxy.client.output
    return time.monotonic() - began


def check_refused_in_time(proxy: Quicsocks) -> None:
    """Without a tunnel requests wait for it, and then are told the truth."""

    def by_socks5() -> int:
        with proxy.connect(WAIT + 10) as sock:
            return socks5(sock, ORIGIN_V4, 80).code

    def by_connect() -> int:
        with proxy.connect(WAIT + 10) as sock:
            return http_connect(sock, f"{ORIGIN_V4}:80").status

    began = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(call) for call in (by_socks5, by_connect)]
        assert [answer.result() for answer in answers] == [1, 504]
    assert WAIT - 1 < time.monotonic() - began < WAIT + 3


def lines(proxy: Quicsocks, pattern: str) -> list[str]:
    return [line for line in proxy.client.stderr if re.search(pattern, line)]


@pytest.mark.parametrize("how", ["terminated", "killed"])
def test_a_restarted_concentrator_is_found_again(fresh: Quicsocks, how: str) -> None:
    assert answers(fresh)
    process = fresh.concentrator
    assert (process.stop() == 0) if how == "terminated" else (process.kill() == -9)
    fresh.start_concentrator()
    assert back_after(fresh, time.monotonic()) < BACK
    assert len(lines(fresh, "connection lost")) == 1, "one line for one event"
    assert "Traceback" not in fresh.client.output


@pytest.mark.parametrize("how", ["terminated", "killed"])
def test_flows_of_a_concentrator_that_ends_are_reset_and_never_hang(fresh: Quicsocks, system: System, how: str) -> None:
    with system.origin.listen(ORIGIN_V4) as listener, fresh.connect() as sock:
        assert socks5(sock, ORIGIN_V4, listener.getsockname()[1]).code == 0
        with listener.accept()[0] as far:
            sock.sendall(b"x")
            assert receive(far, 1) == b"x"
            if how == "terminated":
                fresh.concentrator.stop(20)
            else:
                fresh.concentrator.kill()
                fresh.start_concentrator()
            # A kernel that buries a killed process sends FIN for it.
            assert wait_reset(far, 15) if how == "terminated" else far.recv(1) == b"", "the destination is told"
            assert wait_reset(sock, NOTICED), "the application is told"


def test_a_cut_wire_is_noticed_and_mended(fresh: Quicsocks, system: System) -> None:
    with system.origin.listen(ORIGIN_V4) as listener, fresh.connect() as sock:
        assert socks5(sock, ORIGIN_V4, listener.getsockname()[1]).code == 0
        with listener.accept()[0]:
            system.set_link(up=False)
            try:
                assert wait_reset(sock, NOTICED), "a broken flow is reset, it does not hang"
                check_refused_in_time(fresh)
            finally:
                system.set_link(up=True)
    assert back_after(fresh, time.monotonic()) < 15, "within one step of the backoff"
    assert len(lines(fresh, "connection lost")) == 1


def test_a_short_cut_loses_nothing(fresh: Quicsocks, system: System) -> None:
    """A second without a wire is a loss like any other: the transfer goes on and is whole."""
    with fresh.connect(40) as sock:
        assert socks5(sock, ORIGIN_V4, system.mannerly.port).code == 0
        sock.sendall(b"a" * 100_000)
        system.set_link(up=False)
        fresh.client.pause(1.0)
        system.set_link(up=True)
        sock.sendall(b"b" * 100_000)
        sock.shutdown(1)
        assert sock.recv(7) == b"200000 "
    assert lines(fresh, "connection lost") == []


def test_another_address_of_the_client_loses_nothing(fresh: Quicsocks, system: System) -> None:
    """The network gives the machine another address in the middle of a transfer (RFC 9000 §9.3)."""

    def change(old: str, new: str) -> None:
        # In this order: the first address of a network takes the others with it.
        system.ip(system.client, "addr", "del", f"{old}/24", "dev", DEVICE)
        system.ip(system.client, "addr", "add", f"{new}/24", "dev", DEVICE)

    with fresh.connect(40) as sock:
        assert socks5(sock, ORIGIN_V4, system.mannerly.port).code == 0
        sock.sendall(b"a" * 100_000)
        change(CLIENT_V4, SECOND_V4)
        try:
            sock.sendall(b"b" * 100_000)
            sock.shutdown(1)
            assert sock.recv(7) == b"200000 "
        finally:
            change(SECOND_V4, CLIENT_V4)
    assert answers(fresh)
    assert lines(fresh, "connection lost") == []


def test_a_concentrator_that_is_not_there_yet(fresh: Quicsocks) -> None:
    fresh.client.stop()
    fresh.concentrator.stop()
    client = start_unready(fresh)
    line = client.wait_line("cannot connect to").string
    assert "Traceback" not in client.output
    wait_for(lambda: listens(fresh), fresh)
    check_refused_in_time(fresh)
    assert client.stderr.count(line) == 1, "one line, not one an attempt"
    fresh.start_concentrator()
    back_after(fresh, time.monotonic())
    assert client.poll() is None


def test_once_gives_up(fresh: Quicsocks) -> None:
    fresh.client.stop()
    fresh.concentrator.stop()
    client = start_unready(fresh, "--once")
    assert client.wait(40) == 1
    assert len([line for line in client.stderr if "cannot connect" in line]) == 1


def test_a_goodbye_lets_open_flows_finish(fresh: Quicsocks, system: System) -> None:
    """SIGTERM: no new flows, those open get up to 10 s, exit status 0."""
    with fresh.connect(30) as sock:
        assert socks5(sock, ORIGIN_V4, system.mannerly.port).code == 0
        sock.sendall(b"a" * 1000)
        fresh.concentrator.signal(15)
        fresh.client.wait_line("goodbye|going away|shutting down|connection lost")
        sock.sendall(b"b" * 1000)
        sock.shutdown(1)
        assert sock.recv(5) == b"2000 "
    assert fresh.concentrator.wait(15) == 0


def start_unready(proxy: Quicsocks, *words: str) -> Process:
    """Start the client without waiting for a connection."""
    process = proxy.system.spawner.start(proxy.place, proxy.run_argv(*words), name="client")
    proxy.processes["client"] = process
    return process


def listens(proxy: Quicsocks) -> bool:
    try:
        proxy.connect(1).close()
    except OSError:
        return False
    return True


def wait_for(condition: Callable[[], bool], proxy: Quicsocks, timeout: float = 10.0) -> None:
    for _ in range(int(timeout / 0.05)):
        if condition():
            return
        assert not proxy.client.pause(0.05), proxy.client.output
    raise AssertionError(f"not within {timeout} s")
