"""aioquic's handshake without its application data: Initial and Handshake packets, Retry, version negotiation, TLS and
transport parameters.

The keys of 0-RTT and 1-RTT packets are withheld from aioquic and handed out, so that it can neither read nor write in the
application-data packet space, which is the native engine's. Read aioquic.quic.connection and RFC 9001 first. Part of the
guarded room; see ``__init__``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aioquic import tls
from aioquic.buffer import Buffer  # type: ignore[attr-defined] # re-exported silently
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    END_STATES,
    SECRETS_LABELS,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicPacketType, pull_quic_header
from aioquic.quic.packet_builder import QuicPacketBuilder
from cryptography import x509

from ..errors import PeerError
from ..exporter import Exporter
from .common import SMALLEST_DATAGRAM, ClosedBy, shorten, use_negotiated_version
from .handshaker_parameters import PeerParameters, encode_parameters, parse_parameters
from .tickets import make_ticket

logger = logging.getLogger(__name__)

KINDS = {
    QuicPacketType.INITIAL: "initial",
    QuicPacketType.ZERO_RTT: "zero_rtt",
    QuicPacketType.HANDSHAKE: "handshake",
    QuicPacketType.RETRY: "retry",
    QuicPacketType.VERSION_NEGOTIATION: "version",
    QuicPacketType.ONE_RTT: "one_rtt",
}
MOST_TLS = 1 << 17
"""Octets of a TLS message of which a part is yet to come; RFC 8446 allows 16 MiB. OpenSSL takes certificates of 100 KiB."""

_BUFFERS = {epoch: Buffer(capacity=16384) for epoch in (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE, tls.Epoch.ONE_RTT)}
"""Where TLS writes, of aioquic's size. They are emptied before a call of ours returns, so that one set serves all
handshakes; with its own, each would hold 48 KiB for as long as it is half-open."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A traffic secret of the application-data space. encrypt: of our direction. early: for 0-RTT packets.
    suite: TLS code of the cipher suite. version: the QUIC version whose labels apply."""

    encrypt: bool
    early: bool
    suite: int
    secret: bytes
    version: int


class Handshaker(QuicConnection):
    """Arguments as ``Connection``'s and aioquic's. extra_parameters: transport parameters to send beside aioquic's, by ID.
    remembered_certificate: the server's of the session that a client resumes. accepts_early_data: asked on a server when
    a client resumes a session and offers early data; None: never."""

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
        session_ticket_fetcher: tls.SessionTicketFetcher | None = None,
        session_ticket_handler: tls.SessionTicketHandler | None = None,
        remembered_certificate: x509.Certificate | None = None,
        accepts_early_data: Callable[[], bool] | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
            session_ticket_fetcher=session_ticket_fetcher,
            session_ticket_handler=session_ticket_handler,
        )
        self._verify_peer = verify_peer
        self._groups = groups
        self._signature_algorithms = signature_algorithms
        self._extra_parameters = dict(extra_parameters or {})
        self._remembered_certificate = remembered_certificate
        self._accepts_early_data = accepts_early_data
        self._secrets: list[Secret] = []
        self._crypto_to_send = b""
        self._detached = False
        self._close_datagrams: list[tuple[bytes, Any]] = []
        self._heard_since_close = 0
        self._close_wanted = False
        self.exporter: Exporter | None = None
        self.closed_by: ClosedBy | None = None
        self.peer_parameters: PeerParameters | None = None
        """A client that resumes a session has those of its ticket until the server's have come."""
        self.local_parameters: PeerParameters | None = None
        """Our own, as sent; from the first packet on."""

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
        return self._peer_cid.sequence_number is not None

    @property
    def is_complete(self) -> bool:
        """TLS is done here (RFC 9001 §4.1.1)."""
        return self._handshake_complete

    @property
    def is_confirmed(self) -> bool:
        """RFC 9001 §4.1.2."""
        return self._handshake_confirmed

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
    def version(self) -> int | None:
        """The QUIC version in use; it is the negotiated one from the first Handshake packet on."""
        return int(self._version) if self._version is not None else None

    @property
    def alpn(self) -> str:
        return (self._has_begun and self.tls.alpn_negotiated) or ""

    @property
    def peer_certificate(self) -> x509.Certificate | None:
        """Of a session that is resumed: the one that was verified when it began."""
        if self.is_resumed:
            return self._remembered_certificate
        return self.tls._peer_certificate if self._has_begun else None

    @property
    def is_resumed(self) -> bool:
        """Both ends have agreed on the ticket."""
        return self._has_begun and self.tls._session_resumed

    @property
    def early_data_accepted(self) -> bool:
        return self._has_begun and self.tls.early_data_accepted

    @property
    def original_cid(self) -> bytes:
        """The Destination Connection ID of the client's first Initial: how both ends name the connection in logs."""
        return self.original_destination_connection_id

    @property
    def peer_cid(self) -> bytes:
        """What the peer is addressed by; it changes with a Retry and with the peer's first packet."""
        return self._peer_cid.cid

    @property
    def peer_reset_tokens(self) -> list[bytes]:
        """Of the peer's connection ID that we use (RFC 9000 §10.3.1)."""
        return [token for token in (self._peer_cid.stateless_reset_token,) if token]

    @property
    def active_route(self) -> Any:
        """Where the peer is. There must have been a datagram, or ``connect``."""
        return self._network_paths[0].addr

    @property
    def rtt(self) -> float | None:
        """Smoothed round-trip time, s; None before there is a sample."""
        return self._loss._rtt_smoothed if self._loss._rtt_initialized else None

    # The engine's share in the path, as long as the handshake is what validates it (RFC 9000 §8.1).

    @property
    def path_validated(self) -> bool:
        return bool(self._network_paths) and self._network_paths[0].is_validated

    def can_send(self, size: int) -> bool:
        """Whether so many octets may go to the peer's address now."""
        return bool(self._network_paths) and self._network_paths[0].can_send(size)

    def note_sent(self, size: int) -> None:
        """The engine has sent a datagram."""
        self._network_paths[0].bytes_sent += size

    def note_received(self, size: int) -> None:
        """The engine has received a datagram that ``receive_datagram`` has not seen, from the peer's address."""
        self._network_paths[0].bytes_received += size

    def note_one_rtt_acked(self) -> None:
        """A 1-RTT packet of a client has been acknowledged: its probes need no longer unblock the server
        (RFC 9002 §6.2.2.1)."""
        self._loss.peer_completed_address_validation = True

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
        except QuicConnectionError as error:
            raise PeerError(error.reason_phrase, error.error_code) from None
        except Exception:
            logger.debug("aioquic failed on a TLS message", exc_info=True)
            raise PeerError("a TLS message that makes no sense", QuicErrorCode.PROTOCOL_VIOLATION) from None
        if len(self.tls._receive_buffer) > MOST_TLS:
            raise PeerError("a TLS message without end", QuicErrorCode.CRYPTO_BUFFER_EXCEEDED)

    def issue_ticket(
        self, *, identity: bytes, nonce: bytes, age_add: int, lifetime: int, early_data: bool
    ) -> tls.SessionTicket | None:
        """On a server whose handshake is complete: see ``tickets``."""
        made = make_ticket(
            self.tls, identity=identity, nonce=nonce, age_add=age_add, lifetime=lifetime, early_data=early_data
        )
        if made is None:
            return None
        self._crypto_to_send += made[0]
        return made[1]

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
            self._close_end()

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
        if self._detached:
            return
        if self._close_datagrams:
            self._hear_while_closing(data, addr)
            return
        _rewind()
        try:
            super().receive_datagram(data, addr, now)
        except Exception:
            self._fail("a datagram")
        if self._has_begun and len(self.tls._receive_buffer) > MOST_TLS:
            self.close(QuicErrorCode.CRYPTO_BUFFER_EXCEEDED, QuicFrameType.CRYPTO, "a TLS message without end")

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, Any]]:
        """Initial and Handshake packets only."""
        if self._detached or self._state in END_STATES:
            return self._close_again()
        if not self._network_paths:
            if self._close_pending:
                self.discard()  # There is nobody to tell.
            return []
        if self._close_pending:
            return self._send_close(now)
        try:
            return super().datagrams_to_send(now)
        except Exception:
            self._fail("what it has to send")
            return self._send_close(now)

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
        try:
            super().handle_timer(now)
        except Exception:
            self._fail("a timer")
        if self._close_event is not None and self.closed_by is None:
            self.closed_by = ClosedBy.NO_PATH

    @property
    def _has_begun(self) -> bool:
        """There is a TLS context."""
        return hasattr(self, "tls")

    def _fail(self, what: str) -> None:
        """aioquic answers for what the RFCs name; whatever else a peer may cause is an end, too, and a quiet one."""
        logger.debug("aioquic failed on %s", what, exc_info=True)
        self.close_by_engine(QuicErrorCode.INTERNAL_ERROR, "the handshake failed")
        if not self._cryptos:
            self.discard()  # Before there were keys to say so with.

    def _send_close(self, now: float) -> list[tuple[bytes, Any]]:
        # RFC 9000 §8.1 holds for CONNECTION_CLOSE too, which aioquic does not count.
        if self.can_send(SMALLEST_DATAGRAM):
            try:
                self._close_datagrams = super().datagrams_to_send(now)
                return list(self._close_datagrams)
            except Exception:
                # The token of a Retry may leave no room for it.
                logger.debug("aioquic failed on a close", exc_info=True)
        self._close_pending = False
        self._close_begin(is_initiator=True, now=now)
        return []

    def _hear_while_closing(self, data: bytes, addr: Any) -> None:
        # RFC 9000 §10.2.1: the close is repeated to a peer that goes on sending, less and less often.
        path = self._network_paths[0]
        if addr != path.addr:
            return
        if not path.is_validated:
            path.bytes_received += len(data)
        self._heard_since_close += 1
        if self._heard_since_close & (self._heard_since_close - 1) == 0:
            self._close_wanted = True

    def _close_again(self) -> list[tuple[bytes, Any]]:
        if not self._close_wanted or self._state is not QuicConnectionState.CLOSING:
            return []
        self._close_wanted = False
        size = sum(len(data) for data, _ in self._close_datagrams)
        if not self.can_send(size):
            return []
        self.note_sent(size)
        return list(self._close_datagrams)

    # Overridden: what happens inside.

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        _rewind()
        self._crypto_buffers = _BUFFERS
        self.tls._supported_groups = list(self._groups)
        self.tls._signature_algorithms = list(self._signature_algorithms)

    def _update_traffic_key(
        self, direction: tls.Direction, epoch: tls.Epoch, cipher_suite: tls.CipherSuite, secret: bytes
    ) -> None:
        if epoch not in (tls.Epoch.ZERO_RTT, tls.Epoch.ONE_RTT):
            super()._update_traffic_key(direction, epoch, cipher_suite, secret)
            use_negotiated_version(self)
            return
        if epoch is tls.Epoch.ZERO_RTT and not self._takes_early_data():
            # EncryptedExtensions, which say so, come later. Early data that we do not accept has no keys here.
            self.tls.early_data_accepted = False
            return
        # Both ends get the server's 1-RTT secret exactly when the transcript is ClientHello to server Finished.
        own = tls.Direction.DECRYPT if self._is_client else tls.Direction.ENCRYPT
        log = self._configuration.secrets_log_file
        if epoch is tls.Epoch.ONE_RTT and direction is own:
            if self._is_client and self._verify_peer is not None:
                certificate = self.peer_certificate
                if certificate is None:
                    raise tls.AlertBadCertificate("a resumed session shows no certificate to verify")
                self._verify_peer(certificate)
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

    def _takes_early_data(self) -> bool:
        return self._is_client or (self._accepts_early_data is not None and self._accepts_early_data())

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
        data = super()._serialize_transport_parameters() + encode_parameters(self._extra_parameters)
        self.local_parameters = parse_parameters(data)
        return data

    def _parse_transport_parameters(self, data: bytes, from_session_ticket: bool = False) -> None:
        super()._parse_transport_parameters(data, from_session_ticket)
        try:
            self.peer_parameters = parse_parameters(data)
        except ValueError as error:
            raise QuicConnectionError(
                QuicErrorCode.TRANSPORT_PARAMETER_ERROR, QuicFrameType.CRYPTO, str(error)
            ) from None
        if self.peer_parameters.preferred_address is not None and not self._peer_cid.cid:
            # RFC 9000 §18.2; aioquic does not look.
            raise QuicConnectionError(
                QuicErrorCode.TRANSPORT_PARAMETER_ERROR,
                QuicFrameType.CRYPTO,
                "a preferred_address without connection IDs",
            )
        if not self.peer_parameters.max_idle_timeout:
            self._remote_max_idle_timeout = None  # RFC 9000 §10.1: 0 or absent is no limit.

    def _handle_ack_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        # RFC 9000 §13.1, which aioquic passes over: its packets of all spaces are numbered in one row.
        begin = buf.tell()
        if buf.pull_uint_var() >= self._packet_number:
            raise QuicConnectionError(
                QuicErrorCode.PROTOCOL_VIOLATION, frame_type, "a packet was acknowledged that was never sent"
            )
        buf.seek(begin)
        super()._handle_ack_frame(context, frame_type, buf)

    def _handle_connection_close_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_connection_close_frame(context, frame_type, buf)
        if self.closed_by is None:
            application = frame_type == QuicFrameType.APPLICATION_CLOSE
            self.closed_by = ClosedBy.PEER_APPLICATION if application else ClosedBy.PEER_ENGINE


def _rewind() -> None:
    """Forget what a handshake that failed has left behind."""
    for buffer in _BUFFERS.values():
        buffer.seek(0)


def walk(data: bytes, cid_length: int) -> Iterator[tuple[str, int, int]]:
    """The packets of a datagram: kind (of ``KINDS``), start, end. Stops at what cannot be read."""
    buffer, start = Buffer(data=data), 0
    while start < len(data):
        try:
            header = pull_quic_header(buffer, host_cid_length=cid_length)
        except ValueError:
            return
        end = start + header.packet_length
        yield KINDS[header.packet_type], start, end
        buffer.seek(end)
        start = end
