"""The retrieval that precedes every request of every system: the question embedded, FAISS searched.

What it finds is not used: which documents a request gets is the trace's to say, so that all systems get the
same and reuse is as recorded. It is there for its cost, which is the same for all.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

import faiss

from benchmarks.systems.system import Query
from mygo.retrieval.embed import Embedder

BATCH = 16


@dataclass(frozen=True, slots=True)
class Retrieved:
    embed_s: float
    search_s: float


class Retrieval:
    """An exact index over all documents of some queries. One question at a time, on one thread."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._lock = asyncio.Lock()
        self._index = faiss.IndexFlatIP(embedder.dimensions)
        faiss.omp_set_num_threads(1)

    @property
    def documents(self) -> int:
        return int(self._index.ntotal)

    def fill(self, queries: Sequence[Query]) -> None:
        """Index the documents of ``queries`` in place of what was there."""
        texts = list({name: text for query in queries for name, text in query.documents}.values())
        self._index.reset()
        for start in range(0, len(texts), BATCH):
            self._index.add(self._embedder.embed(texts[start : start + BATCH]))

    async def retrieve(self, query: Query) -> Retrieved:
        async with self._lock:  # the embedder is not thread-safe
            return await asyncio.to_thread(self._retrieve, query)

    def _retrieve(self, query: Query) -> Retrieved:
        started_s = time.perf_counter()
        vectors = self._embedder.embed_queries([query.question])
        embedded_s = time.perf_counter()
        if self._index.ntotal:
            self._index.search(vectors, max(1, len(query.documents)))
        return Retrieved(embedded_s - started_s, time.perf_counter() - embedded_s)
