"""Comparisons beside users' requests: in order, one at a time, and never at their cost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from mygo.blend.verdicts import Divergence
from mygo.errors import Unavailable
from mygo.serve import shadowing
from mygo.serve.divergence import Probed
from mygo.serve.shadowing import QUEUED, Outcome, Shadows
from mygo.types import GenerateRequest, RequestId, Reuse, Sampling, WorkerLoad


def _request(name: str = "r") -> GenerateRequest:
    return GenerateRequest(RequestId(name), [1, 2, 3], (), Sampling(max_tokens=4))


EXACT = Probed((1, 2), {1: -0.1, 2: -3.0}, approximate=False, computed_tokens=30)
BLENDED = replace(EXACT, approximate=True, computed_tokens=4)


class Engine:
    """Answers probes, and says how busy it is."""

    def __init__(self) -> None:
        self.probed: list[tuple[str, Reuse, int]] = []
        self.observed: list[tuple[int, Divergence]] = []
        self.outcomes: Counter[Outcome] = Counter()
        self.computed_tokens = 0
        self.waiting = 0
        self.now_s = 0.0
        self.blended = BLENDED
        self.failure: Exception | None = None
        self.running = 0
        self.shadows = Shadows(self._probe, self._observe, self._load, self._record, lambda: self.now_s)

    async def _probe(self, request: GenerateRequest, reuse: Reuse, ticket: int) -> Probed:
        self.probed.append((request.request_id, reuse, ticket))
        self.running += 1
        assert self.running == 1, "one at a time"
        await asyncio.sleep(0)
        self.running -= 1
        if self.failure is not None:
            raise self.failure
        return self.blended if reuse is Reuse.BLEND else EXACT

    async def _observe(self, ticket: int, divergence: Divergence) -> None:
        self.observed.append((ticket, divergence))

    def _load(self) -> WorkerLoad:
        return WorkerLoad(waiting=self.waiting)

    def _record(self, outcome: Outcome, computed_tokens: int) -> None:
        self.outcomes[outcome] += 1
        self.computed_tokens += computed_tokens


def _run(engine: Engine, during: Callable[[], Awaitable[None]]) -> None:
    async def run() -> None:
        task = asyncio.create_task(engine.shadows.run())
        await during()
        task.cancel()

    asyncio.run(asyncio.wait_for(run(), 10))


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  the parts under test tell nobody
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadowing, "POLL_S", 0.001)


def test_tickets_are_compared_in_order_and_told_with_what_they_cost() -> None:
    engine = Engine()

    async def during() -> None:
        engine.shadows.offer(_request("a"), 7)
        engine.shadows.offer(_request("b"), 8)
        await _until(lambda: engine.outcomes.total() == 2)

    _run(engine, during)
    assert engine.probed == [
        ("a", Reuse.BLEND, 7),
        ("a", Reuse.EXACT, 7),
        ("b", Reuse.BLEND, 8),
        ("b", Reuse.EXACT, 8),
    ]
    assert [ticket for ticket, _ in engine.observed] == [7, 8]
    assert engine.observed[0][1] == Divergence(0.0, 1.0, 1.0)
    assert (engine.outcomes, engine.computed_tokens) == ({Outcome.COMPARED: 2}, 2 * 34)


def test_offer_drops_what_is_too_much_and_returns_at_once() -> None:
    engine = Engine()
    for number in range(QUEUED + 3):
        engine.shadows.offer(_request(), number)
    assert engine.outcomes == {Outcome.DROPPED: 3}


def test_comparison_waits_until_the_engine_has_time() -> None:
    engine = Engine()
    engine.waiting = 5

    async def during() -> None:
        engine.shadows.offer(_request(), 1)
        await asyncio.sleep(0.02)
        assert not engine.probed
        engine.waiting = 1
        await _until(lambda: bool(engine.observed))

    _run(engine, during)


def test_comparison_is_dropped_when_the_engine_stays_busy() -> None:
    engine = Engine()
    engine.waiting = 5

    async def during() -> None:
        engine.shadows.offer(_request(), 1)
        await asyncio.sleep(0.01)
        engine.now_s = shadowing.PATIENCE_S
        await _until(lambda: engine.outcomes[Outcome.DROPPED] == 1)

    _run(engine, during)
    assert not engine.probed


def test_some_comparisons_are_made_however_long_the_engine_stays_busy() -> None:
    engine = Engine()
    engine.waiting = 5

    async def during() -> None:
        for number in range(2 * shadowing.MOST_DROPPED):
            engine.shadows.offer(_request(), number)
            dropped = engine.outcomes.total()
            await asyncio.sleep(0.002)
            engine.now_s += shadowing.PATIENCE_S
            await _until(lambda dropped=dropped: engine.outcomes.total() > dropped)  # type: ignore[misc]

    _run(engine, during)
    assert [ticket for ticket, _ in engine.observed] == [shadowing.MOST_DROPPED]
    assert engine.outcomes[Outcome.DROPPED] == 2 * shadowing.MOST_DROPPED - 1


def test_nothing_is_told_when_nothing_was_blended() -> None:
    """Scenario: the documents left the cache meanwhile. Exact against exact would be proof of nothing."""
    engine = Engine()
    engine.blended = replace(BLENDED, approximate=False)

    async def during() -> None:
        engine.shadows.offer(_request(), 1)
        await _until(lambda: bool(engine.outcomes))

    _run(engine, during)
    assert (engine.outcomes, engine.observed, len(engine.probed)) == ({Outcome.VOID: 1}, [], 1)


def test_next_comparison_is_done_when_one_failed() -> None:
    engine = Engine()
    engine.failure = Unavailable("the engine died")

    async def during() -> None:
        engine.shadows.offer(_request(), 1)
        await _until(lambda: engine.outcomes[Outcome.FAILED] == 1)
        engine.failure = None
        engine.shadows.offer(_request(), 2)
        await _until(lambda: engine.outcomes[Outcome.COMPARED] == 1)

    _run(engine, during)
    assert [ticket for ticket, _ in engine.observed] == [2]
