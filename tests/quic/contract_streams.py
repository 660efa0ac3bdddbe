"""The contract of one stream: data and FIN, RESET_STREAM and STOP_SENDING, in every order.

Read first: ``joined``. A part of ``contract``; banner order is that of ``types``. Nothing here may know an engine.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from quicsocks.userspace.quic.errors import LocalError

from .joined import SMALL, Contract
from .recorders import StreamLog


class StreamsOfEveryLife(Contract):
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
