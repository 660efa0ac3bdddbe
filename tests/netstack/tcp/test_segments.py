"""The scoreboard against a plain model, by random sequences of what may happen to it."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quicsocks.netstack.tcp.segments import SegmentsFace

SACKED, LOST, RESENT, FINAL, ONCE_LOST = 1, 2, 4, 8, 32


@dataclass
class Piece:
    offset: int
    size: int
    order: int
    times: int = 1
    sacked: bool = False
    lost: bool = False


class Scoreboard(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.real = SegmentsFace()
        self.model: list[Piece] = []
        self.first = 0
        self.end = 0
        self.order = 0

    def number(self, index: int) -> int:
        return self.first + index

    def depart(self, piece: Piece) -> None:
        piece.order = self.order
        self.order += 1

    @rule(size=st.integers(1, 3000), count=st.integers(1, 40))
    def send(self, size: int, count: int) -> None:
        for _ in range(count):
            assert self.real.send(self.end, size, 1.0) == self.number(len(self.model))
            piece = Piece(self.end, size, 0)
            self.depart(piece)
            self.model.append(piece)
            self.end += size

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def send_again(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.model) - 1))
        piece = self.model[index]
        if not piece.sacked:
            self.real.send_again(self.number(index), 2.0)
            piece.lost = False
            piece.times += 1
            self.depart(piece)

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def sack(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.model) - 1))
        if not self.model[index].sacked:
            self.real.sack(self.number(index))
            self.model[index].sacked, self.model[index].lost = True, False

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        index = data.draw(st.integers(0, len(self.model) - 1))
        if not self.model[index].sacked and not self.model[index].lost:
            self.real.lose(self.number(index))
            self.model[index].lost = True

    @precondition(lambda self: self.model)
    @rule(count=st.integers(1, 30))
    def acknowledge(self, count: int) -> None:
        for _ in range(min(count, len(self.model))):
            self.real.drop()
            self.model.pop(0)
            self.first += 1

    @precondition(lambda self: self.model)
    @rule(share=st.floats(0, 0.99))
    def acknowledge_in_part(self, share: float) -> None:
        piece = self.model[0]
        gone = int(piece.size * share)
        self.real.cut(piece.offset + gone)
        piece.offset += gone
        piece.size -= gone

    @rule()
    def restore(self) -> None:
        self.real.restore()
        for piece in self.model:
            piece.lost = False

    @rule()
    def renege(self) -> None:
        self.real.renege()
        for piece in self.model:
            if piece.sacked:
                piece.sacked, piece.lost = False, True

    @rule(most=st.integers(100, 3000))
    def split(self, most: int) -> None:
        self.real.split_all(most)
        pieces: list[Piece] = []
        for piece in self.model:
            if piece.sacked:
                pieces.append(piece)
                continue
            pieces += [
                Piece(piece.offset + at, min(most, piece.size - at), piece.order, piece.times, False, piece.lost)
                for at in range(0, piece.size, most)
            ]
        self.model = pieces

    @invariant()
    def agrees(self) -> None:
        assert self.real.next - self.real.first == len(self.model)
        assert self.real.first == self.first or not self.model
        found = self.real.all()
        assert [(offset, size) for offset, size, _, _ in found] == [(piece.offset, piece.size) for piece in self.model]
        assert [bool(marks & SACKED) for _, _, marks, _ in found] == [piece.sacked for piece in self.model]
        assert [bool(marks & LOST) for _, _, marks, _ in found] == [piece.lost for piece in self.model]
        assert [times for _, _, _, times in found] == [piece.times for piece in self.model]
        flying = [(piece.order, index) for index, piece in enumerate(self.model) if not piece.sacked and not piece.lost]
        assert self.real.flight() == [self.number(index) for _, index in sorted(flying)]
        assert self.real.in_flight == sum(self.model[index].size for _, index in flying)
        assert self.real.sacked_count == sum(piece.sacked for piece in self.model)
        assert self.real.lost_count == sum(piece.lost for piece in self.model)
        lost = [index for index, piece in enumerate(self.model) if piece.lost]
        assert self.real.next_lost() == (self.number(lost[0]) if lost else None)
        covered: set[int] = set()
        for start, stop in self.real.sacked_ranges():
            covered.update((start, stop))
        for piece in self.model:
            inside = any(start <= piece.offset < stop for start, stop in self.real.sacked_ranges())
            assert inside == piece.sacked
        if self.model:
            middle = self.model[len(self.model) // 2]
            number = self.number(len(self.model) // 2)
            assert self.real.at(middle.offset) == (number, number)
            if middle.size > 1:
                assert self.real.at(middle.offset + 1) == (number + 1, number)


TestScoreboard = Scoreboard.TestCase
TestScoreboard.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_a_final_segment_keeps_its_fin_when_it_is_split() -> None:
    segments = SegmentsFace()
    segments.send(0, 1000, 1.0)
    segments.split_all(400)
    assert [(offset, size) for offset, size, _, _ in segments.all()] == [(0, 400), (400, 400), (800, 200)]
    assert segments.flight() == [0, 1, 2]
    assert segments.in_flight == 1000
