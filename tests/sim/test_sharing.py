"""What flows leave to each other, and that nothing but the path holds one back: the product's controller, simulated."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise

import pytest

from .link import Conditions
from .streaming import PIECE, Streaming

MBIT = 1e6 / 8
"""Octets per second."""


def jain(shares: list[int]) -> float:
    """Jain's index: 1 when all are equal, 1/n when one has everything (RFC 5166 §2.3.1)."""
    return sum(shares) ** 2 / (len(shares) * sum(share * share for share in shares))


@pytest.mark.parametrize("loss", [0.0, 0.01])
def test_streams_of_one_connection_have_equal_shares(loss: float) -> None:
    up = Conditions(delay=0.02, rate=20e6, queue=int(20 * MBIT * 0.04), loss=loss)
    streaming = Streaming(up, Conditions(delay=0.02))
    streams = [streaming.bulk() for _ in range(16)]
    streaming.pair.pass_time(3.0)
    shares = [streaming.server.sinks[stream].received for stream in streams]
    assert jain(shares) > 0.95
    assert sum(shares) > 3.0 * 10 * MBIT


def test_a_stream_that_comes_later_has_its_share() -> None:
    up = Conditions(delay=0.02, rate=20e6, queue=int(20 * MBIT * 0.04))
    streaming = Streaming(up, Conditions(delay=0.02))
    first = streaming.bulk()
    streaming.pair.pass_time(2.0)
    before = streaming.server.sinks[first].received
    second = streaming.bulk()
    streaming.pair.pass_time(2.0)
    shares = [streaming.server.sinks[first].received - before, streaming.server.sinks[second].received]
    assert jain(shares) > 0.95


def packets_in_a_row(rate: float) -> float:
    """Of one of 16 bulk streams, on the average, when all are past their start; rate: bits per second."""
    up = Conditions(delay=0.005, rate=rate, queue=int(rate / 8 * 0.02))
    streaming = Streaming(up, Conditions(delay=0.005), keep=True)
    streams = [streaming.bulk() for _ in range(16)]
    streaming.pair.pass_time(0.5)
    begin = streaming.pair.now
    streaming.pair.pass_time(6e6 / rate)
    sinks = streaming.server.sinks
    order = sorted((at, stream) for stream in streams for at, _ in sinks[stream].arrivals if at > begin)
    changes = sum(one != other for (_, one), (_, other) in pairwise(order))
    return len(order) / (changes + 1)


def test_streams_take_turns_that_fit_into_one_burst() -> None:
    """What leaves at once anyway may as well be one stream's: it is received in fewer calls. Nobody waits longer for it."""
    assert packets_in_a_row(1e9) > 8
    assert packets_in_a_row(20e6) < 1.5


def test_busy_streams_hold_together_what_a_cache_holds() -> None:
    """The writer is held back earlier when there are more: to know the next milliseconds of each is enough."""
    streaming = Streaming(Conditions(delay=0.005, rate=100e6, queue=1 << 18))
    bulks = [streaming.bulk_stream() for _ in range(16)]
    for _ in range(4):
        streaming.pair.pass_time(0.5)
        # A sixteenth of 1 MiB, and the piece that was being written when it was enough.
        assert max(stream.send_buffered for stream in bulks) <= (64 << 10) + len(PIECE)


def test_one_flow_fills_a_long_fast_path() -> None:
    """50 ms each way and 1 Gbit/s: no window of ours is in its way, once it has grown."""
    up = Conditions(delay=0.05, rate=1e9, queue=int(1000 * MBIT * 0.1))
    streaming = Streaming(up, Conditions(delay=0.05, rate=1e9))
    streaming.bulk()
    streaming.pair.pass_time(1.5)
    before = streaming.received()
    streaming.pair.pass_time(0.5)
    assert streaming.received() - before > 0.5 * 900 * MBIT


MESSAGE = 100
"""Octets: what a key press costs in a terminal."""


def lateness(congestion: str) -> tuple[list[float], float]:
    """A message every 13 ms beside a bulk flow of the same session, once that is past its start: 50 ms each way, 20 Mbit/s, a
    queue of 100 ms. How many ms later than on an idle path each arrives, ascending; and what share of the path is used."""
    up = Conditions(delay=0.05, rate=20e6, queue=int(20 * MBIT * 0.1))
    streaming = Streaming(up, Conditions(delay=0.05), congestion=congestion, keep=True)
    messages = streaming.messages(MESSAGE)
    streaming.bulk()
    pair = streaming.pair
    pair.pass_time(5.0)
    begin, before = pair.now, streaming.received()
    for number in range(1500):
        pair.at(begin + 0.013 * number, messages.send)
    pair.pass_time(20.0)
    used = (streaming.received() - before) / (20.0 * 20 * MBIT)
    arrivals = streaming.server.sinks[messages.stream.id].arrivals
    totals = [total for _, total in arrivals]
    late = [
        arrivals[bisect_left(totals, MESSAGE * (number + 1))][0] - sent - up.delay
        for number, sent in enumerate(messages.sent)
    ]
    assert len(late) == 1500
    return sorted(1e3 * delay for delay in late), used


def share(late: list[float], part: float) -> float:
    return late[int(part * len(late))]


def test_an_interactive_stream_beside_a_bulk_one() -> None:
    """What queue there is at times is BBR's probing for bandwidth."""
    late, used = lateness("bbr")
    assert share(late, 0.5) < 3.0
    assert share(late, 0.9) < 10.0
    assert share(late, 0.99) < 30.0
    assert used > 0.9


def test_a_controller_that_fills_queues_makes_an_interactive_stream_wait() -> None:
    late, _ = lateness("cubic")
    assert share(late, 0.5) > 50.0
