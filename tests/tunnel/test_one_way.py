"""Streams that are neither control nor flow: one-way streams, port mapping, and those a concentrator opens."""

from __future__ import annotations

import pytest

from quicsocks.userspace.quic.types import Limits
from quicsocks.userspace.tunnel.control import (
    AuthOK,
)
from quicsocks.userspace.tunnel.one_way import StreamCode
from quicsocks.userspace.tunnel.preamble import request
from quicsocks.userspace.tunnel.tlv import Wire
from quicsocks.userspace.tunnel.types import (
    TunnelLimits,
)
from tests.tunnel.support import WEB, Pair, RawStream

REQUEST = request(WEB, Wire.QT)
OK = AuthOK("x", TunnelLimits())


def raw_one_way(pair: Pair) -> RawStream:
    session = pair.link.server if not hasattr(pair, "concentrator") else pair.link.client
    return RawStream(session.open_stream(bidirectional=False))


@pytest.mark.parametrize("alpn", ["qt", "quicsocks/1"])
@pytest.mark.parametrize("end", ["client", "concentrator"])
@pytest.mark.parametrize("kind", [0x00, 0x51, 0xFF])
def test_unknown_one_way_streams_are_refused(alpn: str, end: str, kind: int) -> None:
    pair = Pair(alpn=alpn, raw_client=end == "concentrator", raw_concentrator=end == "client")
    stream = raw_one_way(pair)
    stream.stream.write(bytes((kind,)) + b"content")
    pair.link.run()
    assert stream.stop_code == StreamCode.REFUSED
    assert pair.raw_close() is None
    tunnel = pair.client if end == "client" else pair.concentrator
    assert tunnel.one_way.counters.refused == 1


def test_second_port_mapping_stream_is_refused() -> None:
    pair = Pair(alpn="qt", raw_client=True)
    first, second = raw_one_way(pair), raw_one_way(pair)
    first.stream.write(b"P")
    pair.link.run()
    second.stream.write(b"P")
    pair.link.run()
    assert (first.stop_code, second.stop_code) == (None, StreamCode.REFUSED)


@pytest.mark.parametrize("how", ["finish", "reset"])
def test_one_way_stream_without_content(how: str) -> None:
    pair = Pair(alpn="qt", raw_client=True)
    stream = raw_one_way(pair)
    if how == "finish":
        stream.stream.finish()
    else:
        stream.stream.reset(0)
    pair.link.run()
    assert pair.raw_close() is None
    pair.raw_stream().stream.write(REQUEST)
    pair.link.run()
    assert len(pair.program.requests) == 1


def test_both_port_mapping_streams_are_opened_at_once_on_qt() -> None:
    pair = Pair(alpn="qt", raw_client=True)
    assert bytes(pair.raw.streams[3].data) == b"P"
    pair = Pair(alpn="qt", raw_concentrator=True)
    assert bytes(pair.raw.streams[2].data) == b"P"


@pytest.mark.parametrize("alpn", ["qt", "quicsocks/1"])
@pytest.mark.parametrize("chunk_size", [1, 1200])
def test_port_mapping_requests_are_answered(alpn: str, chunk_size: int) -> None:
    pair = Pair(alpn=alpn, raw_client=True, chunk_size=chunk_size)
    stream = raw_one_way(pair)
    stream.stream.write(b"P" + bytes.fromhex("00021f90 01020035"))
    pair.link.run()
    assert bytes(pair.raw.streams[3].data) == b"P" + bytes.fromhex("20031f9000 2103003500")
    assert pair.concentrator.one_way.counters.mappings_refused == 2


@pytest.mark.parametrize("octets", ["0003", "4002", "100200"])
def test_broken_port_mapping_is_stopped(octets: str) -> None:
    pair = Pair(alpn="qt", raw_client=True)
    stream = raw_one_way(pair)
    stream.stream.write(b"P" + bytes.fromhex(octets) + bytes(100))
    pair.link.run()
    assert stream.stop_code == StreamCode.MALFORMED
    assert pair.concentrator.one_way.counters.malformed == 1
    pair.raw_stream().stream.write(REQUEST)
    pair.link.run()
    assert len(pair.program.requests) == 1


def test_client_takes_no_notice_of_mappings_it_did_not_ask_for() -> None:
    pair = Pair(alpn="qt", raw_concentrator=True)
    stream = raw_one_way(pair)
    stream.stream.write(b"P" + bytes.fromhex("10121f90") + bytes(16) + bytes.fromhex("20031f9000 00021f90"))
    pair.link.run()
    assert stream.stop_code is None
    assert bytes(pair.raw.streams[2].data) == b"P"


def test_requests_wait_while_their_answers_are_not_read() -> None:
    limits = Limits(stream_window=2_000, session_window=50_000, send_high_water=1_000)
    pair = Pair(alpn="qt", raw_client=True, transport=limits)
    answers = pair.raw.streams[3]
    kept = Holding(answers.stream.consumed)
    answers.stream.consumed = kept  # type: ignore[method-assign] # this client does not read its answers
    stream = raw_one_way(pair)
    stream.stream.write(b"P" + bytes.fromhex("00021f90") * 10_000)
    pair.link.run()
    assert stream.stream.send_buffered > 30_000
    assert pair.concentrator.one_way.counters.mappings_refused < 1_000
    kept.release()
    pair.link.run()
    assert pair.concentrator.one_way.counters.mappings_refused == 10_000
    assert len(answers.data) == 1 + 5 * 10_000


class Holding:
    """Keeps credit back until it is released."""

    def __init__(self, consumed: object) -> None:
        self._consumed = consumed
        self._held = 0
        self._released = False

    def __call__(self, size: int) -> None:
        if self._released:
            self._consumed(size)  # type: ignore[operator] # Stream.consumed
        else:
            self._held += size

    def release(self) -> None:
        self._released = True
        self._consumed(self._held)  # type: ignore[operator] # Stream.consumed


def test_answers_that_are_refused_are_not_made() -> None:
    pair = Pair(alpn="qt", raw_client=True)
    pair.raw.streams[3].stream.stop_sending(0)
    pair.link.run()
    stream = raw_one_way(pair)
    stream.stream.write(b"P" + bytes.fromhex("00021f90"))
    pair.link.run()
    assert bytes(pair.raw.streams[3].data) == b"P"
    assert pair.raw_close() is None


def test_streams_of_the_concentrator_are_refused() -> None:
    pair = Pair(raw_concentrator=True)
    stream = RawStream(pair.link.server.open_stream())
    stream.stream.write(REQUEST)
    pair.link.run()
    assert (stream.stop_code, stream.reset_code) == (StreamCode.REFUSED, StreamCode.REFUSED)
    assert pair.client.counters.streams_refused == 1
    assert pair.raw_close() is None
