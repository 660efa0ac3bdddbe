"""Connections and sockets joined: what arrives goes to the connection that its connection ID names, and what connections
have to say goes into the sockets' batches in place.

Python sees only what has no connection yet, and what begins with a long header. Linux only, like ``udp``.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from .connection cimport Connection
from .destination cimport Destination
from .outlet cimport Outlet
from .path cimport Path
from .table cimport Table
from .udp cimport Datagram, ReceiveBatch, SendBatch

cdef enum:
    CID_LENGTH = 8      # octets of every connection ID of ours
    MOST_BATCHES = 4
    # System calls a turn of the event loop, each for up to 16 messages of 64 KiB: others want their turn.
    MOST_ROUTES = 4096


cdef class Batched(Outlet):
    """route_type: makes a route from (local, remote, socket number). seed: for the table of connection IDs."""

    def __init__(self, route_type, uint64_t seed):
        self._receivers = []
        self._senders = []
        self._locals = []
        self._destinations = {}
        self._routes = {}
        self._connections = Table(seed)
        self._route_type = route_type

    def add_socket(self, int descriptor, tuple local):
        """The next socket; its number is how many there were before."""
        self._receivers.append(ReceiveBatch(descriptor, len(self._receivers)))
        self._senders.append(SendBatch(descriptor))
        self._locals.append(local)

    def add_cid(self, bytes cid not None, Connection connection not None):
        self._connections.set(_number_of(cid), connection)

    def drop_cid(self, bytes cid not None):
        self._connections.pop(_number_of(cid))

    def receive(self, int number, double now, otherwise):
        """Take what has arrived at a socket, at most a few batches. otherwise(data, route, now, ecn): for what belongs to no
        connection here. Whether anything has."""
        cdef ReceiveBatch batch = self._receivers[number]
        cdef Datagram datagram
        cdef Connection connection
        cdef void* found
        cdef uint64_t key
        cdef int messages, round_, origin
        cdef object route = None
        cdef bint any_arrived = False
        for round_ in range(MOST_BATCHES):
            messages = batch.receive()
            if not messages:
                break
            any_arrived = True
            origin = -1
            while batch.next(&datagram):
                if datagram.origin != origin:
                    origin = datagram.origin
                    route = self._route_of(batch.origin(origin), number)
                if datagram.size > 1 + CID_LENGTH and datagram.data[0] & 0xc0 == 0x40:
                    memcpy(&key, datagram.data + 1, CID_LENGTH)
                    found = self._connections.get(key)
                    if found != NULL:
                        connection = <Connection>found
                        connection.arrive(datagram.data, datagram.size, route, datagram.ecn, now)
                        continue
                otherwise((<const char*>datagram.data)[:datagram.size], route, now, datagram.ecn)
            if messages < 16:
                break
        # libuv stops watching a descriptor that has an error waiting, after one last call of the reader.
        batch.look_for_errors()
        return any_arrived

    cdef object _route_of(self, Destination origin, int number):
        if origin is self._last_origin:
            return self._last_route
        route = self._routes.get(origin)
        if route is None:
            if len(self._routes) >= MOST_ROUTES:
                self._routes.clear()
            local = self._locals[number]
            if origin.local is not None:
                local = (origin.local, local[1])
            route = self._routes[origin] = self._route_type(local, origin.remote, number)
        self._last_origin = origin
        self._last_route = route
        return route

    cdef Destination _destination_of(self, object route):
        cdef Destination destination = self._destinations.get(route)
        if destination is None:
            if len(self._destinations) >= MOST_ROUTES:
                self._destinations.clear()
            local = route.local[0] if route.local != self._locals[route.socket] else None
            destination = self._destinations[route] = Destination(route.remote, local, route.socket)
        return destination

    cdef Destination _of_path(self, Path path):
        if path.destination is None:
            path.destination = self._destination_of(path.route)
        return <Destination>path.destination

    cdef uint8_t* room(self, Path path, size_t size) except? NULL:
        cdef SendBatch batch = self._senders[self._of_path(path).addresses.number]
        cdef uint8_t* at = batch.room(size)
        if at == NULL:
            if not batch.flush():
                return NULL
            at = batch.room(size)
        self._lent = batch
        return at

    cdef int commit(self, Path path, size_t size, int ecn) except -1:
        cdef Destination destination = self._of_path(path)
        cdef SendBatch batch = self._senders[destination.addresses.number]
        cdef uint8_t* at
        if batch is self._lent:
            batch.commit(size, ecn, destination)
            return 0
        # Another socket's: that is rare enough for a copy. It may be lost there, as on the network.
        at = batch.room(size)
        if at != NULL:
            memcpy(at, self._lent.room(size), size)
            batch.commit(size, ecn, destination)
        return 0

    def put(self, bytes data not None, route):
        """Send a datagram that was made elsewhere. False: the socket is full."""
        cdef Destination destination = self._destination_of(route)
        cdef SendBatch batch = self._senders[destination.addresses.number]
        return batch.put(data, 0, destination) or (batch.flush() and batch.put(data, 0, destination))

    def flush(self):
        """Send what waits. The numbers of the sockets that are full."""
        return [number for number, batch in enumerate(self._senders) if not (<SendBatch>batch).flush()]

    def take_suspicious(self, int number):
        """Whether an error was reported at the socket since the last call."""
        cdef ReceiveBatch receiver = self._receivers[number]
        cdef SendBatch sender = self._senders[number]
        suspicious = receiver.suspicious or sender.suspicious
        receiver.suspicious = sender.suspicious = False
        return suspicious

    def take_failed(self, int number):
        """(remote address, reason) of what the network has refused to carry."""
        return [(destination.remote, reason) for destination, reason in self._senders[number].take_failed()]

    def statistics(self):
        """System calls, messages and datagrams, both ways."""
        return {
            "receive_calls": sum(batch.calls for batch in self._receivers),
            "receive_messages": sum(batch.messages for batch in self._receivers),
            "received": sum(batch.datagrams for batch in self._receivers),
            "send_calls": sum(batch.calls for batch in self._senders),
            "send_messages": sum(batch.messages for batch in self._senders),
            "sent": sum(batch.datagrams for batch in self._senders),
            "send_refused": sum(batch.refused for batch in self._senders),
        }

    def pretend(self, int number, list results not None):
        """For tests: see ``SendBatch.pretend``."""
        (<SendBatch>self._senders[number]).pretend(results)

    def pretending(self, int number):
        """For tests: whether some of it is left."""
        return bool((<SendBatch>self._senders[number])._pretended)

    def close(self):
        """Let go of all connections."""
        self._connections.clear()


cdef uint64_t _number_of(bytes cid) except? 0:
    cdef uint64_t number
    if len(cid) != CID_LENGTH:
        raise ValueError(f"a connection ID of {len(cid)} octets")
    memcpy(&number, <const char*>cid, CID_LENGTH)
    return number
