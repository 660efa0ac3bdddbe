"""Serves one SOCKS4, SOCKS4a or SOCKS5 connection: from its first bytes to a tunnel or a refusal.

Read RFC 1928 §3 to §6. The codecs in ``socks4`` and ``socks5`` do the reading; this file keeps the time, opens the
flow, and answers only when there is a true answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from .connection import Client, Ending, Outcome, Tunnel
from .errors import AccessDenied, PeerError
from .sockets import receive, send_all
from .socks4 import Command as Command4
from .socks4 import Socks4Server
from .socks4 import Verb as Verb4
from .socks4 import encode_reply as encode_reply4
from .socks5 import Command as Command5
from .socks5 import Socks5Server
from .socks5 import Verb as Verb5
from .types import Flow, FlowError, Request


async def serve_socks5(client: Client, first: bytes, deadline: float) -> Outcome:
    """first: what has been read. deadline: loop time by which the request must be complete."""
    codec = Socks5Server(client.config.credentials)
    return await _serve_socks5(client, codec, await _negotiate(client, codec, first, deadline))


async def resume_socks5(
    client: Client, *, codec: Socks5Server, command: Command5 | None, unsent: bytes, deadline: float
) -> Outcome:
    """Go on where ``opening`` could not: unsent is to be sent first. command: the request, if it has come."""
    try:
        async with asyncio.timeout_at(deadline):
            await send_all(client.sock, unsent)
    except TimeoutError:
        client.statistics.failed += 1
        return Ending.GENTLY
    if command is None:
        found = await _negotiate(client, codec, b"", deadline)
        assert found is None or isinstance(found, Command5)
        command = found
    return await _serve_socks5(client, codec, command)


async def finish_socks5(client: Client, *, codec: Socks5Server, flow: Flow, unsent: bytes) -> Outcome:
    """Go on where ``opening`` could not: flow stands, and unsent is what is left of its reply."""
    client.use(flow)
    try:
        await send_all(client.sock, unsent)
    except BaseException:
        flow.abort()
        raise
    return Tunnel(flow, codec.remainder)


async def serve_from(
    client: Client,
    *,
    serve: Callable[[Client, bytes, float], Coroutine[Any, Any, Outcome]],
    first: bytes,
    deadline: float,
) -> Outcome:
    """What serve does, for who has only client to give."""
    return await serve(client, first, deadline)


async def end_gently(_client: Client) -> Outcome:
    """There is nothing to say."""
    return Ending.GENTLY


async def refuse(client: Client, *, words: bytes) -> Outcome:
    """Say our last words."""
    await client.say(words)
    return Ending.GENTLY


async def _serve_socks5(client: Client, codec: Socks5Server, command: Command4 | Command5 | None) -> Outcome:
    if command is None:
        return Ending.GENTLY
    assert isinstance(command, Command5)
    if command.verb is not Verb5.CONNECT:
        return await refuse(client, words=codec.unsupported())
    return await _connect(client, codec, Request(command.host, command.port, "socks5", client.peer, command.user))


async def serve_socks4(client: Client, first: bytes, deadline: float) -> Outcome:
    """As ``serve_socks5``. With a password configured everybody is refused: SOCKS4 cannot carry one."""
    if client.config.credentials is not None:
        client.statistics.denied += 1
        await client.say(encode_reply4(0x5B))
        return Ending.GENTLY
    codec = Socks4Server()
    command = await _negotiate(client, codec, first, deadline)
    if command is None:
        return Ending.GENTLY
    assert isinstance(command, Command4)
    if command.verb is not Verb4.CONNECT:
        await client.say(codec.unsupported())
        return Ending.GENTLY
    request = Request(command.host, command.port, "socks4", client.peer, command.user or None)
    return await _connect(client, codec, request)


async def _negotiate(
    client: Client, codec: Socks4Server | Socks5Server, data: bytes, deadline: float
) -> Command4 | Command5 | None:
    """Read until the request is complete; None when there will be none, and whatever could be said has been said."""
    try:
        async with asyncio.timeout_at(deadline):
            while True:
                codec.receive_data(data)
                try:
                    command = codec.next_event()
                finally:
                    answer = codec.data_to_send() if isinstance(codec, Socks5Server) else b""
                    if answer:
                        await send_all(client.sock, answer)
                if command is not None:
                    return command
                data = await receive(client.sock)
                if not data:
                    client.statistics.failed += 1
                    return None
    except PeerError as error:
        if isinstance(error, AccessDenied):
            client.statistics.denied += 1
        else:
            client.statistics.failed += 1
        await client.say(error.reply)
    except TimeoutError:
        client.statistics.failed += 1
    return None


async def _connect(client: Client, codec: Socks4Server | Socks5Server, request: Request) -> Outcome:
    try:
        flow, bound = await client.open(request)
    except FlowError as error:
        await client.say(codec.fail(error.failure))
        return Ending.GENTLY
    try:
        await send_all(client.sock, codec.succeed(bound))
    except BaseException:
        flow.abort()
        raise
    return Tunnel(flow, codec.remainder)
