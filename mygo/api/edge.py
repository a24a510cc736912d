"""What every request passes: request id, tenant, body limit, errors. Pure ASGI, one layer."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import MutableMapping
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mygo.api import errors
from mygo.api.auth import Keyring
from mygo.config import HttpConfig
from mygo.errors import TooLarge
from mygo.types import RequestId

_log = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})
"""Asked by machines that hold no key."""
_DRAIN_S = 5.0
"""How long the rest of a refused body is read and thrown away."""


class ClientGone(Exception):
    """The client closed the connection: there is nobody to answer."""


class Edge:
    """Gives ``scope["state"]`` a ``request_id``, a ``started_s`` (perf_counter) and a ``tenant``.

    Adds ``x-request-id`` to every response and turns every exception into an error body.
    """

    def __init__(self, app: ASGIApp, *, http: HttpConfig) -> None:
        self._app = app
        self._keys = Keyring(http.api_keys)
        self._max_body_bytes = http.max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = RequestId(f"req_{secrets.token_hex(12)}")
        state: MutableMapping[str, Any] = scope.setdefault("state", {})
        state["request_id"] = request_id
        state["started_s"] = time.perf_counter()
        id_header = (b"x-request-id", request_id.encode())
        started = False

        async def send_with_id(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", ()), id_header]
            await send(message)

        body = _LimitedBody(receive, self._max_body_bytes)
        try:
            headers = dict(scope["headers"])
            if scope["path"] not in OPEN_PATHS:
                authorization = headers.get(b"authorization")
                state["tenant"] = self._keys.tenant(
                    authorization.decode("latin-1") if authorization else None
                )
            body.check_declared(headers.get(b"content-length"))
            await self._app(scope, body.receive, send_with_id)
        except (ClientGone, ClientDisconnect):
            _log.debug("%s: the client went away", request_id)
        except Exception as error:
            if errors.is_bug(error):
                _log.exception("%s: %s %s failed", request_id, scope["method"], scope["path"])
            if started:
                raise  # too late for a status: the server closes the connection, which the client notices
            await body.drain()
            await _send_error(send_with_id, errors.view(error, request_id))


class _LimitedBody:
    """Counts the body while it is read, chunked or not, so that no limit depends on a header's honesty."""

    def __init__(self, receive: Receive, max_bytes: int) -> None:
        self._receive = receive
        self._max_bytes = max_bytes
        self._read_bytes = 0
        self._complete = False

    def check_declared(self, content_length: bytes | None) -> None:
        """Refuse a body that announces itself as too large before any of it is read."""
        if content_length is not None and content_length.isdigit() and int(content_length) > self._max_bytes:
            raise self._too_large()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._read_bytes += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._read_bytes > self._max_bytes:
                raise self._too_large()
        return message

    async def drain(self) -> None:
        """Read on for a while, keeping nothing.

        A server that closes on a client which is still sending makes it see a reset connection in
        place of the error.
        """
        try:
            async with asyncio.timeout(_DRAIN_S):
                while not self._complete and self._read_bytes <= 2 * self._max_bytes:
                    message = await self._receive()
                    if message["type"] != "http.request":
                        return
                    self._read_bytes += len(message.get("body", b""))
                    self._complete = not message.get("more_body", False)
        except TimeoutError:
            return

    def _too_large(self) -> TooLarge:
        return TooLarge(
            f"the body is larger than {self._max_bytes} bytes; send less, or raise http.max_body_bytes"
        )


async def _send_error(send: Send, error: errors.ErrorView) -> None:
    body = error.json()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.encode(), value.encode()) for name, value in error.headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
