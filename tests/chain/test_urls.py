"""URLs of proxies: what they mean, and one line for what they get wrong, without the password."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quicsocks.userspace.chain.inbound import InboundConfig
from quicsocks.userspace.chain.upstream import Upstream
from quicsocks.userspace.chain.urls import parse_proxy_url
from quicsocks.userspace.quic.errors import LocalError


def test_parts() -> None:
    url = parse_proxy_url("SOCKS5://us%40er:pa%3Ass@[2001:db8::1]:1080/?a=b&c=")
    assert (url.scheme, url.host, url.port) == ("socks5", "2001:db8::1", 1080)
    assert (url.user, url.password) == ("us@er", "pa:ss")
    assert url.options == {"a": "b", "c": ""}
    assert url.shown == "socks5://[2001:db8::1]:1080"
    assert "pa" not in repr(url)
    assert parse_proxy_url("ss://x:y@Example.COM").host == "example.com"


def test_sip002() -> None:
    userinfo = base64.urlsafe_b64encode(b"aes-256-gcm:pass:w@rd").decode().rstrip("=")
    url = parse_proxy_url(f"ss://{userinfo}@192.0.2.1:8388")
    assert (url.user, url.password) == ("aes-256-gcm", "pass:w@rd")


BAD = [
    ("127.0.0.1:80", "looks like"),
    ("://x", "looks like"),
    ("ss://a:b@host:port", "no valid host and port"),
    ("ss://a:b@host:70000", "no valid host and port"),
    ("ss://a:b@[::1:80", "no valid host and port"),
    ("ss://a:b@host:80/path", "has a path"),
    ("socks5://127.1:80", "host: not an IPv4 address"),
    ("socks5://a b:80", "host: not a host name"),
    ("ss://%%%@host:80", "CIPHER:PASSWORD"),
    ("socks5://host:80?nonsense", "query that cannot be read"),
]


@pytest.mark.parametrize(("text", "hint"), BAD)
def test_bad_urls(text: str, hint: str) -> None:
    with pytest.raises(LocalError, match=hint) as caught:
        parse_proxy_url(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("trojan://secretword@host:1", "takes socks5://, http:// and ss://"),
        ("socks5://", "host is missing"),
        ("ss://aes-128-gcm:secretword@host", "port is missing"),
        ("ss://aes-128-cfb:secretword@host:1", "only the AEAD ciphers"),
        ("socks5://secretword:secretword@host:1?x=y", "unknown option 'x'; it takes none"),
        ("socks5://" + "u" * 256 + ":secretword@host:1", "at most 255 bytes"),
    ],
)
def test_bad_upstreams(text: str, hint: str) -> None:
    with pytest.raises(LocalError, match=hint) as caught:
        Upstream.parse(text)
    assert "secretword" not in str(caught.value)


def test_upstreams() -> None:
    assert Upstream.parse("socks5h://proxy.example").port == 1080
    assert Upstream.parse("http://u:p@proxy.example").port == 8080
    upstream = Upstream.parse("ss://aes-256-gcm:secretword@proxy.example:8388")
    assert upstream.cipher is not None
    assert "secretword" not in repr(upstream)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("socks5://127.0.0.1:1080", "one listener; write --listen HOST:PORT"),
        ("http://127.0.0.1:1080", "one listener"),
        ("ws://127.0.0.1:1", "never recognises"),
        ("quic://127.0.0.1:1", "not one of ss, ssr, trojan"),
        ("ss://rc4-md5:secretword@127.0.0.1:1", "only the AEAD ciphers"),
        ("ss://aes-128-gcm:secretword@127.0.0.1", "port is missing"),
        ("ss://aes-128-gcm:secretword@127.0.0.1:1?plugin=x", "unknown option 'plugin'"),
        ("trojan://127.0.0.1:1?cert=a&key=b", "password is missing"),
        ("trojan://secretword@127.0.0.1:1", "needs a certificate"),
        ("trojan://secretword@127.0.0.1:1?cert=/nonexistent&key=/nonexistent", "cannot use the certificate"),
        ("tunnel://127.0.0.1:1", "say where it leads"),
        ("tunnel://127.0.0.1:1?to=host", "say where it leads"),
        ("tunnel://secretword@127.0.0.1:1?to=host:2", "has no passwords"),
        ("redir://127.0.0.1:1?to=host:2", "unknown option 'to'"),
    ],
)
def test_bad_inbounds(text: str, hint: str) -> None:
    with pytest.raises(LocalError, match=hint) as caught:
        InboundConfig.parse(text)
    assert "secretword" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_a_host_it_listens_on_loopback() -> None:
    assert InboundConfig.parse("ss://aes-128-gcm:x@:8388").host == "127.0.0.1"


@given(st.text(max_size=60))
def test_only_local_errors(text: str) -> None:
    for parse in (parse_proxy_url, Upstream.parse, InboundConfig.parse):
        for candidate in (text, f"ss://{text}", f"socks5://{text}:1"):
            try:
                parsed = parse(candidate)
            except LocalError:
                continue
            assert "://" in parsed.shown
