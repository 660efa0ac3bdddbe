"""What every engine's sessions and streams must do, whatever is below them: the tests of the doors.

A subclass says how two sessions are joined. Nothing here may know an engine. Banner order is that of ``types``.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from quicsocks.userspace.quic.errors import End, LocalError
from quicsocks.userspace.quic.types import Limits, Priority, Session

from .recorders import SessionLog, StreamLog

SMALL = Limits(stream_window=4096, session_window=16384, send_high_water=8192, max_streams_bidi=8, max_streams_uni=2)


@dataclass
class Joined:
    """Two sessions whose handshake is complete. settle: let happen all that can happen without us."""

    client: Session
    server: Session
    client_log: SessionLog
    server_log: SessionLog
    settle: Callable[[], None]

    def pair(self, *, consume: bool = True, priority: Priority = Priority.NORMAL) -> tuple[StreamLog, StreamLog]:
        """A stream that the client opened, seen from both ends; one octet has passed."""
        near = StreamLog(self.client.open_stream(priority=priority))
        near.stream.write(b"!")
        self.settle()
        far = self.server_log.logs[near.stream.id]
        assert far.data == b"!"
        far.data.clear()
        far.consume = consume
        return near, far


class SessionContract:
    def join(
        self,
        limits: Limits | None = None,
        *,
        server_limits: Limits | None = None,
        take: bool = True,
        consume: bool = True,
    ) -> Joined:
        """take, consume: as SessionLog's, at both ends."""
        raise NotImplementedError

    @staticmethod
    def expect_paused(log: StreamLog, paused: bool) -> None:
        assert log.paused is paused

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
        assert joined.client.statistics().streams_open == 1
        assert joined.client.statistics().engine
        assert len(far.data) == 1000

    # --- Streams: data and FIN ---------------------------------------------------------------------------------------

    def test_octets_arrive_in_order_both_ways(self) -> None:
        joined = self.join()
        near, far = joined.pair()
        there, back = random.Random(1).randbytes(300_000), random.Random(2).randbytes(200_000)
        near.stream.write(there)
        far.stream.write(back)
        joined.settle()
        assert far.data == there
        assert near.data == back
        assert near.stream.send_buffered == 0

    def test_nothing_is_called_from_inside_a_call(self) -> None:
        joined = self.join()
        near, far = joined.pair()
        far.stream.write(b"late")
        near.stream.write(b"x")
        near.stream.finish()
        assert not near.data + far.data
        assert not near.calls + far.calls
        joined.settle()
        assert near.data == b"late"

    def test_written_memory_may_be_reused(self) -> None:
        joined = self.join()
        near, far = joined.pair()
        buffer = bytearray(b"abc")
        near.stream.write(buffer)
        near.stream.write(memoryview(buffer)[1:])
        buffer[:] = b"xyz"
        joined.settle()
        assert far.data == b"abcbc"

    def test_fin_in_both_orders_of_half_close(self) -> None:
        joined = self.join()
        near, far = joined.pair()
        near.stream.write(b"request")
        near.stream.finish()
        near.stream.finish()
        joined.settle()
        assert far.data == b"request"
        assert far.calls == [("eof",)]
        assert near.calls == [("sent",)]
        far.stream.write(b"response")
        joined.settle()
        assert near.data == b"response"
        far.stream.finish()
        joined.settle()
        assert near.calls == [("sent",), ("eof",)]
        assert far.calls == [("eof",), ("sent",)]
        assert joined.client.statistics().streams_open == joined.server.statistics().streams_open == 0

    def test_fin_without_data_opens_and_closes(self) -> None:
        joined = self.join()
        near = StreamLog(joined.client.open_stream())
        near.stream.finish()
        joined.settle()
        far = joined.server_log.logs[near.stream.id]
        assert far.data == b""
        assert far.calls == [("eof",)]

    def test_write_after_finish_or_reset_is_a_local_error(self) -> None:
        joined = self.join()
        for finish in (True, False):
            stream = joined.client.open_stream()
            if finish:
                stream.finish()
            else:
                stream.reset(1)
            with pytest.raises(LocalError, match="after finish or reset"):
                stream.write(b"x")

    def test_server_opens_streams_too(self) -> None:
        joined = self.join()
        stream = joined.server.open_stream()
        stream.write(b"hello")
        joined.settle()
        assert joined.client_log.logs[stream.id].data == b"hello"
        assert stream.is_local
        assert not joined.client_log.streams[0].is_local
        assert stream.id & 1 == 1

    def test_unidirectional(self) -> None:
        joined = self.join()
        stream = joined.client.open_stream(bidirectional=False)
        stream.write(b"one way")
        stream.finish()
        joined.settle()
        far = joined.server_log.logs[stream.id]
        assert not far.stream.is_bidirectional
        assert far.data == b"one way"
        with pytest.raises(LocalError, match="receive-only"):
            far.stream.write(b"x")
        with pytest.raises(LocalError, match="receive-only"):
            far.stream.finish()
        with pytest.raises(LocalError, match="receive-only"):
            far.stream.reset(0)
        with pytest.raises(LocalError, match="send-only"):
            stream.stop_sending(0)
        with pytest.raises(LocalError, match="send-only"):
            stream.consumed(0)

    def test_data_waits_for_a_handler(self) -> None:
        joined = self.join(take=False)
        near = StreamLog(joined.client.open_stream())
        near.stream.write(b"early")
        near.stream.finish()
        joined.settle()
        far = StreamLog(joined.server_log.streams[0])
        assert far.data == b"", "delivered from the loop, not from set_handler"
        joined.settle()
        assert far.data == b"early"
        assert far.calls == [("eof",)]

    def test_a_handler_may_be_replaced(self) -> None:
        joined = self.join()
        near, far = joined.pair()
        near.stream.write(b"first")
        joined.settle()
        second = StreamLog(far.stream)
        near.stream.write(b"second")
        joined.settle()
        assert far.data == b"first"
        assert second.data == b"second"

    # --- Streams: RESET_STREAM and STOP_SENDING ----------------------------------------------------------------------

    def test_reset_arrives_with_its_code(self) -> None:
        joined = self.join()
        near, far = joined.pair()
        near.stream.reset(42)
        near.stream.reset(43)
        joined.settle()
        assert far.calls == [("reset", 42)]
        assert near.calls == [("sent",)]
        far.stream.write(b"the other direction lives")
        joined.settle()
        assert near.data == b"the other direction lives"

    def test_reset_of_a_stream_that_never_sent(self) -> None:
        joined = self.join()
        near = StreamLog(joined.client.open_stream())
        near.stream.reset(7)
        joined.settle()
        assert joined.server_log.logs[near.stream.id].calls == [("reset", 7)]

    def test_reset_after_finish_before_it_is_acknowledged(self) -> None:
        joined = self.join(SMALL)
        near, far = joined.pair(consume=False)
        near.stream.write(bytes(6000))
        near.stream.finish()
        joined.settle()
        near.stream.reset(9)
        joined.settle()
        assert far.calls == [("reset", 9)]
        assert len(far.data) <= 4096

    def test_reset_after_all_is_acknowledged_does_nothing(self) -> None:
        joined = self.join()
        near, far = joined.pair()
        near.stream.finish()
        joined.settle()
        near.stream.reset(9)
        joined.settle()
        assert far.calls == [("eof",)]
        assert near.calls == [("sent",)]

    def test_reset_before_a_handler_is_told_later(self) -> None:
        joined = self.join(take=False)
        near = StreamLog(joined.client.open_stream())
        near.stream.write(b"x")
        joined.settle()
        near.stream.reset(5)
        joined.settle()
        far = StreamLog(joined.server_log.streams[0])
        joined.settle()
        assert far.calls == [("reset", 5)]
        assert far.data == b"", "undelivered data is gone"

    def test_stop_is_answered_by_the_handler_only(self) -> None:
        joined = self.join()
        near, far = joined.pair()
        far.stream.stop_sending(13)
        far.stream.stop_sending(14)
        joined.settle()
        assert near.calls == [("stop", 13)]
        near.stream.write(b"still allowed, and dropped")
        joined.settle()
        assert far.data == b""
        assert far.calls == []
        near.stream.reset(13)
        joined.settle()
        assert far.calls == [("reset", 13)]
        assert near.calls == [("stop", 13), ("sent",)]

    def test_stop_then_fin_calls_nothing(self) -> None:
        joined = self.join()
        near, far = joined.pair()
        far.stream.stop_sending(1)
        near.stream.write(b"x")
        near.stream.finish()
        joined.settle()
        assert far.data == b""
        assert far.calls == []
        far.stream.finish()
        joined.settle()
        assert joined.server.statistics().streams_open == joined.client.statistics().streams_open == 0

    def test_stop_of_a_stream_that_never_sent(self) -> None:
        joined = self.join()
        near = StreamLog(joined.client.open_stream())
        near.stream.stop_sending(3)
        joined.settle()
        assert joined.server_log.logs[near.stream.id].calls == [("stop", 3)]

    def test_stop_after_eof_does_nothing(self) -> None:
        joined = self.join()
        near, far = joined.pair()
        near.stream.finish()
        joined.settle()
        far.stream.stop_sending(3)
        joined.settle()
        assert near.calls == [("sent",)]

    def test_stop_and_reset_cross(self) -> None:
        joined = self.join()
        near, far = joined.pair()
        near.stream.reset(1)
        far.stream.stop_sending(2)
        joined.settle()
        assert far.calls == [("reset", 1)]
        assert near.calls in ([("sent",)], [("sent",), ("stop", 2)])
        far.stream.reset(3)
        near.stream.stop_sending(4)
        joined.settle()
        assert near.calls[-1] == ("reset", 3)
        assert joined.client.statistics().streams_open == joined.server.statistics().streams_open == 0

    def test_half_closed_then_reset(self) -> None:
        joined = self.join()
        near, far = joined.pair()
        near.stream.finish()
        joined.settle()
        far.stream.reset(8)
        joined.settle()
        assert near.calls == [("sent",), ("reset", 8)]
        assert far.calls == [("eof",), ("sent",)]

    def test_both_ends_reset_everything_in_every_order(self) -> None:
        joined = self.join()
        actions: list[Callable[[StreamLog, StreamLog], None]] = [
            lambda near, far: near.stream.reset(1),
            lambda near, far: near.stream.stop_sending(2),
            lambda near, far: far.stream.reset(3),
            lambda near, far: far.stream.stop_sending(4),
            lambda near, far: near.stream.finish(),
            lambda near, far: far.stream.finish(),
        ]
        chance = random.Random(5)
        for _ in range(60):
            near, far = joined.pair()
            for action in chance.sample(actions, len(actions)):
                action(near, far)
                if chance.random() < 0.5:
                    joined.settle()
            joined.settle()
            for log in (near, far):
                names = [call[0] for call in log.calls]
                assert names.count("sent") == 1
                assert names.count("eof") + names.count("reset") <= 1
                assert names.count("stop") <= 1
            assert joined.client.statistics().streams_open == joined.server.statistics().streams_open == 0

    # --- Backpressure ------------------------------------------------------------------------------------------------

    def test_writer_is_paused_and_resumed(self) -> None:
        joined = self.join(SMALL)
        near, far = joined.pair(consume=False)
        near.stream.write(bytes(8192))
        self.expect_paused(near, False)
        near.stream.write(b"x")
        assert near.stream.send_buffered == 8193
        self.expect_paused(near, True)
        joined.settle()
        self.expect_paused(near, True)  # Only a window's worth has left.
        arrived = len(far.data)
        # The credit of the opening octet may have been returned, or may wait for more.
        assert arrived in (4095, 4096)
        far.stream.consumed(arrived)
        joined.settle()
        far.stream.consumed(len(far.data) - arrived)
        far.consume = True
        self.expect_paused(near, near.stream.send_buffered > 8192 // 4)
        joined.settle()
        assert len(far.data) == 8193

    def test_windows_do_not_grow_with_use(self) -> None:
        joined = self.join(SMALL)
        pairs = [joined.pair() for _ in range(6)]
        for _ in range(10):
            for near, far in pairs:
                near.stream.write(bytes(5000))
                joined.settle()
                assert len(far.data) % 5000 == 0
        for near, far in pairs:
            far.consume = False
            far.data.clear()
            near.stream.write(bytes(50_000))
        joined.settle()
        assert max(len(far.data) for _, far in pairs) <= 4096
        assert sum(len(far.data) for _, far in pairs) <= 16384

    def test_a_writer_that_does_not_stop_is_refused(self) -> None:
        joined = self.join(SMALL)
        near, _ = joined.pair(consume=False)
        near.stream.write(bytes(10_000))
        near.stream.write(bytes(1 << 20))
        with pytest.raises(LocalError, match="past pause_writing"):
            near.stream.write(b"x")

    def test_a_sink_that_stops_reading_bounds_what_is_sent_and_others_run_on(self) -> None:
        joined = self.join(SMALL)
        stuck, stuck_far = joined.pair(consume=False)
        lively, lively_far = joined.pair()
        stuck.stream.write(bytes(500_000))
        for _ in range(20):
            lively.stream.write(bytes(10_000))
            joined.settle()
        assert len(lively_far.data) == 200_000
        assert len(stuck_far.data) in (4095, 4096)
        assert joined.server.statistics().stream_bytes_received == 200_000 + len(stuck_far.data) + 2

    def test_all_stuck_streams_together_are_bounded_by_the_session(self) -> None:
        joined = self.join(SMALL)
        pairs = [joined.pair(consume=False) for _ in range(7)]
        for near, _ in pairs:
            near.stream.write(bytes(20_000))
        joined.settle()
        # 7 octets of the opening were consumed; that credit may be returned late.
        assert 16384 - 7 <= sum(len(far.data) for _, far in pairs) <= 16384
        for _, far in pairs:
            far.consume = True
            far.stream.consumed(len(far.data))
        joined.settle()
        assert [len(far.data) for _, far in pairs] == [20_000] * 7

    def test_credit_of_reset_streams_returns_to_the_session(self) -> None:
        joined = self.join(SMALL)
        for round_ in range(20):
            near, far = joined.pair(consume=False)
            near.stream.write(bytes(4000))
            joined.settle()
            if round_ % 2:
                near.stream.reset(1)
            else:
                far.stream.stop_sending(1)
                joined.settle()
                near.stream.reset(1)
            far.stream.finish()
            joined.settle()
            far.stream.consumed(len(far.data))  # Too late to matter, and no error.
        near, far = joined.pair()
        near.stream.write(bytes(100_000))
        joined.settle()
        assert len(far.data) == 100_000

    def test_credit_returns_after_both_ends_have_finished(self) -> None:
        joined = self.join(SMALL)
        for _ in range(20):
            near, far = joined.pair(consume=False)
            near.stream.write(bytes(4000))
            near.stream.finish()
            far.stream.finish()
            joined.settle()
            assert sorted(far.calls) == [("eof",), ("sent",)]
            far.stream.consumed(4000)
        near, far = joined.pair()
        near.stream.write(bytes(100_000))
        joined.settle()
        assert len(far.data) == 100_000

    def test_stopped_data_is_dropped_and_credited(self) -> None:
        joined = self.join(SMALL)
        near, far = joined.pair()
        far.stream.stop_sending(1)
        near.stream.write(bytes(200_000))
        near.stream.finish()
        joined.settle()
        assert near.stream.send_buffered == 0
        assert far.data == b""
        assert ("sent",) in near.calls

    def test_more_consumed_than_delivered_is_a_local_error(self) -> None:
        joined = self.join()
        near, far = joined.pair(consume=False)
        near.stream.write(b"12345")
        joined.settle()
        with pytest.raises(LocalError, match="6 bytes consumed of 5"):
            far.stream.consumed(6)
        far.stream.consumed(5)

    def test_held_data_is_bounded_and_credited(self) -> None:
        joined = self.join(SMALL, take=False)
        near = StreamLog(joined.client.open_stream())
        near.stream.write(bytes(20_000))
        joined.settle()
        assert joined.server.statistics().stream_bytes_received == 4096
        joined.server_log.streams[0].stop_sending(1)
        joined.settle()
        assert joined.server.statistics().stream_bytes_received == 20_000

    # --- Stream limits -----------------------------------------------------------------------------------------------

    def test_streams_past_the_limit_wait_and_then_go(self) -> None:
        joined = self.join(SMALL)
        assert joined.client.streams_available() == 8
        nears = [StreamLog(joined.client.open_stream()) for _ in range(20)]
        assert joined.client.streams_available() == 0
        for near in nears:
            near.stream.write(b"x")
        joined.settle()
        assert len(joined.server_log.streams) == 8
        for near in nears:
            near.stream.finish()
        for _ in range(5):
            for far in joined.server_log.logs.values():
                far.stream.finish()
            joined.settle()
        assert len(joined.server_log.streams) == 20
        assert all(sorted(near.calls) == [("eof",), ("sent",)] for near in nears)
        assert joined.client.streams_available() >= 4

    def test_reset_and_stop_of_waiting_streams_wait_too(self) -> None:
        joined = self.join(SMALL)
        first = [StreamLog(joined.client.open_stream()) for _ in range(8)]
        waiting = StreamLog(joined.client.open_stream())
        for near in first:
            near.stream.write(b"x")
        waiting.stream.write(b"never sent")
        waiting.stream.reset(1)
        waiting.stream.stop_sending(2)
        joined.settle()
        assert joined.server_log.ended is None
        for near in first:
            near.stream.finish()
            joined.server_log.logs[near.stream.id].stream.finish()
        joined.settle()
        assert sorted(joined.server_log.logs[waiting.stream.id].calls) == [("reset", 1), ("stop", 2)]

    def test_too_many_waiting_streams_are_refused(self) -> None:
        joined = self.join(Limits(max_streams_bidi=2, streams_waiting=3))
        for _ in range(5):
            joined.client.open_stream()
        with pytest.raises(LocalError, match="3 streams wait"):
            joined.client.open_stream()

    def test_thousands_of_streams_one_after_another(self) -> None:
        joined = self.join(SMALL)
        done = 0
        while done < 3000:
            nears = [StreamLog(joined.client.open_stream()) for _ in range(joined.client.streams_available())]
            assert nears
            for near in nears:
                near.stream.write(b"ping")
                near.stream.finish()
            joined.settle()
            for near in nears:
                far = joined.server_log.logs.pop(near.stream.id)
                assert far.data == b"ping"
                far.stream.finish()
            joined.settle()
            assert all(sorted(near.calls) == [("eof",), ("sent",)] for near in nears)
            done += len(nears)

    def test_unidirectional_limit_is_renewed(self) -> None:
        joined = self.join(SMALL)
        for _ in range(10):
            stream = joined.client.open_stream(bidirectional=False)
            stream.write(b"x")
            stream.finish()
            joined.settle()
        assert len(joined.server_log.streams) == 10

    # --- Priority ----------------------------------------------------------------------------------------------------

    def test_urgent_streams_go_first_and_equals_share(self) -> None:
        joined = self.join(Limits(stream_window=1 << 20))
        bulk, bulk_far = joined.pair(priority=Priority.BULK)
        normal = [joined.pair() for _ in range(2)]
        control, control_far = joined.pair(priority=Priority.CONTROL)
        progress: list[tuple[int, ...]] = []
        finished = control_far.on_call = lambda call: progress.append(
            (len(bulk_far.data), *(len(far.data) for _, far in normal))
        )
        bulk.stream.write(bytes(250_000))
        for near, far in normal:
            far.on_call = finished
            near.stream.write(bytes(250_000))
            near.stream.finish()
        control.stream.write(bytes(50_000))
        control.stream.finish()
        joined.settle()
        (at_control, at_first, _) = progress
        assert sum(at_control) < 100_000, "control data did not wait for what was written before it"
        assert at_first[0] < 100_000, "bulk data waited"
        assert min(at_first[1:]) > 125_000, "two of one priority ran abreast"
        assert len(bulk_far.data) == 250_000

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

    # --- All together ------------------------------------------------------------------------------------------------

    @pytest.mark.parametrize("seed", range(3))
    def test_many_streams_of_random_life(self, seed: int) -> None:
        """Every octet is checked by hash, and every stream ends at both ends."""
        joined = self.join(SMALL, consume=False)
        chance = random.Random(seed)
        alive: list[tuple[StreamLog, bytearray, bytearray]] = []
        checked = 0
        for _ in range(400):
            if joined.client.streams_available() and chance.random() < 0.5:
                alive.append((StreamLog(joined.client.open_stream(), consume=False), bytearray(), bytearray()))
            if alive:
                near, there, back = chance.choice(alive)
                far = joined.server_log.logs.get(near.stream.id)
                for log, sent in ((near, there), (far, back)):
                    if log is not None and not log.paused and chance.random() < 0.7:
                        data = chance.randbytes(chance.randrange(5000))
                        log.stream.write(data)
                        sent += data
            if chance.random() < 0.4:
                joined.settle()
            for near, _, _ in alive:
                for log in (near, joined.server_log.logs.get(near.stream.id)):
                    _consume_some(log, chance)
            if len(alive) > 4:
                near, there, back = alive.pop(0)
                _finish(joined, near, there, back)
                checked += 1
        for near, there, back in alive:
            _finish(joined, near, there, back)
        assert checked > 20
        assert joined.client.statistics().streams_open == joined.server.statistics().streams_open == 0


_consumed: dict[int, int] = {}


def _consume_some(log: StreamLog | None, chance: random.Random | None) -> None:
    """Return the credit of some, or without chance of all, of what has arrived."""
    if log is None or log.consume:
        return
    before = _consumed.get(id(log), 0)
    size = len(log.data) - before
    if chance is not None:
        size = chance.randrange(size + 1)
    log.stream.consumed(size)
    _consumed[id(log)] = before + size


def _finish(joined: Joined, near: StreamLog, there: bytearray, back: bytearray) -> None:
    """Read everything, finish both directions, and compare."""
    if not there:
        near.stream.write(b"x")
        there += b"x"
    near.stream.finish()
    joined.settle()
    far = joined.server_log.logs[near.stream.id]
    far.stream.finish()
    for log in (near, far):
        _consume_some(log, None)
        _consumed.pop(id(log), None)
        log.consume = True
    joined.settle()
    assert hashlib.sha256(far.data).digest() == hashlib.sha256(there).digest()
    assert hashlib.sha256(near.data).digest() == hashlib.sha256(back).digest()
    assert {call[0] for call in near.calls} == {call[0] for call in far.calls} == {"eof", "sent"}
