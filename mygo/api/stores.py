"""Vector stores: create, list, retrieve, update, delete, search."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from mygo.api.context import Context, body_of, json_response, list_response, tenant_of
from mygo.api.schemas.base import parse_query
from mygo.api.schemas.stores import ListQuery, SearchBody, StoreBody, StoreUpdateBody
from mygo.api.service import FileCounts, Hit, StoreView
from mygo.errors import TooLarge
from mygo.types import StoreId


def routes(context: Context) -> APIRouter:
    router = APIRouter(prefix="/v1/vector_stores")

    @router.post("")
    async def create(request: Request) -> Response:
        body = await body_of(request, StoreBody)
        store = await context.service.create_store(
            tenant_of(request),
            name=body.name or "",
            metadata=body.metadata or {},
            public=body.domain == "public",
            reuse=context.reuse(body.reuse) if body.reuse else None,
            file_ids=list(dict.fromkeys(body.file_ids or ())),
        )
        return json_response(store_json(store))

    @router.get("")
    async def list_(request: Request) -> Response:
        query = parse_query(ListQuery, request.query_params)
        listing = await context.service.stores(tenant_of(request), query.page)
        return list_response([store_json(each) for each in listing.items], has_more=listing.has_more)

    @router.get("/{store_id}")
    async def retrieve(request: Request, store_id: StoreId) -> Response:
        return json_response(store_json(await context.service.store(tenant_of(request), store_id)))

    @router.post("/{store_id}")
    async def update(request: Request, store_id: StoreId) -> Response:
        body = await body_of(request, StoreUpdateBody)
        store = await context.service.update_store(
            tenant_of(request),
            store_id,
            name=body.name,
            metadata=body.metadata,
            reuse=context.reuse(body.reuse) if body.reuse else None,
        )
        return json_response(store_json(store))

    @router.delete("/{store_id}")
    async def delete(request: Request, store_id: StoreId) -> Response:
        await context.service.delete_store(tenant_of(request), store_id)
        return json_response({"id": store_id, "object": "vector_store.deleted", "deleted": True})

    @router.post("/{store_id}/search")
    async def search(request: Request, store_id: StoreId) -> Response:
        body = await body_of(request, SearchBody)
        query = "\n".join(body.query)
        if len(query) > context.config.http.max_message_chars:
            raise TooLarge(
                f"query: {len(query)} characters are more than the "
                f"{context.config.http.max_message_chars} allowed; shorten it",
                param="query",
            )
        retrieval = context.retrieval(
            (store_id,),
            top_k=context.top_k(body.max_num_results, param="max_num_results"),
            filters=body.filters,
            ranking=body.ranking_options,
        )
        result = await context.service.search(tenant_of(request), query, retrieval)
        return json_response(
            {
                "object": "vector_store.search_results.page",
                "search_query": body.query,
                "data": [_hit_json(hit) for hit in result.hits],
                "has_more": False,
                "next_page": None,
                "mygo": {"degraded": list(result.degraded)},
            }
        )

    return router


def store_json(store: StoreView) -> dict[str, Any]:
    return {
        "id": store.id,
        "object": "vector_store",
        "created_at": store.created_at_s,
        "name": store.name,
        "usage_bytes": store.usage_bytes,
        "file_counts": counts_json(store.counts),
        "status": "in_progress" if store.counts.in_progress else "completed",
        "metadata": dict(store.metadata),
        "last_active_at": None,
        "expires_after": None,
        "expires_at": None,
        "domain": "public" if store.public else "tenant",
        "reuse": store.reuse,
    }


def counts_json(counts: FileCounts) -> dict[str, int]:
    return {
        "in_progress": counts.in_progress,
        "completed": counts.completed,
        "failed": counts.failed,
        "cancelled": counts.cancelled,
        "total": counts.in_progress + counts.completed + counts.failed + counts.cancelled,
    }


def _hit_json(hit: Hit) -> dict[str, Any]:
    return {
        "file_id": hit.document_id,
        "filename": hit.filename,
        "score": hit.score,
        "attributes": dict(hit.attributes),
        "content": [{"type": "text", "text": hit.text}],
        "chunk": hit.chunk,
        "content_hash": hit.content_hash,
    }
