"""Answers that need no state: version negotiation (RFC 9000 §6.1) and Retry (§8.1.2).

Both are smaller than what they answer. This file must not import asyncio, socket, time or random.
"""

from __future__ import annotations

from aioquic.quic.packet import QuicHeader, encode_quic_retry, encode_quic_version_negotiation

MOST_CIDS = 510
"""Octets of both connection IDs of a version that is not known: 255 each (RFC 8999 §5.1)."""


def version_negotiation(data: bytes, versions: tuple[int, ...]) -> bytes | None:
    """For the long-header packet that data, of 7 octets at least, begins with. None: it is malformed, or is of that kind
    itself."""
    destination = data[6 : 6 + data[5]]
    rest = data[6 + data[5] :]
    source = rest[1 : 1 + rest[0]] if rest else b""
    if data[1:5] == bytes(4) or len(destination) + len(source) > MOST_CIDS or not rest:
        return None
    return encode_quic_version_negotiation(
        source_cid=destination, destination_cid=source, supported_versions=list(versions)
    )


def retry(header: QuicHeader, cid: bytes, token: bytes) -> bytes:
    """For the Initial of that header. cid: the connection ID that the client is to use from now on."""
    assert header.version is not None
    return encode_quic_retry(
        version=header.version,
        source_cid=cid,
        destination_cid=header.source_cid,
        original_destination_cid=header.destination_cid,
        retry_token=token,
    )
