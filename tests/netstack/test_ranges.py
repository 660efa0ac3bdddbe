"""Sets of ranges, against a set of integers."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from quicsocks.netstack.ranges import RangeSetFace

SMALL = st.integers(0, 60)
STEPS = st.one_of(
    st.tuples(st.just("add"), SMALL, SMALL),
    st.tuples(st.just("subtract"), SMALL, SMALL),
    st.tuples(st.just("below"), SMALL, st.just(0)),
    st.tuples(st.just("first"), st.just(0), st.just(0)),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_it_is_a_set_of_integers(steps: list[tuple[str, int, int]]) -> None:
    ranges, model = RangeSetFace(), set[int]()
    for action, a, b in steps:
        start, stop = min(a, b), max(a, b)
        if action == "add":
            ranges.add_range(start, stop)
            model |= set(range(start, stop))
        elif action == "subtract":
            ranges.subtract_range(start, stop)
            model -= set(range(start, stop))
        elif action == "below":
            ranges.forget_below(a)
            model = {number for number in model if number >= a}
        elif model:
            first = min(model)
            ranges.forget_first()
            while first in model:
                model.remove(first)
                first += 1
        listed = ranges.ranges()
        assert {number for low, high in listed for number in range(low, high)} == model
        assert all(low < high for low, high in listed)
        assert all(high < low for (_, high), (low, _) in pairwise(listed)), "sorted and apart"
        assert ranges.count == len(listed)
    for number in range(62):
        assert ranges.has(number) is (number in model)
    for start in range(0, 60, 7):
        assert ranges.has_all(start, start + 5) is (set(range(start, start + 5)) <= model)


def test_the_ends_of_what_can_be_counted() -> None:
    ranges = RangeSetFace()
    largest = 2**64 - 1
    ranges.add_range(largest - 1, largest)
    ranges.add_range(0, 1)
    assert ranges.has(largest - 1)
    assert not ranges.has(largest)
    assert not ranges.has(1)
    ranges.forget()
    assert ranges.ranges() == []
