"""Retrieval beside prefill changes when an answer begins, and never what it says or whether it comes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.exceptions import ActorDiedError

from mygo.api.service import AnswerRequest, Message, Retrieval
from mygo.config import Config, RetrievalConfig, RoutingConfig
from mygo.directory import Directory
from mygo.errors import BadRequest, NotFound
from mygo.serve.calls import pack
from mygo.serve.dispatch import Dispatcher
from mygo.serve.overlapping import Begun, Overlapper, _scope
from mygo.serve.planning import Plan
from mygo.serve.search import Document, Found
from mygo.speculation import Speculated, Speculation
from mygo.types import (
    PUBLIC,
    ContentHash,
    DocId,
    GenerateRequest,
    Passage,
    ProfileGrid,
    Prompt,
    RequestId,
    Sampling,
    ScoredPassage,
    Segment,
    SegmentKey,
    SegmentKind,
    StoreId,
    TenantId,
    TokenDelta,
    WorkerId,
    WorkerInfo,
)

TENANT, STORE = TenantId("t"), StoreId("vs_1")
RETRIEVAL = Retrieval((STORE,), 4)
GRID = ProfileGrid((0,), (1, 64), ((1.0, 2.0),))
OPENING = [7] * 40
"""More than a block. The ids of documents are smaller, of which a prompt is made here."""
DOCUMENTS = st.lists(st.integers(0, 4), max_size=3, unique=True).map(tuple)


def passages(documents: Sequence[int]) -> list[ScoredPassage]:
    return [
        ScoredPassage(Passage(DocId(str(each)), 0, str(each), ContentHash(str(each)), STORE), 0.5)
        for each in documents
    ]


def answer_over(token_ids: Sequence[int]) -> list[str]:
    """What the engine here says to a prompt: every token depends on all of it."""
    return [f"{list(token_ids)}:{turn}" for turn in range(3)]


class Planner:
    """Prompts whose ids are the documents' numbers."""

    def __init__(self, refuses: Callable[[Sequence[int]], bool] = lambda documents: False) -> None:
        self._refuses = refuses
        self.holds = True
        self.long = False
        self.opening_ids = OPENING

    def is_long(self, request: AnswerRequest) -> bool:
        return self.long

    def shown_earlier(self, tenant: TenantId, request: AnswerRequest) -> list[Document]:
        return []

    def still_holds(self, tenant: TenantId, request: AnswerRequest, plan: Plan, found: Found) -> bool:
        return self.holds

    async def plan(self, tenant: TenantId, request: AnswerRequest, found: Found) -> Plan:
        await asyncio.sleep(0)
        documents = [int(scored.passage.doc_id) for scored in found.passages]
        if self._refuses(documents):
            raise BadRequest("these do not fit")
        return self._plan(request, (*OPENING, *documents), found.passages)

    def opening(self, tenant: TenantId, request: AnswerRequest) -> Plan | None:
        return self._plan(request, tuple(self.opening_ids), [])

    def _plan(self, request: AnswerRequest, ids: tuple[int, ...], cited: list[ScoredPassage]) -> Plan:
        segment = Segment(SegmentKind.SYSTEM, ids, SegmentKey(str(ids)), PUBLIC)
        asked = GenerateRequest(request.request_id, list(ids), (), Sampling(max_tokens=4))
        return Plan(Prompt((segment,), tuple(cited)), asked, "")


class Stream:
    """A worker's stream that takes its time, and may die on the way."""

    def __init__(self, cluster: Cluster, token_ids: list[int], dies_after: int | None) -> None:
        self._cluster = cluster
        self._left = answer_over(token_ids)
        self.dies_after = dies_after
        self.dies_of: type[BaseException] = ActorDiedError
        self.waits_for: asyncio.Event | None = None
        self.is_open = True

    async def __anext__(self) -> bytes:
        await self._cluster.pause()
        if self.waits_for is not None:
            await self.waits_for.wait()
        if self.dies_after is not None and not self._cluster.has_begun:
            self.dies_after -= 1
            if self.dies_after < 0:
                self.is_open = False
                raise self.dies_of()
        if not self._left:
            self.is_open = False
            raise StopAsyncIteration
        text = self._left.pop(0)
        return pack(TokenDelta(text, (1,), finish_reason=None if self._left else "stop"))

    def cancel(self) -> None:
        self.is_open = False


class Cluster:
    """Real dispatcher and overlapper, over a search and workers that do as ``rng`` says."""

    def __init__(
        self,
        stages: Sequence[Sequence[int]],
        *,
        seed: int = 0,
        early_deaths: bool = False,
        speculations: int = 2,
        stage_s: float = 0.0,
        planner: Planner | None = None,
        hasty: int = 0,
        rerank: float | None = None,
        is_recent: bool = False,
    ) -> None:
        """``hasty``: most turns of the event loop that anything takes, 0 for none but its own."""
        self._rng = random.Random(seed)
        self._stages = stages
        self._early_deaths = early_deaths
        self._hasty = hasty
        self._rerank = rerank
        self._is_recent = is_recent
        self.planner = planner or Planner()
        self.streams: dict[RequestId, Stream] = {}
        self.searched = asyncio.Event()
        self.has_begun = False
        """A worker that dies from here on ends the answer, as it does without speculation."""
        config = Config(
            routing=RoutingConfig(retries=1),
            retrieval=RetrievalConfig(speculations=speculations, stage_s=stage_s),
        )
        workers: Any = type("Workers", (), {"options": lambda self, stream: self, "generate": self})()
        directory: Any = type("Directory", (), {"forget": type("M", (), {"remote": lambda *_: None})})()
        self.dispatcher = Dispatcher(config, workers, directory, rng=self._rng, clock=self.clock)
        known = Directory("test")
        for name in ("a", "b", "c"):
            known.join(WorkerInfo(WorkerId(name), "epoch", "m", 32, 4096, 2048, GRID))
        self.dispatcher.directory.follow(known.snapshot())
        self.overlapper = Overlapper(
            config,
            self,  # type: ignore[arg-type]
            self.planner,  # type: ignore[arg-type]
            self.dispatcher,
            self.clock,
        )
        self._now_s = 0.0

    def clock(self) -> float:
        self._now_s += 0.01
        return self._now_s

    async def pause(self) -> None:
        for _ in range(self._rng.randint(0, self._hasty) if self._hasty else 1):
            await asyncio.sleep(0)

    def remote(self, request: GenerateRequest, *, worker: WorkerId) -> Stream:
        early = "early" in request.request_id
        dies = self._rng.choice([None, 0, 1, 2]) if early and self._early_deaths else None
        assert request.request_id not in self.streams or not self.streams[request.request_id].is_open
        self.streams[request.request_id] = Stream(self, request.token_ids, dies)
        return self.streams[request.request_id]

    async def search(
        self, tenant: TenantId, query: str, retrieval: Retrieval, also: Sequence[Document]
    ) -> Found:
        await self.pause()
        return Found(passages(self._stages[-1]), is_recent=self._is_recent)

    async def stages(
        self, tenant: TenantId, query: str, retrieval: Retrieval, also: Sequence[Document]
    ) -> AsyncGenerator[Found, None]:
        try:
            for number, documents in enumerate(self._stages, 1):
                await self.pause()
                is_final = number == len(self._stages)
                found = passages(documents)
                if is_final and self._rerank is not None:
                    found = [ScoredPassage(each.passage, self._rerank) for each in found]
                yield Found(found, is_final=is_final)
        finally:
            self.searched.set()

    async def begin(self) -> Begun:
        request = AnswerRequest(
            RequestId("r"),
            (Message("user", "hello"),),
            Sampling(max_tokens=4),
            RETRIEVAL,
        )
        begun = await self.overlapper.begin(TENANT, request)
        self.has_begun = True
        return begun

    def check_nothing_is_left(self) -> None:
        assert not [name for name, stream in self.streams.items() if stream.is_open]
        assert self.overlapper.gate._running == self.overlapper.gate._searching == 0
        desk = self.dispatcher._desk
        assert not [each for each in "abc" if desk.open_requests(WorkerId(each), self.clock())]
        assert len(asyncio.all_tasks()) == 1


def teach(cluster: Cluster, searches: int = 5) -> None:
    """Let the gate believe in provisional results, and in long searches."""
    for _ in range(searches):
        search = Speculation(0.0)
        for number in range(1, 8):
            search.provisional((1, 2), 10.0 * number)
        search.final((1, 2), 100.0)
        cluster.overlapper.foresight.learn(_scope(TENANT, RETRIEVAL), search)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(DOCUMENTS, min_size=1, max_size=5),
    st.integers(0, 2**16),
    st.booleans(),
    st.integers(0, 3),
    st.integers(0, 12),
    st.booleans(),
)
def test_answer_is_that_over_the_final_documents_whatever_happens_before(
    stages: list[tuple[int, ...]],
    seed: int,
    early_deaths: bool,
    speculations: int,
    hasty: int,
    believes: bool,
) -> None:
    """Random stages, speeds, losses and loads: speculation on says what speculation off would say."""

    async def run() -> None:
        cluster = Cluster(
            stages, seed=seed, early_deaths=early_deaths, speculations=speculations, hasty=hasty
        )
        if believes:
            teach(cluster)
        begun = await cluster.begin()
        texts = [delta.text async for delta in begun.generation]
        assert texts == answer_over([*OPENING, *stages[-1]])
        assert begun.plan.asked.token_ids == [*OPENING, *stages[-1]]
        assert [scored.passage.doc_id for scored in begun.plan.prompt.citations] == list(map(str, stages[-1]))
        await begun.generation.aclose()
        cluster.check_nothing_is_left()

    asyncio.run(run())


@settings(max_examples=100, deadline=None)
@given(st.lists(DOCUMENTS, min_size=1, max_size=5), st.integers(0, 2**16), st.integers(0, 60))
def test_nothing_is_left_when_the_client_goes_away_at_any_moment(
    stages: list[tuple[int, ...]], seed: int, turns: int
) -> None:
    async def run() -> None:
        cluster = Cluster(stages, seed=seed, hasty=4)
        teach(cluster)
        asking = asyncio.create_task(cluster.begin())
        for _ in range(turns):
            await asyncio.sleep(0)
        asking.cancel()
        done = (await asyncio.gather(asking, return_exceptions=True))[0]
        if isinstance(done, Begun):
            await done.generation.aclose()
        cluster.check_nothing_is_left()

    asyncio.run(run())


def test_decoding_over_the_wrong_documents_is_wasted(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded_s: list[float] = []
    ended = Speculation.ended

    def told(search: Speculation, computed_s: float, decoding_s: float) -> None:
        decoded_s.append(decoding_s)
        ended(search, computed_s, decoding_s)

    monkeypatch.setattr(Speculation, "ended", told)

    async def run() -> None:
        cluster = Cluster([*[(1, 2)] * 20, (3,)])  # its three tokens come meanwhile
        teach(cluster)
        begun = await cluster.begin()
        assert begun.overlap is not None and begun.overlap.outcome is Speculated.WRONG
        assert 0 < decoded_s[0] < begun.overlap.wasted_s
        await begun.generation.aclose()

    asyncio.run(run())


def test_right_documents_are_prefilled_once_and_adopted() -> None:
    async def run() -> None:
        cluster = Cluster([(1, 2), (1, 2), (1, 2)], rerank=0.9)
        teach(cluster)
        begun = await cluster.begin()
        assert begun.overlap is not None and begun.overlap.outcome is Speculated.ADOPTED
        assert begun.overlap.hidden_s > 0 and begun.overlap.stages == 3
        assert set(cluster.streams) == {"r-early1", "r-early2"}, "the system prompt, and the documents"
        assert {scored.score for scored in begun.plan.prompt.citations} == {0.9}, "of the final result"
        await begun.generation.aclose()
        cluster.check_nothing_is_left()

    asyncio.run(run())


def test_wrong_documents_are_ended_before_the_answer_is_asked_for() -> None:
    async def run() -> None:
        cluster = Cluster([(1, 2), (3,), (4,)])
        teach(cluster)
        begun = await cluster.begin()
        assert begun.overlap is not None and begun.overlap.outcome is Speculated.WRONG
        assert begun.overlap.speculations == 2
        assert [name for name, stream in cluster.streams.items() if stream.is_open] == ["r"]
        await begun.generation.aclose()

    asyncio.run(run())


def test_switched_off_it_asks_once_and_searches_in_one_go() -> None:
    async def run() -> None:
        cluster = Cluster([(1, 2), (1, 2)], speculations=0)
        teach(cluster)
        begun = await cluster.begin()
        assert set(cluster.streams) == {"r"} and not cluster.searched.is_set()
        assert begun.overlap is not None and begun.overlap.stages == 1
        await begun.generation.aclose()

    asyncio.run(run())


def test_searches_are_staged_only_where_they_have_taken_long() -> None:
    async def run() -> None:
        cluster = Cluster([(1, 2), (1, 2)], stage_s=1.0)
        first = await cluster.begin()  # nobody knows how long it takes
        await first.generation.aclose()
        short = await cluster.begin()
        await short.generation.aclose()
        assert not cluster.searched.is_set()
        teach(cluster)
        long = await cluster.begin()
        await long.generation.aclose()
        assert cluster.searched.is_set()
        assert [begun.overlap.stages for begun in (first, short, long) if begun.overlap] == [1, 1, 2]

    asyncio.run(run())


def test_provisional_documents_that_do_not_fit_refuse_nobody() -> None:
    async def run() -> None:
        cluster = Cluster([(1, 2, 3), (1,)], planner=Planner(lambda documents: len(documents) > 1))
        teach(cluster)
        begun = await cluster.begin()
        assert [delta.text async for delta in begun.generation] == answer_over([*OPENING, 1])
        await begun.generation.aclose()
        refused = Cluster([(1,), (1, 2)], planner=Planner(lambda documents: len(documents) > 1))
        teach(refused)
        with pytest.raises(BadRequest, match="do not fit"):
            await refused.begin()
        refused.check_nothing_is_left()

    asyncio.run(run())


def test_adopted_prefill_that_is_lost_before_its_first_token_is_begun_anew() -> None:
    """Scenario: the workers are slower than the search, and each dies of what was sent early."""

    async def run() -> None:
        cluster = Cluster([(1, 2), (1, 2), (1, 2)])
        teach(cluster)
        healthy = cluster.remote

        def remote(request: GenerateRequest, *, worker: WorkerId) -> Stream:
            stream = healthy(request, worker=worker)
            if "early" in request.request_id:
                stream.waits_for, stream.dies_after = cluster.searched, 0
            return stream

        cluster.remote = remote  # type: ignore[method-assign]
        begun = await cluster.begin()
        assert begun.overlap is not None and begun.overlap.outcome is Speculated.FAILED
        assert [delta.text async for delta in begun.generation] == answer_over([*OPENING, 1, 2])
        cluster.check_nothing_is_left()

    asyncio.run(run())


def test_prompt_that_holds_a_deleted_document_is_not_adopted() -> None:
    """Scenario: what was found stays, but the turn that it was appended to has been forgotten meanwhile."""

    async def run() -> None:
        cluster = Cluster([(1, 2), (1, 2), (1, 2)])
        teach(cluster)
        cluster.planner.holds = False
        begun = await cluster.begin()
        assert begun.plan.asked.request_id == "r"
        assert [name for name, stream in cluster.streams.items() if stream.is_open] == ["r"]
        await begun.generation.aclose()
        cluster.check_nothing_is_left()

    asyncio.run(run())


@pytest.mark.parametrize("dies_after", [0, 1])
def test_prefill_that_the_workers_side_cancels_is_lost_not_waited_for(dies_after: int) -> None:
    """Ray tells of it with the same exception with which a client's going away is told."""

    async def run() -> None:
        cluster = Cluster([(1, 2), (1, 2), (1, 2)])
        teach(cluster)
        healthy = cluster.remote

        def remote(request: GenerateRequest, *, worker: WorkerId) -> Stream:
            stream = healthy(request, worker=worker)
            if "early" in request.request_id and request.token_ids != OPENING:
                stream.dies_after, stream.dies_of = dies_after, asyncio.CancelledError
            return stream

        cluster.remote = remote  # type: ignore[method-assign]
        begun = await asyncio.wait_for(cluster.begin(), 10.0)
        assert [delta.text async for delta in begun.generation] == answer_over([*OPENING, 1, 2])
        cluster.check_nothing_is_left()

    asyncio.run(run())


def test_opening_is_sent_only_where_more_than_its_last_block_is_missing() -> None:
    async def run() -> None:
        cluster = Cluster([(1, 2), (1, 2)])
        teach(cluster)
        cluster.planner.opening_ids = OPENING[:32]
        begun = await cluster.begin()
        await begun.generation.aclose()
        assert len(cluster.streams) == 1, "the documents'"
        cluster.check_nothing_is_left()

    asyncio.run(run())


def test_own_opening_is_over_before_the_documents_are_priced() -> None:
    async def run() -> None:
        cluster = Cluster([(1, 2), (1, 2)], speculations=1)
        teach(cluster)
        quote, open_streams = cluster.dispatcher.quote, []

        def quoted(prompt: Prompt) -> Any:
            open_streams.append([name for name, stream in cluster.streams.items() if stream.is_open])
            return quote(prompt)

        cluster.dispatcher.quote = quoted  # type: ignore[method-assign]
        begun = await cluster.begin()
        assert open_streams == [[], []] and set(cluster.streams) == {"r-early1", "r-early2"}
        assert begun.overlap is not None and begun.overlap.outcome is Speculated.ADOPTED
        await begun.generation.aclose()

    asyncio.run(run())


def test_gate_hears_of_searches_and_of_what_was_sent() -> None:
    async def run() -> None:
        cluster = Cluster([(1, 2), (1, 2)])
        gate = cluster.overlapper.gate
        waits_s: list[float] = []
        for teaching in (False, True):  # in one go, and in stages
            if teaching:
                teach(cluster)
            asking = asyncio.create_task(cluster.begin())
            await asyncio.sleep(0)
            assert gate._searching == 1
            await (await asking).generation.aclose()
            assert gate._searching == 0
        gate.dispatched = waits_s.append  # type: ignore[method-assign]
        adopted = await cluster.begin()
        assert adopted.overlap is not None and adopted.overlap.outcome is Speculated.ADOPTED
        assert waits_s[-1] == adopted.generation.route.queue_s
        await adopted.generation.aclose()

    asyncio.run(run())


def test_searches_teach_how_long_they_take_unless_they_were_kept() -> None:
    async def run() -> None:
        scope = _scope(TENANT, RETRIEVAL)
        for is_recent in (False, True):
            cluster = Cluster([(1, 2), (1, 2)], stage_s=1.0, is_recent=is_recent)
            await (await cluster.begin()).generation.aclose()
            assert (cluster.overlapper.foresight.search_s(scope) > 0) is not is_recent
        assert cluster.overlapper.foresight.search_s(_scope(TenantId("other"), RETRIEVAL)) == 0

    asyncio.run(run())


def test_long_requests_are_planned_once() -> None:
    async def run() -> None:
        cluster = Cluster([(1, 2), (1, 2)])
        teach(cluster)
        cluster.planner.long = True
        begun = await cluster.begin()
        assert set(cluster.streams) == {"r"} and not cluster.searched.is_set()
        await begun.generation.aclose()

    asyncio.run(run())


def test_search_that_fails_leaves_nothing_running() -> None:
    async def run() -> None:
        cluster = Cluster([(1, 2), (1, 2)])
        teach(cluster)
        found = cluster.stages

        async def stages(*args: Any) -> AsyncGenerator[Found, None]:
            async for each in found(*args):
                if each.is_final:
                    raise NotFound("the store is gone")
                yield each

        cluster.stages = stages  # type: ignore[method-assign]
        with pytest.raises(NotFound):
            await cluster.begin()
        cluster.check_nothing_is_left()

    asyncio.run(run())
