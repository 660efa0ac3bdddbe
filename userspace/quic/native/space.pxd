"""What a connection keeps for one path ID: packet numbers of both directions, acknowledgements, loss, connection IDs.

A connection has one space, of path ID 0, and every packet's number is of it (RFC 9000 §12.3). With
draft-ietf-quic-multipath it has one for each path ID. In a space are the pairs of addresses (``path``) among which that
path ID may migrate; one of them is in use.
"""

from libc.stdint cimport uint32_t, uint64_t

from quicsocks.netstack.ranges cimport RangeSet

from .path cimport Path
from .sent cimport SentPackets

cdef enum:
    LEFT_OUT = 8
    # Packet numbers left out that are remembered: those of two windows of a few thousand packets.


cdef class Space:
    cdef readonly uint32_t id           # path ID: part of the nonce (draft-ietf-quic-multipath §2.4)

    # Pairs of addresses: the first is the one in use.
    cdef list paths
    cdef Path path

    # Packets received.
    cdef RangeSet received
    cdef uint64_t received_floor        # all below counts as received before
    cdef uint64_t report_floor          # the peer knows of all below that we have received
    cdef uint64_t largest_received
    cdef bint any_received
    cdef double largest_received_at
    cdef uint32_t eliciting_unreported
    cdef bint ack_now
    cdef double ack_at
    cdef uint64_t marks[4]              # packets received by ECN codepoint
    cdef uint64_t largest_reported      # the largest packet number in an ACK frame of ours
    cdef bint marked_before             # whether the last packet came with CE
    cdef bint newly_marked              # and the one before it did not
    cdef uint64_t phase_received        # the lowest number received under the present key (RFC 9001 §6)
    cdef uint64_t early_stop            # above the largest number of a 0-RTT packet received
    cdef uint64_t one_rtt_from          # the smallest number of a 1-RTT packet received

    # Packets sent.
    cdef SentPackets sent
    cdef uint64_t oldest                # no packet below is outstanding
    cdef uint64_t largest_acked
    cdef bint any_acked
    cdef double last_eliciting_at
    cdef double loss_at
    cdef uint32_t pto_count
    cdef bint heard_since_pto           # an authentic packet has come since the last probe timeout
    cdef int probes_wanted              # packets that go whatever the congestion window says
    cdef bint ping_wanted
    cdef bint lone_ping_wanted          # in a packet of its own, whatever the congestion window says
    cdef uint32_t packet_threshold
    cdef uint64_t skip_at               # the next packet number to be left out
    cdef uint64_t left_out[LEFT_OUT]    # the last that were (RFC 9000 §21.4), a ring; none is 0
    cdef uint32_t left_out_count
    cdef uint32_t silent_packets        # without anything that elicits an ACK, in a row
    cdef uint64_t peer_ect0             # packets that the peer has reported to have come with ECT(0)
    cdef uint64_t peer_marks            # and with CE
    cdef uint64_t marks_sent            # packets sent with ECT(0), on all paths
    cdef uint64_t phase_began           # the first packet number sent under the present key
    cdef uint64_t refused_stop          # what was sent below was sent early, and has been rejected

    # Connection IDs (RFC 9000 §5.1).
    cdef dict own_cids                  # sequence number -> ID
    cdef uint64_t next_own_cid
    cdef list own_cids_pending          # sequence numbers to be sent
    cdef dict peer_cids                 # sequence number -> (ID, reset token), unused ones and those in use
    cdef uint64_t peer_cids_retired     # all below
    cdef list retire_pending
    cdef set retired_early              # sequence numbers at or above `peer_cids_retired` that we have given back

    cdef int take_peer_cid(self, Path path) except -1   # address the peer by another of its IDs there; 0: none left
    cdef int retire_peer_cid(self, uint64_t sequence) except -1
    cdef int drop_path(self, Path path) except -1       # forget it, and give back its connection ID
    cdef bint address_peer(self, Path path) except -1   # whether there is a connection ID to address the peer by there
    cdef Path path_of(self, uint32_t id)                # None when it is forgotten
    cdef bint agrees(self) noexcept                     # for assertions: what is counted is what the packets say
    cdef bint has_work(self) noexcept                   # frames of its own to send


# path: its first, which is in use. own_cid: of the sequence number 0. skip_at: the first packet number to be left out.
cdef Space make_space(uint32_t id, Path path, bytes own_cid, uint64_t skip_at)
