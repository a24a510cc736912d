"""Retrieval beside prefill: what was found so far is prefilled before the search has ended.

The decisions are ``mygo/speculation``; here is what must be awaited. No token of a prefill leaves before the
search has confirmed its documents, and a prefill that is lost, wrong or refused costs time, never the answer.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace

from mygo.api.service import AnswerRequest, Retrieval
from mygo.config import Config
from mygo.errors import MygoError
from mygo.serve.dispatch import Dispatcher, Generating
from mygo.serve.planning import Plan, Planner, inline
from mygo.serve.read_ahead import ReadAhead
from mygo.serve.search import Found, Searcher
from mygo.speculation import Foresight, Gate, Outlook, Overlap, Quote, Speculation
from mygo.speculation.gate import LAUNCH_S
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
        self.block_tokens = config.model.block_tokens
        self._searcher = searcher
        self._retrieval = config.retrieval

    async def begin(self, tenant: TenantId, request: AnswerRequest) -> Begun:
        """Raises what the search, the planner or the worker raises."""
        retrieval = request.retrieval
        if retrieval is None:
            found = inline(request.documents, DomainTag(tenant))
            plan = await self.planner.plan(tenant, request, found)
            return Begun(found, plan, await self.send(plan), retrieval_s=0.0)
        if self._is_worth_stages(tenant, request, retrieval):
            return await self._overlapped(tenant, request, retrieval)
        search = Speculation(self.clock())
        with self._searching():
            also = self.planner.shown_earlier(tenant, request)
            found = await self._searcher.search(tenant, request.query, retrieval, also)
        search.final(_documents(found), self.clock())
        self.learn(_scope(tenant, retrieval), search, found)
        plan = await self.planner.plan(tenant, request, found)
        generation = await self.send(plan)
        return Begun(found, plan, generation, search.took_s, search.overlap(self.clock()))

    def learn(self, scope: Hashable, search: Speculation, found: Found) -> None:
        """``search`` has ended. Results that were kept of an earlier one say nothing of the next."""
        if not found.is_recent:
            self.foresight.learn(scope, search)

    def _is_worth_stages(self, tenant: TenantId, request: AnswerRequest, retrieval: Retrieval) -> bool:
        """Streams of results cost shards and ingress more than one result: only where there will be several,
        and something to gain. So the first search of a place is in one go, and tells how long it takes."""
        expected_s = self.foresight.search_s(_scope(tenant, retrieval))
        has_stages = expected_s >= LEAST_STAGES * self._retrieval.stage_s
        # the final result would wait for the planning of provisional ones
        is_quick = not self.planner.is_long(request)
        return self._retrieval.speculations > 0 and has_stages and is_quick and self.gate.has_room

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
                also = self.planner.shown_earlier(tenant, request)
                searching = self._searcher.stages(tenant, request.query, retrieval, also)
                async with contextlib.aclosing(searching) as stages:
                    async for found in stages:
                        if found.is_final:
                            break
                        await one.provisional(found)
            return await one.final(found)
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
        """Seconds of prefill that an engine has spent on it, as told or as predicted."""
        if (told := self.reading.prefill) is not None:
            return told.prefill_s
        return self.quote.computed_s(now_s - self.began_s)


class _Overlapping:
    """One request on its way through the stages of its search."""

    def __init__(
        self, shared: Overlapper, tenant: TenantId, request: AnswerRequest, retrieval: Retrieval
    ) -> None:
        self._shared = shared
        self._tenant = tenant
        self._request = request
        self._scope = _scope(tenant, retrieval)
        self.search = Speculation(shared.clock())
        self._begun = 0
        self._opening: _Early | None = None
        """What the prompt begins with whatever is found."""
        self._early: _Early | None = None

    def open(self) -> None:
        """The search begins: prefill the system prompt meanwhile, if it is cached nowhere."""
        remaining_s = self._outlook().remaining_s
        if remaining_s < LAUNCH_S:
            return
        with contextlib.suppress(MygoError):  # what is wrong with the request will be said in the end
            plan = self._shared.planner.opening(self._tenant, self._request)
            if plan is None or (quote := self._shared.dispatcher.quote(plan.prompt)) is None:
                return
            # a prompt's last block is never cached whole
            is_missing = quote.new_tokens > self._shared.block_tokens
            if is_missing and self._shared.gate.allows_opening(remaining_s, quote):
                self._opening = self._sent(plan, quote)

    async def provisional(self, found: Found) -> None:
        """The search has found this so far."""
        self._notice_failure()
        move = self.search.provisional(_documents(found), self._shared.clock())
        if move.end:
            await self._end_early()
        if not move.consider or not self._shared.gate.may_gain(self._outlook()):
            return
        with contextlib.suppress(MygoError):
            plan = await self._shared.planner.plan(self._tenant, self._request, found)
            await self._end_opening()  # or its own opening would be ahead of it
            quote = self._shared.dispatcher.quote(plan.prompt)
            if quote is not None and self._shared.gate.allows(self._outlook(), quote):
                self._shared.gate.began()
                self._early = self._sent(plan, quote)
                self.search.began(self._early.began_s)

    async def final(self, found: Found) -> Begun:
        """The search has ended: the answer over what it has found."""
        shared = self._shared
        self._notice_failure()
        adopted = self.search.final(_documents(found), shared.clock())
        shared.learn(self._scope, self.search, found)
        await self._end_opening()
        early = self._early
        if early is not None and adopted:
            holds = shared.planner.still_holds(self._tenant, self._request, early.plan, found)
            if holds and await early.reading.begun():
                first_token_s = early.reading.first_token_s
                assert first_token_s is not None, "it has begun"
                plan = replace(early.plan, prompt=_cited(early.plan.prompt, found))
                begun = Begun(
                    found, plan, early.reading, self.search.took_s, self.search.overlap(first_token_s)
                )
                shared.gate.dispatched(early.reading.route.queue_s)
                self._forget_early()
                return begun
            await self._end_early(failed=True)
        elif early is not None:
            await self._end_early()
        plan = await shared.planner.plan(self._tenant, self._request, found)
        generation = await shared.send(plan)
        overlap = self.search.overlap(shared.clock())
        return Begun(found, plan, generation, self.search.took_s, overlap)

    async def aclose(self) -> None:
        """Leave nothing running."""
        await self._end_opening()
        if self._early is not None:
            await self._end_early()

    def _outlook(self) -> Outlook:
        return self._shared.foresight.outlook(self._scope, self.search, self._shared.clock())

    def _sent(self, plan: Plan, quote: Quote) -> _Early:
        shared = self._shared
        self._begun += 1
        # an engine may still know the one before it
        plan = plan.named(RequestId(f"{self._request.request_id}-early{self._begun}"))
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
            self.search.ended(early.computed_s(self._shared.clock()), early.reading.decoded_s)
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
            await opening.reading.aclose()


def _scope(tenant: TenantId, retrieval: Retrieval) -> Hashable:
    """Whose searches resemble each other; no tenant's tell anything of another's."""
    return tenant, retrieval.store_ids, retrieval.rerank, retrieval.top_k


def _documents(found: Found) -> Documents:
    return tuple(scored.passage for scored in found.passages)


def _cited(prompt: Prompt, found: Found) -> Prompt:
    """With the scores of the final result: a reranker has given others to the same passages."""
    final = {scored.passage: scored for scored in found.passages}
    citations = tuple(final.get(scored.passage, scored) for scored in prompt.citations)
    return replace(prompt, citations=citations)
