"""Read udp(7), ip(7), ipv6(7), recvmmsg(2), sendmmsg(2) and cmsg(3), and ``udp.pxd`` first.

Datagrams that the network refuses count as sent, as lost ones do; those refused for good are reported by address.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF, PyObject
from libc.errno cimport (
    EACCES, EAGAIN, ECONNREFUSED, EHOSTDOWN, EHOSTUNREACH, EINTR, EINVAL, EIO, ENETUNREACH, ENOPROTOOPT, EOPNOTSUPP,
    EPERM, errno,
)
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

import os
import socket
import struct

from ..errors import LocalError

from .destination cimport Addresses, Destination, destination_of, octets_of, same
from .socket_api cimport (
    AF_INET, CMSG_DATA, CMSG_FIRSTHDR, CMSG_LEN, CMSG_NXTHDR, CMSG_SPACE, IP_MTU_DISCOVER, IP_PKTINFO,
    IP_PMTUDISC_PROBE, IP_RECVERR, IP_RECVTOS, IP_TOS, IPPROTO_IP, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PKTINFO,
    IPV6_RECVERR, IPV6_RECVPKTINFO, IPV6_RECVTCLASS, IPV6_TCLASS, MSG_CTRUNC, MSG_DONTWAIT, MSG_ERRQUEUE, MSG_TRUNC,
    POLLERR, SOL_UDP, UDP_GRO, UDP_SEGMENT, cmsghdr, in6_pktinfo, in_pktinfo, iovec, mmsghdr, msghdr, poll, pollfd,
    recvmmsg, sendmmsg, sockaddr_in, sockaddr_in6, sockaddr_storage,
)

cdef enum:
    IN_MESSAGES = 16
    # Messages of a call of receive(): with UDP_GRO each may have 64 KiB.
    SLOT = 65536
    # Octets for one of them: more than the kernel ever puts into one.
    OUT_MESSAGES = 64
    # Messages of a call of sendmmsg().
    RUNS = 64
    # Runs of packets that wait to be sent.
    SLAB = 262144
    # Octets of packets that wait to be sent: four messages as large as can be, and what a core's own cache holds.
    MOST_SEGMENTS = 64
    # UDP_MAX_SEGMENTS of kernels before 6.9; later ones take 128.
    MOST_OCTETS = 65000
    # Of one message, less than 65,535 with the headers.
    CONTROL = 16
    # Words for ancillary data: an address, a mark, a segment size, and room to spare.
    MOST_DESTINATIONS = 4096
    # Remembered, to save making the same object for every message; a forger may make up any number of addresses.
    MOST_ERRORS = 64
    # Errors kept or read at once: a forger may send as many as it likes.

cdef struct Incoming:
    mmsghdr messages[IN_MESSAGES]
    iovec parts[IN_MESSAGES]
    uint64_t control[IN_MESSAGES][CONTROL]
    Addresses addresses[IN_MESSAGES]

cdef struct Run:
    # Packets of one size, but the last, which may be smaller, to one destination, with one mark. They touch.
    uint8_t* data
    size_t octets               # not sent yet
    size_t segment
    int ecn
    bint closed                 # the last packet is smaller
    bint doubted                # it was refused as one message: its packets go one by one
    PyObject* destination       # owned

cdef struct Outgoing:
    mmsghdr messages[OUT_MESSAGES]
    iovec parts[OUT_MESSAGES]
    uint64_t control[OUT_MESSAGES][CONTROL]
    Run runs[RUNS]

_UNREACHABLE = frozenset((ECONNREFUSED, EHOSTUNREACH, ENETUNREACH, EACCES, EPERM, EHOSTDOWN))
_EXTENDED_ERROR = struct.Struct("=IBBBBII")
_ORIGIN_LOCAL = 1


# --- Receiving --------------------------------------------------------------------------------------------------------


cdef class ReceiveBatch:
    """descriptor: of a socket that outlives this object. number: the socket's place in the endpoint's list."""

    def __cinit__(self, int descriptor, int number=0):
        cdef Incoming* incoming = <Incoming*>calloc(1, sizeof(Incoming))
        cdef int i
        self._incoming = incoming
        self._slab = <uint8_t*>malloc(IN_MESSAGES * SLOT)
        if incoming is NULL or self._slab is NULL:
            raise MemoryError
        self._descriptor = descriptor
        self._number = number
        self._known = {}
        for i in range(IN_MESSAGES):
            incoming.parts[i].iov_base = self._slab + <size_t>i * SLOT
            incoming.parts[i].iov_len = SLOT
            incoming.messages[i].msg_hdr.msg_iov = &incoming.parts[i]
            incoming.messages[i].msg_hdr.msg_iovlen = 1
            incoming.messages[i].msg_hdr.msg_name = &incoming.addresses[i].remote
            incoming.messages[i].msg_hdr.msg_control = incoming.control[i]
            _make_ready(incoming, i)

    def __dealloc__(self):
        free(self._incoming)
        free(self._slab)

    cpdef int receive(self) noexcept:
        cdef Incoming* incoming = <Incoming*>self._incoming
        cdef int i, count, failure
        for i in range(self._count):
            _make_ready(incoming, i)
        self._count = self._at = 0
        self._any_left = False
        while True:
            with nogil:
                count = recvmmsg(self._descriptor, incoming.messages, IN_MESSAGES, MSG_DONTWAIT, NULL)
                failure = errno
            self.calls += 1
            if count >= 0:
                self._count = count
                self.messages += <uint64_t>count
                return count
            if failure != EINTR:
                # An error of an earlier datagram, or of the socket.
                self.suspicious = self.suspicious or failure != EAGAIN
                return 0

    cdef void look_for_errors(self) noexcept:
        cdef pollfd watched
        watched.fd = self._descriptor
        watched.events = watched.revents = 0
        if poll(&watched, 1, 0) > 0 and watched.revents & POLLERR:
            self.suspicious = True

    cdef bint next(self, Datagram* datagram) noexcept:
        while not self._any_left:
            if self._at >= self._count:
                return False
            self._any_left = _take_apart(self, self._at)
            self._at += 1
        datagram.data = self._next
        datagram.size = min(self._segment, self._left)
        datagram.ecn = self._ecn
        datagram.origin = self._at - 1
        self._next += datagram.size
        self._left -= datagram.size
        self._any_left = self._left != 0
        self.datagrams += 1
        return True

    cdef const Addresses* addresses(self, int origin) noexcept:
        return &(<Incoming*>self._incoming).addresses[origin]

    cdef Destination origin(self, int origin):
        cdef const Addresses* addresses = self.addresses(origin)
        cdef bytes key
        cdef object known
        if self._last is None or not same(&self._last.addresses, addresses):
            key = octets_of(addresses)
            known = self._known.get(key)
            if known is None:
                if len(self._known) >= MOST_DESTINATIONS:
                    self._known.clear()
                known = self._known[key] = destination_of(addresses)
            self._last = known
        return self._last

    def taken(self):
        """What ``next`` has to give, for tests and tools: (octets, ECN codepoint, Destination) each."""
        cdef Datagram datagram
        taken = []
        while self.next(&datagram):
            taken.append((datagram.data[:datagram.size], datagram.ecn, self.origin(datagram.origin)))
        return taken


cdef inline void _make_ready(Incoming* incoming, int i) noexcept:
    # What the kernel has overwritten with what it used.
    incoming.messages[i].msg_hdr.msg_namelen = sizeof(sockaddr_storage)
    incoming.messages[i].msg_hdr.msg_controllen = sizeof(incoming.control[0])


cdef bint _take_apart(ReceiveBatch batch, int i) noexcept:
    # Begin with message i. False: there is nothing to be had from it.
    cdef Incoming* incoming = <Incoming*>batch._incoming
    cdef msghdr* message = &incoming.messages[i].msg_hdr
    cdef Addresses* addresses = &incoming.addresses[i]
    cdef cmsghdr* header
    cdef int value = 0
    cdef int family = addresses.remote.ss_family
    if message.msg_flags & (MSG_TRUNC | MSG_CTRUNC):
        return False
    if message.msg_namelen != (sizeof(sockaddr_in) if family == AF_INET else sizeof(sockaddr_in6)):
        return False
    addresses.remote_size = message.msg_namelen
    addresses.local_size = 0
    addresses.number = batch._number
    batch._next = batch._slab + <size_t>i * SLOT
    batch._left = batch._segment = incoming.messages[i].msg_len
    batch._ecn = 0
    header = CMSG_FIRSTHDR(message)
    while header is not NULL:
        if header.cmsg_level == SOL_UDP and header.cmsg_type == UDP_GRO and header.cmsg_len >= CMSG_LEN(sizeof(int)):
            memcpy(&value, CMSG_DATA(header), sizeof(int))
            if value > 0:
                batch._segment = <size_t>value
        elif header.cmsg_level == IPPROTO_IP and header.cmsg_type == IP_TOS and header.cmsg_len >= CMSG_LEN(1):
            batch._ecn = CMSG_DATA(header)[0] & 3
        elif (
            header.cmsg_level == IPPROTO_IPV6
            and header.cmsg_type == IPV6_TCLASS
            and header.cmsg_len >= CMSG_LEN(sizeof(int))
        ):
            memcpy(&value, CMSG_DATA(header), sizeof(int))
            batch._ecn = value & 3
        elif (
            header.cmsg_level == IPPROTO_IP
            and header.cmsg_type == IP_PKTINFO
            and header.cmsg_len >= CMSG_LEN(sizeof(in_pktinfo))
        ):
            memcpy(addresses.local, &(<in_pktinfo*>CMSG_DATA(header)).ipi_spec_dst, 4)
            addresses.local_size = 4
        elif (
            header.cmsg_level == IPPROTO_IPV6
            and header.cmsg_type == IPV6_PKTINFO
            and header.cmsg_len >= CMSG_LEN(sizeof(in6_pktinfo))
        ):
            memcpy(addresses.local, &(<in6_pktinfo*>CMSG_DATA(header)).ipi6_addr, 16)
            addresses.local_size = 16
        header = CMSG_NXTHDR(message, header)
    return True


# --- Sending ----------------------------------------------------------------------------------------------------------


cdef class SendBatch:
    """descriptor: of a socket that outlives this object."""

    def __cinit__(self, int descriptor):
        self._outgoing = calloc(1, sizeof(Outgoing))
        self._slab = <uint8_t*>malloc(SLAB)
        if self._outgoing is NULL or self._slab is NULL:
            raise MemoryError
        self._descriptor = descriptor
        self._failed = []
        self.segmentation = True

    def __dealloc__(self):
        if self._outgoing is not NULL:
            while self._first < self._runs:
                _end_run(self)
        free(self._outgoing)
        free(self._slab)

    cdef uint8_t* room(self, size_t size) noexcept:
        if size > LARGEST_PACKET or SLAB - self._used < size or self._runs == RUNS:
            return NULL
        return self._slab + self._used

    cdef void commit(self, size_t size, int ecn, Destination destination) noexcept:
        cdef Outgoing* outgoing = <Outgoing*>self._outgoing
        cdef Run* run
        assert self._runs < RUNS and size <= SLAB - self._used
        if size == 0:
            return
        if self._runs > self._first:
            run = &outgoing.runs[self._runs - 1]
            if (
                run.destination == <PyObject*>destination
                and run.ecn == ecn
                and not run.closed
                and size <= run.segment
                and run.octets + size <= MOST_OCTETS
                and run.octets < MOST_SEGMENTS * run.segment
            ):
                run.octets += size
                run.closed = size < run.segment
                self._used += size
                return
        run = &outgoing.runs[self._runs]
        run.data = self._slab + self._used
        run.octets = run.segment = size
        run.ecn = ecn & 3
        run.closed = run.doubted = False
        run.destination = <PyObject*>destination
        Py_INCREF(destination)
        self._runs += 1
        self._used += size

    cpdef bint flush(self) except -1:
        cdef Outgoing* outgoing = <Outgoing*>self._outgoing
        cdef int count, taken, failure, i
        cdef bint again = False
        while self._first < self._runs:
            count = _fill(self)
            taken = _send(self, count, &failure)
            if taken > 0:
                for i in range(taken):
                    _advance(self, outgoing.parts[i].iov_len, True)
                again = False
            elif taken == 0 or failure == EAGAIN:
                return False
            elif failure != EINTR:
                self.suspicious = True
                if outgoing.parts[0].iov_len > outgoing.runs[self._first].segment and _no_segmentation(failure):
                    outgoing.runs[self._first].doubted = True
                elif not again:
                    # The error may have been an earlier datagram's: then this one was not sent, and will be now.
                    again = True
                else:
                    if failure in _UNREACHABLE and len(self._failed) < MOST_ERRORS:
                        self._failed.append((<Destination>outgoing.runs[self._first].destination, os.strerror(failure)))
                    _advance(self, outgoing.parts[0].iov_len, False)
                    again = False
        return True

    @property
    def waiting(self):
        """Octets that have been put and not sent."""
        cdef size_t octets = 0
        cdef int i
        for i in range(self._first, self._runs):
            octets += (<Outgoing*>self._outgoing).runs[i].octets
        return octets

    def put(self, bytes data not None, int ecn, Destination destination not None):
        """Commit a datagram made elsewhere. False: no room, ``flush`` first. Raises LocalError when it is too large."""
        cdef size_t size = <size_t>len(data)
        cdef uint8_t* at = self.room(size)
        if size > LARGEST_PACKET:
            raise LocalError(f"a datagram of {size} octets")
        if at is NULL:
            return False
        memcpy(at, <const uint8_t*>data, size)
        self.commit(size, ecn, destination)
        return True

    def take_failed(self):
        """Destinations that the network says cannot be reached, and why; each is told once."""
        failed = self._failed
        self._failed = []
        return failed

    def pretend(self, list results not None):
        """For tests: what the next system calls come to. n: no more than n messages are taken. -n: errno is n."""
        self._pretended = results[::-1]


cdef bint _no_segmentation(int failure) noexcept:
    return failure == EIO or failure == EINVAL or failure == ENOPROTOOPT or failure == EOPNOTSUPP


cdef int _send(SendBatch batch, int count, int* failure) except -2:
    # Messages taken, or -1.
    cdef int taken
    if batch._pretended:
        taken = batch._pretended.pop()
        if taken < 0:
            failure[0] = -taken
            return -1
        count = min(count, taken)
    with nogil:
        taken = sendmmsg(batch._descriptor, (<Outgoing*>batch._outgoing).messages, <unsigned int>count, MSG_DONTWAIT)
        failure[0] = errno
    batch.calls += 1
    if taken > 0:
        batch.messages += <uint64_t>taken
    return taken


cdef int _fill(SendBatch batch) noexcept:
    # Messages from the first run on. How many: at least one.
    cdef Outgoing* outgoing = <Outgoing*>batch._outgoing
    cdef Run* run
    cdef int count = 0, i
    cdef size_t at, size
    for i in range(batch._first, batch._runs):
        run = &outgoing.runs[i]
        size = run.octets if batch.segmentation and not run.doubted else run.segment
        at = 0
        while at < run.octets:
            if count == OUT_MESSAGES:
                return count
            outgoing.parts[count].iov_base = run.data + at
            outgoing.parts[count].iov_len = min(size, run.octets - at)
            _describe(outgoing, count, run)
            at += size
            count += 1
        if run.doubted:
            break  # How it goes decides about the rest.
    return count


cdef void _describe(Outgoing* outgoing, int i, const Run* run) noexcept:
    # Message i of what its part holds: the address, and what the kernel is to know besides.
    cdef msghdr* message = &outgoing.messages[i].msg_hdr
    cdef Addresses* addresses = &(<Destination>run.destination).addresses
    cdef bint ipv4 = addresses.remote.ss_family == AF_INET
    cdef uint8_t* at = <uint8_t*>outgoing.control[i]
    cdef uint16_t segment
    cdef int ecn = run.ecn
    cdef in_pktinfo from4
    cdef in6_pktinfo from6
    message.msg_name = &addresses.remote
    message.msg_namelen = addresses.remote_size
    message.msg_iov = &outgoing.parts[i]
    message.msg_iovlen = 1
    if outgoing.parts[i].iov_len > run.segment:
        segment = <uint16_t>run.segment
        at = _add(at, SOL_UDP, UDP_SEGMENT, &segment, sizeof(segment))
    if ecn and ipv4:
        at = _add(at, IPPROTO_IP, IP_TOS, &ecn, sizeof(ecn))
    elif ecn:
        at = _add(at, IPPROTO_IPV6, IPV6_TCLASS, &ecn, sizeof(ecn))
    if addresses.local_size == 4:
        memset(&from4, 0, sizeof(from4))
        memcpy(&from4.ipi_spec_dst, addresses.local, 4)
        at = _add(at, IPPROTO_IP, IP_PKTINFO, &from4, sizeof(from4))
    elif addresses.local_size == 16:
        memset(&from6, 0, sizeof(from6))
        memcpy(&from6.ipi6_addr, addresses.local, 16)
        at = _add(at, IPPROTO_IPV6, IPV6_PKTINFO, &from6, sizeof(from6))
    message.msg_control = outgoing.control[i]
    message.msg_controllen = <size_t>(at - <uint8_t*>outgoing.control[i])


cdef inline uint8_t* _add(uint8_t* at, int level, int kind, const void* data, size_t size) noexcept:
    cdef cmsghdr* header = <cmsghdr*>at
    header.cmsg_len = CMSG_LEN(size)
    header.cmsg_level = level
    header.cmsg_type = kind
    memcpy(CMSG_DATA(header), data, size)
    return at + CMSG_SPACE(size)


cdef void _advance(SendBatch batch, size_t octets, bint sent) noexcept:
    # The first message is over, one way or the other.
    cdef Run* run = &(<Outgoing*>batch._outgoing).runs[batch._first]
    cdef uint64_t count = (octets + run.segment - 1) // run.segment
    if sent:
        batch.datagrams += count
        if run.doubted and octets == run.segment:
            # One by one they pass. Had they been refused as well, it would be their size or where they go.
            batch.segmentation = False
    else:
        batch.refused += count
    run.data += octets
    run.octets -= octets
    if run.octets == 0:
        _end_run(batch)


cdef void _end_run(SendBatch batch) noexcept:
    cdef Run* run = &(<Outgoing*>batch._outgoing).runs[batch._first]
    cdef object destination = <object>run.destination
    run.destination = NULL
    Py_DECREF(destination)
    batch._first += 1
    if batch._first == batch._runs:
        batch._first = batch._runs = 0
        batch._used = 0


# --- Sockets ----------------------------------------------------------------------------------------------------------


def configure(bound, int receive_buffer, int send_buffer):
    """Prepare a bound UDP socket for batches. The buffers are octets to ask of the kernel.

    Returns what it grants for receiving and for sending; it counts its own overhead in, about twice the data.
    """
    ipv4 = bound.family == socket.AF_INET
    level = socket.IPPROTO_IP if ipv4 else socket.IPPROTO_IPV6
    bound.setblocking(False)
    # RFC 9000 §14: never fragmented. PROBE sets DF and ignores what ICMP says of the path: we probe for ourselves.
    _try(bound, level, IP_MTU_DISCOVER if ipv4 else IPV6_MTU_DISCOVER, IP_PMTUDISC_PROBE)
    _try(bound, level, IP_RECVERR if ipv4 else IPV6_RECVERR, 1)
    _try(bound, level, IP_RECVTOS if ipv4 else IPV6_RECVTCLASS, 1)
    _try(bound, SOL_UDP, UDP_GRO, 1)
    if bound.getsockname()[0] in ("0.0.0.0", "::"):
        bound.setsockopt(level, IP_PKTINFO if ipv4 else IPV6_RECVPKTINFO, 1)
    granted = []
    for option, octets in ((socket.SO_RCVBUF, receive_buffer), (socket.SO_SNDBUF, send_buffer)):
        _try(bound, socket.SOL_SOCKET, option, octets)
        granted.append(bound.getsockopt(socket.SOL_SOCKET, option))
    return tuple(granted)


def errors(bound):
    """Remote addresses that ICMP says cannot be reached, and why, from the socket's error queue."""
    failed = []
    for _ in range(MOST_ERRORS):
        try:
            _, ancillary, _, address = bound.recvmsg(0, 512, MSG_ERRQUEUE)
        except OSError:
            break
        for level, kind, data in ancillary:
            if (level, kind) in ((IPPROTO_IP, IP_RECVERR), (IPPROTO_IPV6, IPV6_RECVERR)):
                number, origin, *_ = _EXTENDED_ERROR.unpack_from(data)
                if origin != _ORIGIN_LOCAL and number in _UNREACHABLE and address:
                    failed.append(((address[0], address[1]), os.strerror(number)))
    return failed


def _try(bound, int level, int option, int value):
    try:
        bound.setsockopt(level, option, value)
    except OSError:
        pass  # An older kernel, or one that only looks like Linux: it works without, if less well.
