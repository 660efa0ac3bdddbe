"""Somebody stops reading during a big transfer: memory stays bounded, the others go on at full speed.

Each stalled flow may hold what its windows and the kernels' buffers hold; nothing may grow with what is offered.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.interop.dialogue import flood, receive_all, socks5
from tests.interop.fixtures import require
from tests.interop.nginx import digest
from tests.interop.proxies import Danted, Proxy, Quicsocks
from tests.interop.system import ORIGIN_V4, System

pytestmark = [pytest.mark.netns, pytest.mark.programs]

OFFERED = 200 << 20
TAKEN = 32 << 20
"""Most that one stalled flow may take: kernel buffers at three places (up to 6 MiB each) and two windows of 1 MiB."""
GROWTH = 12 << 20
"""Most that a process may grow by four stalled flows: a stream window of 1 MiB and a send buffer each, and slack for
the allocator."""
STALLED = 4
SLOWER = 4.0
"""Another flow may take that many times as long as without the stalled ones; on a busy machine times vary."""


@pytest.fixture(params=[Danted, Quicsocks], ids=lambda kind: kind.name)
def carrier(request: pytest.FixtureRequest, system: System) -> Iterator[Proxy]:
    """danted is the control: it holds one small buffer a flow. New ones, so that nothing is warm that hides growth."""
    kind: type[Proxy] = request.param
    require(kind)
    running = kind(system)
    try:
        running.start()
        yield running
    finally:
        running.stop()


def fetch(carrier: Proxy, system: System) -> float:
    """Seconds that another flow takes for 8 MiB, checked."""
    began = time.monotonic()
    with carrier.connect(60) as sock:
        assert socks5(sock, ORIGIN_V4, 80).code == 0
        sock.sendall(b"GET /8m HTTP/1.0\r\n\r\n")
        body = receive_all(sock).partition(b"\r\n\r\n")[2]
    assert digest(body) == system.nginx.hashes["8m"]
    return time.monotonic() - began


@pytest.mark.parametrize("stalls", ["application", "destination"])
def test_a_stalled_reader_costs_a_bounded_amount(carrier: Proxy, system: System, stalls: str) -> None:
    fetch(carrier, system)
    undisturbed = fetch(carrier, system)
    before = carrier.rss()
    with ExitStack() as stack:
        listener = stack.enter_context(system.origin.listen(ORIGIN_V4))
        for _ in range(STALLED):
            application = stack.enter_context(carrier.connect(30))
            assert socks5(application, ORIGIN_V4, listener.getsockname()[1]).code == 0
            destination = stack.enter_context(listener.accept()[0])
            sender = destination if stalls == "application" else application
            assert flood(sender, OFFERED, patience=1.0) < TAKEN
        assert fetch(carrier, system) < SLOWER * undisturbed + 1
        growth = {name: size - before[name] for name, size in carrier.rss().items()}
        assert all(size < GROWTH for size in growth.values()), growth
        # Still stalled, and still open: nobody gave up on it.
        assert sender.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    fetch(carrier, system)
