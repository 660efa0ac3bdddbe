"""Carries one forwarded request to its destination and the response back, both at once and in pieces.

Read RFC 9112 §9.3 to §9.6. Nothing is held but what one read has brought: the application is read only as fast as the
flow takes it, the flow only as fast as the application does. Must not answer for the destination: what goes wrong
before a response has begun is raised, and answered in ``http_session``.
"""

from __future__ import annotations

import asyncio
from typing import Final

from .connection import Client
from .errors import PeerError
from .http import Body, ClientExchange, EndOfBody, Headers, Informational, RequestHead, ResponseHead, ServerExchange
from .http_forward import has_content, informational_headers, response_headers, trailers
from .sockets import receive, send_all
from .types import Failure, Flow, FlowError

UPLOAD_GRACE: Final = 5.0
"""Seconds for the rest of a request's body after the whole response has come: the destination has answered early, and
most applications stop or finish by themselves; then the connection is closed (RFC 9112 §9.6)."""


class Upstream:
    """A flow to a destination that may serve several requests, one at a time."""

    def __init__(self, flow: Flow, host: str, port: int) -> None:
        self.flow = flow
        self.host = host
        self.port = port
        self._resting: asyncio.Task[bytes] | None = None

    def rest(self) -> None:
        """No request is under way: watch for the destination's closing, or its sending what nobody asked for."""
        self._resting = asyncio.get_running_loop().create_task(self.flow.read())
        self._resting.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def is_resting(self) -> bool:
        """Whether nothing has come since ``rest``."""
        return self._resting is not None and not self._resting.done()

    async def read(self) -> bytes:
        """As ``Flow.read``, letting others run first even when bytes are waiting."""
        await asyncio.sleep(0)
        resting, self._resting = self._resting, None
        return await (resting if resting is not None else self.flow.read())

    async def close(self) -> None:
        """End the flow quietly."""
        await self._stop_resting()
        self.flow.close()

    async def abort(self) -> None:
        """End the flow with a reset."""
        self.flow.abort()
        await self._stop_resting()

    async def _stop_resting(self) -> None:
        resting, self._resting = self._resting, None
        if resting is not None:
            resting.cancel()
            await asyncio.gather(resting, return_exceptions=True)


class Transfer:
    """One request and its response. target and headers: what to ask the destination. What was found is told by the
    attributes after ``run``."""

    def __init__(
        self,
        client: Client,
        exchange: ServerExchange,
        head: RequestHead,
        target: bytes,
        headers: Headers,
        upstream: Upstream,
    ) -> None:
        self._client = client
        self._sock = client.sock
        self._front = exchange
        self._head = head
        self._target = target
        self._headers = headers
        self._upstream = upstream
        self._flow = upstream.flow
        self._back = ClientExchange(client.config.max_head)
        self._awaits_continue = head.version == b"1.1" and any(name.lower() == b"expect" for name, _ in head.headers)
        self.responded = False
        """Whether a byte of a response has been sent to the application."""
        self.switched = False
        """Whether the connection has become one of another protocol, and has ended as such."""
        self.found_closed = False
        """Whether the flow ended before a byte of a response: a kept one had been closed meanwhile."""

    @property
    def upstream_is_reusable(self) -> bool:
        return self._back.keeps_alive

    async def run(self) -> None:
        """Carry both. Raises FlowError and PeerError as they come from the destination; PeerError with status 400
        when the application breaks off or mangles its body; OSError when the application's connection is broken."""
        # Before connected(): the request travels right behind the connect.
        self._flow.write(self._back.request(self._head.method, self._target, self._headers))
        loop = asyncio.get_running_loop()
        upload, download = loop.create_task(self._upload()), loop.create_task(self._download())
        try:
            pending: set[asyncio.Task[None]] = {upload, download}
            while download in pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                if upload in done:
                    upload.result()
            download.result()
            if upload in pending and not self._awaits_continue:
                await asyncio.wait({upload}, timeout=UPLOAD_GRACE)
        finally:
            upload.cancel()
            download.cancel()
            await asyncio.gather(upload, download, return_exceptions=True)
        if self.switched:
            await self._carry_other_protocol()

    async def _upload(self) -> None:
        if self._front.is_complete:  # sent before, on a connection that was found closed
            self._flow.write(self._back.end([]))
            return
        while True:
            event = self._front.next_event()
            if event is None:
                data = await receive(self._sock)
                if data:
                    self._front.receive_data(data)
                else:
                    self._front.receive_eof()
                continue
            try:
                if isinstance(event, EndOfBody):
                    self._flow.write(self._back.end(trailers(event.trailers)))
                    return
                assert isinstance(event, Body)
                self._flow.write(self._back.body(event.data))
                await self._flow.drain()
            except FlowError:
                return  # what the destination has said before it broke off is for the download to find

    async def _download(self) -> None:
        try:
            await self._client.connected(self._flow)
        except FlowError:
            self.found_closed = True
            raise
        complete = False
        while not complete:
            # What one read brought is sent on in one piece.
            output = bytearray()
            while not complete and (event := self._back.next_event()) is not None:
                complete = self._take(event, output)
            if output:
                self.responded = True
                await send_all(self._sock, output)
            if not complete:
                await self._receive()

    async def _receive(self) -> None:
        try:
            data = await self._upstream.read()
        except FlowError:
            self.found_closed = not self._back.has_received and not self.responded
            raise
        if data:
            self._back.receive_data(data)
            return
        if not self._back.has_received:
            self.found_closed = not self.responded
            raise FlowError(Failure.RESET, "the destination closed the connection without a response")
        self._back.receive_eof()

    def _take(self, event: ResponseHead | Informational | Body | EndOfBody, output: bytearray) -> bool:
        """Add what event means for the application to output. Whether the response is complete."""
        if isinstance(event, Body):
            output += self._front.body(event.data)
        elif isinstance(event, EndOfBody):
            output += self._front.end(trailers(event.trailers))
            return True
        elif isinstance(event, Informational):
            if event.status == 101:
                self.switched = True
                output += self._front.informational(_passed_on(event))
                return True
            if self._head.version == b"1.1":  # RFC 9110 §15.2: HTTP/1.0 has no 1xx
                self._awaits_continue = False
                output += self._front.informational(_passed_on(event))
        else:
            self._take_head(event, output)
        return False

    def _take_head(self, event: ResponseHead, output: bytearray) -> None:
        if event.status == 407:
            # A browser would ask for the proxy's password in the destination's words.
            raise PeerError("the destination answered 407, which only a proxy may", status=502)
        # An answer before the whole request was read: whether the rest still comes is the application's choice, and
        # the next request could not be told from it. So this one is the last (RFC 9110 §10.1.1).
        close = self._client.closing or (has_content(self._head) and not self._front.is_complete)
        headers = response_headers(event, via=self._client.config.via, close=close)
        output += self._front.respond(event.status, event.reason, headers)

    async def _carry_other_protocol(self) -> None:
        """After 101: bytes both ways until both directions have ended (RFC 9110 §7.8)."""
        loop = asyncio.get_running_loop()
        tasks = {loop.create_task(self._raw_upload()), loop.create_task(self._raw_download())}
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _raw_upload(self) -> None:
        data = self._front.remainder or await receive(self._sock)
        while data:
            self._flow.write(data)
            await self._flow.drain()
            data = await receive(self._sock)
        self._flow.write_eof()

    async def _raw_download(self) -> None:
        data = self._back.remainder or await self._upstream.read()
        while data:
            await send_all(self._sock, data)
            data = await self._upstream.read()
        self._client.half_close()


def _passed_on(event: Informational) -> Informational:
    return Informational(event.status, event.reason, informational_headers(event))
