"""What is particular to the in-memory sessions; the contract they share with real engines is in ``contract``."""

from __future__ import annotations

import random

import pytest

from quicsocks.userspace.quic.errors import End, Ended, LocalError
from quicsocks.userspace.quic.memory import MemoryLink
from quicsocks.userspace.quic.types import Limits, Stream


class Log:
    """A handler of both kinds that writes down what is called."""

    def __init__(self, consume: bool = True) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.streams: list[Stream] = []
        self.data = bytearray()
        self.consume = consume
        self.stream: Stream | None = None

    def stream_opened(self, stream: Stream) -> None:
        self.streams.append(stream)
        log = Log(self.consume)
        log.stream = stream
        self.calls.append(("opened", stream.id, log))
        stream.set_handler(log)  # type: ignore[arg-type] # __getattr__ answers for the rest of the protocol

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.consume and self.stream is not None:
            self.stream.consumed(len(data))

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, *arguments))


def opened(session: Log) -> list[Log]:
    """What was heard on the streams that the peer opened."""
    return [call[2] for call in session.calls if call[0] == "opened" and isinstance(call[2], Log)]


def joined(**options: object) -> tuple[MemoryLink, Log, Log]:
    link = MemoryLink(**options)  # type: ignore[arg-type] # the tests name the options
    client, server = Log(), Log()
    link.client.set_handler(client)  # type: ignore[arg-type] # __getattr__ answers for the rest of the protocol
    link.server.set_handler(server)  # type: ignore[arg-type] # as above
    link.complete_handshake()
    link.run()
    return link, client, server


def test_chunk_size_splits_at_every_byte() -> None:
    link, _, server = joined(chunk_size=1)
    stream = link.client.open_stream()
    stream.write(b"hello")
    stream.finish()
    link.run()
    (log,) = opened(server)
    assert log.data == b"hello"
    assert log.calls == [("eof_received",)]


@pytest.mark.parametrize("seed", range(20))
def test_seeded_order_across_streams_keeps_order_within(seed: int) -> None:
    link, _, server = joined(chunk_size=3, rng=random.Random(seed))
    streams = [link.client.open_stream() for _ in range(5)]
    for stream in streams:
        stream.write(bytes(range(100)))
        stream.finish()
    link.run()
    logs = {stream.id: stream_log for stream, stream_log in zip(server.streams, opened(server), strict=True)}
    assert sorted(logs) == [0, 4, 8, 12, 16]
    for log in logs.values():
        assert log.data == bytes(range(100))
        assert log.calls == [("eof_received",)]


def test_chance_gives_other_orders() -> None:
    orders = set()
    for seed in range(10):
        link, _, server = joined(rng=random.Random(seed))
        for _ in range(4):
            link.client.open_stream().write(b"x")
        link.run()
        orders.add(tuple(call[1] for call in server.calls if call[0] == "opened"))
    assert len(orders) > 3


def test_schedule_runs_without_run() -> None:
    pending: list[object] = []
    link = MemoryLink(schedule=pending.append)
    client, server = Log(), Log()
    link.client.set_handler(client)  # type: ignore[arg-type] # __getattr__ answers for the rest of the protocol
    link.server.set_handler(server)  # type: ignore[arg-type] # as above
    link.complete_handshake()
    stream = link.client.open_stream()
    stream.write(b"a" * 5000)
    turns = 0
    while pending:
        pending.pop(0)()  # type: ignore[operator] # call_soon takes callables
        turns += 1
    assert turns >= 1
    (log,) = opened(server)
    assert len(log.data) == 5000


def test_sever_ends_streams_then_sessions() -> None:
    link, client, server = joined()
    stream = link.client.open_stream()
    log = Log()
    stream.set_handler(log)  # type: ignore[arg-type] # __getattr__ answers for the rest of the protocol
    stream.write(b"x")
    link.run()
    gone = Ended(End.TIMED_OUT)
    link.sever(gone)
    link.run()
    assert log.calls[-1] == ("connection_lost", gone)
    assert client.calls[-1] == ("session_ended", gone)
    assert server.calls[-1] == ("session_ended", gone)
    assert link.client.ended == gone


def test_unconsumed_bytes_hold_the_sender() -> None:
    limits = Limits(stream_window=1000, session_window=1500)
    link = MemoryLink(limits=limits)
    client, server = Log(), Log(consume=False)
    link.client.set_handler(client)  # type: ignore[arg-type] # __getattr__ answers for the rest of the protocol
    link.server.set_handler(server)  # type: ignore[arg-type] # as above
    link.complete_handshake()
    first, second = link.client.open_stream(), link.client.open_stream()
    first.write(bytes(5000))
    second.write(bytes(5000))
    link.run()
    logs = opened(server)
    assert [len(log.data) for log in logs] == [1000, 500]
    server.streams[0].stop_sending(7)
    link.run()
    assert [len(log.data) for log in logs] == [1000, 1000]
    assert first.send_buffered == 0, "dropped at the far end and credited"
    with pytest.raises(LocalError, match="1001 bytes consumed of 1000"):
        server.streams[1].consumed(1001)


def test_a_livelock_is_a_failure() -> None:
    link, _, _ = joined()
    link.client.open_stream().write(bytes(100_000))
    with pytest.raises(RuntimeError, match="still busy after 10 events"):
        link.run(10)
