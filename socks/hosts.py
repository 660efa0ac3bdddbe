"""Host names and addresses as applications write them in requests: one strict reading for all protocols.

Read RFC 1123 §2.1, RFC 3986 §3.2.2, RFC 5952. What leaves this file is either a canonical IP literal without brackets
or a name of visible ASCII that can stand in a log, in a header and in a DNS query without being mistaken for anything
else. It must not resolve anything, and must not judge where an address leads: that is the exit's policy.
"""

from __future__ import annotations

import ipaddress
import re

MAX_NAME = 253
"""Bytes of a host name without the final dot: 255 octets on the wire (RFC 1035 §2.3.4) less a length and a root."""

_NAME = re.compile(rb"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
"""RFC 1123 labels, and the underscore, which real names in use contain."""


def parse_host(raw: bytes) -> str:
    """Read a name or an IP literal; IPv6 with or without brackets.

    Raises ValueError with a sentence that names the fault but repeats no byte of the input.
    """
    if not raw:
        raise ValueError("the host is empty")
    if b"\0" in raw:
        raise ValueError("the host contains a NUL")
    if not raw.isascii():
        raise ValueError("the host is not ASCII; use its A-label form (xn--...)")
    if raw.startswith(b"[") or b":" in raw:
        bracketed = raw.startswith(b"[") and raw.endswith(b"]")
        return _ipv6(raw[1:-1] if bracketed else raw)
    if raw.count(b".") == 3 and raw.replace(b".", b"").isdigit():
        try:
            return str(ipaddress.IPv4Address(raw.decode("ascii")))
        except ValueError:
            # Octal, oversized or overlong parts: C libraries disagree about what they mean, so they mean nothing.
            raise ValueError("the host looks like an IPv4 address but is not one") from None
    if len(raw.rstrip(b".")) > MAX_NAME:
        raise ValueError(f"the host name is longer than {MAX_NAME} bytes")
    if _NAME.fullmatch(raw) is None:
        raise ValueError("the host is neither a name nor an address")
    return raw.decode("ascii")


def parse_port(raw: bytes) -> int:
    """Read a port in decimal, 1 to 65535. Raises ValueError with a sentence."""
    if not raw.isdigit() or len(raw) > 5 or not 1 <= int(raw) <= 65535:
        raise ValueError("the port is not a number from 1 to 65535")
    return int(raw)


def format_authority(host: str, port: int, *, default_port: int = 0) -> str:
    """host:port, with brackets around IPv6, and without the port when it is default_port."""
    shown = f"[{host}]" if ":" in host else host
    return shown if port == default_port else f"{shown}:{port}"


def _ipv6(raw: bytes) -> str:
    # A zone identifier names an interface of this machine and means nothing at the far end (RFC 6874 §1).
    if b"%" in raw:
        raise ValueError("the host is an IPv6 address with a zone, which has no meaning at the exit")
    try:
        return str(ipaddress.IPv6Address(raw.decode("ascii")))
    except ValueError:
        raise ValueError("the host is not an IPv6 address") from None
