"""Seeded runs of two stacks over bad paths, each drawn from its seed: ``python -m tests.netstack.tcp.seeds 7 [8 ...]``."""

from __future__ import annotations

import random
import sys

from quicsocks.netstack.tcp.types import Options
from tests.sim.link import Conditions

from .pair import End, Pair


def drawn(seed: int) -> tuple[Pair, list[End]]:
    """The path, the options and the flows of a seed."""
    chance = random.Random(seed * 31 + 5)

    def path() -> Conditions:
        delay = chance.choice((0.0005, 0.005, 0.02, 0.1))
        return Conditions(
            delay=delay,
            jitter=delay * chance.choice((0.0, 0.0, 0.3, 0.9)),
            loss=chance.choice((0.0, 0.0, 0.01, 0.05, 0.15)),
            duplicate=chance.choice((0.0, 0.0, 0.02, 0.2)),
            corrupt=chance.choice((0.0, 0.0, 0.01)),
            reorder=chance.choice((0.0, 0.0, 0.02, 0.3)),
            reorder_by=delay * chance.choice((0.1, 0.5, 0.9)),
            rate=chance.choice((0.0, 1e6, 10e6, 100e6)),
            queue=chance.choice((20000, 60000, 1 << 20)),
            mark_above=chance.choice((0, 15000)),
        )

    def options() -> Options:
        return Options(
            congestion=chance.choice(("cubic", "cubic", "reno", "bbr")),
            nagle=chance.random() < 0.5,
            timestamps=chance.random() < 0.7,
            window_scaling=chance.random() < 0.8,
            sack=chance.random() < 0.8,
            ecn=chance.random() < 0.4,
            initial_receive_window=chance.choice((3000, 20000, 256 << 10)),
            receive_window=chance.choice((20000, 1 << 20, 16 << 20)),
            send_high_water=chance.choice((5000, 256 << 10)),
        )

    pair = Pair(
        seed, (path(), path()), options=(options(), options()), mtu=chance.choice((576, 1280, 1400, 9000)),
        v6=chance.random() < 0.5 and chance.random() < 2,
    )  # fmt: skip
    ends = []
    for flow in range(chance.choice((1, 1, 2, 5))):
        here_total, there_total = (chance.choice((0, 1, 2000, 40000, 300000)) for _ in range(2))
        here = End(2 * flow, here_total, 2 * flow + 1, there_total, write=chance.choice((1, 700, 20000, 100000)))
        there = End(2 * flow + 1, there_total, 2 * flow, here_total, write=chance.choice((100, 5000, 50000)))
        if here_total > 40000 and here.write == 1:
            here.write = 3000
        here.hold, there.hold = (chance.choice((0.0, 0.0, 0.003, 0.2)) for _ in range(2))
        pair.open(here, there, 80 + flow)
        ends += [here, there]
    return pair, ends


def run(seed: int) -> Pair:
    pair, ends = drawn(seed)
    took = pair.run(3000.0)
    for end in ends:
        assert {"eof", "sent"} <= set(end.events), (
            f"seed {seed}: {end.events}, {end.received} of {end.peer_total} octets, {end.written} written after {took:.1f} s; "
            f"{end.connection and end.connection.statistics()}"
        )
        assert end.events.count("eof") == end.events.count("sent") == 1
        assert end.received == end.peer_total
    # In the end nothing is left but the time that names wait.
    for _ in range(100000):
        if not pair.step():
            break
    for stack in pair.stacks:
        counted = stack.tcp.statistics()
        left = {
            name: counted[name]
            for name in ("names", "time_waits", "half_open", "octets_unconsumed", "octets_unacknowledged")
            if counted[name]
        }
        assert not left, f"seed {seed}: {left}"
    return pair


if __name__ == "__main__":
    for text in sys.argv[1:]:
        first, _, last = text.partition("-")
        for number in range(int(first), int(last or first) + 1):
            try:
                world = run(number)
            except Exception as error:
                print(f"seed {number}: {type(error).__name__}: {error}")
                continue
            if not last:
                counts = [end.connection and end.connection.statistics() for end in world.ends]
                print(f"seed {number}: {world.now - world.begun:.1f} s, {world.sent} packets, {counts}")
