"""What has been sent and not yet been acknowledged or given up: packets, and the frames in them (RFC 9002 §A.1)."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from quicsocks.netstack.congestion cimport PacketSample

cdef enum PacketState:
    NEVER_SENT = 0      # a packet number that was skipped
    OUTSTANDING = 1
    ACKNOWLEDGED = 2
    LOST = 3            # kept for a while, so that a late acknowledgement is known for what it is

cdef struct SentFrame:
    uint64_t id         # stream ID, sequence number or limit: what `kind` says
    uint64_t offset     # of ACK and connection IDs: the path ID whose they are
    uint32_t size
    uint8_t kind        # a frame type, without flags
    uint8_t fin

cdef struct SentPacket:
    PacketSample sample
    uint64_t frames         # index of the first of its frames
    uint32_t frame_count
    uint32_t path           # ID of the path on which it was sent
    uint8_t state
    uint8_t ack_eliciting
    uint8_t in_flight       # counts for congestion control
    uint8_t marked          # ECT(0) (RFC 9000 §13.4)
    uint8_t probe           # of the path's MTU: its loss is no sign of congestion (RFC 9000 §14.4)


cdef class SentPackets:
    # A ring of packets by number and a ring of frames by a running index; both grow when they are full.
    cdef SentPacket* _packets
    cdef uint64_t _packet_mask
    cdef SentFrame* _frames
    cdef uint64_t _frame_mask
    cdef uint64_t _first_frame
    cdef uint64_t _next_frame
    cdef readonly uint64_t first    # the lowest number that is kept
    cdef readonly uint64_t next     # the next number to be used
    cdef readonly uint64_t outstanding_eliciting

    # The next packet's record, to be filled; its number is `next`. Frames are added before `commit`.
    cdef SentPacket* begin(self) except NULL
    cdef int add_frame(self, uint8_t kind, uint64_t id, uint64_t offset, uint32_t size, bint fin) except -1
    cdef void commit(self) noexcept
    cdef void abandon(self) noexcept        # nothing was sent after all
    cdef int skip(self) except -1           # leave a number out (RFC 9000 §21.4)
    cdef SentPacket* get(self, uint64_t number) noexcept    # NULL when it is not kept
    cdef SentFrame* frame(self, uint64_t index) noexcept
    cdef void settle(self, SentPacket* packet, uint8_t state) noexcept
    # Forget what needs not be kept from the front on: acknowledged, skipped, and lost ones sent before `before`.
    cdef void trim(self, double before) noexcept
