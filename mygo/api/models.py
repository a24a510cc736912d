"""GET /v1/models: the one model that is served."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from mygo.api.answering import now_s
from mygo.api.context import Context, json_response


def routes(context: Context) -> APIRouter:
    router = APIRouter(prefix="/v1/models")
    model = {
        "id": context.config.model.name,
        "object": "model",
        "created": now_s(),
        "owned_by": "mygo",
        "max_model_len": context.config.model.max_context_tokens,
    }

    @router.get("")
    async def list_() -> Response:
        return json_response({"object": "list", "data": [model]})

    @router.get("/{name:path}")  # names may hold slashes
    async def retrieve(name: str) -> Response:
        context.check_model(name)
        return json_response(model)

    return router
