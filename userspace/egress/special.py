"""Which addresses the exit never dials by itself, and which IPv4 addresses hide inside IPv6 ones.

Read first: RFC 6890 and RFC 8190 (the special-purpose registries), IANA's IPv4 and IPv6 Special-Purpose Address
Registries, RFC 6052 §2.2 (IPv4-embedded IPv6 addresses). Plain data and pure functions: no clock, no socket, and no
knowledge of rules; ``policy`` decides what lifts a refusal.

A whole registered block is refused, also the parts of it that are globally reachable (2001:20::/28, 192.0.0.9/32 ...):
nothing that people browse to lives there, and a block that is refused whole cannot be opened by a later assignment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an address is not dialled. block: the refused network; a rule that lifts it must lie inside it.

    address: the address that is refused: the one asked about, or an IPv4 address that it embeds.
    """

    address: IPAddress
    block: IPNetwork
    reason: str


def refusals(
    address: IPAddress, own: Iterable[IPNetwork] = (), nat64_prefixes: Iterable[IPv6Network] = ()
) -> Iterator[Refusal]:
    """Yield every built-in refusal of address, those of embedded IPv4 addresses included; nothing when it may be
    dialled.

    own: networks of the exit's own host. nat64_prefixes: translators' prefixes beside the well-known one (RFC 7050);
    each of 32, 40, 48, 56, 64 or 96 bits.
    """
    for network in own:
        # Loopback is on every host and has its own entry in the tables, which a rule for 127.0.0.0/8 lifts.
        if address in network and not address.is_loopback:
            yield Refusal(address, network, "an address of the exit's own host")
    if address in METADATA:
        yield Refusal(address, _host_network(address), "a cloud provider's metadata or platform service")
    if isinstance(address, IPv4Address):
        for block4, reason in IPV4_BLOCKS:
            if address in block4:
                yield Refusal(address, block4, reason)
        return
    matched = False
    for block6, reason in IPV6_BLOCKS:
        if address in block6:
            matched = True
            yield Refusal(address, block6, reason)
    if not matched and address not in GLOBAL_UNICAST and not any(address in p for p in _NAT64_KNOWN):
        yield Refusal(address, IPv6Network("::/0"), "outside of global unicast (RFC 4291 §2.4)")
    if _is_isatap(address):
        yield Refusal(address, IPv6Network((int(address) >> 32 << 32, 96)), "ISATAP (RFC 5214 §6.1)")
    for embedded in embedded_addresses(address, nat64_prefixes):
        yield from refusals(embedded, own)


def embedded_addresses(address: IPv6Address, nat64_prefixes: Iterable[IPv6Network] = ()) -> list[IPv4Address]:
    """List the IPv4 addresses that a packet to address may end up at, without repeats; often none."""
    value = int(address)
    low = value & 0xFFFFFFFF
    found: list[int] = []
    if address in _IPV4_MAPPED or address in _IPV4_TRANSLATED or (address in _IPV4_COMPATIBLE and low > 1):
        found.append(low)
    if address in _SIX_TO_FOUR:
        found.append(value >> 80 & 0xFFFFFFFF)
    if address in _TEREDO:
        # RFC 4380 §4: the server in bits 32 to 63, the client's address with every bit inverted in the last 32.
        found += [value >> 64 & 0xFFFFFFFF, low ^ 0xFFFFFFFF]
    if _is_isatap(address):
        found.append(low)
    if address in _NAT64_WELL_KNOWN:
        found.append(low)
    prefixes = [prefix for prefix in nat64_prefixes if address in prefix]
    found += [_extract(value, prefix.prefixlen) for prefix in prefixes]
    if address in _NAT64_LOCAL and not prefixes:
        # RFC 8215 reserves a /48 and leaves the translator's length open: until it is discovered, all are looked at.
        found += [_extract(value, length) for length in (48, 56, 64, 96)]
    return [IPv4Address(number) for number in dict.fromkeys(found)]


def nat64_prefixes_from(answers: Iterable[IPAddress]) -> tuple[IPv6Network, ...]:
    """Find translators' prefixes in the AAAA records of ipv4only.arpa (RFC 7050 §3); IPv4 answers are passed over.

    Each record is one of the two well-known IPv4 addresses embedded in a prefix, at one of the six places of
    RFC 6052 §2.2. A record in which it stands at no place, or at two (§3: ambiguous), tells nothing.
    """
    prefixes: list[IPv6Network] = []
    for answer in answers:
        if not isinstance(answer, IPv6Address) or answer.ipv4_mapped is not None:
            continue
        value = int(answer)
        lengths = [length for length in NAT64_LENGTHS if IPv4Address(_extract(value, length)) in _IPV4ONLY_ARPA]
        if len(lengths) == 1:
            prefixes.append(IPv6Network((value >> (128 - lengths[0]) << (128 - lengths[0]), lengths[0])))
    return tuple(dict.fromkeys(prefixes))


def embed(address: IPv4Address, prefix: IPv6Network) -> IPv6Address:
    """Put an IPv4 address into a translator's prefix (RFC 6052 §2.2). Raises ValueError for another prefix length."""
    if prefix.prefixlen not in NAT64_LENGTHS:
        raise ValueError(f"a NAT64 prefix has one of {NAT64_LENGTHS} bits, not {prefix.prefixlen}")
    number = int(address)
    if prefix.prefixlen == 96:
        return IPv6Address(int(prefix.network_address) | number)
    before = 64 - prefix.prefixlen  # bits of the address that stand before the reserved octet 64 to 71
    head, tail = number >> (32 - before), number & ((1 << (32 - before)) - 1)
    return IPv6Address(int(prefix.network_address) | head << 64 | tail << (56 - (32 - before)))


def _extract(value: int, length: int) -> int:
    """The IPv4 address that stands behind a prefix of this length: bits 64 to 71 are passed over (RFC 6052 §2.2)."""
    if length == 96:
        return value & 0xFFFFFFFF
    without_octet = value >> 64 << 56 | value & ((1 << 56) - 1)  # the 120 bits around the reserved octet
    return without_octet >> (120 - length - 32) & 0xFFFFFFFF


def _is_isatap(address: IPv6Address) -> bool:
    # RFC 5214 §6.1: the interface identifier is 0000:5efe or 0200:5efe and the IPv4 address. The u and g bits say
    # nothing about where a packet goes, so all four values of them count.
    return int(address) >> 32 & 0xFCFFFFFF == 0x00005EFE


def _host_network(address: IPAddress) -> IPNetwork:
    return IPv4Network((int(address), 32)) if isinstance(address, IPv4Address) else IPv6Network((int(address), 128))


NAT64_LENGTHS = (32, 40, 48, 56, 64, 96)

_IPV4_MAPPED = IPv6Network("::ffff:0:0/96")
_IPV4_TRANSLATED = IPv6Network("::ffff:0:0:0/96")
_IPV4_COMPATIBLE = IPv6Network("::/96")
_SIX_TO_FOUR = IPv6Network("2002::/16")
_TEREDO = IPv6Network("2001::/32")
_NAT64_WELL_KNOWN = IPv6Network("64:ff9b::/96")
_NAT64_LOCAL = IPv6Network("64:ff9b:1::/48")
_NAT64_KNOWN = (_NAT64_WELL_KNOWN, _NAT64_LOCAL)
_IPV4ONLY_ARPA = (IPv4Address("192.0.0.170"), IPv4Address("192.0.0.171"))  # RFC 7050 §8.2

GLOBAL_UNICAST = IPv6Network("2000::/3")
"""All that IANA allocates from (IPv6 Address Space registry). What lies outside is special, or unassigned."""

METADATA: frozenset[IPAddress] = frozenset(
    [
        IPv4Address("169.254.169.254"),  # AWS, Azure, Google, Oracle, DigitalOcean, Hetzner, OpenStack ...
        IPv4Address("169.254.170.2"),  # AWS: task credentials of ECS
        IPv4Address("169.254.170.23"),  # AWS: credentials of EKS pods
        IPv4Address("169.254.42.42"),  # Scaleway
        IPv4Address("169.254.0.23"),  # Tencent
        IPv4Address("168.63.129.16"),  # Azure's WireServer: a public address that is only reachable from inside
        IPv4Address("100.100.100.200"),  # Alibaba
        IPv4Address("192.0.0.192"),  # Oracle, classic
        IPv4Address("192.80.8.124"),  # Equinix Metal: public, reachable from inside
        IPv6Address("fe80::a9fe:a9fe"),  # OpenStack
        IPv6Address("fd00:ec2::254"),  # AWS
        IPv6Address("fd00:ec2::23"),  # AWS: credentials of EKS pods
        IPv6Address("fd20:ce::254"),  # Google
        IPv6Address("fd00:c1::a9fe:a9fe"),  # Oracle
        IPv6Address("fd00:42::42"),  # Scaleway
        IPv6Address("fd00:a9fe:a9fe::1"),  # Akamai
        IPv6Address("fd00:100::100:200"),  # Alibaba
    ]
)
"""Where clouds hand credentials to whoever asks. From the providers' documentation and cloud-init's data sources."""

IPV4_BLOCKS: tuple[tuple[IPv4Network, str], ...] = tuple(
    (IPv4Network(block), reason)
    for block, reason in (
        ("0.0.0.0/32", "the unspecified address"),
        ("0.0.0.0/8", "this network (RFC 791 §3.2)"),
        ("10.0.0.0/8", "private (RFC 1918)"),
        ("100.64.0.0/10", "shared address space (RFC 6598)"),
        ("127.0.0.0/8", "loopback (RFC 1122 §3.2.1.3)"),
        ("169.254.0.0/16", "link-local (RFC 3927)"),
        ("172.16.0.0/12", "private (RFC 1918)"),
        ("192.0.0.0/24", "IETF protocol assignments (RFC 6890 §2.1)"),
        ("192.0.2.0/24", "documentation (RFC 5737)"),
        ("192.31.196.0/24", "AS112 (RFC 7535)"),
        ("192.52.193.0/24", "AMT (RFC 7450)"),
        ("192.88.99.0/24", "6to4 relay anycast (RFC 7526)"),
        ("192.168.0.0/16", "private (RFC 1918)"),
        ("192.175.48.0/24", "AS112 (RFC 7534)"),
        ("198.18.0.0/15", "benchmarking (RFC 2544)"),
        ("198.51.100.0/24", "documentation (RFC 5737)"),
        ("203.0.113.0/24", "documentation (RFC 5737)"),
        ("224.0.0.0/4", "multicast (RFC 5771)"),
        ("240.0.0.0/4", "reserved (RFC 1112 §4)"),
        ("255.255.255.255/32", "limited broadcast (RFC 919 §7)"),
    )
)

IPV6_BLOCKS: tuple[tuple[IPv6Network, str], ...] = tuple(
    (IPv6Network(block), reason)
    for block, reason in (
        ("::/128", "the unspecified address"),
        ("::1/128", "loopback (RFC 4291 §2.5.3)"),
        ("::/96", "IPv4-compatible (RFC 4291 §2.5.5.1)"),
        ("::ffff:0:0/96", "IPv4-mapped (RFC 4291 §2.5.5.2)"),
        ("::ffff:0:0:0/96", "IPv4-translated (RFC 2765 §2.1)"),
        ("100::/64", "discard-only (RFC 6666)"),
        ("100:0:0:1::/64", "dummy prefix (RFC 9780)"),
        ("2001::/23", "IETF protocol assignments (RFC 2928): Teredo, ORCHID, benchmarking and others"),
        ("2001::/32", "Teredo (RFC 4380)"),
        ("2001:db8::/32", "documentation (RFC 3849)"),
        ("2002::/16", "6to4 (RFC 3056)"),
        ("2620:4f:8000::/48", "AS112 (RFC 7534)"),
        ("3fff::/20", "documentation (RFC 9637)"),
        ("5f00::/16", "segment routing (RFC 9602)"),
        ("fc00::/7", "unique local (RFC 4193)"),
        ("fe80::/10", "link-local (RFC 4291 §2.5.6)"),
        ("fec0::/10", "site-local (RFC 3879)"),
        ("ff00::/8", "multicast (RFC 4291 §2.7)"),
    )
)
