"""Per-client limits on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.egress.limits import MIN_BURST, ClientLimits, ClientQuota, TokenBucket
from quicsocks.userspace.tunnel.types import Cause, FlowFailed


def test_bucket() -> None:
    bucket = TokenBucket(rate=100, burst=50, now=10.0)
    assert bucket.take(50, 10.0) == 0.0
    assert bucket.take(10, 10.0) == pytest.approx(0.1)
    assert bucket.delay(10.05) == pytest.approx(0.05)
    assert bucket.delay(10.1) == pytest.approx(0.0)
    assert bucket.delay(1000.0) == 0.0
    assert bucket.take(50, 1000.0) == 0.0, "the burst is the most that can be saved up"
    assert bucket.take(1, 999.0) == pytest.approx(0.01), "a clock that steps back gives nothing"


@pytest.mark.parametrize(("rate", "burst"), [(0, 1), (1, 0), (-1, 1)])
def test_bucket_wants_sense(rate: float, burst: float) -> None:
    with pytest.raises(ValueError, match="above zero"):
        TokenBucket(rate, burst, 0.0)


@given(st.lists(st.integers(0, 10_000), max_size=50), st.integers(1, 10_000))
def test_nobody_gets_more_than_rate_and_burst(sizes: list[int], rate: int) -> None:
    now = 0.0
    bucket = TokenBucket(rate, 1000, now)
    for size in sizes:
        now += bucket.take(size, now)
    assert sum(sizes) <= 1000 + rate * now + 1e-3


def test_flows_and_pending_connects() -> None:
    quota = ClientQuota(ClientLimits(max_flows=3, max_pending=2), now=0.0)
    first, second = quota.open(), quota.open()
    with pytest.raises(FlowFailed, match="connects under way") as caught:
        quota.open()
    assert caught.value.cause is Cause.LIMIT
    first.connected()
    first.connected()
    third = quota.open()
    assert (quota.flows, quota.pending) == (3, 2)
    with pytest.raises(FlowFailed, match="3 flows open"):
        quota.open()
    for ticket in (first, second, third, first):
        ticket.close()
    assert (quota.flows, quota.pending) == (0, 0)


def test_no_limits() -> None:
    quota = ClientQuota(ClientLimits(max_flows=0, max_pending=0), now=0.0)
    tickets = [quota.open() for _ in range(5000)]
    assert quota.flows == len(tickets)
    assert quota.transferred(1 << 40, 0.0) == 0.0


def test_bytes_per_second() -> None:
    quota = ClientQuota(ClientLimits(bytes_per_second=1000), now=0.0)
    assert quota.transferred(MIN_BURST, 0.0) == 0.0
    assert quota.transferred(500, 0.0) == pytest.approx(0.5)
    quota.set_limits(ClientLimits(), 0.0)
    assert quota.transferred(1 << 30, 0.0) == 0.0
    assert quota.limits == ClientLimits()


def test_the_same_limits_again_are_no_new_burst() -> None:
    """Each session of a client sets its limits."""
    limits = ClientLimits(bytes_per_second=1000)
    quota = ClientQuota(limits, now=0.0)
    assert quota.transferred(MIN_BURST + 500, 0.0) == pytest.approx(0.5)
    quota.set_limits(ClientLimits(bytes_per_second=1000), 0.0)
    assert quota.transferred(0, 0.0) == pytest.approx(0.5)
    quota.set_limits(ClientLimits(bytes_per_second=2000), 0.0)
    assert quota.transferred(0, 0.0) == 0.0


def test_a_quota_is_unused_when_nothing_is_open_and_nothing_owed() -> None:
    quota = ClientQuota(ClientLimits(bytes_per_second=1000), now=0.0)
    assert quota.is_unused(0.0)
    ticket = quota.open()
    assert not quota.is_unused(0.0)
    ticket.close()
    quota.transferred(500, 0.0)
    assert not quota.is_unused(0.4)
    assert quota.is_unused(0.6)
    quota.set_limits(ClientLimits(), 0.6)
    assert quota.is_unused(0.6)
