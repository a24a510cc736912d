"""Reservations: backlog in seconds, credit for elapsed time, open requests, and what siblings sent."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mygo.routing import Reservations, queue_s
from mygo.types import Dispatch, Phase, ProfileGrid, RequestId, WorkerId, WorkerLoad

W, V = WorkerId("w"), WorkerId("v")
PROFILE = ProfileGrid((0, 1000), (100, 1000), ((0.2, 1.0), (0.4, 2.0)))


def rid(number: int) -> RequestId:
    return RequestId(str(number))


def test_backlog_is_the_sum_of_predictions_when_nothing_has_begun() -> None:
    book = Reservations()
    for number in range(3):
        book.reserve(rid(number), W, 2.0, now_s=0.0)
    assert book.backlog_s(W, 0.0) == 6.0
    assert book.backlog_s(V, 0.0) == 0.0


def test_backlog_credits_only_the_oldest_when_time_passes() -> None:
    book = Reservations()
    for number in range(3):
        book.reserve(rid(number), W, 2.0, now_s=0.0)
    assert book.backlog_s(W, 1.5) == 4.5
    assert book.backlog_s(W, 50.0) == 4.0  # slower than predicted: the others still wait


def test_backlog_credits_the_next_from_when_it_began_when_one_is_released() -> None:
    book = Reservations()
    book.reserve(rid(0), W, 2.0, now_s=0.0)
    book.reserve(rid(1), W, 2.0, now_s=0.0)
    book.release(rid(0), now_s=3.0)
    assert book.backlog_s(W, 3.5) == 1.5
    assert book.open_requests(W, 3.5) == 2
    book.finish(rid(0))
    assert book.open_requests(W, 3.5) == 1


def test_reservation_moves_when_the_request_is_retried_elsewhere() -> None:
    book = Reservations()
    book.reserve(rid(0), W, 2.0, now_s=0.0)
    book.reserve(rid(0), V, 3.0, now_s=1.0)
    assert (book.backlog_s(W, 1.0), book.backlog_s(V, 1.0)) == (0.0, 3.0)
    assert (book.open_requests(W, 1.0), book.open_requests(V, 1.0)) == (0, 1)


def test_lost_release_and_finish_stop_counting_when_they_expire() -> None:
    book = Reservations(prefill_expiry_s=10.0, request_expiry_s=100.0)
    book.reserve(rid(0), W, 50.0, now_s=0.0)
    book.reserve(rid(1), W, 3.0, now_s=9.0)
    assert book.backlog_s(W, 9.0) == 44.0
    assert book.backlog_s(W, 10.0) == 2.0
    assert book.open_requests(W, 99.0) == 2
    assert book.open_requests(W, 100.0) == 1


def test_unknown_requests_are_ignored_when_released_or_finished() -> None:
    book = Reservations()
    book.release(rid(7), now_s=0.0)
    book.finish(rid(7))
    assert book.open_requests(W, 0.0) == 0


def test_siblings_requests_count_when_mirrored_until_they_vanish() -> None:
    def sent(number: int, phase: Phase = Phase.PREFILL, worker: WorkerId = W) -> Dispatch:
        return Dispatch(rid(number), worker, (), 2.0, sent_s=0.0, expires_s=30.0, phase=phase)

    book = Reservations()
    book.reserve(rid(0), W, 1.0, now_s=0.0)
    book.mirror([sent(1), sent(2), sent(3, Phase.DECODE), sent(4, Phase.DONE)], now_s=0.0)
    assert book.backlog_s(W, 0.0) == 5.0
    assert book.open_requests(W, 0.0) == 4
    book.mirror([sent(1, Phase.DECODE), sent(2, worker=V)], now_s=1.0)
    assert book.backlog_s(W, 1.0) == 1.0
    assert book.open_requests(W, 1.0) == 2
    assert book.backlog_s(V, 0.0) == 2.0
    book.mirror([], now_s=2.0)
    assert (book.open_requests(W, 2.0), book.open_requests(V, 2.0)) == (1, 0)
    assert repr(book) == "<Reservations {w: 1}>"


actions = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "release", "finish"]),
        st.integers(0, 5),
        st.sampled_from([W, V]),
        st.floats(0, 5),
    ),
    max_size=30,
)


@settings(deadline=None)
@given(actions=actions)
def test_backlog_stays_within_bounds_when_calls_are_random(
    actions: list[tuple[str, int, WorkerId, float]],
) -> None:
    book = Reservations(prefill_expiry_s=1e9, request_expiry_s=1e9)
    waiting: dict[RequestId, tuple[WorkerId, float]] = {}
    open_: dict[RequestId, WorkerId] = {}
    for now_s, (action, number, worker, prefill_s) in enumerate(actions):
        key = rid(number)
        if action == "reserve":
            book.reserve(key, worker, prefill_s, float(now_s))
            waiting[key], open_[key] = (worker, prefill_s), worker
        elif action == "release":
            book.release(key, float(now_s))
            waiting.pop(key, None)
        else:
            book.finish(key)
            waiting.pop(key, None)
            open_.pop(key, None)
        for each in (W, V):
            ahead = [seconds for name, seconds in waiting.values() if name == each]
            backlog_s = book.backlog_s(each, float(now_s))
            assert sum(ahead) - max(ahead, default=0.0) - 1e-9 <= backlog_s <= sum(ahead) + 1e-9
            assert book.open_requests(each, float(now_s)) == list(open_.values()).count(each)


def test_queue_is_the_larger_view_when_report_and_reservations_differ() -> None:
    assert queue_s(PROFILE, WorkerLoad(queued_tokens=0), 0.7) == 0.7
    assert queue_s(PROFILE, WorkerLoad(queued_tokens=1000), 0.7) == 1.0
    assert queue_s(PROFILE, WorkerLoad(queued_tokens=1000), 1.7) == 1.7
    assert queue_s(PROFILE, WorkerLoad(queued_tokens=4000), 0.0) == 4.0
