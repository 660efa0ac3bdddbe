"""Losses: timeouts, fast retransmit with and without SACK, RACK and TLP, PRR, F-RTO, Eifel, D-SACK, reneging, ECN."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from quicsocks.netstack.tcp.types import Options

from .peer import Peer, Segment

MSS = 1000
RTT = 0.1


def established(*, write: int = 0, **fields: Any) -> Peer:
    """With a round trip of 100 ms, segments of 1,000 octets, and so many of them in flight."""
    options = fields.pop("options", Options())
    peer = Peer(mss=MSS + (12 if fields.get("stamps") else 0), scale=7, options=options, **fields)
    peer.establish()
    peer.window = 1 << 15  # Scaled by 128.
    peer.send("A", 1, 1)
    list(peer.events())
    if write:
        peer.connection.write(bytes(index % 251 for index in range(write * MSS)))
        assert [segment.seq for segment in peer.got()] == [1 + MSS * index for index in range(write)]
    return peer


def seqs(segments: list[Segment]) -> list[int]:
    """Numbers of segments with data, in units of segments."""
    assert all((segment.seq - 1) % MSS == 0 for segment in segments if segment.data)
    return [(segment.seq - 1) // MSS for segment in segments if segment.data]


def ack(peer: Peer, segments: int, *sacked: int | tuple[int, int], **fields: Any) -> list[int]:
    """Acknowledge so many segments by number, and SACK others, or ranges of them. What is sent then."""
    blocks = tuple(
        (1 + MSS * block[0], 1 + MSS * block[1])
        if isinstance(block, tuple)
        else (1 + MSS * block, 1 + MSS * (block + 1))
        for block in sacked
    )
    peer.send("A", 1, 1 + MSS * segments, sacks=blocks, **fields)
    return seqs(peer.got())


# Timeouts (RFC 6298).


def test_the_timeout_follows_the_round_trip() -> None:
    peer = established(options=Options(minimum_rto=0.0))
    assert peer.statistics["rto"] == pytest.approx(0.1 + 4 * 0.05), "RTO = SRTT + 4 RTTVAR"
    for _ in range(30):
        peer.connection.write(b"x")
        at = peer.one().seq
        peer.now += 0.1
        peer.send("A", 1, at + 1)
    assert peer.statistics["smoothed_rtt"] == pytest.approx(0.1)
    assert peer.statistics["rto"] == pytest.approx(0.1, rel=0.01)


def test_the_first_timeout_is_a_second_and_there_is_a_largest() -> None:
    peer = established(options=Options(maximum_rto=60.0), sack=False)
    peer.connection.write(b"x")
    peer.got()
    gaps = [later.at - earlier.at for earlier, later in pairwise(peer.advance(500.0))]
    for earlier, later in pairwise(gaps):
        assert later == pytest.approx(min(2 * earlier, 60.0)), "MUST-19: doubled each time"
    assert gaps[-1] == pytest.approx(60.0)


def test_a_timeout_sends_the_oldest_again_and_slows_to_one_segment() -> None:
    peer = established(write=8, sack=False)
    again = peer.wait()
    assert (again.seq, len(again.data)) == (1, MSS)
    assert peer.statistics["congestion_window"] == MSS
    assert peer.statistics["timeouts"] == 1
    assert ack(peer, 1) in ([], [1], [1, 2])


def test_must_18_karn_a_segment_sent_twice_says_nothing_of_the_round_trip() -> None:
    peer = established(sack=False)
    peer.connection.write(b"x" * MSS)
    peer.got()
    before = peer.statistics["smoothed_rtt"]
    peer.wait()
    peer.now += 3.0
    assert ack(peer, 1) == []
    assert peer.statistics["smoothed_rtt"] == before
    assert peer.statistics["backoff"] == 1, "and the back-off stays (RFC 6298 §5.7)"
    peer.connection.write(b"x" * MSS)
    peer.got()
    peer.now += 0.1
    ack(peer, 2)
    assert peer.statistics["backoff"] == 0


def test_timestamps_measure_even_then() -> None:
    peer = established(sack=False, stamps=True)
    peer.connection.write(b"x" * MSS)
    peer.got()
    peer.wait()
    peer.now += 0.1
    ack(peer, 1)
    assert peer.statistics["backoff"] == 0
    assert peer.statistics["smoothed_rtt"] == pytest.approx(0.1, rel=0.1)


def test_a_lost_acknowledgement_is_no_long_round_trip() -> None:
    peer = established(sack=False, stamps=True, options=Options(mtu_probing=False))
    peer.connection.write(b"x" * MSS)
    early = peer.one().stamps
    assert early is not None
    for _ in range(3):
        peer.wait()
    peer.now += RTT
    peer.send("A", 1, 1 + MSS, stamps=(peer.clock(), early[0]))  # It had come, and what is echoed is the first.
    assert peer.statistics["smoothed_rtt"] == pytest.approx(RTT)


def test_must_20_r2_ends_it() -> None:
    peer = established(write=1)
    peer.advance(2000.0)
    assert list(peer.events()) == ["TIMED_OUT"]


def test_must_21_r2_is_the_applications() -> None:
    peer = established(write=1, sack=False)
    peer.connection.set_user_timeout(5.0)
    first = peer.wait().at
    peer.advance(4.99)
    assert peer.state == "ESTABLISHED"
    peer.advance(0.02)
    assert list(peer.events()) == ["TIMED_OUT"]
    assert peer.now == pytest.approx(first + 5.01)


def test_the_timer_begins_anew_with_each_acknowledgement() -> None:
    peer = established(write=4, sack=False)
    for count in (1, 2, 3):
        peer.now += 0.2
        ack(peer, count)
        assert not peer.advance(0.2)


# Fast retransmit without SACK (RFC 5681 §3.2, RFC 6582, RFC 3042).


def test_limited_transmit_then_fast_retransmit_then_partial_acks() -> None:
    peer = established(write=10, sack=False)
    peer.connection.write(b"y" * (20 * MSS))
    peer.now += RTT
    assert ack(peer, 0) == [10], "RFC 3042"
    assert ack(peer, 0) == [11]
    assert ack(peer, 0)[0] == 0
    assert peer.statistics["recoveries"] == 1
    for _ in range(5):
        ack(peer, 0)
    peer.now += RTT
    assert ack(peer, 4)[0] == 4, "a partial acknowledgement: the next hole"
    peer.now += RTT
    ack(peer, 12)
    assert peer.statistics["repair"] == "open"
    assert peer.statistics["timeouts"] == 0


@pytest.mark.parametrize("fields", [{"window": 999}, {"data": b"x"}])
def test_what_is_no_duplicate_acknowledgement(fields: dict[str, Any]) -> None:
    peer = established(write=10, sack=False)
    for at in range(5):
        if "window" in fields:
            fields["window"] += 1
        peer.send("A", 1 + (at if "data" in fields else 0), 1, **fields)
    assert peer.statistics["recoveries"] == 0


def test_ten_acknowledgements_of_one_segment_open_the_window_no_further_than_one() -> None:
    whole, split = established(write=10), established(write=10)
    for peer, pieces in ((whole, 1), (split, 10)):
        peer.connection.write(b"y" * 50 * MSS)
        for piece in range(pieces):
            peer.send("A", 1, 1 + MSS * (piece + 1) // pieces)
            peer.got()
    assert split.statistics["congestion_window"] <= whole.statistics["congestion_window"]


# SACK and RACK.


def test_rack_sends_again_what_is_older_than_what_was_delivered() -> None:
    peer = established(write=10)
    peer.now += RTT
    assert ack(peer, 0, 1) == []  # A quarter of a round trip for reordering.
    assert ack(peer, 0, (1, 3)) == []
    assert ack(peer, 0, (1, 4)) == [0], "three segments: no reordering was ever seen"
    assert peer.statistics["repair"] == "recovery"
    peer.now += RTT
    ack(peer, 10)
    assert peer.statistics["repair"] == "open"
    assert (peer.statistics["timeouts"], peer.statistics["segments_resent"]) == (0, 1)


def test_rack_waits_for_a_quarter_of_a_round_trip() -> None:
    peer = established(write=3)
    peer.now += RTT
    assert ack(peer, 0, 2) == []
    begun = peer.now
    again = peer.wait()
    assert (again.seq - 1) // MSS == 0
    assert again.at - begun == pytest.approx(RTT / 4, rel=0.01)


def test_several_holes_are_repaired_in_one_round_trip() -> None:
    peer = established(write=10)
    peer.now += RTT
    found = ack(peer, 1, 2, 4, (6, 8), 9)
    while peer.stack.next_timer() <= peer.now + 0.001:
        found += seqs(peer.advance(0.001))
    assert found[0] == 1
    ack(peer, 2, (2, 3), 4, (6, 8))
    assert peer.statistics["timeouts"] == 0


def test_a_lost_retransmission_is_noticed_without_a_timeout() -> None:
    peer = established(write=10)
    peer.connection.write(b"y" * 20 * MSS)
    peer.now += RTT
    sent = ack(peer, 0, (1, 4))
    assert sent[0] == 0
    for high in range(5, 11):
        sent += ack(peer, 0, (1, high))
    news = [number for number in sent if number >= 10]
    assert news
    peer.now += RTT
    # What was sent behind the retransmission arrives, the retransmission does not.
    again = ack(peer, 0, (1, 10), news[0]) + ack(peer, 0, (1, news[-1] + 1))
    again += seqs(peer.advance(RTT / 2))
    assert 0 in again
    assert peer.statistics["timeouts"] == 0


def test_reordering_is_learned() -> None:
    peer = established(write=10)
    peer.now += RTT
    ack(peer, 0, 2)
    ack(peer, 0, 2, 1)
    assert ack(peer, 3) == []
    assert peer.statistics["reordering_seen"]
    assert ack(peer, 3, (4, 8)) == [], "four segments above, and still patience"
    assert ack(peer, 8) == []
    assert peer.statistics["recoveries"] == 0


def test_blocks_that_cover_a_segment_in_part_are_ignored_for_it() -> None:
    peer = established(write=6)
    peer.now += RTT
    peer.send("A", 1, 1, sacks=((1 + 2 * MSS + 1, 1 + 4 * MSS),))
    assert peer.statistics["sacked"] == 1
    peer.send("A", 1, 1, sacks=((1 + 2 * MSS, 1 + 5 * MSS - 1),))
    assert peer.statistics["sacked"] == 2


@pytest.mark.parametrize(
    "blocks", [((0, 1),), ((10, 12),), ((5, 5),), ((7, 3),), ((1 << 20, (1 << 20) + 5),), ((3, 200),)]
)
def test_blocks_that_cannot_be_are_ignored(blocks: tuple[tuple[int, int], ...]) -> None:
    peer = established(write=10)
    peer.now += RTT
    ack(peer, 5)
    assert ack(peer, 5, *blocks) == []
    assert peer.statistics["sacked"] == 0


def test_sacked_data_is_kept_until_it_is_acknowledged_by_number() -> None:
    peer = established(write=5, options=Options(mtu_probing=False))
    peer.now += RTT
    ack(peer, 0, (1, 5))
    assert peer.statistics["unacknowledged"] == 5 * MSS
    peer.now += RTT
    # Reneging (RFC 2018 §8): all is sent again in the end.
    found = set(seqs(peer.advance(60.0)))
    assert 0 in found
    for count in range(1, 6):
        found |= set(ack(peer, count))
        found |= set(seqs(peer.advance(60.0)))
    assert found == {0, 1, 2, 3, 4}
    assert peer.statistics["unacknowledged"] == 0


# TLP (RFC 8985 §7).


def test_a_lost_tail_is_probed_before_the_timeout() -> None:
    peer = established(write=5)
    peer.now += RTT
    ack(peer, 3)
    begun = peer.now
    probe = peer.wait()
    assert (probe.seq - 1) // MSS == 4, "the last one"
    assert probe.at - begun == pytest.approx(2 * peer.statistics["smoothed_rtt"])
    assert peer.statistics["timeouts"] == 0
    peer.now += RTT
    found = ack(peer, 3, 4) + seqs(peer.advance(RTT / 2))
    assert found == [3]
    assert peer.statistics["timeouts"] == 0


def test_a_lone_segment_is_given_time_for_a_delayed_ack() -> None:
    peer = established(write=1, options=Options(minimum_rto=1.0))
    begun = peer.now
    assert peer.wait().at - begun == pytest.approx(2 * RTT + 0.2)


def test_new_data_is_the_better_probe() -> None:
    peer = established(write=10)
    peer.connection.write(b"y" * 5 * MSS)  # The congestion window holds it.
    peer.nothing()
    assert (peer.wait().seq - 1) // MSS == 10
    assert peer.statistics["tail_probes"] == 1


def test_one_probe_at_a_time() -> None:
    peer = established(write=3)
    peer.advance(0.31)
    assert peer.statistics["tail_probes"] == 1
    peer.advance(0.2)
    assert peer.statistics["tail_probes"] == 1


def test_a_loss_that_the_probe_has_repaired_counts() -> None:
    peer = established(write=10)
    peer.now += RTT
    ack(peer, 9)
    window = peer.statistics["congestion_window"]
    peer.wait()
    peer.connection.write(b"z" * MSS)
    peer.got()
    peer.now += RTT
    ack(peer, 11)
    assert peer.statistics["congestion_window"] < window, "the ACK says more than the probe, and there is no D-SACK"


def test_a_probe_for_nothing_does_not() -> None:
    peer = established(write=10)
    peer.now += RTT
    ack(peer, 9)
    window = peer.statistics["congestion_window"]
    peer.wait()
    peer.now += 0.01
    ack(peer, 10)
    ack(peer, 10, 9)  # The D-SACK.
    assert peer.statistics["congestion_window"] >= window
    assert peer.statistics["recoveries"] == 0


# PRR (RFC 9937).


def test_prr_spreads_the_reduction_over_the_round_trip() -> None:
    peer = established(options=Options(congestion="reno"))
    peer.connection.write(bytes(200 * MSS))
    sent = len(peer.got())
    acked = 0
    while sent < 40:
        peer.now += RTT
        acked = sent
        sent += len(ack(peer, acked))
    flight = sent - acked
    peer.now += RTT
    out = ack(peer, acked, (acked + 1, acked + 4))
    for index in range(4, flight):
        out += ack(peer, acked, (acked + 1, acked + 1 + index))
    assert out[0] == acked
    news = len(out)
    assert abs(news - flight / 2) <= 2, "half as much as was delivered"
    assert peer.statistics["repair"] == "recovery"
    peer.now += RTT
    ack(peer, acked + flight)
    assert peer.statistics["congestion_window"] == pytest.approx(flight * MSS / 2, rel=0.1)


def test_a_stretch_ack_does_not_make_a_burst() -> None:
    peer = established(options=Options(congestion="reno"))
    peer.connection.write(bytes(400 * MSS))
    sent = len(peer.got())
    acked = 0
    while sent < 80:
        peer.now += RTT
        acked = sent
        sent += len(ack(peer, acked))
    flight = sent - acked
    peer.now += RTT
    out = ack(peer, acked, (acked + 1, acked + flight // 2))
    assert len(out) <= flight // 2


# F-RTO (RFC 5682), Eifel (RFC 3522), D-SACK: what was a mistake is taken back.


def delayed(**fields: Any) -> Peer:
    """Ten segments, and the timeout comes because their acknowledgements are late."""
    peer = established(write=10, **fields)
    peer.connection.write(b"y" * 30 * MSS)
    for segment in peer.advance(0.45):
        assert segment.data
    while not peer.statistics["timeouts"]:
        peer.advance(0.1)
    return peer


def test_f_rto_with_sack_undoes_at_the_first_proof() -> None:
    peer = delayed()
    window = peer.statistics["congestion_window"]
    assert window == MSS
    ack(peer, 1)
    ack(peer, 2)
    assert peer.statistics["undone"] == 1
    assert peer.statistics["repair"] == "open"
    assert peer.statistics["congestion_window"] >= 10 * MSS
    assert peer.statistics["segments_resent"] <= 2, "the head, and no others"


def test_f_rto_without_sack_asks_with_new_data() -> None:
    peer = delayed(sack=False)
    assert ack(peer, 1) == [10, 11], "two new ones (2b)"
    assert peer.statistics["undone"] == 0
    ack(peer, 3)
    assert peer.statistics["undone"] == 1, "(3b)"
    assert peer.statistics["congestion_window"] >= 10 * MSS


def test_f_rto_finds_a_real_loss() -> None:
    peer = delayed(sack=False)
    assert ack(peer, 1) == [10, 11]
    assert ack(peer, 1)[0] == 1, "a duplicate (3a): back to what is missing"
    assert peer.statistics["undone"] == 0
    assert peer.statistics["repair"] == "loss"


def test_eifel_sees_it_in_the_timestamp() -> None:
    peer = established(write=10, stamps=True, sack=False)
    early = peer.ts_recent
    while not peer.statistics["timeouts"]:
        peer.advance(0.1)
    peer.send("A", 1, 1 + 2 * MSS, stamps=(peer.clock(), early))
    assert peer.statistics["undone"] == 1
    assert peer.statistics["congestion_window"] >= 10 * MSS


def test_eifel_does_not_undo_what_the_retransmission_repaired() -> None:
    peer = established(write=10, stamps=True, sack=False)
    while not peer.statistics["timeouts"]:
        peer.advance(0.1)
    peer.now += RTT
    peer.send("A", 1, 1 + 2 * MSS)  # Echoes the retransmission's.
    assert peer.statistics["undone"] == 0


def test_d_sacks_of_all_that_was_sent_again_undo_a_recovery() -> None:
    peer = established(write=10)
    peer.now += RTT
    assert ack(peer, 0, (1, 4)) == [0]
    window = peer.statistics["congestion_window"]
    peer.now += 0.01
    ack(peer, 10)  # The first was late, not lost.
    peer.now += RTT
    ack(peer, 10, 0)  # The second is reported twice.
    assert peer.statistics["duplicates_told"] == 1
    assert peer.statistics["undone"] == 1
    assert peer.statistics["congestion_window"] > window


# ECN, as the sender.


def test_an_echo_of_congestion_slows_down_once_a_round_trip() -> None:
    peer = Peer(mss=MSS, scale=7, options=Options(ecn=True, congestion="reno"))
    peer.connect()
    peer.now += RTT
    peer.send("SAE", 0, 1)
    peer.got()
    peer.window = 1 << 15
    peer.send("A", 1, 1)
    peer.connection.write(bytes(40 * MSS))
    assert len(peer.got()) == 10
    window = peer.statistics["congestion_window"]
    peer.now += RTT
    peer.send("AE", 1, 1 + MSS)
    assert peer.statistics["congestion_window"] == pytest.approx(window / 2, abs=MSS)
    for count in range(2, 7):
        peer.send("AE", 1, 1 + count * MSS)
    found = peer.got()
    assert peer.statistics["marks"] == 1
    assert "C" in found[0].flags
    assert "C" not in "".join(segment.flags for segment in found[1:])
    assert all(segment.ecn == 2 for segment in found)


def test_retransmissions_and_acknowledgements_are_not_ecn_capable() -> None:
    peer = Peer(mss=MSS, options=Options(ecn=True))
    peer.connect()
    peer.send("SAE", 0, 1)
    assert peer.one("A").ecn == 0
    peer.connection.write(bytes(MSS))
    assert peer.one().ecn == 2
    assert peer.wait().ecn == 0


@pytest.mark.parametrize("congestion", ["cubic", "reno", "bbr"])
def test_each_controller_comes_through_a_loss_a_timeout_and_an_undo(congestion: str) -> None:
    peer = established(write=10, options=Options(congestion=congestion))
    peer.connection.write(bytes(100 * MSS))
    peer.now += RTT
    assert 0 in ack(peer, 0, (1, 4)) + seqs(peer.advance(0.05))
    peer.now += RTT
    ack(peer, 10)
    peer.advance(10.0)
    assert peer.statistics["timeouts"] >= 1
    window = peer.statistics["congestion_window"]
    peer.now += RTT
    peer.send("A", 1, 1 + 11 * MSS)
    peer.advance(0.1)
    assert peer.statistics["congestion_window"] >= window
