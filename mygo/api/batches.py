"""File batches: several files put into a store with one call.

A batch is a list of file ids and nothing more: its state is that of its files, asked for when somebody
wants to know. The list is kept in the bounded memory, so an old batch is forgotten; its files are not.
"""

from __future__ import annotations

import json
import secrets
from collections import Counter
from dataclasses import dataclass
from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from mygo.api.answering import now_s
from mygo.api.context import Context, body_of, json_response, list_response, tenant_of
from mygo.api.paging import page_of
from mygo.api.schemas.base import parse_query
from mygo.api.schemas.stores import BatchBody, StoreFileListQuery
from mygo.api.service import Attributes, FileCounts, StoreFileView
from mygo.api.store_files import POLL_HEADERS, store_file_json
from mygo.api.stores import counts_json
from mygo.errors import NotFound
from mygo.types import DocId, StoreId, TenantId


@dataclass(frozen=True, slots=True)
class _Batch:
    id: str
    store_id: StoreId
    created_at_s: int
    file_ids: list[DocId]
    cancelled: bool = False


def routes(context: Context) -> APIRouter:
    router = APIRouter(prefix="/v1/vector_stores/{store_id}/file_batches")
    batches = _Batches(context)

    @router.post("")
    async def create(request: Request, store_id: StoreId) -> Response:
        body = await body_of(request, BatchBody)
        tenant, service = tenant_of(request), context.service
        attributes = dict(body.items)
        for file_id in attributes:
            await service.file(tenant, file_id)  # all or none
        for file_id, each in attributes.items():
            await service.attach_file(tenant, store_id, file_id, attributes=cast(Attributes, each))
        batch = _Batch(f"vsfb_{secrets.token_hex(12)}", store_id, now_s(), list(attributes))
        await batches.keep(tenant, batch)
        return json_response(_batch_json(batch, await batches.members(tenant, batch)))

    @router.get("/{batch_id}")
    async def retrieve(request: Request, store_id: StoreId, batch_id: str) -> Response:
        tenant = tenant_of(request)
        batch = await batches.find(tenant, store_id, batch_id)
        members = await batches.members(tenant, batch)
        return json_response(_batch_json(batch, members), headers=POLL_HEADERS)

    @router.get("/{batch_id}/files")
    async def list_files(request: Request, store_id: StoreId, batch_id: str) -> Response:
        tenant = tenant_of(request)
        query = parse_query(StoreFileListQuery, request.query_params)
        members = await batches.members(tenant, await batches.find(tenant, store_id, batch_id))
        chosen = [each for each in members if query.filter in (None, each.status)]
        listing = page_of(chosen, query.page, key=lambda file: file.file_id)
        return list_response([store_file_json(each) for each in listing.items], has_more=listing.has_more)

    @router.post("/{batch_id}/cancel")
    async def cancel(request: Request, store_id: StoreId, batch_id: str) -> Response:
        """Take the files out again that are not yet ingested; what is done stays."""
        tenant = tenant_of(request)
        batch = await batches.find(tenant, store_id, batch_id)
        for file in await batches.members(tenant, batch):
            if file.status == "in_progress":
                await context.service.detach_file(tenant, store_id, file.file_id)
        batch = _Batch(batch.id, batch.store_id, batch.created_at_s, batch.file_ids, cancelled=True)
        await batches.keep(tenant, batch)
        return json_response(_batch_json(batch, await batches.members(tenant, batch)))

    return router


class _Batches:
    def __init__(self, context: Context) -> None:
        self._context = context

    async def keep(self, tenant: TenantId, batch: _Batch) -> None:
        value = [batch.id, batch.store_id, batch.created_at_s, batch.file_ids, batch.cancelled]
        await self._context.memory.remember(tenant, _key(batch.id), json.dumps(value).encode())

    async def find(self, tenant: TenantId, store_id: StoreId, batch_id: str) -> _Batch:
        value = await self._context.memory.recall(tenant, _key(batch_id))
        batch = _Batch(*json.loads(value)) if value is not None else None
        if batch is None or batch.store_id != store_id:
            raise NotFound(
                f"file batch {batch_id[:80]!r} is not known in vector store {store_id[:80]!r}: batches are "
                "remembered for a while only; list the store's files",
                param="batch_id",
            )
        return batch

    async def members(self, tenant: TenantId, batch: _Batch) -> list[StoreFileView]:
        """The batch's files that are still in the store."""
        try:
            files = await self._context.service.find_store_files(tenant, batch.store_id, batch.file_ids)
        except NotFound:  # the store itself is gone
            return []
        return list(files)


def _key(batch_id: str) -> str:
    return f"batch:{batch_id}"


def _batch_json(batch: _Batch, members: list[StoreFileView]) -> dict[str, Any]:
    by_status = Counter(file.status for file in members)
    counts = FileCounts(
        in_progress=by_status["in_progress"],
        completed=by_status["completed"],
        failed=by_status["failed"],
        # A member that is gone was taken out of the store: by cancelling, or by hand.
        cancelled=by_status["cancelled"] + len(batch.file_ids) - len(members),
    )
    status = "cancelled" if batch.cancelled else "in_progress" if counts.in_progress else "completed"
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": batch.created_at_s,
        "vector_store_id": batch.store_id,
        "status": status,
        "file_counts": counts_json(counts),
    }
