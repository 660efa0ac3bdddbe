"""Everything private of aioquic's that the handshaker leans on beyond a name's existence, one test for each, so that a
new release says what it breaks. Names are in tests/quic/test_aioquic_internals.py."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined] # re-exported without saying so
from aioquic.quic.connection import (
    END_STATES,
    MAX_EARLY_DATA,
    SECRETS_LABELS,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicNetworkPath,
)
from aioquic.quic.packet import (
    PARAMS,
    QuicErrorCode,
    QuicFrameType,
    pull_quic_header,
    pull_quic_transport_parameters,
)
from aioquic.quic.recovery import QuicPacketRecovery

from quicsocks.userspace.quic.aioquic_internals import handshaker
from quicsocks.userspace.quic.aioquic_internals.handshaker import Handshaker
from quicsocks.userspace.quic.aioquic_internals.handshaker_parameters import KNOWN, encode_parameters
from quicsocks.userspace.quic.aioquic_internals.tickets import without_early_data

from .handshaking import CLIENT, SERVER, Path, client_of, client_setup, copied, join, ours_of, server_of

TLS_ATTRIBUTES = {
    "_peer_certificate": "pins cannot be checked",
    "_psk_key_exchange_mode": "clients are given tickets that they cannot use",
    "_receive_buffer": "a TLS message without end fills the memory",
    "_session_resumed": "the certificate of an earlier session passes for this one's, or none does",
    "_signature_algorithms": "crypto profiles no longer limit signatures",
    "_supported_groups": "crypto profiles no longer limit groups",
    "alpn_negotiated": "the application protocol is unknown",
    "client_random": "the key log has no key to its lines",
    "early_data_accepted": "the engine resends early data that has arrived, or does not resend what was refused",
    "key_schedule": "there is no exporter",
}
PATH_ATTRIBUTES = {
    "addr": "the engine does not know where the peer is",
    "bytes_received": "the engine's datagrams are left out of the anti-amplification limit",
    "bytes_sent": "the engine's datagrams are left out of the anti-amplification limit",
    "is_validated": "the engine does not know when the anti-amplification limit ends",
}
LOSS_ATTRIBUTES = {
    "_rtt_initialized": "the engine takes the initial RTT for a sample",
    "_rtt_smoothed": "the engine begins without the handshake's RTT",
    "peer_completed_address_validation": "a client goes on probing when the server has heard it",
    "spaces": "a detached handshaker keeps its packets",
}


def source(function: Callable[..., Any]) -> str:
    return inspect.getsource(function)


@pytest.fixture(scope="module")
def joined() -> Path:
    return join().run()


@pytest.mark.parametrize("name", sorted(TLS_ATTRIBUTES))
def test_attributes_of_tls(name: str, joined: Path) -> None:
    for end in ours_of(joined):
        assert hasattr(end.handshaker.tls, name), f"tls.Context has no {name} any more: {TLS_ATTRIBUTES[name]}"
    assert f"self.{name}" in source(tls.Context), f"aioquic does not use {name} any more: {TLS_ATTRIBUTES[name]}"


@pytest.mark.parametrize("name", sorted(PATH_ATTRIBUTES))
def test_attributes_of_paths(name: str) -> None:
    assert hasattr(QuicNetworkPath(CLIENT), name), f"QuicNetworkPath has no {name} any more: {PATH_ATTRIBUTES[name]}"


@pytest.mark.parametrize("name", sorted(LOSS_ATTRIBUTES))
def test_attributes_of_recovery(name: str, joined: Path) -> None:
    for end in ours_of(joined):
        assert hasattr(end.handshaker._loss, name), f"recovery has no {name} any more: {LOSS_ATTRIBUTES[name]}"
    assert f"self.{name}" in source(QuicPacketRecovery), f"aioquic does not use {name} any more"


# --- Keys withheld ----------------------------------------------------------------------------------------------------


def test_traffic_keys_go_through_the_override(joined: Path) -> None:
    for end in ours_of(joined):
        callback = end.handshaker.tls.update_traffic_key_cb
        assert callback == end.handshaker._update_traffic_key, "TLS hands its keys to aioquic behind our back"


def test_aioquic_has_no_keys_of_the_application_data_space(joined: Path) -> None:
    for end in ours_of(joined):
        for epoch in (tls.Epoch.ZERO_RTT, tls.Epoch.ONE_RTT):
            pair = end.handshaker._cryptos[epoch]
            assert not pair.send.is_valid(), "aioquic got a key elsewhere: it writes packets that are the engine's"
            assert not pair.recv.is_valid(), "aioquic got a key elsewhere: it reads packets that are the engine's"


def test_without_a_key_nothing_is_written() -> None:
    text = source(QuicConnection._write_application)
    assert "if self._cryptos[tls.Epoch.ONE_RTT].send.is_valid():" in text, "packets are begun without asking for a key"
    text = source(QuicConnection.datagrams_to_send)
    assert "if crypto.send.is_valid():" in text, "a close is written at levels without a key: AssertionError"


def test_packets_without_a_key_are_passed_over() -> None:
    text = source(QuicConnection.receive_datagram)
    begin = text.index("except KeyUnavailableError")
    assert "continue" in text[begin : text.index("except CryptoError")], (
        "what is coalesced behind a 1-RTT packet is lost"
    )


def test_the_whole_datagram_counts_before_any_of_it_is_read() -> None:
    text = source(QuicConnection.receive_datagram)
    counted = text.index("network_path.bytes_received += payload_length")
    assert counted < text.index("pull_quic_header("), "the engine's part of a datagram is left out of the limit"
    assert "payload_length < SMALLEST_MAX_DATAGRAM_SIZE" in text, "small Initials are judged by something else now"


def test_a_client_learns_its_version_with_the_handshake_keys() -> None:
    text = source(QuicConnection._update_traffic_key)
    assert "self._version = self._crypto_packet_version" in text, "1-RTT keys would have labels of the wrong version"
    order: list[tls.Epoch] = []

    class Watched(Handshaker):
        def _update_traffic_key(self, direction: Any, epoch: tls.Epoch, cipher_suite: Any, secret: bytes) -> None:
            order.append(epoch)
            super()._update_traffic_key(direction, epoch, cipher_suite, secret)

    path = join()
    client_of(path).__class__ = Watched
    client_of(path).tls.update_traffic_key_cb = client_of(path)._update_traffic_key
    path.run()
    assert order == [tls.Epoch.HANDSHAKE] * 2 + [tls.Epoch.ONE_RTT] * 2


def test_the_servers_secret_comes_when_the_transcript_ends_with_its_finished() -> None:
    sends, receives = source(tls.Context._server_handle_hello), source(tls.Context._client_handle_finished)
    for text, finished in ((sends, "push_finished("), (receives, "self.key_schedule.update_hash(input_buf.data)")):
        made = text.index('Epoch.ONE_RTT, b"s ap traffic"')
        assert text.index(finished) < made, "the exporter would be of another transcript"
    later = sends[sends.index('b"s ap traffic"') :]
    assert "update_hash" not in later, "the exporter would be of another transcript"
    assert receives.index('b"s ap traffic"') < receives.index("push_finished("), "the same, on the client"


def test_labels_of_the_key_log() -> None:
    assert SECRETS_LABELS == [
        [None, "CLIENT_EARLY_TRAFFIC_SECRET", "CLIENT_HANDSHAKE_TRAFFIC_SECRET", "CLIENT_TRAFFIC_SECRET_0"],
        [None, None, "SERVER_HANDSHAKE_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET_0"],
    ], "Wireshark does not find the secrets in our key log"
    assert [epoch.value for epoch in tls.Epoch] == [0, 1, 2, 3]


def test_our_key_log_is_aioquics_and_the_exporter() -> None:
    own = join().run()
    plain = join((False, False), client=copied(client_setup()))
    plain.run()
    labels = []
    for path in (own, plain):
        log = path.client.connection.configuration.secrets_log_file
        assert isinstance(log, io.StringIO)
        labels.append(sorted(line.split()[0] for line in log.getvalue().splitlines()))
    assert labels[0] == sorted([*labels[1], "EXPORTER_SECRET"])


# --- CRYPTO -----------------------------------------------------------------------------------------------------------


def test_what_tls_says_is_pushed_before_it_is_forgotten() -> None:
    text = source(QuicConnection._handle_crypto_frame)
    assert text.index("self.tls.handle_message(event.data, self._crypto_buffers)") < text.index(
        "self._push_crypto_data()"
    ), "session tickets are taken out too late"
    assert "buf.seek(0)" in source(QuicConnection._push_crypto_data), "session tickets are sent twice"
    buffer = Buffer(capacity=8)
    buffer.push_bytes(b"abc")
    assert buffer.data == b"abc", "Buffer.data is no longer what has been written"
    buffer.seek(0)
    assert buffer.data == b""


def test_what_a_failed_handshake_leaves_behind_does_not_reach_the_next() -> None:
    for buffer in handshaker._BUFFERS.values():
        buffer.push_bytes(b"left over")
    path = join().run()
    assert client_of(path).is_complete
    for buffer in handshaker._BUFFERS.values():
        buffer.push_bytes(b"left over")
    assert server_of(join().run()).is_complete
    assert server_of(path)._crypto_buffers is handshaker._BUFFERS, "each half-open handshake holds 48 KiB of buffers"


def test_tickets_do_not_reach_aioquics_own_stream() -> None:
    path = join(client_tickets=lambda _: None, server_tickets=lambda _: None).run()
    server = path.server
    assert server_of(path)._crypto_streams[tls.Epoch.ONE_RTT].sender.buffer_is_empty
    assert ours_of(path)[1] is server
    assert ours_of(path)[1].tickets[0] == tls.HandshakeType.NEW_SESSION_TICKET


def test_alerts_become_crypto_errors() -> None:
    text = source(QuicConnection._handle_crypto_frame)
    assert "error_code=QuicErrorCode.CRYPTO_ERROR + int(exc.description)" in text, "a refused pin closes otherwise now"
    error = QuicConnectionError(QuicErrorCode.INTERNAL_ERROR, QuicFrameType.CRYPTO, "reason")
    assert (error.error_code, error.frame_type, error.reason_phrase) == (1, 6, "reason")


def test_tls_after_the_handshake_needs_no_other_buffer_than_that_of_1_rtt(joined: Path) -> None:
    message = source(tls.Context._handle_reassembled_message)
    begin = message.index("State.CLIENT_POST_HANDSHAKE")
    assert "output_buf" not in message[begin : message.index("# server states")], (
        "receive_crypto must offer more buffers"
    )
    list_of = list(inspect.signature(tls.Context.handle_message).parameters)
    assert list_of == ["self", "input_data", "output_buf"], "receive_crypto calls it otherwise"


# --- Tickets and early data -------------------------------------------------------------------------------------------


def test_a_ticket_is_made_of_a_message_and_extensions() -> None:
    assert list(inspect.signature(tls.Context._build_session_ticket).parameters) == [
        "self", "new_session_ticket", "other_extensions",
    ]  # fmt: skip
    assert MAX_EARLY_DATA == 0xFFFFFFFF, "RFC 9001 §4.6.1 knows one value"


def test_a_ticket_without_early_data_is_otherwise_the_same() -> None:
    ticket = tls.SessionTicket(
        age_add=1,
        cipher_suite=tls.CipherSuite.AES_128_GCM_SHA256,
        not_valid_after=tls.utcnow(),
        not_valid_before=tls.utcnow(),
        resumption_secret=b"secret",
        server_name="name",
        ticket=b"ticket",
        max_early_data_size=MAX_EARLY_DATA,
        other_extensions=[(57, b"parameters")],
    )
    assert without_early_data(ticket) == replace(ticket, max_early_data_size=None)


def test_the_transcript_of_a_ticket_is_whole_before_the_clients_finished() -> None:
    text = source(tls.Context._server_expect_finished)
    assert "self.key_schedule.update_hash(buf.data)" in text, "both ends derive other secrets"
    assert "update_hash" not in source(tls.Context._server_handle_finished)


def test_early_data_can_be_rejected_when_its_secret_comes_up() -> None:
    text = source(tls.Context._server_handle_hello)
    order = [
        "self.alpn_cb(",  # The protocol and our parameters are known.
        "self.get_session_ticket_cb(",
        "self.early_data_accepted = True",
        "Epoch.ZERO_RTT",
        "early_data=self.early_data_accepted",
    ]
    places = [text.index(each) for each in order]
    assert places == sorted(places), "what the server says of early data is not what its engine does"


def test_a_ticket_is_only_used_with_its_cipher_suite() -> None:
    text = source(tls.Context._server_handle_hello)
    assert "session_ticket.cipher_suite == cipher_suite" in text, "RFC 8446 §4.2.10"


def test_tickets_for_some_early_data_are_refused_by_aioquic() -> None:
    assert "max_early_data_size != MAX_EARLY_DATA" in source(QuicConnection._handle_session_ticket)


# --- Transport parameters and connection IDs --------------------------------------------------------------------------


def test_parameters_are_serialised_when_a_handshake_begins() -> None:
    text = source(QuicConnection._initialize)
    assert "self._serialize_transport_parameters()" in text, "extensions are not offered"
    assert text.index("self.tls.handshake_extensions = [") < text.index("from_session_ticket=True")


def test_what_is_appended_to_the_parameters_is_passed_over() -> None:
    parsed = pull_quic_transport_parameters(Buffer(data=encode_parameters({0x3E: b"\x04", 0x04: b"\x05"})))
    assert parsed.initial_max_data == 5, "aioquic trips over parameters that it does not know"


def test_the_parameters_that_aioquic_reads() -> None:
    assert set(PARAMS) == set(KNOWN) | {0x0C37}, "'unknown' parameters are not those that aioquic passes over"


def test_the_clients_limits_are_known_before_the_servers_key() -> None:
    text = source(tls.Context._server_handle_hello)
    assert text.index("self.alpn_cb(") < text.index("Epoch.HANDSHAKE"), "0.5-RTT data would not know its limits"


def test_our_connection_id_is_used_from_the_first_packet() -> None:
    path = join()
    (datagram,) = path.client.send(0.0)
    header = pull_quic_header(Buffer(data=datagram), host_cid_length=8)
    assert header.source_cid == client_of(path).host_cid, "packets carry a connection ID that nobody can route"
    assert header.destination_cid == client_of(path).original_destination_connection_id


def test_no_further_connection_ids_are_made(joined: Path) -> None:
    for end in ours_of(joined):
        assert len(end.handshaker._host_cids) == 1, "aioquic has made connection IDs that nobody issues"


def test_the_peers_number_tells_whether_it_was_heard() -> None:
    path = join()
    (hello,) = path.client.send(0.0)
    assert server_of(path)._peer_cid.sequence_number is None
    damaged = hello[:100] + bytes([hello[100] ^ 1]) + hello[101:]
    server_of(path).receive_datagram(damaged, CLIENT, 0.0)
    assert not server_of(path).is_heard, "whoever sends an Initial that cannot be read gets a session"
    server_of(path).receive_datagram(hello, CLIENT, 0.0)
    assert server_of(path).is_heard


# --- Datagrams, timers, the end ---------------------------------------------------------------------------------------


def test_initials_are_padded_to_our_size_and_not_to_the_configurations() -> None:
    configuration = client_setup()
    configuration.max_datagram_size = 1472
    path = join(client=configuration)
    assert [len(datagram) for datagram in path.client.send(0.0)] == [1200], "Initials do not pass every path"


def test_other_paths_are_not_probed_by_aioquic() -> None:
    text = source(QuicConnection.datagrams_to_send)
    begin = text.index("self._probe_preferred_address()")
    assert "self._remote_preferred_address is not None" in text[:begin], "a preferred address is probed some other way"
    assert "if probe_path.peer_cid is not None:" in text[begin:], (
        "aioquic probes paths without a connection ID of their own: AssertionError for want of keys"
    )


def test_a_pending_close_is_sent_once() -> None:
    text = source(QuicConnection.datagrams_to_send)
    assert text.index("if self._state in END_STATES:") < text.index("if self._close_pending:")
    assert "self._close_begin(is_initiator=True, now=now)" in text, "a close begins no closing period"
    assert QuicConnectionState.CLOSING in END_STATES
    assert "network_path.bytes_received" not in text[: text.index("else:")], (
        "aioquic counts closes itself now: ours need not ask for room first"
    )


def test_a_close_of_the_applications_hides_its_code_in_the_handshake() -> None:
    text = source(QuicConnection._write_connection_close_frame)
    assert "if frame_type is None and epoch in (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE):" in text
    assert "error_code = QuicErrorCode.APPLICATION_ERROR" in text, "an application's code is seen on the path"


def test_timers_are_not_asked_without_a_deadline() -> None:
    for method in (QuicConnection.get_timer, QuicConnection.handle_timer):
        assert "self._close_at" in source(method)
    assert "self._loss_at =" in source(QuicConnection.get_timer), "get_timer no longer sets what handle_timer looks at"
    assert "self._close_at = None" in source(QuicConnection._close_end)


def test_confirming_ends_the_handshake_packets(joined: Path) -> None:
    for end in ours_of(joined):
        handshaker = end.handshaker
        assert handshaker._handshake_confirmed
        for epoch in (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE):
            assert handshaker._spaces[epoch].discarded, "Finished is sent again for ever"
        assert handshaker._loss.bytes_in_flight == 0
        assert handshaker._loss.get_loss_detection_time(amplification_limited=False) is None


def test_a_discarded_handshaker_has_no_epochs_left_to_end() -> None:
    text = source(QuicConnection._close_end)
    assert "for epoch in self._spaces.keys():" in text, "a handshaker that never began cannot be forgotten"


def test_nothing_of_aioquics_answers_a_closing_connection() -> None:
    text = source(QuicConnection.receive_datagram)
    assert text.index("if self._state in END_STATES:") < text.index("_find_network_path"), (
        "datagrams to a closed connection are counted twice"
    )


def test_a_client_drops_what_comes_from_elsewhere() -> None:
    path = join()
    path.server.receive(path.client.send(0.0)[0], CLIENT, 0.0)
    for datagram in path.server.send(0.0):
        client_of(path).receive_datagram(datagram, "elsewhere", 0.0)
    assert not client_of(path).is_heard, "anybody who has seen a packet can answer for the server"
    assert client_of(path).active_route == SERVER


def test_parsers_raise_value_errors_only() -> None:
    for data in (b"", b"\xc0", b"\xc0\x00\x00\x00\x01\xff", b"\x00" * 30):
        with pytest.raises(ValueError):  # or walk() must catch more
            pull_quic_header(Buffer(data=data), host_cid_length=8)
