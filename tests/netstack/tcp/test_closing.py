"""Closing: FIN in every state, half-close, TIME-WAIT, resets, and whom they are told to (RFC 9293 §3.6, §3.10.4, §3.10.7.4)."""

from __future__ import annotations

import pytest

from quicsocks.netstack.tcp.connection import Connection
from quicsocks.netstack.tcp.types import Options, TcpError

from .peer import Peer


def established(**fields: bool | Options) -> Peer:
    peer = Peer(**fields)  # type: ignore[arg-type] # keyword arguments of any kind
    peer.establish()
    list(peer.events())
    return peer


def names(peer: Peer) -> int:
    return int(peer.tcp.statistics()["names"])


# We first: FIN-WAIT-1, FIN-WAIT-2, CLOSING, TIME-WAIT.


def test_fin_wait_1_then_2_then_time_wait() -> None:
    peer = established()
    peer.connection.finish()
    fin = peer.one("FPA")
    assert (fin.seq, peer.state) == (1, "FIN-WAIT-1")
    peer.send("A", 1, 2)
    assert peer.state == "FIN-WAIT-2"
    assert list(peer.events()) == ["sent"]
    peer.send("PA", 1, 2, b"still talking")
    assert peer.handler.data == b"still talking"
    assert peer.one("A").ack == 14
    peer.send("FA", 14, 2)
    assert list(peer.events()) == ["eof"]
    answer = peer.one("A")
    assert (answer.seq, answer.ack) == (2, 15)
    assert peer.tcp.statistics()["time_waits"] == 1
    assert peer.state == "CLOSED"
    assert peer.connection.ended is None


def test_the_fin_rides_on_the_last_octets() -> None:
    peer = established()
    peer.connection.write(b"bye")
    peer.connection.finish()
    fin = peer.one("FPA")
    assert fin.data == b"bye"
    peer.send("A", 1, 4)  # Of the octets alone.
    assert peer.state == "FIN-WAIT-1"
    again = peer.wait()
    assert (again.flags, again.seq, again.data) == ("FA", 4, b"") or (again.flags, again.seq) == ("FPA", 4)
    peer.send("A", 1, 5)
    assert peer.state == "FIN-WAIT-2"


def test_fin_wait_1_with_fin_and_ack_at_once() -> None:
    peer = established()
    peer.connection.finish()
    peer.got()
    peer.send("FA", 1, 2)
    assert list(peer.events()) == ["eof", "sent"]
    peer.one("A")
    assert peer.tcp.statistics()["time_waits"] == 1


def test_closing_both_at_once() -> None:
    peer = established()
    peer.connection.finish()
    peer.got()
    peer.send("FA", 1, 1)
    assert peer.state == "CLOSING"
    assert peer.one("A").ack == 2
    peer.send("A", 2, 2)
    assert list(peer.events()) == ["eof", "sent"]
    assert peer.tcp.statistics()["time_waits"] == 1


def test_closing_repeats_its_fin() -> None:
    peer = established()
    peer.connection.finish()
    peer.got()
    peer.send("FA", 1, 1)
    peer.got()
    again = peer.wait()
    assert "F" in again.flags
    assert again.seq == 1


# The peer first: CLOSE-WAIT, LAST-ACK.


def test_close_wait_and_last_ack() -> None:
    peer = established()
    peer.send("FPA", 1, 1, b"the end")
    assert peer.handler.data == b"the end"
    assert list(peer.events()) == ["eof"]
    assert peer.state == "CLOSE-WAIT"
    assert peer.one("A").ack == 9
    peer.connection.write(b"not mine")
    assert peer.one("PA").data == b"not mine"
    peer.send("A", 9, 9)
    peer.connection.finish()
    fin = peer.one()
    assert (fin.flags, fin.seq) == ("FPA", 9)
    assert peer.state == "LAST-ACK"
    peer.send("A", 9, 10)
    assert list(peer.events()) == ["sent"]
    assert names(peer) == 0, "no TIME-WAIT for who was closed upon"
    peer.nothing()


def test_a_fin_before_its_octets_waits_for_them() -> None:
    peer = established()
    peer.send("FA", 4, 1)
    assert list(peer.events()) == []
    assert peer.one("A").ack == 1
    peer.send("A", 1, 1, b"abc")
    assert list(peer.events()) == ["eof"]
    assert peer.one("A").ack == 5


def test_a_fin_again_is_acknowledged_again() -> None:
    peer = established()
    peer.send("FA", 1, 1)
    peer.one("A")
    for _ in range(3):
        peer.send("FA", 1, 1)
        assert peer.one("A").ack == 2
    assert list(peer.events()) == ["eof"]


def test_text_behind_a_fin_is_nothing() -> None:
    peer = established()
    peer.send("FA", 1, 1)
    peer.got()
    peer.send("PA", 2, 1, b"more")
    assert not peer.handler.data
    peer.send("FA", 4, 1)
    assert list(peer.events()) == ["eof"]


def test_a_fin_that_moves_is_not_believed() -> None:
    peer = established()
    peer.send("FA", 10, 1)
    peer.got()
    peer.send("FA", 5, 1)
    peer.send("PA", 1, 1, b"x" * 20)
    peer.send("PA", 1, 1, b"123456789")
    assert peer.handler.data == b"123456789"
    assert list(peer.events()) == ["eof"]


def test_half_close_leaves_the_other_direction_for_as_long_as_it_takes() -> None:
    peer = established()
    peer.connection.finish()
    peer.got()
    peer.send("A", 1, 2)
    peer.advance(100000.0)
    peer.send("PA", 1, 2, b"at last")
    assert peer.handler.data == b"at last"


def test_fin_wait_2_ends_when_nobody_wants_more() -> None:
    peer = established()
    peer.connection.finish()
    peer.got()
    peer.send("A", 1, 2)
    peer.connection.stop_sending()
    assert names(peer) == 1
    peer.advance(60.1)
    assert names(peer) == 0


# TIME-WAIT.


def time_wait(*, stamps: bool = False, **fields: int) -> Peer:
    peer = Peer(stamps=stamps, options=Options(**fields) if fields else None)  # type: ignore[arg-type] # numbers
    peer.establish_passive()
    peer.connection.finish()
    peer.got()
    peer.send("FA", 1, 2)
    peer.one("A")
    assert peer.tcp.statistics()["time_waits"] == 1
    list(peer.events())
    return peer


def test_must_13_time_wait_lasts_two_msl() -> None:
    peer = time_wait()
    peer.advance(59.9)
    assert peer.tcp.statistics()["time_waits"] == 1
    peer.advance(0.2)
    assert peer.tcp.statistics()["time_waits"] == 0
    assert names(peer) == 0


def test_time_wait_answers_a_fin_and_begins_anew() -> None:
    peer = time_wait()
    peer.advance(50.0)
    peer.send("FA", 1, 2)
    answer = peer.one("A")
    assert (answer.seq, answer.ack) == (2, 2)
    peer.advance(50.0)
    assert peer.tcp.statistics()["time_waits"] == 1


def test_time_wait_ignores_resets() -> None:
    peer = time_wait()  # RFC 1337
    peer.send("R", 2)
    peer.send("RA", 2, 2)
    peer.nothing()
    assert peer.tcp.statistics()["time_waits"] == 1


def test_time_wait_answers_old_text_now_and_then() -> None:
    peer = time_wait()
    for _ in range(5):
        peer.send("A", 1, 1, b"x")
    assert len(peer.got()) == 1
    peer.send("A", 2, 2)
    peer.nothing()


def test_may_2_a_syn_with_a_later_number_takes_the_name() -> None:
    peer = time_wait()
    former = peer.stack_isn
    peer.send("S", 100000)
    answer = peer.one("SA")
    assert (answer.raw_seq - former - 2) & 0xFFFFFFFF < 1 << 31, "above all that the old one used"
    assert peer.tcp.statistics()["time_waits_recycled"] == 1
    peer.isn = (peer.isn + 100000) & 0xFFFFFFFF
    peer.send("A", 1, 1)
    assert "connected" in peer.events()


def test_a_syn_with_an_earlier_number_does_not() -> None:
    peer = time_wait()
    peer.send("S", (1 << 32) - 5)
    assert peer.one("A").ack == 2
    assert peer.tcp.statistics()["time_waits"] == 1


@pytest.mark.parametrize(("later", "taken"), [(1, True), (0, False), (-5, False)])
def test_shld_4_a_syn_with_a_later_timestamp_takes_the_name(later: int, taken: bool) -> None:
    peer = time_wait(stamps=True)
    stamp = peer.clock()
    peer.send("S", (1 << 32) - 5, stamps=(stamp + later, 0))
    assert peer.one().flags == ("SA" if taken else "A")


def test_time_waits_are_bounded() -> None:
    peer = time_wait(time_waits=3)
    for port in range(6000, 6010):
        peer.port = port
        peer.send("S", 0)
        peer.one("SA")
        peer.send("A", 1, 1)
        peer.connection.finish()
        peer.got()
        peer.send("FA", 1, 2)
        peer.got()
    statistics = peer.tcp.statistics()
    assert (statistics["time_waits"], statistics["time_waits_evicted"], statistics["names"]) == (3, 8, 3)


# Abort, and what nobody wants.


def test_must_12_a_reset_of_ours_is_sent_and_told() -> None:
    peer = established()
    peer.connection.write(b"abc")
    peer.got()
    peer.connection.reset()
    rst = peer.one("RA")
    assert (rst.seq, rst.ack) == (4, 1)
    assert list(peer.events()) == ["LOCALLY_RESET"]
    assert names(peer) == 0
    peer.send("A", 1, 4)
    peer.one("R")


@pytest.mark.parametrize("late", [False, True])
def test_data_for_nobody_is_answered_with_a_reset(late: bool) -> None:
    peer = established()  # RFC 2525 §2.16
    peer.connection.stop_sending()
    peer.send("PA", 1, 1, b"dropped while we still send")
    assert peer.one("A").ack == 28
    peer.connection.finish()
    peer.got()
    if late:
        peer.send("A", 28, 2)
    peer.send("PA", 28, 2, b"too late")
    peer.one("RA")
    # Once our FIN is acknowledged, nothing of it concerns the application any more.
    assert list(peer.events()) == (["sent"] if late else ["LOCALLY_RESET"])
    assert names(peer) == 0


def test_shld_3_closing_with_unread_data_resets() -> None:
    peer = established()
    peer.connection.set_handler(None)  # type: ignore[arg-type] # nobody reads
    peer.send("PA", 1, 1, b"unread")
    peer.got()
    peer.connection.finish()
    peer.got()
    peer.connection.stop_sending()
    peer.one("RA")


def test_stop_sending_returns_credit_and_tells_no_more() -> None:
    peer = Peer(options=Options(initial_receive_window=10000, receive_window=10000, window_scaling=False))
    peer.handler.consume = False
    peer.establish()
    peer.send("A", 1, 1, b"x" * 6000)
    peer.got()
    peer.connection.stop_sending()
    assert peer.one("A").window == 10000
    peer.send("A", 6001, 1, b"y" * 6000)
    peer.got()
    assert len(peer.handler.data) == 6000
    peer.send("FA", 12001, 1)
    assert "eof" not in peer.events()
    assert peer.tcp.statistics()["octets_unconsumed"] == 0
    peer.connection.finish()
    peer.got()
    peer.send("A", 12002, 2)
    assert list(peer.events()) == ["sent"]
    assert names(peer) == 0


def test_finish_twice_and_write_after_it() -> None:
    peer = established()
    peer.connection.finish()
    peer.connection.finish()
    assert len(peer.got()) == 1
    with pytest.raises(TcpError):
        peer.connection.write(b"x")


def test_finish_before_the_handshake() -> None:
    peer = Peer()
    peer.connect()
    peer.connection.write(b"all")
    peer.connection.finish()
    peer.now += 0.1
    peer.send("SA", 0, 1)
    segment = peer.one("FPA")
    assert segment.data == b"all"


def test_the_stack_closes() -> None:
    peer = established()
    peer.tcp.listen(99, lambda connection: None)
    peer.tcp.close()
    peer.one("RA")
    assert list(peer.events()) == ["STACK_CLOSED"]
    statistics = peer.tcp.statistics()
    assert statistics["names"] == statistics["listeners"] == 0


def test_the_end_waits_for_a_handler_too() -> None:
    peer = Peer()
    found: list[Connection] = []
    peer.tcp.listen(80, found.append)
    peer.send("S", 0)
    peer.one("SA")
    peer.send("A", 1, 1)
    peer.send("R", 1)
    found[0].set_handler(peer.handler)
    peer.stack.tell()
    assert list(peer.events())[-1] == "RESET"
