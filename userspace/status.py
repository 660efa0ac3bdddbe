"""The control socket: how ``quicsocks status``, ``env`` and ``client revoke`` talk to a process that runs.

A unix stream socket, 0600, in a private folder; a connection carries one request and one answer, each a JSON object on
one line:

    {"command": "status"}  ->  {"ok": true, "role": "client", ...}   or   {"ok": false, "error": "one line"}

The kernel says who the peer is (SO_PEERCRED); anybody but our own user and root is turned away. Instances are told
apart by name: ``NAME.sock``. The server side runs on asyncio, the asking side is blocking, for short-lived commands.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from .state import StateError, private_folder, reason

MAX_REQUEST = 4096
"""Bytes of a request: a command and a name."""
MAX_ANSWER = 4 << 20
"""Bytes of an answer: a status with thousands of clients, some hundred each."""
MAX_PEERS = 16
"""Connections at once; they are a user's own commands and a health check."""
EXCHANGE_TIMEOUT = 5.0
"""Seconds for one exchange, at either end."""
SUFFIX = ".sock"

Handler = Callable[[dict[str, Any]], Mapping[str, Any] | Awaitable[Mapping[str, Any]]]
"""Takes the request, returns what to answer (``ok`` is added), now or later. A StateError becomes the answer's error
line."""

_INSTANCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
# sun_path, less the NUL (unix(7)).
_MAX_PATH = 107


class StatusError(StateError):
    """A running process cannot be asked, or refused; the message is one line."""


def socket_path(runtime_dir: Path, name: str) -> Path:
    """Where the instance of that name listens. Raises StatusError for an impossible name or a path too long."""
    if not _INSTANCE.match(name):
        raise StatusError(f"{name!r} cannot be the name of a running process")
    path = runtime_dir / (name + SUFFIX)
    if len(os.fsencode(path)) > _MAX_PATH:
        raise StatusError(f"the path {path} is too long for a socket; set a shorter one with --runtime DIR")
    return path


class StatusServer:
    """Answers requests on a control socket. handlers: by the request's ``command``; called on the event loop."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self._handlers = dict(handlers)
        self._inode: tuple[int, int] | None = None
        self._peers: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.path = path

    async def start(self) -> None:
        """Listen. Raises StatusError, e.g. when a living process has the socket; a dead one's is replaced."""
        private_folder(self.path.parent)
        listener = _bind(self.path)
        try:
            info = os.lstat(self.path)
            self._inode = (info.st_dev, info.st_ino)
            self._server = await asyncio.start_unix_server(self._accept, sock=listener, limit=MAX_REQUEST)
        except BaseException:
            listener.close()
            raise

    async def close(self) -> None:
        """Stop, and remove the socket if it is still ours. Idempotent."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        peers = list(self._peers)
        for task in peers:
            task.cancel()
        await asyncio.gather(*peers, return_exceptions=True)
        with contextlib.suppress(OSError):
            info = os.lstat(self.path)
            if (info.st_dev, info.st_ino) == self._inode:
                os.unlink(self.path)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        try:
            if len(self._peers) >= MAX_PEERS or not _is_trusted(writer.get_extra_info("socket")):
                return
            self._peers.add(task)
            async with asyncio.timeout(EXCHANGE_TIMEOUT):
                await self._exchange(reader, writer)
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # a peer that is gone, slow or talks too much; cancelled only by close()
        finally:
            self._peers.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # readline raises ValueError beyond the limit.
        answer = await self._answer(await reader.readline())
        writer.write(json.dumps(answer, default=str).encode("utf-8") + b"\n")
        await writer.drain()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        command = request.get("command") if isinstance(request, dict) else None
        handler = self._handlers.get(command) if isinstance(command, str) else None
        if not isinstance(request, dict) or handler is None:
            return {"ok": False, "error": f"unknown request; commands are: {', '.join(sorted(self._handlers))}"}
        try:
            answer = handler(request)
            return {"ok": True, **(answer if isinstance(answer, Mapping) else await answer)}
        except StateError as error:
            return {"ok": False, "error": str(error)}
        except Exception as error:
            # One bad answer must not end the program whose status is asked for.
            return {"ok": False, "error": f"internal error ({type(error).__name__}: {error})"}


def ask(path: Path, request: Mapping[str, Any], timeout: float = EXCHANGE_TIMEOUT) -> dict[str, Any]:
    """Send one request to a running process and return its answer, without ``ok``.

    Raises StatusError: nothing runs there, it does not answer within timeout seconds (each step), or it refused.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(os.fspath(path))
            if not _is_trusted(connection):
                raise StatusError(f"{path} belongs to a process of another user; it was not asked")
            connection.sendall(json.dumps(dict(request)).encode("utf-8") + b"\n")
            data = _read_line(connection)
        except (FileNotFoundError, ConnectionRefusedError):
            raise StatusError(f"nothing is running at {path}") from None
        except TimeoutError:
            raise StatusError(f"the process at {path} does not answer; it may hang") from None
        except OSError as error:
            raise StatusError(f"cannot ask the process at {path}: {reason(error)}") from None
    try:
        answer = json.loads(data)
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise StatusError(f"the process at {path} gave no proper answer; is it another version?")
    if not answer.pop("ok", False):
        raise StatusError(str(answer.get("error", "refused without a reason")))
    return answer


def instances(runtime_dir: Path) -> list[str]:
    """The names of the sockets in the folder, sorted; dead processes' ones are among them."""
    try:
        return sorted(
            entry.name.removesuffix(SUFFIX)
            for entry in os.scandir(runtime_dir)
            if entry.name.endswith(SUFFIX) and stat.S_ISSOCK(entry.stat(follow_symlinks=False).st_mode)
        )
    except OSError:
        return []


def render(answer: Mapping[str, Any], now: float) -> str:
    """A status answer as a few lines for a person. now: Unix time.

    Keys shown: role, name, connected (bool), connected_to, since (Unix time), reason, rtt (seconds), flows,
    bytes_in, bytes_out, packets_sent, packets_lost, congestion, congestion_window, pacing_rate (octets/s),
    path_mtu, listeners (list), alpn, lane, engine, qlog (a folder), draining, clients (a list of dicts with name,
    address, flows, rtt, bytes_in, bytes_out, and as above from packets_sent to path_mtu), workers (a list of dicts
    with number, process, clients, forwarded, restarts). All may be absent; the others are for --json.
    """
    lines = [_headline(answer, now)]
    details = []
    if isinstance(answer.get("rtt"), (int, float)) and answer["rtt"] > 0:
        details.append(f"round trip {answer['rtt'] * 1000:.1f} ms")
    if "flows" in answer:
        details.append(f"{answer['flows']} flow{'' if answer['flows'] == 1 else 's'} open")
    if "bytes_in" in answer:
        details.append(f"{size(answer['bytes_in'])} in")
    if "bytes_out" in answer:
        details.append(f"{size(answer['bytes_out'])} out")
    if details:
        lines.append("  " + ", ".join(details))
    if path := _path_details(answer):
        lines.append("  " + ", ".join(path))
    listeners = answer.get("listeners")
    if isinstance(listeners, (list, tuple)) and listeners:
        lines.append(f"  listening on {', '.join(str(one) for one in listeners)}")
    clients = answer.get("clients")
    if isinstance(clients, (list, tuple)):
        lines.extend(_client_line(client) for client in clients)
    workers = answer.get("workers")
    if isinstance(workers, (list, tuple)):
        lines.extend(_worker_line(worker) for worker in workers)
    rest = [f"{key} {answer[key]}" for key in ("alpn", "lane", "engine") if answer.get(key)]
    if rest:
        lines.append("  " + ", ".join(rest))
    if answer.get("qlog"):
        lines.append(f"  logging what happens in connections to {answer['qlog']} (stop: quicsocks qlog off)")
    if answer.get("draining"):
        lines.append("  shutting down: no new flow is taken")
    return "\n".join(lines)


def _path_details(answer: Mapping[str, Any]) -> list[str]:
    """How the way to the other end is doing."""
    details = []
    if answer.get("congestion_window"):
        control = f" ({answer['congestion']})" if answer.get("congestion") else ""
        details.append(f"window {size(answer['congestion_window'])}{control}")
    if answer.get("pacing_rate"):
        details.append(f"pacing {size(int(answer['pacing_rate']))}/s")
    if answer.get("packets_sent"):
        share = 100.0 * answer.get("packets_lost", 0) / answer["packets_sent"]
        details.append(f"{share:.2g} % of packets lost")
    if answer.get("path_mtu"):
        details.append(f"packets up to {answer['path_mtu']} bytes")
    return details


def _headline(answer: Mapping[str, Any], now: float) -> str:
    who = str(answer.get("role", "process"))
    if answer.get("name") and answer["name"] != who:
        who += f" {answer['name']}"
    since = ""
    if isinstance(answer.get("since"), (int, float)):
        since = f" for {duration(now - answer['since'])}"
    if answer.get("connected", bool(answer.get("connected_to"))):
        return f"{who}: connected to {answer.get('connected_to', 'the concentrator')}{since}"
    if "connected_to" in answer or "connected" in answer:
        why = f": {answer['reason']}" if answer.get("reason") else ""
        return f"{who}: not connected{since}{why}"
    return f"{who}: running{since}"


def _client_line(client: object) -> str:
    if not isinstance(client, Mapping):
        return f"  {client}"
    rest = []
    if client.get("address"):
        rest.append(f"from {client['address']}")
    if "flows" in client:
        rest.append(f"{client['flows']} flow{'' if client['flows'] == 1 else 's'}")
    if isinstance(client.get("rtt"), (int, float)):
        rest.append(f"{client['rtt'] * 1000:.1f} ms")
    if "bytes_in" in client and "bytes_out" in client:
        rest.append(f"{size(client['bytes_in'])} in, {size(client['bytes_out'])} out")
    rest += _path_details(client)
    return f"  client {client.get('name', '?')}: {', '.join(rest)}"


def _worker_line(worker: object) -> str:
    if not isinstance(worker, Mapping):
        return f"  {worker}"
    if not worker.get("answers", True):
        return f"  worker {worker.get('number', '?')}: does not answer"
    rest = []
    if worker.get("process"):
        rest.append(f"process {worker['process']}")
    if "clients" in worker:
        rest.append(f"{worker['clients']} client{'' if worker['clients'] == 1 else 's'}")
    if "forwarded" in worker:
        rest.append(f"{worker['forwarded']} packets forwarded")
    if worker.get("restarts"):
        rest.append(f"started again {worker['restarts']} time{'' if worker['restarts'] == 1 else 's'}")
    return f"  worker {worker.get('number', '?')}: {', '.join(rest)}"


def size(count: object) -> str:
    """A number of bytes for a person, in powers of ten."""
    if not isinstance(count, (int, float)):
        return str(count)
    number = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(number) < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def duration(seconds: float) -> str:
    """A stretch of time for a person, in its two largest units."""
    rest = max(0, int(seconds))
    if rest < 60:
        return f"{rest} s"
    for unit, length, lower, lower_length in (("d", 86400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if rest >= length:
            return f"{rest // length} {unit} {rest % length // lower_length} {lower}"
    return f"{rest} s"


def _bind(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # The mode of the socket is set by the umask at bind: there is no moment in which others could connect.
    mask = os.umask(0o177)
    try:
        try:
            listener.bind(os.fspath(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_dead(path)
            listener.bind(os.fspath(path))
    except OSError as error:
        listener.close()
        raise StatusError(f"cannot listen on {path}: {reason(error)}") from None
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(mask)
    listener.setblocking(False)
    return listener


def _remove_dead(path: Path) -> None:
    """Remove the socket of a process that is gone. Raises StatusError when it lives or is no socket."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise StatusError(f"{path} exists and is not a socket; remove it")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(EXCHANGE_TIMEOUT)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            return
        except OSError:
            pass  # a full backlog or a slow process: it lives
    raise StatusError(f"another process listens on {path}; stop it, or run this one under another name with --name")


def _is_trusted(connection: object) -> bool:
    """Whether the process at the other end of a unix socket is ours or root's."""
    peercred = getattr(socket, "SO_PEERCRED", None)
    getsockopt = getattr(connection, "getsockopt", None)
    if peercred is None or getsockopt is None:
        return True  # not Linux: the folder's and the socket's mode keep others out
    try:
        credentials = getsockopt(socket.SOL_SOCKET, peercred, struct.calcsize("3i"))
    except OSError:
        return False
    uid = struct.unpack("3i", credentials)[1]
    return uid in (os.getuid(), 0)


def _read_line(connection: socket.socket) -> bytes:
    data = bytearray()
    while not data.endswith(b"\n"):
        piece = connection.recv(65536)
        if not piece:
            break
        data += piece
        if len(data) > MAX_ANSWER:
            raise OSError(errno.EMSGSIZE, "the answer is too long")
    return bytes(data)
