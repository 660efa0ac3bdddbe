"""The URLs of other proxies, as ``--listen`` and ``--upstream`` take them.

Pure parsing of the user's input: every error is a ``LocalError`` with one line, and never shows a password.

    socks5://[USER:PASSWORD@]HOST:PORT      http://[USER:PASSWORD@]HOST:PORT      ss://CIPHER:PASSWORD@HOST:PORT
    trojan://PASSWORD@HOST:PORT?cert=FILE&key=FILE      tunnel://HOST:PORT?to=HOST:PORT      redir://HOST:PORT
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from ..egress.names import HostError, parse_host
from ..quic.errors import LocalError


@dataclass(frozen=True, slots=True)
class ProxyUrl:
    """scheme: lower case. host: a name or an IP literal, "" when left out. port: 1 to 65535, 0 when left out.

    user, password: percent-decoded; not shown by repr. options: the query.
    """

    scheme: str
    host: str
    port: int
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    options: dict[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """For messages: without user and password."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}" if self.port else f"{self.scheme}://{host}"


def parse_proxy_url(text: str) -> ProxyUrl:
    """Raises LocalError."""
    scheme, separator, rest = text.strip().partition("://")
    if not separator or not scheme.replace("+", "").isalnum():
        raise LocalError("a proxy URL looks like ss://CIPHER:PASSWORD@HOST:PORT or socks5://HOST:PORT")
    scheme = scheme.lower()
    try:
        parts = urlsplit(f"//{rest}", allow_fragments=True)
        host, port = parts.hostname or "", parts.port or 0
    except ValueError:
        raise LocalError(f"the {scheme} URL has no valid host and port; write HOST:PORT, IPv6 in brackets") from None
    if parts.path not in ("", "/"):
        raise LocalError(f"the {scheme} URL has a path, which means nothing here; leave it out")
    userinfo = parts.netloc.rpartition("@")[0]
    if scheme in ("ss", "ssr") and userinfo and ":" not in userinfo:
        userinfo = _decode_sip002(userinfo, scheme)
        user, _, password = userinfo.partition(":")
    else:
        user, _, password = (unquote(part) for part in userinfo.partition(":"))
    try:
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError:
        raise LocalError(f"the {scheme} URL has a query that cannot be read; write ?name=value&name=value") from None
    if host:
        try:
            host = str(parse_host(host))
        except HostError as error:
            raise LocalError(f"the {scheme} URL's host: {error}") from None
    return ProxyUrl(scheme, host, port, user, password, options)


def reject_options(url: ProxyUrl, *known: str) -> None:
    """Raises LocalError for an option that is not known."""
    for name in url.options:
        if name not in known:
            hint = f"; it takes {' and '.join(known)}" if known else "; it takes none"
            raise LocalError(f"{url.shown}: unknown option {name[:40]!r}{hint}")


def _decode_sip002(userinfo: str, scheme: str) -> str:
    """SIP002 writes CIPHER:PASSWORD as base64url without padding."""
    try:
        padded = unquote(userinfo) + "=" * (-len(unquote(userinfo)) % 4)
        decoded = base64.urlsafe_b64decode(padded.encode("ascii")).decode()
    except (binascii.Error, UnicodeError, ValueError):
        decoded = ""
    if ":" not in decoded:
        raise LocalError(f"the {scheme} URL needs CIPHER:PASSWORD before the @, plain or in base64url")
    return decoded
