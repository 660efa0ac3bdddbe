"""DNS over a byte stream: framing, questions for A and AAAA, and what can be believed of an answer.

Read first: RFC 1035 §4.1, §4.2.2, RFC 7766, RFC 2308. Sans-IO, on dnspython's messages. Whatever bytes arrive, nothing
but ``PeerError`` comes out of ``MessageReader`` and ``read_answer``.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype

from ..quic.errors import PeerError
from .special import IPAddress

A = int(dns.rdatatype.A)
AAAA = int(dns.rdatatype.AAAA)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a resolver said to one question. rcode: RFC 1035 §4.1.1; with addresses it is 0.

    ttl: seconds that it may be kept, for a negative answer those of the SOA record (RFC 2308 §5).
    """

    addresses: tuple[IPAddress, ...]
    ttl: int
    rcode: int

    @property
    def rcode_text(self) -> str:
        return dns.rcode.to_text(dns.rcode.Rcode(self.rcode))


def make_query(name: str, kind: int, message_id: int) -> bytes:
    """A framed question. name: normalised, at most 253 characters; it is absolute, no search list applies.

    kind: A or AAAA. message_id: 0 to 65535.
    """
    query = dns.message.make_query(dns.name.from_text(name, dns.name.root), dns.rdatatype.RdataType(kind))
    query.id = message_id
    wire = query.to_wire()
    return len(wire).to_bytes(2, "big") + wire


def message_id(message: bytes) -> int:
    """Raises PeerError for what is shorter than a DNS header."""
    if len(message) < 12:
        raise PeerError("a DNS message of less than 12 bytes")
    return int.from_bytes(message[:2], "big")


def read_answer(message: bytes, name: str, kind: int) -> Answer:
    """Read the answer to a question for name and kind. Raises PeerError when it is none, or is not well-formed.

    Aliases are followed within the message (RFC 1034 §3.6.2), 16 of them at most. An answer that is only an alias
    counts as empty: recursive resolvers, the only ones asked, give the whole chain.
    """
    try:
        response = dns.message.from_wire(message, ignore_trailing=False)
        if not response.flags & dns.flags.QR:
            raise PeerError("a DNS question where an answer was due")
        if not isinstance(response, dns.message.QueryMessage) or len(response.question) != 1:
            raise PeerError("a DNS answer without its question")
        question = response.question[0]
        wanted = dns.name.from_text(name, dns.name.root)
        if (question.name, int(question.rdtype), int(question.rdclass)) != (wanted, kind, 1):
            raise PeerError("a DNS answer to another question")
        rcode = int(response.rcode())
        if rcode != 0:
            return Answer((), _negative_ttl(response), rcode)
        chain = response.resolve_chaining()
        if chain.answer is None:
            return Answer((), _negative_ttl(response), 0)
        addresses = tuple(dict.fromkeys(ip_address(record.address) for record in list(chain.answer)[:MAX_ADDRESSES]))
        return Answer(addresses, min(int(chain.minimum_ttl), MAX_TTL), 0)
    except PeerError:
        raise
    except dns.exception.DNSException as error:
        raise PeerError(f"a malformed DNS message: {type(error).__name__}") from None
    except Exception as error:
        # dnspython means to raise only its own exceptions, and what a resolver sends is not to depend on that.
        raise PeerError(f"a DNS message that could not be read: {type(error).__name__}") from None


class MessageReader:
    """Cuts a stream into DNS messages (RFC 1035 §4.2.2: two bytes of length before each)."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def receive_data(self, data: bytes) -> list[bytes]:
        """The messages that data completes. Raises PeerError for a length that no DNS message has."""
        self._buffer += data
        messages = []
        while len(self._buffer) >= 2:
            size = int.from_bytes(self._buffer[:2], "big")
            if size < 12:
                raise PeerError("a DNS message of less than 12 bytes")
            if len(self._buffer) < 2 + size:
                break
            messages.append(bytes(self._buffer[2 : 2 + size]))
            del self._buffer[: 2 + size]
        return messages


def _negative_ttl(response: dns.message.Message) -> int:
    for rrset in response.authority:
        if rrset.rdtype == dns.rdatatype.SOA and len(rrset):
            return max(0, min(int(rrset.ttl), int(rrset[0].minimum), MAX_NEGATIVE_TTL))
    return 0


MAX_ADDRESSES = 64
"""Addresses taken from one answer; what is dialled is fewer still."""

MAX_TTL = 300
"""Seconds that an answer is kept at most: one that was wrong must not stay wrong for long."""

MAX_NEGATIVE_TTL = 30
"""The same for "no such name", which people retry after having corrected something."""
