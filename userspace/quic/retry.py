"""Retry tokens: proof that a client receives at the address it sends from, without state at the server.

Read RFC 9000 §8.1.2 to §8.1.4 first. A token is nonce || AES-256-GCM(issue time, original Destination Connection ID),
with the client's address and the connection ID of the Retry as associated data, so that it is good for that address
and that connection attempt only. The key is derived from the server's secret: tokens survive a restart and are good at
every worker. This file must not import asyncio, socket, time or random.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from .errors import PeerError
from .types import Address

LIFETIME = 15.0
"""Seconds: clients answer a Retry at once; this allows for losses (RFC 9000 §8.1.4)."""
NONCE = 12
MAX_TOKEN = NONCE + 8 + 20 + 16


class RetryTokens:
    """key: 32 bytes. random_bytes: source of nonces, never repeating in practice."""

    def __init__(self, key: bytes, random_bytes: Callable[[int], bytes]) -> None:
        self._aead = AESGCM(key)
        self._random_bytes = random_bytes

    def issue(self, address: Address, original_cid: bytes, retry_cid: bytes, now: float) -> bytes:
        """A token for a client at address. now: Unix time in seconds."""
        nonce = self._random_bytes(NONCE)
        plain = int(now * 1000).to_bytes(8, "big") + original_cid
        return nonce + self._aead.encrypt(nonce, plain, _bound_to(address, retry_cid))

    def verify(self, token: bytes, address: Address, destination_cid: bytes, now: float) -> bytes:
        """The original Destination Connection ID. Raises PeerError when the token is not ours, not for this address
        or connection ID, or too old."""
        if not NONCE + 8 + 16 <= len(token) <= MAX_TOKEN:
            raise PeerError("not a Retry token of ours")
        try:
            plain = self._aead.decrypt(token[:NONCE], token[NONCE:], _bound_to(address, destination_cid))
        except InvalidTag:
            raise PeerError("not a Retry token of ours, or for another address or connection ID") from None
        age = now - int.from_bytes(plain[:8], "big") / 1000
        # Workers' clocks may differ by a little, so a token may seem to come from the future.
        if not -LIFETIME <= age <= LIFETIME:
            raise PeerError("the Retry token is too old")
        return plain[8:]


def _bound_to(address: Address, cid: bytes) -> bytes:
    return ipaddress.ip_address(address[0]).packed + address[1].to_bytes(2, "big") + cid
