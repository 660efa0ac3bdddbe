"""How a handshake ends: closed, discarded, idle, detached; and what may be sent to an address not validated."""

from __future__ import annotations

import pytest
from aioquic import tls
from aioquic.quic.crypto import CryptoPair

from quicsocks.userspace.quic.aioquic_internals.common import ClosedBy

from .handshaking import (
    BAD,
    CLIENT,
    SEEDS,
    SERVER,
    Ours,
    both_ended,
    client_of,
    client_setup,
    copied,
    join,
    make,
    measure,
    ours_of,
    pairings,
    server_of,
    server_setup,
)

# --- Detaching --------------------------------------------------------------------------------------------------------


def test_what_is_left_when_it_is_detached() -> None:
    path = join().run()
    for end in ours_of(path):
        handshaker = end.handshaker
        before = (handshaker.alpn, handshaker.exporter, handshaker.peer_certificate, handshaker.peer_parameters)
        handshaker.detach()
        handshaker.detach()
        assert (handshaker.alpn, handshaker.exporter, handshaker.peer_certificate, handshaker.peer_parameters) == before
        assert handshaker.is_complete
        assert handshaker.is_confirmed
        assert handshaker.rtt is not None
        assert handshaker.get_timer() is None
        handshaker.handle_timer(1e9)
        for datagram in (*path.client.sent, *path.server.sent):
            handshaker.receive_datagram(datagram, handshaker.active_route, 1e9)
        assert handshaker.datagrams_to_send(1e9) == []
        assert not handshaker.is_closing
        assert handshaker.take_crypto() == b""
        handshaker.discard()
        assert handshaker.is_terminated


# --- Ending -----------------------------------------------------------------------------------------------------------


def test_an_application_ends_it_before_there_are_keys() -> None:
    path = join()
    path.client.send(0.0)
    client_of(path).close_by_application(9, "secret reason")
    (datagram,) = path.client.send(0.0)
    assert b"secret reason" not in datagram
    path.server.receive(path.client.sent[0], CLIENT, 0.0)
    path.server.receive(datagram, CLIENT, 0.0)
    server = server_of(path)
    assert server.close_event is not None
    assert server.close_event.error_code == 0x0C
    assert server.closed_by is ClosedBy.PEER_ENGINE
    assert client_of(path).closed_by is ClosedBy.APPLICATION
    path.run(both_ended(path))
    event = client_of(path).close_event
    assert event is not None
    assert event.error_code == 9


@pairings
@pytest.mark.parametrize("of_client", [True, False])
def test_our_transport_ends_it(ours: tuple[bool, bool], of_client: bool) -> None:
    path = join(ours)
    closer = path.client if of_client else path.server
    if not isinstance(closer, Ours):
        return
    other = path.server if of_client else path.client
    path.server.receive(path.client.send(0.0)[0], CLIENT, 0.0)
    for datagram in path.server.send(0.0):
        path.client.receive(datagram, SERVER, 0.0)
    closer.handshaker.close_by_engine(0x0B, "r" * 1000)
    closer.handshaker.close_by_application(1, "too late")
    path.run(both_ended(path))
    assert closer.handshaker.closed_by is ClosedBy.ENGINE
    heard = other.handshaker.close_event if isinstance(other, Ours) else other.end
    assert heard is not None
    assert heard.error_code == 0x0B
    assert heard.reason_phrase == "r" * 200


@pytest.mark.parametrize("lost", [0, 1])
def test_a_close_that_is_lost_is_repeated(lost: int) -> None:
    path = join(client=client_setup(alpn="other/1"))
    drops = lost

    def spoil(to_server: bool, datagram: bytes) -> bytes:
        nonlocal drops
        if to_server or not drops:
            return datagram
        drops -= 1
        return b""

    path.spoil = spoil
    path.run(both_ended(path))
    assert drops == 0
    client = client_of(path)
    assert client.closed_by is ClosedBy.PEER_ENGINE
    assert client.close_event is not None
    assert client.close_event.error_code == 0x100 + tls.AlertDescription.no_application_protocol


def test_closes_count_for_the_limit_too() -> None:
    configuration = server_setup()
    assert configuration.certificate is not None
    configuration.certificate_chain = [configuration.certificate] * 12
    path = join(server=configuration)
    measure(path)
    (hello,) = path.client.send(0.0)
    path.server.receive(hello, CLIENT, 0.0)
    for datagram in path.server.send(0.0):
        path.spoil(False, datagram)  # type: ignore[misc] # set by measure
    server = server_of(path)
    server.close_by_engine(2, "busy")
    assert path.server.send(0.0) == []
    assert server.is_closing
    server.handle_timer(server.get_timer() or 0.0)
    assert server.is_terminated


def test_a_close_is_repeated_ever_less_often_and_only_to_the_peer() -> None:
    path = join(client=client_setup(alpn="other/1"))
    (hello,) = path.client.send(0.0)
    server = server_of(path)
    server.receive_datagram(hello, CLIENT, 0.0)
    assert len(server.datagrams_to_send(0.0)) == 1
    answers = 0
    for _ in range(64):
        server.receive_datagram(hello, "elsewhere", 0.0)
        assert server.datagrams_to_send(0.0) == []
        server.receive_datagram(hello, CLIENT, 0.0)
        answers += len(server.datagrams_to_send(0.0))
    assert answers == 7


def test_repeated_closes_count_for_the_limit() -> None:
    path = join(client=client_setup(alpn="other/1"))
    (hello,) = path.client.send(0.0)
    server = server_of(path)
    server.receive_datagram(hello, CLIENT, 0.0)
    (close,) = [data for data, _ in server.datagrams_to_send(0.0)]
    server.note_sent(3 * len(hello) - len(close))
    fed = 0
    while not (answers := server.datagrams_to_send(0.0)):
        assert not server.can_send(3 * fed + 1)
        server.receive_datagram(bytes([0xC0]) * 10, CLIENT, 0.0)
        fed += 10
        assert server.can_send(3 * fed)
    assert [data for data, _ in answers] == [close]
    assert len(close) <= 3 * fed
    room = 3 * fed - len(close)
    assert server.can_send(room)
    assert not server.can_send(room + 1)


def test_a_close_of_aioquics_own_is_never_one_of_an_application(monkeypatch: pytest.MonkeyPatch) -> None:
    path = join()
    path.server.receive(path.client.send(0.0)[0], CLIENT, 0.0)
    with monkeypatch.context() as patch:
        # A frame type of two octets, of which there is one: aioquic has no frame type to blame.
        patch.setattr(CryptoPair, "decrypt_packet", lambda *_: (b"\xc0", b"\x40", 0))
        path.client.receive(path.server.send(0.0)[0], SERVER, 0.0)
    for datagram in path.client.send(0.0):
        path.server.receive(datagram, CLIENT, 0.0)
    server = server_of(path)
    assert server.close_event is not None
    assert server.close_event.error_code == 0x07
    assert server.closed_by is ClosedBy.PEER_ENGINE


def test_a_server_that_has_nobody_to_tell_ends_at_once() -> None:
    server = make(server_setup(), original_cid=bytes(8))
    server.close_by_engine(2, "busy")
    assert server.datagrams_to_send(0.0) == []
    assert server.is_terminated
    assert server.get_timer() is None
    server.handle_timer(1.0)


@pytest.mark.parametrize("steps", range(6))
def test_discarding_at_any_time(steps: int) -> None:
    path = join()
    for _ in range(steps):
        for datagram in path.client.send(path.now):
            path.server.receive(datagram, CLIENT, path.now)
        for datagram in path.server.send(path.now):
            path.client.receive(datagram, SERVER, path.now)
    for end in ours_of(path):
        end.handshaker.discard()
        end.handshaker.discard()
        assert end.handshaker.is_terminated
        assert end.handshaker.datagrams_to_send(0.0) == []
        assert end.handshaker.get_timer() is None


def test_nothing_is_known_before_it_begins() -> None:
    for handshaker in (make(client_setup()), make(server_setup(), original_cid=bytes(8))):
        assert handshaker.alpn == ""
        assert handshaker.peer_certificate is None
        assert not handshaker.early_data_accepted
        assert handshaker.peer_parameters is None
        assert handshaker.version is None
        assert not handshaker.is_heard
        assert not handshaker.path_validated
        assert not handshaker.can_send(1)
        assert handshaker.datagrams_to_send(0.0) == []


def test_nobody_answers() -> None:
    path = join()
    path.spoil = lambda to_server, datagram: b""
    path.run(lambda: path.client.ended, seconds=200.0)
    client = client_of(path)
    assert client.closed_by is ClosedBy.TIMEOUT
    assert not client.is_heard


def test_idleness_of_a_complete_handshake_is_the_engines_business() -> None:
    for end in ours_of(join().run()):
        timer = end.handshaker.get_timer()
        for _ in range(5):
            assert timer is not None
            end.handshaker.handle_timer(timer)
            later = end.handshaker.get_timer()
            assert later is not None
            assert later > timer
            timer = later
        assert not end.handshaker.is_closing


# --- What the engine must not exceed ----------------------------------------------------------------------------------


def test_the_engine_shares_the_limit_of_an_address_not_validated() -> None:
    path = join()
    server = server_of(path)
    path.server.receive(path.client.send(0.0)[0], CLIENT, 0.0)
    sent = sum(len(datagram) for datagram in path.server.send(0.0))
    validated = server.path_validated
    assert not validated
    assert server.active_route == CLIENT
    room = 3 * 1200 - sent
    assert server.can_send(room)
    assert not server.can_send(room + 1)
    server.note_sent(room)
    assert not server.can_send(1)
    server.note_received(10)
    assert server.can_send(30)
    assert not server.can_send(31)
    for datagram in path.server.sent:
        path.client.receive(datagram, SERVER, 0.0)
    for datagram in path.client.send(0.0):
        path.server.receive(datagram, CLIENT, 0.0)
    validated = server.path_validated
    assert validated
    assert server.can_send(1 << 30)


def test_a_large_certificate_stays_below_the_limit() -> None:
    configuration = server_setup()
    assert configuration.certificate is not None
    configuration.certificate_chain = [configuration.certificate] * 12
    for seed in range(SEEDS // 2):
        path = join(seed=seed, conditions=BAD, server=copied(configuration))
        measure(path).run()


def test_a_certificate_beyond_aioquics_buffer_is_an_error_and_not_an_exception() -> None:
    configuration = server_setup()
    assert configuration.certificate is not None
    configuration.certificate_chain = [configuration.certificate] * 60
    path = join(server=configuration)
    path.run(both_ended(path))
    for handshaker in (client_of(path), server_of(path)):
        assert handshaker.close_event is not None
        assert handshaker.close_event.error_code == 0x01


def test_acknowledged_1_rtt_packets_end_a_clients_probing() -> None:
    path = join()
    client = client_of(path)
    path.client.send(0.0)
    assert not client._loss.peer_completed_address_validation
    client.note_one_rtt_acked()
    assert client._loss.peer_completed_address_validation
