"""Rings of sent packets and frames. Read ``sent.pxd`` first."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset


cdef enum:
    FIRST_PACKETS = 64
    FIRST_FRAMES = 128


cdef class SentPackets:
    def __cinit__(self):
        self._packets = <SentPacket*>malloc(FIRST_PACKETS * sizeof(SentPacket))
        self._frames = <SentFrame*>malloc(FIRST_FRAMES * sizeof(SentFrame))
        if self._packets == NULL or self._frames == NULL:
            raise MemoryError
        self._packet_mask = FIRST_PACKETS - 1
        self._frame_mask = FIRST_FRAMES - 1

    def __dealloc__(self):
        free(self._packets)
        free(self._frames)

    cdef SentPacket* begin(self) except NULL:
        cdef SentPacket* packet
        if self.next - self.first > self._packet_mask:
            _grow_packets(self)
        packet = &self._packets[self.next & self._packet_mask]
        memset(packet, 0, sizeof(SentPacket))
        packet.frames = self._next_frame
        return packet

    cdef int add_frame(self, uint8_t kind, uint64_t id, uint64_t offset, uint32_t size, bint fin) except -1:
        cdef SentFrame* frame
        if self._next_frame - self._first_frame > self._frame_mask:
            _grow_frames(self)
        frame = &self._frames[self._next_frame & self._frame_mask]
        frame.id = id
        frame.offset = offset
        frame.size = size
        frame.kind = kind
        frame.fin = fin
        self._next_frame += 1
        return 0

    cdef void commit(self) noexcept:
        cdef SentPacket* packet = &self._packets[self.next & self._packet_mask]
        packet.frame_count = <uint32_t>(self._next_frame - packet.frames)
        packet.state = OUTSTANDING
        if packet.ack_eliciting:
            self.outstanding_eliciting += 1
        self.next += 1

    cdef void abandon(self) noexcept:
        self._next_frame = self._packets[self.next & self._packet_mask].frames

    cdef int skip(self) except -1:
        self.begin()    # Its state is NEVER_SENT.
        self.next += 1
        return 0

    cdef SentPacket* get(self, uint64_t number) noexcept:
        if number < self.first or number >= self.next:
            return NULL
        return &self._packets[number & self._packet_mask]

    cdef SentFrame* frame(self, uint64_t index) noexcept:
        assert self._first_frame <= index < self._next_frame, "a frame that is forgotten"
        return &self._frames[index & self._frame_mask]

    cdef void settle(self, SentPacket* packet, uint8_t state) noexcept:
        assert packet.state == OUTSTANDING or packet.state == LOST
        if packet.state == OUTSTANDING and packet.ack_eliciting:
            assert self.outstanding_eliciting
            self.outstanding_eliciting -= 1
        packet.state = state

    cdef void trim(self, double before) noexcept:
        cdef SentPacket* packet
        while self.first < self.next:
            packet = &self._packets[self.first & self._packet_mask]
            if packet.state == OUTSTANDING or (packet.state == LOST and packet.sample.sent_at > before):
                break
            self.first += 1
        if self.first < self.next:
            self._first_frame = self._packets[self.first & self._packet_mask].frames
        else:
            self._first_frame = self._next_frame
        assert self._first_frame <= self._next_frame


cdef int _grow_packets(SentPackets self) except -1:
    cdef uint64_t mask = self._packet_mask * 2 + 1
    cdef uint64_t number
    cdef SentPacket* grown = <SentPacket*>malloc((mask + 1) * sizeof(SentPacket))
    if grown == NULL:
        raise MemoryError
    for number in range(self.first, self.next):
        grown[number & mask] = self._packets[number & self._packet_mask]
    free(self._packets)
    self._packets = grown
    self._packet_mask = mask
    return 0


cdef int _grow_frames(SentPackets self) except -1:
    cdef uint64_t mask = self._frame_mask * 2 + 1
    cdef uint64_t index
    cdef SentFrame* grown = <SentFrame*>malloc((mask + 1) * sizeof(SentFrame))
    if grown == NULL:
        raise MemoryError
    for index in range(self._first_frame, self._next_frame):
        grown[index & mask] = self._frames[index & self._frame_mask]
    free(self._frames)
    self._frames = grown
    self._frame_mask = mask
    return 0
