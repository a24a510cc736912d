"""Retrieval in the cluster: the embedder, the FAISS shards, and the client that asks them.

Each shard is its own deployment: it owns the documents that hash to it, follows the journal by
itself, and when it dies, only its share of the corpus is missing from answers until it is back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.serve.handle import DeploymentHandle

from mygo.config import Config
from mygo.corpus import Delete
from mygo.errors import Unavailable
from mygo.retrieval import Embedder, Replayer, SearchResult, Shard, merge, snapshot
from mygo.retrieval.stored import scratch_folder
from mygo.serve.calls import reply
from mygo.types import ScoredPassage, StoreId

logger = logging.getLogger(__name__)

Vectors = NDArray[np.float32]
READ_LIMIT = 16
"""Documents per batch: a deletion behind them waits until they are embedded."""
HEARTBEAT_S = 1.0
READ_WAIT_S = 2.0
REBUILD_PAUSE_S = 60.0


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


class ShardServer:
    """Deployment: one FAISS shard, a pure function of the journal."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits constructors
        self, index: int, config: Config, librarian: DeploymentHandle, embedder: DeploymentHandle
    ) -> None:
        self._index = index
        self._retrieval = config.retrieval
        self._librarian = librarian
        self._embedder = embedder
        self._folder = config.cluster.data_dir / "shards" / f"{index}-of-{config.retrieval.shards}"
        scratch = scratch_folder(self._folder / "scratch")
        dimensions, self._fingerprint = await embedder.describe.remote()
        self._thread = ThreadPoolExecutor(max_workers=2, thread_name_prefix="shard")
        self._rebuilds = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rebuild")
        self._changed = asyncio.Event()
        self._changed.set()
        restored = await self._in_thread(
            snapshot.load, self._folder, dimensions, index, config.retrieval, self._fingerprint, scratch
        )
        if restored and restored[1] > (await librarian.status.remote())["position"]:
            logger.warning("shard %d: its snapshot is ahead of the journal, so of another one", index)
            restored = None
        self._shard: Shard
        self._shard, position = restored or (
            Shard(dimensions, index=index, config=config.retrieval, folder=scratch),
            0,
        )
        self._replayer = Replayer(self._shard, position, delete_type=Delete)
        self._saved_at = position
        self._background = [
            asyncio.create_task(self._follow()),
            asyncio.create_task(self._tell_how_far()),
            asyncio.create_task(self._rebuild()),
        ]

    async def search(self, store_ids: Sequence[StoreId], vector: Vectors, k: int) -> list[ScoredPassage]:
        found: list[ScoredPassage] = await self._in_thread(
            self._shard.search, frozenset(store_ids), vector, k
        )
        return found

    async def status(self) -> dict[str, Any]:
        return {"index": self._index, "vectors": len(self._shard), "position": self._replayer.position}

    async def _follow(self) -> None:
        while True:
            try:
                await self._catch_up()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                logger.warning("shard %d cannot follow the journal, trying again: %s", self._index, error)
                await asyncio.sleep(1.0)

    async def _tell_how_far(self) -> None:
        while True:
            try:
                await self._librarian.applied.remote(self._index, self._replayer.position)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                logger.warning("shard %d cannot reach the librarian: %s", self._index, error)
            await asyncio.sleep(HEARTBEAT_S)

    async def _rebuild(self) -> None:
        """Build outgrown indexes anew while searches and updates go on."""
        loop = asyncio.get_running_loop()
        while True:
            await self._changed.wait()
            self._changed.clear()
            try:
                while await loop.run_in_executor(self._rebuilds, self._shard.rebuild_outgrown):
                    logger.info("rebuilt an index of %r", self._shard)
            except Exception as error:
                # say, no room for its files: searches go on in the old one
                logger.warning("shard %d cannot rebuild an index, trying again: %r", self._index, error)
                await asyncio.sleep(REBUILD_PAUSE_S)
                self._changed.set()

    async def _catch_up(self) -> None:
        entries = await self._librarian.read.remote(self._replayer.position, READ_LIMIT, READ_WAIT_S)
        if not entries:
            return
        texts = self._replayer.texts_to_embed(entries)
        vectors = await self._embedder.embed.remote(texts) if texts else None
        await self._in_thread(self._replayer.apply, entries, vectors)
        self._changed.set()
        await self._librarian.applied.remote(self._index, self._replayer.position)
        if self._replayer.position - self._saved_at >= self._retrieval.snapshot_every:
            await self._in_thread(
                snapshot.save, self._shard, self._replayer.position, self._fingerprint, self._folder
            )
            self._saved_at = self._replayer.position

    async def _in_thread(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)


class Retriever:
    """Asks the embedder and every shard; a late or dead shard is reported, not hidden."""

    def __init__(
        self, embedder: DeploymentHandle, shards: Sequence[DeploymentHandle], timeout_s: float
    ) -> None:
        self._embedder = embedder
        self._shards = shards
        self._timeout_s = timeout_s

    async def embed(self, query: str) -> Vectors:
        """[dimensions]. Raises Unavailable while the embedder is away."""
        return await reply(self._embedder.embed_query.remote(query), "embedder")

    async def search(self, vector: Vectors, store_ids: Sequence[StoreId], k: int) -> SearchResult:
        """The best ``k`` of all shards that answer in time. Raises Unavailable if none does."""
        answers = await asyncio.gather(
            *(self._ask(shard, store_ids, vector, k) for shard in self._shards), return_exceptions=True
        )
        found: list[list[ScoredPassage]] = []
        missing: list[int] = []
        for index, answer in enumerate(answers):
            if isinstance(answer, BaseException):
                logger.warning("shard %d did not answer: %r", index, answer)
                missing.append(index)
            else:
                found.append(answer)
        if not found:
            raise Unavailable("no retrieval shard answers; try again shortly", retry_after_s=5.0)
        return SearchResult(tuple(merge(found, k)), tuple(missing))

    async def _ask(
        self, shard: DeploymentHandle, store_ids: Sequence[StoreId], vector: Vectors, k: int
    ) -> list[ScoredPassage]:
        answer: list[ScoredPassage] = await asyncio.wait_for(
            shard.search.remote(store_ids, vector, k), self._timeout_s
        )
        return answer
