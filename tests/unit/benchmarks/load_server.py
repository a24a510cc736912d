"""A server that answers as a test tells it to, over real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

Answer = Callable[[asyncio.StreamWriter, bytes, str], Awaitable[None]]
"""Writes an answer, told the request's body and path."""

STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"


def event(content: str = "", finish: str | None = None, **extra: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": content} if content else {}, "finish_reason": finish}
    return b"data: " + json.dumps({"choices": [choice], **extra}).encode() + b"\n\n"


def last() -> bytes:
    account = {
        "worker": "w1",
        "usage": {"cached_tokens": {"device": 64, "host": 0, "disk": 0}},
    }
    usage = {"prompt_tokens": 100, "completion_tokens": 2}
    return (
        b"data: " + json.dumps({"choices": [], "usage": usage, "mygo": account}).encode()
        + b"\n\ndata: [DONE]\n\n"
    )  # fmt: skip


def error(code: str) -> bytes:
    return b"data: " + json.dumps({"error": {"message": "ask again", "code": code}}).encode() + b"\n\n"


def sends(*parts: bytes) -> Answer:
    async def answer(writer: asyncio.StreamWriter, _: bytes, __: str) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(0.02)

    return answer


def status(status: int) -> Answer:
    body = json.dumps({"error": {"message": "busy", "code": "unavailable"}}).encode()
    head = f"HTTP/1.1 {status} No\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n".encode()
    return sends(head + body)


async def hang(writer: asyncio.StreamWriter, _: bytes, __: str) -> None:
    writer.write(STREAM + event("a"))
    await writer.drain()
    await asyncio.sleep(5.0)


@contextlib.asynccontextmanager
async def server(answer: Answer) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(
                (
                    int(line.split(b":")[1])
                    for line in head.splitlines()
                    if line.lower().startswith(b"content-l")
                ),
                0,
            )
            await answer(writer, await reader.readexactly(length), head.split()[1].decode())
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        listening.close()
