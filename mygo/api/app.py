"""The wiring of the HTTP face."""

from __future__ import annotations

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mygo.api import batches, chat, files, health, models, responses, store_files, stores
from mygo.api.context import Context, json_response
from mygo.api.edge import Edge
from mygo.api.service import Service
from mygo.config import Config


def create_app(config: Config, service: Service) -> FastAPI:
    """Build the application over ``service``, which may answer Unavailable until it is ready."""
    # The interface is OpenAI's and documented by them; bodies are parsed by hand, so a generated
    # description would be empty.
    app = FastAPI(title="MyGO", openapi_url=None, redirect_slashes=False)
    app.add_middleware(Edge, http=config.http)
    app.add_exception_handler(HTTPException, _routing_error)
    context = Context(config, service)
    for room in (chat, responses, batches, store_files, stores, files, models, health):
        app.include_router(room.routes(context))
    return app


async def _routing_error(request: Request, error: Exception) -> Response:
    """404 and 405 of the router, in the shape of all other errors."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    if error.status_code == 405:
        message = f"{request.method} is not offered on {path}"
    elif error.status_code == 404:
        message = f"there is nothing at {path}; the interface begins at /v1 (say, /v1/models)"
    else:
        message = str(error.detail)
    body = {"message": message, "type": "invalid_request_error", "param": None, "code": "unknown_url"}
    return json_response({"error": body}, status=error.status_code, headers=error.headers)
