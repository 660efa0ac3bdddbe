"""Rules and built-in refusals together: what lifts what, in which order, and that nothing slips past in disguise."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.egress import special
from quicsocks.userspace.egress.names import HostError, parse_host
from quicsocks.userspace.egress.policy import Policy, Verdict
from quicsocks.userspace.egress.rules import Rule, parse_rules
from quicsocks.userspace.egress.special import IPAddress, embed
from quicsocks.userspace.tunnel.types import Cause

from .test_special import OPEN, REFUSED


def policy(*lines: str, own: tuple[str, ...] = (), nat64: tuple[str, ...] = ()) -> Policy:
    return Policy(parse_rules(lines), [ip_address(one) for one in own], [IPv6Network(one) for one in nat64])


def check(rules: Policy, host: str, port: int = 443, name: str | None = None) -> Cause | None:
    verdict = rules.check(name, ip_address(host), port)
    assert verdict.allowed == (verdict.cause is None)
    return verdict.cause


# Defaults


@pytest.mark.parametrize("text", OPEN)
def test_public_addresses_are_allowed(text: str) -> None:
    assert check(policy(), text) is None


@pytest.mark.parametrize("text", REFUSED)
def test_special_addresses_are_prohibited(text: str) -> None:
    assert check(policy(), text) is Cause.ADDRESS_PROHIBITED


@pytest.mark.parametrize("text", REFUSED)
@pytest.mark.parametrize("lines", [["allow *"], ["allow *.example.com", "allow *"], ["allow 0.0.0.0/0", "allow *:443"]])
def test_names_and_everything_lift_nothing(text: str, lines: list[str]) -> None:
    assert check(policy(*lines), text, name="a.example.com") is Cause.ADDRESS_PROHIBITED


def test_the_reason_says_what_would_lift_it() -> None:
    verdict = policy().check(None, ip_address("64:ff9b::10.1.2.3"), 80)
    assert verdict == Verdict(
        False,
        Cause.ADDRESS_PROHIBITED,
        "10.1.2.3 inside 64:ff9b::a01:203 is private (RFC 1918); only an --allow rule for an address range within"
        " 10.0.0.0/8 lifts this",
    )


# Lifting


@pytest.mark.parametrize(
    ("rule", "host"),
    [
        ("allow 10.0.0.0/8", "10.1.2.3"),
        ("allow 10.1.0.0/16:443", "10.1.2.3"),
        ("allow 10.1.2.3", "10.1.2.3"),
        ("allow 127.0.0.0/8", "127.0.0.1"),
        ("allow [::1]:443", "::1"),
        ("allow fd00::/8", "fd00::2"),
        ("allow 169.254.169.254", "169.254.169.254"),
        ("allow 10.0.0.0/8", "64:ff9b::10.1.2.3"),
        ("allow 200::/7", "200::1"),
        ("allow ff02::/16", "ff02::1"),
    ],
)
def test_an_address_rule_lifts(rule: str, host: str) -> None:
    assert check(policy(rule), host) is None
    assert check(policy("allow *", rule), host, name="db.example") is None


@pytest.mark.parametrize(
    ("rule", "host"),
    [
        ("allow 10.1.0.0/16:22", "10.1.2.3"),
        ("allow 10.2.0.0/16", "10.1.2.3"),
        ("allow 8.0.0.0/6", "10.1.2.3"),
        ("allow 0.0.0.0/0", "10.1.2.3"),
        ("allow ::/0", "fd00::2"),
        ("allow 169.254.0.0/16", "169.254.169.254"),
        ("allow 64:ff9b::/96", "64:ff9b::10.1.2.3"),
        ("allow ::ffff:0:0/96", "::ffff:10.1.2.3"),
        ("allow 10.0.0.0/8", "::ffff:10.1.2.3"),
        ("allow 2002::/16", "2002:0a01:0203::1"),
        ("allow 127.0.0.0/8", "::1"),
    ],
)
def test_a_rule_lifts_no_more_than_it_names(rule: str, host: str) -> None:
    assert check(policy(rule), host) is Cause.ADDRESS_PROHIBITED


def test_a_disguise_needs_both_to_be_lifted() -> None:
    rules = policy("allow 2002::/16", "allow 10.0.0.0/8")
    assert check(rules, "2002:0a01:0203::1") is None


def test_own_addresses_want_their_exact_address() -> None:
    rules = policy("allow 10.0.0.0/8", own=("10.0.0.5", "8.8.8.8", "2a00::1"))
    assert check(rules, "10.0.0.6") is None
    for own in ("10.0.0.5", "8.8.8.8", "2a00::1", "64:ff9b::8.8.8.8"):
        assert check(rules, own) is Cause.ADDRESS_PROHIBITED
    assert check(policy("allow 10.0.0.5", own=("10.0.0.5",)), "10.0.0.5") is None


def test_own_addresses_can_change() -> None:
    rules = policy()
    assert check(rules, "8.8.8.8") is None
    rules.set_own_addresses([IPv4Network("8.8.0.0/16")])
    assert check(rules, "8.8.8.8") is Cause.ADDRESS_PROHIBITED


# Order


def test_first_match_wins() -> None:
    assert check(policy("allow 8.8.8.8", "deny *"), "8.8.8.8") is None
    assert check(policy("allow 8.8.8.8", "deny *"), "8.8.4.4") is Cause.DENIED
    assert check(policy("deny 8.8.8.0/24", "allow 8.8.8.8"), "8.8.8.8") is Cause.DENIED
    assert check(policy("deny *:25", "allow *"), "8.8.8.8", 25) is Cause.DENIED
    assert check(policy("deny *:25", "allow *"), "8.8.8.8", 26) is None


def test_a_deny_ahead_of_the_lifting_rule_wins() -> None:
    assert check(policy("deny 10.1.0.0/16", "allow 10.0.0.0/8"), "10.1.2.3") is Cause.DENIED
    assert check(policy("deny db.example", "allow 10.0.0.0/8"), "10.1.2.3", name="db.example") is Cause.DENIED
    assert check(policy("deny *", "allow 10.0.0.0/8"), "10.1.2.3") is Cause.DENIED


def test_a_deny_after_the_lifting_rule_does_not_count() -> None:
    assert check(policy("allow 10.0.0.0/8:443", "deny *"), "10.1.2.3") is None


def test_an_ipv4_deny_rule_holds_in_disguise() -> None:
    rules = policy("deny 93.184.216.0/24", nat64=("2a00:64::/96",))
    assert check(rules, "64:ff9b::93.184.216.34") is Cause.DENIED
    assert check(rules, str(embed(IPv4Address("93.184.216.34"), IPv6Network("2a00:64::/96")))) is Cause.DENIED
    assert check(rules, "64:ff9b::93.184.217.34") is None


def test_names_in_rules() -> None:
    rules = policy("deny ads.example", "allow *.example", "deny *")
    assert check(rules, "8.8.8.8", name="www.example") is None
    assert check(rules, "8.8.8.8", name="WWW.Example.") is None
    assert check(rules, "8.8.8.8", name="ADS.example.") is Cause.DENIED
    assert check(rules, "8.8.8.8", name="example") is Cause.DENIED
    assert check(rules, "8.8.8.8") is Cause.DENIED


# Before resolution


@pytest.mark.parametrize(
    ("lines", "allowed"),
    [
        ((), True),
        (("deny db.example",), False),
        (("deny *.example",), False),
        (("deny *",), False),
        (("deny *:80",), True),
        (("allow db.example", "deny *"), True),
        (("allow 10.0.0.0/8", "deny db.example"), True),  # 10.x may be what it resolves to
        (("deny 10.0.0.0/8", "deny db.example"), False),
        (("allow 10.0.0.0/8:80", "deny db.example"), False),
    ],
)
def test_before_resolution(lines: tuple[str, ...], allowed: bool) -> None:
    verdict = policy(*lines).check_name("DB.example.", 443)
    assert verdict.allowed is allowed
    assert verdict.cause is (None if allowed else Cause.DENIED)


def test_what_is_no_name() -> None:
    assert policy().check_name("a b", 80).cause is Cause.NAME_NOT_FOUND
    assert policy().check("a b", ip_address("8.8.8.8"), 80).cause is Cause.NAME_NOT_FOUND


# Odd input


def test_zones_and_ports() -> None:
    assert check(policy("allow fe80::/10"), "fe80::1%eth0") is Cause.ADDRESS_PROHIBITED
    for port in (0, -1, 65536):
        assert check(policy("allow *"), "8.8.8.8", port) is Cause.DENIED


def test_prefixes_of_other_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="NAT64 prefix"):
        policy(nat64=("2a00::/33",))


def test_a_discovered_prefix_only_adds_refusals() -> None:
    """Who forges the discovery cannot open a unique local network."""
    rules = policy(nat64=("fd00:64::/96",))
    assert check(rules, "fd00:64::8.8.8.8") is Cause.ADDRESS_PROHIBITED


# Properties

v4_refused = st.sampled_from([block for block, _ in special.IPV4_BLOCKS]).flatmap(
    lambda block: st.integers(int(block[0]), int(block[-1])).map(IPv4Address)
)
name_rules = st.lists(
    st.sampled_from(["allow *", "allow *.example", "allow a.example", "allow *:443", "allow *:1-65535"]), max_size=4
)


def spellings(address: IPv4Address) -> list[str]:
    """Ways to write an IPv4 address that some resolver, library or kernel understands."""
    number, octets = int(address), address.packed
    a, b, c, d = octets
    embeddings: list[IPAddress] = [
        IPv6Address(0xFFFF << 32 | number),
        IPv6Address(number),
        IPv6Address(0xFFFF << 48 | number),
        IPv6Address(0x2002 << 112 | number << 80),
        IPv6Address(0x20010000 << 96 | number << 64),
        IPv6Address(0x20010000 << 96 | 0x08080808 << 64 | number ^ 0xFFFFFFFF),
        IPv6Address(0x2A000000 << 96 | 0x00005EFE << 32 | number),
        IPv6Address(0x2A000000 << 96 | 0x02005EFE << 32 | number),
        embed(address, IPv6Network("64:ff9b::/96")),
        *(embed(address, IPv6Network((0x0064FF9B0001 << 80, length))) for length in (48, 56, 64, 96)),
        *(embed(address, IPv6Network((0x2A100064 << 96, length))) for length in special.NAT64_LENGTHS),
    ]
    return [
        str(address),
        f"{address}.",
        f"[{address}]",
        f"{address}%lo",
        str(number),
        hex(number),
        oct(number).replace("0o", "0"),
        f"{a}.{number & 0xFFFFFF}",
        f"{a}.{b}.{c << 8 | d}",
        f"0{a:o}.0{b:o}.0{c:o}.0{d:o}",
        f"{a:#x}.{b:#x}.{c:#x}.{d:#x}",
        f"{a:03}.{b:03}.{c:03}.{d:03}" if a < 100 else f"0{a}.{b}.{c}.{d}",
        f"::ffff:{address}",
        f"::{address}",
        f"64:ff9b::{address}",
        *(str(one) for one in embeddings),
        *(one.exploded for one in embeddings),
        *(f"[{one}]" for one in embeddings),
        *(f"{one}%1" for one in embeddings),
    ]


NAT64 = [IPv6Network((0x2A100064 << 96, length)) for length in special.NAT64_LENGTHS]


@given(v4_refused, name_rules, st.integers(1, 65535))
def test_no_spelling_of_a_refused_address_gets_past_names(address: IPv4Address, lines: list[str], port: int) -> None:
    rules = Policy(parse_rules(lines), nat64_prefixes=NAT64)
    for text in spellings(address):
        try:
            parsed = parse_host(text)
        except HostError:
            continue
        assert not isinstance(parsed, str), f"{text} would be given to a resolver"
        for name in (None, "a.example"):
            assert not rules.check(name, parsed, port).allowed, text


@given(
    st.one_of(st.integers(0, 2**32 - 1).map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address)),
    st.lists(
        st.sampled_from(
            ["allow *", "deny *:25", "allow 10.0.0.0/8", "deny 8.0.0.0/8", "allow ::/0", "deny a.example", "allow ::1"]
        ),
        max_size=5,
    ),
    st.sampled_from([None, "a.example", "b.example"]),
    st.sampled_from([25, 443]),
)
def test_what_is_allowed_is_either_not_refused_or_named_by_an_address_rule(
    address: IPAddress, lines: list[str], name: str | None, port: int
) -> None:
    rules = [Rule.allow(line[6:]) if line.startswith("allow") else Rule.deny(line[5:]) for line in lines]
    verdict = Policy(rules).check(name, address, port)
    if verdict.allowed:
        for refusal in special.refusals(address):
            assert any(rule.action.value == "allow" and rule.pattern.matches_address(refusal.address) for rule in rules)
    else:
        assert verdict.cause in (Cause.DENIED, Cause.ADDRESS_PROHIBITED)
        assert verdict.reason
