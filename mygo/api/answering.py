"""How an answer leaves: ask the service, then stream events or send one document.

Every token passes here, so this is written against ASGI directly: one message per delta, no task, queue
or thread per token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Protocol

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from mygo.api import errors
from mygo.api.edge import ClientGone
from mygo.api.record import Record
from mygo.api.service import Answer, AnswerRequest, Service
from mygo.errors import Unavailable, WorkerLost
from mygo.types import TenantId, TokenDelta

_log = logging.getLogger(__name__)

_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Renderer(Protocol):
    """Turns one answer into bytes of a wire format."""

    def begin(self, record: Record) -> bytes:
        """Events before the first token."""
        ...

    def delta(self, delta: TokenDelta) -> bytes:
        """Events of one step; empty if there is nothing to tell."""
        ...

    def end(self, record: Record) -> bytes:
        """Events after the last token."""
        ...

    def failed(self, error: errors.ErrorView) -> bytes:
        """Events that end a stream which cannot go on."""
        ...

    def document(self, record: Record) -> bytes:
        """The whole answer as one JSON document, for requests that do not stream."""
        ...


class AnswerResponse(Response):
    """Runs one answer from request to last byte, and aborts it if the client leaves.

    ``completed`` is awaited with the finished record before the last bytes leave, so that whoever has
    seen the end of an answer can refer to it.
    """

    def __init__(
        self,
        service: Service,
        tenant: TenantId,
        request: AnswerRequest,
        renderer: Renderer,
        *,
        stream: bool,
        timeout_s: float,
        completed: Callable[[Record], Awaitable[None]] | None = None,
    ) -> None:
        self._service = service
        self._tenant = tenant
        self._request = request
        self._renderer = renderer
        self._stream = stream
        self._timeout_s = timeout_s
        self._completed = completed
        self.background = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started_s: float = scope["state"]["started_s"]
        deadline = asyncio.get_running_loop().time() + self._timeout_s
        try:
            async with cancelled_on_disconnect(receive), asyncio.timeout_at(deadline):
                answer = await self._service.answer(self._tenant, self._request)
        except TimeoutError:
            raise self._too_late() from None
        record = Record(answer.head, self._request.document_order, started_s)
        deliver = self._send_stream if self._stream else self._send_document
        # A second scope, so that closing lies outside: a disconnect must not cancel the abort it asks for.
        async with contextlib.aclosing(answer.deltas), cancelled_on_disconnect(receive):
            await deliver(answer, record, deadline, send)

    async def _send_document(self, answer: Answer, record: Record, deadline: float, send: Send) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                async for delta in answer.deltas:
                    record.add(delta)
        except TimeoutError:
            raise self._too_late() from None
        self._check_finished(record)
        if self._completed is not None:
            await self._completed(record)
        body = self._renderer.document(record)
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _send_stream(self, answer: Answer, record: Record, deadline: float, send: Send) -> None:
        renderer = self._renderer
        await send({"type": "http.response.start", "status": 200, "headers": list(_STREAM_HEADERS)})
        # The opening events wait for the first token's: one message in place of two.
        pending = renderer.begin(record)
        try:
            async with asyncio.timeout_at(deadline):
                async for delta in answer.deltas:
                    record.add(delta)
                    pending += renderer.delta(delta)
                    if pending and delta.finish_reason is None:
                        await send({"type": "http.response.body", "body": pending, "more_body": True})
                        pending = b""
            self._check_finished(record)
            if self._completed is not None:
                await self._completed(record)
            pending += renderer.end(record)
        except Exception as error:
            cause = self._too_late() if isinstance(error, TimeoutError) else error
            if errors.is_bug(cause):
                _log.exception("%s: the stream failed", self._request.request_id)
            pending += renderer.failed(errors.view(cause, self._request.request_id))
        await send({"type": "http.response.body", "body": pending})

    def _check_finished(self, record: Record) -> None:
        if record.finish_reason is None:
            raise WorkerLost(
                f"worker {record.head.route.worker} stopped before the answer was complete; ask again"
            )

    def _too_late(self) -> Unavailable:
        return Unavailable(
            f"no complete answer within {self._timeout_s:g} s (http.request_timeout_s): "
            "ask for fewer tokens, or retry when the load is lower"
        )


@contextlib.asynccontextmanager
async def cancelled_on_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel the enclosed work when the client closes the connection; then raise ClientGone.

    The request body must have been read.
    """
    work = asyncio.current_task()
    assert work is not None
    gone = False

    def on_listened(listener: asyncio.Task[None]) -> None:
        nonlocal gone
        if not listener.cancelled():
            listener.exception()  # a connection that fails is as gone as one that is closed
            gone = True
            work.cancel()

    listener = asyncio.create_task(_until_disconnect(receive))
    listener.add_done_callback(on_listened)
    try:
        yield
    except asyncio.CancelledError:
        # Only our own cancellation is ours to swallow: a server that shuts down cancels too.
        if gone and work.uncancel() == 0:
            raise ClientGone from None
        raise
    finally:
        listener.remove_done_callback(on_listened)
        listener.cancel()


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def event(data: dict[str, Any], *, name: str | None = None) -> bytes:
    """One server-sent event."""
    line = f"data: {json.dumps(data, separators=(',', ':'))}\n\n"
    return (f"event: {name}\n{line}" if name else line).encode()


def now_s() -> int:
    """Unix seconds, for ``created``."""
    return int(time.time())
