"""Read ``attempt.pxd`` and ``types`` first.

Nothing is answered until the application has decided: so a name that cannot be reached is never seen to be connected, and
how it cannot be is told in the words of ICMP or with a RST.
"""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy

from ..address cimport from_address
from ..ip cimport Packet
from .endpoint cimport Endpoint
from .header cimport ACK, RST, SYN, Header, distance

from .types import TcpError


cdef class Attempt(Endpoint):
    # What the application calls.

    @property
    def local_address(self):
        """What the peer wants to reach: (address, port)."""
        return from_address(&self.name.local), self.name.local_port

    @property
    def remote_address(self):
        return from_address(&self.name.remote), self.name.remote_port

    def accept(self):
        """Answer with a SYN-ACK. The connection; ``connected`` tells when the peer has confirmed it. Raises TcpError when the
        peer has given up meanwhile, or there is no room."""
        _settle(self)
        return self.owner.accept_attempt(self, &self._header)

    def refuse(self):
        """Answer with a RST: nobody is there."""
        _settle(self)
        self.owner.forget(self)
        self.owner.reset_stranger(&self._packet, &self._header)

    def unreachable(self, int kind, int code):
        """Answer with an ICMP error (of IPv4) or an ICMPv6 one, as the peer's SYN was."""
        _settle(self)
        self.owner.forget(self)
        self.host.send_error(&self._packet, <uint8_t>kind, <uint8_t>code, 0)

    def drop(self):
        """Do not answer at all."""
        _settle(self)
        self.owner.forget(self)

    # What the Tcp calls.

    cdef int keep(self, const Packet* packet, const Header* header, double now) except -1:
        cdef size_t size = packet.size if packet.size < KEPT else KEPT
        self._header = header[0]
        self._header.data = NULL
        self._header.size = 0
        self._packet = packet[0]
        memcpy(self._copy, packet.data, size)
        self._packet.data = self._copy
        self._packet.size = size
        self._packet.payload = self._copy + (packet.payload - packet.data)
        self._packet.payload_size = size - <size_t>(packet.payload - packet.data)
        return 0

    cdef int arrived(self, const Packet* packet, Header* header, double now) except -1:
        cdef int ahead = distance(self._header.sequence, header.sequence)
        if header.flags & RST:
            if not header.flags & ACK and 0 <= ahead <= 1:
                return _go(self)        # It has given up.
            return 0
        if header.flags & (SYN | ACK) == SYN:
            return self.keep(packet, header, now)       # Again, or with another ISN: the newest counts.
        return 0

    cdef int on_timer(self, double now) except -1:
        self.owner.counters.attempts_dropped += 1
        return _go(self)

    cdef int tell(self) except -1:
        self.touched = False
        if self.over:
            on_gone, self.on_gone = self.on_gone, None
            if on_gone is not None and self._told:
                on_gone()
            return 0
        if not self._told:
            self._told = True
            return self.owner.tell_attempt(self)
        return 0


cdef int _settle(Attempt self) except -1:
    if self.over:
        raise TcpError("the attempt is over")
    self.over = True
    self.on_gone = None
    return 0


cdef int _go(Attempt self) except -1:
    if self.over:
        return 0
    self.over = True
    self.owner.forget(self)
    return self.host.touch(self)
