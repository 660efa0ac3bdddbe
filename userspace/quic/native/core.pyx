"""State, streams, flow control, connection IDs and paths. Read ``core.pxd`` and RFC 9000 §2 to §5 first."""

from collections import deque

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from quicsocks.netstack.mixing cimport next_chance
from quicsocks.netstack.receive_buffer cimport ReceiveBuffer
from quicsocks.netstack.send_buffer cimport SendBuffer

from ..errors import PeerError

from .path cimport Path, make_path
from .space cimport Space, make_space
from .stream cimport Owner, ReadyQueue, Stream, make_stream
from .wire cimport STREAM_LIMIT_ERROR, STREAM_STATE_ERROR

cdef double NEVER = float("inf")
cdef uint64_t UNKNOWN = <uint64_t>0xffffffffffffffff
cdef double GRANULARITY = 0.001     # RFC 9002 §6.1.2
cdef enum:
    FIRST_SKIP = 256
    # A packet number is left out now and then, so that a peer that acknowledges what it has not seen is found out.
    OWN_CIDS = 4
    # Connection IDs that the peer may have of us: one in use, one for a path that it validates, and two to spare.
    MOST_PATHS = 4
    # Paths remembered: the one in use, and those that are being validated.
    SMALLEST_HIGH_WATER = 16 << 10
    # Unsent octets that every stream may have, however many there are: a dozen packets.
    BUSY_SEND_BUFFER = 1 << 20
    # Unsent octets of all streams that have some: what a core's cache holds. They are read again when they are sent.


cdef double INITIAL_RTT = 0.333     # RFC 9002 §6.2.2
cdef double LEAST_CHALLENGE_INTERVAL = 0.1
# Seconds: so that a path that carries nothing is not asked more than thirty times (RFC 9000 §8.2.1).


cdef double _patience(Core self) noexcept:
    # Seconds that a path has to answer (RFC 9000 §8.2.4), and that one no longer used is kept.
    return 3.0 * max(self.pto(), 3.0 * INITIAL_RTT)


cdef class Core(Owner):
    """limits: types.Limits. random_bytes(n): unpredictable octets. new_cid(): another connection ID of ours.
    reset_token(cid): its stateless reset token. own_cid: the one of the handshake. route: the adapter's name for the
    first path. waker(): called when there is something to send or to tell. now: s, on the clock of all calls.
    preferred_cid: of a server's preferred address, which comes before all others (RFC 9000 §5.1.1); empty: it has none.
    spin_bit: let observers measure the RTT (RFC 9000 §17.4), on 15 of 16 paths."""

    def __init__(
        self, *, bint is_client, limits, random_bytes, new_cid, reset_token, waker, bytes own_cid, route, double now,
        bytes preferred_cid=b"", bint spin_bit=False
    ):
        cdef int kind
        cdef bytes seed = random_bytes(16)
        cdef Space space
        cdef Path path
        self.is_client = is_client
        self.limits = limits
        self.now = now
        self.events = []
        self.waker = waker
        for kind in range(2):
            self._chance[kind] = int.from_bytes(seed[8 * kind:8 * kind + 8], "little") | 1
        self.spin_bit = spin_bit
        self.spin_seed = self._chance[0] ^ self._chance[1] << 1
        self.version = 1
        self.early_until = NEVER
        self.pacing_at = self.close_at = NEVER
        self.max_ack_delay = 0.025
        self.peer_max_ack_delay = 0.025
        self.peer_min_ack_delay = -1.0
        self.ack_threshold = self.threshold_asked = 1
        self.reordering_threshold = 1
        self.peer_ack_exponent = 3
        self.congestion = limits.congestion
        path = make_path(route, 0, self.congestion, limits.max_udp_payload, INITIAL_RTT, now)
        path.validated = True
        memcpy(path.heard_cid, <const char*>own_cid, <size_t>min(len(own_cid), 20))
        self.space = space = make_space(0, path, own_cid, FIRST_SKIP + self.chance() % FIRST_SKIP)
        self.spaces = [space]
        self.next_path_id = 1
        self.random_bytes = random_bytes
        self.new_cid = new_cid
        self.reset_token = reset_token
        self.own_cid_length = <int>len(own_cid)
        if preferred_cid:
            space.own_cids[1] = preferred_cid
            space.next_own_cid = 2
        self.peer_cid_limit = 2
        self.streams = {}
        self.max_streams[BIDI] = self.max_streams_sent[BIDI] = limits.max_streams_bidi
        self.max_streams[UNI] = self.max_streams_sent[UNI] = limits.max_streams_uni
        self.first_window = min(limits.initial_stream_window, limits.stream_window)
        self.ready = tuple(ReadyQueue() for _ in range(PRIORITIES))
        self.credit_blocked = []
        self.announcing = []
        self.touched_streams = []
        self.session_window = self.max_data = self.max_data_sent = limits.session_window
        self.crypto_out = SendBuffer()
        self.crypto_in = ReceiveBuffer()
        self.datagrams = deque()
        self.extra_readers = {}
        self.extra_pending = []
        self.extra_sent = {}
        self.idle_timeout = limits.idle_timeout
        self.heard_at = self.idle_from = now
        self.early_packets = []

    cdef int wake(self) except -1:
        if not self.awake:
            self.awake = True
            self.waker()
        return 0

    cdef uint64_t chance(self) noexcept:
        return next_chance(self._chance)    # What an observer may guess without harm.

    cdef double pto_on(self, Path path) noexcept:
        return path.rtt.timeout(GRANULARITY) + self.peer_max_ack_delay

    cdef double pto(self) noexcept:
        cdef double longest = 0.0
        cdef Space space
        for space in self.spaces:
            longest = max(longest, self.pto_on(space.path))
        return longest

    cdef int begin_phase(self) noexcept:
        cdef Space space
        self.key_phase = not self.key_phase
        self.phase_acked = False
        self.counters.key_updates += 1
        for space in self.spaces:
            space.phase_began = space.sent.next
            space.phase_received = UNKNOWN
        return 0

    cdef bint phase_used(self) noexcept:
        cdef Space space
        for space in self.spaces:
            if space.sent.next != space.phase_began:
                return True
        return False

    # What streams ask of their owner.

    cdef int activate(self, Stream stream) except -1:
        cdef int kind
        if stream.queued or stream.over:
            return 0
        kind = <int>(stream.number >> 1 & 1)
        if stream.local and stream.number >> 2 >= self.peer_max_streams[kind]:
            self.streams_blocked_pending[kind] = True
            return 0    # It waits for MAX_STREAMS.
        (<ReadyQueue>self.ready[stream.priority]).push(stream)
        return self.wake()

    cdef int touch(self, Stream stream) except -1:
        if not stream.touched and not stream.over:
            stream.touched = True
            self.touched_streams.append(stream)
            return self.wake()
        return 0

    cdef int announce(self, Stream stream) except -1:
        if stream.announced or stream.over:
            return 0
        if stream.local and stream.number >> 2 >= self.peer_max_streams[stream.number >> 1 & 1]:
            return 0
        stream.announced = True
        self.announcing.append(stream)
        return self.wake()

    cdef int credit(self, uint64_t size) except -1:
        self.consumed += size
        assert self.consumed <= self.data_received
        if self.consumed + self.session_window >= self.max_data + (self.session_window >> 2):
            self.max_data = self.consumed + self.session_window
            self.max_data_pending = True
            return self.wake()
        return 0

    cdef uint64_t window_for(self, uint64_t wanted) noexcept:
        # A quarter of what the session has left, and no less than it began with: stalled flows leave room for others.
        cdef uint64_t unconsumed = self.data_received - self.consumed
        cdef uint64_t left = self.session_window - unconsumed if unconsumed < self.session_window else 0
        cdef uint64_t most = left >> 2 if left >> 2 > self.first_window else self.first_window
        return wanted if wanted < most else most

    cdef uint64_t high_water(self) noexcept:
        cdef uint64_t count = <uint64_t>len(self.streams)
        cdef uint64_t share = <uint64_t>self.limits.session_send_buffer // (count if count else 1)
        cdef uint64_t most = <uint64_t>self.limits.send_high_water
        cdef uint64_t busy = 0
        cdef ReadyQueue queue
        for queue in self.ready:
            busy += queue.count
        if busy and share > BUSY_SEND_BUFFER // busy:
            share = BUSY_SEND_BUFFER // busy
        if share < SMALLEST_HIGH_WATER:
            share = SMALLEST_HIGH_WATER
        return share if share < most else most

    cdef double round_trip(self) noexcept:
        return self.space.path.rtt.smoothed

    cdef int forget(self, Stream stream) except -1:
        cdef int kind = <int>(stream.number >> 1 & 1)
        self.streams.pop(stream.number, None)
        assert self.streams or not self.ranges_waiting
        if self.last_stream is stream:
            self.last_stream = None
        if not stream.local:
            self.max_streams[kind] += 1
            return self.renew_streams(kind)
        return 0

    cdef int renew_streams(self, int kind) except -1:
        # MAX_STREAMS waits until it gives the peer more streams than it has left to open.
        if self.max_streams[kind] - self.max_streams_sent[kind] > \
                self.max_streams_sent[kind] - self.peer_opened[kind]:
            self.max_streams_pending[kind] = True
            return self.wake()
        return 0

    # Streams.

    cdef Stream peer_stream(self, uint64_t number, bint receiving):
        cdef Stream stream = self.last_stream
        cdef int kind = <int>(number >> 1 & 1)
        cdef bint local = (number & 1) == (0 if self.is_client else 1)
        cdef uint64_t index = number >> 2
        cdef uint64_t window
        if stream is not None and stream.number == number:
            if receiving and not stream.can_receive or not receiving and not stream.can_send:
                raise PeerError("a frame for the other direction of a one-way stream", STREAM_STATE_ERROR)
            return stream
        if kind == UNI and receiving == local:
            raise PeerError("a frame for the other direction of a one-way stream", STREAM_STATE_ERROR)
        if local:
            if index >= self.opened[kind]:
                raise PeerError("a frame for a stream that we have not opened", STREAM_STATE_ERROR)
        elif index >= self.peer_opened[kind]:
            if index >= self.max_streams_sent[kind]:
                raise PeerError("more streams than allowed", STREAM_LIMIT_ERROR)
            window = self.peer_stream_windows[0] if kind == BIDI else 0
            while self.peer_opened[kind] <= index:
                # Streams are opened in order (RFC 9000 §2.1), so that this one opens those before it.
                stream = make_stream(
                    self, self.peer_opened[kind] << 2 | kind << 1 | (1 if self.is_client else 0), False, 2, window,
                    self.first_window,
                )
                self.streams[stream.number] = stream
                self.peer_opened[kind] += 1
                self.touch(stream)
            self.last_stream = stream
            self.renew_streams(kind)
            return stream
        stream = self.streams.get(number)
        if stream is not None:
            self.last_stream = stream
        return stream

    cdef int stream_limit_raised(self, int kind, uint64_t limit) except -1:
        cdef uint64_t index = self.peer_max_streams[kind]
        cdef Stream stream
        if limit <= index:
            return 0
        self.peer_max_streams[kind] = limit
        while index < limit and index < self.opened[kind]:
            stream = self.streams.get(index << 2 | kind << 1 | (0 if self.is_client else 1))
            if stream is not None:
                if stream.has_work(1) or stream.reset_pending:
                    self.activate(stream)
                if stream.stop_pending or stream.limit_pending:
                    self.announce(stream)
            index += 1
        return 0

    cdef int data_limit_raised(self, uint64_t limit) except -1:
        cdef list blocked
        cdef Stream stream
        if limit <= self.peer_max_data:
            return 0
        self.peer_max_data = limit
        self.data_blocked_told = False
        if self.credit_blocked:
            blocked, self.credit_blocked = self.credit_blocked, []
            for stream in blocked:
                stream.waits_for_credit = False
                self.activate(stream)
        return 0

    cdef bint any_ready(self) noexcept:
        cdef ReadyQueue queue
        for queue in self.ready:
            if queue.first is not None:
                return True
        return False

    cdef Space space_of(self, uint64_t path_id):
        cdef Space space
        for space in self.spaces:
            if space.id == path_id:
                return space
        return None

    # Connection IDs (RFC 9000 §5.1).

    cdef int issue_cids(self, Space space) except -1:
        while len(space.own_cids) < min(OWN_CIDS, self.peer_cid_limit):
            space.own_cids[space.next_own_cid] = self.new_cid()
            space.own_cids_pending.append(space.next_own_cid)
            space.next_own_cid += 1
        return 0

    # Paths (RFC 9000 §9).

    cdef Path find_path(self, Space space, object route):
        cdef Path path
        for path in space.paths:
            # A client's wildcard socket may know its own address better than when it dialled.
            if path.route == route or (
                self.is_client and path.route.remote == route.remote and path.route.socket == route.socket
            ):
                path.alias = route
                return path
        return None

    cdef Path add_path(self, Space space, object route, double now):
        # RFC 9000 §9.4: what is known of the path in use holds only where a NAT has chosen another port.
        cdef bint same_host = not self.is_client and route.remote[0] == space.path.route.remote[0] \
            and route.local == space.path.route.local
        cdef Path path = make_path(
            route, self.next_path_id, self.congestion, space.path.mtu_limit,
            space.path.rtt.smoothed if same_host else INITIAL_RTT, now
        )
        cdef Path other, victim = None
        if len(space.paths) >= MOST_PATHS:
            # Who makes up addresses must not make us forget the one that is known to be right.
            for other in space.paths[1:]:
                if victim is None or victim.validated or not other.validated:
                    victim = other
            space.drop_path(victim)
        self.next_path_id += 1
        space.paths.append(path)
        return path

    cdef int validate(self, Path path, double now) except -1:
        # RFC 9000 §8.2: challenge it, and again until there is an answer or it is given up.
        path.challenge = int.from_bytes(self.random_bytes(8), "big")
        path.challenged = path.challenge_pending = True
        path.narrow = False
        return self.start_patience(path, now)

    cdef int start_patience(self, Path path, double now) except -1:
        path.challenged_at = now
        path.challenge_again_at = now + self.challenge_interval()
        path.give_up_at = now + _patience(self)
        return 0

    cdef double challenge_interval(self) noexcept:
        return max(self.pto(), LEAST_CHALLENGE_INTERVAL)

    cdef int use_path(self, Space space, Path path, double now) except -1:
        cdef Path former = space.path
        if path is former or not space.address_peer(path):
            return 0
        space.path = path
        path.controlled = space.sent.next
        space.paths.remove(path)
        space.paths.insert(0, path)
        if not path.challenged:
            path.give_up_at = NEVER
        if self.is_client and path.route.remote != former.route.remote:
            self.peer_stays = False     # That was said of the address of the handshake only (RFC 9000 §18.2).
        if not former.challenged:
            if self.is_client:
                self.leave_path(former, now)
            else:
                self.validate(former, now)  # RFC 9000 §9.3.3: somebody may have sent on what the peer sent there.
        space.loss_at = NEVER
        space.pto_count = 0
        self.events.append(("path", "added", path.route, path.validated))
        return self.size_changed()

    cdef int leave_path(self, Path path, double now) except -1:
        # What the peer has sent before it saw us move comes there.
        path.chosen = path.challenged = path.challenge_pending = path.unasked = False
        path.challenge_again_at = NEVER
        path.give_up_at = now + _patience(self)
        return 0

    cdef int path_validated(self, Space space, Path path, double now) except -1:
        path.challenged = path.challenge_pending = False
        path.challenge_again_at = NEVER
        # What the peer does not use after all is forgotten, and its connection ID given back.
        path.give_up_at = NEVER if path is space.path else now + _patience(self)
        if not path.rtt.sampled and now > path.challenged_at:
            # RFC 9002 §6.2.2: to begin with, not a sample.
            path.rtt.reset(now - path.challenged_at)
        if path.narrow:
            # RFC 9000 §8.2.1: it answers; whether it carries what every path must is the next question.
            self.validate(path, now)
        if path.validated and not path.chosen:
            return 0
        path.validated = True
        if path.chosen:
            path.chosen = False
            self.use_path(space, path, now)
            # The peer follows the first packet that does more than probe (RFC 9000 §9.2).
            space.ping_wanted = True
            space.probes_wanted = max(space.probes_wanted, 1)
        self.events.append(("path", "validated", path.route, True))
        return self.size_changed()

    cdef uint32_t max_datagram(self) noexcept:
        # Short header: 1 + connection ID + up to 4 octets of number; tag 16; frame type 1 and length 2.
        cdef Path path = self.space.path
        cdef uint32_t overhead = 1 + path.cid_length + 4 + 16 + 3
        cdef uint64_t room = path.mtu - overhead
        if self.peer_max_datagram <= 3:
            return 0
        return <uint32_t>(room if room < self.peer_max_datagram - 3 else self.peer_max_datagram - 3)

    cdef int size_changed(self) except -1:
        if self.max_datagram() != self.datagram_size_told:
            self.datagram_size_told = self.max_datagram()
            self.events.append(("datagram_size",))
        return 0

