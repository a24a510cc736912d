"""Comparisons that the quality guard asks for, beside the answers that users wait for.

The engine gives some answers a ticket (``vllm_plugin/chunks/quality.py``). Their prompts are answered twice
more, exactly and blended, by a few tokens; the client's own request has just left what one of the two needs
in the cache, so that both cost little more than the other. Prompts keep their spans and salts, and so stay in
their tenant's domain.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from time import monotonic
from typing import Protocol

from mygo.blend.verdicts import Divergence
from mygo.serve.divergence import Probed, compare
from mygo.types import GenerateRequest, Reuse, WorkerLoad

logger = logging.getLogger(__name__)

QUEUED = 4
"""Comparisons that may wait; what comes beyond is dropped."""
MOST_WAITING = 1
"""Requests in the engine's queue beside which a comparison may begin."""
PATIENCE_S = 10.0
"""A comparison that has not begun by then is dropped: the engine is busy, and knows less and less of it."""
POLL_S = 0.05
MOST_DROPPED = 10
"""In a row: the next comparison is made however busy the engine is, or nobody would notice while it is always
busy that blends are not good any more."""


class Outcome(StrEnum):
    """What became of a ticket."""

    COMPARED = "compared"
    DROPPED = "dropped"
    """The engine had no time for it."""
    VOID = "void"
    """What was to be blended is not held any more."""
    FAILED = "failed"


class Probe(Protocol):
    """Answers a prompt for a comparison."""

    async def __call__(self, request: GenerateRequest, reuse: Reuse, ticket: int) -> Probed:
        """Greedily and briefly. Raises what the engine does."""
        ...


@dataclass(frozen=True, slots=True)
class Ticket:
    request: GenerateRequest
    number: int
    taken_s: float


class Shadows:
    """One per worker. ``run`` does the work; nothing here ever fails or holds up an answer."""

    def __init__(
        self,
        probe: Probe,
        observe: Callable[[int, Divergence], Awaitable[None]],
        load: Callable[[], WorkerLoad],
        record: Callable[[Outcome, int], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """``observe`` tells the engine's guard; ``record`` is told of each ticket's outcome and the prompt
        tokens that were computed for it."""
        self._probe = probe
        self._observe = observe
        self._load = load
        self._record = record
        self._clock = clock
        self._tickets: asyncio.Queue[Ticket] = asyncio.Queue(QUEUED)
        self._dropped = 0
        """Since the last one that was not."""

    def offer(self, request: GenerateRequest, number: int) -> None:
        """An answer came with a ticket."""
        try:
            self._tickets.put_nowait(Ticket(request, number, self._clock()))
        except asyncio.QueueFull:
            self._drop()

    async def run(self) -> None:
        """Compare, one after the other. Ends when cancelled."""
        while True:
            ticket = await self._tickets.get()
            if self._dropped >= MOST_DROPPED or await self._has_time(ticket):
                self._dropped = 0
                await self._settle(ticket)
            else:
                self._drop()

    def _drop(self) -> None:
        self._dropped += 1
        self._record(Outcome.DROPPED, 0)

    async def _has_time(self, ticket: Ticket) -> bool:
        while self._clock() - ticket.taken_s < PATIENCE_S:
            if self._load().waiting <= MOST_WAITING:
                return True
            await asyncio.sleep(POLL_S)
        return False

    async def _settle(self, ticket: Ticket) -> None:
        outcome, computed_tokens = Outcome.FAILED, 0
        try:
            blended = await self._probe(ticket.request, Reuse.BLEND, ticket.number)
            computed_tokens += blended.computed_tokens
            if not blended.approximate:
                outcome = Outcome.VOID
                return
            exact = await self._probe(ticket.request, Reuse.EXACT, ticket.number)
            computed_tokens += exact.computed_tokens
            await self._observe(ticket.number, compare(exact, blended))
            outcome = Outcome.COMPARED
        except Exception as error:
            logger.warning("a comparison for the quality guard failed, which costs no answer: %s", error)
        finally:
            self._record(outcome, computed_tokens)
