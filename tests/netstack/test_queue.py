"""The queue of packets against a plain list that gives up its oldest."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quicsocks.netstack.queue import PacketQueueFace


def cost(data: bytes) -> int:
    return 8 + (len(data) + 7) // 8 * 8


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32))
def test_against_a_list(seed: int) -> None:
    chance = random.Random(seed)
    limit = chance.choice([1 << 14, 1 << 16])
    most = chance.choice([1, 3, 50, 10_000])
    queue, model = PacketQueueFace(limit, most), list[bytes]()
    pushed = 0
    for _ in range(chance.choice([20, 400])):
        if chance.random() < chance.choice([0.3, 0.6, 0.9]):
            data = chance.randbytes(chance.choice([0, 1, 7, 8, 60, 1400, 9000]))
            assert queue.push(data)
            pushed += 1
            model.append(data)
            assert queue.count <= most
            # The newest are there, in order, and nothing was given up for want of a count that was not reached.
            gone = len(model) - queue.count
            if gone:
                assert len(model) > most or sum(map(cost, model)) + 9008 > limit
                del model[:gone]
        else:
            assert queue.take() == (model.pop(0) if model else None)
        assert queue.count == len(model)
        assert queue.holds_memory is bool(model)
    while model:
        assert queue.take() == model.pop(0)
    assert queue.take() is None
    assert queue.dropped <= pushed


def test_larger_than_the_ring() -> None:
    queue = PacketQueueFace(1 << 14, 10)
    assert queue.push(b"kept")
    assert not queue.push(bytes(1 << 14))
    assert queue.push(bytes((1 << 14) - 8))
    assert (queue.count, queue.dropped) == (1, 1)
    assert queue.take() == bytes((1 << 14) - 8)


@pytest.mark.parametrize("size", [0, 1, 100])
def test_forgetting(size: int) -> None:
    queue = PacketQueueFace(1 << 14, 10)
    queue.push(bytes(size))
    queue.forget()
    assert (queue.count, queue.take(), queue.holds_memory) == (0, None, False)
