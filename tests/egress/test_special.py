"""The built-in refusals: every block by its edges, and every way to hide an IPv4 address inside an IPv6 one."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.egress import special
from quicsocks.userspace.egress.special import (
    NAT64_LENGTHS,
    IPNetwork,
    embed,
    embedded_addresses,
    nat64_prefixes_from,
    refusals,
)


def words(text: str) -> list[str]:
    return text.split()


REFUSED = words("""
    0.0.0.0 0.0.0.1 0.255.255.255 10.0.0.0 10.255.255.255 100.64.0.0 100.127.255.255 127.0.0.1 127.255.255.255
    169.254.0.0 169.254.169.254 169.254.255.255 172.16.0.0 172.31.255.255 192.0.0.0 192.0.0.8 192.0.0.170 192.0.0.192
    192.0.2.1 192.31.196.1 192.52.193.1 192.88.99.1 192.168.0.0 192.168.255.255 192.175.48.1 198.18.0.0 198.19.255.255
    198.51.100.7 203.0.113.9 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.254 255.255.255.255
    168.63.129.16 100.100.100.200 192.80.8.124
    :: ::1 ::2 ::7f00:1 ::127.0.0.1 ::8.8.8.8 ::ffff:127.0.0.1 ::ffff:8.8.8.8 ::ffff:0:127.0.0.1 ::ffff:0:8.8.8.8
    64:ff9b::127.0.0.1 64:ff9b::10.0.0.1 64:ff9b::169.254.169.254 64:ff9b::168.63.129.16 64:ff9b:1::10.0.0.1
    64:ff9b:2::1 100::1 100:0:0:1::1 200::1 400::1 2001::1 2001:1::1 2001:2::1 2001:3::1 2001:4:112::1 2001:10::1
    2001:20::1 2001:30::1 2001:1ff:ffff::1 2001:db8::1 2002:7f00:1:: 2002:808:808::1 2620:4f:8000::1 3fff::1
    3fff:fff:ffff::1 4000::1 5f00::1 fc00::1 fd00::1 fd00:ec2::254 fd20:ce::254 fd00:c1::a9fe:a9fe fd00:42::42
    fe80::1 fe80::a9fe:a9fe fec0::1 ff02::1 ff0e::1
    2a00::5efe:7f00:1 2a00::200:5efe:808:808 2a00::100:5efe:808:808 2a00::300:5efe:808:808
    2001:0:808:808::f7f7:f7f7
""")

OPEN = words("""
    1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.1 169.253.255.255
    169.255.0.0 172.15.255.255 172.32.0.0 191.255.255.255 192.0.1.0 192.0.3.0 192.167.255.255 192.169.0.0
    198.17.255.255 198.20.0.0 223.255.255.255 168.63.129.15
    2001:200::1 2001:4860:4860::8888 2001:db7:ffff::1 2001:db9::1 2003::1 2606:4700::1111 2a00:1450::1 3ffe::1
    3fff:1000::1 64:ff9b::8.8.8.8 2a00::5eff:7f00:1
""")


@pytest.mark.parametrize("text", REFUSED)
def test_refused(text: str) -> None:
    found = list(refusals(ip_address(text)))
    assert found
    assert all(refusal.address in refusal.block and refusal.reason for refusal in found)


@pytest.mark.parametrize("text", OPEN)
def test_open(text: str) -> None:
    assert list(refusals(ip_address(text))) == []


@pytest.mark.parametrize("network", [block for block, _ in (*special.IPV4_BLOCKS, *special.IPV6_BLOCKS)])
def test_every_block_is_refused_to_its_edges(network: IPv4Network | IPv6Network) -> None:
    for address in (network[0], network[-1]):
        assert any(refusal.block == network for refusal in refusals(address))


def test_own_addresses() -> None:
    own: list[IPNetwork] = [IPv4Network("8.8.8.8/32"), IPv6Network("2a00:1450::/64")]
    assert [refusal.block for refusal in refusals(ip_address("8.8.8.8"), own)] == own[:1]
    assert [refusal.block for refusal in refusals(ip_address("2a00:1450::5"), own)] == own[1:]
    assert [refusal.address for refusal in refusals(ip_address("64:ff9b::8.8.8.8"), own)] == [ip_address("8.8.8.8")]
    assert list(refusals(ip_address("8.8.4.4"), own)) == []


def test_own_loopback_is_only_loopback() -> None:
    """Otherwise a rule for 127.0.0.0/8 would not lift 127.0.0.1."""
    found = list(refusals(ip_address("127.0.0.1"), [IPv4Network("127.0.0.1/32"), IPv4Network("127.0.0.0/8")]))
    assert [refusal.reason for refusal in found] == ["loopback (RFC 1122 §3.2.1.3)"]


# RFC 6052 §2.4: the table of examples.
RFC6052 = [
    ("2001:db8::/32", "2001:db8:c000:221::"),
    ("2001:db8:100::/40", "2001:db8:1c0:2:21::"),
    ("2001:db8:122::/48", "2001:db8:122:c000:2:2100::"),
    ("2001:db8:122:300::/56", "2001:db8:122:3c0:0:221::"),
    ("2001:db8:122:344::/64", "2001:db8:122:344:c0:2:2100::"),
    ("2001:db8:122:344::/96", "2001:db8:122:344::192.0.2.33"),
    ("64:ff9b::/96", "64:ff9b::192.0.2.33"),
]


@pytest.mark.parametrize(("prefix", "expected"), RFC6052)
def test_rfc6052_examples(prefix: str, expected: str) -> None:
    address = IPv4Address("192.0.2.33")
    embedded = embed(address, IPv6Network(prefix))
    assert embedded == IPv6Address(expected)
    assert address in embedded_addresses(embedded, [IPv6Network(prefix)])


def test_other_prefix_lengths_are_no_nat64() -> None:
    with pytest.raises(ValueError, match="NAT64 prefix"):
        embed(IPv4Address("8.8.8.8"), IPv6Network("2a00::/72"))


@given(
    st.integers(0, 2**32 - 1).map(IPv4Address),
    st.sampled_from(NAT64_LENGTHS),
    st.integers(0, 2**125 - 1),
)
def test_nat64_roundtrip_and_refusal(address: IPv4Address, length: int, bits: int) -> None:
    start = (1 << 125 | bits) >> (128 - length) << (128 - length)
    if length == 96:
        start &= ~(0xFF << 56)  # RFC 6052 §2.2: the octet is zero in a prefix of 96 bits as well
    prefix = IPv6Network((start, length))
    inside = embed(address, prefix)
    assert inside in prefix
    assert address in embedded_addresses(inside, [prefix])
    if list(refusals(address)):
        assert list(refusals(inside, nat64_prefixes=[prefix]))


@pytest.mark.parametrize("prefix", [entry[0] for entry in RFC6052])
def test_discovery(prefix: str) -> None:
    network = IPv6Network(prefix)
    answers = [embed(IPv4Address("192.0.0.170"), network), embed(IPv4Address("192.0.0.171"), network)]
    assert nat64_prefixes_from(answers) == (network,)


def test_discovery_without_dns64() -> None:
    assert nat64_prefixes_from([ip_address("192.0.0.170"), ip_address("::ffff:192.0.0.170")]) == ()
    assert nat64_prefixes_from([ip_address("2a00::1")]) == ()


def test_discovery_passes_over_an_ambiguous_record() -> None:
    """RFC 7050 §3: the address stands at two places."""
    twice = int(embed(IPv4Address("192.0.0.170"), IPv6Network("2a00::/32"))) | int(IPv4Address("192.0.0.170"))
    assert nat64_prefixes_from([IPv6Address(twice)]) == ()


def test_local_use_prefix_of_unknown_length_looks_everywhere() -> None:
    inside = embed(IPv4Address("10.1.2.3"), IPv6Network("64:ff9b:1:1::/64"))
    assert IPv4Address("10.1.2.3") in embedded_addresses(inside)
    # Once the length is known, only that reading counts, and a public address behind it may be dialled.
    known = IPv6Network("64:ff9b:1:1::/96")
    public = embed(IPv4Address("8.8.8.8"), known)
    assert list(refusals(public))
    assert list(refusals(public, nat64_prefixes=[known])) == []
