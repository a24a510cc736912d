"""A generation for which nobody waits yet: read ahead, and kept back until somebody does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from mygo.serve.dispatch import Generation
from mygo.types import PrefillStats, Route, TokenDelta


class ReadAhead:
    """Begins at once, in the background; iterating yields what has come, then what comes.

    So a worker that dies before the first token is asked for is noticed in time. ``aclose`` ends it
    whatever it is doing.
    """

    def __init__(self, start: Callable[[], Awaitable[Generation]], clock: Callable[[], float]) -> None:
        """``start``: see ``Dispatcher.start``."""
        self._start = start
        self._clock = clock
        self._generation: Generation | None = None
        self._deltas: asyncio.Queue[TokenDelta | Exception] = asyncio.Queue()
        self._begun = asyncio.Event()
        self.first_token_s: float | None = None
        """When the first token came, by ``clock``."""
        self._last_token_s: float | None = None
        self.failed = False
        self._task = asyncio.create_task(self._read())

    @property
    def decoded_s(self) -> float:
        """From the first token to the latest."""
        if self.first_token_s is None or self._last_token_s is None:
            return 0.0
        return self._last_token_s - self.first_token_s

    async def begun(self) -> bool:
        """Wait for the first token; False if it failed, then or since."""
        await self._begun.wait()
        return not self.failed

    @property
    def route(self) -> Route:
        """Only once it has begun."""
        return self._reading.route

    @property
    def attempts(self) -> int:
        return self._reading.attempts

    @property
    def prefill(self) -> PrefillStats | None:
        """Of the first token; None while that is not there."""
        return None if self._generation is None else self._generation.prefill

    def __aiter__(self) -> AsyncIterator[TokenDelta]:
        return self

    async def __anext__(self) -> TokenDelta:
        delta = await self._deltas.get()
        if isinstance(delta, Exception):
            self._deltas.put_nowait(delta)  # it stays ended
            raise delta
        return delta

    async def aclose(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    @property
    def _reading(self) -> Generation:
        assert self._generation is not None, "there is no first token yet"
        return self._generation

    async def _read(self) -> None:
        try:
            self._generation = await self._start()
            self.first_token_s = self._clock()
            self._begun.set()
            try:
                async for delta in self._generation:
                    self._last_token_s = self._clock()
                    self._deltas.put_nowait(delta)
            finally:
                await self._generation.aclose()
            self._deltas.put_nowait(StopAsyncIteration())
        except Exception as error:
            self.failed = True
            self._deltas.put_nowait(error)
        finally:
            self._begun.set()
