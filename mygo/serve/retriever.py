"""Retrieval in the cluster: the FAISS shards, and the client that asks them and the embedder.

Each shard is its own deployment: it owns the documents that hash to it, follows the journal by
itself, and when it dies, only its share of the corpus is missing from answers until it is back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import threading
from collections import OrderedDict
from collections.abc import AsyncGenerator, Collection, Iterable, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray import serve
from ray.serve.handle import DeploymentHandle

from mygo.config import Config
from mygo.corpus import Delete
from mygo.errors import Unavailable
from mygo.retrieval import Replayer, SearchResult, Shard, ShardStages, Stage, Weights, snapshot
from mygo.retrieval.recent import LONGEST_KEPT_CHARS
from mygo.retrieval.shard import Documents
from mygo.retrieval.stored import scratch_folder
from mygo.serve.calls import abandon, is_cancelled, outlived, reply
from mygo.types import StoreId, TenantId

logger = logging.getLogger(__name__)

Vectors = NDArray[np.float32]
READ_LIMIT = 16
"""Documents per batch: a deletion behind them waits until they are embedded."""
HEARTBEAT_S = 1.0
READ_WAIT_S = 2.0
RETRY_S = 1.0
REBUILD_PAUSE_S = 60.0


class ShardServer:
    """Deployment: one FAISS shard, a pure function of the journal."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits constructors
        self, index: int, config: Config, librarian: DeploymentHandle, embedder: DeploymentHandle
    ) -> None:
        self._index = index
        self._retrieval = config.retrieval
        self._librarian = librarian
        self._embedder = embedder
        self._replica = serve.get_replica_context().rank.rank
        name = f"{index}-of-{config.retrieval.shards}"
        if self._replica:
            name += f"-replica-{self._replica}"
        self._folder = config.cluster.data_dir / "shards" / name
        scratch = scratch_folder(self._folder / "scratch")
        dimensions, self._fingerprint = await embedder.describe.remote()
        self._searches = ThreadPoolExecutor(max_workers=2, thread_name_prefix="search")
        # one at a time, and apart from searches, which must not queue behind an update that waits
        self._updates = ThreadPoolExecutor(max_workers=1, thread_name_prefix="update")
        self._rebuilds = ThreadPoolExecutor(max_workers=1, thread_name_prefix="rebuild")
        self._changed = asyncio.Event()
        self._changed.set()
        restored = await self._updating(
            snapshot.load, self._folder, dimensions, index, config.retrieval, self._fingerprint, scratch
        )
        self._known_from: int = (await librarian.status.remote())["position"]
        if restored and restored[1] > self._known_from:
            logger.warning("shard %d: its snapshot is ahead of the journal, so of another one", index)
            restored = None
        self._shard: Shard
        self._shard, position = restored or (
            Shard(dimensions, index=index, config=config.retrieval, folder=scratch),
            0,
        )
        self._replayer = Replayer(self._shard, position, delete_type=Delete)
        self._saved_at = position
        self._saving = asyncio.Lock()
        if config.retrieval.shard_replicas > 1:  # others answer meanwhile, and know more
            while self._replayer.position < self._known_from and await self._apply_next():
                await self._save_if_due()
        self._background = [
            asyncio.create_task(self._follow()),
            asyncio.create_task(self._tell_how_far()),
            asyncio.create_task(self._rebuild()),
        ]

    async def search(
        self, store_ids: Sequence[StoreId], vector: Vectors, k: int, question: str | None = None
    ) -> Stage:
        """The final stage alone."""
        return await self._search(store_ids, vector, k, question)

    async def search_among(
        self, documents: Documents, vector: Vectors, k: int, question: str | None = None
    ) -> Stage:
        """Only these documents, exactly; it has one stage."""
        return await self._search(documents, vector, k, question, documents)

    async def _search(
        self,
        store_ids: Iterable[StoreId],
        vector: Vectors,
        k: int,
        question: str | None,
        documents: Documents | None = None,
    ) -> Stage:
        """Cancelled, it ends soon: other searches wait for its thread."""
        given_up = threading.Event()

        def search() -> Stage:
            position = self._replayer.position
            (stage,) = self._shard.search_staged(
                frozenset(store_ids), vector, k, math.inf, question, documents, partial(_end_if, given_up)
            )
            return self._dated(stage, position)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._searches, search)
        finally:
            given_up.set()

    def _dated(self, stage: Stage, position: int) -> Stage:
        return replace(stage, position=position, is_replaying=position < self._known_from)

    async def stages(
        self,
        store_ids: Sequence[StoreId],
        vector: Vectors,
        k: int,
        question: str | None = None,
    ) -> AsyncGenerator[Stage, None]:
        """Stages of about ``retrieval.stage_s``. Closing the iterator ends the search soon.

        The search runs ahead of whoever takes the stages: updates wait for it, and must not wait for them.
        """
        loop = asyncio.get_running_loop()
        found: asyncio.Queue[Stage] = asyncio.Queue()
        given_up = threading.Event()

        def search() -> None:
            position = self._replayer.position
            stages = self._shard.search_staged(
                frozenset(store_ids),
                vector,
                k,
                self._retrieval.stage_s,
                question,
                check_cancelled=partial(_end_if, given_up),
            )
            with contextlib.closing(stages):
                for stage in stages:
                    if given_up.is_set():
                        return
                    loop.call_soon_threadsafe(found.put_nowait, self._dated(stage, position))

        searching = loop.run_in_executor(self._searches, search)
        next_stage: asyncio.Future[Stage] = loop.create_future()
        try:
            while True:
                next_stage = asyncio.ensure_future(found.get())
                await asyncio.wait((next_stage, searching), return_when=asyncio.FIRST_COMPLETED)
                if not next_stage.done() and found.empty():
                    next_stage.cancel()
                    await searching  # raises what it failed with
                    continue
                stage = await next_stage
                yield stage
                if stage.is_final:
                    return
        finally:
            given_up.set()
            next_stage.cancel()
            searching.cancel()  # if it has not begun

    async def status(self) -> dict[str, Any]:
        return {"index": self._index, "vectors": len(self._shard), "position": self._replayer.position}

    async def _follow(self) -> None:
        while True:
            try:
                await outlived(self._catch_up())
            except Exception as error:
                logger.warning("shard %d cannot follow the journal, trying again: %s", self._index, error)
                await asyncio.sleep(RETRY_S)

    async def _tell_how_far(self) -> None:
        while True:
            try:
                await self._tell()
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
                rebuilt = 0
                while await loop.run_in_executor(self._rebuilds, self._shard.rebuild_outgrown):
                    rebuilt += 1
                if rebuilt:
                    logger.info("rebuilt %d indexes of %r", rebuilt, self._shard)
                    await self._save()  # so that a restart need not build them again
            except Exception as error:
                # say, no room for its files: searches go on in the old one
                logger.warning("shard %d cannot rebuild an index, trying again: %r", self._index, error)
                await asyncio.sleep(REBUILD_PAUSE_S)
                self._changed.set()

    async def _tell(self) -> None:
        told = self._librarian.applied.remote(self._index, self._replica, self._replayer.position)
        await reply(told, "librarian")

    async def _catch_up(self) -> None:
        if not await self._apply_next():
            return
        await self._tell()
        await self._save_if_due()

    async def _apply_next(self) -> bool:
        """Whether there was anything to apply."""
        asked = self._librarian.read.remote(self._replayer.position, READ_LIMIT, READ_WAIT_S)
        entries = await reply(asked, "librarian")
        if not entries:
            return False
        texts = self._replayer.texts_to_embed(entries)
        vectors = await self._embedder.embed.remote(texts) if texts else None
        await self._updating(self._replayer.apply, entries, vectors)
        self._changed.set()
        return True

    async def _save_if_due(self) -> None:
        if self._replayer.position - self._saved_at >= self._retrieval.snapshot_every:
            await self._save()

    async def _save(self) -> None:
        async with self._saving:
            position = self._replayer.position  # entries that come meanwhile may be applied again
            await self._updating(snapshot.save, self._shard, position, self._fingerprint, self._folder)
            self._saved_at = position

    async def _updating(self, work: Any, *args: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._updates, work, *args)


def _end_if(given_up: threading.Event) -> None:
    if given_up.is_set():
        raise CancelledError


@dataclass(frozen=True, slots=True)
class Query:
    """What to look for, and where."""

    text: str
    vector: Vectors
    store_ids: Sequence[StoreId]
    weights: Weights
    documents: Documents | None = None
    """If given, only these of the stores are searched, exactly and in one go."""

    def arguments(self, k: int) -> tuple[Sequence[StoreId] | Documents, Vectors, int, str | None]:
        """Of a shard's ``search``, ``search_among`` or ``stages``, for the best ``k`` of all."""
        where = self.store_ids if self.documents is None else self.documents
        return where, self.vector, self.weights.depth(k), self.text if self.weights.words else None


class Retriever:
    """Asks the embedder and every shard; a late or dead shard is reported, not hidden."""

    def __init__(
        self,
        embedder: DeploymentHandle,
        shards: Sequence[DeploymentHandle],
        timeout_s: float,
        recent_vectors: int = 0,
    ) -> None:
        """``recent_vectors``: questions whose vectors are kept, each for the tenant that asked it."""
        self._embedder = embedder
        self._shards = shards
        self._timeout_s = timeout_s
        self._most_vectors = recent_vectors
        self._vectors: OrderedDict[tuple[TenantId, str], Vectors] = OrderedDict()

    async def embed(self, tenant: TenantId, query: str) -> Vectors:
        """[dimensions]. Raises Unavailable while the embedder is away."""
        key = (tenant, query)  # what one tenant asked must not be seen in another one's waiting time
        if (known := self._vectors.get(key)) is not None:
            self._vectors.move_to_end(key)
            return known
        vector: Vectors = await reply(self._embedder.embed_query.remote(query), "embedder")
        if self._most_vectors and len(query) <= LONGEST_KEPT_CHARS:
            self._vectors[key] = vector
            if len(self._vectors) > self._most_vectors:
                self._vectors.popitem(last=False)
        return vector

    async def search(
        self, query: Query, k: int, *, without: Collection[int] = (), within_s: float | None = None
    ) -> SearchResult:
        """The best ``k`` of all shards that answer in time. Raises Unavailable if none does. ``without``:
        shards that are lost as it is, and not asked. ``within_s``: by default ``timeout_s``."""
        merged = ShardStages(len(self._shards), k, query.weights)
        for index in without:
            merged.lose(index)
        asked = [index for index in range(len(self._shards)) if index not in without]
        asking = (self._ask(self._shards[index], query, k, within_s) for index in asked)
        answers = await asyncio.gather(*asking, return_exceptions=True)
        for index, answer in zip(asked, answers, strict=True):
            if isinstance(answer, BaseException):
                self._lose(merged, index, answer)
            else:
                merged.add(index, answer)
        return _result(merged)

    async def _ask(self, shard: DeploymentHandle, query: Query, k: int, within_s: float | None) -> Stage:
        method = shard.search if query.documents is None else shard.search_among
        asked = method.remote(*query.arguments(k))
        try:
            async with asyncio.timeout(self._timeout_s if within_s is None else within_s):
                answer: Stage = await asked
                return answer
        except BaseException:
            abandon(asked)
            raise

    @cached_property
    def _streaming(self) -> list[DeploymentHandle]:
        return [shard.options(stream=True) for shard in self._shards]

    async def stages(self, query: Query, k: int) -> AsyncGenerator[SearchResult, None]:
        """``search`` in stages: what all shards have found so far, the last time with ``is_final``.

        Closing the iterator ends the searches. Raises Unavailable if no shard answers.
        """
        merged = ShardStages(len(self._shards), k, query.weights)
        news: asyncio.Queue[tuple[int, Stage | BaseException]] = asyncio.Queue()
        following = [
            asyncio.create_task(self._follow(index, shard, query.arguments(k), news))
            for index, shard in enumerate(self._streaming)
        ]
        try:
            while not merged.is_final:
                index, stage = await news.get()
                if isinstance(stage, BaseException):
                    self._lose(merged, index, stage)
                else:
                    merged.add(index, stage)
                if news.empty() and not merged.is_final and (provisional := merged.result()):
                    yield provisional
            yield _result(merged)
        finally:
            for task in following:
                task.cancel()

    async def _follow(
        self,
        index: int,
        shard: DeploymentHandle,
        arguments: tuple[Any, ...],
        news: asyncio.Queue[tuple[int, Stage | BaseException]],
    ) -> None:
        """Pass on a shard's stages until the final one, or why there is none."""
        stages = None
        try:
            async with asyncio.timeout(self._timeout_s):
                stages = shard.stages.remote(*arguments)
                async for stage in stages:
                    news.put_nowait((index, stage))
                    if stage.is_final:
                        return
            raise Unavailable("its stages ended before the final one")
        except (Exception, asyncio.CancelledError) as error:
            news.put_nowait((index, error))
            if stages is not None:
                abandon(stages)
            # Ray raises CancelledError here, too, when it was the shard's task that was cancelled
            if is_cancelled():
                raise

    def _lose(self, merged: ShardStages, index: int, error: BaseException) -> None:
        logger.warning("shard %d did not answer: %r", index, error)
        merged.lose(index)


def _result(merged: ShardStages) -> SearchResult:
    result = merged.result()
    if merged.found_by_none or result is None:
        raise Unavailable("no retrieval shard answers; try again shortly", retry_after_s=5.0)
    return result
