"""An answer tells exactly once how it ended, whatever happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from mygo.errors import WorkerLost
from mygo.serve.answer_stream import AnswerStream, Outcome
from mygo.types import TokenDelta

WORDS = [TokenDelta("a", (1,)), TokenDelta("b", (2, 3), finish_reason="stop")]


class Source:
    """A generation that yields what it was given, then raises."""

    def __init__(self, deltas: list[TokenDelta], error: Exception | None = None) -> None:
        self._deltas = list(deltas)
        self._error = error
        self.closed = False

    async def __anext__(self) -> TokenDelta:
        if self._deltas:
            return self._deltas.pop(0)
        raise self._error or StopAsyncIteration

    async def aclose(self) -> None:
        self.closed = True


def _stream(source: Source) -> tuple[AnswerStream, list[tuple[Outcome, str, Sequence[int]]]]:
    ends: list[tuple[Outcome, str, Sequence[int]]] = []
    generation: Any = source
    return AnswerStream(generation, lambda *end: ends.append(end)), ends


async def _drain(stream: AnswerStream) -> str:
    return "".join([delta.text async for delta in stream])


def test_stream_tells_text_and_ids_when_it_finishes() -> None:
    async def run() -> None:
        stream, ends = _stream(Source(WORDS))
        assert await _drain(stream) == "ab"
        await stream.aclose()
        assert ends == [(Outcome.FINISHED, "ab", [1, 2, 3])]

    asyncio.run(run())


def test_stream_is_abandoned_when_closed_before_its_first_token() -> None:
    async def run() -> None:
        source = Source(WORDS)
        stream, ends = _stream(source)
        await stream.aclose()
        assert source.closed
        assert ends == [(Outcome.ABANDONED, "", [])]

    asyncio.run(run())


def test_stream_is_cut_when_the_worker_dies_in_the_middle() -> None:
    async def run() -> None:
        stream, ends = _stream(Source(WORDS[:1], WorkerLost("gone")))
        with pytest.raises(WorkerLost):
            await _drain(stream)
        await stream.aclose()
        assert ends == [(Outcome.CUT, "a", [1])]

    asyncio.run(run())


def test_stream_is_cut_when_it_ends_without_a_finish_reason() -> None:
    async def run() -> None:
        stream, ends = _stream(Source(WORDS[:1]))
        await _drain(stream)
        assert ends == [(Outcome.CUT, "a", [1])]

    asyncio.run(run())
