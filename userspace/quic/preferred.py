"""A server's preferred address (RFC 9000 §9.6 and §18.2): what it announces, and where a client of it goes.

The address is the server's word, authenticated with the handshake, but not to be believed when it names a place that only
the client can reach, on its own machine or in its own networks (RFC 9000 §21.5).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from .errors import LocalError
from .types import Address

PREFERRED_ADDRESS = 0x0D
"""The transport parameter."""
Announced = tuple[str, int] | None


def check_preferred(addresses: Sequence[Address], engine: str) -> None:
    """Raises LocalError when a server of that engine cannot announce them."""
    if not addresses:
        return
    if engine != "native":
        raise LocalError(f"the {engine} engine cannot announce a preferred address; native can")
    encode_preferred(addresses, bytes(1), bytes(16))


def encode_preferred(addresses: Sequence[Address], cid: bytes, token: bytes) -> bytes:
    """The value of the transport parameter. token: the stateless reset token of cid. Raises LocalError for what is not one
    address of each IP version at most, with a port."""
    encoded = {4: bytes(6), 6: bytes(18)}
    for host, port in addresses:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            raise LocalError(f"the preferred address {host!r} is not an IP address") from None
        if address.is_unspecified or address.is_multicast or not 0 < port < 65536:
            raise LocalError(f"{host} port {port} is nowhere that a client could go")
        if any(encoded[address.version]):
            raise LocalError(f"more than one preferred address of IP version {address.version}")
        encoded[address.version] = address.packed + port.to_bytes(2, "big")
    return encoded[4] + encoded[6] + bytes([len(cid)]) + cid + token


def preferred_of(ipv4: Announced, ipv6: Announced, remote: Address) -> Address | None:
    """Where a client goes whose server is at remote: of the same IP version, so that its socket reaches it. None: it stays."""
    host, percent, zone = remote[0].partition("%")
    present = ipaddress.ip_address(host)
    announced = ipv4 if present.version == 4 else ipv6
    if announced is None or not announced[1] or announced == remote:
        return None
    address = ipaddress.ip_address(announced[0])
    if (
        address.is_multicast
        or address.is_unspecified
        or address == ipaddress.ip_address("255.255.255.255")
        or (address.is_loopback and not present.is_loopback)
        or (address.is_link_local and not present.is_link_local)
        or (present.is_global and not address.is_global)
        or (isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None)
    ):
        return None
    # The zone is the client's own (RFC 4007 §11); the server cannot name it.
    return announced[0] + percent + zone if address.is_link_local else announced[0], announced[1]
