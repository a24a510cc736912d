"""Retrieval's models in the cluster: the embedder and, if one is configured, the reranker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from mygo.config import Config
from mygo.retrieval import Embedder
from mygo.retrieval.index import Vectors
from mygo.retrieval.rerank import load_reranker


class EmbedderServer:
    """Deployment: the sentence embedder, one model shared by queries and shards."""

    def __init__(self, config: Config, model_path: Path) -> None:
        self._embedder = Embedder(str(model_path), config.embedder.batch)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="embed")
        self._queries: asyncio.Queue[tuple[str, asyncio.Future[Vectors]]] = asyncio.Queue()
        self._batching = asyncio.create_task(self._embed_queries())

    async def describe(self) -> tuple[int, str]:
        """(dimensions, fingerprint) of the model."""
        return self._embedder.dimensions, self._embedder.fingerprint

    async def embed(self, texts: Sequence[str]) -> Vectors:
        """[n, dimensions] unit vectors of documents: a few at a time, so that no query waits long."""
        batches = [
            await self._in_thread(self._embedder.embed, list(texts[start : start + 8]))
            for start in range(0, len(texts), 8)
        ]
        return np.concatenate(batches) if batches else self._embedder.embed([])

    async def embed_query(self, text: str) -> Vectors:
        """[dimensions]; queries that arrive together are embedded together."""
        done: asyncio.Future[Vectors] = asyncio.get_running_loop().create_future()
        self._queries.put_nowait((text, done))
        return await done

    async def _embed_queries(self) -> None:
        while True:
            waiting = [await self._queries.get()]
            while not self._queries.empty() and len(waiting) < 32:
                waiting.append(self._queries.get_nowait())
            try:
                vectors = await self._in_thread(self._embedder.embed_queries, [text for text, _ in waiting])
            except Exception as error:
                for _, done in waiting:
                    if not done.cancelled():
                        done.set_exception(error)
                continue
            for (_, done), vector in zip(waiting, vectors, strict=True):
                if not done.cancelled():
                    done.set_result(vector)

    async def _in_thread(self, embed: Callable[[Sequence[str]], Vectors], texts: Sequence[str]) -> Vectors:
        return await asyncio.get_running_loop().run_in_executor(self._thread, embed, texts)


class RerankerServer:
    """Deployment: the cross-encoder, one question after another."""

    def __init__(self, model: str, batch: int) -> None:
        self._reranker = load_reranker(model, batch)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rerank")

    async def scores(self, question: str, texts: Sequence[str]) -> list[float]:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._reranker.scores, question, texts)
