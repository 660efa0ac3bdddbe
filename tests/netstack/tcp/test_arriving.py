"""Segments that arrive in the synchronized states: RFC 9293 §3.10.7.4 in its order, with RFC 5961 and RFC 7323 §5."""

from __future__ import annotations

import pytest

from quicsocks.netstack.tcp.types import Options

from .peer import Peer

WINDOW = 10000


def established(*, stamps: bool = False, window: int = WINDOW, consume: bool = True) -> Peer:
    """With a receive window of exactly 10,000 octets, unscaled; quick acknowledgements are used up."""
    peer = Peer(
        stamps=stamps, options=Options(initial_receive_window=window, receive_window=window, window_scaling=False)
    )
    peer.handler.consume = consume
    peer.establish()
    list(peer.events())
    return peer


# First: the sequence number.


@pytest.mark.parametrize(
    ("seq", "size", "taken"),
    [
        (1, 0, True),
        (0, 0, False),
        (WINDOW, 0, True),
        (WINDOW + 1, 0, True),  # The right edge: as on Linux; see the file.
        (WINDOW + 2, 0, False),
        (1, 1, True),
        (0, 1, False),
        (0, 2, True),
        (WINDOW, 1, True),
        (WINDOW + 1, 1, False),
        (WINDOW, 10, True),
        ((1 << 32) - 5, 3, False),
    ],
)
def test_the_window_decides_what_is_acceptable(seq: int, size: int, taken: bool) -> None:
    peer = established()
    peer.connection.write(b"q")
    peer.got()
    peer.send("A", seq & 0xFFFFFFFF, 2, b"x" * size)
    assert (peer.statistics["in_flight"] == 0) == taken, "its ACK counts when it is acceptable"
    if not taken:
        answer = peer.one("A")
        assert (answer.seq, answer.ack) == (2, 1)


def test_what_is_outside_is_cut_off() -> None:
    peer = established()
    peer.send("A", 1, 1, b"0123456789")
    peer.got()
    peer.send("A", 6, 1, b"56789abcde" + b"f" * (2 * WINDOW))
    assert peer.handler.data == b"0123456789abcde" + b"f" * (WINDOW - 15), "what it was last told of"
    assert peer.one("A").ack == 1 + WINDOW


def test_must_66_a_shut_window_takes_acks_and_resets() -> None:
    peer = established(consume=False)
    peer.send("A", 1, 1, b"x" * WINDOW)
    assert peer.one("A").window == 0
    peer.connection.write(b"abc")
    peer.one("PA")
    peer.send("A", 1 + WINDOW, 4, b"y" * 10)  # Its text does not fit, its ACK does.
    assert peer.statistics["in_flight"] == 0
    answer = peer.one("A")
    assert (answer.ack, answer.window) == (1 + WINDOW, 0)
    peer.send("R", 1 + WINDOW)
    assert "RESET" in peer.events()


def test_an_unacceptable_rst_is_dropped() -> None:
    peer = established()
    for seq in (0, WINDOW + 2, (1 << 32) - 1):
        peer.send("R", seq)
        peer.send("RA", seq, 1)
    peer.nothing()
    assert peer.state == "ESTABLISHED"


# Second: RST (RFC 5961 §3).


def test_a_rst_at_rcv_nxt_resets() -> None:
    peer = established()
    peer.send("A", 1, 1, b"xyz")
    peer.got()
    peer.send("R", 4)
    assert list(peer.events()) == ["reset", "RESET"]
    peer.nothing()
    assert peer.tcp.statistics()["names"] == 0


@pytest.mark.parametrize("seq", [2, 100, WINDOW])
def test_a_rst_elsewhere_in_the_window_is_challenged(seq: int) -> None:
    peer = established()
    peer.send("R", seq)
    answer = peer.one("A")
    assert (answer.seq, answer.ack) == (1, 1)
    assert peer.state == "ESTABLISHED"
    peer.send("R", 1)  # A peer that is really gone answers the challenge with the right number.
    assert "RESET" in peer.events()


def test_a_rst_at_the_edge_is_dropped() -> None:
    peer = established()
    peer.send("R", WINDOW + 1)
    peer.nothing()


@pytest.mark.parametrize("reading", [True, False])
def test_a_reset_forgets_what_was_not_delivered(reading: bool) -> None:
    peer = established(consume=reading)
    peer.connection.write(b"x" * 100)
    peer.got()
    peer.send("R", 1)
    statistics = peer.tcp.statistics()
    assert statistics["octets_unconsumed"] == statistics["octets_unacknowledged"] == 0
    peer.connection.write(b"nothing happens")
    peer.connection.finish()
    peer.connection.reset()
    peer.nothing()


# Fourth: SYN (RFC 5961 §4).


@pytest.mark.parametrize("seq", [0, 1, 5, WINDOW, WINDOW + 5, 1 << 31])
@pytest.mark.parametrize("flags", ["S", "SA"])
def test_a_syn_is_challenged_wherever_it_is(seq: int, flags: str) -> None:
    peer = established()
    peer.send(flags, seq, 1)
    answer = peer.one("A")
    assert (answer.seq, answer.ack) == (1, 1)
    assert peer.state == "ESTABLISHED"


def test_challenges_are_few() -> None:
    peer = established()
    answers = 0
    for _ in range(100):
        peer.send("S", 50, 1)
        answers += len(peer.got())
    assert 10 <= answers <= 13, "RFC 5961 §7, with a random few"
    peer.now += 5.0
    peer.send("S", 50, 1)
    peer.one("A")


# Fifth: ACK (RFC 5961 §5).


def test_without_an_ack_nothing_is_taken() -> None:
    peer = established()
    peer.send("P", 1, data=b"xyz")
    peer.nothing()
    assert not peer.handler.data


@pytest.mark.parametrize(("ack", "taken"), [(11, True), (12, False), (1, True), (1 << 31, False)])
def test_an_ack_of_what_was_not_sent_is_challenged(ack: int, taken: bool) -> None:
    peer = established()
    peer.connection.write(b"0123456789")
    peer.one("PA")
    peer.send("PA", 1, ack, b"data")
    assert (peer.handler.data == b"data") == taken
    if not taken:
        assert peer.one("A").ack == 1


def test_old_acks_are_taken_within_the_largest_window_ever() -> None:
    peer = Peer(window=100)
    peer.establish()
    sent = 0
    for _ in range(3):
        peer.connection.write(b"x" * 100)
        sent += sum(len(segment.data) for segment in peer.got())
        peer.send("A", 1, 1 + sent)
    assert sent == 300
    peer.send("A", 1, 201, b"a")
    assert peer.handler.data == b"a", "SND.UNA - MAX.SND.WND"
    peer.got()
    peer.send("A", 2, 200, b"b")
    assert peer.handler.data == b"a"
    assert peer.one("A").ack == 2


def test_the_window_is_updated_by_newer_segments_only() -> None:
    peer = Peer()
    peer.establish()
    peer.send("A", 1, 1, b"x", window=5000)
    assert peer.statistics["send_window"] == 5000
    peer.send("A", 1, 1, window=9000)  # SEG.SEQ < SND.WL1
    assert peer.statistics["send_window"] == 5000
    peer.send("A", 2, 1, window=7000)
    assert peer.statistics["send_window"] == 7000
    peer.send("A", 2, 1, window=6000)  # Equal numbers: MUST-34, it may shrink.
    assert peer.statistics["send_window"] == 6000


def test_must_1_windows_are_unsigned() -> None:
    peer = Peer()
    peer.establish()
    peer.send("A", 1, 1, window=0xFFFF)
    assert peer.statistics["send_window"] == 65535


# Sixth: urgent data is data.


def test_must_62_urgent_octets_are_delivered_in_their_place() -> None:
    peer = established()
    peer.send("UPA", 1, 1, b"abc", urgent=2)
    peer.send("UPA", 4, 1, b"def", urgent=0)
    peer.send("PA", 7, 1, b"ghi", urgent=65535)
    assert peer.handler.data == b"abcdefghi"


# Seventh: text.


def test_shld_31_what_comes_early_is_kept() -> None:
    peer = established()
    for at in (4, 2, 3, 0, 1):
        peer.send("A", 1 + 3 * at, 1, b"%03d" % at)
    assert peer.handler.data == b"000001002003004"


def test_what_came_first_stays() -> None:
    peer = established()
    peer.send("A", 4, 1, b"DEF")
    peer.send("A", 1, 1, b"abcdefghi")
    assert peer.handler.data == b"abcDEFghi"


def test_numbers_wrap_around() -> None:
    peer = Peer()  # Its ISN is 256 below the end.
    peer.establish()
    for at in range(10):
        peer.send("A", 1 + 100 * at, 1, bytes([at]) * 100)
    assert peer.handler.data == b"".join(bytes([at]) * 100 for at in range(10))


# PAWS and timestamps (RFC 7323 §5).


def test_paws_drops_what_is_older_and_answers() -> None:
    peer = established(stamps=True)
    now = peer.clock()
    peer.send("A", 1, 1, b"abc", stamps=(now, peer.ts_recent))
    peer.got()
    peer.send("A", 4, 1, b"old", stamps=(now - 1, peer.ts_recent))
    assert peer.handler.data == b"abc"
    assert peer.one("A").ack == 4
    assert peer.statistics["stale"] == 1
    peer.send("A", 4, 1, b"new", stamps=(now, peer.ts_recent))
    assert peer.handler.data == b"abcnew"


def test_paws_does_not_judge_resets() -> None:
    peer = established(stamps=True)
    peer.send("R", 1, stamps=(peer.clock() - 1000, 0))
    assert "RESET" in peer.events()


def test_timestamps_wrap_around() -> None:
    peer = established(stamps=True)
    stamp = peer.clock()
    for at in range(6):
        stamp = (stamp + 0x60000000) & 0xFFFFFFFF
        peer.send("A", 1 + at, 1, b"abcdef"[at : at + 1], stamps=(stamp, peer.ts_recent))
        peer.got()
    assert peer.handler.data == b"abcdef"
    peer.send("A", 7, 1, b"g", stamps=(stamp - 0x60000000, peer.ts_recent))
    assert peer.statistics["stale"] == 1


def test_a_segment_without_timestamps_is_dropped_once_they_are_agreed() -> None:
    peer = established(stamps=True)
    peer.send("A", 1, 1, b"abc", stamps=None)
    assert not peer.handler.data
    peer.send("R", 1, stamps=None)
    assert "RESET" in peer.events()


def test_after_24_days_any_timestamp_is_taken() -> None:
    peer = established(stamps=True)
    base = peer.clock()
    peer.now += 23 * 86400
    peer.send("A", 1, 1, b"a", stamps=(base - 1, peer.ts_recent))
    assert not peer.handler.data
    peer.now += 2 * 86400
    peer.send("A", 1, 1, b"b", stamps=(base - 1, peer.ts_recent))
    assert peer.handler.data[-1:] == b"b"


def test_what_is_echoed_is_of_the_earliest_segment_not_acknowledged() -> None:
    peer = established(stamps=True)
    for _ in range(16):
        peer.send("A", 1 + len(peer.handler.data), 1, b"quick")
        peer.got()
    at = 1 + len(peer.handler.data)
    base = peer.clock()
    peer.send("A", at, 1, b"abc", stamps=(base + 10, peer.ts_recent))
    peer.nothing()
    peer.send("A", at + 3, 1, b"abc", stamps=(base + 20, peer.ts_recent))
    answer = peer.one("A")
    assert answer.stamps is not None
    assert answer.stamps[1] == base + 10, "RFC 7323 §4.3"


def test_what_is_out_of_order_does_not_change_what_is_echoed() -> None:
    peer = established(stamps=True)
    base = peer.clock()
    peer.send("A", 1, 1, b"abc", stamps=(base + 10, peer.ts_recent))
    peer.got()
    peer.send("A", 7, 1, b"ghi", stamps=(base + 30, peer.ts_recent))
    answer = peer.one("A")
    assert answer.stamps is not None
    assert answer.stamps[1] == base + 10
    peer.send("A", 4, 1, b"def", stamps=(base + 20, peer.ts_recent))
    answer = peer.one("A")
    assert answer.stamps is not None
    assert answer.stamps[1] == base + 20


def test_every_segment_has_timestamps() -> None:
    peer = established(stamps=True)
    peer.connection.write(b"x")
    assert peer.one().stamps is not None
    peer.send("S", 50)
    assert peer.one("A").stamps is not None
    peer.connection.reset()
    assert peer.one("RA").stamps is not None


# SACK, as the receiver (RFC 2018 §4, RFC 2883 §4).


def test_the_block_of_what_has_just_come_is_first() -> None:
    peer = established()
    peer.send("A", 11, 1, b"x" * 10)
    assert peer.one().sacks == ((11, 21),)
    peer.send("A", 31, 1, b"x" * 10)
    assert peer.one().sacks == ((31, 41), (11, 21))
    peer.send("A", 51, 1, b"x" * 10)
    assert peer.one().sacks == ((51, 61), (31, 41), (11, 21))
    peer.send("A", 21, 1, b"x" * 5)
    assert peer.one().sacks == ((11, 26), (51, 61), (31, 41))
    peer.send("A", 71, 1, b"x" * 10)
    peer.send("A", 91, 1, b"x" * 10)
    assert len(peer.one().sacks) == 4
    peer.send("A", 1, 1, b"x" * 10)
    answer = peer.one()
    assert answer.ack == 26
    assert (11, 26) not in answer.sacks


def test_with_timestamps_there_is_room_for_three() -> None:
    peer = established(stamps=True)
    for at in range(5):
        peer.send("A", 11 + 20 * at, 1, b"x" * 10)
    assert len(peer.got()[-1].sacks) == 3


def test_what_comes_twice_is_told_as_a_duplicate() -> None:
    peer = established()
    peer.send("A", 1, 1, b"x" * 20)
    peer.got()
    peer.send("A", 1, 1, b"x" * 10)
    answer = peer.one()
    assert (answer.ack, answer.sacks) == (21, ((1, 11),))
    peer.send("A", 31, 1, b"x" * 10)
    assert peer.one().sacks == ((31, 41),), "told once"
    peer.send("A", 16, 1, b"x" * 10)
    answer = peer.one()
    assert (answer.ack, answer.sacks[0]) == (26, (16, 21))


def test_without_sack_there_are_no_blocks() -> None:
    peer = Peer(sack=False)
    peer.establish()
    peer.send("A", 11, 1, b"x" * 10)
    assert peer.one().sacks == ()


def test_what_waits_is_bounded() -> None:
    peer = Peer(scale=0)
    peer.establish()
    for at in range(3000):
        peer.send("A", 3 + 4 * at, 1, b"x")
        peer.got()
    assert peer.statistics["waiting_ranges"] <= 1024
    peer.send("A", 1, 1, b"y" * 65000)
    assert len(peer.handler.data) >= 65000


# ECN, as the receiver (RFC 3168 §6.1.3).


def test_congestion_is_echoed_until_the_sender_has_reduced() -> None:
    peer = Peer(options=Options(ecn=True))
    syn = peer.connect()
    assert syn.flags == "SEC"
    assert syn.ecn == 0
    peer.send("SAE", 0, 1)
    assert peer.one().flags == "A"
    peer.send("A", 1, 1, b"abc", ecn=2)
    assert peer.one().flags == "A"
    peer.send("A", 4, 1, b"def", ecn=3)
    assert peer.one().flags == "AE"
    peer.send("A", 7, 1, b"ghi", ecn=2)
    assert peer.one().flags == "AE"
    peer.send("AC", 10, 1, b"jkl", ecn=2)
    assert peer.one().flags == "A"


@pytest.mark.parametrize(("flags", "wanted"), [("SAE", True), ("SA", False), ("SAEC", False)])
def test_ecn_is_used_where_both_ends_know_it(flags: str, wanted: bool) -> None:
    peer = Peer(options=Options(ecn=True))
    peer.connect()
    peer.send(flags, 0, 1)
    peer.got()
    assert peer.statistics["ecn"] == wanted
    peer.connection.write(b"x")
    assert peer.one().ecn == (2 if wanted else 0)


@pytest.mark.parametrize(("flags", "answer"), [("SEC", "SAE"), ("S", "SA"), ("SE", "SA")])
def test_ecn_as_the_passive_end(flags: str, answer: str) -> None:
    peer = Peer(options=Options(ecn=True))
    peer.listen()
    peer.send(flags, 0)
    assert peer.one().flags == answer


def test_ecn_is_not_asked_for_a_second_time() -> None:
    peer = Peer(options=Options(ecn=True))
    peer.connect()
    assert peer.wait().flags == "S"


# Keep-alives of the peer.


def test_a_keepalive_is_answered() -> None:
    peer = established()
    peer.send("A", 1, 1, b"abc")
    peer.got()
    peer.send("A", 3, 1)
    answer = peer.one("A")
    assert (answer.seq, answer.ack) == (1, 4)
