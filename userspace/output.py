"""Handing a link to the person who asked for it, and to nobody else; and the host that links name.

A link with a token is a secret. It is written to a terminal, or, when standard output is a file or a journal, into a file
of mode 0600 whose name is written instead; ``--print-link`` writes it whatever standard output is. Asking the kernel
which address it would use sends no packet.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable
from typing import TextIO

from .link import Link, LinkError, is_name, parse_authority
from .quic.types import Address
from .state import StateFolder

_TO_GIVE = "links-to-give"
_PROBES = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Documentation addresses (RFC 5737, RFC 3849): covered by the default route, and nobody's."""


def hand_out_link(link: Link, folder: StateFolder, stdout: TextIO, *, print_link: bool = False) -> str:
    """Write a link to stdout or to a file in the state folder; returns a line to tell the user, without the token.

    Raises StateError when the file cannot be written.
    """
    name = link.name if is_name(link.name) else "client"
    if print_link or stdout.isatty():
        stdout.write(link.uri + "\n")
        stdout.flush()
        forget_link(folder, name)
        return f"link for {name}: save it on the other machine with: quicsocks link add {name}"
    links = folder.subfolder(_TO_GIVE)
    links.write(f"{name}.link", (link.uri + "\n").encode("ascii"))
    path = links.file(f"{name}.link")
    stdout.write(f"{path}\n")
    stdout.flush()
    return f"link for {name} is in {path} (use --print-link to have it on standard output)"


def forget_link(folder: StateFolder, name: str) -> None:
    """Remove the file with a client's earlier link, which no longer enrols anybody. Raises StateError."""
    if folder.file(_TO_GIVE).is_dir():
        folder.subfolder(_TO_GIVE).remove(f"{name}.link")


def link_host(
    public_name: str | None,
    public_port: int | None,
    listening: tuple[Address, ...],
    route: Callable[[socket.AddressFamily, str], str | None] | None = None,
) -> tuple[str, int, str]:
    """Host and port for links, and a remark for the user, empty when they were given.

    listening: the addresses that are really bound. Raises LinkError for an unusable public_name.
    """
    port = public_port or next((port for _, port in listening if port), 0)
    if public_name is not None:
        # The settings hold the host alone, an IPv6 address without its brackets.
        authority = f"[{public_name}]" if public_name.count(":") > 1 and "[" not in public_name else public_name
        try:
            host, named_port = parse_authority(authority, port)
        except LinkError as error:
            raise LinkError(f"--public-name {public_name}: {str(error).removeprefix('bad link: ')}") from None
        return host, public_port or named_port, ""
    for host, _ in listening:
        if not ipaddress.ip_address(host.partition("%")[0]).is_unspecified:
            return host.partition("%")[0], port, _remark(host)
    families = {6 if ":" in host else 4 for host, _ in listening}
    candidates = []
    for family, probe in _PROBES:
        # A socket on :: takes IPv4 as well.
        if family == socket.AF_INET or 6 in families:
            found = (route if route is not None else route_source)(family, probe)
            if found is not None:
                candidates.append(found)
    candidates.sort(key=_plausibility)
    host = candidates[0] if candidates else "127.0.0.1"
    return host, port, _remark(host)


def shown_address(host: str, port: int) -> str:
    """host:port, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def route_source(family: socket.AddressFamily, destination: str) -> str | None:
    """The local address from which packets to destination would be sent; None without a route."""
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((destination, 9))
            return str(probe.getsockname()[0]).partition("%")[0]
    except OSError:
        return None


def _plausibility(host: str) -> int:
    """Lower is better: reachable from everywhere before reachable from somewhere, IPv4 before IPv6."""
    address = ipaddress.ip_address(host)
    if address.is_loopback or address.is_link_local:
        return 4
    return (0 if address.is_global else 2) + (address.version == 6)


def _remark(host: str) -> str:
    address = ipaddress.ip_address(host.partition("%")[0])
    where = "" if address.is_global else ", which is not reachable from the Internet"
    return f"links name {host}{where}; set another host with --public-name HOST[:PORT]"
