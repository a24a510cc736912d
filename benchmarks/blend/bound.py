"""PURE. The least that a trace lets anybody compute: exact prefixes first, then chunks, at a given repair."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from mygo.blend.cfo import repair_tokens
from mygo.workloads.trace import TextId, Trace, TraceRequest


@dataclass(slots=True)
class Clairvoyant:
    """A store of documents that gives up first what is used last (Belady 1966), or never: no replacement has
    fewer misses where documents are equally long. It may pass a document by."""

    capacity_tokens: float
    uses: dict[TextId, list[int]]
    """Requests that use each document, the next one last."""
    held: dict[TextId, int] = field(default_factory=dict)
    """With their tokens."""
    used_tokens: int = 0

    def use(self, text: TextId, tokens: int, request: int) -> bool:
        """Whether it was held; it is from now on, if that is best."""
        coming = self.uses[text]
        while coming and coming[-1] <= request:
            coming.pop()
        if text in self.held:
            return True
        self.held[text] = tokens
        self.used_tokens += tokens
        while self.used_tokens > self.capacity_tokens:
            self.used_tokens -= self.held.pop(max(self.held, key=self._next_use))
        return False

    def _next_use(self, text: TextId) -> float:
        coming = self.uses[text]
        return coming[-1] if coming else math.inf


def least_computed_tokens(
    trace: Trace, counted: Sequence[TraceRequest], *, chunk_tokens: float, alpha: float, floor_tokens: int
) -> int:
    """Prompt tokens that ``counted`` requests, the last ones of ``trace``, must have computed.

    Everything that a prompt shares with an earlier one from its first token on is cached, whatever memory
    that takes; of other documents ``chunk_tokens`` are held by a clairvoyant store, and a document's repair
    is what the planner takes for one that has no neighbour in common with its birth.
    """
    uses: dict[TextId, list[int]] = defaultdict(list)
    for request in reversed(trace.requests):
        for name in dict.fromkeys(request.documents):
            uses[_content(trace, name)].append(request.number)
    store = Clairvoyant(chunk_tokens, uses)
    seen: set[tuple[TextId, ...]] = set()
    first = counted[0].number
    computed = 0
    for request in trace.requests:
        path: tuple[TextId, ...] = ()
        is_cached, tokens = True, request.question_tokens
        for name in (request.system, *request.documents, *request.history):
            path = (*path, name)
            is_cached = is_cached and path in seen
            seen.add(path)
            length = trace.texts[name].tokens
            is_held = name in request.documents and store.use(_content(trace, name), length, request.number)
            if not is_cached:
                tokens += repair_tokens(alpha, length, floor_tokens) if is_held else length
        computed += tokens if request.number >= first else 0
    return computed


def _content(trace: Trace, name: TextId) -> TextId:
    return trace.texts[name].copy_of or name
