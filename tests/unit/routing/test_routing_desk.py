"""A desk over a large cluster prices a few workers only, and never misses those that matter."""

from __future__ import annotations

import random

import pytest

from mygo.config import RoutingConfig
from mygo.directory import Directory, Replica
from mygo.errors import Unavailable
from mygo.routing.desk import DEAD_S, LEAST_BUSY, SCAN_LIMIT, RoutingDesk
from mygo.types import (
    PUBLIC,
    ProfileGrid,
    Prompt,
    RequestId,
    ResidencyEvent,
    Segment,
    SegmentKey,
    SegmentKind,
    WorkerId,
    WorkerInfo,
    WorkerLoad,
    WorkerReport,
)

WORKERS = [WorkerId(f"w{number:03}") for number in range(200)]
SYSTEM, DOCUMENT = SegmentKey("5" * 32), SegmentKey("d" * 32)
PROMPT = Prompt(
    (
        Segment(SegmentKind.SYSTEM, tuple(range(64)), SYSTEM, PUBLIC),
        Segment(SegmentKind.DOCUMENT, tuple(range(640)), DOCUMENT, PUBLIC),
    )
)


def desk(
    *,
    holders: set[WorkerId] = frozenset(),
    busy: set[WorkerId] = frozenset(),
    policy: str = "predicted_seconds",
) -> RoutingDesk:
    """200 workers that all hold the system prompt; ``holders`` the document too; ``busy`` have a queue."""
    directory = Directory("test")
    grid = ProfileGrid((0,), (64, 640), ((0.1, 1.0),))
    for worker in WORKERS:
        directory.join(WorkerInfo(worker, "epoch", "m", 32, 4096, 2048, grid))
        events = [ResidencyEvent(SYSTEM, None, 0, 64, 64, True)]
        if worker in holders:
            events.append(ResidencyEvent(DOCUMENT, SYSTEM, 64, 704, 704, True))
        load = WorkerLoad(waiting=5, queued_tokens=6400) if worker in busy else WorkerLoad()
        directory.apply(WorkerReport(worker, "epoch", 0, tuple(events), load, snapshot=True))
    view = Replica()
    view.follow(directory.snapshot())
    config = RoutingConfig(policy=policy)  # type: ignore[arg-type]
    return RoutingDesk(view, config, max_ongoing=4, rng=random.Random(0))


def test_desk_finds_the_only_holder_among_many_workers() -> None:
    holder = WORKERS[137]
    route = desk(holders={holder}).reserve(RequestId("r"), PROMPT, "", 0.0)
    assert route.worker == holder
    assert route.predicted_cached_tokens == 672  # the last block is always computed
    assert holder in route.considered
    assert len(route.considered) <= SCAN_LIMIT + LEAST_BUSY


def test_desk_still_prices_few_workers_when_all_hold_the_document() -> None:
    route = desk(holders=set(WORKERS)).reserve(RequestId("r"), PROMPT, "", 0.0)
    assert len(route.considered) <= SCAN_LIMIT + LEAST_BUSY


def test_desk_takes_an_idle_worker_for_a_cold_prompt_when_nearly_all_are_busy() -> None:
    idle = {WORKERS[11], WORKERS[190]}
    route = desk(busy=set(WORKERS) - idle).reserve(RequestId("r"), PROMPT, "", 0.0)
    assert route.worker in idle


def test_desk_spreads_cold_prompts_over_idle_workers() -> None:
    crowd = desk()
    seen = {crowd.reserve(RequestId(f"r{i}"), PROMPT, "", float(i)).worker for i in range(3)}
    first = crowd.reserve(RequestId("again"), PROMPT, "", 4.0)
    # siblings follow the first, which is expected to hold the document by now
    assert len(seen) == 1
    assert first.worker in seen


def test_desk_shows_all_workers_to_a_router_that_needs_them() -> None:
    turns = desk(policy="round_robin")
    visited = [turns.reserve(RequestId(f"r{i}"), PROMPT, "", 0.0).worker for i in range(len(WORKERS))]
    assert sorted(visited) == WORKERS


def test_desk_passes_a_lost_worker_by_for_a_while() -> None:
    holder = WORKERS[3]
    routing = desk(holders={holder})
    assert routing.lose(holder, 0.0)
    assert not routing.lose(holder, 1.0)
    assert routing.reserve(RequestId("a"), PROMPT, "", 1.0).worker != holder
    routing.over(RequestId("a"), 1.0)
    assert routing.reserve(RequestId("b"), PROMPT, "", DEAD_S + 60.0).worker == holder


def test_desk_raises_unavailable_when_every_worker_is_full() -> None:
    routing = desk()
    for number in range(4 * len(WORKERS)):
        routing.reserve(RequestId(f"r{number}"), PROMPT, "", 0.0)
    with pytest.raises(Unavailable, match="at its limit"):
        routing.reserve(RequestId("one more"), PROMPT, "", 0.0)


def test_desk_forgets_a_reported_queue_once_it_has_sent_the_worker_a_request() -> None:
    """Scenario: the report shows five requests in line, and no newer one has come. A request that this
    desk sent there has been answered, so the queue before it is gone: its document is there and pays."""
    worker = WORKERS[3]
    routing = desk(holders={worker}, busy={worker})
    others = set(WORKERS) - {worker}
    before = routing.reserve(RequestId("a"), PROMPT, "", 0.0, exclude=others)
    assert before.queue_s >= 6400 / 640
    routing.first_token(RequestId("a"), 1.0)
    routing.over(RequestId("a"), 1.0)
    assert routing.reserve(RequestId("b"), PROMPT, "", 1.1).worker == worker


def test_quote_is_the_route_that_would_be_taken_and_books_nothing() -> None:
    holder = WORKERS[17]
    one = desk(holders={holder})
    quote = one.quote(PROMPT, 0.0)
    assert quote is not None and quote.worker == holder and quote.predicted_cached_tokens == 672
    assert one.open_requests(holder, 0.0) == 0 and not one.routed
    for number in range(4):
        one.reserve(RequestId(str(number)), PROMPT, "", 0.0)
    full = one.quote(PROMPT, 0.0)
    assert full is not None and full.worker != holder, "a full worker takes nothing"


def test_quote_is_none_without_a_worker() -> None:
    assert RoutingDesk(Replica(), RoutingConfig(), 4, random.Random(0)).quote(PROMPT, 0.0) is None
