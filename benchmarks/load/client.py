"""One streamed request, from due to done: nothing it can meet goes unnamed."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Self

import httpx

from benchmarks.load.samples import Outcome, Sample
from benchmarks.systems.streams import http_client
from mygo.errors import ConfigError

_SHED = frozenset({429, 503})
_MOST_CHARS = 300


@dataclass(slots=True)
class _Seen:
    """What has arrived of one answer."""

    status: int | None = None
    token_times_s: list[float] = field(default_factory=list)
    finished: bool = False
    error: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    account: dict[str, Any] = field(default_factory=dict)

    def add(self, event: dict[str, Any], now_s: float) -> None:
        if failure := event.get("error"):
            self.error = f"{failure.get('code') or failure.get('type')}: {failure.get('message')}"
        for choice in event.get("choices", ()):
            if choice["delta"].get("content"):
                self.token_times_s.append(now_s)
            self.finished = self.finished or choice.get("finish_reason") is not None
        self.usage = event.get("usage") or self.usage
        self.account = event.get("mygo") or self.account

    @property
    def outcome(self) -> Outcome:
        """Of an answer that has come to its end."""
        if self.status != 200:
            assert self.status is not None
            if self.status in _SHED:
                return Outcome.SHED
            return Outcome.REFUSED if 400 <= self.status < 500 else Outcome.FAILED
        if self.error:
            return Outcome.CUT if self.token_times_s else Outcome.EARLY
        return Outcome.OK if self.finished else Outcome.BROKEN


class LoadClient:
    """Asks one cluster. Use as ``async with LoadClient(...) as client``."""

    def __init__(self, url: str, *, api_key: str | None, timeout_s: float) -> None:
        """``timeout_s``: how long one request may take in all."""
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json"}
        if api_key:
            self._headers["Authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s
        self._http = http_client()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def get(self, path: str) -> dict[str, Any]:
        """The JSON at ``path``. Raises ConfigError with the server's words if there is none."""
        try:
            answer = await self._http.get(f"{self._url}{path}", headers=self._headers, timeout=30.0)
            if answer.status_code != 200:
                raise ConfigError(
                    f"{self._url}{path} answered {answer.status_code}: {answer.text[:_MOST_CHARS]}; "
                    "is this a MyGO cluster, and the --api-key one of its keys?"
                )
            found: dict[str, Any] = answer.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise ConfigError(f"{self._url}{path}: {_words(error)}; is the cluster up?") from error
        return found

    async def ready(self) -> bool:
        """True if ``/readyz`` says so."""
        try:
            return (await self._http.get(f"{self._url}/readyz", timeout=10.0)).status_code == 200
        except httpx.HTTPError:
            return False

    async def ask(self, body: bytes, *, number: int, step: int, due_s: float, began_s: float) -> Sample:
        """Send ``body`` now and follow the answer to its end; never raises for what the network does.

        ``began_s``: the test's beginning by ``time.perf_counter``.
        """
        sent_s = time.perf_counter() - began_s
        seen = _Seen()
        try:
            async with asyncio.timeout(self._timeout_s):
                outcome = await self._follow(body, seen)
        except TimeoutError:
            outcome, seen.error = Outcome.TIMEOUT, f"not ended after {self._timeout_s:g} s"
        except (httpx.HTTPError, ValueError) as error:
            outcome = Outcome.BROKEN if seen.status == 200 else Outcome.UNREACHABLE
            seen.error = _words(error)
        ended_s = time.perf_counter() - began_s
        times_s = [each - began_s for each in seen.token_times_s]
        return Sample(
            number=number,
            step=step,
            due_s=round(due_s, 5),
            sent_s=round(sent_s, 5),
            ended_s=round(ended_s, 5),
            outcome=outcome,
            ttft_s=round(times_s[0] - due_s, 5) if times_s else None,
            itl_s=tuple(round(b - a, 5) for a, b in pairwise(times_s)),
            prompt_tokens=seen.usage.get("prompt_tokens", 0),
            cached_tokens=_cached(seen),
            output_tokens=seen.usage.get("completion_tokens", 0),
            worker=seen.account.get("worker", ""),
            status=seen.status,
            error=seen.error[:_MOST_CHARS],
        )

    async def _follow(self, body: bytes, seen: _Seen) -> Outcome:
        url = f"{self._url}/v1/chat/completions"
        async with self._http.stream("POST", url, content=body, headers=self._headers) as response:
            seen.status = response.status_code
            if seen.status != 200:
                seen.error = (await response.aread()).decode(errors="replace")
                return seen.outcome
            async for line in response.aiter_lines():
                if line.startswith("data: ") and line != "data: [DONE]":
                    seen.add(json.loads(line[6:]), time.perf_counter())
        return seen.outcome


def _cached(seen: _Seen) -> dict[str, int]:
    tiers: dict[str, int] = seen.account.get("usage", {}).get("cached_tokens", {})
    return {tier: tokens for tier, tokens in tiers.items() if tokens}


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")
