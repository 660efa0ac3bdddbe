"""Which UDP addresses to bind on a host that may lack an address family."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence

from .quic.types import Address

ANY = {socket.AF_INET: "0.0.0.0", socket.AF_INET6: "::"}


def has_family(family: socket.AddressFamily) -> bool:
    """Whether a UDP socket of the family can be bound: an IPv6 that is compiled out, or turned off, cannot."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as sock:
            sock.bind((ANY[family], 0))
    except OSError:
        return False
    return True


def to_listen(asked: Sequence[Address], has: Callable[[socket.AddressFamily], bool] = has_family) -> list[Address]:
    """``::`` stands for both families, each with a socket of its own, as far as the host has them. Other addresses are
    taken as they are: a family that was asked for and is missing is an error when it is bound."""
    found: list[Address] = []
    for host, port in asked:
        if host == "::":
            found += [(address, port) for family, address in ANY.items() if has(family)] or [(host, port)]
        else:
            found.append((host, port))
    return list(dict.fromkeys(found))


def to_dial(has: Callable[[socket.AddressFamily], bool] = has_family) -> list[Address]:
    """One address to dial from for each family that the host has."""
    return [(address, 0) for family, address in ANY.items() if has(family)]
