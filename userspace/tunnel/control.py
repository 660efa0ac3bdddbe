"""The messages of the control stream, bidirectional stream 0 of ``quicsocks/1``: bytes to values and back.

Read first: docs/protocol.md "Control stream". A message is a varint type, a varint length and that many octets. A type
that is not known is skipped; a known one must be exact to the last octet. Whatever the peer sends, only PeerError
leaves this file, with the application error code to close the session with.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from ..quic.errors import LocalError, PeerError
from .types import CloseCode, TunnelLimits
from .varint import decode_varint, encode_varint


class MessageType(enum.IntEnum):
    """Types 0x07 to 0x09 are kept for ADDRESS_ASSIGN, ADDRESS_REQUEST and ROUTE_ADVERTISEMENT, with the semantics of
    RFC 9484 §4.7; until they exist they are unknown ones."""

    HELLO = 0x01
    AUTH = 0x02
    AUTH_OK = 0x03
    AUTH_FAILED = 0x04
    LIMITS = 0x05
    GOODBYE = 0x06


class LimitID(enum.IntEnum):
    MAX_FLOWS = 0x01
    MAX_PENDING = 0x02
    BYTES_PER_SECOND = 0x03


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of each side. version: 1 or more; both then speak the lower of the two. features: feature ID
    to its value, each at most once."""

    version: int
    features: dict[int, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Auth:
    """The client's proof. method: how it is made; the other fields are empty when the method is not known here.

    public_key: DER SubjectPublicKeyInfo. token, label: empty unless the key is to be enrolled."""

    method: int
    public_key: bytes = b""
    proof: bytes = b""
    token: bytes = b""
    label: str = ""


@dataclass(frozen=True, slots=True)
class AuthOK:
    """name: what the concentrator calls this client."""

    name: str
    limits: TunnelLimits


@dataclass(frozen=True, slots=True)
class AuthFailed:
    """code: an AuthFailure, or a number of a later version."""

    code: int


@dataclass(frozen=True, slots=True)
class LimitsChanged:
    """Replaces all limits told before."""

    limits: TunnelLimits


@dataclass(frozen=True, slots=True)
class Goodbye:
    """No new flow is taken any more. drain: milliseconds that those open have left."""

    reason: str
    drain: int


Message = Hello | Auth | AuthOK | AuthFailed | LimitsChanged | Goodbye


class ControlReader:
    """Cuts the control stream into messages.

    Call ``next_message`` after each ``receive_data`` until it answers None. ``largest`` may be raised once the peer is
    authenticated.
    """

    __slots__ = ("_buffer", "ignored", "largest")

    def __init__(self, largest: int) -> None:
        self._buffer = bytearray()
        self.largest = largest
        self.ignored = 0
        """Messages of unknown type skipped so far."""

    def receive_data(self, data: bytes) -> None:
        self._buffer += data

    def next_message(self) -> Message | None:
        """The next whole message of a known type, or None. Raises PeerError (PROTOCOL_VIOLATION)."""
        while True:
            header = decode_varint(self._buffer)
            if header is None:
                return None
            kind, offset = header
            header = decode_varint(self._buffer, offset)
            if header is None:
                return None
            length, offset = header
            if length > self.largest:
                raise violation(f"control message of {length} octets, of at most {self.largest}")
            if len(self._buffer) < offset + length:
                return None
            payload = bytes(self._buffer[offset : offset + length])
            del self._buffer[: offset + length]
            message = decode_message(kind, payload)
            if message is not None:
                return message
            self.ignored += 1


def decode_message(kind: int, payload: bytes) -> Message | None:
    """The meaning of a message, None when its type is not known. Raises PeerError (PROTOCOL_VIOLATION)."""
    fields = _Fields(payload)
    match kind:
        case MessageType.HELLO:
            version = fields.varint()
            if version == 0:
                raise violation("HELLO with version 0")
            return Hello(version, fields.features())
        case MessageType.AUTH:
            method = fields.varint()
            if method != METHOD_ECDSA_P256:
                return Auth(method)
            public_key, proof = fields.octets(MAX_PUBLIC_KEY), fields.octets(MAX_PROOF)
            token, label = fields.octets(MAX_TOKEN), fields.text(MAX_LABEL)
            fields.expect_end("AUTH")
            return Auth(method, public_key, proof, token, label)
        case MessageType.AUTH_OK:
            return AuthOK(fields.text(MAX_LABEL), fields.limits())
        case MessageType.AUTH_FAILED:
            code = fields.varint()
            fields.expect_end("AUTH_FAILED")
            return AuthFailed(code)
        case MessageType.LIMITS:
            return LimitsChanged(fields.limits())
        case MessageType.GOODBYE:
            drain, reason = fields.varint(), fields.text(MAX_REASON)
            fields.expect_end("GOODBYE")
            return Goodbye(reason, drain)
    return None


def encode_message(message: Message) -> bytes:
    """A whole message, type and length included. Raises LocalError when a field is longer than the protocol allows."""
    match message:
        case Hello(version, features):
            body = encode_varint(version)
            for feature, value in features.items():
                body += encode_varint(feature) + encode_varint(len(value)) + value
            return _message(MessageType.HELLO, body)
        case Auth(method, public_key, proof, token, label):
            body = encode_varint(method) + _octets(public_key, MAX_PUBLIC_KEY) + _octets(proof, MAX_PROOF)
            return _message(MessageType.AUTH, body + _octets(token, MAX_TOKEN) + _octets(_cut(label), MAX_LABEL))
        case AuthOK(name, limits):
            return _message(MessageType.AUTH_OK, _octets(_cut(name), MAX_LABEL) + _limits(limits))
        case AuthFailed(code):
            return _message(MessageType.AUTH_FAILED, encode_varint(code))
        case LimitsChanged(limits):
            return _message(MessageType.LIMITS, _limits(limits))
        case Goodbye(reason, drain):
            return _message(MessageType.GOODBYE, encode_varint(drain) + _octets(_cut(reason, MAX_REASON), MAX_REASON))


def violation(message: str) -> PeerError:
    return PeerError(message, CloseCode.PROTOCOL_VIOLATION)


class _Fields:
    """Reads a message's fields in order."""

    __slots__ = ("_data", "_offset")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._offset = 0

    def varint(self) -> int:
        found = decode_varint(self._data, self._offset)
        if found is None:
            raise violation("control message ends within an integer")
        value, self._offset = found
        return value

    def octets(self, most: int) -> bytes:
        length = self.varint()
        if length > most:
            raise violation(f"control message with a field of {length} octets, of at most {most}")
        end = self._offset + length
        if end > len(self._data):
            raise violation("control message ends within a field")
        value = self._data[self._offset : end]
        self._offset = end
        return value

    def text(self, most: int) -> str:
        """UTF-8; what cannot be printed is replaced, as it goes to logs and terminals."""
        try:
            text = self.octets(most).decode()
        except UnicodeDecodeError as error:
            raise violation("control message with text that is not UTF-8") from error
        # U+FFFD REPLACEMENT CHARACTER, by its number: by its name, all names would be loaded wherever this is compiled.
        return "".join(character if character.isprintable() else "\ufffd" for character in text)

    def features(self) -> dict[int, bytes]:
        features: dict[int, bytes] = {}
        while not self.at_end:
            feature = self.varint()
            if feature in features:
                raise violation(f"HELLO with feature {feature:#x} twice")
            features[feature] = self.octets(len(self._data))
            if len(features) > MAX_FEATURES:
                raise violation(f"HELLO with more than {MAX_FEATURES} features")
        return features

    def limits(self) -> TunnelLimits:
        found: dict[int, int] = {}
        while not self.at_end:
            limit = self.varint()
            if limit in found:
                raise violation(f"limit {limit:#x} told twice")
            found[limit] = self.varint()
        return TunnelLimits(
            found.get(LimitID.MAX_FLOWS, 0), found.get(LimitID.MAX_PENDING, 0), found.get(LimitID.BYTES_PER_SECOND, 0)
        )

    @property
    def at_end(self) -> bool:
        return self._offset == len(self._data)

    def expect_end(self, name: str) -> None:
        if not self.at_end:
            raise violation(f"{name} with {len(self._data) - self._offset} octets too many")


def _message(kind: MessageType, body: bytes) -> bytes:
    if len(body) > MAX_MESSAGE:
        raise LocalError(f"a control message holds at most {MAX_MESSAGE} octets, not {len(body)}")
    return encode_varint(kind) + encode_varint(len(body)) + body


def _octets(value: bytes, most: int) -> bytes:
    if len(value) > most:
        raise LocalError(f"a field of {len(value)} octets where at most {most} fit")
    return encode_varint(len(value)) + value


def _cut(text: str, most: int = 0) -> bytes:
    """UTF-8 of at most so many octets, no character cut in two."""
    return text.encode("utf-8", "replace")[: most or MAX_LABEL].decode("utf-8", "ignore").encode()


def _limits(limits: TunnelLimits) -> bytes:
    told = (
        (LimitID.MAX_FLOWS, limits.max_flows),
        (LimitID.MAX_PENDING, limits.max_pending),
        (LimitID.BYTES_PER_SECOND, limits.bytes_per_second),
    )
    return b"".join(encode_varint(limit) + encode_varint(value) for limit, value in told if value)


VERSION = 1
"""The version of ``quicsocks/1`` spoken here."""

METHOD_ECDSA_P256 = 0x01

MAX_MESSAGE = 64 << 10
"""Octets of a message's content: the most one message makes the receiver hold."""
MAX_MESSAGE_UNAUTHENTICATED = 4 << 10
"""The same before AUTH_OK: a stranger needs room for HELLO and AUTH only."""
MAX_FEATURES = 256
MAX_PUBLIC_KEY = 512
"""Octets. A P-256 key has 91; the rest is room for other methods' keys."""
MAX_PROOF = 512
MAX_TOKEN = 256
MAX_LABEL = 64
"""Octets of UTF-8: a host name's first label fits."""
MAX_REASON = 256
