"""Resuming sessions: which tickets are given out, kept, used and refused, and what a resumed session is worth."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from aioquic import tls

from quicsocks.userspace.quic.aioquic_internals.handshaker import walk
from quicsocks.userspace.quic.cid import LENGTH
from quicsocks.userspace.quic.errors import End, LocalError
from quicsocks.userspace.quic.resumption import ClientResumption, ClientTickets, ServerTickets
from quicsocks.userspace.quic.session import Route
from quicsocks.userspace.quic.types import DialConfig, ListenConfig, Resumption, Trust
from quicsocks.userspace.tunnel.authentication import make_auth, verify_auth
from quicsocks.userspace.tunnel.types import AuthFailure, AuthRefused

from ..sim.link import Conditions
from ..sim.pair import CLIENT, SERVER, Pair
from ..tunnel.support import Key
from .coming_back import Stage
from .keys import issued, self_signed
from .recorders import SessionLog

PLAIN = Resumption()
BAD = Conditions(delay=0.02, jitter=0.02, loss=0.2, duplicate=0.1, reorder=0.2, reorder_by=0.03)


def test_resumption() -> None:
    stage = Stage(PLAIN)
    first = stage.visit()

    again = [stage.visit() for _ in range(3)]

    assert not first.client.is_resumed
    assert all(visit.client.is_resumed and visit.server.is_resumed for visit in again)
    assert all(visit.client.peer_public_key == stage.identity.public_key for visit in again)
    assert stage.counters["resumed"] == 3


def test_a_resumed_handshake_shows_no_certificate() -> None:
    stage = Stage(PLAIN)
    stage.pair.record = True
    sizes = []
    for _ in range(2):
        stage.pair.seen.clear()
        stage.visit()
        came = [data for direction, data in stage.pair.seen if direction == "down"]
        sizes.append(sum(b - a for data in came for kind, a, b in walk(data, LENGTH) if kind == "handshake"))

    assert sizes[1] < 250 < sizes[0] - 300


@pytest.mark.parametrize("seed", range(40))
def test_resumption_with_loss(seed: int) -> None:
    stage = Stage(PLAIN, seed, BAD, retry=seed % 2 == 0)
    for _ in range(3):
        stage.visit(10_000)


def test_a_ticket_is_used_once_by_the_client() -> None:
    stage = Stage(PLAIN)
    stage.visit()
    assert len(stage.tickets) == 1

    first, _ = stage.dial()
    second, _ = stage.dial()
    stage.pair.settle()

    assert (first.is_resumed, second.is_resumed) == (True, False)


def test_a_ticket_is_used_once_at_the_server() -> None:
    stage = Stage(PLAIN)
    stage.visit()
    (key, kept) = next(iter(stage.tickets._kept.items()))
    stage.visit()

    stage.tickets._kept[key] = kept
    visit = stage.visit()

    assert not visit.client.is_resumed


def test_a_ticket_lives_as_long_as_the_server_says() -> None:
    for seconds, resumed in ((7100.0, True), (7300.0, False)):
        stage = Stage(PLAIN)
        stage.visit()
        stage.pair.pass_time(seconds)
        stage.pair.record = True

        assert stage.visit().client.is_resumed is resumed


def test_a_server_does_not_take_one_that_is_too_old() -> None:
    stage = Stage(PLAIN)
    stage.visit()
    stage.pair.pass_time(7300.0)
    stage.tickets._kept = {key: replace(kept, until=1e12) for key, kept in stage.tickets._kept.items()}

    assert not stage.visit().client.is_resumed


def test_another_process_falls_back_to_a_full_handshake() -> None:
    """A worker, or the same program after a restart: tickets are in one process's memory."""
    stage = Stage(PLAIN)
    stage.visit()
    stage.pair.restart_server(5)
    stage.listen()

    visit = stage.visit()

    assert not visit.client.is_resumed
    assert stage.visit().client.is_resumed, "with the ticket of that one"


def test_tickets_are_of_the_key_that_they_were_given_out_under() -> None:
    stage = Stage(PLAIN)
    stage.visit()
    other = self_signed("p384")
    stage.listen(certificate=other.certificate, private_key=other.private_key)

    client, _ = stage.dial()
    stage.pair.settle()

    assert client.ended is not None
    assert client.ended.end is End.UNTRUSTED, "a full handshake, with the key that is not pinned"


def test_the_same_settings_again_keep_the_tickets() -> None:
    stage = Stage(PLAIN)
    stage.visit()
    stage.listen()

    assert stage.visit().client.is_resumed


@pytest.mark.parametrize("what", ["trust", "crypto_profile", "alpn"])
def test_what_the_client_demands_is_part_of_the_exit(what: str) -> None:
    stage = Stage(PLAIN)
    stage.listen(alpn=("test/1", "test/2"))
    stage.visit()
    changes: dict[str, Any] = {
        "trust": Trust("server.example", (stage.identity.pin, bytes(32))),
        "crypto_profile": "fips",
        "alpn": ("test/2", "test/1"),
    }

    visit = stage.visit(**{what: changes[what]})

    assert not visit.client.is_resumed
    assert stage.visit().client.is_resumed, "that of the first is still there"


def test_a_pin_that_was_taken_away_refuses_a_remembered_key() -> None:
    """What must not happen anyhow, since pins are part of what a ticket is kept under."""
    stage = Stage(PLAIN)
    stage.visit()
    trust = Trust("server.example", (bytes(32),))
    (kept,) = stage.tickets._kept.values()
    stage.tickets._kept[(trust, stage.alpn, "default")] = kept

    client, log = stage.dial(trust=trust)
    stage.pair.settle()

    assert client.ended is not None
    assert client.ended.end is End.UNTRUSTED
    assert not log.completed


def test_tickets_without_pins(tmp_path: Path) -> None:
    identity, root = issued()
    (tmp_path / "root.pem").write_bytes(root)
    stage = Stage(PLAIN, identity=identity)
    trust = Trust("server.example", (), tmp_path / "root.pem")
    stage.visit(trust=trust)

    assert stage.visit(trust=trust).client.is_resumed


@pytest.mark.parametrize("lapses", [False, True])
def test_a_certificate_that_has_expired_stands_for_a_server_with_a_pin_only(lapses: bool) -> None:
    stage = Stage(PLAIN)
    stage.visit()
    ((exit_, kept),) = stage.tickets._kept.items()
    stage.tickets._kept[exit_] = replace(kept, until=1e12)
    later = kept.certificate.not_valid_after_utc.timestamp() + 1.0

    resumption = ClientResumption(stage.tickets, exit_, lambda: later, early_data=True, lapses=lapses)

    assert (resumption.session is None) is lapses


def test_a_server_gives_out_as_many_as_it_is_told_to() -> None:
    for count in (0, 1, 4):
        stage = Stage(replace(PLAIN, per_connection=count))
        stage.visit()
        assert len(_store(stage)) == count
        assert len(stage.tickets) == min(count, 1)

        assert stage.visit().client.is_resumed is (count > 0)


def test_every_ticket_of_a_connection_is_good() -> None:
    """RFC 8446 §4.6.1: they have nonces of their own."""
    stage = Stage(replace(PLAIN, per_connection=4))
    seen: list[tls.SessionTicket] = []
    keep = stage.tickets.put

    def note(exit_: object, session: tls.SessionTicket, certificate: object, now: float) -> None:
        seen.append(session)
        keep(exit_, session, certificate, now)  # type: ignore[arg-type] # passed on as it came

    stage.tickets.put = note  # type: ignore[method-assign] # looked over its shoulder
    stage.visit()
    assert len({ticket.resumption_secret for ticket in seen}) == 4
    (key, kept) = next(iter(stage.tickets._kept.items()))
    for ticket in seen[:4]:
        stage.tickets._kept[key] = replace(kept, session=ticket)
        assert stage.visit().client.is_resumed


def test_a_server_keeps_as_many_as_it_is_told_to() -> None:
    stage = Stage(replace(PLAIN, most=3))
    for _ in range(6):
        stage.visit(tickets=ClientTickets())

    assert len(_store(stage)) == 3
    stage.visit()
    for _ in range(3):
        stage.visit(tickets=ClientTickets())
    assert not stage.visit().client.is_resumed, "the oldest are gone"


def test_a_server_drops_those_that_are_too_old() -> None:
    stage = Stage(PLAIN)
    for _ in range(5):
        stage.visit(tickets=ClientTickets())
    stage.pair.pass_time(8000.0)
    stage.visit()

    assert len(_store(stage)) == 1


def test_a_client_keeps_as_many_exits_as_it_is_told_to() -> None:
    tickets = ClientTickets(most=2)
    stage = Stage(PLAIN)
    stage.visit()
    (kept,) = stage.tickets._kept.values()
    for exit_ in "abcab":
        tickets.put(exit_, kept.session, kept.certificate, 0.0)

    assert len(tickets) == 2
    assert tickets.take("c", 0.0) is None
    assert tickets.take("a", 0.0) is not None
    assert tickets.take("a", 0.0) is None
    assert tickets.take("b", 7201.0) is None
    assert len(tickets) == 0


def test_a_ticket_that_lives_no_time_is_not_kept() -> None:
    """RFC 8446 §4.6.1, and the last one is not the last any more."""
    stage = Stage(PLAIN)
    stage.visit()
    ((exit_, kept),) = stage.tickets._kept.items()
    session = replace(kept.session, not_valid_after=kept.session.not_valid_before)

    stage.tickets.put(exit_, session, kept.certificate, 0.0)

    assert len(stage.tickets) == 0


def test_a_client_looks_at_a_few_tickets_of_a_connection_only() -> None:
    stage = Stage(PLAIN)
    visit = stage.visit(close=False)
    (kept,) = stage.tickets._kept.values()
    resumption = visit.client._resumption
    assert isinstance(resumption, ClientResumption)
    for number in range(50):
        resumption.keep(visit.client.handshaker, replace(kept.session, ticket=bytes([number])))

    assert next(iter(stage.tickets._kept.values())).session.ticket == bytes([2])


def test_no_tickets_unless_asked_for() -> None:
    quiet = Stage(None)
    quiet.visit()
    assert len(quiet.tickets) == 0

    deaf = Stage(PLAIN)
    deaf.visit(tickets=None)
    assert len(_store(deaf)) == 0, "the client cannot use one, and gets none"


@pytest.mark.parametrize("options", [{"lifetime": 0.0}, {"lifetime": 700_000.0}, {"per_connection": 5}])
def test_options_have_bounds(options: dict[str, float]) -> None:
    with pytest.raises(LocalError):
        ServerTickets(replace(PLAIN, **options), bytes, lambda: 0.0)  # type: ignore[arg-type] # numbers, all of them


def test_aioquics_engine_has_none() -> None:
    pair = Pair(engines=("aioquic", "aioquic"))
    identity = self_signed()
    listening = ListenConfig(("a",), identity.certificate, identity.private_key, bytes(32), resumption=PLAIN)
    with pytest.raises(LocalError, match="native"):
        pair.server.hub.listen(listening, lambda session: SessionLog())
    dialling = DialConfig(("a",), Trust("server.example", (identity.pin,)), tickets=ClientTickets())
    with pytest.raises(LocalError, match="native"):
        pair.client.hub.dial(Route(CLIENT, SERVER), dialling, SessionLog(), 0.0)


# --- What a resumed session is worth ----------------------------------------------------------------------------------


def test_a_ticket_does_not_stand_for_the_client() -> None:
    """Whoever has been authenticated in the session that a ticket is of: in the next one it has to prove its key again,
    and so a key that has been revoked meanwhile does not get in."""
    stage, client = Stage(PLAIN), Key(1).identity()
    first = stage.visit(close=False)
    proof = make_auth(first.client, client)
    verify_auth(first.server, proof)
    again = stage.visit(close=False)
    assert again.client.is_resumed

    with pytest.raises(AuthRefused) as refused:
        verify_auth(again.server, proof)

    assert refused.value.failure is AuthFailure.BAD_PROOF
    verify_auth(again.server, make_auth(again.client, client))


def test_both_ends_export_the_same_and_each_session_something_else() -> None:
    stage = Stage(PLAIN)
    visits = [stage.visit(close=False) for _ in range(3)]

    exported = [
        [end.export_keying_material(b"EXPORTER-test", b"", 32) for end in (visit.client, visit.server)]
        for visit in visits
    ]

    assert all(ours == theirs for ours, theirs in exported)
    assert len({ours for ours, _ in exported}) == 3


def test_the_pin_is_of_the_remembered_certificate() -> None:
    stage = Stage(PLAIN)
    stage.visit()

    visit = stage.visit()

    assert hashlib.sha256(visit.client.peer_public_key).digest() == stage.identity.pin


def _store(stage: Stage) -> ServerTickets:
    listening = stage.pair.server.hub._listening
    assert listening is not None
    assert listening.tickets is not None
    return listening.tickets
