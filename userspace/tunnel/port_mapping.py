"""The port-mapping streams: unidirectional, first octet 'P', then TLVs of their own (the draft's "Port mapping").

A concentrator answers each request with Protocol Not Supported until port mapping exists; a client, which asks for
nothing, takes no notice of what it is told. Only PeerError leaves the decoder.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from ..quic.errors import PeerError
from .addresses import ADDRESS_SIZE
from .types import CloseCode

STREAM_TYPE = 0x50
"""'P': the first octet of the stream."""


class MappingType(enum.IntEnum):
    """Seven bits; the lowest bit of the octet is the protocol: 0 TCP, 1 UDP."""

    REQUEST = 0x00
    RESPONSE = 0x10
    ERROR = 0x20


class MappingError(enum.IntEnum):
    PROTOCOL_NOT_SUPPORTED = 0x00
    NO_PORT_AVAILABLE = 0x01


@dataclass(frozen=True, slots=True)
class MappingTLV:
    """kind: which. udp: the P flag. port: suggested or actual. value: what follows the port."""

    kind: MappingType
    udp: bool
    port: int
    value: bytes = b""


class MappingReader:
    """Cuts a port-mapping stream, behind its first octet, into TLVs. Holds at most 257 octets that it has not cut."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> None:
        self._buffer += data

    def next_tlv(self) -> MappingTLV | None:
        """The next whole TLV or None. Raises PeerError for an unknown type or a wrong length."""
        if len(self._buffer) < 2:
            return None
        octet, length = self._buffer[0], self._buffer[1]
        try:
            kind = MappingType(octet & 0xFE)
        except ValueError:
            raise PeerError(f"port mapping TLV of unknown type {octet:#04x}", CloseCode.PROTOCOL_VIOLATION) from None
        if length != _LENGTH[kind]:
            raise PeerError(
                f"port mapping TLV of type {octet:#04x} with length {length} in place of {_LENGTH[kind]}",
                CloseCode.PROTOCOL_VIOLATION,
            )
        if len(self._buffer) < 2 + length:
            return None
        value = bytes(self._buffer[2 : 2 + length])
        del self._buffer[: 2 + length]
        return MappingTLV(kind, bool(octet & 1), int.from_bytes(value[:2], "big"), value[2:])


def encode_mapping(tlv: MappingTLV) -> bytes:
    value = tlv.port.to_bytes(2, "big") + tlv.value
    return bytes((tlv.kind | tlv.udp, len(value))) + value


def refusal(request: MappingTLV) -> bytes:
    """Port Mapping Error, Protocol Not Supported, in answer to request."""
    code = bytes((MappingError.PROTOCOL_NOT_SUPPORTED,))
    return encode_mapping(MappingTLV(MappingType.ERROR, request.udp, request.port, code))


_LENGTH = {MappingType.REQUEST: 2, MappingType.RESPONSE: 2 + ADDRESS_SIZE, MappingType.ERROR: 3}
