"""The grammar of rules, and the line that says what is wrong with one."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.egress.rules import Action, Pattern, Rule, RuleError, parse_rules


@pytest.mark.parametrize(
    ("text", "network", "ports"),
    [
        ("10.0.0.0/8", "10.0.0.0/8", ()),
        ("10.0.0.0/8:22", "10.0.0.0/8", ((22, 22),)),
        ("192.0.2.1:80,443,8080-8090", "192.0.2.1/32", ((80, 80), (443, 443), (8080, 8090))),
        ("2001:db8::/32", "2001:db8::/32", ()),
        ("[2001:db8::]/32:53", "2001:db8::/32", ((53, 53),)),
        ("[2001:db8::/32]:53", "2001:db8::/32", ((53, 53),)),
        ("[::1]", "::1/128", ()),
        ("::1", "::1/128", ()),
        ("[::1]:22", "::1/128", ((22, 22),)),
    ],
)
def test_networks(text: str, network: str, ports: tuple[tuple[int, int], ...]) -> None:
    pattern = Pattern.parse(text)
    assert str(pattern.network) == network
    assert pattern.ports == ports
    assert not pattern.matches_name("example.com")
    assert not pattern.is_everything


def test_names() -> None:
    exact = Pattern.parse("Example.com.:443")
    assert exact.matches_name("example.com")
    assert not exact.matches_name("www.example.com")
    assert not exact.matches_name(None)
    assert exact.matches_port(443)
    assert not exact.matches_port(80)
    below = Pattern.parse("*.bücher.example")
    assert below.matches_name("a.b.xn--bcher-kva.example")
    assert not below.matches_name("xn--bcher-kva.example")
    assert not below.matches_name("notxn--bcher-kva.example")
    assert not below.matches_address(ip_address("10.0.0.1"))


def test_everything() -> None:
    pattern = Pattern.parse("*:1-1024")
    assert pattern.is_everything
    assert pattern.matches_name(None)
    assert pattern.matches_name("example.com")
    assert not pattern.matches_address(ip_address("10.0.0.1"))
    assert [pattern.matches_port(port) for port in (1, 1024, 1025)] == [True, True, False]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("10.0.0.1/8", "write 10.0.0.0/8"),
        ("2001:db8::1/32", "write 2001:db8::/32"),
        ("10.0.0.0/33", "not an address or a range"),
        ("0x7f.0.0.1/8", "not an address or a range"),
        ("127.1", "not an address or a range"),
        ("::1%lo", "leave the zone out"),
        ("[::1%lo]:22", "leave the zone out"),
        ("[10.0.0.1]:22", "without them"),
        ("example.com:http", "'http' is no port"),
        ("example.com:", "'' is no port"),
        ("example.com:0", "from 1 to 65535"),
        ("example.com:70000", "from 1 to 65535"),
        ("example.com:90-80", "from 1 to 65535"),
        ("exam*ple.com", "not a host name"),
        ("foo.*", "not a host name"),
        ("*.*.com", "not a host name"),
        ("", "empty"),
        ("http://example.com", "not a URL"),
        ("0x7f.1", "not an IPv4 address"),
        ("2130706433.", "not an address"),
        ("example.com/8", "not an address"),
        ("x" * 300, "1 to 253"),
        ("::1:99999", "not an address"),
    ],
)
def test_errors_are_one_line(text: str, hint: str) -> None:
    with pytest.raises(RuleError) as caught:
        Pattern.parse(text)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_rules_from_lines() -> None:
    rules = parse_rules(["allow 10.0.0.0/8:22", " deny  *:25 "])
    assert [(rule.action, rule.pattern.ports) for rule in rules] == [
        (Action.ALLOW, ((22, 22),)),
        (Action.DENY, ((25, 25),)),
    ]
    assert str(rules[0]) == "--allow 10.0.0.0/8:22"
    for line in ("", "allow", "permit *", "deny "):
        with pytest.raises(RuleError, match="write allow or deny"):
            parse_rules([line])


@given(st.text(max_size=60))
def test_only_rule_errors(text: str) -> None:
    try:
        rule = Rule.allow(text)
    except RuleError:
        return
    assert Pattern.parse(rule.pattern.text) == rule.pattern
