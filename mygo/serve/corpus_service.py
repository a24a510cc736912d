"""What the HTTP service asks of the librarian: files, vector stores, earlier responses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Concatenate, ParamSpec, TypeVar

from ray.serve.handle import DeploymentHandle

from mygo.api.service import (
    Attributes,
    BatchView,
    FileCounts,
    FileStatus,
    FileView,
    Listing,
    Page,
    StoreFileView,
    StoreView,
)
from mygo.corpus import Batch, File, PageRequest, Store, StoreFile, StoreFileStatus, StoreUsage
from mygo.serve.calls import reply
from mygo.serve.librarian import Librarian
from mygo.types import PUBLIC, DocId, Reuse, StoreId, TenantId

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")
REMEMBER_S = 1.0
"""How long the end of an answer may wait until a next one can refer to it."""


class CorpusService:
    """See ``mygo.api.service.Service`` for what each method promises."""

    def __init__(self, librarian: DeploymentHandle) -> None:
        self._librarian = librarian

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
        store = await self._ask(
            Librarian.create_store,
            tenant,
            name=name,
            domain=PUBLIC if public else None,
            metadata=metadata,
            reuse=reuse,
            file_ids=file_ids,
        )
        return (await self._store_views(tenant, [store]))[0]

    async def update_store(
        self,
        tenant: TenantId,
        store_id: StoreId,
        *,
        name: str | None,
        metadata: Mapping[str, str] | None,
        reuse: Reuse | None = None,
    ) -> StoreView:
        store = await self._ask(
            Librarian.update_store, tenant, store_id, name=name, metadata=metadata, reuse=reuse
        )
        return (await self._store_views(tenant, [store]))[0]

    async def store(self, tenant: TenantId, store_id: StoreId) -> StoreView:
        store = await self._ask(Librarian.get_store, tenant, store_id)
        return (await self._store_views(tenant, [store]))[0]

    async def stores(self, tenant: TenantId, page: Page) -> Listing[StoreView]:
        stores, has_more = await self._ask(Librarian.list_stores, tenant, _page(page))
        return Listing(await self._store_views(tenant, stores), has_more)

    async def delete_store(self, tenant: TenantId, store_id: StoreId) -> None:
        await self._ask(Librarian.delete_store, tenant, store_id)

    async def create_file(self, tenant: TenantId, *, filename: str, purpose: str, content: bytes) -> FileView:
        return _file_view(await self._ask(Librarian.add_file, tenant, filename, content, purpose=purpose))

    async def file(self, tenant: TenantId, file_id: DocId) -> FileView:
        return _file_view(await self._ask(Librarian.get_file, tenant, file_id))

    async def files(self, tenant: TenantId, page: Page, *, purpose: str | None) -> Listing[FileView]:
        files, has_more = await self._ask(Librarian.list_files, tenant, _page(page), purpose=purpose)
        return Listing(tuple(_file_view(file) for file in files), has_more)

    async def file_content(self, tenant: TenantId, file_id: DocId) -> bytes:
        return await self._ask(Librarian.content, tenant, file_id)

    async def delete_file(self, tenant: TenantId, file_id: DocId) -> None:
        await self._ask(Librarian.delete_file, tenant, file_id)

    async def attach_file(
        self, tenant: TenantId, store_id: StoreId, file_id: DocId, *, attributes: Attributes
    ) -> StoreFileView:
        member = await self._ask(Librarian.attach, tenant, store_id, file_id, attributes=attributes or None)
        return _member_view(member)

    async def store_file(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> StoreFileView:
        return _member_view(await self._ask(Librarian.get_store_file, tenant, store_id, file_id))

    async def store_files(
        self, tenant: TenantId, store_id: StoreId, page: Page, *, status: FileStatus | None
    ) -> Listing[StoreFileView]:
        wanted = StoreFileStatus(status) if status else None
        members, has_more = await self._ask(
            Librarian.list_store_files, tenant, store_id, _page(page), status=wanted
        )
        return Listing(tuple(_member_view(member) for member in members), has_more)

    async def update_store_file(
        self, tenant: TenantId, store_id: StoreId, file_id: DocId, *, attributes: Attributes
    ) -> StoreFileView:
        return _member_view(await self._ask(Librarian.set_attributes, tenant, store_id, file_id, attributes))

    async def store_file_texts(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> list[str]:
        return await self._ask(Librarian.passages, tenant, store_id, file_id)

    async def detach_file(self, tenant: TenantId, store_id: StoreId, file_id: DocId) -> None:
        await self._ask(Librarian.detach, tenant, store_id, file_id)

    async def create_batch(
        self, tenant: TenantId, store_id: StoreId, files: Sequence[tuple[DocId, Attributes]]
    ) -> BatchView:
        given = [(file_id, attributes or None) for file_id, attributes in files]
        return _batch_view(await self._ask(Librarian.create_batch, tenant, store_id, given))

    async def batch(self, tenant: TenantId, store_id: StoreId, batch_id: str) -> BatchView:
        return _batch_view(await self._ask(Librarian.get_batch, tenant, store_id, batch_id))

    async def batch_files(
        self, tenant: TenantId, store_id: StoreId, batch_id: str, page: Page, *, status: FileStatus | None
    ) -> Listing[StoreFileView]:
        wanted = StoreFileStatus(status) if status else None
        members, has_more = await self._ask(
            Librarian.list_batch_files, tenant, store_id, batch_id, _page(page), status=wanted
        )
        return Listing(tuple(_member_view(member) for member in members), has_more)

    async def cancel_batch(self, tenant: TenantId, store_id: StoreId, batch_id: str) -> BatchView:
        return _batch_view(await self._ask(Librarian.cancel_batch, tenant, store_id, batch_id))

    async def remember_response(self, tenant: TenantId, response_id: str, value: bytes) -> None:
        try:
            async with asyncio.timeout(REMEMBER_S):
                await self._ask(Librarian.remember_response, tenant, response_id, value)
        except Exception as error:  # the answer is whole; only a next one cannot refer to it
            logger.warning("response %s is not remembered: %r", response_id, error)

    async def recall_response(self, tenant: TenantId, response_id: str) -> bytes | None:
        return await self._ask(Librarian.recall_response, tenant, response_id)

    async def forget_response(self, tenant: TenantId, response_id: str) -> bool:
        return await self._ask(Librarian.forget_response, tenant, response_id)

    async def _ask(
        self,
        method: Callable[Concatenate[Librarian, P], Awaitable[T]],
        /,
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> T:
        """Call a method of the librarian, as typed there, through its handle."""
        response = getattr(self._librarian, method.__name__).remote(*args, **kwargs)
        return await reply(response, "librarian")

    async def _store_views(self, tenant: TenantId, stores: Sequence[Store]) -> tuple[StoreView, ...]:
        usages = await self._ask(Librarian.store_usages, tenant, [store.id for store in stores])
        # a store without usage was deleted since it was asked for
        return tuple(_store_view(store, usages.get(store.id, StoreUsage())) for store in stores)


def _store_view(store: Store, usage: StoreUsage) -> StoreView:
    return StoreView(
        id=store.id,
        name=store.name,
        created_at_s=int(store.created_at),
        counts=_file_counts(usage.counts),
        usage_bytes=usage.bytes,
        metadata=store.metadata,
        public=store.domain == PUBLIC,
        reuse=store.reuse,
    )


def _batch_view(batch: Batch) -> BatchView:
    return BatchView(
        id=batch.id,
        store_id=batch.store_id,
        created_at_s=int(batch.created_at),
        cancelled=batch.cancelled,
        counts=_file_counts(batch.counts),
    )


def _file_counts(counts: Mapping[StoreFileStatus, int]) -> FileCounts:
    return FileCounts(**{status.value: count for status, count in counts.items()})


def _member_view(member: StoreFile) -> StoreFileView:
    failure = member.error
    return StoreFileView(
        file_id=member.file_id,
        store_id=member.store_id,
        status=member.status.value,
        created_at_s=int(member.created_at),
        usage_bytes=member.bytes,
        attributes=member.attributes,
        error=failure.message if failure else None,
        error_code="server_error" if failure and failure.code == "server_error" else "unsupported_file",
    )


def _page(page: Page) -> PageRequest:
    return PageRequest(
        limit=page.limit,
        order="desc" if page.descending else "asc",
        after=page.after,
        before=page.before,
    )


def _file_view(file: File) -> FileView:
    return FileView(
        id=file.id,
        filename=file.filename,
        bytes=file.bytes,
        purpose=file.purpose,
        created_at_s=int(file.created_at),
    )
