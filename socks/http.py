"""HTTP/1.1 messages of a proxy, sans-IO: h11 behind strict guards, one object per request and response.

Read RFC 9112, and ``http_framing`` for what is refused before h11 sees it. ``ServerExchange`` faces the application,
``ClientExchange`` the destination. Both take ``receive_data`` and ``receive_eof``, are polled with ``next_event`` until
it is None, and return bytes to send from the other methods. Bytes behind the message stay in ``remainder``. Bodies
pass through in pieces and are never held. What a message means for a proxy is decided in ``http_forward``.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import Final

import h11

from .errors import PeerError
from .http_framing import BodyKind, ChunkGuard, Framing, HeadGuard, framing_of
from .replies import REASONS, printable, proxy_status

Headers = list[tuple[bytes, bytes]]
"""Names as they were written, and values without surrounding blanks."""

CONNECT_ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
"""RFC 9110 §9.3.6: no Content-Length, no Transfer-Encoding; the tunnel begins behind the empty line."""


@dataclass(frozen=True, slots=True)
class RequestHead:
    """version: b"1.0" or b"1.1". framing: NONE, LENGTH or CHUNKED."""

    method: str
    target: bytes
    version: bytes
    headers: Headers
    framing: Framing


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """A final response. framing: never ambiguous; NONE also for HEAD, 204 and 304."""

    status: int
    reason: bytes
    version: bytes
    headers: Headers
    framing: Framing


@dataclass(frozen=True, slots=True)
class Informational:
    """A 1xx response; after 101 the bytes in ``remainder`` and all that follow are of another protocol."""

    status: int
    reason: bytes
    headers: Headers


@dataclass(frozen=True, slots=True)
class Body:
    """A piece of the body, without framing."""

    data: bytes


@dataclass(frozen=True, slots=True)
class EndOfBody:
    """The message is complete."""

    trailers: Headers = field(default_factory=list)


Event = RequestHead | ResponseHead | Informational | Body | EndOfBody


class _Phase(enum.Enum):
    HEAD = enum.auto()
    BODY = enum.auto()
    DONE = enum.auto()


class _Exchange:
    """What both sides share: bytes go through a guard to h11, and never further than the end of the message."""

    _what = "message"
    _bad_status = 400
    _padded_chunks = False

    def __init__(self, connection: h11.Connection, limit: int, early: bytes) -> None:
        self._h11 = connection
        self._limit = limit
        self._buffer = bytearray(early)
        self._eof = False
        self._phase = _Phase.HEAD
        self._head_guard = HeadGuard(self._what, self._bad_status, limit)
        self._framing = Framing(BodyKind.NONE)
        self._length_left = 0
        self._chunks: ChunkGuard | None = None
        self._sends_chunks = False

    def receive_data(self, data: bytes) -> None:
        """Take what the other side sent. Then poll ``next_event`` until it is None."""
        self._buffer += data

    def receive_eof(self) -> None:
        """The other side has ended its direction. Then poll ``next_event``."""
        self._eof = True

    @property
    def remainder(self) -> bytes:
        """Bytes received behind what the events have reported."""
        return bytes(self._buffer)

    @property
    def has_received(self) -> bool:
        """Whether anything of the message has come."""
        return self._phase is not _Phase.HEAD or bool(self._buffer)

    @property
    def is_complete(self) -> bool:
        """Whether ``EndOfBody`` has been reported."""
        return self._phase is _Phase.DONE

    def body(self, data: bytes) -> bytes:
        """Frame a piece of our body."""
        return self._h11.send(h11.Data(data=data))

    def end(self, trailers: Headers) -> bytes:
        """End our body. Trailers are dropped where the framing has no place for them."""
        try:
            return self._h11.send(h11.EndOfMessage(headers=trailers if self._sends_chunks else []))
        except h11.LocalProtocolError as error:
            # A body shorter than announced, which the guards on the way in have excluded.
            raise PeerError(f"the body does not fit its framing ({error.args[0]})", status=self._bad_status) from None

    def _next(self) -> Event | None:
        while True:
            if self._phase is _Phase.DONE:
                return None
            if self._phase is _Phase.HEAD and not self._feed_head():
                return None
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                # h11 quotes what it read behind a colon; that may be a password.
                text = str(error.args[0]).partition(":")[0]
                raise PeerError(f"bad HTTP {self._what}: {text}", status=self._bad_status) from None
            if isinstance(event, h11.Data):
                return Body(bytes(event.data))
            if isinstance(event, h11.EndOfMessage):
                self._phase = _Phase.DONE
                return EndOfBody(list(event.headers.raw_items()))
            if isinstance(event, h11.Request | h11.Response | h11.InformationalResponse):
                return self._take_head(event)
            if not self._feed_body():
                return None

    def _feed_head(self) -> bool:
        self._skip_empty_lines()
        size = self._head_guard.scan(self._buffer)
        if size == 0:
            if self._eof and self._buffer:
                raise PeerError(f"the {self._what} ends within its head", status=self._bad_status)
            return False
        self._h11.receive_data(bytes(self._buffer[:size]))
        del self._buffer[:size]
        return True

    def _feed_body(self) -> bool:
        """Give h11, which has used up what it had, the next bytes of the body. False when there are none."""
        kind = self._framing.kind
        if not self._buffer:
            if not self._eof:
                return False
            if kind is not BodyKind.UNTIL_CLOSE:
                raise PeerError(f"the {self._what} ends within its body", status=self._bad_status)
            self._h11.receive_data(b"")
            return True
        if kind is BodyKind.LENGTH:
            size = min(self._length_left, len(self._buffer))
            self._length_left -= size
        elif self._chunks is not None:
            size = self._chunks.follow(self._buffer)
        else:
            size = len(self._buffer)
        self._h11.receive_data(bytes(self._buffer[:size]))
        del self._buffer[:size]
        return True

    def _start_body(self, framing: Framing) -> None:
        self._framing = framing
        self._phase = _Phase.BODY
        self._length_left = framing.length
        if framing.kind is BodyKind.CHUNKED:
            self._chunks = ChunkGuard(self._bad_status, self._limit, padded=self._padded_chunks)

    def _skip_empty_lines(self) -> None:
        pass

    def _take_head(self, event: h11.Request | h11.Response | h11.InformationalResponse) -> Event:
        raise NotImplementedError


class ServerExchange(_Exchange):
    """One request of an application, and our response. limit: bytes of the head, and of the trailers.

    early: bytes that were received behind the message before.
    """

    _what = "request"
    _bad_status = 400

    def __init__(self, limit: int, early: bytes = b"") -> None:
        super().__init__(h11.Connection(h11.SERVER, max_incomplete_event_size=limit), limit, early)

    def next_event(self) -> RequestHead | Body | EndOfBody | None:
        """What has come, None while more is needed. Raises PeerError, whose status is to be answered before closing."""
        event = self._next()
        assert event is None or isinstance(event, RequestHead | Body | EndOfBody)
        return event

    def informational(self, event: Informational) -> bytes:
        """Pass a 1xx response on."""
        return self._h11.send(
            h11.InformationalResponse(status_code=event.status, reason=event.reason, headers=event.headers)
        )

    def respond(self, status: int, reason: bytes, headers: Headers) -> bytes:
        """Begin the response. Without a length in headers the body is chunked for HTTP/1.1, and ends with the
        connection for HTTP/1.0. ``Connection: close`` is added where the connection cannot go on."""
        has_length = any(name.lower() == b"content-length" for name, _ in headers)
        self._sends_chunks = not has_length and self._h11.their_http_version == b"1.1"
        return self._h11.send(h11.Response(status_code=status, reason=reason, headers=headers))

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may follow: request and response are complete, and neither asked to close."""
        return self._h11.our_state is h11.DONE and self._phase is _Phase.DONE

    def _skip_empty_lines(self) -> None:
        # RFC 9112 §2.2: at least one empty line before a request is to be ignored; old clients send one after POST.
        while self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]

    def _take_head(self, event: h11.Request | h11.Response | h11.InformationalResponse) -> RequestHead:
        assert isinstance(event, h11.Request)
        version = bytes(event.http_version)
        if version not in (b"1.0", b"1.1"):
            raise PeerError(f"HTTP version {version.decode()} is not spoken here", status=505)
        headers = _raw(event)
        framing = framing_of(headers, version, self._bad_status) or Framing(BodyKind.NONE)
        self._start_body(framing)
        return RequestHead(event.method.decode(), bytes(event.target), version, headers, framing)


class ClientExchange(_Exchange):
    """One request of ours, and a destination's response."""

    _what = "response"
    _bad_status = 502
    _padded_chunks = True

    def __init__(self, limit: int) -> None:
        super().__init__(h11.Connection(h11.CLIENT, max_incomplete_event_size=limit), limit, b"")
        self._method = ""

    def request(self, method: str, target: bytes, headers: Headers) -> bytes:
        """Begin the request. headers have exactly one Host, and the body's framing."""
        self._method = method
        self._sends_chunks = any(name.lower() == b"transfer-encoding" for name, _ in headers)
        return self._h11.send(h11.Request(method=method, target=target, headers=headers))

    def next_event(self) -> ResponseHead | Informational | Body | EndOfBody | None:
        """What has come, None while more is needed. Raises PeerError with status 502."""
        event = self._next()
        assert event is None or isinstance(event, ResponseHead | Informational | Body | EndOfBody)
        return event

    @property
    def keeps_alive(self) -> bool:
        """Whether the connection can carry another request: both sides are complete, neither asked to close, and
        nothing was sent that no request of ours asked for."""
        both_done = self._h11.our_state is h11.DONE and self._h11.their_state is h11.DONE
        return both_done and not self._buffer and not self._eof

    def _take_head(self, event: h11.Request | h11.Response | h11.InformationalResponse) -> ResponseHead | Informational:
        headers, version = _raw(event), bytes(event.http_version)
        if isinstance(event, h11.InformationalResponse):
            self._head_guard = HeadGuard(self._what, self._bad_status, self._limit)
            if event.status_code == 101:
                self._phase = _Phase.DONE
            return Informational(event.status_code, bytes(event.reason), headers)
        assert isinstance(event, h11.Response)
        # RFC 9112 §6.3: some responses have no body whatever their fields say; those are checked nevertheless.
        framing = framing_of(headers, version, self._bad_status) or Framing(BodyKind.UNTIL_CLOSE)
        if self._method == "HEAD" or event.status_code in (204, 304):
            framing = Framing(BodyKind.NONE)
        self._start_body(framing)
        return ResponseHead(event.status_code, bytes(event.reason), version, headers, framing)


def error_response(
    status: int,
    text: str,
    *,
    error: str = "",
    close: bool = True,
    headers: Headers | None = None,
    head_only: bool = False,
) -> bytes:
    """A complete response of our own: one sentence in plain text.

    error: a token of RFC 9209 §2.3 for Proxy-Status. head_only: for HEAD, no content follows. It cannot be read as a
    page, is not kept by a cache, and names nothing of the request, since a browser shows it under the destination's
    origin.
    """
    content = printable(text).encode("ascii") + b"\n"
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Error')}".encode("ascii")]
    fields: Headers = [
        (b"Content-Type", b"text/plain; charset=us-ascii"),
        (b"Content-Length", str(len(content)).encode("ascii")),
        (b"X-Content-Type-Options", b"nosniff"),
        (b"Cache-Control", b"no-store"),
    ]
    if error:
        fields.append((b"Proxy-Status", proxy_status(error, text).encode("ascii")))
    fields += headers or []
    if close:
        fields.append((b"Connection", b"close"))
    lines += [name + b": " + value for name, value in fields]
    return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if head_only else content)


def _raw(event: h11.Request | h11.Response | h11.InformationalResponse) -> Headers:
    return [(bytes(name), bytes(value)) for name, value in event.headers.raw_items()]
