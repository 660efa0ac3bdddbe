"""Everything private of aioquic's that the guarded room leans on, one test for each, so that a new release says what
it breaks and not only that something is broken."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import aioquic
import pytest
from aioquic import tls
from aioquic.quic.congestion.cubic import CubicCongestionControl
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicPacketType
from aioquic.quic.packet_builder import QuicPacketBuilder, QuicSentPacket
from aioquic.quic.recovery import QuicPacketRecovery
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender

from quicsocks.userspace.quic import aioquic_internals
from quicsocks.userspace.quic.aioquic_internals import AIOQUIC_VERSION
from quicsocks.userspace.quic.aioquic_internals.connection import Connection
from quicsocks.userspace.quic.aioquic_internals.handshaker import Handshaker
from quicsocks.userspace.quic.aioquic_internals.sending import Pacer
from quicsocks.userspace.quic.aioquic_internals.streams import Receiver, Sender, Streams

from .dialled import Dialled, dial

ROOM = Path(aioquic_internals.__file__).parent

OVERRIDDEN = {
    "_handle_connection_close_frame": "who closed the connection is unknown, and End is wrong",
    "_handle_max_data_frame": "streams blocked by the session's credit never go on",
    "_handle_max_stream_data_frame": "streams blocked by their own credit never go on",
    "_initialize": "crypto profiles no longer limit groups and signatures",
    "_on_max_stream_data_delivery": "a lost MAX_STREAM_DATA is never sent again",
    "_parse_transport_parameters": "a peer's max_idle_timeout of 0 ends connections at once",
    "_replenish_connection_ids": "connection IDs lose their layout and their reset tokens",
    "_unblock_streams": "streams past the peer's limit never go on",
    "_update_traffic_key": "pins are not checked, and there is no exporter",
    "_write_application": "nothing of ours is sent, or streams are served without priority",
    "_write_connection_limits": "the session's window grows on receipt: backpressure is lost",
    "_write_stream_limits": "a stream's window grows on receipt: backpressure is lost",
}
OVERRIDDEN_BY_HANDSHAKER = {
    "_handle_ack_frame": "packets that were never sent can be acknowledged",
    "_handle_connection_close_frame": "who closed the connection is unknown, and End is wrong",
    "_initialize": "crypto profiles no longer limit groups and signatures",
    "_parse_transport_parameters": "the engine does not know what the peer allows",
    "_probe_preferred_address": "aioquic probes the server's preferred address without keys",
    "_push_crypto_data": "session tickets are never sent",
    "_replenish_connection_ids": "aioquic makes connection IDs that nobody issues",
    "_serialize_transport_parameters": "extensions cannot be offered",
    "_update_traffic_key": "aioquic writes and reads 1-RTT packets, and the engine has no keys",
    "_write_application": "aioquic would try to write 1-RTT packets",
}
CALLED = {
    "_close_begin": "a close that may not be sent does not end the connection",
    "_close_end": "a reset connection is not forgotten",
    "_confirm_handshake": "a client resends its Finished for ever",
    "_flush_builder": "probes for larger datagrams cannot be sent",
    "_get_or_create_stream_for_send": "streams cannot be opened",
    "_idle_timeout": "a handshake that is complete and not confirmed ends at once",
    "_on_connection_limit_delivery": "a lost MAX_DATA or MAX_STREAMS is never sent again",
    "_set_state": "a handshake that never began cannot be forgotten",
    "_stream_limit": "the limit on streams is never renewed",
    "_write_ack_frame": "nothing is acknowledged",
    "_write_crypto_frame": "TLS cannot speak after the handshake",
    "_write_datagram_frame": "no DATAGRAM is sent",
    "_write_handshake_done_frame": "the handshake is never confirmed",
    "_write_new_connection_id_frame": "the peer gets no further connection IDs",
    "_write_path_challenge_frame": "a moved peer is never validated",
    "_write_path_response_frame": "we are never validated after moving",
    "_write_ping_frame": "no keepalive and no probe",
    "_write_reset_stream_frame": "no RESET_STREAM is sent",
    "_write_retire_connection_id_frame": "connection IDs are never retired",
    "_write_stop_sending_frame": "no STOP_SENDING is sent",
    "_write_stream_frame": "no stream data is sent",
    "_write_streams_blocked_frame": "a peer does not learn that we wait for MAX_STREAMS",
}
CONNECTION_ATTRIBUTES = {
    "_close_at": "timers",
    "_close_event": "the reason of an end",
    "_close_pending": "the amplification limit of a close",
    "_configuration": "the key log",
    "_crypto_buffers": "TLS after the handshake",
    "_crypto_streams": "TLS after the handshake",
    "_cryptos": "the keys of 1-RTT packets",
    "_cryptos_initial": "freeing what only the handshake needed, and Initials of the negotiated version",
    "_datagrams_pending": "the queue of DATAGRAMs",
    "_events": "our own events",
    "_handshake_complete": "when frames may be sent",
    "_handshake_confirmed": "when to probe for larger datagrams",
    "_handshake_done_pending": "HANDSHAKE_DONE",
    "_host_cid_seq": "the numbers of connection IDs",
    "_host_cids": "connection IDs of ours",
    "_is_client": "which end we are",
    "_local_initial_source_connection_id": "a connection ID of ours from the first packet on",
    "_local_max_data": "the session's window",
    "_local_max_streams_bidi": "the limit on streams",
    "_local_max_streams_uni": "the limit on one-way streams",
    "_local_next_stream_id_bidi": "how many streams can be opened",
    "_local_next_stream_id_uni": "how many one-way streams can be opened",
    "_loss": "RTT, congestion window and pacing",
    "_max_datagram_size": "the size of datagrams",
    "_network_paths": "where the peer is",
    "_packet_number": "probes for larger datagrams, and which packets were sent",
    "_pacing_at": "the pacing timer",
    "_peer_cid": "the peer's reset token",
    "_ping_pending": "keepalive",
    "_probe_pending": "probe timeouts",
    "_remote_ack_delay_exponent": "the peer's ACK delay",
    "_remote_active_connection_id_limit": "how many connection IDs the peer takes",
    "_remote_max_data": "the peer's window",
    "_remote_max_data_used": "the peer's window",
    "_remote_max_datagram_frame_size": "the largest DATAGRAM",
    "_remote_max_idle_timeout": "the idle timeout",
    "_remote_max_streams_bidi": "how many streams can be opened",
    "_remote_preferred_address": "not probing the server's preferred address with aioquic's own packets",
    "_remote_max_streams_uni": "how many one-way streams can be opened",
    "_retire_connection_ids": "RETIRE_CONNECTION_ID",
    "_spaces": "ACKs, and when the peer was heard last",
    "_spin_bit": "probes for larger datagrams",
    "_state": "whether the connection lives",
    "_streams": "adopting streams",
    "_streams_blocked_bidi": "streams past the peer's limit",
    "_streams_blocked_pending": "STREAMS_BLOCKED",
    "_streams_blocked_uni": "one-way streams past the peer's limit",
    "_streams_queue": "aioquic's own queue, which is emptied",
    "_version": "probes for larger datagrams",
}
LOSS_ATTRIBUTES = {
    "_cc": "the count of lost packets",
    "_pacer": "pacing",
    "_pto_count": "noticing that a path has narrowed",
    "_rtt_initialized": "statistics",
    "_rtt_min": "statistics",
    "_rtt_smoothed": "statistics",
}
TLS_ATTRIBUTES = {
    "_peer_certificate": "pins",
    "_signature_algorithms": "crypto profiles",
    "_supported_groups": "crypto profiles",
}
SENDER_ATTRIBUTES = {
    "_buffer": "forgetting what a reset stream has buffered",
    "_buffer_stop": "backpressure",
    "_pending": "knowing what is left to send",
    "_pending_eof": "knowing that a FIN is left to send",
    "_reset_error_code": "knowing that a stream was reset",
}
RECEIVER_ATTRIBUTES = {"_final_size": "not raising the window of a stream that has ended"}
BUILDER_ATTRIBUTES = {"_packet": "keeping probes out of congestion control"}


@pytest.fixture(scope="module")
def joined() -> Dialled:
    return dial().complete()


def expect(thing: object, name: str, what: str) -> None:
    assert hasattr(thing, name), f"aioquic's {type(thing).__name__} has no {name} any more; without it: {what}"


def test_exactly_this_release() -> None:
    assert aioquic.__version__ == AIOQUIC_VERSION


@pytest.mark.parametrize("name", sorted(OVERRIDDEN | OVERRIDDEN_BY_HANDSHAKER | CALLED))
def test_methods(name: str) -> None:
    what = (OVERRIDDEN | OVERRIDDEN_BY_HANDSHAKER | CALLED)[name]
    assert callable(getattr(QuicConnection, name, None)), f"QuicConnection.{name} is gone; without it: {what}"


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Connection, name) for name in sorted(OVERRIDDEN)]
    + [(Handshaker, name) for name in sorted(OVERRIDDEN_BY_HANDSHAKER)],
)
def test_overridden_methods_take_the_same_arguments(kind: type[QuicConnection], name: str) -> None:
    what = (OVERRIDDEN | OVERRIDDEN_BY_HANDSHAKER)[name]
    theirs = list(inspect.signature(getattr(QuicConnection, name)).parameters)
    ours = list(inspect.signature(getattr(kind, name)).parameters)
    assert getattr(kind, name) is not getattr(QuicConnection, name)
    assert ours == theirs, f"{name} takes other arguments now; without it: {what}"
    assert any(
        f"self.{name}" in inspect.getsource(value)
        for attribute, value in vars(QuicConnection).items()
        if inspect.isfunction(value) and attribute != name
    ), f"aioquic does not call {name} any more; without it: {what}"


@pytest.mark.parametrize("name", sorted(CONNECTION_ATTRIBUTES))
def test_attributes_of_connections(name: str, joined: Dialled) -> None:
    expect(joined.engine.connection, name, CONNECTION_ATTRIBUTES[name])
    assert f"self.{name}" in inspect.getsource(QuicConnection), f"aioquic does not use {name} any more"


@pytest.mark.parametrize("name", sorted(LOSS_ATTRIBUTES))
def test_attributes_of_recovery(name: str, joined: Dialled) -> None:
    expect(joined.engine.connection._loss, name, LOSS_ATTRIBUTES[name])
    assert f"self.{name}" in inspect.getsource(QuicPacketRecovery), f"aioquic does not use {name} any more"


@pytest.mark.parametrize("name", sorted(TLS_ATTRIBUTES))
def test_attributes_of_tls(name: str, joined: Dialled) -> None:
    expect(joined.engine.connection.tls, name, TLS_ATTRIBUTES[name])
    assert f"self.{name}" in inspect.getsource(tls.Context), f"aioquic does not use {name} any more"


@pytest.mark.parametrize("name", sorted(SENDER_ATTRIBUTES))
def test_attributes_of_senders(name: str) -> None:
    expect(QuicStreamSender(0, True), name, SENDER_ATTRIBUTES[name])


@pytest.mark.parametrize("name", sorted(RECEIVER_ATTRIBUTES))
def test_attributes_of_receivers(name: str) -> None:
    expect(QuicStreamReceiver(0, True), name, RECEIVER_ATTRIBUTES[name])


@pytest.mark.parametrize("name", sorted(BUILDER_ATTRIBUTES))
def test_attributes_of_builders(name: str) -> None:
    builder = QuicPacketBuilder(host_cid=b"", peer_cid=b"", version=1, is_client=True, max_datagram_size=1200)
    expect(builder, name, BUILDER_ATTRIBUTES[name])


def test_the_lists_above_are_complete() -> None:
    """Every private name in the room's source is in one of the lists, or is the room's own."""
    source = "\n".join(path.read_text() for path in sorted(ROOM.glob("*.py")))
    named = set(re.findall(r"\.(_[a-z][a-z_0-9]*)", source)) | set(re.findall(r"def (_[a-z][a-z_0-9]*)", source))
    named |= set(re.findall(r"self\.(_[a-z][a-z_0-9]*)", source))
    listed: set[str] = set()
    for names in (
        OVERRIDDEN,
        OVERRIDDEN_BY_HANDSHAKER,
        CALLED,
        CONNECTION_ATTRIBUTES,
        LOSS_ATTRIBUTES,
        TLS_ATTRIBUTES,
        SENDER_ATTRIBUTES,
        RECEIVER_ATTRIBUTES,
        BUILDER_ATTRIBUTES,
    ):
        listed |= set(names)
    theirs = {name for kind in (QuicConnection, QuicPacketRecovery, QuicStream) for name in _private_names(kind)}
    assert not (named & theirs) - listed, "leaned on, but without a test of its own"


def _private_names(kind: type[Any]) -> set[str]:
    return set(re.findall(r"\b(_[a-z][a-z_0-9]*)", inspect.getsource(kind)))


def test_nobody_else_touches_private_names() -> None:
    """Outside of the room, no private name of aioquic's is used on an engine's object."""
    allowed = _private_names(Sender) | _private_names(Receiver)
    pattern = re.compile(r"(?:connection|sender|receiver|stream|tls|_loss)\.(_[a-z][a-z_0-9]*)")
    for path in sorted(ROOM.parent.glob("*.py")):
        found = {
            match
            for match in pattern.findall(path.read_text())
            if match in CONNECTION_ATTRIBUTES or match in OVERRIDDEN or match in CALLED
        }
        assert not found - allowed, f"{path.name} reaches into aioquic"


# --- What they do, where the name alone says too little ---------------------------------------------------------------


def test_streams_are_adopted_through_the_table(joined: Dialled) -> None:
    connection = joined.engine.connection
    assert type(connection._streams) is Streams
    for stream in (
        connection._get_or_create_stream_for_send(connection.get_next_available_stream_id()),
        joined.server_engine.connection._get_or_create_stream(8, 40),
    ):
        assert type(stream.sender) is Sender, "streams keep aioquic's own senders: nothing they write is ever sent"
        assert type(stream.receiver) is Receiver


def test_the_pacer_is_the_one_that_recovery_asks(joined: Dialled) -> None:
    assert type(joined.engine.connection._loss._pacer) is Pacer
    assert "self._pacer.update_rate" in inspect.getsource(QuicPacketRecovery)


def test_stop_sending_is_answered_by_resetting_the_sender() -> None:
    source = inspect.getsource(QuicConnection._handle_stop_sending_frame)
    assert "stream.sender.reset(" in source, "the handler's answer to STOP_SENDING may come twice, or never"


def test_the_datagram_size_is_read_for_every_packet() -> None:
    source = inspect.getsource(QuicConnection.datagrams_to_send)
    assert "max_datagram_size=self._max_datagram_size" in source, "Initials are padded to more than 1200 octets"


def test_frames_are_dispatched_to_overrides(joined: Dialled) -> None:
    handlers = joined.engine.connection._QuicConnection__frame_handlers  # type: ignore[attr-defined] # mangled
    assert handlers[0x10][0].__func__ is type(joined.engine.connection)._handle_max_data_frame
    assert handlers[0x1C][0].__func__ is type(joined.engine.connection)._handle_connection_close_frame


def test_the_leaf_is_known_before_any_1_rtt_key_is_installed() -> None:
    source = inspect.getsource(tls.Context._client_handle_finished)
    assert source.index("Direction.DECRYPT, Epoch.ONE_RTT") < source.index("push_finished")
    verify = inspect.getsource(tls.Context._client_handle_certificate_verify)
    checked = verify.index("self._check_certificate_verify_signature(verify)")
    assert checked < verify.index("if self._verify_mode"), "with a pin, a server need not hold the key it shows"


def test_large_packets_lost_while_small_ones_pass_tell_of_a_narrower_path() -> None:
    """RFC 8899 §4.3; probe timeouts do not add up then."""
    dialled = dial(engines=("aioquic", "aioquic")).complete()
    pair, client = dialled.pair, dialled.client
    pair.pass_time(3.0)
    size = client.max_datagram_size
    assert size > 1250

    def lose(count: int) -> None:
        packets = [QuicSentPacket(tls.Epoch.ONE_RTT, True, True, False, 1, QuicPacketType.ONE_RTT, 0.0, 1400)] * count
        controller = dialled.engine.connection.congestion_controller
        assert isinstance(controller, CubicCongestionControl)
        controller.on_packets_lost(now=pair.now, packets=packets)

    # Six at once may be a full queue; and one that arrives is proof of the contrary.
    lose(6)
    client.probe()
    pair.pass_time(0.1)
    assert client.max_datagram_size == size
    client.open_stream().write(bytes(10_000))
    pair.pass_time(2.0)
    lose(1)
    client.probe()
    pair.pass_time(2.0)
    assert client.max_datagram_size == size
    lose(5)
    client.probe()
    pair.pass_time(0.1)
    assert client.max_datagram_size < 1200
