"""The order of admission: against a naive model, RAGCache's example, and its bound under a hundred thousand
arrivals."""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass
from types import FrameType
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from mygo.tree import admission
from mygo.tree.admission import DUE_FACTOR, ORDERS, AdmissionOrder, Appraisal, due, ratio

WINDOW = 3


@dataclass
class _Waiting:
    name: int
    worth: int
    overtaken: int = 0


class _Naive(RuleBasedStateMachine):
    """Counters for each request, as RAGCache's pseudocode has them."""

    def __init__(self) -> None:
        super().__init__()
        self.order: AdmissionOrder[int] = AdmissionOrder(WINDOW)
        self.waiting: list[_Waiting] = []
        self.taken: list[_Waiting] = []
        self.joined = 0

    def _expected(self) -> int | None:
        if not self.waiting:
            return None
        if self._overtaken(self.waiting[0]) >= WINDOW:
            return self.waiting[0].name
        return max(self.waiting[: WINDOW + 1], key=lambda each: (each.worth, -each.name)).name

    def _overtaken(self, one: _Waiting) -> int:
        return one.overtaken + sum(taken.name > one.name for taken in self.taken)

    def _worth(self, name: int) -> float:
        return next(each.worth for each in self.waiting if each.name == name)

    @rule(worth=st.integers(0, 3))
    def join(self, worth: int) -> None:
        self.joined += 1
        self.waiting.append(_Waiting(self.joined, worth))
        self.order.join(self.joined)

    @precondition(lambda self: self.waiting)
    @rule()
    def take_first(self) -> None:
        first = self.order.first(self._worth)
        assert first is not None
        self.order.take(first)
        one = next(each for each in self.waiting if each.name == first)
        self.waiting.remove(one)
        self.taken.append(one)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.taken))
        assert self.order.give_back(one.name)
        self.taken.remove(one)
        self.waiting = sorted([*self.waiting, one], key=lambda each: each.name)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(self.waiting))
        self.order.leave(one.name)
        self.waiting.remove(one)

    @rule()
    def settle(self) -> None:
        assert self.order.settle() == len(self.taken)
        for one in self.waiting:
            one.overtaken = self._overtaken(one)
        self.taken.clear()

    @invariant()
    def agrees(self) -> None:
        assert list(self.order) == [each.name for each in self.waiting]
        assert len(self.order) == len(self.waiting)
        assert self.order.first(self._worth) == self._expected()
        assert self.order.candidates == [each.name for each in self.waiting[: WINDOW + 1]]


TestOrderAgreesWithNaiveModelWhenOperationsAreRandom = _Naive.TestCase
TestOrderAgreesWithNaiveModelWhenOperationsAreRandom.settings = settings(
    max_examples=150, stateful_step_count=40, deadline=None
)


@pytest.mark.parametrize("name", ORDERS)
@pytest.mark.parametrize(("window", "hits"), [(0, 0), (1, 3), (2, 4), (32, 4)])
def test_order_raises_hits_when_two_documents_alternate_in_a_cache_of_one(
    name: str, window: int, hits: int
) -> None:
    """Scenario: RAGCache's example, six requests. Two of them must miss in any order."""
    documents = ["D1", "D2"] * 3
    order: AdmissionOrder[int] = AdmissionOrder(window)
    for request in range(len(documents)):
        order.join(request)
    cached, found = "", 0

    def worth(request: int) -> float:
        serve_s = 0.1 if documents[request] == cached else 1.0
        return ORDERS[name](Appraisal(0.0, 1, serve_s, 1.0))

    while (request := order.first(worth)) is not None:
        order.take(request)
        order.settle()
        found += documents[request] == cached
        cached = documents[request]
    assert found == hits


@pytest.mark.parametrize("window", [1, 8, 32])
def test_nobody_waits_beyond_the_window_when_a_hundred_thousand_arrive(window: int) -> None:
    """Whoever would always be chosen keeps coming; some give up, some are passed over by the engine."""
    rng = random.Random(window)
    order: AdmissionOrder[int] = AdmissionOrder(window)
    worth: dict[int, float] = {}
    turn: dict[int, int] = {}  # admissions until it would be served, first come, first served
    admitted = joined = most = 0

    def admit() -> None:
        nonlocal admitted, most
        first = order.first(worth.__getitem__)
        assert first is not None
        order.take(first)
        if rng.random() < 0.01:
            assert order.give_back(first)
            return
        order.settle()
        admitted += 1
        most = max(most, admitted - turn.pop(first))
        del worth[first]

    while joined < 100_000:
        joined += 1
        order.join(joined)
        worth[joined] = rng.random() if rng.random() < 0.3 else joined  # the latest are worth most
        turn[joined] = admitted + len(order)
        if len(order) > 200 or rng.random() < 0.5:
            admit()
        if len(order) and rng.random() < 0.02:
            gone = rng.choice(list(turn))
            order.leave(gone)
            del turn[gone], worth[gone]
    while len(order):
        admit()
    assert 0 < most <= window


def test_first_asks_for_no_more_than_the_window_when_many_wait() -> None:
    order: AdmissionOrder[int] = AdmissionOrder(8)
    for request in range(1_000):
        order.join(request)
    asked: list[int] = []

    def worth(request: int) -> float:
        asked.append(request)
        return 1.0

    assert order.first(worth) == 0  # the first among equals
    assert asked == list(range(9))


def _lines_run(passed_over: int) -> int:
    """Lines of the order's code that run when an engine passes over so many requests at once."""
    order: AdmissionOrder[int] = AdmissionOrder(8)
    for request in range(passed_over):
        order.join(request)
    lines = 0

    def count(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal lines
        if frame.f_code.co_filename != admission.__file__:
            return None
        lines += event == "line"
        return count

    before = sys.gettrace()
    sys.settrace(count)
    try:
        skipped: list[int] = []
        while (request := order.first(float)) is not None:
            order.take(request)
            skipped.append(request)
        for request in skipped:
            assert order.give_back(request)
        order.settle()
    finally:
        sys.settrace(before)
    assert list(order) == list(range(passed_over))
    return lines


def test_passing_over_ten_times_as_many_takes_ten_times_as_much() -> None:
    assert _lines_run(2_000) < 11 * _lines_run(200)


def test_order_keeps_no_trace_of_the_admitted_when_all_are_gone() -> None:
    order: AdmissionOrder[int] = AdmissionOrder(4)
    for request in range(6):
        order.join(request)
    for request in (3, 2, 5):
        order.take(request)
    assert order.settle() == 3
    order.leave(0)
    order.leave(1)
    order.leave(9)  # unknown
    assert repr(order) == "AdmissionOrder(window=4, waiting=1, gaps=1)"
    order.leave(4)
    assert repr(order) == "AdmissionOrder(window=4, waiting=0, gaps=0)"
    assert order.first(float) is None


def test_due_is_shortest_first_among_those_who_came_together_and_first_come_after_a_while() -> None:
    short, long = Appraisal(0.0, 10, 0.1, 1.0), Appraisal(0.0, 1_000, 1.0, 1.0)
    assert due(short) > due(long)
    late = 2 * DUE_FACTOR
    assert due(Appraisal(late, 10, 0.1, 1.0)) < due(long)
    assert due(Appraisal(1.0, 10)) > due(Appraisal(2.0, 1))  # nobody knows seconds


def test_ratio_prefers_what_is_cached_to_what_is_short() -> None:
    warm, short = Appraisal(0.0, 1_000, 1.0, 10.0), Appraisal(0.0, 100, 0.1, 0.1)
    assert ratio(warm) > ratio(short) == ratio(Appraisal(0.0, 5)) == 1.0
