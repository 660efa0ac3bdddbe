"""Decides whether the exit may dial: the user's rules, first match wins, and the built-in refusals beneath them.

Read first: ``special`` (what is refused and why), ``rules`` (what the user can write). Pure decisions: no clock, no
socket, no resolver. ``check_name`` is asked before a name is resolved, ``check`` for each address before it is
dialled, and the address that was checked must be the one that is dialled.

Three things follow from "only an address rule lifts a built-in refusal":

* For an address that is refused by default, rules on names and ``*`` that allow are passed over, wherever they stand;
  the first rule that denies, or that allows it by an address range, decides.
* A range lifts what it names and no more: it must lie inside the refused block. ``--allow 10.0.0.0/8`` lifts RFC 1918's
  first block; ``--allow 0.0.0.0/0`` lifts nothing; the exit's own addresses and metadata services want their exact
  address.
* An address that embeds another (NAT64, 6to4 ...) needs the embedded one to be allowed as well, and a rule that denies
  an IPv4 range also denies it in disguise.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from ..tunnel.types import Cause
from .names import HostError, normalise_name
from .rules import Action, Rule
from .special import NAT64_LENGTHS, IPAddress, IPNetwork, Refusal, embedded_addresses, refusals


@dataclass(frozen=True, slots=True)
class Verdict:
    """cause: None when allowed, otherwise DENIED (a rule) or ADDRESS_PROHIBITED (built in). reason: one line for the
    log or the operator. rule: the rule that decided, if one did."""

    allowed: bool
    cause: Cause | None = None
    reason: str = ""
    rule: Rule | None = None


class Policy:
    """The rules and what is known of the exit's surroundings.

    rules: in the user's order. own_addresses: addresses and networks of the exit's host; replace them with
    ``set_own_addresses`` when they change. nat64_prefixes: those configured or discovered, see ``set_nat64_prefixes``.
    Raises ValueError for a prefix of a length that RFC 6052 does not know.
    """

    def __init__(
        self,
        rules: Iterable[Rule] = (),
        own_addresses: Iterable[IPAddress | IPNetwork] = (),
        nat64_prefixes: Iterable[IPv6Network] = (),
    ) -> None:
        self.rules = tuple(rules)
        self.state: object = None
        """Another object whenever verdicts may be others."""
        self._own: tuple[IPNetwork, ...] = ()
        self._nat64: tuple[IPv6Network, ...] = ()
        self.set_own_addresses(own_addresses)
        self.set_nat64_prefixes(nat64_prefixes)

    @property
    def own_addresses(self) -> tuple[IPNetwork, ...]:
        return self._own

    @property
    def nat64_prefixes(self) -> tuple[IPv6Network, ...]:
        return self._nat64

    def set_own_addresses(self, own_addresses: Iterable[IPAddress | IPNetwork]) -> None:
        own = tuple(dict.fromkeys(_as_network(entry) for entry in own_addresses))
        if own != self._own or self.state is None:
            self._own = own
            self.state = object()

    def set_nat64_prefixes(self, prefixes: Iterable[IPv6Network]) -> None:
        """Take the translators' prefixes. They only add refusals: who can forge the discovery (RFC 7050 §5) can close
        addresses but never open one, e.g. one of a unique local network."""
        found = tuple(dict.fromkeys(prefixes))
        for prefix in found:
            if prefix.prefixlen not in NAT64_LENGTHS:
                raise ValueError(f"a NAT64 prefix has one of {NAT64_LENGTHS} bits: {prefix}")
        self._nat64 = found
        self.state = object()

    def check_name(self, host_name: str, port: int) -> Verdict:
        """Whether a name need be resolved at all: a refusal here is final, and nothing was asked of any resolver.

        Address rules cannot be judged yet: an allowing one ahead of a denying name rule leaves the decision to
        ``check``.
        """
        name = _normalised(host_name)
        if name is None:
            return _NOT_A_NAME
        for rule in self.rules:
            if not rule.pattern.matches_port(port):
                continue
            if rule.pattern.network is not None:
                if rule.action is Action.ALLOW:
                    return _ALLOWED
            elif rule.pattern.matches_name(name):
                return _by_rule(rule)
        return _ALLOWED

    def check(self, host_name: str | None, address: IPAddress, port: int) -> Verdict:
        """Whether address may be dialled. host_name: what the client asked for, None when it gave an address.

        port: 1 to 65535. Raises nothing.
        """
        if isinstance(address, IPv6Address):
            if address.scope_id is not None:
                return Verdict(False, Cause.ADDRESS_PROHIBITED, "an address with a zone is of use on one link only")
            disguised = [*embedded_addresses(address, self._nat64)]
        else:
            disguised = []
        name = _normalised(host_name) if host_name is not None else None
        if host_name is not None and name is None:
            return _NOT_A_NAME
        if not 1 <= port <= 65535:
            return Verdict(False, Cause.DENIED, f"port {port} cannot be dialled")
        general = _ALLOWED
        for rule in self.rules:
            if not rule.pattern.matches_port(port):
                continue
            by_address = any(rule.pattern.matches_address(one) for one in (address, *disguised))
            if by_address or rule.pattern.matches_name(name):
                general = _by_rule(rule)
                break
        for refusal in refusals(address, self._own, self._nat64):
            verdict = self._lifted(refusal, name, address, disguised, port)
            if not verdict.allowed:
                return verdict
        return general

    def _lifted(
        self, refusal: Refusal, name: str | None, address: IPAddress, disguised: Iterable[IPAddress], port: int
    ) -> Verdict:
        for rule in self.rules:
            pattern = rule.pattern
            if not pattern.matches_port(port):
                continue
            if rule.action is Action.DENY:
                if pattern.matches_name(name) or any(pattern.matches_address(one) for one in (address, *disguised)):
                    return _by_rule(rule)
            elif pattern.matches_address(refusal.address) and _inside(pattern.network, refusal.block):
                return Verdict(True, rule=rule)
        hidden = f" inside {address}" if refusal.address != address else ""
        return Verdict(
            False,
            Cause.ADDRESS_PROHIBITED,
            f"{refusal.address}{hidden} is {refusal.reason}; only an --allow rule for an address range within"
            f" {refusal.block} lifts this",
        )


def _by_rule(rule: Rule) -> Verdict:
    if rule.action is Action.ALLOW:
        return Verdict(True, rule=rule)
    return Verdict(False, Cause.DENIED, f"denied by the rule {rule}", rule)


def _normalised(host_name: str) -> str | None:
    try:
        return normalise_name(host_name)
    except HostError:
        return None


def _inside(network: IPNetwork | None, block: IPNetwork) -> bool:
    if network is None or network.version != block.version:
        return False
    return network.prefixlen >= block.prefixlen and network.network_address in block


def _as_network(entry: IPAddress | IPNetwork) -> IPNetwork:
    if isinstance(entry, IPv4Address):
        return IPv4Network((int(entry), 32))
    if isinstance(entry, IPv6Address):
        return IPv6Network((int(entry), 128))
    return entry


_ALLOWED = Verdict(True)
_NOT_A_NAME = Verdict(False, Cause.NAME_NOT_FOUND, "not a host name")
