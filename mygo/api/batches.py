"""File batches: several files put into a store with one call."""

from __future__ import annotations

from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from mygo.api.context import Context, body_of, json_response, list_response, tenant_of
from mygo.api.schemas.base import parse_query
from mygo.api.schemas.stores import BatchBody, StoreFileListQuery
from mygo.api.service import Attributes, BatchView
from mygo.api.store_files import POLL_HEADERS, store_file_json
from mygo.api.stores import counts_json
from mygo.types import StoreId


def routes(context: Context) -> APIRouter:
    router = APIRouter(prefix="/v1/vector_stores/{store_id}/file_batches")

    @router.post("")
    async def create(request: Request, store_id: StoreId) -> Response:
        body = await body_of(request, BatchBody)
        files = [(file_id, cast(Attributes, attributes)) for file_id, attributes in body.items]
        batch = await context.service.create_batch(tenant_of(request), store_id, files)
        return json_response(_batch_json(batch))

    @router.get("/{batch_id}")
    async def retrieve(request: Request, store_id: StoreId, batch_id: str) -> Response:
        batch = await context.service.batch(tenant_of(request), store_id, batch_id)
        return json_response(_batch_json(batch), headers=POLL_HEADERS)

    @router.get("/{batch_id}/files")
    async def list_files(request: Request, store_id: StoreId, batch_id: str) -> Response:
        query = parse_query(StoreFileListQuery, request.query_params)
        listing = await context.service.batch_files(
            tenant_of(request), store_id, batch_id, query.page, status=query.filter
        )
        return list_response([store_file_json(each) for each in listing.items], has_more=listing.has_more)

    @router.post("/{batch_id}/cancel")
    async def cancel(request: Request, store_id: StoreId, batch_id: str) -> Response:
        batch = await context.service.cancel_batch(tenant_of(request), store_id, batch_id)
        return json_response(_batch_json(batch))

    return router


def _batch_json(batch: BatchView) -> dict[str, Any]:
    status = "in_progress" if batch.counts.in_progress else "completed"
    return {
        "id": batch.id,
        "object": "vector_store.files_batch",
        "created_at": batch.created_at_s,
        "vector_store_id": batch.store_id,
        "status": "cancelled" if batch.cancelled else status,
        "file_counts": counts_json(batch.counts),
    }
