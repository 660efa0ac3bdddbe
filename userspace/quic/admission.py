"""Who may begin a handshake: counts of those under way, in total and per source prefix.

The counts are asked before anything is made for a newcomer, so that neither one neighbourhood nor the whole Internet
can make the server hold more than the configured number of unfinished handshakes.
"""

from __future__ import annotations

import enum
import ipaddress
from collections import Counter

from .types import ListenConfig

IPV4_PREFIX = 24
IPV6_PREFIX = 56
"""What one customer of a provider commonly has (RFC 6177); a /24 is the smallest routed IPv4 network."""


class Verdict(enum.Enum):
    ADMIT = "admit"
    RETRY = "validate the address first"
    FULL = "too many handshakes under way"
    PREFIX_FULL = "too many handshakes under way from this prefix"
    SESSIONS_FULL = "too many connections"


class Admission:
    def __init__(self) -> None:
        self.half_open = 0
        self._by_prefix: Counter[int] = Counter()

    def judge(self, host: str, config: ListenConfig, sessions: int, *, validated: bool) -> Verdict:
        """sessions: connections that exist, half-open ones included. validated: the address has been."""
        if sessions >= config.max_sessions:
            return Verdict.SESSIONS_FULL
        if self.half_open >= config.max_half_open:
            return Verdict.FULL
        if self._by_prefix[prefix_of(host)] >= config.max_half_open_per_prefix:
            return Verdict.PREFIX_FULL
        if self.half_open >= config.retry_above and not validated:
            return Verdict.RETRY
        return Verdict.ADMIT

    def begin(self, host: str) -> None:
        self.half_open += 1
        self._by_prefix[prefix_of(host)] += 1

    def end(self, host: str) -> None:
        """The handshake is over, well or ill."""
        prefix = prefix_of(host)
        self.half_open -= 1
        self._by_prefix[prefix] -= 1
        if not self._by_prefix[prefix]:
            del self._by_prefix[prefix]


def prefix_of(host: str) -> int:
    """A number for the network that host belongs to; those of IPv4 and IPv6 never meet."""
    address = ipaddress.ip_address(host)
    if address.version == 4:
        return int(address) >> (32 - IPV4_PREFIX)
    return 1 << 64 | int(address) >> (128 - IPV6_PREFIX)
