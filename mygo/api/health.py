"""/healthz, /readyz and /metrics: for machines, without a key."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import Response

from mygo.api.context import Context, json_response
from mygo.api.service import Readiness
from mygo.errors import Unavailable


def routes(context: Context) -> APIRouter:
    router = APIRouter()

    @router.get("/healthz")
    async def healthz() -> Response:
        """The process answers. Says nothing about what lies behind it."""
        return json_response({"status": "ok"})

    @router.get("/readyz")
    async def readyz() -> Response:
        """200 once questions can be answered; 503 with what is missing until then."""
        try:
            readiness = await context.service.readiness()
        except Unavailable as error:
            readiness = Readiness(missing=(str(error),))
        return json_response(
            {
                "ready": readiness.ready,
                "missing": list(readiness.missing),
                "detail": dict(readiness.detail),
            },
            status=200 if readiness.ready else 503,
        )

    @router.get("/metrics")
    async def metrics() -> Response:
        text = await context.service.metrics_text()
        return Response(text, media_type="text/plain; version=0.0.4")

    return router
