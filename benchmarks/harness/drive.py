"""One system serves one round: requests go out when they are due, and become records."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import httpx

from benchmarks.harness.records import Record
from benchmarks.harness.retrieval import Retrieval, Retrieved
from benchmarks.systems.system import Query, Reply, Server


@dataclass(frozen=True, slots=True)
class Place:
    """Where a round's records belong."""

    system: str
    load: str
    round: int


class Driver:
    """Sends the requests of a round to a server."""

    def __init__(self, server: Server, retrieval: Retrieval, place: Place) -> None:
        self._server = server
        self._retrieval = retrieval
        self._place = place
        self._began_s = 0.0

    async def closed(self, queries: Sequence[Query], concurrency: int) -> list[Record]:
        """``concurrency`` requests are always open, taken in order; records in the order of the queries."""
        self._began_s = time.perf_counter()
        waiting = iter(list(enumerate(queries)))
        records: dict[int, Record] = {}

        async def client() -> None:
            for index, query in waiting:
                records[index] = await self._serve(query, self._now_s())

        await asyncio.gather(*(client() for _ in range(concurrency)))
        return [records[index] for index in sorted(records)]

    async def open(self, queries: Sequence[Query], send_s: Sequence[float]) -> list[Record]:
        """Each goes out at its time, whatever became of those before it."""
        self._began_s = time.perf_counter()

        async def due(query: Query, arrival_s: float) -> Record:
            await asyncio.sleep(max(0.0, arrival_s - self._now_s()))
            return await self._serve(query, arrival_s)

        pairs = zip(queries, send_s, strict=True)
        return await asyncio.gather(*(due(query, arrival_s) for query, arrival_s in pairs))

    def _now_s(self) -> float:
        return time.perf_counter() - self._began_s

    async def _serve(self, query: Query, arrived_s: float) -> Record:
        retrieved = await self._retrieval.retrieve(query)
        sent_s = self._now_s()
        try:
            reply = await self._server.ask(query)
            _check_length(query, reply)
        except (RuntimeError, httpx.HTTPError) as error:
            return self._record(query, arrived_s, sent_s, retrieved, None, f"{type(error).__name__}: {error}")
        return self._record(query, arrived_s, sent_s, retrieved, reply, None)

    def _record(
        self,
        query: Query,
        arrived_s: float,
        sent_s: float,
        retrieved: Retrieved,
        reply: Reply | None,
        error: str | None,
    ) -> Record:
        times_s = [each - self._began_s for each in reply.token_times_s] if reply else []
        first_s, last_s = (times_s[0], times_s[-1]) if times_s else (None, None)
        return Record(
            system=self._place.system,
            load=self._place.load,
            round=self._place.round,
            request=query.number,
            arrived_s=round(arrived_s, 6),
            sent_s=round(sent_s, 6),
            first_s=_rounded(first_s),
            last_s=_rounded(last_s),
            ttft_s=None if first_s is None else round(first_s - arrived_s, 6),
            e2e_s=None if last_s is None else round(last_s - arrived_s, 6),
            itl_s=[round(after - before, 6) for before, after in pairwise(times_s)],
            prompt_tokens=query.prompt.tokens,
            cached_tokens=reply.cached_tokens if reply else 0,
            embed_s=round(retrieved.embed_s, 6),
            search_s=round(retrieved.search_s, 6),
            queue_s=reply.queue_s if reply else 0.0,
            prefill_s=reply.prefill_s if reply else 0.0,
            worker=reply.worker if reply else "",
            output_ids=reply.output_ids if reply else [],
            error=error,
        )


def _check_length(query: Query, reply: Reply) -> None:
    if len(reply.output_ids) != query.output_tokens:
        raise RuntimeError(
            f"request {query.number}: {len(reply.output_ids)} tokens came back, not {query.output_tokens}"
        )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
