"""One stream of the native engine: both halves, and what the handler sees of them."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

from quicsocks.netstack.receive_buffer cimport ReceiveBuffer
from quicsocks.netstack.send_buffer cimport SendBuffer


cdef enum Final:
    OPEN = 0
    FIN = 1
    RESET = 2


cdef class Owner:
    """What a stream asks of its connection."""
    cdef readonly object limits
    cdef readonly object ended      # types of errors.Ended, None while the session lives
    cdef double now                 # s, of the last call that told the time
    cdef int64_t ranges_waiting     # of octets that wait for those before them, in all streams

    cdef int activate(self, Stream stream) except -1        # it may have something to send
    cdef int touch(self, Stream stream) except -1           # it has something to tell its handler
    cdef int announce(self, Stream stream) except -1        # its limit or its STOP_SENDING has to be sent
    cdef int credit(self, uint64_t size) except -1          # octets more are consumed
    cdef uint64_t window_for(self, uint64_t wanted) noexcept
    cdef uint64_t high_water(self) noexcept
    cdef double round_trip(self) noexcept
    cdef int forget(self, Stream stream) except -1          # both directions are over and told


cdef class ReadyQueue:
    """Streams of one priority that may have something to send, linked through the streams themselves."""
    cdef Stream first
    cdef Stream last
    cdef uint64_t count
    cdef uint64_t turn                  # octets that the first has sent since it is the first

    cdef void push(self, Stream stream) noexcept
    cdef void drop(self) noexcept       # the first
    cdef void take_turn(self, uint64_t size, uint64_t burst) noexcept


cdef class Pump:
    """Moves octets between a stream and a socket, in place."""
    cdef Stream _stream             # None: detached
    cdef int _descriptor
    cdef object _on_full
    cdef object _on_error
    cdef bint _full                 # the socket takes no more: `write` is to be called when it does
    cdef bint _many                 # the last read filled all that it was given
    cdef readonly uint64_t sent     # octets read from the socket
    cdef readonly uint64_t received # octets written to it
    cdef readonly double active_at  # s, when the last octet passed


cdef class Stream:
    cdef Owner _owner
    cdef uint64_t number        # the stream ID
    cdef bint local
    cdef bint can_send
    cdef bint can_receive
    cdef uint8_t priority
    cdef SendBuffer out
    cdef ReceiveBuffer into
    cdef object _handler
    cdef Pump _pump             # None: octets go to the handler
    cdef bint over              # nothing more is called
    cdef bint fresh             # the peer's, and not yet told of
    cdef bint touched           # stands in the connection's list of those with something to tell

    # Scheduling: a link in the list of its priority.
    cdef bint queued
    cdef Stream next_ready

    # Sending.
    cdef uint64_t max_send      # the peer's limit
    cdef bint send_over         # all, or the reset, has been acknowledged
    cdef bint send_told
    cdef bint reset_wanted
    cdef bint reset_pending     # RESET_STREAM has to be sent, or sent again
    cdef uint64_t reset_code
    cdef bint paused
    cdef uint64_t resume_below
    cdef uint64_t past_pause
    cdef bint waits_for_credit  # stands in the connection's list of those that its limit holds back
    cdef bint blocked_told      # STREAM_DATA_BLOCKED was sent for the present limit

    # The peer's STOP_SENDING.
    cdef bint stop_seen
    cdef bint stop_held         # to be told
    cdef uint64_t stop_seen_code

    # Receiving.
    cdef uint64_t max_receive   # the limit that the peer may know
    cdef bint limit_pending     # MAX_STREAM_DATA has to be sent
    cdef bint receive_over      # the handler has heard the last of it
    cdef bint stopped           # by us
    cdef bint stop_pending
    cdef uint64_t stop_code
    cdef bint announced         # stands in the connection's list of those with limits to send
    cdef bint released          # whatever comes is credited at once
    cdef uint8_t final
    cdef uint64_t final_code
    cdef uint64_t delivered     # octets given to the handler, or dropped
    cdef uint64_t credited      # octets whose credit has been returned
    cdef uint64_t window
    cdef uint64_t window_used   # octets consumed since it was last measured
    cdef uint64_t window_top    # the highest offset that had arrived then
    cdef double window_began    # s, when that was

    # For the connection. Octets, FIN and reset have been put into `into` and its limits been checked.
    cdef int data_arrived(self) except -1
    cdef int reset_arrived(self, uint64_t code) except -1
    cdef int stop_arrived(self, uint64_t code) except -1
    cdef int limit_raised(self, uint64_t limit) except -1
    cdef int sending_progressed(self) except -1         # octets have left for the first time
    cdef int sending_acknowledged(self) except -1
    cdef bint has_work(self, uint64_t credit) noexcept  # credit: what the connection's limit leaves
    cdef int tell(self) except -1                       # make the callbacks that are due
    cdef int lose(self, object ended) except -1


cdef Stream make_stream(Owner owner, uint64_t number, bint local, uint8_t priority, uint64_t max_send, uint64_t window)
