"""Opening: LISTEN, SYN-SENT and SYN-RECEIVED (RFC 9293 §3.5, §3.10.1, §3.10.7.1 to §3.10.7.4)."""

from __future__ import annotations

import random

import pytest

from quicsocks.netstack.tcp.connection import Connection
from quicsocks.netstack.tcp.types import Options, TcpError

from .peer import HERE4, THERE4, Peer, Recorder

# CLOSED: nobody is there (§3.10.7.1).


def test_closed_answers_a_syn_with_a_rst_that_acknowledges_it() -> None:
    peer = Peer()
    peer.send("S", 0)
    answer = peer.one("RA")
    assert (answer.raw_seq, answer.ack) == (0, 1)


def test_closed_acknowledges_all_that_a_segment_takes() -> None:
    peer = Peer()
    peer.send("SF", 0, data=b"abc")
    assert peer.one("RA").ack == 5


def test_closed_answers_an_ack_with_its_own_number() -> None:
    peer = Peer()
    peer.send("A", 5, 0, raw_ack=777)
    assert peer.one("R").raw_seq == 777


def test_closed_says_nothing_to_a_rst() -> None:
    peer = Peer()
    peer.send("R", 5)
    peer.send("RA", 5, raw_ack=5)
    peer.nothing()


# LISTEN (§3.10.7.2).


def test_listen_ignores_a_rst() -> None:
    peer = Peer()
    peer.listen()
    peer.send("R", 0)
    peer.nothing()


def test_listen_answers_an_ack_with_a_rst() -> None:
    peer = Peer()
    peer.listen()
    peer.send("A", 1, raw_ack=99)
    assert peer.one("R").raw_seq == 99
    peer.send("SA", 1, raw_ack=98)
    assert peer.one("R").raw_seq == 98


@pytest.mark.parametrize("flags", ["", "F", "P", "U", "SF"])
def test_listen_drops_what_is_neither(flags: str) -> None:
    peer = Peer()
    peer.listen()
    peer.send(flags, 0, data=b"x")
    peer.nothing()


@pytest.mark.parametrize("v6", [False, True])
def test_listen_takes_a_syn(v6: bool) -> None:
    peer = Peer(v6=v6, scale=7, stamps=True)
    answer = peer.establish_passive()
    assert (answer.flags, answer.seq, answer.ack) == ("SA", 0, 1)
    assert answer.mss == (1440 if v6 else 1460)
    assert answer.scale is not None
    assert answer.sack_ok
    assert answer.stamps is not None
    assert peer.state == "ESTABLISHED"
    assert peer.connection.remote_address[1] == peer.port
    assert peer.connection.local_address[1] == 80


def test_listen_at_one_address_alone() -> None:
    peer = Peer()
    found: list[Connection] = []
    peer.tcp.listen(80, found.append, address=HERE4)
    peer.send("S", 0)
    peer.one("SA")
    with pytest.raises(TcpError):
        peer.tcp.listen(80, found.append, address=HERE4)
    peer.tcp.listen(80, found.append)  # Any address: another name.
    with pytest.raises(TcpError):
        peer.tcp.listen(80, found.append)
    with pytest.raises(TcpError):
        peer.tcp.listen(81, found.append, address="203.0.113.1")


def test_must_42_a_listener_goes_on_listening() -> None:
    peer = Peer()
    peer.establish_passive()
    peer.port += 1
    peer.send("S", 0)
    peer.one("SA")


def test_text_with_a_syn_comes_again() -> None:
    peer = Peer()
    peer.listen()
    peer.send("S", 0, data=b"early")
    assert peer.one("SA").ack == 1
    peer.send("PA", 1, 1, b"early")
    assert peer.one("A").ack == 6
    assert peer.handler.data == b"early"


def test_a_closed_listener_takes_nothing() -> None:
    peer = Peer()
    listener = peer.tcp.listen(80, peer.accept)
    listener.close()
    peer.send("S", 0)
    peer.one("RA")


def test_a_listener_that_closes_during_the_handshake_resets() -> None:
    peer = Peer()
    listener = peer.tcp.listen(80, peer.accept)
    peer.send("S", 0)
    peer.one("SA")
    listener.close()
    peer.send("A", 1, 1)
    peer.one("RA")
    assert peer.tcp.statistics()["half_open"] == 0


# SYN-SENT (§3.10.7.3).


def test_must_14_and_15_mss_both_ways_and_its_default() -> None:
    peer = Peer(mss=None)
    syn = peer.establish()
    assert syn.mss == 1460
    assert peer.statistics["mss"] == 536
    peer = Peer(mss=None, v6=True)
    assert peer.establish().mss == 1440
    assert peer.statistics["mss"] == 1220


def test_must_67_mss_is_of_what_the_link_takes() -> None:
    assert Peer(mtu=1280).connect().mss == 1240
    assert Peer(mtu=65535).connect().mss == 65495


def test_a_tiny_mss_is_not_believed() -> None:
    peer = Peer(mss=1)
    peer.establish()
    assert peer.statistics["mss"] == 48


def test_must_65_no_mss_on_other_segments() -> None:
    peer = Peer()
    peer.establish()
    peer.connection.write(b"x")
    assert peer.one().mss is None


def test_syn_sent_offers_everything_and_scales_nothing() -> None:
    syn = Peer().connect()
    assert syn.flags == "S"
    assert syn.sack_ok
    assert syn.scale is not None
    assert syn.stamps is not None
    assert syn.stamps[1] == 0
    assert syn.window == 65535


def test_options_that_are_off_are_not_offered() -> None:
    syn = Peer(options=Options(sack=False, timestamps=False, window_scaling=False)).connect()
    assert (syn.sack_ok, syn.scale, syn.stamps) == (False, None, None)


def test_syn_sent_becomes_established() -> None:
    peer = Peer(scale=3, stamps=True)
    peer.connect()
    peer.now += 0.05
    peer.send("SA", 0, 1, window=1000)
    answer = peer.one("A")
    assert (answer.seq, answer.ack) == (1, 1)
    assert peer.statistics["send_window"] == 1000, "RFC 7323 §2.2: no SYN's window is scaled"
    assert peer.statistics["smoothed_rtt"] == pytest.approx(0.05)
    peer.send("A", 1, 1, window=1000)
    assert peer.statistics["send_window"] == 8000


def test_without_the_option_nothing_is_scaled() -> None:
    peer = Peer(scale=None)
    peer.establish()
    assert (peer.statistics["send_scale"], peer.statistics["receive_scale"]) == (0, 0)
    peer.connection.write(b"x")
    assert peer.one().window == 65535


@pytest.mark.parametrize("ack", [0, 2, -1, 1 << 31])
def test_syn_sent_answers_an_unacceptable_ack_with_a_rst(ack: int) -> None:
    peer = Peer()
    peer.connect()
    peer.send("SA", 0, ack & 0xFFFFFFFF)
    answer = peer.one("R")
    assert answer.seq == ack & 0xFFFFFFFF
    assert peer.state == "SYN-SENT"
    peer.send("RA", 0, ack & 0xFFFFFFFF)
    peer.nothing()
    assert peer.state == "SYN-SENT"


def test_syn_sent_is_refused_by_a_rst_that_acknowledges() -> None:
    peer = Peer()
    peer.connect()
    peer.send("R", 0)
    assert peer.state == "SYN-SENT", "without an ACK it could be anybody's"
    peer.send("RA", 0, 1)
    assert list(peer.events()) == ["REFUSED"]
    assert peer.connection.ended is not None
    peer.nothing()
    assert peer.stack.next_timer() == float("inf")


@pytest.mark.parametrize("flags", ["A", "", "FA", "P"])
def test_syn_sent_drops_what_has_neither_syn_nor_rst(flags: str) -> None:
    peer = Peer()
    peer.connect()
    peer.send(flags, 0, 1)
    peer.nothing()
    assert peer.state == "SYN-SENT"


def test_data_written_before_leaves_with_the_handshake() -> None:
    peer = Peer()
    peer.connect()
    peer.connection.write(b"at once")
    peer.nothing()
    peer.now += 0.1
    peer.send("SA", 0, 1)
    assert peer.one("PA").data == b"at once"


# Both at once (§3.5, MUST-10).


def test_must_10_simultaneous_open() -> None:
    peer = Peer(scale=2, stamps=True)
    peer.connect()
    peer.send("S", 0)
    answer = peer.one("SA")
    assert (answer.seq, answer.ack, answer.scale is not None) == (0, 1, True)
    assert peer.state == "SYN-RECEIVED"
    peer.send("SA", 0, 1)  # What the peer answers our SYN with: it has come before, and acknowledges all the same.
    peer.got()
    peer.send("A", 1, 1)
    assert peer.state == "ESTABLISHED"
    assert list(peer.events()) == ["connected"]
    peer.send("PA", 1, 1, b"hello")
    assert peer.one("A").ack == 6


def test_must_11_simultaneous_open_that_is_refused_is_told() -> None:
    peer = Peer()
    peer.connect()
    peer.send("S", 0)
    peer.one("SA")
    peer.send("R", 1)
    assert list(peer.events()) == ["REFUSED"]


# SYN-RECEIVED (§3.10.7.4).


def half_open() -> Peer:
    peer = Peer()
    peer.listen()
    peer.send("S", 0)
    peer.one("SA")
    return peer


def test_must_11_a_rst_brings_a_passive_open_back_to_listen_in_silence() -> None:
    peer = half_open()
    peer.send("R", 1)
    peer.nothing()
    assert peer.handler.events == []
    assert peer.tcp.statistics()["names"] == 0
    assert peer.tcp.statistics()["half_open"] == 0
    peer.send("S", 0)
    peer.one("SA")


def test_syn_received_answers_a_syn_again() -> None:
    peer = half_open()
    peer.send("S", 0)
    answer = peer.one("SA")
    assert (answer.seq, answer.ack) == (0, 1)
    assert peer.tcp.statistics()["half_open"] == 1


def test_syn_received_returns_to_listen_at_another_syn_in_the_window() -> None:
    peer = half_open()
    peer.send("S", 100)
    assert peer.tcp.statistics()["names"] == 0


@pytest.mark.parametrize("ack", [0, 2, 1000])
def test_syn_received_answers_a_wrong_ack_with_a_rst(ack: int) -> None:
    peer = half_open()
    peer.send("A", 1, ack)
    assert peer.one("R").seq == ack
    peer.send("A", 1, 1)
    assert peer.handler.events == ["connected"]


def test_syn_received_takes_data_with_the_ack() -> None:
    peer = half_open()
    peer.send("PA", 1, 1, b"get")
    assert peer.handler.data == b"get"
    assert peer.one("A").ack == 4


def test_syn_received_takes_a_fin_with_the_ack() -> None:
    peer = half_open()
    peer.send("FA", 1, 1, b"get")
    assert peer.handler.data == b"get"
    assert peer.state == "CLOSE-WAIT"
    assert list(peer.events()) == ["connected", "eof"]


def test_the_syn_ack_is_repeated_and_given_up() -> None:
    peer = half_open()
    times = [segment.at - 1000.0 for segment in peer.advance(100.0) if segment.flags == "SA"]
    assert times == pytest.approx([1, 3, 7, 15, 31])
    assert peer.tcp.statistics()["names"] == peer.tcp.statistics()["half_open"] == 0


# The SYN's retransmission.


def test_must_23_a_syn_is_tried_for_three_minutes_at_least() -> None:
    peer = Peer()
    peer.connect()
    syns = peer.advance(400.0)
    assert [segment.at - 1000.0 for segment in syns] == pytest.approx([1, 3, 7, 15, 31, 63, 127])
    assert list(peer.events()) == ["TIMED_OUT"]


def test_a_lost_syn_leaves_a_window_of_one_segment_and_a_long_timeout() -> None:
    peer = Peer()
    peer.connect()
    peer.wait()
    peer.now += 0.01
    peer.send("SA", 0, 1)
    peer.one("A")
    assert peer.statistics["congestion_window"] == 1460
    assert peer.statistics["rto"] >= 3.0, "RFC 6298 §5.7"


def test_an_application_gives_up_sooner() -> None:
    peer = Peer()
    peer.connect()
    peer.connection.reset()
    peer.nothing()  # Nobody knows of it yet.
    assert list(peer.events()) == ["LOCALLY_RESET"]
    peer.send("SA", 0, 1)
    peer.one("R")


# Initial sequence numbers (§3.4.1).


def test_must_8_the_isn_clock_ticks_and_must_9_nobody_can_know() -> None:
    first = Peer().connect().raw_seq
    later = Peer(now=1001.0).connect().raw_seq
    assert (later - first) & 0xFFFFFFFF == 250000
    other = Peer()
    other.port += 1
    assert abs((other.connect().raw_seq - first + (1 << 31)) & 0xFFFFFFFF - (1 << 31)) > 1000


def test_ports_differ_and_are_in_range() -> None:
    peer = Peer()
    ports = {peer.tcp.connect(THERE4, 5000, Recorder()).local_address[1] for _ in range(200)}
    assert len(ports) == 200
    assert all(32768 <= port <= 60999 for port in ports)


def test_a_port_can_be_asked_for_once() -> None:
    peer = Peer()
    peer.tcp.connect(THERE4, 5000, Recorder(), local_port=1234)
    with pytest.raises(TcpError):
        peer.tcp.connect(THERE4, 5000, Recorder(), local_port=1234)
    peer.tcp.connect(THERE4, 5001, Recorder(), local_port=1234)


def test_all_ports_in_use_is_an_error() -> None:
    peer = Peer(options=Options(first_port=4000, last_port=4002))
    for _ in range(3):
        peer.tcp.connect(THERE4, 5000, Recorder())
    with pytest.raises(TcpError):
        peer.tcp.connect(THERE4, 5000, Recorder())


@pytest.mark.parametrize("address", ["224.0.0.1", "255.255.255.255", "0.0.0.0", "ff02::1", "::"])
def test_must_46_no_open_to_many(address: str) -> None:
    with pytest.raises(TcpError):
        Peer(v6=":" in address).tcp.connect(address, 80, Recorder())


def test_an_address_of_the_other_version_is_refused() -> None:
    with pytest.raises(TcpError):
        Peer().tcp.connect("2001:db8::5", 80, Recorder())
    with pytest.raises(TcpError):
        Peer().tcp.connect(THERE4, 80, Recorder(), local="203.0.113.9")
    with pytest.raises(ValueError):
        Peer().tcp.connect(THERE4, 0, Recorder())


def test_must_57_and_63_segments_from_or_to_many_are_dropped() -> None:
    peer = Peer(takes_all=True)
    peer.listen()
    for there in ("224.0.0.5", "255.255.255.255", "0.0.0.0", "127.0.0.1", "240.0.0.1"):
        peer.there = there
        peer.send("S", 0)
    peer.there = THERE4
    for here in ("224.0.0.5", "255.255.255.255"):
        peer.here = here
        peer.send("S", 0)
    assert not peer.packets()


@pytest.mark.parametrize("seed", range(5))
def test_timers_of_what_is_over_are_gone(seed: int) -> None:
    chance = random.Random(seed)
    peer = Peer()
    due = {}
    for port in range(1, 200):
        peer.now = 1000.0 + chance.random()
        peer.stack.handle_timer(peer.now)
        connection = peer.tcp.connect(THERE4, port, Recorder())
        peer.packets()
        due[connection] = peer.now + 1.0
    while due:
        assert peer.stack.next_timer() == min(due.values())
        gone = chance.choice(list(due))
        gone.reset()
        del due[gone]
    assert peer.stack.next_timer() == float("inf")
