"""The handshaker against itself and against aioquic as it is, on good paths and bad."""

from __future__ import annotations

import contextlib

import pytest
from aioquic import tls
from aioquic.quic.packet import encode_quic_retry, encode_quic_version_negotiation
from cryptography import x509
from hypothesis import given, settings
from hypothesis import strategies as st

from quicsocks.userspace.quic.aioquic_internals.common import ClosedBy
from quicsocks.userspace.quic.aioquic_internals.handshaker import MOST_TLS, Secret
from quicsocks.userspace.quic.errors import PeerError
from quicsocks.userspace.quic.tls_profile import profile

from ...sim.link import Conditions
from ..keys import issued, self_signed
from .handshaking import (
    BAD,
    CLIENT,
    PAIRINGS,
    SEEDS,
    SERVER,
    V1,
    V2,
    Ours,
    Path,
    Theirs,
    both_ended,
    client_of,
    client_setup,
    copied,
    join,
    key_log,
    kinds_sent,
    make,
    ours_of,
    pairings,
    server_of,
    server_setup,
)

SHUFFLED = Conditions(delay=0.2, jitter=0.15, duplicate=0.3, reorder=0.5, reorder_by=0.3)
DAMAGED = Conditions(delay=0.02, loss=0.1, corrupt=0.1)
HANDSHAKE_ONLY = {"initial", "handshake"}


# --- Secrets ----------------------------------------------------------------------------------------------------------


@pairings
@pytest.mark.parametrize(
    "conditions", [Conditions(), BAD, SHUFFLED, DAMAGED], ids=["good", "bad", "shuffled", "damaged"]
)
def test_both_ends_have_the_same_secrets(ours: tuple[bool, bool], conditions: Conditions) -> None:
    for seed in range(SEEDS):
        path = join(ours, seed=seed, conditions=conditions).run()
        near, far = (key_log(end.connection.configuration) for end in (path.client, path.server))
        assert near["CLIENT_TRAFFIC_SECRET_0"] == far["CLIENT_TRAFFIC_SECRET_0"]
        assert near["SERVER_TRAFFIC_SECRET_0"] == far["SERVER_TRAFFIC_SECRET_0"]
        for end in ours_of(path):
            handed = {secret.encrypt: secret.secret.hex() for secret in end.secrets}
            is_client = end is path.client
            assert len(end.secrets) == 2
            assert handed[is_client] == near["CLIENT_TRAFFIC_SECRET_0"]
            assert handed[not is_client] == near["SERVER_TRAFFIC_SECRET_0"]
            assert kinds_sent(end) == HANDSHAKE_ONLY
            assert end.handshaker.alpn == "test/1"
            assert end.handshaker.version == V1
            assert not end.handshaker.is_closing
        if isinstance(path.client, Ours):
            assert path.client.heard, "HANDSHAKE_DONE was read with the secret handed out"


def test_secrets_come_in_order_and_once() -> None:
    path = join()
    client, server = client_of(path), server_of(path)
    first = client.datagrams_to_send(0.0)
    server.receive_datagram(first[0][0], CLIENT, 0.0)
    (early,) = server.take_secrets()
    assert early == Secret(True, False, early.suite, early.secret, V1)
    assert server.take_secrets() == []
    assert (server.is_complete, server.is_confirmed) == (False, False)
    assert server.peer_parameters is not None, "0.5-RTT data needs the client's limits"
    for datagram, _ in server.datagrams_to_send(0.0):
        client.receive_datagram(datagram, SERVER, 0.0)
    assert [secret.encrypt for secret in client.take_secrets()] == [False, True]
    assert (client.is_complete, client.is_confirmed) == (True, False)
    for datagram, _ in client.datagrams_to_send(0.0):
        server.receive_datagram(datagram, CLIENT, 0.0)
    assert [secret.encrypt for secret in server.take_secrets()] == [False]
    assert (server.is_complete, server.is_confirmed) == (True, True)
    client.handshake_done_received()
    client.handshake_done_received()
    assert (client.is_complete, client.is_confirmed) == (True, True)


def test_the_exporter_and_the_key_log_agree() -> None:
    path = join().run()
    logs = [key_log(end.connection.configuration) for end in ours_of(path)]
    assert logs[0] == logs[1]
    assert set(logs[0]) == {
        "CLIENT_HANDSHAKE_TRAFFIC_SECRET",
        "SERVER_HANDSHAKE_TRAFFIC_SECRET",
        "CLIENT_TRAFFIC_SECRET_0",
        "SERVER_TRAFFIC_SECRET_0",
        "EXPORTER_SECRET",
    }
    for end in ours_of(path):
        assert end.handshaker.exporter is not None
        assert end.handshaker.exporter.secret.hex() == logs[0]["EXPORTER_SECRET"]


def test_the_round_trip_is_measured() -> None:
    path = join(conditions=Conditions(delay=0.05)).run()
    for end in ours_of(path):
        assert end.handshaker.rtt == pytest.approx(0.1, abs=0.002)
    assert make(client_setup()).rtt is None


# --- Whom to trust ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server_is_ours", [True, False])
def test_a_wrong_pin_is_refused_before_anything(server_is_ours: bool) -> None:
    path = join((True, server_is_ours), pin=self_signed("p384"))
    path.run(both_ended(path))
    client = client_of(path)
    assert client.close_event is not None
    assert client.close_event.error_code == 0x100 + tls.AlertDescription.bad_certificate
    assert client.closed_by is ClosedBy.ENGINE
    assert ours_of(path)[0].secrets == []
    assert client.exporter is None
    assert not client.is_complete
    assert not path.server.complete
    assert "CLIENT_TRAFFIC_SECRET_0" not in key_log(client.configuration)


def test_the_right_pin_is_accepted() -> None:
    path = join(pin=self_signed()).run()
    certificate = client_of(path).peer_certificate
    assert certificate == x509.load_pem_x509_certificate(self_signed().certificate)
    assert server_of(path).peer_certificate is None


def test_a_pin_is_not_checked_by_a_ticket() -> None:
    kept: dict[bytes, tls.SessionTicket] = {}
    got: list[tls.SessionTicket] = []
    path = join(client_tickets=got.append, server_tickets=lambda ticket: kept.update({ticket.ticket: ticket}))
    path.run(lambda: bool(got))
    again = join(client=copied(client_setup(), session_ticket=got[0]), fetch=kept.get, pin=self_signed())
    again.run(both_ended(again))
    event = client_of(again).close_event
    assert event is not None
    assert event.error_code == 0x100 + tls.AlertDescription.bad_certificate
    assert not again.server.complete


def test_the_profile_limits_what_tls_offers() -> None:
    path = join().run()
    suite = profile("default")
    for end, groups in zip(ours_of(path), (suite.client_groups, suite.server_groups), strict=True):
        assert end.handshaker.tls._supported_groups == list(groups)
        assert end.handshaker.tls._signature_algorithms == list(suite.signature_algorithms)


@pytest.mark.parametrize(
    ("name", "days", "rooted", "alert"),
    [
        ("server.example", 365, False, tls.AlertDescription.bad_certificate),
        ("server.example", -1, True, tls.AlertDescription.certificate_expired),
        ("other.example", 365, True, tls.AlertDescription.bad_certificate),
    ],
    ids=["unknown root", "expired", "other name"],
)
def test_certificates_are_refused_as_aioquic_does(
    name: str, days: int, rooted: bool, alert: tls.AlertDescription
) -> None:
    identity, root = issued(name, days)
    for ours in PAIRINGS:
        client = client_setup(pinned=False)
        client.cafile = client.capath = None
        client.cadata = root if rooted else issued("another.example")[1]
        path = join(ours, client=client, server=server_setup(identity))
        path.run(both_ended(path))
        for end in ours_of(path):
            assert end.handshaker.close_event is not None
            assert end.handshaker.close_event.error_code == 0x100 + alert
            assert end.handshaker.closed_by is (ClosedBy.ENGINE if end is path.client else ClosedBy.PEER_ENGINE)
            if end is path.client:
                assert end.secrets == []
        for theirs in (path.client, path.server):
            if isinstance(theirs, Theirs):
                assert theirs.end is not None
                assert theirs.end.error_code == 0x100 + alert


@pairings
def test_no_common_protocol(ours: tuple[bool, bool]) -> None:
    path = join(ours, client=client_setup(alpn="other/1"))
    path.run(both_ended(path))
    for end in ours_of(path):
        assert end.handshaker.close_event is not None
        assert end.handshaker.close_event.error_code == 0x100 + tls.AlertDescription.no_application_protocol
        assert end.handshaker.closed_by is (ClosedBy.PEER_ENGINE if end is path.client else ClosedBy.ENGINE)
        assert end.secrets == []


# --- Retry and versions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("server_is_ours", [True, False])
@pytest.mark.parametrize("named", [True, False])
def test_retry(server_is_ours: bool, named: bool) -> None:
    path = join((True, server_is_ours), retry_cid=b"by retry" if named else None)
    client = client_of(path)
    (first,) = path.client.send(0.0)
    before = client.peer_cid
    assert before == client.original_destination_connection_id
    retry = encode_quic_retry(V1, b"by retry", client.host_cid, before, b"token")
    path.client.receive(retry[:-1] + bytes([retry[-1] ^ 1]), SERVER, 0.0)
    assert client.peer_cid == before, "its integrity tag is wrong"
    path.client.receive(retry, SERVER, 0.0)
    assert client.peer_cid == b"by retry"
    path.client.receive(encode_quic_retry(V1, b"again", client.host_cid, b"by retry", b"2"), SERVER, 0.0)
    assert client.peer_cid == b"by retry", "only one counts"
    (second,) = path.client.send(0.0)
    assert b"token" in second
    assert b"token" not in first
    assert len(second) == 1200
    path.server.receive(second, CLIENT, 0.0)
    if named:
        path.run()
        assert client.peer_cid not in (before, b"by retry")
        return
    path.run(both_ended(path))
    assert client.close_event is not None
    assert client.close_event.error_code == 0x08, "whoever sent the Retry was not the server"


@pytest.mark.parametrize("size", [1100, 1150, 1200, 3000])
def test_a_token_that_fills_the_packet_harms_nobody(size: int) -> None:
    path = join()
    client = client_of(path)
    path.client.send(0.0)
    token = bytes(size)
    path.client.receive(encode_quic_retry(V1, b"by retry", client.host_cid, client.peer_cid, token), SERVER, 0.0)
    for _ in range(4):
        assert all(len(datagram) <= 1200 for datagram in path.client.send(path.now))
        path.now = path.client.timer()
        path.client.fire(path.now)
    client.close_by_application(1, "enough")
    path.client.send(path.now)
    client.handle_timer(path.client.timer())
    assert client.is_terminated
    assert client.closed_by is ClosedBy.APPLICATION


@pairings
def test_versions_are_negotiated_compatibly(ours: tuple[bool, bool]) -> None:
    client, server = client_setup(), server_setup()
    client.original_version, client.supported_versions = V1, [V2, V1]
    server.supported_versions = [V1, V2]
    for seed in range(SEEDS // 4):
        path = join(ours, seed=seed, conditions=BAD, client=copied(client), server=copied(server)).run()
        for end in ours_of(path):
            assert end.handshaker.version == V2
            assert {secret.version for secret in end.secrets} == {V2}


def test_version_negotiation() -> None:
    client, server = client_setup(), server_setup()
    client.original_version, client.supported_versions = V1, [V1, V2]
    server.supported_versions = [V2]
    path = join(client=client, server=server)
    path.client.send(0.0)
    handshaker = client_of(path)
    answer = encode_quic_version_negotiation(handshaker.peer_cid, handshaker.host_cid, [V2])
    path.client.receive(answer, SERVER, 0.0)
    path.run()
    assert {secret.version for end in ours_of(path) for secret in end.secrets} == {V2}


def test_no_common_version() -> None:
    path = join()
    path.client.send(0.0)
    client = client_of(path)
    path.client.receive(encode_quic_version_negotiation(client.peer_cid, client.host_cid, [V2]), SERVER, 0.0)
    assert client.is_terminated
    assert client.close_event is not None
    assert client.closed_by is None
    assert path.client.send(0.0) == []
    assert client.get_timer() is None


# --- Tickets, and what else TLS says afterwards -----------------------------------------------------------------------


@pairings
def test_tickets_and_early_secrets(ours: tuple[bool, bool]) -> None:
    client, server = client_setup(), server_setup()
    kept: dict[bytes, tls.SessionTicket] = {}
    got: list[tls.SessionTicket] = []

    def keep(ticket: tls.SessionTicket) -> None:
        kept[ticket.ticket] = ticket

    for seed in range(SEEDS // 4):
        got.clear()
        first = join(
            ours,
            seed=seed,
            conditions=BAD,
            client=copied(client),
            server=copied(server),
            client_tickets=got.append,
            server_tickets=keep,
        )
        first.run(lambda: bool(got))
        again = join(
            ours,
            seed=seed,
            conditions=BAD,
            client=copied(client, session_ticket=got[0]),
            server=copied(server),
            fetch=kept.get,
        )
        for end in ours_of(again):
            if end is again.client:
                again.client.send(0.0)
                assert [(secret.encrypt, secret.early) for secret in end.secrets] == [(True, True)]
                assert end.handshaker.peer_parameters is not None, "those of the ticket"
        again.run()
        early = [
            key_log(end.connection.configuration)["CLIENT_EARLY_TRAFFIC_SECRET"] for end in (again.client, again.server)
        ]
        assert early[0] == early[1]
        for end in ours_of(again):
            assert [secret.secret.hex() for secret in end.secrets if secret.early] == [early[0]]
            assert end.handshaker.early_data_accepted
            assert kinds_sent(end) == HANDSHAKE_ONLY


def test_a_retry_brings_the_early_secret_again() -> None:
    got: list[tls.SessionTicket] = []
    join(client_tickets=got.append, server_tickets=lambda _: None).run(lambda: bool(got))
    path = join(client=copied(client_setup(), session_ticket=got[0]), retry_cid=b"by retry")
    client = client_of(path)
    path.client.send(0.0)
    retry = encode_quic_retry(V1, b"by retry", client.host_cid, client.peer_cid, b"token")
    path.client.receive(retry, SERVER, 0.0)
    assert [secret.early for secret in ours_of(path)[0].secrets] == [True, True]
    path.run()


def test_early_data_may_be_refused() -> None:
    got: list[tls.SessionTicket] = []
    path = join(client_tickets=got.append, server_tickets=lambda _: None)
    path.run(lambda: bool(got))
    again = join(client=copied(client_setup(), session_ticket=got[0])).run()
    assert not client_of(again).early_data_accepted
    assert not server_of(again).early_data_accepted
    assert [secret.early for end in ours_of(again) for secret in end.secrets].count(True) == 1


def complete() -> Path:
    return join().run()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x04\x00\x00\x01\x00", 0x100 + tls.AlertDescription.decode_error),
        (b"\x18\x00\x00\x01\x00", 0x100 + tls.AlertDescription.unexpected_message),
        (b"\x04\xff\xff\xff" + bytes(MOST_TLS), 0x0D),
    ],
    ids=["decode error", "key update", "endless"],
)
def test_tls_nonsense_after_the_handshake(data: bytes, code: int) -> None:
    client = client_of(complete())
    with pytest.raises(PeerError) as caught:
        client.receive_crypto(data)
    assert caught.value.code == code


def test_a_server_takes_no_tls_after_the_handshake() -> None:
    with pytest.raises(PeerError) as caught:
        server_of(complete()).receive_crypto(b"\x04\x00\x00\x01\x00")
    assert caught.value.code == 0x100 + tls.AlertDescription.unexpected_message


def test_a_ticket_may_come_in_pieces_and_after_detaching() -> None:
    got: list[tls.SessionTicket] = []
    path = join(client_tickets=got.append, server_tickets=lambda _: None)
    path.run(lambda: bool(got))
    again = path.server
    assert isinstance(again, Ours)
    client = client_of(path)
    client.detach()
    for octet in again.tickets:
        client.receive_crypto(bytes([octet]))
    assert len(got) == 2
    assert got[0].ticket == got[1].ticket


def test_a_ticket_with_a_wrong_limit_is_refused() -> None:
    path = join(client_tickets=lambda _: None, server_tickets=lambda _: None)
    path.run()
    message = (
        b"\x04\x00\x00\x17" + bytes(4) + bytes(4) + b"\x00" + b"\x00\x02ab" + b"\x00\x08\x00\x2a\x00\x04" + bytes(4)
    )
    with pytest.raises(PeerError, match="max_early_data") as caught:
        client_of(path).receive_crypto(message)
    assert caught.value.code == 0x0A


@settings(max_examples=200)
@given(st.lists(st.binary(max_size=40), max_size=5), st.sampled_from([b"", b"\x04\x00\x00\x20", b"\x04"]))
def test_tls_junk_after_the_handshake_raises_nothing_else(pieces: list[bytes], begin: bytes) -> None:
    client = client_of(COMPLETE)
    client.tls._receive_buffer = b""
    for piece in [begin, *pieces]:
        with contextlib.suppress(PeerError):
            client.receive_crypto(piece)


COMPLETE = complete()
