"""A shard that takes as long as it is told: real results, stage by stage, after a declared delay."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

from benchmarks.speculation import STAGES
from mygo.retrieval import Stage
from mygo.retrieval.index import Vectors
from mygo.serve.retriever import ShardServer
from mygo.types import StoreId


class DelayedShard(ShardServer):
    """Deployment. Waits, and computes nothing meanwhile: as if the index lay on another machine."""

    _delay_s = 0.0
    _is_staged = True

    async def declare(self, delay_s: float, is_staged: bool) -> None:
        """Searches take ``delay_s`` from now on. Not ``is_staged``, they show their final result alone."""
        self._delay_s = delay_s
        self._is_staged = is_staged

    async def search(
        self, store_ids: Sequence[StoreId], vector: Vectors, k: int, question: str | None = None
    ) -> Stage:
        found = await super().search(store_ids, vector, k, question)
        await asyncio.sleep(self._delay_s)
        return found

    async def stages(
        self, store_ids: Sequence[StoreId], vector: Vectors, k: int, question: str | None = None
    ) -> AsyncGenerator[Stage, None]:
        found = [stage async for stage in super().stages(store_ids, vector, k, question)]
        shown = found[-1:]
        if self._is_staged and len(found) >= STAGES:
            shown = [found[len(found) * number // STAGES - 1] for number in range(1, STAGES + 1)]
        for stage in shown:
            await asyncio.sleep(self._delay_s / len(shown))
            yield stage
