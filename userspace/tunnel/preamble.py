"""Which TLVs may stand where: the request that opens a flow, and the answer to it.

Read first: tlv.py. Both readers take bytes as they come and are done at the End TLV; what follows it is in ``rest``.
``request`` and ``answer`` functions write the same. Only TLVError leaves a reader.
"""

from __future__ import annotations

from .causes import failure_from_error
from .tlv import (
    Bound,
    Connect,
    ConnectOK,
    Error,
    Ignored,
    TLVReader,
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


def request(destination: Destination, wire: Wire) -> bytes:
    """Connect, End. Raises LocalError as ``encode_connect`` does."""
    return encode_connect(destination, wire) + encode_end()


def answer_accepted(bound: BoundAddress, wire: Wire) -> bytes:
    """Connect OK, on ``quicsocks/1`` the Bound Address when it is known, End."""
    address = encode_bound(bound) if wire is Wire.QUICSOCKS else b""
    return encode_connect_ok() + address + encode_end()


def answer_error(code: int, payload: bytes = b"") -> bytes:
    """Error, End; the stream's FIN must follow."""
    return encode_error(code, payload) + encode_end()
