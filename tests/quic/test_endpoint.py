"""Endpoints on loopback sockets, on asyncio's own loop and on uvloop."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import random
import socket
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from quicsocks.userspace.quic import udp
from quicsocks.userspace.quic.batched_endpoint import BatchedEndpoint
from quicsocks.userspace.quic.errors import End, Ended, LocalError
from quicsocks.userspace.quic.factory import open_endpoint
from quicsocks.userspace.quic.session import Route
from quicsocks.userspace.quic.types import Address, Endpoint, Limits, Session, SessionHandler, Stream

from .conftest import Runner
from .dialled import dial_config, listen_config
from .recorders import SessionLog, StreamLog

ANY: Address = ("127.0.0.1", 0)
ENGINE = "aioquic"


@pytest.fixture(params=["aioquic", "native"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("tests.quic.test_endpoint.ENGINE", request.param)
    engine: str = request.param
    return engine


def _all_ended(logs: list[SessionLog]) -> bool:
    return all(log.ended for log in logs)


def _has_arrived(log: SessionLog, data: bytes) -> bool:
    return bool(log.logs) and log.logs[0].data == data


async def until(condition: Callable[[], object]) -> None:
    """Turns of the loop, a millisecond apart; the fixture bounds them all together."""
    while not condition():
        await asyncio.sleep(0.001)


@dataclass
class Server:
    endpoint: Endpoint
    sessions: list[Session] = field(default_factory=list)
    logs: list[SessionLog] = field(default_factory=list)

    def accept(self, session: Session) -> SessionHandler:
        self.sessions.append(session)
        self.logs.append(SessionLog())
        return self.logs[-1]


async def serve(local: Address = ANY, **changes: Any) -> Server:
    server = Server(await open_endpoint([local], engine=ENGINE))
    server.endpoint.listen(_changed(listen_config(), changes), server.accept)
    return server


def _changed(config: Any, changes: dict[str, Any]) -> Any:
    import dataclasses

    return dataclasses.replace(config, **changes)


async def connected(client: Endpoint, server: Server, to: Address | None = None) -> tuple[Session, SessionLog]:
    log = SessionLog()
    session = client.dial(to if to is not None else server.endpoint.local_addresses[0], dial_config(), log)
    count = len(server.logs)
    await until(lambda: log.completed or log.ended)
    assert log.completed, log.ended
    await until(lambda: len(server.logs) > count - 1 and server.logs[-1].completed)
    return session, log


class Echo:
    """Sends back what it gets, with backpressure."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.uncredited = 0
        self.paused = False
        stream.set_handler(self)

    def data_received(self, data: bytes) -> None:
        self.stream.write(data)
        self.uncredited += len(data)
        self._credit()

    def _credit(self) -> None:
        if not self.paused:
            self.stream.consumed(self.uncredited)
            self.uncredited = 0

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._credit()

    def eof_received(self) -> None:
        self.stream.finish()

    def reset_received(self, code: int) -> None:
        self.stream.reset(code)

    def stop_received(self, code: int) -> None:
        self.stream.reset(code)

    def send_completed(self) -> None: ...

    def connection_lost(self, ended: Ended) -> None: ...


def test_megabytes_both_ways(run: Runner) -> None:
    async def main() -> None:
        server = await serve()
        client = await open_endpoint([ANY], engine=ENGINE)
        session, _ = await connected(client, server)
        server.logs[-1].take = False
        payload = random.Random(1).randbytes(3_000_000)
        near = StreamLog(session.open_stream())
        for position in range(0, len(payload), 100_000):
            await until(lambda: not near.paused)
            near.stream.write(payload[position : position + 100_000])
            if position == 0:
                await until(lambda: server.logs[-1].streams)
                Echo(server.logs[-1].streams[0])
        near.stream.finish()
        await until(lambda: ("eof",) in near.calls)
        assert hashlib.sha256(near.data).digest() == hashlib.sha256(payload).digest()
        await client.close()
        await server.endpoint.close()

    run(main())


async def send_a_megabyte(client: Endpoint, server: Server) -> None:
    session, _ = await connected(client, server)
    near = StreamLog(session.open_stream())
    payload = random.Random(2).randbytes(1_000_000)
    near.stream.write(payload)
    near.stream.finish()
    await until(lambda: near.calls)
    assert server.logs[-1].logs[0].data == payload
    await client.close()
    await server.endpoint.close()


def test_portable_sockets(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """What other systems than Linux use works here as well."""
    monkeypatch.setattr("quicsocks.userspace.quic.udp.PORTABLE", True)
    monkeypatch.setattr("quicsocks.userspace.quic.factory.PORTABLE", True)

    async def main() -> None:
        await send_a_megabyte(await open_endpoint([ANY], engine=ENGINE), await serve())

    run(main())


@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_full_socket_is_waited_for(run: Runner, engine: str, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    if engine == "native":
        pytest.skip("its sockets are written to by compiled code; the next test but one has them")
    original = udp.UdpSocket.send
    refusals = 0

    def send(self: Any, datagrams: list[tuple[bytes, Route]]) -> int:
        """Takes a few datagrams every second time, and none or a few more in between."""
        nonlocal refusals
        refusals += 1
        return original(self, datagrams[: 5 if refusals % 2 else most])

    monkeypatch.setattr(udp.UdpSocket, "send", send)

    async def main() -> None:
        await send_a_megabyte(await open_endpoint([ANY], engine=ENGINE), await serve())

    run(main())
    assert refusals > 100


@pytest.mark.skipif(sys.platform != "linux", reason="UDP_SEGMENT is Linux's")
def test_a_device_that_cannot_segment(run: Runner, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if engine == "native":
        pytest.skip("its sockets are written to by compiled code; the next test has them")
    from quicsocks.userspace.quic.udp_linux import UdpSocket

    original = UdpSocket._send_batch
    batches = 0

    def send_batch(self: UdpSocket, datagrams: list[tuple[bytes, Route]], at: int, end: int) -> None:
        nonlocal batches
        if end - at > 1:
            batches += 1
            raise OSError(errno.EIO, "as a device without checksum offload says")
        original(self, datagrams, at, end)

    monkeypatch.setattr(UdpSocket, "_send_batch", send_batch)

    async def main() -> None:
        await send_a_megabyte(await open_endpoint([ANY], engine=ENGINE), await serve())

    run(main())
    assert batches in (1, 2), "once for each socket, and never tried again"


@pytest.mark.skipif(sys.platform != "linux", reason="UDP_SEGMENT is Linux's")
@pytest.mark.parametrize("most", [0, 1, 3])
def test_full_sockets_and_bad_devices_under_the_native_engine(run: Runner, engine: str, most: int) -> None:
    if engine != "native":
        pytest.skip("its sockets are written to by Python; the last two tests have them")
    results = [most or -errno.EAGAIN, -errno.EAGAIN, -errno.EIO, -errno.EAGAIN, 2] * 8

    async def main() -> None:
        client, server = await open_endpoint([ANY], engine="native"), await serve()
        for endpoint in (client, server.endpoint):
            assert isinstance(endpoint, BatchedEndpoint)
            endpoint.batched.pretend(0, results)
        await send_a_megabyte(client, server)
        for endpoint in (client, server.endpoint):
            assert isinstance(endpoint, BatchedEndpoint)
            assert not endpoint.batched.pretending(0), "all of it has happened"

    run(main())


def test_one_socket_dials_and_accepts(run: Runner) -> None:
    async def main() -> None:
        one, two = await serve(), await serve()
        first, first_log = await connected(one.endpoint, two)
        second, second_log = await connected(two.endpoint, one)
        assert first.peer_address == two.endpoint.local_addresses[0]
        assert one.sessions[0].peer_address == two.endpoint.local_addresses[0]
        for session, log in ((first, two.logs[0]), (second, one.logs[0])):
            stream = session.open_stream()
            stream.write(b"across")
            await until(partial(_has_arrived, log, b"across"))
        assert one.endpoint.statistics()["sessions"] == two.endpoint.statistics()["sessions"] == 2
        await one.endpoint.close()
        await until(lambda: first_log.ended and second_log.ended)
        assert second_log.ended is not None
        assert second_log.ended.end is End.PEER_CLOSED
        await two.endpoint.close()

    run(main())


def test_ipv6_and_several_sockets(run: Runner) -> None:
    async def main() -> None:
        server = Server(await open_endpoint([("127.0.0.1", 0), ("::1", 0)], engine=ENGINE))
        server.endpoint.listen(listen_config(), server.accept)
        client = await open_endpoint([("0.0.0.0", 0), ("::", 0)], engine=ENGINE)
        for address in server.endpoint.local_addresses:
            session, _ = await connected(client, server, address)
            session.open_stream().write(b"x")
            await until(lambda: server.logs[-1].streams)
        await client.close()
        await server.endpoint.close()

    run(main())


def test_answers_come_from_the_address_that_was_asked(run: Runner) -> None:
    """A server on the wildcard address has several; its kernel would choose one by the route back."""

    async def main() -> None:
        server = await serve(("0.0.0.0", 0))
        port = server.endpoint.local_addresses[0][1]
        client = await open_endpoint([ANY], engine=ENGINE)
        await connected(client, server, ("127.0.0.77", port))
        assert server.sessions[0].local_address == ("127.0.0.77", port)
        await client.close()
        await server.endpoint.close()

    run(main())


def test_a_closed_port_is_told_at_once(run: Runner) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(ANY)
            closed = probe.getsockname()
        client = await open_endpoint([ANY], engine=ENGINE)
        log = SessionLog()
        begun = asyncio.get_running_loop().time()
        client.dial(closed, dial_config(), log)
        await until(lambda: log.ended)
        assert log.ended is not None
        assert log.ended.end is End.UNREACHABLE
        assert asyncio.get_running_loop().time() - begun < 3
        # The socket lives on.
        server = await serve()
        await connected(client, server)
        await client.close()
        await server.endpoint.close()

    run(main())


def test_many_icmp_errors_do_not_deafen_the_socket(run: Runner) -> None:
    async def main() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind(ANY)
            closed = probe.getsockname()
        server = await serve()
        client = await open_endpoint([ANY], engine=ENGINE)
        session, _ = await connected(client, server)
        for _ in range(10):
            logs = [SessionLog() for _ in range(5)]
            for log in logs:
                client.dial(closed, dial_config(), log)
            stream = session.open_stream()
            stream.write(b"meanwhile")
            await until(partial(server.logs[0].logs.get, stream.id))
            await until(partial(_all_ended, logs))
        await client.close()
        await server.endpoint.close()

    run(main())


def test_an_icmp_error_that_no_call_reports_does_not_deafen_the_socket(run: Runner) -> None:
    """As when a message amid a batch meets the error of the one before it: the call says how many it has sent, the error is
    spent, and its record waits in the queue while datagrams arrive."""

    async def main() -> None:
        server = await serve()
        bound = server.endpoint._sockets[0].socket  # type: ignore[attr-defined] # to play the kernel's part
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.bind(ANY)
            gone = stranger.getsockname()
        bound.sendto(b"nobody is there", gone)
        assert bound.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.ECONNREFUSED
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.sendto(b"\0 and something to read", server.endpoint.local_addresses[0])
            await until(lambda: server.endpoint.statistics().get("dropped_not_quic"))
        client = await open_endpoint([ANY], engine=ENGINE)
        session, _ = await connected(client, server)
        session.close()
        await client.close()
        await server.endpoint.close()

    run(main())


def test_the_server_is_gone_and_comes_back(run: Runner) -> None:
    """As after kill -9: nothing is said, the port is closed, and another process takes it with the same secret."""

    async def main() -> None:
        server = await serve()
        address = server.endpoint.local_addresses[0]
        client = await open_endpoint([ANY], engine=ENGINE)
        session, log = await connected(client, server)
        kill(server.endpoint)
        StreamLog(session.open_stream()).stream.write(b"into the void")
        await until(lambda: client.statistics().get("network_errors"))
        assert session.ended is None, "an ICMP error may be forged"
        again = await serve(address)
        await until(lambda: log.ended)
        assert log.ended is not None
        assert log.ended.end is End.PEER_RESET
        await connected(client, again)
        await client.close()
        await again.endpoint.close()

    run(main())


def kill(endpoint: Any) -> None:
    """Close its sockets without a word."""
    for opened in endpoint._sockets:
        endpoint._loop.remove_reader(opened.socket)
        opened.socket.close()
    endpoint._closed = True
    for handle in (endpoint._timer, endpoint._flush_handle):
        if handle is not None:
            handle.cancel()


def test_hook_raw_and_inject(run: Runner) -> None:
    async def main() -> None:
        one, two = await serve(), await serve()
        seen: list[tuple[bytes, Address]] = []

        def hook(data: bytes, remote: Address) -> bool:
            seen.append((data, remote))
            return True

        two.endpoint.set_first_byte_hook(hook)
        one.endpoint.send_raw(b"\x00\x01stun", two.endpoint.local_addresses[0])
        await until(lambda: seen)
        assert seen == [(b"\x00\x01stun", one.endpoint.local_addresses[0])]
        two.endpoint.inject(b"\x00\x02", ("192.0.2.1", 9))
        assert len(seen) == 1, "from the loop, not from the call"
        await until(lambda: len(seen) == 2)
        await one.endpoint.close()
        await two.endpoint.close()

    run(main())


def test_garbage_and_a_flood_of_initials_leave_real_clients_alone(run: Runner) -> None:
    from .test_admission import flights

    async def main() -> None:
        server = await serve(max_half_open_per_prefix=20, max_half_open=40, retry_above=10)
        address = server.endpoint.local_addresses[0]
        client = await open_endpoint([ANY], engine=ENGINE)
        chance = random.Random(1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            for initial in flights(list(range(1, 51))):
                stranger.sendto(initial, address)
                stranger.sendto(chance.randbytes(chance.randrange(1, 1500)), address)
                await asyncio.sleep(0)
            await until(lambda: server.endpoint.statistics().get("retries_sent", 0) >= 40)
            assert server.endpoint.statistics()["half_open"] <= 10
            session, _ = await connected(client, server)
            session.open_stream().write(b"x")
            await until(lambda: server.logs[-1].streams)
        await client.close()
        await server.endpoint.close()

    run(main())


def test_local_errors(run: Runner) -> None:
    async def main() -> None:
        first = await open_endpoint([ANY], engine=ENGINE)
        with pytest.raises(LocalError, match="Address already in use; choose another address or port"):
            await open_endpoint([ANY, first.local_addresses[0]])
        with pytest.raises(LocalError, match="is not an IP address"):
            await open_endpoint([("localhost", 0)], engine=ENGINE)
        with pytest.raises(LocalError, match="at least one"):
            await open_endpoint([], engine=ENGINE)
        with pytest.raises(LocalError, match="use one of: aioquic"):
            await open_endpoint([ANY], engine="quiche")
        with pytest.raises(LocalError, match="no socket for IPv6"):
            first.dial(("::1", 4433), dial_config(), SessionLog())
        await first.close()
        await first.close()
        with pytest.raises(LocalError, match="closed"):
            first.dial(("127.0.0.1", 4433), dial_config(), SessionLog())

    run(main())


def test_close_ends_sessions_at_both_ends(run: Runner) -> None:
    async def main() -> None:
        server = await serve()
        client = await open_endpoint([ANY], engine=ENGINE)
        _, log = await connected(client, server)
        await server.endpoint.close()
        assert server.logs[0].ended is not None
        await until(lambda: log.ended)
        assert log.ended == Ended(End.PEER_CLOSED, 0, "")
        await client.close()

    run(main())


def test_a_thousand_streams_open_at_once(run: Runner) -> None:
    async def main() -> None:
        server = await serve()
        client = await open_endpoint([ANY], engine=ENGINE)
        session, _ = await connected(client, server)
        nears = [StreamLog(session.open_stream()) for _ in range(1000)]
        for near in nears:
            near.stream.write(b"hello")
        await until(lambda: len(server.logs[0].logs) == 1000)
        for far in server.logs[0].logs.values():
            far.stream.write(b"world")
        await until(lambda: all(near.data == b"world" for near in nears))
        assert session.statistics().streams_open == 1000
        await client.close()
        await server.endpoint.close()

    run(main())


def test_handshake_timeout_on_a_silent_address(run: Runner) -> None:
    async def main() -> None:
        client = await open_endpoint([ANY], engine=ENGINE)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
            silent.bind(ANY)
            log = SessionLog()
            import dataclasses

            config = dataclasses.replace(dial_config(), limits=Limits(handshake_timeout=0.2))
            client.dial(silent.getsockname(), config, log)
            await until(lambda: log.ended)
        assert log.ended == Ended(End.HANDSHAKE_TIMED_OUT)
        await client.close()

    run(main())
