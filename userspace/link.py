"""Links: where a concentrator is, whom to believe there, and a token to enrol with, in one line to paste.

    quicsocks://TOKEN@host:port/?pin=sha256-BASE64URL&pin=...#name

A link says how to connect, never what to listen on. Nothing here resolves, connects or reads a file. ``str`` and
``repr`` never show the token, so a link may be logged; ``uri`` gives the whole thing. Syntax: RFC 3986; base64url
without padding: RFC 4648 §5. Text that is not a link raises LinkError, with one line that never repeats the token, and
nothing else.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import quote, unquote_to_bytes

SCHEME = "quicsocks"
LINK_PORT = 4433
"""Port of a link that names none."""
MAX_LINK = 4096
"""Characters of a link; with eight pins it needs under 700. Bounds what is read from a file or a prompt."""
MAX_PINS = 8
"""Pins of a link: the current key, the next, and room for several machines behind one name."""
PIN_SIZE = 32
TOKEN_SIZES = (16, 64)
"""Bytes of a token: 128 bits are beyond guessing; 64 bytes are more than anyone makes."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\Z")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*\Z")


class LinkError(ValueError):
    """Text is not a usable link; the message is one line for a person."""


@dataclass(frozen=True, slots=True)
class Link:
    """A parsed link.

    host: a DNS name (ASCII, lower case) or an IP literal without brackets. port: 1 to 65535.
    token: 16 to 64 bytes, or empty on a link without one. pins: SHA-256 digests of acceptable
    SubjectPublicKeyInfos; empty means WebPKI. name: what to call the exit; may be empty.
    alpn: ``qt`` for the bare draft, otherwise empty, which means ``quicsocks/1``.
    remarks: what was ignored, one line each, so that an old client can say so about a new link.
    Raises LinkError when the values do not fit together.
    """

    host: str
    port: int = LINK_PORT
    token: bytes = field(default=b"", repr=False)
    pins: tuple[bytes, ...] = ()
    name: str = ""
    alpn: str = ""
    remarks: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if self.host != normalised_host(self.host):
            raise LinkError(f"bad link: host {self.host!r} is not in its normal form")
        if not 1 <= self.port <= 65535:
            raise LinkError("bad link: the port must be from 1 to 65535")
        if self.token and not TOKEN_SIZES[0] <= len(self.token) <= TOKEN_SIZES[1]:
            raise LinkError("bad link: the token is too short or too long; copy the whole link again")
        if len(self.pins) > MAX_PINS:
            raise LinkError(f"bad link: more than {MAX_PINS} pins")
        if any(len(pin) != PIN_SIZE for pin in self.pins):
            raise LinkError("bad link: a pin must be a SHA-256 digest; copy the whole link again")
        if self.name and not is_name(self.name):
            raise LinkError(f"bad link: {self.name!r} cannot be a name; use letters, digits, '.', '_' and '-'")
        if self.alpn not in ("", "qt"):
            raise LinkError(f"bad link: alpn={self.alpn} is not known; only alpn=qt is")
        if self.alpn == "qt" and self.token:
            raise LinkError("bad link: qt has no authentication, so a link with alpn=qt cannot carry a token")

    @property
    def authority(self) -> str:
        """host:port, with brackets around an IPv6 address."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def uri(self) -> str:
        """The whole link, with the token: a secret."""
        token = f"{base64url(self.token)}@" if self.token else ""
        return self._format(token)

    def __str__(self) -> str:
        """The link with its token hidden; not parseable when there was one."""
        return self._format("***@" if self.token else "")

    def _format(self, userinfo: str) -> str:
        query = [f"pin={format_pin(pin)}" for pin in self.pins]
        if self.alpn:
            query.append(f"alpn={self.alpn}")
        return (
            f"{SCHEME}://{userinfo}{self.authority}/"
            + (f"?{'&'.join(query)}" if query else "")
            + (f"#{quote(self.name)}" if self.name else "")
        )


def looks_like_link(text: str) -> bool:
    """Whether text is meant as a link rather than as the name of one."""
    return text.strip().lower().startswith(SCHEME + ":")


def is_name(text: str) -> bool:
    """Whether text can name an exit or a client: also safe as a file name and in a shell."""
    return bool(_NAME.match(text))


def parse(text: str) -> Link:
    """Parse a link; surrounding white space is ignored. Raises LinkError and nothing else."""
    text = text.strip()
    if not text:
        raise LinkError("bad link: it is empty; paste the line that begins with quicsocks://")
    if len(text) > MAX_LINK:
        raise LinkError(f"bad link: it is longer than {MAX_LINK} characters")
    if not text.isascii() or not text.isprintable() or " " in text:
        raise LinkError("bad link: it contains a space, a line break or a character that no link has; copy it again")
    scheme, colon, rest = text.partition("://")
    if not colon or scheme.lower() != SCHEME:
        raise LinkError(f"bad link: it must begin with {SCHEME}://")
    rest, _, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    if path:
        raise LinkError("bad link: nothing may stand between host:port/ and the question mark")
    userinfo, at, hostport = authority.rpartition("@")
    token = _token(userinfo) if at else b""
    host, port = parse_authority(hostport)
    pins, alpn, remarks = _parse_query(query)
    return Link(
        host=host, port=port, token=token, pins=pins, name=_percent_decode(fragment), alpn=alpn, remarks=remarks
    )


def parse_authority(text: str, default_port: int = LINK_PORT) -> tuple[str, int]:
    """Parse ``host``, ``host:port`` or ``[v6]:port`` into a normal host and a port. Raises LinkError."""
    bracketed = text.startswith("[")
    if bracketed:
        host, closing, tail = text[1:].partition("]")
        if not closing or (tail and not tail.startswith(":")):
            raise LinkError("bad link: an IPv6 address needs brackets around it, like [2001:db8::1]:4433")
        port_text = tail[1:] if tail else None
        if ":" not in host:
            raise LinkError("bad link: only an IPv6 address stands in brackets")
    else:
        host, colon, tail = text.partition(":")
        port_text = tail if colon else None
        if ":" in tail:
            raise LinkError("bad link: an IPv6 address needs brackets around it, like [2001:db8::1]:4433")
    if not host:
        raise LinkError("bad link: the host is missing")
    return normalised_host(host), _port(port_text, default_port)


def normalised_host(host: str) -> str:
    """A DNS name in lower case without a final dot (IDNA A-labels only), or an IP literal in its shortest form.

    Raises LinkError.
    """
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        if "%" in host:
            raise LinkError("bad link: an address with a zone (%) means nothing on another machine")
        return str(address)
    name = host.lower().removesuffix(".")
    if not name.isascii():
        try:
            name = name.encode("idna").decode("ascii")
        except UnicodeError:
            raise LinkError(f"bad link: {host!r} is not a host name") from None
    labels = name.split(".")
    if len(name) > 253 or not all(_LABEL.match(label) for label in labels):
        raise LinkError(f"bad link: {host!r} is not a host name")
    # WHATWG URL §3.5: a name whose last label is a number is meant as an IPv4 address, and this one is not a valid one.
    if labels[-1].isdigit() or re.match(r"0x[0-9a-f]*\Z", labels[-1]):
        raise LinkError(f"bad link: {host!r} is neither a host name nor an IP address")
    return name


def base64url(data: bytes) -> str:
    """Encode without padding."""
    return base64.urlsafe_b64encode(data).decode("ascii").rstrip("=")


def base64url_decode(text: str) -> bytes:
    """Decode canonical base64url without padding. Raises ValueError."""
    if not _BASE64URL.match(text) or len(text) % 4 == 1:
        raise ValueError("not base64url")
    try:
        data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except binascii.Error:
        raise ValueError("not base64url") from None
    if base64url(data) != text:
        raise ValueError("not canonical base64url")
    return data


def format_pin(pin: bytes) -> str:
    """``sha256-BASE64URL``."""
    return f"sha256-{base64url(pin)}"


def parse_pin(text: str) -> bytes:
    """Parse ``sha256-BASE64URL``. Raises LinkError."""
    algorithm, dash, digest = text.partition("-")
    if not dash or algorithm.lower() != "sha256":
        raise LinkError("bad link: a pin must begin with sha256-")
    try:
        pin = base64url_decode(digest)
    except ValueError:
        pin = b""
    if len(pin) != PIN_SIZE:
        raise LinkError("bad link: a pin must be a SHA-256 digest; copy the whole link again")
    return pin


def _parse_query(query: str) -> tuple[tuple[bytes, ...], str, tuple[str, ...]]:
    pins: list[bytes] = []
    alpn = ""
    remarks: list[str] = []
    for part in query.split("&") if query else ():
        key, _, value = part.partition("=")
        value = _percent_decode(value)
        if key == "pin":
            pin = parse_pin(value)
            if pin not in pins:
                pins.append(pin)
        elif key == "alpn":
            if alpn and alpn != value:
                raise LinkError("bad link: alpn is given twice")
            alpn = "" if value == "quicsocks/1" else value
        else:
            # A newer concentrator may say more than we understand; what we must not miss is in pin and alpn.
            shown = key if is_name(key) and len(key) <= 32 else "a parameter"
            remarks.append(f"the link has a parameter that this version does not know and ignores: {shown}")
    return tuple(pins), alpn, tuple(remarks[:4])


def _token(userinfo: str) -> bytes:
    # No word of what was there: a mistyped token is still most of a token.
    try:
        token = base64url_decode(_percent_decode(userinfo))
    except ValueError:
        raise LinkError("bad link: the token before the @ is damaged; copy the whole link again") from None
    if not token:
        raise LinkError("bad link: there is an @ but no token before it; copy the whole link again")
    return token


def _port(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise LinkError("bad link: the port must be a number from 1 to 65535")
    return int(text)


def _percent_decode(text: str) -> str:
    try:
        return unquote_to_bytes(text).decode("ascii")
    except UnicodeDecodeError:
        raise LinkError("bad link: it contains a character that no link has; copy it again") from None
