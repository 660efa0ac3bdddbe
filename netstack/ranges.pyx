"""Sets of integers as ranges. Read ``ranges.pxd`` first. Adding at the end, which is the rule, takes no search."""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memmove


cdef class RangeSet:
    def __dealloc__(self):
        free(self.items)

    cdef int add(self, uint64_t start, uint64_t stop) except -1:
        cdef int first, last
        if start >= stop:
            return 0
        if self.count:
            if start > self.items[self.count - 1].stop:
                return _insert(self, self.count, start, stop)
            if start >= self.items[self.count - 1].start:
                if stop > self.items[self.count - 1].stop:
                    self.items[self.count - 1].stop = stop
                assert _in_order(self, self.count - 1)
                return 0
        # The ranges from first up to last touch the new one.
        first = _first_reaching(self, start)
        last = first
        while last < self.count and self.items[last].start <= stop:
            last += 1
        if last == first:
            return _insert(self, first, start, stop)
        if self.items[first].start < start:
            start = self.items[first].start
        if self.items[last - 1].stop > stop:
            stop = self.items[last - 1].stop
        self.items[first].start = start
        self.items[first].stop = stop
        _remove(self, first + 1, last)
        assert _in_order(self, first)
        return 0

    cdef int subtract(self, uint64_t start, uint64_t stop) except -1:
        cdef int index
        cdef uint64_t end
        if start >= stop:
            return 0
        index = _first_reaching(self, start)
        while index < self.count and self.items[index].start < stop:
            if self.items[index].stop <= start:
                index += 1
            elif self.items[index].start < start:
                end = self.items[index].stop
                self.items[index].stop = start
                index += 1
                if end > stop:
                    return _insert(self, index, stop, end)
            elif self.items[index].stop > stop:
                self.items[index].start = stop
                assert _in_order(self, index)
                return 0
            else:
                _remove(self, index, index + 1)
        return 0

    cdef bint contains(self, uint64_t value) noexcept:
        cdef int index
        if not self.count or value >= self.items[self.count - 1].stop:
            return False
        if value >= self.items[self.count - 1].start:
            return True
        index = _first_reaching(self, value + 1)
        return index < self.count and self.items[index].start <= value

    cdef bint covers(self, uint64_t start, uint64_t stop) noexcept:
        cdef int index
        if start >= stop:
            return True
        index = _first_reaching(self, start + 1)
        return index < self.count and self.items[index].start <= start and self.items[index].stop >= stop

    cdef int first_reaching(self, uint64_t value) noexcept:
        return _first_reaching(self, value)

    cdef void drop_first(self) noexcept:
        if self.count:
            _remove(self, 0, 1)

    cdef void drop_below(self, uint64_t value) noexcept:
        cdef int gone = 0
        while gone < self.count and self.items[gone].stop <= value:
            gone += 1
        _remove(self, 0, gone)
        if self.count and self.items[0].start < value:
            self.items[0].start = value
        assert _in_order(self, 0)

    cdef void clear(self) noexcept:
        free(self.items)
        self.items = NULL
        self.count = self._capacity = 0


cdef int _first_reaching(RangeSet self, uint64_t value) noexcept:
    # The first range that does not end before value.
    cdef int low = 0, high = self.count, middle
    while low < high:
        middle = (low + high) // 2
        if self.items[middle].stop < value:
            low = middle + 1
        else:
            high = middle
    return low


cdef int _insert(RangeSet self, int index, uint64_t start, uint64_t stop) except -1:
    cdef Range* grown
    cdef int capacity
    if self.count == self._capacity:
        capacity = self._capacity * 2 if self._capacity else 4
        grown = <Range*>realloc(self.items, <size_t>capacity * sizeof(Range))
        if grown == NULL:
            raise MemoryError
        self.items = grown
        self._capacity = capacity
    memmove(self.items + index + 1, self.items + index, <size_t>(self.count - index) * sizeof(Range))
    self.items[index].start = start
    self.items[index].stop = stop
    self.count += 1
    assert _in_order(self, index)
    return 0


cdef inline bint _in_order(RangeSet self, int index) noexcept:
    # Of the range at index and its neighbours: none is empty, and there is a gap between any two.
    if not 0 <= self.count <= self._capacity:
        return False
    if index >= self.count:
        return index == self.count
    if self.items[index].start >= self.items[index].stop:
        return False
    if index and self.items[index - 1].stop >= self.items[index].start:
        return False
    return index + 1 >= self.count or self.items[index].stop < self.items[index + 1].start


cdef void _remove(RangeSet self, int first, int last) noexcept:
    assert 0 <= first and last <= self.count
    if last > first:
        memmove(self.items + first, self.items + last, <size_t>(self.count - last) * sizeof(Range))
        self.count -= last - first


cdef class RangeSetFace(RangeSet):
    """For tests and tools: the same, from Python."""

    def add_range(self, uint64_t start, uint64_t stop):
        self.add(start, stop)

    def subtract_range(self, uint64_t start, uint64_t stop):
        self.subtract(start, stop)

    def has(self, uint64_t value):
        return bool(self.contains(value))

    def has_all(self, uint64_t start, uint64_t stop):
        return bool(self.covers(start, stop))

    def forget_first(self):
        self.drop_first()

    def forget_below(self, uint64_t value):
        self.drop_below(value)

    def forget(self):
        self.clear()

    def ranges(self):
        return [(self.items[index].start, self.items[index].stop) for index in range(self.count)]
