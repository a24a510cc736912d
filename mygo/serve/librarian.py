"""The librarian: the one process that owns the corpus on disk (journal, catalog, files).

One replica, so there is one writer, and one place where every ingress replica finds earlier responses.
Parsing runs in the background, a file at a time, in a child process that is replaced when a file takes too
long or crashes it; it resumes after a crash with whatever is still in progress. Shards read the journal
from here and say how far they have come, so the librarian knows when a document can be found, and calls a
file completed only then.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

from mygo.api.memory import ResponseMemory
from mygo.config import Config
from mygo.corpus import (
    Attributes,
    Batch,
    ChildChunks,
    Entry,
    File,
    Library,
    PageRequest,
    Store,
    StoreFile,
    StoreFileStatus,
    StoreUsage,
    load_file_chunks,
)
from mygo.filters import Filter
from mygo.serve.cluster_secret import cluster_secret
from mygo.tree.keys import passage_tag
from mygo.types import DocId, DomainTag, Reuse, StoreId, TenantId, WorkerId

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
SHARD_SILENCE_S = 10.0
"""A shard that has said nothing for this long is dead, and nobody waits for it."""
DELETION_WAIT_S = 2.0
PURGE_WAIT_S = 10.0
"""A worker purges between two steps of its engine; on a CPU one may take a second."""
WORKER_SILENCE_S = 10.0
"""A worker that has said nothing for this long is dead. One that starts purges before it serves."""
MOST_MATCHING = 2_000
"""Documents that a shard is told to search among: finding these takes up to some ten milliseconds."""
MOST_MATCHING_PASSAGES = 10_000
"""Of these: their vectors are compared one by one, which takes about as long."""
RESPONSES_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Deletions:
    position: int
    """Up to here these are all."""
    tags: tuple[str, ...]
    """Of passages that no live document of their domain has any more."""


class Librarian:
    """Deployment; every method below is called through Ray Serve handles.

    Most are ``Catalog``'s and ``Batches``' of the same name: their errors travel to the caller. What
    deletes returns once live shards no longer find it, and live workers hold none of its KV.
    """

    def __init__(self, config: Config, tokenizer_path: Path) -> None:
        load = partial(
            load_file_chunks,
            tokenizer_path / "tokenizer.json",
            config.corpus.chunk_tokens,
            config.corpus.overlap_tokens,
        )
        self._file_chunks = ChildChunks(load, config.corpus.parse_timeout_s)
        self._seen: Mapping[tuple[int, int], tuple[int, float]] = {}
        """(Shard, replica) -> (position, when it said so); replaced, not changed, as all threads read it."""
        self._purged: dict[WorkerId, tuple[int, float]] = {}
        """Worker -> (position, when it said so)."""
        self._library = Library(config.cluster.data_dir, self._file_chunks, searchable=self._searchable)
        self._catalog = self._library.catalog
        self._responses = ResponseMemory(RESPONSES_BYTES)
        self._secret = cluster_secret(config.cluster.data_dir / "secret")
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="corpus")
        self._searches = ThreadPoolExecutor(max_workers=4, thread_name_prefix="corpus-search")
        """For what searches and shards ask: writers that wait for the disk may hold all other threads."""
        self._appended = asyncio.Event()
        self._work = asyncio.Event()
        self._work.set()
        self._parsing = asyncio.create_task(self._parse_forever())

    # --- stores ----------------------------------------------------------------------------------

    async def create_store(
        self,
        tenant: TenantId,
        *,
        name: str,
        domain: DomainTag | None,
        metadata: Mapping[str, str],
        reuse: Reuse | None = None,
        file_ids: Sequence[DocId],
    ) -> Store:
        return await self._writing(
            self._work.set,
            self._catalog.create_store,
            tenant,
            name=name,
            domain=domain,
            metadata=metadata,
            reuse=reuse,
            file_ids=file_ids,
        )

    async def update_store(
        self,
        tenant: TenantId,
        store_id: StoreId,
        *,
        name: str | None,
        metadata: Mapping[str, str] | None,
        reuse: Reuse | None = None,
    ) -> Store:
        return await self._in_thread(
            self._catalog.update_store, tenant, store_id, name=name, metadata=metadata, reuse=reuse
        )

    async def get_store(self, tenant: TenantId, store_id: StoreId) -> Store:
        return await self._in_thread(self._catalog.get_store, tenant, store_id)

    async def list_stores(self, tenant: TenantId, page: PageRequest) -> tuple[list[Store], bool]:
        return await self._in_thread(self._catalog.list_stores, tenant, page)

    async def store_usages(self, tenant: TenantId, store_ids: Sequence[StoreId]) -> dict[StoreId, StoreUsage]:
        return await self._in_thread(self._catalog.store_usages, tenant, store_ids)

    async def delete_store(self, tenant: TenantId, store_id: StoreId) -> None:
        await self._delete(self._catalog.delete_store, tenant, store_id)

    # --- files -----------------------------------------------------------------------------------

    async def add_file(self, tenant: TenantId, filename: str, data: bytes, *, purpose: str) -> File:
        return await self._in_thread(self._catalog.add_file, tenant, filename, data, purpose=purpose)

    async def get_file(self, tenant: TenantId, file_id: DocId) -> File:
        return await self._in_thread(self._catalog.get_file, tenant, file_id)

    async def list_files(
        self, tenant: TenantId, page: PageRequest, *, purpose: str | None
    ) -> tuple[list[File], bool]:
        return await self._in_thread(self._catalog.list_files, tenant, page, purpose=purpose)

    async def content(self, tenant: TenantId, file_id: DocId) -> bytes:
        return await self._in_thread(self._catalog.content, tenant, file_id)

    async def delete_file(self, tenant: TenantId, file_id: DocId) -> None:
        await self._delete(self._catalog.delete_file, tenant, file_id)

    # --- files of a store ------------------------------------------------------------------------

    async def attach(
        self, tenant: TenantId, store_id: StoreId, file_id: DocId, *, attributes: Attributes | None
    ) -> StoreFile:
        return await self._writing(
            self._work.set, self._catalog.attach, tenant, store_id, file_id, attributes=attributes
        )

    async def get_store_file(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> StoreFile:
        return await self._in_thread(self._catalog.get_store_file, tenant, store_id, file_id)

    async def list_store_files(
        self, tenant: TenantId, store_id: StoreId, page: PageRequest, *, status: StoreFileStatus | None
    ) -> tuple[list[StoreFile], bool]:
        return await self._in_thread(self._catalog.list_store_files, tenant, store_id, page, status=status)

    async def set_attributes(
        self, tenant: TenantId, store_id: StoreId, file_id: DocId, attributes: Attributes
    ) -> StoreFile:
        return await self._in_thread(self._catalog.set_attributes, tenant, store_id, file_id, attributes)

    async def passages(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> list[str]:
        return await self._in_thread(self._catalog.passages, tenant, store_id, file_id)

    async def detach(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> None:
        await self._delete(self._catalog.detach, tenant, store_id, file_id)

    async def create_batch(
        self, tenant: TenantId, store_id: StoreId, files: Sequence[tuple[DocId, Attributes | None]]
    ) -> Batch:
        return await self._writing(self._work.set, self._library.batches.create, tenant, store_id, files)

    async def get_batch(self, tenant: TenantId, store_id: StoreId, batch_id: str) -> Batch:
        return await self._in_thread(self._library.batches.get, tenant, store_id, batch_id)

    async def list_batch_files(
        self,
        tenant: TenantId,
        store_id: StoreId,
        batch_id: str,
        page: PageRequest,
        *,
        status: StoreFileStatus | None,
    ) -> tuple[list[StoreFile], bool]:
        list_files = self._library.batches.list_files
        return await self._in_thread(list_files, tenant, store_id, batch_id, page, status=status)

    async def cancel_batch(self, tenant: TenantId, store_id: StoreId, batch_id: str) -> Batch:
        return await self._in_thread(self._library.batches.cancel, tenant, store_id, batch_id)

    # --- responses -------------------------------------------------------------------------------

    async def remember_response(self, tenant: TenantId, response_id: str, value: bytes) -> None:
        """Not on disk: a conversation can go on from the text that its client has."""
        self._responses.remember(tenant, response_id, value)

    async def recall_response(self, tenant: TenantId, response_id: str) -> bytes | None:
        return self._responses.recall(tenant, response_id)

    async def forget_response(self, tenant: TenantId, response_id: str) -> bool:
        return self._responses.forget(tenant, response_id)

    # --- for searches, shards and the ingress ----------------------------------------------------

    async def secret(self) -> bytes:
        """The key under which sharing domains become salts; the same for the whole cluster."""
        return self._secret

    async def authorize(
        self, tenant: TenantId, store_ids: Sequence[StoreId]
    ) -> tuple[list[Reuse | None], int]:
        """(what reuse each store allows, position of the journal); NotFound for the first store that does not
        exist for this tenant."""
        stores = [
            await self._for_searches(self._catalog.get_store, tenant, store_id) for store_id in store_ids
        ]
        position = await self._for_searches(self._library.journal.position)
        return [store.reuse for store in stores], position

    async def matching(
        self, tenant: TenantId, store_ids: Sequence[StoreId], condition: Filter
    ) -> dict[StoreId, list[DocId]] | None:
        """The documents whose attributes pass, if a search among them all is cheaper than in the stores."""
        return await self._for_searches(
            self._catalog.matching, tenant, store_ids, condition, MOST_MATCHING, MOST_MATCHING_PASSAGES
        )

    async def describe(self, documents: Sequence[tuple[StoreId, DocId]]) -> list[Attributes | None]:
        """The attributes of documents in stores; None for one that was deleted meanwhile."""
        return await self._for_searches(self._catalog.attributes_of, documents)

    async def applied(self, shard: int, replica: int, position: int) -> None:
        """A replica of a shard says how far it has come; every second, also while it is busy embedding."""
        self._seen = {**self._seen, (shard, replica): (position, time.monotonic())}

    async def read(self, after: int, limit: int, wait_s: float) -> list[Entry]:
        """Journal entries above a position; waits up to ``wait_s`` for the first one."""
        deadline_s = time.monotonic() + wait_s
        while True:
            announced = self._appended
            entries = await self._for_searches(self._library.journal.read, after, limit)
            left_s = deadline_s - time.monotonic()
            if entries or left_s <= 0:
                return entries
            try:
                await asyncio.wait_for(announced.wait(), left_s)
            except TimeoutError:
                return []

    # --- for workers -----------------------------------------------------------------------------

    async def deletions(self, after: int, limit: int, wait_s: float) -> Deletions:
        """Tags of passages that are gone since a position; waits up to ``wait_s`` for the first one."""
        deadline_s = time.monotonic() + wait_s
        while True:
            announced = self._appended
            position, gone = await self._for_searches(self._library.journal.deletions, after, limit)
            left_s = deadline_s - time.monotonic()
            if gone or left_s <= 0:
                tags = (passage_tag(self._secret, domain, content_hash) for domain, content_hash in gone)
                return Deletions(position, tuple(tags))
            after = position
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(announced.wait(), left_s)

    async def purged(self, worker: WorkerId, position: int) -> None:
        """A worker's tiers hold nothing any more of what was deleted up to a position; every second."""
        self._purged[worker] = (position, time.monotonic())

    async def name_passages(self, tenant: TenantId, tags: Set[str]) -> dict[str, dict[str, str | int]]:
        """What the tenant's own live passages among these tags are called."""
        return await self._for_searches(self._names, tenant, tags)

    def _names(self, tenant: TenantId, tags: Set[str]) -> dict[str, dict[str, str | int]]:
        names: dict[str, dict[str, str | int]] = {}
        for passage in self._library.journal.live_passages(tenant):
            tag = passage_tag(self._secret, passage.domain, passage.content_hash)
            if tag in tags:
                names.setdefault(
                    tag,
                    {"document_id": passage.doc_id, "filename": passage.filename, "chunk": passage.index},
                )
        return names

    async def status(self) -> dict[str, int]:
        position = await self._for_searches(self._library.journal.position)
        pending = await self._for_searches(self._library.pending)
        return {"position": position, "searchable": self._searchable(), "pending_files": len(pending)}

    def _searchable(self) -> int:
        """The last position that every live shard has applied; 0 while there is none."""
        now_s = time.monotonic()
        alive = [at for at, seen_s in self._seen.values() if now_s - seen_s < SHARD_SILENCE_S]
        return min(alive) if alive else 0

    def _purged_everywhere(self, position: int) -> bool:
        """Whether every live worker has purged what was deleted up to a position."""
        now_s = time.monotonic()
        self._purged = {
            worker: (at, seen_s)
            for worker, (at, seen_s) in self._purged.items()
            if now_s - seen_s < WORKER_SILENCE_S
        }
        return all(at >= position for at, _ in self._purged.values())

    async def _delete(self, delete: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        await self._writing(self._announce, delete, *args, **kwargs)
        position = await self._in_thread(self._library.journal.position)
        deadline_s = time.monotonic() + DELETION_WAIT_S
        while self._searchable() < position and time.monotonic() < deadline_s:  # noqa: ASYNC110  bounded
            await asyncio.sleep(0.02)
        deadline_s += PURGE_WAIT_S
        while not self._purged_everywhere(position):
            if time.monotonic() > deadline_s:
                logger.warning("position %d is not yet purged by every worker: they go on trying", position)
                return
            await asyncio.sleep(0.02)

    async def _parse_forever(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                while await self._in_thread(self._library.process_next):
                    self._announce()
            except Exception as error:
                # a full disk, or no process to parse in: what is in progress stays so, and is tried again
                logger.error("processing of files paused: %s", error)
                await asyncio.sleep(5.0)
                self._work.set()

    def _announce(self) -> None:
        announced, self._appended = self._appended, asyncio.Event()
        announced.set()

    async def _in_thread(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, partial(work, *args, **kwargs))

    async def _writing(
        self, then: Callable[[], None], write: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As ``_in_thread``, and then what follows from it, though the caller may have gone away."""

        async def both() -> T:
            result = await self._in_thread(write, *args, **kwargs)
            then()
            return result

        return await asyncio.shield(both())

    async def _for_searches(self, read: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._searches, partial(read, *args, **kwargs))
