"""The simulated link does what its conditions say."""

from __future__ import annotations

from .link import CE, ECT_0, NOT_ECT, Conditions, Link


def arrivals(link: Link, count: int, size: int = 1000, spacing: float = 0.001) -> list[tuple[float, bytes, int]]:
    found = []
    for number in range(count):
        found += link.carry(number.to_bytes(4, "big") + bytes(size - 4), number * spacing)
    return found


def test_a_seed_gives_the_same_network_again() -> None:
    bad = Conditions(jitter=0.01, loss=0.1, duplicate=0.1, corrupt=0.1, reorder=0.1)
    assert arrivals(Link(bad, 1), 500) == arrivals(Link(bad, 1), 500)
    assert arrivals(Link(bad, 1), 500) != arrivals(Link(bad, 2), 500)


def test_delay_without_anything_else() -> None:
    assert [at for at, _, _ in arrivals(Link(Conditions(delay=0.5), 1), 3)] == [0.5, 0.501, 0.502]


def test_loss_duplication_and_corruption_have_their_rates() -> None:
    link = Link(Conditions(loss=0.2), 1)
    assert 700 < len(arrivals(link, 1000)) < 900
    assert link.carried + link.dropped == 1000
    assert 1200 < len(arrivals(Link(Conditions(duplicate=0.3), 1), 1000)) < 1400
    changed = [
        data
        for number, (_, data, _) in enumerate(arrivals(Link(Conditions(corrupt=0.3), 1), 1000))
        if data != number.to_bytes(4, "big") + bytes(996)
    ]
    assert 200 < len(changed) < 400


def test_jitter_keeps_the_order_and_reordering_does_not() -> None:
    jittered = [at for at, _, _ in arrivals(Link(Conditions(delay=0.05, jitter=0.04), 1), 500)]
    assert jittered == sorted(jittered)
    reordered = [at for at, _, _ in arrivals(Link(Conditions(delay=0.05, reorder=0.2), 1), 500)]
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


def test_the_mtu_changes_when_it_is_said_to() -> None:
    link = Link(Conditions(mtu=1500, mtu_changes=((1.0, 1300), (2.0, 1400))), 1)
    passes = [
        len(link.carry(bytes(size), at)) for at in (0.0, 1.0, 1.9, 2.0) for size in (1300, 1301, 1400, 1401, 1500)
    ]
    assert passes == [1, 1, 1, 1, 1] + [1, 0, 0, 0, 0] * 2 + [1, 1, 1, 0, 0]


def test_a_queue_marks_what_can_be_marked_before_it_drops() -> None:
    """1 MB/s; ten packets at once: the sixth finds 5,000 octets waiting."""
    conditions = Conditions(delay=0.0, rate=8e6, queue=8000, mark_above=5000)
    link = Link(conditions, 1)
    found = [link.carry(bytes(1000), 0.0, ECT_0) for _ in range(10)]
    assert [arrivals[0][2] if arrivals else None for arrivals in found] == [ECT_0] * 5 + [CE] * 3 + [None] * 2
    assert (link.marked, link.dropped) == (3, 2)
    link = Link(conditions, 1)
    assert {link.carry(bytes(1000), 0.0)[0][2] for _ in range(8)} == {NOT_ECT}


def test_a_path_may_take_marks_off() -> None:
    assert Link(Conditions(bleach=True), 1).carry(b"x", 0.0, ECT_0)[0][2] == NOT_ECT
