"""Read RFC 1122 §3.2 and §3.3, RFC 8200, RFC 4443 §2.4, and ``stack.pxd`` first."""

import os
from dataclasses import dataclass

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from .address cimport Address, from_address, is_multicast, is_unicast, is_v4, same, to_address
from .echo cimport Echo
from .fragments cimport WHOLE, Reassembler, fragment_size, write_fragment
from .host cimport Flow, Host, Report
from .ip cimport (
    BAD_FIELD, HEADER4, HEADER6, ICMP, ICMPV6, NO_NEXT, READ, TCP, UDP, UNKNOWN_NEXT, UNKNOWN_OPTION, Packet, Reading,
    read_packet,
)
from .known_mtus cimport make_known_mtus
from .messages cimport (
    ECHO, ECHO6, ECHO_REPLY, ECHO_REPLY6, IN_TRANSIT, LARGEST_ERROR4, LARGEST_ERROR6, MESSAGE, NEEDS_FRAGMENTATION,
    NO_PROTOCOL, PACKET_TOO_BIG6, PARAMETER_PROBLEM6, PROHIBITED, REASSEMBLY, TIME_EXCEEDED, TIME_EXCEEDED6,
    UNREACHABLE, UNREACHABLE6, is_intact, may_answer, read_report, write_message,
)
from .queue cimport make_queue
from .tcp.tcp cimport make_tcp
from .udp cimport Udp

cdef double NEVER = float("inf")
cdef double ERROR_RATE = 200.0
cdef double ERROR_BURST = 50.0
# ICMP errors a second, and at once (RFC 1812 §4.3.2.8, RFC 4443 §2.4 f): Linux has 1,000 and 50 for a whole machine.
cdef double MTU_AGE = 600.0
# Seconds for which a smaller MTU of a path is believed (RFC 1191 §6.3, RFC 8201 §4).
cdef enum:
    LOOSE = 1 << 18         # octets of packets of no flow that wait to be sent
    MOST_LOOSE = 1024
    SMALLEST_MTU = 576      # octets that a link must carry: what every host can take (RFC 1122 §3.3.2)
    LEAST_PATH_MTU4 = 552   # a router that asks for less is not believed, as Linux has it
    LEAST_PATH_MTU6 = 1280
    HOPS = 64
    SOURCE_POLICY6 = 5      # of UNREACHABLE6: the source address failed ingress policy (RFC 4443 §3.1)
    MOST_PACKETS = 64       # made at once for ``packets_to_send``
    ROOM = 65536

cdef uint32_t PLATEAUS[11]      # RFC 1191 §7.1
PLATEAUS[:] = [65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 552, 0, 0]

cdef uint8_t _scratch[ROOM]     # One packet at a time is made, and this is one thread's work.


@dataclass(frozen=True, slots=True)
class StackOptions:
    """addresses: the stack's own, at most one of each version as the source towards others: the first.
    takes_all: packets to any unicast address are local: the stack is the far end of the world (for an exit).
    mtu: octets of the largest packet that the link takes, 576 to 65535. tcp, udp: their limits, None for the defaults."""

    addresses: tuple = ()
    takes_all: bool = False
    mtu: int = 1280
    tcp: object = None
    udp: object = None


cdef class Stack(Host):
    """options: StackOptions. random_bytes(n): unpredictable octets. waker(): called when there is something to send or to
    tell, once until ``rest``."""

    def __init__(self, options, *, random_bytes=os.urandom, waker=None, double now=0.0):
        self.seed(random_bytes)
        self._mtus = make_known_mtus(self.hash_seed)
        self.options = options
        self.waker = waker
        self.now = now
        self.takes_all = options.takes_all
        self._reassembler = Reassembler()
        self._loose = make_queue(LOOSE, MOST_LOOSE)
        self._error_tokens = ERROR_BURST
        self._error_at = now
        self._peer_count = -1
        self._set_addresses(options.addresses)
        if not SMALLEST_MTU <= options.mtu <= 65535:
            raise ValueError(f"an MTU of {SMALLEST_MTU} to 65535 octets, not {options.mtu}")
        self.mtu = <uint32_t>options.mtu
        self.udp = Udp(self, options.udp)
        self.echo = Echo(self)
        self.tcp = make_tcp(self, options.tcp)

    def __dealloc__(self):
        free(self._local)
        free(self._peers)

    def _set_addresses(self, addresses):
        cdef list objects = [_host(address) for address in addresses]
        cdef Address* local = _array(objects)
        free(self._local)
        self._local = local
        self._local_count = <int>len(objects)
        self._addresses = objects

    # Packets that come.

    cdef int take(self, const uint8_t* data, size_t size, double now) except -1:
        cdef Packet packet
        cdef Reading reading
        cdef bint own
        self.now = now
        self.counters.received += 1
        self.counters.received_octets += size
        reading = read_packet(data, size, &packet)
        if reading != READ and reading < BAD_FIELD:
            self.counters.malformed += 1
            return 0
        if not is_unicast(&packet.source):
            self.counters.bad_source += 1
            return 0
        if self._peer_count >= 0 and not _among(self._peers, self._peer_count, &packet.source):
            self.counters.forged += 1
            return self.send_error(
                &packet, UNREACHABLE if packet.version == 4 else UNREACHABLE6,
                PROHIBITED if packet.version == 4 else SOURCE_POLICY6, 0
            )
        own = self.owns(&packet.destination)
        if not own and not (self.takes_all and is_unicast(&packet.destination)):
            return self._foreign(&packet)
        if reading != READ:
            self.counters.malformed += 1
            if packet.mute and is_multicast(&packet.destination):
                return 0
            packet.protocol = NO_NEXT
            return self.send_error(&packet, PARAMETER_PROBLEM6, <uint8_t>(reading - BAD_FIELD), <uint32_t>packet.pointer)
        if not own and packet.hops <= 1:
            # The far end of the world is one hop behind the stack, which a traceroute shows.
            return self.send_error(
                &packet, TIME_EXCEEDED if packet.version == 4 else TIME_EXCEEDED6, IN_TRANSIT, 0
            )
        if packet.fragment and self._reassembler.add(&packet, now) != WHOLE:
            return 0
        return self.deliver(&packet, now)

    cdef int deliver(self, Packet* packet, double now) except -1:
        if packet.protocol == TCP and self.tcp is not None:
            return self.tcp.receive(packet, now)
        if packet.protocol == UDP:
            return self.udp.receive(packet, now)
        if packet.protocol == (ICMP if packet.version == 4 else ICMPV6):
            return self._control(packet, now)
        self.counters.unknown_protocol += 1
        if packet.version == 4:
            return self.send_error(packet, UNREACHABLE, NO_PROTOCOL, 0)
        if packet.protocol == NO_NEXT:
            return 0
        return self.send_error(packet, PARAMETER_PROBLEM6, UNKNOWN_NEXT - BAD_FIELD, <uint32_t>packet.pointer)

    cdef int _foreign(self, const Packet* packet) except -1:
        self.counters.foreign += 1
        if self.on_foreign is not None:
            self.on_foreign((<const char*>packet.data)[:packet.size])
        return 0

    cdef int _control(self, const Packet* packet, double now) except -1:
        cdef uint8_t kind
        if not is_intact(packet):
            self.counters.malformed += 1
            return 0
        kind = packet.payload[0]
        if kind == (ECHO if packet.version == 4 else ECHO6):
            if self.owns(&packet.destination):
                self.counters.echoes_answered += 1
                return self._answer(packet)
            if self.echo.on_request is not None:
                self.echo.on_request((<const char*>packet.data)[:packet.size])
            return 0
        if kind == (ECHO_REPLY if packet.version == 4 else ECHO_REPLY6):
            self.echo.replied(packet, now)
            return 0
        return self._reported(packet, now)

    cdef int _answer(self, const Packet* packet) except -1:
        # RFC 1122 §3.2.2.6: all that came goes back, in fragments if it must.
        cdef size_t header = HEADER4 if packet.version == 4 else HEADER6
        cdef size_t data = packet.payload_size - MESSAGE
        cdef size_t size = header + packet.payload_size
        cdef size_t mtu = self.path_mtu(&packet.source)
        cdef size_t at = 0, piece
        cdef uint32_t id
        cdef uint8_t* out = self.loose_room(size) if size <= mtu else _scratch
        write_message(
            out, &packet.destination, &packet.source, ECHO_REPLY if packet.version == 4 else ECHO_REPLY6, 0,
            (<uint32_t>packet.payload[4] << 24 | <uint32_t>packet.payload[5] << 16 | <uint32_t>packet.payload[6] << 8
             | packet.payload[7]),
            packet.payload + MESSAGE, data, HOPS
        )
        if size <= mtu:
            return self.send_loose(size)
        if header == HEADER4:
            out[6] = 0
        id = <uint32_t>self.chance()
        while at < packet.payload_size:
            piece = fragment_size(header, packet.payload_size - at, mtu)
            size = write_fragment(
                self.loose_room(mtu), out, at, piece, at + piece < packet.payload_size, id
            )
            self.send_loose(size)
            at += piece
        return 0

    cdef int _reported(self, const Packet* packet, double now) except -1:
        cdef Report report
        cdef bint ours = False
        if not read_report(packet, &report):
            return 0
        self.counters.reports_received += 1
        if self.is_local(&report.source):
            if report.protocol == TCP and self.tcp is not None:
                ours = self.tcp.report(&report, now)
            elif report.protocol == UDP:
                ours = self.udp.report(&report, now)
            elif report.protocol == (ICMP if report.version == 4 else ICMPV6):
                ours = self.echo.report(&report, now)
        if not ours:
            self.counters.reports_ignored += 1
            return 0
        if report.kind == (UNREACHABLE if report.version == 4 else PACKET_TOO_BIG6) and \
                (report.version == 6 or report.code == NEEDS_FRAGMENTATION):
            return self._narrower(&report, now)
        return 0

    # The size of packets.

    cdef int _narrower(self, const Report* report, double now) except -1:
        cdef uint32_t known = self.path_mtu(&report.destination)
        cdef uint32_t wanted = report.mtu
        cdef int i
        if report.version == 4 and wanted < 68:
            # A router that does not say (RFC 1191 §5), or says what cannot be.
            i = 0
            while PLATEAUS[i] >= known and PLATEAUS[i] > LEAST_PATH_MTU4:
                i += 1
            wanted = PLATEAUS[i]
        if report.version == 4 and wanted < LEAST_PATH_MTU4:
            wanted = LEAST_PATH_MTU4
        if wanted >= known or report.version == 6 and wanted < LEAST_PATH_MTU6:
            return 0        # RFC 8201 §4
        self._mtus.set(&report.destination, wanted, now + MTU_AGE)
        if self.tcp is not None:
            self.tcp.mtu_changed(&report.destination, now)
        return 0

    cdef uint32_t path_mtu(self, const Address* remote) noexcept:
        cdef uint32_t known = self._mtus.find(remote, self.now)
        return known if known and known < self.mtu else self.mtu

    # Errors and other packets of no flow.

    cdef uint8_t* loose_room(self, size_t size) except NULL:
        cdef uint8_t* room = self._loose.room(size)
        if room == NULL:
            raise ValueError("a packet larger than any may be")
        self._loose_size = size
        return room

    cdef int send_loose(self, size_t size) except -1:
        assert size <= self._loose_size
        self._loose.commit(size)
        return self.wake()

    cdef bint _may_send_error(self, double now) noexcept:
        self._error_tokens = min(ERROR_BURST, self._error_tokens + (now - self._error_at) * ERROR_RATE)
        self._error_at = now
        if self._error_tokens < 1.0:
            return False
        self._error_tokens -= 1.0
        return True

    cdef int send_error(self, const Packet* packet, uint8_t kind, uint8_t code, uint32_t value) except -1:
        cdef bint v4 = packet.version == 4
        cdef Address source
        cdef size_t most = LARGEST_ERROR4 if v4 else LARGEST_ERROR6
        cdef size_t header = (HEADER4 if v4 else HEADER6) + MESSAGE
        cdef bint exceptional = not v4 and (
            kind == PACKET_TOO_BIG6 or kind == PARAMETER_PROBLEM6 and code == UNKNOWN_OPTION - BAD_FIELD
        )
        if not may_answer(packet, exceptional) or not self._may_send_error(self.now):
            self.counters.errors_withheld += 1
            return 0
        source = packet.destination
        if kind == (TIME_EXCEEDED if v4 else TIME_EXCEEDED6) or not self.is_local(&source):
            # A router's word, not the destination's.
            if not self.choose_source(&packet.source, &source) and not self.is_local(&source):
                self.counters.errors_withheld += 1
                return 0
        if most > self.mtu:
            most = self.mtu
        if header + packet.size < most:
            most = header + packet.size
        self.counters.errors_sent += 1
        return self.send_loose(write_message(
            self.loose_room(most), &source, &packet.source, kind, code, value, packet.data, most - header, HOPS
        ))

    # Addresses.

    cdef bint owns(self, const Address* address) noexcept:
        return _among(self._local, self._local_count, address)

    cdef bint is_local(self, const Address* address) noexcept:
        return self.owns(address) or self.takes_all and is_unicast(address)

    cdef bint choose_source(self, const Address* remote, Address* source) noexcept:
        cdef int i
        for i in range(self._local_count):
            if is_v4(&self._local[i]) == is_v4(remote):
                source[0] = self._local[i]
                return True
        return False

    # Packets that go.

    cdef bint has_packets(self) noexcept:
        return self._loose.count != 0 or self.first_wanting is not None

    cdef Py_ssize_t build(self, uint8_t* out, size_t room, double now) except -1:
        cdef size_t size = 0
        cdef uint8_t* at
        cdef Py_ssize_t made
        self.now = now
        if room > self.mtu:
            room = self.mtu
        while self._loose.count:
            at = self._loose.front(&size)
            if size <= room:
                memcpy(out, at, size)
                self._loose.pop()
                self.counters.sent += 1
                self.counters.sent_octets += size
                return <Py_ssize_t>size
            self._loose.pop()
            self.counters.too_big += 1
        made = self.build_next(out, room, now)
        if made:
            assert <size_t>made <= room
            self.counters.sent += 1
            self.counters.sent_octets += <uint64_t>made
        return made

    # From Python.

    def receive(self, const uint8_t[::1] packet not None, double now):
        if packet.shape[0]:
            self.take(&packet[0], <size_t>packet.shape[0], now)

    def packets_to_send(self, double now):
        cdef list packets = []
        cdef Py_ssize_t size
        while len(packets) < MOST_PACKETS:
            size = self.build(_scratch, ROOM, now)
            if not size:
                break
            packets.append((<const char*>_scratch)[:size])
        return packets

    cdef double due(self) noexcept:
        return min(self.next_due(), self._reassembler.next_due())

    def next_timer(self):
        return self.due()

    def handle_timer(self, double now):
        cdef Packet packet
        self.now = now
        if now >= self._reassembler.next_due():
            for header in self._reassembler.expire(now):
                # RFC 1122 §3.3.2, RFC 8200 §4.5.
                if read_packet(<const uint8_t*><const char*>header, <size_t>len(header), &packet) == READ:
                    self.send_error(
                        &packet, TIME_EXCEEDED if packet.version == 4 else TIME_EXCEEDED6, REASSEMBLY, 0
                    )
        self.run_timers(now)

    def tell(self):
        cdef list touched
        cdef Flow flow
        while self.touched_flows:
            touched, self.touched_flows = self.touched_flows, []
            for flow in touched:
                flow.tell()

    @property
    def has_words(self):
        return bool(self.touched_flows)

    def rest(self):
        self.awake = False

    def set_mtu(self, int mtu):
        if not SMALLEST_MTU <= mtu <= 65535:
            raise ValueError(f"an MTU of {SMALLEST_MTU} to 65535 octets, not {mtu}")
        if <uint32_t>mtu != self.mtu:
            self.mtu = <uint32_t>mtu
            if self.tcp is not None:
                self.tcp.mtu_changed(NULL, self.now)

    def set_addresses(self, addresses):
        self._set_addresses(addresses)

    def set_peers(self, addresses):
        cdef list objects = [_host(address) for address in addresses] if addresses is not None else []
        cdef Address* peers = _array(objects)
        free(self._peers)
        self._peers = peers
        self._peer_count = <int>len(objects) if addresses is not None else -1

    @property
    def addresses(self):
        return tuple(self._addresses)

    def mtu_towards(self, address):
        cdef Address remote = to_address(address)
        return self.path_mtu(&remote)

    def counted(self):
        return {
            **self.counters,
            "reassembled": self._reassembler.reassembled,
            "fragments_refused": self._reassembler.refused,
            "reassemblies_timed_out": self._reassembler.timed_out,
        }


cdef Address* _array(list addresses) except NULL:
    cdef Py_ssize_t index
    cdef Address* array = <Address*>calloc(max(len(addresses), 1), sizeof(Address))
    if array == NULL:
        raise MemoryError
    for index in range(len(addresses)):
        array[index] = to_address(addresses[index])
    return array


cdef bint _among(const Address* array, int count, const Address* address) noexcept:
    cdef int i
    for i in range(count):
        if same(&array[i], address):
            return True
    return False


cdef object _host(object address):
    cdef Address value = to_address(address)
    if not is_unicast(&value):
        raise ValueError(f"{address} cannot be a host's address")
    return from_address(&value)
