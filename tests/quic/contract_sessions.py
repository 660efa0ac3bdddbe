"""The contract of a session as a whole: its handshake, its datagrams, its end.

Read first: ``joined``. A part of ``contract``; banner order is that of ``types``. Nothing here may know an engine.
"""

from __future__ import annotations

import pytest

from quicsocks.userspace.quic.errors import End, LocalError
from quicsocks.userspace.quic.types import Limits

from .joined import Contract


class HandshakesDatagramsAndEnds(Contract):
    # --- Handshake ---------------------------------------------------------------------------------------------------

    def test_both_ends_know_what_was_agreed(self) -> None:
        joined = self.join()
        for session, log in ((joined.client, joined.client_log), (joined.server, joined.server_log)):
            assert log.calls == [("complete",)]
            assert session.alpn == "test/1"
            assert session.ended is None
        assert joined.client.is_client
        assert not joined.server.is_client
        assert len(joined.client.peer_public_key) > 20
        assert joined.server.peer_public_key == b""
        assert joined.client.local_address[1]
        assert joined.client.peer_address == joined.server.local_address

    def test_keying_material_is_equal_and_depends_on_all_of_its_inputs(self) -> None:
        joined = self.join()
        seen = set()
        for label, context, length in ((b"a", b"", 32), (b"b", b"", 32), (b"a", b"c", 32), (b"a", b"", 48)):
            value = joined.client.export_keying_material(label, context, length)
            assert value == joined.server.export_keying_material(label, context, length)
            assert len(value) == length
            seen.add(value[:32])
        assert len(seen) == 4

    def test_paths_and_statistics(self) -> None:
        joined = self.join()
        (path,) = joined.client.paths()
        assert path.carrier == "udp"
        assert path.validated
        assert path.remote == joined.client.peer_address
        near, far = joined.pair()
        near.stream.write(bytes(1000))
        joined.settle()
        assert joined.server.statistics().stream_bytes_received == 1001
        assert joined.client.statistics().stream_bytes_sent == 1001
        assert joined.client.statistics().streams_open == 1
        assert joined.client.statistics().engine
        assert len(far.data) == 1000

    # --- Datagrams ---------------------------------------------------------------------------------------------------

    def test_datagrams_pass_both_ways(self) -> None:
        joined = self.join()
        assert joined.client.max_datagram_size >= 1000
        assert joined.client_log.max_datagram_size == joined.client.max_datagram_size
        for size in (0, 1, 1000, joined.client.max_datagram_size):
            assert joined.client.send_datagram(bytes(size))
            joined.settle()
            assert joined.server_log.datagrams.pop() == bytes(size)
        assert joined.server.send_datagram(memoryview(b"back"))
        joined.settle()
        assert joined.client_log.datagrams == [b"back"]

    def test_a_datagram_that_is_too_large_is_refused(self) -> None:
        joined = self.join()
        assert not joined.client.send_datagram(bytes(joined.client.max_datagram_size + 1))
        joined.settle()
        assert joined.server_log.datagrams == []

    def test_the_queue_of_datagrams_drops_its_oldest(self) -> None:
        joined = self.join(Limits(datagram_queue=4))
        for number in range(10):
            assert joined.client.send_datagram(bytes([number]))
        joined.settle()
        assert joined.server_log.datagrams == [bytes([number]) for number in range(6, 10)]
        assert joined.client.statistics().datagrams_dropped == 6

    def test_no_datagrams_for_a_peer_that_takes_none(self) -> None:
        joined = self.join(server_limits=Limits(max_datagram_frame_size=0))
        assert joined.client.max_datagram_size == 0
        assert not joined.client.send_datagram(b"x")

    # --- Ending ------------------------------------------------------------------------------------------------------

    def test_close_is_told_to_all_at_both_ends(self) -> None:
        joined = self.join()
        near, far = joined.pair()
        joined.client.close(0x103, "good bye")
        joined.client.close(0x104, "again")
        assert joined.client_log.ended is not None
        assert joined.client_log.ended.end is End.LOCALLY_CLOSED
        joined.settle()
        ended = joined.server_log.ended
        assert ended is not None
        assert (ended.end, ended.code, ended.reason) == (End.PEER_CLOSED, 0x103, "good bye")
        assert near.calls == [("lost", End.LOCALLY_CLOSED)]
        assert far.calls == [("lost", End.PEER_CLOSED)]
        assert joined.server.ended == ended
        assert joined.server_log.calls[-1] == ("ended", End.PEER_CLOSED)

    def test_after_the_end_everything_is_quiet(self) -> None:
        joined = self.join()
        near, far = joined.pair(consume=False)
        near.stream.write(bytes(5000))
        joined.settle()
        joined.server.close(1)
        joined.settle()
        for log in (near, far):
            log.stream.write(b"x")
            log.stream.finish()
            log.stream.reset(1)
            log.stream.stop_sending(1)
            log.stream.consumed(1)
        assert not joined.client.send_datagram(b"x")
        assert joined.client.streams_available() == 0
        with pytest.raises(LocalError, match="has ended"):
            joined.client.open_stream()
        joined.settle()
        assert near.calls == [("lost", End.PEER_CLOSED)]
        assert far.calls == [("lost", End.LOCALLY_CLOSED)]

    def test_streams_that_are_over_do_not_hear_of_the_end(self) -> None:
        joined = self.join()
        near, far = joined.pair()
        near.stream.finish()
        far.stream.finish()
        joined.settle()
        joined.client.close()
        joined.settle()
        for log in (near, far):
            assert sorted(log.calls) == [("eof",), ("sent",)]

    def test_close_from_inside_a_callback(self) -> None:
        joined = self.join()
        near, far = joined.pair()
        far.on_call = lambda call: joined.server.close(5) if call == ("eof",) else None
        near.stream.write(b"x")
        near.stream.finish()
        joined.settle()
        assert far.calls == [("eof",), ("lost", End.LOCALLY_CLOSED)]
        assert joined.client_log.ended is not None
        assert joined.client_log.ended.code == 5
