"""Transport parameters as the native engine needs them (RFC 9000 §18).

aioquic keeps some of them to itself, forgets others, and passes over those that it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aioquic.buffer import Buffer, encode_uint_var, size_uint_var  # type: ignore[attr-defined] # re-exported silently
from aioquic.quic.packet import QuicPreferredAddress, pull_quic_transport_parameters

LONGEST_ACK_DELAY = 0.025
"""Of a peer that names none, s (RFC 9000 §18.2)."""
LARGEST_DATAGRAM = 65527
RESET_TOKEN_LENGTH = 16
KNOWN = frozenset((*range(0x12), 0x20))
"""What aioquic reads: RFC 9000, RFC 9368, RFC 9221."""
MIN_ACK_DELAY = 0xFF04DE1B
"""draft-ietf-quic-ack-frequency §3."""
LARGEST_MIN_ACK_DELAY = 1 << 24
OWN_MIN_ACK_DELAY = 1000
"""us: the resolution of event loops' timers."""
ENGINES_PARAMETERS: Mapping[int, bytes] = {MIN_ACK_DELAY: encode_uint_var(OWN_MIN_ACK_DELAY)}
"""What the native engine can do beside what aioquic tells of."""


@dataclass(frozen=True, slots=True)
class PeerParameters:
    """The transport parameters of one end, the peer's or ours, absent ones as their defaults. Times in s.

    max_idle_timeout: 0 for none. max_datagram_frame_size: 0 for no DATAGRAM frames. min_ack_delay: None
    when it takes no ACK_FREQUENCY. unknown: by ID, as they came."""

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
    max_udp_payload_size: int = LARGEST_DATAGRAM
    max_datagram_frame_size: int = 0
    disable_active_migration: bool = False
    stateless_reset_token: bytes | None = None
    preferred_address: QuicPreferredAddress | None = None
    min_ack_delay: float | None = None
    unknown: Mapping[int, bytes] = field(default_factory=dict)


def parse_parameters(data: bytes) -> PeerParameters:
    """Raises ValueError where RFC 9000 asks for a TRANSPORT_PARAMETER_ERROR that aioquic does not raise."""
    values = _values(data)
    parsed = pull_quic_transport_parameters(Buffer(data=data))
    token = parsed.stateless_reset_token
    if token is not None and len(token) != RESET_TOKEN_LENGTH:
        raise ValueError(f"a stateless_reset_token of {len(token)} octets")
    max_ack_delay = LONGEST_ACK_DELAY if parsed.max_ack_delay is None else parsed.max_ack_delay / 1000
    return PeerParameters(
        initial_max_data=parsed.initial_max_data or 0,
        initial_max_stream_data_bidi_local=parsed.initial_max_stream_data_bidi_local or 0,
        initial_max_stream_data_bidi_remote=parsed.initial_max_stream_data_bidi_remote or 0,
        initial_max_stream_data_uni=parsed.initial_max_stream_data_uni or 0,
        initial_max_streams_bidi=parsed.initial_max_streams_bidi or 0,
        initial_max_streams_uni=parsed.initial_max_streams_uni or 0,
        ack_delay_exponent=3 if parsed.ack_delay_exponent is None else parsed.ack_delay_exponent,
        max_ack_delay=max_ack_delay,
        active_connection_id_limit=parsed.active_connection_id_limit or 2,
        max_idle_timeout=(parsed.max_idle_timeout or 0) / 1000,
        max_udp_payload_size=parsed.max_udp_payload_size or LARGEST_DATAGRAM,
        max_datagram_frame_size=parsed.max_datagram_frame_size or 0,
        disable_active_migration=bool(parsed.disable_active_migration),
        stateless_reset_token=token,
        preferred_address=parsed.preferred_address,
        min_ack_delay=_min_ack_delay(values.get(MIN_ACK_DELAY), max_ack_delay),
        unknown={
            identifier: value for identifier, value in values.items() if identifier not in KNOWN | {MIN_ACK_DELAY}
        },
    )


def _min_ack_delay(value: bytes | None, max_ack_delay: float) -> float | None:
    if value is None:
        return None
    buffer = Buffer(data=value)
    delay = buffer.pull_uint_var()
    if not buffer.eof() or delay >= LARGEST_MIN_ACK_DELAY or delay * 1e-6 > max_ack_delay:
        raise ValueError(f"a min_ack_delay of {delay} us")
    return delay * 1e-6


def encode_parameters(values: Mapping[int, bytes]) -> bytes:
    room = sum(size_uint_var(number) + size_uint_var(len(value)) + len(value) for number, value in values.items())
    buffer = Buffer(capacity=room)
    for identifier, value in values.items():
        buffer.push_uint_var(identifier)
        buffer.push_uint_var(len(value))
        buffer.push_bytes(value)
    return buffer.data


def _values(data: bytes) -> dict[int, bytes]:
    buffer, found = Buffer(data=data), dict[int, bytes]()
    while not buffer.eof():
        identifier = buffer.pull_uint_var()
        if identifier in found:
            # RFC 9000 §7.4.
            raise ValueError(f"transport parameter {identifier:#x} came twice")
        found[identifier] = buffer.pull_bytes(buffer.pull_uint_var())
    return found
