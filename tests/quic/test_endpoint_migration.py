"""Sessions that move between real sockets on loopback, on asyncio's own loop and on uvloop, with each kind of socket."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
from dataclasses import replace

import pytest

from quicsocks.userspace.quic.errors import LocalError
from quicsocks.userspace.quic.factory import open_endpoint
from quicsocks.userspace.quic.types import Address, Endpoint, PathChange, Session, SessionHandler

from .conftest import Runner
from .dialled import dial_config, listen_config
from .recorders import SessionLog, StreamLog
from .test_endpoint import Echo, until

HOSTS = ["127.0.0.1", "::1"]


@pytest.fixture(params=["batched", "portable"], autouse=True)
def sockets(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "portable":
        monkeypatch.setattr("quicsocks.userspace.quic.udp.PORTABLE", True)
        monkeypatch.setattr("quicsocks.userspace.quic.factory.PORTABLE", True)


@pytest.fixture(params=HOSTS, ids=["IPv4", "IPv6"])
def host(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    try:
        with socket.socket(socket.AF_INET6 if ":" in found else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((found, 0))
    except OSError:
        pytest.skip(f"this machine has no {found}")
    return found


class Joined:
    """A client's endpoint and a server's, with one session between them."""

    def __init__(self) -> None:
        self.client_log = SessionLog()
        self.server_log = SessionLog(take=False)
        self.servers: list[Session] = []

    @property
    def server(self) -> Session:
        return self.servers[0]

    async def begin(self, host: str, *, addresses: int = 1, wildcard: bool = False) -> Joined:
        """addresses: how many the server has; all but the first are preferred. wildcard: as clients' sockets are."""
        self.server_endpoint = await open_endpoint([(host, 0)] * addresses, engine="native")
        first, *preferred = self.server_endpoint.local_addresses
        self.server_endpoint.listen(replace(listen_config(), preferred_address=tuple(preferred)), self._accept)
        everywhere = "::" if ":" in host else "0.0.0.0"
        self.client_endpoint: Endpoint = await open_endpoint([(everywhere if wildcard else host, 0)], engine="native")
        self.client = self.client_endpoint.dial(first, dial_config(), self.client_log)
        await until(lambda: self.client_log.completed and self.server_log.completed)
        return self

    def _accept(self, session: Session) -> SessionHandler:
        self.servers.append(session)
        return self.server_log

    async def echo(self, size: int) -> None:
        """size octets there and back."""
        payload = random.Random(size).randbytes(size)
        near, count = StreamLog(self.client.open_stream()), len(self.server_log.streams)
        for position in range(0, size, size // 100):
            await until(lambda: not near.paused)
            near.stream.write(payload[position : position + size // 100])
            if position == 0:
                await until(lambda: len(self.server_log.streams) > count)
                Echo(self.server_log.streams[-1])
        near.stream.finish()
        await until(lambda: ("eof",) in near.calls)
        assert hashlib.sha256(near.data).digest() == hashlib.sha256(payload).digest()

    @property
    def changes(self) -> list[tuple[PathChange, Address]]:
        return [(event.change, event.path.local) for event in self.client_log.paths]

    async def end(self) -> None:
        await self.client_endpoint.close()
        await self.server_endpoint.close()


async def until_migrated(joined: Joined, local: Address) -> None:
    """Not before the handshake is confirmed; the server's word for that may still be on its way."""
    await until(lambda: joined.client.migrate(local))


def test_a_client_moves_to_another_socket_in_the_middle_of_a_transfer(run: Runner, host: str) -> None:
    async def main() -> None:
        joined = await Joined().begin(host)
        first = joined.client.local_address
        second = joined.client_endpoint.add_address((host, 0))
        assert second != first
        assert joined.client_endpoint.local_addresses == (first, second)

        await joined.echo(1_000)
        transfer = asyncio.ensure_future(joined.echo(3_000_000))
        await until_migrated(joined, second)
        await until(lambda: joined.server.peer_address == second == joined.client.local_address)
        assert joined.client.migrate(first)
        await until(lambda: joined.server.peer_address == first == joined.client.local_address)
        await transfer
        assert joined.changes == [
            (PathChange.ADDED, second),
            (PathChange.VALIDATED, second),
            (PathChange.ADDED, first),
            (PathChange.VALIDATED, first),
        ]
        await joined.end()

    run(main())


def test_a_client_on_all_addresses_moves_to_another_port(run: Runner, host: str) -> None:
    async def main() -> None:
        joined = await Joined().begin(host, wildcard=True)
        second = joined.client_endpoint.add_address((joined.client.local_address[0], 0))
        await until_migrated(joined, second)
        await until(lambda: joined.server.peer_address == (host, second[1]))
        await joined.echo(500_000)
        assert joined.client_log.paths[-1].path.local[1] == second[1]
        await joined.end()

    run(main())


def test_a_client_goes_to_the_preferred_address(run: Runner, host: str) -> None:
    async def main() -> None:
        joined = await Joined().begin(host, addresses=2)
        preferred = joined.server_endpoint.local_addresses[1]
        await joined.echo(1_000_000)
        await until(lambda: joined.client.peer_address == preferred == joined.server.local_address)
        await joined.echo(100_000)
        await joined.end()

    run(main())


def test_where_it_cannot_move_it_says_so(run: Runner, host: str) -> None:
    async def main() -> None:
        joined = await Joined().begin(host)
        other = next(other for other in HOSTS if other != host)
        with pytest.raises(LocalError, match="no local address"):
            joined.client.migrate((host, 1))
        with pytest.raises(LocalError, match="in use"):
            joined.client_endpoint.add_address(joined.client.local_address)
        try:
            elsewhere = joined.client_endpoint.add_address((other, 0))
        except LocalError:
            elsewhere = (other, 1)  # This machine has one IP version only.
        with pytest.raises(LocalError, match="no local address"):
            joined.client.migrate(elsewhere)
        await joined.echo(1_000)
        assert joined.changes == []
        await joined.end()
        with pytest.raises(LocalError, match="closed"):
            joined.client_endpoint.add_address((host, 0))

    run(main())
