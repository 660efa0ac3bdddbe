"""What one seeded run does, drawn from its seed: the network, its events, and all that the two ends want of each other.

A scenario is a value; ``run`` plays it. Times are seconds after the first datagram. Sizes are small and networks bad, so
that most of what happens, happens to something that matters.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from quicsocks.userspace.quic.types import Address, Limits, Priority

from .link import Conditions

BEGINS = 100.0
"""The clock of a ``Pair`` when it is made."""


@dataclass(frozen=True)
class Direction:
    """Octets that one end of a stream sends. size: in all, before FIN. reset_after, stop_after: s after the stream has
    been opened, when the sender resets or the receiver stops it. lag: s for which the receiver keeps what it has read
    before it returns the credit."""

    size: int
    reset_after: float | None = None
    stop_after: float | None = None
    lag: float = 0.0


@dataclass(frozen=True)
class Flow:
    """back: None on a one-way stream."""

    by_client: bool
    at: float
    priority: Priority
    there: Direction
    back: Direction | None


@dataclass(frozen=True)
class Scenario:
    """datagrams: (when, by the client, size). key_updates: (when, by the client). rebinds: (when, new address).
    migrations: (when, which of the client's addresses to move to)."""

    seed: int
    limits: Limits
    up: Conditions
    down: Conditions
    retry: bool
    flows: tuple[Flow, ...]
    datagrams: tuple[tuple[float, bool, int], ...]
    key_updates: tuple[tuple[float, bool], ...]
    rebinds: tuple[tuple[float, Address], ...]
    migrations: tuple[tuple[float, int], ...]

    @property
    def patience(self) -> float:
        """Seconds without progress of any flow after which a run counts as stalled: what timers may take to back off by
        then, in the worst of the conditions here."""
        silent = sum(end - begin for link in (self.up, self.down) for begin, end in link.blackouts)
        heard_again = self.limits.keepalive if self.rebinds else 0.0
        return 10.0 + 3.0 * silent + 2.0 * heard_again


def draw(seed: int) -> Scenario:
    chance = random.Random(seed)
    horizon = chance.choice((0.5, 2.0, 6.0))
    up = _conditions(chance, horizon)
    down = _conditions(chance, horizon) if chance.random() < 0.5 else up
    return Scenario(
        seed=seed,
        limits=_limits(chance),
        up=up,
        down=down,
        # A Retry's token ages: where all else is lost as well, a client would have to dial again.
        retry=chance.random() < 0.2 and max(link.loss + link.corrupt for link in (up, down)) < 0.1,
        flows=_flows(chance, horizon),
        datagrams=tuple(
            (chance.uniform(0.0, horizon), chance.random() < 0.5, chance.randrange(1, 1100))
            for _ in range(_some(chance, 0.3, 30))
        ),
        key_updates=tuple((chance.uniform(0.0, horizon), chance.random() < 0.5) for _ in range(_some(chance, 0.3, 4))),
        rebinds=tuple(
            sorted(
                (chance.uniform(0.0, horizon), (f"203.0.113.{chance.randrange(1, 5)}", chance.randrange(1024, 65536)))
                for _ in range(_some(chance, 0.3, 5))
            )
        ),
        migrations=tuple(
            sorted((chance.uniform(0.0, horizon), chance.randrange(3)) for _ in range(_some(chance, 0.3, 5)))
        ),
    )


def _some(chance: random.Random, likelihood: float, most: int) -> int:
    return chance.randrange(1, most + 1) if chance.random() < likelihood else 0


def _one_of(chance: random.Random, likelihood: float, draw_one: Callable[[], float]) -> float:
    return draw_one() if chance.random() < likelihood else 0.0


def _conditions(chance: random.Random, horizon: float) -> Conditions:
    delay = chance.choice((0.0005, 0.005, 0.02, 0.05, 0.15))
    rate = _one_of(chance, 0.4, lambda: chance.choice((0.5e6, 2e6, 10e6, 100e6)))
    queue = chance.choice((6_000, 30_000, 200_000))
    return Conditions(
        delay=delay,
        jitter=_one_of(chance, 0.4, lambda: delay * chance.uniform(0.0, 0.9)),
        loss=_one_of(chance, 0.6, lambda: chance.choice((0.001, 0.01, 0.05, 0.1, 0.2))),
        duplicate=_one_of(chance, 0.3, lambda: chance.uniform(0.0, 0.2)),
        corrupt=_one_of(chance, 0.3, lambda: chance.uniform(0.0, 0.1)),
        reorder=_one_of(chance, 0.3, lambda: chance.uniform(0.0, 0.3)),
        reorder_by=delay * chance.uniform(0.1, 1.0),
        rate=rate,
        queue=queue,
        mark_above=queue // 4 if chance.random() < 0.3 else 0,
        bleach=chance.random() < 0.1,
        mtu=chance.choice((1200, 1280, 1400, 1452, 65536)),
        mtu_changes=tuple(
            sorted(
                (BEGINS + chance.uniform(0.0, horizon), chance.choice((1200, 1250, 1350, 1452)))
                for _ in range(_some(chance, 0.25, 3))
            )
        ),
        blackouts=tuple(
            (BEGINS + begin, BEGINS + begin + length)
            for begin, length in (
                (chance.uniform(0.0, horizon), chance.choice((0.05, 0.5, 2.0, 5.0)))
                for _ in range(_some(chance, 0.25, 2))
            )
        ),
    )


def _limits(chance: random.Random) -> Limits:
    stream_window = chance.choice((2_000, 16_000, 256_000))
    return Limits(
        idle_timeout=120.0,
        keepalive=chance.choice((0.5, 2.0, 10.0)),
        handshake_timeout=300.0,
        initial_stream_window=stream_window,
        stream_window=stream_window * chance.choice((1, 16)),
        session_window=stream_window * chance.choice((1, 4, 64)),
        send_high_water=chance.choice((4_000, 64_000)),
        max_streams_bidi=chance.choice((1, 4, 100)),
        max_streams_uni=chance.choice((1, 4, 100)),
        congestion=chance.choice(("bbr", "bbr", "cubic", "reno")),
    )


def _flows(chance: random.Random, horizon: float) -> tuple[Flow, ...]:
    count = chance.choice((1, 2, 5, 20))
    most = chance.choice((2_000, 20_000, 150_000)) // count + 1
    flows = []
    for _ in range(count):
        one_way = chance.random() < 0.3
        flows.append(
            Flow(
                by_client=chance.random() < 0.6,
                at=chance.uniform(0.0, horizon) if chance.random() < 0.6 else 0.0,
                priority=chance.choice(list(Priority)),
                there=_direction(chance, most, horizon),
                back=None if one_way else _direction(chance, most, horizon),
            )
        )
    return tuple(sorted(flows, key=lambda flow: flow.at))


def _direction(chance: random.Random, most: int, horizon: float) -> Direction:
    ending = chance.random()
    return Direction(
        size=chance.choice((0, 1, chance.randrange(most), most)),
        reset_after=chance.uniform(0.0, horizon) if ending < 0.1 else None,
        stop_after=chance.uniform(0.0, horizon) if 0.1 <= ending < 0.2 else None,
        lag=chance.uniform(0.0, 0.2) if chance.random() < 0.2 else 0.0,
    )
