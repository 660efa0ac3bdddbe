"""The scoreboard. Read RFC 6675 §3 and §4, RFC 8985 §5.2, and ``segments.pxd`` first.

Nothing is allocated for a segment once the ring has grown. What is done for one is done in constant time, but for the search
by offset, which takes the logarithm of their number.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memset

from ..ranges cimport RangeSet

cdef uint64_t NO_SEGMENT = <uint64_t>0xffffffffffffffff
cdef enum:
    FIRST_SLOTS = 16
    KEPT_SLOTS = 256
    # What a connection keeps while nothing is in flight.


cdef class Segments:
    def __cinit__(self):
        self.sacked = RangeSet()
        self.oldest = self.newest = NO_SEGMENT

    def __dealloc__(self):
        free(self._ring)

    cdef Segment* add(self, int64_t offset, uint32_t size) except NULL:
        cdef Segment* segment
        if self._ring == NULL or self.next - self.first > self._mask:
            _resize(self, (self._mask + 1) * 2 if self._ring != NULL else FIRST_SLOTS)
        segment = &self._ring[self.next & self._mask]
        memset(segment, 0, sizeof(Segment))
        segment.offset = offset
        segment.size = segment.sample.size = size
        segment.earlier = segment.later = NO_SEGMENT
        self.next += 1
        return segment

    cdef Segment* get(self, uint64_t number) noexcept:
        assert self.first <= number < self.next
        return &self._ring[number & self._mask]

    cdef void depart(self, uint64_t number, double now, uint32_t stamp) noexcept:
        cdef Segment* segment = &self._ring[number & self._mask]
        assert not segment.marks & SACKED
        if segment.marks & LOST:
            segment.marks = (segment.marks & ~LOST & 0xff) | RESENT
            self.lost_count -= 1
            self.in_flight += segment.size
        elif segment.times:
            segment.marks |= RESENT
            _unlink(self, segment)
        else:
            self.in_flight += segment.size
        segment.sample.sent_at = now
        segment.stamp = stamp
        segment.order = self.departures
        self.departures += 1
        if segment.times < 0xffff:
            segment.times += 1
        _link_behind(self, number, segment, self.newest)
        assert _agrees(self)

    cdef uint64_t find(self, int64_t offset) noexcept:
        cdef uint64_t low = self.first, high = self.next, middle
        while low < high:
            middle = low + (high - low) // 2
            if self._ring[middle & self._mask].offset < offset:
                low = middle + 1
            else:
                high = middle
        return low

    cdef uint64_t holding(self, int64_t offset) noexcept:
        cdef uint64_t number = self.find(offset + 1)
        cdef Segment* segment
        if number == self.first:
            return self.next
        segment = &self._ring[(number - 1) & self._mask]
        return number - 1 if offset < segment.offset + segment.size else self.next

    cdef int mark_sacked(self, uint64_t number) except -1:
        cdef Segment* segment = &self._ring[number & self._mask]
        assert not segment.marks & SACKED
        self.sacked.add(<uint64_t>segment.offset, <uint64_t>segment.offset + segment.size)
        _take_out(self, segment)
        segment.marks |= SACKED
        self.sacked_count += 1
        assert _agrees(self)
        return 0

    cdef void mark_lost(self, uint64_t number) noexcept:
        cdef Segment* segment = &self._ring[number & self._mask]
        assert not segment.marks & (SACKED | LOST)
        _take_out(self, segment)
        segment.marks |= LOST | ONCE_LOST
        self.lost_count += 1
        if number < self._lost_from:
            self._lost_from = number
        assert _agrees(self)

    cdef void drop_first(self) noexcept:
        cdef Segment* segment = &self._ring[self.first & self._mask]
        assert self.first < self.next
        if segment.marks & SACKED:
            self.sacked_count -= 1
            self.sacked.drop_below(<uint64_t>segment.offset + segment.size)
        else:
            _take_out(self, segment)
        self.first += 1
        if self.first == self.next:
            assert not self.in_flight and not self.sacked_count and not self.lost_count
            if self._mask >= KEPT_SLOTS:
                free(self._ring)
                self._ring = NULL
                self._mask = 0

    cdef void cut_first(self, int64_t offset) noexcept:
        cdef Segment* segment = &self._ring[self.first & self._mask]
        cdef uint32_t gone = <uint32_t>(offset - segment.offset)
        assert gone < segment.size
        if segment.marks & SACKED:
            self.sacked.drop_below(<uint64_t>offset)
        elif not segment.marks & LOST:
            self.in_flight -= gone
        segment.offset = offset
        segment.size -= gone
        segment.sample.size = segment.size

    cdef uint64_t first_lost(self) noexcept:
        if not self.lost_count:
            return NO_SEGMENT
        if self._lost_from < self.first:
            self._lost_from = self.first
        while not self._ring[self._lost_from & self._mask].marks & LOST:
            self._lost_from += 1
            assert self._lost_from < self.next
        return self._lost_from

    cdef void restore_lost(self) noexcept:
        cdef uint64_t number = self.first_lost(), place = self.newest
        cdef Segment* segment
        if number == NO_SEGMENT:
            return
        while self.lost_count:
            segment = &self._ring[number & self._mask]
            if segment.marks & LOST:
                segment.marks &= ~LOST & 0xff
                self.lost_count -= 1
                self.in_flight += segment.size
                place = self.newest
                # Pieces of one that was split have left together.
                while place != NO_SEGMENT and (
                    self._ring[place & self._mask].order > segment.order
                    or (self._ring[place & self._mask].order == segment.order and place > number)
                ):
                    place = self._ring[place & self._mask].earlier
                _link_behind(self, number, segment, place)
            number += 1
        assert _agrees(self)

    cdef void forget_sacked(self) noexcept:
        cdef uint64_t number
        cdef Segment* segment
        for number in range(self.first, self.next):
            segment = &self._ring[number & self._mask]
            if segment.marks & SACKED:
                segment.marks = (segment.marks & ~SACKED & 0xff) | LOST | ONCE_LOST
                self.lost_count += 1
                if number < self._lost_from:
                    self._lost_from = number
        self.sacked_count = 0
        self.sacked.clear()

    cdef int split(self, uint32_t most) except -1:
        # The ring is made anew: the rare case need not be fast, and all others are when numbers have no gaps.
        cdef Segment* former = self._ring
        cdef uint64_t mask = self._mask, first = self.first, number, at
        cdef uint64_t last = self.next, count = 0, size = FIRST_SLOTS
        cdef uint32_t left
        cdef Segment* segment
        cdef Segment* piece
        cdef uint64_t* pieces
        for number in range(first, last):
            segment = &former[number & mask]
            count += _pieces(segment, most)
        if count == last - first:
            return 0
        while size < count:
            size *= 2
        pieces = <uint64_t*>malloc((last - first) * sizeof(uint64_t))     # The last number of each, to keep the list.
        self._ring = <Segment*>malloc(size * sizeof(Segment))
        if pieces == NULL or self._ring == NULL:
            free(pieces)
            free(self._ring)
            self._ring = former
            raise MemoryError
        self._mask = size - 1
        self.next = first
        for number in range(first, last):
            segment = &former[number & mask]
            left = segment.size
            while True:
                piece = &self._ring[self.next & self._mask]
                piece[0] = segment[0]
                piece.offset = segment.offset + segment.size - left
                if not segment.marks & SACKED and left > most + (1 if segment.marks & FINAL else 0):
                    piece.size = most
                    piece.marks &= ~FINAL & 0xff
                else:
                    piece.size = left
                piece.sample.size = piece.size
                if segment.marks & LOST and piece.size != left:
                    self.lost_count += 1
                left -= piece.size
                self.next += 1
                if not left:
                    break
            pieces[number - first] = self.next - 1
        self._lost_from = first
        # The list, from its beginning: each piece behind the one before it.
        number = self.oldest
        self.oldest = self.newest = NO_SEGMENT
        while number != NO_SEGMENT:
            at = pieces[number - first - 1] + 1 if number > first else first
            while at <= pieces[number - first]:
                _link_behind(self, at, &self._ring[at & self._mask], self.newest)
                at += 1
            number = former[number & mask].later
        free(pieces)
        free(former)
        assert _agrees(self)
        return 0

    cdef void clear(self) noexcept:
        free(self._ring)
        self._ring = NULL
        self._mask = 0
        self.first = self.next
        self.oldest = self.newest = NO_SEGMENT
        self.in_flight = self.sacked_count = self.lost_count = 0
        self.sacked.clear()


cdef inline uint64_t _pieces(Segment* segment, uint32_t most) noexcept:
    cdef uint32_t octets = segment.size - (1 if segment.marks & FINAL else 0)
    if segment.marks & SACKED or octets <= most:
        return 1
    return (octets + most - 1) // most


cdef inline void _link_behind(Segments self, uint64_t number, Segment* segment, uint64_t place) noexcept:
    # place: NO_SEGMENT: at the beginning.
    segment.earlier = place
    if place == NO_SEGMENT:
        segment.later = self.oldest
        self.oldest = number
    else:
        segment.later = self._ring[place & self._mask].later
        self._ring[place & self._mask].later = number
    if segment.later == NO_SEGMENT:
        self.newest = number
    else:
        self._ring[segment.later & self._mask].earlier = number


cdef inline void _unlink(Segments self, Segment* segment) noexcept:
    if segment.earlier == NO_SEGMENT:
        self.oldest = segment.later
    else:
        self._ring[segment.earlier & self._mask].later = segment.later
    if segment.later == NO_SEGMENT:
        self.newest = segment.earlier
    else:
        self._ring[segment.later & self._mask].earlier = segment.earlier
    segment.earlier = segment.later = NO_SEGMENT


cdef inline void _take_out(Segments self, Segment* segment) noexcept:
    # Of what is in flight or waits to be sent again.
    if segment.marks & LOST:
        segment.marks &= ~LOST & 0xff
        self.lost_count -= 1
    else:
        self.in_flight -= segment.size
        _unlink(self, segment)


cdef int _resize(Segments self, uint64_t count) except -1:
    cdef uint64_t number
    cdef Segment* grown = <Segment*>malloc(count * sizeof(Segment))
    if grown == NULL:
        raise MemoryError
    for number in range(self.first, self.next):
        grown[number & (count - 1)] = self._ring[number & self._mask]
    free(self._ring)
    self._ring = grown
    self._mask = count - 1
    return 0


cdef bint _agrees(Segments self) noexcept:
    # For assertions: of the ends alone, that it may be asked for each segment.
    if (self.oldest == NO_SEGMENT) != (self.newest == NO_SEGMENT) or (self.oldest == NO_SEGMENT) != (self.in_flight == 0):
        return False
    return self.sacked_count + self.lost_count <= self.next - self.first


cdef class SegmentsFace(Segments):
    """For tests and tools: the same, from Python."""

    def send(self, int64_t offset, uint32_t size, double now):
        """A new one leaves. Its number."""
        self.add(offset, size)
        self.depart(self.next - 1, now, 0)
        return self.next - 1

    def send_again(self, uint64_t number, double now):
        self.depart(number, now, 0)

    def sack(self, uint64_t number):
        self.mark_sacked(number)

    def lose(self, uint64_t number):
        self.mark_lost(number)

    def drop(self):
        self.drop_first()

    def cut(self, int64_t offset):
        self.cut_first(offset)

    def restore(self):
        self.restore_lost()

    def renege(self):
        self.forget_sacked()

    def split_all(self, uint32_t most):
        self.split(most)

    def next_lost(self):
        cdef uint64_t number = self.first_lost()
        return None if number == NO_SEGMENT else number

    def at(self, int64_t offset):
        """Numbers of the first that begins there or later, and of the one that holds it."""
        return self.find(offset), self.holding(offset)

    def all(self):
        """(offset, size, marks, times) of each, in order of sequence."""
        return [
            (self.get(number).offset, self.get(number).size, self.get(number).marks, self.get(number).times)
            for number in range(self.first, self.next)
        ]

    def flight(self):
        """Numbers of those in flight, in the order in which they left."""
        found = []
        cdef uint64_t number = self.oldest
        while number != NO_SEGMENT:
            found.append(number)
            assert (self.get(number).earlier == NO_SEGMENT) == (len(found) == 1)
            number = self.get(number).later
        return found

    def sacked_ranges(self):
        return [(self.sacked.items[index].start, self.sacked.items[index].stop) for index in range(self.sacked.count)]
