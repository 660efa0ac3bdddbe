"""Causes to Error TLVs and back, the ICMP message in one included.

Read first: docs/protocol.md "Errors"; RFC 792, RFC 1122 §3.2.2.1, RFC 1812 §5.2.7, RFC 4443 §3 for the codes. ``qt``
has four error codes; ``quicsocks/1`` carries every Cause as it is. ICMP messages are made elsewhere; here they are only
cut to size, and looked at for type and code. Nothing here raises on what the peer sent.
"""

from __future__ import annotations

from .addresses import parse_literal
from .tlv import MAX_ERROR_PAYLOAD, Wire
from .types import Cause, Destination, FlowFailed


def error_from_cause(cause: Cause, icmp: bytes, wire: Wire) -> tuple[int, bytes]:
    """Error Code and Error Payload with which a flow is refused for cause. icmp: the ICMP or ICMPv6 message, received
    or synthesised, that says the same; may be empty.

    On ``qt`` an ICMP message travels under ICMP packet received (0x1); without one it is Network Failure (0x3).
    """
    payload = icmp[:MAX_ERROR_PAYLOAD]
    if cause in (Cause.UNKNOWN_TLV, Cause.MALFORMED_TLV):
        return int(cause), b""
    if wire is Wire.QUICSOCKS:
        return int(cause), payload
    if payload:
        return int(Cause.ICMP_RECEIVED), payload
    return int(Cause.NETWORK_FAILURE), b""


def failure_from_error(code: int, payload: bytes, destination: Destination) -> FlowFailed:
    """What an Error TLV says. An unknown code is a network failure whose detail names the code."""
    try:
        cause = Cause(code)
    except ValueError:
        return FlowFailed(Cause.NETWORK_FAILURE, f"error code {code:#x} from the concentrator")
    if cause is Cause.UNKNOWN_TLV:
        detail = f"the concentrator does not know TLV type {payload[:1].hex() or '?'}"
        return FlowFailed(cause, detail)
    if cause is Cause.MALFORMED_TLV:
        return FlowFailed(cause, "the concentrator found our request malformed")
    icmp = _without_ip_header(payload)
    if cause is Cause.ICMP_RECEIVED:
        return FlowFailed(cause_from_icmp(icmp, destination), _describe(icmp), icmp)
    return FlowFailed(cause, "", icmp)


def cause_from_icmp(icmp: bytes, destination: Destination) -> Cause:
    """The Cause that an ICMP or ICMPv6 error, from its own header on, stands for; ICMP_RECEIVED when it says nothing
    of use. destination decides between ICMP and ICMPv6 where the quoted packet does not."""
    if len(icmp) < 2:
        return Cause.ICMP_RECEIVED
    kind, code = icmp[0], icmp[1]
    if _is_version_6(icmp, destination):
        if kind == 1:
            return _UNREACHABLE_6.get(code, Cause.NETWORK_FAILURE)
        return Cause.TTL_EXPIRED if kind == 3 else Cause.ICMP_RECEIVED
    if kind == 3:
        return _UNREACHABLE_4.get(code, Cause.NETWORK_FAILURE)
    return Cause.TTL_EXPIRED if kind == 11 else Cause.ICMP_RECEIVED


def _is_version_6(icmp: bytes, destination: Destination) -> bool:
    # Both kinds quote the packet that caused them behind 8 octets of their own (RFC 792, RFC 4443 §3.1).
    if len(icmp) > 8 and icmp[8] >> 4 in (4, 6):
        return icmp[8] >> 4 == 6
    address = parse_literal(destination.host)
    if address is not None:
        return address.version == 6
    # A name tells nothing; Destination Unreachable is 3 in one and 1 in the other.
    return icmp[0] == 1


def _without_ip_header(payload: bytes) -> bytes:
    # The draft copies "the ICMP packet" and leaves open whether its IP header comes along. No ICMP or ICMPv6 error has
    # a type of 0x45 to 0x4f or 0x60 to 0x6f (RFC 4443 §6.2 keeps 100 and 101 for experiments), so both can be told.
    if len(payload) > 20 and payload[0] >> 4 == 4 and payload[9] == _PROTOCOL_ICMP:
        return payload[(payload[0] & 0xF) * 4 :]
    if len(payload) > 40 and payload[0] >> 4 == 6 and payload[6] == _NEXT_HEADER_ICMPV6:
        return payload[40:]
    return payload


def _describe(icmp: bytes) -> str:
    return f"ICMP type {icmp[0]}, code {icmp[1]}" if len(icmp) >= 2 else "ICMP error without content"


_PROTOCOL_ICMP = 1
_NEXT_HEADER_ICMPV6 = 58

_UNREACHABLE_4 = {
    0: Cause.NETWORK_UNREACHABLE,
    1: Cause.HOST_UNREACHABLE,
    # RFC 1122 §4.2.3.9: protocol and port unreachable are hard errors, as a RST to the SYN is.
    2: Cause.REFUSED,
    3: Cause.REFUSED,
    5: Cause.HOST_UNREACHABLE,
    6: Cause.NETWORK_UNREACHABLE,
    7: Cause.HOST_UNREACHABLE,
    8: Cause.HOST_UNREACHABLE,
    9: Cause.DENIED,
    10: Cause.DENIED,
    11: Cause.NETWORK_UNREACHABLE,
    12: Cause.HOST_UNREACHABLE,
    13: Cause.DENIED,
    14: Cause.DENIED,
    15: Cause.DENIED,
}

_UNREACHABLE_6 = {
    0: Cause.NETWORK_UNREACHABLE,
    1: Cause.DENIED,
    2: Cause.NETWORK_UNREACHABLE,
    3: Cause.HOST_UNREACHABLE,
    4: Cause.REFUSED,
    5: Cause.DENIED,
    6: Cause.DENIED,
    7: Cause.HOST_UNREACHABLE,
}
