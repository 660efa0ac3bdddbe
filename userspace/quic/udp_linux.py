"""UDP sockets as Linux can do them: many datagrams a call (UDP_SEGMENT, UDP_GRO), answers from the address that was
asked (IP_PKTINFO), no fragmentation, and ICMP errors (IP_RECVERR).

Read udp(7), ip(7) and ipv6(7). Python does not name these options; the numbers are those of the kernel's headers.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct

from . import udp_default
from .session import Route
from .types import Address

SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104
IP_PKTINFO = 8
IP_MTU_DISCOVER = 10
IP_RECVERR = 11
IP_PMTUDISC_PROBE = 3
IPV6_MTU_DISCOVER = 23
IPV6_RECVERR = 25
IPV6_RECVPKTINFO = 49
IPV6_PKTINFO = 50
MSG_ERRQUEUE = 0x2000
SO_EE_ORIGIN_LOCAL = 1

MOST_SEGMENTS = 64
"""UDP_MAX_SEGMENTS of kernels before 6.9; later ones take 128."""
MOST_OCTETS = 65000
"""Octets of one send, less than 65,535 with the headers."""
MOST_ERRORS = 64
"""Errors read at once: a forger may send as many as it likes."""
ANCILLARY = 512
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
_UNREACHABLE = frozenset(
    {errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EACCES, errno.EPERM, errno.EHOSTDOWN}
)
_NO_SEGMENTATION = frozenset({errno.EIO, errno.EINVAL, errno.ENOPROTOOPT, errno.EOPNOTSUPP})


class UdpSocket(udp_default.UdpSocket):
    def configure(self) -> None:
        super().configure()
        self._buffer = bytearray(udp_default.LARGEST)
        self._view = memoryview(self._buffer)
        self._segmentation = True
        self._failed: list[tuple[Address, str]] = []
        self._local_ips: dict[bytes, Address] = {}
        self._watched = select.poll()
        self._watched.register(self.socket, 0)  # POLLERR comes unasked.
        bound, ipv4 = self.socket, self.family == socket.AF_INET
        level = socket.IPPROTO_IP if ipv4 else socket.IPPROTO_IPV6
        # RFC 9000 §14: never fragmented. PROBE sets DF and ignores what ICMP says of the path: we probe for ourselves.
        self._try(level, IP_MTU_DISCOVER if ipv4 else IPV6_MTU_DISCOVER, IP_PMTUDISC_PROBE)
        self._try(level, IP_RECVERR if ipv4 else IPV6_RECVERR, 1)
        self._try(SOL_UDP, UDP_GRO, 1)
        if self.wildcard:
            bound.setsockopt(level, IP_PKTINFO if ipv4 else IPV6_RECVPKTINFO, 1)

    def _try(self, level: int, option: int, value: int) -> None:
        try:
            self.socket.setsockopt(level, option, value)
        except OSError:
            pass  # An older kernel, or one that only looks like Linux: it works without, if less well.

    def receive(self) -> list[tuple[bytes, Route]]:
        arrived: list[tuple[bytes, Route]] = []
        view, buffers = self._view, [self._buffer]
        while len(arrived) < udp_default.BATCH:
            try:
                size, ancillary, _, address = self.socket.recvmsg_into(buffers, ANCILLARY)
            except BlockingIOError:
                break
            except OSError:
                self.suspicious = True
                break
            segment, local, info = size, self.local, b""
            for level, kind, data in ancillary:
                if level == SOL_UDP and kind == UDP_GRO:
                    segment = int.from_bytes(data[:4], "little" if _LITTLE else "big")
                elif kind == IP_PKTINFO and level == socket.IPPROTO_IP:
                    info = data[4:8]
                elif kind == IPV6_PKTINFO and level == socket.IPPROTO_IPV6:
                    info = data[:16]
            if info:
                local = self._local_of(info)
            route = self.remember((address, info), address, local)
            if segment >= size:
                arrived.append((bytes(view[:size]), route))
            else:
                # The last one may be shorter; behind it lies what an earlier call has left.
                arrived.extend((bytes(view[at : min(at + segment, size)]), route) for at in range(0, size, segment))
        if self._watched.poll(0):
            self.suspicious = True  # The kernel has an error to report, even if no call has returned it.
        return arrived

    def _local_of(self, info: bytes) -> Address:
        local = self._local_ips.get(info)
        if local is None:
            local = self._local_ips[info] = (socket.inet_ntop(self.family, info), self.local[1])
        return local

    def send(self, datagrams: list[tuple[bytes, Route]]) -> int:
        at, total = 0, len(datagrams)
        while at < total:
            end = self._batch_end(datagrams, at)
            try:
                self._send_batch(datagrams, at, end)
            except BlockingIOError:
                return at
            except OSError as error:
                self.suspicious = True
                if end - at > 1 and error.errno in _NO_SEGMENTATION:
                    self._segmentation = False
                    continue
                if not self._send_again(datagrams, at, end):
                    return at
            at = end
        return total

    def _batch_end(self, datagrams: list[tuple[bytes, Route]], at: int) -> int:
        """How far one call may go: to one address, all of one size, but the last, which may be smaller."""
        first, route = datagrams[at]
        size, octets, end = len(first), len(first), at + 1
        if not self._segmentation:
            return end
        last = min(len(datagrams), at + MOST_SEGMENTS)
        while end < last:
            data, other = datagrams[end]
            octets += len(data)
            if other is not route or len(data) > size or octets > MOST_OCTETS:
                break
            end += 1
            if len(data) < size:
                break
        return end

    def _send_batch(self, datagrams: list[tuple[bytes, Route]], at: int, end: int) -> None:
        first, route = datagrams[at]
        ancillary: list[tuple[int, int, bytes]] = []
        if self.wildcard and route.local != self.local:
            ancillary.append(self._source(route.local[0]))
        if end - at == 1:
            if ancillary:
                self.socket.sendmsg([first], ancillary, 0, route.remote)
            else:
                self.socket.sendto(first, route.remote)
            return
        ancillary.append((SOL_UDP, UDP_SEGMENT, struct.pack("=H", len(first))))
        self.socket.sendmsg([data for data, _ in datagrams[at:end]], ancillary, 0, route.remote)

    def _source(self, host: str) -> tuple[int, int, bytes]:
        packed = socket.inet_pton(self.family, host)
        if self.family == socket.AF_INET:
            return socket.IPPROTO_IP, IP_PKTINFO, struct.pack("=I4s4s", 0, packed, bytes(4))
        return socket.IPPROTO_IPV6, IPV6_PKTINFO, struct.pack("=16sI", packed, 0)

    def _send_again(self, datagrams: list[tuple[bytes, Route]], at: int, end: int) -> bool:
        """The error may have been an earlier datagram's: then these were not sent, and will be now. False: full."""
        try:
            self._send_batch(datagrams, at, end)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno in _UNREACHABLE:
                self._failed.append((datagrams[at][1].remote, os.strerror(error.errno)))
        return True

    def errors(self) -> list[tuple[Address, str]]:
        failed, self._failed = self._failed, []
        for _ in range(MOST_ERRORS):
            try:
                _, ancillary, _, address = self.socket.recvmsg(0, ANCILLARY, MSG_ERRQUEUE)
            except OSError:
                break
            for level, kind, data in ancillary:
                if (level, kind) not in ((socket.IPPROTO_IP, IP_RECVERR), (socket.IPPROTO_IPV6, IPV6_RECVERR)):
                    continue
                number, origin, *_ = _EXTENDED_ERROR.unpack_from(data)
                if origin != SO_EE_ORIGIN_LOCAL and number in _UNREACHABLE and address:
                    failed.append(((address[0], address[1]), os.strerror(number)))
        return failed


_LITTLE = struct.pack("=H", 1) == b"\x01\x00"
