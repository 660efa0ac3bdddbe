"""One normal form for host names and addresses, so that rules, resolver and dialler speak of the same thing.

Read first: RFC 1123 §2.1, RFC 5890, RFC 6761, and WHATWG URL's "ends in a number" check. Pure functions. Whatever a
client sends passes through ``parse_host`` once, before any rule sees it; what it returns is the only form used
afterwards. It must not resolve.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address

from .special import IPAddress


class HostError(ValueError):
    """A host that is neither a name nor an address in its one usual form; the message says why."""


def parse_host(text: str) -> IPAddress | str:
    """Return an address, or a name in lower case, in its ASCII form (A-labels) and without a trailing dot.

    Addresses are taken in one form each: four decimal numbers, or RFC 4291 §2.2 without brackets and without a zone.
    All else that some C library would still read as an address (127.1, 0x7f.0.0.1, 017700000001, 2130706433) is no name
    either, so that no check is ever made on another reading than the one that is dialled. Raises HostError.
    """
    if not text or len(text) > MAX_HOST_CHARACTERS:
        raise HostError("the host is empty or too long")
    if "%" in text:
        raise HostError("an address with a zone is of use on one link only")
    if ":" in text:
        try:
            return IPv6Address(text)
        except ValueError:
            raise HostError("not an IPv6 address") from None
    name = normalise_name(text)
    last = name.rpartition(".")[2]
    if last.isdigit() or re.fullmatch(r"0x[0-9a-f]*", last):
        # A trailing dot does not make a name of an address ("127.0.0.1." is dialled as one by many): refused here,
        # because normalise_name has taken the dot away and IPv4Address then reads what every checker reads.
        try:
            return IPv4Address(name)
        except ValueError:
            raise HostError("not an IPv4 address of four decimal numbers") from None
    return name


def normalise_name(text: str) -> str:
    """Lower case, A-labels, no trailing dot. Raises HostError for what is no host name."""
    name = text
    if not name.isascii():
        try:
            # nameprep also folds full-width digits and the ideographic full stops into the plain ones.
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise HostError("not a valid internationalised name") from None
    name = name.lower()
    name = name.removesuffix(".")
    if not name or len(name) > MAX_NAME:
        raise HostError(f"a host name has 1 to {MAX_NAME} characters")
    for label in name.split("."):
        if not _LABEL.fullmatch(label):
            raise HostError("not a host name")
    return name


def is_localhost(name: str) -> bool:
    """Whether a normalised name is always this host's (RFC 6761 §6.3), whatever a resolver says."""
    return name in _LOCAL_NAMES or name.endswith((".localhost", ".localhost.localdomain"))


MAX_NAME = 253
"""Characters of a name without its trailing dot: 255 octets on the wire (RFC 1035 §2.3.4)."""

MAX_HOST_CHARACTERS = 1024
"""What is looked at in all: a U-label can be longer than its A-label, but not by this much."""

# Underscores are no host name's by RFC 952, yet they are in use and resolvers take them. Hyphens at the ends likewise.
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")
# The names that distributions put into /etc/hosts for 127.0.0.1 and ::1 beside the reserved one.
_LOCAL_NAMES = frozenset(["localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "localhost6"])
