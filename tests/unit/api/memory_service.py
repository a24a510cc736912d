"""A whole Service in memory, for tests: documents are searched by shared words, answers are canned.

Words in the question steer it: ``BUSY`` fails before the first token, ``CRASH`` after the third token,
``BUG`` raises something unforeseen, ``FOREVER`` streams until it is closed, ``HANG`` never begins.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from mygo.api.memory import ResponseMemory
from mygo.api.service import (
    Answer,
    AnswerHead,
    AnswerRequest,
    BatchView,
    FileCounts,
    FileView,
    Hit,
    Listing,
    Page,
    Readiness,
    Retrieval,
    SearchResult,
    StoreFileView,
    StoreView,
)
from mygo.errors import BadRequest, Conflict, NotFound, OutOfSpace, Unavailable, WorkerLost
from mygo.filters import matches
from mygo.types import (
    DocId,
    PrefillStats,
    Reuse,
    Route,
    StoreId,
    TenantId,
    Tier,
    TokenDelta,
    TokenLogprob,
    WorkerId,
)

T = TypeVar("T")


@dataclass
class _File:
    tenant: TenantId
    view: FileView
    content: bytes


@dataclass
class _Store:
    tenant: TenantId
    view: StoreView
    files: dict[str, StoreFileView] = field(default_factory=dict)


@dataclass
class _Batch:
    store_id: StoreId
    file_ids: list[DocId]
    cancelled: bool = False


class Stream:
    """Words of a text as deltas; remembers how it ended."""

    def __init__(self, service: MemoryService, request: AnswerRequest, words: list[str]) -> None:
        self._service, self._request, self._words = service, request, words
        self._index = 0
        self.closed = False

    def __aiter__(self) -> AsyncIterator[TokenDelta]:
        return self

    async def __anext__(self) -> TokenDelta:
        sampling, question = self._request.sampling, self._request.query
        index, self._index = self._index, self._index + 1
        words = self._words
        if "CRASH" in question and index == 3:
            raise WorkerLost("worker w1 died; what was sent is all there is")
        if "FOREVER" in question:
            await asyncio.sleep(0.01)
            return TokenDelta(" more", (index,), prefill=_PREFILL if index == 0 else None)
        limit = min(len(words), sampling.max_tokens)
        if index >= limit:
            raise StopAsyncIteration
        reason = None
        if index == limit - 1 and "TRUNCATED" not in question:
            reason = "stop" if limit == len(words) else "length"
        text = words[index]
        logprobs: tuple[TokenLogprob, ...] = ()
        if sampling.logprobs is not None:
            top = ((text, -0.5), ("é", float("-inf")))[: sampling.logprobs]
            logprobs = (TokenLogprob(text, -0.5, top),)
        return TokenDelta(text, (1000 + index,), reason, _PREFILL if index == 0 else None, logprobs)

    async def aclose(self) -> None:
        await asyncio.sleep(0.005)  # aborting takes a call to the worker, which must not be cut short
        self.closed = True
        self._service.closed.set()


_PREFILL = PrefillStats({Tier.DEVICE: 64, Tier.HOST: 8}, queue_s=0.001, prefill_s=0.02)


def _page_of(items: Sequence[T], page: Page, *, key: Callable[[T], str]) -> Listing[T]:
    ordered = list(reversed(items)) if page.descending else list(items)
    ids = [key(item) for item in ordered]
    start = _position(ids, page.after, "after") + 1 if page.after is not None else 0
    end = _position(ids, page.before, "before") if page.before is not None else len(ordered)
    window = ordered[start:end]
    if page.before is not None and page.after is None:
        return Listing(tuple(window[-page.limit :]), has_more=len(window) > page.limit)
    return Listing(tuple(window[: page.limit]), has_more=len(window) > page.limit)


def _position(ids: list[str], cursor: str, param: str) -> int:
    try:
        return ids.index(cursor)
    except ValueError:
        raise BadRequest(
            f"{param}: no item {cursor!r} in this list; list from the start", param=param
        ) from None


class MemoryService:
    def __init__(self) -> None:
        self._ids = itertools.count(1)
        self._files: dict[str, _File] = {}
        self._stores: dict[str, _Store] = {}
        self._batches: dict[str, _Batch] = {}
        self._responses = ResponseMemory(2**20)
        self.requests: list[tuple[TenantId, AnswerRequest]] = []
        self.searched: list[Retrieval] = []
        self.streams: list[Stream] = []
        self.missing: tuple[str, ...] = ()
        self.disk_full = False
        self.uploads = 0
        self.polls_until_done = 1
        self._polls: dict[str, int] = {}
        self.closed = asyncio.Event()
        self.cancelled = asyncio.Event()

    # --- answers ---

    async def answer(self, tenant: TenantId, request: AnswerRequest) -> Answer:
        self.requests.append((tenant, request))
        question = request.query
        if "BUSY" in question:
            raise Unavailable("all workers are busy; retry", retry_after_s=2.5)
        if "BUG" in question:
            raise RuntimeError("secret detail")
        if "HANG" in question:
            try:
                await asyncio.sleep(3600)
            finally:
                self.cancelled.set()
        hits: tuple[Hit, ...] = ()
        degraded: tuple[str, ...] = ()
        if request.retrieval is not None:
            result = await self.search(tenant, question, request.retrieval)
            hits, degraded = result.hits, result.degraded
        elif request.documents:
            hits = tuple(
                Hit(DocId(each.id), each.title, 0, _digest(each.text), 0.0, each.text)
                for each in request.documents
            )
        words = ["Answer", ' "to"', f" {len(request.messages)}", " mess\nages", " –", " done."]
        stream = Stream(self, request, words)
        self.streams.append(stream)
        head = AnswerHead(
            prompt_token_ids=list(range(100)),
            route=Route(WorkerId("w1"), predicted_s=0.03, predicted_cached_tokens=72),
            retrieval_s=0.004,
            citations=hits[:3],
            dropped=hits[3:],
            degraded=degraded,
            reuse=request.reuse,
        )
        return Answer(head, stream)

    async def search(self, tenant: TenantId, query: str, retrieval: Retrieval) -> SearchResult:
        self.searched.append(retrieval)
        hits = []
        words = set(query.lower().split())
        for store_id in retrieval.store_ids:
            for file_id, member in self._store(tenant, store_id).files.items():
                if retrieval.filters is not None and not matches(retrieval.filters, member.attributes):
                    continue
                file = self._files[file_id]
                text = file.content.decode()
                score = len(words & set(text.lower().split())) / max(1, len(words))
                if retrieval.min_score is None or score >= retrieval.min_score:
                    name = file.view.filename
                    hits.append(Hit(DocId(file_id), name, 0, _digest(text), score, text, member.attributes))
        hits.sort(key=lambda hit: -hit.score)
        degraded = ("retrieval shard 1 did not answer",) if "SHARD" in query else ()
        return SearchResult(tuple(hits[: retrieval.top_k]), degraded)

    # --- stores ---

    def _store(self, tenant: TenantId, store_id: str) -> _Store:
        store = self._stores.get(store_id)
        if store is None or (store.tenant != tenant and not store.view.public):
            raise NotFound(f"vector store {store_id!r} does not exist", param="vector_store_id")
        return store

    def _file(self, tenant: TenantId, file_id: DocId) -> _File:
        file = self._files.get(file_id)
        if file is None or file.tenant != tenant:
            raise NotFound(f"file {file_id!r} does not exist", param="file_id")
        return file

    def _view(self, store: _Store) -> StoreView:
        statuses = [file.status for file in store.files.values()]
        counts = FileCounts(
            in_progress=statuses.count("in_progress"),
            completed=statuses.count("completed"),
            failed=statuses.count("failed"),
        )
        return replace(store.view, counts=counts)

    async def create_store(
        self,
        tenant: TenantId,
        *,
        name: str,
        metadata: Mapping[str, str],
        public: bool,
        reuse: Reuse | None = None,
        file_ids: Sequence[DocId],
    ) -> StoreView:
        for file_id in file_ids:
            self._file(tenant, file_id)
        store_id = StoreId(f"vs_{next(self._ids)}")
        view = StoreView(
            store_id, name, 1_700_000_000, FileCounts(), metadata=metadata, public=public, reuse=reuse
        )
        self._stores[store_id] = _Store(tenant, view)
        for file_id in file_ids:
            await self.attach_file(tenant, store_id, file_id, attributes={})
        return self._view(self._stores[store_id])

    async def update_store(
        self,
        tenant: TenantId,
        store_id: StoreId,
        *,
        name: str | None,
        metadata: Mapping[str, str] | None,
        reuse: Reuse | None = None,
    ) -> StoreView:
        store = self._store(tenant, store_id)
        view = store.view
        view = replace(view, name=view.name if name is None else name, reuse=reuse or view.reuse)
        store.view = replace(view, metadata=view.metadata if metadata is None else metadata)
        return self._view(store)

    async def store(self, tenant: TenantId, store_id: StoreId) -> StoreView:
        return self._view(self._store(tenant, store_id))

    async def stores(self, tenant: TenantId, page: Page) -> Listing[StoreView]:
        mine = [self._view(each) for each in self._stores.values() if each.tenant == tenant]
        return _page_of(mine, page, key=lambda store: store.id)

    async def delete_store(self, tenant: TenantId, store_id: StoreId) -> None:
        self._store(tenant, store_id)
        del self._stores[store_id]

    # --- files ---

    async def create_file(self, tenant: TenantId, *, filename: str, purpose: str, content: bytes) -> FileView:
        self.uploads += 1
        if self.disk_full:
            raise OutOfSpace("no space is left for the journal; free some and upload again")
        view = FileView(f"file-{next(self._ids)}", filename, len(content), purpose, 1_700_000_000)
        self._files[view.id] = _File(tenant, view, content)
        return view

    async def file(self, tenant: TenantId, file_id: DocId) -> FileView:
        return self._file(tenant, file_id).view

    async def files(self, tenant: TenantId, page: Page, *, purpose: str | None) -> Listing[FileView]:
        mine = [
            each.view
            for each in self._files.values()
            if each.tenant == tenant and purpose in (None, each.view.purpose)
        ]
        return _page_of(mine, page, key=lambda file: file.id)

    async def file_content(self, tenant: TenantId, file_id: DocId) -> bytes:
        return self._file(tenant, file_id).content

    async def delete_file(self, tenant: TenantId, file_id: DocId) -> None:
        self._file(tenant, file_id)
        for store in self._stores.values():
            store.files.pop(file_id, None)
        del self._files[file_id]

    # --- files in stores ---

    async def attach_file(
        self,
        tenant: TenantId,
        store_id: StoreId,
        file_id: DocId,
        *,
        attributes: Mapping[str, str | float | bool],
    ) -> StoreFileView:
        store, file = self._store(tenant, store_id), self._file(tenant, file_id)
        if "LOCKED" in file.view.filename:
            raise Conflict(f"file {file_id!r} is being processed; wait until it is done")
        view = StoreFileView(
            file_id, store_id, "in_progress", 1_700_000_000, file.view.bytes, attributes=attributes
        )
        store.files[file_id] = view
        return view

    async def store_file(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> StoreFileView:
        return self._polled(tenant, store_id, file_id)

    def _polled(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> StoreFileView:
        store = self._store(tenant, store_id)
        if file_id not in store.files:
            raise NotFound(f"file {file_id!r} is not in {store_id!r}", param="file_id")
        self._polls[file_id] = self._polls.get(file_id, 0) + 1
        view = store.files[file_id]
        if view.status == "in_progress" and self._polls[file_id] > self.polls_until_done:
            if b"\x00" in self._files[file_id].content:
                name = self._files[file_id].view.filename
                view = replace(view, status="failed", error=f"{name}: is binary; convert it to text")
            else:
                view = replace(view, status="completed")
            store.files[file_id] = view
        return view

    async def store_files(
        self, tenant: TenantId, store_id: StoreId, page: Page, *, status: str | None
    ) -> Listing[StoreFileView]:
        members = [
            each
            for each in self._store(tenant, store_id).files.values()
            if status is None or each.status == status
        ]
        return _page_of(members, page, key=lambda file: file.file_id)

    async def update_store_file(
        self,
        tenant: TenantId,
        store_id: StoreId,
        file_id: DocId,
        *,
        attributes: Mapping[str, str | float | bool],
    ) -> StoreFileView:
        view = replace(self._polled(tenant, store_id, file_id), attributes=attributes)
        self._store(tenant, store_id).files[file_id] = view
        return view

    async def store_file_texts(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> list[str]:
        self._polled(tenant, store_id, file_id)
        return self._files[file_id].content.decode().split("\n\n")

    async def detach_file(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> None:
        await self.store_file(tenant, store_id, file_id)
        del self._store(tenant, store_id).files[file_id]

    # --- batches ---

    async def create_batch(
        self,
        tenant: TenantId,
        store_id: StoreId,
        files: Sequence[tuple[DocId, Mapping[str, str | float | bool]]],
    ) -> BatchView:
        for file_id, _ in files:
            self._file(tenant, file_id)
        for file_id, attributes in files:
            await self.attach_file(tenant, store_id, file_id, attributes=attributes)
        batch_id = f"vsfb_{next(self._ids)}"
        self._batches[batch_id] = _Batch(store_id, [file_id for file_id, _ in files])
        return await self.batch(tenant, store_id, batch_id)

    def _batch(
        self, tenant: TenantId, store_id: StoreId, batch_id: str
    ) -> tuple[_Batch, list[StoreFileView]]:
        store, batch = self._store(tenant, store_id), self._batches.get(batch_id)
        if batch is None or batch.store_id != store_id:
            raise NotFound(f"file batch {batch_id!r} is not in {store_id!r}", param="batch_id")
        here = [file_id for file_id in batch.file_ids if file_id in store.files]
        return batch, [self._polled(tenant, store_id, file_id) for file_id in here]

    async def batch(self, tenant: TenantId, store_id: StoreId, batch_id: str) -> BatchView:
        batch, members = self._batch(tenant, store_id, batch_id)
        counts = Counter[str](member.status for member in members)
        counts["cancelled"] += len(batch.file_ids) - len(members)
        return BatchView(batch_id, store_id, 1_700_000_000, FileCounts(**counts), batch.cancelled)

    async def batch_files(
        self, tenant: TenantId, store_id: StoreId, batch_id: str, page: Page, *, status: str | None
    ) -> Listing[StoreFileView]:
        _, members = self._batch(tenant, store_id, batch_id)
        chosen = [each for each in members if status in (None, each.status)]
        return _page_of(chosen, page, key=lambda file: file.file_id)

    async def cancel_batch(self, tenant: TenantId, store_id: StoreId, batch_id: str) -> BatchView:
        batch, members = self._batch(tenant, store_id, batch_id)
        batch.cancelled = True
        for member in members:
            if member.status == "in_progress":
                cancelled = replace(member, status="cancelled")
                self._store(tenant, store_id).files[member.file_id] = cancelled
        return await self.batch(tenant, store_id, batch_id)

    # --- responses ---

    async def remember_response(self, tenant: TenantId, response_id: str, value: bytes) -> None:
        self._responses.remember(tenant, response_id, value)

    async def recall_response(self, tenant: TenantId, response_id: str) -> bytes | None:
        return self._responses.recall(tenant, response_id)

    async def forget_response(self, tenant: TenantId, response_id: str) -> bool:
        return self._responses.forget(tenant, response_id)

    # --- the machine ---

    async def readiness(self) -> Readiness:
        return Readiness(self.missing, {"workers": 2})

    async def metrics_text(self) -> str:
        return "mygo_requests_total 1\n"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
