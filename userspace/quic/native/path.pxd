"""A path: a carrier, a local and a remote address, and all that is known of the way between them."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from quicsocks.netstack.congestion cimport Controller, Pacer
from quicsocks.netstack.rtt cimport RttEstimator

cdef enum:
    SMALLEST_DATAGRAM = 1200    # octets that every QUIC path carries (RFC 9000 §14)
    SMALLEST_ALLOWANCE = 50     # octets that anti-amplification must leave for a packet to be of use: a PATH_CHALLENGE
                                # fits, and the smallest packet of the peer's, of 29, allows for one
    CHALLENGES = 8              # of the peer's that wait for an answer; older ones are dropped


cdef enum Marking:
    TRYING = 0          # the first packets are marked, to see whether the marks arrive
    MARKING = 1
    NOT_MARKING = 2     # they do not

cdef enum:
    TRIAL_MARKS = 10    # packets marked before any of them is acknowledged


cdef class Path:
    cdef readonly object route          # the adapter's name for it; paths are told apart by it
    cdef object alias                   # the same path as the adapter last named it
    cdef object destination             # for the outlet's own use
    cdef readonly uint32_t id
    cdef readonly RttEstimator rtt
    cdef readonly Controller controller
    cdef readonly Pacer pacer
    cdef readonly uint64_t in_flight    # octets
    cdef uint64_t controlled            # packets from this number on count for `controller`

    # ECN (RFC 9000 §13.4).
    cdef readonly int marking
    cdef uint64_t marks_sent            # packets sent with ECT(0)
    cdef uint64_t marks_lost

    # Validation (RFC 9000 §8).
    cdef readonly bint validated
    cdef readonly uint64_t received     # octets, until it is validated
    cdef readonly uint64_t sent
    cdef readonly bint chosen           # a client's, that has decided to go there: what it sends has no limit
    cdef double challenged_at           # when the first PATH_CHALLENGE was due
    cdef bint narrow                    # a PATH_CHALLENGE went in a datagram smaller than every path must carry
    cdef bint unasked                   # it is from when it is sent that time counts
    cdef uint64_t challenge             # what a PATH_RESPONSE must bring back; valid when `challenged`
    cdef bint challenged
    cdef bint challenge_pending         # PATH_CHALLENGE has to be sent
    cdef double challenge_again_at      # when it is sent again
    cdef double give_up_at              # when its validation has failed; of a path that waits: when it is forgotten
    cdef uint64_t responses[CHALLENGES]
    cdef int response_count

    # The connection ID by which the peer is addressed on it, none before it is needed, and the last that came on it.
    cdef uint8_t cid[20]
    cdef uint8_t cid_length
    cdef uint64_t cid_sequence
    cdef uint8_t heard_cid[20]
    cdef Path former                    # the one on which the peer used that before: this one is a NAT's doing

    # The latency spin bit (RFC 9000 §17.4).
    cdef readonly bint spins            # whether it shows the RTT; else it is a random one for each of the peer's IDs
    cdef bint spin                      # its value in packets sent
    cdef uint64_t spin_cid              # sequence number of the ID for which it was set

    # Size of datagrams (RFC 8899).
    cdef readonly uint32_t mtu          # octets of UDP payload that are known to pass
    cdef uint32_t mtu_limit             # never more
    cdef uint32_t mtu_refused           # this many are believed not to pass; mtu_limit + 1 before any was lost
    cdef uint32_t probe_size            # of the probe under way, 0: none
    cdef int probe_tries
    cdef double probe_at                # when the next probe may go
    cdef int large_lost                 # packets above the smallest size lost in a row, with none as large acknowledged
    cdef uint32_t large_smallest        # the smallest of them, octets
    cdef double large_lost_since

    cdef uint64_t allowance(self) noexcept          # octets that may be sent before it is validated
    cdef uint32_t next_probe(self, double now) noexcept     # its size, 0: none now
    cdef void probe_sent(self, uint32_t size) noexcept
    cdef bint probe_acked(self, uint32_t size, double now) noexcept     # whether mtu has changed
    cdef void probe_lost(self, uint32_t size, double now) noexcept
    cdef void large_packet_acked(self, uint32_t size) noexcept
    cdef bint large_packet_lost(self, uint32_t size, double now, double patience) noexcept     # whether mtu has changed
    cdef bint black_hole(self, double now) noexcept         # whether mtu has changed
    cdef int answer(self, uint64_t challenge) noexcept


cdef Path make_path(object route, uint32_t id, str congestion, uint32_t mtu_limit, double initial_rtt, double now)
