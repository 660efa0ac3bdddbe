"""Which TLVs may stand where: the request that opens a flow, and the answer to it.

Read first: tlv.py. Both readers take bytes as they come and are done at the End TLV; what follows it is in ``rest``.
``request`` and ``answer`` functions write the same. Only TLVError leaves a reader.
"""

from __future__ import annotations

from functools import lru_cache

from .addresses import REMEMBERED, unpack_address
from .causes import failure_from_error
from .tlv import (
    Bound,
    Connect,
    ConnectOK,
    Error,
    Ignored,
    TLVError,
    TLVReader,
    TLVType,
    Wire,
    decode_tlv,
    encode_bound,
    encode_connect,
    encode_connect_ok,
    encode_end,
    encode_error,
    malformed,
)
from .types import BoundAddress, Destination, FlowFailed

PLAIN_REQUEST = 22
PLAIN_ANSWER = 24

_ANSWER_BEGINS = encode_connect_ok() + bytes((TLVType.BOUND_ADDRESS, 18))
_END = encode_end()


class RequestReader:
    """What a client sends: Connect (one of its kinds), ignorable TLVs, End."""

    __slots__ = ("_reader", "_wire", "destination")

    def __init__(self, wire: Wire) -> None:
        self._reader = TLVReader()
        self._wire = wire
        self.destination: Destination | None = None

    @property
    def rest(self) -> bytes:
        return self._reader.rest

    def receive_data(self, data: bytes) -> bool:
        """Whether the request is complete. Raises TLVError."""
        self._reader.receive_data(data)
        while (found := self._reader.next_tlv()) is not None:
            kind, value = found
            match decode_tlv(kind, value, self._wire):
                case Connect(destination):
                    if self.destination is not None:
                        raise malformed("two Connect TLVs on one stream")
                    self.destination = destination
                case Ignored() | Bound() if self.destination is None:
                    # The draft: the Connect TLV always stands at the beginning.
                    raise malformed(f"TLV of type {kind:#04x} before the Connect TLV")
                case ConnectOK() | Error():
                    raise malformed(f"TLV of type {kind:#04x} in a request")
        if self._reader.ended and self.destination is None:
            raise malformed("End TLV without a Connect TLV")
        return self._reader.ended

    def receive_eof(self) -> None:
        """The stream has ended before the request was complete: raises TLVError."""
        raise malformed("the stream ended before the End TLV")


class AnswerReader:
    """What a concentrator sends: Connect OK, ignorable TLVs, End; or Error, once or more, End.

    destination: tells ICMP from ICMPv6 in an Error's payload where the payload itself does not.
    """

    __slots__ = ("_accepted", "_destination", "_reader", "_wire", "bound", "failure")

    def __init__(self, wire: Wire, destination: Destination) -> None:
        self._reader = TLVReader()
        self._wire = wire
        self._destination = destination
        self._accepted = False
        self.bound = BoundAddress()
        self.failure: FlowFailed | None = None
        """The first Error TLV; it outweighs a Connect OK."""

    @property
    def rest(self) -> bytes:
        return self._reader.rest

    def receive_data(self, data: bytes) -> bool:
        """Whether the answer is complete; then look at ``failure`` first. Raises TLVError."""
        self._reader.receive_data(data)
        while (found := self._reader.next_tlv()) is not None:
            kind, value = found
            match decode_tlv(kind, value, self._wire):
                case Connect():
                    raise malformed("Connect TLV in an answer")
                case ConnectOK():
                    if self._accepted or self.failure:
                        raise malformed("Connect OK TLV after another answer")
                    self._accepted = True
                case Error(code, payload):
                    if self.failure is None:
                        self.failure = failure_from_error(code, payload, self._destination)
                case Bound(address):
                    self.bound = address
        if self._reader.ended and not self._accepted and self.failure is None:
            raise malformed("End TLV without an answer")
        return self._reader.ended

    def receive_eof(self) -> None:
        """The stream has ended before the answer was complete: sets ``failure`` when an Error TLV was there, else
        raises TLVError."""
        if self.failure is None:
            raise malformed("the stream ended before the End TLV")


# What nearly all preambles look like, for which the readers are too much work. Each function answers None for everything
# else, what is wrong included; then a reader is given the same bytes.


def plain_request(data: bytes, wire: Wire) -> Destination | None:
    """The destination, if data begins with Connect and End and nothing else; PLAIN_REQUEST octets then."""
    return _plain_request(data[:PLAIN_REQUEST], wire)


@lru_cache(REMEMBERED)
def _plain_request(data: bytes, wire: Wire) -> Destination | None:
    reader = RequestReader(wire)
    try:
        whole = reader.receive_data(data)
    except TLVError:
        return None
    # A shorter one, with a name, may be followed by the flow's own bytes.
    return reader.destination if whole and len(data) == PLAIN_REQUEST and not reader.rest else None


def plain_answer(data: bytes) -> BoundAddress | None:
    """The address, if data begins with Connect OK, Bound Address and End; PLAIN_ANSWER octets then. On ``quicsocks/1``."""
    if len(data) < PLAIN_ANSWER or not data.startswith(_ANSWER_BEGINS) or data[22:24] != _END:
        return None
    return BoundAddress(_text_of(data[6:22]), data[4] << 8 | data[5])


@lru_cache(REMEMBERED)
def _text_of(octets: bytes) -> str:
    return str(unpack_address(octets))


def request(destination: Destination, wire: Wire) -> bytes:
    """Connect, End. Raises LocalError as ``encode_connect`` does."""
    return encode_connect(destination, wire) + encode_end()


def answer_accepted(bound: BoundAddress, wire: Wire) -> bytes:
    """Connect OK, on ``quicsocks/1`` the Bound Address when it is known, End."""
    address = encode_bound(bound) if wire is Wire.QUICSOCKS else b""
    return encode_connect_ok() + address + _END


def answer_error(code: int, payload: bytes = b"") -> bytes:
    """Error, End; the stream's FIN must follow."""
    return encode_error(code, payload) + encode_end()
