"""Random events, in any order that a transport can bring about: what must hold of every controller at any time."""

from __future__ import annotations

from math import isfinite

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from quicsocks.netstack.flight import Flight

LARGEST_WINDOW = 1 << 30


class Machine(RuleBasedStateMachine):
    name: str

    @initialize(
        mss=st.sampled_from([1200, 1452, 9000]),
        began=st.sampled_from([0.0, 1000.0, 1e9]),
        rtt=st.one_of(st.none(), st.floats(0.0, 2.0)),
    )
    def begin(self, mss: int, began: float, rtt: float | None) -> None:
        self.now = began
        self.flight = Flight(self.name, mss=mss, now=began)
        if rtt is not None:
            self.flight.rtt.sample(rtt)

    @rule(count=st.integers(1, 40), size=st.sampled_from([0, 0, 0, 40]))
    def send(self, count: int, size: int) -> None:
        for _ in range(count):
            if self.flight.may_send(self.now):
                self.flight.send(self.now, size)

    @rule()
    def probe(self) -> None:
        """Whatever window and pacer say."""
        self.flight.send(self.now)

    @rule()
    def app_limited(self) -> None:
        self.flight.app_limited()

    @rule(elapsed=st.one_of(st.floats(0.0, 0.2), st.sampled_from([0.0, 1e-6, 1.0, 6.0, 3600.0])))
    def wait(self, elapsed: float) -> None:
        self.now += elapsed

    @precondition(lambda self: self.flight.outstanding())
    @rule(data=st.data(), marks=st.sampled_from([0, 0, 0, 1, 5]), delay=st.sampled_from([0.0, 0.02]))
    def acknowledge(self, data: st.DataObject, marks: int, delay: float) -> None:
        outstanding = self.flight.outstanding()
        first = data.draw(st.integers(0, len(outstanding) - 1))
        last = data.draw(st.integers(first, len(outstanding) - 1))
        lost = outstanding[:first] if data.draw(st.booleans()) else []
        self.flight.update(self.now, outstanding[first : last + 1], lost, marks=marks, ack_delay=delay)

    @precondition(lambda self: self.flight.outstanding())
    @rule(data=st.data(), persistent=st.booleans())
    def lose(self, data: st.DataObject, persistent: bool) -> None:
        outstanding = self.flight.outstanding()
        last = data.draw(st.integers(1, len(outstanding)))
        self.flight.update(self.now, [], outstanding[:last], persistent=persistent)

    @precondition(lambda self: self.flight.lost())
    @rule(data=st.data())
    def find(self, data: st.DataObject) -> None:
        """Lost packets are acknowledged after all."""
        lost = self.flight.lost()
        first = data.draw(st.integers(0, len(lost) - 1))
        self.flight.update(self.now, lost[first:])

    @rule(mss=st.sampled_from([1200, 1452, 9000]))
    def set_mss(self, mss: int) -> None:
        self.flight.set_mss(mss)

    @rule()
    def reset(self) -> None:
        self.flight.reset(self.now)

    @invariant()
    def the_window_is_a_window(self) -> None:
        if not hasattr(self, "flight"):
            return
        controller = self.flight.controller
        assert (4 if self.name == "bbr" else 2) * controller.mss <= controller.window <= LARGEST_WINDOW + controller.mss
        assert isfinite(controller.pacing_rate)
        assert controller.pacing_rate >= 0.0

    @invariant()
    def the_pacer_lets_something_go_in_finite_time(self) -> None:
        if not hasattr(self, "flight"):
            return
        pacer, controller = self.flight.pacer, self.flight.controller
        budget = pacer.octets(controller, self.now)
        assert isfinite(pacer.rate)
        assert pacer.rate > 0.0
        assert pacer.burst >= 2 * controller.mss
        assert budget <= max(pacer.burst, 10 * controller.mss) + 1
        at = pacer.next_at(self.now)
        assert self.now <= at
        assert isfinite(at)
        assert budget >= controller.mss or at > self.now


@pytest.mark.parametrize("name", ["reno", "cubic", "bbr"])
def test_whatever_happens_a_controller_stays_in_its_bounds(name: str) -> None:
    machine = type("Machine", (Machine,), {"name": name})
    run_state_machine_as_test(
        machine, settings=settings(max_examples=150, stateful_step_count=60, derandomize=True, deadline=None)
    )
