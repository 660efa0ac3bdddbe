"""Makes listening sockets, and says in one line what is wrong when that fails.

A unix socket is only ever as open as its file's mode, so it has mode 0600 before anybody could connect, and a file in
its place is only removed when it is a socket that nobody listens on any more.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from typing import Final

from .config import ListenerConfig
from .errors import LocalError
from .hosts import format_authority

BACKLOG: Final = 1024
"""Connections that wait in the kernel; it takes at most net.core.somaxconn, 4,096 on current Linux."""


@dataclass(frozen=True, slots=True)
class UnixFile:
    """The file of a unix socket, remembered by what it is and not by its name."""

    path: str
    device: int
    inode: int

    def remove(self) -> None:
        """Remove the file if it is still ours."""
        with contextlib.suppress(OSError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == (self.device, self.inode):
                os.unlink(self.path)


def bind_all(config: ListenerConfig) -> tuple[list[socket.socket], list[UnixFile]]:
    """Listen on everything that config names, or on nothing. Raises LocalError. Names are resolved, which may block."""
    with contextlib.ExitStack() as undo:
        sockets: list[socket.socket] = []
        files: list[UnixFile] = []
        for host, port in config.addresses:
            for family, address in _resolve(host, port):
                config.check_open(address[0], port)
                sock = _bind_tcp(family, address)
                undo.callback(sock.close)
                sockets.append(sock)
        for path in config.unix_paths:
            sock, file = _bind_unix(path)
            undo.callback(sock.close)
            undo.callback(file.remove)
            sockets.append(sock)
            files.append(file)
        undo.pop_all()
        return sockets, files


def _resolve(host: str, port: int) -> list[tuple[socket.AddressFamily, tuple[str, int]]]:
    where = format_authority(host, port)
    if not host:
        raise LocalError(f"cannot listen on {where}: no host; use 127.0.0.1 for this machine, or 0.0.0.0 for all")
    try:
        # As octets, since of a text Python imports all that it has for names with other letters, 1 MB.
        name = host.encode() if host.isascii() else host
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError):
        raise LocalError(
            f"cannot listen on {where}: the host is unknown here; give an address of this machine"
        ) from None
    addresses: dict[tuple[socket.AddressFamily, tuple[str, int]], None] = {}
    for family, _type, _protocol, _name, address in found:
        if family in (socket.AF_INET, socket.AF_INET6):
            addresses[family, (str(address[0]), port)] = None
    return list(addresses)


def _bind_tcp(family: socket.AddressFamily, address: tuple[str, int]) -> socket.socket:
    sock = None
    try:
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        # So that a restart need not wait for TIME_WAIT; it does not let two programs share a port.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Each family is asked for by itself, so that a check of one is never a permission for the other.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Connections inherit what ``sockets.prepare`` sets, and need no call of their own for it.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except OSError as error:
        if sock is not None:
            sock.close()
        raise LocalError(_explain(format_authority(*address), error)) from None
    return sock


def _bind_unix(path: str) -> tuple[socket.socket, UnixFile]:
    if not path or "\0" in path:
        raise LocalError("cannot listen on a unix socket: its path is empty or contains a NUL")
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    bound = False
    try:
        sock.setblocking(False)
        _remove_stale(path)
        # On Linux the mode of the socket becomes the mode of the file, less the umask; so it is never wider, not even
        # for a moment. Elsewhere chmod comes before listen, and until then nobody can connect.
        with contextlib.suppress(OSError):
            os.fchmod(sock.fileno(), 0o600)
        sock.bind(path)
        bound = True
        os.chmod(path, 0o600)
        sock.listen(BACKLOG)
        made = os.lstat(path)
    except OSError as error:
        sock.close()
        if bound:
            with contextlib.suppress(OSError):
                os.unlink(path)
        if "too long" in str(error):
            raise LocalError(f"cannot listen on {path}: the path of a unix socket has at most 107 bytes") from None
        raise LocalError(_explain(path, error)) from None
    except LocalError:
        sock.close()
        raise
    return sock, UnixFile(path, made.st_dev, made.st_ino)


def _remove_stale(path: str) -> None:
    """Remove the socket of a program that has died. Raises LocalError for whatever else is there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise LocalError(
            f"cannot listen on {path}: there is a file that is not a socket; choose another path, or move it"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            UnixFile(path, found.st_dev, found.st_ino).remove()
            return
        except BlockingIOError:
            pass  # somebody listens, and is busy
    raise LocalError(_explain(path, OSError(errno.EADDRINUSE, "")))


def _explain(where: str, error: OSError) -> str:
    advice = {
        errno.EADDRINUSE: "address already in use; choose another with --listen, or stop the program that holds it",
        errno.EACCES: "permission denied; choose a port above 1023, or a directory that you may write to",
        errno.EPERM: "permission denied; choose a port above 1023, or a directory that you may write to",
        errno.EADDRNOTAVAIL: "not an address of this machine; choose one that is",
        errno.EAFNOSUPPORT: "this machine does not have that address family; choose another address",
        errno.ENOENT: "the directory does not exist; make it first",
        errno.EMFILE: "out of file descriptors; raise the limit (ulimit -n)",
    }
    why = advice.get(error.errno or 0, (error.strerror or str(error)).lower())
    return f"cannot listen on {where}: {why}"
