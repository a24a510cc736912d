"""Retrieval beside prefill: what was found so far is prefilled before the search has ended.

The decisions are ``mygo/speculation``; here is what must be awaited. No token of a prefill leaves before the
search has confirmed its documents, and a prefill that is lost, wrong or refused costs time, never the answer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mygo.api.service import AnswerRequest, Retrieval
from mygo.config import Config
from mygo.errors import MygoError
from mygo.serve.dispatch import Dispatcher, Generating
from mygo.serve.planning import Plan, Planner, inline
from mygo.serve.read_ahead import ReadAhead
from mygo.serve.search import Found, Searcher
from mygo.speculation import Foresight, Gate, Outlook, Overlap, Quote, Speculation
from mygo.speculation.machine import Documents
from mygo.types import DomainTag, Prompt, RequestId, TenantId

LEAST_STAGES = 2
"""A search that is expected to take less than so many has one."""


@dataclass(frozen=True, slots=True)
class Begun:
    """An answer whose first token is there."""

    found: Found
    plan: Plan
    generation: Generating
    retrieval_s: float
    overlap: Overlap | None = None
    """None without retrieval."""


class Overlapper:
    """One per ingress. Finds documents for requests, and begins their answers."""

    def __init__(
        self,
        config: Config,
        searcher: Searcher,
        planner: Planner,
        dispatcher: Dispatcher,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.planner = planner
        self.dispatcher = dispatcher
        self.clock = clock
        self.gate = Gate(config.retrieval.speculations)
        self.foresight = Foresight()
        self._searcher = searcher
        self._retrieval = config.retrieval

    async def begin(self, tenant: TenantId, request: AnswerRequest) -> Begun:
        """Raises what the search, the planner or the worker raises."""
        retrieval = request.retrieval
        if retrieval is None:
            found = inline(request.documents, DomainTag(tenant))
            plan = await self.planner.plan(tenant, request, found)
            return Begun(found, plan, await self.send(plan), retrieval_s=0.0)
        if self._is_worth_stages(retrieval):
            return await self._overlapped(tenant, request, retrieval)
        search = Speculation(self.clock())
        with self._searching():
            found = await self._searcher.search(tenant, request.query, retrieval)
        search.final(_documents(found), self.clock())
        self.foresight.learn(retrieval.store_ids, search)
        plan = await self.planner.plan(tenant, request, found)
        generation = await self.send(plan)
        return Begun(found, plan, generation, search.took_s, search.overlap(self.clock()))

    def _is_worth_stages(self, retrieval: Retrieval) -> bool:
        """Streams of results cost shards and ingress more than one result: only where there will be several,
        and something to gain. So the first search of a place is in one go, and tells how long it takes."""
        expected_s = self.foresight.search_s(retrieval.store_ids)
        has_stages = expected_s >= LEAST_STAGES * self._retrieval.stage_s
        return self._retrieval.speculations > 0 and has_stages and self.gate.is_open

    @contextlib.contextmanager
    def _searching(self) -> Iterator[None]:
        self.gate.searches(+1)
        try:
            yield
        finally:
            self.gate.searches(-1)

    async def send(self, plan: Plan) -> Generating:
        generation = await self.dispatcher.start(plan.asked, plan.prompt, plan.text)
        self.gate.dispatched(generation.route.queue_s)
        return generation

    async def _overlapped(self, tenant: TenantId, request: AnswerRequest, retrieval: Retrieval) -> Begun:
        one = _Overlapping(self, tenant, request, retrieval)
        try:
            with self._searching():
                one.open()
                searching = self._searcher.stages(tenant, request.query, retrieval)
                async with contextlib.aclosing(searching) as stages:
                    async for found in stages:
                        if found.is_final:
                            break
                        await one.provisional(found)
            plan, generation = await one.final(found)
            return Begun(found, plan, generation, one.search.took_s, one.search.overlap(self.clock()))
        except BaseException:
            await one.aclose()
            raise


@dataclass(slots=True)
class _Early:
    """A prefill that nobody has asked for yet."""

    plan: Plan
    quote: Quote
    began_s: float
    reading: ReadAhead

    def computed_s(self, now_s: float) -> float:
        """Seconds that an engine has spent on it, as told or as predicted."""
        if (told := self.reading.prefill) is not None:
            return told.prefill_s
        return min(max(0.0, now_s - self.began_s - self.quote.wait_s), self.quote.prefill_s)


class _Overlapping:
    """One request on its way through the stages of its search."""

    def __init__(
        self, shared: Overlapper, tenant: TenantId, request: AnswerRequest, retrieval: Retrieval
    ) -> None:
        self._shared = shared
        self._tenant = tenant
        self._request = request
        self._scope = retrieval.store_ids
        self.search = Speculation(shared.clock())
        self._sent = 0
        self._opening: _Early | None = None
        """What the prompt begins with whatever is found."""
        self._early: _Early | None = None

    def open(self) -> None:
        """The search begins: prefill the system prompt meanwhile, if it is cached nowhere."""
        outlook = replace(self._outlook(), useful_share=1.0)
        if not self._shared.gate.may_gain(outlook):
            return
        with contextlib.suppress(MygoError):  # what is wrong with the request will be said in the end
            plan = self._shared.planner.opening(self._tenant, self._request)
            if plan is not None:
                self._opening = self._begin(plan, outlook)

    async def provisional(self, found: Found) -> None:
        """The search has found this so far."""
        self._notice_failure()
        move = self.search.provisional(_documents(found), self._shared.clock())
        if move.end:
            await self._end_early()
        if move.consider and self._shared.gate.may_gain(self._outlook()):
            with contextlib.suppress(MygoError):
                plan = await self._shared.planner.plan(self._tenant, self._request, found)
                self._early = self._begin(plan, self._outlook())
                if self._early is not None:
                    self.search.began(self._early.began_s)
                    await self._end_opening()

    async def final(self, found: Found) -> tuple[Plan, Generating]:
        """The search has ended: (plan, its generation with the first token there)."""
        self._notice_failure()
        adopted = self.search.final(_documents(found), self._shared.clock())
        self._shared.foresight.learn(self._scope, self.search)
        await self._end_opening()
        early = self._early
        if early is not None and adopted:
            if await early.reading.begun():
                plan = replace(early.plan, prompt=_cited(early.plan.prompt, found))
                self._shared.gate.dispatched(early.reading.route.queue_s)
                self._forget_early()
                return plan, early.reading
            await self._end_early(failed=True)
        elif early is not None:
            await self._end_early()
        plan = await self._shared.planner.plan(self._tenant, self._request, found)
        return plan, await self._shared.send(plan)

    async def aclose(self) -> None:
        """Leave nothing running."""
        await self._end_opening()
        if self._early is not None:
            await self._end_early()

    def _outlook(self) -> Outlook:
        return self._shared.foresight.outlook(self._scope, self.search, self._shared.clock())

    def _begin(self, plan: Plan, outlook: Outlook) -> _Early | None:
        shared = self._shared
        quote = shared.dispatcher.quote(plan.prompt)
        if quote is None or not shared.gate.allows(outlook, quote):
            return None
        self._sent += 1
        # an engine may still know the one before it
        plan = plan.named(RequestId(f"{self._request.request_id}-early{self._sent}"))
        shared.gate.began()
        reading = ReadAhead(lambda: shared.dispatcher.start(plan.asked, plan.prompt, plan.text), shared.clock)
        return _Early(plan, quote, shared.clock(), reading)

    def _notice_failure(self) -> None:
        if self._early is not None and self._early.reading.failed:
            self.search.failed()
            self._forget_early()

    async def _end_early(self, *, failed: bool = False) -> None:
        early = self._forget_early()
        if failed:
            self.search.unadopted()
        else:
            self.search.ended(early.computed_s(self._shared.clock()))
        await early.reading.aclose()

    def _forget_early(self) -> _Early:
        assert self._early is not None
        early, self._early = self._early, None
        self._shared.gate.over()
        return early

    async def _end_opening(self) -> None:
        """Whole blocks that are computed stay cached."""
        if self._opening is not None:
            opening, self._opening = self._opening, None
            self._shared.gate.over()
            await opening.reading.aclose()


def _documents(found: Found) -> Documents:
    return tuple(scored.passage for scored in found.passages)


def _cited(prompt: Prompt, found: Found) -> Prompt:
    """With the scores of the final result: a reranker has given others to the same passages."""
    final = {scored.passage: scored for scored in found.passages}
    citations = tuple(final.get(scored.passage, scored) for scored in prompt.citations)
    return replace(prompt, citations=citations)
