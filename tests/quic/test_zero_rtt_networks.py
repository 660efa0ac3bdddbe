"""Clients that come back over networks of every kind: seeded, every octet checked, and nothing stays behind."""

from __future__ import annotations

import random

import pytest

from quicsocks.userspace.quic.types import Limits

from ..sim.link import Conditions
from .coming_back import AT_ONCE, EARLY, Stage

AT_ONE_TIME = 25


@pytest.mark.parametrize("first", range(0, 150, AT_ONE_TIME))
def test_coming_back(first: int) -> None:
    read = dropped = 0
    for seed in range(first, first + AT_ONE_TIME):
        draw = random.Random(seed)
        stage = Stage(
            draw.choice([EARLY, AT_ONCE]),
            seed,
            Conditions(
                delay=draw.choice([0.001, 0.02, 0.1]),
                jitter=draw.choice([0.0, 0.01, 0.05]),
                loss=draw.choice([0.0, 0.03, 0.1]),
                duplicate=draw.choice([0.0, 0.1, 0.3]),
                corrupt=draw.choice([0.0, 0.0, 0.02]),
                reorder=draw.choice([0.0, 0.3]),
                reorder_by=draw.choice([0.01, 0.08]),
                rate=draw.choice([0.0, 0.0, 1e6]),
            ),
            limits=Limits(
                congestion=draw.choice(["bbr", "cubic", "reno"]),
                initial_stream_window=draw.choice([4096, 256 << 10]),
                session_window=draw.choice([16_384, 64 << 20]),
                max_streams_bidi=draw.choice([2, 4096]),
                # Bad luck may cost a handshake many tries.
                handshake_timeout=60.0,
                idle_timeout=60.0,
            ),
            retry=draw.random() < 0.3,
        )
        for number in range(4):
            size, streams = draw.choice([1, 100, 5000, 30_000]), draw.choice([1, 2, 5])
            counted = stage.visit(size, streams=streams, early_data=draw.random() < 0.8).counted
            read += counted["zero_rtt_received"]
            dropped += counted["zero_rtt_dropped"]
            if draw.random() < 0.3:
                stage.pair.restart_server(seed * 10 + number)
                stage.listen()
            elif draw.random() < 0.3:
                stage.pair.pass_time(draw.choice([10.0, 7300.0]))
        stage.pair.pass_time(200.0)
        for hub in (stage.pair.client.hub, stage.pair.server.hub):
            assert not hub._entries, seed
            assert not hub._by_cid, seed
    assert read > 10
    assert dropped > 10
