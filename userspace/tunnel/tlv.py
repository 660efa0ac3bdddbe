"""The TLVs at the beginning of a flow's stream: bytes to values and back, for both protocols.

Read first: docs/protocol.md "TLVs", and draft-piraux-quic-tunnel. The draft exists in two numberings under one name:
the one this product sends (Connect 0x00, Connect OK 0x01, Error 0x02, End 0xff: the working copy before -00, and again
all later stream-mode drafts), and that of the published -00 (Connect OK 0x02, Error 0x03, Extended Connect 0x01). Type
and length together tell them apart, so on ``qt`` both are understood. ``quicsocks/1`` has the first alone.

``TLVReader`` cuts bytes into TLVs and knows no meaning; ``decode_tlv`` gives one its meaning. Which TLVs may stand
where is told by preamble.py. Whatever the peer sends, only TLVError leaves this file.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import lru_cache

from ..quic.errors import LocalError, PeerError
from .addresses import ADDRESS_SIZE, REMEMBERED, forbidden, pack_address, parse_literal, unpack_address
from .types import ALPN_QT, ALPN_QUICSOCKS, BoundAddress, Cause, Destination


class Wire(enum.Enum):
    """Which protocol a session speaks; the value is its ALPN token."""

    QT = ALPN_QT
    QUICSOCKS = ALPN_QUICSOCKS


class TLVType(enum.IntEnum):
    """Type octets as we send them."""

    CONNECT = 0x00
    CONNECT_OK = 0x01
    ERROR = 0x02
    CONNECT_NAME = 0x10
    BOUND_ADDRESS = 0x40
    END = 0xFF


class TLVError(PeerError):
    """TLVs that break the protocol. cause and payload are what an Error TLV in answer to it carries."""

    def __init__(self, cause: Cause, message: str, payload: bytes = b"") -> None:
        super().__init__(message, int(cause))
        self.cause = cause
        self.payload = payload


def malformed(message: str) -> TLVError:
    return TLVError(Cause.MALFORMED_TLV, message)


@dataclass(frozen=True, slots=True)
class Connect:
    """Connect, Connect Name, or the published -00's Extended Connect (whose local address is of no use here)."""

    destination: Destination


@dataclass(frozen=True, slots=True)
class ConnectOK:
    """The destination has accepted."""


@dataclass(frozen=True, slots=True)
class Error:
    """code: 0 to 0xffff. payload: at most 253 octets."""

    code: int
    payload: bytes


@dataclass(frozen=True, slots=True)
class Bound:
    """The concentrator's local address of the connection."""

    address: BoundAddress


@dataclass(frozen=True, slots=True)
class Ignored:
    """A TLV that a receiver may leave aside."""

    type: int


TLV = Connect | ConnectOK | Error | Bound | Ignored


class TLVReader:
    """Cuts a stream's first bytes into (type, value) pairs, up to the End TLV.

    After each ``receive_data`` call ``next_tlv`` until it answers None. When ``ended``, ``rest`` holds the bytes that
    followed the End TLV: the beginning of the tunnelled stream.
    """

    __slots__ = ("_buffer", "_position", "_total", "ended", "rest")

    def __init__(self) -> None:
        self._buffer = b""
        self._position = 0
        self._total = 0
        self.ended = False
        self.rest = b""

    def receive_data(self, data: bytes) -> None:
        self._buffer = self._buffer[self._position :] + data
        self._position = 0

    def next_tlv(self) -> tuple[int, bytes] | None:
        """The next whole TLV before the End TLV, or None when there is none (yet).

        Raises TLVError when the End TLV has a value or more than MAX_PREAMBLE octets come without one.
        """
        if self.ended or len(self._buffer) - self._position < HEADER_SIZE:
            return None
        kind, length = self._buffer[self._position], self._buffer[self._position + 1]
        size = HEADER_SIZE + length
        if self._total + size > MAX_PREAMBLE:
            raise malformed(f"more than {MAX_PREAMBLE} octets of TLVs before the End TLV")
        if kind == TLVType.END and length:
            raise malformed(f"End TLV with length {length}")
        end = self._position + size
        if end > len(self._buffer):
            return None
        value = self._buffer[self._position + HEADER_SIZE : end]
        self._position = end
        self._total += size
        if kind == TLVType.END:
            self.ended = True
            self.rest = self._buffer[end:]
            self._buffer = b""
            self._position = 0
            return None
        return kind, value


def decode_tlv(kind: int, value: bytes, wire: Wire) -> TLV:
    """The meaning of one TLV. Raises TLVError: Unknown TLV with the type as payload, or Malformed TLV."""
    if kind == TLVType.CONNECT:
        _expect(kind, value, _CONNECT_SIZE)
        return Connect(_destination(value, wire))
    if kind == TLVType.CONNECT_OK:
        if wire is Wire.QT and len(value) == _EXTENDED_CONNECT_SIZE:
            return Connect(_destination(value[:_CONNECT_SIZE], wire))
        _expect(kind, value, 0)
        return ConnectOK()
    if kind == TLVType.ERROR:
        if wire is Wire.QT and not value:
            return ConnectOK()
        return _error(kind, value)
    if wire is Wire.QT:
        if kind == _PUBLISHED_ERROR:
            return _error(kind, value)
        raise _unknown(kind)
    if kind == TLVType.CONNECT_NAME:
        return Connect(_named_destination(value))
    if kind == TLVType.BOUND_ADDRESS:
        _expect(kind, value, _CONNECT_SIZE)
        return Bound(BoundAddress(str(unpack_address(value[2:])), int.from_bytes(value[:2], "big")))
    if FIRST_IGNORABLE <= kind <= LAST_IGNORABLE:
        return Ignored(kind)
    raise _unknown(kind)


def encode_tlv(kind: int, value: bytes = b"") -> bytes:
    """Type, Length, Value. Raises LocalError when value is longer than 255 octets."""
    if len(value) > MAX_VALUE:
        raise LocalError(f"a TLV holds at most {MAX_VALUE} octets, not {len(value)}")
    return bytes((kind, len(value))) + value


def encode_connect(destination: Destination, wire: Wire) -> bytes:
    """Connect, or Connect Name when the host is not an IP literal.

    Raises LocalError for a port or name that cannot be sent, and for a name on ``qt``, which has no TLV for it. An
    address that the protocol forbids is encoded all the same: ask ``addresses.forbidden`` first.
    """
    if not 1 <= destination.port <= 0xFFFF:
        raise LocalError(f"{destination.port} is not a TCP port")
    port = destination.port.to_bytes(2, "big")
    address = parse_literal(destination.host)
    if address is not None:
        return encode_tlv(TLVType.CONNECT, port + pack_address(address))
    if wire is Wire.QT:
        raise LocalError("host names cannot be sent on ALPN qt: resolve the name through the tunnel first")
    name = destination.host.encode() if destination.host.isascii() else b""
    if not _is_name(name):
        raise LocalError("a host name has 1 to 253 visible ASCII characters; international ones go as A-labels")
    return encode_tlv(TLVType.CONNECT_NAME, port + name)


def encode_connect_ok() -> bytes:
    return _ENCODED_OK


def encode_bound(bound: BoundAddress) -> bytes:
    """Bound Address; nothing when it is not known. Raises LocalError when the host is not an IP literal."""
    prefix, octets = _bound_octets(bound.host)
    if not octets or not 0 <= bound.port <= 0xFFFF:
        raise LocalError(f"{bound.host!r} port {bound.port} is not a bound address")
    if bound.port == 0:
        return b""
    return prefix + bound.port.to_bytes(2, "big") + octets


@lru_cache(REMEMBERED)
def _bound_octets(host: str) -> tuple[bytes, bytes]:
    """What stands before and behind the port; nothing behind when host is no IP literal."""
    # A link-local address of a socket comes with its zone, which is of this host alone.
    address = parse_literal(host.partition("%")[0])
    octets = pack_address(address) if address is not None else b""
    return bytes((TLVType.BOUND_ADDRESS, _CONNECT_SIZE)), octets


def encode_error(code: int, payload: bytes = b"") -> bytes:
    """Error; a payload longer than 253 octets is cut, as the 8-bit Length demands."""
    return encode_tlv(TLVType.ERROR, code.to_bytes(2, "big") + payload[:MAX_ERROR_PAYLOAD])


def encode_end() -> bytes:
    return _ENCODED_END


def _destination(value: bytes, wire: Wire) -> Destination:
    port = int.from_bytes(value[:2], "big")
    address = unpack_address(value[2:])
    if port == 0:
        raise malformed("Connect TLV with port 0")
    reason = forbidden(address, loopback=wire is Wire.QT)
    if reason:
        raise malformed(f"Connect TLV with {reason}")
    return Destination(str(address), port)


def _named_destination(value: bytes) -> Destination:
    if len(value) < 3:
        raise malformed(f"Connect Name TLV with length {len(value)}")
    port = int.from_bytes(value[:2], "big")
    if port == 0:
        raise malformed("Connect Name TLV with port 0")
    if not _is_name(value[2:]):
        raise malformed("Connect Name TLV with a name that is not 1 to 253 visible ASCII characters")
    host = value[2:].decode("ascii")
    if _is_literal(host):
        # One spelling for one thing: an address in a name's place would pass every check of names.
        raise malformed("Connect Name TLV with an IP literal")
    return Destination(host, port)


def _is_name(name: bytes) -> bool:
    return 1 <= len(name) <= MAX_NAME and all(0x21 <= octet <= 0x7E for octet in name)


def _is_literal(host: str) -> bool:
    try:
        return parse_literal(host) is not None
    except LocalError:
        return True


def _error(kind: int, value: bytes) -> Error:
    if len(value) < 2:
        raise malformed(f"Error TLV (type {kind:#04x}) with length {len(value)}")
    return Error(int.from_bytes(value[:2], "big"), value[2:])


def _expect(kind: int, value: bytes, size: int) -> None:
    if len(value) != size:
        raise malformed(f"TLV of type {kind:#04x} with length {len(value)} in place of {size}")


def _unknown(kind: int) -> TLVError:
    return TLVError(Cause.UNKNOWN_TLV, f"TLV of unknown type {kind:#04x}", bytes((kind,)))


HEADER_SIZE = 2
MAX_VALUE = 255
MAX_ERROR_PAYLOAD = MAX_VALUE - 2
MAX_NAME = 253
FIRST_IGNORABLE = 0x40
LAST_IGNORABLE = 0x7F

_ENCODED_OK = bytes((TLVType.CONNECT_OK, 0))
_ENCODED_END = bytes((TLVType.END, 0))
_CONNECT_SIZE = 2 + ADDRESS_SIZE
_EXTENDED_CONNECT_SIZE = 2 * _CONNECT_SIZE
_PUBLISHED_ERROR = 0x03

MAX_PREAMBLE = 4096
"""Octets of TLVs before and with the End TLV. A request needs 22 to 259; the rest is room for ignorable TLVs, and the
bound on what one stream can make us look at before it says what it wants."""
