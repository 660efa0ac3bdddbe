"""Data that leaves and the window it leaves into: Nagle, silly windows, delayed acknowledgements, zero windows, keep-alives,
idle times (RFC 9293 §3.7.4, §3.8, RFC 1122 §4.2)."""

from __future__ import annotations

import socket
from itertools import pairwise

import pytest

from quicsocks.netstack.tcp.types import Options, TcpError

from .peer import Peer

MSS = 1460


def established(*, window: int = 65535, nagle: bool = True, **fields: float) -> Peer:
    options = Options(nagle=nagle, **fields)  # type: ignore[arg-type] # numbers
    peer = Peer(window=window, options=options)
    peer.establish()
    list(peer.events())
    return peer


def use_up_quick(peer: Peer) -> None:
    """The first sixteen segments are acknowledged at once."""
    for _ in range(16):
        peer.send("PA", 1 + len(peer.handler.data), 1, b"q")
        peer.one("A")


# Segments.


def test_full_segments_and_push_at_the_end() -> None:
    peer = established()
    peer.connection.write(bytes(range(250)) * 16)
    segments = peer.got()
    assert [len(segment.data) for segment in segments] == [MSS, MSS, 4000 - 2 * MSS]
    assert [segment.flags for segment in segments] == ["A", "A", "PA"]
    assert b"".join(segment.data for segment in segments) == bytes(range(250)) * 16


def test_options_are_taken_off_the_segment() -> None:
    peer = Peer(stamps=True)  # RFC 6691
    peer.establish()
    peer.connection.write(b"x" * 5000)
    assert max(segment.size for segment in peer.got()) == 1500
    assert peer.statistics["mss"] == 1448


def test_must_16_the_peers_mss_limits() -> None:
    peer = Peer(mss=500)
    peer.establish()
    peer.connection.write(b"x" * 1200)
    assert [len(segment.data) for segment in peer.got()] == [500, 500, 200]


def test_the_initial_window_is_ten_segments() -> None:
    peer = established()
    peer.connection.write(b"x" * 100000)
    assert len(peer.got()) == 10
    peer.now += 0.05
    peer.send("A", 1, 1 + 2 * MSS)
    assert len(peer.got()) == 4, "slow start: two for two, and two more"


# Nagle.


def test_shld_7_one_small_segment_at_a_time() -> None:
    peer = established()
    peer.connection.write(b"a")
    assert peer.one("PA").data == b"a"
    peer.connection.write(b"b")
    peer.connection.write(b"c")
    peer.nothing()
    peer.send("A", 1, 2)
    assert peer.one("PA").data == b"bc"


def test_nagle_lets_full_segments_pass() -> None:
    peer = established()
    peer.connection.write(b"a")
    peer.got()
    peer.connection.write(b"x" * (MSS + 5))
    assert len(peer.one().data) == MSS


def test_must_17_nagle_can_be_switched_off() -> None:
    peer = established()
    peer.connection.write(b"a")
    peer.got()
    peer.connection.write(b"b")
    peer.nothing()
    peer.connection.set_nodelay(True)
    assert peer.one().data == b"b"
    peer.connection.write(b"c")
    assert peer.one().data == b"c"
    peer = established(nagle=False)
    for octet in (b"a", b"b"):
        peer.connection.write(octet)
        assert peer.one().data == octet


def test_nagle_does_not_hold_the_end() -> None:
    peer = established()
    peer.connection.write(b"a")
    peer.got()
    peer.connection.write(b"b")
    peer.connection.finish()
    assert peer.one("FPA").data == b"b"


# Silly windows.


def test_must_38_small_windows_are_not_filled() -> None:
    peer = established(window=10000)
    peer.connection.write(b"x" * 20000)
    sent = sum(len(segment.data) for segment in peer.got())
    assert sent == 6 * MSS, "not the rest of the window, which is no full segment"
    peer.send("A", 1, 1 + sent, window=100)
    peer.nothing()
    peer.send("A", 1, 1 + sent, window=6000)
    assert sum(len(segment.data) for segment in peer.got()) >= 4 * MSS


def test_a_window_that_stays_small_is_used_after_a_while() -> None:
    peer = established(window=10000)
    peer.connection.write(b"x" * 20000)
    sent = sum(len(segment.data) for segment in peer.got())
    peer.now += 0.1
    peer.send("A", 1, 1 + sent, window=100)
    peer.nothing()
    assert len(peer.wait().data) == 100


def test_half_of_the_largest_window_is_worth_sending() -> None:
    peer = established(window=600)
    peer.connection.write(b"x" * 2000)
    assert len(peer.one().data) == 600
    peer.send("A", 1, 601, window=299)
    peer.nothing()
    peer.send("A", 1, 601, window=300)
    assert len(peer.one().data) == 300


def test_must_39_the_window_opens_in_large_steps() -> None:
    peer = Peer(options=Options(initial_receive_window=20000, receive_window=20000, window_scaling=False))
    peer.handler.consume = False
    peer.establish()
    for at in range(0, 20000, 1000):
        peer.send("A", 1 + at, 1, b"x" * 1000)
    assert peer.one().window == 0
    peer.connection.consumed(100)
    peer.nothing()
    peer.connection.consumed(1000)
    peer.nothing()
    peer.connection.consumed(400)
    assert peer.one("A").window == 1500, "a full segment"
    peer.connection.consumed(18500)
    assert peer.one("A").window == 20000


def test_shld_14_the_window_does_not_shrink() -> None:
    peer = Peer(scale=7)
    peer.handler.consume = False
    peer.establish()
    edge = 0
    scale = peer.statistics["receive_scale"]
    assert scale
    for at in range(50):
        peer.send("A", 1 + 1001 * at, 1, b"x" * 1001)
        for segment in peer.got():
            assert segment.ack + (segment.window << scale) >= edge
            edge = segment.ack + (segment.window << scale)
    with pytest.raises(TcpError):
        peer.connection.consumed(60000)


def test_credit_is_the_applications() -> None:
    peer = Peer(options=Options(initial_receive_window=5000, receive_window=5000, window_scaling=False))
    peer.handler.consume = False
    peer.establish()
    peer.send("A", 1, 1, b"x" * 5000)
    assert peer.one().window == 0
    assert not peer.advance(1000.0)
    assert peer.tcp.statistics()["octets_unconsumed"] == 5000


def test_the_receive_window_grows_with_what_is_consumed() -> None:
    peer = Peer(scale=7, options=Options(initial_receive_window=20000, receive_window=1 << 20))
    peer.establish()
    at = 0
    for _ in range(300):
        peer.now += 0.01
        peer.send("A", 1 + at, 1, b"x" * 10000)
        at += 10000
        peer.got()
    assert peer.statistics["receive_window"] >= 400000, "four round trips' worth, at 1 MB/s and 100 ms"
    peer = Peer(scale=7, options=Options(initial_receive_window=20000, receive_window=1 << 20))
    peer.establish()
    for at in range(20):
        peer.now += 10.0
        peer.send("A", 1 + 10000 * at, 1, b"x" * 10000)
        peer.got()
    assert peer.statistics["receive_window"] == 20000, "a slow flow needs none"


# Acknowledgements.


def test_the_first_segments_are_acknowledged_at_once() -> None:
    use_up_quick(established())


def test_must_40_and_shld_18_a_lone_segment_is_acknowledged_after_a_while() -> None:
    peer = established()
    use_up_quick(peer)
    peer.send("PA", 17, 1, b"x")
    peer.nothing()
    begun = peer.now
    assert peer.wait().ack == 18
    assert peer.now - begun == pytest.approx(0.04)


def test_shld_19_every_second_segment_is_acknowledged_at_once() -> None:
    peer = established()
    use_up_quick(peer)
    for _ in range(5):
        at = 1 + len(peer.handler.data)
        peer.send("A", at, 1, b"x" * MSS)
        peer.nothing()
        peer.send("A", at + MSS, 1, b"x" * MSS)
        assert peer.one("A").ack == at + 2 * MSS


def test_must_58_one_acknowledgement_for_all_that_has_come() -> None:
    peer = established()
    for at in range(10):
        peer.send("A", 1 + MSS * at, 1, b"x" * MSS)
    assert peer.one("A").ack == 1 + 10 * MSS


def test_acknowledgements_ride_on_data() -> None:
    peer = established()
    use_up_quick(peer)
    peer.send("PA", 17, 1, b"question")
    peer.connection.write(b"answer")
    answer = peer.one("PA")
    assert (answer.data, answer.ack) == (b"answer", 25)
    assert [segment for segment in peer.advance(0.19) if not segment.data] == []


def test_gaps_are_answered_at_once() -> None:
    peer = established()
    use_up_quick(peer)
    for at in (3, 2, 1):
        peer.send("A", 17 + 10 * at, 1, b"x" * 10)
        assert peer.one("A").ack == 17
    peer.send("A", 17, 1, b"x" * 10)
    assert peer.one("A").ack == 57


# Zero windows (§3.8.6.1).


def test_must_36_shld_29_shld_30_a_zero_window_is_probed_ever_more_seldom() -> None:
    peer = established(window=MSS)
    peer.connection.write(b"x" * 5000)
    peer.one()
    peer.now += 0.1
    peer.send("A", 1, 1 + MSS, window=0)
    peer.nothing()
    begun = peer.now
    times = []
    for _ in range(8):
        probe = peer.wait()
        assert (probe.flags, probe.seq, probe.data) == ("A", MSS, b""), "an old number, which has to be answered"
        times.append(peer.now - begun)
        peer.send("A", 1, 1 + MSS, window=0)
    gaps = [later - earlier for earlier, later in pairwise([0.0, *times])]
    assert gaps[0] == pytest.approx(peer.statistics["rto"])
    for earlier, later in pairwise(gaps):
        assert later == pytest.approx(2 * earlier)
    peer.send("A", 1, 1 + MSS, window=MSS)
    assert len(peer.one().data) == MSS


def test_must_37_a_zero_window_may_last_while_it_is_answered() -> None:
    peer = established(window=MSS)
    peer.connection.write(b"x" * 5000)
    peer.one()
    peer.send("A", 1, 1 + MSS, window=0)
    begun = peer.now
    while peer.now - begun < 20000.0:
        peer.wait()
        peer.send("A", 1, 1 + MSS, window=0)
    assert peer.state == "ESTABLISHED"
    peer.send("A", 1, 1 + MSS, window=5000)
    assert peer.got()


def test_probes_that_are_not_answered_end_it() -> None:
    peer = established(window=MSS)
    peer.connection.write(b"x" * 5000)
    peer.one()
    peer.send("A", 1, 1 + MSS, window=0)
    peer.advance(1200.0)
    assert list(peer.events()) == ["TIMED_OUT"]


def test_must_34_a_window_that_shrinks_does_no_harm() -> None:
    peer = established(window=10 * MSS)
    peer.connection.write(b"x" * 20 * MSS)
    assert len(peer.got()) == 10
    peer.send("A", 1, 1 + MSS, window=0)
    probes = peer.advance(30.0)
    assert all(segment.seq >= 1 + MSS - 1 for segment in probes)
    for _ in range(5):
        peer.send("A", 1, 1 + MSS, window=0)
        peer.advance(300.0)
    assert peer.state == "ESTABLISHED"
    peer.send("A", 1, 1 + 10 * MSS, window=20 * MSS)
    assert peer.got()


def test_a_fin_waits_for_the_window_too() -> None:
    peer = established(window=MSS)
    peer.connection.write(b"x" * MSS)
    peer.one()
    peer.send("A", 1, 1 + MSS, window=0)
    peer.connection.finish()
    peer.nothing()
    assert peer.wait().flags == "A"
    peer.send("A", 1, 1 + MSS, window=1)
    assert "F" in peer.one().flags


# Keep-alives (§3.8.4).


def test_must_25_keepalives_are_off() -> None:
    peer = established()
    assert not peer.advance(100000.0)
    assert peer.state == "ESTABLISHED"


def test_must_26_and_shld_12_keepalives() -> None:
    peer = established()
    peer.connection.set_keepalive(100.0)
    begun = peer.now
    probe = peer.wait()
    assert peer.now - begun == pytest.approx(100.0)
    assert (probe.flags, probe.seq, probe.data) == ("A", 0, b"")
    peer.send("A", 1, 1)
    begun = peer.now
    peer.wait()
    assert peer.now - begun == pytest.approx(100.0)
    probes = peer.advance(2000.0)
    assert len(probes) == 8, "with the first, nine of them before it is given up"
    assert list(peer.events()) == ["TIMED_OUT"]


def test_keepalives_stop_when_something_is_heard() -> None:
    peer = established(keepalive=100.0)
    for _ in range(10):
        peer.now += 50.0
        peer.send("PA", 1 + len(peer.handler.data), 1, b"x")
        assert all(segment.seq == 1 for segment in peer.got())


# Idle times.


def test_the_window_begins_anew_behind_an_idle_time() -> None:
    peer = Peer(window=65535, scale=7)
    peer.establish()
    sent = 0
    while peer.statistics["congestion_window"] < 60 * MSS:
        peer.connection.write(b"x" * 100000)
        sent += sum(len(segment.data) for segment in peer.got())
        peer.now += 0.05
        peer.send("A", 1, 1 + sent)
    while True:
        more = sum(len(segment.data) for segment in peer.got())
        if not more:
            break
        sent += more
        peer.now += 0.05
        peer.send("A", 1, 1 + sent)
    peer.now += 10.0
    peer.connection.write(b"y" * 200000)
    assert len(peer.got()) == 10, "RFC 5681 §4.1"


# The application's side.


def test_writers_are_held_back() -> None:
    peer = established(send_high_water=20000)
    peer.connection.write(b"x" * 50000)
    assert list(peer.events()) == ["pause"]
    sent = 0
    while not (events := list(peer.events())):
        segments = peer.got()
        assert segments
        sent += sum(len(segment.data) for segment in segments)
        peer.send("A", 1, 1 + sent)
    assert events == ["resume"]
    assert peer.connection.send_buffered <= 5000


def test_writing_on_and_on_is_refused() -> None:
    peer = established()
    peer.connection.write(b"x" * (1 << 19))
    for _ in range(2):
        peer.connection.write(b"x" * (1 << 19))
    with pytest.raises(TcpError):
        peer.connection.write(b"x")


def test_a_pump_moves_octets_both_ways() -> None:
    peer = established()
    near, far = socket.socketpair()
    near.setblocking(False)
    full: list[int] = []
    with near, far:
        pump = peer.connection.pump(near.fileno(), lambda: full.append(1), lambda error: full.append(2))
        far.send(b"from the socket")
        assert pump.read() == 15
        assert peer.one("PA").data == b"from the socket"
        assert pump.read() == -1
        peer.send("PA", 1, 16, b"to the socket")
        assert far.recv(100) == b"to the socket"
        assert (pump.sent, pump.received) == (15, 13)
        assert not peer.handler.data
        far.shutdown(socket.SHUT_WR)
        assert pump.read() == 0
        peer.connection.finish()
        peer.got()
        at = 14
        while not full:
            peer.send("A", at, 17, b"z" * 1400)
            at += 1400
            peer.got()
        assert full == [1]
        while True:
            far.settimeout(0.01)
            try:
                far.recv(1 << 20)
            except TimeoutError:
                break
        assert pump.write()
        peer.send("FA", at, 17)
        assert "eof" in peer.handler.events
        assert peer.tcp.statistics()["octets_unconsumed"] == 0
        pump.close()


def test_a_pump_reports_a_broken_socket() -> None:
    peer = established()
    near, far = socket.socketpair()
    near.setblocking(False)
    errors: list[OSError] = []
    with near:
        peer.connection.pump(near.fileno(), lambda: None, errors.append)
        far.close()
        peer.send("PA", 1, 1, b"nobody there")
        assert len(errors) == 1
        with pytest.raises(TcpError):
            peer.connection.pump(near.fileno(), lambda: None, errors.append)
