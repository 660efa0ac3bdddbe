"""aioquic's handshake without its application data: Initial and Handshake packets, Retry, version negotiation, TLS and
transport parameters.

The keys of 0-RTT and 1-RTT packets are withheld from aioquic and handed out, so that it can neither read nor write in the
application-data packet space, which is the native engine's. Read aioquic.quic.connection and RFC 9001 first. Part of the
guarded room; see ``__init__``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from aioquic import tls
from aioquic.buffer import Buffer, BufferReadError, BufferWriteError  # type: ignore[attr-defined] # re-exported silently
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    SECRETS_LABELS,
    QuicConnection,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.packet import (
    QuicErrorCode,
    QuicFrameType,
    QuicPacketType,
    pull_quic_header,
    pull_quic_transport_parameters,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from cryptography import x509

from ..errors import PeerError
from ..exporter import Exporter
from .connection import ClosedBy, shorten
from .sending import SMALLEST_DATAGRAM

logger = logging.getLogger(__name__)

KINDS = {
    QuicPacketType.INITIAL: "initial",
    QuicPacketType.ZERO_RTT: "zero_rtt",
    QuicPacketType.HANDSHAKE: "handshake",
    QuicPacketType.RETRY: "retry",
    QuicPacketType.VERSION_NEGOTIATION: "version",
    QuicPacketType.ONE_RTT: "one_rtt",
}
LONGEST_ACK_DELAY = 0.025
KNOWN_PARAMETERS = frozenset((*range(0x11), 0x11, 0x20))


@dataclass(frozen=True, slots=True)
class Secret:
    """A traffic secret of the application-data space. encrypt: of our direction. early: for 0-RTT packets.
    suite: TLS code of the cipher suite. version: the QUIC version whose labels apply."""

    encrypt: bool
    early: bool
    suite: int
    secret: bytes
    version: int


@dataclass(frozen=True, slots=True)
class PeerParameters:
    """The peer's transport parameters (RFC 9000 §18.2), absent ones as their defaults. Times in s."""

    initial_max_data: int = 0
    initial_max_stream_data_bidi_local: int = 0
    initial_max_stream_data_bidi_remote: int = 0
    initial_max_stream_data_uni: int = 0
    initial_max_streams_bidi: int = 0
    initial_max_streams_uni: int = 0
    ack_delay_exponent: int = 3
    max_ack_delay: float = LONGEST_ACK_DELAY
    active_connection_id_limit: int = 2
    max_idle_timeout: float = 0.0
    max_udp_payload_size: int = 65527
    max_datagram_frame_size: int = 0
    disable_active_migration: bool = False
    stateless_reset_token: bytes | None = None
    unknown: Mapping[int, bytes] = field(default_factory=dict)


class Handshaker(QuicConnection):
    """Arguments as ``Connection``'s. extra_parameters: transport parameters to send beside aioquic's, by ID."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        new_cid: Callable[[], bytes],
        reset_token: Callable[[bytes], bytes],
        verify_peer: Callable[[x509.Certificate], None] | None,
        groups: tuple[tls.Group, ...],
        signature_algorithms: tuple[tls.SignatureAlgorithm, ...],
        max_streams: tuple[int, int],
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
        extra_parameters: Mapping[int, bytes] | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._verify_peer = verify_peer
        self._groups = groups
        self._signature_algorithms = signature_algorithms
        self._extra_parameters = dict(extra_parameters or {})
        self._secrets: list[Secret] = []
        self._crypto_to_send = b""
        self._detached = False
        self.exporter: Exporter | None = None
        self.closed_by: ClosedBy | None = None
        self.peer_parameters: PeerParameters | None = None

        own = self._host_cids[0]
        own.cid = self.host_cid = self._local_initial_source_connection_id = new_cid()
        if not self._is_client:
            own.stateless_reset_token = reset_token(own.cid)
        for limit, value in zip((self._local_max_streams_bidi, self._local_max_streams_uni), max_streams, strict=True):
            limit.value = limit.sent = value
        # Initials are padded to this; larger datagrams are the engine's to probe for.
        self._max_datagram_size = SMALLEST_DATAGRAM

    # What has come of it.

    @property
    def is_heard(self) -> bool:
        """Whether a packet of the peer's has been authenticated."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def is_complete(self) -> bool:
        """TLS is done here (RFC 9001 §4.1.1)."""
        return self._handshake_complete

    @property
    def is_closing(self) -> bool:
        return self._close_event is not None or self._state in END_STATES

    @property
    def is_terminated(self) -> bool:
        return self._state is QuicConnectionState.TERMINATED

    @property
    def close_event(self) -> events.ConnectionTerminated | None:
        return self._close_event

    @property
    def alpn(self) -> str:
        return self.tls.alpn_negotiated or ""

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        return self.tls._peer_certificate

    @property
    def early_data_accepted(self) -> bool:
        return self.tls.early_data_accepted

    @property
    def peer_cid(self) -> bytes:
        """What the peer is addressed by; it changes with a Retry and with the peer's first packet."""
        return self._peer_cid.cid

    @property
    def active_route(self) -> Any:
        """Where the peer is. There must have been a datagram, or ``connect``."""
        return self._network_paths[0].addr

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time, s; None before there is a sample."""
        return self._loss._rtt_smoothed if self._loss._rtt_initialized else None

    def take_secrets(self) -> list[Secret]:
        """Those that have come up since the last call, in order."""
        secrets, self._secrets = self._secrets, []
        return secrets

    # TLS behind the handshake.

    def take_crypto(self) -> bytes:
        """What TLS wants to send in 1-RTT CRYPTO frames."""
        data, self._crypto_to_send = self._crypto_to_send, b""
        return data

    def receive_crypto(self, data: bytes) -> None:
        """TLS messages from 1-RTT CRYPTO frames, in order. Raises PeerError."""
        output = {tls.Epoch.ONE_RTT: Buffer(capacity=4096)}
        try:
            self.tls.handle_message(data, output)
        except tls.Alert as alert:
            raise PeerError(str(alert), QuicErrorCode.CRYPTO_ERROR + int(alert.description)) from None
        except (BufferReadError, BufferWriteError):
            raise PeerError("a TLS message that makes no sense", QuicErrorCode.PROTOCOL_VIOLATION) from None

    def handshake_done_received(self) -> None:
        """On a client: the handshake is confirmed."""
        if not self._handshake_confirmed:
            self._confirm_handshake()

    def detach(self) -> None:
        """The handshake is confirmed: free what only it needed. Afterwards only TLS, and what has come of it, works."""
        if self._detached:
            return
        self._detached = True
        self._loss.spaces = []
        self._spaces = {}
        self._cryptos, self._cryptos_initial = {}, {}
        self._crypto_streams, self._crypto_buffers = {}, {}
        self._events.clear()
        self._network_paths = self._network_paths[:1]

    # Ending.

    def close_by_application(self, code: int, reason: str) -> None:
        if self._close_event is None:
            self.closed_by = ClosedBy.APPLICATION
            super().close(code, None, shorten(reason))

    def close_by_engine(self, code: int, reason: str) -> None:
        self.close(code, QuicFrameType.PADDING, reason)

    def discard(self) -> None:
        """Forget everything at once and send nothing more."""
        if self._state is not QuicConnectionState.TERMINATED:
            if self._close_event is None:
                self._close_event = events.ConnectionTerminated(QuicErrorCode.NO_ERROR, None, "")
            if self._network_paths and hasattr(self, "_spaces"):
                self._close_end()
            else:
                self._close_at = None
                self._set_state(QuicConnectionState.TERMINATED)

    # aioquic's public methods.

    def close(
        self, error_code: int = QuicErrorCode.NO_ERROR, frame_type: int | None = None, reason_phrase: str = ""
    ) -> None:
        """Called by aioquic itself when the peer breaks the protocol."""
        if self._close_event is None and self.closed_by is None:
            self.closed_by = ClosedBy.ENGINE
        # A close without a frame type would go out as one of the application's.
        super().close(error_code, frame_type or QuicFrameType.PADDING, shorten(reason_phrase))

    def receive_datagram(self, data: bytes, addr: Any, now: float) -> None:
        """Only datagrams that begin with a long header, whole: what is coalesced behind counts for the size of Initials and
        for anti-amplification, and is otherwise passed over for want of keys."""
        try:
            super().receive_datagram(data, addr, now)
        except Exception:
            # aioquic answers for what the RFCs name; whatever else a peer may cause is an end, too, and a quiet one.
            logger.debug("aioquic failed on a datagram", exc_info=True)
            self.close_by_engine(QuicErrorCode.INTERNAL_ERROR, "the handshake failed")

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        if not self._network_paths or self._state in END_STATES or not hasattr(self, "_cryptos"):
            return []
        if self._close_pending and not self._network_paths[0].can_send(SMALLEST_DATAGRAM):
            # RFC 9000 §8.1 holds for CONNECTION_CLOSE too, which aioquic does not count.
            self._close_pending = False
            self._close_begin(is_initiator=True, now=now)
            return []
        try:
            return super().datagrams_to_send(now)
        except BufferWriteError:
            # A certificate chain larger than aioquic's buffer.
            self.close_by_engine(QuicErrorCode.INTERNAL_ERROR, "the handshake is too large")
            return []

    def get_timer(self) -> float | None:
        return None if self._close_at is None or self._detached else super().get_timer()

    def handle_timer(self, now: float) -> None:
        if self._close_at is None or self._detached:
            return
        if now >= self._close_at and self._close_event is None:
            if self._handshake_complete:
                # Packets of the application-data space are what keeps it alive, and the engine sees to those.
                self._close_at = now + self._idle_timeout()
                return
            self.closed_by = ClosedBy.TIMEOUT
        super().handle_timer(now)
        if self._close_event is not None and self.closed_by is None:
            self.closed_by = ClosedBy.NO_PATH

    # Overridden: what happens inside.

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self.tls._supported_groups = list(self._groups)
        self.tls._signature_algorithms = list(self._signature_algorithms)

    def _update_traffic_key(
        self, direction: tls.Direction, epoch: tls.Epoch, cipher_suite: tls.CipherSuite, secret: bytes
    ) -> None:
        if epoch not in (tls.Epoch.ZERO_RTT, tls.Epoch.ONE_RTT):
            super()._update_traffic_key(direction, epoch, cipher_suite, secret)
            return
        # Both ends get the server's 1-RTT secret exactly when the transcript is ClientHello to server Finished.
        own = tls.Direction.DECRYPT if self._is_client else tls.Direction.ENCRYPT
        log = self._configuration.secrets_log_file
        if epoch is tls.Epoch.ONE_RTT and direction is own:
            if self._is_client and self._verify_peer is not None:
                assert self.tls._peer_certificate is not None
                self._verify_peer(self.tls._peer_certificate)
            schedule = self.tls.key_schedule
            assert schedule is not None
            self.exporter = Exporter(schedule.derive_secret(b"exp master"), schedule.algorithm)
            if log is not None:
                log.write(f"EXPORTER_SECRET {self.tls.client_random.hex()} {self.exporter.secret.hex()}\n")
        if log is not None:
            label = SECRETS_LABELS[self._is_client == (direction is tls.Direction.DECRYPT)][epoch.value]
            log.write(f"{label} {self.tls.client_random.hex()} {secret.hex()}\n")
            log.flush()
        assert self._version is not None
        self._secrets.append(
            Secret(
                direction is tls.Direction.ENCRYPT,
                epoch is tls.Epoch.ZERO_RTT,
                int(cipher_suite),
                secret,
                int(self._version),
            )
        )

    def _push_crypto_data(self) -> None:
        buffer = self._crypto_buffers[tls.Epoch.ONE_RTT]
        self._crypto_to_send += buffer.data
        buffer.seek(0)
        super()._push_crypto_data()

    def _write_application(self, builder: QuicPacketBuilder, network_path: Any, now: float) -> None:
        pass

    def _replenish_connection_ids(self) -> None:
        pass

    def _probe_preferred_address(self) -> None:
        self._remote_preferred_address = None

    def _serialize_transport_parameters(self) -> bytes:
        data = super()._serialize_transport_parameters()
        if self._extra_parameters:
            buffer = Buffer(capacity=4096)
            for identifier, value in self._extra_parameters.items():
                buffer.push_uint_var(identifier)
                buffer.push_uint_var(len(value))
                buffer.push_bytes(value)
            data += buffer.data
        return data

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        super()._parse_transport_parameters(data, from_session_ticket)
        parsed = pull_quic_transport_parameters(Buffer(data=data))
        if not parsed.max_idle_timeout:
            self._remote_max_idle_timeout = None  # RFC 9000 §10.1: 0 or absent is no limit.
        self.peer_parameters = PeerParameters(
            initial_max_data=parsed.initial_max_data or 0,
            initial_max_stream_data_bidi_local=parsed.initial_max_stream_data_bidi_local or 0,
            initial_max_stream_data_bidi_remote=parsed.initial_max_stream_data_bidi_remote or 0,
            initial_max_stream_data_uni=parsed.initial_max_stream_data_uni or 0,
            initial_max_streams_bidi=parsed.initial_max_streams_bidi or 0,
            initial_max_streams_uni=parsed.initial_max_streams_uni or 0,
            ack_delay_exponent=3 if parsed.ack_delay_exponent is None else parsed.ack_delay_exponent,
            max_ack_delay=LONGEST_ACK_DELAY if parsed.max_ack_delay is None else parsed.max_ack_delay / 1000,
            active_connection_id_limit=parsed.active_connection_id_limit or 2,
            max_idle_timeout=(parsed.max_idle_timeout or 0) / 1000,
            max_udp_payload_size=parsed.max_udp_payload_size or 65527,
            max_datagram_frame_size=parsed.max_datagram_frame_size or 0,
            disable_active_migration=bool(parsed.disable_active_migration),
            stateless_reset_token=parsed.stateless_reset_token,
            unknown=_unknown_parameters(data),
        )

    def _handle_connection_close_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_connection_close_frame(context, frame_type, buf)
        if self.closed_by is None:
            application = frame_type == QuicFrameType.APPLICATION_CLOSE
            self.closed_by = ClosedBy.PEER_APPLICATION if application else ClosedBy.PEER_ENGINE


def _unknown_parameters(data: bytes) -> dict[int, bytes]:
    """Those that aioquic passes over."""
    buffer, found = Buffer(data=data), {}
    while not buffer.eof():
        identifier = buffer.pull_uint_var()
        value = buffer.pull_bytes(buffer.pull_uint_var())
        if identifier not in KNOWN_PARAMETERS:
            found[identifier] = value
    return found


def walk(data: bytes, cid_length: int) -> Iterator[tuple[str, int, int]]:
    """The packets of a datagram: kind (of ``KINDS``), start, end. Stops at what cannot be read."""
    at = 0
    while at < len(data):
        buffer = Buffer(data=data[at:])
        try:
            header = pull_quic_header(buffer, host_cid_length=cid_length)
        except ValueError:
            return
        end = at + header.packet_length
        if header.packet_length <= 0 or end > len(data):
            return
        yield KINDS[header.packet_type], at, end
        at = end
