"""Flows: opening, data, refusals, broken requests and answers, the session's end, backpressure. The draft's mapping table
is in test_flow_mapping.py; test_flow_machine.py has what both ends together must keep."""

from __future__ import annotations

import pytest

from quicsocks.userspace.quic.errors import End, Ended, LocalError
from quicsocks.userspace.quic.types import Limits
from quicsocks.userspace.tunnel.preamble import answer_accepted, answer_error
from quicsocks.userspace.tunnel.tlv import MAX_PREAMBLE, Wire, encode_error, encode_tlv
from quicsocks.userspace.tunnel.types import BoundAddress, Cause, Destination, IncomingFlow
from tests.tunnel.support import (
    ACCEPTED,
    BOUND,
    NAMED,
    REQUEST,
    WEB,
    FlowRecorder,
    Pair,
    RawStream,
    client_alone,
    concentrator_alone,
    failure_of,
    flow_of,
)

# Opening.


@pytest.mark.parametrize("alpn", ["quicsocks/1", "qt"])
@pytest.mark.parametrize("chunk_size", [1, 3, 1200])
def test_bytes_both_ways_and_an_orderly_end(alpn: str, chunk_size: int) -> None:
    pair = Pair(alpn=alpn, chunk_size=chunk_size)
    client, server = pair.established()
    assert client.bound == (BOUND if alpn == "quicsocks/1" else BoundAddress())
    flow_of(client).write(b"question")
    flow_of(server).write(b"answer")
    flow_of(client).finish()
    pair.link.run()
    assert (bytes(server.data), server.eof, bytes(client.data), client.eof) == (b"question", True, b"answer", False)
    assert not server.ended
    flow_of(server).write(b" and more")
    flow_of(server).finish()
    pair.link.run()
    assert client.data == b"answer and more"
    assert (client.ended, client.error, server.ended, server.error) == (1, None, 1, None)
    assert pair.client.open_flows == pair.concentrator.open_flows == 0


def test_names_arrive_as_they_are() -> None:
    pair = Pair()
    pair.open(NAMED)
    assert pair.program.requests[0].destination == NAMED


def test_request_and_first_data_go_out_together() -> None:
    pair = Pair(raw_concentrator=True, alpn="qt")
    pair.open(early=b"GET / HTTP/1.1\r\n")
    assert pair.raw.streams[0].pieces == [REQUEST + b"GET / HTTP/1.1\r\n"]


def test_client_may_write_and_finish_before_it_is_connected() -> None:
    pair = Pair()
    pair.program.on_request = pair.program.wait
    recorder = pair.open()
    flow_of(recorder).write(b"all there is")
    flow_of(recorder).finish()
    pair.link.run()
    (server,) = pair.program.recorders
    assert (bytes(server.data), server.eof) == (b"all there is", True)
    assert recorder.calls == []
    pair.program.requests[0].accept(BOUND)
    flow_of(server).finish()
    pair.link.run()
    assert recorder.calls == ["connected", "eof", "ended"]
    assert (recorder.error, server.error) == (None, None)


def test_answer_and_first_data_in_one_piece() -> None:
    pair, recorder, stream = client_alone()
    stream.stream.write(answer_accepted(BOUND, Wire.QUICSOCKS) + b"220 ready\r\n")
    pair.link.run()
    assert recorder.calls == ["connected", "data"]
    assert (recorder.bound, bytes(recorder.data)) == (BOUND, b"220 ready\r\n")


def test_program_may_reset_from_within_connected() -> None:
    pair, recorder, stream = client_alone()

    class Rude(FlowRecorder):
        def connected(self, bound: BoundAddress) -> None:
            flow_of(recorder).reset()

    rude = Rude()
    flow_of(recorder).set_handler(rude)
    stream.stream.write(ACCEPTED + b"data that nobody wants")
    pair.link.run()
    assert (rude.calls, recorder.calls) == ([], [])
    assert (stream.stop_code, stream.reset_code) == (0, 0)


def test_data_waits_for_a_handler() -> None:
    pair = Pair()
    pair.program.on_request = pair.program.leave
    recorder = pair.open(early=b"one ")
    flow_of(recorder).write(b"two")
    flow_of(recorder).finish()
    pair.link.run()
    server = pair.program.attach(pair.program.requests[0])
    assert server.calls == ["data", "data", "eof"]
    assert server.data == b"one two"


def test_flow_handed_to_another_handler() -> None:
    pair = Pair()
    client, server = pair.established()
    second = FlowRecorder()
    second.flow = server.flow
    flow_of(client).write(b"to the first")
    pair.link.run()
    flow_of(server).set_handler(second)
    flow_of(client).write(b"to the second")
    flow_of(client).reset()
    pair.link.run()
    assert server.data == b"to the first"
    assert server.ended == 0
    assert second.ended == 1


# Misuse by the program.


def test_concentrator_answers_before_it_writes() -> None:
    pair = Pair()
    pair.program.on_request = pair.program.wait
    pair.open()
    (flow,) = pair.program.requests
    with pytest.raises(LocalError, match="after it has accepted"):
        flow.write(b"too early")
    with pytest.raises(LocalError, match="after it has accepted"):
        flow.finish()
    flow.accept(BOUND)
    with pytest.raises(LocalError, match="only be reset"):
        flow.refuse(Cause.REFUSED)
    with pytest.raises(LocalError, match="cannot be accepted"):
        flow.accept(BOUND)


def test_writing_after_finish_is_an_error() -> None:
    client, _ = Pair().established()
    flow_of(client).finish()
    with pytest.raises(LocalError):
        flow_of(client).write(b"more")


def test_nothing_happens_on_a_flow_that_is_over() -> None:
    pair = Pair()
    client, server = pair.established()
    flow_of(client).reset()
    pair.link.run()
    for recorder in (client, server):
        flow = flow_of(recorder)
        flow.write(b"dropped")
        flow.finish()
        flow.reset()
        flow.consumed(0)
        flow.set_handler(recorder)
    pair.link.run()
    assert (client.ended, server.ended) == (0, 1)


# Refusals.


@pytest.mark.parametrize("cause", [cause for cause in Cause if cause >= 0x100])
def test_causes_reach_the_client(cause: Cause) -> None:
    pair = Pair()
    pair.program.on_request = lambda flow: flow.refuse(cause, "detail for our log")
    recorder = pair.open(early=b"data that is of no use")
    assert failure_of(recorder).cause is cause
    assert recorder.calls == ["ended"]
    assert pair.client.open_flows == pair.concentrator.open_flows == pair.concentrator.pending_flows == 0
    assert (pair.client.counters.flows_refused, pair.concentrator.counters.flows_refused) == (1, 1)


def test_icmp_travels_with_the_refusal() -> None:
    icmp = bytes.fromhex("030100000000000045000028")
    for alpn in ("qt", "quicsocks/1"):
        pair = Pair(alpn=alpn)
        pair.program.on_request = lambda flow: flow.refuse(Cause.HOST_UNREACHABLE, icmp=icmp)
        failure = failure_of(pair.open())
        assert (failure.cause, failure.icmp) == (Cause.HOST_UNREACHABLE, icmp)


def test_refusal_is_error_end_fin_and_no_stop_until_it_is_acknowledged() -> None:
    pair, stream = concentrator_alone()
    pair.program.on_request = lambda flow: flow.refuse(Cause.REFUSED)
    stream = pair.raw_stream()
    stream.stream.write(REQUEST + b"x" * 10_000)
    while not stream.eof:
        assert pair.link.step()
    assert stream.data == answer_error(Cause.NETWORK_FAILURE)
    assert (stream.stop_code, stream.reset_code) == (None, None)
    pair.link.run()
    assert stream.stop_code == 0
    assert stream.reset_code is None
    assert pair.link.client._send_limit - pair.link.client._sent == pair.link.server.limits.session_window


@pytest.mark.parametrize("way", ["finish", "reset"])
def test_refused_flow_of_a_client_that_ends_it_by_itself(way: str) -> None:
    pair = Pair(alpn="qt", raw_client=True)
    pair.program.on_request = lambda flow: flow.refuse(Cause.DENIED)
    stream = pair.raw_stream()
    stream.stream.write(REQUEST)
    while not stream.data:
        assert pair.link.step()
    if way == "finish":
        stream.stream.finish()
    else:
        stream.stream.reset(0)
    pair.link.run()
    assert (bytes(stream.data), stream.eof) == (answer_error(Cause.NETWORK_FAILURE), True)
    assert (stream.stop_code, stream.reset_code) == (None, None)


def test_client_that_stops_reading_the_refusal() -> None:
    pair = Pair(alpn="qt", raw_client=True)
    pair.program.on_request = lambda flow: flow.refuse(Cause.DENIED)
    stream = pair.raw_stream()
    stream.stream.write(REQUEST)
    stream.stream.stop_sending(0)
    pair.link.run()
    assert pair.raw_close() is None
    assert pair.concentrator._flows == {}


def test_answering_a_flow_that_has_gone_is_harmless() -> None:
    pair = Pair()
    pair.program.on_request = pair.program.leave
    recorder = pair.open()
    flow_of(recorder).reset()
    pair.link.run()
    (flow,) = pair.program.requests
    flow.accept(BOUND)
    flow.refuse(Cause.REFUSED)
    late = FlowRecorder()
    flow.set_handler(late)
    assert failure_of(late).cause is Cause.RESET
    flow.set_handler(FlowRecorder())
    assert late.calls == ["ended"]
    assert pair.concentrator.open_flows == pair.concentrator.pending_flows == 0


# Requests and answers that break the protocol.


@pytest.mark.parametrize("alpn", ["qt", "quicsocks/1"])
@pytest.mark.parametrize(
    ("octets", "cause", "payload"),
    [
        (b"\x05\x00", Cause.UNKNOWN_TLV, b"\x05"),
        (b"\x00\x01\x00", Cause.MALFORMED_TLV, b""),
        (REQUEST[:-2] + b"\x00\x12" + bytes(18) + b"\xff\x00", Cause.MALFORMED_TLV, b""),
        (b"\xff\x00", Cause.MALFORMED_TLV, b""),
    ],
)
def test_broken_requests_are_answered_and_the_connection_lives(
    alpn: str, octets: bytes, cause: Cause, payload: bytes
) -> None:
    pair = Pair(alpn=alpn, connect=False)
    pair.link.complete_handshake()
    pair.link.run()
    stream = RawStream(pair.link.client.open_stream())
    stream.stream.write(octets + b"and whatever follows")
    pair.link.run()
    assert bytes(stream.data) == answer_error(cause, payload)
    assert stream.eof
    assert pair.concentrator.counters.requests_broken == 1
    assert pair.program.requests == []
    pair.established()


def test_request_that_ends_within_a_tlv() -> None:
    pair, stream = concentrator_alone(octets=REQUEST[:-1])
    stream.stream.finish()
    pair.link.run()
    assert bytes(stream.data) == answer_error(Cause.MALFORMED_TLV)
    assert stream.stop_code is None


def test_request_that_goes_on_and_on() -> None:
    pair, stream = concentrator_alone(octets=encode_tlv(0x00, REQUEST[2:20]))
    filler = encode_tlv(0x00, bytes(16))
    stream.stream.write(filler * (MAX_PREAMBLE // len(filler)))
    pair.link.run()
    assert bytes(stream.data) == answer_error(Cause.MALFORMED_TLV)


def test_request_that_takes_too_long() -> None:
    pair, stream = concentrator_alone(octets=REQUEST[:5])
    deadline = pair.concentrator.get_timer()
    assert deadline is not None
    pair.advance(deadline - pair.clock.now - 0.01)
    assert stream.data == b""
    pair.advance(0.02)
    assert bytes(stream.data) == answer_error(Cause.NETWORK_FAILURE)
    assert pair.concentrator.get_timer() is None


def test_finished_requests_have_no_deadline() -> None:
    pair, _ = concentrator_alone()
    assert pair.concentrator.get_timer() is None
    pair.advance(3600)
    assert pair.concentrator.open_flows == 1


@pytest.mark.parametrize(
    ("octets", "cause"),
    [
        (b"\x05\x00", Cause.UNKNOWN_TLV),
        (b"\xff\x00", Cause.MALFORMED_TLV),
        (b"\x01\x00\x01\x00", Cause.MALFORMED_TLV),
    ],
)
def test_broken_answers_reset_both_ways(octets: bytes, cause: Cause) -> None:
    pair, recorder, stream = client_alone()
    stream.stream.write(octets + b"and whatever follows")
    pair.link.run()
    failure = failure_of(recorder)
    assert failure.cause is cause
    assert "answer" in failure.detail
    assert (stream.stop_code, stream.reset_code) == (0, 0)
    assert pair.raw_close() is None
    assert pair.client.open_flows == 0


def test_answer_that_ends_without_end_tlv() -> None:
    pair, recorder, stream = client_alone()
    stream.stream.write(b"\x01\x00")
    stream.stream.finish()
    pair.link.run()
    assert failure_of(recorder).cause is Cause.MALFORMED_TLV


def test_error_without_end_tlv_counts_at_the_streams_end() -> None:
    pair, recorder, stream = client_alone()
    stream.stream.write(encode_error(Cause.TIMED_OUT))
    pair.link.run()
    assert recorder.calls == []
    stream.stream.finish()
    pair.link.run()
    assert failure_of(recorder).cause is Cause.TIMED_OUT


def test_data_behind_a_refusal_is_stopped() -> None:
    pair, recorder, stream = client_alone()
    stream.stream.write(answer_error(Cause.REFUSED) + b"data on a flow that does not exist")
    pair.link.run()
    assert failure_of(recorder).cause is Cause.REFUSED
    assert stream.reset_code == 0
    stream.stream.write(b"more of it")
    pair.link.run()
    assert stream.stop_code == 0
    assert recorder.calls == ["ended"]


# The session's end.


@pytest.mark.parametrize("stage", ["opening", "open", "half-closed"])
def test_session_ends_in_mid_flow(stage: str) -> None:
    pair = Pair()
    if stage == "opening":
        pair.program.on_request = pair.program.wait
    client = pair.open()
    (server,) = pair.program.recorders
    if stage == "half-closed":
        flow_of(client).finish()
        pair.link.run()
    pair.link.sever(Ended(End.TIMED_OUT))
    for recorder in (client, server):
        failure = failure_of(recorder)
        assert failure.cause is Cause.NETWORK_FAILURE
        assert "idle timeout" in failure.detail
        flow_of(recorder).write(b"dropped")
        flow_of(recorder).finish()
        flow_of(recorder).reset()
    assert pair.client_program.ended == pair.program.ended == Ended(End.TIMED_OUT)


def test_request_without_handler_when_the_session_ends() -> None:
    pair = Pair()
    pair.program.on_request = pair.program.leave
    pair.open()
    pair.link.sever(Ended(End.TIMED_OUT))
    late = FlowRecorder()
    flow: IncomingFlow = pair.program.requests[0]
    flow.accept(BOUND)
    flow.set_handler(late)
    assert failure_of(late).cause is Cause.NETWORK_FAILURE


# Backpressure and credit.

SMALL = Limits(stream_window=10_000, session_window=100_000, send_high_water=4_000)


def test_sink_that_stops_reading_stops_the_source_and_no_one_else() -> None:
    pair = Pair(transport=SMALL)
    client, server = pair.established()
    server.consume = False
    flow_of(client).write(bytes(20_000))
    pair.link.run()
    assert (server.unconsumed, client.paused) == (SMALL.stream_window, True)
    other, other_server = pair.established()
    flow_of(other).write(bytes(8_000))
    flow_of(other).write(bytes(100))
    pair.link.run()
    assert len(other_server.data) == 8_100
    flow_of(server).consumed(server.unconsumed)
    server.consume = True
    pair.link.run()
    assert (len(server.data), client.paused) == (20_000, False)


def test_every_octet_of_credit_comes_back() -> None:
    pair = Pair(transport=SMALL)
    for size in (0, 1, 5_000, 30_000):
        client, server = pair.established()
        flow_of(client).write(bytes(size))
        flow_of(client).finish()
        flow_of(server).write(bytes(size))
        flow_of(server).finish()
        pair.link.run()
        assert (client.ended, server.ended) == (1, 1)
    for one in (pair.link.client, pair.link.server):
        assert one._send_limit - one._sent == SMALL.session_window


def test_unanswered_request_holds_no_more_than_a_window() -> None:
    pair = Pair(transport=SMALL)
    pair.program.on_request = pair.program.leave
    client = pair.open()
    flow_of(client).write(bytes(50_000))
    pair.link.run()
    assert flow_of(client).send_buffered == 50_000 - SMALL.stream_window
    pair.program.requests[0].refuse(Cause.DENIED)
    pair.link.run()
    assert pair.link.client._send_limit - pair.link.client._sent == SMALL.session_window


def test_pause_that_came_before_the_handler() -> None:
    pair = Pair(transport=SMALL)
    pair.program.on_request = lambda flow: flow.accept(BOUND)
    client = pair.open(consume=False)
    (flow,) = pair.program.requests
    flow.write(bytes(15_000))
    server = pair.program.attach(flow)
    pair.link.run()
    flow_of(client).consumed(client.unconsumed)
    pair.link.run()
    assert server.calls == ["pause", "resume"]


@pytest.mark.parametrize("alpn", ["qt", "quicsocks/1"])
def test_destination_survives_the_way(alpn: str) -> None:
    pair = Pair(alpn=alpn)
    for destination in (WEB, Destination("2001:db8::1", 1), Destination("10.0.0.1", 65535)):
        pair.open(destination)
        assert pair.program.requests[-1].destination == destination


@pytest.mark.parametrize("finished", [False, True])
def test_data_that_a_refusing_program_kept_is_credited(finished: bool) -> None:
    pair = Pair(transport=SMALL)
    pair.program.on_request = pair.program.keep
    client = pair.open(early=bytes(5_000))
    if finished:
        flow_of(client).finish()
    pair.link.run()
    assert pair.program.recorders[0].unconsumed == 5_000
    pair.program.requests[0].refuse(Cause.DENIED)
    pair.link.run()
    assert failure_of(client).cause is Cause.DENIED
    assert pair.link.client._send_limit - pair.link.client._sent == SMALL.session_window
