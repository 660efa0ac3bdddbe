"""Opens UDP sockets with the best that the platform has to offer."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys

from . import udp_default
from .errors import LocalError
from .types import Address
from .udp_default import BUFFER

if sys.platform == "linux":
    from .udp_linux import UdpSocket
else:
    from .udp_default import UdpSocket

__all__ = ["BUFFER", "PORTABLE", "UdpSocket", "adopt", "bind", "open_socket"]

PORTABLE = sys.platform != "linux" or os.environ.get("QUICSOCKS_UDP") == "portable"
"""Only the calls that every system has; the variable is a switch for tests."""


def open_socket(local: Address, number: int) -> udp_default.UdpSocket:
    """Bind a socket to local. Raises LocalError that says what to do about it."""
    return adopt(bind(local), number)


def adopt(bound: socket.socket, number: int) -> udp_default.UdpSocket:
    """Prepare a bound socket, which is closed when that fails. Raises LocalError."""
    try:
        return udp_default.UdpSocket(bound, number) if PORTABLE else UdpSocket(bound, number)
    except OSError as error:
        name = bound.getsockname()
        bound.close()
        raise _refused((name[0], name[1]), error) from error


def bind(local: Address, *, reuse_port: bool = False) -> socket.socket:
    """A non-blocking socket that is bound to local, and to nothing else. Raises LocalError.

    reuse_port: join those of our user that are bound to it with SO_REUSEPORT.
    """
    host, port = local
    try:
        version = ipaddress.ip_address(host.partition("%")[0]).version
    except ValueError:
        raise LocalError(f"{host!r} is not an IP address") from None
    bound = socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
    try:
        bound.setblocking(False)
        if version == 6:
            # IPv4 has a socket of its own; a mapped address would be a second name for the same peer.
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if reuse_port:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise _refused(local, error) from error
    return bound


def _refused(local: Address, error: OSError) -> LocalError:
    reason = os.strerror(error.errno) if error.errno else str(error)
    return LocalError(f"cannot listen on UDP {_shown(local)}: {reason}; {_advice(error)}")


def _advice(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return "ports below 1024 need a privilege, choose a higher one"
    return "choose another address or port, or stop what uses it"


def _shown(address: Address) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
