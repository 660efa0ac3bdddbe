"""The transport's doors: ``Endpoint``, ``Session``, ``Stream`` and what they call back.

Two engines implement them, ``native`` and ``aioquic`` (the reference); the same contract tests run on both. Nothing
above this file may know which one it has. All calls happen on one event-loop thread. Callbacks are made from the loop,
never from inside the call that caused them, with two exceptions, as in asyncio: ``pause_writing`` may be called from
``write``, and ``session_ended`` may be called from ``close``.

Names follow RFC 9000 and asyncio's transports.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from .errors import Ended

if TYPE_CHECKING:
    from .resumption import ClientTickets

Address = tuple[str, int]
"""Host as an IP literal (no zone brackets) and UDP port."""


class Priority(enum.IntEnum):
    """How urgently a stream's data is sent; lower goes first, equals share fairly."""

    CONTROL = 0
    INTERACTIVE = 1
    NORMAL = 2
    BULK = 3


class StreamHandler(Protocol):
    """What a stream calls. After ``connection_lost`` nothing more is called."""

    def data_received(self, data: bytes) -> None:
        """In-order bytes; never empty. Return their credit later with ``Stream.consumed``."""

    def eof_received(self) -> None:
        """The peer's FIN, after all its data."""

    def reset_received(self, code: int) -> None:
        """The peer's RESET_STREAM (RFC 9000 §19.4): no more data will come, undelivered data is gone."""

    def stop_received(self, code: int) -> None:
        """The peer's STOP_SENDING (§19.5). The engine does not answer by itself: call ``Stream.reset``."""

    def pause_writing(self) -> None:
        """More than the high-water mark is buffered: stop calling ``write``."""

    def resume_writing(self) -> None:
        """The buffer has drained below the low-water mark."""

    def send_completed(self) -> None:
        """Our FIN and all data, or our RESET_STREAM, have been acknowledged."""

    def connection_lost(self, ended: Ended) -> None:
        """The session under the stream has ended. A stream both of whose directions are over already is not told."""


class Pump(Protocol):
    """Moves octets between a stream and a socket that stays its owner's. sent, received: octets from the socket, to it.
    active_at: s on the monotonic clock, when the last one passed."""

    @property
    def sent(self) -> int: ...

    @property
    def received(self) -> int: ...

    @property
    def active_at(self) -> float: ...

    def read(self) -> int:
        """Take what the socket has into the stream, as ``Stream.write`` would. Octets; 0 at the end, -1 when there is
        nothing now. Raises OSError."""

    def write(self) -> bool:
        """The socket is writable again. False: it takes no more."""

    def close(self) -> None:
        """Part again; what the stream still brings goes to its handler."""


class Stream(Protocol):
    """One QUIC stream, bidirectional or one way."""

    @property
    def id(self) -> int:
        """The stream ID (RFC 9000 §2.1)."""

    @property
    def is_local(self) -> bool:
        """Whether we opened it."""

    @property
    def is_bidirectional(self) -> bool:
        """Whether both ends send."""

    @property
    def send_buffered(self) -> int:
        """Bytes taken by ``write`` and not yet put in a packet for the first time."""

    def set_handler(self, handler: StreamHandler) -> None:
        """Take the stream's callbacks, or hand them to another; what arrived before the first call is held,
        within flow control, and delivered from the loop soon after it."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Buffer all of data for sending; it may be reused by the caller after return.

        Raises LocalError after ``finish`` or ``reset``, on a receive-only stream, or when the caller has gone on
        for 1 MiB past ``pause_writing``. After the session's end it does nothing.
        """

    def pump(self, descriptor: int, on_full: Callable[[], None], on_error: Callable[[OSError], None]) -> Pump | None:
        """Join a connected, non-blocking TCP socket, so that octets pass between the two without the handler; everything
        else is still told to it. None: this engine cannot.

        on_full: the socket takes no more; call ``Pump.write`` when it is writable. on_error: writing to it has failed.
        """

    def finish(self) -> None:
        """Send FIN after what is buffered. A second call does nothing."""

    def reset(self, code: int) -> None:
        """Send RESET_STREAM and forget what is buffered. Does nothing once all has been acknowledged."""

    def stop_sending(self, code: int) -> None:
        """Send STOP_SENDING: the peer's data is of no use any more. Data that still comes is dropped and credited by
        the engine; ``data_received`` and ``eof_received`` are not called again. Nothing when already finished."""

    def consumed(self, size: int) -> None:
        """Return flow-control credit for bytes that ``data_received`` delivered and that have been passed on.

        Credit for what a stream still holds is returned by the engine on ``reset_received`` and ``stop_sending``; after
        these a call does nothing. Raises LocalError for more bytes than were delivered.
        """


class SessionHandler(Protocol):
    """What a session calls. After ``session_ended`` nothing more is called."""

    def handshake_completed(self) -> None:
        """TLS is done, and the peer's pin or chain, when one is asked for, has been verified: ``alpn``,
        ``peer_public_key`` and ``export_keying_material`` are valid from now on."""

    def stream_opened(self, stream: Stream) -> None:
        """The peer opened a stream. Call ``set_handler`` on it, now or later."""

    def datagram_received(self, data: bytes, ecn: int) -> None:
        """A DATAGRAM frame's payload (RFC 9221) and its packet's ECN bits (0 when the engine cannot tell)."""

    def max_datagram_size_changed(self, size: int) -> None:
        """The largest payload that fits now; 0 when the peer takes none."""

    def path_changed(self, event: PathEvent) -> None:
        """A path was added, validated, lost, or seen from outside at another address."""

    def session_ended(self, ended: Ended) -> None:
        """The session is over. Every stream's ``connection_lost`` has been called before this."""


class Session(Protocol):
    """One QUIC connection."""

    @property
    def is_client(self) -> bool: ...

    @property
    def alpn(self) -> str:
        """The negotiated protocol; empty before the handshake completes."""

    @property
    def peer_public_key(self) -> bytes:
        """DER of the peer's SubjectPublicKeyInfo, empty when it presented none or before the handshake completes."""

    @property
    def peer_address(self) -> Address: ...

    @property
    def local_address(self) -> Address: ...

    @property
    def ended(self) -> Ended | None: ...

    @property
    def max_datagram_size(self) -> int: ...

    def set_handler(self, handler: SessionHandler) -> None: ...

    def open_stream(self, *, bidirectional: bool = True, priority: Priority = Priority.NORMAL) -> Stream:
        """Open a stream at once. Past the peer's stream limit its frames wait for MAX_STREAMS.

        Raises LocalError when the session has ended or too many streams wait already.
        """

    def streams_available(self, *, bidirectional: bool = True) -> int:
        """How many streams can be opened now without waiting for the peer's MAX_STREAMS."""

    def send_datagram(self, data: bytes | bytearray | memoryview, ecn: int = 0) -> bool:
        """Send a DATAGRAM frame; False when it is too large or was dropped at once. The queue is bounded and drops
        its oldest."""

    def export_keying_material(self, label: bytes, context: bytes, length: int) -> bytes:
        """TLS 1.3 exporter (RFC 8446 §7.5). Raises LocalError before the handshake completes."""

    def paths(self) -> tuple[NetworkPath, ...]: ...

    def statistics(self) -> SessionStatistics: ...

    def migrate(self, local: Address) -> bool:
        """Move a client's session to another of the endpoint's local addresses (RFC 9000 §9.2): that path is probed, and used
        once the peer has answered there; until then, and when it does not, nothing changes. ``path_changed`` tells: ADDED
        and VALIDATED, or LOST. A later call replaces one that is under way.

        False: a server, before the handshake is confirmed, a peer that does not allow it or has no connection ID to spare,
        an engine that cannot, or the session is there. Raises LocalError when the endpoint has no such address.
        """

    def probe(self) -> None:
        """Send something now that a living peer answers at once, congestion or not: for when nothing has been heard of it
        for a while. Nothing before the handshake completes, or after the end."""

    def close(self, code: int = 0, reason: str = "") -> None:
        """Close with an application error code. What streams still buffer is lost. A second call does nothing."""


@dataclass(frozen=True, slots=True)
class NetworkPath:
    """A path is a carrier, a local and a remote address. carrier: "udp" now; relays and proxies later."""

    carrier: str
    local: Address
    remote: Address
    validated: bool


class PathChange(enum.Enum):
    ADDED = "added"
    VALIDATED = "validated"
    LOST = "lost"
    OBSERVED = "observed address"


@dataclass(frozen=True, slots=True)
class PathEvent:
    change: PathChange
    path: NetworkPath


@dataclass(slots=True)
class SessionStatistics:
    """Counters since the session began. Times in seconds, sizes in bytes."""

    smoothed_rtt: float = 0.0
    minimum_rtt: float = 0.0
    congestion_window: int = 0
    bytes_in_flight: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    packets_sent: int = 0
    packets_received: int = 0
    packets_lost: int = 0
    streams_open: int = 0
    stream_bytes_sent: int = 0
    stream_bytes_received: int = 0
    datagrams_sent: int = 0
    datagrams_received: int = 0
    datagrams_dropped: int = 0
    engine: str = ""
    congestion: str = ""
    """The controller; of the rest, what an engine does not know is 0."""
    pacing_rate: float = 0.0
    """Octets per second."""
    path_mtu: int = 0
    """Largest UDP payload that is sent."""
    ecn: bool = False
    """Whether packets carry marks that arrive (RFC 9000 §13.4)."""
    ecn_state: str = ""
    """"testing", "capable" or "failed"."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a session may hold and how long it waits. The reason for each value stands beside it."""

    idle_timeout: float = 30.0
    """Seconds without a packet after which the peer is gone (RFC 9000 §10.1). NAT bindings live 30 s or more."""
    keepalive: float = 10.0
    """Seconds of silence after which a PING goes out, so that three may be lost within the idle timeout. 0: none."""
    handshake_timeout: float = 10.0
    """Seconds until a handshake must be complete."""
    initial_stream_window: int = 256 << 10
    """Bytes that one stream may have in flight or unconsumed at first: what a stalled flow that never moved much costs,
    and enough for 2 MB/s at 100 ms."""
    stream_window: int = 16 << 20
    """What that grows to for a stream whose bytes are consumed as fast as they come: 1 Gbit/s at 100 ms, and the most that
    one stalled flow costs. It grows only as far as the path's own rate and delay ask for."""
    session_window: int = 64 << 20
    """The same for all streams together: the most that all stalled flows cost. No stream grows beyond a quarter of what
    is left of it, so that stalled ones cannot take it all from those that move."""
    send_high_water: int = 256 << 10
    """``pause_writing`` above this many unsent bytes on a stream; ``resume_writing`` at a quarter of it."""
    session_send_buffer: int = 32 << 20
    """Unsent bytes of all streams together: with many open, each is paused earlier, at 16 KiB in the end. The native engine
    pauses those that are busy earlier still."""
    max_streams_bidi: int = 4096
    """Peer-opened bidirectional streams open at once: a flow each."""
    max_streams_uni: int = 16
    """Peer-opened one-way streams open at once: the protocol needs two."""
    max_datagram_frame_size: int = 65535
    """RFC 9221 §3; 0 takes none."""
    datagram_queue: int = 256
    """DATAGRAMs that wait to be sent; the oldest is dropped first."""
    streams_waiting: int = 4096
    """Local streams that may wait for the peer's MAX_STREAMS."""
    max_udp_payload: int = 1452
    """Largest UDP payload sent: what an Ethernet carries under IPv6. Used once a probe of that size has come through;
    1200 until then."""
    congestion: str = "cubic"
    """Congestion controller: "cubic" (RFC 9438), which fills long paths; "reno" (RFC 9002 §7); "bbr" (BBRv3, native engine
    only), which random loss does not slow down."""


CRYPTO_PROFILES = ("default", "fips")
VERSION_1, VERSION_2 = 0x00000001, 0x6B3343CF
"""Of QUIC (RFC 9000, RFC 9369)."""


@dataclass(frozen=True, slots=True)
class Trust:
    """Whom a client believes.

    pins: SHA-256 of acceptable SubjectPublicKeyInfos; when not empty, name and expiry are not checked.
    server_name: for SNI and, without pins, for WebPKI.
    ca_file: extra roots for WebPKI instead of the system's.
    """

    server_name: str
    pins: tuple[bytes, ...] = ()
    ca_file: Path | None = None


@dataclass(frozen=True, slots=True)
class DialConfig:
    """tickets: where the server's session tickets are kept and one is looked for; native engine only.
    early_data: what is written before the handshake is complete may be sent at once (0-RTT) when there is a ticket that
    allows it. Whoever has recorded it can send it to the server again, so it must be harmless to act upon twice."""

    alpn: tuple[str, ...]
    trust: Trust
    limits: Limits = field(default_factory=Limits)
    crypto_profile: str = "default"
    keylog: Path | None = None
    versions: tuple[int, ...] = (VERSION_1,)
    """QUIC versions, the preferred first. Where version 1 is among them it begins with that, which passes everywhere, and the
    server may change over without another round trip (RFC 9368 §2.3)."""
    tickets: ClientTickets | None = None
    early_data: bool = False
    spin_bit: bool = False
    """Let observers on the path measure its RTT (RFC 9000 §17.4), on 15 of 16 paths. Native engine; aioquic always does."""


@dataclass(frozen=True, slots=True)
class Resumption:
    """Session tickets that a server gives out (RFC 8446 §4.6.1), each good for one connection to the same process.

    early_data: clients may send data with the ticket, in 0-RTT packets; it waits for the end of the handshake.
    early_data_at_once: it does not wait. What streams bring before ``handshake_completed`` may then be a replay, for all
    that can be known (RFC 8446 §8), and the client's address is not validated yet."""

    lifetime: float = 7200.0
    """Seconds: reconnects after a network has gone, and hardly anything later. A week at most."""
    per_connection: int = 1
    """Tickets: a client that comes back has a new one by then."""
    most: int = 4096
    """Tickets kept, the oldest go first: about 2 KiB each."""
    early_data: bool = False
    early_data_at_once: bool = False


@dataclass(frozen=True, slots=True)
class ListenConfig:
    """certificate and private_key: PEM text; the chain may follow the certificate.

    admission: cap on unfinished handshakes, enforced before any connection object is made.
    secret: 32 bytes or more from which the keys for Retry and stateless resets derive; the same after a restart.
    previous_secret: the one before it, when it has rotated: connections of that time are still reset (RFC 9000 §10.3).
    resumption: None for no session tickets; native engine only.
    """

    alpn: tuple[str, ...]
    certificate: bytes
    private_key: bytes
    secret: bytes
    limits: Limits = field(default_factory=Limits)
    crypto_profile: str = "default"
    keylog: Path | None = None
    max_half_open: int = 1024
    """Handshakes under way in total: about 100 KiB each."""
    max_half_open_per_prefix: int = 128
    """The same for one source prefix (IPv4 /24, IPv6 /56), so that one neighbourhood cannot use up the total."""
    retry_above: int = 64
    """Half-open handshakes above which an address must be validated with Retry first (RFC 9000 §8.1.2)."""
    max_sessions: int = 4096
    """Connections in total."""
    previous_secret: bytes = b""
    versions: tuple[int, ...] = (VERSION_1, VERSION_2)
    """QUIC versions that are answered; of those, the client's preference decides."""
    resumption: Resumption | None = None
    preferred_address: tuple[Address, ...] = ()
    """Where clients should go once the handshake is confirmed (RFC 9000 §9.6), at most one address of each IP version; the
    endpoint must have them. Native engine only."""
    spin_bit: bool = False
    """As ``DialConfig.spin_bit``."""


class Endpoint(Protocol):
    """Unconnected UDP sockets that both dial and accept; packets find their session by connection ID."""

    @property
    def local_addresses(self) -> tuple[Address, ...]: ...

    def add_address(self, local: Address) -> Address:
        """Open another socket; the address that it got. Raises LocalError when it cannot be had."""

    def dial(self, remote: Address, config: DialConfig, handler: SessionHandler) -> Session:
        """Begin a handshake; the outcome comes by ``handshake_completed`` or ``session_ended``."""

    def listen(self, config: ListenConfig, accept: Callable[[Session], SessionHandler]) -> None:
        """Accept sessions from now on; accept is called when a handshake begins, with the handler to use.
        Calling it again replaces config and callback for sessions to come."""

    def stop_listening(self) -> None:
        """Take no new session; those that exist live on."""

    def set_first_byte_hook(self, hook: Callable[[bytes, Address], bool] | None) -> None:
        """A look at every datagram whose first byte is not QUIC's (RFC 9443); True when taken."""

    def send_raw(self, data: bytes, remote: Address) -> None:
        """Send a datagram that belongs to no session."""

    def inject(self, data: bytes, remote: Address) -> None:
        """Handle data as if it had arrived from remote."""

    def log_to(self, folder: Path | None) -> None:
        """Log what happens in each session, those that exist too, into a file of its own there (qlog), from now on; None:
        no more. Raises LocalError when the folder cannot be had, or the engine cannot."""

    def statistics(self) -> dict[str, int]:
        """Counters: datagrams in and out, dropped by reason, retries sent, half-open, sessions; and what all sessions have
        counted, those that are over too."""

    async def close(self) -> None:
        """Close every session (code 0) and the sockets."""
