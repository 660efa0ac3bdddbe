"""Host names and addresses in their one form."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.egress.names import HostError, is_localhost, normalise_name, parse_host

from .test_special import words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
        ("ｅｘａｍｐｌｅ。com", "example.com"),
        ("_dmarc.example.com", "_dmarc.example.com"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        ("3com.example", "3com.example"),
        ("1.2.3.4.example", "1.2.3.4.example"),
    ],
)
def test_names(text: str, expected: str) -> None:
    assert parse_host(text) == expected


@pytest.mark.parametrize("text", ["8.8.8.8", "127.0.0.1", "::1", "2001:db8::1", "::ffff:7f00:1", "::ffff:127.0.0.1"])
def test_addresses(text: str) -> None:
    assert parse_host(text) == ip_address(text)


def test_full_width_digits_and_a_trailing_dot_are_still_that_address() -> None:
    assert parse_host("１２７。0.0.1") == ip_address("127.0.0.1")
    assert parse_host("127.0.0.1.") == ip_address("127.0.0.1")


@pytest.mark.parametrize(
    "text",
    [
        *words("""127.1 127 2130706433 0x7f000001 0x7f.1 0X7F.0.0.1 017700000001 0177.0.0.1 127.0.0.01 127.0.0.1.1 256.0.0.1
    1.2.3.0x4 0x 1.0x a.0x7f [::1] [127.0.0.1] ::1%lo fe80::1%eth0 127.0.0.1%lo ::1%25lo 12345::1 ::127.1 1:2:3
    a..b .a . .. exa$mple.com a/b a@b user@127.0.0.1 a\\b a:b"""),
        "",
        " ",
        "a b",
        "127.0.0.1 ",
        " 127.0.0.1",
        "a\0b",
        "a\n",
        "127.0.0.1\0.example",
        "a" * 64,
        "a." * 127 + "ab",
        "x" * 2000,
        "\udc80",
        "é" * 300,
        "xn--\x80",
    ],
)
def test_refused(text: str) -> None:
    with pytest.raises(HostError):
        parse_host(text)


@given(st.text(max_size=80))
def test_only_host_errors(text: str) -> None:
    try:
        parsed = parse_host(text)
    except HostError:
        return
    assert parse_host(str(parsed)) == parsed


@pytest.mark.parametrize("name", ["localhost", "a.localhost", "ip6-localhost", "localhost.localdomain"])
def test_localhost(name: str) -> None:
    assert is_localhost(normalise_name(name + "."))


def test_not_localhost() -> None:
    assert not is_localhost("localhost.example")
    assert not is_localhost("notlocalhost")
