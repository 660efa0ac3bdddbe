"""The draft's mapping table, each end alone against a raw stream: data, FIN, RST, STOP_SENDING and RESET_STREAM in every
order. test_flow_machine.py has what both ends together must keep."""

from __future__ import annotations

import pytest

from quicsocks.userspace.tunnel.types import Cause
from tests.tunnel.support import (
    ACCEPTED,
    FlowRecorder,
    Pair,
    RawStream,
    client_alone,
    concentrator_alone,
    failure_of,
    flow_of,
)

# The mapping table, each end alone. "Program" is who holds the TCP connection.


def both_ends() -> list[str]:
    return ["client", "concentrator"]


def opened(end: str) -> tuple[Pair, FlowRecorder, RawStream]:
    """An open flow at one end, and the raw stream of the other."""
    if end == "client":
        pair, recorder, stream = client_alone()
        stream.stream.write(ACCEPTED)
        pair.link.run()
        assert recorder.calls == ["connected"]
    else:
        pair, stream = concentrator_alone()
        (recorder,) = pair.program.recorders
    stream.data.clear()
    return pair, recorder, stream


@pytest.mark.parametrize("end", both_ends())
def test_tcp_data_and_fin_become_stream_data_and_fin(end: str) -> None:
    pair, recorder, stream = opened(end)
    flow_of(recorder).write(b"data")
    flow_of(recorder).finish()
    pair.link.run()
    assert (bytes(stream.data), stream.eof, stream.stop_code, stream.reset_code) == (b"data", True, None, None)
    assert recorder.ended == 0


@pytest.mark.parametrize("end", both_ends())
def test_stream_data_and_fin_become_tcp_data_and_fin(end: str) -> None:
    pair, recorder, stream = opened(end)
    stream.stream.write(b"data")
    stream.stream.finish()
    pair.link.run()
    assert (bytes(recorder.data), recorder.eof, recorder.ended) == (b"data", True, 0)
    flow_of(recorder).write(b"the other half lives")
    pair.link.run()
    assert stream.data == b"the other half lives"


@pytest.mark.parametrize("end", both_ends())
@pytest.mark.parametrize("finished", [False, True])
def test_tcp_rst_becomes_stop_sending_and_reset_stream(end: str, finished: bool) -> None:
    pair, recorder, stream = opened(end)
    if finished:
        # Half-closed, then reset: the FIN is on its way but not acknowledged.
        flow_of(recorder).finish()
    flow_of(recorder).reset()
    pair.link.run()
    assert (stream.stop_code, stream.reset_code) == (0, 0)
    assert recorder.ended == 0


@pytest.mark.parametrize("end", both_ends())
def test_tcp_rst_after_the_peers_fin(end: str) -> None:
    pair, recorder, stream = opened(end)
    stream.stream.finish()
    pair.link.run()
    flow_of(recorder).reset()
    pair.link.run()
    assert (stream.stop_code, stream.reset_code) == (None, 0)


@pytest.mark.parametrize("end", both_ends())
@pytest.mark.parametrize("orders", [["reset"], ["stop"], ["reset", "stop"], ["stop", "reset"]])
@pytest.mark.parametrize("finished", [False, True])
@pytest.mark.parametrize("code", [0, 1, 0x10C])
def test_stop_sending_or_reset_stream_becomes_tcp_rst(end: str, orders: list[str], finished: bool, code: int) -> None:
    pair, recorder, stream = opened(end)
    if finished:
        stream.stream.write(b"data, then FIN, then the reset")
        stream.stream.finish()
        pair.link.step()
    for order in orders:
        if order == "reset":
            stream.stream.reset(code)
        else:
            stream.stream.stop_sending(code)
    pair.link.run()
    if finished and orders == ["reset"]:
        # The FIN was there first: the reset is of no effect any more (RFC 9000 §3.1).
        assert (recorder.eof, recorder.ended) == (True, 0)
        return
    assert failure_of(recorder).cause is Cause.RESET
    assert recorder.calls[-1] == "ended"


@pytest.mark.parametrize("end", both_ends())
def test_a_reset_one_way_is_answered_the_other_way(end: str) -> None:
    pair, recorder, stream = opened(end)
    stream.stream.reset(0)
    pair.link.run()
    assert (stream.reset_code, stream.stop_code) == (0, None)
    pair, recorder, stream = opened(end)
    stream.stream.stop_sending(0)
    pair.link.run()
    assert stream.stop_code == 0
    assert recorder.ended == 1


@pytest.mark.parametrize("end", both_ends())
def test_half_closed_then_reset(end: str) -> None:
    pair, recorder, stream = opened(end)
    stream.stream.finish()
    pair.link.run()
    assert recorder.eof
    stream.stream.stop_sending(0)
    pair.link.run()
    assert failure_of(recorder).cause is Cause.RESET


@pytest.mark.parametrize("end", both_ends())
def test_reset_while_reading_is_paused(end: str) -> None:
    pair, recorder, stream = opened(end)
    recorder.consume = False
    window = pair.link.client.limits.stream_window
    stream.stream.write(bytes(window + 1000))
    pair.link.run()
    assert recorder.unconsumed == window
    stream.stream.reset(0)
    pair.link.run()
    assert failure_of(recorder).cause is Cause.RESET


def test_reset_before_the_answer() -> None:
    pair, recorder, stream = client_alone()
    stream.stream.reset(0)
    pair.link.run()
    failure = failure_of(recorder)
    assert failure.cause is Cause.RESET
    assert "before" in failure.detail


def test_reset_while_dialling() -> None:
    pair = Pair()
    pair.program.on_request = pair.program.wait
    recorder = pair.open()
    flow_of(recorder).reset()
    pair.link.run()
    (server,) = pair.program.recorders
    assert failure_of(server).cause is Cause.RESET
    assert recorder.ended == 0
    assert pair.concentrator.pending_flows == 0


def test_program_resets_instead_of_answering() -> None:
    pair = Pair()
    pair.program.on_request = lambda flow: flow.reset()
    assert failure_of(pair.open()).cause is Cause.RESET
    assert pair.concentrator.open_flows == 0
