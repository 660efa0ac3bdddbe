"""Addresses between Python's form and the kernel's."""

from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.string cimport memcmp, memcpy, memset

import socket

from ..errors import LocalError

from .socket_api cimport AF_INET, AF_INET6, htons, ntohs, sa_family_t, sockaddr_in, sockaddr_in6


cdef class Destination:
    """remote: (IP literal, port). local: the IP literal that packets come from. number: the socket's in the endpoint.

    Raises LocalError when an address is none.
    """

    def __init__(self, tuple remote not None, str local=None, int number=0):
        memset(&self.addresses, 0, sizeof(Addresses))
        self.addresses.number = number
        self.remote = remote
        self.local = local
        cdef sockaddr_in* ipv4 = <sockaddr_in*>&self.addresses.remote
        cdef sockaddr_in6* ipv6 = <sockaddr_in6*>&self.addresses.remote
        cdef bytes packed
        host, port = remote
        if not 0 <= port <= 65535:
            raise LocalError(f"{port} is not a port")
        # Only IPv6 has zones (RFC 4007 §11).
        literal, _, zone = host.partition("%") if ":" in host else (host, "", "")
        packed = _packed(literal)
        if len(packed) == 4:
            self.addresses.remote_size = sizeof(sockaddr_in)
            ipv4.sin_family = <sa_family_t>AF_INET
            ipv4.sin_port = htons(<uint16_t>port)
            memcpy(&ipv4.sin_addr, <const uint8_t*>packed, 4)
        else:
            self.addresses.remote_size = sizeof(sockaddr_in6)
            ipv6.sin6_family = <sa_family_t>AF_INET6
            ipv6.sin6_port = htons(<uint16_t>port)
            memcpy(&ipv6.sin6_addr, <const uint8_t*>packed, 16)
            ipv6.sin6_scope_id = _scope(zone)
        if local is not None:
            if len(_packed(local)) != len(packed):
                raise LocalError(f"{local} and {host} are of different IP versions")
            packed = _packed(local)
            self.addresses.local_size = <int>len(packed)
            memcpy(self.addresses.local, <const uint8_t*>packed, <size_t>len(packed))

    @property
    def number(self):
        return self.addresses.number

    def __eq__(self, other):
        if not isinstance(other, Destination):
            return NotImplemented
        return same(&self.addresses, &(<Destination>other).addresses)

    def __hash__(self):
        return hash(octets_of(&self.addresses))

    def __repr__(self):
        return f"Destination({self.remote!r}, {self.local!r}, {self.addresses.number})"

    cdef bint same_remote(self, Destination other) noexcept:
        return (
            self.addresses.remote_size == other.addresses.remote_size
            and memcmp(&self.addresses.remote, &other.addresses.remote, self.addresses.remote_size) == 0
        )


cdef bytes octets_of(const Addresses* addresses):
    cdef bytes remote = (<const char*>&addresses.remote)[:addresses.remote_size]
    cdef bytes local = (<const char*>addresses.local)[:addresses.local_size]
    return remote + local + addresses.number.to_bytes(4, "big", signed=True)


cdef Destination destination_of(const Addresses* addresses):
    cdef Destination destination = Destination.__new__(Destination)
    cdef const sockaddr_in* ipv4 = <const sockaddr_in*>&addresses.remote
    cdef const sockaddr_in6* ipv6 = <const sockaddr_in6*>&addresses.remote
    cdef bytes host
    cdef int family = addresses.remote.ss_family
    memcpy(&destination.addresses, addresses, sizeof(Addresses))
    if family == AF_INET:
        host = (<const char*>&ipv4.sin_addr)[:4]
        destination.remote = (socket.inet_ntop(socket.AF_INET, host), ntohs(ipv4.sin_port))
    else:
        host = (<const char*>&ipv6.sin6_addr)[:16]
        zone = _zone(ipv6.sin6_scope_id)
        destination.remote = (socket.inet_ntop(socket.AF_INET6, host) + zone, ntohs(ipv6.sin6_port))
    if addresses.local_size:
        destination.local = socket.inet_ntop(family, (<const char*>addresses.local)[:addresses.local_size])
    return destination


cdef bytes _packed(str host):
    try:
        return socket.inet_pton(socket.AF_INET6 if ":" in host else socket.AF_INET, host)
    except (OSError, ValueError):
        raise LocalError(f"{host!r} is not an IP address") from None


cdef str _zone(uint32_t scope):
    # As socket.recvfrom() writes it.
    if not scope:
        return ""
    try:
        return "%" + socket.if_indextoname(scope)
    except OSError:
        return f"%{scope}"


cdef uint32_t _scope(str zone) except? 0xffffffff:
    if not zone:
        return 0
    try:
        return int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    except (OSError, OverflowError):
        raise LocalError(f"there is no network interface {zone!r}") from None
