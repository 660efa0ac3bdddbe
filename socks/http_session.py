"""Serves one HTTP proxy connection: CONNECT, and forwarding of plain requests one after the other.

Read RFC 9110 §7 and §9.3.6, RFC 9112 §9, RFC 9209. ``http`` frames messages, ``http_forward`` decides what goes
through, ``http_transfer`` carries one request and its response; this file keeps the order of requests, the times, the
password, and the destination's connection that is kept from one request to the next.
"""

from __future__ import annotations

import asyncio

from .connection import MAX_PASSWORD_ATTEMPTS, Client, Ending, Outcome, Phase, Tunnel
from .errors import PeerError
from .http import CONNECT_ESTABLISHED, Headers, RequestHead, ServerExchange, error_response
from .http_forward import (
    IDEMPOTENT,
    Kind,
    Plan,
    basic_credentials,
    has_content,
    max_forwards,
    plan,
    request_headers,
    wants_close,
)
from .http_transfer import Transfer, Upstream
from .replies import REPLIES
from .sockets import receive, send_all
from .types import Failure, FlowError, Request


async def serve_http(client: Client, first: bytes, deadline: float) -> Outcome:
    """first: what has been read. deadline: loop time by which the first head must be complete."""
    session = _Session(client)
    try:
        return await session.run(first, deadline)
    finally:
        await session.drop_kept()


class _Session:
    def __init__(self, client: Client) -> None:
        self._client = client
        self._config = client.config
        self._kept: Upstream | None = None
        self._wrong_passwords = 0

    async def run(self, early: bytes, deadline: float | None) -> Outcome:
        """Serve requests until the connection ends or becomes a tunnel."""
        while True:
            exchange = ServerExchange(self._config.max_head, early)
            try:
                head = await self._next_head(exchange, deadline)
            except PeerError as error:
                return await self._refuse(error)
            except TimeoutError:
                if exchange.has_received:
                    self._client.statistics.failed += 1
                    await self._client.say(error_response(408, "the request did not arrive in time"))
                return Ending.GENTLY
            if head is None:
                return Ending.GENTLY
            outcome = await self._serve(exchange, head)
            if outcome is not None:
                return outcome
            if self._client.closing:
                return Ending.GENTLY
            early, deadline = exchange.remainder, None

    async def drop_kept(self) -> None:
        """Let go of the destination's connection."""
        kept, self._kept = self._kept, None
        if kept is not None:
            await kept.close()

    async def _next_head(self, exchange: ServerExchange, deadline: float | None) -> RequestHead | None:
        """None when the application has no more requests. deadline None: a further request, which may be awaited for
        the idle time; from its first byte on it has the handshake time. Raises PeerError, TimeoutError."""
        loop = asyncio.get_running_loop()
        if deadline is None:
            deadline = loop.time() + self._config.handshake_timeout
            if not exchange.has_received:
                self._client.phase = Phase.IDLE
                async with asyncio.timeout(self._config.idle_timeout):
                    data = await receive(self._client.sock)
                self._client.phase = Phase.NEGOTIATING
                if not data:
                    return None
                exchange.receive_data(data)
                deadline = loop.time() + self._config.handshake_timeout
        async with asyncio.timeout_at(deadline):
            while True:
                event = exchange.next_event()
                if event is not None:
                    assert isinstance(event, RequestHead)
                    return event
                data = await receive(self._client.sock)
                if data:
                    exchange.receive_data(data)
                else:
                    exchange.receive_eof()
                    exchange.next_event()  # raises when the head is incomplete
                    return None

    async def _serve(self, exchange: ServerExchange, head: RequestHead) -> Outcome | None:
        """None when a further request may follow."""
        try:
            planned = plan(head)
            hops_left = max_forwards(head)
            headers = request_headers(head, planned, via=self._config.via, close=wants_close(head))
        except PeerError as error:
            return await self._refuse(error, head)
        given = basic_credentials(head)
        credentials = self._config.credentials
        if credentials is not None and (given is None or not credentials.check(*given)):
            return await self._demand_password(head, wrong=given is not None)
        if self._client.refusing:
            return await self._fail(FlowError(Failure.LIMIT), head, may_continue=False)
        user = given[0].decode("utf-8", "replace") if given is not None else None
        request = Request(planned.host, planned.port, "http", self._client.peer, user)
        if planned.kind is Kind.TUNNEL:
            return await self._tunnel(exchange, head, request)
        if hops_left == 0:
            return await self._answer_as_final(head)
        return await self._forward(exchange, head, planned, headers, request)

    async def _tunnel(self, exchange: ServerExchange, head: RequestHead, request: Request) -> Outcome | None:
        await self.drop_kept()
        try:
            flow, _bound = await self._client.open(request)
        except FlowError as error:
            return await self._fail(error, head, may_continue=False)
        try:
            await send_all(self._client.sock, CONNECT_ESTABLISHED)
        except BaseException:
            flow.abort()
            raise
        return Tunnel(flow, exchange.remainder)

    async def _forward(
        self, exchange: ServerExchange, head: RequestHead, planned: Plan, headers: Headers, request: Request
    ) -> Outcome | None:
        # The destination may close a kept connection while our request is on its way. Only what can be sent again
        # without harm and without its body may run into that (RFC 9110 §9.2.2); all else gets a connection of its
        # own, which costs nothing, because the request travels right behind the connect.
        upstream = await self._take_kept(planned, wanted=head.method in IDEMPOTENT and not has_content(head))
        while True:
            reused = upstream is not None
            if upstream is None:
                try:
                    upstream = Upstream(self._client.begin(request), planned.host, planned.port)
                except FlowError as error:
                    return await self._fail(error, head, may_continue=not has_content(head))
            transfer = Transfer(self._client, exchange, head, planned.target, headers, upstream)
            self._client.phase = Phase.OPEN
            try:
                await self._client.until_gone(upstream.flow, transfer.run())
            except (FlowError, PeerError) as error:
                await upstream.abort()
                if reused and transfer.found_closed:
                    upstream = None
                    continue
                if transfer.responded:
                    # Half a response cannot be taken back; a FIN could be taken for its end.
                    return Ending.RESET
                if isinstance(error, PeerError):
                    return await self._refuse(error, head)
                return await self._fail(error, head, may_continue=exchange.is_complete)
            except BaseException:
                await upstream.abort()
                raise
            if transfer.switched:
                await upstream.close()
                return Ending.GENTLY
            if transfer.upstream_is_reusable and exchange.keeps_alive and not self._client.closing:
                upstream.rest()
                self._kept = upstream
            else:
                await upstream.close()
            return None if exchange.keeps_alive else Ending.GENTLY

    async def _take_kept(self, planned: Plan, *, wanted: bool) -> Upstream | None:
        kept, self._kept = self._kept, None
        if kept is None:
            return None
        if wanted and (kept.host, kept.port) == (planned.host, planned.port) and kept.is_resting:
            self._client.use(kept.flow)
            return kept
        await kept.close()
        return None

    async def _answer_as_final(self, head: RequestHead) -> Outcome | None:
        # RFC 9110 §7.6.2: with Max-Forwards 0 we are asked, not the destination. TRACE is not served: it would echo
        # what the application's library added to the request.
        continues = not has_content(head) and not wants_close(head)
        status = 200 if head.method == "OPTIONS" else 405
        answer = error_response(
            status,
            "answered by the proxy, as Max-Forwards asked",
            close=not continues,
            headers=[(b"Allow", b"CONNECT, GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")],
        )
        return await self._answer(answer, continues)

    async def _demand_password(self, head: RequestHead, *, wrong: bool) -> Outcome | None:
        self._client.statistics.denied += 1
        self._wrong_passwords += wrong
        continues = not has_content(head) and not wants_close(head) and self._wrong_passwords < MAX_PASSWORD_ATTEMPTS
        challenge: Headers = [(b"Proxy-Authenticate", b'Basic realm="quicsocks", charset="UTF-8"')]
        text = "wrong user name or password for the proxy" if wrong else "the proxy wants a user name and a password"
        answer = error_response(
            407,
            text,
            error="http_request_denied",
            close=not continues,
            headers=challenge,
            head_only=head.method == "HEAD",
        )
        return await self._answer(answer, continues)

    async def _fail(self, error: FlowError, head: RequestHead, *, may_continue: bool) -> Outcome | None:
        reply = REPLIES[error.failure]
        continues = may_continue and not wants_close(head) and not self._client.closing
        answer = error_response(
            reply.status, str(error), error=reply.error, close=not continues, head_only=head.method == "HEAD"
        )
        return await self._answer(answer, continues)

    async def _refuse(self, error: PeerError, head: RequestHead | None = None) -> Ending:
        """Answer what cannot be served or trusted, and close: what follows it must not be read as a request."""
        error_type = ""
        if error.status == 502:
            error_type = "http_protocol_error"
        else:
            self._client.statistics.failed += 1
        head_only = head is not None and head.method == "HEAD"
        await self._client.say(error_response(error.status or 400, str(error), error=error_type, head_only=head_only))
        return Ending.GENTLY

    async def _answer(self, answer: bytes, continues: bool) -> Outcome | None:
        await self._client.say(answer)
        return None if continues else Ending.GENTLY
