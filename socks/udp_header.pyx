"""Read RFC 1928 §7 and ``udp_header.pxd`` first.

The RFC says that fragments need not be supported; who does not must drop them. They are here, since some clients send
them: ``Reassembly``.
"""

from ipaddress import ip_address

from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memchr, memcpy

cdef double PATIENCE = 5.0      # Seconds that a datagram may take to become whole: no less, says RFC 1928 §7.
cdef enum:
    LAST = 0x80
    MOST_DATA = 65507           # octets of a datagram


cdef bint read_udp_header(const uint8_t* data, size_t size, UdpHeader* header) noexcept:
    cdef size_t at = 4
    if size < 5 or data[0] or data[1]:
        return False
    header.fragment = data[2]
    header.kind = data[3]
    if header.kind == IPV4:
        header.host_size = 4
    elif header.kind == IPV6:
        header.host_size = 16
    elif header.kind == NAME and data[4]:
        header.host_size = data[4]
        at = 5
    else:
        return False
    if size < at + header.host_size + 2:
        return False
    header.host = data + at
    if header.kind == NAME and memchr(header.host, 0, header.host_size) != NULL:
        return False
    at += header.host_size
    header.port = <uint16_t>(data[at] << 8 | data[at + 1])
    header.size = at + 2
    return header.port != 0


cdef size_t write_udp_header(uint8_t* out, const uint8_t* host, size_t host_size, uint16_t port) noexcept:
    out[0] = out[1] = out[2] = 0
    out[3] = IPV4 if host_size == 4 else IPV6
    memcpy(out + 4, host, host_size)
    out[4 + host_size] = <uint8_t>(port >> 8)
    out[5 + host_size] = <uint8_t>(port & 0xff)
    return 6 + host_size


def decode_udp(const uint8_t[::1] datagram not None):
    """(FRAG, host, port, data) of a datagram from a client: host is an IP literal or a name in lower case. None: it is none."""
    cdef UdpHeader header
    cdef size_t size = <size_t>datagram.shape[0]
    if not size or not read_udp_header(&datagram[0], size, &header):
        return None
    octets = (<const char*>header.host)[:header.host_size]
    if header.kind == NAME:
        try:
            host = octets.decode("ascii").lower()
        except UnicodeDecodeError:
            return None
    else:
        host = str(ip_address(octets))
    return header.fragment, host, header.port, (<const char*>&datagram[0] + header.size)[:size - header.size]


def encode_udp(host, int port, bytes data not None):
    """A datagram for a client: host is the IP address from which data came, never a name (RFC 1928 §7)."""
    cdef uint8_t header[LARGEST]
    cdef bytes octets = ip_address(host).packed
    if not 0 < port < 65536:
        raise ValueError(f"no port {port}")
    return (<const char*>header)[:write_udp_header(header, octets, <size_t>len(octets), <uint16_t>port)] + data


class Reassembly:
    """Fragments of one association's datagrams, put together (RFC 1928 §7)."""

    def __init__(self):
        self._forget()

    def _forget(self):
        self._parts = []
        self._size = 0
        self._host = None
        self._until = float("inf")

    def add(self, int fragment, host, int port, bytes data not None, double now):
        """A fragment, FRAG not 0, as ``decode_udp`` gives it: (host, port, data) when it completes a datagram, else None.

        Fragments come in order; one that does not continue what is there begins anew or is dropped."""
        cdef int position = fragment & ~LAST
        if now >= self._until or position <= len(self._parts):
            self._forget()
        if position != len(self._parts) + 1 or self._parts and self._host != (host, port) or \
                self._size + len(data) > MOST_DATA:
            self._forget()
            return None
        if not self._parts:
            self._host = (host, port)
            self._until = now + PATIENCE
        self._parts.append(data)
        self._size += len(data)
        if not fragment & LAST:
            return None
        whole = b"".join(self._parts)
        self._forget()
        return host, port, whole
