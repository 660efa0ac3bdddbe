"""Octets between a stream and a socket without a Python object in between, over a simulated network and a kernel socket."""

from __future__ import annotations

import random
import select
import socket
from collections.abc import Iterator

import pytest

from quicsocks.userspace.quic.errors import LocalError
from quicsocks.userspace.quic.types import Limits, Pump

from ...sim.link import Conditions
from ...tcp import close_with_reset, tcp_pair
from ..dialled import Dialled, dial
from ..recorders import StreamLog

LIMITS = Limits(stream_window=1 << 20, send_high_water=64 << 10)


class Joined:
    """The server's end of a stream, joined to a socket; ``app`` is the socket's other end, the client's end is ``near``."""

    def __init__(self, conditions: Conditions | None = None) -> None:
        self.dialled: Dialled = dial(
            3, conditions or Conditions(delay=0.005), limits=LIMITS, engines=("native", "native")
        ).complete()
        self.near = StreamLog(self.dialled.client.open_stream())
        self.near.stream.write(b"!")
        self.dialled.pair.settle()
        self.far = self.dialled.server_log.logs[self.near.stream.id]
        self.far.data.clear()
        self.app, self.inner = tcp_pair()
        for end in (self.app, self.inner):
            end.setblocking(False)
        self.full = 0
        self.errors: list[OSError] = []
        pump = self.far.stream.pump(self.inner.fileno(), self._on_full, self.errors.append)
        assert pump is not None
        self.pump: Pump = pump

    def _on_full(self) -> None:
        self.full += 1

    def settle(self) -> None:
        self.dialled.pair.settle(0.5)

    def read(self) -> bytes:
        """All that has come out at the application."""
        out = bytearray()
        while True:
            try:
                piece = self.app.recv(1 << 20)
            except BlockingIOError:
                return bytes(out)
            if not piece:
                return bytes(out)
            out += piece

    def read_exactly(self, size: int) -> bytes:
        """The kernel may take its time, even on loopback."""
        out = bytearray()
        while len(out) < size:
            assert select.select([self.app], [], [], 5.0)[0], f"{len(out)} octets of {size}"
            piece = self.app.recv(size - len(out))
            assert piece
            out += piece
            self.pump.write()
        return bytes(out)

    def close(self) -> None:
        self.app.close()
        self.inner.close()
        self.dialled.pair.close()


@pytest.fixture
def joined() -> Iterator[Joined]:
    made = Joined()
    yield made
    made.close()


def test_octets_pass_both_ways(joined: Joined) -> None:
    there, back = random.Random(1).randbytes(50_000), random.Random(2).randbytes(40_000)
    joined.near.stream.write(there)
    assert joined.app.send(back) == len(back)
    joined.settle()
    while joined.pump.read() > 0:
        pass
    joined.settle()
    assert joined.read_exactly(len(there)) == there
    assert joined.near.data == back
    assert not joined.far.data, "nothing passes the handler"
    assert (joined.pump.sent, joined.pump.received) == (len(back), len(there))
    assert joined.pump.active_at > 0


def test_what_came_before_it_was_joined_is_not_lost() -> None:
    dialled = dial(3, Conditions(delay=0.005), engines=("native", "native")).complete()
    near = StreamLog(dialled.client.open_stream())
    dialled.server_log.take = False
    near.stream.write(b"early")
    dialled.pair.settle()
    [stream] = dialled.server_log.streams
    app, inner = tcp_pair()
    inner.setblocking(False)
    assert stream.pump(inner.fileno(), lambda: None, lambda error: None) is not None
    log = StreamLog(stream)
    dialled.pair.settle()
    assert app.recv(100) == b"early"
    assert not log.data
    app.close()
    inner.close()


def test_an_application_that_does_not_read_stops_the_sender(joined: Joined) -> None:
    payload = random.Random(3).randbytes(8 << 20)
    view, at, out = memoryview(payload), 0, bytearray()

    def feed() -> None:
        nonlocal at
        while not joined.near.paused and at < len(payload):
            joined.near.stream.write(view[at : at + 65536])
            at += 65536
        joined.settle()

    for _ in range(100):
        feed()
    # Stopped: what the kernel took, a window, and what waits at the sender.
    assert joined.full == 1
    assert joined.near.paused
    assert at < len(payload)
    assert joined.dialled.server.statistics().stream_bytes_received <= joined.pump.received + LIMITS.stream_window
    while len(out) < len(payload):
        out += joined.read()
        joined.pump.write()
        feed()
    assert bytes(out) == payload


def test_a_reader_that_is_far_ahead_is_paused(joined: Joined) -> None:
    joined.dialled.pair.down.conditions = Conditions(loss=1.0)
    passed = 0
    while not joined.far.paused:
        joined.app.send(bytes(65536))
        size = joined.pump.read()
        assert size > 0
        passed += size
        assert passed < 1 << 20
    assert passed > LIMITS.send_high_water


def test_the_end_comes_behind_the_octets(joined: Joined) -> None:
    joined.near.stream.write(bytes(300_000))
    joined.near.stream.finish()
    joined.settle()
    assert joined.far.calls == [("eof",)]
    assert joined.read_exactly(300_000) == bytes(300_000)
    joined.app.shutdown(socket.SHUT_WR)
    assert joined.pump.read() == 0
    joined.far.stream.finish()
    joined.settle()
    assert ("eof",) in joined.near.calls


def test_the_end_waits_for_a_full_socket(joined: Joined) -> None:
    size = 0
    while not joined.full:
        joined.near.stream.write(bytes(200_000))
        size += 200_000
        joined.settle()
    joined.near.stream.finish()
    joined.settle()
    assert joined.far.calls == []
    arrived = 0
    while joined.far.calls != [("eof",)]:
        arrived += len(joined.read())
        joined.pump.write()
        joined.settle()
    assert len(joined.read_exactly(size - arrived)) == size - arrived


def test_nothing_to_read_is_no_end(joined: Joined) -> None:
    assert joined.pump.read() == -1
    assert joined.far.stream.send_buffered == 0


def test_a_reset_of_the_application_is_an_error_of_both(joined: Joined) -> None:
    close_with_reset(joined.app)
    with pytest.raises(ConnectionResetError):
        joined.pump.read()
    joined.near.stream.write(b"x")
    joined.settle()
    assert [type(error) for error in joined.errors] == [BrokenPipeError]


def test_a_reset_of_the_peer_is_told_and_drops_what_waits(joined: Joined) -> None:
    joined.near.stream.write(b"some")
    joined.near.stream.reset(7)
    joined.settle()
    assert joined.far.calls == [("reset", 7)]


def test_after_parting_the_handler_has_it_again(joined: Joined) -> None:
    joined.pump.close()
    joined.pump.close()
    assert joined.pump.read() == -1
    assert joined.pump.write()
    joined.near.stream.write(b"for the handler")
    joined.settle()
    assert joined.far.data == b"for the handler"


def test_after_parting_the_handler_has_what_a_full_socket_did_not_take(joined: Joined) -> None:
    """As much as the window allows has come: before that is consumed, nothing comes that would remind of it."""
    payload, at = random.Random(5).randbytes(8 << 20), 0
    while not joined.near.paused:
        joined.near.stream.write(payload[at : at + 65536])
        at += 65536
        joined.settle()
    assert joined.full == 1
    joined.pump.close()
    joined.settle()
    assert joined.near.stream.send_buffered == 0
    assert joined.read_exactly(joined.pump.received) + joined.far.data == payload[:at]


def test_a_lost_session_parts_them(joined: Joined) -> None:
    joined.dialled.server.close(3)
    assert joined.pump.read() == -1
    assert joined.pump.write()


def test_only_once_and_only_where_both_send(joined: Joined) -> None:
    with pytest.raises(LocalError, match="cannot be joined"):
        joined.far.stream.pump(joined.inner.fileno(), lambda: None, lambda error: None)
    one_way = joined.dialled.client.open_stream(bidirectional=False)
    with pytest.raises(LocalError, match="cannot be joined"):
        one_way.pump(joined.inner.fileno(), lambda: None, lambda error: None)


def test_every_octet_over_a_bad_network() -> None:
    joined = Joined(Conditions(delay=0.02, jitter=0.01, loss=0.05, duplicate=0.02, reorder=0.05, corrupt=0.02))
    there, back = random.Random(5).randbytes(400_000), random.Random(6).randbytes(400_000)
    joined.near.stream.write(there)
    sent, out = 0, bytearray()
    for _ in range(10_000):
        if sent < len(back):
            try:
                sent += joined.app.send(back[sent : sent + 30_000])
            except BlockingIOError:
                pass
        if not joined.far.paused:
            joined.pump.read()
        joined.dialled.pair.pass_time(0.05)
        out += joined.read()
        joined.pump.write()
        if len(out) == len(there) and len(joined.near.data) == len(back):
            break
    assert bytes(out) == there
    assert bytes(joined.near.data) == back
    joined.close()
