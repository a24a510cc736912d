"""Documents computed behind neutral ones while nobody needs the engine, so that more prompts can reuse them.

The engine tells with its answers which documents lack such a copy (``vllm_plugin/chunks/wants.py``). One at a
time is made, and only where no request of a user is under way; the first that comes aborts it, so that it
waits for a step of the engine at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from enum import StrEnum
from time import monotonic
from typing import Protocol

from mygo.blend.fillers import QUIET_S, Backlog, Wanted
from mygo.types import GenerateRequest, RequestId, TokenDelta, WorkerLoad
from mygo.vllm_plugin.filling import FillerNews, copy_of, filling

logger = logging.getLogger(__name__)

POLL_S = 0.05
"""Between two looks at an engine that does something for others."""


class Outcome(StrEnum):
    """What became of a copy that was to be made."""

    CAPTURED = "captured"
    INTERRUPTED = "interrupted"
    """A request came; it may be tried again."""
    FAILED = "failed"


class Serve(Protocol):
    """The engine's ``generate``."""

    def __call__(self, request: GenerateRequest) -> AsyncIterator[TokenDelta]: ...


class Fillers:
    """One per worker. ``run`` does the work; nothing here ever fails or holds up an answer."""

    def __init__(
        self,
        serve: Serve,
        neutral: Sequence[Sequence[int]],
        load: Callable[[], WorkerLoad],
        record: Callable[[Outcome, int], None],
        used: Callable[[int], None],
        clock: Callable[[], float] = monotonic,
    ) -> None:
        """``neutral``: token ids of the neutral documents. ``record`` is told of each copy's outcome and the
        prompt tokens that were computed for it, ``used`` of tokens of documents that came from copies."""
        self._serve = serve
        self._neutral = neutral
        self._load = load
        self._record = record
        self._used = used
        self._clock = clock
        self._backlog: Backlog[tuple[GenerateRequest, int]] = Backlog()
        self._offered = asyncio.Event()
        self._users = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._making: asyncio.Task[None] | None = None
        self._made = 0

    def offer(self, request: GenerateRequest, news: FillerNews) -> None:
        """An answer came with news of copies."""
        if news.used_tokens:
            self._used(news.used_tokens)
        for number, worth in news.wanted:
            name = copy_of(request, number)
            self._backlog.offer(Wanted(name, worth, (request, number), self._clock()))
            self._offered.set()

    @contextlib.contextmanager
    def serving(self) -> Iterator[None]:
        """Around a user's request: nothing is made meanwhile, and what is being made is given up."""
        self._users += 1
        self._quiet.clear()
        if self._making is not None:
            self._making.cancel()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._quiet.set()

    async def run(self) -> None:
        """Make copies, one after the other. Ends when cancelled."""
        while True:
            await self._offered.wait()
            await self._idle()
            wanted = self._backlog.take(self._clock())
            if wanted is not None:
                await self._make(wanted)
            elif len(self._backlog):
                await asyncio.sleep(QUIET_S)  # there were enough in this minute
            else:
                self._offered.clear()

    async def _idle(self) -> None:
        """Returns once the engine has had nothing to do for a while."""
        while True:
            await self._quiet.wait()
            await asyncio.sleep(QUIET_S)
            load = self._load()
            if self._quiet.is_set() and not load.running and not load.waiting:
                return
            await asyncio.sleep(POLL_S)

    async def _make(self, wanted: Wanted[tuple[GenerateRequest, int]]) -> None:
        self._made += 1
        request_id = RequestId(f"filler-{self._made}")
        self._making = asyncio.create_task(self._compute(*wanted.item, request_id))
        try:
            await asyncio.wait([self._making])
        finally:
            self._making.cancel()
        if self._making.cancelled():
            self._record(Outcome.INTERRUPTED, 0)
            self._backlog.offer(wanted)
        elif error := self._making.exception():
            logger.warning("a document could not be computed behind neutral ones: %s", error)
            self._record(Outcome.FAILED, 0)
        self._making = None

    async def _compute(self, request: GenerateRequest, number: int, request_id: RequestId) -> None:
        asked = filling(request, number, self._neutral, request_id)
        computed_tokens = 0
        async for delta in self._serve(asked):
            if delta.prefill is not None:
                cached_tokens = sum(delta.prefill.cached_tokens.values())
                computed_tokens = max(computed_tokens, len(asked.token_ids) - cached_tokens)
        self._record(Outcome.CAPTURED, computed_tokens)
