"""A connection's state: what RFC 9293 §3.3.1 calls the transmission control block, and what its layers add."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from ..congestion cimport Controller, Pacer
from ..receive_buffer cimport ReceiveBuffer
from ..rtt cimport RttEstimator
from ..send_buffer cimport SendBuffer
from .endpoint cimport Endpoint
from .header cimport Header
from .segments cimport Segments

cdef enum State:
    # RFC 9293 §3.3.2. LISTEN and TIME-WAIT are endpoints of their own.
    CLOSED = 0
    SYN_SENT = 1
    SYN_RECEIVED = 2
    ESTABLISHED = 3
    FIN_WAIT_1 = 4
    FIN_WAIT_2 = 5
    CLOSE_WAIT = 6
    CLOSING = 7
    LAST_ACK = 8
    TIME_WAIT = 9

cdef enum Repair:
    # How losses are being repaired (RFC 5681 §3.2, RFC 6298 §5).
    OPEN = 0
    RECOVERY = 1
    LOSS = 2            # behind a timeout

cdef enum Probing:
    # What is to be sent whatever the congestion window says.
    NO_PROBE = 0
    TAIL_PROBE = 1      # RFC 8985 §7
    WINDOW_PROBE = 2    # RFC 9293 §3.8.6.1
    ALIVE_PROBE = 3     # RFC 9293 §3.8.4

cdef struct Traffic:
    # Counters of one connection.
    uint64_t segments_sent
    uint64_t segments_received
    uint64_t octets_sent            # once each
    uint64_t octets_received        # in order, once each
    uint64_t segments_resent
    uint64_t octets_resent
    uint64_t timeouts
    uint64_t tail_probes
    uint64_t window_probes
    uint64_t recoveries
    uint64_t undone                 # reductions that were a mistake
    uint64_t duplicates_told        # D-SACKs received
    uint64_t out_of_order           # segments received before those in front of them
    uint64_t duplicates             # segments received again
    uint64_t challenges             # ACKs sent in answer to what was not acceptable
    uint64_t stale                  # dropped by PAWS
    uint64_t marks                  # ECN-Echo that counted
    uint64_t mtu_probes
    uint64_t mtu_probes_lost
    uint64_t acks_sent              # segments without data


cdef class Core(Endpoint):
    cdef State stage
    cdef Endpoint listener           # while the handshake is under way
    cdef bint passive               # the peer began (RFC 9293 MUST-11)
    cdef bint over                  # nothing more is done or told
    cdef Traffic traffic

    # Of all segments.
    cdef uint64_t pseudo            # sum of the pseudo-header for a size of 0
    cdef uint16_t ip_id
    cdef uint32_t overhead          # octets of an IP header and a plain TCP header

    # What was agreed in the handshake.
    cdef bint stamping              # RFC 7323 timestamps
    cdef bint sacking
    cdef bint scaling
    cdef bint ecn
    cdef int snd_scale              # shift of windows that the peer tells
    cdef int rcv_scale
    cdef uint32_t peer_mss          # octets (RFC 9293 §3.7.1: without options)

    # Sending. Offsets: octet 0 is behind the SYN; the FIN counts.
    cdef SendBuffer out
    cdef Segments segments
    cdef uint32_t iss
    cdef int64_t snd_una
    cdef int64_t snd_nxt
    cdef int64_t snd_wnd            # octets from snd_una on
    cdef int64_t snd_wl1            # of the peer's stream
    cdef int64_t snd_wl2
    cdef int64_t max_snd_wnd
    cdef bint fin_sent
    cdef bint fin_acked
    cdef bint nagle
    cdef int64_t small_sent         # end of the last segment that was not full (Minshall)
    cdef uint32_t mtu               # octets of a packet that is believed to pass
    cdef uint32_t mss               # octets of data in a full segment without options but timestamps
    cdef bint syn_wanted            # SYN or SYN-ACK is to be sent
    cdef uint32_t syn_sent          # times
    cdef double syn_at              # s, first
    cdef double syn_last_at
    cdef Probing probing

    # Receiving.
    cdef ReceiveBuffer into
    cdef uint32_t irs
    cdef int64_t rcv_nxt
    cdef int64_t rcv_edge           # right edge of the window that was told
    cdef int64_t last_ack_sent
    cdef bint fin_received
    cdef uint64_t window            # octets that may be unconsumed
    cdef uint64_t window_used       # consumed since it began or grew
    cdef double window_began
    cdef uint64_t delivered         # given to the handler, or dropped
    cdef uint64_t consumed_to
    cdef bint released              # nobody wants what comes
    cdef uint32_t rcv_mss           # octets of the largest segment lately
    cdef bint ack_now
    cdef double ack_at
    cdef uint32_t unacked           # segments with data received since the last ACK
    cdef uint32_t quick             # ACKs still to be sent at once
    cdef int64_t recent[4]          # offsets in what waits out of order, latest first; -1: none
    cdef int64_t dup_start          # to be told as D-SACK; -1: nothing
    cdef int64_t dup_stop
    cdef bint echo_ce               # ECN-Echo until CWR
    cdef bint cwr_wanted

    # Timestamps (RFC 7323 §4).
    cdef uint32_t ts_offset
    cdef uint32_t ts_recent
    cdef double ts_recent_at

    # Loss and round trips.
    cdef RttEstimator rtt
    cdef Controller controller
    cdef Pacer pacer
    cdef bint reducing              # PRR spreads the reductions of this controller
    cdef Repair repair
    cdef int64_t recovery_point     # RFC 6675
    cdef uint64_t cwnd              # octets, what PRR leaves in RECOVERY
    cdef uint64_t prr_delivered
    cdef uint64_t prr_out
    cdef uint64_t recover_fs
    cdef uint64_t ssthresh
    cdef uint32_t dupacks
    cdef uint64_t dup_octets        # believed delivered, without SACK
    cdef uint32_t backoff           # timeouts in a row
    cdef double stuck_since         # s, when what is oldest was first sent again; NEVER: not stuck
    cdef double heard_at            # s, last segment of the peer
    cdef double sent_at             # s, last data
    cdef bint frto                  # the last timeout may have been a mistake (RFC 5682)
    cdef bint frto_probed           # new segments are sent instead of old ones, to tell
    cdef int frto_credit            # of them
    # RACK (RFC 8985 §6.1).
    cdef uint64_t rack_order        # of the latest-sent segment that is known to be delivered, plus 1
    cdef double rack_rtt
    cdef double rack_sent_at
    cdef int64_t rack_fack          # highest offset delivered
    cdef bint reordering_seen
    cdef uint32_t reo_wnd_mult
    cdef int64_t reo_round          # end of the round in which a D-SACK has counted; -1: none
    cdef uint32_t reo_persist
    # TLP (RFC 8985 §7.1).
    cdef int64_t tlp_end            # -1: none outstanding
    cdef bint tlp_is_retrans
    cdef double tlp_sent_at
    # Undo.
    cdef bint undo_possible
    cdef int64_t undo_resent        # retransmissions since, less what D-SACKs have told of
    cdef bint undo_any
    cdef uint32_t undo_stamp        # of the first retransmission
    cdef bint undo_stamped
    cdef int64_t ecn_point          # no other cut before this is acknowledged

    # Timers, s; NEVER: not running.
    cdef double rto_at              # retransmission, of the SYN too
    cdef double tlp_at
    cdef double reorder_at          # RACK's
    cdef double persist_at
    cdef double pacing_at
    cdef double alive_at            # keep-alive
    cdef double life_at             # handshake, FIN-WAIT-2
    cdef uint32_t persists
    cdef uint32_t alive_probes
    cdef double user_timeout
    cdef double keepalive
    cdef int challenge_budget
    cdef double challenge_from
    cdef object soft_error          # (kind, code) of the last ICMP error that was not fatal

    # Path MTU (mtu.pyx).
    cdef uint32_t mtu_floor         # passes
    cdef uint32_t mtu_ceiling       # does not, or is not known to; 0: no search
    cdef double mtu_raise_at
    cdef int mtu_losses
    cdef bint mtu_probe_out         # a probe is in flight

    cdef int begin(self, double now) except -1              # fields that are not 0 at first
    cdef double rto(self) noexcept
    cdef uint32_t stamp_of(self, double now) noexcept
    cdef uint32_t snd_wire(self, int64_t offset) noexcept
    cdef uint32_t rcv_wire(self, int64_t offset) noexcept
    cdef int rearm(self) except -1
    cdef int set_mtu(self, uint32_t mtu, double now) except -1
    cdef int agree(self, const Header* header, double now) except -1     # options of the peer's SYN
    cdef int establish(self, double now) except -1
    cdef int challenge(self, double now) except -1          # an ACK in answer, unless there were too many
    cdef uint32_t window_to_tell(self, bint syn) noexcept   # for the next segment, as on the wire
    cdef bint may_send_data(self) noexcept
    # Upper layers'.
    cdef int abort(self, object end, double now) except -1  # RST, and over
    cdef int end(self, object ended) except -1              # over, without a word to the peer
    cdef int ended_with(self, object ended) except -1       # called once, by `end`
    cdef int mtu_probe_lost(self, uint32_t size, double now) except -1
    cdef int suspect_black_hole(self, double now) except -1
    cdef int finish_off(self, double now) except -1         # both directions are over
    cdef int arrivals_changed(self) except -1               # there is something to tell
    cdef int sendings_changed(self) except -1


cdef object reason_of(str end, object error)    # types.Ended; error: (kind, code) or None
