"""Read ``space.pxd`` first."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from quicsocks.netstack.ranges cimport RangeSet

from ..errors import PeerError

from .path cimport Path
from .sent cimport OUTSTANDING, SentPacket, SentPackets
from .wire cimport CONNECTION_ID_LIMIT_ERROR

cdef double NEVER = float("inf")
cdef enum:
    FIRST_THRESHOLD = 3     # packets (RFC 9002 §6.1.1)
    MOST_RETIRED = 64
    # RETIRE_CONNECTION_ID frames that wait to be sent (RFC 9000 §5.1.2: a limit there must be).


cdef Space make_space(uint32_t id, Path path, bytes own_cid, uint64_t skip_at):
    cdef Space space = Space.__new__(Space)
    space.id = id
    space.path = path
    space.paths = [path]
    space.received = RangeSet()
    space.sent = SentPackets()
    space.ack_at = space.loss_at = NEVER
    space.packet_threshold = FIRST_THRESHOLD
    space.skip_at = skip_at
    space.one_rtt_from = <uint64_t>0xffffffffffffffff
    space.own_cids = {0: own_cid}
    space.next_own_cid = 1
    space.own_cids_pending = []
    space.peer_cids = {}
    space.retire_pending = []
    space.retired_early = set()
    return space


cdef class Space:
    cdef int take_peer_cid(self, Path path) except -1:
        cdef bytes cid
        cdef uint64_t sequence
        cdef set used = {(<Path>other).cid_sequence for other in self.paths if other is not path}
        for sequence in sorted(self.peer_cids):
            if sequence not in used and (sequence != path.cid_sequence or not path.cid_length):
                cid = self.peer_cids[sequence][0]
                path.cid_length = <uint8_t>len(cid)
                path.cid_sequence = sequence
                memcpy(path.cid, <const uint8_t*><const char*>cid, len(cid))
                return 1
        return 0

    cdef int retire_peer_cid(self, uint64_t sequence) except -1:
        self.peer_cids.pop(sequence, None)
        if len(self.retire_pending) >= MOST_RETIRED:
            raise PeerError("too many connection IDs to retire", CONNECTION_ID_LIMIT_ERROR)
        self.retire_pending.append(sequence)
        if sequence >= self.peer_cids_retired:
            self.retired_early.add(sequence)
        return 0

    cdef bint address_peer(self, Path path) except -1:
        # RFC 9000 §9.5: a connection ID for each pair of addresses, lest whoever watches both follow the peer. Where only
        # a NAT has changed its mind, they can anyway: the same one does, and others are not used up.
        cdef Path former = path.former
        if path.cid_length or not self.path.cid_length:
            return True
        path.former = None
        if former is not None and former.cid_length and former.cid_sequence in self.peer_cids:
            path.cid_length = former.cid_length
            path.cid_sequence = former.cid_sequence
            memcpy(path.cid, former.cid, former.cid_length)
            return True
        return self.take_peer_cid(path)

    cdef int drop_path(self, Path path) except -1:
        cdef Path other
        self.paths.remove(path)
        if path.cid_length and path.cid_sequence in self.peer_cids:
            for other in self.paths:
                if other.cid_length and other.cid_sequence == path.cid_sequence:
                    return 0
            self.retire_peer_cid(path.cid_sequence)
        return 0

    cdef Path path_of(self, uint32_t id):
        cdef Path path
        if id == self.path.id:
            return self.path
        for path in self.paths:
            if path.id == id:
                return path
        return None

    cdef bint has_work(self) noexcept:
        return (
            self.ping_wanted or self.path.challenge_pending or self.path.response_count != 0
            or len(self.own_cids_pending) != 0 or len(self.retire_pending) != 0
        )

    cdef bint agrees(self) noexcept:
        # And none is outstanding below `oldest`.
        cdef uint64_t number, in_flight, eliciting = 0
        cdef SentPacket* packet
        cdef Path path
        for path in self.paths:
            in_flight = 0
            for number in range(self.sent.first, self.sent.next):
                packet = self.sent.get(number)
                if packet.state == OUTSTANDING and packet.in_flight and packet.path == path.id:
                    in_flight += packet.sample.size
            if in_flight != path.in_flight:
                return False
        for number in range(self.sent.first, self.sent.next):
            packet = self.sent.get(number)
            if packet.state == OUTSTANDING:
                eliciting += packet.ack_eliciting
                if number < self.oldest:
                    return False
        return eliciting == self.sent.outstanding_eliciting
