"""What goes on beside the flows: readiness, limits, goodbye, closes, datagrams, and what a peer that breaks the control
stream's protocol gets."""

from __future__ import annotations

import pytest

from quicsocks.userspace.quic.errors import End, Ended, LocalError
from quicsocks.userspace.quic.memory import MemoryLink
from quicsocks.userspace.quic.types import Limits
from quicsocks.userspace.tunnel.client import MAX_DRAIN, ClientTunnel
from quicsocks.userspace.tunnel.common import State
from quicsocks.userspace.tunnel.concentrator import ConcentratorTunnel
from quicsocks.userspace.tunnel.control import (
    AuthFailed,
    AuthOK,
    Goodbye,
    Hello,
    LimitsChanged,
    Message,
    encode_message,
)
from quicsocks.userspace.tunnel.preamble import answer_error, request
from quicsocks.userspace.tunnel.tlv import Wire
from quicsocks.userspace.tunnel.types import (
    AuthFailure,
    Cause,
    CloseCode,
    Destination,
    FlowFailed,
    TunnelLimits,
)
from tests.tunnel.support import BOUND, KEY, NAMED, WEB, ClientProgram, Clock, FlowRecorder, Pair, flow_of

REQUEST = request(WEB, Wire.QT)
OK = AuthOK("x", TunnelLimits())


def said(pair: Pair, *messages: Message) -> None:
    """The raw concentrator says something on the control stream."""
    pair.raw.streams[0].stream.write(b"".join(map(encode_message, messages)))
    pair.link.run()


def closed_by_client(pair: Pair) -> int | None:
    return pair.link.client.close_calls[0][0] if pair.link.client.close_calls else None


def closed_by_concentrator(pair: Pair) -> int | None:
    return pair.link.server.close_calls[0][0] if pair.link.server.close_calls else None


# Readiness.


def test_flows_cannot_be_opened_before_the_handshake() -> None:
    pair = Pair(connect=False)
    assert not pair.client.usable
    with pytest.raises(LocalError, match="handshake"):
        pair.client.open_flow(WEB, FlowRecorder())
    assert pair.link.client._streams == {}


def test_opened_comes_with_the_handshake_and_ready_with_the_answer() -> None:
    pair = Pair(raw_concentrator=True)
    assert pair.client_program.calls == ["opened"]
    assert pair.client.usable
    said(pair, Hello(1), OK)
    assert pair.client_program.calls == ["opened", "ready"]


def test_qt_is_ready_at_once_and_begins_at_stream_0() -> None:
    pair = Pair(alpn="qt")
    assert pair.client_program.calls == ["opened", "ready"]
    assert pair.program.calls == ["ready"]
    assert flow_of(pair.open()).id == 0


def test_names_and_loopback_on_qt() -> None:
    pair = Pair(alpn="qt")
    with pytest.raises(LocalError, match="resolve"):
        pair.client.open_flow(NAMED, FlowRecorder())
    for host in ("127.0.0.1", "::1", "::ffff:127.9.9.9", "0.0.0.0", "::", "224.0.0.1", "255.255.255.255", "ff02::1"):
        with pytest.raises(FlowFailed) as caught:
            pair.client.open_flow(Destination(host, 80), FlowRecorder())
        assert caught.value.cause is Cause.ADDRESS_PROHIBITED
    assert pair.link.client._opened[True] == 0


def test_loopback_on_quicsocks_is_for_the_policy() -> None:
    pair = Pair()
    pair.open(Destination("127.0.0.1", 80))
    pair.open(Destination("::1", 80))
    assert [flow.destination.host for flow in pair.program.requests] == ["127.0.0.1", "::1"]
    with pytest.raises(FlowFailed):
        pair.client.open_flow(Destination("224.0.0.1", 80), FlowRecorder())


def test_qt_is_not_served_where_it_is_not_allowed() -> None:
    pair = Pair(alpn="qt", allow_qt=False)
    assert pair.client_program.ended is not None
    assert pair.client_program.ended.code == CloseCode.PROTOCOL_VIOLATION
    assert pair.program.calls == ["ended"]


def test_another_alpn_is_a_fault_of_ours() -> None:
    pair = Pair(alpn="h3")
    assert closed_by_client(pair) == CloseCode.INTERNAL


def test_quicsocks_without_identity_is_a_fault_of_ours() -> None:
    link = MemoryLink()
    program = ClientProgram()
    tunnel = ClientTunnel(link.client, identity=None, events=program, clock=Clock())
    ConcentratorTunnel(link.server, events=Pair(connect=False).program, clock=Clock())
    link.complete_handshake()
    link.run()
    assert program.calls == ["ended"]
    assert tunnel.ended
    assert link.client.close_calls[0][0] == CloseCode.INTERNAL


def test_session_that_was_used_before_cannot_be_taken() -> None:
    link = MemoryLink()
    link.client.open_stream()
    ClientTunnel(link.client, identity=KEY.identity(), events=ClientProgram(), clock=Clock())
    link.server.set_handler(Pair(connect=False).raw)
    link.complete_handshake()
    with pytest.raises(LocalError, match="used before"):
        link.run()


def test_stream_limits_reached_become_a_failed_flow() -> None:
    pair = Pair(transport=Limits(max_streams_bidi=2, streams_waiting=1))
    pair.program.on_request = pair.program.wait
    pair.open()
    pair.open()
    with pytest.raises(FlowFailed) as caught:
        pair.client.open_flow(WEB, FlowRecorder())
    assert caught.value.cause is Cause.LIMIT


def test_session_ends_before_the_handshake() -> None:
    pair = Pair(connect=False)
    pair.link.sever(Ended(End.HANDSHAKE_TIMED_OUT))
    assert pair.client_program.ended == Ended(End.HANDSHAKE_TIMED_OUT)
    assert pair.client.state is State.ENDED
    with pytest.raises(LocalError):
        pair.client.open_flow(WEB, FlowRecorder())


def test_closing() -> None:
    pair = Pair()
    client, server = pair.established()
    pair.client.close(reason="done")
    assert client.ended == 1
    assert pair.client_program.ended == Ended(End.LOCALLY_CLOSED, 0, "done")
    pair.link.run()
    assert server.ended == 1
    assert pair.program.ended == Ended(End.PEER_CLOSED, 0, "done")
    assert pair.program.calls[-1] == "ended"


def test_revoking() -> None:
    pair = Pair()
    client, _ = pair.established()
    pair.concentrator.revoke()
    pair.link.run()
    assert client.ended == 1
    assert pair.client_program.ended is not None
    assert pair.client_program.ended.code == CloseCode.REVOKED


# Limits.


def test_flows_beyond_the_limit_are_refused_and_places_come_back() -> None:
    pair = Pair(limits=TunnelLimits(max_flows=2))
    first, second, third = pair.open(), pair.open(), pair.open()
    assert third.error is not None
    assert third.error.cause is Cause.LIMIT
    assert pair.concentrator.open_flows == 2
    flow_of(first).reset()
    pair.link.run()
    fourth = pair.open()
    assert (second.bound, fourth.bound) == (BOUND, BOUND)
    assert pair.concentrator.counters.flows_refused == 1


@pytest.mark.parametrize("how", ["accept", "refuse", "reset", "client resets"])
def test_pending_flows_beyond_the_limit_are_refused_and_places_come_back(how: str) -> None:
    pair = Pair(limits=TunnelLimits(max_pending=1))
    pair.program.on_request = pair.program.wait
    first = pair.open()
    second = pair.open()
    assert second.error is not None
    assert second.error.cause is Cause.LIMIT
    (flow,) = pair.program.requests
    match how:
        case "accept":
            flow.accept(BOUND)
        case "refuse":
            flow.refuse(Cause.REFUSED)
        case "reset":
            flow.reset()
        case _:
            flow_of(first).reset()
    pair.link.run()
    assert pair.concentrator.pending_flows == 0
    pair.open()
    assert len(pair.program.requests) == 2


def test_lower_limits_leave_open_flows_alone() -> None:
    pair = Pair()
    client, _ = pair.established()
    pair.concentrator.set_limits(TunnelLimits(max_flows=1))
    refused = pair.open()
    assert refused.error is not None
    assert refused.error.cause is Cause.LIMIT
    assert client.ended == 0


def test_limits_on_qt_are_the_concentrators_own() -> None:
    pair = Pair(alpn="qt", limits=TunnelLimits(max_flows=1))
    pair.open()
    refused = pair.open()
    assert refused.error is not None
    assert refused.error.cause is Cause.NETWORK_FAILURE


# Goodbye.


def test_goodbye_drains() -> None:
    pair = Pair()
    client, server = pair.established()
    pair.concentrator.goodbye("restart", 10.0)
    pair.link.run()
    assert pair.client_program.goodbye == ("restart", 10.0)
    assert not pair.client.usable
    with pytest.raises(FlowFailed) as caught:
        pair.client.open_flow(WEB, FlowRecorder())
    assert caught.value.cause is Cause.GOING_AWAY
    flow_of(client).write(b"still here")
    flow_of(client).finish()
    pair.link.run()
    assert server.data == b"still here"
    pair.advance(1.0)
    assert pair.program.ended is None
    flow_of(server).finish()
    pair.link.run()
    assert client.ended == server.ended == 1
    pair.advance(0)
    assert closed_by_concentrator(pair) == CloseCode.GOING_AWAY
    assert pair.client_program.calls == ["opened", "ready", "goodbye", "ended"]


def test_goodbye_ends_when_the_time_is_over() -> None:
    pair = Pair()
    client, _ = pair.established()
    pair.concentrator.goodbye("restart", 10.0)
    pair.advance(9.9)
    assert client.ended == 0
    pair.advance(0.1)
    assert client.ended == 1
    assert pair.client_program.ended == Ended(End.PEER_CLOSED, CloseCode.GOING_AWAY, "restart")


def test_goodbye_without_flows_closes_at_once() -> None:
    pair = Pair()
    pair.concentrator.goodbye("restart", 10.0)
    pair.concentrator.goodbye("twice is once", 0.0)
    pair.advance(0)
    assert pair.client_program.ended == Ended(End.PEER_CLOSED, CloseCode.GOING_AWAY, "restart")


def test_goodbye_before_authentication_closes_at_once() -> None:
    pair = Pair(raw_client=True)
    pair.concentrator.goodbye("restart", 10.0)
    pair.advance(0)
    assert pair.raw_close() == CloseCode.GOING_AWAY


def test_flow_that_crosses_a_goodbye_is_refused() -> None:
    pair = Pair()
    pair.established()
    crossing = pair.open(run=False)
    pair.concentrator.goodbye("restart", 10.0)
    pair.link.run()
    assert crossing.error is not None
    assert crossing.error.cause is Cause.GOING_AWAY


def test_refusals_arrive_before_the_close_of_a_goodbye() -> None:
    pair = Pair()
    client, server = pair.established()
    crossing = pair.open(run=False)
    pair.concentrator.goodbye("restart", 10.0)
    flow_of(client).reset()
    while not server.ended:
        assert pair.link.step()
    while pair.link.step():
        pair.advance(0)
    assert crossing.error is not None
    assert crossing.error.cause is Cause.GOING_AWAY


def test_goodbye_on_qt() -> None:
    pair = Pair(alpn="qt")
    client, _ = pair.established()
    pair.concentrator.goodbye("restart", 10.0)
    refused = pair.open()
    assert refused.error is not None
    assert refused.error.cause is Cause.NETWORK_FAILURE
    flow_of(client).reset()
    pair.link.run()
    pair.advance(0)
    assert closed_by_concentrator(pair) == CloseCode.GOING_AWAY


def test_absurd_drain_is_bounded() -> None:
    pair = Pair(raw_concentrator=True)
    said(pair, Hello(1), OK, Goodbye("see you", (1 << 62) - 1))
    assert pair.client_program.goodbye == ("see you", MAX_DRAIN)


# The control stream, when it is not as it should be.


@pytest.mark.parametrize(
    "messages",
    [
        [OK],
        [Hello(1), Hello(1)],
        [Hello(1), OK, OK],
        [Hello(1), LimitsChanged(TunnelLimits())],
        [Hello(1), Goodbye("", 0)],
        [Hello(1), OK, AuthFailed(1)],
        [Hello(1), OK, Hello(1)],
    ],
)
def test_concentrator_speaks_out_of_turn(messages: list[Message]) -> None:
    pair = Pair(raw_concentrator=True)
    said(pair, *messages)
    assert closed_by_client(pair) == CloseCode.PROTOCOL_VIOLATION


@pytest.mark.parametrize(
    "octets",
    [
        encode_message(OK),
        encode_message(Hello(1)) + encode_message(Hello(1)),
        encode_message(Hello(1)) + encode_message(OK),
        encode_message(Hello(1)) + encode_message(Goodbye("", 0)),
        encode_message(Hello(1)) + encode_message(LimitsChanged(TunnelLimits())),
        encode_message(Hello(1)) + encode_message(AuthFailed(1)),
        b"\x40\x99\x50\x01",
    ],
)
def test_client_speaks_out_of_turn(octets: bytes) -> None:
    pair = Pair(raw_client=True)
    pair.raw_stream().stream.write(octets)
    pair.link.run()
    assert closed_by_concentrator(pair) == CloseCode.PROTOCOL_VIOLATION


@pytest.mark.parametrize("how", ["finish", "reset", "stop"])
@pytest.mark.parametrize("end", ["client", "concentrator"])
def test_control_stream_ended(how: str, end: str) -> None:
    pair = Pair(raw_client=end == "concentrator", raw_concentrator=end == "client")
    stream = (pair.raw_stream() if end == "concentrator" else pair.raw.streams[0]).stream
    stream.write(encode_message(Hello(1)))
    pair.link.run()
    match how:
        case "finish":
            stream.finish()
        case "reset":
            stream.reset(0)
        case _:
            stream.stop_sending(0)
    pair.link.run()
    closed = closed_by_client(pair) if end == "client" else closed_by_concentrator(pair)
    assert closed == CloseCode.PROTOCOL_VIOLATION


def test_unknown_messages_are_counted_and_left_aside() -> None:
    pair = Pair(raw_concentrator=True)
    pair.raw.streams[0].stream.write(b"\x07\x02ab" + encode_message(Hello(1, {0x1B: b"x"})) + b"\x40\x99\x00")
    said(pair, OK)
    assert pair.client.counters.messages_ignored == 2
    assert pair.client.peer_hello == Hello(1, {0x1B: b"x"})
    assert pair.client.state is State.READY


def test_unknown_failure_code_still_ends_it() -> None:
    pair = Pair(raw_concentrator=True)
    said(pair, Hello(1), AuthFailed(0x2FF))
    assert pair.client_program.ended is not None
    assert pair.client_program.ended.code == 0x2FF


def test_failure_by_close_alone() -> None:
    pair = Pair(raw_concentrator=True)
    pair.link.server.close(AuthFailure.TOKEN_USED, "authentication: token used")
    pair.link.run()
    assert pair.client_program.ended is not None
    assert pair.client_program.ended.code == AuthFailure.TOKEN_USED


# Datagrams.


@pytest.mark.parametrize("alpn", ["qt", "quicsocks/1"])
def test_datagrams_are_counted_and_dropped(alpn: str) -> None:
    pair = Pair(alpn=alpn)
    for data in (b"\x00E" + bytes(19), b"\x40", b""):
        assert pair.link.client.send_datagram(data)
    pair.link.run()
    counters = pair.concentrator.counters
    assert counters.datagrams_dropped == 3
    assert counters.datagrams_malformed == (2 if alpn == "quicsocks/1" else 0)


# Timers.


def test_program_is_told_when_the_timer_changes() -> None:
    pair = Pair(connect=False)
    assert pair.client.get_timer() is pair.concentrator.get_timer() is None
    pair.link.complete_handshake()
    while pair.client.get_timer() is None or pair.concentrator.get_timer() is None:
        assert pair.link.step()
    changes = pair.timer_changes
    assert changes >= 2
    pair.link.run()
    assert pair.client.get_timer() is pair.concentrator.get_timer() is None
    assert pair.timer_changes > changes


def test_early_calls_of_the_timer_do_no_harm() -> None:
    pair = Pair()
    pair.established()
    pair.client.handle_timer(pair.clock.now)
    pair.concentrator.handle_timer(pair.clock.now)
    pair.link.run()
    assert pair.client.usable


def test_refusal_of_a_flow_on_qt_is_what_the_draft_says() -> None:
    pair = Pair(alpn="qt", raw_client=True)
    pair.program.on_request = lambda flow: flow.refuse(Cause.HOST_UNREACHABLE, icmp=bytes((3, 1)) + bytes(6))
    stream = pair.raw_stream()
    stream.stream.write(REQUEST)
    pair.link.run()
    assert bytes(stream.data) == answer_error(Cause.ICMP_RECEIVED, bytes((3, 1)) + bytes(6))
