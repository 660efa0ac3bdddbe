"""The client's small parts: routes, backoff, what refusals say, the order of addresses, the tunnel's timer."""

from __future__ import annotations

import asyncio
import random

import pytest

from quicsocks.socks.types import Failure
from quicsocks.userspace import backoff
from quicsocks.userspace.backoff import Backoff
from quicsocks.userspace.causes import FAILURES, to_flow_error
from quicsocks.userspace.client_exit import Routes
from quicsocks.userspace.dialling import interleave
from quicsocks.userspace.egress.rules import RuleError
from quicsocks.userspace.quic.errors import End, Ended
from quicsocks.userspace.refusal import explain
from quicsocks.userspace.settings import Rule
from quicsocks.userspace.tunnel.types import AuthFailure, Cause, CloseCode, FlowFailed
from quicsocks.userspace.tunnel_timer import TunnelTimer
from tests.tcp import run

# Routes


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("printer.lan", 80, "direct"),
        ("PRINTER.LAN.", 80, "direct"),
        ("lan", 80, "tunnel"),
        ("192.168.1.7", 80, "direct"),
        ("192.168.1.7", 22, "direct"),
        ("ads.example", 443, "block"),
        ("ads.example", 80, "tunnel"),
        ("10.1.2.3", 25, "block"),
        ("example.com", 25, "block"),
        ("example.com", 443, "tunnel"),
        ("2001:db8::1", 443, "tunnel"),
        ("fd00::1", 443, "direct"),
        # An odd spelling of 192.168.1.7: no rule on addresses matches by accident, the far end judges it.
        ("0xc0.0xa8.1.7", 80, "tunnel"),
        ("not a name", 80, "tunnel"),
    ],
)
def test_the_first_matching_rule_decides_by_what_was_asked_for(host: str, port: int, expected: str) -> None:
    routes = Routes(
        [
            Rule("direct", "*.lan"),
            Rule("direct", "192.168.0.0/16"),
            Rule("direct", "fd00::/8"),
            Rule("block", "ads.example:443"),
            Rule("block", "*:25"),
        ]
    )
    assert routes.route(host, port) == expected


def test_a_bad_pattern_is_refused() -> None:
    with pytest.raises(RuleError):
        Routes([Rule("direct", "10.0.0.0/99")])


# Backoff


def test_delays_double_to_the_cap_within_their_jitter_and_begin_again() -> None:
    delays = Backoff(random.Random(1))
    base = backoff.FIRST
    for _ in range(10):
        assert base * 2 / 3 <= delays.next_delay() <= base
        base = min(base * 2, backoff.CAP)
    delays.reset()
    assert delays.next_delay() <= backoff.FIRST
    assert backoff.SLOW * 2 / 3 <= delays.next_delay(slow=True) <= backoff.SLOW


# What is said


@pytest.mark.parametrize("failure", list(AuthFailure))
def test_every_refusal_of_a_client_is_one_clear_line(failure: AuthFailure) -> None:
    refusal = explain(Ended(End.PEER_CLOSED, int(failure), "whatever the peer says"))
    assert refusal.final is (failure is not AuthFailure.TIMED_OUT)
    assert "\n" not in refusal.text
    assert "code" not in refusal.text


@pytest.mark.parametrize(
    ("ended", "final"),
    [
        (Ended(End.UNTRUSTED, reason="the pin differs"), True),
        (Ended(End.ALPN_MISMATCH), True),
        (Ended(End.HANDSHAKE_TIMED_OUT), False),
        (Ended(End.UNREACHABLE), False),
        (Ended(End.TIMED_OUT), False),
        (Ended(End.PEER_RESET), False),
        (Ended(End.TLS_FAILED, 0x128), False),
        (Ended(End.PEER_CLOSED, CloseCode.GOING_AWAY), False),
        (Ended(End.PEER_CLOSED, 0x9999, "odd"), False),
    ],
)
def test_only_what_trying_again_cannot_help_is_final(ended: Ended, final: bool) -> None:
    refusal = explain(ended)
    assert refusal.final is final
    assert refusal.text
    assert "\n" not in refusal.text


@pytest.mark.parametrize("cause", list(Cause))
def test_every_cause_has_a_failure(cause: Cause) -> None:
    assert cause in FAILURES
    assert isinstance(to_flow_error(FlowFailed(cause)).failure, Failure)


# Addresses


def test_families_alternate_beginning_with_the_first() -> None:
    six, four = [("2001:db8::1", 1), ("2001:db8::2", 1), ("2001:db8::3", 1)], [("192.0.2.1", 1)]
    assert interleave([*six, *four]) == [six[0], four[0], six[1], six[2]]
    assert interleave([*four, *six]) == [four[0], six[0], six[1], six[2]]
    assert interleave([four[0], four[0]]) == four
    assert interleave([]) == []


# The tunnel's timer


class Machine:
    def __init__(self, deadlines: list[float]) -> None:
        self.deadlines = deadlines
        self.fired: list[float] = []

    def get_timer(self) -> float | None:
        return self.deadlines[0] if self.deadlines else None

    def handle_timer(self, now: float) -> None:
        assert now >= self.deadlines[0]
        self.fired.append(self.deadlines.pop(0))


def test_a_machine_is_called_at_each_of_its_deadlines() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timer, now = TunnelTimer(loop), loop.time()
        machine = Machine([now + 0.01, now + 0.02])
        timer.drive(machine)
        while machine.deadlines:
            await asyncio.sleep(0.001)
        assert machine.fired == [now + 0.01, now + 0.02]

    run(main())


def test_an_earlier_deadline_takes_over_and_a_stopped_timer_is_silent() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        timer, now = TunnelTimer(loop), loop.time()
        machine = Machine([now + 1000])
        timer.drive(machine)
        machine.deadlines = [now + 0.005, now + 1000]
        timer.changed()
        while len(machine.deadlines) == 2:
            await asyncio.sleep(0.001)
        machine.deadlines = [loop.time() + 0.001]
        timer.stop()
        timer.changed()
        await asyncio.sleep(0.01)
        assert len(machine.fired) == 1

    run(main())
