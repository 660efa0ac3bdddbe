"""The state of a connection behind the handshake, which the files of the datapath share.

One class in five layers, so that each file has one topic: ``core`` holds state, streams and flow control, ``recovery``
acknowledgements and loss, ``receiving`` packets and frames that arrive, ``control`` the frames that leave but for streams
and DATAGRAMs, ``sending`` those and packets; ``connection`` is what the session sees.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from quicsocks.netstack.receive_buffer cimport ReceiveBuffer
from quicsocks.netstack.send_buffer cimport SendBuffer

from .crypto cimport HeaderKey, PacketKey
from .path cimport Path
from .port cimport DatagramPort
from .qlog cimport Qlog
from .space cimport Space
from .stream cimport Owner, ReadyQueue, Stream

cdef enum:
    PRIORITIES = 4
    BIDI = 0
    UNI = 1

cdef enum State:
    RUNNING = 0
    CLOSING = 1         # we have closed; the close is repeated to a peer that goes on sending (RFC 9000 §10.2.1)
    DRAINING = 2        # the peer has closed; nothing is sent any more
    TERMINATED = 3

cdef struct Counters:
    uint64_t packets_sent
    uint64_t packets_received
    uint64_t packets_lost
    uint64_t packets_spurious       # declared lost and acknowledged after all
    uint64_t packets_dropped        # for one of the reasons that follow
    uint64_t dropped_short          # too short to be a packet
    uint64_t dropped_forged         # not authentic
    uint64_t dropped_duplicate      # seen before, or so old that it may have been
    uint64_t dropped_elsewhere      # from another address of a server's
    uint64_t bytes_sent
    uint64_t bytes_received
    uint64_t acks_received
    uint64_t probe_timeouts
    uint64_t congestion_marks
    uint64_t datagrams_sent
    uint64_t datagrams_received
    uint64_t datagrams_dropped
    uint64_t key_updates
    uint64_t zero_rtt_received
    uint64_t zero_rtt_dropped       # not accepted, too early, too late, or too many
    uint64_t mtu_probes_sent
    uint64_t mtu_probes_lost


cdef class Core(Owner):
    cdef readonly bint is_client
    cdef readonly int state
    cdef readonly bint confirmed        # the handshake is (RFC 9001 §4.1.2)
    cdef Counters counters
    cdef Qlog qlog                      # None unless somebody has asked for a log
    cdef list events                    # tuples for the session, in order
    cdef object waker                   # called when there is something to send or to tell, once until it is seen to
    cdef bint awake
    cdef uint64_t _chance[2]            # of a generator for what need not be secret
    cdef bint spin_bit                  # may show the RTT to observers (RFC 9000 §17.4)
    cdef uint64_t spin_seed             # on which paths it does, and what else is in it

    # Keys (RFC 9001).
    cdef PacketKey send_key
    cdef PacketKey receive_key
    cdef PacketKey next_receive_key
    cdef PacketKey former_receive_key   # for what was under way when the keys changed
    cdef HeaderKey send_header_key
    cdef HeaderKey receive_header_key
    cdef int version
    cdef bint key_phase
    cdef bint update_wanted
    cdef bint phase_acked
    cdef double former_until
    cdef uint64_t forged                # packets that failed to authenticate (RFC 9001 §6.6)

    # 0-RTT packets (RFC 9001 §4.6, §5.6): see ``zero_rtt``.
    cdef PacketKey early_key            # a server's, to read with
    cdef HeaderKey early_header_key
    cdef double early_until             # when a server stops reading them
    cdef bint reading_early             # the frames at hand are of such a packet
    cdef bint sending_early             # ``send_key`` is a client's 0-RTT key

    # Packet numbers, and what goes with them.
    cdef list spaces                    # all of them
    cdef Space space                    # the one by which data goes
    cdef double max_ack_delay           # ours, s
    # As the peer has asked for (draft-ietf-quic-ack-frequency); RFC 9000 §13.2 until then.
    cdef uint64_t ack_threshold         # ack-eliciting packets that need no ACK at once
    cdef uint64_t reordering_threshold  # 0: reordering is no reason for an ACK
    cdef uint64_t ack_frequency_heard   # sequence numbers below have been seen
    cdef double peer_max_ack_delay
    cdef int peer_ack_exponent
    cdef double peer_min_ack_delay      # s; negative: the peer takes no ACK_FREQUENCY
    cdef uint64_t ack_frequency_next    # sequence number
    cdef uint64_t threshold_asked
    cdef bint ack_frequency_pending
    cdef bint can_mark                  # the sockets can set ECN bits
    cdef int departing_ecn              # of the packet that was built last

    # Paths.
    cdef uint32_t next_path_id
    cdef str congestion
    cdef bint peer_stays                # disable_active_migration (RFC 9000 §18.2)

    # Connection IDs.
    cdef object random_bytes
    cdef object new_cid
    cdef object reset_token
    cdef int own_cid_length
    cdef int peer_cid_limit             # how many of ours the peer will keep

    # Streams.
    cdef dict streams
    cdef Stream last_stream             # most frames are for the same one as the frame before
    cdef uint64_t opened[2]             # streams opened by us, by kind
    cdef uint64_t peer_opened[2]
    cdef uint64_t peer_max_streams[2]   # how many we may open
    cdef uint64_t max_streams[2]        # how many the peer may open
    cdef uint64_t max_streams_sent[2]
    cdef bint max_streams_pending[2]    # to be sent again
    cdef bint streams_blocked_pending[2]
    cdef uint64_t first_window
    cdef uint64_t peer_stream_windows[3]    # at first: bidi opened by the peer of that peer (us), by it, uni
    cdef tuple ready                    # a ReadyQueue for each priority
    cdef list credit_blocked
    cdef list announcing
    cdef list touched_streams

    # Flow control of the connection.
    cdef uint64_t peer_max_data
    cdef uint64_t data_sent
    cdef bint data_blocked_pending
    cdef bint data_blocked_told
    cdef uint64_t max_data
    cdef uint64_t max_data_sent
    cdef bint max_data_pending
    cdef uint64_t data_received
    cdef uint64_t consumed
    cdef uint64_t session_window
    cdef uint64_t stream_bytes_received

    # The rest of what is to be sent.
    cdef SendBuffer crypto_out
    cdef ReceiveBuffer crypto_in
    cdef bint handshake_done_wanted
    cdef object datagrams               # deque of (bytes, time)
    cdef int datagrams_waiting
    cdef DatagramPort port              # None: they are Python's
    cdef int arriving_ecn               # codepoint of the packet that is being read
    cdef uint64_t peer_max_datagram
    cdef bint datagrams_turn
    cdef dict extra_readers             # frame type -> what reads the frames of an extension
    cdef list extra_pending             # their numbers, to be sent
    cdef dict extra_sent                # number -> (frame, on_acked), until it is acknowledged
    cdef uint64_t extra_next
    cdef uint32_t datagram_size_told

    # Time and end.
    cdef double idle_timeout
    cdef double heard_at                # when the last packet came that was authentic
    cdef double idle_from
    cdef bint eliciting_since_heard
    cdef double pacing_at
    cdef double close_at
    cdef bytes close_frame              # CONNECTION_CLOSE as it goes out
    cdef bint close_pending
    cdef uint64_t heard_since_close
    cdef list early_packets             # (bytes, route, time) that came before their keys

    cdef int wake(self) except -1
    cdef uint64_t chance(self) noexcept
    cdef double pto_on(self, Path path) noexcept        # RFC 9002 §6.2.1, without backoff, max_ack_delay included
    cdef double pto(self) noexcept                      # the longest of all spaces' paths in use
    cdef int begin_phase(self) noexcept                 # the keys have changed (RFC 9001 §6)
    cdef bint phase_used(self) noexcept                 # whether packets were sent under the present keys

    # Streams.
    cdef Stream peer_stream(self, uint64_t number, bint receiving)     # None: over and forgotten
    cdef int renew_streams(self, int kind) except -1
    cdef int stream_limit_raised(self, int kind, uint64_t limit) except -1
    cdef int data_limit_raised(self, uint64_t limit) except -1
    cdef bint any_ready(self) noexcept

    # Connection IDs and paths.
    cdef Space space_of(self, uint64_t path_id)         # None when there is none
    cdef int issue_cids(self, Space space) except -1
    cdef Path find_path(self, Space space, object route)
    cdef Path add_path(self, Space space, object route, double now)
    cdef int validate(self, Path path, double now) except -1    # challenge it until it answers or is given up
    cdef double challenge_interval(self) noexcept       # s until it is challenged again
    cdef int start_patience(self, Path path, double now) except -1      # count from now what it takes to answer
    cdef int use_path(self, Space space, Path path, double now) except -1
    cdef int leave_path(self, Path path, double now) except -1  # on a client: keep it for a while
    cdef int path_validated(self, Space space, Path path, double now) except -1
    cdef uint32_t max_datagram(self) noexcept           # largest DATAGRAM payload now
    cdef int size_changed(self) except -1
