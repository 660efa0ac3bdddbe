"""Decides where an application's request goes: through the tunnel (the default), directly, or nowhere.

Rules are in order, the first match wins. A rule on a name sees only the name, a rule on addresses only address
literals: nothing here resolves a name, for that would show it to this host's resolver. Only a request that a ``direct``
rule has matched is resolved on this host.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from ipaddress import ip_address

from quicsocks.socks.direct import SocketExit
from quicsocks.socks.types import Exit, Failure, Flow, FlowError, Request

from .client_flow import ClientFlow
from .egress.names import HostError, normalise_name
from .egress.rules import Pattern
from .flows import FlowTable
from .settings import Rule
from .uplink import Uplink

DIRECT_TIMEOUT = 10.0
"""Seconds to reach a destination without the tunnel, its name's resolution included."""


class Routes:
    """The client's ordered rules. Raises RuleError for a pattern that cannot be understood."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = [(rule.action, Pattern.parse(rule.pattern)) for rule in rules]

    def route(self, host: str, port: int) -> str:
        """tunnel, direct or block for a name or an address literal without brackets."""
        if not self._rules:
            return "tunnel"
        try:
            address = ip_address(host)
        except ValueError:
            address = None
        name: str | None = None
        if address is None:
            try:
                name = normalise_name(host)
            except HostError:
                # Odd forms of addresses included: the far end judges them, no rule here may match by accident.
                name = None
        for action, pattern in self._rules:
            if not pattern.matches_port(port):
                continue
            if pattern.is_everything:
                return action
            if address is not None and pattern.network is not None and pattern.matches_address(address):
                return action
            if name is not None and pattern.network is None and pattern.matches_name(name):
                return action
        return "tunnel"


class ClientExit:
    """The front doors' Exit."""

    def __init__(self, uplink: Uplink, flows: FlowTable, routes: Routes, direct: Exit) -> None:
        self._uplink = uplink
        self._flows = flows
        self._routes = routes
        self._direct = direct
        self._loop = asyncio.get_running_loop()

    def open(self, request: Request) -> Flow:
        route = self._routes.route(request.host, request.port)
        if route == "direct":
            return self._direct.open(request)
        flow = ClientFlow(request, self._flows, self._loop)
        if route == "block":
            flow.fail(FlowError(Failure.DENIED, "blocked by a rule of this client"))
        else:
            self._uplink.submit(flow)
        return flow


async def dial_directly(request: Request) -> socket.socket:
    """Connect from this host, for ``direct`` rules. Raises FlowError or OSError."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(DIRECT_TIMEOUT):
            found = await loop.getaddrinfo(request.host, request.port, type=socket.SOCK_STREAM)
            last: OSError | None = None
            for family, kind, proto, _, address in found:
                sock = socket.socket(family, kind, proto)
                sock.setblocking(False)
                try:
                    await loop.sock_connect(sock, address)
                    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                except OSError as error:
                    sock.close()
                    last = error
                except BaseException:
                    sock.close()
                    raise
                else:
                    return sock
    except TimeoutError:
        raise FlowError(Failure.TIMED_OUT) from None
    except socket.gaierror as error:
        raise FlowError(Failure.NAME_NOT_FOUND, error.strerror or "") from None
    raise last or FlowError(Failure.NAME_NOT_FOUND)


def direct_exit() -> SocketExit:
    """The Exit for ``direct`` rules."""
    return SocketExit(dial_directly)
