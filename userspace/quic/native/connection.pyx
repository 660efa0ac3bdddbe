"""The application-data side of one QUIC connection, sans-IO: driven with datagrams and the time, like aioquic's.

It begins without keys; the session installs them as the handshake produces them, tells what the peer's transport
parameters allow, and when the handshake is confirmed. Handlers of streams are called from ``tell`` only.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from ..errors import LocalError, PeerError

from .core cimport BIDI, CLOSING, DRAINING, RUNNING, TERMINATED, UNI
from .crypto cimport header_key, next_packet_key, packet_key
from .outlet cimport Outlet
from .path cimport MARKING, NOT_MARKING, SMALLEST_DATAGRAM, Path
from .port cimport DatagramPort
from .qlog cimport Qlog
from .receiving cimport TOO_EARLY
from .sending cimport ROOM
from .space cimport Space
from .stream cimport Stream, make_stream
from .wire cimport (
    ACK_FREQUENCY, APPLICATION_CLOSE, CONNECTION_CLOSE, DATAGRAM, DATAGRAM_LENGTH, IMMEDIATE_ACK, put_varint,
)
from .zero_rtt cimport ZeroRtt

cdef double NEVER = float("inf")
cdef enum:
    MOST_PACKETS = 64
    # Packets made at once: the other sessions of the event loop want their turn, too. As many as one call can send.
    MOST_EARLY = 32
    # Packets kept that came before their keys.
    LARGEST_EXTRA = 1024
    # Octets of an extension's frame, which has to fit into a packet of the smallest size beside an ACK.
    MOST_EXTRA = 256
    MOST_REASON = 200
    # Octets of a close's reason.

cdef uint8_t _scratch[ROOM]     # One packet at a time is made or read, and this is one thread's work.


cdef class Connection(ZeroRtt):
    # The handshake's side.

    def install_key(self, bint encrypts, int suite, bytes secret, int version):
        """A 1-RTT secret of one direction. version: the negotiated QUIC version."""
        self.version = version
        if encrypts:
            self.sending_early = False
            self.space.phase_began = self.space.sent.next
            self.send_key = packet_key(suite, secret, version, True)
            self.send_header_key = header_key(suite, secret, version)
        else:
            self.receive_key = packet_key(suite, secret, version, False)
            self.receive_header_key = header_key(suite, secret, version)
            self.next_receive_key = next_packet_key(self.receive_key, version)

    def set_peer(self, parameters, bytes cid, token):
        """What the peer's transport parameters allow, the connection ID to address it by, and that one's reset token."""
        cdef Space space = self.space
        cdef Path path = space.path
        cdef double timeout
        self.peer_max_data = parameters.initial_max_data
        self.peer_stream_windows[0] = parameters.initial_max_stream_data_bidi_local
        self.peer_stream_windows[1] = parameters.initial_max_stream_data_bidi_remote
        self.peer_stream_windows[2] = parameters.initial_max_stream_data_uni
        self.peer_ack_exponent = parameters.ack_delay_exponent
        self.peer_max_ack_delay = parameters.max_ack_delay
        if parameters.min_ack_delay is not None:
            self.peer_min_ack_delay = parameters.min_ack_delay
        self.peer_stays = parameters.disable_active_migration
        self.peer_cid_limit = max(2, parameters.active_connection_id_limit)
        self.peer_max_datagram = parameters.max_datagram_frame_size or 0
        timeout = parameters.max_idle_timeout
        if timeout and (not self.idle_timeout or timeout < self.idle_timeout):
            self.idle_timeout = timeout
        if parameters.max_udp_payload_size < path.mtu_limit:
            path.mtu_limit = parameters.max_udp_payload_size
            path.mtu_refused = path.mtu_limit + 1
        path.cid_length = <uint8_t>len(cid)
        memcpy(path.cid, <const char*>cid, len(cid))
        path.cid_sequence = 0
        space.peer_cids[0] = (cid, token)
        if parameters.preferred_address is not None:
            space.peer_cids[1] = (
                parameters.preferred_address.connection_id, parameters.preferred_address.stateless_reset_token
            )
        self._apply_windows()
        self.stream_limit_raised(BIDI, parameters.initial_max_streams_bidi)
        self.stream_limit_raised(UNI, parameters.initial_max_streams_uni)
        self.size_changed()

    def _apply_windows(self):
        cdef Stream stream
        for stream in self.streams.values():
            stream.limit_raised(self._peer_window(stream.number))

    cdef uint64_t _peer_window(self, uint64_t number):
        cdef bint local = (number & 1) == (0 if self.is_client else 1)
        if number & 2:
            return self.peer_stream_windows[2] if local else 0
        return self.peer_stream_windows[1] if local else self.peer_stream_windows[0]

    def set_route(self, route, bint validated):
        """Where the handshake has been seen to go."""
        cdef Path path = self.space.path
        path.route = route
        path.alias = path.destination = None
        path.validated = validated

    def set_rtt(self, double sample):
        """The handshake's round-trip time, s."""
        self.space.path.rtt.update(sample, 0.0)

    def confirm(self, double now):
        """The handshake is confirmed (RFC 9001 §4.1.2)."""
        self.confirmed = True
        self.issue_cids(self.space)

    def send_handshake_done(self):
        self.handshake_done_wanted = True

    def write_crypto(self, const uint8_t[::1] data not None):
        """TLS messages after the handshake: tickets."""
        if data.shape[0]:
            self.crypto_out.write(&data[0], <size_t>data.shape[0])

    # Driving.

    cdef int arrive(self, uint8_t* data, size_t size, object route, int ecn, double now) except -1:
        self.now = now
        try:
            if self.state != RUNNING or self.receive_key is None:
                self.receive((<const char*>data)[:size], route, now, ecn)
            else:
                self.receive_packet(data, size, route, ecn, now)
        except Exception as error:
            self.on_failure(error)
        if self.qlog is not None:
            _observe(self)
        return self.wake()

    def set_on_failure(self, on_failure):
        """on_failure(error): called when a packet from a socket has raised it, PeerError or another."""
        self.on_failure = on_failure

    def receive(self, bytes data not None, route, double now, int ecn=0):
        """A short-header packet. Raises PeerError when the peer has broken the protocol."""
        cdef size_t size = <size_t>len(data)
        cdef uint8_t* at
        cdef int outcome
        self.now = now
        if self.state != RUNNING:
            if self.state == CLOSING:
                # RFC 9000 §10.2.1: the close is repeated to a peer that goes on sending, less and less often.
                self.heard_since_close += 1
                if self.heard_since_close & (self.heard_since_close - 1) == 0:
                    self.close_pending = True
            return
        if size > ROOM:
            return
        # At the end, so that a sanitizer notices whoever reads beyond the packet.
        at = _scratch + ROOM - size
        memcpy(at, <const char*>data, size)
        outcome = self.receive_packet(at, size, route, ecn, now)
        if self.qlog is not None:
            _observe(self)
        if outcome == TOO_EARLY and len(self.early_packets) < MOST_EARLY:
            self.early_packets.append((data, route, now, ecn))

    def receive_early(self, double now):
        """What came before its keys."""
        cdef list packets
        if self.receive_key is not None and self.early_packets:
            packets, self.early_packets = self.early_packets, []
            for data, route, arrived, ecn in packets:
                self.receive(data, route, arrived, ecn)
            self.now = now

    def datagrams_to_send(self, double now):
        """What is to be sent now, as (datagram, route); at most 64, and then ``has_more`` may be true."""
        cdef list datagrams = []
        cdef Py_ssize_t size
        self.now = now
        while len(datagrams) < MOST_PACKETS:
            size = self.build(_scratch, now)
            if not size:
                break
            datagrams.append(((<const char*>_scratch)[:size], self.departing.route))
        if self.qlog is not None:
            _observe(self)
        return datagrams

    def send_into(self, Outlet outlet not None, double now):
        """The same, into an outlet. How many datagrams, at most 64; -1 when it is full."""
        cdef int count = 0
        cdef Py_ssize_t size
        cdef uint8_t* at
        self.now = now
        self.can_mark = True
        while count < MOST_PACKETS:
            at = outlet.room(self.space.path, max(self.space.path.mtu_limit, <uint32_t>SMALLEST_DATAGRAM))
            if at == NULL:
                return -1
            size = self.build(at, now)
            if not size:
                break
            outlet.commit(self.departing, <size_t>size, self.departing_ecn)
            count += 1
        if self.qlog is not None:
            _observe(self)
        return count

    def stay_awake(self):
        """Do not call ``waker`` until ``rest``."""
        self.awake = True

    def rest(self):
        """Call ``waker`` again when there is something new."""
        self.awake = False

    def next_timer(self):
        """When ``handle_timer`` is due, s; inf: not at all."""
        cdef double at
        cdef Space space
        if self.state != RUNNING:
            return self.close_at
        at = min(self.idle_at(), self.early_until)
        if self.send_key is not None:
            at = min(at, self.sending_timer())
            if self.port is not None:
                at = min(at, self.port.due())
            for space in self.spaces:
                at = min(at, self.recovery_timer(space))
        return at

    def handle_timer(self, double now):
        cdef Space space
        cdef Path path
        self.now = now
        if self.state != RUNNING:
            if now >= self.close_at:
                self.state = TERMINATED
            return
        if now >= self.idle_at():
            self.state = TERMINATED
            self.events.append(("idle",))
            return
        if now >= self.early_until:
            self.drop_early_key()
        if self.send_key is None:
            return
        if self.port is not None and now >= self.port.due():
            self.port.on_timer(now)
        for space in self.spaces:
            if now >= self.recovery_timer(space):
                self.on_recovery_timer(space, now)
                if self.qlog is not None:
                    _observe(self)
            for path in list(space.paths):
                if now >= path.give_up_at:
                    self._give_up(space, path, now)
                elif now >= path.challenge_again_at:
                    path.challenge_pending = True
                    path.challenge_again_at = now + self.challenge_interval()

    cdef double idle_at(self):
        cdef double least = 3.0 * self.pto()
        if not self.idle_timeout:
            return NEVER
        return self.idle_from + (self.idle_timeout if self.idle_timeout > least else least)

    def _give_up(self, Space space, Path path, double now):
        # RFC 9000 §8.2.4, §9.3.2: back to the last path that was validated, if there is one.
        cdef Path other
        cdef bint failed = path.challenged
        path.challenged = path.challenge_pending = False
        path.challenge_again_at = path.give_up_at = NEVER
        if path is not space.path:
            space.drop_path(path)
            if failed and path.chosen:
                self.events.append(("path", "lost", path.route, False))
            return
        for other in space.paths[1:]:
            if other.validated:
                self.use_path(space, other, now)
                space.drop_path(path)
                self.events.append(("path", "lost", path.route, False))
                return

    def migrate(self, route, bint preferred):
        """On a client, go to another pair of addresses once it has been shown to work (RFC 9000 §9.2), the peer's preferred
        address or a local one. False: not now, or not with this peer."""
        cdef Space space = self.space
        cdef Path path, other
        if not self.is_client or not self.confirmed or self.state != RUNNING or not space.path.cid_length:
            return False
        if self.peer_stays and not preferred:
            return False
        path = self.find_path(space, route)
        for other in space.paths[1:]:
            # Only the last wish counts. But where we have been, something may still come.
            if other.chosen and other is not path:
                if other.validated:
                    self.leave_path(other, self.now)
                else:
                    space.drop_path(other)
        if path is space.path:
            return False
        if path is None:
            path = self.add_path(space, route, self.now)
            if not space.take_peer_cid(path):
                space.drop_path(path)
                return False
        path.chosen = True
        if not path.challenged:
            self.validate(path, self.now)
            path.unasked = True             # That time may be long past.
            path.challenge_again_at = path.give_up_at = NEVER
        self.wake()
        return True

    # Streams.

    def open_stream(self, bint bidirectional, int priority):
        cdef int kind = BIDI if bidirectional else UNI
        cdef uint64_t number = self.opened[kind] << 2 | <uint64_t>kind << 1 | (0 if self.is_client else 1)
        cdef Stream stream = make_stream(
            self, number, True, <uint8_t>priority, self._peer_window(number), self.first_window
        )
        self.opened[kind] += 1
        self.streams[number] = stream
        return stream

    def streams_available(self, bint bidirectional):
        """Streams that the peer lets us open beyond those opened; negative: so many wait."""
        cdef int kind = BIDI if bidirectional else UNI
        return <object>self.peer_max_streams[kind] - <object>self.opened[kind]

    def tell(self, opened):
        """Make the callbacks of streams that are due; opened(stream) for the peer's new ones."""
        cdef list touched
        cdef Stream stream
        if self.port is not None and self.ended is None and self.port.has_words():
            self.port.tell()
        while self.touched_streams and self.ended is None:
            touched, self.touched_streams = self.touched_streams, []
            for stream in touched:
                if self.ended is not None:
                    return
                if stream.fresh:
                    stream.fresh = False
                    opened(stream)
                stream.tell()

    def end_streams(self, ended):
        """The session is over: ``connection_lost`` for every stream that is not."""
        cdef Stream stream
        self.ended = ended
        streams = list(self.streams.values())
        self.streams.clear()
        self.touched_streams.clear()
        self.datagrams.clear()
        self.datagrams_waiting = 0
        return streams

    # DATAGRAM frames.

    def send_datagram(self, bytes data not None, double now):
        """False when it is too large for the path or the peer."""
        if len(data) > self.max_datagram():
            return False
        if self.datagrams_waiting >= self.limits.datagram_queue:
            self.datagrams.popleft()
            self.datagrams_waiting -= 1
            self.counters.datagrams_dropped += 1
        self.datagrams.append((data, now))
        self.datagrams_waiting += 1
        self.wake()
        return True

    def set_port(self, DatagramPort port):
        """Take DATAGRAMs to be sent from port, and give those that come to it; None: from and to Python again."""
        self.port = port
        self.wake()

    def notice(self):
        """The port has something to send or to tell."""
        self.wake()

    @property
    def max_datagram_size(self):
        return self.max_datagram()

    # Frames of extensions.

    def register_frame(self, uint64_t kind, reader):
        """Take frames of a type that this engine does not know. reader(data): data begins behind the type and reaches to the
        packet's end; returns the frame's octets, negative when it is malformed, or raises PeerError. They elicit an ACK."""
        if kind <= IMMEDIATE_ACK or kind == DATAGRAM or kind == DATAGRAM_LENGTH or kind == ACK_FREQUENCY:
            raise LocalError(f"frames of type {kind:#x} are the engine's own")
        self.extra_readers[kind] = reader

    def send_frame(self, bytes frame not None, on_acked=None):
        """Send a frame of an extension, its type included, until it is acknowledged. Raises LocalError when it fits no
        packet, or too many wait."""
        if not 1 <= len(frame) <= LARGEST_EXTRA:
            raise LocalError(f"a frame has 1 to {LARGEST_EXTRA} octets, not {len(frame)}")
        if len(self.extra_sent) >= MOST_EXTRA:
            raise LocalError(f"{MOST_EXTRA} frames wait to be sent and acknowledged already")
        self.extra_sent[self.extra_next] = (frame, on_acked)
        self.extra_pending.append(self.extra_next)
        self.extra_next += 1
        self.wake()

    # Events and commands.

    def take_events(self):
        events, self.events = self.events, []
        return events

    @property
    def has_events(self):
        return bool(self.events) or bool(self.touched_streams) or self.port is not None and self.port.has_words()

    def send_probe(self):
        """A PING, whatever the congestion window says, and by itself: it must not be as large as the path may not carry."""
        self.space.lone_ping_wanted = True
        self.wake()

    def probe_with_handshake(self):
        """A probe timeout of the handshake's. There is none here before the handshake is confirmed (RFC 9002 §6.2.1), so
        that packets of both spaces go out again together (§6.2.4)."""
        self.send_oldest_again(self.space)
        self.wake()

    def update_keys(self):
        """Begin the next key phase (RFC 9001 §6) as soon as that is allowed."""
        self.update_wanted = True

    def lose_everything(self):
        """All that is under way counts as lost."""
        self.requeue_all(self.space)

    def close(self, uint64_t code, bint application, str reason, double now):
        """Send CONNECTION_CLOSE and go quiet. A second call does nothing."""
        cdef uint8_t frame[64]
        cdef uint8_t* at = frame
        cdef bytes text = reason.encode()[:MOST_REASON].decode(errors="ignore").encode()
        if self.state != RUNNING:
            return
        at[0] = APPLICATION_CLOSE if application else CONNECTION_CLOSE
        at = put_varint(at + 1, code)
        if not application:
            at = put_varint(at, 0)
        at = put_varint(at, <uint64_t>len(text))
        self.close_frame = (<const char*>frame)[:at - frame] + text
        self.state = CLOSING
        self.close_pending = True
        self.close_at = now + 3.0 * self.pto()
        self.wake()

    def drain(self, double now):
        """The peer has closed (RFC 9000 §10.2.2)."""
        if self.state == RUNNING or self.state == CLOSING:
            self.state = DRAINING
            self.close_at = now + 3.0 * self.pto()

    def discard(self):
        """Forget everything at once and send nothing more."""
        self.state = TERMINATED

    @property
    def is_terminated(self):
        return self.state == TERMINATED

    @property
    def any_acknowledged(self):
        """Whether the peer has acknowledged a packet."""
        return self.space.any_acked

    @property
    def is_running(self):
        return self.state == RUNNING

    @property
    def can_send(self):
        """Whether 1-RTT packets can be protected."""
        return self.send_key is not None and not self.sending_early

    @property
    def route(self):
        """Of the path in use."""
        return self.space.path.route

    @property
    def route_validated(self):
        return self.space.path.validated

    @property
    def spins(self):
        """Whether the path in use shows its RTT (RFC 9000 §17.4)."""
        return self.space.path.spins

    @property
    def last_heard(self):
        """When the last authentic packet came, s."""
        return self.heard_at

    @property
    def peer_reset_tokens(self):
        """Of the connection IDs in use (RFC 9000 §10.3.1)."""
        cdef Space space
        cdef Path path
        cdef set used
        cdef list tokens = []
        for space in self.spaces:
            used = {path.cid_sequence for path in space.paths if path.cid_length}
            tokens += [token for sequence, (_, token) in space.peer_cids.items() if token and sequence in used]
        return tokens

    def begin_log(self, Qlog log not None, double now):
        """Write what happens from now on into log, and how things stand."""
        self.now = now
        self.qlog = log
        log.record(
            "quic:recovery_parameters_set",
            {
                "reordering_threshold": self.space.packet_threshold, "time_threshold": 1.125, "timer_granularity": 1,
                "initial_rtt": 333.0, "max_datagram_size": self.space.path.mtu, "persistent_congestion_threshold": 3,
            },
            now,
        )
        if self.send_key is not None:
            log.keys_updated(self.counters.key_updates, "tls", now)
        _observe(self)

    @property
    def log(self):
        """The one that is written, None when there is none."""
        return self.qlog

    def end_log(self):
        """Write no more. The log, to be flushed; None when there was none."""
        log, self.qlog = self.qlog, None
        return log

    def counted(self):
        """How often what has happened, by name; sizes in octets."""
        return {
            **self.counters,
            "streams_opened": self.opened[BIDI] + self.opened[UNI],
            "streams_accepted": self.peer_opened[BIDI] + self.peer_opened[UNI],
        }

    def statistics(self):
        """The same, and how things stand now; times in s, sizes in octets."""
        path = self.space.path
        return {
            **self.counted(),
            "smoothed_rtt": path.rtt.smoothed,
            "minimum_rtt": path.rtt.minimum,
            "congestion_window": path.controller.window,
            "pacing_rate": path.pacer.rate,
            "bytes_in_flight": path.in_flight,
            "mtu": path.mtu,
            "congestion": path.controller.name,
            "ecn": path.marking == MARKING,
            "ack_threshold": self.ack_threshold,
            "ack_threshold_asked": self.threshold_asked,
            "ecn_state": "capable" if path.marking == MARKING else "failed" if path.marking == NOT_MARKING else "testing",
            "streams_open": len(self.streams),
            "stream_bytes_sent": self.data_sent,
            "stream_bytes_received": self.stream_bytes_received,
        }


cdef int _observe(Connection self) except -1:
    cdef const char* state = "handshake_confirmed" if self.confirmed else "handshake_complete"
    if self.state != RUNNING:
        state = "closing" if self.state == CLOSING else "draining" if self.state == DRAINING else "closed"
    cdef Space space = self.space
    return self.qlog.observe(space.path, space.sent.outstanding_eliciting, space.pto_count, state, self.now)
