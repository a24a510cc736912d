"""The emulated engine on wall time, behind the Engine protocol: for load tests of the real control plane.

Its answers are the word "emulated", once per token. Of the sampling parameters only ``max_tokens``
counts: there is no text in which a stop string could appear, and there are no log probabilities.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

from mygo.emulation.engine import EmulatedCore, StepOutcome
from mygo.types import GenerateRequest, RequestId, TokenDelta, WorkerReport

WORD = " emulated"


class EmulatedEngine:
    """Drives one core in an event loop. A loop that is late delivers late, but the engine's own steps
    begin and end when they should.

    To run slower or faster than the device, give the core a profile that is ``slowed``. The core must not
    leap, or tokens come in bursts.
    """

    def __init__(self, core: EmulatedCore, clock: Callable[[], float] = time.monotonic) -> None:
        self._core = core
        self._clock = clock
        self._streams: dict[RequestId, asyncio.Queue[TokenDelta]] = {}
        self._work = asyncio.Event()
        self._news = asyncio.Event()
        self._driver: asyncio.Task[None] | None = None

    @property
    def vocabulary(self) -> int:
        return self._core.vocabulary

    @property
    def dead(self) -> bool:
        """True after an internal error: a core that failed cannot go on."""
        return self._driver is not None and self._driver.done()

    async def generate(self, request: GenerateRequest) -> AsyncIterator[TokenDelta]:
        """Stream a completion; closing the iterator aborts it.

        Raises BadRequest if the prompt does not fit.
        """
        self._core.add(request, self._clock())
        deltas = self._streams[request.request_id] = asyncio.Queue()
        self._wake()
        try:
            while True:
                delta = await deltas.get()
                yield delta
                if delta.finish_reason is not None:
                    return
        finally:
            del self._streams[request.request_id]
            self._core.abort(request.request_id, self._clock())
            self._wake()

    async def reset_cache(self) -> None:
        """Forget all cached KV; nothing may be running."""
        self._core.reset_cache()

    async def snapshot(self) -> WorkerReport:
        """All that the engine holds, as a worker's report."""
        return self._core.report(self._clock(), snapshot=True)

    async def next_report(self, heartbeat_s: float | None = None) -> WorkerReport:
        """Wait for news; after ``heartbeat_s`` without any, report the load alone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(heartbeat_s):
                await self._news.wait()
        self._news.clear()
        return self._core.report(self._clock())

    def _wake(self) -> None:
        if self._driver is None:
            self._driver = asyncio.create_task(self._drive())
        self._work.set()
        self._news.set()

    async def _drive(self) -> None:
        while True:
            self._work.clear()
            next_s = self._core.next_event_s
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(None if next_s is None else max(0.0, next_s - self._clock())):
                    await self._work.wait()
            for outcome in self._core.advance(self._clock()):
                self._deliver(outcome)

    def _deliver(self, outcome: StepOutcome) -> None:
        for request_id, token_ids in outcome.token_ids.items():
            if (deltas := self._streams.get(request_id)) is not None:
                deltas.put_nowait(
                    TokenDelta(
                        text=WORD * len(token_ids),
                        token_ids=tuple(token_ids),
                        finish_reason="length" if request_id in outcome.finished else None,
                        prefill=outcome.prefills.get(request_id),
                    )
                )
        self._news.set()
