"""The part of ``watch`` that a connection meets at every turn: one epoll instance, its sockets, and who is told. Linux.

Read first: epoll(7), epoll_ctl(2), and ``watch``, which says what these methods promise. Sockets are accepted here, too,
with one system call each.
"""

from libc.errno cimport EAGAIN, EINTR, ENOENT, errno
from libc.stdint cimport uint32_t
from libc.string cimport memset

import os
import socket

cdef extern from "<sys/epoll.h>" nogil:
    int EPOLL_CLOEXEC
    int EPOLL_CTL_ADD
    int EPOLL_CTL_DEL
    int EPOLL_CTL_MOD
    uint32_t EPOLLIN
    uint32_t EPOLLOUT
    uint32_t EPOLLERR
    uint32_t EPOLLHUP
    uint32_t EPOLLET

    ctypedef union epoll_data_t:
        int fd

    struct epoll_event:
        uint32_t events
        epoll_data_t data

    int epoll_create1(int flags)
    int epoll_ctl(int instance, int operation, int descriptor, epoll_event* event)
    int epoll_wait(int instance, epoll_event* events, int most, int timeout)

cdef extern from "<sys/socket.h>" nogil:
    ctypedef unsigned int socklen_t

    struct sockaddr:
        unsigned short sa_family

    struct sockaddr_storage:
        unsigned short ss_family

    int AF_INET
    int AF_INET6
    int SOCK_NONBLOCK
    int SOCK_CLOEXEC
    int accept4(int descriptor, sockaddr* address, socklen_t* size, int flags)

cdef extern from "<netinet/in.h>" nogil:
    struct in_addr:
        uint32_t s_addr

    struct sockaddr_in:
        unsigned short sin_port
        in_addr sin_addr

    struct in6_addr:
        unsigned char s6_addr[16]

    struct sockaddr_in6:
        unsigned short sin6_port
        in6_addr sin6_addr
        uint32_t sin6_scope_id

cdef extern from "<arpa/inet.h>" nogil:
    const char* inet_ntop(int family, const void* address, char* text, socklen_t size)
    unsigned short ntohs(unsigned short value)

cdef extern from "<net/if.h>" nogil:
    char* if_indextoname(unsigned int index, char* name)

cdef enum:
    BATCH = 64
    # Sockets served in one turn of the loop.


cdef class Entry:
    # armed: the events that the kernel has been asked for; reading may be among them although nobody reads now, until it
    # fires in vain once. heard: its end has been reported.
    cdef object sock
    cdef int fd
    cdef object gone
    cdef object readable
    cdef object writable
    cdef uint32_t armed
    cdef bint heard
    cdef bint over


cdef class Epolled:
    """Watches sockets with epoll. ``turns`` counts how often it had something to tell."""

    cdef int _epoll
    cdef dict _entries
    cdef readonly int turns

    def __cinit__(self):
        self._epoll = -1
        self._entries = {}

    def open(self):
        """The descriptor, which is readable when ``serve`` has something to do. Raises OSError."""
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise OSError(errno, os.strerror(errno))
        return self._epoll

    def shut(self):
        """Close the descriptor and forget all sockets. Idempotent."""
        cdef Entry entry
        for entry in self._entries.values():
            entry.over = True
        self._entries.clear()
        if self._epoll >= 0:
            os.close(self._epoll)
            self._epoll = -1

    def __contains__(self, sock):
        return self._find(sock) is not None

    def add(self, sock, callback, *, bint reading=False, readable=None):
        cdef Entry entry = self._find(sock)
        cdef uint32_t events = EPOLLIN if reading or readable is not None else 0
        if entry is None:
            self._register(sock, callback, readable, None, events)
            return
        entry.gone = callback
        entry.readable = readable
        entry.writable = None
        if not events:
            events = entry.armed & EPOLLIN
        if events != entry.armed or entry.heard:
            # Also when they are the same: an end that has been reported is reported again.
            self._arm(entry, events)

    def add_writer(self, sock, callback):
        self._register(sock, _ignore, None, callback, EPOLLOUT)

    def discard(self, sock, *, bint closing=False):
        cdef Entry entry = self._find(sock)
        if entry is None:
            return
        del self._entries[entry.fd]
        entry.over = True
        # Nothing of it leads back to whoever was to be told.
        entry.gone = entry.readable = entry.writable = None
        if not closing:
            self._control(EPOLL_CTL_DEL, entry.fd, 0)

    def on_readable(self, sock, callback):
        cdef Entry entry = self._known(sock)
        entry.readable = callback
        if callback is not None and not entry.armed & EPOLLIN:
            self._arm(entry, entry.armed | EPOLLIN)

    def on_writable(self, sock, callback):
        cdef Entry entry = self._known(sock)
        entry.writable = callback
        if (callback is not None) != (entry.armed & EPOLLOUT != 0):
            # Not left to fire in vain, as reading is: a socket can nearly always be written.
            self._arm(entry, entry.armed ^ EPOLLOUT)

    def serve(self, on_error):
        """Tell of what has happened. on_error(exception): a callback has raised it."""
        cdef epoll_event events[BATCH]
        cdef Entry entry
        cdef int count, index
        cdef list found
        if self._epoll < 0:
            return
        count = epoll_wait(self._epoll, events, BATCH, 0)
        # Looked up before anything is called: a number may be another socket's by the time that its turn comes.
        found = [self._entries.get(events[index].data.fd) for index in range(count)]
        for index in range(count):
            entry = <Entry>found[index] if found[index] is not None else None
            if entry is None or entry.over:
                continue
            try:
                self._tell(entry, events[index].events)
            except Exception as error:
                on_error(error)

    cdef int _tell(self, Entry entry, uint32_t events) except -1:
        # What has arrived before the end is read before it.
        self.turns += 1
        if events & EPOLLIN:
            if entry.readable is not None:
                entry.readable()
            elif entry.armed & EPOLLIN:
                self._arm(entry, entry.armed & ~EPOLLIN)
        if events & EPOLLOUT and not entry.over and entry.writable is not None:
            entry.writable()
        if events & (EPOLLERR | EPOLLHUP) and not entry.over:
            entry.heard = True
            entry.gone(events & EPOLLERR != 0)
        return 0

    cdef Entry _find(self, object sock):
        cdef Entry entry = self._entries.get(sock.fileno())
        return entry if entry is not None and entry.sock is sock else None

    cdef Entry _known(self, object sock):
        cdef Entry entry = self._find(sock)
        if entry is None:
            raise KeyError("the socket is not watched")
        return entry

    cdef int _register(self, object sock, object gone, object readable, object writable, uint32_t events) except -1:
        cdef Entry entry = Entry.__new__(Entry)
        entry.sock = sock
        entry.fd = sock.fileno()
        entry.gone = gone
        entry.readable = readable
        entry.writable = writable
        entry.armed = events
        self._control(EPOLL_CTL_ADD, entry.fd, events)
        self._entries[entry.fd] = entry
        return 0

    cdef int _arm(self, Entry entry, uint32_t events) except -1:
        entry.armed = events
        entry.heard = False
        return self._control(EPOLL_CTL_MOD, entry.fd, events)

    cdef int _control(self, int operation, int descriptor, uint32_t events) except -1:
        cdef epoll_event event
        memset(&event, 0, sizeof(event))
        # When nothing is wanted, edge-triggered: its end would be reported again and again to somebody who has heard.
        event.events = events if events else EPOLLET
        event.data.fd = descriptor
        if epoll_ctl(self._epoll, operation, descriptor, &event) < 0 and not (
            operation == EPOLL_CTL_DEL and errno == ENOENT
        ):
            raise OSError(errno, os.strerror(errno))
        return 0


def accept(listening):
    """A connection of a listening socket, non-blocking, and its address as ``socket.accept`` has it; None when there is
    none now. Raises OSError."""
    cdef sockaddr_storage storage
    cdef socklen_t size = sizeof(storage)
    cdef char text[64]
    cdef int descriptor
    cdef sockaddr_in* four
    cdef sockaddr_in6* six
    storage.ss_family = 0
    descriptor = accept4(listening.fileno(), <sockaddr*>&storage, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if descriptor < 0:
        if errno == EAGAIN or errno == EINTR:
            return None
        raise OSError(errno, os.strerror(errno))
    address = None
    if storage.ss_family == AF_INET:
        four = <sockaddr_in*>&storage
        inet_ntop(AF_INET, &four.sin_addr, text, sizeof(text))
        address = (text.decode("ascii"), ntohs(four.sin_port))
    elif storage.ss_family == AF_INET6:
        six = <sockaddr_in6*>&storage
        inet_ntop(AF_INET6, &six.sin6_addr, text, sizeof(text))
        name = text.decode("ascii")
        if six.sin6_scope_id:
            name += "%" + socket.if_indextoname(six.sin6_scope_id)
        address = (name, ntohs(six.sin6_port))
    try:
        return socket.socket(storage.ss_family, _STREAM, 0, descriptor), address
    except BaseException:
        os.close(descriptor)
        raise


cdef object _STREAM = socket.SOCK_STREAM | socket.SOCK_NONBLOCK


def _ignore(_failed):
    """Whoever waits to read or write hears of it by that."""
