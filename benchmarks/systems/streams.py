"""Server-sent events over HTTP, with the time at which each of them arrived."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx

TIMEOUT_S = 1800.0
"""A queue of cold prompts on a CPU is minutes long."""


def http_client() -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=64)
    return httpx.AsyncClient(timeout=TIMEOUT_S, limits=limits, trust_env=False)


async def events(
    client: httpx.AsyncClient, url: str, body: Mapping[str, Any], headers: Mapping[str, str]
) -> AsyncIterator[tuple[float, dict[str, Any]]]:
    """(arrival by ``time.perf_counter``, event) of a streamed answer, without the closing ``[DONE]``.

    Raises RuntimeError with the server's words for an HTTP status, or an event, that reports an error.
    """
    async with client.stream("POST", url, json=body, headers=headers) as response:
        if response.status_code != 200:
            text = (await response.aread()).decode(errors="replace")
            raise RuntimeError(f"{url} answered {response.status_code}: {text[:1000]}")
        async for line in response.aiter_lines():
            arrived_s = time.perf_counter()
            if not line.startswith("data: ") or line == "data: [DONE]":
                continue
            event: dict[str, Any] = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(f"{url} broke off: {json.dumps(event['error'])[:1000]}")
            yield arrived_s, event
