"""The hash table of connections and streams, against a dict."""

from __future__ import annotations

import sys
import weakref

from hypothesis import given, settings
from hypothesis import strategies as st

from quicsocks.userspace.quic.native.table import Table

KEYS = st.one_of(st.integers(0, 40), st.integers(0, 2**64 - 1), st.integers(0, 20).map(lambda n: n << 40))


class Thing:
    """Something that can be watched going away."""


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**64 - 1), st.lists(st.tuples(st.sampled_from(["put", "remove", "find"]), KEYS), max_size=200))
def test_it_is_a_dict_of_numbers(seed: int, steps: list[tuple[str, int]]) -> None:
    table, model = Table(seed), dict[int, object]()
    for action, key in steps:
        if action == "put":
            thing = object()
            table.put(key, thing)
            model[key] = thing
        elif action == "remove":
            assert table.remove(key) is model.pop(key, None)
        assert table.find(key) is model.get(key)
        assert len(table) == table.size == len(model)
    for key, thing in model.items():
        assert table.find(key) is thing


def test_it_grows_and_shrinks_and_finds_what_is_left() -> None:
    table = Table(7)
    things = {number * 4: object() for number in range(5000)}
    for key, thing in things.items():
        table.put(key, thing)
    for key in list(things)[10:]:
        assert table.remove(key) is things.pop(key)
    assert {key: table.find(key) for key in things} == things
    assert table.find(3) is None


def test_it_holds_what_is_in_it_and_nothing_else() -> None:
    table, thing = Table(1), Thing()
    gone = weakref.ref(thing)
    before = sys.getrefcount(thing)
    for key in range(100):
        table.put(key, thing)
    assert sys.getrefcount(thing) == before + 100
    table.put(5, Thing())
    for key in range(0, 100, 2):
        table.remove(key)
    assert sys.getrefcount(thing) == before + 49
    del thing
    assert gone() is not None
    table.remove_all()
    assert gone() is None
    assert len(table) == 0


def test_it_lets_go_when_it_goes() -> None:
    table, thing = Table(1), Thing()
    gone = weakref.ref(thing)
    table.put(1, thing)
    del thing, table
    assert gone() is None
