"""Several endpoints on one port, as workers are, with eight clients: each packet ends up at the worker that it is for."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvloop

from quicsocks.userspace.quic.errors import End
from quicsocks.userspace.quic.factory import open_endpoint
from quicsocks.userspace.quic.types import Address, Endpoint, Session, SessionHandler, Stream
from quicsocks.userspace.quic.workers import SWITCH, Group, attach

from .dialled import dial_config, listen_config
from .recorders import Call, SessionLog, StreamLog

ANY: Address = ("127.0.0.1", 0)
WORKERS = 3
CLIENTS = 8
ALWAYS_THE_FIRST = struct.pack("=HBBI", 0x06, 0, 0, 0)
"""A program that is wrong for all but the first worker: return 0."""


@pytest.fixture(params=["aioquic", "native"])
def engine(request: pytest.FixtureRequest) -> str:
    engine: str = request.param
    return engine


def run(main: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(main, 20)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


@dataclass
class Worker:
    endpoint: Endpoint
    sessions: list[Session] = field(default_factory=list)

    def accept(self, session: Session) -> SessionHandler:
        self.sessions.append(session)
        return Echoing()

    def count(self, name: str) -> int:
        return self.endpoint.statistics()[name]


class Echoing(SessionLog):
    """Sends back what comes on each stream."""

    def stream_opened(self, stream: Stream) -> None:
        super().stream_opened(stream)
        log = self.logs[stream.id]

        def answer(call: Call) -> None:
            if call == ("eof",):
                stream.write(bytes(log.data))
                stream.finish()

        log.on_call = answer


class Road:
    """A NAT between a client and the workers, that can take another port at any time."""

    def __init__(self, to: Address) -> None:
        self._to = to
        self._loop = asyncio.get_running_loop()
        self._inner = _udp(ANY)
        self._outer = _udp(ANY)
        self._client: Address | None = None
        self._loop.add_reader(self._inner, self._outwards)
        self._loop.add_reader(self._outer, self._inwards)
        self.address: Address = self._inner.getsockname()

    def rebind(self) -> None:
        self._loop.remove_reader(self._outer)
        self._outer.close()
        self._outer = _udp(ANY)
        self._loop.add_reader(self._outer, self._inwards)

    def close(self) -> None:
        for one in (self._inner, self._outer):
            self._loop.remove_reader(one)
            one.close()

    def _outwards(self) -> None:
        data, self._client = self._inner.recvfrom(65536)
        self._outer.sendto(data, self._to)

    def _inwards(self) -> None:
        data = self._outer.recv(65536)
        assert self._client is not None
        self._inner.sendto(data, self._client)


def _udp(address: Address) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.setblocking(False)
    opened.bind(address)
    return opened


@dataclass
class World:
    group: Group
    workers: list[Worker]
    clients: list[Endpoint] = field(default_factory=list)
    sessions: list[Session] = field(default_factory=list)
    logs: list[SessionLog] = field(default_factory=list)
    roads: list[Road] = field(default_factory=list)

    @classmethod
    async def build(cls, engine: str) -> World:
        group = Group([ANY], WORKERS)
        workers = [
            Worker(await open_endpoint([], engine=engine, share=group.share(number))) for number in range(WORKERS)
        ]
        for worker in workers:
            worker.endpoint.listen(listen_config(), worker.accept)
        return cls(group, workers)

    async def connect(self, engine: str, *, roads: bool = False) -> None:
        for _ in range(CLIENTS):
            to = self.group.local_addresses[0]
            if roads:
                self.roads.append(Road(to))
                to = self.roads[-1].address
            self.clients.append(await open_endpoint([ANY], engine=engine))
            self.logs.append(SessionLog())
            self.sessions.append(self.clients[-1].dial(to, dial_config(), self.logs[-1]))
        await until(lambda: all(log.completed for log in self.logs))

    async def exchange(self, size: int) -> None:
        """Each client has size octets echoed, all at once."""
        payload = random.Random(size).randbytes(size)
        streams = [StreamLog(session.open_stream()) for session in self.sessions]
        for log in streams:
            log.stream.write(payload)
            log.stream.finish()
        await until(lambda: all(("eof",) in log.calls for log in streams))
        assert all(log.data == payload for log in streams)

    def total(self, name: str) -> int:
        return sum(worker.count(name) for worker in self.workers)

    async def close(self) -> None:
        for road in self.roads:
            road.close()
        for endpoint in (*self.clients, *(worker.endpoint for worker in self.workers)):
            await endpoint.close()
        self.group.close()


def test_every_packet_reaches_its_worker_at_once(engine: str) -> None:
    async def main() -> None:
        world = await World.build(engine)
        if not world.group.steered:
            pytest.skip("this kernel takes no SO_ATTACH_REUSEPORT_CBPF")
        await world.connect(engine)
        await world.exchange(100_000)
        assert sum(len(worker.sessions) for worker in world.workers) == CLIENTS
        assert world.total("forwarded") == world.total("forwarded_here") == 0
        await world.close()

    run(main())


def test_a_client_that_moves_stays_with_its_worker(engine: str) -> None:
    async def main() -> None:
        world = await World.build(engine)
        if not world.group.steered:
            pytest.skip("this kernel takes no SO_ATTACH_REUSEPORT_CBPF")
        await world.connect(engine, roads=True)
        for _ in range(3):
            for road in world.roads:
                road.rebind()
            await world.exchange(3000)
        assert sum(len(worker.sessions) for worker in world.workers) == CLIENTS
        assert world.total("forwarded") == 0
        await world.close()

    run(main())


def test_what_a_wrong_program_does_is_put_right_and_counted(engine: str) -> None:
    async def main() -> None:
        world = await World.build(engine)
        if not attach(world.group.sockets[0][0], ALWAYS_THE_FIRST):
            pytest.skip("this kernel takes no SO_ATTACH_REUSEPORT_CBPF")
        await world.connect(engine)
        while len(world.workers[0].sessions) == len(world.clients):
            await world.connect(engine)  # By chance all of them have chosen the first worker.
        await world.exchange(20_000)
        assert sum(len(worker.sessions) for worker in world.workers) == len(world.clients)
        elsewhere = len(world.clients) - len(world.workers[0].sessions)
        assert world.workers[0].count("forwarded") >= 2 * elsewhere
        await until(lambda: world.total("forwarded") == world.total("forwarded_here"))
        assert world.workers[0].count("forwarded_here") == 0
        assert world.total("forward_lost") == 0
        await world.close()

    run(main())


def test_without_the_program_clients_that_move_are_forwarded(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SWITCH, "none")

    async def main() -> None:
        world = await World.build(engine)
        assert not world.group.steered
        await world.connect(engine, roads=True)
        await world.exchange(3000)
        assert world.total("forwarded") == 0
        # The kernel's hash keeps a client where it was with one in three: not all of them, nor time after time.
        for _ in range(4):
            for road in world.roads:
                road.rebind()
            await world.exchange(3000)
        assert sum(len(worker.sessions) for worker in world.workers) == CLIENTS
        assert world.total("forwarded") > 0
        await world.close()

    run(main())


def test_a_worker_that_has_lost_its_state_answers_with_a_reset(engine: str) -> None:
    async def main() -> None:
        world = await World.build(engine)
        if not world.group.steered:
            pytest.skip("this kernel takes no SO_ATTACH_REUSEPORT_CBPF")
        await world.connect(engine)
        lost = max(world.workers, key=lambda worker: len(worker.sessions))
        number, count = world.workers.index(lost), len(lost.sessions)
        # As after kill -9: nobody is told, and the sockets are as they were.
        share = world.group.share(number)
        for opened in share.sockets:
            asyncio.get_running_loop().remove_reader(opened)
        asyncio.get_running_loop().remove_reader(share.inbox)
        again = Worker(await open_endpoint([], engine=engine, share=share))
        again.endpoint.listen(listen_config(), again.accept)
        for session in world.sessions:
            session.open_stream().write(bytes(100))
        await until(lambda: sum(log.ended is not None for log in world.logs) == count)
        assert {log.ended.end for log in world.logs if log.ended is not None} == {End.PEER_RESET}
        assert again.count("resets_sent") >= count
        world.workers[number] = again
        await world.close()

    run(main())


def test_packets_of_workers_that_are_no_more_are_answered_with_a_reset(engine: str) -> None:
    """After a start with fewer workers."""

    async def main() -> None:
        world = await World.build(engine)
        await world.connect(engine)
        address = world.group.local_addresses[0]
        loop = asyncio.get_running_loop()
        for number in range(WORKERS):
            loop.remove_reader(world.group.sockets[number][0])
        world.group.close()
        only = Worker(await open_endpoint([address], engine=engine, workers=1))
        only.endpoint.listen(listen_config(), only.accept)
        for session in world.sessions:
            session.open_stream().write(bytes(100))
        await until(lambda: all(log.ended is not None for log in world.logs))
        assert {log.ended.end for log in world.logs if log.ended is not None} == {End.PEER_RESET}
        await only.endpoint.close()
        for endpoint in world.clients:
            await endpoint.close()

    run(main())
