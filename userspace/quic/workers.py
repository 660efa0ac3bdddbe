"""Several processes on one port: the group of sockets that they share, and the way from a wrong worker to the right one.

Read ``steering`` first, socket(7) on SO_REUSEPORT and unix(7) on SOCK_SEQPACKET. Whoever opens the group keeps all its
sockets for as long as it runs, so that each worker has the same place in it after a restart, and what arrives meanwhile
waits. Without the kernel's help (``steered`` is false) its hash of the addresses chooses a worker, which keeps those
clients that it meets first; only a client that changes its address then has to be forwarded.
"""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from .errors import LocalError
from .session import Route
from .steering import is_client_chosen, program, worker_of
from .types import Address
from .udp import bind

ATTACH_REUSEPORT_CBPF = 51
"""SO_ATTACH_REUSEPORT_CBPF of asm-generic/socket.h, since Linux 4.5."""
INBOX = 1 << 20
"""Octets on their way to one worker, as far as the kernel grants them: what is more is lost, as on the network."""
BATCH = 64
"""Forwarded datagrams taken per readiness, so that sockets and timers get their turn."""
LARGEST = 65536 + 256
"""Octets of a forwarded datagram with the addresses before it."""
SWITCH = "QUICSOCKS_STEERING"
"""The variable that turns the program off (``none``), a switch for tests."""


@dataclass(frozen=True, slots=True)
class Share:
    """One worker's part of a group. sockets: bound ones, one for each local address, in the same order for all workers.
    inbox: where others' datagrams for this worker arrive. outboxes: by worker, the ways to their inboxes."""

    number: int
    workers: int
    sockets: tuple[socket.socket, ...]
    inbox: socket.socket
    outboxes: tuple[socket.socket, ...]
    steered: bool


class Group:
    """The sockets of all workers. Raises LocalError when an address cannot be had.

    sockets: by worker, in the order of local. steered: whether the kernel takes the program for every address.
    """

    def __init__(self, local: Sequence[Address], workers: int) -> None:
        self.workers = workers
        self.sockets: list[list[socket.socket]] = [[] for _ in range(workers)]
        self.inboxes: list[socket.socket] = []
        self.outboxes: list[socket.socket] = []
        self.steered = True
        try:
            for address in local:
                self._open(address)
            for _ in range(workers):
                inbox, outbox = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
                self.inboxes.append(inbox)
                self.outboxes.append(outbox)
                inbox.setblocking(False)
                outbox.setblocking(False)
                outbox.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, INBOX)
        except BaseException:
            self.close()
            raise

    def _open(self, address: Address) -> None:
        # The first one alone: an address that another process has, even one of our own user, is refused as ever.
        first = bind(address)
        self.sockets[0].append(first)
        option = getattr(socket, "SO_REUSEPORT", None)
        if option is None:
            raise LocalError("this system cannot share a port between processes; run with --workers 1")
        first.setsockopt(socket.SOL_SOCKET, option, 1)
        address = (address[0], first.getsockname()[1])
        for sockets in self.sockets[1:]:
            sockets.append(bind(address, reuse_port=True))
        self.steered &= os.environ.get(SWITCH) != "none" and attach(first, program(self.workers))

    @property
    def local_addresses(self) -> tuple[Address, ...]:
        names = [opened.getsockname() for opened in self.sockets[0]]
        return tuple((name[0], name[1]) for name in names)

    def share(self, number: int) -> Share:
        """What worker number works with, in this process."""
        return Share(
            number,
            self.workers,
            tuple(self.sockets[number]),
            self.inboxes[number],
            tuple(self.outboxes),
            self.steered,
        )

    def close(self) -> None:
        for opened in (*(one for sockets in self.sockets for one in sockets), *self.inboxes, *self.outboxes):
            opened.close()


def attach(member: socket.socket, code: bytes) -> bool:
    """Let code choose the socket of the group that member belongs to. False when the system does not do that."""
    buffer = array.array("B", code)
    # struct sock_fprog: the number of instructions, and where they are.
    described = struct.pack("@HP", len(code) // 8, buffer.buffer_info()[0])
    try:
        member.setsockopt(socket.SOL_SOCKET, ATTACH_REUSEPORT_CBPF, described)
    except OSError:
        return False
    return True


class Forwarder:
    """Passes datagrams of other workers on, and takes ours from them; at most once, so that none goes in circles."""

    def __init__(self, share: Share) -> None:
        self._share = share
        self._out = 0
        self._in = 0
        self._lost = 0

    def pass_on(self, data: bytes, route: Route, ecn: int) -> bool:
        """Whether data is for another worker, which has it now, or would have if there were room."""
        share = self._share
        if not share.steered and is_client_chosen(data, share.workers):
            return False
        number = worker_of(data, share.workers)
        if number is None or number == share.number:
            return False
        local, remote = route.local, route.remote
        head = f"{route.socket} {ecn} {local[0]} {local[1]} {remote[0]} {remote[1]}\0".encode()
        try:
            share.outboxes[number].send(head + data)
        except OSError:
            self._lost += 1
        else:
            self._out += 1
        return True

    def receive(self) -> list[tuple[bytes, Route, int]]:
        """What others have passed on: datagrams, their routes and ECN codepoints."""
        arrived: list[tuple[bytes, Route, int]] = []
        while len(arrived) < BATCH:
            try:
                message = self._share.inbox.recv(LARGEST)
            except OSError:
                break
            if not message:
                break  # Everybody else is gone.
            head, _, data = message.partition(b"\0")
            number, ecn, local, local_port, remote, remote_port = head.decode().split(" ")
            route = Route((local, int(local_port)), (remote, int(remote_port)), int(number))
            arrived.append((data, route, int(ecn)))
        self._in += len(arrived)
        return arrived

    def statistics(self) -> dict[str, int]:
        return {"forwarded": self._out, "forwarded_here": self._in, "forward_lost": self._lost}
