"""The open loop: each request goes out when it is due, whatever became of those before it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from random import Random

from benchmarks.load.client import LoadClient
from benchmarks.load.profiles import Step, arrivals
from benchmarks.load.requests import Bodies
from benchmarks.load.samples import Sample

LOOK_AHEAD = 128
"""Bodies made before they are due."""


class Driver:
    """Sends a test's requests. ``sent`` and ``open`` may be read at any time."""

    def __init__(
        self, client: LoadClient, bodies: Bodies, rng: Random, done: Callable[[Sample], None]
    ) -> None:
        """``done`` is called with each request's sample, as they end."""
        self._client = client
        self._bodies = bodies
        self._rng = rng
        self._done = done
        self._began_s = time.perf_counter()
        self.sent = 0
        self.open = 0

    @property
    def now_s(self) -> float:
        """Seconds since the test began."""
        return time.perf_counter() - self._began_s

    async def run(self, steps: Sequence[Step], *, first_step: int = 0) -> float:
        """Serve the steps, one right after the other, and wait until every request has ended.

        Steps are numbered from ``first_step`` in the samples. Returns when the first step began, in the
        test's seconds.
        """
        plan = arrivals(steps, self._rng)
        ready: asyncio.Queue[bytes] = asyncio.Queue(LOOK_AHEAD)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._make(range(self.sent, self.sent + len(plan)), ready))
            while not ready.full() and ready.qsize() < len(plan):  # noqa: ASYNC110  a queue has no event for it
                await asyncio.sleep(0.01)
            began_s = self.now_s
            for after_s, step in plan:
                due_s = began_s + after_s
                body = await ready.get()
                await asyncio.sleep(max(0.0, due_s - self.now_s))
                tasks.create_task(self._ask(body, self.sent, first_step + step, due_s))
                self.sent += 1
                self.open += 1
            remaining_s = began_s + sum(step.duration_s for step in steps) - self.now_s
            await asyncio.sleep(max(0.0, remaining_s))
        return began_s

    async def _make(self, numbers: range, ready: asyncio.Queue[bytes]) -> None:
        for number in numbers:
            await ready.put(await asyncio.to_thread(self._bodies.body, number))

    async def _ask(self, body: bytes, number: int, step: int, due_s: float) -> None:
        try:
            sample = await self._client.ask(
                body, number=number, step=step, due_s=due_s, began_s=self._began_s
            )
        finally:
            self.open -= 1
        self._done(sample)
