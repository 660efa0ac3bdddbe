"""From what a user wrote to a value of the right type: text from flags and variables, TOML or JSON values from files.

``convert`` is the one entry. Everything that cannot be understood is a ValueError with a clause that says what is wrong
and what would be right; whoever calls it puts where it was written in front. Nothing is opened, resolved or read.
"""

from __future__ import annotations

import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from .config_schema import Kind, Scope, Setting
from .egress.rules import Pattern, RuleError
from .link import is_name, normalised_host
from .quic.types import Address
from .settings import DEFAULT_SOCKS_PORT, EGRESS_ACTIONS, ROUTES, Rule

DNS_PORT = 53
MAX_ITEMS = 10_000
"""Items of a list: rules are looked at one after the other for every connection."""
UPSTREAM_SCHEMES = ("socks5", "http", "ss")

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off", ""})
_DURATION = re.compile(r"(?:(\d+(?:\.\d+)?)\s*(ms|s|min|m|h|d)\s*)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+)\s*([kmg]?)(?:i?b)?\Z", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Listen:
    """One front door; exactly one of the three is set."""

    tcp: Address | None = None
    unix: Path | None = None
    url: str | None = None


def convert(setting: Setting, raw: object, base: Path | None = None) -> object:
    """The typed value of a setting. base: the folder that relative paths are relative to; None for the current one.

    Raises ValueError.
    """
    if setting.kind in (Kind.LIST, Kind.LISTEN, Kind.RULES):
        items = _items(raw)
        if setting.kind is Kind.RULES:
            return tuple(parse_rule(item, setting.scope) for item in items)
        if setting.kind is Kind.LISTEN:
            return tuple(parse_listen(_text(item), setting.scope, base) for item in items)
        return tuple(_text(item) for item in items)
    if setting.kind is Kind.FLAG:
        return _boolean(raw)
    if setting.kind in (Kind.COUNT, Kind.SIZE, Kind.SECONDS):
        number = _count(raw) if setting.kind is Kind.COUNT else size(raw) if setting.kind is Kind.SIZE else seconds(raw)
        if not setting.minimum <= number <= setting.maximum:
            raise ValueError(f"must be from {setting.minimum:g} to {setting.maximum:g}")
        return number
    text = _text(raw)
    if setting.kind is Kind.CHOICE:
        if text not in setting.choices:
            raise ValueError(f"must be one of {', '.join(setting.choices)}, not {text!r}")
        return text
    if setting.kind is Kind.PATH:
        return path(text, base)
    if setting.kind is Kind.ADDRESS:
        return parse_address(text, DNS_PORT)
    if setting.kind is Kind.HOST:
        return _ip(text)
    if setting.kind is Kind.NAME and not is_name(text):
        raise ValueError(f"{text!r} cannot be a name; use up to 63 letters, digits, '.', '_' and '-'")
    if setting.key == "upstream":
        return _upstream(text)
    return text


def path(text: str, base: Path | None = None) -> Path:
    """A path; ``~`` is the home folder."""
    if not text:
        raise ValueError("must not be empty")
    found = Path(text)
    if text == "~" or text.startswith("~/"):
        home = os.environ.get("HOME", "")
        if not home:
            raise ValueError("~ has no meaning here, because HOME is not set")
        found = Path(home) / text[2:]
    return found if base is None or found.is_absolute() else base / found


def seconds(raw: object) -> float:
    """Seconds from a number, or from text such as ``90``, ``1.5s`` or ``2h4min``."""
    if isinstance(raw, (int, float)) and not isinstance(raw, bool):
        number = float(raw)
    else:
        text = _text(raw).strip().lower()
        try:
            number = float(text) if re.fullmatch(r"[0-9.]+", text) else _duration(text)
        except ValueError:
            raise ValueError(f"must be a time such as 90, 1.5s or 2h4min, not {text!r}") from None
    if not 0 <= number < float("inf"):
        raise ValueError("must be a time of 0 or more")
    return number


def size(raw: object) -> int:
    """Bytes from a number, or from text such as ``65536``, ``64k`` or ``10M`` (powers of 1024)."""
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    text = _text(raw).strip()
    match = _SIZE.match(text)
    if match is None or len(match[1]) > 18:
        raise ValueError(f"must be a number of bytes such as 65536, 64k or 10M, not {text!r}")
    return int(match[1]) << (10 * " kmg".index(match[2].lower() or " "))


def parse_address(text: str, default_port: int | None, *, any_port: bool = False) -> Address:
    """``1.2.3.4:53``, ``[::1]:53``, and without a port when there is a default. ``localhost`` is 127.0.0.1."""
    host, port = _split_port(text)
    if port is None:
        if default_port is None:
            raise ValueError(f"{text!r} has no port; write address:port, such as 127.0.0.1:1080")
        port = default_port
    if port == 0 and not any_port:
        raise ValueError("port 0 means nothing here")
    return _ip("127.0.0.1" if host.lower() == "localhost" else host), port


def parse_listen(text: str, scope: Scope, base: Path | None = None) -> Listen:
    """One item of ``listen``."""
    text = text.strip()
    if scope is Scope.CONCENTRATOR:
        if text.isdigit():
            return Listen(tcp=("::", _port(text)))
        return Listen(tcp=parse_address(text, None, any_port=True))
    if text.isdigit():
        return Listen(tcp=("127.0.0.1", _port(text)))
    if text.startswith("unix:"):
        return Listen(unix=path(text.removeprefix("unix:"), base))
    if text.startswith(("/", "~/")):
        return Listen(unix=path(text, base))
    if _SCHEME.match(text):
        return Listen(url=text)
    return Listen(tcp=parse_address(text, DEFAULT_SOCKS_PORT, any_port=True))


def parse_rule(raw: object, scope: Scope) -> Rule:
    """``ACTION PATTERN`` as text, or the pair that a flag gives."""
    actions = EGRESS_ACTIONS if scope is Scope.CONCENTRATOR else ROUTES
    if isinstance(raw, tuple):
        action, pattern = raw
    else:
        words = _text(raw).split(None, 1)
        if len(words) != 2:
            raise ValueError(f"a rule is {' or '.join(actions)} and a pattern, e.g. '{actions[-1]} *.example.com:443'")
        action, pattern = words
    if action not in actions:
        raise ValueError(f"a rule begins with {' or '.join(actions)}, not with {action!r}")
    try:
        Pattern.parse(pattern)
    except RuleError as error:
        raise ValueError(str(error)) from None
    return Rule(action, pattern.strip())


def public_name(text: str) -> tuple[str, int | None]:
    """``HOST`` or ``HOST:PORT``."""
    host, port = _split_port(text)
    try:
        return normalised_host(host), port
    except ValueError as error:
        raise ValueError(str(error).removeprefix("bad link: ")) from None


def is_loopback(address: Address) -> bool:
    """Whether a listener there can be reached from this machine only."""
    return ipaddress.ip_address(address[0].partition("%")[0]).is_loopback


def _items(raw: object) -> list[object]:
    if isinstance(raw, str):
        # From a variable; neither separator occurs in an address or a rule.
        items: list[object] = [item.strip() for item in re.split(r"[;\n]", raw) if item.strip()]
    elif isinstance(raw, (list, tuple)):
        items = list(raw)
    else:
        raise ValueError(f"must be a list, not {_kind(raw)}")
    if len(items) > MAX_ITEMS:
        raise ValueError(f"has more than {MAX_ITEMS} items")
    return items


def _text(raw: object) -> str:
    if not isinstance(raw, str):
        raise ValueError(f"must be text, not {_kind(raw)}")
    if "\0" in raw:
        raise ValueError("contains a NUL")
    return raw


def _boolean(raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and raw.strip().lower() in _TRUE | _FALSE:
        return raw.strip().lower() in _TRUE
    raise ValueError(
        f"must be true or false, not {raw!r}" if isinstance(raw, str) else f"must be true or false, not {_kind(raw)}"
    )


def _count(raw: object) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    if isinstance(raw, str) and re.fullmatch(r"\s*-?[0-9]{1,18}\s*", raw):
        return int(raw)
    raise ValueError(
        f"must be a whole number, not {raw!r}" if isinstance(raw, str) else f"must be a whole number, not {_kind(raw)}"
    )


def _duration(text: str) -> float:
    total, position = 0.0, 0
    while position < len(text):
        match = _DURATION.match(text, position)
        if match is None:
            raise ValueError(text)
        total += float(match[1]) * _UNITS[match[2]]
        position = match.end()
    if not position:
        raise ValueError(text)
    return total


def _split_port(text: str) -> tuple[str, int | None]:
    text = text.strip()
    if text.startswith("["):
        host, closing, rest = text[1:].partition("]")
        if not closing or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not an address; an IPv6 address with a port is written [::1]:1080")
        return host, _port(rest[1:]) if rest else None
    if text.count(":") > 1:
        try:
            ipaddress.IPv6Address(text)
        except ValueError:
            raise ValueError(f"{text!r} is not an address; an IPv6 address with a port is written [::1]:1080") from None
        return text, None
    host, colon, port = text.partition(":")
    if not host:
        raise ValueError(f"{text!r} has no address; write 127.0.0.1{text} for this machine only, or [::]{text} for all")
    return host, _port(port) if colon else None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= 65535):
        raise ValueError(f"{text!r} is not a port; ports are numbers from 1 to 65535")
    return int(text)


def _ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError(f"{text!r} is not an IP address; a name is not taken here") from None


def _upstream(text: str) -> str:
    # What is wrong may be the password, so nothing of the text is repeated.
    try:
        parts = urlsplit(text)
        usable = parts.scheme in UPSTREAM_SCHEMES and parts.hostname and parts.port
    except ValueError:
        usable = None
    if not usable:
        raise ValueError("must be socks5://host:port, http://host:port or ss://cipher:password@host:port")
    return text


def _kind(raw: object) -> str:
    kinds = (
        (bool, "true or false"),
        (int, "a number"),
        (float, "a number"),
        (str, "text"),
        (dict, "a table"),
        (list, "a list"),
    )
    return next((name for kind, name in kinds if isinstance(raw, kind)), "a date")
