"""What a proxy does to a request and a response on the way through: pure functions over parsed heads.

Read RFC 9110 §7.6 (what an intermediary must and must not forward), §7.8 (Upgrade), §9.3.6 (CONNECT), RFC 9112 §3.2
(the forms of a target). Requests that are not addressed to a proxy are refused: a web page can make a browser send
``GET /`` and ``POST /`` to localhost, but neither CONNECT, nor a target with a scheme and host, nor the
Proxy-Authorization field. A page therefore gets a 400 without CORS fields, which it cannot read, and the connection is
closed, so that what stands in the body is never taken for a request. Sans-IO.
"""

from __future__ import annotations

import base64
import binascii
import enum
from dataclasses import dataclass
from typing import Final

from .errors import PeerError
from .hosts import format_authority, parse_host, parse_port
from .http import Headers, Informational, RequestHead, ResponseHead
from .http_framing import BodyKind

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""RFC 9110 §9.2.2: methods that may be sent again when a kept connection turns out to be closed."""

_HOP_BY_HOP: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"transfer-encoding",
        b"upgrade",
    }
)
"""RFC 9110 §7.6.1, and what §11.7 reserves for the nearest proxy."""

_NOT_IN_TRAILERS: Final = _HOP_BY_HOP | {b"content-length", b"host", b"trailer", b"set-cookie", b"authorization"}
"""RFC 9110 §6.5.1: framing, routing and authentication must not come behind the body."""


class Kind(enum.Enum):
    """What a request asks a proxy to do."""

    TUNNEL = enum.auto()
    FORWARD = enum.auto()


@dataclass(frozen=True, slots=True)
class Plan:
    """host, port: the destination. target: what to ask it for, empty for TUNNEL. upgrade: the protocols that the
    application would switch to, b"" for none."""

    kind: Kind
    host: str
    port: int
    target: bytes = b""
    upgrade: bytes = b""


def plan(head: RequestHead) -> Plan:
    """Read a request's target. Raises PeerError (400) with a sentence for whatever is not a proxy's to serve."""
    if head.method == "CONNECT":
        if has_content(head):
            # RFC 9110 §9.3.6: CONNECT has no content. Whether such bytes are content or tunnel would be a guess.
            raise PeerError("a CONNECT request has content, which it cannot have", status=400)
        host, port = _authority(head.target, default_port=0)
        return Plan(Kind.TUNNEL, host, port)
    target = head.target
    if target.startswith(b"/") or target == b"*":
        raise PeerError(
            "this is a proxy: it serves no pages, and takes only CONNECT and targets that begin with http://",
            status=400,
        )
    scheme, separator, rest = target.partition(b"://")
    if not separator:
        raise PeerError("the request's target is not a URL that begins with http://", status=400)
    if scheme.lower() == b"https":
        raise PeerError("https is not forwarded but tunnelled: use CONNECT for it", status=400)
    if scheme.lower() != b"http":
        raise PeerError("only http:// targets are forwarded", status=400)
    end = min((at for at in (rest.find(mark) for mark in (b"/", b"?", b"#")) if at >= 0), default=len(rest))
    authority, path = rest[:end], rest[end:]
    if b"#" in path:
        raise PeerError("the request's target has a fragment, which is never sent", status=400)
    host, port = _authority(authority, default_port=80)
    if not path:
        # RFC 9112 §3.2.4: OPTIONS for a URL without a path is asked as OPTIONS *.
        path = b"*" if head.method == "OPTIONS" else b"/"
    elif path.startswith(b"?"):
        path = b"/" + path
    return Plan(Kind.FORWARD, host, port, path, _upgrade(head))


def request_headers(head: RequestHead, planned: Plan, *, via: str | None, close: bool) -> Headers:
    """The fields to send to the destination. close: no request will follow on the connection.

    Raises PeerError: 417 for an expectation that we do not know.
    """
    # RFC 9112 §3.2.2: the target decides, whatever Host says.
    authority = format_authority(planned.host, planned.port, default_port=80)
    headers: Headers = [(b"Host", authority.encode("ascii"))]
    named = _connection_options(head.headers)
    for name, value in head.headers:
        lower = name.lower()
        if lower in _HOP_BY_HOP or lower in named or lower in (b"host", b"content-length"):
            continue
        if lower == b"expect":
            # RFC 9110 §10.1.1: ignored in HTTP/1.0; passed on, so that the destination decides, in HTTP/1.1.
            if head.version == b"1.0":
                continue
            if value.lower() != b"100-continue":
                raise PeerError("the request has an expectation other than 100-continue", status=417)
        if lower == b"max-forwards" and head.method in ("OPTIONS", "TRACE"):
            value = str(max_forwards(head) - 1).encode("ascii")
        headers.append((name, value))
    if head.framing.kind is BodyKind.LENGTH:
        headers.append((b"Content-Length", str(head.framing.length).encode("ascii")))
    elif head.framing.kind is BodyKind.CHUNKED:
        headers.append((b"Transfer-Encoding", b"chunked"))
    options = [b"close"] if close and not planned.upgrade else []
    if planned.upgrade:
        headers.append((b"Upgrade", planned.upgrade))
        options.append(b"Upgrade")
    if head.version == b"1.1" and b"trailers" in _list(head.headers, b"te"):
        # We pass trailers on ourselves, so the application's word for it may be repeated (RFC 9110 §10.1.4).
        headers.append((b"TE", b"trailers"))
        options.append(b"TE")
    if options:
        headers.append((b"Connection", b", ".join(options)))
    if via is not None:
        headers.append((b"Via", head.version + b" " + via.encode("ascii")))
    return headers


def response_headers(head: ResponseHead, *, via: str | None, close: bool) -> Headers:
    """The fields to send to the application. close: the connection ends after this response."""
    named = _connection_options(head.headers)
    dropped = set(_HOP_BY_HOP | named)
    if head.status == 426:
        dropped.discard(b"upgrade")  # RFC 9110 §15.5.22: the field is the point of that status
    if head.status == 204 or head.framing.kind in (BodyKind.CHUNKED, BodyKind.LENGTH):
        dropped.add(b"content-length")
    headers = [(name, value) for name, value in head.headers if name.lower() not in dropped]
    if head.framing.kind is BodyKind.LENGTH:
        headers.append((b"Content-Length", str(head.framing.length).encode("ascii")))
    options = [b"close"] if close else []
    if head.status == 426:
        options.append(b"Upgrade")
    if options:
        headers.append((b"Connection", b", ".join(options)))
    if via is not None:
        headers.append((b"Via", head.version + b" " + via.encode("ascii")))
    return headers


def informational_headers(event: Informational) -> Headers:
    """The fields of a 1xx response to pass on; of 101, with Upgrade."""
    named = _connection_options(event.headers)
    keep = {b"upgrade"} if event.status == 101 else set()
    dropped = (_HOP_BY_HOP | named | {b"content-length"}) - keep
    headers = [(name, value) for name, value in event.headers if name.lower() not in dropped]
    if event.status == 101:
        headers.append((b"Connection", b"Upgrade"))
    return headers


def wants_close(head: RequestHead) -> bool:
    """Whether the connection ends after the answer to head: asked for, or HTTP/1.0, whose keep-alive we do not speak."""
    return head.version == b"1.0" or b"close" in _list(head.headers, b"connection")


def has_content(head: RequestHead) -> bool:
    """Whether bytes of a body follow the head."""
    return head.framing.kind is BodyKind.CHUNKED or head.framing.length > 0


def trailers(fields: Headers) -> Headers:
    """The trailer fields that may be passed on."""
    return [(name, value) for name, value in fields if name.lower() not in _NOT_IN_TRAILERS]


def max_forwards(head: RequestHead) -> int:
    """Max-Forwards of TRACE and OPTIONS (RFC 9110 §7.6.2), -1 without one. Raises PeerError."""
    values = [value for name, value in head.headers if name.lower() == b"max-forwards"]
    if not values or head.method not in ("OPTIONS", "TRACE"):
        return -1
    if len(values) != 1 or not values[0].isdigit() or len(values[0]) > 9:
        raise PeerError("the request has a malformed Max-Forwards", status=400)
    return int(values[0])


def basic_credentials(head: RequestHead) -> tuple[bytes, bytes] | None:
    """The name and password of Proxy-Authorization: Basic (RFC 7617); None when absent or not readable."""
    values = [value for name, value in head.headers if name.lower() == b"proxy-authorization"]
    if len(values) != 1:
        return None
    scheme, _, token = values[0].partition(b" ")
    if scheme.lower() != b"basic":
        return None
    try:
        name, separator, password = base64.b64decode(token.strip(), validate=True).partition(b":")
    except binascii.Error:
        return None
    return (name, password) if separator else None


def _authority(raw: bytes, *, default_port: int) -> tuple[str, int]:
    """Read host[:port]; default_port 0: the port must be there."""
    if b"@" in raw:
        raise PeerError("the request's target names a user, which is not sent to a proxy", status=400)
    host, separator, port = raw.rpartition(b":")
    if not separator or host.startswith(b"[") != host.endswith(b"]"):
        # "[::1]" has its last colon inside the brackets.
        host, port = raw, b""
    if b":" in host and not host.startswith(b"["):
        raise PeerError("the request's target has an IPv6 address without brackets", status=400)
    try:
        parsed_host = parse_host(host)
        if port:
            return parsed_host, parse_port(port)
    except ValueError as error:
        raise PeerError(f"bad request target: {error}", status=400) from None
    if default_port == 0:
        raise PeerError("the CONNECT target has no port; it must be host:port", status=400)
    return parsed_host, default_port


def _upgrade(head: RequestHead) -> bytes:
    """The protocols to offer to the destination.

    Only without content: RFC 9110 §7.8 has the switch happen behind the whole request. h2c is left out: it is
    obsolete (RFC 9113 §3.1), and its settings field is hop-by-hop.
    """
    if head.version != b"1.1" or has_content(head):
        return b""
    if b"upgrade" not in _connection_options(head.headers):
        return b""
    offered = [value for name, value in head.headers if name.lower() == b"upgrade"]
    protocols = [item.strip() for value in offered for item in value.split(b",")]
    return b", ".join(item for item in protocols if item and item.lower() != b"h2c")


def _connection_options(headers: Headers) -> frozenset[bytes]:
    return frozenset(_list(headers, b"connection")) | frozenset(_list(headers, b"proxy-connection"))


def _list(headers: Headers, wanted: bytes) -> list[bytes]:
    values = [value.lower() for name, value in headers if name.lower() == wanted]
    return [item.strip() for value in values for item in value.split(b",") if item.strip()]
