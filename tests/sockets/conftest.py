"""A pair of kernel sockets with something between them: nothing at all, or the whole product on loopback."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.interop.dialogue import socks5
from tests.interop.fixtures import loopback
from tests.interop.proxies import Quicsocks
from tests.interop.system import System

__all__ = ["carrier", "loopback", "product_on_loopback"]

RECEIVE_BUFFER = 64 << 10
"""Small, so that a reader who stops is felt soon."""


@dataclass(slots=True)
class Pair:
    """application: the socket of a program that uses the proxy. destination: the socket of the origin's kernel."""

    application: socket.socket
    destination: socket.socket

    def ends(self, actor: str) -> tuple[socket.socket, socket.socket]:
        """(the one that acts, the one that observes)."""
        both = (self.application, self.destination)
        return both if actor == "application" else (both[1], both[0])


class Carrier:
    """Makes pairs. proxy is None for a plain TCP connection: the control that shows what kernels do by themselves."""

    def __init__(self, proxy: Quicsocks | None) -> None:
        self.proxy = proxy
        self._stack = ExitStack()

    def pair(self) -> Pair:
        listener = self._stack.enter_context(socket.socket())
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        listener.settimeout(10)
        host, port = listener.getsockname()
        application = self._stack.enter_context(socket.socket())
        application.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
        application.settimeout(15)
        if self.proxy is None:
            application.connect((host, port))
        else:
            application.connect((self.proxy.host, self.proxy.port))
            reply = socks5(application, host, port)
            assert reply.code == 0
        destination = self._stack.enter_context(listener.accept()[0])
        destination.settimeout(15)
        return Pair(application, destination)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture(scope="session")
def product_on_loopback(loopback: System) -> Iterator[Quicsocks]:
    proxy = Quicsocks(loopback)
    try:
        proxy.start()
        yield proxy
    finally:
        proxy.stop()


@pytest.fixture(params=["direct", "quicsocks"])
def carrier(request: pytest.FixtureRequest) -> Iterator[Carrier]:
    proxy = None if request.param == "direct" else request.getfixturevalue("product_on_loopback")
    made = Carrier(proxy)
    yield made
    made.close()
