"""The simulated link does what its conditions say."""

from __future__ import annotations

from .link import Conditions, Link


def arrivals(link: Link, count: int, size: int = 1000, spacing: float = 0.001) -> list[tuple[float, bytes]]:
    found = []
    for number in range(count):
        found += link.carry(number.to_bytes(4, "big") + bytes(size - 4), number * spacing)
    return found


def test_a_seed_gives_the_same_network_again() -> None:
    bad = Conditions(jitter=0.01, loss=0.1, duplicate=0.1, corrupt=0.1, reorder=0.1)
    assert arrivals(Link(bad, 1), 500) == arrivals(Link(bad, 1), 500)
    assert arrivals(Link(bad, 1), 500) != arrivals(Link(bad, 2), 500)


def test_delay_without_anything_else() -> None:
    assert [at for at, _ in arrivals(Link(Conditions(delay=0.5), 1), 3)] == [0.5, 0.501, 0.502]


def test_loss_duplication_and_corruption_have_their_rates() -> None:
    link = Link(Conditions(loss=0.2), 1)
    assert 700 < len(arrivals(link, 1000)) < 900
    assert link.carried + link.dropped == 1000
    assert 1200 < len(arrivals(Link(Conditions(duplicate=0.3), 1), 1000)) < 1400
    changed = [
        data
        for number, (_, data) in enumerate(arrivals(Link(Conditions(corrupt=0.3), 1), 1000))
        if data != number.to_bytes(4, "big") + bytes(996)
    ]
    assert 200 < len(changed) < 400


def test_jitter_keeps_the_order_and_reordering_does_not() -> None:
    jittered = [at for at, _ in arrivals(Link(Conditions(delay=0.05, jitter=0.04), 1), 500)]
    assert jittered == sorted(jittered)
    reordered = [at for at, _ in arrivals(Link(Conditions(delay=0.05, reorder=0.2), 1), 500)]
    assert reordered != sorted(reordered)


def test_rate_and_queue() -> None:
    link = Link(Conditions(delay=0.0, rate=8e6, queue=10_000), 1)
    # 1 MB/s, offered 10 MB/s.
    found = arrivals(link, 1000, spacing=0.0001)
    assert 105 <= len(found) <= 115
    assert found[-1][0] <= 0.1 + 0.011


def test_mtu_and_blackouts() -> None:
    link = Link(Conditions(mtu=500, blackouts=((1.0, 2.0),)), 1)
    assert link.carry(bytes(501), 0.0) == []
    assert len(link.carry(bytes(500), 0.0)) == 1
    assert link.carry(bytes(500), 1.0) == []
    assert len(link.carry(bytes(500), 2.0)) == 1
