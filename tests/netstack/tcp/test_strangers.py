"""What a peer begins: backlog, SYN cookies (RFC 4987), attempts that wait for the application's word, and limits."""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import ICMP

from quicsocks.netstack.tcp.attempt import Attempt
from quicsocks.netstack.tcp.types import Options, TcpError
from tests.netstack.packets import parsed

from .peer import Peer


def flooded(**fields: Any) -> Peer:
    """A listener whose backlog of 2 is full."""
    peer = Peer(**fields)
    peer.listen(backlog=2)
    for port in (1, 2):
        peer.port = port
        peer.send("S", 0)
        peer.one("SA")
    peer.port = 5000
    return peer


@pytest.mark.parametrize("v6", [False, True])
@pytest.mark.parametrize("stamps", [True, False])
def test_a_cookie_holds_a_handshake(stamps: bool, v6: bool) -> None:
    peer = flooded(stamps=stamps, scale=5, mss=1400, v6=v6)
    peer.send("S", 0)
    answer = peer.one("SA")
    assert peer.tcp.statistics()["names"] == 2, "nothing is kept"
    assert (answer.scale is not None) == answer.sack_ok == stamps, "what a timestamp can remember"
    peer.now += 0.1
    peer.send("PA", 1, 1, b"hello", window=100)
    assert list(peer.events()) == ["connected"]
    assert peer.handler.data == b"hello"
    assert peer.one("A").ack == 6
    statistics = peer.statistics
    assert statistics["mss"] == 1400 - (12 if stamps else 0)
    assert (statistics["send_scale"], statistics["sack"]) == ((5, True) if stamps else (0, False))
    assert statistics["send_window"] == (3200 if stamps else 100)
    assert peer.tcp.statistics()["cookies_accepted"] == 1
    assert peer.tcp.statistics()["half_open"] == 2


def test_a_cookie_that_was_not_given_is_refused() -> None:
    peer = flooded()
    peer.send("S", 0)
    peer.one("SA")
    for wrong in (0, 2, 1 << 24, 1 << 27, 12345):
        peer.send("A", 1, wrong)
        peer.one("R")
    peer.send("A", 2, 1)  # For another ISN of the peer's.
    peer.one("R")
    peer.port += 1  # And of another name.
    peer.send("A", 1, 1)
    peer.one("R")
    assert peer.tcp.statistics()["names"] == 2


def test_a_cookie_does_not_last() -> None:
    peer = flooded()
    peer.send("S", 0)
    peer.one("SA")
    peer.now += 130.0
    peer.send("A", 1, 1)
    peer.one("R")


def test_without_cookies_a_syn_is_dropped() -> None:
    peer = flooded(options=Options(syn_cookies=False))
    peer.send("S", 0)
    peer.nothing()
    assert peer.tcp.statistics()["connections_refused"] == 1


def test_connections_are_bounded() -> None:
    peer = Peer(options=Options(connections=2))
    peer.listen()
    for port in range(5):
        peer.port = 6000 + port
        peer.send("S", 0)
        peer.got()
    assert peer.tcp.statistics()["names"] == 2
    with pytest.raises(TcpError):
        peer.connect()


# Attempts.


def forwarding(**fields: Any) -> tuple[Peer, list[Attempt]]:
    peer = Peer(takes_all=True, **fields)
    peer.here = "203.0.113.80"
    found: list[Attempt] = []
    peer.tcp.on_attempt = found.append
    return peer, found


def test_an_attempt_waits_and_is_accepted() -> None:
    peer, found = forwarding(stamps=True, scale=7)
    peer.send("S", 0)
    for _ in range(3):
        peer.nothing()
        peer.now += 1.0
        peer.send("S", 0)  # Sent again: absorbed.
    (attempt,) = found
    assert (str(attempt.local_address[0]), attempt.local_address[1]) == ("203.0.113.80", 80)
    assert (str(attempt.remote_address[0]), attempt.remote_address[1]) == (peer.there, peer.port)
    peer.accept(attempt.accept())
    answer = peer.one("SA")
    assert answer.scale is not None
    assert answer.stamps is not None
    assert answer.stamps[1] == peer.clock() or peer.ts_recent
    assert list(peer.events()) == []
    peer.send("A", 1, 1)
    assert list(peer.events()) == ["connected"]
    assert peer.tcp.statistics()["attempts"] == peer.tcp.statistics()["half_open"] == 0
    with pytest.raises(TcpError):
        attempt.refuse()


def test_an_attempt_is_refused() -> None:
    peer, found = forwarding()
    peer.send("S", 0)
    found[0].refuse()
    answer = peer.one("RA")
    assert (answer.raw_seq, answer.ack) == (0, 1)
    assert peer.tcp.statistics()["names"] == 0


@pytest.mark.parametrize("code", [0, 1, 13])
def test_an_attempt_is_answered_with_icmp_that_quotes_it(code: int) -> None:
    peer, found = forwarding(stamps=True)
    peer.send("S", 0)
    found[0].unreachable(3, code)
    (packet,) = peer.packets()
    error = parsed(packet)
    assert (error[ICMP].type, error[ICMP].code) == (3, code)
    assert bytes(error[ICMP].payload)[20:].startswith(peer.segment("S", 0)[20:])
    assert peer.tcp.statistics()["names"] == 0


def test_an_attempt_that_is_accepted_and_not_confirmed_ends() -> None:
    peer, found = forwarding()
    peer.send("S", 0)
    peer.accept(found[0].accept())
    peer.got()
    peer.send("R", 1)
    assert list(peer.events()) == ["RESET"]
    peer, found = forwarding()
    peer.send("S", 0)
    peer.accept(found[0].accept())
    peer.advance(100.0)
    assert list(peer.events()) == ["TIMED_OUT"]


def test_an_attempt_goes_when_the_peer_or_the_time_is_gone() -> None:
    peer, found = forwarding()
    gone: list[int] = []
    peer.send("S", 0)
    found[0].on_gone = lambda: gone.append(1)
    peer.send("R", 1)
    assert gone == [1]
    assert found[0].over
    with pytest.raises(TcpError):
        found[0].accept()
    peer.port += 1
    peer.send("S", 0)
    found[1].on_gone = lambda: gone.append(2)
    assert not peer.advance(61.0)
    assert gone == [1, 2]
    assert peer.tcp.statistics()["attempts"] == 0


def test_attempts_are_bounded() -> None:
    peer, found = forwarding(options=Options(attempts=3))
    for port in range(10):
        peer.port = 7000 + port
        peer.send("S", 0)
    assert len(found) == 3
    assert peer.tcp.statistics()["attempts_dropped"] == 7
    found[0].drop()
    peer.send("S", 0)
    assert len(found) == 4
    peer.nothing()


def test_a_listener_comes_before_attempts() -> None:
    peer, found = forwarding()
    peer.listen()
    peer.send("S", 0)
    peer.one("SA")
    assert not found
