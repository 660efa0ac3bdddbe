"""DATAGRAMs that come from a port and go to one without being Python's."""

from __future__ import annotations

from quicsocks.userspace.quic.native.port import DatagramPortFace
from quicsocks.userspace.quic.native_session import NativeSession

from ...sim.link import Conditions
from ..dialled import Dialled, dial
from ..recorders import StreamLog

NATIVE = ("native", "native")


def joined(conditions: Conditions | None = None) -> tuple[Dialled, DatagramPortFace, DatagramPortFace]:
    dialled = dial(1, conditions, engines=NATIVE).complete()
    dialled.pair.settle(1.0)
    ports = DatagramPortFace(), DatagramPortFace()
    for session, port in zip((dialled.client, dialled.server), ports, strict=True):
        assert isinstance(session, NativeSession)
        session.connection.set_port(port)
    return dialled, *ports


def notice(session: object) -> None:
    assert isinstance(session, NativeSession)
    session.connection.notice()


def test_there_and_back_and_beside_streams() -> None:
    dialled, near, far = joined()
    payloads = [bytes([number]) * (number * 40) for number in range(30)]
    near.outgoing = payloads.copy()
    far.outgoing = payloads[::-1]
    stream = StreamLog(dialled.client.open_stream())
    stream.stream.write(b"x" * 100_000)
    stream.stream.finish()
    notice(dialled.client)
    notice(dialled.server)
    dialled.pair.drive(lambda: len(far.incoming) == len(near.incoming) == 30 and ("sent",) in stream.calls)
    assert [data for data, *_ in far.incoming] == payloads
    assert [data for data, *_ in near.incoming] == payloads[::-1]
    # Nothing of it was Python's, and the callbacks were made from the loop.
    assert dialled.server_log.datagrams == []
    assert (far.told, near.told) == (30, 30)
    statistics = dialled.client.statistics()
    assert (statistics.datagrams_sent, statistics.datagrams_received) == (30, 30)


def test_a_payload_is_asked_for_at_most_as_large_as_passes() -> None:
    dialled, near, far = joined()
    largest = dialled.client.max_datagram_size
    near.outgoing = [bytes(largest + 1), bytes(largest), b"small"]
    notice(dialled.client)
    dialled.pair.settle(1.0)
    assert [len(data) for data, *_ in far.incoming] == [largest, 5]
    assert set(near.asked) == {largest}


def test_what_is_sent_is_what_was_newest_when_it_could_leave() -> None:
    """Nothing is taken from the port before the congestion window lets it go."""
    dialled, near, far = joined(Conditions(delay=0.05, rate=1e5))
    near.outgoing = [bytes([number % 256]) * 1000 for number in range(400)]
    notice(dialled.client)
    dialled.pair.drive(lambda: len(far.incoming) >= 5)
    waiting = len(near.outgoing)
    assert waiting > 300
    near.outgoing = [b"newest"]
    notice(dialled.client)
    dialled.pair.drive(lambda: any(data == b"newest" for data, *_ in far.incoming))
    assert len(far.incoming) <= 400 - waiting + 1


def test_timers_and_the_end() -> None:
    dialled, near, _ = joined()
    near.timer = dialled.pair.now + 0.5
    notice(dialled.client)
    due = near.timer
    dialled.pair.drive(lambda: bool(near.timed))
    assert abs(near.timed[0] - due) < 1e-6
    near.outgoing = [b"late"]
    dialled.client.close()
    dialled.pair.settle(30.0)
    assert near.outgoing == [b"late"]


def test_back_to_python() -> None:
    dialled, _, far = joined()
    server = dialled.server
    assert isinstance(server, NativeSession)
    server.connection.set_port(None)
    dialled.client.send_datagram(b"for the handler")
    dialled.pair.settle(1.0)
    assert dialled.server_log.datagrams == [b"for the handler"]
    assert far.incoming == []
