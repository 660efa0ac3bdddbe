"""The contract between streams: backpressure and credit, how many streams there may be, and whose turn it is.

Read first: ``joined``. A part of ``contract``; banner order is that of ``types``. Nothing here may know an engine.
"""

from __future__ import annotations

import pytest

from quicsocks.userspace.quic.errors import LocalError
from quicsocks.userspace.quic.types import Limits, Priority

from .joined import SMALL, Contract
from .recorders import StreamLog


class FlowControl(Contract):
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
