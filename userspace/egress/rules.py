"""Rules on destinations as people write them: ``10.0.0.0/8:22``, ``*.example.com:443``, ``[2001:db8::]/32:53``.

Read first: ``names`` (the normal form). A rule speaks of a name, of an address range, or of everything (``*``), each
with optional ports. Pure data and parsing of the user's input: every error is a ``RuleError`` with one line that says
what is wrong and what to write. It must not resolve and knows no built-in refusal.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_network

from ..quic.errors import LocalError
from .names import HostError, parse_host
from .special import IPAddress, IPNetwork


class RuleError(LocalError):
    """A rule that cannot be understood. The message is one line for the user."""


class Action(enum.Enum):
    ALLOW = "allow"
    DENY = "deny"


@dataclass(frozen=True, slots=True)
class Pattern:
    """What a rule matches: exactly one of network, name and suffix is set, or none of them for ``*``.

    name: a normalised host name. suffix: ``.example.com`` for ``*.example.com``, which matches any depth below and not
    example.com itself (as in certificates and NO_PROXY lists, write both). ports: inclusive ranges; empty means all.
    """

    text: str
    network: IPNetwork | None = None
    name: str | None = None
    suffix: str | None = None
    ports: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Pattern:
        """Raises RuleError."""
        shown = _shown(text)
        if "://" in text:
            raise RuleError(f"rule {shown}: write a host and perhaps a port, not a URL")
        match = _SHAPE.fullmatch(text.strip())
        if match is None:
            # An IPv6 address without brackets: it has colons of its own and so no room for ports.
            return cls(text.strip(), network=_network(text.strip(), shown))
        host, port_text = match["host"], match["ports"]
        ports = _ports(port_text, shown) if port_text is not None else ()
        if match["inside"] is not None:
            length = (match["inner"] or "") + (match["outer"] or "")
            network = _network(match["inside"] + length, shown)
            if network.version != 6:
                raise RuleError(f"rule {shown}: brackets are for IPv6 addresses; write {network} without them")
            return cls(text.strip(), network=network, ports=ports)
        if host == "*":
            return cls(text.strip(), ports=ports)
        if "/" in host or _NUMERIC.fullmatch(host):
            return cls(text.strip(), network=_network(host, shown), ports=ports)
        wildcard = host.startswith("*.")
        try:
            parsed = parse_host(host[2:] if wildcard else host)
        except HostError as error:
            raise RuleError(
                f"rule {shown}: {error}; write a name, *.name, an address or a range such as 10.0.0.0/8"
            ) from None
        if not isinstance(parsed, str):
            raise RuleError(f"rule {shown}: write the address as {parsed}")
        if wildcard:
            return cls(text.strip(), suffix="." + parsed, ports=ports)
        return cls(text.strip(), name=parsed, ports=ports)

    @property
    def is_everything(self) -> bool:
        """Whether the pattern is ``*``: any name and any address."""
        return self.network is None and self.name is None and self.suffix is None

    def matches_port(self, port: int) -> bool:
        return not self.ports or any(low <= port <= high for low, high in self.ports)

    def matches_name(self, name: str | None) -> bool:
        """Whether a name rule (or ``*``) matches; name is normalised, or None when the client gave an address."""
        if self.network is not None:
            return False
        if self.name is None and self.suffix is None:
            return True
        if name is None:
            return False
        return name == self.name if self.name is not None else name.endswith(self.suffix or "")

    def matches_address(self, address: IPAddress) -> bool:
        """Whether an address rule matches; False for rules on names and for ``*``."""
        return self.network is not None and address.version == self.network.version and address in self.network


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the user's policy."""

    action: Action
    pattern: Pattern

    @classmethod
    def parse(cls, action: Action, text: str) -> Rule:
        """Raises RuleError."""
        return cls(action, Pattern.parse(text))

    @classmethod
    def allow(cls, text: str) -> Rule:
        return cls.parse(Action.ALLOW, text)

    @classmethod
    def deny(cls, text: str) -> Rule:
        return cls.parse(Action.DENY, text)

    def __str__(self) -> str:
        return f"--{self.action.value} {self.pattern.text}"


def parse_rules(lines: Iterable[str]) -> tuple[Rule, ...]:
    """Parse ``allow PATTERN`` and ``deny PATTERN`` in order, as a file has them. Raises RuleError."""
    rules = []
    for line in lines:
        action, _, pattern = line.strip().partition(" ")
        if action not in ("allow", "deny") or not pattern.strip():
            raise RuleError(f"rule {_shown(line)}: write allow or deny, a space and a destination, e.g. deny *:25")
        rules.append(Rule.parse(Action(action), pattern))
    return tuple(rules)


def _network(text: str, shown: str) -> IPNetwork:
    if "%" in text:
        raise RuleError(f"rule {shown}: zones such as %eth0 cannot be used in rules; leave the zone out")
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        meant = ip_network(text, strict=False)
    except ValueError:
        raise RuleError(
            f"rule {shown}: not an address or a range; write 192.0.2.1, 10.0.0.0/8 or [2001:db8::]/32, each with"
            " optional ports, e.g. 10.0.0.0/8:22"
        ) from None
    raise RuleError(f"rule {shown}: the address has bits set behind its prefix; write {meant}") from None


def _ports(text: str, shown: str) -> tuple[tuple[int, int], ...]:
    ranges = []
    for part in text.split(","):
        match = _PORT_RANGE.fullmatch(part.strip())
        if match is None:
            raise RuleError(f"rule {shown}: {_shown(part)} is no port; write 443 or 8080-8090, separated by commas")
        low = int(match[1])
        high = int(match[2]) if match[2] is not None else low
        if not 1 <= low <= high <= 65535:
            raise RuleError(f"rule {shown}: ports go from 1 to 65535, the lower one first, not {part.strip()}")
        ranges.append((low, high))
    return tuple(ranges)


def _shown(text: str) -> str:
    """The user's text in an error: printable and short."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


# host, or [inside] with the prefix length before or after the closing bracket; then :ports.
_SHAPE = re.compile(
    r"(?:\[(?P<inside>[^\]/]*)(?P<inner>/\d+)?\](?P<outer>/\d+)?|(?P<host>[^:\[\]]*))(?::(?P<ports>[^:]*))?"
)
_NUMERIC = re.compile(r"[0-9.]+")
_PORT_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
