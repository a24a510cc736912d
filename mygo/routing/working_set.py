"""How much each worker is asked to keep: distinct tokens in what was sent to it of late.

Denning's working set (CACM 11(5), 1968) per worker, over segments. The directory says what a worker
holds now; once every cache is full that is the same everywhere, while a worker whose working set is
smaller than its cache can take another document without losing one.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

from mygo.types import PathStep, SegmentKey, WorkerId


@dataclass(slots=True)
class _Window:
    requests: int = 0
    tokens: int = 0
    segments: OrderedDict[SegmentKey, tuple[int, int]] = field(default_factory=OrderedDict)
    """Tokens, and the number of the request that named it last; least recently named first."""


class WorkingSets:
    """Working sets of all workers that were sent something; each over its own last ``window`` requests."""

    def __init__(self, window: int) -> None:
        self._window = window
        self._workers: dict[WorkerId, _Window] = {}

    def __repr__(self) -> str:
        tokens = ", ".join(f"{worker}: {each.tokens}" for worker, each in self._workers.items())
        return f"<WorkingSets {{{tokens}}} tokens>"

    def tokens_with(self, worker: WorkerId, path: Sequence[PathStep]) -> int:
        """The size that the worker's set would have with this path in it."""
        known = self._workers.get(worker)
        if known is None:
            return sum(step.end_tokens - step.start_tokens for step in path)
        return known.tokens + sum(
            step.end_tokens - step.start_tokens for step in path if step.key not in known.segments
        )

    def sent(self, worker: WorkerId, path: Sequence[PathStep]) -> None:
        """A request with this path went to the worker."""
        known = self._workers.setdefault(worker, _Window())
        known.requests += 1
        for step in path:
            tokens = step.end_tokens - step.start_tokens
            if known.segments.pop(step.key, None) is None:
                known.tokens += tokens
            known.segments[step.key] = (tokens, known.requests)
        while known.segments:
            key, (tokens, last) = next(iter(known.segments.items()))
            if last > known.requests - self._window:
                break
            del known.segments[key]
            known.tokens -= tokens
