"""Connection IDs, ours of every kind: those of the handshake, of Retry, and of NEW_CONNECTION_ID.

Read draft-ietf-quic-load-balancers (plaintext algorithm) first. The layout lets a load balancer or a relay route a
packet by its destination connection ID, without any state, to the server and worker that issued it:

    octet 0     config rotation (3 bits) | length of the rest (5 bits)
    octets 1-2  server ID: 16 bits; the second octet is the worker's number where several share a port (``steering``)
    octets 3-7  nonce, unpredictable and unique

Eight octets in all: as long as the shortest Destination Connection ID that a client may choose for itself (RFC 9000
§7.2), so that all connection IDs in a table have one length. This file must not draw random bytes by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Container

LENGTH = 8
"""Octets of every connection ID that we issue."""
SERVER_ID_LENGTH = 2
NONCE_LENGTH = LENGTH - 1 - SERVER_ID_LENGTH
UNROUTABLE_CONFIG = 7
"""The config rotation codepoint that load balancers never assign (draft-ietf-quic-load-balancers, section 3.1)."""


class ConnectionIdFactory:
    """Issues connection IDs for one process.

    random_bytes: source of the nonces. server_id: 0 to 65535. config: 0 to 6, the load balancer configuration that the
    layout belongs to; 7, the default, says that no load balancer is configured. workers: how many there are of this
    server, numbered from 0; 0 when that is not known.
    """

    def __init__(
        self,
        random_bytes: Callable[[int], bytes],
        *,
        server_id: int = 0,
        config: int = UNROUTABLE_CONFIG,
        workers: int = 0,
    ) -> None:
        if not 0 <= server_id < 1 << (8 * SERVER_ID_LENGTH):
            raise ValueError(f"server ID {server_id} is not a 16-bit number")
        if not 0 <= config <= UNROUTABLE_CONFIG:
            raise ValueError(f"config rotation {config} is not a 3-bit number")
        self._random_bytes = random_bytes
        self._workers = workers
        self._prefix = bytes([config << 5 | (LENGTH - 1)]) + server_id.to_bytes(SERVER_ID_LENGTH, "big")

    def new(self, taken: Container[bytes] = ()) -> bytes:
        """A connection ID that is not in taken."""
        while True:
            cid = self._prefix + self._random_bytes(NONCE_LENGTH)
            if cid not in taken:
                return cid

    def is_ours(self, cid: bytes) -> bool:
        """Whether cid has the shape of one that this process, or an earlier one with the same server ID, issued.

        So do those of workers that there are no more: whoever gets their packets answers for them.
        """
        if len(cid) != LENGTH or not cid.startswith(self._prefix[:-1]):
            return False
        worker = cid[SERVER_ID_LENGTH]
        return worker == self._prefix[-1] or 0 < self._workers <= worker


def server_id_of(cid: bytes) -> int | None:
    """The server ID in a connection ID of this layout; None when its length octet says that it is another's."""
    if len(cid) != LENGTH or cid[0] & 0x1F != LENGTH - 1:
        return None
    return int.from_bytes(cid[1 : 1 + SERVER_ID_LENGTH], "big")
