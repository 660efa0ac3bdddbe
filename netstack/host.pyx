"""Read ``host.pxd`` first."""

from cpython.ref cimport Py_DECREF, Py_INCREF

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcmp, memset

from .address cimport Address
from .ip cimport Packet
from .mixing cimport mixed, next_chance

cdef double NEVER = float("inf")
cdef enum:
    FIRST_SLOTS = 16


cdef class Flow:
    def __cinit__(self):
        self.due = self.heap_due = NEVER
        self.heap_at = -1

    cdef Py_ssize_t build(self, uint8_t* out, size_t room, double now) except -1:
        return 0

    cdef int on_timer(self, double now) except -1:
        return 0

    cdef int tell(self) except -1:
        return 0


cdef class Host:
    """random_bytes(n): unpredictable octets."""

    def __cinit__(self):
        self.touched_flows = []
        self.heap = []

    def seed(self, random_bytes):
        cdef bytes octets = random_bytes(40)
        self.secret = octets[:16]
        self.hash_seed = int.from_bytes(octets[16:24], "little")
        self._chance[0] = int.from_bytes(octets[24:32], "little") | 1
        self._chance[1] = int.from_bytes(octets[32:40], "little") | 1

    cdef int wake(self) except -1:
        if not self.awake:
            self.awake = True
            if self.waker is not None:
                self.waker()
        return 0

    cdef uint64_t chance(self) noexcept:
        return next_chance(self._chance)

    # Turns to send.

    cdef int want(self, Flow flow) except -1:
        if flow.wanting:
            return 0
        flow.wanting = True
        if self.last_wanting is None:
            self.first_wanting = flow
        else:
            self.last_wanting.after_me = flow
        self.last_wanting = flow
        return self.wake()

    cdef Py_ssize_t build_next(self, uint8_t* out, size_t room, double now) except -1:
        cdef Flow flow
        cdef Py_ssize_t size
        while self.first_wanting is not None:
            flow = self.first_wanting
            self.first_wanting = flow.after_me
            if self.first_wanting is None:
                self.last_wanting = None
            flow.after_me = None
            flow.wanting = False
            size = flow.build(out, room, now)
            if size:
                self.want(flow)     # Behind the others.
                return size
        return 0

    cdef int touch(self, Flow flow) except -1:
        if flow.touched:
            return 0
        flow.touched = True
        self.touched_flows.append(flow)
        return self.wake()

    # Timers. A flow that only wants to be called later than it stands in the heap is not moved until its time comes.

    cdef int arm(self, Flow flow, double due) except -1:
        cdef bint earlier = due < flow.heap_due
        flow.due = due
        if flow.heap_at < 0:
            if due == NEVER:
                return 0
            flow.heap_at = len(self.heap)
            flow.heap_due = due
            self.heap.append(flow)
            _rise(self.heap, flow.heap_at)
            if flow.heap_at == 0:
                return self.wake()
        elif earlier:
            flow.heap_due = due
            _rise(self.heap, flow.heap_at)
            if flow.heap_at == 0:
                return self.wake()
        return 0

    cdef int disarm(self, Flow flow) except -1:
        cdef Py_ssize_t at = flow.heap_at
        cdef Flow last
        flow.due = NEVER
        if at < 0:
            return 0
        last = <Flow>self.heap.pop()
        flow.heap_at = -1
        flow.heap_due = NEVER
        if last is not flow:
            _place(self.heap, at, last)
            _rise(self.heap, at)
            _sink(self.heap, last.heap_at)
        return 0

    cdef double next_due(self) noexcept:
        return (<Flow>self.heap[0]).heap_due if self.heap else NEVER

    cdef int run_timers(self, double now) except -1:
        cdef Flow flow
        while self.heap:
            flow = <Flow>self.heap[0]
            if flow.heap_due > now:
                break
            if flow.due > now:
                if flow.due == NEVER:
                    _take_first(self.heap)
                else:
                    flow.heap_due = flow.due
                    _sink(self.heap, 0)
                continue
            _take_first(self.heap)
            flow.due = NEVER
            flow.on_timer(now)
        return 0

    # To be replaced.

    cdef uint32_t path_mtu(self, const Address* remote) noexcept:
        return self.mtu

    cdef uint8_t* loose_room(self, size_t size) except NULL:
        raise NotImplementedError

    cdef int send_loose(self, size_t size) except -1:
        raise NotImplementedError

    cdef int send_error(self, const Packet* packet, uint8_t kind, uint8_t code, uint32_t value) except -1:
        raise NotImplementedError

    cdef bint is_local(self, const Address* address) noexcept:
        return False

    cdef bint choose_source(self, const Address* remote, Address* source) noexcept:
        return False


cdef class Transport:
    cdef int receive(self, const Packet* packet, double now) except -1:
        return 0

    cdef bint report(self, const Report* report, double now) except -1:
        return False

    cdef int mtu_changed(self, const Address* remote, double now) except -1:
        return 0


cdef void _place(list heap, Py_ssize_t at, Flow flow):
    heap[at] = flow
    flow.heap_at = at


cdef int _rise(list heap, Py_ssize_t at) except -1:
    cdef Flow flow = <Flow>heap[at], parent
    while at:
        parent = <Flow>heap[(at - 1) // 2]
        if parent.heap_due <= flow.heap_due:
            break
        _place(heap, at, parent)
        at = (at - 1) // 2
    _place(heap, at, flow)
    return 0


cdef int _sink(list heap, Py_ssize_t at) except -1:
    cdef Flow flow = <Flow>heap[at], child, other
    cdef Py_ssize_t below, size = len(heap)
    while True:
        below = 2 * at + 1
        if below >= size:
            break
        child = <Flow>heap[below]
        if below + 1 < size:
            other = <Flow>heap[below + 1]
            if other.heap_due < child.heap_due:
                child = other
                below += 1
        if flow.heap_due <= child.heap_due:
            break
        _place(heap, at, child)
        at = below
    _place(heap, at, flow)
    return 0


cdef int _take_first(list heap) except -1:
    cdef Flow first = <Flow>heap[0], last = <Flow>heap.pop()
    first.heap_at = -1
    first.heap_due = NEVER
    if last is not first:
        _place(heap, 0, last)
        _sink(heap, 0)
    return 0


# Flows by name.


cdef void set_name(
    Name* name, uint8_t protocol, const Address* local, uint16_t local_port, const Address* remote, uint16_t remote_port
) noexcept:
    memset(name, 0, sizeof(Name))      # Names are compared as a whole, padding included.
    name.local = local[0]
    if remote != NULL:
        name.remote = remote[0]
    name.local_port = local_port
    name.remote_port = remote_port
    name.protocol = protocol


cdef uint64_t _hash(FlowTable self, const Name* name) noexcept:
    # Peers choose what is hashed; the seed, which goes into every step, keeps them from choosing what collides.
    cdef uint64_t h = mixed(self._seed ^ name.local.low)
    h = mixed(h + name.remote.low ^ self._seed)
    h = mixed(h + (<uint64_t>name.local_port << 32 | <uint64_t>name.remote_port << 16 | name.protocol))
    if name.local.high or name.remote.high:
        h = mixed(h + name.local.high)
        h = mixed(h + name.remote.high)
    return h


cdef FlowTable make_table(uint64_t seed):
    cdef FlowTable table = FlowTable.__new__(FlowTable)
    table._seed = seed
    return table


cdef class FlowTable:
    def __dealloc__(self):
        cdef size_t at
        if self._slots != NULL:
            for at in range(self._mask + 1):
                if self._slots[at].flow != NULL:
                    Py_DECREF(<object>self._slots[at].flow)
            free(self._slots)

    cdef Flow find(self, const Name* name):
        cdef uint64_t h
        cdef size_t at
        if not self.size:
            return None
        h = _hash(self, name)
        at = <size_t>h & self._mask
        while self._slots[at].flow != NULL:
            if self._slots[at].hash == h and memcmp(&(<Flow>self._slots[at].flow).name, name, sizeof(Name)) == 0:
                return <Flow>self._slots[at].flow
            at = (at + 1) & self._mask
        return None

    cdef int add(self, Flow flow) except -1:
        cdef uint64_t h = _hash(self, &flow.name)
        cdef size_t at
        assert self.find(&flow.name) is None
        if self._slots == NULL or (self.size + 1) * 2 > self._mask + 1:
            _resize(self, (self._mask + 1) * 2 if self._slots != NULL else FIRST_SLOTS)
        at = <size_t>h & self._mask
        while self._slots[at].flow != NULL:
            at = (at + 1) & self._mask
        Py_INCREF(flow)
        self._slots[at].hash = h
        self._slots[at].flow = <void*>flow
        self.size += 1
        return 0

    cdef bint remove(self, Flow flow) noexcept:
        cdef size_t at, next_at, home
        if not self.size:
            return False
        at = <size_t>_hash(self, &flow.name) & self._mask
        while self._slots[at].flow != <void*>flow:
            if self._slots[at].flow == NULL:
                return False
            at = (at + 1) & self._mask
        # What stands behind moves up, unless it is at or before its own place already.
        next_at = at
        while True:
            next_at = (next_at + 1) & self._mask
            if self._slots[next_at].flow == NULL:
                break
            home = <size_t>self._slots[next_at].hash & self._mask
            if ((next_at - home) & self._mask) >= ((next_at - at) & self._mask):
                self._slots[at] = self._slots[next_at]
                at = next_at
        self._slots[at].flow = NULL
        self.size -= 1
        Py_DECREF(flow)
        return True

    cdef list flows(self):
        cdef size_t at
        if self._slots == NULL:
            return []
        return [<Flow>self._slots[at].flow for at in range(self._mask + 1) if self._slots[at].flow != NULL]


cdef int _resize(FlowTable self, size_t count) except -1:
    cdef NameSlot* former = self._slots
    cdef size_t former_count = self._mask + 1 if former != NULL else 0
    cdef size_t index, at
    cdef NameSlot* slots = <NameSlot*>calloc(count, sizeof(NameSlot))
    if slots == NULL:
        raise MemoryError
    self._slots = slots
    self._mask = count - 1
    for index in range(former_count):
        if former[index].flow != NULL:
            at = <size_t>former[index].hash & self._mask
            while slots[at].flow != NULL:
                at = (at + 1) & self._mask
            slots[at] = former[index]
    free(former)
    return 0
