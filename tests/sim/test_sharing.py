"""What flows leave to each other, and that nothing but the path holds one back: the product's controller, simulated."""

from __future__ import annotations

import pytest

from .link import Conditions
from .streaming import Streaming

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


def test_one_flow_fills_a_long_fast_path() -> None:
    """50 ms each way and 1 Gbit/s: no window of ours is in its way, once it has grown."""
    up = Conditions(delay=0.05, rate=1e9, queue=int(1000 * MBIT * 0.1))
    streaming = Streaming(up, Conditions(delay=0.05, rate=1e9))
    streaming.bulk()
    streaming.pair.pass_time(1.5)
    before = streaming.received()
    streaming.pair.pass_time(0.5)
    assert streaming.received() - before > 0.5 * 900 * MBIT
