"""What running decodes notice of a prompt: the gaps between their tokens while it is prefilled.

Streams decode all the time. In turn comes a prompt of documents that are kept as chunks, to be blended, one
of documents that the engine has never seen, to be computed, and none; every other round the other way around.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.chunk_prefill.prompts import Asked, Prompts
from benchmarks.shipped_engine import generated, shipped_engine, ttft_s
from mygo.config import ModelConfig
from mygo.vllm_plugin.settings import ChunkSettings

STREAM_PROMPT_TOKENS = 64
WINDOW_MARGIN = 1.25
"""A window is so much longer than computing the first prompt took."""


@dataclass
class Noticed:
    """Of one kind of prompt: everything that happened in windows of equal length from its arrival on."""

    gaps_s: list[float] = field(default_factory=list)
    """Between two tokens of a stream, where the second one came within a window."""
    longest_s: list[float] = field(default_factory=list)
    """The longest gap of each window."""
    ttft_s: list[float] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Shape:
    documents: int
    tokens: int
    """Of each document."""
    streams: int
    rounds: int
    repair_share: float


def measure(model: Path, prompts: Prompts, shape: Shape) -> dict[str, Noticed]:
    """Noticed by kind: ``idle`` (nothing comes), ``blended``, ``computed``."""
    return asyncio.run(_measure(model, prompts, shape))


async def _measure(model: Path, prompts: Prompts, shape: Shape) -> dict[str, Noticed]:
    chunks = ChunkSettings(host_bytes=2**30, repair_share=shape.repair_share)
    async with shipped_engine(model, chunks=chunks) as llm:
        return await _Beside(llm, prompts, shape).run()


class _Beside:
    def __init__(self, llm: Any, prompts: Prompts, shape: Shape) -> None:
        self._llm, self._prompts, self._shape = llm, prompts, shape
        self._context_tokens = ModelConfig().max_context_tokens
        self._gaps: list[tuple[float, float]] = []
        """When a stream's token came, and after how many seconds."""
        self._came = asyncio.Event()
        """There are some."""

    async def run(self) -> dict[str, Noticed]:
        window_s = WINDOW_MARGIN * await self._warm_up()
        noticed = {kind: Noticed() for kind in ("idle", "blended", "computed")}
        streams = [asyncio.create_task(self._stream(name)) for name in range(self._shape.streams)]
        try:
            for number in range(self._shape.rounds):
                turns = list(noticed)
                for kind in turns if number % 2 else turns[::-1]:
                    await self._window(kind, window_s, noticed[kind])
        finally:
            for stream in streams:
                stream.cancel()
            ended = await asyncio.gather(*streams, return_exceptions=True)
        for problem in ended:
            if isinstance(problem, Exception):
                raise problem
        return noticed

    async def _warm_up(self) -> float:
        """Seconds until the first token of a computed prompt beside the streams, the first steps paid for."""
        streams = [asyncio.create_task(self._stream(-1 - name)) for name in range(self._shape.streams)]
        await self._ttft_s(await self._prompt("blended"))
        computed_s = await self._ttft_s(await self._prompt("computed"))
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)
        return computed_s

    async def _prompt(self, kind: str) -> Asked:
        documents = [self._prompts.document(self._shape.tokens) for _ in range(self._shape.documents)]
        if kind == "computed":
            return self._prompts.asked(documents)
        for document in documents:
            await self._ttft_s(self._prompts.kept(document))
        return self._prompts.asked(documents, reuse="blend")

    async def _window(self, kind: str, window_s: float, noticed: Noticed) -> None:
        asked = None if kind == "idle" else await self._prompt(kind)
        self._gaps.clear()
        self._came.clear()
        began_s = time.perf_counter()
        if asked is not None:
            noticed.ttft_s.append(await self._ttft_s(asked))
        await asyncio.sleep(max(0.0, began_s + window_s - time.perf_counter()))
        await self._came.wait()  # a window shorter than a step has the gap that it lies in
        first_s = self._gaps[0][0]
        gaps_s = [gap_s for at_s, gap_s in self._gaps if at_s < began_s + window_s or at_s == first_s]
        noticed.gaps_s += gaps_s
        noticed.longest_s.append(max(gaps_s))

    async def _stream(self, name: int) -> None:
        """Decode for ever, one request after the other."""
        while True:
            before_s = 0.0
            ids = self._prompts.document(STREAM_PROMPT_TOKENS)
            async for _ in generated(
                self._llm, _unique(f"stream{name}"), ids, self._context_tokens - len(ids)
            ):
                now_s = time.perf_counter()
                if before_s:
                    self._gaps.append((now_s, now_s - before_s))
                    self._came.set()
                before_s = now_s

    async def _ttft_s(self, asked: Asked) -> float:
        return await ttft_s(self._llm, _unique("prompt"), asked.token_ids, asked.kv_transfer_params)


def _unique(name: str) -> str:
    return f"{name}-{time.monotonic_ns()}"
