"""Values as users write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace import config_values
from quicsocks.userspace.config_schema import (
    CLIENT_SETTINGS,
    COMMON_SETTINGS,
    CONCENTRATOR_SETTINGS,
    EXIT_SETTING,
    LINK_SETTING,
    Scope,
    Setting,
)
from quicsocks.userspace.config_values import Listen, convert, parse_address, parse_listen, parse_rule
from quicsocks.userspace.settings import Rule

ALL = (*COMMON_SETTINGS, *CLIENT_SETTINGS, *CONCENTRATOR_SETTINGS, EXIT_SETTING, LINK_SETTING)


def setting(key: str, scope: Scope = Scope.CLIENT) -> Setting:
    return next(one for one in ALL if one.key == key and one.scope in (scope, Scope.COMMON))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (90, 90),
        (1.5, 1.5),
        ("90", 90),
        ("1.5s", 1.5),
        ("2h4min", 7440),
        ("2h 4m", 7440),
        ("250ms", 0.25),
        ("7d", 604800),
        (0, 0),
    ],
)
def test_seconds(raw: object, expected: float) -> None:
    assert config_values.seconds(raw) == pytest.approx(expected)


@pytest.mark.parametrize(
    "raw", ["", "h", "1x", "1 2", "-1", "1h-2s", "1e9", "nan", "1..2", -1, True, [], float("nan"), float("inf")]
)
def test_bad_seconds(raw: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        config_values.seconds(raw)


@pytest.mark.parametrize(
    ("raw", "expected"), [(5, 5), ("65536", 65536), ("64k", 65536), ("1M", 1 << 20), ("2 GiB", 2 << 30), ("3kb", 3072)]
)
def test_size(raw: object, expected: int) -> None:
    assert config_values.size(raw) == expected


@pytest.mark.parametrize("raw", ["", "k", "1.5k", "-1", "1T", 1.5, None, "9" * 30])
def test_bad_size(raw: object) -> None:
    with pytest.raises(ValueError, match="must be"):
        config_values.size(raw)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:1080", Listen(tcp=("127.0.0.1", 1080))),
        ("127.0.0.1", Listen(tcp=("127.0.0.1", 1080))),
        ("127.0.0.1:0", Listen(tcp=("127.0.0.1", 0))),
        ("1081", Listen(tcp=("127.0.0.1", 1081))),
        ("localhost:9", Listen(tcp=("127.0.0.1", 9))),
        ("[::1]:9", Listen(tcp=("::1", 9))),
        ("::1", Listen(tcp=("::1", 1080))),
        ("unix:/run/q.sock", Listen(unix=Path("/run/q.sock"))),
        ("/run/q.sock", Listen(unix=Path("/run/q.sock"))),
        ("unix:q.sock", Listen(unix=Path("/base/q.sock"))),
        ("ss://aes-256-gcm:p@127.0.0.1:1", Listen(url="ss://aes-256-gcm:p@127.0.0.1:1")),
    ],
)
def test_client_listen(text: str, expected: Listen) -> None:
    assert parse_listen(text, Scope.CLIENT, Path("/base")) == expected


def test_concentrator_listen() -> None:
    assert parse_listen("443", Scope.CONCENTRATOR) == Listen(tcp=("::", 443))
    assert parse_listen("0.0.0.0:443", Scope.CONCENTRATOR) == Listen(tcp=("0.0.0.0", 443))
    for wrong in ("unix:/x", "/x", "127.0.0.1", "ss://x"):
        with pytest.raises(ValueError):
            parse_listen(wrong, Scope.CONCENTRATOR)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (":1080", "127.0.0.1:1080 for this machine only"),
        ("example.com:1", "not an IP address; a name is not taken"),
        ("127.0.0.1:x", "'x' is not a port"),
        ("127.0.0.1:65536", "not a port"),
        ("::1:99999", r"is written \[::1\]:1080"),
        ("[::1", r"is written \[::1\]:1080"),
        ("[::1]1", r"is written \[::1\]:1080"),
        ("0x7f.1:1", "not an IP address"),
        ("127.1:1", "not an IP address"),
    ],
)
def test_bad_addresses(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_listen(text, Scope.CLIENT)


def test_dns_address() -> None:
    assert convert(setting("dns"), "9.9.9.9") == ("9.9.9.9", 53)
    assert parse_address("[2620:fe::fe]:5353", 53) == ("2620:fe::fe", 5353)
    with pytest.raises(ValueError, match="port 0"):
        parse_address("9.9.9.9:0", 53)
    with pytest.raises(ValueError, match="has no port"):
        parse_address("9.9.9.9", None)


def test_rules() -> None:
    assert parse_rule("direct 192.168.0.0/16:22", Scope.CLIENT) == Rule("direct", "192.168.0.0/16:22")
    assert parse_rule("  block   *.example.com ", Scope.CLIENT) == Rule("block", "*.example.com")
    assert parse_rule(("deny", "*"), Scope.CONCENTRATOR) == Rule("deny", "*")
    for wrong, words in (("direct", "a rule is"), ("deny x", "not with 'deny'"), ("block 10.0.0.0/99", "10.0.0.0/99")):
        with pytest.raises(ValueError, match=words):
            parse_rule(wrong, Scope.CLIENT)
    with pytest.raises(ValueError, match="a rule begins with allow or deny"):
        parse_rule("tunnel *", Scope.CONCENTRATOR)


def test_lists_from_variables() -> None:
    assert convert(setting("no_proxy"), "a; b\n c ;;") == ("a", "b", "c")
    assert convert(setting("rules"), "direct 10.0.0.0/8:22,80; block *") == (
        Rule("direct", "10.0.0.0/8:22,80"),
        Rule("block", "*"),
    )
    assert convert(setting("no_proxy"), []) == ()
    with pytest.raises(ValueError, match="must be a list, not a number"):
        convert(setting("no_proxy"), 3)
    with pytest.raises(ValueError, match="must be text, not a table"):
        convert(setting("no_proxy"), [{}])


@pytest.mark.parametrize(
    ("key", "raw", "words"),
    [
        ("once", "maybe", "true or false, not 'maybe'"),
        ("once", 1, "true or false, not a number"),
        ("limits.connections", "x", "whole number, not 'x'"),
        ("limits.connections", 1.5, "whole number, not a number"),
        ("limits.connections", True, "whole number, not true or false"),
        ("limits.connections", 0, "must be from 1 to"),
        ("limits.header_size", "1", "must be from 1024"),
        ("verbosity", 3, "from -1 to 2"),
        ("log_format", "xml", "one of text, json, not 'xml'"),
        ("log_format", 1, "must be text, not a number"),
        ("username", "a\0b", "NUL"),
        ("name", "a b", "cannot be a name"),
        ("state", "", "must not be empty"),
    ],
)
def test_errors(key: str, raw: object, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        convert(setting(key), raw)


@pytest.mark.parametrize(
    "text", ["socks5://h", "socks4://h:1", "h:1", "socks5://[::1:1", "http://:80", "ss://x:y@h:99999"]
)
def test_bad_upstream_does_not_repeat_what_was_given(text: str) -> None:
    with pytest.raises(ValueError, match="must be socks5://host:port") as caught:
        convert(setting("upstream", Scope.CONCENTRATOR), f"{text}?hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(("raw", "expected"), [("1", True), ("Yes", True), ("off", False), ("", False), (True, True)])
def test_booleans(raw: object, expected: bool) -> None:
    assert convert(setting("once"), raw) is expected


def test_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert convert(setting("state"), "~/q", Path("/etc")) == Path("/home/me/q")
    assert convert(setting("state"), "q", Path("/etc")) == Path("/etc/q")
    assert convert(setting("state"), "/q", Path("/etc")) == Path("/q")
    monkeypatch.delenv("HOME")
    with pytest.raises(ValueError, match="HOME is not set"):
        config_values.path("~/q")


def test_public_name() -> None:
    assert config_values.public_name("GW.example.com.:443") == ("gw.example.com", 443)
    assert config_values.public_name("[2001:db8::1]:443") == ("2001:db8::1", 443)
    assert config_values.public_name("2001:db8::1") == ("2001:db8::1", None)
    for wrong in ("a b", "h:x", "-h", ""):
        with pytest.raises(ValueError) as caught:
            config_values.public_name(wrong)
        assert "bad link" not in str(caught.value)


raw_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), st.dates()),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=5,
)


@given(st.sampled_from(ALL), raw_values)
def test_any_value_is_converted_or_a_value_error_of_one_line(one: Setting, raw: object) -> None:
    try:
        convert(one, raw)
    except ValueError as error:
        message = str(error)
    else:
        message = "fine"
    assert message
    assert "\n" not in message
