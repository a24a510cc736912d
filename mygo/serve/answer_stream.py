"""One answer on its way to the client, and how it ended."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from enum import StrEnum

from mygo.serve.dispatch import Generating
from mygo.types import TokenDelta


class Outcome(StrEnum):
    """How a request for an answer ended; the label of ``metrics.REQUESTS``."""

    FINISHED = "finished"
    ABANDONED = "abandoned"
    """The client went away, or closed the stream."""
    CUT = "cut"
    """It failed after it had begun."""
    REFUSED = "refused"
    """The request was wrong."""
    FAILED = "failed"
    """It failed before it began, though nothing was wrong with it."""


class AnswerStream:
    """Passes a generation on, and tells ``ended`` once how it ended: (outcome, text, token ids)."""

    def __init__(self, generation: Generating, ended: Callable[[Outcome, str, Sequence[int]], None]) -> None:
        self._generation = generation
        self._ended: Callable[[Outcome, str, Sequence[int]], None] | None = ended
        self._text: list[str] = []
        self._ids: list[int] = []

    def __aiter__(self) -> AsyncIterator[TokenDelta]:
        return self

    async def __anext__(self) -> TokenDelta:
        try:
            delta = await anext(self._generation)
        except StopAsyncIteration:
            self._end(Outcome.CUT)  # unless the last delta ended it already
            raise
        except Exception:
            self._end(Outcome.CUT)
            raise
        self._text.append(delta.text)
        self._ids.extend(delta.token_ids)
        if delta.finish_reason is not None:
            self._end(Outcome.FINISHED)
        return delta

    async def aclose(self) -> None:
        self._end(Outcome.ABANDONED)
        await self._generation.aclose()

    def _end(self, outcome: Outcome) -> None:
        if self._ended is not None:
            ended, self._ended = self._ended, None
            ended(outcome, "".join(self._text), self._ids)
