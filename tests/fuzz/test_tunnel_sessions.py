"""Whole tunnels fed with arbitrary things on any stream, in any order: a tunnel lives on and still serves a proper flow, or
its session is closed with a code that docs/protocol.md gives. Nothing is raised, and no more is held than is stated."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from quicsocks.userspace.quic.types import Limits, Stream
from quicsocks.userspace.tunnel.control import AuthFailed, AuthOK, Goodbye, Hello, encode_message
from quicsocks.userspace.tunnel.preamble import answer_accepted, answer_error, request
from quicsocks.userspace.tunnel.tlv import Wire
from quicsocks.userspace.tunnel.types import AuthFailure, BoundAddress, Cause, CloseCode, TunnelLimits
from tests.tunnel.support import WEB, FlowRecorder, Pair, RawStream

LIMITS = Limits(max_streams_bidi=40, max_streams_uni=4, stream_window=100_000)
KNOWN_CODES = {int(code) for code in (*CloseCode, *AuthFailure)}
PIECES = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [
            request(WEB, Wire.QUICSOCKS),
            answer_accepted(BoundAddress(), Wire.QUICSOCKS),
            answer_error(Cause.REFUSED),
            encode_message(Hello(1)),
            encode_message(AuthOK("x", TunnelLimits())),
            encode_message(AuthFailed(0x201)),
            encode_message(Goodbye("bye", 5)),
            b"P\x00\x02\x1f\x90",
            bytes(5_000),
        ]
    ),
)
ACTIONS = st.lists(
    st.tuples(
        st.sampled_from(
            ["open", "open one-way", "write", "write", "write", "finish", "reset", "stop", "datagram", "run"]
        ),
        st.integers(0, 60),
        PIECES,
    ),
    max_size=40,
)


def misbehave(pair: Pair, actions: list[tuple[str, int, bytes]], *, client: bool) -> None:
    """The raw end does what actions say, on streams of either end."""
    session = pair.link.client if client else pair.link.server
    own: list[RawStream] = []
    finished: set[int] = set()
    for action, number, octets in actions:
        if session.ended is not None:
            return
        streams = [*own, *pair.raw.streams.values()]
        stream: Stream | None = streams[number % len(streams)].stream if streams else None
        sends = stream is not None and (stream.is_bidirectional or stream.is_local) and stream.id not in finished
        match action:
            case "open" | "open one-way" if len(own) < 60:
                own.append(RawStream(session.open_stream(bidirectional=action == "open")))
                own[-1].stream.write(octets)
            case "write" if stream is not None and sends:
                stream.write(octets)
            case "finish" if stream is not None and sends:
                stream.finish()
                finished.add(stream.id)
            case "reset" if stream is not None and sends:
                stream.reset(number)
                finished.add(stream.id)
            case "stop" if stream is not None and (stream.is_bidirectional or not stream.is_local):
                stream.stop_sending(number)
            case "datagram":
                session.send_datagram(octets)
            case "run":
                for _ in range(number):
                    pair.link.step()
        for one in streams:
            if one.stop_code is not None:
                finished.add(one.stream.id)
    pair.link.run()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(["qt", "quicsocks/1"]), st.integers(0, 1000), ACTIONS)
def test_concentrator_survives_any_client(alpn: str, seed: int, actions: list[tuple[str, int, bytes]]) -> None:
    pair = Pair(alpn=alpn, seed=seed, raw_client=True, transport=LIMITS)
    misbehave(pair, actions, client=True)
    code = pair.raw_close()
    if code is not None:
        assert code in KNOWN_CODES
        return
    if alpn == "qt":
        before = len(pair.program.requests)
        stream = RawStream(pair.link.client.open_stream())
        stream.stream.write(request(WEB, Wire.QT))
        pair.link.run()
        if stream.data:
            assert len(pair.program.requests) == before + 1
            assert bytes(stream.data) == b"\x01\x00\xff\x00"
        else:
            assert pair.link.client.streams_available() == 0, "a proper request without an answer"
    else:
        assert pair.program.requests == []
        assert pair.program.authorised == []
        pair.advance(5.0)
        assert pair.raw_close() is not None or pair.concentrator.get_timer() is not None
        pair.advance(1.0)
        assert pair.raw_close() == AuthFailure.TIMED_OUT


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.sampled_from(["qt", "quicsocks/1"]), st.integers(0, 1000), st.booleans(), ACTIONS)
def test_client_survives_any_concentrator(
    alpn: str, seed: int, proper: bool, actions: list[tuple[str, int, bytes]]
) -> None:
    pair = Pair(alpn=alpn, seed=seed, raw_concentrator=True, transport=LIMITS)
    if proper and alpn == "quicsocks/1":
        pair.raw.streams[0].stream.write(encode_message(Hello(1)) + encode_message(AuthOK("x", TunnelLimits())))
        pair.link.run()
    recorders = [pair.open(run=False) for _ in range(3)]
    for recorder in recorders:
        assert isinstance(recorder, FlowRecorder)
    misbehave(pair, actions, client=False)
    if pair.client_program.ended is None:
        assert pair.client.open_flows == sum(not recorder.ended for recorder in recorders)
        pair.client.close()
    else:
        assert pair.client_program.ended.code is not None
    assert [recorder.ended for recorder in recorders] == [1, 1, 1]
    assert pair.client.open_flows == 0
