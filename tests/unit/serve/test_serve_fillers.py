"""Copies behind neutral documents beside users' requests: never at their cost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from mygo.blend.fillers import PATIENCE_S
from mygo.errors import Unavailable
from mygo.serve import fillers
from mygo.serve.fillers import Fillers, Outcome
from mygo.types import (
    GenerateRequest,
    PrefillStats,
    RequestId,
    Sampling,
    SegmentKey,
    SegmentSpan,
    Tier,
    TokenDelta,
    WorkerLoad,
)
from mygo.vllm_plugin.filling import FillerNews
from mygo.vllm_plugin.retirement import LATE_S

NEUTRAL = [[7, 7], [8]]
REQUEST = GenerateRequest(
    RequestId("r"),
    [1, 2, 3, 4, 5, 6],
    (
        SegmentSpan(SegmentKey("a" * 32), 1, "system"),
        SegmentSpan(SegmentKey("b" * 32), 3, "narrow", "tag 1", "own 1"),
        SegmentSpan(SegmentKey("c" * 32), 5, "narrow", "tag 2", "own 2"),
        SegmentSpan(SegmentKey("d" * 32), 6, "narrow"),
    ),
    Sampling(max_tokens=9),
)


class Engine:
    """Takes until it is let go, and says how busy it is."""

    def __init__(self) -> None:
        self.served: list[GenerateRequest] = []
        self.aborted = 0
        self.outcomes: Counter[Outcome] = Counter()
        self.computed_tokens = self.used_tokens = 0
        self.now_s = 0.0
        self.running = 0
        self.failure: Exception | None = None
        self.let_go = asyncio.Event()
        self.fillers = Fillers(self._serve, NEUTRAL, self._load, self._record, self._use, lambda: self.now_s)

    async def _serve(self, request: GenerateRequest) -> AsyncIterator[TokenDelta]:
        self.served.append(request)
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.aborted += 1
            raise
        if self.failure is not None:
            raise self.failure
        stats = PrefillStats({Tier.DEVICE: 1}, queue_s=0, prefill_s=0)
        yield TokenDelta(text="", token_ids=(1,), finish_reason="length", prefill=stats)

    def _load(self) -> WorkerLoad:
        return WorkerLoad(running=self.running)

    def _record(self, outcome: Outcome, computed_tokens: int) -> None:
        self.outcomes[outcome] += 1
        self.computed_tokens += computed_tokens

    def _use(self, tokens: int) -> None:
        self.used_tokens += tokens


def _run(during: Callable[[Engine], Awaitable[None]]) -> Engine:
    async def run() -> Engine:
        engine = Engine()
        task = asyncio.create_task(engine.fillers.run())
        await during(engine)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return engine

    return asyncio.run(asyncio.wait_for(run(), 20))


async def _until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110  the parts under test tell nobody
        await asyncio.sleep(0.001)


async def _a_while() -> None:
    """Long enough for whatever is going to happen at these pauses."""
    for _ in range(50):
        await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fillers, "QUIET_S", 0.001)
    monkeypatch.setattr(fillers, "POLL_S", 0.001)


def test_wanted_document_is_computed_behind_system_prompt_and_neutral_documents_alone() -> None:
    async def during(engine: Engine) -> None:
        engine.let_go.set()
        engine.fillers.offer(REQUEST, FillerNews(used_tokens=5, wanted=((2, 1.5),)))
        await _until(lambda: engine.outcomes.total() == 1)

    engine = _run(during)
    (asked,) = engine.served
    assert list(asked.token_ids) == [1, 7, 7, 8, 4, 5] and asked.is_filling
    assert [(span.end_tokens, span.salt) for span in asked.spans] == [
        (1, "system"),
        (3, "system"),
        (4, "system"),
        (6, "own 2"),
    ]
    assert [span.tag for span in asked.spans][3] == "tag 2" and asked.sampling.max_tokens == 1
    assert len({span.key for span in (*asked.spans, *REQUEST.spans)}) == 7, "only the system prompt is shared"
    assert engine.outcomes == {Outcome.CAPTURED: 1}
    assert (engine.computed_tokens, engine.used_tokens) == (5, 5)


def test_nothing_is_computed_while_a_request_is_served_or_the_engine_is_busy() -> None:
    async def during(engine: Engine) -> None:
        engine.let_go.set()
        engine.running = 1
        with engine.fillers.serving():
            engine.fillers.offer(REQUEST, FillerNews(wanted=((1, 1.0),)))
            await _a_while()
            assert not engine.served
        await _a_while()
        assert not engine.served, "somebody else's request runs"
        engine.running = 0
        await _until(lambda: bool(engine.served))

    _run(during)


def test_request_that_comes_aborts_what_is_computed_and_it_is_tried_again_afterwards() -> None:
    async def during(engine: Engine) -> None:
        engine.fillers.offer(REQUEST, FillerNews(wanted=((1, 1.0),)))
        await _until(lambda: len(engine.served) == 1)
        with engine.fillers.serving():
            await _until(lambda: engine.aborted == 1)
            await _a_while()
            assert len(engine.served) == 1
        engine.let_go.set()
        await _until(lambda: engine.outcomes.total() == 2)

    engine = _run(during)
    assert engine.outcomes == {Outcome.INTERRUPTED: 1, Outcome.CAPTURED: 1}
    first, second = engine.served
    assert first.request_id != second.request_id and first.token_ids == second.token_ids


def test_one_is_computed_at_a_time_the_most_valuable_first_and_each_once() -> None:
    async def during(engine: Engine) -> None:
        engine.fillers.offer(REQUEST, FillerNews(wanted=((1, 1.0),)))
        engine.fillers.offer(REQUEST, FillerNews(wanted=((1, 1.5), (2, 2.0))))
        await _until(lambda: len(engine.served) == 1)
        await _a_while()
        assert len(engine.served) == 1
        engine.let_go.set()
        await _until(lambda: engine.outcomes.total() == 2)
        await _a_while()

    engine = _run(during)
    assert [asked.spans[-1].tag for asked in engine.served] == ["tag 2", "tag 1"]


def test_wish_is_forgotten_before_the_engine_forgets_what_was_deleted() -> None:
    """Else a passage that was deleted since would be computed and kept again."""
    assert PATIENCE_S + 60 < LATE_S


def test_failure_costs_one_copy_and_nothing_else() -> None:
    async def during(engine: Engine) -> None:
        engine.let_go.set()
        engine.failure = Unavailable("the engine died")
        engine.fillers.offer(REQUEST, FillerNews(wanted=((1, 1.0),)))
        await _until(lambda: engine.outcomes[Outcome.FAILED] == 1)
        engine.failure = None
        engine.fillers.offer(REQUEST, FillerNews(wanted=((2, 1.0),)))
        await _until(lambda: engine.outcomes[Outcome.CAPTURED] == 1)

    _run(during)


def test_engine_that_is_always_busy_is_left_alone_and_old_wishes_are_forgotten() -> None:
    async def during(engine: Engine) -> None:
        engine.let_go.set()
        with engine.fillers.serving():
            engine.fillers.offer(REQUEST, FillerNews(wanted=((1, 1.0),)))
            engine.now_s = PATIENCE_S + 1
            engine.fillers.offer(REQUEST, FillerNews(wanted=((2, 0.1),)))
        await _until(lambda: engine.outcomes.total() == 1)
        await _a_while()

    assert [asked.spans[-1].tag for asked in _run(during).served] == ["tag 2"]
