"""Segments to their connections, and what belongs to nobody. Read RFC 9293 §3.10.7.1 and §3.10.7.2, RFC 4987, ``types`` and
``tcp.pxd`` first."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memset

from ..address cimport Address, is_broadcast, is_multicast, is_unicast, is_v4, same, to_address
from ..checksum cimport pseudo_sum
from ..host cimport Flow, Host, Name, Report, make_table, set_name
from ..ip cimport HEADER6, TCP, Packet, get16, get32, write_header
from .attempt cimport Attempt
from .connection cimport Connection
from .cookies cimport make_cookie, read_cookie, stamp_with_options
from .core cimport Core, reason_of
from .endpoint cimport Endpoint, Limits, Owner
from .header cimport (
    ACK, CWR, ECE, FIN, MOST_SCALE, PLAIN_HEADER, RST, SYN, Header, distance, length_of, put_mss, put_sack_permitted,
    put_scale, put_timestamps, read_header, seal, write_plain,
)
from .keyed cimport FOR_TIMESTAMP, hash_name, initial_sequence, next_port
from .time_wait cimport TimeWait, make_time_wait

from .types import Options, TcpError

cdef double NEVER = float("inf")
cdef double COOKIE_LIFE = 128.0     # s
cdef enum:
    HOPS = 64
    ISN_STEP = 65536 + 1
    # A new connection's numbers are so far above the last ones of that whose name it takes (RFC 6191 §2, RFC 1122 §4.2.2.13).
    PORT_TRIES = 4096
    SMALLEST_HIGH_WATER = 16 << 10

cdef Address NOWHERE
memset(&NOWHERE, 0, sizeof(NOWHERE))


cdef Tcp make_tcp(Host host, object options):
    cdef Tcp tcp = Tcp.__new__(Tcp)
    options = Options() if options is None else options
    tcp.host = host
    tcp.options = options
    tcp.congestion = options.congestion
    _set_limits(&tcp.limits, options)
    tcp.table = make_table(host.hash_seed)
    tcp.listeners = make_table(host.hash_seed ^ 1)
    tcp._resting = {}
    tcp._cookies_until = -NEVER
    return tcp


cdef int _set_limits(Limits* limits, object options) except -1:
    if options.congestion not in ("cubic", "reno", "bbr"):
        raise ValueError(f"congestion controller {options.congestion!r} is not known")
    limits.nagle = options.nagle
    limits.timestamps = options.timestamps
    limits.window_scaling = options.window_scaling
    limits.sack = options.sack
    limits.ecn = options.ecn
    limits.mtu_probing = options.mtu_probing
    limits.slow_start_after_idle = options.slow_start_after_idle
    limits.scale = 0
    while limits.window_scaling and limits.scale < MOST_SCALE and options.receive_window >> limits.scale > 65535:
        limits.scale += 1
    limits.receive_window = min(options.receive_window, 65535 << limits.scale)
    limits.first_window = min(options.initial_receive_window, limits.receive_window)
    limits.receive_memory = options.receive_memory
    limits.send_window = options.send_window
    limits.send_high_water = options.send_high_water
    limits.send_memory = options.send_memory
    limits.time_wait = options.time_wait
    limits.fin_wait_2 = options.fin_wait_2
    limits.connect_timeout = options.connect_timeout
    limits.user_timeout = options.user_timeout
    limits.accept_timeout = options.accept_timeout
    limits.initial_rto = options.initial_rto
    limits.minimum_rto = options.minimum_rto
    limits.maximum_rto = options.maximum_rto
    limits.delayed_ack = options.delayed_ack
    limits.keepalive = options.keepalive
    limits.keepalive_interval = options.keepalive_interval
    limits.keepalive_probes = options.keepalive_probes
    return 0


cdef class Listener(Endpoint):
    """What ``Tcp.listen`` gives."""

    def close(self):
        """Take no more connections. Those that have been told of stay; handshakes under way are reset as they complete."""
        if not self.closed:
            self.closed = True
            self.on_accept = None
            self._tcp.listeners.remove(self)

    @property
    def port(self):
        return self.name.local_port


cdef class Tcp(Owner):
    """Made by a stack, as ``Stack.tcp``.

    on_attempt(attempt): called from ``Stack.tell`` for a SYN to a local name that nobody listens on; None: it is answered with
    a RST. See ``attempt.Attempt``.
    """

    # From Python.

    def connect(self, address, int port, handler, *, local=None, int local_port=0):
        """Begin a connection (RFC 9293 §3.10.1). address, local: as ``ipaddress`` has them, or str.

        local: an address of the stack's; local_port: 0 for one that is free. Raises TcpError when there is no such address or
        port, the name is taken, or there are too many connections; ValueError for what is no address.
        """
        cdef Address remote = to_address(address), source
        cdef Name name
        cdef Connection connection
        cdef double now = self.host.now
        if not is_unicast(&remote):
            raise TcpError(f"{address} is nobody's address alone")      # MUST-46
        if not 0 < port <= 65535 or not 0 <= local_port <= 65535:
            raise ValueError("a port from 1 to 65535")
        if local is not None:
            source = to_address(local)
            if is_v4(&source) != is_v4(&remote) or not self.host.is_local(&source):
                raise TcpError(f"{local} is no address to reach {address} from")
        elif not self.host.choose_source(&remote, &source):
            raise TcpError(f"no address to reach {address} from")
        if self.table.size >= <size_t>self.options.connections + self._resting_count():
            raise TcpError(f"{self.options.connections} connections are the most")
        set_name(&name, TCP, &source, <uint16_t>local_port, &remote, <uint16_t>port)
        if local_port:
            if self.table.find(&name) is not None:
                raise TcpError("a connection of this name exists")
        elif not _choose_port(self, &name):
            raise TcpError(f"all ports to {address} port {port} are in use")
        connection = self.make(&name)
        connection._handler = handler
        connection.open_to(initial_sequence(_secret(self), &name, now), now)
        self.table.add(connection)
        self.counters.connections_opened += 1
        return connection

    def listen(self, int port, on_accept, *, address=None, int backlog=1024):
        """Take connections to port of address, or of any local address. on_accept(connection) is called from ``Stack.tell`` for
        each whose handshake is complete; call ``set_handler`` on it then or later.

        backlog: handshakes under way at once; beyond it there are cookies, if allowed. Raises TcpError when there is a
        listener already.
        """
        cdef Address local = NOWHERE
        cdef Listener listener = Listener.__new__(Listener)
        if not 0 < port <= 65535:
            raise ValueError("a port from 1 to 65535")
        if address is not None:
            local = to_address(address)
            if not self.host.is_local(&local):
                raise TcpError(f"{address} is no address of the stack's")
        set_name(&listener.name, TCP, &local, <uint16_t>port, NULL, 0)
        if self.listeners.find(&listener.name) is not None:
            raise TcpError(f"somebody listens on port {port} already")
        listener.host = self.host
        listener.owner = self
        listener._tcp = self
        listener.on_accept = on_accept
        listener.backlog = backlog
        self.listeners.add(listener)
        return listener

    def connections(self):
        """All that are open or half open."""
        return [flow for flow in self.table.flows() if isinstance(flow, Connection)]

    def statistics(self):
        """Counters since the stack began, and what there is now, as a dict."""
        found = dict(self.counters)
        found.update(
            names=self.table.size, time_waits=len(self._resting), half_open=self.half_open, attempts=self._attempts,
            listeners=self.listeners.size, octets_unconsumed=self.received, octets_unacknowledged=self.written,
        )
        return found

    def close(self):
        """End everything: connections are reset and their handlers told, attempts and listeners are gone."""
        cdef Flow flow
        for flow in self.listeners.flows():
            (<Listener>flow).close()
        for flow in self.table.flows():
            if isinstance(flow, Connection):
                (<Connection>flow).abort(reason_of("STACK_CLOSED", None), self.host.now)
            elif isinstance(flow, Attempt):
                if not (<Attempt>flow).over:
                    (<Attempt>flow).drop()
            else:
                self.forget(<Endpoint>flow)

    # What the stack calls.

    cdef int receive(self, const Packet* packet, double now) except -1:
        cdef Header header
        cdef Name name
        cdef Flow flow
        self.counters.segments_received += 1
        # MUST-57, MUST-63; the stack has said that the destination is ours.
        if not is_unicast(&packet.source) or is_multicast(&packet.destination) or is_broadcast(&packet.destination):
            self.counters.segments_unwanted += 1
            return 0
        if not read_header(packet, &header):
            self.counters.segments_bad += 1
            return 0
        set_name(&name, TCP, &packet.destination, header.destination_port, &packet.source, header.source_port)
        flow = self.table.find(&name)
        if flow is not None:
            return (<Endpoint>flow).arrived(packet, &header, now)
        return self.newcomer(packet, &header, &name, 0, now)

    cdef bint report(self, const Report* report, double now) except -1:
        cdef Name name
        cdef Flow flow
        if report.payload_size < 8:
            return False
        set_name(
            &name, TCP, &report.source, get16(report.payload), &report.destination, get16(report.payload + 2)
        )
        flow = self.table.find(&name)
        if flow is None:
            return False
        return (<Endpoint>flow).reported(report, get32(report.payload + 4), now)

    cdef int mtu_changed(self, const Address* remote, double now) except -1:
        cdef Flow flow
        for flow in self.table.flows():
            if isinstance(flow, Connection) and (remote == NULL or same(&flow.name.remote, remote)):
                (<Connection>flow).path_changed(now)
        return 0

    # What endpoints call.

    cdef int forget(self, Endpoint endpoint) except -1:
        self.host.disarm(endpoint)
        if self.table.remove(endpoint):
            if isinstance(endpoint, TimeWait):
                self._resting.pop(endpoint, None)
            elif isinstance(endpoint, Attempt):
                self._attempts -= 1
        return 0

    cdef int rest(self, Endpoint endpoint) except -1:
        cdef TimeWait rest = make_time_wait(<Core>endpoint, True)
        self.table.remove(endpoint)
        if len(self._resting) >= self.options.time_waits:
            self.counters.time_waits_evicted += 1
            self.forget(next(iter(self._resting)))
        self.table.add(rest)
        self._resting[rest] = None
        self.host.arm(rest, self.host.now + self.limits.time_wait)
        return self.host.want(rest)

    cdef int settled(self, Endpoint endpoint, bint established) except -1:
        cdef Connection connection = <Connection>endpoint
        self.half_open -= 1
        if connection.listener is not None:
            (<Listener>connection.listener).half_open -= 1
            if established:
                if (<Listener>connection.listener).closed:
                    connection.listener = None
                    return connection.abort(reason_of("LOCALLY_RESET", None), self.host.now)
                connection._on_accept = (<Listener>connection.listener).on_accept
                self.counters.connections_accepted += 1
            connection.listener = None
        return 0

    cdef int recycle(self, Endpoint rest, const Packet* packet, Header* header, uint32_t least, double now) except -1:
        cdef Name name = rest.name
        self.counters.time_waits_recycled += 1
        self.forget(rest)
        return self.newcomer(packet, header, &name, least + ISN_STEP, now)

    cdef uint64_t window_for(self, uint64_t wanted) noexcept:
        # A quarter of what is left, and no less than each begins with: stalled connections leave room for others.
        cdef uint64_t held = <uint64_t>self.received if self.received > 0 else 0
        cdef uint64_t left = self.limits.receive_memory - held if held < self.limits.receive_memory else 0
        cdef uint64_t most = max(left >> 2, self.limits.first_window)
        return min(wanted, most)

    cdef uint64_t high_water(self) noexcept:
        cdef int64_t left = <int64_t>self.limits.send_memory - self.written
        cdef uint64_t most = <uint64_t>left >> 3 if left > 0 else 0
        return min(self.limits.send_high_water, max(most, <uint64_t>SMALLEST_HIGH_WATER))

    # What belongs to nobody.

    cdef Listener listener_for(self, const Name* name):
        cdef Name wanted
        cdef Flow found
        if not self.listeners.size:
            return None
        set_name(&wanted, TCP, &name.local, name.local_port, NULL, 0)
        found = self.listeners.find(&wanted)
        if found is None:
            set_name(&wanted, TCP, &NOWHERE, name.local_port, NULL, 0)
            found = self.listeners.find(&wanted)
        return <Listener>found if found is not None else None

    cdef Connection make(self, const Name* name):
        cdef Connection connection = Connection.__new__(Connection)
        connection.name = name[0]
        connection.host = self.host
        connection.owner = self
        return connection

    cdef int newcomer(self, const Packet* packet, Header* header, const Name* name, uint32_t least, double now) except -1:
        # least: of our sequence numbers, 0: any.
        cdef Listener listener
        self.counters.segments_unwanted += 1
        if header.flags & RST:
            return 0
        listener = self.listener_for(name)
        if header.flags & ACK:
            if listener is not None and not header.flags & SYN and now < self._cookies_until and \
                    _redeem(self, listener, packet, header, name, now):
                return 0
            return self.reset_stranger(packet, header)
        if not header.flags & SYN or header.flags & FIN:
            return 0 if listener is not None else self.reset_stranger(packet, header)
        if listener is not None:
            self.counters.segments_unwanted -= 1
            return _admit(self, listener, header, name, least, now)
        if self.on_attempt is not None and self.host.is_local(&name.local):
            self.counters.segments_unwanted -= 1
            return _attempt(self, packet, header, name, now)
        return self.reset_stranger(packet, header)

    cdef int reset_stranger(self, const Packet* packet, const Header* header) except -1:
        # RFC 9293 §3.10.7.1
        if header.flags & RST:
            return 0
        if header.flags & ACK:
            return _send_plain(self, packet, header, header.acknowledgement, 0, RST)
        return _send_plain(
            self, packet, header, 0, header.sequence + <uint32_t>(length_of(header) & 0xffffffff), RST | ACK
        )

    cdef object accept_attempt(self, Endpoint attempt, Header* syn):
        cdef Connection connection
        cdef Name name = attempt.name
        self.forget(attempt)
        if self.table.size >= <size_t>self.options.connections + self._resting_count():
            self.counters.connections_refused += 1
            raise TcpError(f"{self.options.connections} connections are the most")
        connection = self.make(&name)
        connection.answer(syn, initial_sequence(_secret(self), &name, self.host.now), self.host.now)
        self.half_open += 1
        self.table.add(connection)
        self.counters.connections_accepted += 1
        return connection

    cdef int tell_attempt(self, Endpoint attempt) except -1:
        if self.on_attempt is None:
            (<Attempt>attempt).refuse()
        else:
            self.on_attempt(attempt)
        return 0

    cdef size_t _resting_count(self) noexcept:
        return <size_t>len(self._resting)


cdef inline const uint8_t* _secret(Tcp self) noexcept:
    return <const uint8_t*><const char*>self.host.secret


cdef bint _choose_port(Tcp self, Name* name) except -1:
    # RFC 6056 §3.3.4
    cdef uint32_t first = self.options.first_port, count = self.options.last_port - self.options.first_port + 1
    cdef int tries
    cdef Name unnamed = name[0]
    for tries in range(PORT_TRIES):
        name.local_port = <uint16_t>(first + next_port(&self._ports, _secret(self), &unnamed, count))
        if self.table.find(name) is None and self.listener_for(name) is None:
            return True
    return False


cdef int _admit(Tcp self, Listener listener, Header* header, const Name* name, uint32_t least, double now) except -1:
    cdef Connection connection
    cdef uint32_t iss
    if self.table.size >= <size_t>self.options.connections + self._resting_count():
        self.counters.connections_refused += 1
        return 0
    if listener.half_open >= listener.backlog or self.half_open >= self.options.half_open:
        if not self.options.syn_cookies:
            self.counters.connections_refused += 1
            return 0
        return _send_cookie(self, header, name, now)
    iss = initial_sequence(_secret(self), name, now)
    if least and distance(least, iss) < 0:
        iss = least
    connection = self.make(name)
    connection.listener = listener
    connection.answer(header, iss, now)
    listener.half_open += 1
    self.half_open += 1
    return self.table.add(connection)


cdef int _attempt(Tcp self, const Packet* packet, Header* header, const Name* name, double now) except -1:
    cdef Attempt attempt
    if self._attempts >= self.options.attempts:
        self.counters.attempts_dropped += 1
        return 0
    attempt = Attempt.__new__(Attempt)
    attempt.name = name[0]
    attempt.host = self.host
    attempt.owner = self
    attempt.keep(packet, header, now)
    self._attempts += 1
    self.table.add(attempt)
    self.host.arm(attempt, now + self.options.attempt_timeout)
    return self.host.touch(attempt)


cdef int _send_plain(
    Tcp self, const Packet* packet, const Header* header, uint32_t sequence, uint32_t acknowledgement, uint8_t flags
) except -1:
    # An answer to a segment of no connection, without options.
    cdef uint8_t* at
    cdef uint8_t* tcp
    at = self.host.loose_room(HEADER6 + PLAIN_HEADER)
    tcp = write_header(at, &packet.destination, &packet.source, TCP, PLAIN_HEADER, 0, HOPS, 0, True)
    write_plain(tcp, header.destination_port, header.source_port, sequence, acknowledgement, flags, 0)
    seal(tcp, tcp + PLAIN_HEADER, 0, pseudo_sum(&packet.destination, &packet.source, TCP, 0))
    self.counters.resets_sent += 1
    return self.host.send_loose(<size_t>(tcp + PLAIN_HEADER - at))


# Cookies.


cdef int _send_cookie(Tcp self, Header* header, const Name* name, double now) except -1:
    cdef uint8_t* at = self.host.loose_room(HEADER6 + PLAIN_HEADER + 24)
    cdef uint8_t* tcp
    cdef uint8_t* end
    cdef bint ecn = self.limits.ecn and header.flags & (ECE | CWR) == (ECE | CWR)
    cdef bint stamped = self.limits.timestamps and header.stamped
    cdef uint32_t stamp, overhead = PLAIN_HEADER + (20 if is_v4(&name.local) else 40)
    cdef size_t options = 4 + (12 if stamped else 0)
    # What does not fit into a timestamp cannot be agreed upon.
    cdef bint sack = stamped and self.limits.sack and header.sack_permitted
    cdef bint scaled = stamped and self.limits.window_scaling and header.scale >= 0
    if sack:
        options += 4
    if scaled:
        options += 4
    header.sack_permitted = sack
    if not scaled:
        header.scale = -1
    tcp = write_header(at, &name.local, &name.remote, TCP, PLAIN_HEADER + options, 0, HOPS, 0, True)
    write_plain(
        tcp, name.local_port, name.remote_port, make_cookie(_secret(self), name, header, now), header.sequence + 1,
        SYN | ACK | (ECE if ecn and stamped else 0), <uint32_t>min(self.limits.first_window, <uint64_t>65535)
    )
    end = put_mss(tcp + PLAIN_HEADER, min(self.host.mtu - overhead, <uint32_t>65535))
    if sack:
        end = put_sack_permitted(end)
    if stamped:
        stamp = <uint32_t>((
            <uint64_t>(now * 1000.0) + hash_name(_secret(self), name, FOR_TIMESTAMP, 0)
        ) & 0xffffffff)
        end = put_timestamps(end, stamp_with_options(stamp, header, ecn), header.ts_value)
    if scaled:
        end = put_scale(end, self.limits.scale)
    seal(tcp, end, 0, pseudo_sum(&name.local, &name.remote, TCP, 0))
    self.counters.cookies_sent += 1
    self._cookies_until = now + COOKIE_LIFE
    return self.host.send_loose(<size_t>(end - at))


cdef bint _redeem(Tcp self, Listener listener, const Packet* packet, Header* header, const Name* name, double now) except -1:
    cdef Header syn
    cdef bint ecn = False
    cdef Connection connection
    if not read_cookie(_secret(self), name, header, &syn, &ecn, now):
        self.counters.cookies_refused += 1
        return False
    if self.table.size >= <size_t>self.options.connections + self._resting_count():
        self.counters.connections_refused += 1
        return True
    self.counters.cookies_accepted += 1
    self.counters.segments_unwanted -= 1
    connection = self.make(name)
    connection.listener = listener
    connection.answer(&syn, header.acknowledgement - 1, now)
    connection.syn_wanted = False
    connection.rcv_edge = <int64_t>min(self.limits.first_window, <uint64_t>65535)
    listener.half_open += 1
    self.half_open += 1
    self.table.add(connection)
    return connection.arrived(packet, header, now) == 0
