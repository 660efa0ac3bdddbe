"""Read RFC 768, RFC 8085, and ``udp.pxd`` first."""

import errno
import os
from dataclasses import dataclass

from libc.errno cimport EACCES, ECONNREFUSED, EHOSTUNREACH, EMSGSIZE, ENETUNREACH
from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .address cimport (
    Address, address4, address6, from_address, is_broadcast, is_multicast, is_unspecified, is_v4, same, to_address,
)
from .checksum cimport folded, pseudo_sum, sum_of
from .fragments cimport fragment_size, write_fragment
from .host cimport Flow, Host, Name, Report, Transport, make_table, set_name
from .ip cimport HEADER4, HEADER6, UDP, Packet, get16, put16, write_header
from .messages cimport NEEDS_FRAGMENTATION, NO_PORT, NO_PORT6, PACKET_TOO_BIG6, UNREACHABLE, UNREACHABLE6
from .queue cimport make_queue

cdef enum:
    FIRST_EPHEMERAL = 1024      # RFC 6056 §3.2: all but the well-known ports
    PORT_TRIES = 64
    MOST_ERRORS = 16            # of a socket, that wait for the application
    MOST_TOLD = 64              # datagrams handed on before the others have their turn
    DEFAULT_HOPS = 64


@dataclass(frozen=True, slots=True)
class UdpLimits:
    """What sockets may hold. The reason for each value stands beside it."""

    sockets: int = 65536
    """Open at once: as many as there are ports."""
    received: int = 1 << 18
    """Octets that wait for the application, a power of two: 200 packets of full size, as the kernel's default has it."""
    received_packets: int = 1024
    """Packets that do: small ones cost more than their octets."""
    waiting: int = 1 << 17
    """Octets that wait to be sent, a power of two: a tenth of a second at 10 Mbit/s. What is older is of no use to anybody."""
    waiting_packets: int = 256


cdef size_t write_datagram(
    uint8_t* out, const Address* source, uint16_t source_port, const Address* destination, uint16_t port,
    const uint8_t* data, size_t size
) noexcept:
    cdef uint16_t checksum
    put16(out, source_port)
    put16(out + 2, port)
    put16(out + 4, <uint32_t>(HEADER + size))
    put16(out + 6, 0)
    if size:
        memcpy(out + HEADER, data, size)
    checksum = ~folded(pseudo_sum(source, destination, UDP, HEADER + size) + sum_of(out, HEADER + size))
    if not checksum:
        checksum = 0xffff       # RFC 768: zero says that there is none.
    memcpy(out + 6, &checksum, 2)
    return HEADER + size


cdef class UdpSocket(Flow):
    """What ``Udp.open`` gives. Handler: ``datagram_received(data, address, port)`` and ``error_received(OSError)``, called
    from ``Stack.tell`` only."""

    cdef int arrived(
        self, const Packet* packet, const uint8_t* data, size_t size, uint16_t source_port, double now
    ) except -1:
        cdef uint8_t* at
        cdef Envelope envelope
        if self._received is None:
            self._received = make_queue(<size_t>self._udp.limits.received, <uint32_t>self._udp.limits.received_packets)
        envelope.source = packet.source
        envelope.destination = packet.destination
        envelope.source_port = source_port
        envelope.traffic = packet.traffic
        envelope.hops = packet.hops
        at = self._received.room(sizeof(Envelope) + size)
        if at == NULL:
            self._too_large += 1
            return 0
        memcpy(at, &envelope, sizeof(Envelope))
        if size:
            memcpy(at + sizeof(Envelope), data, size)
        self._received.commit(sizeof(Envelope) + size)
        self.active_at = now
        return self.host.touch(self)

    cdef int failed(self, const Report* report, double now) except -1:
        cdef int number = _errno_of(report)
        if number and len(self._errors) < MOST_ERRORS:
            self._errors.append((number, from_address(&report.reporter)))
            return self.host.touch(self)
        return 0

    cdef int tell(self) except -1:
        cdef size_t size = 0
        cdef uint8_t* at
        cdef Envelope envelope
        cdef int count = 0
        self.touched = False
        while self._errors and not self.closed:
            number, reporter = self._errors.pop(0)
            self._handler.error_received(OSError(number, f"{os.strerror(number)}, says {reporter}"))
        while self._received is not None and self._received.count and not self.closed:
            if count == MOST_TOLD:
                return self.host.touch(self)
            count += 1
            at = self._received.front(&size)
            memcpy(&envelope, at, sizeof(Envelope))
            data = (<const char*>at + sizeof(Envelope))[:size - sizeof(Envelope)]
            self._received.pop()
            self._handler.datagram_received(data, from_address(&envelope.source), envelope.source_port)
        return 0

    cdef bint put(
        self, const Address* source, const Address* destination, uint16_t port, const uint8_t* data, size_t size,
        uint8_t traffic, uint8_t hops, bint keep
    ) except -1:
        cdef uint8_t* at
        cdef uint8_t* payload
        cdef uint64_t dropped
        cdef size_t header = HEADER4 if is_v4(destination) else HEADER6
        if size > MOST_DATA or keep and header + HEADER + size > self.host.path_mtu(destination):
            return False
        if source == NULL:
            source = &self.name.local
        if self._waiting is None:
            self._waiting = make_queue(<size_t>self._udp.limits.waiting, <uint32_t>self._udp.limits.waiting_packets)
        dropped = self._waiting.dropped
        at = self._waiting.room(header + HEADER + size)
        if at == NULL:
            return False
        if self._waiting.dropped != dropped:
            self._cut = 0       # It was the first, of which some fragments may have left.
        payload = write_header(
            at, source, destination, UDP, HEADER + size, traffic, hops, <uint16_t>(self.host.chance() & 0xffff), keep
        )
        write_datagram(payload, source, self.name.local_port, destination, port, data, size)
        self._waiting.commit(header + HEADER + size)
        self.host.want(self)
        return True

    cdef Py_ssize_t build(self, uint8_t* out, size_t room, double now) except -1:
        cdef size_t size = 0, mtu, header, piece
        cdef uint8_t* at
        cdef Address destination
        if self._waiting is None:
            return 0
        while self._waiting.count:
            at = self._waiting.front(&size)
            if size <= room and not self._cut:
                memcpy(out, at, size)
                destination = _destination(at)
                if size <= self.host.path_mtu(&destination):
                    self._waiting.pop()
                    self._counted(now)
                    return <Py_ssize_t>size
            header = HEADER4 if at[0] >> 4 == 4 else HEADER6
            destination = _destination(at)
            mtu = min(<size_t>self.host.path_mtu(&destination), room)
            if header == HEADER4 and at[6] & 0x40 or mtu < header + 16:
                self._waiting.pop()     # The path has become narrower since.
                continue
            if not self._cut:
                self._cut_id = <uint32_t>self.host.chance()
            piece = fragment_size(header, size - header - self._cut, mtu)
            size = size - header - self._cut - piece        # What is left then.
            piece = write_fragment(out, at, self._cut, piece, size != 0, self._cut_id)
            self._cut += piece - header - (8 if header == HEADER6 else 0)
            if not size:
                self._cut = 0
                self._waiting.pop()
                self._counted(now)
            return <Py_ssize_t>piece
        return 0

    cdef int _counted(self, double now) except -1:
        self.sent += 1
        self.active_at = now
        return 0

    # From Python.

    @property
    def address(self):
        return from_address(&self.name.local)

    @property
    def port(self):
        return self.name.local_port

    @property
    def peer(self):
        """(address, port) that it is joined to, or None."""
        return (from_address(&self.name.remote), self.name.remote_port) if self.name.remote_port else None

    @property
    def dropped(self):
        return self._too_large + (self._received.dropped if self._received is not None else 0)

    def send_to(self, const uint8_t[::1] data not None, address=None, int port=0, *, int hops=DEFAULT_HOPS, int ecn=0,
                bint keep=False):
        cdef Address source, destination
        cdef const uint8_t* at = &data[0] if data.shape[0] else NULL
        if self.closed:
            raise OSError(errno.EBADF, "the socket is closed")
        if address is None:
            if not self.name.remote_port:
                raise OSError(errno.EDESTADDRREQ, "a socket that is not connected needs a destination")
            destination = self.name.remote
            port = self.name.remote_port
        else:
            destination = to_address(address)
            if not 1 <= port <= 65535:
                raise OSError(errno.EINVAL, f"no port {port}")
            if self.name.remote_port and (not same(&destination, &self.name.remote) or port != self.name.remote_port):
                raise OSError(errno.EISCONN, "the socket is connected to another destination")
        source = self.name.local
        if is_unspecified(&source) or is_v4(&source) != is_v4(&destination):
            if not self.host.choose_source(&destination, &source):
                raise OSError(errno.ENETUNREACH, "the stack has no address of that version")
        return self.put(
            &source, &destination, <uint16_t>port, at, <size_t>data.shape[0], <uint8_t>(ecn & 3), <uint8_t>hops, keep
        )

    def close(self):
        if not self.closed:
            self.closed = True
            self._udp.detach(self)
            if self._received is not None:
                self._received.clear()
            self._handler = None


cdef class Udp(Transport):
    def __init__(self, Host host not None, limits=None):
        self.host = host
        self.limits = limits if limits is not None else UdpLimits()
        self.sockets = make_table(host.hash_seed)
        self._next_port = <uint16_t>host.chance()

    cdef int attach(self, UdpSocket socket) except -1:
        if self.sockets.size >= <size_t>self.limits.sockets:
            raise OSError(errno.ENFILE, f"{self.limits.sockets} UDP sockets are open")
        socket.host = self.host
        socket._udp = self
        socket._errors = []
        socket.active_at = self.host.now
        self.sockets.add(socket)
        return 0

    cdef int detach(self, UdpSocket socket) except -1:
        # What it has put into its queue before still leaves.
        self.sockets.remove(socket)
        return 0

    cdef int receive(self, const Packet* packet, double now) except -1:
        cdef const uint8_t* at = packet.payload
        cdef size_t size
        cdef uint16_t source_port, port
        cdef UdpSocket socket
        if packet.payload_size < HEADER:
            return 0
        size = get16(at + 4)
        if not size and packet.version == 6 and packet.payload_size > 65535:
            size = packet.payload_size
        if size < HEADER or size > packet.payload_size:
            return 0
        # RFC 8200 §8.1: a checksum there must be, over IPv6.
        if (at[6] or at[7]) or packet.version == 6:
            if not (at[6] or at[7]) or folded(
                pseudo_sum(&packet.source, &packet.destination, UDP, size) + sum_of(at, size)
            ) != 0xffff:
                return 0
        source_port = get16(at)
        port = get16(at + 2)
        if not port:
            return 0
        socket = self._find(&packet.destination, port, &packet.source, source_port)
        if socket is not None:
            return socket.arrived(packet, at + HEADER, size - HEADER, source_port, now)
        if self.unknown(packet, source_port, port, now):
            return 0
        if packet.version == 4:
            return self.host.send_error(packet, UNREACHABLE, NO_PORT, 0)
        return self.host.send_error(packet, UNREACHABLE6, NO_PORT6, 0)

    cdef UdpSocket _find(
        self, const Address* local, uint16_t port, const Address* remote, uint16_t remote_port
    ):
        cdef Name name
        cdef Address anything
        cdef Flow found
        set_name(&name, UDP, local, port, remote, remote_port)
        found = self.sockets.find(&name)
        if found is None:
            set_name(&name, UDP, local, port, NULL, 0)
            found = self.sockets.find(&name)
        if found is None:
            anything.high = anything.low = 0
            set_name(&name, UDP, &anything, port, NULL, 0)
            found = self.sockets.find(&name)
        return <UdpSocket>found

    cdef bint unknown(self, const Packet* packet, uint16_t source_port, uint16_t port, double now) except -1:
        if self.on_unknown is None:
            return False
        return self.on_unknown(from_address(&packet.source), source_port, from_address(&packet.destination), port)

    cdef bint report(self, const Report* report, double now) except -1:
        cdef UdpSocket socket = self._find(
            &report.source, get16(report.payload), &report.destination, get16(report.payload + 2)
        )
        if socket is None:
            return False
        socket.failed(report, now)
        return True

    # From Python.

    def open(self, handler, *, address=None, int port=0, peer=None):
        cdef UdpSocket socket = UdpSocket.__new__(UdpSocket)
        cdef Address local, remote
        cdef Name name
        local.high = local.low = remote.high = remote.low = 0
        if peer is not None:
            remote = to_address(peer[0])
            if is_multicast(&remote) or is_broadcast(&remote) or not 1 <= peer[1] <= 65535:
                raise OSError(errno.EINVAL, f"no destination {peer[0]} port {peer[1]}")
            if address is None and not self.host.choose_source(&remote, &local):
                raise OSError(errno.ENETUNREACH, "the stack has no address of that version")
        if address is not None:
            local = to_address(address)
            if not self.host.is_local(&local):
                raise OSError(errno.EADDRNOTAVAIL, f"{address} is none of the stack's addresses")
        if port:
            set_name(&name, UDP, &local, <uint16_t>port, &remote, <uint16_t>(peer[1] if peer is not None else 0))
            if self.sockets.find(&name) is not None:
                raise OSError(errno.EADDRINUSE, f"port {port} is in use")
        elif not self._choose_port(&name, &local, &remote, <uint16_t>(peer[1] if peer is not None else 0)):
            raise OSError(errno.EADDRINUSE, "no port is free")
        socket.name = name
        socket._handler = handler
        self.attach(socket)
        return socket

    cdef bint _choose_port(self, Name* name, const Address* local, const Address* remote, uint16_t remote_port) except -1:
        # RFC 6056 §3.3.5: a random step from the last one.
        cdef int tries
        for tries in range(PORT_TRIES):
            self._next_port += <uint16_t>(1 + self.host.chance() % 512)
            if self._next_port < FIRST_EPHEMERAL:
                self._next_port += FIRST_EPHEMERAL
            set_name(name, UDP, local, self._next_port, remote, remote_port)
            if self.sockets.find(name) is None:
                return True
        return False


cdef Address _destination(const uint8_t* packet) noexcept:
    return address4(packet + 16) if packet[0] >> 4 == 4 else address6(packet + 24)


cdef int _errno_of(const Report* report) noexcept:
    # As Linux has it (ip(7), ipv6(7)); 0: nothing to tell.
    if report.version == 4:
        if report.kind == UNREACHABLE:
            if report.code == NO_PORT:
                return ECONNREFUSED
            if report.code == NEEDS_FRAGMENTATION:
                return EMSGSIZE
            return ENETUNREACH if report.code in (0, 6, 9, 11) else EHOSTUNREACH
        return EHOSTUNREACH
    if report.kind == UNREACHABLE6:
        if report.code == NO_PORT6:
            return ECONNREFUSED
        return EACCES if report.code in (1, 5, 6) else ENETUNREACH if report.code == 0 else EHOSTUNREACH
    return EMSGSIZE if report.kind == PACKET_TOO_BIG6 else EHOSTUNREACH
