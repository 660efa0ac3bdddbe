"""What workers and their supervisor share, each part by itself: counters, the list of clients, messages, limits, status."""

from __future__ import annotations

import asyncio
import os
import pickle
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from quicsocks.userspace.egress.limits import ClientLimits, ClientQuota, Use
from quicsocks.userspace.enrolment import Registry
from quicsocks.userspace.served_client import BARE_QT
from quicsocks.userspace.settings import ConcentratorLimits, ConcentratorSettings
from quicsocks.userspace.state import StateError, StateFolder
from quicsocks.userspace.status import render
from quicsocks.userspace.tunnel.types import AuthFailure, AuthRefused, Cause, FlowFailed, TunnelLimits
from quicsocks.userspace.workers.assignment import part_of
from quicsocks.userspace.workers.channel import Channel, encode, receive_blocking
from quicsocks.userspace.workers.clients import KEYS_AT_ONCE, RemoteClients, answer
from quicsocks.userspace.workers.combined import combined
from quicsocks.userspace.workers.ledger import ROWS, Ledger

from .support import both_loops, run_on

# --- The ledger -------------------------------------------------------------------------------------------------------


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    made = Ledger(3)
    yield made
    made.close()


def quotas(ledger: Ledger, limits: ClientLimits) -> list[ClientQuota]:
    """One client's at each of three workers."""
    ledger.row("laptop")
    return [ClientQuota(limits, 0.0, ledger.account("laptop", number)) for number in range(3)]


def test_flows_are_counted_wherever_they_are(ledger: Ledger) -> None:
    first, second, third = quotas(ledger, ClientLimits(max_flows=3, max_pending=3))
    tickets = [first.open(), second.open(), second.open()]
    with pytest.raises(FlowFailed) as refused:
        third.open()
    assert refused.value.cause is Cause.LIMIT
    assert "3 flows" in refused.value.detail
    tickets[0].close()
    third.open()


def test_connects_are_counted_wherever_they_are(ledger: Ledger) -> None:
    first, second, _ = quotas(ledger, ClientLimits(max_flows=0, max_pending=2))
    ticket = first.open()
    first.open()
    with pytest.raises(FlowFailed, match="2 connects"):
        second.open()
    ticket.connected()
    second.open()


def test_together_they_keep_to_the_rate(ledger: Ledger) -> None:
    everybody = quotas(ledger, ClientLimits(bytes_per_second=1_000_000, burst=100_000))
    # As relays do: each reads when it may, for ten seconds, in turn.
    resume, passed, now = [0.0, 0.0, 0.0], 0, 0.0
    while now < 10.0:
        for number, quota in enumerate(everybody):
            if now >= resume[number]:
                resume[number] = now + quota.transferred(50_000, now)
                passed += 50_000
        now += 0.01
    assert 9_000_000 <= passed <= 10_500_000


def test_clients_are_apart(ledger: Ledger) -> None:
    ledger.row("laptop")
    ledger.row("phone")
    ledger.account("laptop", 0).publish(Use.FLOWS, 7)
    ledger.account(BARE_QT, 0).publish(Use.FLOWS, 1)
    assert ledger.account("phone", 1).others(Use.FLOWS) == 0
    assert ledger.account("laptop", 1).others(Use.FLOWS) == 7
    assert ledger.account("laptop", 1).others(Use.SESSIONS) == 0
    assert ledger.account("laptop", 0).others(Use.FLOWS) == 0


def test_a_worker_that_has_ended_uses_nothing(ledger: Ledger) -> None:
    first, second, _ = quotas(ledger, ClientLimits(max_flows=2, bytes_per_second=1000, burst=1000))
    first.open()
    first.transferred(500, 0.0)
    second.open()
    assert second.transferred(1, 0.0) == 0.0
    ledger.clear(0)
    second.open()
    assert second.transferred(1, 0.0) == 0.0, "a counter that starts anew gives nothing back and takes nothing"


def test_another_process_sees_the_same(ledger: Ledger) -> None:
    row = ledger.row("laptop")
    other = Ledger(3, os.dup(ledger.descriptor))
    other.learn("laptop", row)
    other.account("laptop", 2).publish(Use.SESSIONS, 5)
    assert ledger.account("laptop", 0).others(Use.SESSIONS) == 5
    other.close()


def test_rows_run_out_with_a_line(ledger: Ledger) -> None:
    for number in range(ROWS - 1):
        ledger.row(f"client-{number}")
    with pytest.raises(StateError, match="restart the concentrator"):
        ledger.row("one-more")
    assert ledger.row("client-5") == 6


# --- The list of clients ----------------------------------------------------------------------------------------------


@contextmanager
def supervised(folder: Path, workers: int = 2) -> Iterator[tuple[Registry, list[RemoteClients]]]:
    """A supervisor that answers, one question after the other, and workers' views of its list."""
    registry = Registry(StateFolder(folder))
    ledger = Ledger(workers)
    lock = threading.Lock()
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(workers)]

    def respond(connection: socket.socket) -> None:
        while data := connection.recv(1 << 17):
            with lock:
                reply = answer(data, registry, ledger)
            connection.send(reply)

    threads = [threading.Thread(target=respond, args=(near,)) for near, _ in pairs]
    for thread in threads:
        thread.start()
    try:
        yield registry, [RemoteClients(far, ledger, 10.0) for _, far in pairs]
    finally:
        for _, far in pairs:
            far.close()
        for thread in threads:
            thread.join()
        for near, _ in pairs:
            near.close()
        ledger.close()


def test_a_token_enrols_once_whichever_workers_see_it(tmp_path: Path) -> None:
    with supervised(tmp_path) as (registry, (first, second)):
        token = registry.add("laptop", 0.0, limits=TunnelLimits(max_flows=9))
        authorised = first.authorise(b"one key", token, "label", 1.0)
        assert (authorised.name, authorised.limits.max_flows) == ("laptop", 9)
        with pytest.raises(AuthRefused) as refused:
            second.authorise(b"another key", token, "label", 1.0)
        assert refused.value.failure is AuthFailure.TOKEN_USED
        assert second.authorise(b"one key", b"", "label", 2.0).name == "laptop"


def test_whoever_is_revoked_is_refused_everywhere(tmp_path: Path) -> None:
    with supervised(tmp_path) as (registry, (first, second)):
        keys = [b"key %d" % number for number in range(KEYS_AT_ONCE + 1)]
        for name, key in (("laptop", keys[0]), ("phone", keys[-1])):
            first.authorise(key, registry.add(name, 0.0), "", 1.0)
        assert second.refused(keys) == set(keys[1:-1])
        registry.revoke("phone", 2.0)
        assert second.refused(keys) == set(keys[1:])
        with pytest.raises(AuthRefused) as refused:
            second.authorise(keys[-1], b"", "", 3.0)
        assert refused.value.failure is AuthFailure.REVOKED


def test_limits_and_changes(tmp_path: Path) -> None:
    with supervised(tmp_path) as (registry, (first, _)):
        registry.add("laptop", 0.0, limits=TunnelLimits(max_pending=4))
        assert first.limits_of("laptop") == TunnelLimits(max_pending=4)
        assert first.limits_of("nobody") is None
        before = first.generation
        first.changed()
        assert first.generation > before
        assert first.poll() is False


def test_a_list_that_cannot_be_read_is_a_state_error_at_the_worker(tmp_path: Path) -> None:
    with supervised(tmp_path) as (registry, (first, _)):
        registry.add("laptop", 0.0)
        (tmp_path / "clients.json").write_text("{")
        with pytest.raises(StateError, match="damaged"):
            first.authorise(b"key", b"token", "", 1.0)


def test_a_supervisor_that_is_gone_or_hangs_is_a_state_error() -> None:
    ledger = Ledger(2)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with pytest.raises(StateError, match="does not answer"):
        RemoteClients(far, ledger, 0.01).limits_of("laptop")
    near.close()
    with pytest.raises(StateError, match="supervisor"):
        RemoteClients(far, ledger, 5.0).limits_of("laptop")
    far.close()
    ledger.close()


def test_an_answer_that_comes_too_late_is_not_anothers() -> None:
    ledger = Ledger(2)
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    clients = RemoteClients(far, ledger, 5.0)
    near.send(pickle.dumps((0, "", TunnelLimits(max_flows=1))))
    near.send(pickle.dumps((1, "", TunnelLimits(max_flows=2))))
    assert clients.limits_of("laptop") == TunnelLimits(max_flows=2)
    near.close()
    far.close()
    ledger.close()


# --- Messages, limits, status -----------------------------------------------------------------------------------------


@both_loops
def test_messages_arrive_whole_and_in_order(loop_factory: Any) -> None:
    large = bytes(1_000_000)

    async def main() -> None:
        near, far = socket.socketpair()
        one, other = await Channel.open(near), await Channel.open(far)
        for message in ("first", large, {"third": 3}):
            one.send(message)
        assert [await other.receive() for _ in range(3)] == ["first", large, {"third": 3}]
        one.close()
        with pytest.raises(EOFError):
            await other.receive()
        other.close()
        await asyncio.sleep(0)

    run_on(loop_factory, main())


def test_the_first_message_is_read_without_a_loop() -> None:
    near, far = socket.socketpair()
    near.sendall(encode("first") + encode("second"))
    assert [receive_blocking(far), receive_blocking(far)] == ["first", "second"]
    near.close()
    with pytest.raises(EOFError):
        receive_blocking(far)
    far.close()


def test_what_is_the_concentrators_is_divided_and_what_is_a_clients_is_not() -> None:
    limits = ConcentratorLimits(sessions=10, half_open=7, half_open_per_prefix=3, retry_above=1, flows_per_client=100)
    settings = ConcentratorSettings(Path("s"), Path("r"), workers=3, limits=limits, reload=lambda: settings)
    part = part_of(settings)
    assert (part.limits.sessions, part.limits.half_open) == (4, 3)
    assert (part.limits.half_open_per_prefix, part.limits.retry_above) == (1, 1)
    assert part.limits.flows_per_client == 100
    pickle.dumps(part)


def one_status(name: str, since: float, flows: int, forwarded: int) -> dict[str, Any]:
    return {
        **dict.fromkeys(("pending", "bytes_in", "bytes_out", "flows_opened"), 10),
        "flows": flows,
        "clients": [{"name": name, "since": since}],
        "endpoint": {"forwarded": forwarded, "accepted": 1},
    }


def test_statuses_add_up() -> None:
    both = combined([(0, one_status("late", 5.0, 1, 2)), (1, one_status("early", 4.0, 2, 3))])
    assert (both["flows"], both["bytes_in"], both["endpoint"]) == (3, 20, {"forwarded": 5, "accepted": 2})
    assert [(client["name"], client["worker"]) for client in both["clients"]] == [("early", 1), ("late", 0)]


def test_no_worker_answers() -> None:
    nothing = combined([])
    assert (nothing["flows"], nothing["clients"], nothing["endpoint"]) == (0, [], {})


def test_a_person_sees_a_line_for_each_worker() -> None:
    workers = [
        {"number": 0, "process": 11, "answers": True, "clients": 1, "forwarded": 7, "restarts": 2},
        {"number": 1, "answers": False},
    ]
    shown = render({"role": "concentrator", "workers": workers}, 0.0)
    assert "  worker 0: process 11, 1 client, 7 packets forwarded, started again 2 times" in shown
    assert "  worker 1: does not answer" in shown
