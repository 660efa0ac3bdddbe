"""Read RFC 792, RFC 4443 §4, and ``echo.pxd`` first."""

import errno

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from .address cimport Address, from_address, is_v4, to_address
from .host cimport Flow, Host, Name, Report, Transport, make_table, set_name
from .ip cimport HEADER4, HEADER6, ICMP, Packet, get16
from .messages cimport ECHO, ECHO6, MESSAGE, write_message
from .queue cimport make_queue

cdef enum:
    QUEUE = 1 << 17     # octets of requests that wait to be sent
    MOST_WAITING = 64
    MOST_TOLD = 256     # replies and errors that wait for the application
    ID_TRIES = 64
    MOST_SOCKETS = 4096


cdef class EchoSocket(Flow):
    """What ``Echo.open`` gives."""

    cdef Py_ssize_t build(self, uint8_t* out, size_t room, double now) except -1:
        cdef size_t size = 0
        cdef uint8_t* at
        while True:
            at = self._waiting.front(&size)
            if at == NULL:
                return 0
            if size > room:
                self._waiting.pop()     # The link has become narrower since.
                continue
            memcpy(out, at, size)
            self._waiting.pop()
            return <Py_ssize_t>size

    cdef int tell(self) except -1:
        cdef list told
        self.touched = False
        told, self._told = self._told, []
        for name, arguments in told:
            if self.closed:
                break
            getattr(self._handler, name)(*arguments)
        return 0

    @property
    def id(self):
        return self.name.local_port

    def send(self, const uint8_t[::1] data not None, address, int sequence, *, int hops=64):
        cdef Address source, destination = to_address(address)
        cdef const uint8_t* at = &data[0] if data.shape[0] else NULL
        cdef size_t size = <size_t>data.shape[0]
        cdef size_t header = HEADER4 if is_v4(&destination) else HEADER6
        cdef uint8_t* out
        if self.closed:
            raise OSError(errno.EBADF, "the socket is closed")
        if not self.host.choose_source(&destination, &source):
            raise OSError(errno.ENETUNREACH, "the stack has no address of that version")
        if header + MESSAGE + size > self.host.path_mtu(&destination):
            return False
        out = self._waiting.room(header + MESSAGE + size)
        write_message(
            out, &source, &destination, ECHO if is_v4(&destination) else ECHO6, 0,
            <uint32_t>self.name.local_port << 16 | <uint32_t>(sequence & 0xffff), at, size, <uint8_t>hops
        )
        self._waiting.commit(header + MESSAGE + size)
        self.host.want(self)
        return True

    def close(self):
        if not self.closed:
            self.closed = True
            self._echo.sockets.remove(self)
            self._handler = None


cdef class Echo(Transport):
    """Echo requests of a stack: ``Stack.echo``."""

    def __init__(self, Host host not None):
        self.host = host
        self.sockets = make_table(host.hash_seed)

    cdef EchoSocket _find(self, uint16_t id):
        # A socket sends from whatever address suits the destination: it is known by its number alone.
        cdef Name name
        cdef Address anything
        anything.high = anything.low = 0
        set_name(&name, ICMP, &anything, id, NULL, 0)
        return <EchoSocket>self.sockets.find(&name)

    cdef bint replied(self, const Packet* packet, double now) except -1:
        cdef EchoSocket socket = self._find(get16(packet.payload + 4))
        if socket is None:
            return False
        if len(socket._told) < MOST_TOLD:
            socket._told.append(("reply_received", (
                from_address(&packet.source), get16(packet.payload + 6),
                (<const char*>packet.payload + MESSAGE)[:packet.payload_size - MESSAGE], packet.hops, now,
            )))
            self.host.touch(socket)
        return True

    cdef bint report(self, const Report* report, double now) except -1:
        cdef EchoSocket socket
        if report.payload[0] != (ECHO if report.version == 4 else ECHO6):
            return False
        socket = self._find(get16(report.payload + 4))
        if socket is None:
            return False
        if len(socket._told) < MOST_TOLD:
            socket._told.append(("error_received", (
                from_address(&report.reporter), get16(report.payload + 6), report.kind, report.code, now,
            )))
            self.host.touch(socket)
        return True

    def open(self, handler):
        cdef EchoSocket socket = EchoSocket.__new__(EchoSocket)
        cdef Address anything
        cdef int tries
        anything.high = anything.low = 0
        if self.sockets.size >= MOST_SOCKETS:
            raise OSError(errno.ENFILE, f"{MOST_SOCKETS} are open")
        for tries in range(ID_TRIES):
            set_name(&socket.name, ICMP, &anything, <uint16_t>(self.host.chance() & 0xffff), NULL, 0)
            if self.sockets.find(&socket.name) is None:
                break
        else:
            raise OSError(errno.EADDRINUSE, "no number is free")
        socket.host = self.host
        socket._echo = self
        socket._handler = handler
        socket._told = []
        socket._waiting = make_queue(QUEUE, MOST_WAITING)
        self.sockets.add(socket)
        return socket
