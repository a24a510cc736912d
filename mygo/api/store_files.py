"""Files as members of a vector store."""

from __future__ import annotations

from typing import Any, cast

from fastapi import APIRouter, Request
from starlette.responses import Response

from mygo.api.context import Context, body_of, json_response, list_response, tenant_of
from mygo.api.schemas.base import parse_query
from mygo.api.schemas.stores import AttachBody, StoreFileListQuery, StoreFileUpdateBody
from mygo.api.service import Attributes, StoreFileView
from mygo.types import DocId, StoreId

POLL_HEADERS = {"openai-poll-after-ms": "200"}
"""How soon the official client's ``*_and_poll`` helpers ask again; their default is a second."""


def routes(context: Context) -> APIRouter:
    router = APIRouter(prefix="/v1/vector_stores/{store_id}/files")

    @router.post("")
    async def create(request: Request, store_id: StoreId) -> Response:
        body = await body_of(request, AttachBody)
        file = await context.service.attach_file(
            tenant_of(request), store_id, body.file_id, attributes=cast(Attributes, body.attributes or {})
        )
        return json_response(store_file_json(file))

    @router.get("")
    async def list_(request: Request, store_id: StoreId) -> Response:
        query = parse_query(StoreFileListQuery, request.query_params)
        listing = await context.service.store_files(
            tenant_of(request), store_id, query.page, status=query.filter
        )
        return list_response([store_file_json(each) for each in listing.items], has_more=listing.has_more)

    @router.get("/{file_id}")
    async def retrieve(request: Request, store_id: StoreId, file_id: DocId) -> Response:
        file = await context.service.store_file(tenant_of(request), store_id, file_id)
        return json_response(store_file_json(file), headers=POLL_HEADERS)

    @router.post("/{file_id}")
    async def update(request: Request, store_id: StoreId, file_id: DocId) -> Response:
        body = await body_of(request, StoreFileUpdateBody)
        attributes = cast(Attributes, body.attributes or {})
        file = await context.service.update_store_file(
            tenant_of(request), store_id, file_id, attributes=attributes
        )
        return json_response(store_file_json(file))

    @router.get("/{file_id}/content")
    async def content(request: Request, store_id: StoreId, file_id: DocId) -> Response:
        texts = await context.service.store_file_texts(tenant_of(request), store_id, file_id)
        return json_response(
            {
                "object": "vector_store.file_content.page",
                "data": [{"type": "text", "text": text} for text in texts],
                "has_more": False,
                "next_page": None,
            }
        )

    @router.delete("/{file_id}")
    async def delete(request: Request, store_id: StoreId, file_id: DocId) -> Response:
        await context.service.detach_file(tenant_of(request), store_id, file_id)
        return json_response({"id": file_id, "object": "vector_store.file.deleted", "deleted": True})

    return router


def store_file_json(file: StoreFileView) -> dict[str, Any]:
    error = None
    if file.status == "failed":
        error = {"code": file.error_code, "message": file.error or "ingest failed; see the server's log"}
    return {
        "id": file.file_id,
        "object": "vector_store.file",
        "created_at": file.created_at_s,
        "vector_store_id": file.store_id,
        "status": file.status,
        "usage_bytes": file.usage_bytes,
        "attributes": dict(file.attributes),
        "last_error": error,
    }
