"""A hash table of objects by number. Read ``table.pxd`` first.

Keys are numbers that we or the peer count up, or that we draw at random; a peer may look up what it likes, but not have it
stored. The seed keeps it from knowing which of its stream IDs meet in one place all the same.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF

from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free

from quicsocks.netstack.mixing cimport mixed

cdef enum:
    FIRST_SLOTS = 16


cdef class Table:
    """seed: a number that the peer does not know."""

    def __init__(self, uint64_t seed):
        self._seed = seed

    def __dealloc__(self):
        self.clear()

    cdef void* get(self, uint64_t key) noexcept:
        cdef size_t at
        if not self.size:
            return NULL
        at = _hash(self, key) & self._mask
        while self._slots[at].value != NULL:
            if self._slots[at].key == key:
                return self._slots[at].value
            at = (at + 1) & self._mask
        return NULL

    cdef int set(self, uint64_t key, object value) except -1:
        cdef size_t at
        if self._slots == NULL or (self.size + 1) * 2 > self._mask + 1:
            _resize(self, (self._mask + 1) * 2 if self._slots != NULL else FIRST_SLOTS)
        at = _hash(self, key) & self._mask
        while self._slots[at].value != NULL:
            if self._slots[at].key == key:
                former = <object>self._slots[at].value
                Py_INCREF(value)
                self._slots[at].value = <void*>value
                Py_DECREF(former)
                return 0
            at = (at + 1) & self._mask
        Py_INCREF(value)
        self._slots[at].key = key
        self._slots[at].value = <void*>value
        self.size += 1
        assert self.size * 2 <= self._mask + 1, "searches end at a slot that is empty"
        return 0

    cdef object pop(self, uint64_t key):
        cdef size_t at, next_at, home
        cdef object value
        if not self.size:
            return None
        at = _hash(self, key) & self._mask
        while self._slots[at].key != key or self._slots[at].value == NULL:
            if self._slots[at].value == NULL:
                return None
            at = (at + 1) & self._mask
        value = <object>self._slots[at].value
        # What stands behind moves up, unless it is at or before its own place already.
        next_at = at
        while True:
            next_at = (next_at + 1) & self._mask
            if self._slots[next_at].value == NULL:
                break
            home = _hash(self, self._slots[next_at].key) & self._mask
            if ((next_at - home) & self._mask) >= ((next_at - at) & self._mask):
                self._slots[at] = self._slots[next_at]
                at = next_at
        self._slots[at].value = NULL
        self.size -= 1
        Py_DECREF(value)
        if self._mask >= 4 * FIRST_SLOTS and self.size * 16 < self._mask:
            _resize(self, (self._mask + 1) // 4)
        return value

    cdef void clear(self) noexcept:
        cdef size_t at
        cdef Slot* slots = self._slots
        cdef size_t mask = self._mask
        if slots == NULL:
            return
        self._slots = NULL
        self._mask = self.size = 0
        for at in range(mask + 1):
            if slots[at].value != NULL:
                Py_DECREF(<object>slots[at].value)
        free(slots)

    # From Python.

    def __len__(self):
        return self.size

    def put(self, uint64_t key, value not None):
        """Store value, in the place of what was there."""
        self.set(key, value)

    def find(self, uint64_t key):
        """None when there is none."""
        cdef void* value = self.get(key)
        return <object>value if value != NULL else None

    def remove(self, uint64_t key):
        """What was there, or None."""
        return self.pop(key)

    def remove_all(self):
        self.clear()


cdef inline uint64_t _hash(Table self, uint64_t key) noexcept:
    return mixed(key ^ self._seed)


cdef int _resize(Table self, size_t count) except -1:
    cdef Slot* former = self._slots
    cdef size_t former_count = self._mask + 1 if former != NULL else 0
    cdef size_t index, at
    cdef Slot* slots = <Slot*>calloc(count, sizeof(Slot))
    if slots == NULL:
        raise MemoryError
    self._slots = slots
    self._mask = count - 1
    for index in range(former_count):
        if former[index].value != NULL:
            at = _hash(self, former[index].key) & self._mask
            while slots[at].value != NULL:
                at = (at + 1) & self._mask
            slots[at] = former[index]
    free(former)
    return 0
